"""What mock galaxies beyond spirals, ellipticals and mergers are like: one distribution per parameter.

The classes of Galaxy10 DECaLS (Leung & Bovy, astroNN; Galaxy Zoo DECaLS: Walmsley et al. 2022, MNRAS 509, 3966) that
DeepAstroUDA sorts (Ciprijanovic et al. 2023, arXiv:2302.02005), and its unknown class, the strong lens. Magnitudes,
sizes, ages and chance neighbours are those of `mock_parameters`; ranges without a source here are our choice.

What only these classes have, lengths in arcsec: `bar_length` (half of it), `einstein_radius`, `source_radius`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from perturbations.draws import Draws
from robustastro.data import mock_parameters
from robustastro.data.mock_parameters import (
    LARGE,
    SMALL,
    Parameters,
    _any_galaxy,
    _between,
    _neighbour,
    _normal,
    _steps,
    elliptical,
    merger,
    spiral,
)

SHELLS = 3  # most shells of a disturbed galaxy


def round_smooth(draws: Draws) -> Parameters:
    """An elliptical that looks round: axis ratio above 0.85."""
    p = elliptical(draws)
    p["axis_ratio"] = _between(draws, "round", 0.85, 1.0)
    return p


def cigar(draws: Draws) -> Parameters:
    """A smooth galaxy of axis ratio 0.25 to 0.45 and low Sersic index, without a disk or anything else to see."""
    p = elliptical(draws)
    p["axis_ratio"] = _between(draws, "cigar", 0.25, 0.45)
    p["sersic_index"] = _steps(_normal(draws, "cigar index", 2.0, 0.6, 1.0, 3.0))
    return p


def barred_spiral(draws: Draws) -> Parameters:
    """A spiral whose two arms begin at the ends of a bar.

    Half the length of the bar is 1 to 1.6 disk scale lengths, its light 10 to 22% of the galaxy's and its axis ratio
    0.22 to 0.35: about the strong bars of Gadotti 2011, MNRAS 415, 3308 (approximate).
    """
    p = _face_on(spiral(draws), draws)
    scale = p["half_light_radius"] / 1.678
    p["arms"] = np.full(len(draws), 2.0)
    p["pitch_angle"] = _between(draws, "barred pitch", 12.0, 26.0)
    p["bar_length"] = scale * _between(draws, "bar length", 1.0, 1.6)
    p["bar_axis_ratio"] = _between(draws, "bar axis ratio", 0.22, 0.35)
    p["bulge_fraction"] = p["fraction_bulge"] = 0.6 * p["bulge_fraction"]
    p["fraction_bar"] = _between(draws, "bar light", 0.10, 0.22)
    return _disk_light(p, p["fraction_bar"]) | {"population_bar": p["population_bulge"] - 0.05}


def tight_spiral(draws: Draws) -> Parameters:
    """Pitch angles of 9 to 14 degrees, the tighter part of Kennicutt 1981, AJ 86, 1847; two arms, larger bulges."""
    p = _face_on(spiral(draws), draws)
    p["pitch_angle"] = _between(draws, "tight pitch", 9.0, 14.0)
    p["arms"] = np.full(len(draws), 2.0)
    p["bulge_fraction"] = p["fraction_bulge"] = _normal(draws, "tight bulge", 0.2, 0.1, 0.05, 0.45)
    return _disk_light(p, 0.0, arms=1.5)


def loose_spiral(draws: Draws) -> Parameters:
    """Pitch angles of 23 to 35 degrees, the open part of Kennicutt 1981, AJ 86, 1847; strong arms, smaller bulges."""
    p = _face_on(spiral(draws), draws)
    p["pitch_angle"] = _between(draws, "loose pitch", 23.0, 35.0)
    p["bulge_fraction"] = p["fraction_bulge"] = 0.7 * p["bulge_fraction"]
    return _disk_light(p, 0.0, arms=1.2)


def edge_on(draws: Draws) -> Parameters:
    """A thin disk seen from its side, no bulge to speak of.

    Exponential along the disk, sech^2 across it, scale height over scale length 0.08 to 0.14 (Kregel, van der Kruit &
    de Grijs 2002, MNRAS 334, 646), inclined by 85 to 90 degrees.
    """
    p = _from_the_side(draws)
    p["bulge_fraction"] = _between(draws, "little bulge", 0.0, 0.04)
    return _bulge_and_disk(p)


def edge_on_bulge(draws: Draws) -> Parameters:
    """The same with a round bulge of 32 to 58% of the light that stands out of the disk."""
    p = _from_the_side(draws)
    p["bulge_fraction"] = _between(draws, "great bulge", 0.32, 0.58)
    p["bulge_index"] = np.maximum(p["bulge_index"], 2.0)
    p["bulge_radius"] = p["half_light_radius"] * _between(draws, "great bulge size", 0.25, 0.40)
    return _bulge_and_disk(p)


def disturbed(draws: Draws) -> Parameters:
    """One galaxy out of balance: a nucleus beside the centre of its disk, a tail or two, shells, patches on one side.

    Tails as Toomre & Toomre 1972, ApJ 178, 623; shells as Malin & Carter 1983, ApJ 274, 534: arcs on alternating
    sides, further and further out.
    """
    p = _any_galaxy(draws, size=1.9, slope=0.5, scatter=0.27)
    p["axis_ratio"] = _between(draws, "axis ratio", 0.45, 1.0)
    p["sersic_index"] = _steps(_between(draws, "sersic index", 1.0, 2.4))
    p["bulge_fraction"] = p["fraction_bulge"] = _between(draws, "nucleus", 0.06, 0.22)
    p["bulge_radius"] = p["half_light_radius"] * _between(draws, "nucleus size", 0.12, 0.25)
    p["offset"] = _between(draws, "offset", 0.20, 0.45)  # of the nucleus, in half-light radii
    p["direction"] = _between(draws, "direction", 0.0, 2.0 * np.pi)
    p["tails"] = 1.0 + (_between(draws, "second tail", 0.0, 1.0) < 0.5)
    p["tail_pitches"] = _between(draws, "tail pitch", 28.0, 60.0, (2,))
    p["tail_lengths"] = _between(draws, "tail length", 2.4, 4.0, (2,))  # in half-light radii
    p["tail_turns"] = _between(draws, "tail turn", -0.6, 0.6, (2,))
    p["tail_hand"] = np.where(draws.integers("tail hand", 2).numpy() == 1, 1.0, -1.0)  # of one disk, so one for both
    p["shells"] = draws.integers("shells", SHELLS + 1).numpy().astype(np.float64)
    p["shell_widths"] = _between(draws, "shell width", 0.4, 0.8, (SHELLS,))  # half the angle [rad]
    p["shell_places"] = _between(draws, "shell place", 0.0, 1.0, (SHELLS,))
    p["patches"] = _between(draws, "patches", 0.0, 1.0, (6, 2))
    p["tidal_fraction"] = p["fraction_tides"] = _normal(draws, "tidal light", 0.30, 0.07, 0.18, 0.45)
    p["fraction_starburst"] = _between(draws, "burst light", 0.02, 0.10)
    p["fraction_disk"] = 1.0 - p["fraction_bulge"] - p["fraction_tides"] - p["fraction_starburst"]
    red = _between(draws, "passive", 0.0, 1.0) < 0.2
    age = np.where(red, 0.88, _normal(draws, "disk age", 0.6, 0.12, 0.3, 0.9))
    p["population_disk"], p["population_tides"] = age, age - 0.1
    p["population_bulge"] = np.maximum(_between(draws, "bulge age", 0.6, 1.0), age)
    p["population_starburst"] = np.where(red, 0.7, _between(draws, "burst age", 0.0, 0.5))
    return p | _neighbour(draws)


def merging(draws: Draws) -> Parameters:
    """Two nuclei within a common envelope: a merger at half the distance, with more of its light in the tides."""
    p = merger(draws)
    p["separation"] = 0.55 * p["separation"]
    tides = np.minimum(1.3 * p["fraction_tides"], 0.45)
    galaxies = (1.0 - tides - p["fraction_starburst"]) / (p["fraction_primary"] + p["fraction_secondary"])
    for part in ("primary", "secondary"):
        p[f"fraction_{part}"] = galaxies * p[f"fraction_{part}"]
    p["tidal_fraction"] = p["fraction_tides"] = tides
    return p | _neighbour(draws)


def strong_lens(draws: Draws) -> Parameters:
    """Arcs or an Einstein ring of a star-forming galaxy around an elliptical.

    A singular isothermal ellipsoid (Kormann, Schneider & Bartelmann 1994, A&A 284, 285) that is as flattened as the
    light, with external shear. Einstein radii of 1.7 to 2.6 arcsec are those of groups more than of single galaxies
    (Sonnenfeld et al. 2013, ApJ 777, 97: about 1 to 2): arcs are to be seen in ground-based seeing. The source lies
    within 0.45 Einstein radii of the lens, inside or near the caustic; one in five is red.
    """
    p = _any_galaxy(draws, size=2.0, slope=0.6, scatter=0.3)
    p["einstein_radius"] = _between(draws, "einstein radius", 1.7, 2.6)
    p["half_light_radius"] = np.clip(p["einstein_radius"] * _between(draws, "lens size", 0.5, 0.8), 0.65 * SMALL, LARGE)
    p["axis_ratio"] = _between(draws, "axis ratio", 0.6, 0.95)
    p["sersic_index"] = _steps(_normal(draws, "sersic index", 3.7, 0.7, 2.5, 5.0))
    p["shear"], p["shear_angle"] = _between(draws, "shear", 0.0, 0.08), _between(draws, "shear angle", 0.0, np.pi)
    distance = p["einstein_radius"] * 0.45 * np.sqrt(_between(draws, "source distance", 0.0, 1.0))
    direction = _between(draws, "source direction", 0.0, 2.0 * np.pi)
    p["source_x"], p["source_y"] = distance * np.cos(direction), distance * np.sin(direction)
    p["source_radius"] = _between(draws, "source size", 0.16, 0.34)
    p["source_axis_ratio"] = _between(draws, "source axis ratio", 0.4, 1.0)
    p["source_angle"] = _between(draws, "source angle", 0.0, np.pi)
    p["fraction_arcs"] = _between(draws, "arc light", 0.25, 0.5)
    p["bulge_fraction"] = p["fraction_bulge"] = 1.0 - p["fraction_arcs"]
    p["population_bulge"] = _normal(draws, "age", 0.95, 0.07, 0.75, 1.15)
    red = _between(draws, "red source", 0.0, 1.0) < 0.2
    p["population_arcs"] = np.where(red, 0.75, _between(draws, "source age", -0.1, 0.35))
    return p | _neighbour(draws)


MORPHOLOGIES: dict[str, Callable[[Draws], Parameters]] = {
    **mock_parameters.MORPHOLOGIES,
    **{f.__name__: f for f in (disturbed, merging, round_smooth, cigar, barred_spiral, tight_spiral, loose_spiral)},
    **{f.__name__: f for f in (edge_on, edge_on_bulge, strong_lens)},
}
PARTS = (*mock_parameters.PARTS, "bar", "arcs")  # they add up to the galaxy


def _face_on(p: Parameters, draws: Draws) -> Parameters:
    """Seen at less than 55 degrees or so and at least 2 arcsec in size: bars and windings can be told apart."""
    p["axis_ratio"] = _between(draws, "face-on", 0.58, 1.0)
    size = 2.0 + (LARGE - 2.0) / (LARGE - SMALL) * (p["half_light_radius"] - SMALL)
    p["bulge_radius"] = p["bulge_radius"] * size / p["half_light_radius"]
    p["half_light_radius"] = size
    return p


def _disk_light(p: Parameters, bar: np.ndarray | float, arms: float = 1.0) -> Parameters:
    """Share what bulge and bar leave over disk, arms and knots; arms get `arms` times what a spiral's have."""
    disk = p["fraction_disk"] + p["fraction_arms"] + p["fraction_knots"]
    left = 1.0 - p["fraction_bulge"] - bar
    p["fraction_arms"], p["fraction_knots"] = arms * left * p["fraction_arms"] / disk, left * p["fraction_knots"] / disk
    p["fraction_disk"] = left - p["fraction_arms"] - p["fraction_knots"]
    return p


def _from_the_side(draws: Draws) -> Parameters:
    """Ages of a spiral's disk: the same colours as face-on, as inclined disks are hardly redder in these mocks."""
    p = spiral(draws)
    keep = ("magnitude_r", "half_light_radius", "position_angle", "reddening", "x", "y", "bulge_index", "bulge_radius")
    p = {name: p[name] for name in (*keep, "population_bulge", "population_disk")}
    p["reddening"] = p["reddening"] + _between(draws, "dust", 0.0, 0.15)
    p["inclination"] = _between(draws, "edge-on", 85.0, 90.0)
    p["thickness"] = _between(draws, "thickness", 0.08, 0.14)
    p["axis_ratio"] = p["thickness"]
    p["sersic_index"] = np.ones(len(draws))
    p["bulge_axis_ratio"] = _between(draws, "bulge axis ratio", 0.7, 1.0)
    return p | _neighbour(draws)


def _bulge_and_disk(p: Parameters) -> Parameters:
    p["fraction_bulge"], p["fraction_disk"] = p["bulge_fraction"], 1.0 - p["bulge_fraction"]
    return p
