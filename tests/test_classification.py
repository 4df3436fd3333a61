"""Precision, recall, F1, Brier score and ROC: the values of scikit-learn, and intervals that cover what they say."""

import warnings

import numpy as np
import pytest
import scipy.stats
from sklearn import metrics as sk
from synthetic_records import CLASSES, make_record

from perturbations.errors import InputError
from robustastro.metrics.classification import (
    classification,
    classification_of,
    clean_logits,
    jackknifed,
    log_odds,
    roc_curve,
)
from robustastro.metrics.intervals import proportion
from robustastro.metrics.open_set import auroc
from robustastro.metrics.probabilities import softmax
from robustastro.metrics.significance import over_seeds


def sample(k: int, n: int, classes: int, seed: int = 0, skill: float = 1.2) -> tuple[np.ndarray, np.ndarray]:
    """Logits (k, n, K) that know something of labels (n,), classes of different sizes."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, n, p=np.arange(1, classes + 1) / (classes * (classes + 1) / 2))
    logits = rng.normal(0.0, 1.0, (k, n, classes)) + rng.normal(0.0, 0.5, (n, classes))
    logits += skill * np.eye(classes)[labels]
    return logits, labels


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_values_are_those_of_scikit_learn(classes):
    logits, labels = sample(1, 400, classes)
    p, called = softmax(logits[0]), logits[0].argmax(1)
    found = classification(logits[0], labels, [f"c{k}" for k in range(classes)])
    assert (found["n"], found["trainings"]) == (400, 1)
    precision, recall, f1, support = sk.precision_recall_fscore_support(labels, called, zero_division=0.0)
    areas = [sk.roc_auc_score(labels == k, p[:, k]) for k in range(classes)]
    for k in range(classes):
        own = found["per_class"][f"c{k}"]
        values = [own[name]["value"] for name in ("precision", "recall", "f1", "auc")]
        assert values == pytest.approx([precision[k], recall[k], f1[k], areas[k]])
        assert own["n"] == support[k]
    for name, value in (("precision", precision), ("recall", recall), ("f1", f1), ("auc", areas)):
        assert found["macro"][name]["value"] == pytest.approx(np.mean(value))
        assert found[name]["value"] == pytest.approx(value[1] if classes == 2 else np.mean(value))
    assert found["accuracy"]["value"] == pytest.approx(sk.accuracy_score(labels, called))
    if classes == 2:
        assert found["positive"] == "c1"
        assert found["brier"]["value"] == pytest.approx(sk.brier_score_loss(labels, p[:, 1]))
    else:
        assert found["positive"] is None
        assert found["brier"]["value"] == pytest.approx(((p - np.eye(classes)[labels]) ** 2).sum(1).mean())
        assert found["auc"]["value"] == pytest.approx(sk.roc_auc_score(labels, p, multi_class="ovr"))


def test_the_positive_class_can_be_the_first():
    logits, labels = sample(3, 200, 2)
    first = classification(logits, labels, ["merger", "other"], positive=0)
    turned = classification(logits[..., ::-1], 1 - labels, ["other", "merger"], positive=1)
    assert first["positive"] == turned["positive"] == "merger"
    for name in ("precision", "recall", "f1", "auc", "brier"):
        assert first[name] == pytest.approx(turned[name])


def test_several_trainings_are_averaged():
    logits, labels = sample(4, 150, 3)
    found = classification(logits, labels, CLASSES)
    single = [classification(one, labels, CLASSES) for one in logits]
    for name in ("accuracy", "brier", "precision", "recall", "f1", "auc"):
        assert found[name]["value"] == pytest.approx(np.mean([one[name]["value"] for one in single]))
        assert found[name]["low"] < found[name]["value"] < found[name]["high"]


def test_exact_intervals_are_kept_where_there_are_such():
    logits, labels = sample(1, 120, 2)
    found, called = classification(logits, labels, ["a", "b"]), logits[0].argmax(1)
    assert found["accuracy"] == proportion(called == labels).to_dict()
    assert found["precision"] == proportion(labels[called == 1] == 1).to_dict()
    assert found["recall"] == proportion(called[labels == 1] == 1).to_dict()
    assert found["auc"] == auroc(logits[0, :, 1] - logits[0, :, 0], labels == 1).to_dict()
    logits, labels = sample(3, 120, 2)
    found = classification(logits, labels, ["a", "b"])
    assert found["recall"] == over_seeds((logits.argmax(2) == 1)[:, labels == 1]).to_dict()
    assert found["accuracy"] == over_seeds(logits.argmax(2) == labels).to_dict()


def by_leaving_out(score, logits, labels):
    """The values and those without each galaxy, one by one."""
    n = logits.shape[1]
    values = np.array([score(one, labels) for one in logits])
    left = [[score(np.delete(one, i, 0), np.delete(labels, i)) for i in range(n)] for one in logits]
    return values, np.array(left)


SCORES = {
    "precision": lambda z, y: sk.precision_score(y, z.argmax(1), average="macro", zero_division=0.0),
    "f1": lambda z, y: sk.f1_score(y, z.argmax(1), average="macro", zero_division=0.0),
    "auc": lambda z, y: sk.roc_auc_score(y, softmax(z), multi_class="ovr"),
}


@pytest.mark.parametrize("name", SCORES)
def test_the_jackknife_leaves_out_one_galaxy_after_the_other(name):
    logits, labels = sample(2, 45, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values, left_out = by_leaving_out(SCORES[name], logits, labels)
    counts, called = np.bincount(labels), logits.argmax(2)
    least = {
        "precision": min(int((called == k).sum(1).mean()) for k in range(3)),
        "f1": counts.min(),
        "auc": min(counts.min(), 45 - counts.max()),
    }[name]
    assert classification(logits, labels, CLASSES)["macro"][name] == jackknifed(values, left_out, least).to_dict() | {
        "value": pytest.approx(values.mean()), "low": pytest.approx(jackknifed(values, left_out, least).low),
        "high": pytest.approx(jackknifed(values, left_out, least).high),
    }  # fmt: skip


def test_of_a_mean_the_jackknife_is_over_seeds():
    """The same on the logit scale: there is no other difference."""
    rng = np.random.default_rng(0)
    right = rng.random((5, 300)) < 0.8 + 0.05 * rng.normal(size=(5, 1))
    n = right.shape[1]
    left_out = (right.sum(1, keepdims=True) - right) / (n - 1)
    found, house = jackknifed(right.mean(1), left_out, n), over_seeds(right)
    assert found.value == pytest.approx(house.value)
    slope = found.value * (1 - found.value)
    logit = scipy.special.logit
    assert (logit(found.high) - logit(found.value)) * slope == pytest.approx(house.high - house.value)
    assert (logit(found.value) - logit(found.low)) * slope == pytest.approx(house.value - house.low)


def test_the_jackknife_of_one_auc_is_delong():
    logits, labels = sample(1, 300, 2)
    odds, own = log_odds(logits[0])[:, 1], labels == 1
    n, m = own.sum(), (~own).sum()
    above = np.array([(s > odds[~own]).mean() for s in odds[own]])
    below = np.array([(s < odds[own]).mean() for s in odds[~own]])
    delong = np.sqrt(above.var(ddof=1) / n + below.var(ddof=1) / m)
    left_out = np.zeros((1, 300))
    left_out[0, own] = (above.sum() - above) / (n - 1)
    left_out[0, ~own] = (below.sum() - below) / (m - 1)
    area = above.mean()
    found = jackknifed(np.array([area]), left_out, int(min(n, m)))
    half = scipy.special.logit(found.high) - scipy.special.logit(area)
    t = scipy.stats.t.ppf(0.975, min(n, m) - 1)
    assert half * area * (1 - area) / t == pytest.approx(delong, rel=0.01)


@pytest.mark.parametrize(("k", "scatter"), [(1, 0.0), (5, 0.4)])
def test_intervals_cover_what_they_say(k, scatter):
    """F1 and AUC of many samples of trainings and galaxies against those of a very large one."""
    rng = np.random.default_rng(1)

    def drawn(k, n):
        labels = np.arange(n) % 4 == 0  # one in four is a merger
        skill = 1.5 + scatter * rng.normal(size=(k, 1))
        own = rng.normal(size=(1, n)) * 0.7
        odds = skill * (labels - 0.4) * 1.5 + own + rng.normal(size=(k, n)) * 0.7
        return np.stack([np.zeros((k, n)), odds], axis=2), labels.astype(int)

    truth = {"f1": [], "auc": [], "precision": []}
    for _ in range(60 if k > 1 else 1):
        large = classification(*drawn(1, 40_000), ["a", "b"])
        for name, values in truth.items():
            values.append(large[name]["value"])
    inside = dict.fromkeys(truth, 0)
    for _ in range(200):
        found = classification(*drawn(k, 160), ["a", "b"])
        for name, values in truth.items():
            inside[name] += found[name]["low"] <= np.mean(values) <= found[name]["high"]
    for covered in inside.values():
        assert 0.9 * 200 <= covered <= 200


def test_a_training_that_calls_everything_one_class_counts():
    logits, labels = sample(2, 80, 2)
    logits[1] = [5.0, 0.0]
    found = classification(logits, labels, ["a", "b"])
    alone = classification(logits[0], labels, ["a", "b"])
    for name in ("precision", "recall", "f1"):
        assert found[name]["value"] == pytest.approx(alone[name]["value"] / 2)
        assert found[name]["high"] - found[name]["low"] > 0.5
    assert found["auc"]["value"] == pytest.approx((alone["auc"]["value"] + 0.5) / 2)


def test_where_all_are_right_the_interval_still_has_a_width():
    labels = np.arange(60) % 3
    for k in (1, 3):
        found = classification(np.tile(9.0 * np.eye(3)[labels], (k, 1, 1)), labels, CLASSES)
        for name in ("accuracy", "precision", "recall", "f1", "auc"):
            assert found[name]["value"] == found[name]["high"] == 1.0
            assert 0.7 < found[name]["low"] < 0.99
        assert found["f1"]["low"] == pytest.approx(20 / (20 + scipy.stats.norm.ppf(0.975) ** 2))  # of 20 of a class


def test_classes_without_galaxies_and_galaxies_without_class_are_left_out():
    logits, labels = sample(2, 90, 3)
    labels[labels == 1] = 2
    found = classification(logits, labels, CLASSES)
    assert found["per_class"]["elliptical"]["f1"]["value"] is None
    kept = [found["per_class"][name]["f1"]["value"] for name in ("spiral", "merger")]
    assert found["macro"]["f1"]["value"] == pytest.approx(np.mean(kept))
    more = np.concatenate([logits, np.zeros((2, 5, 3))], axis=1)
    assert classification(more, np.append(labels, [-1] * 5), CLASSES) == found
    empty = classification(np.zeros((1, 0, 3)), np.zeros(0, dtype=int), CLASSES)
    assert (empty["n"], empty["f1"]["value"]) == (0, None)
    lone = classification(logits[:, :10], np.array([0] * 9 + [2]), CLASSES)
    assert lone["per_class"]["merger"]["f1"]["low"] is None  # gone without its only galaxy


def test_a_sure_model_keeps_its_order():
    """Probabilities that round to 1 would tie."""
    odds = np.array([40.0, 50.0, 60.0, -40.0])
    logits, labels = np.stack([np.zeros(4), odds], axis=1), np.array([0, 1, 1, 0])
    assert classification(logits, labels, ["a", "b"])["auc"]["value"] == 1.0
    assert log_odds(logits)[:, 1].tolist() == odds.tolist()
    p = softmax(np.random.default_rng(0).normal(size=(5, 4)))
    assert log_odds(np.log(p)) == pytest.approx(np.log(p / (1 - p)))


def test_roc_curves_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    scores, positive = np.round(rng.normal(size=80), 1), rng.random(80) < 0.4  # with ties
    x, y = roc_curve(scores, positive)
    wanted = sk.roc_curve(positive, scores, drop_intermediate=False)
    assert x == pytest.approx(wanted[0])
    assert y == pytest.approx(wanted[1])
    assert np.trapezoid(y, x) == pytest.approx(auroc(scores, positive).value)


@pytest.mark.parametrize(
    ("logits", "labels", "match"),
    [
        (np.zeros((4, 3)), np.zeros(4, dtype=int), r"shape \(1, 4, 3\)"),
        (np.zeros((4, 2)), np.zeros(3, dtype=int), r"\(k, 3, 2\)"),
        (np.full((4, 2), np.nan), np.zeros(4, dtype=int), "4 galaxies are not finite"),
    ],
)
def test_what_cannot_be_scored_is_refused(logits, labels, match):
    with pytest.raises(InputError, match=match):
        classification(logits, labels, ["a", "b"])


def test_runs_of_one_method(tmp_path):
    records = [make_record(tmp_path / f"{s}", {"depth": [0.1]}, training_seed=s) for s in range(3)]
    found = classification_of(records)
    logits = np.array([np.stack(r.galaxies["logits"]) for r in records])
    assert found == classification(logits, records[0].galaxies["label"].to_numpy(), CLASSES)
    table = records[1].galaxies.reset_index()
    records[1].write_galaxies(table.iloc[::-1])
    assert classification_of(records) == found
    records[2].write_galaxies(table.iloc[:-1])
    with pytest.raises(InputError, match="other classes, galaxies or labels"):
        clean_logits(records)
    with pytest.raises(InputError, match="no run"):
        classification_of([])
