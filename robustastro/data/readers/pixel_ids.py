"""Ids of galaxies whose file gives none: a hash of the pixels, so that they hang on the galaxies and not on the file.

A file may be renamed, split or reordered and its galaxies are still known, as having been trained on for one; and two
files of the same name share none. The same galaxy at another depth has other pixels: only ids in the files tell that.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from robustastro.data.galaxies import CHUNK

NOTE = "no ids in the file: made from the pixels"
PREFIX = "px-"


def from_pixels(images: Any) -> list[str]:
    """An id for each of the images (N, C, H, W), which are read once, in chunks.

    "px-" and the BLAKE2b hash (8 bytes, in hex) of the shape (C, H, W) and the pixels as little-endian float32; where
    the same image comes again it ends in "-2", "-3", ...
    """
    shape, names = tuple(images.shape), []
    for start in range(0, shape[0], CHUNK):
        with np.errstate(over="ignore"):  # numbers beyond float32 are refused when the images are used
            chunk = np.ascontiguousarray(images[start : start + CHUNK], dtype="<f4")
        for image in chunk:
            digest = hashlib.blake2b(repr(shape[1:]).encode() + image.tobytes(), digest_size=8)
            names.append(PREFIX + digest.hexdigest())
    return counted(names)


def counted(names: Iterable[str]) -> list[str]:
    """The names, with "-2", "-3", ... at the end of those that came before."""
    seen, ids = Counter[str](), []
    for name in names:
        seen[name] += 1
        ids.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return ids


def named(ids: Sequence[str], index: int) -> str:
    """A galaxy in words; by its position too where the id is one that its owner does not know."""
    return f"galaxy '{ids[index]}'" + (f" (image {index}, from 0)" if ids[index].startswith(PREFIX) else "")
