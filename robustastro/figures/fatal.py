"""How many fatal pixels galaxies have: the whole distribution, where a median hides those with none or very many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from perturbations.errors import InputError
from robustastro.figures.style import COLUMN, MARKERS, blank, colours, model_names, style
from robustastro.metrics.intervals import proportion
from robustastro.metrics.pixels import pixels
from robustastro.record import Record

LINES = {"input": "-", "flux": "--"}  # by the space of the values that an attack may write
ASIDE, APART = 0.55, 0.8  # where the first marker of galaxies with any stands, and the step to the next: no counts


@dataclass(frozen=True, eq=False)
class Curve:
    """The fatal pixels of the attacked galaxies of one run, (n,), and how it is drawn."""

    label: str
    space: str
    model: int
    fatal: np.ndarray
    size: int


def figure(records: Sequence[Record], names: Sequence[str] | None = None) -> Figure:
    """Fraction of attacked galaxies with at least k fatal pixels against k, one line per run.

    Runs of one model share a colour and a marker, and differ in the line where they differ in space. Attacked are the
    galaxies that the model of the run classified rightly.

    Raises
    ------
    InputError : a run without counts of fatal pixels.
    """
    curves = _curves(records, names)
    palette = colours(max(curve.model for curve in curves) + 1)
    most = max(int(curve.fatal.max()) for curve in curves)
    right = 1.3 * max(most, 8)
    with style():
        fig = blank(COLUMN, 2.3 + 0.14 * len(curves))
        ax = fig.subplots()
        handles = []
        for k, curve in enumerate(curves):
            colour = palette[curve.model]
            at = np.unique(np.append(curve.fatal[curve.fatal > 0], 1.0))
            share = [float((curve.fatal >= value).mean()) for value in at]
            line = {"color": colour, "linestyle": LINES[curve.space]}
            shape = {"marker": MARKERS[curve.model % len(MARKERS)], "mfc": "white" if curve.space == "flux" else colour}
            # the share with at least k falls right after a count that occurs
            ax.step([*at, right], [*share, 0.0], where="pre", gid=f"fatal {k}", **line)
            flipped = proportion(curve.fatal > 0)
            place = ASIDE * APART ** (len(curves) - 1 - k)  # the first one on the left
            ends = [[flipped.value - flipped.low], [flipped.high - flipped.value]]
            ax.errorbar([place], [flipped.value], yerr=ends, color=colour, elinewidth=0.9, **shape)
            handles.append(Line2D([], [], label=curve.label, **line, **shape))
        ax.set_xscale("log")
        ax.set_xlim(ASIDE * APART ** (len(curves) + 0.5), right)
        ticks = [10.0**k for k in range(int(np.log10(right)) + 1)]
        ax.set_xticks([ASIDE * APART ** ((len(curves) - 1) / 2), *ticks], ["any", *(f"{tick:g}" for tick in ticks)])
        ax.set_xticks([], minor=True)
        ax.set_ylim(0.0, None)
        ax.set_xlabel("k, fatal pixels")
        ax.set_ylabel("fraction of galaxies with at least k")
        fig.legend(handles=handles, loc="outside upper left", handlelength=2.6)
    return fig


def caption(records: Sequence[Record], names: Sequence[str] | None = None) -> str:
    """What the figure shows, in words."""
    curves = _curves(records, names)
    sizes = sorted({curve.size for curve in curves})
    return (
        "Fraction of the galaxies that a model classified rightly with at least k fatal pixels, pixels that flip the "
        f"galaxy alone with some value of the grid; images have {' or '.join(map(str, sizes))} pixels. Markers: "
        "galaxies with any, with 95% Wilson intervals; what is missing to 1 has none. Each run has its own "
        f"clean-correct galaxies: {'; '.join(curve.label for curve in curves)}."
    )


def _curves(records: Sequence[Record], names: Sequence[str] | None) -> list[Curve]:
    """One for each run; raises what `figure` does."""
    model_names(records, names)  # refuses no record, and not one name each
    given = names or [str(record.run["model"]["name"]) for record in records]  # runs of one model share its name
    models = [str(record.run["model"].get("sha256", name)) for record, name in zip(records, given, strict=True)]
    colour = {model: k for k, model in enumerate(dict.fromkeys(models))}
    curves = []
    for record, name, model in zip(records, given, models, strict=True):
        found = space = None
        for unit in record.units():
            options = next(p for p in record.run["perturbations"] if p["name"] == unit.perturbation).get("options", {})
            ids = record.unit(unit.perturbation, unit.strength).index.to_numpy()
            counted = pixels(record, unit, ids) if len(ids) else None
            if counted is not None and np.isfinite(counted.fatal).any():
                found, space = counted, options.get("space", "input")
                break
        if found is None or not np.isfinite(found.fatal[found.any >= 0]).all():
            raise InputError(
                f"{record.path} has no counts of fatal pixels",
                "runs of an attack on every pixel, searched to the end",
                "run robustastro attack --attack onepixel_exhaustive without early_exit",
            )
        fatal = found.fatal[np.isfinite(found.fatal)]
        curves.append(Curve(f"{name}, {space} space, n = {len(fatal)}", str(space), colour[model], fatal, found.size))
    return curves
