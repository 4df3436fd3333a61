"""Light that was not there before: it brings its own photon noise, once."""

from __future__ import annotations

import torch

from perturbations.core import Observation
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.exposure import Exposure


def with_light(sky: Observation, light: torch.Tensor, draws: Draws) -> Observation:
    """The same sky with more light in it.

    Photons of the light are counted with the rest, so variance light/f is added, and no sky noise.

    Parameters
    ----------
    sky : flux (N, C, H, W). Not modified.
    light : electrons of the reference exposure >= 0, broadcastable to the flux.
    draws : stream "photons" is taken.
    """
    spread = (light.clamp_min(0.0) / sky.exposure.pixels("fraction", sky.flux)).sqrt()
    return sky.replace((sky.flux + light).addcmul_(draws.normal("photons", sky.flux.shape[1:]), spread))


def brighter_sky(sky: Observation, brightening: torch.Tensor | float, draws: Draws) -> Observation:
    """The same under a sky that is brighter by a number of magnitudes, or one per galaxy (N, 1).

    The extra sky is subtracted with the rest of it; its photon noise stays: variance (sky' - sky)/f is added.

    Parameters
    ----------
    sky : flux (N, C, H, W). Not modified.
    brightening : >= 0 mag.
    draws : stream "noise" is taken.
    """
    factor = torch.pow(10.0, 0.4 * torch.as_tensor(brightening, dtype=torch.float64))
    brighter = sky.exposure.replace(sky=sky.exposure.sky * factor)
    extra = brighter.pixels("sky", sky.flux) - sky.exposure.pixels("sky", sky.flux)
    spread = (extra / sky.exposure.pixels("fraction", sky.flux)).sqrt()
    return sky.replace(torch.addcmul(sky.flux, draws.normal("noise", sky.flux.shape[1:]), spread), brighter)


def electrons(exposure: Exposure, magnitude: torch.Tensor | float, like: torch.Tensor) -> torch.Tensor:
    """Flux of a source of that AB magnitude in each band [reference electrons], (N or 1, C, 1, 1).

    Parameters
    ----------
    magnitude : a number, or one per galaxy (N,), the same in all bands.

    Raises
    ------
    InputError : the exposure has no zero-point.
    """
    if not bool(torch.isfinite(exposure.zeropoint).all()):
        raise InputError("the Exposure has no zeropoint", "an AB magnitude per band", "add zeropoint to the exposure")
    magnitude = torch.as_tensor(magnitude, dtype=torch.float64).reshape(-1, 1, 1, 1).to(like.device)
    zeropoint = exposure.pixels("zeropoint", like.double())
    return torch.pow(10.0, -0.4 * (magnitude - zeropoint)).to(like)
