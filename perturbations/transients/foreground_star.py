"""A star of the Milky Way in front of the galaxy or beside it: point, diffraction spikes, saturated core."""

import math

import torch

from perturbations.core import Observation, corruption
from perturbations.defects import every_visit
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.light import electrons, with_light
from perturbations.profiles import at_distance, at_radius, from_centre, line_spread, point_spread


@corruption(
    space="flux",
    parameter="AB magnitude of the star",
    unit="mag",
    ladder=(21.0, 19.0, 17.0, 15.0, 13.0),
    identity=None,
    no_identity="a star of any magnitude adds light",
    source="our choice: from as bright as a galaxy to one whose halo and spikes cover the stamp; from about 15.7 mag "
    "on its core is full in each LSST visit of 30 s",
    version=1,
)
def foreground_star(
    sky: Observation,
    magnitude: float,
    draws: Draws,
    *,
    nearest: float = 2.0,
    farthest: float = 8.0,
    spikes: float = 0.005,
    spike_length: float = 0.4,
) -> Observation:
    """Add a star to all visits, at a keyed place between `nearest` and `farthest` from the middle of the stamp.

    Its light is the PSF and, with the part `spikes` of it, two crossed lines in a keyed direction: what the vanes that
    hold the secondary mirror diffract. Along a line the brightness falls as 1 / (1 + (x / spike_length)^2), the mean
    of the vane's sinc^2 over a broad band; across it is the PSF's line-spread function. The spikes point the same way
    in all visits; a survey that turns its camera between visits smears them. There is no aureole beyond the wings of
    the PSF's shape.

    Where sky, galaxy and star together fill the well in a visit of mean conditions, the pixel stays at the full well
    and is masked. Charge does not bleed along the columns (that is `saturation`).

    Parameters
    ----------
    sky : flux (N, C, H, W) in reference electrons per pixel; its Exposure has psf_fwhm and zeropoint. Not modified.
    magnitude : 0 to 40 AB mag, the same in all bands.
    draws : this batch's random numbers, keyed by galaxy.
    nearest, farthest : 0 <= nearest <= farthest [arcsec]; any place in that ring is as likely.
    spikes : 0 to 1, the part of the star's light in its four spikes; of the order of the part of the pupil that the
        vanes cover. 0.005 is our choice.
    spike_length : > 0 [arcsec]: half of a spike's light lies within it. A vane of width w gives
        lambda / (2 pi w): 0.4 is 5 cm at 600 nm.

    Returns
    -------
    Observation with the same exposure, the star's photon noise, and saturated pixels masked.

    Raises
    ------
    InputError : a magnitude or option out of range, an unknown PSF or zero-point.
    """
    if not 0.0 <= magnitude <= 40.0:
        raise InputError(f"foreground_star: magnitude = {magnitude:g}", "0 to 40 mag", "give an AB magnitude")
    if not 0.0 <= nearest <= farthest <= 3600.0:
        raise InputError(
            f"foreground_star: between {nearest:g} and {farthest:g} arcsec",
            "0 <= nearest <= farthest <= 3600",
            "give distances from the middle of the stamp",
        )
    if not 0.0 <= spikes <= 1.0:
        raise InputError(f"foreground_star: spikes = {spikes:g}", "0 to 1", "a few thousandths are usual")
    if not 0.0 < spike_length < math.inf:
        raise InputError(f"foreground_star: spike_length = {spike_length:g}", "arcsec > 0", "spikes = 0 has none")
    exposure, u = sky.exposure, draws.uniform("place", (3,))
    radius = (nearest**2 + u[:, 0] * (farthest**2 - nearest**2)).sqrt() / exposure.pixel_scale
    around = 2.0 * math.pi * u[:, 1]
    place = radius[:, None] * torch.stack([around.sin(), around.cos()], dim=1)
    rows, columns = from_centre(place, sky.flux)
    shape = at_radius(point_spread(exposure, sky.flux), torch.hypot(rows, columns)).mul_(1.0 - spikes)
    if spikes:
        turn = 0.5 * math.pi * u[:, 2].to(sky.flux)
        table = line_spread(exposure, turn, sky.flux)  # the same for both lines: PSF and pixel look alike from either
        cos, sin = turn.cos()[:, None, None], turn.sin()[:, None, None]
        one, other = rows * sin + columns * cos, rows * cos - columns * sin
        scale = spike_length / exposure.pixel_scale
        for across, along in ((one, other), (other, one)):
            density = (0.5 * spikes / (math.pi * scale)) / (1.0 + (along / scale).square())
            shape.add_(at_distance(table, across).mul_(density[:, None]))
    light = shape.mul_(electrons(exposure, magnitude, sky.flux))
    like = sky.flux
    most = exposure.pixels("full_well", like) * every_visit(exposure, like) - exposure.pixels("sky", like)
    full = sky.flux + light >= most
    bright = with_light(sky, light, draws)
    return sky.replace(torch.where(full, most, bright.flux), mask=full)
