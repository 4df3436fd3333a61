"""Optics, air, pixels and grids with SciPy, GalSim and NumPy, one image at a time.

Kernels of telescopes come from GalSim and are kept per strength, as a user would; NumPy's FFT convolves and makes the
noise that the convolution took away. Stamps are square.
"""

import math
from functools import lru_cache
from typing import Any

import galsim
import galsim.dcr
import numpy as np
import scipy.ndimage
import torch

from benchmarks.peers import Peer
from perturbations.exposure import Exposure

LSST = Exposure.from_survey("LSST", bands="gri")
BLANK = LSST.variance(torch.zeros(1, 3, 1, 1))[0].numpy()  # e-^2 per pixel
FWHM = LSST.psf_fwhm.tolist()
NM = (486.412, 624.976, 756.469)
EDGES = ((409.5, 552.0), (553.5, 688.5), (692.0, 816.5))  # nm, half of the maximum
SCALE, DIAMETER = 0.2, 8.36
OBSCURATION = 0.6266
MARGIN = 25  # pixels


def defocus(flux: np.ndarray, error: float, rng: np.random.Generator) -> np.ndarray:
    return _observed(flux, _pupil("defocus", error, flux.shape[1:], 0), rng)


def astigmatism(flux: np.ndarray, error: float, rng: np.random.Generator) -> np.ndarray:
    return _observed(flux, _pupil("astig2", error, flux.shape[1:], int(rng.integers(4))), rng)


def tracking(flux: np.ndarray, drift: float, rng: np.random.Generator) -> np.ndarray:
    y, x = _frequencies(flux.shape[1:])
    angle = rng.uniform(0.0, math.pi)
    return _observed(flux, np.sinc(drift * (x * math.cos(angle) + y * math.sin(angle))), rng)


def airmass(flux: np.ndarray, secant: float, rng: np.random.Generator) -> np.ndarray:
    y, x = _frequencies(flux.shape[1:])
    angle = rng.uniform(0.0, 2.0 * math.pi)
    along = x * math.cos(angle) + y * math.sin(angle)
    prism = np.stack(
        [np.exp(-2j * math.pi * along * centre) * np.sinc(along * length) for centre, length in _lift(secant)]
    )
    return _observed(flux, prism * _seeing(secant, flux.shape[1:]), rng)


def pixel_scale(flux: np.ndarray, ratio: float, rng: np.random.Generator) -> np.ndarray:
    overlap, vectors, kept = _binning(flux.shape[-1], ratio)
    light = overlap @ flux @ overlap.T
    missing = np.sqrt((1.0 - np.outer(kept, kept)).clip(0.0))
    noise = vectors @ (rng.standard_normal(flux.shape, dtype=np.float32) * missing) @ vectors.T
    return light + noise * np.sqrt((light + ratio**2 * BLANK).clip(0.0))


def subpixel_shift(values: np.ndarray, shift: float, rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(0.0, 2.0 * math.pi)
    edge = 16
    field = np.pad(values, ((0, 0), (edge, edge), (edge, edge)), mode="reflect")
    step = (0.0, shift * math.sin(angle), shift * math.cos(angle))
    spectrum: Any = scipy.ndimage.fourier_shift(np.fft.fft2(field), step)  # pyright: ignore
    return np.fft.ifft2(spectrum).real[:, edge:-edge, edge:-edge].clip(0.0, 1.0)


def rotation(values: np.ndarray, angle: float, rng: np.random.Generator) -> np.ndarray:
    """By splines of third order, which most people would take, though they smooth the noise."""
    turn = angle if rng.random() < 0.5 else -angle
    return scipy.ndimage.rotate(values, turn, axes=(1, 2), reshape=False, order=3, mode="mirror").clip(0.0, 1.0)


def _observed(flux: np.ndarray, transfer: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Convolved, with blank sky around the stamp and the missing noise put back."""
    height, width = flux.shape[1:]
    size = (height + MARGIN, width + MARGIN)
    field = rng.standard_normal((len(flux), *size), dtype=np.float32) * np.sqrt(BLANK)
    field[:, :height, :width] = flux
    noise = rng.standard_normal((len(flux), *size), dtype=np.float32)
    missing = np.sqrt((1.0 - np.abs(transfer) ** 2).clip(0.0))
    light = np.fft.irfft2(np.fft.rfft2(field) * transfer, s=size)[:, :height, :width]
    noise = np.fft.irfft2(np.fft.rfft2(noise) * missing, s=size)[:, :height, :width]
    return (light + noise * np.sqrt((light + BLANK).clip(0.0))).astype(np.float32)


@lru_cache(maxsize=8)
def _frequencies(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Cycles per arcsec."""
    height, width = shape
    return np.fft.fftfreq(height + MARGIN, SCALE)[:, None], np.fft.rfftfreq(width + MARGIN, SCALE)[None]


@lru_cache(maxsize=512)
def _pupil(term: str, error: float, shape: tuple[int, int], turn: int) -> np.ndarray:
    """GalSim's transfer function of the aberrated telescope over that of a perfect one; `turn` by 45 degrees.

    Few orientations, so that they are drawn once.
    """
    size = shape[0] + MARGIN
    kernels = []
    for nm in NM:
        options: dict[str, Any] = {"lam": nm, "diam": DIAMETER, "obscuration": OBSCURATION, "annular_zernike": True}
        perfect = dict(options)
        options[term] = error / nm
        if term == "astig2":
            balance = (1.0 - OBSCURATION**2) / math.sqrt(2.0 * (1.0 + OBSCURATION**2 + OBSCURATION**4))
            options["defocus"] = 0.5 * balance * error / nm
        pair = [galsim.OpticalPSF(oversampling=1, **kind) for kind in (options, perfect)]
        grid = {"nx": size, "ny": size, "scale": 2.0 * math.pi / (size * SCALE)}
        drawn: list[Any] = [p.rotate(45 * turn * galsim.degrees).drawKImage(**grid) for p in pair]
        bad, good = (np.fft.ifftshift(image.array.real) for image in drawn)
        kernels.append((bad / good)[:, : size // 2 + 1])
    return np.stack(kernels).clip(-1.0, 1.0)


@lru_cache(maxsize=8)
def _lift(secant: float) -> list[tuple[float, float]]:
    """Mean lift of each band above that of r, and the length of its smear [arcsec]."""
    zenith = math.acos(1.0 / secant) * galsim.radians
    lift = [galsim.dcr.get_refraction(np.linspace(*e, 200), zenith) * (180.0 / math.pi * 3600.0) for e in EDGES]
    return [(float(band.mean() - lift[1].mean()), float(band.std() * 12.0**0.5)) for band in lift]


@lru_cache(maxsize=8)
def _seeing(secant: float, shape: tuple[int, int]) -> np.ndarray:
    """The ratio of two Kolmogorov transfer functions for each band."""
    k = 2.0 * math.pi * np.hypot(*_frequencies(shape))
    k0 = 2.992934 * 0.975865
    return np.stack([np.exp(((k * w / k0) ** (5 / 3)) * (1.0 - secant)) for w in FWHM])


@lru_cache(maxsize=8)
def _binning(size: int, ratio: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    edges = (np.arange(size + 1) - size / 2.0) * ratio + size / 2.0
    old = np.arange(size)
    overlap = (np.minimum(edges[1:, None], old + 1) - np.maximum(edges[:-1, None], old)).clip(0.0).astype(np.float32)
    kept, vectors = np.linalg.eigh(overlap @ overlap.T / ratio)
    return overlap, vectors, kept


PEERS: dict[str, Peer] = {
    "defocus": ("GalSim and NumPy", defocus),
    "astigmatism": ("GalSim and NumPy", astigmatism),
    "tracking": ("NumPy", tracking),
    "airmass": ("GalSim and NumPy", airmass),
    "pixel_scale": ("NumPy", pixel_scale),
    "subpixel_shift": ("SciPy", subpixel_shift),
    "rotation": ("SciPy", rotation),
}
