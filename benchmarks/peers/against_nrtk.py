"""NRTK, where it has the same perturbation; it takes uint8 images (H, W, C), and puts no noise back after a blur."""

import numpy as np

from benchmarks.peers import Peer


def pixel_noise(values: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    from nrtk.impls.perturb_image.photometric.noise import GaussianNoisePerturber  # pyright: ignore[reportMissingImports]

    return GaussianNoisePerturber(var=sigma**2, seed=int(rng.integers(2**31))).perturb(image=_display(values))[0]


def miscentring(values: np.ndarray, pixels: float, rng: np.random.Generator) -> np.ndarray:
    from nrtk.impls.perturb_image.geometric.random import RandomTranslationPerturber  # pyright: ignore[reportMissingImports]

    perturber = RandomTranslationPerturber(seed=int(rng.integers(2**31)))
    limit = max(1, round(pixels))
    return perturber.perturb(image=_display(values), max_translation_limit=(limit, limit))[0]


def defocus(flux: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    from nrtk.impls.perturb_image.optical.otf import DefocusPerturber  # pyright: ignore[reportMissingImports]

    return DefocusPerturber(w_x=strength, w_y=strength).perturb(image=_stretched(flux), img_gsd=0.2)[0]


def tracking(flux: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    from nrtk.impls.perturb_image.optical.otf import JitterPerturber  # pyright: ignore[reportMissingImports]

    return JitterPerturber(s_x=strength, s_y=strength).perturb(image=_stretched(flux), img_gsd=0.2)[0]


def _display(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(np.rint(values * 255.0).astype(np.uint8), 0, -1))


def _stretched(flux: np.ndarray) -> np.ndarray:
    return _display((np.arcsinh(flux / 2e4) / 2.0 + 0.5).clip(0.0, 1.0))


PEERS: dict[str, Peer] = {f.__name__: ("NRTK", f) for f in (pixel_noise, miscentring, defocus, tracking)}
LESS = ("miscentring", "defocus", "tracking")
