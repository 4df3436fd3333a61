"""What a telescope adds to the seeing: quadratic wavefront errors, and the width of the PSF that comes out.

Defocus and astigmatism are quadratic in the pupil. Two points of the pupil then differ in phase by a linear function,
and the optical transfer function, the autocorrelation of the pupil, is a sum of sines along one coordinate that is
integrated over the other.

Angles are measured in the image from the direction of growing columns towards that of growing rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.fft
import torch

from perturbations.core import Observation
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.exposure import Exposure
from perturbations.psf import MARGIN, Frequencies, grid, padded, through, transfer

ARCSEC = math.pi / 648_000.0  # rad
WIDEST = 25.0  # pixels that light may be blurred over: tables of the transfer function grow with it
LIKE = "LSST"  # whose telescope and bands count where the survey is not known


@dataclass(frozen=True)
class Telescope:
    """A round pupil: `diameter` [m] and the `obscuration` of its centre, as a part of the diameter."""

    diameter: float
    obscuration: float

    @property
    def radius(self) -> float:
        """Of the pupil [m]."""
        return self.diameter / 2.0


@lru_cache(maxsize=32)
def _survey(name: str) -> tuple[Telescope, dict[str, float]]:
    """Telescope and effective wavelengths [nm] of a survey of surveycodex, which gives obscuration by area."""
    import surveycodex

    known: Any = surveycodex.get_survey(name if name in surveycodex.available_surveys else LIKE)
    filters = {band: known.get_filter(band) for band in known.available_filters}
    nanometres = {band: float(f.effective_wavelength.to_value("nm")) for band, f in filters.items()}
    return Telescope(float(known.mirror_diameter.to_value("m")), math.sqrt(known.obscuration)), nanometres


def telescope(exposure: Exposure, diameter: float | None, obscuration: float | None) -> Telescope:
    """The telescope of the exposure's survey (surveycodex; LSST's where it has none), or the given numbers.

    Raises
    ------
    InputError : a diameter [m] that is not positive, or an obscuration outside [0, 1).
    """
    usual = _survey(exposure.survey)[0]
    diameter = usual.diameter if diameter is None else diameter
    obscuration = usual.obscuration if obscuration is None else obscuration
    if not 0.0 < diameter < math.inf:
        raise InputError(f"diameter = {diameter:g} m", "diameter > 0", "give the diameter of the primary mirror")
    if not 0.0 <= obscuration < 1.0:
        raise InputError(
            f"obscuration = {obscuration:g}", "0 <= obscuration < 1", "give it as a part of the diameter, not the area"
        )
    return Telescope(diameter, obscuration)


def wavelengths(exposure: Exposure, wavelength: float | None) -> tuple[float, ...]:
    """Of each band [nm]: effective wavelengths in surveycodex (LSST's for other surveys), or one for all.

    Raises
    ------
    InputError : a wavelength that is not positive, or a band without one.
    """
    if wavelength is not None:
        if not 0.0 < wavelength < math.inf:
            raise InputError(f"wavelength = {wavelength:g} nm", "wavelength > 0", "give nanometres")
        return (wavelength,) * len(exposure.bands)
    known = _survey(LIKE)[1] | _survey(exposure.survey)[1]
    for band in exposure.bands:
        if band not in known:
            raise InputError(
                f"band '{band}' of unknown wavelength", f"one of {', '.join(known)}", "give the option wavelength in nm"
            )
    return tuple(known[band] for band in exposure.bands)


def orientation(draws: Draws, angle: float | None, turn: float) -> torch.Tensor:
    """Angles (N,) [rad] float64: the option's [degrees], or keyed by galaxy and uniform over `turn` [degrees].

    Raises
    ------
    InputError : an angle that is not finite.
    """
    if angle is None:
        return torch.deg2rad(draws.uniform("angle").double() * turn)
    if not math.isfinite(angle):
        raise InputError(f"angle = {angle:g} degrees", "a finite angle", "give degrees, or leave it out")
    return torch.full((len(draws),), math.radians(angle), dtype=torch.float64, device=draws.device)


def along(at: Frequencies, angle: torch.Tensor) -> torch.Tensor:
    """The component of k along an angle per galaxy, (N, 1, rows, columns // 2 + 1)."""
    angle = angle.to(at.x)[:, None, None, None]
    return at.y * angle.sin() + at.x * angle.cos()


def aberrated(
    sky: Observation,
    blur: tuple[float, float],
    angle: torch.Tensor | None,
    pupil: Telescope,
    nanometres: tuple[float, ...],
    draws: Draws,
) -> Observation:
    """Observe through a pupil with a quadratic wavefront error.

    The light is convolved with the kernel whose transfer function is that of the aberrated pupil divided by that of
    the same pupil without the error.

    Parameters
    ----------
    sky : as it is now.
    blur : where rays from the edge of the pupil land along the two principal axes [arcsec], with sign.
    angle : of the first axis, (N,) [rad]; None where the two are equal.
    pupil, nanometres : the telescope, and the wavelength of each band.
    draws : as in `through`.

    Returns
    -------
    Observation whose exposure.psf_fwhm is that of `same_area`.

    Raises
    ------
    InputError : rays that land further out than the blank sky around a stamp is wide, or `WIDEST`; masked pixels.
    """
    farthest = min(MARGIN, WIDEST * sky.exposure.pixel_scale)
    if max(map(abs, blur)) > farthest:
        raise InputError(
            f"light blurred over a radius of {max(map(abs, blur)):.3g} arcsec",
            f"at most {farthest:.3g} arcsec ({MARGIN:g} arcsec and {WIDEST:g} pixels)",
            "choose a smaller wavefront error",
        )

    def kernel(at: Frequencies) -> torch.Tensor:
        shape = (len(nanometres), *padded(sky.exposure, sky.flux))
        basis = _basis(blur, pupil, nanometres, sky.exposure.pixel_scale, shape).to(at.x.device)
        if angle is None:
            return basis[0]
        orders = 2.0 * torch.arange((len(basis) + 1) // 2, dtype=torch.float64, device=at.x.device)
        phase = angle.to(at.x)[:, None] * orders
        weight = torch.cat([phase.cos(), phase[:, 1:].sin()], dim=1)
        # in double precision: sums of single precision are rounded differently in every batch size
        return (weight @ basis.flatten(1)).reshape(-1, *basis.shape[1:]).to(sky.flux.dtype)

    def power(k: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
        return _power(tuple(k.tolist()), tuple(angles.tolist()), blur, pupil, nanometres)

    flux = through(sky, kernel, draws)
    return sky.replace(flux, sky.exposure.replace(psf_fwhm=same_area(sky.exposure, power)))


def same_area(exposure: Exposure, power: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """FWHM [arcsec] of a PSF of the exposure's shape with the noise-equivalent area of its PSF after a kernel.

    The area that counts for faint sources, 1 / integral of PSF^2, is one number that any PSF has, whatever its shape;
    by Parseval it follows from the squared transfer function within the band limit of the pixels.

    Parameters
    ----------
    exposure : its PSF; an unknown one stays unknown.
    power : from |k| (nk,) [rad/arcsec] and angles (na,) over a quarter turn to |K|^2, broadcastable to (C, nk, na).
    """
    k = torch.linspace(0.0, math.pi / exposure.pixel_scale, 257, dtype=torch.float64)[1:]
    angles = (torch.arange(24, dtype=torch.float64) + 0.5) * (math.pi / 48.0)
    if not bool(torch.isfinite(exposure.psf_fwhm).any()):
        return exposure.psf_fwhm
    now = transfer(exposure.psf_shape, exposure.psf_fwhm, k[None], exposure.moffat_beta)[..., 0, :] ** 2 * k
    then = now * power(k, angles).mean(dim=-1)
    return exposure.psf_fwhm * (now.sum(dim=-1) / then.sum(dim=-1)).sqrt()


def _nodes(farthest: float, blur: tuple[float, float]) -> int:
    """Of Gauss-Legendre, enough for the phases up to a frequency [rad/arcsec]."""
    return 48 + math.ceil(farthest * max(map(abs, blur)))


def _ratio(
    k: np.ndarray, angles: np.ndarray, blur: tuple[float, float], pupil: Telescope, nanometres: float, nodes: int
) -> np.ndarray:
    """Transfer function of the pupil with the error over that without, (nk, na), at |k| [rad/arcsec] and angles.

    Pupils shifted by lambda k / 2 pi against each other overlap in a lens less the two shadows of the obscuration, and
    the phase between them is k . blur there. With u along the shift and v across, in pupil radii, the integral over u
    is done by hand, and that over v = sin(t) by Gauss-Legendre.
    """
    cos, sin = np.cos(angles)[None, :, None], np.sin(angles)[None, :, None]
    k = k[:, None, None]
    half = np.minimum(nanometres * 1e-9 * k / (4.0 * math.pi * ARCSEC * pupil.radius), 1.0)
    phase_u, phase_v = k * (blur[0] * cos**2 + blur[1] * sin**2), k * (blur[1] - blur[0]) * sin * cos
    t, weight = np.polynomial.legendre.leggauss(nodes)
    t, weight = (t + 1.0) * (math.pi / 4.0), weight * (math.pi / 4.0)

    top = np.sqrt(1.0 - half**2)
    v = top * np.sin(t)
    end = np.maximum(np.sqrt(1.0 - v**2) - half, 0.0)
    inner_v = pupil.obscuration * np.sin(t)
    chord = pupil.obscuration * np.cos(t)
    limit = np.maximum(np.sqrt(1.0 - inner_v**2) - half, 0.0)
    stop, start = np.minimum(half + chord, limit), np.minimum(np.maximum(half - chord, 0.0), limit)

    def integral(phase_u: np.ndarray, phase_v: np.ndarray) -> np.ndarray:
        lens = end * np.sinc(phase_u * end / math.pi) * np.cos(phase_v * v) * top * np.cos(t)
        shadow = stop * np.sinc(phase_u * stop / math.pi) - start * np.sinc(phase_u * start / math.pi)
        return ((lens - shadow * np.cos(phase_v * inner_v) * chord) * weight).sum(axis=-1)

    without = integral(np.zeros((1, 1, 1)), np.zeros((1, 1, 1)))
    return np.where(without > 1e-9, integral(phase_u, phase_v) / np.maximum(without, 1e-9), 0.0).clip(-1.0, 1.0)


@lru_cache(maxsize=32)
def _power(
    k: tuple[float, ...],
    angles: tuple[float, ...],
    blur: tuple[float, float],
    pupil: Telescope,
    nanometres: tuple[float, ...],
) -> torch.Tensor:
    """The squared ratio of each band, (C, nk, na)."""
    nodes = _nodes(max(k), blur)
    return torch.from_numpy(
        np.stack([_ratio(np.array(k), np.array(angles), blur, pupil, band, nodes) ** 2 for band in nanometres])
    )


@lru_cache(maxsize=2)
def _basis(
    blur: tuple[float, float],
    pupil: Telescope,
    nanometres: tuple[float, ...],
    pixel_scale: float,
    shape: tuple[int, int, int],
) -> torch.Tensor:
    """The ratio on the grid of rfft2 as a series in the angle of the first axis, float64 (terms, C, rows, half).

    K(k, phi - theta) = sum of a_m(k) cos 2m(phi - theta): first a_m cos(2m phi), then, from m = 1, a_m sin(2m phi).
    """
    from scipy.interpolate import CubicSpline

    _, rows, columns = shape
    at = grid(rows, columns, pixel_scale, torch.empty(0))
    farthest, radius = float(at.k.max()), max(map(abs, blur))
    k = np.linspace(0.0, farthest, 96 + math.ceil(10.0 * farthest * radius))
    orders = 0 if blur[0] == blur[1] else 8 + math.ceil(0.5 * farthest * radius)
    angles = np.linspace(0.0, math.pi / 2.0, orders + 1) if orders else np.zeros(1)
    phi = torch.atan2(at.y, at.x)
    terms = []
    for band in nanometres:
        nodes = _nodes(farthest, blur)
        parts = [_ratio(part, angles, blur, pupil, band, nodes) for part in np.array_split(k, 1 + len(k) // 64)]
        table = np.concatenate(parts)
        if orders:
            cosines: Any = scipy.fft.dct(table, type=1, axis=1)
            table = cosines / orders
            table[:, [0, -1]] /= 2.0
        series = torch.from_numpy(CubicSpline(k, table)(at.k.flatten().numpy())).T.reshape(-1, *at.k.shape)
        turns = 2.0 * torch.arange(orders + 1, dtype=torch.float64)[:, None, None] * phi
        terms.append(torch.cat([series * turns.cos(), (series * turns.sin())[1:]]))
    return torch.stack(terms, dim=1)
