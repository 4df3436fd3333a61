"""Tables that describe images: found beside them, read, and matched with the files by name."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from perturbations.errors import InputError, unknown_name

NAMES = tuple(f"{stem}.{suffix}" for stem in ("catalogue", "catalog") for suffix in ("csv", "ecsv", "fits"))


def beside(folder: Path, given: Path | None) -> Path | None:
    """The catalogue of a folder: the one given, or one with a usual name, or None."""
    if given is not None and not given.is_file():
        raise InputError(f"the catalogue {given} does not exist", "a CSV, ECSV or FITS table", "check the path")
    return given or next((folder / name for name in NAMES if (folder / name).is_file()), None)


def files_below(folder: Path) -> list[Path]:
    """Files of a folder and of its subfolders, sorted; hidden ones left out."""
    found = [*folder.glob("*"), *folder.glob("*/*")]
    return sorted(f for f in found if f.is_file() and not any(p.startswith(".") for p in f.relative_to(folder).parts))


def read_table(path: Path) -> pd.DataFrame:
    """A CSV, ECSV or FITS table; `id` and `file` as text.

    Raises
    ------
    InputError : not a readable table, or without rows.
    """
    try:
        if path.suffix.lower() == ".csv":
            table = pd.read_csv(path, dtype={"id": str, "file": str})
        else:
            from astropy.table import Table

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # units of columns that astropy does not know
                table = to_pandas(
                    Table.read(path, **({"format": "ascii.ecsv"} if path.suffix.lower() == ".ecsv" else {}))
                )
    except Exception as problem:  # whatever the parsers of pandas and astropy raise
        raise InputError(
            f"cannot read the catalogue {path}: {problem}", "a CSV, ECSV or FITS table", "check the file"
        ) from None
    if table.empty:
        raise InputError(f"the catalogue {path} is empty", "one row per galaxy", "check the file")
    return table


def to_pandas(table: Any) -> pd.DataFrame:
    """An astropy Table without its columns of arrays; text as str, `id` and `file` too."""
    flat = [name for name in table.colnames if table[name].ndim == 1]
    frame = table[flat].to_pandas()
    for name in frame:
        if name in ("id", "file") or table[name].dtype.kind in "SU":
            values = [v.decode() if isinstance(v, bytes) else v for v in frame[name].tolist()]
            frame[name] = [v if pd.isna(v) else str(v).strip() for v in values]
    return frame


def label_values(table: pd.DataFrame, column: str | None, where: Path) -> pd.Series | None:
    """The label column, or None where none is wanted.

    Raises
    ------
    InputError : there is no such column; the nearest one is named.
    """
    if column is None:
        return None
    if column not in table:
        raise unknown_name(
            f"label column of {where}",
            column,
            map(str, table.columns),
            "Name it with --label-column ('none' for no labels)",
        )
    return pd.Series(table[column])


def others(table: pd.DataFrame, label_column: str | None) -> pd.DataFrame:
    """The columns that travel along: all but id, file and label."""
    return table.drop(columns=[c for c in ("id", "file", label_column) if c in table])


def matched(folder: Path, table: pd.DataFrame, where: Path, suffixes: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The file and the id of each row.

    Parameters
    ----------
    folder : the images, directly or in subfolders.
    table : with a column `file` (a path from the folder or the catalogue), or `id` (the file's name without ending).
    where : the catalogue.
    suffixes : endings of image files.

    Raises
    ------
    InputError : neither column; a file that is missing.
    """
    key = next((c for c in ("file", "id") if c in table), None)
    if key is None:
        raise InputError(
            f"{where} has the columns {', '.join(map(str, table))}",
            "a column 'file' or 'id'",
            "add one that names the images",
        )
    for column in {"file", "id"} & set(table):
        if bool(table[column].isna().any()):
            raise InputError(f"{where}: a row without {column}", f"a {column} in every row", "complete or drop the row")
    if key == "file":
        candidates = [(folder / name, where.parent / name) for name in table["file"]]
    else:
        by_stem = {stem_of(f, suffixes): f for f in files_below(folder) if stem_of(f, suffixes) != f.name}
        candidates = [(by_stem.get(name, folder / f"{name}{suffixes[0]}"),) for name in table["id"]]
    files = [next((f for f in some if f.is_file()), None) for some in candidates]
    absent = [str(name) for name, file in zip(table[key], files, strict=True) if file is None]
    if absent:
        raise InputError(
            f"{where} lists {len(absent)} image(s) that are missing, the first is '{absent[0]}'",
            f"files in {folder}",
            "add the files or drop the rows",
        )
    found = [f for f in files if f is not None]
    return found, table["id"].astype(str).tolist() if "id" in table else [stem_of(f, suffixes) for f in found]


def stem_of(file: Path, suffixes: Sequence[str]) -> str:
    """The file's name without its ending, ".fits.gz" being one ending."""
    ends = [s for s in suffixes if file.name.lower().endswith(s)]
    return file.name[: -len(max(ends, key=len))] if ends else file.name
