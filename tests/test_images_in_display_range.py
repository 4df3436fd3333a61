"""Perturbations of images without units: JPEG against Pillow, pixel noise against its distribution."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from perturbations.core import get
from perturbations.draws import Draws
from perturbations.errors import InputError


def pictures(bands: int) -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(-1, 1, 48), torch.linspace(-1, 1, 48), indexing="ij")
    blob = torch.exp(-4 * (x**2 + 2 * y**2))
    one = torch.stack([blob * (0.4 + 0.2 * k) for k in range(bands)])
    return torch.stack([0.9 * one, 0.5 * one])


def draws() -> Draws:
    return Draws(["a", "b"], 0)


@pytest.mark.parametrize("bands", [1, 3, 5])
def test_jpeg_is_what_pillow_stores(bands):
    x = pictures(bands)
    ours = get("jpeg")(x, 25, draws())
    stored = io.BytesIO()
    eight_bits = (x[1] * 255).round().to(torch.uint8)
    picture = eight_bits.permute(1, 2, 0) if bands == 3 else eight_bits[0]
    Image.fromarray(picture.numpy()).save(stored, "JPEG", quality=25)
    theirs = torch.from_numpy(np.array(Image.open(stored))).float() / 255
    assert torch.equal(ours[1] if bands == 3 else ours[1, 0], theirs.permute(2, 0, 1) if bands == 3 else theirs)


def test_jpeg_at_the_best_quality_is_close_and_at_the_worst_far():
    x = pictures(3)
    best, worst = (float((get("jpeg")(x, q, draws()) - x).abs().max()) for q in (100, 1))
    assert best < 0.03
    assert worst > 5 * best


@pytest.mark.parametrize("quality", [0, 101, 50.5])
def test_jpeg_refuses_qualities_that_do_not_exist(quality):
    with pytest.raises(InputError, match="1 to 100"):
        get("jpeg")(pictures(3), quality, draws())


def test_pixel_noise_has_the_stated_deviation_and_stays_in_range():
    x = torch.full((2, 3, 100, 100), 0.5)
    added = get("pixel_noise")(x, 0.05, draws()) - x
    assert float(added.std()) == pytest.approx(0.05, rel=5 * (0.5 / added.numel()) ** 0.5)
    assert abs(float(added.mean())) < 5 * 0.05 / added.numel() ** 0.5
    noisy = get("pixel_noise")(x, 1.0, draws())
    assert float(noisy.min()) == 0.0
    assert float(noisy.max()) == 1.0
