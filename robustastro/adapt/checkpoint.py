"""The checkpoint of a training: written whole after each epoch, and taken up again by the same training only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from perturbations.errors import InputError
from robustastro.adapt.recipe import Recipe
from robustastro.data.galaxies import Galaxies
from robustastro.models.bundles import Model, arch_identity, read_weights
from robustastro.record import write_whole


def identity_of(recipe: Recipe, init: Model | None, data: Iterable[Galaxies | None]) -> str:
    """SHA-256 of what a training depends on: recipe, architecture, the weights it starts from, and data."""
    h = hashlib.sha256(json.dumps(asdict(recipe), sort_keys=True).encode())
    h.update(arch_identity(recipe.arch).encode())
    h.update(b"" if init is None else init.sha256.encode())
    for galaxies in data:
        h.update(b"none" if galaxies is None else galaxies.digest().encode())
    return h.hexdigest()


def keep(checkpoint: Path, identity: str, state: Mapping[str, Any]) -> None:
    """Write the state of a training: tensors and plain values."""
    write_whole(checkpoint, lambda file: torch.save({"identity": identity, **state}, file))


def kept(checkpoint: Path, identity: str) -> dict[str, Any] | None:
    """The state that `keep` wrote, or None where there is none.

    Raises
    ------
    InputError : the file is damaged, or belongs to another training.
    """
    if not checkpoint.exists():
        return None
    try:
        state, _ = read_weights(checkpoint)
    except InputError:
        raise InputError(
            f"{checkpoint} is damaged", "the checkpoint of a training", "delete it; the training starts anew"
        ) from None
    if not isinstance(state, dict) or state.get("identity") != identity:
        raise InputError(
            f"{checkpoint} belongs to another training",
            "one with the same recipe and data",
            "delete it or name another --out",
        )
    return state
