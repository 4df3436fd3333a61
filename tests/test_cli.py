"""The command line is a promise: its JSON, its exit statuses, its one-line errors."""

import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import make_blobs

from perturbations.core import catalogue
from perturbations.exposure import Exposure
from robustastro.cli import main
from robustastro.data.readers import write_hdf5


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with data files and a bundle trained through the command line."""
    place = tmp_path_factory.mktemp("work")
    lsst = Exposure.from_survey("LSST", bands="gri")
    write_hdf5(make_blobs(180, lsst), place / "deep.h5")
    assert (
        run(
            "train",
            "--source",
            place / "deep.h5",
            "--arch",
            "tiny",
            "--epochs",
            "12",
            "--batch",
            "16",
            "--learning-rate",
            "0.02",
            "--out",
            place / "tiny.pt",
        )[0]
        == 0
    )
    return place


def run(*arguments, capsys=None):
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    captured = capsys.readouterr() if capsys else None
    return ended.value.code, captured.out if captured else "", captured.err if captured else ""


ESTIMATES = {
    "clean_accuracy",
    "perturbed_accuracy",
    "accuracy_drop",
    "attack_success_rate",
    "latent_shift",
    "flip_distance",
    "boundary_distance",
    "centroid_margin",
    "latent_scale",
    "queries_median",
}


def test_attack_json_is_the_promised_document(workplace, tmp_path, capsys):
    status, out, _ = run(
        "attack",
        "--model",
        workplace / "tiny.pt",
        "--attack",
        "onepixel",
        "--limit",
        8,
        "-p",
        "pop=10",
        "-p",
        "generations=2",
        "--out",
        tmp_path / "run",
        "--json",
        capsys=capsys,
    )
    document = json.loads(out)
    assert status == 0
    assert set(document) >= {"schema", "run", "model", "data", "perturbation", "seed", "flags", "results"}
    assert document["schema"] == 1
    assert document["data"]["n"] == 8
    (result,) = document["results"]
    assert set(result) >= ESTIMATES | {"severity", "strength", "unit", "n"}
    assert result["severity"] == 1
    for name in ESTIMATES:
        assert set(result[name]) == {"value", "low", "high", "n"}
    assert (tmp_path / "run" / "figures" / "gallery.png").exists()
    recipe = document["model"]["recipe"]
    assert (recipe["epochs"], recipe["target"], recipe["source"]["domain"]) == (12, None, "blobs")
    assert "seed" not in recipe  # what may differ between trainings of one recipe


def test_a_run_repeated_is_resumed_and_says_the_same(workplace, tmp_path, capsys):
    command = (
        "attack",
        "--model",
        workplace / "tiny.pt",
        "--attack",
        "depth",
        "--strength",
        0.1,
        "--out",
        tmp_path / "r",
        "--json",
    )
    first, second = (json.loads(run(*command, capsys=capsys)[1]) for _ in range(2))
    assert first["results"] == second["results"]


def test_text_goes_to_people(workplace, tmp_path, capsys):
    status, out, _ = run(
        "attack",
        "--model",
        workplace / "tiny.pt",
        "--attack",
        "jpeg",
        "--severity",
        2,
        "--out",
        tmp_path / "r",
        capsys=capsys,
    )
    assert status == 0
    assert "jpeg" in out
    assert "n = " in out or "n " in out


def test_without_data_the_bundles_own_test_split_is_used_and_must_be_unchanged(workplace, tmp_path, capsys):
    lsst = Exposure.from_survey("LSST", bands="gri")
    write_hdf5(make_blobs(180, lsst, prefix="moved"), tmp_path / "d.h5")
    run(
        "train",
        "--source",
        tmp_path / "d.h5",
        "--arch",
        "tiny",
        "--epochs",
        1,
        "--batch",
        16,
        "--out",
        tmp_path / "t.pt",
    )
    write_hdf5(make_blobs(180, lsst, seed=5, prefix="moved"), tmp_path / "d.h5")
    status, _, err = run(
        "attack", "--model", tmp_path / "t.pt", "--attack", "jpeg", "--out", tmp_path / "r", capsys=capsys
    )
    assert status == 2
    assert "have changed" in err


def test_other_galaxies_are_all_used_and_those_of_training_only_in_the_test_split(workplace, tmp_path, capsys):
    lsst = Exposure.from_survey("LSST", bands="gri")
    write_hdf5(make_blobs(30, lsst, seed=7), tmp_path / "new.h5")
    command = ("attack", "--model", workplace / "tiny.pt", "--attack", "jpeg", "--severity", 1, "--json")
    new = json.loads(run(*command, "--data", tmp_path / "new.h5", "--out", tmp_path / "a", capsys=capsys)[1])
    assert new["data"]["n"] == 30
    _, out, err = run(*command, "--data", workplace / "deep.h5", "--out", tmp_path / "b", capsys=capsys)
    assert json.loads(out)["data"]["n"] < 60
    assert "test split" in err
    assert json.loads(out)["flags"] == []


ONE_LINE = [
    (("attack", "--model", "missing.pt", "--attack", "onepixle"), "Did you mean 'onepixel'"),
    (("attack", "--model", "missing.pt", "--attack", "onepixel"), "No such file"),
    (("attack", "--model", "missing.pt", "--attack", "depth", "--severity", "9"), "severities 1 to 5"),
    (("attack", "--model", "{tiny}", "--attack", "jpeg", "--limit", "0"), "--limit 0"),
    (("attack", "--model", "{tiny}", "--attack", "jpeg", "--data", "nowhere.h5"), "nowhere.h5"),
    (("attack", "--model", "{tiny}", "--attack", "jpeg", "--device", "cuda:77"), "cuda:77"),
    (("attack", "--model", "{tiny}", "--attack", "depth", "--strength", "2"), "1e-06 <= kept <= 1"),
    (("train", "--source", "{deep}", "--out", "x.pt", "--method", "mmmd"), "Did you mean 'mmd'"),
    (("train", "--source", "{deep}", "--out", "x.pt", "--method", "mmd"), "--target"),
    (("train", "--source", "{deep}", "--out", "x.h5"), ".pt"),
    (("simulate", "--out", "x.pt"), "ending in .h5"),
    (("simulate", "--out", "{folder}/x.h5"), "cannot write in"),
    (("attack", "--model", "{tiny}", "--attack", "jpeg", "--out", "{deep}"), "is a file"),
    (("train", "--source", "{deep}", "--out", "x.pt", "--seed", "-1"), "seed -1"),
    (("simulate", "--out", "x.h5", "--survey", "LSTS"), "Did you mean 'LSST'"),
    (("simulate", "--out", "x.h5", "--depth", "Y11"), "Y1 to Y10"),
    (("simulate", "--out", "x.h5", "--classes", "bared_spiral"), "Did you mean 'barred_spiral'"),
    (("simulate", "--out", "x.h5", "--proportions", "1,2"), "one number above 0 per class"),
    (("simulate", "--out", "x.h5", "--population", "observd"), "Did you mean 'observed'"),
    (("list", "survey"), "Did you mean 'surveys'"),
    (("figure", "severty", "{deep}", "--out", "f.png"), ""),
    (("inspect", "nowhere.pt"), "No such file"),
]


@pytest.mark.parametrize(("arguments", "words"), ONE_LINE, ids=lambda v: " ".join(v) if isinstance(v, tuple) else "")
def test_wrong_input_is_one_line_and_status_2(workplace, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    known = {"tiny": workplace / "tiny.pt", "deep": workplace / "deep.h5", "folder": workplace / "deep.h5"}
    status, out, err = run(*(a.format(**known) for a in arguments), capsys=capsys)
    assert status == 2
    assert words in err
    assert "Traceback" not in err
    assert out == ""
    errors = [line for line in err.splitlines() if line.startswith("robustastro:")]
    assert len(errors) == 1
    assert not list(tmp_path.iterdir())


def test_a_collapsed_training_exits_1_and_is_written_and_flagged(workplace, tmp_path, capsys):
    status, out, err = run(
        "train",
        "--source",
        workplace / "deep.h5",
        "--arch",
        "tiny",
        "--epochs",
        1,
        "--batch",
        16,
        "--learning-rate",
        1e30,
        "--out",
        tmp_path / "c.pt",
        "--json",
        capsys=capsys,
    )
    assert status == 1
    assert [flag["code"] for flag in json.loads(out)["flags"]] == ["collapsed"]
    assert "flag collapsed" in err
    assert json.loads((tmp_path / "c.json").read_text())["flags"]
    status, out, _ = run("inspect", tmp_path / "c.pt", "--json", capsys=capsys)
    assert "collapsed" in [flag["code"] for flag in json.loads(out)["flags"]]


def test_a_target_with_other_classes_or_no_test_split_costs_no_training(workplace, tmp_path, capsys):
    import dataclasses

    import pandas as pd

    lsst = Exposure.from_survey("LSST", bands="gri")
    target = make_blobs(180, lsst, seed=8)
    target = dataclasses.replace(target, classes=("round", "small", "lens"))
    write_hdf5(target, tmp_path / "open.h5")
    source = make_blobs(180, lsst)
    all_train = pd.DataFrame({"split": ["train"] * 150 + ["valid"] * 30})
    write_hdf5(dataclasses.replace(source, catalogue=all_train), tmp_path / "source.h5")
    command = ("train", "--method", "mmd", "--arch", "tiny", "--epochs", 8, "--batch", 16, "--learning-rate", 0.02)
    status, out, _ = run(
        *command,
        "--source",
        tmp_path / "source.h5",
        "--target",
        tmp_path / "open.h5",
        "--out",
        tmp_path / "m.pt",
        "--json",
        capsys=capsys,
    )
    assert status in (0, 1)  # so few epochs may collapse; the bundle is there all the same
    assert (tmp_path / "m.pt").exists()
    test = json.loads(out)["test"]
    assert "source" not in test
    assert 10 <= test["target"]["accuracy"]["n"] <= 40  # the two classes that the model knows


def test_reading_options_without_data_are_refused(workplace, capsys):
    status, _, err = run(
        "attack", "--model", workplace / "tiny.pt", "--attack", "jpeg", "--masked", "reject", capsys=capsys
    )
    assert status == 2
    assert "--masked without --data" in err


def test_whole_numbers_as_labels_count_in_the_models_order(workplace, tmp_path, capsys):
    lsst = Exposure.from_survey("LSST", bands="gri")
    blobs = make_blobs(12, lsst, seed=3)
    np.savez(tmp_path / "n.npz", images=blobs.images, labels=blobs.labels)
    status, out, _ = run(
        "attack",
        "--model",
        workplace / "tiny.pt",
        "--attack",
        "jpeg",
        "--severity",
        1,
        "--data",
        tmp_path / "n.npz",
        "--bands",
        "g,r,i",
        "--out",
        tmp_path / "r",
        "--json",
        capsys=capsys,
    )
    assert status == 0
    assert set(json.loads(out)["results"][0]["per_class"]) == {"round", "small", "long"}


def test_lists(capsys):
    rows = json.loads(run("list", "perturbations", "--json", capsys=capsys)[1])
    assert sorted(row["name"] for row in rows) == list(catalogue())
    promised = {
        "name",
        "family",
        "kind",
        "space",
        "parameter",
        "unit",
        "ladder",
        "identity",
        "norm",
        "access",
        "source",
        "version",
    }
    assert all(set(row) >= promised for row in rows)
    for what, name in (("surveys", "LSST"), ("methods", "dann"), ("models", "convnet"), ("figures", "severity")):
        assert name in [row["name"] for row in json.loads(run("list", what, "--json", capsys=capsys)[1])]
        assert name in run("list", what, capsys=capsys)[1]


def test_inspect_and_init_contract(workplace, tmp_path, capsys):
    facts = json.loads(run("inspect", workplace / "tiny.pt", "--json", capsys=capsys)[1])
    assert (facts["kind"], facts["bands"], facts["classes"]) == ("robustastro bundle", 3, 3)
    facts = json.loads(run("inspect", workplace / "deep.h5", "--json", capsys=capsys)[1])
    assert facts["n"] == 180
    assert facts["labels"] == {"round": 60, "small": 60, "long": 60}
    contract = run("inspect", workplace / "deep.h5", "--init-contract", capsys=capsys)[1]
    (tmp_path / "c.toml").write_text(contract)
    import torch

    stored = torch.load(workplace / "tiny.pt", weights_only=True)
    torch.save({"state_dict": stored["state_dict"]}, tmp_path / "bare.pth")
    status, out, _ = run(
        "attack",
        "--model",
        tmp_path / "bare.pth",
        "--arch",
        "tiny",
        "--contract",
        tmp_path / "c.toml",
        "--data",
        workplace / "deep.h5",
        "--attack",
        "jpeg",
        "--severity",
        1,
        "--out",
        tmp_path / "r",
        "--json",
        capsys=capsys,
    )
    assert status == 0
    assert json.loads(out)["data"]["n"] == 180
    template = run("inspect", tmp_path / "bare.pth", "--init-contract", capsys=capsys)[1]
    assert 'classes = ["class1", "class2", "class3"]' in template
    assert json.loads(run("inspect", tmp_path / "r", "--json", capsys=capsys)[1])["galaxies_done"] == {"jpeg 80": 180}


def test_simulate_writes_what_attack_reads(tmp_path, capsys):
    status, out, _ = run(
        "simulate",
        "-n",
        9,
        "--seed",
        3,
        "--depth",
        "Y3",
        "--size",
        48,
        "--processes",
        1,
        "--out",
        tmp_path / "y3.h5",
        "--json",
        capsys=capsys,
    )
    assert status == 0
    assert json.loads(out)["recipe"]["depth"] == pytest.approx(0.3)
    facts = json.loads(run("inspect", tmp_path / "y3.h5", "--json", capsys=capsys)[1])
    assert facts["exposure"]["fraction"] == pytest.approx([0.3] * 3)
    assert facts["shape"] == [3, 48, 48]


def test_simulate_takes_classes_in_shares_of_another_population(tmp_path, capsys):
    asked = ("--classes", "barred_spiral,non-merger", "--proportions", "1,2", "--population", "observed")
    of = ("--survey", "HST", "--bands", "I,J,H", "-n", 6, "--size", 40, "--processes", 1)
    status, out, _ = run("simulate", *asked, *of, "--out", tmp_path / "a.h5", "--json", capsys=capsys)
    assert status == 0
    recipe = json.loads(out)["recipe"]
    assert (recipe["proportions"], recipe["population"]) == ([1.0, 2.0], "observed")
    facts = json.loads(run("inspect", tmp_path / "a.h5", "--json", capsys=capsys)[1])
    assert facts["labels"] == {"barred_spiral": 2, "non-merger": 4}


def test_pictures_refuse_depth_and_say_why(workplace, tmp_path, capsys):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "p.npz", images=rng.integers(0, 255, (6, 3, 24, 24), dtype=np.uint8), labels=["round"] * 6)
    status, _, err = run(
        "attack",
        "--model",
        workplace / "tiny.pt",
        "--attack",
        "depth",
        "--data",
        tmp_path / "p.npz",
        "--bands",
        "g,r,i",
        "--out",
        tmp_path / "r",
        capsys=capsys,
    )
    assert status == 2
    assert "no Exposure" in err
    assert "--exposure" in err


def test_debug_shows_the_traceback():
    command = [sys.executable, "-m", "robustastro", "attack", "--model", "missing.pt", "--attack", "onepixel"]
    quiet, loud = (subprocess.run([*command, *more], capture_output=True, text=True) for more in ([], ["--debug"]))
    assert quiet.returncode == 2
    assert "Traceback" not in quiet.stderr
    assert "Traceback" in loud.stderr
