"""Pixels without a measurement, filled from their neighbours as a pipeline does."""

from __future__ import annotations

import torch

SIGMA, REACH = 1.0, 4  # pixels: a Gaussian of 9 x 9; twice as wide, and again, where all of that is masked


def interpolated(flux: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Replace masked pixels by the Gaussian-weighted mean of the pixels around them that are not masked.

    The rule of astropy.convolution.interpolate_replace_nans, with a wider Gaussian where a whole neighbourhood is
    masked. An image without any good pixel becomes zero, blank sky.

    Parameters
    ----------
    flux : (N, C, H, W) float32. Not modified.
    mask : (N, C, H, W) or (N, 1, H, W) bool, True where the pixel is to be replaced.

    Returns
    -------
    (N, C, H, W) float32; pixels outside the mask are the same bits.
    """
    mask = mask.expand_as(flux)
    good = (~mask).to(flux.dtype)
    filled, todo = torch.where(mask, 0.0, flux), mask
    sigma, reach = SIGMA, REACH
    while bool(todo.any()) and sigma < 2 * max(flux.shape[-2:]):
        offset = torch.arange(-reach, reach + 1, dtype=flux.dtype, device=flux.device)
        window = torch.exp(-0.5 * (offset / sigma) ** 2)
        weight = _smoothed(good, window)
        value = _smoothed(good * filled, window) / weight.clamp_min(1e-30)
        now = todo & (weight > 1e-12)
        filled = torch.where(now, value, filled)
        todo = todo & ~now
        sigma, reach = 2 * sigma, 2 * reach
    return filled


def _smoothed(images: torch.Tensor, window: torch.Tensor) -> torch.Tensor:
    flat, reach = images.flatten(0, 1)[:, None], len(window) // 2
    along = torch.nn.functional.conv2d(flat, window.reshape(1, 1, 1, -1), padding=(0, reach))
    return torch.nn.functional.conv2d(along, window.reshape(1, 1, -1, 1), padding=(reach, 0)).reshape(images.shape)
