"""Detector effects one image at a time, with NumPy, SciPy and GalSim. imagecorruptions has none of them."""

import galsim
import numpy as np
import scipy.signal
import scipy.special

from benchmarks.peers import Peer
from perturbations.exposure import Exposure

_LSST = Exposure.from_survey("LSST", bands="gri")
SKY, VISITS, FULL = (getattr(_LSST, name).numpy()[:, None, None] for name in ("sky", "visits", "full_well"))
ZEROPOINT, FWHM, SCALE = _LSST.zeropoint.numpy(), _LSST.psf_fwhm.numpy(), _LSST.pixel_scale
MAGNITUDE, PIXEL, DEPTH, SECONDS = 12.0, 10.0, 100.0, 30.0

_RADIUS2 = np.add.outer(np.arange(-8, 9) ** 2, np.arange(-8, 9) ** 2)
_KERNEL = ((1.0 + _RADIUS2 / 0.49) ** -1.5 / (2.0 - 2.0 * (1.0 + 1.0 / 0.49) ** -1.5)).astype(np.float32)


def _log_uniform(low: float, high: float, size: int, rng: np.random.Generator) -> np.ndarray:
    return low * (high / low) ** rng.random(size)


def hot_pixels(flux: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    hot = flux.copy()
    band, row, column = np.nonzero(rng.random(flux.shape) < fraction)
    charge = _log_uniform(10.0, 1e5, len(band), rng)
    held = (flux[band, row, column] + SKY[band, 0, 0]) / VISITS[band, 0, 0]
    hot[band, row, column] += np.minimum(charge, FULL[band, 0, 0] - held)
    return hot


def dead_pixels(flux: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    return np.where(rng.random(flux.shape) < fraction, -SKY.astype(np.float32), flux)


def bad_columns(flux: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    bad = flux.copy()
    for band in range(len(flux)):
        columns = np.nonzero(rng.random(flux.shape[2]) < fraction)[0]
        bright = rng.random(len(columns)) < 0.5
        bad[band][:, columns[~bright]] = -SKY[band]
        bad[band][:, columns[bright]] += _log_uniform(10.0, 1e3, int(bright.sum()), rng) * VISITS[band, 0, 0]
    return bad


def cosmic_rays(flux: np.ndarray, rate: float, rng: np.random.Generator) -> np.ndarray:
    struck, (height, width) = flux.copy(), flux.shape[1:]
    area = height * width * (PIXEL * 1e-4) ** 2
    for band in range(len(flux)):
        for _ in range(rng.poisson(rate * area * SECONDS * VISITS[band, 0, 0])):
            cosine = rng.random() ** 0.25
            length = DEPTH / PIXEL * np.sqrt(1.0 / cosine**2 - 1.0)
            loss = 75.0 - 4.9 * np.log(rng.standard_normal() ** 2)
            angle, steps = 2.0 * np.pi * rng.random(), max(int(np.ceil(length)), 1)
            along = (np.arange(steps) + 0.5) / steps * length
            y, x = rng.random() * height + along * np.sin(angle), rng.random() * width + along * np.cos(angle)
            value = DEPTH / cosine * loss / steps * _parts(y)[:, :, None] * _parts(x)[:, None, :]
            rows, columns = _around(y, height), _around(x, width)
            np.add.at(struck[band], (rows[:, :, None], columns[:, None, :]), value)
    return struck


def _around(position: np.ndarray, size: int) -> np.ndarray:
    return (np.floor(position).astype(int)[:, None] + np.arange(-1, 2)) % size


def _parts(position: np.ndarray) -> np.ndarray:
    inside = position - np.floor(position)
    below, above = scipy.special.ndtr(-inside / 0.4), scipy.special.ndtr((inside - 1.0) / 0.4)
    return np.stack([below, 1.0 - below - above, above], axis=1)


def saturation(flux: np.ndarray, wells_filled: float, rng: np.random.Generator) -> np.ndarray:
    room = FULL * VISITS - SKY
    full, seen = (flux / room).max() / wells_filled * room, flux.copy()
    for band, column in np.argwhere((flux > full).any(axis=1)):
        seen[band, :, column] = _bled(flux[band, :, column], float(full[band, 0, 0]))
    return seen


def _bled(column: np.ndarray, full: float) -> np.ndarray:
    held = np.minimum(column, full)
    excess = (column - held) / 2.0
    for order in (range(len(column)), range(len(column) - 1, -1, -1)):
        moving = 0.0
        for k in order:
            moving += excess[k]
            taken = min(moving, full - held[k])
            held[k] += taken
            moving -= taken
    return held


def _star(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Charge in one visit of a star in each band, cut off at the full well."""
    charge = np.empty(shape, dtype=np.float32)
    for band in range(shape[0]):
        star = galsim.Kolmogorov(
            fwhm=FWHM[band], flux=10.0 ** (0.4 * (ZEROPOINT[band] - MAGNITUDE)) / VISITS[band, 0, 0]
        )
        offset = (rng.random(2) - 0.5) * (shape[2], shape[1])
        star.drawImage(galsim.ImageF(charge[band], scale=SCALE), offset=tuple(offset))
    return np.minimum(charge, FULL)


def persistence(flux: np.ndarray, released: float, rng: np.random.Generator) -> np.ndarray:
    return (flux + rng.poisson(released * _star(flux.shape, rng).clip(0.0))).astype(np.float32)


def crosstalk(flux: np.ndarray, coefficient: float, rng: np.random.Generator) -> np.ndarray:
    return (flux + coefficient * VISITS * _star(flux.shape, rng)).astype(np.float32)


def amplifier_step(flux: np.ndarray, step: float, rng: np.random.Generator) -> np.ndarray:
    border, sign = rng.integers(1, flux.shape[2], (len(flux), 1, 1)), rng.choice([-0.5, 0.5], (len(flux), 1, 1))
    side = np.where(np.arange(flux.shape[2]) >= border, sign, -sign)
    return (flux + side * step * VISITS).astype(np.float32)


def nonlinearity(flux: np.ndarray, alpha: float, rng: np.random.Generator) -> np.ndarray:
    charge, dark = (flux + SKY) / VISITS, SKY / VISITS
    measured = charge * (1.0 - alpha * np.minimum(charge / FULL, 1.0))
    return (VISITS * (measured - dark * (1.0 - alpha * dark / FULL))).astype(np.float32)


def brighter_fatter(flux: np.ndarray, lost: float, rng: np.random.Generator) -> np.ndarray:
    held = (np.minimum(flux / VISITS, FULL - SKY / VISITS) / FULL).astype(np.float32)
    potential = lost * np.stack([scipy.signal.fftconvolve(band, _KERNEL, mode="same") for band in held])
    charge, fat = flux + SKY, flux.astype(np.float64)
    down = np.diff(potential, axis=1) * (charge[:, 1:] + charge[:, :-1]) / 4.0
    right = np.diff(potential, axis=2) * (charge[:, :, 1:] + charge[:, :, :-1]) / 4.0
    fat[:, :-1] += down
    fat[:, 1:] -= down
    fat[:, :, :-1] += right
    fat[:, :, 1:] -= right
    return fat.astype(np.float32)


PEERS: dict[str, Peer] = {
    "hot_pixels": ("NumPy", hot_pixels),
    "dead_pixels": ("NumPy", dead_pixels),
    "bad_columns": ("NumPy", bad_columns),
    "cosmic_rays": ("NumPy", cosmic_rays),
    "saturation": ("NumPy", saturation),
    "persistence": ("GalSim", persistence),
    "crosstalk": ("GalSim", crosstalk),
    "amplifier_step": ("NumPy", amplifier_step),
    "nonlinearity": ("NumPy", nonlinearity),
    "brighter_fatter": ("SciPy", brighter_fatter),
}
