"""A cutout around the wrong place: the galaxy is not in the middle."""

import math

import torch

from perturbations.core import corruption
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.resampling import MARGIN, shifted


@corruption(
    space="input",
    parameter="offset of the centre",
    unit="pixel",
    ladder=(0.5, 1.0, 2.0, 4.0, 8.0),
    identity=0.0,
    source="our choice: from the rounding of a cutout to whole pixels (0.5) to a catalogue position on a clump, a bar "
    "or a companion (8 pixels, 1.6 arcsec for LSST)",
    version=1,
)
def miscentring(x: torch.Tensor, offset: float, draws: Draws) -> torch.Tensor:
    """Move the whole image by `offset` pixels in a direction drawn for each galaxy, the same at every strength.

    Interpolated by the Fourier shift theorem, so noise keeps its power, and clipped to [0, 1]. What enters at the
    border is the image mirrored there: it has the noise and the sky of the image, but repeats what lies at its edge.

    Parameters
    ----------
    x : images (N, C, H, W) float32 in [0, 1]. Not modified.
    offset : 0 to 16 pixels of the network's input.
    draws : this batch's random numbers, keyed by galaxy.

    Raises
    ------
    InputError : an offset outside 0 to 16.
    """
    if not 0.0 <= offset <= MARGIN:
        raise InputError(
            f"miscentring: offset = {offset:g} pixels",
            f"0 <= offset <= {MARGIN}",
            "cut the images out again around another place",
        )
    if offset == 0.0:
        return x.clone()
    angle = 2.0 * math.pi * draws.uniform("direction", (1,)).double()
    return shifted(x, offset * angle.sin(), offset * angle.cos()).clamp_(0.0, 1.0)
