"""Studies of a source and a target: cells, records and numbers, with a class that only the target has."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import make_blobs
from sklearn.metrics import roc_auc_score

from perturbations.errors import InputError
from perturbations.exposure import Exposure
from robustastro import reproduce
from robustastro.progress import Progress
from robustastro.record import Record
from robustastro.reproduce import deepastrouda, deepmerge2, programme, two_domain_measures, two_domains
from robustastro.reproduce.deepastrouda_predictions import predictions as predictions_of_unknown
from robustastro.reproduce.deepmerge2_predictions import predictions as predictions_of_merging
from robustastro.reproduce.programme import Asked
from robustastro.reproduce.study import Cell
from robustastro.reproduce.two_domains import Setting, Size

quiet = Progress()
TRIAL = {"pop": 8, "generations": 2}


def beds(bed):
    """Blobs without the third shape, and noisier others with it."""
    exposure = Exposure.from_survey("LSST", bands="gri")
    source, target = make_blobs(240, exposure), make_blobs(240, exposure, seed=1, prefix="other")
    near = two_domains.known(source, ("round", "small"))
    noise = np.random.default_rng(1).normal(0.0, 1200.0, target.images.shape)
    far = replace(target, images=(1.3 * np.asarray(target.images) + noise).astype(np.float32), domain="far")
    return near, far if bed != "nearby" else two_domains.known(far, ("round", "small"))


@pytest.fixture
def small(monkeypatch):
    """Both studies on blobs."""
    monkeypatch.setattr(Setting, "domains", lambda self, bed, progress: beds(bed.split("-")[0]))


def size(*labels):
    return Size(
        galaxies={v: 240 for v in (*deepmerge2.BEDS, *deepastrouda.BEDS)}, epochs=12, batch=12, seeds=2, attacked=12,
        search=TRIAL, cells={"tiny": labels},
    )  # fmt: skip


@pytest.fixture(scope="module")
def unknown_study(tmp_path_factory):
    """Two trainings each of two methods."""
    out = tmp_path_factory.mktemp("uda") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Setting, "domains", lambda self, bed, progress: beds(bed.split("-")[0]))
        document = deepastrouda.run(
            Asked(out, device="cpu"), quiet, size("lsst-three-none", "lsst-three-uda")
        )  # fmt: skip
    return out, document


def test_an_unknown_class_has_a_record_and_numbers_of_its_own(unknown_study):
    out, document = unknown_study
    assert json.loads((out / "results.json").read_text()) == document
    assert document["failed"] == 0, document["not_run"]
    first = Record.open(out / "runs/tiny-lsst-three-uda-1/target").galaxies
    assert set(first["label"]) == {-1, 0, 1}
    assert set(first["class"][first["label"] < 0]) == {"long"}
    (row,) = [r for r in document["open_set"] if r["method"] == "uda"]
    assert (row["known"], row["unknown"]) == ((first["label"] >= 0).sum(), (first["label"] < 0).sum())
    for k in range(2):
        table = Record.open(out / f"runs/tiny-lsst-three-uda-{k}/target").galaxies
        tables = [table[table["label"] >= 0], table[table["label"] < 0]]
        logits = [np.stack(list(table["logits"])) for table in tables]
        p = [np.exp(x - x.max(1, keepdims=True)) for x in logits]
        p = [x / x.sum(1, keepdims=True) for x in p]
        h = [-(x * np.log(np.clip(x, 1e-300, None))).sum(1) for x in p]
        area = roc_auc_score(np.r_[np.zeros(len(h[0])), np.ones(len(h[1]))], np.r_[h[0], h[1]])
        assert row["auroc_by_seed"][k] == pytest.approx(area)
    assert row["auroc"]["value"] == pytest.approx(np.mean(row["auroc_by_seed"]))
    assert row["threshold"] == pytest.approx(np.log(2) / 2)
    page = (out / "index.md").read_text()
    assert "Unknown class:" in page
    drawn = {path.name for path in out.glob("*.png")}
    expected = {"accuracy", "tsne", "entropy", "confusion"}
    assert drawn == {f"{name}-tiny-lsst-three.png" for name in expected}
    assert all(f"]({name})" in page for name in drawn)
    assert document["command"] in page
    assert {p["prediction"].split(":")[0] for p in document["predictions"]} == {"lsst-three"}


def test_gains_are_over_none_of_the_same_bed(unknown_study):
    out, document = unknown_study
    none, uda = (next(r for r in document["accuracy"] if r["method"] == m) for m in ("none", "uda"))
    assert none["gain_target"] is None
    assert uda["gain_target"]["value"] == pytest.approx(
        np.mean(uda["target_by_seed"]) - np.mean(none["target_by_seed"])
    )
    assert [set(active) for active in uda["active_by_seed"]] == [set(two_domain_measures.ACTIVE)] * 2
    rows = [r for r in document["robustness"] if r["method"] == "uda"]
    assert rows[0]["trainings"] == 2
    names = {d["perturbation"] for d in rows[0]["drops"]}
    assert names == {"seeing", "depth"}
    table = Record.open(out / "runs/tiny-lsst-three-uda-0/robust")
    assert len(table.galaxies) == rows[0]["attacked"] == 12


def test_transfer_starts_from_the_model_of_the_other_bed(tmp_path, small):
    document = deepmerge2.run(
        Asked(tmp_path / "out", device="cpu", methods=("nearby-mmd+transfer",), seeds=1), quiet, size("nearby-none")
    )
    assert document["failed"] == 0, document["not_run"]
    assert [row["label"] for row in document["accuracy"]] == ["distant-mmd", "nearby-mmd+transfer"]
    training = json.loads((tmp_path / "out/runs/tiny-nearby-mmd+transfer-0.json").read_text())
    assert training["recipe"]["init"] == str(tmp_path / "out/runs/tiny-distant-mmd-0.pt")
    assert training["init"]
    assert {row["domain"] for row in document["scores"]} == {"source", "target"}
    drawn = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert {"gradcam-tiny-nearby.png", "roc-tiny-nearby.png", "tsne-tiny-distant.png"} <= drawn


def test_the_order_of_cells():
    cells = two_domains.cells(deepmerge2.VARIANTS, deepmerge2.FIRST, "tiny", tuple(deepmerge2.VARIANTS), 2)
    assert len(cells) == len(set(cells)) == 2 * len(deepmerge2.VARIANTS)
    names = [cell.method for cell in cells]
    assert set(names[: 2 * len(deepmerge2.FIRST)]) == set(deepmerge2.FIRST)
    assert names[:6] == 2 * ["distant-none", "distant-mmd", "distant-dann"]
    for cell in cells:
        start = deepmerge2.VARIANTS[cell.method].start
        if start:
            assert cells.index(replace(cell, method=start)) < cells.index(cell)


@pytest.mark.parametrize("name", ["deepmerge2", "deepastrouda"])
def test_every_variant_is_called_by_its_label(name):
    module = reproduce.get(name)
    setting = Setting(Path("out"), size(), None, "cpu", dict(module.VARIANTS), module.mocks, {})
    for label, variant in module.VARIANTS.items():
        recipe = setting.recipe(Cell("convnet", label, 3))
        assert recipe.label == variant.name.replace("transfer", "init")
        assert variant.label == label


def test_uneven_classes_count_the_same():
    """All of the rare class wrong, all of the common right: one half, not nine tenths."""
    labels = np.array([0] * 90 + [1] * 10)
    right = np.tile(labels == 0, (3, 1))
    found = two_domain_measures.accuracy_of(right, labels, True)
    assert found.value == pytest.approx(0.5)
    assert found.high - found.low > 0.1  # ten galaxies leave much open
    assert two_domain_measures.accuracy_of(right, labels, False).value == pytest.approx(0.9)
    same = two_domain_measures.gain_of(right, right, labels, True).estimate
    assert same.low < 0.0 == same.value < same.high  # two networks that agree here may differ elsewhere


def test_intervals_of_uneven_classes_cover():
    """255 and 45 galaxies, 90% right in both classes, five trainings that scatter: the truth is in 93% and more."""
    rng, labels, inside, widths = np.random.default_rng(2), np.array([0] * 255 + [1] * 45), 0, []
    for _ in range(300):
        hard = rng.uniform(size=300) < 0.8  # always right, or a matter of luck
        right = hard | (rng.uniform(size=(5, 300)) < 0.5 + rng.normal(0.0, 0.05, (5, 1)))
        found = two_domain_measures.accuracy_of(right, labels, True)
        inside += found.low <= 0.9 <= found.high
        widths.append(found.high - found.low)
    assert inside >= 0.93 * 300
    assert np.mean(widths) < 0.13


# ---------------------------------------------------------------------- predictions


def estimate(value, half=0.01):
    return {"value": value, "low": value - half, "high": value + half, "n": 100, "p": 0.01}


def row(label, gain, half=0.01, seeds=5, source=0.0):
    bed, _, method = label.partition("-")
    gains = {"gain_target": None, "gain_source": None}
    if method != "none":
        gains = {"gain_target": estimate(gain, half), "gain_source": estimate(source, half)}
    return {"arch": "tiny", "label": label, "bed": bed, "method": method, "seeds": list(range(seeds)), **gains}


NONE = [row("distant-none", 0.0), row("nearby-none", 0.0)]


def judged(rows, added=(), which=0):
    return predictions_of_merging([*NONE, *rows], list(added))[which]


@pytest.mark.parametrize(
    ("mmd", "dann", "said"),
    [
        (0.2, 0.15, "true"),
        (0.2, 0.105, "undecided"),
        (0.2, 0.05, "false"),
        (0.2, None, "undecided"),
        (-0.1, None, "false"),
    ],
)
def test_the_gain_on_the_distant_target(mmd, dann, said):
    rows = [row(f"distant-{name}", gain) for name, gain in (("mmd", mmd), ("dann", dann)) if gain is not None]
    found = judged(rows)
    assert found["verdict"] == said
    assert ("not run: distant-dann" in found["note"]) == (dann is None)


@pytest.mark.parametrize(
    ("mmd", "dann", "said"),
    [
        (0.02, 0.0, "true"),
        (0.02, 0.2, "false"),
        (0.02, 0.05, "undecided"),
        (0.2, None, "false"),
        (0.02, None, "undecided"),
    ],
)
def test_they_hardly_help_nearby(mmd, dann, said):
    rows = [
        row(f"nearby-{name}", gain, source=0.5) for name, gain in (("mmd", mmd), ("dann", dann)) if gain is not None
    ]
    assert judged(rows, which=1)["verdict"] == said


def test_one_training_of_none_decides_nothing():
    rows = [
        row("distant-none", 0.0, seeds=1),
        row("nearby-none", 0.0),
        row("distant-mmd", 0.3),
        row("distant-dann", 0.3),
    ]
    found = predictions_of_merging(rows, [])[0]
    assert found["verdict"] == "undecided"
    assert "chance is unknown" in found["note"]


def added(label, gain, several=True):
    return {"arch": "tiny", "label": label, "gain": estimate(gain), "several": several}


def test_transfer_is_judged_against_the_same_method_without_it():
    rows = [row(f"nearby-{m}+transfer", 0.3) for m in ("mmd", "dann")]
    more = [added(f"nearby-{m}+transfer", gain) for m, gain in (("mmd", 0.1), ("dann", -0.1))]
    assert judged(rows, more, which=2)["verdict"] == "false"
    assert judged(rows, [added(f"nearby-{m}+transfer", 0.1) for m in ("mmd", "dann")], which=2)["verdict"] == "true"
    assert judged(rows, which=2)["verdict"] == "undecided"


@pytest.mark.parametrize(("word", "which"), [("fisher-ratio", 3), ("fisher-difference", 4), ("entropy", 5)])
def test_what_is_added_helps_only_if_it_helps_all(word, which):
    labels = [f"{bed}-{m}+{word}" for bed in ("distant", "nearby") for m in ("none", "mmd", "coral", "dann")]
    assert judged([], [added(label, 0.05) for label in labels], which)["verdict"] == "true"
    assert judged([], [added(label, 0.05) for label in labels[:1]], which)["verdict"] == "undecided"
    assert judged([], [*(added(n, 0.05) for n in labels[1:]), added(labels[0], -0.05)], which)["verdict"] == "false"


@pytest.mark.parametrize(
    ("gain", "area", "seeds", "said"),
    [(0.1, 0.9, 5, ["true", "true"]), (-0.1, 0.8, 5, ["false", "false"]), (0.0, 0.855, 5, ["undecided", "undecided"]),
     (0.1, 0.9, 1, ["undecided", "undecided"])],
)  # fmt: skip
def test_what_was_foretold_of_uda(gain, area, seeds, said):
    rows = [row("lsst-none", 0.0), row("lsst-uda", gain, seeds=seeds, source=-gain)]
    unknown = [{"arch": "tiny", "bed": "lsst", "method": "uda", "auroc": estimate(area)}]
    assert [each["verdict"] for each in predictions_of_unknown(rows, unknown)] == said


# ---------------------------------------------------------------------- what can go wrong


def test_a_start_is_trained_before_what_starts_from_it(tmp_path, small, monkeypatch):
    """Also by several workers, where a cell cannot wait for another."""
    seen = []
    original = programme.run_cells

    def noted(folder, cells, part, *rest, **options):
        seen.append((part, [cell.method for cell in cells]))
        return original(folder, cells, part, *rest, **options)

    monkeypatch.setattr(programme, "run_cells", noted)
    asked = Asked(tmp_path / "out", device="cpu", methods=("nearby-mmd+transfer",), seeds=1)
    deepmerge2.run(asked, quiet, size("nearby-none"))
    assert seen[:2] == [("training", ["distant-mmd"]), ("training", ["nearby-mmd+transfer"])]


def test_without_its_start_a_cell_is_left_out_and_said(tmp_path, small, monkeypatch):
    original = two_domains.commands.fit

    def fails(recipe, *rest):
        if not recipe.init:
            raise RuntimeError("no memory")
        return original(recipe, *rest)

    deepmerge2.run(
        Asked(tmp_path / "out", device="cpu", methods=("distant-none",), seeds=1), quiet, size("nearby-none")
    )
    monkeypatch.setattr(two_domains.commands, "fit", fails)
    asked = Asked(tmp_path / "out", device="cpu", methods=("nearby-mmd+transfer",), seeds=1)
    document = deepmerge2.run(asked, quiet, size("nearby-none"))
    assert document["failed"] == 1
    reasons = {name: r["reason"] for r in document["not_run"] for name in r["methods"]}
    assert reasons["nearby-mmd+transfer"] == "tiny-distant-mmd-0 is not there"


def test_a_study_goes_on_under_another_spelling_of_its_folder_and_refuses_another_start(tmp_path, small, monkeypatch):
    asked = Asked(tmp_path / "out", device="cpu", methods=("nearby-mmd+transfer",), seeds=1)
    first = deepmerge2.run(asked, quiet, size("nearby-none"))
    monkeypatch.chdir(tmp_path)
    again = deepmerge2.run(replace(asked, out=Path("out")), quiet, size("nearby-none"))
    assert again["accuracy"] == first["accuracy"]
    bundle = tmp_path / "out/runs/tiny-distant-mmd-0.pt"
    bundle.write_bytes(bundle.read_bytes() + b"changed")
    with pytest.raises(InputError, match="started from another tiny-distant-mmd-0"):
        deepmerge2.run(asked, quiet, size("nearby-none"))


def test_a_model_that_is_gone_is_trained_again_and_its_records_too(tmp_path, small):
    asked = Asked(tmp_path / "out", device="cpu", methods=("distant-none",), seeds=1)
    deepmerge2.run(asked, quiet, size("nearby-none"))
    runs = tmp_path / "out/runs"
    before = Record.open(runs / "tiny-distant-none-0/target").run["model"]["sha256"]
    for name in ("tiny-distant-none-0.pt", "tiny-distant-none-0.json", "tiny-distant-none-0/training.json"):
        (runs / name).unlink()
    assert deepmerge2.run(asked, quiet, size("nearby-none"))["failed"] == 0
    after = Record.open(runs / "tiny-distant-none-0/target").run["model"]["sha256"]
    assert after != before  # a bundle says when it was made
    assert {Record.open(p.parent).run["model"]["sha256"] for p in runs.glob("*/*/run.json")} == {after}


def test_the_page_is_written_without_the_models(tmp_path, small, capsys):
    """As in a clone of a report whose models are not in it."""
    asked = Asked(tmp_path / "out", device="cpu", methods=("distant-none",), seeds=1)
    deepmerge2.run(asked, quiet, size("nearby-none"))
    (tmp_path / "out/runs/tiny-distant-none-0.pt").unlink()
    assert deepmerge2.run(asked, quiet, size("nearby-none"))["accuracy"]
    assert "no Grad-CAM of tiny, distant" in capsys.readouterr().err


def test_a_method_or_a_test_bed_alone_names_all_of_its_cells():
    class Known:
        methods = deepmerge2.VARIANTS

    assert programme._methods(Known, ("mmd",)) == ("distant-mmd", "nearby-mmd")
    assert all(name.startswith("nearby-") for name in programme._methods(Known, ("nearby",)))
    with pytest.raises(InputError, match=re.compile("did you mean", re.IGNORECASE)):
        programme._methods(Known, ("distant-mmm",))


# ---------------------------------------------------------------------- the authors' files


def deepmerge_files(folder):
    rng = np.random.default_rng(0)
    folder.mkdir()
    labels = np.arange(120) % 2
    for domain, kind, noise in (("SOURCE", "pristine", 0.1), ("TARGET", "noisy", 0.4)):
        images = rng.normal(0.0, noise, (120, 3, 75, 75)) + labels[:, None, None, None] * np.linspace(0, 1, 75)
        np.save(folder / f"SimSim_{domain}_X_Illustris2_{kind}.npy", images.astype(np.float32))
        np.save(folder / f"SimSim_{domain}_y_Illustris2_{kind}.npy", labels)


def test_the_distant_files_of_deepmerge_alone(tmp_path):
    """No files of the nearby test bed: it is left out, and the page says so; no units, so no seeing."""
    deepmerge_files(tmp_path / "data")
    asked = Asked(tmp_path / "out", device="cpu", data=str(tmp_path / "data"), seeds=1)
    document = deepmerge2.run(asked, quiet, size("distant-none", "nearby-none"))
    assert document["failed"] == 0, document["not_run"]
    assert [r["label"] for r in document["accuracy"]] == ["distant-none"]
    page = (tmp_path / "out/index.md").read_text()
    assert "no files: nearby." in page
    assert "Seeing and depth: these images have no Exposure" in page
    with pytest.raises(InputError, match="files of no test bed"):
        deepastrouda.run(asked, quiet, size("lsst-three-none"))


def test_the_files_of_deepastrouda(tmp_path):
    """Two surveys of the four, ten classes in both: the lenses of the source take no part."""
    import h5py

    rng, labels = np.random.default_rng(0), np.arange(200) % 10
    (tmp_path / "data").mkdir()
    for name, noise in (("sdss_1", 5.0), ("decals", 20.0)):
        images = 20.0 * labels[:, None, None, None] + rng.normal(0, noise, (200, 32, 32, 3))
        with h5py.File(tmp_path / f"data/{name}.h5", "w") as file:
            file["images"], file["labels"] = np.clip(images, 0, 255).astype(np.uint8), labels
    asked = Asked(tmp_path / "out", device="cpu", data=str(tmp_path / "data"), seeds=1)
    document = deepastrouda.run(asked, quiet, size("decals-ten-none", "lsst-three-none"))
    assert document["failed"] == 0, document["not_run"]
    assert [r["label"] for r in document["accuracy"]] == ["decals-ten-none"]
    assert document["open_set"][0]["unknown"] > 0
    source = Record.open(tmp_path / "out/runs/tiny-decals-ten-none-0/source")
    assert "strong_lens" not in source.classes
    assert len(source.classes) == 9
