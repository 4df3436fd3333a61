"""The laws of depth, sky and seeing: what each does to the light. The noise law is in test_noise_law.py."""

import galsim
import numpy as np
import pytest
import torch

from perturbations.core import Observation, get
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.exposure import Exposure

N, SIZE = 48, 40


def exposure(**changes) -> Exposure:
    return Exposure.from_survey("LSST", bands="gri", fraction=0.6).replace(**changes)


def blank_sky(e: Exposure, seed: int = 0) -> Observation:
    ids = [f"sky {k}" for k in range(N)]
    noise = Draws(ids, seed, "simulate").normal("noise", (len(e.bands), SIZE, SIZE))
    return Observation(noise * e.variance(torch.zeros(N, len(e.bands), SIZE, SIZE)).sqrt(), e)


def draws(n: int = N) -> Draws:
    return Draws([f"sky {k}" for k in range(n)], 0)


def test_noise_that_is_not_put_back_fails_the_law():
    """The law can fail: the same convolution without the noise leaves 0.44 of the variance at 0.3 arcsec."""
    from perturbations.psf import broadening, frequencies

    sky = blank_sky(exposure())
    e = sky.exposure
    fwhm = (e.psf_fwhm**2 + 0.3**2).sqrt()
    kernel = broadening(e, fwhm, frequencies(SIZE, SIZE, e.pixel_scale, sky.flux))
    smooth = torch.fft.irfft2(torch.fft.rfft2(sky.flux) * kernel.float(), s=(SIZE, SIZE))
    assert float(smooth.var() / sky.flux.var()) < 0.6


def test_depth_adds_exactly_the_missing_variance_and_keeps_the_flux():
    sky = blank_sky(exposure())
    bright = Observation(sky.flux + 5e4, sky.exposure)
    shallow = get("depth")(bright, 0.25, draws())
    added = (shallow.flux - bright.flux).double()
    expected = sky.exposure.variance(torch.full_like(sky.flux, 5e4))[0, :, 0, 0].double() * 3.0
    assert torch.allclose(added.var(dim=(0, 2, 3)) / expected, torch.ones(3).double(), atol=0.03)
    assert float((added.mean(dim=(0, 2, 3)) / (expected / (N * SIZE * SIZE)).sqrt()).abs().max()) < 5.0
    assert torch.allclose(shallow.exposure.fraction, torch.tensor([0.15] * 3).double())


def test_sky_noise_brightens_the_sky_by_magnitudes():
    brighter = get("sky_noise")(blank_sky(exposure()), 2.5, draws())
    assert torch.allclose(brighter.exposure.sky / exposure().sky, torch.tensor(10.0).double())


@pytest.mark.parametrize(
    ("name", "strengths"),
    [("depth", (0.0, 1.5, float("nan"))), ("sky_noise", (-1.0,)), ("seeing", (-0.1, float("nan")))],
)
def test_impossible_strengths_are_refused(name, strengths):
    for strength in strengths:
        with pytest.raises(InputError, match=name):
            get(name)(blank_sky(exposure()), strength, draws())


@pytest.mark.parametrize("shape", ["kolmogorov", "moffat"])
def test_seeing_is_the_galaxy_that_galsim_draws_through_the_broader_psf(shape):
    def psf(fwhm):
        return galsim.Kolmogorov(fwhm=fwhm) if shape == "kolmogorov" else galsim.Moffat(beta=2.5, fwhm=fwhm)

    def drawn(fwhm):
        galaxy = galsim.Sersic(n=1.5, half_light_radius=0.9, flux=1e6).shear(g1=0.3, g2=0.1)
        return galsim.Convolve(galaxy, psf(fwhm)).drawImage(nx=96, ny=96, scale=0.2, dtype=np.float32).array

    quiet = Exposure(bands=("r",), pixel_scale=0.2, sky=1e-3, fraction=1e8, psf_fwhm=0.81, psf_shape=shape)  # pyright: ignore
    sky = Observation(torch.from_numpy(drawn(0.81))[None, None], quiet)
    for extra in get("seeing").ladder:
        broad = get("seeing")(sky, extra, draws(1))
        truth = drawn((0.81**2 + extra**2) ** 0.5)
        assert np.abs(broad.flux[0, 0].numpy() - truth).max() < 2e-3 * truth.max()
        assert float(broad.flux.sum()) == pytest.approx(truth.sum(), rel=2e-3)
        assert float(broad.exposure.psf_fwhm[0]) == pytest.approx((0.81**2 + extra**2) ** 0.5)


def test_seeing_needs_a_psf_and_cannot_sharpen():
    sky = blank_sky(exposure(psf_fwhm=float("nan")))
    with pytest.raises(InputError, match="psf_fwhm"):
        get("seeing")(sky, 0.5, draws())


PROFILES = {
    "kolmogorov": galsim.Kolmogorov(fwhm=0.7),
    "moffat": galsim.Moffat(beta=2.5, fwhm=0.7),
    "gaussian": galsim.Gaussian(fwhm=0.7),
}


@pytest.mark.parametrize("shape", PROFILES)
def test_transfer_functions_are_galsims(shape):
    from perturbations.psf import transfer

    k = torch.linspace(0.0, 20.0, 41).double()[None]
    ours = transfer(shape, torch.tensor(0.7), k)[0]
    theirs = [PROFILES[shape].kValue(float(value), 0.0).real for value in k[0]]
    assert np.abs(ours.numpy() - theirs).max() < 2e-4
