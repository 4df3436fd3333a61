"""How often each interval of robustastro.metrics holds the true value, on simulated galaxies and trainings.

    python benchmarks/coverage.py [--replicates 3000] [--slow-replicates 300] [--out benchmarks/coverage.json]

A galaxy in a training is right where its ease, the training's luck and something of its own add up to enough; all three
are normal. So trainings that saw the same galaxies are crossed. Luck 0.15 scatters accuracies by 6 points at p = 0.5,
3.5 at 0.85 and 1 at 0.97; luck 0.3 by twice as much. A lone training has no luck: the truth is that network's. The rows
"luck of the lone one, too" have it, and the truth is that of the methods, for which no such interval is made. Distances
are lognormal in the same sum. `slow` replicates are those of the bootstrap. Exit status 1 where an interval misses 93%
by more than chance and no docstring says so.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from scipy.special import ndtr, ndtri

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # not this folder, where perturbations.py would hide the package

from robustastro import __version__
from robustastro.metrics import intervals, ladder, resampling, significance
from robustastro.metrics.intervals import Estimate
from robustastro.progress import shown
from robustastro.record import write_whole

GOAL = 0.93
EASE, LUCK = 0.6, 0.15  # share of the variance that a galaxy keeps in all trainings; scatter of trainings
TENS = 0.3  # scatter of trainings where they differ by ten points
LONE = "luck of the lone one, too"
SHARES = np.array([0.5, 0.35, 0.15])  # of three classes
HARDER = np.array([0.05, 0.0, -0.15])  # their accuracies, less p

Draw = Callable[[np.random.Generator], tuple[Estimate, float]]


@dataclass(frozen=True)
class Setting:
    """What is simulated: an interval, and the numbers it is simulated for."""

    interval: str
    n: int
    p: float | None = None
    k: tuple[int, ...] = ()
    case: str = ""


def crossed(
    rng: np.random.Generator, n: int, k: tuple[int, ...], luck: float = LUCK, lone: float = 0.0
) -> list[np.ndarray]:
    """Standard normal (k, n) of each arm: the same galaxies; trainings of their own, of luck `lone` where k = 1."""
    ease = rng.normal(0.0, math.sqrt(EASE), n)
    arms = []
    for seeds in k:
        chance = luck if seeds > 1 else lone
        own = rng.normal(0.0, math.sqrt(1 - EASE - chance**2), (seeds, n))
        arms.append(ease + rng.normal(0.0, chance, (seeds, 1)) + own)
    return arms


def settings() -> Iterator[tuple[Setting, Draw]]:
    """Every interval at its settings, with what draws an estimate and says the truth."""
    for n in (50, 150, 500):
        for p in (0.5, 0.85, 0.97):
            yield Setting("proportion", n, p), partial(_proportion, n=n, p=p)
            yield Setting("fraction", n, p, case="five rungs"), partial(_rungs, n=n, p=p)
            yield Setting("exact", n, p), partial(_exact, n=n, p=p)
            yield Setting("exact", n, p, case="five rungs"), partial(_exact_rungs, n=n, p=p)
            yield Setting("balanced", n, p, case="three classes"), partial(_balanced, n=n, p=p)
            yield Setting("worst_class", n, p, case="one is worse"), partial(_worst, n=n, p=p, harder=HARDER)
            yield Setting("worst_class", n, p, case="all alike"), partial(_worst, n=n, p=p, harder=0 * HARDER)
            yield Setting("paired_drop", n, p, case="drop 0.1"), partial(_drop, n=n, p=p, drop=0.1)
            for luck in (LUCK, TENS):
                for k in (2, 3, 5, 10):
                    case = f"accuracy, luck {luck:g}"
                    yield Setting("over_seeds", n, p, (k,), case), partial(_seeds, n=n, p=p, k=k, luck=luck)
                for k in ((1, 1), (1, 5)):
                    case = f"accuracy, drop 0.1, luck {luck:g}, {LONE}"
                    draw = partial(_difference, n=n, p=p, k=k, luck=luck, drop=0.1, lone=luck)
                    yield Setting("difference", n, p, k, case), draw
            for k in ((1, 1), (2, 2), (3, 3), (5, 5), (10, 10), (1, 5)):
                for luck in (LUCK, TENS) if max(k) > 1 else (0.0,):
                    for drop in (0.0, 0.1):
                        case = f"accuracy, drop {drop:g}, luck {luck:g}"
                        draw = partial(_difference, n=n, p=p, k=k, luck=luck, drop=drop)
                        yield Setting("difference", n, p, k, case), draw
        for p in (0.5, 0.85, 0.97, 0.995):
            for k in (2, 3, 5):
                yield Setting("over_seeds", n, p, (k,), "accuracy over five rungs"), partial(_means, n=n, p=p, k=k)
        for scatter in (0.5, 1.0):
            case = f"lognormal, scatter {scatter:g}"
            yield Setting("mean", n, case=case), partial(_mean, n=n, scatter=scatter)
            yield Setting("median", n, case=case), partial(_median, n=n, scatter=scatter)
            yield Setting("bootstrap", n, case=f"ratio, {case}"), partial(_bootstrap, n=n, scatter=scatter)
            for k in (2, 3, 5, 10):
                yield Setting("over_seeds", n, k=(k,), case=case), partial(_length, n=n, scatter=scatter, k=k)
            for k in ((1, 1), (2, 2), (3, 3), (5, 5)):
                yield Setting("ratio", n, k=k, case=case), partial(_ratio, n=n, scatter=scatter, k=k)
                yield Setting("difference", n, k=k, case=case), partial(_apart, n=n, scatter=scatter, k=k)
        yield Setting("mce", n, 0.85, case="two corruptions"), partial(_mce, n=n, p=0.85)


def coverage(draw: Draw, replicates: int, seed: int = 0) -> dict[str, float | int]:
    """Share of the intervals that hold the truth, share that lie wholly above it, and how wide they are on average.

    An estimate without an interval holds nothing, and has no width.
    """
    rng = np.random.default_rng(seed)
    drawn = [draw(rng) for _ in range(replicates)]
    return {
        "replicates": replicates,
        "coverage": round(float(np.mean([e.low <= truth <= e.high for e, truth in drawn])), 4),
        "above": round(float(np.mean([e.low > truth for e, truth in drawn])), 4),
        "width": round(float(np.nanmean([e.high - e.low for e, _ in drawn])), 4),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=3000)
    parser.add_argument("--slow-replicates", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/coverage.json"))
    asked = parser.parse_args()

    rows, every, started = [], list(settings()), time.perf_counter()
    with shown() as progress:
        for done, (setting, draw) in enumerate(every):
            count = asked.slow_replicates if setting.interval in ("bootstrap", "mce") else asked.replicates
            rows.append(asdict(setting) | coverage(draw, count))
            progress("settings", done + 1, len(every))
    low = [row for row in rows if row["coverage"] < GOAL]
    for row in low:
        print(f"{row['coverage']:.3f}  {row['interval']} n = {row['n']} p = {row['p']} k = {row['k']} {row['case']}")
    print(f"{len(rows) - len(low)} of {len(rows)} intervals cover at least {GOAL:.0%}")
    document = {
        "benchmark": "coverage",
        "confidence": intervals.CONFIDENCE,
        "goal": GOAL,
        "date": datetime.date.today().isoformat(),
        "version": __version__,
        "device": "cpu",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "seconds": round(time.perf_counter() - started),
        "rows": rows,
    }
    write_whole(asked.out, lambda file: file.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n"))
    return int(any(not _known(row) and row["coverage"] < GOAL - 3 * _chance(row["replicates"]) for row in low))


def _known(row: Mapping[str, Any]) -> bool:
    """Is it said where it is documented that this interval covers less?"""
    skewed = row["interval"] == "mean" and "scatter 1" in row["case"]
    skewed |= row["interval"] == "ratio" and row["k"] == (2, 2)  # often without an interval
    return skewed or row["interval"] == "bootstrap" or "luck 0.3" in row["case"] or LONE in row["case"]


def _chance(replicates: int) -> float:
    """Standard error of a coverage near the goal."""
    return math.sqrt(GOAL * (1 - GOAL) / replicates)


# ---------------------------------------------------------------------- what is drawn


def _proportion(rng: np.random.Generator, n: int, p: float) -> tuple[Estimate, float]:
    return intervals.proportion(rng.random(n) < p), p


def _ladder(rng: np.random.Generator, n: int, p: float) -> tuple[np.ndarray, float]:
    """A galaxy falls at some rung and mostly stays down: right or not (5, n), and the true mean; p at the mildest."""
    down = ndtri(p) - 0.3 * np.arange(5)[:, None]
    right = rng.normal(0.0, math.sqrt(0.9), n) + rng.normal(0.0, math.sqrt(0.1), (5, n)) < down
    return right, float(ndtr(down).mean())


def _rungs(rng: np.random.Generator, n: int, p: float) -> tuple[Estimate, float]:
    right, truth = _ladder(rng, n, p)
    return ladder.severity_area(right), truth


def _exact(rng: np.random.Generator, n: int, p: float) -> tuple[Estimate, float]:
    return intervals.exact(rng.random(n) < p), p


def _exact_rungs(rng: np.random.Generator, n: int, p: float) -> tuple[Estimate, float]:
    right, truth = _ladder(rng, n, p)
    return intervals.exact(right.mean(axis=0)), truth


def _mce(rng: np.random.Generator, n: int, p: float) -> tuple[Estimate, float]:
    own, other = ({name: _ladder(rng, n, at) for name in "ab"} for at in (p, p - 0.1))
    truth = (1 - own["a"][1]) / (1 - other["a"][1])
    rights = [{name: right for name, (right, _) in of.items()} for of in (own, other)]
    return ladder.mce(rights[0], rights[1]), truth


def _classes(
    rng: np.random.Generator, n: int, p: float, harder: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Right or not (n,), labels (n,), and the true accuracies of three classes."""
    each = np.minimum(p + harder, 0.99)
    labels = rng.choice(3, n, p=SHARES)
    return rng.random(n) < each[labels], labels, each


def _balanced(rng: np.random.Generator, n: int, p: float) -> tuple[Estimate, float]:
    right, labels, each = _classes(rng, n, p, HARDER)
    return intervals.balanced(right, labels, 3), float(each.mean())


def _worst(rng: np.random.Generator, n: int, p: float, harder: np.ndarray) -> tuple[Estimate, float]:
    right, labels, each = _classes(rng, n, p, harder)
    return intervals.worst_class(right, labels, 3)[0], float(each.min())


def _drop(rng: np.random.Generator, n: int, p: float, drop: float) -> tuple[Estimate, float]:
    ((before,), (after,)) = crossed(rng, n, (1, 1))
    return intervals.paired_drop(before < ndtri(p), after < ndtri(p - drop)), drop


def _seeds(rng: np.random.Generator, n: int, p: float, k: int, luck: float) -> tuple[Estimate, float]:
    (found,) = crossed(rng, n, (k,), luck)
    return significance.over_seeds(found < ndtri(p)), p


def _means(rng: np.random.Generator, n: int, p: float, k: int) -> tuple[Estimate, float]:
    """Each galaxy's share of five rungs, each a little harder than the one before; p at the mildest."""
    (found,) = crossed(rng, n, (k,))
    down = ndtri(p) - 0.1 * np.arange(5)[:, None, None]
    return significance.over_seeds((found < down).mean(axis=0), fractions=True), float(ndtr(down).mean())


def _difference(
    rng: np.random.Generator, n: int, p: float, k: tuple[int, ...], luck: float, drop: float, lone: float = 0.0
) -> tuple[Estimate, float]:
    first, second = crossed(rng, n, k, luck, lone)
    return significance.difference(first < ndtri(p), second < ndtri(p - drop)).estimate, drop


def _mean(rng: np.random.Generator, n: int, scatter: float) -> tuple[Estimate, float]:
    return intervals.mean(rng.lognormal(sigma=scatter, size=n)), math.exp(scatter**2 / 2)


def _median(rng: np.random.Generator, n: int, scatter: float) -> tuple[Estimate, float]:
    return intervals.median(rng.lognormal(sigma=scatter, size=n)), 1.0


def _lengths(rng: np.random.Generator, n: int, scatter: float, k: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Distances of two arms; the second is 1.3 times as far."""
    first, second = crossed(rng, n, k)
    return np.exp(scatter * first), 1.3 * np.exp(scatter * second)


def _bootstrap(rng: np.random.Generator, n: int, scatter: float) -> tuple[Estimate, float]:
    (first,), (second,) = _lengths(rng, n, scatter, (1, 1))
    return resampling.bootstrap(lambda a, b: a.mean() / b.mean(), first, second), 1 / 1.3


def _ratio(rng: np.random.Generator, n: int, scatter: float, k: tuple[int, ...]) -> tuple[Estimate, float]:
    return significance.ratio(*_lengths(rng, n, scatter, k)), 1 / 1.3


def _apart(rng: np.random.Generator, n: int, scatter: float, k: tuple[int, ...]) -> tuple[Estimate, float]:
    return significance.difference(*_lengths(rng, n, scatter, k)).estimate, -0.3 * math.exp(scatter**2 / 2)


def _length(rng: np.random.Generator, n: int, scatter: float, k: int) -> tuple[Estimate, float]:
    (found,) = crossed(rng, n, (k,))
    return significance.over_seeds(np.exp(scatter * found)), math.exp(scatter**2 / 2)


if __name__ == "__main__":
    sys.exit(main())
