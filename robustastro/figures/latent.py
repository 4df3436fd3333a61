"""Distances in the latent space: how far galaxies moved, and how close to the wrong class they came to lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from perturbations.errors import InputError
from robustastro.figures.style import PAGE, blank, colours, model_names, style
from robustastro.metrics.distances import latent_scale
from robustastro.metrics.paired import Paired, pair
from robustastro.metrics.tables import strength_text
from robustastro.record import Record, Unit

POINTS = 12  # fewer values than this are drawn one by one: a box would invent a distribution
WHISKERS = (5, 95)  # percentiles


@dataclass(frozen=True, eq=False)
class Group:
    """One perturbation and one model: distances in units of the latent scale."""

    model: int
    unit: Unit
    paired: Paired
    scale: float


def figure(records: Sequence[Record], names: Sequence[str] | None = None) -> Figure:
    """Latent shift of galaxies that kept and that lost their class, and boundary distance before and after.

    Of each perturbation the most severe finished strength; distances in units of the mean distance between class
    centroids.

    Raises
    ------
    InputError : no unit with labels, latents and class centroids.
    """
    names = model_names(records, names)
    groups = _groups(records)
    places, ticks = _places(groups, names)
    palette = colours(len(records))
    boundary = any(np.isfinite(g.paired.boundary).any() for g in groups)
    with style():
        fig = blank(PAGE, 0.95 + 0.36 * len(ticks))
        axes = np.atleast_1d(fig.subplots(1, 2 if boundary else 1, sharey=True))
        for at, g in zip(places, groups, strict=True):
            p, colour = g.paired, palette[g.model]
            _box(axes[0], at - 0.2, p.shift[p.clean_correct & ~p.flipped] / g.scale, colour, filled=False)
            _box(axes[0], at + 0.2, p.shift[p.flipped] / g.scale, colour, filled=True)
            if boundary:
                _box(axes[1], at - 0.2, p.boundary_clean[p.labelled] / g.scale, colour, filled=False)
                _box(axes[1], at + 0.2, p.boundary[p.labelled] / g.scale, colour, filled=True)
        axes[0].set_yticks(list(ticks), list(ticks.values()))
        for at, label in zip(ticks, axes[0].get_yticklabels(), strict=True):
            label.set_fontweight("normal" if at in places else "bold")
        axes[0].set_ylim(places[-1] + 0.6, -0.6)
        axes[0].set_xlabel("latent shift\n[mean distance between class centroids]")
        if boundary:
            axes[1].axvline(0.0, color="0.4", linestyle="--", linewidth=0.8, zorder=0)
            axes[1].set_xlabel("distance to leave the true class\n[mean distance between class centroids]")
        for ax, (first, second) in zip(axes, (("class kept", "flipped"), ("clean", "perturbed")), strict=False):
            ax.tick_params(axis="y", length=0)
            ax.margins(x=0.18)  # room for n
            _legend(ax, first, second)
        axes[0].set_xlim(left=0.0)
    return fig


def caption(records: Sequence[Record], names: Sequence[str] | None = None) -> str:
    """What the figure shows, in words."""
    groups = _groups(records)
    used = "; ".join(
        dict.fromkeys(
            f"{g.unit.perturbation} at {strength_text({'strength': g.unit.strength, 'unit': g.unit.unit})}"
            for g in groups
        )
    )
    several = "Each model's own flipped galaxies are drawn: the sturdier model's are the harder ones. "
    return (
        f"Distances in the latent space of {', '.join(model_names(records, names))}, in units of each model's mean "
        f"distance between clean class centroids ({used}). Left: how far galaxies classified rightly moved, those that "
        "kept their class (open) and those that were flipped (filled). "
        f"{several if len(records) > 1 else ''}Right: signed distance to the nearest boundary of the true class, "
        "clean (open) and perturbed (filled); negative on the wrong side. Boxes: median and "
        f"quartiles, whiskers {WHISKERS[0]} to {WHISKERS[1]} percentile, fewer than {POINTS} values as points; n "
        "beside each."
    )


def _groups(records: Sequence[Record]) -> list[Group]:
    """Perturbation by perturbation, model by model."""
    found = []
    for k, record in enumerate(records):
        last: dict[str, Group] = {}
        for unit in record.units():
            paired = pair(record, unit)
            if paired is None or not np.isfinite(paired.shift[paired.clean_correct]).any():
                continue
            scale, _ = latent_scale(record.head.centroids)
            if np.isfinite(scale):
                last[unit.perturbation] = Group(k, unit, paired, scale)
        found += last.values()
    order = list(dict.fromkeys(g.unit.perturbation for g in found))
    if not found:
        raise InputError(
            "no unit with labels, latents and class centroids", "a run on labelled galaxies", "run it again"
        )
    return sorted(found, key=lambda g: (order.index(g.unit.perturbation), g.model))


def _box(ax: Axes, at: float, values: np.ndarray, colour: Any, filled: bool) -> None:
    """One distribution as a box, or as points where they are few, with n to its right."""
    values = values[np.isfinite(values)]
    face = (*colour, 0.75) if filled else "white"
    if len(values) < POINTS:
        ax.plot(values, np.full(len(values), at), linestyle="none", marker="o", markersize=3, color=colour, mfc=face)
        right = float(values.max()) if len(values) else 0.0
    else:
        drawn = ax.boxplot(
            [values],
            positions=[at],
            orientation="horizontal",
            widths=0.3,
            whis=WHISKERS,
            showfliers=False,
            patch_artist=True,
            manage_ticks=False,
            boxprops={"facecolor": face, "edgecolor": colour, "linewidth": 0.9},
            medianprops={"color": "black", "linewidth": 1.2},
            whiskerprops={"color": colour, "linewidth": 0.9},
            capprops={"color": colour, "linewidth": 0.9},
        )
        right = float(np.max(drawn["caps"][-1].get_xdata()))
    ax.annotate(
        f"n = {len(values)}",
        (right, at),
        xytext=(3, 0),
        textcoords="offset points",
        va="center",
        fontsize=6,
        color="0.3",
    )


def _places(groups: Sequence[Group], names: Sequence[str]) -> tuple[list[float], dict[float, str]]:
    """Where each group stands on the vertical axis, and the labels of that axis.

    With several models a perturbation is a heading above their names.
    """
    places: list[float] = []
    ticks: dict[float, str] = {}
    at = 0.0
    for k, group in enumerate(groups):
        how = strength_text({"strength": group.unit.strength, "unit": group.unit.unit})
        what = f"{group.unit.perturbation}, {how}"
        if len(names) > 1 and (k == 0 or groups[k - 1].unit.perturbation != group.unit.perturbation):
            ticks[at] = what
            at += 0.8
        places.append(at)
        ticks[at] = names[group.model] if len(names) > 1 else what
        at += 1.0
    return places, ticks


def _legend(ax: Axes, first: str, second: str) -> None:
    handles = [
        Patch(facecolor="white", edgecolor="0.3", label=first),
        Patch(facecolor="0.55", edgecolor="0.3", label=second),
    ]
    ax.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, handlelength=1.2)
