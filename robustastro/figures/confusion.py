"""Confusion matrices: which class a model takes for which, clean and perturbed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from perturbations.errors import InputError
from robustastro.figures.style import COLUMN, PAGE, blank, model_names, style
from robustastro.metrics.confusion import confusion, shares, with_unknown
from robustastro.metrics.open_set import true_classes
from robustastro.metrics.paired import pair, stacked
from robustastro.metrics.probabilities import probabilities
from robustastro.metrics.science import most_severe
from robustastro.metrics.tables import strength_text
from robustastro.record import Record, Unit

ACROSS = 4  # panels beside each other
CMAP = "Blues"  # one hue from light to dark: reads the same in grey and to colour-blind readers
NUMBERS = 6  # with more classes than this, shares stand without their counts


@dataclass(frozen=True, eq=False)
class Panel:
    """One matrix: a title, true classes (N,) and predicted ones (N,), negative where there is none."""

    title: str
    labels: np.ndarray
    predicted: np.ndarray


def figure(
    records: Sequence[Record],
    names: Sequence[str] | None = None,
    perturbation: str | None = None,
    strength: float | None = None,
) -> Figure:
    """Of each record a matrix of the clean galaxies, then of perturbations at their most severe strength.

    Parameters
    ----------
    perturbation, strength : which unit; by default the perturbations that cost any of the models most accuracy.

    Raises
    ------
    InputError : no labelled galaxy, other classes in another record, or no such unit.
    """
    panels, _ = _panels(records, names, perturbation, strength)
    across = len(panels) // len(records)
    return draw(panels, records[0].classes, across if across > 1 else ACROSS)


def open_figure(records: Sequence[Record], names: Sequence[str] | None = None, *, rho: float | None = None) -> Figure:
    """Of each record a matrix of the clean galaxies; those called unknown are the last column.

    The last row are galaxies of classes that the model does not know, where there are any (`open_set.true_classes`).

    Parameters
    ----------
    rho : entropy above which a galaxy is called unknown [nats]; default log(K) / 2, as in DeepAstroUDA.

    Raises
    ------
    InputError : no labelled galaxy, or other classes in another record.
    """
    panels, strange = _open_panels(records, names, rho)
    return draw(panels, [*records[0].classes, strange], called=[*records[0].classes, "unknown"])


def open_caption(records: Sequence[Record], names: Sequence[str] | None = None, *, rho: float | None = None) -> str:
    """What the figure of known and unknown classes shows, in words."""
    _, strange = _open_panels(records, names, rho)
    value = math.log(len(records[0].classes)) / 2 if rho is None else rho
    half = "log(K) / 2 = " if rho is None else ""
    counts = "" if len(records[0].classes) >= NUMBERS else ", galaxies in parentheses"
    return (
        f"Confusion matrices of {', '.join(model_names(records, names))}, clean. Rows: true class with its number of "
        f"galaxies n, the last ({strange}) not known to the models; columns: predicted class, or unknown where the "
        f"entropy of the prediction is above rho = {half}{value:.2f} nats; shares of the row{counts}."
    )


def _open_panels(records: Sequence[Record], names: Sequence[str] | None, rho: float | None) -> tuple[list[Panel], str]:
    """Matrices with a class more, and what it is called."""
    panels, strange = [], []
    for record, name in zip(records, model_names(records, names), strict=True):
        if record.classes != records[0].classes:
            raise InputError("runs with different classes", "runs with the same classes", "draw them one by one")
        classes, unknown = true_classes(record)
        labels = record.galaxies["label"].fillna(-1).to_numpy(dtype=np.int64)
        found = probabilities(record, stacked(record.galaxies["logits"]))
        panels.append(Panel(name, *with_unknown(labels, unknown, found, rho)))
        strange += classes[unknown].tolist()
    if not any((panel.labels >= 0).any() for panel in panels):
        raise InputError("no labelled galaxies", "labels", "name the labels with --label-column")
    return panels, strange[0] if len(set(strange)) == 1 else "unknown"


def draw(
    panels: Sequence[Panel], classes: Sequence[str], across: int = ACROSS, called: Sequence[str] | None = None
) -> Figure:
    """Matrices of labels and predictions, at most `across` beside each other.

    Parameters
    ----------
    called : what the columns are called, where that is not what the rows are.
    """
    matrices = [confusion(panel.labels, panel.predicted, len(classes)) for panel in panels]
    none = any(counts[:, -1].any() for counts in matrices)
    shown = [*(called or classes), *(["none"] if none else [])]
    columns = min(across, len(panels))
    rows = -(-len(panels) // columns)
    many = len(classes) > NUMBERS  # rows too low for two lines, and a column too narrow for so many
    gap = ", " if many else "\n"
    side = (4.6 if columns == 1 else 4.4 / columns) if many else (2.4 if columns == 1 else 4.6 / columns)
    with style():
        fig = blank(COLUMN if columns == 1 and not many else PAGE, 0.6 + 0.8 * many + rows * (0.6 + side))
        axes = fig.subplots(rows, columns, squeeze=False)
        for k, (panel, counts) in enumerate(zip(panels, matrices, strict=True)):
            ax = axes[k // columns, k % columns]
            _matrix(ax, counts[:, : len(shown)], 6.0 if columns == 1 or len(classes) < 5 else 4.5)
            ax.set_title(panel.title, fontsize=7)
            n = counts.sum(axis=1)
            first = k % columns == 0
            ax.set_yticks(
                range(len(classes)),
                [f"{c}{gap}n = {m}" if first else f"n = {m}" for c, m in zip(classes, n, strict=True)],
            )
            ax.set_xticks(range(len(shown)), shown, rotation=90)
            if k + columns < len(panels):
                ax.tick_params(labelbottom=False)
            else:
                ax.set_xlabel("predicted class")
            if first:
                ax.set_ylabel("true class")
        for ax in axes.ravel()[len(panels) :]:
            ax.remove()
        used = axes.ravel()[: len(panels)].tolist()
        bar = fig.colorbar(used[0].images[0], ax=used, shrink=0.8, aspect=30, pad=0.03)
        bar.set_label("share of the true class")
    return fig


def caption(
    records: Sequence[Record],
    names: Sequence[str] | None = None,
    perturbation: str | None = None,
    strength: float | None = None,
) -> str:
    """What the figure shows, in words."""
    panels, left_out = _panels(records, names, perturbation, strength)
    several = len(panels) > len(records)
    chosen = f" {left_out} more perturbations, which cost every model less accuracy, are left out." if left_out else ""
    none = " None: a logit is not finite." if any((p.predicted[p.labels >= 0] < 0).any() for p in panels) else ""
    what = "clean, and perturbed at the strength named" if several else "clean"
    return (
        f"Confusion matrices of {', '.join(model_names(records, names))}, {what}. Rows: true class with its number of "
        f"galaxies n; columns: predicted class; shares of the row, galaxies in parentheses.{none}{chosen}"
    )


def _panels(
    records: Sequence[Record], names: Sequence[str] | None, perturbation: str | None, strength: float | None
) -> tuple[list[Panel], int]:
    """Record by record, clean first; and how many perturbations are left out."""
    names = model_names(records, names)
    if any(record.classes != records[0].classes for record in records):
        raise InputError("runs with different classes", "runs with the same classes", "draw them one by one")
    units = [_units(record, perturbation, strength) for record in records]
    if perturbation is not None and not all(units):
        raise InputError(
            f"no finished unit of {perturbation}{'' if strength is None else f' at {strength:g}'} in every run",
            "a perturbation that each run has",
            "choose another one, or finish the run",
        )
    common = [name for name in units[0] if all(name in of for of in units)]
    fall = {n: max(_fall(record, of[n]) for record, of in zip(records, units, strict=True)) for n in common}
    kept = sorted(common, key=lambda n: -fall[n])[: ACROSS - 1]
    panels = []
    for record, name, of in zip(records, names, units, strict=True):
        head = f"{name}\n" if len(records) > 1 else ""
        labels = record.galaxies["label"].fillna(-1).to_numpy(dtype=np.int64)
        logits = stacked(record.galaxies["logits"])
        predicted = np.where(np.isfinite(logits).all(axis=1), logits.argmax(axis=1), -1)
        panels.append(Panel(f"{head}clean" if kept else head.strip() or "clean", labels, predicted))
        for unit in (of[n] for n in common if n in kept):
            paired = pair(record, unit, distances=False)
            assert paired is not None  # `most_severe` and `_units` take units with rows
            words = f"{head}{unit.perturbation}\n{strength_text(vars(unit))}"
            panels.append(Panel(words, paired.labels, paired.perturbed_class))
    if not any((panel.labels >= 0).any() for panel in panels):
        raise InputError("no labelled galaxies", "labels", "name the labels with --label-column")
    return panels, len(common) - len(kept)


def _units(record: Record, perturbation: str | None, strength: float | None) -> dict[str, Unit]:
    if strength is None:
        return {n: unit for n, unit in most_severe(record).items() if perturbation in (None, n)}
    found = [u for u in record.units() if (u.perturbation, u.strength) == (perturbation, strength)]
    return {u.perturbation: u for u in found if record.rows(u.perturbation, u.strength)}


def _fall(record: Record, unit: Unit) -> float:
    """Clean minus perturbed accuracy, over the labelled galaxies of the unit."""
    paired = pair(record, unit, distances=False)
    if paired is None or not paired.labelled.any():
        return 0.0
    return float((paired.clean_correct.sum() - paired.perturbed_correct.sum()) / paired.labelled.sum())


def _matrix(ax: Axes, counts: np.ndarray, size: float) -> None:
    """Cells with their share and count. `counts` may lack the column of no class where that is empty everywhere."""
    share = shares(counts)
    colours = matplotlib.colormaps[CMAP].with_extremes(bad="0.85")
    ax.imshow(share, cmap=colours, vmin=0.0, vmax=1.0, interpolation="nearest")
    for (row, column), value in np.ndenumerate(share):
        if np.isfinite(value):
            words = f"{value:.2f}" + (f"\n({counts[row, column]})" if len(counts) <= NUMBERS else "")
            colour = "white" if value > 0.55 else "black"
            ax.text(column, row, words, ha="center", va="center", color=colour, fontsize=size)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(True)
