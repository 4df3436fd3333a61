"""Open set: scores that tell unknown galaxies from known ones, with intervals that cover."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import roc_auc_score

from perturbations.errors import InputError
from robustastro.metrics.intervals import NOTHING, Estimate, fraction, proportion
from robustastro.metrics.open_set import auroc, called_unknown, entropy, h_score


def sample(rng, known: int, unknown: int, apart: float) -> tuple[np.ndarray, np.ndarray]:
    scores = np.concatenate([rng.normal(0, 1, known), rng.normal(apart, 1, unknown)])
    return scores, np.arange(known + unknown) >= known


@pytest.mark.parametrize("digits", [0, 1, 8])
def test_auroc_agrees_with_sklearn_also_with_ties(digits):
    scores, unknown = sample(np.random.default_rng(1), 90, 40, 1.0)
    scores = np.round(scores, digits)
    assert auroc(scores, unknown).value == pytest.approx(roc_auc_score(unknown, scores))
    assert auroc(scores, unknown).n == 130


def test_the_interval_is_that_of_delong_by_all_pairs():
    scores, unknown = sample(np.random.default_rng(2), 30, 12, 1.0)
    scores = np.round(scores, 1)
    outside, inside = scores[unknown][:, None], scores[~unknown][None]
    wins = (outside > inside) + 0.5 * (outside == inside)
    area, (outer, inner) = wins.mean(), (wins.mean(axis=1).var(ddof=1) / 12, wins.mean(axis=0).var(ddof=1) / 30)
    freedom = (outer + inner) ** 2 / (outer**2 / 11 + inner**2 / 29)
    half = scipy.stats.t.ppf(0.95, freedom) * math.sqrt(outer + inner) / (area * (1 - area))
    ends = [scipy.special.expit(scipy.special.logit(area) + side * half) for side in (-1, 1)]
    found = auroc(scores, unknown, confidence=0.9)
    assert [found.value, found.low, found.high] == pytest.approx([area, *ends])


@pytest.mark.parametrize("area", [0.7, 0.85, 0.95])
@pytest.mark.parametrize(("known", "unknown"), [(50, 50), (150, 150), (250, 50), (50, 100)])
def test_the_interval_of_the_area_covers_it(area, known, unknown):
    rng = np.random.default_rng(3)
    apart = math.sqrt(2) * NormalDist().inv_cdf(area)
    found = [auroc(*sample(rng, known, unknown, apart)) for _ in range(1500)]
    assert 0.925 <= np.mean([e.low <= area <= e.high for e in found]) <= 0.975  # 93% less one sigma of 1500 draws


def test_only_the_order_of_scores_matters_and_turning_it_mirrors_the_area():
    scores, unknown = sample(np.random.default_rng(4), 40, 25, 0.7)
    one, other, mirrored = auroc(scores, unknown), auroc(np.exp(3 * scores), unknown), auroc(-scores, unknown)
    assert one == other
    assert (mirrored.value, mirrored.low, mirrored.high) == pytest.approx((1 - one.value, 1 - one.high, 1 - one.low))


def test_groups_that_do_not_overlap_have_an_interval_all_the_same():
    unknown = np.arange(50) >= 30
    found = auroc(unknown + 0.0, unknown)
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(fraction(np.ones(20)).low)
    level = auroc(np.zeros(50), unknown)  # a score that says nothing
    assert level.value == 0.5
    assert level.low < 0.5 < level.high


def test_scores_that_are_nan_are_left_out_and_one_kind_alone_has_no_area():
    scores, unknown = sample(np.random.default_rng(5), 20, 10, 1.0)
    spoilt = np.concatenate([scores, [np.nan, np.nan]])
    assert auroc(spoilt, np.append(unknown, [True, False])) == auroc(scores, unknown)
    assert auroc(np.append(scores, np.inf), np.append(unknown, True)).n == 31  # higher than all, and that is known
    for which in (unknown, ~unknown):
        nothing = auroc(scores[which], unknown[which])
        assert math.isnan(nothing.value)
        assert math.isnan(nothing.low)
    single = auroc(np.array([1.0, 2.0, 3.0]), np.array([False, False, True]))
    assert single.value == 1.0
    assert math.isnan(single.low)


# ---------------------------------------------------------------------- H-score


def test_h_score_is_the_harmonic_mean():
    found = h_score(Estimate(0.8, 0.7, 0.9, 100), Estimate(0.4, 0.3, 0.5, 50))
    assert found.value == pytest.approx(scipy.stats.hmean([0.8, 0.4]))
    assert found.n == 150
    low = math.hypot(found.value - scipy.stats.hmean([0.7, 0.4]), found.value - scipy.stats.hmean([0.8, 0.3]))
    high = math.hypot(found.value - scipy.stats.hmean([0.9, 0.4]), found.value - scipy.stats.hmean([0.8, 0.5]))
    assert (found.low, found.high) == pytest.approx((found.value - low, found.value + high))
    assert h_score(proportion(np.ones(9, dtype=bool)), proportion(np.zeros(9, dtype=bool))).value == 0.0
    assert h_score(NOTHING, proportion(np.ones(9, dtype=bool))) == NOTHING


@pytest.mark.parametrize(("known", "unknown"), [(60, 60), (300, 50)])
@pytest.mark.parametrize(("a", "b"), [(0.9, 0.5), (0.7, 0.7), (0.95, 0.05), (0.04, 0.04), (0.5, 0.95)])
def test_the_interval_of_the_h_score_covers_it(known, unknown, a, b):
    rng = np.random.default_rng(6)
    truth = 2 * a * b / (a + b)
    found = [h_score(proportion(rng.random(known) < a), proportion(rng.random(unknown) < b)) for _ in range(1500)]
    assert np.mean([e.low <= truth <= e.high for e in found]) >= 0.925  # 93% less one sigma of 1500 draws
    assert all(0 <= e.low <= e.value <= e.high <= 1 for e in found)


# ---------------------------------------------------------------------- entropy


def test_entropy_agrees_with_scipy_and_zero_probabilities_are_no_trouble():
    p = np.random.default_rng(7).dirichlet([0.3, 0.3, 0.3, 0.3], 50)
    assert entropy(p) == pytest.approx(scipy.stats.entropy(p, axis=1))
    assert entropy(np.array([[1.0, 0.0], [0.5, 0.5]])) == pytest.approx([0.0, math.log(2)])
    assert np.isnan(entropy(np.array([[np.nan, np.nan]]))).all()


def test_galaxies_above_the_threshold_are_called_unknown():
    p = np.array([[0.98, 0.01, 0.01], [0.4, 0.3, 0.3], [0.85, 0.1, 0.05], [np.nan] * 3])
    assert entropy(p)[2] == pytest.approx(0.5182, abs=1e-4)  # below log(3) / 2 = 0.5493
    assert called_unknown(p).tolist() == [False, True, False, True]
    assert called_unknown(p, rho=0.5).tolist() == [False, True, True, True]
    for rho in (-0.1, 1.2, math.nan):
        with pytest.raises(InputError, match="rho"):
            called_unknown(p, rho)
