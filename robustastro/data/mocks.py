"""Mock galaxies with GalSim, for when there are no data, or none whose truth is known.

Noise-free light is drawn once and kept in the user's cache, in files of 25 galaxies under a name made of everything
that it depends on; any depth and seeing is then observed from it. Galaxy i of seed s is the same whatever the number of
galaxies or processes. A new morphology is one function in `mock_parameters.MORPHOLOGIES` and one in `mock_light.LIGHT`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import galsim
import numpy as np
import pandas as pd
import torch

from perturbations.draws import Draws
from perturbations.errors import InputError, unknown_name
from perturbations.exposure import Exposure
from robustastro.data import mock_light, mock_parameters
from robustastro.data.galaxies import Galaxies
from robustastro.data.mock_observing import observe
from robustastro.record import write_whole

Progress = Callable[[int, int], Any]  # galaxies done, galaxies in all

SHARD = 25  # galaxies per file of the cache and per task of a process
SIZES = (32, 512)
CATALOGUE = (
    *("half_light_radius", "sersic_index", "axis_ratio", "position_angle", "bulge_fraction", "arms", "pitch_angle"),
    *("mass_ratio", "separation", "tidal_fraction"),
)


@dataclass(frozen=True)
class Recipe:
    """Which mock galaxies, and how they are observed.

    Parameters
    ----------
    survey : a survey that surveycodex knows.
    bands : some of g, r, i.
    depth : fraction of the survey's full exposure that was observed (LSST: 1.0 is ten years, 0.1 one).
    classes : names in the order of the labels; galaxy i belongs to class i mod K.
    n : number of galaxies.
    seed : any integer; other seeds are other galaxies.
    size : side of the images [pixels].
    seeing : FWHM of the PSF [arcsec], or None for the survey's in each band.

    Raises
    ------
    InputError : a value out of range, or a name that is not known.
    """

    survey: str = "LSST"
    bands: tuple[str, ...] = ("g", "r", "i")
    depth: float = 1.0
    classes: tuple[str, ...] = ("spiral", "elliptical", "merger")
    n: int = 3000
    seed: int = 1
    size: int = 100
    seeing: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "bands", tuple(self.bands))
        object.__setattr__(self, "classes", tuple(self.classes))
        for band in self.bands:
            if band not in mock_parameters.YOUNG:
                raise unknown_name("band of mock galaxies", band, mock_parameters.YOUNG)
        for name in self.classes:
            if name not in mock_parameters.MORPHOLOGIES:
                raise unknown_name("class of mock galaxies", name, mock_parameters.MORPHOLOGIES)
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise InputError(f"classes {self.classes}", "one or more different names", "name each class once")
        if self.n < 1:
            raise InputError(f"n = {self.n}", "at least one galaxy", "ask for more")
        if not SIZES[0] <= self.size <= SIZES[1]:
            raise InputError(f"size = {self.size}", f"{SIZES[0]} to {SIZES[1]} pixels", "choose another size")
        if not 0.0 < self.depth < math.inf:
            raise InputError(f"depth = {self.depth}", "a fraction of the full exposure above 0", "Y10 is 1.0")
        object.__setattr__(self, "survey", self.exposure().survey)

    def exposure(self) -> Exposure:
        """The exposure that the galaxies are observed with."""
        exposure = Exposure.from_survey(self.survey, self.bands, self.depth)
        return exposure if self.seeing is None else exposure.replace(psf_fwhm=self.seeing)

    def ids(self) -> tuple[str, ...]:
        """Ids of the galaxies: the same at every depth and seeing."""
        return tuple(f"{self.survey.lower()}-s{self.seed}-{index:06d}" for index in range(self.n))

    def domain(self) -> str:
        """A name for people: "LSST Y10"."""
        years = self.depth * 10.0
        whole = self.survey == "LSST" and 1.0 <= years <= 10.0 and math.isclose(years, round(years))
        depth = f"Y{round(years)}" if whole else f"at {self.depth:g} of its depth"
        return f"{self.survey} {depth}" + ("" if self.seeing is None else f', {self.seeing:g}" seeing')

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(self) | {"bands": list(self.bands), "classes": list(self.classes)}

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Recipe:
        """The inverse of `to_dict`."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in table:
            if name not in known:
                raise unknown_name("entry of a recipe", name, known)
        return cls(**table)


def parse_depth(text: str) -> float:
    """Fraction of the full exposure: "Y1" to "Y10" are years of LSST, "0.25" is a fraction.

    Raises
    ------
    InputError : neither.
    """
    years = re.fullmatch(r"[Yy]([1-9]|10)", text.strip())
    try:
        fraction = int(years[1]) / 10.0 if years else float(text)
    except ValueError:
        fraction = math.nan
    if not 0.0 < fraction < math.inf:
        raise InputError(f"depth '{text}'", "Y1 to Y10, or a fraction above 0", "Y10 is the full exposure, Y1 a tenth")
    return fraction


def parameters_hash() -> str:
    """SHA-256 of what decides the light of mock galaxies: the modules that hold its distributions and profiles."""
    h = hashlib.sha256()
    for module in (mock_parameters, mock_light):
        h.update(Path(str(module.__file__)).read_bytes().replace(b"\r\n", b"\n"))
    return h.hexdigest()


def simulate(
    recipe: Recipe, *, processes: int = 2, progress: Progress | None = None, cache: str | Path | None = None
) -> Galaxies:
    """Mock galaxies as a survey sees them.

    Parameters
    ----------
    recipe : which galaxies, and how they are observed.
    processes : that draw light which the cache does not hold.
    progress : called with (galaxies done, galaxies in all).
    cache : folder of the cache; None: `ROBUSTASTRO_CACHE`, or the user's cache directory.

    Returns
    -------
    Galaxies : flux float32 (N, C, size, size) and as catalogue the true parameters, NaN where a class has none:
        magnitude in each band, half-light radius [arcsec], Sersic index, axis ratio and position angle [rad] of the
        disk, of the elliptical or of the brighter merging galaxy; bulge fraction, number of arms and their pitch angle
        [deg]; mass ratio, separation [arcsec] and tidal fraction.

    Raises
    ------
    InputError : a seeing too sharp for the pixels, or a cache that cannot be written.
    """
    exposure, ids = recipe.exposure(), recipe.ids()
    flux: np.ndarray = np.empty((recipe.n, len(recipe.bands), recipe.size, recipe.size), dtype=np.float32)
    done = 0
    for shard in _shards(recipe, processes, cache):
        which = slice(done, done + len(shard))
        draws = Draws(ids[which], recipe.seed, purpose="simulate", scope="observing")
        flux[which] = observe(torch.from_numpy(shard), exposure, draws).flux.numpy()
        done += len(shard)
        if progress:
            progress(done, recipe.n)
    return Galaxies(
        images=flux,
        labels=np.arange(recipe.n, dtype=np.int64) % len(recipe.classes),
        ids=ids,
        classes=recipe.classes,
        bands=recipe.bands,
        exposure=exposure,
        catalogue=catalogue(recipe),
        domain=recipe.domain(),
        source={"recipe": recipe.to_dict(), "mocks": parameters_hash()},
    )


def light(
    recipe: Recipe, *, processes: int = 2, progress: Progress | None = None, cache: str | Path | None = None
) -> np.ndarray:
    """Noise-free light through the working PSF (`mock_observing`), float32 (N, C, size, size), reference electrons.

    Depth and seeing of the recipe do not matter to it.
    """
    shards: list[np.ndarray] = []
    for shard in _shards(recipe, processes, cache):
        shards.append(shard)
        if progress:
            progress(sum(map(len, shards)), recipe.n)
    return np.concatenate(shards)


def catalogue(recipe: Recipe) -> pd.DataFrame:
    """True parameters of the galaxies, one row each; see `simulate`."""
    tables, classes = _parameters(recipe), len(recipe.classes)
    columns = {}
    for name in (*(f"magnitude_{band}" for band in recipe.bands), *CATALOGUE):
        values = np.full(recipe.n, np.nan)
        for k, table in enumerate(tables):
            values[k::classes] = table.get(name, np.nan)
        columns[name] = values
    return pd.DataFrame(columns)


def _parameters(recipe: Recipe) -> list[mock_parameters.Parameters]:
    """Parameters of the galaxies of each class: galaxy i is row i // K of class i mod K."""
    ids, classes = recipe.ids(), len(recipe.classes)
    return [
        mock_parameters.parameters(Draws(ids[k::classes], recipe.seed, purpose="simulate", scope="mocks"), name)
        for k, name in enumerate(recipe.classes[: recipe.n])
    ]


def _shards(recipe: Recipe, processes: int, cache: str | Path | None) -> Iterator[np.ndarray]:
    """The light of 25 galaxies after the other, from the cache or drawn and put there."""
    folder = _folder(recipe, cache)
    counts = [min(SHARD, recipe.n - start) for start in range(0, recipe.n, SHARD)]
    paths = [folder / f"{number:05d}.npz" for number in range(len(counts))]
    shape = (len(recipe.bands), recipe.size, recipe.size)
    missing = [k for k, path in enumerate(paths) if _read(path, counts[k], shape) is None]
    drawn = _drawn(recipe, missing, processes)
    for k, path in enumerate(paths):
        if k in missing:
            shard = next(drawn)
            _write(path, shard)
        else:
            shard = _read(path, counts[k], shape)
            assert shard is not None
        yield shard


def _drawn(recipe: Recipe, shards: list[int], processes: int) -> Iterator[np.ndarray]:
    """Draw some shards, in order. joblib's processes inherit no threads and do not run the user's script again."""
    if not shards:
        return
    tables, classes = _parameters(recipe), len(recipe.classes)
    reference = Exposure.from_survey(recipe.survey, recipe.bands)
    tasks = []
    for number in shards:
        rows = range(number * SHARD, min((number + 1) * SHARD, recipe.n))
        task = []
        for i in rows:
            row = {name: values[i // classes] for name, values in tables[i % classes].items()}
            task.append((recipe.classes[i % classes], row, _fluxes(row, reference)))
        tasks.append(task)
    arguments = (recipe.size, reference.pixel_scale)
    if processes <= 1 or len(tasks) == 1:
        yield from (mock_light.render(task, *arguments) for task in tasks)
        return
    import joblib

    run: Any = joblib.Parallel(n_jobs=min(processes, len(tasks)), backend="loky", return_as="generator")
    yield from run(joblib.delayed(mock_light.render)(task, *arguments) for task in tasks)


def _fluxes(row: Mapping[str, Any], reference: Exposure) -> dict[str, list[float]]:
    """Electrons of each part in each band of the reference exposure."""
    fluxes = {}
    for part in (*mock_parameters.PARTS, "neighbour"):
        if f"fraction_{part}" in row:
            fluxes[part] = [
                float(row[f"fraction_{part}"] * mock_parameters.brightness(row, part, band))
                * 10.0 ** (-0.4 * (float(row["magnitude_r"]) - float(zeropoint)))
                for band, zeropoint in zip(reference.bands, reference.zeropoint, strict=True)
            ]
    return fluxes


def _folder(recipe: Recipe, cache: str | Path | None) -> Path:
    """Where the light of a recipe is kept: named by everything that it depends on."""
    if cache is None:
        cache = os.environ.get("ROBUSTASTRO_CACHE")
    if cache is None:
        import platformdirs

        cache = platformdirs.user_cache_dir("robustastro")
    reference = Exposure.from_survey(recipe.survey, recipe.bands)
    content = (
        *(parameters_hash(), galsim.__version__, recipe.survey, recipe.bands, recipe.classes, recipe.seed, recipe.size),
        *(reference.pixel_scale, reference.zeropoint.tolist()),
    )
    return Path(cache) / "mocks" / hashlib.sha256(repr(content).encode()).hexdigest()[:32]


def _write(path: Path, shard: np.ndarray) -> None:
    def save(file: Path) -> None:
        with open(file, "wb") as stream:
            np.savez(stream, light=shard)

    try:
        write_whole(path, save)
    except InputError as problem:
        raise InputError(problem.wrong, problem.allowed, "name another cache with ROBUSTASTRO_CACHE") from None


def _read(path: Path, count: int, shape: tuple[int, ...]) -> np.ndarray | None:
    """The first galaxies of a file; None if it holds fewer, is not there, or fails its checksum."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            shard = stored["light"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return shard[:count] if shard.shape[1:] == shape and len(shard) >= count else None
