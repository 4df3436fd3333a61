"""A few pixels that together hurt most, found by random search or by differential evolution."""

from collections.abc import Mapping
from typing import Any, Literal

import torch

from perturbations import changed_pixels, goal
from perturbations.core import AttackResult, Victim, attack
from perturbations.draws import Draws
from perturbations.errors import InputError

SHARE = 0.3  # of the pixels replaced in the first proposals
# ... divided by these from then on: part of the budget spent, divisor (Croce et al. 2022 and its released code)
SCHEDULE = ((0.0, 2), (0.005, 4), (0.02, 5), (0.05, 6), (0.1, 8), (0.2, 10), (0.4, 12), (0.6, 15), (0.8, 20))
TOGETHER = 10  # proposals made from the same parent


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    pop, queries = options["pop"], options["queries"]
    if queries < 2 or (options["search"] == "de" and (pop < 4 or queries < 1 + pop)):
        raise InputError(
            f"fewpixel: pop = {pop}, queries = {queries}",
            "queries >= 2; for the search de, pop >= 4 and queries > pop",
            "one query is for the clean image, and the first generation takes pop of them",
        )
    return options


def _most(options: Mapping[str, Any]) -> int:
    return options["queries"]


@attack(
    parameter="changed pixels",
    unit="pixel",
    ladder=(1, 3, 5, 10, 20),
    norm="L0",
    access="logits",
    source="1, 3 and 5 pixels: Su et al. 2019, IEEE TEVC 23, 828, arXiv:1710.08864; 10 and 20: our choice. "
    "Random search: Croce et al. 2022, AAAI, arXiv:2006.12834",
    version=1,
    settle=_checked,
    most_queries=_most,
)
def fewpixel(
    x: torch.Tensor,
    labels: torch.Tensor,
    victim: Victim,
    pixels: float,
    draws: Draws,
    *,
    search: Literal["random", "de"] = "random",
    queries: int = 1501,
    pop: int = 100,
    target: int | None = None,
    space: Literal["input", "flux"] = "input",
    sigmas: float = 5.0,
) -> AttackResult:
    """Replace a few pixels, in all bands, by the values that a search finds most harmful.

    "random" is in the style of Sparse-RS (Croce et al. 2022): keep a set of pixels, each band of them at an end of its
    box; propose to exchange a share of the set, which falls as the budget is spent, for pixels outside it with new
    values; keep a proposal that is more harmful. Unlike there, the harm is that of our other attacks (the log-odds, see
    `perturbations.goal`), and ten proposals are made from the same parent, of which the best may replace it. "de" is
    the search of `onepixel` over all positions and values at once. A search ends when the predicted class is another,
    or the target.

    Parameters
    ----------
    x : images (N, C, H, W) float32 in input space. Not modified.
    labels : (N,) int64, the true classes.
    pixels : how many, 0 to half of the image; 0 returns the clean images.
    draws : this batch's random numbers, keyed by galaxy: a search is the same alone and in any batch.
    search : "random" or "de".
    queries : forward passes per image at most, the clean image's included; "de" spends the whole generations in it.
    pop : for "de", candidates in a generation, at least 4; fewer if not even one generation fits in the queries of a
        victim that screens.
    target : the class to reach; None for any wrong one.
    space : "input", every value that the network accepts; "flux", the values that a detector can give.
    sigmas : in flux space, how far a pixel can fall below the sky [standard deviations of blank sky].

    Returns
    -------
    AttackResult. `queries` is exact. Details: rows, columns (N, k) int64 and values (N, k, C) float32 of the pixels
    written, -1 and NaN where none were.

    Raises
    ------
    InputError : a number of pixels that is not whole or more than half of the image, an option out of range, or flux
        space for images whose exposure or full well is not known.
    """
    size = x.shape[-2] * x.shape[-1]
    if not 0 <= 2 * pixels <= size or pixels != int(pixels):
        raise InputError(
            f"fewpixel: {pixels:g} pixels", f"a whole number from 0 to {size // 2}", "give a number of pixels"
        )
    count = int(pixels)
    result = changed_pixels.untouched(x, count)
    if count == 0:
        return result
    box = goal.allowed(victim, x, space, sigmas)
    attacked = goal.worth_attacking(x, labels, victim, target)
    result.queries.add_(1)
    if not len(attacked):
        return result
    draws = draws.take(attacked)
    if search == "de":
        generation = pop
        if goal.screens(victim):  # fewer candidates where those to be confirmed leave no room
            pop = min(pop, max(queries - 1 - changed_pixels.CONFIRMED, (queries - 1) // 2))
            generation = pop + min(changed_pixels.CONFIRMED, pop)
        found, positions, values = changed_pixels.evolved(
            x, labels, victim, attacked, box, count, draws,
            pop=pop, generations=(queries - 1) // generation - 1, extremes=True, target=target,
        )  # fmt: skip
        result.success[attacked] = found.success
        result.queries[attacked] += found.queries
        changed_pixels.write(result, x, attacked, positions, values)
    else:
        _exchange(result, x, labels, victim, attacked, box, count, draws, queries - 1, target)
    return result


def _exchange(
    result: AttackResult,
    x: torch.Tensor,
    labels: torch.Tensor,
    victim: Victim,
    active: torch.Tensor,
    box: changed_pixels.Box,
    count: int,
    draws: Draws,
    budget: int,
    target: int | None,
) -> None:
    """Random search for the images `active` (A,), written into the result."""
    bands, (height, width) = x.shape[1], x.shape[-2:]
    pixel = torch.zeros((len(active), count), dtype=torch.int64, device=x.device)  # numbers of the pixels of the set
    high = torch.zeros((len(active), count, bands), dtype=torch.bool, device=x.device)  # else the low end
    best = x.new_full((len(active),), -torch.inf)

    def change(image: torch.Tensor, pixel: torch.Tensor, high: torch.Tensor) -> changed_pixels.Change:
        positions = changed_pixels.places(pixel, width)
        low, top = changed_pixels.at(box, image, positions)
        return positions, torch.where(high, top, low)

    for spent in range(0, budget, TOGETHER):
        size = min(TOGETHER, budget - spent)
        leaving = _replaced(spent, budget, count)
        slot = draws.uniform(f"leave {spent}", (size, count)).argsort(dim=-1, stable=True)[..., :leaving]
        new = draws.integers(f"enter {spent}", height * width, (size, leaving))
        set_, ends = (t[:, None].expand(-1, size, *t.shape[1:]) for t in (pixel, high))
        if spent:  # what enters is not in the set, nor what leaves it
            new = changed_pixels.different(torch.cat((set_, new), dim=-1), height * width, count)[..., count:]
        else:
            new = changed_pixels.different(new, height * width)
        trial = set_.scatter(-1, slot, new)
        flip = draws.uniform(f"ends {spent}", (size, leaving, bands)) < 0.5
        ends = ends.scatter(2, slot[..., None].expand(flip.shape), flip)
        logits = goal.pixel_logits(victim, x, active, *change(active[:, None], trial, ends))
        result.queries[active] += size
        true = labels[active][:, None].expand(logits.shape[:2])
        score, reached = goal.harm(logits, true, target), goal.flipped(logits, true, target)
        done = reached.any(dim=1)
        # as in differential evolution, one that has what is wanted goes before a more harmful one that has not
        score = torch.where(done[:, None] & ~reached, -torch.inf, score)
        gain, k = score.max(dim=1)
        better, row = done | (gain > best), torch.arange(len(active), device=x.device)
        pixel = torch.where(better[:, None], trial[row, k], pixel)
        high = torch.where(better[:, None, None], ends[row, k], high)
        best = torch.where(better, gain, best)
        result.success[active] = done
        last = spent + size == budget
        if last or bool(done.any()):
            over = torch.ones_like(done) if last else done
            changed_pixels.write(result, x, active[over], *change(active[over], pixel[over], high[over]))
            active, pixel, high, best = active[~over], pixel[~over], high[~over], best[~over]
            draws = draws.take((~over).nonzero()[:, 0])
        if not len(active):
            break


def _replaced(spent: int, budget: int, count: int) -> int:
    """How many pixels of the set a proposal exchanges; all of them at first."""
    if spent == 0:
        return count
    divisor = next(d for start, d in reversed(SCHEDULE) if spent >= start * budget)
    return max(int(SHARE / divisor * count), 1)
