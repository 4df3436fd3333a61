"""The rules file of a gate: what a run must keep, in TOML (docs/gate.md).

A rule names what it judges (a perturbation, a family, all, or the clean images), where on the ladder, and its limits.
Whatever cannot be judged is refused while reading: a rule that is misread would let a bad model pass.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from perturbations.errors import InputError, unknown_name

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]  # no text, no true, no nan
OnUncertain = Literal["pass", "fail", "warn"]

# limits on fractions, each with the range in which it can be broken and kept
FRACTIONS = {
    "min_accuracy": "0 < min_accuracy <= 1",
    "min_worst_class": "0 < min_worst_class <= 1",
    "max_drop": "0 <= max_drop < 1",
    "max_success_rate": "0 <= max_success_rate < 1",
    "no_worse_than_baseline": "0 <= no_worse_than_baseline < 1",
}
LIMITS = (*FRACTIONS, "min_boundary_distance", "min_boundary_distance_scaled")
OF_CLEAN = ("min_accuracy", "min_worst_class", "no_worse_than_baseline")


class Rule(BaseModel):
    """What to judge and its limits; exactly one of perturbation, family, all and clean.

    Parameters
    ----------
    name : for people; a number and the target where it is left out.
    perturbation, family, all, clean : what to judge. `all` and `family`: each perturbation of the run, or of a family.
    severity, strength : one rung of the ladder. Without either and without `over`: every rung that the run has.
    over : "mean", per galaxy the mean over the rungs of a perturbation; "worst", per galaxy the worst of all rungs of
        all perturbations that the rule names.
    confidence, on_uncertain : in place of those of the file.
    min_accuracy, min_worst_class : accuracy of the perturbed images, and of the class where it is lowest.
    max_drop : clean accuracy minus perturbed accuracy, of the same galaxies.
    max_success_rate : flipped galaxies of those that were right.
    min_boundary_distance : mean distance to the nearest boundary of the true class, in units of the latent space;
        with `_scaled` in units of the mean distance between class centroids.
    no_worse_than_baseline : a margin: accuracy of the baseline minus that of the run, on the same galaxies.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = ""
    perturbation: Annotated[str, Field(min_length=1)] | None = None
    family: Annotated[str, Field(min_length=1)] | None = None
    all: Literal[True] | None = None
    clean: Literal[True] | None = None
    severity: Annotated[int, Field(strict=True, ge=1)] | None = None
    strength: Number | None = None
    over: Literal["mean", "worst"] | None = None
    confidence: Number | None = None
    on_uncertain: OnUncertain | None = None
    min_accuracy: Number | None = None
    min_worst_class: Number | None = None
    max_drop: Number | None = None
    max_success_rate: Number | None = None
    min_boundary_distance: Number | None = None
    min_boundary_distance_scaled: Number | None = None
    no_worse_than_baseline: Number | None = None

    @property
    def limits(self) -> dict[str, float]:
        """The limits that the rule sets, by name."""
        return {name: value for name in LIMITS if (value := getattr(self, name)) is not None}

    @property
    def target(self) -> str:
        """What is judged, for people: "depth", "family observing", "all" or "clean"."""
        if self.family is not None:
            return f"family {self.family}"
        return self.perturbation or ("all" if self.all else "clean")

    @pydantic.model_validator(mode="after")
    def _can_be_judged(self) -> Rule:
        """Refuse what could not be judged, or would be judged otherwise than it reads."""
        _one(self, "perturbation", "family", "all", "clean", least=1)
        _one(self, "severity", "strength", "over", least=0)
        _refuse_limits(self)
        _refuse_confidence(self.confidence)
        if self.strength is not None and self.perturbation is None:
            raise InputError(
                f"strength = {self.strength:g} of {self.target}",
                "strengths of different perturbations have different units",
                "name one perturbation, or take severity",
            )
        if self.clean and (unfit := [n for n in self.limits if n not in OF_CLEAN]):
            raise InputError(
                f"clean = true with {unfit[0]}", f"limits of clean images: {', '.join(OF_CLEAN)}", "drop it"
            )
        if self.clean and (self.severity is not None or self.over is not None):
            raise InputError("clean = true at a severity or over rungs", "clean images have no severity", "drop it")
        if self.over == "mean" and self.min_worst_class is not None:
            raise InputError(
                'min_worst_class with over = "mean"',
                'min_worst_class at every rung, one severity or strength, or over = "worst"',
                "make it a rule of its own",
            )
        return self


class Rules(BaseModel):
    """A rules file.

    Parameters
    ----------
    schema : 1.
    confidence : of the two-sided interval that a limit is compared with.
    on_uncertain : what becomes of a rule whose limit lies within the interval.
    allow_flags : codes of flags with which a run may still pass.
    rule : the rules, in their order.
    source : where they come from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_: Literal[1] = Field(alias="schema")
    confidence: Number = 0.95
    on_uncertain: OnUncertain = "pass"
    allow_flags: tuple[str, ...] = ()
    rule: tuple[Rule, ...] = Field(min_length=1)
    source: str = ""

    @pydantic.model_validator(mode="after")
    def _has_names(self) -> Rules:
        _refuse_confidence(self.confidence)
        names = self.names
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"two rules named '{name}'", "a name for each rule", "rename one")
        return self

    @property
    def names(self) -> list[str]:
        """What each rule is called."""
        return [
            " ".join(rule.name.split()) or f"{number}: {rule.target}" for number, rule in enumerate(self.rule, start=1)
        ]


def load(path: str | Path) -> Rules:
    """The rules of a file.

    Raises
    ------
    InputError : no such file, no TOML, an unknown key, or a rule that nothing could break or keep.
    """
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as problem:
        raise InputError(f"rules {path}: {problem}", "a readable TOML file", "correct the file") from None
    return of(table, str(path))


def of(table: Mapping[str, Any], source: str) -> Rules:
    """The rules of a table as a rules file has it: {"schema": 1, "rule": [{"perturbation": "depth", ...}]}.

    Raises
    ------
    InputError : as for `load`.
    """
    if "source" in table:
        raise _unknown_key(source, ["source"])
    try:
        return Rules.model_validate({**table, "source": source})
    except pydantic.ValidationError as problem:
        errors = problem.errors()
        # a key that is misspelt also lacks: the misspelling says more
        first = next((error for error in errors if error["type"] == "extra_forbidden"), errors[0])
    where = [part + 1 if isinstance(part, int) else part for part in first["loc"]]  # people count rules from 1
    place = " ".join(["rules", source, *(str(part) for part in where)]).replace(" rule ", ", rule ")
    if first["type"] == "extra_forbidden":
        raise _unknown_key(source, [str(part) for part in where])
    if isinstance(cause := first.get("ctx", {}).get("error"), InputError):
        raise InputError(f"{place}: {cause.wrong}", cause.allowed, cause.remedy)
    given = "" if first["type"] == "missing" else f" = {first['input']!r:.80}"
    raise InputError(f"{place}{given}", first["msg"], "see docs/gate.md, or start from what gate --init prints")


def _unknown_key(source: str, where: list[str]) -> InputError:
    fields = {"schema", *Rules.model_fields} - {"schema_", "source"}
    if where[0] != "rule":
        remedy = "a limit belongs below [[rule]]" if where[-1] in Rule.model_fields else None
        return unknown_name(f"key of rules {source}", where[-1], fields, remedy)
    remedy = "it stands above the first [[rule]]" if where[-1] in fields else None
    return unknown_name(f"key of rules {source}, rule {where[1]}", where[-1], Rule.model_fields, remedy)


def _one(rule: Rule, *names: str, least: int) -> None:
    given = [name for name in names if getattr(rule, name) is not None]
    if not least <= len(given) <= 1:
        allowed = "exactly one" if least else "at most one"
        raise InputError(
            f"{' and '.join(given) or 'none'} of {', '.join(names)}",
            allowed,
            "make a rule for each" if given else "say what the rule judges",
        )


def _refuse_limits(rule: Rule) -> None:
    if not rule.limits:
        raise InputError(f"a rule for {rule.target} without a limit", f"limits: {', '.join(LIMITS)}", "set one of them")
    for name, allowed in FRACTIONS.items():
        value = getattr(rule, name)
        if value is None:
            continue
        lowest = name.startswith("min_")
        if not (0 < value <= 1 if lowest else 0 <= value < 1):
            hint = f"rates are fractions: {value:g}% is {value / 100:g}" if 1 < value <= 100 else "choose another limit"
            raise InputError(f"{name} = {value:g}", allowed, hint)


def _refuse_confidence(value: float | None) -> None:
    if value is not None and not 0.5 <= value <= 0.9999:
        hint = f"confidence is a fraction: {value / 100:g}" if 50 <= value < 100 else "take 0.95"
        raise InputError(f"confidence = {value:g}", "0.5 <= confidence <= 0.9999", hint)
