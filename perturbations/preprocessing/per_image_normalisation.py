"""Every image scaled by its own percentiles: brightness is lost, and one bright pixel changes the whole image."""

import torch

from perturbations.core import Unstretched, corruption
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.percentiles import percentiles

LEAST = 1e-6  # range of an image, as a part of the model's own and of its values


@corruption(
    space="stretch",
    parameter="upper percentile of the image that becomes white",
    unit="percent",
    ladder=(100.0, 99.9, 99.5, 99.0, 95.0),
    identity=None,
    no_identity="no percentile gives every image the model's frozen constants",
    source="our choice: 100 (each image by its own extremes) to 95; 99.9 are the percentiles of Ciprijanovic et al. "
    "2022, arXiv:2112.14299, taken there over all images",
    version=1,
)
def per_image_normalisation(
    raw: Unstretched, percentile: float, draws: Draws, *, together: bool = False
) -> torch.Tensor:
    """Stretch by the model's curve, with low and high taken from each image instead of frozen.

    Black and white are the percentiles 100 - p and p of each band of the image, as many pipelines take them. An image
    whose two percentiles are equal becomes black and white, the limit of a narrow range.

    Parameters
    ----------
    raw : flux or display values (N, C, H, W), and the model's stretch. Not modified.
    percentile : p, more than 50, up to 100.
    draws : not used; percentiles have no chance in them.
    together : one pair of percentiles for all bands, so that colours stay.

    Returns
    -------
    Images in input space, [0, 1].

    Raises
    ------
    InputError : a percentile outside (50, 100].
    """
    if not 50.0 < percentile <= 100.0:
        raise InputError(
            f"per_image_normalisation: percentile = {percentile:g}",
            "50 < percentile <= 100",
            "give the upper percentile, such as 99.9",
        )
    values = raw.images.flatten(1, 2)[:, None] if together else raw.images
    low, high = percentiles(values, 100.0 - percentile, percentile)
    least = LEAST * min(high - low for low, high in zip(raw.stretch.low, raw.stretch.high, strict=True))
    high = torch.maximum(high, low + (LEAST * low.abs()).clamp_min(least))
    return raw.stretch.between(raw.images, low, torch.where(high.abs() < least, least, high))
