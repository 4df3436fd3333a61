"""NumPy files: an `.npz` with named arrays, or an `.npy` of images with its labels in a file beside it.

Without ids in the file they are made from the pixels: an `.npy` stays on disk, but is read once, in chunks, at opening.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from perturbations.errors import InputError, unknown_name
from robustastro.data.readers.assemble import Found, Request, checked_dtype
from robustastro.data.readers.labels import coded

IMAGES, LABELS, CLASSES = ("images", "X", "x"), ("labels", "y"), ("classes", "class_names")
MOST_CHANNELS = 6  # an axis this short can be the channels
BROKEN = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class MappedImages:
    """Images (N, C, H, W) of an `.npy` file, mapped into memory and read when indexed.

    Parameters
    ----------
    path : the file; mapped anew in every process.
    layout : "NHW", "NCHW" or "NHWC".
    """

    path: Path
    layout: str

    @cached_property
    def array(self) -> np.ndarray:
        return as_nchw(load(self.path, mapped=True), self.layout)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    def __getitem__(self, which: Any) -> np.ndarray:
        return np.asarray(self.array[which])

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "layout": self.layout}  # a pickled memory map would carry every pixel


def find(path: Path, request: Request) -> Found:
    """The galaxies of an `.npz` or `.npy` file."""
    if path.suffix.lower() == ".npz":
        return _npz(path, request)
    from robustastro.data.readers import deepadversaries, deepmerge

    if (name := deepmerge.set_of(path)) is not None:
        return deepmerge.find(path.parent, replace(request, choice=name))
    labels, ids = _labels_beside(path), None
    images, notes = mapped(path)
    if (choice := deepadversaries.choice_of(path)) is not None:
        labels, ids = path.parent / choice.labels, deepadversaries.numbered(choice, len(images.array))
    return Found(images, ids, labels=None if labels is None else load(labels), notes=notes)


def _npz(path: Path, request: Request) -> Found:
    """Images under images, X or x; labels, ids, classes and bands if they are there; the rest as columns."""
    with load(path) as stored:
        key = next((k for k in IMAGES if k in stored.files), None)
        if key is None:
            raise InputError(
                f"{path} has the arrays {', '.join(stored.files)}", "one named images, X or x", "rename the images"
            )
        arrays = {name: _member(stored, name, path) for name in stored.files}
    images = arrays.pop(key)
    checked_dtype(images.dtype, f"{path}: '{key}'")
    layout, notes = layout_of(images.shape, path)
    label_key = next((k for k in (request.label_column, *LABELS) if k in arrays), None)
    if request.label_column not in ("label", None, label_key):
        raise unknown_name(f"label array of {path}", str(request.label_column), arrays, "Name it with --label-column")
    labels = None if label_key is None else arrays.pop(label_key)
    names = next((arrays.pop(k) for k in CLASSES if k in arrays), None)
    ids, bands = arrays.pop("ids", None), arrays.pop("bands", None)
    if ids is not None:
        ids, more = _unique(_text(ids), labels, names, images)
        notes = (*notes, *more)
    columns = {name: a for name, a in arrays.items() if a.shape == images.shape[:1]}
    ignored = [name for name in arrays if name not in columns]
    if ignored:
        notes = (*notes, f"arrays not used: {', '.join(ignored)}")
    return Found(
        as_nchw(images, layout),
        ids,
        labels=labels,
        classes=None if names is None else tuple(_text(names)),
        bands=None if bands is None else tuple(_text(bands)),
        catalogue=pd.DataFrame(columns),
        notes=notes,
    )


def mapped(path: Path) -> tuple[MappedImages, tuple[str, ...]]:
    """The images of an `.npy` file, left on disk, and a note where the order of the axes was guessed."""
    header = load(path, mapped=True)
    checked_dtype(header.dtype, str(path))
    layout, notes = layout_of(header.shape, path)
    return MappedImages(path, layout), notes


def load(path: Path, mapped: bool = False) -> Any:
    """np.load without pickle; a broken file is an InputError."""
    if not path.is_file():
        raise InputError(f"{path} does not exist", "a NumPy file", "check the path")
    try:
        return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except BROKEN as problem:
        raise _unreadable(path, problem) from None


def labels_of(path: Path, classes: tuple[str, ...], count: int) -> np.ndarray:
    """Positions in `classes`, from a file that must have one label for each of `count` images."""
    labels, _ = coded(load(path), classes, None, str(path))
    if len(labels) != count:
        raise InputError(
            f"{path}: {len(labels)} labels for {count} images", "one per image", "check that the files belong together"
        )
    return labels


def layout_of(shape: tuple[int, ...], path: Path) -> tuple[str, tuple[str, ...]]:
    """The order of the axes, and a note where it was guessed."""
    if len(shape) == 3:
        return "NHW", ()
    if len(shape) != 4:
        raise InputError(
            f"{path}: images of shape {shape}", "(N, H, W), (N, C, H, W) or (N, H, W, C)", "reshape the images"
        )
    if 1 <= shape[3] <= MOST_CHANNELS < min(shape[1:3]):
        return "NHWC", (f"axes of shape {shape} read as (N, H, W, C)",)
    return "NCHW", ()


def as_nchw(images: np.ndarray, layout: str) -> np.ndarray:
    """A view of the images with the axes (N, C, H, W)."""
    return images[:, None] if layout == "NHW" else np.moveaxis(images, 3, 1) if layout == "NHWC" else images


def _labels_beside(path: Path) -> Path | None:
    """The labels of an .npy file, by names such as x_X_1 and x_y_1."""
    others = (path.name.replace("images", "labels"), path.name.replace("_X_", "_y_"))
    return next((path.parent / o for o in others if o != path.name and (path.parent / o).is_file()), None)


def _unique(
    ids: list[str], labels: np.ndarray | None, names: np.ndarray | None, images: np.ndarray
) -> tuple[list[str], tuple[str, ...]]:
    """Ids that are file names from one folder per class repeat between classes: then the class becomes part of them.

    Only where the images of the galaxies that share an id differ; else the ids stay, and are refused as duplicates.
    """
    if labels is None or labels.shape != (len(ids),) or len(set(ids)) == len(ids):
        return ids, ()
    codes = _text(labels)
    if names is not None and labels.dtype.kind in "iu" and 0 <= labels.min() <= labels.max() < len(names):
        codes = _text(names[labels])
    full = [f"{code}/{name}" for code, name in zip(codes, ids, strict=True)]
    first: dict[str, int] = {}
    twins = [(first[name], k) for k, name in enumerate(ids) if first.setdefault(name, k) != k]
    if len(set(full)) < len(full) or any(np.array_equal(images[a], images[b]) for a, b in twins):
        return ids, ()
    return full, ("ids repeat between classes, with other images: the class was put before them",)


def _member(stored: Any, name: str, path: Path) -> np.ndarray:
    try:
        return stored[name]
    except BROKEN as problem:
        raise _unreadable(path, problem, name) from None


def _unreadable(path: Path, problem: Exception, name: str = "") -> InputError:
    where = f"{path}: '{name}'" if name else str(path)
    if "pickle" in str(problem).lower() or "object" in str(problem).lower():
        return InputError(
            f"{where} holds Python objects or is no NumPy array", "plain arrays", "save numbers and text without pickle"
        )
    return InputError(f"cannot read {where}: {problem}", "a whole NumPy file", "copy or download it again")


def _text(values: np.ndarray) -> list[str]:
    values = np.atleast_1d(values)
    return np.char.decode(values, "utf-8").tolist() if values.dtype.kind == "S" else [str(v) for v in values.tolist()]
