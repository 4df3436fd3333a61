"""What was foretold before the numbers were known, and what the numbers say: true, false or undecided.

A prediction is true where the interval says so, false where it excludes it, and undecided otherwise, and wherever an
arm has a single training, whose chance no interval covers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from robustastro.metrics.significance import difference
from robustastro.reproduce.measures import Arm, baseline

LOST, REGAINED, GIVEN_UP, METHODS = 0.15, 0.10, 0.03, 2
Row = Mapping[str, Any]


def predictions(arms: Sequence[Arm], accuracy: Sequence[Row], distance: Sequence[Row]) -> list[dict[str, Any]]:
    """For each architecture the four predictions, each with its verdict and the numbers it stands on."""
    answer = []
    for arch in dict.fromkeys(row["arch"] for row in accuracy):
        rows = [row for row in accuracy if row["arch"] == arch]
        adapted = [row for row in rows if adapts(row)]
        found = [_falls(rows), _regains(adapted), _farther(adapted, distance, arch), _beats(adapted, arms, arch)]
        answer += [{"arch": arch, **each} for each in found]
    return answer


def adapts(row: Row) -> bool:
    """Whether a row of `accuracies` is adaptation as such: no control, no target labels, no published settings."""
    return not row["control"] and not row["target_labels"] and "+" not in row["method"]


def _falls(rows: Sequence[Row]) -> dict[str, Any]:
    text = f"none loses at least {100 * LOST:.0f} points from Y10 to Y1"
    none = next((row for row in rows if row["method"] == "none"), None)
    if none is None:
        return _said(text, "undecided", [], "none was not run")
    lost, several = none["loss"], len(none["seeds"]) > 1
    return _said(text, _verdict(lost, LOST, several), [{"method": "none", "points": lost}], _alone(several))


def _regains(adapted: Sequence[Row]) -> dict[str, Any]:
    """Counted: a mean gain of 10 points or more whose interval is above zero, and a mean loss on Y10 of 3 at most."""
    text = (
        f"at least two adaptation methods regain {100 * REGAINED:.0f} points or more on Y1 (interval above zero) and "
        f"lose at most {100 * GIVEN_UP:.0f} on Y10"
    )
    known = [row for row in adapted if row["gain_y1"] is not None and row["gain_y1"]["value"] is not None]
    several = all(len(row["seeds"]) > 1 for row in known)
    yes = [row for row in known if _clear(row)]
    could = [row for row in known if _possible(row)]
    verdict = "true" if len(yes) >= METHODS else "false" if len(could) < METHODS <= len(known) else "undecided"
    numbers = [{"method": r["method"], "points": r["gain_y1"], "y10": r["gain_y10"], "holds": r in yes} for r in known]
    why = _alone(several) or (f"{len(known)} adaptation methods were run" if len(known) < METHODS else "")
    return _said(text, verdict if several and known else "undecided", numbers, why)


def _clear(row: Row) -> bool:
    gain, kept = row["gain_y1"], row["gain_y10"]
    return gain["value"] >= REGAINED and (gain["low"] or 0.0) > 0.0 and kept["value"] >= -GIVEN_UP


def _possible(row: Row) -> bool:
    """Whether the intervals leave room for it."""
    gain, kept = row["gain_y1"], row["gain_y10"]
    return _clear(row) or (_or(gain["high"], 1.0) >= REGAINED and _or(kept["high"], 1.0) >= -GIVEN_UP)


def _farther(adapted: Sequence[Row], distance: Sequence[Row], arch: str) -> dict[str, Any]:
    text = "the scale-free distance to the wrong class grows with adaptation (with every method that was run)"
    names = [row["method"] for row in adapted]
    rows = [
        row for row in distance
        if row["arch"] == arch and row["attack"] == "paper" and row["method"] in names and row["ratio"] is not None
    ]  # fmt: skip
    numbers = [{"method": row["method"], "ratio": row["ratio"]["boundary_scaled"]} for row in rows]
    several = all(row["trainings"] > 1 for row in rows)
    return _said(text, _every([n["ratio"] for n in numbers], 1.0, several), numbers, _alone(several))


def _beats(adapted: Sequence[Row], arms: Sequence[Arm], arch: str) -> dict[str, Any]:
    text = "adaptation beats augment on Y1 (every method that was run)"
    augment = baseline(arms, arch, "augment")
    if augment is None:
        return _said(text, "undecided", [], "augment was not run")
    numbers, several = [], len(augment.cells) > 1
    for row in adapted:
        arm = baseline(arms, arch, row["method"])
        assert arm is not None  # the rows are of these arms
        several = several and len(arm.cells) > 1
        numbers.append(
            {"method": row["method"], "points": difference(arm.correct("y1"), augment.correct("y1")).to_dict()}
        )
    return _said(text, _every([n["points"] for n in numbers], 0.0, several), numbers, _alone(several))


# ---------------------------------------------------------------------- verdicts


def _verdict(estimate: Row, least: float, several: bool) -> str:
    """Whether a number is at least so large, as far as its interval tells."""
    if not several or estimate["low"] is None or estimate["high"] is None:
        return "undecided"
    return "true" if estimate["low"] >= least else "false" if estimate["high"] < least else "undecided"


def _every(estimates: Sequence[Row], above: float, several: bool) -> str:
    """Whether all numbers are above a value: one that is clearly not is enough against it."""
    each = [_verdict(e, float(np.nextafter(above, np.inf)), several) for e in estimates]
    return "false" if "false" in each else "true" if each and set(each) == {"true"} else "undecided"


def _alone(several: bool) -> str:
    return "" if several else "one training each: the chance of training is unknown"


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _said(text: str, verdict: str, numbers: Sequence[Row], why: str) -> dict[str, Any]:
    return {"prediction": text, "verdict": verdict, "numbers": list(numbers), "note": why}
