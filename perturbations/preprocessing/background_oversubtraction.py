"""A background measured on too fine a mesh: it holds the galaxy's own light, and takes it away."""

import math

import torch

from perturbations.core import Unstretched, corruption
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.percentiles import ordered

SIGMAS, ROUNDS = 3.0, 5  # of the clipping, as in astropy.stats.sigma_clip


@corruption(
    space="stretch",
    parameter="side of the boxes in which the background is measured",
    unit="pixel",
    ladder=(64.0, 32.0, 20.0, 14.0, 10.0),
    identity=None,
    no_identity="a background measured on the image takes something away in boxes of any size",
    source="64: the default BACK_SIZE of SExtractor (Bertin & Arnouts 1996, A&AS 117, 393); finer is our choice. What "
    "it does to large galaxies of SDSS: Blanton et al. 2011, AJ 142, 31",
    version=1,
)
def background_oversubtraction(raw: Unstretched, side: float, draws: Draws) -> torch.Tensor:
    """Measure a background in boxes of about that side, galaxy and all, subtract it, and stretch.

    The background of a box is the median of its pixels after clipping at 3 sigma; between the centres of the boxes it
    is interpolated bilinearly, beyond the outermost it is constant. The boxes are equal, and an odd number of them
    covers rows and columns, so that one lies on the middle of the image at any strength; their side is `side` as nearly
    as that allows. It acts on the values that the network's stretch gets, the noise included: a pipeline's mistake, no
    change of the conditions, so blank sky is not a fresh exposure's afterwards.

    Parameters
    ----------
    raw : flux or display values (N, C, H, W), and the model's stretch. Not modified.
    side : >= 4 pixels.
    draws : not used; a background has no chance in it.

    Returns
    -------
    Images in input space, [0, 1].

    Raises
    ------
    InputError : a side below 4 pixels, whose boxes would follow the noise.
    """
    if not 4.0 <= side < math.inf:
        raise InputError(
            f"background_oversubtraction: side = {side:g} pixels",
            "a number of pixels >= 4",
            "choose larger boxes; smaller ones follow the noise",
        )
    return raw.stretch(raw.images - _background(raw.images, side))


def _background(images: torch.Tensor, side: float) -> torch.Tensor:
    """The background of each pixel, (N, C, H, W)."""
    height, width = images.shape[-2:]
    (top, tall), (left, wide) = _boxes(height, side), _boxes(width, side)
    rows, columns = (start[:, None] + torch.arange(length) for start, length in ((top, tall), (left, wide)))
    places = (rows[:, None, :, None] * width + columns[None, :, None, :]).flatten(2).to(images.device)
    mesh = _clipped_median(images.flatten(2)[:, :, places])
    down, across = _weights(top + (tall - 1) / 2.0, height), _weights(left + (wide - 1) / 2.0, width)
    return down.to(images) @ mesh @ across.T.to(images)


def _boxes(size: int, side: float) -> tuple[torch.Tensor, int]:
    """First pixels and length of equal boxes, an odd number, that cover `size`; they overlap by a pixel at most."""
    number = 2 * round((max(size, side) / side - 1.0) / 2.0) + 1
    length = math.ceil(size / number)
    return (torch.arange(number) * (size - length) / max(1, number - 1)).round().long(), length


def _weights(centres: torch.Tensor, size: int) -> torch.Tensor:
    """Linear interpolation from values at `centres` to each pixel, constant beyond them: (size, boxes)."""
    if len(centres) == 1:
        return torch.ones(size, 1)
    pixel = torch.arange(size)
    place = pixel.clamp(centres[0], centres[-1])
    above = torch.searchsorted(centres, place).clamp_min(1)
    share = (place - centres[above - 1]) / (centres[above] - centres[above - 1])
    weights = torch.zeros(size, len(centres))
    weights[pixel, above - 1], weights[pixel, above] = 1.0 - share, share
    return weights


def _clipped_median(boxes: torch.Tensor) -> torch.Tensor:
    """Median over the last axis without what lies beyond 3 standard deviations from it, rejected in rounds.

    What is left of sorted values is a range of them, and sums over ranges are differences of running sums.
    """
    values = ordered(boxes)
    count = values.shape[-1]
    centre = values[..., count // 2 : count // 2 + 1].clone()
    values -= centre
    sums, squares = values.cumsum(dim=-1), values.square().cumsum(dim=-1)
    first, last = torch.zeros_like(centre, dtype=torch.int64), torch.full_like(centre, count - 1, dtype=torch.int64)
    for _ in range(ROUNDS):
        lowest, n = values.gather(-1, first), last - first + 1
        mean = (sums.gather(-1, last) - sums.gather(-1, first) + lowest) / n
        square = (squares.gather(-1, last) - squares.gather(-1, first) + lowest.square()) / n
        reach = SIGMAS * (square - mean.square()).clamp_min(0.0).sqrt()
        median = _median(values, first, last)
        first = torch.maximum(first, torch.searchsorted(values, median - reach))
        last = torch.minimum(last, torch.searchsorted(values, median + reach, right=True) - 1)
    return (_median(values, first, last) + centre).squeeze(-1)


def _median(values: torch.Tensor, first: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    return (values.gather(-1, (first + last) // 2) + values.gather(-1, (first + last + 1) // 2)) / 2.0
