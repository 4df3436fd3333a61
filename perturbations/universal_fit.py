"""One perturbation for a whole set of images, in a ball: what `universal` and `universal_l2` share."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from perturbations import goal
from perturbations.core import AttackResult, Victim
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.gradient import REACH, Norm, moved, project

ENOUGH = math.log(0.95 / 0.05)  # log-odds: an image whose true class has p < 0.05 pulls no more


def fit_ball(
    x: torch.Tensor,
    labels: torch.Tensor,
    victim: Victim,
    epsilon: float,
    draws: Draws,
    norm: Norm,
    *,
    steps: int,
    batch: int,
) -> dict[str, torch.Tensor]:
    """Projected steepest ascent of the mean harm (see `perturbations.goal`), capped, over minibatches.

    Each step goes along the gradient of the perturbation itself, summed over a minibatch, and is shorter than the one
    before; together they are 2.5 epsilon long. Where an image plus the perturbation leaves the box it is clipped, and
    does not pull any farther out. The minibatches are the images in an order that is drawn anew, by a key of each
    galaxy, once all were used: the order in which they are given changes nothing.

    Parameters
    ----------
    x : images (N, C, H, W) float32 in input space. Not modified.
    labels : (N,) int64, the true classes. Images that are classified wrong already are left out.
    epsilon : radius >= 0, input units.
    draws : one galaxy id per image.
    steps, batch : steps and images in each, at least 1.

    Returns
    -------
    perturbation (C, H, W) float64 inside the ball; queries () int64, forward passes over all images.

    Raises
    ------
    InputError : a negative epsilon, or steps or batch below 1.
    """
    refuse_epsilon(epsilon)
    if steps < 1 or batch < 1:
        raise InputError(f"steps = {steps}, batch = {batch}", "both at least 1", "choose a positive number")
    order = by_id(draws)
    wanted, queries = worth_fitting(x, labels, victim, order), len(x)
    change = torch.zeros(1, *x.shape[1:], dtype=torch.float64, device=x.device)
    low, high = (edge.expand_as(x) for edge in victim.box)
    everywhere = torch.full_like(change, math.inf)
    waiting, turn = wanted[:0], 0
    for step in range(steps if len(wanted) else 0):
        if not len(waiting):
            keys = draws.take(wanted).uniform(f"turn {turn}")
            waiting, turn = wanted[keys.argsort(stable=True)], turn + 1
        now, waiting = waiting[:batch], waiting[batch:]
        clean, bottom, top = x[now], low[now].double(), high[now].double()
        wished = clean.double() + change
        image = moved(clean, wished.clamp(bottom, top) - clean.double())
        slope = victim.gradient(image, lambda logits, true=labels[now]: goal.harm(logits, true, None).clamp_max(ENOUGH))
        queries += len(now)
        useless = ((wished < bottom) & (slope < 0.0)) | ((wished > top) & (slope > 0.0))
        uphill = slope.double().masked_fill(useless, 0.0).sum(dim=0, keepdim=True)
        uphill = uphill.sign() if norm == "Linf" else uphill / uphill.norm().clamp_min(1e-300)
        length = REACH * epsilon * 2.0 * (steps - step) / (steps * (steps + 1))
        change = project(change + length * uphill, -everywhere, everywhere, epsilon, norm)
    return {"perturbation": change[0], "queries": torch.tensor(queries)}


def added(
    x: torch.Tensor, labels: torch.Tensor, victim: Victim, epsilon: float, fitted: Mapping[str, torch.Tensor] | None
) -> AttackResult:
    """Images (N, C, H, W) plus the fitted perturbation, clipped to the box; the clean ones where epsilon is 0.

    Raises
    ------
    InputError : the perturbation was fitted to images of another shape.
    """
    refuse_epsilon(epsilon)
    if epsilon == 0 or fitted is None:
        return judged(x.clone(), labels, victim, asked=False)
    change = fitted["perturbation"].to(x.device)
    if change.shape != x.shape[1:]:
        raise InputError(
            f"a perturbation of shape {tuple(change.shape)} for images {tuple(x.shape[1:])}",
            "the same shape",
            "fit it anew",
        )
    low, high = (edge.double() - x.double() for edge in victim.box)
    return judged(moved(x, change.clamp(low, high)), labels, victim)


def judged(images: torch.Tensor, labels: torch.Tensor, victim: Victim, asked: bool = True) -> AttackResult:
    """The result of one forward pass of these images; success is a wrong class. Of none, if nothing was `asked`."""
    queries = torch.full((len(images),), int(asked), dtype=torch.int64, device=images.device)
    success = goal.flipped(victim.logits(images), labels, None) if asked and len(images) else queries > 1
    return AttackResult(images, success, queries)


def by_id(draws: Draws) -> torch.Tensor:
    """Positions (N,) of the galaxies in the order of their ids."""
    return torch.tensor(sorted(range(len(draws)), key=draws.ids.__getitem__), device=draws.device)


def worth_fitting(x: torch.Tensor, labels: torch.Tensor, victim: Victim, order: torch.Tensor) -> torch.Tensor:
    """Positions (A,) of the images that are classified right, in this order."""
    return order[goal.worth_attacking(x[order], labels[order], victim, None)]


def refuse_epsilon(epsilon: float) -> None:
    """Refuse a radius that is negative or not finite."""
    if not 0.0 <= epsilon < math.inf:
        raise InputError(f"epsilon = {epsilon:g}", "epsilon >= 0", "give a distance in input units")
