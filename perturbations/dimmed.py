"""Light that arrives fainter, under the same sky: what dust, and distance, do to a source."""

from __future__ import annotations

import torch

from perturbations.core import Observation
from perturbations.draws import Draws
from perturbations.psf import undamaged


def dimmed(sky: Observation, kept: torch.Tensor, draws: Draws) -> Observation:
    """Dim what is above the sky, with the noise of a fresh exposure of the fainter light.

    Multiplying the image by a < 1 multiplies all of its variance by a^2. A fresh exposure would have
    (a F + sky)/f for photons and the whole read noise: the difference is put back, so blank sky is as noisy as before.

    Parameters
    ----------
    sky : flux (N, C, H, W) in reference electrons per pixel, and its Exposure. Not modified.
    kept : 0 < a <= 1 per band (C,) or per galaxy and band (N, C).
    draws : stream "noise" is taken.

    Raises
    ------
    InputError : masked pixels: dust dims no charge of a detector.
    """
    undamaged(sky)
    a = (kept if kept.ndim == 2 else kept[None])[:, :, None, None].to(sky.flux)
    flux, exposure = sky.flux * a, sky.exposure
    level, fraction = exposure.pixels("sky", flux), exposure.pixels("fraction", flux)
    read = exposure.pixels("visits", flux) * exposure.pixels("read_noise", flux) ** 2
    before, missing = (sky.flux + level).clamp_min_(0.0), (flux + level).clamp_min_(0.0)
    missing.addcmul_(before, a * a, value=-1.0).add_(read * (1.0 - a * a)).div_(fraction).clamp_min_(0.0).sqrt_()
    return sky.replace(flux.addcmul_(draws.normal("noise", sky.flux.shape[1:]), missing))
