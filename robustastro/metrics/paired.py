"""One unit of a record beside the clean pass over the same galaxies: what every metric and figure starts from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from robustastro.metrics.distances import boundary_distance, centroid_margin, latent_shift
from robustastro.record import Record, Unit


@dataclass(frozen=True, eq=False)
class Paired:
    """Galaxies of one unit, clean and perturbed, in the order of the record. Arrays are (N,).

    Parameters
    ----------
    ids : galaxy ids.
    labels : true classes, int64; -1 where the data has no label.
    clean_class, perturbed_class : predicted classes, int64; -1, never correct, where a logit is not finite.
    shift : |z(x') - z(x)|; NaN where the unit kept no latents or a logit is not finite, as all distances.
    boundary_clean, boundary : distance to leave the true class at z(x) and z(x').
    margin_clean, margin : centroid margin at z(x) and z(x').
    queries : forward passes spent on each galaxy, float64; NaN where the unit counted none.
    """

    ids: np.ndarray
    labels: np.ndarray
    clean_class: np.ndarray
    perturbed_class: np.ndarray
    shift: np.ndarray
    boundary_clean: np.ndarray
    boundary: np.ndarray
    margin_clean: np.ndarray
    margin: np.ndarray
    queries: np.ndarray

    @property
    def labelled(self) -> np.ndarray:
        return self.labels >= 0

    @property
    def clean_correct(self) -> np.ndarray:
        return self.labelled & (self.clean_class == self.labels)

    @property
    def perturbed_correct(self) -> np.ndarray:
        return self.labelled & (self.perturbed_class == self.labels)

    @property
    def flipped(self) -> np.ndarray:
        """Right before, wrong afterwards. Galaxies that were wrong already are not successes of a perturbation."""
        return self.clean_correct & ~self.perturbed_correct


def pair(record: Record, unit: Unit, distances: bool = True) -> Paired | None:
    """The galaxies of a unit that are done, or None where none is yet.

    Without `distances`, which are NaN then, it is much quicker.
    Read once, until more galaxies are done; the arrays are shared by all who ask, and cannot be written to.
    """
    key = unit.perturbation, unit.strength, distances, record.rows(unit.perturbation, unit.strength)
    if key not in record.derived:
        record.derived[key] = _read(record, unit, distances)
    return record.derived[key]


def _read(record: Record, unit: Unit, distances: bool) -> Paired | None:
    rows = record.unit(unit.perturbation, unit.strength, None if distances else ("logits", "queries"))
    if rows.empty:
        return None
    clean = record.galaxies.loc[rows.index]
    labels = clean["label"].fillna(-1).to_numpy(dtype=np.int64)
    clean_class, perturbed_class = (_predicted(stacked(table["logits"])) for table in (clean, rows))
    nothing = np.full(len(rows), np.nan)
    shift = boundary_clean = boundary = margin_clean = margin = nothing
    if "latent" in rows:
        before, after = (
            np.where(predicted[:, None] >= 0, stacked(table["latent"]), np.nan)
            for table, predicted in ((clean, clean_class), (rows, perturbed_class))
        )
        head = record.head
        shift = latent_shift(after, before)
        boundary_clean, boundary = (boundary_distance(head, z, labels) for z in (before, after))
        margin_clean, margin = (centroid_margin(head.centroids, z, labels) for z in (before, after))
    paired = Paired(
        ids=rows.index.to_numpy(),
        labels=labels,
        clean_class=clean_class,
        perturbed_class=perturbed_class,
        shift=shift,
        boundary_clean=boundary_clean,
        boundary=boundary,
        margin_clean=margin_clean,
        margin=margin,
        queries=rows["queries"].to_numpy(dtype=np.float64) if "queries" in rows else nothing,
    )
    for values in vars(paired).values():
        values.flags.writeable = False
    return paired


def _predicted(logits: np.ndarray) -> np.ndarray:
    """Class of the largest logit of (N, K); -1 where one is not finite, of which argmax would make class 0."""
    return np.where(np.isfinite(logits).all(axis=1), logits.argmax(axis=1), -1)


def stacked(column: Any) -> np.ndarray:
    """A column of equally long lists as an array (N, K)."""
    return np.stack(column.to_list())
