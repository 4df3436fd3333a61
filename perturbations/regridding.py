"""Light observed again with other optics and other pixels, with the noise of the new exposure.

The image is a sampling of the light through a PSF and a pixel. Both are divided out and the new ones multiplied on, in
one ratio of transfer functions G; the result is evaluated at the centres of the new pixels by its Fourier series, which
is exact for well sampled images and any ratio of pixel sizes. The noise that was in the image goes the same way: white
noise of variance v becomes one of power P(k) = v (p'/p)^2 sum |G(k + 2 pi n/p')|^2 on the new grid, n over the aliases.
What the new exposure has beyond that is added, so that its noise is white and has its variance.
"""

from __future__ import annotations

import math

import torch

from perturbations.core import Observation
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.exposure import Exposure
from perturbations.psf import MARGIN, Frequencies, grid, known_psf, padded_size, transfer, undamaged

WHITE = 2.0  # arcsec beyond which noise seen through a PSF is independent
FAINT = 1e-10  # of the transfer function: nothing is left there
STEEP = 10.0  # times what is left behind the old PSF: more would be amplified errors of the light
COARSE = 0.1  # of the new PSF's transfer function at the old pixels' Nyquist frequency: more would be lost light


def reobserved(sky: Observation, target: Exposure, draws: Draws) -> Observation:
    """Observe the light of an image with another exposure, in the same unit of flux.

    The stamp keeps its number of pixels and its centre. Where the new one sees more, there is blank sky.

    Parameters
    ----------
    sky : flux (N, C, H, W) and its Exposure, whose PSF is known. Not modified.
    target : the new exposure: pixel scale, PSF and noise. Its unit of flux is that of the image: see `rescaled`.
    draws : streams "surroundings", "sky" and "carried" are taken.

    Raises
    ------
    InputError : masked pixels, an unknown PSF, a sharper PSF, pixels too coarse for the new PSF, or a new exposure with
        less noise than the image already has.
    """
    _possible(sky, target)
    source, (_, bands, height, width) = sky.exposure, sky.flux.shape
    ratio = target.pixel_scale / source.pixel_scale
    rows, columns = (_period(size, ratio, source.pixel_scale) for size in (height, width))
    area = ratio**2
    carried = area * _aliased_power(source, target, height, width, sky.flux)
    peak = carried.amax(dim=(-2, -1), keepdim=True)
    _shallower(source, target, peak[..., 0, 0] / area, area)

    field = draws.normal("surroundings", (bands, rows, columns))
    field.mul_(source.variance(torch.zeros_like(sky.flux[:, :, :1, :1])).sqrt_())
    field[:, :, :height, :width] = sky.flux
    change = _change(source, target, grid(rows, columns, source.pixel_scale, sky.flux))
    spectrum = torch.fft.rfft2(field).mul_(change.to(torch.complex64))
    light = _sampled(spectrum, (height, width), (rows, columns), ratio).mul_(area)

    old = source.variance(light / area)
    missing = torch.addcmul(target.variance(light), old, peak.to(light), value=-1.0).clamp_min_(0.0).sqrt_()
    flux = missing.mul_(draws.normal("sky", (bands, height, width))).add_(light)
    size = tuple(_noise_period(side, target.pixel_scale) for side in (height, width))
    whiten = (peak - carried).clamp_min(0.0).sqrt().to(torch.float32)
    coloured = torch.fft.irfft2(torch.fft.rfft2(draws.normal("carried", (bands, *size))).mul_(whiten), s=size)
    flux.addcmul_(coloured[:, :, :height, :width], old.sqrt_())
    return sky.replace(flux, target)


def _change(source: Exposure, target: Exposure, at: Frequencies) -> torch.Tensor:
    """G: from the old PSF and pixel to the new ones, as light per area, at the given frequencies."""
    now = transfer(source.psf_shape, source.psf_fwhm, at.k, source.moffat_beta)
    then = transfer(target.psf_shape, target.psf_fwhm, at.k, target.moffat_beta)
    ratio = torch.where((then > FAINT) & (then < STEEP * now), then / now.clamp_min(FAINT / STEEP), 0.0)
    y, x = _pixel(at.y, target) / _pixel(at.y, source), _pixel(at.x, target) / _pixel(at.x, source)
    return ratio * y * x


def _pixel(k: torch.Tensor, exposure: Exposure) -> torch.Tensor:
    return torch.sinc(k * (exposure.pixel_scale / (2.0 * math.pi)))


def _sampled(spectrum: torch.Tensor, shape: tuple[int, int], period: tuple[int, int], ratio: float) -> torch.Tensor:
    """The Fourier series of rfft2 (N, C, rows, columns // 2 + 1) at the centres of (H, W) pixels, `ratio` as large."""
    count, bands = spectrum.shape[:2]
    device = spectrum.device
    angles = []
    for size, length, k in zip(shape, period, (torch.fft.fftfreq, torch.fft.rfftfreq), strict=True):
        centre = (size - 1) / 2.0
        place = centre + (torch.arange(size, dtype=torch.float64, device=device) - centre) * ratio
        frequency = k(length, dtype=torch.float64, device=device)
        angles.append(2.0 * math.pi * torch.outer(frequency, place))
    down = torch.polar(torch.ones_like(angles[0].T), angles[0].T).to(torch.complex64)
    twice = torch.full_like(angles[1][:, :1], 2.0)
    twice[0] = 1.0
    if period[1] % 2 == 0:
        twice[-1] = 1.0
    twice = twice / (period[0] * period[1])
    across = torch.stack([twice * angles[1].cos(), -twice * angles[1].sin()], dim=1).flatten(0, 1).float()
    flat = spectrum.flatten(0, 1)
    # each image by itself: the same sums whatever the batch
    middle = torch.view_as_real(torch.bmm(down.expand(len(flat), -1, -1), flat)).flatten(-2)
    return torch.bmm(middle, across.expand(len(flat), -1, -1)).reshape(count, bands, *shape)


def _aliased_power(source: Exposure, target: Exposure, height: int, width: int, like: torch.Tensor) -> torch.Tensor:
    """sum over aliases of |G|^2 at the frequencies of the new grid, (.., C, rows, columns // 2 + 1)."""
    new = grid(
        _noise_period(height, target.pixel_scale), _noise_period(width, target.pixel_scale), target.pixel_scale, like
    )
    step, edge = 2.0 * math.pi / target.pixel_scale, math.pi / source.pixel_scale
    reach = math.floor((target.pixel_scale / source.pixel_scale + 1.0) / 2.0 + 1e-9)
    alias = step * torch.arange(-reach, reach + 1, dtype=torch.float64, device=like.device)
    y, x = (alias[:, None] + new.y[:, 0]).flatten(), (alias[:, None] + new.x[0]).flatten()
    inside = [(k >= -edge * (1.0 + 1e-9)) & (k < edge * (1.0 - 1e-9)) for k in (y, x)]
    power = _change(source, target, Frequencies(y[:, None], x[None, :])).square()
    power = power * (inside[0][:, None] & inside[1])
    n = 2 * reach + 1
    return power.reshape(*power.shape[:-2], n, len(new.y), n, new.x.shape[1]).sum(dim=(-4, -2))


def _period(size: int, ratio: float, scale: float) -> int:
    """Old pixels after which the field repeats: the new stamp, and room for the wings of the light."""
    extent = max(size, math.ceil(size * ratio))
    wings = min(math.ceil(MARGIN / scale), size) - (extent - size) // 2
    return padded_size(extent, max(wings, math.ceil(WHITE / scale)))


def _noise_period(size: int, scale: float) -> int:
    return padded_size(size, min(math.ceil(WHITE / scale), size))


def _possible(sky: Observation, target: Exposure) -> None:
    undamaged(sky)
    source = sky.exposure
    known_psf(source)
    known_psf(target)
    now, then = (e.psf_fwhm.reshape(-1, len(e.bands)) for e in (source, target))
    sharper = (then < now * (1.0 - 1e-9)).any(dim=0)
    if bool(sharper.any()):
        each = [
            f"{then[:, b].min():.3g} arcsec from {now[:, b].max():.3g} in {source.bands[b]}"
            for b in sharper.nonzero().flatten().tolist()
        ]
        raise InputError(
            f"{target.survey} would need a PSF of {', '.join(each)}",
            "a PSF that is no narrower than the image's",
            "no re-observation sharpens an image: choose another survey, or start from light seen more sharply",
        )
    if target.pixel_scale == source.pixel_scale:
        return
    edge = torch.tensor([[math.pi / source.pixel_scale]], dtype=torch.float64)
    passed = transfer(target.psf_shape, then, edge, target.moffat_beta).amax()
    if float(passed) > COARSE:
        raise InputError(
            f"{target.survey}'s PSF of {float(then.min()):.3g} arcsec from pixels of {source.pixel_scale:.3g} arcsec",
            "pixels that sample the new PSF",
            "start from light drawn with smaller pixels",
        )


def _shallower(source: Exposure, target: Exposure, peak: torch.Tensor, area: float) -> None:
    """Refuse an exposure with less noise than the image carries, on blank sky or in the photons of its light.

    `peak` (.., C): the largest power of the carried noise over that of old pixels added up.
    """
    zero = torch.zeros(1, len(source.bands), 1, 1, dtype=torch.float64)
    old, new = (e.variance(zero)[..., 0, 0] for e in (source, target))
    blank = new / (old * area * peak.to(old))
    photons = (source.fraction / (target.fraction * peak.to(old))).reshape(-1, len(source.bands))
    room = torch.stack([each.cpu().amin(dim=0) for each in (blank, photons)])
    least = int(room.argmin())
    what, band = ("blank sky", "the galaxy's photons")[least // len(source.bands)], least % len(source.bands)
    if float(room.min()) < 1.0 - 1e-6:
        raise InputError(
            f"{target.survey} is deeper than the image: its noise variance of {what} in {source.bands[band]} would be "
            f"{float(room.min()):.3g} of what the image carries",
            f"at most {float(room.min()):.3g} times this exposure",
            "choose a smaller fraction, or start from a deeper or noise-free image",
        )
