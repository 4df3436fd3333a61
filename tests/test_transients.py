"""The laws of transients and neighbours: how much light each adds, where, how wide, and what it does to the noise."""

import math

import galsim
import numpy as np
import pytest
import torch

from perturbations.core import Observation, get
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.exposure import Exposure
from perturbations.profiles import half_light

NAMES = ("supernova", "satellite_trail", "asteroid", "foreground_star", "blend", "ghost")
PRECISE = galsim.GSParams(folding_threshold=1e-4, maxk_threshold=1e-5)
PSFS = {
    "kolmogorov": galsim.Kolmogorov(fwhm=0.8, gsparams=PRECISE),
    "moffat": galsim.Moffat(beta=2.5, fwhm=0.8, gsparams=PRECISE),
}


class QuietDraws(Draws):
    """The same geometry without noise."""

    def normal(self, stream, shape=()):
        return torch.zeros(len(self), *shape, device=self.device)

    def scoped(self, scope, version):
        return QuietDraws(self.ids, self.seed, self.purpose, scope, version, self.device)


def names(n: int) -> list[str]:
    return [f"g{k}" for k in range(n)]


def exposure(**changes) -> Exposure:
    """Round numbers: 10 visits of 30 s, zero-points of 30, 31 and 32 mag."""
    numbers = {
        "bands": ("g", "r", "i"),
        "pixel_scale": 0.2,
        "sky": torch.tensor([1e4, 2e4, 4e4]),
        "fraction": 0.5,
        "visits": 10.0,
        "psf_fwhm": 0.8,
        "zeropoint": torch.tensor([30.0, 31.0, 32.0]),
    }
    return Exposure(**(numbers | changes))  # pyright: ignore


def blank(e: Exposure, n: int = 8, height: int = 61, width: int = 75) -> Observation:
    return Observation(torch.zeros(n, len(e.bands), height, width), e)


def light(name: str, sky: Observation, strength: float, seed: int = 0, **options) -> torch.Tensor:
    """The light that a perturbation adds, without noise, float64."""
    seen = get(name)(sky, strength, QuietDraws(names(len(sky.flux)), seed), **options)
    return (seen.flux - sky.flux).double()


def uniforms(name: str, stream: str, shape: tuple[int, ...], n: int = 8, seed: int = 0) -> np.ndarray:
    """The numbers that place a perturbation's light, so that an oracle can put it in the same place."""
    return Draws(names(n), seed).scoped(name, get(name).version).uniform(stream, shape).double().numpy()


def by_galsim(profile, sky: Observation, offset=(0.0, 0.0)) -> np.ndarray:
    height, width = sky.flux.shape[-2:]
    return profile.drawImage(nx=width, ny=height, scale=0.2, offset=(offset[1], offset[0]), dtype=float).array


def centroid(image: torch.Tensor) -> torch.Tensor:
    """Rows and columns from the centre of the stamp, (N, 2), of images (N, H, W)."""
    y = torch.arange(image.shape[1]).double() - 0.5 * (image.shape[1] - 1)
    x = torch.arange(image.shape[2]).double() - 0.5 * (image.shape[2] - 1)
    total = image.sum(dim=(1, 2))
    return torch.stack([(image.sum(dim=2) * y).sum(dim=1), (image.sum(dim=1) * x).sum(dim=1)], dim=1) / total[:, None]


def gaussian_sky(**changes) -> Exposure:
    """A PSF without wings, so that all light stays in a stamp."""
    return exposure(psf_shape="gaussian", **changes)


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", NAMES)
def test_added_light_has_its_own_photon_noise_and_no_other(name):
    """Where there is light, (flux - light)^2 is light / fraction on average; where there is none nothing changes."""
    p, sky = get(name), blank(exposure(sky=1e-6), n=48, height=40, width=40)
    strength = {"satellite_trail": 6.0, "asteroid": 14.0, "ghost": 1e9}.get(name, p.ladder[-1])
    if name == "ghost":
        strength, sky = 0.1, blank(exposure(sky=1e6), n=48, height=40, width=40)
    if name == "blend":
        sky = Observation(
            sky.flux + torch.from_numpy(by_galsim(galsim.Gaussian(0.8, flux=1e6), sky)).float(), sky.exposure
        )
    added = light(name, sky, strength)
    noise = (p(sky, strength, Draws(names(48), 0)).flux - sky.flux).double() - added
    bright = added > 300.0
    ratio = noise[bright].square() / (added[bright] / 0.5)
    assert len(ratio) > 1000
    assert float((ratio.mean() - 1.0).abs()) < 5.0 * math.sqrt(2.0 / len(ratio)) + 1e-3
    assert float(noise[added == 0.0].abs().max() if bool((added == 0.0).any()) else 0.0) < 1.0
    assert float(added.min()) >= 0.0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bands", [1, 5])
def test_any_number_of_bands_and_a_stamp_of_eight_pixels(name, bands):
    e = Exposure(bands=tuple("ugriz"[:bands]), pixel_scale=0.2, sky=1e3, psf_fwhm=0.8, zeropoint=30.0)  # pyright: ignore
    for n, height, width in ((1, 8, 8), (3, 9, 30)):
        sky = blank(e, n, height, width)
        seen = get(name)(sky, get(name).ladder[-1], Draws(names(n), 0))
        assert seen.flux.shape == (n, bands, height, width)
        assert seen.exposure is sky.exposure


@pytest.mark.parametrize("name", NAMES)
def test_numbers_per_galaxy_are_each_galaxys_own(name):
    rows = {
        "sky": torch.tensor([[1e4, 2e4], [3e4, 1e4], [2e4, 2e4]]),
        "fraction": torch.tensor([[0.2, 0.5], [0.3, 0.3], [1.0, 0.9]]),
        "visits": torch.tensor([[10.0, 20.0], [30.0, 10.0], [5.0, 7.0]]),
        "full_well": torch.tensor([[1e5, 2e5], [3e4, 4e4], [1e5, 9e4]]),
        "psf_fwhm": torch.tensor([[0.8, 0.7], [1.0, 0.9], [0.6, 1.2]]),
        "zeropoint": torch.tensor([[30.0, 31.0], [32.0, 33.0], [31.0, 30.0]]),
    }
    e, p = exposure(bands=("g", "r"), **rows), get(name)
    flux = (
        2e5
        * torch.from_numpy(by_galsim(galsim.Gaussian(1.0), blank(exposure(), 1))).float().expand(3, 2, -1, -1).clone()
    )
    draws = Draws(names(3), 0)
    together = p(Observation(flux, e), p.ladder[-1], draws)
    for k in range(3):
        alone = p(Observation(flux[[k]], e.take([k])), p.ladder[-1], draws.take([k]))
        single = exposure(bands=("g", "r"), **{key: value[k] for key, value in rows.items()})
        same = p(Observation(flux[[k]], single), p.ladder[-1], draws.take([k]))
        for one in (alone, same):
            assert torch.allclose(one.flux[0], together.flux[k], rtol=1e-4, atol=0.5)
            assert one.mask is None or torch.equal(one.mask[0], together.mask[k])


BAD = {
    "supernova": ({"offset": -1.0}, {"visits_share": 0.0}, {"visits_share": 1.5}, {"offset": math.inf}),
    "satellite_trail": (
        {"speed": 0.0},
        {"defocus": -1.0},
        {"reach": 2.0},
        {"bands": "two"},
        {"seconds_per_visit": 0.0},
        {"surviving_fraction": 1.1},
    ),
    "asteroid": (
        {"rate": -1.0},
        {"rate": 1e5},
        {"bands": "r"},
        {"seconds_per_visit": math.nan},
        {"surviving_fraction": -0.1},
    ),
    "foreground_star": (
        {"nearest": 9.0},
        {"nearest": -1.0},
        {"farthest": math.inf},
        {"spikes": 1.1},
        {"spike_length": 0.0},
    ),
    "blend": ({"separation": -1.0}, {"radius": 0.0}, {"radius": 6.0}, {"colour": "red"}),
    "ghost": ({"radius": 3.0}, {"radius": math.inf}, {"obscuration": 1.0}, {"visits_share": 0.0}),
}


@pytest.mark.parametrize("name", NAMES)
def test_impossible_strengths_and_options_are_refused(name):
    sky, p = blank(exposure(), 2, 12, 12), get(name)
    for strength in (math.nan, math.inf, -math.inf, -100.0, 1e4):
        with pytest.raises(InputError, match=name):
            p(sky, strength, Draws(names(2), 0))
    for options in BAD[name]:
        with pytest.raises(InputError, match=next(iter(options)) if "farthest" not in options else "arcsec"):
            p(sky, p.ladder[0], Draws(names(2), 0), **options)


@pytest.mark.parametrize("name", NAMES)
def test_an_exposure_without_the_numbers_it_needs_is_refused(name):
    p, missing = get(name), ["psf_fwhm"] + ["zeropoint"] * (name not in ("blend", "ghost"))
    for number in missing:
        with pytest.raises(InputError, match=number):
            p(blank(exposure(**{number: math.nan}), 2, 12, 12), p.ladder[0], Draws(names(2), 0))
    if name == "blend":
        with pytest.raises(InputError, match="zeropoint"):
            p(blank(exposure(zeropoint=math.nan), 2, 12, 12), 0.5, Draws(names(2), 0), colour="flat")


# ---------------------------------------------------------------- supernova


def test_a_supernova_has_its_magnitude_in_every_band():
    """To 0.01 mag in an aperture that holds the PSF; the zero-point is the magnitude of one electron."""
    for share in (1.0, 0.25):
        added = light("supernova", blank(gaussian_sky()), 22.0, visits_share=share).sum(dim=(2, 3))
        magnitude = torch.tensor([30.0, 31.0, 32.0]).double() - 2.5 * torch.log10(added / share)
        assert float((magnitude - 22.0).abs().max()) < 0.01


def test_a_supernova_lies_at_half_light_radii_of_its_own_galaxy_in_any_direction():
    n = 400
    sky = blank(gaussian_sky(), n, 61, 61)
    sizes = torch.linspace(0.6, 1.4, n)
    y = (torch.arange(61).float() - 30.0) * 0.2
    shape = torch.exp(-(y[:, None] ** 2 + y[None] ** 2) / (2.0 * sizes[:, None, None] ** 2))
    galaxies = Observation(sky.flux + 1e5 * shape[:, None], sky.exposure)
    place = centroid(light("supernova", galaxies, 15.0, offset=1.5).sum(dim=1)) * 0.2
    # half the light of a Gaussian lies within sqrt(2 log 2) sigma
    assert torch.allclose(place.norm(dim=1), 1.5 * math.sqrt(2.0 * math.log(2.0)) * sizes.double(), rtol=0.02)
    angle = torch.atan2(place[:, 0], place[:, 1])
    for order in (1, 2):
        assert float(torch.polar(torch.ones(n).double(), order * angle).mean().abs()) < 5.0 / math.sqrt(2.0 * n) * 1.5
    middle = centroid(light("supernova", galaxies, 15.0, offset=0.0).sum(dim=1))
    assert float(middle.abs().max()) < 0.02


@pytest.mark.parametrize("shape", PSFS)
def test_a_supernova_is_the_point_that_galsim_draws(shape):
    sky = blank(exposure(psf_shape=shape))
    added = light("supernova", sky, 20.0)
    angle = 2.0 * np.pi * uniforms("supernova", "direction", ())
    radius = half_light(sky)[0].numpy()
    for k in range(3):
        truth = by_galsim(PSFS[shape], sky, (radius[k] * np.sin(angle[k]), radius[k] * np.cos(angle[k])))
        assert np.abs(added[k, 0].numpy() / 1e4 - truth).max() < 2e-3 * truth.max()


# ---------------------------------------------------------------- satellite_trail


def trail_direction(image: torch.Tensor) -> torch.Tensor:
    """Angle of the line's normal in [0, pi), (N,), from second moments in a circle, for lines through the middle."""
    size = image.shape[-1]
    y = torch.arange(size).double() - 0.5 * (size - 1)
    circle = image * (y[:, None] ** 2 + y**2 < (0.45 * size) ** 2)
    yy, xx = (circle * y[:, None] ** 2).sum(dim=(1, 2)), (circle * y**2).sum(dim=(1, 2))
    xy = (circle * y[:, None] * y).sum(dim=(1, 2))
    return (0.5 * torch.atan2(2.0 * xy, xx - yy) + 0.5 * math.pi) % math.pi


def test_a_trail_has_the_electrons_of_its_magnitude_and_speed():
    """A row's sum is the charge per pixel of length over the cosine of the trail's normal to the row."""
    sky = blank(gaussian_sky(), 64, 81, 81)
    added = light("satellite_trail", sky, 9.0, speed=600.0, defocus=0.0, reach=0.0, bands="all")
    normal = trail_direction(added[:, 0])
    steep = normal.cos().abs() > 0.7
    # electrons per second over 10 visits of 30 s; 3000 pixels per second; one of five observed visits' scale
    charge = torch.pow(10.0, 0.4 * (torch.tensor([30.0, 31.0, 32.0]).double() - 9.0)) / 300.0 / 3000.0 / 0.5
    per_row = added[:, :, 30:51].sum(dim=3).mean(dim=2) * normal.cos().abs()[:, None]
    assert int(steep.sum()) > 15
    assert torch.allclose(per_row[steep] / charge, torch.ones(1).double(), atol=0.01)
    half = light("satellite_trail", sky, 9.0, speed=600.0, defocus=0.0, reach=0.0, bands="all", surviving_fraction=0.5)
    short = light("satellite_trail", sky, 9.0, speed=600.0, defocus=0.0, reach=0.0, bands="all", seconds_per_visit=15.0)
    assert torch.allclose(half, 0.5 * added, rtol=1e-4)
    assert torch.allclose(short, 2.0 * added, rtol=1e-4)


@pytest.mark.parametrize("defocus", [0.0, 3.0])
def test_a_trail_is_as_wide_as_psf_pixel_and_pupil(defocus):
    """Variances add: a Gaussian's, a pixel's 1/12, and R^2 (1 + e^2) / 4 of an annulus seen edge on."""
    sky = blank(gaussian_sky(), 32, 101, 101)
    added = light("satellite_trail", sky, 9.0, defocus=defocus, reach=0.0, bands="all")[:, 0]
    normal = trail_direction(added)
    y = torch.arange(101).double() - 50.0
    across = y[:, None] * normal.sin()[:, None, None] + y * normal.cos()[:, None, None]
    along = y[:, None] * normal.cos()[:, None, None] - y * normal.sin()[:, None, None]
    near = added * (along.abs() < 25.0) * (across.abs() < 20.0)
    variance = (near * across**2).sum(dim=(1, 2)) / near.sum(dim=(1, 2))
    outer = 0.5 * defocus / 0.2
    expected = (0.8 / 0.2) ** 2 / (8.0 * math.log(2.0)) + 1.0 / 12.0 + outer**2 * (1.0 + 0.61**2) / 4.0
    assert torch.allclose(variance / expected, torch.ones(1).double(), atol=0.02)


def test_trails_run_in_any_direction_and_across_the_stamp():
    n = 400
    sky = blank(gaussian_sky(), n, 33, 33)
    angle = trail_direction(light("satellite_trail", sky, 9.0, reach=0.0, bands="all")[:, 0])
    for order in (2, 4):
        assert float(torch.polar(torch.ones(n).double(), order * angle).mean().abs()) < 5.0 / math.sqrt(2.0 * n) * 1.5
    crossing = light("satellite_trail", sky, 9.0, defocus=0.0, bands="all")[:, 0]
    peak = crossing.flatten(1).amax(dim=1) / crossing.amax()
    assert float((peak > 0.5).double().mean()) > 0.97  # a few only touch a corner
    assert float(crossing[:, 16, 16].gt(0.3 * crossing.amax()).double().mean()) < 0.3  # and most miss the galaxy


def test_a_trail_is_in_one_filter_and_every_filter_has_its_turn():
    sky = blank(exposure(), 300, 12, 12)
    lit = light("satellite_trail", sky, 6.0).sum(dim=(2, 3)) > 0.0
    assert torch.equal(lit.sum(dim=1), torch.ones(300, dtype=torch.int64))
    assert float((lit.double().mean(dim=0) - 1.0 / 3.0).abs().max()) < 5.0 * math.sqrt(2.0 / 9.0 / 300.0)
    assert bool((light("satellite_trail", sky, 6.0, bands="all").sum(dim=(2, 3)) > 0.0).all())


@pytest.mark.parametrize("name", ["satellite_trail", "asteroid"])
def test_a_full_pixel_of_one_visit_stays_at_the_full_well_and_is_masked(name):
    """What sky and galaxy leave of the well, over the fraction; in the coadd much less than its own full well."""
    sky = blank(exposure(full_well=50_000.0), 12, 40, 40)
    sky = Observation(sky.flux + 1e5, sky.exposure)
    strength = {"satellite_trail": 0.0, "asteroid": 10.0}[name]
    seen = get(name)(sky, strength, QuietDraws(names(12), 0), bands="all")
    room = (50_000.0 - torch.tensor([1e4, 2e4, 4e4]) / 10.0 - 1e5 / 10.0)[:, None, None]
    added = seen.flux - sky.flux
    assert 0.005 < float(seen.mask.float().mean()) < 0.9
    assert torch.allclose(added[seen.mask], (room / 0.5).expand_as(added)[seen.mask], rtol=1e-4)
    assert bool((added < room / 0.5 * 0.9999)[~seen.mask].all())
    gone = get(name)(sky, strength, QuietDraws(names(12), 0), bands="all", surviving_fraction=0.0)
    assert torch.equal(gone.flux, sky.flux)
    assert not bool(gone.mask.any())


# ---------------------------------------------------------------- asteroid


def test_an_asteroid_has_the_flux_of_its_magnitude_in_one_visit():
    """Over all places, middle ones hold all of it: 10^(0.4 (zp - m)) / visits / fraction, in one filter."""
    added = light("asteroid", blank(gaussian_sky(), 200), 18.0)
    total, lit = added.sum(dim=(2, 3)), added.sum(dim=(2, 3)) > 0.0
    assert torch.equal(lit.sum(dim=1), torch.ones(200, dtype=torch.int64))
    expected = torch.pow(10.0, 0.4 * (torch.tensor([30.0, 31.0, 32.0]).double() - 18.0)) / 10.0 / 0.5
    ratio = (total / expected)[lit]
    assert float(ratio.median()) == pytest.approx(1.0, abs=2e-3)
    assert float(ratio.max()) < 1.002
    assert float((ratio > 0.99).double().mean()) > 0.7


@pytest.mark.parametrize("rate", [30.0, 900.0, 3600.0])
def test_an_asteroid_is_the_streak_that_galsim_draws(rate):
    """Of 0.25, 7.5 and 30 arcsec in 30 s, wherever it lies: nothing of the longest wraps around the stamp."""
    sky = blank(exposure(zeropoint=40.0))
    added = light("asteroid", sky, 15.0, rate=rate, bands="all")
    u, turn = uniforms("asteroid", "place", (2,)) - 0.5, np.pi * uniforms("asteroid", "direction", ())
    for k in range(5):
        box = galsim.Box(rate * 30.0 / 3600.0, 0.01).rotate(turn[k] * galsim.radians)
        seen = galsim.Convolve(box, PSFS["kolmogorov"])
        truth = by_galsim(seen, sky, (u[k, 0] * 61, u[k, 1] * 75))
        assert np.abs(added[k, 1].numpy() * 10.0 * 0.5 / 1e10 - truth).max() < 3e-3 * truth.max()


def test_asteroids_are_anywhere_in_the_stamp():
    place = centroid(light("asteroid", blank(gaussian_sky(), 300), 18.0, bands="all")[:, 0])
    for axis, size in ((0, 61), (1, 75)):
        x = place[:, axis] / size
        assert float(x.mean().abs()) < 5.0 / math.sqrt(12.0 * 300.0)
        assert float(x.var()) == pytest.approx(1.0 / 12.0, rel=0.2)


# ---------------------------------------------------------------- foreground_star


def test_a_star_has_its_magnitude_and_lies_anywhere_in_its_ring():
    n = 300
    sky = blank(gaussian_sky(), n, 101, 121)
    added = light("foreground_star", sky, 18.0, spikes=0.0, nearest=3.0, farthest=8.0)
    expected = torch.pow(10.0, 0.4 * (torch.tensor([30.0, 31.0, 32.0]).double() - 18.0))
    assert torch.allclose(added.sum(dim=(2, 3)) / expected, torch.ones(1).double(), atol=2e-3)
    radius = centroid(added[:, 0]).norm(dim=1) * 0.2
    assert 2.99 < float(radius.min()) < float(radius.max()) < 8.01
    squared = radius.square()  # uniform between 9 and 64
    assert float((squared.mean() - 36.5).abs()) < 5.0 * (64.0 - 9.0) / math.sqrt(12.0 * n)


@pytest.mark.parametrize("shape", PSFS)
def test_a_bright_star_at_the_border_is_galsims_and_does_not_wrap_around(shape):
    sky = blank(exposure(psf_shape=shape))
    added = light("foreground_star", sky, 10.0, spikes=0.0, nearest=6.0, farthest=6.5)
    u = uniforms("foreground_star", "place", (3,))
    radius, angle = np.sqrt(36.0 + u[:, 0] * (6.5**2 - 36.0)) / 0.2, 2.0 * np.pi * u[:, 1]
    for k in range(4):
        place = (radius[k] * np.sin(angle[k]), radius[k] * np.cos(angle[k]))
        ours, truth = added[k, 0].numpy() / 1e8, by_galsim(PSFS[shape], sky, place)
        assert np.abs(ours - truth).max() < 2e-3 * truth.max()
        far = PSFS[shape].shift(place[1] * 0.2, place[0] * 0.2)
        wing = far.drawImage(nx=75, ny=61, scale=0.2, method="no_pixel", dtype=float).array
        away = np.hypot(*np.mgrid[-30:31, -37:38] - np.array(place)[:, None, None]) > 40.0
        assert ours[away].sum() == pytest.approx(wing[away].sum(), rel=0.03)


def test_spikes_hold_their_share_and_fall_with_the_square_of_the_distance():
    """Two crossed lines; beyond `length` arcsec lies 2/pi atan(spike_length/length) of their light."""
    sky = blank(gaussian_sky(), 8, 201, 201)
    options = {"nearest": 0.0, "farthest": 0.0, "spikes": 0.1, "spike_length": 0.4}
    with_spikes, without = (
        light("foreground_star", sky, 15.0, **(options | change))[:, 0] / 1e6 for change in ({}, {"spikes": 0.0})
    )
    spikes = with_spikes - 0.9 * without
    y = (torch.arange(201).double() - 100.0) * 0.2
    turn = torch.from_numpy(0.5 * np.pi * uniforms("foreground_star", "place", (3,))[:, 2])[:, None, None]
    along, across = y[:, None] * turn.cos() - y * turn.sin(), y[:, None] * turn.sin() + y * turn.cos()
    for length in (3.0, 6.0):
        beyond = (spikes * ((along.abs() > length) | (across.abs() > length)) * (along.hypot(across) < 19.0)).sum(
            dim=(1, 2)
        )
        expected = 0.1 * 2.0 / math.pi * (math.atan(0.4 / length) - math.atan(0.4 / 19.0))
        assert torch.allclose(beyond / expected, torch.ones(1).double(), atol=0.03)
    whole = (with_spikes * (along.hypot(across) < 19.0)).sum(dim=(1, 2))
    kept = 0.9 + 0.1 * 2.0 / math.pi * math.atan(19.0 / 0.4)
    assert torch.allclose(whole, torch.tensor(kept).double(), atol=3e-3)
    between = (along.abs() > 3.0) & (across.abs() > 3.0)
    assert float((spikes * between).sum() / spikes.sum()) < 1e-4


def test_a_star_fills_the_well_in_every_visit_and_its_core_is_masked():
    sky = blank(exposure(full_well=50_000.0), 12)
    seen = get("foreground_star")(sky, 12.0, Draws(names(12), 0))
    free = light("foreground_star", blank(exposure(), 12), 12.0)
    most = (50_000.0 * 10.0 - torch.tensor([1e4, 2e4, 4e4]))[:, None, None]
    assert torch.equal(seen.mask, free.float() >= most)
    assert torch.allclose(seen.flux[seen.mask], most.expand_as(free)[seen.mask])
    assert 0.0 < float(seen.mask.float().mean()) < 0.5
    assert not bool(get("foreground_star")(sky, 25.0, Draws(names(12), 0)).mask.any())


# ---------------------------------------------------------------- blend


def hosts(e: Exposure, n: int = 8) -> Observation:
    """The same round galaxy everywhere, of 1e6, 2e6 and 3e6 electrons."""
    sky = blank(e, n, 81, 91)
    seen = by_galsim(galsim.Convolve(galsim.Exponential(half_light_radius=0.8), PSFS["moffat"]), sky)
    colours = torch.tensor([1e6, 2e6, 3e6])[:, None, None]
    return Observation((sky.flux + torch.from_numpy(seen).float() * colours).contiguous(), e)


@pytest.mark.parametrize("separation", [3.0, 7.0])
@pytest.mark.parametrize("shape", PSFS)
def test_a_neighbour_is_the_galaxy_that_galsim_draws(shape, separation):
    """Of the stated distributions, in its place; seven radii away, at the border, nothing of it wraps around."""
    sky = hosts(exposure(psf_shape=shape))
    added = light("blend", sky, 0.5, separation=separation)
    radius, flux = half_light(sky)
    u = uniforms("blend", "shape", (5,))
    assert 0 < (u[:, 3] < 0.5).sum() < 8  # both kinds are among them
    for k in range(8):
        size, q, beta = 0.6 * 2.0 ** (2.0 * u[k, 0] - 1.0), 0.3 + 0.7 * u[k, 1], np.pi * u[k, 2]
        kind = galsim.Exponential if u[k, 3] < 0.5 else galsim.DeVaucouleurs
        galaxy = kind(half_light_radius=size, gsparams=PRECISE).shear(q=q, beta=beta * galsim.radians)
        place = separation * float(radius[k]) * np.array([np.sin(2.0 * np.pi * u[k, 4]), np.cos(2.0 * np.pi * u[k, 4])])
        truth = by_galsim(galsim.Convolve(galaxy, PSFS[shape], gsparams=PRECISE), sky, place)
        for band in range(3):
            ours = added[k, band].numpy() / (0.5 * float(flux[k, band]))
            assert np.abs(ours - truth).max() < 5e-3 * truth.max()


def test_a_neighbour_has_its_share_of_the_galaxys_flux_in_every_band():
    """The galaxy's flux is measured to a few percent, its wings left out; compact neighbours lose little of theirs."""
    sky = hosts(exposure(psf_shape="moffat"))
    ratio = light("blend", sky, 0.25, radius=0.1).sum(dim=(2, 3)) / torch.tensor([1e6, 2e6, 3e6])
    assert torch.allclose(ratio, torch.full_like(ratio, 0.25), rtol=0.06)
    flat = light("blend", sky, 0.25, radius=0.1, colour="flat").sum(dim=(2, 3))
    density = flat * torch.pow(10.0, -0.4 * torch.tensor([30.0, 31.0, 32.0]).double())
    host = (torch.tensor([1e6, 2e6, 3e6]) * torch.pow(10.0, -0.4 * torch.tensor([30.0, 31.0, 32.0]).double())).mean()
    assert torch.allclose(density / host, torch.full_like(ratio, 0.25), rtol=0.06)


def test_neighbours_lie_at_their_separation_from_the_middle():
    sky = hosts(exposure(psf_shape="gaussian"), 64)
    for separation in (0.0, 1.5, 3.0):
        place = centroid(light("blend", sky, 1.0, separation=separation, radius=0.1).sum(dim=1)).norm(dim=1)
        assert torch.allclose(place, separation * half_light(sky)[0].double(), atol=0.3)


# ---------------------------------------------------------------- ghost


def ghost_centres(n: int, height: int, width: int, outer: float) -> np.ndarray:
    u = uniforms("ghost", "place", (3,), n)
    angle = 2.0 * np.pi * u[:, 2]
    return (u[:, :2] - 0.5) * (height, width) + outer * np.stack([np.sin(angle), np.cos(angle)], axis=1)


@pytest.mark.parametrize("shape", PSFS)
def test_a_ghost_is_the_ring_that_galsim_draws(shape):
    """A difference of two disks through the PSF and the pixel, at every pixel to one percent of its brightness."""
    sky = blank(exposure(psf_shape=shape))
    added = light("ghost", sky, 0.1)
    centres = ghost_centres(8, 61, 75, 100.0)
    ring = galsim.TopHat(20.0, flux=np.pi * 400.0) - galsim.TopHat(12.2, flux=np.pi * 12.2**2)
    for k in range(4):
        truth = by_galsim(galsim.Convolve(ring, PSFS[shape]), sky, centres[k]) / 0.04
        assert np.abs(added[k, 2].numpy() / (0.1 * 4e4) - truth).max() < 0.01


def test_a_ghost_is_as_bright_as_stated_inside_and_dark_outside():
    n, outer = 64, 100.0
    sky = blank(gaussian_sky(), n)
    added = light("ghost", sky, 0.01, visits_share=0.5) / (0.01 * 0.5 * torch.tensor([1e4, 2e4, 4e4]))[:, None, None]
    centres = ghost_centres(n, 61, 75, outer)
    y, x = np.mgrid[-30:31, -37:38]
    r = np.hypot(y - centres[:, 0, None, None], x - centres[:, 1, None, None])
    inside, outside = (r < outer - 8.0) & (r > 61.0 + 8.0), (r > outer + 8.0) | (r < 61.0 - 8.0)
    for band in range(3):
        values = added[:, band].numpy()
        assert np.abs(values[inside] - 1.0).max() < 1e-3
        assert np.abs(values[outside]).max() < 1e-3
        covered = ((r < outer) & (r > 61.0)).mean()
        assert values.mean() == pytest.approx(covered, rel=0.01)
    assert 0.2 < covered < 0.6  # the edge crosses the stamp


def test_a_ghost_without_obscuration_is_a_disk():
    sky = blank(gaussian_sky())
    added = light("ghost", sky, 0.1, obscuration=0.0, radius=9.0)[:, 0] / 1e3
    centres = ghost_centres(8, 61, 75, 45.0)
    y, x = np.mgrid[-30:31, -37:38]
    r = np.hypot(y - centres[:, 0, None, None], x - centres[:, 1, None, None])
    assert np.abs(added.numpy()[r < 35.0] - 1.0).max() < 2e-3
