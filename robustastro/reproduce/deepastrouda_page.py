"""The page of DeepAstroUDA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from robustastro.metrics.tables import estimate_text
from robustastro.progress import Progress
from robustastro.reproduce import pages, two_domain_drawing, two_domain_measures, two_domain_page
from robustastro.reproduce.deepastrouda_predictions import predictions
from robustastro.reproduce.pages import Row, points
from robustastro.reproduce.study import Cell, Folder
from robustastro.reproduce.two_domain_measures import ACTIVE
from robustastro.reproduce.two_domains import Setting

SHOWN = ("none", "uda")


def write(
    setting: Setting, cells: Sequence[Cell], about: Mapping[str, Any], left: Sequence[Row], progress: Progress
) -> dict[str, Any]:
    """Measure the finished cells, draw, and write index.md and results.json; return the latter."""
    progress("measure", 0, 1)
    folder = Folder(setting.out)
    arms = two_domain_measures.arms_of(folder, cells, setting.variants)
    accuracy = two_domain_measures.accuracies(arms, setting.variants)
    open_set = two_domain_measures.open_set(arms, setting.variants)
    numbers = {
        "accuracy": accuracy, "open_set": open_set,
        "robustness": two_domain_measures.robustness(arms, setting.variants),
        "predictions": predictions(accuracy, open_set),
    }  # fmt: skip
    found = pages.document(folder, arms, two_domain_page.about(setting, arms, about), numbers, left)
    made = [
        *two_domain_drawing.accuracies(setting, found),
        *two_domain_drawing.spaces(setting, arms, SHOWN, ("tsne", "entropy", "confusion")),
    ]
    pages.put(folder, found, render(setting, found, made))
    return found


def render(setting: Setting, found: Row, made: Sequence[tuple[str, str]]) -> str:
    """index.md of a document."""
    active = {(row["arch"], row["label"]): row["active_by_seed"] for row in found["accuracy"]}
    return pages.render(
        "reproduce_deepastrouda.md.j2", "DeepAstroUDA", found, made, published=published(found),
        open_cells=lambda row: open_cells(row, active[row["arch"], row["label"]]),
        **two_domain_page.context(setting, found),
    )  # fmt: skip


def open_cells(row: Row, active: Sequence[Mapping[str, float]]) -> list[str]:
    """A row of `two_domain_measures.open_set`, with the shares of samples on which the losses were active."""
    shares = [[each[name] for each in active if name in each] for name in ACTIVE]
    return [
        row["method"], points(row["known_accuracy"]), points(row["unknown_accuracy"]), points(row["h_score"]),
        estimate_text(row["auroc"], digits=3), " ".join(f"{area:.2f}" for area in row["auroc_by_seed"]),
        *(f"{100 * min(s):.2g} to {100 * max(s):.2g}" if s else "-" for s in shares),
    ]  # fmt: skip


def published(found: Row) -> list[tuple[str, str, str]]:
    """Published statements and ours beside them."""
    rows = [row for row in found["accuracy"] if row["method"] == "uda" and row["gain_target"] is not None]
    gains = "; ".join(f"{r['arch']}, {r['bed']}: {points(r['gain_target'])}" for r in rows) or "not run"
    areas = [row for row in found["open_set"] if row["method"] == "uda"]
    apart = "; ".join(f"{r['arch']}, {r['bed']}: AUROC {estimate_text(r['auroc'])}" for r in areas) or "not run"
    return [
        ("gain of `uda` on the known classes of the target [points]", "up to 40", gains),
        ("the unknown class", "separated", apart),
    ]
