"""Studies of a labelled source and an unlabelled target: what their cells train, and what is run on the models.

A cell is trained on a test bed (`data.domains`), by a method, maybe from the model of another cell. What is run on it:

- `source`, `target`: the test galaxies of both domains; those of a class that the source has not have the label -1.
- `robust`: target test galaxies of known classes under one pixel, a broader seeing and a shallower exposure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from perturbations.errors import InputError
from robustastro import commands
from robustastro.adapt.recipe import Recipe
from robustastro.data.domains import UNKNOWN
from robustastro.data.galaxies import Galaxies
from robustastro.data.mocks import Recipe as MockRecipe
from robustastro.data.mocks import parameters_hash, simulate
from robustastro.data.readers import read, sets_of
from robustastro.data.splits import select
from robustastro.evaluate.engine import balanced
from robustastro.evaluate.plan import Step, step
from robustastro.models.bundles import Model, load_model
from robustastro.progress import Progress
from robustastro.record import jsonable
from robustastro.reproduce.estimates import seconds_of_parts
from robustastro.reproduce.programme import Asked, Programme, carry_out
from robustastro.reproduce.study import ATTACK, TRAINING, Cell, Folder, finished

Tell = Callable[[str, int, int], None]
Pair = tuple[Galaxies, Galaxies]
DOMAINS = ("source", "target")
ROBUST = "robust"


@dataclass(frozen=True)
class Variant:
    """A method on a test bed.

    Parameters
    ----------
    bed : what it is trained and tested on; a name that `Setting.mocks` knows.
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
    attacked : target test galaxies that are perturbed, in all; equally many of each class.
    search : options of the one-pixel search.
    """

    galaxies: Mapping[str, int]
    epochs: int
    batch: int
    seeds: int
    cells: Mapping[str, tuple[str, ...]]
    attacked: int
    search: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """What every cell of a study shares; it travels to other processes.

    Parameters
    ----------
    data : folder of the authors' files; None: mocks.
    variants : by label.
    mocks : of (test bed, number of galaxies) the recipes of source and target; importable.
    sets : for each test bed of which there are files, the names of source and target in the folder.
    """

    out: Path
    size: Size
    data: str | None
    device: str
    variants: Mapping[str, Variant]
    mocks: Callable[[str, int], tuple[MockRecipe, MockRecipe]]
    sets: Mapping[str, tuple[str, str]]

    def domains(self, bed: str, progress: Tell) -> Pair:
        """Source and target of a test bed; read once in a process."""
        key = bed, self.data, self.size.galaxies[bed]
        if key not in _KEPT:
            while len(_KEPT) > 1:  # the cells come bed by bed
                del _KEPT[next(iter(_KEPT))]
            _KEPT[key] = self._mocks(bed, progress) if self.data is None else self._files(bed)
        return _KEPT[key]

    def _mocks(self, bed: str, progress: Tell) -> Pair:
        source, target = (
            simulate(recipe, progress=lambda done, total, name=name: progress(f"simulate {bed} {name}", done, total))
            for name, recipe in zip(DOMAINS, self.mocks(bed, self.size.galaxies[bed]), strict=True)
        )
        return source, target

    def _files(self, bed: str) -> Pair:
        source, target = (read(f"{self.data}::{name}") for name in self.sets[bed])
        return known(source, [name for name in source.classes if name != UNKNOWN]), target

    def identity(self, progress: Tell) -> dict[str, Any]:
        """What all numbers of the study depend on: mocks are what their recipes say, files what is in them."""
        beds = dict.fromkeys(variant.bed for variant in self.variants.values())
        if self.data is None:
            recipes = {bed: self.mocks(bed, self.size.galaxies[bed]) for bed in beds}
            data = {
                bed: {n: [r.to_dict(), parameters_hash(r)] for n, r in zip(DOMAINS, pair, strict=True)}
                for bed, pair in recipes.items()
            }
        else:
            data = {bed: [galaxies.digest() for galaxies in self.domains(bed, progress)] for bed in beds}
        return {"data": data, "size": {n: v for n, v in asdict(self.size).items() if n not in ("cells", "seeds")}}

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


def cells(
    variants: Mapping[str, Variant], first: Sequence[str], arch: str, labels: Sequence[str], seeds: int
) -> list[Cell]:
    """Cells in the order in which they are worth running, with those that they start from before them.

    Those of `first` come before the others; of each group bed by bed and seed by seed, so that what is there is
    balanced.
    """
    labels = list(dict.fromkeys([*(variants[n].start for n in labels if variants[n].start), *labels]))
    answer = []
    for important in (True, False):
        for starts in (False, True):
            group = [n for n in labels if (n in first) == important and bool(variants[n].start) == starts]
            for bed in dict.fromkeys(variants[n].bed for n in group):
                answer += [Cell(arch, n, seed) for seed in range(seeds) for n in group if variants[n].bed == bed]
    return answer


def known(galaxies: Galaxies, classes: Sequence[str]) -> Galaxies:
    """Those of the classes, labels counted in the order of these.

    Raises
    ------
    InputError : galaxies without labels.
    """
    counted = galaxies.with_classes(classes, keep_unknown=True)
    if counted.labels is None:
        raise InputError(f"{galaxies.domain} has no labels", "labelled galaxies", "give the labels of the authors")
    return counted.take(np.flatnonzero(counted.labels >= 0))


def with_files(
    data: str | None, variants: Mapping[str, Variant], sets: Mapping[str, tuple[str, str]]
) -> tuple[dict[str, Variant], tuple[str, ...]]:
    """The variants whose test beds can be had, and the test beds that cannot: of mocks all, of files those in a folder.

    Raises
    ------
    InputError : a folder without the files of any test bed.
    """
    if data is None:
        return dict(variants), ()
    found = sets_of(Path(data))
    there = set() if found is None else set(found[1])
    beds = {bed for bed, names in sets.items() if set(names) <= there}
    if not beds:
        known_sets = "; ".join(f"{bed}: {', '.join(names)}" for bed, names in sets.items())
        raise InputError(
            f"{data} has the files of no test bed", f"source and target of one or more ({known_sets})",
            "download the authors' files, or leave --data out for mocks",
        )  # fmt: skip
    missing = dict.fromkeys(v.bed for v in variants.values() if v.bed not in beds)
    return {label: v for label, v in variants.items() if v.bed in beds}, tuple(missing)


def limited(size: Size, variants: Mapping[str, Variant]) -> Size:
    """The size with those cells alone whose variants there are."""
    return replace(size, cells={arch: tuple(n for n in names if n in variants) for arch, names in size.cells.items()})


# ---------------------------------------------------------------------- the parts of a cell


def train_cell(setting: Setting, cell: Cell, progress: Tell) -> dict[str, Any]:
    """Train a cell, if its model is not there, and run it on the test galaxies of both domains."""
    source, target = setting.domains(setting.variants[cell.method].bed, progress)
    folder, recipe = Folder(setting.out), setting.recipe(cell)
    path = folder.bundle(cell)
    if recipe.init and not Path(recipe.init).exists():
        raise InputError(f"{recipe.init} is not there", "the model to start from", "train it first")
    if folder.training(cell) is None or not path.exists():
        commands.fit(recipe, source, target, path, setting.device, progress)  # type: ignore[arg-type]
    model = load_model(path)
    for name, galaxies in zip(DOMAINS, (source, target), strict=True):
        test = select(galaxies, "test").with_classes(model.contract.classes, keep_unknown=True)
        _record(setting, cell, model, name, test, [], progress)
    return {"recipe": jsonable(asdict(recipe)), "model": model.sha256, "device": setting.device}


def robust_cell(setting: Setting, cell: Cell, progress: Tell) -> dict[str, Any]:
    """Perturb some target test galaxies of a trained cell."""
    source, target = setting.domains(setting.variants[cell.method].bed, progress)
    model = load_model(Folder(setting.out).bundle(cell))
    each = max(1, setting.size.attacked // len(source.classes))
    galaxies = balanced(known(select(target, "test"), source.classes), each)
    _record(setting, cell, model, ROBUST, galaxies, steps_of(galaxies, setting.size), progress)
    return {"model": model.sha256, "device": setting.device}


def steps_of(galaxies: Galaxies, size: Size) -> list[Step]:
    """One pixel; and where the images have units, seeing and depth."""
    steps = [step("onepixel", options=size.search)]
    return steps if galaxies.exposure is None else [*steps, step("seeing"), step("depth")]


def _record(
    setting: Setting, cell: Cell, model: Model, name: str, galaxies: Galaxies, steps: Sequence[Step], progress: Tell
) -> None:
    """Make a record that is not there."""
    place = Folder(setting.out).record(cell, name)
    if finished(place, model.sha256):
        return
    commands.run(
        steps, model, galaxies, place, seed=0, limit=None, device=setting.device,
        progress=progress,  # type: ignore[arg-type]
    )  # fmt: skip


def seconds_of_cell(setting: Setting, cell: Cell, progress: Tell) -> dict[str, float]:
    """About how long the parts of a cell take: measured on the first bed of the study, and scaled by the galaxies."""
    size, bed = setting.size, setting.variants[cell.method].bed
    like = next(iter(setting.variants.values())).bed
    if cell.arch not in _GUESSED:
        source, _ = setting.domains(like, progress)
        _GUESSED[cell.arch] = seconds_of_parts(
            cell.arch, source, setting.device, train=len(select(source, "train")), epochs=size.epochs,
            batch=size.batch, attacks=[(size.attacked, size.search)],
        )  # fmt: skip
    training, attack = _GUESSED[cell.arch]
    return {TRAINING: training * size.galaxies[bed] / size.galaxies[like], ATTACK: attack}


_GUESSED: dict[str, tuple[float, float]] = {}  # by architecture


def run(
    name: str,
    asked: Asked,
    progress: Progress,
    size: Size,
    *,
    variants: Mapping[str, Variant],
    first: Sequence[str],
    mocks: Callable[[str, int], tuple[MockRecipe, MockRecipe]],
    sets: Mapping[str, tuple[str, str]],
    page: Callable[..., dict[str, Any]],
) -> dict[str, Any]:
    """Train, perturb, measure, and write the page; return what goes into results.json.

    Parameters
    ----------
    variants, mocks, sets : as in `Setting`; of files those variants are run whose test bed is in the folder.
    first : labels of the cells that come before the others.
    page : of (setting, finished cells, what is known of the study, what was not run, progress).

    Raises
    ------
    InputError : as `programme.carry_out`, or a folder without the files of any test bed.
    """
    variants, missing = with_files(asked.data, variants, sets)
    size = limited(size, variants)
    setting = Setting(asked.out, size, asked.data, commands.device_of(asked.device), variants, mocks, dict(sets))

    def start(cell: Cell) -> Cell | None:
        label = variants[cell.method].start
        return replace(cell, method=label) if label else None

    programme = Programme(
        name=name, methods=variants, standard=size.cells, usual=tuple(n for n in first if n in variants),
        seeds=size.seeds, cells=partial(cells, variants, first), recipe=setting.recipe,
        identity=lambda: setting.identity(progress), guess=lambda cell: seconds_of_cell(setting, cell, progress),
        work={TRAINING: partial(train_cell, setting), ATTACK: partial(robust_cell, setting)},
        page=lambda finished, about, left: page(setting, finished, {**about, "missing_beds": missing}, left, progress),
        start=start, kind=lambda cell: f"{cell.arch}, {variants[cell.method].bed}",
    )  # fmt: skip
    return carry_out(programme, asked, progress)
