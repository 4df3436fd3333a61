"""Confusion matrices, church windows and isomaps: classes by hand, scikit-learn, and a curve that is unrolled."""

import dataclasses

import numpy as np
import pytest
import sklearn.metrics
from matplotlib.colors import to_rgb
from scipy.sparse.csgraph import shortest_path
from scipy.spatial.distance import pdist, squareform
from scipy.stats import linregress, spearmanr
from sklearn.neighbors import kneighbors_graph
from synthetic_records import CLASSES, galaxy_table, make_record, unit_table

from perturbations.errors import InputError
from robustastro import figures
from robustastro.figures import church, isomap
from robustastro.figures import confusion as drawing
from robustastro.figures.style import colours
from robustastro.metrics.confusion import confusion, shares
from robustastro.record import Head, Record

UNITS = {"depth": [0.8, 0.1], "onepixel": [1.0], "jpeg": [80.0, 10.0]}


@pytest.fixture
def record(tmp_path) -> Record:
    return make_record(tmp_path / "none", UNITS, "none")


def stack(table, column: str) -> np.ndarray:
    return np.stack(table[column])


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


# ---------------------------------------------------------------------- confusion


def test_confusion_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 4, (2, 300))
    found = confusion(labels, predicted, 4)
    assert np.array_equal(found[:, :4], sklearn.metrics.confusion_matrix(labels, predicted))
    assert not found[:, 4].any()
    normal = sklearn.metrics.confusion_matrix(labels, predicted, normalize="true")
    assert np.allclose(shares(found)[:, :4], normal)


def test_unknown_labels_are_left_out_and_no_class_is_a_column_of_its_own():
    found = confusion(np.array([0, 0, 0, 1, -1, -1]), np.array([0, 1, -1, 1, 0, -1]), 3)
    assert found.tolist() == [[1, 1, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert np.allclose(shares(found)[:2], [[1 / 3, 1 / 3, 0, 1 / 3], [0, 1, 0, 0]])
    assert np.isnan(shares(found)[2]).all()


def test_panels_are_clean_and_the_most_severe_strengths(record):
    fig = drawing.figure([record])
    panels = [ax for ax in fig.axes if ax.get_title()]
    assert [ax.get_title() for ax in panels] == ["clean", "depth\n0.1", "onepixel\n1 pixel", "jpeg\n10"]
    labels = record.galaxies["label"]
    for ax, table in zip(panels, (record.galaxies, *(record.unit(p, UNITS[p][-1]) for p in UNITS)), strict=True):
        predicted = stack(table, "logits").argmax(axis=1)
        share = sklearn.metrics.confusion_matrix(labels, predicted, normalize="true")
        counts = sklearn.metrics.confusion_matrix(labels, predicted)
        assert np.allclose(ax.images[0].get_array(), share)  # rows: true classes
        assert texts(ax) == [f"{s:.2f}\n({c})" for s, c in zip(share.ravel(), counts.ravel(), strict=True)]
        n = [text.get_text().split("n = ")[1] for text in ax.get_yticklabels()]
        assert n == [str(m) for m in np.bincount(labels)]


def test_the_most_harmful_perturbations_are_kept(tmp_path):
    record = make_record(tmp_path, {"depth": [0.8], "seeing": [0.2], "jpeg": [80.0], "pgd": [0.004], "onepixel": [1.0]})
    head, labels = record.head, record.galaxies["label"].to_numpy()
    for name, wrong in (("depth", 10), ("seeing", 40), ("jpeg", 20), ("pgd", 5), ("onepixel", 30)):
        latent = head.centroids[np.where(np.arange(60) < wrong, (labels + 1) % 3, labels)]
        (strength,) = [u.strength for u in record.units() if u.perturbation == name]
        record.write_shard(name, strength, 0, unit_table(list(record.galaxies.index), latent, head))
    titles = [ax.get_title().split("\n")[0] for ax in drawing.figure([record]).axes if ax.get_title()]
    assert titles == ["clean", "seeing", "jpeg", "onepixel"]
    assert "2 more perturbations" in drawing.caption([record])


def test_one_strength_can_be_chosen(record):
    titles = [a.get_title() for a in drawing.figure([record], perturbation="depth", strength=0.8).axes if a.get_title()]
    assert titles == ["clean", "depth\n0.8"]
    with pytest.raises(InputError, match=r"no finished unit of depth at 0\.3"):
        drawing.figure([record], perturbation="depth", strength=0.3)


def test_predictions_without_a_record_are_drawn_too():
    labels, seen = np.array([0, 0, 1]), np.array([0, 1, -1])
    fig = drawing.draw([drawing.Panel("Y10", labels, labels), drawing.Panel("Y1", labels, seen)], ["a", "b"])
    first, second = [ax for ax in fig.axes if ax.get_title()]
    assert np.allclose(first.images[0].get_array(), [[1, 0, 0], [0, 1, 0]])
    assert np.allclose(second.images[0].get_array(), [[0.5, 0.5, 0], [0, 0, 1]])
    assert [t.get_text() for t in second.get_xticklabels()] == ["a", "b", "none"]


def test_confusion_refuses_what_has_no_labels_or_other_classes(record, tmp_path):
    other = make_record(tmp_path / "other", {"depth": [0.1]})
    run = other.run
    other.write_run(run | {"contract": run["contract"] | {"classes": ["a", "b", "c"]}})
    for module in (drawing, church, isomap):
        with pytest.raises(InputError, match="different classes"):
            module.figure([record, other])
    record.write_galaxies(record.galaxies.reset_index().assign(label=-1))
    for module in (drawing, isomap):
        with pytest.raises(InputError, match="no labelled galaxies"):
            module.figure([record])


# ---------------------------------------------------------------------- church windows


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_classes_of_the_window_are_those_of_the_head_point_by_point(kind):
    rng = np.random.default_rng(1)
    weight, bias = rng.normal(size=(4, 6)) * [[0.2], [1.0], [3.0], [0.5]], rng.normal(size=4)
    head = Head(weight, bias if kind == "linear" else None, None, kind=kind)
    latent = rng.normal(size=(3, 6))
    a, b = np.linspace(-1.1, 1.1, 9), np.linspace(-1.1, 1.1, 7)
    found = church.window(head, latent, a, b)
    assert found.shape == (7, 9)
    z, attacked, shallow = latent
    for row, over in enumerate(b):
        for column, along in enumerate(a):
            point = z + along * (attacked - z) + over * (shallow - z)
            logits = [
                w @ point + c if kind == "linear" else w @ point / np.linalg.norm(w) / np.linalg.norm(point)
                for w, c in zip(weight, bias, strict=True)
            ]
            assert found[row, column] == int(np.argmax(logits))
    assert len(np.unique(found)) > 1


def test_each_mark_lies_in_the_class_that_its_words_name(record):
    fig = church.figure([record])
    depth, pixel = record.unit("depth", 0.1), record.unit("onepixel", 1.0)
    assert len(fig.axes) == church.ROWS
    for ax in fig.axes:
        lines = ax.get_title(loc="left").split("\n")
        galaxy = lines[0].removeprefix("galaxy ")
        image = ax.images[0]
        left, right, bottom, top = image.get_extent()
        assert (left, right, bottom, top) == (-1.1, 1.1, -1.1, 1.1)
        classes, _ = image.get_array(), image.origin
        assert image.origin == "lower"
        places = [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in ax.lines]
        assert places == [(0, 0), (1, 0), (0, 1)]  # clean, attacked, shallow
        assert len({line.get_marker() for line in ax.lines}) == 3
        for (x, y), table, words in zip(places, (record.galaxies, pixel, depth), lines[2:5], strict=True):
            logits = np.asarray(table.loc[galaxy, "logits"])
            k = int(logits.argmax())
            p = np.exp(logits - logits.max())
            assert words[1:] == f": {CLASSES[k]} {p.max() / p.sum():.2f}"
            assert classes[round((y + 1.1) * 100), round((x + 1.1) * 100)] == k
            assert np.allclose(image.cmap(image.norm(k))[:3], colours(3)[k])
        z, u, v = (np.asarray(t.loc[galaxy, "latent"]) for t in (record.galaxies, pixel, depth))
        u, v = u - z, v - z
        scale = np.linalg.norm(record.head.centroids[0] - record.head.centroids[1])
        angle = np.degrees(np.arccos(u @ v / np.linalg.norm(u) / np.linalg.norm(v)))
        expected = f"|u| {np.linalg.norm(u) / scale:.2g}, |v| {np.linalg.norm(v) / scale:.2g}, {angle:.0f}°"
        assert lines[5] == expected
    patches = [h for h in fig.legends[0].legend_handles if hasattr(h, "get_facecolor") and hasattr(h, "get_width")]
    assert [to_rgb(p.get_facecolor()) for p in patches] == [to_rgb(c) for c in colours(3)]


def test_galaxies_are_those_flipped_in_the_first_model_and_the_same_of_every_model(record, tmp_path):
    other = make_record(tmp_path / "dann", UNITS, "dann", harm=0.2)
    fig = church.figure([record, other])
    rows = [ax.get_title(loc="left").split("\n")[0].split(", galaxy ") for ax in fig.axes]
    assert [name for name, _ in rows] == ["none", "dann"] * 3
    assert [g for name, g in rows if name == "none"] == [g for name, g in rows if name == "dann"]
    labels = record.galaxies["label"]
    for _, galaxy in rows:
        assert np.argmax(record.galaxies.loc[galaxy, "logits"]) == labels[galaxy]
        assert np.argmax(record.unit("onepixel", 1.0).loc[galaxy, "logits"]) != labels[galaxy]
    assert f"from {int(church.views(record).flipped.sum())} that the attack flipped in none" in church.caption([record])


def test_a_galaxy_that_was_wrong_or_has_no_label_is_not_flipped():
    clean, attacked = np.eye(3)[[0, 0, 1, 0]], np.eye(3)[[0, 1, 2, 1]]
    seen = church.Views(
        np.arange(4), np.array([0, 0, 0, -1]), np.zeros((3, 4, 2)), np.stack([clean, attacked, clean]), "", ""
    )
    assert seen.flipped.tolist() == [False, True, False, False]


def test_the_shallow_images_may_come_from_another_run_of_the_same_model(record, tmp_path):
    thin = make_record(tmp_path / "thin", {"jpeg": [80.0]}, "none")
    moved = stack(record.galaxies, "latent") + 0.5
    ids = list(record.galaxies.index)
    shuffled = np.random.default_rng(3).permutation(60)
    table = galaxy_table(
        [ids[k] for k in shuffled], record.galaxies["label"].to_numpy()[shuffled], moved[shuffled], thin.head
    )
    thin.write_galaxies(table.iloc[:50])
    found = church.views(record, thin)
    kept = np.isin(np.array(ids), table["id"].iloc[:50])
    assert found.ids.tolist() == np.array(ids)[kept].tolist()
    assert np.allclose(found.latent[2], moved[kept])
    assert np.allclose(found.latent[0], moved[kept] - 0.5)
    assert found.shallow == "synthetic"
    assert church.figure([record], shallow=[thin]).axes
    assert isomap.figure([record], shallow=[thin]).axes
    with pytest.raises(InputError, match="another model"):
        church.views(record, make_record(tmp_path / "else", {"jpeg": [80.0]}, "dann"))
    with pytest.raises(InputError, match="0 shallow runs for 1 runs"):
        church.figure([record], shallow=[])


def test_galaxies_that_are_not_finite_are_left_out(record):
    rows = record.unit("onepixel", 1.0).reset_index()
    rows.at[0, "logits"] = np.array([np.nan, 0.0, 0.0])
    rows.at[1, "latent"] = np.full(8, np.inf)
    record.write_shard("onepixel", 1.0, 0, rows)
    assert church.views(record).ids.tolist() == list(record.galaxies.index[2:])


def test_a_galaxy_without_a_plane_is_skipped_or_said(record, tmp_path):
    ids = list(record.galaxies.index)
    clean, attacked = stack(record.galaxies, "latent"), stack(record.unit("onepixel", 1.0), "latent")
    flipped = church.views(record).flipped
    assert flipped.sum() > 3
    along = clean + 2.0 * (attacked - clean)  # the same way, but further
    free = np.flatnonzero(flipped)[:1]
    along[free] = clean[free] + np.arange(8)
    record.write_shard("depth", 0.1, 0, unit_table(ids, along, record.head))
    (ax,) = church.figure([record]).axes
    assert ids[free[0]] in ax.get_title(loc="left")
    assert f"{flipped.sum() - 1} of which span no plane" in church.caption([record])
    still = make_record(tmp_path / "still", UNITS, "still")
    still.write_shard("onepixel", 1.0, 0, unit_table(ids, stack(still.galaxies, "latent"), still.head))
    first, second = church.figure([record, still]).axes
    assert not texts(first)
    assert texts(second) == ["u and v span no plane"]
    assert not second.images
    with pytest.raises(InputError, match="no galaxy of 60"):
        church.figure([still])


def test_heads_without_flat_boundaries_have_no_window(record):
    bent = dataclasses.replace(record.head, weight=None, bias=None, kind="other")
    record.write_head(bent)
    with pytest.raises(InputError, match="not linear"):
        church.figure([record])


def test_runs_without_the_attack_or_its_latents_are_refused(record, tmp_path):
    for module in (church, isomap):
        with pytest.raises(InputError, match="no finished unit of onepixel"):
            module.figure([make_record(tmp_path / module.__name__, {"depth": [0.1]})])
    rows = record.unit("depth", 0.1).reset_index().drop(columns="latent")
    record.write_shard("depth", 0.1, 0, rows)
    with pytest.raises(InputError, match="depth kept no latents"):
        church.figure([record])
    assert church.figure([record], depth="jpeg").axes


def test_the_choice_by_key_looks_at_the_ids_only():
    ids = np.array([f"galaxy-{k}" for k in range(20)])
    chosen = ids[church.by_key(ids)].tolist()
    assert chosen == ids[::-1][church.by_key(ids[::-1])].tolist()
    assert sorted(chosen) == sorted(ids)
    assert chosen != sorted(chosen)


# ---------------------------------------------------------------------- isomap


def test_a_curve_is_unrolled():
    """Along a spiral the first coordinate is the arc length, which no flat projection gives."""
    turn = np.sort(np.random.default_rng(0).uniform(1.0, 4 * np.pi, 150))
    spiral = np.stack([turn * np.cos(turn), turn * np.sin(turn), np.zeros(150)], axis=1)
    basis = np.linalg.qr(np.random.default_rng(1).normal(size=(9, 3)))[0]
    found = isomap.embed(spiral @ basis.T, 2, neighbours=5)
    assert abs(spearmanr(found.points[:, 0], turn)[0]) > 0.999
    length = np.hypot(*np.diff(spiral[:, :2], axis=0).T).sum()
    assert np.ptp(found.points[:, 0]) == pytest.approx(length, rel=0.02)
    assert found.residual < 0.01
    assert found.trustworthiness > 0.99
    assert found.parts == 1
    graph = kneighbors_graph(spiral, 5, mode="distance")
    along = squareform(shortest_path(graph, directed=False), checks=False)
    assert found.residual == pytest.approx(1 - linregress(along, pdist(found.points)).rvalue ** 2)
    again = isomap.embed(spiral @ basis.T, 2, neighbours=5)
    assert np.array_equal(found.points, again.points)


def test_a_layout_that_loses_something_says_so():
    ball = np.random.default_rng(0).normal(size=(120, 8))
    flat, solid = isomap.embed(ball, 2), isomap.embed(ball, 3)
    assert flat.trustworthiness < solid.trustworthiness < 0.95
    assert flat.residual > solid.residual > 0.05
    apart = isomap.embed(np.concatenate([ball, ball + 100.0]), 2)
    assert apart.parts == 2


def test_too_few_points_are_refused():
    with pytest.raises(InputError, match="11 points"):
        isomap.embed(np.random.default_rng(0).normal(size=(11, 4)), 2)
    with pytest.raises(InputError, match="all in one place"):
        isomap.embed(np.ones((30, 4)), 2)


def test_every_view_of_every_galaxy_is_drawn_by_class_and_view(record):
    rows, clean = record.unit("onepixel", 1.0).reset_index(), record.galaxies
    for k in range(7):  # as those that were wrong and so were not attacked
        rows.at[k, "latent"] = clean["latent"].iloc[k]
    record.write_shard("onepixel", 1.0, 0, rows)
    flat, solid = isomap.figure([record]).axes
    labels = clean["label"].to_numpy()
    for domain, galaxies in enumerate((np.arange(60), np.arange(7, 60), np.arange(60))):
        for k in range(3):
            (found,) = [c for c in flat.collections if c.get_gid() == f"domain {domain} class {k}"]
            assert len(found.get_offsets()) == (labels[galaxies] == k).sum()
            assert np.allclose(found.get_facecolor()[0, :3], colours(3)[k])
    assert "n = 60 clean, 53 attacked, 60 shallow" in flat.get_title(loc="left")
    assert flat.get_title(loc="left").count("trustworthiness") == 1
    assert solid.get_title().startswith("3D: trustworthiness")


def test_the_layout_does_not_depend_on_the_scale_of_the_latent_space(record):
    def places() -> np.ndarray:
        return np.concatenate([c.get_offsets() for c in isomap.figure([record]).axes[0].collections])

    before, head, ids = places(), record.head, list(record.galaxies.index)
    stretched = dataclasses.replace(head, centroids=4.0 * head.centroids)
    units = {
        (u.perturbation, u.strength): stack(record.unit(u.perturbation, u.strength), "latent") for u in record.units()
    }
    record.write_galaxies(
        galaxy_table(ids, record.galaxies["label"].to_numpy(), 4.0 * stack(record.galaxies, "latent"), head)
    )
    record.write_head(stretched)
    for (name, strength), latent in units.items():
        record.write_shard(name, strength, 0, unit_table(ids, 4.0 * latent, head))
    assert np.allclose(places(), before)


def test_large_runs_are_cut_by_key(tmp_path):
    record = make_record(tmp_path, {"depth": [0.1], "onepixel": [1.0]}, n=300)
    unknown = record.galaxies["label"].where(np.arange(300) != church.by_key(record.galaxies.index)[0], -1)
    record.write_galaxies(record.galaxies.assign(label=unknown).reset_index())
    ax = isomap.figure([record]).axes[0]
    assert "n = 160 clean, 160 attacked, 160 shallow" in ax.get_title(loc="left")
    assert "160 galaxies, chosen by key" in isomap.caption([record])


def test_the_three_are_listed():
    assert {"confusion", "church", "isomap"} <= set(figures.FIGURES)
