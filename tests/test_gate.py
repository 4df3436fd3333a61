"""The gate: no verdict against the numbers, none without numbers, and the same one for every reader."""

import json
import math
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic_records import CLASSES, ENTRIES, make_record, run_json, set_maps
from test_cli import run

from perturbations.errors import InputError
from robustastro.gate import rules as rules_of
from robustastro.gate import summary
from robustastro.gate.checks import decide, galaxies_needed
from robustastro.gate.first import first_rules
from robustastro.gate.junit import junit
from robustastro.gate.verdict import judge
from robustastro.metrics import summarise
from robustastro.metrics.intervals import Estimate, exact, paired_drop, proportion
from robustastro.record import Head, Record


def a_record(path, clean, perturbed, labels=None, family=None, **about) -> Record:
    """A run whose galaxies are right where asked: `clean` (N,) bool, `perturbed` {name: {strength: (N,) bool}}.

    The head is the identity and an answer one-hot, so a boundary is 1 / sqrt(2) away: on the right side or the wrong.
    """
    n = len(clean)
    labels = np.arange(n) % 3 if labels is None else np.asarray(labels)
    ids = [f"galaxy-{k:04d}" for k in range(n)]

    def outputs(right):
        answer = np.eye(3)[np.where(right, labels, (labels + 1) % 3)]
        return {"logits": list(answer), "latent": list(answer)}

    record = Record(path)
    document = run_json("tiny", {name: list(rungs) for name, rungs in perturbed.items()}, ("g",), n) | about
    for entry in document["perturbations"]:
        entry["family"] = (family or {}).get(entry["name"], entry["family"])
    record.write_run(document)
    record.write_head(Head(np.eye(3), np.zeros(3), np.eye(3) * 3.0, "here"))
    record.write_galaxies(pd.DataFrame({"id": ids, "label": labels, "split": "test", **outputs(clean)}))
    for name, rungs in perturbed.items():
        for strength, right in rungs.items():
            record.write_shard(name, strength, 0, pd.DataFrame({"id": ids, **outputs(right)}))
    return record


def first(k: int, n: int) -> np.ndarray:
    return np.arange(n) < k


def a_pair() -> tuple[np.ndarray, np.ndarray]:
    """Right before and after, of 50 galaxies: 36 both, 12 lost, 2 gained (Newcombe 1998, table II)."""
    counts = (36, 12, 2)
    return np.repeat([True, True, False], counts), np.repeat([True, False, True], counts)


def verdict(record, baseline=None, **entry):
    above = {k: entry.pop(k) for k in ("allow_flags",) if k in entry}
    return judge(record, rules_of.of({"schema": 1, **above, "rule": [entry]}, "gate.toml"), baseline)


def statuses(result):
    return [check.status for check in result.checks]


DEPTH = {"perturbation": "depth", "severity": 5}


# ---------------------------------------------------------------------- limits at their edges


@pytest.mark.parametrize(
    ("limit", "status"), [(0.2526, "pass"), (0.2528, "uncertain"), (0.3675, "uncertain"), (0.3677, "fail")]
)
def test_accuracy_against_a_published_exact_interval(limit, status, tmp_path):
    """81 of 263: 0.2527 to 0.3676 (Newcombe 1998, Statistics in Medicine 17, 857; Wilson: 0.2553 to 0.3662)."""
    record = a_record(tmp_path / "r", first(263, 263), {"depth": {0.1: first(81, 263)}})
    result = verdict(record, **DEPTH, min_accuracy=limit)
    assert statuses(result) == [status]
    assert result.status == ("fail" if status == "fail" else "pass")
    estimate = result.checks[0].estimate
    assert (estimate.low, estimate.high) == pytest.approx((0.2527, 0.3676), abs=5e-5)


@pytest.mark.parametrize(
    ("limit", "status"), [(0.1617, "pass"), (0.1615, "uncertain"), (0.0579, "uncertain"), (0.0577, "fail")]
)
def test_success_rate_is_of_those_that_were_right(limit, status, tmp_path):
    """15 of 148: 0.0578 to 0.1617 (same paper). 40 more were wrong from the start and do not count."""
    clean = np.concatenate([np.ones(148, bool), np.zeros(40, bool)])
    perturbed = np.concatenate([~first(15, 148), first(20, 40)])
    result = verdict(a_record(tmp_path / "r", clean, {"depth": {0.1: perturbed}}), **DEPTH, max_success_rate=limit)
    assert statuses(result) == [status]
    assert result.checks[0].estimate.n == 148


EDGES = [(0.3405, "pass"), (0.3403, "uncertain"), (0.0570, "uncertain"), (0.0568, "fail")]


@pytest.mark.parametrize(("limit", "status"), EDGES)
def test_drop_against_a_published_newcombe_interval(limit, status, tmp_path):
    before, after = a_pair()
    record = a_record(tmp_path / "r", before, {"depth": {0.1: after}})
    assert statuses(verdict(record, **DEPTH, max_drop=limit)) == [status]


@pytest.mark.parametrize(("limit", "status"), EDGES)
@pytest.mark.parametrize("over", [None, "mean", "worst"])
def test_no_worse_than_baseline_compares_the_same_galaxies(limit, status, over, tmp_path):
    before, after = a_pair()
    baseline = a_record(tmp_path / "b", first(50, 50), {"depth": {0.1: before}})
    table = baseline.galaxies.reset_index().sample(frac=1, random_state=1)  # another order is the same galaxies
    baseline.write_galaxies(table)
    record = a_record(tmp_path / "r", first(3, 50), {"depth": {0.1: after}})
    rung = {"over": over} if over else {"severity": 5}
    result = verdict(record, Record.open(tmp_path / "b"), perturbation="depth", **rung, no_worse_than_baseline=limit)
    assert statuses(result) == [status]
    assert result.baseline == str(tmp_path / "b")


def test_galaxies_are_paired_by_their_ids(tmp_path):
    """Half of 60 are right in both runs, the same half: paired, the difference is known to 7 points, else to 18."""
    right = first(30, 60)
    record = a_record(tmp_path / "r", first(60, 60), {"depth": {0.1: right}})
    baseline = a_record(tmp_path / "b", first(60, 60), {"depth": {0.1: right}})
    baseline.write_galaxies(baseline.galaxies.reset_index().sample(frac=1, random_state=1))
    (check,) = verdict(record, baseline, **DEPTH, no_worse_than_baseline=0.07).checks
    assert check.status == "pass"
    assert vars(check.estimate) == pytest.approx(vars(paired_drop(right, right)))


def test_a_better_run_is_no_worse_and_its_baseline_is(tmp_path):
    before, after = a_pair()
    better = a_record(tmp_path / "b", before, {"depth": {0.1: before}})
    worse = a_record(tmp_path / "r", after, {"depth": {0.1: after}})
    for rule in (DEPTH, {"clean": True}):
        assert verdict(better, worse, **rule, no_worse_than_baseline=0.0).status == "pass"
        assert verdict(worse, better, **rule, no_worse_than_baseline=0.0).status == "fail"


def test_boundary_distance_against_students_t(tmp_path):
    right = first(30, 40)
    record = a_record(tmp_path / "r", first(40, 40), {"depth": {0.1: right}})
    distances = np.where(right, 1.0, -1.0) / math.sqrt(2)
    expected = scipy.stats.ttest_1samp(distances, 0.0).confidence_interval()
    for name, scale in (("min_boundary_distance", 1.0), ("min_boundary_distance_scaled", 3 * math.sqrt(2))):
        low, high = expected.low / scale, expected.high / scale
        for limit, status in ((low - 1e-6, "pass"), (low + 1e-6, "uncertain"), (high + 1e-6, "fail")):
            assert statuses(verdict(record, **DEPTH, **{name: limit})) == [status]


def test_worst_class_is_found_and_named(tmp_path):
    """60 galaxies of each class; 54, 30 and 48 right: the second is worst, Wilson lower limit 0.3774."""
    labels = np.repeat([0, 1, 2], 60)
    right = np.concatenate([first(k, 60) for k in (54, 30, 48)])
    record = a_record(tmp_path / "r", first(180, 180), {"depth": {0.1: right}}, labels)
    result = verdict(record, **DEPTH, min_worst_class=0.377)
    assert statuses(result) == ["pass"]
    assert result.checks[0].estimate.value == 0.5
    assert f"class {CLASSES[1]}" in result.checks[0].message
    assert statuses(verdict(record, **DEPTH, min_worst_class=0.38)) == ["uncertain"]
    assert statuses(verdict(record, **DEPTH, min_worst_class=0.7)) == ["fail"]


# ---------------------------------------------------------------------- the exact interval


def clopper_pearson(k: np.ndarray, n: int, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    tail = (1 - confidence) / 2
    low, high = scipy.stats.beta.ppf(tail, k, n - k + 1), scipy.stats.beta.isf(tail, k + 1, n - k)
    return np.where(k == 0, 0.0, low), np.where(k == n, 1.0, high)


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 30), (30, 30), (1, 30), (29, 30), (17, 40), (999, 1000)])
def test_zeros_and_ones_have_the_interval_of_clopper_and_pearson(k, n, confidence):
    expected = scipy.stats.binomtest(k, n).proportion_ci(confidence, method="exact")
    assert vars(exact(first(k, n), confidence)) == pytest.approx(
        {"value": k / n, "low": expected.low, "high": expected.high, "n": n}, abs=1e-12
    )


@pytest.mark.parametrize("kind", ["min_accuracy", "max_success_rate"])
@pytest.mark.parametrize("confidence", [0.95, 0.8])
def test_at_its_limit_a_model_fails_no_more_often_than_the_confidence_says(kind, confidence):
    """The chance of a fail, exactly. With Wilson's interval up to 8.9% (n = 50, limit 0.99)."""
    found = {}
    for n in (10, 30, 50, 100, 150, 300, 1000):
        ends = [exact(first(k, n), confidence) for k in range(n + 1)]
        for limit in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 0.97, 0.98, 0.99):
            fails = np.array([decide(kind, e, limit) == "fail" for e in ends])
            found[n, limit] = scipy.stats.binom.pmf(np.arange(n + 1), n, limit)[fails].sum()
    assert max(found.values()) <= (1 - confidence) / 2 + 1e-12
    assert np.mean([v for (n, _), v in found.items() if n >= 100]) > 0.25 * (1 - confidence)  # nor far too seldom


def test_the_gate_judges_with_it(tmp_path):
    """47 of 50 right, limit 0.985: Wilson's upper end is below the limit, the exact one is not."""
    record = a_record(tmp_path / "r", first(50, 50), {"depth": {0.1: first(47, 50)}})
    assert proportion(first(47, 50)).high < 0.985 < exact(first(47, 50)).high
    for rung in ({"severity": 5}, {"over": "mean"}, {"over": "worst"}):
        checks = verdict(record, perturbation="depth", **rung, min_accuracy=0.985, max_success_rate=0.015).checks
        assert [check.status for check in checks] == ["uncertain", "uncertain"]
        for check, hits in zip(checks, (first(47, 50), first(3, 50)), strict=True):
            assert vars(check.estimate) == pytest.approx(vars(exact(hits)))


def test_shares_of_rungs_have_the_effective_sample_size():
    """n p (1 - p) / s^2: two rungs alike in 40 galaxies are 40, two that differ always (a half each) are worth more."""
    values = np.array([0.0, 0.5, 0.5, 1.0] * 10)
    low, high = clopper_pearson(np.array([40.0]), 80, 0.95)  # variance 1/8 in place of 1/4: twice as many
    assert vars(exact(values)) == pytest.approx({"value": 0.5, "low": low[0], "high": high[0], "n": 40})
    alike = 0.025 ** (1 / 40)
    for share in (0.3, 0.8, 1 / 3, 1.0):  # equal values: as 40 of 40, of which none differs
        expected = {"value": share, "low": share * alike, "high": 1 - (1 - share) * alike, "n": 40}
        assert vars(exact(np.full(40, share))) == pytest.approx(expected)
        almost = np.full(40, share) - 1e-15 * (np.arange(40) % 2)
        assert vars(exact(almost)) == pytest.approx(expected)
    one_differs = np.append(np.full(49, 1.0), 0.9)
    assert exact(one_differs).low == pytest.approx(0.998 * 0.025 ** (1 / 50))
    assert exact(np.array([math.nan])).n == 0
    assert exact(np.array([math.nan, 1.0])).n == 1
    with pytest.raises(InputError, match=r"in \[0, 1\]"):
        exact(np.array([0.5, 1.5]))


@pytest.mark.parametrize("p", [0.5, 0.9, 0.98])
@pytest.mark.parametrize("alike", [0.1, 1.0, 100.0])
def test_at_its_limit_a_mean_over_rungs_fails_rarely(p, alike):
    """Five rungs, galaxies that differ much or little in how hard they are."""
    rng = np.random.default_rng(4)
    shares = rng.binomial(5, rng.beta(p * alike, (1 - p) * alike, (2000, 60))) / 5
    ends = [exact(row) for row in shares]
    assert np.mean([decide("min_accuracy", e, p) == "fail" for e in ends]) <= 0.035
    assert np.mean([decide("max_success_rate", e, p) == "fail" for e in ends]) <= 0.035


# ---------------------------------------------------------------------- what a rule judges


def ladder_record(path, **about):
    """60 galaxies, two perturbations of one family and an attack; rungs take 10 galaxies more each, from one end."""
    rungs = {s: ~first(10 * (k + 1), 60) for k, s in enumerate((0.8, 0.6, 0.4))}
    other = {s: first(60 - 10 * (k + 1), 60) for k, s in enumerate((0.2, 0.4, 0.6))}
    return a_record(path, first(60, 60), {"depth": rungs, "seeing": other, "pgd": {0.004: first(59, 60)}}, **about)


def test_every_rung_is_judged_where_none_is_named(tmp_path):
    record = ladder_record(tmp_path / "r")
    result = verdict(record, all=True, min_accuracy=0.01)
    assert [(c.perturbation, c.severity) for c in result.checks] == [
        *(("depth", k) for k in (1, 2, 3)), *(("seeing", k) for k in (1, 2, 3)), ("pgd", 1)
    ]  # fmt: skip
    assert [c.perturbation for c in verdict(record, family="attacks", min_accuracy=0.01).checks] == ["pgd"]
    assert len(verdict(record, family="observing", min_accuracy=0.01).checks) == 6
    (check,) = verdict(record, perturbation="seeing", strength=0.4, min_accuracy=0.01).checks
    assert (check.severity, check.strength, check.unit, check.estimate.value) == (2, 0.4, "arcsec", 40 / 60)
    (check,) = verdict(record, perturbation="depth", severity=3, min_accuracy=0.01).checks
    assert (check.strength, check.estimate.value) == (0.4, 0.5)


def test_one_bad_rung_fails_the_gate(tmp_path):
    result = verdict(ladder_record(tmp_path / "r"), perturbation="depth", min_accuracy=0.7)
    assert statuses(result) == ["pass", "uncertain", "fail"]
    assert result.status == "fail"


def test_over_the_ladder_galaxy_by_galaxy(tmp_path):
    """Mean: 50, 40 and 30 of 60 are right. Worst: 30 are right under all of one, none of both families' rungs."""
    record = ladder_record(tmp_path / "r")
    means = verdict(record, family="observing", over="mean", min_accuracy=0.01, max_drop=0.9, max_success_rate=0.9)
    assert [c.perturbation for c in means.checks] == ["depth"] * 3 + ["seeing"] * 3
    assert [c.estimate.value for c in means.checks] == pytest.approx([2 / 3, 1 / 3, 1 / 3] * 2)
    (one,) = verdict(record, perturbation="depth", over="worst", min_accuracy=0.01).checks
    assert (one.estimate.value, one.perturbation) == (0.5, "depth")
    worst = verdict(record, family="observing", over="worst", min_accuracy=0.01, max_drop=0.9, max_success_rate=0.9)
    assert [c.estimate.value for c in worst.checks] == [0.0, 1.0, 1.0]
    assert {c.perturbation for c in worst.checks} == {"family observing"}
    (distance,) = verdict(record, perturbation="depth", over="worst", min_boundary_distance=-1.0).checks
    assert distance.estimate.value == pytest.approx(0.0, abs=1e-12)  # half of the galaxies on each side
    (distance,) = verdict(record, perturbation="depth", over="mean", min_boundary_distance=-1.0).checks
    assert distance.estimate.value == pytest.approx((50 + 40 + 30 - 60) / 180 / math.sqrt(2) * 1.0, abs=1e-12)


def test_clean_images_have_rules_too(tmp_path):
    record = a_record(tmp_path / "r", first(45, 50), {"depth": {0.1: first(5, 50)}})
    result = verdict(record, clean=True, min_accuracy=0.7, min_worst_class=0.5)
    assert [(c.perturbation, c.measure, c.status) for c in result.checks] == [
        ("clean", "clean_accuracy", "pass"),
        ("clean", "worst_class_accuracy", "pass"),
    ]
    assert result.checks[0].estimate.value == 0.9


def test_the_numbers_are_those_of_the_results(tmp_path):
    entries = {name: ENTRIES[name]["ladder"] for name in ("depth", "pgd", "onepixel_exhaustive")}
    record = make_record(tmp_path / "r", entries)
    set_maps(record, np.ones((60, 24, 24)), np.ones((60, 24, 24), bool), target=1)  # a targeted attack
    limits = {
        "min_accuracy": 0.5, "max_drop": 0.1, "max_success_rate": 0.1, "min_boundary_distance": 0.0,
        "min_boundary_distance_scaled": 0.0,
    }  # fmt: skip
    checks = verdict(record, all=True, **limits).checks
    for result in summarise(record):
        mine = {
            c.measure: c.estimate
            for c in checks
            if (c.perturbation, c.strength) == (result["perturbation"], result["strength"])
        }
        assert len(mine) == 5
        for name, estimate in mine.items():
            found, ends = vars(estimate), result[name]
            near = name in ("perturbed_accuracy", "attack_success_rate")  # exact here, Wilson's in the results
            assert found == pytest.approx(ends, abs=0.02 if near else None), name


def test_drop_over_rungs_covers_the_true_drop():
    """Three rungs, correlated within a galaxy; the truth from a large sample."""
    rng = np.random.default_rng(5)

    def draw(n):
        margin = rng.normal(1.0, 2.0, n)
        before = margin + 0.3 * rng.normal(size=n) > 0
        return before * 1.0, np.mean([margin - 0.8 * k + 0.5 * rng.normal(size=n) > 0 for k in (1, 2, 3)], axis=0)

    before, after = draw(400_000)
    truth = before.mean() - after.mean()
    intervals = [paired_drop(*draw(150), 0.95) for _ in range(2000)]
    assert 0.93 <= np.mean([e.low <= truth <= e.high for e in intervals]) <= 0.985


# ---------------------------------------------------------------------- uncertain


NEEDED = [
    (0.8, 45, 60),
    (0.7, 45, 60),
    (0.05, 1, 60),
    (0.9, 50, 60),
    (0.97, 142, 150),
    (0.3, 25, 100),
    (0.98, 146, 150),
]


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize(("limit", "k", "n"), NEEDED)
def test_so_many_galaxies_decide_eight_times_in_ten(limit, k, n, confidence, tmp_path):
    """The chance of a verdict where the value is the truth, exactly: the sum over what can be counted."""
    record = a_record(tmp_path / "r", first(n, n), {"depth": {0.1: first(k, n)}})
    for over in ({"severity": 5}, {"over": "worst"}):
        rule = {"perturbation": "depth", **over, "min_accuracy": limit, "confidence": confidence}
        (check,) = verdict(record, **rule).checks
        needed = check.galaxies_needed
        if check.status != "uncertain" or needed == n + 1:
            assert (needed is None) == (check.status != "uncertain")
            continue
        assert needed is not None
        counts = np.arange(needed + 1)
        low, high = clopper_pearson(counts, needed, confidence)
        said = [
            decide("min_accuracy", Estimate(*v), limit)
            for v in zip(*(x.tolist() for x in (counts, low, high, counts)), strict=True)
        ]
        chance = scipy.stats.binom.pmf(counts, needed, k / n)[np.array(said) != "uncertain"].sum()
        assert 0.72 <= chance <= 0.9
        assert f"about {needed} galaxies would decide 8 times in 10 if the value is true" in check.message


def test_an_interval_that_ends_at_the_limit_keeps_it():
    at = Estimate(0.85, 0.8, 0.9, 100)
    assert decide("min_accuracy", at, 0.8) == "pass"
    assert decide("min_accuracy", at, 0.9) == "uncertain"
    assert decide("max_drop", at, 0.9) == "pass"
    assert decide("max_drop", at, 0.8) == "uncertain"


def test_where_every_galaxy_is_right_so_many_decide(tmp_path):
    record = a_record(tmp_path / "r", first(60, 60), {"depth": {0.1: first(60, 60)}})
    (check,) = verdict(record, **DEPTH, min_accuracy=0.99).checks
    assert check.galaxies_needed is not None
    assert 0.025 ** (1 / check.galaxies_needed) > 0.99  # the lower end of n of n
    assert check.galaxies_needed < 1.5 * math.log(0.025) / math.log(0.99)


def test_galaxies_that_were_wrong_from_the_start_are_needed_too(tmp_path):
    """Half of the galaxies could be flipped: a success rate takes twice as many as an accuracy of the same numbers."""
    flipped = a_record(tmp_path / "r", first(100, 200), {"depth": {0.1: first(80, 200)}})
    (rate,) = verdict(flipped, **DEPTH, max_success_rate=0.25).checks
    right = a_record(tmp_path / "b", first(100, 100), {"depth": {0.1: first(80, 100)}})
    (accuracy,) = verdict(right, **DEPTH, min_accuracy=0.75).checks
    assert (rate.estimate.n, accuracy.estimate.n) == (100, 100)
    assert rate.galaxies_needed == pytest.approx(2 * (accuracy.galaxies_needed or 0), abs=1)


def test_the_number_that_decides_goes_with_the_square_of_the_width():
    eight = ((1.959964 + 0.841621) / 1.959964) ** 2  # the quantiles 0.975 and 0.8 of the normal distribution
    estimate = Estimate(0.10, 0.04, 0.18, 100)
    assert galaxies_needed(estimate, 0.06, 100, 0.95) == math.ceil(225 * eight)  # (0.06 / 0.04)^2
    assert galaxies_needed(estimate, 0.14, 100, 0.95) == math.ceil(400 * eight)  # the other side: (0.08 / 0.04)^2
    assert galaxies_needed(Estimate(0.10, 0.04, 0.18, 50), 0.14, 200, 0.95) == math.ceil(800 * eight)
    assert galaxies_needed(estimate, 0.06, 100, 0.99) == math.ceil(225 * (1 + 0.841621 / 2.575829) ** 2)
    assert galaxies_needed(estimate, 0.10, 100, 0.95) is None


@pytest.mark.parametrize(
    ("after", "margin"), [((0.75, 0.15, 0.05), 0.05), ((0.75, 0.10, 0.10), 0.05), ((0.5, 0.3, 0.1), 0.1)]
)
def test_so_many_galaxies_decide_a_drop_eight_times_in_ten(after, margin):
    rng = np.random.default_rng(1)
    chances = (*after, 1 - sum(after))

    def draw(n):
        cell = rng.choice(4, n, p=chances)
        return (cell < 2) * 1.0, ((cell == 0) | (cell == 2)) * 1.0

    counts = np.round(100 * np.array(chances)).astype(int)
    seen = np.repeat([1.0, 1.0, 0.0, 0.0], counts), np.repeat([1.0, 0.0, 1.0, 0.0], counts)
    estimate = paired_drop(*seen, 0.95)
    assert decide("max_drop", estimate, margin) == "uncertain"
    needed = galaxies_needed(estimate, margin, 100, 0.95)
    assert needed is not None
    said = [decide("max_drop", paired_drop(*draw(needed), 0.95), margin) for _ in range(600)]
    assert 0.7 <= np.mean([s != "uncertain" for s in said]) <= 0.9


def test_no_number_decides_at_the_limit(tmp_path):
    record = a_record(tmp_path / "r", first(60, 60), {"depth": {0.1: first(30, 60)}})
    (check,) = verdict(record, **DEPTH, min_accuracy=0.5).checks
    assert check.galaxies_needed is None
    assert "no number of galaxies would decide" in check.message


@pytest.mark.parametrize(("word", "status"), [(None, "pass"), ("pass", "pass"), ("warn", "pass"), ("fail", "fail")])
def test_what_becomes_of_an_uncertain_check(word, status, tmp_path):
    record = a_record(tmp_path / "r", first(60, 60), {"depth": {0.1: first(45, 60)}})
    rule = {**DEPTH, "min_accuracy": 0.75}
    chosen = {} if word is None else {"on_uncertain": word}
    in_rule = verdict(record, **rule, **chosen)
    in_file = judge(record, rules_of.of({"schema": 1, **chosen, "rule": [rule]}, "x"))
    for result in (in_rule, in_file):
        assert (result.status, result.checks[0].counted_as) == (status, word or "pass")
        assert any("no check could be decided" in note for note in result.notes)


def test_confidence_widens_the_interval(tmp_path):
    record = a_record(tmp_path / "r", first(60, 60), {"depth": {0.1: first(54, 60)}})
    found = [verdict(record, **DEPTH, min_accuracy=0.8, confidence=c).checks[0].status for c in (0.5, 0.9999)]
    assert found == ["pass", "uncertain"]
    above = judge(
        record, rules_of.of({"schema": 1, "confidence": 0.9999, "rule": [DEPTH | {"min_accuracy": 0.8}]}, "x")
    )
    assert statuses(above) == ["uncertain"]


SIDES = {"min": lambda e, limit: e.high < limit, "max": lambda e, limit: e.low > limit}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10_000),
    limit=st.floats(0.01, 0.99),
    kind=st.sampled_from(["min_accuracy", "max_drop", "max_success_rate", "min_worst_class", "no_worse_than_baseline"]),
    over=st.sampled_from([None, "mean", "worst"]),
    on_uncertain=st.sampled_from(["pass", "warn", "fail"]),
)
def test_never_a_pass_where_the_whole_interval_is_beyond_a_limit(
    seed, limit, kind, over, on_uncertain, tmp_path_factory
):
    if (kind, over) == ("min_worst_class", "mean"):
        over = "worst"
    place, rng = tmp_path_factory.mktemp("gate"), np.random.default_rng(seed)
    n = int(rng.integers(4, 80))

    def some():
        return a_record(
            place / str(rng.integers(1 << 40)), first(max(1, int(n * rng.random())), n),
            {"depth": {s: rng.random(n) < rng.random() for s in (0.8, 0.1)}},
        )  # fmt: skip

    rule = {"perturbation": "depth", kind: limit, "on_uncertain": on_uncertain} | ({"over": over} if over else {})
    record, baseline = some(), some() if kind == "no_worse_than_baseline" else None
    result = verdict(record, baseline, **rule)
    beyond = SIDES["min" if kind.startswith("min") else "max"]
    broken = [beyond(check.estimate, limit) for check in result.checks]
    assert [check.status == "fail" for check in result.checks] == broken
    assert result.status == "fail" or not any(broken)
    if result.status == "pass" and on_uncertain == "fail":
        kept = SIDES["max" if kind.startswith("min") else "min"]
        assert all(kept(c.estimate, limit) or limit in (c.estimate.low, c.estimate.high) for c in result.checks)


def test_equal_models_are_not_called_worse_and_worse_ones_are(tmp_path):
    """n = 150, margin 0.05, accuracy 0.85, galaxies that differ in how hard they are; 20 points worse must fail."""
    rng = np.random.default_rng(11)
    failed = {0.0: 0, 0.2: 0}
    for trial in range(100):
        hard = rng.beta(4.0, 0.7, 150)  # chance of each galaxy to be right: 0.85 on average
        baseline = a_record(tmp_path / f"{trial}-b", first(150, 150), {"depth": {0.1: rng.random(150) < hard}})
        for loss in (0.0, 0.2) if trial < 20 else (0.0,):
            right = rng.random(150) < hard - loss
            record = a_record(tmp_path / f"{trial}-{loss}", first(150, 150), {"depth": {0.1: right}})
            failed[loss] += verdict(record, baseline, **DEPTH, no_worse_than_baseline=0.05).status == "fail"
    assert failed[0.0] == 0
    assert failed[0.2] >= 16


# ---------------------------------------------------------------------- flags, notes


FLAG = {"code": "input_range", "message": "images span [0, 9]", "remedy": "check the units"}


def test_a_flagged_run_fails_unless_the_rules_allow_it(tmp_path):
    rule = {"perturbation": "depth", "over": "worst", "min_accuracy": 0.01}
    record = ladder_record(tmp_path / "r", flags=[FLAG])
    assert statuses(verdict(record, **rule)) == ["pass"]
    assert verdict(record, **rule).status == "fail"
    allowed = verdict(record, **rule, allow_flags=["input_range"])
    assert (allowed.status, allowed.flags[0].allowed) == ("pass", True)
    assert "input_range" in summary.text(allowed)
    other = verdict(record, **rule, allow_flags=["input_rnage"])
    assert other.status == "fail"
    assert any("input_rnage" in note and "did you mean 'input_range'" in note for note in other.notes)


def test_a_flagged_baseline_fails_too(tmp_path):
    record, baseline = ladder_record(tmp_path / "r"), ladder_record(tmp_path / "b", flags=[FLAG])
    rule = {"perturbation": "depth", "over": "mean", "no_worse_than_baseline": 0.2}
    result = verdict(record, baseline, **rule)
    assert (result.status, result.flags[0].of) == ("fail", "baseline")
    assert verdict(record, baseline, **rule, allow_flags=["input_range"]).status == "pass"


def test_what_was_not_judged_is_said(tmp_path):
    labels = np.where(np.arange(60) < 6, -1, np.arange(60) % 2)
    rungs = {"depth": {0.8: first(50, 60)}}
    record = a_record(tmp_path / "r", labels >= 0, rungs, labels)
    result = verdict(record, perturbation="depth", min_worst_class=0.1)
    assert result.checks[0].estimate.n == 27
    words = " ".join(result.notes)
    assert "6 of 60 galaxies have no label" in words
    assert "classes without a galaxy, which are not judged: merger" in words
    assert words.count("does not have these strengths: depth 0.6, 0.4, 0.2, 0.1") == 1


def test_another_evaluation_seed_is_accepted_and_said(tmp_path):
    record, baseline = ladder_record(tmp_path / "r"), ladder_record(tmp_path / "b", seed=1)
    result = verdict(record, baseline, perturbation="depth", over="mean", no_worse_than_baseline=0.2)
    assert result.status == "pass"
    assert any("evaluation seed" in note for note in result.notes)


# ---------------------------------------------------------------------- what cannot be judged


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"perturbation": "dephts", "min_accuracy": 0.5}, "Did you mean 'depth'"),
        ({"perturbation": "clean", "min_accuracy": 0.5}, "clean = true"),
        ({"family": "observ", "min_accuracy": 0.5}, "Did you mean 'observing'"),
        ({"perturbation": "depth", "severity": 5, "min_accuracy": 0.5}, "no severity 5 of depth.*0.4 .severity 3"),
        ({"perturbation": "depth", "strength": 0.41, "min_accuracy": 0.5}, "no strength 0.41 of depth"),
        ({"all": True, "severity": 3, "min_accuracy": 0.5}, "no severity 3 of pgd"),
        ({"perturbation": "depth", "no_worse_than_baseline": 0.1}, "--baseline RUN"),
    ],
)
def test_a_rule_for_what_the_run_has_not_is_refused(rule, words, tmp_path):
    with pytest.raises(InputError, match=words):
        verdict(ladder_record(tmp_path / "r"), **rule)


RULE = {"perturbation": "depth", "severity": 1, "min_accuracy": 0.01}


def test_an_unfinished_run_is_refused_wherever_it_is_unfinished(tmp_path):
    record = ladder_record(tmp_path / "r")
    assert verdict(record, **RULE).status == "pass"
    (shard,) = (record.path / "units" / "seeing" / "0.6").glob("*.parquet")
    whole = pd.read_parquet(shard)
    whole.head(59).to_parquet(shard)
    with pytest.raises(InputError, match=r"seeing at 0.6 is not finished.*59 of 60"):
        verdict(record, **RULE)
    shard.unlink()
    with pytest.raises(InputError, match=r"seeing at 0.6 is not finished.*0 of 60"):
        verdict(record, **RULE)
    whole.to_parquet(shard)
    record.write_run(record.run | {"timing": None})
    with pytest.raises(InputError, match="interrupted before its end"):
        verdict(record, **RULE)
    record.write_run(record.run | {"timing": {"seconds": 1.0}})
    assert verdict(record, **RULE).status == "pass"
    record.write_run(record.run | {"data": {"n": 61}})
    with pytest.raises(InputError, match="60 of 61 galaxies"):
        verdict(record, **RULE)
    (record.path / "galaxies.parquet").unlink()
    with pytest.raises(InputError, match="holds no results"):
        verdict(Record.open(record.path), **RULE)


def test_rows_of_a_galaxy_twice_do_not_make_a_whole_unit(tmp_path):
    record = ladder_record(tmp_path / "r")
    (shard,) = (record.path / "units" / "depth" / "0.8").glob("*.parquet")
    table = pd.read_parquet(shard)
    pd.concat([table.head(59), table.head(1)]).to_parquet(shard)
    with pytest.raises(InputError, match="a galaxy is there twice"):
        verdict(record, **RULE)


def test_without_labels_nothing_is_judged(tmp_path):
    record = a_record(tmp_path / "r", first(60, 60), {"depth": {0.8: first(60, 60)}}, np.full(60, -1))
    with pytest.raises(InputError, match=r"no galaxy of .* has a label"):
        verdict(record, **RULE)


def test_a_baseline_must_be_of_the_same_and_wanted(tmp_path):
    record, compares = ladder_record(tmp_path / "r"), {"perturbation": "depth", "no_worse_than_baseline": 0.1}
    with pytest.raises(InputError, match="no rule asks for"):
        verdict(record, ladder_record(tmp_path / "b"), **RULE)
    with pytest.raises(InputError, match="its own baseline"):
        verdict(record, Record.open(tmp_path / "r"), **compares)
    fewer = a_record(tmp_path / "c", first(59, 59), {"depth": {0.8: first(50, 59)}})
    for rule in (compares, {"clean": True, "no_worse_than_baseline": 0.1}):
        with pytest.raises(InputError, match="galaxies differ"):
            verdict(record, fewer, **rule)
    more = ladder_record(tmp_path / "m")
    more.write_run(
        more.run | {"perturbations": [*more.run["perturbations"], more.run["perturbations"][0] | {"name": "x"}]}
    )
    shutil.copytree(more.path / "units" / "depth", more.path / "units" / "x")
    for whole in ({"all": True}, {"family": "observing"}):
        with pytest.raises(InputError, match="lacks x, which the baseline has"):
            verdict(record, Record.open(more.path), **whole, no_worse_than_baseline=0.1)
    assert verdict(record, Record.open(more.path), **compares).status == "pass"
    strengths = a_record(tmp_path / "d", first(60, 60), {"depth": {0.8: first(50, 60)}})
    with pytest.raises(InputError, match="strengths of depth differ"):
        verdict(record, strengths, **compares)


def edit_shard(record, name, strength, change):
    (shard,) = (record.path / "units" / name / strength).glob("*.parquet")
    table = pd.read_parquet(shard)
    change(table)
    table.to_parquet(shard)


def test_a_boundary_distance_that_is_not_there_is_refused_with_its_reason(tmp_path):
    rule = {**DEPTH, "min_boundary_distance": -9.0}
    record = a_record(tmp_path / "r", first(9, 9), {"depth": {0.1: first(9, 9)}})
    record.write_head(Head(None, None, None, kind="other"))
    with pytest.raises(InputError, match="the last layer is not linear"):
        verdict(record, **rule)
    record = a_record(tmp_path / "s", first(9, 9), {"depth": {0.1: first(9, 9)}})
    edit_shard(record, "depth", "0.1", lambda table: table.pop("latent"))
    with pytest.raises(InputError, match="9 of 9 galaxies: the unit kept no latents"):
        verdict(record, **rule)
    record = a_record(tmp_path / "t", first(9, 9), {"depth": {0.1: first(9, 9)}})
    record.write_head(Head(np.eye(3), np.zeros(3), None))
    with pytest.raises(InputError, match="no centroids"):
        verdict(record, **DEPTH, min_boundary_distance_scaled=-9.0)


def test_outputs_that_are_not_finite_never_help(tmp_path):
    """A galaxy whose answer is NaN is wrong, not left out; where being wrong would be the better, it is refused."""
    nan = np.full(3, np.nan)
    rungs = {"depth": {0.1: first(60, 60)}}
    record = a_record(tmp_path / "r", first(60, 60), rungs)
    edit_shard(
        record, "depth", "0.1", lambda table: table.__setitem__("logits", [nan] * 30 + list(table["logits"][30:]))
    )
    assert verdict(record, **DEPTH, min_accuracy=0.8).status == "fail"
    assert verdict(record, **DEPTH, min_worst_class=0.8).status == "fail"
    assert verdict(record, **DEPTH, max_success_rate=0.2).status == "fail"
    assert verdict(record, **DEPTH, max_drop=0.2).status == "fail"
    run = record.run
    run["perturbations"][0]["options"] = {"target": 1}
    record.write_run(run)
    assert verdict(Record.open(record.path), **DEPTH, max_success_rate=0.2).status == "fail"
    with pytest.raises(InputError, match="30 of 60 galaxies"):
        verdict(record, **DEPTH, min_boundary_distance=0.1)
    good = a_record(tmp_path / "b", first(60, 60), rungs)
    assert verdict(record, good, **DEPTH, no_worse_than_baseline=0.2).status == "fail"
    with pytest.raises(InputError, match="perturbed outputs of 30 galaxies"):
        verdict(good, record, **DEPTH, no_worse_than_baseline=0.2)
    lost = good.galaxies.reset_index()
    lost["logits"] = [nan] * 30 + list(lost["logits"][30:])
    good.write_galaxies(lost)
    for limit in ({"max_drop": 0.2}, {"max_success_rate": 0.2}):
        with pytest.raises(InputError, match="clean outputs of 30 galaxies"):
            verdict(good, **DEPTH, **limit)


def test_no_number_is_no_pass(tmp_path):
    record = a_record(tmp_path / "r", first(0, 9), {"depth": {0.1: first(0, 9)}})
    with pytest.raises(InputError, match="no attack success rate"):
        verdict(record, **DEPTH, max_success_rate=0.9)
    record = a_record(tmp_path / "s", first(1, 1), {"depth": {0.1: first(1, 1)}})
    with pytest.raises(InputError, match="no boundary distance with an interval from 1 of 1"):
        verdict(record, **DEPTH, min_boundary_distance=-9.0)


# ---------------------------------------------------------------------- the rules file


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "schema"),
        ("schema = 1", "rule"),
        ("schema = 1\n[[rules]]\nall = true\nmax_drop = 0.1", "Did you mean 'rule'"),
        ("schema = 1\nrule = []", "at least 1"),
        ("schema = 2\n[[rule]]\nall = true\nmax_drop = 0.1", "schema"),
        ("schema = 1\n[[rule]]\nall = true", "without a limit"),
        ("schema = 1\n[[rule]]\nmax_drop = 0.1", "exactly one"),
        ('schema = 1\n[[rule]]\nall = true\nfamily = "x"\nmax_drop = 0.1', "exactly one"),
        ("schema = 1\n[[rule]]\nall = false\nmax_drop = 0.1", "all"),
        ('schema = 1\n[[rule]]\nperturbation = ""\nmax_drop = 0.1', "perturbation"),
        ('schema = 1\n[[rule]]\nall = true\nseverity = 1\nover = "mean"\nmax_drop = 0.1', "at most one"),
        ("schema = 1\n[[rule]]\nall = true\nseverity = 0\nmax_drop = 0.1", "severity"),
        ("schema = 1\n[[rule]]\nall = true\nstrength = 0.1\nmax_drop = 0.1", "different units"),
        ('schema = 1\n[[rule]]\nall = true\nover = "median"\nmax_drop = 0.1', "over"),
        ('schema = 1\n[[rule]]\nall = true\nover = "mean"\nmin_worst_class = 0.1', "min_worst_class"),
        ("schema = 1\n[[rule]]\nclean = true\nmax_drop = 0.1", "limits of clean images"),
        ("schema = 1\n[[rule]]\nclean = true\nseverity = 1\nmin_accuracy = 0.1", "no severity"),
        ("schema = 1\n[[rule]]\nall = true\nmin_accuracy = 70", "Rates are fractions: 70% is 0.7"),
        ("schema = 1\n[[rule]]\nall = true\nmax_drop = 5", "Rates are fractions: 5% is 0.05"),
        ("schema = 1\n[[rule]]\nall = true\nmax_drop = 1", "0 <= max_drop < 1"),
        ("schema = 1\n[[rule]]\nall = true\nmax_drop = -0.1", "0 <= max_drop < 1"),
        ("schema = 1\n[[rule]]\nall = true\nmin_accuracy = 0", "0 < min_accuracy <= 1"),
        ("schema = 1\n[[rule]]\nall = true\nmax_success_rate = 1.0", "max_success_rate < 1"),
        ("schema = 1\n[[rule]]\nall = true\nno_worse_than_baseline = 3", "no_worse_than_baseline < 1"),
        ("schema = 1\n[[rule]]\nall = true\nmin_worst_class = 1.1", "min_worst_class <= 1"),
        ("schema = 1\n[[rule]]\nall = true\nmax_drop = nan", "max_drop"),
        ("schema = 1\n[[rule]]\nall = true\nmin_boundary_distance = inf", "min_boundary_distance"),
        ("schema = 1\n[[rule]]\nall = true\nmax_drop = true", "max_drop"),
        ('schema = 1\n[[rule]]\nall = true\nmax_drop = "0.1"', "max_drop"),
        ("schema = 1\n[[rule]]\nall = true\nmin_acuracy = 0.1", "Did you mean 'min_accuracy'"),
        ("schema = 1\n[[rule]]\nall = true\nmax_drop = 0.1\nallow_flags = []", "above the first"),
        ("schema = 1\nmax_drop = 0.1\n[[rule]]\nall = true\nmin_accuracy = 0.1", "below ..rule"),
        ("schema = 1\nconfidense = 0.9\n[[rule]]\nall = true\nmax_drop = 0.1", "Did you mean 'confidence'"),
        ('schema = 1\nsource = "x"\n[[rule]]\nall = true\nmax_drop = 0.1', "unknown key"),
        ("schema = 1\nconfidence = 95\n[[rule]]\nall = true\nmax_drop = 0.1", "fraction: 0.95"),
        ("schema = 1\n[[rule]]\nall = true\nmax_drop = 0.1\nconfidence = 1.0", "confidence <= 0.9999"),
        ('schema = 1\non_uncertain = "ignore"\n[[rule]]\nall = true\nmax_drop = 0.1', "on_uncertain"),
        ('schema = 1\nallow_flags = "x"\n[[rule]]\nall = true\nmax_drop = 0.1', "allow_flags"),
        ("schema = 1\n" + '[[rule]]\nname = "a"\nall = true\nmax_drop = 0.1\n' * 2, "two rules named 'a'"),
        ("schema = ", "readable TOML"),
    ],
)
def test_a_wrong_rules_file_is_refused_by_name(text, words, tmp_path):
    (tmp_path / "gate.toml").write_text(text)
    with pytest.raises(InputError, match=words):
        rules_of.load(tmp_path / "gate.toml")


def test_a_rules_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="readable TOML"):
        rules_of.load(tmp_path / "no.toml")


def test_the_example_of_the_documents_loads_and_names_every_limit():
    page = (Path(__file__).parents[1] / "docs" / "gate.md").read_text()
    text = page.split("```toml\n")[1].split("```")[0]
    assert len(rules_of.of(tomllib.loads(text), "docs").rule) == 5
    assert all(f"| `{name}` |" in page for name in rules_of.LIMITS)


# ---------------------------------------------------------------------- a first rules file


@pytest.mark.parametrize("flags", [[], [FLAG, FLAG | {"code": "x", "message": "a\nb \x1b"}]])
def test_the_first_rules_file_passes_the_run_it_was_made_from(flags, tmp_path):
    entries = {"depth": [0.8, 0.1], "seeing": [0.33], "onepixel": [1.0], "pgd": ENTRIES["pgd"]["ladder"]}
    record = make_record(tmp_path / "r", entries, n=150)
    record.write_run(record.run | {"flags": flags})
    text = first_rules(record)
    (tmp_path / "gate.toml").write_text(text)
    result = judge(record, rules_of.load(tmp_path / "gate.toml"))
    assert set(statuses(result)) == {"pass"}
    assert result.status == ("fail" if flags else "pass")
    assert {c.perturbation for c in result.checks} == {"clean", *entries}
    assert {c.severity for c in result.checks if c.perturbation == "depth"} == {
        5,
        None,
    }  # the most severe, and the mean
    assert [c.strength for c in result.checks if c.perturbation == "seeing"] == [0.33, 0.33]
    assert {c.kind for c in result.checks if c.perturbation == "pgd"} == {"min_accuracy", "max_success_rate"}
    for check in result.checks:  # close to what was measured, not merely kept
        end = check.estimate.low if check.kind.startswith("min") else check.estimate.high
        assert abs(check.limit - end) <= 0.0101
    if flags:
        (tmp_path / "gate.toml").write_text(text.replace("# allow_flags", "allow_flags"))
        assert judge(record, rules_of.load(tmp_path / "gate.toml")).status == "pass"


def test_the_first_rules_file_survives_strange_names_and_poor_models(tmp_path):
    name = 'lib:"a"\\b\x7f é\t'
    record = a_record(tmp_path / "r", first(60, 60), {"depth": {0.1: first(0, 60)}})
    entry = record.run["perturbations"][0]
    record.write_run(record.run | {"perturbations": [entry | {"name": name}]})
    (record.path / "units" / "depth").rename(record.path / "units" / name.replace(":", "-"))
    text = first_rules(record)
    assert [rule.get("perturbation") for rule in tomllib.loads(text)["rule"]] == [None]  # nothing else can be a limit
    edit = {"logits": list(np.eye(3)[np.arange(60) % 3])}
    (shard,) = (record.path / "units" / name.replace(":", "-") / "0.1").glob("*.parquet")
    pd.read_parquet(shard).assign(**edit).to_parquet(shard)
    record = Record.open(record.path)
    text = first_rules(record)
    assert tomllib.loads(text)["rule"][1]["perturbation"] == name
    assert judge(record, rules_of.of(tomllib.loads(text), "x")).status == "pass"
    nothing = record.galaxies.reset_index()
    nothing["logits"] = [np.full(3, np.nan)] * 60
    record.write_galaxies(nothing)
    pd.read_parquet(shard).assign(logits=list(nothing["logits"])).to_parquet(shard)
    with pytest.raises(InputError, match=r"nothing that .* measured can be a limit"):
        first_rules(record)


# ---------------------------------------------------------------------- for readers and machines


def nasty(tmp_path):
    """A verdict with a failed, an uncertain and a passed check, and texts that try to break out."""
    record = a_record(
        tmp_path / "r", first(60, 60), {"depth": {0.8: first(30, 60), 0.1: first(10, 60), 0.6: first(59, 60)}},
        flags=[FLAG | {"message": "50%, <b>&]]>\x00\x1b\r\n::error::|x|"}],
    )  # fmt: skip
    rule = {"name": 'a "rule": <1>,\n100% &', "perturbation": "depth", "min_accuracy": 0.5, "on_uncertain": "warn"}
    return verdict(record, **rule)


def test_junit_is_read_back_as_it_was_written(tmp_path):
    result = nasty(tmp_path)
    root = ElementTree.fromstring(junit(result).encode())
    assert root.tag == "testsuites"
    (suite,) = root
    cases = suite.findall("testcase")
    counts = {"tests": "4", "failures": "2", "errors": "0"}
    assert {k: root.get(k) for k in counts} == {k: suite.get(k) for k in counts} == counts
    assert len(cases) == 4
    assert len({(case.get("classname"), case.get("name")) for case in cases}) == 4
    assert [case.find("failure") is not None for case in cases] == [False, True, False, True]
    assert cases[0].get("classname") == 'a "rule": <1>, 100% &'
    failure = cases[1].find("failure")
    assert failure is not None
    assert failure.get("message") == failure.text == result.checks[1].message
    assert "counted as warn" in (cases[0].findtext("system-out") or "")
    flag = cases[3].findtext("failure") or ""
    assert "50%, <b>&]]>" in flag
    assert "\x00" not in flag
    assert "\x1b" not in flag


def test_annotations_are_escaped_as_github_demands(tmp_path):
    lines = list(summary.github_annotations(nasty(tmp_path)))
    assert all("\n" not in line and "\r" not in line for line in lines)
    assert [line.split(" ")[0] for line in lines][:3] == ["::error", "::error", "::warning"]
    title, message = lines[0].removeprefix("::error title=").split("::", 1)
    assert ":" not in title.replace("%3A", "")
    assert "," not in title
    assert 'robustastro gate%3A a "rule"%3A <1>%2C 100%25 &%3A depth at 0.1' in title
    assert "16.7%25 [" in message
    assert lines[1].endswith("50%25, <b>&]]>\x00\x1b%0D%0A::error::|x|. check the units.")


def test_markdown_keeps_its_table_whatever_is_in_it(tmp_path):
    page = summary.markdown(nasty(tmp_path))
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 3
    assert {row.replace("\\|", "").count("|") for row in rows} == {8}
    assert "<b>" not in page
    assert page.startswith("## Robustness gate: fail\n")


def test_the_table_ends_with_the_verdict(tmp_path):
    result = nasty(tmp_path)
    lines = summary.text(result).splitlines()
    assert lines[-1] == "verdict: fail (3 checks: 1 pass, 1 fail, 1 uncertain; 1 flag not allowed)"
    assert "would decide" in "".join(lines)
    assert len({line.index("at least 50%") for line in lines[2:5]}) == 1  # aligned
    for check in result.checks:
        assert f"{100 * check.estimate.value:.1f}% [" in summary.text(result)


RULES = "schema = 1\n[[rule]]\nperturbation = 'depth'\nseverity = 5\nmin_accuracy = {limit}\n"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A run with accuracy 0.75 [0.62, 0.85] at severity 5, and rules for it; outside of GitHub."""
    for name in ("GITHUB_STEP_SUMMARY", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    a_record(tmp_path / "r", first(60, 60), {"depth": {0.1: first(45, 60)}})
    for name, limit in (("kept", 0.6), ("broken", 0.9), ("unsure", 0.8)):
        (tmp_path / f"{name}.toml").write_text(RULES.format(limit=limit))
    return tmp_path


@pytest.mark.parametrize(("name", "status"), [("kept", 0), ("unsure", 0), ("broken", 1)])
def test_exit_status_and_artefacts(name, status, place, capsys):
    files = place / "new" / "gate.xml", place / "gate.md"
    arguments = ["gate", place / "r", "--rules", place / f"{name}.toml", "--junit", files[0], "--summary", files[1]]
    code, out, _ = run(*arguments, capsys=capsys)
    assert code == status
    assert out.splitlines()[-1].startswith(f"verdict: {'fail' if status else 'pass'}")
    assert ElementTree.parse(files[0]).getroot().get("failures") == str(status)
    assert f"gate: {'fail' if status else 'pass'}" in files[1].read_text()
    code, out, err = run("gate", place / "r", "--rules", place / f"{name}.toml", "--json", capsys=capsys)
    document = json.loads(out)
    assert (code, err) == (status, "")
    assert set(document) == {"schema", "run", "rules", "baseline", "verdict", "checks", "flags", "notes"}
    assert (document["schema"], document["verdict"]) == (1, "fail" if status else "pass")
    (check,) = document["checks"]
    assert check["estimate"] == pytest.approx(exact(first(45, 60)).to_dict())
    assert (check["measure"], check["perturbation"], check["severity"]) == ("perturbed_accuracy", "depth", 5)


@pytest.mark.parametrize(
    "arguments",
    [
        ["r"],
        ["r", "--rules", "no.toml"],
        ["no", "--rules", "kept.toml"],
        ["r", "--rules", "kept.toml", "--baseline", "r"],
        ["r", "--rules", "kept.toml", "--init"],
        ["r", "--init", "--json"],
        ["r", "--rules", "broken.toml", "--junit", "r"],
        ["r", "--rules", "broken.toml", "--summary", "kept.toml/gate.md"],
    ],
)
def test_what_cannot_be_judged_exits_with_two_and_writes_nothing(arguments, place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    before = sorted(p for p in place.rglob("*") if p.is_file())
    code, out, err = run("gate", *arguments, capsys=capsys)
    assert (code, out) == (2, "")
    assert err.startswith("robustastro: ")
    assert len(err.splitlines()) == 1
    assert sorted(p for p in place.rglob("*") if p.is_file()) == before


def test_init_prints_rules_that_load(place, capsys):
    code, out, _ = run("gate", place / "r", "--init", capsys=capsys)
    (place / "own.toml").write_text(out)
    assert code == 0
    assert run("gate", place / "r", "--rules", place / "own.toml", capsys=capsys)[0] == 0


def test_on_github_the_summary_is_added_to_and_annotations_go_to_stderr(place, capsys, monkeypatch):
    step = place / "step.md"
    step.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(step))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    code, out, err = run("gate", place / "r", "--rules", place / "broken.toml", "--json", capsys=capsys)
    assert (code, json.loads(out)["verdict"]) == (1, "fail")
    assert err.startswith("::error title=")
    assert step.read_text().startswith("before\n## Robustness gate: fail")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(place / "no" / "step.md"))
    code, _, err = run("gate", place / "r", "--rules", place / "kept.toml", capsys=capsys)
    assert code == 0  # the verdict stands without a summary
    assert "no step summary" in err


def test_an_interrupted_artefact_leaves_the_former_one_whole(place, capsys, monkeypatch):
    arguments = ["gate", place / "r", "--rules", place / "broken.toml", "--junit", place / "gate.xml"]
    run(*arguments)
    before = (place / "gate.xml").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("robustastro.record.os.fsync", full)
        code, _, err = run(*arguments, capsys=capsys)
    assert code == 2
    assert "No space left" in err
    assert (place / "gate.xml").read_bytes() == before
    assert not [p for p in place.iterdir() if p.name.startswith(".")]


def test_a_gate_loads_nothing_heavy(place):
    """Nor does it compare, with a baseline, or make a first rules file."""
    rule = "schema = 1\n[[rule]]\nall = true\nno_worse_than_baseline = 0.1\nmin_boundary_distance = 0.0\n"
    (place / "all.toml").write_text(rule + "min_worst_class = 0.2\nmax_drop = 0.9\n")
    a_record(place / "b", first(60, 60), {"depth": {0.1: first(45, 60)}})
    program = f"""
import sys
from robustastro.cli import main
gated = ["gate", "r", "--rules", "all.toml", "--baseline", "b", "--junit", "x.xml", "--summary", "x.md"]
for arguments in (gated, ["gate", "r", "--init"]):
    try:
        main(arguments)
    except SystemExit as ended:
        assert ended.code == 0, ended.code
heavy = {["torch", "scipy.stats", "seaborn", "matplotlib", "sklearn", "lifelines", "perturbations.core"]!r}
print("LOADED", [name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=place)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "LOADED []"
