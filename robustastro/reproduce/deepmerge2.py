"""DeepMerge II (Ciprijanovic et al. 2021, arXiv:2103.01373), done again.

Mergers and other galaxies. Distant: a simulation with the PSF of HST, and the same with noise. Nearby: a simulation,
and a survey with other galaxies, where transfer learning from the distant model helps if anything does.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from robustastro.data.domains import recipes
from robustastro.data.mocks import Recipe as MockRecipe
from robustastro.progress import Progress
from robustastro.reproduce import deepmerge2_page as page
from robustastro.reproduce import two_domains
from robustastro.reproduce.programme import Asked
from robustastro.reproduce.two_domains import Size, Variant

BEDS, METHODS = ("distant", "nearby"), ("none", "mmd", "coral", "dann")
ADDED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"fisher-ratio": {"fisher": "ratio"}, "fisher-difference": {"fisher": "difference"}, "entropy": {"entropy": 0.05}}
)


def _variants() -> dict[str, Variant]:
    """Every method on each bed, alone and with one thing added; on the nearby one also from the distant model."""
    found = []
    for bed in BEDS:
        for method in METHODS:
            found.append(Variant(bed, method, {"method": method}))
            found += [Variant(bed, f"{method}+{word}", {"method": method, **more}) for word, more in ADDED.items()]
            if method in ("mmd", "dann"):
                settings = {"method": method, "options": {"settings": "published"}}
                found.append(Variant(bed, f"{method}+published", settings))
            if bed == "nearby":
                found.append(Variant(bed, f"{method}+transfer", {"method": method}, start=f"distant-{method}"))
    return {variant.label: variant for variant in found}


VARIANTS: Mapping[str, Variant] = MappingProxyType(_variants())
FIRST = (
    "distant-none", "distant-mmd", "distant-dann", "nearby-none", "nearby-mmd", "nearby-dann", "nearby-mmd+transfer",
    "nearby-none+transfer", "nearby-dann+transfer",
)  # fmt: skip
SETS = MappingProxyType({bed: (f"{bed}/source", f"{bed}/target") for bed in BEDS})
FULL = Size(
    galaxies=dict.fromkeys(BEDS, 1500), epochs=40, batch=32, seeds=5, attacked=100,
    cells={arch: tuple(VARIANTS) for arch in ("deepmerge", "resnet18")},
)  # fmt: skip
QUICK = Size(
    galaxies=dict.fromkeys(BEDS, 240), epochs=10, batch=16, seeds=1, attacked=10, search={"pop": 40, "generations": 5},
    cells={"deepmerge": (*FIRST, "distant-coral", "nearby-coral"), "resnet18": ("distant-none", "distant-mmd")},
)  # fmt: skip


def run(asked: Asked, progress: Progress, size: Size | None = None) -> dict[str, Any]:
    """Train, perturb, measure, and write the page; return what goes into results.json.

    Parameters
    ----------
    asked : `data` is a folder of the authors' files (data Zenodo 4507941).
    size : instead of the full or the quick size.

    Raises
    ------
    InputError : as `two_domains.run`.
    """
    return two_domains.run(
        "deepmerge2", asked, progress, size or (QUICK if asked.quick else FULL), variants=VARIANTS, first=FIRST,
        mocks=mocks, sets=SETS, page=page.write,
    )  # fmt: skip


def mocks(bed: str, galaxies: int) -> tuple[MockRecipe, MockRecipe]:
    """Recipes of source and target."""
    return recipes(bed, "merger", galaxies)
