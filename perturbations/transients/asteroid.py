"""An asteroid in one visit of a coadd: a short streak."""

import math

import torch

from perturbations.core import Observation, corruption
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.light import electrons
from perturbations.profiles import drawn
from perturbations.psf import MARGIN, Frequencies
from perturbations.single_visit import filters, in_filter, in_one_visit

LONGEST = 60.0  # arcsec


@corruption(
    space="flux",
    parameter="AB magnitude of the asteroid",
    unit="mag",
    ladder=(21.0, 20.0, 19.0, 18.0, 17.0),
    identity=None,
    no_identity="an asteroid of any magnitude adds light",
    source="our choice: from two sigma of the coadded sky in its brightest pixel to a third of the full well in one "
    "visit (LSST r, all ten years, rejection failed)",
    version=1,
)
def asteroid(
    sky: Observation,
    magnitude: float,
    draws: Draws,
    *,
    rate: float = 30.0,
    bands: str = "one",
    seconds_per_visit: float = 30.0,
    surviving_fraction: float = 1.0,
) -> Observation:
    """Add an asteroid that moves while the shutter is open, in one visit of one keyed band.

    Its streak is a line of `rate` times `seconds_per_visit`, with the flux of `magnitude` in one visit, through PSF and
    pixel; its middle lies anywhere in the stamp and it points anywhere. Full pixels are masked. A charge q of one visit
    is q / fraction in the coadd, where nothing rejects it.

    Parameters
    ----------
    sky : flux (N, C, H, W) in reference electrons per pixel; its Exposure has psf_fwhm and zeropoint. Not modified.
    magnitude : 0 to 40 AB mag, the same in all bands.
    draws : this batch's random numbers, keyed by galaxy.
    rate : arcsec per hour >= 0; a main-belt asteroid moves at some 30, one near the Earth faster.
    bands : "one": a visit has one filter, drawn by key; "all": the same streak in each band.
    seconds_per_visit : how long the shutter is open [s] > 0. Set it where a visit is not LSST's 30 s.
    surviving_fraction : 0 to 1: the part of its electrons that outlier rejection leaves in the coadd (1: it failed).

    Returns
    -------
    Observation with the same exposure, the streak's photon noise, and saturated pixels masked.

    Raises
    ------
    InputError : a magnitude or option out of range, a streak longer than 60 arcsec, an unknown PSF or zero-point.
    """
    if not 0.0 <= magnitude <= 40.0:
        raise InputError(f"asteroid: magnitude = {magnitude:g}", "0 to 40 mag", "give an AB magnitude")
    if not 0.0 < seconds_per_visit < math.inf:
        raise InputError(f"asteroid: seconds_per_visit = {seconds_per_visit:g}", "seconds > 0", "LSST's are 30")
    length = rate * seconds_per_visit / 3600.0
    if not 0.0 <= length <= LONGEST:
        raise InputError(
            f"asteroid: rate = {rate:g} arcsec/h, a streak of {length:g} arcsec",
            f"rate >= 0 and a streak up to {LONGEST:g} arcsec",
            "use satellite_trail for what crosses the stamp",
        )
    which = filters(sky, draws, bands)
    one = in_filter(sky.exposure, which)
    size = torch.tensor(sky.flux.shape[-2:], dtype=torch.float32, device=draws.device)
    place = (draws.uniform("place", (2,)) - 0.5) * size
    angle = math.pi * draws.uniform("direction").double().to(sky.flux.device)[:, None, None]

    def streak(at: Frequencies) -> torch.Tensor:
        return torch.sinc((at.y * angle.sin() + at.x * angle.cos()) * (length / (2.0 * math.pi)))

    light = drawn(one, place, sky.flux, streak, MARGIN + length).clamp_min_(0.0)
    charge = light.mul_(electrons(one, magnitude, sky.flux) / one.pixels("visits", sky.flux))
    return in_one_visit(sky, charge, which, surviving_fraction, draws)
