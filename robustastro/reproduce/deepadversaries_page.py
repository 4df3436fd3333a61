"""The page of a reproduction: numbers from the records, beside the published ones, and why they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from robustastro.metrics.tables import estimate_text
from robustastro.progress import Progress
from robustastro.reproduce import drawing, measures, pages
from robustastro.reproduce.pages import Row, points
from robustastro.reproduce.predictions import adapts, predictions
from robustastro.reproduce.study import Cell, Folder

# only what the paper and the outputs kept in its code's history say
PUBLISHED = (
    ("accuracy of none on Y10 [%]", "resnet18", "72.2", "y10"),
    ("accuracy of none on Y1 [%]", "resnet18", "42.9", "y1"),
    ("accuracy on Y1 of a network trained there [%]", "resnet18", "about 79", "upper"),
    ("gain on Y1 by adaptation [points]", "resnet18", "up to 23", "gain"),
    ("one-pixel flip distance, with / without adaptation", "resnet18", "2.26 (18.57 -> 41.88, 30 images)", "flip"),
    ("displacement by the noise of Y1, with / without", "resnet18", "1.25 (23.38 -> 29.29)", "shift_y1"),
    ("one-pixel flip distance, with / without adaptation", "convnet", "1.25 (3.00 -> 3.76)", "flip"),
    ("displacement by the noise of Y1, with / without", "convnet", "1.23 (7.50 -> 9.19)", "shift_y1"),
)


def write(
    folder: Folder, cells: Sequence[Cell], about: Mapping[str, Any], left: Sequence[Row], progress: Progress
) -> dict[str, Any]:
    """Measure the finished cells, draw, and write index.md and results.json; return the latter."""
    progress("measure", 0, 1)
    arms = measures.arms_of(folder, cells)
    measures.refuse_unlike(arms)
    accuracy, distance = measures.accuracies(arms), measures.distances(arms)
    numbers = {"accuracy": accuracy, "distances": distance, "predictions": predictions(arms, accuracy, distance)}
    found = pages.document(folder, arms, about, numbers, left)
    pages.put(folder, found, render(found, drawing.draw(arms, found["accuracy"], folder.path)))
    return found


def render(found: Row, made: Sequence[tuple[str, str]]) -> str:
    """index.md of a document."""
    return pages.render(
        "reproduce_deepadversaries.md.j2", "DeepAdversaries", found, made,
        archs=list(dict.fromkeys(row["arch"] for row in found["accuracy"])),
        accuracy_cells=_accuracy_cells, pixel_cells=_pixel_cells, ratio_cells=_ratio_cells,
        published=[(what, arch, said, ours(found, arch, key)) for what, arch, said, key in PUBLISHED],
        without={row["arch"]: row for row in found["accuracy"] if row["method"] == "none"}, search=_search,
    )  # fmt: skip


def ours(document: Mapping[str, Any], arch: str, key: str) -> str:
    """Our number beside a published one, in words; "not run" where there is none."""
    rows = [row for row in document["accuracy"] if row["arch"] == arch]
    if key in ("y10", "y1", "upper"):
        wanted = "supervised_target" if key == "upper" else "none"
        found = [row for row in rows if row["method"] == wanted]
        called = f"supervised_target ({points(found[0]['y1'])})" if found and key == "upper" else ""
        return called or (points(found[0][key]) if found else "not run")
    if key == "gain":
        adapted = [row for row in rows if adapts(row) and row["gain_y1"] is not None]
        each = ", ".join(f"{row['method']} {points(row['gain_y1'])}" for row in adapted)
        return each or "not run"
    ratios = [
        f"{row['method']} {estimate_text(row['ratio'][key])} (n = {row['ratio'][key]['n']}, {_trainings(row)})"
        for row in document["distances"]
        if row["arch"] == arch and row["attack"] == "paper" and row["ratio"] is not None
        and row["method"] in ("mmd", "mmd+published", "dann")
    ]  # fmt: skip
    return ", ".join(ratios) or "not run"


def _trainings(row: Row) -> str:
    return f"{row['trainings']} training{'s' * (row['trainings'] > 1)}"


def _accuracy_cells(row: Row) -> list[str]:
    kind = "upper bound" if row["target_labels"] else "control" if row["control"] else "adaptation"
    tuned = "" if row["control"] or row["tuned"] == "without target labels" else f", tuned {row['tuned']}"
    seeds = sorted({f"{100 * value:.1f}" for value in row["y1_by_seed"]}, key=float)
    gain = row["gain_y1"]
    return [
        row["method"], kind + tuned, str(len(row["seeds"])), str(len(row["collapsed"])), points(row["y10"]),
        points(row["y1"]), " to ".join(dict.fromkeys((seeds[0], seeds[-1]))), points(row["loss"]),
        "" if row["gain_y10"] is None else points(row["gain_y10"]), "" if gain is None else points(gain),
        "" if gain is None or gain["p_corrected"] is None else f"{gain['p_corrected']:.2g}",
        " ".join(f"{value:.2f}" for value in row["apart_by_seed"] if value is not None) or "-",
    ]  # fmt: skip


def _pixel_cells(row: Row) -> list[str]:
    each = [f"{m:.3g}" for m in row["flip_distance_by_seed"] if m is not None]
    return [
        row["method"], row["attack"], " ".join(str(seed) for seed in row["seeds"]), points(row["success_rate"]),
        f"{sum(row['flipped'])} of {sum(row['eligible'])}", f"{' '.join(each)}" or "-",
        estimate_text(row["boundary_scaled"]), estimate_text(row["boundary_scaled_after"]),
        estimate_text(row["shift_y1_scaled"]),
    ]  # fmt: skip


def _ratio_cells(row: Row) -> list[str]:
    ratios, pairs = row["ratio"], [p for p in row["pairs"] if p["flip"] is not None]
    seeds = [" ".join(f"{p[key]:.2f}" for p in pairs) or "-" for key in ("flip", "flip_scaled")]
    return [
        row["method"], row["attack"], str(ratios["flip"]["n"]), " ".join(str(p["n"]) for p in row["pairs"]),
        estimate_text(ratios["flip"]), seeds[0], estimate_text(ratios["flip_scaled"]), seeds[1],
        estimate_text(ratios["boundary_scaled"]), estimate_text(ratios["shift_y1"]),
        estimate_text(ratios["shift_y1_scaled"]),
    ]  # fmt: skip


def _search(options: Row) -> str:
    return f"{options['pop']} candidates, {options['generations']} generations, stop rule {options['stop']}"
