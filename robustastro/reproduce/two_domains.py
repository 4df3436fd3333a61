"""Studies of a labelled source and an unlabelled target: what their cells train, and what is run on the models.

A cell is trained on a test bed (`data.domains`), by a method, maybe from the model of another cell. What is run on it:

- `source`, `target`: the test galaxies of both domains that are of classes which the source has.
- `unknown`: test galaxies of the target that are of no class of the source, without labels; where there are any.
- `robust`: target test galaxies under one pixel, a broader seeing and a shallower exposure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from perturbations.errors import InputError
from robustastro import commands
from robustastro.adapt.recipe import Recipe
from robustastro.data.galaxies import Galaxies
from robustastro.data.splits import select
from robustastro.evaluate.engine import choose
from robustastro.evaluate.plan import Step, step
from robustastro.models.bundles import Model, load_model
from robustastro.record import jsonable
from robustastro.reproduce.estimates import seconds_of_parts
from robustastro.reproduce.study import ATTACK, TRAINING, Cell, Folder, finished

Progress = Callable[[str, int, int], None]
Pair = tuple[Galaxies, Galaxies]
RECORDS = ("source", "target", "unknown")
ROBUST = "robust"


@dataclass(frozen=True)
class Variant:
    """A method on a test bed.

    Parameters
    ----------
    bed : what it is trained and tested on; see `Setting.pairs`.
    name : the method as tables call it.
    settings : of `Recipe`.
    start : label of the variant whose model of the same seed it starts from; "": from random weights.
    """

    bed: str
    name: str
    settings: Mapping[str, Any]
    start: str = ""

    @property
    def label(self) -> str:
        return f"{self.bed}-{self.name}"


@dataclass(frozen=True)
class Size:
    """How large a study is.

    Parameters
    ----------
    galaxies : mocks in each domain of a test bed.
    epochs, batch : of the training.
    seeds : trainings of each method.
    cells : labels of the variants of each architecture that belong to the study.
    attacked : target test galaxies that are perturbed.
    search : options of the one-pixel search.
    """

    galaxies: Mapping[str, int]
    epochs: int
    batch: int
    seeds: int
    cells: Mapping[str, tuple[str, ...]]
    attacked: int
    search: Mapping[str, Any] = field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        """What all numbers depend on."""
        return {n: v for n, v in asdict(self).items() if n not in ("cells", "seeds")}


@dataclass(frozen=True)
class Setting:
    """What every cell of a study shares; it travels to other processes.

    Parameters
    ----------
    variants : by label.
    pairs : of (bed, number of galaxies, folder of the authors' files or None, progress) the galaxies of source and
        target; importable.
    """

    out: Path
    size: Size
    data: str | None
    device: str
    variants: Mapping[str, Variant]
    pairs: Callable[[str, int, str | None, Progress], Pair]

    def domains(self, bed: str, progress: Progress) -> Pair:
        """Source and target of a test bed; read once in a process."""
        key = bed, self.data, self.size.galaxies.get(bed, 0)
        if key not in _KEPT:
            while len(_KEPT) > 1:  # those of the bed before: the cells come bed by bed
                del _KEPT[next(iter(_KEPT))]
            _KEPT[key] = self.pairs(bed, key[2], self.data, progress)
        return _KEPT[key]

    def recipe(self, cell: Cell) -> Recipe:
        """How a cell is trained, every option filled in."""
        variant = self.variants[cell.method]
        start = ""
        if variant.start:
            start = str(Folder(self.out).bundle(replace(cell, method=variant.start)))
        return Recipe(
            arch=cell.arch, seed=cell.seed, epochs=self.size.epochs, batch=self.size.batch, init=start,
            **variant.settings,
        ).resolved()  # fmt: skip


_KEPT: dict[tuple[str, str | None, int], Pair] = {}


def cells(variants: Mapping[str, Variant], arch: str, labels: Sequence[str], seeds: int) -> list[Cell]:
    """Cells bed by bed and seed by seed, so that what is there is balanced; first those that others start from."""
    needed = dict.fromkeys([variants[label].start for label in labels if variants[label].start])
    every = list(dict.fromkeys([*needed, *labels]))
    first = [label for label in every if not variants[label].start]
    then = [label for label in every if variants[label].start]
    answer = []
    for group in (first, then):
        for bed in dict.fromkeys(variants[label].bed for label in group):
            answer += [
                Cell(arch, label, seed) for seed in range(seeds) for label in group if variants[label].bed == bed
            ]
    return answer


def known(galaxies: Galaxies, classes: Sequence[str]) -> Galaxies:
    """Those of the classes, labels counted in the order of these."""
    return galaxies.take(np.flatnonzero(_among(galaxies, classes))).with_classes(classes)


def unknown(galaxies: Galaxies, classes: Sequence[str]) -> Galaxies | None:
    """Those of other classes, without labels; None where there are none."""
    others = np.flatnonzero(~_among(galaxies, classes))
    return replace(galaxies.take(others), labels=None, classes=tuple(classes)) if len(others) else None


def _among(galaxies: Galaxies, classes: Sequence[str]) -> np.ndarray:
    assert galaxies.labels is not None
    return np.isin(np.array(galaxies.classes)[galaxies.labels], list(classes))


# ---------------------------------------------------------------------- the parts of a cell


def train_cell(setting: Setting, cell: Cell, progress: Progress) -> dict[str, Any]:
    """Train a cell, if its model is not there, and run it on the test galaxies of both domains."""
    source, target = setting.domains(setting.variants[cell.method].bed, progress)
    folder, recipe = Folder(setting.out), setting.recipe(cell)
    path = folder.bundle(cell)
    if recipe.init and not Path(recipe.init).exists():
        raise InputError(f"{recipe.init} is not there", "the model to start from", "train it first")
    if folder.training(cell) is None or not path.exists():
        commands.fit(recipe, source, target, path, setting.device, progress)  # type: ignore[arg-type]
    model = load_model(path)
    test, far = select(source, "test"), select(target, "test")
    for name, galaxies in (
        ("source", test),
        ("target", known(far, source.classes)),
        ("unknown", unknown(far, source.classes)),
    ):
        if galaxies is not None:
            _record(setting, cell, model, name, galaxies, [], progress)
    return {"recipe": jsonable(asdict(recipe)), "model": model.sha256, "device": setting.device}


def robust_cell(setting: Setting, cell: Cell, progress: Progress) -> dict[str, Any]:
    """Perturb some target test galaxies of a trained cell."""
    source, target = setting.domains(setting.variants[cell.method].bed, progress)
    model = load_model(Folder(setting.out).bundle(cell))
    galaxies = choose(known(select(target, "test"), source.classes), setting.size.attacked)
    _record(setting, cell, model, ROBUST, galaxies, steps_of(galaxies, setting.size), progress)
    return {"model": model.sha256, "device": setting.device}


def steps_of(galaxies: Galaxies, size: Size) -> list[Step]:
    """One pixel; and where the images have units, seeing and depth."""
    steps = [step("onepixel", options=size.search)]
    return steps if galaxies.exposure is None else [*steps, step("seeing"), step("depth")]


def _record(
    setting: Setting, cell: Cell, model: Model, name: str, galaxies: Galaxies, steps: Sequence[Step], progress: Progress
) -> None:
    """Make a record that is not there."""
    place = Folder(setting.out).record(cell, name)
    if finished(place, model.sha256):
        return
    commands.run(
        steps, model, galaxies.with_classes(model.contract.classes), place, seed=0, limit=None, device=setting.device,
        progress=progress,  # type: ignore[arg-type]
    )  # fmt: skip


def seconds_of_cell(setting: Setting, arch: str, bed: str, progress: Progress) -> dict[str, float]:
    """About how long the parts of a cell take."""
    source, _ = setting.domains(bed, progress)
    size = setting.size
    training, attack = seconds_of_parts(
        arch, source, setting.device, train=len(select(source, "train")), epochs=size.epochs, batch=size.batch,
        attacks=[(size.attacked, size.search)],
    )  # fmt: skip
    return {TRAINING: training, ATTACK: attack}
