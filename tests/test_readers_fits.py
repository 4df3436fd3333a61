"""FITS: units against astropy.units, depth from variance planes, masks, and the HDU layouts that surveys write."""

import json

import astropy.units as u
import numpy as np
import pandas as pd
import pytest
import torch
from astropy.io import fits

from perturbations.errors import InputError
from perturbations.exposure import Exposure
from robustastro.data.readers import flux, read, read_again

SIZE = 40


def exposure(bands=("g", "r"), **changes):
    count = len(bands)
    numbers = {
        "sky": torch.linspace(20_000.0, 90_000.0, count),
        "visits": torch.full((count,), 100.0),
        "read_noise": torch.full((count,), 9.0),
        "zeropoint": torch.linspace(36.0, 37.0, count),
        "gain": torch.full((count,), 2.5),
    }
    return Exposure(bands=bands, pixel_scale=0.2, **(numbers | changes))


def write(place, name, planes, unit=None, **header):
    """A file with an HDU of each named plane; the first one carries the unit."""
    hdus = [fits.PrimaryHDU()]
    for k, (extname, data) in enumerate(planes.items()):
        hdus.append(fits.ImageHDU(data, name=extname))
        if unit is not None and k == 0:
            hdus[-1].header["BUNIT"] = unit
    hdus[1].header.update(header)
    fits.HDUList(hdus).writeto(place / name)


@pytest.mark.parametrize("unit", ["nJy", "uJy", "mJy", "Jy", "nmgy", "nanomaggy"])
def test_fluxes_become_electrons_as_astropy_says(tmp_path, unit):
    """f -> AB magnitude -> 10^(0.4 (zeropoint - m)), with the magnitude by astropy.units (AB zero: 3630.78 Jy)."""
    known = 3631 * u.nJy if unit.startswith("n") and unit != "nJy" else u.Unit(unit)
    values = np.random.default_rng(0).uniform(0.5, 2.0, (2, 6, 6)).astype(np.float32)
    write(tmp_path, "a.fits", {"IMAGE": values}, unit)
    back = read(tmp_path, exposure=exposure())
    magnitude = (values * known).to_value(u.ABmag)
    expected = 10 ** (0.4 * (np.array([36.0, 37.0])[:, None, None] - magnitude))
    np.testing.assert_allclose(back.batch([0])[0].numpy(), expected, rtol=1e-4)
    assert any(unit in note for note in back.notes)


@pytest.mark.parametrize(
    ("unit", "header", "factor"),
    [
        ("electron", {}, 1.0),
        ("adu", {}, 2.5),
        ("electron", {"MAGZERO": 34.0}, 10**0.8),
        ("adu", {"MAGZERO": 34.0}, 10**0.8),
        (None, {"MAGZERO": 34.0}, 1.0),
    ],
)
def test_electrons_and_counts(tmp_path, unit, header, factor):
    write(tmp_path, "a.fits", {"SCI": np.full((6, 6), 3.0)}, unit, **header)
    back = read(tmp_path, exposure=exposure(("r",), zeropoint=torch.tensor([36.0])))
    assert back.batch([0]).unique().item() == pytest.approx(3.0 * factor)


def test_milli_is_not_mega():
    assert flux.is_flux("mJy")
    assert flux.is_flux("µJy")
    assert not flux.is_flux("MJy")
    assert not flux.is_flux("MJy/sr")


@pytest.mark.parametrize("with_source_noise", [True, False])
def test_depth_comes_from_the_variance_of_blank_sky(tmp_path, with_source_noise):
    """A plane made by Exposure.variance at some depth gives that depth back, with a bright galaxy in the middle."""
    random = np.random.default_rng(4)
    deep = exposure()
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    galaxy = 1e5 * np.exp(-(x**2 + y**2) / 60)
    truth = np.array([[0.1, 0.3], [0.7, 1.0]])
    scale = 10 ** (0.4 * (deep.zeropoint.numpy() - 8.9 - 22.5))  # electrons per nJy: 1 Jy is 8.9 mag
    for k, fraction in enumerate(truth):
        observed = deep.replace(fraction=torch.from_numpy(fraction))
        light = torch.from_numpy(np.stack([galaxy, galaxy]))[None]
        variance = observed.variance(light if with_source_noise else torch.zeros_like(light))[0].numpy()
        image = galaxy + random.normal(size=(2, SIZE, SIZE)) * np.sqrt(variance)
        variance[:, 3, 3] = np.nan
        factor = scale[:, None, None]
        write(tmp_path, f"g{k}.fits", {"IMAGE": image / factor, "VARIANCE": variance / factor**2}, "nJy")
    back = read(tmp_path, exposure=deep)
    assert back.exposure is not None
    assert back.exposure.fraction.shape == (2, 2)
    np.testing.assert_allclose(back.exposure.fraction.numpy(), truth, rtol=0.01)
    assert any("variance planes" in note for note in back.notes)
    only = back.take([1]).observation([0]).exposure
    np.testing.assert_allclose(only.fraction.numpy(), truth[1:], rtol=0.01)


def masked_folder(place):
    """Three galaxies on a slope, the second with a hole of 5 x 5 NaN pixels in its corner."""
    image = np.tile(np.arange(SIZE, dtype=float), (SIZE, 1)) + 50
    mask = np.zeros((SIZE, SIZE), dtype=np.int32)
    for k in range(3):
        write(place, f"g{k}.fits", {"IMAGE": image + k, "MASK": mask})
    holed, mask = image + 1, mask.copy()
    holed[:5, 7:12], mask[:5, 7:12] = np.nan, 4
    (place / "g1.fits").unlink()
    write(place, "g1.fits", {"IMAGE": holed, "MASK": mask})
    pd.DataFrame({"id": ["g2", "g1", "g0"], "label": ["c", "b", "a"], "size": [3.0, 2.0, 1.0]}).to_csv(
        place / "catalogue.csv", index=False
    )
    return image


def test_masked_pixels_need_a_choice(tmp_path):
    image = masked_folder(tmp_path)
    with pytest.raises(InputError, match=r"'g1' has 25 masked pixels.*reject.*interpolate"):
        read(tmp_path)
    kept = read(tmp_path, masked="reject", exposure=exposure(("r",), fraction=torch.tensor([[0.2], [0.3], [0.4]])))
    assert (kept.ids, kept.classes, kept.labels.tolist()) == (("g2", "g0"), ("a", "c"), [1, 0])
    assert kept.exposure.fraction.ravel().tolist() == pytest.approx([0.2, 0.4])
    assert kept.catalogue["size"].tolist() == [3.0, 1.0]
    assert "1 of 3 galaxies rejected" in kept.notes
    np.testing.assert_array_equal(kept.batch([1])[0, 0].numpy(), image)
    whole = read(tmp_path, masked="interpolate")
    assert any("1 of 3 galaxies interpolated over 25 masked" in note for note in whole.notes)
    filled = whole.batch([1])[0, 0].numpy()
    inside = np.zeros((SIZE, SIZE), dtype=bool)
    inside[:5, 7:12] = True
    np.testing.assert_array_equal(filled[~inside], (image + 1)[~inside])
    np.testing.assert_allclose(filled[inside], (image + 1)[inside], atol=2.5)


@pytest.mark.filterwarnings("ignore:Keyword name")
def test_lsst_masks_count_only_bad_planes(tmp_path):
    """DETECTED is set on every galaxy of an LSST image, and says nothing against it."""
    planes = {"MP_BAD": 0, "MP_SAT": 1, "MP_DETECTED": 5}
    detected, saturated = np.zeros((8, 8), dtype=np.int32), np.zeros((8, 8), dtype=np.int32)
    detected[2:6, 2:6] = 1 << 5
    saturated[4, 4] = (1 << 1) | (1 << 5)
    for name, mask in (("a", detected), ("b", saturated)):
        write(tmp_path, f"{name}.fits", {"IMAGE": np.ones((8, 8)), "MASK": mask, "VARIANCE": np.ones((8, 8))})
        with fits.open(tmp_path / f"{name}.fits", mode="update") as hdus:
            hdus["MASK"].header.update(planes)
    assert read(tmp_path, masked="reject").ids == ("a",)


def test_bands_in_hdus_of_their_own(tmp_path):
    random = np.random.default_rng(2)
    images = {band: random.normal(size=(8, 9)).astype(np.float32) for band in "gri"}
    write(tmp_path, "a.fits", {**images, "r_MASK": np.zeros((8, 9), dtype=np.uint8)})
    write(tmp_path, "b.fits", {band: images[band] for band in "irg"})
    back = read(tmp_path)
    assert back.bands == ("G", "R", "I")  # as astropy wrote the names
    assert torch.equal(back.batch([0]), back.batch([1]))
    chosen = read(tmp_path, bands=("i", "g"))
    assert chosen.bands == ("i", "g")
    np.testing.assert_array_equal(chosen.batch([1])[0].numpy(), np.stack([images["i"], images["g"]]))
    with_exposure = read(tmp_path, exposure=exposure(("r", "i")))
    np.testing.assert_array_equal(with_exposure.batch([0])[0].numpy(), np.stack([images["r"], images["i"]]))
    with pytest.raises(InputError, match=r"unknown band .*'z'"):
        read(tmp_path, bands=("g", "z"))


def test_compressed_cutouts(tmp_path):
    image = np.arange(64, dtype=np.int16).reshape(8, 8)
    fits.writeto(tmp_path / "a.fits.gz", image)
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(image)]).writeto(tmp_path / "b.fits.fz")
    back = read(tmp_path)
    assert back.ids == ("a", "b")
    for k in range(2):
        np.testing.assert_array_equal(back.batch([k])[0, 0].numpy(), image)


def test_cube_with_masks_and_variances(tmp_path):
    cube = np.ones((3, 2, 8, 8), dtype=np.float32) + np.arange(3, dtype=np.float32)[:, None, None, None] / 100
    mask = np.zeros((3, 8, 8), dtype=np.uint8)
    mask[1, 0, 0] = 1
    deep = exposure()
    variance = deep.replace(fraction=0.5).variance(torch.from_numpy(cube).double()).numpy()
    write(tmp_path, "cube.fits", {"SCI": cube, "DQ": mask, "VAR": variance})
    back = read(tmp_path / "cube.fits", masked="reject", exposure=deep)
    filled = read(tmp_path / "cube.fits", masked="interpolate")
    assert back.ids == (filled.ids[0], filled.ids[2])  # of the file's pixels, whatever becomes of the mask
    assert read_again(json.loads(json.dumps(back.source))).digest() == back.digest()
    np.testing.assert_allclose(back.exposure.fraction.numpy(), 0.5, rtol=1e-3)
    flat = tmp_path / "flat.fits"
    fits.writeto(flat, cube[:, 0])
    assert read(flat).images.shape == (3, 1, 8, 8)


def test_catalogues_of_cutouts(tmp_path):
    from astropy.table import Table

    for name in ("007", "008"):
        write(tmp_path, f"{name}.fits", {"IMAGE": np.full((4, 4), float(name))})
    table = Table({"id": ["008", "007"], "label": ["b", "a"], "size": [1.5, 2.5]})
    for name in ("list.ecsv", "list.fits", "list.csv"):
        (tmp_path / "tables").mkdir(exist_ok=True)
        table.write(tmp_path / "tables" / name)
        back = read(tmp_path, catalogue=tmp_path / "tables" / name)
        assert back.ids == ("008", "007")
        assert back.batch(slice(None))[:, 0, 0, 0].tolist() == [8.0, 7.0]
        assert back.labels.tolist() == [1, 0]
        assert back.catalogue["size"].tolist() == [1.5, 2.5]


@pytest.mark.parametrize(
    ("unit", "given", "message"),
    [
        ("nJy", None, "nJy and no exposure is declared.*--exposure"),
        ("furlong", exposure(("r",)), "BUNIT 'furlong'"),
        ("nJy", exposure(("r",), zeropoint=float("nan")), "no zeropoint"),
    ],
)
def test_units_that_cannot_be_converted(tmp_path, unit, given, message):
    write(tmp_path, "a.fits", {"IMAGE": np.ones((4, 4))}, unit)
    with pytest.raises(InputError, match=message):
        read(tmp_path, exposure=given)


def test_other_units_without_exposure_are_display_values(tmp_path):
    write(tmp_path, "a.fits", {"IMAGE": np.ones((4, 4))}, "JY/BEAM")
    back = read(tmp_path)
    assert back.exposure is None
    assert any("JY/BEAM" in note for note in back.notes)


def test_planes_that_do_not_belong_together(tmp_path):
    good = {"IMAGE": np.ones((4, 4)), "VARIANCE": np.ones((4, 4))}
    for name, planes, unit, message in (
        ("shape", {"IMAGE": np.ones((5, 4))}, None, "'b' has shape .1, 5, 4."),
        ("plane", {"IMAGE": np.ones((4, 4)), "VARIANCE": np.ones((3, 4))}, None, "VARIANCE of shape"),
        ("some", {"IMAGE": np.ones((4, 4))}, None, "1 of 2 galaxies have variance planes"),
        ("twice", {"IMAGE": np.ones((4, 4)), "SCI": np.ones((4, 4))}, None, "several HDUs for one plane: IMAGE, SCI"),
        ("unit", good, "electron", "some images have a BUNIT"),
        ("nan", {"IMAGE": np.full((4, 4), np.nan)}, None, "'b' has pixels that are NaN"),
        ("none", {"VARIANCE": np.ones((4, 4))}, None, "has no image HDU"),
        ("zero", {"IMAGE": np.ones((4, 4)), "VARIANCE": np.zeros((4, 4))}, None, "gives no depth"),
    ):
        place = tmp_path / name
        place.mkdir()
        write(place, "a.fits", good)
        write(place, "b.fits", planes, unit)
        with pytest.raises(InputError, match=message):
            read(place, exposure=exposure(("r",)))
