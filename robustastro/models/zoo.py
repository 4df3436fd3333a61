"""The zoo: small trained models that come with the package, called zoo:NAME wherever a model file is asked for.

Beside the bundles in `robustastro/zoo` lies cards.json: how each was trained, and its accuracies as it is stored.
Nothing here needs torch.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from perturbations.errors import unknown_name
from robustastro.progress import say

PREFIX = "zoo:"
HERE = Path(__file__).parents[1] / "zoo"
PLAIN = {"noda.pt": "lsst-convnet-none", "dann.pt": "lsst-convnet-dann"}  # names in the papers' and our examples


def cards() -> dict[str, dict[str, Any]]:
    """The card of each model of the zoo, by its name."""
    return json.loads((HERE / "cards.json").read_text(encoding="utf-8"))["models"]


def resolve(given: str | Path) -> tuple[str, Path]:
    """What a model is called and its file: of zoo:NAME that name and the bundle of the zoo, else the path itself.

    The plain names noda.pt and dann.pt, where there is no such file, are models of the zoo, which is said.

    Raises
    ------
    InputError : no model of that name in the zoo.
    """
    given = str(Path(given))
    if given in PLAIN and not os.path.lexists(given):
        say(f"no file {given} here: taking {PREFIX}{PLAIN[given]}, which comes with robustastro")
        given = PREFIX + PLAIN[given]
    if not given.startswith(PREFIX):
        return given, Path(given)
    name = given.removeprefix(PREFIX)
    if name not in cards():
        raise unknown_name("model of the zoo", name, cards(), "See robustastro list models")
    return given, HERE / f"{name}.pt"
