"""Runs of the same models in several domains, sorted for a figure: by model, or by method and training."""

from __future__ import annotations

from collections.abc import Sequence

from perturbations.errors import InputError
from robustastro.figures.style import model_names
from robustastro.record import Record


def domain_of(record: Record) -> str:
    """What the images of a run are of, such as "LSST Y10"."""
    return str(record.run["data"]["domain"])


def by_model(records: Sequence[Record], names: Sequence[str] | None = None) -> list[tuple[str, list[Record]]]:
    """Models in the order of the runs, each with its name and its runs, the source first as given.

    Parameters
    ----------
    names : one for each run; a model has that of its first run.

    Raises
    ------
    InputError : no run, not one name each, or a model twice in one domain.
    """
    given = model_names(records, names) if names is not None or not records else [""] * len(records)
    found: dict[str, list[Record]] = {}
    called: dict[str, str] = {}
    for record, name in zip(records, given, strict=True):
        key = str(record.run["model"].get("sha256") or record.run["model"]["name"])
        called.setdefault(key, name)
        if domain_of(record) in map(domain_of, found.setdefault(key, [])):
            raise InputError(
                f"two runs of {record.run['model']['name']} on {domain_of(record)}", "each domain once for each model",
                "leave one of the runs out",
            )  # fmt: skip
        found[key].append(record)
    if names is None:
        own = model_names([runs[0] for runs in found.values()])
        called = dict(zip(found, own, strict=True))
    return [(called[key], runs) for key, runs in found.items()]


def by_domain(
    records: Sequence[Record], names: Sequence[str] | None = None
) -> list[tuple[str, list[tuple[str, list[Record]]]]]:
    """Domains in the order of the runs, in each the methods with the runs of their trainings.

    Parameters
    ----------
    names : one for each run; runs of one name and domain are trainings of one method. Default: method, or the model's
        name where there is none, and the architecture where a method has several.

    Raises
    ------
    InputError : no run, or not one name each.
    """
    if names is None and records:
        about = [record.run["model"] for record in records]
        methods = [(str(a.get("method") or a["name"]), a.get("arch")) for a in about]
        called = [
            f"{method} ({arch})" if len({a for m, a in methods if m == method}) > 1 else method
            for method, arch in methods
        ]
    else:
        called = model_names(records, names)
    found: dict[str, dict[str, list[Record]]] = {}
    for record, name in zip(records, called, strict=True):
        found.setdefault(domain_of(record), {}).setdefault(name, []).append(record)
    return [(domain, list(methods.items())) for domain, methods in found.items()]
