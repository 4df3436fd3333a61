"""Critical strength: how strong a perturbation must be before a galaxy that was right is wrong.

A ladder brackets it for each galaxy, between its last safe rung and the first that flips it; a bisection narrows that
interval. Flipped is what `Paired.flipped` says, of targeted attacks, too. "Mild" and "severe" are the order of the
ladder, not of the numbers: a depth of 0.1 is more severe than one of 0.8.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from perturbations.errors import unknown_name
from robustastro.metrics.intervals import CONFIDENCE, Estimate, proportion
from robustastro.metrics.paired import pair
from robustastro.metrics.tables import strength_text
from robustastro.record import Flag, Record, falling

FLIPPED, FIRST, NEVER = "flipped", "first rung", "never"


@dataclass(frozen=True, eq=False)
class Critical:
    """Between which strengths each galaxy flips. Arrays are (N,), of the galaxies that were right when clean.

    Parameters
    ----------
    perturbation, parameter, unit : what was done, what its strength is, and the unit of all strengths here.
    rungs : strengths that were run, mild to severe.
    start : the strength that changes nothing, where it is milder than every rung; else NaN.
    falling : whether smaller numbers are more severe.
    ids : galaxy ids, in the order of the record.
    low : the most severe strength known to be safe before the first that is not: the last safe rung, or, of a galaxy
        that the first rung flips, `start`.
    high : the mildest strength known to flip it; NaN where none does.
    status : "flipped"; "first rung", flipped by the mildest one (left-censored where low is NaN); or "never" up to the
        most severe (right-censored).
    recrossed : right again at a rung more severe than the first that flips it.
    narrowed : whether low and high come from a bisection.
    excluded : galaxies left out because they were wrong already.
    unlabelled, unfinished : galaxies left out without a label, and without a result at every rung.
    tolerance : how wide a narrowed interval may be; None where there is none.
    """

    perturbation: str
    parameter: str
    unit: str
    rungs: tuple[float, ...]
    start: float
    falling: bool
    ids: np.ndarray
    low: np.ndarray
    high: np.ndarray
    status: np.ndarray
    recrossed: np.ndarray
    narrowed: np.ndarray
    excluded: int
    unlabelled: int
    unfinished: int
    tolerance: float | None


@dataclass(frozen=True, eq=False)
class Survival:
    """Fraction of the galaxies of a `Critical` that no strength up to this one has flipped.

    Parameters
    ----------
    strengths : (M,), mild to severe: the start, every rung, and the ends of all narrowed intervals.
    right, low, high : (M,), the estimate and its pointwise interval; NaN of no galaxy.
    median : the critical strength of half of the galaxies. Its value is NaN where more than half never flip, or where
        the first rung flips half and nothing milder is known; an end of its interval that no strength bounds is NaN.
    """

    strengths: np.ndarray
    right: np.ndarray
    low: np.ndarray
    high: np.ndarray
    median: Estimate


def critical_strength(record: Record, perturbation: str) -> Critical | None:
    """Between which strengths each galaxy first flips, or None where no galaxy has a result at every rung.

    Only galaxies that are right when clean have a critical strength; the others are counted. A galaxy that is right
    again at a more severe rung keeps its first flip. A bisection looks between two rungs only: it finds one strength
    where the galaxy flips, which is the only one if it does not recross in between.

    Raises
    ------
    InputError : the run has no such perturbation, or its strengths have no order.
    """
    units = {unit.strength: unit for unit in record.units() if unit.perturbation == perturbation}
    if not units:
        raise unknown_name("perturbation of this run", perturbation, {unit.perturbation for unit in record.units()})
    entry = next(p for p in record.run["perturbations"] if p["name"] == perturbation)
    falls = falling(list(units), entry["ladder"], entry["identity"])
    rungs = sorted(units, reverse=falls)
    pairs = [found for rung in rungs if (found := pair(record, units[rung])) is not None]
    finished = set.intersection(*(set(paired.ids) for paired in pairs)) if len(pairs) == len(rungs) else set()
    if not finished:
        return None
    # the rows of every rung are in the order of the record, so those that are finished everywhere line up
    kept = [np.array([galaxy in finished for galaxy in paired.ids]) for paired in pairs]
    right = np.stack([paired.perturbed_correct[keep] for paired, keep in zip(pairs, kept, strict=True)], axis=1)
    labelled, clean = pairs[0].labelled[kept[0]], pairs[0].clean_correct[kept[0]]
    ids, right = pairs[0].ids[kept[0]][clean], right[clean]

    flips, first = ~right.all(axis=1), (~right).argmax(axis=1)
    start = math.nan if entry["identity"] is None else float(entry["identity"])
    if not (start > rungs[0] if falls else start < rungs[0]):
        start = math.nan
    edges = np.array([start, *rungs])
    low, high = np.where(flips, edges[first], rungs[-1]), np.where(flips, edges[first + 1], math.nan)
    after = np.arange(len(rungs)) > first[:, None]
    narrowed, tolerance = np.zeros(len(ids), dtype=bool), None
    if not (found := record.bisected(perturbation)).empty:
        found = found.reindex(ids)
        narrowed = found["low"].notna().to_numpy() & flips
        low, high = (np.where(narrowed, found[end], old) for end, old in (("low", low), ("high", high)))
        tolerance = float(found["tolerance"].to_numpy()[narrowed].max()) if narrowed.any() else None
    return Critical(
        perturbation=perturbation,
        parameter=entry["parameter"],
        unit=entry["unit"],
        rungs=tuple(rungs),
        start=start,
        falling=falls,
        ids=ids,
        low=low,
        high=high,
        status=np.where(flips, np.where(first == 0, FIRST, FLIPPED), NEVER),
        recrossed=flips & (right & after).any(axis=1),
        narrowed=narrowed,
        excluded=int(np.sum(labelled & ~clean)),
        unlabelled=int(np.sum(~labelled)),
        unfinished=len(record.galaxies) - len(finished),
        tolerance=tolerance,
    )


def survival(critical: Critical, confidence: float = CONFIDENCE) -> Survival:
    """Fraction of the galaxies still right, at every strength where it is determined, and the median critical strength.

    The nonparametric maximum likelihood estimate of Turnbull (1976, JRSS B 38, 290): where the intervals of galaxies
    overlap only if they are equal, as those of a ladder or a finished bisection do, it is the fraction itself; else
    lifelines computes it. The interval is Wilson's, its lower end with every galaxy whose interval contains the
    strength counted as flipped and its upper end with all of them as right: without such galaxies it is that of the
    fraction, with them it covers more than it says. At the start all are right, by definition.

    Between two strengths the curve is not determined; the median is put there on a straight line. Its interval is the
    strengths at which the pointwise interval contains one half (Brookmeyer and Crowley 1982, Biometrics 38, 29).
    """
    sign, n = -1.0 if critical.falling else 1.0, len(critical.ids)
    left = np.where(np.isnan(critical.low), -math.inf, sign * critical.low)
    right = np.where(np.isnan(critical.high), math.inf, sign * critical.high)
    start = sign * critical.start
    points = np.unique(np.concatenate([left, right, sign * np.array(critical.rungs), [start]]))
    points = points[np.isfinite(points)]
    surely = n - np.searchsorted(np.sort(left), points, side="left")
    possibly = n - np.searchsorted(np.sort(right), points, side="right")
    if not n:
        values = np.full(len(points), math.nan)
    elif np.array_equal(surely, possibly):
        values = surely / n
    else:
        values = _turnbull(left, right, points)
    low, high = (
        np.array([getattr(proportion(np.arange(n) < k, confidence), end) for k in counts])
        for end, counts in (("low", surely), ("high", possibly))
    )
    low = np.where((points == start) & (n > 0), 1.0, low)
    median = _median(points, values, low, high, n)
    if critical.falling:
        median = Estimate(-median.value, -median.high, -median.low, n)
    return Survival(sign * points, values, low, high, median)


def summary(record: Record) -> list[dict[str, Any]]:
    """Critical strengths of a record for JSON, one entry per perturbation of which some galaxy has every rung.

    `n` galaxies were right when clean; `never` of them were not flipped, `recrossed` were right again later, and
    `narrowed` were bisected to `tolerance`. `start` is the strength that changes nothing; `falling` says that smaller
    strengths are more severe. `excluded`, `unlabelled` and `unfinished` are not among them. `median` is
    the median critical strength in `unit`, null where more than half never flip; `curve` says, at each rung, how many
    were not flipped so far. `flags` are reasons to doubt these numbers.
    """
    entries = []
    for name in dict.fromkeys(unit.perturbation for unit in record.units()):
        critical = critical_strength(record, name)
        if critical is None:
            continue
        found = survival(critical)
        at = {strength: k for k, strength in enumerate(found.strengths.tolist())}
        severities = {unit.strength: unit.severity for unit in record.units() if unit.perturbation == name}
        n, recrossed = len(critical.ids), int(critical.recrossed.sum())
        curve = [
            {
                "severity": severities[rung],
                "strength": rung,
                "right": Estimate(found.right[k], found.low[k], found.high[k], n).to_dict(),
            }
            for rung, k in ((rung, at[rung]) for rung in critical.rungs)
        ]
        entries.append(
            {
                "perturbation": name,
                "parameter": critical.parameter,
                "unit": critical.unit,
                "start": critical.start if math.isfinite(critical.start) else None,
                "falling": critical.falling,
                "n": n,
                "excluded": critical.excluded,
                "unlabelled": critical.unlabelled,
                "unfinished": critical.unfinished,
                "never": int(np.sum(critical.status == NEVER)),
                "recrossed": recrossed,
                "narrowed": int(critical.narrowed.sum()),
                "tolerance": critical.tolerance,
                "median": found.median.to_dict(),
                "curve": curve,
                "flags": [_recrossed(name, recrossed, n).to_dict()] if recrossed else [],
            }
        )
    return entries


def text(entries: Sequence[Mapping[str, Any]]) -> str:
    """What `summary` says of every perturbation with more than one rung or narrowed intervals, for people."""
    lines = [_line(entry) for entry in entries if entry["n"] and (len(entry["curve"]) > 1 or entry["narrowed"])]
    if not lines:
        return ""
    head = "Critical strength, at which a galaxy that was right is first wrong: median and its 95% interval."
    return "\n".join([head, *lines]) + "\n"


def median_text(entry: Mapping[str, Any]) -> str:
    """The median critical strength of an entry of `summary` with its interval, or where it lies beyond the rungs."""
    if not entry["n"]:
        return "-"
    first, last = (_strength(entry, entry["curve"][k]["strength"]) for k in (0, -1))
    median = entry["median"]
    if median["value"] is not None:
        mild, severe = (median[end] for end in (("high", "low") if entry["falling"] else ("low", "high")))
        ends = (
            f"{first} or milder" if mild is None else f"{mild:.3g}",
            f"beyond {last}" if severe is None else f"{severe:.3g}",
        )
        return f"{_strength(entry, median['value'])} [{ends[0]}, {ends[1]}]"
    if 2 * entry["never"] > entry["n"]:
        return f"beyond {last}, the last rung"
    return f"{first}, the first rung, or milder"


def _line(entry: Mapping[str, Any]) -> str:
    parts = [f"{entry['perturbation']}: {median_text(entry)}", f"n = {entry['n']}", f"{entry['never']} never wrong"]
    if entry["tolerance"] is not None:
        parts.append(f"{entry['narrowed']} narrowed to {_strength(entry, entry['tolerance'])}")
    for name, words in (
        ("recrossed", "right again at a later rung"),
        ("excluded", "left out, wrong when clean"),
        ("unfinished", "left out, not finished"),
    ):
        if entry[name]:
            parts.append(f"{entry[name]} {words}")
    return "; ".join(parts)


def _strength(entry: Mapping[str, Any], strength: float) -> str:
    return strength_text({"strength": float(f"{strength:.3g}"), "unit": entry["unit"]})


def _recrossed(name: str, count: int, n: int) -> Flag:
    return Flag(
        "recrossed",
        f"{count} of {n} galaxies flipped by {name} are right again at a more severe rung",
        "read the first flip as one of several: more of this perturbation is not always worse",
    )


def _turnbull(left: np.ndarray, right: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Turnbull's estimate of the fraction above each of the points (M,), from intervals (left, right], both (N,)."""
    from lifelines.fitters.npmle import npmle

    # lifelines takes closed intervals, which two neighbours would share an end of: ranks keep (a, b] and (b, c] apart
    ends = np.unique(np.concatenate([left, right]))
    closed, counts = np.unique(
        np.stack([2 * np.searchsorted(ends, left) + 1, 2 * np.searchsorted(ends, right)], axis=1),
        axis=0,
        return_counts=True,
    )
    with np.errstate(all="ignore"):  # it takes the logarithm of 0 where one cell has all of the galaxies
        share, cells = npmle(*closed.T, weights=counts, tol=1e-10)
    above = np.array([cell.right for cell in cells]) > 2 * (np.searchsorted(ends, points, side="right") - 1)[:, None]
    return (above @ share) / share.sum()


def _median(points: np.ndarray, values: np.ndarray, low: np.ndarray, high: np.ndarray, n: int) -> Estimate:
    """The strength where `values` falls to one half, on a scale that grows with severity; NaN where it is not known."""
    sure, over = np.flatnonzero(low > 0.5), np.flatnonzero(high < 0.5)
    ends = (points[sure[-1]] if len(sure) else math.nan), (points[over[0]] if len(over) else math.nan)
    half = np.flatnonzero(values <= 0.5)
    value = math.nan
    if len(half) and half[0] > 0:
        k = half[0]
        share = (values[k - 1] - 0.5) / (values[k - 1] - values[k])
        value = points[k - 1] + share * (points[k] - points[k - 1])
    return Estimate(float(value), float(ends[0]), float(ends[1]), n)
