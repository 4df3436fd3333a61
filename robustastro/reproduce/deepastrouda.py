"""DeepAstroUDA (Ciprijanovic et al. 2023, arXiv:2302.02005), done again.

Galaxies of three and of ten classes from one survey to another, where the target has a class that the source has not:
strong lenses. Five test beds, as the mocks have them (`data.domains`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from robustastro.data.domains import recipes
from robustastro.data.mocks import Recipe as MockRecipe
from robustastro.progress import Progress
from robustastro.reproduce import deepastrouda_page as page
from robustastro.reproduce import two_domains
from robustastro.reproduce.programme import Asked
from robustastro.reproduce.two_domains import Size, Variant

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
# which SDSS file goes with which target is not said where we could look: the readers' page has what is known
SETS = MappingProxyType(
    {"lsst-three": ("Y10", "Y1"), "decals-ten": ("sdss_1", "decals"), "stripe82-ten": ("sdss_2", "sdss_stripe82")}
)
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
    InputError : as `two_domains.run`.
    """
    return two_domains.run(
        "deepastrouda", asked, progress, size or (QUICK if asked.quick else FULL), variants=VARIANTS, first=FIRST,
        mocks=mocks, sets=SETS, page=page.write,
    )  # fmt: skip


def mocks(bed: str, galaxies: int) -> tuple[MockRecipe, MockRecipe]:
    """Recipes of source and target."""
    name, _, task = bed.partition("-")
    return recipes(name, task, galaxies)
