"""Whether two runs may be compared: the same galaxies, perturbed in the same way.

A difference between two models means something only where nothing else differs. What would make it mean something else
is refused by name; what may differ is said in notes.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from perturbations.errors import InputError, unknown_name
from robustastro.record import Record

UNKNOWN = object()  # what an old record does not say
PACKAGES = ("robustastro", "torch")
REMEDY = "evaluate both models with the same command, apart from --model and --out"


def refuse_unlike(first: Record, second: Record, perturbation: str) -> list[str]:
    """Refuse two runs whose results for a perturbation cannot be compared galaxy by galaxy.

    What an old record does not say is taken as unknown, and said in a note.

    Parameters
    ----------
    first, second : runs of two models, or of one at two times. Their galaxies may be in another order.
    perturbation : a name that both runs plan.

    Returns
    -------
    Notes for people: what differs and does not forbid the comparison (evaluation seed, input contract, versions of
    robustastro and torch, git commit, the set a perturbation was fitted to), and what is not known of a run.

    Raises
    ------
    InputError : the runs differ in the classes, the galaxies, their labels, their data (SHA-256), the version of the
        perturbation, one of its options (the stop rule is one) or its strengths; or a strength is unfinished in one.
    """
    one, other = (_entry(record, perturbation) for record in (first, second))
    if first.classes != second.classes:
        raise _unlike("classes", first, ", ".join(first.classes), second, ", ".join(second.classes))
    unknown = _refuse_galaxies(first, second) + _refuse_settings(first, one, second, other)
    for record, entry in ((first, one), (second, other)):
        _refuse_unfinished(record, entry)
    notes, silent = _differences(first, second, one)
    unknown += silent
    if unknown:
        notes.append(f"not known of {first.path} or {second.path}, so it may differ: {', '.join(unknown)}")
    return notes


def _entry(record: Record, perturbation: str) -> dict[str, Any]:
    """What a run plans for a perturbation."""
    entries = {p["name"]: p for p in record.run["perturbations"]}
    if perturbation not in entries:
        raise unknown_name("perturbation", perturbation, entries, f"It is not in the run {record.path}")
    if len(entries) != len(record.run["perturbations"]):
        raise InputError(
            f"{record.path} lists a perturbation twice", "each perturbation once", "run each set of options on its own"
        )
    return entries[perturbation]


def _refuse_galaxies(first: Record, second: Record) -> list[str]:
    """Refuse other ids, labels or data; returns which of these is not known."""
    one, other = _labels(first), _labels(second)
    lost, new = one.index.difference(other.index), other.index.difference(one.index)
    if len(lost) or len(new):
        raise InputError(
            f"galaxies differ: {len(lost)} of {len(one)} are only in {first.path}, {len(new)} of {len(other)} only in "
            f"{second.path}",
            "runs of the same galaxies",
            "give both runs the same --data and --limit",
        )
    changed = int((one != other.loc[one.index]).sum())
    if changed:
        raise InputError(
            f"labels differ: {changed} of {len(one)} galaxies have another label in {first.path} than in {second.path}",
            "runs of the same labels", "give both runs the same --data and --label-column",
        )  # fmt: skip
    hashes = [(record.run.get("data") or {}).get("sha256") or UNKNOWN for record in (first, second)]
    if UNKNOWN in hashes:
        return ["SHA-256 of the data"]
    if hashes[0] != hashes[1]:
        raise InputError(
            f"data differ: galaxies of the same ids and labels, but their SHA-256 is {str(hashes[0])[:12]} in "
            f"{first.path} and {str(hashes[1])[:12]} in {second.path}",
            "runs of the same images, exposure and order",
            "give both runs the same --data",
        )
    return []


def _labels(record: Record) -> pd.Series:
    try:
        return pd.Series(record.galaxies["label"].fillna(-1).astype("int64"))
    except OSError:
        raise InputError(f"{record.path} holds no galaxies", "a finished run", "resume it with its command") from None


def _refuse_settings(first: Record, one: dict[str, Any], second: Record, other: dict[str, Any]) -> list[str]:
    """Refuse another version, option or strength; returns which of these is not known."""
    name, unknown = one["name"], []
    versions = [entry.get("version", UNKNOWN) for entry in (one, other)]
    if UNKNOWN in versions:
        unknown.append(f"version of {name}")
    elif versions[0] != versions[1]:
        raise _unlike(f"versions of {name}", first, versions[0], second, versions[1])
    options = [entry.get("options") or {} for entry in (one, other)]
    unlike = []
    for option in sorted(options[0].keys() | options[1].keys()):
        values = [of.get(option, UNKNOWN) for of in options]
        if UNKNOWN in values:
            unknown.append(f"option {option} of {name}")
        elif values[0] != values[1]:
            unlike.append((option, *values))
    if unlike:
        raise InputError(
            f"options of {name} differ: "
            + "; ".join(f"{option} = {a} in {first.path}, {b} in {second.path}" for option, a, b in unlike),
            "runs with the same options",
            REMEDY,
        )
    strengths = [[f"{rung['strength']:.10g}" for rung in entry["rungs"]] for entry in (one, other)]
    if set(strengths[0]) != set(strengths[1]):
        raise _unlike(f"strengths of {name}", first, ", ".join(strengths[0]), second, ", ".join(strengths[1]))
    return unknown


def _refuse_unfinished(record: Record, entry: dict[str, Any]) -> None:
    for rung in entry["rungs"]:
        done, planned = record.rows(entry["name"], rung["strength"]), len(record.galaxies)
        if done < planned:
            raise InputError(
                f"{entry['name']} at {rung['strength']:.10g} is unfinished in {record.path}: {done} of {planned} "
                "galaxies",
                "finished runs", "resume it with its command",
            )  # fmt: skip


def _differences(first: Record, second: Record, entry: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Notes on what differs and may, and which of it is not known."""
    name, told = entry["name"], [_told(record) for record in (first, second)]
    if any(record.fitted(name, rung["strength"]) for record in (first, second) for rung in entry["rungs"]):
        for record, of in zip((first, second), told, strict=True):
            of[f"set that {name} was fitted to"] = (record.run.get("fitted_on") or {}).get("sha256", UNKNOWN)
    notes, unknown = [], []
    for what in told[0]:
        values = [of[what] for of in told]
        if UNKNOWN in values:
            unknown.append(what)
        elif values[0] != values[1]:
            notes.append(f"another {what}: {values[0]} in {first.path}, {values[1]} in {second.path}")
    contracts = [record.run["contract"] for record in (first, second)]
    keys = sorted(k for k in contracts[0].keys() | contracts[1].keys() if contracts[0].get(k) != contracts[1].get(k))
    if keys:
        notes.append(
            f"input contracts of {first.path} and {second.path} differ in {', '.join(keys)}: a strength in input space "
            "does not mean the same to both"
        )
    return notes, unknown


def _told(record: Record) -> dict[str, Any]:
    """What a run says of how it was made, by what people call it."""
    run = record.run
    versions = run.get("versions") or {}
    return {
        "evaluation seed": run.get("seed", UNKNOWN),
        "git commit": run.get("git", UNKNOWN),  # null outside a clone, which is an answer
        **{f"version of {package}": versions.get(package, UNKNOWN) for package in PACKAGES},
    }


def _unlike(what: str, first: Record, one: Any, second: Record, other: Any) -> InputError:
    return InputError(
        f"{what} differ: {one} in {first.path}, {other} in {second.path}", f"runs of the same {what}", REMEDY
    )
