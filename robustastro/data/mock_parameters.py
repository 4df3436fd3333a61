"""What mock galaxies are like: one distribution per parameter, each with its source.

Part of the frozen definition of the mocks: any change here changes `parameters_hash` and with it every record.

Shapes of distributions (slopes, scatters, ranges) are the cited ones. Ours is the choice of *which* galaxies are drawn:
well resolved (half-light radius of 1.4 to 3.6 arcsec) and as faint as r = 22.5, so that what tells the classes apart is
plain in ten years of LSST and half lost in the noise of one year; and more red spirals and blue ellipticals than nature
has, so that neither colour nor magnitude alone gives the class away.

Everything is a function of a galaxy's `Draws`, hence of seed and id alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy.special import ndtr, ndtri

from perturbations.draws import Draws
from perturbations.errors import unknown_name

Parameters = dict[str, np.ndarray]  # name -> (N,) or (N, ...) float64

# Colours against r of a stellar population, 0 = young (irregulars) to 1 = old (ellipticals): the range of Hubble types
# in Fukugita, Shimasaku & Ichikawa 1995, PASP 107, 945 (Table 3), joined by a line.
YOUNG, OLD = {"g": 0.20, "r": 0.0, "i": -0.06}, {"g": 0.77, "r": 0.0, "i": -0.39}
REDDENING = {"g": 1.0, "r": 0.0, "i": -0.5}  # what one magnitude of excess g - r (dust, redshift) does to each band

BRIGHT, FAINT, COUNTS = 20.5, 22.5, 0.31  # r [mag]; N(<m) ~ 10^(0.31 m): LSST Science Book (2009), arXiv:0912.0201
SMALL, LARGE = 1.4, 3.6  # half-light radius [arcsec]
N_STEP = 0.5  # GalSim tabulates each Sersic index once: few different ones keep it fast
KNOTS, DEBRIS = 16, 5  # most knots of a spiral, clumps of debris of a merger
PARTS = ("bulge", "disk", "arms", "knots", "primary", "secondary", "tides", "starburst")  # they add up to the galaxy


def spiral(draws: Draws) -> Parameters:
    """Bulge, inclined exponential disk, logarithmic arms, star-forming knots.

    Bulge to total light, bulge index and bulge size in disk scale lengths (0.2): Graham & Worley 2008, MNRAS 388, 1708.
    Disk thickness 0.2 seen at random angles: Padilla & Strauss 2008, MNRAS 388, 1321; too inclined ones show no arms
    and are left out. Pitch angles: Kennicutt 1981, AJ 86, 1847. Light in arms and their growing width: Savchenko et al.
    2020, MNRAS 493, 390. Knot luminosities, N(L) ~ L^-2: Kennicutt, Edgar & Hodge 1989, ApJ 337, 761. Red spirals
    exist: Masters et al. 2010, MNRAS 405, 783 (6% there, 15% here).
    """
    p = _any_galaxy(draws, size=2.5, slope=0.4, scatter=0.27)
    cosine = _between(draws, "inclination", 0.4, 1.0)
    p["axis_ratio"] = np.sqrt(cosine**2 + 0.2**2 * (1.0 - cosine**2))
    p["sersic_index"] = np.ones(len(draws))
    p["bulge_fraction"] = _normal(draws, "bulge", 0.15, 0.13, 0.02, 0.5)
    p["bulge_index"] = _steps(_normal(draws, "bulge index", 2.0, 0.9, 1.0, 4.0))
    p["bulge_radius"] = 0.2 / 1.678 * p["half_light_radius"] * np.exp(_normal(draws, "bulge size", 0.3, 0.3, -0.5, 1.0))
    p["arms"] = np.array([2.0] * 6 + [3.0] * 3 + [4.0])[draws.integers("arms", 10).numpy()]
    p["pitch_angle"] = _normal(draws, "pitch", 19.0, 5.0, 9.0, 30.0)
    p["handedness"] = np.where(draws.integers("hand", 2).numpy() == 1, 1.0, -1.0)
    p["arm_phases"] = _between(draws, "arm phases", -0.25, 0.25, (4,))
    p["arm_strengths"] = _between(draws, "arm strengths", 0.7, 1.3, (4,))
    p["arm_start"] = _between(draws, "arm start", 0.0, 2.0 * np.pi)
    p["knot_places"] = _between(draws, "knot places", 0.0, 1.0, (KNOTS, 4))
    p["knot_lights"] = 1.0 / (1.0 - 0.95 * _between(draws, "knot lights", 0.0, 1.0, (KNOTS,)))
    arms = _normal(draws, "arm light", 0.36, 0.07, 0.20, 0.50)
    knots = _between(draws, "knot light", 0.02, 0.09)
    disk = 1.0 - p["bulge_fraction"]
    p["fraction_bulge"], p["fraction_disk"] = p["bulge_fraction"], disk * (1.0 - arms - knots)
    p["fraction_arms"], p["fraction_knots"] = disk * arms, disk * knots
    red = _between(draws, "passive", 0.0, 1.0) < 0.15
    age = np.where(red, 0.9, _normal(draws, "disk age", 0.58, 0.12, 0.3, 0.9))
    p["population_bulge"] = np.maximum(_normal(draws, "bulge age", 0.9, 0.1, 0.6, 1.1), age)
    p["population_disk"], p["population_arms"] = age, age - np.where(red, 0.08, 0.22)
    p["population_knots"] = np.where(red, age - 0.3, 0.0)
    return p | _neighbour(draws)


def elliptical(draws: Draws) -> Parameters:
    """One Sersic profile.

    Indices around 4 (de Vaucouleurs 1948) and their spread: Kormendy et al. 2009, ApJS 182, 216. Axis ratios, most
    common near 0.8 and rare below 0.4: Padilla & Strauss 2008, MNRAS 388, 1321. Blue ellipticals exist: Schawinski et
    al. 2009, MNRAS 396, 818 (6% there, 15% here).
    """
    p = _any_galaxy(draws, size=2.0, slope=0.6, scatter=0.3)
    p["axis_ratio"] = _normal(draws, "axis ratio", 0.8, 0.16, 0.4, 1.0)
    p["sersic_index"] = _steps(_normal(draws, "sersic index", 3.7, 0.9, 2.0, 5.0))
    p["bulge_fraction"] = p["fraction_bulge"] = np.ones(len(draws))
    blue = _between(draws, "active", 0.0, 1.0) < 0.15
    p["population_bulge"] = np.where(
        blue, _between(draws, "young", 0.4, 0.8), _normal(draws, "age", 0.95, 0.07, 0.75, 1.15)
    )
    return p | _neighbour(draws)


def merger(draws: Draws) -> Parameters:
    """Two interacting galaxies with tails, a bridge, debris and starbursts.

    Major mergers, mass ratio above 1:4; light follows mass: Lotz et al. 2010, MNRAS 404, 575. Spirals outnumber
    ellipticals by about three to one: Darg et al. 2010, MNRAS 401, 1552. Shapes of tails and bridges: Toomre & Toomre
    1972, ApJ 178, 623. Starbursts: Mihos & Hernquist 1996, ApJ 464, 641.
    """
    p = _any_galaxy(draws, size=1.9, slope=0.5, scatter=0.27)
    size = p["half_light_radius"]
    ratio = np.exp(_between(draws, "mass ratio", np.log(0.25), 0.0))
    p["mass_ratio"] = ratio
    p["secondary_radius"] = np.clip(size * ratio**0.5 * np.exp(_normal(draws, "size", 0.0, 0.2, -0.4, 0.4)), 0.5, LARGE)
    p["separation"] = _between(draws, "separation", 0.5, 1.6) * (size + p["secondary_radius"])
    p["direction"] = _between(draws, "direction", 0.0, 2.0 * np.pi)
    disks = _between(draws, "disks", 0.0, 1.0, (2,)) < 0.75
    steps = _steps(_normal(draws, "indices", 3.2, 0.8, 2.0, 4.5, (2,)))
    indices = np.where(disks, 1.0, steps)
    flattened = _between(draws, "axis ratios", 0.35, 1.0, (2,))
    ratios = np.where(disks, flattened, 0.6 + 0.4 * flattened)
    p["sersic_index"], p["secondary_index"] = indices.T
    p["axis_ratio"], p["secondary_axis_ratio"] = ratios.T
    p["secondary_angle"] = _between(draws, "second angle", 0.0, np.pi)
    p["tail_pitches"] = _between(draws, "tail pitch", 28.0, 60.0, (2,))
    p["tail_lengths"] = _between(draws, "tail length", 2.6, 4.2, (2,))  # in half-light radii
    p["tail_turns"] = _between(draws, "tail turn", -0.6, 0.6, (2,))
    p["tail_hands"] = np.where(draws.integers("tail hand", 2, (2,)).numpy() == 1, 1.0, -1.0)
    p["bridge_bend"] = _between(draws, "bridge", -0.4, 0.4)
    p["debris"] = _between(draws, "debris", 0.0, 1.0, (DEBRIS, 3))
    p["burst_places"] = _between(draws, "burst places", -1.0, 1.0, (6, 2))
    tides = _normal(draws, "tidal light", 0.20, 0.07, 0.08, 0.40)
    burst = _between(draws, "burst light", 0.01, 0.08)
    p["tidal_fraction"] = p["fraction_tides"] = tides
    p["fraction_starburst"] = burst
    p["fraction_primary"] = (1.0 - tides - burst) / (1.0 + ratio)
    p["fraction_secondary"] = (1.0 - tides - burst) * ratio / (1.0 + ratio)
    ages = np.where(disks, _normal(draws, "disk ages", 0.6, 0.12, 0.3, 0.9, (2,)), 0.92)
    p["population_primary"], p["population_secondary"] = ages.T
    p["population_tides"] = ages.min(axis=1) - 0.1
    p["population_starburst"] = _between(draws, "burst age", 0.0, 0.5)
    return p


MORPHOLOGIES: dict[str, Callable[[Draws], Parameters]] = {"spiral": spiral, "elliptical": elliptical, "merger": merger}


def parameters(draws: Draws, morphology: str) -> Parameters:
    """Parameters of galaxies of one class, one row per galaxy of `draws`, with a magnitude in each band.

    Raises
    ------
    InputError : an unknown class.
    """
    if morphology not in MORPHOLOGIES:
        raise unknown_name("class of mock galaxies", morphology, MORPHOLOGIES)
    p = MORPHOLOGIES[morphology](draws)
    for band in YOUNG:
        light = sum(p[f"fraction_{part}"] * brightness(p, part, band) for part in PARTS if f"fraction_{part}" in p)
        p[f"magnitude_{band}"] = p["magnitude_r"] - 2.5 * np.log10(light)
    return p


def brightness(p: Mapping[str, np.ndarray], part: str, band: str) -> np.ndarray:
    """Light of a part of the galaxy in a band, in units of its light in r."""
    age = p[f"population_{part}"]
    colour = YOUNG[band] * (1.0 - age) + OLD[band] * age + REDDENING[band] * p["reddening"]
    return 10.0 ** (-0.4 * colour)


def _any_galaxy(draws: Draws, size: float, slope: float, scatter: float) -> Parameters:
    """Magnitude, size and place. `size` is the median half-light radius at r = 21.5.

    Slope of size against luminosity (0.6 for early types, between 0.2 and 0.5 for late) and scatter of ln(size) (0.25
    to 0.5): Shen et al. 2003, MNRAS 343, 978.
    """
    low, high = 10.0 ** (COUNTS * BRIGHT), 10.0 ** (COUNTS * FAINT)
    magnitude = np.log10(_between(draws, "magnitude", low, high)) / COUNTS
    median = np.log(size) - 0.4 * np.log(10.0) * slope * (magnitude - 21.5)
    return {
        "magnitude_r": magnitude,
        "half_light_radius": np.exp(_normal(draws, "size scatter", median, scatter, np.log(SMALL), np.log(LARGE))),
        "position_angle": _between(draws, "position angle", 0.0, np.pi),
        "reddening": _normal(draws, "reddening", 0.0, 0.08, -0.2, 0.2),
        "x": _between(draws, "x", -0.3, 0.3),
        "y": _between(draws, "y", -0.3, 0.3),
    }


def _neighbour(draws: Draws) -> Parameters:
    """A galaxy by chance in the same line of sight, in a quarter of the images; no tides. Not part of any magnitude."""
    there = _between(draws, "neighbour", 0.0, 1.0) < 0.25
    direction = _between(draws, "neighbour direction", 0.0, 2.0 * np.pi)
    distance = _between(draws, "neighbour distance", 3.0, 8.0)
    return {
        "fraction_neighbour": there * np.exp(_between(draws, "neighbour light", np.log(0.05), np.log(0.5))),
        "population_neighbour": _between(draws, "neighbour age", 0.4, 1.0),
        "neighbour_x": distance * np.cos(direction),
        "neighbour_y": distance * np.sin(direction),
        "neighbour_radius": _between(draws, "neighbour size", 0.3, 1.0),
        "neighbour_axis_ratio": _between(draws, "neighbour axis ratio", 0.4, 1.0),
        "neighbour_angle": _between(draws, "neighbour angle", 0.0, np.pi),
    }


def _between(draws: Draws, stream: str, low: float, high: float, shape: tuple[int, ...] = ()) -> np.ndarray:
    return low + (high - low) * draws.uniform(stream, shape).numpy().astype(np.float64)


def _normal(
    draws: Draws,
    stream: str,
    mean: float | np.ndarray,
    deviation: float,
    low: float,
    high: float,
    shape: tuple[int, ...] = (),
) -> np.ndarray:
    """A normal distribution cut off at `low` and `high`, by inversion of its distribution function."""
    below, above = ndtr((low - mean) / deviation), ndtr((high - mean) / deviation)
    return mean + deviation * ndtri(below + (above - below) * _between(draws, stream, 0.0, 1.0, shape))


def _steps(index: np.ndarray) -> np.ndarray:
    return np.round(index / N_STEP) * N_STEP
