"""Critical strength: the fraction of galaxies still right against strength, one panel per perturbation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from perturbations.errors import InputError
from robustastro.figures.severity import axis_of, dress
from robustastro.figures.style import COLUMN, MARKERS, PAGE, blank, colours, model_names, style
from robustastro.metrics.critical import Critical, critical_strength, survival
from robustastro.record import Record

LOWEST, APART = 0.04, 0.055  # where the first median stands above the axis, and the next ones above it: no fractions
Found = Sequence[Critical | None]


def figure(records: Sequence[Record], names: Sequence[str] | None = None) -> Figure:
    """Fraction of the clean-correct galaxies that are not flipped up to a strength, mild to severe, and its median.

    Raises
    ------
    InputError : no perturbation with two rungs, or a bisection, on labelled galaxies that are right when clean.
    """
    names = model_names(records, names)
    panels = _panels(records)
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    with style():
        width = COLUMN if columns == 1 else PAGE
        fig = blank(width, 0.45 + 2.25 * rows)
        axes = fig.subplots(rows, columns, squeeze=False, sharey=True)
        for ax in axes.flat[len(panels) :]:
            ax.remove()
        for ax, (entry, found) in zip(axes.flat, panels, strict=False):
            _panel(ax, entry, found, width / columns - 0.45)
        for ax in axes[:, 0]:
            ax.set_ylabel("fraction still right")
        handles = _legend(names)
        fig.legend(handles=handles, loc="outside upper center", ncols=2 if columns == 1 else -(-len(handles) // 2))
    return fig


def caption(records: Sequence[Record], names: Sequence[str] | None = None) -> str:
    """What the figure shows, in words."""
    panels = _panels(records)
    counts = []
    for k, name in enumerate(model_names(records, names)):
        own = [found[k] for _, found in panels]
        again = sum(int(critical.recrossed.sum()) for critical in own if critical)
        total = sum(len(critical.ids) for critical in own if critical)
        counts.append(f"{name} {again} of {total}")
    widths = {critical.tolerance for _, found in panels for critical in found if critical and critical.tolerance}
    narrowed = " Between rungs: the strengths of a bisection." if widths else ""
    return (
        f"Fraction of the galaxies right when clean that no strength so far has made wrong, for "
        f"{', '.join(model_names(records, names))}; mild to severe from left to right. Markers: the rungs, joined by "
        f"straight lines, between which the curve is not determined.{narrowed} Galaxies wrong when clean are left out "
        "and counted above each panel. Bands: pointwise 95% Wilson intervals, wider where not every galaxy was "
        "followed as closely. Bars above the axis: the median critical strength, where half are wrong, with its 95% "
        "interval; an arrow where no rung bounds it, and no marker where the median itself is not known. "
        f"Right again at a more severe rung, and still counted as wrong: {'; '.join(counts)}."
    )


def _panels(records: Sequence[Record]) -> list[tuple[Mapping[str, Any], Found]]:
    """Catalogue entries of the perturbations to draw, in the order of the plans, and what each record knows."""
    entries = {p["name"]: p for record in records for p in record.run["perturbations"]}
    panels = []
    for name, entry in entries.items():
        found = [
            critical_strength(record, name) if any(p["name"] == name for p in record.run["perturbations"]) else None
            for record in records
        ]
        found = [critical if critical and len(critical.ids) else None for critical in found]
        if any(critical and (len(critical.rungs) > 1 or critical.narrowed.any()) for critical in found):
            panels.append((entry, found))
    if not panels:
        raise InputError(
            "no perturbation with two finished strengths, or a bisection, on labelled galaxies that were right",
            "a ladder",
            "run without --severity and --strength, or finish the run",
        )
    return panels


def _panel(ax: Axes, entry: Mapping[str, Any], found: Found, width: float) -> None:
    """One perturbation, on axes about `width` inches wide."""
    shown = [(k, critical) for k, critical in enumerate(found) if critical]
    falls = shown[0][1].falling
    rungs = sorted({rung for _, critical in shown for rung in critical.rungs}, reverse=falls)
    logarithmic, clean_at, on_axis = axis_of(rungs, entry["identity"])
    curves, palette = [survival(critical) for _, critical in shown], colours(len(found))
    if logarithmic and not on_axis and not falls:  # set apart from what a bisection found before the first rung, too
        clean_at *= min(float(curve.strengths[curve.strengths > 0].min()) for curve in curves) / rungs[0]
    for row, ((k, critical), curve) in enumerate(zip(shown, curves, strict=True)):
        drawn = np.isfinite(curve.right) & ((curve.strengths > 0) | (not logarithmic))
        x, colour, marker = curve.strengths[drawn], palette[k], MARKERS[k % len(MARKERS)]
        ax.fill_between(x, curve.low[drawn], curve.high[drawn], color=colour, alpha=0.18, linewidth=0)
        ax.plot(x, curve.right[drawn], color=colour, gid=f"right {k}", zorder=3)
        at = np.isin(curve.strengths, critical.rungs) & drawn
        ax.plot(
            curve.strengths[at], curve.right[at], color=colour, marker=marker, linestyle="none", zorder=4, clip_on=False
        )
        height, ends = LOWEST + APART * (len(shown) - 1 - row), [curve.median.low, curve.median.high]
        bounded = [end in x for end in ends]  # not NaN, and not a start that a logarithmic axis cannot show
        edges = [end if there else edge for end, there, edge in zip(ends, bounded, sorted(x[[0, -1]]), strict=True)]
        ax.plot(edges, [height, height], color=colour, linewidth=0.9, gid=f"interval {k}")
        for end, there, arrow in zip(edges, bounded, "><" if falls else "<>", strict=True):
            ax.plot([end], [height], color=colour, marker="|" if there else arrow, markersize=4)
        if math.isfinite(curve.median.value):
            ax.plot([curve.median.value], [height], color=colour, marker=marker, gid=f"median {k}", zorder=4)
    ax.axhline(0.5, color="0.4", linestyle=":", linewidth=0.8, zorder=1)
    ax.plot(
        [clean_at], [1.0], color="0.3", marker="o", markerfacecolor="white", linestyle="none", zorder=5, gid="clean"
    )
    dress(ax, entry, (rungs, logarithmic, clean_at, on_axis), width)
    counts, excluded = (
        _spread(values)
        for values in ([len(critical.ids) for _, critical in shown], [critical.excluded for _, critical in shown])
    )
    ax.set_title(f"{entry['name']}, n = {counts}\n{excluded} wrong when clean, left out", loc="left")


def _spread(counts: Sequence[int]) -> str:
    return f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def _legend(names: Sequence[str]) -> list[Any]:
    lines: list[Any] = [
        Line2D([], [], color=colour, marker=MARKERS[k % len(MARKERS)], label=name)
        for k, (name, colour) in enumerate(zip(names, colours(len(names)), strict=True))
    ]
    lines.append(Line2D([], [], color="0.3", marker="o", linestyle="none", markerfacecolor="white", label="clean"))
    lines.append(Patch(color="0.3", alpha=0.25, linewidth=0, label="95% interval"))
    lines.append(Line2D([], [], color="0.3", linewidth=0.9, marker="|", markersize=4, label="median, 95% interval"))
    lines.append(Line2D([], [], color="0.3", marker=">", markersize=4, linestyle="none", label="beyond the rungs"))
    lines.append(Line2D([], [], color="0.4", linestyle=":", linewidth=0.8, label="one half"))
    return lines
