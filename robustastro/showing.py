"""What `robustastro show` does: the facts of a perturbation, and what it does to galaxies."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perturbations.core import Perturbation, Unstretched, get, refusal
from perturbations.draws import Draws
from perturbations.errors import InputError
from robustastro.adapt.training import fit_contract
from robustastro.commands import Reading, open_data
from robustastro.contract import InputContract
from robustastro.data.galaxies import Galaxies
from robustastro.evaluate.plan import step
from robustastro.figures import strip
from robustastro.figures.images import band_note
from robustastro.figures.style import save
from robustastro.listing import rows as listed
from robustastro.metrics.tables import strength_text, unit_text
from robustastro.progress import Progress
from robustastro.record import refuse_place, write_whole

MOCKS, SEED = 60, 3  # mock galaxies that the stretch is fitted to, and their seed
WIDTH = 110  # characters of a line of text
SHORT = 8  # characters of a unit that fits over an image


def one(
    name: str,
    options: Sequence[str],
    data: str | None,
    reading: Reading,
    count: int,
    seed: int,
    out: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Facts of one perturbation; of a corruption also a strip on a few galaxies, written to `out`."""
    entry = get(name)
    resolved = step(name, options=options).options
    result = {"schema": 1, **entry.facts(), "options": resolved, "figure": None}
    if entry.kind == "corruption":
        refuse_place(out, folder=False)
        galaxies, contract = _galaxies(data, reading, count, progress)
        save(_figure(entry, resolved, galaxies, contract, seed), out)
        result["figure"] = str(out)
    return result


def every(data: str | None, reading: Reading, count: int, seed: int, out: Path, progress: Progress) -> list[Path]:
    """A strip of every corruption that these galaxies allow, and a page with all of them; the page comes last."""
    refuse_place(out, folder=True)
    galaxies, contract = _galaxies(data, reading, count, progress)
    made, families, refused = [], {}, {}
    entries = [get(row["name"]) for row in listed("perturbations") if row["kind"] == "corruption"]
    for done, entry in enumerate(entries):
        progress("show", done, len(entries))
        try:
            figure = _figure(entry, entry.resolve({}), galaxies, contract, seed)
        except InputError as problem:
            refused[entry.name] = str(problem)
            continue
        path = out / f"{entry.name}.jpg"
        save(figure, path, dpi=110)
        made.append(path)
        families.setdefault(entry.family, []).append(entry.facts())
    page = _page(families, refused, galaxies, made, data)
    write_whole(out / "index.md", lambda file: file.write_text(page))
    return [*made, out / "index.md"]


def text(result: Mapping[str, Any]) -> str:
    """The facts for people."""
    unit = unit_text(result["unit"])
    identity = result["identity"]
    lines = [
        f"{result['name']} ({result['family']}, {result['kind']}, {result['space']} space, "
        f"version {result['version']})",
        *textwrap.wrap(result["description"], WIDTH, initial_indent="  ", subsequent_indent="  "),
        "",
        f"  strength   {result['parameter']}" + (f" [{unit}]" if unit else ""),
        f"  ladder     {', '.join(f'{rung:g}' for rung in result['ladder'])}",
        f"  identity   {'none' if identity is None else f'{identity:g}'}",
    ]
    lines += [f"  option     {name} = {value}" for name, value in result["options"].items()]
    source = textwrap.wrap(f"source     {result['source']}", WIDTH, initial_indent="  ", subsequent_indent=" " * 13)
    lines += source
    if result["figure"]:
        lines.append(f"  figure     {result['figure']}")
    else:
        lines.append(f"  an attack needs a model: robustastro attack --model M.pt --attack {result['name']}")
    return "\n".join(lines)


def _galaxies(data: str | None, reading: Reading, count: int, progress: Progress) -> tuple[Galaxies, InputContract]:
    """A few galaxies, of each class in turn, and a stretch fitted to the data for display."""
    if count < 1:
        raise InputError(f"--galaxies {count}", "at least 1", "leave it out for one")
    if data is None:
        from robustastro.data.mocks import Recipe, simulate

        every = simulate(Recipe(n=MOCKS, seed=SEED), progress=lambda d, t: progress("simulate", d, t))
    else:
        every = open_data(data, reading)
    if every.labels is None:
        order = np.arange(len(every))
    else:
        nth = np.array([int(np.sum(every.labels[:k] == label)) for k, label in enumerate(every.labels)])
        order = np.lexsort((every.labels, nth))
    if len(every.classes) < 2:  # a stretch needs no classes, a contract does
        return every.take(order[:count]), fit_contract(replace(every, labels=None, classes=("one", "other")))
    return every.take(order[:count]), fit_contract(every)


def _figure(
    entry: Perturbation, options: Mapping[str, Any], galaxies: Galaxies, contract: InputContract, seed: int
) -> Any:
    which = np.arange(len(galaxies))
    raw = galaxies.batch(which)
    clean = contract.to_input(raw, galaxies.bands)
    draws = Draws(galaxies.ids, seed)

    def perturbed(strength: float) -> torch.Tensor:
        if entry.space == "input":
            return entry(clean, strength, draws, **options)
        if entry.space == "stretch":
            return contract.to_input(
                raw,
                galaxies.bands,
                lambda values: entry(Unstretched(values, contract.stretch), strength, draws, **options),
            )
        if galaxies.exposure is None:
            raise refusal(entry)
        return contract.to_input(entry(galaxies.observation(which), strength, draws, **options).flux, galaxies.bands)

    unit = unit_text(entry.unit)
    beside = entry.unit if len(unit) <= SHORT else "1"  # a long one is in the title alone
    rungs = [(strength_text({"strength": s, "unit": beside}), perturbed(s).numpy()) for s in entry.ladder]
    title = f"{entry.name}: {entry.parameter}" + (f" [{unit}]" if unit else "")
    labels = galaxies.labels
    names = [str(i) for i in galaxies.ids] if labels is None else [galaxies.classes[k] for k in labels]
    return strip.figure(clean.numpy(), rungs, galaxies.bands, title, names)


def _page(
    families: Mapping[str, Sequence[Mapping[str, Any]]],
    refused: Mapping[str, str],
    galaxies: Galaxies,
    made: Sequence[Path],
    data: str | None,
) -> str:
    lines = [
        "# Every corruption on the same galaxies",
        "",
        f"{len(made)} corruptions on {len(galaxies)} galaxies of {galaxies.domain}. "
        + strip.caption(band_note(galaxies.bands)),
        f"Made by `robustastro show --all{f' --data {data}' if data else ''} --galaxies {len(galaxies)}`.",
    ]
    for family, entries in families.items():
        lines += ["", f"## {family}"]
        for entry in entries:
            lines += [
                "",
                f"**{entry['name']}**. {entry['description']}",
                "",
                f"![{entry['name']}]({entry['name']}.jpg)",
            ]
    if refused:
        lines += ["", "## Refused on these galaxies", ""]
        lines += [f"- `{name}`: {why}" for name, why in refused.items()]
    return "\n".join(lines) + "\n"
