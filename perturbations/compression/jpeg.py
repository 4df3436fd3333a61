"""JPEG compression of the displayed image, by libjpeg through Pillow."""

import io

import numpy as np
import torch
from PIL import Image

from perturbations.core import corruption
from perturbations.draws import Draws
from perturbations.errors import InputError


@corruption(
    space="input",
    parameter="quality",
    unit="1",
    ladder=(80.0, 50.0, 25.0, 15.0, 10.0),
    identity=None,
    no_identity="rounding to 8 bits and the cosine transform change the image at any quality",
    source="Hendrycks & Dietterich 2019, arXiv:1903.12261 (80, 50: CIFAR-10-C; 25, 15, 10: ImageNet-C)",
    version=1,
)
def jpeg(x: torch.Tensor, quality: float, draws: Draws) -> torch.Tensor:
    """Round to 8 bits, compress at a libjpeg quality and decompress.

    Three bands are compressed as one colour image (chroma subsampled 4:2:0, Pillow's default); any other number of
    bands one by one, as grey images.

    Parameters
    ----------
    x : images (N, C, H, W) float32 in [0, 1]. Not modified.
    quality : 1 to 100, libjpeg's scale.
    draws : not used; JPEG is deterministic.

    Raises
    ------
    InputError : a quality outside 1 to 100.
    """
    if not 1.0 <= quality <= 100.0 or quality != int(quality):
        raise InputError(f"jpeg: quality = {quality:g}", "a whole number from 1 to 100", "choose a libjpeg quality")
    grey = (x.detach().cpu().clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
    images = grey.permute(0, 2, 3, 1) if x.shape[1] == 3 else grey.flatten(0, 1)
    decoded = np.stack([_round_trip(image, int(quality)) for image in images.contiguous().numpy()])
    restored = torch.from_numpy(decoded).to(x) / 255.0
    return restored.permute(0, 3, 1, 2).contiguous() if x.shape[1] == 3 else restored.reshape(x.shape)


def _round_trip(image: np.ndarray, quality: int) -> np.ndarray:
    stored = io.BytesIO()
    Image.fromarray(image).save(stored, "JPEG", quality=quality)
    return np.asarray(Image.open(stored))
