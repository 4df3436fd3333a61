"""The laws of charge in full or leaking wells, and of the electronics that read it."""

import galsim
import numpy as np
import pytest
import torch

from perturbations.core import Observation, get
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.exposure import Exposure

N, H, W = 32, 44, 36
CHARGE = ("saturation", "persistence", "crosstalk", "amplifier_step", "nonlinearity", "brighter_fatter")


def exposure(bands="gri", fraction=0.6, **changes) -> Exposure:
    return Exposure.from_survey("LSST", bands=bands, fraction=fraction).replace(**changes)


def blank(e: Exposure, n: int = N, size=(H, W), noise: bool = False) -> Observation:
    flux = torch.zeros(n, len(e.bands), *size)
    if noise:
        flux = Draws([f"g{k}" for k in range(n)], 0, "simulate").normal("noise", flux.shape[1:])
        flux = flux * e.variance(torch.zeros_like(flux)).sqrt()
    return Observation(flux, e)


def galaxies(e: Exposure, n: int = N, size=(H, W), peak: float = 1e6) -> Observation:
    y = torch.arange(size[0])[:, None] - size[0] // 2
    x = torch.arange(size[1]) - size[1] // 2
    colour = torch.linspace(0.3, 1.0, len(e.bands))[:, None, None]
    brightness = torch.linspace(0.5, 1.0, n)[:, None, None, None]
    return Observation(peak * brightness * colour * torch.exp(-torch.hypot(0.7 * y, x) / 3.0), e)


def draws(n: int = N, kind=Draws) -> Draws:
    return kind([f"g{k}" for k in range(n)], 0)


class Quiet(Draws):
    def normal(self, stream, shape=()):
        return torch.zeros(len(self), *shape, device=self.device)


# saturation


def bled_by_hand(column: np.ndarray, full: float) -> np.ndarray:
    """Half of each excess goes down, then half goes up, pixel by pixel until it finds room."""
    held = np.minimum(column, full)
    excess = column - held
    for order in (range(len(column)), reversed(range(len(column)))):
        moving = 0.0
        for k in order:
            moving += excess[k] / 2
            taken = min(moving, full - held[k])
            held[k] += taken
            moving -= taken
    return held


def test_charge_bleeds_along_the_column_until_it_finds_room():
    """Columns with several cores, against a walk along each of them."""
    from perturbations.detector.saturation import _bled

    rng = np.random.default_rng(0)
    columns = rng.exponential(300.0, (60, 50)) + 3000.0 * (rng.random((60, 50)) < 0.08)
    full = torch.full((60, 1), 700.0)
    ours, hit = _bled(torch.from_numpy(columns).float(), full, torch.ones(60, 50, dtype=torch.bool))
    truth = np.stack([bled_by_hand(c.astype(np.float32).astype(np.float64), 700.0) for c in columns])
    assert np.abs(ours.numpy() - truth).max() < 1e-3
    assert np.array_equal(hit.numpy(), np.abs(truth - columns) > 1e-3)
    # a single core spreads evenly: 3 times the well in an empty column fills three pixels
    core = torch.zeros(1, 9)
    core[0, 4] = 2100.0
    spread, _ = _bled(core, full[:1], torch.ones(1, 9, dtype=torch.bool))
    assert spread.tolist() == [[0.0, 0.0, 0.0, 700.0, 700.0, 700.0, 0.0, 0.0, 0.0]]


@pytest.mark.parametrize("wells_filled", get("saturation").ladder)
def test_saturation_conserves_charge_and_leaves_no_pixel_above_the_well(wells_filled):
    sky = galaxies(exposure())
    full = get("saturation")(sky, wells_filled, draws())
    assert full.mask is not None
    assert torch.allclose(full.flux.sum(dim=2), sky.flux.sum(dim=2), rtol=1e-5)
    assert torch.equal(full.flux[~full.mask], sky.flux[~full.mask])
    # the level: the same brightening in each band, whose wells hold the full well less the sky
    e = exposure()
    room = (e.full_well * e.visits - e.sky).float()
    peak = (sky.flux.amax(dim=(2, 3)) / room).amax(dim=1)
    level = (peak[:, None] * room / wells_filled)[:, :, None, None]
    assert bool((full.flux <= level * (1 + 1e-5)).all())
    assert torch.equal((full.flux > level * (1 - 1e-5)).any(dim=3).any(dim=2), (sky.flux > level).any(dim=3).any(dim=2))
    assert bool(full.mask[:, -1].any(dim=(1, 2)).all())


def test_no_blank_lsst_sky_saturates():
    e = Exposure.from_survey("LSST", bands="ugrizy")
    assert bool((e.sky / e.visits < 0.05 * e.full_well).all())
    sky = blank(e, noise=True)
    for wells_filled in get("saturation").ladder:
        full = get("saturation")(sky, wells_filled, draws())
        assert torch.equal(full.flux, sky.flux)
        assert full.mask is not None
        assert not bool(full.mask.any())


def test_damaged_pixels_neither_set_the_level_nor_bleed():
    sky = galaxies(exposure())
    hot, mask = sky.flux.clone(), torch.zeros(N, 1, H, W, dtype=torch.bool)
    mask[:, :, 5, W // 2], hot[:, :, 5, W // 2] = True, 1e9
    plain = get("saturation")(sky, 3.0, draws())
    seen = get("saturation")(Observation(hot, sky.exposure, mask), 3.0, draws())
    good = ~mask.expand_as(hot)
    assert torch.allclose(seen.flux[good], plain.flux[good])
    assert torch.equal(seen.flux[~good], hot[~good])


def test_a_repaired_core_has_no_trail():
    sky = galaxies(exposure())
    raw, fixed = (get("saturation")(sky, 3.0, draws(), repaired=r) for r in (False, True))
    assert raw.mask is not None
    assert fixed.mask is not None
    assert torch.equal(raw.mask, fixed.mask)
    assert torch.equal(raw.flux[~raw.mask], fixed.flux[~raw.mask])
    assert float((fixed.flux - raw.flux)[raw.mask].abs().mean()) > 1e3


def test_saturation_refuses_a_sky_that_fills_the_well():
    with pytest.raises(InputError, match="sky of one visit"):
        get("saturation")(blank(exposure(full_well=500.0)), 2.0, draws())


# persistence and crosstalk


def test_an_afterimage_is_a_fraction_of_the_well_in_one_visit_with_its_photon_noise():
    """Under a star so bright that the whole stamp was full, the light is flat: released x full well / f."""
    e = exposure(full_well=torch.tensor([5e4, 1e5, 2e5]))
    ghost = get("persistence")(blank(e), 0.02, draws(), magnitude=-5.0, surviving_fraction=0.5).flux.double()
    mean = 0.5 * 0.02 * e.full_well / 0.6
    n = N * H * W
    variance = ghost.var(dim=(0, 2, 3))
    assert float(((ghost.mean(dim=(0, 2, 3)) - mean) / (mean / 0.6 / n).sqrt()).abs().max()) < 5.0
    assert float((variance / (mean / 0.6) - 1.0).abs().max()) < 5.0 * (2.0 / n) ** 0.5


@pytest.mark.parametrize(("name", "magnitude"), [("persistence", 18.0), ("persistence", 14.0), ("crosstalk", 14.0)])
def test_a_ghost_is_galsims_star_cut_off_at_the_full_well(name, magnitude):
    e = exposure("gr", 1.0)
    place = draws(4).scoped(name, get(name).version).uniform("place", (2, 2))
    ghost = get(name)(blank(e, 4, (48, 40)), 0.01, draws(4, Quiet), magnitude=magnitude).flux
    for band in range(2):
        charge = 10 ** (0.4 * (float(e.zeropoint[band]) - magnitude)) / float(e.visits[band])
        added = 0.01 * (float(e.visits[band]) if name == "crosstalk" else 1.0)
        psf = galsim.Kolmogorov(fwhm=float(e.psf_fwhm[band]), flux=charge)
        for k in range(4):
            y, x = place[k, band].tolist()
            stamp = galsim.ImageD(40, 48, scale=0.2)
            psf.drawImage(stamp, offset=((x - 0.5) * 40, (y - 0.5) * 48))
            truth = np.minimum(stamp.array, 1e5) * added
            assert np.abs(ghost[k, band].numpy() - truth).max() < 3e-3 * min(charge, 1e5) * added
    assert not torch.allclose(place[:, 0], place[:, 1])


def test_crosstalk_of_a_star_is_in_every_visit_and_may_be_negative():
    e = exposure(full_well=torch.tensor([5e4, 1e5, 2e5]))
    sky = blank(e, noise=True)
    ghost = get("crosstalk")(sky, 1e-4, draws(), magnitude=-5.0)
    added = ghost.flux - sky.flux
    expected = (1e-4 * e.full_well * e.visits).float()[:, None, None]
    assert torch.allclose(added, expected.expand_as(added), rtol=1e-3)
    negative = get("crosstalk")(sky, 1e-4, draws(), magnitude=-5.0, negative=True)
    assert torch.allclose(negative.flux - sky.flux, -added, rtol=1e-3)


def test_crosstalk_of_the_galaxy_is_its_image_mirrored_at_a_border():
    e = exposure(full_well=float("inf"), psf_fwhm=float("nan"), zeropoint=float("nan"))
    sky = galaxies(e)
    ghost = get("crosstalk")(sky, 0.01, draws(), aggressor="galaxy").flux - sky.flux
    found = set()
    for k in range(N):
        for c in range(3):
            padded = np.zeros((W - 1, H, W), dtype=np.float32)
            source = sky.flux[k, c].numpy()
            for border in range(1, W):
                for column in range(W):
                    if 0 <= 2 * border - 1 - column < W:
                        padded[border - 1, :, column] = 0.01 * source[:, 2 * border - 1 - column]
            off = np.abs(padded - ghost[k, c].numpy()).max(axis=(1, 2))
            assert off.min() < 0.1
            found.add(int(off.argmin()) + 1)
    assert len(found) > W // 2
    with pytest.raises(InputError, match="aggressor"):
        get("crosstalk")(sky, 0.01, draws(), aggressor="moon")


# the electronics


def test_an_amplifier_step_splits_each_band_in_two_and_keeps_the_mean():
    n, e = 400, exposure()
    step = get("amplifier_step")(blank(e, n, (8, W)), 4.0, draws(n)).flux
    assert torch.equal(step, step[:, :, :1].expand_as(step))
    row = step[:, :, 0] / e.visits.float()[:, None]
    assert torch.allclose(row.abs(), torch.tensor(2.0))
    jump = torch.diff(row, dim=2)
    assert bool(((jump != 0).sum(dim=2) == 1).all())
    rising = (jump.sum(dim=2) > 0).float()
    assert abs(float(rising.mean()) - 0.5) < 5.0 * 0.5 / (3 * n) ** 0.5
    border = (jump != 0).float().argmax(dim=2).double() + 1
    assert abs(float(border.mean()) - W / 2) < 5.0 * W / 12**0.5 / (3 * n) ** 0.5
    assert float(border.min()) == 1
    assert float(border.max()) == W - 1


@pytest.mark.parametrize("alpha", [0.01, 0.1, 0.4])
def test_nonlinearity_is_the_measured_charge_less_the_measured_sky(alpha):
    e = exposure()
    sky = galaxies(e, peak=1e7)
    seen = get("nonlinearity")(sky, alpha, draws())
    visits, level = e.visits[:, None, None], e.sky[:, None, None]
    charge, dark = (sky.flux.double() + level) / visits, level / visits
    assert 0.5 < float(charge.max()) / 1e5 < 1.0
    expected = visits * (charge * (1 - alpha * charge / 1e5) - dark * (1 - alpha * dark / 1e5))
    assert torch.allclose(seen.flux.double(), expected, rtol=1e-5, atol=0.1)
    scaled = e.rescaled(1 - 2 * alpha * e.sky / e.visits / 1e5)
    assert torch.allclose(seen.exposure.sky, scaled.sky, rtol=1e-6)
    assert torch.allclose(seen.exposure.fraction, scaled.fraction, rtol=1e-6)
    over = get("nonlinearity")(Observation(sky.flux * 100, e), alpha, draws()).flux
    top = (sky.flux.double() * 100 + level) / visits > 1e5
    measured = (sky.flux.double() * 100 + level) * (1 - alpha) - level * (1 - alpha * dark / 1e5)
    assert torch.allclose(over.double()[top], measured[top], rtol=1e-5)


def test_nonlinearity_compresses_the_noise_of_the_sky_as_its_exposure_says():
    sky = blank(exposure(full_well=4000.0), 64, noise=True)
    seen = get("nonlinearity")(sky, 0.2, draws(64))
    ratio = (seen.flux.double().var(dim=(0, 2, 3)) / sky.flux.double().var(dim=(0, 2, 3))).sqrt()
    law = (seen.exposure.variance(torch.zeros(1, 3, 1, 1)) / sky.exposure.variance(torch.zeros(1, 3, 1, 1))).sqrt()
    assert float(law.min()) < 0.91
    assert torch.allclose(ratio.float(), law[0, :, 0, 0], rtol=2e-3)


def second_moment(flux: torch.Tensor) -> torch.Tensor:
    y = torch.arange(flux.shape[2]).double()[:, None] - flux.shape[2] // 2
    x = torch.arange(flux.shape[3]).double() - flux.shape[3] // 2
    return (flux.double() * (y**2 + x**2)).sum(dim=(2, 3)) / flux.double().sum(dim=(2, 3)) / 2


def star(e: Exposure, filled: float, size: int = 41) -> Observation:
    image = galsim.Gaussian(fwhm=0.8).drawImage(nx=size, ny=size, scale=e.pixel_scale, dtype=np.float32).array
    scale = (e.full_well * e.visits).float()[:, None, None]
    return Observation((torch.from_numpy(image / image.max()).float() * filled * scale)[None], e)


def test_brighter_stars_are_fatter_in_proportion():
    """Charge is conserved, and the second moment grows with the flux and with the strength."""
    e = exposure("r", sky=0.0)
    first = None
    for filled, lost in ((0.2, 0.1), (0.4, 0.1), (0.8, 0.1), (0.4, 0.2), (0.4, 0.5)):
        sky = star(e, filled)
        fat = get("brighter_fatter")(sky, lost, draws(1)).flux
        assert float(fat.double().sum() / sky.flux.double().sum()) == pytest.approx(1.0, abs=1e-6)
        growth = float(second_moment(fat) - second_moment(sky.flux)) / (filled * lost)
        first = growth if first is None else first
        assert growth > 0.0
        assert growth == pytest.approx(first, rel=2e-3)


def test_a_full_pixel_on_a_flat_field_has_lost_the_stated_area():
    """A little more charge in one pixel of a half-full field: lost x (held / full well) of it is pushed out."""
    e = exposure("r", full_well=2000.0).replace(sky=184 * 1000.0)
    flux = torch.zeros(1, 1, 31, 31)
    flux[0, 0, 15, 15] = 184 * 10.0
    after = get("brighter_fatter")(Observation(flux, e), 0.3, draws(1)).flux
    assert float(after[0, 0, 15, 15] / flux.max()) == pytest.approx(1.0 - 0.3 * 0.5, abs=2e-3)
    assert float(after.sum() / flux.sum()) == pytest.approx(1.0, abs=1e-4)
    assert float(after[0, 0, 15, 16] / flux.max()) == pytest.approx(0.14 * 0.3 * 0.5, rel=0.02)
    assert torch.allclose(after, after.flip(2), atol=1e-2)
    assert torch.allclose(after, after.transpose(2, 3), atol=1e-2)


@pytest.mark.parametrize(("sensor", "lost"), [("lsst_itl_50_8", 0.06), ("lsst_e2v_50_8", 0.13)])
def test_brighter_fatter_has_the_sign_and_the_size_of_galsims_sensors(sensor, lost):
    """Peak and width of a star that fills the well, within 40 % of a simulation electron by electron."""
    e = exposure("r", 1.0, sky=0.0)
    sky = star(e, 1.0)
    ours = get("brighter_fatter")(sky, lost, draws(1)).flux / e.visits.float()
    charge = sky.flux / e.visits.float()

    def shot(strength):
        rng = galsim.BaseDeviate(5)
        silicon = galsim.SiliconSensor(name=sensor, rng=rng, strength=strength, nrecalc=50000)
        stamp = galsim.ImageD(41, 41, scale=0.2)
        galsim.Gaussian(fwhm=0.8, flux=float(charge.sum())).drawImage(stamp, method="phot", sensor=silicon, rng=rng)
        return torch.from_numpy(stamp.array)[None, None]

    window = torch.exp(-(torch.hypot(torch.arange(41)[:, None] - 20.0, torch.arange(41) - 20.0) ** 2) / 72.0)
    thin, fat = shot(1e-6), shot(1.0)
    growth = float(second_moment(fat * window) / second_moment(thin * window)) - 1.0
    ours_growth = float(second_moment(ours * window) / second_moment(charge * window)) - 1.0
    assert 0.7 < ours_growth / growth < 1.4
    peak, ours_peak = float(fat.max() / thin.max()) - 1.0, float(ours.max() / charge.max()) - 1.0
    assert 0.7 < ours_peak / peak < 1.4


# all of them


@pytest.mark.parametrize("name", CHARGE)
def test_impossible_strengths_and_missing_numbers_are_refused(name):
    p, sky = get(name), galaxies(exposure(), 2)
    above = {"saturation": 0.9, "amplifier_step": -0.5, "persistence": 1.1, "crosstalk": 0.2}.get(name, 1.01)
    for strength in (-0.01, above, float("nan"), float("inf")):
        with pytest.raises(InputError, match=name):
            p(sky, strength, draws(2))
    if name == "amplifier_step":
        return
    with pytest.raises(InputError, match=f"{name}.*full_well"):
        p(galaxies(exposure(full_well=float("inf")), 2), p.ladder[0], draws(2))
    if name in ("persistence", "crosstalk"):
        for unknown in ("psf_fwhm", "zeropoint"):
            with pytest.raises(InputError, match=unknown):
                p(galaxies(exposure().replace(**{unknown: float("nan")}), 2), p.ladder[0], draws(2))
        with pytest.raises(InputError, match="magnitude"):
            p(sky, p.ladder[0], draws(2), magnitude=float("nan"))
    if name == "persistence":
        with pytest.raises(InputError, match="surviving_fraction"):
            p(sky, p.ladder[0], draws(2), surviving_fraction=-0.1)


@pytest.mark.parametrize("name", CHARGE)
@pytest.mark.parametrize(("bands", "size"), [("r", (8, 8)), ("grizy", (21, 13))])
def test_every_galaxy_has_its_own_exposure(name, bands, size):
    fractions = torch.linspace(0.1, 1.0, 3)[:, None].double()
    wells = torch.linspace(2e4, 1e5, 3)[:, None].double()
    e = exposure(bands).replace(fraction=fractions, full_well=wells)
    sky, p = galaxies(e, 3, size), get(name)
    whole = p(sky, p.ladder[-1], draws(3))
    assert bool((whole.flux != sky.flux).flatten(1).any(dim=1).all())
    for k in range(3):
        one = p(Observation(sky.flux[[k]], e.take([k])), p.ladder[-1], draws(3).take([k]))
        assert torch.allclose(one.flux[0], whole.flux[k], rtol=1e-5, atol=0.1)
        assert torch.allclose(one.exposure.sky.expand(1, -1)[0], whole.exposure.sky.expand(3, -1)[k])
