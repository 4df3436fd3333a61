"""Flux stored in 8 bits before anyone stretched it: the faint outskirts share a handful of grey levels."""

import torch

from perturbations.core import Unstretched, corruption
from perturbations.draws import Draws
from perturbations.errors import InputError

LEVELS = 255.0


@corruption(
    space="stretch",
    parameter="range stored, in ranges of the model's stretch",
    unit="1",
    ladder=(4.0, 16.0, 32.0, 64.0, 128.0),
    identity=None,
    no_identity="rounding to 8 bits changes the image at any range",
    source="our choice: a file scaled to a star 4 to 128 times as bright as the model's white (1.5 to 5.3 mag), which "
    "leaves a galaxy 64 to 2 grey levels",
    version=1,
)
def uint8(raw: Unstretched, span: float, draws: Draws) -> torch.Tensor:
    """Round the values to 256 levels, evenly spaced from the model's black to `span` times its range, and stretch.

    A file is scaled to the brightest thing in the field, so a galaxy gets 255 / span levels. The step between levels is
    span (high - low) / 255, and the error of a value is uniform within half a step to either side. Values that were
    whole numbers from 0 to 255 already stay as they are at span 1.

    Parameters
    ----------
    raw : flux or display values (N, C, H, W), and the model's stretch. Not modified.
    span : 1 to 1e6.
    draws : not used; rounding has no chance in it.

    Returns
    -------
    Images in input space, [0, 1].

    Raises
    ------
    InputError : a span outside 1 to 1e6.
    """
    if not 1.0 <= span <= 1e6:
        raise InputError(
            f"uint8: span = {span:g}", "1 <= span <= 1e6", "the file holds the model's range at least; use clipping"
        )
    low, high = (
        torch.tensor(v, dtype=raw.images.dtype, device=raw.images.device)[:, None, None]
        for v in (raw.stretch.low, raw.stretch.high)
    )
    step = (high - low) * span / LEVELS
    stored = (raw.images - low).div_(step).round_().clamp_(0.0, LEVELS)
    return raw.stretch(stored.mul_(step).add_(low))
