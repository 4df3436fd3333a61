"""Is one way of training more robust than another? Several runs side by side, on the same perturbed galaxies.

An arm is one way to a network: a method and an architecture. Its trainings (models with other weights) are training
seeds. Every arm is compared with the baseline arm. Galaxies are taken to be independent of each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from perturbations.errors import InputError
from robustastro.metrics.arms import (
    Arm,
    Met,
    arms_of,
    baseline_of,
    description,
    lacking,
    meet,
    notes_of,
    order_of,
    perturbations_of,
    runs_of,
)
from robustastro.metrics.comparable import refuse_unlike
from robustastro.metrics.intervals import CONFIDENCE, NOTHING, Estimate
from robustastro.metrics.ladder import mce
from robustastro.metrics.significance import cohens_dz, cohens_h, difference, holm, over_seeds, ratio
from robustastro.record import Record, jsonable

MEANING = (
    "The verdict is about accuracy on perturbed images. 'more robust': right on more of the same perturbed galaxies "
    "than the baseline, with a p, corrected by Holm's method, below {alpha:.3g}; 'less robust': on fewer; 'no "
    "evidence': the galaxies and trainings cannot tell, which does not mean equal. With one training of either arm the "
    "verdict is about these networks: another training of the same method may turn it round. It is about methods "
    "only where both arms have two trainings or more. An arm that is better on clean images, too, is more "
    "accurate and may lose as much: see the clean accuracy and the difference in drop."
)


def compare(
    records: Sequence[Record],
    baseline: str | None = None,
    confidence: float = CONFIDENCE,
    *,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> dict[str, Any]:
    """The document of `compare --json` (schema 1): every arm against the baseline arm.

    Runs of one method and architecture are one arm; its models with other weights are training seeds. They are taken
    to be alike but for the seed; `notes` says where their recipes are known to differ. Runs of one model with other
    perturbations are taken together.

    - `results`: for each arm and perturbation that all arms met, first over the whole ladder (`over` "ladder"; a galaxy
      counts with its mean over the rungs), then at each of its strengths (`over` "rung"), where it has several.
      `difference` is arm minus baseline in perturbed accuracy, `drop_difference` the same in clean minus perturbed
      accuracy; see `significance.difference`. `p_corrected` is corrected by Holm over all ladders, or over all rungs,
      of all arms; intervals are each for itself. `about` says of what the verdict is: "methods" where both arms have
      two trainings or more, else "networks". `cohens_h`: effect size. All numbers are of labelled galaxies.
    - `latent_shift`, `boundary_distance`, and `flip_distance` over the galaxies flipped in every training of both
      (`flipped` counts those of each training, over the ladder those that any rung flips): means of arm and baseline
      over the same galaxies, their effect size `cohens_dz`, and `ratio` (Fieller's interval), null where the
      baseline's mean may be zero. `scaled`: each divided by the model's `latent_scale`; without numbers, and
      with a `reason`, where a training has no such scale, or less than a thousandth of the arm's largest.
    - `clean`: accuracy without perturbation, on the galaxies of the perturbation that has most of them.
    - `mce`: mean corruption error of each arm (Hendrycks & Dietterich 2019), over the galaxies of all corruptions.
    - `runs` lists flags; `left_out` what was not compared and why; `notes` what else to know.

    Parameters
    ----------
    baseline : name of an arm; default: the one whose method is "none", else the first.
    progress : called with (what, done, total).

    Raises
    ------
    InputError : fewer than two arms, no common perturbation, no labels, a perturbation twice for one model, runs that
        are not comparable (`refuse_unlike`), or an unknown baseline.
    """
    if not 0 < confidence < 1:
        raise InputError(f"confidence {confidence:g}", "between 0 and 1", "take 0.95, for instance")
    arms = arms_of(records)
    base = baseline_of(arms, baseline)
    arms = [base, *(arm for arm in arms if arm is not base)]
    shared, left_out = perturbations_of(arms)
    notes, results, met, data = notes_of(arms), [], {}, set()
    for k, name in enumerate(shared):
        progress("compare", k, len(shared))
        found = [record for arm in arms for record in arm.records(name)]
        for record in found[1:]:
            notes += refuse_unlike(found[0], record, name)
        entry = next(p for p in found[0].run["perturbations"] if p["name"] == name)
        met[name] = [meet(arm, entry, found[0]) for arm in arms]
        notes += [
            f"{arm.name}: {said}, so no distance over latent scale"
            for arm, of in zip(arms, met[name], strict=True)
            if (said := of.unscaled())
        ]
        data.add((found[0].run.get("data") or {}).get("sha256") or len(found[0].galaxies))
        for arm, of in zip(arms[1:], met[name][1:], strict=True):
            several = len(entry["rungs"]) > 1  # the ladder of a single rung is this rung: one test, one verdict
            for rung in (None, *range(len(entry["rungs"]) if several else 0)):
                row = _result(rung, arm.name, of, met[name][0], confidence)
                results.append(row | _distances(rung, of, met[name][0], confidence))
        notes += lacking(arms, name)
    if len(data) > 1:
        notes.append("the perturbations were not all run on the same data: compare arms, not perturbations")
    for over in ("ladder", "rung"):
        _correct([row for row in results if row["over"] == over], "robust", confidence)
    return {
        "schema": 1,
        "confidence": confidence,
        "baseline": base.name,
        "arms": [description(arm) for arm in arms],
        "runs": runs_of(arms),
        "clean": _clean(arms, met, confidence),
        "mce": _mce(arms, met, confidence),
        "results": results,
        "left_out": left_out,
        "verdict_means": MEANING.format(alpha=1 - confidence),
        "notes": list(dict.fromkeys(notes)),
    }


# ---------------------------------------------------------------------- one comparison


def _result(rung: int | None, arm: str, first: Met, second: Met, confidence: float) -> dict[str, Any]:
    """One entry of `results`: an arm (first) against the baseline (second), on a rung or the whole ladder (None)."""
    entry = first.entry
    rungs = entry["rungs"] if rung is None else [entry["rungs"][rung]]
    only = rungs[0] if len(rungs) == 1 else {}
    at = slice(None) if rung is None else slice(rung, rung + 1)
    one, two = (_mean_rungs(of.correct[:, at]) for of in (first, second))  # right after the perturbation
    drop1, drop2 = first.clean.astype(float) - one, second.clean.astype(float) - two
    accuracy1, accuracy2 = (over_seeds(of, confidence, fractions=True) for of in (one, two))
    return {
        "arm": arm,
        **{key: entry.get(key) for key in ("family", "kind", "parameter", "unit")},
        "perturbation": entry["name"],
        "over": "ladder" if rung is None else "rung",
        "rungs": len(rungs),
        "of_rungs": len(entry["rungs"]),
        "severity": only.get("severity"),
        "strength": only.get("strength"),
        "n": first.clean.shape[1],
        "trainings": {"baseline": len(second.clean), "arm": len(first.clean)},
        "clean_accuracy": _two(*(over_seeds(of.clean, confidence) for of in (first, second))),
        "perturbed_accuracy": _two(accuracy1, accuracy2),
        "difference": _difference(one, two, 1 / len(rungs), confidence),
        "drop_difference": _difference(drop1, drop2, 1 / len(rungs), confidence),
        "cohens_h": cohens_h(accuracy1.value, accuracy2.value),
    }


def _distances(rung: int | None, first: Met, second: Met, confidence: float) -> dict[str, Any]:
    """The distances of an entry of `results`, and how many galaxies each training flipped."""
    at = slice(None) if rung is None else slice(rung, rung + 1)
    every = np.True_
    common = first.flipped[:, at].all(axis=0) & second.flipped[:, at].all(axis=0)
    distances = {
        "latent_shift": (first.shift[:, at], second.shift[:, at], every),
        "boundary_distance": (first.boundary[:, at], second.boundary[:, at], every),
        "flip_distance": (first.shift[:, at], second.shift[:, at], common),
    }
    found = {}
    for name, (one, two, wanted) in distances.items():
        there = wanted & np.isfinite(one).all(axis=0) & np.isfinite(two).all(axis=0)  # of a galaxy the same rungs
        one, two = (_mean_rungs(np.where(there, values, np.nan)) for values in (one, two))
        found[name] = _distance(one, two, confidence) | {"scaled": _scaled(one, two, first, second, confidence)}
    return {
        **found,
        "flipped": {
            name: of.flipped[:, at].any(axis=1).sum(axis=1).tolist()
            for name, of in (("baseline", second), ("arm", first))
        },
    }


def _difference(first: np.ndarray, second: np.ndarray, step: float, confidence: float) -> dict[str, Any]:
    """First minus second of (k1, n) and (k2, n), for JSON; `step` is the least that a galaxy can differ by.

    Of means over rungs and of drops, which are no booleans, the interval is of two galaxies more, one a step up and one
    a step down (the idea of Bonett & Price 2012, Journal of Educational and Behavioral Statistics 37, 479): where no
    galaxy of the sample differs, the next one still may.
    """
    if first.dtype == bool and second.dtype == bool:
        return difference(first, second, confidence).to_dict()
    n = first.shape[1]
    more = [np.tile(two, (len(of), 1)) for two, of in (((step, -step), first), ((0.0, 0.0), second))]
    found = difference(np.hstack([first, more[0]]), np.hstack([second, more[1]]), confidence)
    value = float((first.mean(axis=0) - second.mean(axis=0)).mean())
    return replace(found, estimate=replace(found.estimate, value=value, n=n)).to_dict()


def _mean_rungs(values: np.ndarray) -> np.ndarray:
    """(k, R, N) to (k, N): the mean over the rungs that have a value; a single rung stays what it is."""
    if values.shape[1] == 1:
        return values[:, 0]
    there = ~np.isnan(values) if values.dtype.kind == "f" else np.ones_like(values, dtype=bool)
    counts = there.sum(axis=1)
    total = np.where(there, values, 0.0).sum(axis=1)
    return np.divide(total, counts, out=np.full(counts.shape, math.nan), where=counts > 0)


def _distance(first: np.ndarray, second: np.ndarray, confidence: float) -> dict[str, Any]:
    """Means of a distance (k, n) in arm and baseline over the galaxies that have it in both, and their ratio."""
    there = np.isfinite(first).all(axis=0) & np.isfinite(second).all(axis=0)
    one, two = first[:, there], second[:, there]
    means = _two(over_seeds(one, confidence), over_seeds(two, confidence))
    effect = cohens_dz(one.mean(axis=0), two.mean(axis=0))
    return means | {"ratio": _ratio(one, two, confidence).to_dict(), "cohens_dz": jsonable(effect)}


def _scaled(one: np.ndarray, two: np.ndarray, first: Met, second: Met, confidence: float) -> dict[str, Any]:
    """`_distance` over the latent scale of each training; without numbers, and a `reason`, where one has none."""
    reasons = [f"{of}: {said}" for of, met in (("arm", first), ("baseline", second)) if (said := met.unscaled())]
    if reasons:
        return _two(NOTHING, NOTHING) | {"ratio": NOTHING.to_dict(), "cohens_dz": None, "reason": "; ".join(reasons)}
    return _distance(one / first.scale[:, None], two / second.scale[:, None], confidence) | {"reason": None}


def _ratio(first: np.ndarray, second: np.ndarray, confidence: float) -> Estimate:
    """Ratio of the means, first over second; NaN where the second may be zero or negative."""
    found = ratio(first, second, confidence)
    return found if math.isfinite(found.low) and second.mean() > 0 else NOTHING


def _two(arm: Estimate, baseline: Estimate) -> dict[str, Any]:
    return {"baseline": baseline.to_dict(), "arm": arm.to_dict()}


def _clean(arms: Sequence[Arm], met: Mapping[str, Sequence[Met]], confidence: float) -> list[dict[str, Any]]:
    """Accuracy without perturbation of every arm against the baseline."""
    rows = []
    for k, arm in enumerate(arms[1:], start=1):
        name = max(met, key=lambda of: (met[of][k].clean.shape[1], len(met[of][k].clean) + len(met[of][0].clean)))
        one, two = met[name][k].clean, met[name][0].clean
        accuracy = [over_seeds(of, confidence) for of in (one, two)]
        rows.append(
            {
                "arm": arm.name,
                "galaxies_of": name,
                "n": one.shape[1],
                "trainings": {"baseline": len(two), "arm": len(one)},
                "clean_accuracy": _two(*accuracy),
                "difference": difference(one, two, confidence=confidence).to_dict(),
                "cohens_h": cohens_h(accuracy[0].value, accuracy[1].value),
            }
        )
    _correct(rows, "accurate", confidence)
    return rows


def _mce(arms: Sequence[Arm], met: Mapping[str, Sequence[Met]], confidence: float) -> list[dict[str, Any]]:
    """Mean corruption error of every arm against the baseline, over the galaxies that met all corruptions."""
    found = {name: of for name, of in met.items() if of[0].entry["kind"] == "corruption"}
    common = sorted(set.intersection(*(set(of[0].ids) for of in found.values()))) if found else []
    right = {
        name: [of.correct.mean(axis=0)[:, order_of(of.ids, common)] for of in every] for name, every in found.items()
    }
    return [
        {"arm": arm.name, "corruptions": list(found)}
        | mce({n: of[k] for n, of in right.items()}, {n: of[0] for n, of in right.items()}, confidence).to_dict()
        for k, arm in enumerate(arms[1:], start=1)
    ]


def _correct(rows: Sequence[dict[str, Any]], better: str, confidence: float) -> None:
    """Give one family of tests its corrected p and its verdicts."""
    p = [math.nan if row["difference"]["p"] is None else row["difference"]["p"] for row in rows]
    for row, corrected in zip(rows, holm(np.array(p)).tolist(), strict=True):
        value = row["difference"]["value"]
        row["p_corrected"] = None if math.isnan(corrected) else corrected
        told = corrected < 1 - confidence and value
        row["verdict"] = f"{'more' if value > 0 else 'less'} {better}" if told else "no evidence"
        row["about"] = "methods" if min(row["trainings"].values()) > 1 else "networks"
