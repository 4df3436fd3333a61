"""The files that the authors of the three systems and of Galaxy10 publish, in small: what is in them comes back."""

import json
import pickle

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from perturbations.errors import InputError
from perturbations.exposure import Exposure
from robustastro import inspection
from robustastro.data.galaxies import Galaxies
from robustastro.data.readers import deepastrouda, deepmerge, galaxy10, hdf5, read, read_again, write_hdf5
from robustastro.data.splits import disjoint, split_of, splits_of

DISTANT = ("SimSim_SOURCE_{}_Illustris2_pristine.npy", "SimSim_TARGET_{}_Illustris2_noisy.npy")
NEARBY = ("SimReal_SOURCE_{}_Illustris0.npy", "SimReal_TARGET_{}_postmergers_SDSS.npy")
MERGERS = np.array([0, 1, 1, 0, 1])
MOCKS = {  # the names of the mocks, said once more
    "disturbed", "merging", "round_smooth", "cigar", "barred_spiral", "tight_spiral", "loose_spiral", "edge_on",
    "edge_on_bulge",
}  # fmt: skip
COLOURS = ("red", "green", "blue")


def names_of(galaxies):
    return [galaxies.classes[k] for k in galaxies.labels]


def pair(place, form, images, labels):
    np.save(place / form.format("X"), images)
    np.save(place / form.format("y"), labels)


def noise(seed, count=5, axes=(3, 9, 9)):
    return np.random.default_rng(seed).normal(size=(count, *axes)).astype(np.float32)


@pytest.fixture
def mergers(tmp_path):
    """All four sets; the target of the nearby experiment has other galaxies, and axes (N, H, W, 3)."""
    images = {"distant/source": noise(1), "distant/target": noise(2), "nearby/source": noise(3)}
    images["nearby/target"] = noise(4, 7, (9, 9, 3))
    pair(tmp_path, DISTANT[0], images["distant/source"], MERGERS)
    pair(tmp_path, DISTANT[1], images["distant/target"], MERGERS.astype(float))
    pair(tmp_path, NEARBY[0], images["nearby/source"], np.eye(2)[MERGERS])
    pair(tmp_path, NEARBY[1], images["nearby/target"], np.array([0, 0, 0, 0, 0, 0, 1])[:, None])
    return tmp_path, images


def test_deepmerge_gives_every_set_back(mergers):
    place, images = mergers
    expected = {name: MERGERS.tolist() for name in images} | {"nearby/target": [0, 0, 0, 0, 0, 0, 1]}
    for name, values in images.items():
        back = read(f"{place}::{name}")
        values = np.moveaxis(values, 3, 1) if name == "nearby/target" else values
        np.testing.assert_array_equal(back.batch(slice(None)).numpy(), values)
        assert back.classes == ("non-merger", "merger")
        assert back.labels is not None
        assert back.labels.tolist() == expected[name]
        assert back.bands == (("F814W", "F356W", "F160W") if "distant" in name else ("g", "r", "i"))
        assert "split" not in back.catalogue
        assert read_again(json.loads(json.dumps(dict(back.source)))).digest() == back.digest()
        assert len(pickle.dumps(back.images)) < 2000  # stays on disk
    turned = read(f"{place}::distant/source", classes=("merger", "non-merger"))
    assert names_of(turned) == names_of(read(f"{place}::distant/source"))


def test_a_distant_galaxy_is_one_galaxy_in_both_domains(mergers):
    place, _ = mergers
    source, target = read(f"{place}::distant/source"), read(f"{place}::distant/target")
    assert source.ids == target.ids == tuple(f"distant-{k:06d}" for k in range(5))
    assert (splits_of(source) == splits_of(target)).all()
    one, other = disjoint(source, target)
    assert not set(one.ids) & set(other.ids)
    near, far = read(f"{place}::nearby/source"), read(f"{place}::nearby/target")
    assert not set(near.ids) & (set(far.ids) | set(source.ids))
    assert source.domain != target.domain != near.domain != far.domain


@pytest.mark.parametrize("change", ["number", "labels"])
def test_distant_files_that_do_not_pair_share_no_ids(mergers, change):
    place, images = mergers
    other = 1 - MERGERS if change == "labels" else MERGERS[:4]
    pair(place, DISTANT[1], images["distant/target"][: len(other)], other)
    source, target = read(f"{place}::distant/source"), read(f"{place}::distant/target")
    assert not set(source.ids) & set(target.ids)
    assert deepmerge.NOT_PAIRED in source.notes
    assert deepmerge.NOT_PAIRED in target.notes


def test_deepmerge_files_one_at_a_time(mergers):
    """A file opened by itself is the set of the folder; a folder with one set needs no choice; a small x is an X."""
    place, _ = mergers
    for form, name in zip(DISTANT + NEARBY, deepmerge.ALL, strict=True):
        assert read(place / form.format("X")).digest() == read(f"{place}::{name}").digest()
    target = read(f"{place}::nearby/target")
    (place / NEARBY[1].format("X")).rename(place / NEARBY[1].format("x"))
    assert read(f"{place}::nearby/target").digest() == target.digest()
    for form in (*DISTANT, NEARBY[0]):
        for kind in "Xy":
            (place / form.format(kind)).unlink()
    assert read(place).digest() == target.digest()


def test_what_is_wrong_with_a_deepmerge_folder(mergers):
    place, images = mergers
    with pytest.raises(InputError, match=r"leaves a choice; one of distant/source, .*nearby/target.*::distant/source"):
        read(place)
    with pytest.raises(InputError, match=r"'distant/sorce'.*Did you mean 'distant/source'"):
        read(f"{place}::distant/sorce")
    with pytest.raises(InputError, match=r"does not say which galaxies are 'test'"):
        read(f"{place}::distant/source", split="test")
    pair(place, NEARBY[0], images["nearby/source"], MERGERS + 1)
    with pytest.raises(InputError, match=r"label 2; 0 to 1 .non-merger, merger"):
        read(f"{place}::nearby/source")
    pair(place, NEARBY[0], images["nearby/source"], MERGERS[:3])
    with pytest.raises(InputError, match=r"y_Illustris0.npy: 3 labels for 5 images; one per image"):
        read(f"{place}::nearby/source")
    pair(place, NEARBY[0], images["nearby/source"][:, :2], MERGERS)
    with pytest.raises(InputError, match=r"3 bands .g, r, i. for images of 2 channel"):
        read(f"{place}::nearby/source")
    (place / NEARBY[0].format("y")).unlink()
    with pytest.raises(InputError, match=r"X_Illustris0.npy but not SimReal_SOURCE_y.*4507941.*--label-column none"):
        read(f"{place}::nearby/source")
    assert read(f"{place}::nearby/target", label_column=None).labels is None
    (place / DISTANT[0].format("X")).unlink()
    with pytest.raises(InputError, match=r"has SimSim_SOURCE_y.*but not SimSim_SOURCE_X"):
        read(f"{place}::distant/source")


def galaxy10_file(path, size, labels, **columns):
    images = np.random.default_rng(size).integers(0, 256, (len(labels), size, size, 3), dtype=np.uint8)
    with h5py.File(path, "w") as file:
        file.create_dataset("images", data=images, compression="gzip", chunks=(len(labels), 8, 8, 1))
        file["ans"] = np.asarray(labels, dtype=np.uint8)
        for name, values in columns.items():
            file[name] = values
    return np.moveaxis(images, 3, 1).astype(np.float32)


def decals_file(path, labels=tuple(range(10)), **columns):
    count = len(labels)
    random = np.random.default_rng(0)
    columns = {
        "ra": random.uniform(0, 360, count),
        "dec": random.uniform(-30, 30, count),
        "redshift": np.where(np.arange(count) == 1, np.nan, 0.1),
        "pxscale": np.full(count, 0.262),
    } | columns
    return galaxy10_file(path, 256, labels, **columns), columns


def test_galaxy10_decals(tmp_path):
    images, columns = decals_file(tmp_path / "a.h5")
    back = read(tmp_path / "a.h5")
    np.testing.assert_array_equal(back.batch(slice(None)).numpy(), images)
    np.testing.assert_array_equal(back.batch([7, 0, 7]).numpy(), images[[7, 0, 7]])
    assert isinstance(getattr(back.images, "images", None), hdf5.StoredImages)
    assert len(pickle.dumps(back.images)) < 3000  # a path and ten ids, not 2 MB of pixels
    assert (back.domain, back.bands, back.exposure) == ("Galaxy10 DECaLS", COLOURS, None)
    assert names_of(back)[0] == "Disturbed Galaxies"
    assert names_of(back)[9] == "Edge-on Galaxies with Bulge"
    for name, values in columns.items():
        np.testing.assert_array_equal(back.catalogue[name].to_numpy(), values)
    assert [float(i[:10]) for i in back.ids] == pytest.approx(columns["ra"], abs=1e-6)
    assert [float(i[10:]) for i in back.ids] == pytest.approx(columns["dec"], abs=1e-6)
    assert "split" not in back.catalogue
    common = read(f"{tmp_path}/a.h5::common")
    assert names_of(common) == [
        "disturbed", "merging", "round_smooth", "in_between_smooth", "cigar", "barred_spiral", "tight_spiral",
        "loose_spiral", "edge_on", "edge_on_bulge",
    ]  # fmt: skip
    assert set(common.classes) - MOCKS == {"in_between_smooth"}
    assert common.ids == back.ids
    assert read_again(json.loads(json.dumps(dict(common.source)))).digest() == common.digest() != back.digest()
    assert read(tmp_path / "a.h5", label_column=None).labels is None


def test_galaxy10_sdss_has_other_classes(tmp_path):
    images = galaxy10_file(tmp_path / "b.h5", 69, [*range(10), 5])
    back, common = read(tmp_path / "b.h5"), read(f"{tmp_path}/b.h5::common")
    np.testing.assert_array_equal(back.batch([10, 2]).numpy(), images[[10, 2]])
    assert (back.domain, len(back.classes)) == ("Galaxy10 SDSS", 10)
    assert names_of(back)[:2] == ["Disk, Face-on, No Spiral", "Smooth, Completely round"]
    assert names_of(common) == [
        "face_on_disk", "round_smooth", "in_between_smooth", "cigar", "edge_on_bulge", "edge_on_bulge", "edge_on",
        "tight_spiral", "medium_spiral", "loose_spiral", "edge_on_bulge",
    ]  # fmt: skip
    assert len(common.classes) == 9
    assert set(common.classes) - set(galaxy10.DECALS.values()) == {"face_on_disk", "medium_spiral"}
    galaxy10_file(tmp_path / "again.h5", 69, [*range(10), 5])
    assert read(tmp_path / "again.h5").ids == back.ids  # of the pixels
    assert len(set(back.ids)) == 11


def test_images_of_one_place_fall_into_one_split(tmp_path):
    places = np.linspace(0, 350, 40)
    places[20:] = places[:20]
    decals_file(tmp_path / "a.h5", labels=(0,) * 40, ra=places, dec=np.zeros(40))
    back = read(tmp_path / "a.h5")
    assert len(set(back.ids)) == 40
    assert all(again == f"{first}-2" for first, again in zip(back.ids[:20], back.ids[20:], strict=True))
    splits = splits_of(back)
    assert (splits[:20] == splits[20:]).all()
    assert (splits[:20] == split_of(back.ids[:20])).all()
    assert (split_of(back.ids)[20:] != splits[20:]).any()  # by its own name a copy would have gone elsewhere
    assert any("20 image(s) of a place" in note for note in back.notes)
    decals_file(tmp_path / "b.h5", ra=np.full(10, np.nan))
    assert read(tmp_path / "b.h5").ids[0].startswith("px-")


def test_what_is_wrong_with_a_galaxy10(tmp_path):
    galaxy10_file(tmp_path / "a.h5", 69, [0, 10])
    with pytest.raises(InputError, match=r"label 10; 0 to 9 .Disk, Face-on, No Spiral"):
        read(tmp_path / "a.h5")
    galaxy10_file(tmp_path / "b.h5", 64, [0, 1])
    with pytest.raises(InputError, match=r"shape .64, 64, 3. with 'ans'; 69 x 69 x 3 .Galaxy10 SDSS. or 256"):
        read(tmp_path / "b.h5")
    galaxy10_file(tmp_path / "c.h5", 69, [0, 1])
    with pytest.raises(InputError, match=r"suffix of .*'comon'.*Did you mean 'common'"):
        read(f"{tmp_path}/c.h5::comon")
    with pytest.raises(InputError, match=r"8-bit images of .*; display images have no electrons"):
        read(tmp_path / "c.h5", exposure=Exposure(bands=COLOURS, pixel_scale=0.4, sky=torch.ones(3)))
    with pytest.raises(InputError, match=r"classes cigar, spiral asked for; .*Read it as .*c.h5::common"):
        read(tmp_path / "c.h5", classes=("cigar", "spiral"))
    with h5py.File(tmp_path / "c.h5", "a") as file:
        del file["ans"]
        file["ans"] = [0, 1, 2]
    with pytest.raises(InputError, match=r"3 labels for 2 images"):
        read(tmp_path / "c.h5")
    with h5py.File(tmp_path / "c.h5", "a") as file:
        del file["ans"]
    with pytest.raises(InputError, match=r"of another kind .images.; .*Galaxy10 .images, ans.*Convert"):
        read(tmp_path / "c.h5")


def survey_file(path, parts=("",), count=10, last=True):
    """A file of DeepAstroUDA as it is assumed to be."""
    images = {}
    with h5py.File(path, "w") as file:
        for k, part in enumerate(parts):
            images[part] = np.random.default_rng(k + 3).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
            file[f"images{part}"] = images[part] if last else np.moveaxis(images[part], 3, 1)
            file[f"labels{part}"] = np.arange(count) % 10
    return np.moveaxis(np.concatenate(list(images.values())), 3, 1).astype(np.float32)


def test_deepastrouda(tmp_path):
    images = survey_file(tmp_path / "decals.h5")
    back = read(tmp_path / "decals.h5")
    np.testing.assert_array_equal(back.batch(slice(None)).numpy(), images)
    assert (back.domain, back.bands) == ("DECaLS", COLOURS)
    assert back.classes[-1] == "strong_lens"
    assert set(back.classes) == MOCKS | {"strong_lens"}
    assert names_of(back) == list(back.classes)
    assert deepastrouda.NOTE in back.notes
    assert "split" not in back.catalogue
    assert read(tmp_path).digest() == back.digest()
    survey_file(tmp_path / "sdss_stripe82.h5", ("", "_val", "_test"), 11, last=False)
    stripe = read(f"{tmp_path}::sdss_stripe82")
    expected = survey_file(tmp_path / "again.h5", ("", "_val", "_test"), 11)
    some = [32, 0, 11, 10, 32]
    np.testing.assert_array_equal(stripe.batch(some).numpy(), expected[some])
    assert stripe.catalogue["split"].tolist() == ["train"] * 11 + ["valid"] * 11 + ["test"] * 11
    assert stripe.labels is not None
    assert stripe.labels.tolist() == [*range(10), 0] * 3
    assert len(read(f"{tmp_path}::sdss_stripe82", split="test")) == 11
    assert read_again(json.loads(json.dumps(dict(stripe.source)))).digest() == stripe.digest()
    ours = Galaxies(images, np.zeros(10, dtype=np.int64), tuple("abcdefghij"), ("spiral",), ("g", "r", "i"))
    write_hdf5(ours, tmp_path / "sdss_1.h5")  # a file of ours keeps its meaning whatever its name
    assert read(tmp_path / "sdss_1.h5").digest() == read(f"{tmp_path}::sdss_1").digest() == ours.digest()
    shared = set(galaxy10.DECALS.values()) & set(back.classes)
    assert shared == MOCKS  # Galaxy10 and these files speak of the same nine


def test_what_is_wrong_with_a_deepastrouda_file(tmp_path):
    for name in ("decals", "sdss_1"):
        survey_file(tmp_path / f"{name}.h5", ("", "_test"))
    with pytest.raises(InputError, match=r"leaves a choice; one of decals, sdss_1"):
        read(tmp_path)
    with pytest.raises(InputError, match=r"unknown set of .*'sdss_2'.*known: decals, sdss_1"):
        read(f"{tmp_path}::sdss_2")
    with pytest.raises(InputError, match=r"'::train' after .*decals.h5; nothing to choose"):
        read(f"{tmp_path}/decals.h5::train")
    with h5py.File(tmp_path / "decals.h5", "a") as file:
        del file["labels_test"]
        file["labels_test"] = [0, 1]
    with pytest.raises(InputError, match=r"2 labels_test and images_test of shape .10, 3, 8, 8."):
        read(tmp_path / "decals.h5")
    with h5py.File(tmp_path / "decals.h5", "a") as file:
        del file["labels_test"]
    with pytest.raises(InputError, match=r"has images, images_test, labels but not labels_test"):
        read(tmp_path / "decals.h5")
    with h5py.File(tmp_path / "sdss_1.h5", "a") as file:
        del file["labels"]
        file["labels"] = [10] * 10
    with pytest.raises(InputError, match=r"sdss_1.h5: labels: label 10; 0 to 9 .disturbed"):
        read(f"{tmp_path}::sdss_1")


def test_inspect_says_what_a_folder_holds(mergers):
    place, _ = mergers
    (place / NEARBY[0].format("y")).unlink()
    about = json.loads(json.dumps(inspection.facts(str(place))))
    assert about["layout"] == "DeepMerge II"
    assert about["sets"]["distant/source"] == {"n": 5, "shape": [3, 9, 9], "labels": {"non-merger": 2, "merger": 3}}
    assert about["sets"]["nearby/target"]["labels"] == {"non-merger": 6, "merger": 1}
    assert "SimReal_SOURCE_y" in about["sets"]["nearby/source"]["problem"]
    assert about["next"].endswith("::distant/source")
    one = inspection.facts(f"{place}::distant/source")
    assert (one["n"], one["domain"]) == (5, "Illustris z=2 pristine")


def test_other_folders_are_read_as_before(tmp_path):
    Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(tmp_path / "SimSim.png")
    assert read(tmp_path).ids == ("SimSim",)
    with pytest.raises(InputError, match=r"'::distant/source' after .*folder of DeepAdversaries, DeepMerge II"):
        read(f"{tmp_path}::distant/source")
