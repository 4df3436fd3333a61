"""How an image of any number of bands is shown."""

from __future__ import annotations

import numpy as np

DISPLAYED = (0.5, 99.8)  # percentiles of the clean image shown as black and white
COLOUR_BANDS = ({"r", "g", "b"}, {"red", "green", "blue"})


def display(image: np.ndarray, bands: tuple[str, ...], low: float, high: float) -> np.ndarray:
    """An image (C, H, W) as grey (H, W) or, of three bands, red-green-blue (H, W, 3), between 0 and 1."""
    scaled = np.clip((image - low) / ((high - low) or 1.0), 0.0, 1.0)
    if len(scaled) != 3:
        return scaled.mean(axis=0)
    return np.moveaxis(scaled if _is_display(bands) else scaled[::-1], 0, -1)


def band_note(bands: tuple[str, ...]) -> str:
    """Which colour is which band, for a caption."""
    if len(bands) == 3 and not _is_display(bands):
        return f"{', '.join(bands)} shown as blue, green, red."
    return {1: f"Band: {bands[0]}.", 3: "Colours as in the data."}.get(len(bands), f"Mean of {', '.join(bands)}.")


def difference(clean: np.ndarray, perturbed: np.ndarray) -> np.ndarray:
    """Perturbed minus clean (H, W), of the band that changed most in each pixel."""
    change = perturbed - clean
    most = np.abs(change).argmax(axis=0)
    return np.take_along_axis(change, most[None], axis=0)[0]


def _is_display(bands: tuple[str, ...]) -> bool:
    return {band.lower() for band in bands} in COLOUR_BANDS
