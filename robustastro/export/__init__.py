"""A run as one table of galaxies for other programs: Parquet, FITS, ECSV or CSV.

`columns` makes the table, `provenance` says where its numbers come from, `files` writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perturbations.errors import InputError, unknown_name
from robustastro.record import Record, refuse_place, refuse_run, write_whole

SUFFIXES = {".parquet": "parquet", ".fits": "fits", ".fit": "fits", ".ecsv": "ecsv", ".csv": "csv"}
FORMATS = tuple(dict.fromkeys(SUFFIXES.values()))


def export(
    run: str | Path,
    format: str | None = None,
    out: str | Path | None = None,
    perturbations: Sequence[str] = (),
) -> dict[str, Any]:
    """Write a run as a table with one row per galaxy, whole or not at all.

    Parameters
    ----------
    run : run directory.
    format : "parquet", "fits", "ecsv" or "csv"; None: what the name of `out` says, else "parquet".
    out : file to write; None: catalogue.EXT in the run directory.
    perturbations : only these; none for all of the run.

    Returns
    -------
    For JSON: out, format, rows, and the name, unit and description of each column. A unit is null where there is none.

    Raises
    ------
    InputError : an unknown format or perturbation, a name that does not end as the format does, no place to write, a
        file of the run itself, a run that has not begun, or more columns than a FITS table may have.
    """
    from robustastro.export import files
    from robustastro.export.columns import catalogue
    from robustastro.export.provenance import provenance

    form, path = _place(Path(run), format, None if out is None else Path(out))
    record = Record.open(run)
    refuse_place(path, folder=False)
    refuse_run(path, "catalogue.*")
    if not (record.path / "galaxies.parquet").exists() or not (record.path / "head.npz").exists():
        raise InputError(f"{run} has no galaxies yet", "a run with results", "run the same command again")
    columns = catalogue(record, perturbations)
    write_whole(path, files.writer(form, columns, provenance(record, perturbations)))
    return {
        "schema": 1,
        "out": str(path),
        "format": form,
        "rows": len(record.galaxies),
        "columns": [{"name": c.name, "unit": c.unit, "description": c.description} for c in columns],
    }


def text(result: dict[str, Any]) -> str:
    """What `export` did, for people."""
    return f"{result['out']}: {result['rows']} galaxies, {len(result['columns'])} columns"


def _place(run: Path, format: str | None, out: Path | None) -> tuple[str, Path]:
    """The format, and the file to write."""
    if format is not None and format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    if out is None:
        form = format or "parquet"
        return form, run / f"catalogue.{form}"
    named = SUFFIXES.get(out.suffix.lower())
    if named is None or format not in (None, named):
        wanted = [suffix for suffix, form in SUFFIXES.items() if format in (None, form)]
        raise InputError(f"--out {out}", f"a file name ending in {' or '.join(wanted)}", "name the file so")
    return named, out
