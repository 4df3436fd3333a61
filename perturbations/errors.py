"""What went wrong, what is allowed, what to do: the errors a user can act on.

Plain Python, so that the part of the program that only reads records may import it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user gave is wrong. The command line prints it on one line and exits with status 2.

    Parameters
    ----------
    wrong : what was wrong, with its value ("kept = 1.5").
    allowed : what would have been right ("0 < kept <= 1").
    remedy : what to do about it ("choose a smaller fraction").
    """

    def __init__(self, wrong: str, allowed: str, remedy: str) -> None:
        self.wrong, self.allowed, self.remedy = (_one_line(part) for part in (wrong, allowed, remedy))
        end = "" if self.remedy.endswith("?") else "."
        super().__init__(f"{self.wrong}; {self.allowed}. {self.remedy[:1].upper()}{self.remedy[1:]}{end}")

    def __reduce__(self):
        return type(self), (self.wrong, self.allowed, self.remedy)


class BrokenPromise(RuntimeError):
    """A perturbation or a network did what its contract forbids (changed its input, left its budget, ...).

    A fault of code, not of the user's data: the command line exits with status 3.
    """


def unknown_name(kind: str, name: str, known: Iterable[str], remedy: str | None = None) -> InputError:
    """An `InputError` for a name that is not known, with the nearest ones that are."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    allowed = f"known: {', '.join(known)}" if known else f"no {kind} is known"
    suggestion = f"did you mean '{near[0]}'?" if near else None
    return InputError(
        f"unknown {kind} '{name}'",
        allowed,
        " ".join(part for part in (suggestion, remedy) if part) or "Choose one of the names above",
    )


def _one_line(text: str) -> str:
    return " ".join(str(text).split()).rstrip(".;")
