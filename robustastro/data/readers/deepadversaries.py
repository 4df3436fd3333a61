"""The folder of Ciprijanovic et al. 2022 (arXiv:2112.14299; data Zenodo 5514180): LSST mocks, ten years and one.

`images_{Y10,Y1}_{train,valid,test}.npy` (N, 3, H, W) with one-hot `labels_{train,valid,test}.npy`, and a subset of 150
galaxies: `regular_images_150.npy` (Y10), `noisy_images_150.npy` (Y1), `labels_150.npy`. A galaxy has the same position
at both depths, and so the same id here. A depth alone ("folder::Y10") is its splits one after the other.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from perturbations.errors import InputError, unknown_name
from robustastro.data.galaxies import Images
from robustastro.data.readers.arrays import labels_of, mapped
from robustastro.data.readers.assemble import Found, Request
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


def sets(folder: Path) -> tuple[str, ...]:
    """The depths that a folder holds, each of which may follow "::" by itself."""
    return tuple(dict.fromkeys(name.split("/")[0] for name in choices(folder)))


def choice_of(path: Path) -> Choice | None:
    """The set of the layout that an `.npy` file opened by itself is: by its name, and by the labels beside it."""
    return next((c for c in ALL.values() if c.images == path.name and (path.parent / c.labels).is_file()), None)


def numbered(choice: Choice, count: int) -> list[str]:
    """Ids by position, equal at both depths."""
    return [f"{choice.stem}-{index:06d}" for index in range(count)]


@dataclass(frozen=True)
class JoinedImages:
    """Images (N, C, H, W) of several files one after the other, left on disk."""

    parts: tuple[Images, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(p.shape[0] for p in self.parts), *self.parts[0].shape[1:])

    @property
    def dtype(self) -> np.dtype:
        return np.result_type(*(getattr(p, "dtype", np.float32) for p in self.parts))

    def __getitem__(self, which: Any) -> np.ndarray:
        positions = np.atleast_1d(np.arange(self.shape[0])[which])
        values, start = np.empty((len(positions), *self.shape[1:]), dtype=self.dtype), 0
        for part in self.parts:
            stop = start + part.shape[0]
            here = (start <= positions) & (positions < stop)
            if here.any():
                values[here] = part[positions[here] - start]
            start = stop
        return values


def find(path: Path, request: Request) -> Found:
    """The set that the suffix of the path and `split` choose, or all the splits of a depth, joined."""
    name, chosen = _chosen(path, request)
    opened = [mapped(path / choice.images) for choice in chosen]
    parts, catalogues, ids, labels = [images for images, _ in opened], [], [], []
    for choice, images in zip(chosen, parts, strict=True):
        count = len(images.array)
        if images.shape[1:] != parts[0].shape[1:]:
            raise InputError(
                f"{path / choice.images}: images of shape {images.shape[1:]}",
                f"{parts[0].shape[1:]}, as in {chosen[0].images}",
                f"name one split: {path}::{choice.depth}/{choice.split}",
            )
        ids += numbered(choice, count)
        catalogues.append(pd.DataFrame({} if choice.split is None else {"split": [choice.split] * count}))
        if request.label_column is not None:
            # checked file by file, as too many in one could make up for too few in the next
            labels.append(labels_of(path / choice.labels, CLASSES, count))
    return Found(
        parts[0] if len(parts) == 1 else JoinedImages(tuple(parts)),
        ids,
        labels=np.concatenate(labels) if labels else None,
        classes=CLASSES,
        bands=BANDS,
        catalogue=pd.concat(catalogues),
        domain=chosen[0].depth,
        source={"choice": name},
        notes=tuple(dict.fromkeys(note for _, notes in opened for note in notes)),
    )


def _chosen(path: Path, request: Request) -> tuple[str, list[Choice]]:
    """A name of what was asked for, and the sets that it is."""
    known = choices(path)
    words = {w for w in (request.choice or "").split("/") if w} | ({request.split} if request.split else set())
    vocabulary = {w for name in known for w in name.split("/")}
    for word in sorted(words - vocabulary):
        raise unknown_name(f"depth or split of {path}", word, vocabulary, f"There are {', '.join(known)}")
    fitting = {name: choice for name, choice in known.items() if words <= set(name.split("/"))}
    depths = Counter(name.split("/")[0] for name in fitting)
    if len(depths) != 1:
        what = "leaves a choice" if fitting else f"has no set that is {' and '.join(sorted(words))}"
        names = [*(depth for depth, splits in depths.items() if splits > 1), *(fitting or known)]
        raise InputError(f"the folder {path} {what}", f"one of {', '.join(names)}", f"name one: {path}::{names[0]}")
    return next(iter(fitting if len(fitting) == 1 else depths)), list(fitting.values())
