"""A folder of pictures (PNG, JPEG, TIFF): with a catalogue, or one subfolder per class, or neither.

Pictures are display images: their values have no unit. In `catalogue.csv` the column `file` (or `id`) names the picture
and `label` the class; the other columns travel along.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from perturbations.errors import InputError
from robustastro.data.readers import PICTURES, suffix_of
from robustastro.data.readers.assemble import Found, Request
from robustastro.data.readers.catalogue import beside, files_below, label_values, matched, others, read_table, stem_of

EAGER = 1 << 30  # bytes; a folder below it is read at once
# What Pillow calls a picture, and what it is read as. Palettes, transparency and print colours become RGB or grey.
MODES = {
    "1": "L",
    "L": "L",
    "LA": "L",
    "P": "RGB",
    "PA": "RGB",
    "RGB": "RGB",
    "RGBA": "RGB",
    "CMYK": "RGB",
    "YCbCr": "RGB",
}
DEEP = {"I;16": np.uint16, "I;16B": np.uint16, "I": np.int32, "F": np.float32}
BANDS = {"RGB": ("red", "green", "blue")}
BROKEN = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


@dataclass(frozen=True)
class PictureFiles:
    """Pictures of one size and mode as (N, C, H, W), decoded when indexed."""

    files: tuple[Path, ...]
    shape: tuple[int, ...]
    mode: str

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(DEEP.get(self.mode, np.uint8))

    def __getitem__(self, which: Any) -> np.ndarray:
        positions = np.atleast_1d(np.arange(len(self.files))[which])
        values = np.empty((len(positions), *self.shape[1:]), dtype=self.dtype)
        for row, position in enumerate(positions):
            values[row] = self._one(self.files[position])
        return values

    def _one(self, file: Path) -> np.ndarray:
        try:
            with Image.open(file) as picture:
                array = np.asarray(picture if self.mode in DEEP else picture.convert(self.mode))
        except BROKEN as problem:
            raise _unreadable(file, problem) from None
        return array[None] if array.ndim == 2 else np.moveaxis(array, 2, 0)


def find(path: Path, request: Request) -> Found:
    """The galaxies of a folder of pictures."""
    where = beside(path, request.catalogue)
    table, labels = pd.DataFrame(), None
    if where is not None:
        rows = read_table(where)
        labels = label_values(rows, request.label_column, where)
        files, ids = matched(path, rows, where, PICTURES)
        table = others(rows, request.label_column)
    else:
        files = [f for f in files_below(path) if suffix_of(f) in PICTURES]
        below = [f for f in files if f.parent != path]
        if below and len(below) < len(files):
            odd = next(f for f in files if f.parent == path)
            raise InputError(
                f"{odd} lies beside subfolders of pictures", "one subfolder per class", "move it or add a catalogue.csv"
            )
        ids = [str(f.relative_to(path).with_name(stem_of(f, PICTURES)).as_posix()) for f in files]
        labels = [f.parent.name for f in files] if below else None
    shape, mode, notes = _common(files)
    if request.exposure is not None and mode not in DEEP:
        raise InputError(
            f"an exposure for the 8-bit pictures of {path}",
            "display images have no electrons",
            "leave the exposure out, or read the FITS images",
        )
    images = PictureFiles(tuple(files), (len(files), *shape), mode)
    size = int(np.prod(images.shape)) * images.dtype.itemsize
    return Found(
        images[:] if size < EAGER else images,
        ids,
        labels=labels,
        bands=None if request.bands is not None else BANDS.get(mode),
        catalogue=table,
        notes=notes,
    )


def _common(files: Sequence[Path]) -> tuple[tuple[int, int, int], str, tuple[str, ...]]:
    """Shape (C, H, W) and mode that all pictures have."""
    first, notes = None, ()
    for file in files:
        try:
            with Image.open(file) as picture:
                raw, size = picture.mode, picture.size
        except BROKEN as problem:
            raise _unreadable(file, problem) from None
        if raw not in MODES and raw not in DEEP:
            raise InputError(
                f"{file} has the mode '{raw}'", "grey or RGB, 8 bits; or one channel of 16 or 32", "convert it"
            )
        mode = MODES.get(raw, raw)
        if raw not in (mode, "1"):
            notes = (f"pictures of mode {raw} read as {mode}",)
        if first is None:
            first = (size, mode)
        if (size, mode) != first:
            raise InputError(
                f"{file} is {size[0]} x {size[1]} {mode}",
                f"{first[0][0]} x {first[0][1]} {first[1]}, as the first one",
                "convert all pictures to one size and mode",
            )
    assert first is not None  # the folder was chosen for its pictures, and a catalogue has rows
    (width, height), mode = first
    return (3 if mode == "RGB" else 1, height, width), mode, notes


def _unreadable(file: Path, problem: Exception) -> InputError:
    return InputError(
        f"cannot read the picture {file}: {problem}", "a whole PNG, JPEG or TIFF", "copy or download it again"
    )
