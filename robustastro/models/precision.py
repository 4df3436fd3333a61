"""Float32 that is float32 on every device: a GPU may otherwise convolve in TF32, with 10 bits in place of 23."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Within it, convolutions on this device are in float32 and the same each time. Costs nothing on a CPU."""
    if device.type != "cuda":
        yield
        return
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield
