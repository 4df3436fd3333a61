"""What `robustastro inspect` says of a file: a model, data, or a run. Nothing in the file is run."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from perturbations.errors import InputError
from robustastro.contract import InputContract, Stretch
from robustastro.data.galaxies import Galaxies
from robustastro.models import zoo
from robustastro.models.bundles import is_bundle, read_weights, state_dict_of

WEIGHTS = (".pt", ".pth", ".tar", ".safetensors", ".ckpt", ".bin")


def facts(file: str, **reading: Any) -> dict[str, Any]:
    """What a file is, as plain values."""
    called, path = zoo.resolve(file)
    if (path / "run.json").is_file():
        return _run(path)
    if path.suffix in WEIGHTS:
        return _model(called, path)
    return _data(file, reading)


def first_contract(file: str, **reading: Any) -> str:
    """A contract in TOML to start from: fitted to data, or with a model's numbers of bands and classes."""
    from robustastro.adapt.training import fit_contract
    from robustastro.commands import open_data

    _, path = zoo.resolve(file)
    if path.suffix not in WEIGHTS:
        galaxies = open_data(file, reading)
        if len(galaxies.classes) < 2:
            raise InputError(
                f"{file} has {len(galaxies.classes)} class(es)", "two or more", "name the labels with --label-column"
            )
        return fit_contract(galaxies).to_toml()
    stored, _ = read_weights(path)
    if is_bundle(stored):
        return InputContract.from_dict(stored["contract"], file).to_toml()
    bands, classes = _shape(state_dict_of(stored, path))
    template = InputContract(
        bands=tuple(f"band{k + 1}" for k in range(bands or 3)),
        classes=tuple(f"class{k + 1}" for k in range(classes or 2)),
        stretch=Stretch(kind="linear", low=(0.0,) * (bands or 3), high=(1.0,) * (bands or 3)),
    )
    return (
        "# Name the bands and classes, and give the stretch and normalisation of the training.\n" + template.to_toml()
    )


def text(found: dict[str, Any]) -> str:
    """The facts for people, a line each."""
    return "\n".join(
        f"{name:14} {value if isinstance(value, str) else json.dumps(value)}" for name, value in found.items()
    )


def _model(called: str, path: Path) -> dict[str, Any]:
    stored, sha256 = read_weights(path)
    bundle = is_bundle(stored)
    state = stored["state_dict"] if bundle else state_dict_of(stored, path)
    bands, classes = _shape(state)
    broken = [name for name, tensor in state.items() if not bool(torch.isfinite(tensor.float()).all())]
    found: dict[str, Any] = {
        "file": called,
        "kind": "robustastro bundle" if bundle else "state dict",
        "sha256": sha256,
        "parameters": sum(t.numel() for n, t in state.items() if "running_" not in n and "num_batches" not in n),
        "bands": bands,
        "classes": classes,
        "not_finite": broken,
    }
    if bundle:
        training = stored["training"]
        found |= {
            "arch": stored["arch"],
            "method": training.get("method"),
            "training_seed": training.get("seed"),
            "test": training.get("test"),
            "flags": training.get("flags"),
            "contract": stored["contract"],
            "data": stored["data"],
        }
        if called.startswith(zoo.PREFIX):
            found["card"] = zoo.cards()[called.removeprefix(zoo.PREFIX)]
    else:
        found["next"] = "weights only: attack it with --arch and --contract; --init-contract prints one to start from"
    return found


def _shape(state: dict[str, torch.Tensor]) -> tuple[int | None, int | None]:
    """Channels of the first convolution and outputs of the last linear layer."""
    convolutions = [t for t in state.values() if t.ndim == 4]
    linear = [t for t in state.values() if t.ndim == 2]
    return (convolutions[0].shape[1] if convolutions else None), (linear[-1].shape[0] if linear else None)


def _data(file: str, reading: dict[str, Any]) -> dict[str, Any]:
    from robustastro.adapt.training import SAMPLE
    from robustastro.commands import open_data
    from robustastro.data.readers import sets_of

    known = sets_of(Path(file))
    if known is not None and len(known[1]) > 1:
        authors, names = known
        return {
            "file": file,
            "kind": "folder of several sets of galaxies",
            "layout": authors,
            "sets": {name: _brief(f"{file}::{name}", reading) for name in names},
            "next": f"name one: robustastro inspect {file}::{names[0]}",
        }
    galaxies = open_data(file, reading)
    sample = galaxies.batch(slice(0, SAMPLE))
    exposure = galaxies.exposure
    return {
        "file": file,
        "kind": "galaxies",
        "domain": galaxies.domain,
        "n": len(galaxies),
        "shape": list(galaxies.images.shape[1:]),
        "bands": list(galaxies.bands),
        "labels": _counts(galaxies),
        "units": "display values without units" if exposure is None else "electrons of the reference exposure",
        "pixels": f"{float(sample.min()):.4g} to {float(sample.max()):.4g} in the first {len(sample)} images",
        "exposure": None if exposure is None else exposure.summary().to_dict(),
        "catalogue": [str(column) for column in galaxies.catalogue],
        "notes": list(galaxies.notes),
        "sha256": galaxies.digest(),
    }


def _brief(file: str, reading: dict[str, Any]) -> dict[str, Any]:
    """Number, size and labels of one set of a folder, or what is wrong with it."""
    from robustastro.commands import open_data

    try:
        galaxies = open_data(file, reading)
    except InputError as problem:
        return {"problem": str(problem)}
    return {"n": len(galaxies), "shape": list(galaxies.images.shape[1:]), "labels": _counts(galaxies)}


def _counts(galaxies: Galaxies) -> dict[str, int] | None:
    labels = galaxies.labels
    return None if labels is None else {n: int((labels == k).sum()) for k, n in enumerate(galaxies.classes)}


def _run(path: Path) -> dict[str, Any]:
    from robustastro.record import Record

    record = Record.open(path)
    done = Counter(
        {f"{u.perturbation} {u.strength:g}": len(record.unit(u.perturbation, u.strength)) for u in record.units()}
    )
    about = record.run
    names = ("created", "model", "data", "seed", "device", "git", "versions", "flags")
    return {"file": str(path), "kind": "run", **{n: about[n] for n in names}, "galaxies_done": dict(done)}
