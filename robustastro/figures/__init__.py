"""Figures from records, one file each. Nothing that draws is imported until a figure is asked for.

Every figure module has `figure(records, names=None, ...)`, which returns a matplotlib Figure, and
`caption(records, names=None, ...)`, which says in words what its marks, bands and numbers are.
"""

import importlib
from types import MappingProxyType, ModuleType

from perturbations.errors import unknown_name

FIGURES = MappingProxyType(
    {
        "severity": "accuracy against strength, with intervals",
        "critical": "fraction of galaxies still right against strength, and the median critical strength",
        "heatmap": "accuracy of every perturbation of a suite at every rung",
        "gallery": "galaxies before and after, the changed pixel marked",
        "latent": "distributions of distance in the latent space",
        "vulnerability": "the smallest margin of every pixel over the galaxy, and what is proved",
        "fatal": "distribution of the number of fatal pixels of a galaxy",
        "comparison": "difference in perturbed accuracy between arms, with intervals",
        "reliability": "how often a model is right at each confidence, and its calibration error",
        "science": "completeness and purity of the classes against magnitude, size or signal-to-noise",
        "confusion": "which class is taken for which, clean and perturbed",
        "roc": "how many of a class are found at each rate of false alarms, by method and domain",
        "entropy": "how unsure models are of classes that they know, and of one that they do not",
        "tsne": "source and target in the latent space, by class and domain",
        "church": "classes of the head in the plane of an attack and of a shallower survey",
        "isomap": "clean, attacked and shallow galaxies of the latent space in two and three dimensions",
    }
)


def get(name: str) -> ModuleType:
    """The module that draws a figure.

    Raises
    ------
    InputError : no figure of that name, with the nearest one.
    """
    if name not in FIGURES:
        raise unknown_name("figure", name, FIGURES, "See robustastro list figures")
    return importlib.import_module(f"robustastro.figures.{name}")
