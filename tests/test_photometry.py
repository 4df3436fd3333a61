"""The laws of photons, sky level, calibration and dust. The noise of blank sky is in test_noise_law.py as well."""

import numpy as np
import pytest
import torch
from scipy import stats

from perturbations.core import Observation, get
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.exposure import Exposure

NAMES = ("shot_noise", "read_noise", "sky_gradient", "background_offset", "zeropoint", "extinction", "dimming")


class QuietDraws(Draws):
    """The same draws without noise."""

    def normal(self, stream, shape=()):
        return torch.zeros(len(self), *shape, device=self.device)


def ids(n: int) -> list[str]:
    return [f"sky {k}" for k in range(n)]


def exposure(bands="gri", **changes) -> Exposure:
    return Exposure.from_survey("LSST", bands=bands, fraction=0.6).replace(**changes)


def flat(e: Exposure, level: float = 0.0, n: int = 48, size: int = 40) -> Observation:
    """A flat of `level` electrons above the sky, as the camera counts it: Poisson photons and read noise."""
    mean = torch.full((n, len(e.bands), size, size), level)
    draws = Draws(ids(n), 0, "simulate")
    fraction, sky = e.pixels("fraction", mean.double()), e.pixels("sky", mean.double())
    photons = draws.poisson("photons", (mean + sky) * fraction)
    read = (e.pixels("visits", mean) * fraction).sqrt() * e.pixels("read_noise", mean)
    return Observation(((photons + read * draws.normal("read", mean.shape[1:])) / fraction - sky).float(), e)


def galaxies(e: Exposure, n: int = 6, size: int = 40, electrons: float = 1e7) -> Observation:
    """Round galaxies, the k-th k + 1 times as bright as the first, without noise."""
    y, x = torch.meshgrid(*[torch.arange(float(size)) - (size - 1) / 2] * 2, indexing="ij")
    light = torch.exp(-0.5 * (x**2 + y**2) / 9.0) / (2.0 * np.pi * 9.0) * electrons
    return Observation((light * torch.arange(1, n + 1)[:, None, None, None]).repeat(1, len(e.bands), 1, 1), e)


def quietly(name: str, sky: Observation, strength: float, **options) -> Observation:
    """What a perturbation does to the light."""
    return get(name)(sky, strength, QuietDraws(ids(len(sky.flux)), 0), **options)


def noisily(name: str, sky: Observation, strength: float, **options) -> Observation:
    return get(name)(sky, strength, Draws(ids(len(sky.flux)), 0), **options)


def aperture_magnitudes(flux: torch.Tensor) -> torch.Tensor:
    """-2.5 log10 of the sum within 12 pixels of the centre, (N, C)."""
    size = flux.shape[-1]
    y, x = torch.meshgrid(*[torch.arange(float(size)) - (size - 1) / 2] * 2, indexing="ij")
    return -2.5 * torch.log10((flux.double() * (x**2 + y**2 < 144.0)).sum(dim=(-2, -1)))


def variance(flux: torch.Tensor) -> torch.Tensor:
    """Variance of the pixels of each band, (C,)."""
    return flux.double().var(dim=(0, 2, 3))


def assert_variance(flux: torch.Tensor, expected: torch.Tensor) -> None:
    count = flux.numel() / flux.shape[1]
    assert torch.allclose(
        variance(flux) / expected, torch.ones(flux.shape[1]).double(), atol=5.0 * (2.0 / count) ** 0.5
    )


# ---------------------------------------------------------------------- photons and read-out


@pytest.mark.parametrize("level", [0.0, 2e5])
def test_shot_noise_is_an_instrument_that_loses_photons_and_reads_as_noisily(level):
    """Against counting: Poisson photons thinned to t, read noise of every frame, divided by f t."""
    e, t = exposure(read_noise=40.0), 0.3
    after = noisily("shot_noise", flat(e, level), t)
    photons = (level + e.sky) * e.fraction * t
    read = e.visits * e.fraction * e.read_noise**2
    assert_variance(after.flux, (photons + read) / (e.fraction * t) ** 2)
    error = (variance(after.flux) / (after.flux.numel() / 3)).sqrt()
    assert bool(((after.flux.double().mean(dim=(0, 2, 3)) - level).abs() < 5.0 * error).all())
    assert torch.allclose(after.exposure.variance(torch.full((1, 3, 1, 1), level)).flatten().double(),
                          (photons + read) / (e.fraction * t) ** 2, rtol=1e-5)  # fmt: skip


def test_shot_noise_differs_from_depth_by_the_read_noise():
    e = exposure(read_noise=60.0)
    dirty, shallow = (noisily(name, flat(e), 0.25).flux for name in ("shot_noise", "depth"))
    read = e.visits * e.read_noise**2 / e.fraction
    assert_variance(shallow, (e.sky / e.fraction + read) * 4.0)
    assert_variance(dirty, e.sky / e.fraction * 4.0 + read * 16.0)


def test_shot_noise_observes_as_many_frames_each_with_less_light():
    e = exposure()
    after = noisily("shot_noise", flat(e, n=1), 0.25).exposure
    assert torch.allclose(after.visits * after.fraction, e.visits * e.fraction)
    assert torch.allclose(after.sky / after.visits, 0.25 * e.sky / e.visits)
    assert torch.equal(after.read_noise, e.read_noise)
    assert torch.equal(after.full_well, e.full_well)


@pytest.mark.parametrize("level", [0.0, 2e5])
def test_read_noise_adds_the_same_variance_to_bright_and_dark(level):
    e = exposure()
    sky = flat(e, level)
    after = noisily("read_noise", sky, 25.0)
    assert_variance(after.flux - sky.flux, e.visits * 625.0 / e.fraction)
    assert_variance(after.flux, (level + e.sky + e.visits * (8.8**2 + 625.0)) / e.fraction)
    assert torch.allclose(after.exposure.read_noise, torch.tensor((8.8**2 + 625.0) ** 0.5).double())


# ---------------------------------------------------------------------- sky level


@pytest.mark.parametrize("shape", [(40, 40), (24, 50)])
def test_sky_gradient_is_a_plane_of_that_height_and_zero_mean(shape):
    e, n, percent = exposure(), 300, 4.0
    height, width = shape
    flux = quietly("sky_gradient", Observation(torch.zeros(n, 3, *shape), e), percent).flux.double().numpy()
    y, x = np.mgrid[:height, :width].reshape(2, -1) - np.array([[height - 1], [width - 1]]) / 2
    design = np.stack([np.ones_like(x), x, y], axis=1)
    planes = flux.reshape(n * 3, -1).T
    fit = np.linalg.lstsq(design, planes, rcond=None)[0]
    peak = (percent / 100.0 * e.sky.numpy())[None, :].repeat(n, 0).ravel()
    assert np.abs(design @ fit - planes).max() < 1e-5 * peak.max()
    assert np.abs(fit[0]).max() < 1e-5 * peak.max()
    assert np.abs(np.ptp(planes, axis=0) / peak - 1.0).max() < 1e-4
    angles = np.arctan2(fit[2], fit[1]).reshape(n, 3)
    assert np.ptp(np.unwrap(angles, axis=1), axis=1).max() < 1e-3
    assert stats.kstest((angles[:, 0] % (2 * np.pi)) / (2 * np.pi), "uniform").pvalue > 1e-4


def test_sky_gradient_brings_the_photon_noise_of_the_scattered_light():
    """Where it shines in full, the sky is twice as bright; where it ends, it is what it was."""
    e, n = exposure("r"), 400
    sky = flat(e, n=n)
    after = noisily("sky_gradient", sky, 100.0)
    slope = quietly("sky_gradient", Observation(torch.zeros_like(sky.flux), e), 100.0).flux / float(e.sky)
    added = (after.flux - sky.flux).double() - slope.double() * float(e.sky)
    for low, high in ((-0.5, -0.4), (-0.1, 0.1), (0.4, 0.5)):
        there = (slope > low) & (slope < high)
        expected = float((slope[there] + 0.5).mean() * e.sky / e.fraction)
        assert float(added[there].var()) == pytest.approx(expected, rel=5.0 * (2.0 / int(there.sum())) ** 0.5 + 0.01)


def test_sky_gradient_keeps_its_direction_from_rung_to_rung_and_can_have_one_per_band():
    sky = Observation(torch.zeros(20, 3, 16, 16), exposure())
    one, two = (quietly("sky_gradient", sky, s).flux for s in (1.0, 4.0))
    assert torch.allclose(two, 4.0 * one, rtol=1e-3, atol=0.1)
    apart = quietly("sky_gradient", sky, 4.0, same_in_all_bands=False).flux / sky.exposure.pixels("sky", sky.flux)
    together = two / sky.exposure.pixels("sky", sky.flux)
    assert torch.allclose(together[:, 0], together[:, 1], atol=1e-4)
    assert float((apart[:, 0] - apart[:, 1]).abs().mean()) > 5e-3


@pytest.mark.parametrize(("oversubtracted", "sign"), [(False, 1.0), (True, -1.0)])
def test_background_offset_moves_the_level_and_no_photon(oversubtracted, sign):
    e = exposure()
    sky = flat(e, 1e4)
    after = noisily("background_offset", sky, 2.0, oversubtracted=oversubtracted)
    shift = (after.flux - sky.flux).double()
    expected = (sign * 0.02 * e.sky)[None, :, None, None]
    assert torch.allclose(shift, expected.expand_as(shift), atol=0.02)
    assert torch.allclose(after.exposure.variance(after.flux), e.variance(sky.flux), rtol=1e-5)
    assert_variance(after.flux, (1e4 + e.sky + e.visits * e.read_noise**2) / e.fraction)


# ---------------------------------------------------------------------- calibration


def test_zeropoint_errors_are_normal_and_of_that_rms_in_each_band_by_itself():
    n, error = 2000, 0.05
    sky = galaxies(exposure(), n=1, size=24)
    sky = Observation(sky.flux.repeat(n, 1, 1, 1), sky.exposure)
    dm = (aperture_magnitudes(noisily("zeropoint", sky, error).flux) - aperture_magnitudes(sky.flux)).numpy()
    assert np.abs(dm.mean(axis=0)).max() < 5.0 * error / n**0.5
    assert np.abs(dm.std(axis=0) / error - 1.0).max() < 5.0 * (0.5 / n) ** 0.5
    assert min(stats.kstest(dm[:, b] / error, "norm").pvalue for b in range(3)) > 1e-4
    assert np.abs(np.corrcoef(dm.T) - np.eye(3)).max() < 5.0 / n**0.5


def test_zeropoint_names_the_true_zero_point_and_scales_the_noise():
    sky = flat(exposure())
    after = noisily("zeropoint", sky, 0.2)
    dm = sky.exposure.zeropoint - after.exposure.zeropoint
    assert after.exposure.zeropoint.shape == (48, 3)
    assert torch.allclose(after.flux, sky.flux * torch.pow(10.0, -0.4 * dm)[:, :, None, None].float(), rtol=1e-5)
    ratio = after.exposure.variance(after.flux) / sky.exposure.variance(sky.flux)
    assert torch.allclose(ratio, torch.pow(10.0, -0.8 * dm)[:, :, None, None].float().expand_as(ratio), rtol=1e-4)


def test_zeropoint_errors_grow_in_proportion_and_can_be_grey():
    sky = galaxies(exposure(), n=5)

    def errors(error, **options):
        after = noisily("zeropoint", sky, error, **options)
        return aperture_magnitudes(after.flux) - aperture_magnitudes(sky.flux)

    assert torch.allclose(errors(0.2), 10.0 * errors(0.02), rtol=1e-3, atol=1e-5)
    grey = errors(0.1, same_in_all_bands=True)
    assert torch.allclose(grey, grey[:, :1].expand(-1, 3), atol=1e-5)
    assert float(errors(0.1).std(dim=1).min()) > 1e-3


# ---------------------------------------------------------------------- dust and dimming

# Schlafly & Finkbeiner 2011, ApJ 737, 103, table 6, R_V = 3.1: A_b per E(B-V) of the SFD map, which is 1/0.86 too large
SF11 = {
    "LSST": {"u": 4.145, "g": 3.237, "r": 2.273, "i": 1.684, "z": 1.323, "y": 1.088},
    "SDSS": {"u": 4.239, "g": 3.303, "r": 2.285, "i": 1.698, "z": 1.263},
}


@pytest.mark.parametrize("survey", SF11)
def test_extinction_is_that_of_schlafly_and_finkbeiner(survey):
    table = SF11[survey]
    sky = galaxies(Exposure.from_survey(survey, list(table)))
    after = quietly("extinction", sky, 0.3)
    lost = (aperture_magnitudes(after.flux) - aperture_magnitudes(sky.flux)) / 0.3
    for band, expected in enumerate(table.values()):
        assert lost[:, band].numpy() == pytest.approx(expected / 0.86, rel=0.1)


@pytest.mark.parametrize(("curve", "r_v"), [("F99", 3.1), ("F99", 5.0), ("G23", 3.1)])
def test_extinction_is_the_curve_of_dust_extinction_at_the_given_wavelengths(curve, r_v):
    import astropy.units as u
    from dust_extinction import parameter_averages

    sky = galaxies(exposure("gri"))
    options = {"curve": curve, "r_v": r_v, "wavelengths": "g=4000, i=9000"}
    lost = aperture_magnitudes(quietly("extinction", sky, 0.2, **options).flux) - aperture_magnitudes(sky.flux)
    law = getattr(parameter_averages, curve)(Rv=r_v)
    r_band = 6249.76  # surveycodex
    for band, at in enumerate((4000.0, r_band, 9000.0)):
        transmitted = law.extinguish(at * u.AA, Ebv=0.2)
        assert lost[:, band].numpy() == pytest.approx(-2.5 * np.log10(transmitted), rel=1e-4)


def test_dimming_is_in_magnitudes_and_grey():
    sky = galaxies(exposure())
    lost = aperture_magnitudes(quietly("dimming", sky, 1.3).flux) - aperture_magnitudes(sky.flux)
    assert torch.allclose(lost, torch.tensor(1.3).double(), atol=1e-4)


@pytest.mark.parametrize(("name", "strength"), [("dimming", 1.0), ("extinction", 0.5)])
@pytest.mark.parametrize("level", [0.0, 1e4, 2e6])
def test_a_dimmed_source_has_the_noise_of_a_fresh_exposure_of_it(name, strength, level):
    """Under sky and far above it; the exposure is the one it was."""
    e = exposure(read_noise=30.0)
    after = noisily(name, flat(e, level), strength)
    mean = quietly(name, Observation(torch.full((1, 3, 8, 8), level), e), strength).flux[0, :, 0, 0].double()
    assert_variance(after.flux, (mean + e.sky + e.visits * e.read_noise**2) / e.fraction)
    assert after.exposure.to_dict() == e.to_dict()


# ---------------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", NAMES)
def test_impossible_strengths_are_refused(name):
    impossible = (0.0, 1.5) if name == "shot_noise" else (-0.1, 1e9)
    for strength in (*impossible, float("nan"), float("inf"), -float("inf")):
        with pytest.raises(InputError, match=name):
            noisily(name, flat(exposure(), n=2, size=8), strength)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"curve": "F98"}, "Did you mean 'F99'"),
        ({"r_v": 0.5}, "r_v = 0.5"),
        ({"wavelengths": "g=blue"}, "wavelength 'g=blue'"),
        ({"wavelengths": "g"}, "wavelength 'g'"),
        ({"wavelengths": "q=4000"}, "unknown band 'q'"),
        ({"wavelengths": "g=500"}, "band g at 500 Angstrom"),
    ],
)
def test_extinction_refuses_options_that_mean_nothing(options, words):
    with pytest.raises(InputError, match=words):
        noisily("extinction", flat(exposure(), n=1, size=8), 0.1, **options)


def test_extinction_asks_for_the_wavelength_of_a_band_that_nobody_knows():
    e = Exposure(bands=("F606W",), pixel_scale=0.05, sky=100.0)  # pyright: ignore
    sky = Observation(torch.full((1, 1, 8, 8), 50.0), e)
    with pytest.raises(InputError, match="wavelengths='F606W=6200'"):
        quietly("extinction", sky, 0.1)
    assert float(quietly("extinction", sky, 0.1, wavelengths="F606W=5920").flux.mean()) < 50.0


@pytest.mark.parametrize("bands", ["r", "ugriz"])
@pytest.mark.parametrize("name", NAMES)
def test_any_number_of_bands_and_any_shape(name, bands):
    e, p = exposure(bands), get(name)
    sky = flat(e, n=2, size=12)
    sky = Observation(sky.flux[:, :, :8].contiguous(), e)
    after = p(sky, p.ladder[-1], Draws(ids(2), 0))
    assert after.flux.shape == (2, len(bands), 8, 12)
    alone = p(Observation(sky.flux[1:], e), p.ladder[-1], Draws(ids(2)[1:], 0))
    assert torch.allclose(after.flux[1:], alone.flux, rtol=1e-5, atol=1e-3)
