"""The conditions of a night, galaxy by galaxy, and what they do to an image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from perturbations.core import Observation
from perturbations.detector.cosmic_rays import cosmic_rays
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
class Conditions:
    """What each galaxy of a batch was observed in.

    Parameters
    ----------
    seeing : (N,) FWHM over that of the image, >= 1.
    sky : (N,) brightening of the sky [mag] >= 0.
    zeropoint : (N, C) error of the calibration [mag].
    drift, direction : (N,) length of the trail [arcsec] and its angle [rad].
    cosmic_rays : rate of hits [cm^-2 s^-1].
    """

    seeing: torch.Tensor
    sky: torch.Tensor
    zeropoint: torch.Tensor
    drift: torch.Tensor
    direction: torch.Tensor
    cosmic_rays: float


def drawn(badness: float, bands: int, draws: Draws) -> Conditions:
    """The conditions of galaxies in a night `badness` standard deviations from a typical one; all float64."""

    def normal(stream: str, shape: tuple[int, ...] = ()) -> torch.Tensor:
        return torch.special.ndtri(draws.uniform(stream, shape).double() + 2.0**-25)

    seeing = torch.pow(10.0, NIGHTLY * badness + WITHIN * normal("seeing")).clamp_min(1.0)
    sky = (SKY * SKY_GROWTH**badness * torch.pow(10.0, SKY_WITHIN * normal("sky"))).clamp_max(BRIGHTEST)
    return Conditions(
        seeing=seeing,
        sky=sky,
        zeropoint=CALIBRATION * 2.0**badness * normal("zeropoint", (bands,)),
        drift=DRIFT * 2.0**badness * draws.uniform("drift").double(),
        direction=math.pi * draws.uniform("direction").double(),
        cosmic_rays=MUONS,
    )


def observed(sky: Observation, conditions: Conditions, draws: Draws, **muons: float) -> Observation:
    """The same galaxies in these conditions: seeing and trail, brighter sky, cosmic rays, calibration, in this order.

    Parameters
    ----------
    muons : options of `cosmic_rays`, such as surviving_fraction.

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
    seen = cosmic_rays(seen, conditions.cosmic_rays, draws.within("cosmic_rays"), **muons)
    factor = torch.pow(10.0, -0.4 * conditions.zeropoint)
    return seen.replace(seen.flux * factor[:, :, None, None].to(flux), seen.exposure.rescaled(factor.cpu()))


def refuse_badness(badness: float) -> None:
    """Refuse a night beyond three standard deviations."""
    if not -3.0 <= badness <= 3.0:
        raise InputError(
            f"night: {badness:g} sigma", "-3 to 3 standard deviations", "0 is a typical night, 1 a poor and 2 a bad one"
        )
