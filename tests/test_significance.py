"""Significance: tests and intervals agree with other libraries and with values worked by hand."""

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_effectsize

from perturbations.errors import InputError
from robustastro.metrics.intervals import balanced, fraction, mean, paired_drop, proportion, worst_class
from robustastro.metrics.resampling import bootstrap, bootstrap_seeds
from robustastro.metrics.significance import (
    cohens_dz,
    cohens_h,
    difference,
    holm,
    mcnemar,
    odds_ratio,
    over_seeds,
    ratio,
)


def table(both: int, gained: int, lost: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Two paired bool arrays; `gained` galaxies only the first has right."""
    counts = (both, gained, lost, neither)
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


# ---------------------------------------------------------------------- intervals of several rungs or classes


@pytest.mark.parametrize(("k", "n"), [(0, 9), (9, 9), (1, 40), (31, 40)])
def test_a_fraction_of_zeros_and_ones_is_a_proportion(k, n):
    hits = np.arange(n) < k
    got, expected = fraction(hits.astype(float), 0.9), proportion(hits, 0.9)
    assert (got.value, got.n) == (expected.value, n)
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_fraction_has_the_effective_sample_size_of_its_variance():
    """Half the variance of zeros and ones: the interval of twice as many galaxies."""
    spread = math.sqrt(0.125)
    got, expected = fraction(np.tile([0.5 - spread, 0.5 + spread], 20)), proportion(np.arange(80) < 40)
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_equal_fractions_still_leave_something_open():
    got = fraction(np.full(50, 0.6))
    z2 = scipy.stats.norm.ppf(0.975) ** 2
    assert (got.low, got.high) == pytest.approx((0.6 * 50 / (50 + z2), (0.6 * 50 + z2) / (50 + z2)))
    near = fraction(np.r_[np.full(49, 0.6), 0.6001])  # and hardly less with a trace of variance
    assert near.high - near.low > 0.99 * (got.high - got.low)
    assert fraction(np.array([0.2, math.nan, 0.4])).n == 2
    with pytest.raises(InputError, match="in \\[0, 1\\]"):
        fraction(np.array([0.5, 1.5]))


def test_balanced_accuracy_counts_classes_and_not_galaxies():
    labels = np.repeat([0, 1, 3, -1], [80, 10, 4, 20])
    correct = np.zeros(len(labels), dtype=bool)
    correct[:60] = correct[80:82] = correct[90:94] = correct[94:] = True
    got = balanced(correct, labels, 4)
    assert got.value == pytest.approx((60 / 80 + 2 / 10 + 4 / 4) / 3)
    each = [proportion(correct[labels == k]) for k in (0, 1, 3)]
    assert got.value - got.low == pytest.approx(math.sqrt(sum((e.value - e.low) ** 2 for e in each)) / 3)
    assert got.high - got.value == pytest.approx(math.sqrt(sum((e.high - e.value) ** 2 for e in each)) / 3)
    assert got.n == 94


def test_balanced_accuracy_of_one_class_is_its_accuracy():
    correct = np.arange(30) < 21
    got, expected = balanced(correct, np.ones(30, dtype=int), 3), proportion(correct)
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high))


def test_the_worst_class_is_named_and_its_interval_knows_the_others():
    labels = np.repeat([0, 1, 2, -1], [40, 10, 4, 7])
    correct = np.zeros(61, dtype=bool)
    correct[:32] = correct[40:47] = correct[50:53] = True  # 0.8, 0.7, 0.75
    got, which = worst_class(correct, labels, 4)
    assert (which, got.value, got.n) == (1, 0.7, 10)
    assert got.low == pytest.approx(min(proportion(correct[labels == k]).low for k in range(3)))
    assert got.low == proportion(correct[50:54]).low  # the third class may be the worst one
    exact = [scipy.stats.binomtest(m, n).proportion_ci(1 - 0.05 / 3, "exact").high for m, n in ((32, 40), (7, 10))]
    assert got.high == pytest.approx(min(exact))


def test_without_galaxies_there_is_no_class_and_no_number():
    nothing = np.zeros(0, dtype=bool)
    estimate, which = worst_class(nothing, np.zeros(0, dtype=int), 3)
    assert which == -1
    unlabelled = balanced(np.ones(4, dtype=bool), np.full(4, -1), 3)
    found = estimate, unlabelled, fraction(nothing), over_seeds(np.zeros((3, 0))), ratio(nothing, nothing)
    for one in (*found, bootstrap(np.mean, nothing), odds_ratio(nothing, nothing)):
        assert one.to_dict() == {"value": None, "low": None, "high": None, "n": 0}
    assert math.isnan(mcnemar(nothing, nothing))
    assert difference(nothing, nothing).to_dict()["p"] is None


# ---------------------------------------------------------------------- McNemar and Holm


@pytest.mark.parametrize("counts", [(30, 9, 2, 9), (30, 2, 9, 9), (5, 3, 3, 2), (40, 1, 0, 9), (101, 59, 121, 33)])
def test_mcnemar_agrees_with_statsmodels(counts):
    both, gained, lost, neither = counts
    expected = statsmodels_mcnemar([[both, gained], [lost, neither]], exact=True).pvalue
    assert mcnemar(*table(*counts)) == pytest.approx(expected, rel=1e-12)


def test_mcnemar_by_hand():
    assert mcnemar(*table(20, 6, 1, 3)) == pytest.approx(2 * (1 + 7) / 2**7)
    assert mcnemar(*table(20, 0, 0, 3)) == 1.0


def test_holm_agrees_with_statsmodels_and_leaves_nan_out():
    p = np.random.default_rng(0).random(30) ** 3
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1], abs=1e-15)
    assert holm(np.array([0.01, math.nan, 0.04, 0.03])) == pytest.approx([0.03, math.nan, 0.06, 0.06], nan_ok=True)
    assert len(holm(np.array([]))) == 0


# ---------------------------------------------------------------------- bootstrap


def mean_ratio(first: np.ndarray, second: np.ndarray, axis: int = -1) -> np.ndarray:
    return first.mean(axis=axis) / second.mean(axis=axis)


@pytest.mark.parametrize("n", [20, 150])
@pytest.mark.parametrize("confidence", [0.68, 0.95])
def test_bootstrap_agrees_with_scipy(n, confidence):
    rng = np.random.default_rng(n)
    first = rng.lognormal(sigma=1.0, size=n)
    second = first * rng.lognormal(size=n)
    same = np.random.Generator(np.random.Philox(3))
    expected = scipy.stats.bootstrap(
        (first, second), mean_ratio, paired=True, method="BCa", n_resamples=999, confidence_level=confidence, rng=same
    ).confidence_interval
    got = bootstrap(mean_ratio, first, second, confidence=confidence, resamples=999, seed=3)
    assert got.value == pytest.approx(first.mean() / second.mean())
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert got == bootstrap(mean_ratio, first, second, confidence=confidence, resamples=999, seed=3)


def test_bootstrap_of_many_galaxies_leaves_out_blocks_and_agrees_all_the_same():
    values = np.random.default_rng(1).lognormal(sigma=1.0, size=1200)
    expected = scipy.stats.bootstrap(
        (values,), np.mean, method="BCa", n_resamples=999, rng=np.random.Generator(np.random.Philox(0))
    ).confidence_interval
    got = bootstrap(np.mean, values, resamples=999)
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high), abs=0.02 * (got.high - got.low))


def test_bootstrap_draws_galaxies_with_all_their_values():
    first = np.random.default_rng(2).lognormal(sigma=1.0, size=60)
    paired = bootstrap(mean_ratio, 3.0 * first, first, resamples=200)
    assert (paired.low, paired.high) == pytest.approx((3.0, 3.0), rel=1e-12)


def test_what_the_bootstrap_cannot_say():
    values = np.array([1.0, 2.0, math.nan, 4.0, 3.0, 2.5])
    assert bootstrap(np.mean, values).n == 5
    assert bootstrap(np.mean, values).value == 2.5
    kinds = bootstrap(lambda v: len(np.unique(v)), np.arange(30))  # fewer in every sample
    for estimate in (kinds, bootstrap(np.mean, values[:1])):
        assert math.isfinite(estimate.value)
        assert math.isnan(estimate.low)
        assert math.isnan(estimate.high)
    rare = np.r_[1.0, np.zeros(9)]  # no denominator in a third of the samples
    assert math.isnan(bootstrap(mean_ratio, np.ones(10), rare).low)
    constant = bootstrap(np.mean, np.full(8, 2.0))
    assert (constant.low, constant.value, constant.high) == (2.0, 2.0, 2.0)
    with pytest.raises(InputError, match="3 and 4 galaxies"):
        bootstrap(mean_ratio, np.ones(3), np.ones(4))


def test_few_trainings_are_no_bootstrap():
    values = np.random.default_rng(0).normal(size=(20, 5))
    with pytest.raises(InputError, match="a bootstrap over 19 trainings; at least 20"):
        bootstrap_seeds(np.mean, values[:19])
    got, rows = bootstrap_seeds(np.mean, values, resamples=500), bootstrap(np.mean, values.mean(axis=1), resamples=500)
    assert (got.low, got.high, got.n) == pytest.approx((rows.low, rows.high, 20))


# ---------------------------------------------------------------------- trainings


def crossed(k: int, n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=n) + 0.3 * rng.normal(size=(k, 1)) + 0.5 * rng.normal(size=(k, n)) + 1.0


def test_one_training_is_one_network():
    values = crossed(1, 40)
    assert over_seeds(values) == mean(values[0])
    assert over_seeds(values[0]) == mean(values[0])
    assert over_seeds(values > 1) == proportion(values[0] > 1)


def test_over_seeds_has_the_chance_of_trainings_and_of_galaxies():
    values = crossed(4, 30)
    got = over_seeds(values, 0.9)
    seeds, galaxies = values.mean(axis=1).var(ddof=1) / 4, values.mean(axis=0).var(ddof=1) / 30
    t = (seeds * scipy.stats.t.ppf(0.95, 3) + galaxies * scipy.stats.t.ppf(0.95, 29)) / (seeds + galaxies)
    half = t * math.sqrt(seeds + galaxies)
    assert (got.value, got.low, got.high) == pytest.approx((values.mean(), values.mean() - half, values.mean() + half))
    assert got.n == 30
    # trainings that agree leave the chance of the galaxies alone
    same, one = over_seeds(np.repeat(values[:1], 4, axis=0)), mean(values[0])
    assert (same.low, same.high) == pytest.approx((one.low, one.high))


def test_accuracies_over_seeds_stay_possible_and_are_never_certain():
    everything = over_seeds(np.ones((3, 40), dtype=bool))
    assert (everything.low, everything.high) == pytest.approx((proportion(np.ones(40, dtype=bool)).low, 1.0))
    wide = over_seeds(np.array([[True] * 30, [False] * 30, [True] * 30]))
    assert (wide.low, wide.high) == (0.0, 1.0)


def test_fractions_over_seeds_are_treated_as_accuracies_and_distances_are_not():
    everything = over_seeds(np.ones((3, 50)), fractions=True)
    assert (everything.low, everything.high) == pytest.approx((proportion(np.ones(50, dtype=bool)).low, 1.0))
    almost = np.ones((3, 50))
    almost[0, 0] = 0.8
    alone = fraction(almost.mean(axis=0))
    got = over_seeds(almost, fractions=True)
    assert (got.low, got.high) == (min(alone.low, over_seeds(almost).low), 1.0)
    assert got.low < alone.value - 0.05
    assert over_seeds(almost[:1], fractions=True) == fraction(almost[0])
    right = crossed(3, 40) > 1.0
    assert over_seeds(right.astype(float), fractions=True) == over_seeds(right)
    assert (over_seeds(np.ones((3, 50))).low, over_seeds(almost[:1])) == (1.0, mean(almost[0]))


def test_galaxies_with_a_missing_value_are_left_out_of_all_trainings():
    values = crossed(3, 20)
    values[1, 4] = math.nan
    assert over_seeds(values) == over_seeds(np.delete(values, 4, axis=1))
    other = crossed(2, 20, seed=1)
    other[0, 7] = math.inf
    expected = difference(np.delete(values, [4, 7], axis=1), np.delete(other, [4, 7], axis=1))
    assert difference(values, other) == expected
    assert expected.estimate.n == 18


def test_a_difference_of_one_training_each():
    first, second = table(60, 15, 4, 21)
    got = difference(first, second)
    assert got.estimate == paired_drop(first, second)
    assert got.p == mcnemar(first, second)
    assert math.isnan(got.df)
    assert got.method == "one training each"
    real = difference(a := crossed(1, 25), b := crossed(1, 25, seed=3))
    expected = scipy.stats.ttest_rel(a[0], b[0])
    assert (real.p, real.df) == pytest.approx((expected.pvalue, 24))
    interval = expected.confidence_interval()
    assert (real.estimate.low, real.estimate.high) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize(("k1", "k2"), [(3, 5), (2, 2), (9, 9), (4, 1), (1, 3)])
def test_a_difference_has_three_sources_of_chance(k1, k2):
    first, second = crossed(k1, 30), crossed(k2, 30, seed=1)
    got = difference(first, second)
    apart = first.mean(axis=0) - second.mean(axis=0)
    parts = [(apart.var(ddof=1) / 30, 29)]
    parts += [(v.mean(axis=1).var(ddof=1) / len(v), len(v) - 1) for v in (first, second) if len(v) > 1]
    total = sum(v for v, _ in parts)
    df = min(total**2 / sum(v**2 / d for v, d in parts), k1 + k2 - 2 if min(k1, k2) > 1 else max(k1, k2) - 1)
    t = apart.mean() / math.sqrt(total)
    assert (got.p, got.df) == pytest.approx((2 * scipy.stats.t.sf(abs(t), df), df))
    half = scipy.stats.t.ppf(0.975, df) * math.sqrt(total)
    assert (got.estimate.low, got.estimate.high) == pytest.approx((apart.mean() - half, apart.mean() + half))
    assert got.method.startswith(f"{k1} and {k2} trainings")
    assert ("of the second is left out" in got.method) == (k2 == 1)
    assert ("of the first is left out" in got.method) == (k1 == 1)


@pytest.mark.parametrize("k", [2, 3])
def test_few_trainings_do_not_make_small_p(k):
    """Two methods that do not differ: p below 0.05 / 39 as seldom as it says, though the scatter is found from so few.

    Without a limit to the degrees of freedom there are 0.4% (three each) and 1.4% (two each) of them.
    """
    rng, found = np.random.default_rng(5), []
    for _ in range(6000):
        ease, luck = rng.normal(0.0, math.sqrt(0.6), 300), rng.normal(0.0, 0.3, (2, k, 1))
        right = ease + luck + rng.normal(0.0, math.sqrt(0.4 - 0.3**2), (2, k, 300)) < 0.5
        found.append(difference(right[0], right[1]).p)
    few, level = np.array(found), 0.05 / 39
    assert np.mean(few < level) < level + 3 * math.sqrt(level / len(few))
    assert 0.01 < np.mean(few < 0.05) < 0.05


def test_accuracies_of_several_trainings_count_two_more_galaxies():
    first, second = crossed(3, 40) > 1.0, crossed(3, 40, seed=1) > 1.0
    got = difference(first, second)
    apart = np.r_[first.mean(axis=0) - second.mean(axis=0), 1.0, -1.0]
    parts = [(apart.var() / 42, 41), *((v.mean(axis=1).var(ddof=1) / 3, 2) for v in (first, second))]
    total = sum(v for v, _ in parts)
    assert got.df == pytest.approx(min(total**2 / sum(v**2 / d for v, d in parts), 4))
    half = scipy.stats.t.ppf(0.975, got.df) * math.sqrt(total)
    assert got.estimate.high == pytest.approx(apart[:40].mean() + half)


@pytest.mark.parametrize("boolean", [True, False])
@pytest.mark.parametrize(("k1", "k2"), [(1, 1), (3, 2), (1, 4)])
def test_swapping_the_arms_changes_the_sign_and_nothing_else(boolean, k1, k2):
    first, second = crossed(k1, 35), crossed(k2, 35, seed=2) - 0.4
    if boolean:
        first, second = first > 0.8, second > 0.8
    one, other = difference(first, second), difference(second, first)
    assert (one.p, one.df) == pytest.approx((other.p, other.df), nan_ok=True)
    mirrored = [-other.estimate.value, -other.estimate.high, -other.estimate.low]
    assert [one.estimate.value, one.estimate.low, one.estimate.high] == pytest.approx(mirrored)


def test_seeds_of_two_arms_are_not_paired():
    first, second = crossed(4, 30), crossed(4, 30, seed=1)
    assert difference(first, second[::-1]).p == pytest.approx(difference(first, second).p)


@pytest.mark.parametrize("k", [1, 3])
def test_no_difference_at_all_is_no_evidence_and_no_proof(k):
    same = np.repeat(crossed(1, 30), k, axis=0)
    real = difference(same, same)
    assert (real.estimate.value, real.estimate.low, real.estimate.high, real.p) == (0.0, 0.0, 0.0, 1.0)
    right = difference(same > 1, same > 1)
    assert right.p == 1.0
    assert right.estimate.low < -0.01 < 0.01 < right.estimate.high


def test_a_difference_of_accuracies_stays_possible():
    right, wrong = np.ones((2, 8), dtype=bool), np.zeros((2, 8), dtype=bool)
    got = difference(right, wrong)
    assert (got.estimate.value, got.estimate.high) == (1.0, 1.0)
    assert 0.0 < got.p < 0.05
    assert difference(wrong, right).estimate.low == -1.0


def test_differences_without_variance_are_a_sign_test():
    values = crossed(1, 10)
    got = difference(values + 0.1, values)
    assert got.estimate.value == pytest.approx(0.1)
    assert got.p == 2.0**-9  # exact, and not 0
    assert "sign test" in got.method
    single = difference(np.array([0.7]), np.array([0.2]))
    assert single.p == 1.0
    assert math.isnan(single.estimate.low)
    assert difference(np.array([[0.7], [0.9]]), np.array([[0.2], [0.1]])).p == 1.0


def test_other_galaxies_are_refused():
    for function in (difference, mcnemar, ratio, odds_ratio, cohens_dz):
        with pytest.raises(InputError, match="3 and 4 galaxies"):
            function(np.ones(3, dtype=bool), np.ones(4, dtype=bool))


# ---------------------------------------------------------------------- ratios and effect sizes


@pytest.mark.parametrize(("k1", "k2"), [(1, 1), (3, 4)])
def test_the_ends_of_a_ratio_are_where_the_difference_is_just_significant(k1, k2):
    first, second = np.exp(0.5 * crossed(k1, 40)), np.exp(0.5 * crossed(k2, 40, seed=1))
    got = ratio(first, second)
    assert got.value == pytest.approx(first.mean() / second.mean())
    df = difference(first, got.value * second).df
    for end in (got.low, got.high):
        there = difference(first, end * second)
        t = scipy.stats.t.isf(there.p / 2, there.df)
        assert t == pytest.approx(scipy.stats.t.ppf(0.975, df))
    assert df <= (k1 + k2 - 2 or 39)
    assert ratio(2.0 * first, second).high == pytest.approx(2.0 * got.high)


def test_a_ratio_to_almost_nothing_has_no_interval():
    values = np.random.default_rng(0).normal(size=30)
    got = ratio(np.ones(30), values)
    assert got.value == pytest.approx(1 / values.mean())
    assert math.isnan(got.low)
    assert math.isnan(ratio(np.ones(5), np.zeros(5)).value)


def test_effect_sizes():
    assert cohens_h(0.8, 0.6) == pytest.approx(proportion_effectsize(0.8, 0.6))
    assert cohens_h(1.0, 0.0) == pytest.approx(math.pi)
    first, second = np.array([3.0, 5.0, 9.0, math.nan]), np.array([1.0, 2.0, 5.0, 2.0])
    assert cohens_dz(first, second) == pytest.approx(3.0 / 1.0)  # differences 2, 3, 4
    assert math.isnan(cohens_dz(second + 1, second))


def test_odds_of_discordant_galaxies():
    got = odds_ratio(*table(50, 12, 4, 10))
    interval = scipy.stats.binomtest(12, 16).proportion_ci(method="exact")
    assert got.value == pytest.approx(3.0)
    assert (got.low, got.high) == pytest.approx(
        (interval.low / (1 - interval.low), interval.high / (1 - interval.high))
    )
    assert got.n == 16
    never = odds_ratio(*table(50, 5, 0, 10))
    assert (never.value, never.high) == (math.inf, math.inf)
    assert never.low == pytest.approx(0.025**0.2 / (1 - 0.025**0.2))
    assert odds_ratio(*table(50, 0, 5, 10)).low == 0.0
