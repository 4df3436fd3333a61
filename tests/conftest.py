"""Shared pieces: a small survey, a few galaxies, a tiny network."""

import dataclasses

import numpy as np
import pytest
import torch

from perturbations.exposure import Exposure
from robustastro.contract import InputContract, Stretch
from robustastro.data.galaxies import Galaxies

torch.set_num_threads(1)  # the tests run in parallel processes already


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Tests neither read nor fill the user's cache; they share one of their own."""
    monkeypatch.setenv("ROBUSTASTRO_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def lsst() -> Exposure:
    return Exposure.from_survey("LSST", bands="gri")


@pytest.fixture
def blobs(lsst) -> Galaxies:
    """180 galaxies of three shapes, the same in any orientation: round, small, long; flux with LSST noise."""
    return make_blobs(180, lsst)


def make_blobs(n: int, exposure: Exposure, seed: int = 0, size: int = 24, prefix: str = "blob") -> Galaxies:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    sigma = np.array([(3.0, 3.0), (1.2, 1.2), (5.0, 1.3)])[labels]
    shape = np.exp(-0.5 * ((x / sigma[:, :1, None]) ** 2 + (y / sigma[:, 1:, None]) ** 2))
    flux = shape[:, None] * rng.uniform(8e3, 1.5e4, (n, 1, 1, 1)) * np.array([0.5, 1.0, 1.2])[:, None, None]
    noise = exposure.variance(torch.from_numpy(flux)).sqrt().numpy() * rng.standard_normal(flux.shape)
    return Galaxies(
        images=(flux + noise).astype(np.float32),
        labels=labels,
        ids=tuple(f"{prefix}-{seed}-{k:04d}" for k in range(n)),
        classes=("round", "small", "long"),
        bands=exposure.bands,
        exposure=exposure,
        domain="blobs",
    )


@pytest.fixture
def contract() -> InputContract:
    """Linear, three bands and classes, images in [0, 1]."""
    return InputContract(
        bands=("g", "r", "i"),
        classes=("round", "small", "long"),
        stretch=Stretch(kind="linear", low=(-2e3,) * 3, high=(2e4,) * 3),
    )


@pytest.fixture
def other(lsst):
    """A target domain: other galaxies, brighter and noisier."""
    galaxies = make_blobs(180, lsst, seed=1, prefix="other")
    noise = np.random.default_rng(1).normal(0.0, 1200.0, galaxies.images.shape)
    return dataclasses.replace(galaxies, images=(1.3 * np.asarray(galaxies.images) + noise).astype(np.float32))
