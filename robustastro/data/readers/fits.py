"""FITS: a folder of cutouts, one galaxy per file, or one file with a cube of images and a table.

The image is in the primary HDU or in one named IMAGE or SCI, with VARIANCE (or VAR) and MASK (or DQ) beside it, as LSST
writes its exposures; or each band has a 2D HDU of its name, with BAND_VARIANCE and BAND_MASK. A cutout is (H, W) or
(C, H, W), a cube (N, H, W) or (N, C, H, W). Pixels become native float32, in reference electrons with an exposure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from astropy.io import fits
from astropy.table import Table

from perturbations.errors import InputError
from perturbations.exposure import Exposure
from robustastro.data.readers import FITS, flux, pixel_ids, suffix_of
from robustastro.data.readers.assemble import Found, Request, channels, not_finite
from robustastro.data.readers.catalogue import beside, label_values, matched, others, read_table, stem_of, to_pandas
from robustastro.data.readers.fits_planes import Planes, cutout, opened, whole


def find(path: Path, request: Request) -> Found:
    """The galaxies of a folder of cutouts or of a cube."""
    return _folder(path, request) if path.is_dir() else _cube(path, request)


@dataclass(frozen=True)
class Listed:
    """What is known of the galaxies besides their images, in their order."""

    ids: list[str]
    labels: pd.Series | None = None
    columns: pd.DataFrame = field(default_factory=pd.DataFrame)
    notes: tuple[str, ...] = ()


def _folder(path: Path, request: Request) -> Found:
    where = beside(path, request.catalogue)
    present = sorted(f for f in path.iterdir() if f.is_file() and f != where and suffix_of(f) in FITS)
    if where is None:
        return _converted(_cutouts(present, request), Listed([stem_of(f, FITS) for f in present]), request, path)
    table = read_table(where)
    labels = label_values(table, request.label_column, where)
    files, ids = matched(path, table, where, FITS)
    left = len(set(present) - set(files))
    notes = (f"{left} FITS file(s) not in {where.name} left out",) if left else ()
    return _converted(
        _cutouts(files, request), Listed(ids, labels, others(table, request.label_column), notes), request, path
    )


def _cutouts(files: list[Path], request: Request) -> Iterator[Planes]:
    """One file after the other, in the bands asked for or those of the first file."""
    wanted = request.bands or (request.exposure.bands if request.exposure is not None else None)
    for file in files:
        planes = cutout(file, wanted)
        wanted = wanted or planes.bands
        yield planes


def _cube(path: Path, request: Request) -> Found:
    with opened(path) as hdus:
        cube = whole(hdus, path)
        if cube is None:
            raise InputError(f"{path} has no image HDU", "a cube named IMAGE or SCI, or in the primary HDU", "check it")
        count = len(cube.image)
        if cube.image.ndim not in (3, 4):
            raise InputError(
                f"{path}: an image of shape {cube.image.shape}",
                "a cube (N, H, W) or (N, C, H, W)",
                "for cutouts name their folder",
            )
        where = request.catalogue or path
        table = _table(hdus) if request.catalogue is None else read_table(request.catalogue)
        ids, labels, columns, notes = None, None, pd.DataFrame(), ()
        if table is not None:
            if len(table) != count:
                raise InputError(f"{where}: {len(table)} rows for {count} images", "one row per image", "match them")
            labels, columns = label_values(table, request.label_column, where), others(table, request.label_column)
            ids = table["id"].tolist() if "id" in table else None
        if ids is None:  # of the pixels as they stand in the file, whatever exposure or mask is chosen
            flat = cube.image.ndim == 3
            ids, notes = pixel_ids.from_pixels(cube.image[:, None] if flat else cube.image), (pixel_ids.NOTE,)
        listed = Listed(ids, labels, columns, notes)
        return _converted((_frame(cube, k) for k in range(count)), listed, request, path)


def _frame(cube: Planes, index: int) -> Planes:
    """One galaxy of a cube."""
    parts = (cube.image, cube.mask, cube.variance)
    image, mask, variance = (None if p is None else p[index] if p.ndim == 4 else p[index][None] for p in parts)
    assert image is not None
    return Planes(image, cube.headers * len(image), mask, variance)


def _table(hdus: Any) -> pd.DataFrame | None:
    tables = [
        h for h in hdus if isinstance(h, (fits.BinTableHDU, fits.TableHDU)) and not isinstance(h, fits.CompImageHDU)
    ]
    return to_pandas(Table.read(tables[0])) if tables else None


@dataclass
class Tally:
    """What happened on the way, for the notes."""

    units: Counter[str] = field(default_factory=Counter)
    masked_galaxies: int = 0
    masked_pixels: int = 0
    fractions: list[np.ndarray] = field(default_factory=list)


def _converted(galaxies: Iterable[Planes], listed: Listed, request: Request, path: Path) -> Found:
    """Images in electrons without masked pixels, and an exposure whose fraction the variance planes say.

    Parameters
    ----------
    galaxies : one after the other; only one is in memory with its mask and variance.
    listed : the same galaxies; those rejected are taken out.
    """
    count, tally = len(listed.ids), Tally()
    images, bands, exposure = np.empty((0, 1, 1, 1), dtype=np.float32), None, None
    kept: list[int] = []
    for index, planes in enumerate(galaxies):
        where = f"{path}: {pixel_ids.named(listed.ids, index)}"
        if index == 0:
            bands, exposure = channels(len(planes.image), planes.bands, request)
            images = np.empty((count, *planes.image.shape), dtype=np.float32)
        if planes.image.shape != images.shape[1:]:
            raise InputError(
                f"{where} has shape {planes.image.shape}",
                f"{images.shape[1:]}, as the first one",
                "cut all to one size",
            )
        image = _electrons(planes, exposure, index, request.masked, tally, where)
        if image is not None:
            images[len(kept)] = image
            kept.append(index)
    _consistent(tally, kept, count, path)
    notes = [*listed.notes, *(f"pixels: {unit}" for unit in tally.units)]
    if tally.masked_galaxies:
        what = "rejected" if request.masked == "reject" else f"interpolated over {tally.masked_pixels} masked pixels"
        notes.append(f"{tally.masked_galaxies} of {count} galaxies {what}")
    if exposure is not None:
        exposure = exposure.take(kept)
        if tally.fractions:
            exposure, note = _calibrated(exposure, np.array(tally.fractions))
            notes.append(note)
    return Found(
        images[: len(kept)],
        [listed.ids[k] for k in kept],
        labels=None if listed.labels is None else listed.labels.iloc[kept],
        bands=bands,
        exposure=exposure,
        catalogue=listed.columns.iloc[kept] if len(listed.columns) else listed.columns,
        notes=tuple(notes),
    )


def _electrons(
    planes: Planes, exposure: Exposure | None, index: int, masked: str | None, tally: Tally, where: str
) -> np.ndarray | None:
    """The image of one galaxy, (C, H, W) float64 without holes, or None where it is rejected."""
    mask = np.zeros(planes.image.shape, dtype=bool) if planes.mask is None else planes.mask
    holes = int(mask.sum())
    tally.masked_galaxies += holes > 0
    tally.masked_pixels += holes
    if holes and masked is None:
        raise InputError(
            f"{where} has {holes} masked pixels",
            "galaxies without any, or a choice",
            "use --masked reject to drop such galaxies or --masked interpolate to fill the pixels",
        )
    if holes and masked == "reject":
        return None
    if not np.isfinite(planes.image[~mask]).all():
        raise not_finite(where)
    factors = _factors(planes, exposure, index, tally, where)
    image = planes.image.astype(np.float64) * factors
    if holes:
        image = flux.filled(image, mask, where)
    if planes.variance is not None and exposure is not None:
        variance = planes.variance.astype(np.float64) * factors**2
        tally.fractions.append(flux.observed_fraction(image, variance, mask, exposure, index, where))
    return image


def _consistent(tally: Tally, kept: list[int], count: int, path: Path) -> None:
    if not kept:
        raise InputError(f"{path}: all {count} galaxies have masked pixels", "some without", "use --masked interpolate")
    if len(tally.fractions) not in (0, len(kept)):
        raise InputError(
            f"{path}: {len(tally.fractions)} of {len(kept)} galaxies have variance planes",
            "all or none",
            "complete the files",
        )
    if len(tally.units) > 1 and flux.NO_UNIT in tally.units:
        raise InputError(f"{path}: some images have a BUNIT and others not", "all or none", "complete the headers")


def _factors(planes: Planes, exposure: Exposure | None, galaxy: int, tally: Tally, where: str) -> np.ndarray:
    """Electrons per unit of each band, (C, 1, 1); what was assumed goes into `tally`."""
    if exposure is not None:
        pairs = [flux.electrons_per_unit(h, exposure, b, galaxy, where) for b, h in enumerate(planes.headers)]
        tally.units.update(text for _, text in pairs)
        return np.array([factor for factor, _ in pairs])[:, None, None]
    unit = next((u for h in planes.headers if flux.is_flux(u := flux.unit_of(h))), None)
    if unit is not None:
        raise InputError(
            f"{where} is in {unit} and no exposure is declared",
            "an exposure with zero-points",
            "declare it with --exposure",
        )
    tally.units.update(
        f"BUNIT '{u}' has no electrons: display values" for h in planes.headers[:1] if (u := flux.unit_of(h))
    )
    return np.ones((len(planes.headers), 1, 1))


def _calibrated(exposure: Exposure, fractions: np.ndarray) -> tuple[Exposure, str]:
    """The exposure with the fraction (N, C) of each galaxy and band, and a note with medians and ranges."""
    texts = (
        f"{band} {np.median(column):.3g} ({column.min():.3g} to {column.max():.3g})"
        for band, column in zip(exposure.bands, fractions.T, strict=True)
    )
    note = f"fraction of the exposure observed, from the variance planes: {', '.join(texts)}"
    return exposure.replace(fraction=torch.from_numpy(fractions)), note
