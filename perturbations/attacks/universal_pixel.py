"""One pixel for a whole set of images: the same place and the same values in all of them, as a hot pixel has."""

from collections.abc import Mapping

import torch

from perturbations import goal, search
from perturbations.core import AttackResult, Victim, attack
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.universal_fit import by_id, judged, worth_fitting


def fit(
    x: torch.Tensor,
    labels: torch.Tensor,
    victim: Victim,
    pixels: float,
    draws: Draws,
    *,
    pop: int = 50,
    generations: int = 19,
) -> dict[str, torch.Tensor]:
    """Find the pixel that flips most of the images, and among equals does most harm in the mean.

    Differential evolution over (row, column, a value per band) as in `onepixel`, values from the ends of the box; each
    candidate is tried on every image that is classified right. It ends early where a candidate flips them all.

    Parameters
    ----------
    x : images (N, C, H, W) float32 in input space. Not modified.
    pixels : 1.
    draws : one galaxy id per image; the search has draws of its own, so that it does not depend on their order.
    pop, generations : candidates in a generation, at least 4, and generations after the first, at least 0.

    Returns
    -------
    position (2,) int64, row and column; value (C,) float32; queries () int64, forward passes over all images.

    Raises
    ------
    InputError : another number of pixels, or an option out of range.
    """
    _refuse(pixels)
    if pop < 4 or generations < 0:
        raise InputError(
            f"universal_pixel: pop = {pop}, generations = {generations}",
            "pop >= 4 and generations >= 0",
            "a child is made from three members other than its parent",
        )
    bands, height, width = x.shape[1:]
    wanted, queries = worth_fitting(x, labels, victim, by_id(draws)), len(x)
    low, high = victim.box
    low, high = low.expand_as(x).amax(dim=0), high.expand_as(x).amin(dim=0)  # what every image may hold
    size = torch.tensor((height, width), device=x.device)

    def express(genes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions (P, 2) and values (P, C) of genes (P, 2 + C)."""
        at = torch.minimum((genes[:, :2] * size).long(), size - 1)
        bottom, top = (edge[:, at[:, 0], at[:, 1]].T for edge in (low, high))
        return at, torch.lerp(bottom, top, genes[:, 2:].to(x.dtype)).clamp(bottom, top)

    def evaluate(_: torch.Tensor, genes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        at, value = (each[None, :, None].expand(len(wanted), -1, -1, -1) for each in express(genes[0]))
        logits = goal.pixel_logits(victim, x, wanted, at, value)
        true = labels[wanted][:, None].expand(logits.shape[:2])
        flips = goal.flipped(logits, true, None).double().mean(dim=0)
        harm = goal.harm(logits, true, None).double().mean(dim=0)
        # one image more outweighs any harm: that counts for less than half an image
        score = flips + harm / (1.0 + harm.abs()) / (3.0 * len(wanted))
        return score[None], (flips == 1.0)[None]

    own = Draws(["the whole set"], draws.seed, draws.purpose, draws.scope, draws.version, draws.device)
    population = own.uniform("population", (pop, 2 + bands)).double()
    extreme = torch.tensor([False, False] + [True] * bands, device=x.device)
    population = torch.where(extreme, population.round(), population)
    genes = population[:, 0]
    if len(wanted):
        found = search.evolve(evaluate, own, population, generations, clipped=extreme)
        genes, queries = found.genes, queries + int(found.queries) * len(wanted)
    at, value = express(genes)
    return {"position": at[0], "value": value[0], "queries": torch.tensor(queries)}


@attack(
    parameter="changed pixels",
    unit="pixel",
    ladder=(1,),
    norm="L0",
    access="logits",
    source="one pixel: Su et al. 2019, arXiv:1710.08864; for a whole set: Moosavi-Dezfooli et al. 2017, "
    "arXiv:1610.08401",
    version=1,
    scope="set",
    fit=fit,
    most_queries=lambda options: 1,
)
def universal_pixel(
    x: torch.Tensor,
    labels: torch.Tensor,
    victim: Victim,
    pixels: float,
    draws: Draws,
    *,
    fitted: Mapping[str, torch.Tensor] | None,
) -> AttackResult:
    """Write the same values, one per band, into the same pixel of every image.

    Parameters
    ----------
    x : images (N, C, H, W) float32 in input space. Not modified.
    labels : (N,) int64, the true classes.
    pixels : 1, or 0 for the clean images.
    draws : not used; those of the fit drive its search.
    fitted : position (2,), row and column, and value (C,); None only for 0 pixels. The options are those of the fit:
        `pop` candidates in each of `generations` generations after the first.

    Returns
    -------
    AttackResult; success is a wrong class, whether or not it was right before. Queries: 1. Details: rows, columns
    (N, 1) int64 and values (N, 1, C) float32 of the pixel written.

    Raises
    ------
    InputError : a strength other than 0 and 1, or images too small to have the pixel, or of other bands.
    """
    if pixels == 0 or fitted is None:
        return judged(x.clone(), labels, victim, asked=False)
    _refuse(pixels)
    position, value = fitted["position"].to(x.device), fitted["value"].to(x)
    if value.shape != x.shape[1:2] or bool((position >= torch.tensor(x.shape[2:], device=x.device)).any()):
        raise InputError(
            f"a pixel at {position.tolist()} in {len(value)} bands for images {tuple(x.shape[1:])}",
            "images like those it was fitted to",
            "fit it anew",
        )
    low, high = (edge.expand_as(x)[:, :, position[0], position[1]] for edge in victim.box)
    at, values = position.expand(len(x), 1, 2), value.expand(len(x), -1).clamp(low, high)[:, None]
    result = judged(goal.with_pixels(x, at, values), labels, victim)
    details = {"rows": at[..., 0].clone(), "columns": at[..., 1].clone(), "values": values}
    return AttackResult(result.images, result.success, result.queries, details)


def _refuse(pixels: float) -> None:
    if pixels != 1:
        raise InputError(f"universal_pixel: {pixels:g} pixels", "0 or 1", "give strength 1; 0 returns the clean images")
