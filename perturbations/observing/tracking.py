"""A telescope that does not follow the sky: every star is a short trail."""

import math

import torch

from perturbations.core import Observation, corruption
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.optics import along, orientation, same_area
from perturbations.psf import Frequencies, through


@corruption(
    space="flux",
    parameter="drift during a visit",
    unit="arcsec",
    ladder=(0.3, 0.6, 1.0, 1.5, 2.5),
    identity=0.0,
    source="our choice: from a third of LSST's r-band seeing (0.81 arcsec) to three times that",
    version=1,
)
def tracking(
    sky: Observation, drift: float, draws: Draws, *, jitter: float = 0.0, angle: float | None = None
) -> Observation:
    """Let the light wander over the detector at a constant speed, by `drift` in all, and shake if asked to.

    Light is spread evenly along a line of length `drift` centred on where it belongs: second moments grow by drift^2/12
    along the line, and by (jitter x drift)^2 in all directions. All visits and bands of a galaxy drift alike. Noise is
    that of a fresh exposure.

    Parameters
    ----------
    sky : flux (N, C, H, W) in reference electrons per pixel, and its Exposure. Not modified.
    drift : >= 0 arcsec, at most 10.
    draws : this batch's random numbers, keyed by galaxy.
    jitter : standard deviation of a Gaussian shake in each direction, as a share of the drift, 0 to 1.
    angle : of the drift, from columns towards rows [degrees]. None: keyed by galaxy.

    Returns
    -------
    Observation whose exposure.psf_fwhm is that of a round PSF of the former shape with the new one's noise-equivalent
    area.

    Raises
    ------
    InputError : a drift outside [0, 10], a jitter outside [0, 1], an angle that is not finite, or masked pixels.
    """
    if not 0.0 <= drift <= 10.0:
        raise InputError(f"tracking: drift = {drift:g} arcsec", "0 <= drift <= 10", "give the length of the trail")
    if not 0.0 <= jitter <= 1.0:
        raise InputError(f"tracking: jitter = {jitter:g}", "0 <= jitter <= 1", "give it as a share of the drift")
    theta = orientation(draws, angle, 180.0)
    if drift == 0.0:
        return sky.replace(sky.flux.clone())

    def trail(component: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return torch.sinc(component * (drift / (2.0 * math.pi))) * torch.exp(-0.5 * (k * jitter * drift) ** 2)

    def kernel(at: Frequencies) -> torch.Tensor:
        return trail(along(at, theta).to(sky.flux.dtype), at.k.to(sky.flux.dtype))

    def power(k: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
        return trail(k[:, None] * angles.cos(), k[:, None])[None] ** 2

    flux = through(sky, kernel, draws)
    return sky.replace(flux, sky.exposure.replace(psf_fwhm=same_area(sky.exposure, power)))
