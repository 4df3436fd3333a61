"""Many trainings, one after the other or side by side: what is there is not done again, what does not fit is not begun.

A study lives in a folder: `study.json` says what all its numbers depend on and which cells were ever asked for,
`runs/ARCH-METHOD-SEED.pt` is a model, `runs/ARCH-METHOD-SEED/` holds its records. A cell is done in parts, each of
which writes `PART.json` there when it is finished: first all cells are trained, then they are attacked.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perturbations.errors import InputError
from robustastro.progress import EVERY, Progress, say
from robustastro.record import Record, jsonable, refuse_place, write_whole

Work = Callable[["Cell", Callable[[str, int, int], None]], Mapping[str, Any]]
TRAINING, ATTACK = "training", "attack"  # the parts of a cell
TIME_LIMIT, NOT_ASKED = "it did not fit into the time limit", "it was not asked for"


@dataclass(frozen=True)
class Cell:
    """One training of a study: an architecture, a method (by its label) and a training seed."""

    arch: str
    method: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.arch}-{self.method}-{self.seed}"


Kind = Callable[[Cell], str]  # cells of one kind take about as long


def by_arch(cell: Cell) -> str:
    """All cells of an architecture are of one kind."""
    return cell.arch


@dataclass(frozen=True)
class Folder:
    """Where a study lives."""

    path: Path

    def bundle(self, cell: Cell) -> Path:
        return self.path / "runs" / f"{cell.name}.pt"

    def record(self, cell: Cell, name: str) -> Path:
        return self.path / "runs" / cell.name / name

    def done(self, cell: Cell, part: str) -> dict[str, Any] | None:
        """What `PART.json` says, or None where that part of the cell is not finished, or was of another model."""
        found = _read(self.path / "runs" / cell.name / f"{part}.json")
        if part == TRAINING or found is None:
            return found
        training = self.done(cell, TRAINING)
        return found if training is None or training.get("model") == found.get("model") else None

    def training(self, cell: Cell) -> dict[str, Any] | None:
        """The training record beside the bundle, or None."""
        return _read(self.bundle(cell).with_suffix(".json"))

    def finish(self, cell: Cell, part: str, facts: Mapping[str, Any]) -> None:
        _write(self.path / "runs" / cell.name / f"{part}.json", facts)

    def stored(self) -> dict[str, Any] | None:
        """What study.json says, or None where no study was begun.

        Raises
        ------
        InputError : not a place to write, or a folder with results that are of no study.
        """
        refuse_place(self.path, folder=True)
        runs = self.path / "runs"
        there = _read(runs / "study.json")
        others = [name for name in ("index.md", "results.json") if (self.path / name).exists()]
        if runs.exists() and any(runs.iterdir()):
            others.append("runs")
        if there is None and others:
            raise InputError(
                f"{self.path} holds {', '.join(others)} and no runs/study.json",
                "the folder of a study, or one without these", "name another --out",
            )  # fmt: skip
        return there

    def open(self, identity: Mapping[str, Any], cells: Sequence[Cell]) -> list[Cell]:
        """Begin the study or go on with it, and return every cell that it was ever asked for.

        Parameters
        ----------
        identity : everything that all its numbers depend on, besides the cells.
        cells : those asked for now.

        Raises
        ------
        InputError : the folder holds a study of another identity, or results that are of no study.
        """
        stored, wanted = self.stored(), jsonable(identity)
        if stored is not None and stored["identity"] != wanted:
            names = [n for n in {**stored["identity"], **wanted} if stored["identity"].get(n) != wanted.get(n)]
            raise InputError(
                f"{self.path} holds a study with another {', '.join(names)}", "the same settings, or an empty folder",
                "name another --out",
            )  # fmt: skip
        before = [] if stored is None else [Cell(*parts) for parts in stored["cells"]]
        every = list(dict.fromkeys([*before, *cells]))
        _write(
            self.path / "runs" / "study.json",
            {"identity": wanted, "cells": [[c.arch, c.method, c.seed] for c in every]},
        )
        return every


def finished(place: Path, model: str) -> bool:
    """Whether a record is there, whole, and of the model with that SHA-256; one of another model is removed."""
    if not (place / "run.json").exists():
        return False
    run = Record.open(place).run
    if run["model"]["sha256"] != model:  # of a model that is no longer there
        shutil.rmtree(place)
        return False
    return run["timing"] is not None


def refuse_other_recipes(folder: Folder, cells: Sequence[Cell], recipe: Callable[[Cell], Mapping[str, Any]]) -> None:
    """Refuse, before anything is run, models in the folder that were trained in another way.

    Raises
    ------
    InputError : a bundle of another recipe.
    """
    for cell in cells:
        there = folder.training(cell)
        if there is not None and (changed := _changed(_named(there["recipe"]), _named(jsonable(recipe(cell))))):
            raise InputError(
                f"{folder.bundle(cell)} was trained with another {', '.join(changed)}", "the recipe of this version",
                "name another --out, or delete this model and its folder",
            )  # fmt: skip


def _named(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe with the model that it starts from by its name alone: the folder may have moved."""
    return {**recipe, "init": Path(recipe["init"]).name}


def _changed(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    return [name for name in {**first, **second} if first.get(name) != second.get(name)]


def seconds_by_kind(folder: Folder, cells: Sequence[Cell], part: str, kind: Kind = by_arch) -> dict[str, float]:
    """Measured seconds of a part of a cell, the mean over the finished ones of each kind."""
    found: dict[str, list[float]] = {}
    for cell in cells:
        done = folder.done(cell, part)
        if done is not None:
            found.setdefault(kind(cell), []).append(float(done["seconds"]))
    return {name: float(np.mean(seconds)) for name, seconds in found.items()}


def run_cells(
    folder: Folder,
    cells: Sequence[Cell],
    part: str,
    work: Work,
    estimates: Mapping[str, float],
    *,
    hours: float | None,
    workers: int,
    progress: Progress,
    kind: Kind = by_arch,
) -> dict[Cell, str]:
    """Do a part of the cells that are not done, in their order, and return those that were not run with the reason.

    A cell that fails is said and left out; the others go on. An interruption ends all; what is finished is kept, and a
    training goes on from its last epoch.

    Parameters
    ----------
    work : does that part of one cell and returns what goes into its `PART.json`; importable, as it runs in other
        processes where there is more than one worker.
    estimates : expected seconds of a cell by its kind, until one is measured.
    hours : cells that would end later are not begun; None: no limit.
    workers : processes side by side; each has its share of the cores.
    """
    started = time.monotonic()
    waiting = [cell for cell in cells if folder.done(cell, part) is None]
    measured: dict[str, list[float]] = {}
    left_out: dict[Cell, str] = {}

    def expected(cell: Cell) -> float:
        name = kind(cell)
        return float(np.mean(measured[name])) if name in measured else estimates[name]

    total = sum(expected(cell) for cell in waiting) / max(1, min(workers, len(waiting)))
    said = "" if hours is None else f"; what does not fit into {hours:g} h is left out"
    say(
        f"{part}: {len(cells)} cells, {len(cells) - len(waiting)} of them there; the others take about "
        f"{minutes_text(total)} with {workers} worker{'s' * (workers > 1)} (an estimate){said}"
    )

    def upcoming() -> Iterator[Cell]:
        for cell in waiting:
            if hours is not None and time.monotonic() - started + expected(cell) > 3600.0 * hours:
                left_out[cell] = TIME_LIMIT
            else:
                yield cell

    for number, (cell, facts) in enumerate(_each(upcoming(), work, workers, progress), start=1):
        if "failed" in facts:
            left_out[cell] = f"it failed: {facts['failed']}"
            say(f"{cell.name} failed: {facts['failed']}")
            continue
        folder.finish(cell, part, facts)
        measured.setdefault(kind(cell), []).append(facts["seconds"])
        spent = time.monotonic() - started
        took = minutes_text(facts["seconds"])
        say(f"{part} {number} of {len(waiting)}: {cell.name} took {took}; {minutes_text(spent)} so far")
    return left_out


def _each(cells: Iterator[Cell], work: Work, workers: int, progress: Progress) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """The cells with what became of them, each as soon as it is finished."""
    if workers == 1:
        for cell in cells:
            yield cell, _one(work, cell, progress)
        return
    import joblib

    threads = max(1, (os.cpu_count() or 1) // workers)
    # one task at a time and worker, so that whether the next one fits is asked when it would begin
    settings: dict[str, Any] = {"n_jobs": workers, "backend": "loky", "batch_size": 1, "pre_dispatch": workers}
    run: Any = joblib.Parallel(**settings, return_as="generator_unordered")
    try:
        yield from run(joblib.delayed(_alone)(work, cell, threads) for cell in cells)
    except BrokenProcessPool as problem:
        raise InputError(
            "a worker process was killed, by its memory perhaps", "workers that live to the end",
            "run the same command again, with fewer --workers: what is finished is kept",
        ) from problem  # fmt: skip


def _alone(work: Work, cell: Cell, threads: int) -> tuple[Cell, dict[str, Any]]:
    """A cell in a process of its own: its lines go to stderr under its name."""
    import torch

    torch.set_num_threads(threads)
    sys.stdout = sys.stderr  # stdout belongs to the result
    last, parent = time.monotonic(), os.getppid()

    def tell(what: str, done: int, total: int) -> None:
        nonlocal last
        if os.getppid() != parent:  # the study was killed: going on would disturb the one that is begun next
            os._exit(1)
        if time.monotonic() - last >= 3 * EVERY:
            last = time.monotonic()
            say(f"{cell.name}: {what}: {done} of {total}")

    return cell, _one(work, cell, tell)


def _one(work: Work, cell: Cell, progress: Callable[[str, int, int], None]) -> dict[str, Any]:
    """What a cell gives, with its seconds; or why it failed."""
    started = time.monotonic()
    try:
        facts = dict(work(cell, progress))
    except Exception as problem:  # the other cells go on; the page and the exit status say it
        return {"failed": " ".join(f"{type(problem).__name__}: {problem}".split())[:300]}
    return facts | {"seconds": round(time.monotonic() - started, 1)}


def not_run(
    part: str,
    every: Sequence[Cell],
    reasons: Mapping[Cell, str],
    finished: Collection[Cell],
    estimates: Mapping[str, float],
    command: Callable[[str, str, int], str],
    kind: Kind = by_arch,
) -> list[dict[str, Any]]:
    """The cells without that part: methods that lack the same seeds for the same reason, a command and an estimate.

    Parameters
    ----------
    command : of (architecture, methods joined by commas, number of seeds).
    """
    seeds: dict[tuple[str, str, str], set[int]] = {}
    for cell in every:
        if cell not in finished:
            seeds.setdefault((cell.arch, reasons.get(cell, NOT_ASKED), cell.method), set()).add(cell.seed)
    groups: dict[tuple[str, str, tuple[int, ...]], list[str]] = {}
    for (arch, reason, method), missing in seeds.items():
        groups.setdefault((arch, reason, tuple(sorted(missing))), []).append(method)
    rows = []
    for (arch, reason, missing), methods in groups.items():
        kinds = [kind(Cell(arch, method, missing[0])) for method in methods]
        known = all(name in estimates for name in kinds)
        rows.append(
            {
                "part": part, "arch": arch, "methods": methods, "seeds": missing, "reason": reason,
                "seconds": round(len(missing) * sum(estimates[name] for name in kinds), 1) if known else None,
                "command": command(arch, ",".join(methods), 1 + max(missing)),
            }
        )  # fmt: skip
    return rows


def minutes_text(seconds: float) -> str:
    """A duration for people."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as problem:
        raise InputError(
            f"{path} cannot be read ({problem})", "a whole JSON file", "delete it, or use another --out"
        ) from None


def _write(path: Path, facts: Mapping[str, Any]) -> None:
    write_whole(path, lambda file: file.write_text(json.dumps(jsonable(facts), indent=1) + "\n"))
