"""Probabilities of the classes, from the logits that a record holds."""

from __future__ import annotations

import numpy as np

from perturbations.errors import InputError
from robustastro.record import Record


def probabilities(record: Record, logits: np.ndarray) -> np.ndarray:
    """Softmax of logits, float64 (N, K); NaN in a row where a logit is not finite.

    A record holds logits up to a constant per galaxy whatever the network returns: of one that returns probabilities or
    vote fractions, their logarithm, with those below 1e-12 raised to it. So a softmax is right for every kind of
    output, gives back probabilities that sum to 1, and makes vote fractions sum to 1.

    Parameters
    ----------
    record : the run they come from, for its classes.
    logits : (N, K), of galaxies, units or validation.

    Raises
    ------
    InputError : not one logit per class of the record.
    """
    logits, classes = np.asarray(logits, dtype=np.float64), len(record.classes)
    if logits.ndim != 2 or logits.shape[1] != classes:
        raise InputError(
            f"logits of shape {logits.shape}", f"(N, {classes}), one per class", "take the logits of this record"
        )
    return softmax(logits)


def softmax(logits: np.ndarray) -> np.ndarray:
    """exp(logit) over its sum, float64 (N, K); NaN in a row where a logit is not finite."""
    logits = np.asarray(logits, dtype=np.float64)
    finite = np.isfinite(logits).all(axis=1, keepdims=True)
    logits = np.where(finite, logits, 0.0)
    raised = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    return np.where(finite, raised / raised.sum(axis=1, keepdims=True), np.nan)
