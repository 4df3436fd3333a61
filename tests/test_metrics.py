"""Metrics: intervals cover what they promise, distances are distances, a summary is what the rows say."""

import json
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import scipy.stats
from synthetic_records import CLASSES, ENTRIES, galaxy_table, make_record, run_json, unit_table

from perturbations.errors import InputError
from robustastro.metrics import common_flips, compare_table, summarise, table
from robustastro.metrics.distances import (
    boundary_distance,
    boundary_reason,
    centroid_margin,
    latent_scale,
    latent_shift,
)
from robustastro.metrics.intervals import Estimate, mean, median, paired_drop, proportion
from robustastro.metrics.paired import pair
from robustastro.record import Head, Record

DESIGN_FIELDS = {
    *(
        "severity",
        "strength",
        "unit",
        "n",
        "clean_accuracy",
        "perturbed_accuracy",
        "accuracy_drop",
        "attack_success_rate",
    ),
    *("latent_shift", "flip_distance", "boundary_distance", "centroid_margin", "latent_scale", "queries_median"),
}  # design of the command line, `attack --json`


def paired_counts(both: int, lost: int, gained: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    counts = (both, lost, gained, neither)
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


# ---------------------------------------------------------------------- intervals


@pytest.mark.parametrize(("k", "n"), [(0, 7), (7, 7), (1, 30), (17, 40), (299, 300)])
@pytest.mark.parametrize("confidence", [0.68, 0.95])
def test_wilson_agrees_with_scipy(k, n, confidence):
    got = proportion(np.arange(n) < k, confidence)
    expected = scipy.stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert (got.value, got.n) == (k / n, n)
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0.0 <= got.low <= got.value <= got.high <= 1.0


def test_nothing_gives_null_and_never_zero():
    nothing = np.array([], dtype=bool)
    for estimate in (
        proportion(nothing),
        paired_drop(nothing, nothing),
        mean(nothing),
        median(nothing),
        mean([math.nan]),
    ):
        assert estimate.to_dict() == {"value": None, "low": None, "high": None, "n": 0}
    assert json.loads(json.dumps(Estimate(0.5, 0.25, 1.0, 4).to_dict()))["low"] == 0.25


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [
        ((36, 12, 2, 0), 0.0569, 0.3404),  # Newcombe 1998, Statistics in Medicine 17, 2635, method 10
        ((1, 1, 7, 12), -0.507, -0.026),  # Fagerland, Lydersen & Laake 2014, Statistics in Medicine 33, 2850
    ],
)
def test_paired_drop_gives_the_published_examples(counts, low, high):
    got = paired_drop(*paired_counts(*counts))
    assert (got.low, got.high) == pytest.approx((low, high), abs=5e-4)
    assert got.value == pytest.approx((counts[1] - counts[2]) / sum(counts))


@pytest.mark.parametrize("seed", range(20))
def test_paired_drop_is_newcombes_from_the_counts(seed):
    """Method 10 in the counts of the fourfold table, as the paper has it; shares of 0 and 1 are the same galaxies."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 40))
    before = rng.random(n) < rng.random()
    after = np.where(rng.random(n) < rng.random(), before, rng.random(n) < rng.random())
    a, b, c, d = (int(np.sum(cell)) for cell in (before & after, before & ~after, ~before & after, ~before & ~after))
    margins, cross = (a + b) * (c + d) * (a + c) * (b + d), a * d - b * c
    phi = (max(cross - n / 2, 0) if cross > 0 else cross) / math.sqrt(margins) if margins else 0.0
    (l1, u1), (l2, u2) = (scipy.stats.binomtest(k, n).proportion_ci(method="wilson") for k in (a + b, a + c))
    p1, p2 = (a + b) / n, (a + c) / n
    below = math.sqrt((p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2)
    above = math.sqrt((u1 - p1) ** 2 - 2 * phi * (u1 - p1) * (p2 - l2) + (p2 - l2) ** 2)
    expected = (p1 - p2, p1 - p2 - below, p1 - p2 + above, n)
    for found in (paired_drop(before, after), paired_drop(before * 1.0, after * 1.0)):
        assert (found.value, found.low, found.high, found.n) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("n", [40, 300])
@pytest.mark.parametrize(
    ("lost", "gained", "both"), [(0.2, 0.02, 0.6), (0.3, 0.05, 0.4), (0.1, 0.1, 0.3), (0.4, 0.0, 0.5)]
)
def test_paired_drop_covers_the_true_drop(n, lost, gained, both):
    rng = np.random.default_rng(1)
    tables = rng.multinomial(n, [both, lost, gained, 1 - both - lost - gained], size=1500)
    intervals = [paired_drop(*paired_counts(*counts)) for counts in tables]
    covered = np.mean([e.low <= lost - gained <= e.high for e in intervals])
    assert 0.93 <= covered <= 0.985  # not by being too wide either


def test_pairing_narrows_the_interval():
    before, after = paired_counts(70, 10, 0, 20)
    paired, shuffled = paired_drop(before, after), paired_drop(before, np.random.default_rng(0).permutation(after))
    assert paired.value == pytest.approx(shuffled.value)
    assert paired.high - paired.low < 0.7 * (shuffled.high - shuffled.low)


@pytest.mark.parametrize("n", [2, 9, 200])
def test_mean_agrees_with_scipy(n):
    values = np.random.default_rng(n).lognormal(size=n)
    got, expected = mean(values), scipy.stats.ttest_1samp(values, 0.0).confidence_interval()
    assert (got.value, got.low, got.high) == pytest.approx((values.mean(), expected.low, expected.high))


def test_mean_covers_skewed_distances_nearly_as_often_as_it_says():
    values = np.random.default_rng(2).lognormal(sigma=0.5, size=(3000, 30))
    truth = math.exp(0.125)
    assert np.mean([(e := mean(v)).low <= truth <= e.high for v in values]) >= 0.92


@pytest.mark.parametrize("n", [6, 11, 40, 301])
def test_median_agrees_with_scipy(n):
    values = np.random.default_rng(n).lognormal(size=n)
    got = median(values)
    expected = scipy.stats.quantile_test(values, p=0.5).confidence_interval(0.95)
    assert (got.value, got.low, got.high, got.n) == (np.median(values), expected.low, expected.high, n)


def test_too_few_values_give_a_number_without_an_interval():
    for estimate in (mean([3.0]), median([1.0, 3.0, 5.0])):
        assert estimate.value == 3.0
        assert math.isnan(estimate.low)
        assert math.isnan(estimate.high)


def test_values_that_are_not_finite_are_not_counted():
    assert mean([1.0, math.nan, 3.0, math.inf]).n == 2
    assert median([1.0, math.nan, 3.0]).value == 2.0


# ---------------------------------------------------------------------- distances


def random_head(rng, classes: int, dimensions: int, kind: str = "linear") -> Head:
    bias = rng.normal(size=classes) if kind == "linear" else None
    return Head(rng.normal(size=(classes, dimensions)), bias, None, kind=kind)


def predict(head: Head, z: np.ndarray) -> np.ndarray:
    """Classes of latents (N, D), the way the network would."""
    if head.kind == "cosine":
        unit = head.weight / np.linalg.norm(head.weight, axis=1, keepdims=True)
        return (z / np.linalg.norm(z, axis=1, keepdims=True) @ unit.T).argmax(axis=1)
    return (z @ head.weight.T + head.bias).argmax(axis=1)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_boundary_distance_is_the_nearest_place_where_the_class_changes(kind):
    """Oracle: walk outwards from z in 4,000 directions of a plane until the predicted class changes."""
    rng = np.random.default_rng(3)
    angle = np.linspace(0, 2 * np.pi, 4000, endpoint=False)
    rays = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    for _ in range(8):
        head, z = random_head(rng, 4, 2, kind), rng.normal(size=(1, 2))
        label = predict(head, z)
        distance = boundary_distance(head, z, label)[0]
        assert distance > 0
        assert (predict(head, z + 0.999 * distance * rays) == label).all()
        assert (predict(head, z + 1.001 * distance * rays) != label).any()


def test_boundary_distance_solves_the_quadratic_programme():
    """Oracle: nearest point at which some other class is at least as likely, by SciPy, in 5 dimensions."""
    rng = np.random.default_rng(4)
    head, latent = random_head(rng, 3, 5), rng.normal(size=(6, 5))
    labels = predict(head, latent)
    got = boundary_distance(head, latent, labels)
    for z, y, distance in zip(latent, labels, got, strict=True):
        leave = [
            scipy.optimize.minimize(
                lambda u, z=z: np.sum((u - z) ** 2),
                z,
                method="SLSQP",
                constraints={
                    "type": "ineq",
                    "fun": lambda u, j=j, y=y: (head.weight @ u + head.bias)[[j, y]] @ [1, -1],
                },
                options={"ftol": 1e-14},
            ).fun
            for j in range(3)
            if j != y
        ]
        assert distance == pytest.approx(math.sqrt(min(leave)), abs=1e-5)


def test_beyond_the_boundary_the_distance_is_negative_and_bounds_the_way_back():
    rng = np.random.default_rng(5)
    head, latent = random_head(rng, 4, 3), rng.normal(size=(10, 3))
    labels = (predict(head, latent) + 1) % 4
    distance = boundary_distance(head, latent, labels)
    assert (distance < 0).all()
    for z, y, short in zip(latent, labels, distance, strict=True):
        back = scipy.optimize.minimize(
            lambda u, z=z: np.sum((u - z) ** 2),
            z,
            method="SLSQP",
            constraints={"type": "ineq", "fun": lambda u, y=y: (s := head.weight @ u + head.bias)[y] - s},
        )
        if back.success:
            assert math.sqrt(back.fun) >= -short - 1e-5


def test_heads_without_flat_boundaries_give_null_and_a_reason():
    other = Head(None, None, None, kind="other")
    biased = Head(np.eye(3), np.ones(3), None, kind="cosine")
    for head in (other, biased):
        assert np.isnan(boundary_distance(head, np.ones((2, 3)), np.zeros(2, dtype=int))).all()
    assert "not linear" in str(boundary_reason(other))
    assert "bias" in str(boundary_reason(biased))
    assert boundary_reason(Head(np.eye(3), None, None)) is None


def test_unknown_labels_and_equal_weights():
    head = Head(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), np.array([1.0, 0.0, 0.0]), None)
    z = np.array([[2.0, 0.0]] * 3)
    distance = boundary_distance(head, z, np.array([0, 1, -1]))
    assert distance[0] == pytest.approx(3 / math.sqrt(2))  # class 1 can never win: only class 2 has a boundary
    assert distance[1] == -math.inf
    assert math.isnan(distance[2])


def test_margins_shifts_and_scale_by_hand():
    centroids = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0], [math.nan, math.nan]])
    z = np.array([[0.0, 0.0], [3.0, 4.0], [3.0, 0.0], [1.0, 1.0]])
    margin = centroid_margin(centroids, z, np.array([0, 0, 0, 3]))
    assert margin[:3] == pytest.approx([3.0, 3.0 - 5.0, 0.0 - 3.0])
    assert math.isnan(margin[3])  # no centroid of its own
    assert latent_scale(centroids) == (pytest.approx((3 + 4 + 5) / 3), 3)
    assert math.isnan(latent_scale(centroids[:1])[0])
    assert math.isnan(latent_scale(None)[0])
    assert np.isnan(centroid_margin(None, z, np.zeros(4, dtype=int))).all()
    assert latent_shift(z, z[::-1]) == pytest.approx([math.sqrt(2), 4.0, 4.0, math.sqrt(2)])


# ---------------------------------------------------------------------- a record


def small_record(path, labels, before, after, perturbation="depth", strength=0.5, extra=None) -> Record:
    """A record whose predictions are given: latents are one-hot, the head is the identity."""
    head = Head(np.eye(3), np.zeros(3), np.eye(3), "by hand")
    ids = [f"g{k}" for k in range(len(labels))]
    record = Record(path)
    record.write_run(run_json("hand", {perturbation: [strength]}, ("r",), len(ids)))
    record.write_head(head)
    record.write_galaxies(galaxy_table(ids, np.array(labels), np.eye(3)[before], head))
    shard = unit_table(ids, np.eye(3)[after], head).assign(**(extra or {}))
    record.write_shard(perturbation, strength, 0, shard)
    return record


def test_a_summary_by_hand(tmp_path):
    """Eight galaxies: five right before; of these two flip; one that was wrong becomes right; two stay wrong."""
    labels, before, after = [0, 0, 0, 1, 1, 1, 2, 2], [0, 0, 0, 1, 1, 2, 0, 0], [0, 0, 1, 1, 0, 1, 0, 1]
    (result,) = summarise(small_record(tmp_path, labels, before, after))
    assert set(result) >= DESIGN_FIELDS
    assert (result["perturbation"], result["strength"], result["severity"], result["n"]) == ("depth", 0.5, None, 8)
    assert result["clean_accuracy"]["value"] == 5 / 8
    assert result["perturbed_accuracy"]["value"] == 4 / 8
    assert result["accuracy_drop"]["value"] == 1 / 8
    assert (result["attack_success_rate"]["value"], result["attack_success_rate"]["n"]) == (2 / 5, 5)
    moved = math.sqrt(2)
    assert result["latent_shift"]["value"] == pytest.approx(4 * moved / 8)
    assert (result["flip_distance"]["value"], result["flip_distance"]["n"]) == (pytest.approx(moved), 2)
    assert result["latent_scale"] == {"value": pytest.approx(moved), "low": None, "high": None, "n": 3}
    assert result["flip_distance_scaled"]["value"] == pytest.approx(1.0)
    assert result["boundary_distance_clean"]["value"] == pytest.approx((5 - 3) / 8 / moved)
    assert result["boundary_distance"]["value"] == pytest.approx(0.0)
    assert result["centroid_margin_clean"]["value"] == pytest.approx((5 - 3) * moved / 8)
    assert result["queries_median"] == {"value": None, "low": None, "high": None, "n": 0}
    per_class = result["per_class"]
    assert list(per_class) == list(CLASSES)
    assert [per_class[c]["n"] for c in CLASSES] == [3, 3, 2]
    assert [per_class[c]["clean_accuracy"]["value"] for c in CLASSES] == [1.0, 2 / 3, 0.0]
    assert [per_class[c]["perturbed_accuracy"]["value"] for c in CLASSES] == [2 / 3, 2 / 3, 0.0]
    json.dumps(result, allow_nan=False)


def test_queries_are_of_the_galaxies_that_were_there_to_attack(tmp_path):
    labels, before, after = [0, 1, 2, 0, 1], [0, 1, 2, 1, 0], [1, 1, 0, 1, 0]
    queries = {"queries": [10, 30, 20, 1, 1]}
    attack, corruption = (
        summarise(small_record(tmp_path / name, labels, before, after, name, strength, queries))[0]
        for name, strength in (("onepixel", 1.0), ("depth", 0.4))
    )
    assert (attack["queries_median"]["value"], attack["queries_median"]["n"]) == (20.0, 3)
    assert corruption["queries_median"]["n"] == 0
    assert (attack["severity"], corruption["severity"]) == (1, 3)


def with_options(record: Record, **options) -> Record:
    record.write_run(record.run | {"perturbations": [p | {"options": options} for p in record.run["perturbations"]]})
    return record


def test_a_targeted_attack_succeeds_where_it_reaches_its_target(tmp_path):
    """Clean-correct: all but the last. One is of class 2 already; of the other four, two reach it, one goes astray."""
    labels, before, after = [0, 0, 1, 1, 2, 0], [0, 0, 1, 1, 2, 1], [2, 1, 2, 1, 0, 2]
    queries = {"queries": [10, 20, 30, 50, 1, 1]}
    record = small_record(tmp_path / "labelled", labels, before, after, "onepixel", 1.0, queries)
    (anywhere,) = summarise(with_options(record, target=None))
    assert (anywhere["attack_success_rate"]["value"], anywhere["attack_success_rate"]["n"]) == (4 / 5, 5)
    assert (anywhere["queries_median"]["value"], anywhere["queries_median"]["n"]) == (20.0, 5)
    (there,) = summarise(with_options(record, target=2))
    assert (there["attack_success_rate"]["value"], there["attack_success_rate"]["n"]) == (2 / 4, 4)
    assert (there["queries_median"]["value"], there["queries_median"]["n"]) == (25.0, 4)
    assert there["perturbed_accuracy"] == anywhere["perturbed_accuracy"]
    # class 0 is a target, too; without labels the attack starts from the model's own classes
    (zero,) = summarise(with_options(record, target=0))
    assert (zero["attack_success_rate"]["value"], zero["attack_success_rate"]["n"]) == (1 / 3, 3)
    blind = small_record(tmp_path / "blind", [-1] * 6, before, after, "onepixel", 1.0, queries)
    (unknown,) = summarise(with_options(blind, target=2))
    assert (unknown["queries_median"]["value"], unknown["queries_median"]["n"]) == (20.0, 5)
    assert unknown["attack_success_rate"]["n"] == 0


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_no_class(tmp_path, wrong):
    """Not even class 0, which argmax makes of NaN; one such logit is enough."""
    labels = [0, 0, 0, 1]
    record = small_record(tmp_path, labels, labels, labels)
    shard, galaxies = record.unit("depth", 0.5).reset_index(), record.galaxies.reset_index()
    for frame, rows in ((shard, (0, 3)), (galaxies, (2,))):
        for k in rows:
            for column in ("logits", "latent"):
                frame[column] = [np.array([v[0], wrong, v[2]]) if i == k else v for i, v in enumerate(frame[column])]
    record.write_galaxies(galaxies)
    record.write_shard("depth", 0.5, 0, shard)
    (unit,) = record.units()
    found = pair(record, unit)
    assert found is not None
    assert (list(found.clean_class), list(found.perturbed_class)) == ([0, 0, -1, 1], [-1, 0, 0, -1])
    assert list(found.flipped) == [True, False, False, True]
    unknown, after = [True, False, True, True], [True, False, False, True]
    assert (list(np.isnan(found.shift)), list(np.isnan(found.boundary))) == (unknown, after)
    assert list(np.isnan(found.margin)) == after
    (result,) = summarise(record)
    assert (result["clean_accuracy"]["value"], result["perturbed_accuracy"]["value"]) == (3 / 4, 2 / 4)
    assert result["attack_success_rate"]["value"] == 2 / 3
    assert (result["latent_shift"]["n"], result["flip_distance"]["n"], result["boundary_distance"]["n"]) == (1, 0, 2)


def test_a_perturbation_listed_twice_is_refused(tmp_path):
    record = small_record(tmp_path, [0], [0], [0])
    record.write_run(record.run | {"perturbations": record.run["perturbations"] * 2})
    with pytest.raises(InputError, match="lists a perturbation twice"):
        summarise(record)


def test_without_labels_only_the_shift_is_known(tmp_path):
    (result,) = summarise(small_record(tmp_path, [-1, -1], [0, 1], [1, 1]))
    for name in ("clean_accuracy", "perturbed_accuracy", "accuracy_drop", "attack_success_rate", "boundary_distance"):
        assert result[name] == {"value": None, "low": None, "high": None, "n": 0}
    assert (result["latent_shift"]["value"], result["n"]) == (pytest.approx(math.sqrt(2) / 2), 2)


def test_stretching_a_latent_space_changes_raw_distances_only(tmp_path):
    plain, stretched = (
        summarise(make_record(tmp_path / str(s), {"depth": [0.4]}, stretch=s, seed=7))[0] for s in (1.0, 3.7)
    )
    for name in ("latent_shift", "flip_distance", "boundary_distance", "centroid_margin", "boundary_distance_clean"):
        assert stretched[name]["value"] == pytest.approx(3.7 * plain[name]["value"])
        for part in ("value", "low", "high"):
            assert stretched[f"{name}_scaled"][part] == pytest.approx(plain[f"{name}_scaled"][part])


def test_an_interrupted_run_is_summarised_as_far_as_it_went(tmp_path):
    record = make_record(tmp_path, {"depth": [0.8, 0.6], "seeing": [0.2]}, n=30)
    whole = record.unit("depth", 0.6)
    for shard in tmp_path.glob("units/seeing/*/*.parquet"):
        shard.unlink()
    record.write_shard("depth", 0.6, 0, whole.iloc[20:].reset_index())
    results = summarise(Record.open(tmp_path))
    assert [(r["perturbation"], r["strength"], r["n"]) for r in results] == [("depth", 0.8, 30), ("depth", 0.6, 10)]
    last = record.galaxies.iloc[20:]
    right = (last["label"] == np.stack(last["logits"]).argmax(1)).mean()
    assert results[1]["clean_accuracy"]["value"] == pytest.approx(right)  # of the same ten galaxies
    moved = latent_shift(np.stack(whole["latent"].iloc[20:]), np.stack(last["latent"]))
    assert results[1]["latent_shift"]["value"] == pytest.approx(moved.mean())
    for shard in tmp_path.glob("units/*/*/*.parquet"):
        shard.unlink()
    assert summarise(Record.open(tmp_path)) == []


def test_galaxies_are_matched_by_id_not_by_position(tmp_path):
    record = make_record(tmp_path, {"depth": [0.8]}, n=30)
    before = summarise(record)
    record.write_shard("depth", 0.8, 0, record.unit("depth", 0.8).sample(frac=1, random_state=0).reset_index())
    assert summarise(record) == before


def test_a_unit_without_latents_has_accuracies_but_no_distances(tmp_path):
    record = make_record(tmp_path, {"depth": [0.8]}, n=30)
    record.write_shard("depth", 0.8, 0, record.unit("depth", 0.8).drop(columns="latent").reset_index())
    (result,) = summarise(record)
    assert result["perturbed_accuracy"]["n"] == 30
    assert result["latent_shift"]["n"] == result["boundary_distance"]["n"] == 0


def test_flip_distances_are_compared_on_galaxies_flipped_in_both(tmp_path):
    labels = [0, 0, 0, 1]
    one = small_record(tmp_path / "one", labels, labels, [1, 1, 0, 0])
    two = small_record(tmp_path / "two", labels, labels, [0, 2, 1, 2])
    got = common_flips({"one": one, "two": two}, "depth", 0.5)
    assert {name: entry["flipped"] for name, entry in got.items()} == {"one": 3, "two": 3}
    assert {(entry["clean_correct"], entry["common"]) for entry in got.values()} == {(4, 2)}
    assert {entry["flip_distance"]["n"] for entry in got.values()} == {2}
    assert got["two"]["flip_distance_scaled"]["value"] == pytest.approx(1.0)
    with pytest.raises(InputError, match="no results of depth"):
        common_flips({"one": one}, "depth", 0.25)


# ---------------------------------------------------------------------- tables


def test_tables_show_points_intervals_and_units(tmp_path):
    results = summarise(make_record(tmp_path, {"seeing": [0.2, 1.0], "onepixel": [1.0]}, n=40))
    text = table(results)
    lines = text.splitlines()
    drop = results[1]["accuracy_drop"]
    expected = f"{100 * drop['value']:.1f} [{100 * drop['low']:.1f}, {100 * drop['high']:.1f}]"
    assert expected in lines[3]
    assert lines[3].startswith("seeing        1 arcsec")
    assert lines[2].endswith(" -")  # a corruption asks no queries
    assert "drop [points]" in lines[0]
    assert "seeing: extra seeing FWHM, in quadrature" in text
    head, rule, *rows = [line for line in table(results, markdown=True).splitlines() if line.startswith("|")]
    assert {line.count("|") for line in (head, rule, *rows)} == {head.count("|")}
    assert len(rows) == 3


def test_models_side_by_side(tmp_path):
    ladder = ENTRIES["depth"]["ladder"]
    results = {
        name: summarise(make_record(tmp_path / name, {"depth": rungs}, name, n=n))
        for name, rungs, n in (("none", ladder, 40), ("dann", ladder[:2], 30))
    }
    lines = compare_table(results).splitlines()
    assert lines[0].split() == ["perturbation", "strength", "n", "none", "dann"]
    assert lines[2].split()[:3] == ["depth", "clean", "40/30"]
    assert lines[3].split()[:3] == ["depth", "0.8", "40/30"]
    assert f"{100 * results['dann'][0]['perturbed_accuracy']['value']:.1f}" in lines[3]
    assert lines[5].split()[:3] == ["depth", "0.4", "40/-"]
    assert lines[5].endswith(" -")
    assert "No results yet" in compare_table({"none": []})


def test_summarising_stays_light(tmp_path):
    make_record(tmp_path, {"onepixel": [1.0]}, n=20)
    code = (
        "import sys; from robustastro.metrics.summary import summarise; from robustastro.metrics import table; "
        "from robustastro.record import Record; import robustastro.figures; "
        f"table(summarise(Record.open({str(tmp_path)!r}))); "
        "heavy = ('torch', 'scipy.stats', 'seaborn', 'matplotlib', 'perturbations.core'); "
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_labels_that_are_missing_count_as_unknown(tmp_path):
    record = make_record(tmp_path, {"depth": [0.8]}, n=20)
    galaxies = record.galaxies.reset_index()
    galaxies["label"] = galaxies["label"].astype("Int64").mask(pd.Series(range(20)) < 5)
    record.write_galaxies(galaxies)
    (result,) = summarise(record)
    assert (result["n"], result["clean_accuracy"]["n"]) == (20, 15)
