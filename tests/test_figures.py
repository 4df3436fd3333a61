"""Figures: what is drawn is what the record says, read back from the matplotlib artists."""

import matplotlib
import numpy as np
import pytest
import scipy.stats
from synthetic_records import CLASSES, ENTRIES, make_record

from perturbations.errors import InputError
from robustastro import figures
from robustastro.figures import gallery, heatmap, images, latent, severity
from robustastro.figures.style import model_names, save
from robustastro.metrics.summary import summarise
from robustastro.record import Record

LADDERS = {name: entry["ladder"] for name, entry in ENTRIES.items()}


def accuracy(record: Record, perturbation: str, strength: float) -> float:
    """By hand from the rows."""
    rows = record.unit(perturbation, strength)
    return float((np.stack(rows["logits"]).argmax(1) == record.galaxies.loc[rows.index, "label"]).mean())


def clean_accuracy(record: Record) -> float:
    return float((np.stack(record.galaxies["logits"]).argmax(1) == record.galaxies["label"]).mean())


def artist(ax, gid: str):
    (found,) = [line for line in ax.lines if line.get_gid() == gid]
    return found


def panel(fig, perturbation: str):
    (found,) = [ax for ax in fig.axes if ax.get_title(loc="left").startswith(perturbation + ",")]
    return found


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> list[Record]:
    """Two models, every perturbation at its whole ladder, galaxies with magnitudes."""
    root = tmp_path_factory.mktemp("runs")
    made = [
        make_record(root / name, LADDERS, name, harm=harm, stretch=stretch)
        for name, harm, stretch in (("none", 1.0, 1.0), ("dann", 0.5, 2.0))
    ]
    for record in made:
        magnitudes = np.linspace(18.0, 24.0, len(record.galaxies))
        record.write_galaxies(record.galaxies.reset_index().assign(magnitude_r=magnitudes))
    return made


@pytest.fixture(scope="module")
def grey(tmp_path_factory) -> Record:
    """One model, one band, two perturbations with one strength each."""
    return make_record(
        tmp_path_factory.mktemp("grey"), {"depth": [0.1], "onepixel": [1.0]}, "convnet", n=30, bands=("r",), harm=1.5
    )


# ---------------------------------------------------------------------- accuracy against strength


def test_lines_are_the_accuracies_at_the_strengths(records):
    fig = severity.figure(records)
    assert len(fig.axes) == 4  # one-pixel has one rung and no curve
    for perturbation in ("depth", "seeing"):
        ax = panel(fig, perturbation)
        for k, record in enumerate(records):
            x, y = artist(ax, f"accuracy {k}").get_data()
            identity = ENTRIES[perturbation]["identity"]
            assert list(x) == [identity, *LADDERS[perturbation]]
            measured = [accuracy(record, perturbation, s) for s in LADDERS[perturbation]]
            assert y == pytest.approx([clean_accuracy(record), *measured])
            at, clean = artist(ax, f"clean {k}").get_data()
            assert (at[0], clean[0]) == (identity, pytest.approx(clean_accuracy(record)))


def test_bands_are_wilson_intervals(records):
    ax = panel(severity.figure(records[:1]), "depth")
    (band,) = ax.collections
    drawn = band.get_paths()[0].vertices
    right = round(60 * accuracy(records[0], "depth", 0.1))
    expected = scipy.stats.binomtest(right, 60).proportion_ci(method="wilson")
    at_last = drawn[drawn[:, 0] == 0.1][:, 1]
    assert (at_last.min(), at_last.max()) == pytest.approx((expected.low, expected.high))


def test_axes_carry_strengths_with_units_from_mild_to_severe(records):
    fig = severity.figure(records)
    labels = {name: panel(fig, name).get_xlabel() for name in ("depth", "seeing", "pgd")}
    assert labels == {
        "depth": "fraction of the exposure kept",
        "seeing": "extra seeing FWHM, in quadrature [arcsec]",
        "pgd": "epsilon [input units]",
    }
    assert not any("severity" in label for label in labels.values())
    for name in ("depth", "seeing", "jpeg", "pgd"):
        ax = panel(fig, name)
        left, right = (ax.transData.transform((s, 0.5))[0] for s in (LADDERS[name][0], LADDERS[name][-1]))
        clean = ax.transData.transform(artist(ax, "clean 0").get_xydata()[0])[0]
        assert clean < left < right
        assert [t for t in ax.get_xticks() if t in LADDERS[name]] == LADDERS[name]
    assert (panel(fig, "depth").get_xscale(), panel(fig, "pgd").get_xscale()) == ("linear", "log")
    assert panel(fig, "depth").get_ylabel() == "accuracy"


def test_clean_stands_apart_where_no_strength_leaves_the_image_alone(records):
    ax = panel(severity.figure(records), "jpeg")
    line, clean = artist(ax, "accuracy 0"), artist(ax, "clean 0")
    assert list(line.get_xdata()) == LADDERS["jpeg"]
    assert clean.get_xdata()[0] not in LADDERS["jpeg"]
    assert clean.get_ydata()[0] == pytest.approx(clean_accuracy(records[0]))
    assert ax.get_xticklabels()[0].get_text() == "clean"
    assert "clean" in severity.caption(records)


def test_models_differ_in_colour_and_marker_and_n_and_chance_are_stated(records):
    fig = severity.figure(records)
    ax = panel(fig, "depth")
    lines = [artist(ax, f"accuracy {k}") for k in range(2)]
    assert lines[0].get_color() != lines[1].get_color()
    assert lines[0].get_marker() != lines[1].get_marker()
    assert ax.get_title(loc="left") == "depth, n = 60"
    (dashed,) = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert dashed.get_ydata()[0] == pytest.approx(1 / 3)
    words = [text.get_text() for text in fig.legends[0].get_texts()]
    assert words == ["none", "dann", "clean", "95% interval", "chance, 1/3"]
    assert "Wilson" in severity.caption(records)


def test_an_interrupted_ladder_is_drawn_as_far_as_it_went(tmp_path):
    record = make_record(tmp_path, {"depth": LADDERS["depth"][:3], "seeing": [0.2]}, n=20)
    whole = record.unit("depth", 0.4)
    record.write_shard("depth", 0.4, 0, whole.iloc[:9].reset_index())
    ax = panel(severity.figure([record]), "depth")
    assert list(artist(ax, "accuracy 0").get_xdata()) == [1.0, 0.8, 0.6, 0.4]
    assert ax.get_title(loc="left") == "depth, n = 9 to 20"
    with pytest.raises(InputError, match="two or more finished strengths"):
        severity.figure([make_record(tmp_path / "one", {"seeing": [0.2]}, n=5)])


# ---------------------------------------------------------------------- gallery


def rows_of(fig) -> list[list]:
    axes = [ax for ax in fig.axes if ax.get_label() != "<colorbar>"]
    return [axes[k : k + 4] for k in range(0, len(axes), 4)]


def flipped(record: Record, ids, perturbation="onepixel", strength=1.0) -> list[bool]:
    rows, clean = record.unit(perturbation, strength).loc[ids], record.galaxies.loc[ids]
    before, after = (np.stack(table["logits"]).argmax(1) for table in (clean, rows))
    return list((before == clean["label"]) & (after != clean["label"]))


def test_gallery_shows_flipped_galaxies_first_and_rings_the_changed_pixel(grey):
    images, rows = grey.images("onepixel", 1.0), grey.unit("onepixel", 1.0)
    flips = flipped(grey, images["ids"])
    assert 0 < sum(flips) < len(flips)
    order = [k for k, f in enumerate(flips) if f] + [k for k, f in enumerate(flips) if not f]
    drawn = rows_of(gallery.figure([grey], count=3))
    assert len(drawn) == 3
    for line, k in zip(drawn[: min(3, sum(flips))], order, strict=False):
        change = images["perturbed"][k] - images["clean"][k]
        shown = line[2].images[0].get_array()
        assert np.asarray(shown) == pytest.approx(change[0], abs=1e-6)
        row, column = rows.loc[images["ids"][k], "rows"][0], rows.loc[images["ids"][k], "columns"][0]
        assert np.argwhere(np.asarray(shown)).tolist() == [[row, column]]
        for ax in line[:3]:
            ring = artist(ax, "changed pixel")
            assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (column, row)
            assert ring.get_markerfacecolor() == "none"


def test_gallery_says_classes_and_probabilities(grey):
    ids = grey.images("onepixel", 1.0)["ids"]
    galaxy = ids[flipped(grey, ids).index(True)]
    words = rows_of(gallery.figure([grey], count=1))[0][3].texts[0].get_text()
    before, after = grey.galaxies.loc[galaxy, "logits"], grey.unit("onepixel", 1.0).loc[galaxy, "logits"]
    p, q = (np.exp(v - np.max(v)) / np.exp(v - np.max(v)).sum() for v in (before, after))
    true = CLASSES[grey.galaxies.loc[galaxy, "label"]]
    assert f"true: {true}" in words
    assert f"predicted: {true} → {CLASSES[int(np.argmax(after))]}" in words
    for name, first, last in zip(CLASSES, p, q, strict=True):
        assert f"{first:.2f} → {last:.2f}  {name}" in words


def test_gallery_names_no_class_where_a_logit_is_not_finite(tmp_path):
    record = make_record(tmp_path, {"onepixel": [1.0]}, n=8)
    table = record.unit("onepixel", 1.0).reset_index()
    table["logits"] = [np.full(3, np.nan)] * 8
    record.write_shard("onepixel", 1.0, 0, table)
    words = rows_of(gallery.figure([record], count=1))[0][3].texts[0].get_text()
    assert "→ none (not finite)" in words


def test_difference_is_centred_on_zero_and_its_bar_has_units(grey, records):
    for record in (grey, records[0]):
        fig = gallery.figure([record])
        for line in rows_of(fig):
            low, high = line[2].images[0].get_clim()
            assert high == -low > 0
        (bar,) = [ax for ax in fig.axes if ax.get_label() == "<colorbar>"]
        assert bar.get_xlabel() == "change [input units]"


def test_three_bands_are_shown_blue_green_red_and_one_in_grey(grey, records):
    colour = rows_of(gallery.figure(records[:1], count=1))[0][0].images[0].get_array()
    assert colour.shape == (24, 24, 3)
    unit = next(u for u in records[0].units() if u.perturbation == "onepixel")
    chosen = gallery._chosen([gallery._pair(records[0], unit)], set(records[0].galaxies.index[:8]))[0]
    images = records[0].images("onepixel", 1.0)
    clean = images["clean"][list(images["ids"]).index(chosen)]
    low, high = np.percentile(clean, gallery.DISPLAYED)
    assert np.asarray(colour[..., 0]) == pytest.approx(np.clip((clean[2] - low) / (high - low), 0, 1), abs=1e-5)
    assert "g, r, i shown as blue, green, red" in gallery.caption(records)
    assert rows_of(gallery.figure([grey], count=1))[0][0].images[0].get_array().shape == (24, 24)
    assert "Band: r." in gallery.caption([grey])


def test_difference_is_that_of_the_band_that_changed_most(records):
    record = records[0]
    images = record.images("onepixel", 1.0)
    for line in rows_of(gallery.figure([record])):
        shown = np.asarray(line[2].images[0].get_array())
        ((row, column),) = np.argwhere(shown)
        changes = (images["perturbed"].astype(float) - images["clean"])[:, :, row, column]
        (k,) = [k for k in range(8) if np.isclose(changes[k], shown[row, column], atol=1e-6).any()]
        assert abs(shown[row, column]) == pytest.approx(np.abs(changes[k]).max(), abs=1e-6)


def test_display_images_keep_their_colours():
    image = np.stack([np.full((2, 2), v) for v in (0.1, 0.5, 0.9)])
    assert images.display(image, ("R", "G", "B"), 0.0, 1.0)[0, 0] == pytest.approx([0.1, 0.5, 0.9])
    assert images.display(image, ("g", "r", "i"), 0.0, 1.0)[0, 0] == pytest.approx([0.9, 0.5, 0.1])


def test_several_models_show_the_same_galaxies(records):
    drawn = rows_of(gallery.figure(records, count=2))
    assert [line[0].get_ylabel() for line in drawn] == ["none", "dann", "none", "dann"]
    for first, second in (drawn[:2], drawn[2:]):
        assert np.array_equal(first[0].images[0].get_array(), second[0].images[0].get_array())


def test_a_dense_perturbation_has_no_ring(records):
    line = rows_of(gallery.figure(records[:1], perturbation="depth", count=1))[0]
    assert not line[2].lines
    assert "depth at strength 0.1" in gallery.caption(records[:1], perturbation="depth")
    assert "depth at strength 0.8" in gallery.caption(records[:1], perturbation="depth", strength=0.8)
    with pytest.raises(InputError, match="no galaxy with images of defocus"):
        gallery.figure(records, perturbation="defocus")


# ---------------------------------------------------------------------- latent distances


def test_boxes_are_of_the_scaled_distances(records):
    fig = latent.figure(records[:1])
    record, (perturbation, strength) = records[0], ("depth", 0.1)  # the first row: the most severe rung of the first
    rows, clean = record.unit(perturbation, strength), record.galaxies
    shift = np.linalg.norm(np.stack(rows["latent"]) - np.stack(clean["latent"]), axis=1)
    centroids = record.head.centroids
    scale = np.mean([np.linalg.norm(centroids[a] - centroids[b]) for a, b in ((0, 1), (0, 2), (1, 2))])
    before, after = (np.stack(t["logits"]).argmax(1) for t in (clean, rows))
    kept, lost = (before == clean["label"]) & (after == before), np.array(flipped(record, clean.index, "depth", 0.1))
    medians = [line.get_xdata()[0] for line in fig.axes[0].lines if line.get_color() == "black"]
    assert medians[0] == pytest.approx(np.median(shift[kept]) / scale)
    assert medians[1] == pytest.approx(np.median(shift[lost]) / scale)
    counts = [text.get_text() for text in fig.axes[0].texts]
    assert counts[:2] == [f"n = {kept.sum()}", f"n = {lost.sum()}"]
    assert [text.get_text() for text in fig.axes[1].texts] == ["n = 60"] * 12


def boundary_by_hand(head, latents, labels) -> list[float]:
    """The smallest lead of the true class over another, in logits, over the distance of the two weights."""
    w, b = head.weight, head.bias
    return [
        min((z @ (w[y] - w[j]) + b[y] - b[j]) / np.linalg.norm(w[y] - w[j]) for j in range(3) if j != y)
        for z, y in zip(latents, labels, strict=True)
    ]


def test_boundary_distances_are_drawn_clean_in_open_and_perturbed_in_filled_boxes(records, tmp_path):
    few = make_record(tmp_path, {"depth": [0.1]}, n=11)
    for record in (records[0], few):
        rows, galaxies = record.unit("depth", 0.1), record.galaxies
        centroids = record.head.centroids
        scale = np.mean([np.linalg.norm(centroids[a] - centroids[b]) for a, b in ((0, 1), (0, 2), (1, 2))])
        clean, perturbed = (
            np.array(boundary_by_hand(record.head, table["latent"], galaxies["label"])) / scale
            for table in (galaxies, rows)
        )
        assert np.median(clean) > np.median(perturbed) + 0.1
        ax = latent.figure([record]).axes[1]
        if record is few:
            points = [line for line in ax.lines if line.get_marker() == "o"]
            assert points[0].get_xdata() == pytest.approx(clean)
            assert points[1].get_xdata() == pytest.approx(perturbed)
            assert [line.get_markerfacecolor() == "white" for line in points] == [True, False]
            continue
        medians = [line.get_xdata()[0] for line in ax.lines if line.get_color() == "black"]
        assert medians[:2] == pytest.approx([np.median(clean), np.median(perturbed)])
        for box, values in zip(ax.patches[:2], (clean, perturbed), strict=True):
            across = box.get_path().vertices[:, 0]
            assert [across.min(), across.max()] == pytest.approx(np.percentile(values, [25, 75]))
        assert [box.get_facecolor()[:3] == (1, 1, 1) for box in ax.patches[:2]] == [True, False]


def test_distance_axes_say_their_unit(records):
    fig = latent.figure(records)
    for ax, what in zip(fig.axes, ("latent shift", "distance to leave the true class"), strict=True):
        assert ax.get_xlabel() == f"{what}\n[mean distance between class centroids]"
    labels = [text.get_text() for text in fig.axes[0].get_yticklabels()]
    assert labels[:3] == ["depth, 0.1", "none", "dann"]
    assert "seeing, 1 arcsec" in labels
    assert "5 to 95 percentile" in latent.caption(records)
    assert "the sturdier model's are the harder ones. Right" in latent.caption(records)
    assert "sturdier" not in latent.caption(records[:1])


def test_few_values_are_drawn_as_points_and_a_strange_head_has_no_boundary(tmp_path):
    record = make_record(tmp_path, {"depth": [0.1]}, n=11)
    fig = latent.figure([record])
    points = [line for line in fig.axes[1].lines if line.get_marker() == "o"]
    assert [len(line.get_xdata()) for line in points] == [11, 11]
    head = record.head
    record.write_head(type(head)(None, None, head.centroids, kind="other"))
    assert len(latent.figure([Record.open(tmp_path)]).axes) == 1
    record.write_head(type(head)(None, None, None, kind="other"))
    with pytest.raises(InputError, match="class centroids"):
        latent.figure([Record.open(tmp_path)])


# ---------------------------------------------------------------------- heat map


def test_a_cell_is_the_accuracy_and_a_rung_that_was_not_run_is_hatched(records):
    record = records[0]
    fig = heatmap.figure([record])
    ax = fig.axes[0]
    values = np.asarray(ax.images[0].get_array().filled(np.nan))
    labels = [text.get_text() for text in ax.get_yticklabels()]
    assert labels[0] == "depth"
    assert "seeing [arcsec]" in labels
    for result in summarise(record):
        at = [label.partition(" ")[0] for label in labels].index(result["perturbation"])
        assert values[at, result["severity"] - 1] == pytest.approx(100 * result["perturbed_accuracy"]["value"])
    planned = sum(len(entry["ladder"]) for entry in record.run["perturbations"])
    done = int(np.isfinite(values).sum())
    assert len(ax.patches) == planned - done
    assert len(ax.texts) == 2 * done


def test_bold_cells_have_a_certain_drop(records):
    certain = {
        f"{100 * r['perturbed_accuracy']['value']:.0f}" for r in summarise(records[0]) if r["accuracy_drop"]["low"] > 0
    }
    bold = {text.get_text() for text in heatmap.figure(records[:1]).axes[0].texts if text.get_fontweight() == "bold"}
    assert bold
    assert bold == certain


def test_a_heat_map_of_two_perturbations_is_refused(tmp_path):
    with pytest.raises(InputError, match="three or more"):
        heatmap.figure([make_record(tmp_path, {"depth": [0.1], "jpeg": [10.0]})])


# ---------------------------------------------------------------------- all of them


TWO_DOMAINS = ("entropy", "tsne")  # see test_figures_domains


@pytest.mark.parametrize("name", [name for name in figures.FIGURES if name not in TWO_DOMAINS])
@pytest.mark.parametrize("suffix", [".png", ".pdf"])
def test_files_are_whole_and_the_same_every_time(name, suffix, records, tmp_path):
    module = figures.get(name)
    drawn = records if name == "comparison" else records[:1]
    before = dict(matplotlib.rcParams)
    for copy in "ab":
        save(module.figure(drawn), tmp_path / (copy + suffix))
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    assert b"Date" not in (tmp_path / f"a{suffix}").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"a{suffix}", f"b{suffix}"]
    assert dict(matplotlib.rcParams) == before
    assert module.caption(drawn)


@pytest.mark.parametrize("name", [name for name in figures.FIGURES if name not in TWO_DOMAINS])
def test_no_words_run_into_each_other(name, records):
    """Every visible text lies within the page, and tick labels and titles of an axis do not overlap."""
    fig = figures.get(name).figure(records)
    fig.draw_without_rendering()
    page = fig.bbox.padded(2)
    for ax in fig.axes:
        low, high = sorted(ax.get_xlim())
        # of an axis that shares its ticks with the one below, no labels
        ticks = [t for at, t in zip(ax.get_xticks(), ax.get_xticklabels(), strict=False) if low <= at <= high]
        low, high = sorted(ax.get_ylim())
        ticks += [t for at, t in zip(ax.get_yticks(), ax.get_yticklabels(), strict=False) if low <= at <= high]
        words = [*ax.texts, ax.xaxis.label, ax.yaxis.label, *ticks]
        boxes = [t.get_window_extent() for t in words if t.get_text() and t.get_visible() and ax.axison]
        assert all(page.contains(*box.min) and page.contains(*box.max) for box in boxes)
        assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])
    labels = [ax.xaxis.label.get_window_extent() for ax in fig.axes if ax.get_xlabel()]
    assert not any(a.overlaps(b) for k, a in enumerate(labels) for b in labels[:k])


def test_names_are_checked(records, tmp_path):
    with pytest.raises(InputError, match="Did you mean 'gallery'"):
        figures.get("galery")
    with pytest.raises(InputError, match=r"\.png, \.jpg, \.pdf or \.svg"):
        save(latent.figure(records), tmp_path / "figure.gif")
    with pytest.raises(InputError, match="one name per run"):
        model_names(records, ["only"])
    with pytest.raises(InputError, match="no run to draw"):
        severity.figure([])
    assert model_names([records[0], records[0]]) == ["none (run 1)", "none (run 2)"]
    assert model_names(records, ["a", "b"]) == ["a", "b"]
