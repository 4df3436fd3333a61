"""Bands that are missing: not observed yet, masked, or lost on the way."""

import torch

from perturbations.core import corruption
from perturbations.draws import Draws
from perturbations.errors import InputError, unknown_name
from perturbations.percentiles import percentiles

FILLS = ("sky", "zero", "mean")


@corruption(
    space="input",
    parameter="bands missing",
    unit="band",
    ladder=(1.0, 2.0),
    identity=0.0,
    source="our choice: one band, then two, such as a field that a young survey has not seen in all its filters",
    version=1,
)
def band_dropout(x: torch.Tensor, missing: float, draws: Draws, *, fill: str = "sky", band: int = -1) -> torch.Tensor:
    """Replace that many bands of each image, drawn for each galaxy; those missing at one rung are at the next.

    Parameters
    ----------
    x : images (N, C, H, W) float32 in [0, 1]. Not modified.
    missing : a whole number from 0 to C.
    draws : this batch's random numbers, keyed by galaxy.
    fill : "sky": the band's own median, where flux of zero lies; "zero": 0 of input space, black; "mean": the mean of
        the bands that are left, the usual imputation.
    band : the first band to be missing, counted from 0; -1 draws it.

    Raises
    ------
    InputError : a number of bands that the image does not have; an unknown fill; the mean of no band.
    """
    bands = x.shape[1]
    if fill not in FILLS:
        raise unknown_name("fill of band_dropout", fill, FILLS)
    if not 0.0 <= missing <= bands or missing != int(missing):
        raise InputError(
            f"band_dropout: missing = {missing:g} of {bands} band(s)",
            f"a whole number from 0 to {bands}",
            "choose a strength that the image has bands for",
        )
    if not -1 <= band < bands:
        raise InputError(
            f"band_dropout: band = {band} of {bands} band(s)", f"-1 to {bands - 1}", "count the bands from 0"
        )
    if fill == "mean" and missing == bands:
        raise InputError(
            f"band_dropout: fill = mean with all {bands} band(s) missing",
            "at least one band left",
            "choose fill = sky, or fewer bands",
        )
    if missing == 0.0:
        return x.clone()
    order = draws.uniform("order", (bands,))
    if band >= 0:
        order[:, band] = -1.0
    lost = (order.argsort(dim=1, stable=True).argsort(dim=1) < missing)[:, :, None, None]
    if fill == "mean":
        left = torch.where(lost, 0.0, x).sum(dim=1, keepdim=True) / (bands - missing)
        return torch.where(lost, left.clamp_(0.0, 1.0), x)
    return torch.where(lost, percentiles(x, 50.0)[0] if fill == "sky" else 0.0, x)
