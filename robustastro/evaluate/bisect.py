"""Bisection: between which two strengths a galaxy flips, closer than the rungs of the ladder say.

The random numbers of a galaxy do not depend on the strength, so its images change steadily with it, and each galaxy can
be run at strengths of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from perturbations.core import Perturbation
from perturbations.errors import InputError
from robustastro.record import falling

MOST = 30  # halvings: a billionth of a rung
ROUNDING = 1e-9  # halvings: 0.2 to 0.4 is as wide as 0.4 to 0.6, whatever their floats say


def edges(entry: Perturbation, strengths: Sequence[float]) -> np.ndarray:
    """Ends of the intervals to look in, mild to severe (R + 1,): the identity, NaN where there is none, and R rungs."""
    falls = falling(strengths, entry.ladder, entry.identity)
    rungs = sorted(strengths, reverse=falls)
    start = math.nan if entry.identity is None else entry.identity
    if not (start > rungs[0] if falls else start < rungs[0]):
        start = math.nan
    return np.array([start, *rungs])


def halvings(ends: np.ndarray, tolerance: float) -> np.ndarray:
    """How often each interval between neighbouring ends (R + 1,) is halved to be at most `tolerance` wide; int (R,).

    All galaxies of an interval are halved as often, so that their intervals are the same or apart. 0 where its milder
    end is not known.
    """
    width = np.abs(np.diff(np.where(np.isnan(ends), ends[1], ends)))
    return np.ceil(np.log2(np.maximum(width / tolerance, 1.0)) - ROUNDING).astype(int).clip(min=0)


def check(entry: Perturbation, strengths: Sequence[float], tolerance: float) -> None:
    """Refuse a bisection that cannot be done.

    Raises
    ------
    InputError : a tolerance that is no positive number, too small, or wider than all intervals; a perturbation that is
        not one of each galaxy at a continuous strength; a single rung without a milder strength to start from.
    """
    asked = f"--bisect {tolerance:g}"
    if not (tolerance > 0 and math.isfinite(tolerance)):
        raise InputError(asked, "a width above 0, in the perturbation's unit", "give how closely strengths matter")
    reason = None
    if entry.norm == "L0":
        reason = "changes a whole number of pixels"
    elif entry.replay == "batch":
        reason = "repeats only for the same batch of galaxies"
    elif entry.scope == "set":
        reason = "is fitted to a whole set at each strength"
    if reason:
        raise InputError(
            f"{asked}: {entry.name} {reason}", "a strength that can be set for each galaxy", "leave --bisect out"
        )
    ends = edges(entry, strengths)
    if len(strengths) == 1 and math.isnan(ends[0]):
        raise InputError(
            f"{asked} of {entry.name} at one strength, which has no milder one that changes nothing",
            "two rungs or more",
            "run the whole ladder",
        )
    most = int(halvings(ends, tolerance).max())
    widest = float(np.nanmax(np.abs(np.diff(ends))))
    if most == 0:
        raise InputError(asked, f"less than the widest interval between rungs, {widest:.4g}", "choose a smaller one")
    if most > MOST:
        raise InputError(
            f"{asked}, which takes {most} halvings",
            f"at most {MOST}: {widest / 2**MOST:.2g} or more",
            "choose a larger one",
        )


def finest(ends: np.ndarray, tolerance: float) -> list[float]:
    """The first strength after each known end that a bisection may ask for: if it is allowed, so are all the others."""
    count = halvings(ends, tolerance)
    return [
        float(low + (high - low) / 2**times) for low, high, times in zip(ends, ends[1:], count, strict=False) if times
    ]


def narrow(
    low: np.ndarray,
    high: np.ndarray,
    times: np.ndarray,
    flips: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Halve intervals (low, high], each float64 (N,), that begin right and end wrong, so that they still do.

    Parameters
    ----------
    times : (N,) int, how often each is halved.
    flips : tells, for galaxies at positions (M,) and a strength for each (M,), which of them are wrong, bool (M,).
    """
    low, high = low.copy(), high.copy()
    for turn in range(int(times.max(initial=0))):
        active = np.flatnonzero(times > turn)
        middle = (low[active] + high[active]) / 2
        wrong = flips(active, middle)
        high[active[wrong]], low[active[~wrong]] = middle[wrong], middle[~wrong]
    return low, high
