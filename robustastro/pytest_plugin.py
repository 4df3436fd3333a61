"""Check the robustness of a model in a test suite: `assert_robust`, and the fixture `robustness` that keeps the runs.

pytest loads this module in every session of an environment, so it imports nothing heavy.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from perturbations.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from robustastro.contract import InputContract
    from robustastro.data.galaxies import Galaxies
    from robustastro.models.bundles import Model
    from robustastro.record import Record


def assert_robust(
    model: str | Path | Model | nn.Module,
    data: str | Path | Galaxies | None,
    perturbation: str,
    *,
    min_accuracy: float | None = None,
    min_worst_class: float | None = None,
    max_drop: float | None = None,
    max_success_rate: float | None = None,
    min_boundary_distance: float | None = None,
    min_boundary_distance_scaled: float | None = None,
    no_worse_than_baseline: float | None = None,
    over: Literal["mean", "worst"] | None = None,
    severity: int | None = None,
    strength: float | None = None,
    options: Mapping[str, Any] | None = None,
    limit: int | None = None,
    seed: int = 0,
    contract: InputContract | str | Path | None = None,
    confidence: float = 0.95,
    on_uncertain: Literal["pass", "fail", "warn"] = "pass",
    allow_flags: Sequence[str] = (),
    baseline: str | Path | Record | None = None,
    out: str | Path | None = None,
    runs: str | Path | None = None,
    device: str = "cpu",
) -> Record:
    """Run a perturbation on a model, and judge the run as `robustastro gate` does: same limits, same intervals.

    Parameters
    ----------
    model : a bundle, a loaded Model, or a network with its `contract` (an InputContract or its TOML file).
    data : a file, or Galaxies; of galaxies that the model was trained on, the test split is used. None: the test data
        that the bundle names.
    perturbation : a name of the catalogue, over its whole ladder or at one `severity` or `strength`, with `options`.
    min_accuracy ... no_worse_than_baseline : limits, fractions or distances; see docs/gate.md. At least one.
    over : "mean" or "worst": judge all rungs as one; without it each rung is judged.
    limit : at most so many galaxies, chosen by key.
    seed : evaluation seed.
    confidence : of the two-sided interval that a limit is compared with.
    on_uncertain : what becomes of a limit that lies within the interval; "warn" passes with a warning.
    allow_flags : codes of flags with which the run may still pass.
    baseline : an earlier run of the same galaxies, for no_worse_than_baseline.
    out : run directory; of a model file, resumed if it holds the same run. A network in memory is run again every time:
        nothing says whether its code is still the same.
    runs : folder in which the run of a model file gets a directory of its own, and is resumed. Without `out` and `runs`
        the directory is a temporary one, gone with the returned record.
    device : auto, cpu, cuda or cuda:N.

    Returns
    -------
    The record of the run.

    Raises
    ------
    AssertionError : the verdict is no; its text is the table of the gate.
    InputError : there is nothing to judge, or not with these arguments.
    """
    __tracebackhide__ = True
    rule = {
        "perturbation": perturbation,
        "severity": severity,
        "strength": strength,
        "over": over,
        "min_accuracy": min_accuracy,
        "min_worst_class": min_worst_class,
        "max_drop": max_drop,
        "max_success_rate": max_success_rate,
        "min_boundary_distance": min_boundary_distance,
        "min_boundary_distance_scaled": min_boundary_distance_scaled,
        "no_worse_than_baseline": no_worse_than_baseline,
    }
    try:
        from robustastro.gate import rules, summary, verdict
        from robustastro.record import Record

        wanted = rules.of(
            {
                "schema": 1,
                "confidence": confidence,
                "on_uncertain": on_uncertain,
                "allow_flags": tuple(allow_flags),
                "rule": [{name: value for name, value in rule.items() if value is not None}],
            },
            "of assert_robust",
        )
        if (baseline is None) != (no_worse_than_baseline is None):  # before the run, which may take long
            raise InputError(
                "one of baseline and no_worse_than_baseline", "both or none", "give a run and a margin, or drop one"
            )
        if isinstance(baseline, (str, Path)):
            baseline = Record.open(baseline)
        record = _attack(
            model, data, perturbation, severity=severity, strength=strength, options=options, limit=limit, seed=seed,
            contract=contract, out=out, runs=runs, device=device,
        )  # fmt: skip
        judged = verdict.judge(record, wanted, baseline)
    except InputError as problem:
        raise problem.with_traceback(None) from None  # one line says it; where in this package helps nobody
    table = summary.text(judged)
    if judged.status != "pass":
        raise AssertionError(f"{perturbation}: not robust\n{table}")
    print(table)
    if any(check.counted_as == "warn" for check in judged.checks):
        warnings.warn(f"{perturbation}: uncertain\n{table}", UserWarning, stacklevel=2)
    return record


@dataclass(frozen=True)
class Robustness:
    """The fixture `robustness`: runs of model files are kept in a folder, and resumed by a next session."""

    runs: Path
    device: str = "cpu"

    def assert_robust(self, model: Any, data: Any, perturbation: str, **arguments: Any) -> Record:
        """As the function `assert_robust`, with the folder and the device of the session."""
        __tracebackhide__ = True
        return assert_robust(model, data, perturbation, **{"runs": self.runs, "device": self.device, **arguments})

    def attack(self, model: Any, data: Any, perturbation: str, **arguments: Any) -> Record:
        """The record of such a run, unjudged; the arguments are those of `assert_robust` that are not about judging."""
        __tracebackhide__ = True
        try:
            return _attack(model, data, perturbation, **{"runs": self.runs, "device": self.device, **arguments})
        except InputError as problem:
            raise problem.with_traceback(None) from None


@pytest.fixture(scope="session")
def robustness(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Robustness:
    """`assert_robust` and `attack` whose runs are kept and resumed: in --robustness-runs, or else in pytest's cache."""
    config = request.config
    if given := config.getoption("--robustness-runs"):
        runs = config.invocation_params.dir / given
    elif given := config.getini("robustness_runs"):
        runs = config.rootpath / given
    elif config.pluginmanager.hasplugin("cacheprovider"):
        runs = config.cache.mkdir("robustastro")  # pyright: ignore[reportOptionalMemberAccess]
    else:
        runs = tmp_path_factory.mktemp("robustastro")
    return Robustness(Path(runs), str(config.getoption("--robustness-device")))


def pytest_addoption(parser: pytest.Parser) -> None:
    """--robustness-runs, also as robustness_runs of the ini file, and --robustness-device."""
    group = parser.getgroup("robustastro")
    group.addoption("--robustness-runs", metavar="DIR", help="Where the fixture robustness keeps and resumes runs.")
    group.addoption("--robustness-device", metavar="DEVICE", default="cpu", help="auto, cpu, cuda or cuda:N.")
    parser.addini("robustness_runs", "As --robustness-runs.", default="")


def _attack(
    model: Any,
    data: Any,
    perturbation: str,
    *,
    severity: int | None = None,
    strength: float | None = None,
    options: Mapping[str, Any] | None = None,
    limit: int | None = None,
    seed: int = 0,
    contract: Any = None,
    out: str | Path | None = None,
    runs: str | Path | None = None,
    device: str = "cpu",
) -> Record:
    from robustastro import commands
    from robustastro.evaluate.engine import choose, fitting_set, unseen
    from robustastro.evaluate.plan import step
    from robustastro.progress import shown

    steps = [step(perturbation, severity=severity, strength=strength, options=options or {})]
    in_a_file = isinstance(model, (str, Path))
    if out is not None and not in_a_file and (Path(out) / "run.json").exists():
        raise InputError(
            f"{out} holds a run, and nothing says whether a network in memory is still the one of that run",
            "an empty directory, for instance below tmp_path",
            "name another one as out, or give the model as a file",
        )
    model = _loaded(model, contract)
    validation, folder, temporary = None, Path(runs or "runs"), None
    with shown() as progress:
        if data is None or isinstance(data, (str, Path)):
            if data is None and not model.data:
                raise InputError("data = None, and the model names none", "a file, or Galaxies", "give the data")
            galaxies, validation = commands.test_data(model, None if data is None else str(data), {}, progress)
        else:
            galaxies = unseen(model, data)
        galaxies = choose(galaxies.with_classes(model.contract.classes), limit)
        fitting = fitting_set(steps, model, galaxies, validation)
        if out is None and (runs is None or not in_a_file):
            out = temporary = Path(tempfile.mkdtemp(prefix="robustastro-")) / "run"
        try:
            record = commands.run(
                steps, model, galaxies, None if out is None else Path(out), seed=seed, limit=limit, device=device,
                progress=progress, validation=validation, fitting=fitting, folder=folder,
            )  # fmt: skip
        except BaseException:
            if temporary:
                shutil.rmtree(temporary.parent, ignore_errors=True)
            raise
    if temporary:
        weakref.finalize(record, shutil.rmtree, temporary.parent, ignore_errors=True)
    return record


def _loaded(model: Any, contract: Any) -> Model:
    """A Model of a file, of a network in memory with its contract, or as it is."""
    from torch import nn

    from robustastro.contract import InputContract
    from robustastro.models.bundles import Model, load_model
    from robustastro.models.subject import Subject

    if isinstance(model, nn.Module):
        if contract is None:
            raise InputError(
                f"a {type(model).__name__} without a contract",
                "an InputContract, or its TOML file (docs/your-own-model.md)",
                "give it as contract",
            )
        given = contract if isinstance(contract, InputContract) else InputContract.from_toml(contract)
        name = type(model).__qualname__
        return Model(model, given, name, name, Subject(model, given).fingerprint())
    if contract is not None:
        raise InputError("contract with a model that has one", "a contract with a network in memory", "leave it out")
    if isinstance(model, (str, Path)):
        return load_model(model)
    if isinstance(model, Model):
        return model
    raise InputError(
        f"a model of type {type(model).__name__}", "a bundle's path, a Model or a torch.nn.Module", "pass one of these"
    )
