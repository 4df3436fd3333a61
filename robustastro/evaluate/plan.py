"""Plan: everything that the numbers of a run depend on, with every default resolved. Nothing else is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from perturbations.core import get
from perturbations.errors import InputError
from robustastro.data.galaxies import Galaxies
from robustastro.evaluate.bisect import check
from robustastro.models.bundles import Model, arch_identity
from robustastro.models.sparse.inference import Decision
from robustastro.models.subject import CHUNK, Subject

SHARD = 250  # galaxies per file of a unit; fewer of a long search, so that little is lost where it is interrupted:
QUERIES = {False: 2_000_000, True: 100_000}  # per file, of light networks and of heavy ones, which are screened
TRIED = 64  # galaxies among which those are that windows are tried on


class Step(BaseModel):
    """One perturbation at some strengths."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    version: int
    strengths: tuple[float, ...]
    options: dict[str, Any] = {}


class Fitted(BaseModel):
    """The galaxies that perturbations of a whole set are fitted to: SHA-256 over them, and how many."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    data: str
    n: int


class Plan(BaseModel):
    """What to run on what.

    Parameters
    ----------
    model : SHA-256 of the model file.
    arch : architecture; for FILE.py:Class with the SHA-256 of the file.
    data : SHA-256 over the galaxies (ids, labels, pixels, exposure) after `limit`.
    contract : how images become input; part of the plan because it may come from a file of its own.
    steps : perturbations with their strengths and options.
    seed : evaluation seed of the draws.
    limit : at most so many galaxies, chosen by key; None for all.
    chunk : images per forward pass.
    shard : galaxies per file; the granularity of resuming.
    kept_images : galaxies whose images are kept for figures.
    latent : module whose input is the latent vector; None for the last Linear.
    pixels : how the network is asked about changed pixels; None where no attack of the plan does that.
    fitted_on : the galaxies that perturbations of a whole set are fitted to; None where there is no such perturbation.
    bisect : how closely, in the perturbation's unit, the strength is found that flips a galaxy; None: to a rung.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    model: str
    arch: str
    data: str
    contract: dict[str, Any]
    steps: tuple[Step, ...]
    seed: int = 0
    limit: int | None = None
    chunk: int = CHUNK
    shard: int = SHARD
    kept_images: int = 16
    latent: str | None = None
    pixels: Decision | None = None
    fitted_on: Fitted | None = None
    bisect: float | None = None

    @classmethod
    def of(
        cls,
        model: Model,
        galaxies: Galaxies,
        steps: Sequence[Step],
        *,
        seed: int = 0,
        limit: int | None = None,
        fitting: Galaxies | None = None,
        bisect: float | None = None,
    ) -> Plan:
        """The plan of these steps for a model and galaxies; `galaxies` are those left after `limit`."""
        check_bisect(steps, bisect)
        names = [step.name for step in steps]
        for step in steps:
            rungs = [f"{strength:.10g}" for strength in step.strengths]
            if names.count(step.name) > 1 or len(set(rungs)) < len(rungs):
                raise InputError(
                    f"{step.name} twice in one plan", "each perturbation and strength once", "make a run for each"
                )
        pixels, shard = None, SHARD
        if len(galaxies) and any(get(step.name).norm == "L0" for step in steps):
            x = model.contract.to_input(galaxies.batch(slice(0, TRIED)), galaxies.bands)
            pixels = Subject(model.network, model.contract, model.latent).decision(x)
            shard = min(_shard(step, x, pixels.screening) for step in steps)
        return cls(
            model=model.sha256,
            arch=arch_identity(model.arch),
            data=galaxies.digest(),
            contract=model.contract.to_dict(),
            steps=tuple(steps),
            seed=seed,
            limit=limit,
            latent=model.latent,
            shard=shard,
            pixels=pixels,
            fitted_on=None if fitting is None else Fitted(data=fitting.digest(), n=len(fitting)),
            bisect=bisect,
        )

    def digest(self) -> str:
        """SHA-256 of the plan."""
        plan = self.model_dump(mode="json")
        for later in ("pixels", "fitted_on", "bisect"):
            if plan[later] is None:  # entries of later versions count where they are used: older runs can be resumed
                del plan[later]
        return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()


def check_bisect(steps: Sequence[Step], tolerance: float | None) -> None:
    """Refuse a bisection to `tolerance` that these steps cannot have; nothing to refuse where it is None.

    Raises
    ------
    InputError : more than one step, or see `robustastro.evaluate.bisect.check`.
    """
    if tolerance is None:
        return
    if len(steps) != 1:
        raise InputError(
            f"--bisect {tolerance:g} for {len(steps)} perturbations", "one, whose unit it has", "make a run for each"
        )
    check(get(steps[0].name), steps[0].strengths, tolerance)


def step(
    name: str,
    *,
    severity: int | None = None,
    strength: float | None = None,
    options: Mapping[str, Any] | Sequence[str] = (),
) -> Step:
    """A perturbation by name, at one severity, one strength, or its whole ladder.

    Parameters
    ----------
    options : a mapping, or "name=value" strings of the command line.

    Raises
    ------
    InputError : an unknown name or option, a severity that is not a rung, or both severity and strength.
    """
    entry = get(name)
    if severity is not None and strength is not None:
        raise InputError(f"both severity {severity} and strength {strength:g}", "one of them", "drop one")
    if severity is not None and not 1 <= severity <= len(entry.ladder):
        raise InputError(
            f"severity {severity}", f"{name} has severities 1 to {len(entry.ladder)}", "choose one, or give --strength"
        )
    strengths = entry.ladder if severity is None else (entry.ladder[severity - 1],)
    strengths = strengths if strength is None else (float(strength),)
    given = dict(options) if isinstance(options, Mapping) else dict(_pair(text) for text in options)
    return Step(name=name, version=entry.version, strengths=strengths, options=entry.resolve(given))


def _shard(step: Step, x: torch.Tensor, heavy: bool) -> int:
    """Galaxies per file of a step on images like x (N, C, H, W)."""
    most = get(step.name).most_queries
    if most is None:
        return SHARD
    return max(1, min(SHARD, QUERIES[heavy] // most({**step.options, "shape": x.shape[1:]})))


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise InputError(f"option '{text}'", "name=value", "for instance -p pop=400")
    return name, value
