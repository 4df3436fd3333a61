"""Numbers of a reproduction from its records: accuracies at both depths, and distances to the wrong class.

Everything is over galaxies and training seeds at once (`metrics.significance`). A training that collapsed counts in
every accuracy, because a method that can fail is compared with its failures; it has no distances, because a latent
space in which all classes are one has no scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from perturbations.errors import InputError
from robustastro.adapt import method as find_method
from robustastro.metrics.distances import latent_scale, latent_shift
from robustastro.metrics.intervals import NOTHING, Estimate, fraction, paired_drop, proportion
from robustastro.metrics.paired import Paired, pair, stacked
from robustastro.metrics.significance import difference, holm, over_seeds, ratio
from robustastro.record import Record, Unit, jsonable
from robustastro.reproduce.study import ATTACK as ATTACK_PART
from robustastro.reproduce.study import Cell, Folder

ATTACK = Unit("onepixel", 1.0, None, "pixel")
ATTACKS = ("paper", "flux")


@dataclass(frozen=True, eq=False)
class Arm:
    """The k trainings of a method and an architecture, on the same n galaxies.

    Parameters
    ----------
    cells, trainings : of each training.
    records : of each training its records by name: "y10", "y1", "paper" and, where there is one, "flux".
    """

    arch: str
    method: str
    cells: tuple[Cell, ...]
    trainings: tuple[Mapping[str, Any], ...]
    records: tuple[Mapping[str, Record], ...]

    @cached_property
    def collapsed(self) -> np.ndarray:
        """(k,) bool."""
        return np.array([any(flag["code"] == "collapsed" for flag in t["flags"]) for t in self.trainings], dtype=bool)

    def correct(self, name: str) -> np.ndarray:
        """Right on the images of a record, (k, n) bool."""
        return np.array([_correct(records[name]) for records in self.records])

    @cached_property
    def sound(self) -> list[int]:
        """The trainings that have distances: not collapsed, and with class centroids apart from each other."""
        scales = [latent_scale(r["y10"].head.centroids)[0] for r in self.records]
        return [k for k, scale in enumerate(scales) if not self.collapsed[k] and scale > 0]

    def attacked(self, name: str) -> list[int]:
        """The sound trainings that have that record of an attack."""
        return [k for k in self.sound if name in self.records[k]]

    def scale(self, name: str) -> np.ndarray:
        """Mean distance between class centroids of the attacked trainings, (k, 1)."""
        scales = [latent_scale(self.records[k]["y10"].head.centroids)[0] for k in self.attacked(name)]
        return np.array(scales).reshape(-1, 1)

    def pairs(self, name: str) -> list[Paired]:
        """The attacked galaxies of the attacked trainings, before and after."""
        found = [pair(self.records[k][name], ATTACK) for k in self.attacked(name)]
        assert None not in found  # a finished attack has a row of each galaxy
        return [p for p in found if p is not None]


def arms_of(
    folder: Folder, cells: Sequence[Cell], clean: Sequence[str] = ("y10", "y1"), attacks: Sequence[str] = ATTACKS
) -> list[Arm]:
    """The finished cells, sorted into arms in the order of the cells.

    Parameters
    ----------
    clean, attacks : names of the records that belong to the training and to the attack of a cell.

    Raises
    ------
    InputError : a training on other galaxies than the first, which nothing of a study explains.
    """
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.arch, cell.method), []).append(cell)
    arms = []
    for (arch, method), members in groups.items():
        records = []
        for cell in members:
            names = [
                *clean,
                *(attacks if folder.done(cell, ATTACK_PART) is not None else ()),
            ]  # part of an attack is none
            places = {name: folder.record(cell, name) for name in names}
            records.append({n: Record.open(p) for n, p in places.items() if (p / "run.json").exists()})
        trainings = tuple(folder.training(cell) or {} for cell in members)
        arms.append(Arm(arch, method, tuple(members), trainings, tuple(records)))
    return arms


def refuse_unlike(arms: Sequence[Arm]) -> None:
    """Refuse arms that are not to be compared: records of one name, of one architecture, of other galaxies."""
    first: dict[tuple[str, str], Record] = {}
    for arm in arms:
        for records in arm.records:
            for name, record in records.items():
                like = first.setdefault((arm.arch, name), record)
                if like.run["data"]["sha256"] != record.run["data"]["sha256"]:
                    raise InputError(f"{record.path} is of other galaxies than {like.path}", "the same", "run it again")


def baseline(arms: Sequence[Arm], arch: str, method: str = "none") -> Arm | None:
    """The arm of that method, or None."""
    return next((arm for arm in arms if (arm.arch, arm.method) == (arch, method)), None)


# ---------------------------------------------------------------------- accuracy


def accuracies(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """For each arm its accuracy at both depths, what it loses between them, and its difference from `none`.

    `y10` and `y1` are `over_seeds`; `loss` is Y10 minus Y1 of the same galaxies and trainings; `gain_y10` and `gain_y1`
    are arm minus `none` (`significance.difference`), null for `none` itself; `p_corrected` of `gain_y1` is Holm's over
    the arms of an architecture.
    """
    rows = []
    for arm in arms:
        none = baseline(arms, arm.arch)
        about = find_method(arm.trainings[0]["recipe"]["method"])
        y10, y1 = arm.correct("y10"), arm.correct("y1")
        row: dict[str, Any] = {
            "arch": arm.arch, "method": arm.method, "seeds": [cell.seed for cell in arm.cells],
            "collapsed": [c.seed for c, bad in zip(arm.cells, arm.collapsed, strict=True) if bad],
            "control": about.control, "target_labels": about.target_labels, "tuned": about.tuned,
            "y10": over_seeds(y10).to_dict(), "y1": over_seeds(y1).to_dict(), "loss": loss(y10, y1).to_dict(),
            "apart_by_seed": [apart(t) for t in arm.trainings],
            "y10_by_seed": y10.mean(axis=1), "y1_by_seed": y1.mean(axis=1), "gain_y10": None, "gain_y1": None,
        }  # fmt: skip
        if none is not None and none is not arm:
            row["gain_y10"] = difference(y10, none.correct("y10")).to_dict()
            row["gain_y1"] = difference(y1, none.correct("y1")).to_dict()
        rows.append(row)
    for arch in dict.fromkeys(row["arch"] for row in rows):
        those = [row["gain_y1"] for row in rows if row["arch"] == arch and row["gain_y1"] is not None]
        for gain, p in zip(those, holm(np.array([nan(g["p"]) for g in those])), strict=True):
            gain["p_corrected"] = p
    return jsonable(rows)


def apart(training: Mapping[str, Any]) -> float:
    """Proxy A-distance of the domains in a training's latent space, NaN where it was not measured."""
    return nan(((training.get("domain_gap") or {}).get("proxy_a_distance") or {}).get("value"))


def loss(y10: np.ndarray, y1: np.ndarray) -> Estimate:
    """Accuracy at Y10 minus that at Y1, of the same galaxies and the same trainings: (k, n) bool each.

    `over_seeds` of the differences, never narrower than Newcombe's interval of the galaxies' means (`paired_drop`): a
    sample in which nothing differs still has an interval.
    """
    alone = paired_drop(y10.mean(axis=0), y1.mean(axis=0))
    if len(y10) == 1:
        return alone
    found = over_seeds(y10.astype(float) - y1.astype(float))
    return Estimate(found.value, min(found.low, alone.low), max(found.high, alone.high), found.n)


def _correct(record: Record) -> np.ndarray:
    table = record.galaxies
    logits = stacked(table["logits"])
    right = (logits.argmax(axis=1) == table["label"].to_numpy()) & np.isfinite(logits).all(axis=1)
    return right[np.argsort(table.index.to_numpy())]  # the same order at both depths


# ---------------------------------------------------------------------- distances


def distances(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """For each arm and space of the attack: success, distances, and their ratio to those of `none`.

    - `success_rate`: flipped of clean-correct galaxies, over the trainings (`rate`).
    - `flip_distance_by_seed`: |z(x') - z(x)|, the published measure, its mean over the flipped galaxies of each
      training. Each training flips other galaxies; only the ratios are of the same ones.
    - `boundary_scaled`, `boundary_scaled_after`: distance to leave the true class over the latent scale, before and
      after the attack, over all attacked galaxies; `shift_y1` and `shift_y1_scaled`: |z(Y1) - z(Y10)| of a test galaxy.
    - `ratio`: to `none`, with intervals over galaxies and trainings: `flip` and `flip_scaled` over the galaxies that
      both trainings of a seed flip (`pooled`), and those of each seed in `pairs`; `boundary_scaled`, `shift_y1` and
      `shift_y1_scaled` over all galaxies (`significance.ratio`).
    """
    rows = []
    for arm in arms:
        for name in ATTACKS:
            if not arm.pairs(name):
                continue
            found = _distances(arm, name)
            none = baseline(arms, arm.arch)
            ratios, pairs = {}, []
            if none is not None and none is not arm and none.pairs(name):
                other = _distances(none, name)
                ratios = {key: ratio(found[key], other[key]) for key in RATIOS}
                flips, pairs = _flips(arm, none, name, found, other)
                ratios |= flips
            options = next(r[name] for r in arm.records if name in r).run["perturbations"][0]["options"]
            rows.append(
                {
                    "arch": arm.arch, "method": arm.method, "attack": name, "trainings": len(arm.attacked(name)),
                    "seeds": [arm.cells[k].seed for k in arm.attacked(name)],
                    "attacked": len(arm.pairs(name)[0].ids), "options": options,
                    "success_rate": rate(found["flipped"], found["eligible"]).to_dict(),
                    "flipped": found["flipped"].sum(axis=1), "eligible": found["eligible"].sum(axis=1),
                    "flip_distance_by_seed": [_mean(values) for values in found["flip"]],
                    "boundary_scaled": over_seeds(found["boundary_scaled"]).to_dict(),
                    "boundary_scaled_after": over_seeds(found["boundary_scaled_after"]).to_dict(),
                    "shift_y1": over_seeds(found["shift_y1"]).to_dict(),
                    "shift_y1_scaled": over_seeds(found["shift_y1_scaled"]).to_dict(),
                    "latent_scale": arm.scale(name).ravel(),
                    "ratio": {key: value.to_dict() for key, value in ratios.items()} or None, "pairs": pairs,
                }
            )  # fmt: skip
    return jsonable(rows)


FLIPS, RATIOS = ("flip", "flip_scaled"), ("boundary_scaled", "shift_y1", "shift_y1_scaled")


def _distances(arm: Arm, name: str) -> dict[str, np.ndarray]:
    """Arrays (k, n) of the attacked trainings; NaN in `flip` where a galaxy is not flipped."""
    pairs, scale = arm.pairs(name), arm.scale(name)
    flipped = np.array([p.flipped for p in pairs])
    flip = np.where(flipped, np.array([p.shift for p in pairs]), math.nan)
    shift = np.array([_shift_y1(arm.records[k]) for k in arm.attacked(name)])
    return {
        "flipped": flipped,
        "eligible": np.array([p.clean_correct for p in pairs]),
        "flip": flip,
        "flip_scaled": flip / scale,
        "boundary_scaled": np.array([p.boundary_clean for p in pairs]) / scale,
        "boundary_scaled_after": np.array([p.boundary for p in pairs]) / scale,
        "shift_y1": shift,
        "shift_y1_scaled": shift / scale,
    }


def _shift_y1(records: Mapping[str, Record]) -> np.ndarray:
    """|z(Y1) - z(Y10)| of the test galaxies (n,)."""
    deep, shallow = records["y10"].galaxies, records["y1"].galaxies
    return latent_shift(stacked(shallow.loc[deep.index, "latent"]), stacked(deep["latent"]))


def _flips(
    arm: Arm, none: Arm, name: str, found: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]
) -> tuple[dict[str, Estimate], list[dict[str, Any]]]:
    """Ratios of mean flip distances over the galaxies that both trainings of a seed flip: of all seeds, and of each."""
    mine, theirs = ({a.cells[k].seed: row for row, k in enumerate(a.attacked(name))} for a in (arm, none))
    seeds = sorted(mine.keys() & theirs.keys())
    if not seeds:
        return {key: NOTHING for key in FLIPS}, []
    one, two = [mine[seed] for seed in seeds], [theirs[seed] for seed in seeds]
    both = found["flipped"][one] & other["flipped"][two]
    ratios = {key: pooled(found[key][one], other[key][two], both) for key in FLIPS}
    pairs = []
    for row, seed in enumerate(seeds):
        here = {key: pooled(found[key][[one[row]]], other[key][[two[row]]], both[[row]]).value for key in FLIPS}
        pairs.append({"seed": seed, "n": int(both[row].sum()), **here})
    return ratios, pairs


def rate(hits: np.ndarray, chances: np.ndarray) -> Estimate:
    """Hits over chances, (k, n) bool of the same trainings and galaxies, with the chance in both.

    The interval is that of `pooled`, never narrower than that of the galaxies' own shares (`fraction`), and within
    [0, 1]; of one training it is Wilson's. `n` counts galaxies with a chance in any training.
    """
    hits, chances = np.atleast_2d(hits).astype(bool), np.atleast_2d(chances).astype(bool)
    if not chances.any():
        return NOTHING
    if len(hits) == 1:
        return proportion(hits[0][chances[0]])
    value, half = _linearised(hits.astype(float), chances.astype(float))
    any_chance = chances.any(axis=0)
    alone = fraction(hits.sum(axis=0)[any_chance] / chances.sum(axis=0)[any_chance])
    low = max(0.0, value - max(half, alone.value - alone.low))
    high = min(1.0, value + max(half, alone.high - alone.value))
    return Estimate(value, low, high, int(any_chance.sum()))


def pooled(first: np.ndarray, second: np.ndarray, counted: np.ndarray) -> Estimate:
    """Ratio of two means over the pairs of training and galaxy that count, (k, n) each, with the chance in both.

    Row s of each is of the trainings of seed s. The interval is that of `over_seeds` for the linearised logarithm of
    the ratio (Cochran 1977, Sampling Techniques, section 6.3): which galaxies count may differ between the seeds, where
    Fieller's needs those that count in all of them. Galaxies that never count tell nothing, so they make no interval
    narrower. None below two galaxies; `n` counts galaxies.
    """
    known = counted.any(axis=0)
    first, second, counted = (values[:, known] for values in (first, second, counted))
    galaxies = int(known.sum())
    if not galaxies:
        return NOTHING
    value, half = _linearised(np.where(counted, first, 0.0), np.where(counted, second, 0.0))
    if galaxies < 2 or not value > 0:
        return Estimate(value, math.nan, math.nan, galaxies)
    spread = math.exp(half / value)
    return Estimate(value, value / spread, value * spread, galaxies)


def _linearised(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Ratio of the two sums (k, n), and half the width of its interval."""
    value = float(first.sum() / second.sum())
    around = over_seeds((first - value * second) / second.mean())
    return value, (around.high - around.low) / 2


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan


def nan(value: float | None) -> float:
    return math.nan if value is None else value
