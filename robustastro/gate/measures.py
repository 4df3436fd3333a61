"""What a rule compares with its limit: an estimate over the labelled galaxies of a run, from whole units only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd

from perturbations.errors import InputError
from robustastro.metrics.distances import boundary_reason, latent_scale
from robustastro.metrics.intervals import Estimate, exact, mean, paired_drop, worst_class
from robustastro.metrics.paired import Paired, pair
from robustastro.metrics.summary import eligible_galaxies
from robustastro.record import Record, Unit

NAMES = {
    "min_accuracy": "perturbed_accuracy",
    "min_worst_class": "worst_class_accuracy",
    "max_drop": "accuracy_drop",
    "max_success_rate": "attack_success_rate",
    "min_boundary_distance": "boundary_distance",
    "min_boundary_distance_scaled": "boundary_distance_scaled",
    "no_worse_than_baseline": "accuracy_below_baseline",
}  # of what each limit limits, as results call it


class Results:
    """A finished run; `distances` says whether any will be asked for.

    Raises
    ------
    InputError : the run is unfinished, has no labels, or lists a perturbation twice.
    """

    def __init__(self, record: Record, distances: bool) -> None:
        self.record, self.distances = record, distances
        self.entries: dict[str, Mapping[str, Any]] = {p["name"]: p for p in record.run["perturbations"]}
        if len(self.entries) != len(record.run["perturbations"]):
            raise InputError(f"{record.path} lists a perturbation twice", "each once", "run each set of options alone")
        self._refuse_unfinished()
        if not self.labelled.any():
            raise InputError(
                f"no galaxy of {record.path} has a label", "labelled galaxies", "evaluate on labelled data"
            )

    @cached_property
    def labelled(self) -> np.ndarray:
        """Which galaxies have a label, (N,) bool."""
        return self.record.galaxies["label"].fillna(-1).to_numpy() >= 0

    def units(self, perturbation: str) -> list[Unit]:
        """The rungs of one perturbation, in the order of the run."""
        return [unit for unit in self.record.units() if unit.perturbation == perturbation]

    def paired(self, unit: Unit) -> Paired:
        """The galaxies of a unit, all of them."""
        found = pair(self.record, unit, self.distances)
        if found is None or not np.array_equal(found.ids, self.record.galaxies.index):
            raise self._unfinished(unit, 0 if found is None else len(found.ids))
        return found

    def _refuse_unfinished(self) -> None:
        """The whole run, not only what is judged: flags are complete only at its end."""
        record, units = self.record, self.record.units()
        if not units or not (record.path / "galaxies.parquet").exists():
            raise InputError(f"{record.path} holds no results yet", "a finished run", "run its command again")
        planned = record.run.get("data", {}).get("n", len(record.galaxies))
        if planned != len(record.galaxies):
            raise InputError(
                f"{record.path} has {len(record.galaxies)} of {planned} galaxies", "a finished run", "run it again"
            )
        for unit in units:
            if (done := record.rows(unit.perturbation, unit.strength)) != len(record.galaxies):
                raise self._unfinished(unit, done)
        if "timing" in record.run and record.run["timing"] is None:
            raise InputError(
                f"{record.path} was interrupted before its end", "a finished run", "run its command again: it resumes"
            )

    def _unfinished(self, unit: Unit, done: int) -> InputError:
        return InputError(
            f"{unit.perturbation} at {unit.strength:g} is not finished in {self.record.path}: {done} of "
            f"{len(self.record.galaxies)} galaxies",
            "a finished run",
            "run its command again: it resumes",
        )


@dataclass(frozen=True, eq=False)
class Outcome:
    """What the labelled galaxies came to under one or more units. Arrays are (N,).

    Parameters
    ----------
    of : what was judged, for errors.
    before : right on the clean image, bool.
    after : right on the perturbed one; over several rungs the share of them, or 1 where right under all.
    attackable, success : could be a success, bool; is one, 0 to 1, as `after`.
    boundary : distance to leave the true class; over several rungs its mean, or the smallest.
    clean_lost, lost : galaxies with a clean or a perturbed output that is not finite: they count as wrong.
    """

    of: str
    record: Record
    ids: np.ndarray
    labels: np.ndarray
    before: np.ndarray
    after: np.ndarray
    attackable: np.ndarray
    success: np.ndarray
    boundary: np.ndarray
    clean_lost: int
    lost: int


def outcome(results: Results, units: Sequence[Unit], over: Literal["mean", "worst"] | None, of: str) -> Outcome:
    """What the galaxies of a run came to under some units: one unit, or several joined by `over`."""
    pairs = [results.paired(unit) for unit in units]
    first, known = pairs[0], results.labelled
    chances = [eligible_galaxies(results.entries[u.perturbation], p) for u, p in zip(units, pairs, strict=True)]
    right = np.stack([p.perturbed_correct for p in pairs])
    # an answer that is not finite is no class, so not the target of an attack, either: it counts against the run
    changed = np.stack(
        [could & (done | (p.perturbed_class < 0)) for (could, done), p in zip(chances, pairs, strict=True)]
    )
    apart = np.stack([p.boundary for p in pairs])
    if over == "worst":
        after, success, boundary = right.all(axis=0), changed.any(axis=0), apart.min(axis=0)
    else:
        after, success, boundary = right.mean(axis=0), changed.mean(axis=0), apart.mean(axis=0)
    return Outcome(
        of=of,
        record=results.record,
        ids=first.ids[known],
        labels=first.labels[known],
        before=first.clean_correct[known],
        after=np.asarray(after, dtype=np.float64)[known],
        attackable=np.any([could for could, _ in chances], axis=0)[known],
        success=np.asarray(success, dtype=np.float64)[known],
        boundary=np.asarray(boundary)[known],
        clean_lost=int(np.sum(first.clean_class[known] < 0)),
        lost=int(np.sum(np.any([p.perturbed_class[known] < 0 for p in pairs], axis=0))),
    )


def clean_outcome(results: Results) -> Outcome:
    """What the galaxies of a run came to on the clean images."""
    first, known = results.paired(results.record.units()[0]), results.labelled
    right, lost = first.clean_correct[known], int(np.sum(first.clean_class[known] < 0))
    return Outcome(
        of="the clean images",
        record=results.record,
        ids=first.ids[known],
        labels=first.labels[known],
        before=right,
        after=right.astype(np.float64),
        attackable=right,
        success=np.zeros(len(right)),
        boundary=first.boundary_clean[known],
        clean_lost=lost,
        lost=lost,
    )


def measure(limit: str, run: Outcome, baseline: Outcome | None, confidence: float) -> tuple[Estimate, str]:
    """The estimate that is compared with a limit, and which class is worst where that is asked ("" otherwise).

    Accuracies and rates: `exact`, so that a run at its limit fails as rarely as `confidence` says; it is not
    quite the interval of the results. Drops: `paired_drop`. Boundary distances: Student's t. The worst class:
    `worst_class`.

    Raises
    ------
    InputError : there is nothing to estimate, or it would rest on outputs that are not finite.
    """
    worst = ""
    if limit == "min_accuracy":
        found = exact(run.after, confidence)
    elif limit == "min_worst_class":
        classes = run.record.classes
        found, which = worst_class(run.after > 0.5, run.labels, len(classes), confidence)  # one rung or the worst: 0, 1
        worst = classes[which] if which >= 0 else ""
    elif limit == "max_drop":
        _refuse_lost(run, run.clean_lost, "clean")
        found = paired_drop(run.before, run.after, confidence)
    elif limit == "max_success_rate":
        _refuse_lost(run, run.clean_lost, "clean")
        found = exact(run.success[run.attackable], confidence)
    elif limit == "no_worse_than_baseline":
        assert baseline is not None
        _refuse_lost(baseline, baseline.lost, "perturbed")
        before = pd.Series(baseline.after, index=baseline.ids).loc[run.ids].to_numpy()
        found = paired_drop(before, run.after, confidence)
    else:
        found = mean(_distances(run, scaled=limit.endswith("_scaled")), confidence)
    if not all(math.isfinite(v) for v in (found.value, found.low, found.high)):
        what = NAMES[limit].replace("_", " ")
        raise InputError(
            f"{run.of}: no {what} with an interval from {found.n} of {len(run.ids)} galaxies in {run.record.path}",
            "at least two galaxies, and for a success rate some that are right on the clean image",
            "judge more galaxies, or another limit",
        )
    return found, worst


def _distances(run: Outcome, scaled: bool) -> np.ndarray:
    """Boundary distances (N,), every one of them finite."""
    head, what = run.record.head, f"{run.of}: no boundary distance in {run.record.path}"
    if reason := boundary_reason(head):
        raise InputError(f"{what}: {reason}", "a linear last layer", "judge accuracies instead")
    lost = int(np.sum(~np.isfinite(run.boundary)))
    if lost:
        why = "the unit kept no latents, or outputs are not finite"
        raise InputError(
            f"{what} for {lost} of {len(run.ids)} galaxies: {why}", "a distance for each", "judge accuracies"
        )
    scale = latent_scale(head.centroids)[0] if scaled else 1.0
    if not math.isfinite(scale):
        raise InputError(f"{what} in units of the latent scale: no centroids", "class centroids", "judge it unscaled")
    return run.boundary / scale


def _refuse_lost(run: Outcome, lost: int, which: str) -> None:
    """An output that is not finite counts as wrong, which would speak for the run where wrong is the better."""
    if lost:
        raise InputError(
            f"{run.of}: the {which} outputs of {lost} galaxies in {run.record.path} are not finite",
            "finite outputs",
            "mend the model, or judge min_accuracy, where they count as wrong",
        )
