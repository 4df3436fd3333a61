"""Who is compared, and on what: the runs of a comparison, sorted into methods and their trainings.

An arm is one way to a network: a method and an architecture. Its models with other weights are training seeds, taken to
be alike but for the seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from perturbations.errors import InputError, unknown_name
from robustastro.metrics.distances import latent_scale
from robustastro.metrics.paired import pair
from robustastro.record import Record, Unit

TINY = 1e-3  # of the largest latent scale of an arm's trainings: a latent space with nothing in it
ONE_EACH = "one training per arm: this compares two networks, not two methods"


@dataclass(frozen=True)
class Arm:
    """A method and an architecture; `models` holds, by weights, a training's record of each perturbation."""

    name: str
    method: str | None
    arch: str | None
    models: dict[str, dict[str, Record]] = field(default_factory=dict)

    def records(self, perturbation: str) -> list[Record]:
        """One per training that met the perturbation."""
        return [runs[perturbation] for runs in self.models.values() if perturbation in runs]


@dataclass(frozen=True, eq=False)
class Met:
    """One perturbation as the k trainings of an arm met it, on R rungs and N labelled galaxies.

    Parameters
    ----------
    entry : what the run says of the perturbation.
    ids : (N,).
    clean : (k, N) bool, right on the clean image.
    correct, flipped : (k, R, N) bool.
    shift, boundary : (k, R, N) latent shift, and boundary distance at the perturbed image.
    scale : (k,) mean distance between the class centroids.
    """

    entry: Mapping[str, Any]
    ids: np.ndarray
    clean: np.ndarray
    correct: np.ndarray
    flipped: np.ndarray
    shift: np.ndarray
    boundary: np.ndarray
    scale: np.ndarray

    def unscaled(self) -> str | None:
        """Why distances cannot be divided by the scale, if so."""
        usual = self.scale[np.isfinite(self.scale)].max(initial=0.0)
        bad = int(np.sum(~(self.scale > TINY * usual)))
        return f"{bad} of {len(self.scale)} trainings have class centroids at one point, or unknown" if bad else None


def arms_of(records: Sequence[Record]) -> list[Arm]:
    """Arms in the order of the runs, the records of each model merged."""
    arms: dict[tuple[str, Any], Arm] = {}
    keys = [_key(record) for record in records]
    for record, key in zip(records, keys, strict=True):
        (name, arch), about = key, record.run["model"]
        several = len({other for other in keys if other[0] == name}) > 1
        arm = arms.setdefault(key, Arm(f"{name} ({arch})" if several else name, about.get("method"), arch))
        runs = arm.models.setdefault(about.get("sha256") or str(about.get("path") or about["name"]), {})
        for entry in record.run["perturbations"]:
            if entry["name"] in runs:
                raise InputError(
                    f"{entry['name']} of the model {about['name']} is in {runs[entry['name']].path} and {record.path}",
                    "each perturbation once for each model",
                    "leave one of the runs out",
                )
            runs[entry["name"]] = record
    if len(arms) < 2:
        count, arm = len(records), next(iter(arms.values()), None)
        having = f"{count} run{'s' * (count > 1)} of one arm ({arm.name})" if arm else "no run"
        raise InputError(
            f"{having} to compare",
            "runs of two or more arms; an arm is a method and an architecture, and its models are training seeds",
            "add a run of another method or architecture",
        )
    return list(arms.values())


def _key(record: Record) -> tuple[str, Any]:
    """Method, or the model's name where it says no method, and architecture."""
    about = record.run["model"]
    return str(about.get("method") or about["name"]), about.get("arch")


def baseline_of(arms: Sequence[Arm], name: str | None) -> Arm:
    """The arm of that name; without one the first of method "none", else the first."""
    if name is not None and name not in [arm.name for arm in arms]:
        raise unknown_name("arm", name, [arm.name for arm in arms])
    wanted = [arm for arm in arms if (arm.method == "none" if name is None else arm.name == name)]
    return (wanted or list(arms))[0]


def perturbations_of(arms: Sequence[Arm]) -> tuple[list[str], list[dict[str, str]]]:
    """Names that every arm has, and those left out with the reason."""
    names = dict.fromkeys(name for arm in arms for runs in arm.models.values() for name in runs)
    without = {name: [arm.name for arm in arms if not arm.records(name)] for name in names}
    shared = [name for name in names if not without[name]]
    left_out = [{"perturbation": n, "reason": f"not run for {', '.join(of)}"} for n, of in without.items() if of]
    if not shared:
        raise InputError(
            "no perturbation is in all arms: " + "; ".join(f"{p['perturbation']} {p['reason']}" for p in left_out),
            "one or more that every arm met", "run it for the others",
        )  # fmt: skip
    return shared, left_out


def meet(arm: Arm, entry: Mapping[str, Any], like: Record) -> Met:
    """What the trainings of an arm made of a perturbation, galaxies in the order of the record `like`.

    Raises
    ------
    InputError : no galaxy has a label, or an output is not finite.
    """
    ids = like.galaxies.index.to_numpy()[like.galaxies["label"].fillna(-1).to_numpy() >= 0]
    if not len(ids):
        raise InputError(f"{like.path} has no labels", "labelled galaxies", "evaluate on data with labels")
    clean, scale = [], []
    found: dict[str, list[list[np.ndarray]]] = {"perturbed_correct": [], "flipped": [], "shift": [], "boundary": []}
    for record in arm.records(entry["name"]):
        units = [pair(record, Unit(entry["name"], rung["strength"], None, "")) for rung in entry["rungs"]]
        rungs = [unit for unit in units if unit is not None]  # all of them: an unfinished unit was refused
        at = [order_of(unit.ids, ids) for unit in rungs]
        lost = [np.sum((unit.perturbed_class < 0) | (unit.clean_class < 0)) for unit in rungs]
        if any(lost):
            raise InputError(
                f"outputs of {int(max(lost))} galaxies are not finite under {entry['name']} in {record.path}",
                "numbers: whoever is compared with them would look better",
                "mend the model, or leave this run out",
            )
        clean.append(rungs[0].clean_correct[at[0]])
        scale.append(latent_scale(record.head.centroids)[0])
        for name, values in found.items():
            values.append([getattr(unit, name)[rows] for unit, rows in zip(rungs, at, strict=True)])
    correct, flipped, shift, boundary = (np.array(values) for values in found.values())
    return Met(entry, ids, np.array(clean), correct, flipped, shift, boundary, np.array(scale))


def order_of(having: Sequence[Any] | np.ndarray, wanted: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Where each of the wanted ids is among those at hand."""
    at = {galaxy: k for k, galaxy in enumerate(having)}
    return np.array([at[galaxy] for galaxy in wanted], dtype=np.int64)


def description(arm: Arm) -> dict[str, Any]:
    """An arm and its trainings, for JSON."""
    models = [_training(runs) for runs in arm.models.values()]
    return {"name": arm.name, "method": arm.method, "arch": arm.arch, "trainings": len(models), "models": models}


def _training(runs: Mapping[str, Record]) -> dict[str, Any]:
    about = next(iter(runs.values())).run["model"]
    return {key: about.get(key) for key in ("name", "path", "sha256", "training_seed")}


def _unlike(arm: Arm) -> list[str]:
    """Settings in which the trainings of an arm differ, of those whose recipe is known."""
    recipes = [next(iter(runs.values())).run["model"].get("recipe") for runs in arm.models.values()]
    known = [recipe for recipe in recipes if recipe is not None]
    every = dict.fromkeys(key for recipe in known for key in recipe)
    return [key for key in every if any(recipe.get(key) != known[0].get(key) for recipe in known)]


def runs_of(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Every run with its flags."""
    runs = {}
    for arm in arms:
        for model in arm.models.values():
            for record in model.values():
                about = record.run
                runs[record.path] = {
                    "run": str(record.path),
                    "arm": arm.name,
                    "model": about["model"]["name"],
                    "seed": about.get("seed"),
                    "flags": about.get("flags", []),
                }
    return list(runs.values())


def notes_of(arms: Sequence[Arm]) -> list[str]:
    """Notes on the trainings of each arm."""
    single = [arm.name for arm in arms if len(arm.models) == 1]
    notes = [ONE_EACH] if len(single) == len(arms) else [
        f"one training of {name}: what another training of it would give is unknown, and no interval covers it"
        for name in single
    ]  # fmt: skip
    for arm in arms:
        models = [(_training(runs), list(runs.values())) for runs in arm.models.values()]
        collapsed = [
            about["name"]
            for about, runs in models
            if any(flag["code"] == "collapsed" for record in runs for flag in record.run.get("flags", []))
        ]
        if collapsed:
            few = (
                "; few trainings do not tell how many will collapse, so an interval over them holds the truth less "
                "often than it says"
            )
            notes.append(
                f"{len(collapsed)} of {len(models)} trainings of {arm.name} collapsed ({', '.join(collapsed)}): a "
                "method that can fail is compared with its failures, so they are counted" + few * (len(models) > 1)
            )
        unlike = _unlike(arm)
        if unlike:
            notes.append(
                f"the trainings of {arm.name} differ in more than the seed ({', '.join(unlike)}): their scatter, and "
                "the intervals over it, are not of training alone"
            )
        seeds = [about["training_seed"] for about, _ in models if about["training_seed"] is not None]
        twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
        if twice:
            notes.append(f"several trainings of {arm.name} have the seed {', '.join(map(str, twice))}: each is counted")
    return notes


def lacking(arms: Sequence[Arm], name: str) -> list[str]:
    """A note for each arm of which only some trainings met a perturbation."""
    counts = [(arm.name, len(arm.records(name)), len(arm.models)) for arm in arms]
    return [f"{name}: {have} of the {all_} trainings of {arm} met it" for arm, have, all_ in counts if have < all_]
