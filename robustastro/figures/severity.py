"""Accuracy against strength: one panel per perturbation, one line per model."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from perturbations.errors import InputError
from robustastro.figures.style import COLUMN, MARKERS, PAGE, blank, colours, model_names, style
from robustastro.metrics.summary import summarise
from robustastro.metrics.tables import unit_text
from robustastro.record import Record

CHARACTER = 0.062  # inches: the width of a digit in a tick label, and a mean letter in an axis label
Results = Sequence[Mapping[str, Any]]


def figure(records: Sequence[Record], names: Sequence[str] | None = None) -> Figure:
    """Accuracy against strength, mild to severe, for every perturbation with more than one finished rung.

    Raises
    ------
    InputError : no such perturbation, or no labels.
    """
    names = model_names(records, names)
    results = [summarise(record) for record in records]
    panels = _panels(records, results)
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    chance = _chance(records)
    with style():
        width = COLUMN if columns == 1 else PAGE
        fig = blank(width, 0.45 + 2.1 * rows)
        axes = fig.subplots(rows, columns, squeeze=False, sharey=True)
        for ax in axes.flat[len(panels) :]:
            ax.remove()
        for ax, entry in zip(axes.flat, panels, strict=False):
            _panel(ax, entry, results, chance, width / columns - 0.45)
        for ax in axes[:, 0]:
            ax.set_ylabel("accuracy")
        handles = _legend(names, chance)
        fig.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 2 if columns == 1 else 6))
    return fig


def caption(records: Sequence[Record], names: Sequence[str] | None = None) -> str:
    """What the figure shows, in words."""
    chance = " Dashed: chance, one over the number of classes." if _chance(records) else ""
    return (
        f"Accuracy of {', '.join(model_names(records, names))} against strength, mild to severe from left to right; "
        "each axis names the parameter and its unit. Open markers: the same galaxies unperturbed, at the strength that "
        "changes nothing, or set apart as 'clean' where no strength on the axis does. Bands and bars: 95% Wilson "
        f"intervals for n galaxies.{chance}"
    )


def _panels(records: Sequence[Record], results: Sequence[Results]) -> list[Mapping[str, Any]]:
    """Catalogue entries of the perturbations to draw, in the order of the plans."""
    entries = {p["name"]: p for record in records for p in record.run["perturbations"]}
    measured = [r for of in results for r in of if r["clean_accuracy"]["value"] is not None]
    panels = [
        p for name, p in entries.items() if len({r["strength"] for r in measured if r["perturbation"] == name}) > 1
    ]
    if not panels:
        raise InputError(
            "no perturbation with two or more finished strengths on labelled galaxies",
            "a ladder",
            "run without --severity and --strength, or finish the run",
        )
    return panels


def _panel(ax: Axes, entry: Mapping[str, Any], results: Sequence[Results], chance: int | None, width: float) -> None:
    """One perturbation, on axes about `width` inches wide."""
    falling = entry["ladder"][0] > entry["ladder"][-1]
    own = [
        sorted((r for r in of if r["perturbation"] == entry["name"]), key=lambda r: r["strength"], reverse=falling)
        for of in results
    ]
    strengths = sorted({r["strength"] for of in own for r in of}, reverse=falling)
    logarithmic, clean_at, on_axis = axis_of(strengths, entry["identity"])
    palette, shown = colours(len(results)), [k for k, of in enumerate(own) if of]
    for k in shown:
        x, values = [r["strength"] for r in own[k]], [r["perturbed_accuracy"] for r in own[k]]
        clean = max((r["clean_accuracy"] for r in own[k]), key=lambda e: e["n"])
        if on_axis:
            x, values = [clean_at, *x], [clean, *values]
        else:  # set apart, where models may stand side by side: the place is no strength
            aside = (
                (-1 if falling else 1) * _step(strengths, logarithmic) * 0.22 * (shown.index(k) - (len(shown) - 1) / 2)
            )
            place = clean_at * math.exp(aside) if logarithmic else clean_at + aside
            ends = [[clean["value"] - clean["low"]], [clean["high"] - clean["value"]]]
            ax.errorbar([place], [clean["value"]], yerr=ends, fmt="none", ecolor=palette[k], elinewidth=1.0, zorder=2)
            _clean_marker(ax, place, clean["value"], k, palette[k])
        y, low, high = ([e[part] for e in values] for part in ("value", "low", "high"))
        ax.fill_between(x, low, high, color=palette[k], alpha=0.18, linewidth=0)
        ax.plot(x, y, color=palette[k], marker=MARKERS[k % len(MARKERS)], gid=f"accuracy {k}", zorder=3)
        if on_axis:
            _clean_marker(ax, clean_at, clean["value"], k, palette[k])
    if chance:
        ax.axhline(1 / chance, color="0.4", linestyle="--", linewidth=0.8, zorder=1)
    dress(ax, entry, (strengths, logarithmic, clean_at, on_axis), width)
    ax.set_title(f"{entry['name']}, n = {_counts(own)}", loc="left")


def dress(ax: Axes, entry: Mapping[str, Any], axis: tuple[list[float], bool, float, bool], width: float) -> None:
    """Scale, direction, ticks at the rungs and the name of the parameter with its unit."""
    strengths, logarithmic, clean_at, on_axis = axis
    if logarithmic:
        ax.set_xscale("log")
    ticks = [clean_at, *strengths]
    if on_axis:
        texts = [f"{t:.3g}" for t in ticks]
    else:
        texts = ["clean", *(f"{t:.3g}" for t in strengths)]
    at = np.log(ticks) if logarithmic else np.array(ticks)
    ax.set_xticks(ticks, _uncrowded(texts, width * np.abs(at - at[0]) / np.ptp(at)))
    ax.set_xticks([], minor=True)
    if strengths[-1] < strengths[0]:
        ax.invert_xaxis()
    unit = unit_text(entry["unit"])
    label = f"{entry['parameter']} [{unit}]" if unit else entry["parameter"]
    ax.set_xlabel(textwrap.fill(label, int(width / CHARACTER)))
    ax.set_ylim(0.0, 1.04)


def axis_of(strengths: list[float], identity: float | None) -> tuple[bool, float, bool]:
    """Whether the axis is logarithmic, where the clean accuracy stands, and whether that is a strength.

    Logarithmic where the rungs are spaced more evenly in the logarithm. The clean accuracy stands at the identity;
    where there is none, or the axis cannot show it, one step before the mildest rung.
    """
    logarithmic = min(strengths) > 0 and len(strengths) > 2 and _unevenness(np.log(strengths)) < _unevenness(strengths)
    if identity is not None and not (logarithmic and identity <= 0):
        return logarithmic, float(identity), True
    first, step = strengths[0], _step(strengths, logarithmic)
    towards_clean = -1.0 if strengths[-1] > first else 1.0
    return logarithmic, first * math.exp(towards_clean * step) if logarithmic else first + towards_clean * step, False


def _unevenness(points: Sequence[float] | np.ndarray) -> float:
    gaps = np.abs(np.diff(points))
    return float(gaps.std() / gaps.mean())


def _step(strengths: list[float], logarithmic: bool) -> float:
    """Mean distance between rungs, in the units of the axis."""
    return float(np.abs(np.diff(np.log(strengths) if logarithmic else strengths)).mean())


def _uncrowded(texts: list[str], at: np.ndarray) -> list[str]:
    """Tick labels with those blanked that would run into the last one shown; `at` in inches along the axis."""
    shown, end = [], -math.inf
    for text, place in zip(texts, at, strict=True):
        half = CHARACTER * (len(text) - 0.5 * text.count(".") + 0.5) / 2
        shown.append(text if place - half > end else "")
        end = place + half if shown[-1] else end
    return shown


def _clean_marker(ax: Axes, x: float, y: float, k: int, colour: Any) -> None:
    ax.plot(
        [x], [y], marker=MARKERS[k % len(MARKERS)], color=colour, markerfacecolor="white", gid=f"clean {k}", zorder=4
    )


def _counts(own: Sequence[Results]) -> str:
    counts = sorted({r["clean_accuracy"]["n"] for of in own for r in of})
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _chance(records: Sequence[Record]) -> int | None:
    """The number of classes, if it is the same for all."""
    counts = {len(record.classes) for record in records}
    return counts.pop() if len(counts) == 1 else None


def _legend(names: Sequence[str], chance: int | None) -> list[Any]:
    lines: list[Any] = [
        Line2D([], [], color=colour, marker=MARKERS[k % len(MARKERS)], label=name)
        for k, (name, colour) in enumerate(zip(names, colours(len(names)), strict=True))
    ]
    lines.append(Line2D([], [], color="0.3", marker="o", linestyle="none", markerfacecolor="white", label="clean"))
    lines.append(Patch(color="0.3", alpha=0.25, linewidth=0, label="95% interval"))
    if chance:
        lines.append(Line2D([], [], color="0.4", linestyle="--", linewidth=0.8, label=f"chance, 1/{chance}"))
    return lines
