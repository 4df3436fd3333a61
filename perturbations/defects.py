"""What detector effects share: charge in one visit or in all of them, damaged pixels, and stars that fill the well.

A coadd is the sum of f x visits frames, scaled by 1/f to the reference exposure: an electron in one of them adds 1/f,
an electron in each of them (f x visits)/f. What was exposed for less than a visit is one frame.
"""

from __future__ import annotations

import math

import torch

from perturbations.core import Observation
from perturbations.errors import InputError
from perturbations.exposure import Exposure
from perturbations.light import electrons
from perturbations.profiles import at_radius, from_centre, point_spread
from perturbations.repair import interpolated


def one_visit(exposure: Exposure, like: torch.Tensor) -> torch.Tensor:
    """Reference electrons that one electron in a single visit adds, (N or 1, C, 1, 1)."""
    return exposure.pixels("fraction", like).reciprocal()


def every_visit(exposure: Exposure, like: torch.Tensor) -> torch.Tensor:
    """Reference electrons that one electron in each visit adds, (N or 1, C, 1, 1)."""
    fraction = exposure.pixels("fraction", like)
    return (fraction * exposure.pixels("visits", like)).clamp_min(1.0) / fraction


def collected(sky: Observation) -> torch.Tensor:
    """Charge that each pixel collected in one visit, light and sky [electrons], (N, C, H, W)."""
    return (sky.flux + sky.exposure.pixels("sky", sky.flux)) / every_visit(sky.exposure, sky.flux)


def damaged(sky: Observation, flux: torch.Tensor, hit: torch.Tensor, repaired: bool) -> Observation:
    """The sky with `flux`, whose pixels `hit` are masked, and if `repaired` filled from those that are not masked."""
    if repaired:
        bad = hit if sky.mask is None else hit | sky.mask
        flux = torch.where(hit, interpolated(flux, bad), flux)
    return sky.replace(flux, mask=hit)


def wells(exposure: Exposure, like: torch.Tensor, name: str) -> torch.Tensor:
    """The full well [electrons in one visit], (N or 1, C, 1, 1), of an exposure that has one.

    Raises
    ------
    InputError : the exposure declares no finite full well.
    """
    if not bool(torch.isfinite(exposure.full_well).all()):
        raise InputError(
            f"{name}: the Exposure has no finite full_well",
            "the charge at which a pixel saturates in one visit, in electrons",
            "add full_well (and visits) to the exposure; CCDs hold some 100000 electrons",
        )
    return exposure.pixels("full_well", like)


def star(exposure: Exposure, place: torch.Tensor, magnitude: float, like: torch.Tensor, name: str) -> torch.Tensor:
    """Charge of a star in one visit, cut off at the full well [electrons], (N, C, H, W).

    Parameters
    ----------
    place : (N, C, 2) in [0, 1): where on the stamp, in parts of its height and width.
    magnitude : AB magnitude in every band.

    Raises
    ------
    InputError : the exposure lacks full_well, psf_fwhm or zeropoint, or the magnitude is not finite.
    """
    if not math.isfinite(magnitude):
        raise InputError(f"{name}: magnitude = {magnitude}", "a finite AB magnitude", "12 is a bright field star")
    full = wells(exposure, like, name)
    charge = electrons(exposure, magnitude, like) / every_visit(exposure, like)
    size = torch.tensor(like.shape[-2:], dtype=place.dtype, device=place.device)
    offset = (place - 0.5) * size
    seen = [
        at_radius(point_spread(exposure.pick((band,)), like), torch.hypot(*from_centre(offset[:, c], like)))
        for c, band in enumerate(exposure.bands)
    ]
    return torch.minimum(torch.cat(seen, dim=1).mul_(charge), full)


def refuse_outside(name: str, what: str, value: float, low: float, high: float, remedy: str) -> None:
    """Refuse a number outside [low, high], or NaN or infinite."""
    if not (low <= value <= high and math.isfinite(value)):
        allowed = f"{low:g} <= {what} <= {high:g}" if math.isfinite(high) else f"finite {what} >= {low:g}"
        raise InputError(f"{name}: {what} = {value:g}", allowed, remedy)


def refuse_survivors(name: str, surviving_fraction: float) -> None:
    """Refuse a surviving fraction outside [0, 1]."""
    refuse_outside(
        name, "surviving_fraction", surviving_fraction, 0.0, 1.0, "1 means that outlier rejection removed nothing"
    )
