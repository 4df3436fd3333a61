"""JPEG 2000 compression of the displayed image, by OpenJPEG through Pillow."""

import io

import numpy as np
import torch
from PIL import Image, features

from perturbations.core import corruption
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.quantising import through_bytes


@corruption(
    space="input",
    parameter="compression ratio",
    unit="1",
    ladder=(5.0, 10.0, 20.0, 40.0, 80.0),
    identity=None,
    no_identity="rounding to 8 bits and to coefficients changes the image at any ratio",
    source="Taubman & Marcellin 2002, JPEG2000: Image Compression Fundamentals, Standards and Practice (method); our "
    "choice: doubled from a ratio of 5, where noise begins to go, to 80, where a galaxy of 100 pixels is a few blots",
    version=1,
    whole=True,
)
def jpeg2000(x: torch.Tensor, ratio: float, draws: Draws) -> torch.Tensor:
    """Round to 8 bits, compress to one part in `ratio` with the irreversible 9/7 wavelet, and decompress.

    Three bands are compressed as one colour image (with the irreversible colour transform); any other number of bands
    one by one, as grey images. The size is that of the codestream with its header of some 100 bytes, so a small image
    at a large ratio comes back as plain grey.

    Parameters
    ----------
    x : images (N, C, H, W) float32 in [0, 1]. Not modified.
    ratio : 1 to 1000, bytes before to bytes after.
    draws : not used; JPEG 2000 is deterministic.

    Raises
    ------
    InputError : a ratio outside 1 to 1000, or a Pillow that was built without OpenJPEG.
    """
    if not 1.0 <= ratio <= 1000.0:
        raise InputError(f"jpeg2000: ratio = {ratio:g}", "1 <= ratio <= 1000", "choose a compression ratio")
    if not features.check("jpg_2000"):
        raise InputError(
            "this Pillow has no JPEG 2000", "a Pillow with OpenJPEG", "install Pillow from PyPI, or use jpeg"
        )
    return through_bytes(x, lambda picture: np.asarray(Image.open(io.BytesIO(_codestream(picture, ratio)))))


def _codestream(picture: np.ndarray, ratio: float) -> bytes:
    stored = io.BytesIO()
    Image.fromarray(picture).save(
        stored, "JPEG2000", quality_mode="rates", quality_layers=[ratio], irreversible=True, no_jp2=True
    )
    return stored.getvalue()
