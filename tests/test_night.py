"""A night: its conditions have the stated distributions, and an image shows each of them."""

import math

import pytest
import torch

from perturbations.conditions import Conditions, drawn, observed
from perturbations.core import Observation, get
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.exposure import Exposure

N = 4000


def draws(n: int) -> Draws:
    return Draws([f"galaxy {k}" for k in range(n)], 1)


@pytest.mark.parametrize("badness", [0.0, 1.0, 2.0])
def test_conditions_have_the_stated_distributions(badness):
    night = drawn(badness, 3, draws(N))
    error = 5.0 / math.sqrt(N)
    # of a normal number clipped at zero: the mean is sigma (x Phi(x) + phi(x)) at x = mean/sigma
    centre, spread = 0.0857 * badness, 0.0728
    x = torch.tensor(centre / spread)
    normal = torch.distributions.Normal(0.0, 1.0)
    expected = spread * float(x * normal.cdf(x) + normal.log_prob(x).exp())
    assert float(night.seeing.log10().mean()) == pytest.approx(expected, abs=error * spread)
    assert float(night.seeing.min()) == 1.0
    assert float(night.sky.log10().mean()) == pytest.approx(math.log10(0.2 * 3.0**badness), abs=error * 0.2)
    assert float(night.sky.log10().std()) == pytest.approx(0.2, rel=error)
    assert float(night.zeropoint.std()) == pytest.approx(0.01 * 2.0**badness, rel=error)
    assert float(night.drift.mean()) == pytest.approx(0.05 * 2.0**badness, rel=error)
    assert night.cosmic_rays == 0.017
    pairs = torch.stack(
        [night.seeing.log10(), night.sky.log10(), night.zeropoint[:, 0], night.zeropoint[:, 1], night.drift]
    )
    assert float((torch.corrcoef(pairs) - torch.eye(5)).abs().max()) < error


def star(n: int) -> Observation:
    """A bright Gaussian star without noise, 4 pixels wide."""
    y, x = torch.meshgrid(*(torch.arange(96, dtype=torch.float64) - 47.5,) * 2, indexing="ij")
    light = torch.exp(-(x**2 + y**2) / (2.0 * 4.0**2)) * 1e6
    e = Exposure(
        bands=("r",), pixel_scale=0.2, sky=1.0, fraction=1e8, psf_fwhm=1.9, psf_shape="gaussian", zeropoint=30.0
    )  # pyright: ignore
    return Observation(light.float()[None, None].repeat(n, 1, 1, 1), e)


def moments(flux: torch.Tensor) -> tuple[float, float]:
    """Second moments along rows and columns [pixels^2] about the centre of the stamp."""
    light = flux.double()
    at = torch.arange(light.shape[-1], dtype=torch.float64) - (light.shape[-1] - 1) / 2
    total = light.sum()
    return float((light.sum(-1) * at**2).sum() / total), float((light.sum(-2) * at**2).sum() / total)


def conditions(**changes) -> Conditions:
    zero = torch.zeros(1, dtype=torch.float64)
    calm = {"seeing": zero + 1.0, "sky": zero, "zeropoint": zero[:, None], "drift": zero, "direction": zero}
    return Conditions(**{**calm, "cosmic_rays": 0.0, **changes})


def _same_area_fwhm(star: torch.Tensor, sky: Observation) -> float:
    """FWHM of the Gaussian PSF with the noise-equivalent area that the star's has grown to, from that of the PSF."""
    area, before = (
        float(image.double().sum() ** 2 / image.double().square().sum()) for image in (star, sky.flux[0, 0])
    )
    # of a Gaussian, 4 pi sigma^2: the star is a Gaussian of 4 pixels, the PSF is one of 1.9 arcsec
    psf = 4.0 * math.pi * (1.9 / 0.2) ** 2 / (8.0 * math.log(2.0))
    return 1.9 * math.sqrt((psf + area - before) / psf)


def one(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def test_nothing_happens_in_a_night_without_anything():
    sky = star(1)
    seen = observed(sky, conditions(), draws(1))
    assert float((seen.flux - sky.flux).abs().max()) < 1.0  # of 1e6: photon noise of 0.1, and rounding of the FFT
    for name in ("psf_fwhm", "sky", "fraction", "zeropoint"):
        assert torch.allclose(getattr(seen.exposure, name), getattr(sky.exposure, name))


def test_seeing_drift_and_calibration_do_what_they_say():
    sky, sigma = star(1), 1.9 / 0.2 / math.sqrt(8.0 * math.log(2.0))
    before = moments(sky.flux[0, 0])
    seen = observed(sky, conditions(seeing=one(1.4)), draws(1))
    assert moments(seen.flux[0, 0]) == pytest.approx([m + sigma**2 * (1.4**2 - 1.0) for m in before], rel=2e-3)
    assert float(seen.exposure.psf_fwhm) == pytest.approx(1.4 * 1.9)
    seen = observed(sky, conditions(drift=one(2.0), direction=one(math.pi / 2)), draws(1))
    assert moments(seen.flux[0, 0]) == pytest.approx([before[0] + 100.0 / 12.0, before[1]], rel=2e-3)
    assert float(seen.exposure.psf_fwhm) == pytest.approx(_same_area_fwhm(seen.flux[0, 0], sky), rel=0.01)
    seen = observed(sky, conditions(zeropoint=one(0.1)[:, None]), draws(1))
    assert float(seen.flux.sum() / sky.flux.sum()) == pytest.approx(10.0**-0.04, rel=1e-5)
    assert float(seen.exposure.zeropoint) == pytest.approx(29.9 + 0.0, abs=1e-9)


def test_a_worse_night_has_a_brighter_sky_a_broader_psf_and_more_noise():
    e = Exposure.from_survey("LSST", "gri")
    sky = Observation(torch.zeros(40, 3, 32, 32), e)
    typical, bad = (get("night")(sky, badness, draws(40)) for badness in (0.0, 2.0))
    assert bool((bad.exposure.sky > typical.exposure.sky).all())
    assert bool((bad.exposure.psf_fwhm >= typical.exposure.psf_fwhm - 1e-12).all())
    assert float(bad.flux.std()) > 1.5 * float(typical.flux.std())


def test_muons_come_in_every_night_and_rejection_takes_them_out():
    sky = Observation(torch.zeros(60, 3, 64, 64), Exposure.from_survey("LSST", "gri"))
    seen = get("night")(sky, 0.0, draws(60))
    assert seen.mask is not None
    hit = seen.mask.flatten(2).any(dim=2).double().mean(dim=0)
    seconds = 30.0 * sky.exposure.visits
    expected = 1.0 - torch.exp(-0.017 * 64 * 64 * 1e-6 * seconds)
    assert torch.allclose(hit, expected, atol=5 * 0.5 / 60**0.5)
    clean = get("night")(sky, 0.0, draws(60), surviving_fraction=0.0)
    assert clean.mask is None or not bool(clean.mask.any())


def test_impossible_nights_are_refused():
    sky = Observation(torch.zeros(2, 3, 32, 32), Exposure.from_survey("LSST", "gri"))
    for badness in (3.5, float("nan"), -9.0):
        with pytest.raises(InputError, match="night"):
            get("night")(sky, badness, draws(2))
    blind = Observation(sky.flux, sky.exposure.replace(psf_fwhm=float("nan")))
    with pytest.raises(InputError, match="psf_fwhm"):
        get("night")(blind, 1.0, draws(2))
