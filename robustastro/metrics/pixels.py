"""Fatal pixels and certificates: what a search over every pixel of a galaxy says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from robustastro.metrics.intervals import NOTHING, Estimate, mean, median, proportion
from robustastro.record import Record, Unit


@dataclass(frozen=True, eq=False)
class Pixels:
    """What is known of the pixels of galaxies, in the order asked for. Arrays are (N,), NaN where not attacked.

    Parameters
    ----------
    fatal : number of fatal pixels; NaN, too, where the search stopped before it had counted them.
    any : 1 where a galaxy has a fatal pixel, else 0.
    certified : number of pixels that no value in the box breaks.
    size : pixels of an image.
    """

    fatal: np.ndarray
    any: np.ndarray
    certified: np.ndarray
    size: int


def pixels(record: Record, unit: Unit, ids: np.ndarray) -> Pixels | None:
    """The pixels of the galaxies `ids` in a unit, or None where its attack does not try every pixel."""
    rows = record.unit(unit.perturbation, unit.strength)
    if "fatal_pixels" not in rows or "smallest_margin" not in rows:
        return None
    rows, maps = rows.loc[ids], record.maps(unit.perturbation, unit.strength)
    place = pd.Index(maps["ids"]).get_indexer(ids)
    smallest = rows["smallest_margin"].to_numpy(dtype=np.float64)
    attacked, count = np.isfinite(smallest), rows["fatal_pixels"].to_numpy(dtype=np.float64)
    return Pixels(
        fatal=np.where(attacked & (count >= 0), count, math.nan),
        any=np.where(attacked, smallest <= 0, math.nan),
        certified=np.where(attacked, maps["certified"].sum(axis=(1, 2))[place], math.nan),
        size=int(np.prod(maps["certified"].shape[1:])),
    )


def fatal_pixels(found: Pixels, eligible: np.ndarray) -> dict[str, Any]:
    """Of the eligible galaxies (N,) bool that were attacked: estimates of their fatal pixels, for JSON.

    `median`: fatal pixels of a galaxy. `none`: fraction of galaxies with none (Wilson). `pixels`: mean fraction of the
    pixels of a galaxy that are fatal. Of a search that stopped early only `none` is known.
    """
    attacked = eligible & np.isfinite(found.any)
    fatal = found.fatal[attacked]
    counted = bool(np.isfinite(fatal).all())
    return {
        "median": (median(fatal) if counted else NOTHING).to_dict(),
        "none": proportion(found.any[attacked] == 0).to_dict(),
        "pixels": (_fraction(fatal / found.size) if counted else NOTHING).to_dict(),
    }


def certificate(found: Pixels, eligible: np.ndarray, options: Mapping[str, Any]) -> dict[str, Any] | None:
    """What is proved of the eligible galaxies that were attacked; None where no certificate was asked for.

    `pixels`: mean fractions of the pixels of a galaxy that are certified, attackable (fatal) or neither. `galaxies`:
    fractions (Wilson) of galaxies with every pixel certified, with a fatal pixel, and the rest.
    """
    if not options.get("certificate") or options.get("early_exit") or options.get("target") is not None:
        return None
    attacked = eligible & np.isfinite(found.any)
    fatal, certified = found.fatal[attacked], found.certified[attacked]
    whole, attackable = certified == found.size, fatal > 0
    return {
        "pixels": {
            "certified": _fraction(certified / found.size).to_dict(),
            "attackable": _fraction(fatal / found.size).to_dict(),
            "unknown": _fraction(1.0 - (certified + fatal) / found.size).to_dict(),
        },
        "galaxies": {
            "certified": proportion(whole).to_dict(),
            "attackable": proportion(attackable).to_dict(),
            "unknown": proportion(~(whole | attackable)).to_dict(),
        },
    }


def _fraction(values: np.ndarray) -> Estimate:
    """Mean of fractions with a t interval, cut at 0 and 1, beyond which no fraction lies."""
    found = mean(values)
    low, high = (float(np.clip(end, 0.0, 1.0)) for end in (found.low, found.high))  # NaN stays NaN
    return Estimate(found.value, low, high, found.n)
