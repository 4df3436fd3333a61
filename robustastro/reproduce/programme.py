"""From what a user asked for to the page: what all studies have in common."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from perturbations.errors import InputError, unknown_name
from robustastro.adapt.recipe import Recipe
from robustastro.models.nets import ARCHITECTURES
from robustastro.progress import Progress
from robustastro.reproduce.study import (
    ATTACK,
    TRAINING,
    Cell,
    Folder,
    Kind,
    Work,
    by_arch,
    not_run,
    refuse_other_recipes,
    run_cells,
    seconds_by_kind,
)

PARTS = (TRAINING, ATTACK)
Page = Callable[[Sequence[Cell], Mapping[str, Any], Sequence[Mapping[str, Any]]], dict[str, Any]]


@dataclass(frozen=True)
class Asked:
    """What the user asked for; what is None or empty is the study's own choice.

    Parameters
    ----------
    out : directory of index.md, results.json, figures and runs; a study that is there is resumed.
    quick : few galaxies and epochs, one seed: only to see that everything works.
    data : folder of the authors' files; None: mocks.
    seeds, methods, archs : what to run now. The page covers all that was ever asked for in `out`, and says what of the
        study is not there.
    hours : trainings that would end later are not begun.
    workers : trainings side by side, each in a process with its share of the cores.
    device : as the user named it.
    """

    out: Path
    quick: bool = False
    data: str | None = None
    seeds: int | None = None
    methods: tuple[str, ...] = ()
    archs: tuple[str, ...] = ()
    hours: float | None = None
    workers: int = 1
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("methods", "archs"):
            object.__setattr__(self, name, tuple(dict.fromkeys(getattr(self, name))))
        for name, least in (("seeds", 1), ("workers", 1), ("hours", 0)):
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise InputError(f"--{name} {value:g}", f"{least} or more", "correct it")

    def command(self, study: str) -> str:
        """The command that asked for this."""
        chosen: dict[str, Any] = {"archs": ",".join(self.archs), "methods": ",".join(self.methods)}
        chosen |= {"seeds": self.seeds, "hours": self.hours, "workers": self.workers if self.workers > 1 else None}
        chosen |= {"device": None if self.device == "auto" else self.device}
        words = [f"--{name} {value}" for name, value in chosen.items() if value not in (None, "")]
        return " ".join([f"robustastro reproduce {study}", *words, self._rest()])

    def command_for(self, study: str, arch: str, methods: str, seeds: int) -> str:
        """The command that runs what is missing in the same folder."""
        return f"robustastro reproduce {study} --archs {arch} --methods {methods} --seeds {seeds} {self._rest()}"

    def _rest(self) -> str:
        data = [] if self.data is None else [f"--data {self.data}"]
        return " ".join([*(["--quick"] if self.quick else []), *data, f"--out {self.out}"])


@dataclass(frozen=True)
class Programme:
    """What a study consists of.

    Parameters
    ----------
    name : of the study.
    methods : every method that may be asked for.
    standard : the methods of each architecture that belong to the study.
    usual : methods of an architecture that is not in `standard`, where none are asked for.
    seeds : trainings of each method.
    cells : of (architecture, methods, seeds) the cells in the order in which they are worth running, with those that
        they need first.
    recipe : how a cell is trained, every option filled in.
    identity : everything that all numbers depend on besides the cells; may take a while.
    guess : expected seconds of each part of a cell of a kind that was never run.
    work : what does each part of a cell; importable.
    start : the cell whose model a cell starts from, or None.
    kind : cells of one kind take about as long.
    page : writes the page of (finished cells, what is known of the study, what was not run), and returns the document.
    """

    name: str
    methods: Collection[str]
    standard: Mapping[str, tuple[str, ...]]
    usual: tuple[str, ...]
    seeds: int
    cells: Callable[[str, Sequence[str], int], list[Cell]]
    recipe: Callable[[Cell], Recipe]
    identity: Callable[[], Mapping[str, Any]]
    guess: Callable[[Cell], Mapping[str, float]]
    work: Mapping[str, Work]
    page: Page
    start: Callable[[Cell], Cell | None] = lambda cell: None
    kind: Kind = by_arch


def carry_out(programme: Programme, asked: Asked, progress: Progress) -> dict[str, Any]:
    """Train, attack, measure, and write the page; return what goes into results.json.

    Raises
    ------
    InputError : an unknown method or architecture, a folder with another study or with other results, or hours in
        which no training is finished.
    """
    folder = Folder(asked.out)
    archs, seeds = asked.archs or tuple(programme.standard), asked.seeds or programme.seeds
    for arch in archs:
        if arch not in ARCHITECTURES:
            raise unknown_name("architecture", arch, ARCHITECTURES)
    methods = _methods(programme, asked.methods)
    if folder.stored() is None and asked.hours == 0:
        raise _nothing_finished()
    standard = [c for arch, names in programme.standard.items() for c in programme.cells(arch, names, programme.seeds)]
    wanted = [
        cell
        for arch in archs
        for cell in programme.cells(arch, methods or programme.standard.get(arch, programme.usual), seeds)
    ]
    every = list(dict.fromkeys([*folder.open(programme.identity(), wanted), *standard]))
    refuse_other_recipes(folder, every, lambda cell: asdict(programme.recipe(cell)))
    _refuse_other_starts(folder, every, programme)
    kind = programme.kind
    measured = {part: seconds_by_kind(folder, every, part, kind) for part in PARTS}
    first = {kind(cell): cell for cell in reversed(every)}
    guessed = {name: programme.guess(c) for name, c in first.items() if any(name not in m for m in measured.values())}
    reasons: dict[str, dict[Cell, str]] = {part: {} for part in PARTS}
    started = time.monotonic()
    # those that start from others wait for all of these: a worker cannot
    for part, those in (
        (TRAINING, [c for c in wanted if programme.start(c) is None]),
        (TRAINING, [c for c in wanted if programme.start(c) is not None]),
        (ATTACK, wanted),
    ):
        left = None if asked.hours is None else max(0.0, asked.hours - (time.monotonic() - started) / 3600.0)
        ready = [c for c in those if _ready(folder, c, part, programme)]
        if part == TRAINING:
            starts = {c: programme.start(c) for c in those if c not in ready}
            reasons[part] |= {c: f"{start.name} is not there" for c, start in starts.items() if start is not None}
        if ready or those is wanted:
            estimates = {n: g[part] for n, g in guessed.items()} | measured[part]
            reasons[part] |= run_cells(
                folder, ready, part, programme.work[part], estimates, hours=left, workers=asked.workers,
                progress=progress, kind=kind,
            )  # fmt: skip
    finished = [c for c in every if folder.done(c, TRAINING) is not None]
    if not finished:
        raise _nothing_finished()
    known = {p: {n: g[p] for n, g in guessed.items()} | seconds_by_kind(folder, every, p, kind) for p in PARTS}
    both = {name: seconds + known[ATTACK][name] for name, seconds in known[TRAINING].items()}  # the command does both
    missing = []
    for part, those, estimates in ((TRAINING, every, both), (ATTACK, finished, known[ATTACK])):
        missing += not_run(
            part, those, reasons[part], {c for c in those if folder.done(c, part)}, estimates,
            lambda arch, methods, k: asked.command_for(programme.name, arch, methods, k), kind,
        )  # fmt: skip
    failed = [why for found in reasons.values() for why in found.values() if why.startswith("it failed")]
    about = {"command": asked.command(programme.name), "quick": asked.quick, "failed": len(failed)}
    return programme.page(finished, about, missing)


def _methods(programme: Programme, asked: Sequence[str]) -> tuple[str, ...]:
    """The methods asked for; of a study of several test beds, "mmd" is that method on all and "nearby" all on that one.

    Raises
    ------
    InputError : an unknown name.
    """
    found: dict[str, None] = {}
    for name in asked:
        those = [m for m in programme.methods if name == m] or [
            m for m in programme.methods if m.startswith(f"{name}-") or m.endswith(f"-{name}")
        ]
        if not those:
            raise unknown_name("method of this study", name, programme.methods)
        found |= dict.fromkeys(those)
    return tuple(found)


def _ready(folder: Folder, cell: Cell, part: str, programme: Programme) -> bool:
    """Whether what a part of a cell needs is there."""
    if part == ATTACK:
        return folder.done(cell, TRAINING) is not None
    start = programme.start(cell)
    return start is None or folder.done(start, TRAINING) is not None or folder.done(cell, TRAINING) is not None


def _refuse_other_starts(folder: Folder, cells: Sequence[Cell], programme: Programme) -> None:
    """Refuse models that were trained from another one than is there now."""
    for cell in cells:
        start, training = programme.start(cell), folder.training(cell)
        if start is None or training is None or not folder.bundle(start).exists():
            continue
        if training["init"]["sha256"] != hashlib.sha256(folder.bundle(start).read_bytes()).hexdigest():
            raise InputError(
                f"{folder.bundle(cell)} started from another {start.name}", "the model that is there now",
                "delete this model and its folder, and run again",
            )  # fmt: skip


def _nothing_finished() -> InputError:
    return InputError("no training is finished", "one or more", "allow more --hours")
