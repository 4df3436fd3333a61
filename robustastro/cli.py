"""The command line. Heavy modules load inside the commands, so that `--help` and read-side commands answer at once.

Exit status: 0 fine; 1 the verdict is no (a gate fails, a training collapsed); 2 the input or command was wrong; 3 a
fault of ours.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from perturbations.errors import BrokenPromise, InputError
from robustastro.progress import say, shown

app = typer.Typer(
    name="robustastro",
    help="How far does a galaxy classifier fall under what surveys, pipelines and adversaries do to images?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ModelFile = Annotated[
    Path, typer.Option("--model", help="Bundle (.pt) or zoo:NAME, or weights with --arch and --contract.")
]
DataFile = Annotated[str | None, typer.Option("--data", help="Images: .h5, .npz, .npy, FITS, or a directory.")]
Arch = Annotated[
    str | None, typer.Option(help="convnet, deepmerge, resnet18, or FILE.py:Class (runs that file's code).")
]
Contract = Annotated[Path | None, typer.Option(help="TOML file: how images become the network's input.")]
ExposureFile = Annotated[Path | None, typer.Option("--exposure", help="TOML file: what a pixel means.")]
LabelColumn = Annotated[str, typer.Option(help="Column of the catalogue that holds the label.")]
Masked = Annotated[str | None, typer.Option(help="Galaxies with masked pixels: reject or interpolate.")]
Bands = Annotated[str | None, typer.Option(help="Names of the data's channels in their order, for instance g,r,i.")]
FitData = Annotated[
    str | None,
    typer.Option(help="Labelled images to fit universal perturbations to; default: the bundle's validation galaxies."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout; everything else goes to stderr.")]
Options = Annotated[list[str] | None, typer.Option("-p", "--option", help="name=value; repeatable.")]


@app.callback(invoke_without_command=True)
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        from robustastro import __version__

        print(__version__)
        raise typer.Exit


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="perturbations, suites, models, surveys, methods or figures.")],
    as_json: Json = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Perturbations as a page: docs/perturbations.md.")
    ] = False,
) -> None:
    """List what there is: perturbations, suites, models, surveys, methods, figures."""
    from robustastro import listing

    rows = listing.rows(what)
    if markdown and what != "perturbations":
        raise InputError(
            f"list {what} --markdown", "list perturbations --markdown", "leave --markdown out, or take --json"
        )
    if markdown:
        print(listing.page(rows), end="")
        return
    print(json.dumps(rows, indent=1) if as_json else listing.text(what, rows))


@app.command()
def show(
    name: Annotated[str | None, typer.Argument(help="See robustastro list perturbations.")] = None,
    data: DataFile = None,
    every: Annotated[bool, typer.Option("--all", help="Every corruption, into the directory --out.")] = False,
    option: Options = None,
    galaxies: Annotated[int, typer.Option(help="Galaxies to draw: the first of each class in turn.")] = 1,
    exposure: ExposureFile = None,
    label_column: LabelColumn = "label",
    masked: Masked = None,
    bands: Bands = None,
    seed: Annotated[int, typer.Option(help="Evaluation seed.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Figure to write (.png, .pdf); default: NAME.png.")] = None,
    as_json: Json = False,
) -> None:
    """Facts of a perturbation, and a strip of images: clean, each rung, and the difference."""
    from robustastro import showing

    if (name is None) != every:
        raise InputError(
            f"show {name or 'nothing'}{' --all' if every else ''}", "one name, or --all", "name a perturbation"
        )
    reading = {"exposure": exposure, "label_column": label_column, "masked": masked, "bands": bands}
    if every or name is None:
        with shown() as progress:
            made = showing.every(data, reading, galaxies, seed, out or Path("reports/catalogue"), progress)
        print(json.dumps({"schema": 1, "figures": [str(path) for path in made]}) if as_json else made[-1])
        return
    with shown() as progress:
        result = showing.one(name, option or [], data, reading, galaxies, seed, out or Path(f"{name}.png"), progress)
    print(json.dumps(result, indent=1) if as_json else showing.text(result))


@app.command()
def inspect(
    file: Annotated[str, typer.Argument(help="A model file, a data file or directory, or a run.")],
    init_contract: Annotated[bool, typer.Option("--init-contract", help="Print a contract to start from.")] = False,
    exposure: ExposureFile = None,
    label_column: LabelColumn = "label",
    masked: Masked = None,
    bands: Bands = None,
    as_json: Json = False,
) -> None:
    """Say what a model or data file is, and whether it is safe and consistent. Runs nothing that is in it."""
    from robustastro import inspection

    reading = {"exposure": exposure, "label_column": label_column, "masked": masked, "bands": bands}
    if init_contract:
        print(inspection.first_contract(file, **reading), end="")
        return
    facts = inspection.facts(file, **reading)
    print(json.dumps(facts, indent=1) if as_json else inspection.text(facts))


@app.command()
def simulate(
    out: Annotated[Path, typer.Option(help="HDF5 file to write.")],
    n: Annotated[int, typer.Option("-n", "--number", help="Galaxies.")] = 3000,
    survey: Annotated[str, typer.Option(help="See robustastro list surveys.")] = "LSST",
    bands: Annotated[str, typer.Option(help="Bands, for instance g,r,i.")] = "g,r,i",
    depth: Annotated[str, typer.Option(help="Years (Y1 to Y10), or the fraction of the full exposure.")] = "Y10",
    classes: Annotated[str, typer.Option(help="Morphologies.")] = "spiral,elliptical,merger",
    proportions: Annotated[str, typer.Option(help="Share of each class, for instance 9,9,1; default: equal.")] = "",
    population: Annotated[str, typer.Option(help="standard, simulated or observed.")] = "standard",
    seeing: Annotated[float | None, typer.Option(help="PSF FWHM [arcsec]; default: the survey's, per band.")] = None,
    size: Annotated[int, typer.Option(help="Side of the image [pixels].")] = 100,
    seed: Annotated[int, typer.Option(help="Seed; the same seed gives the same galaxies at any depth.")] = 0,
    processes: Annotated[int, typer.Option(help="Processes that draw galaxies.")] = 2,
    as_json: Json = False,
) -> None:
    """Simulate labelled galaxies with GalSim, observed by a survey at some depth."""
    from robustastro.data import mocks
    from robustastro.data.readers.hdf5 import write_hdf5
    from robustastro.record import refuse_place

    if out.suffix not in (".h5", ".hdf5"):
        raise InputError(f"--out {out}", "a file name ending in .h5", "name the file, for instance y10.h5")
    refuse_place(out, folder=False)

    recipe = mocks.Recipe(
        survey=survey, bands=_split(bands), depth=mocks.parse_depth(depth), classes=_split(classes), n=n, seed=seed,
        size=size, seeing=seeing, population=population, proportions=mocks.parse_proportions(proportions),
    )  # fmt: skip
    with shown() as progress:
        galaxies = mocks.simulate(recipe, processes=processes, progress=lambda d, t: progress("simulate", d, t))
        write_hdf5(galaxies, out)
    result = {"schema": 1, "out": str(out), "n": len(galaxies), "domain": galaxies.domain, "recipe": recipe.to_dict()}
    print(json.dumps(result, indent=1) if as_json else f"{out}: {len(galaxies)} galaxies, {galaxies.domain}")


@app.command()
def train(
    source: Annotated[str, typer.Option(help="Labelled images of the source domain.")],
    out: Annotated[Path, typer.Option(help="Bundle to write (.pt).")],
    method: Annotated[str, typer.Option(help="See robustastro list methods.")] = "none",
    target: Annotated[
        str | None, typer.Option(help="Images of the target domain; labels are used by supervised_target only.")
    ] = None,
    arch: Annotated[
        str, typer.Option(help="convnet, deepmerge, resnet18, tiny, or FILE.py:Class (runs that file).")
    ] = "convnet",
    seed: Annotated[int, typer.Option(help="Training seed.")] = 0,
    epochs: Annotated[int, typer.Option(help="Epochs at most.")] = 20,
    batch: Annotated[int, typer.Option(help="Galaxies per domain and step.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate of AdamW.")] = 1e-3,
    patience: Annotated[int, typer.Option(help="Epochs without a better validation loss; 0: never stop.")] = 10,
    paired: Annotated[bool, typer.Option("--paired", help="Let a galaxy train in both domains.")] = False,
    option: Options = None,
    fisher: Annotated[str, typer.Option(help="Add the Fisher loss, in the form ratio or difference.")] = "",
    entropy: Annotated[float, typer.Option(help="Weight of the entropy of the target's predictions; 0: none.")] = 0.0,
    average: Annotated[
        float | None, typer.Option(help="Decay of a running mean of the weights; default: the method's own.")
    ] = None,
    init: Annotated[str, typer.Option(help="Bundle (.pt) or zoo:NAME to start from: transfer learning.")] = "",
    freeze: Annotated[
        str,
        typer.Option(help="Layers of --init that stay as they are, separated by commas; features: all but the last."),
    ] = "",
    label_column: LabelColumn = "label",
    exposure: ExposureFile = None,
    masked: Masked = None,
    bands: Bands = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train a network with or without domain adaptation and write a bundle. Exit status 1: the training collapsed."""
    from robustastro import commands

    if freeze and not _split(freeze):
        raise InputError(f"--freeze {freeze}", "names of layers, separated by commas", "name one or leave it out")
    settings = {
        "method": method, "arch": arch, "seed": seed, "epochs": epochs, "batch": batch, "learning_rate": learning_rate,
        "patience": patience, "paired": paired, "options": option or [], "fisher": fisher, "entropy": entropy,
        "average": average, "init": init, "freeze": _split(freeze),
    }  # fmt: skip
    reading = {"exposure": exposure, "label_column": label_column, "masked": masked, "bands": bands}
    with shown() as progress:
        result = commands.train(settings, source, target, out, reading, device, progress)
    for flag in result["flags"]:
        say(f"flag {flag['code']}: {flag['message']}. {flag['remedy']}.")
    print(json.dumps(result, indent=1) if as_json else commands.training_text(result))
    if any(flag["code"] == "collapsed" for flag in result["flags"]):
        raise typer.Exit(1)


@app.command()
def attack(
    model: ModelFile,
    attack: Annotated[str, typer.Option(help="Any perturbation; see robustastro list perturbations.")],
    data: DataFile = None,
    severity: Annotated[int | None, typer.Option(help="Rung of the ladder, 1 to 5.")] = None,
    strength: Annotated[float | None, typer.Option(help="Strength in the perturbation's unit.")] = None,
    option: Options = None,
    space: Annotated[
        str | None, typer.Option(help="What a pixel attack may write: input, flux (what a detector gives), or both.")
    ] = None,
    fit_data: FitData = None,
    bisect: Annotated[
        float | None,
        typer.Option(help="After the ladder, find the strength that flips each galaxy this closely, in its unit."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many galaxies, chosen by key.")] = None,
    batch_size: Annotated[int, typer.Option(help="Galaxies at a time: memory and speed, never the numbers.")] = 64,
    arch: Arch = None,
    contract: Contract = None,
    latent: Annotated[str | None, typer.Option(help="Module whose input is the latent vector.")] = None,
    exposure: ExposureFile = None,
    label_column: LabelColumn = "label",
    masked: Masked = None,
    bands: Bands = None,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Evaluation seed.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Run directory; resumed if it holds the same run.")] = None,
    as_json: Json = False,
) -> None:
    """Perturb galaxies, run the model on them, and say how far it falls."""
    from robustastro import commands
    from robustastro.evaluate.plan import step as planned

    # wrong names and strengths are said before anything is loaded
    steps = {
        name: planned(attack, severity=severity, strength=strength, options=options)
        for name, options in commands.in_spaces(attack, space, option or []).items()
    }
    records = {}
    reading = {"exposure": exposure, "label_column": label_column, "masked": masked, "bands": bands}
    with shown() as progress:
        for name, step in steps.items():
            records[name] = commands.attack(
                [step], model, data, reading, arch=arch, contract=contract, latent=latent, limit=limit,
                batch=batch_size, device=device, seed=seed, progress=progress, fit_data=fit_data,
                bisect=bisect, out=out / name if out and len(steps) > 1 else out,
            )  # fmt: skip
    for record in records.values():
        for path in commands.draw(record):
            say(f"figure {path}")
    if len(records) > 1:
        result = commands.spaces_result(records)
        print(json.dumps(result, indent=1) if as_json else commands.spaces_text(records, result))
        return
    (record,) = records.values()
    result = commands.attack_result(record)
    print(json.dumps(result, indent=1) if as_json else commands.attack_text(record, result))


@app.command()
def evaluate(
    model: ModelFile,
    suite: Annotated[str, typer.Option(help="See robustastro list suites, or a file ending in .toml.")],
    data: DataFile = None,
    fit_data: FitData = None,
    limit: Annotated[int | None, typer.Option(help="At most so many galaxies, chosen by key.")] = None,
    batch_size: Annotated[int, typer.Option(help="Galaxies at a time: memory and speed, never the numbers.")] = 64,
    arch: Arch = None,
    contract: Contract = None,
    latent: Annotated[str | None, typer.Option(help="Module whose input is the latent vector.")] = None,
    exposure: ExposureFile = None,
    label_column: LabelColumn = "label",
    masked: Masked = None,
    bands: Bands = None,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Evaluation seed.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Run directory; resumed if it holds the same run.")] = None,
    as_json: Json = False,
) -> None:
    """Run every perturbation of a suite: a table, and accuracy as one heat map."""
    from robustastro import commands, suites

    chosen = suites.load(suite)
    steps = chosen.steps()
    reading = {"exposure": exposure, "label_column": label_column, "masked": masked, "bands": bands}
    with shown() as progress:
        record = commands.attack(
            steps, model, data, reading, arch=arch, contract=contract, latent=latent, limit=limit, batch=batch_size,
            device=device, seed=seed, out=out, progress=progress, suite=chosen, fit_data=fit_data,
        )  # fmt: skip
    made = commands.draw(record, ("heatmap",))
    say(f"figure {made[0]}" if made else "no heat map: it takes three perturbations at rungs, and labelled galaxies")
    result = commands.suite_result(record, chosen.name)
    print(json.dumps(result, indent=1) if as_json else commands.attack_text(record, result))


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run directories of two or more arms (method and architecture).")],
    baseline: Annotated[str | None, typer.Option(help="Arm to compare with; default: the method none.")] = None,
    confidence: Annotated[float, typer.Option(help="Of the intervals and verdicts.")] = 0.95,
    as_json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="The table as Markdown.")] = False,
) -> None:
    """Say which arm is more robust, on the same galaxies. Models of one method and architecture are training seeds."""
    if as_json and markdown:
        raise InputError("compare --json --markdown", "one of them", "drop one")
    from robustastro.metrics.comparison import compare as compared
    from robustastro.metrics.tables import comparison_table
    from robustastro.record import Record

    with shown() as progress:
        result = compared([Record.open(run) for run in runs], baseline, confidence, progress=progress)
    print(json.dumps(result, indent=1) if as_json else comparison_table(result, markdown), end="\n" if as_json else "")


@app.command()
def gate(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    rules: Annotated[Path | None, typer.Option(help="Rules to keep (.toml); docs/gate.md explains them.")] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="Run of an earlier model on the same galaxies, for no_worse_than_baseline.")
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Write the checks as JUnit XML.")] = None,
    summary: Annotated[Path | None, typer.Option(help="Write the verdict as Markdown.")] = None,
    init: Annotated[bool, typer.Option("--init", help="Print a first rules file, made from the run.")] = False,
    as_json: Json = False,
) -> None:
    """Judge a run by rules. Exit status 0: it keeps them; 1: it does not; 2: it cannot be judged."""
    from robustastro.record import Record, refuse_place, refuse_run

    if init == (rules is not None) or (init and (baseline or junit or summary or as_json)):
        raise InputError(
            f"gate {'--init with other options' if init else 'without --rules'}",
            "gate RUN --rules FILE with its options, or gate --init RUN alone",
            "make a first rules file with robustastro gate --init RUN",
        )
    places = [place for place in (junit, summary) if place is not None]
    for place, suffix in zip(places, ("*.xml", "*.md") if junit else ("*.md",), strict=False):
        refuse_place(place, folder=False)
        refuse_run(place, suffix)
    named = [place.resolve() for place in (*places, rules) if place is not None]
    if len(set(named)) < len(named):
        raise InputError("one file named twice", "a file for each of --rules, --junit and --summary", "rename one")
    record = Record.open(run)
    if rules is None:
        from robustastro.gate.first import first_rules

        print(first_rules(record), end="")
        return
    from robustastro.gate import summary as page
    from robustastro.gate.rules import load
    from robustastro.gate.verdict import judge

    verdict = judge(record, load(rules), None if baseline is None else Record.open(baseline))
    print(json.dumps(verdict.to_dict(), indent=1) if as_json else page.text(verdict), end="\n" if as_json else "")
    page.publish(verdict, junit, summary)
    if verdict.status != "pass":
        raise typer.Exit(1)


@app.command()
def figure(
    name: Annotated[str, typer.Argument(help="See robustastro list figures.")],
    runs: Annotated[list[Path], typer.Argument(help="Run directories; several are drawn together.")],
    out: Annotated[Path, typer.Option(help="File to write, .pdf or .png.")],
) -> None:
    """Draw a figure from one or more runs."""
    from robustastro import figures
    from robustastro.figures.style import save
    from robustastro.record import Record

    save(figures.get(name).figure([Record.open(run) for run in runs]), out)
    print(out)


@app.command("export")
def export_(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    format: Annotated[
        str | None, typer.Option(help="parquet, fits, ecsv or csv; default: what --out ends in, else parquet.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write; default: catalogue.FORMAT in the run.")] = None,
    perturbation: Annotated[list[str] | None, typer.Option(help="Only this one; repeatable. Default: all.")] = None,
    as_json: Json = False,
) -> None:
    """Write a run as a table of galaxies for TOPCAT, astropy or pandas: classes, probabilities, distances."""
    from robustastro import export

    result = export.export(run, format, out, perturbation or ())
    print(json.dumps(result, indent=1) if as_json else export.text(result))


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories; several are compared, where they can be.")],
    out: Annotated[Path, typer.Option(help="Directory for index.md, index.html, report.json and figures.")],
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "Robustness report",
    baseline: Annotated[str | None, typer.Option(help="Arm to compare with; default: the method none.")] = None,
    as_json: Json = False,
) -> None:
    """Write runs as a page, in Markdown and HTML: tables, figures, comparison, flags, plan and hashes."""
    from robustastro import report as reporting
    from robustastro.record import Record

    with shown() as progress:
        records = [Record.open(run) for run in runs]
        result = reporting.write(records, out, title=title, baseline=baseline, progress=progress)
    print(json.dumps(result, indent=1) if as_json else out / "index.html")


@app.command()
def reproduce(
    study: Annotated[str, typer.Argument(help="deepmerge2, deepadversaries or deepastrouda.")],
    quick: Annotated[bool, typer.Option("--quick", help="Few galaxies, one seed: only to see that it runs.")] = False,
    data: Annotated[str | None, typer.Option("--data", help="Folder of the authors' files; default: mocks.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Trainings of each method; default: 5, with --quick 1.")] = None,
    methods: Annotated[str, typer.Option(help="Only these, by commas: METHOD, BED or BED-METHOD; default: all.")] = "",
    archs: Annotated[str, typer.Option(help="Only these, separated by commas; default: all of the study.")] = "",
    hours: Annotated[float | None, typer.Option(help="Begin no training that would end later.")] = None,
    workers: Annotated[int, typer.Option(help="Trainings side by side, in processes that share the cores.")] = 1,
    out: Annotated[
        Path | None, typer.Option(help="Directory, resumed if it holds the same study; default: reports/STUDY.")
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Do a published study again: our table beside the published figures. Exit status 1: a training failed."""
    from robustastro import reproduce as studies
    from robustastro.record import refuse_place

    module = studies.get(study)
    place = out or Path("reports") / (f"{study}-quick" if quick else study)
    refuse_place(place, folder=True)
    from robustastro.reproduce.programme import Asked  # torch comes with it

    asked = Asked(place, quick, data, seeds, _split(methods), _split(archs), hours, workers, device)
    with shown() as progress:
        result = module.run(asked, progress)
    print(json.dumps(result, indent=1) if as_json else place / "index.md")
    if result["failed"]:
        raise typer.Exit(1)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Directory for figures, page, bundles and runs.")] = Path("reports/demo"),
    train: Annotated[
        bool, typer.Option("--train", help="Train the models, some minutes; default: those that come along (zoo).")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="A tenth of the galaxies: only to see that it runs.")] = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Attack models with and without adaptation on simulated galaxies, measure, draw: two minutes on two cores."""
    from robustastro import demo as demonstration
    from robustastro.record import refuse_place

    refuse_place(out, folder=True)

    with shown() as progress:
        result = demonstration.run(out, quick=quick, train=train, device=device, progress=progress)
    print(json.dumps(result, indent=1) if as_json else demonstration.text(out))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    # --debug is welcome anywhere, not only before the command
    arguments = [a for a in arguments if a != "--debug"]
    try:
        sys.exit(app(arguments, standalone_mode=True))
    except SystemExit as end:
        if end.code == 130:  # typer takes the interruption for itself
            say("robustastro: interrupted; what is finished is kept, and the same command goes on from there")
        raise
    except InputError as problem:
        if debug:
            raise
        say(f"robustastro: {problem}")
        sys.exit(2)
    except BrokenPromise as problem:
        if debug:
            raise
        say(f"robustastro: broken promise: {problem}")
        sys.exit(3)
    except Exception as problem:
        if debug:
            raise
        text = " ".join(str(problem).split())[:300]
        say(f"robustastro: a fault of ours, please report it: {type(problem).__name__}: {text} (--debug shows where)")
        sys.exit(3)


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
