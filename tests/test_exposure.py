"""What a pixel means: the survey numbers that we quote, and the variance that follows from them."""

import json
import math

import pytest
import surveycodex
import surveycodex.utilities
import torch

from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.exposure import Exposure


def test_lsst_numbers_that_are_quoted():
    lsst = Exposure.from_survey("LSST", bands="gri", fraction=0.1)
    assert lsst.pixel_scale == pytest.approx(0.2)
    assert lsst.sky.tolist() == pytest.approx([24_790, 130_617, 188_799], rel=1e-4)
    assert lsst.psf_fwhm.tolist() == pytest.approx([0.86, 0.81, 0.79])
    assert lsst.visits.tolist() == pytest.approx([80, 184, 184])
    assert float(lsst.sky[1] / lsst.visits[1]) == pytest.approx(710, rel=1e-3)
    assert lsst.fraction.tolist() == pytest.approx([0.1] * 3)
    assert lsst.read_noise.tolist() == pytest.approx([8.8] * 3)


def test_zero_point_gives_the_electrons_of_surveycodex():
    survey = surveycodex.get_survey("LSST")
    exposure = Exposure.from_survey("LSST", bands="r")
    for magnitude in (17.0, 22.5):
        theirs = surveycodex.utilities.mag2counts(magnitude, survey, survey.get_filter("r")).to_value("electron")
        assert 10 ** (0.4 * (float(exposure.zeropoint[0]) - magnitude)) == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("name", sorted(surveycodex.available_surveys))
def test_every_survey_of_surveycodex_gives_an_exposure(name):
    survey = surveycodex.get_survey(name)
    exposure = Exposure.from_survey(name, survey.available_filters)
    assert bool((exposure.sky > 0).all())
    assert bool(torch.isfinite(exposure.zeropoint).all())


def test_variance_is_that_of_counted_photons_and_read_noise():
    """Simulated visit by visit: Poisson photons and read noise in f x visits exposures, summed and scaled by 1/f."""
    exposure = Exposure(
        bands=("r",), pixel_scale=0.2, sky=torch.tensor([400.0]), fraction=torch.tensor([0.25]),
        visits=torch.tensor([40.0]), read_noise=torch.tensor([5.0]),
    )  # fmt: skip
    flux, taken, n = 100.0, 10, 40_000
    draws = Draws([str(k) for k in range(taken)], seed=0)
    photons = draws.poisson("photons", torch.full((taken, n), (flux + 400.0) / 40.0))
    total = (photons + 5.0 * draws.normal("read", (n,))).sum(dim=0) / 0.25 - 400.0
    expected = float(exposure.variance(torch.full((1, 1, 1, 1), flux)))
    assert expected == pytest.approx((500.0 + 40 * 25.0) / 0.25)
    assert float(total.mean()) == pytest.approx(flux, abs=5 * (expected / n) ** 0.5)
    assert float(total.var()) == pytest.approx(expected, rel=5 * (2 / n) ** 0.5)


def test_no_blank_lsst_sky_saturates_a_visit():
    for band in "ugrizy":
        exposure = Exposure.from_survey("LSST", bands=[band])
        per_visit = exposure.sky / exposure.visits
        assert float(per_visit + 10 * per_visit.sqrt()) < float(exposure.full_well)


def test_by_hand_and_from_toml(tmp_path):
    (tmp_path / "short.toml").write_text('survey = "LSST"\nbands = ["r", "i"]\nfraction = 0.5\n')
    short = Exposure.from_toml(tmp_path / "short.toml")
    assert short.bands == ("r", "i")
    assert short.to_dict() == Exposure.from_survey("LSST", "ri", 0.5).to_dict()
    (tmp_path / "hubble.toml").write_text('survey = "HST"\nbands = ["J", "H"]\n')
    assert Exposure.from_toml(tmp_path / "hubble.toml").pixel_scale == 0.06
    (tmp_path / "long.toml").write_text('bands = ["x"]\npixel_scale = 0.3\nsky = 12.5\npsf_fwhm = [1.1]\n')
    by_hand = Exposure.from_toml(tmp_path / "long.toml")
    assert by_hand.sky.tolist() == [12.5]
    assert math.isnan(float(by_hand.zeropoint[0]))
    assert Exposure.from_dict(json.loads(json.dumps(by_hand.to_dict()))).to_dict() == by_hand.to_dict()


def test_numbers_per_galaxy_are_taken_with_the_galaxy():
    fraction = torch.tensor([[1.0, 0.5], [0.2, 0.1], [0.3, 0.4]])
    exposure = Exposure(bands=("g", "r"), pixel_scale=0.2, sky=torch.tensor([10.0, 20.0]), fraction=fraction)
    assert torch.allclose(exposure.take([2, 0]).fraction, fraction[[2, 0]].double())
    assert torch.allclose(exposure.pick(["r"]).fraction, fraction[:, 1:].double())
    assert exposure.summary().fraction.tolist() == pytest.approx([0.3, 0.4])
    assert exposure.variance(torch.zeros(3, 2, 1, 1))[1, 1] == pytest.approx(200.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fraction": 0.0}, "fraction"),
        ({"sky": [-1.0]}, "sky"),
        ({"sky": [1.0, 2.0]}, "1 band"),
        ({"pixel_scale": 0.0}, "pixel_scale"),
        ({"psf_shape": "gausian"}, "PSF shape 'gausian'"),
        ({"bands": ("r", "r"), "sky": 1.0}, "bands"),
        ({"gian": 2.0}, "Did you mean 'gain'"),
    ],
)
def test_wrong_numbers_are_refused_by_name(change, words):
    with pytest.raises(InputError, match=words):
        Exposure.from_dict({"bands": ("r",), "pixel_scale": 0.2, "sky": [1.0]} | change)


def test_unknown_surveys_and_bands_are_refused_with_the_nearest():
    with pytest.raises(InputError, match="Did you mean 'LSST'"):
        Exposure.from_survey("LSTS", "gri")
    with pytest.raises(InputError, match="unknown LSST band 'q'"):
        Exposure.from_survey("LSST", "q")


def test_a_rescaled_image_has_the_noise_of_its_multiple_and_the_same_frames():
    e = Exposure.from_survey("LSST", "gri", fraction=0.3)
    flux = torch.rand(4, 3, 5, 5).double() * 1e5
    factor = torch.tensor([[0.2, 1.0, 7.0]] * 4, dtype=torch.float64)
    after = e.rescaled(factor)
    a = factor[:, :, None, None]
    assert torch.allclose(after.variance(flux * a), e.variance(flux) * a**2)
    assert torch.allclose(after.fraction * after.visits, (e.fraction * e.visits).expand(4, 3))
    per_visit = (
        (flux + e.pixels("sky", flux)) / e.pixels("visits", flux),
        (flux * a + after.pixels("sky", flux)) / after.pixels("visits", flux),
    )
    assert torch.allclose(*per_visit)
    assert torch.allclose(after.zeropoint - e.zeropoint, 2.5 * torch.log10(factor))
