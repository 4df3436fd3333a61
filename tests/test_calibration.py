"""Calibration: probabilities are those of the network, and errors in them are told from chance."""

import itertools
import json
import math

import numpy as np
import pytest
import scipy.optimize
import scipy.special
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss
from synthetic_records import ENTRIES, make_record

from perturbations.errors import InputError
from robustastro import figures
from robustastro.metrics.calibration import (
    bins_for,
    brier,
    brier_parts,
    calibration,
    calibration_error,
    classwise_error,
    equal_mass,
    negative_log_likelihood,
    reliability_curve,
    temperature,
)
from robustastro.metrics.intervals import proportion
from robustastro.metrics.probabilities import probabilities, softmax

SKLEARN = {"equal mass": "quantile", "equal width": "uniform"}


def drawn(rng, n: int, scale: float = 2.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits of three classes, their probabilities, and labels drawn with just these."""
    logits = scale * rng.normal(size=(n, 3))
    p = scipy.special.softmax(logits, axis=1)
    return logits, p, (rng.random((n, 1)) > p.cumsum(axis=1)).sum(axis=1)


# ---------------------------------------------------------------------- probabilities


def test_probabilities_are_a_softmax_and_rows_that_are_not_finite_stay_so(tmp_path):
    record = make_record(tmp_path, {"depth": [0.1]}, n=5)
    logits = np.array([[1.0, 2.0, -3.0], [900.0, 901.0, 0.0], [np.nan, 0.0, 1.0], [0.0, np.inf, 1.0]], dtype=np.float32)
    p = probabilities(record, logits)
    assert p.dtype == np.float64
    assert p[:2] == pytest.approx(scipy.special.softmax(logits[:2].astype(float), axis=1))
    assert np.isnan(p[2:]).all()
    assert probabilities(record, np.zeros((0, 3))).shape == (0, 3)
    with pytest.raises(InputError, match="one per class"):
        probabilities(record, np.zeros((4, 2)))


def test_probabilities_of_a_network_that_returns_them_come_back(tmp_path):
    """What the contract stores of probabilities is their logarithm; vote fractions are made to sum to 1."""
    import torch

    from robustastro.contract import InputContract, Stretch

    stretch = Stretch(kind="linear", low=(0.0,), high=(1.0,))
    record = make_record(tmp_path, {"depth": [0.1]}, n=5)
    given = torch.tensor([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0], [0.2, 0.1, 0.1]], dtype=torch.float64)
    expected = given / given.sum(dim=1, keepdim=True)
    for output, values in (("probabilities", given), ("log_probabilities", expected.clamp_min(1e-12).log())):
        contract = InputContract(bands=("r",), classes=record.classes, stretch=stretch, output=output)
        stored = contract.to_logits(values).numpy()
        assert probabilities(record, stored) == pytest.approx(expected.numpy(), abs=1e-10)


# ---------------------------------------------------------------------- expected calibration error


def test_calibration_error_by_hand():
    forecast, hits = np.array([0.6, 0.6, 0.9, 0.9]), np.array([True, False, True, True])
    for binning in ("equal mass", "equal width"):
        assert calibration_error(forecast, hits, binning, bins=2 if binning == "equal mass" else 5).value == (
            pytest.approx((2 * abs(0.5 - 0.6) + 2 * abs(1.0 - 0.9)) / 4)
        )
    assert calibration_error(forecast, hits, bins=1).value == pytest.approx(0.0)  # 0.75 of 0.75


@pytest.mark.parametrize("binning", ["equal mass", "equal width"])
@pytest.mark.parametrize("bins", [4, 10, 15])
def test_reliability_and_its_error_agree_with_sklearn(binning, bins):
    rng = np.random.default_rng(1)
    forecast = rng.beta(4, 1, 300)
    if binning == "equal width":
        forecast = np.round(forecast, 2)  # values on the edges of bins
    hits = rng.random(300) < forecast**2
    right, sure = calibration_curve(hits, forecast, n_bins=bins, strategy=SKLEARN[binning])
    curve = reliability_curve(forecast, hits, binning, bins)
    counts = np.array([b["accuracy"]["n"] for b in curve])
    assert [b["confidence"] for b in curve] == pytest.approx(list(sure))
    assert [b["accuracy"]["value"] for b in curve] == pytest.approx(list(right))
    assert counts.sum() == 300
    expected = float((counts * np.abs(right - sure)).sum() / 300)
    assert calibration_error(forecast, hits, binning, bins).value == pytest.approx(expected)


def test_bars_of_a_reliability_curve_are_wilson_intervals_and_bins_are_in_order():
    rng = np.random.default_rng(2)
    forecast = rng.random(200)
    hits = rng.random(200) < forecast
    curve = reliability_curve(forecast, hits)
    assert len(curve) == bins_for(200) == 10
    for b in curve:
        inside = (forecast >= b["low"]) & (forecast <= b["high"])
        assert b["accuracy"] == proportion(hits[inside]).to_dict()
        assert b["low"] <= b["confidence"] <= b["high"]
    assert all(one["high"] < other["low"] for one, other in itertools.pairwise(curve))


def test_few_galaxies_get_few_bins_and_equal_values_share_one():
    assert [bins_for(n) for n in (0, 1, 39, 40, 299, 300, 10_000)] == [1, 1, 1, 2, 14, 15, 15]
    values = np.array([0.3, 1.0, 1.0, 0.2, 1.0, 1.0, 0.9, 1.0])
    bins = equal_mass(values, 4)
    assert len(set(bins[values == 1.0])) == 1
    assert len(set(bins[values < 1.0])) == 2
    assert not set(bins[values == 1.0]) & set(bins[values < 1.0])  # no neighbour is drawn into a crowd
    assert equal_mass(np.zeros(0), 3).tolist() == []
    assert np.bincount(equal_mass(np.arange(100.0), 4)).tolist() == [25, 25, 25, 25]


@pytest.mark.parametrize("binning", ["equal mass", "equal width"])
def test_a_calibrated_model_is_told_from_others_as_often_as_the_p_value_says(binning):
    rng = np.random.default_rng(3)
    found = []
    for _ in range(300):
        forecast = rng.beta(5, 1, 120)
        found.append(calibration_error(forecast, rng.random(120) < forecast, binning))
    p = np.array([of.p for of in found])
    assert 0.02 <= np.mean(p <= 0.05) <= 0.085  # 0.05 within 2.4 sigma
    assert 0.42 <= np.mean(p <= 0.5) <= 0.58
    assert np.mean([of.value for of in found]) == pytest.approx(np.mean([of.expected for of in found]), rel=0.04)
    assert np.mean([of.value > of.high for of in found]) == pytest.approx(0.05, abs=0.03)
    assert min(of.expected for of in found) > 0.02  # the error of a calibrated model is not zero


def test_an_overconfident_model_is_found_and_the_same_data_give_the_same_answer():
    rng = np.random.default_rng(4)
    forecast = rng.beta(8, 1, 300)
    hits = rng.random(300) < forecast - 0.2
    found = calibration_error(forecast, hits)
    assert found.p == 1 / 1000  # the value itself is among the draws, so p is never 0
    assert found.value > found.high > found.expected > 0
    assert found == calibration_error(forecast, hits)
    assert found != calibration_error(forecast, hits, seed=1)
    assert (found.n, found.bins) == (300, 15)


def test_classwise_error_is_the_mean_over_classes():
    rng = np.random.default_rng(5)
    _, p, labels = drawn(rng, 230)
    each = [calibration_error(p[:, k], labels == k).value for k in range(3)]
    assert classwise_error(p, labels) == pytest.approx(np.mean(each))


def test_nothing_gives_null():
    none, p = np.zeros(0), np.zeros((0, 3))
    found = calibration_error(none, none.astype(bool))
    assert found.to_dict() == {"value": None, "expected": None, "high": None, "p": None, "bins": 1, "n": 0}
    assert reliability_curve(none, none.astype(bool)) == []
    assert math.isnan(classwise_error(p, none))
    assert all(math.isnan(part) for part in brier_parts(p, none).values())


# ---------------------------------------------------------------------- proper scores


def test_brier_and_likelihood_agree_with_sklearn():
    logits, p, labels = drawn(np.random.default_rng(6), 150)
    each = [brier_score_loss(labels == k, p[:, k]) for k in range(3)]
    assert brier(p, labels).mean() == pytest.approx(sum(each))
    assert negative_log_likelihood(logits, labels).mean() == pytest.approx(log_loss(labels, p, labels=[0, 1, 2]))
    assert brier(np.array([[0.0, 1.0]]), np.array([0])) == pytest.approx([2.0])


def test_the_likelihood_of_a_class_without_probability_is_finite():
    """An infinite value would be left out of the mean: the worst galaxies would not count."""
    assert negative_log_likelihood(np.array([[0.0, 2000.0]]), np.array([0])) == pytest.approx([2000.0])


@pytest.mark.parametrize("bins", [1, 3, 15])
def test_parts_of_the_brier_score_add_up_exactly(bins):
    _, p, labels = drawn(np.random.default_rng(7), 170)
    parts = brier_parts(p, labels, bins)
    total = parts["reliability"] - parts["resolution"] + parts["uncertainty"] + parts["within_bins"]
    assert total == pytest.approx(brier(p, labels).mean(), abs=1e-13)
    rates = np.bincount(labels) / 170
    assert parts["uncertainty"] == pytest.approx((rates * (1 - rates)).sum())
    if bins == 1:
        assert parts["resolution"] == pytest.approx(0.0)
        assert parts["reliability"] == pytest.approx(((p.mean(axis=0) - rates) ** 2).sum())


def test_parts_of_forecasts_that_are_equal_within_bins_are_those_of_murphy_by_hand():
    p = np.repeat([[0.2, 0.8], [0.6, 0.4]], [4, 6], axis=0)
    labels = np.array([0, 1, 1, 1, 0, 0, 0, 1, 1, 1])
    parts = brier_parts(p, labels, bins=2)  # class 0: 0.2 came true in 1 of 4, 0.6 in 3 of 6; class 1 mirrors it
    assert parts["reliability"] == pytest.approx(2 * (4 * 0.05**2 + 6 * 0.1**2) / 10)
    assert parts["resolution"] == pytest.approx(2 * (4 * 0.15**2 + 6 * 0.1**2) / 10)
    assert parts["uncertainty"] == pytest.approx(2 * 0.4 * 0.6)
    assert parts["within_bins"] == pytest.approx(0.0, abs=1e-15)


# ---------------------------------------------------------------------- temperature


def test_temperature_is_the_one_that_was_planted_and_the_best_there_is():
    rng = np.random.default_rng(8)
    logits, _, labels = drawn(rng, 4000)
    for planted in (0.4, 2.5, 30.0):
        found, reason = temperature(planted * logits, labels)
        assert reason is None
        assert found.value == pytest.approx(planted, rel=0.06)
        assert found.low < planted < found.high < 1.1 * found.low * 1.1
        best = scipy.optimize.minimize_scalar(
            lambda t, z=planted * logits: negative_log_likelihood(z / t, labels).mean(),
            bounds=(0.3 * planted, 3 * planted),
            method="bounded",
            options={"xatol": 1e-8},
        )
        assert found.value == pytest.approx(best.x, rel=1e-5)


@pytest.mark.parametrize(("n", "scale"), [(40, 6.0), (120, 2.0)])
def test_the_interval_of_a_temperature_covers_it(n, scale):
    rng = np.random.default_rng(9)
    covered = []
    for _ in range(500):
        logits, _, labels = drawn(rng, n, scale)
        found, reason = temperature(2.5 * logits, labels)
        if reason is None:
            covered.append(found.low <= 2.5 <= found.high)
    assert len(covered) > 480
    assert 0.93 <= np.mean(covered) <= 0.985


def test_no_temperature_without_a_reason_to_have_one():
    logits, _, labels = drawn(np.random.default_rng(10), 60)
    for given, classes, why in (
        (logits, logits.argmax(axis=1), "no least"),  # all right: colder is always better
        (logits, logits.argmin(axis=1), "no least"),  # all wrong: hotter is
        (logits[:19], labels[:19], "19 validation galaxies"),
        (logits, np.full(60, -1), "0 validation galaxies"),
    ):
        found, reason = temperature(given, classes)
        assert math.isnan(found.value)
        assert why in (reason or "")


def test_galaxies_without_a_label_or_finite_logits_do_not_set_the_temperature():
    logits, _, labels = drawn(np.random.default_rng(11), 60)
    spoilt, unlabelled = logits.copy(), labels.astype(float)
    spoilt[:5, 1], unlabelled[5:8], unlabelled[8:10] = np.nan, np.nan, -1
    found, _ = temperature(spoilt, unlabelled)
    assert found == temperature(logits[10:], labels[10:])[0]
    assert found.n == 50


# ---------------------------------------------------------------------- a record


def with_validation(record, ids, logits, labels):
    import pandas as pd

    record.write_validation(pd.DataFrame({"id": ids, "label": labels, "logits": list(logits)}))
    return record


def test_a_record_is_scaled_with_the_temperature_of_its_validation_galaxies_only(tmp_path):
    """Validation galaxies that the run holds would be the galaxies judged: they are left out."""
    rng = np.random.default_rng(12)
    record = make_record(tmp_path, {"depth": [0.8, 0.1], "onepixel": [1.0]}, n=70)
    logits, _, labels = drawn(rng, 100)
    own = list(record.galaxies.index[:40])
    ids = [*(f"validation-{k}" for k in range(100)), *own]
    spoil = np.stack(record.galaxies["logits"])[:40]
    with_validation(record, ids, [*(3.0 * logits), *spoil], [*labels, *spoil.argmin(axis=1)])
    found = calibration(record)
    assert found["temperature"] == temperature(3.0 * logits, labels)[0].to_dict()
    assert found["temperature"]["n"] == 100
    assert [(r["perturbation"], r["strength"], r["severity"]) for r in found["units"]] == [
        ("depth", 0.8, 1), ("depth", 0.1, 5), ("onepixel", 1.0, 1),
    ]  # fmt: skip
    scale = found["temperature"]["value"]
    for row, table in (
        (found["clean"], record.galaxies),
        (found["units"][1], record.unit("depth", 0.1)),
    ):
        given, true = np.stack(table["logits"]), record.galaxies.loc[table.index, "label"].to_numpy()
        for state, z in (("before", given), ("after", given / scale)):
            p = softmax(z)
            sure, right = p.max(axis=1), p.argmax(axis=1) == true
            assert row[state]["brier"]["value"] == pytest.approx(brier(p, true).mean())
            assert row[state]["nll"]["value"] == pytest.approx(log_loss(true, p, labels=[0, 1, 2]))
            assert row[state]["ece"] == calibration_error(sure, right).to_dict()
            assert row[state]["ece_equal_width"] == calibration_error(sure, right, "equal width").to_dict()
            assert row[state]["confidence"]["value"] == pytest.approx(sure.mean())
            assert row[state]["accuracy"] == proportion(right).to_dict()
            assert row[state]["reliability"] == reliability_curve(sure, right, "equal width", 15)
        assert row["n"] == 70
    json.dumps(found, allow_nan=False)


def test_without_validation_galaxies_there_is_no_after_and_a_reason(tmp_path):
    record = make_record(tmp_path, {"depth": [0.1]}, n=50)
    found = calibration(record)
    assert found["temperature"]["value"] is None
    assert "no validation galaxies" in found["temperature_reason"]
    assert found["clean"]["after"] is None
    assert found["clean"]["before"]["brier"]["n"] == 50
    rows = record.galaxies
    with_validation(record, rows.index, rows["logits"], rows["label"])
    assert "among the galaxies of the run" in calibration(record)["temperature_reason"]


def test_galaxies_without_label_or_finite_logits_are_counted_and_left_out(tmp_path):
    record = make_record(tmp_path, {"depth": [0.1]}, n=60)
    table = record.unit("depth", 0.1).reset_index()
    table.loc[:3, "logits"] = table.loc[:3, "logits"].map(lambda z: np.full(3, np.nan))
    record.write_shard("depth", 0.1, 0, table)
    galaxies = record.galaxies.reset_index()
    galaxies.loc[2:11, "label"] = -1
    record.write_galaxies(galaxies)
    found = calibration(record)
    assert (found["units"][0]["n"], found["units"][0]["not_finite"]) == (48, 2)
    assert (found["clean"]["n"], found["clean"]["not_finite"]) == (50, 0)
    galaxies["label"] = -1
    record.write_galaxies(galaxies)
    clean = calibration(record)["clean"]["before"]
    assert clean["brier"] == {"value": None, "low": None, "high": None, "n": 0}
    with pytest.raises(InputError, match="no labelled galaxies"):
        figures.get("reliability").figure([record])


def test_an_interrupted_unit_is_judged_by_the_labels_of_its_own_galaxies(tmp_path):
    record = make_record(tmp_path, {"depth": [0.1]}, n=60)
    record.write_shard("depth", 0.1, 0, record.unit("depth", 0.1).iloc[25:].reset_index())
    (row,) = calibration(record)["units"]
    predicted = np.stack(record.unit("depth", 0.1)["logits"]).argmax(axis=1)
    assert row["before"]["accuracy"] == proportion(predicted == record.galaxies["label"].to_numpy()[25:]).to_dict()


# ---------------------------------------------------------------------- figure


def test_the_reliability_figure_draws_what_the_record_says(tmp_path):
    entries = {"depth": [0.8, 0.4, 0.1], "seeing": [0.2, 1.0]}
    records = [
        make_record(tmp_path / name, entries, name, n=160, harm=harm) for name, harm in (("none", 1.0), ("dann", 0.4))
    ]
    fig = figures.get("reliability").figure(records)
    titles = [ax.get_title(loc="left") for ax in fig.axes if ax.get_title(loc="left")]
    assert titles == ["clean", "depth, 0.1", "seeing, 1 arcsec"]
    for k, record in enumerate(records):
        said = calibration(record)
        rows = [said["clean"], *(r for r in said["units"] if r["severity"] == 5)]
        for title, row in zip(titles, rows, strict=True):
            (ax,) = [a for a in fig.axes if a.get_title(loc="left") == title]
            below = fig.axes[fig.axes.index(ax) + 3]
            (line,) = [of for of in ax.lines if of.get_gid() == f"reliability {k}"]
            bins = row["before"]["reliability"]
            drawn_bins = [b for b in bins if b["accuracy"]["n"] >= 5]
            assert list(line.get_xdata()) == [b["confidence"] for b in drawn_bins]
            assert list(line.get_ydata()) == [b["accuracy"]["value"] for b in drawn_bins]
            (steps,) = [of for of in below.patches if of.get_gid() == f"counts {k}"]
            counts = steps.get_data().values
            assert counts[counts > 0].tolist() == [b["accuracy"]["n"] for b in bins]
            ece = row["before"]["ece"]
            assert f"ECE {ece['value']:.3f}, by chance < {ece['high']:.3f}, n = 160" in [t.get_text() for t in ax.texts]
    words = figures.get("reliability").caption(records)
    assert "Wilson" in words
    assert "left out" not in words


def test_of_many_perturbations_the_worst_calibrated_are_drawn(tmp_path):
    record = make_record(tmp_path, {n: ENTRIES[n]["ladder"] for n in ("depth", "seeing", "jpeg", "pgd", "onepixel")})
    run = record.run
    extra = [p | {"name": f"{p['name']}:again"} for p in run["perturbations"][:2]]
    record.write_run(run | {"perturbations": run["perturbations"] + extra})
    mild = record.galaxies.reset_index()[["id", "logits", "latent"]]
    for of in extra:
        for rung in of["rungs"]:
            record.write_shard(of["name"], rung["strength"], 0, mild)
    module = figures.get("reliability")
    titles = [ax.get_title(loc="left") for ax in module.figure([record]).axes if ax.get_title(loc="left")]
    assert len(titles) == 6
    assert not any("again" in title for title in titles)  # these change nothing
    assert "2 more perturbations" in module.caption([record])
