"""A wrong sky level: a background that the pipeline subtracted too little of, or too much."""

from perturbations.core import Observation, corruption
from perturbations.draws import Draws
from perturbations.errors import InputError


@corruption(
    space="flux",
    parameter="error of the subtracted sky level",
    unit="% of the sky",
    ladder=(0.1, 0.2, 0.5, 1.0, 2.0),
    identity=0.0,
    source="our choice around the per-cent errors that sky subtraction makes near bright galaxies (the problem treated "
    "by Blanton et al. 2011, AJ 142, 31)",
    version=1,
    whole=True,
)
def background_offset(sky: Observation, percent: float, draws: Draws, *, oversubtracted: bool = False) -> Observation:
    """Leave a constant part of the sky in the image, or take as much too much out of it.

    No photon comes or goes, so no noise does: those of the sky are in the image's noise already. What changes is how
    many of them count as flux, and how many as the sky that was subtracted: flux + sky stays what it was.

    Parameters
    ----------
    sky : flux (N, C, H, W) in reference electrons per pixel, and its Exposure. Not modified.
    percent : 0 <= percent <= 100 of the sky in each band.
    draws : not used; nothing here is random.
    oversubtracted : too much was subtracted, and blank sky is negative; otherwise too little.

    Returns
    -------
    Observation whose exposure.sky is the level that was subtracted, so that its `variance` is unchanged.

    Raises
    ------
    InputError : a percentage outside [0, 100]; the sign is the option `oversubtracted`.
    """
    if not 0.0 <= percent <= 100.0:
        raise InputError(
            f"background_offset: percent = {percent:g}",
            "0 <= percent <= 100",
            "for a negative background set oversubtracted",
        )
    if percent == 0.0:
        return sky.replace(sky.flux.clone())
    left = sky.exposure.sky * (-percent if oversubtracted else percent) / 100.0
    added = sky.exposure.replace(sky=left.abs()).pixels("sky", sky.flux)
    flux = sky.flux - added if oversubtracted else sky.flux + added
    return sky.replace(flux, sky.exposure.replace(sky=(sky.exposure.sky - left).clamp_min(0.0)))
