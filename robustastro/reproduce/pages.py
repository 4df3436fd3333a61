"""What the pages of all studies have in common."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

from robustastro import __version__
from robustastro.metrics.tables import estimate_text
from robustastro.record import jsonable, write_whole
from robustastro.reproduce.measures import Arm
from robustastro.reproduce.study import ATTACK, TRAINING, Folder, minutes_text

Row = Mapping[str, Any]


def document(
    folder: Folder, arms: Sequence[Arm], about: Mapping[str, Any], numbers: Mapping[str, Any], left: Sequence[Row]
) -> dict[str, Any]:
    """What goes into results.json: `numbers` and what they come from."""
    runs = [record.run for arm in arms for records in arm.records for record in records.values()]
    cells = [cell for arm in arms for cell in arm.cells]
    found: dict[str, Any] = jsonable(
        {
            "schema": 1,
            "version": __version__,
            **about,
            "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
            "begun": min(run["created"] for run in runs),
            "git": sorted({run["git"] for run in runs if run["git"]}),
            "devices": sorted({run["device"] for run in runs}),
            "seconds": sum(
                (folder.done(cell, part) or {}).get("seconds", 0.0) for cell in cells for part in (TRAINING, ATTACK)
            ),
            "trainings": len(cells),
            **numbers,
            "not_run": left,
        }
    )
    return found


def render(template: str, title: str, found: Row, made: Sequence[tuple[str, str]], **more: Any) -> str:
    """index.md of a document, with the figures `made`: (file, caption)."""
    import jinja2

    env = jinja2.Environment(
        loader=jinja2.PackageLoader("robustastro", "templates"), trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    return env.get_template(template).render(
        d=found,
        title=title,
        predicted=[{**p, "text": numbers_text(p)} for p in found["predictions"]],
        figures=made,
        points=points,
        percent=points,
        minutes=minutes_text,
        **more,
    )


def put(folder: Folder, found: Row, text: str) -> None:
    """Write results.json and index.md."""
    write_whole(folder.path / "results.json", lambda file: file.write_text(json.dumps(found, indent=1) + "\n"))
    write_whole(folder.path / "index.md", lambda file: file.write_text(text))


def numbers_text(prediction: Row) -> str:
    """The numbers of a prediction in words."""
    parts = []
    for each in prediction["numbers"]:
        said = points(each["points"]) if "points" in each else estimate_text(each["ratio"])
        kept = f" (Y10 {points(each['y10'])})" if "y10" in each else ""
        parts.append(f"{each['method']} {said}{kept}")
    return "; ".join([*parts, *([prediction["note"]] if prediction["note"] else [])])


def points(estimate: Row) -> str:
    """An estimate of a share in hundredths, with its interval."""
    return estimate_text(estimate, 100.0, 1)
