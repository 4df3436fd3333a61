"""The results of a run: one entry per perturbation and strength, each number with its 95% interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from perturbations.errors import InputError
from robustastro.metrics.distances import boundary_reason, latent_scale
from robustastro.metrics.intervals import (
    NOTHING,
    Estimate,
    balanced,
    mean,
    median,
    paired_drop,
    proportion,
    worst_class,
)
from robustastro.metrics.paired import Paired, pair
from robustastro.metrics.pixels import certificate, fatal_pixels, pixels
from robustastro.record import Record, Unit


def summarise(record: Record) -> list[dict[str, Any]]:
    """The `results` of `attack --json`, for each unit of a record that has rows, in the order of the plan.

    An estimate is {"value", "low", "high", "n"}, null where there is nothing to estimate. A unit that was interrupted
    has a smaller `n`; one that has not begun is left out. All numbers of an entry are of the same galaxies.

    - `clean_accuracy`, `perturbed_accuracy` (Wilson), `accuracy_drop` (paired, Newcombe) and `per_class` are fractions
      of the labelled galaxies.
    - `balanced_accuracy`, `worst_class` and, with `_clean`, the same before: mean and smallest of the accuracies of the
      classes that have galaxies. `worst_class` also says which "class" that is (null without any).
    - `attack_success_rate`: flipped / clean-correct (Wilson), for corruptions too. Of an attack with a `target`: of the
      clean-correct galaxies of other classes, those that became the target.
    - `latent_shift` over all galaxies, `flip_distance` over flipped ones, `boundary_distance` and `centroid_margin` at
      the perturbed image and, with `_clean`, at the clean one: means with t intervals. `boundary_reason` says why a
      boundary distance is null.
    - `_scaled`: the same divided by `latent_scale`, the mean distance between class centroids over its `n` pairs.
    - `queries_median`: forward passes of an attack per galaxy that could be a success (order-statistic interval); null
      for corruptions.
    - `fatal_pixels` and `certificate` of an attack that tries every pixel, over the same galaxies (see
      `robustastro.metrics.pixels`); null for others, and where no certificate was asked for.

    Raises
    ------
    InputError : run.json lists a perturbation twice, so that its rows could be of either entry.
    """
    entries = {p["name"]: p for p in record.run["perturbations"]}
    if len(entries) != len(record.run["perturbations"]):
        raise InputError(
            f"{record.path} lists a perturbation twice", "each perturbation once", "run each set of options on its own"
        )
    results = []
    for unit in record.units():
        paired = pair(record, unit)
        if paired is not None:
            results.append(_result(record, unit, entries[unit.perturbation], paired))
    return results


def common_flips(records: Mapping[str, Record], perturbation: str, strength: float) -> dict[str, dict[str, Any]]:
    """Flip distances of several models over the galaxies that were flipped in all of them.

    A mean over each model's own flipped galaxies compares different galaxies: the sturdier model's are the harder ones.

    Returns
    -------
    For each name: `flipped` of `clean_correct` galaxies in that model, `common` flipped in all models, and over these
    `flip_distance` and `flip_distance_scaled`.

    Raises
    ------
    InputError : a run has no row of that unit.
    """
    pairs: dict[str, Paired] = {}
    for name, record in records.items():
        found = pair(record, Unit(perturbation, strength, None, ""))
        if found is None:
            raise InputError(
                f"{name} has no results of {perturbation} at {strength:g}", "runs of the same plan", "run or resume it"
            )
        pairs[name] = found
    common = set.intersection(*(set(p.ids[p.flipped]) for p in pairs.values()))
    answer = {}
    for name, paired in pairs.items():
        shift = paired.shift[[i in common for i in paired.ids]]
        scale, _ = latent_scale(records[name].head.centroids)
        answer[name] = {
            "flipped": int(paired.flipped.sum()),
            "clean_correct": int(paired.clean_correct.sum()),
            "common": len(common),
            "flip_distance": mean(shift).to_dict(),
            "flip_distance_scaled": mean(shift / scale).to_dict(),
        }
    return answer


def space_difference(first: Record, second: Record) -> list[dict[str, Any]]:
    """How much more one space of values lets an attack do than another: first minus second, for each unit of both.

    Parameters
    ----------
    first, second : runs of one attack, with the same options but for its space, on the same galaxies.

    Returns
    -------
    For each strength, over the galaxies of both that could be a success: `attack_success_rate` (paired, Newcombe) and
    `fatal_pixels`, the mean of the differences of a galaxy (t interval), null where they were not counted.

    Raises
    ------
    InputError : the runs are of different models or galaxies.
    """
    if any(first.run[part].get("sha256") != second.run[part].get("sha256") for part in ("model", "data")):
        raise InputError(
            f"{first.path} and {second.path} are not of the same model and galaxies", "two runs of one command",
            "run it again",
        )  # fmt: skip
    differences = []
    for unit in first.units():
        one, other = _chances(first, unit), _chances(second, unit)
        if one is None or other is None:
            continue
        one, other = one[one["eligible"]], other[other["eligible"]]
        ids = one.index.intersection(other.index)
        one, other = one.loc[ids], other.loc[ids]
        fatal = np.asarray(one["fatal"] - other["fatal"])
        known = np.asarray(one["labelled"])
        differences.append(
            {
                "severity": unit.severity,
                "strength": unit.strength,
                "unit": unit.unit,
                "n": len(ids),
                "attack_success_rate": paired_drop(
                    np.asarray(one["success"])[known], np.asarray(other["success"])[known]
                ).to_dict(),
                "fatal_pixels": (mean(fatal) if np.isfinite(fatal).all() else NOTHING).to_dict(),
            }
        )
    return differences


def _chances(record: Record, unit: Unit) -> pd.DataFrame | None:
    """By id: could a galaxy of the unit be a success, is it one, is its label known, and its number of fatal pixels."""
    paired = pair(record, unit)
    if paired is None:
        return None
    entry = next(p for p in record.run["perturbations"] if p["name"] == unit.perturbation)
    eligible, success = eligible_galaxies(entry, paired)
    found = pixels(record, unit, paired.ids)
    fatal = math.nan if found is None else found.fatal
    return pd.DataFrame(
        {"eligible": eligible, "success": success, "labelled": paired.labelled, "fatal": fatal}, index=paired.ids
    )


def _result(record: Record, unit: Unit, entry: Mapping[str, Any], paired: Paired) -> dict[str, Any]:
    labelled, before, after = paired.labelled, paired.clean_correct, paired.perturbed_correct
    head = record.head
    scale, pairs = latent_scale(head.centroids)
    distances = {
        "latent_shift": paired.shift,
        "flip_distance": paired.shift[paired.flipped],
        "boundary_distance": paired.boundary,
        "boundary_distance_clean": paired.boundary_clean,
        "centroid_margin": paired.margin,
        "centroid_margin_clean": paired.margin_clean,
    }
    eligible, success = eligible_galaxies(entry, paired)
    found = pixels(record, unit, paired.ids) if entry["kind"] == "attack" else None
    estimates = {
        "clean_accuracy": proportion(before[labelled]),
        "perturbed_accuracy": proportion(after[labelled]),
        "accuracy_drop": paired_drop(before[labelled], after[labelled]),
        "balanced_accuracy": balanced(after, paired.labels, len(record.classes)),
        "balanced_accuracy_clean": balanced(before, paired.labels, len(record.classes)),
        "attack_success_rate": proportion(success[eligible & labelled]),
        **{name: mean(values) for name, values in distances.items()},
        **{f"{name}_scaled": mean(values / scale) for name, values in distances.items()},
        "latent_scale": Estimate(scale, math.nan, math.nan, pairs),
        "queries_median": median(paired.queries[eligible]) if entry["kind"] == "attack" else NOTHING,
    }
    return {
        "perturbation": unit.perturbation,
        "parameter": entry["parameter"],
        "severity": unit.severity,
        "strength": unit.strength,
        "unit": unit.unit,
        "n": len(paired.ids),
        **{name: estimate.to_dict() for name, estimate in estimates.items()},
        "worst_class": _worst(after, paired.labels, record.classes),
        "worst_class_clean": _worst(before, paired.labels, record.classes),
        "fatal_pixels": None if found is None else fatal_pixels(found, eligible),
        "certificate": None if found is None else certificate(found, eligible, entry["options"]),
        "boundary_reason": boundary_reason(head),
        "per_class": {
            name: {
                "n": int(np.sum(paired.labels == k)),
                "clean_accuracy": proportion(before[paired.labels == k]).to_dict(),
                "perturbed_accuracy": proportion(after[paired.labels == k]).to_dict(),
            }
            for k, name in enumerate(record.classes)
        },
    }


def _worst(correct: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    found, which = worst_class(correct, labels, len(classes))
    return {"class": None if which < 0 else classes[which], **found.to_dict()}


def eligible_galaxies(entry: Mapping[str, Any], paired: Paired) -> tuple[np.ndarray, np.ndarray]:
    """Galaxies that could be a success, and those that changed as wanted; both (N,) bool.

    Without any label an attack starts from the model's own classes, and all galaxies are there to attack.
    """
    target = entry.get("options", {}).get("target")
    eligible = paired.clean_correct if paired.labelled.any() else np.ones(len(paired.ids), dtype=bool)
    if target is None:
        return eligible, paired.flipped
    # a galaxy of the target class is not attacked; the clean class of a clean-correct galaxy is its label
    return eligible & (paired.clean_class != target), paired.perturbed_class == target
