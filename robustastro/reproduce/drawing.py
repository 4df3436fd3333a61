"""Figures of a reproduction: accuracy of every method at both depths, and the latent space of one training each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from perturbations.errors import InputError
from robustastro import figures
from robustastro.figures.style import MARKERS, PAGE, blank, colours, save, style
from robustastro.progress import say
from robustastro.reproduce.measures import Arm, baseline

SHOWN = ("none", "mmd", "dann", "uda")
CAPTION = "Accuracy on the {n} test galaxies at Y10 (source) and Y1 (target). "
MARKS = (
    "Small dots: single trainings, crosses: collapsed ones, which count. Large marks: their mean, with 95% intervals "
    "over galaxies and trainings (of one "
    "training: over galaxies alone). Filled: adaptation; open: controls; triangle: an upper bound, trained with target "
    "labels. In parentheses: trainings."
)
DEPTHS = (("y10", "Y10, source"), ("y1", "Y1, target"))


def accuracy(rows: Sequence[Mapping[str, Any]], panels: Sequence[tuple[str, str]] = DEPTHS) -> Figure:
    """Accuracy in both domains of the rows of one architecture (`measures.accuracies`); panels: (key, title)."""
    with style():
        fig = blank(PAGE, 0.9 + 0.24 * len(rows))
        axes = fig.subplots(1, 2, sharey=True)
        palette = colours(2)
        for ax, (key, title), colour in zip(axes, panels, palette, strict=True):
            for at, row in enumerate(rows):
                _row(ax, at, row, key, colour)
            ax.set_title(title)
            ax.set_xlabel("accuracy [%]")
            ax.set_xlim(-2, 102)
            ax.grid(axis="x", color="0.9", linewidth=0.5)
            ax.set_axisbelow(True)
        axes[0].set_yticks(range(len(rows)), [f"{r['method']} ({len(r['seeds'])})" for r in rows])
        axes[0].set_ylim(len(rows) - 0.5, -0.5)
    return fig


def _row(ax: Any, at: int, row: Mapping[str, Any], key: str, colour: Any) -> None:
    for seed, value in zip(row["seeds"], row[f"{key}_by_seed"], strict=True):
        bad = seed in row["collapsed"]
        marker = {"marker": "x", "markersize": 4} if bad else {"marker": ".", "markersize": 3}
        ax.plot([100 * value], [at + 0.22], color=colour, linestyle="none", **marker)
    found = row[key]
    if found["low"] is not None:
        ax.plot([100 * found["low"], 100 * found["high"]], [at - 0.1] * 2, color=colour, gid="interval")
    marker = MARKERS[2] if row["target_labels"] else MARKERS[0]
    face = "white" if row["control"] else colour
    ax.plot([100 * found["value"]], [at - 0.1], color=colour, marker=marker, markerfacecolor=face, gid="value")


def draw(arms: Sequence[Arm], rows: Sequence[Mapping[str, Any]], out: Path) -> list[tuple[str, str]]:
    """Draw what there is into `out`: (file name, caption) of each figure."""
    made = []
    for arch in dict.fromkeys(row["arch"] for row in rows):
        those = [row for row in rows if row["arch"] == arch]
        save(accuracy(those), out / f"accuracy-{arch}.png")
        caption = CAPTION.format(n=those[0]["y10"]["n"])
        made.append((f"accuracy-{arch}.png", f"{arch}. {caption}{MARKS}"))
        made += _spaces([arm for name in SHOWN if (arm := baseline(arms, arch, name))], arch, out)
    return made


def _spaces(arms: Sequence[Arm], arch: str, out: Path) -> list[tuple[str, str]]:
    """Church windows, isomaps and confusion matrices of one training seed of the methods that were attacked.

    The first seed of which all of them have an attacked training that did not collapse.
    """
    places = [{arm.cells[k].seed: k for k in arm.attacked("paper")} for arm in arms]
    shown = [(arm, at) for arm, at in zip(arms, places, strict=True) if at]
    common = set.intersection(*(set(at) for _, at in shown)) if shown else set()
    if not common:
        say(f"no figures of the latent space of {arch}: no training seed was attacked in all methods")
        return []
    seed = min(common)
    names = [arm.method for arm, _ in shown]
    first = [arm.records[at[seed]] for arm, at in shown]
    attacked, shallow, deep = ([records[name] for records in first] for name in ("paper", "y1", "y10"))
    both = [record for pair in zip(deep, shallow, strict=True) for record in pair]
    depths = [f"{name} at {depth}" for name in names for depth in ("Y10", "Y1")]
    made = []
    for name, records, called, options in (
        ("church", attacked, names, {"shallow": shallow}),
        ("isomap", attacked, names, {"shallow": shallow}),
        ("confusion", both, depths, {}),
    ):
        file = f"{name}-{arch}.png"
        try:
            module = figures.get(name)
            save(module.figure(records, called, **options), out / file)
            made.append((file, f"{arch}, training seed {seed} alone. {module.caption(records, called, **options)}"))
        except InputError as problem:  # no galaxy flipped, or a head without flat boundaries
            say(f"no figure {name} of {arch}: {problem}")
    return made
