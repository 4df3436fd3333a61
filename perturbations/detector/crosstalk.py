"""The ghost of what another amplifier reads out at the same moment."""

import torch

from perturbations.core import Observation, corruption
from perturbations.defects import every_visit, refuse_outside, star
from perturbations.draws import Draws
from perturbations.errors import unknown_name

SOURCES = ("star", "galaxy")


@corruption(
    space="flux",
    parameter="crosstalk coefficient",
    unit="1",
    ladder=(3e-6, 1e-5, 3e-5, 1e-4, 3e-4),
    identity=0.0,
    source="our choice: a star that fills wells of 100,000 electrons leaves 0.3 to 30 of them, with the sky of a visit "
    "at about 700",
    version=1,
    whole=True,
)
def crosstalk(
    sky: Observation,
    coefficient: float,
    draws: Draws,
    *,
    aggressor: str = "star",
    magnitude: float = 12.0,
    negative: bool = False,
) -> Observation:
    """Add a fixed fraction of the signal that another amplifier reads at the same moment, in every visit.

    The other amplifier sees a star, at a keyed place in each band, cut off at the full well; or it is the neighbour
    behind a keyed column and reads towards it, so that it sees the galaxy mirrored there. The ghost is a voltage, no
    light: it brings no photon noise, although the Exposure counts its flux like light (for the star at the last rung,
    8 % too much variance in g inside the ghost). Nothing is masked.

    Parameters
    ----------
    sky : flux (N, C, H, W) in reference electrons per pixel, and its Exposure; for a star with full_well, psf_fwhm and
        zeropoint. Not modified.
    coefficient : 0 <= coefficient <= 0.1.
    draws : this batch's random numbers, keyed by galaxy.
    aggressor : "star" or "galaxy".
    magnitude : AB magnitude of the star in every band.
    negative : the ghost is subtracted.

    Returns
    -------
    Observation.

    Raises
    ------
    InputError : a coefficient outside [0, 0.1], an unknown aggressor, or for a star an exposure without full_well,
        psf_fwhm or zeropoint.
    """
    refuse_outside("crosstalk", "coefficient", coefficient, 0.0, 0.1, "its sign is the option negative")
    if aggressor not in SOURCES:
        raise unknown_name("crosstalk aggressor", aggressor, SOURCES)
    if coefficient == 0.0:
        return sky.replace(sky.flux.clone())
    if aggressor == "star":
        place = draws.uniform("place", (sky.flux.shape[1], 2))
        signal = star(sky.exposure, place, magnitude, sky.flux, "crosstalk") * every_visit(sky.exposure, sky.flux)
    else:
        signal = _mirrored(sky.flux, draws)
    return sky.replace(torch.add(sky.flux, signal, alpha=-coefficient if negative else coefficient))


def _mirrored(flux: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Images mirrored at a border between columns, zero where that looks out of the stamp."""
    width = flux.shape[-1]
    border = 1 + draws.integers("border", width - 1, (flux.shape[1], 1, 1))
    other = 2 * border - 1 - torch.arange(width, device=flux.device)
    inside = (other >= 0) & (other < width)
    return torch.gather(flux, 3, other.clamp(0, width - 1).expand_as(flux)).mul_(inside)
