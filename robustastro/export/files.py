"""The columns of galaxies as a file that TOPCAT, astropy and pandas open.

| format  | missing values           | units and descriptions         | provenance                      |
|---------|--------------------------|--------------------------------|---------------------------------|
| parquet | nulls                    | a VOTable in the file's footer | there, and in astropy's entries |
| fits    | NaN, empty text, TNULL   | TUNIT, TCOMM                   | cards of the table's header     |
| ecsv    | empty fields             | the commented header           | the commented header            |
| csv     | empty fields             | none                           | none                            |

A CSV file stays plain, so that anything reads it; an ECSV file is the same below a commented header.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from perturbations.errors import InputError
from robustastro.export.columns import Column, unique
from robustastro.export.provenance import KEYWORDS, flat

MOST = 999  # columns of a FITS table
NO_ANSWER = 255  # TNULL of a column of yes and no, which FITS can mark as missing only in a column of numbers
VOTABLE = "http://www.ivoa.net/xml/VOTable/v1.3"


def writer(form: str, columns: Sequence[Column], facts: Mapping[str, Any]) -> Callable[[Path], Any]:
    """What writes the columns and their provenance into a file of this format.

    Raises
    ------
    InputError : a FITS table cannot have so many columns.
    """
    if form == "fits":
        hdus = to_fits(columns, facts)
        return lambda file: hdus.writeto(file, overwrite=True)
    if form == "ecsv":
        table = to_table(columns)
        table.meta.update(facts)
        return lambda file: table.write(file, format="ascii.ecsv", delimiter=",", overwrite=True)
    if form == "csv":
        return lambda file: to_frame(columns).to_csv(file, index=False)
    return lambda file: write_parquet(columns, facts, file)


def to_frame(columns: Sequence[Column]) -> pd.DataFrame:
    """The columns for pandas; missing are NaN, None and, of whole numbers and of yes and no, pandas.NA."""
    frame = {}
    for column in columns:
        values: Any = column.values
        if column.masked.any():
            if values.dtype.kind == "f":
                values = np.where(column.masked, np.nan, values)
            elif values.dtype.kind == "b":
                values = pd.arrays.BooleanArray(values, column.masked)
            elif values.dtype.kind == "i":
                values = pd.arrays.IntegerArray(values, column.masked)
            else:
                values = [None if hide else value for value, hide in zip(values, column.masked, strict=True)]
        frame[column.name] = values
    return pd.DataFrame(frame)


def to_table(columns: Sequence[Column]) -> Any:
    """The columns as an astropy Table."""
    from astropy.table import Column as Full
    from astropy.table import MaskedColumn, Table

    made = []
    for column in columns:
        about: dict[str, Any] = {"name": column.name, "unit": column.unit, "description": column.description}
        masked = column.masked.any()
        made.append(
            MaskedColumn(column.values, mask=column.masked, **about) if masked else Full(column.values, **about)
        )
    return Table(made)


# ---------------------------------------------------------------------- FITS


def to_fits(columns: Sequence[Column], facts: Mapping[str, Any]) -> Any:
    """One binary table, GALAXIES. FITS knows ASCII only: other characters are written as Python escapes them.

    Raises
    ------
    InputError : too many columns.
    """
    from astropy.io import fits

    if len(columns) > MOST:
        raise InputError(
            f"a table of {len(columns)} columns",
            f"at most {MOST} in a FITS file",
            "take --format parquet or ecsv, or fewer perturbations with --perturbation NAME",
        )
    table = to_table([_fits_column(column) for column in columns])
    for column in table.itercols():
        column.description = None  # astropy would put them in comments of its own; TCOMM is what others read
        if np.ma.isMaskedArray(column) and column.dtype.kind in "iu":
            column.fill_value = NO_ANSWER if column.dtype.kind == "u" else np.iinfo(column.dtype).min
    hdu = fits.table_to_hdu(table, name="GALAXIES")
    for k, column in enumerate(columns, start=1):
        hdu.header.set(f"TCOMM{k}", _ascii(column.description), after=f"TFORM{k}")
    hdu.header["LONGSTRN"] = "OGIP 1.0"  # that text goes on in CONTINUE cards; fitsverify misses it
    for keyword, value in flat(facts, KEYWORDS).items():
        hdu.header[keyword] = _ascii(value) if isinstance(value, str) else value
    return fits.HDUList([fits.PrimaryHDU(), hdu])


def _fits_column(column: Column) -> Column:
    if column.values.dtype.kind == "U":
        return replace(column, values=np.array([_ascii(value) for value in column.values], dtype=str))
    if column.values.dtype.kind == "b" and column.masked.any():
        return replace(column, values=column.values.astype(np.uint8))
    return column


def _ascii(text: str) -> str:
    return text if re.fullmatch(r"[ -~]*", text) else text.encode("unicode_escape").decode("ascii")


# ---------------------------------------------------------------------- Parquet


def write_parquet(columns: Sequence[Column], facts: Mapping[str, Any], file: Path) -> None:
    """Parquet with nulls, after the VOParquet convention (IVOA Note 1.0, 2025), and with astropy's own entries.

    astropy's reader turns missing text into "None" and knows no missing yes or no, unless a second column says where
    they are; so columns of these that lack values have one, whose name ends in _missing.
    """
    import pyarrow
    import pyarrow.parquet

    columns, masks = _with_masks(columns)
    data = pyarrow.Table.from_pandas(to_frame(columns), preserve_index=False)
    entries = {"IVOA.VOTable-Parquet.version": "1.0", "IVOA.VOTable-Parquet.content": _votable(columns, facts)}
    entries |= _astropy_entries(columns, masks, facts)
    pyarrow.parquet.write_table(data.replace_schema_metadata({**(data.schema.metadata or {}), **entries}), file)


def _with_masks(columns: Sequence[Column]) -> tuple[list[Column], dict[str, str]]:
    """A column of yes and no beside each that needs it, and the names of these."""
    names, every, masks = {column.name.lower() for column in columns}, [], {}
    for column in columns:
        every.append(column)
        if column.values.dtype.kind in "Ub" and column.masked.any():
            name = masks[column.name] = unique(f"{column.name}_missing", names)
            known = np.zeros(len(column.masked), dtype=bool)
            every.append(Column(name, column.masked, known, None, f"{column.name} has no value"))
    return every, masks


def _astropy_entries(columns: Sequence[Column], masks: Mapping[str, str], facts: Mapping[str, Any]) -> dict[str, str]:
    """Units, descriptions, masks and provenance as astropy's plain Parquet reader wants them."""
    from astropy.table.meta import get_yaml_from_table
    from astropy.table.serialize import SerializedColumn

    table = to_table([replace(column, masked=np.zeros_like(column.masked)) for column in columns])
    table.meta.update(facts)
    table.meta["__serialized_columns__"] = {
        name: {
            "__class__": "astropy.table.column.MaskedColumn",
            "data": SerializedColumn({"name": name}),
            "mask": SerializedColumn({"name": mask}),
        }
        for name, mask in masks.items()
    }
    text = {c.name: c.values.dtype.itemsize // 4 for c in columns if c.values.dtype.kind == "U"}
    return {
        "table_meta_yaml": "\n".join(get_yaml_from_table(table)),
        **{f"table::len::{name}": str(length) for name, length in text.items()},
    }


def _votable(columns: Sequence[Column], facts: Mapping[str, Any]) -> str:
    """The columns and the provenance as a VOTable without data."""
    root = ElementTree.Element("VOTABLE", {"version": "1.4", "xmlns": VOTABLE})
    resource = ElementTree.SubElement(root, "RESOURCE", {"type": "results"})
    table = ElementTree.SubElement(resource, "TABLE", {"name": "galaxies"})
    for name, value in flat(facts).items():
        kind = {str: "U", int: "i", float: "f"}[type(value)]
        ElementTree.SubElement(table, "PARAM", {"name": name, **_datatype(kind, len(str(value))), "value": str(value)})
    for column in columns:
        kind, size = column.values.dtype.kind, column.values.dtype.itemsize // 4
        unit = {} if column.unit is None else {"unit": column.unit}
        field = ElementTree.SubElement(table, "FIELD", {"name": column.name, **_datatype(kind, size), **unit})
        ElementTree.SubElement(field, "DESCRIPTION").text = column.description
    return ElementTree.tostring(root, encoding="unicode")


def _datatype(kind: str, size: int) -> dict[str, str]:
    """VOTable's words for a kind of array; of text with its length, without which astropy cannot read the column."""
    if kind == "U":
        return {"datatype": "unicodeChar", "arraysize": str(size)}
    return {"datatype": {"b": "boolean", "i": "long", "f": "double"}[kind]}
