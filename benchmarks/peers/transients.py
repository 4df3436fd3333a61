"""Transients and neighbours as one would draw them with GalSim, and with NumPy and SciPy where it has no such thing.

The galaxy's half-light radius is GalSim's. GalSim adds no light with the noise of that light alone, so its draw is
followed by normal photon noise of variance light / fraction, as with the others.
"""

import functools
from typing import Any

import galsim
import numpy as np
import scipy.special

from benchmarks.peers import Peer
from perturbations.exposure import Exposure

SCALE, VISITS_SECONDS, FULL_WELL = 0.2, 30.0, 1e5
LSST = Exposure.from_survey("LSST", bands="gri")
SKY, ZEROPOINT, VISITS = LSST.sky.numpy(), LSST.zeropoint.numpy(), LSST.visits.numpy()
SIGMA = np.sqrt(SKY)
PSFS = [galsim.Kolmogorov(fwhm=float(fwhm)) for fwhm in LSST.psf_fwhm]


def supernova(flux: np.ndarray, magnitude: float, rng: np.random.Generator) -> np.ndarray:
    radius, _ = _galaxy(flux)
    angle = rng.uniform(0.0, 2.0 * np.pi)
    place = radius * np.array([np.sin(angle), np.cos(angle)])
    light = [_drawn(psf.withFlux(f), flux.shape, place) for psf, f in zip(PSFS, _electrons(magnitude), strict=True)]
    return _with_photons(flux, np.stack(light), rng)


def satellite_trail(flux: np.ndarray, magnitude: float, rng: np.random.Generator) -> np.ndarray:
    """One filter; the line-spread function of the PSF and of the out-of-focus pupil, 2.1 arcsec wide."""
    band, angle = int(rng.integers(len(flux))), rng.uniform(0.0, np.pi)
    height, width = flux.shape[1:]
    reach = 0.5 * (height * abs(np.sin(angle)) + width * abs(np.cos(angle)))
    y, x = np.ogrid[:height, :width]
    across = (y - 0.5 * (height - 1)) * np.sin(angle) + (x - 0.5 * (width - 1)) * np.cos(angle)
    across = np.abs(across - rng.uniform(-reach, reach))
    per_pixel = _electrons(magnitude)[band] / (VISITS[band] * VISITS_SECONDS) / 1800.0 * SCALE
    light = np.zeros_like(flux)
    light[band] = _in_one_visit(per_pixel * np.interp(across, *_line_spread(band, 2.1)), flux[band], band)
    return _with_photons(flux, light, rng)


def asteroid(flux: np.ndarray, magnitude: float, rng: np.random.Generator) -> np.ndarray:
    band, size = int(rng.integers(len(flux))), np.array(flux.shape[1:])
    place = (rng.uniform(size=2) - 0.5) * size
    streak = galsim.Box(0.25, 1e-3).rotate(rng.uniform(0.0, np.pi) * galsim.radians)
    seen: Any = galsim.Convolve(streak, PSFS[band])
    seen = seen.withFlux(_electrons(magnitude)[band] / VISITS[band])
    light = np.zeros_like(flux)
    light[band] = _in_one_visit(_drawn(seen, flux.shape, place), flux[band], band)
    return _with_photons(flux, light, rng)


def foreground_star(flux: np.ndarray, magnitude: float, rng: np.random.Generator) -> np.ndarray:
    """The PSF, two crossed lines of 0.5% of the light, and the full well in every visit."""
    angle, turn = rng.uniform(0.0, 2.0 * np.pi), rng.uniform(0.0, 0.5 * np.pi)
    place = np.sqrt(rng.uniform(4.0, 64.0)) / SCALE * np.array([np.sin(angle), np.cos(angle)])
    y, x = np.ogrid[: flux.shape[1], : flux.shape[2]]
    y, x = y - 0.5 * (flux.shape[1] - 1) - place[0], x - 0.5 * (flux.shape[2] - 1) - place[1]
    one, other = y * np.sin(turn) + x * np.cos(turn), y * np.cos(turn) - x * np.sin(turn)
    light = np.empty_like(flux)
    for band, total in enumerate(_electrons(magnitude)):
        light[band] = _drawn(PSFS[band].withFlux(0.995 * total), flux.shape, place)
        for across, along in ((one, other), (other, one)):
            density = 0.0025 * total / (np.pi * 2.0 * (1.0 + (along / 2.0) ** 2))
            light[band] += density * np.interp(np.abs(across), *_line_spread(band))
    most = (FULL_WELL * VISITS - SKY)[:, None, None]
    return np.where(flux + light >= most, most, _with_photons(flux, light, rng)).astype(np.float32)


def blend(flux: np.ndarray, ratio: float, rng: np.random.Generator) -> np.ndarray:
    radius, host = _galaxy(flux)
    kind = galsim.Exponential if rng.uniform() < 0.5 else galsim.DeVaucouleurs
    galaxy: Any = kind(half_light_radius=0.6 * 2.0 ** rng.uniform(-1.0, 1.0))
    galaxy = galaxy.shear(q=rng.uniform(0.3, 1.0), beta=rng.uniform(0.0, np.pi) * galsim.radians)
    angle = rng.uniform(0.0, 2.0 * np.pi)
    place = 1.5 * radius * np.array([np.sin(angle), np.cos(angle)])
    seen: list[Any] = [galsim.Convolve(galaxy.withFlux(ratio * f), psf) for psf, f in zip(PSFS, host, strict=True)]
    return _with_photons(flux, np.stack([_drawn(s, flux.shape, place) for s in seen]), rng)


def ghost(flux: np.ndarray, brightness: float, rng: np.random.Generator) -> np.ndarray:
    """A ring of 20 arcsec; its edges are error functions as wide as the PSF."""
    angle, size = rng.uniform(0.0, 2.0 * np.pi), np.array(flux.shape[1:])
    centre = (rng.uniform(size=2) - 0.5) * size + 100.0 * np.array([np.sin(angle), np.cos(angle)])
    y, x = np.ogrid[: size[0], : size[1]]
    distance = np.hypot(y - 0.5 * (size[0] - 1) - centre[0], x - 0.5 * (size[1] - 1) - centre[1])
    light = np.empty_like(flux)
    for band, psf in enumerate(PSFS):
        sigma = psf.fwhm / SCALE / 2.355
        ring = scipy.special.ndtr((100.0 - distance) / sigma) - scipy.special.ndtr((61.0 - distance) / sigma)
        light[band] = brightness * SKY[band] * ring
    return _with_photons(flux, light, rng)


def _electrons(magnitude: float) -> np.ndarray:
    return 10.0 ** (0.4 * (ZEROPOINT - magnitude))


def _drawn(profile, shape, place) -> np.ndarray:
    image = profile.drawImage(nx=shape[2], ny=shape[1], scale=SCALE, offset=(place[1], place[0]), dtype=np.float32)
    return image.array.clip(min=0.0)


def _with_photons(flux: np.ndarray, light: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return (flux + light + rng.standard_normal(flux.shape) * np.sqrt(light)).astype(np.float32)


def _in_one_visit(charge: np.ndarray, flux: np.ndarray, band: int) -> np.ndarray:
    return np.minimum(charge, FULL_WELL - (flux.clip(min=0.0) + SKY[band]) / VISITS[band])


def _galaxy(flux: np.ndarray) -> tuple[float, np.ndarray]:
    """Half-light radius [pixels] and flux in every band."""
    weighted = (flux / (SIGMA**2)[:, None, None]).sum(axis=0)
    radius = galsim.Image(weighted, scale=1.0).calculateHLR()
    y, x = np.ogrid[: flux.shape[1], : flux.shape[2]]
    inside = np.hypot(y - 0.5 * (flux.shape[1] - 1), x - 0.5 * (flux.shape[2] - 1)) <= radius
    return radius, 2.0 * flux[:, inside].sum(axis=1).clip(min=0.0)


@functools.cache
def _line_spread(band: int, defocus: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Distances [pixels] and light per pixel of a line of unit flux per pixel of length."""
    seen = [PSFS[band], galsim.Pixel(SCALE)]
    if defocus:
        outer, inner = 0.5 * defocus, 0.61 * 0.5 * defocus
        seen.append((galsim.TopHat(outer) - galsim.TopHat(inner, flux=0.61**2)) / (1.0 - 0.61**2))
    profile: Any = galsim.Convolve(seen)
    image = profile.drawImage(nx=801, ny=801, scale=0.25 * SCALE, method="no_pixel", dtype=np.float64)
    return 0.25 * np.arange(401), 4.0 * image.array.sum(axis=0)[400:]


PEERS: dict[str, Peer] = {
    "supernova": ("GalSim", supernova),
    "satellite_trail": ("GalSim and NumPy", satellite_trail),
    "asteroid": ("GalSim", asteroid),
    "foreground_star": ("GalSim and NumPy", foreground_star),
    "blend": ("GalSim", blend),
    "ghost": ("SciPy", ghost),
}
