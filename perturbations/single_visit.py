"""What passes through one visit, in one filter, and is left in the coadd."""

from __future__ import annotations

import torch

from perturbations.core import Observation
from perturbations.defects import every_visit
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.exposure import PER_BAND, Exposure
from perturbations.light import with_light

BANDS = ("one", "all")


def filters(sky: Observation, draws: Draws, bands: str) -> torch.Tensor:
    """The bands in which something of one visit appears, (N, 1) keyed, or (N, C) all of them."""
    if bands not in BANDS:
        raise InputError(f"bands = {bands!r}", "'one' or 'all'", "one visit has one filter")
    images, count = sky.flux.shape[:2]
    if bands == "one":
        return draws.integers("filter", count, (1,)).to(sky.flux.device)
    return torch.arange(count, device=sky.flux.device).expand(images, -1)


def in_filter(exposure: Exposure, which: torch.Tensor) -> Exposure:
    """The exposure of one band per galaxy, which (N, 1), as a single band; of all of them unchanged."""
    if which.shape[1] == len(exposure.bands):
        return exposure
    index = which.cpu()
    numbers = {name: getattr(exposure, name).expand(len(index), -1).gather(1, index) for name in PER_BAND}
    return exposure.replace(bands=("one",), **numbers)


def in_one_visit(
    sky: Observation, charge: torch.Tensor, which: torch.Tensor, surviving_fraction: float, draws: Draws
) -> Observation:
    """The coadd with charge that fell into one of its visits.

    Parameters
    ----------
    sky : not modified.
    charge : (N, B, H, W) electrons >= 0 in that visit, in the bands `which` (N, B). Sky and galaxy take their part of
        the full well; what does not fit is lost, and the pixel is masked.
    surviving_fraction : 0 to 1, the part of those electrons that is left in the coadd.
    """
    if not 0.0 <= surviving_fraction <= 1.0:
        raise InputError(
            f"surviving_fraction = {surviving_fraction:g}", "0 to 1", "1 where outlier rejection failed, 0 where not"
        )
    one, at = in_filter(sky.exposure, which), which[:, :, None, None].expand_as(charge)
    there = sky.flux if at.shape == sky.flux.shape else sky.flux.gather(1, at)
    others = (there.clamp_min(0.0) + one.pixels("sky", charge)) / every_visit(one, charge)
    room = (one.pixels("full_well", charge) - others).clamp_min_(0.0)
    full = (charge >= room) & (surviving_fraction > 0.0)
    share = surviving_fraction / one.pixels("fraction", charge)
    light = torch.zeros_like(sky.flux).scatter_(1, at, torch.minimum(charge, room) * share)
    mask = torch.zeros_like(sky.flux, dtype=torch.bool).scatter_(1, at, full)
    bright = with_light(sky, light, draws)
    return sky.replace(bright.flux, mask=mask)
