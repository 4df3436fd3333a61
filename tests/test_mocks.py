"""Mocks: physics of drawing and observing, distributions as cited, and the same galaxies however they are asked for."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import galsim
import numpy as np
import pytest
import torch

from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.exposure import Exposure
from robustastro.data import mock_light, mock_parameters, mocks, morphology_light
from robustastro.data.mock_light import Blobs, draw, parts
from robustastro.data.mock_observing import observe, through_seeing
from robustastro.data.mocks import SHARD, Recipe, light, parameters_hash, parse_depth, simulate
from robustastro.data.splits import split_of

CLASSES = ("spiral", "elliptical", "merger")


def rows(morphology, n=1, seed=3):
    """Parameters of a few galaxies, one dictionary each."""
    table = mock_parameters.parameters(Draws([f"g{i}" for i in range(n)], seed, "simulate", "mocks"), morphology)
    return [{name: values[i] for name, values in table.items()} for i in range(n)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def thirty(folder):
    return simulate(Recipe(n=30, seed=4), processes=1, cache=folder)


# ---------------------------------------------------------------------- light


@pytest.mark.parametrize("morphology", CLASSES)
@pytest.mark.parametrize("seeing", [0.45, 0.81])
def test_observed_light_is_what_galsim_draws_through_the_seeing(morphology, seeing):
    p = rows(morphology, 2)[1]
    light = parts(morphology, p)
    fluxes = {name: [1e6 * (1.0 + k)] for k, name in enumerate(light)}
    exposure = Exposure(bands=("r",), pixel_scale=0.2, sky=0.0, psf_fwhm=seeing)
    ours = through_seeing(torch.from_numpy(draw(light, fluxes, 100, 0.2))[None], exposure)[0, 0].numpy()
    objects = {name: part.profile() if isinstance(part, Blobs) else part for name, part in light.items()}
    fine = galsim.GSParams(folding_threshold=2e-3, maxk_threshold=1e-4, maximum_fft_size=16384)
    scene = galsim.Sum([part.withFlux(fluxes[name][0]) for name, part in objects.items()])
    seen = galsim.Convolve(scene, galsim.Kolmogorov(fwhm=seeing), gsparams=fine).withGSParams(fine)
    theirs = seen.drawImage(nx=100, ny=100, scale=0.2, dtype=float).array
    assert np.abs(ours - theirs).max() < 0.005 * theirs.max()
    assert ours.sum() == pytest.approx(theirs.sum(), rel=0.003)


def test_blobs_are_galsim_gaussians_behind_the_working_psf():
    random = np.random.default_rng(1)
    blobs = Blobs(*random.uniform(-4.0, 4.0, (2, 9)), random.uniform(0.1, 1.0, 9), random.uniform(0.5, 1.0, 9))
    ours = draw({"a": blobs}, {"a": [1000.0]}, 64, 0.2)[0]
    theirs = galsim.Convolve(1000.0 * blobs.profile(), galsim.Gaussian(fwhm=0.3)).drawImage(nx=64, ny=64, scale=0.2)
    assert np.abs(ours - theirs.array).max() < 2e-3 * theirs.array.max()


@pytest.mark.parametrize("fwhm", [0.5, 0.8, 1.2])
def test_seeing_keeps_flux_and_the_corners_dark(fwhm):
    blob = Blobs(np.zeros(1), np.zeros(1), np.full(1, 0.05), np.ones(1))
    image = torch.from_numpy(draw({"a": blob}, {"a": [1e5]}, 100, 0.2))[None]
    seen = through_seeing(image, Exposure(bands=("r",), pixel_scale=0.2, sky=0.0, psf_fwhm=fwhm))
    assert float(seen.sum()) == pytest.approx(1e5, rel=3e-3)  # Kolmogorov wings reach beyond the image
    assert float(seen[..., :9, :9].max()) < 1e-5 * float(seen.max())  # nothing wrapped around


def test_light_adds_up_to_the_magnitudes_of_the_catalogue():
    p = rows("elliptical", 1)[0] | {"half_light_radius": 1.4, "sersic_index": 1.0, "fraction_neighbour": 0.0}
    reference = Exposure.from_survey("LSST", "gri")
    total = draw(parts("elliptical", p), mocks._fluxes(p, reference), 160, 0.2).sum(axis=(1, 2))
    measured = reference.zeropoint.numpy() - 2.5 * np.log10(total)
    assert measured == pytest.approx([p["magnitude_g"], p["magnitude_r"], p["magnitude_i"]], abs=0.01)


def test_the_catalogue_is_of_these_images(folder, thirty):
    total = light(Recipe(n=30, seed=4), cache=folder).sum(axis=(2, 3))
    expected = 10.0 ** (0.4 * (thirty.exposure.zeropoint.numpy() - thirty.catalogue.filter(like="magnitude").values))
    # wings leave the image, neighbours come in; between magnitudes there is up to a factor of six
    assert (total / expected).min() > 0.7
    assert (total / expected).max() < 1.6
    assert np.median(total / expected) == pytest.approx(1.0, abs=0.05)


# ------------------------------------------------------------------ observing


@pytest.mark.parametrize("fraction", [1.0, 0.1])
def test_blank_sky_has_the_variance_of_its_exposure(fraction):
    exposure = Exposure.from_survey("LSST", "gri", fraction)
    blank = torch.zeros((4, 3, 100, 100))
    flux = observe(blank, exposure, Draws("abcd", 1, "simulate")).flux
    expected = exposure.variance(blank[:1])[0, :, 0, 0]
    assert flux.var(dim=(0, 2, 3)).numpy() == pytest.approx(expected.numpy(), rel=0.03)
    assert flux.mean(dim=(0, 2, 3)).abs().numpy() == pytest.approx(0.0, abs=float(expected.max().sqrt()) / 200 * 4)


def test_bright_light_brings_its_own_photon_noise_and_no_bias():
    exposure = Exposure(bands=("r",), pixel_scale=0.2, sky=50.0, fraction=0.5, visits=4, read_noise=5.0, psf_fwhm=0.8)
    flat = torch.full((4, 1, 100, 100), 400.0)
    flux = observe(flat, exposure, Draws("abcd", 1, "simulate")).flux
    assert float(flux.mean()) == pytest.approx(400.0, abs=0.6)
    assert float(flux.var()) == pytest.approx((450.0 + 100.0) / 0.5, rel=0.03)


def test_two_depths_are_one_light(folder, thirty):
    shallow = simulate(Recipe(n=30, seed=4, depth=0.1), processes=1, cache=folder)
    assert shallow.ids == thirty.ids
    assert list(split_of(shallow.ids)) == list(split_of(thirty.ids))
    assert shallow.catalogue.equals(thirty.catalogue)
    assert (shallow.domain, thirty.domain) == ("LSST Y1", "LSST Y10")
    seen = through_seeing(torch.from_numpy(light(Recipe(n=30, seed=4), cache=folder)), thirty.exposure)
    for galaxies in (thirty, shallow):
        pull = (galaxies.batch(slice(None)) - seen) / galaxies.exposure.variance(seen).sqrt()
        assert float(pull.mean()) == pytest.approx(0.0, abs=0.005)
        assert float(pull.std()) == pytest.approx(1.0, rel=0.005)


# -------------------------------------------------------------- distributions


def test_distributions_are_those_of_their_sources():
    n = 4000
    draws = Draws([f"d{i}" for i in range(n)], 1, "simulate", "mocks")
    spirals, ellipticals, mergers = (mock_parameters.parameters(draws, name) for name in CLASSES)
    # counts rise by 10^(0.31 m): half of the galaxies lie fainter than this
    low, high = (10.0 ** (0.31 * m) for m in (mock_parameters.BRIGHT, mock_parameters.FAINT))
    median = np.log10(0.5 * (low + high)) / 0.31
    for table in (spirals, ellipticals, mergers):
        assert np.median(table["magnitude_r"]) == pytest.approx(median, abs=0.04)
        assert table["half_light_radius"].min() >= mock_parameters.SMALL
        assert table["half_light_radius"].max() <= mock_parameters.LARGE
        fractions = sum(table[f"fraction_{part}"] for part in mock_parameters.PARTS if f"fraction_{part}" in table)
        assert fractions == pytest.approx(1.0)
    assert spirals["axis_ratio"].min() >= 0.4
    assert 0.1 < np.mean(spirals["bulge_fraction"]) < 0.25
    assert 3.0 < np.mean(ellipticals["sersic_index"]) < 4.5
    assert 0.65 < np.mean(ellipticals["axis_ratio"]) < 0.85
    assert mergers["mass_ratio"].min() >= 0.25
    assert mergers["mass_ratio"].max() <= 1.0
    red, blue = ((t["magnitude_g"] - t["magnitude_r"]) for t in (ellipticals, spirals))
    assert np.median(red) - np.median(blue) > 0.1  # bimodal, and yet
    assert np.mean(blue > np.median(red)) > 0.03  # colour alone does not tell


def test_a_pitch_angle_is_that_of_the_arms():
    p = rows("spiral")[0] | {"axis_ratio": 1.0, "pitch_angle": 20.0, "arms": 2.0, "x": 0.0, "y": 0.0}
    arms = parts("spiral", p)["arms"]
    x, y = (values.reshape(2, -1) for values in (arms.x, arms.y))
    radius, angle = np.hypot(x, y), np.unwrap(np.arctan2(y, x))
    slope = np.diff(np.log(radius)) / np.abs(np.diff(angle))
    assert slope == pytest.approx(np.tan(np.radians(20.0)), rel=1e-6)


# ------------------------------------------------------------- the same galaxies


def test_galaxies_do_not_depend_on_their_number_or_on_processes(tmp_path):
    few = simulate(Recipe(n=SHARD + 7, seed=2), processes=2, cache=tmp_path / "a")
    more = simulate(Recipe(n=SHARD + 12, seed=2), processes=1, cache=tmp_path / "b")
    assert np.array_equal(few.images, more.images[: SHARD + 7])
    assert few.catalogue.equals(more.catalogue[: SHARD + 7])
    assert np.bincount(few.labels).tolist() == [11, 11, 10]
    # the last file of the cache held 7 galaxies and is drawn again
    extended = simulate(Recipe(n=SHARD + 12, seed=2), processes=1, cache=tmp_path / "a")
    assert np.array_equal(extended.images, more.images)
    assert extended.digest() == more.digest()


def test_seeds_are_other_galaxies(folder, thirty):
    other = simulate(Recipe(n=3, seed=5), processes=1, cache=folder)
    assert not set(other.ids) & set(thirty.ids)
    assert not np.isclose(other.catalogue.magnitude_r, thirty.catalogue.magnitude_r[:3]).any()


def test_the_cache_draws_nothing_twice_and_notices_damage(tmp_path, monkeypatch):
    recipe = Recipe(n=6, seed=9)
    done = []
    first = light(recipe, progress=lambda *count: done.append(count), cache=tmp_path)
    assert done == [(6, 6)]
    (file,) = tmp_path.rglob("*.npz")
    whole = file.read_bytes()
    spoiled = bytearray(whole)
    spoiled[len(whole) // 2] ^= 1
    for damaged in (whole[:-1000], b"", bytes(spoiled)):
        file.write_bytes(damaged)
        assert np.array_equal(light(recipe, cache=tmp_path), first)
        assert file.read_bytes() == whole

    def not_again(*_):
        raise AssertionError("drawn although the cache holds it")

    monkeypatch.setattr(morphology_light, "render", not_again)
    assert np.array_equal(light(replace(recipe, depth=0.3, seeing=1.2, n=4), cache=tmp_path), first[:4])
    for other in ({"bands": ("r",)}, {"seed": 10}, {"size": 64}, {"classes": ("merger",)}, {"survey": "HSC"}):
        with pytest.raises(AssertionError, match="drawn"):
            light(replace(recipe, **other), cache=tmp_path)
    monkeypatch.setattr(mocks, "parameters_hash", lambda *_: "other distributions")
    with pytest.raises(AssertionError, match="drawn"):
        light(recipe, cache=tmp_path)


def test_an_interrupt_leaves_what_is_done(tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        light(Recipe(n=SHARD + 1, seed=9), processes=1, progress=stop, cache=tmp_path)
    assert [file.name for file in tmp_path.rglob("*.npz")] == ["00000.npz"]


def test_a_script_without_main_guard_may_use_processes(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from robustastro.data.mocks import Recipe, simulate\n"
        f"print(simulate(Recipe(n={SHARD + 1}, size=32), processes=2, cache={str(tmp_path)!r}).images.shape)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    answer = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=120, check=True, env=environment
    )
    assert answer.stdout.splitlines() == [f"({SHARD + 1}, 3, 32, 32)"]


def test_the_hash_covers_distributions_and_profiles(tmp_path, monkeypatch, thirty):
    assert thirty.source["mocks"] == parameters_hash()
    assert Recipe.from_dict(thirty.source["recipe"]) == Recipe(n=30, seed=4)
    before = parameters_hash()
    for module in (mock_parameters, mock_light):
        changed = tmp_path / "changed.py"
        changed.write_bytes(Path(module.__file__).read_bytes().replace(b"0.2", b"0.3"))
        with monkeypatch.context() as patch:
            patch.setattr(module, "__file__", str(changed))
            assert parameters_hash() != before


# --------------------------------------------------------------------- errors


def test_depths_are_years_or_fractions():
    assert [parse_depth(text) for text in ("Y10", "Y1", "Y3", "0.25")] == [1.0, 0.1, 0.3, 0.25]
    for text in ("Y0", "Y11", "ten", "0", "-1", "nan", "inf"):
        with pytest.raises(InputError, match=f"depth '{text}'"):
            parse_depth(text)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"classes": ("spirl",)}, "did you mean 'spiral'"),
        ({"classes": ("spiral", "spiral")}, "name each class once"),
        ({"bands": ("u",)}, "unknown band"),
        ({"survey": "LSTT"}, "did you mean 'LSST'"),
        ({"n": 0}, "at least one"),
        ({"size": 8}, "32 to 512"),
        ({"depth": 0.0}, "above 0"),
    ],
)
def test_wrong_recipes_are_refused(wrong, message):
    with pytest.raises(InputError, match=f"(?i){message}"):
        Recipe(**wrong)


def test_seeing_sharper_than_the_light_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"at least 0\.4 arcsec"):
        simulate(Recipe(n=1, size=32, seeing=0.3), processes=1, cache=tmp_path)
    with pytest.raises(InputError, match="entry of a recipe 'deepth'"):
        Recipe.from_dict({"deepth": 1.0})


def test_a_cache_that_cannot_be_written_says_so(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(InputError, match="ROBUSTASTRO_CACHE"):
        simulate(Recipe(n=1, size=32), processes=1, cache=blocked)
