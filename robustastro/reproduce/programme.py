"""From what a user asked for to the page: what all studies have in common."""

from __future__ import annotations

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
    Work,
    not_run,
    refuse_other_recipes,
    run_cells,
    seconds_by_arch,
)

PARTS = (TRAINING, ATTACK)


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
    guess : expected seconds of each part of a cell of an architecture that was never run.
    work : what does each part of a cell; importable.
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
    guess: Callable[[str], Mapping[str, float]]
    work: Mapping[str, Work]
    page: Callable[[Sequence[Cell], Mapping[str, Any], Sequence[Mapping[str, Any]]], dict[str, Any]]


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
    for method in asked.methods:
        if method not in programme.methods:
            raise unknown_name("method of this study", method, programme.methods)
    if folder.stored() is None and asked.hours == 0:
        raise _nothing_finished()
    standard = [c for arch, names in programme.standard.items() for c in programme.cells(arch, names, programme.seeds)]
    wanted = [
        cell
        for arch in archs
        for cell in programme.cells(arch, asked.methods or programme.standard.get(arch, programme.usual), seeds)
    ]
    every = list(dict.fromkeys([*folder.open(programme.identity(), wanted), *standard]))
    refuse_other_recipes(folder, every, lambda cell: asdict(programme.recipe(cell)))
    measured = {part: seconds_by_arch(folder, every, part) for part in PARTS}
    unknown = [a for a in dict.fromkeys(c.arch for c in every) if any(a not in known for known in measured.values())]
    guessed = {arch: programme.guess(arch) for arch in unknown}
    reasons: dict[str, dict[Cell, str]] = {}
    started = time.monotonic()
    for part in PARTS:
        left = None if asked.hours is None else max(0.0, asked.hours - (time.monotonic() - started) / 3600.0)
        reasons[part] = run_cells(
            folder, [c for c in wanted if part == TRAINING or folder.done(c, TRAINING)], part, programme.work[part],
            {a: s[part] for a, s in guessed.items()} | measured[part],
            hours=left, workers=asked.workers, progress=progress,
        )  # fmt: skip
    finished = [c for c in every if folder.done(c, TRAINING) is not None]
    if not finished:
        raise _nothing_finished()
    known = {p: {a: s[p] for a, s in guessed.items()} | seconds_by_arch(folder, every, p) for p in PARTS}
    both = {arch: seconds + known[ATTACK][arch] for arch, seconds in known[TRAINING].items()}  # the command does both
    missing = []
    for part, those, estimates in ((TRAINING, every, both), (ATTACK, finished, known[ATTACK])):
        missing += not_run(
            part, those, reasons[part], {c for c in those if folder.done(c, part)}, estimates,
            lambda arch, methods, k: asked.command_for(programme.name, arch, methods, k),
        )  # fmt: skip
    failed = [why for found in reasons.values() for why in found.values() if why.startswith("it failed")]
    about = {"command": asked.command(programme.name), "quick": asked.quick, "failed": len(failed)}
    return programme.page(finished, about, missing)


def _nothing_finished() -> InputError:
    return InputError("no training is finished", "one or more", "allow more --hours")
