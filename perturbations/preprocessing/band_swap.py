"""Bands in the wrong order: a picture read as blue, green, red."""

import torch

from perturbations.core import corruption
from perturbations.draws import Draws
from perturbations.errors import InputError


@corruption(
    space="input",
    parameter="bands out of place",
    unit="band",
    ladder=(2.0, 3.0),
    identity=0.0,
    source="our choice: two bands exchanged, then three turned round",
    version=1,
    whole=True,
)
def band_swap(x: torch.Tensor, moved: float, draws: Draws) -> torch.Tensor:
    """Give each of that many bands, drawn for each galaxy, the image of the next of them; the last gets the first.

    Exactly `moved` bands are out of place, and no value changes.

    Parameters
    ----------
    x : images (N, C, H, W) float32 in [0, 1]. Not modified.
    moved : 0, or a whole number from 2 to C.
    draws : this batch's random numbers, keyed by galaxy.

    Raises
    ------
    InputError : a number of bands that cannot be out of place: 1, or more than the image has.
    """
    bands = x.shape[1]
    if moved != 0.0 and (not 2.0 <= moved <= bands or moved != int(moved)):
        raise InputError(
            f"band_swap: moved = {moved:g} of {bands} band(s)",
            f"0, or a whole number from 2 to {bands}" if bands > 1 else "0 where there is only one band",
            "choose as many bands as can change places",
        )
    if moved == 0.0:
        return x.clone()
    chosen = draws.uniform("order", (bands,)).argsort(dim=1, stable=True)[:, : int(moved)]
    source = torch.arange(bands, device=x.device).repeat(len(x), 1)
    source.scatter_(1, chosen, chosen.roll(-1, dims=1))
    rows = source + bands * torch.arange(len(x), device=x.device)[:, None]
    return x.flatten(0, 1).index_select(0, rows.flatten()).reshape(x.shape)
