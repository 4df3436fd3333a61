"""The laws of another survey: GalSim's drawing of the same galaxy, magnitudes, and the noise of a fresh exposure."""

from typing import Any

import galsim
import numpy as np
import pytest
import surveycodex
import surveycodex.utilities
import torch

from perturbations.core import Observation, get
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.exposure import Exposure
from perturbations.regridding import reobserved
from perturbations.surveys import survey_exposure, survey_names

NOISE_FREE = 1e12  # of a full exposure


def ids(n: int) -> list[str]:
    return [f"sky {k}" for k in range(n)]


def lsst(bands="gri", **changes: Any) -> Exposure:
    return Exposure.from_survey("LSST", bands).replace(**changes)


def light(scale: float = 0.05, bands=("r",), **changes) -> Exposure:
    """Noise-free light through a sharp PSF, in the electrons of LSST."""
    e = lsst("r", fraction=NOISE_FREE, pixel_scale=scale, psf_fwhm=2.2 * scale, psf_shape="gaussian", visits=1.0)
    e = e.replace(read_noise=0.0, survey="noise-free")
    columns = ("fraction", "sky", "visits", "read_noise", "full_well", "gain", "psf_fwhm", "zeropoint")
    return e.replace(bands=tuple(bands), **{name: getattr(e, name).repeat(len(bands)) for name in columns}, **changes)


def galaxy(shift=(0.0, 0.0)) -> Any:
    return galsim.Sersic(n=1.0, half_light_radius=0.8, flux=1e6).shear(g1=0.3, g2=-0.2).shift(*shift)


def drawn(psf: Any, scale: float, shape=(120, 120), shift=(0.0, 0.0)) -> np.ndarray:
    seen: Any = galsim.Convolve(galaxy(shift), psf)
    return seen.drawImage(nx=shape[1], ny=shape[0], scale=scale, dtype=np.float32).array


def sky_noise(e: Exposure, n: int, size: int, level: float = 0.0) -> Observation:
    mean = torch.full((n, len(e.bands), size, size), level)
    noise = Draws(ids(n), 0, "simulate").normal("noise", mean.shape[1:])
    return Observation(mean + noise * e.variance(mean).sqrt(), e)


def observed(sky: Observation, fraction: float = 1.0, **options) -> Observation:
    return get("other_survey")(sky, fraction, Draws(ids(len(sky.flux)), 0), **{"survey": "SDSS"} | options)


# ---------------------------------------------------------------------- light


@pytest.mark.parametrize("survey", ["SDSS", "DECaLS", "Stripe82", "DES", "PanSTARRS"])
def test_lsst_light_is_galsims_drawing_with_the_other_psf_and_pixels(survey):
    """An inclined galaxy off the centre, on an oblong stamp; LSST's own PSF and pixels before."""
    shape, shift = (90, 120), (1.3, -0.7)
    e = lsst("r", fraction=NOISE_FREE)
    seeing = galsim.Kolmogorov(fwhm=float(e.psf_fwhm[0]))
    sky = Observation(torch.from_numpy(drawn(seeing, 0.2, shape, shift))[None, None], e)
    target = survey_exposure(survey, "r")
    reference = reobserved(
        sky, target.replace(fraction=1e6, zeropoint=e.zeropoint), Draws(ids(1), 0)
    ).flux[0, 0].numpy()  # fmt: skip
    truth = drawn(galsim.Kolmogorov(fwhm=float(target.psf_fwhm[0])), target.pixel_scale, shape, shift)
    assert np.abs(reference - truth).max() < 3e-3 * truth.max()


@pytest.mark.parametrize(("survey", "band"), [("Euclid_VIS", "IE"), ("HSC", "i"), ("LSST", "i")])
def test_noise_free_light_is_seen_more_sharply(survey, band):
    e = light(0.05)
    sky = Observation(torch.from_numpy(drawn(galsim.Gaussian(fwhm=0.11), 0.05, (160, 160), (0.4, 0.3)))[None, None], e)
    target = survey_exposure(survey, [band])
    seen = reobserved(sky, target.replace(bands=("r",), fraction=1e6), Draws(ids(1), 0)).flux[0, 0].numpy()
    truth = drawn(galsim.Kolmogorov(fwhm=float(target.psf_fwhm[0])), target.pixel_scale, (160, 160), (0.4, 0.3))
    inside = slice(60, 100)
    assert np.abs(seen - truth)[inside, inside].max() < 6e-3 * truth.max()
    assert seen.sum() == pytest.approx(float(sky.flux.sum()), rel=3e-3)


@pytest.mark.parametrize("survey", ["SDSS", "Stripe82"])
def test_magnitudes_are_kept_and_electrons_are_the_new_surveys(survey):
    """Calibrated: the image's zero-point. Otherwise surveycodex's counts of a source of that magnitude."""
    e = lsst("gri", fraction=NOISE_FREE)
    magnitude = 16.0
    electrons = torch.pow(10.0, 0.4 * (e.zeropoint - magnitude)).float()
    y, x = torch.meshgrid(*[torch.arange(100.0) - 49.5] * 2, indexing="ij")
    blob = torch.exp(-0.5 * (x**2 + y**2) / 25.0) / (2.0 * np.pi * 25.0)
    sky = Observation(electrons[None, :, None, None] * blob, e)
    new = survey_exposure(survey, "gri", 1e6)
    kept, own = observed(sky, 1e6, survey=survey), observed(sky, 1e6, survey=survey, calibrated=False)
    assert torch.allclose(kept.exposure.zeropoint, e.zeropoint)
    assert torch.allclose(kept.flux.sum(dim=(2, 3))[0] / electrons, torch.ones(3), rtol=3e-3)
    assert torch.allclose(own.exposure.zeropoint, new.zeropoint)
    assert own.exposure.to_dict() == new.to_dict()
    if survey == "SDSS":
        known = surveycodex.get_survey("SDSS")
        for band, counts in zip("gri", own.flux.sum(dim=(2, 3))[0].tolist(), strict=True):
            theirs = surveycodex.utilities.mag2counts(magnitude, known, known.get_filter(band)).to_value("electron")
            assert counts == pytest.approx(theirs, rel=3e-3)


@pytest.mark.parametrize("size", [33, 40])
def test_the_same_survey_at_the_same_depth_gives_the_image_back(size):
    sky = sky_noise(lsst(fraction=0.5), 3, size)
    again = observed(sky, 0.5, survey="LSST")
    assert float((again.flux - sky.flux).abs().max()) < 1e-2 * float(sky.flux.std())
    assert again.exposure.to_dict() == sky.exposure.to_dict()


# ---------------------------------------------------------------------- noise


def assert_fresh(after: Observation, level: float = 0.0, inner: slice = slice(None)) -> None:
    """White, with the variance of its exposure: pixels, rows, columns and both diagonals."""
    flux = after.flux[:, :, inner, inner].double()
    expected = after.exposure.variance(torch.full((1, flux.shape[1], 1, 1), level)).double()
    z = (flux - flux.mean(dim=0, keepdim=True) if level else flux) / expected.sqrt()
    n = z.numel() / z.shape[1]
    bias = len(z) / (len(z) - 1) if level else 1.0
    assert float((z.square().mean(dim=(0, 2, 3)) * bias - 1.0).abs().max()) < 5.0 * (2.0 / n) ** 0.5
    for down, right in ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0)):
        shifted = z[:, :, down:, right:] * z[:, :, : z.shape[2] - down, : z.shape[3] - right]
        assert float(shifted.mean(dim=(0, 2, 3)).abs().max()) < 5.0 / n**0.5
    crossed = z[:, :, 1:, 1:] * z[:, :, :-1, :-1] - z[:, :, 1:, :-1] * z[:, :, :-1, 1:]
    assert float(crossed.mean(dim=(0, 2, 3)).abs().max()) < 8.0 / n**0.5


NEARLY_AS_DEEP = [
    # pixel scale, PSF, and the noise variance in units of that of the old pixels added up
    *[(0.262, 1.0, 1.05), (0.396, 1.3, 1.01), (0.3, 0.85, 1.6), (0.2, 1.1, 1.02), (0.15, 1.0, 1.02)],
]


@pytest.mark.parametrize("shape", ["kolmogorov", "moffat"])
@pytest.mark.parametrize(("scale", "fwhm", "room"), NEARLY_AS_DEEP)
def test_noise_is_fresh_where_nearly_all_of_it_comes_from_the_image(scale, fwhm, room, shape):
    e = lsst("r", psf_shape=shape, fraction=0.7)
    old = e.variance(torch.zeros(1, 1, 1, 1)).flatten().double()
    area = (scale / 0.2) ** 2
    target = e.replace(
        pixel_scale=scale, psf_fwhm=fwhm, read_noise=0.0, fraction=0.69, sky=0.69 * room * area * old, survey="new"
    )
    assert_fresh(reobserved(sky_noise(e, 60, 40), target, Draws(ids(60), 0)))


@pytest.mark.parametrize("scale", [0.396, 0.2])
def test_bright_light_has_its_photon_noise(scale):
    """A flat of 40 skies, with as many photons in the new exposure as nearly all of those in the image."""
    e = lsst("r", sky=5e3, read_noise=0.0, fraction=0.7)
    area = (scale / 0.2) ** 2
    target = e.replace(pixel_scale=scale, psf_fwhm=1.3, sky=3.0 * 5e3 * area, fraction=0.65)
    after = reobserved(sky_noise(e, 100, 96, 2e5), target, Draws(ids(100), 0))
    assert_fresh(after, 2e5 * area, slice(40, 56))


@pytest.mark.parametrize("survey", ["SDSS", "Stripe82", "DES", "CFHTLS", "PanSTARRS"])
def test_blank_sky_of_every_ground_based_survey_is_fresh(survey):
    e = lsst(psf_fwhm=0.6)
    for options in ({}, {"calibrated": False}):
        after = observed(sky_noise(e, 40, 40), 0.2, survey=survey, **options)
        assert_fresh(after)
        assert after.exposure.survey == survey


# ---------------------------------------------------------------------- options, batches, refusals


def test_bands_are_mapped_by_name():
    sky = sky_noise(lsst(), 2, 24)
    seen = observed(sky, survey="decals", bands="i=z", calibrated=False)
    assert seen.exposure.bands == ("g", "r", "i")
    assert torch.allclose(seen.exposure.zeropoint, survey_exposure("DECaLS", "grz").zeropoint)
    clear = Observation(torch.zeros(1, 3, 64, 64), light(0.05, "gri"))
    euclid = observed(clear, survey="Euclid_VIS", bands="g=IE, r=IE, i=IE", calibrated=False)
    assert float(euclid.exposure.psf_fwhm.max()) == pytest.approx(0.17)
    assert_fresh(observed(Observation(torch.zeros(60, 1, 40, 40), light(0.05)), survey="Euclid_VIS", bands="r=IE"))


@pytest.mark.parametrize("bands", ["r", "ugriz"])
def test_small_stamps_of_any_number_of_bands(bands):
    after = observed(sky_noise(lsst(bands), 1500, 8), 0.5)
    assert after.flux.shape == (1500, len(bands), 8, 8)
    assert_fresh(after)


def test_a_batch_is_its_galaxies_one_at_a_time_each_with_its_own_exposure():
    rng = np.random.default_rng(0)
    own = lsst().replace(
        psf_fwhm=torch.from_numpy(rng.uniform(0.5, 1.1, (4, 3))),
        zeropoint=torch.from_numpy(rng.uniform(34.0, 36.0, (4, 3))),
    )
    y, x = torch.meshgrid(torch.arange(22.0) - 10.5, torch.arange(33.0) - 16.0, indexing="ij")
    sky = Observation((2e5 * torch.exp(-0.5 * (x**2 / 9.0 + y**2 / 4.0))).repeat(4, 3, 1, 1), own)
    together = observed(sky, 0.5)
    for k in range(4):
        single = Observation(sky.flux[k : k + 1], own.take([k]))
        alone = get("other_survey")(single, 0.5, Draws([ids(4)[k]], 0), survey="SDSS")
        assert float((together.flux[k] - alone.flux[0]).abs().max()) < 1e-5 * float(alone.flux.abs().max())
        assert together.exposure.take([k]).to_dict() == alone.exposure.to_dict()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"survey": "SDS"}, "Did you mean 'SDSS'"),
        (
            {"survey": "Euclid_VIS", "bands": "g=IE,r=IE,i=IE"},
            r"0.17 arcsec from 0.86 in g, 0.17 arcsec from 0.81 in r",
        ),
        ({"survey": "HSC"}, "sharper|sharpens"),
        ({"survey": "DECaLS"}, "unknown DECaLS band 'i'"),
        ({"bands": "q=g"}, "unknown band 'q'"),
        ({"bands": "g=gg"}, "unknown SDSS band 'gg'; .*Did you mean 'g'"),
        ({"bands": "g"}, "i=z"),
        ({"fraction": 1e5}, "SDSS is deeper than the image"),
        ({"fraction": 0.0}, "other_survey: fraction"),
        ({"fraction": float("nan")}, "other_survey: fraction"),
        ({"fraction": float("inf")}, "other_survey: fraction"),
    ],
)
def test_what_cannot_be_observed_is_refused(options, words):
    with pytest.raises(InputError, match=words):
        observed(sky_noise(lsst(), 1, 16), **options)


def test_a_refused_depth_says_how_deep_it_may_be():
    """The largest fraction named is accepted, and a little more is not."""
    sky = sky_noise(lsst(fraction=0.01), 1, 16)
    with pytest.raises(InputError, match="deeper") as problem:
        observed(sky, 1000.0)
    most = 1000.0 * float(problem.value.allowed.split()[2])
    observed(sky, 0.98 * most)
    with pytest.raises(InputError, match="deeper"):
        observed(sky, 1.02 * most)


def test_more_photons_under_a_brighter_sky_are_refused_too():
    sky = sky_noise(lsst("r"), 1, 16)
    brighter = sky.exposure.replace(sky=1e6, psf_fwhm=1.0)
    reobserved(sky, brighter, Draws(ids(1), 0))
    with pytest.raises(InputError, match=r"the galaxy's photons in r would be 0\.5 "):
        reobserved(sky, brighter.replace(fraction=2.0), Draws(ids(1), 0))


def test_what_a_steep_psf_has_cut_off_is_not_amplified():
    """A Gaussian falls faster than a Moffat of the same width: rounding must not become light."""
    e = light(0.05).replace(psf_fwhm=1.0, fraction=1e30)
    sky = Observation(torch.from_numpy(drawn(galsim.Gaussian(fwhm=1.0), 0.05, (160, 160)))[None, None], e)
    target = survey_exposure("SDSS", "r").replace(psf_shape="moffat", psf_fwhm=1.2, fraction=1e6)
    seen = reobserved(sky, target, Draws(ids(1), 0)).flux[0, 0].numpy()
    truth = drawn(galsim.Moffat(beta=2.5, fwhm=1.2), 0.396, (160, 160))
    assert np.abs(seen - truth)[60:100, 60:100].max() < 1e-2 * truth.max()


def test_an_exposure_that_does_not_say_enough_is_refused():
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"zeropoint": float("nan")}, "no zeropoint"),
        ({"psf_fwhm": float("nan")}, "no psf_fwhm"),
        ({"pixel_scale": 1.5, "psf_fwhm": 0.8}, "(?i)start from light drawn with smaller pixels"),
    )
    for change, words in cases:
        with pytest.raises(InputError, match=words):
            observed(sky_noise(lsst(**change), 1, 16))
    sky = sky_noise(lsst(), 1, 16)
    masked = Observation(sky.flux, sky.exposure, torch.ones(1, 1, 16, 16, dtype=torch.bool))
    with pytest.raises(InputError, match="damaged by a detector"):
        observed(masked)


# ---------------------------------------------------------------------- the surveys written by hand


def limit(survey: str, band: str, half_light_radius: float) -> float:
    """Magnitude at 5 sigma of an exponential disc, measured with its own profile as weight."""
    e = survey_exposure(survey, [band])
    disc = galsim.Exponential(half_light_radius=half_light_radius, flux=1.0)
    seen: Any = galsim.Convolve(disc, galsim.Kolmogorov(fwhm=float(e.psf_fwhm[0])))
    profile = seen.drawImage(nx=64, ny=64, scale=e.pixel_scale).array.astype(float)
    variance = float(e.variance(torch.zeros(1, 1, 1, 1)))
    return float(e.zeropoint[0]) - 2.5 * np.log10(5.0 * (variance / np.square(profile).sum()) ** 0.5)


@pytest.mark.parametrize(("band", "depth"), [("g", 24.0), ("r", 23.4), ("z", 22.5)])
def test_decals_reaches_the_depths_it_was_designed_for(band, depth):
    """For a galaxy of 0.45 arcsec; photon noise alone is at most 0.6 mag deeper."""
    assert depth - 0.2 < limit("DECaLS", band, 0.45) < depth + 0.6


def test_stripe_82_is_20_scans_about_two_magnitudes_deeper_than_one():
    for band in "ugriz":
        assert 1.6 < limit("Stripe82", band, 0.5) - limit("SDSS", band, 0.5) < 2.1
    one, stack = survey_exposure("SDSS", "r"), survey_exposure("Stripe82", "r")
    assert torch.allclose(stack.sky, 20.0 * one.sky)
    assert torch.allclose(stack.visits, torch.tensor(20.0).double())


@pytest.mark.parametrize("depth", [1.0, 0.1])
def test_lsst_images_of_ten_years_and_of_one_are_deep_enough_for_the_ladder(depth):
    p, sky = get("other_survey"), sky_noise(lsst(fraction=depth), 40, 24)
    for strength in p.ladder:
        assert_fresh(p(sky, strength, Draws(ids(40), 0)))


@pytest.mark.parametrize("name", survey_names())
def test_every_survey_gives_an_exposure_under_its_name(name):
    from perturbations.surveys import survey_bands

    e = survey_exposure(name.upper(), survey_bands(name))
    assert e.survey == name
    assert bool(torch.isfinite(e.zeropoint).all())
    with pytest.raises(InputError, match=f"unknown {name} band"):
        survey_exposure(name, ["no such band"])
