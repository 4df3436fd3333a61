"""What a rule judges: the units of a run that its target and rung name, or a refusal where the run has none."""

from __future__ import annotations

from collections.abc import Iterator

from perturbations.errors import InputError, unknown_name
from robustastro.gate.measures import Results
from robustastro.gate.rules import Rule
from robustastro.record import Unit


def matched(rule: Rule, results: Results) -> list[str]:
    """The perturbations that a rule names; of a rule for clean images the first of the run, whose galaxies they are."""
    entries = results.entries
    if rule.perturbation is not None:
        if rule.perturbation not in entries:
            hint = "Clean images are judged with clean = true" if rule.perturbation == "clean" else None
            raise unknown_name(f"perturbation of the run {results.record.path}", rule.perturbation, entries, hint)
        return [rule.perturbation]
    if rule.family is None:
        return list(entries)[:1] if rule.clean else list(entries)
    families = {str(entry.get("family")) for entry in entries.values()}
    if rule.family not in families:
        raise unknown_name(f"family of the run {results.record.path}", rule.family, families)
    return [name for name, entry in entries.items() if entry.get("family") == rule.family]


def scopes(rule: Rule, results: Results) -> Iterator[list[Unit]]:
    """The units that are judged together, one list after the other; an empty one stands for the clean images."""
    if rule.clean:
        yield []
        return
    units = {name: _chosen(rule, name, results.units(name)) for name in matched(rule, results)}
    if rule.over == "worst":
        yield [unit for of in units.values() for unit in of]
    elif rule.over == "mean":
        yield from units.values()
    else:
        yield from ([unit] for of in units.values() for unit in of)


def _chosen(rule: Rule, perturbation: str, units: list[Unit]) -> list[Unit]:
    """The rungs of a perturbation that a rule names; all of them where it names none."""
    found = units
    if rule.severity is not None:
        found = [unit for unit in units if unit.severity == rule.severity]
    if rule.strength is not None:
        found = [unit for unit in units if f"{unit.strength:.10g}" == f"{rule.strength:.10g}"]
    if not found:
        wanted = f"severity {rule.severity}" if rule.severity is not None else f"strength {rule.strength}"
        there = ", ".join(f"{u.strength:g}" + (f" (severity {u.severity})" if u.severity else "") for u in units)
        raise InputError(
            f"no {wanted} of {perturbation} in the run",
            f"strengths of the run: {there or 'none'}",
            "name one of these, or evaluate it",
        )
    return found
