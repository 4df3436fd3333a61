"""Mock galaxies with GalSim, for when there are no data, or none whose truth is known.

Noise-free light is drawn once and kept in the user's cache, in files of 25 galaxies under a name made of everything
that it depends on; any depth and seeing is then observed from it. Galaxy i of seed s is the same whatever the number of
galaxies or processes. Which classes, bands and populations there are: `morphologies`.
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
from perturbations.surveys import survey_exposure
from robustastro.data import lensing, mock_light, mock_parameters, morphologies, morphology_light, morphology_parameters
from robustastro.data import populations as mock_populations
from robustastro.data.galaxies import Galaxies
from robustastro.data.mock_observing import observe
from robustastro.record import write_whole

Progress = Callable[[int, int], Any]  # galaxies done, galaxies in all

SHARD = 25  # galaxies per file of the cache and per task of a process
SIZES = (32, 512)
ZOOMS = (0.02, 50.0)
PRISTINE = 1e6  # depth at which noise no longer shows: photon noise a thousandth of that of the survey
CATALOGUE = (
    *("half_light_radius", "sersic_index", "axis_ratio", "position_angle", "bulge_fraction", "arms", "pitch_angle"),
    *("mass_ratio", "separation", "tidal_fraction"),
)
MORE_COLUMNS = ("bar_length", "einstein_radius", "source_radius")  # in the catalogue where a class has them
LENGTHS = ("half_light_radius", "separation", *MORE_COLUMNS)  # columns in arcsec
LATER = (
    "proportions",
    "zoom",
    "brighter",
    "population",
    "calibrated_to",
)  # entries of a recipe that published ones do not have
FROZEN = (mock_parameters, mock_light)
ADDED = (morphologies, morphology_parameters, morphology_light, lensing, mock_populations)


@dataclass(frozen=True)
class Recipe:
    """Which mock galaxies, and how they are observed.

    Parameters
    ----------
    survey : a name that `perturbations.surveys.survey_exposure` knows.
    bands : some of g, r, i, z; of HST, some of I, J, H.
    depth : fraction of the survey's full exposure that was observed (LSST: 1.0 is ten years, 0.1 one); `PRISTINE`, a
        million exposures, leaves the seeing and no noise to speak of.
    classes : names in the order of the labels (`morphologies.CLASSES`).
    n : number of galaxies.
    seed : any integer; other seeds are other galaxies.
    size : side of the images [pixels].
    seeing : FWHM of the PSF [arcsec], or None for the survey's in each band.
    proportions : share of each class, in any unit: each galaxy is of the class that has the fewest for its share so
        far. None: equal shares, galaxy i belongs to class i mod K.
    zoom : angular size of everything in the image, relative to the standard galaxies.
    brighter : [mag], of every galaxy, at the same size.
    population : statistics of the classes (`populations.POPULATIONS`).
    calibrated_to : the survey on whose zero-points the flux is given, so that a magnitude is the same number of
        electrons as there and one stretch serves both; empty: the survey's own.

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
    proportions: tuple[float, ...] = ()
    zoom: float = 1.0
    brighter: float = 0.0
    population: str = "standard"
    calibrated_to: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "bands", tuple(self.bands))
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "proportions", tuple(float(share) for share in self.proportions))
        for band in self.bands:
            if band not in morphologies.BANDS:
                raise unknown_name("band of mock galaxies", band, morphologies.BANDS)
        for name in self.classes:
            if name not in morphologies.CLASSES:
                raise unknown_name("class of mock galaxies", name, morphologies.CLASSES)
        if self.population not in mock_populations.POPULATIONS:
            raise unknown_name("population of mock galaxies", self.population, mock_populations.POPULATIONS)
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise InputError(f"classes {self.classes}", "one or more different names", "name each class once")
        if self.n < 1:
            raise InputError(f"n = {self.n}", "at least one galaxy", "ask for more")
        if not SIZES[0] <= self.size <= SIZES[1]:
            raise InputError(f"size = {self.size}", f"{SIZES[0]} to {SIZES[1]} pixels", "choose another size")
        if not 0.0 < self.depth < math.inf:
            raise InputError(f"depth = {self.depth}", "a fraction of the full exposure above 0", "Y10 is 1.0")
        if self.proportions and (
            len(self.proportions) != len(self.classes) or not all(0.0 < share < math.inf for share in self.proportions)
        ):
            raise InputError(
                f"proportions {self.proportions} of {len(self.classes)} classes",
                "one number above 0 per class",
                "leave them out for equal shares; leave out a class of which there shall be none",
            )
        if not ZOOMS[0] <= self.zoom <= ZOOMS[1]:
            raise InputError(f"zoom = {self.zoom}", f"{ZOOMS[0]:g} to {ZOOMS[1]:g}", "1 is the standard size")
        if not -10.0 <= self.brighter <= 10.0:
            raise InputError(f"brighter = {self.brighter}", "-10 to 10 mag", "0 is the standard brightness")
        object.__setattr__(self, "survey", self.exposure().survey)

    def exposure(self) -> Exposure:
        """The exposure that the galaxies are observed with."""
        exposure = self._on_its_scale(survey_exposure(self.survey, self.bands, self.depth))
        return exposure if self.seeing is None else exposure.replace(psf_fwhm=self.seeing)

    def reference(self) -> Exposure:
        """The survey's full exposure, in which light is measured."""
        return self._on_its_scale(survey_exposure(self.survey, self.bands))

    def _on_its_scale(self, exposure: Exposure) -> Exposure:
        if not self.calibrated_to:
            return exposure
        zeropoint = survey_exposure(self.calibrated_to, self.bands).zeropoint
        return exposure.rescaled(10.0 ** (0.4 * (zeropoint - exposure.zeropoint)))

    def ids(self) -> tuple[str, ...]:
        """Ids of the galaxies: the same at every depth and seeing."""
        return tuple(f"{self.survey.lower()}-s{self.seed}-{index:06d}" for index in range(self.n))

    def labels(self) -> np.ndarray:
        """Class of each galaxy, int64 (N,)."""
        if not self.proportions:
            return np.arange(self.n, dtype=np.int64) % len(self.classes)
        shares = np.array(self.proportions) / sum(self.proportions)
        labels, counts = np.empty(self.n, dtype=np.int64), np.zeros(len(shares))
        for i in range(self.n):
            labels[i] = np.argmax(np.round(shares * (i + 1) - counts, 9))  # rounded: a tie goes to the first
            counts[labels[i]] += 1.0
        return labels

    def domain(self) -> str:
        """A name for people: "LSST Y10"."""
        years = self.depth * 10.0
        whole = self.survey == "LSST" and 1.0 <= years <= 10.0 and math.isclose(years, round(years))
        depth = f"Y{round(years)}" if whole else f"at {self.depth:g} {'times' if self.depth > 1.0 else 'of'} its depth"
        if self.survey != "LSST" and self.depth == 1.0:
            depth = ""
        elif self.depth == PRISTINE:
            depth = "pristine"
        name = f"{self.survey} {depth}".strip()
        if self.population != "standard":
            name += f", {self.population} galaxies"
        return name + ("" if self.seeing is None else f', {self.seeing:g}" seeing')

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON. The later entries are left out where they are at their defaults."""
        table: dict[str, Any] = dataclasses.asdict(self)
        for field in dataclasses.fields(self):
            if field.name in LATER and table[field.name] == field.default:
                del table[field.name]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in table.items()}

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


def parse_proportions(text: str) -> tuple[float, ...]:
    """Shares of the classes: "9,9,1"; of an empty text none, which are equal shares.

    Raises
    ------
    InputError : something else than numbers.
    """
    try:
        return tuple(float(share) for share in text.split(",")) if text.strip() else ()
    except ValueError:
        raise InputError(f"proportions '{text}'", "one number above 0 per class", "for instance 9,9,1") from None


def parameters_hash(recipe: Recipe | None = None) -> str:
    """SHA-256 of what decides the light of mock galaxies: the modules that hold its distributions and profiles.

    Spirals, ellipticals and mergers of the standard population in g, r, i (and no recipe) depend on the two frozen
    modules alone; anything else also on those that were added.
    """
    h = hashlib.sha256()
    first = recipe is None or (
        set(recipe.classes) <= set(mock_parameters.MORPHOLOGIES)
        and set(recipe.bands) <= set(mock_parameters.YOUNG)
        and recipe.population == "standard"
    )
    for module in FROZEN if first else (*FROZEN, *ADDED):
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
        [deg]; mass ratio, separation [arcsec] and tidal fraction. Where a class has them: half the length of the bar,
        Einstein radius and radius of the lensed source [arcsec].

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
        labels=recipe.labels(),
        ids=ids,
        classes=recipe.classes,
        bands=recipe.bands,
        exposure=exposure,
        catalogue=catalogue(recipe),
        domain=recipe.domain(),
        source={"recipe": recipe.to_dict(), "mocks": parameters_hash(recipe)},
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
    groups = _parameters(recipe)
    more = [name for name in MORE_COLUMNS if any(name in group.table for group in groups)]
    columns = {}
    for name in (*(f"magnitude_{band}" for band in recipe.bands), *CATALOGUE, *more):
        values = np.full(recipe.n, np.nan)
        for group in groups:
            values[group.where] = group.table.get(name, np.nan)
        columns[name] = values * recipe.zoom if name in LENGTHS else values
    return pd.DataFrame(columns)


@dataclass(frozen=True)
class _Group:
    """The galaxies of one morphology: which they are, and a row of parameters for each."""

    morphology: str
    where: np.ndarray
    table: mock_parameters.Parameters


def _parameters(recipe: Recipe) -> list[_Group]:
    """Parameters of the galaxies by morphology; lengths before `zoom`."""
    ids, labels = recipe.ids(), recipe.labels()
    groups = []
    for k, name in enumerate(recipe.classes):
        where = np.flatnonzero(labels == k)
        draws = Draws([ids[i] for i in where], recipe.seed, purpose="simulate", scope="mocks")
        for morphology, members in morphologies.members(draws, name) if len(where) else ():
            table = morphologies.parameters(draws.take(members), morphology, recipe.population)
            brighter = {m: table[m] - recipe.brighter for m in table if m.startswith("magnitude_")}
            groups.append(_Group(morphology, where[members], table | brighter))
    return groups


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
    groups = _parameters(recipe)
    place = {int(i): (group, row) for group in groups for row, i in enumerate(group.where)}
    reference = recipe.reference()
    tasks = []
    for number in shards:
        task = []
        for i in range(number * SHARD, min((number + 1) * SHARD, recipe.n)):
            group, k = place[i]
            row = {name: values[k] for name, values in group.table.items()}
            task.append((group.morphology, row, _fluxes(row, reference)))
        tasks.append(task)
    # smaller pixels on the same galaxy are a larger galaxy on the same pixels
    arguments = (recipe.size, reference.pixel_scale / recipe.zoom)
    if processes <= 1 or len(tasks) == 1:
        yield from (morphology_light.render(task, *arguments) for task in tasks)
        return
    import joblib

    run: Any = joblib.Parallel(n_jobs=min(processes, len(tasks)), backend="loky", return_as="generator")
    yield from run(joblib.delayed(morphology_light.render)(task, *arguments) for task in tasks)


def _fluxes(row: Mapping[str, Any], reference: Exposure) -> dict[str, list[float]]:
    """Electrons of each part in each band of the reference exposure."""
    fluxes = {}
    for part in (*morphology_parameters.PARTS, "neighbour"):
        if f"fraction_{part}" in row:
            fluxes[part] = [
                float(row[f"fraction_{part}"] * morphologies.brightness(row, part, band))
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
    reference = recipe.reference()
    content = (
        *(parameters_hash(recipe), galsim.__version__, recipe.survey, recipe.bands, recipe.classes, recipe.seed),
        *(recipe.size, reference.pixel_scale, reference.zeropoint.tolist()),
        *((name, value) for name, value in recipe.to_dict().items() if name in LATER),
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
