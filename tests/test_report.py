"""`robustastro report`: what the page says is what the record says, and nothing in a file gets out of its place."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from synthetic_records import make_record

from perturbations.errors import InputError
from robustastro import figures, report
from robustastro.cli import main
from robustastro.metrics.ladder import ladders, over_attacks
from robustastro.metrics.summary import summarise
from robustastro.record import Record


class Page(HTMLParser):
    """Tags and text of a page, and the cells of its tables."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.images: list[str] = []
        self.rows: list[list[str]] = []
        self.words = ""
        self.inside = False
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True
        if tag == "img":
            self.images.append(dict(attrs)["src"])

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        self.words += data
        if self.inside:
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> tuple[list[Record], Path]:
    """Two arms on three perturbations, and their report."""
    folder = tmp_path_factory.mktemp("report")
    entries = {"depth": [0.8, 0.4, 0.1], "pgd": [0.004, 0.063], "onepixel": [1.0]}
    records = [make_record(folder / name, entries, name, harm=harm) for name, harm in (("none", 2.0), ("mmd", 0.3))]
    report.write(records, folder / "page")
    return records, folder / "page"


def test_numbers_are_those_of_the_record(two):
    records, out = two
    document = json.loads((out / "report.json").read_text())
    for record, run in zip(records, document["runs"], strict=True):
        assert run["results"] == json.loads(json.dumps(summarise(record)))
        depth = next(entry for entry in run["ladders"] if entry["perturbation"] == "depth")
        rungs = [r["perturbed_accuracy"]["value"] for r in run["results"] if r["perturbation"] == "depth"]
        assert depth["mean_accuracy"]["value"] == pytest.approx(sum(rungs) / 3)
        assert depth["worst_accuracy"]["value"] <= min(rungs)
        assert run["over_attacks"]["attacks"] == ["pgd", "onepixel"]
    assert {r["verdict"] for r in document["comparison"]["results"]} >= {"more robust"}


def test_robust_accuracy_is_the_worst_case_of_each_galaxy(two):
    records, out = two
    for record, run in zip(records, json.loads((out / "report.json").read_text())["runs"], strict=True):
        labels = record.galaxies["label"]
        right = labels == labels  # all
        for strength, name in ((0.004, "pgd"), (0.063, "pgd"), (1.0, "onepixel")):
            logits = record.unit(name, strength)["logits"]
            right &= labels == logits.map(lambda values: int(values.argmax()))
        assert run["over_attacks"]["robust_accuracy"]["value"] == pytest.approx(right.mean())


def test_page_has_every_figure_and_every_unit(two):
    _, out = two
    page = Page(out / "index.html")
    document = json.loads((out / "report.json").read_text())
    assert page.images == [f["png"] for f in document["figures"]]
    assert {"severity", "critical", "latent", "comparison"} <= {f["name"] for f in document["figures"]}
    for figure in document["figures"]:
        assert (out / figure["png"]).stat().st_size > 1000
        assert (out / figure["pdf"]).read_bytes().startswith(b"%PDF")
        assert len(figure["caption"]) > 50
    units = [row[:2] for row in page.rows if len(row) > 8]
    for wanted in (["depth", "0.8"], ["depth", "0.1"], ["pgd", "0.063 input units"], ["onepixel", "1 pixel"]):
        assert units.count(wanted) >= 2
    for run in document["runs"]:
        assert run["model"]["sha256"] in page.words


def test_the_baseline_is_that_of_the_table_and_of_the_figure(two, tmp_path):
    records, _ = two
    document = report.write(records, tmp_path / "page", baseline="mmd")
    (caption,) = (f["caption"] for f in document["figures"] if f["name"] == "comparison")
    assert document["comparison"]["baseline"] == "mmd"
    assert "mmd" in caption
    assert caption == figures.get("comparison").caption(records, baseline="mmd")
    assert caption != figures.get("comparison").caption(records)


def test_the_plan_stands_on_the_page(tmp_path):
    record = make_record(tmp_path / "run", {"depth": [0.8, 0.1]})
    record.write_run(record.run | {"plan": {"seed": 3, "limit": 77, "chunk": 100}})
    document = report.write([record], tmp_path / "page")
    assert document["runs"][0]["plan"]["limit"] == 77
    assert '"limit": 77' in (tmp_path / "page" / "index.md").read_text()


def test_galaxies_without_a_label_do_not_count(tmp_path):
    record = make_record(tmp_path / "run", {"depth": [0.8, 0.1], "pgd": [0.004], "onepixel": [1.0]}, harm=0.3)
    labels = record.galaxies["label"].to_numpy().copy()
    labels[:20] = -1
    record.write_galaxies(record.galaxies.reset_index().assign(label=labels))
    for found in (*ladders(record), over_attacks(record)):
        assert found["n"] == 40
        assert found["clean_accuracy"]["n"] == 40
        assert found["clean_accuracy"]["value"] > 0.9


def test_flags_stand_on_the_page(tmp_path):
    record = make_record(tmp_path / "run", {"depth": [0.8, 0.1]})
    flag = {"code": "collapsed", "message": "predicts one class", "remedy": "train again"}
    record.write_run(record.run | {"flags": [flag]})
    report.write([record], tmp_path / "page")
    text = (tmp_path / "page" / "index.md").read_text()
    assert "**collapsed** (none" in text
    assert "predicts one class. Train again." in text


def test_nothing_in_a_name_becomes_markup(tmp_path):
    record = make_record(tmp_path / "run", {"depth": [0.8, 0.1]})
    evil = "<script>alert(1)</script> | [x](javascript:y) **b**"
    record.write_run(record.run | {"model": record.run["model"] | {"name": evil, "method": evil}})
    report.write([record], tmp_path / "page", title=f"{evil}</title>")
    page = Page(tmp_path / "page" / "index.html")
    assert "script" not in page.tags
    assert "alert(1)" in page.words
    widths = [len(row) for row in page.rows]
    assert widths[0] == widths[1]  # a cell was not split
    assert "javascript:y" in page.rows[1][1]


def test_runs_that_cannot_be_compared_are_reported_with_the_reason(tmp_path):
    runs = [make_record(tmp_path / name, {"depth": [0.8, 0.1]}, name, seed=k) for k, name in enumerate(("none", "mmd"))]
    document = report.write(runs, tmp_path / "page")
    assert "SHA-256" in document["comparison"]["refused"] or "labels differ" in document["comparison"]["refused"]
    assert document["comparison"]["refused"].split(";")[0] in (tmp_path / "page" / "index.md").read_text().replace(
        "\\", ""
    )


def test_a_run_without_labels_has_nulls_and_no_crash(tmp_path):
    record = make_record(tmp_path / "run", {"depth": [0.8, 0.1], "pgd": [0.004]})
    record.write_galaxies(record.galaxies.reset_index().assign(label=-1))
    document = report.write([record], tmp_path / "page")
    assert document["runs"][0]["results"][0]["perturbed_accuracy"]["value"] is None


def test_an_interrupted_run_is_reported_as_far_as_it_goes(tmp_path):
    record = make_record(tmp_path / "run", {"depth": [0.8, 0.1], "seeing": [0.2, 0.4]})
    for shard in (tmp_path / "run" / "units" / "seeing").rglob("*.parquet"):
        shard.unlink()
    document = report.write([record], tmp_path / "page")
    assert {r["perturbation"] for r in document["runs"][0]["results"]} == {"depth"}


def test_what_is_wrong_is_refused_before_anything_is_written(tmp_path):
    record = make_record(tmp_path / "run", {"depth": [0.8, 0.1]})
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        report.write([record], tmp_path / "file")
    with pytest.raises(InputError, match="no run"):
        report.write([], tmp_path / "page")
    with pytest.raises(InputError, match="one arm"):
        report.write([record], tmp_path / "page", baseline="nonesuch")
    assert not (tmp_path / "page").exists()


def test_command(tmp_path, capsys):
    make_record(tmp_path / "run", {"depth": [0.8, 0.1]})
    with pytest.raises(SystemExit) as end:
        main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "page"), "--title", "Depth only"])
    assert end.value.code == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "page" / "index.html")
    assert (tmp_path / "page" / "index.md").read_text().startswith("# Depth only\n")
