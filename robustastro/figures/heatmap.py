"""Accuracy of a whole suite at a glance: a cell per perturbation and rung, a panel per model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from perturbations.errors import InputError
from robustastro.figures.style import PAGE, blank, model_names, style
from robustastro.metrics.summary import summarise
from robustastro.metrics.tables import unit_text
from robustastro.record import Record

COLOURS = "cividis"  # even in lightness and hue to colour-blind readers
RUNGS = 5
Cell = Mapping[str, Any]


def figure(records: Sequence[Record], names: Sequence[str] | None = None) -> Figure:
    """Accuracy in percent, perturbation by rung, strengths in small print.

    Bold where the 95% interval of the change excludes zero.

    Raises
    ------
    InputError : fewer than three perturbations with finished rungs on labelled galaxies.
    """
    names = model_names(records, names)
    rows, cells = _rows(records), [_cells(record) for record in records]
    height = 0.27 * len(rows) + 1.1
    with style():
        fig = blank(min(PAGE, 2.3 + 2.4 * len(records)), height)
        axes = np.atleast_1d(fig.subplots(1, len(records), sharey=True))
        for ax, name, found in zip(axes, names, cells, strict=True):
            _panel(ax, rows, found)
            ax.set_title(_title(name, found), loc="left")
            ax.set_xlabel("severity")
        families = [entry["family"] for entry in rows]
        axes[0].set_yticks(range(len(rows)), [_label(entry) for entry in rows])
        for ax in axes:
            for at in range(1, len(rows)):
                if families[at] != families[at - 1]:
                    ax.axhline(at - 0.5, color="white", linewidth=2.5)
        bar = fig.colorbar(axes[0].images[0], ax=list(axes), location="bottom", shrink=0.6, aspect=40, pad=0.035)
        bar.set_label("accuracy [%]")
        bar.ax.axvline(100.0 / len(records[0].classes), color="#DE8F05", linewidth=1.5)
    return fig


def caption(records: Sequence[Record], names: Sequence[str] | None = None) -> str:
    """What the figure shows, in words."""
    counts = {name: _counts(_cells(r)) for name, r in zip(model_names(records, names), records, strict=True)}
    return (
        "Accuracy in percent of each perturbation (rows, with the unit of its strength) at each severity (columns), "
        "and the strength below it in small print. Bold: the 95% interval of the paired change excludes zero, "
        "uncorrected for the number of cells, of which one in twenty would be bold by chance. Line in the colour bar: "
        "chance, one over the number of classes. Hatched: not run. Galaxies: "
        + "; ".join(f"{name} n = {count}" for name, count in counts.items())
        + "."
    )


def _rows(records: Sequence[Record]) -> list[Mapping[str, Any]]:
    """Perturbations with a result in any record, in the order of the plans."""
    entries = {p["name"]: p for record in records for p in record.run["perturbations"]}
    done = {name for record in records for name, _ in _cells(record)}
    rows = [entry for name, entry in entries.items() if name in done]
    if len(rows) < 3:
        raise InputError(
            f"{len(rows)} perturbation(s) with results on labelled galaxies",
            "three or more",
            "run a suite with robustastro evaluate, or draw severity",
        )
    return sorted(rows, key=lambda entry: list(dict.fromkeys(e["family"] for e in rows)).index(entry["family"]))


def _cells(record: Record) -> dict[tuple[str, int], Cell]:
    """Results at rungs of the ladder, by perturbation and severity."""
    return {
        (r["perturbation"], r["severity"]): r
        for r in summarise(record)
        if r["severity"] is not None and r["perturbed_accuracy"]["value"] is not None
    }


def _panel(ax: Axes, rows: Sequence[Mapping[str, Any]], cells: Mapping[tuple[str, int], Cell]) -> None:
    values = np.full((len(rows), RUNGS), np.nan)
    for at, entry in enumerate(rows):
        for severity in range(1, RUNGS + 1):
            cell = cells.get((entry["name"], severity))
            if cell:
                values[at, severity - 1] = 100.0 * cell["perturbed_accuracy"]["value"]
    ax.set_facecolor("0.92")
    ax.imshow(values, cmap=COLOURS, vmin=0.0, vmax=100.0, aspect="auto", interpolation="nearest")
    for (at, rung), value in np.ndenumerate(values):
        if np.isnan(value):
            planned = rung < len(rows[at]["ladder"])
            if planned:
                ax.add_patch(_hatch(rung, at))
            continue
        cell = cells[rows[at]["name"], rung + 1]
        ink = "black" if value > 55.0 else "white"
        low = cell["accuracy_drop"]["low"]
        sure = low is not None and (low > 0.0 or cell["accuracy_drop"]["high"] < 0.0)
        weight = "bold" if sure else "normal"
        ax.text(rung, at - 0.13, f"{value:.0f}", ha="center", va="center", color=ink, fontsize=6.5, fontweight=weight)
        ax.text(rung, at + 0.29, f"{cell['strength']:.4g}", ha="center", va="center", color=ink, fontsize=4.2)
    ax.set_xticks(range(RUNGS), [str(k + 1) for k in range(RUNGS)])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def _hatch(rung: int, at: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((rung - 0.5, at - 0.5), 1, 1, fill=False, hatch="////", edgecolor="0.75", linewidth=0)


def _title(name: str, cells: Mapping[tuple[str, int], Cell]) -> str:
    clean = max((c["clean_accuracy"] for c in cells.values()), key=lambda e: e["n"], default=None)
    if clean is None:
        return name
    return f"{name}\nclean {100 * clean['value']:.1f}%, n = {_counts(cells)}"


def _counts(cells: Mapping[tuple[str, int], Cell]) -> str:
    counts = sorted({c["clean_accuracy"]["n"] for c in cells.values()})
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}" if counts else "0"


def _label(entry: Mapping[str, Any]) -> str:
    unit = unit_text(entry["unit"])
    return f"{entry['name']} [{unit}]" if unit else entry["name"]
