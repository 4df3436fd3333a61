"""Noise-free light, observed: the survey's seeing, its photons and its read-out.

Light is kept behind a Gaussian PSF narrower than any seeing on the ground. Replacing that PSF by the survey's is one
division of transfer functions, so that one drawing serves every seeing and every depth.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from perturbations.core import Observation
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.exposure import Exposure
from perturbations.psf import frequencies, transfer
from robustastro.data.mock_light import WORKING_FWHM

SHARPEST = 2.0  # FWHM [pixels] below which the working PSF is no longer narrow beside the seeing
MARGIN = 30  # pixels of mirrored light around the image, so that nothing wraps around


def observe(light: torch.Tensor, exposure: Exposure, draws: Draws) -> Observation:
    """Observe noise-free light with an exposure: its seeing, photon noise and read-out.

    Electrons are counted as the camera does, Poisson with mean f (flux + sky) plus normal read noise of f x visits
    frames, and brought back to the reference exposure: sky subtracted, divided by f. The random numbers do not depend
    on f or on the seeing, so that observations of one galaxy at several depths are paired.

    Parameters
    ----------
    light : (N, C, H, W) float32 electrons per pixel of the reference exposure, behind the working PSF.
    exposure : with a known PSF.
    draws : of these galaxies, purpose "simulate".

    Returns
    -------
    Observation, flux float32 (N, C, H, W).

    Raises
    ------
    InputError : a seeing too sharp for the light that is kept, or unknown.
    """
    with _one_thread():
        flux = through_seeing(light, exposure).double()
        fraction, sky = exposure.pixels("fraction", flux), exposure.pixels("sky", flux)
        counts = draws.poisson("photons", ((flux + sky) * fraction).clamp_min(0.0))
        read = (exposure.pixels("visits", flux) * fraction).sqrt() * exposure.pixels("read_noise", flux)
        counts = counts + read * draws.normal("read-out", flux.shape[1:])
        return Observation((counts / fraction - sky).float(), exposure)


def through_seeing(light: torch.Tensor, exposure: Exposure) -> torch.Tensor:
    """Replace the working PSF by the exposure's, float32 (N, C, H, W). Raises what `observe` does."""
    fwhm = exposure.psf_fwhm.reshape(-1, len(exposure.bands))
    if not bool((fwhm >= SHARPEST * exposure.pixel_scale).all()):
        raise InputError(
            f"seeing of {float(fwhm.min()):.3g} arcsec",
            f"at least {SHARPEST * exposure.pixel_scale:.3g} arcsec ({SHARPEST:g} pixels), as light is kept "
            f"through a PSF of {WORKING_FWHM * exposure.pixel_scale:.2g} arcsec",
            "ask for a broader seeing",
        )
    height, width = light.shape[-2:]
    margin = min(MARGIN, height - 1, width - 1)
    padded = torch.nn.functional.pad(light.double(), (margin,) * 4, mode="reflect")
    shape = (height + 2 * margin, width + 2 * margin)
    k = frequencies(shape[0], shape[1], exposure.pixel_scale, padded)
    working = transfer("gaussian", torch.tensor(WORKING_FWHM * exposure.pixel_scale, dtype=torch.float64), k)
    change = transfer(exposure.psf_shape, fwhm, k, exposure.moffat_beta) / working
    seen = torch.empty_like(light)
    for start in range(len(light)):  # one galaxy at a time: the same numbers whatever the batch
        spectrum = torch.fft.rfft2(padded[start]) * change[start if len(change) > 1 else 0]
        seen[start] = torch.fft.irfft2(spectrum, s=shape)[:, margin : margin + height, margin : margin + width]
    return seen


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Many small tensors: more threads would wait for each other, and for the processes that draw the next galaxies."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
