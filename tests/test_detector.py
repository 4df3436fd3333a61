"""The laws of damaged pixels: how many, where, how much charge, and what a repair leaves."""

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch

from perturbations.core import Observation, get
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.exposure import Exposure

N, SIZE = 48, 40
STATIC = ("hot_pixels", "dead_pixels", "bad_columns")
DAMAGING = (*STATIC, "cosmic_rays")


def exposure(bands="gri", fraction=0.6, **changes) -> Exposure:
    return Exposure.from_survey("LSST", bands=bands, fraction=fraction).replace(**changes)


def flat(e: Exposure, n: int = N, size=(SIZE, SIZE), flux: float = 0.0) -> Observation:
    return Observation(torch.full((n, len(e.bands), *size), flux), e)


def draws(n: int = N, seed: int = 0) -> Draws:
    return Draws([f"g{k}" for k in range(n)], seed)


def binomial(hits: torch.Tensor, p: float) -> float:
    """How many sigma the number of hits is off."""
    n = hits.numel()
    return float(abs(hits.sum() - n * p) / (n * p * (1 - p)) ** 0.5)


def masked(o: Observation) -> torch.Tensor:
    assert o.mask is not None
    return o.mask


@pytest.mark.parametrize("name", ["hot_pixels", "dead_pixels"])
def test_the_number_of_bad_pixels_is_binomial_and_the_sets_are_nested(name):
    p, sky, last = get(name), flat(exposure()), None
    for fraction in p.ladder:
        hit = masked(p(sky, fraction, draws()))
        assert binomial(hit, fraction) < 5.0
        assert torch.equal(hit, p(sky, fraction, draws()).flux != 0)
        assert last is None or bool((hit | ~last).all())
        last = hit
    assert last is not None
    assert not torch.equal(last[:, 0], last[:, 1])


def test_the_charge_of_hot_pixels_is_log_uniform_and_enters_one_visit_or_all():
    sky = flat(exposure(sky=0.0))
    once = get("hot_pixels")(sky, 0.01, draws(), coldest=20.0, hottest=2e4)
    charge = 0.6 * once.flux[masked(once)].double()
    expected = scipy.stats.loguniform(20.0, 2e4)
    assert scipy.stats.kstest(charge.numpy(), expected.cdf).pvalue > 1e-6
    always = get("hot_pixels")(sky, 0.01, draws(), coldest=20.0, hottest=2e4, dithered=False)
    frames = (0.6 * sky.exposure.visits).float()[:, None, None]
    assert torch.allclose(always.flux, once.flux * frames, rtol=1e-5)
    half = get("hot_pixels")(sky, 0.01, draws(), coldest=20.0, hottest=2e4, surviving_fraction=0.25)
    assert torch.allclose(half.flux, 0.25 * once.flux, rtol=1e-5)


def test_a_hot_pixel_holds_no_more_than_its_well():
    e = exposure(full_well=1500.0)
    for flux in (0.0, 1e5, 1e6):
        sky = flat(e, flux=flux)
        hot = get("hot_pixels")(sky, 0.02, draws(), dithered=False, coldest=1000.0, hottest=1e5)
        held = (hot.flux + e.pixels("sky", hot.flux)) / e.pixels("visits", hot.flux)
        before = (sky.flux + e.pixels("sky", hot.flux)) / e.pixels("visits", hot.flux)
        assert bool((held <= before.clamp_min(1500.0) * (1 + 1e-5)).all())
        assert bool((held >= before * (1 - 1e-5)).all())


def test_a_dead_pixel_reads_neither_light_nor_sky():
    e = exposure()
    sky = flat(e, flux=3e4)
    dead = get("dead_pixels")(sky, 0.01, draws())
    depth = -e.pixels("sky", sky.flux).expand_as(sky.flux)
    hit = masked(dead)
    assert torch.allclose(dead.flux[hit], depth[hit], atol=0.05)
    assert torch.equal(dead.flux[~hit], sky.flux[~hit])
    once = get("dead_pixels")(sky, 0.01, draws(), dithered=True, surviving_fraction=0.5)
    lost = 0.5 * (3e4 - depth) / (0.6 * e.pixels("visits", sky.flux))
    assert torch.allclose((sky.flux - once.flux)[hit], lost[hit], rtol=1e-4)
    single = flat(Exposure(bands=("r",), pixel_scale=0.2, sky=500.0, fraction=0.1), flux=70.0)  # pyright: ignore
    for dithered in (False, True):
        seen = get("dead_pixels")(single, 0.1, draws(), dithered=dithered)
        assert torch.allclose(seen.flux[masked(seen)], torch.tensor(-500.0), atol=1e-3)


def test_bad_columns_are_whole_blocked_or_bright():
    e = exposure()
    sky = flat(e, n=400, size=(9, 60), flux=1000.0)
    p, d = get("bad_columns"), draws(400)
    last = None
    for fraction in p.ladder:
        hit = masked(p(sky, fraction, d))
        assert torch.equal(hit.any(dim=2), hit.all(dim=2))
        assert binomial(hit[:, :, 0], fraction) < 5.0
        assert last is None or bool((hit | ~last).all())
        last = hit
    bad = p(sky, 0.1, d, bright_share=0.3, coldest=5.0, hottest=500.0)
    change = (bad.flux - sky.flux).movedim(2, -1)[masked(bad)[:, :, 0]]
    assert float((change - change[:, :1]).abs().max()) < 0.1
    bright = change[:, 0] > 0
    assert binomial(bright, 0.3) < 5.0
    depth = (-e.pixels("sky", sky.flux) - 1000.0).expand(400, 3, 1, 60).movedim(2, -1)[masked(bad)[:, :, 0]][:, 0]
    assert torch.allclose(change[~bright][:, 0], depth[~bright], atol=0.1)
    visits = e.pixels("visits", sky.flux).expand(400, 3, 1, 60).movedim(2, -1)[masked(bad)[:, :, 0]][:, 0]
    charge = (change[:, 0] / visits)[bright].double().numpy()
    assert scipy.stats.kstest(charge, scipy.stats.loguniform(5.0, 500.0).cdf).pvalue > 1e-6
    once = p(sky, 0.1, d, bright_share=0.3, coldest=5.0, hottest=500.0, dithered=True, surviving_fraction=0.5)
    ratio = 0.5 / (0.6 * e.pixels("visits", sky.flux))
    assert torch.allclose(once.flux - sky.flux, (bad.flux - sky.flux) * ratio, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("name", DAMAGING)
def test_a_repair_takes_the_neighbours_and_keeps_the_mask(name):
    """On a smooth gradient, what a repair leaves is far smaller than the damage; pixels masked before do not help."""
    e = exposure("r")
    slope = torch.linspace(0.0, 4e4, SIZE)[:, None].expand(N, 1, SIZE, SIZE).clone()
    before = torch.zeros(N, 1, SIZE, SIZE, dtype=torch.bool)
    before[:, :, 10, :] = True
    sky = Observation(torch.where(before, 1e9, slope), e, before)
    p = get(name)
    raw, fixed = (p(sky, p.ladder[-1], draws(), repaired=repaired) for repaired in (False, True))
    assert torch.equal(masked(raw), masked(fixed))
    assert bool((masked(fixed) | ~before).all())
    hit = masked(raw) & ~before
    assert int(hit.sum()) > 100
    assert float((fixed.flux - slope)[hit].abs().max()) < 4e4 / SIZE * 4
    untouched = ~masked(raw)
    assert torch.equal(fixed.flux[untouched], raw.flux[untouched])


@pytest.mark.parametrize("name", STATIC)
def test_every_galaxy_has_its_own_exposure(name):
    """Numbers per galaxy act like a batch of one with those numbers."""
    fractions = torch.linspace(0.1, 1.0, 4)[:, None].expand(4, 5).double()
    e = exposure("grizy").replace(fraction=fractions, sky=torch.linspace(1e4, 1e5, 4)[:, None].double())
    sky, p = flat(e, 4, (20, 30), 500.0), get(name)
    for dithered in (False, True):
        whole = p(sky, p.ladder[-1], draws(4), dithered=dithered).flux
        for k in range(4):
            one = p(Observation(sky.flux[[k]], e.take([k])), p.ladder[-1], draws(4).take([k]), dithered=dithered).flux
            assert torch.equal(one[0], whole[k])


def alone(e: Exposure, n: int, size: int, hits_each: float, **options) -> Observation:
    """Blank stamps with cosmic rays, `hits_each` of them in the mean."""
    seconds = options.setdefault("visit_seconds", 30.0) * float(e.fraction[0] * e.visits[0])
    area = (size * options.get("pixel_um", 10.0) * 1e-4) ** 2
    return get("cosmic_rays")(flat(e, n, (size, size)), hits_each / area / seconds, draws(n), **options)


def count_spots(mask: torch.Tensor) -> int:
    labels = np.zeros(mask.shape, dtype=np.int32)
    scipy.ndimage.label(mask.numpy(), np.ones((3, 3)), output=labels)
    return int(labels.max())


def test_cosmic_ray_hits_are_poisson_with_rate_area_and_time():
    """Thin silicon gives short tracks: connected spots are hits. Each band has its own time."""
    e, n, size = exposure("gr", 0.5), 100, 200
    rays = get("cosmic_rays")(
        flat(e, n, (size, size)), 0.05, draws(n), pixel_um=20.0, thickness_um=2.0, visit_seconds=15.0
    )
    for band, visits in enumerate((80, 184)):
        mean = 0.05 * (size * 20e-4) ** 2 * 15.0 * 0.5 * visits
        spots = [count_spots(m[band]) for m in masked(rays)]
        # spots merge where a second one falls on some 30 pixels around the first, and split at the border
        assert abs(np.mean(spots) - mean) < 5.0 * (mean / n) ** 0.5 + 0.03 * mean


def test_cosmic_ray_charge_is_that_of_the_path():
    """Mean 4/3 of the thickness x the mean loss; q/f in one visit; and the whole charge is in the image."""
    e, n = exposure("r", 0.5), 2000
    rays = alone(e, n, 64, 4.0)
    per_um = 75.0 + 4.9 * (np.euler_gamma + np.log(2.0))
    mean = 4.0 * 100.0 * 4.0 / 3.0 * per_um
    # a path has the second moment 2 (thickness^2); Moyal's variance is pi^2/2
    second = 4.0 * 2.0 * 100.0**2 * (per_um**2 + 4.9**2 * np.pi**2 / 2.0)
    seen = 0.5 * rays.flux.sum(dim=(1, 2, 3)).double()
    assert abs(float(seen.mean()) - mean) < 5.0 * (second / n) ** 0.5
    half = alone(e, n, 64, 4.0, surviving_fraction=0.5)
    assert torch.allclose(half.flux, 0.5 * rays.flux, rtol=1e-5)
    shallow = e.replace(fraction=e.fraction / 2, visits=e.visits * 2)
    assert torch.allclose(alone(shallow, n, 64, 4.0).flux, 2.0 * rays.flux, rtol=1e-5)


def test_energy_loss_is_moyals():
    from perturbations.detector.cosmic_rays import _moyal

    sample = _moyal(draws(20).uniform("loss", (500,))).flatten().double().numpy()
    assert scipy.stats.kstest(sample, scipy.stats.moyal.cdf).pvalue > 1e-6


def test_cosmic_ray_tracks_are_as_long_as_the_silicon_is_deep_and_point_anywhere():
    """Median length 0.644 x thickness, as cos^4 of the zenith angle is uniform; no preferred direction."""
    n, size, depth = 3000, 64, 20.0
    rays = alone(exposure("r"), n, size, 0.1, thickness_um=10.0 * depth)
    light = rays.flux[:, 0].double()
    lit = light[light.sum(dim=(1, 2)) > 0]
    middle = lit.flatten(1).argmax(dim=1)
    shift = torch.arange(size)
    y = (shift[None] + middle[:, None] // size - size // 2) % size
    x = (shift[None] + middle[:, None] % size - size // 2) % size
    lit = torch.gather(torch.gather(lit, 1, y[:, :, None].expand_as(lit)), 2, x[:, None, :].expand_as(lit))
    lit = lit / lit.sum(dim=(1, 2), keepdim=True)
    at = shift.double() - size // 2
    my, mx = (lit.sum(dim=2) * at).sum(dim=1), (lit.sum(dim=1) * at).sum(dim=1)
    yy = (lit.sum(dim=2) * at**2).sum(dim=1) - my**2
    xx = (lit.sum(dim=1) * at**2).sum(dim=1) - mx**2
    xy = (lit * at[:, None] * at).sum(dim=(1, 2)) - mx * my
    spread = ((yy - xx) ** 2 + 4 * xy**2).sqrt()
    length = (12.0 * spread).sqrt()
    # density of tan(angle) at its median 0.6436 is 0.910; 5 % of these stamps have two tracks
    error = 1.0 / (2.0 * 0.910 * len(lit) ** 0.5) + 0.05 / 0.910 / 5
    assert abs(float(length.median()) / depth - 0.6436) < 5.0 * error
    for part in ((yy - xx) / spread, 2 * xy / spread):
        assert abs(float(part.mean())) < 5.0 * (0.5 / len(lit)) ** 0.5


def test_a_low_rate_of_cosmic_rays_is_part_of_a_high_one():
    sky, p = flat(exposure()), get("cosmic_rays")
    last = torch.zeros_like(sky.flux)
    for rate in p.ladder:
        now = p(sky, rate, draws()).flux
        assert bool((now >= last * (1 - 1e-5) - 1e-3).all())
        last = now


def test_an_exposure_that_no_particle_hits_stays_as_it_is():
    sky = flat(exposure(), 3, (8, 8), 5.0)
    quiet = get("cosmic_rays")(sky, 1e-9, draws(3))
    assert torch.equal(quiet.flux, sky.flux)
    assert not bool(masked(quiet).any())


def test_a_track_over_a_tiny_stamp_wraps_and_a_batch_of_one_is_the_same():
    p, sky = get("cosmic_rays"), flat(exposure("ugrizy"), 5, (8, 11))
    whole = p(sky, 20.0, draws(5))
    assert bool(masked(whole).any())
    for k in range(5):
        one = p(Observation(sky.flux[[k]], sky.exposure), 20.0, draws(5).take([k]))
        assert torch.allclose(one.flux[0], whole.flux[k], rtol=1e-5)


@pytest.mark.parametrize("name", DAMAGING)
def test_what_rejection_removed_is_neither_seen_nor_masked(name):
    p, sky = get(name), flat(exposure())
    options = {"dithered": True} if name in STATIC else {}
    gone = p(sky, p.ladder[-1], draws(), surviving_fraction=0.0, **options)
    assert torch.equal(gone.flux, sky.flux)
    assert gone.mask is None
    with pytest.raises(InputError, match="surviving_fraction"):
        p(sky, p.ladder[-1], draws(), surviving_fraction=1.5)


@pytest.mark.parametrize("name", DAMAGING)
def test_impossible_numbers_of_damage_are_refused(name):
    p, sky = get(name), flat(exposure(), 2)
    for strength in (-0.01, float("nan"), float("inf"), *((1.01,) if name in STATIC else (1e4,))):
        with pytest.raises(InputError, match=name):
            p(sky, strength, draws(2))
    wrong = {
        "hot_pixels": ({"coldest": 0.0}, {"coldest": 10.0, "hottest": 5.0}, {"hottest": float("inf")}),
        "bad_columns": ({"bright_share": 1.1}, {"coldest": -1.0}, {"hottest": 1.0}),
        "cosmic_rays": ({"pixel_um": 0.0}, {"thickness_um": 1e5}, {"visit_seconds": -1.0}),
        "dead_pixels": ({"surviving_fraction": float("nan")},),
    }[name]
    for options in wrong:
        with pytest.raises(InputError, match=name):
            p(sky, p.ladder[0], draws(2), **options)
