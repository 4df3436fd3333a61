"""Comparisons: only runs that differ in nothing but the model are compared, and verdicts are what the galaxies say."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from matplotlib.colors import to_rgb
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from synthetic_records import CLASSES, ENTRIES, galaxy_table, make_record, run_json, unit_table

from perturbations.errors import InputError
from robustastro.cli import main
from robustastro.figures import comparison as drawn
from robustastro.figures.style import MARKERS, colours, save
from robustastro.metrics.comparable import refuse_unlike
from robustastro.metrics.comparison import compare
from robustastro.metrics.tables import comparison_table
from robustastro.record import Head, Record

LADDERS = {name: ENTRIES[name]["ladder"] for name in ("depth", "onepixel")} | {"jpeg": [80.0, 25.0]}
FEW = {"depth": [0.8, 0.2], "onepixel": [1.0]}
HEAD = Head(np.eye(3), np.zeros(3), 2.0 * np.eye(3), "by hand")


def by_hand(
    path: Path, arm: str, right: dict[str, list[list[int]]], training_seed: int | None = None, clean=None, start=0
) -> Record:
    """A record of which each entry says which galaxies are right (1) at each rung; all of the class 0."""
    n = len(next(iter(right.values()))[0])
    ids = [f"galaxy-{start + k}" for k in range(n)]
    ladder = {name: ENTRIES[name]["ladder"][: len(rungs)] for name, rungs in right.items()}
    record = Record(path)
    record.write_run(run_json(arm, ladder, ("r",), n, training_seed))
    record.write_head(HEAD)
    record.write_galaxies(galaxy_table(ids, np.zeros(n, dtype=int), latents(clean or [1] * n), HEAD))
    for name, rungs in right.items():
        for strength, each in zip(ladder[name], rungs, strict=True):
            record.write_shard(name, strength, 0, unit_table(ids, latents(each), HEAD))
    return record


def latents(right) -> np.ndarray:
    return np.array([[2.0, 0.0, 0.0] if one else [0.0, 1.0, 0.0] for one in right])


def edit(record: Record, change) -> Record:
    """The record with another run.json."""
    run = json.loads((record.path / "run.json").read_text())
    change(run)
    record.write_run(run)
    return Record.open(record.path)


def row(document: dict, perturbation: str, strength: float | None = None, arm: str | None = None) -> dict:
    """The ladder, or one rung."""
    over = "ladder" if strength is None else "rung"
    (found,) = [
        r
        for r in document["results"]
        if r["perturbation"] == perturbation
        and r["over"] == over
        and (strength is None or r["strength"] == strength)
        and arm in (None, r["arm"])
    ]
    return found


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> list[Record]:
    """One training of two arms, the second pushed half as far, in a latent space twice as large."""
    root = tmp_path_factory.mktemp("pair")
    return [
        make_record(root / name, LADDERS, name, n=80, harm=harm, stretch=stretch, training_seed=seed)
        for name, harm, stretch, seed in (("none", 1.0, 1.0, 0), ("dann", 0.5, 2.0, 1))
    ]


@pytest.fixture(scope="module")
def seeds(tmp_path_factory) -> list[Record]:
    """Three trainings of three arms; mmd is like none."""
    root = tmp_path_factory.mktemp("seeds")
    return [
        make_record(root / f"{name}-{seed}", FEW, name, n=80, harm=harm, training_seed=seed)
        for name, harm in (("none", 1.0), ("dann", 0.4), ("mmd", 1.0))
        for seed in range(3)
    ]


# ---------------------------------------------------------------------- what may be compared


def test_another_evaluation_seed_is_accepted_and_stated(tmp_path):
    first, second = (make_record(tmp_path / name, {"depth": [0.4]}, n=9) for name in "ab")
    said = f"another evaluation seed: 0 in {first.path}, 7 in {second.path}"
    before = refuse_unlike(first, second, "depth")
    second = edit(second, lambda run: run.update(seed=7))
    assert set(refuse_unlike(first, second, "depth")) - set(before) == {said}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda run: run["contract"].update(bands=["z"]), r"input contracts of .* differ in bands"),
        (lambda run: run["versions"].update(torch="3.0"), r"another version of torch: 2.0 in .*, 3.0 in"),
        (lambda run: run["versions"].update(robustastro="9"), "another version of robustastro: 1 in"),
        (lambda run: run.update(git="beef"), "another git commit: cafe in .*, beef in"),
    ],
)
def test_what_may_differ_is_said(change, said, tmp_path):
    def known(run):
        run.update(git="cafe", versions={"torch": "2.0", "robustastro": "1"})

    first, second = (edit(make_record(tmp_path / name, {"depth": [0.4]}, n=9), known) for name in "ab")
    assert refuse_unlike(first, second, "depth") == []
    (note,) = refuse_unlike(first, edit(second, change), "depth")
    assert re.search(said, note)


def test_the_set_a_perturbation_was_fitted_to_counts_where_it_was_fitted(tmp_path):
    first, second = (make_record(tmp_path / name, {"pgd": [0.004], "depth": [0.4]}, n=9) for name in "ab")
    second.write_fitted("pgd", 0.004, {"ids": np.array(["x"])})
    first = edit(first, lambda run: run.update(fitted_on={"sha256": "aaa"}))
    second = edit(second, lambda run: run.update(fitted_on={"sha256": "bbb"}))
    assert any("set that pgd was fitted to: aaa in" in note for note in refuse_unlike(first, second, "pgd"))
    assert not any("fitted" in note for note in refuse_unlike(first, second, "depth"))


def entry_of(run: dict) -> dict:
    return run["perturbations"][0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda run: entry_of(run).update(version=2), r"versions of onepixel differ: 1 in .*a, 2 in .*b"),
        (
            lambda run: entry_of(run).update(options={"stop": "published", "pop": 100}),
            r"options of onepixel differ: stop = argmax in .*a, published in .*b",
        ),
        (
            lambda run: entry_of(run).update(options={"stop": "argmax", "pop": 400}),
            r"options of onepixel differ: pop = 100 in .*a, 400 in .*b",
        ),
        (
            lambda run: entry_of(run)["rungs"].append({"severity": None, "strength": 2.0}),
            r"strengths of onepixel differ: 1 in .*a, 1, 2 in .*b",
        ),
        (lambda run: run["data"].update(sha256="other"), r"data differ: .* in .*a and other in .*b"),
        (lambda run: run["contract"].update(classes=list(CLASSES[::-1])), r"classes differ: spiral, .* in .*a, merger"),
        (lambda run: run["perturbations"].append(entry_of(run)), "lists a perturbation twice"),
        (lambda run: entry_of(run).update(name="onepixl"), r"unknown perturbation 'onepixel'.*Did you mean 'onepixl'"),
    ],
)
def test_what_must_not_differ_is_refused_by_name(change, said, tmp_path):
    def options(run):
        entry_of(run)["options"] = {"stop": "argmax", "pop": 100}

    first, second = (edit(make_record(tmp_path / name, {"onepixel": [1.0]}, n=9), options) for name in "ab")
    refuse_unlike(first, second, "onepixel")
    second = edit(second, change)
    with pytest.raises(InputError, match=said):
        refuse_unlike(first, second, "onepixel")
    if "twice" not in said:
        with pytest.raises(InputError):
            refuse_unlike(second, first, "onepixel")


def test_other_galaxies_labels_and_unfinished_units_are_refused(tmp_path):
    first, fewer, other, cut = (
        make_record(tmp_path / name, {"depth": [0.4, 0.1]}, n=n, seed=seed)
        for name, n, seed in (("a", 20, 0), ("b", 17, 0), ("c", 20, 1), ("d", 20, 0))
    )
    with pytest.raises(InputError, match=r"3 of 20 are only in .*a, 0 of 17 only in .*b"):
        refuse_unlike(first, fewer, "depth")
    changed = np.count_nonzero(first.galaxies["label"].to_numpy() != other.galaxies["label"].to_numpy())
    with pytest.raises(InputError, match=rf"labels differ: {changed} of 20 galaxies"):
        refuse_unlike(first, other, "depth")
    cut.write_shard("depth", 0.1, 0, cut.unit("depth", 0.1).iloc[:13].reset_index())
    for pair_ in ((first, cut), (cut, first)):
        with pytest.raises(InputError, match=r"depth at 0.1 is unfinished in .*d: 13 of 20 galaxies"):
            refuse_unlike(*pair_, "depth")
    (cut.path / "galaxies.parquet").unlink()
    with pytest.raises(InputError, match=r"holds no galaxies|galaxies\.parquet cannot be read"):
        refuse_unlike(first, Record.open(cut.path), "depth")


def test_what_an_old_record_does_not_say_is_said_to_be_unknown(tmp_path):
    def forget(run):
        for key in ("seed", "fitted_on", "versions", "git"):
            run.pop(key, None)
        run["data"].pop("sha256")
        for key in ("version", "options"):
            entry_of(run).pop(key)

    first, second = (make_record(tmp_path / name, {"onepixel": [1.0]}, name, n=9) for name in "ab")
    first = edit(first, lambda run: entry_of(run).update(options={"stop": "argmax"}))
    second = edit(second, forget)
    (note,) = refuse_unlike(first, second, "onepixel")
    assert note.startswith(f"not known of {first.path} or {second.path}, so it may differ: ")
    for what in (
        "SHA-256 of the data",
        "version of onepixel",
        "option stop of onepixel",
        "evaluation seed",
        "git commit",
    ):
        assert what in note
    assert note in compare([first, second])["notes"]


# ---------------------------------------------------------------------- arms


def test_trainings_of_a_method_are_one_arm_and_none_is_the_baseline(seeds):
    document = compare(seeds[3:] + seeds[:3])
    assert [(arm["name"], arm["trainings"]) for arm in document["arms"]] == [("none", 3), ("dann", 3), ("mmd", 3)]
    assert document["baseline"] == "none"
    assert {r["arm"] for r in document["results"]} == {"dann", "mmd"}
    assert all(r["trainings"] == {"baseline": 3, "arm": 3} for r in document["results"])
    assert compare(seeds, "mmd")["baseline"] == "mmd"
    assert compare(seeds[3:])["baseline"] == "dann"
    with pytest.raises(InputError, match=r"unknown arm 'dan'.*Did you mean 'dann'"):
        compare(seeds, "dan")


def test_architectures_are_arms_and_models_without_a_method_go_by_their_name(pair, tmp_path):
    big = edit(make_record(tmp_path / "big", LADDERS, "none", n=80), lambda run: run["model"].update(arch="big"))
    assert [arm["name"] for arm in compare([pair[0], big])["arms"]] == ["none (tiny)", "none (big)"]
    own = edit(make_record(tmp_path / "own", LADDERS, "mine", n=80), lambda run: run["model"].update(method=None))
    assert [arm["name"] for arm in compare([own, pair[0]])["arms"]] == ["none", "mine"]


def test_one_arm_is_refused(pair, seeds):
    with pytest.raises(InputError, match=r"3 runs of one arm \(none\).*training seeds"):
        compare(seeds[:3])
    with pytest.raises(InputError, match="no run to compare"):
        compare([])
    with pytest.raises(InputError, match="confidence 95"):
        compare(pair, confidence=95)


def test_runs_of_one_model_are_merged_and_a_perturbation_twice_is_refused(pair, tmp_path):
    parts = [
        make_record(tmp_path / "depth", {"depth": [0.4]}, "none", n=80),
        make_record(tmp_path / "jpeg", {"jpeg": [25.0], "seeing": [0.2]}, "none", n=80),
        make_record(tmp_path / "dann", {"jpeg": [25.0], "depth": [0.4], "pgd": [0.004]}, "dann", n=80, harm=0.5),
    ]
    document = compare(parts)
    assert [arm["trainings"] for arm in document["arms"]] == [1, 1]
    assert [r["perturbation"] for r in document["results"] if r["over"] == "ladder"] == ["depth", "jpeg"]
    assert document["left_out"] == [
        {"perturbation": "seeing", "reason": "not run for dann"},
        {"perturbation": "pgd", "reason": "not run for none"},
    ]
    again = make_record(tmp_path / "again", {"depth": [0.4]}, "none", n=80)
    with pytest.raises(InputError, match=r"depth of the model none is in .*depth and .*again"):
        compare([*parts, again])
    with pytest.raises(InputError, match=r"no perturbation is in all arms: depth not run for dann; seeing not run"):
        compare([parts[0], make_record(tmp_path / "s", {"seeing": [0.2]}, "dann", n=80)])


def test_unlike_runs_are_refused_wherever_they_stand(seeds, tmp_path):
    other = make_record(tmp_path, FEW, "dann", n=79, training_seed=9)
    with pytest.raises(InputError, match="1 of 80 are only in"):
        compare([*seeds, other])


def test_without_labels_there_is_nothing_to_compare(tmp_path):
    records = [make_record(tmp_path / name, {"depth": [0.4]}, name, n=9) for name in ("none", "dann")]
    for record in records:
        record.write_galaxies(record.galaxies.assign(label=-1).reset_index())
    with pytest.raises(InputError, match="has no labels"):
        compare(records)


def test_notes_say_how_many_trainings_and_which_collapsed(pair, seeds, tmp_path):
    alone = "one training per arm: this compares two networks, not two methods"
    assert alone in compare(pair)["notes"]
    notes = compare(seeds[:4])["notes"]
    assert alone not in notes
    assert any(note.startswith("one training of dann: ") for note in notes)
    assert not any("one training" in note for note in compare(seeds[:6])["notes"])

    flag = {"code": "collapsed", "message": "the training collapsed: chance", "remedy": "train another seed"}
    record = edit(make_record(tmp_path / "x", FEW, "dann", n=80, training_seed=2), lambda run: run.update(flags=[flag]))
    document = compare([*seeds[:5], record])
    (note,) = [note for note in document["notes"] if note.startswith("1 of 3 trainings of dann collapsed (dann)")]
    assert "an interval over them holds the truth less often than it says" in note
    (note,) = [note for note in compare([*seeds[:3], record])["notes"] if note.startswith("1 of 1 trainings of dann")]
    assert note.endswith("so they are counted")
    assert row(document, "depth")["trainings"]["arm"] == 3  # it is counted
    assert [run["run"] for run in document["runs"] if run["flags"]] == [str(record.path)]
    same = compare([*seeds[:4], edit(record, lambda run: run["model"].update(training_seed=0))])
    assert any("several trainings of dann have the seed 0" in note for note in same["notes"])


def test_trainings_that_differ_in_more_than_the_seed_are_said_to(seeds, tmp_path):
    def trained(seed: int, method: str, recipe: dict | None) -> Record:
        record = make_record(tmp_path / f"{method}{seed}", FEW, method, n=80, training_seed=seed)
        return edit(record, lambda run: run["model"].update(recipe=recipe))

    same = {"epochs": 10, "lr": 0.1, "source": {"data": "a"}}
    base = [trained(seed, "none", dict(same)) for seed in range(2)]
    arm = [
        trained(seed, "dann", recipe)
        for seed, recipe in enumerate([same, None, same | {"lr": 0.2, "weight_decay": 0.0}])
    ]
    notes = [note for note in compare([*base, *arm])["notes"] if "more than the seed" in note]
    assert [note.split(":")[0] for note in notes] == [
        "the trainings of dann differ in more than the seed (lr, weight_decay)"
    ]
    assert not any("more than the seed" in note for note in compare([*base, *arm[:2]])["notes"])
    assert not any("more than the seed" in note for note in compare(seeds)["notes"])


def test_trainings_that_lack_a_perturbation_are_counted_out(seeds, tmp_path):
    part = make_record(tmp_path, {"depth": FEW["depth"]}, "dann", n=80, training_seed=8)
    document = compare([*seeds[:6], part])
    assert "onepixel: 3 of the 4 trainings of dann met it" in document["notes"]
    assert row(document, "onepixel")["trainings"] == {"baseline": 3, "arm": 3}
    assert row(document, "depth")["trainings"] == {"baseline": 3, "arm": 4}


# ---------------------------------------------------------------------- numbers


def test_a_small_comparison_worked_by_hand(tmp_path):
    base = by_hand(tmp_path / "a", "none", {"depth": [[1, 1, 1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0]]})
    arm = by_hand(
        tmp_path / "b", "dann", {"depth": [[1, 1, 1, 1, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0, 0, 0]]}, clean=[1] * 7 + [0]
    )
    document = compare([base, arm])
    rung, ladder = row(document, "depth", 0.8), row(document, "depth")
    assert [rung["perturbed_accuracy"][of]["value"] for of in ("baseline", "arm")] == [3 / 8, 7 / 8]
    assert rung["difference"]["value"] == 0.5
    for r in (rung, ladder, document["clean"][0]):
        assert [r["clean_accuracy"][of]["value"] for of in ("baseline", "arm")] == [1, 7 / 8]
    assert (
        rung["difference"]["p"] == 0.125 == float(vars(mcnemar([[3, 4], [0, 1]]))["pvalue"])
    )  # 4 galaxies, all one way
    assert rung["cohens_h"] == pytest.approx(2 * np.arcsin(np.sqrt(7 / 8)) - 2 * np.arcsin(np.sqrt(3 / 8)))
    assert [ladder["perturbed_accuracy"][of]["value"] for of in ("baseline", "arm")] == [4 / 16, 9 / 16]
    assert ladder["difference"]["value"] == 5 / 16
    # clean 8 of 8 and 7 of 8: drops 12/16 and 5/16
    assert ladder["drop_difference"]["value"] == pytest.approx(5 / 16 - 12 / 16)
    assert rung["drop_difference"]["value"] == pytest.approx(0 - 5 / 8)
    assert (document["clean"][0]["difference"]["value"], document["clean"][0]["n"]) == (-1 / 8, 8)
    assert document["mce"][0]["value"] == pytest.approx((1 / 8 + 6 / 8) / (5 / 8 + 7 / 8))
    # both flip galaxy 7 at neither rung (the arm had it wrong); at 0.8 none in both, at 0.6 galaxies 2 to 6
    assert rung["flip_distance"]["arm"] == {"value": None, "low": None, "high": None, "n": 0}
    last = row(document, "depth", 0.6)
    assert last["flipped"] == {"baseline": [7], "arm": [5]}
    assert last["flip_distance"]["baseline"]["n"] == last["flip_distance"]["arm"]["n"] == 5
    assert last["flip_distance"]["baseline"]["value"] == pytest.approx(np.sqrt(5))
    assert last["flip_distance"]["scaled"]["arm"]["value"] == pytest.approx(np.sqrt(5) / (2 * np.sqrt(2)))
    # right: 2 / sqrt 2 from the boundary; wrong: 1 / sqrt 2 beyond it
    assert last["boundary_distance"]["arm"]["value"] == pytest.approx((2 * 2 - 6) / 8 / np.sqrt(2))
    assert ladder["flipped"] == {"baseline": [7], "arm": [5]}
    assert ladder["flip_distance"]["arm"]["n"] == 5


def test_corrected_p_are_holms_in_each_family(seeds):
    document = compare(seeds)
    for rows in (
        *([r for r in document["results"] if r["over"] == over] for over in ("ladder", "rung")),
        document["clean"],
    ):
        raw = [r["difference"]["p"] for r in rows]
        assert [r["p_corrected"] for r in rows] == pytest.approx(multipletests(raw, method="holm")[1])
    assert len([r for r in document["results"] if r["over"] == "ladder"]) == 4  # two arms, two perturbations
    assert len([r for r in document["results"] if r["over"] == "rung"]) == 4


def test_a_single_strength_has_one_p_and_one_verdict(seeds):
    rows = [r for r in compare(seeds)["results"] if r["perturbation"] == "onepixel"]
    assert [(r["arm"], r["over"], r["rungs"], r["strength"]) for r in rows] == [
        ("dann", "ladder", 1, 1.0),
        ("mmd", "ladder", 1, 1.0),
    ]


def test_a_verdict_of_a_single_training_is_about_networks(seeds, pair):
    document = compare(seeds[:4])  # three trainings of none, one of dann
    assert {r["about"] for r in [*document["results"], *document["clean"]]} == {"networks"}
    assert {r["about"] for r in compare(seeds)["results"]} == {"methods"}
    assert {r["about"] for r in compare(seeds)["clean"]} == {"methods"}
    assert "about these networks" in document["verdict_means"]
    table = comparison_table(compare(pair))
    assert "more robust, these networks" in table
    assert "no evidence, these" not in table
    clear = compare(seeds, confidence=0.8)
    assert any(r["verdict"] == "more robust" for r in clear["results"])
    assert "these networks\n" not in comparison_table(clear)


def test_a_training_alone_counts_where_only_it_met_the_perturbation(seeds, tmp_path):
    parts = [
        make_record(tmp_path / f"{seed}", {"depth": FEW["depth"]}, "dann", n=80, training_seed=seed) for seed in (7, 8)
    ]
    document = compare([*seeds[:4], *parts])  # onepixel: one training of dann of three
    assert row(document, "onepixel")["about"] == "networks"
    assert row(document, "depth")["about"] == "methods"


def test_all_right_over_a_ladder_is_no_certainty(tmp_path):
    records = [
        by_hand(tmp_path / f"{name}{seed}", name, {"depth": [[1] * 50, [1] * 50]}, seed)
        for name in ("none", "dann")
        for seed in range(3)
    ]
    found = row(compare(records), "depth")["perturbed_accuracy"]["arm"]
    assert (found["value"], found["high"]) == (1.0, 1.0)
    assert found["low"] == pytest.approx(50 / (50 + scipy.stats.norm.ppf(0.975) ** 2))


def test_the_verdict_is_the_corrected_p_and_the_sign(pair):
    document = compare(pair)
    reverse = compare(pair, "dann")
    said = {r["verdict"] for r in document["results"]}
    assert said == {"more robust", "no evidence"}
    for r in document["results"]:
        assert r["verdict"] == ("more robust" if r["p_corrected"] < 0.05 else "no evidence")
    assert any(r["difference"]["p"] < 0.05 <= r["p_corrected"] for r in document["results"])  # the correction decides
    assert {r["verdict"] for r in reverse["results"]} == {"less robust", "no evidence"}
    strict = compare(pair, confidence=1 - 1e-9)
    assert {r["verdict"] for r in strict["results"]} == {"no evidence"}
    assert "below 0.05" in document["verdict_means"]
    assert "clean accuracy" in document["verdict_means"]


@pytest.mark.parametrize("which", ["pair", "seeds"])
def test_swapping_the_arms_changes_the_sign(which, request):
    records = request.getfixturevalue(which)
    records = [r for r in records if r.run["model"]["method"] != "mmd"]
    there, back = compare(records, "none"), compare(records, "dann")
    for one, other in zip(there["results"], back["results"], strict=True):
        for field in ("difference", "drop_difference"):
            a, b = one[field], other[field]
            assert (a["value"], a["low"], a["high"]) == pytest.approx((-b["value"], -b["high"], -b["low"]), abs=1e-12)
            assert a["p"] == pytest.approx(b["p"])
        assert one["cohens_h"] == pytest.approx(-other["cohens_h"])
        assert one["perturbed_accuracy"]["arm"] == other["perturbed_accuracy"]["baseline"]
        shift, turned = one["latent_shift"]["scaled"]["ratio"], other["latent_shift"]["scaled"]["ratio"]
        assert shift["value"] == pytest.approx(1 / turned["value"])
        assert one["flipped"]["arm"] == other["flipped"]["baseline"]


@pytest.mark.parametrize("trainings", [1, 3])
def test_a_copy_under_another_name_is_no_different_and_says_with_which_precision(trainings, tmp_path):
    records = []
    for seed in range(trainings):
        for name in ("none", "copy"):
            record = make_record(tmp_path / f"{name}{seed}", FEW, "none", n=80, training_seed=seed)
            records.append(
                edit(record, lambda run, name=name, seed=seed: run["model"].update(method=name, sha256=f"{name}{seed}"))
            )
    document = compare(records)
    for r in document["results"]:
        assert r["difference"]["value"] == r["drop_difference"]["value"] == r["cohens_h"] == 0
        assert (r["difference"]["p"], r["p_corrected"], r["verdict"]) == (1, 1, "no evidence")
        assert r["difference"]["low"] < 0 < r["difference"]["high"]  # another galaxy might differ
        assert r["drop_difference"]["low"] < 0 < r["drop_difference"]["high"]
        assert r["latent_shift"]["ratio"]["value"] == pytest.approx(1)
    assert (document["clean"][0]["verdict"], document["mce"][0]["value"]) == ("no evidence", pytest.approx(1))


def test_seeds_are_no_galaxies(tmp_path):
    """Where trainings differ, the interval is wider than that of as many galaxies would be."""
    shares = {"none": (0.4, 0.6, 0.8), "dann": (0.6, 0.8, 1.0)}
    records = [
        by_hand(
            tmp_path / f"{name}{seed}", name, {"depth": [[1] * round(40 * share) + [0] * round(40 * (1 - share))]}, seed
        )
        for name, of in shares.items()
        for seed, share in enumerate(of)
    ]
    found = row(compare(records), "depth")["difference"]
    assert (found["value"], found["n"]) == (pytest.approx(0.2), 40)
    right = {name: np.concatenate([np.arange(40) < 40 * share for share in of]) for name, of in shares.items()}
    apart = right["dann"].astype(float) - right["none"]
    pretended = 1.96 * apart.std(ddof=1) / np.sqrt(120)
    assert found["high"] - found["low"] > 3 * 2 * pretended
    assert found["p"] > 0.1  # 120 galaxies of which 24 differ, all one way, would be beyond doubt
    # seed variance of each arm 0.04 / 3 with 2 degrees of freedom; galaxies differ by 0 (16 of them) or 1/3
    parts = [(0.04 / 3, 2), (0.04 / 3, 2), (np.repeat([0, 1 / 3], [16, 24]).var(ddof=1) / 40, 39)]
    variance = sum(v for v, _ in parts)
    df = min(variance**2 / sum(v**2 / d for v, d in parts), 4)
    assert found["high"] - 0.2 == pytest.approx(scipy.stats.t.ppf(0.975, df) * np.sqrt(variance), rel=0.03)


def test_distances_are_of_the_same_galaxies_and_scale_free(pair):
    document = compare(pair)
    scales = []
    for record in pair:
        c = record.head.centroids
        scales.append(np.mean([np.linalg.norm(c[a] - c[b]) for a, b in ((0, 1), (0, 2), (1, 2))]))
    labels = pair[0].galaxies["label"].to_numpy()
    shift, flips = [], []
    for record in pair:
        rows, clean = record.unit("depth", 0.1), record.galaxies
        shift.append(np.linalg.norm(np.stack(rows["latent"]) - np.stack(clean["latent"]), axis=1))
        before, after = (np.stack(t["logits"]).argmax(1) for t in (clean, rows))
        flips.append((before == labels) & (after != labels))
    common = flips[0] & flips[1]
    found = row(document, "depth", 0.1)
    assert 0 < common.sum() < min(f.sum() for f in flips)
    assert found["flipped"] == {"baseline": [flips[0].sum()], "arm": [flips[1].sum()]}
    for k, of in enumerate(("baseline", "arm")):
        assert found["latent_shift"][of]["value"] == pytest.approx(shift[k].mean())
        assert found["flip_distance"][of]["value"] == pytest.approx(shift[k][common].mean())
        assert found["flip_distance"][of]["n"] == common.sum()
        assert found["flip_distance"]["scaled"][of]["value"] == pytest.approx(shift[k][common].mean() / scales[k])
    raw, scaled = (part["ratio"] for part in (found["latent_shift"], found["latent_shift"]["scaled"]))
    assert raw["value"] == pytest.approx(shift[1].mean() / shift[0].mean())
    for part in ("value", "low", "high"):
        assert scaled[part] == pytest.approx(raw[part] * scales[0] / scales[1])
    assert raw["low"] <= raw["value"] <= raw["high"]
    # over the ladder a galaxy counts once, with its mean over the rungs that flip it in both
    assert row(document, "depth")["latent_shift"]["arm"]["n"] == 80
    assert row(document, "depth")["flip_distance"]["arm"]["n"] < 80


def test_a_flip_counts_where_every_training_flips(tmp_path):
    """The trainings of an arm flip galaxies 0 and 1, or 1 and 2; the baseline all four."""
    records = [by_hand(tmp_path / f"a{seed}", "none", {"depth": [[0] * 4]}, seed) for seed in (0, 1)]
    records += [
        by_hand(tmp_path / f"b{seed}", "dann", {"depth": [right]}, seed)
        for seed, right in enumerate([[0, 0, 1, 1], [1, 0, 0, 1]])
    ]
    found = row(compare(records), "depth")
    assert found["flipped"] == {"baseline": [4, 4], "arm": [2, 2]}
    assert found["flip_distance"]["arm"]["n"] == found["flip_distance"]["baseline"]["n"] == 1  # galaxy 1
    back = row(compare(records, "dann"), "depth")["flip_distance"]
    assert back["arm"]["n"] == 1


@pytest.mark.parametrize("apart", [1e-6, 0.0, np.nan])
def test_without_a_latent_scale_there_are_no_distances_over_it(apart, seeds, tmp_path, recwarn):
    record = make_record(tmp_path, FEW, "dann", n=80, training_seed=2)
    record.write_head(replace(record.head, centroids=apart * record.head.centroids))
    document = compare([*seeds[:5], Record.open(tmp_path)])
    said = "1 of 3 trainings have class centroids at one point, or unknown"
    for r in document["results"]:
        for name in ("latent_shift", "boundary_distance", "flip_distance"):
            scaled = r[name]["scaled"]
            assert scaled.pop("reason") == f"arm: {said}"
            assert scaled.pop("cohens_dz") is None
            assert all(e == {"value": None, "low": None, "high": None, "n": 0} for e in scaled.values())
        assert r["latent_shift"]["arm"]["n"] == 80
    assert f"dann: {said}, so no distance over latent scale" in document["notes"]
    assert not recwarn.list
    back = compare([*seeds[:5], Record.open(tmp_path)], "dann")
    assert row(back, "depth")["latent_shift"]["scaled"]["reason"] == f"baseline: {said}"
    json.dumps(document, allow_nan=False)
    whole = compare(seeds)
    assert row(whole, "depth", arm="dann")["latent_shift"]["scaled"]["reason"] is None
    assert not any("latent scale" in note for note in whole["notes"])


def test_over_the_ladder_a_galaxy_counts_with_the_same_rungs_in_both(tmp_path):
    base = by_hand(tmp_path / "a", "none", {"depth": [[1] * 9, [0] * 9]})
    arm = by_hand(tmp_path / "b", "dann", {"depth": [[1] * 9, [0] * 9]})
    table = arm.unit("depth", 0.6).reset_index()
    table["latent"] = [np.full_like(table["latent"][0], np.nan), *table["latent"][1:]]
    arm.write_shard("depth", 0.6, 0, table)
    found = row(compare([base, arm]), "depth")["latent_shift"]
    assert found["baseline"] == found["arm"]  # galaxy 0: the first rung alone, 0; the others the mean of 0 and sqrt 5
    assert found["arm"]["value"] == pytest.approx(8 / 9 * np.sqrt(5) / 2)


def test_a_ratio_whose_denominator_may_be_zero_is_null(tmp_path):
    base = by_hand(tmp_path / "a", "none", {"depth": [[1, 0] * 20]})
    arm = by_hand(tmp_path / "b", "dann", {"depth": [[1] * 40]})
    found = row(compare([base, arm]), "depth")["boundary_distance"]
    assert found["baseline"]["low"] < 0.5 < found["baseline"]["high"]  # 2 and -1 over sqrt 2
    assert found["ratio"]["value"] == pytest.approx(4)
    half = by_hand(tmp_path / "c", "none", {"depth": [[1, 0, 0] * 13 + [1]]})
    assert row(compare([half, arm]), "depth")["boundary_distance"]["ratio"]["value"] is None


def test_galaxies_are_matched_by_id_and_unlabelled_ones_left_out(tmp_path):
    one = by_hand(tmp_path / "a", "none", {"depth": [[1, 0, 0, 0, 1] * 8]}, clean=[1, 1, 0, 0, 1] * 8)
    two = by_hand(tmp_path / "b", "dann", {"depth": [[1, 1, 0, 0, 0] * 8]}, clean=[1, 1, 1, 0, 0] * 8)
    expected = compare([one, two])["results"]
    order = np.random.default_rng(0).permutation(40)
    two.write_galaxies(two.galaxies.iloc[order].reset_index())
    two.write_shard("depth", 0.8, 0, two.unit("depth", 0.8).reset_index())
    two = Record.open(two.path)
    assert compare([one, two])["results"] == expected
    unknown = [f"galaxy-{k}" for k in range(0, 40, 5)]  # the first of every five: right in both
    for record in (one, two):
        record.write_galaxies(record.galaxies.assign(label=-1 * np.isin(record.galaxies.index, unknown)).reset_index())
    found = compare([Record.open(one.path), Record.open(two.path)])["results"][0]
    assert found["n"] == found["difference"]["n"] == found["latent_shift"]["arm"]["n"] == 32
    assert [found["clean_accuracy"][of]["value"] for of in ("baseline", "arm")] == [2 / 4, 2 / 4]
    assert [found["perturbed_accuracy"][of]["value"] for of in ("baseline", "arm")] == [1 / 4, 1 / 4]


def test_mce_is_over_the_galaxies_of_all_corruptions(tmp_path):
    records = [
        by_hand(tmp_path / "a", "none", {"depth": [[1, 0, 0, 0]], "onepixel": [[0, 0, 0, 0]]}),
        by_hand(tmp_path / "b", "none", {"jpeg": [[0, 0]]}, start=2),
        by_hand(tmp_path / "c", "dann", {"depth": [[1, 0, 1, 1]], "onepixel": [[1, 1, 1, 1]]}),
        by_hand(tmp_path / "d", "dann", {"jpeg": [[1, 0]]}, start=2),
    ]
    document = compare(records)
    (found,) = document["mce"]
    assert found["corruptions"] == ["depth", "jpeg"]  # attacks are no corruptions
    # galaxies 2 and 3: depth no error against 2, jpeg 1 against 2
    assert (found["value"], found["n"]) == (pytest.approx((0 / 2 + 1 / 2) / 2), 2)
    assert any("not all run on the same data" in note for note in document["notes"])
    assert document["clean"][0]["n"] == 4


# ---------------------------------------------------------------------- command line


def run(arguments, capsys) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    said = capsys.readouterr()
    return int(end.value.code or 0), said.out, said.err


def test_compare_prints_one_json_document(pair, capsys):
    status, out, _ = run(["compare", *(r.path for r in pair), "--json"], capsys)
    document = json.loads(out)
    assert status == 0
    assert (document["schema"], document["baseline"], document["confidence"]) == (1, "none", 0.95)
    assert document == json.loads(json.dumps(compare(pair), allow_nan=False))


def test_compare_prints_a_table_for_people(pair, capsys, tmp_path):
    status, out, _ = run(["compare", *(r.path for r in pair), "--baseline", "dann", "--confidence", 0.9], capsys)
    assert status == 0
    lines = out.splitlines()
    assert lines[0].split()[:6] == ["perturbation", "strength", "arm", "n", "trainings", "dann"]
    body = lines[2 : lines.index("")]
    assert [line.split()[0] for line in body] == ["clean", *["depth"] * 6, "onepixel", *["jpeg"] * 3]
    found = row(compare(pair, "dann", 0.9), "onepixel")
    (line,) = [line for line in body if line.startswith("onepixel")]
    value, low, high = (100 * found["difference"][part] for part in ("value", "low", "high"))
    assert f"{value:.1f} [{low:.1f}, {high:.1f}]" in line
    assert f"  {found['verdict']}, these networks  " in line
    assert "not corrected for how many" in out
    assert "taken to be independent" in out
    assert "1 / 1" in line
    assert "Brackets: 90% intervals" in out
    assert "this compares two networks, not two methods" in out
    assert "mCE of none, where dann is 1:" in out
    flag = {"code": "collapsed", "message": "the training collapsed: chance", "remedy": "train another seed"}
    failed = edit(make_record(tmp_path, LADDERS, "mmd", n=80), lambda run: run.update(flags=[flag]))
    _, out, _ = run(["compare", *(r.path for r in [*pair, failed]), "--markdown"], capsys)
    assert out.startswith("| perturbation | strength |")
    assert f"Flag collapsed of {failed.path} (mmd): the training collapsed: chance. train another seed." in out


def test_left_out_is_said(tmp_path, capsys):
    make_record(tmp_path / "a", {"depth": [0.4], "jpeg": [25.0]}, "none", n=9)
    make_record(tmp_path / "b", {"depth": [0.4]}, "dann", n=9)
    _, out, _ = run(["compare", tmp_path / "a", tmp_path / "b"], capsys)
    assert "Left out: jpeg, not run for dann." in out


def test_wrong_input_ends_with_status_2(pair, capsys, tmp_path):
    status, out, err = run(["compare", pair[0].path], capsys)
    assert (status, out) == (2, "")
    assert "one arm (none)" in err
    assert run(["compare", pair[0].path, tmp_path], capsys)[0] == 2


def test_compare_loads_nothing_heavy(pair):
    heavy = "torch scipy.stats seaborn matplotlib sklearn lifelines statsmodels perturbations.core"
    program = f"""
import sys
from robustastro.cli import main
try:
    main(["compare", {str(pair[0].path)!r}, {str(pair[1].path)!r}])
except SystemExit as end:
    assert not end.code
print("LOADED", [m for m in {heavy.split()!r} if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"


# ---------------------------------------------------------------------- figure


def marks(fig, gid: str) -> list:
    return [line for line in fig.axes[0].lines if line.get_gid() == gid]


@pytest.mark.parametrize("which", ["pair", "seeds"])
def test_the_figure_shows_each_difference_with_its_interval(which, request):
    records = request.getfixturevalue(which)
    document = compare(records)
    arms = [arm["name"] for arm in document["arms"]]
    fig = drawn.figure(records)
    strengths = {"pair": LADDERS, "seeds": FEW}[which]["depth"]
    labels = [text.get_text() for text in fig.axes[0].get_yticklabels()]
    assert labels[: len(strengths) + 2] == [
        f"depth, mean of {len(strengths)}, n = 80", *map(str, strengths), "onepixel, 1 pixel, n = 80"
    ]  # fmt: skip
    assert labels[len(strengths) + 2 :] == (["jpeg, mean of 2, n = 80", "80", "25"] if which == "pair" else [])
    expected = {
        (perturbation, strength, arm): row(document, perturbation, strength, arm)
        for perturbation, rungs in (("depth", [None, *strengths]), ("onepixel", [None]))
        for strength in rungs
        for arm in arms[1:]
    }
    values, intervals = marks(fig, "value"), marks(fig, "interval")
    assert len(values) == len(intervals) == len(labels) * (len(arms) - 1)
    for (_, _, arm), result, value, interval in zip(expected, expected.values(), values, intervals, strict=False):
        found = result["difference"]
        assert value.get_xdata()[0] == pytest.approx(100 * found["value"])
        assert list(interval.get_xdata()) == pytest.approx([100 * found["low"], 100 * found["high"]])
        k = arms.index(arm)
        assert (value.get_marker(), to_rgb(value.get_color())) == (MARKERS[k], pytest.approx(colours(len(arms))[k]))
        hollow = value.get_markerfacecolor() == "white"
        assert hollow == (result["verdict"] == "no evidence")
    places = [value.get_ydata()[0] for value in values]
    assert places == sorted(places)
    assert [round(place) for place in places[:: len(arms) - 1]] == list(range(len(labels)))
    assert all(abs(place - round(place)) < 0.3 for place in places)  # clear of the next row


def test_the_figure_says_what_it_compares(pair, seeds):
    words = [text.get_text() for text in drawn.figure(seeds).legends[0].get_texts()]
    assert words == [
        "dann (3 trainings) minus none (3 trainings)",
        "mmd (3 trainings) minus none (3 trainings)",
        "corrected p < 0.05",
        "no evidence",
    ]
    fig = drawn.figure(pair, ["plain", "adapted"], baseline="dann")
    assert fig.legends[0].get_texts()[0].get_text() == "plain (1 training) minus adapted (1 training)"
    assert fig.axes[0].get_xlabel() == "perturbed accuracy minus\nthat of adapted [points], 95% intervals"
    caption = drawn.caption(pair)
    assert "these are networks, not methods" in caption
    assert "depth, fraction of the exposure kept" in caption
    assert "networks, not methods" not in drawn.caption(seeds)
    with pytest.raises(InputError, match="one name per run"):
        drawn.figure(pair, ["only"])


def test_a_long_comparison_shows_the_ladders_alone(pair, monkeypatch):
    monkeypatch.setattr(drawn, "MOST", 9)
    labels = [text.get_text() for text in drawn.figure(pair).axes[0].get_yticklabels()]
    assert labels == ["depth, mean of 5, n = 80", "onepixel, 1 pixel, n = 80", "jpeg, mean of 2, n = 80"]
    assert "its strengths left out" in drawn.caption(pair)


@pytest.mark.parametrize("which", ["pair", "seeds"])
def test_no_words_leave_the_page_or_run_into_each_other(which, request):
    fig = drawn.figure(request.getfixturevalue(which))
    fig.draw_without_rendering()
    ax, page = fig.axes[0], fig.bbox.padded(2)
    titles = [
        text for text in ax.get_children() if getattr(text, "get_text", str)() in ("← less robust", "more robust →")
    ]
    assert len(titles) == 2
    words = [ax.xaxis.label, *ax.get_yticklabels(), *titles, *fig.legends[0].get_texts()]
    boxes = [text.get_window_extent() for text in words]
    assert all(page.contains(*box.min) and page.contains(*box.max) for box in boxes)
    assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])


def test_the_file_is_the_same_every_time(seeds, tmp_path):
    for name in "ab":
        save(drawn.figure(seeds[:6]), tmp_path / f"{name}.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_answers_that_are_no_numbers_are_not_compared(tmp_path):
    """Whatever is compared with a network that answers NaN would look more robust."""
    one = by_hand(tmp_path / "a", "none", {"depth": [[1, 0] * 20]})
    two = by_hand(tmp_path / "b", "dann", {"depth": [[1] * 40]})
    table = one.unit("depth", 0.8).reset_index()
    table["logits"] = [np.full(3, np.nan)] * 7 + list(table["logits"][7:])
    one.write_shard("depth", 0.8, 0, table)
    with pytest.raises(InputError, match="outputs of 7 galaxies are not finite under depth"):
        compare([one, two])
