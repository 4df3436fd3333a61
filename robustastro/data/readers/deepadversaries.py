"""The folder of Ciprijanovic et al. 2022 (arXiv:2112.14299; data Zenodo 5514180): LSST mocks, ten years and one.

`images_{Y10,Y1}_{train,valid,test}.npy` (N, 3, H, W) with one-hot `labels_{train,valid,test}.npy`, and a subset of 150
galaxies: `regular_images_150.npy` (Y10), `noisy_images_150.npy` (Y1), `labels_150.npy`. A galaxy has the same position
at both depths, and so the same id here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from perturbations.errors import InputError, unknown_name
from robustastro.data.readers.arrays import load, mapped
from robustastro.data.readers.assemble import Found, Request, numbered
from robustastro.data.splits import SPLITS

CLASSES = ("spiral", "elliptical", "merger")
BANDS = ("g", "r", "i")


@dataclass(frozen=True)
class Choice:
    """One set of images of the folder, and the labels that go with it."""

    images: str
    labels: str
    depth: str
    split: str | None
    stem: str


ALL = {
    f"{depth}/{split}": Choice(f"images_{depth}_{split}.npy", f"labels_{split}.npy", depth, split, split)
    for depth in ("Y10", "Y1")
    for split in SPLITS
} | {
    "regular/150": Choice("regular_images_150.npy", "labels_150.npy", "Y10", None, "subset150"),
    "noisy/150": Choice("noisy_images_150.npy", "labels_150.npy", "Y1", None, "subset150"),
}


def choices(folder: Path) -> dict[str, Choice]:
    """The sets of images that a folder holds."""
    return {name: choice for name, choice in ALL.items() if (folder / choice.images).is_file()}


def find(path: Path, request: Request) -> Found:
    """The set that the suffix of the path and `split` choose."""
    known = choices(path)
    words = {w for w in (request.choice or "").split("/") if w} | ({request.split} if request.split else set())
    vocabulary = {w for name in known for w in name.split("/")}
    for word in sorted(words - vocabulary):
        raise unknown_name(f"depth or split of {path}", word, vocabulary, f"There are {', '.join(known)}")
    fitting = {name: choice for name, choice in known.items() if words <= set(name.split("/"))}
    if len(fitting) != 1:
        what = "leaves a choice" if fitting else f"has no set that is {' and '.join(sorted(words))}"
        names = ", ".join(fitting or known)
        raise InputError(
            f"the folder {path} {what}", f"one of {names}", f"name one: {path}::{next(iter(fitting or known))}"
        )
    name, choice = next(iter(fitting.items()))
    images, notes = mapped(path / choice.images)
    count = images.shape[0]
    return Found(
        images,
        numbered(choice.stem, count),
        labels=load(path / choice.labels),
        classes=CLASSES,
        bands=BANDS,
        catalogue=pd.DataFrame({} if choice.split is None else {"split": [choice.split] * count}),
        domain=choice.depth,
        source={"choice": name},
        notes=notes,
    )
