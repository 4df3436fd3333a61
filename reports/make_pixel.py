"""Attack every pixel of mock and of real galaxies, and write the report reports/pixel from the records.

    make demo                                          # the three models on mocks
    python reports/make_pixel.py [--models reports/demo/none.pt ...] [--limit 40] [--decals DIR] [--radio FILE]

The search is of `--limit` galaxies; the certificate, which takes up to a minute or two for each, of the first
`--certified` of them by key. Runs are kept in OUT/runs and resumed; delete them after a change of the attack or of the
certificate. `--decals` names a folder of pictures with catalogue.csv (`file`, `label`), `--radio` an .npz of `images`,
`labels` and `split`, both as docs/your-own-data.md says; a network is trained on each, and its test split attacked.
"""

from __future__ import annotations

import argparse
import json
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch

from robustastro import __version__, commands, figures
from robustastro.adapt.recipe import Recipe
from robustastro.data.galaxies import Galaxies
from robustastro.data.readers import read
from robustastro.data.splits import select
from robustastro.evaluate.engine import choose
from robustastro.evaluate.plan import Step, step
from robustastro.figures.style import save
from robustastro.metrics.intervals import mean, paired_drop
from robustastro.metrics.pixels import pixels
from robustastro.metrics.summary import space_difference, summarise
from robustastro.metrics.tables import estimate_text
from robustastro.models.bundles import Model, load_model
from robustastro.progress import Progress, say, shown
from robustastro.record import Record, write_whole

ATTACK = "onepixel_exhaustive"
DEMO = [Path(f"reports/demo/{method}.pt") for method in ("none", "mmd", "dann")]
REAL = {"decals": "DECaLS rings", "radio": "FR-DEEP radio galaxies"}
EPOCHS = 30
CERTIFIED, BOXES = 3, 64  # of mocks; real images have more pixels
REAL_CERTIFIED, REAL_BOXES = 2, 16


@dataclass(frozen=True)
class Subset:
    """A model and the galaxies that it is attacked on."""

    name: str
    model: Model
    galaxies: Galaxies
    spaces: tuple[str, ...]


def main() -> None:
    arguments = _arguments()
    out = arguments.out
    with shown() as progress:
        mocks = [_mocks(path, arguments.limit, progress) for path in arguments.models]
        records = {"mocks": _attack(mocks, out / "runs", progress)}
        proofs = {"mocks": _attack([_few(m, arguments) for m in mocks], out / "runs", progress, arguments.boxes)}
        about: dict[str, Any] = {}
        for name, title in REAL.items():
            if path := getattr(arguments, name):
                subset, about[name] = _real(name, title, path, arguments, progress)
                records[name] = _attack([subset], out / "runs", progress)
                few = replace(subset, galaxies=choose(subset.galaxies, REAL_CERTIFIED))
                proofs[name] = _attack([few], out / "runs", progress, REAL_BOXES)
    document = _document(records, proofs, about, arguments)
    write_whole(out / "results.json", lambda file: file.write_text(json.dumps(document, indent=1) + "\n"))
    page = _page(document, _draw(records, proofs, out))
    write_whole(out / "index.md", lambda file: file.write_text(page))
    say(f"{out / 'index.md'}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Attack every pixel and write reports/pixel.")
    parser.add_argument("--models", type=Path, nargs="+", default=DEMO, help="bundles that name their test data")
    parser.add_argument("--limit", type=int, default=40, help="galaxies of each model, chosen by key")
    parser.add_argument("--certified", type=int, default=CERTIFIED, help="of these, galaxies with a certificate")
    parser.add_argument("--boxes", type=int, default=BOXES, help="boxes a pixel that a certificate may try")
    parser.add_argument("--decals", type=Path, help="folder of RGB pictures with catalogue.csv: file, label")
    parser.add_argument("--radio", type=Path, help=".npz with images, labels, classes and split")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of the networks trained on --decals and --radio")
    parser.add_argument("--out", type=Path, default=Path("reports/pixel"))
    return parser.parse_args()


# ---------------------------------------------------------------------- runs


def _mocks(path: Path, limit: int, progress: Progress) -> Subset:
    model = load_model(path)
    test, _ = commands.test_data(model, None, {}, progress)
    return Subset(path.stem, model, choose(test.with_classes(model.contract.classes), limit), ("input", "flux"))


def _real(
    name: str, title: str, path: Path, arguments: argparse.Namespace, progress: Progress
) -> tuple[Subset, dict[str, Any]]:
    """A network trained on these galaxies, unless it is there already, with a few galaxies of their test split."""
    galaxies = read(path, domain=title)
    every = galaxies.batch(slice(None)).flatten(1)
    blank = (every.amax(dim=1) == every.amin(dim=1)).numpy()
    galaxies = galaxies.take(np.flatnonzero(~blank))
    bundle = arguments.out / "runs" / f"{name}-{galaxies.digest()[:8]}-{arguments.epochs}.pt"
    if not bundle.exists():
        say(f"{title}: training on {len(galaxies)} galaxies")
        commands.fit(Recipe(epochs=arguments.epochs, batch=32), galaxies, None, bundle, "cpu", progress)
    trained = json.loads(bundle.with_suffix(".json").read_text())
    about = {
        "title": title,
        "n": len(galaxies),
        "blank": int(blank.sum()),
        "size": list(galaxies.images.shape[1:]),
        "classes": {c: int((galaxies.labels == k).sum()) for k, c in enumerate(galaxies.classes)},
        "train": trained["source"]["train"],
        "test_accuracy": trained["test"]["source"]["accuracy"],
        "best_epoch": trained["best_epoch"],
        "flags": trained["flags"],
    }
    return Subset(name, load_model(bundle), choose(select(galaxies, "test"), arguments.limit), ("input",)), about


def _few(subset: Subset, arguments: argparse.Namespace) -> Subset:
    return replace(subset, galaxies=choose(subset.galaxies, arguments.certified))


def _attack(
    subsets: Sequence[Subset], folder: Path, progress: Progress, boxes: int = 0
) -> dict[tuple[str, str], Record]:
    """The records by name and space; says how long it will take, from one galaxy."""
    wanted = {space: step(ATTACK, options={"space": space, "certificate": boxes}) for space in ("input", "flux")}
    with tempfile.TemporaryDirectory() as place:
        first = subsets[0]
        seconds = _run(first, wanted["input"], Path(place) / "run", None, 1, progress).run["timing"]["seconds"]
    total = sum(len(subset.galaxies) * len(subset.spaces) for subset in subsets)
    minutes = max(1, round(seconds * total / 60))
    say(f"{', '.join(s.name for s in subsets)}: {total} galaxies to attack, about {minutes} min")
    return {
        (subset.name, space): _run(subset, wanted[space], None, folder, None, progress)
        for subset in subsets
        for space in subset.spaces
    }


def _run(
    subset: Subset, wanted: Step, out: Path | None, folder: Path | None, limit: int | None, progress: Progress
) -> Record:
    return commands.run(
        [wanted], subset.model, choose(subset.galaxies, limit), out, folder=folder or Path(),
        seed=0, limit=limit, device="cpu", progress=progress,
    )  # fmt: skip


# ---------------------------------------------------------------------- numbers


def difference(first: Record, second: Record) -> dict[str, Any]:
    """First minus second over the galaxies that were attacked in both: attack success rate and fatal pixels, with n.

    Galaxies are attacked where the model was right; so the two records may be of different models.
    """
    (unit,), (other) = first.units(), second.units()[0]
    ids = first.galaxies.index.intersection(second.galaxies.index).to_numpy()
    one, two = pixels(first, unit, ids), pixels(second, other, ids)
    assert one is not None  # runs of one attack, made above
    assert two is not None
    both = np.isfinite(one.any) & np.isfinite(two.any)
    return {
        "n": int(both.sum()),
        "attack_success_rate": paired_drop(one.any[both] == 1, two.any[both] == 1).to_dict(),
        "fatal_pixels": mean(one.fatal[both] - two.fatal[both]).to_dict(),
    }


def _document(
    records: Mapping[str, Mapping[tuple[str, str], Record]],
    proofs: Mapping[str, Mapping[tuple[str, str], Record]],
    about: Mapping[str, Any],
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """results.json: every number of the page."""
    mocks = records["mocks"]
    names = list(dict.fromkeys(name for name, _ in mocks))
    methods = {name: mocks[name, "input"].run["model"]["method"] for name in names}
    without = next((name for name in names if methods[name] == "none"), None)
    some = mocks[names[0], "input"].run
    return {
        "schema": 1,
        "version": __version__,
        "command": _command(arguments),
        "git": some["git"],
        "device": some["device"],
        "threads": torch.get_num_threads(),
        "options": some["perturbations"][0]["options"],
        "boxes": {"mocks": arguments.boxes, "real": REAL_BOXES},
        "mocks": {"domain": some["data"]["domain"], "methods": methods, "without": without},
        "real": dict(about),
        "runs": [
            {"data": data, "model": name, "space": space, **_numbers(record)}
            for data, of in records.items()
            for (name, space), record in of.items()
        ],
        "proofs": [
            {"data": data, "model": name, "space": space, **_numbers(record)}
            for data, of in proofs.items()
            for (name, space), record in of.items()
        ],
        "input_minus_flux": {
            name: space_difference(mocks[name, "input"], mocks[name, "flux"])[0] for name in names
        },
        "with_minus_without": [
            {"model": name, "space": space, **difference(mocks[name, space], mocks[without, space])}
            for space in ("input", "flux")
            for name in names
            if without is not None and name != without
        ],
    }  # fmt: skip


def _numbers(record: Record) -> dict[str, Any]:
    (result,) = summarise(record)
    kept = ("n", "clean_accuracy", "attack_success_rate", "queries_median", "fatal_pixels", "certificate")
    return {
        **{name: result[name] for name in kept},
        "pixels": int(np.prod(record.maps(ATTACK, 1.0)["map"].shape[1:])),
        "seconds": record.run["timing"]["seconds"],
        "flags": record.run["flags"],
    }


def _command(arguments: argparse.Namespace) -> str:
    """The command line, without the places of this machine."""
    parts = ["python", "reports/make_pixel.py", "--limit", str(arguments.limit)]
    if arguments.models != DEMO:
        parts += ["--models", *(path.name if path.is_absolute() else str(path) for path in arguments.models)]
    if (arguments.certified, arguments.boxes) != (CERTIFIED, BOXES):
        parts += ["--certified", str(arguments.certified), "--boxes", str(arguments.boxes)]
    if arguments.epochs != EPOCHS:
        parts += ["--epochs", str(arguments.epochs)]
    for name, place in (("decals", "DIR"), ("radio", "FILE")):
        if getattr(arguments, name):
            parts += [f"--{name}", place]
    return shlex.join(parts)


# ---------------------------------------------------------------------- page


def _draw(
    records: Mapping[str, Mapping[tuple[str, str], Record]],
    proofs: Mapping[str, Mapping[tuple[str, str], Record]],
    out: Path,
) -> dict[str, str]:
    """The figures, and their captions by file name."""
    mocks = records["mocks"]
    real, proved = (
        {REAL[name]: record for name, of in some.items() if name in REAL for record in of.values()}
        for some in (records, proofs)
    )
    proved_mocks = {name: record for (name, space), record in proofs["mocks"].items() if space == "input"}
    searched = {name: record for (name, space), record in mocks.items() if space == "input"}
    wanted = {
        "vulnerability": ("vulnerability", proved_mocks, None),
        "vulnerability_search": ("vulnerability", searched, None),
        "fatal": ("fatal", mocks, [name for name, _ in mocks]),
        **{f"vulnerability_{name}": ("vulnerability", {title: proved[title]}, None)
           for name, title in REAL.items() if title in proved},
    }  # fmt: skip
    if real:
        wanted["fatal_real"] = ("fatal", real, None)
    captions = {}
    for file, (name, of, names) in wanted.items():
        module, drawn, called = figures.get(name), list(of.values()), names or [str(key) for key in of]
        save(module.figure(drawn, called), out / f"{file}.png")
        captions[file] = module.caption(drawn, called)
    return captions


def _page(document: Mapping[str, Any], captions: Mapping[str, str]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    return environment.get_template("pixel.md.j2").render(
        d=document, captions=captions, of=lambda e, factor=1.0, digits=2: estimate_text(e, factor, digits)
    )


if __name__ == "__main__":
    main()
