"""What every perturbation of the catalogue must keep: used on the catalogue, and on planted mutants."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping

import numpy as np
import torch

from perturbations.core import Observation, Perturbation, Unstretched, distance
from perturbations.draws import Draws
from perturbations.errors import BrokenPromise
from perturbations.exposure import Exposure
from robustastro.contract import Stretch

CLASSES, SIZE, REPEATS = 3, 32, 16
STRETCH = Stretch(kind="linear", low=(-3e3,) * 3, high=(4.7e4,) * 3)


class LinearVictim:
    """A linear network: small, differentiable, without surprises."""

    classes = CLASSES

    def __init__(self, x: torch.Tensor) -> None:
        weights = torch.Generator().manual_seed(1)
        self.weight = torch.randn(x[0].numel(), CLASSES, generator=weights) * 0.3
        self.box = (torch.zeros(()), torch.ones(()))

    def logits(self, x):
        return x.flatten(1) @ self.weight

    def seen(self, flux):
        return STRETCH(flux)

    def gradient(self, x, loss):
        leaf = x.clone().requires_grad_(True)
        return torch.autograd.grad(loss(self.logits(leaf)).sum(), leaf)[0]


def galaxies(n: int = 6) -> Observation:
    """A few bright, elongated galaxies with LSST noise, off the centre and none of them alike."""
    exposure = Exposure.from_survey("LSST", bands="gri")
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    angle = np.linspace(0.0, np.pi, n, endpoint=False)[:, None, None]
    along = (x - 1.0) * np.cos(angle) + (y + 2.0) * np.sin(angle)
    across = (y + 2.0) * np.cos(angle) - (x - 1.0) * np.sin(angle)
    shape = torch.from_numpy(np.exp(-np.hypot(along / 4.0, across / 2.0))).float()
    light = (
        shape[:, None] * torch.linspace(5e3, 3e4, n)[:, None, None, None] * torch.tensor([0.5, 1.0, 1.3])[:, None, None]
    )
    noise = Draws([f"g{k}" for k in range(n)], 0, "simulate").normal("noise", (3, SIZE, SIZE))
    return Observation(light + noise * exposure.variance(light).sqrt(), exposure)


def apply(p: Perturbation, sky: Observation, strength: float, draws: Draws) -> torch.Tensor:
    """The perturbed images, through the call that measures promises."""
    if p.kind == "attack":
        return attacked(p, sky, strength, draws)
    if p.space == "flux":
        return p(sky, strength, draws).flux
    if p.space == "stretch":
        return p(Unstretched(sky.flux, STRETCH), strength, draws)
    return p(STRETCH(sky.flux), strength, draws)


def attacked(p: Perturbation, sky: Observation, strength: float, draws: Draws) -> torch.Tensor:
    """The images of an attack on what a linear network gets right; one of a whole set is fitted to `galaxies()`."""

    def victim_of(flux: torch.Tensor) -> tuple[torch.Tensor, LinearVictim, torch.Tensor]:
        x = STRETCH(flux)
        victim = LinearVictim(x)
        return x, victim, victim.logits(x).argmax(dim=1)

    fitted = None
    if p.fit is not None and strength != p.identity:
        every = galaxies()
        x, victim, labels = victim_of(every.flux)
        fitted = p.fit_to(x, labels, victim, strength, draws_of(every, seed=draws.seed), **quick(p))
    x, victim, labels = victim_of(sky.flux)
    given = sky if p.space == "flux" else x
    return p.run_attack(given, labels, victim, strength, draws, fitted=fitted, **quick(p)).images


def quick(p: Perturbation) -> Mapping[str, int]:
    """Options that make a search short."""
    short = {"pop": 8, "generations": 2, "steps": 3, "queries": 60}
    return {name: value for name, value in short.items() if name in p.options}


def before(p: Perturbation, sky: Observation) -> torch.Tensor:
    return sky.flux if p.space == "flux" else STRETCH(sky.flux)


def draws_of(sky: Observation, which=None, seed: int = 0) -> Draws:
    ids = [f"g{k}" for k in range(len(sky.flux))]
    return Draws(ids if which is None else [ids[k] for k in which], seed, "perturb")


def broken(p: Perturbation) -> str | None:
    """The first promise that a perturbation breaks, or None."""
    sky = galaxies()
    for check in (_documented, _identity, _promises, _repeats, _independent, _ordered):
        try:
            problem = check(p, sky)
        except BrokenPromise as found:
            return str(found)
        if problem:
            return problem
    return None


def _documented(p: Perturbation, sky: Observation) -> str | None:
    text = inspect.getdoc(p.function) or ""
    return None if "Parameters" in text and "Raises" in text else "its docstring lacks Parameters or Raises"


def _identity(p: Perturbation, sky: Observation) -> str | None:
    if p.identity is None:
        return None
    same = apply(p, sky, p.identity, draws_of(sky))
    return None if torch.equal(same, before(p, sky)) else "its identity strength changes the image"


def _promises(p: Perturbation, sky: Observation) -> str | None:
    clean = before(p, sky).clone()
    for strength in p.ladder:
        changed = apply(p, sky, strength, draws_of(sky))
        if changed.data_ptr() == before(p, sky).data_ptr():
            return "it returns its input's memory"
        spent = distance(changed, clean, p.norm)
        if spent is not None and bool((spent > strength * (1 + 1e-5)).any()):
            return "it leaves its budget"
    return None


def _repeats(p: Perturbation, sky: Observation) -> str | None:
    first, second = (apply(p, sky, p.ladder[-1], draws_of(sky)) for _ in range(2))
    return None if torch.equal(first, second) else "two calls with the same draws differ"


def _independent(p: Perturbation, sky: Observation) -> str | None:
    whole = apply(p, sky, p.ladder[-1], draws_of(sky))
    order = [4, 1, 5]
    some = Observation(sky.flux[order], sky.exposure)
    part = apply(p, some, p.ladder[-1], draws_of(sky, order))
    # the same draws; sums may be rounded in another order
    return (
        None
        if torch.allclose(part, whole[order], rtol=1e-5, atol=1e-4)
        else "a galaxy depends on the rest of the batch"
    )


def _ordered(p: Perturbation, sky: Observation) -> str | None:
    """Rungs go from mild to severe in harm over galaxies and draws."""
    harm = p.harm or _rms
    change = [
        np.mean(
            [
                float(harm(before(p, sky), apply(p, sky, s, draws_of(sky, seed=seed))).mean())
                for seed in range(REPEATS if p.kind == "corruption" else 1)
            ]
        )
        for s in p.ladder
    ]
    return None if list(change) == sorted(change) and change[0] > 0 else f"its rungs are not in order of harm: {change}"


def _rms(clean: torch.Tensor, perturbed: torch.Tensor) -> torch.Tensor:
    return (perturbed - clean).square().flatten(1).mean(dim=1).sqrt()


def mutant(p: Perturbation, function) -> Perturbation:
    """The same entry with another function."""
    function.__doc__ = p.function.__doc__
    return dataclasses.replace(p, function=function, options={})
