"""A detector that counts less the more it holds."""

from perturbations.core import Observation, corruption
from perturbations.defects import every_visit, refuse_outside, wells
from perturbations.draws import Draws


@corruption(
    space="flux",
    parameter="fraction of the charge not counted at full well",
    unit="1",
    ladder=(0.005, 0.01, 0.02, 0.05, 0.1),
    identity=0.0,
    source="our choice: from a residual after correction to a detector of which nothing was corrected",
    version=1,
)
def nonlinearity(sky: Observation, alpha: float, draws: Draws) -> Observation:
    """Measure q (1 - alpha q / full_well) where a pixel collected the charge q in a visit.

    The charge is light and sky; the sky that is subtracted is the measured one. With x = full_well x visits, flux F
    becomes F - alpha F (F + 2 sky)/x. Faint light and noise are scaled by 1 - 2 alpha sky/x, which the returned
    Exposure knows; bright cores lose more.

    Mock LSST galaxies fill about 1 % of a well in one visit: on them every rung changes less than 0.01 sigma of sky.

    Parameters
    ----------
    sky : flux (N, C, H, W) in reference electrons per pixel, and its Exposure with full_well. Not modified.
    alpha : 0 <= alpha <= 0.4; from 0.5 on a brighter pixel would read less.
    draws : not used; nothing here is random.

    Returns
    -------
    Observation whose exposure is rescaled by 1 - 2 alpha sky/x.

    Raises
    ------
    InputError : alpha outside [0, 0.4], or an exposure without a finite full_well.
    """
    refuse_outside("nonlinearity", "alpha", alpha, 0.0, 0.4, "give the fraction that is lost at full well")
    if alpha == 0.0:
        return sky.replace(sky.flux.clone())
    at_full = wells(sky.exposure, sky.flux, "nonlinearity") * every_visit(sky.exposure, sky.flux)
    level = sky.exposure.pixels("sky", sky.flux)
    charge = sky.flux + level
    # beyond the full well, where no charge can be, the loss stays that of the full well
    uncounted = (charge * (alpha / at_full)).clamp_max_(alpha).mul_(charge).sub_(alpha * level**2 / at_full)
    faint = 1.0 - 2.0 * alpha * (level.double() / at_full.double())[:, :, 0, 0].cpu()
    return sky.replace(sky.flux - uncounted, sky.exposure.rescaled(faint))
