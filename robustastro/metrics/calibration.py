"""Whether a probability of 0.8 is right eight times in ten: calibration of the class probabilities of a run.

Binned errors grow with the noise within bins, so they are never zero: each stands beside what a perfectly calibrated
model with the same probabilities would show.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import pandas as pd

from robustastro.metrics.intervals import CONFIDENCE, NOTHING, Estimate, mean, proportion
from robustastro.metrics.paired import stacked
from robustastro.metrics.probabilities import probabilities, softmax
from robustastro.record import Record, Unit, jsonable

BINS, PER_BIN = 15, 20  # bins, and galaxies that a bin has at least on average: fewer galaxies, fewer bins
DRAWS, CHUNK = 999, 100  # outcomes drawn of a calibrated model, and how many at a time
COLDEST, HOTTEST, FEWEST = 0.01, 100.0, 20  # temperatures looked at, and validation galaxies needed for one
Binning = Literal["equal mass", "equal width"]


@dataclass(frozen=True)
class CalibrationError:
    """An expected calibration error (ECE), and what chance alone gives.

    Parameters
    ----------
    value : the mean over galaxies of |fraction right - mean confidence| of their bin.
    expected, high : mean and 95th percentile of that of a calibrated model with the same probabilities. No interval of
        `value`: it is biased upwards, by about `expected` where the model is calibrated.
    p : probability that a calibrated model shows `value` or more; not corrected for the number of rows looked at.
    bins, n : bins asked for, and galaxies.
    """

    value: float
    expected: float
    high: float
    p: float
    bins: int
    n: int

    def to_dict(self) -> dict[str, float | int | None]:
        """Plain values for JSON, None for NaN."""
        return jsonable(asdict(self))


def calibration(record: Record, units: Sequence[Unit] | None = None) -> dict[str, Any]:
    """Calibration of a run on clean galaxies and in each unit, before and after scaling with one temperature.

    Only galaxies with a label and finite logits count, `n` of them; `not_finite` others of known label have none.

    Parameters
    ----------
    units : of the record; default all.

    Returns
    -------
    `temperature` : an estimate, fitted to the clean logits of the validation galaxies of the model, of which those that
        the run itself holds are left out; null with a `temperature_reason` where there is none.
    `clean` and each of `units` (with perturbation, severity, strength and unit) : `n`, `not_finite`, `before` and
        `after` (null without a temperature), with `accuracy` (Wilson) and mean `confidence`, `ece` (bins of equal mass)
        and `ece_equal_width` of the confidence, `classwise_ece` (mean over classes, equal mass), `brier` and `nll`
        (means over galaxies, t intervals), `brier_parts` and `reliability`, the curve in 15 bins of equal width, as
        the confidences of a sure model are nearly all in one place. A t interval of these skewed scores covers, where a
        model is right nine times in ten, 93% of the time with 100 galaxies (`nll`: 91%), with 300 94%.
    """
    validation = record.validation
    scale, reason = NOTHING, "the run holds no validation galaxies"
    if len(validation):
        own = validation[~validation.index.isin(record.galaxies.index)]
        scale, reason = NOTHING, "all validation galaxies are among the galaxies of the run"
        if len(own):
            scale, reason = temperature(stacked(own["logits"]), np.asarray(own["label"]))
    rows = []
    for unit in record.units() if units is None else units:
        table = record.unit(unit.perturbation, unit.strength)
        if len(table):
            rows.append(asdict(unit) | _row(record, table, scale.value))
    return {
        "temperature": scale.to_dict(),
        "temperature_reason": reason,
        "clean": _row(record, record.galaxies, scale.value),
        "units": rows,
    }


def calibration_error(
    forecast: np.ndarray, hits: np.ndarray, binning: Binning = "equal mass", bins: int | None = None, seed: int = 0
) -> CalibrationError:
    """Expected calibration error (Naeini et al. 2015, AAAI 29, 2901) against the one expected of a calibrated model.

    Consistency resampling (Broecker & Smith 2007, Weather and Forecasting 22, 651) with the forecasts held fixed: 999
    times an outcome is drawn for each galaxy with the probability forecast. The p-value, which counts the value itself
    among the draws, is then exact but for ties.

    Parameters
    ----------
    forecast : (N,) probabilities of being right (top-label), or of one class.
    hits : (N,) bool, whether it was so.
    bins : default 15, or N // 20 if that is less.
    seed : of the draws; the same forecasts always give the same answer.
    """
    forecast, hits = np.asarray(forecast, dtype=np.float64), np.asarray(hits, dtype=bool)
    n = len(forecast)
    bins = bins or bins_for(n)
    if n == 0:
        return CalibrationError(math.nan, math.nan, math.nan, math.nan, bins, 0)
    member = np.eye(bins)[_binned(forecast, binning, bins)]
    rng = np.random.default_rng(seed)
    value = float(np.abs((hits - forecast) @ member).sum() / n)
    drawn = []
    for start in range(0, DRAWS, CHUNK):
        calibrated = rng.random((min(CHUNK, DRAWS - start), n)) < forecast
        drawn.append(np.abs((calibrated - forecast) @ member).sum(axis=1) / n)
    chance = np.concatenate(drawn)
    above = int(np.sum(chance >= value - 1e-12))  # a tie is not below because of rounding
    return CalibrationError(
        value, float(chance.mean()), float(np.quantile(chance, 0.95)), (1 + above) / (1 + DRAWS), bins, n
    )


def classwise_error(p: np.ndarray, labels: np.ndarray, bins: int | None = None) -> float:
    """Mean over classes of the ECE of that class's probability, bins of equal mass (Kull et al. 2019, NeurIPS 32)."""
    n, classes = p.shape
    bins = bins or bins_for(n)
    total = 0.0
    for k in range(classes if n else 0):
        at = _binned(p[:, k], "equal mass", bins)
        total += float(np.abs(np.bincount(at, (labels == k) - p[:, k])).sum())
    return total / (n * classes) if n else math.nan


def reliability_curve(
    forecast: np.ndarray, hits: np.ndarray, binning: Binning = "equal mass", bins: int | None = None
) -> list[dict[str, Any]]:
    """Per bin with galaxies: mean forecast `confidence`, its `low` and `high`, and `accuracy`, the hits (Wilson).

    Parameters as of `calibration_error`. Equal forecasts are always in one bin.
    """
    if len(forecast) == 0:
        return []
    at = _binned(forecast, binning, bins or bins_for(len(forecast)))
    return [
        {
            "confidence": float(forecast[at == b].mean()),
            "low": float(forecast[at == b].min()),
            "high": float(forecast[at == b].max()),
            "accuracy": proportion(hits[at == b]).to_dict(),
        }
        for b in np.unique(at)
    ]


def brier(p: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Sum over classes of (probability - outcome)^2 of each galaxy, (N,), 0 to 2 (Brier 1950, Mon. Weather Rev. 78, 1).

    Parameters
    ----------
    p : (N, K); `labels` : (N,) int.
    """
    return ((p - np.eye(p.shape[1])[labels]) ** 2).sum(axis=1)


def brier_parts(p: np.ndarray, labels: np.ndarray, bins: int | None = None) -> dict[str, float]:
    """What the mean Brier score consists of: exactly reliability - resolution + uncertainty + within_bins.

    Murphy (1973, J. Appl. Meteor. 12, 595) for each class in bins of equal mass of its probability, summed over
    classes. Forecasts differ within a bin, so their variance less twice their covariance with the outcome is left over
    (Stephenson, Coelho & Jolliffe 2008, Weather and Forecasting 23, 752): `within_bins`. Reliability is biased upwards
    as the ECE is.
    """
    n, classes = p.shape
    bins = bins or bins_for(n)
    start = 0.0 if n else math.nan
    parts = {"reliability": start, "resolution": start, "uncertainty": start, "within_bins": start}
    for k in range(classes if n else 0):
        forecast, outcome = p[:, k], (labels == k).astype(np.float64)
        at = _binned(forecast, "equal mass", bins)
        count = np.bincount(at)[at]
        f, y = (np.bincount(at, values)[at] / count for values in (forecast, outcome))  # the mean of each one's bin
        rate = outcome.mean()
        parts["reliability"] += float(np.mean((f - y) ** 2))
        parts["resolution"] += float(np.mean((y - rate) ** 2))
        parts["uncertainty"] += float(rate * (1 - rate))
        parts["within_bins"] += float(np.mean((forecast - f) ** 2 - 2 * (forecast - f) * (outcome - y)))
    return parts


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """-log of the probability of the true class, (N,) [nats]; finite where the probability underflows."""
    top = logits.max(axis=1, initial=-math.inf)
    total = np.log(np.exp(logits - top[:, None]).sum(axis=1)) + top
    return total - logits[np.arange(len(labels)), labels]


def temperature(logits: np.ndarray, labels: np.ndarray) -> tuple[Estimate, str | None]:
    """The T that makes the mean negative log likelihood of logits / T least (Guo et al. 2017, ICML 34), and why not.

    The likelihood is convex in 1 / T, so the least is the only root of its slope. Interval: normal in log T, with the
    larger of the variance that supposes the scaled model to be right and the one that does not (sandwich); it covers
    at least 93% with 40 galaxies or more. Fit it to validation galaxies, never to those it is then judged on.

    Parameters
    ----------
    logits : (N, K); rows that are not finite are left out.
    labels : (N,); rows with a negative (unknown) one are left out.

    Returns
    -------
    The estimate and None; or NaN and the reason: fewer than 20 galaxies, or no least between 0.01 and 100, as when
    every galaxy is right.
    """
    from scipy.optimize import brentq

    logits, labels, _ = _usable(logits, labels)
    n = len(labels)
    if n < FEWEST:
        return Estimate(math.nan, math.nan, math.nan, n), f"{n} validation galaxies, fewer than {FEWEST}"
    own = logits[np.arange(n), labels]

    def slopes(inverse: float) -> np.ndarray:
        return (softmax(inverse * logits) * logits).sum(axis=1) - own

    if slopes(1 / COLDEST).mean() <= 0 or slopes(1 / HOTTEST).mean() >= 0:
        reason = f"the likelihood of the validation galaxies has no least between T = {COLDEST:g} and {HOTTEST:g}"
        return Estimate(math.nan, math.nan, math.nan, n), reason
    inverse = float(brentq(lambda b: slopes(b).mean(), 1 / HOTTEST, 1 / COLDEST, xtol=1e-12, rtol=1e-10))  # pyright: ignore[reportArgumentType]
    p = softmax(inverse * logits)
    curvature = float(np.mean((p * logits**2).sum(axis=1) - (p * logits).sum(axis=1) ** 2))
    # the two agree where the scaled model is right; with few wrong galaxies the first alone is too small
    information = max(float(np.mean(slopes(inverse) ** 2)), curvature)
    z, most = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2), math.log(HOTTEST / COLDEST)
    half = min(z * math.sqrt(information / n) / (curvature * inverse), most) if curvature > 0 else most  # of log T
    low, high = max(math.exp(-half) / inverse, COLDEST), min(math.exp(half) / inverse, HOTTEST)
    return Estimate(1 / inverse, low, high, n), None


def bins_for(n: int) -> int:
    """How many bins n galaxies get."""
    return max(1, min(BINS, n // PER_BIN))


def equal_mass(values: np.ndarray, bins: int) -> np.ndarray:
    """The bin of each of `values` (N,), int in 0 to bins - 1, about as many in each; equal values share a bin.

    By the mean rank of equal values, so that values next to a crowded one are not drawn into its bin.
    """
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2
    return (middle * bins // max(len(values), 1)).astype(np.int64)[where]


def _binned(values: np.ndarray, binning: Binning, bins: int) -> np.ndarray:
    if binning == "equal mass":
        return equal_mass(values, bins)
    return np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], values, side="left")  # (low, high], as is usual


def _usable(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Float64 logits and int labels of galaxies that have both, and how many with a label have no finite logits."""
    labels = np.nan_to_num(np.asarray(labels, dtype=np.float64), nan=-1).astype(np.int64)
    logits = np.asarray(logits, dtype=np.float64)
    known, finite = labels >= 0, np.isfinite(logits).all(axis=1)
    return logits[known & finite], labels[known & finite], int(np.sum(known & ~finite))


def _row(record: Record, table: pd.DataFrame, scale: float) -> dict[str, Any]:
    logits, labels, lost = _usable(stacked(table["logits"]), record.galaxies.loc[table.index, "label"].to_numpy())
    return {
        "n": len(labels),
        "not_finite": lost,
        "before": _scores(record, logits, labels),
        "after": _scores(record, logits / scale, labels) if math.isfinite(scale) else None,
    }


def _scores(record: Record, logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    p = probabilities(record, logits)
    confidence, right = p.max(axis=1, initial=0.0), p.argmax(axis=1) == labels
    return {
        "accuracy": proportion(right).to_dict(),
        "confidence": mean(confidence).to_dict(),
        "ece": calibration_error(confidence, right).to_dict(),
        "ece_equal_width": calibration_error(confidence, right, "equal width").to_dict(),
        "classwise_ece": jsonable(classwise_error(p, labels)),
        "brier": mean(brier(p, labels)).to_dict(),
        "brier_parts": jsonable(brier_parts(p, labels)),
        "nll": mean(negative_log_likelihood(logits, labels)).to_dict(),
        "reliability": reliability_curve(confidence, right, "equal width", BINS),
    }
