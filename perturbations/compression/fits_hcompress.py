"""A FITS image compressed by Hcompress with loss: fine detail is rounded in a wavelet-like transform."""

from __future__ import annotations

import numba
import numpy as np
import torch

from perturbations.core import Observation, corruption
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.quantising import (
    DITHERS,
    SEQUENCE,
    check_level,
    dither_seeds,
    in_threads,
    noisier,
    pixels,
    tile_from_integers,
    tile_to_integers,
)

LARGEST_SCALE = 1_000_000  # steps of the integers, far inside 64 bits


@corruption(
    space="flux",
    parameter="hcompress scale, in noise",
    unit="1",
    ladder=(0.5, 1.0, 1.5, 2.0, 3.0),
    identity=None,
    no_identity="floating-point pixels are rounded to steps of the noise before they are transformed",
    source="White 1992, in Proc. NASA Space and Earth Science Data Compression Workshop (method); our choice: up to "
    "where the rounding of coefficients, 1.5 times their noise at 3, is still independent of them",
    version=1,
    whole=True,
)
def fits_hcompress(
    sky: Observation,
    scale: float,
    draws: Draws,
    *,
    level: float = 256.0,
    smooth: bool = False,
    dither: str = "subtractive_1",
) -> Observation:
    """Store an image by lossy Hcompress, one tile per band, and read it back.

    Pixels become integers, `level` to the noise of the tile. The H-transform adds and subtracts blocks of 2 x 2 again
    and again; a coefficient of white noise has twice the noise of a pixel. Coefficients are rounded to multiples of
    `scale` times the noise, which adds scale^2/48 of the variance of blank sky, a fifth at 3. Above 4, most
    coefficients of the noise would become zero and blank sky would be smoothed, which no exposure can describe.

    Parameters
    ----------
    sky : flux (N, C, H, W), H and W at least 4, and its Exposure. Not modified.
    scale : in noise of the tile, 0 <= scale <= 1,000,000/level; astropy's hcomp_scale is `scale` x `level`, rounded.
    draws : this batch's random numbers; each band of a galaxy has its own dither seed.
    level : 0.001 <= level <= 10000 steps per noise. At astropy's default of 16 the integer transform's own rounding is
        seen too: it takes 3 % of the variance of blank sky and moves its mean by 0.02 of the noise.
    smooth : interpolate coefficients when reading (astropy's hcomp_smooth), against blocks at large scales.
    dither : "subtractive_1" (fpack) or "none" (astropy's default), of the integers.

    Returns
    -------
    Observation with the values of astropy.io.fits.CompImageHDU with hcomp_scale. The variance of both roundings is
    added to its exposure as read noise, by galaxy and band. A tile without noise is stored without loss. Where a
    side is odd, its last row or column has half of the added variance.

    Raises
    ------
    InputError : a scale or level out of range, an image of fewer than 4 pixels a side, a dither of another name.
    """
    check_level("fits_hcompress", level)
    if not 0.0 <= scale * level <= LARGEST_SCALE:
        raise InputError(
            f"fits_hcompress: scale = {scale:g} at level {level:g}",
            f"0 <= scale <= {LARGEST_SCALE / level:g}",
            "1 is mild",
        )
    if dither == "subtractive_2":
        raise InputError(
            "fits_hcompress: dither = 'subtractive_2'", "none, subtractive_1", "exact zeros do not survive a transform"
        )
    count, bands, height, width = sky.flux.shape
    if min(height, width) < 4:
        raise InputError(f"fits_hcompress: images of {height} x {width}", "4 x 4 pixels or more", "use fits_rice")
    whole = int(scale * level + 0.5)
    seeds = dither_seeds(draws, bands, dither)
    images = pixels(sky.flux).reshape(count * bands, height, width)
    stored, steps = np.empty_like(images), np.empty(count * bands)

    def work(part: slice) -> None:
        buffers, shifts = np.empty((3, height * width), np.float32), np.empty(height * width)
        integers = np.empty((height, width), np.int64)
        for k in range(*part.indices(len(images))):
            steps[k], zero = tile_to_integers(
                images[k].ravel(), level, DITHERS[dither], seeds[k], SEQUENCE, buffers, shifts, integers.ravel()
            )
            if steps[k] == 0.0:
                stored[k] = images[k]
                continue
            _lossy(integers, whole, smooth)
            tile_from_integers(integers.ravel(), steps[k], zero, shifts, stored[k].ravel())

    in_threads(work, len(images))
    rounding = 1.0 / 12.0 + (whole**2 / 48.0 if whole > 1 else 0.0)
    extra = torch.from_numpy(np.square(steps) * rounding).reshape(count, bands)
    return noisier(sky, torch.from_numpy(stored).reshape(sky.flux.shape).to(sky.flux.device), extra)


@numba.njit(cache=True, nogil=True, inline="always")
def _multiple(value, bit):
    """The nearest multiple of a power of two, halves away from zero."""
    half = bit >> 1
    return (value + (half if value >= 0 else max(half - 1, 0))) & -bit


@numba.njit(cache=True, nogil=True)
def _transform(a, levels):
    """H-transform in place, int64 (H, W): coefficients of level k stay at multiples of 2^k.

    Of a block, the sum stays at its first pixel, the differences along rows, columns and both at the others. Low bits
    that the inverse can restore from the others are dropped, so that numbers do not grow.
    """
    height, width = a.shape
    for k in range(levels):
        d, bit, down = 1 << k, 2 << k, min(k, 1)
        for i in range(0, height, 2 * d):
            for j in range(0, width, 2 * d):
                below, right = i + d < height, j + d < width
                if below and right:
                    p, q, r, s = a[i, j], a[i, j + d], a[i + d, j], a[i + d, j + d]
                    a[i + d, j + d] = (s - r - q + p) >> down
                    a[i + d, j] = _multiple((s + r - q - p) >> down, bit)
                    a[i, j + d] = _multiple((s - r + q - p) >> down, bit)
                    a[i, j] = _multiple((s + r + q + p) >> down, 2 * bit)
                elif below:
                    p, r = a[i, j], a[i + d, j]
                    a[i + d, j] = _multiple((r - p) << (1 - down), bit)
                    a[i, j] = _multiple((r + p) << (1 - down), 2 * bit)
                elif right:
                    p, q = a[i, j], a[i, j + d]
                    a[i, j + d] = _multiple((q - p) << (1 - down), bit)
                    a[i, j] = _multiple((q + p) << (1 - down), 2 * bit)
                else:
                    a[i, j] = _multiple(a[i, j] << (2 - down), 2 * bit)


@numba.njit(cache=True, nogil=True)
def _inverse(a, levels, most):
    """The inverse of `_transform`, with coefficients interpolated by up to `most` where that is not 0."""
    height, width = a.shape
    a[0, 0] = _multiple(a[0, 0], 2 << levels)
    for k in range(levels - 1, -1, -1):
        d, bit, up = 1 << k, 2 << k, 2 if k == 0 else 1
        if most > 0:
            _smooth(a, d, most)
        for i in range(0, height, 2 * d):
            for j in range(0, width, 2 * d):
                below, right = i + d < height, j + d < width
                total = a[i, j]
                if below and right:
                    by_row, by_column = _multiple(a[i + d, j], bit), _multiple(a[i, j + d], bit)
                    by_both = _multiple(a[i + d, j + d], d)
                    odd = by_both & d
                    by_row += -odd if by_row >= 0 else odd
                    by_column += -odd if by_column >= 0 else odd
                    carry = (by_both ^ by_row ^ by_column) & bit
                    if total >= 0:
                        total += odd - carry
                    else:
                        total += carry if odd == 0 else odd - carry
                    a[i + d, j + d] = (total + by_row + by_column + by_both) >> up
                    a[i + d, j] = (total + by_row - by_column - by_both) >> up
                    a[i, j + d] = (total - by_row + by_column - by_both) >> up
                    a[i, j] = (total - by_row - by_column + by_both) >> up
                elif below or right:
                    y, x = (i + d, j) if below else (i, j + d)
                    change = _multiple(a[y, x], bit)
                    carry = change & bit
                    total += -carry if total >= 0 else carry
                    a[y, x] = (total + change) >> up
                    a[i, j] = (total - change) >> up
                else:
                    a[i, j] = total >> up


@numba.njit(cache=True, nogil=True)
def _smooth(a, d, most):
    """Coefficients of one level moved towards what the sums around them would interpolate, by up to `most`."""
    height, width = a.shape
    rows, columns = (height + d - 1) // d, (width + d - 1) // d
    inner_rows, inner_columns = (rows - 2) * d, (columns - 2) * d
    for i in range(2 * d, inner_rows, 2 * d):
        for j in range(0, width, 2 * d):
            a[i + d, j] = _bent(a[i - 2 * d, j], a[i, j], a[i + 2 * d, j], a[i + d, j], most)
    for i in range(0, height, 2 * d):
        for j in range(2 * d, inner_columns, 2 * d):
            a[i, j + d] = _bent(a[i, j - 2 * d], a[i, j], a[i, j + 2 * d], a[i, j + d], most)
    for i in range(2 * d, inner_rows, 2 * d):
        for j in range(2 * d, inner_columns, 2 * d):
            here, x, y = a[i, j], 2 * a[i + d, j], 2 * a[i, j + d]
            first, second = a[i + 2 * d, j + 2 * d] - here, here - a[i + 2 * d, j - 2 * d]
            third, fourth = here - a[i - 2 * d, j + 2 * d], a[i - 2 * d, j - 2 * d] - here
            high = 16 * min(
                min(max(first, 0) - x - y, max(second, 0) + x - y), min(max(third, 0) - x + y, max(fourth, 0) + x + y)
            )
            low = 16 * max(
                max(min(first, 0) - x - y, min(second, 0) + x - y), max(min(third, 0) - x + y, min(fourth, 0) + x + y)
            )
            if low < high:
                bend = max(min(first + second + third + fourth, high), low)
                a[i + d, j + d] += _limited(bend - 64 * a[i + d, j + d], 64, most)


@numba.njit(cache=True, nogil=True)
def _bent(before, here, later, slope, most):
    """A slope moved towards that of its neighbours where they are monotonic."""
    up, down = later - here, here - before
    high, low = 4 * max(min(up, down), 0), 4 * min(max(up, down), 0)
    if low >= high:
        return slope
    return slope + _limited(max(min(later - before, high), low) - 8 * slope, 8, most)


@numba.njit(cache=True, nogil=True, inline="always")
def _limited(change, divisor, most):
    """change/divisor towards zero, within +-most."""
    part = abs(change) // divisor
    return max(min(part if change >= 0 else -part, most), -most)


@numba.njit("void(int64[:,::1], int64, boolean)", cache=True, nogil=True)
def _lossy(a, scale, smooth):
    """Integers (H, W) as they come back from Hcompress at this scale, in place."""
    height, width = a.shape
    if scale <= 1:
        return
    levels = 0
    while 1 << levels < max(height, width):
        levels += 1
    _transform(a, levels)
    half, flat = (scale + 1) // 2 - 1, a.reshape(height * width)
    for k in range(len(flat)):
        kept = (abs(flat[k]) + half) // scale * scale
        flat[k] = kept if flat[k] >= 0 else -kept
    _inverse(a, levels, scale // 2 if smooth else 0)
