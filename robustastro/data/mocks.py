"""Mock galaxies with GalSim, for when there are no data, or none whose truth is known.

Noise-free light is drawn once and kept in the user's cache, in files of 25 galaxies under a name made of everything
that it depends on; any depth and seeing is then observed from it. Galaxy i of seed s is the same whatever the number of
galaxies or processes. Which classes, bands and populations there are: `morphologies`.
"""

from __future__ import annotations

import hashlib
import os
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
from perturbations.errors import InputError
from perturbations.exposure import Exposure
from robustastro.data import lensing, mock_light, mock_parameters, morphologies, morphology_light, morphology_parameters
from robustastro.data import populations as mock_populations
from robustastro.data.galaxies import Galaxies
from robustastro.data.mock_observing import observe
from robustastro.data.mock_recipe import LATER, Recipe
from robustastro.data.mock_recipe import PRISTINE as PRISTINE
from robustastro.data.mock_recipe import parse_depth as parse_depth
from robustastro.data.mock_recipe import parse_proportions as parse_proportions
from robustastro.record import write_whole

Progress = Callable[[int, int], Any]  # galaxies done, galaxies in all

SHARD = 25  # galaxies per file of the cache and per task of a process
CATALOGUE = (
    *("half_light_radius", "sersic_index", "axis_ratio", "position_angle", "bulge_fraction", "arms", "pitch_angle"),
    *("mass_ratio", "separation", "tidal_fraction"),
)
MORE_COLUMNS = ("bar_length", "einstein_radius", "source_radius")  # in the catalogue where a class has them
LENGTHS = ("half_light_radius", "separation", *MORE_COLUMNS)  # columns in arcsec
FROZEN = (mock_parameters, mock_light)
ADDED = (morphologies, morphology_parameters, morphology_light, lensing, mock_populations)


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
