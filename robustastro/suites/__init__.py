"""Suites: lists of perturbations that belong together, as TOML files in this folder or of the user's own."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict

from perturbations.errors import InputError, unknown_name
from robustastro.evaluate.plan import Step, step

HERE = Path(__file__).parent


class Entry(BaseModel):
    """One perturbation of a suite: its whole ladder, or some severities or strengths of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    severities: tuple[int, ...] | None = pydantic.Field(default=None, min_length=1)
    strengths: tuple[float, ...] | None = pydantic.Field(default=None, min_length=1)
    options: dict[str, Any] = {}

    def step(self) -> Step:
        """The same with every default resolved."""
        if self.severities is not None and self.strengths is not None:
            raise InputError(f"{self.name} with severities and strengths", "one of them", "drop one")
        whole = step(self.name, options=self.options)
        if self.severities is not None:
            rungs = [step(self.name, severity=s, options=self.options).strengths[0] for s in self.severities]
            return whole.model_copy(update={"strengths": tuple(rungs)})
        return whole if self.strengths is None else whole.model_copy(update={"strengths": self.strengths})


class Suite(BaseModel):
    """A suite as its file has it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_: Literal[1] = pydantic.Field(alias="schema")
    description: str
    perturbation: tuple[Entry, ...] = pydantic.Field(min_length=1)
    name: str = ""

    def steps(self) -> list[Step]:
        """What to run, in order.

        Raises
        ------
        InputError : an unknown perturbation, severity or option.
        """
        return [entry.step() for entry in self.perturbation]


def names() -> tuple[str, ...]:
    """Suites in the package."""
    return tuple(sorted(path.stem for path in HERE.glob("*.toml")))


def load(name: str) -> Suite:
    """A suite of the package by name, or of a file that ends in .toml.

    Raises
    ------
    InputError : no such suite, or a file that is none.
    """
    path = Path(name) if name.endswith(".toml") else HERE / f"{name}.toml"
    if path.parent == HERE and name not in names():
        raise unknown_name("suite", name, names(), "a suite of your own is a file that ends in .toml")
    try:
        table = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise InputError(f"suite {path}: {problem}", "a readable TOML file", "correct the file") from None
    return _checked(table, path)


def _checked(table: Mapping[str, Any], path: Path) -> Suite:
    try:
        return Suite.model_validate({**table, "name": path.stem})
    except pydantic.ValidationError as problem:
        first = problem.errors()[0]
        entry = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            fields = Entry.model_fields if "perturbation" in first["loc"] else ("schema", "description", "perturbation")
            raise unknown_name(f"entry of suite {path}", str(first["loc"][-1]), fields) from None
        given = "" if first["type"] == "missing" else f" = {first['input']!r:.80}"
        raise InputError(
            f"suite {path}: {entry}{given}", first["msg"], "see robustastro/suites/quick.toml for an example"
        ) from None
