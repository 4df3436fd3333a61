"""What `robustastro list` prints."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from perturbations.errors import unknown_name
from robustastro.metrics.tables import estimate_text, unit_text

WHAT = ("perturbations", "suites", "models", "surveys", "methods", "figures")
FAMILIES = ("observing", "transients", "detector", "preprocessing", "compression", "attacks")


def rows(what: str) -> list[dict[str, Any]]:
    """One dictionary per entry.

    Raises
    ------
    InputError : nothing of that name can be listed.
    """
    if what == "perturbations":
        from perturbations.core import catalogue

        return sorted((entry.facts() for entry in catalogue().values()), key=_order)
    if what == "suites":
        from robustastro import suites

        found = [suites.load(name) for name in suites.names()]
        return [
            {"name": s.name, "description": s.description, "perturbations": [entry.name for entry in s.perturbation]}
            for s in found
        ]
    if what == "models":
        return _models()
    if what == "surveys":
        return _surveys()
    if what == "methods":
        from robustastro.adapt import METHODS

        return [
            {
                "name": m.name,
                "needs_target": m.needs_target,
                "options": dict(m.options),
                "source": m.source,
                "control": m.control,
                "target_labels": m.target_labels,
                "tuned": m.tuned,
            }
            for m in METHODS.values()
        ]
    if what == "figures":
        from robustastro.figures import FIGURES

        return [{"name": name, "description": text} for name, text in FIGURES.items()]
    raise unknown_name("list", what, WHAT)


def text(what: str, entries: list[dict[str, Any]]) -> str:
    """The same for people, a line each; perturbations under their family, attacks of other libraries by norm."""
    if what != "perturbations":
        return "\n".join(_line(what, entry) for entry in entries)
    lines, family = [], None
    for entry in own(entries):
        if entry["family"] != family:
            family = entry["family"]
            lines += ["", family] if lines else [family]
        lines.append(_line(what, entry))
    return "\n".join(lines + _of_libraries(entries))


def own(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries that are not attacks of another library, which are called `library:NAME`."""
    return [entry for entry in entries if ":" not in entry["name"]]


def _of_libraries(entries: list[dict[str, Any]]) -> list[str]:
    names: dict[str, dict[str, list[str]]] = {}
    for entry in entries:
        library, colon, name = entry["name"].partition(":")
        if colon:
            names.setdefault(library, {}).setdefault(entry["norm"], []).append(name)
    lines = []
    for library, norms in names.items():
        lines += ["", f"attacks of {library}, as {library}:NAME (docs/attacks-from-libraries.md)"]
        for norm, known in sorted(norms.items()):
            lines += textwrap.wrap(", ".join(known), 110, initial_indent=f"  {norm:6}", subsequent_indent=" " * 8)
    return lines


def page(entries: list[dict[str, Any]]) -> str:
    """The perturbations as a page of documentation, from what they say of themselves."""
    from importlib.resources import files

    import jinja2

    template = (files("robustastro") / "templates" / "perturbations.md.j2").read_text()
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    families: dict[str, list[dict[str, Any]]] = {}
    for entry in own(entries):
        families.setdefault(entry["family"], []).append(entry)
    return environment.from_string(template).render(families=families, unit=unit_text, ladder=ladder_text)


def ladder_text(entry: Mapping[str, Any]) -> str:
    """The rungs of a ladder, mild to severe: "0.2, 0.4, 0.6"."""
    return ", ".join(f"{rung:g}" for rung in entry["ladder"])


def _order(entry: Mapping[str, Any]) -> tuple[int, str, str]:
    """Families as light meets them, those of other packages after ours."""
    family = entry["family"]
    return FAMILIES.index(family) if family in FAMILIES else len(FAMILIES), family, entry["name"]


def _line(what: str, entry: dict[str, Any]) -> str:
    if what == "perturbations":
        unit = f" [{unit_text(entry['unit'])}]" if unit_text(entry["unit"]) else ""
        return f"  {entry['name']:26} {entry['space']:8} {entry['parameter']}{unit}: {ladder_text(entry)}"
    if what == "suites":
        return f"{entry['name']:12} {len(entry['perturbations']):2} perturbations. {entry['description']}"
    if what == "surveys":
        return f"{entry['name']:15} {entry['pixel_scale']:.3f} arcsec/px  bands {', '.join(entry['bands'])}"
    if what == "methods":
        options = ", ".join(f"{k} = {v if isinstance(v, str) else f'{v:g}'}" for k, v in entry["options"].items())
        kind = "upper bound" if entry["target_labels"] else "control" if entry["control"] else "adaptation"
        return f"{entry['name']:18} {kind:12} {options or 'no options'}  ({entry['source']}; tuned {entry['tuned']})"
    if what == "models" and entry["kind"] == "trained":
        found = entry["card"]["accuracy"]
        accuracy = ", ".join(f"{domain} {estimate_text(found[domain], 100.0, 1)}%" for domain in found)
        flags = "".join(f" Flag {flag['code']}." for flag in entry["card"]["flags"])
        return f"{entry['name']}\n{'':12} {entry['description']} Accuracy {accuracy}.{flags}"
    return f"{entry['name']:12} {entry['description']}"


def _models() -> list[dict[str, Any]]:
    """Architectures, and the trained models that come with the package with their cards."""
    from robustastro.models import zoo
    from robustastro.models.nets import ARCHITECTURES

    networks = [
        {"name": name, "description": _first_line(net), "kind": "architecture"} for name, net in ARCHITECTURES.items()
    ]
    trained = [
        {"name": zoo.PREFIX + name, "description": card["description"], "kind": "trained", "card": card}
        for name, card in zoo.cards().items()
    ]
    return networks + trained


def _surveys() -> list[dict[str, Any]]:
    import surveycodex

    from perturbations.surveys import survey_bands, survey_exposure, survey_names

    known = [surveycodex.get_survey(name) for name in sorted(surveycodex.available_surveys)]
    own = [name for name in survey_names() if name not in surveycodex.available_surveys]
    listed = [
        {
            "name": survey.name,
            "description": survey.description,
            "pixel_scale": float(str(survey.pixel_scale.to_value("arcsec"))),
            "bands": list(survey.available_filters),
        }
        for survey in known
    ]
    for name in own:
        bands = survey_bands(name)
        scale = survey_exposure(name, bands).pixel_scale
        listed.append(
            {"name": name, "description": "numbers in perturbations.surveys", "pixel_scale": scale, "bands": bands}
        )
    return sorted(listed, key=lambda survey: survey["name"])


def _first_line(thing: Any) -> str:
    return (thing.__doc__ or "").strip().partition("\n")[0]
