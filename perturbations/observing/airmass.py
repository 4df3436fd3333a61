"""A galaxy far from the zenith: the air is a prism, and there is more of it."""

import math

import numpy as np
import torch

from perturbations.core import Observation, corruption
from perturbations.draws import Draws
from perturbations.errors import InputError, unknown_name
from perturbations.exposure import Exposure
from perturbations.optics import ARCSEC, orientation, same_area
from perturbations.psf import Frequencies, broadening, known_psf, through

# Where LSST's bands, as GalSim holds them, pass half of their maximum [nm]; other surveys' are within some 20 nm.
EDGES = {
    "u": (335.5, 397.5),
    "g": (409.5, 552.0),
    "r": (553.5, 688.5),
    "i": (692.0, 816.5),
    "z": (819.0, 921.0),
    "y": (921.0, 1006.0),
}
COLOURS = 20  # wavelengths per band, of Gauss-Legendre
MMHG = 7.50061683  # per kPa


@corruption(
    space="flux",
    parameter="airmass",
    unit="1",
    ladder=(1.2, 1.4, 1.7, 2.0, 2.5),
    identity=1.0,
    source="our choice: zenith distances of 34, 44, 54, 60 and 66 degrees; surveys prefer airmasses below 1.4",
    version=1,
)
def airmass(
    sky: Observation,
    secant: float,
    draws: Draws,
    *,
    reference: str | None = None,
    registered: bool = False,
    angle: float | None = None,
    pressure: float = 69.328,
    temperature: float = 20.0,
    vapour: float = 1.067,
) -> Observation:
    """Observe at a zenith distance z with sec z = `secant`, and with the seeing of that much air.

    Air lifts light towards the zenith by (n - 1) tan z, blue light more than red (Filippenko 1982, PASP 94, 715): bands
    are displaced against each other, and each is smeared by what the index n changes within it, for equal photons at
    all wavelengths of a nominal LSST band. Seeing is broader by secant^0.6, as in Kolmogorov turbulence. The image
    counts as taken at the zenith, and all new visits as taken on the same side of it. Extinction, which dims, is not
    part of it. Noise is that of a fresh exposure.

    Parameters
    ----------
    sky : flux (N, C, H, W) in reference electrons per pixel, and its Exposure with psf_fwhm. Not modified.
    secant : 1 to 4.
    draws : this batch's random numbers, keyed by galaxy.
    reference : the band that stays where it is. None: r where the image has it, or else the middle one.
    registered : every band was registered on its own stars, and stays where it is: only the smear is left.
    angle : direction of the zenith, from columns towards rows [degrees]. None: keyed by galaxy.
    pressure, temperature, vapour : of the air at the telescope [kPa; degrees Celsius; kPa of water]. The defaults are
        GalSim's for Cerro Pachon.

    Returns
    -------
    Observation whose exposure.psf_fwhm is that of a round PSF of the former shape with the new one's noise-equivalent
    area.

    Raises
    ------
    InputError : an airmass outside [1, 4], a band other than u, g, r, i, z, y (or a reference that the image does not
        have), impossible air, an exposure whose PSF is unknown, or masked pixels.
    """
    if not 1.0 <= secant <= 4.0:
        raise InputError(f"airmass: {secant:g}", "1 <= airmass <= 4", "sec z is no airmass nearer to the horizon")
    if not (0.0 <= vapour <= pressure <= 110.0 and -60.0 <= temperature <= 60.0):
        raise InputError(
            f"airmass: air of {pressure:g} kPa, {temperature:g} C and {vapour:g} kPa of water",
            "vapour <= pressure <= 110 kPa, -60 to 60 C",
            "give kilopascals and degrees Celsius",
        )
    known_psf(sky.exposure)
    theta = orientation(draws, angle, 360.0)
    lift, weight = _lift(sky.exposure, secant, pressure, temperature, vapour)
    centres = (lift * weight).sum(dim=1, keepdim=True)
    lift = lift - (centres if registered else centres[_reference(sky.exposure, reference)])
    if secant == 1.0:
        return sky.replace(sky.flux.clone())
    broad = sky.exposure.replace(psf_fwhm=sky.exposure.psf_fwhm * secant**0.6)

    def kernel(at: Frequencies) -> torch.Tensor:
        offset, share = lift.to(sky.flux), weight.to(sky.flux)
        y, x = (at.y * theta.sin().to(at.y)[:, None, None]), (at.x * theta.cos().to(at.x)[:, None, None])
        rows = torch.polar(share.expand(len(y), len(offset), y.shape[1], -1), -y.to(offset)[:, None] * offset[:, None])
        phase = -x.to(offset)[:, None] * offset[..., None]
        prism = rows @ torch.polar(torch.ones_like(phase), phase)
        return prism * broadening(sky.exposure, broad.psf_fwhm, at.k).to(sky.flux.dtype)

    def power(k: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
        phase = (k[:, None] * angles.cos())[..., None] * (lift - centres)[:, None, None]
        return (phase.cos() * weight).sum(dim=-1) ** 2 + (phase.sin() * weight).sum(dim=-1) ** 2

    flux = through(sky, kernel, draws)
    return sky.replace(flux, broad.replace(psf_fwhm=same_area(broad, power)))


def refraction(
    nanometres: np.ndarray, tangent: float, pressure: float, temperature: float, vapour: float
) -> np.ndarray:
    """By how much light is lifted towards the zenith [arcsec], at vacuum wavelengths [nm] and tan z.

    Filippenko 1982, PASP 94, 715, with pressures [kPa] and temperature [degrees Celsius].
    """
    wavenumber = (1e3 / nanometres) ** 2
    index = 64.328 + 29498.1 / (146.0 - wavenumber) + 255.4 / (41.0 - wavenumber)
    warmth, mercury = 1.0 + 0.003661 * temperature, pressure * MMHG
    index = index * mercury * (1.0 + (1.049 - 0.0157 * temperature) * 1e-6 * mercury) / (720.883 * warmth)
    index = index - (0.0624 - 0.000680 * wavenumber) / warmth * vapour * MMHG
    return index * 1e-6 * tangent / ARCSEC


def _lift(
    exposure: Exposure, secant: float, pressure: float, temperature: float, vapour: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Lift [arcsec] at wavelengths of each band (C, COLOURS), and their share of the photons (COLOURS,)."""
    for band in exposure.bands:
        if band.lower() not in EDGES:
            raise unknown_name("band", band, EDGES, "Refraction needs the edges of a band")
    edges = np.array([EDGES[band.lower()] for band in exposure.bands])
    node, share = np.polynomial.legendre.leggauss(COLOURS)
    nanometres = edges.mean(axis=1)[:, None] + (edges[:, 1] - edges[:, 0])[:, None] / 2.0 * node
    tangent = math.sqrt(secant**2 - 1.0)
    lift = refraction(nanometres, tangent, pressure, temperature, vapour)
    return torch.from_numpy(lift), torch.from_numpy(share / 2.0)


def _reference(exposure: Exposure, name: str | None) -> int:
    bands = exposure.bands
    if name is None:
        return bands.index("r") if "r" in bands else len(bands) // 2
    if name not in bands:
        raise unknown_name("reference band", name, bands, "The image has no such band")
    return bands.index(name)
