"""Floating-point pixels as integers, and back: those of a compressed FITS image, and the bytes of a picture.

Tile compression of floating-point images (Pence, White & Seaman 2010, PASP 122, 1065) divides an image into tiles,
estimates the noise of each, and stores integer multiples of a fraction of it. Rice, gzip and lossless Hcompress keep
those integers, so that what a user reads back follows from the quantisation alone. The values here are those of CFITSIO
through astropy.io.fits, tile by tile; compiled by Numba, for tiles are many and short.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import torch

from perturbations.core import Observation
from perturbations.draws import Draws
from perturbations.errors import InputError, unknown_name

DITHERS = {"none": 0, "subtractive_1": 1, "subtractive_2": 2}
TILES = ("row", "image")
RANDOMS = 10_000  # numbers in the sequence that the FITS standard prescribes for dithering
LARGEST = 2147483647.0  # of the integers that are stored, less a few that are reserved
RESERVED = 10.0


def requantised(sky: Observation, level: float, draws: Draws, dither: str, tile: str) -> Observation:
    """An image stored in steps of its noise over `level`, and read back.

    A step is the noise of a tile divided by `level`. The noise is the smallest of the estimates by the median absolute
    differences of second, third and fifth order. Rounding to steps adds a variance of step^2/12. A tile without noise,
    shorter than nine pixels, or of too large a range is stored without loss. The dither of a band starts at a place
    that is drawn for its galaxy, as a file has its own dither seed.

    Parameters
    ----------
    sky : flux (N, C, H, W). Not modified.
    level : steps per noise, > 0.
    draws : stream "dither seed" is taken.
    dither : "none", "subtractive_1" or "subtractive_2" (a pixel of exactly zero stays zero).
    tile : "row" or "image".

    Returns
    -------
    Observation; read_noise is raised by the mean step^2/12 over the tiles of each galaxy and band.

    Raises
    ------
    InputError : a dither or tile of another name.
    """
    if tile not in TILES:
        raise unknown_name("tile", tile, TILES)
    count, bands, height, _ = sky.flux.shape
    rows = height if tile == "row" else 1
    seeds = dither_seeds(draws, bands, dither)
    tiles = pixels(sky.flux).reshape(count * bands, rows, -1)
    stored, steps = np.empty_like(tiles), np.empty((count * bands, rows))

    def work(part: slice) -> None:
        _requantise(tiles[part], np.float32(level), DITHERS[dither], seeds[part], SEQUENCE, stored[part], steps[part])

    in_threads(work, len(tiles))
    extra = torch.from_numpy(np.square(steps).mean(axis=1) / 12.0).reshape(count, bands)
    return noisier(sky, torch.from_numpy(stored).reshape(sky.flux.shape).to(sky.flux.device), extra)


def dither_seeds(draws: Draws, bands: int, dither: str) -> np.ndarray:
    """Where the dither of each band of each galaxy starts in the sequence, int64 (N bands,), 1 to 10,000."""
    if dither not in DITHERS:
        raise unknown_name("dither", dither, DITHERS)
    return draws.integers("dither seed", RANDOMS, (bands,)).cpu().numpy().reshape(-1) + 1


def noisier(sky: Observation, flux: torch.Tensor, extra: torch.Tensor) -> Observation:
    """`flux` with an exposure whose variance is larger by `extra` (N, C), counted as noise of reading it out."""
    e = sky.exposure
    return sky.replace(flux, e.replace(read_noise=(e.read_noise**2 + extra * e.fraction / e.visits).sqrt()))


def check_level(name: str, level: float) -> None:
    """Refuse a number of steps per noise that no file is written with."""
    if not 1e-3 <= level <= 1e4:
        raise InputError(f"{name}: level = {level:g}", "0.001 <= level <= 10000 steps per noise", "fpack uses 4")


def through_bytes(x: torch.Tensor, stored: Callable[[np.ndarray], np.ndarray]) -> torch.Tensor:
    """Images as they come back from a codec of 8-bit pictures.

    Three bands are one colour picture; any other number of bands are as many grey ones.

    Parameters
    ----------
    x : (N, C, H, W) float32; values outside [0, 1] are clipped. Not modified.
    stored : writes and reads one picture, uint8 (H, W) or (H, W, 3).

    Returns
    -------
    (N, C, H, W) float32, multiples of 1/255.
    """
    values = pixels(x if x.shape[1] == 3 else x.reshape(-1, 1, *x.shape[2:]))
    count, colours, height, width = values.shape
    back = np.empty_like(values)

    def work(part: slice) -> None:
        picture = np.empty((height, width, colours), np.uint8)
        for k in range(*part.indices(count)):
            _to_bytes(values[k], picture)
            picture[:] = stored(picture if colours == 3 else picture[:, :, 0]).reshape(picture.shape)
            _from_bytes(picture, back[k])

    in_threads(work, count)
    return torch.from_numpy(back).reshape(x.shape).to(x.device)


def pixels(flux: torch.Tensor) -> np.ndarray:
    """The flux in the memory of the CPU, float32, in the order of the pixels."""
    return flux.detach().cpu().contiguous().numpy()


def in_threads(work: Callable[[slice], None], items: int) -> None:
    """Do `work` on parts of the items, on as many threads as torch uses; `work` releases the interpreter."""
    threads = min(torch.get_num_threads(), items)
    if threads <= 1:
        return work(slice(0, items))
    edges = [items * k // threads for k in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, itertools.starmap(slice, itertools.pairwise(edges))))
    return None


def _sequence() -> np.ndarray:
    """The FITS standard's numbers for dithering: the generator of Park & Miller (1988), CACM 31, 1192; float32."""
    seed, numbers = 1, np.empty(RANDOMS, dtype=np.float32)
    for k in range(RANDOMS):
        seed = 16807 * seed % 2147483647
        numbers[k] = seed / 2147483647.0
    return numbers


SEQUENCE = _sequence()


@numba.njit(cache=True, nogil=True)
def _middle(values, count):
    """The lower median of the first `count` values, none of them negative, bit by bit.

    Bits of floats that are not negative are in the order of the floats. Counting has no branches.
    """
    bits, wanted, middle = values.view(np.int32), (count - 1) // 2, np.int32(0)
    for power in range(30, -1, -1):
        trial, below = np.int32(middle | np.int32(1 << power)), np.int32(0)
        for k in range(count):
            below += np.int32(bits[k] < trial)
        if below <= wanted:
            middle = trial
    for k in range(count):
        if bits[k] == middle:
            return np.float64(values[k])
    return 0.0


@numba.njit(cache=True, nogil=True, fastmath={"nnan", "nsz"})
def _range(tile):
    least = most = tile[0]
    for k in range(1, len(tile)):
        least, most = min(least, tile[k]), max(most, tile[k])
    return least, most


@numba.njit(cache=True, nogil=True)
def _differences(tile, second, third, fifth):
    """Absolute differences of second, third and fifth order, and how many there are: (of second, of the others).

    Stretches of constant value are left out: three pixels for the second order, five for the others.
    """
    count = len(tile) - 8
    level = 0
    for k in range(count):
        level += (tile[k + 4] == tile[k + 5]) & (tile[k + 5] == tile[k + 6])
    if level == 0:
        for k in range(count):
            second[k], third[k], fifth[k] = _difference(tile, k + 4)
        return count, count
    pairs = others = 0
    for k in range(4, count + 4):
        by_second, by_third, by_fifth = _difference(tile, k)
        flat = tile[k] == tile[k + 1] and tile[k + 1] == tile[k + 2]
        if not flat:
            second[pairs] = by_second
            pairs += 1
        if not (flat and tile[k - 2] == tile[k - 1] and tile[k - 1] == tile[k]):
            third[others], fifth[others] = by_third, by_fifth
            others += 1
    return pairs, others


@numba.njit(cache=True, nogil=True, inline="always")
def _difference(tile, k):
    two, four, six = np.float32(2.0), np.float32(4.0), np.float32(6.0)
    before, here, later = tile[k - 2], tile[k], tile[k + 2]
    return (
        abs(here - later),
        abs(two * here - before - later),
        abs(six * here - four * before - four * later + tile[k - 4] + tile[k + 4]),
    )


@numba.njit(cache=True, nogil=True)
def _noise(tile, second, third, fifth):
    """Noise of a tile (1-D float32), with three buffers of its size; 0 where it has none or is too short."""
    if len(tile) < 9:
        return 0.0
    pairs, count = _differences(tile, second, third, fifth)
    if count == 0:
        return 0.0
    noise = 0.6052697 * _middle(third, count)
    other = 0.1772048 * _middle(fifth, count)
    if other != 0.0 and other < noise:
        noise = other
    if pairs > 1 or (pairs == 1 and count == 1):
        second[pairs:count] = np.float32(0.0)  # as in CFITSIO, whose median is over as many as the others have
        other = 1.0483579 * _middle(second, count)
        if other != 0.0 and other < noise:
            noise = other
    return noise


@numba.njit(cache=True, nogil=True)
def scaling_of(tile, level, dither, second, third, fifth):
    """Step and zero point of a tile (1-D float32), with three buffers of its size; a step of 0: stored without loss."""
    step = _noise(tile, second, third, fifth) / np.float64(level)
    if step == 0.0:
        return 0.0, 0.0
    least, most = _range(tile)
    reach = np.float64(most - least)
    if reach / step > 2.0 * LARGEST - RESERVED:
        return 0.0, 0.0
    if dither == 2:
        return step, np.float64(least) + step * (LARGEST - RESERVED)
    if reach / step < LARGEST - RESERVED:
        return step, np.trunc(np.float64(least) / step + 0.5) * step
    return step, np.float64(least + most) / 2.0


@numba.njit(cache=True, nogil=True, inline="always")
def _rounded(value):
    return np.trunc(value + math.copysign(0.5, value))


@numba.njit(cache=True, nogil=True)
def shifts_of(seed, dither, sequence, shifts):
    """The dither of a tile of this seed, float64, written into `shifts`: 1/2, which is none, without dither.

    The sequence is read from a place that the seed gives, and again from another each time it ends.
    """
    if dither == 0:
        shifts[:] = 0.5
        return
    place = (seed - 1) % RANDOMS
    number, k = np.int64(sequence[place] * np.float32(500.0)), 0
    while k < len(shifts):
        run = min(len(shifts) - k, RANDOMS - number)
        shifts[k : k + run] = sequence[number : number + run]
        place = (place + 1) % RANDOMS
        number, k = np.int64(sequence[place] * np.float32(500.0)), k + run


@numba.njit(cache=True, nogil=True)
def to_integers(tile, step, zero, shifts, integers):
    """Pixels as whole numbers of steps above the zero point, halves away from zero."""
    for k in range(len(tile)):
        integers[k] = _rounded((np.float64(tile[k]) - zero) / step + shifts[k] - 0.5)


@numba.njit(cache=True, nogil=True)
def to_pixels(integers, step, zero, shifts, tile):
    """The inverse of `to_integers`."""
    for k in range(len(tile)):
        tile[k] = (integers[k] - shifts[k] + 0.5) * step + zero


@numba.njit("void(float32[:,:,::1], float32, int64, int64[::1], float32[::1], float32[:,:,::1], float64[:,::1])",
            cache=True, nogil=True)  # fmt: skip
def _requantise(tiles, level, dither, seeds, sequence, out, steps):
    size = tiles.shape[2]
    second, third, fifth = np.empty(size, np.float32), np.empty(size, np.float32), np.empty(size, np.float32)
    integers, shifts = np.empty(size), np.empty(size)
    for image in range(tiles.shape[0]):
        for row in range(tiles.shape[1]):
            tile, result = tiles[image, row], out[image, row]
            step, zero = scaling_of(tile, level, dither, second, third, fifth)
            steps[image, row] = step
            if step == 0.0:
                result[:] = tile
                continue
            shifts_of(seeds[image] + row, dither, sequence, shifts)
            to_integers(tile, step, zero, shifts, integers)
            to_pixels(integers, step, zero, shifts, result)
            if dither == 2:
                for k in range(size):
                    if tile[k] == 0.0:
                        result[k] = 0.0


@numba.njit("UniTuple(float64, 2)(float32[::1], float32, int64, int64, float32[::1], float32[:,::1], float64[::1],"
            " int64[::1])", cache=True, nogil=True)  # fmt: skip
def tile_to_integers(tile, level, dither, seed, sequence, buffers, shifts, integers):
    """Step and zero point of one tile, with its dither and its integers written; a step of 0: nothing written.

    Called from Python, for a compiled function of another file would go on with what was compiled into it.
    """
    step, zero = scaling_of(tile, level, dither, buffers[0], buffers[1], buffers[2])
    if step > 0.0:
        shifts_of(seed, dither, sequence, shifts)
        to_integers(tile, step, zero, shifts, integers)
    return step, zero


@numba.njit("void(int64[::1], float64, float64, float64[::1], float32[::1])", cache=True, nogil=True)
def tile_from_integers(integers, step, zero, shifts, tile):
    """The inverse."""
    to_pixels(integers, step, zero, shifts, tile)


@numba.njit("void(float32[:,:,::1], uint8[:,:,::1])", cache=True, nogil=True)
def _to_bytes(values, picture):
    for colour in range(values.shape[0]):
        for row in range(values.shape[1]):
            for column in range(values.shape[2]):
                value = min(max(values[colour, row, column], np.float32(0.0)), np.float32(1.0))
                picture[row, column, colour] = np.uint8(np.rint(value * np.float32(255.0)))


@numba.njit("void(uint8[:,:,::1], float32[:,:,::1])", cache=True, nogil=True)
def _from_bytes(picture, values):
    for colour in range(values.shape[0]):
        for row in range(values.shape[1]):
            for column in range(values.shape[2]):
                values[colour, row, column] = np.float32(picture[row, column, colour]) / np.float32(255.0)
