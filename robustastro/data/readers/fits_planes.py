"""The planes of a FITS file: which HDU is the image, the variance, the mask, or a band."""

from __future__ import annotations

import contextlib
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning

from perturbations.errors import InputError, unknown_name
from robustastro.data.readers.flux import bad_pixels

IMAGE, VARIANCE, MASK = ("", "PRIMARY", "COMPRESSED_IMAGE", "IMAGE", "SCI"), ("VARIANCE", "VAR"), ("MASK", "DQ")
BROKEN = (OSError, ValueError, TypeError, EOFError, KeyError, IndexError, zlib.error, AstropyUserWarning)


@dataclass(frozen=True)
class Planes:
    """Images as they stand in a file.

    Parameters
    ----------
    image : (C, H, W) of one galaxy, or a cube (N, H, W) or (N, C, H, W).
    headers : of each band, over that of the primary HDU; a single one for a cube.
    mask, variance : like `image`, True where not measured, and in its unit squared; or None.
    bands : the names that the file gives to the bands, or None.
    """

    image: np.ndarray
    headers: tuple[Mapping[str, Any], ...]
    mask: np.ndarray | None
    variance: np.ndarray | None
    bands: tuple[str, ...] | None = None


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The HDUs of a file, every header read; a broken file is an InputError."""
    with contextlib.ExitStack() as stack:
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", "(?s).*(truncated|corrupted)", AstropyUserWarning)
                hdus = stack.enter_context(fits.open(path))
                len(hdus)
        except BROKEN as problem:
            raise _unreadable(path, problem) from None
        yield hdus


def cutout(path: Path, wanted: Sequence[str] | None) -> Planes:
    """The planes (C, H, W) of a file with one galaxy.

    Parameters
    ----------
    wanted : bands to take, in order, where each has an HDU of its own; None for those of the file.
    """
    with opened(path) as hdus:
        planes = whole(hdus, path)
        if planes is None:
            return _by_band(hdus, wanted, path)
    if planes.image.ndim not in (2, 3):
        raise InputError(
            f"{path}: an image of shape {planes.image.shape}", "(H, W) or (C, H, W)", "name a cube by its file"
        )
    flat = planes.image.ndim == 2
    image, mask, variance = (
        None if p is None else p[None] if flat else p for p in (planes.image, planes.mask, planes.variance)
    )
    assert image is not None
    name = planes.headers[0].get("FILTER") if len(image) == 1 and wanted is None else None
    return Planes(image, planes.headers * len(image), mask, variance, None if name is None else (str(name).strip(),))


def whole(hdus: Any, path: Path) -> Planes | None:
    """The planes of a file whose bands are in one HDU, or None where there is no such HDU."""
    named = {role: [h for h in _pictures(hdus) if h.name.upper() in role] for role in (IMAGE, VARIANCE, MASK)}
    if not named[IMAGE]:
        return None
    for found in named.values():
        if len(found) > 1:
            names = ", ".join(h.name for h in found)
            raise InputError(
                f"{path} has several HDUs for one plane: {names}", "one image, variance and mask", "split the file"
            )
    image = _data(named[IMAGE][0], path)
    variance, mask = (_like(named[role], image.shape, path) for role in (VARIANCE, MASK))
    return Planes(
        image,
        (_header(named[IMAGE][0], hdus),),
        None if mask is None else np.broadcast_to(bad_pixels(mask, named[MASK][0].header), image.shape),
        variance,
    )


def _by_band(hdus: Any, wanted: Sequence[str] | None, path: Path) -> Planes:
    """The planes of a file with a 2D HDU for each band."""
    pictures = {str(h.header.get("EXTNAME", h.name)).strip(): h for h in _pictures(hdus)}
    folded = {name.upper(): h for name, h in pictures.items()}
    roles = tuple(f"_{role}" for role in (*VARIANCE, *MASK))
    own = [n for n in pictures if not n.upper().endswith(roles) and n.upper() not in (*VARIANCE, *MASK)]
    if not own:
        raise InputError(
            f"{path} has no image HDU", "an HDU named IMAGE or SCI, or one for each band", "check the file"
        )
    bands = tuple(wanted or own)
    images, variances, masks, headers = [], [], [], []
    for band in bands:
        hdu = pictures.get(band, folded.get(band.upper()))
        if hdu is None:
            raise unknown_name(f"band of {path}", band, own, "Choose with --bands")
        image = _data(hdu, path)
        if image.ndim != 2 or (images and image.shape != images[0].shape):
            raise InputError(
                f"{path}: band {band} of shape {image.shape}", "(H, W), the same in every band", "resample the bands"
            )
        images.append(image)
        headers.append(_header(hdu, hdus))
        beside = {
            role: [folded[k] for s in role if (k := f"{band.upper()}_{s}") in folded][:1] for role in (VARIANCE, MASK)
        }
        variances.append(_like(beside[VARIANCE], image.shape, path))
        mask = _like(beside[MASK], image.shape, path)
        masks.append(None if mask is None else bad_pixels(mask, beside[MASK][0].header))
    if any(v is None for v in variances) and not all(v is None for v in variances):
        raise InputError(f"{path}: some bands have a variance plane and others not", "all or none", "complete the file")
    nothing = np.zeros(images[0].shape, dtype=bool)
    return Planes(
        np.stack(images),
        tuple(headers),
        None if all(m is None for m in masks) else np.stack([nothing if m is None else m for m in masks]),
        None if variances[0] is None else np.stack(variances),
        bands,
    )


def _pictures(hdus: Any) -> list[Any]:
    kinds = (fits.PrimaryHDU, fits.ImageHDU, fits.CompImageHDU)
    return [h for h in hdus if isinstance(h, kinds) and h.header["NAXIS"]]


def _header(hdu: Any, hdus: Any) -> Mapping[str, Any]:
    return dict(hdus[0].header) | dict(hdu.header)


def _like(found: Sequence[Any], shape: tuple[int, ...], path: Path) -> np.ndarray | None:
    """A plane beside an image, broadcast to its shape; None where there is none."""
    if not found:
        return None
    data = _data(found[0], path)
    if len(shape) == 4 and data.ndim == 3:
        data = data[:, None]  # one plane for all bands of a galaxy
    try:
        return np.broadcast_to(data, shape)
    except ValueError:
        raise InputError(
            f"{path}: {found[0].name} of shape {data.shape}", f"{shape}, as the image", "check the file"
        ) from None


def _data(hdu: Any, path: Path) -> np.ndarray:
    try:
        return np.asarray(hdu.data)
    except BROKEN as problem:
        raise _unreadable(path, problem) from None


def _unreadable(path: Path, problem: Exception | Warning) -> InputError:
    return InputError(f"cannot read {path}: {problem}", "a whole FITS file", "copy or download it again")
