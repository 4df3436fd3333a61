"""What all figures share: widths, type, colours and markers that survive grey print, and how a file is written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import seaborn
from matplotlib.figure import Figure

from perturbations.errors import InputError
from robustastro.record import Record, write_whole

COLUMN, PAGE = 3.4, 7.0  # inches: one column and the full width of a journal page
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
RC: dict[Any, Any] = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "lines.linewidth": 1.2,
    "lines.markersize": 4.5,
    "pdf.fonttype": 42,  # journals refuse the default, Type 3
    "svg.hashsalt": "robustastro",
}
# no time and no version, so that the same record gives the same file
METADATA: dict[str, Any] = {
    "png": {"Software": None},
    "jpg": None,
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None},
}


def style():
    """A context in which figures are drawn and saved; leaves the caller's settings alone."""
    return matplotlib.rc_context(RC)


def blank(width: float, height: float) -> Figure:
    """An empty figure [inches] that lays itself out; call within `style()`."""
    return Figure(figsize=(width, height), layout="constrained")


def colours(count: int) -> list[tuple[float, float, float]]:
    """Colours for `count` models, distinct to colour-blind readers up to ten."""
    return list(seaborn.color_palette("colorblind", count))


def model_names(records: Sequence[Record], names: Sequence[str] | None = None) -> list[str]:
    """What to call each record: `names`, or the model's name, with the run's if two are alike.

    Raises
    ------
    InputError : no record, or not one name each.
    """
    if not records:
        raise InputError("no run to draw", "one or more run directories", "name the directory given as --out")
    if names is not None:
        if len(names) != len(records):
            raise InputError(f"{len(names)} names for {len(records)} runs", "one name per run", "name each run once")
        return list(names)
    own = [str(record.run["model"]["name"]) for record in records]
    if len(set(own)) == len(own):
        return own
    runs = [record.path.name for record in records]
    if len(set(runs)) < len(runs):
        runs = [f"run {k}" for k in range(1, len(runs) + 1)]
    return [f"{name} ({run})" for name, run in zip(own, runs, strict=True)]


def save(figure: Figure, path: str | Path, dpi: int = 200) -> None:
    """Write a figure as .png, .jpg, .pdf or .svg: whole or not at all, the same bytes every time.

    Parameters
    ----------
    dpi : dots per inch of .png and .jpg.

    Raises
    ------
    InputError : another suffix, or a place that cannot be written.
    """
    path = Path(path)
    kind = path.suffix.lstrip(".").lower()
    if kind not in METADATA:
        raise InputError(f"figure '{path.name}'", "a name that ends in .png, .jpg, .pdf or .svg", "choose one of them")
    with style():
        write_whole(path, lambda file: figure.savefig(file, format=kind, dpi=dpi, metadata=METADATA[kind]))
