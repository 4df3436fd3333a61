"""Point-spread functions as optical transfer functions, and observing through them with the noise put back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import scipy.fft
import scipy.special
import torch

from perturbations.core import Observation
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.exposure import Exposure

MARGIN = 5.0  # arcsec of blank sky around the stamp; of neither strength nor batch, which must not move the draws

KOLMOGOROV_K0 = 2.992934 * 0.975865  # k0 x FWHM: Fried 1966 with the FWHM of 0.975865 lambda/r0, as in GalSim


@dataclass(frozen=True, eq=False)
class Frequencies:
    """Angular frequencies [rad/arcsec] of the elements of rfft2, float64: `y` (rows, 1), `x` (1, columns // 2 + 1)."""

    y: torch.Tensor
    x: torch.Tensor

    @property
    def k(self) -> torch.Tensor:
        """|k| [rad/arcsec], (rows, columns // 2 + 1)."""
        return torch.hypot(self.y, self.x)


def grid(rows: int, columns: int, pixel_scale: float, like: torch.Tensor) -> Frequencies:
    """The frequencies of rfft2 of images (rows, columns) with `pixel_scale` [arcsec]."""
    y = torch.fft.fftfreq(rows, pixel_scale, dtype=torch.float64, device=like.device)
    x = torch.fft.rfftfreq(columns, pixel_scale, dtype=torch.float64, device=like.device)
    return Frequencies(2.0 * math.pi * y[:, None], 2.0 * math.pi * x[None, :])


def frequencies(height: int, width: int, pixel_scale: float, like: torch.Tensor) -> torch.Tensor:
    """Angular frequency |k| [rad/arcsec] of each element of rfft2 of an image, (height, width // 2 + 1) float64."""
    return grid(height, width, pixel_scale, like).k


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
    known_psf(exposure)
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
    """A length for which the FFT is fast and whose periodic images are at least `margin` pixels apart.

    Eight times a product of 2, 3 and 5: MKL's transforms of such lengths are twice as fast as those of odd ones.
    """
    length = scipy.fft.next_fast_len(-(-(size + margin) // 8), real=True)
    assert length is not None  # None only for targets beyond 2^63
    return 8 * length


def padded(exposure: Exposure, flux: torch.Tensor) -> tuple[int, int]:
    """Rows and columns of a stamp with blank sky of `MARGIN` around it."""
    height, width = flux.shape[-2:]
    margin = min(math.ceil(MARGIN / exposure.pixel_scale), max(height, width))
    return padded_size(height, margin), padded_size(width, margin)


def through(sky: Observation, kernel: Callable[[Frequencies], torch.Tensor], draws: Draws) -> torch.Tensor:
    """Flux (N, C, H, W) as a fresh exposure would give it after one more convolution of the light.

    The light is convolved with `kernel`. That also smooths the noise, which a real exposure would not: noise of power
    sigma^2 (1 - |K|^2) is put back, so that blank sky keeps the variance and the independence of a fresh exposure. The
    stamp is continued by blank sky with its noise, so light that reaches the border loses what a real exposure would
    bring in from outside.

    Parameters
    ----------
    sky : as it is now.
    kernel : from Frequencies to the transfer function K, real or complex, |K| <= 1 and 1 at zero, broadcastable to
        (N, C, rows, columns // 2 + 1).
    draws : streams "surroundings" and "noise" are taken.

    Raises
    ------
    InputError : pixels are masked: optics act before the detector, and would smear its defects over their neighbours.
    """
    undamaged(sky)
    exposure, (_, bands, height, width) = sky.exposure, sky.flux.shape
    rows, columns = padded(exposure, sky.flux)
    transfer = kernel(grid(rows, columns, exposure.pixel_scale, sky.flux))
    missing = (1.0 - (transfer * transfer.conj()).real).clamp_min(0.0).sqrt().to(sky.flux.dtype)
    single = torch.complex64 if transfer.is_complex() else torch.float32

    blank = exposure.variance(torch.zeros_like(sky.flux[:, :, :1, :1])).sqrt()
    field = sky.flux.new_empty(len(sky.flux), bands, rows, columns)
    field[:, :, :height, :width] = sky.flux
    below = (rows - height) * columns
    around = draws.normal("surroundings", (bands, below + height * (columns - width))).mul_(blank[:, :, 0])
    field[:, :, height:] = around[:, :, :below].unflatten(2, (rows - height, columns))
    field[:, :, :height, width:] = around[:, :, below:].unflatten(2, (height, columns - width))
    light = _filtered(field, transfer.to(single))[:, :, :height, :width]
    noise = _filtered(draws.normal("noise", (bands, rows, columns)), missing)[:, :, :height, :width]
    return torch.addcmul(light, noise, exposure.variance(light).sqrt_())


def broadened(sky: Observation, fwhm: torch.Tensor, draws: Draws) -> Observation:
    """The same through a PSF of the same shape and another `fwhm` [arcsec], per band or (galaxies, bands).

    Raises
    ------
    InputError : a narrower PSF, or an exposure whose PSF is unknown.
    """
    flux = through(sky, lambda at: broadening(sky.exposure, fwhm, at.k), draws)
    return sky.replace(flux, sky.exposure.replace(psf_fwhm=fwhm))


def undamaged(sky: Observation) -> None:
    """Refuse an image with masked pixels: its light passes air and optics before it reaches the detector."""
    if sky.mask is not None and bool(sky.mask.any()):
        raise InputError(
            f"light changed after {int(sky.mask.sum())} pixels were damaged by a detector",
            "air and optics come before the detector",
            "apply this perturbation before those of the detector",
        )


def known_psf(exposure: Exposure) -> None:
    """Refuse an exposure whose PSF is unknown."""
    if not bool(torch.isfinite(exposure.psf_fwhm).all()):
        raise InputError("the Exposure has no psf_fwhm", "a PSF width in arcsec", "add psf_fwhm to the exposure")


def _filtered(field: torch.Tensor, transfer: torch.Tensor) -> torch.Tensor:
    return torch.fft.irfft2(torch.fft.rfft2(field).mul_(transfer), s=field.shape[-2:])
