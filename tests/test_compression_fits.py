"""FITS compression keeps what astropy.io.fits keeps, and the exposure says what noise it adds."""

import io

import numpy as np
import pytest
import torch
from astropy.io import fits

from perturbations import quantising
from perturbations.core import Observation, get
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.exposure import Exposure

METHODS = {"none": -1, "subtractive_1": 1, "subtractive_2": 2}
CODECS = {"fits_rice": "RICE_1", "fits_gzip_quantized": "GZIP_2", "fits_hcompress": "HCOMPRESS_1"}
STEPWISE = ("fits_rice", "fits_gzip_quantized")


def exposure(bands="gri") -> Exposure:
    return Exposure.from_survey("LSST", bands=bands, fraction=0.6)


def blank(n, height, width, e=None) -> Observation:
    e = e or exposure()
    shape = (len(e.bands), height, width)
    noise = Draws([f"sky {k}" for k in range(n)], 0, "simulate").normal("noise", shape)
    return Observation(noise * e.variance(torch.zeros(n, *shape)).sqrt(), e)


def draws(n=2, seed=3) -> Draws:
    return Draws([f"g{k}" for k in range(n)], seed)


def read_back(band: np.ndarray, **settings) -> np.ndarray:
    file = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(band, **settings)]).writeto(file)
    file.seek(0)
    with fits.open(file) as hdus:
        return np.array(hdus[1].data)  # type: ignore[attr-defined]


def by_astropy(name, sky, d, level, dither, whole, **settings) -> np.ndarray:
    n, bands, height, width = sky.flux.shape
    scoped = d.scoped(name, get(name).version)
    seeds = quantising.dither_seeds(scoped, bands, dither).reshape(n, bands)
    if whole:
        settings["tile_shape"] = (height, width)
    settings |= {"compression_type": CODECS[name], "quantize_level": level, "quantize_method": METHODS[dither]}
    images = [
        [read_back(band, dither_seed=int(seed), **settings) for band, seed in zip(image, of, strict=True)]
        for image, of in zip(sky.flux.numpy(), seeds, strict=True)
    ]
    return np.array(images)


def images_of(kind: str, height=21, width=33) -> Observation:
    sky = blank(2, height, width)
    y, x = torch.meshgrid(torch.arange(height) - 9.0, torch.arange(width) - 14.0, indexing="ij")
    flux = sky.flux + 4e5 * torch.exp(-torch.hypot(y, x) / 3.0) - 3000.0
    if kind == "few values":
        flux = (flux / 900.0).round() * 900.0
    if kind == "without noise":
        flux[..., 8:14] = 0.0
        flux[:, :, 4], flux[0, 0], flux[1, 2, :, 10:] = 0.0, 7.0, -40.0
    if kind == "large range":
        flux[:, :, ::2, 3] = 1e12
        flux[:, :, 1::4, 5] = 3e11
        flux[1] *= 1e-30
    return Observation(flux, sky.exposure)


@pytest.mark.parametrize("kind", ["noise", "few values", "without noise", "large range"])
@pytest.mark.parametrize("tile", ["row", "image"])
@pytest.mark.parametrize("dither", METHODS)
@pytest.mark.parametrize("name", STEPWISE)
def test_the_values_are_those_of_astropy(name, dither, tile, kind):
    sky = images_of(kind)
    level = 0.3 if name == "fits_rice" else 4.0
    ours = get(name)(sky, level, draws(), dither=dither, tile=tile).flux.numpy()
    theirs = by_astropy(name, sky, draws(), level, dither, tile == "image")
    np.testing.assert_array_max_ulp(ours, theirs, 1)
    assert not np.array_equal(ours, sky.flux.numpy())


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize(("scale", "level"), [(0.0, 16.0), (0.06, 16.0), (1.0, 256.0), (3.0, 16.0), (7.0, 1.0)])
@pytest.mark.parametrize("size", [(21, 33), (8, 8), (32, 32), (5, 40)])
def test_hcompress_is_that_of_astropy(size, scale, level, smooth):
    dither = "none" if smooth else "subtractive_1"
    for kind in ("noise", "without noise"):
        sky = images_of(kind, *size)
        ours = get("fits_hcompress")(sky, scale, draws(), level=level, smooth=smooth, dither=dither).flux.numpy()
        settings = {"hcomp_scale": int(scale * level + 0.5), "hcomp_smooth": int(smooth)}
        theirs = by_astropy("fits_hcompress", sky, draws(), level, dither, True, **settings)
        np.testing.assert_array_max_ulp(ours, theirs, 1)


def test_the_dither_sequence_is_that_of_the_fits_standard():
    """The standard's own check: the 10,000th seed is 1043618065."""
    assert quantising.SEQUENCE[-1] == np.float32(1043618065 / 2147483647)


@pytest.mark.parametrize("level", [16.0, 4.0, 2.0, 1.0])
@pytest.mark.parametrize("name", STEPWISE)
def test_noise_grows_by_one_over_twelve_squares_of_the_level(name, level):
    """sigma sqrt(1 + 1/(12 q^2)), within 5 sigma; tiles of 100 x 100 know their noise to a percent."""
    sky = blank(8, 100, 100)
    stored = get(name)(sky, level, draws(8), tile="image")
    n = sky.flux[:, 0].numel()
    ratio = stored.flux.double().var(dim=(0, 2, 3)) / sky.flux.double().var(dim=(0, 2, 3))
    expected = 1.0 + 1.0 / (12.0 * level**2)
    # of the ratio of a paired variance: the error's own scatter and its chance correlation with the noise
    error = 2.0 / level / np.sqrt(12.0 * n) + 0.02 / (12.0 * level**2)
    assert float((ratio - expected).abs().max()) < 5.0 * error


@pytest.mark.parametrize("name", STEPWISE)
@pytest.mark.parametrize("tile", ["row", "image"])
def test_the_exposure_tells_the_variance_of_the_rounding(name, tile):
    """Per galaxy and band, and exactly: it is the mean step^2/12, so the error has it within 5 sigma."""
    sky = blank(6, 60, 80)
    sky = Observation(sky.flux * torch.tensor([1.0, 1.0, 1.0, 2.0, 4.0, 8.0])[:, None, None, None], sky.exposure)
    for level in (4.0, get(name).ladder[-1]):
        stored = get(name)(sky, level, draws(6), tile=tile)
        zero = torch.zeros(6, 3, 1, 1)
        added = (stored.exposure.variance(zero) - sky.exposure.variance(zero))[..., 0, 0].double()
        error = (stored.flux - sky.flux).double()
        assert float((error.square().mean(dim=(2, 3)) / added - 1.0).abs().max()) < 5.0 * np.sqrt(0.8 / 4800) + 0.02
        assert float(error.mean(dim=(2, 3)).div(added.sqrt()).abs().max()) < 5.0 / np.sqrt(4800) + 0.01
        assert torch.allclose(added[5] / added[0], torch.full((3,), 64.0, dtype=torch.float64), rtol=0.3)
        other = ("sky", "fraction", "visits", "full_well", "gain", "psf_fwhm", "zeropoint")
        assert all(torch.equal(getattr(stored.exposure, k), getattr(sky.exposure, k)) for k in other)


def test_dither_keeps_faint_light_that_coarse_steps_alone_lose():
    """A light of 0.6 of the noise, in steps of four times the noise."""
    sky = blank(16, 60, 60)
    sigma = sky.flux.std(dim=(0, 2, 3), keepdim=True)
    faint = Observation(sky.flux + 0.6 * sigma, sky.exposure)
    means = {
        dither: (get("fits_rice")(faint, 0.25, draws(16), dither=dither, tile="image").flux / sigma).mean(dim=(0, 2, 3))
        for dither in ("none", "subtractive_1")
    }
    assert float((means["subtractive_1"] - 0.6).abs().max()) < 5.0 * 1.53 / np.sqrt(16 * 3600)
    assert float((means["none"] - 0.6).abs().min()) > 0.1


def test_undithered_rows_hold_few_values_and_dithered_rows_as_many_as_pixels():
    sky = blank(1, 9, 100)
    for dither, few in (("none", True), ("subtractive_1", False)):
        row = get("fits_gzip_quantized")(sky, 1.0, draws(1), dither=dither).flux[0, 0, 4]
        assert (len(row.unique()) < 12) == few
        assert few or len(row.unique()) > 95


def test_exact_zeros_stay_zero_with_subtractive_2_alone():
    sky = blank(2, 20, 40)
    sky.flux[:, :, 4:9, 10:14] = 0.0
    holes = sky.flux == 0.0
    stored = {d: get("fits_rice")(sky, 1.0, draws(), dither=d).flux for d in METHODS}
    assert bool((stored["subtractive_2"][holes] == 0.0).all())
    assert not bool((stored["subtractive_1"][holes] == 0.0).any())


def test_each_band_of_each_galaxy_has_a_dither_of_its_own():
    sky = blank(1, 30, 40)
    same = Observation(sky.flux[:, :1].expand(3, 3, -1, -1).contiguous(), sky.exposure)
    stored = get("fits_rice")(same, 1.0, draws(3)).flux.flatten(0, 1)
    assert all(not torch.equal(stored[a], stored[b]) for a in range(9) for b in range(a))


@pytest.mark.parametrize("name", CODECS)
def test_what_has_no_noise_is_kept_and_adds_none(name):
    flat = Observation(torch.full((2, 3, 12, 20), 5.0), exposure())
    kept = get(name)(flat, 1.0, draws())
    assert torch.equal(kept.flux, flat.flux)
    assert torch.equal(kept.exposure.variance(flat.flux), exposure().variance(flat.flux))


@pytest.mark.parametrize("name", STEPWISE)
def test_rows_of_eight_pixels_are_too_short_to_have_a_noise(name):
    sky = blank(2, 8, 8)
    assert torch.equal(get(name)(sky, 1.0, draws()).flux, sky.flux)
    assert not torch.equal(get(name)(sky, 1.0, draws(), tile="image").flux, sky.flux)


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0, 3.0])
def test_hcompress_adds_a_forty_eighth_of_the_scale_squared(scale):
    """Of the noise that the exposure adds, and of the noise itself, each within 4 percent; the mean stays."""
    sky = blank(12, 64, 96)
    stored = get("fits_hcompress")(sky, scale, draws(12))
    error = (stored.flux - sky.flux).double()
    zero = torch.zeros(12, 3, 1, 1)
    added = (stored.exposure.variance(zero) - sky.exposure.variance(zero)).double()
    assert float((error.square().mean(dim=(0, 2, 3)) / added.mean(dim=(0, 2, 3)) - 1.0).abs().max()) < 0.04
    share = error.var(dim=(0, 2, 3)) / sky.flux.double().var(dim=(0, 2, 3))
    assert float((share / (scale**2 / 48.0) - 1.0).abs().max()) < 0.04
    assert float((error.mean(dim=(0, 2, 3)) / sky.flux.double().std(dim=(0, 2, 3))).abs().max()) < 0.01


def test_hcompress_without_loss_is_quantisation_alone():
    sky = images_of("noise")
    lossless = get("fits_hcompress")(sky, 0.0, draws(), level=4.0, dither="none")
    rounded = get("fits_rice")(sky, 4.0, draws(), dither="none", tile="image")
    assert torch.equal(lossless.flux, rounded.flux)
    assert torch.equal(lossless.exposure.read_noise, rounded.exposure.read_noise)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("bands", ["r", "ugriz"])
def test_any_number_of_bands_and_any_number_of_threads(name, bands, monkeypatch):
    sky = blank(3, 11, 17, exposure(bands))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    alone = get(name)(sky, 1.0, draws(3))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    together = get(name)(sky, 1.0, draws(3))
    assert alone.flux.shape == sky.flux.shape
    assert torch.equal(alone.flux, together.flux)
    assert torch.equal(alone.exposure.read_noise, together.exposure.read_noise)
    assert not bool((alone.flux == sky.flux).any())


@pytest.mark.parametrize("name", CODECS)
def test_an_exposure_with_numbers_per_galaxy(name):
    e = exposure().replace(fraction=torch.tensor([[1.0], [0.1]]).expand(2, 3), read_noise=0.0)
    stored = get(name)(blank(2, 40, 40, e), 1.0, draws())
    share = stored.exposure.variance(torch.zeros(2, 3, 1, 1)) / e.variance(torch.zeros(2, 3, 1, 1))
    assert float(share.min()) > 1.01
    assert torch.allclose(share[0], share[1], rtol=0.05)


@pytest.mark.parametrize("level", [0.0, -4.0, 1e-4, 1e5, float("nan"), float("inf")])
@pytest.mark.parametrize("name", STEPWISE)
def test_levels_out_of_range_are_refused(name, level):
    with pytest.raises(InputError, match=r"level.*0\.001 <= level <= 10000"):
        get(name)(blank(2, 9, 9), level, draws())


@pytest.mark.parametrize("name", STEPWISE)
def test_unknown_names_are_refused(name):
    with pytest.raises(InputError, match="Did you mean 'subtractive_1'"):
        get(name)(blank(2, 9, 9), 4.0, draws(), dither="subtractive1")
    with pytest.raises(InputError, match="Did you mean 'row'"):
        get(name)(blank(2, 9, 9), 4.0, draws(), tile="rows")


@pytest.mark.parametrize("scale", [-1.0, float("nan"), float("inf"), 1e6])
def test_hcompress_refuses_scales_out_of_range(scale):
    with pytest.raises(InputError, match="0 <= scale"):
        get("fits_hcompress")(blank(2, 9, 9), scale, draws())


def test_hcompress_refuses_what_it_cannot_store():
    p = get("fits_hcompress")
    with pytest.raises(InputError, match=r"subtractive_2.*zeros do not survive"):
        p(blank(2, 9, 9), 1.0, draws(), dither="subtractive_2")
    with pytest.raises(InputError, match="4 x 4"):
        p(blank(2, 3, 40), 1.0, draws())
    with pytest.raises(InputError, match="level"):
        p(blank(2, 9, 9), 1.0, draws(), level=0.0)
