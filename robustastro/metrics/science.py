"""What a perturbation does to the numbers that a catalogue is made for: class fractions, purity and completeness.

Purity and fractions hold for the mix of classes of these galaxies, which in mocks is whatever was asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from robustastro.metrics.calibration import equal_mass
from robustastro.metrics.intervals import Estimate, paired_drop, proportion
from robustastro.metrics.paired import Paired, pair
from robustastro.record import Record, Unit

BINS, PER_BIN = 5, 20  # bins of a quantity, and galaxies that one has at least on average: fewer galaxies, fewer bins
BAND = r"(_?(?:lsst_|sdss_|hsc_)?[ugrizyw]|_?vis|_f\d+\w*)?"
# what catalogues call them, in any case; a band may follow. A bare z is as often a band as a redshift
QUANTITIES: Mapping[str, str] = {
    "magnitude": r"(?:petro|model|cmodel|auto|kron|aperture)?_?(?:mag|magnitude)(?:_auto|_petro)?" + BAND,
    "size": r"(?:size|radius|half_light_radius|hlr|r_?eff|effective_radius|r_?50|(?:petro|flux)_?r(?:adius)?_?50)"
    r"(?:_arcsec)?" + BAND,
    "signal-to-noise": r"(?:snr|s/n|s2n|sn_ratio|signal_?to_?noise|snr_(?:auto|win))" + BAND,
    "redshift": r"redshift|(?:photo|phot|spec)_?z|z_?(?:phot|photo|spec|best)",
}
PREFERRED = ("", "r", "i", "g")  # of a quantity in several bands


def science(record: Record, units: Sequence[Unit] | None = None) -> dict[str, Any]:
    """Class fractions, purity and completeness of a run, clean and perturbed, of the same galaxies.

    Of the labelled galaxies, or of all where there is no label. A galaxy with logits that are not finite is in the
    sample, but in no predicted class.

    Parameters
    ----------
    units : of the record; default all.

    Returns
    -------
    `columns` : the catalogue column of each quantity found; `missing` : the quantities that have none.
    `units` : for each unit with rows, perturbation, severity, strength and unit, `n`, and for each class
        `fractions` : `true`, predicted `clean` and `perturbed` (Wilson), `change` (perturbed - clean), `bias_clean` and
            `bias_perturbed` (predicted - true), which are paired (Newcombe);
        `purity` : of the galaxies predicted in the class, those that belong (Wilson), `clean` and `perturbed`;
        `completeness` : of those that belong, those predicted (Wilson), and their paired `drop`.
    `bins` : for the most severe unit of each perturbation and each quantity, purity and completeness in up to five bins
        of equally many galaxies (fewer than 100: N // 20 bins), the same for clean and perturbed, with `low`, `median`
        and `high` of the quantity and `n`.
    """
    columns = catalogue_columns(record.galaxies)
    severest = most_severe(record)
    rows, bins = [], []
    for unit in record.units() if units is None else units:
        paired = pair(record, unit)
        if paired is None:
            continue
        counted = paired.labelled if paired.labelled.any() else np.ones(len(paired.ids), dtype=bool)
        rows.append(asdict(unit) | {"n": int(counted.sum()), **_scores(record.classes, paired, counted)})
        if unit == severest.get(unit.perturbation):
            bins += [
                asdict(unit) | {"quantity": name, "column": column, "bins": _bins(record, paired, counted, column)}
                for name, column in columns.items()
            ]
    missing = [name for name in QUANTITIES if name not in columns]
    return {"classes": list(record.classes), "columns": columns, "missing": missing, "units": rows, "bins": bins}


def catalogue_columns(galaxies: pd.DataFrame) -> dict[str, str]:
    """The column that holds each of `QUANTITIES`, where there is one with numbers that differ.

    Of several bands the one without a name, r, i or g, in this order, else the first.
    """
    found = {}
    for quantity, pattern in QUANTITIES.items():
        candidates = []
        for name in galaxies.columns:
            match = re.fullmatch(pattern, str(name).strip().lower().replace(" ", "_").replace("-", "_"))
            if match and pd.api.types.is_numeric_dtype(galaxies[name]) and _differ(galaxies, name):
                band = (match[1] or "").split("_")[-1] if match.re.groups else ""
                candidates.append((PREFERRED.index(band) if band in PREFERRED else len(PREFERRED), str(name)))
        if candidates:
            found[quantity] = min(candidates, key=lambda candidate: candidate[0])[1]
    return found


def most_severe(record: Record) -> dict[str, Unit]:
    """The most severe unit with rows of each perturbation that has any, by the direction of its ladder."""
    found: dict[str, Unit] = {}
    ladders = {p["name"]: p["ladder"] for p in record.run["perturbations"]}
    for unit in record.units():
        ladder = ladders[unit.perturbation]
        falling = ladder[0] > ladder[-1]
        before = found.get(unit.perturbation)
        milder = before is not None and (unit.strength > before.strength) == falling
        if not milder and len(record.unit(unit.perturbation, unit.strength)):
            found[unit.perturbation] = unit
    return found


def _differ(galaxies: pd.DataFrame, name: str) -> bool:
    values = np.asarray(galaxies[name], dtype=np.float64)
    return len(np.unique(values[np.isfinite(values)])) > 1


def _scores(classes: tuple[str, ...], paired: Paired, counted: np.ndarray) -> dict[str, Any]:
    true, clean, perturbed = (c[counted] for c in (paired.labels, paired.clean_class, paired.perturbed_class))
    known = true >= 0
    fractions = {}
    for k, name in enumerate(classes):
        fractions[name] = _plain(
            true=proportion(true[known] == k),
            clean=proportion(clean == k),
            perturbed=proportion(perturbed == k),
            change=paired_drop(perturbed == k, clean == k),
            bias_clean=paired_drop(clean[known] == k, true[known] == k),
            bias_perturbed=paired_drop(perturbed[known] == k, true[known] == k),
        )
    return {"fractions": fractions, **_purity_completeness(classes, true, clean, perturbed)}


def _purity_completeness(
    classes: tuple[str, ...], true: np.ndarray, clean: np.ndarray, perturbed: np.ndarray
) -> dict[str, Any]:
    known = true >= 0
    true, clean, perturbed = true[known], clean[known], perturbed[known]
    purity, completeness = {}, {}
    for k, name in enumerate(classes):
        own = true == k
        purity[name] = _plain(clean=proportion(own[clean == k]), perturbed=proportion(own[perturbed == k]))
        completeness[name] = _plain(
            clean=proportion(clean[own] == k),
            perturbed=proportion(perturbed[own] == k),
            drop=paired_drop(clean[own] == k, perturbed[own] == k),
        )
    return {"purity": purity, "completeness": completeness}


def _bins(record: Record, paired: Paired, counted: np.ndarray, column: str) -> list[dict[str, Any]]:
    values = record.galaxies.loc[paired.ids, column].to_numpy(dtype=np.float64)
    usable = counted & paired.labelled & np.isfinite(values)
    values = values[usable]
    true, clean, perturbed = (c[usable] for c in (paired.labels, paired.clean_class, paired.perturbed_class))
    at = equal_mass(values, max(1, min(BINS, len(values) // PER_BIN)))
    return [
        {
            "low": float(values[at == b].min()),
            "median": float(np.median(values[at == b])),
            "high": float(values[at == b].max()),
            "n": int(np.sum(at == b)),
            **_purity_completeness(record.classes, true[at == b], clean[at == b], perturbed[at == b]),
        }
        for b in np.unique(at)
    ]


def _plain(**estimates: Estimate) -> dict[str, Any]:
    return {name: estimate.to_dict() for name, estimate in estimates.items()}
