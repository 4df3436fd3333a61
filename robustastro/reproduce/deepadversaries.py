"""DeepAdversaries (Ciprijanovic et al. 2022, arXiv:2112.14299), done again.

Spirals, ellipticals and mergers at LSST Y10 with labels and at Y1 without; a ConvNet and a ResNet18, without and with
adaptation; accuracy at both depths, and one pixel that a search chooses, on galaxies that are the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from robustastro import commands
from robustastro.adapt.recipe import Recipe
from robustastro.data.galaxies import Galaxies
from robustastro.data.mocks import Recipe as MockRecipe
from robustastro.data.mocks import parameters_hash, simulate
from robustastro.data.readers import read
from robustastro.data.splits import select
from robustastro.evaluate.engine import balanced
from robustastro.evaluate.plan import step
from robustastro.models.bundles import Model, load_model
from robustastro.progress import Progress
from robustastro.record import jsonable
from robustastro.reproduce import deepadversaries_page as page
from robustastro.reproduce.estimates import seconds_of_parts
from robustastro.reproduce.measures import ATTACKS
from robustastro.reproduce.programme import Asked, Programme, carry_out
from robustastro.reproduce.study import ATTACK, TRAINING, Cell, Folder, finished

FIRST = ("none", "mmd", "dann", "uda", "augment", "supervised_target")
VARIANTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {name: {"method": name} for name in (*FIRST, "coral", "cdan", "sinkhorn", "adabn", "at")}
    | {f"{method}+average-0.99": {"method": method, "average": 0.99} for method in ("none", "augment")}
    | {f"{method}+published": {"method": method, "options": {"settings": "published"}} for method in ("mmd", "dann")}
    | {f"{method}+fisher-ratio": {"method": method, "fisher": "ratio"} for method in ("mmd", "dann")}
    | {f"{method}+entropy": {"method": method, "entropy": 0.05} for method in ("mmd", "dann")}
)
ARCHS, SEEDS = ("convnet", "resnet18"), 5
NETWORKS = (*ARCHS, "tiny")  # fixed: a study that was begun is told by its size
DEPTHS = MappingProxyType({"Y10": 1.0, "Y1": 0.1})
CLEAN = ("y10", "y1")
PUBLISHED_SEARCH = {"settings": "published"}
NO_EXPOSURE = "these images have no Exposure, so what a detector can give is not known"


@dataclass(frozen=True)
class Size:
    """How large the study is.

    Parameters
    ----------
    galaxies : mocks at each depth.
    epochs, batch : of the training.
    seeds : trainings of each method.
    cells : methods of each architecture that belong to the study.
    attacked : galaxies of each class under attack, by architecture; others have what the first has.
    search : options of the one-pixel search in paper mode, likewise.
    flux : options of the search among the values that a detector can give.
    """

    galaxies: int
    epochs: int
    batch: int
    seeds: int
    cells: Mapping[str, tuple[str, ...]]
    attacked: Mapping[str, int]
    search: Mapping[str, Mapping[str, Any]]
    flux: Mapping[str, Any] = field(default_factory=dict)


FULL = Size(
    galaxies=1500, epochs=40, batch=32, seeds=SEEDS, cells={arch: tuple(VARIANTS) for arch in ARCHS},
    attacked=dict.fromkeys(NETWORKS, 50), search=dict.fromkeys(NETWORKS, PUBLISHED_SEARCH),
)  # fmt: skip
# without a GPU the published search takes a ResNet18 a minute and a half a galaxy: fewer galaxies, the default search
SLOW = {"resnet18": (10, {"settings": "default"})}
TRIAL = {"pop": 40, "generations": 5}
QUICK = Size(
    galaxies=300, epochs=12, batch=16, seeds=1, cells={"convnet": FIRST, "resnet18": ("none", "mmd")},
    attacked={"convnet": 10, "resnet18": 2, "tiny": 10}, search=dict.fromkeys(NETWORKS, TRIAL), flux=TRIAL,
)  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """What every cell of a study shares; it travels to other processes."""

    out: Path
    size: Size
    data: str | None
    device: str


def run(asked: Asked, progress: Progress, size: Size | None = None) -> dict[str, Any]:
    """Train, attack, measure, and write the page; return what goes into results.json.

    Parameters
    ----------
    asked : `data` is a folder in the layout of the authors (data Zenodo 5514180).
    size : instead of the full or the quick size.

    Raises
    ------
    InputError : as `programme.carry_out`.
    """
    device = commands.device_of(asked.device)
    size = size or (QUICK if asked.quick else FULL if device != "cpu" else _slower(FULL))
    setting = Setting(asked.out, size, asked.data, device)

    def identity() -> dict[str, Any]:
        return {
            "data": {
                name: galaxies.digest() for name, galaxies in zip(DEPTHS, domains(setting, progress), strict=True)
            },
            "size": {n: v for n, v in asdict(size).items() if n not in ("cells", "seeds")},
        }

    def write(finished: Sequence[Cell], about: Mapping[str, Any], left: Sequence[page.Row]) -> dict[str, Any]:
        y10, y1 = domains(setting, progress)
        recipe = asdict(recipe_of(finished[0], size))
        more = {
            "missing_beds": (), "mocks": asked.data is None,
            "mock_parameters": None if asked.data is not None else parameters_hash(),
            "device": device, "galaxies": {s: len(select(y10, s)) for s in ("train", "valid", "test")},
            "same_ids": y10.ids == y1.ids, "not_attacked_in_flux": None if y10.exposure is not None else NO_EXPOSURE,
            "recipe": {n: v for n, v in recipe.items() if n not in ("options", "method")}, "size": asdict(size),
        }  # fmt: skip
        return page.write(Folder(asked.out), finished, {**about, **more}, left, progress)

    programme = Programme(
        name="deepadversaries", methods=VARIANTS, standard=size.cells, usual=FIRST, seeds=size.seeds, cells=_cells,
        recipe=lambda cell: recipe_of(cell, size), identity=identity,
        guess=lambda cell: seconds_of_cell(setting, cell.arch, domains(setting, progress)[0]),
        work={TRAINING: partial(train_cell, setting), ATTACK: partial(attack_cell, setting)}, page=write,
    )  # fmt: skip
    return carry_out(programme, asked, progress)


def _slower(size: Size) -> Size:
    attacked = dict(size.attacked) | {arch: few for arch, (few, _) in SLOW.items()}
    search = dict(size.search) | {arch: options for arch, (_, options) in SLOW.items()}
    return Size(**{**vars(size), "attacked": attacked, "search": search})


def _cells(arch: str, methods: Sequence[str], seeds: int) -> list[Cell]:
    """First the methods that matter most; of each group seed by seed, so that what is there is balanced."""
    groups = [m for m in FIRST if m in methods], [m for m in methods if m not in FIRST]
    return [Cell(arch, method, seed) for group in groups for seed in range(seeds) for method in group]


def recipe_of(cell: Cell, size: Size) -> Recipe:
    """How a cell is trained, every option filled in."""
    return Recipe(
        arch=cell.arch, seed=cell.seed, epochs=size.epochs, batch=size.batch, **VARIANTS[cell.method]
    ).resolved()


def domains(setting: Setting, progress: Callable[[str, int, int], None]) -> tuple[Galaxies, Galaxies]:
    """The galaxies at Y10 and at Y1, in the same order."""
    if setting.data is None:
        return _mocks(setting.size.galaxies, progress)
    y10, y1 = _files(setting.data)
    return y10, y1


@lru_cache(maxsize=1)
def _files(folder: str) -> tuple[Galaxies, ...]:
    return tuple(read(f"{folder}::{depth}") for depth in DEPTHS)


_KEPT: dict[int, tuple[Galaxies, Galaxies]] = {}  # the mocks of this process: reading them again takes seconds


def _mocks(count: int, progress: Callable[[str, int, int], None]) -> tuple[Galaxies, Galaxies]:
    if count not in _KEPT:
        y10, y1 = (
            simulate(MockRecipe(n=count, seed=1, depth=depth), progress=lambda d, t: progress("simulate", d, t))
            for depth in DEPTHS.values()
        )
        _KEPT[count] = y10, y1
    return _KEPT[count]


# ---------------------------------------------------------------------- one cell


def train_cell(setting: Setting, cell: Cell, progress: Callable[[str, int, int], None]) -> dict[str, Any]:
    """Train a cell, if its model is not there, and run it on the test galaxies at both depths."""
    y10, y1 = domains(setting, progress)
    folder, size = Folder(setting.out), setting.size
    recipe, path = recipe_of(cell, size), folder.bundle(cell)
    if folder.training(cell) is None or not path.exists():
        commands.fit(recipe, y10, y1, path, setting.device, progress)  # type: ignore[arg-type]
    model = load_model(path)
    _make_records(setting, cell, model, CLEAN, progress)
    return {"recipe": jsonable(asdict(recipe)), "model": model.sha256, "device": setting.device}


def attack_cell(setting: Setting, cell: Cell, progress: Callable[[str, int, int], None]) -> dict[str, Any]:
    """Attack a trained cell in each of the spaces."""
    model = load_model(Folder(setting.out).bundle(cell))
    _make_records(setting, cell, model, ATTACKS, progress)
    return {"model": model.sha256, "device": setting.device}


def _make_records(
    setting: Setting, cell: Cell, model: Model, names: Sequence[str], progress: Callable[[str, int, int], None]
) -> None:
    """The records of these names that are not there."""
    (y10, y1), folder, size = domains(setting, progress), Folder(setting.out), setting.size
    for name, (galaxies, options) in records_of(cell.arch, size, y10, y1).items():
        if name not in names:
            continue
        steps = [] if options is None else [step("onepixel", options=options)]
        place = folder.record(cell, name)
        if not finished(place, model.sha256):
            commands.run(
                steps, model, galaxies.with_classes(model.contract.classes), place, seed=0, limit=None,
                device=setting.device, progress=progress,  # type: ignore[arg-type]
            )  # fmt: skip


def _of(table: Mapping[str, Any], arch: str) -> Any:
    return table.get(arch, next(iter(table.values())))


def records_of(
    arch: str, size: Size, y10: Galaxies, y1: Galaxies
) -> dict[str, tuple[Galaxies, Mapping[str, Any] | None]]:
    """The records of a cell: galaxies and options of the one-pixel attack, None where nothing is perturbed."""
    test = select(y10, "test")
    few = balanced(test, _of(size.attacked, arch))
    wanted: dict[str, tuple[Galaxies, Mapping[str, Any] | None]] = {
        "y10": (test, None), "y1": (select(y1, "test"), None), "paper": (few, _of(size.search, arch)),
    }  # fmt: skip
    if y10.exposure is not None:
        wanted["flux"] = few, {**size.flux, "space": "flux"}
    return wanted


# ---------------------------------------------------------------------- an estimate


def seconds_of_cell(setting: Setting, arch: str, y10: Galaxies) -> dict[str, float]:
    """About how long the parts of a cell take."""
    size = setting.size
    attacks = [(len(g), options) for g, options in records_of(arch, size, y10, y10).values() if options is not None]
    training, attack = seconds_of_parts(
        arch, y10, setting.device, train=len(select(y10, "train")) // 2, epochs=size.epochs, batch=size.batch,
        attacks=attacks,
    )  # fmt: skip
    return {TRAINING: training, ATTACK: attack}
