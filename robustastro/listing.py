"""What `robustastro list` prints."""

from __future__ import annotations

from typing import Any

from perturbations.errors import unknown_name

WHAT = ("perturbations", "models", "surveys", "methods", "figures")


def rows(what: str) -> list[dict[str, Any]]:
    """One dictionary per entry.

    Raises
    ------
    InputError : nothing of that name can be listed.
    """
    if what == "perturbations":
        from perturbations.core import catalogue

        return [entry.facts() for entry in catalogue().values()]
    if what == "models":
        from robustastro.models.nets import ARCHITECTURES

        return [{"name": name, "description": _first_line(net)} for name, net in ARCHITECTURES.items()]
    if what == "surveys":
        return _surveys()
    if what == "methods":
        from robustastro.adapt import METHODS

        return [
            {"name": m.name, "needs_target": m.needs_target, "options": dict(m.options), "source": m.source}
            for m in METHODS.values()
        ]
    if what == "figures":
        from robustastro.figures import FIGURES

        return [{"name": name, "description": text} for name, text in FIGURES.items()]
    raise unknown_name("list", what, WHAT)


def text(what: str, entries: list[dict[str, Any]]) -> str:
    """The same for people, a line each."""
    return "\n".join(_line(what, entry) for entry in entries)


def _line(what: str, entry: dict[str, Any]) -> str:
    if what == "perturbations":
        unit = "" if entry["unit"] == "1" else f" [{entry['unit']}]"
        ladder = " ".join(f"{rung:g}" for rung in entry["ladder"])
        return f"{entry['family']:14} {entry['name']:14} {entry['space']:6} {entry['parameter']}{unit}: {ladder}"
    if what == "surveys":
        return f"{entry['name']:15} {entry['pixel_scale']:.3f} arcsec/px  bands {', '.join(entry['bands'])}"
    if what == "methods":
        options = ", ".join(f"{k} = {v:g}" for k, v in entry["options"].items()) or "no options"
        return f"{entry['name']:6} {options}  ({entry['source']})"
    return f"{entry['name']:12} {entry['description']}"


def _surveys() -> list[dict[str, Any]]:
    import surveycodex

    known = [surveycodex.get_survey(name) for name in sorted(surveycodex.available_surveys)]
    return [
        {
            "name": survey.name,
            "description": survey.description,
            "pixel_scale": float(str(survey.pixel_scale.to_value("arcsec"))),
            "bands": list(survey.available_filters),
        }
        for survey in known
    ]


def _first_line(thing: Any) -> str:
    return (thing.__doc__ or "").strip().partition("\n")[0]
