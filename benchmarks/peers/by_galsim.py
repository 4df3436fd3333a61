"""With GalSim alone, image by image and band by band, what the other modules here do by hand in NumPy."""

from typing import Any

import galsim
import numpy as np

from benchmarks.peers import Peer
from perturbations.exposure import Exposure

LSST = Exposure.from_survey("LSST", bands="gri")
SKY, VISITS, FULL_WELL = LSST.sky.tolist(), LSST.visits.tolist(), LSST.full_well.tolist()
READ = (LSST.visits * LSST.read_noise**2).tolist()
FWHM, SCALE = LSST.psf_fwhm.tolist(), LSST.pixel_scale


def read_noise(flux: np.ndarray, added: float, rng: np.random.Generator) -> np.ndarray:
    deviate = _deviate(rng)

    def changed(image: Any, band: int) -> Any:
        image.addNoise(galsim.GaussianNoise(deviate, sigma=VISITS[band] ** 0.5 * added))
        return image

    return _each(flux, changed)


def dimming(flux: np.ndarray, fainter: float, rng: np.random.Generator) -> np.ndarray:
    deviate, kept = _deviate(rng), 10.0 ** (-0.4 * fainter)

    def changed(image: Any, band: int) -> Any:
        faint = image * kept
        missing = faint.array * (1.0 - kept) + (SKY[band] + READ[band]) * (1.0 - kept**2)
        faint.addNoise(galsim.VariableGaussianNoise(deviate, galsim.ImageF(missing.clip(0.0))))
        return faint

    return _each(flux, changed)


def sky_gradient(flux: np.ndarray, percent: float, rng: np.random.Generator) -> np.ndarray:
    deviate, angle = _deviate(rng), rng.uniform(0.0, 2.0 * np.pi)
    y, x = np.mgrid[: flux.shape[1], : flux.shape[2]]
    plane = x * np.cos(angle) + y * np.sin(angle)
    plane = (plane - plane.min()) / np.ptp(plane) * percent / 100.0

    def changed(image: Any, band: int) -> Any:
        light: Any = galsim.ImageF((plane * SKY[band]).astype(np.float32))
        light.addNoise(galsim.VariableGaussianNoise(deviate, light.copy()))
        return image + light - SKY[band] * percent / 200.0

    return _each(flux, changed)


def background_offset(flux: np.ndarray, percent: float, rng: np.random.Generator) -> np.ndarray:
    return _each(flux, lambda image, band: image + SKY[band] * percent / 100.0)


def zeropoint(flux: np.ndarray, error: float, rng: np.random.Generator) -> np.ndarray:
    deviate = galsim.GaussianDeviate(_deviate(rng), sigma=error)
    return _each(flux, lambda image, band: image * 10.0 ** (-0.4 * deviate()))


def nonlinearity(flux: np.ndarray, alpha: float, rng: np.random.Generator) -> np.ndarray:
    def changed(image: Any, band: int) -> Any:
        visit = (image + SKY[band]) / VISITS[band]
        visit.applyNonlinearity(lambda q: q * (1.0 - alpha * np.minimum(q / FULL_WELL[band], 1.0)))
        dark = SKY[band] / VISITS[band]
        return (visit - dark * (1.0 - alpha * dark / FULL_WELL[band])) * VISITS[band]

    return _each(flux, changed)


def tracking(flux: np.ndarray, drift: float, rng: np.random.Generator) -> np.ndarray:
    trail = galsim.Box(drift, 0.02).rotate(rng.uniform(0.0, 180.0) * galsim.degrees)
    return _drawn(flux, trail, 1.0, _deviate(rng))


def pixel_scale(flux: np.ndarray, ratio: float, rng: np.random.Generator) -> np.ndarray:
    return _drawn(flux, galsim.Pixel(SCALE * ratio), ratio, _deviate(rng))


def _drawn(flux: np.ndarray, kernel: Any, ratio: float, deviate: galsim.BaseDeviate) -> np.ndarray:
    """Convolve with a kernel, draw on pixels `ratio` times as large, and add white noise of the variance that is lost.

    GalSim's own whitening asks for tens of gigabytes with kernels as sharp as these.
    """

    def changed(image: Any, band: int) -> Any:
        image.scale = SCALE
        height, width = image.array.shape
        blank = SKY[band] + READ[band]
        size: Any = 1.1 * max(image.array.shape) * SCALE * ratio
        sky = galsim.InterpolatedImage(image, noise_pad=blank, noise_pad_size=size, rng=deviate)
        seen: Any = galsim.Convolve(sky, kernel)
        drawn = seen.drawImage(nx=width, ny=height, scale=SCALE * ratio, method="no_pixel")
        lost = max(blank * ratio**2 - drawn.array[:10].var(), 0.0)
        drawn.addNoise(galsim.GaussianNoise(deviate, sigma=lost**0.5))
        return drawn

    return _each(flux, changed)


def _each(flux: np.ndarray, changed) -> np.ndarray:
    return np.stack([changed(galsim.ImageF(image.copy()), band).array for band, image in enumerate(flux)])


def _deviate(rng: np.random.Generator) -> galsim.BaseDeviate:
    return galsim.BaseDeviate(int(rng.integers(2**31)))


FUNCTIONS = (read_noise, dimming, sky_gradient, background_offset, zeropoint, nonlinearity, tracking, pixel_scale)
PEERS: dict[str, Peer] = {f.__name__: ("GalSim", f) for f in FUNCTIONS}
