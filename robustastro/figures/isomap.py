"""Isomaps: clean, attacked and shallow galaxies of a latent space laid out in two and three dimensions."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from perturbations.errors import InputError
from robustastro.figures.church import Views, all_views, by_key
from robustastro.figures.style import MARKERS, PAGE, blank, colours, model_names, style
from robustastro.metrics.distances import latent_scale
from robustastro.record import Record

POINTS = 480  # of the three views together
FEWEST = 12
NEIGHBOURS = 10


@dataclass(frozen=True, eq=False)
class Embedding:
    """Points (N, d) laid out in d dimensions, and how well.

    Parameters
    ----------
    trustworthiness : 1 where no point has neighbours that were not its neighbours before (Venna & Kaski 2001).
    residual : 1 - R^2 between distances along the graph and in the layout (Tenenbaum et al. 2000).
    parts : separate parts of the graph of neighbours, joined by their shortest gaps.
    """

    points: np.ndarray
    trustworthiness: float
    residual: float
    parts: int


def embed(latent: np.ndarray, dimensions: int, neighbours: int = NEIGHBOURS) -> Embedding:
    """Isomap of latents (N, D); nothing is drawn at random.

    Raises
    ------
    InputError : fewer points than it takes, or all in one place.
    """
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial.distance import pdist, squareform
    from sklearn.manifold import Isomap, trustworthiness
    from sklearn.neighbors import kneighbors_graph

    latent = np.asarray(latent, dtype=np.float64)
    if len(latent) < FEWEST or not np.ptp(latent, axis=0).any():
        raise InputError(f"{len(latent)} points, or all in one place", f"{FEWEST} or more", "attack more galaxies")
    k = min(neighbours, (len(latent) - 1) // 2)  # trustworthiness takes fewer than half of the points
    parts, _ = connected_components(kneighbors_graph(latent, k), directed=False)
    layout = Isomap(n_neighbors=k, n_components=dimensions, eigen_solver="dense", path_method="D")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # separate parts: counted, and said in the figure
        points = layout.fit_transform(latent)
    along = squareform(layout.dist_matrix_, checks=False)
    correlation = float(np.corrcoef(along, pdist(points))[0, 1])
    trust = float(trustworthiness(latent, points, n_neighbors=k))
    return Embedding(points, trust, 1.0 - correlation**2, int(parts))


def figure(
    records: Sequence[Record],
    names: Sequence[str] | None = None,
    *,
    shallow: Sequence[Record] | None = None,
    attack: str = "onepixel",
    depth: str = "depth",
) -> Figure:
    """One row a model: clean, attacked and shallow latents laid out together, in two and in three dimensions.

    Parameters
    ----------
    shallow, attack, depth : see `church.views`; of `shallow` one run per record.

    Raises
    ------
    InputError : see `church.views` and `embed`; no labelled galaxy, or other classes in another record.
    """
    names = model_names(records, names)
    classes, palette = records[0].classes, colours(len(records[0].classes))
    seen = [_some(found) for found in all_views(records, shallow, attack, depth)]
    with style():
        fig = blank(PAGE, 0.7 + 3.3 * len(records))
        for row, (record, name, found) in enumerate(zip(records, names, seen, strict=True)):
            latent, labels, domains = _points(found)
            scale, _ = latent_scale(record.head.centroids)
            scaled = latent / scale if np.isfinite(scale) else latent
            unit = " [class distance]" if np.isfinite(scale) else ""
            n = np.bincount(domains, minlength=3)
            for k, dimensions in enumerate((2, 3)):
                done = embed(scaled, dimensions)
                solid = {"projection": "3d"} if dimensions == 3 else {}
                ax: Any = fig.add_subplot(len(records), 2, 2 * row + k + 1, **solid)
                _scatter(ax, done.points, labels, domains, palette)
                _frame(ax, done.points, unit)
                head = f"{name}, n = {n[0]} clean, {n[1]} attacked, {n[2]} shallow\n" if dimensions == 2 else ""
                gaps = f", {done.parts} parts joined" if done.parts > 1 else ""
                ax.set_title(
                    f"{head}{dimensions}D: trustworthiness {done.trustworthiness:.3f}, "
                    f"residual variance {done.residual:.3f}{gaps}",
                    fontsize=6.5,
                    loc="left" if dimensions == 2 else "center",
                )
        handles: list[Any] = [Patch(facecolor=c, label=c_name) for c_name, c in zip(classes, palette, strict=True)]
        for marker, label in zip(MARKERS, ("clean", seen[0].attack, seen[0].shallow), strict=False):
            handles.append(Line2D([], [], linestyle="none", marker=marker, mfc="0.6", mec="0.2", label=label))
        fig.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 6))
    return fig


def caption(
    records: Sequence[Record],
    names: Sequence[str] | None = None,
    *,
    shallow: Sequence[Record] | None = None,
    attack: str = "onepixel",
    depth: str = "depth",
) -> str:
    """What the figure shows, in words."""
    seen = [_some(found) for found in all_views(records, shallow, attack, depth)]
    return (
        f"Isomaps of the latent space of {', '.join(model_names(records, names))} in two and three dimensions: clean, "
        f"attacked ({seen[0].attack}) and shallow ({seen[0].shallow}) images of the same labelled galaxies, laid out "
        f"together, each model for itself, by {NEIGHBOURS} nearest neighbours (fewer of under {2 * NEIGHBOURS + 1} "
        f"points). {max(len(found.ids) for found in seen)} galaxies, chosen by key; images that the attack left where "
        "they were are not drawn twice. Colour: true class. Axes in units of the mean distance between class centroids "
        "(class distance), where there is one; their directions and signs mean nothing. Trustworthiness is 1 where no "
        "neighbours are made up; residual variance is 0 where distances along the graph are kept."
    )


def _some(found: Views) -> Views:
    """Labelled galaxies, as many as fit, chosen by key."""
    labelled = np.flatnonzero(found.labels >= 0)
    if not len(labelled):
        raise InputError("no labelled galaxies", "labels", "name the labels with --label-column")
    kept = np.sort(labelled[by_key(found.ids[labelled])][: POINTS // 3])
    return Views(
        found.ids[kept],
        found.labels[kept],
        found.latent[:, kept],
        found.probability[:, kept],
        found.attack,
        found.shallow,
    )


def _points(found: Views) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latents, true classes and views (0 clean, 1 attacked, 2 shallow) of all points to lay out."""
    moved = np.ones(found.latent.shape[:2], dtype=bool)
    moved[1] = (found.latent[1] != found.latent[0]).any(axis=1)
    domains, galaxies = np.nonzero(moved)
    return found.latent[moved], found.labels[galaxies], domains


def _scatter(ax: Any, points: np.ndarray, labels: np.ndarray, domains: np.ndarray, palette: Sequence[Any]) -> None:
    for domain in (2, 1, 0):
        for k, colour in enumerate(palette):
            chosen = (domains == domain) & (labels == k)
            if chosen.any():
                ax.scatter(
                    *points[chosen].T,
                    marker=MARKERS[domain],
                    s=11,
                    facecolor=[(*colour, 0.75)],
                    edgecolor="0.2",
                    linewidth=0.3,
                    gid=f"domain {domain} class {k}",
                )


def _frame(ax: Any, points: np.ndarray, unit: str) -> None:
    """Axes of one scale: in three dimensions a cube, whose numbers do not collide where the points lie flat."""
    if points.shape[1] == 2:
        ax.set_aspect("equal", adjustable="datalim")
        ax.set_xlabel(f"isomap 1{unit}")
        ax.set_ylabel(f"isomap 2{unit}")
        return
    low, high = points.min(axis=0), points.max(axis=0)
    middle, half = (low + high) / 2, 0.55 * float((high - low).max())
    for k, axis in enumerate((ax.xaxis, ax.yaxis, ax.zaxis)):
        axis.set_label_text(f"isomap {k + 1}", fontsize=7)
        axis.set_major_locator(MaxNLocator(4))
        axis.set_tick_params(labelsize=5, pad=-2)
        axis.labelpad = -5
    ax.set(**{f"{axis}lim": (at - half, at + half) for axis, at in zip("xyz", middle, strict=True)})
    ax.set_box_aspect((1, 1, 1), zoom=0.85)
    ax.view_init(elev=22, azim=-60)
