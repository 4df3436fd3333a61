"""Galaxies before and after a perturbation, with the changed pixel marked and what the model made of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from perturbations.errors import InputError
from robustastro.figures.images import DISPLAYED, band_note, difference, display
from robustastro.figures.style import PAGE, blank, model_names, style
from robustastro.metrics.paired import Paired, pair
from robustastro.metrics.tables import strength_text
from robustastro.record import Record, Unit

MARKED = 10  # a perturbation that lists more changed pixels than this is not marked
RING = "#DE8F05"  # orange of the colour-blind palette; seen on black, grey and white


@dataclass(frozen=True, eq=False)
class Row:
    """One galaxy of the gallery."""

    model: str
    label: int
    clean: np.ndarray
    perturbed: np.ndarray
    before: np.ndarray
    after: np.ndarray
    pixels: tuple[tuple[int, int], ...]


def figure(
    records: Sequence[Record],
    names: Sequence[str] | None = None,
    perturbation: str | None = None,
    strength: float | None = None,
    count: int | None = None,
) -> Figure:
    """Clean image, perturbed image, their difference, and probabilities, one galaxy a row.

    Parameters
    ----------
    perturbation, strength : which unit; by default one-pixel where the run has it, else the first with images kept,
        at its most severe finished strength.
    count : galaxies, by default 4 of one run and 2 of several. The same of each run: first those flipped in the most
        runs, then those that the most runs had right, in the order of the data.

    Raises
    ------
    InputError : no galaxy of that unit has its images kept in every run.
    """
    names = model_names(records, names)
    unit = _unit(records, perturbation, strength)
    pairs = [_pair(record, unit) for record in records]
    galaxies = _chosen(pairs, _kept(records, unit))[: count or (4 if len(records) == 1 else 2)]
    by_model = [_rows(record, name, unit, galaxies) for record, name in zip(records, names, strict=True)]
    rows = [row for of_one_galaxy in zip(*by_model, strict=True) for row in of_one_galaxy]
    classes, bands = records[0].classes, tuple(records[0].run["contract"]["bands"])
    limit = max(float(np.abs(difference(row.clean, row.perturbed)).max()) for row in rows) or 1.0
    with style():
        fig = blank(PAGE, 0.6 + min(1.6, 8.4 / len(rows)) * len(rows))
        axes = fig.subplots(len(rows), 4, squeeze=False, width_ratios=(1, 1, 1, 1.25))
        for line, row in zip(axes, rows, strict=True):
            low, high = np.percentile(row.clean, DISPLAYED)
            for ax, image in ((line[0], row.clean), (line[1], row.perturbed)):
                ax.imshow(display(image, bands, low, high), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            line[2].imshow(
                difference(row.clean, row.perturbed), cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest"
            )
            for ax, edge in zip(line, (RING, RING, "black"), strict=False):
                _mark(ax, row.pixels, edge)
            _words(line[3], row, classes)
            if len(records) > 1:
                line[0].set_ylabel(row.model)
        for ax, title in zip(axes[0], ("clean", "perturbed", "perturbed − clean"), strict=False):
            ax.set_title(title)
        bar = fig.colorbar(axes[0, 2].images[0], ax=axes[:, 2], location="bottom", shrink=0.95, aspect=22, pad=0.015)
        bar.set_label("change [input units]")
    return fig


def caption(
    records: Sequence[Record],
    names: Sequence[str] | None = None,
    perturbation: str | None = None,
    strength: float | None = None,
) -> str:
    """What the figure shows, in words."""
    unit = _unit(records, perturbation, strength)
    flips = "; ".join(
        f"{name}: {int(p.flipped.sum())} of {int(p.clean_correct.sum())}"
        for name, p in zip(model_names(records, names), (_pair(record, unit) for record in records), strict=True)
    )
    bands = tuple(records[0].run["contract"]["bands"])
    how = strength_text({"strength": unit.strength, "unit": unit.unit})
    return (
        f"Galaxies before and after {unit.perturbation} at strength {how}, first those right that became wrong: "
        f"not a fair sample (flipped of clean-correct galaxies: {flips}). {band_note(bands)} Both images on the scale "
        f"of the clean one, {DISPLAYED[0]:g} to {DISPLAYED[1]:g} percentile. Difference: the band that changed most in "
        "each pixel. Circles: changed pixels. Numbers: probability of each class, before → after."
    )


def _unit(records: Sequence[Record], perturbation: str | None, strength: float | None) -> Unit:
    """The unit to draw: one with a galaxy whose images every record kept."""
    model_names(records)
    units = [u for u in records[0].units() if perturbation in (None, u.perturbation) and strength in (None, u.strength)]
    units = [u for u in units if _kept(records, u)]
    if not units:
        where = f" at {strength:g}" if strength is not None else ""
        raise InputError(
            f"no galaxy with images of {perturbation or 'any perturbation'}{where} in every run",
            "a unit of which the runs keep the same galaxies",
            "choose another one, or finish the run",
        )
    first = next((u for u in units if u.perturbation == "onepixel"), units[0])
    return [u for u in units if u.perturbation == first.perturbation][-1]


def _kept(records: Sequence[Record], unit: Unit) -> set[str]:
    """Galaxies whose images and rows every record has."""
    sets = []
    for record in records:
        images = record.images(unit.perturbation, unit.strength)
        sets.append(
            set(images.get("ids", np.array([])).tolist()) & set(record.unit(unit.perturbation, unit.strength).index)
        )
    return set.intersection(*sets)


def _chosen(pairs: Sequence[Paired], kept: set[str]) -> list[str]:
    """Galaxies flipped in the most runs first, then those right in the most; otherwise in the order of the data."""
    flips, right = Counter[str](), Counter[str]()
    for paired in pairs:
        flips.update(paired.ids[paired.flipped].tolist())
        right.update(paired.ids[paired.clean_correct].tolist())
    return sorted((i for i in pairs[0].ids if i in kept), key=lambda i: (-flips[i], -right[i]))


def _pair(record: Record, unit: Unit) -> Paired:
    paired = pair(record, unit)
    assert paired is not None  # `_unit` chose one with rows
    return paired


def _rows(record: Record, model: str, unit: Unit, galaxies: Sequence[str]) -> list[Row]:
    images, table = record.images(unit.perturbation, unit.strength), record.unit(unit.perturbation, unit.strength)
    place = {galaxy: k for k, galaxy in enumerate(images["ids"].tolist())}
    return [
        Row(
            model=model,
            label=int(record.galaxies.loc[galaxy, "label"]),  # type: ignore[arg-type]
            clean=images["clean"][place[galaxy]].astype(np.float64),
            perturbed=images["perturbed"][place[galaxy]].astype(np.float64),
            before=_probabilities(record.galaxies.loc[galaxy, "logits"]),
            after=_probabilities(table.loc[galaxy, "logits"]),
            pixels=_pixels(table.loc[galaxy]),
        )
        for galaxy in galaxies
    ]


def _pixels(row: Any) -> tuple[tuple[int, int], ...]:
    """(row, column) of the pixels that a sparse attack wrote."""
    if "rows" not in row or "columns" not in row:
        return ()
    pairs = zip(np.atleast_1d(row["rows"]), np.atleast_1d(row["columns"]), strict=True)
    found = tuple((int(r), int(c)) for r, c in pairs if r == r and r >= 0)
    return found if len(found) <= MARKED else ()


def _probabilities(logits: Any) -> np.ndarray:
    if not np.isfinite(logits).all():
        return np.full(len(logits), np.nan)
    exponential = np.exp(np.asarray(logits, dtype=np.float64) - np.max(logits))
    return exponential / exponential.sum()


def _mark(ax: Axes, pixels: tuple[tuple[int, int], ...], colour: str) -> None:
    """A ring around each changed pixel, wide enough to leave it in sight."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(True)
    limits = ax.axis()
    for row, column in pixels:
        ax.plot([column], [row], "o", markersize=11, mfc="none", mec=colour, clip_on=False, gid="changed pixel")
    ax.axis(limits)


def _words(ax: Axes, row: Row, classes: tuple[str, ...]) -> None:
    """True class, predicted class and probabilities, before and after."""
    ax.set_axis_off()
    first, last = (
        classes[int(p.argmax())] if np.isfinite(p).all() else "none (not finite)" for p in (row.before, row.after)
    )
    shown = sorted({*np.argsort(-row.before)[:3].tolist(), *np.argsort(-row.after)[:3].tolist(), max(row.label, 0)})
    lines = [f"true: {classes[row.label]}" if row.label >= 0 else "true: not known"]
    lines += [f"predicted: {first}" + ("" if first == last else f" → {last}"), ""]
    lines += [f"{row.before[k]:.2f} → {row.after[k]:.2f}  {classes[k]}" for k in shown]
    ax.text(0.0, 0.5, "\n".join(lines), transform=ax.transAxes, va="center", ha="left", fontsize=7, linespacing=1.35)
