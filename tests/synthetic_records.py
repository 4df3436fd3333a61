"""Small, plausible records for tests of the read side, written with the record's own methods."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from robustastro.record import Head, Record

CLASSES = ("spiral", "elliptical", "merger")
ENTRIES: dict[str, dict[str, Any]] = {
    "depth": {
        "family": "observing",
        "kind": "corruption",
        "space": "flux",
        "parameter": "fraction of the exposure kept",
        "unit": "1",
        "ladder": [0.8, 0.6, 0.4, 0.2, 0.1],
        "identity": 1.0,
    },
    "seeing": {
        "family": "observing",
        "kind": "corruption",
        "space": "flux",
        "parameter": "extra seeing FWHM, in quadrature",
        "unit": "arcsec",
        "ladder": [0.2, 0.4, 0.6, 0.8, 1.0],
        "identity": 0.0,
    },
    "jpeg": {
        "family": "compression",
        "kind": "corruption",
        "space": "input",
        "parameter": "quality",
        "unit": "1",
        "ladder": [80.0, 50.0, 25.0, 15.0, 10.0],
        "identity": None,
    },
    "pgd": {
        "family": "attacks",
        "kind": "attack",
        "space": "input",
        "parameter": "epsilon",
        "unit": "input",
        "ladder": [0.004, 0.008, 0.016, 0.031, 0.063],
        "identity": 0.0,
    },
    "onepixel": {
        "family": "attacks",
        "kind": "attack",
        "space": "input",
        "parameter": "changed pixels",
        "unit": "pixel",
        "ladder": [1.0],
        "identity": 0.0,
    },
    "onepixel_exhaustive": {
        "family": "attacks",
        "kind": "attack",
        "space": "input",
        "parameter": "changed pixels",
        "unit": "pixel",
        "ladder": [1.0],
        "identity": 0.0,
        "options": {"grid": "corners", "space": "input", "target": None, "early_exit": False, "certificate": 64},
    },
}


def run_json(
    name: str,
    entries: dict[str, list[float]],
    bands: tuple[str, ...],
    n: int,
    training_seed: int | None = None,
    galaxies: int = 0,
) -> dict[str, Any]:
    """What the engine writes, as far as the read side looks at it; `entries` maps a perturbation to its strengths.

    `galaxies` stands for their images: another number, another data hash.
    """
    return {
        "model": {
            "name": name,
            "path": f"{name}.pt",
            "method": name,
            "arch": "tiny",
            "sha256": sha256(f"{name} {training_seed}".encode()).hexdigest(),
            "training_seed": training_seed,
        },
        "data": {"domain": "synthetic", "n": n, "sha256": sha256(f"{galaxies} {n}".encode()).hexdigest()},
        "contract": {"classes": list(CLASSES), "bands": list(bands)},
        "perturbations": [
            {"version": 1, "options": {}}
            | ENTRIES[p]
            | {
                "name": p,
                "rungs": [
                    {
                        "severity": ENTRIES[p]["ladder"].index(s) + 1 if s in ENTRIES[p]["ladder"] else None,
                        "strength": s,
                    }
                    for s in strengths
                ],
            }
            for p, strengths in entries.items()
        ],
        "seed": 0,
        "flags": [],
    }


def make_record(
    path: Path,
    entries: dict[str, list[float]],
    name: str = "none",
    n: int = 60,
    bands: tuple[str, ...] = ("g", "r", "i"),
    harm: float = 1.0,
    stretch: float = 1.0,
    seed: int = 0,
    size: int = 24,
    training_seed: int | None = None,
) -> Record:
    """Galaxies around three centroids in an 8-dimensional latent space, pushed at random by each rung.

    `harm` scales how far a rung pushes, `stretch` the whole latent space. Records of one `seed` are of the same
    galaxies; another `training_seed` sees them otherwise.
    """
    rng = np.random.default_rng(seed)
    centroids = stretch * 3.0 * np.eye(3, 8)
    labels = rng.integers(0, 3, n)
    if training_seed is not None:
        rng = np.random.default_rng([seed, training_seed])
    latent = centroids[labels] + stretch * rng.normal(0.0, 0.9, (n, 8))
    head = Head(centroids / stretch**2, np.zeros(3), centroids, "clean source training galaxies")
    ids = [f"galaxy-{k:04d}" for k in range(n)]
    record = Record(path)
    record.write_run(run_json(name, entries, bands, n, training_seed, galaxies=seed))
    record.write_head(head)
    record.write_galaxies(galaxy_table(ids, labels, latent, head))
    clean = _images(rng, 8, len(bands), size)
    for perturbation, strengths in entries.items():
        for strength in strengths:
            rung = ENTRIES[perturbation]["ladder"].index(strength) + 1 if len(strengths) > 1 else 4
            push = rng.normal(0.0, 0.45 * harm * stretch * rung, (n, 8))
            table = unit_table(ids, latent + push, head)
            images = {"ids": np.array(ids[:8]), "clean": clean, "perturbed": clean + rng.normal(0, 0.02, clean.shape)}
            if ENTRIES[perturbation]["kind"] == "attack":
                table["queries"] = rng.integers(2, 900, n)
            if perturbation == "onepixel":
                rows, columns = rng.integers(0, size, (2, n, 1))
                table["rows"], table["columns"] = list(rows), list(columns)
                images["perturbed"] = clean.copy()
                for k in range(8):
                    images["perturbed"][k, :, rows[k, 0], columns[k, 0]] = (np.arange(len(bands)) + k) % 2
            record.write_images(perturbation, strength, images)
            record.write_shard(perturbation, strength, 0, table)
    if "onepixel_exhaustive" in entries:
        y, x = np.mgrid[:size, :size] - (size - 1) / 2
        dip = rng.uniform(0.0, 2.0, (n, 1, 1)) * np.exp(-np.hypot(y, x) / 2.0)
        margin = clean_margin(record)[:, None, None] * (1.0 - dip)
        set_maps(record, margin, margin > 0.5 * margin[:, :1, :1])
    return record


def clean_margin(record: Record) -> np.ndarray:
    """The logit of the true class less the largest other one, (N,)."""
    logits, labels = np.stack(record.galaxies["logits"]), record.galaxies["label"].to_numpy()
    others = np.where(np.arange(logits.shape[1]) == labels[:, None], -np.inf, logits)
    return logits[np.arange(len(labels)), labels] - others.max(axis=1)


def set_maps(record: Record, margin: np.ndarray, certified: np.ndarray, **options: Any) -> None:
    """Give a record the maps (N, H, W) of onepixel_exhaustive with what follows from them, and change its options.

    Galaxies that were wrong from the start are not attacked: NaN, and nothing certified.
    """
    attacked = clean_margin(record) > 0
    margin = np.where(attacked[:, None, None], margin, np.nan).astype(np.float32)
    table = record.unit("onepixel_exhaustive", 1.0).reset_index()
    counted = attacked & np.isfinite(margin).all(axis=(1, 2))
    table["fatal_pixels"] = np.where(counted, (margin <= 0).sum(axis=(1, 2)), -1)
    table["smallest_margin"] = np.where(attacked, np.fmin.reduce(margin, axis=(1, 2)), np.nan)
    arrays = {"map": margin, "certified": certified & attacked[:, None, None], "ids": table["id"].to_numpy(dtype=str)}
    record.write_maps("onepixel_exhaustive", 1.0, arrays, 0)
    record.write_shard("onepixel_exhaustive", 1.0, 0, table)
    run = record.run
    (entry,) = [p for p in run["perturbations"] if p["name"] == "onepixel_exhaustive"]
    entry["options"] = entry["options"] | options
    record.write_run(run)


def galaxy_table(ids: list[str], labels: np.ndarray, latent: np.ndarray, head: Head) -> pd.DataFrame:
    """galaxies.parquet, with logits from a linear head."""
    return pd.DataFrame({"id": ids, "label": labels, "split": "test", **_outputs(latent, head)})


def unit_table(ids: list[str], latent: np.ndarray, head: Head) -> pd.DataFrame:
    """A shard, with logits from a linear head."""
    return pd.DataFrame({"id": ids, "l0": 0.0, "l2": 0.0, "linf": 0.0, **_outputs(latent, head)})


def _outputs(latent: np.ndarray, head: Head) -> dict[str, list[np.ndarray]]:
    assert head.weight is not None
    assert head.bias is not None
    return {"logits": list(latent @ head.weight.T + head.bias), "latent": list(latent)}


def _images(rng: np.random.Generator, count: int, bands: int, size: int) -> np.ndarray:
    """Round galaxies on noise, float32 (count, bands, size, size) in [0, 1]."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    radius = np.hypot(x, y * rng.uniform(1.0, 2.0, (count, 1, 1, 1)))
    light = 0.38 * rng.uniform(0.5, 1.0, (count, bands, 1, 1)) * np.exp(-radius / size * 8.0)
    return np.clip(0.5 + light + rng.normal(0, 0.02, light.shape), 0, 1).astype(np.float32)
