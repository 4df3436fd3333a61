"""Domain: how far two sets of latents lie apart, without mistaking a galaxy for two."""

import itertools
import json
import math

import numpy as np
import pytest
import scipy.stats
from scipy.spatial.distance import pdist
from synthetic_records import make_record

from perturbations.errors import InputError
from robustastro.metrics.domain import domain, mmd, proxy_a_distance, silhouette


def moved(rng, n: int, dimensions: int, shift: float, scatter: float) -> tuple[np.ndarray, np.ndarray]:
    """The same galaxies before and after: moved along the first axis, and scattered a little."""
    x = rng.normal(size=(n, dimensions))
    y = x + scatter * rng.normal(size=x.shape)
    y[:, 0] += shift
    return x, y


# ---------------------------------------------------------------------- proxy A-distance


def test_sets_that_are_equal_have_no_distance_and_those_far_apart_have_two():
    x = np.random.default_rng(1).normal(size=(60, 4))
    assert proxy_a_distance(x, x, paired=True).value == pytest.approx(0.0)
    far = proxy_a_distance(x, x + 50.0, paired=True)
    assert (far.value, far.high) == (2.0, 2.0)
    assert 1.5 < far.low < 2.0
    assert far.n == 60
    assert proxy_a_distance(x, x[:40] + 50.0).n == 100


@pytest.mark.parametrize("paired", [True, False])
def test_the_distance_is_that_of_the_best_line_between_two_gaussians(paired):
    """Their best line errs with probability Phi(-shift / 2); unequal sets count alike."""
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(4000, 3)), rng.normal(size=(4000, 3)) + np.array([1.2, 0.0, 0.0])
    expected = 2 * (1 - 2 * scipy.stats.norm.cdf(-0.6))
    found = proxy_a_distance(x, y if paired else y[:900], paired=paired)
    assert found.value == pytest.approx(expected, abs=0.08)
    assert found.low < expected < found.high


def test_a_galaxy_is_never_trained_on_and_tested_with():
    """Twins on both sides of a split, in many dimensions, would be told apart by the label of the other one: always
    wrongly, and the distance would be near -2."""
    x, y = moved(np.random.default_rng(3), 60, 200, 0.0, 1e-3)
    assert abs(proxy_a_distance(x, y, paired=True).value) < 0.4
    assert proxy_a_distance(x, y, paired=False).value < -0.8


def test_the_scale_of_an_axis_does_not_matter_nor_does_the_order_of_the_sets():
    x, y = moved(np.random.default_rng(4), 120, 5, 1.0, 0.5)
    one = proxy_a_distance(x, y, paired=True)
    factor = np.array([1e-5, 1.0, 1e4, 10.0, 1e-2])
    assert proxy_a_distance(x * factor, y * factor, paired=True).value == pytest.approx(one.value)
    assert proxy_a_distance(y, x, paired=True).value == pytest.approx(one.value)


@pytest.mark.parametrize("paired", [True, False])
def test_the_interval_covers_nothing_at_all_where_there_is_no_distance(paired):
    rng = np.random.default_rng(5)
    covered = []
    for seed in range(120):
        x, y = moved(rng, 60, 5, 0.0, 0.5)
        found = proxy_a_distance(x, y if paired else rng.normal(size=x.shape), paired, seed=seed)
        covered.append(found.low <= 0.0 <= found.high)
    assert np.mean(covered) >= 0.91  # 0.93 less one sigma


def test_too_few_galaxies_have_no_distance_and_sets_must_fit():
    x = np.zeros((4, 2))
    assert math.isnan(proxy_a_distance(x, x).value)
    assert math.isnan(mmd(x[:1], x).value)
    for of in (proxy_a_distance, mmd):
        with pytest.raises(InputError, match="latents of shape"):
            of(np.zeros((9, 2)), np.zeros((9, 3)))
        with pytest.raises(InputError, match="as many in both"):
            of(np.zeros((9, 2)), np.zeros((8, 2)), paired=True)


# ---------------------------------------------------------------------- MMD


def by_hand(x: np.ndarray, y: np.ndarray, paired: bool) -> float:
    """Gretton et al. 2012: eq. 3, and eq. 4 for pairs, written as sums."""
    width = np.median(pdist(np.concatenate([x, y])))

    def k(a, b):
        return math.exp(-np.sum((a - b) ** 2) / (2 * width**2))

    n, m = len(x), len(y)
    if paired:
        terms = [
            k(x[i], x[j]) + k(y[i], y[j]) - k(x[i], y[j]) - k(x[j], y[i]) for i in range(n) for j in range(n) if i != j
        ]
        return sum(terms) / (n * (n - 1))
    own = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    other = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return own + other - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


def test_mmd_is_the_sum_it_is_defined_as():
    rng = np.random.default_rng(6)
    x, y = moved(rng, 9, 3, 1.0, 0.5)
    found = mmd(x, y, paired=True)
    assert found.value == pytest.approx(by_hand(x, y, paired=True))
    assert found.width == pytest.approx(np.median(pdist(np.concatenate([x, y]))))
    assert mmd(x, y[:6]).value == pytest.approx(by_hand(x, y[:6], paired=False))
    assert (found.n, mmd(x, y[:6]).n) == (9, 6)


@pytest.mark.parametrize("paired", [True, False])
def test_the_p_value_of_mmd_is_that_of_recomputed_exchanges(paired):
    """Computed anew: all 64 ways to exchange pairs that differ, or some ways to divide fourteen points."""
    rng = np.random.default_rng(7)
    x, y = moved(rng, 7, 2, 0.7, 0.4)
    value, both = by_hand(x, y, paired), np.concatenate([x, y])
    if paired:
        turns = np.array(list(itertools.product([False], *[[False, True]] * 6)))[:, :, None]
        ways = [(np.where(turn, y, x), np.where(turn, x, y)) for turn in turns]
    else:
        orders = [rng.permutation(14) for _ in range(300)]
        ways = [(both[order[:7]], both[order[7:]]) for order in orders]
    expected = np.mean([by_hand(one, other, paired) >= value - 1e-12 for one, other in ways])
    assert mmd(x, y, paired=paired).p == pytest.approx(expected, abs=0.03 if paired else 0.07)
    assert 0.02 < expected < 0.9  # else the comparison says nothing


@pytest.mark.parametrize("paired", [True, False])
def test_mmd_of_one_distribution_is_zero_on_average_and_found_as_often_as_p_says(paired):
    """Pairs are correlated: without care for that they would look alike too often, or never differ."""
    rng = np.random.default_rng(8)
    found = []
    for seed in range(300):
        common = rng.normal(size=(30, 3))
        x = common + 0.5 * rng.normal(size=common.shape)
        y = (common if paired else rng.normal(size=(30, 3))) + 0.5 * rng.normal(size=common.shape)
        found.append(mmd(x, y, paired, seed=seed))
    values = np.array([of.value for of in found])
    assert abs(values.mean()) < 3 * values.std() / math.sqrt(300)
    assert 0.02 <= np.mean([of.p <= 0.05 for of in found]) <= 0.085
    assert 0.42 <= np.mean([of.p <= 0.5 for of in found]) <= 0.58


def test_pairs_find_a_shift_that_is_small_beside_the_scatter_of_galaxies():
    x, y = moved(np.random.default_rng(9), 80, 4, 0.15, 0.05)
    assert mmd(x, y, paired=True).p == 1 / 1000
    assert mmd(x, y).p > 0.2
    same = mmd(x, x, paired=True)
    assert (same.value, same.p) == (pytest.approx(0.0, abs=1e-12), 1.0)
    point = mmd(np.zeros((5, 2)), np.zeros((5, 2)))
    assert (point.value, point.p) == (0.0, 1.0)


# ---------------------------------------------------------------------- silhouette


def test_silhouette_by_hand():
    latent, groups = np.array([[0.0], [1.0], [5.0], [7.0]]), np.array([0, 0, 1, 1])
    each = [(6 - 1) / 6, (5 - 1) / 5, (4.5 - 2) / 4.5, (6.5 - 2) / 6.5]
    found = silhouette(latent, groups)
    assert found.value == pytest.approx(np.mean(each))
    assert found.n == 4
    assert math.isnan(found.low)
    for wrong in (np.zeros(4, dtype=int), np.arange(4)):
        assert silhouette(latent, wrong).n == 0


# ---------------------------------------------------------------------- a record


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return make_record(tmp_path_factory.mktemp("run"), {"depth": [0.8, 0.1], "onepixel": [1.0]}, n=80)


def test_domain_of_a_record_is_measured_on_clean_and_perturbed_latents(record):
    rows = domain(record)
    assert [(r["perturbation"], r["strength"], r["n"], r["of"]) for r in rows] == [
        ("depth", 0.8, 80, 80), ("depth", 0.1, 80, 80), ("onepixel", 1.0, 80, 80),
    ]  # fmt: skip
    clean, after = (np.stack(t["latent"]) for t in (record.galaxies, record.unit("depth", 0.1)))
    labels = record.galaxies["label"].to_numpy()
    row = rows[1]
    assert row["proxy_a_distance"] == proxy_a_distance(clean, after, paired=True).to_dict()
    assert row["mmd"] == mmd(clean, after, paired=True).to_dict()
    assert row["silhouette_classes"] == silhouette(after, labels).to_dict()
    assert row["silhouette_classes_clean"] == silhouette(clean, labels).to_dict()
    sides = silhouette(np.concatenate([clean, after]), np.repeat([0, 1], 80))
    assert row["silhouette_domains"] == sides.to_dict()
    assert row["silhouette_classes"]["value"] < row["silhouette_classes_clean"]["value"]
    json.dumps(rows, allow_nan=False)
    assert domain(record) == rows


def test_a_large_run_is_measured_on_the_same_500_galaxies_of_each_unit(tmp_path, monkeypatch):
    from robustastro.metrics import domain as module

    monkeypatch.setattr(module, "PERMUTATIONS", 9)
    record = make_record(tmp_path, {"depth": [0.8, 0.1]}, n=540)
    seen = []
    monkeypatch.setattr(module, "mmd", lambda first, second, paired: seen.append(first) or mmd(first[:5], second[:5]))
    rows = domain(record)
    assert [(r["n"], r["of"]) for r in rows] == [(500, 540)] * 2
    assert np.array_equal(seen[0], seen[1])
    order = [np.flatnonzero((np.stack(record.galaxies["latent"]) == z).all(axis=1))[0] for z in seen[0]]
    assert order == sorted(order)
    assert order != list(range(500))  # not the first ones, which may be of one class


def test_a_unit_without_latents_says_so_and_latents_that_are_not_finite_are_left_out(tmp_path):
    record = make_record(tmp_path, {"depth": [0.8, 0.1]}, n=30)
    record.write_shard("depth", 0.8, 0, record.unit("depth", 0.8).reset_index().drop(columns="latent"))
    spoilt = record.unit("depth", 0.1).reset_index()
    spoilt.loc[:2, "latent"] = spoilt.loc[:2, "latent"].map(lambda z: z * np.nan)
    record.write_shard("depth", 0.1, 0, spoilt)
    without, partly = domain(record)
    assert "no finite latents" in without["reason"]
    assert without["proxy_a_distance"]["value"] is None
    assert without["mmd"]["p"] is None
    assert (partly["n"], partly["reason"]) == (27, None)
    assert partly["mmd"]["n"] == 27
    kept, labels = np.stack(spoilt["latent"][3:]), record.galaxies["label"].to_numpy()[3:]
    assert partly["silhouette_classes"] == silhouette(kept, labels).to_dict()
