"""JPEG compression of the displayed image, by libjpeg through Pillow."""

import io

import numpy as np
import torch
from PIL import Image

from perturbations.core import corruption
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.quantising import through_bytes


@corruption(
    space="input",
    parameter="quality",
    unit="1",
    ladder=(80.0, 50.0, 25.0, 15.0, 10.0),
    identity=None,
    no_identity="rounding to 8 bits and the cosine transform change the image at any quality",
    source="Hendrycks & Dietterich 2019, arXiv:1903.12261 (80, 50: CIFAR-10-C; 25, 15, 10: ImageNet-C)",
    version=1,
    whole=True,
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
    return through_bytes(x, lambda picture: _round_trip(picture, int(quality)))


def _round_trip(picture: np.ndarray, quality: int) -> np.ndarray:
    stored = io.BytesIO()
    Image.fromarray(picture).save(stored, "JPEG", quality=quality)
    return np.asarray(Image.open(stored, formats=("JPEG",)))
