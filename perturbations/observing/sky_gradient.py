"""Scattered light across the image, of which the sky subtraction removed only the mean."""

import math

import torch

from perturbations.core import Observation, corruption
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.light import with_light


@corruption(
    space="flux",
    parameter="gradient across the stamp, peak to peak",
    unit="% of the sky",
    ladder=(0.2, 0.5, 1.0, 2.0, 4.0),
    identity=0.0,
    source="our choice: from the residual of a good flat field and sky subtraction to moonlight scattered off the "
    "telescope",
    version=1,
)
def sky_gradient(sky: Observation, percent: float, draws: Draws, *, same_in_all_bands: bool = True) -> Observation:
    """Leave a linear gradient of scattered light in the image, in a direction drawn for each galaxy.

    The scattered light falls from `percent` of the sky at one end of the stamp to nothing at the other. Its photons are
    counted, so it brings its own noise, once; its mean is subtracted with the sky, and the slope stays, from
    -percent/2 to +percent/2. The same percentage of every band's sky: more electrons where the sky is bright.

    Parameters
    ----------
    sky : flux (N, C, H, W) in reference electrons per pixel, and its Exposure. Not modified.
    percent : 0 <= percent <= 100, peak to peak, between the two farthest corners in that direction.
    draws : this batch's random numbers, keyed by galaxy.
    same_in_all_bands : one direction per galaxy; otherwise one per galaxy and band, as of bands from different nights.

    Returns
    -------
    Observation whose exposure.sky is brighter by percent/2.

    Raises
    ------
    InputError : a percentage outside [0, 100].
    """
    if not 0.0 <= percent <= 100.0:
        raise InputError(
            f"sky_gradient: percent = {percent:g}", "0 <= percent <= 100", "the direction is drawn, not the sign"
        )
    if percent == 0.0:
        return sky.replace(sky.flux.clone())
    bands = 1 if same_in_all_bands else len(sky.exposure.bands)
    angle = 2.0 * math.pi * draws.uniform("direction", (bands,)).double()
    brightest = sky.exposure.sky * (percent / 100.0)
    height = sky.exposure.replace(sky=brightest).pixels("sky", sky.flux)
    lit = with_light(sky, (_ramp(angle, sky.flux) + 0.5) * height, draws)
    return sky.replace(lit.flux.sub_(0.5 * height), sky.exposure.replace(sky=sky.exposure.sky + 0.5 * brightest))


def _ramp(angle: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A plane (N, C or 1, H, W) of mean 0 from -1/2 to 1/2 that rises towards `angle` (N, C or 1) from the columns."""
    rows, columns = like.shape[-2:]
    y, x = (torch.arange(n, device=like.device, dtype=like.dtype) - (n - 1) / 2.0 for n in (rows, columns))
    cos, sin = (turn[..., None, None].to(like) for turn in (angle.cos(), angle.sin()))
    extent = (cos.abs() * (columns - 1) + sin.abs() * (rows - 1)).clamp_min(1e-6)
    return ((cos / extent) * x + (sin / extent) * y[:, None]).clamp_(-0.5, 0.5)
