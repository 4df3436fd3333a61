"""True, false or undecided: what an interval says of something that was foretold.

A prediction is true where the interval says so, false where it excludes it, and undecided otherwise. A method with a
single training decides nothing, because no interval covers its chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Row = Mapping[str, Any]


def verdict(estimate: Row, least: float, several: bool) -> str:
    """Whether a number is at least so large, as far as its interval tells."""
    if not several or estimate["low"] is None or estimate["high"] is None:
        return "undecided"
    return "true" if estimate["low"] >= least else "false" if estimate["high"] < least else "undecided"


def every(estimates: Sequence[Row], above: float, several: Sequence[bool]) -> str:
    """Whether all numbers are above a value: one that is clearly not is enough against it."""
    least = float(np.nextafter(above, np.inf))
    each = [verdict(e, least, more) for e, more in zip(estimates, several, strict=True)]
    return "false" if "false" in each else "true" if each and set(each) == {"true"} else "undecided"


def alone(trainings: Mapping[str, int]) -> str:
    single = [method for method, count in trainings.items() if count == 1]
    return f"a single training of {', '.join(single)}: its chance is unknown" if single else ""


def said(text: str, verdict: str, numbers: Sequence[Row], why: str) -> dict[str, Any]:
    return {"prediction": text, "verdict": verdict, "numbers": list(numbers), "note": why}
