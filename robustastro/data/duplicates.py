"""Sources that are in two sets of images, or twice in one: found by their pixels, wherever in the frame they lie.

Surveys overlap and catalogues are compiled from one another, so a training and a test set can hold the same source
under different names, cut out around another centre, clipped at another level or with its neighbours removed. A
comparison pixel by pixel misses these, and a plain correlation takes any two compact sources for the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from perturbations.errors import InputError

SCORE = 175.0
AGREEMENT = 0.95
ALIKE = 0.8
MOST = 1e-9  # of the variance: what is left of an exact copy, so that its score stays finite
BLOCK = 64  # pairs at a time


@dataclass(frozen=True)
class Pair:
    """Two images that may show the same source.

    Parameters
    ----------
    first, second : their positions.
    score : -n/2 log10(1 - r^2) with r the `agreement` over n pixels: how much better the one image explains the other
        than a constant does (a likelihood ratio in decades, were pixels independent; they are not, so it is a score).
    agreement : Pearson correlation of the square roots of the values, over the lit pixels of the image that has fewer.
    shift : (rows, columns) by which the first must move to lie on the second [pixels].
    """

    first: int
    second: int
    score: float
    agreement: float
    shift: tuple[int, int]


def shared(
    first: np.ndarray,
    second: np.ndarray | None = None,
    *,
    score: float = SCORE,
    agreement: float = AGREEMENT,
    alike: float = ALIKE,
) -> list[Pair]:
    """Pairs of images of the same source, best first.

    Two steps. The cross-correlation of the square roots of the two images, over shifts of up to 0.4 of their side,
    finds how they lie on each other best; pairs whose normalised peak is below `alike` are dropped (most are without
    any Fourier transform: the product of the two moduli bounds the peak). Then only pixels count that are lit in the
    image with fewer of them, within the common frame, so a neighbour that one image lacks does no harm; `Pair` says
    what is measured there. Pixels are lit where they are above the median by 3 sigma (from the median absolute
    deviation: above zero, where most are zero). Turned or mirrored copies are not found: turn the images.

    The default score was read off the gap between copies and chance among 600 x 1,069 radio sources. For other images
    look at the scores: ask for `score=50` and find the gap.

    Parameters
    ----------
    first, second : (N, H, W) or (N, C, H, W), bands are added up; square, of the same size. Without `second`: pairs
        within the first, each once.
    score, agreement : lowest of a pair that is returned.
    alike : lowest peak of the normalised cross-correlation, in (0, 1]. The time goes with how many pairs reach it.

    Raises
    ------
    InputError : images of another shape, of different sizes, or not finite.
    """
    if not 0 < alike <= 1:
        raise InputError(f"alike = {alike}", "0 < alike <= 1", f"{ALIKE} finds copies with other surroundings")
    one = _lit(first)
    two = one if second is None else _lit(second)
    if one.shape[1:] != two.shape[1:]:
        raise InputError(
            f"images of {one.shape[1]} and of {two.shape[1]} px", "the same size", "crop or pad one of them"
        )
    found = []
    for i, j, shift in _candidates(one, two, alike, once=second is None):
        pair = _compared(one[i], two[j], i, j, shift)
        if pair.score >= score and pair.agreement >= agreement:
            found.append(pair)
    return sorted(found, key=lambda pair: (-pair.score, pair.first, pair.second))


def groups(pairs: Sequence[Pair], n: int) -> np.ndarray:
    """(n,) int: images that pairs within one set join, directly or over others, have the same number."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    joined = coo_matrix((np.ones(len(pairs)), ([p.first for p in pairs], [p.second for p in pairs])), shape=(n, n))
    return connected_components(joined, directed=False)[1]


# ---------------------------------------------------------------------- parts


def _lit(images: np.ndarray) -> np.ndarray:
    """(N, H, H) float32: square roots of the values above the sky, of the pixels that stand out from it."""
    values = np.asarray(images)
    if values.ndim not in (3, 4) or values.shape[-1] != values.shape[-2] or not len(values):
        raise InputError(f"images of shape {values.shape}", "(N, H, H) or (N, C, H, H)", "cut out squares")
    values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise InputError("pixels that are not finite", "finite pixels", "mask or drop these images")
    if values.ndim == 4:
        values = values.sum(axis=1)
    sky = np.median(values, axis=(1, 2), keepdims=True)
    sigma = 1.4826 * np.median(np.abs(values - sky), axis=(1, 2), keepdims=True)
    return np.sqrt(np.where(values - sky > 3 * sigma, values - sky, 0.0))


def _candidates(one: np.ndarray, two: np.ndarray, alike: float, *, once: bool):
    """(position, position, shift) of pairs whose normalised cross-correlation peaks at `alike` or above."""
    from scipy.fft import next_fast_len

    side = one.shape[1]
    frame = 2 * int(next_fast_len((side + int(0.4 * side) + 1) // 2, real=True) or side)  # even, for the weights below
    spectra = [_spectra(images, frame) for images in ((one,) if one is two else (one, two))]
    first, second = spectra[0], spectra[-1]
    weight = torch.full((frame // 2 + 1,), 2.0)  # of columns that stand for their mirror image as well
    weight[[0, -1]] = 1.0
    moduli = [(s.abs() * weight.sqrt()).flatten(1) / frame for s in spectra]
    likely = (moduli[0] @ moduli[-1].T) >= alike
    if once:
        likely = likely.triu(1)
    rows, columns = torch.where(likely)
    for start in range(0, len(rows), BLOCK):
        i, j = rows[start : start + BLOCK], columns[start : start + BLOCK]
        maps = torch.fft.irfft2(first[i].conj() * second[j], s=(frame, frame)).flatten(1)
        peak, place = maps.max(dim=1)
        for k in torch.where(peak >= alike)[0].tolist():
            down, right = divmod(int(place[k]), frame)
            yield int(i[k]), int(j[k]), (_signed(down, frame), _signed(right, frame))


def _signed(step: int, frame: int) -> int:
    return step - frame if step > frame // 2 else step


def _spectra(images: np.ndarray, frame: int) -> torch.Tensor:
    """Fourier transforms of the images, each of unit norm, in a larger frame (N, frame, frame / 2 + 1)."""
    x = torch.from_numpy(images)
    norm = x.flatten(1).norm(dim=1).clamp_min(1e-12)  # a blank image is like no other
    return torch.fft.rfft2(x / norm[:, None, None], s=(frame, frame))


def _compared(one: np.ndarray, two: np.ndarray, i: int, j: int, shift: tuple[int, int]) -> Pair:
    """How well two images agree where the one with fewer lit pixels has them, in their common frame."""
    side = len(one)
    here = tuple(slice(max(0, -s), min(side, side - s)) for s in shift)
    there = tuple(slice(max(0, s), min(side, side + s)) for s in shift)
    a, b = one[here], two[there]
    lit = a > 0 if np.count_nonzero(a) <= np.count_nonzero(b) else b > 0
    x, y = a[lit].astype(np.float64), b[lit].astype(np.float64)
    spread = x.std() * y.std() if len(x) > 1 else 0.0
    r = float(np.mean((x - x.mean()) * (y - y.mean())) / spread) if spread > 0 else 0.0
    score = -len(x) / 2 * float(np.log10(max(1 - r**2, MOST)))
    return Pair(i, j, score, r, shift)
