"""The demonstration: simulate, train with and without adaptation, attack, measure, draw.

Everything in it is done by the same functions as the other commands; the page says which command repeats each part.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robustastro import __version__, commands
from robustastro.adapt.recipe import Recipe
from robustastro.data.mocks import Recipe as MockRecipe
from robustastro.data.mocks import parameters_hash, simulate
from robustastro.data.splits import select
from robustastro.evaluate.engine import choose
from robustastro.evaluate.plan import step
from robustastro.metrics.summary import common_flips, summarise
from robustastro.metrics.tables import compare_table
from robustastro.models.bundles import load_model
from robustastro.progress import Progress, say
from robustastro.record import Record, write_whole

METHODS = ("none", "mmd", "dann")
ON_ALL = ("depth", "seeing", "jpeg")
REPORTED = ("seed", "best_epoch", "test", "seconds", "flags")
GALAXIES, ATTACKED, SEED, EPOCHS = 1500, 40, 1, 40


def run(out: Path, *, quick: bool, device: str, progress: Progress) -> dict[str, Any]:
    """Run the demonstration and return what goes into results.json.

    Parameters
    ----------
    out : directory for figures, index.md, results.json, bundles and runs.
    quick : a tenth of the galaxies, two epochs and a short search, only to see that everything works.
    """
    started = time.monotonic()
    device = commands.device_of(device)
    count = GALAXIES // 10 if quick else GALAXIES
    recipes = {depth: MockRecipe(n=count, seed=SEED, depth=depth) for depth in (1.0, 0.1)}
    say(f"1 of 4  {count} mock galaxies at LSST Y10 and Y1")
    y10, y1 = (simulate(r, progress=lambda d, t: progress("simulate", d, t)) for r in recipes.values())

    say("2 of 4  training: source Y10 with labels, target Y1 without")
    trainings = {}
    for method in METHODS:
        recipe = Recipe(method=method, epochs=2 if quick else EPOCHS, batch=16 if quick else 32)
        trainings[method] = commands.fit(recipe, y10, y1, out / f"{method}.pt", device, progress)
        say("        " + commands.training_text(trainings[method]).replace("\n", "\n        "))
        for flag in trainings[method]["flags"]:
            say(f"        flag {flag['code']}: {flag['message']}")

    say(f"3 of 4  {', '.join(ON_ALL)} on all test galaxies, onepixel on {ATTACKED}")
    test, validation = select(y10, "test"), select(y10, "valid")
    few = choose(test, 4 if quick else ATTACKED)
    search = {"pop": 10, "generations": 2} if quick else {}
    everything: dict[str, list[Record]] = {}
    for method in METHODS:
        model = load_model(out / f"{method}.pt")
        plans = (
            ([step(name) for name in ON_ALL], test, None),
            ([step("onepixel", options=search)], few, len(few)),
        )
        everything[method] = [
            commands.run(
                steps, model, galaxies, None, folder=out / "runs",
                seed=0, limit=limit, device=device, validation=validation, progress=progress,
            )
            for steps, galaxies, limit in plans
        ]  # fmt: skip

    say("4 of 4  figures and page")
    results = {method: [r for record in records for r in summarise(record)] for method, records in everything.items()}
    attacked = {method: everything[method][1] for method in _onepixel(results)}
    figures = _draw(everything, out)
    document = {
        "schema": 1,
        "version": __version__,
        "command": "robustastro demo",
        "mocks": parameters_hash(),
        "git": everything["none"][0].run["git"],
        "device": everything["none"][0].run["device"],
        "seconds": round(time.monotonic() - started, 1),
        "trainings": {m: {k: t[k] for k in REPORTED} for m, t in trainings.items()},
        "results": results,
        "common_flips": common_flips(attacked, "onepixel", 1.0),
    }  # fmt: skip
    write_whole(out / "results.json", lambda file: file.write_text(json.dumps(document, indent=1) + "\n"))
    page = _page(document, trainings, figures, len(select(y10, "train")), len(test), few_count=len(few))
    write_whole(out / "index.md", lambda file: file.write_text(page))
    return document


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
    trainings: Mapping[str, Any],
    figures: Sequence[tuple[str, str]],
    training_galaxies: int,
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
        for method, t in trainings.items()
    }
    return env.get_template("demo.md.j2").render(
        document=document,
        trainings=trainings,
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
