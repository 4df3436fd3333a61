"""The same sky on another camera's larger pixels."""

from functools import lru_cache

import numpy as np
import torch

from perturbations.core import Observation, corruption
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.psf import undamaged


@corruption(
    space="flux",
    parameter="pixel scale, new over old",
    unit="1",
    ladder=(1.19, 1.32, 1.57, 1.98, 2.36),
    identity=1.0,
    source="surveycodex 1.3: LSST/HSC, DES/LSST, DES/HSC, SDSS/LSST and SDSS/HSC (0.168, 0.2, 0.2637, 0.396 arcsec)",
    version=1,
)
def pixel_scale(sky: Observation, ratio: float, draws: Draws) -> Observation:
    """Observe with pixels `ratio` times larger behind the same telescope, seeing and exposure time.

    A new pixel collects the light of the old ones below it, each by the area they share. The image keeps its number of
    pixels and its centre: the galaxy gets smaller, and blank sky of the new exposure fills what was outside. With A the
    overlaps along one axis, binned noise has the covariance A A^T of neighbours that share a pixel; a real camera's
    pixels share none, so the missing noise is added in the eigenbasis of A A^T, which makes blank sky exactly white.
    Near bright light the missing noise is scaled with the local variance, which is approximate where that changes from
    pixel to pixel. Readout noise grows like that of binned pixels, by `ratio`.

    Parameters
    ----------
    sky : flux (N, C, H, W) in reference electrons per pixel, and its Exposure. Not modified.
    ratio : >= 1.
    draws : this batch's random numbers, keyed by galaxy.

    Returns
    -------
    Observation whose exposure has the larger pixel_scale, ratio^2 times the sky per pixel and `ratio` times the read
    noise. The full well is per pixel and stays.

    Raises
    ------
    InputError : a ratio below 1, or masked pixels.
    """
    if not 1.0 <= ratio <= 1e3:
        raise InputError(f"pixel_scale: ratio = {ratio:g}", "1 <= ratio <= 1000", "smaller pixels need a sharper image")
    undamaged(sky)
    if ratio == 1.0:
        return sky.replace(sky.flux.clone())
    exposure = sky.exposure.replace(
        pixel_scale=sky.exposure.pixel_scale * ratio,
        sky=sky.exposure.sky * ratio**2,
        read_noise=sky.exposure.read_noise * ratio,
    )
    (down, up, kept_y), (right, left, kept_x) = (
        tuple(matrix.to(sky.flux) for matrix in _binning(size, ratio)) for size in sky.flux.shape[-2:]
    )
    light = down @ sky.flux @ right.T
    missing = (1.0 - kept_y[:, None] * kept_x).clamp_min(0.0).sqrt()
    # a symmetric root: eigenvectors alone have signs that no strength and no library agrees on
    noise = up @ (up.T @ draws.normal("noise", sky.flux.shape[1:]) @ left).mul_(missing) @ left.T
    return sky.replace(noise.mul_(exposure.variance(light).sqrt_()).add_(light), exposure)


@lru_cache(maxsize=32)
def _binning(size: int, ratio: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Overlaps A (new, old) along one axis, and eigenvectors and eigenvalues of A A^T / ratio; float64."""
    edges = (np.arange(size + 1) - size / 2.0) * ratio + size / 2.0
    old = np.arange(size)
    overlap = np.minimum(edges[1:, None], old + 1.0) - np.maximum(edges[:-1, None], old)
    overlap = torch.from_numpy(overlap.clip(min=0.0))
    kept, vectors = torch.linalg.eigh(overlap @ overlap.T / ratio)
    return overlap, vectors, kept
