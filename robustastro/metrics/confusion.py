"""Which class is taken for which: confusion matrices, with the galaxies that got no class."""

from __future__ import annotations

import numpy as np


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Galaxies of each true class (rows) by predicted class (columns), int64 (K, K + 1); the last column: no class.

    Parameters
    ----------
    labels : true classes, int (N,); rows with a negative (unknown) one are left out.
    predicted : predicted classes, int (N,); negative where a logit is not finite.
    classes : K.
    """
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    known = labels >= 0
    columns = np.where(predicted < 0, classes, predicted)
    counts = np.zeros((classes, classes + 1), dtype=np.int64)
    np.add.at(counts, (labels[known], columns[known]), 1)
    return counts


def shares(counts: np.ndarray) -> np.ndarray:
    """Counts over the galaxies of each true class, float64; NaN in the row of a class without any."""
    n = counts.sum(axis=1, keepdims=True)
    return np.divide(counts, n, out=np.full(counts.shape, np.nan), where=n > 0)
