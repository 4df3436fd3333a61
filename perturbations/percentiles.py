"""Percentiles of many images at once, as numpy.percentile gives them."""

from __future__ import annotations

import math

import numpy as np
import torch


def ordered(values: torch.Tensor) -> torch.Tensor:
    """Values in ascending order along the last axis; in NumPy on the CPU, whose sort is some ten times as fast."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.numpy(), axis=-1))
    return values.sort(dim=-1).values


def percentiles(images: torch.Tensor, *percents: float) -> tuple[torch.Tensor, ...]:
    """Percentiles of each band of each image, interpolated linearly between ranks.

    Parameters
    ----------
    images : (N, C, H, W). Not modified.
    percents : each 0 to 100.

    Returns
    -------
    One tensor (N, C, 1, 1) for each of `percents`.
    """
    values = ordered(images.flatten(2))
    return tuple(_at(values, percent)[..., None, None] for percent in percents)


def _at(values: torch.Tensor, percent: float) -> torch.Tensor:
    rank = percent / 100.0 * (values.shape[-1] - 1)
    below = math.floor(rank)
    above = min(below + 1, values.shape[-1] - 1)
    return torch.lerp(values[..., below], values[..., above], rank - below)
