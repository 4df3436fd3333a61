"""The light of a mock galaxy: what GalSim draws for its parameters, before any survey looks at it.

Part of the frozen definition of the mocks: any change here changes `parameters_hash` and with it every record.

A galaxy is a few parts of unit flux, each drawn once through a narrow Gaussian PSF and the pixel and then added up in
every band with that band's flux. Smooth parts are GalSim profiles. Arms, knots and tides are sums of circular Gaussians
(`Blobs`): behind a Gaussian PSF and a square pixel these are products of error functions, exact and much faster than
GalSim drawing hundreds of them by FFT (the two are compared in the tests).

Nothing random happens here, and torch is not needed: processes that draw start fast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import galsim
import numpy as np
from scipy.special import erf

WORKING_FWHM = 1.5  # FWHM of the PSF through which light is kept [pixels]
PRECISION = galsim.GSParams(folding_threshold=1e-2, maxk_threshold=5e-3)
DEGREE = np.pi / 180.0
TO_SIGMA = 1.0 / np.sqrt(8.0 * np.log(2.0))


@dataclass(frozen=True)
class Blobs:
    """A sum of circular Gaussians: centres x, y and standard deviations [arcsec], weights; arrays (M,)."""

    x: np.ndarray
    y: np.ndarray
    sigma: np.ndarray
    weight: np.ndarray

    def shift(self, x: float, y: float) -> Blobs:
        return Blobs(self.x + x, self.y + y, self.sigma, self.weight)

    def profile(self) -> galsim.GSObject:
        """The same light as a GalSim object of flux 1."""
        columns = (self.x, self.y, self.sigma, self.weight / self.weight.sum())
        return galsim.Sum(*(galsim.Gaussian(sigma=s, flux=w).shift(x, y) for x, y, s, w in zip(*columns, strict=True)))


Light = dict[
    str, Any
]  # name of a part -> a GSObject or Blobs (Any: the result of GSObject.shift() is typed too widely)


def spiral(p: Mapping[str, Any]) -> Light:
    """Parts of a spiral galaxy. Arms run from 0.5 to 4.2 disk scale lengths along r = r0 exp(angle tan(pitch))."""
    scale, q, angle = p["half_light_radius"] / 1.678, p["axis_ratio"], p["position_angle"]
    tangent = np.tan(p["pitch_angle"] * DEGREE)
    arms, steps = int(p["arms"]), 64
    # weights make the arm as bright as the disk below it; the taper hides its ends
    log_radius = np.linspace(np.log(0.5), np.log(4.2), steps)
    taper = np.sin(np.linspace(0.02, 0.98, steps) * np.pi) ** 0.5
    start = p["arm_start"] + 2.0 * np.pi * np.arange(arms) / arms + p["arm_phases"][:arms] / arms * 2.0
    turned = p["handedness"] * log_radius / tangent + start[:, None]
    radius = np.broadcast_to(np.exp(log_radius), turned.shape)
    weight = radius**2 * np.exp(-0.85 * radius) * taper * p["arm_strengths"][:arms, None]
    x, y = _inclined(radius * np.cos(turned), radius * np.sin(turned), q, angle)
    ridge = Blobs(scale * x.ravel(), scale * y.ravel(), scale * (0.06 + 0.07 * radius).ravel(), weight.ravel())
    # knots sit on the arms, more of them where the arm is broader
    place = p["knot_places"]
    arm = np.minimum((place[:, 0] * arms).astype(int), arms - 1)
    log_r = np.log(0.8) + (np.log(3.6) - np.log(0.8)) * place[:, 1]
    turn = p["handedness"] * log_r / tangent + start[arm] + 0.3 * (place[:, 2] - 0.5)
    x, y = _inclined(np.exp(log_r) * np.cos(turn), np.exp(log_r) * np.sin(turn), q, angle)
    knots = Blobs(scale * x, scale * y, 0.04 + 0.12 * place[:, 3], p["knot_lights"])
    return {
        "bulge": _sersic(p["bulge_index"], p["bulge_radius"], 0.5 + 0.5 * q, angle),
        "disk": _sersic(1.0, p["half_light_radius"], q, angle),
        "arms": ridge,
        "knots": knots,
    }


def elliptical(p: Mapping[str, Any]) -> Light:
    """One Sersic profile."""
    return {"bulge": _sersic(p["sersic_index"], p["half_light_radius"], p["axis_ratio"], p["position_angle"])}


def merger(p: Mapping[str, Any]) -> Light:
    """Two galaxies, and between and around them the light that tides pulled out."""
    dx, dy = p["separation"] * np.cos(p["direction"]), p["separation"] * np.sin(p["direction"])
    share = p["mass_ratio"] / (1.0 + p["mass_ratio"])
    first, second = (-share * dx, -share * dy), ((1.0 - share) * dx, (1.0 - share) * dy)
    sizes = (p["half_light_radius"], p["secondary_radius"])
    tails = [
        _tail(
            centre,
            size,
            p["direction"] + (np.pi if k == 0 else 0.0) + p["tail_turns"][k],  # tails leave on the far sides
            p["tail_hands"][k],
            p["tail_pitches"][k],
            p["tail_lengths"][k],
            (1.0 - share, share)[k],
        )
        for k, (centre, size) in enumerate(zip((first, second), sizes, strict=True))
    ]
    along = np.linspace(0.0, 1.0, 24)
    bend = p["bridge_bend"] * 4.0 * along * (1.0 - along)
    bridge = Blobs(
        first[0] + along * dx - bend * dy,
        first[1] + along * dy + bend * dx,
        np.full(24, 0.22 * min(sizes)),
        np.full(24, 0.25 / 24),
    )
    far = 1.2 + 1.8 * p["debris"][:, 0]
    turn = 2.0 * np.pi * p["debris"][:, 1]
    debris = Blobs(
        sizes[0] * far * np.cos(turn),
        sizes[0] * far * np.sin(turn),
        sizes[0] * (0.2 + 0.35 * p["debris"][:, 2]),
        np.full(len(far), 0.3 / len(far)),
    )
    nuclei = np.array([first, second] * (len(p["burst_places"]) // 2))
    place = nuclei + 0.35 * np.array([[sizes[0]], [sizes[1]]] * (len(nuclei) // 2)) * p["burst_places"]
    burst = Blobs(place[:, 0], place[:, 1], np.full(len(place), 0.1), np.ones(len(place)))
    return {
        "primary": _sersic(p["sersic_index"], sizes[0], p["axis_ratio"], p["position_angle"]).shift(*first),
        "secondary": _sersic(p["secondary_index"], sizes[1], p["secondary_axis_ratio"], p["secondary_angle"]).shift(
            *second
        ),
        "tides": _joined([*tails, bridge, debris]),
        "starburst": burst,
    }


LIGHT: dict[str, Callable[[Mapping[str, Any]], Light]] = {"spiral": spiral, "elliptical": elliptical, "merger": merger}


def parts(morphology: str, p: Mapping[str, Any]) -> Light:
    """Parts of one galaxy, each of flux 1, in their places; `p` is one row of `mock_parameters.parameters`."""
    light = LIGHT[morphology](p)
    if p.get("fraction_neighbour", 0.0) > 0.0:
        light["neighbour"] = _sersic(1.5, p["neighbour_radius"], p["neighbour_axis_ratio"], p["neighbour_angle"]).shift(
            p["neighbour_x"], p["neighbour_y"]
        )
    return {name: part.shift(p["x"], p["y"]) for name, part in light.items()}


def draw(light: Light, fluxes: Mapping[str, Sequence[float]], size: int, pixel_scale: float) -> np.ndarray:
    """Noise-free image through the working PSF and the pixel.

    Parameters
    ----------
    light : parts of unit flux.
    fluxes : of each part, one per band [electrons].
    size : side of the image [pixels].
    pixel_scale : [arcsec per pixel].

    Returns
    -------
    float32 (bands, size, size), electrons per pixel.
    """
    bands = len(next(iter(fluxes.values())))
    image = np.zeros((bands, size, size))
    for name, part in light.items():
        drawn = _draw_blobs if isinstance(part, Blobs) else _draw_profile
        image += np.asarray(fluxes[name])[:, None, None] * drawn(part, size, pixel_scale)
    return image.astype(np.float32)


def render(
    galaxies: Sequence[tuple[str, Mapping[str, Any], Mapping[str, Sequence[float]]]], size: int, pixel_scale: float
) -> np.ndarray:
    """Draw galaxies given by class, parameters and the fluxes of their parts; float32 (N, bands, size, size)."""
    with galsim.utilities.single_threaded():  # many small jobs: threads would only wait for each other
        return np.stack([draw(parts(morphology, p), fluxes, size, pixel_scale) for morphology, p, fluxes in galaxies])


def _draw_profile(profile: Any, size: int, pixel_scale: float) -> np.ndarray:
    psf = galsim.Gaussian(fwhm=WORKING_FWHM * pixel_scale, gsparams=PRECISION)
    seen: Any = galsim.Convolve(profile, psf, gsparams=PRECISION)
    return seen.drawImage(nx=size, ny=size, scale=pixel_scale, dtype=np.float64).array


def _draw_blobs(blobs: Blobs, size: int, pixel_scale: float) -> np.ndarray:
    sigma = np.hypot(blobs.sigma, WORKING_FWHM * pixel_scale * TO_SIGMA)[:, None]
    edges = (np.arange(size + 1) - 0.5 * size) * pixel_scale
    columns, rows = (
        0.5 * np.diff(erf((edges - centre[:, None]) / (np.sqrt(2.0) * sigma)), axis=1) for centre in (blobs.x, blobs.y)
    )
    weight = blobs.weight / blobs.weight.sum()
    # einsum without BLAS: its sums do not depend on the number of threads
    return np.einsum("my,mx->yx", rows * weight[:, None], columns)


def _sersic(index: float, radius: float, axis_ratio: float, angle: float) -> Any:
    profile = galsim.Sersic(n=float(index), half_light_radius=float(radius), gsparams=PRECISION)
    return profile.shear(q=float(axis_ratio), beta=float(angle) * galsim.radians)


def _inclined(x: np.ndarray, y: np.ndarray, axis_ratio: float, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Points of a face-on disk as seen inclined; like GalSim's shear, it keeps the area."""
    x, y = x / np.sqrt(axis_ratio), y * np.sqrt(axis_ratio)
    return x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)


def _tail(
    centre: tuple[float, float], size: float, start: float, hand: float, pitch: float, length: float, share: float
) -> Blobs:
    """A tail that leaves a galaxy at 0.7 half-light radii and winds out to `length` of them, fainter and broader."""
    steps = 40
    radius = np.linspace(0.7, length, steps)
    angle = start + hand * np.log(radius / 0.7) / np.tan(pitch * DEGREE)
    weight = np.exp(-1.2 * (radius - 0.7) / (length - 0.7))
    return Blobs(
        centre[0] + size * radius * np.cos(angle),
        centre[1] + size * radius * np.sin(angle),
        size * (0.14 + 0.05 * radius),
        0.45 * 2.0 * share * weight / weight.sum(),
    )


def _joined(blobs: Sequence[Blobs]) -> Blobs:
    return Blobs(*(np.concatenate([getattr(b, name) for b in blobs]) for name in ("x", "y", "sigma", "weight")))
