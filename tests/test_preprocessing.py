"""Pipelines between the archive and the network: each against another library, or a law with numbers."""

import itertools
import math
import re

import numpy as np
import pytest
import torch
from astropy.stats import sigma_clip
from astropy.visualization import AsinhStretch
from PIL import Image
from scipy.interpolate import RegularGridInterpolator

from perturbations.core import Unstretched, get
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.percentiles import percentiles
from robustastro.contract import InputContract, Stretch

ASINH = Stretch(kind="asinh", low=(-500.0, -1000.0, -1300.0), high=(2000.0, 7000.0, 7100.0))
LINEAR = Stretch(kind="linear", low=(-500.0,), high=(8000.0,))
DISPLAY = Stretch(kind="linear", low=(0.0,) * 3, high=(255.0,) * 3)
STRETCH = (
    "stretch",
    "clipping",
    "per_image_normalisation",
    "background_oversubtraction",
    "uint8",
    "zeropoint_confusion",
)
INPUT = ("miscentring", "crop", "band_dropout", "band_swap", "band_misregistration")


def draws(n: int) -> Draws:
    return Draws([f"g{k}" for k in range(n)], 0)


def blob(height: int, width: int, sigma: float = 3.0, down: float = 0.0, right: float = 0.0) -> torch.Tensor:
    """A round Gaussian of peak 1, from the centre of the image [pixels]."""
    y = torch.arange(height)[:, None] - (height - 1) / 2 - down
    x = torch.arange(width)[None, :] - (width - 1) / 2 - right
    return torch.exp(-(y**2 + x**2) / (2 * sigma**2))


def flux(n: int = 4, bands: int = 3, height: int = 30, width: int = 43) -> torch.Tensor:
    """Galaxies of 2,000 to 12,000 electrons a pixel on sky noise of 300."""
    noise = 300.0 * draws(n).normal("sky", (bands, height, width))
    return noise + torch.linspace(2e3, 1.2e4, n)[:, None, None, None] * blob(height, width, 4.0)


def display(n: int = 4, bands: int = 3, height: int = 30, width: int = 43) -> torch.Tensor:
    """8-bit pictures as they come from a file, 0 to 255."""
    return (flux(n, bands, height, width) / 40.0 + 20.0).round().clamp(0.0, 255.0)


def stretched(name: str, images: torch.Tensor, curve: Stretch, strength: float, **options) -> torch.Tensor:
    return get(name)(Unstretched(images, curve), strength, draws(len(images)), **options)


def of_bands(curve: Stretch, bands: int) -> Stretch:
    return Stretch(kind=curve.kind, low=(curve.low[0],) * bands, high=(curve.high[0],) * bands)


def centroid(images: torch.Tensor) -> torch.Tensor:
    """(..., 2) rows and columns from the centre of the image."""
    height, width = images.shape[-2:]
    light = images.double() / images.double().sum(dim=(-2, -1), keepdim=True)
    y, x = torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2
    return torch.stack([(light.sum(dim=-1) * y).sum(-1), (light.sum(dim=-2) * x).sum(-1)], dim=-1)


# ---------------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", STRETCH)
@pytest.mark.parametrize("bands", [1, 3, 5])
def test_values_with_and_without_units_reach_input_space_at_every_rung(name, bands):
    """Flux through asinh and through a line, and pictures of 0 to 255; a galaxy alone is as in its batch."""
    p = get(name)
    for images, curve in ((flux(bands=bands), ASINH), (flux(bands=bands), LINEAR), (display(bands=bands), DISPLAY)):
        own = of_bands(curve, bands)
        for strength in p.ladder:
            x = stretched(name, images, own, strength)
            alone = p(Unstretched(images[2:3], own), strength, draws(4).take([2]))
            assert torch.allclose(alone, x[2:3], atol=1e-6)
        assert bool((x != own(images)).flatten(1).any(dim=1).all())
        if p.identity is not None:
            assert torch.equal(stretched(name, images, own, p.identity), own(images))


@pytest.mark.parametrize("name", STRETCH + INPUT)
@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 16)])
def test_the_smallest_images_pass(name, height, width):
    p = get(name)
    images = display(2, 3, height, width)
    for strength in p.ladder:
        given = Unstretched(images, DISPLAY) if p.space == "stretch" else DISPLAY(images)
        assert p(given, strength, draws(2)).shape == images.shape


@pytest.mark.parametrize("name", STRETCH)
@pytest.mark.parametrize("value", [0.0, 7.0, -7.0])
def test_blank_images_stay_finite(name, value):
    """Not even an image of one value divides by its range; the call itself refuses what is not finite."""
    p = get(name)
    for curve in (ASINH, of_bands(LINEAR, 3), DISPLAY):
        for strength in p.ladder:
            stretched(name, torch.full((2, 3, 12, 10), value), curve, strength)


@pytest.mark.parametrize("low", [-5.0, -5e4])
def test_an_image_without_a_positive_value_stays_finite(low):
    """Its own white is 0, by which an asinh stretch would divide."""
    images = torch.zeros(1, 3, 10, 10)
    images[..., 3:] = low
    for percentile in get("per_image_normalisation").ladder:
        stretched("per_image_normalisation", images, ASINH, percentile)


@pytest.mark.parametrize("name", STRETCH)
def test_it_acts_before_the_contract_resizes(name):
    """Through the contract, as an evaluation does: what it returns is resampled like any image."""
    contract = InputContract(bands=("g", "r", "i"), classes=("a", "b"), stretch=ASINH, crop=24, resize=12)
    images, p = flux(), get(name)
    cut = images[..., 3:27, 9:33]

    def own(values):
        assert torch.equal(values, cut)
        return stretched(name, values, contract.stretch, p.ladder[-1])

    x = contract.to_input(images, contract.bands, own)
    small = torch.nn.functional.interpolate(
        stretched(name, cut, ASINH, p.ladder[-1]), (12, 12), mode="bilinear", antialias=True
    )
    assert torch.allclose(x, small, atol=1e-6)


WRONG = {
    "stretch": (-1.0, 2e6),
    "clipping": (49.0, 100.5),
    "per_image_normalisation": (50.0, 101.0),
    "background_oversubtraction": (3.0, -8.0),
    "uint8": (0.5, 1e7),
    "zeropoint_confusion": (-0.1, 26.0),
    "miscentring": (-1.0, 17.0),
    "crop": (0.0, 1.1),
    "band_dropout": (-1.0, 1.5, 4.0),
    "band_swap": (1.0, 2.5, 4.0, -2.0),
    "band_misregistration": (-1.0, 17.0),
}


@pytest.mark.parametrize("name", STRETCH + INPUT)
def test_strengths_that_mean_nothing_are_refused(name):
    """With the value that was given, and a remedy."""
    p = get(name)
    given = Unstretched(flux(), ASINH) if p.space == "stretch" else DISPLAY(display())
    for strength in (*WRONG[name], math.nan, math.inf, -math.inf):
        with pytest.raises(InputError, match=re.escape(f"{name}: ")) as refused:
            p(given, strength, draws(4))
        assert f" = {strength:g}" in refused.value.wrong
        assert refused.value.allowed
        assert refused.value.remedy


# ---------------------------------------------------------------------- percentiles


@pytest.mark.parametrize("percent", [0.0, 0.1, 5.0, 50.0, 99.5, 99.9, 100.0])
def test_percentiles_are_numpys(percent):
    images = flux(height=17, width=20)
    theirs = np.percentile(images.numpy(), percent, axis=(2, 3), keepdims=True)
    assert percentiles(images, percent)[0].numpy() == pytest.approx(theirs, rel=1e-5, abs=1e-3)


# ---------------------------------------------------------------------- stretch


@pytest.mark.parametrize("softening", [0.5, 3.0, 10.0, 100.0])
def test_a_linear_display_becomes_astropys_asinh_stretch(softening):
    images = display()
    theirs = AsinhStretch(a=1.0 / softening)(images.numpy().astype(np.float64) / 255.0)
    assert stretched("stretch", images, DISPLAY, softening).numpy() == pytest.approx(theirs, abs=2e-6)


def test_the_softening_counts_in_the_larger_of_black_and_white():
    model = Stretch(kind="linear", low=(-10.0,), high=(1.0,))
    values = torch.linspace(-10.0, 1.0, 23).expand(1, 1, 1, 23)
    ends = [math.asinh(5.0 * end / 10.0) for end in (-10.0, 1.0)]
    expected = (torch.asinh(5.0 * values / 10.0) - ends[0]) / (ends[1] - ends[0])
    assert torch.allclose(stretched("stretch", values, model, 5.0), expected, atol=1e-5)


@pytest.mark.parametrize("softening", [1.0, 10.0, 100.0])
def test_an_asinh_model_meets_an_image_that_was_stretched_before(softening):
    """The same between black and white as astropy's stretch of the clipped image, with signs; then the model's own."""
    images = flux().clamp(min=-400.0)  # above every band's low
    high = np.array(ASINH.high)[:, None, None]
    part = np.minimum(images.numpy().astype(np.float64) / high, 1.0)
    before = np.sign(part) * AsinhStretch(a=1.0 / softening)(np.abs(part))
    assert stretched("stretch", images, ASINH, softening).numpy() == pytest.approx(
        (np.arcsinh(0.85 * before) + 1.0) / 2.0, abs=2e-6
    )


@pytest.mark.parametrize("softening", [1e-3, 1.0, 100.0])
def test_zero_white_and_black_stay(softening):
    """In an asinh stretch zero and white; in a line black (also below zero) and white."""
    values = torch.tensor([-1e5, 0.0, 2000.0, 1e5]).reshape(1, 1, 2, 2)
    x = stretched("stretch", values, of_bands(ASINH, 1), softening).flatten().tolist()
    white = (math.asinh(0.85) + 1.0) / 2.0
    assert x[1:] == pytest.approx([0.5, white, white], abs=1e-6)
    x = stretched("stretch", torch.tensor([[[[-500.0, 8000.0]]]]), LINEAR, softening).flatten().tolist()
    assert x == pytest.approx([0.0, 1.0], abs=1e-6)


def test_a_vanishing_softening_is_the_models_own_stretch():
    images = flux()
    own = ASINH(images)
    assert torch.equal(stretched("stretch", images, ASINH, 1e-30), own)
    assert float((stretched("stretch", images, ASINH, 1e-3) - own).abs().max()) < 1e-6


# ---------------------------------------------------------------------- clipping


@pytest.mark.parametrize("percentile", [99.9, 99.0, 95.0])
@pytest.mark.parametrize("lower", [True, False])
def test_clipping_is_numpys_clip_at_the_percentiles_before_the_stretch(percentile, lower):
    images = flux()
    pixels = images.numpy()
    low, high = np.percentile(pixels, (100.0 - percentile, percentile), axis=(2, 3), keepdims=True)
    theirs = ASINH(torch.from_numpy(np.clip(pixels, low if lower else None, high)).float())
    ours = stretched("clipping", images, ASINH, percentile, lower=lower)
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_only_the_clipped_pixels_change():
    """With LINEAR wide enough, one in a hundred pixels at either end, and no other."""
    wide = Stretch(kind="linear", low=(-1e5,), high=(1e5,))
    images = flux(bands=1, height=50, width=60)
    changed = (stretched("clipping", images, wide, 99.0) != wide(images)).flatten(1).sum(dim=1)
    assert changed.tolist() == [2 * 30] * 4


# ---------------------------------------------------------------------- per-image normalisation


@pytest.mark.parametrize("percentile", [100.0, 99.5, 95.0])
def test_the_percentiles_of_each_image_replace_the_frozen_ones(percentile):
    images = flux()
    pixels = images.numpy().astype(np.float64)
    low, high = np.percentile(pixels, (100.0 - percentile, percentile), axis=(2, 3), keepdims=True)
    theirs = (np.arcsinh(0.85 * np.clip(pixels, low, high) / high) + 1.0) / 2.0
    ours = stretched("per_image_normalisation", images, ASINH, percentile)
    assert ours.numpy() == pytest.approx(theirs.clip(0.0, 1.0), abs=1e-5)


def test_how_bright_a_galaxy_is_is_lost():
    """A galaxy three times as bright looks the same, where frozen constants tell the two apart."""
    images = flux()
    one, three = (stretched("per_image_normalisation", f * images, ASINH, 99.5) for f in (1.0, 3.0))
    assert float((one - three).abs().max()) < 1e-5
    assert float((ASINH(images) - ASINH(3.0 * images)).abs().max()) > 0.1


def test_one_hot_pixel_changes_the_whole_image():
    """A pixel 30 times as bright as the galaxy: frozen constants change one value, an image's own extremes all."""
    images = flux(1)
    hot = images.clone()
    hot[0, :, 3, 5] = 3e5
    frozen = (ASINH(hot) != ASINH(images)).any(dim=1).sum()
    own = [stretched("per_image_normalisation", i, ASINH, 100.0) for i in (images, hot)]
    assert int(frozen) == 1
    assert float((own[1] != own[0]).float().mean()) > 0.99
    # the galaxy's peak, at white before, is now as faint as its flux is beside the hot pixel's
    peak = images[0, 1].max()
    assert float(own[1][0, 1].flatten()[images[0, 1].argmax()]) == pytest.approx(
        (math.asinh(0.85 * float(peak) / 3e5) + 1.0) / 2.0, abs=1e-5
    )


def test_bands_taken_together_keep_their_colours():
    images = flux() * torch.tensor([0.5, 1.0, 2.0])[:, None, None]
    curve = Stretch(kind="linear", low=(0.0,) * 3, high=(1.0,) * 3)
    x = stretched("per_image_normalisation", images, curve, 100.0, together=True)
    low, high = (images.amin(dim=(1, 2, 3), keepdim=True), images.amax(dim=(1, 2, 3), keepdim=True))
    assert torch.allclose(x, (images - low) / (high - low), atol=1e-6)


def test_an_image_that_is_mostly_empty_becomes_black_and_white():
    """A radio map clipped at its noise: both percentiles are 0, and every source pixel is white."""
    images = torch.zeros(1, 3, 40, 40)
    images[..., 20, 10:16] = torch.tensor([3.0, 40.0, 255.0, 90.0, 7.0, 1.0])
    x = stretched("per_image_normalisation", images, DISPLAY, 95.0)
    assert torch.equal(x, (images > 0).float())


# ---------------------------------------------------------------------- 8 bits


@pytest.mark.parametrize("span", [4.0, 32.0])
def test_the_error_of_8_bits_is_uniform_within_a_step(span):
    """Before the stretch: at most half a step, RMS step / sqrt(12), and one value per step of the range."""
    images = LINEAR.low[0] + 8500.0 * draws(40).uniform("values", (1, 30, 30))
    step = 8500.0 * span / 255.0
    stored = stretched("uint8", images, LINEAR, span).double() * 8500.0 - 500.0
    error = (stored - images)[(images > -500.0) & (stored < 8000.0 - 0.5 * step)]
    assert float(error.abs().max()) <= step * 0.5 + 0.01
    # of a uniform variable the squares have a relative spread of sqrt(4/5)
    tolerance = 5.0 * (0.8 / error.numel()) ** 0.5
    levels = len(stored.round(decimals=1).unique())
    if span == 4.0:
        assert float(error.square().mean()) == pytest.approx(step**2 / 12.0, rel=tolerance)
    assert levels in (math.ceil(255 / span), math.ceil(255 / span) + 1)


@pytest.mark.parametrize("span", [1.0, 4.0, 128.0])
def test_8_bits_are_numpys(span):
    images = flux()
    low, high = (np.array(v)[:, None, None] for v in (ASINH.low, ASINH.high))
    step = (high - low) * span / 255.0
    bits = np.clip(np.rint((images.numpy() - low) / step), 0, 255).astype(np.uint8)
    theirs = ASINH(torch.from_numpy(bits * step + low).float())
    different = (stretched("uint8", images, ASINH, span) - theirs).abs() > 1e-5
    assert float(different.float().mean()) < 1e-3  # halves that round the other way in float32


def test_pictures_of_8_bits_stay_what_they_are():
    images = display()
    assert torch.allclose(stretched("uint8", images, DISPLAY, 1.0), DISPLAY(images), atol=1e-6)


# ---------------------------------------------------------------------- zero-points


@pytest.mark.parametrize("error", [0.1, 0.75, 2.5])
@pytest.mark.parametrize("brighter", [True, False])
def test_a_galaxy_is_that_many_magnitudes_too_bright_or_too_faint(error, brighter):
    wide = Stretch(kind="linear", low=(-1e6,), high=(1e6,))
    images = flux(bands=1)
    seen = stretched("zeropoint_confusion", images, wide, error, brighter=brighter).double() * 2e6 - 1e6
    ratio = seen.sum(dim=(1, 2, 3)) / images.double().sum(dim=(1, 2, 3))
    assert (-2.5 * ratio.log10()).tolist() == pytest.approx([-error if brighter else error] * 4, abs=2e-3)


def test_the_frozen_stretch_sees_the_wrong_numbers():
    images = flux()
    assert torch.equal(stretched("zeropoint_confusion", images, ASINH, 2.5), ASINH(images * 10.0))
    assert torch.equal(stretched("zeropoint_confusion", images, ASINH, 2.5, brighter=False), ASINH(images * 0.1))


# ---------------------------------------------------------------------- background


def measured_background(image: np.ndarray, boxes: tuple[int, int]) -> np.ndarray:
    """astropy's clipping and SciPy's interpolation on boxes that divide the image."""
    height, width = (size // number for size, number in zip(image.shape, boxes, strict=True))
    tiles = image.astype(np.float64).reshape(boxes[0], height, boxes[1], width).swapaxes(1, 2)
    mesh = np.ma.median(sigma_clip(tiles.reshape(*boxes, -1), sigma=3, maxiters=5, axis=-1), axis=-1)
    centres = [np.arange(n) * side + (side - 1) / 2 for n, side in zip(boxes, (height, width), strict=True)]
    places = [np.clip(np.arange(s), c[0], c[-1]) for s, c in zip(image.shape, centres, strict=True)]
    return RegularGridInterpolator(centres, mesh.filled(np.nan))(np.stack(np.meshgrid(*places, indexing="ij"), -1))


@pytest.mark.parametrize(("side", "boxes"), [(15.0, (3, 5)), (14.0, (3, 5)), (9.0, (5, 11)), (5.0, (9, 15))])
def test_the_background_is_astropys_clipped_median_in_boxes(side, boxes):
    images = flux(n=2, height=45, width=99 if side == 9.0 else 75)
    images[0, 0, 10, 20:40] = 4e5  # a trail to reject
    images[1, 1, :3, :3] = -5e4
    wide = Stretch(kind="linear", low=(-1e5,) * 3, high=(1e6,) * 3)
    ours = images - (stretched("background_oversubtraction", images, wide, side).double() * 1.1e6 - 1e5)
    for k in range(2):
        for band in range(3):
            theirs = measured_background(images[k, band].numpy(), boxes)
            # 1.1e6 of range in 24 bits are steps of 0.07
            assert ours[k, band].numpy() == pytest.approx(theirs, abs=0.3)


@pytest.mark.parametrize("side", [64.0, 20.0, 10.0])
def test_a_level_or_a_slope_is_taken_away(side):
    """A level wholly; a slope wholly between the outermost centres of boxes."""
    y, x = torch.meshgrid(torch.arange(60.0), torch.arange(90.0), indexing="ij")
    curve = Stretch(kind="linear", low=(-1000.0,), high=(1000.0,))
    level = torch.full((1, 1, 60, 90), 250.0)
    assert torch.allclose(stretched("background_oversubtraction", level, curve, side), torch.tensor(0.5), atol=1e-6)
    slope = (5.0 * y - 2.0 * x)[None, None]
    left = stretched("background_oversubtraction", slope, curve, side) * 2000.0 - 1000.0
    inner = left[..., 20:40, 30:60] if side < 60 else torch.zeros(1)
    assert float(inner.abs().max()) < 1e-2


def test_a_large_galaxy_loses_more_of_its_light_than_a_small_one():
    """Boxes of 14 pixels, some half the width of the large galaxy, take most of it; a compact one stays."""
    curve = Stretch(kind="linear", low=(-1e4,), high=(1e4,))

    def kept(sigma, side):
        images = 1000.0 * blob(99, 99, sigma)[None, None]
        left = stretched("background_oversubtraction", images, curve, side) * 2e4 - 1e4
        inner = (slice(None), slice(None), slice(35, 64), slice(35, 64))
        return float(left[inner].sum() / images[inner].sum())

    assert kept(25.0, 14.0) < 0.1
    assert kept(1.5, 33.0) > 0.99
    losses = [1.0 - kept(8.0, side) for side in (64.0, 32.0, 20.0, 14.0, 10.0)]
    assert losses == sorted(losses)
    assert losses[0] < 0.1
    assert losses[-1] > 0.6


# ---------------------------------------------------------------------- centring


@pytest.mark.parametrize("offset", [0.5, 4.0, 8.0])
def test_the_centroid_moves_by_the_offset(offset):
    x = 0.8 * blob(72, 81, 2.0)[None, None].expand(40, 2, -1, -1)
    moved = get("miscentring")(x, offset, draws(40))
    step = centroid(moved) - centroid(x)
    assert (step.norm(dim=-1) - offset).abs().max() < 2e-3
    assert torch.allclose(step[:, 0], step[:, 1], atol=1e-4)  # all bands together
    truth = 0.8 * blob(72, 81, 2.0, float(step[7, 0, 0]), float(step[7, 0, 1]))
    assert float((moved[7, 0] - truth).abs().max()) < 1e-3


def test_every_galaxy_moves_in_a_direction_of_its_own_the_same_at_every_rung():
    x = 0.8 * blob(64, 64)[None, None].expand(400, 1, -1, -1)
    angles = []
    for offset in (1.0, 8.0):
        y, x_ = (centroid(get("miscentring")(x, offset, draws(400))) - centroid(x))[:, 0].unbind(dim=1)
        angles.append(torch.atan2(y, x_))
    assert float((angles[0] - angles[1]).abs().max()) < 1e-2
    # directions over the whole circle: the resultant of 400 has an RMS length of 20
    assert float(torch.hypot(angles[0].cos().sum(), angles[0].sin().sum())) < 2.5 * 20.0


def test_a_moved_sky_keeps_its_noise():
    """Away from the border, where the mirrored noise interferes; that still moves the variance there by up to 1%."""
    x = 0.5 + 0.05 * draws(60).normal("sky", (1, 128, 128))
    moved = (get("miscentring")(x, 0.5, draws(60)) - 0.5)[..., 32:-32, 32:-32] / 0.05
    assert float(moved.square().mean()) == pytest.approx(1.0, abs=0.01 + 5.0 * (2.0 / moved.numel()) ** 0.5)
    for a, b in ((moved[..., 1:], moved[..., :-1]), (moved[..., 1:, :], moved[..., :-1, :])):
        assert abs(float((a * b).mean())) < 0.01 + 5.0 / moved.numel() ** 0.5


def test_what_enters_is_the_image_mirrored():
    """Moved by 8 pixels, the edge row of a pattern that is even about it continues as itself."""
    y = torch.arange(64.0)
    even = (0.5 + 0.3 * torch.cos(2.0 * math.pi * y / 63.0 * 3.0))[:, None].expand(64, 64)[None, None]
    moved = get("miscentring")(even.contiguous(), 8.0, draws(1))
    angle = 2.0 * math.pi * draws(1).scoped("miscentring", 1).uniform("direction", (1,)).double()
    truth = 0.5 + 0.3 * torch.cos(2.0 * math.pi * (y - 8.0 * angle.sin()) / 63.0 * 3.0)
    assert float((moved[0, 0, :, 30] - truth[0]).abs().max()) < 0.02


# ---------------------------------------------------------------------- crop


@pytest.mark.parametrize("kept", [0.9, 0.7, 0.5])
def test_a_crop_is_pillows_resize_of_the_box(kept):
    x = DISPLAY(flux() / 50.0 + 40.0)
    height, width = x.shape[-2:]
    top, left = (1 - kept) * height / 2, (1 - kept) * width / 2
    ours = get("crop")(x, kept, draws(4))
    for k in range(4):
        theirs = Image.fromarray(x[k, 1].numpy()).resize(
            (width, height), Image.Resampling.BILINEAR, box=(left, top, width - left, height - top)
        )
        assert float((ours[k, 1] - torch.from_numpy(np.array(theirs))).abs().max()) < 1e-4


@pytest.mark.parametrize("kept", [0.8, 0.5])
def test_a_galaxy_looks_larger_by_one_over_the_fraction(kept):
    """Second moments grow by 1 / kept^2, and the bilinear kernel adds its own variance; the peak and centre stay."""
    x = 0.8 * blob(81, 81, 4.0)[None, None]
    larger = get("crop")(x, kept, draws(1))
    position = torch.arange(81.0).double() - 40.0
    before, after = (float((i[0, 0].double().sum(dim=0) * position**2).sum() / i.double().sum()) for i in (x, larger))
    # sampling between pixels widens a profile by the mean of t (1 - t) over positions t, 1/6 of a pixel squared
    assert after * kept**2 == pytest.approx(before + 1.0 / 6.0, rel=0.01)
    assert float(centroid(larger).abs().max()) < 1e-4
    assert float(larger.max()) == pytest.approx(0.8, rel=0.01)


# ---------------------------------------------------------------------- bands


def coloured(n: int, bands: int) -> torch.Tensor:
    """Images whose bands are all different and not flat."""
    levels = torch.linspace(0.2, 0.9, bands)[:, None, None]
    return (levels * blob(20, 26, 5.0) + 0.05 * levels).expand(n, bands, 20, 26).contiguous()


def gone(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """(N, C) whether a band changed."""
    return (before != after).flatten(2).any(dim=2)


@pytest.mark.parametrize("bands", [1, 2, 3, 5])
def test_so_many_bands_are_missing_and_those_of_a_rung_at_the_next_too(bands):
    x = coloured(60, bands)
    lost = [gone(x, get("band_dropout")(x, float(k), draws(60))) for k in range(bands + 1)]
    for k, now in enumerate(lost):
        assert now.sum(dim=1).tolist() == [k] * 60
    assert all(bool((a <= b).all()) for a, b in itertools.pairwise(lost))


def test_every_band_is_as_likely_to_be_missing():
    x = coloured(900, 3)
    lost = gone(x, get("band_dropout")(x, 1.0, draws(900))).sum(dim=0)
    assert (lost - 300).abs().max() < 5 * (900 * (1 / 3) * (2 / 3)) ** 0.5


def test_a_missing_band_is_filled_with_its_sky_with_black_or_with_the_others():
    x, entry = coloured(3, 5), get("band_dropout")
    others = x[:, [0, 1, 3, 4]].mean(dim=1)
    median = np.median(x[0, 2].numpy())
    for fill, expected in (("sky", torch.tensor(median)), ("zero", torch.tensor(0.0)), ("mean", others)):
        y = entry(x, 1.0, draws(3), fill=fill, band=2)
        assert gone(x, y).tolist() == [[False, False, True, False, False]] * 3
        assert torch.allclose(y[:, 2], expected, atol=1e-6)


def test_a_band_can_be_chosen_and_the_others_follow_as_drawn():
    x, entry = coloured(50, 3), get("band_dropout")
    two = gone(x, entry(x, 2.0, draws(50), band=1))
    assert bool(two[:, 1].all())
    assert 5 < int(two[:, 0].sum()) < 45


@pytest.mark.parametrize(
    ("options", "missing", "words"),
    [
        ({"fill": "skie"}, 1.0, "Did you mean 'sky'"),
        ({"fill": "mean"}, 3.0, "one band left"),
        ({"band": 3}, 1.0, "band = 3"),
        ({"band": -2}, 1.0, "band = -2"),
    ],
)
def test_fills_and_bands_that_are_not_there_are_refused(options, missing, words):
    with pytest.raises(InputError, match=words):
        get("band_dropout")(coloured(2, 3), missing, draws(2), **options)


@pytest.mark.parametrize("bands", [2, 3, 5])
def test_exactly_so_many_bands_are_out_of_place(bands):
    """A permutation: every band is still there, bit for bit."""
    x = coloured(60, bands)
    for moved in range(2, bands + 1):
        y = get("band_swap")(x, float(moved), draws(60))
        same = (x[:, :, None] == y[:, None]).flatten(3).all(dim=3)  # band of x, band of y
        assert bool((same.sum(dim=1) == 1).all())
        assert bool((same.sum(dim=2) == 1).all())
        assert (~same.diagonal(dim1=1, dim2=2)).sum(dim=1).tolist() == [moved] * 60
    assert len({tuple(row) for row in gone(x, get("band_swap")(x, 2.0, draws(60))).tolist()}) == math.comb(bands, 2)


@pytest.mark.parametrize("name", ["band_swap", "band_misregistration"])
def test_one_band_has_nothing_to_be_mixed_up_with(name):
    x = coloured(2, 1)
    with pytest.raises(InputError, match="one band"):
        get(name)(x, get(name).ladder[0], draws(2))
    assert torch.equal(get(name)(x, 0.0, draws(2)), x)


@pytest.mark.parametrize("offset", [0.25, 2.0])
@pytest.mark.parametrize(("bands", "reference"), [(3, 0), (5, 2)])
def test_every_band_but_the_reference_is_displaced_in_a_direction_of_its_own(offset, bands, reference):
    x = (0.8 * blob(60, 49))[None, None].repeat(30, bands, 1, 1)
    y = get("band_misregistration")(x, offset, draws(30), reference=reference)
    others = [b for b in range(bands) if b != reference]
    assert torch.equal(y[:, reference], x[:, reference])
    step = (centroid(y) - centroid(x))[:, others]
    assert (step.norm(dim=-1) - offset).abs().max() < 2e-3
    angle = torch.atan2(step[..., 0], step[..., 1])
    assert float((angle[:, 0] - angle[:, 1]).abs().min()) > 1e-3
    assert float(torch.hypot(angle.cos().sum(), angle.sin().sum())) < 2.5 * angle.numel() ** 0.5


def test_a_band_moves_alike_whichever_band_is_the_reference():
    x = coloured(3, 3)
    first, last = (get("band_misregistration")(x, 1.0, draws(3), reference=band) for band in (0, 2))
    assert torch.allclose(first[:, 1], last[:, 1], atol=1e-6)


def test_a_reference_that_is_not_there_is_refused():
    for reference in (-1, 3):
        with pytest.raises(InputError, match=f"reference = {reference}"):
            get("band_misregistration")(coloured(2, 3), 1.0, draws(2), reference=reference)
