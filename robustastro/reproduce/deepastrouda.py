"""DeepAstroUDA (Ciprijanovic et al. 2023, arXiv:2302.02005), done again.

Galaxies of three and of ten classes from one survey to another, where the target has a class that the source has not:
strong lenses. Five test beds, as the mocks have them (`data.domains`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from robustastro import commands
from robustastro.data.domains import recipes
from robustastro.data.mocks import Recipe as MockRecipe
from robustastro.data.readers import read
from robustastro.progress import Progress
from robustastro.reproduce import deepastrouda_page as page
from robustastro.reproduce import two_domains
from robustastro.reproduce.programme import Asked, Programme, carry_out
from robustastro.reproduce.study import ATTACK, TRAINING
from robustastro.reproduce.two_domains import Pair, Setting, Size, Variant

METHODS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "none": {"method": "none"},
        "uda": {"method": "uda"},
        "uda+published": {"method": "uda", "options": {"settings": "published"}},
        "mmd": {"method": "mmd"},
        "dann": {"method": "dann"},
    }
)
TASKS = MappingProxyType({"three": 1500, "ten": 3000})  # galaxies in each domain
FAMOUS = ("lsst-three", "lsst-ten", "decals-ten", "stripe82-ten")  # as published
BEDS = tuple(
    dict.fromkeys(
        [*FAMOUS, *(f"{bed}-{task}" for task in TASKS for bed in ("lsst", "decals", "stripe82", "distant", "nearby"))]
    )
)
VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {v.label: v for v in (Variant(bed, name, settings) for bed in BEDS for name, settings in METHODS.items())}
)
FIRST = tuple(f"{bed}-{method}" for bed in FAMOUS for method in ("none", "uda"))
FULL = Size(
    galaxies={bed: TASKS[bed.split("-")[1]] for bed in BEDS}, epochs=40, batch=32, seeds=5, attacked=100,
    cells={arch: tuple(VARIANTS) for arch in ("convnet", "resnet18")},
)  # fmt: skip
QUICK = Size(
    galaxies={bed: 300 for bed in BEDS}, epochs=10, batch=16, seeds=1, attacked=10,
    search={"pop": 40, "generations": 5},
    cells={"convnet": (*FIRST, "lsst-three-mmd"), "resnet18": ("lsst-three-none", "lsst-three-uda")},
)  # fmt: skip


def run(asked: Asked, progress: Progress, size: Size | None = None) -> dict[str, Any]:
    """Train, perturb, measure, and write the page; return what goes into results.json.

    Parameters
    ----------
    asked : `data` is a folder of the authors' files (data Zenodo 7473597).
    size : instead of the full or the quick size.

    Raises
    ------
    InputError : as `programme.carry_out`.
    """
    size = size or (QUICK if asked.quick else FULL)
    setting = Setting(asked.out, size, asked.data, commands.device_of(asked.device), dict(VARIANTS), mocks, files)
    programme = Programme(
        name="deepastrouda", methods=VARIANTS, standard=size.cells, usual=FIRST, seeds=size.seeds,
        cells=partial(two_domains.cells, VARIANTS, FIRST),
        recipe=setting.recipe, identity=lambda: setting.identity(progress),
        guess=lambda arch: two_domains.seconds_of_cell(setting, arch, BEDS[0], progress),
        work={TRAINING: partial(two_domains.train_cell, setting), ATTACK: partial(two_domains.robust_cell, setting)},
        page=lambda finished, about, left: page.write(setting, finished, about, left, progress),
    )  # fmt: skip
    return carry_out(programme, asked, progress)


def mocks(bed: str, galaxies: int) -> tuple[MockRecipe, MockRecipe]:
    """Recipes of source and target."""
    name, _, task = bed.partition("-")
    return recipes(name, task, galaxies)


def files(data: str, bed: str) -> Pair:
    """Source and target of the authors' files."""
    return read(f"{data}::{bed}/source"), read(f"{data}::{bed}/target")
