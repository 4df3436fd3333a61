"""Which class is taken for which: confusion matrices, with the galaxies that got no class."""

from __future__ import annotations

import numpy as np

from robustastro.metrics.open_set import called_unknown


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


def with_unknown(
    labels: np.ndarray, unknown: np.ndarray, probabilities: np.ndarray, rho: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted classes of K known classes and one more, K: unknown; both int (N,), for `confusion`.

    A galaxy whose entropy exceeds rho is called unknown, as in DeepAstroUDA (`open_set.called_unknown`).

    Parameters
    ----------
    labels : (N,), negative where the class is none of the K.
    unknown : (N,) bool, galaxies of a class that the model does not know; others with a negative label stay negative.
    probabilities : (N, K).
    rho : threshold [nats]; default log(K) / 2.
    """
    classes = np.shape(probabilities)[1]
    true = np.where(np.asarray(unknown, dtype=bool), classes, labels)
    sure = np.nan_to_num(probabilities, nan=0.0).argmax(axis=1)
    return true, np.where(called_unknown(probabilities, rho), classes, sure)


def shares(counts: np.ndarray) -> np.ndarray:
    """Counts over the galaxies of each true class, float64; NaN in the row of a class without any."""
    n = counts.sum(axis=1, keepdims=True)
    return np.divide(counts, n, out=np.full(counts.shape, np.nan), where=n > 0)
