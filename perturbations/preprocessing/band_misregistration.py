"""Bands that do not lie on top of each other: astrometry, or refraction, that was not corrected."""

import math

import torch

from perturbations.core import corruption
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.resampling import MARGIN, shifted


@corruption(
    space="input",
    parameter="offset of each band from the reference band",
    unit="pixel",
    ladder=(0.1, 0.25, 0.5, 1.0, 2.0),
    identity=0.0,
    source="our choice: from an ordinary residual of the astrometry (0.1) over bands aligned to whole pixels (0.5) to "
    "a solution that failed (2)",
    version=1,
)
def band_misregistration(x: torch.Tensor, offset: float, draws: Draws, *, reference: int = 0) -> torch.Tensor:
    """Move every band but one by `offset` pixels, each in a direction of its own drawn for each galaxy.

    Interpolated by the Fourier shift theorem, so noise keeps its power, and clipped to [0, 1]; what enters at the
    border is the band mirrored there.

    Parameters
    ----------
    x : images (N, C, H, W) float32 in [0, 1], two bands or more. Not modified.
    offset : 0 to 16 pixels of the network's input.
    draws : this batch's random numbers, keyed by galaxy.
    reference : the band that stays, counted from 0.

    Raises
    ------
    InputError : an offset outside 0 to 16; one band only; a reference that the image does not have.
    """
    bands = x.shape[1]
    if not 0.0 <= offset <= MARGIN:
        raise InputError(
            f"band_misregistration: offset = {offset:g} pixels",
            f"0 <= offset <= {MARGIN}",
            "choose an offset in that range",
        )
    if not 0 <= reference < bands:
        raise InputError(
            f"band_misregistration: reference = {reference} of {bands} band(s)",
            f"0 to {bands - 1}",
            "count the bands from 0",
        )
    if offset == 0.0:
        return x.clone()
    if bands == 1:
        raise InputError(
            "band_misregistration of one band", "two bands or more", "choose miscentring for images of one band"
        )
    moving = [band for band in range(bands) if band != reference]
    angle = 2.0 * math.pi * draws.uniform("direction", (bands,))[:, moving].double()
    moved = x.clone()
    moved[:, moving] = shifted(x[:, moving], offset * angle.sin(), offset * angle.cos()).clamp_(0.0, 1.0)
    return moved
