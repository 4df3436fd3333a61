"""Which arm is more robust: the difference in perturbed accuracy from the baseline arm, with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from robustastro.figures.style import MARKERS, PAGE, blank, colours, model_names, style
from robustastro.metrics.comparison import compare
from robustastro.metrics.tables import strength_text
from robustastro.record import Record

MOST = 45  # rows on a page; of longer comparisons only the ladders are drawn
Row = list[Mapping[str, Any]]  # results of one perturbation and strength, one for each arm


def figure(records: Sequence[Record], names: Sequence[str] | None = None, baseline: str | None = None) -> Figure:
    """Arm minus baseline in percentage points, over each ladder and below it at each strength.

    Parameters
    ----------
    names : one for each run; an arm is called after its first run. Default: the names of the arms.
    baseline : see `robustastro.metrics.comparison.compare`.

    Raises
    ------
    InputError : runs that `compare` refuses, or not one name each.
    """
    document = compare(records, baseline)
    called, rows = _called(document, records, names), _rows(document)
    arms = document["arms"][1:]
    each = 0.10 + 0.06 * len(arms)
    with style():
        fig = blank(0.75 * PAGE, 1.2 + 0.12 * len(arms) + each * len(rows))
        ax = fig.subplots()
        _stripes(ax, rows)
        ax.axvline(0.0, color="0.25", linewidth=0.8, zorder=1)
        palette = colours(len(document["arms"]))
        for at, row in enumerate(rows):
            for k, result in enumerate(row, start=1):
                aside = 0.6 * ((k - 0.5) / len(row) - 0.5)
                _mark(ax, at + aside, result, MARKERS[k % len(MARKERS)], palette[k])
        ax.set_yticks(range(len(rows)), [_label(row[0]) for row in rows])
        for text, row in zip(ax.get_yticklabels(), rows, strict=True):
            text.set_fontweight("bold" if row[0]["over"] == "ladder" else "normal")
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        first = called[document["baseline"]]
        ax.set_xlabel(f"perturbed accuracy minus\nthat of {first} [points], 95% intervals")
        ax.set_title("← less robust", loc="left", color="0.35", fontsize=7)
        ax.set_title("more robust →", loc="right", color="0.35", fontsize=7)
        handles = _legend(document, called, palette)
        fig.legend(handles=handles, loc="outside upper center", ncols=3 if len(handles) == 3 else 2)
    return fig


def caption(records: Sequence[Record], names: Sequence[str] | None = None, baseline: str | None = None) -> str:
    """What the figure shows, in words."""
    document = compare(records, baseline)
    called = _called(document, records, names)
    below = "below it each strength" if len(_rows(document)) > len(_ladders(document)) else "its strengths left out"
    parameters = dict.fromkeys(f"{r['perturbation']}, {r['parameter']}" for r in document["results"])
    single = [called[arm["name"]] for arm in document["arms"] if arm["trainings"] == 1]
    alone = f" Of {', '.join(single)} there is one training: these are networks, not methods." if single else ""
    collapsed = {run["model"] for run in document["runs"] for flag in run["flags"] if flag["code"] == "collapsed"}
    failed = f" Trainings that collapsed, and are counted: {', '.join(sorted(collapsed))}." if collapsed else ""
    return (
        f"Accuracy on the same perturbed galaxies, minus that of {called[document['baseline']]}, in percentage points. "
        f"Bold: the mean over the ladder of a perturbation on n galaxies; {below}. Bars: 95% intervals, each for "
        "itself, for the chance in the galaxies and, of several trainings, in the training. Filled: p below 0.05, "
        "corrected by Holm's method among all ladders, or all strengths, of all arms. Clean accuracy is not taken off: "
        f"an arm that is more accurate on clean images stands further right, too.{alone}{failed} "
        f"Strengths: {'; '.join(parameters)}."
    )


def _ladders(document: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(r["perturbation"] for r in document["results"]))


def _rows(document: Mapping[str, Any]) -> list[Row]:
    """Results to draw: the ladder of each perturbation and then its rungs, or the ladders alone if there are many."""
    rows: dict[tuple[Any, ...], Row] = {}
    for result in document["results"]:
        rows.setdefault((result["perturbation"], result["over"], result["strength"]), []).append(result)
    found = [row for name in _ladders(document) for (of, _, _), row in rows.items() if of == name]
    return found if len(found) <= MOST else [row for row in found if row[0]["over"] == "ladder"]


def _mark(ax: Axes, at: float, result: Mapping[str, Any], marker: str, colour: Any) -> None:
    found = result["difference"]
    if found["value"] is None:
        return
    if found["low"] is not None:
        ends = [100.0 * found["low"], 100.0 * found["high"]]
        ax.plot(ends, [at, at], color=colour, linewidth=1.1, solid_capstyle="butt", gid="interval", zorder=2)
    face = "white" if result["verdict"] == "no evidence" else colour
    ax.plot([100.0 * found["value"]], [at], marker=marker, color=colour, markerfacecolor=face, gid="value", zorder=3)


def _stripes(ax: Axes, rows: Sequence[Row]) -> None:
    """A grey ground under every other perturbation."""
    names = list(dict.fromkeys(row[0]["perturbation"] for row in rows))
    for at, row in enumerate(rows):
        if names.index(row[0]["perturbation"]) % 2 == 0:
            ax.axhspan(at - 0.5, at + 0.5, color="0.95", linewidth=0, zorder=0)


def _label(result: Mapping[str, Any]) -> str:
    if result["over"] == "rung":
        return strength_text(result)
    strength = f"mean of {result['rungs']}" if result["strength"] is None else strength_text(result)
    return f"{result['perturbation']}, {strength}, n = {result['n']}"


def _called(document: Mapping[str, Any], records: Sequence[Record], names: Sequence[str] | None) -> dict[str, str]:
    """What to call each arm."""
    if names is None:
        return {arm["name"]: arm["name"] for arm in document["arms"]}
    of = {str(r.path): name for r, name in zip(records, model_names(records, names), strict=True)}
    return {run["arm"]: of[run["run"]] for run in reversed(document["runs"])}


def _legend(document: Mapping[str, Any], called: Mapping[str, str], palette: Sequence[Any]) -> list[Line2D]:
    first, *arms = document["arms"]
    lines = [
        Line2D(
            [], [], color=palette[k], marker=MARKERS[k % len(MARKERS)],
            label=f"{called[arm['name']]} ({_trainings(arm)}) minus {called[first['name']]} ({_trainings(first)})",
        )
        for k, arm in enumerate(arms, start=1)
    ]  # fmt: skip
    for face, label in (("0.3", "corrected p < 0.05"), ("white", "no evidence")):
        lines.append(Line2D([], [], color="0.3", marker="o", linestyle="none", markerfacecolor=face, label=label))
    return lines


def _trainings(arm: Mapping[str, Any]) -> str:
    return f"{arm['trainings']} training{'s' if arm['trainings'] > 1 else ''}"
