"""How often a model is right when it says it is sure: reliability curves, clean and perturbed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from perturbations.errors import InputError
from robustastro.figures.style import COLUMN, MARKERS, PAGE, blank, colours, model_names, style
from robustastro.metrics.calibration import BINS, calibration
from robustastro.metrics.science import most_severe
from robustastro.metrics.tables import strength_text
from robustastro.record import Record

PANELS = 6  # more are too small to read
FEWEST = 5  # galaxies of a bin that is drawn: the fraction of one or two is 0, 0.5 or 1
LINE = 0.09  # height of a line of text, where an axis spans about 1
Panel = tuple[str, list[Mapping[str, Any] | None]]  # a title, and what `calibration` says before scaling, per record


def figure(records: Sequence[Record], names: Sequence[str] | None = None) -> Figure:
    """Fraction right against mean confidence in bins of equal width: clean, and the most severe rung of perturbations.

    Raises
    ------
    InputError : no labelled galaxy with finite logits.
    """
    names = model_names(records, names)
    panels, _ = _panels(records)
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    rows = -(-len(panels) // columns)
    left = min(1 / len(record.classes) for record in records)
    with style():
        fig = blank(COLUMN if columns == 1 else PAGE, 0.5 + 2.9 * rows)
        ratios = [4.0, 1.0] * rows
        axes = fig.subplots(2 * rows, columns, squeeze=False, sharex=True, height_ratios=ratios)
        for k, (title, scores) in enumerate(panels):
            top, below = axes[2 * (k // columns), k % columns], axes[2 * (k // columns) + 1, k % columns]
            _curves(top, scores)
            _counts(below, scores)
            top.set_title(title, loc="left")
            top.set_xlim(left - 0.03, 1.03)
            top.set_ylim(-0.03, 1.03 + LINE * (len(records) + 0.5))
            top.set_yticks(np.linspace(0, 1, 6))
            below.tick_params(labelbottom=True)
            below.set_xlabel("confidence")
            if k % columns == 0:
                top.set_ylabel("fraction right")
                below.set_ylabel("galaxies")
        for k in range(len(panels), rows * columns):
            axes[2 * (k // columns), k % columns].remove()
            axes[2 * (k // columns) + 1, k % columns].remove()
        handles = [
            Line2D([], [], color=colour, marker=MARKERS[k % len(MARKERS)], label=name)
            for k, (name, colour) in enumerate(zip(names, colours(len(names)), strict=True))
        ]
        handles.append(Line2D([], [], color="0.4", linestyle="--", linewidth=0.8, label="calibrated"))
        fig.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 3 if columns == 1 else 6))
    return fig


def caption(records: Sequence[Record], names: Sequence[str] | None = None) -> str:
    """What the figure shows, in words."""
    _, left_out = _panels(records)
    chosen = f" {left_out} more perturbations, on which all are calibrated better, are left out." if left_out else ""
    return (
        f"Reliability of {', '.join(model_names(records, names))}: fraction right against mean confidence, the largest "
        f"class probability, in {BINS} bins of equal width, before any scaling by a temperature; bars: 95% Wilson "
        "intervals. Dashed: a calibrated model; below it a model is surer than it is right. First clean, then the most "
        f"severe rung that was run of each perturbation.{chosen} ECE: expected calibration error in bins of equally "
        "many galaxies; by chance: the 95th percentile of what a calibrated model gives. Below: "
        f"galaxies in each bin; bins of fewer than {FEWEST} are only there."
    )


def _panels(records: Sequence[Record]) -> tuple[list[Panel], int]:
    """Clean, then the perturbations on which any model is calibrated worst, in the order of the plans; and the rest."""
    severest = [most_severe(record) for record in records]
    found = [calibration(record, list(units.values())) for record, units in zip(records, severest, strict=True)]
    panels: list[Panel] = [("clean", [of["clean"]["before"] for of in found])]
    if not any(scores and scores["accuracy"]["n"] for scores in panels[0][1]):
        raise InputError("no labelled galaxies with finite logits", "labels", "name the labels with --label-column")
    units = {name: unit for of in severest for name, unit in of.items()}
    others: list[Panel] = []
    for name in units:
        scores = [_of_unit(of, units.get(name)) for of, units in zip(found, severest, strict=True)]
        strengths = dict.fromkeys(strength_text(vars(of[name])) for of in severest if name in of)
        others.append((f"{name}, {' / '.join(strengths)}", scores))
    worst = sorted(range(len(others)), key=lambda k: -max(_error(scores) for scores in others[k][1]))[: PANELS - 1]
    return panels + [others[k] for k in sorted(worst)], len(others) - len(worst)


def _of_unit(found: Mapping[str, Any], unit: Any) -> Mapping[str, Any] | None:
    wanted = (unit.perturbation, unit.strength) if unit else None
    rows = [row["before"] for row in found["units"] if (row["perturbation"], row["strength"]) == wanted]
    return rows[0] if rows else None


def _error(scores: Mapping[str, Any] | None) -> float:
    return (scores["ece"]["value"] or 0.0) if scores else 0.0


def _curves(ax: Axes, scores: Sequence[Mapping[str, Any] | None]) -> None:
    ax.plot([0, 1], [0, 1], color="0.4", linestyle="--", linewidth=0.8, zorder=1)
    for k, (found, colour) in enumerate(zip(scores, colours(len(scores)), strict=True)):
        if not found or not found["reliability"]:
            continue
        bins = [b for b in found["reliability"] if b["accuracy"]["n"] >= FEWEST]
        x = [b["confidence"] for b in bins]
        y, low, high = (np.array([b["accuracy"][part] for b in bins]) for part in ("value", "low", "high"))
        ax.errorbar(x, y, yerr=[y - low, high - y], fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.6, zorder=2)
        ax.plot(x, y, color=colour, marker=MARKERS[k % len(MARKERS)], linewidth=0.8, gid=f"reliability {k}", zorder=3)
        ece = found["ece"]
        words = f"ECE {ece['value']:.3f}, by chance < {ece['high']:.3f}, n = {ece['n']}"
        ax.text(
            0.03,
            1.03 + LINE * (len(scores) - k - 0.5),
            words,
            color=colour,
            fontsize=6.5,
            transform=ax.get_yaxis_transform(),
        )


def _counts(ax: Axes, scores: Sequence[Mapping[str, Any] | None]) -> None:
    for k, (found, colour) in enumerate(zip(scores, colours(len(scores)), strict=True)):
        if found:
            edges, counts = np.linspace(0, 1, BINS + 1), np.zeros(BINS)
            for b in found["reliability"]:
                counts[np.searchsorted(edges[1:-1], b["confidence"])] = b["accuracy"]["n"]
            ax.stairs(counts, edges, color=colour, linewidth=1.0, gid=f"counts {k}")
    ax.set_yscale("log")
    ax.set_ylim(0.7, None)
    ax.yaxis.set_major_formatter("{x:g}")
    ax.set_yticks([], minor=True)
