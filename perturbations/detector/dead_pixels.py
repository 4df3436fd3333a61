"""Pixels that see no light."""

import torch

from perturbations.core import Observation, corruption
from perturbations.defects import collected, damaged, every_visit, one_visit, refuse_outside, refuse_survivors
from perturbations.draws import Draws


@corruption(
    space="flux",
    parameter="fraction of pixels that are dead",
    unit="1",
    ladder=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
    identity=0.0,
    source="our choice: from one dead pixel in a stamp of 100 x 100 to a hundred",
    version=1,
)
def dead_pixels(
    sky: Observation,
    fraction: float,
    draws: Draws,
    *,
    dithered: bool = False,
    surviving_fraction: float = 1.0,
    repaired: bool = False,
) -> Observation:
    """Let a fraction of the pixels read no charge at all, neither light nor sky.

    Subtracting the sky then leaves a hole as deep as the sky: flux becomes -sky where the pixel is dead in every visit.
    A dithered coadd loses the share of one visit. Bands have sensors of their own. The pixels hit at a small fraction
    are hit at a larger one.

    Parameters
    ----------
    sky : flux (N, C, H, W) in reference electrons per pixel, and its Exposure. Not modified.
    fraction : 0 <= fraction <= 1.
    draws : this batch's random numbers, keyed by galaxy.
    dithered : a sky pixel falls on the dead pixel in one visit; False: in every visit, or in a single image.
    surviving_fraction : of the loss in that one visit that outlier rejection leaves; for dithered coadds only.
    repaired : dead pixels are filled from their neighbours, as a pipeline leaves them. They are masked in any case.

    Returns
    -------
    Observation with dead pixels in its mask.

    Raises
    ------
    InputError : a fraction outside [0, 1].
    """
    refuse_outside("dead_pixels", "fraction", fraction, 0.0, 1.0, "give the part of all pixels that is dead")
    refuse_survivors("dead_pixels", surviving_fraction)
    if fraction == 0.0 or (dithered and surviving_fraction == 0.0):
        return sky.replace(sky.flux.clone())
    hit = draws.uniform("where", sky.flux.shape[1:]) < fraction
    scale = one_visit(sky.exposure, sky.flux) * surviving_fraction if dithered else every_visit(sky.exposure, sky.flux)
    flux = torch.where(hit, sky.flux - collected(sky) * scale, sky.flux)
    return damaged(sky, flux, hit, repaired)
