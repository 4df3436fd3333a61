"""Science impact: fractions, purity and completeness are those of the rows, in bins of catalogue columns that exist."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import precision_score, recall_score
from synthetic_records import CLASSES, make_record

from perturbations.errors import InputError
from robustastro import figures
from robustastro.metrics.intervals import paired_drop, proportion
from robustastro.metrics.science import QUANTITIES, catalogue_columns, most_severe, science
from robustastro.record import Record

NULL = {"value": None, "low": None, "high": None, "n": 0}


def with_columns(record: Record, **columns) -> Record:
    record.write_galaxies(record.galaxies.reset_index().assign(**columns))
    return record


def classes_of(table: pd.DataFrame) -> np.ndarray:
    return np.stack(table["logits"]).argmax(axis=1)


@pytest.fixture(scope="module")
def record(tmp_path_factory) -> Record:
    made = make_record(tmp_path_factory.mktemp("run"), {"depth": [0.8, 0.1], "seeing": [0.2, 1.0]}, n=130, harm=0.8)
    rng = np.random.default_rng(1)
    size = rng.lognormal(size=130)
    size[:17] = np.nan
    return with_columns(made, magnitude_r=rng.uniform(18, 23, 130), half_light_radius=size, arms=2.0)


def test_fractions_are_those_of_labels_and_predictions_with_paired_changes(record):
    found = science(record)
    true = record.galaxies["label"].to_numpy()
    clean = classes_of(record.galaxies)
    assert [(u["perturbation"], u["strength"], u["n"]) for u in found["units"]] == [
        ("depth", 0.8, 130), ("depth", 0.1, 130), ("seeing", 0.2, 130), ("seeing", 1.0, 130),
    ]  # fmt: skip
    for unit in found["units"]:
        after = classes_of(record.unit(unit["perturbation"], unit["strength"]))
        for k, name in enumerate(CLASSES):
            said = unit["fractions"][name]
            assert said["true"] == proportion(true == k).to_dict()
            assert said["clean"] == proportion(clean == k).to_dict()
            assert said["perturbed"] == proportion(after == k).to_dict()
            assert said["change"]["value"] == pytest.approx((after == k).mean() - (clean == k).mean())
            assert said["bias_clean"]["value"] == pytest.approx((clean == k).mean() - (true == k).mean())
            assert said["bias_perturbed"]["value"] == pytest.approx((after == k).mean() - (true == k).mean())
            assert said["change"] == paired_drop(after == k, clean == k).to_dict()
    json.dumps(found, allow_nan=False)


def test_purity_and_completeness_agree_with_sklearn(record):
    true = record.galaxies["label"].to_numpy()
    for unit in science(record)["units"]:
        states = {"clean": record.galaxies, "perturbed": record.unit(unit["perturbation"], unit["strength"])}
        for state, table in states.items():
            predicted = classes_of(table)
            purity = precision_score(true, predicted, average=None, zero_division=np.nan)
            completeness = recall_score(true, predicted, average=None)
            for k, name in enumerate(CLASSES):
                assert unit["purity"][name][state]["value"] == pytest.approx(purity[k])
                assert unit["purity"][name][state]["n"] == (predicted == k).sum()
                assert unit["completeness"][name][state]["value"] == pytest.approx(completeness[k])
                assert unit["completeness"][name][state]["n"] == (true == k).sum()
        for name in CLASSES:
            said = unit["completeness"][name]
            assert said["drop"]["value"] == pytest.approx(said["clean"]["value"] - said["perturbed"]["value"])


def test_bins_hold_equally_many_galaxies_the_same_clean_and_perturbed(record):
    found = science(record)
    assert found["columns"] == {"magnitude": "magnitude_r", "size": "half_light_radius"}
    assert found["missing"] == ["signal-to-noise", "redshift"]
    assert [(b["perturbation"], b["strength"], b["quantity"]) for b in found["bins"]] == [
        ("depth", 0.1, "magnitude"), ("depth", 0.1, "size"), ("seeing", 1.0, "magnitude"), ("seeing", 1.0, "size"),
    ]  # fmt: skip
    true = record.galaxies["label"].to_numpy()
    clean = classes_of(record.galaxies)
    for of in found["bins"]:
        values = record.galaxies[of["column"]].to_numpy()
        after = classes_of(record.unit(of["perturbation"], of["strength"]))
        counts = [b["n"] for b in of["bins"]]
        assert sum(counts) == np.isfinite(values).sum()
        assert len(counts) == 5  # 113 and 130 galaxies
        assert max(counts) - min(counts) <= 1
        for b in of["bins"]:
            inside = (values >= b["low"]) & (values <= b["high"])
            assert inside.sum() == b["n"]
            assert b["median"] == pytest.approx(np.median(values[inside]))
            for k, name in enumerate(CLASSES):
                for state, predicted in (("clean", clean), ("perturbed", after)):
                    own, called = inside & (true == k), inside & (predicted == k)
                    assert b["completeness"][name][state] == proportion(predicted[own] == k).to_dict()
                    assert b["purity"][name][state] == proportion(true[called] == k).to_dict()


def test_few_galaxies_get_few_bins(tmp_path):
    record = make_record(tmp_path, {"depth": [0.1]}, n=59)
    with_columns(record, snr=np.arange(59.0))
    (of,) = science(record)["bins"]
    assert [b["n"] for b in of["bins"]] == [29, 30]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["magnitude_g", "magnitude_r", "hlr"], {"magnitude": "magnitude_r", "size": "hlr"}),
        (["mag_u", "mag_i", "mag_g", "R_eff"], {"magnitude": "mag_i", "size": "R_eff"}),
        (["petroMag_r", "petroR50_r"], {"magnitude": "petroMag_r", "size": "petroR50_r"}),
        (["MAG_AUTO", "SNR", "zspec"], {"magnitude": "MAG_AUTO", "signal-to-noise": "SNR", "redshift": "zspec"}),
        (["mag", "mag_r", "photo_z"], {"magnitude": "mag", "redshift": "photo_z"}),
        (["Signal to Noise", "size"], {"signal-to-noise": "Signal to Noise", "size": "size"}),
        # bands, things that only sound alike
        (["u", "g", "r", "i", "z", "magnetic", "sizeable", "arms", "separation", "mass_ratio", "image_size_x"], {}),
    ],
)  # fmt: skip
def test_columns_are_known_by_their_common_names(columns, expected):
    assert catalogue_columns(pd.DataFrame({name: [1.0, 2.0, np.nan] for name in columns})) == expected


def test_columns_without_numbers_that_differ_are_missing():
    table = pd.DataFrame({"magnitude": ["a", "b"], "size": [1.0, 1.0], "snr": [np.nan, 2.0], "redshift": [0, 1]})
    assert catalogue_columns(table) == {"redshift": "redshift"}


def test_a_catalogue_without_columns_is_no_trouble(tmp_path):
    record = make_record(tmp_path, {"depth": [0.1]}, n=30)
    found = science(record)
    assert (found["columns"], found["bins"]) == ({}, [])
    assert found["missing"] == list(QUANTITIES)
    assert found["units"][0]["fractions"]["merger"]["true"]["n"] == 30
    with pytest.raises(InputError, match="catalogue"):
        figures.get("science").figure([record])


def test_the_most_severe_unit_is_the_last_of_its_ladder_that_was_run(tmp_path):
    entries = {"depth": [0.1, 0.8, 0.4], "seeing": [1.0, 0.2], "jpeg": [80.0, 10.0]}
    record = make_record(tmp_path, entries, n=8)
    for shard in (tmp_path / "units" / "jpeg" / "10").iterdir():
        shard.unlink()
    found = most_severe(record)
    assert {name: unit.strength for name, unit in found.items()} == {"depth": 0.1, "seeing": 1.0, "jpeg": 80.0}


def test_without_labels_there_are_predicted_fractions_only(tmp_path):
    record = make_record(tmp_path, {"depth": [0.1]}, n=45)
    with_columns(record, label=-1, magnitude_r=np.arange(45.0))
    found = science(record)
    clean, after = classes_of(record.galaxies), classes_of(record.unit("depth", 0.1))
    (unit,) = found["units"]
    said = unit["fractions"]["merger"]
    assert said["clean"] == proportion(clean == 2).to_dict()
    assert said["change"] == paired_drop(after == 2, clean == 2).to_dict()
    assert said["true"] == said["bias_clean"] == said["bias_perturbed"] == NULL
    assert unit["purity"]["merger"]["clean"] == unit["completeness"]["merger"]["clean"] == NULL
    assert found["bins"][0]["bins"] == []
    with pytest.raises(InputError, match="labelled"):
        figures.get("science").figure([record])


def test_some_labels_restrict_the_sample_and_lost_galaxies_stay_in_it(tmp_path):
    record = make_record(tmp_path, {"depth": [0.1]}, n=40)
    label = record.galaxies["label"].to_numpy().copy()
    label[:10] = -1
    with_columns(record, label=label)
    table = record.unit("depth", 0.1).reset_index()
    table["logits"] = [np.full(3, np.nan)] * 40
    record.write_shard("depth", 0.1, 0, table)
    (unit,) = science(record)["units"]
    assert unit["n"] == 30
    for k, name in enumerate(CLASSES):
        assert unit["fractions"][name]["perturbed"] == proportion(np.zeros(30, dtype=bool)).to_dict()
        assert unit["completeness"][name]["perturbed"]["value"] == 0.0
        assert unit["completeness"][name]["perturbed"]["n"] == (label == k).sum()
        assert unit["purity"][name]["perturbed"] == NULL


# ---------------------------------------------------------------------- figure


def test_the_science_figure_draws_what_the_record_says(record):
    module = figures.get("science")
    fig = module.figure([record], perturbation="seeing", quantity="size")
    (of,) = [
        b for b in science(record)["bins"] if (b["perturbation"], b["quantity"]) == ("seeing", "size")
    ]  # fmt: skip
    assert [ax.get_title(loc="left") for ax in fig.axes] == [*CLASSES, "", "", ""]
    span = of["bins"][-1]["high"] - of["bins"][0]["low"]
    for at, row in enumerate(("completeness", "purity")):
        assert fig.axes[3 * at].get_ylabel() == row
        for k, name in enumerate(CLASSES):
            for state in ("clean", "perturbed"):
                (line,) = [one for one in fig.axes[3 * at + k].lines if one.get_gid() == f"{row} {state} 0"]
                y = [np.nan if (v := b[row][name][state]["value"]) is None else v for b in of["bins"]]
                assert line.get_ydata() == pytest.approx(y, nan_ok=True)
                assert line.get_xdata() == pytest.approx([b["median"] for b in of["bins"]], abs=0.03 * span)
                assert (line.get_markerfacecolor() == "white") == (state == "clean")
    assert fig.get_supxlabel() == "size (half_light_radius); bins of 22 to 23 galaxies of all classes"
    words = [text.get_text() for text in fig.legends[0].get_texts()]
    assert words == ["none", "clean", "seeing 1 arcsec", "95% interval"]
    caption = module.caption([record], perturbation="seeing", quantity="size")
    assert "seeing 1 arcsec" in caption
    assert "bins of 22 to 23 galaxies" in caption


def test_the_science_figure_takes_the_worst_perturbation_and_refuses_unknown_ones(record, tmp_path):
    module = figures.get("science")
    mild = make_record(tmp_path, {"depth": [0.8], "seeing": [0.2]}, n=60, harm=0.0)
    with_columns(mild, magnitude_r=np.arange(60.0))
    table = mild.unit("seeing", 0.2).reset_index()
    table["logits"] = table["logits"].map(lambda z: z[::-1])
    mild.write_shard("seeing", 0.2, 0, table)
    assert "seeing 0.2 arcsec" in module.caption([mild])
    for arguments, why in (({"perturbation": "sceing"}, "seeing"), ({"quantity": "siz"}, "size")):
        with pytest.raises(InputError, match=why):
            module.figure([record], **arguments)
    with pytest.raises(InputError, match="no run"):
        module.figure([])
