"""Columns that read nothing, or too much."""

import torch

from perturbations.core import Observation, corruption
from perturbations.defects import damaged, every_visit, one_visit, refuse_outside, refuse_survivors
from perturbations.draws import Draws


@corruption(
    space="flux",
    parameter="fraction of columns that are bad",
    unit="1",
    ladder=(0.003, 0.01, 0.02, 0.05, 0.1),
    identity=0.0,
    source="our choice: from one bad column in three stamps of 100 x 100 to ten in each",
    version=1,
    whole=True,
)
def bad_columns(
    sky: Observation,
    fraction: float,
    draws: Draws,
    *,
    bright_share: float = 0.5,
    dithered: bool = False,
    surviving_fraction: float = 1.0,
    coldest: float = 10.0,
    hottest: float = 1000.0,
    repaired: bool = False,
) -> Observation:
    """Let a fraction of the columns be blocked or bright from one end of the stamp to the other.

    A blocked column reads no charge, so that subtracting the sky leaves -sky. A bright one reads, besides light and
    sky, what leaks into every pixel on its way: a charge per column, log-uniform from `coldest` to `hottest` in one
    visit. Bands have sensors of their own. The columns hit at a small fraction are hit at a larger one.

    Parameters
    ----------
    sky : flux (N, C, H, W) in reference electrons per pixel, and its Exposure. Not modified. Columns run along H.
    fraction : 0 <= fraction <= 1.
    draws : this batch's random numbers, keyed by galaxy.
    bright_share : the part of the bad columns that is bright and not blocked.
    dithered : a sky pixel falls on the bad column in one visit; False: in every visit, or in a single image.
    surviving_fraction : of the change in that one visit that outlier rejection leaves; for dithered coadds only.
    coldest, hottest : range of the charge in a bright column [electrons per pixel in one visit].
    repaired : bad columns are filled from their neighbours, as a pipeline leaves them. They are masked in any case.

    Returns
    -------
    Observation with bad columns in its mask.

    Raises
    ------
    InputError : a fraction or share outside [0, 1], or charges that are not 0 < coldest <= hottest.
    """
    refuse_outside("bad_columns", "fraction", fraction, 0.0, 1.0, "give the part of all columns that is bad")
    refuse_outside("bad_columns", "bright_share", bright_share, 0.0, 1.0, "give the part of the bad columns")
    refuse_survivors("bad_columns", surviving_fraction)
    refuse_outside("bad_columns", "coldest", coldest, 1e-3, hottest, "give electrons in one visit, up to hottest")
    refuse_outside("bad_columns", "hottest", hottest, coldest, float("inf"), "give electrons in one visit")
    if fraction == 0.0 or (dithered and surviving_fraction == 0.0):
        return sky.replace(sky.flux.clone())
    columns = (sky.flux.shape[1], sky.flux.shape[3])
    hit = draws.uniform("where", columns) < fraction
    n, c, w = hit.nonzero(as_tuple=True)
    bright = (draws.uniform("kind", columns) < bright_share)[n, c, w][:, None]
    leaked = (coldest * (hottest / coldest) ** draws.uniform("charge", columns)[n, c, w])[:, None]

    def number(value: torch.Tensor) -> torch.Tensor:
        return value.expand(*sky.flux.shape[:2], 1, 1)[n, c, 0]

    in_all = every_visit(sky.exposure, sky.flux)
    scale = one_visit(sky.exposure, sky.flux) * surviving_fraction if dithered else in_all
    flux = sky.flux.clone()
    held = (flux[n, c, :, w] + number(sky.exposure.pixels("sky", flux))) / number(in_all)
    room = (number(sky.exposure.pixels("full_well", flux)) - held).clamp_min(0.0)
    flux[n, c, :, w] += torch.where(bright, torch.minimum(leaked, room), -held) * number(scale)
    return damaged(sky, flux, hit[:, :, None].expand_as(flux), repaired)
