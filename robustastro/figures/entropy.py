"""How unsure models are: entropies of the predictions for known classes and for one that they do not know."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from perturbations.errors import InputError
from robustastro.figures.domains import by_model, domain_of
from robustastro.figures.style import COLUMN, PAGE, blank, colours, style
from robustastro.metrics.open_set import auroc, true_classes
from robustastro.metrics.open_set import entropy as entropy_of
from robustastro.metrics.paired import stacked
from robustastro.metrics.probabilities import probabilities
from robustastro.record import Record

BINS = 24
LINES = ("-", "--", "-.", ":")


@dataclass(frozen=True, eq=False)
class Panel:
    """Entropies [nats] of one model: of the known classes of each domain, by name, and of a class it does not know.

    Parameters
    ----------
    known : domains, source first, each with (n,) entropies.
    unknown : what the unknown galaxies are, and their (m,) entropies.
    against : the domain of `known` that the AUROC compares with: that of the unknown galaxies.
    """

    title: str
    known: dict[str, np.ndarray]
    unknown: tuple[str, np.ndarray]
    against: str


def figure(records: Sequence[Record], names: Sequence[str] | None = None, *, rho: float | None = None) -> Figure:
    """A panel for each model, of its runs on source and target; one of them has galaxies of an unknown class.

    Parameters
    ----------
    rho : threshold [nats]; default log(K) / 2, as in DeepAstroUDA (arXiv:2302.02005).

    Raises
    ------
    InputError : no galaxy of an unknown class, or other classes in another run.
    """
    return draw(_panels(records, names), len(records[0].classes), rho)


def draw(panels: Sequence[Panel], classes: int, rho: float | None = None) -> Figure:
    """Histograms of `classes` known classes: shares of the galaxies of each kind, and the threshold."""
    most = math.log(classes)
    rho = most / 2 if rho is None else rho
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    with style():
        fig = blank(COLUMN if columns == 1 else PAGE, 0.2 + rows * (2.6 if columns < 3 else 2.4))
        axes = fig.subplots(rows, columns, squeeze=False, sharey=True).ravel()
        for ax, panel in zip(axes, panels, strict=False):
            _panel(ax, panel, np.linspace(0.0, most, BINS + 1), rho)
            ax.set_xlabel("entropy [nats]")
        for ax in axes[:: columns or 1]:
            ax.set_ylabel("share of galaxies in the bin")
        for ax in axes[len(panels) :]:
            ax.remove()
    return fig


def caption(records: Sequence[Record], names: Sequence[str] | None = None, *, rho: float | None = None) -> str:
    """What the figure shows, in words."""
    panels, classes = _panels(records, names), len(records[0].classes)
    half = rho is None
    value = math.log(classes) / 2 if rho is None else rho
    return (
        f"Entropy of the predictions of {', '.join(panel.title for panel in panels)}, {classes} known classes: of "
        "galaxies of these in each domain, and of galaxies of a class that the models do not know "
        f"({panels[0].unknown[0]}). Vertical line: rho = {'log(K) / 2 = ' if half else ''}{value:.2f} nats, above "
        "which a galaxy is called unknown; in parentheses the number of galaxies and the percentage above. AUROC: how "
        "well the entropy tells the unknown galaxies from the known ones of the same domain, 0.5 by chance, with its "
        "95% interval over galaxies; of one training each. The range ends at log(K)."
    )


def _panel(ax: Axes, panel: Panel, edges: np.ndarray, rho: float) -> None:
    palette = colours(len(panel.known) + 1)
    name, strange = panel.unknown
    kinds: list[tuple[str, np.ndarray, dict[str, Any]]] = [
        (f"known, {domain}", values, {"color": palette[k], "linestyle": LINES[k % len(LINES)], "linewidth": 1.3})
        for k, (domain, values) in enumerate(panel.known.items())
    ]
    kinds.append((f"unknown: {name}", strange, {"fill": True, "facecolor": "0.8", "edgecolor": "black", "zorder": 0}))
    for label, values, look in kinds:
        counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
        above = f"{100 * np.mean(values > rho):.0f}%" if len(values) else "-"
        ax.stairs(counts / max(len(values), 1), edges, label=f"{label} ({len(values)}, {above})", gid=label, **look)
    ax.axvline(rho, color="0.3", linestyle=(0, (1, 1)), linewidth=1.0, gid="rho")
    both = np.concatenate([panel.known[panel.against], strange])
    found = auroc(both, np.arange(len(both)) >= len(panel.known[panel.against]))
    ax.set_title(f"{panel.title}\nAUROC {found.value:.2f} [{found.low:.2f}, {found.high:.2f}]", loc="left", fontsize=7)
    ax.set_xlim(edges[0], edges[-1])
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.text(rho, 0.97, r" $\rho$", transform=ax.get_xaxis_transform(), va="top", fontsize=8)
    ax.legend(loc="upper left", bbox_to_anchor=(0.0, -0.27), fontsize=6, borderaxespad=0.0, handlelength=2.2)


def _panels(records: Sequence[Record], names: Sequence[str] | None) -> list[Panel]:
    panels = []
    for title, runs in by_model(records, names):
        if any(run.classes != records[0].classes for run in runs):
            raise InputError("runs with different classes", "runs with the same classes", "draw them one by one")
        known: dict[str, np.ndarray] = {}
        strange: dict[str, tuple[str, np.ndarray]] = {}
        for run in runs:
            classes, unknown = true_classes(run)
            values = entropy_of(probabilities(run, stacked(run.galaxies["logits"])))
            finite = np.isfinite(values)
            known[domain_of(run)] = values[finite & np.isin(classes, run.classes)]
            if (finite & unknown).any():
                called = ", ".join(sorted(set(classes[unknown])))
                strange[domain_of(run)] = (called, values[finite & unknown])
        if len(strange) != 1:
            raise InputError(
                f"{title}: galaxies of an unknown class in {len(strange)} of {len(runs)} runs", "in one, the target",
                "evaluate on data with a class that the model does not know",
            )  # fmt: skip
        ((domain, unknown),) = strange.items()
        panels.append(Panel(title, known, unknown, domain))
    return panels
