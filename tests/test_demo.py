"""The demonstration runs from end to end, and its page says what its numbers say."""

import json

from robustastro import demo
from robustastro.progress import shown


def test_the_demo_runs_and_its_page_agrees_with_its_numbers(tmp_path):
    with shown() as progress:
        document = demo.run(tmp_path, quick=True, device="cpu", progress=progress)
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
