"""What run.json must hold before anything is made of it: a record may be old, cut short or edited by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from perturbations.errors import InputError

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Text = Annotated[str, Field(strict=True)]


class Flag(BaseModel):
    code: Text
    message: Text
    remedy: Text


class Rung(BaseModel):
    strength: Number
    severity: int | None


class Perturbation(BaseModel):
    name: Annotated[Text, Field(min_length=1)]
    kind: Text
    parameter: Text
    unit: Text
    ladder: list[Number]
    identity: Number | None
    options: dict[str, Any] = {}
    rungs: Annotated[list[Rung], Field(min_length=1)]


class Contract(BaseModel):
    classes: Annotated[list[Text], Field(min_length=1)]


class Model(BaseModel):
    name: Text


class Run(BaseModel):
    schema_: Annotated[int, Field(alias="schema", ge=1)]
    model: Model
    data: dict[str, Any]
    contract: Contract
    perturbations: list[Perturbation]
    flags: list[Flag]


def read(path: Path, newest: int) -> dict[str, Any]:
    """The document of a run.json.

    Raises
    ------
    InputError : no such file, no JSON, a newer schema, or an entry that is missing or of another kind.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(document, ensure_ascii=False).encode()  # half of a surrogate pair is JSON, and no text
        if isinstance(document, dict) and isinstance(document.get("schema"), int) and document["schema"] > newest:
            wrong = f"{path.parent} has schema {document['schema']}"
            raise InputError(wrong, f"schema {newest} or older", "upgrade robustastro")
        Run.model_validate(document)
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as problem:
        why = str(problem)[:200]
        if isinstance(problem, ValidationError):
            first = problem.errors()[0]
            why = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
        raise InputError(
            f"{path.parent} holds no readable run.json ({why})", "a run directory", "name a directory given as --out"
        ) from None
    return document
