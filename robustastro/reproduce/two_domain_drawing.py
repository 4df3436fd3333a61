"""Figures of a study of a source and a target."""

from __future__ import annotations

from collections.abc import Sequence

from robustastro.figures.style import save
from robustastro.progress import Progress
from robustastro.reproduce import drawing
from robustastro.reproduce.measures import Arm
from robustastro.reproduce.pages import Row
from robustastro.reproduce.two_domain_page import rows
from robustastro.reproduce.two_domains import DOMAINS, Setting

CAPTION = "Accuracy on the {near} test galaxies of the source and the {far} of the target{balanced}. "


def accuracies(found: Row, setting: Setting) -> list[tuple[str, str]]:
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


def draw(setting: Setting, arms: Sequence[Arm], found: Row, progress: Progress) -> list[tuple[str, str]]:
    """Draw what there is: (file, caption) of each figure."""
    return accuracies(found, setting)
