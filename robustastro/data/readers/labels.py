"""Labels as people store them (names, integers, one-hot rows) to positions in a list of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from perturbations.errors import InputError, unknown_name

MOST = 10_000  # more classes than this are a column of something else


def coded(
    values: Any, names: Sequence[str] | None, wanted: Sequence[str] | None, where: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels (N,) int64 and the names of the classes.

    Parameters
    ----------
    values : (N,) names, integers (or floats that are whole), or (N, K) one-hot rows.
    names : the file's names of the classes, or None. Without any, names are sorted and integers are "class 0", ...
    wanted : the names in the order wanted, or None.
    where : the file, for errors.

    Raises
    ------
    InputError : a label that is missing, not whole, negative or not among the classes; rows that are not one-hot.
    """
    array = _plain(values, where)
    if array.ndim == 2 and array.shape[1] > 1:
        array = _from_one_hot(array, names or wanted, where)
    elif array.ndim == 2:
        array = array[:, 0]
    if array.ndim != 1:
        raise InputError(f"{where}: labels of shape {array.shape}", "(N,) or one-hot (N, K)", "check the label array")
    if array.dtype.kind == "U":
        if (array == "").any():
            raise _missing(where)
        order = tuple(wanted or names or sorted(set(array.tolist())))
        place = {name: k for k, name in enumerate(order)}
        strange = next((label for label in array.tolist() if label not in place), None)
        if strange is not None:
            error = unknown_name("label", strange, order, "Rename the labels, or drop these galaxies")
            raise InputError(f"{where}: {error.wrong}", f"the classes are {', '.join(order)}", error.remedy)
        return np.array([place[label] for label in array.tolist()], dtype=np.int64), order
    codes = _whole(array, where)
    own = tuple(names or wanted or (f"class {k}" for k in range(int(codes.max(initial=0)) + 1)))
    if len(codes) and codes.max() >= len(own):
        raise InputError(
            f"{where}: label {codes.max()}",
            f"0 to {len(own) - 1} ({', '.join(own)})",
            "give as many classes as there are labels",
        )
    if wanted is not None and tuple(wanted) != own:
        return coded(np.array(own)[codes], None, wanted, where)
    return codes, own


def _plain(values: Any, where: str) -> np.ndarray:
    """An array of numbers, or of str."""
    if isinstance(values, pd.Series) or np.asarray(values).dtype.kind == "O":
        series = pd.Series(values)
        if series.isna().any():
            raise _missing(where)
        values = [v.decode() if isinstance(v, bytes) else v for v in series.tolist()]
    array = np.asarray(values)
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8")
    if array.dtype.kind not in "buifU":
        raise InputError(
            f"{where}: labels of dtype {array.dtype}", "names, integers or one-hot rows", "convert the labels"
        )
    return np.char.strip(array) if array.dtype.kind == "U" else array


def _from_one_hot(rows: np.ndarray, names: Sequence[str] | None, where: str) -> np.ndarray:
    if rows.dtype.kind == "U" or not (np.isin(rows, (0, 1)).all() and (rows.sum(axis=1) == 1).all()):
        raise InputError(
            f"{where}: label rows of {rows.shape[1]} values that are not one-hot",
            "a single 1 and zeros in every row",
            "choose one class per galaxy, or keep fractions as catalogue columns",
        )
    if names is not None and len(names) != rows.shape[1]:
        raise InputError(
            f"{where}: one-hot labels of {rows.shape[1]} classes",
            f"{len(names)} ({', '.join(names)})",
            "correct the classes",
        )
    return np.argmax(rows, axis=1)


def _whole(array: np.ndarray, where: str) -> np.ndarray:
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise _missing(where)
    if array.dtype.kind == "f" and (array != np.floor(array)).any():
        value = array[array != np.floor(array)][0]
        raise InputError(f"{where}: label {value:g}", "names or whole numbers", "choose another label column")
    if len(array) and not (array.min() >= 0 and array.max() < MOST):
        value = array.min() if array.min() < 0 else array.max()
        raise InputError(f"{where}: label {value:g}", f"0 to {MOST - 1}", "number the classes from 0, or name them")
    return array.astype(np.int64)


def _missing(where: str) -> InputError:
    return InputError(f"{where}: a galaxy has no label (empty or NaN)", "one label per galaxy", "label it or drop it")
