"""Church windows: the classes of the head in the plane of an attack and of a shallower survey through one galaxy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from perturbations.errors import InputError
from robustastro.figures.style import MARKERS, PAGE, blank, colours, model_names, style
from robustastro.metrics.distances import boundary_reason, latent_scale
from robustastro.metrics.paired import stacked
from robustastro.metrics.probabilities import softmax
from robustastro.metrics.science import most_severe
from robustastro.metrics.tables import strength_text
from robustastro.record import Head, Record

RANGE = 1.1  # of both axes, in units of the way to the perturbed image
STEPS = 221  # points of the grid along an axis: 0.01 apart
ROWS = 3  # galaxies
ACROSS = 4  # models
FLAT = 0.05  # sine of the angle between the axes below which they span no plane worth drawing
PLACES = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))  # clean, attacked, shallow


@dataclass(frozen=True, eq=False)
class Views:
    """The same galaxies clean, attacked and observed by a shallower survey, in the order of the record.

    Parameters
    ----------
    ids, labels : (N,).
    latent : clean, attacked and shallow, float64 (3, N, D).
    probability : softmax of their logits, float64 (3, N, K).
    attack, shallow : what the last two are called.
    """

    ids: np.ndarray
    labels: np.ndarray
    latent: np.ndarray
    probability: np.ndarray
    attack: str
    shallow: str

    @property
    def predicted(self) -> np.ndarray:
        """Classes, int (3, N)."""
        return self.probability.argmax(axis=2)

    @property
    def flipped(self) -> np.ndarray:
        """Right when clean, wrong when attacked, bool (N,)."""
        clean, attacked, _ = self.predicted
        return (self.labels >= 0) & (clean == self.labels) & (attacked != self.labels)


def views(record: Record, shallow: Record | None = None, attack: str = "onepixel", depth: str = "depth") -> Views:
    """Galaxies whose latents and logits are finite in all three views.

    Parameters
    ----------
    shallow : a run of the same model on the shallower images of the same galaxies; by default the unit `depth` of the
        record.
    attack, depth : perturbations of the record, each taken at its most severe finished strength.

    Raises
    ------
    InputError : a unit that is not there or kept no latents, another model, or no galaxy in common.
    """
    attacked, attack_name = _rows(record, attack)
    if shallow is None:
        thin, shallow_name = _rows(record, depth)
    else:
        if shallow.run["model"].get("sha256") != record.run["model"].get("sha256"):
            raise InputError(
                f"{shallow.path} is of another model than {record.path}", "runs of one model", "give its own run"
            )
        thin, shallow_name = shallow.galaxies, str(shallow.run["data"]["domain"])
    clean = record.galaxies
    ids = clean.index[clean.index.isin(attacked.index) & clean.index.isin(thin.index)]
    if not len(ids):
        raise InputError(
            f"{record.path}: no galaxy with {attack_name} and {shallow_name}", "the same galaxies in both", "run both"
        )
    tables = [table.loc[ids] for table in (clean, attacked, thin)]
    latent = np.stack([stacked(table["latent"]).astype(np.float64) for table in tables])
    probability = np.stack([softmax(stacked(table["logits"])) for table in tables])
    kept = np.isfinite(latent).all(axis=(0, 2)) & np.isfinite(probability).all(axis=(0, 2))
    labels = tables[0]["label"].fillna(-1).to_numpy(dtype=np.int64)
    return Views(ids.to_numpy()[kept], labels[kept], latent[:, kept], probability[:, kept], attack_name, shallow_name)


def by_key(ids: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Places that sort ids by a hash: a choice that looks at nothing else, the same in every run."""
    return np.array(sorted(range(len(ids)), key=lambda k: sha256(str(ids[k]).encode()).digest()), dtype=np.int64)


def window(head: Head, latent: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Class of the head at z + a u + b v, int (len(b), len(a)).

    u and v lead from the clean latent to the attacked and the shallow one (Ćiprijanović et al. 2022, MLST 3, 035007).

    Parameters
    ----------
    latent : clean, attacked and shallow, (3, D).

    Raises
    ------
    InputError : a head without flat boundaries.
    """
    reason = boundary_reason(head)
    if reason or head.weight is None:
        raise InputError(
            f"no church window: {reason}", "a linear head, or a cosine head without bias", "choose another model"
        )
    z, u, v = latent[0], latent[1] - latent[0], latent[2] - latent[0]
    weight = np.asarray(head.weight, dtype=np.float64)
    if head.kind == "cosine":  # the length of the latent vector scales all logits alike
        weight = weight / np.linalg.norm(weight, axis=1, keepdims=True)
    bias = np.zeros(len(weight)) if head.bias is None else np.asarray(head.bias, dtype=np.float64)
    # linear in a and b: K numbers for each term rather than D
    logits = weight @ z + bias + b[:, None, None] * (weight @ v) + a[None, :, None] * (weight @ u)
    return logits.argmax(axis=2)


def figure(
    records: Sequence[Record],
    names: Sequence[str] | None = None,
    *,
    shallow: Sequence[Record] | None = None,
    attack: str = "onepixel",
    depth: str = "depth",
) -> Figure:
    """One column a model, one row a galaxy that the attack flipped in the first model, chosen by key.

    Parameters
    ----------
    shallow, attack, depth : see `views`; of `shallow` one run per record.

    Raises
    ------
    InputError : see `views` and `window`; other classes in another record, more models than fit, or no galaxy that
        the first model loses to the attack and that spans a plane.
    """
    names = model_names(records, names)
    found, ids, _ = _chosen(records, shallow, attack, depth)
    classes = records[0].classes
    palette = colours(len(classes))
    grid = np.linspace(-RANGE, RANGE, STEPS)
    wide = len(records) > 1
    with style():
        shape = (len(ids), len(records)) if wide else (1, len(ids))
        fig = blank(PAGE, 0.7 + shape[0] * (0.75 + 6.2 / max(shape[1], 2)))
        axes = fig.subplots(*shape, squeeze=False, sharex=True, sharey=True)
        panels = axes if wide else axes.T
        for row, galaxy in zip(panels, ids, strict=True):
            for ax, record, seen, name in zip(row, records, found, names, strict=True):
                at = int(np.flatnonzero(seen.ids == galaxy)[0])
                title = f"{name}, galaxy {galaxy}" if wide else f"galaxy {galaxy}"
                _panel(ax, record.head, seen, at, grid, classes, palette, title)
        for ax in axes[-1]:
            ax.set_xlabel("a (attacked image)")
        for ax in axes[:, 0]:
            ax.set_ylabel("b (shallow image)")
        first = found[0]
        handles: list[Any] = [Patch(facecolor=c, label=name) for name, c in zip(classes, palette, strict=True)]
        for marker, label in zip(MARKERS, ("clean", first.attack, first.shallow), strict=False):
            handles.append(Line2D([], [], linestyle="none", marker=marker, mfc="white", mec="black", label=label))
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
    names = model_names(records, names)
    found, ids, skipped = _chosen(records, shallow, attack, depth)
    first, n = found[0], int(found[0].flipped.sum())
    dull = f", {skipped} of which span no plane and are left out" if skipped else ""
    same = " The same galaxies of every model, some of which may withstand the attack." if len(names) > 1 else ""
    return (
        f"Church windows of {', '.join(names)}: class of the head at z + a u + b v, where z is the latent vector of a "
        f"clean galaxy, u leads to its attacked image ({first.attack}) and v to its shallow image ({first.shallow}), "
        f"each 1 at that image. {len(ids)} galaxies, chosen by key from {n} that the attack flipped in {names[0]}"
        f"{dull}: not a fair sample.{same} Above: predicted class and its probability, clean (c), attacked (a) and "
        "shallow (s); lengths of u and v in units of the model's mean distance between class centroids, and the angle "
        "between them. Both axes are stretched to the images, so that areas of two windows do not compare."
    )


def _rows(record: Record, perturbation: str) -> tuple[Any, str]:
    unit = most_severe(record).get(perturbation)
    if unit is None:
        raise InputError(
            f"{record.path}: no finished unit of {perturbation}",
            "a run with the attack and the shallower images",
            "run a suite that has both, or name another perturbation",
        )
    rows = record.unit(perturbation, unit.strength)
    if "latent" not in rows:
        raise InputError(f"{record.path}: {perturbation} kept no latents", "a run that keeps them", "run it again")
    return rows, f"{perturbation}, {strength_text(vars(unit))}"


def all_views(records: Sequence[Record], shallow: Sequence[Record] | None, attack: str, depth: str) -> list[Views]:
    """`views` of each record, which must have the same classes."""
    if shallow is not None and len(shallow) != len(records):
        raise InputError(
            f"{len(shallow)} shallow runs for {len(records)} runs", "one per run", "give each model its own"
        )
    if any(record.classes != records[0].classes for record in records):
        raise InputError("runs with different classes", "runs with the same classes", "draw them one by one")
    return [views(record, None if shallow is None else shallow[k], attack, depth) for k, record in enumerate(records)]


def _chosen(
    records: Sequence[Record], shallow: Sequence[Record] | None, attack: str, depth: str
) -> tuple[list[Views], list[Any], int]:
    """Views of each model, ids of the galaxies to draw, and how many flipped ones span no plane."""
    if len(records) > ACROSS:
        raise InputError(f"{len(records)} runs", f"at most {ACROSS}, to be readable", "draw fewer at a time")
    found = all_views(records, shallow, attack, depth)
    first = found[0]
    everywhere = np.all([np.isin(first.ids, other.ids) for other in found], axis=0)
    flipped = np.flatnonzero(first.flipped & everywhere)
    spanned = [k for k in flipped if _geometry(first.latent[:, k])[2] >= FLAT]
    if not spanned:
        raise InputError(
            f"no galaxy of {len(first.ids)} that {first.attack} flipped and that spans a plane with {first.shallow}",
            "a flipped galaxy whose attacked and shallow images move apart",
            "attack more galaxies",
        )
    ids = first.ids[spanned]
    return found, list(ids[by_key(ids)][:ROWS]), len(flipped) - len(spanned)


def _geometry(latent: np.ndarray) -> tuple[float, float, float, float]:
    """Lengths of u and v, and sine and size [degrees] of the angle between them; a sine of 0 where one did not move."""
    z, u, v = latent[0], latent[1] - latent[0], latent[2] - latent[0]
    long, wide = float(np.linalg.norm(u)), float(np.linalg.norm(v))
    if min(long, wide) <= 1e-6 * float(np.linalg.norm(z)):  # the precision of the latents kept
        return long, wide, 0.0, 0.0
    cosine = float(np.clip(u @ v / (long * wide), -1.0, 1.0))
    return long, wide, float(np.sqrt(1.0 - cosine**2)), float(np.degrees(np.arccos(cosine)))


def _panel(
    ax: Axes,
    head: Head,
    seen: Views,
    at: int,
    grid: np.ndarray,
    classes: Sequence[str],
    palette: Sequence[Any],
    title: str,
) -> None:
    long, wide, sine, angle = _geometry(seen.latent[:, at])
    scale, _ = latent_scale(head.centroids)
    if sine < FLAT:
        ax.text(0.0, 0.0, "u and v span no plane", ha="center", va="center", fontsize=6.5)
        geometry = ""
    else:
        ax.imshow(
            window(head, seen.latent[:, at], grid, grid),
            cmap=ListedColormap([(*c, 0.55) for c in palette]),
            vmin=-0.5,
            vmax=len(classes) - 0.5,
            origin="lower",
            extent=(-RANGE, RANGE, -RANGE, RANGE),
            interpolation="nearest",
            gid="window",
        )
        for (x, y), marker in zip(PLACES, MARKERS, strict=False):
            ax.plot([x], [y], linestyle="none", marker=marker, mfc="white", mec="black", mew=0.9, markersize=5.5)
        geometry = f"|u| {long / scale:.2g}, |v| {wide / scale:.2g}, {angle:.0f}°"
    ax.set_xlim(-RANGE, RANGE)
    ax.set_ylim(-RANGE, RANGE)
    ax.set_aspect("equal")
    ax.spines[:].set_visible(True)
    ax.set_xticks([-1, 0, 1])
    ax.set_yticks([-1, 0, 1])
    true = f"true: {classes[seen.labels[at]]}" if seen.labels[at] >= 0 else "true class not known"
    ax.set_title("\n".join([title, true, *_words(seen, at, classes), geometry]), fontsize=6, loc="left")


def _words(seen: Views, at: int, classes: Sequence[str]) -> list[str]:
    return [
        f"{letter}: {classes[k]} {seen.probability[view, at, k]:.2f}"
        for view, (letter, k) in enumerate(zip("cas", seen.predicted[:, at], strict=True))
    ]
