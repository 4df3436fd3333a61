"""Two amplifiers that read the two sides of the stamp, with a residual step of the bias between them."""

import torch

from perturbations.core import Observation, corruption
from perturbations.defects import every_visit, refuse_outside
from perturbations.draws import Draws
from perturbations.errors import InputError


@corruption(
    space="flux",
    parameter="step of the bias level between two amplifiers",
    unit="e- per visit",
    ladder=(0.3, 1.0, 2.0, 5.0, 10.0),
    identity=0.0,
    source="our choice: from far below to about a read noise (LSST 8.8 electrons), where a visit's sky is about 700",
    version=1,
    whole=True,
)
def amplifier_step(sky: Observation, step: float, draws: Draws) -> Observation:
    """Put a step of the background between the two sides of a keyed column, in every visit.

    One side is higher by `step` electrons in each visit; which one, and where, is keyed in each band. Sky subtraction
    has taken out their mean, so one side is half a step too high and the other half a step too low. A step of the bias
    is no light and brings no noise, although the Exposure counts its flux like light (1.3 % of the variance, up on
    one side and down on the other, at the last rung in LSST's g). Nothing is masked.

    Parameters
    ----------
    sky : flux (N, C, H, W) in reference electrons per pixel, and its Exposure. Not modified. Columns run along H.
    step : >= 0 electrons in one visit.
    draws : this batch's random numbers, keyed by galaxy.

    Returns
    -------
    Observation.

    Raises
    ------
    InputError : a negative step.
    """
    refuse_outside("amplifier_step", "step", step, 0.0, 1e6, "which side is higher is drawn")
    if step == 0.0:
        return sky.replace(sky.flux.clone())
    bands, width = sky.flux.shape[1], sky.flux.shape[3]
    if width < 2:
        raise InputError("amplifier_step: images 1 pixel wide", "2 columns or more", "use larger cutouts")
    border = 1 + draws.integers("border", width - 1, (bands, 1, 1))
    rising = draws.integers("side", 2, (bands, 1, 1)) == 1
    right = torch.arange(width, device=sky.flux.device) >= border
    side = torch.where(right == rising, 0.5 * step, -0.5 * step).to(sky.flux)
    return sky.replace(sky.flux + side * every_visit(sky.exposure, sky.flux))
