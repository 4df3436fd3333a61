"""The trail of a satellite across one visit of a coadd."""

import math

import torch

from perturbations.core import Observation, corruption
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.light import electrons
from perturbations.profiles import annulus, at_distance, from_centre, line_spread
from perturbations.single_visit import filters, in_filter, in_one_visit

OBSCURATION = 0.61  # inner over outer radius of the pupil of Rubin's telescope: 5.1 m over 8.4 m


@corruption(
    space="flux",
    parameter="stationary AB magnitude of the satellite",
    unit="mag",
    ladder=(8.0, 7.0, 6.1, 5.3, 4.5),
    identity=None,
    no_identity="a satellite of any magnitude adds light",
    source="Tyson et al. 2020, AJ 160, 226: g of about 4.5 for the first Starlinks, 6.1 for DarkSat, 7 as the aim of "
    "darkening; 8 and 5.3 are our choice, a darker one and one between",
    version=1,
)
def satellite_trail(
    sky: Observation,
    magnitude: float,
    draws: Draws,
    *,
    speed: float = 1800.0,
    defocus: float = 2.1,
    reach: float = 1.0,
    bands: str = "one",
    seconds_per_visit: float = 30.0,
    surviving_fraction: float = 1.0,
) -> Observation:
    """Draw a straight trail through the stamp, in one visit of one keyed band.

    The satellite would give `magnitude` if it stood still. Moving at `speed` it leaves its electrons per second divided
    by `speed` on each arcsecond of its trail, whatever the length of the visit. Across, the trail is the line-spread
    function of PSF and pixel, widened by the telescope's pupil, which a satellite so near shows out of focus. In the
    one visit pixels fill up to the full well; those hold no measurement and are masked. There is no bleeding and no
    crosstalk. A charge q of one visit is q / fraction in the coadd, where nothing rejects it.

    Parameters
    ----------
    sky : flux (N, C, H, W) in reference electrons per pixel; its Exposure has psf_fwhm and zeropoint. Not modified.
    magnitude : -10 to 40 AB mag, the same in all bands.
    draws : this batch's random numbers, keyed by galaxy: direction, uniform, and distance from the middle, uniform over
        all lines of that direction that cross the stamp.
    speed : arcsec per second > 0. 1800 (half a degree) is our choice: 7.6 km/s at 550 km height, seen 40 degrees high
        at a distance of some 800 km and partly along the line of sight.
    defocus : outer diameter of the pupil's image >= 0 [arcsec]: aperture over distance, 2.1 for 8.4 m and 800 km, with
        a central obscuration of 0.61; 0 for a trail in focus.
    reach : 0 to 1: the greatest distance from the middle, of the greatest that crosses the stamp; 0 hits the galaxy.
    bands : "one": a visit has one filter, drawn by key; "all": the same trail in each band.
    seconds_per_visit : the reference exposure lasts visits x this [s]. Set it where a visit is not LSST's 30 s.
    surviving_fraction : 0 to 1: the part of its electrons that outlier rejection leaves in the coadd (1: it failed).

    Returns
    -------
    Observation with the same exposure, the trail's photon noise, and saturated pixels masked.

    Raises
    ------
    InputError : a magnitude or option out of range, an unknown PSF or zero-point.
    """
    if not -10.0 <= magnitude <= 40.0:
        raise InputError(f"satellite_trail: magnitude = {magnitude:g}", "-10 to 40 mag", "give an AB magnitude")
    for name, value, good, allowed in (
        ("speed", speed, 0.0 < speed < math.inf, "arcsec per second > 0"),
        ("defocus", defocus, 0.0 <= defocus < math.inf, "arcsec >= 0"),
        ("reach", reach, 0.0 <= reach <= 1.0, "0 <= reach <= 1"),
        ("seconds_per_visit", seconds_per_visit, 0.0 < seconds_per_visit < math.inf, "seconds > 0"),
    ):
        if not good:
            raise InputError(f"satellite_trail: {name} = {value:g}", allowed, "leave it at its default if unsure")
    height, width = sky.flux.shape[-2:]
    which = filters(sky, draws, bands)
    one = in_filter(sky.exposure, which)
    normal = math.pi * draws.uniform("direction")
    across = torch.stack([normal.sin(), normal.cos()], dim=1)
    furthest = 0.5 * (across * torch.tensor([height, width]).to(across)).abs().sum(dim=1)
    distance = reach * furthest * (2.0 * draws.uniform("distance") - 1.0)
    rows, columns = from_centre(across * distance[:, None], sky.flux)
    away = rows * across[:, :1, None].to(rows) + columns * across[:, 1:, None].to(rows)
    blur = (lambda k: annulus(0.5 * defocus * k, OBSCURATION)) if defocus else None
    per_second = electrons(one, magnitude, sky.flux) / (one.pixels("visits", sky.flux) * seconds_per_visit)
    per_pixel = per_second / speed * one.pixel_scale
    charge = at_distance(line_spread(one, normal, sky.flux, blur), away).mul_(per_pixel)
    return in_one_visit(sky, charge, which, surviving_fraction, draws)
