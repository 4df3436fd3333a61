"""What a run writes about itself: plan, model, data, versions and device; its galaxies; the last layer of the model."""

from __future__ import annotations

import datetime
import importlib.metadata
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import torch

from perturbations.core import get
from robustastro.data.galaxies import Galaxies
from robustastro.evaluate.plan import Plan
from robustastro.models.bundles import Model
from robustastro.models.nets import CosineLinear
from robustastro.models.subject import Outputs, Subject
from robustastro.record import Flag, Head

PACKAGES = (
    "robustastro",
    "torch",
    "numpy",
    "scipy",
    "astropy",
    "galsim",
    "surveycodex",
    "pillow",
    "torchattacks",
    "foolbox",
)


def run_document(
    plan: Plan,
    model: Model,
    subject: Subject,
    galaxies: Galaxies,
    fitting: Galaxies | None,
    timing: dict[str, Any] | None,
    flags: Sequence[Flag],
) -> dict[str, Any]:
    """run.json, but for its schema."""
    entries = [(get(step.name), step) for step in plan.steps]
    exposure = galaxies.exposure
    return {
        "plan": plan.model_dump(mode="json"),
        "plan_sha256": plan.digest(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "model": {
            "path": model.path,
            "name": model.name,
            "sha256": model.sha256,
            "arch": model.arch,
            "method": model.training.get("method"),
            "training_seed": model.training.get("seed"),
            "recipe": _recipe(model.training),
            "latent": subject.latent_name,
        },
        "data": {
            "domain": galaxies.domain,
            "n": len(galaxies),
            "sha256": plan.data,
            "labelled": galaxies.labels is not None,
            "source": dict(galaxies.source),
            "notes": list(galaxies.notes),
        },
        "fitted_on": None
        if fitting is None or plan.fitted_on is None
        else {"domain": fitting.domain, "n": len(fitting), "sha256": plan.fitted_on.data},
        "exposure": None if exposure is None else exposure.summary().to_dict(),
        "contract": model.contract.to_dict(),
        "seed": plan.seed,
        "perturbations": [
            e.facts()
            | {"options": s.options, "rungs": [{"severity": e.severity(v), "strength": v} for v in s.strengths]}
            for e, s in entries
        ],
        "versions": {name: _version(name) for name in PACKAGES},
        "git": _commit(),
        "device": _device(subject.device),
        "timing": timing,
        "flags": [flag.to_dict() for flag in flags],
    }


def _recipe(training: Mapping[str, Any]) -> dict[str, Any] | None:
    """How a model was trained but for its seed, and on what: trainings of one recipe differ by chance only."""
    if "recipe" not in training:
        return None
    settings = {name: value for name, value in training["recipe"].items() if name != "seed"}
    return settings | {domain: training.get(domain) for domain in ("source", "target")}


def galaxies_table(galaxies: Galaxies, clean: Outputs) -> pd.DataFrame:
    """galaxies.parquet: id, label (-1 where unknown), split, catalogue columns, clean logits and latent."""
    n = len(galaxies)
    labels = np.full(n, -1) if galaxies.labels is None else galaxies.labels
    own = {"id", "label", "logits", "latent", "split"}
    columns = list(galaxies.catalogue.items())
    split = dict(columns).get("split")
    return pd.DataFrame(
        {
            "id": galaxies.ids,
            "label": labels,
            "split": ["" for _ in range(n)] if split is None else split.fillna("").astype(str).to_numpy(),
            **{f"catalogue_{c}" if c in own else str(c): _storable(v) for c, v in columns if c != "split"},
            "logits": list(clean.logits.numpy()),
            "latent": list(clean.latent.numpy()),
        }
    )


def head_of(subject: Subject, model: Model, galaxies: Galaxies, clean: Outputs) -> Head:
    """The last layer, where it is linear or a cosine classifier and gives the logits, and the class centroids."""
    linear = subject.head
    kind = "cosine" if isinstance(linear, CosineLinear) else "linear"
    weight = bias = None
    if linear is not None:
        weight = linear.weight.detach().float().cpu()
        if isinstance(linear, CosineLinear):
            weight = torch.nn.functional.normalize(weight, dim=1) / linear.temperature
        bias = torch.zeros(len(weight)) if linear.bias is None else linear.bias.detach().float().cpu()
        latent = torch.nn.functional.normalize(clean.latent, dim=1) if kind == "cosine" else clean.latent
        if not _gives_logits(weight, bias, latent, clean.logits):
            weight = bias = None
    centroids, origin = model.centroids, "clean source training galaxies"
    if centroids is None and galaxies.labels is not None:
        labels = torch.from_numpy(galaxies.labels)
        origin = "the clean galaxies of this run: the model file holds no centroids"
        centroids = torch.stack([clean.latent[labels == k].mean(dim=0) for k in range(len(galaxies.classes))])
    return Head(
        None if weight is None else weight.numpy(),
        None if bias is None else bias.numpy(),
        None if centroids is None else centroids.numpy(),
        centroids_from="" if centroids is None else origin,
        kind="other" if weight is None else kind,
    )


def _gives_logits(weight: torch.Tensor, bias: torch.Tensor, latent: torch.Tensor, logits: torch.Tensor) -> bool:
    """Whether this layer of the latent gives the logits, up to a constant per galaxy (log-probabilities)."""
    if weight.shape != (logits.shape[1], latent.shape[1]):
        return False
    gap = latent @ weight.T + bias - logits
    gap = gap - gap.mean(dim=1, keepdim=True)
    return bool(gap.abs().max() <= 1e-4 * (1.0 + logits.abs().max()))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the clone this package runs from, if it does."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        )
    except OSError:  # git is not installed
        return None
    return found.stdout.strip() or None


def _storable(column: pd.Series) -> Any:
    """A catalogue column that Parquet takes: as it is, or as text."""
    try:
        pyarrow.array(column.to_numpy(), from_pandas=True)
    except (pyarrow.ArrowException, OverflowError, TypeError):
        return column.astype(str).to_numpy()
    return column.to_numpy()


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
