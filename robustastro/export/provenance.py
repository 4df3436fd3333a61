"""Where the numbers of an exported run come from, in words that every format can carry."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from robustastro import __version__
from robustastro.metrics.distances import boundary_reason, latent_scale
from robustastro.metrics.tables import unit_text
from robustastro.record import Record

# what it is called in the header of a FITS file, where a list is numbered: PERT1, PERT2, ...
KEYWORDS = {
    "creator": "CREATOR",
    "run": "RUN",
    "run_version": "VERSION",
    "plan_sha256": "PLAN_SHA",
    "created": "CREATED",
    "git_commit": "GIT",
    "device": "DEVICE",
    "evaluation_seed": "EV_SEED",
    "model": "MODEL",
    "model_sha256": "MODELSHA",
    "arch": "ARCH",
    "method": "METHOD",
    "training_seed": "TR_SEED",
    "data": "DATA",
    "data_sha256": "DATA_SHA",
    "latent_scale": "LATSCALE",
    "boundary_reason": "BOUNDARY",
    "classes": "CLASS",
    "perturbations": "PERT",
    "flags": "FLAG",
    "unfinished": "UNFIN",
}


def provenance(record: Record, perturbations: Sequence[str] = ()) -> dict[str, str | int | float | list[str]]:
    """Text, numbers and lists of text; what is not known is left out.

    `latent_scale` is the mean distance between class centroids: divide distances in the latent space by it before
    comparing two models. `unfinished` names the units that lack galaxies, with how many there are.
    """
    run, model, data = record.run, record.run["model"], record.run["data"]
    scale, _ = latent_scale(record.head.centroids)
    facts = {
        "creator": f"robustastro {__version__}",
        "run": record.path.resolve().name,
        "run_version": run.get("versions", {}).get("robustastro"),
        "plan_sha256": run.get("plan_sha256"),
        "created": run.get("created"),
        "git_commit": run.get("git"),
        "device": run.get("device"),
        "evaluation_seed": run.get("seed"),
        "model": model.get("name"),
        "model_sha256": model.get("sha256"),
        "arch": model.get("arch"),
        "method": model.get("method"),
        "training_seed": model.get("training_seed"),
        "data": data.get("domain"),
        "data_sha256": data.get("sha256"),
        "latent_scale": scale if scale == scale else None,
        "boundary_reason": boundary_reason(record.head),
        "classes": list(record.classes),
        "perturbations": [
            _perturbation(p) for p in run["perturbations"] if not perturbations or p["name"] in perturbations
        ],
        "flags": [f"{flag['code']}: {flag['message']}. {flag['remedy']}." for flag in run["flags"]],
        "unfinished": _unfinished(record, perturbations),
    }
    return {name: value for name, value in facts.items() if value is not None and value != []}


def flat(facts: Mapping[str, Any], keywords: Mapping[str, str] | None = None) -> dict[str, Any]:
    """One entry per text or number: a list is numbered from 1, the classes from 0 as in `label_index`."""
    entries: dict[str, Any] = {}
    for name, value in facts.items():
        key = name if keywords is None else keywords[name]
        if isinstance(value, list):
            joint = "_" if keywords is None else ""
            entries |= {f"{key}{joint}{k}": one for k, one in enumerate(value, start=int(name != "classes"))}
        else:
            entries[key] = value
    return entries


def _perturbation(entry: Mapping[str, Any]) -> str:
    unit = unit_text(entry["unit"])
    options = f", options {json.dumps(entry['options'])}" if entry.get("options") else ""
    return f"{entry['name']} version {entry['version']}: {entry['parameter']}{f' [{unit}]' if unit else ''}{options}"


def _unfinished(record: Record, perturbations: Sequence[str]) -> list[str]:
    total = len(record.galaxies)
    counts = [
        (u, len(record.unit(u.perturbation, u.strength)))
        for u in record.units()
        if not perturbations or u.perturbation in perturbations
    ]
    return [f"{u.perturbation} {u.strength:.10g}: {n} of {total} galaxies" for u, n in counts if n < total]
