"""Values in fewer bits: the display image, or a network's input, on an even grid."""

import torch

from perturbations.core import corruption
from perturbations.draws import Draws
from perturbations.errors import InputError

UNROUNDED = 24  # bits of a float32 below 1: nothing to round


@corruption(
    space="input",
    parameter="bits per value",
    unit="bit",
    ladder=(8.0, 6.0, 5.0, 4.0, 3.0),
    identity=24.0,
    source="8 bits: a PNG or JPEG; our choice below: each bit doubles the step, up to a seventh of the range",
    version=1,
    whole=True,
)
def quantize(x: torch.Tensor, bits: float, draws: Draws) -> torch.Tensor:
    """Round to the nearest of 2^bits evenly spaced values, 0 and 1 among them.

    The error is uniform within half a step of 1/(2^bits - 1) where the image varies by more than a step: its RMS is
    step/sqrt(12). Where it varies by less, plateaus and contours appear.

    Parameters
    ----------
    x : images (N, C, H, W) float32 in [0, 1]. Not modified.
    bits : a whole number from 1 to 24; 24, the precision of float32, rounds nothing.
    draws : not used.

    Raises
    ------
    InputError : bits that are not a whole number from 1 to 24.
    """
    if not 1.0 <= bits <= UNROUNDED or bits != int(bits):
        raise InputError(f"quantize: bits = {bits:g}", f"a whole number from 1 to {UNROUNDED}", "8 is a PNG")
    if bits == UNROUNDED:
        return x.clone()
    steps = 2.0**bits - 1.0
    return (x * steps).round_().div_(steps)
