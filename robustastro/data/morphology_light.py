"""The light of mock galaxies beyond spirals, ellipticals and mergers, from the building blocks of `mock_light`.

As there, nothing random happens here and torch is not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import galsim
import numpy as np

from robustastro.data import mock_light
from robustastro.data.lensing import lensed
from robustastro.data.mock_light import (
    DEGREE,
    PRECISION,
    Blobs,
    Light,
    _inclined,
    _joined,
    _sersic,
    _tail,
    draw,
    elliptical,
    merger,
)


def wound_spiral(p: Mapping[str, Any]) -> Light:
    """A spiral whose arms may wind more than once around: drawn more finely, and thinner where they come close."""
    start = p["arm_start"] + _evenly(p) + p["arm_phases"][: int(p["arms"])] / p["arms"] * 2.0
    arms, knots = _arms(p, 0.5, start, width=min(1.0, p["pitch_angle"] / 18.0))
    return _bulge_of(p) | {"disk": _disk(p), "arms": arms, "knots": knots}


def barred_spiral(p: Mapping[str, Any]) -> Light:
    """A spiral whose arms begin where its bar ends."""
    scale = p["half_light_radius"] / 1.678
    half = p["bar_length"] / scale
    arms, knots = _arms(p, 0.95 * half, p["arm_start"] + _evenly(p), width=0.9)
    along = np.linspace(-1.0, 1.0, 25)
    sigma = 0.5 * p["bar_axis_ratio"] * p["bar_length"]
    reach = half * along * (1.0 - 0.5 * p["bar_axis_ratio"])  # blobs at the ends stand out by their own width
    x, y = _inclined(
        reach * np.cos(p["arm_start"]), reach * np.sin(p["arm_start"]), p["axis_ratio"], p["position_angle"]
    )
    bar = Blobs(scale * x, scale * y, np.full(25, sigma), 1.2 - np.abs(along))
    return _bulge_of(p) | {"disk": _disk(p), "bar": bar, "arms": arms, "knots": knots}


def edge_on(p: Mapping[str, Any]) -> Light:
    """An exponential disk from the side, and a bulge."""
    disk = galsim.InclinedExponential(
        inclination=float(p["inclination"]) * galsim.degrees,
        half_light_radius=float(p["half_light_radius"]),
        scale_h_over_r=float(p["thickness"]),
        gsparams=PRECISION,
    ).rotate(float(p["position_angle"]) * galsim.radians)
    bulge = _sersic(p["bulge_index"], p["bulge_radius"], p["bulge_axis_ratio"], p["position_angle"])
    return {"bulge": bulge, "disk": disk}


def disturbed(p: Mapping[str, Any]) -> Light:
    """A lopsided galaxy with tails and shells: the light leans to one side, the nucleus to the other."""
    size, to = p["half_light_radius"], p["direction"]
    off = 0.5 * p["offset"] * size
    centre = (off * np.cos(to), off * np.sin(to))
    tails = [
        _tail(
            (0.0, 0.0),
            0.8 * size,
            to + (np.pi if k else 0.0) + p["tail_turns"][k],
            p["tail_hand"],
            p["tail_pitches"][k],
            p["tail_lengths"][k],
            (0.6, 0.35)[k],
        )
        for k in range(int(p["tails"]))
    ]
    shells = []
    for k in range(int(p["shells"])):
        radius = size * (1.3 + 0.5 * k + 0.4 * p["shell_places"][k])
        along = np.linspace(-1.0, 1.0, 30)
        angle = to + np.pi * (k + 1) + p["shell_widths"][k] * along
        shells.append(
            Blobs(
                radius * np.cos(angle),
                radius * np.sin(angle),
                np.full(30, 0.09 * size),
                0.16 * (1.05 - along**2) / 30.0,
            )
        )
    # a broad, faint fan on the side to which the disk leans
    out = np.array([1.0, 1.5]) * size
    fan = Blobs(out * np.cos(to), out * np.sin(to), np.array([0.45, 0.55]) * size, np.array([0.20, 0.12]))
    turn = to + 1.4 * (p["patches"][:, 0] - 0.5)
    far = size * (0.4 + 0.9 * p["patches"][:, 1])
    return {
        "bulge": _sersic(1.5, p["bulge_radius"], 0.9, p["position_angle"]).shift(-centre[0], -centre[1]),
        "disk": _sersic(p["sersic_index"], 0.9 * size, p["axis_ratio"], p["position_angle"]).shift(*centre),
        "tides": _joined([*tails, *shells, fan]),
        "starburst": Blobs(far * np.cos(turn), far * np.sin(turn), np.full(len(far), 0.12), np.ones(len(far))),
    }


def strong_lens(p: Mapping[str, Any]) -> Light:
    """An elliptical, and the image that it makes of an exponential disk far behind it."""
    cos, sin, q = np.cos(p["source_angle"]), np.sin(p["source_angle"]), p["source_axis_ratio"]
    scale = p["source_radius"] / 1.678

    def source(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        x, y = x - p["source_x"], y - p["source_y"]
        along, across = (x * cos + y * sin) * np.sqrt(q), (y * cos - x * sin) / np.sqrt(q)
        return np.exp(-np.hypot(along, across) / scale)

    arcs = lensed(
        source,
        reach=2.0 * p["einstein_radius"] + 2.0 * p["source_radius"],
        cell=0.25 * p["source_radius"],
        einstein_radius=p["einstein_radius"],
        axis_ratio=p["axis_ratio"],
        angle=p["position_angle"],
        shear=p["shear"],
        shear_angle=p["shear_angle"],
    )
    return elliptical(p) | {"arcs": arcs}


LIGHT: dict[str, Callable[[Mapping[str, Any]], Light]] = {
    **mock_light.LIGHT,
    "disturbed": disturbed,
    "merging": merger,
    "round_smooth": elliptical,
    "cigar": elliptical,
    "barred_spiral": barred_spiral,
    "tight_spiral": wound_spiral,
    "loose_spiral": wound_spiral,
    "edge_on": edge_on,
    "edge_on_bulge": edge_on,
    "strong_lens": strong_lens,
}


def parts(morphology: str, p: Mapping[str, Any]) -> Light:
    """Parts of one galaxy of any class, each of flux 1, in their places; see `mock_light.parts`."""
    if morphology in mock_light.LIGHT:
        return mock_light.parts(morphology, p)
    light = LIGHT[morphology](p)
    if p["fraction_neighbour"] > 0.0:
        neighbour = _sersic(1.5, p["neighbour_radius"], p["neighbour_axis_ratio"], p["neighbour_angle"])
        light["neighbour"] = neighbour.shift(p["neighbour_x"], p["neighbour_y"])
    return {name: part.shift(p["x"], p["y"]) for name, part in light.items()}


def render(
    galaxies: Sequence[tuple[str, Mapping[str, Any], Mapping[str, Sequence[float]]]], size: int, pixel_scale: float
) -> np.ndarray:
    """Draw galaxies given by class, parameters and the fluxes of their parts; float32 (N, bands, size, size)."""
    with galsim.utilities.single_threaded():  # many small jobs: threads would only wait for each other
        return np.stack([draw(parts(morphology, p), fluxes, size, pixel_scale) for morphology, p, fluxes in galaxies])


def _disk(p: Mapping[str, Any]) -> Any:
    return _sersic(1.0, p["half_light_radius"], p["axis_ratio"], p["position_angle"])


def _bulge_of(p: Mapping[str, Any]) -> Light:
    return {"bulge": _sersic(p["bulge_index"], p["bulge_radius"], 0.5 + 0.5 * p["axis_ratio"], p["position_angle"])}


def _evenly(p: Mapping[str, Any]) -> np.ndarray:
    """Directions of the arms, spread evenly [rad]."""
    return 2.0 * np.pi * np.arange(int(p["arms"])) / p["arms"]


def _arms(p: Mapping[str, Any], inner: float, start: np.ndarray, width: float) -> tuple[Blobs, Blobs]:
    """Arms that leave `inner` disk scale lengths in the directions `start` and run out to 4.2, and knots on them.

    Brightness along the arm as in `mock_light.spiral`; blobs follow each other at less than their width.
    """
    scale, q, angle = p["half_light_radius"] / 1.678, p["axis_ratio"], p["position_angle"]
    tangent = np.tan(p["pitch_angle"] * DEGREE)
    arms, outer = len(start), 4.2
    steps = int(np.ceil(np.log(outer / inner) / tangent / (0.06 * width))) + 8
    log_radius = np.linspace(np.log(inner), np.log(outer), steps)
    taper = np.sin(np.linspace(0.02, 0.98, steps) * np.pi) ** 0.5
    turned = p["handedness"] * (log_radius - np.log(inner)) / tangent + start[:, None]
    radius = np.broadcast_to(np.exp(log_radius), turned.shape)
    weight = radius**2 * np.exp(-0.85 * radius) * taper * p["arm_strengths"][:arms, None]
    x, y = _inclined(radius * np.cos(turned), radius * np.sin(turned), q, angle)
    sigma = scale * width * (0.06 + 0.07 * radius)
    ridge = Blobs(scale * x.ravel(), scale * y.ravel(), sigma.ravel(), weight.ravel())
    place = p["knot_places"]
    arm = np.minimum((place[:, 0] * arms).astype(int), arms - 1)
    log_r = np.log(max(0.8, inner)) + (np.log(3.6) - np.log(max(0.8, inner))) * place[:, 1]
    turn = p["handedness"] * (log_r - np.log(inner)) / tangent + start[arm] + 0.3 * width * (place[:, 2] - 0.5)
    x, y = _inclined(np.exp(log_r) * np.cos(turn), np.exp(log_r) * np.sin(turn), q, angle)
    return ridge, Blobs(scale * x, scale * y, 0.04 + 0.12 * place[:, 3], p["knot_lights"])
