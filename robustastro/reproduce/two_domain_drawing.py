"""Figures of a study of a source and a target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from perturbations.errors import InputError
from robustastro import figures
from robustastro.data.splits import select
from robustastro.evaluate.gradcam import write_gradcam
from robustastro.figures import gradcam
from robustastro.figures.style import save
from robustastro.models.bundles import load_model
from robustastro.models.subject import Subject
from robustastro.progress import Progress, say
from robustastro.record import Record
from robustastro.reproduce import drawing
from robustastro.reproduce.measures import Arm
from robustastro.reproduce.pages import Row
from robustastro.reproduce.study import Folder
from robustastro.reproduce.two_domain_page import rows
from robustastro.reproduce.two_domains import DOMAINS, Setting, known

CAPTION = "Accuracy on the {near} test galaxies of the source and the {far} of the target{balanced}. "
LOOKED = ("none", "mmd", "mmd+transfer")  # of which Grad-CAM maps are drawn, side by side
Made = list[tuple[str, str]]


def accuracies(setting: Setting, found: Row) -> Made:
    """Draw the accuracies of each architecture and test bed: (file, caption)."""
    made = []
    for arch, bed in dict.fromkeys((row["arch"], row["bed"]) for row in found["accuracy"]):
        those = rows(found["accuracy"], arch, bed)
        file = f"accuracy-{arch}-{bed}.png"
        save(drawing.accuracy(those, [(name, name) for name in DOMAINS]), setting.out / file)
        caption = CAPTION.format(
            near=those[0]["source"]["n"], far=those[0]["target"]["n"],
            balanced=", the mean over the classes where these are uneven" if any(those[0]["balanced"].values()) else "",
        )  # fmt: skip
        made.append((file, f"{arch}, {bed}. {caption}{drawing.MARKS}"))
    return made


def spaces(setting: Setting, arms: Sequence[Arm], shown: Sequence[str], wanted: Sequence[str]) -> Made:
    """Figures of the latent space and of predictions, of one training of each method that is shown.

    Parameters
    ----------
    shown : methods, where they are there; the first training seed that all of them have and that did not collapse.
    wanted : names of figures, "roc" of all trainings.
    """
    made = []
    for (arch, bed), those in _by_bed(setting, arms, shown).items():
        every = [[r[name] for r in arm.records] for arm in those for name in DOMAINS]
        names = [_name(setting, arm) for arm in those]
        if "roc" in wanted:
            runs = [run for group in every for run in group]
            called = [n for n, arm in zip(names, those, strict=True) for _ in DOMAINS for _ in arm.records]
            made += _try(setting, "roc", arch, bed, f"{arch}, {bed}.", runs, called)
        seed, one = _common(those)
        if seed is None:
            say(f"no figures of the latent space of {arch}, {bed}: no training seed that all methods have")
            continue
        said = f"{arch}, {bed}, training seed {seed} alone."
        both = [records[name] for records in one for name in DOMAINS]
        doubled = [n for n in names for _ in DOMAINS]
        target = [records["target"] for records in one]
        for name in wanted:
            if name in ("tsne", "entropy"):
                made += _try(setting, name, arch, bed, said, both, doubled)
            elif name == "confusion":
                made += _try(setting, name, arch, bed, said, target, names)
    return made


def looks(setting: Setting, arms: Sequence[Arm], progress: Progress) -> Made:
    """Grad-CAM maps of one training without and with adaptation, of the same galaxies of both domains."""
    made = []
    for (arch, bed), those in _by_bed(setting, arms, LOOKED).items():
        seed, _ = _common(those)
        if seed is None:
            continue
        progress(f"Grad-CAM {arch} {bed}", 0, 1)
        source, target = (select(g, "test") for g in setting.domains(bed, progress))
        folder, subjects = Folder(setting.out), {}
        file = f"gradcam-{arch}-{bed}"
        place = setting.out / "runs" / f"{file}.npz"
        try:
            for arm in those:
                cell = next(c for c in arm.cells if c.seed == seed)
                model = load_model(folder.bundle(cell))
                subjects[_name(setting, arm)] = Subject(model.network, model.contract, model.latent, setting.device)
            write_gradcam(place, subjects, [source, known(target, source.classes)])
        except InputError as problem:  # a model that is no longer there
            say(f"no Grad-CAM of {arch}, {bed}: {problem}")
            continue
        maps = gradcam.Maps.read(place)
        save(gradcam.figure(maps), setting.out / f"{file}.png")
        made.append((f"{file}.png", f"{arch}, {bed}, training seed {seed} alone. {gradcam.caption(maps)}"))
    return made


def _by_bed(setting: Setting, arms: Sequence[Arm], shown: Sequence[str]) -> dict[tuple[str, str], list[Arm]]:
    found: dict[tuple[str, str], list[Arm]] = {}
    for arm in arms:
        if setting.variants[arm.method].name in shown:
            found.setdefault((arm.arch, setting.variants[arm.method].bed), []).append(arm)
    return found


def _common(arms: Sequence[Arm]) -> tuple[int | None, list[Any]]:
    """The first training seed that all have and of which none collapsed, and the records of each."""
    sound = [
        {c.seed: k for k, (c, bad) in enumerate(zip(arm.cells, arm.collapsed, strict=True)) if not bad} for arm in arms
    ]
    seeds = set.intersection(*(set(each) for each in sound))
    if not seeds:
        return None, []
    return min(seeds), [arm.records[at[min(seeds)]] for arm, at in zip(arms, sound, strict=True)]


def _name(setting: Setting, arm: Arm) -> str:
    return setting.variants[arm.method].name


def _try(
    setting: Setting, name: str, arch: str, bed: str, said: str, records: Sequence[Record], names: Sequence[str]
) -> Made:
    """A figure, or a line that says why there is none."""
    file, module = f"{name}-{arch}-{bed}.png", figures.get(name)
    draw: tuple[Callable[..., Any], Callable[..., str]] = module.figure, module.caption
    if name == "confusion":
        draw = module.open_figure, module.open_caption
    try:
        save(draw[0](records, names), setting.out / file)
        return [(file, f"{said} {draw[1](records, names)}")]
    except InputError as problem:
        say(f"no figure {name} of {arch}, {bed}: {problem}")
        return []
