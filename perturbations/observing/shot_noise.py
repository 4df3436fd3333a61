"""Fewer photons in every exposure: a dusty mirror, an aged coating, a detector that misses more of them."""

from perturbations.core import Observation, corruption
from perturbations.draws import Draws
from perturbations.errors import InputError

FEWEST = 1e-6  # of the photons


@corruption(
    space="flux",
    parameter="fraction of the photons detected",
    unit="1",
    ladder=(0.9, 0.7, 0.5, 0.3, 0.1),
    identity=1.0,
    source="our choice: from an aluminium mirror between two coatings to a tenth, the worst that still is an image",
    version=1,
)
def shot_noise(sky: Observation, detected: float, draws: Draws) -> Observation:
    """Observe through an instrument that detects a fraction `detected` of the photons, of source and sky alike.

    Each visit collects fewer photons and is read out as noisily as before. Rescaled to the reference exposure, photon
    variance grows by 1/t and read-out variance by 1/t^2, where a shallower coadd (`depth`), read less often, has 1/k
    for both. Only the missing variance is added.

    Parameters
    ----------
    sky : flux (N, C, H, W) in reference electrons per pixel, and its Exposure. Not modified.
    detected : 1e-6 <= t <= 1.
    draws : this batch's random numbers, keyed by galaxy.

    Returns
    -------
    Observation whose exposure.fraction is t times the former one, and whose reference exposure, which collects as many
    photons as before, takes 1/t times as many visits: as many frames were observed as before, with a t-th of the sky
    in each.

    Raises
    ------
    InputError : `detected` outside [1e-6, 1]; photons cannot be found again.
    """
    if not FEWEST <= detected <= 1.0:
        raise InputError(
            f"shot_noise: detected = {detected:g}", f"{FEWEST:g} <= detected <= 1", "photons cannot be found again"
        )
    if detected == 1.0:
        return sky.replace(sky.flux.clone())
    now = sky.exposure
    then = now.replace(fraction=now.fraction * detected, visits=now.visits / detected)
    missing = then.variance(sky.flux).sub_(now.variance(sky.flux)).clamp_min_(0.0)
    return sky.replace(draws.normal("noise", sky.flux.shape[1:]).mul_(missing.sqrt_()).add_(sky.flux), then)
