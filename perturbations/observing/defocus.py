"""A telescope out of focus."""

import math

from perturbations.core import Observation, corruption
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.optics import ARCSEC, aberrated, telescope, wavelengths


@corruption(
    space="flux",
    parameter="wavefront error, RMS",
    unit="nm",
    ladder=(250.0, 500.0, 1000.0, 1500.0, 2000.0),
    identity=0.0,
    source="our choice: rings 0.27 to 2.2 arcsec across for LSST, a third to nearly three times its r-band seeing",
    version=1,
)
def defocus(
    sky: Observation,
    error: float,
    draws: Draws,
    *,
    diameter: float | None = None,
    obscuration: float | None = None,
    wavelength: float | None = None,
) -> Observation:
    """Put a wavefront error of the defocus term, with `error` nm RMS over the pupil, on top of the present PSF.

    The term is the annular Zernike polynomial sqrt(3) (2 r^2 - 1 - e^2)/(1 - e^2) (Mahajan 1981, JOSA 71, 75), e the
    obscuration. A star becomes the shadow of the pupil, a ring with an outer diameter of 1.1 arcsec per 1000 nm for
    LSST, convolved with the seeing; the size hardly depends on the wavelength. Noise is that of a fresh exposure.

    Parameters
    ----------
    sky : flux (N, C, H, W) in reference electrons per pixel, and its Exposure. Not modified.
    error : >= 0 nm.
    draws : this batch's random numbers, keyed by galaxy.
    diameter, obscuration : of the telescope [m; part of the diameter]. None: the survey's, or LSST's.
    wavelength : of all bands [nm]. None: the survey's effective wavelengths, or LSST's for bands of that name.

    Returns
    -------
    Observation whose exposure.psf_fwhm is that of a PSF of the former shape with the new one's noise-equivalent area.

    Raises
    ------
    InputError : a negative error, one that blurs over a radius of more than 5 arcsec or 25 pixels, an impossible
        telescope, a band of unknown wavelength, or masked pixels.
    """
    if not 0.0 <= error < float("inf"):
        raise InputError(
            f"defocus: error = {error:g} nm", "error >= 0", "the sign of defocus does not show: give |error|"
        )
    pupil, nanometres = telescope(sky.exposure, diameter, obscuration), wavelengths(sky.exposure, wavelength)
    if error == 0.0:
        return sky.replace(sky.flux.clone())
    slope = 4.0 * math.sqrt(3.0) / (1.0 - pupil.obscuration**2) * error * 1e-9 / pupil.radius
    blur = slope / ARCSEC
    return aberrated(sky, (blur, blur), None, pupil, nanometres, draws)
