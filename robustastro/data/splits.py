"""Training, validation and test galaxies, by a hash of the galaxy id: all depths of a galaxy fall together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from perturbations.errors import InputError, unknown_name
from robustastro.data.galaxies import Galaxies

SPLITS = ("train", "valid", "test")
FRACTIONS = (0.7, 0.1, 0.2)  # DeepAdversaries: 23,487 / 3,355 / 6,715
SPELLINGS = {"training": "train", "val": "valid", "validation": "valid", "dev": "valid", "testing": "test"}


def split_of(ids: Sequence[str], fractions: Sequence[float] = FRACTIONS) -> np.ndarray:
    """The split of each galaxy, array of "train", "valid" or "test"."""
    edges = np.cumsum(fractions)[:-1]
    return np.array(SPLITS)[np.searchsorted(edges, _uniform(ids, "split"), side="right")]


def domain_half(ids: Sequence[str]) -> np.ndarray:
    """True for galaxies that may train as source, False for those that may train as target.

    Used where the same galaxy occurs in both domains, so that source and target training galaxies are disjoint.
    """
    return _uniform(ids, "domain") < 0.5


def splits_of(galaxies: Galaxies) -> np.ndarray:
    """The split of each galaxy: the data's own `split` column if it has one, else the hash of the id.

    Where the data's own column has no validation split, an eighth of its training galaxies, by hash, are that.

    Raises
    ------
    InputError : a split of another name.
    """
    own = galaxies.catalogue.get("split")
    if own is None:
        return split_of(galaxies.ids)
    named = [str(name).strip().lower() for name in own]
    splits = np.array([SPELLINGS.get(name, name) for name in named], dtype=object)
    for name in sorted(set(splits)):
        if name not in SPLITS:
            raise unknown_name("split in the data", name, (*SPLITS, *SPELLINGS), "Rename it in the split column")
    if "valid" not in splits:
        inner = split_of(galaxies.ids, (0.875, 0.125, 0.0))
        splits[(splits == "train") & (inner == "valid")] = "valid"
    return splits


def has_split(galaxies: Galaxies, split: str) -> bool:
    """Whether any galaxy is in a split."""
    return bool((splits_of(galaxies) == split).any())


def select(galaxies: Galaxies, split: str) -> Galaxies:
    """The galaxies of a split, see `splits_of`.

    Raises
    ------
    InputError : there are none.
    """
    which = np.flatnonzero(splits_of(galaxies) == split)
    if not len(which):
        raise InputError(
            f"{galaxies.domain}: no galaxies in the {split} split",
            "at least one",
            "use more galaxies, or a split column",
        )
    return galaxies.take(which)


def disjoint(source: Galaxies, target: Galaxies) -> tuple[Galaxies, Galaxies]:
    """Source and target without common galaxies: those in both are dealt out by a hash of their id."""
    common = set(source.ids) & set(target.ids)
    if not common:
        return source, target
    parts = []
    for galaxies, wanted in ((source, True), (target, False)):
        half = domain_half(galaxies.ids)
        parts.append(galaxies.take([k for k, i in enumerate(galaxies.ids) if i not in common or half[k] == wanted]))
    return parts[0], parts[1]


def id_hashes(ids) -> torch.Tensor:
    """A signed 64-bit hash of each id."""
    digests = [hashlib.blake2b(str(i).encode(), digest_size=8).digest() for i in ids]
    return torch.tensor([int.from_bytes(d, "little", signed=True) for d in digests], dtype=torch.int64)


def _uniform(ids: Sequence[str], purpose: str) -> np.ndarray:
    digests = (hashlib.blake2b(f"{purpose}\0{i}".encode(), digest_size=8).digest() for i in ids)
    return np.array([int.from_bytes(d, "little") for d in digests], dtype=np.float64) * 2.0**-64
