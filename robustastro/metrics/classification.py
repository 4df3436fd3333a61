"""Precision, recall, F1, Brier score and area under the ROC curve, of one training or of several, with intervals.

Arrays of one model are (n, K), of k trainings (k, n, K): the same galaxies in all. Accuracy over trainings is
`significance.over_seeds`, calibration is `calibration`, completeness and purity under perturbations is `science`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from perturbations.errors import InputError
from robustastro.metrics.arms import order_of
from robustastro.metrics.calibration import brier
from robustastro.metrics.intervals import CONFIDENCE, NOTHING, Estimate, fraction, proportion
from robustastro.metrics.open_set import auroc, share_below
from robustastro.metrics.paired import stacked
from robustastro.metrics.probabilities import softmax
from robustastro.metrics.significance import over_seeds
from robustastro.record import Record

SCORES = ("precision", "recall", "f1", "auc")
ROUNDING = 1e-24  # a variance below this is none


def classification(
    logits: np.ndarray, labels: np.ndarray, classes: Sequence[str], positive: int = 1, confidence: float = CONFIDENCE
) -> dict[str, Any]:
    """All scores of the trainings of one method, for JSON: a score is the mean over trainings, with its interval.

    - precision: of the galaxies called a class, those that are; 0 of a class that nobody is called, as in
      scikit-learn, so that a training that collapsed is not left out.
    - recall: of the galaxies of a class, those called so (completeness).
    - F1: harmonic mean of the two, 2 TP / (2 TP + FP + FN).
    - AUC: area under the ROC curve of the log odds of a class against all others.
    - Brier score: of two classes the mean of (probability of the positive class - outcome)^2, 0 to 1; of more the sum
      over classes, 0 to 2 (Brier 1950). Of two classes the sum, which `calibration` gives, is twice the first.

    Intervals hold the chance of training and of galaxies, as those of `significance.over_seeds` do, which gives those
    of accuracy, recall and the Brier score. For what is no mean of galaxies see `jackknifed`. Of one training, whose
    own chance is left out, precision has the interval of Wilson and the AUC that of DeLong (`open_set.auroc`).

    Parameters
    ----------
    logits : (n, K) or (k, n, K).
    labels : (n,) int; galaxies with a negative (unknown) label are left out.
    classes : names of the K classes.
    positive : of two classes the one whose scores are wanted; of more all classes count the same.

    Returns
    -------
    `n`, `trainings`, `positive` (its name, or None); `accuracy`, `brier`; `precision`, `recall`, `f1`, `auc`: of two
    classes those of the positive one, of more the mean over classes; `macro`: always the mean over classes, without
    those without galaxies; `per_class`: by name, `n` and the four scores. Each score {"value", "low", "high", "n"}.

    Raises
    ------
    InputError : not one logit per class, not one label per galaxy, or logits that are not finite.
    """
    logits, labels = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    logits = logits[None] if logits.ndim == 2 else logits
    wanted = (len(labels), len(classes))
    if logits.ndim != 3 or logits.shape[1:] != wanted or not 0 <= positive < len(classes):
        raise InputError(
            f"logits of shape {logits.shape} and positive class {positive}", f"(k, {wanted[0]}, {wanted[1]})",
            "give one logit for each class of each labelled galaxy",
        )  # fmt: skip
    logits, labels = logits[:, labels >= 0], labels[labels >= 0]
    if lost := int((~np.isfinite(logits).all(axis=(0, 2))).sum()):
        raise InputError(f"logits of {lost} galaxies are not finite", "numbers", "mend the model, or leave it out")
    called, two = logits.argmax(axis=2), len(classes) == 2
    squares = np.array([brier(softmax(one), labels) for one in logits]) / (2 if two else 1)
    parts = [_of_class(logits, called, labels, k) for k in range(len(classes))]
    there = [k for k in range(len(classes)) if (labels == k).any()]
    per_class, macro = [], {}
    for k, found in enumerate(parts):
        per_class.append({name: _estimate(name, found[name], called, labels, logits, k, confidence) for name in SCORES})
    for name in SCORES:
        every = [parts[k][name] for k in there]
        macro[name] = NOTHING
        if every:
            values, left_out = (np.mean(arrays, axis=0) for arrays in list(zip(*every, strict=True))[:2])
            macro[name] = jackknifed(values, left_out, min(one[2] for one in every), confidence)
    headline = per_class[positive] if two else macro
    return {
        "n": len(labels),
        "trainings": len(logits),
        "positive": classes[positive] if two else None,
        "accuracy": over_seeds(called == labels, confidence).to_dict(),
        "brier": over_seeds(squares, confidence).to_dict(),
        **{name: headline[name].to_dict() for name in SCORES},
        "macro": {name: found.to_dict() for name, found in macro.items()},
        "per_class": {
            str(name): {"n": int((labels == k).sum())} | {s: e.to_dict() for s, e in per_class[k].items()}
            for k, name in enumerate(classes)
        },
    }


def classification_of(records: Sequence[Record], positive: int = 1, confidence: float = CONFIDENCE) -> dict[str, Any]:
    """`classification` of the clean logits of runs: the trainings of one method on the same galaxies.

    Raises
    ------
    InputError : no run, other classes or galaxies, and what `classification` refuses.
    """
    logits, labels = clean_logits(records)
    return classification(logits, labels, records[0].classes, positive, confidence)


def clean_logits(records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray]:
    """Clean logits (k, n, K) and labels (n,), negative where unknown, of runs on the same galaxies.

    Raises
    ------
    InputError : no run, or other classes, galaxies or labels in one of them.
    """
    if not records:
        raise InputError("no run", "one or more", "name the trainings of one method")
    first, logits = records[0], []
    ids, labels = first.galaxies.index, _labels(first)
    for record in records:
        same = record.classes == first.classes and set(record.galaxies.index) == set(ids)
        at = order_of(record.galaxies.index.to_numpy(), ids.to_numpy()) if same else np.zeros(0, dtype=np.int64)
        if not same or not np.array_equal(_labels(record)[at], labels):
            raise InputError(
                f"{record.path} and {first.path}: other classes, galaxies or labels", "runs on the same galaxies",
                "give the trainings of one method, evaluated on the same data",
            )  # fmt: skip
        logits.append(stacked(record.galaxies["logits"])[at])
    return np.array(logits, dtype=np.float64), labels


def log_odds(logits: np.ndarray) -> np.ndarray:
    """log p / (1 - p) of each class, like logits (..., K): ranks as p does, also where p rounds to 1."""
    logits = np.asarray(logits, dtype=np.float64)
    others = np.empty_like(logits)
    for k in range(logits.shape[-1]):
        others[..., k] = np.logaddexp.reduce(np.delete(logits, k, axis=-1), axis=-1)
    return logits - others


def roc_curve(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates, both (m,), from (0, 0) to (1, 1), at every threshold; equal scores are one step.

    Parameters
    ----------
    scores : (n,), higher for the positive class.
    positive : (n,) bool. NaN rates where one kind is missing.
    """
    scores, positive = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1) if len(order) else np.zeros(0, dtype=int)
    hits = positive[order] + 0.0
    with np.errstate(invalid="ignore"):
        true, false = (np.append(0.0, np.cumsum(those)[last]) / those.sum() for those in (hits, 1.0 - hits))
    return false, true


def auc_over_seeds(scores: np.ndarray, positive: np.ndarray, confidence: float = CONFIDENCE) -> Estimate:
    """Mean area under the ROC curve of k trainings; of one `open_set.auroc`, of more `jackknifed`.

    Parameters
    ----------
    scores : (k, n) or (n,), higher for the positive class: such as the entropy, for galaxies of unknown classes.
    positive : (n,) bool.

    Raises
    ------
    InputError : a score that is not finite.
    """
    scores, positive = np.atleast_2d(np.asarray(scores, dtype=np.float64)), np.asarray(positive, dtype=bool)
    if not np.isfinite(scores).all():
        raise InputError(
            f"scores of {int((~np.isfinite(scores).all(axis=0)).sum())} galaxies are not finite", "numbers",
            "mend the model, or leave it out",
        )  # fmt: skip
    if len(scores) == 1:
        return auroc(scores[0], positive, confidence)
    return jackknifed(*_areas(scores, positive), int(min(positive.sum(), (~positive).sum())), confidence)


def jackknifed(values: np.ndarray, left_out: np.ndarray, least: int, confidence: float = CONFIDENCE) -> Estimate:
    """Mean over trainings of a score in [0, 1] that is no mean of galaxies, with the chance of training and galaxies.

    The variance is (variance of the trainings' values) / k + the jackknife's variance over galaxies of their mean
    (Efron & Stein 1981, Annals of Statistics 9, 586), combined as in `significance.over_seeds`, of which it is the same
    for a mean; on the logit scale, so that it keeps within [0, 1]. The galaxies' t has `least` - 1 degrees of freedom:
    the score hangs on the smaller group. Where no galaxy changes the score, as where all are right, it is at least what
    `fraction` leaves open of `least` galaxies that are all alike. No interval where the score does not exist without
    one of the galaxies.

    Simulated with 25 to 75 galaxies of a class among 100 to 1,000, a 95% interval of the AUC covers 93% with one
    training, and 91% (trainings that scatter widely) to 98% with several; of F1 and precision 96% and more.

    Parameters
    ----------
    values : (k,) of each training.
    left_out : (k, n) the same without galaxy i.
    least : galaxies of the smallest group that the score stands on.
    """
    from scipy.special import expit, logit, stdtrit

    k, n = left_out.shape
    centre = float(values.mean())
    if not math.isfinite(centre):
        return NOTHING
    apart = left_out.mean(axis=0)
    if n < 2 or not np.isfinite(apart).all():
        return Estimate(centre, math.nan, math.nan, n)
    chances = [((n - 1) / n * float(np.sum((apart - apart.mean()) ** 2)), max(least - 1, 1))]
    if k > 1:
        chances.append((float(values.var(ddof=1)) / k, k - 1))
    total, low, high = sum(v for v, _ in chances), centre, centre
    if chances[0][0] <= ROUNDING:
        alike = fraction(np.full(max(least, 1), min(max(centre, 0.0), 1.0)), confidence)
        low, high = alike.low, alike.high
    if total > ROUNDING and 0 < centre < 1:
        half = sum(v * float(stdtrit(df, 0.5 + confidence / 2)) for v, df in chances) / math.sqrt(total)
        half /= centre * (1 - centre)
        low, high = min(low, float(expit(logit(centre) - half))), max(high, float(expit(logit(centre) + half)))
    return Estimate(centre, low, high, n)


# ---------------------------------------------------------------------- parts

Part = tuple[np.ndarray, np.ndarray, int]  # values (k,), the same without each galaxy (k, n), galaxies it stands on


def _of_class(logits: np.ndarray, called: np.ndarray, labels: np.ndarray, k: int) -> dict[str, Part]:
    """The four scores of a class against all others."""
    so, own = called == k, (labels == k)[None].repeat(len(called), axis=0)
    hits, calls, there = so & own, so.sum(axis=1), own.sum(axis=1)
    right = hits.sum(axis=1)
    # counts without galaxy i: those of all, less its own
    without = [count[:, None] - of for count, of in ((right, hits), (calls, so), (there, own))]
    fewest = min(int(there[0]), own.shape[1] - int(there[0]))
    return {
        "precision": (_ratio(right, calls), _ratio(without[0], without[1]), int(calls.mean())),
        "recall": (_share(right, there), _share(without[0], without[2]), int(there[0])),
        "f1": (_f1(right, calls, there), _f1(*without), int(there[0])),
        "auc": (*_areas(log_odds(logits)[..., k], labels == k), fewest),
    }


def _areas(scores: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Areas under the ROC curves (k,) and those without each galaxy (k, n) of scores (k, n)."""
    values, left_out = [], np.full(scores.shape, math.nan)
    n, m = int(own.sum()), int((~own).sum())
    for one, out in zip(scores, left_out, strict=True):
        if not (n and m):
            values.append(math.nan)
            continue
        above, below = share_below(one[own], one[~own]), 1 - share_below(one[~own], one[own])
        values.append(float(above.mean()))
        if min(n, m) > 1:  # the area is the mean of either: leave one of its terms out
            out[own] = (above.sum() - above) / (n - 1)
            out[~own] = (below.sum() - below) / (m - 1)
    return np.array(values), left_out


def _estimate(
    name: str, part: Part, called: np.ndarray, labels: np.ndarray, logits: np.ndarray, k: int, confidence: float
) -> Estimate:
    """A score of one class: by what is exact where there is such a thing."""
    if name == "recall":
        return over_seeds((called == k)[:, labels == k], confidence)
    if not (labels == k).any():
        return NOTHING
    if len(called) == 1 and name == "precision" and part[2]:
        return proportion(labels[called[0] == k] == k, confidence)
    if name == "auc":
        return auc_over_seeds(log_odds(logits)[..., k], labels == k, confidence)
    return jackknifed(*part, confidence)


def _ratio(some: np.ndarray, of: np.ndarray) -> np.ndarray:
    return np.divide(some, of, out=np.zeros(some.shape), where=of > 0)


def _share(some: np.ndarray, of: np.ndarray) -> np.ndarray:
    return np.divide(some, of, out=np.full(some.shape, math.nan), where=of > 0)


def _f1(right: np.ndarray, calls: np.ndarray, there: np.ndarray) -> np.ndarray:
    return np.where(there > 0, _share(2 * right, calls + there), math.nan)


def _labels(record: Record) -> np.ndarray:
    return record.galaxies["label"].fillna(-1).to_numpy(dtype=np.int64)
