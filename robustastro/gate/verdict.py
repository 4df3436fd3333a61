"""The verdict of rules on a run: every limit against an interval, and the flags of the run.

A limit is broken only where the whole interval lies beyond it, and kept only where the whole interval does not. Between
the two the galaxies cannot tell; `on_uncertain` says what becomes of it.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from perturbations.errors import InputError
from robustastro.gate.checks import Check, checks
from robustastro.gate.measures import Results
from robustastro.gate.rules import Rule, Rules
from robustastro.gate.scope import matched, scopes
from robustastro.metrics.comparable import refuse_unlike
from robustastro.record import Record, jsonable


@dataclass(frozen=True)
class RaisedFlag:
    """A flag of the run or of the baseline (`of`), and whether the rules allow it."""

    of: Literal["run", "baseline"]
    code: str
    message: str
    remedy: str
    allowed: bool


@dataclass(frozen=True)
class Verdict:
    """All checks and flags; "fail" if one check counts as failed or one flag is not allowed."""

    run: str
    rules: str
    baseline: str | None
    checks: tuple[Check, ...]
    flags: tuple[RaisedFlag, ...]
    notes: tuple[str, ...]

    @property
    def status(self) -> Literal["pass", "fail"]:
        kept = all(check.counted_as in ("pass", "warn") for check in self.checks)
        return "pass" if self.checks and kept and all(flag.allowed for flag in self.flags) else "fail"

    def to_dict(self) -> dict[str, Any]:
        """The document of `gate --json` (schema 1)."""
        return jsonable(
            {
                "schema": 1,
                "run": self.run,
                "rules": self.rules,
                "baseline": self.baseline,
                "verdict": self.status,
                "checks": [{**vars(check), "estimate": check.estimate.to_dict()} for check in self.checks],
                "flags": [vars(flag) for flag in self.flags],
                "notes": self.notes,
            }
        )


def judge(record: Record, rules: Rules, baseline: Record | None = None) -> Verdict:
    """Judge a run by rules.

    Raises
    ------
    InputError : the run or the baseline is unfinished or has no labels; a rule names what the run does not have, or
        asks for what cannot be estimated; a baseline that is missing, or that no rule asks for, or that is the run
        itself or a run of something else.
    """
    compares = [rule for rule in rules.rule if rule.no_worse_than_baseline is not None]
    _refuse_baseline(record, baseline, bool(compares))
    distances = any(limit.startswith("min_boundary") for rule in rules.rule for limit in rule.limits)
    results = Results(record, distances)
    other = None if baseline is None else Results(baseline, distances=False)
    notes: list[str] = []
    done: list[Check] = []
    lacking: dict[str, str] = {}
    for name, rule in zip(rules.names, rules.rule, strict=True):
        if baseline is not None and other is not None and rule.no_worse_than_baseline is not None:
            _refuse_less(rule, results, other)
            for perturbation in matched(rule, results):
                notes += refuse_unlike(record, baseline, perturbation)
        for units in scopes(rule, results):
            done += checks(name, rule, rules, units, results, other)
        lacking |= _partial_ladders(rule, results)
    if lacking:
        notes.append(f"not judged, since the run does not have these strengths: {'; '.join(lacking.values())}")
    flags = _flags(record, baseline, rules)
    notes += _remarks(results, rules, done, flags)
    return Verdict(
        run=str(record.path),
        rules=rules.source,
        baseline=None if baseline is None else str(baseline.path),
        checks=tuple(done),
        flags=flags,
        notes=tuple(dict.fromkeys(notes)),
    )


def _refuse_baseline(record: Record, baseline: Record | None, wanted: bool) -> None:
    if wanted and baseline is None:
        raise InputError("no_worse_than_baseline without a baseline", "a run to compare with", "add --baseline RUN")
    if baseline is None:
        return
    if not wanted:
        raise InputError(
            f"the baseline {baseline.path} that no rule asks for",
            "a rule with no_worse_than_baseline",
            "add one, or leave --baseline out",
        )
    if baseline.path.resolve() == record.path.resolve():
        raise InputError(f"{record.path} as its own baseline", "another run", "name the run of the earlier model")


def _flags(record: Record, baseline: Record | None, rules: Rules) -> tuple[RaisedFlag, ...]:
    found = []
    runs: list[tuple[Literal["run", "baseline"], Record | None]] = [("run", record), ("baseline", baseline)]
    for of, flagged in runs:
        for flag in flagged.run["flags"] if flagged is not None else ():
            allowed = flag["code"] in rules.allow_flags
            found.append(RaisedFlag(of, flag["code"], flag["message"], flag["remedy"], allowed))
    return tuple(found)


def _refuse_less(rule: Rule, results: Results, baseline: Results) -> None:
    """Refuse a run without a perturbation that the rule means and the baseline has: nothing would compare it."""
    lost = set(matched(rule, baseline)) - set(matched(rule, results)) if rule.perturbation is None else set()
    if lost:
        raise InputError(
            f"{results.record.path} lacks {', '.join(sorted(lost))}, which the baseline has",
            "a run of everything that the rule compares",
            "run the same suite, or make rules for single perturbations",
        )


def _partial_ladders(rule: Rule, results: Results) -> dict[str, str]:
    """Of the perturbations of which a rule means the whole ladder: the strengths that the run does not have."""
    if rule.clean or rule.severity is not None or rule.strength is not None:
        return {}
    found = {}
    for name in matched(rule, results):
        ladder = results.entries[name].get("ladder") or ()
        there = {f"{unit.strength:.10g}" for unit in results.units(name)}
        missing = [f"{s:g}" for s in ladder if f"{s:.10g}" not in there]
        if missing:
            found[name] = f"{name} {', '.join(missing)}"
    return found


def _remarks(results: Results, rules: Rules, done: Sequence[Check], flags: Sequence[RaisedFlag]) -> list[str]:
    """What else a reader of the verdict should know."""
    notes = []
    unlabelled = int((~results.labelled).sum())
    if unlabelled:
        notes.append(f"{unlabelled} of {len(results.labelled)} galaxies have no label and are not judged")
    if any(check.kind == "min_worst_class" for check in done):
        labels = set(results.record.galaxies["label"])
        empty = [name for k, name in enumerate(results.record.classes) if k not in labels]
        if empty:
            notes.append(f"classes without a galaxy, which are not judged: {', '.join(empty)}")
    if all(check.status == "uncertain" for check in done):
        notes.append(
            f"no check could be decided with {int(results.labelled.sum())} galaxies: this gate holds nothing up"
        )
    raised = {flag.code for flag in flags}
    for code in rules.allow_flags:
        if code not in raised:
            near = difflib.get_close_matches(code, sorted(raised), n=1, cutoff=0.5)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            notes.append(f"allow_flags names '{code}', which is not raised{hint}")
    return notes
