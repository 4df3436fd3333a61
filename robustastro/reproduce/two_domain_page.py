"""Tables that the pages of studies of a source and a target share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from robustastro.data.domains import TEST_BEDS
from robustastro.metrics.tables import strength_text
from robustastro.reproduce.measures import Arm
from robustastro.reproduce.pages import Row, points
from robustastro.reproduce.two_domains import DOMAINS, ROBUST, Setting

SHOWN = (3, 5)  # severities
NO_EXPOSURE = "these images have no Exposure, so what another seeing or depth would give is not known"


def context(setting: Setting, found: Row) -> dict[str, Any]:
    """What `reproduce_two_domains.md.j2` asks for beside the document."""
    accuracy = found["accuracy"]
    return {
        "archs": list(dict.fromkeys(row["arch"] for row in accuracy)),
        "beds": list(dict.fromkeys(row["bed"] for row in accuracy)),
        "rows": rows, "accuracy_cells": accuracy_cells, "robust_cells": robust_cells, "drops": drops,
        "search": search_text(setting.size.search),
    }  # fmt: skip


def rows(table: Sequence[Row], arch: str, bed: str) -> list[Row]:
    """Those of an architecture and a test bed."""
    return [row for row in table if (row["arch"], row["bed"]) == (arch, bed)]


def accuracy_cells(row: Row) -> list[str]:
    """A row of `two_domain_measures.accuracies`."""
    kind = "control" if row["control"] else "adaptation"
    tuned = "" if row["control"] or row["tuned"] == "without target labels" else f", tuned {row['tuned']}"
    seeds = sorted({f"{100 * value:.1f}" for value in row["target_by_seed"]}, key=float)
    gain = row["gain_target"]
    return [
        row["method"], kind + tuned, str(len(row["seeds"])), str(len(row["collapsed"])), points(row["source"]),
        points(row["target"]), " to ".join(dict.fromkeys((seeds[0], seeds[-1]))),
        "" if row["gain_source"] is None else points(row["gain_source"]), "" if gain is None else points(gain),
        "" if gain is None or gain["p_corrected"] is None else f"{gain['p_corrected']:.2g}",
        " ".join(f"{value:.2f}" for value in row["apart_by_seed"] if value is not None) or "-",
    ]  # fmt: skip


def drops(table: Sequence[Row]) -> list[str]:
    """What the columns of losses are of: perturbation and strength."""
    return [f"{drop['perturbation']} {strength_text(drop)}" for drop in _shown(table[0])]


def robust_cells(row: Row) -> list[str]:
    """A row of `two_domain_measures.robustness`."""
    losses = [points(drop["drop"]) for drop in _shown(row)]
    return [row["method"], str(row["trainings"]), points(row["clean"]), points(row["onepixel"]), *losses]


def _shown(row: Row) -> list[Mapping[str, Any]]:
    return [drop for drop in row["drops"] if drop["severity"] in SHOWN]


def search_text(options: Mapping[str, Any]) -> str:
    """The one-pixel search in words."""
    from robustastro.evaluate.plan import step

    found = step("onepixel", options=options).options
    return f"{found['pop']} candidates in {found['generations']} generations"


def about(setting: Setting, arms: Sequence[Arm], known: Mapping[str, Any]) -> dict[str, Any]:
    """What the page says of the study as a whole."""
    recipe = arms[0].trainings[0]["recipe"]
    flux = all(r[ROBUST].run["exposure"] is not None for arm in arms for r in arm.records if ROBUST in r)
    first = {setting.variants[arm.method].bed: arm for arm in reversed(arms)}
    return {
        **known, "mocks": setting.data is None, "device": setting.device,
        "not_attacked_in_flux": None if flux else NO_EXPOSURE,
        "recipe": {n: v for n, v in recipe.items() if n not in ("options", "method", "init", "fisher", "entropy")},
        "size": asdict(setting.size),
        "beds": {bed: sentence(setting, bed, arm) for bed, arm in first.items()},
    }  # fmt: skip


def sentence(setting: Setting, bed: str, arm: Arm) -> str:
    """What a test bed is."""
    near, far = (arm.records[0][name].run["data"]["domain"] for name in DOMAINS)
    if setting.data is not None:
        return f"From {near} to {far}."
    source, target = setting.mocks(bed, setting.size.galaxies[bed])
    what = TEST_BEDS[bed.partition("-")[0]]
    return (
        f"{what.description[0].upper()}{what.description[1:]}: from {near} (source, {source.n} galaxies) to {far} "
        f"(target, {target.n}), {source.size} pixels. Numbers: {what.numbers}."
    )
