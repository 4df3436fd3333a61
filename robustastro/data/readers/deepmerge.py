"""The folder of Ciprijanovic et al. 2021 (arXiv:2103.01373; data Zenodo 4507941): mergers in two pairs of domains.

| Set | Images | What they show | Bands |
|---|---|---|---|
| distant/source | `SimSim_SOURCE_X_Illustris2_pristine.npy` | Illustris-1 at z = 2, no noise | F814W, F356W, F160W |
| distant/target | `SimSim_TARGET_X_Illustris2_noisy.npy` | the same with noise | F814W, F356W, F160W |
| nearby/source | `SimReal_SOURCE_X_Illustris0.npy` | Illustris-1 at z = 0, dust, PSF, noise as in SDSS | g, r, i |
| nearby/target | `SimReal_TARGET_X_postmergers_SDSS.npy` | SDSS, labels of the Galaxy Zoo | g, r, i |

Labels are in the file of the same name with y for X; images under a small x are taken too, as others who used them have
it. Seen in the authors' code and README, not in the files: the names, the bands, the axes (N, 3, 75, 75), and 0 for
non-merger, 1 for merger. There are no ids and no splits.

Assumed: the two distant files hold the same galaxies in the same order, if they have as many images and the same
labels. Then a galaxy has one id, and one split, in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perturbations.errors import InputError
from robustastro.data.readers.arrays import labels_of, load, mapped
from robustastro.data.readers.assemble import Found, Request, chosen_set

CLASSES = ("non-merger", "merger")
HST, SDSS = ("F814W", "F356W", "F160W"), ("g", "r", "i")


@dataclass(frozen=True)
class Set:
    """The files of one domain, "?" standing for X or y, and what they show."""

    files: str
    bands: tuple[str, ...]
    domain: str


ALL = {
    "distant/source": Set("SimSim_SOURCE_?_Illustris2_pristine.npy", HST, "Illustris z=2 pristine"),
    "distant/target": Set("SimSim_TARGET_?_Illustris2_noisy.npy", HST, "Illustris z=2 noisy"),
    "nearby/source": Set("SimReal_SOURCE_?_Illustris0.npy", SDSS, "Illustris z=0"),
    "nearby/target": Set("SimReal_TARGET_?_postmergers_SDSS.npy", SDSS, "SDSS post-mergers"),
}
NOT_PAIRED = "distant source and target differ in their number or labels: ids of each domain by itself"


def sets(folder: Path) -> tuple[str, ...]:
    """The sets of which a folder holds the images or the labels: what may follow "::"."""
    return tuple(name for name in ALL if any(_file(folder, name, kind).is_file() for kind in "Xy"))


def set_of(path: Path) -> str | None:
    """The set that an `.npy` of images opened by itself is, where its labels lie beside it."""
    return next((n for n in ALL if _file(path.parent, n, "X") == path and _file(path.parent, n, "y").is_file()), None)


def find(path: Path, request: Request) -> Found:
    """The set of the folder that the suffix of the path chooses, or the only one there."""
    name = chosen_set(path, request, sets(path))
    images, notes = mapped(_whole(path, name, "X"))
    labels, count = None, len(images.array)
    if request.label_column is not None:
        labels = labels_of(_whole(path, name, "y"), CLASSES, count)
    stem = name.replace("/", "-")
    if name.startswith("distant"):
        paired = _same_galaxies(path)
        stem, notes = ("distant", notes) if paired else (stem, (*notes, NOT_PAIRED))
    return Found(
        images,
        [f"{stem}-{index:06d}" for index in range(count)],
        labels=labels,
        classes=CLASSES,
        bands=ALL[name].bands,
        domain=ALL[name].domain,
        source={"choice": name},
        notes=notes,
    )


def _same_galaxies(folder: Path) -> bool:
    """Whether both distant files have as many images and the same labels, as far as both are there."""
    for kind in "Xy":
        files = [_file(folder, f"distant/{side}", kind) for side in ("source", "target")]
        if not all(file.is_file() for file in files):
            continue
        if kind == "X":
            same = len(load(files[0], mapped=True)) == len(load(files[1], mapped=True))
        else:
            same = np.array_equal(load(files[0]), load(files[1]))
        if not same:
            return False
    return True


def _file(folder: Path, name: str, kind: str) -> Path:
    """Where the images ("X") or labels ("y") of a set are, or would be."""
    file = folder / ALL[name].files.replace("?", kind)
    small = folder / ALL[name].files.replace("?", kind.lower())
    return small if small.is_file() and not file.is_file() else file


def _whole(folder: Path, name: str, kind: str) -> Path:
    """The file of a set, which must be there."""
    file = _file(folder, name, kind)
    if not file.is_file():
        there = _file(folder, name, "y" if kind == "X" else "X").name
        without = ", or read it without labels (--label-column none)" if kind == "y" else ""
        raise InputError(
            f"{folder} has {there} but not {file.name}",
            "the images and the labels of a set, in two files",
            f"get it from Zenodo record 4507941{without}",
        )
    return file
