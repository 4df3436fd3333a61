"""Photons, sky, calibration and dust with NumPy, dust_extinction and GalSim, one image at a time."""

from typing import Any

import astropy.units as u
import dust_extinction.parameter_averages
import galsim
import numpy as np
import scipy.special

from benchmarks.peers import Peer
from perturbations.exposure import Exposure

LSST = Exposure.from_survey("LSST", bands="gri")
DES = Exposure.from_survey("DES", bands="gri")
SKY, VISITS, READ = (
    getattr(LSST, name).numpy().astype(np.float32)[:, None, None] for name in ("sky", "visits", "read_noise")
)
READ_VARIANCE = VISITS * READ**2
WAVELENGTHS = np.array([4864.1, 6249.8, 7564.7]) * u.AA
DUST = dust_extinction.parameter_averages.F99(Rv=3.1)
# electrons of LSST's full exposure per electron of DES's
UNIT = np.power(10.0, 0.4 * (LSST.zeropoint - DES.zeropoint).numpy())
OLD_PSF, NEW_PSF = ([galsim.Kolmogorov(fwhm=float(w)) for w in e.psf_fwhm] for e in (LSST, DES))


def shot_noise(flux: np.ndarray, detected: float, rng: np.random.Generator) -> np.ndarray:
    photons = np.maximum(flux + SKY, 0.0)
    missing = photons * (1.0 / detected - 1.0) + READ_VARIANCE * (1.0 / detected**2 - 1.0)
    return flux + np.sqrt(missing) * rng.standard_normal(flux.shape, dtype=np.float32)


def read_noise(flux: np.ndarray, added: float, rng: np.random.Generator) -> np.ndarray:
    return flux + np.sqrt(VISITS) * np.float32(added) * rng.standard_normal(flux.shape, dtype=np.float32)


def sky_gradient(flux: np.ndarray, percent: float, rng: np.random.Generator) -> np.ndarray:
    height, width = flux.shape[-2:]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    angle = rng.uniform(0.0, 2.0 * np.pi)
    plane = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    low, high = plane.min(), plane.max()
    light = (plane - low) / (high - low) * SKY * np.float32(percent / 100.0)
    noise = np.sqrt(light) * rng.standard_normal(flux.shape, dtype=np.float32)
    return flux + light + noise - SKY * np.float32(percent / 200.0)


def background_offset(flux: np.ndarray, percent: float, rng: np.random.Generator) -> np.ndarray:
    return flux + SKY * np.float32(percent / 100.0)


def zeropoint(flux: np.ndarray, error: float, rng: np.random.Generator) -> np.ndarray:
    normal = scipy.special.ndtri(rng.uniform(size=(len(flux), 1, 1)))
    return flux * np.power(10.0, -0.4 * error * normal).astype(np.float32)


def dimming(flux: np.ndarray, fainter: float, rng: np.random.Generator) -> np.ndarray:
    return _dimmed(flux, np.full((len(flux), 1, 1), 10.0 ** (-0.4 * fainter), dtype=np.float32), rng)


def extinction(flux: np.ndarray, reddening: float, rng: np.random.Generator) -> np.ndarray:
    kept = np.asarray(DUST.extinguish(WAVELENGTHS, Ebv=reddening), dtype=np.float32)
    return _dimmed(flux, kept[:, None, None], rng)


def _dimmed(flux: np.ndarray, kept: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    before = np.maximum(flux + SKY, 0.0) + READ_VARIANCE
    after = np.maximum(kept * flux + SKY, 0.0) + READ_VARIANCE
    missing = after - kept**2 * before
    return kept * flux + np.sqrt(missing) * rng.standard_normal(flux.shape, dtype=np.float32)


def other_survey(flux: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """GalSim follows the noise of the image through the new PSF and pixels, and whitens what it adds."""
    height, width = flux.shape[-2:]
    random = galsim.BaseDeviate(int(rng.integers(2**31)))
    seen = np.empty_like(flux)
    for band, image in enumerate(flux):
        variance = float(SKY[band, 0, 0] + READ_VARIANCE[band, 0, 0])
        sky: Any = galsim.InterpolatedImage(
            galsim.Image(image, scale=LSST.pixel_scale),
            x_interpolant="lanczos5",
            noise_pad=variance,
            noise_pad_size=1.1 * max(height, width) * DES.pixel_scale,
            rng=random,
            use_true_center=True,
        )
        sky.noise = galsim.UncorrelatedNoise(variance, scale=LSST.pixel_scale)
        bare = galsim.Deconvolve(galsim.Convolve(OLD_PSF[band], galsim.Pixel(LSST.pixel_scale)))
        light: Any = galsim.Convolve(sky, bare, NEW_PSF[band], galsim.Pixel(DES.pixel_scale))
        drawn = light.drawImage(nx=width, ny=height, scale=DES.pixel_scale, method="no_pixel", dtype=np.float32)
        carried = light.noise.whitenImage(drawn)
        # DES's noise in LSST's electrons: (flux + sky) of its own, at this fraction, times the square of the unit
        sky_level = float(DES.sky[band]) * UNIT[band]
        target = np.maximum(drawn.array + sky_level, 0.0) * UNIT[band] / fraction
        spread = np.sqrt(np.maximum(target - carried, 0.0))
        seen[band] = drawn.array + spread * rng.standard_normal(drawn.array.shape)
    return seen


PEERS: dict[str, Peer] = {
    "shot_noise": ("NumPy", shot_noise),
    "read_noise": ("NumPy", read_noise),
    "sky_gradient": ("NumPy", sky_gradient),
    "background_offset": ("NumPy", background_offset),
    "zeropoint": ("NumPy", zeropoint),
    "dimming": ("NumPy", dimming),
    "extinction": ("dust_extinction", extinction),
    "other_survey": ("GalSim", other_survey),
}
