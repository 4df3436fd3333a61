"""t-SNE maps of the latent space: galaxies of source and target laid out together, by class and domain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from perturbations.errors import InputError
from robustastro.figures.church import by_key
from robustastro.figures.domains import by_model, domain_of
from robustastro.figures.style import COLUMN, MARKERS, PAGE, blank, colours, style
from robustastro.metrics.open_set import true_classes
from robustastro.metrics.paired import stacked
from robustastro.record import Record

POINTS = 900  # of a panel, as many of each domain
FEWEST = 12
PERPLEXITY, SEED = 30.0, 0
STRANGE, NAMELESS = ("#000000", "#7F7F7F", "#B0B0B0"), "0.8"  # of classes that the model does not know, of no class


@dataclass(frozen=True, eq=False)
class Panel:
    """A latent space: vectors (N, D), and the class ("" where not known) and domain of each by name, str (N,)."""

    title: str
    latent: np.ndarray
    classes: np.ndarray
    domains: np.ndarray


def figure(records: Sequence[Record], names: Sequence[str] | None = None) -> Figure:
    """A panel for each model, of its runs on source and target.

    Raises
    ------
    InputError : a model with a run in one domain only, other classes in another run, or latents that are not finite.
    """
    panels = _panels(records, names)
    return draw(panels, records[0].classes)


def draw(panels: Sequence[Panel], classes: Sequence[str]) -> Figure:
    """Panels of latents; `classes` are those that the models know, all others are drawn in black and grey."""
    strange = sorted({str(name) for panel in panels for name in panel.classes} - {*classes, ""})
    palette = dict(zip(classes, colours(len(classes)), strict=True))
    palette |= {name: STRANGE[k % len(STRANGE)] for k, name in enumerate(strange)}
    domains = list(dict.fromkeys(str(d) for panel in panels for d in panel.domains))
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    with style():
        side = COLUMN if columns == 1 else PAGE / columns
        fig = blank(COLUMN if columns == 1 else PAGE, 0.5 + 0.16 * (len(palette) // 4 + 1) + rows * (side + 0.25))
        axes = fig.subplots(rows, columns, squeeze=False).ravel()
        for ax, panel in zip(axes, panels, strict=False):
            points, trust = embed(panel.latent)
            _scatter(ax, panel, points, palette, domains)
            n = " + ".join(str(int((panel.domains == d).sum())) for d in domains)
            ax.set_title(f"{panel.title}\nn = {n}, trustworthiness {trust:.2f}", loc="left", fontsize=7)
        for ax in axes[len(panels) :]:
            ax.remove()
        handles: list[Any] = [Patch(facecolor=colour, label=name) for name, colour in palette.items()]
        for k, domain in enumerate(domains):
            face = "0.5" if k == 0 else "none"
            handles.append(Line2D([], [], linestyle="none", marker=MARKERS[k], mfc=face, mec="0.3", label=domain))
        fig.legend(handles=handles, loc="outside lower center", ncols=3 if columns == 1 else 5)
    return fig


def caption(records: Sequence[Record], names: Sequence[str] | None = None) -> str:
    """What the figure shows, in words."""
    panels = _panels(records, names)
    domains = list(dict.fromkeys(str(d) for panel in panels for d in panel.domains))
    strange = sorted({str(name) for panel in panels for name in panel.classes} - {*records[0].classes, ""})
    unknown = f" Black and grey: {', '.join(strange)}, which the models do not know." if strange else ""
    return (
        f"t-SNE (van der Maaten & Hinton 2008) of the latent space of {', '.join(panel.title for panel in panels)}: "
        f"galaxies of {' and '.join(domains)}, chosen by key, at most {POINTS} in all, laid out together, each model "
        f"for itself; n in this order. Perplexity {PERPLEXITY:g} (less with fewer than {3 * PERPLEXITY + 1:g} "
        f"galaxies), start from the principal components, seed {SEED}. Colour: true class. Filled: {domains[0]}; open: "
        f"{', '.join(domains[1:])}.{unknown} Axes have no unit; distances between groups mean little. "
        "Trustworthiness is 1 where no neighbours are made up."
    )


def embed(latent: np.ndarray) -> tuple[np.ndarray, float]:
    """Points (N, 2) of latents (N, D), and their trustworthiness; the same every time.

    Raises
    ------
    InputError : fewer points than it takes, all in one place, or not finite.
    """
    from sklearn.manifold import TSNE, trustworthiness

    latent = np.asarray(latent, dtype=np.float64)
    if len(latent) < FEWEST or not np.isfinite(latent).all() or not np.ptp(latent, axis=0).any():
        raise InputError(
            f"{len(latent)} points, or all in one place, or not finite", f"{FEWEST} or more", "use more galaxies"
        )
    latent = latent / latent.std()  # the scale of a latent space means nothing, and small ones end the search early
    perplexity = min(PERPLEXITY, (len(latent) - 1) / 3)
    init = "pca" if min(latent.shape) > 1 else "random"
    points = TSNE(perplexity=perplexity, init=init, random_state=SEED).fit_transform(latent)
    return points, float(trustworthiness(latent, points, n_neighbors=5))


def _scatter(ax: Axes, panel: Panel, points: np.ndarray, palette: dict[str, Any], domains: Sequence[str]) -> None:
    for k, domain in enumerate(domains):
        for name, colour in {"": NAMELESS, **palette}.items():
            chosen = (panel.domains == domain) & (panel.classes == name)
            if chosen.any():
                ax.scatter(
                    *points[chosen].T,
                    marker=MARKERS[k],
                    s=9,
                    facecolor=colour if k == 0 else "none",
                    edgecolor=colour,
                    linewidth=0.0 if k == 0 else 0.7,
                    alpha=0.8,
                    gid=f"{domain}: {name}",
                )
    ax.set_aspect("equal", adjustable="datalim")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(True)


def _panels(records: Sequence[Record], names: Sequence[str] | None) -> list[Panel]:
    panels = []
    for title, runs in by_model(records, names):
        if len(runs) < 2:
            raise InputError(
                f"{title}: {domain_of(runs[0])} alone", "runs of one model on source and target",
                "evaluate it on the other domain, too",
            )  # fmt: skip
        if any(run.classes != records[0].classes for run in runs):
            raise InputError("runs with different classes", "runs with the same classes", "draw them one by one")
        latent, classes, domains = [], [], []
        for run in runs:
            kept = np.sort(by_key(run.galaxies.index.to_numpy())[: POINTS // len(runs)])
            latent.append(stacked(run.galaxies["latent"])[kept])
            classes.append(true_classes(run)[0][kept])
            domains += [domain_of(run)] * len(kept)
        panels.append(Panel(title, np.concatenate(latent), np.concatenate(classes), np.array(domains)))
    return panels
