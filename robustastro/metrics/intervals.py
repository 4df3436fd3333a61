"""Numbers with their uncertainty: an estimate without an interval cannot be compared with another.

Every function drops nothing in silence but values that are not finite; `n` says how many are left, and n = 0 gives NaN.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from perturbations.errors import InputError
from robustastro.record import jsonable

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A number, its confidence interval, and how many galaxies it stands on.

    NaN where there is nothing to estimate from: a value at n = 0, an interval where n is too small to give one.
    """

    value: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, float | int | None]:
        """{"value", "low", "high", "n"} for JSON, None for NaN."""
        return jsonable({"value": self.value, "low": self.low, "high": self.high, "n": self.n})


NOTHING = Estimate(math.nan, math.nan, math.nan, 0)


def proportion(hits: np.ndarray, confidence: float = CONFIDENCE) -> Estimate:
    """Fraction of True among `hits` (N,) bool, with the score interval of Wilson (1927, JASA 22, 209)."""
    n, k = len(hits), int(np.count_nonzero(hits))
    return Estimate(k / n, *_wilson(k, n, confidence), n) if n else NOTHING


def paired_drop(before: np.ndarray, after: np.ndarray, confidence: float = CONFIDENCE) -> Estimate:
    """Mean of `before` minus mean of `after`, of the same galaxies: (N,) bool, or in [0, 1], a galaxy's share of rungs.

    The interval is method 10 of Newcombe (1998, Statistics in Medicine 17, 2635): the score intervals of the two
    fractions (of shares those of `fraction`), combined with the correlation between them. It keeps its coverage where
    few galaxies change or an accuracy is near 0 or 1, where the normal (Wald) interval does not.
    """
    before, after = (np.asarray(values, dtype=np.float64) for values in (before, after))
    first, second = fraction(before, confidence), fraction(after, confidence)
    if not first.n:
        return NOTHING
    correlation = 0.0
    spread = float(np.std(before) * np.std(after))
    if spread > 0:
        covariance = float(np.mean((before - first.value) * (after - second.value)))
        # Newcombe's continuity correction pulls a positive correlation towards zero
        correlation = (max(covariance - 1 / (2 * len(before)), 0.0) if covariance > 0 else covariance) / spread
    down1, up1 = first.value - first.low, first.high - first.value
    down2, up2 = second.value - second.low, second.high - second.value
    below = math.sqrt(max(down1**2 - 2 * correlation * down1 * up2 + up2**2, 0.0))
    above = math.sqrt(max(up1**2 - 2 * correlation * up1 * down2 + down2**2, 0.0))
    difference = first.value - second.value
    return Estimate(difference, difference - below, difference + above, first.n)


def mean(values: np.ndarray, confidence: float = CONFIDENCE) -> Estimate:
    """Mean of the finite `values`, with Student's t interval; no interval below n = 2.

    It needs no random numbers, so a record always gives the same interval. On distances, which are skewed, it covers a
    little less than it says: about 93% at n = 30 for lognormal values of scatter 0.5, about 88% for scatter 1.
    """
    from scipy.special import stdtrit  # not scipy.stats, which takes half a second to import

    values = _finite(values)
    n = len(values)
    if n == 0:
        return NOTHING
    centre = float(values.mean())
    if n == 1:
        return Estimate(centre, math.nan, math.nan, 1)
    half = float(stdtrit(n - 1, 0.5 + confidence / 2)) * float(values.std(ddof=1)) / math.sqrt(n)
    return Estimate(centre, centre - half, centre + half, n)


def median(values: np.ndarray, confidence: float = CONFIDENCE) -> Estimate:
    """Median of the finite `values`, with the distribution-free interval between two order statistics.

    Ranks from the binomial distribution (Conover 1999, Practical Nonparametric Statistics, section 3.2); coverage is at
    least `confidence`, also with ties. At 95% there is no such interval below n = 6.
    """
    from scipy.special import bdtr

    values = np.sort(_finite(values))
    n = len(values)
    if n == 0:
        return NOTHING
    # largest r with P(fewer than r of n values lie below the median) <= (1 - confidence) / 2
    rank = int(np.sum(bdtr(np.arange(n), n, 0.5) <= (1 - confidence) / 2))
    low, high = (values[rank - 1], values[n - rank]) if rank else (math.nan, math.nan)
    return Estimate(float(np.median(values)), float(low), float(high), n)


def fraction(values: np.ndarray, confidence: float = CONFIDENCE) -> Estimate:
    """Mean of the finite `values` (N,), each in [0, 1]: a galaxy's share of the rungs, seeds or draws that it survived.

    Wilson's interval with the effective sample size n p (1 - p) / s^2 of Korn & Graubard (1998, Survey Methodology 24,
    193), s^2 the variance of the values; for 0 and 1 that is `proportion`. However alike the values are, the interval
    is never narrower than what Wilson's says of n galaxies of which none differs. It keeps within [0, 1].

    Raises
    ------
    InputError : a value outside [0, 1].
    """
    values = _finite(values)
    n = len(values)
    if n == 0:
        return NOTHING
    if values.min() < 0 or values.max() > 1:
        raise InputError(
            f"values span [{values.min():g}, {values.max():g}]",
            "a fraction is in [0, 1]",
            "divide counts by their total",
        )
    share, spread = float(values.mean()), float(values.var())
    z2 = NormalDist().inv_cdf(0.5 + confidence / 2) ** 2
    low, high = n * share / (n + z2), (n * share + z2) / (n + z2)  # what n equal values leave open
    if spread > 0:
        effective = n * share * (1 - share) / spread
        wilson = _wilson(effective * share, effective, confidence)
        low, high = min(low, wilson[0]), max(high, wilson[1])
    return Estimate(share, low, high, n)


def exact(values: np.ndarray, confidence: float = CONFIDENCE) -> Estimate:
    """Mean of the finite `values` (N,), each in [0, 1], as `fraction`, with an interval for decisions.

    For 0 and 1 it is the exact interval of Clopper & Pearson (1934, Biometrika 26, 404): a truth lies beyond either of
    its ends in at most (1 - confidence) / 2 of samples. Wilson's does not keep that: at n = 50 a truth
    of 0.99 lies above its upper end in 9% of samples. For shares it has the effective sample size of Korn & Graubard,
    whose own interval it is, and is never narrower than what Clopper & Pearson's says of n galaxies of which none
    differs.

    Raises
    ------
    InputError : a value outside [0, 1].
    """
    from scipy.special import betaincinv

    values = _finite(values)
    found = fraction(values, confidence)
    n, share = found.n, found.value
    if n == 0:
        return NOTHING
    tail = (1 - confidence) / 2
    alike = tail ** (1 / n)  # the lower end of n of n
    low, high, spread = share * alike, 1 - (1 - share) * alike, float(values.var())
    if spread > 1e-9:  # else rounding of equal values
        effective = n * share * (1 - share) / spread
        k = effective * share
        low = min(low, float(betaincinv(k, effective - k + 1, tail)))
        high = max(high, float(betaincinv(k + 1, effective - k, 1 - tail)))
    return Estimate(share, low, high, n)


def balanced(correct: np.ndarray, labels: np.ndarray, classes: int, confidence: float = CONFIDENCE) -> Estimate:
    """Balanced accuracy: the mean of the accuracies of the classes that have galaxies.

    The Wilson intervals of the classes, combined as squares (MOVER; Zou & Donner 2008, Statistics in Medicine 27,
    1693). With a single galaxy of a class the interval is wide, as it should be.

    Parameters
    ----------
    correct : (N,) bool.
    labels : (N,) int in 0 .. classes - 1; galaxies with another label (-1: unknown) are left out.
    classes : how many classes there are.
    """
    each = [e for e in _per_class(correct, labels, classes, confidence) if e.n]
    if not each:
        return NOTHING
    value = sum(e.value for e in each) / len(each)
    below = math.sqrt(sum((e.value - e.low) ** 2 for e in each)) / len(each)
    above = math.sqrt(sum((e.high - e.value) ** 2 for e in each)) / len(each)
    return Estimate(value, value - below, value + above, sum(e.n for e in each))


def worst_class(
    correct: np.ndarray, labels: np.ndarray, classes: int, confidence: float = CONFIDENCE
) -> tuple[Estimate, int]:
    """Smallest accuracy of a class that has galaxies, and which class that is; (NaN, -1) without any.

    Which class is worst is itself uncertain. The interval is of the smallest true accuracy, whichever class has it:
    from the smallest lower to the smallest upper limit of a class. The upper limits hold for all classes at once
    (exact, Clopper & Pearson 1934, with Bonferroni). The lower ones (Wilson) need not: that of the truly worst class is
    enough, and the smallest is not above it. The estimate itself is low on average, as any smallest of several.

    Parameters
    ----------
    correct, labels, classes : as in `balanced`. `n` of the estimate is the number of galaxies of that class.
    """
    from scipy.special import betaincinv

    each = _per_class(correct, labels, classes, confidence)
    there = [k for k, e in enumerate(each) if e.n]
    if not there:
        return NOTHING, -1
    worst = min(there, key=lambda k: each[k].value)
    tail = (1 - confidence) / 2 / len(there)
    right = {k: round(each[k].value * each[k].n) for k in there}
    high = min(float(betaincinv(m + 1, each[k].n - m, 1 - tail)) if m < each[k].n else 1.0 for k, m in right.items())
    return Estimate(each[worst].value, min(each[k].low for k in there), high, each[worst].n), worst


def _per_class(correct: np.ndarray, labels: np.ndarray, classes: int, confidence: float) -> list[Estimate]:
    correct, labels = np.asarray(correct, dtype=bool), np.asarray(labels)
    return [proportion(correct[labels == k], confidence) for k in range(classes)]


def _finite(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    return values[np.isfinite(values)]


def _wilson(k: float, n: float, confidence: float) -> tuple[float, float]:
    z2 = NormalDist().inv_cdf(0.5 + confidence / 2) ** 2
    centre = (k + z2 / 2) / (n + z2)
    half = math.sqrt(z2 * (k * (n - k) / n + z2 / 4)) / (n + z2)
    # at k = 0 and k = n the ends are 0 and 1 exactly, not to rounding
    return (0.0 if k == 0 else centre - half), (1.0 if k == n else centre + half)
