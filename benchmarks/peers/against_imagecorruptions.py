"""imagecorruptions (ImageNet-C), where it has the like: uint8 images (H, W, C) at its own severity 3.

Its blurs put no noise back, and its strengths are not ours: this is the time of the nearest thing that it has.
"""

from collections.abc import Callable

import numpy as np

from benchmarks.peers import Peer


def _corrupted(name: str) -> Callable[[np.ndarray, float, np.random.Generator], np.ndarray]:
    def peer(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
        from imagecorruptions import corrupt  # pyright: ignore[reportMissingImports]

        values = image if image.max() <= 1.0 else (np.arcsinh(image / 2e4) / 2.0 + 0.5).clip(0.0, 1.0)
        grey = np.ascontiguousarray(np.moveaxis(np.rint(values * 255.0).astype(np.uint8), 0, -1))
        return corrupt(grey, corruption_name=name, severity=3)

    return peer


SAME = {
    "pixel_noise": "gaussian_noise",
    "shot_noise": "shot_noise",
    "hot_pixels": "impulse_noise",
    "defocus": "defocus_blur",
    "tracking": "motion_blur",
    "jpeg": "jpeg_compression",
}
PEERS: dict[str, Peer] = {ours: ("imagecorruptions", _corrupted(theirs)) for ours, theirs in SAME.items()}
LESS = ("defocus", "tracking")
