"""One number for a whole ladder, a whole set of corruptions or several attacks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from perturbations.errors import InputError
from robustastro.metrics.intervals import CONFIDENCE, NOTHING, Estimate, fraction, proportion
from robustastro.metrics.paired import Paired, pair
from robustastro.metrics.resampling import bootstrap
from robustastro.record import Record


def severity_area(correct: np.ndarray, confidence: float = CONFIDENCE) -> Estimate:
    """Area under the curve of accuracy against severity: the mean accuracy over the rungs, which all count the same.

    A galaxy's rungs are no independent galaxies, so the interval is of the galaxies' own means (`fraction`).

    Parameters
    ----------
    correct : (R, N) bool, a row per rung, the same galaxies in all; or the share of the trainings that were right.
    """
    correct = _rungs(correct)
    return fraction(correct.mean(axis=0), confidence) if correct.size else NOTHING


def worst_case(correct: np.ndarray, confidence: float = CONFIDENCE) -> Estimate:
    """Robust accuracy: the fraction of galaxies that are right under every attack (A, N) bool, with Wilson's interval.

    The worst case of each galaxy, then the mean; the smallest of the attacks' accuracies would be too high.
    """
    correct = np.atleast_2d(np.asarray(correct, dtype=bool))
    return proportion(np.logical_and.reduce(correct, axis=0), confidence) if correct.size else NOTHING


def corruption_error(errors: np.ndarray, baseline_errors: np.ndarray) -> float:
    """CE of Hendrycks & Dietterich (2019, ICLR, section 4): the sum of the error rates over the rungs (R,) of a
    corruption over the same sum for a baseline model. NaN where the baseline makes no error.

    Raises
    ------
    InputError : not the same rungs.
    """
    errors, baseline_errors = (np.asarray(e, dtype=np.float64) for e in (errors, baseline_errors))
    if errors.shape != baseline_errors.shape:
        raise InputError(
            f"errors at {errors.size} and {baseline_errors.size} rungs", "the same rungs", "run both on one ladder"
        )
    below = float(baseline_errors.sum())
    return float(errors.sum()) / below if below > 0 else math.nan


def mce(
    correct: Mapping[str, np.ndarray], baseline: Mapping[str, np.ndarray], confidence: float = CONFIDENCE
) -> Estimate:
    """mCE of Hendrycks & Dietterich (2019): the mean of `corruption_error` over the corruptions; 1 is the baseline.

    The interval is by `bootstrap` over galaxies, both models on the same ones. It knows nothing of other trainings.

    Parameters
    ----------
    correct : for each corruption (R, N): right or not, bool, or the share of the trainings that were right; the same
        galaxies in all corruptions.
    baseline : the same of the baseline model. No result is an mCE without it.

    Returns
    -------
    NaN where the baseline makes no error under some corruption.

    Raises
    ------
    InputError : other corruptions, rungs or numbers of galaxies than the baseline's.
    """
    if set(correct) != set(baseline):
        odd = ", ".join(sorted(set(correct) ^ set(baseline)))
        raise InputError(f"only one of model and baseline has {odd}", "the same corruptions", "run both on one suite")
    if not correct:
        return NOTHING
    pairs = [(1.0 - _rungs(correct[name]), 1.0 - _rungs(baseline[name])) for name in correct]
    for name, (own, other) in zip(correct, pairs, strict=True):
        if own.shape != other.shape or own.shape[1] != pairs[0][0].shape[1]:
            raise InputError(
                f"{name} has {own.shape[0]} rungs of {own.shape[1]} galaxies, its baseline {other.shape[0]} of "
                f"{other.shape[1]}", "the same rungs, and the same galaxies in all corruptions", "match their ids",
            )  # fmt: skip
    own, other = (np.stack([pair[k].sum(axis=0) for pair in pairs], axis=1) for k in (0, 1))  # errors (N, corruptions)
    return bootstrap(_mean_corruption_error, own, other, confidence=confidence)


def ladders(record: Record) -> list[dict[str, Any]]:
    """One entry per perturbation with results, over the labelled galaxies that have one at every rung that was run.

    `clean_accuracy` (Wilson) and `mean_accuracy`, the area under the accuracy-severity curve: the mean over the rungs,
    its interval over galaxies (`severity_area`); `worst_accuracy`: right at every rung (Wilson).
    """
    entries = []
    for entry in record.run["perturbations"]:
        units = [unit for unit in record.units() if unit.perturbation == entry["name"]]
        found = _common([pair(record, unit) for unit in units])
        if found is None:
            continue
        clean, correct = found
        entries.append(
            {key: entry.get(key) for key in ("family", "kind", "parameter", "unit")}
            | {
                "perturbation": entry["name"],
                "rungs": len(units),
                "n": len(clean),
                "clean_accuracy": proportion(clean).to_dict(),
                "mean_accuracy": severity_area(correct).to_dict(),
                "worst_accuracy": worst_case(correct).to_dict(),
            }
        )
    return entries


def over_attacks(record: Record) -> dict[str, Any] | None:
    """Robust accuracy against all attacks of a run together; None with fewer than two attacks that have results.

    A galaxy counts as right if it is right under every attack at every strength that was run: the worst case of each
    galaxy, not the smallest of the attacks' accuracies. `attacks` names them.
    """
    attacks = [p["name"] for p in record.run["perturbations"] if p["kind"] == "attack"]
    units = [unit for unit in record.units() if unit.perturbation in attacks]
    found = _common([pair(record, unit) for unit in units]) if len(attacks) > 1 else None
    if found is None:
        return None
    clean, correct = found
    return {
        "attacks": attacks,
        "n": len(clean),
        "clean_accuracy": proportion(clean).to_dict(),
        "robust_accuracy": worst_case(correct).to_dict(),
    }


def _mean_corruption_error(own: np.ndarray, other: np.ndarray) -> float:
    """mCE from the number of errors of each galaxy under each corruption, (N, corruptions)."""
    below = other.sum(axis=0)
    return float(np.mean(own.sum(axis=0) / below)) if below.all() else math.nan


def _rungs(correct: np.ndarray) -> np.ndarray:
    return np.atleast_2d(np.asarray(correct, dtype=np.float64))


def _common(pairs: list[Paired | None]) -> tuple[np.ndarray, np.ndarray] | None:
    """Right when clean (N,) and perturbed (R, N), of the labelled galaxies that every unit has; None without any."""
    done = [paired for paired in pairs if paired is not None]
    if not done or len(done) < len(pairs):
        return None
    common = set.intersection(*(set(paired.ids[paired.labelled]) for paired in done))
    kept = [np.array([galaxy in common for galaxy in paired.ids], dtype=bool) for paired in done]
    if not common:
        return None
    correct = np.stack([paired.perturbed_correct[keep] for paired, keep in zip(done, kept, strict=True)])
    return done[0].clean_correct[kept[0]], correct
