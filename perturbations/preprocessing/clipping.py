"""A harder clip before the stretch: the core of the galaxy becomes a plateau."""

import torch

from perturbations.core import Unstretched, corruption
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.percentiles import percentiles


@corruption(
    space="stretch",
    parameter="upper percentile of the clip, per image and band",
    unit="percent",
    ladder=(99.9, 99.5, 99.0, 98.0, 95.0),
    identity=100.0,
    source="99.9: Ciprijanovic et al. 2022, arXiv:2112.14299 (there of all images together); beyond it our choice: the "
    "brightest 0.5 to 5 percent of a cutout, from a galaxy's core to most of its disc",
    version=1,
)
def clipping(raw: Unstretched, percentile: float, draws: Draws, *, lower: bool = True) -> torch.Tensor:
    """Clip each band of each image at its own percentiles, then stretch with the model's frozen constants.

    Values above the upper percentile take its value; with `lower`, those below the percentile as far from 0 as the
    upper one is from 100 take that. Nothing is scaled, so only the clipped pixels change: for a pipeline that also
    scales by the percentiles, take `per_image_normalisation`.

    Parameters
    ----------
    raw : flux or display values (N, C, H, W), and the model's stretch. Not modified.
    percentile : 50 to 100.
    draws : not used; a clip has no chance in it.
    lower : whether the faint end is clipped too.

    Returns
    -------
    Images in input space, [0, 1].

    Raises
    ------
    InputError : a percentile outside 50 to 100.
    """
    if not 50.0 <= percentile <= 100.0:
        raise InputError(
            f"clipping: percentile = {percentile:g}",
            "50 <= percentile <= 100",
            "give the upper percentile, such as 99.5",
        )
    if percentile == 100.0:
        return raw.stretch(raw.images)
    low, high = percentiles(raw.images, 100.0 - percentile, percentile)
    clipped = torch.minimum(raw.images, high)
    return raw.stretch(torch.maximum(clipped, low) if lower else clipped)
