"""A first rules file, made from a run: limits at the ends of its intervals, so that the same model keeps them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Literal

from perturbations.errors import InputError
from robustastro.gate.checks import estimate_words, place_words
from robustastro.gate.measures import NAMES, Outcome, Results, clean_outcome, measure, outcome
from robustastro.metrics.intervals import CONFIDENCE
from robustastro.record import Record, Unit

HEAD = """\
# Rules that {path} keeps. Every limit stands at the end of the {percent:g}% interval of what was measured, rounded
# away from it. Choose what your science needs instead, and drop what does not matter: see docs/gate.md.
schema = 1
confidence = {confidence:g}
on_uncertain = "pass"  # or "fail" or "warn": the limit lies within the interval
"""


def first_rules(record: Record) -> str:
    """A rules file that the run passes once its flags are allowed: one or two rules for each perturbation.

    Raises
    ------
    InputError : the run is unfinished, has no labels, or is so poor that no limit could be broken.
    """
    results = Results(record, distances=False)
    blocks = [_rule(["clean = true"], clean_outcome(results), ["min_accuracy"])]
    for name, entry in results.entries.items():
        units = results.units(name)
        change = "max_success_rate" if entry.get("kind") == "attack" else "max_drop"
        worst = max(units, key=lambda unit: unit.severity or 0) if all(u.severity for u in units) else units[-1]
        rung = f"severity = {worst.severity}" if worst.severity else f"strength = {worst.strength!r}"
        target = f"perturbation = {_quoted(name)}"
        if len(units) == 1:
            blocks.append(_rule([target, rung], _of(results, units, None), ["min_accuracy", change]))
        else:
            blocks.append(_rule([target, rung], _of(results, [worst], None), ["min_accuracy"]))
            blocks.append(_rule([target, 'over = "mean"'], _of(results, units, "mean"), [change]))
    if not any("[[rule]]" in block for block in blocks):
        raise InputError(
            f"nothing that {record.path} measured can be a limit",
            "a model that is sometimes right",
            "write rules by hand",
        )
    head = HEAD.format(path=_comment(str(record.path)), percent=100 * CONFIDENCE, confidence=CONFIDENCE)
    return "\n".join([head + _flags(record), *blocks])


def _of(results: Results, units: Sequence[Unit], over: Literal["mean"] | None) -> Outcome:
    unit = units[0]
    rung = (None, None, "") if over else (unit.severity, unit.strength, unit.unit)
    return outcome(results, units, over, place_words(unit.perturbation, *rung, over))


def _rule(target: list[str], run: Outcome, kinds: list[str]) -> str:
    """One [[rule]] with what was measured as comments; comments only where nothing can be a limit."""
    comments, limits = [], []
    for kind in kinds:
        name = NAMES[kind].replace("_", " ").replace("perturbed ", "")
        try:
            found, _ = measure(kind, run, None, CONFIDENCE)
        except InputError as problem:
            comments.append(f"# {_comment(str(problem))}")
            continue
        comments.append(f"# {_comment(run.of)}: {name} {estimate_words(kind, found)}, n = {found.n}")
        if kind.startswith("min_"):
            limit = math.floor(100 * found.low - 1e-9) / 100
            useful = limit > 0
        else:
            limit = max(math.ceil(100 * found.high + 1e-9) / 100, 0.0)
            useful = limit < 1
        if useful:
            limits.append(f"{kind} = {limit:g}")
        else:
            comments.append(f"# no {kind}: nothing could break it")
    return "\n".join(comments + (["[[rule]]", *target, *limits] if limits else [])) + "\n"


def _flags(record: Record) -> str:
    """What doubts there are, and the line that allows them, commented out: that is for a person to decide."""
    flags = {flag["code"]: flag["message"] for flag in record.run["flags"]}
    if not flags:
        return ""
    lines = [f"# flag {_comment(code)}: {_comment(message)}" for code, message in flags.items()]
    codes = _comment(", ".join(_quoted(code) for code in flags))
    return "\n".join(
        [
            "",
            "# A flagged run fails. Flags that you accept are allowed by name:",
            *lines,
            f"# allow_flags = [{codes}]",
            "",
        ]
    )


def _quoted(text: str) -> str:
    """A TOML basic string; JSON's, but for what TOML wants escaped as well."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _comment(text: str) -> str:
    """Text on one line, without the control characters that TOML forbids in comments."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
