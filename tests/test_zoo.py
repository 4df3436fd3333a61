"""The zoo: zoo:NAME is a model wherever a file is, its cards say what its files are, half precision changes nothing."""

import hashlib
import json
import math
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binom
from test_cli import run
from test_models import bundle, unit_contract

from perturbations.errors import InputError
from robustastro import demo
from robustastro.adapt.recipe import Recipe
from robustastro.adapt.training import train
from robustastro.commands import test_data as galaxies_to_test  # pytest would collect it by its own name
from robustastro.data import mocks
from robustastro.data.splits import id_hashes
from robustastro.models import zoo
from robustastro.models.bundles import load_model, save_bundle
from robustastro.models.nets import ConvNet, TinyNet
from robustastro.models.subject import Subject
from robustastro.record import Record

NAMES = sorted(zoo.cards())
ANY = zoo.PREFIX + NAMES[0]
NO_PROGRESS = lambda *_: None  # noqa: E731


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def texts(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for part in value.values() for text in texts(part))
    elif isinstance(value, (list, tuple)):
        yield from (text for part in value for text in texts(part))


# ---------------------------------------------------------------------- names


def test_a_path_is_itself_and_a_name_of_the_zoo_its_file(elsewhere, capsys):
    assert zoo.resolve("runs/dann.pt") == ("runs/dann.pt", Path("runs/dann.pt"))
    assert zoo.resolve(Path("other.pt")) == ("other.pt", Path("other.pt"))
    for given in (ANY, Path(ANY)):
        name, file = zoo.resolve(given)
        assert (name, file.is_file()) == (ANY, True)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("plain", sorted(zoo.PLAIN))
def test_a_plain_name_is_the_zoos_only_where_there_is_no_such_file(elsewhere, capsys, plain):
    name, file = zoo.resolve(plain)
    assert name == f"zoo:{zoo.PLAIN[plain]}"
    assert file.is_file()
    said = capsys.readouterr()
    assert said.out == ""
    assert plain in said.err
    assert name in said.err
    assert zoo.resolve(f"below/{plain}") == (f"below/{plain}", Path("below") / plain)
    path, network = bundle(elsewhere)
    path.rename(elsewhere / plain)
    assert zoo.resolve(plain) == (plain, Path(plain))
    assert torch.equal(load_model(plain).network.state_dict()["fc.weight"], network.fc.weight)
    assert capsys.readouterr().err == ""


def test_the_names_that_the_papers_and_examples_use_mean_what_they_say():
    assert {plain: zoo.cards()[name]["recipe"]["method"] for plain, name in zoo.PLAIN.items()} == {
        "noda.pt": "none",
        "dann.pt": "dann",
    }


@pytest.mark.parametrize("command", [["attack", "--attack", "depth", "--model"], ["inspect"]])
def test_an_unknown_name_gets_a_hint(elsewhere, capsys, command):
    status, _, err = run(*command, ANY[:-1], capsys=capsys)
    assert status == 2
    assert f"Did you mean '{NAMES[0]}'" in err
    assert len(err.splitlines()) == 1


def test_the_zoo_is_listed_and_inspected(capsys):
    _, out, _ = run("list", "models", "--json", capsys=capsys)
    rows = {row["name"]: row for row in json.loads(out)}
    assert rows["convnet"]["kind"] == "architecture"
    _, out, _ = run("list", "models", capsys=capsys)
    for name in NAMES:
        assert rows[f"zoo:{name}"]["card"] == zoo.cards()[name]
        assert f"zoo:{name}\n" in out
        for accuracy in zoo.cards()[name]["accuracy"].values():
            assert f"{100 * accuracy['value']:.1f} [{100 * accuracy['low']:.1f}," in out
    status, out, _ = run("inspect", ANY, "--json", capsys=capsys)
    found = json.loads(out)
    assert (status, found["file"], found["kind"]) == (0, ANY, "robustastro bundle")
    assert found["card"] == zoo.cards()[NAMES[0]]
    assert run("inspect", ANY, "--init-contract", capsys=capsys)[1] == load_model(ANY).contract.to_toml()


# ---------------------------------------------------------------------- cards and files


def test_the_zoo_is_small_and_has_a_card_for_every_file():
    files = sorted(zoo.HERE.glob("*.pt"))
    assert [file.stem for file in files] == NAMES
    assert sum(file.stat().st_size for file in zoo.HERE.iterdir()) < 12e6


@pytest.mark.parametrize("name", NAMES)
def test_a_card_is_of_its_file(name):
    card, file = zoo.cards()[name], zoo.HERE / f"{name}.pt"
    model = load_model(f"zoo:{name}")
    assert (model.path, model.name) == (f"zoo:{name}", name)
    assert card["file"] == file.name
    assert card["bytes"] == file.stat().st_size
    assert card["sha256"] == model.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    for entry in ("recipe", "validation", "flags", "best_epoch"):
        assert card[entry] == model.training[entry]
    assert card["trained_on"] == {domain: model.training[domain] for domain in ("source", "target")}
    assert card["seed"] == card["recipe"]["seed"] == model.training["seed"]
    assert card["accuracy_on"]["n"] == card["accuracy"]["LSST Y10"]["n"] == card["accuracy"]["LSST Y1"]["n"]
    assert name == f"lsst-{model.arch}-{card['recipe']['method']}"
    stored = torch.load(file, weights_only=True)
    assert all(t.dtype == torch.float16 for t in stored["state_dict"].values() if t.ndim > 1 and t.is_floating_point())
    assert all(p.dtype == torch.float32 for p in model.network.parameters())
    assert not [t for t in texts([card, model.training, model.data]) if t.startswith("/") or ":\\" in t]


@pytest.mark.parametrize("name", NAMES)
def test_the_command_of_a_card_repeats_its_recipe(name, elsewhere, monkeypatch, capsys):
    """The commands are run, but for the work: what they ask for is what the card and the bundle say."""
    card, model = zoo.cards()[name], load_model(f"zoo:{name}")
    drawn, asked = [], {}

    def simulate(recipe, **_):
        drawn.append(recipe.to_dict())
        return mocks_few

    def fit(settings, source, target, out, *_):
        asked.update(settings, source=source, target=target, out=str(out))
        raise InputError("no", "no", "no")

    mocks_few = mocks.simulate(mocks.Recipe(n=1, size=32))
    monkeypatch.setattr("robustastro.data.mocks.simulate", simulate)
    monkeypatch.setattr("robustastro.commands.train", fit)
    files = []
    for line in card["commands"]:
        program, *words = shlex.split(line)
        assert program == "robustastro"
        files.append(words[words.index("--out") + 1])
        run(*words, capsys=capsys)
    given = [model.data[domain]["recipe"] for domain in ("source", "target") if model.data[domain]]
    assert drawn == given
    assert [asked["source"], asked["target"], asked["out"]][-len(files) :] == files
    options = dict(option.split("=") for option in asked.pop("options"))
    options = {k: v if isinstance(card["recipe"]["options"][k], str) else float(v) for k, v in options.items()}
    fields = {k: v for k, v in asked.items() if k not in ("source", "target", "out")}
    assert Recipe(**fields, options=options).resolved() == Recipe(**card["recipe"]).resolved()


def test_test_galaxies_are_named_by_recipe_and_were_never_seen():
    for name in NAMES:
        model = load_model(f"zoo:{name}")
        assert model.data["test"]["mocks"] == mocks.parameters_hash()  # the mocks changed? make the zoo again
        ids = {s: mocks.Recipe.from_dict(model.data[s]["recipe"]).ids() for s in ("test", "valid")}
        assert len(ids["test"]) == 200
        assert not set(ids["test"]) & set(ids["valid"])
        for split in ids.values():
            assert not bool(torch.isin(id_hashes(split), model.trained_on).any())


def test_accuracies_measured_again_are_those_of_the_card():
    """Of the first 60 galaxies that the card's accuracies are of: as many right as its proportion can give."""
    test = mocks.Recipe.from_dict(load_model(ANY).data["test"]["recipe"])
    assert zoo.cards()[NAMES[0]]["accuracy_on"]["seed"] == test.seed
    for depth in (1.0, 0.1):
        few = mocks.simulate(mocks.Recipe(**{**test.to_dict(), "n": 60, "depth": depth}), processes=1)
        for name in NAMES:
            accuracy = zoo.cards()[name]["accuracy"][few.domain]
            measured = demo._accuracy(load_model(f"zoo:{name}"), few, "cpu")["accuracy"]
            right = round(60 * measured["value"])
            low, high = binom.ppf([1e-4, 1 - 1e-4], 60, accuracy["value"])
            assert low <= right <= high


# ---------------------------------------------------------------------- half precision


def stored_half(tmp_path, network, **facts):
    facts = {"training": {}, "data": {}, "centroids": torch.zeros(3, 8), "trained_on": torch.tensor([1])} | facts
    options = {"bands": 3, "classes": 3, "size": 32}
    arch = {ConvNet: "convnet", TinyNet: "tiny"}[type(network)]
    save_bundle(tmp_path / "half.pt", network, arch, options, unit_contract(), half=True, **facts)
    return load_model(tmp_path / "half.pt")


def test_half_precision_halves_the_file_and_keeps_the_logits(tmp_path):
    torch.manual_seed(0)
    network = ConvNet(3, 3, 32)
    with torch.no_grad():  # a quiet channel: its variance is below the smallest number of half precision
        network.batchn1.running_var[0] = 1e-9
        network.batchn1.running_mean[0] = 1e-6
    network.eval()
    model = stored_half(tmp_path, network)
    assert (tmp_path / "half.pt").stat().st_size < 0.6 * 4 * sum(p.numel() for p in network.parameters())
    x = torch.rand(20, 3, 32, 32)
    full, half = (Subject(n, unit_contract()).outputs(x).logits for n in (network, model.network))
    scale = float(full.std())
    assert 0 < float((full - half).abs().max()) < 5e-3 * scale  # rounding to 11 bits: 2^-11 of each weight
    assert torch.equal(model.network.batchn1.running_var, network.batchn1.running_var)
    for name, tensor in network.state_dict().items():
        kept = model.network.state_dict()[name]
        assert kept.dtype == tensor.dtype
        assert torch.allclose(kept, tensor, rtol=2.0**-11, atol=2.0**-25)


def test_a_weight_beyond_half_precision_is_refused_and_nothing_is_written(tmp_path):
    for value in (7e4, -7e4, math.inf, math.nan):
        network = TinyNet(3, 3)
        with torch.no_grad():
            network.fc.weight[0, 0] = value
        with pytest.raises(InputError, match=r"fc.weight .*65504"):
            stored_half(tmp_path, network)
        assert not (tmp_path / "half.pt").exists()


# ---------------------------------------------------------------------- use


def test_a_model_of_the_zoo_is_attacked_on_galaxies_that_its_bundle_names(elsewhere, capsys):
    status, out, err = run("attack", "--model", "dann.pt", "--attack", "depth", "--limit", 4, "--json", capsys=capsys)
    assert status == 0
    assert "zoo:lsst-convnet-dann" in err
    document = json.loads(out)
    assert document["model"]["path"] == "zoo:lsst-convnet-dann"
    assert document["model"]["name"] == "lsst-convnet-dann"
    assert document["data"]["n"] == 4
    assert Path(document["run"]).name.startswith("lsst-convnet-dann-depth-")
    assert Record.open(document["run"]).run["model"]["sha256"] == zoo.cards()["lsst-convnet-dann"]["sha256"]


def test_its_test_data_are_all_of_the_recipe_and_another_version_of_the_mocks_is_refused(tmp_path):
    recipes = {
        split: {"recipe": mocks.Recipe(n=n, seed=seed, size=32).to_dict(), "mocks": mocks.parameters_hash()}
        for split, n, seed in (("test", 7, 1), ("valid", 5, 2))
    }
    network = TinyNet(3, 3)
    model = stored_half(tmp_path, network, data=recipes)
    test, valid = galaxies_to_test(model, None, {}, NO_PROGRESS)
    expected = [mocks.simulate(mocks.Recipe(n=n, seed=seed, size=32)) for n, seed in ((7, 1), (5, 2))]
    assert valid is not None
    assert [test.digest(), valid.digest()] == [galaxies.digest() for galaxies in expected]
    for split in recipes:
        old = recipes | {split: recipes[split] | {"mocks": "0" * 64}}
        with pytest.raises(InputError, match="another version"):
            galaxies_to_test(stored_half(tmp_path, network, data=old), None, {}, NO_PROGRESS)
    with pytest.raises(InputError, match="--bands without --data"):
        galaxies_to_test(model, None, {"bands": "g,r,i"}, NO_PROGRESS)


def test_a_training_starts_from_a_model_of_the_zoo():
    source = mocks.simulate(mocks.Recipe(n=60, seed=5))
    recipe = Recipe(arch="convnet", epochs=1, batch=8, learning_rate=1e-9, init=ANY, freeze=("features",))
    trained = train(recipe, source)
    assert trained.record["init"]["path"] == ANY
    assert trained.record["init"]["sha256"] == zoo.cards()[NAMES[0]]["sha256"]
    given = load_model(ANY).network.state_dict()
    assert torch.equal(trained.network.state_dict()["bottleneck.weight"], given["bottleneck.weight"])


def test_the_pytest_plugin_takes_a_model_of_the_zoo(tmp_path):
    from robustastro.pytest_plugin import assert_robust

    few = mocks.simulate(mocks.Recipe(n=6, seed=2026))
    record = assert_robust(ANY, few, "jpeg", severity=1, min_accuracy=0.01, runs=tmp_path)
    assert record.path.name.startswith(f"{NAMES[0]}-jpeg-")
    assert np.isfinite(np.stack(record.unit("jpeg", 80.0)["logits"].to_list())).all()
