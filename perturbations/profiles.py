"""How light from outside the image falls on it: profiles of points, lines and galaxies behind the exposure's PSF.

Points and lines are tabulated in one dimension and looked up, pixel by pixel, at their distance: nothing is periodic,
so nothing wraps around the stamp however bright it is, and wings stay positive. Small extended sources are drawn in
Fourier space with blank sky around the stamp. All profiles include the square pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import scipy.special
import torch

from perturbations.core import Observation
from perturbations.exposure import Exposure
from perturbations.psf import Frequencies, grid, known_psf, padded_size, transfer

FARTHEST = 512.0  # pixels: the table of a point source; beyond, its last value
CORE, STEPS = 2.0, 80.0  # radii of that table are CORE sinh(i/STEPS) pixels
FINE = 8  # steps per pixel of the table of a line
DETECTED = 5.0  # sigma


def exponential(k: torch.Tensor) -> torch.Tensor:
    """Fourier transform of an exponential disk of unit flux, at k in radians per half-light radius.

    (1 + (k h)^2)^(-3/2) with the scale length h of 1/1.67835 half-light radii.
    """
    return (1.0 + (k / 1.6783469900166605).square()).pow(-1.5)


def de_vaucouleurs(k: torch.Tensor) -> torch.Tensor:
    """Fourier transform of a de Vaucouleurs profile of unit flux, at k in radians per half-light radius.

    GalSim's, tabulated once from e^-7 to e^7 and interpolated linearly in log k, to 1e-4.
    """
    table = _de_vaucouleurs_table().to(k)
    at = (k.clamp_min(1e-30).log() + 7.0).mul_(40.0).clamp_(0.0, len(table) - 1.001)
    low = at.long()
    return torch.lerp(table[low], table[low + 1], at - low)


def annulus(k: torch.Tensor, obscuration: float) -> torch.Tensor:
    """Fourier transform of a uniform annulus of unit flux and unit outer radius, at k in radians per outer radius.

    A defocused image of a point: the pupil of the telescope, whose inner radius is `obscuration` times its outer one.
    """

    def disk(k: torch.Tensor) -> torch.Tensor:
        return torch.where(k > 1e-6, 2.0 * torch.special.bessel_j1(k) / k.clamp_min(1e-6), 1.0)

    return (disk(k) - obscuration**2 * disk(k * obscuration)) / (1.0 - obscuration**2)


def point_spread(exposure: Exposure, like: torch.Tensor) -> torch.Tensor:
    """Share of a point source's flux that a pixel holds, by its distance: a table (N or 1, C, T) for `at_radius`.

    The Hankel transform of the exposure's transfer function times the pixel's response averaged over directions.
    """
    known_psf(exposure)
    fwhm, psf = exposure.psf_fwhm, (exposure.psf_shape, exposure.moffat_beta, exposure.pixel_scale)
    if fwhm.ndim == 1:
        return _shared_spread(tuple(fwhm.tolist()), *psf).to(like)[None]
    return _spread(fwhm.to(like.device), *psf).to(like.dtype)


def _spread(fwhm: torch.Tensor, shape: str, beta: float, pixel_scale: float) -> torch.Tensor:
    k, weight = (tensor.to(fwhm.device) for tensor in _radial_transform())
    seen = transfer(shape, fwhm, k[None] / pixel_scale, beta)[..., 0, :]
    return (seen @ weight).clamp_min_(0.0)


@lru_cache(maxsize=8)
def _shared_spread(fwhm: tuple[float, ...], shape: str, beta: float, pixel_scale: float) -> torch.Tensor:
    """The table (C, T) of an exposure that all galaxies share."""
    return _spread(torch.tensor(fwhm, dtype=torch.float64), shape, beta, pixel_scale)


def at_radius(table: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """Look a table of `point_spread` up at radii (N, H, W) [pixels]: (N, C, H, W)."""
    scaled = radius / CORE
    bent = torch.from_numpy(np.arcsinh(scaled.numpy())) if scaled.device.type == "cpu" else scaled.asinh()
    return _lookup(table, bent.mul_(STEPS))


def line_spread(
    exposure: Exposure,
    normal: torch.Tensor,
    like: torch.Tensor,
    blur: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Flux per pixel of a straight line of unit flux per pixel of its length: a table (N, C, T) for `at_distance`.

    Only the frequencies across the line matter, so this is the one-dimensional transform of the exposure's transfer
    function, and of the pixel's, along the line's normal.

    Parameters
    ----------
    exposure : its PSF is known.
    normal : (N,) the angle from the columns' direction to the normal [radians].
    like : images (N, C, H, W); the table reaches as far as their diagonal.
    blur : a further transfer function of |k| [rad/arcsec], or None.
    """
    known_psf(exposure)
    reach = math.ceil(math.hypot(*like.shape[-2:])) + 8
    period = 4 * reach
    k = torch.arange(period * FINE // 2 + 1, dtype=torch.float64, device=like.device) * (2.0 * math.pi / period)
    seen = _transfer(exposure, k[None] / exposure.pixel_scale)[..., 0, :]
    if blur is not None:
        seen = seen * blur(k / exposure.pixel_scale)
    along = normal.to(k)[:, None] + torch.tensor([0.0, 0.5 * math.pi]).to(k)
    pixel = torch.sinc(torch.cos(along)[:, :, None] * (k / (2.0 * math.pi))).prod(dim=1)
    spread = torch.fft.irfft((seen * pixel[:, None]).to(torch.float32), n=period * FINE) * FINE
    return spread[..., : reach * FINE].clamp_min_(0.0).to(like.dtype)


def at_distance(table: torch.Tensor, distance: torch.Tensor) -> torch.Tensor:
    """Look a table of `line_spread` up at distances (N, H, W) [pixels] from the line: (N, C, H, W)."""
    return _lookup(table, distance.abs() * FINE)


def edge_spread(table: torch.Tensor) -> torch.Tensor:
    """From a table of `line_spread`, the share of a half-plane's brightness at a distance inside its edge."""
    inside = torch.cumsum(table.double(), dim=-1) - 0.5 * (table + table[..., :1])
    return (0.5 + 0.5 * inside / inside[..., -1:]).to(table.dtype)


def at_edge(table: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Look a table of `edge_spread` up at signed distances (N, H, W) [pixels] inside the edge: (N, C, H, W)."""
    value = at_distance(table, inside)
    return torch.where(inside[:, None] < 0.0, 1.0 - value, value)


def from_centre(offset: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How many rows (N, H, 1) and columns (N, 1, W) each pixel is past a point `offset` (N, 2) from the centre."""
    height, width = like.shape[-2:]
    offset = offset.to(like)
    rows = torch.arange(height, dtype=like.dtype, device=like.device) - 0.5 * (height - 1)
    columns = torch.arange(width, dtype=like.dtype, device=like.device) - 0.5 * (width - 1)
    return rows[None, :, None] - offset[:, :1, None], columns[None, None, :] - offset[:, 1:, None]


def drawn(
    exposure: Exposure,
    offset: torch.Tensor,
    like: torch.Tensor,
    profile: Callable[[Frequencies], torch.Tensor],
    margin: float,
) -> torch.Tensor:
    """Images (N, C, H, W) of one extended source of unit flux each, through the exposure's PSF and its pixels.

    Parameters
    ----------
    exposure : its PSF is known.
    offset : (N, 2) rows and columns from the centre of the stamp [pixels].
    like : any tensor (N, C, H, W), for shape, dtype and device.
    profile : from Frequencies to the source's real Fourier transform, (N, rows, columns // 2 + 1).
    margin : blank sky around the stamp, into which light that leaves it falls before it wraps around [arcsec].
    """
    known_psf(exposure)
    height, width = like.shape[-2:]
    wide = math.ceil(margin / exposure.pixel_scale)
    rows, columns = padded_size(height, wide), padded_size(width, wide)
    at, scale = grid(rows, columns, exposure.pixel_scale, like), exposure.pixel_scale
    seen = _transfer(exposure, at.k)
    seen = seen * torch.sinc(at.y * scale / (2.0 * math.pi)) * torch.sinc(at.x * scale / (2.0 * math.pi))
    centre = torch.tensor([(height - 1) / 2.0, (width - 1) / 2.0], dtype=torch.float64)
    y, x = ((offset.double().cpu() + centre) * scale).to(like.device)[:, :, None, None].unbind(dim=1)
    one = torch.ones((), dtype=torch.float64, device=like.device)
    down, right = torch.polar(one, -at.y * y), torch.polar(one, -at.x * x)
    source = profile(at).float() * down.to(torch.complex64) * right.to(torch.complex64)
    spectrum = source[:, None] * seen.float()
    return torch.fft.irfft2(spectrum, s=(rows, columns))[:, :, :height, :width].to(like.dtype)


def half_light(sky: Observation) -> tuple[torch.Tensor, torch.Tensor]:
    """Half-light radius (N,) [pixels] and flux (N, C) of the galaxy in the middle of each image, as they are seen.

    The curve of growth about the centre of the stamp, out to its nearer border, of the bands weighted by the inverse
    variance of their sky; the flux is twice what the half-light circle holds. A galaxy below five sigma there is taken
    to be a point at the limit of detection: a radius of one PSF FWHM, and five sigma of that circle in each band.
    The radius is at least half the FWHM.

    Raises
    ------
    InputError : the exposure's PSF is unknown.
    """
    exposure, flux = sky.exposure, sky.flux
    known_psf(exposure)
    height, width = flux.shape[-2:]
    order, rank = (t.to(flux.device) for t in _outwards(height, width))
    image = flux if sky.mask is None else torch.where(sky.mask, 0.0, flux)
    variance = exposure.variance(torch.zeros_like(flux[:, :, :1, :1])).double().clamp_min(1e-12)
    total = variance.reciprocal().sum(dim=1, keepdim=True)
    seen = (image * (variance.reciprocal() / total).float()).sum(dim=1).flatten(1)
    growth = seen[:, order].double().cumsum(dim=1)
    detected = growth[:, -1] > DETECTED * (len(order) / total[:, 0, 0, 0]).sqrt()
    half = 0.5 * growth[:, -1:]
    past = (growth >= half).byte().argmax(dim=1, keepdim=True)
    before = torch.where(past > 0, growth.gather(1, (past - 1).clamp_min(0)), 0.0)
    step = growth.gather(1, past) - before
    pixels = (past + ((half - before) / step.clamp_min(1e-30)).clamp(0.0, 1.0))[:, 0]
    fwhm = (exposure.psf_fwhm.reshape(-1, flux.shape[1]).mean(dim=1) / exposure.pixel_scale).to(flux.device)
    fwhm = fwhm.expand(len(flux))
    within = (pixels.float()[:, None, None] - rank).clamp_(0.0, 1.0)
    measured = 2.0 * torch.einsum("nchw,nhw->nc", image, within).clamp_min(0.0)
    faintest = DETECTED * (variance[:, :, 0, 0] * math.pi).sqrt() * fwhm[:, None]
    radius = torch.where(detected, torch.maximum((pixels / math.pi).sqrt(), 0.5 * fwhm), fwhm)
    return radius.to(flux.dtype), torch.where(detected[:, None], measured, faintest.to(flux.dtype))


def _lookup(table: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """Linear interpolation of tables (N or 1, C, T) at positions (N, H, W), held at the ends: (N, C, H, W)."""
    images, bands, length = table.shape
    place = at.clamp_max(length - 1.001).flatten(1)
    low = place.long()
    part, flat = place.sub_(low), table.reshape(-1)
    if images > 1:
        low.add_(torch.arange(images, device=low.device)[:, None] * (bands * length))
    value = torch.empty(len(at), bands, low.shape[1], dtype=table.dtype, device=table.device)
    for band in range(bands):  # index_select of one dimension is many times faster than gather
        first = flat[band * length :]
        below, above = (t.index_select(0, low.flatten()).reshape(low.shape) for t in (first, first[1:]))
        torch.lerp(below, above, part, out=value[:, band])
    return value.reshape(len(at), bands, *at.shape[1:])


def _transfer(exposure: Exposure, k: torch.Tensor) -> torch.Tensor:
    """The exposure's transfer function at k (rows, columns), (N or 1, C, rows, columns)."""
    seen = transfer(exposure.psf_shape, exposure.psf_fwhm, k, exposure.moffat_beta)
    return seen if seen.ndim == 4 else seen[None]


def _round_pixel(k: torch.Tensor) -> torch.Tensor:
    """Response of the square pixel averaged over directions, at k (K,) in radians per pixel."""
    angle = (torch.arange(16, dtype=k.dtype, device=k.device) + 0.5) * (math.pi / 64.0)
    along = k[:, None] / (2.0 * math.pi)
    return (torch.sinc(along * torch.cos(angle)) * torch.sinc(along * torch.sin(angle))).mean(dim=1)


@lru_cache(maxsize=1)
def _radial_transform() -> tuple[torch.Tensor, torch.Tensor]:
    """Frequencies (K,) [rad/pixel] and the matrix (K, T) from a transfer function to a profile in radius, in pixels.

    Gauss-Legendre in panels short enough for the fastest oscillation, up to three times the Nyquist frequency.
    """
    nodes, weights = np.polynomial.legendre.leggauss(64)
    edge = np.linspace(0.0, 3.0 * np.pi, 51)
    half = 0.5 * np.diff(edge)[:, None]
    k = (edge[:-1, None] + half * (1.0 + nodes)).ravel()
    radius = CORE * np.sinh(np.arange(math.ceil(STEPS * math.asinh(FARTHEST / CORE)) + 1) / STEPS)
    matrix = scipy.special.j0(k[:, None] * radius) * ((half * weights).ravel() * k / (2.0 * np.pi))[:, None]
    frequencies = torch.from_numpy(k)
    return frequencies, torch.from_numpy(matrix) * _round_pixel(frequencies)[:, None]


@lru_cache(maxsize=1)
def _de_vaucouleurs_table() -> torch.Tensor:
    import galsim

    profile = galsim.DeVaucouleurs(half_light_radius=1.0)
    return torch.tensor([profile.kValue(math.exp(i / 40.0 - 7.0), 0.0).real for i in range(561)], dtype=torch.float64)


@lru_cache(maxsize=8)
def _outwards(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels of the largest circle in the stamp from its centre outwards (M,), and each pixel's place there (H, W)."""
    y = torch.arange(height, dtype=torch.float64) - 0.5 * (height - 1)
    x = torch.arange(width, dtype=torch.float64) - 0.5 * (width - 1)
    radius = torch.hypot(y[:, None], x[None]).flatten()
    order = radius.argsort(stable=True)
    order = order[: int((radius <= 0.5 * min(height, width)).sum())]
    rank = torch.full((height * width,), float(height * width))
    rank[order] = torch.arange(len(order), dtype=rank.dtype)
    return order, rank.reshape(height, width)
