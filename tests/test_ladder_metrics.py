"""One number for a ladder, a set of corruptions or several attacks: by hand, and over all images."""

import math

import numpy as np
import pytest
from synthetic_records import CLASSES, make_record

from perturbations.errors import InputError
from robustastro.metrics import summarise
from robustastro.metrics.intervals import fraction, proportion
from robustastro.metrics.ladder import corruption_error, mce, severity_area, worst_case
from robustastro.metrics.paired import pair
from robustastro.metrics.significance import ratio


def rungs(seed: int, n: int = 80, right: float = 0.8) -> np.ndarray:
    return np.random.default_rng(seed).random((5, n)) < right - 0.1 * np.arange(5)[:, None]


def test_the_area_is_the_mean_over_rungs_and_its_interval_is_of_galaxies():
    correct = rungs(0)
    got = severity_area(correct)
    assert got.value == pytest.approx(np.mean([proportion(rung).value for rung in correct]))
    assert got == fraction(correct.mean(axis=0))
    # five copies of one rung are no more galaxies than one
    once = severity_area(np.repeat(correct[:1], 5, axis=0))
    assert (once.low, once.high) == pytest.approx((proportion(correct[0]).low, proportion(correct[0]).high))
    assert severity_area(np.zeros((5, 0))).n == 0


def test_the_worst_case_is_taken_of_each_galaxy():
    attacks = np.array([[1, 1, 0, 1], [1, 0, 1, 1], [1, 1, 1, 1]], dtype=bool)
    got = worst_case(attacks)
    assert (got.value, got.n) == (0.5, 4)  # and not 0.75, the smallest accuracy of an attack
    assert got == proportion(np.array([True, False, False, True]))
    assert math.isnan(worst_case(np.zeros((2, 0))).value)


def test_corruption_errors_by_hand():
    assert corruption_error(np.array([0.1, 0.2, 0.3]), np.array([0.2, 0.4, 0.6])) == pytest.approx(0.5)
    # a ratio of sums, not a mean of ratios
    assert corruption_error(np.array([0.1, 0.5]), np.array([0.5, 0.1])) == pytest.approx(1.0)
    assert math.isnan(corruption_error(np.array([0.1]), np.array([0.0])))
    with pytest.raises(InputError, match="errors at 2 and 3 rungs"):
        corruption_error(np.zeros(2), np.zeros(3))


def test_mce_is_the_mean_of_the_corruption_errors():
    own, base = {"depth": rungs(1), "jpeg": rungs(2)}, {"jpeg": rungs(3, right=0.6), "depth": rungs(4, right=0.7)}
    got = mce(own, base)
    each = [corruption_error(1 - own[name].mean(axis=1), 1 - base[name].mean(axis=1)) for name in own]
    assert got.value == pytest.approx(np.mean(each))
    assert got.low < got.value < got.high
    assert got.n == 80
    shares = {name: np.mean([right, right], axis=0) for name, right in own.items()}  # two equal trainings
    assert mce(shares, base) == got


def test_mce_of_the_baseline_is_one():
    base = {"depth": rungs(1), "jpeg": rungs(2)}
    got = mce(base, base)
    assert (got.value, got.low, got.high) == pytest.approx((1.0, 1.0, 1.0))


def test_the_interval_of_one_corruption_is_that_of_a_ratio():
    own, base = rungs(5, n=400), rungs(6, n=400, right=0.6)
    got, expected = mce({"depth": own}, {"depth": base}), ratio(1.0 - own.mean(axis=0), 1.0 - base.mean(axis=0))
    assert got.value == pytest.approx(expected.value)
    assert (got.low, got.high) == pytest.approx(
        (expected.low, expected.high), abs=0.15 * (expected.high - expected.low)
    )


def test_mce_without_its_like_is_refused():
    own = {"depth": rungs(1), "jpeg": rungs(2)}
    with pytest.raises(InputError, match="only one of model and baseline has jpeg"):
        mce(own, {"depth": rungs(1)})
    with pytest.raises(InputError, match="depth has 5 rungs of 80 galaxies, its baseline 4 of 80"):
        mce({"depth": rungs(1)}, {"depth": rungs(1)[:4]})
    with pytest.raises(InputError, match="same galaxies in all corruptions"):
        mce(own | {"jpeg": rungs(2, n=70)}, own | {"jpeg": rungs(2, n=70)})
    assert math.isnan(mce({"depth": rungs(1)}, {"depth": np.ones((5, 80), dtype=bool)}).value)
    assert mce({}, {}).n == 0


def test_a_summary_says_how_each_class_fares(tmp_path):
    record = make_record(tmp_path / "run", {"depth": [0.1]}, n=90)
    (result,) = summarise(record)
    (unit,) = record.units()
    paired = pair(record, unit)
    assert paired is not None
    for suffix, right in (("", paired.perturbed_correct), ("_clean", paired.clean_correct)):
        each = [right[paired.labels == k].mean() for k in range(3)]
        assert result[f"balanced_accuracy{suffix}"]["value"] == pytest.approx(np.mean(each))
        worst = result[f"worst_class{suffix}"]
        assert worst["class"] == CLASSES[int(np.argmin(each))]
        assert worst["value"] == pytest.approx(min(each))
        assert worst["low"] < worst["value"] < worst["high"]
