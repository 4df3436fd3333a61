"""Numbers of a study of a labelled source and an unlabelled target: accuracy in both, unknown classes, robustness.

Over galaxies and training seeds at once (`metrics.significance`); collapsed trainings count.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from robustastro.adapt import method as find_method
from robustastro.metrics.classification import auc_over_seeds, classification_of
from robustastro.metrics.intervals import Estimate, fraction
from robustastro.metrics.open_set import auroc, called_unknown, entropy, h_score
from robustastro.metrics.paired import pair, stacked
from robustastro.metrics.probabilities import probabilities
from robustastro.metrics.significance import Difference, difference, holm, over_seeds
from robustastro.record import Record, Unit, jsonable
from robustastro.reproduce import measures
from robustastro.reproduce.measures import ATTACK, Arm, apart, loss, nan, rate
from robustastro.reproduce.study import Cell, Folder
from robustastro.reproduce.two_domains import DOMAINS, ROBUST, Variant

ACTIVE = ("clustering_active", "alike", "entropy_active")  # in the history of a `uda` training
UNEVEN = 2.0  # the largest class over the smallest, from which on accuracies are means over the classes


def arms_of(folder: Folder, cells: Sequence[Cell], variants: Mapping[str, Variant]) -> list[Arm]:
    """The finished cells, sorted into arms in the order of the variants."""
    order = list(variants)
    inside = sorted(cells, key=lambda cell: (order.index(cell.method), cell.seed))
    archs = list(dict.fromkeys(cell.arch for cell in cells))
    inside = sorted(inside, key=lambda cell: archs.index(cell.arch))
    return measures.arms_of(folder, inside, DOMAINS, (ROBUST,))


def baseline(arms: Iterable[Arm], variants: Mapping[str, Variant], arm: Arm) -> Arm | None:
    """The arm of `none` on the same test bed and architecture, or None."""
    wanted = Variant(variants[arm.method].bed, "none", {}).label
    return next((a for a in arms if (a.arch, a.method) == (arm.arch, wanted)), None)


def accuracies(arms: Sequence[Arm], variants: Mapping[str, Variant]) -> list[dict[str, Any]]:
    """For each arm its accuracy in both domains and the differences from `none` of its bed.

    `source` and `target` : of the test galaxies of the source's classes, the mean over the classes where these are very
    uneven (`balanced`). `gain_source`, `gain_target` : arm minus `none` (`significance.difference`), null for `none`;
    `p_corrected` of `gain_target` is Holm's over the arms of an architecture and bed.
    """
    rows = []
    for arm in arms:
        none, variant = baseline(arms, variants, arm), variants[arm.method]
        about = find_method(arm.trainings[0]["recipe"]["method"])
        balance = {name: uneven(arm.records[0][name]) for name in DOMAINS}
        row: dict[str, Any] = {
            "arch": arm.arch, "bed": variant.bed, "method": variant.name, "label": arm.method,
            "seeds": [cell.seed for cell in arm.cells],
            "collapsed": [c.seed for c, bad in zip(arm.cells, arm.collapsed, strict=True) if bad],
            "control": about.control and not arm.trainings[0]["recipe"]["entropy"],
            "tuned": about.tuned, "target_labels": about.target_labels,
            "balanced": balance,
            "apart_by_seed": [apart(training) for training in arm.trainings],
            "active_by_seed": [_active(training) for training in arm.trainings],
            "started_from": variant.start,
        }  # fmt: skip
        for name in DOMAINS:
            right, labels = correct(arm, name)
            row[name] = accuracy_of(right, labels, balance[name]).to_dict()
            row[f"{name}_by_seed"] = [accuracy_of(one[None], labels, balance[name]).value for one in right]
            row[f"gain_{name}"] = None
            if none is not None and none is not arm:
                row[f"gain_{name}"] = gain_of(right, correct(none, name)[0], labels, balance[name]).to_dict()
        rows.append(row)
    for key in dict.fromkeys((row["arch"], row["bed"]) for row in rows):
        gains = [r["gain_target"] for r in rows if (r["arch"], r["bed"]) == key and r["gain_target"] is not None]
        for gain, p in zip(gains, holm(np.array([nan(g["p"]) for g in gains])), strict=True):
            gain["p_corrected"] = p
    return jsonable(rows)


def correct(arm: Arm, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Right on the known galaxies of a record, (k, n) bool, and their labels (n,)."""
    labels = in_order(arm.records[0][name])["label"].to_numpy()
    return arm.correct(name)[:, labels >= 0], labels[labels >= 0]


def accuracy_of(right: np.ndarray, labels: np.ndarray, over_classes: bool) -> Estimate:
    """Accuracy over trainings and galaxies of right (k, n) bool; or the mean of the accuracies of the classes.

    The latter is never narrower than what the classes' own galaxies leave open (`balanced` of `fraction`s).
    """
    if not over_classes:
        return over_seeds(right)
    found, each = over_seeds(stratified(right, labels)), right.mean(axis=0)
    alone = [fraction(each[labels == k]) for k in np.unique(labels)]
    below, above = (math.hypot(*(getattr(e, end) - e.value for e in alone)) / len(alone) for end in ("low", "high"))
    low, high = min(found.low, found.value - below), max(found.high, found.value + above)
    return Estimate(found.value, max(0.0, low), min(1.0, high), found.n)


def gain_of(first: np.ndarray, second: np.ndarray, labels: np.ndarray, over_classes: bool) -> Difference:
    """First minus second, (k, n) bool each, as `accuracy_of`; never narrower than the difference of plain shares."""
    plain = difference(first, second)
    if not over_classes:
        return plain
    found = difference(stratified(first, labels), stratified(second, labels))
    value, wide = found.estimate, plain.estimate
    low = min(value.low, value.value - (wide.value - wide.low))
    high = max(value.high, value.value + (wide.high - wide.value))
    return replace(found, estimate=Estimate(value.value, max(-1.0, low), min(1.0, high), value.n))


def stratified(right: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Values (k, n) whose mean over galaxies is the mean of the classes' accuracies, of each training.

    Their scatter over galaxies is that within the classes alone (Cochran 1977, Sampling Techniques, section 5.3).
    """
    classes = np.unique(labels)
    values = np.empty(right.shape)
    means = [right[:, labels == k].mean() for k in classes]
    for k, own in zip(classes, means, strict=True):
        inside = labels == k
        values[:, inside] = np.mean(means) + (right[:, inside] - own) * (len(labels) / (len(classes) * inside.sum()))
    return values


def uneven(record: Record) -> bool:
    """Whether one known class has many more galaxies than another."""
    labels = record.galaxies["label"].to_numpy()
    counts = np.bincount(labels[labels >= 0])
    counts = counts[counts > 0]
    return bool(counts.max() > UNEVEN * counts.min())


def in_order(record: Record) -> Any:
    """The galaxies of a record by id, as `Arm.correct` has them."""
    return record.galaxies.sort_index()


def predicted(arm: Arm, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (k, n, K) of the trainings and labels (n,), negative for unknown classes; in that order."""
    tables = [in_order(records[name]) for records in arm.records]
    p = [probabilities(r[name], stacked(t["logits"])) for r, t in zip(arm.records, tables, strict=True)]
    return np.stack(p), tables[0]["label"].to_numpy()


def scores(arms: Sequence[Arm], variants: Mapping[str, Variant]) -> list[dict[str, Any]]:
    """For each arm and domain precision, recall, F1, Brier score and AUC of the last class, over its trainings."""
    rows = []
    for arm in arms:
        for name in DOMAINS:
            records = [r[name] for r in arm.records]
            found = classification_of(records, positive=len(records[0].classes) - 1)
            wanted = ("n", "positive", "precision", "recall", "f1", "brier", "auc")
            rows.append(
                {
                    "label": arm.method, "arch": arm.arch, "bed": variants[arm.method].bed,
                    "method": variants[arm.method].name, "domain": name, **{key: found[key] for key in wanted},
                }
            )  # fmt: skip
    return jsonable(rows)


def open_set(arms: Sequence[Arm], variants: Mapping[str, Variant]) -> list[dict[str, Any]]:
    """For each arm with galaxies of unknown classes: how well the entropy tells these from the known ones.

    `known_accuracy` : right and not called unknown; `unknown_accuracy` : called unknown, entropy above log(K) / 2;
    `h_score` of the two; `auroc` over galaxies and trainings (`auc_over_seeds`); `auroc_by_seed`.
    """
    rows = []
    for arm in arms:
        found, labels = predicted(arm, "target")
        inside = labels >= 0
        if inside.all():
            continue
        known, others, labels = found[:, inside], found[:, ~inside], labels[inside]
        called = [np.array([called_unknown(each) for each in p]) for p in (known, others)]
        right = accuracy_of(
            (known.argmax(axis=2) == labels) & ~called[0], labels, uneven(arm.records[0]["target"])
        )  # fmt: skip
        rejected = over_seeds(called[1])
        unsure = np.array([entropy(each) for each in found])
        rows.append(
            {
                "label": arm.method, "arch": arm.arch, "bed": variants[arm.method].bed,
                "method": variants[arm.method].name, "known": len(labels), "unknown": others.shape[1],
                "threshold": math.log(known.shape[2]) / 2, "known_accuracy": right.to_dict(),
                "unknown_accuracy": rejected.to_dict(), "h_score": h_score(right, rejected).to_dict(),
                "auroc": auc_over_seeds(unsure, ~inside).to_dict(),
                "auroc_by_seed": [auroc(each, ~inside).value for each in unsure],
            }
        )  # fmt: skip
    return jsonable(rows)


def robustness(arms: Sequence[Arm], variants: Mapping[str, Variant]) -> list[dict[str, Any]]:
    """For each perturbed arm what the target loses: flips by one pixel, drops in accuracy at every rung.

    Collapsed trainings count here as well: what is always wrong cannot fall, which its accuracy says beside it.
    """
    rows = []
    for arm in arms:
        records = [r[ROBUST] for r in arm.records if ROBUST in r]
        if not records:
            continue
        pixel = [p for r in records if (p := pair(r, ATTACK, distances=False)) is not None]
        row: dict[str, Any] = {
            "label": arm.method, "arch": arm.arch, "bed": variants[arm.method].bed,
            "method": variants[arm.method].name, "trainings": len(records), "attacked": len(records[0].galaxies),
            "onepixel": rate(
                np.array([p.flipped for p in pixel]), np.array([p.clean_correct for p in pixel])
            ).to_dict(),
            "clean": over_seeds(np.array([p.clean_correct for p in pixel])).to_dict(), "drops": [],
        }  # fmt: skip
        for unit in records[0].units():
            if unit.perturbation != ATTACK.perturbation:
                row["drops"].append(_drop(records, unit))
        rows.append(row)
    return jsonable(rows)


def _drop(records: Sequence[Record], unit: Unit) -> dict[str, Any]:
    pairs = [p for r in records if (p := pair(r, unit, distances=False)) is not None]
    before, after = (np.array([getattr(p, name) for p in pairs]) for name in ("clean_correct", "perturbed_correct"))
    return {**vars(unit), "drop": loss(before, after).to_dict()}


def _active(training: Mapping[str, Any]) -> dict[str, float]:
    """Shares of samples on which the losses of a training were active, in its best epoch."""
    best = next((e for e in training["history"] if e["epoch"] == training["best_epoch"]), {})
    return {name: best[name] for name in ACTIVE if name in best}
