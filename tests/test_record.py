"""The record: written whole or not at all, read back as written, refused when it is newer."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from perturbations.errors import InputError
from robustastro.record import Head, Record, jsonable, refuse_place, refuse_run, write_whole


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "folder" / "result.json"
    write_whole(path, lambda file: file.write_text("first"))
    assert path.read_text() == "first"
    assert path.stat().st_mode & 0o777 == 0o644

    def breaks(file):
        file.write_text("half of the sec")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_whole(path, breaks)
    assert path.read_text() == "first"
    assert [p.name for p in path.parent.iterdir()] == ["result.json"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot write"):
        write_whole(tmp_path / "x", lambda file: file.write_text(""))


def test_a_file_in_the_way_is_one_line(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        write_whole(tmp_path / "taken" / "x", lambda file: file.write_text(""))


def run(schema=1, n=3):
    rungs = [{"severity": 1, "strength": 0.5}, {"severity": None, "strength": 0.25}]
    return {
        "schema": schema,
        "model": {"name": "m"},
        "data": {},
        "flags": [],
        "contract": {"classes": ["a", "b"]},
        "perturbations": [
            {
                "name": "depth",
                "kind": "corruption",
                "parameter": "kept",
                "unit": "1",
                "ladder": [0.5],
                "identity": 1.0,
                "rungs": rungs,
            }
        ],
    }


def rows(ids):
    return pd.DataFrame({"id": ids, "logits": [np.array([0.0, float(len(i))], dtype=np.float32) for i in ids]})


def test_units_come_back_in_the_order_of_the_galaxies(tmp_path):
    record = Record(tmp_path / "r")
    record.write_run(run())
    ids = ["a", "bb", "ccc", "dddd"]
    record.write_galaxies(rows(ids).assign(label=[0, 1, 0, 1], split="test", latent=[np.zeros(2)] * 4))
    record.write_shard("depth", 0.5, 1, rows(["dddd", "ccc"]))
    record.write_shard("depth", 0.5, 0, rows(["bb", "a"]))
    read = Record.open(tmp_path / "r")
    assert [u.severity for u in read.units()] == [1, None]
    assert list(read.unit("depth", 0.5).index) == ids
    assert [v[1] for v in read.unit("depth", 0.5).logits] == [1, 2, 3, 4]
    assert read.unit("depth", 0.25).empty
    assert read.has_shard("depth", 0.5, 1)
    assert not read.has_shard("depth", 0.25, 0)


def test_head_and_images_come_back(tmp_path):
    record = Record(tmp_path)
    head = Head(np.eye(2), np.zeros(2), np.full((2, 2), np.nan), "training galaxies", "linear")
    record.write_head(head)
    assert np.array_equal(record.head.weight, np.eye(2))
    assert np.isnan(record.head.centroids).all()
    record.write_head(Head(None, None, None, "", "other"))
    assert Record(tmp_path).head.weight is None
    for shard, name in enumerate(("x", "y")):
        record.write_images("onepixel", 1.0, {"ids": np.array([name]), "clean": np.full((1, 3, 2, 2), shard)}, shard)
    images = record.images("onepixel", 1.0)
    assert list(images["ids"]) == ["x", "y"]
    assert images["clean"][:, 0, 0, 0].tolist() == [0, 1]


def test_a_newer_schema_and_a_folder_that_is_no_run_are_refused(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(run(schema=2)))
    with pytest.raises(InputError, match="schema 2"):
        Record.open(tmp_path)
    for content in ("{", "[]", "{}"):
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(InputError, match="no readable run"):
            Record.open(tmp_path)


BROKEN = {
    "no flags": lambda run: run.pop("flags"),
    "a flag without a code": lambda run: run.update(flags=[{"message": "m", "remedy": "r"}]),
    "a strength as text": lambda run: run["perturbations"][0]["rungs"][0].update(strength="0.5"),
    "no severity": lambda run: run["perturbations"][0]["rungs"][0].pop("severity"),
    "a number as name": lambda run: run["perturbations"][0].update(name=3),
    "options null": lambda run: run["perturbations"][0].update(options=None),
    "data null": lambda run: run.update(data=None),
    "no class": lambda run: run["contract"].update(classes=[]),
    "half a surrogate pair": lambda run: run["contract"].update(classes=["\ud800", "b"]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_document_that_was_edited_badly_is_refused_by_name(tmp_path, name):
    document = run()
    BROKEN[name](document)
    (tmp_path / "run.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"no readable run\.json \("):
        Record.open(tmp_path)


def a_run(path, plan="p" * 64):
    record = Record(path)
    record.write_run(run() | {"plan_sha256": plan})
    record.write_galaxies(rows(["x", "yy"]).assign(label=[0, 1]))
    record.write_head(Head(None, None, None, "", "other"))
    record.write_shard("depth", 0.5, 0, rows(["x", "yy"]))
    return record


@pytest.mark.parametrize(
    "file", ["galaxies.parquet", "units/depth/0.5/00000.parquet", "head.npz"], ids=["galaxies", "unit", "head"]
)
@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1\n", None], ids=["empty", "lfs", "cut"]
)
def test_a_damaged_file_is_named(tmp_path, file, content):
    a_run(tmp_path)
    whole = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(whole[: len(whole) // 2] if content is None else content)
    record = Record.open(tmp_path)
    with pytest.raises(InputError, match=rf"{Path(file).name} cannot be read .* git-lfs"):
        _ = record.head, record.unit("depth", 0.5)


def test_files_of_another_run_are_refused(tmp_path):
    one, other = a_run(tmp_path / "one", "1" * 64), a_run(tmp_path / "other", "2" * 64)
    shard = "units/depth/0.5/00000.parquet"
    (one.path / shard).write_bytes((other.path / shard).read_bytes())
    with pytest.raises(InputError, match=r"another run \(plan 22222222, run.json 11111111\)"):
        Record.open(one.path).unit("depth", 0.5)
    assert len(Record.open(other.path).unit("depth", 0.5)) == 2


def test_galaxies_that_cannot_be_are_refused(tmp_path):
    record = a_run(tmp_path)
    for table, said in (
        (rows(["x", "x"]).assign(label=[0, 1]), "a galaxy is there twice"),
        (rows(["x", "yy"]).assign(label=[0, 2]), "none of the 2 classes"),
        (rows(["x", "yy"]).assign(label=[0, 0.5]), "none of the 2 classes"),
        (rows(["x", "yy"]).assign(label=["a", "b"]), "none of the 2 classes"),
        (rows(["x", "yy"]), "no label"),
        (rows(["x", "yy"]).assign(label=0, logits=[[0.0, 1.0], [0.0]]), "logits of 2 or 1 numbers"),
        (rows(["x", "yy"]).assign(label=0, logits=[[0.0] * 3] * 2), "logits of 3 numbers"),
        (rows(["x", "yy"]).assign(label=0, logits=[1.0, 2.0]), "cannot be read"),
    ):
        record.write_galaxies(table)
        with pytest.raises(InputError, match=said):
            _ = Record.open(tmp_path).galaxies
    record.write_galaxies(rows(["x", "yy"]).assign(label=[math.nan, 1.0]))
    assert len(Record.open(tmp_path).galaxies) == 2
    record.write_shard("depth", 0.5, 1, rows(["x"]))
    with pytest.raises(InputError, match="galaxies twice"):
        Record.open(tmp_path).unit("depth", 0.5)


def test_no_file_of_a_run_and_no_pipe_is_written_over(tmp_path):
    a_run(tmp_path / "run")
    for place in ("run", "run/run.json", "run/units/new.xml", "run/gate.txt"):
        with pytest.raises(InputError, match="lies in the run"):
            refuse_run(tmp_path / place, "*.xml")
    refuse_run(tmp_path / "run" / "gate.xml", "*.xml")
    refuse_run(tmp_path / "beside.xml")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is a pipe or device"):
        refuse_place(tmp_path / "pipe", folder=False)


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_whole(tmp_path / "link", lambda file: file.write_text("new"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"


def test_json_has_null_for_what_is_no_number():
    value = {"a": math.nan, "b": [np.float32(1.5), np.int64(2)], "c": (math.inf, None), 3: np.array([1, 2])}
    assert jsonable(value) == {"a": None, "b": [1.5, 2], "c": [None, None], "3": [1, 2]}
