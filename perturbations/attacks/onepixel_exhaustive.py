"""Every pixel, every value of a grid: the one-pixel attack that can also say that a galaxy withstands it."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch

from perturbations import changed_pixels, goal
from perturbations.core import AttackResult, Victim, attack
from perturbations.draws import Draws
from perturbations.errors import InputError

BOX = 10  # queries that take as long as one box of a certificate, about
MOST_VALUES = 10**6  # at a pixel: more would take weeks a galaxy
EARLY = 512  # candidates tried between two looks at the answer when only yes or no is asked


def _levels(grid: int | str) -> int:
    return 2 if grid == "corners" else int(grid)


def _values(grid: int | str, bands: int) -> int:
    """How many values of the grid a pixel can take."""
    size = _levels(grid) ** bands
    if size > MOST_VALUES:
        raise InputError(
            f"onepixel_exhaustive: grid = {grid} in {bands} bands",
            f"at most {MOST_VALUES} values of a pixel, the levels to the power of the bands",
            "take fewer levels",
        )
    return size


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    grid, certificate = options["grid"], options["certificate"]
    if isinstance(grid, str) and grid.isdecimal():  # as the command line gives it
        grid = int(grid)
    if grid != "corners" and (isinstance(grid, str) or grid < 2):
        raise InputError(
            f"onepixel_exhaustive: grid = {grid}", "corners or an integer >= 2", "corners is 2 levels per band"
        )
    if certificate < 0:
        raise InputError(f"onepixel_exhaustive: certificate = {certificate}", "0 or more boxes", "0 asks for no proof")
    if certificate and (options["early_exit"] or options["target"] is not None):
        other = "early_exit" if options["early_exit"] else f"target = {options['target']}"
        raise InputError(
            f"onepixel_exhaustive: certificate = {certificate} with {other}",
            "a certificate of a complete search for any wrong class",
            "leave one of the two out",
        )
    return {**options, "grid": grid}


def _most(options: Mapping[str, Any]) -> int:
    bands, height, width = options["shape"]
    tried = height * width * _values(options["grid"], bands)
    return 1 + options["early_exit"] + tried + height * width * options["certificate"] * BOX


@attack(
    parameter="changed pixels",
    unit="pixel",
    ladder=(1,),
    norm="L0",
    access="logits",
    source="our choice: all there is to try for onepixel (Su et al. 2019, IEEE TEVC 23, 828, arXiv:1710.08864)",
    version=1,
    settle=_checked,
    most_queries=_most,
)
def onepixel_exhaustive(
    x: torch.Tensor,
    labels: torch.Tensor,
    victim: Victim,
    pixels: float,
    draws: Draws,
    *,
    grid: int | str = "corners",
    space: Literal["input", "flux"] = "input",
    sigmas: float = 5.0,
    target: int | None = None,
    early_exit: bool = False,
    certificate: int = 0,
) -> AttackResult:
    """Replace each pixel in turn by every value of a grid, and keep the change that hurts most.

    The answer is complete for the grid and says nothing of values between its levels, except where a certificate does.
    The margin of a candidate is the logit of the true class less the largest other one (with a target, the largest
    other one less the target's); it is <= 0 exactly where the attack has what it wants. The vulnerability map is the
    smallest margin over the grid at each pixel; a pixel is fatal where it is <= 0. For a linear network the corners of
    the box hold the worst value of all (without a target the margin is concave in the value of a pixel). Memory does
    not grow with the number of candidates.

    Parameters
    ----------
    x : images (N, C, H, W) float32 in input space. Not modified.
    labels : (N,) int64, the true classes.
    pixels : 1, or 0 for the clean images.
    draws : not used; nothing here is random.
    grid : "corners", each band at an end of its box, 2^C values; or k >= 2, k even levels per band, k^C values, at most
        a million.
    space : "input", every value that the network accepts; "flux", the values that a detector can give.
    sigmas : in flux space, how far a pixel can fall below the sky [standard deviations of blank sky].
    target : the class to reach; None for any wrong one.
    early_exit : only whether there is a fatal pixel is asked. Pixels are tried in the order of what they would take
        from the margin if it were linear (its gradient at the clean image, one query), and the search of a galaxy ends
        soon after its first flip. A galaxy without a fatal pixel is searched to the end.
    certificate : ask a victim that can (`certify`) to prove of the pixels that no level breaks that no value of the
        box does, halving the box of a pixel into so many parts at most; 0 does not ask. On ConvNet 64 takes up to two
        minutes a galaxy and proves it for galaxies of large margin, 4096 for nearly all. Not with a target or an
        early exit: these are refused.

    Returns
    -------
    AttackResult with the most harmful candidate. `queries` is exact, 1 + H x W x values of the grid for a complete
    search. Details: rows, columns (N, 1) int64 and values (N, 1, C) float32 of the pixel written; fatal_pixels (N,)
    int64, -1 where not attacked or not counted; smallest_margin (N,) float32, of the candidates tried, NaN where not
    attacked; map (N, H, W) float32, NaN where not tried; certified (N, H, W) bool, False where not known.
        A candidate whose logits are not all finite has no class: its margin is the lowest finite number (with a target,
        the largest).

    Raises
    ------
    InputError : a strength other than 0 and 1, an option out of range, or flux space for images whose exposure or full
        well is not known.
    """
    if pixels not in (0, 1):
        raise InputError(
            f"onepixel_exhaustive: {pixels:g} pixels", "0 or 1", "give strength 1; 0 returns the clean images"
        )
    n, bands, height, width = x.shape
    result = changed_pixels.untouched(x, 1)
    fatal, smallest = torch.full_like(result.queries, -1), x.new_full((n,), math.nan)
    maps = x.new_full((n, height, width), math.nan)
    certified = torch.zeros_like(maps, dtype=torch.bool)
    more = {"fatal_pixels": fatal, "smallest_margin": smallest, "map": maps, "certified": certified}
    result = replace(result, details={**result.details, **more})
    if pixels == 0:
        return result
    box = goal.allowed(victim, x, space, sigmas)
    levels, size = _levels(grid), _values(grid, bands)
    certify = getattr(victim, "certify", None) if certificate else None
    place = levels ** torch.arange(bands, device=x.device)
    attacked = goal.worth_attacking(x, labels, victim, target)
    result.queries.add_(1)
    # one image after the other: a victim may keep what it knows of the last one. Of none, split() gives one empty part
    for which in attacked.split(1) if len(attacked) else ():

        def candidates(pixel: torch.Tensor, value: torch.Tensor, image: torch.Tensor = which) -> changed_pixels.Change:
            """Positions (1, P, 1, 2) and values (1, P, 1, C) of pixels (P,) with values of the grid (P,)."""
            position = changed_pixels.places(pixel, width)[None, :, None]
            low, high = changed_pixels.at(box, image[:, None], position)
            share = (value[:, None] // place % levels).to(x.dtype) / (levels - 1)
            return position, torch.lerp(low, high, share[None, :, None]).clamp(low, high)

        order = torch.arange(height * width, device=x.device)
        if early_exit:
            order = _by_slope(x, labels, victim, which, box, target)
            result.queries[which] += 1
        lowest, best, at = maps.new_full((height * width,), math.inf), math.inf, torch.zeros_like(order[:2])
        for pixel, value in _chunks(order, size, EARLY // size * size or EARLY if early_exit else goal.CANDIDATES):
            logits = goal.pixel_logits(victim, x, which, *candidates(pixel, value))[0]
            margin = goal.margin(logits, labels[which].expand(len(pixel)), target)
            result.queries[which] += len(pixel)
            lowest.scatter_reduce_(0, pixel, margin, "amin")
            worst, k = margin.min(dim=0)
            if float(worst) < best:
                best, at = float(worst), torch.stack((pixel[k], value[k]))
            if early_exit and best <= 0.0:
                break
        else:
            fatal[which] = (lowest <= 0.0).sum()
        changed_pixels.write(result, x, which, *(change[:, 0] for change in candidates(*at.split(1))))
        result.success[which], smallest[which] = best <= 0.0, best
        maps[which] = lowest.where(lowest < math.inf, math.nan).view(1, height, width)
        if certify is not None:
            safe = (lowest > 0.0).nonzero()[:, 0]
            known = certify(which.expand(len(safe)), changed_pixels.places(safe, width), *box, certificate)
            certified[which] = torch.zeros_like(lowest, dtype=torch.bool).index_put((safe,), known).view(height, width)
    return result


def _chunks(order: torch.Tensor, size: int, chunk: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """All pairs of a pixel and a value of the grid, (P,) each: the values of a pixel together, pixels in `order`."""
    for start in range(0, len(order) * size, chunk):
        candidate = torch.arange(start, min(start + chunk, len(order) * size), device=order.device)
        yield order[candidate // size], candidate % size


def _by_slope(
    x: torch.Tensor,
    labels: torch.Tensor,
    victim: Victim,
    which: torch.Tensor,
    box: changed_pixels.Box,
    target: int | None,
) -> torch.Tensor:
    """Numbers of the pixels (H W,) of one image, those first whose worst corner takes most from a linear margin.

    Asked for each image alone: gradients depend on the batch at the 1e-8 level, and the order must not.
    """
    clean = x[which]
    slope = victim.gradient(clean, lambda logits: goal.margin(logits, labels[which], target))
    loss = torch.maximum(*(-slope * (edge[which] - clean) for edge in box)).sum(dim=1)
    return loss.flatten().argsort(descending=True, stable=True)
