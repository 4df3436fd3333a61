"""Attacks that follow the gradient inside a ball: what `fgsm`, `pgd` and `pgd_l2` share.

A change is held in float64 and written to the image rounded towards the clean value, so that the distance that is
measured never exceeds the budget, however small it is.
"""

from __future__ import annotations

import math
from typing import Literal

import torch

from perturbations import goal
from perturbations.core import AttackResult, Victim
from perturbations.draws import Draws
from perturbations.errors import InputError

Norm = Literal["Linf", "L2"]
# Steps of 2.5 epsilon / steps: Madry et al. 2018 with 100 steps, the robustness library (Engstrom et al. 2019) with 20.
# Far enough to cross the ball from any start.
REACH = 2.5


def ascend(
    x: torch.Tensor,
    labels: torch.Tensor,
    victim: Victim,
    epsilon: float,
    draws: Draws,
    norm: Norm,
    *,
    steps: int,
    restarts: int = 1,
    random_start: bool = False,
    step_size: float | None = None,
    target: int | None = None,
) -> AttackResult:
    """Projected steepest ascent of the harm (see `perturbations.goal`) in the ball of radius `epsilon` and in the box.

    Images wrong already, or of the target class, are left alone. The rest are judged at the end of each restart; those
    that flipped leave, and those that never do keep the most harmful end point.

    Parameters
    ----------
    x : images (N, C, H, W) float32 in input space, inside the victim's box. Not modified.
    labels : (N,) int64, the true classes.
    epsilon : radius >= 0, input units; 0 returns the clean images after no query.
    draws : random starts, keyed by galaxy and restart.
    step_size : input units; default 2.5 epsilon / steps.

    Returns
    -------
    AttackResult; queries is 1 for the clean image, then per restart 1 for each gradient and 1 to judge the end point.
    """
    if not 0.0 <= epsilon < math.inf:
        raise InputError(f"epsilon = {epsilon:g}", "epsilon >= 0", "give a distance in input units")
    if steps < 1 or restarts < 1:
        raise InputError(f"steps = {steps}, restarts = {restarts}", "both at least 1", "choose a positive number")
    images, success = x.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
    queries = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    result = AttackResult(images, success, queries)
    if epsilon == 0:
        return result

    active = goal.worth_attacking(x, labels, victim, target)
    queries += 1
    worst = torch.full((len(x),), -math.inf, device=x.device)
    for restart in range(restarts):
        if not len(active):
            break
        clean, true = x[active], labels[active]
        low, high = (edge.expand_as(x)[active].double() - clean.double() for edge in victim.box)
        change = torch.zeros_like(low)
        if random_start:
            change = project(
                _start(draws.take(active), f"start {restart}", low, epsilon, norm), low, high, epsilon, norm
            )
        for _ in range(steps):
            slope = victim.gradient(moved(clean, change), lambda logits, true=true: goal.harm(logits, true, target))
            step = _steepest(slope.double(), norm) * (step_size or REACH * epsilon / steps)
            change = project(change + step, low, high, epsilon, norm)
        end = moved(clean, change)
        logits = victim.logits(end)
        queries[active] += steps + 1
        score, done = goal.harm(logits, true, target), goal.flipped(logits, true, target)
        better = done | (score > worst[active])
        images[active[better]], worst[active[better]] = end[better], score[better]
        success[active] = done
        active = active[~done]
    return result


def project(change: torch.Tensor, low: torch.Tensor, high: torch.Tensor, epsilon: float, norm: Norm) -> torch.Tensor:
    """The nearest point of the ball and the box to each change (N, C, H, W) float64; low <= 0 <= high.

    In L2 it is clip(s change, low, high) with the largest s <= 1 that fits the ball (the Karush-Kuhn-Tucker
    conditions), found by bisection. Clipping what was projected would leave part of the budget unused.
    """
    if norm == "Linf":
        return change.clamp(-epsilon, epsilon).clamp(low, high)
    clipped = change.clamp(low, high)
    over = (_length(clipped) > epsilon).flatten()
    if not bool(over.any()):
        return clipped
    change, low, high = change[over], low[over], high[over]
    fits = (epsilon / _length(change)).clamp_max(1.0)  # this much always does
    exceeds = torch.ones_like(fits)
    for _ in range(40):
        middle = (fits + exceeds) / 2
        inside = _length((middle * change).clamp(low, high)) <= epsilon
        fits, exceeds = torch.where(inside, middle, fits), torch.where(inside, exceeds, middle)
    clipped[over] = (fits * change).clamp(low, high)
    return clipped


def moved(clean: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    """clean + change in the dtype of `clean`, each value rounded towards the clean one."""
    image = (clean.double() + change).to(clean.dtype)
    beyond = (image.double() - clean.double()).abs() > change.abs()
    return torch.where(beyond, torch.nextafter(image, clean), image)


def _start(draws: Draws, stream: str, like: torch.Tensor, epsilon: float, norm: Norm) -> torch.Tensor:
    """A point drawn uniformly in the ball, float64."""
    shape = like.shape[1:]
    if norm == "Linf":
        return (2.0 * draws.uniform(stream, shape).double() - 1.0) * epsilon
    radius = draws.uniform(stream + " radius").double() ** (1.0 / math.prod(shape))
    return _steepest(draws.normal(stream, shape).double(), norm) * (epsilon * radius)[:, None, None, None]


def _steepest(slope: torch.Tensor, norm: Norm) -> torch.Tensor:
    """The change of unit norm that gains most along a gradient; none where the gradient vanishes."""
    if norm == "Linf":
        return slope.sign()
    return slope / _length(slope).clamp_min(torch.finfo(slope.dtype).tiny)


def _length(change: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(change, dim=(1, 2, 3), keepdim=True)
