"""Shared sources are found wherever they lie in the frame; other sources, however alike, are not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import correlate2d

from perturbations.errors import InputError
from robustastro.data.duplicates import Pair, groups, shared

SIDE = 48


def sources(n: int, seed: int) -> np.ndarray:
    """Double radio sources with noise, clipped to zero at three sigma: (n, SIDE, SIDE) uint8."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    images = np.zeros((n, SIDE, SIDE))
    for image in images:
        angle, half = rng.uniform(0, np.pi), rng.uniform(3, 8)
        for sign, width in zip((1, -1), rng.uniform(1.5, 3.0, 2), strict=True):
            y, x = sign * half * np.sin(angle), sign * half * np.cos(angle)
            image += rng.uniform(0.5, 1) * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * width**2))
        image += rng.normal(0, 0.02, image.shape)
    images = np.where(images > 0.06, images, 0.0)
    return (255 * images / images.max(axis=(1, 2), keepdims=True)).astype(np.uint8)


def moved(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """A copy cut out around another centre: what leaves the frame is lost."""
    frame = np.zeros((3 * SIDE, 3 * SIDE), image.dtype)
    frame[SIDE + down : 2 * SIDE + down, SIDE + right : 2 * SIDE + right] = image
    return frame[SIDE : 2 * SIDE, SIDE : 2 * SIDE]


def test_finds_a_copy_and_how_far_it_was_moved():
    first, second = sources(6, 1), sources(7, 2)
    second[4] = moved(first[2], 5, -7)
    second[0] = first[5]
    assert [(p.first, p.second, p.shift) for p in sorted(shared(first, second), key=lambda p: p.second)] == [
        (5, 0, (0, 0)),
        (2, 4, (5, -7)),
    ]


def test_the_shift_is_that_of_the_full_correlation():
    first = sources(1, 3)[0]
    second = moved(first, -9, 6)
    peak = correlate2d(np.sqrt(second.astype(float)), np.sqrt(first.astype(float))).argmax()
    down, right = np.unravel_index(peak, (2 * SIDE - 1, 2 * SIDE - 1))
    (pair,) = shared(first[None], second[None])
    assert pair.shift == (down - SIDE + 1, right - SIDE + 1) == (-9, 6)


def test_other_sources_are_no_copies():
    assert shared(sources(25, 4), sources(25, 5)) == []


def test_finds_a_copy_that_is_scaled_noisy_or_has_lost_a_neighbour():
    first = sources(3, 6).astype(float)
    neighbour = moved(first[1], 18, 0) * 0.2
    second = np.stack([0.01 * first[0], np.maximum(first[1], neighbour), first[2]])
    second[2] += np.random.default_rng(7).normal(0, 1.0, second[2].shape) * (second[2] > 0)
    found = {(p.first, p.second) for p in shared(first, second)}
    assert found == {(0, 0), (1, 1), (2, 2)}


def test_sky_noise_is_not_taken_for_light():
    rng = np.random.default_rng(8)
    clean = sources(4, 9).astype(float)
    first, second = (100 + clean + rng.normal(0, 1, clean.shape) for _ in range(2))
    assert {(p.first, p.second) for p in shared(first, second)} == {(k, k) for k in range(4)}


def test_score_and_agreement_by_hand():
    """Five lit pixels: r is NumPy's over them, and the score its likelihood ratio."""
    first, second = np.zeros((2, 1, 8, 8))
    first[0, 3, 1:6] = [1, 4, 9, 16, 25]
    second[0, 3, 1:7] = [4, 4, 16, 16, 49, 1]
    (pair,) = shared(first, second, score=0, agreement=0)
    r = np.corrcoef([1, 2, 3, 4, 5], [2, 2, 4, 4, 7])[0, 1]
    assert pair.agreement == pytest.approx(r, rel=1e-6)
    assert pair.score == pytest.approx(-2.5 * np.log10(1 - r**2), rel=1e-6)


def test_the_sky_does_not_count():
    """The same five pixels on a sky of 98 to 102: 3 sigma are 4.4, and score and agreement are those of no sky."""
    sky = np.resize([98.0, 99.0, 100.0, 101.0, 102.0], (8, 8))
    first, second = sky[None].copy(), sky.T[None].copy()
    first[0, 3, 1:6] = 100 + 10 * np.array([1, 4, 9, 16, 25])
    second[0, 3, 1:7] = 100 + 10 * np.array([4, 4, 16, 16, 49, 1])
    (pair,) = shared(first, second, score=0, agreement=0)
    r = np.corrcoef([1, 2, 3, 4, 5], [2, 2, 4, 4, 7])[0, 1]
    assert (pair.score, pair.agreement) == pytest.approx((-2.5 * np.log10(1 - r**2), r), rel=1e-6)
    assert shared(first, second, score=0, agreement=r + 0.001) == []
    assert shared(first, second, score=pair.score + 0.001, agreement=0) == []


def test_within_one_set_each_pair_once_and_no_image_with_itself():
    images = sources(5, 10)
    images[3], images[4] = moved(images[0], 2, 2), moved(images[0], -3, 1)
    found = shared(images)
    assert sorted((p.first, p.second) for p in found) == [(0, 3), (0, 4), (3, 4)]
    assert len(set(groups(found[:2], 5))) == 3


def test_groups_join_over_others():
    chain = [Pair(0, 1, 200, 1, (0, 0)), Pair(1, 4, 200, 1, (0, 0))]
    found = groups(chain, 6)
    assert found[0] == found[1] == found[4]
    assert len(set(found)) == 4
    assert len(set(groups([], 3))) == 3


def test_a_blank_image_is_like_no_other():
    images = sources(3, 11)
    images[1] = 0
    assert shared(images, images[[1]]) == []
    assert len(shared(images)) == 0


def test_bands_are_added_up():
    images = sources(3, 12).astype(float)
    bands = np.stack([images, images], axis=1)
    bands[:, 0, :, : SIDE // 2] = bands[:, 1, :, SIDE // 2 :] = 0  # half of the source in each
    assert {(p.first, p.second) for p in shared(bands, images)} == {(0, 0), (1, 1), (2, 2)}


@pytest.mark.parametrize(
    ("first", "second", "options", "said"),
    [
        (np.zeros((2, 8, 9)), None, {}, "squares"),
        (np.zeros((2, 8, 8)), np.zeros((2, 9, 9)), {}, "same size"),
        (np.full((1, 8, 8), np.nan), None, {}, "finite"),
        (np.zeros((2, 8, 8)), None, {"alike": 0.0}, "alike"),
    ],
)
def test_bad_images_are_refused(first, second, options, said):
    with pytest.raises(InputError, match=said):
        shared(first, second, **options)
