"""Read galaxies from the formats that people have: NumPy arrays, HDF5, FITS, folders of images.

Each format is a file of this package that turns a path into `Found`; `assemble` makes `Galaxies` of it, so that labels,
bands, exposures and splits mean the same whatever the format. A format is imported when a file of it is read.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from perturbations.errors import InputError
from perturbations.exposure import Exposure
from robustastro.data.galaxies import Galaxies
from robustastro.data.readers.assemble import Found, Request, assemble

FITS = (".fits", ".fit", ".fits.gz", ".fits.fz")
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
TABLES = (".csv", ".ecsv")
FILES = {".npz": "arrays", ".npy": "arrays", ".h5": "hdf5", ".hdf5": "hdf5"} | dict.fromkeys(FITS, "fits")
AUTHORS = {"deepadversaries": "DeepAdversaries", "deepmerge": "DeepMerge II", "deepastrouda": "DeepAstroUDA"}
LAYOUTS = (
    "FITS cutouts, images with a catalogue.csv, one subfolder of images per class, or the files of "
    "DeepAdversaries, DeepMerge II or DeepAstroUDA under their own names"
)
MASKED = ("reject", "interpolate")


def read(
    path: str | Path,
    *,
    exposure: Exposure | None = None,
    label_column: str | None = "label",
    masked: str | None = None,
    classes: Sequence[str] | None = None,
    bands: Sequence[str] | None = None,
    domain: str | None = None,
    split: str | None = None,
    catalogue: str | Path | None = None,
) -> Galaxies:
    """The galaxies of a file or folder.

    Parameters
    ----------
    path : `.npz`, `.npy`, `.h5`, `.fits` (a cube of images), a catalogue (`.csv`, `.ecsv`) beside its images, or a
        folder: FITS cutouts, images with a catalogue or one subfolder per class, or the files of DeepAdversaries, where
        a suffix chooses the depth ("folder::Y1": all its splits, as column "split"), or one split ("folder::Y1/test");
        of DeepMerge II ("folder::distant/source"); or of DeepAstroUDA ("folder::decals"). A Galaxy10 file with the
        suffix "::common" has its classes under the names of the mocks.
    exposure : what the pixels mean; otherwise `PATH.exposure.toml`, or `exposure.toml` in a folder, where there is one.
        FITS images with a flux unit are converted to its electrons; other images are taken to be in electrons already.
    label_column : column of the catalogue (or array of the .npz) with the classes; None or "none": no labels.
    masked : FITS galaxies with masked pixels: "reject" drops them, "interpolate" fills the pixels from neighbours.
    classes : names of the classes in the order wanted; integer labels count in this order.
    bands : names of the channels; in FITS cutouts with an HDU per band, which bands and in which order.
    domain : a name for where the images come from; otherwise the file's own, or its file name.
    split : only the galaxies whose catalogue says this split ("train", "test", ...).
    catalogue : table for FITS images or an image folder; otherwise `catalogue.csv`, `.ecsv` or `.fits` beside them.

    Returns
    -------
    Galaxies; images stay on disk for .npy and .h5, and are checked to be finite when they are read. Ids are those of
    the file or its pictures; an array or cube without any has them made from the pixels, an .npy by reading it once.

    Raises
    ------
    InputError : anything about the data that is missing, broken, contradictory or ambiguous.
    """
    place, choice = _split_path(path)
    if masked not in (None, *MASKED):
        raise InputError(
            f"masked = {masked!r}", " or ".join(MASKED), "say what to do with galaxies that have masked pixels"
        )
    if isinstance(bands, str) or isinstance(classes, str):
        raise InputError("bands or classes given as one text", "a sequence of names", "pass a list or tuple")
    if place.suffix.lower() in TABLES and place.is_file():
        place, catalogue = place.parent, catalogue or place
    request = Request(
        exposure=exposure or _sidecar(place),
        label_column=None if label_column == "none" else label_column,
        masked=masked,
        classes=tuple(classes) if classes is not None else None,
        bands=tuple(bands) if bands is not None else None,
        domain=domain,
        split=split,
        catalogue=Path(catalogue) if catalogue is not None else None,
        choice=choice,
    )
    form = _format(place, request)
    if choice is not None and form not in (*AUTHORS, "hdf5"):
        raise InputError(
            f"'::{choice}' after {place}",
            f"a choice in a folder of {', '.join(AUTHORS.values())}",
            "use --split instead",
        )
    if catalogue is not None and form not in ("fits", "folder"):
        raise InputError(f"a catalogue for {place}", "catalogues go with FITS images and image folders", "leave it out")
    reader: Callable[[Path, Request], Found] = _module(form).find
    return assemble(reader(place, request), request, place, _source(place, request, form, exposure))


def read_again(source: Mapping[str, Any]) -> Galaxies:
    """The galaxies that `Galaxies.source` of an earlier `read` describes."""
    exposure = source.get("exposure")
    return read(
        source["path"],
        exposure=None if exposure is None else Exposure.from_dict(exposure),
        **source.get("options", {}),
    )


def sets_of(place: Path) -> tuple[str, tuple[str, ...]] | None:
    """Whose files a folder holds, and the names that may follow "::"; None for anything else."""
    for form, authors in AUTHORS.items():
        if place.is_dir() and (sets := _module(form).sets(place)):
            return authors, sets
    return None


def write_hdf5(galaxies: Galaxies, path: str | Path, progress: Callable[[int, int], Any] | None = None) -> None:
    """Write galaxies to an HDF5 file that `read` gives back exactly: see `robustastro.data.readers.hdf5`.

    Parameters
    ----------
    galaxies : read and written a chunk at a time.
    path : written whole or not at all.
    progress : called with (galaxies written, galaxies in all).
    """
    from robustastro.data.readers import hdf5

    hdf5.write_hdf5(galaxies, Path(path), progress)


def suffix_of(path: Path) -> str:
    """The file name's ending in lower case, ".fits.gz" as one."""
    name = path.name.lower()
    return next((s for s in (".fits.gz", ".fits.fz") if name.endswith(s)), path.suffix.lower())


def _module(form: str) -> Any:
    return importlib.import_module(f"{__name__}.{form}")


def _source(place: Path, request: Request, form: str, exposure: Exposure | None) -> dict[str, Any]:
    """What `read_again` needs, in words that JSON has; an exposure only if it is not found beside the file."""
    options = {name: getattr(request, name) for name in ("masked", "classes", "bands", "domain", "split")}
    options["label_column"] = "none" if request.label_column is None else request.label_column
    options["catalogue"] = None if request.catalogue is None else str(request.catalogue.resolve())
    return {
        "path": str(place.resolve()) + ("" if request.choice is None else f"::{request.choice}"),
        "format": form,
        "options": {k: list(v) if isinstance(v, tuple) else v for k, v in options.items() if v is not None},
    } | ({} if exposure is None else {"exposure": exposure.to_dict()})


def _split_path(path: str | Path) -> tuple[Path, str | None]:
    text = str(path)
    if Path(text).exists() or "::" not in text:
        place, choice = Path(text), None
    else:
        text, _, choice = text.rpartition("::")
        place = Path(text)
    if not place.exists():
        raise InputError(f"{place} does not exist", "a file or folder with images of galaxies", "check the path")
    return place, choice


def _sidecar(path: Path) -> Exposure | None:
    beside = path / "exposure.toml" if path.is_dir() else path.with_name(f"{path.name}.exposure.toml")
    return Exposure.from_toml(beside) if beside.exists() else None


def _format(path: Path, request: Request) -> str:
    """The module of this package that reads a path."""
    if path.is_file():
        if suffix_of(path) not in FILES:
            kinds = ", ".join((*FILES, *TABLES))
            raise InputError(
                f"{path} has the unknown extension '{suffix_of(path)}'", f"{kinds}, or a folder", "convert it"
            )
        return FILES[suffix_of(path)]
    from robustastro.data.readers import catalogue

    for form in AUTHORS:
        if _module(form).sets(path):
            return form
    table = catalogue.beside(path, request.catalogue)
    files = [f for f in catalogue.files_below(path) if f != table]
    cutouts = sum(suffix_of(f) in FITS for f in files if f.parent == path or table is not None)
    pictures = sum(suffix_of(f) in PICTURES for f in files)
    if cutouts and cutouts >= pictures:  # there may be previews beside cutouts
        return "fits"
    if pictures or table is not None:
        return "folder"
    raise InputError(
        f"the folder {path} is none of the layouts known", LAYOUTS, "name the data file itself, or add a catalogue.csv"
    )
