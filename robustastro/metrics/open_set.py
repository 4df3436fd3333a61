"""Galaxies of a class that the model never saw: how well a score tells them apart from those of known classes."""

from __future__ import annotations

import math

import numpy as np

from perturbations.errors import InputError
from robustastro.metrics.intervals import CONFIDENCE, NOTHING, Estimate, fraction
from robustastro.record import Record


def auroc(scores: np.ndarray, unknown: np.ndarray, confidence: float = CONFIDENCE) -> Estimate:
    """Probability that an unknown galaxy scores higher than a known one, ties counted half: area under the ROC curve.

    Interval: the variance of DeLong, DeLong & Clarke-Pearson (1988, Biometrics 44, 837) on the logit scale, with the
    t quantile of Satterthwaite's degrees of freedom, as one group is often small. Where that variance is zero, as where
    the two groups do not overlap, it is that of `fraction` for the smaller group. A 95% interval covers at least 93% of
    the time with 50 or more of each and areas up to 0.95, about 92% with 30 of one or at 0.99 (normal scores).

    Parameters
    ----------
    scores : (N,), higher for galaxies that look unknown, such as `entropy`; those that are NaN are left out.
    unknown : (N,) bool.

    Returns
    -------
    n counts known and unknown galaxies; NaN where either kind is missing.
    """
    from scipy.special import stdtrit

    scores, unknown = np.asarray(scores, dtype=np.float64), np.asarray(unknown, dtype=bool)
    there = ~np.isnan(scores)
    outside, inside = scores[there & unknown], scores[there & ~unknown]
    n, m = len(outside), len(inside)
    if n == 0 or m == 0:
        return Estimate(math.nan, math.nan, math.nan, n + m)
    above, below = share_below(outside, inside), 1 - share_below(inside, outside)
    area = float(above.mean())
    if min(n, m) < 2:
        return Estimate(area, math.nan, math.nan, n + m)
    outer, inner = float(above.var(ddof=1)) / n, float(below.var(ddof=1)) / m
    spread = outer + inner
    if spread == 0:
        wide = fraction(above if n < m else below, confidence)
        return Estimate(area, wide.low, wide.high, n + m)
    freedom = spread**2 / (outer**2 / (n - 1) + inner**2 / (m - 1))
    times = float(stdtrit(freedom, 0.5 + confidence / 2))
    centre, half = math.log(area / (1 - area)), times * math.sqrt(spread) / (area * (1 - area))
    return Estimate(area, _expit(centre - half), _expit(centre + half), n + m)


def h_score(known_accuracy: Estimate, unknown_accuracy: Estimate) -> Estimate:
    """Harmonic mean of the accuracy on known classes and the fraction of unknown galaxies called unknown.

    The H-score of open-set adaptation (Bucci, Loghmani & Tommasi 2020, ECCV), not that of transferability. Interval:
    the limits of both, moved one at a time and added in squares (MOVER, Zou & Donner 2008, Statistics in Medicine 27,
    1693), since known and unknown galaxies are different ones. As confident as the two that go in: of two Wilson 95%
    intervals it covers at least 93% of the time with 50 or more of each.

    Parameters
    ----------
    known_accuracy : of the known classes, `proportion` or `balanced` over classes; a known galaxy that is called
        unknown is wrong.
    unknown_accuracy : `proportion` of the unknown galaxies that are called unknown.
    """
    a, b = known_accuracy, unknown_accuracy
    if not (a.n and b.n):
        return NOTHING
    value = _harmonic(a.value, b.value)
    down = math.hypot(value - _harmonic(a.low, b.value), value - _harmonic(a.value, b.low))
    up = math.hypot(_harmonic(a.high, b.value) - value, _harmonic(a.value, b.high) - value)
    # where both are 0, moving one alone moves nothing
    high = value + up if value > 0 else _harmonic(a.high, b.high)
    return Estimate(value, max(value - down, 0.0), min(high, 1.0), a.n + b.n)


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """Shannon entropy of class probabilities (N, K), float64 (N,) [nats], 0 to log K; NaN stays NaN."""
    from scipy.special import entr

    return entr(np.asarray(probabilities, dtype=np.float64)).sum(axis=1)


def called_unknown(probabilities: np.ndarray, rho: float | None = None) -> np.ndarray:
    """Galaxies whose entropy exceeds rho, (N,) bool, as DeepAstroUDA does (Ciprijanovic et al. 2023, arXiv:2302.02005).

    Parameters
    ----------
    probabilities : (N, K), K known classes. A row with NaN is called unknown: it is no known class either.
    rho : threshold [nats]; default log(K) / 2.

    Raises
    ------
    InputError : rho outside 0 to log K, where all or none would be unknown.
    """
    most = math.log(np.shape(probabilities)[1])
    rho = most / 2 if rho is None else rho
    if not 0 <= rho <= most:
        raise InputError(f"rho = {rho:g}", f"0 to log K = {most:.4g}", "the published value is log(K) / 2")
    return ~(entropy(probabilities) <= rho)


def true_classes(record: Record) -> tuple[np.ndarray, np.ndarray]:
    """The true class of each galaxy of a run, str (N,), and whether that is one the model does not know, bool (N,).

    A galaxy of a class that the model does not know has the label -1, and the name of its class in the catalogue column
    `class`. "" where there is no such name: nothing is known of that galaxy, and it is not counted as unknown.
    """
    table, known = record.galaxies, np.array(["", *record.classes])
    labels = table["label"].fillna(-1).to_numpy(dtype=np.int64)
    names = known[labels + 1].astype(object)
    if "class" in table:
        named = table["class"].fillna("").astype(str).to_numpy()
        names = np.where(labels < 0, named, names)
    return names.astype(str), (labels < 0) & ~np.isin(names.astype(str), known)


def share_below(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each of `values` (N,), the fraction of `others` that is smaller, equal ones counted half."""
    ordered = np.sort(others)
    first, last = (np.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    return (first + last) / 2 / len(others)


def _harmonic(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b > 0 else 0.0


def _expit(x: float) -> float:
    return 1 / (1 + math.exp(-x))
