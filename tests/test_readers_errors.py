"""What is wrong with a data set is said in one clear error, and never by a traceback of a library."""

import numpy as np
import pandas as pd
import pytest
import torch
from astropy.io import fits
from astropy.table import Table
from PIL import Image

from perturbations.errors import InputError
from perturbations.exposure import Exposure
from robustastro.data.galaxies import Galaxies
from robustastro.data.readers import read, write_hdf5

IMAGES = np.random.default_rng(0).integers(0, 255, (4, 1, 6, 6), dtype=np.uint8)


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"images": IMAGES[:0]}, {}, "holds no galaxies"),
        ({"images": IMAGES[0, 0]}, {}, "images of shape .6, 6."),
        ({"pictures": IMAGES}, {}, "has the arrays pictures"),
        ({"images": IMAGES.astype(complex)}, {}, "dtype complex128"),
        ({"images": IMAGES.astype(str)}, {}, "dtype <U3"),
        ({"images": IMAGES, "labels": np.array([None] * 4)}, {}, "Python objects"),
        ({"images": IMAGES, "y": [0, 1, 0]}, {}, "3 labels for 4 images"),
        ({"images": IMAGES, "ids": ["a", "b"]}, {}, "2 ids for 4 images"),
        ({"images": IMAGES, "ids": list("abca")}, {}, "'a' occurs twice"),
        ({"images": IMAGES, "y": [0, 1, 0, np.nan]}, {}, "no label"),
        ({"images": IMAGES, "y": ["a", "b", "", "a"]}, {}, "no label"),
        ({"images": IMAGES, "y": [0, 1, 0, 0.5]}, {}, "label 0.5"),
        ({"images": IMAGES, "y": [0, 1, 0, -1]}, {}, "label -1"),
        ({"images": IMAGES, "y": [0, 1, 0, 5_000_000]}, {}, "label 5e.06"),
        ({"images": IMAGES, "y": [0, 1, 2, 0]}, {"classes": ["ring", "plain"]}, "label 2"),
        (
            {"images": IMAGES, "y": ["ring", "plian", "ring", "ring"]},
            {"classes": ["ring", "plain"]},
            "'plian'.*'plain'",
        ),
        ({"images": IMAGES, "y": [[0.4, 0.6]] * 4}, {}, "not one-hot"),
        ({"images": IMAGES, "y": [[1, 1]] * 4}, {}, "not one-hot"),
        ({"images": IMAGES, "y": [[1, 0]] * 4}, {"classes": list("abc")}, "one-hot labels of 2 classes"),
        ({"images": IMAGES, "rings": [0, 1, 0, 1]}, {"label_column": "ring"}, "'ring'.*'rings'"),
        ({"images": IMAGES}, {"bands": ["g", "r"]}, "2 bands .g, r. for images of 1 channel"),
        ({"images": IMAGES, "bands": ["g"]}, {"bands": ["r"]}, "the file has g"),
        ({"images": IMAGES}, {"split": "test"}, "does not say which"),
        ({"images": IMAGES, "split": ["train", "test"] * 2}, {"split": "tset"}, "'tset'.*'test'"),
        ({"images": IMAGES}, {"catalogue": "x.csv"}, "a catalogue for"),
        ({"images": IMAGES}, {"masked": "drop"}, "reject or interpolate"),
        ({"images": IMAGES}, {"bands": "gri"}, "as one text"),
    ],
)
def test_arrays(tmp_path, arrays, options, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=message) as error:
        read(tmp_path / "a.npz", **options)
    assert "\n" not in str(error.value)


def test_exposure_of_other_bands(tmp_path):
    np.savez(tmp_path / "a.npz", images=IMAGES, bands=["z"])
    with pytest.raises(InputError, match="unknown band 'z'"):
        read(tmp_path / "a.npz", exposure=Exposure(bands=("r",), pixel_scale=0.2, sky=torch.tensor([1.0])))


@pytest.mark.parametrize(
    ("array", "message"),
    [(np.array([None, 1]), "Python objects"), (np.zeros((3, 5)), "shape"), (np.zeros((3, 4, 4), complex), "complex")],
)
def test_npy(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(InputError, match=message):
        read(tmp_path / "a.npy")


def test_nothing_in_a_pickle_runs(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "marker"), "w"))

    np.save(tmp_path / "a.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", images=np.array([Trap()], dtype=object))
    for name in ("a.npy", "a.npz"):
        with pytest.raises(InputError):
            read(tmp_path / name)
    assert not (tmp_path / "marker").exists()


def whole_files(place):
    """One readable file of each kind, large enough to be cut in its pixels."""
    images = np.random.default_rng(1).normal(size=(8, 1, 40, 40)).astype(np.float32)
    np.save(place / "a.npy", images)
    np.savez(place / "a.npz", images=images)
    np.savez_compressed(place / "b.npz", images=images)
    write_hdf5(Galaxies(images, None, tuple("abcdefgh"), (), ("r",)), place / "a.h5")
    fits.writeto(place / "a.fits", images)
    for name, kind in (("cutout", ".fits"), ("zipped", ".fits.gz"), ("png", ".png"), ("jpeg", ".jpg")):
        (place / name).mkdir()
        file = place / name / f"a{kind}"
        if "fits" in kind:
            fits.writeto(file, images[0, 0])
        else:
            Image.fromarray((images[0, 0] * 40 + 128).clip(0, 255).astype(np.uint8)).save(file)


@pytest.mark.parametrize(
    "name",
    ["a.npy", "a.npz", "b.npz", "a.h5", "a.fits", "cutout/a.fits", "zipped/a.fits.gz", "png/a.png", "jpeg/a.jpg"],
)
@pytest.mark.parametrize("kept", [0.0, 0.002, 0.6, 0.9])
def test_truncated_files(tmp_path, name, kept):
    whole_files(tmp_path)
    file = tmp_path / name
    target = file if file.parent == tmp_path else file.parent
    assert torch.isfinite(read(target).batch(slice(None))).all()
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(InputError, match=r"cannot read|Python objects") as error:
        read(target)
    assert file.name in str(error.value)


def test_missing_unknown_and_foreign(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read(tmp_path / "gone.npz")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match=r"unknown extension '.txt'"):
        read(tmp_path / "a.txt")
    with pytest.raises(InputError, match="none of the layouts"):
        read(tmp_path)
    import h5py

    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["images"] = IMAGES
    with pytest.raises(InputError, match="another kind"):
        read(tmp_path / "other.h5")
    write_hdf5(Galaxies(IMAGES, None, tuple("abcd"), (), ("r",)), tmp_path / "new.h5")
    with h5py.File(tmp_path / "new.h5", "a") as file:
        file.attrs["schema"] = 2
    with pytest.raises(InputError, match="schema 2"):
        read(tmp_path / "new.h5")
    np.savez(tmp_path / "a.npz", images=IMAGES)
    with pytest.raises(InputError, match=r"(?i)use --split"):
        read(f"{tmp_path / 'a.npz'}::test")


@pytest.mark.parametrize("form", ["a.npy", "a.npz", "a.h5"])
def test_pixels_that_are_not_finite_name_their_galaxy(tmp_path, form):
    images = np.zeros((5, 1, 6, 6), dtype=np.float32)
    images[3, 0, 2, 2] = np.inf
    if form == "a.npy":
        np.save(tmp_path / form, images)
    elif form == "a.npz":
        np.savez(tmp_path / form, images=images)
    else:
        import h5py

        write_hdf5(Galaxies(np.zeros_like(images), None, tuple("abcde"), (), ("r",)), tmp_path / form)
        with h5py.File(tmp_path / form, "a") as file:
            file["images"][:] = images
    back = read(tmp_path / form)
    assert back.batch([4, 0]).shape == (2, 1, 6, 6)
    name = "'d'" if form == "a.h5" else f"'{back.ids[3]}' .image 3, from 0."
    for which in ([4, 3], slice(2, 4)):
        with pytest.raises(InputError, match=f"{name} has pixels that are NaN or infinite"):
            back.batch(which)
    with pytest.raises(InputError, match=name):
        back.take([1, 3]).batch([1])


def test_deepadversaries_choices(tmp_path):
    for depth in ("Y10", "Y1"):
        np.save(tmp_path / f"images_{depth}_test.npy", np.zeros((2, 3, 4, 4)))
    with pytest.raises(InputError, match="one of Y10/test, Y1/test"):
        read(tmp_path)
    with pytest.raises(InputError, match=r"(?i)'Y2'.*did you mean 'Y1'"):
        read(f"{tmp_path}::Y2")
    with pytest.raises(InputError, match=r"labels_test.npy does not exist"):
        read(f"{tmp_path}::Y1")
    np.save(tmp_path / "labels_test.npy", np.eye(3)[[0, 1, 2]])
    with pytest.raises(InputError, match="3 labels for 2 images"):
        read(f"{tmp_path}::Y1")
    assert read(f"{tmp_path}::Y1", label_column=None).labels is None
    for split, count in (("train", 1), ("test", 2)):  # one label too few, one too many: not as many as images in each
        np.save(tmp_path / f"images_Y10_{split}.npy", np.zeros((2, 3, 4, 4)))
        np.save(tmp_path / f"labels_{split}.npy", np.eye(3)[: 2 * count - 1])
    with pytest.raises(InputError, match=r"labels_train.npy: 1 labels for 2 images"):
        read(f"{tmp_path}::Y10")
    with pytest.raises(InputError, match=r"(?i)one of Y10, Y10/train, Y10/test, Y1/test. name one: .*::Y10\b"):
        read(tmp_path)
    np.save(tmp_path / "images_Y10_train.npy", np.zeros((2, 3, 5, 5)))
    np.save(tmp_path / "labels_test.npy", np.eye(3)[:2])
    np.save(tmp_path / "labels_train.npy", np.eye(3)[:2])
    with pytest.raises(InputError, match=r"images_Y10_test.npy: images of shape .3, 4, 4.; .3, 5, 5."):
        read(f"{tmp_path}::Y10")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"file": ["a.png", "c.png"], "label": ["x", "y"]}, "1 image.s. that are missing, the first is 'c.png'"),
        ({"id": ["c"], "label": ["x"]}, "the first is 'c'"),
        ({"file": ["a.png", "a.png"], "label": ["x", "y"]}, "'a' occurs twice"),
        ({"file": ["a.png"], "labels": ["x"]}, r"(?i)'label'.*did you mean 'labels'"),
        ({"name": ["a.png"], "label": ["x"]}, "a column 'file' or 'id'"),
        ({"file": ["a.png", None], "label": ["x", "y"]}, "a row without file"),
        ({"file": ["a.png", "b.png"], "label": ["x", None]}, "no label"),
        ({"file": [], "label": []}, "is empty"),
        ({"file": ["a.png", "big.png"], "label": ["x", "y"]}, r"big.png is 7 x 5 L; 6 x 5 L"),
        ({"file": ["a.png", "colour.png"], "label": ["x", "y"]}, r"colour.png is 6 x 5 RGB"),
    ],
)
def test_catalogues_of_pictures(tmp_path, table, message):
    for name in ("a", "b"):
        Image.fromarray(np.zeros((5, 6), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    Image.fromarray(np.zeros((5, 7), dtype=np.uint8)).save(tmp_path / "big.png")
    Image.fromarray(np.zeros((5, 6, 3), dtype=np.uint8)).save(tmp_path / "colour.png")
    pd.DataFrame(table).to_csv(tmp_path / "catalogue.csv", index=False)
    with pytest.raises(InputError, match=message):
        read(tmp_path)


def test_pictures_have_no_electrons(tmp_path):
    Image.fromarray(IMAGES[0, 0]).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="display images have no electrons"):
        read(tmp_path, exposure=Exposure(bands=("r",), pixel_scale=0.2, sky=torch.tensor([1.0])))


def test_broken_catalogues_and_cubes(tmp_path):
    fits.writeto(tmp_path / "a.fits", IMAGES)
    with pytest.raises(InputError, match="does not exist"):
        read(tmp_path, catalogue=tmp_path / "gone.csv")
    (tmp_path / "bad.ecsv").write_text("nothing")
    with pytest.raises(InputError, match="cannot read the catalogue"):
        read(tmp_path / "a.fits", catalogue=tmp_path / "bad.ecsv")
    short = fits.table_to_hdu(Table({"label": ["a"]}))
    fits.HDUList([fits.PrimaryHDU(IMAGES), short]).writeto(tmp_path / "short.fits")
    with pytest.raises(InputError, match="1 rows for 4 images"):
        read(tmp_path / "short.fits")
    fits.writeto(tmp_path / "flat.fits", IMAGES[0, 0])
    with pytest.raises(InputError, match="a cube"):
        read(tmp_path / "flat.fits")
