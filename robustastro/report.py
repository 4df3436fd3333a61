"""Runs as a page: tables, figures, flags, plan and hashes, in Markdown and plain HTML, with every number in JSON."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from perturbations.errors import InputError
from robustastro import __version__
from robustastro.metrics.calibration import calibration
from robustastro.metrics.comparison import compare
from robustastro.metrics.critical import median_text
from robustastro.metrics.critical import summary as critical_strengths
from robustastro.metrics.domain import domain
from robustastro.metrics.ladder import ladders, over_attacks
from robustastro.metrics.science import most_severe, science
from robustastro.metrics.summary import summarise
from robustastro.metrics.tables import comparison_table, escaped, estimate_text, strength_text, table, unit_text
from robustastro.record import Record, jsonable, refuse_place, refuse_run, write_whole

TITLE = "Robustness report"
MADE = (
    "created",
    "device",
    "git",
    "plan",
    "plan_sha256",
    "seed",
    "timing",
    "versions",
    "exposure",
    "contract",
    "perturbations",
)
ELSEWHERE = (
    "arch",
    "contract",
    "data",
    "model",
    "seed",
    "steps",
)  # entries of the plan that a page shows by themselves
Progress = Callable[[str, int, int], None]


def write(
    records: Sequence[Record],
    out: Path,
    *,
    title: str = TITLE,
    baseline: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write OUT/index.md, index.html, report.json and figures/, the pages last; returns what report.json holds.

    Each entry of `runs` holds what `run.json` says of the run, and `results` (`summary.summarise`), `ladders` and
    `over_attacks` (`metrics.ladder`) and `critical_strength`; of the most severe strength of each perturbation,
    `severest`, also `calibration`, `domain` and `science`. `comparison` is the document of `compare --json`, or
    `refused` with the reason; null of one run. `figures` lists files and captions.

    Parameters
    ----------
    records : one or more runs, finished or not.
    baseline : arm that the others are compared with; see `metrics.comparison.compare`.
    progress : called with (what, done, total).

    Raises
    ------
    InputError : no run, nothing in one yet, an unknown baseline, or a place that cannot be written.
    """
    from robustastro.figures import FIGURES

    refuse_place(out, folder=True)
    refuse_run(out)
    empty = [str(record.path) for record in records if not (record.path / "galaxies.parquet").exists()]
    if empty or not records:
        raise InputError(
            f"{', '.join(empty) or 'no run'} without results", "runs with results", "run them first, or leave them out"
        )
    total = len(records) + len(FIGURES)
    document: dict[str, Any] = {
        "schema": 1,
        "title": title,
        "version": __version__,
        "comparison": _comparison(records, baseline),
        "runs": [],
        "figures": [],
    }
    for done, record in enumerate(records):
        _tell(progress, done, total)
        document["runs"].append(_run(record))
    # earlier figures stay beside their page until the new page is ready as well
    with tempfile.TemporaryDirectory(prefix="robustastro-") as folder:
        for done, name in enumerate(FIGURES, start=len(records)):
            _tell(progress, done, total)
            options = {"baseline": baseline} if name == "comparison" else {}
            document["figures"] += _figure(name, records, Path(folder), **options)
        _publish(jsonable(document), Path(folder), out)
    return document


def _publish(document: dict[str, Any], folder: Path, out: Path) -> None:
    page = markdown(document)
    for drawn in sorted((folder / "figures").glob("*")):
        write_whole(out / "figures" / drawn.name, lambda file, drawn=drawn: shutil.copyfile(drawn, file))
    for name, text in (
        ("report.json", json.dumps(document, allow_nan=False) + "\n"),
        ("index.html", _html(document["title"], page)),
        ("index.md", page),
    ):
        write_whole(out / name, lambda file, text=text: file.write_text(text, encoding="utf-8"))


def markdown(document: Mapping[str, Any]) -> str:
    """The page, from what report.json holds."""
    compared = document["comparison"] or {"refused": None}
    return _template("report.md.j2").render(
        document=document,
        comparison=None if "refused" in compared else comparison_table(_over_ladders(compared), markdown=True),
        tables=[table(run["results"], markdown=True) for run in document["runs"]],
        severest=_severest,
        made=_made,
    )


def _run(record: Record) -> dict[str, Any]:
    about = record.run
    units = list(most_severe(record).values())
    return {
        "run": str(record.path),
        "model": about["model"],
        "data": {key: value for key, value in about["data"].items() if key != "source"},
        **{key: about.get(key) for key in MADE},
        "flags": about.get("flags", []),
        "ladders": ladders(record),
        "over_attacks": over_attacks(record),
        "critical_strength": critical_strengths(record),
        "calibration": calibration(record, units),
        "domain": domain(record, units),
        "science": science(record, units),
        "severest": {unit.perturbation: unit.strength for unit in units},
        "results": summarise(record),
    }


def _comparison(records: Sequence[Record], baseline: str | None) -> dict[str, Any] | None:
    """What `compare` says, or why it says nothing; None of one run."""
    if len(records) == 1 and baseline is None:
        return None
    try:
        return compare(records, baseline)
    except InputError as problem:
        if baseline is not None:
            raise
        return {"refused": str(problem)}


def _figure(name: str, records: Sequence[Record], out: Path, **options: Any) -> list[dict[str, str]]:
    """The figure of all runs as PNG and PDF, and its caption; nothing where these runs do not give it."""
    from robustastro import figures
    from robustastro.figures.style import save

    module = figures.get(name)
    try:
        drawn, caption = module.figure(records, **options), module.caption(records, **options)
    except InputError:
        return []
    for kind in ("png", "pdf"):
        save(drawn, out / "figures" / f"{name}.{kind}")
    return [{"name": name, "png": f"figures/{name}.png", "pdf": f"figures/{name}.pdf", "caption": caption}]


# ---------------------------------------------------------------------- the page


def _template(name: str) -> Any:
    import jinja2

    env = jinja2.Environment(
        loader=jinja2.PackageLoader("robustastro", "templates"), trim_blocks=True, lstrip_blocks=True
    )
    env.filters |= {
        "est": estimate_text,
        "percent": lambda estimate: estimate_text(estimate, 100.0, 1),
        "number": lambda value: "-" if value is None else f"{value:.3g}",
        "md": _shown,
        "strength": strength_text,
        "unit": unit_text,
        "median": median_text,
    }
    return env.get_template(name)


def _html(title: str, page: str) -> str:
    from markdown_it import MarkdownIt

    # no HTML in names and messages gets through: they are text of other people's files
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(page)
    return _template("report.html.j2").render(title=title, body=body)


def _over_ladders(compared: Mapping[str, Any]) -> dict[str, Any]:
    """A comparison without its single rungs, of which a suite has hundreds."""
    return {**compared, "results": [row for row in compared["results"] if row["over"] == "ladder"]}


def _severest(run: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Those of the rows that are of the most severe strength of their perturbation."""
    return (row for row in rows if run["severest"].get(row["perturbation"]) == row["strength"])


def _made(run: Mapping[str, Any]) -> dict[str, Any]:
    """What one needs to know to make a run again, and to check that it is the same."""
    model, data = run["model"], run["data"]
    return {
        "weights, SHA-256": model.get("sha256"),
        "data, SHA-256": data.get("sha256"),
        "plan, SHA-256": run["plan_sha256"],
        "plan": _flat({key: value for key, value in (run["plan"] or {}).items() if key not in ELSEWHERE}),
        "evaluation seed": run["seed"],
        "code, git commit": run["git"],
        "device": run["device"],
        "made": run["created"],
        "time": f"{run['timing']['seconds']} s" if run["timing"] else None,
        "versions": ", ".join(f"{name} {version}" for name, version in (run["versions"] or {}).items() if version),
        "exposure": _flat(run["exposure"]),
        "input contract": _flat(run["contract"]),
    }


def _flat(facts: Mapping[str, Any] | None) -> str | None:
    return None if facts is None else json.dumps(facts)


def _shown(text: Any) -> str:
    return "-" if text is None else escaped(text)


def _tell(progress: Progress | None, done: int, total: int) -> None:
    if progress:
        progress("report", done, total)
