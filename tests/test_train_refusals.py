"""What `train` refuses before any work, and how it ends where a training diverges."""

import json
import math
import os
from pathlib import Path

import pytest
import torch
from conftest import make_blobs

from perturbations.errors import InputError
from robustastro.adapt import METHODS, RANGES
from robustastro.adapt.checkpoint import keep, kept
from robustastro.adapt.recipe import Recipe
from robustastro.cli import main
from robustastro.commands import fit, train
from robustastro.data.readers import write_hdf5
from robustastro.models.zoo import cards, resolve

SETTINGS = {"arch": "tiny", "epochs": 1, "batch": 32, "options": []}


def refused(settings, out, match, source="nowhere.h5"):
    """The source does not exist: what is refused is refused before the data are opened."""
    with pytest.raises(InputError, match=match):
        train(SETTINGS | settings, source, None, out, {}, "cpu", lambda *_: None)


def status_of(words):
    with pytest.raises(SystemExit) as end:
        main(words)
    return end.value.code


@pytest.fixture
def bundle(lsst, tmp_path):
    """A bundle of a short training."""
    place = tmp_path / "i.pt"
    fit(Recipe(arch="tiny", epochs=1, batch=32), make_blobs(60, lsst), None, place, "cpu", lambda *_: None)
    return place


def test_diverged_training_with_a_target_is_reported_as_collapsed(lsst, tmp_path, capsys):
    source, target, out = (str(tmp_path / name) for name in ("s.h5", "t.h5", "f.pt"))
    write_hdf5(make_blobs(90, lsst), source)
    write_hdf5(make_blobs(90, lsst, seed=1, prefix="far"), target)
    status = status_of(
        ["train", "--source", source, "--target", target, "--arch", "tiny", "--epochs", "2", "--batch", "16",
         "--method", "mmd", "--learning-rate", "1e25", "--out", out, "--device", "cpu", "--json"]
    )  # fmt: skip
    assert status == 1
    result = json.loads(capsys.readouterr().out)
    assert "collapsed" in [flag["code"] for flag in result["flags"]]
    assert result["domain_gap"]["proxy_a_distance"] == {"value": None, "low": None, "high": None, "n": 0}
    assert os.path.exists(out)


@pytest.mark.parametrize("link", [False, True])
def test_out_may_not_be_init(bundle, tmp_path, link):
    before, out = bundle.read_bytes(), bundle
    if link:
        out = tmp_path / "link.pt"
        out.symlink_to(bundle)
    refused({"init": str(bundle)}, out, "would replace --init")
    assert bundle.read_bytes() == before


def test_out_may_not_be_a_model_of_the_zoo():
    name = f"zoo:{next(iter(cards()))}"
    refused({"init": name}, resolve(name)[1], "would replace|which is not the record")
    refused({}, Path("zoo:x.pt"), "ending in .pt")


@pytest.mark.parametrize("text", ["{}", "[1]", "no json", '{"recipe": {}}'])
def test_an_unrelated_json_is_not_replaced(tmp_path, text):
    (tmp_path / "keep.json").write_text(text)
    refused({}, tmp_path / "keep.pt", "not the record of a training")
    assert (tmp_path / "keep.json").read_text() == text


@pytest.mark.parametrize("ending", [".pt", ".json", ".partial"])
def test_a_directory_in_the_way_is_refused_first(tmp_path, ending):
    (tmp_path / f"keep{ending}").mkdir()
    refused({}, tmp_path / "keep.pt", "is a directory")


def test_a_training_may_be_done_again(bundle):
    refused({}, bundle, "nowhere.h5")  # its own record is no hindrance: the data are what is missing


def test_init_of_weights_only_or_not_finite(bundle, lsst, tmp_path):
    bare, broken = tmp_path / "bare.pt", tmp_path / "broken.pt"
    stored = torch.load(bundle, weights_only=True)
    torch.save(stored["state_dict"], bare)
    refused({"init": str(bare)}, tmp_path / "o.pt", "--init takes a bundle")
    name = next(name for name, value in stored["state_dict"].items() if value.is_floating_point())
    stored["state_dict"][name].view(-1)[0] = math.nan
    torch.save(stored, broken)
    recipe = Recipe(arch="tiny", epochs=1, batch=32, init=str(broken))
    with pytest.raises(InputError, match=f"{name} has values that are not finite"):
        fit(recipe, make_blobs(60, lsst), None, tmp_path / "o.pt", "cpu", lambda *_: None)


def test_damaged_checkpoint(tmp_path):
    place = tmp_path / "f.partial"
    keep(place, "mine", {"epoch": 3})
    assert kept(place, "mine") == {"identity": "mine", "epoch": 3}
    place.write_bytes(place.read_bytes()[:100])
    with pytest.raises(InputError, match=r"is damaged.*[Dd]elete it; the training starts anew"):
        kept(place, "mine")


WRONG = {
    "hidden": (-5, 0, 2.5, 1e12), "dropout": (-0.1, 1), "blur": (0, -1), "temperature": (0, -1), "top": (0, 1.5),
    "bank": (-1, 2.5), "reach": (0, -1), "steps": (0, 2.5), "weight": (-1,), "entropy_weight": (-1,), "align": (-1,),
    "dynamic": (2, 0.5, -1), "entropy_weighted": (2, 0.5), "scaled": (2, 0.5), "spectral": (2, 0.5), "margin": (-1,),
    "warm_up": (-0.1, 1.1), "reversal": (-1,), "scale": (-1,), "share": (-0.1, 1.1), "epsilon": (-0.1, 1.1),
}  # fmt: skip
RIGHT = {
    "hidden": 1, "dropout": 0, "blur": 1e-3, "temperature": 1e-3, "top": 1, "bank": 0, "reach": 0.1, "steps": 1,
    "weight": 0, "entropy_weight": 0, "align": 0, "dynamic": 0, "entropy_weighted": 0, "scaled": 0, "spectral": 0,
    "margin": 0, "warm_up": 1, "reversal": 0, "scale": 0, "share": 1, "epsilon": 1,
}  # fmt: skip
NUMBERS = [(m.name, name) for m in METHODS.values() for name, value in m.options.items() if not isinstance(value, str)]


@pytest.mark.parametrize(("method", "name"), NUMBERS)
def test_ranges_of_options(method, name):
    for value in (*WRONG[name], math.nan, math.inf, -math.inf):
        with pytest.raises(InputError, match=f"{name} = {value} of {method}"):
            Recipe(method, options={name: value}).resolved()
    assert Recipe(method, options={name: RIGHT[name]}).resolved().options[name] == RIGHT[name]


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda m: m.name)
def test_defaults_lie_in_their_ranges(method):
    for name, value in (*method.options.items(), *method.published.items()):
        assert isinstance(value, str) or value in RANGES[name], name


@pytest.mark.parametrize("name", ["entropy", "learning_rate", "weight_decay"])
@pytest.mark.parametrize("value", [math.inf, math.nan, -1.0])
def test_numbers_of_a_recipe_are_finite(name, value):
    with pytest.raises(InputError, match=f"{name} {value}|{name} = {value}"):
        Recipe(**{name: value}).resolved()


def test_an_option_given_twice(tmp_path):
    refused({"method": "mmd", "options": ["weight=1", "weight=2"]}, tmp_path / "o.pt", "weight given twice")


def test_freeze_of_no_name(tmp_path, bundle, capsys):
    words = ["train", "--source", "nowhere.h5", "--out", str(tmp_path / "o.pt"), "--init", str(bundle), "--freeze", ","]
    assert status_of(words) == 2
    assert "--freeze ," in capsys.readouterr().err
