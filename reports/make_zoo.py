"""Make the zoo, the trained models that come with the package, from bundles: robustastro/zoo/*.pt and cards.json.

    python reports/make_zoo.py --models none=runs/none-0.pt mmd=runs/mmd-0.pt dann=runs/dann-0.pt uda=runs/uda-0.pt

Which training of a method is taken is a rule and no choice: seed 0. A bundle of the zoo has its weight matrices in half
precision, and names as its test data mock galaxies that it never saw. Accuracies are of the weights as they are stored,
on `--galaxies` of these mocks at ten years' depth and at one. Models of the zoo that are not named stay as they are.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from perturbations.errors import InputError
from robustastro import __version__
from robustastro.adapt.contracts import stretched
from robustastro.adapt.recipe import Recipe
from robustastro.data.galaxies import Galaxies
from robustastro.data.mocks import Recipe as MockRecipe
from robustastro.data.mocks import parameters_hash, simulate
from robustastro.data.splits import id_hashes
from robustastro.metrics.intervals import proportion
from robustastro.models import zoo
from robustastro.models.bundles import Model, is_bundle, load_model, read_weights, save_bundle
from robustastro.models.subject import Outputs, Subject
from robustastro.progress import say, shown
from robustastro.record import jsonable, write_whole

TEST, VALID = (200, 2026), (100, 2027)  # galaxies and seed of the mocks that a bundle of the zoo names
DEPTHS = (1.0, 0.1)  # LSST Y10 and Y1
SENTENCE = {  # what a reader should know of a method before its accuracies
    "none": "Trained on Y10 alone, without adaptation.",
    "mmd": "Adapted to Y1 by maximum mean discrepancy.",
    "dann": "Adapted to Y1 by a domain-adversarial classifier.",
    "uda": "Adapted to Y1 by the universal method of DeepAstroUDA.",
}
OPTIONS = ("epochs", "batch", "learning_rate", "patience", "fisher", "entropy", "average", "init")  # of `train`
ONLY_IN_PYTHON = ("weight_decay", "warm_up", "augment")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make robustastro/zoo from trained bundles.")
    parser.add_argument("--models", nargs="+", required=True, metavar="METHOD=BUNDLE")
    parser.add_argument("--galaxies", type=int, default=1000, help="that accuracies are measured on")
    parser.add_argument("--out", type=Path, default=zoo.HERE)
    arguments = parser.parse_args()
    index = arguments.out / "cards.json"
    made: dict[str, Any] = json.loads(index.read_text())["models"] if index.exists() else {}
    with shown() as progress:
        mocks = {
            depth: simulate(
                MockRecipe(n=arguments.galaxies, seed=TEST[1], depth=depth),
                progress=lambda d, t: progress("simulate", d, t),
            )
            for depth in DEPTHS
        }
    for given in arguments.models:
        method, _, path = given.partition("=")
        name, card = add(method, Path(path), arguments.out, list(mocks.values()))
        made[name] = card
        say(f"{name}: {json.dumps(card['accuracy'])} {json.dumps(card['half_precision'])}")
    document = {"schema": 1, "models": {name: made[name] for name in sorted(made, key=_order)}}
    write_whole(index, lambda file: file.write_text(json.dumps(document, indent=1) + "\n"))


def add(method: str, bundle: Path, out: Path, mocks: list[Galaxies]) -> tuple[str, dict[str, Any]]:
    """Write one bundle of the zoo into the folder `out`; returns its name and its card.

    Raises
    ------
    InputError : no bundle, not trained on mocks, on these mocks, of another method, or with a path in its record.
    """
    trained = load_model(bundle)
    stored, _ = read_weights(bundle)
    assert is_bundle(stored)
    training = jsonable(dict(trained.training))
    recipe = Recipe(**training["recipe"])
    name = f"lsst-{trained.arch}-{method}"
    if recipe.method != method:
        raise InputError(f"{bundle} was trained by {recipe.method}", f"a training by {method}", "name it by its method")
    given = {domain: _named(trained.data.get(domain)) for domain in ("source", "target")}
    held = {
        split: MockRecipe(**{**given["source"]["recipe"], "n": n, "seed": seed, "depth": DEPTHS[0]})
        for split, (n, seed) in (("test", TEST), ("valid", VALID))
    }
    ids = [i for recipe_ in held.values() for i in recipe_.ids()] + list(mocks[0].ids)
    if trained.trained_on is None or bool(torch.isin(id_hashes(ids), trained.trained_on).any()):
        raise InputError(f"{bundle} was trained on galaxies of the zoo's test", "others", "train with another seed")
    data = given | {split: {"recipe": r.to_dict(), "mocks": parameters_hash()} for split, r in held.items()}
    data["domain"] = trained.data["domain"]
    for text in _texts([training, data]):
        if Path(text).is_absolute():
            raise InputError(f"{bundle} names {text}", "no path of this machine", "train from relative paths")
    file = out / f"{name}.pt"
    save_bundle(
        file, trained.network, trained.arch, stored["arch_options"], trained.contract, training=training, data=data,
        centroids=stored["centroids"], trained_on=trained.trained_on, half=True,
    )  # fmt: skip
    kept = load_model(file)
    full = [_outputs(trained, galaxies) for galaxies in mocks]
    half = [_outputs(kept, galaxies) for galaxies in mocks]
    labels = torch.from_numpy(mocks[0].labels)
    return name, jsonable(
        {
            "name": name,
            "description": f"{trained.arch}, {recipe.label}, seed {recipe.seed}. {SENTENCE.get(method, '')}".strip(),
            "recipe": training["recipe"],
            "seed": recipe.seed,
            "commands": commands(name, recipe, data),
            "accuracy": {
                galaxies.domain: proportion((found.logits.argmax(dim=1) == labels).numpy()).to_dict()
                for galaxies, found in zip(mocks, half, strict=True)
            },
            "accuracy_on": {"n": len(labels), "seed": TEST[1], "mocks": parameters_hash()},
            "half_precision": _difference(full, half, stored["centroids"]),
            "validation": training["validation"],
            "best_epoch": training["best_epoch"],
            "trained_on": {domain: training.get(domain) for domain in ("source", "target")},
            "flags": training["flags"],
            "tuned": training.get("tuned", ""),
            "target_labels": training.get("target_labels", False),
            "seconds": training["seconds"],
            "device": training["device"],
            "torch": training["torch"],
            "mocks": given["source"].get("mocks"),
            "robustastro": __version__,
            "commit": _commit(),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "file": file.name,
            "bytes": file.stat().st_size,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "license": "BSD-3-Clause",
        }
    )


def commands(name: str, recipe: Recipe, data: Mapping[str, Any]) -> list[str]:
    """The commands that simulate the data of a training and repeat it."""
    lines, files = [], {}
    for domain in ("source", "target"):
        if not data[domain]:
            continue
        mock = MockRecipe.from_dict(data[domain]["recipe"])
        files[domain] = f"{mock.domain().lower().replace(' ', '-')}.h5"
        words = ["simulate", "--survey", mock.survey, "--depth", f"{mock.depth:g}", "--bands", ",".join(mock.bands)]
        words += ["--classes", ",".join(mock.classes), "-n", mock.n, "--size", mock.size, "--seed", mock.seed]
        words += [] if mock.seeing is None else ["--seeing", mock.seeing]
        lines.append([*words, "--out", files[domain]])
    for field in ONLY_IN_PYTHON:
        if getattr(recipe, field) != getattr(Recipe(), field):
            raise InputError(f"{field} = {getattr(recipe, field)}", "what `train` does", "train without changing it")
    words = ["train", "--method", recipe.method, "--arch", recipe.arch, "--seed", recipe.seed]
    for domain, file in files.items():
        words += [f"--{domain}", file]
    for field in OPTIONS:  # in full: a default may change after this training
        if (value := getattr(recipe, field)) not in (None, ""):
            words += [f"--{field.replace('_', '-')}", value]
    words += ["--paired"] * recipe.paired
    words += ["--freeze", ",".join(recipe.freeze)] if recipe.freeze else []
    words += [word for option, value in recipe.options.items() for word in ("-p", f"{option}={value}")]
    lines.append([*words, "--out", f"{name}.pt"])
    return [shlex.join(["robustastro", *map(str, line)]) for line in lines]


def _named(source: Mapping[str, Any] | None) -> dict[str, Any]:
    """The recipe of the mocks that a bundle names, without the file that they were in."""
    if not source:
        return {}
    if "recipe" not in source:
        raise InputError(
            "a bundle that was not trained on mocks", "mocks, which anyone can draw again", "train on them"
        )
    return {"recipe": dict(source["recipe"]), "mocks": source.get("mocks")}


def _outputs(model: Model, galaxies: Galaxies) -> Outputs:
    return Subject(model.network, model.contract).outputs(stretched(galaxies, model.contract))


def _difference(full: list[Outputs], half: list[Outputs], centroids: torch.Tensor) -> dict[str, float]:
    """What half precision changed: logits, predictions, and the mean latent vector in units of the latent scale."""
    pairs = list(zip(full, half, strict=True))
    scale = float(torch.pdist(centroids).mean())
    return {
        "largest_logit_change": max(float((f.logits - h.logits).abs().max()) for f, h in pairs),
        "predictions_changed": sum(int((f.logits.argmax(1) != h.logits.argmax(1)).sum()) for f, h in pairs),
        "latent_shift_scaled": max(float((f.latent - h.latent).norm(dim=1).mean()) / scale for f, h in pairs),
    }


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _texts(part)


def _order(name: str) -> tuple[int, str]:
    method = name.rpartition("-")[2]
    return list(SENTENCE).index(method) if method in SENTENCE else len(SENTENCE), name


def _commit() -> str:
    """The commit of this clone; with "-dirty" where it has changes that are not committed."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parent,
    )  # fmt: skip
    return found.stdout.strip()


if __name__ == "__main__":
    main()
