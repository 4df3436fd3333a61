"""Published studies done again: one module each, whose `run` trains, attacks, measures and writes a page.

What a study does is its own; how its trainings are run, resumed and left out is in `study.py`.
"""

import importlib
from types import MappingProxyType, ModuleType

from perturbations.errors import unknown_name

STUDIES = MappingProxyType(
    {
        "deepmerge2": "Ciprijanovic et al. 2021, arXiv:2103.01373",
        "deepadversaries": "Ciprijanovic et al. 2022, arXiv:2112.14299",
        "deepastrouda": "Ciprijanovic et al. 2023, arXiv:2302.02005",
    }
)


def get(name: str) -> ModuleType:
    """The module of a study.

    Raises
    ------
    InputError : no study of that name, with the nearest one.
    """
    if name not in STUDIES:
        raise unknown_name("study", name, STUDIES)
    return importlib.import_module(f"robustastro.reproduce.{name}")
