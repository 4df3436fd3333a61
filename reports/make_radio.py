"""Train every method from FR-DEEP to MiraBest, two sets of radio galaxies, and write the report reports/radio.

    python reports/make_radio.py --data DIR [--seeds 5] [--methods none mmd ...] [--hours H] [--workers 2] [--out DIR]

DIR holds frdeep.npz and mirabest.npz (`images`, `labels`, `ids`, `classes`). Each training leaves a row in OUT/runs
and is not repeated; delete them after a change of the methods. What does not fit into --hours stands in the report as
not run. Nothing of the images is written.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import torch

from perturbations.errors import InputError
from robustastro import __version__
from robustastro.adapt import METHODS
from robustastro.adapt import method as find_method
from robustastro.adapt.recipe import Recipe
from robustastro.adapt.training import stretched, train
from robustastro.data.duplicates import AGREEMENT, SCORE, Pair, groups, shared
from robustastro.data.galaxies import Galaxies
from robustastro.data.splits import select
from robustastro.evaluate.describe import _commit
from robustastro.figures.style import PAGE, blank, colours, save, style
from robustastro.metrics.intervals import Estimate, fraction
from robustastro.metrics.significance import Difference, difference, holm, over_seeds
from robustastro.metrics.tables import estimate_text
from robustastro.models.subject import Subject
from robustastro.progress import say, shown
from robustastro.record import jsonable, write_whole

EPOCHS, BATCH, SEEDS, WORKERS = 40, 32, 5, 2
FOLDS, REPEATS = 5, 5
AUGMENT = "jpeg,miscentring"  # what can happen to images without units
PUBLISHED = {"home": 0.88, "target": 0.61}
SOURCE_SPLIT, TARGET_SPLIT = (0.65, 0.15, 0.2), (0.6, 0.1, 0.3)  # train, valid, test
# times the cost of `none`: methods with a target see twice the images, and some take more passes
COST = {"none": 1.0, "augment": 1.5, "uda": 3.0, "at": 5.0}


@dataclass(frozen=True)
class Task:
    """One training: a method and a seed of the study, or a fold and a repeat of the cross-validation at home."""

    method: str
    seed: int
    fold: int | None = None

    @property
    def name(self) -> str:
        return f"{self.method}-{self.seed}" if self.fold is None else f"cv-{self.seed}-{self.fold}"


@dataclass(frozen=True, eq=False)
class Data:
    """The two sets as they are trained and tested on: binned, without shared sources, split.

    Parameters
    ----------
    source, target : with a column `split`.
    source_groups : (N,) images of one source, or of overlapping fields, have the same number.
    """

    source: Galaxies
    target: Galaxies
    source_groups: np.ndarray


def main() -> None:
    arguments = _arguments()
    runs = arguments.out / "runs"
    with shown():
        data, about = _prepare(arguments.data, runs)
        tasks = _tasks(arguments)
        rows, refused = _run(tasks, data, arguments, about["digest"])
    document = _document(rows, refused, tasks, about, arguments)
    write_whole(arguments.out / "results.json", lambda file: file.write_text(json.dumps(document, indent=1) + "\n"))
    save(_figure(document), arguments.out / "accuracy.png")
    page = _page(document)
    write_whole(arguments.out / "index.md", lambda file: file.write_text(page))
    say(f"{arguments.out / 'index.md'}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train from FR-DEEP to MiraBest and write reports/radio.")
    parser.add_argument("--data", type=Path, required=True, help="folder of frdeep.npz and mirabest.npz")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="trainings of each method")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help="names of methods; `none` is added")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--repeats", type=int, default=REPEATS, help="of the cross-validation at home; 0: none")
    parser.add_argument("--hours", type=float, default=None, help="no training is begun that would end after them")
    parser.add_argument("--workers", type=int, default=WORKERS, help="processes of one thread each")
    parser.add_argument("--out", type=Path, default=Path("reports/radio"))
    arguments = parser.parse_args()
    for name in arguments.methods:
        find_method(name)
    arguments.methods = list(dict.fromkeys(["none", *arguments.methods]))
    return arguments


# ---------------------------------------------------------------------- data


def _prepare(folder: Path, runs: Path) -> tuple[Data, dict[str, Any]]:
    """The data, and what the report says of them."""
    first, second = (np.load(folder / f"{name}.npz", allow_pickle=False) for name in ("frdeep", "mirabest"))
    digest = hashlib.sha256(first["images"].tobytes() + second["images"].tobytes()).hexdigest()
    pairs = _pairs(first["images"], second["images"], digest, runs)
    blank_images = np.flatnonzero(first["images"].max(axis=(1, 2)) == first["images"].min(axis=(1, 2)))
    twice = {p.first for p in pairs["shared"]}
    kept = np.array([k for k in range(len(first["images"])) if k not in twice and k not in set(blank_images)])
    own, others = (_joined(pairs[name], len(of["images"])) for name, of in (("source", first), ("target", second)))
    source = _galaxies(first, "FR-DEEP", own, SOURCE_SPLIT).take(kept)
    target = _galaxies(second, "MiraBest", others, TARGET_SPLIT)
    labels = [(int(first["labels"][p.first]), int(second["labels"][p.second])) for p in pairs["shared"]]
    about = {
        "digest": digest,
        "read": {"source": len(first["images"]), "target": len(second["images"])},
        "blank": len(blank_images),
        "shared_pairs": len(pairs["shared"]),
        "dropped": len(twice),
        "identical": sum(bool((first["images"][p.first] == second["images"][p.second]).all()) for p in pairs["shared"]),
        "moved": sum(p.shift != (0, 0) for p in pairs["shared"]),
        "labels_differ": sum(a != b for a, b in labels),
        "within": {name: len(pairs[name]) for name in ("source", "target")},
        "scores": {name: [round(p.score) for p in pairs[f"{name}_scores"]] for name in ("shared", "target")},
        "apart": _apart(pairs["target_scores"], [str(i) for i in second["ids"]]),
        "threshold": {"score": SCORE, "agreement": AGREEMENT},
        "splits": {
            name: {s: list(g.catalogue["split"]).count(s) for s in ("train", "valid", "test")}
            for name, g in (("source", source), ("target", target))
        },
    }
    return Data(source, target, own[kept]), about


def _pairs(first: np.ndarray, second: np.ndarray, digest: str, runs: Path) -> dict[str, list[Pair]]:
    """Pairs between and within the sets, kept in a file: to find them takes minutes."""
    path = runs / f"pairs-{digest[:8]}.json"
    if not path.exists():
        say("looking for sources that are in both sets, or twice in one: some minutes")
        found = {
            "shared_scores": shared(first, second, score=50.0),
            "source": shared(first),
            "target_scores": shared(second, score=50.0),
        }
        kept = {name: [asdict(p) for p in pairs] for name, pairs in found.items()}
        write_whole(path, lambda file: file.write_text(json.dumps(kept) + "\n"))
    stored = json.loads(path.read_text())
    pairs = {name: [Pair(**{**p, "shift": tuple(p["shift"])}) for p in found] for name, found in stored.items()}
    for name in ("shared", "target"):
        pairs[name] = [p for p in pairs[f"{name}_scores"] if p.score >= SCORE]
    return pairs


def _apart(pairs: Sequence[Pair], ids: Sequence[str]) -> dict[str, Any]:
    """Scores of pairs within the target, by whether the coordinates in its ids lie together: truth and chance."""
    together, chance = [], []
    for pair in pairs:
        (ra, dec), (ra2, dec2) = (np.radians(_coordinates(ids[k])) for k in (pair.first, pair.second))
        cosine = np.sin(dec) * np.sin(dec2) + np.cos(dec) * np.cos(dec2) * np.cos(ra - ra2)
        arcmin = 60 * np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))
        (together if arcmin < 5.0 else chance).append(round(pair.score))
    return {"together": sorted(together), "chance": max(chance, default=None)}


def _coordinates(name: str) -> tuple[float, float]:
    """Right ascension and declination in degrees of "100_162.947+055.386_0.0739_0250.34.png"."""
    place = name.split("_")[1]
    cut = max(place.rfind("+"), place.rfind("-"))
    return float(place[:cut]), float(place[cut:])


def _galaxies(stored: Mapping[str, np.ndarray], domain: str, joined: np.ndarray, parts: Sequence[float]) -> Galaxies:
    """Images binned 2 x 2, with a split by hash of the group that an image belongs to."""
    images = stored["images"].astype(np.float32)
    n, height, width = images.shape
    images = images.reshape(n, 1, height // 2, 2, width // 2, 2).mean(axis=(3, 5))
    dealt = [_uniform(f"split {domain} {number}") for number in joined]
    place = np.searchsorted(np.cumsum(parts)[:-1], dealt, side="right")
    return Galaxies(
        images, stored["labels"].astype(np.int64),
        tuple(f"{domain}:{k}:{i}" for k, i in enumerate(stored["ids"])),
        tuple(str(c) for c in stored["classes"]), ("radio",),
        catalogue=pd.DataFrame({"split": np.array(("train", "valid", "test"))[place]}), domain=domain,
    )  # fmt: skip


def _joined(pairs: Sequence[Pair], n: int) -> np.ndarray:
    """(n,) the first image of the group that each image is in."""
    found = groups(pairs, n)
    return np.array([int(np.argmax(found == number)) for number in found])


def _uniform(text: str) -> float:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") * 2.0**-64


def _folded(data: Data, repeat: int, fold: int) -> Galaxies:
    """The source with one fold of a repeat as its test split; groups stay together, folds differ by few galaxies."""
    numbers = np.unique(data.source_groups)
    order = sorted(numbers, key=lambda number: _uniform(f"repeat {repeat} {number}"))
    of = {number: rank % FOLDS for rank, number in enumerate(order)}
    valid = {number for number in numbers if _uniform(f"valid {repeat} {number}") < SOURCE_SPLIT[1]}
    splits = [
        "test" if of[number] == fold else "valid" if number in valid else "train" for number in data.source_groups
    ]
    return replace(data.source, catalogue=pd.DataFrame({"split": splits}))


# ---------------------------------------------------------------------- trainings


def _tasks(arguments: argparse.Namespace) -> list[Task]:
    """All trainings, a seed of every method first, then the cross-validation."""
    study = [Task(method, seed) for seed in range(arguments.seeds) for method in arguments.methods]
    return study + [Task("none", repeat, fold) for repeat in range(arguments.repeats) for fold in range(FOLDS)]


def _recipe(task: Task, epochs: int) -> Recipe:
    options = {"with": AUGMENT} if task.method == "augment" else {}
    seed = task.seed if task.fold is None else FOLDS * task.seed + task.fold
    return Recipe(method=task.method, seed=seed, epochs=epochs, batch=BATCH, options=options).resolved()


def _run(
    tasks: Sequence[Task], data: Data, arguments: argparse.Namespace, digest: str
) -> tuple[dict[Task, dict[str, Any]], dict[Task, str]]:
    """Rows of all trainings that are done, and why others were refused; what is not there is made, in processes of one
    thread.
    """
    folder, epochs = arguments.out / "runs", arguments.epochs
    rows = {task: row for task in tasks if (row := _read(task, folder, epochs, digest)) is not None}
    refused: dict[Task, str] = {}
    todo = [task for task in tasks if task not in rows]
    if not todo:
        return rows, refused
    torch.set_num_threads(1)
    started = time.monotonic()
    train(replace(_recipe(Task("none", 0), epochs), epochs=1), data.source)
    each = epochs * (time.monotonic() - started)
    said = sum(each * COST.get(task.method, 2.0) for task in todo) / arguments.workers
    say(f"{len(todo)} trainings to do, {len(rows)} done; about {said / 60:.0f} min with {arguments.workers} workers")
    end = None if arguments.hours is None else started + 3600 * arguments.hours
    waiting, running = list(todo), {}
    with ProcessPoolExecutor(arguments.workers, get_context("spawn"), _begin, (data,)) as pool:
        while waiting or running:
            while waiting and len(running) < arguments.workers:
                task = waiting.pop(0)
                if end is None or time.monotonic() + each * COST.get(task.method, 2.0) < end:
                    running[pool.submit(_train, task, epochs)] = task
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task = running.pop(future)
                try:
                    rows[task] = future.result() | {"digest": digest}
                except InputError as problem:  # a method that does not fit these data; it is reported with the reason
                    refused[task] = " ".join(str(problem).split())
                    say(f"{task.name}: {problem}")
                    continue
                text = json.dumps(jsonable(rows[task])) + "\n"
                write_whole(folder / f"{task.name}.json", lambda file, text=text: file.write_text(text))
                say(f"{task.name}: {rows[task]['seconds']:.0f} s; {len(rows)} of {len(tasks)}")
    return rows, refused


def _read(task: Task, folder: Path, epochs: int, digest: str) -> dict[str, Any] | None:
    path = folder / f"{task.name}.json"
    row = json.loads(path.read_text()) if path.exists() else {}
    wanted = jsonable(asdict(_recipe(task, epochs)))
    return row if row.get("recipe") == wanted and row.get("digest") == digest else None


_data: list[Data] = []  # of a worker


def _begin(data: Data) -> None:
    torch.set_num_threads(1)
    _data.append(data)


def _train(task: Task, epochs: int) -> dict[str, Any]:
    """One training, and which galaxies of the test splits it has right."""
    (data,) = _data
    source = data.source if task.fold is None else _folded(data, task.seed, task.fold)
    target = data.target if task.fold is None else None
    trained = train(_recipe(task, epochs), source, target)
    subject = Subject(trained.network, trained.contract)
    row: dict[str, Any] = {name: trained.record[name] for name in ("recipe", "best_epoch", "seconds", "flags")}
    for name, galaxies in (("home", source), ("target", target)):
        if galaxies is not None:
            test = select(galaxies, "test")
            predicted = subject.outputs(stretched(test, trained.contract)).logits.argmax(dim=1).numpy()
            row[name] = {
                "ids": test.ids, "labels": np.asarray(test.labels).tolist(), "predicted": predicted.tolist(),
            }  # fmt: skip
    return row


# ---------------------------------------------------------------------- numbers


def _right(rows: Sequence[Mapping[str, Any]], domain: str) -> np.ndarray:
    """(k, n) bool."""
    return np.array([np.equal(row[domain]["predicted"], row[domain]["labels"]) for row in rows])


def balanced_over_seeds(right: np.ndarray, labels: np.ndarray) -> Estimate:
    """Mean of the accuracies of the classes over trainings: each galaxy counts n / (K n of its class).

    Parameters
    ----------
    right : (k, n) bool.
    labels : (n,) int.
    """
    counts = np.bincount(labels)
    weight = len(labels) / (np.count_nonzero(counts) * counts[labels])
    return over_seeds(right * weight)


def cross_validated(rows: Sequence[Mapping[str, Any]]) -> Estimate:
    """Accuracy at home: each galaxy's share of the repeats in which the model of the other folds has it right.

    The galaxies are then independent of each other but for the training sets that they share, and each counts once,
    however many repeats there are; so the interval is of `fraction` over galaxies. The chance in the training is
    averaged over the repeats; what is left of it is not in the interval.
    """
    found: dict[str, list[bool]] = {}
    for row in rows:
        for i, right in zip(row["home"]["ids"], _right([row], "home")[0], strict=True):
            found.setdefault(i, []).append(bool(right))
    return fraction(np.array([np.mean(right) for right in found.values()]))


def verdict(gains: Sequence[tuple[Difference, float]]) -> str:
    """Whether at least one of some methods gains: "true", "false" or "undecided".

    Parameters
    ----------
    gains : the difference to `none` of each, and its p after Holm. True: one is above zero with p < 0.05. False: no
        interval reaches above zero.
    """
    if any(d.estimate.value > 0 and p < 0.05 for d, p in gains):
        return "true"
    return "false" if gains and all(d.estimate.high <= 0 for d, _ in gains) else "undecided"


def _document(
    rows: Mapping[Task, Mapping[str, Any]],
    refused: Mapping[Task, str],
    tasks: Sequence[Task],
    about: Mapping[str, Any],
    arguments: Any,
) -> dict[str, Any]:
    """results.json: every number of the page."""
    by = {m: [rows[t] for t in tasks if t in rows and t.method == m and t.fold is None] for m in arguments.methods}
    by = {m: found for m, found in by.items() if found}
    methods = {m: _numbers(m, found) for m, found in by.items()}
    compared = [m for m in by if m != "none" and "none" in by]
    gains: dict[str, tuple[Difference, float]] = {}
    for domain in ("target", "home"):
        found = [difference(_right(by[m], domain), _right(by["none"], domain)) for m in compared]
        for m, d, p in zip(compared, found, holm(np.array([d.p for d in found])), strict=True):
            methods[m][f"{domain}_difference"] = d.to_dict() | {"p_holm": float(p)}
            if domain == "target" and not METHODS[m].control:
                gains[m] = (d, float(p))
    folded = [rows[t] for t in tasks if t in rows and t.fold is not None]
    return jsonable({
        "schema": 1,
        "version": __version__,
        "command": _command(arguments),
        "git": _commit(),
        "device": "cpu",
        "torch": str(torch.__version__),
        "workers": arguments.workers,
        "epochs": arguments.epochs,
        "batch": BATCH,
        "augment": AUGMENT,
        "seeds": arguments.seeds,
        "data": {name: value for name, value in about.items() if name != "digest"},
        "published": PUBLISHED,
        "methods": methods,
        "cross_validation": {
            "folds": FOLDS, "repeats": arguments.repeats, "trainings": len(folded),
            "accuracy": cross_validated(folded).to_dict() if folded else None,
        },
        "prediction": {
            "text": "On the radio shift at least one method gains",
            "verdict": verdict(list(gains.values())),
            "gaining": [m for m, (d, p) in gains.items() if d.estimate.value > 0 and p < 0.05],
            "methods": list(gains),
        },
        "not_run": _not_run(tasks, rows, refused),
    })  # fmt: skip


def _numbers(method: str, found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    numbers: dict[str, Any] = {
        "trainings": len(found),
        "kind": "upper bound" if METHODS[method].target_labels else "control" if METHODS[method].control else "adapts",
        "tuned": METHODS[method].tuned,
        "collapsed": sum(any(flag["code"] == "collapsed" for flag in row["flags"]) for row in found),
        "seconds": statistics.median(row["seconds"] for row in found),
    }
    for domain in ("home", "target"):
        right, labels = _right(found, domain), np.array(found[0][domain]["labels"])
        numbers[domain] = {
            "accuracy": over_seeds(right).to_dict(),
            "balanced": balanced_over_seeds(right, labels).to_dict(),
            "each": right.mean(axis=1).tolist(),
        }
        numbers[domain]["one_class"] = sum(len(set(row[domain]["predicted"])) == 1 for row in found)
    return numbers


def _not_run(
    tasks: Sequence[Task], rows: Mapping[Task, Mapping[str, Any]], refused: Mapping[Task, str]
) -> list[dict[str, Any]]:
    """What is missing, by method: why it was refused, or how long it takes."""
    known = [row["seconds"] / COST.get(task.method, 2.0) for task, row in rows.items()]
    each = statistics.median(known) / 60 if known else None  # of `none`, in minutes
    missing: dict[tuple[str, str | None], list[Task]] = {}
    for task in tasks:
        if task not in rows:
            what = task.method if task.fold is None else "cross-validation"
            missing.setdefault((what, refused.get(task)), []).append(task)
    return [
        {
            "what": what,
            "trainings": len(left),
            "refused": reason,
            "minutes": None if reason or each is None else len(left) * each * COST.get(left[0].method, 2.0),
        }
        for (what, reason), left in missing.items()
    ]


def _command(arguments: Any) -> str:
    """The command line, without the places of this machine."""
    parts = ["python", "reports/make_radio.py", "--data", "DIR"]
    for name, usual in (("seeds", SEEDS), ("epochs", EPOCHS), ("repeats", REPEATS), ("hours", None)):
        if (value := getattr(arguments, name)) != usual:
            parts += [f"--{name}", f"{value:g}"]
    if arguments.methods != list(METHODS):
        parts += ["--methods", *arguments.methods]
    return shlex.join(parts)


# ---------------------------------------------------------------------- page


def _figure(document: Mapping[str, Any]):
    """Accuracy of each method at home and on the target: a dot per training, the mean and its interval."""
    methods = document["methods"]
    with style():
        figure = blank(PAGE, 0.9 + 0.26 * len(methods))
        panels = figure.subplots(1, 2, sharey=True, sharex=True)
        shades = dict(zip(("home", "target"), colours(2), strict=True))
        for panel, domain in zip(panels, shades, strict=True):
            for k, numbers in enumerate(methods.values()):
                each, e = numbers[domain]["each"], numbers[domain]["accuracy"]
                panel.plot(each, [k] * len(each), "o", color=shades[domain], alpha=0.45, markersize=3.5, linewidth=0)
                panel.plot([e["low"], e["high"]], [k, k], "-", color="black")
                panel.plot([e["value"]], [k], "D" if domain == "target" else "s", color="black", markersize=4)
            n = next(iter(methods.values()))[domain]["accuracy"]["n"]
            name = "MiraBest (target)" if domain == "target" else "FR-DEEP (home)"
            panel.set_title(f"{name}, n = {n}", loc="left")
            panel.axvline(0.5, color="0.6", linestyle=":", linewidth=0.8)
            panel.set_xlabel("accuracy")
        panels[0].set_yticks(range(len(methods)), list(methods))
        panels[0].invert_yaxis()
    return figure


def _page(document: Mapping[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.ChainableUndefined,
    )  # fmt: skip
    return environment.get_template("radio.md.j2").render(
        d=document, of=lambda e, factor=100.0, digits=1: estimate_text(e, factor, digits)
    )


if __name__ == "__main__":
    main()
