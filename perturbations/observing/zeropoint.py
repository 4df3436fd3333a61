"""An error of the photometric calibration: every magnitude of a band off by the same amount."""

import torch

from perturbations.core import Observation, corruption
from perturbations.draws import Draws
from perturbations.errors import InputError


@corruption(
    space="flux",
    parameter="rms error of the zero-point",
    unit="mag",
    ladder=(0.01, 0.02, 0.05, 0.1, 0.2),
    identity=0.0,
    source="from the 1-2% of SDSS (Padmanabhan et al. 2008, ApJ 674, 1217); beyond 0.02 mag our choice, for thin cloud "
    "and for surveys calibrated apart",
    version=1,
    whole=True,
)
def zeropoint(sky: Observation, error: float, draws: Draws, *, same_in_all_bands: bool = False) -> Observation:
    """Calibrate each galaxy's bands with zero-points that are wrong by a normal error of rms `error`.

    All of the image, noise included, is multiplied by 10^(-0.4 dm): no photon is lost, but brightness and colours are
    wrong, which a stretch frozen in flux hands on to the network. dm = error x (a standard normal number that belongs
    to the galaxy and band), from a uniform one.

    Parameters
    ----------
    sky : flux (N, C, H, W) in reference electrons per pixel, and its Exposure. Not modified.
    error : 0 <= error <= 2 mag.
    draws : this batch's random numbers, keyed by galaxy.
    same_in_all_bands : one error per galaxy (grey: brightness changes, colours do not); otherwise one per band.

    Returns
    -------
    Observation whose exposure is `rescaled`: its zeropoint is the true one of the miscalibrated image.

    Raises
    ------
    InputError : an error outside [0, 2] mag.
    """
    if not 0.0 <= error <= 2.0:
        raise InputError(f"zeropoint: error = {error:g} mag", "0 <= error <= 2", "give the rms, without a sign")
    if error == 0.0:
        return sky.replace(sky.flux.clone())
    bands = len(sky.exposure.bands)
    uniform = draws.uniform("error", (1 if same_in_all_bands else bands,)).double() + 2.0**-25
    factor = torch.pow(10.0, -0.4 * error * torch.special.ndtri(uniform)).expand(-1, bands)
    return sky.replace(sky.flux * factor[:, :, None, None].to(sky.flux), sky.exposure.rescaled(factor.cpu()))
