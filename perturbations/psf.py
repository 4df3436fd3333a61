"""Point-spread functions as optical transfer functions, and convolution with them."""

from __future__ import annotations

import math

import scipy.fft
import scipy.special
import torch

from perturbations.errors import InputError
from perturbations.exposure import Exposure

KOLMOGOROV_K0 = 2.992934 * 0.975865  # k0 x FWHM: Fried 1966 with the FWHM of 0.975865 lambda/r0, as in GalSim


def frequencies(height: int, width: int, pixel_scale: float, like: torch.Tensor) -> torch.Tensor:
    """Angular frequency |k| [rad/arcsec] of each element of rfft2 of an image, (height, width // 2 + 1) float64."""
    ky = torch.fft.fftfreq(height, pixel_scale, dtype=torch.float64, device=like.device)
    kx = torch.fft.rfftfreq(width, pixel_scale, dtype=torch.float64, device=like.device)
    return 2.0 * math.pi * torch.hypot(ky[:, None], kx[None, :])


def transfer(shape: str, fwhm: torch.Tensor, k: torch.Tensor, moffat_beta: float = 2.5) -> torch.Tensor:
    """Optical transfer function of a round PSF of unit flux, without pixel response.

    Parameters
    ----------
    shape : "kolmogorov": exp(-(k/k0)^(5/3)) (Fried 1966, JOSA 56, 1372); "moffat": the Hankel transform of
        (1 + (r/r0)^2)^-beta (Moffat 1969, A&A 3, 455); "gaussian".
    fwhm : full width at half maximum [arcsec], any shape; broadcast against the last two axes of `k`.
    k : angular frequencies [rad/arcsec].
    """
    fwhm = fwhm.to(k)[..., None, None]
    if shape == "kolmogorov":
        return torch.exp(-((k * fwhm / KOLMOGOROV_K0) ** (5.0 / 3.0)))
    if shape == "gaussian":
        return torch.exp(-((k * fwhm) ** 2) / (16.0 * math.log(2.0)))
    order = moffat_beta - 1.0
    argument = (k * fwhm / (2.0 * math.sqrt(2.0 ** (1.0 / moffat_beta) - 1.0))).cpu().numpy()
    with_limit = argument.copy()
    with_limit[argument == 0.0] = 1.0
    value = 2.0 / math.gamma(order) * (with_limit / 2.0) ** order * scipy.special.kv(order, with_limit)
    value[argument == 0.0] = 1.0
    return torch.from_numpy(value).to(k)


def broadening(exposure: Exposure, fwhm: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """What turns the exposure's PSF into one of the same shape and another `fwhm` [arcsec]: the ratio of the two OTFs.

    Raises
    ------
    InputError : the exposure's PSF is unknown, or `fwhm` is narrower: no image can be sharpened this way.
    """
    if not bool(torch.isfinite(exposure.psf_fwhm).all()):
        raise InputError("the Exposure has no psf_fwhm", "a PSF width in arcsec", "add psf_fwhm to the exposure")
    if bool((fwhm < exposure.psf_fwhm).any()):
        raise InputError(
            f"a PSF of {float(fwhm.min()):.3g} arcsec from one of {float(exposure.psf_fwhm.max()):.3g} arcsec",
            "a broader PSF",
            "only noise-free light can be observed with a sharper one",
        )
    now = transfer(exposure.psf_shape, exposure.psf_fwhm, k, exposure.moffat_beta)
    then = transfer(exposure.psf_shape, fwhm, k, exposure.moffat_beta)
    tiny = torch.finfo(torch.float64).tiny
    return torch.where(now > tiny, then / now.clamp_min(tiny), 0.0)


def padded_size(size: int, margin: int) -> int:
    """A length for which the FFT is fast and whose periodic images are `margin` pixels apart."""
    length = scipy.fft.next_fast_len(size + margin, real=True)
    assert length is not None  # None only for targets beyond 2^63
    return length
