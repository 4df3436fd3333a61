"""Pixels with so much dark current that they look like sources."""

import torch

from perturbations.core import Observation, corruption
from perturbations.defects import damaged, every_visit, one_visit, refuse_outside, refuse_survivors
from perturbations.draws import Draws


@corruption(
    space="flux",
    parameter="fraction of pixels that are hot",
    unit="1",
    ladder=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
    identity=0.0,
    source="our choice: from one hot pixel in a stamp of 100 x 100 to a heavily irradiated sensor's hundred",
    version=1,
)
def hot_pixels(
    sky: Observation,
    fraction: float,
    draws: Draws,
    *,
    dithered: bool = True,
    surviving_fraction: float = 1.0,
    coldest: float = 10.0,
    hottest: float = 100_000.0,
    repaired: bool = False,
) -> Observation:
    """Let a fraction of the pixels hold dark charge besides light and sky.

    The charge in one visit is log-uniform from `coldest` to `hottest`, and no more than the well still holds. Bands
    have sensors of their own. A dithered coadd meets a hot pixel in one of its visits; without dithering the same pixel
    is hot in all of them, and no outlier rejection sees it. The pixels hit at a small fraction are hit at a larger one.

    Parameters
    ----------
    sky : flux (N, C, H, W) in reference electrons per pixel, and its Exposure. Not modified.
    fraction : 0 <= fraction <= 1.
    draws : this batch's random numbers, keyed by galaxy.
    dithered : a sky pixel falls on the hot pixel in one visit; False: in every visit, or in a single image.
    surviving_fraction : of the charge in that one visit that outlier rejection leaves; for dithered coadds only.
    coldest, hottest : range of the dark charge [electrons in one visit].
    repaired : hot pixels are filled from their neighbours, as a pipeline leaves them. They are masked in any case.

    Returns
    -------
    Observation with hot pixels in its mask.

    Raises
    ------
    InputError : a fraction outside [0, 1], or charges that are not 0 < coldest <= hottest.
    """
    refuse_outside("hot_pixels", "fraction", fraction, 0.0, 1.0, "give the part of all pixels that is hot")
    refuse_survivors("hot_pixels", surviving_fraction)
    refuse_outside("hot_pixels", "coldest", coldest, 1e-3, hottest, "give electrons in one visit, up to hottest")
    refuse_outside("hot_pixels", "hottest", hottest, coldest, float("inf"), "give electrons in one visit")
    if fraction == 0.0 or (dithered and surviving_fraction == 0.0):
        return sky.replace(sky.flux.clone())
    hit = draws.uniform("where", sky.flux.shape[1:]) < fraction
    at = hit.nonzero(as_tuple=True)
    flux, in_all = sky.flux.clone(), every_visit(sky.exposure, sky.flux)
    scale = one_visit(sky.exposure, sky.flux) * surviving_fraction if dithered else in_all
    held = (sky.flux[at] + sky.exposure.pixels("sky", flux).expand_as(flux)[at]) / in_all.expand_as(flux)[at]
    dark = coldest * (hottest / coldest) ** draws.uniform("charge", sky.flux.shape[1:])[at].double()
    room = (sky.exposure.pixels("full_well", flux).expand_as(flux)[at] - held).clamp_min(0.0)
    flux[at] += torch.minimum(dark.to(flux), room) * scale.expand_as(flux)[at]
    return damaged(sky, flux, hit, repaired)
