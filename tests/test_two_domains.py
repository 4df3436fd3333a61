"""Studies of a source and a target: cells, records and numbers, with a class that only the target has."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import make_blobs
from sklearn.metrics import roc_auc_score

from perturbations.exposure import Exposure
from robustastro import reproduce
from robustastro.progress import Progress
from robustastro.record import Record
from robustastro.reproduce import deepastrouda, deepmerge2, two_domain_measures, two_domains
from robustastro.reproduce.measures import Arm
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
    setting = Setting(Path("out"), size(), None, "cpu", dict(module.VARIANTS), module.mocks, module.files)
    for label, variant in module.VARIANTS.items():
        recipe = setting.recipe(Cell("convnet", label, 3))
        assert recipe.label == variant.name.replace("transfer", "init")
        assert variant.label == label


def test_uneven_classes_count_the_same(tmp_path):
    """All of the rare class wrong, all of the common right: one half, not nine tenths."""
    labels = np.array([0] * 90 + [1] * 10)

    class Table:
        def __init__(self):
            import pandas as pd

            self.galaxies = pd.DataFrame(
                {"label": labels, "logits": [np.array([1.0, 0.0])] * 100}, index=[f"g{k:03d}" for k in range(100)]
            )

    arm = Arm("tiny", "none", (), (), ({"target": Table()},))
    right = two_domain_measures.correct(arm, "target")
    assert right.mean() == pytest.approx(0.5)
    assert two_domain_measures.uneven(Table())
