"""Suites and what they feed: evaluate, show, the pages."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import make_blobs
from PIL import Image
from test_cli import run

from perturbations.core import _built_in, catalogue, get
from perturbations.errors import InputError
from perturbations.exposure import Exposure
from robustastro import listing, suites
from robustastro.data.readers import write_hdf5

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", suites.names())
def test_every_suite_can_be_planned(name):
    steps = suites.load(name).steps()
    assert len({step.name for step in steps}) == len(steps)
    assert suites.load(name).description


def test_the_suite_for_data_without_units_needs_none_and_the_others_use_the_catalogue():
    assert all(get(step.name).space != "flux" for step in suites.load("images").steps())
    families = {"detector": "detector", "compression": "compression"}
    for suite, family in families.items():
        names = {entry.name for entry in suites.load(suite).perturbation}
        assert all(get(name).family == family for name in names)
        assert len(names) > 5
    lsst = {get(entry.name).family for entry in suites.load("lsst").perturbation}
    assert lsst >= {"observing", "detector", "transients", "compression"}


def write(path, text):
    path.write_text(text)
    return str(path)


OWN = """
schema = 1
description = "three"
[[perturbation]]
name = "depth"
severities = [1, 5]
[[perturbation]]
name = "seeing"
strengths = [0.3, 0.4]
[[perturbation]]
name = "jpeg"
"""


def test_a_suite_of_ones_own(tmp_path):
    steps = suites.load(write(tmp_path / "own.toml", OWN)).steps()
    assert [step.strengths for step in steps] == [(0.8, 0.1), (0.3, 0.4), get("jpeg").ladder]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("schema = 1", "description"),
        (OWN.replace("schema = 1", "schema = 2"), "schema"),
        (OWN.replace('name = "depth"', 'name = "dephts"'), "Did you mean 'depth'"),
        (OWN.replace("severities = [1, 5]", "severity = [1]"), "Did you mean 'severities'"),
        (OWN.replace("[1, 5]", "[6]"), "severities 1 to 5"),
        (OWN.replace("[1, 5]", "[]"), "severities"),
        (OWN.replace("[0.3, 0.4]", "[]"), "strengths"),
        (OWN + "severities = [1]\nstrengths = [0.1]", "one of them"),
        (OWN + "options = {quality = 3}", "unknown option"),
        ("schema = ", "readable TOML"),
    ],
)
def test_a_wrong_suite_is_refused_by_name(text, words, tmp_path):
    with pytest.raises(InputError, match=words):
        suites.load(write(tmp_path / "own.toml", text)).steps()


def test_unknown_suites_come_with_a_suggestion():
    with pytest.raises(InputError, match="Did you mean 'lsst'"):
        suites.load("lsts")
    with pytest.raises(InputError, match="nowhere"):
        suites.load("nowhere.toml")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("suites")
    lsst = Exposure.from_survey("LSST", bands="gri")
    write_hdf5(make_blobs(120, lsst), place / "deep.h5")
    write(place / "own.toml", OWN)
    for k in range(3):
        (place / "plain" / f"class{k}").mkdir(parents=True)
        for j in range(4):
            pixels = np.random.default_rng(10 * k + j).integers(0, 255, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / "plain" / f"class{k}" / f"{j}.png")
    status = run(*("train", "--source", place / "deep.h5", "--arch", "tiny", "--epochs", "2", "--out", place / "m.pt"))[
        0
    ]
    assert status in (0, 1)
    return place


def evaluate(place, out, *more, capsys):
    model = ("--model", place / "m.pt", "--data", place / "deep.h5", "--out", out, "--json")
    return run("evaluate", *model, *more, capsys=capsys)


def test_evaluate_runs_a_suite_draws_its_heat_map_and_resumes(place, tmp_path, capsys):
    status, out, _ = evaluate(place, tmp_path / "run", "--suite", place / "own.toml", capsys=capsys)
    assert status == 0
    document = json.loads(out)
    assert document["schema"] == 1
    assert document["suite"] == "own"
    assert [(r["perturbation"], r["strength"]) for r in document["results"]] == [
        ("depth", 0.8), ("depth", 0.1), ("seeing", 0.3), ("seeing", 0.4), *(("jpeg", q) for q in get("jpeg").ladder)
    ]  # fmt: skip
    assert (tmp_path / "run" / "figures" / "heatmap.png").exists()
    again = json.loads(evaluate(place, tmp_path / "run", "--suite", place / "own.toml", capsys=capsys)[1])
    assert again["results"] == document["results"]


def test_a_suite_that_one_galaxy_already_refuses_leaves_nothing_behind(place, tmp_path, capsys):
    """A rehearsal comes first: a full well that is not declared is said before an hour of work, not after it."""
    exposure = tmp_path / "e.toml"
    exposure.write_text("bands = ['g', 'r', 'i']\npixel_scale = 0.2\nsky = 1000.0\n")
    status, _, err = evaluate(place, tmp_path / "run", "--suite", "detector", "--exposure", exposure, capsys=capsys)
    assert status == 2
    assert "full_well" in err
    assert not (tmp_path / "run").exists()


def test_images_without_units_are_sent_to_their_suite(place, tmp_path, capsys):
    status, _, err = run(
        *("train", "--source", place / "plain", "--arch", "tiny", "--epochs", "1", "--batch", "2"),
        *("--out", place / "plain.pt"),
        capsys=capsys,
    )
    assert status in (0, 1), err
    command = ("evaluate", "--model", place / "plain.pt", "--data", place / "plain", "--out", tmp_path / "run")
    status, _, err = run(*command, "--suite", "lsst", capsys=capsys)
    assert status == 2
    assert "--suite images" in err
    assert not (tmp_path / "run").exists()
    assert run(*command, "--suite", "images", "--limit", 2, capsys=capsys)[0] == 0


def test_show_prints_the_facts_and_draws_a_strip(place, tmp_path, capsys):
    data = ("--data", place / "deep.h5")
    status, out, _ = run("show", "depth", *data, "--galaxies", 2, "--out", tmp_path / "d.png", capsys=capsys)
    assert status == 0
    assert "fraction of the exposure kept" in out
    assert "0.8, 0.6, 0.4, 0.2, 0.1" in out
    with Image.open(tmp_path / "d.png") as figure:
        assert figure.width > figure.height
    status, out, _ = run("show", "pgd", "--json", capsys=capsys)
    assert json.loads(out)["figure"] is None
    assert run("show", "depht", capsys=capsys)[0] == 2
    assert run("show", capsys=capsys)[0] == 2
    status, _, err = run("show", "depth", "--data", place / "plain", "--out", tmp_path / "x.png", capsys=capsys)
    assert status == 2
    assert "--exposure" in err


def test_show_all_draws_every_corruption_that_the_images_allow(place, tmp_path, capsys):
    status, _, err = run("show", "--all", "--data", place / "plain", "--out", tmp_path / "all", capsys=capsys)
    assert status == 0, err
    page = (tmp_path / "all" / "index.md").read_text()
    for name, p in catalogue().items():
        if p.kind == "corruption":
            assert (tmp_path / "all" / f"{name}.jpg").exists() == (p.space != "flux")
            assert f"{name}.jpg" in page or f"`{name}`: " in page


def test_the_page_of_perturbations_is_current():
    ours = _built_in()  # not those of packages that happen to be installed
    page = listing.page([row for row in listing.rows("perturbations") if row["name"] in ours])
    assert page == (ROOT / "docs" / "perturbations.md").read_text(), "make catalogue"


def test_the_list_is_by_family_with_units():
    text = listing.text("perturbations", listing.rows("perturbations"))
    assert text.index("observing") < text.index("transients") < text.index("detector") < text.index("attacks")
    assert "extra seeing FWHM, in quadrature [arcsec]: 0.2, 0.4, 0.6, 0.8, 1" in text
    assert "lsst" in listing.text("suites", listing.rows("suites"))


def test_every_perturbation_says_what_it_is_good_for():
    page = (ROOT / "docs" / "validation.md").read_text()
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    named = [name.strip("`, ") for row in rows for name in row[0].removeprefix("| ").split(", ")]
    assert len(named) == len(set(named)) > 50
    assert set(named) <= set(catalogue())
    assert all(len(row) == 4 and all(cell.strip(" |") for cell in row) for row in rows)
