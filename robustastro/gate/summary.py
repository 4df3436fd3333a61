"""A verdict for people: a table, a Markdown page, and annotations that GitHub shows beside a change."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from robustastro.gate.checks import Check, estimate_words, limit_words
from robustastro.gate.junit import junit
from robustastro.gate.verdict import Verdict
from robustastro.metrics.tables import escaped
from robustastro.progress import say
from robustastro.record import write_whole

HEAD = ("rule", "judged", "measure", "value and interval", "limit", "n", "result")


def text(verdict: Verdict) -> str:
    """Every check in a table, then what is uncertain, flags and notes; the verdict is the last line."""
    rows = [HEAD, *(_row(check) for check in verdict.checks)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines = [lines[0], "-" * len(lines[0]), *lines[1:], "", *_remarks(verdict)]
    return "\n".join([*lines, f"verdict: {verdict.status} ({_counts(verdict)})"]) + "\n"


def markdown(verdict: Verdict) -> str:
    """The same as a Markdown page, the verdict first."""
    lines = [f"## Robustness gate: {verdict.status}", "", f"{_counts(verdict)}. Run: {verdict.run}"]
    lines[-1] += f"; baseline: {verdict.baseline}" if verdict.baseline else ""
    table = ["| " + " | ".join(HEAD) + " |", "|" + " --- |" * len(HEAD)]
    table += ["| " + " | ".join(escaped(cell) for cell in _row(check)) + " |" for check in verdict.checks]
    lines[-1] = escaped(lines[-1])
    return "\n".join([*lines, "", *table, "", *(f"- {escaped(line)}" for line in _remarks(verdict))]).rstrip() + "\n"


def github_annotations(verdict: Verdict) -> Iterator[str]:
    """Workflow commands of GitHub, what fails first: it shows only ten of a kind."""
    found = []
    for check in verdict.checks:
        level = {"fail": "error", "warn": "warning"}.get(check.counted_as)
        level = level or ("notice" if check.status == "uncertain" else None)
        if level:
            found.append((level, f"{check.rule}: {check.where}", check.message))
    for flag in verdict.flags:
        words = f"{flag.message}. {flag.remedy}."
        found.append(("notice" if flag.allowed else "error", f"flag {flag.code} of the {flag.of}", words))
    found += [("notice", "note", note) for note in verdict.notes]
    for level, title, message in sorted(found, key=lambda item: ("error", "warning", "notice").index(item[0])):
        yield f"::{level} title={_property(f'robustastro gate: {title}')}::{_data(message)}"


def publish(
    verdict: Verdict, junit_file: Path | None, summary_file: Path | None, environment: Mapping[str, str] = os.environ
) -> None:
    """Write what was asked for, whole or not at all; on GitHub also the step summary, and annotations to stderr.

    Raises
    ------
    InputError : a file cannot be written.
    """
    if junit_file is not None:
        write_whole(junit_file, lambda file: file.write_text(junit(verdict), encoding="utf-8"))
    if summary_file is not None:
        write_whole(summary_file, lambda file: file.write_text(markdown(verdict), encoding="utf-8"))
    if step := environment.get("GITHUB_STEP_SUMMARY"):
        try:
            with open(step, "a", encoding="utf-8") as file:
                file.write(markdown(verdict))
        except OSError as problem:  # the verdict stands without it
            say(f"no step summary: cannot write {step}: {problem.strerror or problem}")
    if environment.get("GITHUB_ACTIONS") == "true":
        for line in github_annotations(verdict):
            say(line)


def _row(check: Check) -> tuple[str, ...]:
    result = check.status if check.status != "uncertain" else f"uncertain: {check.counted_as}"
    words = estimate_words(check.kind, check.estimate), limit_words(check.kind, check.limit)
    return check.rule, check.where, check.measure.replace("_", " "), *words, str(check.estimate.n), result


def _remarks(verdict: Verdict) -> list[str]:
    lines = [f"{c.rule}: {c.where}: {c.message}" for c in verdict.checks if c.status == "uncertain"]
    for flag in verdict.flags:
        state = "allowed" if flag.allowed else "not allowed, so the gate fails"
        lines.append(f"flag {flag.code} of the {flag.of} ({state}): {flag.message}. {flag.remedy}.")
    return [" ".join(line.split()) for line in (*lines, *(f"note: {note}" for note in verdict.notes))]


def _counts(verdict: Verdict) -> str:
    """As in: 12 checks: 10 pass, 1 fail, 1 uncertain; 1 flag not allowed."""
    found = Counter(check.status for check in verdict.checks)
    parts = ", ".join(f"{found[status]} {status}" for status in ("pass", "fail", "uncertain") if found[status])
    refused = sum(not flag.allowed for flag in verdict.flags)
    flags = f"; {refused} flag{'s' if refused > 1 else ''} not allowed" if refused else ""
    return f"{len(verdict.checks)} check{'s' if len(verdict.checks) != 1 else ''}: {parts}{flags}"


def _data(message: str) -> str:
    """The message of a workflow command (escapeData in command.ts of @actions/core)."""
    return message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(words: str) -> str:
    """A property of a workflow command (escapeProperty in the same file)."""
    return _data(words).replace(":", "%3A").replace(",", "%2C")
