"""A noisier read-out of every visit: warm or failing electronics."""

from perturbations.core import Observation, corruption
from perturbations.draws import Draws
from perturbations.errors import InputError


@corruption(
    space="flux",
    parameter="read noise added to every visit, in quadrature",
    unit="e-",
    ladder=(5.0, 10.0, 20.0, 35.0, 50.0),
    identity=0.0,
    source="our choice: from about half of LSST's 8.8 e- (SMTN-002) to six times as much; LSST's r-band sky of a "
    "visit has 27 e-",
    version=1,
)
def read_noise(sky: Observation, added: float, draws: Draws) -> Observation:
    """Read every visit with `added` electrons more of read noise, in quadrature.

    f x visits frames were read and their sum scaled by 1/f: variance visits x added^2 / f is added, the same in bright
    and in dark pixels. It hurts where a visit has little sky: in blue bands and many short exposures.

    Parameters
    ----------
    sky : flux (N, C, H, W) in reference electrons per pixel, and its Exposure. Not modified.
    added : 0 <= added < 1e6 electrons per pixel and visit.
    draws : this batch's random numbers, keyed by galaxy.

    Returns
    -------
    Observation whose exposure.read_noise is sqrt(read_noise^2 + added^2).

    Raises
    ------
    InputError : a negative noise; noise cannot be taken out of an image.
    """
    if not 0.0 <= added < 1e6:
        raise InputError(
            f"read_noise: added = {added:g} e-", "0 <= added < 1e6", "noise cannot be taken out of an image"
        )
    if added == 0.0:
        return sky.replace(sky.flux.clone())
    now = sky.exposure
    spread = added * (now.pixels("visits", sky.flux) / now.pixels("fraction", sky.flux)).sqrt()
    noisier = now.replace(read_noise=(now.read_noise**2 + added**2).sqrt())
    return sky.replace(draws.normal("noise", sky.flux.shape[1:]).mul_(spread).add_(sky.flux), noisier)
