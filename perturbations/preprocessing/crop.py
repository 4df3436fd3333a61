"""A cutout of the wrong size on the sky: the galaxy looms larger than the network knows it."""

import torch

from perturbations.core import corruption
from perturbations.draws import Draws
from perturbations.errors import InputError


@corruption(
    space="input",
    parameter="fraction of the side kept",
    unit="1",
    ladder=(0.9, 0.8, 0.7, 0.6, 0.5),
    identity=1.0,
    source="our choice: to 0.5, where the galaxy fills four times the area and the outskirts of a large one are lost",
    version=1,
    whole=True,
)
def crop(x: torch.Tensor, kept: float, draws: Draws) -> torch.Tensor:
    """Keep the middle of the image, that fraction of each side, and resample it to all pixels bilinearly.

    Lengths grow by 1 / kept about the centre of the image, surface brightness stays, and the noise becomes smooth, as
    after any enlargement.

    Parameters
    ----------
    x : images (N, C, H, W) float32 in [0, 1]. Not modified.
    kept : 0 < kept <= 1.
    draws : not used; a crop has no chance in it.

    Raises
    ------
    InputError : `kept` outside (0, 1].
    """
    if not 0.0 < kept <= 1.0:
        raise InputError(
            f"crop: kept = {kept:g}", "0 < kept <= 1", "what lies outside the image is not known; cut it out larger"
        )
    if kept == 1.0:
        return x.clone()
    zoom = torch.tensor([[[kept, 0.0, 0.0], [0.0, kept, 0.0]]], device=x.device)
    places = torch.nn.functional.affine_grid(zoom, [1, 1, *x.shape[-2:]], align_corners=False)
    enlarged = torch.nn.functional.grid_sample(x, places.expand(len(x), -1, -1, -1), align_corners=False)
    return enlarged.clamp_(0.0, 1.0)
