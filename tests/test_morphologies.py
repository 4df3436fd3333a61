"""Mock morphologies: each is what it is by definition, lensing follows its equations, the first three are as before."""

import hashlib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import galsim
import numpy as np
import pytest
import torch

from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.exposure import Exposure
from perturbations.surveys import survey_exposure
from robustastro.data import mock_light, mock_parameters, mocks, morphologies, morphology_light, populations
from robustastro.data.lensing import deflection, lensed
from robustastro.data.mock_light import draw
from robustastro.data.mock_observing import through_seeing
from robustastro.data.mocks import PRISTINE, Recipe, catalogue, light, parameters_hash, parse_proportions, simulate

FROZEN_HASH = "d9b5d65708273bf474a35869ccd70210d4b7ec6fcb83a1ebe6e22553beed98a4"
FIRST = ("spiral", "elliptical", "merger")
ADDED = tuple(name for name in morphologies.MORPHOLOGIES if name not in FIRST)
POPULATIONS = tuple(populations.POPULATIONS)


def table(morphology, n=400, population="standard", seed=3):
    return morphologies.parameters(
        Draws([f"g{i}" for i in range(n)], seed, "simulate", "mocks"), morphology, population
    )


def row(morphology, index=0, **changes):
    centred = {"x": 0.0, "y": 0.0, "fraction_neighbour": 0.0}
    return {name: values[index] for name, values in table(morphology, index + 1).items()} | centred | changes


def whole(morphology, p, size=200, scale=0.1):
    """Noise-free image of flux 1 in fine pixels."""
    fluxes = {part: [p[f"fraction_{part}"]] for part in morphology_light.parts(morphology, p)}
    return draw(morphology_light.parts(morphology, p), fluxes, size, scale)[0].astype(float)


def moments(blobs):
    """Root-mean-square extent of blobs along their principal axes, minor and major, and the direction of the major."""
    weight = blobs.weight / blobs.weight.sum()
    x, y = blobs.x - np.sum(weight * blobs.x), blobs.y - np.sum(weight * blobs.y)
    wide = np.sum(weight * blobs.sigma**2)
    xx, yy, xy = np.sum(weight * x * x) + wide, np.sum(weight * y * y) + wide, np.sum(weight * x * y)
    values, vectors = np.linalg.eigh([[xx, xy], [xy, yy]])
    return (*np.sqrt(values), np.arctan2(vectors[1, 1], vectors[0, 1]))


def rotational_asymmetry(image):
    """|I - I rotated by half a turn| over |I| (Conselice 2003), without noise: the least over nearby centres."""
    padded = np.pad(image, 4)
    turned = image[::-1, ::-1]
    height = len(image)
    shifts = [padded[y : y + height, x : x + height] for y in range(9) for x in range(9)]
    return min(np.abs(one - turned).sum() for one in shifts) / image.sum()


# ---------------------------------------------------------------------- what was there stays


def test_spirals_ellipticals_and_mergers_are_drawn_by_the_frozen_modules_alone(tmp_path):
    recipe = Recipe(n=6, seed=4, size=64)
    reference = Exposure.from_survey("LSST", "gri")
    drawn = []
    for i, galaxy in enumerate(recipe.ids()):
        name = FIRST[i % 3]
        p = mock_parameters.parameters(Draws([galaxy], 4, "simulate", "mocks"), name)
        p = {key: values[0] for key, values in p.items()}
        fluxes = {
            part: [
                float(p[f"fraction_{part}"] * mock_parameters.brightness(p, part, band))
                * 10.0 ** (-0.4 * (float(p["magnitude_r"]) - float(zeropoint)))
                for band, zeropoint in zip("gri", reference.zeropoint, strict=True)
            ]
            for part in (*mock_parameters.PARTS, "neighbour")
            if f"fraction_{part}" in p
        }
        drawn.append((name, p, fluxes))
    assert np.array_equal(light(recipe, processes=1, cache=tmp_path), mock_light.render(drawn, 64, 0.2))


def test_their_hash_record_and_cache_are_what_they_were(tmp_path):
    h = hashlib.sha256()
    for module in (mock_parameters, mock_light):
        h.update(Path(module.__file__).read_bytes().replace(b"\r\n", b"\n"))
    assert h.hexdigest() == FROZEN_HASH
    recipe = Recipe(n=30, seed=4, classes=("merger", "spiral"), depth=0.1)
    assert parameters_hash() == parameters_hash(recipe) == FROZEN_HASH
    assert list(recipe.to_dict()) == ["survey", "bands", "depth", "classes", "n", "seed", "size", "seeing"]
    e = Exposure.from_survey("LSST", "gri")
    named_by = (FROZEN_HASH, galsim.__version__, "LSST", ("g", "r", "i"), ("merger", "spiral"), 4, 100)
    folder = hashlib.sha256(repr((*named_by, e.pixel_scale, e.zeropoint.tolist())).encode()).hexdigest()[:32]
    assert mocks._folder(recipe, tmp_path).name == folder


@pytest.mark.parametrize(
    "change",
    [{"classes": ("spiral", "cigar")}, {"classes": ("non-merger",)}, {"population": "observed"}, {"bands": ("r", "z")}],
)
def test_what_was_added_is_in_the_hash_of_galaxies_that_use_it(change, tmp_path, monkeypatch):
    recipe = Recipe(n=3, **change)
    before = parameters_hash(recipe)
    assert before != FROZEN_HASH
    for module in mocks.ADDED:
        changed = tmp_path / "changed.py"
        changed.write_bytes(Path(module.__file__).read_bytes() + b"# another version\n")
        with monkeypatch.context() as patch:
            patch.setattr(module, "__file__", str(changed))
            assert parameters_hash(recipe) != before
            assert parameters_hash(Recipe()) == FROZEN_HASH


def test_recipes_with_new_entries_come_back_and_have_a_cache_of_their_own(tmp_path):
    plain = Recipe(n=4)
    folders = {mocks._folder(plain, tmp_path)}
    for change in (
        *({"proportions": (1, 2, 3)}, {"zoom": 2.0}, {"brighter": 1.0}),
        *({"population": "simulated"}, {"calibrated_to": "SDSS"}),
    ):
        recipe = replace(plain, **change)
        assert set(recipe.to_dict()) == {*plain.to_dict(), *change}
        assert Recipe.from_dict(recipe.to_dict()) == recipe
        folders.add(mocks._folder(recipe, tmp_path))
    assert len(folders) == 6


# ---------------------------------------------------------------------- every class


@pytest.mark.parametrize("population", POPULATIONS)
@pytest.mark.parametrize("morphology", morphologies.MORPHOLOGIES)
def test_parts_are_what_is_drawn_and_add_up_to_the_galaxy(morphology, population):
    p = table(morphology, 60, population)
    names = [part for part in morphologies.PARTS if f"fraction_{part}" in p]
    fractions = np.array([p[f"fraction_{part}"] for part in names])
    assert fractions.min() >= 0.0
    assert fractions.sum(axis=0) == pytest.approx(1.0)
    first = {name: values[0] for name, values in p.items()} | {"fraction_neighbour": 0.0}
    assert set(morphology_light.parts(morphology, first)) == set(names)
    assert all(f"population_{part}" in p for part in names)
    if "bulge_fraction" in p:
        assert np.array_equal(p["bulge_fraction"], p["fraction_bulge"])


@pytest.mark.parametrize("morphology", ["disturbed", "barred_spiral", "edge_on_bulge", "strong_lens"])
@pytest.mark.parametrize(("survey", "bands"), [("LSST", "griz"), ("HST", "IJH")])
def test_light_adds_up_to_the_magnitudes(morphology, survey, bands):
    p = row(morphology)
    reference = survey_exposure(survey, bands)
    fluxes = mocks._fluxes(p, reference)
    total = draw(morphology_light.parts(morphology, p), fluxes, 200, 0.2).sum(axis=(1, 2))
    measured = reference.zeropoint.numpy() - 2.5 * np.log10(total)
    assert measured == pytest.approx([p[f"magnitude_{band}"] for band in bands], abs=0.04)  # wings leave the image
    assert p["magnitude_H"] == pytest.approx(p["magnitude_r"])  # what a galaxy draws is its H where HST looks


def test_colours_agree_with_the_frozen_ones_and_redden_towards_the_blue():
    for frozen, ours in (
        (mock_parameters.YOUNG, morphologies.YOUNG),
        (mock_parameters.OLD, morphologies.OLD),
        (mock_parameters.REDDENING, morphologies.REDDENING),
    ):
        assert {band: ours[band] for band in "gri"} == frozen
        assert set(ours) == set("griz") | set("IJH")
    for bands in ("griz", "IJH"):
        for stars in (morphologies.OLD, morphologies.REDDENING):
            assert all(stars[a] > stars[b] for a, b in pairwise(bands))
        old_minus_young = [morphologies.OLD[band] - morphologies.YOUNG[band] for band in bands]
        assert np.all(np.diff(old_minus_young) < 0.0)


def test_no_two_classes_are_told_apart_by_colour_or_magnitude_alone():
    tables = {name: table(name, 600) for name in ADDED}
    values = {
        "g - r": {name: p["magnitude_g"] - p["magnitude_r"] for name, p in tables.items()},
        "r": {name: p["magnitude_r"] for name, p in tables.items()},
    }
    for quantity, of in values.items():
        for a in ADDED:
            for b in ADDED:
                auc = np.mean(of[a][:, None] > of[b])
                assert auc < 0.93, (quantity, a, b)


# ---------------------------------------------------------------------- class by class


@pytest.mark.parametrize(("morphology", "low", "high"), [("round_smooth", 0.85, 1.0), ("cigar", 0.25, 0.45)])
def test_smooth_galaxies_are_as_round_as_they_say(morphology, low, high):
    p = table(morphology)
    assert (p["axis_ratio"].min() >= low) & (p["axis_ratio"].max() <= high)
    for index in range(3):
        p = row(morphology, index)
        image = galsim.Image(whole(morphology, p), scale=0.1)
        shape = galsim.hsm.FindAdaptiveMom(image).observed_shape
        assert shape.q == pytest.approx(p["axis_ratio"], abs=0.06)  # the working PSF rounds a little
        assert np.cos(2.0 * (shape.beta.rad - p["position_angle"])) > 0.99


@pytest.mark.parametrize(
    ("morphology", "low", "high"), [("tight_spiral", 9, 14), ("loose_spiral", 23, 35), ("barred_spiral", 12, 26)]
)
def test_arms_are_logarithmic_spirals_of_their_pitch_without_gaps(morphology, low, high):
    p = table(morphology)
    assert (p["pitch_angle"].min() >= low) & (p["pitch_angle"].max() <= high)
    for index in range(4):
        p = row(morphology, index, axis_ratio=1.0)
        arms = morphology_light.parts(morphology, p)["arms"]
        x, y, sigma = (values.reshape(int(p["arms"]), -1) for values in (arms.x, arms.y, arms.sigma))
        angle = np.unwrap(np.arctan2(y, x))
        slope = np.diff(np.log(np.hypot(x, y))) / np.diff(angle)
        assert slope == pytest.approx(p["handedness"] * np.tan(np.radians(p["pitch_angle"])), rel=1e-6)
        assert np.hypot(np.diff(x), np.diff(y)).max() < 1.2 * sigma.min() or np.all(
            np.hypot(np.diff(x), np.diff(y)) < 1.2 * sigma[:, 1:]
        )


def test_a_bar_is_as_long_and_thin_as_it_says_and_its_arms_begin_at_its_ends():
    for index in range(5):
        p = row("barred_spiral", index, axis_ratio=1.0)
        parts = morphology_light.parts("barred_spiral", p)
        minor, major, direction = moments(parts["bar"])
        turned = p["arm_start"] + p["position_angle"]
        assert abs(np.cos(direction - turned)) == pytest.approx(1.0, abs=1e-6)
        # a line of this brightness and of half length L: rms of about L / 2
        assert 0.35 * p["bar_length"] < major < 0.6 * p["bar_length"]
        assert minor == pytest.approx(0.5 * p["bar_axis_ratio"] * p["bar_length"], rel=1e-6)
        arms = parts["arms"]
        for k in (0, len(arms.x) // 2):
            assert np.hypot(arms.x[k], arms.y[k]) == pytest.approx(0.95 * p["bar_length"], rel=1e-6)
            assert abs(np.cos(np.arctan2(arms.y[k], arms.x[k]) - turned)) == pytest.approx(1.0, abs=1e-6)


def test_an_inclined_bar_keeps_to_the_plane_of_its_disk():
    """Seen face-on again, by undoing the projection, it is where it was."""
    p = row("barred_spiral", 2, position_angle=0.7, axis_ratio=0.6)
    bar = morphology_light.parts("barred_spiral", p)["bar"]
    face_on = morphology_light.parts("barred_spiral", p | {"axis_ratio": 1.0, "position_angle": 0.0})["bar"]
    x = (bar.x * np.cos(0.7) + bar.y * np.sin(0.7)) * 0.6**0.5
    y = (bar.y * np.cos(0.7) - bar.x * np.sin(0.7)) / 0.6**0.5
    assert np.allclose([x, y], [face_on.x, face_on.y])


@pytest.mark.parametrize("morphology", ["edge_on", "edge_on_bulge"])
def test_edge_on_disks_are_thin_and_lie_along_their_position_angle(morphology):
    p = row(morphology, 1, fraction_bulge=0.0, fraction_disk=1.0, inclination=90.0)
    scale = p["half_light_radius"] / 1.678
    image = whole(morphology, p, 600, scale / 30.0)
    y, x = np.indices(image.shape) - 299.5
    xx, yy, xy = (np.sum(image * product) / image.sum() for product in (x * x, y * y, x * y))
    (minor, major), vectors = np.linalg.eigh([[xx, xy], [xy, yy]])
    # an exponential disk: 3 scale lengths squared along it; sech^2(z/h): pi^2 h^2 / 12; and the working PSF and pixel
    narrow = (1.5 / 2.355) ** 2 + 1.0 / 12.0
    assert major == pytest.approx(3.0 * 30.0**2, rel=0.03)
    assert minor - narrow == pytest.approx(np.pi**2 / 12.0 * (30.0 * p["thickness"]) ** 2, rel=0.1)
    assert np.cos(2.0 * (np.arctan2(vectors[1, 1], vectors[0, 1]) - p["position_angle"])) > 0.999


def test_a_bulge_stands_out_of_the_disk_where_there_is_one():
    """Light at three scale heights above the plane, near the centre, against that in the plane far out."""
    ratios = {}
    for morphology in ("edge_on", "edge_on_bulge"):
        ratios[morphology] = []
        for index in range(8):
            p = row(morphology, index, position_angle=0.0)
            image = whole(morphology, p, 300, 0.1)
            scale = p["half_light_radius"] / 1.678 / 0.1
            above = round(3.0 * p["thickness"] * scale) + 3
            ratios[morphology].append(image[150 + above, 150] / image[150 + above, 150 + round(1.5 * scale)])
    assert min(ratios["edge_on_bulge"]) > 2.0 * max(1.0, np.median(ratios["edge_on"]) / 3.0)
    assert np.median(ratios["edge_on_bulge"]) > 2.0 * np.median(ratios["edge_on"])
    assert table("edge_on")["bulge_fraction"].max() <= 0.04
    assert table("edge_on_bulge")["bulge_fraction"].min() >= 0.32


def test_disturbed_galaxies_are_out_of_balance_and_have_one_nucleus():
    def of(name):
        return [rotational_asymmetry(whole(name, row(name, i), 120, 0.2)) for i in range(10)]

    smooth, disturbed, merging = of("round_smooth"), of("disturbed"), of("merging")
    assert max(smooth) < 0.05
    assert np.median(disturbed) > 0.25  # Conselice 2003: mergers above 0.35, spirals about 0.15
    assert np.median(merging) > 0.25
    assert min(disturbed) > 2.0 * max(smooth)
    p = row("disturbed", 2)
    light_of = morphology_light.parts("disturbed", p)
    nucleus, disk_centre = light_of["bulge"].centroid, light_of["disk"].centroid
    offset = np.hypot(nucleus.x - disk_centre.x, nucleus.y - disk_centre.y)
    assert offset == pytest.approx(p["offset"] * p["half_light_radius"])


def test_merging_galaxies_are_mergers_closer_together_in_more_tidal_light():
    close, wide = table("merging"), table("merger")
    assert close["separation"] == pytest.approx(0.55 * wide["separation"])
    assert np.all(close["fraction_tides"] > wide["fraction_tides"])
    assert close["fraction_secondary"] / close["fraction_primary"] == pytest.approx(close["mass_ratio"])


# ---------------------------------------------------------------------- lensing


def disk(x0, y0, radius=0.1):
    """A small Gaussian source of flux 1."""
    return lambda x, y: np.exp(-0.5 * ((x - x0) ** 2 + (y - y0) ** 2) / radius**2) / (2.0 * np.pi * radius**2)


def test_a_point_behind_an_isothermal_sphere_has_two_images_in_their_places_with_their_magnifications():
    """Source at b < theta: images at b + theta and b - theta, magnified by theta/b + 1 and theta/b - 1."""
    theta, b = 2.0, 0.8
    image = lensed(disk(b, 0.0, 0.02), reach=4.0, cell=0.01, einstein_radius=theta)
    right = image.x > 0.0
    for side, place, magnification in ((right, b + theta, theta / b + 1.0), (~right, b - theta, theta / b - 1.0)):
        weight = image.weight[side]
        assert np.sum(weight * image.x[side]) / weight.sum() == pytest.approx(place, abs=2e-3)
        assert np.sum(weight * image.y[side]) / weight.sum() == pytest.approx(0.0, abs=1e-9)
        assert weight.sum() == pytest.approx(magnification, rel=0.01)


def test_outside_the_einstein_radius_there_is_one_image_and_without_a_lens_the_source():
    image = lensed(disk(3.0, 0.0, 0.05), reach=7.0, cell=0.02, einstein_radius=2.0)
    assert image.x.min() > 4.0
    assert image.weight.sum() == pytest.approx(1.0 + 2.0 / 3.0, rel=0.01)
    alone = lensed(disk(0.5, -0.3), reach=2.0, cell=0.02, einstein_radius=1e-9)
    assert alone.weight.sum() == pytest.approx(1.0, rel=2e-3)
    assert np.average(alone.x, weights=alone.weight) == pytest.approx(0.5, abs=1e-6)


def test_lensing_keeps_surface_brightness():
    source = disk(0.3, 0.1, 0.2)
    image = lensed(source, reach=4.0, cell=0.02, einstein_radius=2.0, axis_ratio=0.7, angle=0.4, shear=0.05)
    assert image.weight.max() / 0.02**2 == pytest.approx(float(source(0.3, 0.1)), rel=0.01)


def test_the_ellipsoid_has_its_convergence_and_no_curl():
    """Divergence of the deflection is twice the surface density; shear adds none; both come from a potential."""
    random = np.random.default_rng(0)
    x, y = random.uniform(-3.0, 3.0, (2, 50))
    lens = {"einstein_radius": 1.7, "axis_ratio": 0.6, "angle": 0.5, "shear": 0.07, "shear_angle": 1.1}
    h = 1e-5
    (xx, yx), (xy, yy) = (
        (np.array(deflection(x + dx, y + dy, **lens)) - np.array(deflection(x - dx, y - dy, **lens))) / (2.0 * h)
        for dx, dy in ((h, 0.0), (0.0, h))
    )
    along, across = x * np.cos(0.5) + y * np.sin(0.5), y * np.cos(0.5) - x * np.sin(0.5)
    convergence = 0.6**0.5 * 1.7 / (2.0 * np.hypot(0.6 * along, across))
    assert xx + yy == pytest.approx(2.0 * convergence, rel=1e-5)
    assert yx == pytest.approx(xy, abs=1e-6)


def test_a_round_ellipsoid_is_the_sphere_and_the_critical_curve_keeps_its_area():
    x, y = np.array([1.0, -2.0, 0.3]), np.array([0.5, 1.0, -0.2])
    radius = np.hypot(x, y)
    assert deflection(x, y, 1.5)[0] == pytest.approx(1.5 * x / radius, rel=1e-5)
    assert deflection(x, y, 1.5)[1] == pytest.approx(1.5 * y / radius, rel=1e-5)
    # of an isothermal ellipsoid the critical curve is where the convergence is 1/2: an ellipse of area pi theta^2
    axis = np.arange(-4.0, 4.0, 0.01)
    gx, gy = np.meshgrid(axis, axis)
    inside = 0.7**0.5 * 1.5 / (2.0 * np.hypot(0.7 * gx, gy)) > 0.5
    assert inside.sum() * 0.01**2 == pytest.approx(np.pi * 1.5**2, rel=0.01)


def test_a_source_behind_the_centre_of_a_flattened_lens_makes_a_cross():
    image = lensed(disk(0.0, 0.0, 0.05), reach=3.0, cell=0.02, einstein_radius=1.5, axis_ratio=0.6, angle=0.3)
    angle = np.arctan2(image.y, image.x) - 0.3
    assert np.sum(image.weight * np.cos(4.0 * angle)) / image.weight.sum() > 0.9  # on the two axes
    for quarter in range(4):
        there = np.abs(np.angle(np.exp(1j * (angle - quarter * np.pi / 2)))) < np.pi / 4
        assert image.weight[there].sum() > 0.1 * image.weight.sum()


def test_strong_lenses_show_arcs_at_their_einstein_radius():
    p = table("strong_lens")
    assert np.all(np.hypot(p["source_x"], p["source_y"]) <= 0.45 * p["einstein_radius"])
    for index in range(4):
        one = row("strong_lens", index)
        arcs = morphology_light.parts("strong_lens", one)["arcs"]
        radius = np.average(np.hypot(arcs.x, arcs.y), weights=arcs.weight)
        assert radius == pytest.approx(one["einstein_radius"], rel=0.25)
        reach = 2.0 * (one["einstein_radius"] + one["source_radius"])
        rim = np.maximum(np.abs(arcs.x), np.abs(arcs.y)) > 0.97 * reach
        assert arcs.weight[rim].sum() < 2e-3 * arcs.weight.sum()  # the grid holds the image


def test_arcs_are_drawn_finely_enough(monkeypatch):
    p = row("strong_lens", 1)
    coarse = draw({"arcs": morphology_light.strong_lens(p)["arcs"]}, {"arcs": [1.0]}, 100, 0.2)
    monkeypatch.setattr(morphology_light, "lensed", lambda source, cell, **kw: lensed(source, cell=cell / 3.0, **kw))
    fine = draw({"arcs": morphology_light.strong_lens(p)["arcs"]}, {"arcs": [1.0]}, 100, 0.2)
    assert np.abs(coarse - fine).max() < 0.03 * fine.max()


# ---------------------------------------------------------------------- classes, shares, sizes


def test_non_mergers_are_spirals_and_ellipticals_by_halves_and_the_same_as_those():
    recipe = Recipe(n=400, classes=("non-merger", "merger"), seed=8)
    found = catalogue(recipe)[::2]
    spirals, ellipticals = (catalogue(replace(recipe, classes=(name, "merger")))[::2] for name in FIRST[:2])
    spiral, elliptical = (
        np.all((found.values == other.values) | (found.isna() & other.isna()).values, axis=1)
        for other in (spirals, ellipticals)
    )
    assert np.all(spiral ^ elliptical)
    assert 80 < spiral.sum() < 120


def test_a_galaxy_of_a_composite_class_looks_as_it_is_listed(tmp_path):
    recipe = Recipe(n=8, classes=("non-merger",), seed=8, size=48)
    images, found = light(recipe, processes=1, cache=tmp_path), catalogue(recipe)
    for name in FIRST[:2]:
        alone = light(replace(recipe, classes=(name,)), processes=1, cache=tmp_path)
        same = np.array([np.array_equal(a, b) for a, b in zip(images, alone, strict=True)])
        assert np.array_equal(same, found.arms.notna() if name == "spiral" else found.arms.isna())
        assert same.any()


def test_shares_are_kept_at_every_number_and_galaxies_do_not_depend_on_it():
    for shares in ((0.7, 0.3), (9, 9, 1), (0.1, 0.2, 0.3, 0.4), (1, 1, 1)):
        classes = ("spiral", "elliptical", "merger", "cigar")[: len(shares)]
        labels = Recipe(n=500, classes=classes, proportions=shares).labels()
        counts = np.cumsum(labels[:, None] == np.arange(len(shares)), axis=0)
        expected = np.arange(1, 501)[:, None] * np.array(shares) / sum(shares)
        assert np.abs(counts - expected).max() < 1.0 + 1e-6
        assert np.array_equal(Recipe(n=77, classes=classes, proportions=shares).labels(), labels[:77])
    assert np.array_equal(labels[:30], Recipe(n=30).labels())  # equal shares: in turn
    few, more = (Recipe(n=n, proportions=(5, 3, 1), seed=2) for n in (20, 40))
    assert catalogue(few).equals(catalogue(more)[:20])
    galaxies = simulate(replace(few, size=32, n=10), processes=1)
    assert np.array_equal(galaxies.labels, more.labels()[:10])
    assert galaxies.catalogue.arms.notna().tolist() == (galaxies.labels == 0).tolist()


def test_zoom_is_angular_size_and_nothing_else(tmp_path):
    recipe = Recipe(n=4, classes=("cigar", "strong_lens"), seed=5, size=160)
    large = replace(recipe, zoom=2.0)
    before, after = (light(r, processes=1, cache=tmp_path) for r in (recipe, large))
    # a pixel of the larger galaxy is a quarter of one of the smaller: bin it, and it is that, but for the pixel and PSF
    binned = after.reshape(4, 3, 80, 2, 80, 2).sum(axis=(3, 5))
    inner = before[:, :, 40:120, 40:120]
    assert binned.sum(axis=(2, 3)) == pytest.approx(inner.sum(axis=(2, 3)), rel=0.01)
    for a, b in zip(binned[:, 1], inner[:, 1], strict=True):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.97
    small, big = catalogue(recipe), catalogue(large)
    for name in ("half_light_radius", "einstein_radius", "source_radius"):
        assert np.allclose(big[name], 2.0 * small[name], equal_nan=True)
    for name in ("magnitude_r", "axis_ratio", "sersic_index"):
        assert np.allclose(big[name], small[name], equal_nan=True)


def test_brighter_galaxies_are_the_same_with_more_light(tmp_path):
    recipe = Recipe(n=3, seed=5, size=64)
    shining = replace(recipe, brighter=2.5)
    plain = light(recipe, processes=1, cache=tmp_path)
    assert np.allclose(light(shining, processes=1, cache=tmp_path), 10.0 * plain, rtol=1e-5)
    difference = catalogue(recipe) - catalogue(shining)
    assert np.allclose(difference.filter(like="magnitude"), 2.5)
    assert np.allclose(difference.drop(columns=list(difference.filter(like="magnitude"))).fillna(0.0), 0.0)


def test_a_calibrated_survey_has_the_other_ones_electrons_and_its_own_photons(tmp_path):
    recipe = Recipe(survey="DECaLS", bands=("g", "r", "z"), n=4, size=64, brighter=3.0)
    calibrated = replace(recipe, calibrated_to="SDSS")
    own, other = survey_exposure("DECaLS", "grz"), survey_exposure("SDSS", "grz")
    factor = 10.0 ** (0.4 * (other.zeropoint - own.zeropoint)).reshape(3, 1, 1)
    before, after = (light(r, processes=1, cache=tmp_path) for r in (recipe, calibrated))
    assert np.allclose(after, factor.numpy() * before, rtol=1e-5, atol=1e-6 * before.max())
    counted, scaled = (simulate(r, processes=1, cache=tmp_path) for r in (recipe, calibrated))
    assert torch.allclose(scaled.exposure.zeropoint, other.zeropoint)
    # the same photons, hence the same images but for the scale: not SDSS's noise
    assert torch.allclose(scaled.batch(slice(None)), (factor * counted.batch(slice(None))).float(), rtol=1e-3, atol=0.5)
    blank = torch.zeros(1, 3, 1, 1, dtype=torch.float64)
    assert torch.allclose(scaled.exposure.variance(blank), factor**2 * own.variance(blank))


def test_populations_differ_as_they_say():
    standard = {name: table(name) for name in ("spiral", "elliptical", "merger", "barred_spiral")}
    simulated = {name: table(name, population="simulated") for name in standard}
    seen = {name: table(name, population="observed") for name in standard}
    for name, p in standard.items():
        assert simulated[name]["half_light_radius"] == pytest.approx(1.25 * p["half_light_radius"])
        assert seen[name]["half_light_radius"] == pytest.approx(0.9 * p["half_light_radius"])
        assert simulated[name]["magnitude_r"] == pytest.approx(p["magnitude_r"])
        assert simulated[name].keys() == p.keys() == seen[name].keys()
    bulge = [np.mean(t["spiral"]["bulge_fraction"]) for t in (simulated, standard, seen)]
    index = [np.mean(t["elliptical"]["sersic_index"]) for t in (simulated, standard, seen)]
    assert bulge[0] < 0.6 * bulge[1] < 1.2 * bulge[1] < bulge[2]
    assert index[0] < index[1] - 0.8 < index[1] + 0.4 < index[2]
    tides = [np.mean(t["merger"]["fraction_tides"]) for t in (simulated, standard, seen)]
    assert tides[0] > 1.4 * tides[1] > 3.5 * tides[2]
    assert seen["merger"]["separation"] == pytest.approx(1.15 * standard["merger"]["separation"])
    assert simulated["merger"]["separation"] == pytest.approx(0.5 * standard["merger"]["separation"])
    assert not simulated["spiral"]["fraction_neighbour"].any()
    assert seen["spiral"]["fraction_neighbour"] == pytest.approx(3.0 * standard["spiral"]["fraction_neighbour"])
    assert np.array_equal(simulated["merger"]["mass_ratio"], standard["merger"]["mass_ratio"])
    ratio = simulated["merger"]["fraction_secondary"] / simulated["merger"]["fraction_primary"]
    assert ratio == pytest.approx(standard["merger"]["mass_ratio"])


# ---------------------------------------------------------------------- observing


def test_a_million_exposures_leave_the_seeing_and_no_noise(tmp_path):
    recipe = Recipe(n=6, seed=3, size=64, depth=PRISTINE, survey="HST", bands=("I", "J", "H"), zoom=0.2, brighter=-2.0)
    galaxies = simulate(recipe, processes=1, cache=tmp_path)
    seen = through_seeing(torch.from_numpy(light(recipe, cache=tmp_path)), recipe.exposure())
    error = galaxies.batch(slice(None)) - seen
    one = recipe.exposure().replace(fraction=1.0).variance(seen).sqrt()
    assert float((error / one).std()) == pytest.approx(1e-3, rel=0.05)
    assert float((error / one).mean().abs()) < 3e-5
    assert galaxies.domain == "HST pristine"


def test_hubble_reaches_about_the_depth_of_a_wide_candels_field():
    """5 sigma of a point source in H: about 27 mag (Grogin et al. 2011, ApJS 197, 35)."""
    e = survey_exposure("hst", ("H",), 1.0)
    sigma = float(e.psf_fwhm[0]) / 2.355 / e.pixel_scale
    noise = (float(e.variance(torch.zeros(1, 1, 1, 1))) * 4.0 * np.pi * sigma**2) ** 0.5  # matched filter
    assert 26.5 < float(e.zeropoint[0]) - 2.5 * np.log10(5.0 * noise) < 27.7
    assert e.survey == "HST"
    assert e.pixel_scale == 0.06
    assert float(survey_exposure("HST", ("J", "I"), 0.3).fraction[1]) == 0.3


@pytest.mark.parametrize(("survey", "bands"), [("DECaLS", "grz"), ("Stripe82", "griz"), ("HST", "HI"), ("SDSS", "z")])
def test_galaxies_are_observed_by_every_survey(survey, bands, tmp_path):
    recipe = Recipe(survey=survey, bands=tuple(bands), n=2, size=40, classes=("edge_on", "strong_lens"), brighter=1.0)
    galaxies = simulate(recipe, processes=1, cache=tmp_path)
    assert galaxies.exposure.to_dict() == survey_exposure(survey, tuple(bands)).to_dict()
    assert galaxies.domain == survey
    assert galaxies.source["mocks"] == parameters_hash(recipe)
    corner = galaxies.batch(slice(None))[:, :, :8, :8]
    sigma = galaxies.exposure.variance(torch.zeros_like(corner)).sqrt()
    assert float((corner / sigma).std()) == pytest.approx(1.0, abs=0.25)


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"classes": ("strong_lenses",)}, "did you mean 'strong_lens'"),
        ({"population": "simulate"}, "did you mean 'simulated'"),
        ({"proportions": (1, 2)}, "one number above 0 per class"),
        ({"proportions": (1, 2, 0)}, "leave out a class"),
        ({"zoom": 0.0}, "zoom = 0"),
        ({"brighter": float("nan")}, "brighter = nan"),
        ({"survey": "HST"}, "unknown HST band 'g'"),
        ({"bands": ("J",)}, "unknown LSST band 'J'"),
    ],
)
def test_wrong_recipes_are_refused(wrong, message):
    with pytest.raises(InputError, match=f"(?i){message}"):
        Recipe(**wrong)


def test_shares_are_numbers():
    assert parse_proportions("9, 9,1") == (9.0, 9.0, 1.0)
    assert parse_proportions(" ") == ()
    with pytest.raises(InputError, match="proportions 'few,many'"):
        parse_proportions("few,many")
