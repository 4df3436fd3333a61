"""A telescope whose mirrors are bent: stars are ellipses, lines or crosses."""

import math

from perturbations.core import Observation, corruption
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.optics import ARCSEC, aberrated, orientation, telescope, wavelengths


@corruption(
    space="flux",
    parameter="wavefront error, RMS",
    unit="nm",
    ladder=(400.0, 800.0, 1200.0, 2000.0, 3000.0),
    identity=0.0,
    source="our choice: blur 0.23 to 1.75 arcsec long for LSST, a third of that wide, against 0.81 arcsec of seeing",
    version=1,
)
def astigmatism(
    sky: Observation,
    error: float,
    draws: Draws,
    *,
    focus: float = 0.5,
    angle: float | None = None,
    diameter: float | None = None,
    obscuration: float | None = None,
    wavelength: float | None = None,
) -> Observation:
    """Put a wavefront error of the astigmatism term, with `error` nm RMS over the pupil, on top of the present PSF.

    The term is the annular Zernike polynomial sqrt(6) r^2 cos(2 phi)/sqrt(1 + e^2 + e^4) (Mahajan 1981, JOSA 71, 75), e
    the obscuration. In best focus it makes a cross, with no net ellipticity; between there and the line foci, ellipses.
    Rays from the edge of the pupil land on an ellipse with semi-axes in the ratio 1 + focus to |1 - focus|, convolved
    with the seeing. Noise is that of a fresh exposure.

    Parameters
    ----------
    sky : flux (N, C, H, W) in reference electrons per pixel, and its Exposure. Not modified.
    error : >= 0 nm of astigmatism; the defocus that belongs to `focus` comes on top.
    draws : this batch's random numbers, keyed by galaxy.
    focus : where the detector is, in -1..1: at best focus (0), or on the way to a line focus (1 and -1).
    angle : of the long axis for focus > 0, from columns towards rows [degrees]. None: keyed by galaxy.
    diameter, obscuration : of the telescope [m; part of the diameter]. None: the survey's, or LSST's.
    wavelength : of all bands [nm]. None: the survey's effective wavelengths, or LSST's for bands of that name.

    Returns
    -------
    Observation whose exposure.psf_fwhm is that of a round PSF of the former shape with the new one's noise-equivalent
    area.

    Raises
    ------
    InputError : a negative error, one that blurs over a radius of more than 5 arcsec or 25 pixels, a focus outside
        [-1, 1], an impossible telescope or angle, a band of unknown wavelength, or masked pixels.
    """
    if not 0.0 <= error < float("inf"):
        raise InputError(f"astigmatism: error = {error:g} nm", "error >= 0", "turn `angle` by 90 degrees instead")
    if not -1.0 <= focus <= 1.0:
        raise InputError(f"astigmatism: focus = {focus:g}", "-1 <= focus <= 1", "add defocus to go beyond a line focus")
    pupil, nanometres = telescope(sky.exposure, diameter, obscuration), wavelengths(sky.exposure, wavelength)
    theta = orientation(draws, angle, 180.0)
    if error == 0.0:
        return sky.replace(sky.flux.clone())
    norm = math.sqrt(6.0 / (1.0 + pupil.obscuration**2 + pupil.obscuration**4))
    blur = 2.0 * norm * error * 1e-9 / pupil.radius / ARCSEC
    return aberrated(sky, (blur * (focus + 1.0), blur * (focus - 1.0)), theta, pupil, nanometres, draws)
