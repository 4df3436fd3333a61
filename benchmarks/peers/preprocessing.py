"""Preprocessing one image at a time: NumPy, SciPy, Pillow and astropy.

For perturbations of the stretch, `flux` meets an asinh stretch with the constants of the benchmark's mock galaxies.
"""

import numpy as np
from astropy.stats import sigma_clip
from astropy.visualization import AsinhStretch
from PIL import Image
from scipy import ndimage

from benchmarks.peers import Peer

LOW = np.array([-525.0, -1124.0, -1332.0], dtype=np.float32)[:, None, None]
HIGH = np.array([2741.0, 9961.0, 10056.0], dtype=np.float32)[:, None, None]
SOFTENING = 0.85


def stretched(flux: np.ndarray, low: np.ndarray = LOW, high: np.ndarray = HIGH) -> np.ndarray:
    return np.clip((np.arcsinh(SOFTENING * np.clip(flux, low, high) / high) + 1.0) / 2.0, 0.0, 1.0)


def stretch(flux: np.ndarray, softening: float, rng: np.random.Generator) -> np.ndarray:
    bent = AsinhStretch(1.0 / softening)(np.clip(flux, LOW, HIGH) / HIGH, clip=False)
    return np.clip((np.arcsinh(SOFTENING * bent) + 1.0) / 2.0, 0.0, 1.0)


def clipping(flux: np.ndarray, percentile: float, rng: np.random.Generator) -> np.ndarray:
    low, high = np.percentile(flux, (100.0 - percentile, percentile), axis=(1, 2), keepdims=True)
    return stretched(np.clip(flux, low, high))


def per_image_normalisation(flux: np.ndarray, percentile: float, rng: np.random.Generator) -> np.ndarray:
    low, high = np.percentile(flux, (100.0 - percentile, percentile), axis=(1, 2), keepdims=True)
    return stretched(flux, low, high)


def background_oversubtraction(flux: np.ndarray, side: float, rng: np.random.Generator) -> np.ndarray:
    _, height, width = flux.shape
    down, across = max(1, round(height / side)), max(1, round(width / side))
    mesh = np.empty((len(flux), down, across))
    for i, rows in enumerate(np.array_split(np.arange(height), down)):
        for j, columns in enumerate(np.array_split(np.arange(width), across)):
            box = flux[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            mesh[:, i, j] = np.ma.median(sigma_clip(box, sigma=3, maxiters=5, axis=(1, 2)), axis=(1, 2))
    y, x = np.mgrid[:height, :width]
    places = (y + 0.5) * down / height - 0.5, (x + 0.5) * across / width - 0.5
    return stretched(flux - np.stack([ndimage.map_coordinates(m, places, order=1, mode="nearest") for m in mesh]))


def uint8(flux: np.ndarray, span: float, rng: np.random.Generator) -> np.ndarray:
    step = (HIGH - LOW) * span / 255.0
    stored = np.clip(np.round((flux - LOW) / step), 0.0, 255.0).astype(np.uint8)
    return stretched(stored * step + LOW)


def zeropoint_confusion(flux: np.ndarray, error: float, rng: np.random.Generator) -> np.ndarray:
    return stretched(flux * 10.0 ** (0.4 * error))


def miscentring(values: np.ndarray, offset: float, rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(0.0, 2.0 * np.pi)
    move = (offset * np.sin(angle), offset * np.cos(angle))
    return np.clip(np.stack([ndimage.shift(band, move, mode="mirror") for band in values]), 0.0, 1.0)


def crop(values: np.ndarray, kept: float, rng: np.random.Generator) -> np.ndarray:
    _, height, width = values.shape
    top, left = (1.0 - kept) * height / 2.0, (1.0 - kept) * width / 2.0
    box = (left, top, width - left, height - top)
    return np.stack(
        [np.asarray(Image.fromarray(band).resize((width, height), Image.Resampling.BILINEAR, box)) for band in values]
    )


def band_dropout(values: np.ndarray, missing: float, rng: np.random.Generator) -> np.ndarray:
    lost = rng.permutation(len(values))[: int(missing)]
    left = values.copy()
    left[lost] = np.median(values[lost], axis=(1, 2), keepdims=True)
    return left


def band_swap(values: np.ndarray, moved: float, rng: np.random.Generator) -> np.ndarray:
    chosen = rng.permutation(len(values))[: int(moved)]
    swapped = values.copy()
    swapped[chosen] = values[np.roll(chosen, -1)]
    return swapped


def band_misregistration(values: np.ndarray, offset: float, rng: np.random.Generator) -> np.ndarray:
    angles = rng.uniform(0.0, 2.0 * np.pi, len(values) - 1)
    moved = [
        ndimage.shift(band, (offset * np.sin(angle), offset * np.cos(angle)), mode="mirror")
        for band, angle in zip(values[1:], angles, strict=True)
    ]
    return np.clip(np.stack([values[0], *moved]), 0.0, 1.0)


PEERS: dict[str, Peer] = {
    "stretch": ("astropy", stretch),
    "clipping": ("NumPy", clipping),
    "per_image_normalisation": ("NumPy", per_image_normalisation),
    "background_oversubtraction": ("astropy, SciPy", background_oversubtraction),
    "uint8": ("NumPy", uint8),
    "zeropoint_confusion": ("NumPy", zeropoint_confusion),
    "miscentring": ("SciPy", miscentring),
    "crop": ("Pillow", crop),
    "band_dropout": ("NumPy", band_dropout),
    "band_swap": ("NumPy", band_swap),
    "band_misregistration": ("SciPy", band_misregistration),
}
