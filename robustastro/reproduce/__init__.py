"""Published studies done again: one module each, whose `run` trains, attacks, measures and writes a page.

What a study does is its own; how its trainings are run, resumed and left out is in `study.py`.
"""

import importlib
from types import MappingProxyType, ModuleType

from perturbations.errors import unknown_name

STUDIES = MappingProxyType({"deepadversaries": "Ciprijanovic et al. 2022, arXiv:2112.14299"})


def get(name: str) -> ModuleType:
    """The module of a study.

    Raises
    ------
    InputError : no study of that name, with the nearest one.
    """
    if name not in STUDIES:
        raise unknown_name("study", name, STUDIES)
    return importlib.import_module(f"robustastro.reproduce.{name}")
