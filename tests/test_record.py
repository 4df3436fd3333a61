"""The record: written whole or not at all, read back as written, refused when it is newer."""

import json
import math
import os

import numpy as np
import pandas as pd
import pytest

from perturbations.errors import InputError
from robustastro.record import Head, Record, jsonable, write_whole


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
        "contract": {"classes": ["a", "b"]},
        "perturbations": [{"name": "depth", "unit": "1", "rungs": rungs}],
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


def test_json_has_null_for_what_is_no_number():
    value = {"a": math.nan, "b": [np.float32(1.5), np.int64(2)], "c": (math.inf, None), 3: np.array([1, 2])}
    assert jsonable(value) == {"a": None, "b": [1.5, 2], "c": [None, None], "3": [1, 2]}
