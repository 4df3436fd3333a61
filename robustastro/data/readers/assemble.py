"""From what a format reader found to `Galaxies`: labels, channels, exposure, split, and the check for finite pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from perturbations.errors import InputError, unknown_name
from perturbations.exposure import Exposure
from robustastro.data.galaxies import Galaxies, Images
from robustastro.data.readers import pixel_ids
from robustastro.data.readers.labels import coded


@dataclass(frozen=True)
class Request:
    """What the caller of `read` asked for; `choice` is what followed "::" in the path."""

    exposure: Exposure | None = None
    label_column: str | None = "label"
    masked: str | None = None
    classes: tuple[str, ...] | None = None
    bands: tuple[str, ...] | None = None
    domain: str | None = None
    split: str | None = None
    catalogue: Path | None = None
    choice: str | None = None


@dataclass(frozen=True)
class Found:
    """What a format reader found in a file.

    Parameters
    ----------
    images : (N, C, H, W), in memory or lazy.
    ids : N names; or None: made from the pixels, which are all read once.
    labels : class names, integers or one-hot rows as they stand in the file; or None.
    classes, bands : names that the file gives, or None.
    exposure : of these images, where the reader has a better one than the one asked for; else None.
    catalogue : one row per galaxy.
    domain : the file's name for where the images come from, or None.
    source : entries for `Galaxies.source`.
    notes : remarks for the user.
    """

    images: Any
    ids: Sequence[str] | None
    labels: Any = None
    classes: tuple[str, ...] | None = None
    bands: tuple[str, ...] | None = None
    exposure: Exposure | None = None
    catalogue: pd.DataFrame = field(default_factory=pd.DataFrame)
    domain: str | None = None
    source: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class FiniteImages:
    """Images that are refused, with the galaxy's id, when one that is not finite is read."""

    images: Images
    ids: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.images.shape

    def __getitem__(self, which: Any) -> np.ndarray:
        values = self.images[which]
        good = np.isfinite(values).reshape(-1, *self.shape[1:]).all(axis=(1, 2, 3))
        if not good.all():
            first = np.atleast_1d(np.arange(len(self.ids))[which])[np.argmin(good)]
            raise not_finite(pixel_ids.named(self.ids, first))
        return values


def not_finite(galaxy: str) -> InputError:
    """The error for a galaxy with a pixel that is NaN or infinite."""
    return InputError(f"{galaxy} has pixels that are NaN or infinite", "finite pixels", "mask or drop it")


def assemble(found: Found, request: Request, path: Path, source: Mapping[str, Any]) -> Galaxies:
    """Galaxies of what was found, and of them those of the split asked for.

    Raises
    ------
    InputError : numbers of images, labels and ids differ; labels or bands are not those asked for; no such split.
    """
    shape = tuple(found.images.shape)
    count, notes = shape[0], list(found.notes)
    if count == 0 or 0 in shape:
        raise InputError(f"{path} holds no galaxies (images of shape {shape})", "at least one", "check the file")
    labels, classes = None, request.classes or found.classes or ()
    if found.labels is not None and request.label_column is not None:
        labels, classes = coded(found.labels, found.classes, request.classes, str(path))
    for name, values in (("labels", labels), ("ids", found.ids)):
        number = count if values is None else len(values)
        if number != count:
            raise InputError(
                f"{path}: {number} {name} for {count} images", "one per image", "check that the files belong together"
            )
    bands, exposure = channels(shape[1], found.bands, request, found.exposure)
    if found.ids is None:
        notes.append(pixel_ids.NOTE)
    ids = tuple(pixel_ids.from_pixels(found.images) if found.ids is None else map(str, found.ids))
    kind = np.dtype(getattr(found.images, "dtype", np.float32)).kind
    galaxies = Galaxies(
        images=FiniteImages(found.images, ids) if kind == "f" else found.images,
        labels=labels,
        ids=ids,
        classes=classes,
        bands=bands,
        exposure=exposure,
        catalogue=found.catalogue.reset_index(drop=True),
        domain=request.domain or found.domain or path.stem,
        source={**found.source, **source},
        notes=tuple(notes),
    )
    return galaxies if request.split is None else _of_split(galaxies, request.split, path)


def channels(
    count: int, names: tuple[str, ...] | None, request: Request, own: Exposure | None = None
) -> tuple[tuple[str, ...], Exposure | None]:
    """Names of the channels and the exposure in their order.

    Parameters
    ----------
    count : channels of the images.
    names : their names in the file, or None.
    own : the exposure that the reader found or changed; otherwise the one asked for.

    Raises
    ------
    InputError : the names asked for are not those of the file, or not as many as there are channels.
    """
    exposure = request.exposure if own is None else own
    if names is not None and request.bands is not None and names != request.bands:
        raise InputError(
            f"bands {', '.join(request.bands)} asked for",
            f"the file has {', '.join(names)}",
            "leave --bands out, or write them so",
        )
    bands = names or request.bands or (exposure.bands if exposure is not None else None)
    if bands is None:
        bands = tuple(f"channel {k}" for k in range(count))
    if len(bands) != count:
        raise InputError(
            f"{len(bands)} bands ({', '.join(bands)}) for images of {count} channel(s)",
            "one name per channel",
            "correct the bands",
        )
    return bands, None if exposure is None else exposure if exposure.bands == bands else exposure.pick(bands)


def chosen_set(path: Path, request: Request, known: Sequence[str]) -> str:
    """The set of a folder that follows "::" in the path, or the only one there is.

    Raises
    ------
    InputError : there are several and none is chosen, or not the one that is.
    """
    if request.choice is None and len(known) > 1:
        raise InputError(
            f"the folder {path} leaves a choice", f"one of {', '.join(known)}", f"name one: {path}::{known[0]}"
        )
    name = known[0] if request.choice is None else request.choice
    if name not in known:
        raise unknown_name(f"set of {path}", name, known)
    return name


def checked_dtype(dtype: np.dtype, what: str) -> None:
    """Refuse pixels that are not real numbers."""
    if dtype.kind not in "buif":
        raise InputError(f"{what} has dtype {dtype}", "real numbers (integers or floats)", "convert the images")


def _of_split(galaxies: Galaxies, split: str, path: Path) -> Galaxies:
    if "split" not in galaxies.catalogue:
        raise InputError(f"{path} does not say which galaxies are '{split}'", "a 'split' column", "leave --split out")
    column = galaxies.catalogue["split"].astype(str)
    if split not in set(column):
        raise unknown_name("split", split, set(column))
    which = np.flatnonzero(column == split)
    return galaxies if len(which) == len(galaxies) else galaxies.take(which)
