"""A supernova in the galaxy: a new point of light at a distance from its centre."""

import math

import torch

from perturbations.core import Observation, corruption
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.light import electrons, with_light
from perturbations.profiles import at_radius, from_centre, half_light, point_spread

BRIGHTEST, FAINTEST = 0.0, 40.0  # mag


@corruption(
    space="flux",
    parameter="AB magnitude of the supernova",
    unit="mag",
    ladder=(25.0, 24.0, 23.0, 22.0, 21.0),
    identity=None,
    no_identity="a supernova of any magnitude adds light",
    source="our choice: at maximum a type Ia (absolute magnitude about -19) at a redshift of 0.2 has about 21 mag, at "
    "0.5 about 23; two magnitudes fainter where a few of a season's visits show it, or it has faded",
    version=1,
)
def supernova(
    sky: Observation, magnitude: float, draws: Draws, *, offset: float = 1.0, visits_share: float = 1.0
) -> Observation:
    """Add a point source at `offset` half-light radii from the middle of the stamp, in a keyed direction.

    It has the same AB magnitude in all bands. Images are centred on their galaxies; the half-light radius is each
    galaxy's own, measured in its image as the light is seen (so behind the PSF). A coadd of many years dilutes a
    supernova: it shines in `visits_share` of the visits only, at the magnitude given. The default, all of them, is a
    template of one season, or gives `magnitude` the meaning of the mean over all visits.

    Parameters
    ----------
    sky : flux (N, C, H, W) in reference electrons per pixel; its Exposure has psf_fwhm and zeropoint. Not modified.
    magnitude : 0 to 40 AB mag.
    draws : this batch's random numbers, keyed by galaxy.
    offset : >= 0 half-light radii; 0 is the nucleus.
    visits_share : 0 < share <= 1 of the visits in which it shines.

    Returns
    -------
    Observation with the same exposure; the added light has its photon noise.

    Raises
    ------
    InputError : a magnitude or option out of range, an unknown PSF or zero-point.
    """
    if not BRIGHTEST <= magnitude <= FAINTEST:
        raise InputError(
            f"supernova: magnitude = {magnitude:g}", f"{BRIGHTEST:g} to {FAINTEST:g} mag", "give an AB magnitude"
        )
    if not 0.0 <= offset < math.inf:
        raise InputError(f"supernova: offset = {offset:g}", "half-light radii >= 0", "the direction is drawn by key")
    if not 0.0 < visits_share <= 1.0:
        raise InputError(
            f"supernova: visits_share = {visits_share:g}", "0 < visits_share <= 1", "60 days in 10 years are 0.016"
        )
    radius, _ = half_light(sky)
    angle = 2.0 * math.pi * draws.uniform("direction")
    place = (offset * radius)[:, None] * torch.stack([angle.sin(), angle.cos()], dim=1).to(radius)
    shape = at_radius(point_spread(sky.exposure, sky.flux), torch.hypot(*from_centre(place, sky.flux)))
    return with_light(sky, shape.mul_(visits_share * electrons(sky.exposure, magnitude, sky.flux)), draws)
