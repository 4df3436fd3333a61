"""Progress on stderr: a bar on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

EVERY = 10.0  # seconds between lines


class Progress:
    """Call it with (what, done, total); it shows nothing for work that takes under two seconds."""

    def __init__(self) -> None:
        self._bar = None
        self._tasks: dict[str, int] = {}
        self._started = self._said = time.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._started < 2.0:
            return
        if sys.stderr.isatty():
            self._draw(what, done, total)
        elif now - self._said >= EVERY:
            self._said = now
            say(f"{what}: {done} of {total}, {now - self._started:.0f} s")

    def stop(self) -> None:
        if self._bar:
            self._bar.stop()

    def _draw(self, what: str, done: int, total: int) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Bar(*columns, console=Console(stderr=True))
            self._bar.start()
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=total)
        self._bar.update(self._tasks[what], completed=done)  # type: ignore[arg-type]


@contextmanager
def shown() -> Iterator[Progress]:
    """A Progress that is tidied up at the end. Within it stdout is stderr: what a network prints is no result."""
    progress = Progress()
    try:
        with redirect_stdout(sys.stderr):
            yield progress
    finally:
        progress.stop()


def say(text: str) -> None:
    """A line for people, on stderr: stdout belongs to the result."""
    print(text, file=sys.stderr, flush=True)
