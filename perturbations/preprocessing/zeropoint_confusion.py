"""Flux in the wrong unit: the zero-point of another survey, system or stack before the frozen stretch."""

import torch

from perturbations.core import Unstretched, corruption
from perturbations.draws import Draws
from perturbations.errors import InputError


@corruption(
    space="stretch",
    parameter="zero-point error",
    unit="mag",
    ladder=(0.1, 0.37, 0.75, 1.25, 2.5),
    identity=0.0,
    source="our choice: 0.1 a calibration never applied; 0.37 Vega taken for AB in i (Blanton & Roweis 2007, AJ 133, "
    "734); 0.75 the sum of two exposures taken for their mean; 2.5 the sum of ten years taken for the mean of one",
    version=1,
)
def zeropoint_confusion(raw: Unstretched, error: float, draws: Draws, *, brighter: bool = True) -> torch.Tensor:
    """Multiply all values, noise too, by 10^(0.4 error) (or divide by it) before the model's frozen stretch.

    The sky did not change, only the numbers: there is no new noise. For a change of the transparency, take a flux
    perturbation.

    Parameters
    ----------
    raw : flux or display values (N, C, H, W), and the model's stretch. Not modified.
    error : 0 to 25 mag.
    draws : not used; the same mistake is made for every galaxy.
    brighter : whether the galaxies come out too bright, or too faint.

    Returns
    -------
    Images in input space, [0, 1].

    Raises
    ------
    InputError : an error outside 0 to 25 mag.
    """
    if not 0.0 <= error <= 25.0:
        raise InputError(
            f"zeropoint_confusion: error = {error:g} mag",
            "0 <= error <= 25",
            "for galaxies that come out too faint, set brighter = false",
        )
    return raw.stretch(raw.images * 10.0 ** (0.4 * error if brighter else -0.4 * error))
