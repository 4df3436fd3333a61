"""Figures of attacks on every pixel: what is drawn is what the maps say, read back from the matplotlib artists."""

import argparse
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from matplotlib.colors import to_rgba
from synthetic_records import CLASSES, clean_margin, make_record, set_maps

from perturbations.errors import InputError
from robustastro.figures import fatal, vulnerability
from robustastro.figures.style import save
from robustastro.metrics.intervals import proportion
from robustastro.metrics.tables import estimate_text
from robustastro.record import Record

SIZE, N = 20, 16


def make(path, name="none", fatal_pixels=(4, 0), certified=0.5, seed=0, **options) -> Record:
    """A record whose attacked galaxies, in the order of the data, have these numbers of fatal pixels in turn."""
    record = make_record(path, {"onepixel_exhaustive": [1.0]}, name, n=N, size=SIZE, seed=seed)
    galaxies = record.galaxies.reset_index()
    wrong = [1 + seed, 9]  # from the start
    galaxies.loc[wrong, "label"] = (galaxies.loc[wrong, "label"] + 1) % len(CLASSES)
    record.write_galaxies(galaxies)
    margin = np.repeat(np.abs(clean_margin(record))[:, None], SIZE * SIZE, axis=1)
    proved = np.zeros(margin.shape, dtype=bool)
    for turn, k in enumerate(np.flatnonzero(clean_margin(record) > 0)):
        order = np.random.default_rng(k).permutation(SIZE * SIZE)
        margin[k] *= np.random.default_rng(k + 100).uniform(0.2, 1.0, SIZE * SIZE)
        count = fatal_pixels[turn % len(fatal_pixels)]
        margin[k, order[:count]] = np.where(np.arange(count), -0.5, 0.0)  # a margin of 0 is fatal, too
        proved[k, order[count : count + round(certified * SIZE * SIZE)]] = True
    shape = (N, SIZE, SIZE)
    set_maps(record, margin.reshape(shape), proved.reshape(shape), **options)
    return Record.open(path)


def lines_of(fig) -> list[list]:
    """The axes of each row, without the colour bars, which are within those of the map."""
    grid = [ax for ax in fig.axes if ax.get_subplotspec() is not None]
    width = grid[0].get_gridspec().ncols
    return [grid[k : k + width] for k in range(0, len(grid), width)]


def words(line) -> list[str]:
    return line[-1].texts[0].get_text().splitlines()


@pytest.fixture(scope="module")
def record(tmp_path_factory) -> Record:
    return make(tmp_path_factory.mktemp("runs") / "one")


# ---------------------------------------------------------------------- vulnerability


def test_image_map_and_regions_are_those_of_the_record(record):
    images, maps = (read("onepixel_exhaustive", 1.0) for read in (record.images, record.maps))
    rows = lines_of(vulnerability.figure([record]))
    assert len(rows) == 4
    for line in rows:
        galaxy = words(line)[0]
        at, kept = (list(arrays["ids"]).index(galaxy) for arrays in (maps, images))
        margin, certified = maps["map"][at], maps["certified"][at]
        low, high = np.percentile(images["clean"][kept], vulnerability.DISPLAYED)
        green = np.clip((images["clean"][kept, 1] - low) / (high - low), 0, 1)
        assert np.asarray(line[0].images[0].get_array())[..., 1] == pytest.approx(green, abs=1e-6)
        shown, painted = line[1].images
        assert np.array_equal(np.asarray(shown.get_array()), margin)
        assert shown.get_clim() == (0.0, pytest.approx(margin.max()))
        assert np.array_equal(painted.get_array().mask, margin > 0)
        states = np.asarray(line[2].images[0].get_array())
        assert np.array_equal(states == 2, margin <= 0)
        assert np.array_equal(states == 0, certified)
        assert [line[2].images[0].cmap(k)[:3] for k in range(3)] == [
            pytest.approx([int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)]) for c in vulnerability.REGIONS.values()
        ]
        clean = clean_margin(record)[list(record.galaxies.index).index(galaxy)]
        count = int((margin <= 0).sum())
        assert words(line)[1] == f"true: {CLASSES[record.galaxies.loc[galaxy, 'label']]}"
        assert words(line)[2:5] == [
            f"clean margin: {clean:.3g}",
            f"smallest: {'−0.5' if count else f'{margin.min():.3g}'}",
            f"fatal pixels: {count} of {SIZE * SIZE}",
        ]
        assert words(line)[5] == "certified: 50.0%"
        assert words(line)[6] == ("unknown: 49.0%" if count else "unknown: 50.0%")


def test_galaxies_are_of_both_kinds_and_of_different_classes(tmp_path):
    record = make(tmp_path, seed=3)
    chosen = vulnerability._chosen([record], record.units()[0])
    maps, images = (read("onepixel_exhaustive", 1.0) for read in (record.maps, record.images))
    attacked = [i for i, m in zip(maps["ids"], maps["map"], strict=True) if np.isfinite(m).all()]
    kept = [i for i in attacked if i in images["ids"]]
    assert sorted(chosen) == sorted(kept)
    assert len(kept) < len(images["ids"])  # a galaxy that was wrong already is not shown
    with_fatal = {i for i, m in zip(maps["ids"], maps["map"], strict=True) if (m <= 0).any()}
    assert [i in with_fatal for i in chosen[:4]] == [True, False, True, False]
    labels = record.galaxies["label"]
    for kind in (True, False):
        group = [i for i in kept if (i in with_fatal) == kind]
        first = [i for i in chosen if i in group]
        for k, galaxy in enumerate(first):  # no class comes again while another one has waited longer
            shown = [list(labels[first[:k]]).count(labels[i]) for i in first[k:]]
            assert shown[0] == min(shown)
            assert galaxy == next(i for i in group if i not in first[:k] and labels[i] == labels[galaxy])
        assert first != group  # these galaxies can tell


def test_few_fatal_pixels_are_ringed_where_they_are(tmp_path):
    few = vulnerability.RINGED
    record = make(tmp_path, fatal_pixels=(few, few + 1))
    maps = record.maps("onepixel_exhaustive", 1.0)
    counts = []
    for line in lines_of(vulnerability.figure([record])):
        margin = maps["map"][list(maps["ids"]).index(words(line)[0])]
        rings = [r for r in line[1].lines if r.get_gid() == "fatal pixel"]
        places = np.array([[r.get_ydata()[0], r.get_xdata()[0]] for r in rings]).reshape(-1, 2)
        if (margin <= 0).sum() > few:
            assert not len(places)
        else:  # every fatal pixel lies in a ring, and every ring is around one
            assert all(margin[int(y), int(x)] <= 0 for y, x in places)
            away = np.hypot(*(np.argwhere(margin <= 0)[:, None] - places[None]).transpose(2, 0, 1))
            assert away.min(axis=1).max() <= SIZE / 20
            assert not any(r.get_clip_on() for r in rings)
        counts.append(len(rings))
    assert {0} < set(counts)


def test_several_models_show_the_same_galaxies_that_all_attacked(tmp_path):
    first, second = (
        make(tmp_path / name, name, fatal_pixels=fatals, seed=seed)
        for name, fatals, seed in (("none", (0,), 0), ("dann", (2, 0, 0), 3))
    )
    # other images are kept of the second run: its first four galaxies are not among them
    arrays = second.images("onepixel_exhaustive", 1.0)
    second.write_images("onepixel_exhaustive", 1.0, {k: v[4:] for k, v in arrays.items()})
    rows = lines_of(vulnerability.figure([first, second]))
    assert [line[0].get_ylabel() for line in rows] == ["none", "dann"] * (len(rows) // 2)
    galaxies = [words(line)[0] for line in rows]
    assert galaxies[::2] == galaxies[1::2]
    right = [clean_margin(r) > 0 for r in (first, second)]
    both = {i for k, i in enumerate(first.galaxies.index) if right[0][k] and right[1][k] and 4 <= k < 8}
    assert set(galaxies) <= both
    assert len(galaxies) == 2 * min(2, len(both))
    assert galaxies
    for record, k in ((first, 0), (second, 1)):
        maps = record.maps("onepixel_exhaustive", 1.0)
        at = list(maps["ids"]).index(galaxies[0])
        assert np.array_equal(np.asarray(rows[k][1].images[0].get_array()), maps["map"][at])
        assert np.array_equal(np.asarray(rows[k][2].images[0].get_array()) == 0, maps["certified"][at])
    second.write_images("onepixel_exhaustive", 1.0, {k: v[:0] for k, v in arrays.items()})
    with pytest.raises(InputError, match="in every run"):
        vulnerability.figure([first, second])


def test_a_galaxy_wholly_certified_and_one_with_nothing_proved(tmp_path):
    record = make(tmp_path / "all", fatal_pixels=(0,), certified=1.0)
    line = lines_of(vulnerability.figure([record], count=1))[0]
    assert set(np.unique(np.asarray(line[2].images[0].get_array()))) == {0}
    assert words(line)[4:] == [f"fatal pixels: 0 of {SIZE * SIZE}", "certified: 100%", "unknown: 0%"]
    record = make(tmp_path / "none", fatal_pixels=(0,), certified=0.0)
    line = lines_of(vulnerability.figure([record], count=1))[0]
    assert set(np.unique(np.asarray(line[2].images[0].get_array()))) == {1}
    assert words(line)[5:] == ["certified: 0%", "unknown: 100%"]
    assert [vulnerability._percent(share) for share in (1e-4, 0.9999)] == ["under 0.1%", "over 99.9%"]


@pytest.mark.parametrize("options", [{"certificate": 0}, {"target": 1}, {"early_exit": True}])
def test_no_regions_where_no_certificate_was_asked_for(options, tmp_path):
    record = make(tmp_path, **options)
    fig = vulnerability.figure([record], count=1)
    assert len(lines_of(fig)[0]) == 3
    assert len(words(lines_of(fig)[0])) == 5
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["fatal (margin ≤ 0)"]
    assert "certified" not in vulnerability.caption([record])


def test_pixels_that_were_not_tried_are_neither_safe_nor_fatal(tmp_path):
    record = make(tmp_path, fatal_pixels=(4,), early_exit=True)
    maps = record.maps("onepixel_exhaustive", 1.0)
    maps["map"][:, SIZE // 2 :] = np.nan
    set_maps(record, maps["map"], maps["certified"], early_exit=True)
    fig = vulnerability.figure([record], count=1)
    line = lines_of(fig)[0]
    margin = maps["map"][list(maps["ids"]).index(words(line)[0])]
    shown, painted = line[1].images
    assert np.array_equal(shown.get_array().mask, np.isnan(margin))
    assert tuple(shown.cmap.get_bad()) == to_rgba(vulnerability.UNTRIED)
    assert np.array_equal(~painted.get_array().mask, margin <= 0)
    assert words(line)[4] == f"fatal pixels: {(margin <= 0).sum()} seen, not all tried"
    assert "not tried" in [text.get_text() for text in fig.legends[0].get_texts()]


def test_scale_bar_is_in_arcsec_where_the_pixel_scale_is_known(record, tmp_path):
    def bar(record: Record) -> tuple[float, str]:
        ax = lines_of(vulnerability.figure([record], count=1))[0][0]
        (line,) = [line for line in ax.lines if line.get_gid() == "scale bar"]
        return float(np.ptp(line.get_xdata())), ax.texts[0].get_text()

    assert bar(record) == (5.0, "5 px")
    copy = make(tmp_path)
    copy.write_run(copy.run | {"exposure": {"pixel_scale": 0.25}})
    assert bar(copy) == (pytest.approx(4.0), "1″")
    copy.write_run(copy.run | {"contract": copy.run["contract"] | {"resize": SIZE}})
    assert bar(copy) == (5.0, "5 px")


def test_bar_has_its_unit_and_the_caption_every_n(record, tmp_path):
    other = make(tmp_path, "dann", fatal_pixels=(1, 0, 0), seed=3)
    fig = vulnerability.figure([record, other])
    assert "[logits]" in lines_of(fig)[0][1].get_title()
    text = vulnerability.caption([record, other])
    for name, of in (("none", record), ("dann", other)):
        right = clean_margin(of) > 0
        hit = (of.unit("onepixel_exhaustive", 1.0)["fatal_pixels"] > 0).sum()
        assert f"{name}: {hit} of n = {right.sum()}" in text
    assert "not a fair sample" in text


# ---------------------------------------------------------------------- fatal


def curve(fig, k: int):
    (found,) = [line for line in fig.axes[0].lines if line.get_gid() == f"fatal {k}"]
    return found


def test_a_curve_is_the_share_of_galaxies_with_at_least_k(tmp_path):
    record = make(tmp_path, fatal_pixels=(1, 4, 0))
    counts = record.unit("onepixel_exhaustive", 1.0)["fatal_pixels"].to_numpy()
    counts = counts[counts >= 0]
    fig = fatal.figure([record])
    line = curve(fig, 0)
    assert line.get_drawstyle() == "steps-pre"
    x, y = line.get_data()
    for k in range(1, int(x[-1])):
        assert y[np.searchsorted(x, k)] == pytest.approx((counts >= k).mean())
    assert y[-1] == 0.0
    (bar,) = fig.axes[0].containers
    marker, _, (ends,) = bar
    expected = proportion(counts > 0)
    assert marker.get_ydata()[0] == pytest.approx(expected.value)
    assert ends.get_segments()[0][:, 1] == pytest.approx([expected.low, expected.high])
    (text,) = (text.get_text() for text in fig.legends[0].get_texts())
    assert text == f"none, input space, n = {len(counts)}"
    assert len(counts) == (clean_margin(record) > 0).sum() < N
    assert f"{text}." in fatal.caption([record])
    assert f"images have {SIZE * SIZE} pixels" in fatal.caption([record])


def test_colour_is_the_model_and_line_the_space(tmp_path):
    records = [
        make(tmp_path / f"{name}-{space}", name, fatal_pixels=counts, seed=seed, space=space)
        for seed, name in enumerate(("none", "dann"))
        for space, counts in (("input", (120, 0)), ("flux", (1, 0)))
    ]
    fig = fatal.figure(records)
    lines = [curve(fig, k) for k in range(4)]
    colours = [line.get_color() for line in lines]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    assert [line.get_linestyle() for line in lines] == ["-", "--"] * 2
    assert [text.get_text().partition(", n")[0] for text in fig.legends[0].get_texts()] == [
        "none, input space", "none, flux space", "dann, input space", "dann, flux space",
    ]  # fmt: skip
    assert [t.get_text() for t in fig.axes[0].get_xticklabels()] == ["any", "1", "10", "100"]
    places = [bar[0].get_xdata()[0] for bar in fig.axes[0].containers]
    assert len(set(places)) == 4
    assert max(places) < 1
    renamed = fatal.figure(records, ["a", "a", "b", "b"]).legends[0].get_texts()
    assert [text.get_text().partition(",")[0] for text in renamed] == ["a", "a", "b", "b"]


def test_none_fatal_is_a_line_at_zero(tmp_path):
    fig = fatal.figure([make(tmp_path, fatal_pixels=(0,))])
    assert set(curve(fig, 0).get_ydata()) == {0.0}
    marker, _, (ends,) = fig.axes[0].containers[0]
    assert marker.get_ydata()[0] == 0.0
    assert ends.get_segments()[0][1, 1] > 0.1  # no fatal pixel in a few galaxies is no proof that there are none


def test_a_single_galaxy_is_drawn(tmp_path):
    record = make(tmp_path, fatal_pixels=(5,))
    first = next(i for i, margin in zip(record.galaxies.index, clean_margin(record), strict=True) if margin > 0)
    table = record.unit("onepixel_exhaustive", 1.0)
    record.write_shard("onepixel_exhaustive", 1.0, 0, table.loc[[first]].reset_index())
    maps = record.maps("onepixel_exhaustive", 1.0)
    at = list(maps["ids"]).index(first)
    record.write_maps("onepixel_exhaustive", 1.0, {k: v[at : at + 1] for k, v in maps.items()}, 0)
    assert [words(line)[0] for line in lines_of(vulnerability.figure([record]))] == [first]
    assert curve(fatal.figure([record]), 0).get_ydata()[0] == 1.0
    assert "n = 1" in fatal.caption([record])


# ---------------------------------------------------------------------- both


def test_runs_without_maps_are_refused(tmp_path):
    other = make_record(tmp_path / "onepixel", {"onepixel": [1.0]}, n=8)
    for module in (vulnerability, fatal):
        for ask in (module.figure, module.caption):
            with pytest.raises(InputError, match="onepixel_exhaustive") as refused:
                ask([other])
            assert str(refused.value).count(";") + str(refused.value).count(".") >= 1
    with pytest.raises(InputError, match="no run to draw"):
        vulnerability.figure([])
    with pytest.raises(InputError, match="no run to draw"):
        fatal.figure([])


def test_counts_of_a_search_that_stopped_early_are_no_distribution(tmp_path):
    record = make(tmp_path, early_exit=True)
    maps = record.maps("onepixel_exhaustive", 1.0)
    hit = (maps["map"] <= 0).any(axis=(1, 2))
    maps["map"][hit, -1] = np.where(maps["map"][hit, -1] <= 0, maps["map"][hit, -1], np.nan)
    set_maps(record, maps["map"], maps["certified"])
    with pytest.raises(InputError, match="without early_exit"):
        fatal.figure([record])


@pytest.mark.parametrize("module", [vulnerability, fatal])
def test_files_are_the_same_every_time(module, record, tmp_path):
    for copy in "ab":
        save(module.figure([record]), tmp_path / f"{copy}.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


# ---------------------------------------------------------------------- the report


@pytest.fixture(scope="module")
def make_pixel():
    """reports/make_pixel.py, which is no module of the package."""
    place = Path(__file__).parents[1] / "reports" / "make_pixel.py"
    spec = importlib.util.spec_from_file_location("make_pixel", place)
    assert spec is not None
    assert spec.loader is not None
    sys.modules["make_pixel"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["make_pixel"]


def test_difference_is_over_the_galaxies_attacked_in_both(make_pixel, tmp_path):
    first, second = make(tmp_path / "a", "none", (3, 0, 5)), make(tmp_path / "b", "dann", (1, 0), seed=3)
    one, two = (r.unit("onepixel_exhaustive", 1.0)["fatal_pixels"].to_numpy(dtype=float) for r in (first, second))
    both = (one >= 0) & (two >= 0)
    assert both.sum() < min((one >= 0).sum(), (two >= 0).sum())  # they are right of different galaxies
    found = make_pixel.difference(first, second)
    assert found["n"] == found["attack_success_rate"]["n"] == found["fatal_pixels"]["n"] == both.sum()
    assert found["attack_success_rate"]["value"] == pytest.approx((one[both] > 0).mean() - (two[both] > 0).mean())
    assert found["fatal_pixels"]["value"] == pytest.approx((one[both] - two[both]).mean())
    half = scipy.stats.sem(one[both] - two[both]) * scipy.stats.t.ppf(0.975, both.sum() - 1)
    assert found["fatal_pixels"]["high"] - found["fatal_pixels"]["value"] == pytest.approx(half)


def test_the_page_has_the_numbers_of_the_results_and_no_path(make_pixel, tmp_path):
    def made(name: str, space: str, fatals: tuple[int, ...], seed: int) -> Record:
        record = make(tmp_path / "runs" / f"{name}-{space}", name, fatals, seed=seed, space=space)
        record.write_run(
            record.run | {"timing": {"seconds": 32.0}, "git": "0123456789abcdef", "device": "cpu",
                          "model": {"name": name, "method": name.partition("-")[0]}}
        )  # fmt: skip
        options = record.run["perturbations"][0]["options"] | {"sigmas": 5.0}
        record.run["perturbations"][0]["options"] = options
        return record

    records = {
        "mocks": {
            (name, space): made(name, space, fatals, seed)
            for name, seed in (("none", 0), ("dann", 3))
            for space, fatals in (("input", (7, 0)), ("flux", (2, 0, 0)))
        },
        "decals": {("decals", "input"): made("decals", "input", (400,), 5)},
    }
    about = {
        "decals": {
            "title": "DECaLS rings", "n": 470, "blank": 1, "size": [3, 128, 128], "classes": {"ring": 235},
            "train": 335, "test_accuracy": {"value": 0.8, "low": 0.7, "high": 0.9, "n": 83}, "flags": [],
        }
    }  # fmt: skip
    models = [Path("mine/none.pt"), tmp_path / "dann.pt"]
    arguments = argparse.Namespace(
        limit=16, models=models, decals=tmp_path / "data", radio=None, epochs=3, certified=16, boxes=64
    )
    document = json.loads(json.dumps(make_pixel._document(records, records, about, arguments), allow_nan=False))
    captions = make_pixel._draw(records, records, tmp_path / "out")
    page = make_pixel._page(document, captions)
    assert {f"{name}.png" for name in captions} == {p.name for p in (tmp_path / "out").iterdir()}
    assert all(f"]({name}.png)" in page and text in page for name, text in captions.items())
    assert str(tmp_path) not in page + json.dumps(document)
    models_of = "--limit 16 --models mine/none.pt dann.pt --certified 16 --boxes 64"
    assert f"make_pixel.py {models_of} --epochs 3 --decals DIR`" in page
    for run in document["runs"]:
        rate, none = (estimate_text(e, 100.0, 1) for e in (run["attack_success_rate"], run["fatal_pixels"]["none"]))
        name = "DECaLS rings" if run["data"] == "decals" else run["model"]
        n = run["attack_success_rate"]["n"]
        assert f"| {name} | {run['space']} | {n} of {N} | {rate} | {none} |" in page
        unknown = estimate_text(run["certificate"]["galaxies"]["unknown"], 100.0, 1)
        assert sum(line.endswith(f"| {unknown} |") for line in page.splitlines()) >= 1
    for x in document["with_minus_without"]:
        rate = estimate_text(x["attack_success_rate"], 100.0, 1)
        assert f"| {x['space']}: dann − none | {x['n']} | {rate} |" in page
    assert [(x["model"], x["space"]) for x in document["with_minus_without"]] == [("dann", "input"), ("dann", "flux")]
    again = make_pixel.difference(records["mocks"]["dann", "flux"], records["mocks"]["none", "flux"])
    assert document["with_minus_without"][1] == {"model": "dann", "space": "flux"} | again
    spaces = document["input_minus_flux"]["dann"]
    assert f"| dann: input − flux | {spaces['n']} |" in page
    more = make_pixel.difference(*(records["mocks"]["dann", space] for space in ("input", "flux")))
    assert spaces["fatal_pixels"] == more["fatal_pixels"]
    assert spaces["fatal_pixels"]["value"] > 0
