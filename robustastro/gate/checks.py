"""One limit against one estimate: kept, broken or uncertain, in numbers and in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from robustastro.gate.measures import NAMES, Results, clean_outcome, measure, outcome
from robustastro.gate.rules import Rule, Rules
from robustastro.metrics.intervals import Estimate
from robustastro.metrics.tables import strength_text
from robustastro.record import Unit

POINTS = ("max_drop", "no_worse_than_baseline")  # differences of fractions; the other fractions are percent
RAW = ("min_boundary_distance", "min_boundary_distance_scaled")
POWER = 0.8  # how often the galaxies that are asked for would decide


@dataclass(frozen=True)
class Check:
    """One limit against one estimate.

    Parameters
    ----------
    rule : name of the rule.
    perturbation : what was judged: a perturbation, "clean", or "family observing" and "all" where judged together.
    severity, strength, unit : the rung; None and "" for clean images and over several rungs.
    over : "mean" or "worst" over several rungs; None for one.
    measure : what was estimated, as results call it: perturbed_accuracy, accuracy_drop, ...
    estimate : fractions, or units of the latent space.
    kind, limit : name and value of the limit.
    status : "pass", "fail" or "uncertain".
    counted_as : "pass", "fail" or "warn".
    message : the same in words.
    galaxies_needed : about how many would decide an uncertain check 8 times in 10 if the value is true; None where no
        number would.
    """

    rule: str
    perturbation: str
    severity: int | None
    strength: float | None
    unit: str
    over: Literal["mean", "worst"] | None
    measure: str
    estimate: Estimate
    kind: str
    limit: float
    status: Literal["pass", "fail", "uncertain"]
    counted_as: Literal["pass", "fail", "warn"]
    message: str
    galaxies_needed: int | None = None

    @property
    def where(self) -> str:
        """What was judged, for people: "depth at 0.1 (severity 5)", "depth, mean over its rungs"."""
        return place_words(self.perturbation, self.severity, self.strength, self.unit, self.over)


def checks(
    name: str, rule: Rule, rules: Rules, units: list[Unit], results: Results, baseline: Results | None
) -> list[Check]:
    """Every limit of a rule over some units."""
    place = _place(rule, units)
    of = place_words(*place)
    confidence = rules.confidence if rule.confidence is None else rule.confidence
    on_uncertain = rule.on_uncertain or rules.on_uncertain
    run = outcome(results, units, rule.over, of) if units else clean_outcome(results)
    done = []
    for kind, limit in rule.limits.items():
        other = None
        if kind == "no_worse_than_baseline" and baseline is not None:
            other = outcome(baseline, units, rule.over, of) if units else clean_outcome(baseline)
        estimate, worst = measure(kind, run, other, confidence)
        status = decide(kind, estimate, limit)
        counted: Literal["pass", "fail", "warn"] = on_uncertain if status == "uncertain" else status
        needed = None
        if status == "uncertain":
            counts = rule.over != "mean" and kind in ("min_accuracy", "max_success_rate")
            needed = galaxies_needed(estimate, limit, len(run.ids), confidence, counts)
        name_of = NAMES[kind].replace("perturbed", "clean") if rule.clean else NAMES[kind]
        message = _message(name_of, estimate, kind, limit, status, needed) + (f" (class {worst})" if worst else "")
        check = Check(name, *place, name_of, estimate, kind, limit, status, counted, message, needed)
        done.append(check)
    return done


def decide(kind: str, estimate: Estimate, limit: float) -> Literal["pass", "fail", "uncertain"]:
    """Where the interval lies: all on the right side of a limit (or at it), all on the wrong side, or on both."""
    low, high = (estimate.low, estimate.high) if kind.startswith("min_") else (-estimate.high, -estimate.low)
    limit = limit if kind.startswith("min_") else -limit
    if low >= limit:
        return "pass"
    return "fail" if high < limit else "uncertain"


def galaxies_needed(
    estimate: Estimate, limit: float, galaxies: int, confidence: float, counts: bool = False
) -> int | None:
    """About how many galaxies would decide 8 times in 10 if the value is true; None where it is the limit.

    For an interval that ends just at the limit, a new sample decides 5 times in 10 only: its value scatters too.

    Parameters
    ----------
    galaxies : how many were judged. The estimate may stand on fewer (those that could be flipped, those of a class).
    confidence : of the interval.
    counts : the estimate is of galaxies that are right or not (or flipped or not). Then this is the sample size of the
        test of a proportion with the continuity correction (Fleiss, Levin & Paik 2003, Statistical Methods for Rates
        and Proportions, chapter 2). Otherwise the part of the interval towards the limit shrinks with the root of the
        number.
    """
    apart = abs(estimate.value - limit)
    if apart < 1e-12:
        return None
    z, power = NormalDist().inv_cdf(0.5 + confidence / 2), NormalDist().inv_cdf(POWER)
    if counts:
        deviations = [math.sqrt(p * (1 - p)) for p in (limit, estimate.value)]
        wanted = ((z * deviations[0] + power * deviations[1]) / apart) ** 2 + 1 / apart
        factor = wanted / estimate.n
    else:
        half = estimate.value - estimate.low if limit < estimate.value else estimate.high - estimate.value
        factor = (half / apart * (1 + power / z)) ** 2
    return max(math.ceil(galaxies * factor), galaxies + 1)


def estimate_words(kind: str, estimate: Estimate) -> str:
    """An estimate as people read it: "85.0% [80.1, 89.0]", "5.0 points [1.2, 8.8]"."""
    if kind in RAW:
        return f"{estimate.value:.4g} [{estimate.low:.4g}, {estimate.high:.4g}]"
    value, low, high = (f"{100 * v:.1f}" for v in (estimate.value, estimate.low, estimate.high))
    return f"{value}{_percent(kind)} [{low}, {high}]"


def limit_words(kind: str, limit: float) -> str:
    """A limit as people read it: "at least 80%"."""
    side = "at least" if kind.startswith("min_") else "at most"
    return f"{side} {limit:.10g}" if kind in RAW else f"{side} {100 * limit:.10g}{_percent(kind)}"


def _percent(kind: str) -> str:
    return " points" if kind in POINTS else "%"


def _message(name: str, estimate: Estimate, kind: str, limit: float, status: str, needed: int | None) -> str:
    words = f"{name.replace('_', ' ')} {estimate_words(kind, estimate)}, wanted {limit_words(kind, limit)}: {status}"
    if status != "uncertain":
        return words
    if needed is None:
        return f"{words}; no number of galaxies would decide, the value is at the limit"
    return f"{words}; about {needed} galaxies would decide 8 times in 10 if the value is true"


def _place(rule: Rule, units: list[Unit]) -> tuple[str, int | None, float | None, str, Literal["mean", "worst"] | None]:
    """perturbation, severity, strength, unit and over of a check."""
    if not units:
        return "clean", None, None, "", None
    if rule.over is None:
        (unit,) = units
        return unit.perturbation, unit.severity, unit.strength, unit.unit, None
    names = {unit.perturbation for unit in units}
    return (names.pop() if len(names) == 1 else rule.target), None, None, "", rule.over


def place_words(perturbation: str, severity: int | None, strength: float | None, unit: str, over: str | None) -> str:
    if strength is not None:
        rung = "" if severity is None else f" (severity {severity})"
        return f"{perturbation} at {strength_text({'strength': strength, 'unit': unit})}{rung}"
    return perturbation if over is None else f"{perturbation}, {over} over rungs"
