"""The one pixel that hurts most, as a telescope might change one: found by differential evolution."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from perturbations import changed_pixels, goal
from perturbations.core import AttackResult, Victim, attack
from perturbations.draws import Draws
from perturbations.errors import InputError

PUBLISHED_HARM = {"untargeted": math.log(0.95 / 0.05), "targeted": 0.0}  # log-odds at p(true) < 0.05, p(target) > 0.5


@dataclass(frozen=True)
class Settings:
    """How to search; see `onepixel`."""

    pop: int
    generations: int
    stop: Literal["argmax", "published"]
    extremes: bool


SETTINGS = {
    "default": Settings(pop=100, generations=14, stop="argmax", extremes=True),
    "published": Settings(pop=400, generations=80, stop="published", extremes=False),
}

RESOLVED = ("settings", "pop", "generations", "stop")


@attack(
    parameter="changed pixels",
    unit="pixel",
    ladder=(1,),
    norm="L0",
    access="logits",
    source="Su et al. 2019, IEEE TEVC 23, 828, arXiv:1710.08864; Ciprijanovic et al. 2022, arXiv:2112.14299",
    version=1,
    settle=lambda options: options | _resolve(**{name: options[name] for name in RESOLVED}),
    most_queries=lambda options: 1 + (options["pop"] + changed_pixels.CONFIRMED) * (1 + options["generations"]),
)
def onepixel(
    x: torch.Tensor,
    labels: torch.Tensor,
    victim: Victim,
    pixels: float,
    draws: Draws,
    *,
    settings: Literal["default", "published"] = "default",
    pop: int | None = None,
    generations: int | None = None,
    stop: Literal["argmax", "published"] | None = None,
    target: int | None = None,
    space: Literal["input", "flux"] = "input",
    sigmas: float = 5.0,
) -> AttackResult:
    """Replace one pixel, in all bands, by the values that a search finds most harmful.

    A candidate is (row, column, a value per band), the values within the box of `space`; differential evolution (see
    `perturbations.search`, F = 0.5) makes the log-odds of the true class small, or those of `target` large. An image
    whose search succeeds leaves the batch, with the best candidate of that generation that meets `stop`. One whose
    search does not keeps the most harmful candidate seen, and success False. An image that the network gets wrong
    already, or whose true class is the target, is returned as it is after one query.

    The settings "published" are those of DeepAdversaries: 400 candidates, up to 80 generations, everything drawn
    uniformly, stop at p(true) < 0.05 or p(target) > 0.5. "default" (100 candidates, 14 generations, stop as soon as the
    predicted class is another) starts from extreme values, each band at an end of its box, and a value that leaves the
    box goes to its end rather than being drawn again, because the harm of one pixel mostly grows up to the box.
    On the demo's unadapted ConvNet (`benchmarks/onepixel_settings.py`, 76 clean-correct galaxies) it flips 12, 15 and
    22 within 101, 401 and 1,501 queries, against 4, 5 and 10 with uniform values and redrawing.

    Parameters
    ----------
    x : images (N, C, H, W) float32 in input space. Not modified.
    labels : (N,) int64, the true classes.
    pixels : 1, or 0 for the clean images.
    draws : this batch's random numbers, keyed by galaxy: a search is the same alone and in any batch.
    settings : where `pop`, `generations` and `stop` come from unless given.
    pop : candidates in a generation, at least 4.
    generations : generations after the initial population, at least 0.
    stop : "argmax", the prediction is wrong (or the target); "published", the thresholds above.
    target : the class to reach; None for any wrong one.
    space : "input", every value that the network accepts; "flux", the values that a detector can give.
    sigmas : in flux space, how far a pixel can fall below the sky [standard deviations of blank sky].

    Returns
    -------
    AttackResult; `success` is by `stop`. `queries` is exact: 1 for the clean image and `pop` for each population
    evaluated, and 8 more where the victim screens in low precision (see `changed_pixels.evolved`). Details: rows,
    columns (N, 1) int64 and values (N, 1, C) float32 of the pixel written, -1 and NaN where none was; generations (N,)
    int64 after the initial population.

    Raises
    ------
    InputError : a strength other than 0 and 1, an option out of range, or flux space for images whose exposure or full
        well is not known.
    """
    if pixels not in (0, 1):
        raise InputError(f"onepixel: {pixels:g} pixels", "0 or 1", "give strength 1; 0 returns the clean images")
    use = Settings(**_resolve(settings, pop, generations, stop), extremes=SETTINGS[settings].extremes)
    result = changed_pixels.untouched(x, 1)
    used = torch.zeros_like(result.queries)
    result = replace(result, details={**result.details, "generations": used})
    if pixels == 0:
        return result
    box = goal.allowed(victim, x, space, sigmas)
    attacked = goal.worth_attacking(x, labels, victim, target)
    result.queries.add_(1)
    if not len(attacked):
        return result
    threshold = PUBLISHED_HARM["untargeted" if target is None else "targeted"]
    found, position, value = changed_pixels.evolved(
        x, labels, victim, attacked, box, 1, draws.take(attacked), pop=use.pop, generations=use.generations,
        extremes=use.extremes, target=target, threshold=threshold if use.stop == "published" else None,
    )  # fmt: skip
    changed_pixels.write(result, x, attacked, position, value)
    result.success[attacked], used[attacked] = found.success, found.generations
    result.queries[attacked] += found.queries
    return result


def _resolve(settings: str, pop: int | None, generations: int | None, stop: Any) -> dict[str, Any]:
    """`pop`, `generations` and `stop`, those that are not given from the settings."""
    base = SETTINGS[settings]
    pop = base.pop if pop is None else pop
    generations = base.generations if generations is None else generations
    if pop < 4 or generations < 0:
        raise InputError(
            f"onepixel: pop = {pop}, generations = {generations}",
            "pop >= 4 and generations >= 0",
            "a child is made from three members other than its parent",
        )
    return {"pop": pop, "generations": generations, "stop": stop or base.stop}
