"""Test beds: two domains of different galaxies, the right one labelled, and both worth looking at."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from perturbations.errors import InputError
from robustastro.data.domains import KNOWN, TEST_BEDS, UNKNOWN, recipes
from robustastro.data.mock_observing import through_seeing
from robustastro.data.mocks import PRISTINE, light

PAIRS = [(bed, task) for bed in TEST_BEDS for task in KNOWN]


def signal_to_noise(recipe, cache):
    """Of each galaxy in the middle band, with its own profile as weight (n,)."""
    seen = through_seeing(torch.from_numpy(light(recipe, processes=1, cache=cache)), recipe.exposure())
    return (seen**2 / recipe.exposure().variance(seen)).sum(dim=(2, 3)).sqrt()[:, 1].numpy()


@pytest.mark.parametrize(("bed", "task"), PAIRS)
def test_domains_are_of_different_galaxies_and_the_same_classes(bed, task):
    source, target = recipes(bed, task, 60, seed=3)
    assert not set(source.ids()) & set(target.ids())
    assert source.classes == KNOWN[task] == target.classes[: len(source.classes)]
    assert target.classes[len(source.classes) :] == (() if task == "merger" else (UNKNOWN,))
    assert recipes(bed, task, 60, unknown=False)[1].classes == source.classes
    assert (source.n, target.n, source.seed) == (60, 60, 3)
    assert source.size == target.size == (75 if task == "merger" else 100)
    assert source.bands == target.bands  # one network sees both
    assert torch.allclose(source.exposure().zeropoint, target.exposure().zeropoint)  # through one stretch
    assert len(KNOWN["ten"]) == 9
    assert source.domain() != target.domain()
    assert np.all(np.bincount(target.labels(), minlength=len(target.classes)) > 0)


def test_the_labelled_domain_is_the_better_one_except_on_stripe_82(tmp_path):
    for bed in TEST_BEDS:
        source, target = recipes(bed, "three", 9, unknown=False)
        # the same galaxies in both: what differs is the survey
        target = replace(target, seed=source.seed, population=source.population)
        better, worse = (source, target) if bed not in ("decals", "stripe82") else (target, source)
        ratio = signal_to_noise(better, tmp_path) / signal_to_noise(worse, tmp_path)
        assert np.median(ratio) > 1.5, bed


@pytest.mark.parametrize("bed", TEST_BEDS)
def test_galaxies_are_plain_to_see_in_the_better_domain_and_not_lost_in_the_other(bed, tmp_path):
    two = recipes(bed, "merger", 16)
    values = sorted(np.median(signal_to_noise(recipe, tmp_path)) for recipe in two)
    assert values[0] > 15.0, values
    assert values[1] > 60.0, values
    for recipe in two:
        flux = light(recipe, processes=1, cache=tmp_path)[:, 1]
        at_the_edge = np.concatenate([flux[:, :2].reshape(16, -1), flux[:, -2:].reshape(16, -1)], axis=1)
        assert np.median(at_the_edge.max(axis=1) / flux.max(axis=(1, 2))) < 0.1, "galaxies fit into the image"


def test_each_bed_is_what_it_says():
    def of(bed):
        return recipes(bed, "merger", 200)

    source, target = of("distant")
    assert (source.survey, source.depth, target.survey, target.size) == ("HST", PRISTINE, "HST", 75)
    assert target.depth == 1.0
    source, target = of("nearby")
    assert (source.population, target.population) == ("simulated", "observed")
    assert [np.mean(r.labels() == 1) for r in (source, target)] == pytest.approx([0.15, 0.15])
    source, target = of("lsst")
    assert (source.depth, target.depth, source.domain()) == (1.0, 0.1, "LSST Y10")
    source, target = of("decals")
    assert (source.survey, target.survey, source.bands) == ("SDSS", "DECaLS", ("g", "r", "z"))
    source, target = of("stripe82")
    assert (source.survey, target.survey) == ("SDSS", "Stripe82")
    assert np.mean(of("lsst")[0].labels()) == 0.5


@pytest.mark.parametrize(
    ("wrong", "message"),
    [(("stripe", "ten", 9), "stripe82"), (("lsst", "thre", 9), "did you mean 'three'"), (("lsst", "ten", 0), "n = 0")],
)
def test_unknown_beds_and_tasks_are_refused(wrong, message):
    with pytest.raises(InputError, match=f"(?i){message}"):
        recipes(*wrong)
