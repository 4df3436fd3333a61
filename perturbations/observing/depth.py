"""A shallower image of the same sky."""

import torch

from perturbations.core import Observation, corruption
from perturbations.draws import Draws
from perturbations.errors import InputError

FAINTEST = 1e-6  # of the exposure


@corruption(
    space="flux",
    parameter="fraction of the exposure kept",
    unit="1",
    ladder=(0.8, 0.6, 0.4, 0.2, 0.1),
    identity=1.0,
    source="Ciprijanovic et al. 2022, arXiv:2112.14299 (Y10 and Y1 mocks)",
    version=1,
)
def depth(sky: Observation, kept: float, draws: Draws) -> Observation:
    """Degrade a coadd to what a fraction `kept` of its exposure would have given.

    Keeping a fraction k of the photons and rescaling leaves the mean flux alone and multiplies the photon variance by
    1/k. The image already carries its own noise, so only the missing (1/k - 1) of it is added.

    Parameters
    ----------
    sky : flux (N, C, H, W) in reference electrons per pixel, and its Exposure. Not modified.
    kept : 1e-6 <= kept <= 1.
    draws : this batch's random numbers, keyed by galaxy.

    Returns
    -------
    Observation whose exposure.fraction is `kept` times the former one.

    Raises
    ------
    InputError : `kept` outside [1e-6, 1]; depth cannot be added.
    """
    if not FAINTEST <= kept <= 1.0:
        raise InputError(f"depth: kept = {kept:g}", f"{FAINTEST:g} <= kept <= 1", "depth cannot be added to an image")
    missing = sky.exposure.variance(sky.flux).mul_(1.0 / kept - 1.0)
    flux = torch.addcmul(sky.flux, draws.normal("noise", sky.flux.shape[1:]), missing.sqrt_())
    return sky.replace(flux, sky.exposure.replace(fraction=sky.exposure.fraction * kept))
