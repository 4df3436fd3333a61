"""Completeness and purity of each class against magnitude, size or signal-to-noise, clean and perturbed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from perturbations.errors import InputError, unknown_name
from robustastro.figures.style import MARKERS, PAGE, blank, colours, model_names, style
from robustastro.metrics import science
from robustastro.metrics.tables import strength_text
from robustastro.record import Record

CLASSES = 4  # panels of more classes are too small to read
ROWS = ("completeness", "purity")


def figure(
    records: Sequence[Record],
    names: Sequence[str] | None = None,
    perturbation: str | None = None,
    quantity: str | None = None,
) -> Figure:
    """Completeness and purity, a column per class, in bins of equally many galaxies.

    Parameters
    ----------
    perturbation : which one, at its most severe rung; default: the one that changes completeness most.
    quantity : one of `metrics.science.QUANTITIES`; default: the first that the catalogue has.

    Raises
    ------
    InputError : no such perturbation or quantity, no catalogue columns of the kind, or no labels.
    """
    names = model_names(records, names)
    chosen = _chosen(records, perturbation, quantity)
    classes, _ = _classes(chosen)
    palette = colours(len(records))
    with style():
        fig = blank(min(PAGE, 0.8 + 2.1 * len(classes)), 4.3)
        axes = fig.subplots(2, len(classes), squeeze=False, sharex=True, sharey=True)
        for k, of in enumerate(chosen):
            for column, name in enumerate(classes):
                for ax, row in zip(axes[:, column], ROWS, strict=True):
                    _lines(ax, of["bins"], row, name, k, palette)
        for ax, name in zip(axes[0], classes, strict=True):
            ax.set_title(name, loc="left")
            ax.set_ylim(-0.03, 1.04)
        for ax, row in zip(axes[:, 0], ROWS, strict=True):
            ax.set_ylabel(row)
        fig.supxlabel(f"{_axis_label(chosen[0])}; bins of {_counts(chosen)} galaxies of all classes", fontsize=8)
        handles = [
            Line2D([], [], color=colour, marker=MARKERS[k % len(MARKERS)], label=name)
            for k, (name, colour) in enumerate(zip(names, palette, strict=True))
        ]
        handles += [
            Line2D([], [], color="0.3", marker="o", markerfacecolor="white", linestyle="--", label="clean"),
            Line2D([], [], color="0.3", marker="o", label=_condition(chosen)),
            Line2D([], [], color="0.3", linewidth=0.8, alpha=0.6, label="95% interval"),
        ]
        fig.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 5))
    return fig


def caption(
    records: Sequence[Record],
    names: Sequence[str] | None = None,
    perturbation: str | None = None,
    quantity: str | None = None,
) -> str:
    """What the figure shows, in words; arguments as of `figure`."""
    chosen = _chosen(records, perturbation, quantity)
    _, left_out = _classes(chosen)
    others = f" {left_out} classes, whose completeness changes less, are left out." if left_out else ""
    return (
        "Completeness (of the galaxies of a class, the fraction predicted in it) and purity (of the galaxies predicted "
        f"in a class, the fraction that belongs) of {', '.join(model_names(records, names))} against "
        f"{chosen[0]['quantity']} (catalogue column {chosen[0]['column']}), clean (open) and with {_condition(chosen)} "
        f"(filled), in bins of {_counts(chosen)} galaxies at their median, set aside a little where they would "
        "overlap; bars: 95% Wilson intervals. No purity where nothing is predicted in a class; it holds for the mix of "
        "classes of these "
        f"galaxies.{others}"
    )


def _chosen(records: Sequence[Record], perturbation: str | None, quantity: str | None) -> list[Mapping[str, Any]]:
    """For each record, the entry of `science`'s bins to draw."""
    model_names(records)  # refuses no record
    found = [science.science(record) for record in records]
    names = list(dict.fromkeys(b["perturbation"] for of in found for b in of["bins"]))
    quantities = [q for q in science.QUANTITIES if all(q in of["columns"] for of in found)]
    if len({tuple(of["classes"]) for of in found}) > 1:
        raise InputError("runs with other classes", "runs of the same classes", "draw them one by one")
    if not names or not quantities or not all(b["bins"] for of in found for b in of["bins"]):
        raise InputError(
            "no magnitude, size, signal-to-noise or redshift of labelled galaxies in every run",
            "catalogue columns such as magnitude_r, half_light_radius, snr or redshift",
            "give the data a catalogue with such columns, and labels",
        )
    if quantity is not None and quantity not in quantities:
        raise unknown_name("quantity of the catalogue", quantity, quantities)
    if perturbation is not None and perturbation not in names:
        raise unknown_name("perturbation of the runs", perturbation, names)
    common = [p for p in names if all(any(b["perturbation"] == p for b in of["bins"]) for of in found)]
    wanted = perturbation or max(common or names, key=lambda p: max(_change(of, p) for of in found))
    chosen = []
    for record, of in zip(records, found, strict=True):
        fitting = [b for b in of["bins"] if (b["perturbation"], b["quantity"]) == (wanted, quantity or quantities[0])]
        if not fitting:
            raise InputError(
                f"{record.path} has no results of {wanted}",
                "runs of the same plan",
                "run or resume it, or leave it out",
            )
        chosen.append(fitting[0])
    return chosen


def _change(found: Mapping[str, Any], perturbation: str) -> float:
    """The largest change of a class's completeness in any bin of any quantity."""
    changes = [
        abs(scores["drop"]["value"] or 0.0)
        for of in found["bins"]
        if of["perturbation"] == perturbation
        for b in of["bins"]
        for scores in b["completeness"].values()
    ]
    return max(changes, default=0.0)


def _classes(chosen: Sequence[Mapping[str, Any]]) -> tuple[list[str], int]:
    """The classes to draw, in their order, and how many are left out."""
    classes = list(chosen[0]["bins"][0]["completeness"])

    def change(name: str) -> float:
        return max(abs(b["completeness"][name]["drop"]["value"] or 0.0) for of in chosen for b in of["bins"])

    kept = sorted(classes, key=change, reverse=True)[:CLASSES]
    return [name for name in classes if name in kept], len(classes) - len(kept)


def _counts(chosen: Sequence[Mapping[str, Any]]) -> str:
    counts = sorted({b["n"] for of in chosen for b in of["bins"]})
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _axis_label(of: Mapping[str, Any]) -> str:
    name = of["column"] if of["column"] == of["quantity"] else f"{of['quantity']} ({of['column']})"
    return f"{name} [mag]" if of["quantity"] == "magnitude" else name


def _condition(chosen: Sequence[Mapping[str, Any]]) -> str:
    strengths = dict.fromkeys(strength_text(of) for of in chosen)
    return f"{chosen[0]['perturbation']} {' / '.join(strengths)}"


def _lines(ax: Axes, bins: Sequence[Mapping[str, Any]], row: str, name: str, k: int, palette: Sequence[Any]) -> None:
    """Clean and perturbed of one model and class; a bin without any galaxy to count leaves a gap."""
    x = np.array([b["median"] for b in bins])
    step, colour, first = 0.012 * (bins[-1]["high"] - bins[0]["low"]), palette[k], 0.5 - len(palette)
    for state, line, face, side in (("clean", "--", "white", 0), ("perturbed", "-", colour, 1)):
        estimates = [b[row][name][state] for b in bins]
        y, low, high = (
            np.array([np.nan if e[part] is None else e[part] for e in estimates]) for part in ("value", "low", "high")
        )
        at = x + step * (first + 2 * k + side)
        ax.errorbar(at, y, yerr=[y - low, high - y], fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.6, zorder=2)
        ax.plot(
            at, y, color=colour, linestyle=line, marker=MARKERS[k % len(MARKERS)], markerfacecolor=face,
            markersize=3.5, gid=f"{row} {state} {k}", zorder=3,
        )  # fmt: skip
