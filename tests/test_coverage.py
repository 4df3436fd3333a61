"""Every interval holds the truth as often as it says: a fast part of benchmarks/coverage.py."""

import inspect
import math
import runpy
from pathlib import Path

import pytest

from robustastro.metrics import intervals, ladder, resampling, significance

BENCHMARK = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "coverage.py"))
CHOSEN = [
    (setting, draw)
    for setting, draw in BENCHMARK["settings"]()
    if setting.n == 150 and setting.p in (None, 0.5, 0.85, 0.995) and "scatter 1" not in setting.case
    if setting.interval != "mce"  # slow, and a bootstrap as the other
    if BENCHMARK["LONE"] not in setting.case  # of another question than the interval's
]
LONE = [(s, draw) for s, draw in BENCHMARK["settings"]() if BENCHMARK["LONE"] in s.case and s.n == 500 and s.p == 0.85]
CAREFUL = {"worst_class", "difference", "ratio", "over_seeds", "median", "exact"}  # may hold the truth more often


def margin(replicates: int) -> float:
    """Three standard errors of a coverage of 0.93: a right interval fails here once in a thousand."""
    return 3 * math.sqrt(0.93 * 0.07 / replicates)


@pytest.mark.parametrize(
    ("setting", "draw"), CHOSEN, ids=[f"{s.interval}-p{s.p}-k{s.k}-{s.case}".replace(" ", "_") for s, _ in CHOSEN]
)
def test_intervals_hold_the_truth(setting, draw):
    replicates = 100 if setting.interval == "bootstrap" else 1000
    found = BENCHMARK["coverage"](draw, replicates)
    assert found["coverage"] >= 0.93 - margin(replicates)
    if setting.interval not in CAREFUL:
        assert found["coverage"] <= 0.985  # and not by being too wide


def test_of_two_methods_a_lone_training_says_less_than_its_interval():
    """As the docstring of `difference` says."""
    assert {setting.k for setting, _ in LONE} == {(1, 1), (1, 5)}
    for setting, draw in LONE:
        assert BENCHMARK["coverage"](draw, 400)["coverage"] < (0.6 if setting.k == (1, 1) else 0.91)


def test_every_interval_is_simulated():
    """Those that only pass another one's on are left out, and odds_ratio, whose interval is exact."""
    found = [
        f for m in (intervals, significance, resampling, ladder) for f in vars(m).values() if inspect.isfunction(f)
    ]
    giving = {f.__name__ for f in found if f.__name__[0] != "_" and "Estimate" in f.__annotations__.get("return", "")}
    simulated = {setting.interval for setting, _ in BENCHMARK["settings"]()}
    assert giving - simulated == {"severity_area", "worst_case", "bootstrap_seeds", "odds_ratio"}
    assert simulated - giving == {"difference"}  # gives a Difference
