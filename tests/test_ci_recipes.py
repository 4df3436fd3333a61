"""action.yml: what users give never becomes code, and its lines do what they say. `make gate` runs docs/ci.md."""

import xml.etree.ElementTree as ElementTree

import ci_recipes
import pytest
import yaml
from conftest import make_blobs
from test_cli import run

from perturbations.exposure import Exposure
from robustastro.data.readers import write_hdf5

RULES = 'schema = 1\nallow_flags = ["collapsed"]\n[[rule]]\nperturbation = "depth"\nmin_accuracy = {}\n'


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    place = tmp_path_factory.mktemp("a folder")
    write_hdf5(make_blobs(180, Exposure.from_survey("LSST", bands="gri")), place / "deep.h5")
    settings = ["--arch", "tiny", "--epochs", 12, "--batch", 16, "--learning-rate", 0.02]
    assert run("train", "--source", place / "deep.h5", *settings, "--out", place / "tiny.pt")[0] == 0
    (place / "easy.toml").write_text(RULES.format(0.1))
    (place / "hard.toml").write_text(RULES.format(0.9))
    return place


@pytest.fixture(autouse=True)
def nothing_else(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.parametrize("line", ["pip --version", "python -m pip --version", "pip3 --version", "uv --version"])
def test_no_line_that_could_install_is_run(line, tmp_path):
    with pytest.raises(RuntimeError, match="install"):
        ci_recipes.shell(f"touch here\n{line}", tmp_path)
    assert not (tmp_path / "here").exists()
    assert not any(ci_recipes.INSTALLS.search(str(what)) for _, what in ci_recipes.recipes(page()))


def page() -> str:
    return (ci_recipes.ROOT / "docs/ci.md").read_text()


def test_the_page_has_recipes_of_each_kind():
    kinds = [kind for kind, _ in ci_recipes.recipes(page())]
    assert kinds.count("action") == 1
    assert kinds.count("file") == 1
    assert kinds.count("sh") >= 8
    assert len(ci_recipes.BLOCK.findall(page())) == page().count("```") / 2  # no block is overlooked


def test_inputs_reach_the_shell_as_environment_only():
    action = ci_recipes.action()
    steps = action["runs"]["steps"]
    assert sum("run" in step for step in steps) == 3
    for step in steps:
        assert "${{" not in step.get("run", "")
        used = {name for value in step.get("env", {}).values() for name in ci_recipes.INPUT.findall(value)}
        assert used <= set(action["inputs"])
        assert all(f"${name}" in step["run"] for name in step.get("env", {}))
        assert step.get("shell", "bash") == "bash"


@pytest.mark.parametrize("path", [".github/workflows/ci.yml", "docs/ci.md"])
def test_workflows_give_the_action_inputs_that_it_has(path):
    text = (ci_recipes.ROOT / path).read_text()
    if path.endswith(".md"):
        given = [what for kind, what in ci_recipes.recipes(text) if kind == "action"]
    else:
        given = [s["with"] for j in yaml.safe_load(text)["jobs"].values() for s in j["steps"] if s.get("uses") == "./"]
    assert len(given) == 1
    inputs = ci_recipes.action()["inputs"]
    assert set(given[0]) <= set(inputs)
    assert {name for name, about in inputs.items() if about.get("required")} <= set(given[0])


def test_the_verdict_is_the_exit_status_and_the_output(workplace, tmp_path):
    given = {
        "model": "tiny.pt",
        "data": "deep.h5",
        "attack": "depth",
        "args": "--strength 0.01\n--limit 30",
        "out": "a run",
        "rules": "easy.toml",
    }
    assert ci_recipes.run_action(given, workplace, tmp_path) == (0, {"verdict": "pass"})
    assert "Robustness gate: pass" in (tmp_path / "step_summary").read_text()
    suite = ElementTree.parse(workplace / "a run" / "gate.xml").getroot()
    assert suite.get("failures") == "0"
    # the run is resumed, and held to more than it can give
    assert ci_recipes.run_action({**given, "rules": "hard.toml"}, workplace, tmp_path) == (1, {"verdict": "fail"})


@pytest.mark.parametrize("given", [{}, {"suite": "quick", "attack": "depth"}])
def test_neither_or_both_of_suite_and_attack_is_refused_before_any_work(given, workplace, tmp_path, capfd):
    wanted = {"model": "tiny.pt", "rules": "easy.toml", "out": "none"} | given
    assert ci_recipes.run_action(wanted, workplace, tmp_path) == (2, {})
    assert "exactly one of them" in capfd.readouterr().err
    assert not (workplace / "none").exists()


def test_what_users_give_is_never_run(workplace, tmp_path):
    trap = '$(touch trapped)`touch trapped`"; touch trapped; "'
    given = {"model": trap, "attack": trap, "data": trap, "args": trap, "rules": trap, "baseline": trap, "out": "trap"}
    status, outputs = ci_recipes.run_action(given, workplace, tmp_path)
    assert status == 2
    assert outputs == {}
    assert not (workplace / "trapped").exists()
