"""Galaxies: images with labels, stable ids and everything known about how they were made."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch

from perturbations.core import Observation
from perturbations.errors import InputError
from perturbations.exposure import Exposure

CHUNK = 64  # images read at a time


class Images(Protocol):
    """An array (N, C, H, W) that may stay on disk; indexed by an array of positions."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, which: Any, /) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class Galaxies:
    """Images of galaxies and what is known of them.

    Parameters
    ----------
    images : (N, C, H, W), any real dtype, in memory or lazy. With an `exposure`: electrons of the reference exposure;
        without: display values without units, on the scale of the file.
    labels : (N,) int64 positions in `classes`, -1 where the class is none of them (its name is then in the catalogue
        column `class`), or None where the data has no labels.
    ids : N different strings; random draws and splits hang on them.
    classes : names of the classes.
    bands : names of the channels.
    exposure : Exposure of the images, or None where they have no physical units.
    catalogue : one row per galaxy of anything else (magnitude, size, vote fractions, ...).
    domain : a name for where the images come from ("LSST Y10").
    source : how to get them again: {"path", "format", ...} or {"recipe": ...}.
    notes : remarks of the reader for the user (masked pixels interpolated, ...).
    """

    images: Images
    labels: np.ndarray | None
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    bands: tuple[str, ...]
    exposure: Exposure | None = None
    catalogue: pd.DataFrame = field(default_factory=pd.DataFrame)
    domain: str = "unnamed"
    source: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.ids)
        if n == 0:
            raise InputError(f"{self.domain}: no galaxies", "at least one", "check the file or the selection")
        if len(self.images.shape) != 4 or self.images.shape[0] != n:
            raise InputError(
                f"{self.domain}: images of shape {tuple(self.images.shape)} for {n} galaxies",
                "(N, C, H, W), one image per galaxy",
                "check the axes of the image array",
            )
        if self.images.shape[1] != len(self.bands):
            raise InputError(
                f"{self.domain}: {self.images.shape[1]} channels, bands {', '.join(self.bands)}",
                "one name per channel",
                "name the bands of the images",
            )
        if len(set(self.ids)) != n:
            seen: set[str] = set()
            twice = next(i for i in self.ids if i in seen or seen.add(i))
            raise InputError(
                f"{self.domain}: galaxy id '{twice}' occurs twice", "ids are unique", "drop the duplicates"
            )
        if self.labels is not None and (
            self.labels.shape != (n,) or self.labels.min() < -1 or self.labels.max() >= len(self.classes)
        ):
            raise InputError(
                f"{self.domain}: labels from {self.labels.min()} to {self.labels.max()}, shape {self.labels.shape}",
                f"one of 0 to {len(self.classes) - 1} ({', '.join(self.classes)}) per galaxy",
                "check the label column and the class names",
            )
        if self.exposure is not None:
            self.exposure.check(n)
        if len(self.catalogue) not in (0, n):
            raise InputError(
                f"{len(self.catalogue)} catalogue rows for {n} galaxies", "one row each", "match them by id"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, which: Sequence[int] | np.ndarray) -> Galaxies:
        """A subset by position; images stay where they are until they are read."""
        which = np.ascontiguousarray(which, dtype=np.int64)
        return replace(
            self,
            images=_Subset(self.images, which),
            labels=None if self.labels is None else self.labels[which],
            ids=tuple(self.ids[i] for i in which),
            exposure=None if self.exposure is None else self.exposure.take(which),
            catalogue=self.catalogue.iloc[which].reset_index(drop=True) if len(self.catalogue) else self.catalogue,
        )

    def batch(self, which: Sequence[int] | np.ndarray | slice) -> torch.Tensor:
        """Images of a few galaxies, float32 (n, C, H, W)."""
        positions = np.arange(len(self))[which]
        with np.errstate(over="ignore"):  # said below
            values = np.ascontiguousarray(self.images[positions], dtype=np.float32)
        good = np.isfinite(values).all(axis=(1, 2, 3))
        if not good.all():
            raise InputError(
                f"galaxy '{self.ids[positions[np.argmin(good)]]}' has pixels that are not finite in float32",
                "finite pixels",
                "mask or drop it",
            )
        return torch.from_numpy(values)

    def observation(self, which: Sequence[int] | np.ndarray | slice) -> Observation:
        """Images of a few galaxies with their exposure.

        Raises
        ------
        InputError : the images have no Exposure.
        """
        if self.exposure is None:
            raise InputError(f"{self.domain} has no Exposure", "images in flux units", "declare them with --exposure")
        positions = np.arange(len(self))[which]
        return Observation(self.batch(positions), self.exposure.take(positions))

    def with_classes(self, classes: Sequence[str], keep_unknown: bool = False) -> Galaxies:
        """The same galaxies with labels counted in the order of `classes` (a model's).

        Parameters
        ----------
        keep_unknown : keep galaxies of other classes, with the label -1 and the name of their class in the catalogue.

        Raises
        ------
        InputError : a galaxy has a label that is not among `classes`, and they are not to be kept.
        """
        if tuple(classes) == self.classes or self.labels is None:
            return self
        present = [self.classes[k] for k in np.unique(self.labels[self.labels >= 0])]
        strange = [name for name in present if name not in classes]
        if strange and not keep_unknown:
            raise InputError(
                f"{self.domain}: label '{strange[0]}'",
                f"the model's classes are {', '.join(classes)}",
                "rename the labels, or drop these galaxies",
            )
        position = np.array([*(list(classes).index(c) if c in classes else -1 for c in self.classes), -1])
        catalogue = self.catalogue
        if strange:
            before: Any = self.catalogue.get("class", "")
            named = np.where(self.labels >= 0, np.array(self.classes, dtype=object)[self.labels], before)
            catalogue = catalogue.assign(**{"class": named}) if len(catalogue) else pd.DataFrame({"class": named})
        return replace(self, labels=position[self.labels], classes=tuple(classes), catalogue=catalogue)

    def digest(self) -> str:
        """SHA-256 over ids, labels, class and band names, exposure and pixels (as float32)."""
        h = hashlib.sha256(repr((self.ids, self.classes, self.bands)).encode())
        h.update(repr(None if self.exposure is None else self.exposure.to_dict()).encode())
        if self.labels is not None:
            h.update(np.asarray(self.labels, dtype="<i8").tobytes())
        for start in range(0, len(self), CHUNK):
            h.update(self.batch(slice(start, start + CHUNK)).numpy().astype("<f4", copy=False).tobytes())
        return h.hexdigest()


@dataclass(frozen=True)
class _Subset:
    """Some images of an array, read when asked for."""

    images: Images
    which: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.which), *self.images.shape[1:])

    def __getitem__(self, which: Any) -> np.ndarray:
        return self.images[self.which[which]]
