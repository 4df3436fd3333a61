"""What the noise law does not see at a glance: noise at the border, under bright light, per galaxy; and depth's law."""

import dataclasses
from typing import Any

import galsim
import numpy as np
import pytest
import torch
from scipy import stats
from test_noise_law import QuietDraws

from perturbations.core import Observation, catalogue, get
from perturbations.draws import Draws
from perturbations.exposure import Exposure
from perturbations.psf import transfer
from robustastro.data.mock_observing import through_seeing
from robustastro.data.mocks import Recipe, light, simulate

FLUX = [name for name, p in catalogue().items() if p.space == "flux" and p.kind == "corruption"]


def names(n: int) -> list[str]:
    return [f"sky {k}" for k in range(n)]


def one_band(**changes) -> Exposure:
    e = Exposure(bands=("r",), pixel_scale=0.2, sky=1e4, psf_fwhm=0.7, zeropoint=37.0, visits=100.0, full_well=1e5)  # pyright: ignore
    return e.replace(**changes)


def exposed(light: torch.Tensor, e: Exposure) -> Observation:
    """Light with the photon noise of an exposure."""
    noise = Draws(names(len(light)), 0, "simulate").normal("noise", light.shape[1:])
    return Observation(light + noise * e.variance(light).sqrt(), e)


# ---------------------------------------------------------------------- noise


@pytest.mark.parametrize("extra", [0.3, 0.4])
def test_the_border_of_a_small_stamp_has_the_noise_of_its_interior(extra):
    """Nothing but border: 8000 stamps of 8 x 8 pixels; surroundings without noise of their own leave 2% too little."""
    n, size = 8000, 8
    e = one_band()
    flux = get("seeing")(exposed(torch.zeros(n, 1, size, size), e), extra, Draws(names(n), 0)).flux[:, 0].double()
    ring = torch.cat([flux[:, 0], flux[:, -1], flux[:, 1:-1, 0], flux[:, 1:-1, -1]], dim=1)
    expected = float(e.variance(torch.zeros(1, 1, 1, 1)))
    assert float(ring.square().mean()) / expected == pytest.approx(1.0, abs=4.0 * (2.0 / ring.numel()) ** 0.5)


NOT_IN_A_FLAT = {
    "saturation": "a flat has no brightest pixel: all of it saturates, and is masked",
    "float16": "steps that grow with the value are no noise, and swallow it at the last rung",
}


@pytest.mark.parametrize("name", [name for name in FLUX if name not in NOT_IN_A_FLAT])
def test_a_bright_flat_has_the_photon_noise_of_its_light(name):
    """A flat of 20 skies, away from the stamp's edge, is as noisy as a fresh exposure of the light that is left."""
    p = get(name)
    n, size, inner = 64, 80, slice(32, 48)
    sky = exposed(torch.full((n, 1, size, size), 2e5), one_band(sky=1e4, fraction=0.5))
    flat = Observation(torch.full_like(sky.flux, 2e5), sky.exposure)
    for strength in (p.ladder[0], p.ladder[-1]):
        after = p(sky, strength, Draws(names(n), 0))
        light = p(flat, strength, QuietDraws(names(n), 0)).flux
        z = (after.flux.double() - light) / after.exposure.variance(light).sqrt()
        good = torch.ones_like(z, dtype=torch.bool) if after.mask is None else (~after.mask).expand_as(z)
        z = z[..., inner, inner][good[..., inner, inner]]
        assert float(z.square().mean()) == pytest.approx(1.0, abs=5.0 * (2.0 / len(z)) ** 0.5)


# ---------------------------------------------------------------------- galaxy by galaxy


def own_exposures(n: int) -> Exposure:
    """Every galaxy with a depth, sky and seeing of its own in each band."""
    rng = np.random.default_rng(2)
    changes = {
        name: torch.from_numpy(rng.uniform(low, high, (n, 3)))
        for name, low, high in (("fraction", 0.3, 1.0), ("psf_fwhm", 0.5, 0.8), ("sky", 2e4, 5e4))
    }
    return Exposure.from_survey("LSST", bands="gri").replace(**changes)


@pytest.mark.parametrize("shape", ["kolmogorov", "moffat"])
@pytest.mark.parametrize("name", FLUX)
def test_a_batch_is_its_galaxies_one_at_a_time(name, shape):
    """Each galaxy is changed under its own exposure, also where the image is not square."""
    n, p = 5, get(name)
    y, x = torch.meshgrid(torch.arange(22.0) - 10.5, torch.arange(33.0) - 16.0, indexing="ij")
    galaxy = 2e5 * torch.exp(-0.5 * ((x / 2.0) ** 2 + (y / 3.0) ** 2)) * torch.arange(1, n + 1)[:, None, None, None]
    sky = exposed(galaxy.expand(n, 3, 22, 33), own_exposures(n).replace(psf_shape=shape))
    together = p(sky, p.ladder[2], Draws(names(n), 0))
    for k in range(n):
        single = Observation(sky.flux[k : k + 1], sky.exposure.take([k]))
        alone = p(single, p.ladder[2], Draws([names(n)[k]], 0))
        scale = float(alone.flux.abs().max())
        assert float((together.flux[k] - alone.flux[0]).abs().max()) < 1e-5 * scale
        expected = alone.exposure.to_dict()
        assert together.exposure.take([k]).to_dict() == expected


def test_each_galaxy_of_a_batch_is_seen_through_its_own_psf():
    """GalSim draws the same star through two PSFs; seeing broadens each by its own kernel, on oblong images."""
    before, extra = (0.6, 1.0), 0.6

    def drawn(fwhm):
        star: Any = galsim.Convolve(galsim.Gaussian(fwhm=0.5, flux=1e6), galsim.Kolmogorov(fwhm=fwhm))
        return star.drawImage(nx=96, ny=72, scale=0.2, dtype=np.float32).array

    e = one_band(sky=1e-3, fraction=1e8, psf_fwhm=torch.tensor([[w] for w in before]))
    sky = Observation(torch.stack([torch.from_numpy(drawn(w))[None] for w in before]), e)
    broad = get("seeing")(sky, extra, Draws(names(2), 0))
    for image, width in zip(broad.flux[:, 0].numpy(), before, strict=True):
        truth = drawn((width**2 + extra**2) ** 0.5)
        assert np.abs(image - truth).max() < 2e-3 * truth.max()


# ---------------------------------------------------------------------- Moffat wings


@pytest.mark.parametrize("beta", [2.5, 3.3])
def test_the_moffat_exponent_is_the_exposures(beta):
    k = torch.linspace(0.0, 20.0, 41).double()[None]
    profile = galsim.Moffat(beta=beta, fwhm=0.7)
    ours = transfer("moffat", torch.tensor(0.7), k, beta)[0]
    assert np.abs(ours.numpy() - [profile.kValue(float(v), 0.0).real for v in k[0]]).max() < 2e-4

    def drawn(fwhm):
        star: Any = galsim.Convolve(galsim.Gaussian(fwhm=0.5, flux=1e6), galsim.Moffat(beta=beta, fwhm=fwhm))
        return star.drawImage(nx=96, ny=96, scale=0.2, dtype=np.float32).array

    e = one_band(sky=1e-3, fraction=1e8, psf_shape="moffat", moffat_beta=beta)
    broad = get("seeing")(Observation(torch.from_numpy(drawn(0.7))[None, None], e), 0.8, Draws(names(1), 0))
    truth = drawn((0.7**2 + 0.8**2) ** 0.5)
    assert np.abs(broad.flux[0, 0].numpy() - truth).max() < 1e-3 * truth.max()


# ---------------------------------------------------------------------- depth's law


def test_y10_mocks_degraded_to_a_tenth_are_y1_mocks():
    """Mean, variance and distribution of what is left without the noise-free light, on sky and on galaxies."""
    y1 = Recipe(n=24, seed=11, size=64, depth=0.1)
    y10 = dataclasses.replace(y1, depth=1.0)
    fresh, deep = simulate(y1, processes=1), simulate(y10, processes=1)
    assert fresh.ids == deep.ids
    degraded = get("depth")(deep.observation(slice(None)), 0.1, Draws(deep.ids, 0))
    truth = through_seeing(torch.from_numpy(light(y1, processes=1)), y1.exposure())
    assert degraded.exposure.to_dict() == y1.exposure().to_dict()
    sigma = y1.exposure().variance(truth).sqrt()
    a, b = ((flux - truth) / sigma for flux in (fresh.batch(slice(None)), degraded.flux))
    bright = truth > 0.03 * y1.exposure().pixels("sky", truth)
    for band in range(3):
        for where in (bright[:, band], ~bright[:, band]):
            one, two = (residual[:, band][where].double().numpy() for residual in (a, b))
            assert len(one) > 300
            # the degraded image holds a tenth of the variance of the Y10 image, drawn with the numbers of the Y1 image
            assert abs(two.mean() - one.mean()) < 5.0 * (2.0 / len(one)) ** 0.5
            assert abs(two.var() / one.var() - 1.0) < 5.0 * (4.0 / len(one)) ** 0.5
            assert two.var() == pytest.approx(1.0, abs=5.0 * (2.0 / len(one)) ** 0.5)
            test: Any = stats.ks_2samp(one, two)
            assert test.pvalue > 1e-4
