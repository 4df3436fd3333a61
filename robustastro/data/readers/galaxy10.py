"""Galaxy10, the two HDF5 files of the astroNN project (Leung and Bovy): colour images with labels of the Galaxy Zoo.

| | Galaxy10 SDSS | Galaxy10 DECaLS |
|---|---|---|
| images (N, H, W, 3) uint8 | 21,785 of 69 x 69 | 17,736 of 256 x 256 |
| made of the bands | g, r, i | g, r, z |
| `ans` | 0 to 9, see `SDSS` | 0 to 9, see `DECALS` |
| other columns | none | `ra`, `dec` [degrees], `redshift`, `pxscale` [arcsec per pixel] |

Sizes, columns and classes are those of astroNN's documentation (pages galaxy10 and galaxy10sdss). Both files have ten
classes, and a number means another one in each: they are told apart by the size of the images.

"FILE.h5::common" names the classes as the mocks and DeepAstroUDA do, so that a network trained on one is measured on
another. A class that the others lack keeps a name of its own: nine of the ten of DECaLS are those of DeepAstroUDA, and
`in_between_smooth` is not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from perturbations.errors import InputError, unknown_name
from robustastro.data.readers import pixel_ids
from robustastro.data.readers.assemble import Found, Request
from robustastro.data.readers.hdf5 import columns_of, pictures
from robustastro.data.readers.labels import coded
from robustastro.data.splits import split_of

COMMON = "common"
DECALS = {  # name in the documentation: name in common
    "Disturbed Galaxies": "disturbed",
    "Merging Galaxies": "merging",
    "Round Smooth Galaxies": "round_smooth",
    "In-between Round Smooth Galaxies": "in_between_smooth",
    "Cigar Shaped Smooth Galaxies": "cigar",
    "Barred Spiral Galaxies": "barred_spiral",
    "Unbarred Tight Spiral Galaxies": "tight_spiral",
    "Unbarred Loose Spiral Galaxies": "loose_spiral",
    "Edge-on Galaxies without Bulge": "edge_on",
    "Edge-on Galaxies with Bulge": "edge_on_bulge",
}
SDSS = {  # its spirals may have bars, which the documentation does not ask about
    "Disk, Face-on, No Spiral": "face_on_disk",
    "Smooth, Completely round": "round_smooth",
    "Smooth, in-between round": "in_between_smooth",
    "Smooth, Cigar shaped": "cigar",
    "Disk, Edge-on, Rounded Bulge": "edge_on_bulge",
    "Disk, Edge-on, Boxy Bulge": "edge_on_bulge",
    "Disk, Edge-on, No Bulge": "edge_on",
    "Disk, Face-on, Tight Spiral": "tight_spiral",
    "Disk, Face-on, Medium Spiral": "medium_spiral",
    "Disk, Face-on, Loose Spiral": "loose_spiral",
}
KINDS = {69: ("Galaxy10 SDSS", SDSS), 256: ("Galaxy10 DECaLS", DECALS)}


def is_galaxy10(file: Any) -> bool:
    """Whether an open HDF5 file has the data sets that make a Galaxy10."""
    return "images" in file and "ans" in file


def found(file: Any, path: Path, request: Request) -> Found:
    """The galaxies of an open Galaxy10 file; images stay on disk.

    Raises
    ------
    InputError : images of another size, labels out of range, an unknown suffix, an exposure (display images have none).
    """
    images, _ = pictures(file, "images", path, request)
    size = images.shape[-1]
    if images.shape[1:] != (3, size, size) or size not in KINDS:
        raise InputError(
            f"{path}: images of shape {tuple(file['images'].shape[1:])} with 'ans'",
            "69 x 69 x 3 (Galaxy10 SDSS) or 256 x 256 x 3 (Galaxy10 DECaLS)",
            "take the original file, or write an .npz with images, labels and classes",
        )
    if request.choice not in (None, COMMON):
        raise unknown_name(f"suffix of {path}", request.choice, [COMMON])
    domain, names = KINDS[size]
    wanted = set(request.classes or ())
    if request.choice is None and wanted & set(names.values()) and not wanted & set(names):
        raise InputError(
            f"{path}: the classes {', '.join(request.classes or ())} asked for",
            "the file has names of its own",
            f"read it as {path}::{COMMON}",
        )
    labels, classes, notes = None, tuple(names), ()
    if request.label_column is not None:
        labels, _ = coded(file["ans"][:], classes, None, str(path))
        if request.choice == COMMON:
            labels = np.array(list(names.values()))[labels]
    if request.choice == COMMON:
        classes = tuple(dict.fromkeys(names.values()))
    catalogue = columns_of(file, images.shape[0], ("images", "ans"))
    ids = None
    if {"ra", "dec"} <= set(catalogue) and bool(np.isfinite(catalogue[["ra", "dec"]].to_numpy()).all()):
        places = [f"{ra:010.6f}{dec:+010.6f}" for ra, dec in zip(catalogue["ra"], catalogue["dec"], strict=True)]
        ids = pixel_ids.counted(places)
        if ids != places:  # by the place, so that the images of one galaxy fall into one split
            catalogue = catalogue.assign(split=split_of(places))
            again = len(places) - len(set(places))
            notes = (f"{again} image(s) of a place (ra, dec) that came before: numbered, and in its split",)
    return Found(
        images,
        ids,
        labels=labels,
        classes=classes,
        bands=None if request.bands is not None else ("red", "green", "blue"),
        catalogue=catalogue,
        domain=domain,
        notes=notes,
    )
