"""The columns of an exported run: one row per galaxy, each column with a name, a unit and a description.

A missing value is masked: a galaxy that a unit has not reached, a true class that is not known. What no galaxy can have
(distances of a model without boundaries, queries of a corruption, an empty column of the catalogue) has no column.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from perturbations.errors import InputError, unknown_name
from robustastro.metrics.critical import critical_strength
from robustastro.metrics.distances import boundary_distance, centroid_margin
from robustastro.metrics.paired import Paired, pair, stacked
from robustastro.metrics.pixels import pixels
from robustastro.metrics.probabilities import probabilities
from robustastro.metrics.tables import unit_text
from robustastro.record import Record, Unit

LONGEST = 63  # characters of a name: PostgreSQL takes 63, a FITS card 68
UNITS = {  # of strengths, as FITS and the VO write them; others, as electrons, are said in the description
    "arcsec": "arcsec",
    "mag": "mag",
    "pixel": "pix",
    "nm": "nm",
    "degree": "deg",
    "cm^-2 s^-1": "cm-2.s-1",
    "bit": "bit",
}
MOCKS = {"half_light_radius": "arcsec", "separation": "arcsec", "position_angle": "rad", "pitch_angle": "deg"}
MOCKS |= {"bar_length": "arcsec", "einstein_radius": "arcsec", "source_radius": "arcsec"}
NORMS = {  # name in the record: unit, what it is
    "l0": ("pix", "changed pixels"),
    "l2": (None, "L2 norm of the change, in input units"),
    "linf": (None, "largest change of a value, in input units"),
}


@dataclass(frozen=True, eq=False)
class Column:
    """What is known of each galaxy under one name. Arrays are (N,).

    Parameters
    ----------
    values : bool, int64, float64 or str; anything where `masked`.
    masked : where there is no value.
    unit : as FITS and the VO write it; None where there is none.
    """

    name: str
    values: np.ndarray
    masked: np.ndarray
    unit: str | None
    description: str


def catalogue(record: Record, perturbations: Sequence[str] = ()) -> list[Column]:
    """All galaxies of a run, in its order, with everything known of each.

    Parameters
    ----------
    perturbations : only these; none for all of the run.

    Returns
    -------
    id, label, split, the catalogue's own columns, clean results, then those of each perturbation. Names have letters,
    digits and underscores and differ by more than their case.

    Raises
    ------
    InputError : the run has no such perturbation.
    """
    there = [entry["name"] for entry in record.run["perturbations"]]
    for name in perturbations:
        if name not in there:
            raise unknown_name("perturbation of this run", name, there)
    names: set[str] = set()
    galaxies, clean = _of_any(_galaxies(record)), _of_any(_clean(record))
    first = [_named(column, names) for column in (*galaxies, *clean)]
    prefixes = prefixes_of(there)
    last = [
        _named(column, names)
        for name in there
        if not perturbations or name in perturbations
        for column in (*_units(record, name, prefixes[name]), *_critical(record, name, prefixes[name]))
    ]
    # ours come first to their names: a column of the catalogue that is called like one of them gives way
    known = [_named(column, names) for column in _of_any(_catalogue(record))]
    return [*first[: len(galaxies)], *known, *first[len(galaxies) :], *last]


def prefixes_of(perturbations: Sequence[str]) -> dict[str, str]:
    """What the columns of each perturbation begin with: short, and different."""
    taken: set[str] = set()
    return {name: unique(clean_name(name)[:28].rstrip("_"), taken) for name in perturbations}


def strength_name(strength: float) -> str:
    """A strength as part of a name: 0.1 is 0p1, -0.5 m0p5 and 0.00001 1em05."""
    return f"{strength:.10g}".replace(".", "p").replace("-", "m").replace("+", "")


def clean_name(text: str) -> str:
    """Letters, digits and underscores, beginning with a letter; accents are dropped."""
    plain = unicodedata.normalize("NFKD", str(text)).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9]+", "_", plain).strip("_")
    return plain if plain[:1].isalpha() else f"x_{plain}".rstrip("_")


def unique(wanted: str, taken: set[str]) -> str:
    """The name, or where it is taken in any case, with the first free number behind it. Adds it to `taken`."""
    name, count = wanted[:LONGEST], 1
    while name.lower() in taken:
        count += 1
        name = f"{wanted[: LONGEST - 1 - len(str(count))]}_{count}"
    taken.add(name.lower())
    return name


# ---------------------------------------------------------------------- what the columns are


def _galaxies(record: Record) -> Iterator[Column]:
    galaxies = record.galaxies
    labels, index = _labels(record), np.arange(len(galaxies))
    yield _column("id", galaxies.index.astype(str).to_numpy(dtype=object), "galaxy", masked=np.zeros(len(index), bool))
    yield _column("label", _class_names(record, labels), "true class")
    yield _column("label_index", labels, "true class: position among the classes, from 0", masked=labels < 0)
    yield _column("split", galaxies["split"].to_numpy(dtype=object), "split of the data that the galaxy is of")


def _catalogue(record: Record) -> Iterator[Column]:
    """The columns that came with the galaxies, in the units that their source is known to use."""
    simulated = "recipe" in (record.run.get("data", {}).get("source") or {})
    known = record.galaxies.drop(columns=["label", "split", "logits", "latent"], errors="ignore")
    for name, series in known.items():
        unit = "mag" if re.match(r"mag(nitude)?(_|$)", str(name).lower()) else None
        unit = MOCKS.get(str(name), unit) if simulated else unit
        values, masked = _plain(series)
        yield _column(clean_name(str(name)), values, f"{name}, of the catalogue", unit, masked)


def _clean(record: Record) -> Iterator[Column]:
    galaxies, labels = record.galaxies, _labels(record)
    logits = stacked(galaxies["logits"])
    predicted = np.where(np.isfinite(logits).all(axis=1), logits.argmax(axis=1), -1)
    yield from _predictions(record, "clean", "clean image", predicted, logits)
    yield _column(
        "clean_correct", predicted == labels, "clean image: predicted class is the true one", masked=labels < 0
    )
    if "latent" in galaxies:
        latent = np.where(predicted[:, None] >= 0, stacked(galaxies["latent"]), np.nan)
        boundary = boundary_distance(record.head, latent, labels)
        margin = centroid_margin(record.head.centroids, latent, labels)
        yield _column("clean_boundary_distance", boundary, f"clean image: {_BOUNDARY}")
        yield _column("clean_centroid_margin", margin, "clean image: nearest wrong centroid minus own, in the latent")


def _units(record: Record, perturbation: str, prefix: str) -> Iterator[Column]:
    """Of each strength of a perturbation that has any result."""
    entry = next(p for p in record.run["perturbations"] if p["name"] == perturbation)
    for unit in record.units():
        if unit.perturbation == perturbation and (paired := pair(record, unit)) is not None:
            yield from _unit(record, unit, entry, paired, f"{prefix}_{strength_name(unit.strength)}")


def _unit(record: Record, unit: Unit, entry: Mapping[str, Any], paired: Paired, prefix: str) -> Iterator[Column]:
    rows = record.unit(unit.perturbation, unit.strength)
    at = record.galaxies.index.get_indexer(paired.ids)
    done = np.zeros(len(record.galaxies), dtype=bool)
    done[at] = True

    def spread(values: Any) -> np.ndarray:
        """Values of the galaxies that are done as one of all galaxies; the others are masked wherever it is used."""
        values = np.asarray(values)
        every = np.zeros((len(done), *values.shape[1:]), dtype=values.dtype)
        every[at] = values
        return every

    what = f"{unit.perturbation} {unit.strength:.10g} {unit_text(unit.unit)}".strip()
    unlabelled = _labels(record) < 0
    unknown = ~done | unlabelled
    predicted = np.where(done, spread(paired.perturbed_class), -1)
    yield from _predictions(
        record, prefix, what, predicted, np.where(done[:, None], spread(stacked(rows["logits"])), np.nan)
    )
    if not unlabelled.all():
        correct, flipped = spread(paired.perturbed_correct), spread(paired.flipped)
        yield _column(f"{prefix}_correct", correct, f"{what}: predicted class is the true one", masked=unknown)
        yield _column(f"{prefix}_flipped", flipped, f"{what}: right when clean, wrong here", masked=unknown)
    numbers = [
        ("latent_shift", paired.shift, None, "distance from the clean image in the latent space"),
        ("boundary_distance", paired.boundary, None, _BOUNDARY),
        *((name, rows[name], *NORMS[name]) for name in NORMS if name in rows),
    ]
    if entry["kind"] == "attack":
        numbers.append(("queries", paired.queries, None, "forward passes spent"))
        if (found := pixels(record, unit, paired.ids)) is not None:
            numbers.append(("fatal_pixels", found.fatal, "pix", "pixels that flip it with some value of the grid"))
            if entry["options"].get("certificate"):
                numbers.append(("certified_pixels", found.certified, "pix", "pixels that no allowed value breaks"))
    for name, values, of, meaning in numbers:
        values = np.asarray(values, dtype=np.float64)
        if np.isnan(values).all():
            continue
        counts = name in ("l0", "queries", "fatal_pixels", "certified_pixels")
        masked = ~done | np.isnan(spread(values))
        whole = spread(np.nan_to_num(values).astype(np.int64)) if counts else spread(values)
        yield _column(f"{prefix}_{name}", whole, f"{what}: {meaning}", of, masked)


def _critical(record: Record, perturbation: str, prefix: str) -> Iterator[Column]:
    """Between which strengths each galaxy flips; nothing where the strengths of the run have no order."""
    try:
        critical = critical_strength(record, perturbation)
    except InputError:
        return
    if critical is None or not len(critical.ids):
        return
    place = pd.Index(critical.ids).get_indexer(record.galaxies.index)
    there, unit = place >= 0, UNITS.get(critical.unit)
    said = f" [{unit_text(critical.unit)}]" if unit_text(critical.unit) else ""
    what = f"{perturbation}, critical strength, {critical.parameter}{said}"
    for name, values, meaning in (
        ("low", critical.low, "strongest known to be safe before it flips"),
        ("high", critical.high, "mildest known to flip it; null where none does"),
    ):
        yield _column(f"{prefix}_critical_{name}", np.where(there, values[place], np.nan), f"{what}: {meaning}", unit)
    status = np.array([*critical.status, None], dtype=object)[place]  # -1, the last, where a galaxy is left out
    yield _column(f"{prefix}_critical_status", status, f"{what}: flipped, first rung (by the mildest), or never")


# ---------------------------------------------------------------------- how a column is made

_BOUNDARY = "distance to leave the true class, in the latent; negative: already left"


def _predictions(record: Record, prefix: str, what: str, predicted: np.ndarray, logits: np.ndarray) -> Iterator[Column]:
    yield _column(f"{prefix}_class", _class_names(record, predicted), f"{what}: predicted class")
    taken: set[str] = set()
    chances = probabilities(record, logits)
    for k, name in enumerate(record.classes):
        short = unique(clean_name(name)[:20].rstrip("_"), taken)
        yield _column(f"{prefix}_prob_{short}", chances[:, k], f"{what}: probability of class {k}, {name}")


def _column(
    name: str, values: np.ndarray, description: str, unit: str | None = None, masked: np.ndarray | None = None
) -> Column:
    """A column; masked where nothing else is said: NaN, None and empty text."""
    if values.dtype == object:
        masked = np.array([value is None or value == "" for value in values]) if masked is None else masked
        values = np.array(["" if hide else str(value) for value, hide in zip(values, masked, strict=True)], dtype=str)
    masked = np.isnan(values) if masked is None and values.dtype.kind == "f" else masked
    return Column(name, values, np.zeros(len(values), dtype=bool) if masked is None else masked, unit, description)


def _of_any(columns: Iterator[Column]) -> list[Column]:
    """Those that have a value for some galaxy."""
    return [column for column in columns if not column.masked.all()]


def _named(column: Column, names: set[str]) -> Column:
    return replace(column, name=unique(column.name, names))


def _plain(series: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """A column of the catalogue as bool, int64, float or text, and where it is missing."""
    if series.dtype == object:  # so a column of True, False and None comes back from Parquet
        series = series.convert_dtypes()
    masked = series.isna().to_numpy()
    if pd.api.types.is_bool_dtype(series):
        return series.fillna(False).to_numpy(dtype=bool), masked
    if pd.api.types.is_integer_dtype(series) and (masked.all() or series.max() <= np.iinfo(np.int64).max):
        return series.fillna(0).to_numpy(dtype=np.int64), masked
    if pd.api.types.is_float_dtype(series):
        return series.to_numpy(dtype=np.float64, na_value=np.nan), masked
    text = series.astype(object).where(~masked, "").to_numpy(dtype=object)
    return text, masked | (text == "")


def _labels(record: Record) -> np.ndarray:
    return record.galaxies["label"].fillna(-1).to_numpy(dtype=np.int64)


def _class_names(record: Record, classes: np.ndarray) -> np.ndarray:
    """Names of classes (N,), None for -1."""
    return np.array([*record.classes, None], dtype=object)[classes]
