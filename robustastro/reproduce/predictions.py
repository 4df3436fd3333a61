"""What was foretold before the numbers were known, and what the numbers say: true, false or undecided.

A prediction is true where the interval says so, false where it excludes it, and undecided otherwise. A method with a
single training decides nothing, because no interval covers its chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from robustastro.metrics.significance import difference
from robustastro.reproduce.measures import Arm, baseline
from robustastro.reproduce.verdicts import alone, every, said, verdict

LOST, REGAINED, GIVEN_UP, METHODS, SEEDS = 0.15, 0.10, 0.03, 2, 5
Row = Mapping[str, Any]


def predictions(arms: Sequence[Arm], accuracy: Sequence[Row], distance: Sequence[Row]) -> list[dict[str, Any]]:
    """For each architecture the four predictions, each with its verdict and the numbers it stands on."""
    answer = []
    for arch in dict.fromkeys(row["arch"] for row in accuracy):
        rows = [row for row in accuracy if row["arch"] == arch]
        adapted = [row for row in rows if adapts(row)]
        found = [_falls(rows), _regains(rows), _farther(adapted, distance, arch), _beats(adapted, arms, arch)]
        answer += [{"arch": arch, **each} for each in found]
    return answer


def adapts(row: Row) -> bool:
    """Whether a row of `accuracies` is adaptation as such: no control, no target labels, no published settings."""
    return not row["control"] and not row["target_labels"] and "+" not in row["method"]


def _falls(rows: Sequence[Row]) -> dict[str, Any]:
    text = f"none loses at least {100 * LOST:.0f} points from Y10 to Y1"
    none = next((row for row in rows if row["method"] == "none"), None)
    if none is None:
        return said(text, "undecided", [], "none was not run")
    lost, trainings = none["loss"], {"none": len(none["seeds"])}
    numbers = [{"method": "none", "points": lost}]
    return said(text, verdict(lost, LOST, trainings["none"] > 1), numbers, alone(trainings))


def _regains(rows: Sequence[Row]) -> dict[str, Any]:
    """Counted, with five trainings or more: a mean gain of 10 points or more whose interval is above zero, and a mean
    loss on Y10 of 3 at most. That is a statement about these means, and decided by them.
    """
    text = (
        f"at least two adaptation methods regain {100 * REGAINED:.0f} points or more on Y1 (mean of five trainings, "
        f"interval above zero) and lose at most {100 * GIVEN_UP:.0f} on Y10"
    )
    known = [row for row in rows if adapts(row) and row["gain_y1"] is not None and row["gain_y1"]["value"] is not None]
    trainings = {row["method"]: len(row["seeds"]) for row in rows if row["method"] == "none" or row in known}
    enough = {row["method"]: min(len(row["seeds"]), trainings.get("none", 1)) >= SEEDS for row in known}
    yes = [row for row in known if enough[row["method"]] and _holds(row)]
    could = [row for row in known if not enough[row["method"]] or _holds(row)]
    answer = "true" if len(yes) >= METHODS else "false" if len(could) < METHODS <= len(known) else "undecided"
    numbers = [{"method": r["method"], "points": r["gain_y1"], "y10": r["gain_y10"], "holds": r in yes} for r in known]
    few = f"adaptation methods with a gain: {len(known)}" if len(known) < METHODS else ""
    return said(text, answer, numbers, "; ".join(filter(None, (few, alone(trainings) if known else ""))))


def _holds(row: Row) -> bool:
    gain, kept = row["gain_y1"], row["gain_y10"]
    return gain["value"] >= REGAINED and (gain["low"] or 0.0) > 0.0 and kept["value"] >= -GIVEN_UP


def _farther(adapted: Sequence[Row], distance: Sequence[Row], arch: str) -> dict[str, Any]:
    text = "the scale-free distance to the wrong class grows with adaptation (with every method that was attacked)"
    found = {row["method"]: row for row in distance if row["arch"] == arch and row["attack"] == "paper"}
    names = [row["method"] for row in adapted]
    known = [m for m in names if m in found and found[m]["ratio"] is not None]
    numbers = [{"method": m, "ratio": found[m]["ratio"]["boundary_scaled"]} for m in known]
    trainings = {m: found[m]["trainings"] for m in ("none", *known) if m in found}
    several = [min(trainings[m], trainings["none"]) > 1 for m in known]
    missing = [m for m in names if m not in known]
    without = f"without attack or distance: {', '.join(missing)}" if missing else ""
    answer = every([n["ratio"] for n in numbers], 1.0, several)
    return said(text, answer, numbers, "; ".join(filter(None, (without, alone(trainings) if known else ""))))


def _beats(adapted: Sequence[Row], arms: Sequence[Arm], arch: str) -> dict[str, Any]:
    text = "adaptation beats augment on Y1 (every method that was run)"
    augment = baseline(arms, arch, "augment")
    if augment is None:
        return said(text, "undecided", [], "augment was not run")
    numbers, trainings = [], {"augment": len(augment.cells)}
    for row in adapted:
        arm = baseline(arms, arch, row["method"])
        assert arm is not None  # the rows are of these arms
        trainings[arm.method] = len(arm.cells)
        points = difference(arm.correct("y1"), augment.correct("y1")).to_dict()
        numbers.append({"method": arm.method, "points": points})
    several = [min(trainings[n["method"]], trainings["augment"]) > 1 for n in numbers]
    return said(text, every([n["points"] for n in numbers], 0.0, several), numbers, alone(trainings))
