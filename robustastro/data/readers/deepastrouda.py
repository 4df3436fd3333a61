"""The HDF5 files of Ciprijanovic et al. 2023 (DeepAstroUDA, arXiv:2302.02005; data Zenodo 7473597).

`decals.h5`, `sdss_1.h5`, `sdss_2.h5`, `sdss_stripe82.h5`, one survey each; in a folder: "folder::decals". Its LSST
mocks are those of DeepAdversaries, and are read so.

Verified: only the names of the files, by two programs of others that load the record (repository voetberg/AstroUDA).
Assumed, after those programs: `images` (N, H, W, 3) or (N, 3, H, W) with `labels`, and perhaps `images_test` with
`labels_test`; parts for training and validation are read where there are any. Assumed, after the paper: the order of
the classes, lenses last. A note says so whenever a file is read. Which of the two SDSS files goes with which experiment
is not known.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from perturbations.errors import InputError
from robustastro.data.readers import hdf5
from robustastro.data.readers.assemble import Found, Request, chosen_set
from robustastro.data.readers.deepadversaries import JoinedImages
from robustastro.data.readers.labels import coded

CLASSES = (
    "disturbed", "merging", "round_smooth", "cigar", "barred_spiral", "tight_spiral", "loose_spiral", "edge_on",
    "edge_on_bulge", "strong_lens",
)  # fmt: skip
SURVEYS = {"decals": "DECaLS", "sdss_1": "SDSS 1", "sdss_2": "SDSS 2", "sdss_stripe82": "SDSS Stripe 82"}
PARTS = {"": "train", "_train": "train", "_val": "valid", "_valid": "valid", "_test": "test"}
NOTE = "layout and order of the classes are assumed: look at some images of each class before trusting them"


def sets(folder: Path) -> tuple[str, ...]:
    """The surveys that a folder holds: what may follow "::"."""
    return tuple(name for name in SURVEYS if (folder / f"{name}.h5").is_file())


def is_deepastrouda(file: Any, path: Path) -> bool:
    """Whether an open HDF5 file is one of these, by its name and what is in it."""
    return path.stem in SURVEYS and any(f"labels{part}" in file for part in PARTS)


def find(path: Path, request: Request) -> Found:
    """The survey of the folder that the suffix of the path chooses, or the only one there."""
    name = chosen_set(path, request, sets(path))
    found = hdf5.find(path / f"{name}.h5", replace(request, choice=None))
    return replace(found, source={"choice": name})


def found(file: Any, path: Path, request: Request) -> Found:
    """The galaxies of an open file, its parts one after the other; images stay on disk.

    Raises
    ------
    InputError : a part without its images or labels, of another number or size, or a label out of range.
    """
    parts = [part for part in PARTS if f"images{part}" in file or f"labels{part}" in file]
    opened, notes, labels, splits = [], [NOTE], [], []
    for part in parts:
        for name in (f"images{part}", f"labels{part}"):
            if name not in file:
                raise InputError(
                    f"{path} has {', '.join(file)} but not {name}", "images and labels of a part in pairs",
                    "download it again from Zenodo record 7473597",
                )  # fmt: skip
        images, more = hdf5.pictures(file, f"images{part}", path, request)
        codes, _ = coded(file[f"labels{part}"][:], CLASSES, None, f"{path}: labels{part}")
        if len(codes) != images.shape[0] or (opened and images.shape[1:] != opened[0].shape[1:]):
            raise InputError(
                f"{path}: {len(codes)} labels{part} and images{part} of shape {images.shape}",
                "one label per image, and images of one size in all parts", "download it again",
            )  # fmt: skip
        opened.append(images)
        labels.append(codes)
        splits += [PARTS[part]] * len(codes)
        notes += more
    return Found(
        opened[0] if len(opened) == 1 else JoinedImages(tuple(opened)),
        None,
        labels=np.concatenate(labels) if request.label_column is not None else None,
        classes=CLASSES,
        bands=None if request.bands is not None or opened[0].shape[1] != 3 else ("red", "green", "blue"),
        catalogue=pd.DataFrame({} if len(opened) == 1 else {"split": splits}),
        domain=SURVEYS[path.stem],
        notes=tuple(dict.fromkeys(notes)),
    )
