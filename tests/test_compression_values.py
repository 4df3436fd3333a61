"""Pictures and short numbers: what codecs and casts keep, against those who know them."""

import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from perturbations.core import Observation, get
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.exposure import Exposure

FORMATS = {
    "jpeg": lambda quality: {"format": "JPEG", "quality": int(quality)},
    "jpeg2000": lambda ratio: {
        "format": "JPEG2000", "quality_mode": "rates", "quality_layers": [ratio], "irreversible": True, "no_jp2": True
    },
}  # fmt: skip


def draws(n=2) -> Draws:
    return Draws([f"g{k}" for k in range(n)], 0)


def galaxies(n=2, bands=3, height=40, width=52) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(height) - height / 2.0, torch.arange(width) - width / 2.0, indexing="ij")
    noise = draws(n).normal("noise", (bands, height, width))
    brightness = torch.linspace(0.2, 0.5, bands)[:, None, None]
    return (0.3 + brightness * torch.exp(-torch.hypot(y, x) / 5.0) + 0.02 * noise).clamp(0.0, 1.0)


def by_pillow(picture: np.ndarray, settings) -> tuple[np.ndarray, int]:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, **settings)
    return np.asarray(Image.open(file)), len(file.getvalue())


@pytest.mark.parametrize("bands", [1, 3, 5])
@pytest.mark.parametrize("name", FORMATS)
def test_pictures_are_those_of_pillow(name, bands):
    x = galaxies(2, bands)
    bytes_ = (x * 255.0).round().to(torch.uint8).numpy()
    for strength in (get(name).ladder[0], get(name).ladder[-1]):
        ours = get(name)(x, strength, draws())
        settings = FORMATS[name](strength)
        for image, seen in zip(bytes_, ours.numpy(), strict=True):
            if bands == 3:
                theirs = by_pillow(np.ascontiguousarray(image.transpose(1, 2, 0)), settings)[0].transpose(2, 0, 1)
            else:
                theirs = np.stack([by_pillow(band, settings)[0] for band in image])
            assert np.array_equal(seen, theirs.astype(np.float32) / np.float32(255.0))


@pytest.mark.parametrize("name", FORMATS)
def test_pictures_do_not_depend_on_the_number_of_threads(name, monkeypatch):
    x, p = galaxies(5), get(name)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    alone = p(x, p.ladder[2], draws(5))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(p(x, p.ladder[2], draws(5)), alone)


def test_jpeg2000_takes_one_part_in_ratio_and_harms_more_the_fewer():
    """File sizes within 15 percent of the ratio asked for; OpenJPEG stops before a block that would not fit."""
    x = galaxies(1, 3, 100, 100)
    picture = (x[0] * 255.0).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    module = sys.modules["perturbations.compression.jpeg2000"]
    harm = []
    for ratio in get("jpeg2000").ladder:
        assert picture.size / len(module._codestream(picture, ratio)) == pytest.approx(ratio, rel=0.15)
        harm.append(float((get("jpeg2000")(x, ratio, draws(1)) - x).square().mean().sqrt()))
    assert harm == sorted(harm)
    assert harm[-1] > 1.3 * harm[0] > 1.3 * 2.0 / 255.0


@pytest.mark.parametrize("ratio", [0.5, -1.0, 2000.0, float("nan"), float("inf")])
def test_jpeg2000_refuses_ratios_out_of_range(ratio):
    with pytest.raises(InputError, match="1 <= ratio <= 1000"):
        get("jpeg2000")(galaxies(), ratio, draws())


def test_jpeg2000_says_what_to_do_where_pillow_lacks_it(monkeypatch):
    p = get("jpeg2000")
    monkeypatch.setattr("PIL.features.check", lambda feature: False)
    with pytest.raises(InputError, match=r"no JPEG 2000.*OpenJPEG.*use jpeg"):
        p(galaxies(), 10.0, draws())


@pytest.mark.parametrize("quality", [0.0, 101.0, 50.5, float("nan"), float("inf")])
def test_jpeg_refuses_qualities_that_libjpeg_does_not_have(quality):
    with pytest.raises(InputError, match="whole number from 1 to 100"):
        get("jpeg")(galaxies(), quality, draws())


@pytest.mark.parametrize("bits", [8.0, 6.0, 3.0, 1.0])
def test_rounding_is_uniform_within_half_a_step(bits):
    """RMS = step/sqrt(12) within 5 sigma over uniform values, no error above half a step, 2^bits values."""
    x = draws(4).uniform("values", (3, 64, 80))
    step = 1.0 / (2.0**bits - 1.0)
    stored = get("quantize")(x, bits, draws(4))
    error = (stored - x).double()
    # the half steps beyond 0 and 1 do not exist: within [0, 1] the mean square is step^2/12 all the same
    assert float(error.square().mean() / (step**2 / 12.0) - 1.0) == pytest.approx(
        0.0, abs=5.0 * (0.8 / x.numel()) ** 0.5
    )
    assert float(error.abs().max()) <= step / 2.0 + 1e-6
    assert len(stored.unique()) == 2**bits
    assert {0.0, 1.0} <= set(stored.unique().tolist())
    assert torch.equal(get("quantize")(stored, bits, draws(4)), stored)


def test_eight_bits_are_the_bytes_of_a_picture():
    x = torch.cat([galaxies(1)[0].flatten(), torch.linspace(0.0, 1.0, 4081)])[None, None, None].contiguous()
    seen = get("quantize")(x, 8.0, draws(1)) * 255.0
    picture = Image.fromarray((x[0, 0].numpy() * 255.0).round().astype(np.uint8))
    assert np.array_equal(seen[0, 0].round().numpy(), np.asarray(picture).astype(np.float32))
    assert float((seen - seen.round()).abs().max()) < 1e-4


@pytest.mark.parametrize("bits", [0.0, 25.0, 7.5, -3.0, float("nan"), float("inf")])
def test_quantize_refuses_bits_that_are_none(bits):
    with pytest.raises(InputError, match="whole number from 1 to 24"):
        get("quantize")(galaxies(), bits, draws())


def flux(values: torch.Tensor) -> Observation:
    e = Exposure.from_survey("LSST", bands="gri"[: values.shape[1]])
    return Observation(values, e)


def every_size(n=2, bands=3) -> torch.Tensor:
    """Values of both signs from 2^-30 to 2^30, ties to even among them."""
    size = torch.exp2(draws(n).uniform("size", (bands, 40, 50)) * 60.0 - 30.0)
    size = torch.where(draws(n).uniform("sign", size.shape[1:]) < 0.5, -size, size)
    size[:, :, 0] = (torch.arange(50) - 25.0) * 2.0**-24
    size[:, :, 1] = 2048.0 + torch.arange(50)
    size[:, :, 2, :3] = torch.tensor([0.0, -0.0, 1.0])
    return size


CASTS = {
    "float16": (torch.float16, 10, 5, 65504.0),
    "bfloat16": (torch.bfloat16, 7, 8, 3e38),
    "float8_e5m2": (torch.float8_e5m2, 2, 5, 57344.0),
    "float8_e4m3": (torch.float8_e4m3fn, 3, 4, 240.0),  # the fn variant reaches 448; to here both are the same
}


@pytest.mark.parametrize("cast", CASTS)
def test_casts_are_those_of_torch(cast):
    dtype, mantissa, exponent, largest = CASTS[cast]
    values = every_size()
    sky = flux(torch.where(values.abs() <= largest, values, torch.remainder(values, largest)))
    stored = get("float16")(sky, float(mantissa), draws(), exponent_bits=exponent)
    assert torch.equal(stored.flux, sky.flux.to(dtype).float())
    assert stored.mask is None


def test_the_exponent_is_float32s_by_default_and_bits_are_all_that_count():
    values = every_size()
    for mantissa in (22, 10, 3, 1):
        error = (get("float16")(flux(values), float(mantissa), draws()).flux - values).abs()
        assert bool((error <= 2.0 ** -(mantissa + 1) * values.abs()).all())
        assert float((error / values.abs().clamp_min(1e-30)).max()) > 0.8 * 2.0 ** -(mantissa + 1)


def test_values_beyond_half_precision_saturate_and_are_masked():
    values = torch.full((2, 3, 8, 8), 100.0)
    values[0, 1, 2, 3], values[1, 0, 4, 5], values[1, 2, 0, 0] = 65519.0, -9e4, 65520.0
    stored = get("float16")(flux(values), 10.0, draws(), exponent_bits=5)
    assert stored.flux[0, 1, 2, 3] == 65504.0
    assert stored.flux[1, 0, 4, 5] == -65504.0
    assert stored.mask is not None
    assert stored.mask.nonzero().tolist() == [[1, 0, 4, 5], [1, 2, 0, 0]]  # 65,519 still rounds to 65,504
    assert torch.isinf(values.half()).nonzero().tolist() == [[1, 0, 4, 5], [1, 2, 0, 0]]


def test_a_scale_factor_keeps_them_at_the_cost_of_the_faintest():
    values = torch.full((2, 3, 8, 8), 100.0)
    values[0, 1, 2, 3], values[1, 0, 4, 5] = 1e6, -3.3e9
    stored = get("float16")(flux(values), 10.0, draws(), exponent_bits=5, overflow="rescale")
    factor = torch.ones(2, 3, 1, 1)
    factor[0, 1], factor[1, 0] = 16.0, 65536.0
    assert torch.equal(stored.flux, (values / factor).half().float() * factor)
    assert stored.mask is None
    assert float((stored.flux / values - 1.0).abs().max()) < 2.0**-8
    once = get("float16")(flux(values[:1, :1]), 10.0, draws(1), exponent_bits=5, overflow="rescale")
    assert torch.equal(once.flux, values[:1, :1])


def test_a_saturated_pixel_joins_those_that_were_masked_before():
    values = torch.full((1, 3, 8, 8), 100.0)
    values[0, 0, 0, 0] = 1e6
    before = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    before[..., 3, 3] = True
    sky = Observation(values, flux(values).exposure, before)
    stored = get("float16")(sky, 10.0, draws(1), exponent_bits=5)
    assert stored.mask is not None
    assert int(stored.mask.sum()) == 4
    assert torch.equal(get("float16")(sky, 10.0, draws(1)).mask, before)


@pytest.mark.parametrize(("mantissa", "loss"), [(3, 0.0007), (2, 0.0028), (1, 0.0107)])
def test_blank_sky_loses_little_variance(mantissa, loss):
    """Averaged over the place of the noise between powers of two; 4 million pixels."""
    sigma = 360.0 * torch.exp2(torch.arange(8) / 8.0)[:, None, None, None]
    noise = draws(8).normal("noise", (3, 400, 400)) * sigma
    stored = get("float16")(flux(noise), float(mantissa), draws(8)).flux
    lost = 1.0 - stored.double().var(dim=(1, 2, 3)) / noise.double().var(dim=(1, 2, 3))
    # paired: 5 sigma of the chance correlation of noise with errors of 0.05 x 2^-mantissa x 4
    assert float(lost.mean()) == pytest.approx(loss, abs=5.0 * 0.4 * 2.0**-mantissa / 3.84e6**0.5)


@pytest.mark.parametrize("bits", [0.0, 24.0, 2.5, float("nan"), float("inf")])
def test_float16_refuses_mantissas_that_are_none(bits):
    with pytest.raises(InputError, match="whole number from 1 to 23"):
        get("float16")(flux(torch.ones(2, 3, 8, 8)), bits, draws())


def test_float16_refuses_exponents_and_overflows_that_are_none():
    sky = flux(torch.ones(2, 3, 8, 8))
    for exponent in (1, 9):
        with pytest.raises(InputError, match="2 to 8"):
            get("float16")(sky, 10.0, draws(), exponent_bits=exponent)
    with pytest.raises(InputError, match="Did you mean 'rescale'"):
        get("float16")(sky, 10.0, draws(), overflow="scale")
