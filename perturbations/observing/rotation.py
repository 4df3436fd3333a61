"""The same image turned, as if the camera were: no class of galaxies depends on that."""

import math

import scipy.fft
import torch

from perturbations.core import corruption
from perturbations.draws import Draws
from perturbations.errors import InputError, unknown_name

MARGIN = 16  # pixels between what is seen and where the periodic images of the Fourier shears meet
DIRECTIONS = ("either", "counterclockwise", "clockwise")


@corruption(
    space="input",
    parameter="angle",
    unit="degree",
    ladder=(5.0, 15.0, 30.0, 45.0, 90.0),
    identity=0.0,
    source="our choice: from an imperfect north to the quarter turn; galaxies have no preferred direction",
    version=1,
)
def rotation(x: torch.Tensor, angle: float, draws: Draws, *, direction: str = "either") -> torch.Tensor:
    """Turn the image about its centre, and clip to [0, 1].

    The nearest whole quarter turn is exact; the rest, at most 45 degrees, is three shears along rows, columns and rows
    by Fourier shifts (Unser, Thevenaz & Yaroslavsky 1995, IEEE Trans. Image Process. 4, 1371). Each moves lines without
    smoothing them, so white noise stays white. What lies beyond the border is the image mirrored. An image that is not
    square keeps its shape.

    Parameters
    ----------
    x : images (N, C, H, W) float32 in [0, 1]. Not modified.
    angle : 0 to 180 degrees.
    draws : this batch's random numbers, keyed by galaxy.
    direction : "counterclockwise" (as numpy.rot90, with the first row on top), "clockwise", or "either": keyed by
        galaxy.

    Raises
    ------
    InputError : an angle outside [0, 180], or another direction.
    """
    if not 0.0 <= angle <= 180.0:
        raise InputError(f"rotation: angle = {angle:g} degrees", "0 <= angle <= 180", "choose a direction instead")
    if direction not in DIRECTIONS:
        raise unknown_name("direction", direction, DIRECTIONS)
    if angle == 0.0:
        return x.clone()
    clockwise = draws.integers("direction", 2) == 1
    if direction != "either":
        clockwise = torch.full_like(clockwise, direction == "clockwise")
    clockwise = clockwise.to(x.device)[:, None, None, None]
    turned = _turned(torch.where(clockwise, x.flip(-1), x), angle)
    return torch.where(clockwise, turned.flip(-1), turned).clamp_(0.0, 1.0)


def _turned(x: torch.Tensor, angle: float) -> torch.Tensor:
    """Counterclockwise: with (X, Y) the columns and rows from the centre, what is seen at (X, Y) comes from
    (X cos - Y sin, X sin + Y cos).
    """
    height, width = x.shape[-2:]
    quarters = round(angle / 90.0)
    rest = math.radians(angle - 90.0 * quarters)
    if rest == 0.0 and (quarters % 2 == 0 or (height - width) % 2 == 0):
        return _quarter_turned(x, quarters, _centred(height, height), _centred(width, width))
    slant, slope = -math.tan(rest / 2.0), math.sin(rest)
    needed = max(
        width + abs(slant) * height,
        *(abs(math.cos(rest)) * a + abs(slope) * b for a, b in ((width, height), (height, width))),
    )
    size = math.ceil(needed) + 2 * MARGIN
    while size % 2 == 0 or scipy.fft.next_fast_len(size, real=True) != size:  # an even length would lose its Nyquist
        size += 1
    rows, columns = (_centred(size, n) for n in ((height, width) if quarters % 2 == 0 else (width, height)))
    middle, seen_rows, seen_columns = _centred(size, width), _centred(height, height), _centred(width, width)
    mean = x.mean(dim=(-2, -1), keepdim=True)
    field = _quarter_turned(x, quarters, rows, columns).sub_(mean)
    field.mul_(_faded(rows, needed)[:, None].to(x)).mul_(_faded(columns, needed).to(x))
    field = _shifted(field, slant * rows + middle[0] - columns[0], size)
    field = _shifted(field.mT, slope * middle + seen_rows[0] - rows[0], height).mT
    return _shifted(field, slant * seen_rows + seen_columns[0] - middle[0], width) + mean


def _faded(offset: torch.Tensor, needed: float) -> torch.Tensor:
    """1 where offsets are needed, falling to 0 where periodic images meet, so that these leave no jump to ring."""
    beyond = (offset.abs() - needed / 2.0).clamp(0.0, MARGIN) / MARGIN
    return 0.5 + 0.5 * torch.cos(math.pi * beyond)


def _centred(count: int, of: int) -> torch.Tensor:
    """`count` offsets from the centre of a line of `of` pixels, at its pixels or where they would be; float64."""
    return torch.arange(count, dtype=torch.float64) - (count - 1 - (count - of) % 2) / 2.0


def _quarter_turned(x: torch.Tensor, quarters: int, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Pixels at (rows, columns) from the centre after 0, 1 or 2 quarter turns; mirrored beyond the border."""
    height, width = x.shape[-2:]
    rows, columns = rows[:, None], columns[None, :]
    down, right = {0: (rows, columns), 1: (columns, -rows), 2: (-rows, -columns)}[quarters]
    return x[:, :, _mirrored(down, height).to(x.device), _mirrored(right, width).to(x.device)]


def _mirrored(offset: torch.Tensor, size: int) -> torch.Tensor:
    """Indices of pixels at offsets from the centre of a line of `size`, continued by its mirror image."""
    period = max(2 * size - 2, 1)
    index = (offset + (size - 1) / 2.0).round().long() % period
    return torch.minimum(index, period - index)


def _shifted(lines: torch.Tensor, by: torch.Tensor, keep: int) -> torch.Tensor:
    """The first `keep` values of periodic lines (..., rows, size), each read `by` (rows,) pixels further on."""
    size = lines.shape[-1]
    k = 2.0 * math.pi * torch.fft.rfftfreq(size, dtype=torch.float64)
    turn = k * by[:, None]
    phase = torch.polar(torch.ones_like(turn), turn).to(lines.device, torch.complex64)
    return torch.fft.irfft(torch.fft.rfft(lines).mul_(phase), n=size)[..., :keep]
