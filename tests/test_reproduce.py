"""A study done again: resumed without retraining, honest about what is missing, and its numbers worked by hand."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import make_blobs
from synthetic_records import make_record

from perturbations.errors import InputError
from perturbations.exposure import Exposure
from robustastro import commands, figures, reproduce
from robustastro.cli import main
from robustastro.evaluate import engine
from robustastro.metrics.intervals import proportion
from robustastro.metrics.significance import over_seeds, ratio
from robustastro.progress import Progress
from robustastro.record import Record
from robustastro.reproduce import deepadversaries as study
from robustastro.reproduce import deepadversaries_page, drawing, measures, predictions, programme, verdicts
from robustastro.reproduce.measures import Arm, rate
from robustastro.reproduce.programme import Asked
from robustastro.reproduce.study import Cell, Folder, not_run, run_cells

TRIAL = {"pop": 8, "generations": 2}
quiet = Progress()


def do(out, size=None, **options):
    """The study in a folder, in the small size."""
    return study.run(Asked(out, **{"device": "cpu"} | options), quiet, size or SMALL)


SMALL = study.Size(
    galaxies=180, epochs=25, batch=12, seeds=1, cells={"tiny": ("none", "mmd")}, attacked={"tiny": 4},
    search={"tiny": TRIAL}, flux=TRIAL,
)  # fmt: skip


def depths():
    """Blobs at two depths: the same galaxies, the second with more noise."""
    deep = make_blobs(180, Exposure.from_survey("LSST", bands="gri"))
    noise = np.random.default_rng(1).normal(0.0, 900.0, deep.images.shape).astype(np.float32)
    return replace(deep, domain="deep"), replace(deep, images=deep.images[:] + noise, domain="shallow")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study of two trainings, done once; tests that change it take a copy."""
    out = tmp_path_factory.mktemp("study") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "domains", lambda setting, progress: depths())
        document = do(out)
    return out, document


@pytest.fixture
def again(finished, tmp_path, monkeypatch):
    """A copy of the finished study, and a function that goes on with it."""
    out = tmp_path / "out"
    shutil.copytree(finished[0], out)
    monkeypatch.setattr(study, "domains", lambda setting, progress: depths())
    return out, lambda **options: do(out, **options)


def test_a_study_leaves_a_page_its_numbers_and_its_models(finished):
    out, document = finished
    assert json.loads((out / "results.json").read_text()) == document
    page = (out / "index.md").read_text()
    assert document["command"] in page
    assert "Nothing of the study is missing" in page
    assert "`none` reaches" in page
    assert "not run" in page  # ours beside the published figures of networks that were not trained
    assert (out / "accuracy-tiny.png").stat().st_size > 5000
    assert sorted(path.name for path in (out / "runs").glob("*.pt")) == ["tiny-mmd-0.pt", "tiny-none-0.pt"]
    for row in document["accuracy"]:
        for depth in ("y10", "y1"):
            table = Record.open(out / "runs" / f"tiny-{row['method']}-0" / depth).galaxies
            right = [np.argmax(logits) == label for logits, label in zip(table["logits"], table["label"], strict=True)]
            assert row[depth] == proportion(np.array(right)).to_dict()
            assert row[f"{depth}_by_seed"] == [np.mean(right)]
    attacked = Record.open(out / "runs" / "tiny-none-0" / "paper")
    assert attacked.galaxies["label"].value_counts().to_dict() == {0: 4, 1: 4, 2: 4}
    options = {
        n: Record.open(out / "runs/tiny-none-0" / n).run["perturbations"][0]["options"] for n in measures.ATTACKS
    }
    assert (options["paper"]["space"], options["flux"]["space"]) == ("input", "flux")


def test_what_is_there_is_not_done_again(again, monkeypatch):
    out, run = again
    before = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*") if path.name != "study.json"}
    monkeypatch.setattr(commands, "fit", lambda *a, **k: pytest.fail("trained again"))
    monkeypatch.setattr(commands, "run", lambda *a, **k: pytest.fail("attacked again"))
    assert run()["accuracy"]
    after = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*") if path.name != "study.json"}
    assert after == before


def test_an_unfinished_cell_is_finished_from_its_model(again, monkeypatch):
    """Interrupted after its training and two of its records: neither is done again."""
    out, run = again
    for part in ("training", "attack"):
        (out / f"runs/tiny-mmd-0/{part}.json").unlink()
    shutil.rmtree(out / "runs/tiny-mmd-0/flux")
    unfinished = json.loads((out / "runs/tiny-mmd-0/paper/run.json").read_text()) | {"timing": None}
    (out / "runs/tiny-mmd-0/paper/run.json").write_text(json.dumps(unfinished))
    ran = []
    original = commands.run
    monkeypatch.setattr(commands, "fit", lambda *a, **k: pytest.fail("trained again"))
    monkeypatch.setattr(commands, "run", lambda *a, **k: ran.append(a[3].name) or original(*a, **k))
    run()
    assert ran == ["paper", "flux"]


def test_cells_out_of_time_are_listed_with_command_and_estimate(again):
    out, run = again
    document = run(hours=0, methods=("none", "dann"), seeds=2)
    missing = {(",".join(row["methods"]), tuple(row["seeds"])): row for row in document["not_run"]}
    assert set(missing) == {("none", (1,)), ("dann", (0, 1))}
    row = missing["dann", (0, 1)]
    assert row["part"] == "training"
    assert row["command"] == (
        f"robustastro reproduce deepadversaries --archs tiny --methods dann --seeds 2 --out {out}"
    )
    each = [
        sum(
            json.loads((out / f"runs/tiny-{m}-0/{part}.json").read_text())["seconds"] for part in ("training", "attack")
        )
        for m in ("none", "mmd")
    ]
    assert row["seconds"] == pytest.approx(2 * np.mean(each), abs=0.1)  # its command also attacks
    page = (out / "index.md").read_text()
    assert row["command"] in page
    assert "did not fit into the time limit" in page
    assert {r["method"] for r in document["accuracy"]} == {"none", "mmd"}  # what is there is still shown
    listed = [r["methods"] for r in run(hours=0)["not_run"]]
    assert sorted(listed) == [["dann"], ["none"]]  # what was asked for once stays listed


def test_half_an_attack_is_none(again, monkeypatch):
    """Its records are not used, and it is listed with its command; the training counts."""
    out, run = again
    (out / "runs/tiny-mmd-0/attack.json").unlink()
    monkeypatch.setattr(commands, "run", lambda *a, **k: pytest.fail("attacked"))
    document = run(hours=0)
    assert [row["method"] for row in document["accuracy"]] == ["none", "mmd"]
    assert {row["method"] for row in document["distances"]} == {"none"}
    (row,) = document["not_run"]
    seconds = json.loads((out / "runs/tiny-none-0/attack.json").read_text())["seconds"]
    expected = ("attack", ["mmd"], [0], pytest.approx(seconds, abs=0.1))
    assert (row["part"], row["methods"], row["seeds"], row["seconds"]) == expected
    assert row["command"] == f"robustastro reproduce deepadversaries --archs tiny --methods mmd --seeds 1 --out {out}"
    assert (
        f"| attack | tiny | mmd | 0 | it did not fit into the time limit | {row['seconds']:.0f} s |"
        in (out / "index.md").read_text()
    )


def test_both_parts_share_the_hours(again, monkeypatch):
    """A training that takes longer than foreseen leaves no time for its attack."""
    out, run = again
    cell, late, clock = out / "runs/tiny-mmd-0", 0.0, time.monotonic
    for part in ("training", "attack"):
        (cell / f"{part}.json").unlink()
    for name in ("y1", "flux"):
        shutil.rmtree(cell / name)
    original = commands.run

    def slow(*args, **options):
        nonlocal late
        late += 3500.0
        return original(*args, **options)

    monkeypatch.setattr(time, "monotonic", lambda: clock() + late)
    monkeypatch.setattr(commands, "run", slow)
    seconds = json.loads((out / "runs/tiny-none-0/attack.json").read_text())
    (out / "runs/tiny-none-0/attack.json").write_text(json.dumps(seconds | {"seconds": 1000.0}))
    assert [(row["part"], row["methods"]) for row in run(hours=1)["not_run"]] == [("attack", ["mmd"])]
    assert (cell / "y1").exists()
    assert not (cell / "flux").exists()


def test_what_is_not_run_is_grouped():
    """Methods that lack the same seeds for the same reason are one row, with the time of all of them."""
    every = [Cell("big", m, s) for s in (1, 0) for m in ("mmd", "dann", "uda", "none")] + [Cell("small", "mmd", 0)]
    reasons = {Cell("big", "uda", 1): "it failed"}
    rows = not_run("attack", every, reasons, {Cell("big", "none", 0)}, {"big": 10.0}, lambda *wanted: str(wanted))
    assert [(r["arch"], r["methods"], r["seeds"], r["reason"], r["seconds"]) for r in rows] == [
        ("big", ["mmd", "dann"], (0, 1), "it was not asked for", 40.0),
        ("big", ["uda"], (1,), "it failed", 10.0),
        ("big", ["none"], (1,), "it was not asked for", 10.0),
        ("big", ["uda"], (0,), "it was not asked for", 10.0),
        ("small", ["mmd"], (0,), "it was not asked for", None),
    ]
    assert [row["command"] for row in rows[:2]] == ["('big', 'mmd,dann', 2)", "('big', 'uda', 2)"]


def test_a_failed_cell_is_said_and_the_others_go_on(again, monkeypatch, capsys):
    out, run = again
    original = commands.fit

    def fails(recipe, *rest):
        if recipe.method == "dann":
            raise RuntimeError("no memory | left")
        return original(recipe, *rest)

    monkeypatch.setattr(commands, "fit", fails)
    document = run(methods=("dann", "none"), seeds=2)
    assert document["failed"] == 2
    assert [(row["methods"], row["seeds"]) for row in document["not_run"]] == [(["dann"], [0, 1])]
    assert "RuntimeError: no memory | left" in document["not_run"][0]["reason"]
    assert "no memory / left" in (out / "index.md").read_text()
    assert "tiny-dann-0 failed" in capsys.readouterr().err
    assert document["accuracy"][0]["seeds"] == [0, 1]


def test_a_collapsed_training_counts_in_accuracy_and_has_no_distance(again):
    out, run = again
    path = out / "runs/tiny-mmd-0.json"
    training = json.loads(path.read_text())
    training["flags"] = [{"code": "collapsed", "message": "one class", "remedy": "another seed"}]
    path.write_text(json.dumps(training))
    document = run()
    none, mmd = document["accuracy"]
    assert (none["collapsed"], mmd["collapsed"]) == ([], [0])
    assert mmd["y1"]["value"] is not None
    assert {row["method"] for row in document["distances"]} == {"none"}
    assert "| mmd | adaptation | 1 | 1 |" in (out / "index.md").read_text()


def test_another_study_or_recipe_in_the_folder_is_refused(again):
    out, run = again
    with pytest.raises(InputError, match="another size"):
        run(size=replace(SMALL, attacked={"tiny": 5}))
    path = out / "runs/tiny-mmd-0.json"
    training = json.loads(path.read_text())
    training["recipe"]["options"]["weight"] = 0.5
    path.write_text(json.dumps(training))
    with pytest.raises(InputError, match=r"tiny-mmd-0.pt was trained with another options"):
        run()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"methods": ("danm",)}, "dann"),
        ({"archs": ("convnets",)}, "convnet"),
        ({"seeds": 0}, "1 or more"),
        ({"hours": -1.0}, "0 or more"),
        ({"workers": 0}, "1 or more"),
    ],
)
def test_wrong_words_are_said_before_anything_is_done(tmp_path, options, said):
    with pytest.raises(InputError, match=said):
        do(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_the_command_line_names_the_nearest_study(capsys):
    with pytest.raises(SystemExit) as end:
        main(["reproduce", "deepadversary"])
    assert end.value.code == 2
    assert "Did you mean 'deepadversaries'?" in capsys.readouterr().err
    assert reproduce.get("deepadversaries") is study


def test_nothing_finished_is_no_page(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "domains", lambda setting, progress: depths())
    with pytest.raises(InputError, match="no training is finished"):
        do(tmp_path, hours=1e-9)
    assert not (tmp_path / "index.md").exists()


def test_no_hours_begin_no_study(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "domains", lambda setting, progress: pytest.fail("galaxies were made"))
    with pytest.raises(InputError, match="no training is finished"):
        do(tmp_path / "out", hours=0)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["index.md", "results.json", "runs/mmd-0.pt"])
def test_results_that_are_of_no_study_are_not_written_over(tmp_path, monkeypatch, name):
    monkeypatch.setattr(study, "domains", lambda setting, progress: pytest.fail("galaxies were made"))
    (tmp_path / "runs").mkdir()
    (tmp_path / name).write_text("of others")
    with pytest.raises(InputError, match=f"holds {name.split('/')[0]} and no runs/study.json"):
        do(tmp_path)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [tmp_path / name]
    assert (tmp_path / name).read_text() == "of others"


def test_what_is_asked_for_twice_is_run_once(again, monkeypatch):
    _, run = again
    asked = []
    monkeypatch.setattr(programme, "run_cells", lambda folder, cells, *a, **k: asked.append(cells) or {})
    document = run(methods=("mmd", "none", "mmd"), archs=("tiny", "tiny"))
    assert asked == 2 * [[Cell("tiny", "none", 0), Cell("tiny", "mmd", 0)]]
    assert "--archs tiny --methods mmd,none " in document["command"]


def test_the_files_of_the_authors_without_flux(tmp_path, capsys):
    """Their layout: no attack in flux, and the page says why."""
    data = tmp_path / "data"
    data.mkdir()
    rows = {"train": slice(0, 120), "valid": slice(120, 150), "test": slice(150, 180)}
    for name, galaxies in zip(("Y10", "Y1"), depths(), strict=True):
        for split, which in rows.items():
            np.save(data / f"images_{name}_{split}.npy", galaxies.images[which])
            np.save(data / f"labels_{split}.npy", np.eye(3)[np.asarray(galaxies.labels)[which]])
    document = do(tmp_path / "out", data=str(data))
    assert document["failed"] == 0, document["not_run"]
    assert [row["method"] for row in document["accuracy"]] == ["none", "mmd"]
    assert {row["attack"] for row in document["distances"]} <= {"paper"}
    assert document["galaxies"] == {"train": 120, "valid": 30, "test": 30}
    page = (tmp_path / "out/index.md").read_text()
    assert "no Exposure" in page
    assert "the authors' images" in page
    assert f"--data {data}" in document["command"]
    training = json.loads((tmp_path / "out/runs/tiny-mmd-0.json").read_text())
    assert training["source"]["train"] + training["target"]["train"] == 120  # no galaxy in both, though ids are shared


# ---------------------------------------------------------------------- the study


def test_every_method_of_the_study_is_called_by_its_label():
    for name in study.VARIANTS:
        assert study.recipe_of(Cell("convnet", name, 3), study.FULL).label == name
    assert study.recipe_of(Cell("convnet", "dann+published", 3), study.FULL).options["hidden"] == 1024


def test_what_matters_most_comes_first_and_balanced():
    cells = study._cells("convnet", tuple(study.VARIANTS), 5)
    first = [(c.method, c.seed) for c in cells[: 5 * len(study.FIRST)]]
    assert first == [(method, seed) for seed in range(5) for method in study.FIRST]
    assert len(cells) == len(set(cells)) == 5 * len(study.VARIANTS)


def test_a_new_architecture_leaves_the_studies_that_were_begun():
    """The size tells a study from others: what may be asked for is no part of it."""
    size = study._slower(study.FULL)
    assert set(size.attacked) == set(size.search) == {"convnet", "resnet18", "tiny"}
    y10, y1 = depths()
    assert len(study.records_of("deepmerge", study.FULL, y10, y1)["paper"][0]) == len(
        study.records_of("convnet", study.FULL, y10, y1)["paper"][0]
    )


def test_the_full_study_attacks_150_galaxies_as_published():
    y10, y1 = depths()
    big = study._slower(study.FULL)
    wanted = study.records_of("convnet", big, y10, y1)
    assert (big.attacked["convnet"], wanted["paper"][1]) == (50, {"settings": "published"})
    assert wanted["flux"][1] == {"space": "flux"}
    assert wanted["y1"][0].domain == "shallow"
    assert wanted["paper"][0].domain == "deep"
    assert (big.attacked["resnet18"], study.FULL.attacked["resnet18"]) == (10, 50)
    few = engine.balanced(y10, 7)
    assert np.bincount(np.asarray(few.labels)).tolist() == [7, 7, 7]
    assert set(engine.balanced(y10.take(np.sort(np.argsort(y10.ids)[90:])), 7).ids) != set(few.ids)


def test_cells_that_would_end_too_late_are_not_begun(tmp_path):
    """Estimates at first, what was measured afterwards."""
    folder, ran = Folder(tmp_path), []
    cells = [Cell("slow", "none", 0), Cell("fast", "none", 0), Cell("fast", "none", 1)]

    def work(cell, progress):
        ran.append(cell.name)
        return {"arch": cell.arch}

    left = run_cells(
        folder, cells, "training", work, {"slow": 7200.0, "fast": 10.0}, hours=1, workers=1, progress=quiet
    )  # fmt: skip
    assert ran == ["fast-none-0", "fast-none-1"]
    assert list(left) == [cells[0]]
    assert (folder.done(cells[1], "training") or {})["arch"] == "fast"
    assert folder.done(cells[1], "attack") is None
    run_cells(folder, cells, "training", work, {"slow": 3500.0, "fast": 1e9}, hours=1, workers=1, progress=quiet)
    assert ran[2:] == ["slow-none-0"]


def test_an_interruption_ends_all_and_keeps_what_is_done(tmp_path):
    cells = [Cell("a", "none", seed) for seed in range(3)]

    def work(cell, progress):
        if cell.seed == 1:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        run_cells(Folder(tmp_path), cells, "attack", work, {"a": 1.0}, hours=None, workers=1, progress=quiet)
    assert [Folder(tmp_path).done(cell, "attack") is not None for cell in cells] == [True, False, False]


def test_cells_side_by_side_share_the_cores(tmp_path):
    cells = [Cell("a", "none", seed) for seed in range(4)]

    def work(cell, progress):
        import os

        import torch

        if cell.seed == 2:
            raise ValueError("not this one")
        print("a network that talks")
        return {"threads": torch.get_num_threads(), "process": os.getpid()}

    folder = Folder(tmp_path)
    left = run_cells(folder, cells, "training", work, {"a": 1.0}, hours=1, workers=2, progress=quiet)
    assert left == {cells[2]: "it failed: ValueError: not this one"}
    facts = [done for cell in cells if (done := folder.done(cell, "training")) is not None]
    assert [fact["threads"] for fact in facts] == [max(1, (os.cpu_count() or 1) // 2)] * 3
    assert os.getpid() not in [fact["process"] for fact in facts]


ORPHAN = """
import os, time
from robustastro.reproduce.study import Cell, _alone

def work(cell, progress):
    os.write(ready[1], b"x")
    for step in range(100):
        progress("step", step, 100)
        time.sleep(0.1)
    os.write(2, b"went on")

ready = os.pipe()
if os.fork():
    os.read(ready[0], 1)
    os._exit(0)
_alone(work, Cell("a", "none", 0), 1)
"""


def test_a_worker_ends_with_its_study():
    """A parent that is gone says so at the next progress of its child, who holds the pipe until it ends."""
    done = subprocess.run([sys.executable, "-c", ORPHAN], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


# ---------------------------------------------------------------------- numbers


def arm(place: Path, method: str, seeds=(0, 1, 2), stretch=1.0, harm=2.0, flags=()):
    """Trainings on the same 60 synthetic galaxies."""
    records = []
    for s in seeds:
        parts = {}
        for name in ("y10", "y1", "paper"):
            # the same clean latents at Y10 and under attack; others at Y1
            drawn = 100 + s if name == "y1" else s
            parts[name] = make_record(
                place / f"{method}-{s}-{name}", {"onepixel": [1.0]}, name=method, training_seed=drawn, stretch=stretch,
                harm=harm,
            )  # fmt: skip
        records.append(parts)
    trainings = [{"flags": list(flags), "recipe": {"method": method}}] * len(seeds)
    cells = tuple(Cell("tiny", method, s) for s in seeds)
    return Arm("tiny", method, cells, tuple(trainings), tuple(records))


def test_a_stretched_latent_space_changes_the_published_distance_only(tmp_path):
    plain, wide = arm(tmp_path / "a", "none"), arm(tmp_path / "b", "mmd", stretch=3.0)
    rows = measures.distances([plain, wide])
    assert [row["ratio"] is None for row in rows] == [True, False]
    values = {name: found["value"] for name, found in rows[1]["ratio"].items()}
    raw = {"flip": 3.0, "shift_y1": 3.0}
    assert values == pytest.approx(raw | {"flip_scaled": 1.0, "shift_y1_scaled": 1.0, "boundary_scaled": 1.0}, rel=1e-4)
    for pair in rows[1]["pairs"]:
        assert (pair["flip"], pair["flip_scaled"]) == pytest.approx((3.0, 1.0), rel=1e-4)


def test_flip_ratios_are_of_galaxies_that_both_trainings_of_a_seed_flip(tmp_path):
    plain, other = arm(tmp_path / "a", "none", seeds=(2, 0, 1)), arm(tmp_path / "b", "mmd", harm=3.0, seeds=(0, 2))
    row = measures.distances([plain, other])[1]
    sums = np.zeros(2)
    for pair, seed in zip(row["pairs"], (0, 2), strict=True):
        one, two = (dict(zip([c.seed for c in a.cells], a.pairs("paper"), strict=True))[seed] for a in (other, plain))
        both = one.flipped & two.flipped
        assert 2 <= both.sum() < one.flipped.sum()
        assert (pair["seed"], pair["n"]) == (seed, both.sum())
        assert pair["flip"] == pytest.approx(one.shift[both].mean() / two.shift[both].mean())
        sums += one.shift[both].sum(), two.shift[both].sum()
    found = row["ratio"]["flip"]
    assert found["value"] == pytest.approx(sums[0] / sums[1])
    assert found["low"] <= found["value"] <= found["high"]
    assert row["flipped"] == [int(p.flipped.sum()) for p in other.pairs("paper")]
    near, near_none = (
        np.array([p.boundary_clean for p in a.pairs("paper")]) / a.scale("paper") for a in (other, plain)
    )
    assert row["boundary_scaled"] == over_seeds(near).to_dict()
    assert row["ratio"]["boundary_scaled"] == ratio(near, near_none).to_dict()


def test_only_attacked_trainings_have_distances(tmp_path):
    """The first seeds of two arms are not attacked, others of each: rows stay with their seeds."""
    plain = arm(tmp_path / "a", "none", seeds=(0, 1, 2, 3), harm=3.0)
    other = arm(tmp_path / "b", "mmd", seeds=(3, 0, 1, 2), harm=3.0)
    for a, seeds in ((plain, (0, 2)), (other, (3, 1))):
        for cell, records in zip(a.cells, a.records, strict=True):
            records["y10"].write_head(replace(records["y10"].head, centroids=(1 + cell.seed) * np.eye(3, 8)))
            if cell.seed in seeds:
                del records["paper"]  # type: ignore[attr-defined]
    first, second = measures.distances([plain, other])
    assert (first["seeds"], second["seeds"], second["trainings"]) == ([1, 3], [0, 2], 2)
    assert (first["latent_scale"], second["latent_scale"]) == (
        pytest.approx(np.sqrt(2) * np.array([2, 4])), pytest.approx(np.sqrt(2) * np.array([1, 3]))
    )  # fmt: skip
    assert second["pairs"] == []  # no seed was attacked in both
    assert second["ratio"]["flip"]["value"] is None
    assert second["ratio"]["boundary_scaled"]["value"] > 0
    moved = [measures._shift_y1(other.records[k]) / (np.sqrt(2) * (1 + other.cells[k].seed)) for k in (1, 3)]
    assert second["shift_y1_scaled"] == pytest.approx(over_seeds(np.array(moved)).to_dict())
    both = measures.distances([plain, replace(plain, method="dann")])[1]  # with itself, seed by seed
    assert [pair["seed"] for pair in both["pairs"]] == [1, 3]
    assert all(pair["flip"] == pair["flip_scaled"] == 1.0 for pair in both["pairs"])
    turned = Arm("tiny", "uda", plain.cells[::-1], plain.trainings[::-1], plain.records[::-1])
    both = measures.distances([plain, turned])[1]
    assert [pair["seed"] for pair in both["pairs"]] == [1, 3]
    assert all(pair["flip"] == pair["flip_scaled"] == 1.0 for pair in both["pairs"])


def test_figures_of_the_latent_space_are_of_a_seed_attacked_in_all_shown(tmp_path, monkeypatch, capsys):
    arms = [arm(tmp_path / m, m, harm=4.0) for m in ("none", "mmd", "dann", "uda")]
    for a, seeds in zip(arms, ((0,), (1,), (), (0, 1, 2)), strict=True):
        for seed in seeds:
            del a.records[seed]["paper"]  # type: ignore[attr-defined]
    drawn = {}
    for name in ("church", "isomap", "confusion"):
        monkeypatch.setattr(
            figures.get(name),
            "figure",
            lambda records, names, name=name, **o: drawn.update({name: (records, names, o)}),
        )
    monkeypatch.setattr(drawing, "save", lambda fig, path: None)
    made = drawing._spaces(arms, "tiny", tmp_path)
    assert all(caption.startswith("tiny, training seed 2 alone.") for _, caption in made)
    assert drawn["church"][1] == ["none", "mmd", "dann"]
    assert drawn["church"][0] == [a.records[2]["paper"] for a in arms[:3]]
    assert drawn["isomap"][2]["shallow"] == [a.records[2]["y1"] for a in arms[:3]]
    assert drawn["confusion"][0][:2] == [arms[0].records[2]["y10"], arms[0].records[2]["y1"]]
    del arms[2].records[2]["paper"]  # type: ignore[attr-defined]
    assert drawing._spaces(arms, "tiny", tmp_path) == []
    assert "no training seed was attacked in all methods" in capsys.readouterr().err


def test_ratio_over_few_galaxies_covers_the_truth():
    """Three of a hundred galaxies are flipped by both networks: the others make the interval no narrower."""
    rng, inside = np.random.default_rng(3), 0
    for _ in range(400):
        first, second = rng.lognormal(0, 0.3, (2, 1, 100)) * np.array([2.0, 1.0])[:, None, None]
        found = measures.pooled(first, second, np.arange(100)[None] < 3)
        inside += found.low <= 2.0 <= found.high
    assert inside / 400 > 0.91


def test_pooled_ratio_covers_the_truth():
    """Distances of skewed galaxies, networks with scales of their own, and each network flips some other galaxies."""
    rng, inside = np.random.default_rng(2), 0
    first = second = np.zeros((5, 150))
    for _ in range(300):
        galaxy = rng.lognormal(0, 0.4, 150)
        networks = np.exp(rng.normal(0, 0.1, (2, 5, 1)))
        first, second = galaxy * networks * rng.lognormal(0, 0.3, (2, 5, 150)) * np.array([2.0, 1.0])[:, None, None]
        found = measures.pooled(first, second, rng.random((5, 150)) < 0.2)
        inside += found.low <= 2.0 <= found.high
    assert inside / 300 > 0.91
    assert measures.pooled(first, second, np.zeros((5, 150), dtype=bool)).n == 0
    single = np.arange(150) == 3
    only = measures.pooled(first[:1], second[:1], single[None])
    assert (only.value, only.n, np.isnan(only.low)) == (pytest.approx(first[0, 3] / second[0, 3]), 1, True)


def test_a_collapsed_training_is_left_out_of_distances_alone(tmp_path):
    bad = [{"code": "collapsed", "message": "", "remedy": ""}]
    plain, dead = arm(tmp_path / "a", "none"), arm(tmp_path / "b", "mmd", flags=bad)
    assert dead.sound == []
    assert [row["method"] for row in measures.distances([plain, dead])] == ["none"]
    rows = measures.accuracies([plain, dead])
    assert rows[1]["collapsed"] == [0, 1, 2]
    assert rows[1]["gain_y1"]["value"] is not None


def test_accuracies_pair_galaxies_by_id(tmp_path):
    """In whatever order the galaxies of a depth stand; gains are on the depth they are named after."""
    plain, *others = (arm(tmp_path / m, m) for m in ("none", "mmd", "dann"))
    shuffled = plain.records[0]["y1"]
    table = shuffled.galaxies.reset_index()
    wrong = np.where(np.arange(len(table)) < 20, (table["label"] + 1) % 3, table["label"])
    table["logits"] = list(np.eye(3)[wrong])
    expected = (np.stack(table["logits"].to_list()).argmax(axis=1) == table["label"]).to_numpy()  # ids are in order
    shuffled.write_galaxies(table.sample(frac=1.0, random_state=0))
    assert plain.correct("y1")[0].tolist() == expected.tolist()
    for other in others:  # Y10 as `none`, everything right at Y1
        for records in other.records:
            better = records["y1"].galaxies.reset_index()
            better["logits"] = list(np.eye(3)[better["label"]])
            records["y1"].write_galaxies(better)
    rows = measures.accuracies([plain, *others])
    gains = [row["gain_y1"] for row in rows[1:]]
    assert rows[0]["gain_y1"] is None
    for row in rows[1:]:
        assert row["y1"]["value"] == 1.0
        assert row["gain_y1"]["value"] == pytest.approx(1.0 - plain.correct("y1").mean())
        assert row["gain_y10"]["value"] == pytest.approx(0.0)
    assert [g["p_corrected"] for g in gains] == pytest.approx([min(1.0, 2 * g["p"]) for g in gains])
    assert gains[0]["p_corrected"] > gains[0]["p"]


def test_success_rate_over_trainings():
    rng = np.random.default_rng(0)
    chances = rng.random((5, 80)) < 0.9
    hits = chances & (rng.random((5, 80)) < 0.4)
    found = rate(hits, chances)
    assert found.value == hits.sum() / chances.sum()
    assert found.low < found.value < found.high
    assert rate(hits[0], chances[0]) == proportion(hits[0][chances[0]])
    everywhere = np.ones((5, 80), dtype=bool)
    plain = over_seeds(hits)
    assert rate(hits, everywhere).low == pytest.approx(plain.low, abs=0.01)
    assert rate(hits, everywhere).high == pytest.approx(plain.high, abs=0.01)
    nothing = rate(np.zeros((5, 80), dtype=bool), chances)
    assert (nothing.value, nothing.low) == (0.0, 0.0)
    assert nothing.high > 0.02
    assert rate(hits, np.zeros((5, 80), dtype=bool)).n == 0


def test_success_rate_covers_the_truth():
    """Galaxies differ in how easily they flip, trainings in how easily they are flipped."""
    rng, inside = np.random.default_rng(1), 0
    for _ in range(300):
        easy, weak = rng.normal(0, 1, 100), rng.normal(0, 0.3, (5, 1))
        chances = rng.random((5, 100)) < 0.8
        hits = chances & (rng.random((5, 100)) < 1 / (1 + np.exp(-easy - weak)))
        found = rate(hits, chances)
        inside += found.low <= 0.5 <= found.high
    assert inside / 300 > 0.91


def test_loss_between_depths_pairs_trainings():
    """Each training loses exactly a tenth, whatever it had: training chance does not blur that."""
    y10 = np.zeros((3, 100), dtype=bool)
    for k, right in enumerate((60, 80, 100)):
        y10[k, :right] = True
    y1 = y10.copy()
    y1[:, :10] = False
    found = measures.loss(y10, y1)
    assert found.value == pytest.approx(0.1)
    assert 0.02 < found.low < 0.1 < found.high < 0.2
    assert measures.loss(y10[:1], y10[:1]).high > 0.0
    assert measures.loss(y10, y10).high > 0.0


# ---------------------------------------------------------------------- predictions


def estimate(value, half=0.02):
    return {"value": value, "low": value - half, "high": value + half, "n": 100}


def row(method, gain=None, kept=0.0, lost=None, seeds=5, half=0.02):
    return {
        "arch": "convnet", "method": method, "seeds": list(range(seeds)), "control": method in ("none", "at"),
        "target_labels": method == "supervised_target", "loss": estimate(0.2 if lost is None else lost, half),
        "gain_y1": None if gain is None else estimate(gain, half), "gain_y10": estimate(kept, half),
    }  # fmt: skip


def test_published_figures_stand_beside_ours():
    accuracy = [
        {"arch": "resnet18", "method": m, "y10": estimate(v), "y1": estimate(v - 0.3)}
        for m, v in (("none", 0.7), ("supervised_target", 0.9))
    ]
    document = {"accuracy": accuracy, "distances": []}
    said = {key: deepadversaries_page.ours(document, "resnet18", key) for key in ("y10", "y1", "upper", "flip")}
    assert said == {
        "y10": "70.0 [68.0, 72.0]", "y1": "40.0 [38.0, 42.0]", "upper": "supervised_target (60.0 [58.0, 62.0])",
        "flip": "not run",
    }  # fmt: skip
    assert deepadversaries_page.ours(document, "convnet", "y10") == "not run"


def test_the_accuracy_figure_marks_collapsed_trainings():
    shown = row("mmd", 0.1, seeds=3) | {
        "y10": estimate(0.9), "y1": estimate(0.5), "y10_by_seed": [0.9, 0.33, 0.92], "y1_by_seed": [0.5, 0.33, 0.6],
        "collapsed": [1],
    }  # fmt: skip
    axes = drawing.accuracy([shown]).axes[0]
    marks = {round(float(np.asarray(line.get_xdata())[0])): line.get_marker() for line in axes.lines[:3]}
    assert marks == {90: ".", 33: "x", 92: "."}


@pytest.mark.parametrize(
    ("lost", "half", "seeds", "verdict"),
    [(0.2, 0.02, 5, "true"), (0.1, 0.02, 5, "false"), (0.16, 0.02, 5, "undecided"), (0.2, 0.02, 1, "undecided")],
)
def test_the_fall_of_none(lost, half, seeds, verdict):
    assert predictions._falls([row("none", lost=lost, half=half, seeds=seeds)])["verdict"] == verdict


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ([row("mmd", 0.12), row("dann", 0.11), row("uda", 0.0)], "true"),
        ([row("mmd", 0.12), row("dann", 0.11, kept=-0.05)], "false"),
        ([row("mmd", 0.12), row("dann", 0.05)], "false"),
        ([row("mmd", 0.12), row("dann", 0.09)], "false"),
        ([row("mmd", 0.12), row("dann", 0.11, half=0.2)], "false"),
        ([row("mmd", 0.12), row("dann", 0.11, seeds=4)], "undecided"),
        ([row("mmd", 0.12, seeds=1), row("dann", 0.11, seeds=1)], "undecided"),
        ([row("mmd", 0.12), row("dann", 0.11), row("uda", 0.0, seeds=1)], "true"),
        ([row("mmd", 0.12), row("dann", 0.0), row("uda", 0.0, seeds=1)], "undecided"),
        ([row("mmd", 0.12)], "undecided"),
        ([], "undecided"),
    ],
)
def test_what_adaptation_regains(rows, verdict):
    assert predictions._regains([row("none"), *rows])["verdict"] == verdict


def test_only_plain_adaptation_counts():
    names = ("none", "at", "supervised_target", "mmd+published", "mmd", "uda")
    assert [n for n in names if predictions.adapts(row(n, 0.1))] == ["mmd", "uda"]


@pytest.mark.parametrize(
    ("values", "verdict"),
    [((1.2, 1.3), "true"), ((1.2, 0.9), "false"), ((1.2, 1.01), "undecided"), ((), "undecided")],
)
def test_a_claim_about_every_method(values, verdict):
    rows = [row(m, 0.1) for m in ("mmd", "dann")]
    distance = [
        {"arch": "convnet", "attack": "paper", "method": m, "trainings": 5, "ratio": v and {"boundary_scaled": v}}
        for m, v in zip(("none", "mmd", "dann"), [None, *map(estimate, values)], strict=False)
    ]
    found = predictions._farther(rows, distance, "convnet")
    assert found["verdict"] == verdict
    assert found["note"] == ("" if values else "without attack or distance: mmd, dann")
    distance[0]["trainings"] = 1  # a ratio to one network
    found = predictions._farther(rows, distance, "convnet")
    assert found["verdict"] == "undecided"
    assert not values or found["note"] == "a single training of none: its chance is unknown"


def test_a_single_training_decides_nothing():
    said = predictions._regains([row("none", seeds=1), row("mmd", 0.12), row("dann", 0.11)])
    assert (said["verdict"], said["note"]) == ("undecided", "a single training of none: its chance is unknown")
    several = [estimate(1.3), estimate(0.5)]
    assert verdicts.every(several, 1.0, [True, False]) == "undecided"
    assert verdicts.every(several, 1.0, [False, True]) == "false"


def test_adaptation_against_augment(tmp_path):
    arms = [arm(tmp_path / "a", "augment", harm=1.0), arm(tmp_path / "b", "mmd")]
    rows = [row("mmd", 0.1) | {"arch": "tiny"}]
    found = predictions._beats(rows, arms, "tiny")
    expected = arms[1].correct("y1").mean() - arms[0].correct("y1").mean()
    assert found["numbers"][0]["points"]["value"] == pytest.approx(expected)
    assert predictions._beats(rows, arms[1:], "tiny")["note"] == "augment was not run"
