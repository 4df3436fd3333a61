"""Other statistics for the same classes: what a simulation makes of galaxies, and what is found among observed ones.

A population changes parameters that were drawn already, so that galaxy i of a seed stays comparable. Directions of the
changes follow the papers named; how large they are is our choice, large enough that a network notices.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from robustastro.data.mock_parameters import Parameters, _steps

# what is a length of the galaxy itself [arcsec]; its neighbour and its place in the image stay
LENGTHS = ("half_light_radius", "bulge_radius", "secondary_radius", "separation", "bar_length", "einstein_radius")
LENGTHS += ("source_radius", "source_x", "source_y")


def simulated(p: Parameters) -> Parameters:
    """Galaxies as in Illustris: larger and with smaller bulges, few knots; mergers late, with bright tides; alone.

    Sizes and the lack of bulges: Bottrell et al. 2017, MNRAS 467, 2879. Here sizes x 1.25, bulges x 0.5, Sersic
    indices of galaxies without a disk lower by 1, tidal light x 1.5, tails x 1.15, knots x 0.4; separations of mergers
    x 0.5, so that the nuclei have nearly met; and no galaxy by chance in the line of sight.
    """
    p = _resized(p, 1.25)
    if "separation" in p:
        p["separation"] = 0.5 / 1.25 * p["separation"]
    if "fraction_neighbour" in p:
        p["fraction_neighbour"] = np.zeros_like(p["fraction_neighbour"])
    _shift_light(p, "bulge", "disk", 0.5)
    _shift_light(p, "knots", "disk", 0.4)
    _tides(p, light=1.5, length=1.15)
    _concentration(p, -1.0)
    return p


def observed(p: Parameters) -> Parameters:
    """Bright nearby galaxies as in SDSS: more concentrated, and mergers that are plain pairs with weak tides.

    Pairs in SDSS that Galaxy Zoo calls mergers: Darg et al. 2010, MNRAS 401, 1043. Here sizes x 0.9, bulges x 1.4,
    Sersic indices of galaxies without a disk higher by 0.5, tidal light x 0.35, tails x 0.8, separations x 1.15;
    galaxies by chance in the line of sight x 3.
    """
    p = _resized(p, 0.9)
    _shift_light(p, "bulge", "disk", 1.4)
    _tides(p, light=0.35, length=0.8)
    _concentration(p, 0.5)
    if "separation" in p:
        p["separation"] = 1.15 / 0.9 * p["separation"]
    if "fraction_neighbour" in p:
        p["fraction_neighbour"] = 3.0 * p["fraction_neighbour"]
    return p


POPULATIONS: dict[str, Callable[[Parameters], Parameters]] = {
    "standard": lambda p: p,
    "simulated": simulated,
    "observed": observed,
}


def _resized(p: Parameters, factor: float) -> Parameters:
    return p | {name: factor * p[name] for name in LENGTHS if name in p}


def _shift_light(p: Parameters, part: str, other: str, factor: float) -> None:
    """Multiply the light of a part and take it from, or give it to, another; at most 0.8 of what that has."""
    if f"fraction_{part}" not in p or f"fraction_{other}" not in p:
        return
    more = np.minimum((factor - 1.0) * p[f"fraction_{part}"], 0.8 * p[f"fraction_{other}"])
    p[f"fraction_{part}"], p[f"fraction_{other}"] = p[f"fraction_{part}"] + more, p[f"fraction_{other}"] - more
    if part == "bulge":
        p["bulge_fraction"] = p["fraction_bulge"]


def _tides(p: Parameters, light: float, length: float) -> None:
    """Multiply the light in tides, at most to 0.5; the galaxies it belongs to keep the rest in their proportions."""
    if "fraction_tides" not in p:
        return
    tides = np.minimum(light * p["fraction_tides"], 0.5)
    others = [f"fraction_{part}" for part in ("primary", "secondary", "disk", "bulge") if f"fraction_{part}" in p]
    before = sum(p[name] for name in others)
    for name in others:
        p[name] = p[name] * (before + p["fraction_tides"] - tides) / before
    p["tidal_fraction"] = p["fraction_tides"] = tides
    if "fraction_bulge" in p:
        p["bulge_fraction"] = p["fraction_bulge"]
    p["tail_lengths"] = length * p["tail_lengths"]


def _concentration(p: Parameters, change: float) -> None:
    """Change the Sersic index of galaxies without an exponential disk, within 1 to 5.5."""
    for name in ("sersic_index", "secondary_index"):
        if name in p:
            p[name] = np.where(p[name] > 1.0, _steps(np.clip(p[name] + change, 1.0, 5.5)), p[name])
