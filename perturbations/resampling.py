"""Images on a shifted grid, by the Fourier shift theorem: white noise stays white, and flux stays.

For images that need no units. What lies beyond the border is the image mirrored.
"""

from __future__ import annotations

import math

import torch

from perturbations.psf import padded_size

MARGIN = 16  # pixels of mirrored image around the stamp


def shifted(x: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Images moved by a fraction of a pixel, or more.

    Parameters
    ----------
    x : (N, C, H, W) float32. Not modified.
    rows, columns : how far down and to the right [pixels], (N, C) or broadcastable to it, |shift| <= 16.

    Returns
    -------
    (N, C, H, W) float32. Interpolation by the whole sinc: values may leave the range of `x` near sharp edges.
    """
    _, _, height, width = x.shape
    above, below = _margins(height)
    left, after = _margins(width)
    field = torch.nn.functional.pad(x, (left, after, above, below), mode="reflect")
    size = (field.shape[-2], field.shape[-1])
    y = 2.0 * math.pi * torch.fft.fftfreq(size[0], dtype=torch.float64, device=x.device)[:, None]
    k = 2.0 * math.pi * torch.fft.rfftfreq(size[1], dtype=torch.float64, device=x.device)[None, :]
    down, right = (s.to(x.device, torch.float64).expand(len(x), x.shape[1])[..., None, None] for s in (rows, columns))
    one = torch.ones((), dtype=torch.float64, device=x.device)
    spectrum = torch.fft.rfft2(field)
    spectrum *= torch.polar(one, -(y * down)).to(torch.complex64)
    spectrum *= torch.polar(one, -(k * right)).to(torch.complex64)
    moved = torch.fft.irfft2(spectrum, s=size)
    return moved[:, :, above : above + height, left : left + width].contiguous()


def _margins(size: int) -> tuple[int, int]:
    """Mirrored pixels before and after, as alike as can be: where the field wraps around, sky then meets sky."""
    both = padded_size(size, 2 * MARGIN) - size
    return min(both // 2, size - 1), min(both - both // 2, size - 1)
