"""Another galaxy in the line of sight, overlapping the one in the middle."""

import math

import torch

from perturbations.core import Observation, corruption
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.light import with_light
from perturbations.profiles import de_vaucouleurs, drawn, exponential, half_light
from perturbations.psf import Frequencies

MARGIN = 10.0  # arcsec: the wings of a de Vaucouleurs profile are wide
COLOURS = ("galaxy", "flat")


@corruption(
    space="flux",
    parameter="flux of the neighbour over that of the galaxy",
    unit="1",
    ladder=(0.05, 0.1, 0.25, 0.5, 1.0),
    identity=0.0,
    source="our choice: from a faint neighbour to an equal one; 0.25 divides major from minor pairs of galaxies",
    version=1,
)
def blend(
    sky: Observation,
    ratio: float,
    draws: Draws,
    *,
    separation: float = 1.5,
    radius: float = 0.6,
    colour: str = "galaxy",
) -> Observation:
    """Add the light of a neighbour whose flux is `ratio` times the galaxy's.

    Images of a data set carry noise, so none of them is used as the neighbour: it is drawn through the exposure's PSF
    and pixels. By key it is an exponential disk or a de Vaucouleurs spheroid (each as likely), with an axis ratio
    uniform in 0.3 to 1, any position angle, a half-light radius (of the circle of the same area) of `radius` times a
    factor between 1/2 and 2, uniform in its logarithm, in a direction uniform around the middle of the stamp.

    The galaxy's flux in each band and its half-light radius are measured in its own image. Where it is not detected at
    five sigma, a point source at that limit stands in for it.

    Parameters
    ----------
    sky : flux (N, C, H, W) in reference electrons per pixel, and its Exposure with psf_fwhm. Not modified.
    ratio : 0 to 1000.
    draws : this batch's random numbers, keyed by galaxy.
    separation : >= 0, in half-light radii of the galaxy as it is seen.
    radius : median half-light radius of neighbours, 0 < radius <= 5 [arcsec]. 0.6 is our choice: a small, distant one.
    colour : "galaxy": the same ratio in every band; "flat": the same AB magnitude in every band, with `ratio` for the
        mean of the bands' flux densities (needs zeropoint).

    Returns
    -------
    Observation with the same exposure; the added light has its photon noise.

    Raises
    ------
    InputError : a ratio or option out of range, an unknown PSF or zero-point.
    """
    if not 0.0 <= ratio <= 1000.0:
        raise InputError(f"blend: ratio = {ratio:g}", "0 to 1000", "give the neighbour's flux over the galaxy's")
    if not 0.0 <= separation <= 1000.0:
        raise InputError(
            f"blend: separation = {separation:g}", "0 to 1000 half-light radii", "the direction is drawn by key"
        )
    if not 0.0 < radius <= 5.0:
        raise InputError(f"blend: radius = {radius:g} arcsec", "0 < radius <= 5", "neighbours are small and distant")
    if colour not in COLOURS:
        raise InputError(f"blend: colour = {colour!r}", "'galaxy' or 'flat'", "'galaxy' keeps the ratio in every band")
    if ratio == 0.0:
        return sky.replace(sky.flux.clone())
    exposure, u = sky.exposure, draws.uniform("shape", (5,)).to(sky.flux.device, torch.float64)[..., None, None]
    size = radius * 2.0 ** (2.0 * u[:, 0] - 1.0)
    flat, turn = (0.3 + 0.7 * u[:, 1]).sqrt(), math.pi * u[:, 2]

    def profile(at: Frequencies) -> torch.Tensor:
        along = (at.x * turn.cos() + at.y * turn.sin()) * (size / flat)
        across = (at.y * turn.cos() - at.x * turn.sin()) * (size * flat)
        k = torch.hypot(along, across)
        return torch.where(u[:, 3] < 0.5, exponential(k), de_vaucouleurs(k))

    half, flux = half_light(sky)
    around = 2.0 * math.pi * u[:, 4, 0, 0].to(half)
    place = (separation * half)[:, None] * torch.stack([around.sin(), around.cos()], dim=1)
    light = drawn(exposure, place, sky.flux, profile, MARGIN).clamp_min_(0.0)
    return with_light(sky, light.mul_(ratio * _coloured(sky, flux, colour)[..., None, None]), draws)


def _coloured(sky: Observation, flux: torch.Tensor, colour: str) -> torch.Tensor:
    """The galaxy's electrons (N, C), or those of a flat spectrum with the same mean flux density."""
    if colour == "galaxy":
        return flux
    if not bool(torch.isfinite(sky.exposure.zeropoint).all()):
        raise InputError("the Exposure has no zeropoint", "an AB magnitude per band", "or choose colour = 'galaxy'")
    zeropoint = sky.exposure.pixels("zeropoint", flux.double())[:, :, 0, 0]
    unit = torch.pow(10.0, 0.4 * (zeropoint - zeropoint.mean(dim=1, keepdim=True))).to(flux)
    return unit * (flux / unit).mean(dim=1, keepdim=True)
