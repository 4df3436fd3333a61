"""What `train` and `attack` do: find the data, run, and put the result into words and JSON."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perturbations.core import catalogue, get
from perturbations.errors import InputError, unknown_name
from perturbations.exposure import Exposure
from robustastro.adapt.recipe import Recipe
from robustastro.adapt.training import Trained, stretched, write_bundle
from robustastro.adapt.training import train as run_training
from robustastro.data.galaxies import Galaxies
from robustastro.data.readers import read, read_again
from robustastro.data.splits import has_split, select
from robustastro.evaluate.bisect import edges, halvings
from robustastro.evaluate.engine import choose, evaluate, fitting_set, unseen
from robustastro.evaluate.plan import Plan, Step, check_bisect
from robustastro.metrics import critical
from robustastro.metrics.domain import MOST, proxy_a_distance
from robustastro.metrics.intervals import NOTHING, proportion
from robustastro.metrics.open_set import auroc, called_unknown, entropy, h_score
from robustastro.metrics.summary import space_difference, summarise
from robustastro.metrics.tables import estimate_text, space_text, table
from robustastro.models import zoo
from robustastro.models.bundles import Model, is_bundle, load_model, read_weights
from robustastro.models.subject import Subject
from robustastro.progress import Progress, say
from robustastro.record import Record, refuse_place, write_whole
from robustastro.suites import Suite

SPACES = ("input", "flux", "both")
ONE_CLASS = 0.95  # share of a domain's galaxies in one class above which a model fails there, or the domain is special
PATIENCE = 600.0  # seconds above which a --limit is suggested
KEPT, KEPT_OF_MANY, MANY = 16, 1, 5  # galaxies whose images are kept, of one perturbation and of more than five

Reading = Mapping[str, Any]


def open_data(path: str, reading: Reading, classes: Sequence[str] | None = None) -> Galaxies:
    """Galaxies of a file with the reading options of the command line; the reader's remarks are said."""
    exposure, bands = reading.get("exposure"), reading.get("bands")
    galaxies = read(
        path,
        exposure=None if exposure is None else Exposure.from_toml(exposure),
        label_column=reading.get("label_column", "label"),
        masked=reading.get("masked"),
        classes=classes,
        bands=None if bands is None else [band.strip() for band in bands.split(",")],
    )
    for note in galaxies.notes:
        say(f"{path}: {note}")
    return galaxies


def device_of(name: str) -> str:
    """A torch device for the name on the command line."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if torch.device(name).type not in ("cpu", "cuda"):
            raise RuntimeError
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError):
        raise InputError(
            f"device '{name}' is not available", "auto, cpu, or a CUDA device of this machine", "use auto"
        ) from None
    return name


# ---------------------------------------------------------------------- train


def train(
    settings: Mapping[str, Any],
    source: str,
    target: str | None,
    out: Path,
    reading: Reading,
    device: str,
    progress: Progress,
) -> dict[str, Any]:
    """Train, write the bundle OUT and the training record beside it (.json), and return the result for `--json`."""
    options = {}
    for text in settings["options"]:
        name, _, value = text.partition("=")
        if not name or not value:
            raise InputError(f"option '{text}'", "name=value", "for instance -p weight=0.5")
        if name in options:
            raise InputError(f"option {name} given twice", "each option once", f"leave one -p {name}=... out")
        try:
            options[name] = float(value)
        except ValueError:
            options[name] = value  # a word, where the option takes one
    recipe = Recipe(**{**settings, "options": options}).resolved()
    _check_places(out, recipe.init)
    from_source = open_data(source, reading)
    from_target = None if target is None else open_data(target, reading)
    return fit(recipe, from_source, from_target, out, device_of(device), progress)


def _check_places(out: Path, init: str) -> None:
    """Refuse, before any work, a bundle, record or checkpoint that cannot be written or would replace something else.

    Also a model to start from that is no bundle.
    """
    if out.suffix != ".pt" or str(out).startswith(zoo.PREFIX):
        raise InputError(f"--out {out}", "a file name ending in .pt", "name the bundle, for instance dann.pt")
    places = [out, out.with_suffix(".json"), out.with_suffix(".partial")]
    for place in places:
        refuse_place(place, folder=False)
    if places[1].exists() and not _is_training_record(places[1]):
        raise InputError(
            f"--out {out} would replace {places[1]}, which is not the record of a training",
            "a name whose .json is free", "name another --out",
        )  # fmt: skip
    if not init:
        return
    _, start = zoo.resolve(init)
    if os.path.realpath(start) in map(os.path.realpath, places):
        raise InputError(f"--out {out} would replace --init {init}", "another file", "name another --out")
    if not is_bundle(read_weights(start)[0]):
        raise InputError(
            f"--init {init} holds weights only",
            "--init takes a bundle",
            "train one with robustastro train, or zoo:NAME",
        )


def _is_training_record(path: Path) -> bool:
    try:
        stored = json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(stored, dict) and {"recipe", "history"} <= stored.keys()


def fit(
    recipe: Recipe, source: Galaxies, target: Galaxies | None, out: Path, device: str, progress: Progress
) -> dict[str, Any]:
    """Train on galaxies, write bundle and record, measure both test splits, and return the result for `--json`."""
    checkpoint = out.with_suffix(".partial")
    said = f"{recipe.method}, seed {recipe.seed}"
    trained = run_training(
        recipe, source, target, device=device, checkpoint=checkpoint,
        progress=lambda epoch, epochs, _: progress(f"train {said}", epoch, epochs),
    )  # fmt: skip
    record = trained.record | {
        "test": {
            name: _test_accuracy(trained, galaxies, device)
            for name, galaxies in (("source", source), ("target", target))
            if galaxies is not None and galaxies.labels is not None and has_split(galaxies, "test")
        }
    }
    if target is not None and has_split(target, "valid"):
        record["domain_gap"] = _domain_gap(trained, source, target, device)
    result = {"schema": 1, "out": str(out), **record}
    write_bundle(
        out,
        replace(trained, record=record),
        source,
        target,
        device,
    )
    write_whole(out.with_suffix(".json"), lambda file: file.write_text(json.dumps(result, indent=1) + "\n"))
    checkpoint.unlink(missing_ok=True)
    return result


def _test_accuracy(trained: Trained, galaxies: Galaxies, device: str) -> dict[str, Any]:
    """Accuracy on the test galaxies of the classes that the model knows; measured afterwards, it decides nothing.

    Where there are galaxies of other classes, "unknown" says how well the entropy of the predictions tells these apart.
    """
    test = select(galaxies, "test")
    names = np.array(test.classes)[test.labels]
    subject = Subject(trained.network, trained.contract, device=device)
    probabilities = subject.outputs(stretched(test, trained.contract)).logits.double().softmax(dim=1).numpy()
    right = np.array(trained.contract.classes)[probabilities.argmax(axis=1)] == names
    known = np.isin(names, trained.contract.classes)
    found: dict[str, Any] = {"domain": test.domain, "accuracy": proportion(right[known]).to_dict()}
    if not known.all():
        called = called_unknown(probabilities)
        rejected = proportion(called[~known])
        found["unknown"] = {
            "n": int((~known).sum()),
            "threshold": math.log(probabilities.shape[1]) / 2,
            "auroc": auroc(entropy(probabilities), ~known).to_dict(),
            "h_score": h_score(proportion((right & ~called)[known]), rejected).to_dict(),
            "unknown_accuracy": rejected.to_dict(),
        }
    return found


def _domain_gap(trained: Trained, source: Galaxies, target: Galaxies, device: str) -> dict[str, Any]:
    """Whether the latents still tell the domains apart, of at most 500 validation galaxies of each, labels unseen.

    Of galaxies that are in both domains, where there are any, and then by pairs: a known galaxy tells nothing.
    And the largest share of these galaxies that get the same class: a network may fail on the target alone.
    """
    near, far = select(source, "valid"), select(target, "valid")
    place = {name: k for k, name in enumerate(near.ids)}
    common = [k for k, name in enumerate(far.ids) if name in place]
    far = choose(far.take(common) if common else far, MOST)
    near = near.take([place[name] for name in far.ids]) if common else choose(near, MOST)
    subject = Subject(trained.network, trained.contract, device=device)
    seen = [subject.outputs(stretched(g, trained.contract)) for g in (near, far)]
    latents = [s.latent.double().numpy() for s in seen]
    finite = all(np.isfinite(latent).all() for latent in latents)  # not so of a training that diverged
    distance = proxy_a_distance(*latents, paired=bool(common)) if finite else NOTHING
    shares = [torch.bincount(s.logits.argmax(dim=1)).double() / len(s.logits) for s in seen]
    return {
        "proxy_a_distance": distance.to_dict(),
        "paired": bool(common),
        "largest_class_on_source": float(shares[0].max()),
        "largest_class_on_target": float(shares[1].max()),
        "class_on_target": trained.contract.classes[int(shares[1].argmax())],
    }


def training_text(result: Mapping[str, Any]) -> str:
    """The result of a training for people."""
    recipe = result["recipe"]
    lines = [
        f"{result['out']}: {recipe['arch']}, method {recipe['method']}, seed {recipe['seed']}, best of "
        f"{len(result['history'])} epochs {result['best_epoch']}, {result['seconds']:.0f} s"
    ]
    for name, test in result["test"].items():
        accuracy = test["accuracy"]
        lines.append(
            f"  {name} test ({test['domain']}): accuracy {estimate_text(accuracy, 100.0, 1)}%, n = {accuracy['n']}"
        )
        if "unknown" in test:
            unknown = test["unknown"]
            lines.append(
                f"  {name} test, {unknown['n']} galaxies of classes that the model does not know: called unknown "
                f"(entropy above {unknown['threshold']:.3f}) {estimate_text(unknown['unknown_accuracy'], 100.0, 1)}%, "
                f"AUROC of the entropy {estimate_text(unknown['auroc'])}, H-score {estimate_text(unknown['h_score'])}"
            )
    if "domain_gap" in result:
        distance = result["domain_gap"]["proxy_a_distance"]
        lines.append(
            f"  domains told apart by their latents: proxy A-distance {estimate_text(distance)} (0: not at all, "
            f"2: always), n = {distance['n']}"
        )
        lines += _one_class(result["domain_gap"])
    return "\n".join(lines)


def _one_class(gap: Mapping[str, Any]) -> list[str]:
    """A line where nearly all galaxies of the target get one class and those of the source do not.

    A remark and not a flag, with which no run of this model would pass a gate, on whatever data.
    """
    here, there = gap["largest_class_on_source"], gap["largest_class_on_target"]
    if not here <= ONE_CLASS < there:
        return []
    return [
        f"  {100 * there:.0f}% of the target's validation galaxies get the class {gap['class_on_target']} (source: at "
        f"most {100 * here:.0f}% get one class): unless nearly all of them are of that class, this model fails on the "
        "target; look at them, then train another seed or by another method"
    ]


# ---------------------------------------------------------------------- attack


def attack(
    steps: Sequence[Step],
    model_path: Path,
    data: str | None,
    reading: Reading,
    *,
    arch: str | None,
    contract: Path | None,
    latent: str | None,
    limit: int | None,
    batch: int,
    device: str,
    seed: int,
    out: Path | None,
    progress: Progress,
    suite: Suite | None = None,
    fit_data: str | None = None,
    bisect: float | None = None,
) -> Record:
    """Load, plan, say how long it will take, and run the steps of an attack or of a suite."""
    check_bisect(steps, bisect)  # before anything is loaded
    model = load_model(model_path, arch, contract, latent)
    test, validation = test_data(model, data, reading, progress)
    galaxies = choose(test.with_classes(model.contract.classes), limit)
    if suite and galaxies.exposure is None:
        _refuse_units(suite, steps)
    own = validation if fit_data is None else open_data(fit_data, reading, model.contract.classes)
    fitting = fitting_set(steps, model, galaxies, own)
    if fitting is None and fit_data is not None:
        raise InputError(
            f"--fit-data {fit_data}", "a perturbation of a whole set, such as universal", "leave --fit-data out"
        )
    return run(
        steps, model, galaxies, out, called=suite.name if suite else None,
        seed=seed, limit=limit, batch=batch, device=device, validation=validation, fitting=fitting, progress=progress,
        bisect=bisect,
    )  # fmt: skip


def _refuse_units(suite: Suite, steps: Sequence[Step]) -> None:
    flux = [s.name for s in steps if get(s.name).space == "flux"]
    if flux:
        raise InputError(
            f"suite {suite.name}: {len(flux)} of its {len(steps)} perturbations ({', '.join(flux[:3])} ...) act on "
            "electrons, and these images have no Exposure",
            "images in flux units with bands, pixel scale and sky level",
            "declare them with --exposure FILE.toml, or take --suite images",
        )


def run(
    steps: Sequence[Step],
    model: Model,
    galaxies: Galaxies,
    out: Path | None,
    *,
    seed: int,
    limit: int | None,
    device: str,
    progress: Progress,
    validation: Galaxies | None = None,
    fitting: Galaxies | None = None,
    batch: int = 64,
    folder: Path = Path("runs"),
    called: str | None = None,
    bisect: float | None = None,
) -> Record:
    """Run steps on galaxies (after `limit`). Without `out` in FOLDER/MODEL-CALLED-PLAN: the same command resumes."""
    device = device_of(device)
    kept = KEPT_OF_MANY if len(steps) > MANY else KEPT
    plan = Plan.of(model, galaxies, steps, seed=seed, limit=limit, fitting=fitting, bisect=bisect)
    plan = plan.model_copy(update={"kept_images": kept})
    called = called or "-".join(s.name.replace(":", "-") for s in steps)
    place = out or folder / f"{model.name}-{called}-{plan.digest()[:8]}"
    _say_estimate(plan, model, galaxies, device)
    record = evaluate(
        plan, model, galaxies, place, device=device, batch=batch, validation=validation, fitting=fitting,
        progress=progress,
    )  # fmt: skip
    for flag in record.run["flags"]:
        say(f"flag {flag['code']}: {flag['message']}. {flag['remedy']}.")
    return record


def test_data(model: Model, path: str | None, reading: Reading, progress: Progress) -> tuple[Galaxies, Galaxies | None]:
    """The galaxies to test on, and the model's validation galaxies where they are at hand.

    Those of --data: of galaxies that the model was trained on, the test split; otherwise all. Or the test data that
    the bundle names: the test split of its source, or recipes of mocks that it never saw (the zoo's models).
    """
    if path is not None:
        galaxies = open_data(path, reading, model.contract.classes)
        test = unseen(model, galaxies)
        if len(test) < len(galaxies):
            say(
                f"{path}: trained on some of these {len(galaxies)} galaxies; the {len(test)} of the test split are used"
            )
        return test, None
    given = [name for name, value in reading.items() if value not in (None, "label")]
    if given:
        option = given[0].replace("_", "-")
        raise InputError(f"--{option} without --data", "options of reading go with --data", "add --data FILE")
    if "test" in model.data:
        return _unseen_mocks(model, "test", progress), _unseen_mocks(model, "valid", progress)
    own = _own_data(model, progress)
    test = select(own, "test")
    if test.digest() != model.data["test_sha256"]:
        raise InputError(
            f"the test data that {model.path} names have changed",
            "the same images, labels and ids as at training",
            "name the data with --data FILE, or train again",
        )
    return test, select(own, "valid")


def _own_data(model: Model, progress: Progress) -> Galaxies:
    """The source file that the bundle names, or its simulate recipe rendered again through the cache."""
    source = model.data.get("source") or {}
    file = str(source.get("path", "")).partition("::")[0]
    if file and Path(file).exists():
        return read_again(source)
    if "recipe" in source:
        return _simulated(source["recipe"], progress)
    raise InputError(
        f"{model.path} names no test data that is there ({file or 'no file, no recipe'})",
        "the file it was trained on, or a simulate recipe",
        "add --data FILE, or put the file back",
    )


def _unseen_mocks(model: Model, split: str, progress: Progress) -> Galaxies:
    """The mocks of a recipe in the bundle.

    What they are is known by the recipe and by the code that draws them. Their pixels may differ in the last bit from
    processor to processor, so a digest of these would refuse the same galaxies elsewhere.
    """
    from robustastro.data.mocks import Recipe as MockRecipe
    from robustastro.data.mocks import parameters_hash

    named = model.data[split]
    here = parameters_hash(MockRecipe.from_dict(named["recipe"]))
    if named["mocks"] != here:
        raise InputError(
            f"{model.path} names mock galaxies of another version ({named['mocks'][:12]}; here {here[:12]})",
            "the mocks of the version that it came with",
            "name the data with --data FILE, or use the model that comes with this version",
        )
    return _simulated(named["recipe"], progress)


def _simulated(recipe: Mapping[str, Any], progress: Progress) -> Galaxies:
    from robustastro.data.mocks import Recipe as MockRecipe
    from robustastro.data.mocks import simulate

    return simulate(MockRecipe.from_dict(recipe), progress=lambda d, t: progress("simulate", d, t))


def _say_estimate(plan: Plan, model: Model, galaxies: Galaxies, device: str) -> None:
    """How long the queries will take, at most, from a timed pass; nothing where their number is not known."""
    entries = [get(wanted.name) for wanted in plan.steps]
    if any(entry.kind == "attack" and entry.most_queries is None for entry in entries):
        return
    x = model.contract.to_input(galaxies.batch(slice(0, 1)), galaxies.bands)
    subject = Subject(model.network, model.contract, model.latent, device, plan.chunk, plan.pixels)
    cost = {False: _seconds_of_image(subject, x), True: 0.0}
    if plan.pixels is not None:
        cost[True] = _seconds_of_candidate(subject, x.to(device))
    queries, each = 1, cost[False]
    for entry, wanted in zip(entries, plan.steps, strict=True):
        most = entry.most_queries({**wanted.options, "shape": x.shape[1:]}) if entry.most_queries else 1
        runs = len(wanted.strengths)
        if plan.bisect is not None:
            runs += int(halvings(edges(entry, wanted.strengths), plan.bisect).max())
        queries += runs * most
        each += runs * most * cost[entry.norm == "L0"]
    seconds = each * len(galaxies)
    if seconds < 2.0:
        return
    text = f"{len(galaxies)} galaxies, at most {queries} queries each: {_minutes(seconds)} or less on {device}"
    if seconds > PATIENCE:
        text += f"; --limit {max(1, int(PATIENCE / each))} takes ten minutes"
    say(text)


def _seconds_of_image(subject: Subject, x: torch.Tensor) -> float:
    subject.outputs(x)  # the first pass also allocates
    started = time.monotonic()
    subject.outputs(x)
    return (time.monotonic() - started) / subject.chunk


def _seconds_of_candidate(subject: Subject, x: torch.Tensor) -> float:
    """Of one pixel changed in the image x (1, C, H, W)."""
    victim, count = subject.victim(x), 200
    row = torch.arange(count, device=x.device) % min(x.shape[2:])
    asked = torch.zeros_like(row), row[:, None, None].expand(-1, -1, 2), x.new_zeros(count, 1, x.shape[1])
    victim.logits_at(*asked)
    started = time.monotonic()
    victim.logits_at(*asked)
    return (time.monotonic() - started) / count


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def attack_result(record: Record) -> dict[str, Any]:
    """The document of `attack --json` (schema 1) for a record with one perturbation."""
    return _result(record, {"perturbation": record.run["perturbations"][0]})


def suite_result(record: Record, suite: str) -> dict[str, Any]:
    """The document of `evaluate --json` (schema 1)."""
    return _result(record, {"suite": suite, "perturbations": record.run["perturbations"]})


def _result(record: Record, perturbed: Mapping[str, Any]) -> dict[str, Any]:
    about = record.run
    return {
        "schema": 1,
        "run": str(record.path),
        "model": about["model"],
        "data": {k: v for k, v in about["data"].items() if k != "source"},
        **perturbed,
        "seed": about["seed"],
        "flags": about["flags"],
        "results": summarise(record),
        "critical_strength": critical.summary(record),
    }


def in_spaces(name: str, space: str | None, options: Sequence[str]) -> dict[str, list[str]]:
    """The options "name=value" of the runs that --space asks for, by the name of the space.

    Flux comes first, so that images without an exposure are refused before anything is run.

    Raises
    ------
    InputError : no such space, an attack that has none to choose, or the space given twice.
    """
    options = list(options)
    if space is None:
        return {"": options}
    if space not in SPACES:
        raise unknown_name("space", space, SPACES)
    if "space" not in get(name).options:
        having = [n for n, p in catalogue().items() if "space" in p.options]
        raise InputError(f"--space {space} for {name}", f"one of {', '.join(having)}", "leave --space out")
    if any(text.startswith("space=") for text in options):
        raise InputError(f"both --space {space} and -p space=", "one of them", "drop one")
    return {one: [*options, f"space={one}"] for one in (("flux", "input") if space == "both" else (space,))}


def spaces_result(records: Mapping[str, Record]) -> dict[str, Any]:
    """The document of `attack --space both --json`: the input run's, the flux run's, and the paired difference."""
    difference = space_difference(records["input"], records["flux"])
    flux = attack_result(records["flux"])
    return attack_result(records["input"]) | {"spaces": {"flux": flux, "difference": difference}}


def spaces_text(records: Mapping[str, Record], result: Mapping[str, Any]) -> str:
    """The results in both spaces for people."""
    spaces = result["spaces"]
    parts = [("input", result), ("flux", spaces["flux"])]
    text = "\n".join(f"Space: {name}. {attack_text(records[name], document)}" for name, document in parts)
    return f"{text}\n{space_text(spaces['difference'])}"


def attack_text(record: Record, result: Mapping[str, Any]) -> str:
    """The results of a run for people."""
    about = record.run
    data = about["data"]
    head = f"{about['model']['name']} on {data['n']} galaxies of {data['domain']}; run {record.path}"
    parts = [f"{head}\n{table(result['results'])}", critical.text(result["critical_strength"])]
    return "\n".join(part for part in parts if part)


def draw(record: Record, names: Sequence[str] | None = None) -> list[Path]:
    """Every figure that the run can give, or those named, in its folder `figures`."""
    from robustastro import figures
    from robustastro.figures.style import save

    made = []
    for name in names or figures.FIGURES:
        module = figures.get(name)
        try:
            figure = module.figure([record])
        except InputError:
            continue  # nothing of that kind in this run
        path = record.path / "figures" / f"{name}.png"
        save(figure, path)
        made.append(path)
    return made
