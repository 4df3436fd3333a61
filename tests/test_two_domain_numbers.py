"""Numbers of studies of a source and a target: each counted again by hand, and in its column of the page."""

from dataclasses import replace
from importlib.resources import files
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import make_blobs
from scipy.special import softmax
from scipy.stats import entropy
from sklearn.metrics import brier_score_loss, f1_score, precision_score, recall_score, roc_auc_score
from synthetic_records import run_json

from robustastro import commands
from robustastro.data.splits import select
from robustastro.evaluate.engine import balanced
from robustastro.progress import Progress
from robustastro.record import Record
from robustastro.reproduce import deepastrouda_page, deepmerge2_page, two_domain_page, two_domains
from robustastro.reproduce import two_domain_measures as measures
from robustastro.reproduce.measures import Arm
from robustastro.reproduce.study import Cell
from robustastro.reproduce.two_domains import DOMAINS, ROBUST, Setting, Size, Variant

VARIANTS = {
    f"{bed}-{name}": Variant(bed, name, {"method": name})
    for bed in ("distant", "nearby")
    for name in ("none", "mmd", "dann", "coral")
}
EVEN, UNEVEN, UNKNOWN = np.repeat([0, 1], [60, 60]), np.repeat([0, 1], [102, 18]), np.repeat([-1, 0, 1], [30, 60, 60])


# ---------------------------------------------------------------------- arms by hand


def mixed(labels, seed=0):
    """In an order that tells nothing of the class."""
    return np.random.default_rng(seed).permutation(labels)


def draw(labels, rates, seeds=3, key=0):
    """What trainings call galaxies of two classes, (seeds, n): right of the classes with these rates."""
    rng = np.random.default_rng(key)
    right = rng.random((seeds, len(labels))) < np.asarray(rates)[np.maximum(labels, 0)]
    return np.where(right, np.maximum(labels, 0), 1 - np.maximum(labels, 0))


def logits_of(called, sure, rng):
    """Logits of two classes, all different; where not `sure` about as likely one as the other."""
    return np.eye(2)[called] * (np.where(sure, 4.0, 0.3) + rng.uniform(0.0, 0.2, len(called)))[:, None]


def write(place, labels, logits, entries=None, after=None):
    """A record of galaxies g000, g001, ... whose rows are in an order of its own; `after` by (name, strength)."""
    ids = [f"g{k:03d}" for k in range(len(labels))]
    entries, record = entries or {}, Record(place)
    run = run_json("net", entries, ("g", "r", "i"), len(ids))
    record.write_run(run | {"contract": run["contract"] | {"classes": ["other", "merger"]}})
    order = np.random.default_rng(sum(map(ord, place.name))).permutation(len(ids))
    table = pd.DataFrame({"id": ids, "label": labels, "split": "test", "logits": list(logits)})
    record.write_galaxies(table.iloc[order])
    for (name, strength), changed in (after or {}).items():
        rows = pd.DataFrame({"id": ids, "l0": 0.0, "l2": 0.0, "linf": 0.0, "logits": list(changed)})
        record.write_shard(name, strength, 0, rows.iloc[order[::-1]])
    return record


def made(place, label, source, target, arch="tiny", sure=None):
    """Trainings of a method from (labels, called (k, n)) in both domains; `sure` (k, n) of the target."""
    k, records = len(target[1]), []
    for seed in range(k):
        rng, parts = np.random.default_rng(seed), {}
        for name, (labels, called) in zip(DOMAINS, (source, target), strict=True):
            known = np.ones(len(labels), dtype=bool) if sure is None or name == "source" else sure[seed]
            path = place / f"{arch}-{label}-{seed}-{name}"
            parts[name] = write(path, labels, logits_of(called[seed], known, rng))
        records.append(parts)
    recipe = {"method": VARIANTS[label].name, "entropy": 0.0}
    training = {"flags": [], "recipe": recipe, "history": [], "best_epoch": 0}
    return Arm(arch, label, tuple(Cell(arch, label, s) for s in range(k)), (training,) * k, tuple(records))


def by_class(labels, hit):
    """Mean over the known classes of the share of hits in each, (k,) of (k, n)."""
    return np.mean([hit[:, labels == c].mean(axis=1) for c in np.unique(labels[labels >= 0])], axis=0)


# ---------------------------------------------------------------------- accuracies


@pytest.mark.parametrize("labels", [mixed(EVEN), mixed(UNKNOWN), mixed(UNEVEN), mixed(np.r_[UNEVEN, [-1] * 40])])
def test_accuracies_are_those_counted_by_id(tmp_path, labels):
    """Every record has its rows in another order; where a class is rare, both classes count the same."""
    source, called = draw(mixed(EVEN, 1), (0.97, 0.9)), draw(labels, (0.9, 0.3), key=1)
    plain = draw(labels, (0.95, 0.2), key=2)
    arms = [
        made(tmp_path, "distant-none", (mixed(EVEN, 1), source), (labels, plain)),
        made(tmp_path, "distant-mmd", (mixed(EVEN, 1), source), (labels, called)),
    ]
    none, row = measures.accuracies(arms, VARIANTS)
    mine, theirs = (by_class(labels, each == labels) for each in (called, plain))
    assert row["target_by_seed"] == pytest.approx(mine)
    assert row["target"]["value"] == pytest.approx(mine.mean())
    assert row["target"]["n"] == (labels >= 0).sum()
    assert row["target"]["low"] < row["target"]["value"] < row["target"]["high"]
    assert row["source_by_seed"] == pytest.approx((source == mixed(EVEN, 1)).mean(axis=1))
    assert row["gain_target"]["value"] == pytest.approx(mine.mean() - theirs.mean())
    assert row["gain_source"]["value"] == pytest.approx(0.0)
    assert none["gain_target"] is None


def test_gains_are_over_none_of_the_same_bed_and_network(tmp_path):
    """Four different `none`: no other one gives the same gain."""
    labels = mixed(EVEN)
    rates = {("distant", "tiny"): 0.9, ("distant", "wide"): 0.8, ("nearby", "tiny"): 0.7, ("nearby", "wide"): 0.6}
    arms, counted = [], {}
    for at, ((bed, arch), rate) in enumerate(rates.items()):
        for name, more in (("none", 0.0), ("mmd", 0.05)):
            called = [draw(labels, (rate + more, rate), key=10 * at + plus + (name == "mmd")) for plus in (0, 5)]
            counted[bed, arch, name] = [(each == labels).mean() for each in called]
            arms.append(made(tmp_path, f"{bed}-{name}", (labels, called[0]), (labels, called[1]), arch=arch))
    assert len({round(v, 6) for (*_, name), v in counted.items() if name == "none" for v in v}) == 8
    rows = measures.accuracies(arms, VARIANTS)
    for row, arm in zip(rows, arms, strict=True):
        key = row["bed"], row["arch"]
        own, none = counted[*key, row["method"]], counted[*key, "none"]
        assert [row[name]["value"] for name in DOMAINS] == pytest.approx(own)
        found = measures.baseline(arms, VARIANTS, arm)
        assert found is not None
        assert (VARIANTS[found.method].bed, found.arch, VARIANTS[found.method].name) == (*key, "none")
        if row["method"] == "none":
            assert row["gain_target"] is row["gain_source"] is None
        else:
            gains = [row[f"gain_{name}"]["value"] for name in DOMAINS]
            assert gains == pytest.approx([a - b for a, b in zip(own, none, strict=True)])
    assert measures.baseline(arms[1:], VARIANTS, arms[1]) is None


def test_p_values_are_corrected_within_a_bed(tmp_path):
    """Holm's rule worked here: the smallest p times three, the next times two, and never falling."""
    labels, arms = mixed(EVEN), []
    for bed, names in (("distant", ("none", "mmd", "dann", "coral")), ("nearby", ("none", "mmd", "dann"))):
        for at, (name, rate) in enumerate(zip(names, (0.7, 0.82, 0.75, 0.8), strict=False)):
            called = draw(labels, (rate, rate), key=at, seeds=4)
            arms.append(made(tmp_path, f"{bed}-{name}", (labels, called), (labels, called)))
    rows = measures.accuracies(arms, VARIANTS)
    for bed, tests in (("distant", 3), ("nearby", 2)):
        gains = [r["gain_target"] for r in rows if r["bed"] == bed and r["gain_target"] is not None]
        assert len(gains) == tests
        least = 0.0
        for rank, gain in enumerate(sorted(gains, key=lambda g: g["p"])):
            least = max(least, min(1.0, (tests - rank) * gain["p"]))
            assert gain["p_corrected"] == pytest.approx(least)
        smallest = min(gains, key=lambda g: g["p"])
        assert smallest["p_corrected"] == pytest.approx(tests * smallest["p"]) != smallest["p"]


# ---------------------------------------------------------------------- scores and unknown classes


def test_scores_are_those_of_scikit_learn_for_the_last_class(tmp_path):
    """Each domain has its own class counts, and the two classes different scores."""
    both = {"source": mixed(UNEVEN, 1), "target": mixed(np.r_[EVEN[20:], [-1] * 20], 2)}
    called = {name: draw(labels, (0.9, 0.6), key=at) for at, (name, labels) in enumerate(both.items())}
    sure = np.random.default_rng(0).random((3, len(both["target"]))) < 0.7
    source, target = ((both[name], called[name]) for name in DOMAINS)
    arm = made(tmp_path, "distant-mmd", source, target, sure=sure)
    rows = measures.scores([arm], VARIANTS)
    assert [(row["label"], row["domain"]) for row in rows] == [("distant-mmd", name) for name in DOMAINS]
    for row in rows:
        name = row["domain"]
        known = both[name] >= 0
        labels, expected = both[name][known], []
        for records, said in zip(arm.records, called[name][:, known], strict=True):
            table = records[name].galaxies.sort_index()[known]
            p = softmax(np.stack(list(table["logits"])), axis=1)[:, 1]
            expected.append(
                [precision_score(labels, said), recall_score(labels, said), f1_score(labels, said),
                 brier_score_loss(labels, p), roc_auc_score(labels, p)]
            )  # fmt: skip
        found = [row[key]["value"] for key in ("precision", "recall", "f1", "brier", "auc")]
        assert found == pytest.approx(np.mean(expected, axis=0))
        other = np.mean([recall_score(labels, said, pos_label=0) for said in called[name][:, known]])
        assert abs(other - row["recall"]["value"]) > 0.1
        assert (row["n"], row["positive"]) == (known.sum(), "merger")


@pytest.mark.parametrize(
    "labels", [mixed(UNKNOWN), mixed(np.r_[UNEVEN, [-1] * 40])], ids=["even classes", "a rare class"]
)
def test_a_known_galaxy_that_is_called_unknown_is_wrong(tmp_path, labels):
    rng = np.random.default_rng(3)
    called = draw(labels, (0.9, 0.6))
    sure = rng.random(called.shape) < np.array([0.8, 0.55, 0.4])[labels]  # labels 0, 1 and -1
    arm = made(tmp_path, "distant-mmd", (mixed(EVEN), draw(mixed(EVEN), (0.9, 0.9))), (labels, called), sure=sure)
    (row,) = measures.open_set([arm], VARIANTS)
    tables = [records["target"].galaxies.sort_index() for records in arm.records]
    unsure = np.array([entropy(softmax(np.stack(list(t["logits"])), axis=1), axis=1) for t in tables])
    unknown = unsure > np.log(2) / 2
    assert np.array_equal(unknown, ~sure)
    known, rejected = by_class(labels, (called == labels) & ~unknown).mean(), unknown[:, labels < 0].mean()
    assert by_class(labels, called == labels).mean() - known > 0.1
    assert row["known_accuracy"]["value"] == pytest.approx(known)
    assert row["unknown_accuracy"]["value"] == pytest.approx(rejected)
    assert row["h_score"]["value"] == pytest.approx(2 * known * rejected / (known + rejected))
    assert (row["known"], row["unknown"]) == ((labels >= 0).sum(), (labels < 0).sum())
    assert row["threshold"] == pytest.approx(np.log(2) / 2)
    areas = [roc_auc_score(labels < 0, each) for each in unsure]
    assert row["auroc_by_seed"] == pytest.approx(areas)
    assert row["auroc"]["value"] == pytest.approx(np.mean(areas))


def test_without_unknown_galaxies_nothing_is_said_of_them(tmp_path):
    labels = mixed(EVEN)
    both = labels, draw(labels, (0.9, 0.9))
    assert measures.open_set([made(tmp_path, "distant-mmd", both, both)], VARIANTS) == []


# ---------------------------------------------------------------------- robustness


def test_drops_are_accuracy_before_minus_after(tmp_path):
    """Two strengths of one perturbation, one of another, and one pixel: which galaxies each turns is written down."""
    labels, rng = mixed(np.repeat([0, 1], 20)), np.random.default_rng(0)
    entries = {"onepixel": [1.0], "seeing": [0.6, 1.0], "depth": [0.4]}
    turned = {("onepixel", 1.0): 4, ("seeing", 0.6): 6, ("seeing", 1.0): 14, ("depth", 0.4): 9}
    before, after, records = draw(labels, (0.9, 0.8)), {key: [] for key in turned}, []
    for seed, called in enumerate(before):
        logits = {}
        for key, count in turned.items():
            flips = np.isin(np.arange(40), rng.permutation(40)[: count + seed])
            after[key].append(np.where(flips, 1 - called, called))
            logits[key] = logits_of(after[key][-1], True, rng)
        place = tmp_path / str(seed)
        records.append({ROBUST: write(place, labels, logits_of(called, True, rng), entries, logits)})
    arm = Arm("tiny", "distant-mmd", tuple(Cell("tiny", "distant-mmd", s) for s in range(3)), (), tuple(records))
    unperturbed = replace(arm, method="distant-none", records=({}, {}, {}))
    (row,) = measures.robustness([unperturbed, arm], VARIANTS)
    right, hit = before == labels, np.array(after["onepixel", 1.0]) != labels
    assert (row["label"], row["trainings"], row["attacked"]) == ("distant-mmd", 3, 40)
    assert row["clean"]["value"] == pytest.approx(right.mean())
    assert row["onepixel"]["value"] == pytest.approx((right & hit).sum() / right.sum())
    drops = {(d["perturbation"], d["strength"]): d["drop"] for d in row["drops"]}
    assert set(drops) == set(turned) - {("onepixel", 1.0)}
    for key, drop in drops.items():
        expected = right.mean() - (np.array(after[key]) == labels).mean()
        assert expected > 0.03
        assert drop["value"] == pytest.approx(expected)
        assert drop["low"] < expected < drop["high"]
    cells = dict(zip(robust_header(row), two_domain_page.robust_cells(row), strict=True))
    assert {key: value.split(" [")[0] for key, value in cells.items()} == {
        "method": "mmd", "trainings": "3", "clean": f"{100 * right.mean():.1f}",
        "onepixel": f"{100 * row['onepixel']['value']:.1f}", "seeing 0.6 arcsec": hundredths(drops["seeing", 0.6]),
        "seeing 1 arcsec": hundredths(drops["seeing", 1.0]), "depth 0.4": hundredths(drops["depth", 0.4]),
    }  # fmt: skip


def robust_header(row):
    return ["method", "trainings", "clean", "onepixel", *two_domain_page.drops([row])]


def hundredths(estimate):
    return f"{100 * estimate['value']:.1f}"


@pytest.mark.parametrize(("attacked", "each"), [(20, (10, 10)), (200, (100, 18))])
def test_equally_many_of_each_known_class_are_perturbed(tmp_path, monkeypatch, lsst, attacked, each):
    """The target has 85 of one class to 15 of another, and one that the source has not."""
    blobs = make_blobs(3000, lsst, size=8)
    names = np.array(blobs.classes)[np.asarray(blobs.labels)]
    there = np.flatnonzero(np.isin(blobs.ids, select(blobs, "test").ids))
    keep = np.concatenate(
        [there[names[there] == name][:n] for name, n in (("small", 102), ("round", 18), ("long", 40))]
    )
    target = blobs.take(np.sort(keep))
    source = two_domains.known(blobs, ("small", "round"))
    assert source.classes == ("small", "round")
    assert np.bincount(np.asarray(source.labels)).tolist() == [1000, 1000]
    ran = []
    monkeypatch.setattr(Setting, "domains", lambda self, bed, progress: (source, target))
    monkeypatch.setattr(two_domains, "load_model", lambda path: SimpleNamespace(sha256="of a model"))
    monkeypatch.setattr(commands, "run", lambda steps, model, galaxies, *rest, **more: ran.append((steps, galaxies)))
    size = Size(galaxies={"distant": 10}, epochs=1, batch=4, seeds=1, cells={}, attacked=attacked)
    setting = Setting(tmp_path, size, None, "cpu", VARIANTS, mocks=None, sets={})  # type: ignore[arg-type]
    two_domains.robust_cell(setting, Cell("tiny", "distant-mmd", 0), Progress())
    ((steps, galaxies),) = ran
    assert [step.name for step in steps] == ["onepixel", "seeing", "depth"]
    assert tuple(np.bincount(galaxies.labels)) == each
    truth = dict(zip(blobs.ids, names, strict=True))
    assert [truth[name] for name in galaxies.ids] == [source.classes[k] for k in galaxies.labels]
    assert set(galaxies.ids) <= set(target.ids)
    again = balanced(galaxies, 7)
    assert np.bincount(np.asarray(again.labels)).tolist() == [7, 7]


# ---------------------------------------------------------------------- pages


def estimate(value, half=0.02):
    return {"value": value, "low": value - half, "high": value + half, "n": 100}


def header(template, start):
    """The columns of the table of a template whose head begins so."""
    lines = (files("robustastro") / "templates" / template).read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(start)]
    return [part.strip() for part in line.strip("| ").split(" | ")]


def test_the_published_table_of_deepmerge2_says_source_first():
    def row(label, source, target, arch="deepmerge"):
        return {"label": label, "arch": arch, "source": estimate(source), "target": estimate(target)}

    def area(label, domain, value, arch="deepmerge"):
        return {"label": label, "arch": arch, "domain": domain, "auc": estimate(value)}

    accuracy = [row("distant-none", 0.86, 0.61), row("nearby-none", 0.92, 0.55), row("nearby-mmd", 0.4, 0.3, "wide")]
    scores = [
        area("distant-none", "source", 0.2), area("distant-none", "target", 0.1),
        area("nearby-none", "target", 0.57), area("nearby-none", "source", 0.96),
        area("nearby-none", "source", 0.3, "wide"), area("nearby-none", "target", 0.4, "wide"),
    ]  # fmt: skip
    table = deepmerge2_page.published({"accuracy": accuracy, "scores": scores})
    assert len(table) == 9
    found = {name: rest for name, *rest in table}
    both = "accuracy of source / target [%]"
    assert found[f"distant, none: {both}"] == ["85 / 58", "86.0 [84.0, 88.0] / 61.0 [59.0, 63.0]"]
    assert found[f"nearby, none: {both}"] == ["91 / 50", "92.0 [90.0, 94.0] / 55.0 [53.0, 57.0]"]
    areas = ["0.97 / 0.58", "0.96 [0.94, 0.98] / 0.57 [0.55, 0.59]"]
    assert found["nearby, none: AUC of source / target"] == areas
    assert found[f"nearby, mmd: {both}"] == ["94 / 53", "not run"]  # of this network; another was
    assert found["nearby, mmd+transfer: AUC of source / target"] == ["0.90 / 0.76", "not run"]
    assert found[f"distant, dann: {both}"] == ["87 / 79", "not run"]


def test_the_published_table_of_deepastrouda_is_of_uda():
    def row(method, gain, arch="tiny"):
        gain = None if gain is None else estimate(gain)
        return {"method": method, "arch": arch, "bed": "nearby", "gain_target": gain}

    accuracy = [row("none", None), row("mmd", 0.1), row("uda", 0.25), row("uda", 0.15, "wide"), row("uda", None, "x")]
    areas = [
        {"method": m, "arch": "tiny", "bed": "nearby", "auroc": estimate(v)} for m, v in (("none", 0.6), ("uda", 0.8))
    ]
    gains, apart = deepastrouda_page.published({"accuracy": accuracy, "open_set": areas})
    assert gains[2] == "tiny, nearby: 25.0 [23.0, 27.0]; wide, nearby: 15.0 [13.0, 17.0]"
    assert apart[2] == "tiny, nearby: AUROC 0.80 [0.78, 0.82]"
    nothing = deepastrouda_page.published({"accuracy": accuracy[:2], "open_set": areas[:1]})
    assert [said for *_, said in nothing] == ["not run", "not run"]


def test_numbers_of_unknown_classes_are_in_their_columns():
    row = {
        "method": "uda", "known_accuracy": estimate(0.71), "unknown_accuracy": estimate(0.32),
        "h_score": estimate(0.44), "auroc": estimate(0.655), "auroc_by_seed": [0.61, 0.7],
    }  # fmt: skip
    active = [{"clustering_active": 0.5, "alike": 0.25}, {"clustering_active": 0.4, "alike": 0.1}]
    head = header("reproduce_deepastrouda.md.j2", "| method | known")
    assert dict(zip(head, deepastrouda_page.open_cells(row, active), strict=True)) == {
        "method": "uda",
        "known: right, and not called unknown [%]": "71.0 [69.0, 73.0]",
        "unknown: called unknown [%]": "32.0 [30.0, 34.0]",
        "H-score [%]": "44.0 [42.0, 46.0]",
        "AUROC of the entropy": "0.655 [0.635, 0.675]",
        "of each training": "0.61 0.70",
        "clustering active [% of pairs]": "40 to 50",
        "alike [% of pairs]": "10 to 25",
        "entropy separation active [% of target galaxies]": "-",
    }


def test_scores_are_in_their_columns():
    row = {"method": "mmd", "domain": "target"}
    row |= {name: estimate(v) for name, v in zip(("precision", "recall", "f1"), (0.8, 0.6, 0.7), strict=True)}
    row |= {"brier": estimate(0.155), "auc": estimate(0.905)}
    head = header("reproduce_deepmerge2.md.j2", "| method | domain")
    assert dict(zip(head, deepmerge2_page.score_cells(row), strict=True)) == {
        "method": "mmd", "domain": "target", "precision [%]": "80.0 [78.0, 82.0]", "recall [%]": "60.0 [58.0, 62.0]",
        "F1 [%]": "70.0 [68.0, 72.0]", "Brier score": "0.155 [0.135, 0.175]", "AUC": "0.905 [0.885, 0.925]",
    }  # fmt: skip


def test_accuracies_are_in_their_columns():
    row = {
        "method": "mmd", "control": False, "tuned": "with target labels", "seeds": [0, 1, 2], "collapsed": [1],
        "source": estimate(0.9), "target": estimate(0.6), "target_by_seed": [0.62, 0.095, 0.6],
        "gain_source": estimate(-0.03), "gain_target": estimate(0.08) | {"p": 0.01, "p_corrected": 0.03},
        "apart_by_seed": [1.25, None, 0.5],
    }  # fmt: skip
    head = header("reproduce_two_domains.md.j2", "| method | kind")
    assert dict(zip(head, two_domain_page.accuracy_cells(row), strict=True)) == {
        "method": "mmd", "kind": "adaptation, tuned with target labels", "trainings": "3", "collapsed": "1",
        "source [%]": "90.0 [88.0, 92.0]", "target [%]": "60.0 [58.0, 62.0]",
        "target of single trainings": "9.5 to 62.0", "source, minus none [points]": "-3.0 [-5.0, -1.0]",
        "target, minus none [points]": "8.0 [6.0, 10.0]", "p": "0.03", "domains apart": "1.25 0.50",
    }  # fmt: skip
