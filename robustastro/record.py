"""The run directory (schema 1): the only bridge between running models and reading results.

```
run.json            what was run, on what, with which versions; flags
galaxies.parquet    id, label, split, catalogue columns, clean logits, clean latent
validation.parquet  id, label and clean logits of the model's own validation galaxies, for calibration; where known
head.npz            weight, bias and kind of the last layer; centroids of the classes in the latent space
units/PERTURBATION/STRENGTH/SHARD.parquet   one row per galaxy
images/PERTURBATION/STRENGTH/SHARD.npz      clean and perturbed arrays of a few galaxies
maps/PERTURBATION/STRENGTH/SHARD.npz        ids, and what an attack says of each pixel: arrays (galaxies, height, width)
fitted/PERTURBATION/STRENGTH.npz            what a perturbation of a whole set was fitted to be, and to which ids
bisect/PERTURBATION/SHARD.parquet           between which strengths a galaxy flips, narrowed after the ladder: one row
                                            per galaxy that a rung flipped and that is right at a known milder strength
```

A file is written whole or not at all. This module imports neither torch nor a model.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from perturbations.errors import InputError

SCHEMA = 1
PLAN = b"robustastro.plan_sha256"  # in the metadata of every table: the run it belongs to


@dataclass(frozen=True)
class Flag:
    """A reason to doubt a number: a code for machines, a message and a remedy for people."""

    code: str
    message: str
    remedy: str

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True)
class Head:
    """The last layer of a model, and the class centroids in its latent space.

    Parameters
    ----------
    weight, bias : (K, D) and (K,), or None where the last layer is not linear.
    centroids : (K, D), NaN for a class without galaxies; or None.
    centroids_from : which galaxies the centroids come from, for people.
    kind : "linear", "cosine" or "other".
    """

    weight: np.ndarray | None
    bias: np.ndarray | None
    centroids: np.ndarray | None
    centroids_from: str = ""
    kind: str = "linear"


@dataclass(frozen=True)
class Unit:
    """One perturbation at one strength."""

    perturbation: str
    strength: float
    severity: int | None
    unit: str


class Record:
    """A run directory, to write and to read."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.derived: dict[Any, Any] = {}  # what readers made of galaxies and units, and want again

    @classmethod
    def open(cls, path: str | Path) -> Record:
        """A finished or interrupted run.

        Raises
        ------
        InputError : no run there, or one of a newer schema.
        """
        record = cls(path)
        _ = record.run
        return record

    # ------------------------------------------------------------------ reading

    @cached_property
    def run(self) -> dict[str, Any]:
        """run.json, checked."""
        from robustastro import schema

        return schema.read(self.path / "run.json", SCHEMA)

    @cached_property
    def galaxies(self) -> pd.DataFrame:
        """One row per galaxy, indexed by id: label (int), split, catalogue columns, logits (K,) and latent (D,)."""
        path = self.path / "galaxies.parquet"
        table = self._table(path)
        labels = table.get("label")
        known = range(-1, len(self.classes))
        if labels is None or not pd.api.types.is_numeric_dtype(labels) or not labels.dropna().isin(known).all():
            raise InputError(
                f"{path}: no label, or one that is none of the {len(self.classes)} classes",
                f"0 to {len(self.classes) - 1}, and -1 where it is unknown",
                "run its command again in an empty directory",
            )
        return table

    @cached_property
    def validation(self) -> pd.DataFrame:
        """Clean logits of the model's own validation galaxies, indexed by id; empty where they were not at hand."""
        path = self.path / "validation.parquet"
        return self._table(path) if path.exists() else pd.DataFrame()

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.run["contract"]["classes"])

    @cached_property
    def head(self) -> Head:
        """The model's last layer and the class centroids."""
        path = self.path / "head.npz"
        with _reading(path), np.load(path, allow_pickle=False) as stored:
            return Head(
                *(stored.get(n) for n in ("weight", "bias", "centroids")),
                centroids_from=str(stored["centroids_from"]),
                kind=str(stored["kind"]),
            )

    def units(self) -> list[Unit]:
        """The units this run plans, in order; `unit` reads those that are done."""
        return [
            Unit(p["name"], rung["strength"], rung["severity"], p["unit"])
            for p in self.run["perturbations"]
            for rung in p["rungs"]
        ]

    def unit(self, perturbation: str, strength: float, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """One row per galaxy, indexed by id, in the order of `galaxies`; empty where nothing is done yet.

        Only those of the `columns` that are there, where they are named: latents take most of the time.

        Columns: logits (K,), latent (D,), l0 [pixels], l2, linf [input units]; for attacks queries, success (measured),
        claimed (by the attack's own stop rule) and its details: rows, columns, values (changed pixels; values is
        (k x C,)), generations, fatal_pixels, smallest_margin.
        """
        shards = sorted(
            self._unit_folder(perturbation, strength).glob("[0-9]*.parquet")
        )  # not the drafts of a killed run
        if not shards:
            return pd.DataFrame()
        rows = pd.concat([self._table(shard, columns) for shard in shards])
        order = self.galaxies.index
        if rows.index.equals(order):
            return rows
        if not rows.index.is_unique or not rows.index.isin(order).all():
            raise InputError(
                f"{shards[0].parent}: galaxies twice, or that are not those of the run",
                "the files of one run",
                "run its command again in an empty directory",
            )
        return rows.loc[order[order.isin(rows.index)]]

    def rows(self, perturbation: str, strength: float) -> int:
        """How many galaxies of a unit are done, from the ends of its files only."""
        import pyarrow.parquet

        total = 0
        for shard in self._unit_folder(perturbation, strength).glob("[0-9]*.parquet"):
            with _reading(shard):
                total += pyarrow.parquet.read_metadata(shard).num_rows
        return total

    def images(self, perturbation: str, strength: float) -> dict[str, np.ndarray]:
        """Arrays kept for figures: ids (n,), clean and perturbed (n, C, H, W) in input space; empty if none."""
        return _joined(self._images_folder(perturbation, strength))

    def maps(self, perturbation: str, strength: float) -> dict[str, np.ndarray]:
        """What an attack says of each pixel: ids (N,), in the order of `galaxies`, and arrays (N, H, W); empty if none.

        Of onepixel_exhaustive: map, float32, the smallest margin over the grid at each pixel, NaN where not tried; and
        certified, bool.
        """
        return _joined(self._maps_folder(perturbation, strength))

    def fitted(self, perturbation: str, strength: float) -> dict[str, np.ndarray]:
        """What a perturbation of a whole set was fitted to be, with the ids (n,) it was fitted to; empty if it was not.

        Of universal and universal_l2: perturbation (C, H, W) float64, input units. Of universal_pixel: position (2,)
        int64, row and column, and value (C,). Of each: queries, forward passes of the fit over all its galaxies.
        """
        path = self._fitted_file(perturbation, strength)
        if not path.exists():
            return {}
        with _reading(path), np.load(path, allow_pickle=False) as stored:
            return dict(stored)

    def bisected(self, perturbation: str) -> pd.DataFrame:
        """Narrowed intervals in which galaxies flip, indexed by id; empty where nothing was bisected.

        Columns: low, still right, and high, wrong, in the perturbation's unit (low is the milder one, not always the
        smaller number); evaluations, halvings of the interval; tolerance, how wide it may be.
        """
        shards = sorted(self._bisect_folder(perturbation).glob("[0-9]*.parquet"))
        parts = [part for part in map(self._table, shards) if len(part)]
        return pd.concat(parts) if parts else pd.DataFrame()

    # ------------------------------------------------------------------ writing

    def write_run(self, run: Mapping[str, Any]) -> None:
        """Write run.json, the last time with the final flags and timing."""
        text = json.dumps({"schema": SCHEMA, **run}, indent=1, allow_nan=False)
        write_whole(self.path / "run.json", lambda file: file.write_text(text + "\n"))
        self.__dict__.pop("run", None)

    def write_galaxies(self, table: pd.DataFrame) -> None:
        """Write galaxies.parquet: columns id, label, split, logits, latent and those of the catalogue."""
        self._write_table(self.path / "galaxies.parquet", table)
        self.__dict__.pop("galaxies", None)
        self.derived.clear()

    def write_validation(self, table: pd.DataFrame) -> None:
        """Write validation.parquet: columns id, label and logits."""
        self._write_table(self.path / "validation.parquet", table)
        self.__dict__.pop("validation", None)

    def write_head(self, head: Head) -> None:
        arrays = {n: v for n in ("weight", "bias", "centroids") if (v := getattr(head, n)) is not None}
        text = {"centroids_from": np.array(head.centroids_from), "kind": np.array(head.kind)}
        write_whole(self.path / "head.npz", lambda file: _savez(file, arrays | text))
        self.__dict__.pop("head", None)
        self.derived.clear()

    def has_shard(self, perturbation: str, strength: float, shard: int) -> bool:
        return self._shard_file(perturbation, strength, shard).exists()

    def write_shard(self, perturbation: str, strength: float, shard: int, table: pd.DataFrame) -> None:
        """Write the rows of some galaxies: all of them or none."""
        self._write_table(self._shard_file(perturbation, strength, shard), table)
        self.derived.clear()  # a shard written again has as many rows as before

    def write_images(
        self, perturbation: str, strength: float, arrays: Mapping[str, np.ndarray], shard: int = 0
    ) -> None:
        """Write the images kept of a shard; before the shard itself, so that a finished shard has its images."""
        path = self._images_folder(perturbation, strength) / f"{shard:05d}.npz"
        write_whole(path, lambda file: _savez(file, arrays))

    def write_maps(self, perturbation: str, strength: float, arrays: Mapping[str, np.ndarray], shard: int) -> None:
        """Write the maps of a shard, ids among them; before the shard itself, as the images."""
        path = self._maps_folder(perturbation, strength) / f"{shard:05d}.npz"
        write_whole(path, lambda file: _savez(file, arrays))

    def write_fitted(self, perturbation: str, strength: float, arrays: Mapping[str, np.ndarray]) -> None:
        """Write what a perturbation of a whole set was fitted to be: before its first shard, and never again."""
        write_whole(self._fitted_file(perturbation, strength), lambda file: _savez(file, arrays))

    def has_bisected(self, perturbation: str, shard: int) -> bool:
        return self._bisect_file(perturbation, shard).exists()

    def write_bisected(self, perturbation: str, shard: int, table: pd.DataFrame) -> None:
        """Write the narrowed intervals of a shard (columns id and those of `bisected`): all of them or none."""
        self._write_table(self._bisect_file(perturbation, shard), table)

    # ------------------------------------------------------------------ tables

    def _table(self, path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """The rows of a Parquet file of this run, indexed by id: of the named columns those that it has, or all."""
        import pyarrow.compute
        import pyarrow.parquet

        with _reading(path):
            file = pyarrow.parquet.ParquetFile(path)
            plan = (file.schema_arrow.metadata or {}).get(PLAN, b"").decode()
            if plan and plan != self.run.get("plan_sha256", plan):
                raise InputError(
                    f"{path} is of another run (plan {plan[:8]}, run.json {str(self.run['plan_sha256'])[:8]})",
                    "the files of one run", "put back its own file, or run it again",
                )  # fmt: skip
            kept = None if columns is None else [n for n in file.schema_arrow.names if n == "id" or n in columns]
            found = file.read(columns=kept)
            for name in {"logits", "latent"} & set(found.column_names) if found.num_rows else ():
                sizes = pyarrow.compute.call_function("list_value_length", [found[name]]).unique().to_pylist()
                if len(sizes) > 1 or (name == "logits" and sizes not in ([], [len(self.classes)])):
                    raise ValueError(f"{name} of {' or '.join(map(str, sizes))} numbers")
            table = found.to_pandas().set_index("id")
            if not table.index.is_unique:
                raise ValueError("a galaxy is there twice")
        return table

    def _write_table(self, path: Path, table: pd.DataFrame) -> None:
        """Write a Parquet file, whole, that says which plan it is of."""
        import pyarrow
        import pyarrow.parquet

        found = pyarrow.Table.from_pandas(table, preserve_index=False)
        if (self.path / "run.json").exists() and (plan := self.run.get("plan_sha256")):
            found = found.replace_schema_metadata({**(found.schema.metadata or {}), PLAN: plan.encode()})
        write_whole(path, lambda file: pyarrow.parquet.write_table(found, file))

    # ------------------------------------------------------------------ names

    def _bisect_folder(self, perturbation: str) -> Path:
        return self.path / "bisect" / perturbation.replace(":", "-")

    def _bisect_file(self, perturbation: str, shard: int) -> Path:
        return self._bisect_folder(perturbation) / f"{shard:05d}.parquet"

    def _fitted_file(self, perturbation: str, strength: float) -> Path:
        return self.path / "fitted" / perturbation.replace(":", "-") / f"{strength:.10g}.npz"

    def _unit_folder(self, perturbation: str, strength: float) -> Path:
        return self.path / "units" / perturbation.replace(":", "-") / f"{strength:.10g}"

    def _shard_file(self, perturbation: str, strength: float, shard: int) -> Path:
        return self._unit_folder(perturbation, strength) / f"{shard:05d}.parquet"

    def _images_folder(self, perturbation: str, strength: float) -> Path:
        return self.path / "images" / perturbation.replace(":", "-") / f"{strength:.10g}"

    def _maps_folder(self, perturbation: str, strength: float) -> Path:
        return self.path / "maps" / perturbation.replace(":", "-") / f"{strength:.10g}"


def falling(strengths: Sequence[float], ladder: Sequence[float], identity: float | None) -> bool:
    """Whether the smaller of two strengths is the more severe, as the ladder or, of one rung, the identity says.

    Raises
    ------
    InputError : several strengths of a perturbation that has one rung and no identity: nothing orders them.
    """
    known = ladder if len(ladder) > 1 or identity is None else [identity, *ladder]
    if len(known) < 2 and len(strengths) > 1:
        raise InputError(
            f"{len(strengths)} strengths of a perturbation with one rung and no identity",
            "a ladder of two rungs, which says whether more is worse",
            "give it a ladder, or run one strength",
        )
    return known[-1] < known[0]


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary file beside `path`, then give it that name: whole, or not there at all.

    Raises
    ------
    InputError : the place cannot be written.
    """
    path = Path(os.path.realpath(path))  # a link stays a link
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(path) as draft:
            write(draft)
            with open(draft, "rb") as file:
                os.fsync(file.fileno())
            os.replace(draft, path)
    except OSError as problem:
        raise InputError(
            f"cannot write {path}: {problem.strerror or problem}",
            "a folder with room and write access",
            "name another one",
        ) from None


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    mask = os.umask(0)  # mkstemp is stricter than the user's umask; there is no way to ask without setting it
    os.umask(mask)
    os.fchmod(handle, 0o666 & ~mask)
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What goes wrong while a file of a run is read is a fault of the file."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, TypeError, KeyError, NotImplementedError, EOFError, zipfile.BadZipFile) as problem:
        raise InputError(
            f"{path} cannot be read ({str(problem)[:120]})",
            "a whole file of a run",
            "run its command again in an empty directory; if it is a pointer of git-lfs, fetch the file",
        ) from None


def _joined(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of all files of a folder, one file after the other; not the drafts of a killed run."""
    parts = []
    for path in sorted(folder.glob("[0-9]*.npz")):
        with _reading(path), np.load(path, allow_pickle=False) as stored:
            parts.append({name: stored[name] for name in stored})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}


def _savez(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with open(file, "wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]


def refuse_place(path: str | Path, *, folder: bool) -> None:
    """Refuse a place for results before any work is done for it.

    Raises
    ------
    InputError : a file where a folder is wanted or the reverse, a pipe or a device, or no permission to write there.
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() if folder else path.is_file()):
        kind = "directory" if path.is_dir() else "file" if path.is_file() else "pipe or device"
        wanted = "directory" if folder else "file"
        raise InputError(f"{path} is a {kind}", f"the name of a {wanted}", "name another one")
    above = path if path.is_dir() else path.parent
    while not above.exists():
        above = above.parent
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise InputError(f"cannot write in {above}", "a folder with write access", "name another one")


def refuse_run(path: str | Path, *but: str) -> None:
    """Refuse to write over a run: a place in a directory that holds run.json, or below it.

    Parameters
    ----------
    but : patterns of file names that may stand beside run.json.

    Raises
    ------
    InputError : it is such a place.
    """
    place = Path(os.path.realpath(path))
    for above in (place, *place.parents):
        if (above / "run.json").exists() and not (above == place.parent and any(map(place.match, but))):
            beside = f"{', '.join(but)} beside its run.json, or a place" if but else "a place"
            raise InputError(f"{path} lies in the run {above}", f"{beside} outside of any run", "name another one")


def jsonable(value: Any) -> Any:
    """Plain Python for JSON: NaN and infinities become null, arrays lists, tuples lists."""
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(v) for v in value]
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
