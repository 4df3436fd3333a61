"""Differential evolution of many images at once (Storn & Price 1997, J. Global Optim. 11, 341).

Knows neither pixels nor networks: for each image it searches the unit cube of genes for the largest score. All numbers
are keyed by galaxy and generation and no search depends on another, so each is the same alone and in any batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from perturbations.draws import Draws

Evaluate = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Found:
    """The outcome of N searches.

    Parameters
    ----------
    genes : (N, G) float32 in [0, 1]: the candidate that ended the search, else the best one seen.
    success : (N,) bool, the goal was reached.
    generations : (N,) int64, generations after the initial population.
    queries : (N,) int64, candidates evaluated.
    """

    genes: torch.Tensor
    success: torch.Tensor
    generations: torch.Tensor
    queries: torch.Tensor


def evolve(
    evaluate: Evaluate,
    draws: Draws,
    population: torch.Tensor,
    generations: int,
    *,
    weight: float = 0.5,
    clipped: torch.Tensor | None = None,
    onward: bool = False,
) -> Found:
    """Strategy rand/1 without crossover: child = a + weight (b - c); a, b, c and the parent are four different members.

    Genes that leave [0, 1] are drawn again, uniformly, except those `clipped` to its ends. All children of a generation
    are made from the one before it, and a child replaces its parent unless its score is lower. A search ends after the
    first generation in which a candidate reaches the goal, with the best-scoring of those that do.

    Parameters
    ----------
    evaluate : maps positions (A,) of the searches still running and candidates (A, P, G) to scores (A, P) and whether
        they reach the goal, (A, P) bool.
    draws : one galaxy id per search.
    population : (N, P, G) float32 in [0, 1], the initial candidates; P >= 4.
    generations : at most so many after the initial population.
    weight : F.
    clipped : (G,) bool, genes that stop at the ends of [0, 1] instead of being drawn again; default none.
    onward : let every search run to its last generation; its result is the best-scoring candidate, and it succeeds if
        any candidate reached the goal.
    """
    n, size, genes = population.shape
    active = torch.arange(n, device=population.device)
    found = Found(population[:, 0].clone(), active < 0, torch.zeros_like(active), torch.zeros_like(active))
    scores = population.new_full((n, size), -torch.inf)
    trial = population
    for generation in range(generations + 1):
        if not len(active):
            break
        if generation:
            others = _three_others(draws, generation, size)
            redrawn = draws.uniform(f"redraw {generation}", (size, genes))
            trial = _children(population, others, redrawn, weight, clipped)
        score, reached = evaluate(active, trial)
        better = score >= scores
        population = torch.where(better[..., None], trial, population)
        scores = torch.where(better, score, scores)
        done = reached.any(dim=1)
        if onward:
            found.success[active] |= done
            done = torch.zeros_like(done)
        # a child may reach the goal with a lower score than its parent, which does not: look among all children
        winner = _pick(trial, score.masked_fill(~reached, -torch.inf).argmax(dim=1))
        found.genes[active] = torch.where(done[:, None], winner, _pick(population, scores.argmax(dim=1)))
        found.success[active] |= done
        found.generations[active] = generation
        found.queries[active] += size
        if bool(done.any()):
            active, population, scores = active[~done], population[~done], scores[~done]
            draws = draws.take((~done).nonzero()[:, 0])
    return found


def _children(
    population: torch.Tensor,
    others: list[torch.Tensor],
    redrawn: torch.Tensor,
    weight: float,
    clipped: torch.Tensor | None,
) -> torch.Tensor:
    a, b, c = (population.gather(1, index[..., None].expand_as(population)) for index in others)
    child = a + weight * (b - c)
    inside = child.clamp(0.0, 1.0)
    outside = child != inside
    return torch.where(outside if clipped is None else outside & ~clipped, redrawn, inside)


def _three_others(draws: Draws, generation: int, size: int) -> list[torch.Tensor]:
    """Three members of the population, (A, P) each, different from each other and from the parent."""
    taken = torch.arange(size, device=draws.device).expand(len(draws), 1, size)
    chosen = []
    for name, free in (("first", size - 1), ("second", size - 2), ("third", size - 3)):
        index = draws.integers(f"{name} {generation}", free, (size,))
        for earlier in taken.sort(dim=1).values.unbind(dim=1):  # the index counts only those not yet taken
            index = index + (index >= earlier)
        chosen.append(index)
        taken = torch.cat((taken, index[:, None]), dim=1)
    return chosen


def _pick(candidates: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return candidates[torch.arange(len(index), device=index.device), index]
