"""The contract of a network that is to be trained: constants of the stretch from its training images, then frozen."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from perturbations.errors import InputError
from robustastro.contract import InputContract, Stretch
from robustastro.data.galaxies import Galaxies

SAMPLE = 512  # training images that the stretch is fitted on
PERCENTILES = (0.1, 99.9)


def fit_contract(galaxies: Galaxies) -> InputContract:
    """The contract of a network to be trained on these galaxies, constants from a keyed sample of them.

    Flux, or values that go below zero: the published asinh stretch between the 0.1 and 99.9 percentiles of each band.
    Display values: linear from 0 to 255, or to 1 where no value is larger.
    """
    order = np.argsort([hashlib.blake2b(i.encode(), digest_size=8).digest() for i in galaxies.ids])
    sample = galaxies.batch(order[:SAMPLE])
    bands = len(galaxies.bands)
    if galaxies.exposure is None and float(sample.min()) >= 0.0 and float(sample.max()) <= 255.0:
        top = 255.0 if float(sample.max()) > 1.0 else 1.0
        stretch = Stretch(kind="linear", low=(0.0,) * bands, high=(top,) * bands)
    else:
        low, high = np.percentile(sample.numpy(), PERCENTILES, axis=(0, 2, 3))
        if not bool((high > np.maximum(low, 0.0)).all()):
            raise InputError(
                f"the training images have 99.9 percentiles {high.tolist()}", "positive, above the 0.1 percentile",
                "check that the images are not blank",
            )  # fmt: skip
        stretch = Stretch(kind="asinh", low=tuple(low.tolist()), high=tuple(high.tolist()))
    x = stretch(sample)
    # the sky is nearly constant in input space: without centring, batch norm's running mean lags behind the weights
    return InputContract.from_dict(
        {
            "bands": galaxies.bands,
            "classes": galaxies.classes,
            "stretch": stretch,
            "crop": min(galaxies.images.shape[2:]),
            "mean": x.mean(dim=(0, 2, 3)).tolist(),
            "std": x.std(dim=(0, 2, 3)).clamp_min(1e-3).tolist(),
        },
        f"a contract for {galaxies.domain}",
    )


def stretched(galaxies: Galaxies, contract: InputContract) -> torch.Tensor:
    """All images in input space, float32 (N, C, H, W)."""
    parts = [
        contract.to_input(galaxies.batch(slice(start, start + 64)), galaxies.bands)
        for start in range(0, len(galaxies), 64)
    ]
    return torch.cat(parts)
