"""The page of DeepMerge II."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from robustastro.metrics.tables import estimate_text
from robustastro.progress import Progress
from robustastro.reproduce import pages, two_domain_drawing, two_domain_measures, two_domain_page
from robustastro.reproduce.deepmerge2_predictions import additions, predictions
from robustastro.reproduce.pages import Row, points
from robustastro.reproduce.study import Cell, Folder
from robustastro.reproduce.two_domains import DOMAINS, Setting

# accuracies of source and target [%] and areas under the ROC curve, by test bed and method
PUBLISHED = (
    ("distant-none", "85 / 58", ""),
    ("distant-mmd", "87 / 77", ""),
    ("distant-dann", "87 / 79", ""),
    ("nearby-none", "91 / 50", "0.97 / 0.58"),
    ("nearby-mmd", "94 / 53", "0.98 / 0.60"),
    ("nearby-mmd+transfer", "83 / 69", "0.90 / 0.76"),
)
ARCH = "deepmerge"
SHOWN = ("none", "mmd", "dann", "mmd+transfer")


def write(
    setting: Setting, cells: Sequence[Cell], about: Mapping[str, Any], left: Sequence[Row], progress: Progress
) -> dict[str, Any]:
    """Measure the finished cells, draw, and write index.md and results.json; return the latter."""
    progress("measure", 0, 1)
    folder = Folder(setting.out)
    arms = two_domain_measures.arms_of(folder, cells, setting.variants)
    accuracy = two_domain_measures.accuracies(arms, setting.variants)
    added = additions(arms, setting.variants)
    numbers = {
        "accuracy": accuracy, "open_set": [], "scores": two_domain_measures.scores(arms, setting.variants),
        "additions": added, "robustness": two_domain_measures.robustness(arms, setting.variants),
        "predictions": predictions(accuracy, added),
    }  # fmt: skip
    found = pages.document(folder, arms, two_domain_page.about(setting, arms, about), numbers, left)
    made = [
        *two_domain_drawing.accuracies(setting, found),
        *two_domain_drawing.spaces(setting, arms, SHOWN, ("roc", "tsne")),
        *two_domain_drawing.looks(setting, arms, progress),
    ]
    pages.put(folder, found, render(setting, found, made))
    return found


def render(setting: Setting, found: Row, made: Sequence[tuple[str, str]]) -> str:
    """index.md of a document."""
    return pages.render(
        "reproduce_deepmerge2.md.j2", "DeepMerge II", found, made, published=published(found), score_cells=score_cells,
        **two_domain_page.context(setting, found),
    )  # fmt: skip


def score_cells(row: Row) -> list[str]:
    """A row of `two_domain_measures.scores`."""
    shares = [points(row[name]) for name in ("precision", "recall", "f1")]
    return [
        row["method"],
        row["domain"],
        *shares,
        estimate_text(row["brier"], digits=3),
        estimate_text(row["auc"], digits=3),
    ]


def published(found: Row) -> list[tuple[str, str, str]]:
    """Published numbers and ours beside them; "not run" where there is none."""
    table = []
    accuracy = {row["label"]: row for row in found["accuracy"] if row["arch"] == ARCH}
    areas = {(row["label"], row["domain"]): row["auc"] for row in found["scores"] if row["arch"] == ARCH}
    for label, both, area in PUBLISHED:
        bed, _, name = label.partition("-")
        row = accuracy.get(label)
        said = "not run" if row is None else " / ".join(points(row[domain]) for domain in DOMAINS)
        table.append((f"{bed}, {name}: accuracy of source / target [%]", both, said))
        if area:
            said = "not run" if row is None else " / ".join(estimate_text(areas[label, domain]) for domain in DOMAINS)
            table.append((f"{bed}, {name}: AUC of source / target", area, said))
    return table
