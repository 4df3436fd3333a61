"""The demonstration: models with and without adaptation, of the zoo or trained here, attacked, measured, drawn.

Everything in it is done by the same functions as the other commands; the page says which command repeats each part.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from robustastro import __version__, commands
from robustastro.adapt.contracts import stretched
from robustastro.adapt.recipe import Recipe
from robustastro.data.galaxies import Galaxies
from robustastro.data.mocks import Recipe as MockRecipe
from robustastro.data.mocks import parameters_hash, simulate
from robustastro.data.splits import select
from robustastro.evaluate.engine import choose
from robustastro.evaluate.plan import step
from robustastro.metrics.intervals import proportion
from robustastro.metrics.summary import common_flips, summarise
from robustastro.metrics.tables import compare_table
from robustastro.models import zoo
from robustastro.models.bundles import Model, load_model
from robustastro.models.subject import Subject
from robustastro.progress import Progress, say
from robustastro.record import Record, write_whole

METHODS = ("none", "mmd", "dann")  # that --train trains
ON_ALL = ("depth", "seeing", "jpeg")
REPORTED = ("model", "seed", "best_epoch", "test", "seconds", "flags", "card")
GALAXIES, ATTACKED, SEED, EPOCHS = 1500, 40, 1, 40
Y10, Y1 = 1.0, 0.1  # fractions of LSST's full depth
QUICK = 24  # galaxies of --quick: one file of the cache


@dataclass(frozen=True)
class Prepared:
    """The models of the demonstration by their method, what is said of each, and the galaxies to test them on."""

    models: Mapping[str, Model]
    about: Mapping[str, Mapping[str, Any]]
    test: Galaxies
    validation: Galaxies | None
    training_galaxies: int | None


def run(out: Path, *, quick: bool, device: str, progress: Progress, train: bool = False) -> dict[str, Any]:
    """Run the demonstration and return what goes into results.json.

    Parameters
    ----------
    out : directory for figures, index.md, results.json, bundles and runs.
    quick : a tenth of the galaxies, two epochs and a short search, only to see that everything works.
    train : train the models; without it they are those of the zoo.
    """
    started = time.monotonic()
    device = commands.device_of(device)
    given = _trained(out, quick, device, progress) if train else _of_the_zoo(quick, device, progress)

    few = choose(given.test, 4 if quick else ATTACKED)
    say(f"3 of 4  {', '.join(ON_ALL)} on all test galaxies, onepixel on {len(few)}")
    search = {"pop": 10, "generations": 2} if quick else {}
    plans = (
        ([step(name) for name in ON_ALL], given.test, None),
        ([step("onepixel", options=search)], few, len(few)),
    )
    everything = {
        method: [
            commands.run(
                steps, model, galaxies, None, folder=out / "runs",
                seed=0, limit=limit, device=device, validation=given.validation, progress=progress,
            )
            for steps, galaxies, limit in plans
        ]
        for method, model in given.models.items()
    }  # fmt: skip

    say("4 of 4  figures and page")
    results = {method: [r for record in records for r in summarise(record)] for method, records in everything.items()}
    attacked = {method: everything[method][1] for method in _onepixel(results)}
    figures = _draw(everything, out)
    document = {
        "schema": 1,
        "version": __version__,
        "command": "robustastro demo --train" if train else "robustastro demo",
        "mocks": parameters_hash(),
        "git": everything["none"][0].run["git"],
        "device": everything["none"][0].run["device"],
        "seconds": round(time.monotonic() - started, 1),
        "trainings": {m: {k: t[k] for k in REPORTED if k in t} for m, t in given.about.items()},
        "results": results,
        "common_flips": common_flips(attacked, "onepixel", 1.0),
    }
    write_whole(out / "results.json", lambda file: file.write_text(json.dumps(document, indent=1) + "\n"))
    page = _page(document, figures, given.training_galaxies, len(given.test), few_count=len(few))
    write_whole(out / "index.md", lambda file: file.write_text(page))
    return document


def _of_the_zoo(quick: bool, device: str, progress: Progress) -> Prepared:
    """The models of the zoo, measured at Y10 and Y1 on the test galaxies that their bundles name."""
    models = {card["recipe"]["method"]: load_model(zoo.PREFIX + name) for name, card in zoo.cards().items()}
    say(f"1 of 4  the zoo: {', '.join(model.name for model in models.values())}")
    first = next(iter(models.values()))
    if quick:
        few = {s: {**first.data[s], "recipe": {**first.data[s]["recipe"], "n": QUICK}} for s in ("test", "valid")}
        first = replace(first, data={**first.data, **few})
    test, validation = commands.test_data(first, None, {}, progress)
    y1 = replace(MockRecipe.from_dict(first.data["test"]["recipe"]), depth=Y1)
    say(f"2 of 4  {len(test)} mock galaxies, which no model was trained on, at LSST Y10 and Y1")
    domains = {"source": test, "target": simulate(y1, progress=lambda d, t: progress("simulate", d, t))}
    about = {}
    for method, model in models.items():
        card = zoo.cards()[model.name]
        measured = {name: _accuracy(model, galaxies, device) for name, galaxies in domains.items()}
        about[method] = card | {"model": model.path, "test": measured, "card": card["accuracy"]}
    return Prepared(models, about, test, validation, None)


def _trained(out: Path, quick: bool, device: str, progress: Progress) -> Prepared:
    """Models trained without adaptation and with two methods of it, and the test split of their mocks."""
    count = GALAXIES // 10 if quick else GALAXIES
    recipes = [MockRecipe(n=count, seed=SEED, depth=depth) for depth in (Y10, Y1)]
    say(f"1 of 4  {count} mock galaxies at LSST Y10 and Y1")
    y10, y1 = (simulate(r, progress=lambda d, t: progress("simulate", d, t)) for r in recipes)
    say("2 of 4  training: source Y10 with labels, target Y1 without")
    about = {}
    for method in METHODS:
        recipe = Recipe(method=method, epochs=2 if quick else EPOCHS, batch=16 if quick else 32)
        file = out / f"{method}.pt"
        about[method] = commands.fit(recipe, y10, y1, file, device, progress) | {"model": str(file)}
        say("        " + commands.training_text(about[method]).replace("\n", "\n        "))
        for flag in about[method]["flags"]:
            say(f"        flag {flag['code']}: {flag['message']}")
    models = {method: load_model(out / f"{method}.pt") for method in METHODS}
    return Prepared(models, about, select(y10, "test"), select(y10, "valid"), len(select(y10, "train")))


def _accuracy(model: Model, galaxies: Galaxies, device: str) -> dict[str, Any]:
    predicted = Subject(model.network, model.contract, device=device).outputs(stretched(galaxies, model.contract))
    right = predicted.logits.argmax(dim=1).cpu().numpy() == galaxies.with_classes(model.contract.classes).labels
    return {"domain": galaxies.domain, "accuracy": proportion(right).to_dict()}


def text(out: Path) -> str:
    """What the command prints at the end."""
    return (out / "index.md").read_text()


def _draw(everything: Mapping[str, Sequence[Record]], out: Path) -> list[tuple[str, str]]:
    """The three figures, and their captions."""
    from robustastro import figures
    from robustastro.figures.style import save

    made = []
    on_all, onepixel = ([records[k] for records in everything.values()] for k in (0, 1))
    for name, records in (("severity", on_all), ("gallery", onepixel), ("latent", onepixel)):
        module = figures.get(name)
        save(module.figure(records, list(everything)), out / f"{name}.png")
        made.append((name, module.caption(records, list(everything))))
    return made


def _page(
    document: Mapping[str, Any],
    figures: Sequence[tuple[str, str]],
    training_galaxies: int | None,
    test_galaxies: int,
    few_count: int,
) -> str:
    import jinja2

    env = jinja2.Environment(
        loader=jinja2.PackageLoader("robustastro", "templates"), trim_blocks=True, lstrip_blocks=True
    )
    accuracies = {
        method: {
            domain: commands.estimate_text(t["test"][domain]["accuracy"], 100.0, 1) for domain in ("source", "target")
        }
        for method, t in document["trainings"].items()
    }
    return env.get_template("demo.md.j2").render(
        document=document,
        accuracies=accuracies,
        table=compare_table(document["results"], markdown=True),
        figures=figures,
        training_galaxies=training_galaxies,
        test_galaxies=test_galaxies,
        attacked=few_count,
        minutes=f"{document['seconds'] / 60:.1f}",
        onepixel=_onepixel(document["results"]),
        estimate_text=commands.estimate_text,
    )


def _onepixel(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Mapping[str, Any]]:
    """The result of the one-pixel attack for each method that has one."""
    return {method: r for method, found in results.items() for r in found if r["perturbation"] == "onepixel"}
