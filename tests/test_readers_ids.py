"""Galaxies without ids in their file are known by their pixels, not by the file's name or their place in it."""

import hashlib

import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.table import Table

from perturbations.exposure import Exposure
from robustastro.data.readers import read

COUNT = 150  # more than two chunks


def images_of(seed):
    return np.random.default_rng(seed).normal(size=(COUNT, 2, 7, 8)).astype(np.float32)


def as_npz(images, path):
    np.savez(path.with_suffix(".npz"), images=images)
    return path.with_suffix(".npz")


def as_npy(images, path):
    np.save(path.with_suffix(".npy"), images)
    return path.with_suffix(".npy")


def as_cube(images, path):
    fits.writeto(path.with_suffix(".fits"), images)
    return path.with_suffix(".fits")


FORMS = pytest.mark.parametrize("write", [as_npz, as_npy, as_cube])


@FORMS
def test_ids_hang_on_the_pixels_and_not_on_the_file(tmp_path, write):
    images, order = images_of(0), np.random.default_rng(1).permutation(COUNT)
    (tmp_path / "test").mkdir()
    back = read(write(images, tmp_path / "data"))
    assert "no ids in the file: made from the pixels" in back.notes
    assert len(set(back.ids)) == COUNT
    assert read(write(images, tmp_path / "renamed")).ids == back.ids
    assert read(write(images[order], tmp_path / "shuffled")).ids == tuple(back.ids[k] for k in order)
    assert read(write(images[100:], tmp_path / "part")).ids == back.ids[100:]
    assert not set(read(write(images_of(2), tmp_path / "test" / "data")).ids) & set(back.ids)


@FORMS
def test_the_same_image_again_is_numbered(tmp_path, write):
    images = images_of(0)
    images[[70, 149]] = images[3]
    ids = read(write(images, tmp_path / "a")).ids
    assert (ids[70], ids[149]) == (f"{ids[3]}-2", f"{ids[3]}-3")
    assert not any(i.count("-") > 1 for k, i in enumerate(ids) if k not in (70, 149))


@FORMS
def test_ids_are_the_hash_that_is_promised(tmp_path, write):
    """Written out once more, and the same whatever the format or the byte order; fixed for records that are kept."""
    image = np.arange(6, dtype=">f8").reshape(1, 1, 2, 3)
    expected = hashlib.blake2b(b"(1, 2, 3)" + image.astype("<f4").tobytes(), digest_size=8).hexdigest()
    assert read(write(image, tmp_path / "a")).ids == (f"px-{expected}",)
    assert read(write(image[:, 0], tmp_path / "b")).ids == (f"px-{expected}",)
    assert read(write(np.swapaxes(image.reshape(1, 1, 3, 2), 2, 3), tmp_path / "c")).ids != (f"px-{expected}",)
    assert read(write(image.reshape(1, 1, 3, 2), tmp_path / "d")).ids != (f"px-{expected}",)  # same bytes, other shape


def test_cubes_keep_their_ids_whatever_the_pixels_mean(tmp_path):
    cube = as_cube(images_of(0)[:, :1], tmp_path / "a")
    fits.setval(cube, "BUNIT", value="adu")
    low, high = (
        read(cube, exposure=Exposure(bands=("r",), pixel_scale=0.2, sky=torch.tensor([1e3]), gain=torch.tensor([gain])))
        for gain in (1.0, 2.5)
    )
    assert low.ids == high.ids
    assert torch.allclose(2.5 * low.batch([0]), high.batch([0]))


def test_ids_of_the_file_are_kept(tmp_path):
    images, ids = images_of(0)[:3], ["a", "b", "a-2"]
    np.savez(tmp_path / "a.npz", images=images, ids=ids)
    table = fits.table_to_hdu(Table({"id": ids}))
    fits.HDUList([fits.PrimaryHDU(images), table]).writeto(tmp_path / "a.fits")
    for name in ("a.npz", "a.fits"):
        back = read(tmp_path / name, label_column=None)
        assert back.ids == ("a", "b", "a-2")
        assert not any("made from" in note for note in back.notes)
