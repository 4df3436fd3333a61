"""Profiles of points, lines and galaxies against GalSim and against closed forms; and the galaxy's size as measured."""

import math

import galsim
import numpy as np
import pytest
import torch

from perturbations import profiles
from perturbations.core import Observation
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.exposure import Exposure

PRECISE = galsim.GSParams(folding_threshold=1e-4, maxk_threshold=1e-5)
PSFS = {
    "kolmogorov": lambda fwhm: galsim.Kolmogorov(fwhm=fwhm, gsparams=PRECISE),
    "moffat": lambda fwhm: galsim.Moffat(beta=2.5, fwhm=fwhm, gsparams=PRECISE),
    "gaussian": lambda fwhm: galsim.Gaussian(fwhm=fwhm, gsparams=PRECISE),
}


def one_band(shape: str = "kolmogorov", fwhm: float = 0.8, scale: float = 0.2, **changes) -> Exposure:
    return Exposure(bands=("r",), pixel_scale=scale, sky=100.0, psf_fwhm=fwhm, psf_shape=shape, **changes)  # pyright: ignore


def drawn_by_galsim(profile, height, width, scale=0.2, offset=(0.0, 0.0)):
    return profile.drawImage(nx=width, ny=height, scale=scale, offset=(offset[1], offset[0]), dtype=float).array


@pytest.mark.parametrize(("shape", "fwhm"), [(s, f) for s in PSFS for f in (0.5, 0.8)])
def test_a_point_is_galsims_everywhere_even_across_the_stamp(shape, fwhm):
    """In a corner: the opposite corner, thousands of times fainter, has no light that wrapped around the border."""
    like, offset = torch.zeros(1, 1, 61, 75), (-28.7, -34.2)
    radius = torch.hypot(*profiles.from_centre(torch.tensor([offset]), like))
    ours = profiles.at_radius(profiles.point_spread(one_band(shape, fwhm), like), radius)[0, 0].double().numpy()
    theirs = drawn_by_galsim(PSFS[shape](fwhm), 61, 75, offset=offset)
    assert np.abs(ours - theirs).max() < 1e-3 * theirs.max()
    if shape != "gaussian":
        profile = PSFS[shape](fwhm).shift(0.2 * offset[1], 0.2 * offset[0])
        wing = profile.drawImage(nx=75, ny=61, scale=0.2, method="no_pixel", dtype=float).array[40:, 50:]
        assert ours[40:, 50:].sum() == pytest.approx(wing.sum(), rel=0.02)


def test_a_table_of_points_follows_each_galaxys_own_seeing():
    e = one_band(fwhm=torch.tensor([[0.6], [1.1]]))  # pyright: ignore
    both = profiles.point_spread(e, torch.zeros(2, 1, 8, 8))
    for k in range(2):
        assert torch.equal(both[k], profiles.point_spread(e.take([k]), torch.zeros(1, 1, 8, 8))[0])


@pytest.mark.parametrize("turn", [0.0, 0.3, 1.2, 2.5])
def test_a_line_behind_a_gaussian_psf_has_the_flux_and_width_of_psf_and_pixel(turn):
    """Flux 1 per pixel of length; variance across: the PSF's, and 1/12 of the pixel in any direction."""
    table = profiles.line_spread(one_band("gaussian"), torch.tensor([turn]), torch.zeros(1, 1, 40, 40))[0, 0].double()
    d = torch.arange(len(table)).double() / profiles.FINE
    flux = (2.0 * table.sum() - table[0]) / profiles.FINE
    variance = 2.0 * (table * d**2).sum() / profiles.FINE
    assert float(flux) == pytest.approx(1.0, abs=1e-4)
    assert float(variance) == pytest.approx((0.8 / 0.2) ** 2 / (8.0 * math.log(2.0)) + 1.0 / 12.0, rel=2e-3)


@pytest.mark.parametrize("turn", [0.0, 0.4])
def test_a_line_is_a_row_of_points(turn):
    e, like = one_band("moffat"), torch.zeros(1, 1, 60, 60)
    table, points = profiles.line_spread(e, torch.tensor([turn]), like), profiles.point_spread(e, like)
    distance = torch.linspace(0.0, 12.0, 25)[None, None]
    along = torch.arange(-400.0, 400.0, 0.05)[None, :, None]
    summed = profiles.at_radius(points, torch.hypot(distance, along)).sum(dim=2) * 0.05
    assert torch.allclose(profiles.at_distance(table, distance)[0, 0, 0], summed[0, 0], rtol=5e-3, atol=1e-5)


def test_transforms_are_galsims():
    k = torch.tensor([0.0, 1e-5, 0.02, 0.3, 1.0, 4.0, 30.0, 500.0, 1e5], dtype=torch.float64)
    for ours, theirs in (
        (profiles.exponential(k), galsim.Exponential(half_light_radius=1.0)),
        (profiles.de_vaucouleurs(k), galsim.DeVaucouleurs(half_light_radius=1.0)),
        (profiles.annulus(k, 0.0), galsim.TopHat(radius=1.0)),
        (profiles.annulus(k, 0.6), (galsim.TopHat(1.0) - 0.36 * galsim.TopHat(0.6)) / 0.64),
    ):
        assert np.abs(ours.numpy() - [theirs.kValue(float(v), 0.0).real for v in k]).max() < 1e-4


def test_a_straight_edge_is_half_lit_at_its_place_and_dark_far_outside():
    e = one_band("gaussian")
    table = profiles.edge_spread(profiles.line_spread(e, torch.zeros(1), torch.zeros(1, 1, 30, 30)))
    sigma = math.hypot(0.8 / 0.2 / math.sqrt(8.0 * math.log(2.0)), 12.0**-0.5)
    inside = torch.tensor([-20.0, -sigma, 0.0, sigma, 20.0])[None, None]
    light = profiles.at_edge(table, inside)[0, 0, 0]
    assert torch.allclose(light, torch.tensor([0.0, 0.1587, 0.5, 0.8413, 1.0]), atol=3e-3)


# ---------------------------------------------------------------- the galaxy's size and flux


def galaxy(radius: float, flux: float, size=(101, 101)) -> np.ndarray:
    seen = galsim.Convolve(galsim.Exponential(half_light_radius=radius, flux=flux), PSFS["kolmogorov"](0.8))
    return drawn_by_galsim(seen, *size)


def test_half_light_is_measured_for_each_galaxy_as_it_is_seen():
    e = Exposure.from_survey("LSST", bands="gri").replace(psf_fwhm=0.8)
    sizes, fluxes = (0.5, 1.0, 2.0), (1e6, 2e6, 4e6)
    clean = torch.from_numpy(np.stack([galaxy(s, f) for s, f in zip(sizes, fluxes, strict=True)])).float()
    light = clean[:, None] * torch.tensor([0.5, 1.0, 1.5])[:, None, None]
    noise = Draws([f"g{k}" for k in range(3)], 0, "simulate").normal("noise", (3, 101, 101))
    radius, flux = profiles.half_light(Observation(light + noise * e.variance(light).sqrt(), e))
    for k in range(3):
        truth = galsim.Image(clean[k].numpy(), scale=0.2).calculateHLR() / 0.2
        assert float(radius[k]) == pytest.approx(truth, rel=0.06)
        assert flux[k].tolist() == pytest.approx([fluxes[k] * c for c in (0.5, 1.0, 1.5)], rel=0.08)


def test_blank_sky_counts_as_a_point_at_five_sigma():
    e = Exposure.from_survey("LSST", bands="gri", fraction=0.5)
    noise = Draws([f"g{k}" for k in range(64)], 0, "simulate").normal("noise", (3, 33, 41))
    sky = Observation(noise * e.variance(torch.zeros(64, 3, 33, 41)).sqrt(), e)
    radius, flux = profiles.half_light(sky)
    fwhm = float(e.psf_fwhm.mean()) / 0.2
    assert torch.allclose(radius, torch.full((64,), fwhm))
    sigma = e.variance(torch.zeros(1, 3, 1, 1)).sqrt().flatten()
    assert torch.allclose(flux, (5.0 * sigma * math.sqrt(math.pi) * fwhm).expand(64, 3))


def test_masked_pixels_do_not_count_and_a_galaxy_is_never_smaller_than_its_psf():
    e = one_band()
    flux = torch.zeros(1, 1, 41, 41)
    flux[..., 20, 20] = 1e6
    mask = torch.zeros(1, 1, 41, 41, dtype=torch.bool)
    mask[..., 20, 30] = True
    spoilt = flux + 1e9 * mask
    radius, measured = profiles.half_light(Observation(spoilt, e, mask))
    assert float(radius) == pytest.approx(0.5 * 0.8 / 0.2)
    assert float(measured) == pytest.approx(1e6, rel=1e-3)


def test_an_unknown_psf_is_refused():
    e = one_band(fwhm=float("nan"))
    like = torch.zeros(1, 1, 9, 9)
    for call in (
        lambda: profiles.point_spread(e, like),
        lambda: profiles.line_spread(e, torch.zeros(1), like),
        lambda: profiles.half_light(Observation(like, e)),
        lambda: profiles.drawn(e, torch.zeros(1, 2), like, lambda at: at.k[None], 5.0),
    ):
        with pytest.raises(InputError, match="psf_fwhm"):
            call()
