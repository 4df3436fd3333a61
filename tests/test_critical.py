"""Critical strengths: the interval of each galaxy, the estimate of their distribution, and the figure of it."""

import json
import math
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from statsmodels.stats.proportion import proportion_confint
from synthetic_records import ENTRIES, galaxy_table, make_record, run_json, unit_table

from perturbations.errors import InputError
from robustastro import figures
from robustastro.figures import critical as figure
from robustastro.metrics.critical import Critical, critical_strength, summary, survival, text
from robustastro.metrics.intervals import proportion
from robustastro.record import Head, Record, falling

R, W = 0, 1  # the class predicted of a galaxy of class 0: right or wrong
HEAD = Head(np.eye(3), np.zeros(3), np.eye(3), "by hand")
SEEING, DEPTH = ENTRIES["seeing"]["ladder"], ENTRIES["depth"]["ladder"]


def record_of(path, after, name="depth", strengths=(0.8, 0.4, 0.1), clean=None, labels=None) -> Record:
    """A record of galaxies whose predictions (N, R) at the rungs are given; by default of class 0 and right."""
    after = np.array(after)
    ids = [f"g{k}" for k in range(len(after))]
    record = Record(path)
    record.write_run(run_json("hand", {name: list(strengths)}, ("r",), len(ids)))
    record.write_head(HEAD)
    labels = np.zeros(len(ids), dtype=int) if labels is None else np.array(labels)
    latent = np.eye(3)[np.zeros(len(ids), dtype=int) if clean is None else clean]
    record.write_galaxies(galaxy_table(ids, labels, latent, HEAD))
    for strength, predicted in zip(strengths, after.T, strict=True):
        record.write_shard(name, strength, 0, unit_table(ids, np.eye(3)[predicted], HEAD))
    return record


def changed(record: Record, **facts) -> Record:
    record.write_run(record.run | {"perturbations": [p | facts for p in record.run["perturbations"]]})
    return record


def found(record: Record, name: str = "depth") -> Critical:
    critical = critical_strength(record, name)
    assert critical is not None
    return critical


def same(values, expected) -> bool:
    return np.array_equal(values, np.array(expected, dtype=float), equal_nan=True)


CASES = [[W, W, W], [R, W, W], [R, R, W], [R, R, R], [W, R, W], [R, W, R]]


def test_right_again_at_any_later_rung_is_a_recrossing(tmp_path):
    critical = found(record_of(tmp_path, [[W, W, R], [W, W, W]]))
    assert list(critical.recrossed) == [True, False]
    assert same(critical.high, [0.8, 0.8])


def test_intervals_by_hand_on_a_ladder_that_falls(tmp_path):
    critical = found(record_of(tmp_path, CASES))
    nan = math.nan
    assert critical.falling
    assert same(critical.low, [1.0, 0.8, 0.4, 0.1, 1.0, 0.8])
    assert same(critical.high, [0.8, 0.4, 0.1, nan, 0.8, 0.4])
    assert list(critical.status) == ["first rung", "flipped", "flipped", "never", "first rung", "flipped"]
    assert list(critical.recrossed) == [False, False, False, False, True, True]
    assert list(critical.ids) == [f"g{k}" for k in range(6)]
    assert (critical.rungs, critical.start, critical.unit) == ((0.8, 0.4, 0.1), 1.0, "1")
    assert not critical.narrowed.any()
    assert critical.tolerance is None


def test_intervals_by_hand_on_a_ladder_that_rises(tmp_path):
    critical = found(record_of(tmp_path, CASES, "seeing", (0.2, 0.4, 0.6)), "seeing")
    assert not critical.falling
    assert same(critical.low, [0.0, 0.2, 0.4, 0.6, 0.0, 0.2])
    assert same(critical.high, [0.2, 0.4, 0.6, math.nan, 0.2, 0.4])


def test_without_an_identity_the_first_rung_is_censored_on_the_left(tmp_path):
    critical = found(record_of(tmp_path, CASES, "jpeg", (80.0, 50.0, 10.0)), "jpeg")
    assert same(critical.low, [math.nan, 80.0, 50.0, 10.0, math.nan, 80.0])
    assert critical.status[0] == "first rung"
    assert math.isnan(critical.start)


@pytest.mark.parametrize("strength", [1.0, 1.2])
def test_an_identity_that_is_no_milder_than_the_rungs_bounds_nothing(tmp_path, strength):
    critical = found(record_of(tmp_path, [[W], [R]], strengths=(strength,)))
    assert math.isnan(critical.start)
    assert same(critical.low, [math.nan, strength])


def test_strengths_given_by_hand_are_sorted_towards_severity(tmp_path):
    after = np.array([[R, W, W], [R, R, W]])  # at 0.8, 0.4, 0.1
    critical = found(record_of(tmp_path, after[:, [2, 0, 1]], strengths=(0.1, 0.8, 0.4)))
    assert critical.rungs == (0.8, 0.4, 0.1)
    assert same(critical.low, [0.8, 0.4])
    assert same(critical.high, [0.4, 0.1])


def test_what_orders_strengths():
    assert falling([0.1, 0.8], DEPTH, None)
    assert not falling([0.1, 0.8], [1.0, 2.0], None)
    assert falling([0.1, 0.8], [0.5], 1.0)
    assert not falling([0.1, 0.8], [0.5], 0.0)
    assert not falling([0.5], [0.5], None)  # one strength has no order to know
    with pytest.raises(InputError, match=r"2 strengths .* no identity; a ladder of two rungs"):
        falling([0.1, 0.8], [0.5], None)


def test_galaxies_that_cannot_flip_are_counted_apart(tmp_path):
    """Five right; one wrong, one wrong and then right, one without a label; one of the right ones not finished."""
    labels, clean = [0, 0, 0, 0, 0, 0, 0, -1], [0, 0, 0, 0, 0, 1, 1, 0]
    after = [[R, R, W], [R, R, R], [R, W, W], [W, W, W], [R, W, W], [W, W, W], [R, R, R], [R, W, W]]
    record = record_of(tmp_path, after, clean=clean, labels=labels)
    whole = record.unit("depth", 0.1).reset_index()
    record.write_shard("depth", 0.1, 0, whole[whole["id"] != "g1"].iloc[::-1])  # in another order, too
    critical = found(record)
    assert list(critical.ids) == ["g0", "g2", "g3", "g4"]
    assert same(critical.high, [0.1, 0.4, 0.8, 0.4])
    assert (critical.excluded, critical.unlabelled, critical.unfinished) == (2, 1, 1)
    record.write_shard("depth", 0.4, 0, whole[:0])
    assert critical_strength(record, "depth") is None
    assert summary(record) == []


def test_a_perturbation_that_was_not_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"of this run 'detph'; known: depth. Did you mean 'depth'"):
        critical_strength(record_of(tmp_path, CASES), "detph")


def test_a_target_or_logits_that_are_not_finite_flip_as_everywhere(tmp_path):
    """Wrong is wrong, whether or not it is the target; NaN is no class, so it is wrong."""
    record = record_of(tmp_path, [[R, 1], [R, 2], [R, R]], "pgd", (0.004, 0.008))
    changed(record, options={"target": 2})
    table = record.unit("pgd", 0.008).reset_index()
    table["logits"] = [*table["logits"][:2], np.array([math.nan, 0.0, 0.0])]
    record.write_shard("pgd", 0.008, 0, table)
    assert same(found(record, "pgd").high, [0.008] * 3)


def narrow(record: Record, rows: dict[str, tuple[float, float]], name: str = "depth", shard: int = 0) -> None:
    low, high = zip(*rows.values(), strict=True)
    table = {"id": list(rows), "low": low, "high": high, "evaluations": 2, "tolerance": 0.1}
    record.write_bisected(name, shard, pd.DataFrame(table))


def test_a_bisection_replaces_the_intervals_it_narrowed(tmp_path):
    record = record_of(tmp_path, CASES)
    assert record.bisected("depth").empty
    narrow(record, {"g2": (0.25, 0.175), "g0": (0.95, 0.9)})
    # of a galaxy that never flips, and of one that is not in this run: nothing to narrow
    narrow(record, {"g3": (0.3, 0.2), "other": (0.3, 0.2)}, shard=1)
    record.write_bisected("depth", 2, record.bisected("depth").reset_index()[:0])
    (tmp_path / "bisect" / "depth" / ".00003.parquet.x.parquet").write_bytes(b"half")
    critical = found(record)
    assert same(critical.low, [0.95, 0.8, 0.25, 0.1, 1.0, 0.8])
    assert same(critical.high, [0.9, 0.4, 0.175, math.nan, 0.8, 0.4])
    assert list(critical.narrowed) == [True, False, True, False, False, False]
    assert critical.status[0] == "first rung"
    assert critical.tolerance == 0.1


# ---------------------------------------------------------------------- the distribution


def critical_of(low, high, rungs, start=0.0) -> Critical:
    """Of galaxies with these intervals; `rungs` mild to severe."""
    low, high, n = np.array(low, dtype=float), np.array(high, dtype=float), len(low)
    falls = (rungs[-1] < rungs[0]) if len(rungs) > 1 else start > rungs[0]
    status, no = np.where(np.isnan(high), "never", "flipped"), np.zeros(n, dtype=bool)
    ids = np.array([f"g{k}" for k in range(n)], dtype=object)
    return Critical("p", "q", "1", tuple(rungs), start, falls, ids, low, high, status, no, no, 0, 0, 0, None)


def observed(truth, rungs, start=0.0, halvings=0, narrowed=None) -> Critical:
    """What a ladder, and a bisection of some galaxies (N,) bool, tell of known critical strengths (N,)."""
    edges = np.array([start, *rungs, math.inf])
    k = np.searchsorted(edges, truth) - 1  # edges[k] < truth <= edges[k + 1]
    low, high = edges[k], edges[k + 1]
    narrowed = np.isfinite(high) if narrowed is None else narrowed & np.isfinite(high)
    for _ in range(halvings):
        with np.errstate(invalid="ignore"):
            middle = (low + high) / 2
        wrong = truth <= middle
        low, high = np.where(narrowed & ~wrong, middle, low), np.where(narrowed & wrong, middle, high)
    return critical_of(low, np.where(np.isfinite(high), high, math.nan), rungs, start)


def test_on_a_ladder_the_estimate_is_the_fraction_with_wilsons_interval():
    truth = np.random.default_rng(0).gamma(2.0, 0.3, 83)
    got = survival(observed(truth, SEEING))
    assert list(got.strengths) == [0.0, *SEEING]
    assert got.right == pytest.approx([np.mean(truth > s) for s in got.strengths])
    expected = [proportion_confint(np.sum(truth > s), 83, method="wilson") for s in SEEING]
    assert np.stack([got.low, got.high], axis=1)[1:] == pytest.approx(np.array(expected))
    assert (got.low[0], got.right[0], got.high[0]) == (1.0, 1.0, 1.0)
    narrower = survival(observed(truth, SEEING), 0.5)
    assert (narrower.low[1:] > got.low[1:]).all()


def test_a_bisection_fills_in_the_curve_and_leaves_the_rungs():
    truth = np.random.default_rng(1).gamma(2.0, 0.3, 83)
    coarse, fine = (survival(observed(truth, SEEING, halvings=h)) for h in (0, 4))
    assert len(fine.strengths) > 50
    assert fine.right == pytest.approx([np.mean(truth > s) for s in fine.strengths])
    at = np.isin(fine.strengths, coarse.strengths)
    for part in ("right", "low", "high"):
        assert getattr(fine, part)[at] == pytest.approx(getattr(coarse, part))


def test_overlapping_intervals_by_hand():
    """Two galaxies in (0, 1], one of them narrowed to (0, 0.5], and one in (1, 2]: the other one is there, too."""
    got = survival(critical_of([0.0, 0.0, 1.0], [1.0, 0.5, 2.0], (1.0, 2.0)))
    assert list(got.strengths) == [0.0, 0.5, 1.0, 2.0]
    assert got.right == pytest.approx([1.0, 1 / 3, 1 / 3, 0.0])
    # at 0.5 one galaxy is flipped, one is right, and of one it is not known
    assert got.low[1] == pytest.approx(proportion(np.arange(3) < 1).low)
    assert got.high[1] == pytest.approx(proportion(np.arange(3) < 2).high)
    # of three in (0, 1] two are narrowed, to either half: the third is half in each
    got = survival(critical_of([0.0, 0.0, 0.5], [1.0, 0.5, 1.0], (1.0,)))
    assert got.right == pytest.approx([1.0, 0.5, 0.0])
    # in one interval, all of them
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = survival(critical_of([0.0, 0.0], [1.0, 0.5], (1.0,)))
    assert got.right == pytest.approx([1.0, 0.0, 0.0])


def turnbull(low, high, points) -> np.ndarray:
    """Self-consistency, step by step, on the cells between neighbouring ends (Turnbull 1976, equation 3.1)."""
    ends = np.unique(np.concatenate([low, high]))
    within = (low[:, None] <= ends[:-1]) & (ends[1:] <= high[:, None])
    share = np.full(len(ends) - 1, 1.0 / (len(ends) - 1))
    for _ in range(20_000):
        share = share * (within / (within @ share)[:, None]).mean(axis=0)
    return np.array([share[ends[:-1] >= point].sum() for point in points])


@pytest.mark.parametrize("seed", range(4))
def test_an_interrupted_bisection_has_the_estimate_of_turnbull(seed):
    from lifelines import KaplanMeierFitter

    rng = np.random.default_rng(seed)
    truth = rng.gamma(2.0, 0.3, 60)
    critical = observed(truth, SEEING, halvings=3, narrowed=rng.random(60) < 0.6)
    got = survival(critical)
    low, high = critical.low, np.where(np.isnan(critical.high), math.inf, critical.high)
    assert got.right == pytest.approx(turnbull(low, high, got.strengths), abs=1e-6)
    # lifelines takes closed intervals
    curve = KaplanMeierFitter().fit_interval_censoring(low + 1e-9, high, tol=1e-10).survival_function_
    rungs = [float(curve["NPMLE_estimate_lower"].asof(s + 1e-12)) for s in SEEING]
    assert got.right[np.isin(got.strengths, SEEING)] == pytest.approx(rungs, abs=1e-6)
    surely, possibly = (np.mean(ends[:, None] > got.strengths - 1e-12, axis=0) for ends in (low, high - 1e-9))
    assert (surely - 1e-6 <= got.right).all()
    assert (got.right <= possibly + 1e-6).all()
    assert (np.diff(got.right) <= 1e-9).all()
    assert got.low[1] == pytest.approx(proportion(low >= got.strengths[1]).low)
    assert got.high[1] == pytest.approx(proportion(high > got.strengths[1]).high)


def test_smaller_is_more_severe_gives_the_mirrored_curve():
    truth = np.random.default_rng(2).gamma(2.0, 0.3, 50)
    up = observed(truth, SEEING, halvings=2, narrowed=truth < 0.5)
    down = critical_of(1 - up.low, 1 - up.high, tuple(1 - np.array(SEEING)), start=1.0)
    one, two = survival(up), survival(down)
    assert down.falling
    assert two.strengths == pytest.approx(1 - one.strengths)
    for part in ("right", "low", "high"):
        assert getattr(two, part) == pytest.approx(getattr(one, part), abs=1e-9)
    assert two.median.value == pytest.approx(1 - one.median.value)
    assert (two.median.low, two.median.high) == pytest.approx((1 - one.median.high, 1 - one.median.low))


def test_the_median_by_hand():
    rungs = (0.2, 0.4, 0.6)
    # still right: 1, 0.9, 0.7, 0.2; half on the line from (0.4, 0.7) to (0.6, 0.2)
    ten = critical_of([0.0] + [0.2] * 2 + [0.4] * 5 + [0.6] * 2, [0.2] + [0.4] * 2 + [0.6] * 5 + [math.nan] * 2, rungs)
    got = survival(ten).median
    assert got.value == pytest.approx(0.4 + 0.2 * 0.2 / 0.5)
    # Wilson of 9/10: (0.60, 0.98), above a half; of 7/10: (0.40, 0.89); of 2/10: (0.06, 0.51), not below it
    assert (got.low, math.isnan(got.high), got.n) == (0.2, True, 10)
    many = critical_of(np.tile(ten.low, 5), np.tile(ten.high, 5), rungs)
    assert (survival(many).median.low, survival(many).median.high) == (0.4, 0.6)
    # exactly half at a rung
    assert survival(critical_of([0.2, 0.6], [0.4, math.nan], rungs)).median.value == pytest.approx(0.4)


def test_a_median_that_no_rung_bounds_is_null():
    robust = critical_of([0.6] * 30 + [0.4] * 10, [math.nan] * 30 + [0.6] * 10, (0.2, 0.4, 0.6))
    got = survival(robust).median
    assert (math.isnan(got.value), got.low, math.isnan(got.high)) == (True, 0.6, True)
    weak = critical_of([math.nan] * 30 + [0.2] * 10, [0.2] * 30 + [0.4] * 10, (0.2, 0.4), start=math.nan)
    got = survival(weak)
    assert list(got.strengths) == [0.2, 0.4]
    assert (math.isnan(got.median.value), math.isnan(got.median.low), got.median.high) == (True, True, 0.2)
    nobody = survival(critical_of([], [], (0.2, 0.4)))
    assert np.isnan([*nobody.right, *nobody.low, *nobody.high]).all()
    assert nobody.median.to_dict() == {"value": None, "low": None, "high": None, "n": 0}


@pytest.mark.parametrize(("halvings", "share"), [(0, 1.0), (3, 1.0), (3, 0.5)], ids=["ladder", "bisected", "half"])
def test_the_intervals_cover_what_they_say(halvings, share):
    """n = 100 of a lognormal distribution, at every strength that can be asked where 0.12 to 0.98 are right."""
    law, n, rng, times = scipy.stats.lognorm(0.6, scale=0.5), 100, np.random.default_rng(5), 1000 if share == 1 else 300
    grid = np.arange(0.2, 1.01, 0.2 / 2**halvings)
    grid = np.append(grid, [0.15, 0.175]) if halvings else grid
    hits, widths, medians = np.zeros((times, len(grid))), np.zeros(len(grid)), []
    for k in range(times):
        got = survival(observed(law.rvs(n, random_state=rng), SEEING, 0.0, halvings, rng.random(n) < share))
        # where no interval ends at a strength of the grid, the curve is flat from the end before it
        at = np.searchsorted(got.strengths, grid + 1e-9) - 1
        if share < 1:
            surely = np.minimum(at + 1, len(got.strengths) - 1)
            low = np.where(np.isclose(got.strengths[at], grid), got.low[at], got.low[surely])
        else:
            low = got.low[at]
        hits[k] = (low <= law.sf(grid)) & (law.sf(grid) <= got.high[at])
        widths += (got.high[at] - low) / times
        medians.append([got.median.low, got.median.high])
    coverage = hits.mean(axis=0)
    assert coverage.mean() >= 0.94
    assert (coverage >= 0.93 - 2 * math.sqrt(0.07 * 0.93 / times)).all()
    assert (widths[np.isclose(grid % 0.2, 0.0) | np.isclose(grid % 0.2, 0.2)] < 0.2).all()
    low, high = np.array(medians).T
    assert np.mean(~(low > 0.5) & ~(high < 0.5)) >= 0.93
    assert np.nanmean(high - low) < (0.25 if halvings and share == 1 else 0.5)


# ---------------------------------------------------------------------- for machines and people


def test_the_summary_of_a_run(tmp_path):
    record = record_of(tmp_path, CASES, clean=[0] * 5 + [1])
    narrow(record, {"g2": (0.25, 0.175), "g1": (0.7, 0.6)})
    (entry,) = json.loads(json.dumps(summary(record), allow_nan=False))
    assert {name: entry[name] for name in ("n", "excluded", "unlabelled", "unfinished", "never", "recrossed")} == {
        "n": 5, "excluded": 1, "unlabelled": 0, "unfinished": 0, "never": 1, "recrossed": 1,
    }  # fmt: skip
    assert (entry["perturbation"], entry["unit"], entry["start"], entry["falling"]) == ("depth", "1", 1.0, True)
    assert (entry["tolerance"], entry["narrowed"]) == (0.1, 2)
    assert [(c["severity"], c["strength"], c["right"]["value"]) for c in entry["curve"]] == [
        (1, 0.8, pytest.approx(3 / 5)), (3, 0.4, pytest.approx(2 / 5)), (5, 0.1, pytest.approx(1 / 5)),
    ]  # fmt: skip
    assert {c["right"]["n"] for c in entry["curve"]} == {5}
    assert entry["median"]["value"] == pytest.approx(0.65)
    (flag,) = entry["flags"]
    assert flag["code"] == "recrossed"
    assert flag["message"].startswith("1 of 5 galaxies flipped by depth are right again")
    line = text([entry]).splitlines()[1]
    assert line.startswith("depth: 0.65 [1, beyond 0.1]; n = 5; 1 never wrong; 2 narrowed to 0.1; 1 right again")
    assert line.endswith("; 1 left out, wrong when clean")


def test_words_where_the_median_is_not_known(tmp_path):
    robust = record_of(tmp_path / "robust", [[R, R, R]] * 8 + [[R, R, W]] * 2, "seeing", (0.2, 0.4, 0.6))
    weak = record_of(tmp_path / "weak", [[W, W, W]] * 8 + [[R, R, W]] * 2, "jpeg", (80.0, 50.0, 25.0))
    alone = record_of(tmp_path / "alone", [[W]] * 8, "seeing", (0.2,))
    blind = record_of(tmp_path / "blind", CASES, labels=[-1] * 6)
    assert "seeing: beyond 0.6 arcsec, the last rung; n = 10; 8 never wrong\n" in text(summary(robust))
    assert summary(robust)[0]["flags"] == []
    assert "jpeg: 80, the first rung, or milder; n = 10; 0 never wrong\n" in text(summary(weak))
    assert summary(weak)[0]["start"] is None
    for record in (alone, blind):
        assert text(summary(record)) == ""
    (entry,) = summary(blind)
    assert (entry["n"], entry["unlabelled"], entry["curve"][0]["right"]["value"]) == (0, 6, None)
    halves = [[R, W, W]] * 40 + [[R, R, R]] * 40
    line = text(summary(record_of(tmp_path / "halves", halves, "jpeg", (80.0, 50.0, 25.0)))).splitlines()[1]
    assert line.startswith("jpeg: 50 [80, beyond 25]; n = 80; 40 never wrong")
    early = text(summary(record_of(tmp_path / "early", [[W] * 3] * 22 + [[R, W, W]] * 25, "jpeg", (80.0, 50.0, 25.0))))
    assert early.splitlines()[1].startswith("jpeg: 78.2 [80 or milder, 50]; n = 47; 0 never wrong")


def test_critical_strengths_load_nothing_heavy(tmp_path):
    make_record(tmp_path, {"depth": DEPTH}, n=30)
    code = (
        "import sys; from robustastro.metrics.critical import critical_strength, summary, text; "
        f"from robustastro.record import Record; record = Record.open({str(tmp_path)!r}); "
        "assert critical_strength(record, 'depth') is not None; text(summary(record)); "
        "heavy = ('torch', 'scipy.stats', 'lifelines', 'matplotlib', 'seaborn', 'sklearn', 'perturbations.core'); "
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---------------------------------------------------------------------- the figure


def drawn(ax, gid: str):
    (line,) = [line for line in ax.lines if line.get_gid() == gid]
    return line


def test_the_figure_shows_the_curve_the_median_and_who_is_left_out(tmp_path):
    ladders = {name: ENTRIES[name]["ladder"] for name in ("depth", "jpeg", "pgd", "onepixel")}
    records = [
        make_record(tmp_path / name, ladders, name, n=90, harm=harm) for name, harm in (("none", 1.5), ("dann", 0.5))
    ]
    fig = figure.figure(records)
    titles = {ax.get_title(loc="left").partition(",")[0]: ax for ax in fig.axes}
    assert set(titles) == {"depth", "jpeg", "pgd"}  # one rung of onepixel is no curve
    for name, ax in titles.items():
        for k, record in enumerate(records):
            critical = found(record, name)
            curve = survival(critical)
            positive = curve.strengths > (0 if name == "pgd" else -1)  # a logarithmic axis has no 0
            x, y = drawn(ax, f"right {k}").get_data()
            assert x == pytest.approx(curve.strengths[positive])
            assert y == pytest.approx(curve.right[positive])
            medians = [line for line in ax.lines if line.get_gid() == f"median {k}"]
            assert len(medians) == math.isfinite(curve.median.value)
            for line in medians:
                assert line.get_xdata()[0] == pytest.approx(curve.median.value)
        assert ax.xaxis_inverted() == (name != "pgd")
        one, two = (found(record, name) for record in records)
        assert one.excluded == two.excluded  # the same clean pass
        assert ax.get_title(loc="left") == f"{name}, n = {len(one.ids)}\n{one.excluded} wrong when clean, left out"
    low, high = sorted(drawn(titles["depth"], "interval 0").get_xdata())
    median = survival(found(records[0])).median
    assert (low, high) == (median.low, median.high)
    arrows = [line.get_marker() for line in titles["depth"].lines]
    assert ">" in arrows  # dann has no median up to the last rung
    assert "<" not in arrows
    words = figure.caption(records)
    again = [sum(int(found(r, name).recrossed.sum()) for name in titles) for r in records]
    assert f"none {again[0]} of {3 * len(found(records[0]).ids)}; dann {again[1]} of" in words
    assert "bisection" not in words
    assert "critical" in figures.FIGURES


def test_the_figure_of_a_bisection_and_of_nothing(tmp_path):
    record = record_of(tmp_path / "one", [[W], [W], [R]], strengths=(0.1,))
    with pytest.raises(InputError, match="no perturbation with two finished strengths"):
        figure.figure([record])
    narrow(record, {"g0": (0.4, 0.3), "g1": (0.7, 0.6)})
    (ax,) = figure.figure([record]).axes
    x, y = drawn(ax, "right 0").get_data()
    assert list(x) == [1.0, 0.7, 0.6, 0.4, 0.3, 0.1]
    assert y == pytest.approx([1, 1, 2 / 3, 2 / 3, 1 / 3, 1 / 3])
    assert "strengths of a bisection" in figure.caption([record])
    # a bisection goes below the first rung, and a logarithmic axis has no 0: clean stands apart from all of it
    early = record_of(tmp_path / "early", [[W] * 5, [R] * 5], "pgd", ENTRIES["pgd"]["ladder"])
    narrow(early, {"g0": (0.001, 0.0015)}, "pgd")
    (ax,) = figure.figure([early]).axes
    assert ax.get_xscale() == "log"
    assert drawn(ax, "right 0").get_xdata()[0] == 0.001
    (clean,) = [line for line in ax.lines if line.get_gid() == "clean"]
    assert clean.get_xdata()[0] == ax.get_xticks()[0] < 0.0007
    with pytest.raises(InputError, match="no perturbation"):
        figure.figure([record_of(tmp_path / "blind", CASES, labels=[-1] * 6)])
