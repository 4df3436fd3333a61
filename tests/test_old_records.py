"""A record of every released schema can still be judged, compared, exported, drawn and reported."""

import json
import shutil
from pathlib import Path

import pytest

from robustastro.cli import main
from robustastro.record import SCHEMA, Record

RECORDS = sorted((Path(__file__).parent / "records").glob("schema-*"))
RULES = """
schema = 1
[[rule]]
perturbation = "depth"
severity = 1
min_accuracy = 0.4
[[rule]]
perturbation = "depth"
no_worse_than_baseline = 0.05
[[rule]]
perturbation = "fgsm"
max_success_rate = 0.99
"""


def ended(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert isinstance(end.value.code, int)
    return end.value.code


def test_there_is_a_record_of_every_schema():
    assert [int(path.name.split("-")[1]) for path in RECORDS] == list(range(1, SCHEMA + 1))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.name)
class TestOldRecord:
    def other(self, path: Path, folder: Path) -> Path:
        """The same run as if of another model."""
        shutil.copytree(path, folder / "other")
        run = json.loads((path / "run.json").read_text())
        run["model"] |= {"name": "other", "method": "mmd", "sha256": "0" * 64}
        (folder / "other" / "run.json").write_text(json.dumps(run))
        return folder / "other"

    def test_is_judged(self, path, tmp_path, capsys):
        (tmp_path / "gate.toml").write_text(RULES)
        other = self.other(path, tmp_path)
        wanted = ["gate", str(path), "--rules", str(tmp_path / "gate.toml"), "--baseline", str(other), "--json"]
        assert ended(wanted) == 0
        assert json.loads(capsys.readouterr().out)["checks"][0]["status"] == "pass"

    def test_is_compared(self, path, tmp_path, capsys):
        assert ended(["compare", str(path), str(self.other(path, tmp_path)), "--json"]) == 0
        results = json.loads(capsys.readouterr().out)["results"]
        assert {row["perturbation"] for row in results} == {"depth", "onepixel", "onepixel_exhaustive", "fgsm"}
        assert all(row["verdict"] == "no evidence" for row in results)

    def test_is_exported(self, path, tmp_path, capsys):
        assert ended(["export", str(path), "--out", str(tmp_path / "galaxies.fits"), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["rows"] == len(Record.open(path).galaxies)

    def test_is_reported(self, path, tmp_path):
        assert ended(["report", str(path), "--out", str(tmp_path / "page")]) == 0
        found = json.loads((tmp_path / "page" / "report.json").read_text())
        assert {r["perturbation"] for r in found["runs"][0]["results"]} >= {"depth", "onepixel"}
        assert {"severity", "latent", "critical", "fatal"} <= {f["name"] for f in found["figures"]}
