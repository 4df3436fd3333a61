"""The conditions of a night, galaxy by galaxy, and what they do to an image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from perturbations.core import Observation
from perturbations.defects import damaged, one_visit
from perturbations.detector.cosmic_rays import SEEN, cosmic_rays, tracks
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.light import brighter_sky
from perturbations.optics import along, same_area
from perturbations.psf import Frequencies, broadening, known_psf, through

# log10 of the Fried parameter at Cerro Pachon: spread from night to night and within a night [dex], the stationary
# ones of the two autoregressive series of simsee (Neilsen 2019, LSSTDESC/ObsStrat, fitted to the site's DIMM)
NIGHTLY, WITHIN = 0.084 / math.sqrt(1.0 - 0.2**2), 0.052 / math.sqrt(1.0 - 0.7**2)
SKY, SKY_GROWTH, SKY_WITHIN = 0.2, 3.0, 0.2  # mag, its factor per sigma, and spread within the night [dex]
BRIGHTEST = 5.0  # mag: no moon makes more
CALIBRATION = 0.01  # mag, rms; doubled by each sigma
DRIFT = 0.1  # arcsec; doubled by each sigma
MUONS = 0.017  # cm^-2 s^-1, the flux at sea level: the same in every night


@dataclass(frozen=True, eq=False)
class Muon:
    """One cosmic ray for each galaxy of a batch, or none.

    Parameters
    ----------
    band : (N,) int64, the band whose sensor it crosses, in one visit; -1 where there is none.
    row, column : (N,) where its track starts [pixels from the corner].
    azimuth, length : (N,) its direction [rad; 0 along a row, pi/2 along a column] and its length [pixels].
    charge : (N,) electrons.
    """

    band: torch.Tensor
    row: torch.Tensor
    column: torch.Tensor
    azimuth: torch.Tensor
    length: torch.Tensor
    charge: torch.Tensor


@dataclass(frozen=True, eq=False)
class Conditions:
    """What each galaxy of a batch was observed in.

    Parameters
    ----------
    seeing : (N,) FWHM over that of the image, >= 1.
    sky : (N,) brightening of the sky [mag] >= 0.
    zeropoint : (N, C) error of the calibration [mag].
    drift, direction : (N,) length of the trail [arcsec] and its angle [rad].
    cosmic_rays : rate of hits [cm^-2 s^-1].
    muon : a cosmic ray that is known, beside those of the rate.
    """

    seeing: torch.Tensor
    sky: torch.Tensor
    zeropoint: torch.Tensor
    drift: torch.Tensor
    direction: torch.Tensor
    cosmic_rays: float
    muon: Muon | None = None


def drawn(badness: float, bands: int, draws: Draws) -> Conditions:
    """The conditions of galaxies in a night `badness` standard deviations from a typical one; all float64."""

    def normal(stream: str, shape: tuple[int, ...] = ()) -> torch.Tensor:
        return torch.special.ndtri(draws.uniform(stream, shape).double() + 2.0**-25)

    return in_night(
        badness,
        normal("seeing"),
        normal("sky"),
        normal("zeropoint", (bands,)),
        draws.uniform("drift").double(),
        draws.uniform("direction").double(),
        MUONS,
    )


def in_night(
    badness: float | torch.Tensor,
    seeing: torch.Tensor,
    sky: torch.Tensor,
    zeropoint: torch.Tensor,
    drift: torch.Tensor,
    direction: torch.Tensor,
    rate: float,
) -> Conditions:
    """What these numbers mean: `seeing` (N,), `sky` (N,) and `zeropoint` (N, C) are standard normal, the rest uniform.

    Parameters
    ----------
    badness : of all galaxies, or (N,) of each.
    drift, direction : (N,) in [0, 1].
    rate : of cosmic rays [cm^-2 s^-1].
    """
    return Conditions(
        seeing=torch.pow(10.0, NIGHTLY * badness + WITHIN * seeing).clamp_min(1.0),
        sky=(SKY * SKY_GROWTH**badness * torch.pow(10.0, SKY_WITHIN * sky)).clamp_max(BRIGHTEST),
        zeropoint=(CALIBRATION * 2.0**badness * zeropoint.T).T,
        drift=DRIFT * 2.0**badness * drift,
        direction=math.pi * direction,
        cosmic_rays=rate,
    )


def observed(
    sky: Observation, conditions: Conditions, draws: Draws, *, surviving_fraction: float = 1.0, **muons: float
) -> Observation:
    """The same galaxies in these conditions: seeing and trail, brighter sky, cosmic rays, calibration, in this order.

    Parameters
    ----------
    surviving_fraction : of the charge of cosmic rays.
    muons : further options of `cosmic_rays`, for those of the rate.

    Raises
    ------
    InputError : the exposure's PSF is unknown, or pixels are masked.
    """
    known_psf(sky.exposure)
    exposure, flux = sky.exposure, sky.flux
    broad = exposure.replace(psf_fwhm=exposure.psf_fwhm * conditions.seeing.cpu()[:, None])
    drift = conditions.drift.to(flux)[:, None, None, None]

    def kernel(at: Frequencies) -> torch.Tensor:
        trail = torch.sinc(along(at, conditions.direction).to(flux.dtype) * (drift / (2.0 * math.pi)))
        return trail * broadening(exposure, broad.psf_fwhm, at.k).to(flux.dtype)

    def power(k: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
        return (
            torch.sinc((k[:, None] * angles.cos()) * (conditions.drift.cpu()[:, None, None, None] / (2 * math.pi))) ** 2
        )

    light = through(sky, kernel, draws.within("seeing"))
    seen = sky.replace(light, broad.replace(psf_fwhm=same_area(broad, power)))

    seen = brighter_sky(seen, conditions.sky.cpu()[:, None], draws.within("sky"))
    hit = draws.within("cosmic_rays")
    seen = cosmic_rays(seen, conditions.cosmic_rays, hit, surviving_fraction=surviving_fraction, **muons)
    if conditions.muon is not None:
        seen = _struck(seen, conditions.muon, surviving_fraction)
    factor = torch.pow(10.0, -0.4 * conditions.zeropoint)
    return seen.replace(seen.flux * factor[:, :, None, None].to(flux), seen.exposure.rescaled(factor.cpu()))


def _struck(sky: Observation, muon: Muon, surviving_fraction: float) -> Observation:
    """The same with one more track in the galaxies whose muon has a band."""
    bands, size = sky.flux.shape[1], (sky.flux.shape[2], sky.flux.shape[3])
    there = muon.band >= 0
    which = there.nonzero()[:, 0] * bands + muon.band[there]
    row, column, azimuth, length, charge = (
        v[there] for v in (muon.row, muon.column, muon.azimuth, muon.length, muon.charge)
    )
    charge = tracks(which, row, column, azimuth, length, charge, len(there) * bands, size).reshape(sky.flux.shape)
    flux = torch.addcmul(sky.flux, charge, one_visit(sky.exposure, sky.flux) * surviving_fraction)
    return damaged(sky, flux, (charge > SEEN) & (surviving_fraction > 0.0), repaired=False)


def refuse_badness(badness: float) -> None:
    """Refuse a night beyond three standard deviations."""
    if not -3.0 <= badness <= 3.0:
        raise InputError(
            f"night: {badness:g} sigma", "-3 to 3 standard deviations", "0 is a typical night, 1 a poor and 2 a bad one"
        )
