"""Training, validation and test galaxies, by a hash of the galaxy id: all depths of a galaxy fall together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

SPLITS = ("train", "valid", "test")
FRACTIONS = (0.7, 0.1, 0.2)  # DeepAdversaries: 23,487 / 3,355 / 6,715


def split_of(ids: Sequence[str], fractions: Sequence[float] = FRACTIONS) -> np.ndarray:
    """The split of each galaxy, array of "train", "valid" or "test"."""
    edges = np.cumsum(fractions)[:-1]
    return np.array(SPLITS)[np.searchsorted(edges, _uniform(ids, "split"), side="right")]


def domain_half(ids: Sequence[str]) -> np.ndarray:
    """True for galaxies that may train as source, False for those that may train as target.

    Used where the same galaxy occurs in both domains, so that source and target training galaxies are disjoint.
    """
    return _uniform(ids, "domain") < 0.5


def _uniform(ids: Sequence[str], purpose: str) -> np.ndarray:
    digests = (hashlib.blake2b(f"{purpose}\0{i}".encode(), digest_size=8).digest() for i in ids)
    return np.array([int.from_bytes(d, "little") for d in digests], dtype=np.float64) * 2.0**-64
