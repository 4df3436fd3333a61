"""Our own file: everything `Galaxies` holds, one galaxy per chunk, read a few galaxies at a time.

```
/images (N, C, H, W) float32      /labels (N,) int64      /ids (N,) text      /catalogue/COLUMN (N,)
attributes: format = "robustastro-galaxies", schema = 1, classes, bands, domain, exposure (JSON), source (JSON), notes
```

Pixels are not compressed: noise does not shrink (6% with shuffle and LZF) and unpacking it made reading ten times
slower. A catalogue column that HDF5 cannot hold as it is (text, dates, missing values) has its pandas dtype as an
attribute, and `/missing/COLUMN` where values are missing.

HDF5 files of others are known by what is in them: `galaxy10`, `deepastrouda`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from perturbations.errors import InputError
from perturbations.exposure import Exposure
from robustastro.data.galaxies import CHUNK, Galaxies
from robustastro.data.readers.arrays import as_nchw, layout_of
from robustastro.data.readers.assemble import Found, Request, checked_dtype
from robustastro.record import write_whole

FORMAT, SCHEMA = "robustastro-galaxies", 1
# Unpacked chunks: in files of others a chunk is often a small piece of hundreds of images. Many slots, because two
# chunks in one slot throw each other out (five times slower).
CACHE, SLOTS = 1 << 28, 100_003  # bytes
TEXT = h5py.string_dtype()


@dataclass(frozen=True)
class StoredImages:
    """Images (N, C, H, W) in an HDF5 file that is open only while some are read: safe to pickle and in workers.

    Parameters
    ----------
    path : the file.
    shape : (N, C, H, W).
    name : of the data set.
    layout : of its axes, "NCHW", "NHWC" or "NHW".
    """

    path: Path
    shape: tuple[int, ...]
    name: str = "images"
    layout: str = "NCHW"

    def __getitem__(self, which: Any) -> np.ndarray:
        positions = np.atleast_1d(np.arange(self.shape[0])[which])
        wanted, back = np.unique(positions, return_inverse=True)
        # runs of neighbours: h5py's own selection by a list is twenty times slower
        edges = np.flatnonzero(np.diff(wanted, prepend=-2, append=self.shape[0] + 1) != 1)
        try:
            with h5py.File(self.path, rdcc_nbytes=CACHE, rdcc_nslots=SLOTS) as file:
                images = file[self.name]
                assert isinstance(images, h5py.Dataset)
                values = np.empty((len(wanted), *images.shape[1:]), dtype=np.float32)
                for start, stop in itertools.pairwise(edges):
                    images.read_direct(values, np.s_[wanted[start] : wanted[stop - 1] + 1], np.s_[start:stop])
        except (OSError, KeyError) as problem:
            raise _unreadable(self.path, problem) from None
        values = as_nchw(values, self.layout)
        return values if np.array_equal(positions, wanted) else values[back]


def find(path: Path, request: Request) -> Found:
    """The galaxies of a file written by `write_hdf5`, or of one by others that is known."""
    try:
        with h5py.File(path) as file:
            return _found(file, path, request)
    except (OSError, KeyError, AttributeError, json.JSONDecodeError) as problem:
        raise _unreadable(path, problem) from None


def _found(file: Any, path: Path, request: Request) -> Found:
    from robustastro.data.readers import deepastrouda, galaxy10

    about = file.attrs
    ours = about.get("format") == FORMAT
    if not ours and galaxy10.is_galaxy10(file):
        return galaxy10.found(file, path, request)
    if request.choice is not None:
        raise InputError(f"'::{request.choice}' after {path}", "nothing to choose in this file", "use --split instead")
    if not ours and deepastrouda.is_deepastrouda(file, path):
        return deepastrouda.found(file, path, request)
    if not ours:
        raise InputError(
            f"{path} is an HDF5 file of another kind ({', '.join(file) or 'empty'})",
            "one written by robustastro, Galaxy10 (images, ans), or a file of DeepAstroUDA under its own name",
            "convert it to .npz or with write_hdf5",
        )
    if about["schema"] > SCHEMA:
        raise InputError(f"{path} has schema {about['schema']}", f"schema {SCHEMA} or older", "upgrade robustastro")
    stored = json.loads(about["exposure"])
    exposure = Exposure.from_dict(stored) if request.exposure is None and stored is not None else None
    return Found(
        StoredImages(path.resolve(), file["images"].shape),
        file["ids"].asstr()[:].tolist(),
        labels=file["labels"][:] if "labels" in file else None,
        classes=tuple(about["classes"]),
        bands=tuple(about["bands"]),
        exposure=exposure,
        catalogue=pd.DataFrame({_column_name(key): _column(file, key) for key in file["catalogue"]}),
        domain=about["domain"],
        source=json.loads(about["source"]),
        notes=tuple(about["notes"]),
    )


def pictures(file: Any, name: str, path: Path, request: Request) -> tuple[StoredImages, tuple[str, ...]]:
    """The images of a data set in a file of others, left on disk, and a note where the order of the axes was guessed.

    Raises
    ------
    InputError : they are no images, or display images (8 bits) for which an exposure is asked.
    """
    stored = file[name]
    checked_dtype(stored.dtype, f"{path}: '{name}'")
    if request.exposure is not None and stored.dtype == np.uint8:
        raise InputError(
            f"an exposure for the 8-bit images of {path}", "display images have no electrons", "leave the exposure out"
        )
    layout, notes = layout_of(stored.shape, path)
    count, *axes = stored.shape
    shape = {"NHW": (1, *axes), "NHWC": (axes[-1], *axes[:-1])}.get(layout, tuple(axes))
    return StoredImages(path.resolve(), (count, *shape), name, layout), notes


def columns_of(file: Any, count: int, but: Sequence[str]) -> pd.DataFrame:
    """The data sets of a file of others that have one number or text per galaxy, as columns."""
    columns = {}
    for name, stored in file.items():
        if name not in but and getattr(stored, "shape", None) == (count,):
            columns[name] = stored.asstr()[:] if h5py.check_string_dtype(stored.dtype) else stored[:]
    return pd.DataFrame(columns)


def write_hdf5(galaxies: Galaxies, path: Path, progress: Callable[[int, int], Any] | None = None) -> None:
    """Write galaxies in chunks; the file is there whole or not at all."""

    def fill(draft: Path) -> None:
        with h5py.File(draft, "w") as file:
            _write(file, galaxies, progress)

    write_whole(path, fill)


def _write(file: h5py.File, galaxies: Galaxies, progress: Callable[[int, int], Any] | None) -> None:
    count, *one = galaxies.images.shape
    images = file.create_dataset("images", (count, *one), np.float32, chunks=(1, *one))
    for start in range(0, count, CHUNK):
        stop = min(start + CHUNK, count)
        images[start:stop] = galaxies.batch(slice(start, stop)).numpy()
        if progress is not None:
            progress(stop, count)
    if galaxies.labels is not None:
        file["labels"] = galaxies.labels.astype(np.int64)
    file.create_dataset("ids", data=list(galaxies.ids), dtype=TEXT)
    file.create_group("catalogue", track_order=True)
    for name in galaxies.catalogue:
        _write_column(file, str(name), pd.Series(galaxies.catalogue[name]))
    file.attrs.update({"format": FORMAT, "schema": SCHEMA, "domain": galaxies.domain})
    for name in ("classes", "bands", "notes"):
        file.attrs.create(name, list(getattr(galaxies, name)), dtype=TEXT)
    exposure = None if galaxies.exposure is None else galaxies.exposure.to_dict()
    file.attrs["exposure"] = json.dumps(exposure, allow_nan=False)
    file.attrs["source"] = json.dumps(dict(galaxies.source))


def _write_column(file: h5py.File, name: str, column: pd.Series) -> None:
    key, missing = _column_key(name), column.isna().to_numpy()
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "buif":
        file[f"catalogue/{key}"] = column.to_numpy()
        return
    if pd.api.types.is_bool_dtype(column.dtype):
        values = column.to_numpy(dtype=bool, na_value=False)
    elif pd.api.types.is_integer_dtype(column.dtype):
        values = column.to_numpy(dtype=np.int64, na_value=0)
    elif pd.api.types.is_float_dtype(column.dtype):
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        values = np.array(
            ["" if absent else str(v) for v, absent in zip(column.tolist(), missing, strict=True)], dtype=object
        )
    stored = file.create_dataset(f"catalogue/{key}", data=values, dtype=TEXT if values.dtype == object else None)
    stored.attrs["dtype"] = str(column.dtype)
    if missing.any():
        file[f"missing/{key}"] = missing


def _column(file: Any, key: str) -> pd.Series:
    stored = file[f"catalogue/{key}"]
    if "dtype" not in stored.attrs:
        return pd.Series(stored[:])
    values = stored.asstr()[:] if h5py.check_string_dtype(stored.dtype) else stored[:]
    column = pd.Series(values, dtype=object)
    if f"missing/{key}" in file:
        column[file[f"missing/{key}"][:]] = None
    return column.astype(stored.attrs["dtype"])


def _column_key(name: str) -> str:
    return name.replace("%", "%25").replace("/", "%2F")  # a slash would be a group


def _column_name(key: str) -> str:
    return key.replace("%2F", "/").replace("%25", "%")


def _unreadable(path: Path, problem: Exception) -> InputError:
    return InputError(f"cannot read {path}: {problem}", "a whole HDF5 file of galaxies", "copy or write it again")
