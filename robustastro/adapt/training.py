"""Train a network with or without adaptation, and write its bundle. The loop is in `loop.py`.

Target labels get no further than `train`, which drops them before anything else; but for a method that says it is an
upper bound (`Method.target_labels`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from perturbations.errors import InputError
from robustastro.adapt import method as find_method
from robustastro.adapt.contracts import SAMPLE, fit_contract, stretched
from robustastro.adapt.loop import Loop
from robustastro.adapt.recipe import Recipe
from robustastro.adapt.starting import head_of
from robustastro.contract import InputContract
from robustastro.data.galaxies import Galaxies
from robustastro.data.splits import disjoint, has_split, id_hashes, select
from robustastro.models.bundles import load_model, save_bundle
from robustastro.models.subject import Subject
from robustastro.record import Flag

__all__ = [
    "SAMPLE", "Trained", "disjoint", "fit_contract", "head_of", "id_hashes", "select", "stretched", "train",
    "write_bundle",
]  # fmt: skip


@dataclass(frozen=True)
class Trained:
    """What a training gives: the network, its contract, and the record that goes into the bundle."""

    network: nn.Module
    contract: InputContract
    record: dict[str, Any]
    flags: list[Flag]
    source_ids: tuple[str, ...]
    target_ids: tuple[str, ...]
    valid_ids: tuple[str, ...]

    @property
    def train_ids(self) -> tuple[str, ...]:
        """Galaxies of either domain whose images trained the network."""
        return self.source_ids + self.target_ids


def train(
    recipe: Recipe,
    source: Galaxies,
    target: Galaxies | None = None,
    *,
    device: str = "cpu",
    checkpoint: Path | None = None,
    progress: Callable[[int, int, Mapping[str, float]], None] | None = None,
) -> Trained:
    """Train a network on labelled source galaxies and unlabelled target galaxies.

    Parameters
    ----------
    recipe : how.
    source : labelled; its train split trains, its valid split stops early and chooses the epoch that is kept.
    target : its train split is aligned with the source where the method asks for it; labels are dropped first, but
        for a method that is an upper bound. Given to a method that needs no target, it only keeps the galaxies that it
        would train on out of the source.
    checkpoint : file kept up to date after each epoch, and resumed from if it is there and of the same training.
    progress : called after each epoch with (epoch, epochs, numbers of the epoch).

    Raises
    ------
    InputError : no labels, no target for a method that needs one, or too few galaxies.
    """
    recipe = recipe.resolved()
    chosen = find_method(recipe.method)
    if source.labels is None:
        raise InputError(f"{source.domain} has no labels", "a labelled source", "name the column with --label-column")
    if recipe.needs_target and target is None:
        raise InputError(f"method {recipe.label} without a target", "a target domain", "add --target FILE")
    if chosen.target_labels and (target is None or target.labels is None):
        raise InputError(f"method {recipe.method} without labels of the target", "a labelled target", "add its labels")
    train_source, valid = select(source, "train"), select(source, "valid")
    train_target = None
    if target is not None:
        kept = target.with_classes(source.classes) if chosen.target_labels else replace(target, labels=None)
        train_target = select(kept, "train")
    if train_target is not None and not recipe.paired:
        train_source, train_target = disjoint(train_source, train_target)
    if not recipe.needs_target:  # trained on the same source galaxies as the methods it is compared with
        train_target = None
    init = None
    if recipe.init:  # a network of the user's own is run only because it is named as --arch
        init = load_model(recipe.init, recipe.arch if ".py:" in recipe.arch else None)
    loop = Loop(recipe, fit_contract(train_source), train_source, valid, train_target, torch.device(device), init)
    record, flags = loop.run(checkpoint, progress)
    target_ids = () if train_target is None else train_target.ids
    return Trained(loop.network, loop.contract, record, flags, train_source.ids, target_ids, valid.ids)


def write_bundle(path: str | Path, trained: Trained, source: Galaxies, target: Galaxies | None, device: str) -> None:
    """Write the bundle of a training, with class centroids and the names of its data."""
    trained_on = set(trained.source_ids)
    train_source = source.take([k for k, i in enumerate(source.ids) if i in trained_on])
    labels = train_source.labels
    assert labels is not None  # train() refused unlabelled sources
    subject = Subject(trained.network, trained.contract, device=device)
    latent = subject.outputs(stretched(train_source, trained.contract)).latent
    classes = len(trained.contract.classes)
    centroids = torch.stack([latent[torch.from_numpy(labels == k)].mean(dim=0) for k in range(classes)])
    save_bundle(
        path,
        trained.network,
        trained.record["recipe"]["arch"],
        trained.record["arch_options"],
        trained.contract,
        training=trained.record,
        data={
            "source": dict(source.source),
            "target": dict(target.source) if target is not None else None,
            "domain": source.domain,
            "test_sha256": select(source, "test").digest() if has_split(source, "test") else None,
        },
        centroids=centroids,
        trained_on=id_hashes(trained.train_ids + trained.valid_ids),
    )
