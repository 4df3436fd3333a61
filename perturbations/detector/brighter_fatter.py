"""Charge that pushes later charge into the pixels around it."""

import torch

from perturbations.core import Observation, corruption
from perturbations.defects import every_visit, refuse_outside, wells
from perturbations.draws import Draws
from perturbations.psf import padded_size

REACH, SOFTENING = 8, 0.7  # pixels


@corruption(
    space="flux",
    parameter="fraction of its area that a pixel at full well has lost",
    unit="1",
    ladder=(0.02, 0.05, 0.1, 0.2, 0.5),
    identity=0.0,
    source="model of Coulton et al. 2018, AJ 155, 258; our choice: around LSST's sensors as GalSim 2.8 has them (a "
    "full star grows as at 0.06 on ITL's and at 0.13 on e2v's)",
    version=1,
)
def brighter_fatter(sky: Observation, lost: float, draws: Draws) -> Observation:
    """Let the charge that a pixel holds push its borders inwards, as in Antilogus et al. 2014, JINST 9, C03048.

    With q the charge of a visit, light and sky, and K the potential of a unit charge, q + div(q grad(K * q))/2 is
    measured: the field grows during the visit, hence the half. K falls off as that of a charge and its mirror image,
    (1 + (r / 0.7 pixel)^2)^(-3/2), our choice: each of the four neighbours gains 14 % of what a pixel loses. It is
    scaled so that a full pixel among empty ones has lost the fraction `lost` of its area in the mean over the visit.
    What leaves a pixel enters the next, so charge is conserved; none crosses the border of the stamp. Charge beyond the
    full well does not push.

    Mock LSST galaxies fill about 1 % of a well in one visit: on them every rung changes less than 0.01 sigma of sky.

    Parameters
    ----------
    sky : flux (N, C, H, W) in reference electrons per pixel, and its Exposure with full_well. Not modified.
    lost : 0 <= lost <= 1.
    draws : not used; nothing here is random.

    Returns
    -------
    Observation. The noise of the sky is smoothed a little, as real sensors do: its variance falls by 2 % of `lost` in
    LSST's i, in proportion to the charge of the sky, and the Exposure does not know.

    Raises
    ------
    InputError : a fraction outside [0, 1], or an exposure without a finite full_well.
    """
    refuse_outside("brighter_fatter", "lost", lost, 0.0, 1.0, "a pixel cannot lose more than its area")
    if lost == 0.0:
        return sky.replace(sky.flux.clone())
    exposure = sky.exposure
    at_full = wells(exposure, sky.flux, "brighter_fatter") * every_visit(exposure, sky.flux)
    level = exposure.pixels("sky", sky.flux)
    potential = _potential((torch.minimum(sky.flux, at_full - level) / at_full), lost)
    flux = sky.flux.clone()
    for axis in (2, 3):
        last = sky.flux.shape[axis] - 1
        before, after = sky.flux.narrow(axis, 0, last), sky.flux.narrow(axis, 1, last)
        flow = torch.diff(potential, dim=axis).mul_((before + after).mul_(0.5).add_(level)).mul_(0.5)
        flux.narrow(axis, 0, last).add_(flow)
        flux.narrow(axis, 1, last).sub_(flow)
    return sky.replace(flux)


def _potential(held: torch.Tensor, lost: float) -> torch.Tensor:
    """K convolved with the charge (N, C, H, W) in full wells above the sky, whose own potential is flat."""
    offset = torch.arange(-REACH, REACH + 1, dtype=held.dtype, device=held.device)
    kernel = (1.0 + (offset[:, None] ** 2 + offset**2) / SOFTENING**2) ** -1.5
    curvature = 4.0 * (1.0 - (1.0 + 1.0 / SOFTENING**2) ** -1.5)
    kernel = kernel * (2.0 * lost / curvature)
    height, width = held.shape[-2:]
    size = (padded_size(height, 2 * REACH), padded_size(width, 2 * REACH))
    transfer = torch.fft.rfft2(kernel, s=size)
    spread = torch.fft.irfft2(torch.fft.rfft2(held, s=size) * transfer, s=size)
    return spread[:, :, REACH : REACH + height, REACH : REACH + width]
