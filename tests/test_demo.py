"""The demonstration runs from end to end, and its page says what its numbers say."""

import json

from robustastro import demo
from robustastro.metrics.tables import estimate_text
from robustastro.progress import shown

NOTHING = {"value": None, "low": None, "high": None, "n": 0}


def test_the_demo_runs_and_its_page_agrees_with_its_numbers(tmp_path):
    with shown() as progress:
        demo.run(tmp_path, quick=True, device="cpu", progress=progress)
        document = demo.run(tmp_path, quick=True, device="cpu", progress=progress)  # new bundles, beside the old runs
    assert json.loads((tmp_path / "results.json").read_text()) == document
    page = (tmp_path / "index.md").read_text()
    for name in ("severity", "gallery", "latent"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
        assert f"]({name}.png)" in page
    for method in demo.METHODS:
        assert (tmp_path / f"{method}.pt").exists()
        training = document["trainings"][method]
        assert f"{100 * training['test']['source']['accuracy']['value']:.1f}" in page
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
        other = document | {"common_flips": dict.fromkeys(demo.METHODS, flips | {"flip_distance_scaled": shift})}
        page = demo._page(other, document["trainings"], [], 1, 1, few_count=4)
        _flips_are_on_the_page(other, page)
        assert sentence in page


def _flips_are_on_the_page(document, page):
    for method in demo.METHODS:
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
