"""Results as tables for people: percent, points, and the interval beside every number."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

UNITS = {"1": "", "input": "input units"}  # how a catalogue unit is written for people
COLUMNS: dict[str, tuple[str, float, int]] = {
    "clean accuracy [%]": ("clean_accuracy", 100.0, 1),
    "perturbed accuracy [%]": ("perturbed_accuracy", 100.0, 1),
    "drop [points]": ("accuracy_drop", 100.0, 1),
    "flipped [%]": ("attack_success_rate", 100.0, 1),
    "shift / scale": ("latent_shift_scaled", 1.0, 2),
    "boundary / scale": ("boundary_distance_scaled", 1.0, 2),
    "median queries": ("queries_median", 1.0, 0),
    "median fatal pixels": ("fatal_pixels.median", 1.0, 0),
    "no fatal pixel [%]": ("fatal_pixels.none", 100.0, 1),
}
NOTE = (
    "Brackets: 95% intervals (accuracies and flipped: Wilson; drop: Newcombe, paired; distances: Student's t; queries: "
    "order statistics). Flipped: of the galaxies that were right, those that became wrong (or the target of a targeted "
    "attack). Shift: how far galaxies moved in the latent space; boundary: how far they then are from leaving their "
    "class, negative where they have left it; scale: mean distance between class centroids."
)
NOTE_PIXELS = (
    "Fatal pixel: one that flips the galaxy with some value of the grid (median: order statistics; none: Wilson, of "
    "the galaxies that were right)."
)
NOTE_COMPARE = "Accuracy in percent, with 95% Wilson intervals in brackets."
NOTE_COMPARISON = (
    "Brackets: {confidence:.4g}% intervals, for the chance in the galaxies and, of several trainings, in the training; "
    "each is for itself, not corrected for how many there are. Galaxies are taken to be independent: where several are "
    "views of one object, intervals are too narrow and p too small. Difference: accuracy of the arm minus the "
    "baseline's on the same galaxies; in drop: the same in clean minus perturbed accuracy. p: corrected by Holm's "
    "method among all ladders (a single strength is one, too) or all rungs. h: Cohen's effect size (0.2 small, 0.5 "
    "medium, 0.8 large). Boundary ratio: mean distance from leaving the true class, over latent scale, of the arm over "
    "the baseline; '-' where the baseline's may be zero, or a training has no latent scale."
)


def table(results: Sequence[Mapping[str, Any]], markdown: bool = False) -> str:
    """One row per perturbation and strength, from `summarise`; columns without any number are left out."""
    kept = {head: c for head, c in COLUMNS.items() if any(_estimate(r, c[0])["value"] is not None for r in results)}
    rows = [
        [
            r["perturbation"],
            strength_text(r),
            str(r["n"]),
            *(estimate_text(_estimate(r, name), factor, digits) for name, factor, digits in kept.values()),
        ]
        for r in results
    ]
    notes = [_parameters(results), NOTE]
    if any(name.startswith("fatal_pixels") for name, _, _ in kept.values()):
        notes.append(NOTE_PIXELS)
    return _layout(["perturbation", "strength", "n", *kept], rows, notes, markdown)


def space_text(differences: Sequence[Mapping[str, Any]]) -> str:
    """What `space_difference` says of input and flux space, for people."""
    lines = []
    for d in differences:
        rate, fatal = estimate_text(d["attack_success_rate"], 100.0, 1), estimate_text(d["fatal_pixels"])
        pixels = "" if fatal == "-" else f", {fatal} more fatal pixels a galaxy"
        lines.append(f"{strength_text(d)}: {rate} points more galaxies flipped{pixels} (n = {d['n']})")
    return "Input minus flux space, paired:\n" + "\n".join(lines) + "\n"


def compare_table(results: Mapping[str, Sequence[Mapping[str, Any]]], markdown: bool = False) -> str:
    """Accuracy, a column per model and a row per perturbation and strength, below the clean one of the same galaxies.

    Parameters
    ----------
    results : name of a model to what `summarise` returned for it. A cell is "-" where a model lacks the unit.
    """
    found = {name: {(r["perturbation"], r["strength"]): r for r in rows} for name, rows in results.items()}
    units = list(dict.fromkeys(key for rows in found.values() for key in rows))
    rows: list[list[str]] = []
    for perturbation in dict.fromkeys(name for name, _ in units):
        for k, key in enumerate(key for key in units if key[0] == perturbation):
            across = [of.get(key) for of in found.values()]
            if k == 0:
                rows.append([perturbation, "clean", _counts(across), *(_cell(r, "clean_accuracy") for r in across)])
            strength = strength_text(next(r for r in across if r))
            rows.append([perturbation, strength, _counts(across), *(_cell(r, "perturbed_accuracy") for r in across)])
    every = [r for rows_of in results.values() for r in rows_of]
    return _layout(["perturbation", "strength", "n", *found], rows, [_parameters(every), NOTE_COMPARE], markdown)


def comparison_table(document: Mapping[str, Any], markdown: bool = False) -> str:
    """The document of `compare` for people: a row per arm and perturbation over the ladder, then each rung; notes."""
    baseline, rows = document["baseline"], []
    head = ["perturbation", "strength", "arm", "n", "trainings", f"{baseline} [%]", "arm [%]", "difference [points]"]
    head += ["p", "verdict", "difference in drop [points]", "h", "boundary ratio"]
    for r in [*document["clean"], *document["results"]]:
        clean = "perturbation" not in r
        of_these = ", these networks" if r["about"] == "networks" and r["verdict"] != "no evidence" else ""
        strength = "" if clean else f"mean of {r['rungs']}" if r["strength"] is None else strength_text(r)
        accuracy = r["clean_accuracy" if clean else "perturbed_accuracy"]
        rows.append(
            [
                "clean" if clean else r["perturbation"], strength, r["arm"], str(r["n"]),
                f"{r['trainings']['baseline']} / {r['trainings']['arm']}",
                *(estimate_text(accuracy[of], 100.0, 1) for of in ("baseline", "arm")),
                estimate_text(r["difference"], 100.0, 1),
                "-" if r["p_corrected"] is None else f"{r['p_corrected']:.2g}",
                r["verdict"] + of_these,
                "-" if clean else estimate_text(r["drop_difference"], 100.0, 1),
                f"{r['cohens_h']:+.2f}",
                "-" if clean else estimate_text(r["boundary_distance"]["scaled"]["ratio"]),
            ]
        )  # fmt: skip
    notes = [_parameters(document["results"]), NOTE_COMPARISON.format(confidence=100 * document["confidence"])]
    notes += [document["verdict_means"], f"Baseline: {baseline}. Trainings: baseline / arm."]
    for m in document["mce"]:
        if m["corruptions"]:
            said = f"{estimate_text(m)} over {len(m['corruptions'])} corruptions, n = {m['n']}"
            notes.append(f"mCE of {m['arm']}, where {baseline} is 1: {said}.")
    notes += [f"Left out: {left['perturbation']}, {left['reason']}." for left in document["left_out"]]
    flags = [(run, flag) for run in document["runs"] for flag in run["flags"]]
    notes += [f"Flag {f['code']} of {run['run']} ({run['arm']}): {f['message']}. {f['remedy']}." for run, f in flags]
    notes += [f"Note: {note}." for note in document["notes"]]
    return _layout(head, rows, notes, markdown)


def estimate_text(estimate: Mapping[str, Any], factor: float = 1.0, digits: int = 2) -> str:
    """An estimate times `factor` as text: "85.0 [80.1, 89.0]", or "-" where there is no number."""
    value, low, high = (estimate[k] for k in ("value", "low", "high"))
    if value is None:
        return "-"
    if low is None or high is None:
        return f"{factor * value:.{digits}f}"
    return f"{factor * value:.{digits}f} [{factor * low:.{digits}f}, {factor * high:.{digits}f}]"


def strength_text(result: Mapping[str, Any]) -> str:
    """A strength with its unit: "0.6 arcsec"."""
    return one_line(f"{result['strength']:.4g} {unit_text(result['unit'])}")


def unit_text(unit: str) -> str:
    """A catalogue unit for people; empty where the strength is a pure number."""
    return UNITS.get(unit, unit)


def _estimate(result: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An estimate by its name, or by "group.name"; nothing where the group is null."""
    group, _, part = name.partition(".")
    found = result[group]
    return found if not part else found[part] if found else {"value": None, "low": None, "high": None, "n": 0}


def _cell(result: Mapping[str, Any] | None, field: str) -> str:
    return estimate_text(result[field], 100.0, 1) if result else "-"


def _counts(across: Sequence[Mapping[str, Any] | None]) -> str:
    """Galaxies behind a row: one number where all models have the same, else one per model."""
    counts = [str(r["n"]) if r else "-" for r in across]
    return counts[0] if len(set(counts)) == 1 else "/".join(counts)


def _parameters(results: Sequence[Mapping[str, Any]]) -> str:
    """What the strength of each perturbation is."""
    named = dict.fromkeys(f"{r['perturbation']}: {r['parameter']}" for r in results)
    return f"Strength. {'; '.join(named)}." if named else "No results yet."


def one_line(text: object) -> str:
    """Text on one line, without the control characters that a terminal or a log would obey."""
    return "".join(c for c in " ".join(str(text).split()) if c.isprintable())


def escaped(text: object) -> str:
    """Text as Markdown shows it, on one line and in one cell of a table; only what could be markup is changed."""
    words = one_line(text)
    for mark, shown in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        words = words.replace(mark, shown)
    # brackets make a link only where a parenthesis, a bracket or a colon follows; an underscore within a word is none
    return re.sub(r"[\\`*|~]|\](?=[(\[:])|(?<!\w)_|_(?!\w)", r"\\\g<0>", words)


def _layout(head: list[str], rows: list[list[str]], notes: list[str], markdown: bool) -> str:
    if markdown:
        cells = [[escaped(cell) for cell in row] for row in (head, *rows)]
        rule = ["---", "---"] + ["---:"] * (len(head) - 2)
        lines = ["| " + " | ".join(row) + " |" for row in (cells[0], rule, *cells[1:])]
        return "\n".join([*lines, "", "\n\n".join(escaped(note) for note in notes)]) + "\n"
    rows, notes = [[one_line(cell) for cell in row] for row in rows], [one_line(note) for note in notes]
    widths = [max(len(row[k]) for row in (head, *rows)) for k in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(w) if k < 2 else cell.rjust(w) for k, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in (head, *rows)
    ]
    return "\n".join(line.rstrip() for line in [lines[0], "-" * len(lines[0]), *lines[1:], "", *notes]) + "\n"
