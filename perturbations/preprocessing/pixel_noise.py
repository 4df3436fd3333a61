"""Gaussian noise on the pixels a network sees, for images without physical units."""

import torch

from perturbations.core import corruption
from perturbations.draws import Draws
from perturbations.errors import InputError


@corruption(
    space="input",
    parameter="standard deviation",
    unit="input",
    ladder=(0.02, 0.04, 0.08, 0.12, 0.18),
    identity=0.0,
    source="Hendrycks & Dietterich 2019, arXiv:1903.12261 (0.04: CIFAR-10-C; 0.08 to 0.18: ImageNet-C; 0.02: milder)",
    version=1,
)
def pixel_noise(x: torch.Tensor, sigma: float, draws: Draws) -> torch.Tensor:
    """Add independent Gaussian noise to every value and clip to [0, 1], as a display image would.

    It is no model of a detector: use `sky_noise` or `depth` where the images have an Exposure.

    Parameters
    ----------
    x : images (N, C, H, W) float32 in [0, 1]. Not modified.
    sigma : standard deviation >= 0, in units of the full input range.
    draws : this batch's random numbers, keyed by galaxy.

    Raises
    ------
    InputError : a negative `sigma`.
    """
    if not 0.0 <= sigma < float("inf"):
        raise InputError(f"pixel_noise: sigma = {sigma:g}", "sigma >= 0", "give a standard deviation in input units")
    return (x + sigma * draws.normal("noise", x.shape[1:])).clamp_(0.0, 1.0)
