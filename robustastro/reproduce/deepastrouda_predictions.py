"""What was foretold of DeepAstroUDA, and what the numbers say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from robustastro.reproduce.verdicts import Row, alone, said, verdict

AREA = 0.85


def predictions(accuracy: Sequence[Row], open_set: Sequence[Row]) -> list[dict[str, Any]]:
    """For each architecture and test bed with `uda` the two predictions."""
    answer = []
    areas = {(row["arch"], row["bed"]): row for row in open_set if row["method"] == "uda"}
    for row in accuracy:
        if row["method"] != "uda":
            continue
        found = areas.get((row["arch"], row["bed"]))
        none = next(
            (r for r in accuracy if (r["arch"], r["bed"], r["method"]) == (row["arch"], row["bed"], "none")), None
        )
        answer += [{"arch": row["arch"], **each} for each in (_separates(row, found), _gains(row, none))]
    return answer


def _separates(row: Row, found: Row | None) -> dict[str, Any]:
    text = f"{row['bed']}: uda tells the unknown class from the known ones with an AUROC of at least {AREA:g}"
    if found is None:
        return said(text, "undecided", [], "there are no galaxies of an unknown class")
    trainings = {"uda": len(row["seeds"])}
    numbers = [{"method": "uda", "ratio": found["auroc"]}]
    return said(text, verdict(found["auroc"], AREA, trainings["uda"] > 1), numbers, alone(trainings))


def _gains(row: Row, none: Row | None) -> dict[str, Any]:
    text = f"{row['bed']}: uda is right on more target galaxies of the known classes than none"
    if none is None:
        return said(text, "undecided", [], "none was not run")
    trainings = {"uda": len(row["seeds"]), "none": len(none["seeds"])}
    gain: Mapping[str, Any] = row["gain_target"]
    return said(
        text, verdict(gain, 1e-9, min(trainings.values()) > 1), [{"method": "uda", "points": gain}], alone(trainings)
    )
