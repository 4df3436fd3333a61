"""ROC curves: how many of a class are found at each rate of false alarms, in source and target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from perturbations.errors import InputError, unknown_name
from robustastro.figures.domains import by_domain
from robustastro.figures.style import COLUMN, PAGE, blank, colours, style
from robustastro.metrics.classification import classification, clean_logits, log_odds, roc_curve
from robustastro.record import Record

GRID = np.linspace(0.0, 1.0, 501)  # false positive rates at which curves are averaged
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))  # tell methods apart in grey print


@dataclass(frozen=True, eq=False)
class Arm:
    """The trainings of one method in one domain: logits (k, n, K) and true classes (n,), negative where unknown."""

    name: str
    logits: np.ndarray
    labels: np.ndarray


def figure(records: Sequence[Record], names: Sequence[str] | None = None, *, positive: str | None = None) -> Figure:
    """A panel for each domain: a curve for each method, thin ones for its trainings, the area with its interval.

    Parameters
    ----------
    names : one for each run; runs of one name in one domain are trainings of one method.
    positive : of two classes the one that is looked for; default the second.

    Raises
    ------
    InputError : an unknown class, no labelled galaxy, other classes in another run, and what `classification` refuses.
    """
    panels = _panels(records, names)
    return draw(panels, records[0].classes, _place(records[0].classes, positive))


def draw(panels: Sequence[tuple[str, Sequence[Arm]]], classes: Sequence[str], positive: int = 1) -> Figure:
    """Panels of a title and arms; of two classes the curves of the positive one, of more the mean of all classes."""
    with style():
        columns = min(len(panels), 3)
        rows = -(-len(panels) // columns)
        lines = max(len(arms) for _, arms in panels)
        side = COLUMN if columns == 1 else PAGE / columns
        fig = blank(COLUMN if columns == 1 else PAGE, rows * (side + 0.4 + 0.15 * lines))
        axes = fig.subplots(rows, columns, squeeze=False).ravel()
        for ax, (title, arms) in zip(axes, panels, strict=False):
            _panel(ax, arms, classes, positive)
            n = int((arms[0].labels >= 0).sum())
            of = f", {int((arms[0].labels == positive).sum())} {classes[positive]}" if len(classes) == 2 else ""
            ax.set_title(f"{title}\nn = {n}{of}", loc="left", fontsize=7)
            ax.set_ylabel("true positive rate" if ax is axes[0] or columns == 1 else "")
        for ax in axes[len(panels) :]:
            ax.remove()
    return fig


def caption(records: Sequence[Record], names: Sequence[str] | None = None, *, positive: str | None = None) -> str:
    """What the figure shows, in words."""
    panels, classes = _panels(records, names), records[0].classes
    methods = dict.fromkeys(f"{arm.name} ({len(arm.logits)})" for _, arms in panels for arm in arms)
    what = (
        f"{classes[_place(classes, positive)]} against {classes[1 - _place(classes, positive)]}"
        if len(classes) == 2
        else f"each of {len(classes)} classes against all others, the mean over classes"
    )
    counts = "; ".join(f"{title}: {int((arms[0].labels >= 0).sum())}" for title, arms in panels)
    return (
        f"ROC curves of {', '.join(methods)} (trainings in parentheses), {what}. Labelled galaxies: {counts}. Thin: "
        "single trainings; thick: the mean of their true positive rates at each false positive rate. Dotted grey: by "
        "chance. AUC: mean area over trainings, with 95% intervals over galaxies and trainings (of one training: over "
        "galaxies alone)."
    )


def curve(logits: np.ndarray, labels: np.ndarray, positive: int) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates of one training, logits (n, K): of the positive class, or the mean of classes."""
    odds = log_odds(logits)
    if logits.shape[1] == 2:
        return roc_curve(odds[:, positive], labels == positive)
    there = [k for k in range(logits.shape[1]) if 0 < (labels == k).sum() < len(labels)]
    each = [np.interp(GRID, *roc_curve(odds[:, k], labels == k)) for k in there]
    return np.append(0.0, GRID), np.append(0.0, np.mean(each, axis=0))


def _panel(ax: Axes, arms: Sequence[Arm], classes: Sequence[str], positive: int) -> None:
    ax.plot([0, 1], [0, 1], color="0.6", linestyle=":", linewidth=0.8)
    for k, (arm, colour) in enumerate(zip(arms, colours(len(arms)), strict=True)):
        known = arm.labels >= 0
        curves = [curve(logits[known], arm.labels[known], positive) for logits in arm.logits]
        if len(curves) > 1:
            for x, y in curves:
                ax.plot(x, y, color=colour, linewidth=0.5, alpha=0.4, gid=f"training of {arm.name}")
            x, y = np.append(0.0, GRID), np.append(0.0, np.mean([np.interp(GRID, *of) for of in curves], axis=0))
        else:
            x, y = curves[0]
        area = classification(arm.logits, arm.labels, classes, positive)["auc"]
        value, low, high = (np.nan if area[part] is None else area[part] for part in ("value", "low", "high"))
        label = f"{arm.name}: AUC {value:.2f} [{low:.2f}, {high:.2f}]"
        ax.plot(x, y, color=colour, linestyle=DASHES[k % len(DASHES)], label=label, gid=f"mean of {arm.name}")
    ax.set_xlim(-0.01, 1.0)
    ax.set_ylim(0.0, 1.01)
    ax.set_aspect("equal")
    ax.set_xlabel("false positive rate")
    ax.legend(loc="upper left", bbox_to_anchor=(-0.05, -0.15), handlelength=2.6, fontsize=6.5, borderaxespad=0.0)


def _panels(records: Sequence[Record], names: Sequence[str] | None) -> list[tuple[str, list[Arm]]]:
    panels = []
    for domain, methods in by_domain(records, names):
        arms = [Arm(name, *clean_logits(runs)) for name, runs in methods]
        if any(runs[0].classes != records[0].classes for _, runs in methods):
            raise InputError("runs with different classes", "runs with the same classes", "draw them one by one")
        counts = sorted({int((arm.labels >= 0).sum()) for arm in arms})
        if len(counts) > 1 or not counts[0]:
            raise InputError(
                f"{' and '.join(map(str, counts))} labelled galaxies on {domain}", "the same, one or more, for all",
                "evaluate all models on the same labelled data",
            )  # fmt: skip
        panels.append((domain, arms))
    return panels


def _place(classes: Sequence[str], positive: str | None) -> int:
    if positive is not None and positive not in classes:
        raise unknown_name("class", positive, classes)
    return 1 if positive is None else list(classes).index(positive)
