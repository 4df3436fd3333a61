"""The same image on a grid that lies a fraction of a pixel away."""

import torch

from perturbations.core import corruption
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.optics import orientation
from perturbations.resampling import shifted


@corruption(
    space="input",
    parameter="shift",
    unit="pixel",
    ladder=(0.1, 0.2, 0.3, 0.4, 0.5),
    identity=0.0,
    source="our choice: up to the half pixel by which the centre of a galaxy misses the centre of a pixel",
    version=1,
)
def subpixel_shift(x: torch.Tensor, shift: float, draws: Draws, *, angle: float | None = None) -> torch.Tensor:
    """Move the image by a fraction of a pixel, all bands together, and clip to [0, 1].

    The shift is a phase of the Fourier transform: it neither smooths nor sharpens, and white noise stays white. What
    comes in over the border is the image mirrored.

    Parameters
    ----------
    x : images (N, C, H, W) float32 in [0, 1]. Not modified.
    shift : 0 to 0.5 pixels.
    draws : this batch's random numbers, keyed by galaxy.
    angle : direction of the shift, from columns towards rows [degrees]. None: keyed by galaxy.

    Raises
    ------
    InputError : a shift outside [0, 0.5], or an angle that is not finite.
    """
    if not 0.0 <= shift <= 0.5:
        raise InputError(f"subpixel_shift: shift = {shift:g} pixels", "0 <= shift <= 0.5", "choose a smaller shift")
    theta = orientation(draws, angle, 360.0)[:, None]
    if shift == 0.0:
        return x.clone()
    return shifted(x, shift * theta.sin(), shift * theta.cos()).clamp_(0.0, 1.0)
