"""Every class of mock galaxies, every band and every population, on top of the frozen three classes in three bands.

A new morphology is one function in `morphology_parameters.MORPHOLOGIES` and one in `morphology_light.LIGHT`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from perturbations.draws import Draws
from perturbations.errors import unknown_name
from robustastro.data import mock_parameters
from robustastro.data.mock_parameters import Parameters
from robustastro.data.morphology_parameters import MORPHOLOGIES, PARTS
from robustastro.data.populations import POPULATIONS

# classes whose galaxies are of several morphologies, in equal shares
COMPOSITES: Mapping[str, tuple[str, ...]] = {"non-merger": ("spiral", "elliptical")}
CLASSES = (*MORPHOLOGIES, *COMPOSITES)

# Colours beyond the frozen g, r, i. z: as they are, Fukugita, Shimasaku & Ichikawa 1995, approximate. I, J, H are
# HST's F814W, F125W and F160W, which see about 270, 416 and 512 nm of a galaxy at redshift 2: near-ultraviolet, B and
# V. They are colours against H, and the "r" magnitude that a galaxy draws is then its H. B - V of irregulars and
# ellipticals as in Fukugita et al., the near-ultraviolet our choice; reddening as Calzetti et al. 2000, ApJ 533, 682;
# all approximate.
YOUNG = mock_parameters.YOUNG | {"z": -0.08, "I": 0.5, "J": 0.15, "H": 0.0}
OLD = mock_parameters.OLD | {"z": -0.60, "I": 2.6, "J": 0.80, "H": 0.0}
REDDENING = mock_parameters.REDDENING | {"z": -0.9, "I": 2.5, "J": 0.8, "H": 0.0}
BANDS = tuple(YOUNG)


def parameters(draws: Draws, morphology: str, population: str = "standard") -> Parameters:
    """Parameters of galaxies of one morphology, one row per galaxy of `draws`, with a magnitude in each band.

    Raises
    ------
    InputError : an unknown morphology or population.
    """
    if morphology not in MORPHOLOGIES:
        raise unknown_name("class of mock galaxies", morphology, MORPHOLOGIES)
    if population not in POPULATIONS:
        raise unknown_name("population of mock galaxies", population, POPULATIONS)
    p = POPULATIONS[population](MORPHOLOGIES[morphology](draws))
    for band in BANDS:
        light = sum(p[f"fraction_{part}"] * brightness(p, part, band) for part in PARTS if f"fraction_{part}" in p)
        p[f"magnitude_{band}"] = p["magnitude_r"] - 2.5 * np.log10(light)
    return p


def brightness(p: Mapping[str, np.ndarray], part: str, band: str) -> np.ndarray:
    """Light of a part of the galaxy in a band, in units of its light in r (in H for I, J, H)."""
    age = p[f"population_{part}"]
    colour = YOUNG[band] * (1.0 - age) + OLD[band] * age + REDDENING[band] * p["reddening"]
    return 10.0 ** (-0.4 * colour)


def members(draws: Draws, name: str) -> list[tuple[str, np.ndarray]]:
    """Morphologies of a class, and which galaxies of `draws` belong to each (positions)."""
    if name not in COMPOSITES:
        return [(name, np.arange(len(draws)))]
    of = draws.integers("composite", len(COMPOSITES[name])).numpy()
    return [(morphology, np.flatnonzero(of == k)) for k, morphology in enumerate(COMPOSITES[name])]
