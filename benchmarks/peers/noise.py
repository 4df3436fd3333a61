"""Depth, sky and seeing with GalSim, an image at a time."""

from typing import Any

import galsim
import numpy as np

from benchmarks.peers import Peer
from perturbations.exposure import Exposure

LSST = Exposure.from_survey("LSST", "gri")
SKY, FRACTION, FWHM = LSST.sky.tolist(), LSST.fraction.tolist(), LSST.psf_fwhm.tolist()
READ = (LSST.visits * LSST.read_noise**2).tolist()


def depth(flux: np.ndarray, kept: float, rng: np.random.Generator) -> np.ndarray:
    return _noisier(flux, rng, lambda band: (flux[band] + SKY[band] + READ[band]) / FRACTION[band] * (1.0 / kept - 1.0))


def sky_noise(flux: np.ndarray, brightening: float, rng: np.random.Generator) -> np.ndarray:
    extra = 10.0 ** (0.4 * brightening) - 1.0
    return _noisier(flux, rng, lambda band: np.full_like(flux[band], SKY[band] * extra / FRACTION[band]))


def _noisier(flux: np.ndarray, rng: np.random.Generator, variance) -> np.ndarray:
    deviate, seen = galsim.BaseDeviate(int(rng.integers(2**31))), np.empty_like(flux)
    for band in range(len(flux)):
        image: Any = galsim.ImageF(flux[band].copy())
        image.addNoise(galsim.VariableGaussianNoise(deviate, galsim.ImageF(variance(band).clip(0.0))))
        seen[band] = image.array
    return seen


def seeing(flux: np.ndarray, extra: float, rng: np.random.Generator) -> np.ndarray:
    """Deconvolve, convolve, and whiten what GalSim knows of the noise."""
    deviate, seen = galsim.BaseDeviate(int(rng.integers(2**31))), np.empty_like(flux)
    for band, image in enumerate(flux):
        profile = galsim.InterpolatedImage(galsim.ImageF(image.copy(), scale=0.2), normalization="flux")
        fwhm = float(np.hypot(FWHM[band], extra))
        kernel = galsim.Convolve(galsim.Kolmogorov(fwhm=fwhm), galsim.Deconvolve(galsim.Kolmogorov(fwhm=FWHM[band])))
        convolved: Any = galsim.Convolve(profile, kernel)
        drawn = convolved.drawImage(nx=image.shape[1], ny=image.shape[0], scale=0.2, method="no_pixel")
        white = galsim.UncorrelatedNoise((SKY[band] + READ[band]) / FRACTION[band], rng=deviate, scale=0.2)
        drawn.whitenNoise(white.convolvedWith(kernel))
        seen[band] = drawn.array
    return seen


PEERS: dict[str, Peer] = {
    "depth": ("GalSim", depth),
    "sky_noise": ("GalSim", sky_noise),
    "seeing": ("GalSim", seeing),
}
