"""Whatever the format, the same galaxies come back: pixels, labels, ids, columns; and large files stay on disk."""

import pickle

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from astropy.io import fits
from PIL import Image

from perturbations.exposure import Exposure
from robustastro.data.galaxies import Galaxies
from robustastro.data.readers import arrays, folder, hdf5, read, read_again, write_hdf5
from robustastro.data.readers import deepadversaries as deepadversaries_layout

CLASSES = ("elliptical", "merger", "spiral")
COUNT, BANDS, SIZE = 7, 3, 12


@pytest.fixture
def galaxies() -> Galaxies:
    random = np.random.default_rng(3)
    labels = np.array([0, 1, 2, 2, 0, 1, 2])
    return Galaxies(
        images=random.integers(0, 256, (COUNT, BANDS, SIZE, SIZE + 1), dtype=np.uint8),
        labels=labels,
        ids=tuple(f"g.{k:02d}" for k in range(COUNT)),
        classes=CLASSES,
        bands=("red", "green", "blue"),
        catalogue=pd.DataFrame({"magnitude": random.uniform(18, 22, COUNT), "visits": np.arange(COUNT)}),
    )


def names_of(galaxies):
    return [galaxies.classes[k] for k in galaxies.labels]


def table_of(galaxies, suffix):
    return galaxies.catalogue.assign(
        id=galaxies.ids, file=[f"{i}{suffix}" for i in galaxies.ids], label=names_of(galaxies)
    )


def as_npz(galaxies, place):
    columns = {name: galaxies.catalogue[name].to_numpy() for name in galaxies.catalogue}
    np.savez(place / "set.npz", images=galaxies.images, y=galaxies.labels, ids=galaxies.ids, classes=CLASSES, **columns)
    return place / "set.npz"


def as_hdf5(galaxies, place):
    write_hdf5(galaxies, place / "set.h5")
    return place / "set.h5"


def as_cutouts(galaxies, place):
    for image, name in zip(galaxies.images, galaxies.ids, strict=True):
        fits.writeto(place / f"{name}.fits", image.astype(np.float32))
    table_of(galaxies, ".fits").to_csv(place / "catalogue.csv", index=False)
    return place


def as_cube(galaxies, place):
    from astropy.table import Table

    table = fits.table_to_hdu(Table.from_pandas(table_of(galaxies, "")))
    fits.HDUList([fits.PrimaryHDU(galaxies.images.astype(np.int16)), table]).writeto(place / "set.fits")
    return place / "set.fits"


def as_pictures(galaxies, place):
    for image, name in zip(galaxies.images, galaxies.ids, strict=True):
        Image.fromarray(np.moveaxis(image, 0, 2)).save(place / f"{name}.png")
    table_of(galaxies, ".png").to_csv(place / "catalogue.csv", index=False)
    return place / "catalogue.csv"


@pytest.mark.parametrize("write", [as_npz, as_hdf5, as_cutouts, as_cube, as_pictures])
def test_every_format_gives_the_same_galaxies_back(galaxies, tmp_path, write):
    bands = galaxies.bands if write in (as_npz, as_cutouts, as_cube) else None
    back = read(write(galaxies, tmp_path), bands=bands)
    assert torch.equal(back.batch(slice(None)), galaxies.batch(slice(None)))
    assert torch.equal(back.batch([5, 0, 5]), galaxies.batch([5, 0, 5]))
    assert back.ids == galaxies.ids
    assert names_of(back) == names_of(galaxies)
    assert (back.classes, back.bands) == (galaxies.classes, galaxies.bands)
    assert back.digest() == galaxies.digest()
    columns = back.catalogue[list(galaxies.catalogue)]
    pd.testing.assert_frame_equal(columns, galaxies.catalogue)
    again = read_again(back.source)
    assert again.digest() == back.digest()


@pytest.mark.parametrize("write", [as_npz, as_hdf5, as_cutouts, as_cube, as_pictures])
def test_classes_asked_for_change_the_numbers_and_not_the_names(galaxies, tmp_path, write):
    wanted = ("spiral", "elliptical", "merger", "ring")
    back = read(write(galaxies, tmp_path), classes=wanted)
    assert back.classes == wanted
    assert names_of(back) == names_of(galaxies)


def test_hdf5_keeps_everything(galaxies, tmp_path):
    """Exposure with numbers per galaxy, notes, source, and columns of every dtype."""
    columns = pd.DataFrame(
        {
            "flag": np.arange(COUNT) % 2 == 0,
            "counts": np.arange(COUNT, dtype=np.int16),
            "size": np.arange(COUNT, dtype=np.float32) / 3,
            "mag/err": [0.1, np.nan, 0.2, 0.3, 0.4, 0.5, 0.6],
            "survey": ["é", "", None, "d", "e", "f", "g"],
            "number": pd.array([1, 2**60, None, 3, 4, 5, 6], dtype="Int64"),
            "seen": pd.Series([True, None] + [False] * 5, dtype="boolean"),
            "night": pd.to_datetime(["2025-01-01 01:02:03"] * (COUNT - 1) + [None]),
            "kind": pd.Categorical(list("aabbaab")),
            "a%2Fb": np.arange(COUNT),
        }
    )
    exposure = Exposure(
        bands=("g", "r", "i"),
        pixel_scale=0.2,
        sky=torch.tensor([1.0, 2.0, 1 / 3]),
        fraction=torch.rand(COUNT, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.1,
        zeropoint=torch.tensor([30.0, 31.0, 32.0]),
    )
    full = Galaxies(
        images=np.random.default_rng(1).normal(0, 300, (COUNT, 3, 5, 6)).astype(np.float32),
        labels=None,
        ids=galaxies.ids,
        classes=CLASSES,
        bands=("g", "r", "i"),
        exposure=exposure,
        catalogue=columns,
        domain="LSST Y1 µ",
        source={"recipe": {"seed": 1}},
        notes=("first", "second"),
    )
    steps = []
    write_hdf5(full, tmp_path / "a.h5", progress=lambda done, of: steps.append((done, of)))
    back = read(tmp_path / "a.h5")
    assert steps == [(COUNT, COUNT)]
    assert back.digest() == full.digest()
    assert back.exposure is not None
    assert back.exposure.to_dict() == exposure.to_dict()
    assert (back.labels, back.domain, back.notes) == (None, full.domain, full.notes)
    assert back.source["recipe"] == {"seed": 1}
    pd.testing.assert_frame_equal(back.catalogue, columns)
    assert (tmp_path / "a.h5").exists()
    assert len(list(tmp_path.iterdir())) == 1


def test_a_long_exposure_fits_into_hdf5(tmp_path):
    """HDF5 keeps short attributes in a header of 64 kB; fractions of thousands of galaxies are longer."""
    count = 4000
    exposure = Exposure(bands=("r",), pixel_scale=0.2, sky=torch.tensor([1.0]), fraction=torch.rand(count, 1) + 0.5)
    ids = tuple(map(str, range(count)))
    write_hdf5(Galaxies(np.zeros((count, 1, 1, 1)), None, ids, (), ("r",), exposure), tmp_path / "a.h5")
    back = read(tmp_path / "a.h5").exposure
    assert back is not None
    assert torch.equal(back.fraction, exposure.fraction)


def test_interrupted_writing_leaves_nothing(galaxies, tmp_path):
    def stop(done, of):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_hdf5(galaxies, tmp_path / "a.h5", progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_hdf5_reads_only_what_is_asked_for(galaxies, tmp_path, monkeypatch):
    back = read(as_hdf5(galaxies, tmp_path))
    assert isinstance(back.images.images, hdf5.StoredImages)
    asked = []
    read_direct = h5py.Dataset.read_direct

    def counted(self, values, source, target):
        asked.append((source.start, source.stop))
        return read_direct(self, values, source, target)

    monkeypatch.setattr(h5py.Dataset, "read_direct", counted)
    values = back.batch([6, 1, 2, 1])
    assert torch.equal(values, galaxies.batch([6, 1, 2, 1]))
    assert asked == [(1, 3), (6, 7)]
    copy = pickle.loads(pickle.dumps(back.images))
    np.testing.assert_array_equal(copy[np.array([3])], galaxies.images[[3]])


def test_npy_stays_on_disk(tmp_path):
    images = np.random.default_rng(0).normal(size=(50, 3, 20, 20))
    np.save(tmp_path / "x.npy", images)
    back = read(tmp_path / "x.npy")
    mapped = back.images.images
    assert isinstance(mapped, arrays.MappedImages)
    assert isinstance(mapped.array, np.memmap)
    assert len(pickle.dumps(back.images)) < 5000  # the path, not 480,000 bytes of pixels
    copy = pickle.loads(pickle.dumps(back.images))
    np.testing.assert_array_equal(copy[np.array([49, 3])], images[[49, 3]])
    assert torch.equal(back.batch([49, 3]), torch.from_numpy(images[[49, 3]].astype(np.float32)))


def test_large_picture_folders_stay_on_disk(galaxies, tmp_path, monkeypatch):
    as_pictures(galaxies, tmp_path)
    monkeypatch.setattr(folder, "EAGER", 10)
    back = read(tmp_path)
    assert isinstance(back.images, folder.PictureFiles)
    assert torch.equal(back.batch([6, 2]), galaxies.batch([6, 2]))


@pytest.mark.parametrize(
    ("shape", "expected", "noted"),
    [
        ((5, 9, 8), (5, 1, 9, 8), False),
        ((5, 9, 8, 3), (5, 3, 9, 8), True),
        ((5, 3, 9, 8), (5, 3, 9, 8), False),
        ((5, 3, 9, 4), (5, 3, 9, 4), False),
    ],
)
def test_axes_of_arrays(tmp_path, shape, expected, noted):
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    np.savez(tmp_path / "a.npz", X=images)
    np.save(tmp_path / "a.npy", images)
    for name in ("a.npz", "a.npy"):
        back = read(tmp_path / name)
        assert back.images.shape == expected
        assert any("(N, H, W, C)" in note for note in back.notes) == noted
        assert back.batch([4])[0, -1, 2, 1] == (images[4, 2, 1, -1] if noted else images.reshape(expected)[4, -1, 2, 1])


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (np.array([2, 0, 2]), ("class 0", "class 1", "class 2")),
        (np.array([2.0, 0.0, 2.0]), ("class 0", "class 1", "class 2")),
        (np.array([[2], [0], [2]]), ("class 0", "class 1", "class 2")),
        (np.eye(3)[[2, 0, 2]], ("class 0", "class 1", "class 2")),
        (np.array(["z", "a", "z"]), ("a", "z")),
        (np.array([b"z", b"a", b"z"]), ("a", "z")),
    ],
)
def test_labels_as_people_store_them(tmp_path, labels, classes):
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 4, 4)), labels=labels)
    back = read(tmp_path / "a.npz")
    assert back.classes == classes
    assert back.labels is not None
    assert back.labels.tolist() == [len(classes) - 1, 0, len(classes) - 1]
    unlabelled = read(tmp_path / "a.npz", label_column=None)
    assert (unlabelled.labels, read_again(unlabelled.source).labels) == (None, None)


def test_ids_that_repeat_between_classes(tmp_path):
    """FR-DEEP: file names of one folder per class. The same image twice is a duplicate and stays one."""
    images = np.arange(4 * 9).reshape(4, 3, 3)
    about = {"labels": [0, 1, 0, 1], "ids": ["1.png", "1.png", "2.png", "3.png"], "classes": ["I", "II"]}
    np.savez(tmp_path / "a.npz", images=images, **about)
    back = read(tmp_path / "a.npz")
    assert back.ids == ("I/1.png", "II/1.png", "I/2.png", "II/3.png")
    assert any("repeat" in note for note in back.notes)
    images[1] = images[0]
    np.savez(tmp_path / "b.npz", images=images, **about)
    with pytest.raises(ValueError, match=r"'1.png' occurs twice"):
        read(tmp_path / "b.npz")


def test_split_of_the_file(tmp_path):
    np.savez(
        tmp_path / "a.npz", X=np.arange(4.0).reshape(4, 1, 1), y=[0, 1, 1, 0], split=["train", "test", "train", "test"]
    )
    back = read(tmp_path / "a.npz", split="test")
    assert back.ids == tuple(read(tmp_path / "a.npz").ids[k] for k in (1, 3))
    assert back.batch(slice(None)).ravel().tolist() == [1.0, 3.0]
    assert set(back.catalogue["split"]) == {"test"}


def deepadversaries(place, splits=("train", "test")):
    random = np.random.default_rng(0)
    labels = {s: random.integers(0, 3, 6) for s in splits}
    images = {}
    for split in splits:
        np.save(place / f"labels_{split}.npy", np.eye(3)[labels[split]])
        for depth in ("Y10", "Y1"):
            images[depth, split] = random.normal(size=(6, 3, 8, 8)).astype(np.float32)
            np.save(place / f"images_{depth}_{split}.npy", images[depth, split])
    return images, labels


def test_deepadversaries_layout(tmp_path):
    images, labels = deepadversaries(tmp_path)
    ids = {}
    for depth in ("Y10", "Y1"):
        back = read(f"{tmp_path}::{depth}", split="test")
        np.testing.assert_array_equal(back.batch(slice(None)).numpy(), images[depth, "test"])
        assert back.labels is not None
        np.testing.assert_array_equal(back.labels, labels["test"])
        assert back.classes == ("spiral", "elliptical", "merger")
        assert (back.bands, back.domain) == (("g", "r", "i"), depth)
        assert set(back.catalogue["split"]) == {"test"}
        assert read(f"{tmp_path}::{depth}/test").digest() == read_again(back.source).digest() == back.digest()
        alone = read(tmp_path / f"images_{depth}_test.npy")
        assert alone.labels is not None
        np.testing.assert_array_equal(alone.labels, labels["test"])
        ids[depth] = back.ids
    assert ids["Y10"] == ids["Y1"]
    assert ids["Y10"][0] == "test-000000"


def test_deepadversaries_subset_and_deepmerge_names(tmp_path):
    labels = np.array([2, 0, 1])
    np.save(tmp_path / "noisy_images_150.npy", np.zeros((3, 3, 8, 8)))
    np.save(tmp_path / "labels_150.npy", np.eye(3)[labels])
    back = read(tmp_path)
    assert back.labels is not None
    assert back.labels.tolist() == labels.tolist()
    assert (back.domain, "split" in back.catalogue) == ("Y1", False)
    np.save(tmp_path / "SimSim_SOURCE_X_Illustris2_pristine.npy", np.zeros((3, 3, 8, 8)))
    np.save(tmp_path / "SimSim_SOURCE_y_Illustris2_pristine.npy", np.array([1.0, 0.0, 1.0]))
    merge = read(tmp_path / "SimSim_SOURCE_X_Illustris2_pristine.npy")
    assert merge.labels is not None
    assert merge.labels.tolist() == [1, 0, 1]


def test_deepadversaries_depth_joins_its_splits(tmp_path):
    """A network is trained on `folder::Y10`: the splits of the files, the ids of the other depth and of one split."""
    images, labels = deepadversaries(tmp_path, ("train", "valid", "test"))
    y10, y1 = read(f"{tmp_path}::Y10"), read(f"{tmp_path}::Y1")
    assert y10.ids == y1.ids
    joined = np.concatenate([images["Y1", s] for s in ("train", "valid", "test")])
    np.testing.assert_array_equal(y1.batch(slice(None)).numpy(), joined)
    some = np.array([17, 0, 6, 5, 17])
    np.testing.assert_array_equal(y1.batch(some).numpy(), joined[some])
    assert y1.labels is not None
    assert y1.labels.tolist() == [k for s in ("train", "valid", "test") for k in labels[s]]
    assert y1.catalogue["split"].tolist() == ["train"] * 6 + ["valid"] * 6 + ["test"] * 6
    assert (y1.ids[0], y1.ids[6], y1.domain) == ("train-000000", "valid-000000", "Y1")
    for split in ("train", "valid", "test"):
        alone = read(f"{tmp_path}::Y1/{split}")
        assert alone.digest() == read(f"{tmp_path}::Y1", split=split).digest()
        assert alone.digest() == y1.take(np.flatnonzero(y1.catalogue["split"] == split)).digest()
        assert read(tmp_path / f"images_Y1_{split}.npy").ids == alone.ids
    assert read_again(y1.source).digest() == y1.digest() != y10.digest()
    lazy = y1.images.images
    assert isinstance(lazy, deepadversaries_layout.JoinedImages)
    assert all(isinstance(part.array, np.memmap) for part in lazy.parts)
    assert len(pickle.dumps(lazy)) < 2000  # three paths, not 13,824 bytes of pixels
    for file in tmp_path.glob("*_Y10_*"):
        file.unlink()
    assert read(tmp_path).digest() == y1.digest()


def test_one_subfolder_per_class(tmp_path):
    for label in ("ring", "plain"):
        (tmp_path / label).mkdir()
        for k in range(2):
            Image.fromarray(np.full((4, 5), 10 * k, dtype=np.uint8)).save(tmp_path / label / f"{k}.png")
    back = read(tmp_path)
    assert back.ids == ("plain/0", "plain/1", "ring/0", "ring/1")
    assert names_of(back) == ["plain", "plain", "ring", "ring"]
    assert back.images.shape == (4, 1, 4, 5)
    flat = read(tmp_path / "ring")
    assert (flat.labels, flat.ids) == (None, ("0", "1"))


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_deep_tiff(tmp_path, dtype):
    image = np.array([[0, 300], [60000, 7]], dtype=dtype)
    Image.fromarray(image).save(tmp_path / "a.tiff")
    assert read(tmp_path).batch([0])[0, 0].tolist() == image.tolist()


def test_exposure_beside_the_data(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 2, 4, 4)))
    text = 'bands = ["r", "i"]\npixel_scale = 0.2\nsky = [100.0, 200.0]\n'
    (tmp_path / "a.npz.exposure.toml").write_text(text)
    back = read(tmp_path / "a.npz")
    assert back.exposure is not None
    assert (back.bands, back.exposure.sky.tolist()) == (("r", "i"), [100.0, 200.0])
    turned = read(tmp_path / "a.npz", bands=("i", "r")).exposure
    assert turned is not None
    assert turned.sky.tolist() == [200.0, 100.0]
    folder_of = tmp_path / "layout"
    folder_of.mkdir()
    deepadversaries(folder_of, splits=("test",))
    (folder_of / "exposure.toml").write_text('survey = "LSST"\nbands = ["g", "r", "i"]\nfraction = 0.1\n')
    layout = read(f"{folder_of}::Y1").exposure
    assert layout is not None
    assert layout.fraction.tolist() == [0.1, 0.1, 0.1]
