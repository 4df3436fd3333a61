"""ROC curves, t-SNE maps, entropies and open-set confusion: what is drawn, read back, is what the runs hold."""

import math

import matplotlib
import numpy as np
import pytest
import sklearn.metrics
from matplotlib.colors import to_rgb
from scipy.stats import entropy as scipy_entropy
from sklearn.manifold import TSNE
from synthetic_records import galaxy_table, run_json

from perturbations.errors import InputError
from robustastro import figures
from robustastro.cli import main
from robustastro.figures import confusion as confusion_figure
from robustastro.figures import entropy, roc, tsne
from robustastro.figures.domains import by_domain, by_model
from robustastro.figures.style import colours, save
from robustastro.metrics.classification import classification_of
from robustastro.metrics.confusion import confusion, with_unknown
from robustastro.metrics.open_set import auroc, true_classes
from robustastro.metrics.probabilities import softmax
from robustastro.record import Head, Record

THREE, TWO = ("spiral", "elliptical", "merger"), ("other", "merger")


def made(path, name="none", domain="SDSS", classes=THREE, n=150, seed=0, lenses=0, noise=0.9) -> Record:
    """Galaxies around the centroids of their classes, `lenses` of a class that the model does not know."""
    rng = np.random.default_rng([seed, len(domain), len(name)])
    k = len(classes)
    centroids = 3.0 * np.eye(k, 8)
    labels = np.append(np.arange(n) % k, np.full(lenses, -1))
    middle = np.where(labels[:, None] >= 0, centroids[labels], centroids.mean(axis=0))
    latent = middle + rng.normal(0.0, noise, middle.shape)
    latent[:, -1] += 6.0 * (labels < 0)
    head = Head(0.7 * centroids, np.zeros(k), centroids, "")
    record, run = Record(path / f"{name}-{domain}-{seed}"), run_json(name, {}, ("g", "r", "i"), n, seed)
    run["data"]["domain"], run["contract"]["classes"] = domain, list(classes)
    record.write_run(run)
    record.write_head(head)
    table = galaxy_table([f"{domain}-{i}" for i in range(len(labels))], labels, latent, head)
    if lenses:
        table["class"] = [classes[label] if label >= 0 else "strong lens" for label in labels]
    record.write_galaxies(table)
    return record


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> list[Record]:
    """One model on source and target; the target has lenses."""
    root = tmp_path_factory.mktemp("pair")
    return [made(root), made(root, domain="DECaLS", lenses=30)]


@pytest.fixture(scope="module")
def mergers(tmp_path_factory) -> list[Record]:
    """Two methods, three trainings each, in two domains."""
    root = tmp_path_factory.mktemp("mergers")
    return [
        made(root, name, domain, TWO, seed=seed, noise=2.5)
        for domain in ("pristine", "noisy z=2")
        for name in ("none", "mmd")
        for seed in range(3)
    ]


def lines(ax, gid):
    return [line for line in ax.lines if line.get_gid() == gid]


# ---------------------------------------------------------------------- sorting


def test_runs_are_sorted_by_domain_method_and_training(mergers, pair):
    found = by_domain(mergers)
    assert [(d, [(m, len(runs)) for m, runs in methods]) for d, methods in found] == [
        ("pristine", [("none", 3), ("mmd", 3)]), ("noisy z=2", [("none", 3), ("mmd", 3)]),
    ]  # fmt: skip
    renamed = by_domain(mergers[:6], ["a", "b"] * 3)
    assert [(m, [r.path for r in runs]) for m, runs in renamed[0][1]] == [
        ("a", [mergers[k].path for k in (0, 2, 4)]), ("b", [mergers[k].path for k in (1, 3, 5)]),
    ]  # fmt: skip
    models = by_model([*mergers[:2], *mergers[6:8]])
    assert [[r.path for r in runs] for _, runs in models] == [
        [mergers[0].path, mergers[6].path], [mergers[1].path, mergers[7].path],
    ]  # fmt: skip
    assert len({name for name, _ in models}) == 2
    assert by_model(pair, ["before", "after"])[0][0] == "before"
    with pytest.raises(InputError, match="two runs of none on SDSS"):
        by_model([pair[0], pair[0]])
    for sort in (by_model, by_domain):
        with pytest.raises(InputError, match="no run"):
            sort([])


# ---------------------------------------------------------------------- ROC


def test_roc_curves_have_the_areas_that_stand_beside_them(mergers):
    fig = roc.figure(mergers)
    assert [ax.get_title(loc="left") for ax in fig.axes] == [
        "pristine\nn = 150, 75 merger", "noisy z=2\nn = 150, 75 merger",
    ]  # fmt: skip
    for panel, ax in enumerate(fig.axes):
        legend = [text.get_text() for text in ax.get_legend().get_texts()]
        for arm, name in enumerate(("none", "mmd")):
            runs = mergers[6 * panel + 3 * arm :][:3]
            areas = []
            for run, line in zip(runs, lines(ax, f"training of {name}"), strict=True):
                odds = np.diff(np.stack(run.galaxies["logits"]), axis=1)[:, 0]
                area = sklearn.metrics.roc_auc_score(run.galaxies["label"], odds)
                assert np.trapezoid(line.get_ydata(), line.get_xdata()) == pytest.approx(area)
                areas.append(area)
            (thick,) = lines(ax, f"mean of {name}")
            assert np.trapezoid(thick.get_ydata(), thick.get_xdata()) == pytest.approx(np.mean(areas), abs=0.002)
            found = classification_of(runs)["auc"]
            assert found["value"] == pytest.approx(np.mean(areas))
            assert legend[arm] == f"{name}: AUC {found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"
    assert len({line.get_linestyle() for line in fig.axes[0].lines if str(line.get_gid()).startswith("mean")}) == 2
    words = roc.caption(mergers)
    assert "none (3), mmd (3)" in words
    assert "merger against other" in words
    assert "pristine: 150" in words


def test_the_class_that_is_looked_for_can_be_named(mergers):
    first = roc.figure(mergers[:3], positive="other").axes[0]
    assert first.get_title(loc="left") == "pristine\nn = 150, 75 other"
    assert "other against merger" in roc.caption(mergers[:3], positive="other")
    with pytest.raises(InputError, match="Did you mean 'merger'"):
        roc.figure(mergers[:3], positive="mergers")


def test_of_more_classes_the_mean_of_all_is_drawn(pair):
    (ax,) = roc.figure(pair[:1]).axes
    (line,) = lines(ax, "mean of none")
    p = softmax(np.stack(pair[0].galaxies["logits"]))
    area = sklearn.metrics.roc_auc_score(pair[0].galaxies["label"], p, multi_class="ovr")
    assert np.trapezoid(line.get_ydata(), line.get_xdata()) == pytest.approx(area, abs=0.002)
    assert ax.get_title(loc="left") == "SDSS\nn = 150"
    assert "each of 3 classes" in roc.caption(pair[:1])
    # lenses have no label: left out
    assert roc.figure(pair[1:]).axes[0].get_title(loc="left") == "DECaLS\nn = 150"


def test_runs_that_cannot_be_drawn_together_are_refused(mergers, pair, tmp_path):
    with pytest.raises(InputError, match="different classes"):
        roc.figure([mergers[0], pair[0]])
    fewer = made(tmp_path, "dann", "pristine", TWO, n=100)
    with pytest.raises(InputError, match="100 and 150 labelled galaxies on pristine"):
        roc.figure([mergers[0], fewer])


# ---------------------------------------------------------------------- t-SNE


def test_maps_are_those_of_scikit_learn_with_every_galaxy_in_its_place(pair):
    (ax,) = tsne.figure(pair).axes
    latent = np.concatenate([np.stack(r.galaxies["latent"]) for r in pair])
    scaled = latent / latent.std()
    points = TSNE(perplexity=30.0, init="pca", random_state=0).fit_transform(scaled)
    classes = np.concatenate([true_classes(r)[0] for r in pair])
    domains = np.repeat(["SDSS", "DECaLS"], [150, 180])
    found = {c.get_gid(): c for c in ax.collections}
    assert set(found) == {f"{d}: {c}" for d in ("SDSS", "DECaLS") for c in THREE} | {"DECaLS: strong lens"}
    known = dict(zip(THREE, colours(3), strict=True)) | {"strong lens": (0.0, 0.0, 0.0)}
    for gid, drawn in found.items():
        domain, name = gid.split(": ")
        chosen = points[(domains == domain) & (classes == name)]
        offsets = np.asarray(drawn.get_offsets())
        assert np.allclose(offsets[np.argsort(offsets[:, 0])], chosen[np.argsort(chosen[:, 0])], atol=1e-4)
        assert to_rgb(drawn.get_edgecolor()[0]) == pytest.approx(known[name])
        assert len(drawn.get_facecolor()) == (1 if domain == "SDSS" else 0)  # filled and open
    assert "n = 150 + 180" in ax.get_title(loc="left")
    words = tsne.caption(pair)
    assert "Perplexity 30" in words
    assert "Filled: SDSS; open: DECaLS. Black and grey: strong lens" in words


def test_maps_need_two_domains_and_enough_galaxies(pair, tmp_path):
    with pytest.raises(InputError, match="SDSS alone"):
        tsne.figure(pair[:1])
    with pytest.raises(InputError, match="6 points"):
        tsne.embed(np.random.default_rng(0).normal(size=(6, 3)))
    with pytest.raises(InputError, match="not finite"):
        tsne.embed(np.full((20, 3), np.nan))
    small = [made(tmp_path, domain=d, n=20) for d in ("SDSS", "DECaLS")]
    assert "n = 20 + 20" in tsne.figure(small).axes[0].get_title(loc="left")  # fewer than three times the perplexity


def test_the_scale_of_a_latent_space_changes_nothing():
    latent = np.random.default_rng(0).normal(size=(60, 5)) * [1, 1, 1, 4, 4]
    assert np.allclose(tsne.embed(latent)[0], tsne.embed(1e-3 * latent)[0], atol=0.5)


# ---------------------------------------------------------------------- entropy


def test_histograms_hold_the_entropies_of_every_kind(pair):
    (ax,) = entropy.figure(pair).axes
    labels = pair[1].galaxies["label"].to_numpy()
    source, target = (scipy_entropy(softmax(np.stack(r.galaxies["logits"])), axis=1) for r in pair)
    rho = math.log(3) / 2
    kinds = {
        "known, SDSS": source, "known, DECaLS": target[labels >= 0], "unknown: strong lens": target[labels < 0],
    }  # fmt: skip
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    edges = np.linspace(0, math.log(3), entropy.BINS + 1)
    for (name, values), words in zip(kinds.items(), legend, strict=True):
        (drawn,) = [p for p in ax.patches if p.get_gid() == name]
        heights, found, _ = drawn.get_data()
        assert found == pytest.approx(edges)
        assert heights == pytest.approx(np.histogram(values, edges)[0] / len(values))
        assert heights.sum() == pytest.approx(1.0)
        assert words == f"{name} ({len(values)}, {100 * np.mean(values > rho):.0f}%)"
    (line,) = lines(ax, "rho")
    assert list(line.get_xdata()) == [rho, rho]
    wanted = auroc(target, labels < 0)
    assert ax.get_title(loc="left") == f"none\nAUROC {wanted.value:.2f} [{wanted.low:.2f}, {wanted.high:.2f}]"
    assert wanted.value == pytest.approx(sklearn.metrics.roc_auc_score(labels < 0, target))
    assert "rho = log(K) / 2 = 0.55 nats" in entropy.caption(pair)
    assert list(lines(entropy.figure(pair, rho=0.3).axes[0], "rho")[0].get_xdata()) == [0.3, 0.3]
    assert "rho = 0.30 nats" in entropy.caption(pair, rho=0.3)


def test_without_an_unknown_class_there_is_no_histogram(pair):
    with pytest.raises(InputError, match="unknown class in 0 of 1 runs"):
        entropy.figure(pair[:1])


def test_what_the_true_classes_are(pair, tmp_path):
    names, unknown = true_classes(pair[1])
    assert (names[unknown] == "strong lens").all()
    assert unknown.sum() == 30
    assert (names[:3].tolist(), names.shape) == (list(THREE), (180,))
    record = made(tmp_path, lenses=4, n=6)
    table = record.galaxies.reset_index()
    table["class"] = [*table["class"][:6], "strong lens", "spiral", None, ""]
    record.write_galaxies(table)
    names, unknown = true_classes(record)
    assert names[6:].tolist() == ["strong lens", "spiral", "", ""]
    assert unknown.tolist() == [False] * 6 + [True] + [False] * 3  # a known class without a label is not unknown
    record.write_galaxies(table.drop(columns="class"))
    assert not true_classes(record)[1].any()


# ---------------------------------------------------------------------- confusion with an unknown class


def test_sure_galaxies_have_a_class_and_others_are_unknown():
    p = np.array([[0.98, 0.01, 0.01], [0.4, 0.3, 0.3], [0.01, 0.98, 0.01], [0.34, 0.33, 0.33], [np.nan] * 3])
    labels, strange = np.array([0, 0, -1, -1, 2]), np.array([False, False, True, True, False])
    true, called = with_unknown(labels, strange, p)
    assert (true.tolist(), called.tolist()) == ([0, 0, 3, 3, 2], [0, 3, 1, 3, 3])
    assert confusion(true, called, 4).tolist() == [
        [1, 0, 0, 1, 0], [0, 0, 0, 0, 0], [0, 0, 0, 1, 0], [0, 1, 0, 1, 0],
    ]  # fmt: skip
    assert with_unknown(labels, strange, p[:4].repeat([1, 1, 1, 2], axis=0), 0.05)[1].tolist() == [3] * 5
    assert with_unknown(labels, ~strange & False, p)[0].tolist() == [0, 0, -1, -1, 2]  # nothing known of them: left out


def test_the_last_row_and_column_are_unknown(pair):
    fig = confusion_figure.open_figure(pair[1:])
    ax = fig.axes[0]
    p, labels = softmax(np.stack(pair[1].galaxies["logits"])), pair[1].galaxies["label"].to_numpy()
    called = np.where(scipy_entropy(p, axis=1) > math.log(3) / 2, 3, p.argmax(1))
    wanted = sklearn.metrics.confusion_matrix(np.where(labels < 0, 3, labels), called, normalize="true")
    assert np.allclose(ax.images[0].get_array(), wanted)
    assert [t.get_text() for t in ax.get_xticklabels()] == [*THREE, "unknown"]
    assert [t.get_text() for t in ax.get_yticklabels()] == [*(f"{c}\nn = 50" for c in THREE), "strong lens\nn = 30"]
    words = confusion_figure.open_caption(pair[1:])
    assert "the last (strong lens) not known" in words
    assert "0.55 nats" in words
    all_known = confusion_figure.open_figure(pair[1:], rho=math.log(3))
    assert not np.asarray(all_known.axes[0].images[0].get_array())[:, 3].any()


def test_many_classes_have_room(tmp_path):
    classes = tuple(f"kind of galaxy {k}" for k in range(9))
    fig = confusion_figure.open_figure([made(tmp_path, classes=classes, lenses=9)])
    fig.draw_without_rendering()
    boxes = [t.get_window_extent() for t in fig.axes[0].get_yticklabels()]
    assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])
    assert fig.axes[0].get_yticklabels()[9].get_text() == "strong lens, n = 9"


# ---------------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", ["roc", "entropy", "tsne"])
def test_files_are_the_same_every_time_and_words_stay_apart(name, pair, tmp_path):
    module, before = figures.get(name), dict(matplotlib.rcParams)
    for copy in "ab":
        save(module.figure(pair), tmp_path / f"{copy}.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert dict(matplotlib.rcParams) == before
    fig = module.figure(pair)
    fig.draw_without_rendering()
    page = fig.bbox.padded(2)
    for ax in fig.axes:
        legend = ax.get_legend()
        parts = [ax.xaxis.label, ax.yaxis.label, ax.title, *ax.texts, *([legend] if legend else [])]
        boxes = [t.get_window_extent() for t in parts if not hasattr(t, "get_text") or t.get_text()]
        assert all(page.contains(*box.min) and page.contains(*box.max) for box in boxes)
        assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])


def status(*arguments: str) -> object:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return ended.value.code


def test_the_command_line_draws_them(pair, tmp_path):
    runs = [str(record.path) for record in pair]
    for name in ("roc", "entropy", "tsne"):
        assert status("figure", name, *runs, "--out", str(tmp_path / f"{name}.pdf")) == 0
        assert (tmp_path / f"{name}.pdf").exists()
    assert status("figure", "tsne", runs[0], "--out", str(tmp_path / "none.pdf")) == 2
