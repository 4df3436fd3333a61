"""The pytest plugin: a model that falls fails a test with the table of the gate, and nothing passes unjudged."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import make_blobs
from test_cli import run

from perturbations.errors import InputError
from perturbations.exposure import Exposure
from robustastro.data.readers import read, write_hdf5
from robustastro.models.bundles import load_model
from robustastro.pytest_plugin import assert_robust
from robustastro.record import Record

pytest_plugins = ["pytester"]
WEAK = {"strength": 0.01}  # depth at which a third of the galaxies are right, which is chance


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("model and data")
    lsst = Exposure.from_survey("LSST", bands="gri")
    write_hdf5(make_blobs(180, lsst), place / "trained.h5")
    write_hdf5(make_blobs(60, lsst, seed=5, prefix="unseen"), place / "test.h5")
    settings = ["--arch", "tiny", "--epochs", 12, "--batch", 16, "--learning-rate", 0.02]
    assert run("train", "--source", place / "trained.h5", *settings, "--out", place / "tiny.pt")[0] == 0
    # sessions within this process forget what they were the first to import, and some libraries load only once
    assert_robust(place / "tiny.pt", place / "test.h5", "depth", severity=1, min_accuracy=0.5)
    return place


@pytest.fixture
def session(pytester, place):
    """Run a test of these lines in a pytest session of its own, with the names `model` and `data`."""

    def go(body, *arguments, how="inprocess"):
        lines = "\n    ".join(body.strip().splitlines())
        pytester.makepyfile(
            f"from robustastro.pytest_plugin import assert_robust\n"
            f"model, data = {str(place / 'tiny.pt')!r}, {str(place / 'test.h5')!r}\n\n"
            f"def test_it(robustness):\n    {lines}\n"
        )
        return getattr(pytester, f"runpytest_{how}")(*arguments)

    return go


# ---------------------------------------------------------------------- verdicts


def test_a_robust_model_passes_and_the_table_is_kept(session):
    result = session("assert_robust(model, data, 'depth', severity=1, min_accuracy=0.7)", "-rP")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["*depth at 0.8 (severity 1)*perturbed accuracy*at least 70%*60*pass", "verdict: pass*"]
    )


def test_a_model_that_falls_fails_with_the_table_of_the_gate_and_no_more(session):
    result = session("assert_robust(model, data, 'depth', strength=0.01, min_accuracy=0.7)")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E*depth: not robust", "E*depth at 0.01*at least 70%*fail", "E*verdict: fail*"])
    result.stdout.no_fnmatch_line("*pytest_plugin.py*")


def test_the_gate_says_the_same_of_the_same_run(place, tmp_path, capsys):
    with pytest.raises(AssertionError) as failed:
        assert_robust(place / "tiny.pt", place / "test.h5", "depth", **WEAK, max_drop=0.1, out=tmp_path / "run")
    (tmp_path / "gate.toml").write_text(
        'schema = 1\n[[rule]]\nperturbation = "depth"\nstrength = 0.01\nmax_drop = 0.1\n'
    )
    capsys.readouterr()
    status, table, _ = run("gate", tmp_path / "run", "--rules", tmp_path / "gate.toml", capsys=capsys)
    assert (status, table.splitlines()) == (1, str(failed.value).splitlines()[1:])


@pytest.mark.parametrize(
    ("on_uncertain", "outcome"),
    [("pass", {"passed": 1}), ("warn", {"passed": 1, "warnings": 1}), ("fail", {"failed": 1})],
)
def test_what_the_galaxies_cannot_tell_is_counted_as_asked(session, on_uncertain, outcome):
    result = session(
        f"assert_robust(model, data, 'depth', strength=0.01, min_accuracy=0.33, on_uncertain={on_uncertain!r})"
    )
    result.assert_outcomes(**outcome)
    if on_uncertain != "pass":
        result.stdout.fnmatch_lines(["*uncertain*galaxies would decide*"])


def test_a_flag_fails_unless_it_is_allowed(place):
    import dataclasses

    flag = {"code": "collapsed", "message": "it collapsed", "remedy": "train again"}
    model = dataclasses.replace(load_model(place / "tiny.pt"), training={"flags": [flag]})
    easy = {"severity": 1, "min_accuracy": 0.1}
    with pytest.raises(AssertionError, match="flag collapsed of the run"):
        assert_robust(model, place / "test.h5", "depth", **easy)
    assert_robust(model, place / "test.h5", "depth", **easy, allow_flags=["collapsed"])


def test_limits_confidence_and_options_reach_the_gate(place):
    model, data = place / "tiny.pt", place / "test.h5"
    # 20 of 60 right: Clopper and Pearson at 95% give [0.217, 0.467]; at 50% the upper end lies below 0.44
    assert_robust(model, data, "depth", **WEAK, min_accuracy=0.44)
    with pytest.raises(AssertionError):
        assert_robust(model, data, "depth", **WEAK, min_accuracy=0.44, confidence=0.5)
    for limit in ({"min_worst_class": 0.5}, {"max_success_rate": 0.4}, {"min_boundary_distance": 1e6}):
        with pytest.raises(AssertionError):
            assert_robust(model, data, "depth", **WEAK, **limit)
    with pytest.raises(AssertionError):
        assert_robust(model, data, "depth", **WEAK, min_boundary_distance_scaled=1e6)
    record = assert_robust(
        model, data, "onepixel", options={"pop": 10, "generations": 2}, limit=7, seed=3, max_success_rate=0.99
    )
    assert record.run["perturbations"][0]["options"]["pop"] == 10
    assert (record.run["data"]["n"], record.run["seed"]) == (7, 3)


def test_a_baseline_by_path_or_record(place, tmp_path):
    model, data = place / "tiny.pt", place / "test.h5"
    before = assert_robust(model, data, "depth", severity=1, min_accuracy=0.5, out=tmp_path / "before")
    for baseline in (before, tmp_path / "before", str(tmp_path / "before")):
        assert_robust(model, data, "depth", severity=1, seed=1, no_worse_than_baseline=0.05, baseline=baseline)
    noise = load_model(model)
    for weights in noise.network.parameters():
        weights.data.zero_()
    with pytest.raises(AssertionError, match="accuracy below baseline"):
        assert_robust(noise, data, "depth", severity=1, no_worse_than_baseline=0.05, baseline=before)


# ---------------------------------------------------------------------- models and data


def test_a_network_with_its_contract_and_galaxies_in_memory(place):
    model = load_model(place / "tiny.pt")
    galaxies = read(place / "test.h5")
    one = assert_robust(model.network, galaxies, "depth", contract=model.contract, severity=1, min_accuracy=0.7)
    two = assert_robust(place / "tiny.pt", str(place / "test.h5"), "depth", severity=1, min_accuracy=0.7)
    for first, second in zip(one.unit("depth", 0.8)["logits"], two.unit("depth", 0.8)["logits"], strict=True):
        assert first == pytest.approx(second, abs=1e-6)
    assert one.run["model"]["name"] == "TinyNet"
    other = load_model(place / "tiny.pt").network
    other.fc.bias.data += 1.0
    again = assert_robust(other, galaxies, "depth", contract=model.contract, severity=1, min_accuracy=0.1)
    assert again.run["model"]["sha256"] != one.run["model"]["sha256"]


def test_without_data_the_bundles_own_test_galaxies(place):
    record = assert_robust(place / "tiny.pt", None, "depth", severity=1, min_accuracy=0.5)
    assert all(name.startswith("blob-0-") for name in record.galaxies.index)
    assert not any(flag["code"] == "training_overlap" for flag in record.run["flags"])
    # galaxies it was trained on, in a file or in memory: the same test split
    for data in (place / "trained.h5", read(place / "trained.h5")):
        same = assert_robust(place / "tiny.pt", data, "depth", severity=1, min_accuracy=0.5)
        assert set(same.galaxies.index) == set(record.galaxies.index)
    assert 10 < len(record.galaxies) < 100


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "without a limit"),
        ({"min_accuracy": 70}, "Rates are fractions: 70% is 0.7"),
        ({"min_accuracy": 0.7, "severity": 9}, "severities 1 to 5"),
        ({"min_accuracy": 0.7, "severity": 1, "over": "mean"}, "at most one"),
        ({"min_accuracy": 0.7, "on_uncertain": "maybe"}, "on_uncertain"),
        ({"min_accuracy": 0.7, "perturbation": "dephts"}, "[Dd]id you mean 'depth'"),
        ({"min_accuracy": 0.7, "model": "no such.pt"}, "no such.pt"),
        ({"min_accuracy": 0.7, "model": 3}, "type int"),
        ({"min_accuracy": 0.7, "contract": "c.toml"}, "Leave it out"),
        ({"no_worse_than_baseline": 0.1}, "both or none"),
        ({"min_accuracy": 0.7, "baseline": "a run"}, "both or none"),
        ({"min_accuracy": 0.7, "limit": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_judged_is_refused(place, tmp_path, arguments, words):
    given = {"model": place / "tiny.pt", "data": place / "test.h5", "perturbation": "depth"} | arguments
    with pytest.raises(InputError, match=words):
        assert_robust(**given, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_networks_without_a_contract_and_models_without_data_are_refused(place):
    model = load_model(place / "tiny.pt")
    with pytest.raises(InputError, match="TinyNet without a contract"):
        assert_robust(model.network, place / "test.h5", "depth", min_accuracy=0.5)
    with pytest.raises(InputError, match="data = None"):
        assert_robust(model.network, None, "depth", min_accuracy=0.5, contract=model.contract)


def test_bad_input_is_one_line_in_a_session(session):
    result = session("assert_robust(model, data, 'depth')")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E*InputError: *without a limit*"])
    result.stdout.no_fnmatch_line("*pydantic*")
    result.stdout.no_fnmatch_line("*pytest_plugin.py*")


# ---------------------------------------------------------------------- where runs lie

KEEP = "robustness.assert_robust(model, data, 'depth', severity=1, min_accuracy=0.5)"


def files(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*.parquet")}


def test_the_fixture_keeps_runs_and_resumes_them(session, pytester):
    session(KEEP, "--robustness-runs", "kept").assert_outcomes(passed=1)
    before = files(pytester.path / "kept")
    assert len([name for name in before if "units" in name]) == 1
    session("robustness.attack(model, data, 'depth', severity=1)", "--robustness-runs=kept").assert_outcomes(passed=1)
    assert {name for name, when in files(pytester.path / "kept").items() if "units" in name and when == before[name]}
    assert files(pytester.path / "kept").keys() == before.keys()
    # another seed is another run
    session(KEEP.replace("min_", "seed=1, min_"), "--robustness-runs", "kept").assert_outcomes(passed=1)
    assert len(list((pytester.path / "kept").iterdir())) == 2


def test_places_of_the_fixture(session, pytester):
    session(KEEP).assert_outcomes(passed=1)
    assert len(list((pytester.path / ".pytest_cache" / "d" / "robustastro").iterdir())) == 1
    pytester.makeini("[pytest]\nrobustness_runs = from_ini\n")
    session(KEEP).assert_outcomes(passed=1)
    assert len(list((pytester.path / "from_ini").iterdir())) == 1
    session("assert 'no device' == robustness.device", "--robustness-device", "no device").assert_outcomes(passed=1)
    session(KEEP, "--robustness-device", "no device").assert_outcomes(failed=1)
    pytester.makeini("[pytest]\n")
    session(KEEP, "-p", "no:cacheprovider", "--basetemp=tmp").assert_outcomes(passed=1)
    assert len(list((pytester.path / "tmp" / "robustastro0").iterdir())) == 1
    assert not (pytester.path / "runs").exists()


def test_processes_share_the_runs(place, pytester):
    pytester.makepyfile(
        f"import pytest\n"
        f"model, data = {str(place / 'tiny.pt')!r}, {str(place / 'test.h5')!r}\n\n"
        f"@pytest.mark.parametrize('process', [1, 2])\ndef test_it(robustness, process):\n    {KEEP}\n"
    )
    result = pytester.runpytest_subprocess("-n2", "--robustness-runs", "kept")
    result.assert_outcomes(passed=2)
    (run_directory,) = (pytester.path / "kept").iterdir()
    assert len(Record.open(run_directory).unit("depth", 0.8)) == 60


def test_a_network_in_memory_is_never_taken_from_an_earlier_run(place, tmp_path):
    model = load_model(place / "tiny.pt")
    arguments = {"severity": 1, "min_accuracy": 0.5, "out": tmp_path / "run"}
    assert_robust(model, place / "test.h5", "depth", **arguments)
    with pytest.raises(InputError, match="holds a run"):
        assert_robust(model, place / "test.h5", "depth", **arguments)
    kept = assert_robust(model, place / "test.h5", "depth", severity=1, min_accuracy=0.5, runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
    assert kept.path.exists()


def test_a_temporary_run_goes_with_its_record(place):
    record = assert_robust(place / "tiny.pt", place / "test.h5", "depth", severity=1, min_accuracy=0.5)
    path = record.path
    assert len(record.galaxies) == 60
    del record
    gc.collect()
    assert not path.parent.exists()


# ---------------------------------------------------------------------- what it costs everybody else


def test_a_session_that_does_not_use_it_loads_nothing(pytester):
    heavy = ["torch", "numpy", "pandas", "pydantic", "scipy", "galsim"]
    text = f"import sys, robustastro.pytest_plugin\nprint([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    pytester.makepyfile(f"import sys\ndef test_it():\n    assert not [m for m in {heavy} if m in sys.modules]")
    result = pytester.runpytest_subprocess("-p", "no:randomly", "--trace-config")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*robustastro*pytest_plugin.py*"])
