"""A broader point-spread function: worse seeing."""

from perturbations.core import Observation, corruption
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.psf import broadened


@corruption(
    space="flux",
    parameter="extra seeing FWHM, in quadrature",
    unit="arcsec",
    ladder=(0.2, 0.4, 0.6, 0.8, 1.0),
    identity=0.0,
    source="from LSST r's 0.81 arcsec (surveycodex 1.3) to 0.83, 0.90, 1.01, 1.14 and 1.29 arcsec",
    version=2,
)
def seeing(sky: Observation, extra: float, draws: Draws) -> Observation:
    """Observe through a PSF of the same shape whose FWHM is sqrt(FWHM^2 + extra^2).

    The light is convolved with the kernel K that turns the present PSF into the broader one exactly (the ratio of their
    transfer functions). That also smooths the noise, which a real exposure would not: noise of power
    sigma^2 (1 - |K|^2) is put back, so that blank sky keeps the variance and the independence of a fresh exposure.
    The stamp is continued by blank sky with its noise, so light that reaches the border loses what a real exposure
    would bring in from outside.

    Parameters
    ----------
    sky : flux (N, C, H, W) in reference electrons per pixel, and its Exposure with psf_fwhm. Not modified.
    extra : 0 to 100 arcsec.
    draws : this batch's random numbers, keyed by galaxy.

    Returns
    -------
    Observation whose exposure.psf_fwhm is the broader one.

    Raises
    ------
    InputError : a width out of range, or an exposure whose PSF is unknown.
    """
    if not 0.0 <= extra <= 100.0:
        raise InputError(
            f"seeing: extra = {extra:g} arcsec", "0 <= extra <= 100", "an image cannot be sharpened by seeing"
        )
    if extra == 0.0:
        return sky.replace(sky.flux.clone())
    return broadened(sky, (sky.exposure.psf_fwhm**2 + extra**2).sqrt(), draws)
