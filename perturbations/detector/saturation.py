"""A core so bright that it fills the wells of its pixels and bleeds along the column."""

import torch

from perturbations.core import Observation, corruption
from perturbations.defects import damaged, every_visit, refuse_outside, wells
from perturbations.draws import Draws
from perturbations.errors import InputError

FAINTEST = 5.0  # sigma of the blank sky: what does not stand out from its noise has no core to saturate


@corruption(
    space="flux",
    parameter="charge of the galaxy's brightest pixel in one visit",
    unit="full wells",
    ladder=(1.2, 1.5, 2.0, 3.0, 5.0),
    identity=1.0,
    source="our choice: a galaxy of the same look, so near that its core just saturates, to one five times as bright",
    version=1,
)
def saturation(sky: Observation, wells_filled: float, draws: Draws, *, repaired: bool = False) -> Observation:
    """Show the galaxy as if it were so bright that its brightest pixel collects `wells_filled` full wells in a visit.

    All bands are brightened by the same factor, and the image is then put back on its own flux scale. Per visit a pixel
    holds the full well less the sky; what exceeds it bleeds along its column, half up and half down, until pixels with
    room have taken it, and what passes the border is lost. Charge is conserved. It happens in every visit. The sky is
    not brightened, and no pixel within 5 sigma of the blank sky is called full, so blank sky never saturates. What
    the image lost before, at 1, has happened already.

    Parameters
    ----------
    sky : flux (N, C, H, W) in reference electrons per pixel, and its Exposure with full_well. Not modified. Columns
        run along H.
    wells_filled : >= 1.
    draws : not used; nothing here is random.
    repaired : saturated pixels are filled from their neighbours, as a pipeline leaves them. They are masked in any
        case.

    Returns
    -------
    Observation with the full pixels and those that were bled into in its mask.

    Raises
    ------
    InputError : a strength below 1, no finite full_well, or one that the blank sky fills.
    """
    refuse_outside(
        "saturation", "wells_filled", wells_filled, 1.0, float("inf"), "1 is a core that just does not saturate"
    )
    if wells_filled == 1.0:
        return sky.replace(sky.flux.clone())
    level = _level(sky, wells_filled)
    good = torch.ones_like(sky.flux, dtype=torch.bool) if sky.mask is None else (~sky.mask).expand_as(sky.flux)
    n, c, w = ((sky.flux > level) & good).any(dim=2).nonzero(as_tuple=True)
    flux, hit = sky.flux.clone(), torch.zeros_like(good)
    full = level.expand(*flux.shape[:2], 1, 1)[n, c, 0]
    flux[n, c, :, w], hit[n, c, :, w] = _bled(sky.flux[n, c, :, w], full, good[n, c, :, w])
    return damaged(sky, flux, hit, repaired)


def _level(sky: Observation, wells_filled: float) -> torch.Tensor:
    """Flux at which a pixel is full, (N, C, 1, 1)."""
    scale = every_visit(sky.exposure, sky.flux)
    room = wells(sky.exposure, sky.flux, "saturation") * scale - sky.exposure.pixels("sky", sky.flux)
    if not bool((room > 0.0).all()):
        raise InputError(
            "saturation: the sky of one visit fills the well",
            "full_well above sky / visits",
            "correct visits or full_well of the exposure",
        )
    seen = sky.flux if sky.mask is None else sky.flux.masked_fill(sky.mask, 0.0)
    brightest = (seen / room).amax(dim=(1, 2, 3), keepdim=True)
    faintest = FAINTEST * sky.exposure.variance(torch.zeros_like(room)).sqrt()
    return torch.maximum(brightest / wells_filled * room, faintest)


def _bled(columns: torch.Tensor, full: torch.Tensor, good: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Columns (M, H) with what exceeds `full` (M, 1) spread along them, and where they are full or were bled into."""
    charge, full = columns.double(), full.double()
    excess = (charge - full).clamp_min(0.0) * good
    space = (full - charge).clamp_min(0.0) * good
    down = _absorbed(excess / 2.0, space)
    up = _absorbed(excess.flip(1) / 2.0, (space - down).flip(1)).flip(1)
    return (charge - excess + down + up).to(columns.dtype), (excess > 0.0) | (down + up > 0.0)


def _absorbed(excess: torch.Tensor, space: torch.Tensor) -> torch.Tensor:
    """What each pixel takes of the charge that flows along the last axis: Lindley's recursion in closed form."""
    total = (excess - space).cumsum(dim=1)
    flow = total - total.cummin(dim=1).values.clamp_max(0.0)
    before = torch.nn.functional.pad(flow, (1, 0))[:, :-1]
    return torch.minimum(before + excess, space) * (space > 0.0)
