"""What attacks that rewrite a few pixels share: candidates as genes, different pixels, and how a result is kept.

A change is k positions (k, 2), row and column, and a value per band (k, C). An index array that names a pixel twice
leaves open which value is written, so no candidate does.
"""

from __future__ import annotations

import math

import torch

from perturbations import goal, search
from perturbations.core import AttackResult, Victim
from perturbations.draws import Draws

Box = tuple[torch.Tensor, torch.Tensor]  # low, high
Change = tuple[torch.Tensor, torch.Tensor]  # positions, values
CONFIRMED = 8  # candidates of a generation asked about again where the victim screens


def untouched(x: torch.Tensor, pixels: int) -> AttackResult:
    """The result before any search: the images (N, C, H, W) as they are, no query, and details to be filled.

    Details: rows, columns (N, k) int64, -1, and values (N, k, C) float32, NaN.
    """
    n, bands = x.shape[:2]
    rows, columns = (torch.full((n, pixels), -1, device=x.device) for _ in range(2))
    values = torch.full((n, pixels, bands), math.nan, device=x.device)
    queries = torch.zeros(n, dtype=torch.int64, device=x.device)
    details = {"rows": rows, "columns": columns, "values": values}
    return AttackResult(x.clone(), torch.zeros(n, dtype=torch.bool, device=x.device), queries, details)


def write(
    result: AttackResult, x: torch.Tensor, which: torch.Tensor, positions: torch.Tensor, values: torch.Tensor
) -> None:
    """Put the changes (A, k, 2) and (A, k, C) of the images `which` (A,) into the result."""
    result.images[which] = goal.with_pixels(x[which], positions, values)
    result.details["rows"][which] = positions[..., 0]
    result.details["columns"][which] = positions[..., 1]
    result.details["values"][which] = values


def evolved(
    x: torch.Tensor,
    labels: torch.Tensor,
    victim: Victim,
    attacked: torch.Tensor,
    box: Box,
    pixels: int,
    draws: Draws,
    *,
    pop: int,
    generations: int,
    extremes: bool,
    target: int | None,
    threshold: float | None = None,
) -> tuple[search.Found, torch.Tensor, torch.Tensor]:
    """Differential evolution over `pixels` positions and values, making the harm large (see `perturbations.goal`).

    A victim that screens is asked about all candidates in low precision, and in full about the `CONFIRMED` that look
    best of each generation: only these can end a search. Both are queries.

    Parameters
    ----------
    attacked : positions (A,) of the images to search.
    box : low and high, both (N, C, H, W).
    draws : of the attacked images.
    extremes : start with each band at an end of its box, and let a value that leaves the box go to its end.
    threshold : the harm that ends a search; None: it ends as soon as the image is `flipped`.

    Returns
    -------
    What the searches found, and the positions (A, k, 2) and values (A, k, C) of it.
    """

    spent = torch.zeros_like(attacked)

    def judged(image: torch.Tensor, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        true = labels[image][:, None].expand(logits.shape[:2])
        score = goal.harm(logits, true, target)
        return score, goal.flipped(logits, true, target) if threshold is None else score > threshold

    def evaluate(active: torch.Tensor, genes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        image = attacked[active]
        positions, values = _expressed(genes, image[:, None], box, pixels)
        coarse = goal.screened_logits(victim, image, positions, values)
        if coarse is None:
            return judged(image, goal.pixel_logits(victim, x, image, positions, values))
        score, _ = judged(image, coarse)
        best = score.topk(min(CONFIRMED, score.shape[1]), dim=1).indices
        spent[active] += best.shape[1]
        chosen = (t.gather(1, best[..., None, None].expand(-1, -1, *t.shape[2:])) for t in (positions, values))
        exact, reached = judged(image, goal.pixel_logits(victim, x, image, *chosen))
        # below all that are confirmed, so that the best one, which is reported, is one of these
        score = score.minimum(exact.amin(dim=1, keepdim=True).nextafter(score.new_tensor(-torch.inf)))
        return score.scatter(1, best, exact), torch.zeros_like(score, dtype=torch.bool).scatter(1, best, reached)

    bands = x.shape[1]
    population = draws.uniform("population", (pop, pixels * (2 + bands)))
    extreme = torch.tensor(([False, False] + [extremes] * bands) * pixels, device=x.device)
    population = torch.where(extreme, population.round(), population)
    found = search.evolve(evaluate, draws, population, generations, clipped=extreme)
    found.queries.add_(spent)
    return found, *_expressed(found.genes, attacked, box, pixels)


def at(box: Box, image: torch.Tensor, positions: torch.Tensor) -> Box:
    """Low and high (..., k, C) of the pixels `positions` (..., k, 2) of the images (...)."""
    low, high = (edge[image[..., None], :, positions[..., 0], positions[..., 1]] for edge in box)
    return low, high


def different(pixel: torch.Tensor, size: int, settled: int = 1) -> torch.Tensor:
    """Numbers of pixels (..., k) in [0, size), where one that is taken already is moved on to the next free one.

    Parameters
    ----------
    settled : the first so many are known to be different.
    """
    pixel = pixel.clone()
    for later in range(settled, pixel.shape[-1]):
        one = pixel[..., later]
        while bool((taken := (pixel[..., :later] == one[..., None]).any(dim=-1)).any()):
            one += taken
            one %= size
    return pixel


def _expressed(genes: torch.Tensor, image: torch.Tensor, box: Box, pixels: int) -> Change:
    """Positions (..., k, 2) and values (..., k, C) of genes (..., k (2 + C)) in [0, 1]."""
    height, width = box[0].shape[-2:]
    genes = genes.unflatten(-1, (pixels, -1))
    row = (genes[..., 0] * height).long().clamp_(max=height - 1)
    column = (genes[..., 1] * width).long().clamp_(max=width - 1)
    positions = places(different(row * width + column, height * width), width)
    low, high = at(box, image, positions)
    return positions, torch.lerp(low, high, genes[..., 2:]).clamp(low, high)


def places(pixel: torch.Tensor, width: int) -> torch.Tensor:
    """Row and column (..., 2) of the numbers of pixels (...), counted along rows."""
    return torch.stack((pixel // width, pixel % width), dim=-1)
