"""The demonstration runs from end to end, on the zoo and training its own; its page says what its numbers say."""

import json

import pytest

from robustastro import demo
from robustastro.metrics.tables import estimate_text
from robustastro.models import zoo
from robustastro.progress import shown

NOTHING = {"value": None, "low": None, "high": None, "n": 0}
OF_THE_ZOO = [card["recipe"]["method"] for card in zoo.cards().values()]


@pytest.mark.parametrize(("train", "methods"), [(False, OF_THE_ZOO), (True, ["none", "dann"])])
def test_the_demo_runs_and_its_page_agrees_with_its_numbers(tmp_path, monkeypatch, train, methods):
    monkeypatch.setattr(demo, "METHODS", ("none", "dann"))
    with shown() as progress:
        document = demo.run(tmp_path, quick=True, train=train, device="cpu", progress=progress)
    assert json.loads((tmp_path / "results.json").read_text()) == document
    page = (tmp_path / "index.md").read_text()
    assert f"`{'robustastro demo --train' if train else 'robustastro demo'}`" in page
    for name in ("severity", "gallery", "latent"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
        assert f"]({name}.png)" in page
    assert list(document["trainings"]) == methods
    for method in methods:
        training = document["trainings"][method]
        _models_are_on_the_page(tmp_path, document, page, method, train)
        for domain in ("source", "target"):
            assert f"{100 * training['test'][domain]['accuracy']['value']:.1f}" in page
        for flag in training["flags"]:  # two epochs may well collapse: then the page says so
            assert flag["message"] in page
        found = [(r["perturbation"], r["strength"]) for r in document["results"][method]]
        assert len(found) == 16
        assert ("onepixel", 1.0) in found
    _flips_are_on_the_page(document, page)
    # two epochs and a short search may flip nothing: the same page with and without common flips
    for common, sentence in ((0, "No galaxy is flipped in all methods"), (3, "flipped in all methods (3)")):
        shift = {"value": 1.25, "low": 0.5, "high": 2.0, "n": 3} if common else NOTHING
        flips = {"flipped": 5, "clean_correct": 9, "common": common, "flip_distance": shift}
        other = document | {"common_flips": dict.fromkeys(methods, flips | {"flip_distance_scaled": shift})}
        page = demo._page(other, [], 1, 1, few_count=4)
        _flips_are_on_the_page(other, page)
        assert sentence in page


def _models_are_on_the_page(place, document, page, method, train):
    training = document["trainings"][method]
    (row,) = [line for line in page.splitlines() if line.startswith(f"| {method} |") and "%" in line]
    cells = [f"{estimate_text(training['test'][domain]['accuracy'], 100.0, 1)}%" for domain in ("source", "target")]
    assert row.startswith(f"| {method} | {' | '.join(cells)} |")
    if train:
        assert training["model"] == str(place / f"{method}.pt")
        assert (place / f"{method}.pt").exists()
        return
    name = training["model"].removeprefix("zoo:")
    card = zoo.cards()[name]
    assert card["recipe"]["method"] == method
    assert f"`zoo:{name}`, seed {card['seed']}" in row
    for domain, accuracy in card["accuracy"].items():
        assert f"{domain} {estimate_text(accuracy, 100.0, 1)}%" in row
    # what is measured at Y10 before the loop is what the loop finds unperturbed
    clean = {r["clean_accuracy"]["value"] for r in document["results"][method] if r["perturbation"] != "onepixel"}
    assert clean == {training["test"]["source"]["accuracy"]["value"]}
    domains = [training["test"][domain]["domain"] for domain in ("source", "target")]
    assert domains == ["LSST Y10", "LSST Y1"]


def _flips_are_on_the_page(document, page):
    for method in document["trainings"]:
        flips = document["common_flips"][method]
        (result,) = [r for r in document["results"][method] if r["perturbation"] == "onepixel"]
        boundary = [estimate_text(result[f"boundary_distance{at}_scaled"]) for at in ("_clean", "")]
        cells = [
            method,
            f"{flips['flipped']} of {flips['clean_correct']}",
            estimate_text(flips["flip_distance"]),
            estimate_text(flips["flip_distance_scaled"]),
            str(flips["flip_distance"]["n"]),
            " → ".join(boundary),
        ]
        assert f"| {' | '.join(cells)} |" in page
