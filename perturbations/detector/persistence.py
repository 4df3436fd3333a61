"""The afterimage of a bright star that an earlier visit saw in the same pixels."""

from perturbations.core import Observation, corruption
from perturbations.defects import one_visit, refuse_outside, refuse_survivors, star
from perturbations.draws import Draws
from perturbations.light import with_light


@corruption(
    space="flux",
    parameter="fraction of the charge that is released in a later visit",
    unit="1",
    ladder=(3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    identity=0.0,
    source="our choice: 30 to 3000 electrons after a full well of 100,000, with the sky of a visit at about 700",
    version=1,
    whole=True,
)
def persistence(
    sky: Observation, released: float, draws: Draws, *, magnitude: float = 12.0, surviving_fraction: float = 1.0
) -> Observation:
    """Add what pixels release that a star filled in an earlier visit.

    The star's image, through the exposure's PSF and cut off at the full well, was trapped; a fraction of it comes out
    in one later visit, at a keyed place in each band. Released charge is counted like light and brings its own noise.
    Pipelines do not usually know of it, so nothing is masked.

    Parameters
    ----------
    sky : flux (N, C, H, W) in reference electrons per pixel, and its Exposure with full_well, psf_fwhm and zeropoint.
        Not modified.
    released : 0 <= released <= 1.
    draws : this batch's random numbers, keyed by galaxy.
    magnitude : AB magnitude of the star in every band.
    surviving_fraction : of the released charge that outlier rejection among the visits leaves.

    Returns
    -------
    Observation.

    Raises
    ------
    InputError : a fraction outside [0, 1], or an exposure that lacks full_well, psf_fwhm or zeropoint.
    """
    refuse_outside("persistence", "released", released, 0.0, 1.0, "give the part of the full well")
    refuse_survivors("persistence", surviving_fraction)
    if released == 0.0:
        return sky.replace(sky.flux.clone())
    place = draws.uniform("place", (sky.flux.shape[1], 2))
    scale = one_visit(sky.exposure, sky.flux) * (released * surviving_fraction)
    return with_light(sky, star(sky.exposure, place, magnitude, sky.flux, "persistence").mul_(scale), draws)
