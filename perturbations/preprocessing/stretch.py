"""Another stretch than the network was trained with: fainter light drawn up, bright light pressed together."""

import numpy as np
import torch

from perturbations.core import Unstretched, corruption
from perturbations.draws import Draws
from perturbations.errors import InputError

STRAIGHT, STEEPEST = 1e-4, 1e6  # below the first, asinh is straight to the last bit of a float32


@corruption(
    space="stretch",
    parameter="softening of another asinh stretch",
    unit="1",
    ladder=(1.0, 3.0, 10.0, 30.0, 100.0),
    identity=0.0,
    source="our choice: around 10, the default of astropy.visualization.AsinhStretch (a = 0.1); asinh images are those "
    "of Lupton et al. 2004, PASP 116, 133",
    version=1,
)
def stretch(raw: Unstretched, softening: float, draws: Draws) -> torch.Tensor:
    """Bend the values by an asinh of that softening between the model's own black and white, then stretch as it does.

    Values v between the frozen low and high become asinh(Q v / s) / asinh(Q), where Q is the softening and s the
    larger of |low| and |high|. Zero, black and white stay where they are in input space; Q = 0 is the straight line.
    A linear stretch becomes an asinh stretch; a model with an asinh stretch meets images that were stretched before.

    Parameters
    ----------
    raw : flux or display values (N, C, H, W), and the model's stretch. Not modified.
    softening : 0 to 1e6.
    draws : not used; a stretch has no chance in it.

    Returns
    -------
    Images in input space, [0, 1].

    Raises
    ------
    InputError : a softening outside 0 to 1e6.
    """
    if not 0.0 <= softening <= STEEPEST:
        raise InputError(
            f"stretch: softening = {softening:g}",
            f"0 <= softening <= {STEEPEST:g}",
            "choose a softening, such as 10, or 0 for the model's own stretch",
        )
    if softening < STRAIGHT:
        return raw.stretch(raw.images)
    low, high = (
        torch.tensor(v, dtype=raw.images.dtype, device=raw.images.device)[:, None, None]
        for v in (raw.stretch.low, raw.stretch.high)
    )
    factor = softening / torch.maximum(low.abs(), high.abs())
    return raw.stretch.between(_asinh(raw.images * factor), torch.asinh(low * factor), torch.asinh(high * factor))


def _asinh(values: torch.Tensor) -> torch.Tensor:
    """In place; by NumPy on the CPU, which is several times as fast there."""
    if values.device.type != "cpu":
        return values.asinh_()
    np.arcsinh(values.numpy(), out=values.numpy())
    return values
