"""Export: what a record says of each galaxy arrives in TOPCAT's, astropy's and pandas' files, or is missing there."""

import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
import scipy.special
from astropy.io import fits
from astropy.table import Table
from astropy.units import Unit
from synthetic_records import ENTRIES, make_record, set_maps

from perturbations.errors import InputError
from robustastro import __version__
from robustastro.cli import main
from robustastro.export import FORMATS, export, files
from robustastro.export.columns import MOCKS, UNITS, Column, catalogue, clean_name, prefixes_of, strength_name, unique
from robustastro.record import Head, Record

CLASSES = ("Smooth, round", 'Spiral <barred> & "tight"', "Mergér")
DONE = 12  # galaxies of depth 0.1 and pgd 0.063: they were interrupted there
N = 20


@pytest.fixture(scope="module")
def record(tmp_path_factory) -> Record:
    """A run with everything that is awkward: names, missing values, an interruption, and columns like ours."""
    units = {"depth": ENTRIES["depth"]["ladder"], "pgd": [0.031, 0.063], "onepixel_exhaustive": [1.0]}
    record = make_record(tmp_path_factory.mktemp("export") / "run", units, n=N)
    run = record.run
    run["contract"]["classes"] = list(CLASSES)
    run["data"]["source"] = {"recipe": {"survey": "LSST"}}
    run["flags"] = [{"code": "doubt", "message": "σ is " + "very " * 30 + "small", "remedy": "look"}]
    run["versions"] = {"robustastro": "0.0.9"}
    record.write_run(run)
    galaxies = record.galaxies.reset_index()
    galaxies["id"] = [f"NGC {k:03d} é" for k in range(N)]
    galaxies.loc[3, "label"] = -1
    galaxies.loc[[4, 9], "label"] = (galaxies.loc[[4, 9], "label"] + 1) % 3  # most likely wrong from the start
    galaxies["magnitude_r"] = np.where(np.arange(N) == 5, np.nan, np.linspace(18.0, 22.0, N))
    galaxies["half_light_radius"] = np.float32(1.5)
    galaxies["Clean_Class"] = ["spiral", None, "", "merger"] * (N // 4)
    galaxies["edge on?"] = [True, False, None, True] * (N // 4)
    galaxies["arms"] = pd.array([2, 999999, None, 4] * (N // 4), dtype="Int64")
    galaxies["nothing"] = np.nan
    galaxies["logits"] = [*galaxies["logits"][:7], np.full(3, np.nan), *galaxies["logits"][8:]]
    galaxies["split"] = ""
    record.write_galaxies(galaxies)
    maps = record.maps("onepixel_exhaustive", 1.0)
    for unit in record.units():
        path = next(record._unit_folder(unit.perturbation, unit.strength).glob("*.parquet"))
        rows = pd.read_parquet(path).assign(id=galaxies["id"])
        rows["l2"] = np.linspace(0.0, 1.0, N)
        if unit.perturbation == "depth":  # of flux: no norm in input units
            rows[["l0", "l2", "linf"]] = np.nan
        cut = DONE if unit.strength in (0.1, 0.063) else N
        record.write_shard(unit.perturbation, unit.strength, 0, rows.iloc[:cut])
    set_maps(record, maps["map"], maps["certified"])
    return record


@pytest.fixture(scope="module")
def columns(record) -> dict[str, Column]:
    return {column.name: column for column in catalogue(record)}


@pytest.fixture(scope="module")
def written(record, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("written")
    return {form: Path(export(record.path, form, folder / f"all.{form}")["out"]) for form in FORMATS}


def shown(column: Column) -> list:
    return [None if hide else value for value, hide in zip(column.values.tolist(), column.masked, strict=True)]


# ---------------------------------------------------------------------- what is in it


def test_a_row_per_galaxy_in_the_order_of_the_run(record, columns):
    assert shown(columns["id"]) == list(record.galaxies.index)
    labels = record.galaxies["label"].tolist()
    assert shown(columns["label_index"]) == [None if k < 0 else k for k in labels]
    assert shown(columns["label"]) == [None if k < 0 else CLASSES[k] for k in labels]
    assert all(len(c.values) == len(c.masked) == N for c in columns.values())


def test_what_no_galaxy_has_is_left_out(columns):
    assert "split" not in columns
    assert "nothing" not in columns
    assert not any(re.match(r"depth_.*_(l0|l2|linf|queries|fatal_pixels)$", name) for name in columns)
    assert {"pgd_0p031_queries", "pgd_0p031_l2", "onepixel_exhaustive_1_l0"} <= set(columns)


def test_columns_of_the_catalogue_keep_kind_and_unit_and_give_way(columns):
    assert columns["magnitude_r"].unit == "mag"
    assert columns["half_light_radius"].unit == "arcsec"
    assert shown(columns["magnitude_r"])[4:7:2] == pytest.approx([18 + 4 * 4 / 19, 18 + 4 * 6 / 19])
    assert shown(columns["magnitude_r"])[5] is None
    assert shown(columns["arms"])[:4] == [2, 999999, None, 4]
    assert columns["arms"].values.dtype == np.int64
    assert shown(columns["edge_on"])[:4] == [True, False, None, True]
    assert columns["edge_on"].values.dtype == bool
    assert shown(columns["Clean_Class_2"])[:4] == ["spiral", None, None, "merger"]
    assert set(shown(columns["clean_class"])) <= {None, *CLASSES}


def test_units_of_another_catalogue_are_not_made_up(record, tmp_path):
    other = Record(tmp_path / "run")
    run = record.run | {"data": record.run["data"] | {"source": {"path": "x.h5"}}, "perturbations": []}
    other.write_run(run)
    other.write_galaxies(record.galaxies.reset_index())
    other.write_head(record.head)
    units = {column.name: column.unit for column in catalogue(other)}
    assert (units["half_light_radius"], units["magnitude_r"]) == (None, "mag")


@pytest.mark.parametrize(
    ("prefix", "unit"), [("clean", None), ("depth_0p1", ("depth", 0.1)), ("pgd_0p031", ("pgd", 0.031))]
)
def test_classes_and_probabilities_are_of_the_logits(record, columns, prefix, unit):
    rows = record.galaxies if unit is None else record.unit(*unit)
    for k, name in enumerate(record.galaxies.index):
        got = [shown(columns[f"{prefix}_prob_{c}"])[k] for c in ("Smooth_round", "Spiral_barred_tight", "Merger")]
        label = int(record.galaxies["label"].iloc[k])
        if name not in rows.index or not np.isfinite(rows["logits"][name]).all():
            assert got == [None] * 3
            assert shown(columns[f"{prefix}_class"])[k] is None
            expected = None if name not in rows.index or label < 0 else False  # a broken answer is never right
        else:
            assert got == pytest.approx(scipy.special.softmax(np.float64(rows["logits"][name])))
            best = int(np.argmax(rows["logits"][name]))
            assert shown(columns[f"{prefix}_class"])[k] == CLASSES[best]
            expected = None if label < 0 else best == label
        assert shown(columns[f"{prefix}_correct"])[k] == expected


def test_flipped_is_right_before_and_wrong_after(columns):
    clean, after = shown(columns["clean_correct"]), shown(columns["depth_0p1_correct"])
    expected = [None if b is None else bool(a and not b) for a, b in zip(clean, after, strict=True)]
    assert shown(columns["depth_0p1_flipped"]) == expected
    assert {True, False, None} <= set(expected)


def test_distances_and_counts(record, columns):
    head, labels = record.head, record.galaxies["label"].to_numpy()
    for prefix, rows in (("clean", record.galaxies), ("depth_0p1", record.unit("depth", 0.1))):
        for k, name in enumerate(rows.index):
            z, y = np.float64(rows["latent"][name]), labels[k]
            if y < 0 or not np.isfinite(record.galaxies["logits"][name]).all():
                continue
            lead = [
                (head.weight[y] - head.weight[j]) @ z / np.linalg.norm(head.weight[y] - head.weight[j])
                for j in range(3)
                if j != y
            ]
            assert shown(columns[f"{prefix}_boundary_distance"])[k] == pytest.approx(min(lead), rel=1e-9)
    rows = record.unit("depth", 0.1)
    shift = np.linalg.norm(
        np.stack(rows["latent"].to_list()) - np.stack(record.galaxies["latent"].to_list())[:DONE], axis=1
    )
    got = shown(columns["depth_0p1_latent_shift"])
    assert got[:7] == pytest.approx(shift[:7])
    broken = ("depth_0p1_latent_shift", "clean_boundary_distance", "clean_centroid_margin")
    assert [shown(columns[name])[7] for name in broken] == [None] * 3  # its clean answer is not finite
    assert got[DONE:] == [None] * (N - DONE)
    queries = record.unit("pgd", 0.063)["queries"].tolist()
    assert shown(columns["pgd_0p063_queries"]) == queries + [None] * (N - DONE)
    assert columns["pgd_0p063_queries"].values.dtype == np.int64
    assert [columns[f"pgd_0p063_{norm}"].unit for norm in ("l0", "l2", "linf")] == ["pix", None, None]
    assert shown(columns["pgd_0p063_l2"])[:DONE] == pytest.approx(np.linspace(0, 1, N)[:DONE])


def test_pixels_are_those_of_the_maps(record, columns):
    maps = record.maps("onepixel_exhaustive", 1.0)
    fatal, certified = (maps["map"] <= 0).sum(axis=(1, 2)), maps["certified"].sum(axis=(1, 2))
    attacked = np.isfinite(maps["map"]).all(axis=(1, 2))
    assert 0 < attacked.sum() < N
    for name, expected in (("fatal", fatal), ("certified", certified)):
        column = columns[f"onepixel_exhaustive_1_{name}_pixels"]
        assert shown(column) == [int(e) if a else None for e, a in zip(expected, attacked, strict=True)]
        assert column.unit == "pix"


def test_critical_strength_is_between_the_rungs_where_a_galaxy_flips(columns):
    rungs = ENTRIES["depth"]["ladder"]  # falling: 0.1 is the most severe
    right = [shown(columns[f"depth_{strength_name(rung)}_correct"]) for rung in rungs]
    low, high, status = (shown(columns[f"depth_critical_{end}"]) for end in ("low", "high", "status"))
    seen = set()
    for k, clean in enumerate(shown(columns["clean_correct"])):
        answers = [of[k] for of in right]
        if not clean or None in answers:
            expected = (None, None, None)
        elif all(answers):
            expected = (0.1, None, "never")
        else:
            first = answers.index(False)
            expected = ([1.0, *rungs][first], rungs[first], "flipped" if first else "first rung")
        assert (low[k], high[k], status[k]) == expected
        seen.add(expected[2])
    assert {None, "flipped"} <= seen


def test_without_labels_there_are_classes_only(record, tmp_path):
    other = Record(tmp_path / "run")
    other.write_run(record.run | {"perturbations": [p for p in record.run["perturbations"] if p["name"] == "pgd"]})
    other.write_galaxies(record.galaxies.reset_index().assign(label=-1))
    other.write_head(Head(None, None, None, kind="other"))
    other.write_shard("pgd", 0.031, 0, record.unit("pgd", 0.031).reset_index())
    names = {column.name for column in catalogue(other)}
    assert {"clean_class", "pgd_0p031_class", "pgd_0p031_prob_Merger", "pgd_0p031_latent_shift"} <= names
    assert not [n for n in names if re.search("label|correct|flipped|boundary|margin|critical|0p063", n)]
    done = export(other.path, "fits", tmp_path / "x.fits")
    header = fits.getheader(done["out"], 1)
    assert header["UNFIN1"] == "pgd 0.063: 0 of 20 galaxies"
    assert header["BOUNDARY"].startswith("the last layer is not linear")
    assert "LATSCALE" not in header


def test_only_some_perturbations(record, tmp_path):
    some = export(record.path, "fits", tmp_path / "x.fits", ["pgd"])
    names = [column["name"] for column in some["columns"]]
    assert not [name for name in names if name.startswith(("depth", "onepixel"))]
    assert any(name.startswith("pgd_0p063") for name in names)
    header = fits.getheader(some["out"], 1)
    assert (header["PERT1"], "PERT2" in header) == ("pgd version 1: epsilon [input units]", False)
    assert (header["UNFIN1"], "UNFIN2" in header) == ("pgd 0.063: 12 of 20 galaxies", False)
    with pytest.raises(InputError, match="pgdd") as said:
        export(record.path, "fits", tmp_path / "x.fits", ["pgdd"])
    assert "pgd" in str(said.value)


# ---------------------------------------------------------------------- names


def test_names_are_safe_and_differ_by_more_than_case(columns):
    assert all(re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,62}", name) for name in columns)
    assert len({name.lower() for name in columns}) == len(columns)


@pytest.mark.parametrize(
    ("strength", "name"),
    [(0.1, "0p1"), (80.0, "80"), (-0.5, "m0p5"), (1e-5, "1em05"), (1e12, "1e12"), (1 / 3, "0p3333333333")],
)
def test_strengths_in_names(strength, name):
    assert strength_name(strength) == name


def test_cleaning_and_numbering():
    assert clean_name("Édge-on  (no bulge)") == "Edge_on_no_bulge"
    assert clean_name("2MASS") == "x_2MASS"
    assert clean_name("星") == "x"
    taken: set[str] = set()
    assert [unique(n, taken) for n in ("a", "A", "a_2", "a")] == ["a", "A_2", "a_2_2", "a_3"]
    long = [unique("n" * 80, taken) for _ in range(11)]
    assert {len(n) for n in long} == {63}
    assert len(set(long)) == 11


def test_perturbations_that_look_alike_stay_apart(tmp_path, monkeypatch):
    for name in ("lib:PGD", "lib_pgd"):
        monkeypatch.setitem(ENTRIES, name, ENTRIES["pgd"])
    record = make_record(tmp_path / "run", {"lib:PGD": [0.031], "lib_pgd": [0.031]}, n=30)
    rows = record.unit("lib_pgd", 0.031).drop(columns="queries").reset_index()
    record.write_shard("lib_pgd", 0.031, 0, rows)
    found = {column.name: column for column in catalogue(record)}
    for prefix, name in prefixes_of(["lib:PGD", "lib_pgd"]).items():
        logits = np.stack(record.unit(prefix, 0.031)["logits"].to_list())
        expected = [record.classes[k] for k in logits.argmax(axis=1)]
        assert shown(found[f"{name}_0p031_class"]) == expected
        assert found[f"{name}_0p031_class"].description.startswith(prefix)
    assert [n for n in found if n.endswith("queries")] == ["lib_PGD_0p031_queries"]
    assert shown(found["lib_PGD_0p031_class"]) != shown(found["lib_pgd_2_0p031_class"])


def test_a_long_name_is_cut():
    long = [f"foolbox:L2ClippingAwareRepeatedAdditive{kind}NoiseAttack" for kind in ("Gaussian", "Uniform")]
    short = prefixes_of(long)
    assert short == {long[0]: "foolbox_L2ClippingAwareRepea", long[1]: "foolbox_L2ClippingAwareRepea_2"}


# ---------------------------------------------------------------------- and back again


def by_astropy(path: Path, name: str) -> list:
    column = Table.read(path)[name]
    masked = np.ma.getmaskarray(column) | [isinstance(v, float) and bool(np.isnan(v)) for v in column.tolist()]
    values = [v.decode() if isinstance(v, bytes) else v for v in np.asarray(column).tolist()]
    return [None if hide else value for value, hide in zip(values, masked, strict=True)]


def by_pandas(path: Path, name: str) -> list:
    frame = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    return [None if pd.isna(value) else value for value in frame[name].tolist()]


OF_EACH_KIND = [
    *("id", "label", "label_index", "magnitude_r", "edge_on", "arms", "Clean_Class_2", "clean_class", "clean_correct"),
    *("depth_0p8_correct", "depth_0p1_class", "depth_0p1_flipped", "depth_0p1_prob_Merger", "depth_0p1_latent_shift"),
    *("pgd_0p063_queries", "pgd_0p063_l0", "depth_critical_low", "depth_critical_high", "depth_critical_status"),
    *("onepixel_exhaustive_1_fatal_pixels", "onepixel_exhaustive_1_boundary_distance"),
]


@pytest.mark.parametrize("name", OF_EACH_KIND)
@pytest.mark.parametrize(
    ("form", "read"),
    [
        *(("parquet", by_astropy), ("fits", by_astropy), ("ecsv", by_astropy)),
        *(("parquet", by_pandas), ("csv", by_pandas)),
    ],
)
def test_values_and_gaps_come_back(written, columns, form, read, name):
    expected = shown(columns[name])
    if form == "fits":
        expected = [v.encode("unicode_escape").decode() if isinstance(v, str) else v for v in expected]
    assert read(written[form], name) == expected


def test_every_column_comes_back_with_its_unit_and_description(written, columns):
    for form in ("parquet", "ecsv"):
        table = Table.read(written[form])
        extra = [name for name in table.colnames if name not in columns]
        assert extra == []
        assert table.colnames == list(columns)
        for name, column in columns.items():
            assert (table[name].unit or None) == column.unit
            assert table[name].description == column.description
            assert table[name].dtype.kind in {"U": "U", "b": "bO", "i": "if", "f": "f"}[column.values.dtype.kind]


def test_only_gaps_in_text_and_yes_or_no_have_a_column_of_their_own(written, columns):
    frame = pd.read_parquet(written["parquet"])
    gaps = {n for n, c in columns.items() if c.masked.any() and c.values.dtype.kind in "Ub"}
    assert set(frame.columns) - set(columns) == {f"{name}_missing" for name in gaps}
    for name in gaps:
        assert frame[f"{name}_missing"].tolist() == columns[name].masked.tolist()
    assert list(pd.read_csv(written["csv"])) == list(columns)
    assert str(frame["depth_0p1_flipped"].dtype) == "boolean"
    assert str(frame["pgd_0p063_queries"].dtype) == "Int64"


def test_an_ecsv_file_is_a_csv_file_for_pandas(written, columns):
    frame = pd.read_csv(written["ecsv"], comment="#")
    assert frame["magnitude_r"].isna().tolist() == columns["magnitude_r"].masked.tolist()
    assert list(frame) == list(columns)


def test_a_fits_file_is_sound_and_says_what_its_columns_are(written, columns):
    assert all(byte < 128 for byte in written["fits"].read_bytes()[:2880])
    with fits.open(written["fits"]) as hdus:
        hdus.verify("exception")
        header, data = hdus["GALAXIES"].header, hdus["GALAXIES"].data
        assert header["NAXIS2"] == N
        assert header["TFIELDS"] == len(columns)
        for k, column in enumerate(columns.values(), start=1):
            assert header[f"TTYPE{k}"] == column.name
            assert header.get(f"TUNIT{k}") == column.unit
            assert header[f"TCOMM{k}"] == column.description.encode("unicode_escape").decode()
            if header[f"TFORM{k}"] in ("K", "B"):
                raw = np.asarray(data.field(k - 1))
                missing = raw == header[f"TNULL{k}"] if column.masked.any() else np.zeros(N, dtype=bool)
                assert missing.tolist() == column.masked.tolist()
        formats = {column.name: header[f"TFORM{k}"] for k, column in enumerate(columns.values(), start=1)}
    # yes and no are logical where all are known
    assert (formats["depth_0p8_correct"], formats["pgd_0p063_queries"]) == ("B", "K")
    assert formats["id"].endswith("A")


@pytest.mark.parametrize("unit", sorted({*UNITS.values(), *MOCKS.values()}))
def test_units_are_words_of_fits_and_of_the_vo(unit):
    for standard in ("fits", "vounit"):
        assert Unit(unit, format=standard) == Unit(unit)


def test_a_complete_yes_or_no_is_logical_in_fits(tmp_path):
    record = make_record(tmp_path / "run", {"depth": [0.8, 0.6]}, n=10)
    path = export(record.path, "fits")["out"]
    assert path == str(tmp_path / "run" / "catalogue.fits")
    columns = fits.open(path)[1].columns
    assert columns["clean_correct"].format == "L"
    assert Table.read(path)["depth_0p6_flipped"].dtype == bool


def test_provenance_is_in_every_header(record, written):
    run = record.run
    options = json.dumps(run["perturbations"][2]["options"])
    facts = {
        "creator": f"robustastro {__version__}",
        "run": "run",
        "run_version": "0.0.9",
        "evaluation_seed": 0,
        "model": "none",
        "model_sha256": run["model"]["sha256"],
        "arch": "tiny",
        "method": "none",
        "data": "synthetic",
        "data_sha256": run["data"]["sha256"],
        "latent_scale": pytest.approx(3 * np.sqrt(2)),
        "classes": list(CLASSES),
        "perturbations": [
            "depth version 1: fraction of the exposure kept",
            "pgd version 1: epsilon [input units]",
            f"onepixel_exhaustive version 1: changed pixels [pixel], options {options}",
        ],
        "flags": [f"doubt: σ is {'very ' * 30}small. look."],
        "unfinished": ["depth 0.1: 12 of 20 galaxies", "pgd 0.063: 12 of 20 galaxies"],
    }
    for form in ("parquet", "ecsv"):
        assert dict(Table.read(written[form]).meta) == facts
    header = fits.getheader(written["fits"], "GALAXIES")
    assert header["FLAG1"] == facts["flags"][0].replace("σ", "\\u03c3")
    assert [header[f"CLASS{k}"] for k in range(3)] == [*CLASSES[:2], "Merg\\xe9r"]
    assert [header[f"PERT{k}"] for k in (1, 2, 3)] == facts["perturbations"]
    assert [header[k] for k in ("CREATOR", "MODELSHA", "DATA_SHA", "EV_SEED", "VERSION", "UNFIN2")] == [
        facts[k] for k in ("creator", "model_sha256", "data_sha256", "evaluation_seed", "run_version")
    ] + [facts["unfinished"][1]]
    assert header["LATSCALE"] == facts["latent_scale"]
    assert "TR_SEED" not in header  # not known of this model


def test_parquet_carries_a_votable_without_data(written):
    schema = pyarrow.parquet.read_schema(written["parquet"])
    assert schema.metadata[b"IVOA.VOTable-Parquet.version"] == b"1.0"
    root = ElementTree.fromstring(schema.metadata[b"IVOA.VOTable-Parquet.content"])
    space = {"v": "http://www.ivoa.net/xml/VOTable/v1.3"}
    fields = root.findall("v:RESOURCE/v:TABLE/v:FIELD", space)
    assert [field.get("name") for field in fields] == schema.names
    assert not root.findall(".//v:DATA", space)
    about = {field.get("name"): field for field in fields}
    assert about["magnitude_r"].get("unit") == "mag"
    assert [about[n].get("datatype") for n in ("id", "arms", "edge_on", "magnitude_r")] == [
        *("unicodeChar", "long", "boolean", "double")
    ]
    said = about["clean_prob_Spiral_barred_tight"].findtext("v:DESCRIPTION", "", space)
    assert said == f"clean image: probability of class 1, {CLASSES[1]}"
    params = {p.get("name"): p.get("value") for p in root.findall(".//v:PARAM", space)}
    kinds = {p.get("name"): p.get("datatype") for p in root.findall(".//v:PARAM", space)}
    assert [kinds[n] for n in ("run", "evaluation_seed", "latent_scale")] == ["unicodeChar", "long", "double"]
    assert params["classes_1"] == CLASSES[1]
    assert params["perturbations_2"].startswith("pgd version 1")


def test_astropy_reads_the_votable_of_a_finished_run(tmp_path):
    record = make_record(tmp_path / "run", {"seeing": [0.2, 0.4]}, n=40)
    table = Table.read(export(record.path)["out"], format="parquet.votable")
    assert str(table["seeing_critical_low"].unit) == "arcsec"
    assert table["seeing_0p4_prob_merger"].description == "seeing 0.4 arcsec: probability of class 2, merger"
    assert table["id"].tolist() == list(record.galaxies.index)
    assert table.meta["latent_scale"] == pytest.approx(3 * np.sqrt(2))


# ---------------------------------------------------------------------- files


@pytest.mark.parametrize("form", FORMATS)
def test_the_same_run_gives_the_same_file(record, written, tmp_path, form):
    again = export(record.path, None, tmp_path / f"again.{form}")
    assert again["format"] == form
    assert Path(again["out"]).read_bytes() == written[form].read_bytes()


@pytest.mark.parametrize("form", FORMATS)
def test_an_interrupted_write_leaves_the_earlier_file_whole(record, tmp_path, monkeypatch, form):
    path = tmp_path / f"x.{form}"
    export(record.path, out=path)
    before, real = path.read_bytes(), files.writer

    def breaking(*given):
        write = real(*given)

        def half(file):
            write(file)
            file.write_bytes(file.read_bytes()[:100])
            raise OSError(28, "No space left on device")

        return half

    monkeypatch.setattr(files, "writer", breaking)
    with pytest.raises(InputError, match="No space left"):
        export(record.path, out=path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_table_too_wide_for_fits_is_refused(record, tmp_path, monkeypatch):
    assert files.MOST == 999  # FITS standard 4.0, section 7.3.1: TFIELDS
    monkeypatch.setattr(files, "MOST", 20)
    with pytest.raises(InputError, match=r"at most 20 in a FITS file.*--format parquet"):
        export(record.path, out=tmp_path / "x.fits")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("format", "out", "said"),
    [
        ("votable", None, "format 'votable'"),
        ("fits", "x.csv", r"ending in \.fits or \.fit"),
        (None, "x.txt", r"ending in \.parquet"),
        (None, "x.fits.gz", r"ending in \.parquet"),
        (None, "folder.csv", "is a directory"),
        (None, "run/galaxies.parquet", "lies in the run"),
        (None, "run/units/depth/0.8/00000.parquet", "lies in the run"),
    ],
)
def test_what_is_refused(tmp_path, format, out, said):
    record = make_record(tmp_path / "run", {"depth": [0.8]}, n=6)
    (tmp_path / "folder.csv").mkdir()
    kept = {p: p.read_bytes() for p in sorted(tmp_path.rglob("*")) if p.is_file()}
    with pytest.raises(InputError, match=said):
        export(record.path, format, None if out is None else tmp_path / out)
    assert {p: p.read_bytes() for p in sorted(tmp_path.rglob("*")) if p.is_file()} == kept


def test_a_run_that_has_not_begun_is_refused(record, tmp_path):
    begun = Record(tmp_path / "run")
    begun.write_run(record.run)
    with pytest.raises(InputError, match="no galaxies yet"):
        export(begun.path)


# ---------------------------------------------------------------------- the command line


def test_the_command_writes_and_says_what(record, tmp_path, capsys):
    out = tmp_path / "deep" / "x.fit"
    with pytest.raises(SystemExit) as ended:
        main(["export", str(record.path), "--out", str(out), "--perturbation", "pgd", "--json"])
    assert ended.value.code == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["schema"], said["out"], said["format"], said["rows"]) == (1, str(out), "fits", N)
    with fits.open(out) as hdus:
        assert [column["name"] for column in said["columns"]] == hdus[1].columns.names
    assert {"name": "magnitude_r", "unit": "mag", "description": "magnitude_r, of the catalogue"} in said["columns"]
    with pytest.raises(SystemExit):
        main(["export", str(record.path), "--format", "csv", "--out", str(tmp_path / "x.csv")])
    assert re.search(r"x\.csv: 20 galaxies, \d+ columns\n", capsys.readouterr().out)
    with pytest.raises(SystemExit) as ended:
        main(["export", str(tmp_path / "nowhere")])
    assert ended.value.code == 2


PROGRAM = """
import sys
from robustastro.cli import main
for form in ("parquet", "fits", "ecsv", "csv"):
    try:
        main(["export", sys.argv[1], "--out", sys.argv[2] + "." + form])
    except SystemExit as ended:
        assert not ended.code
heavy = ("torch", "scipy.stats", "seaborn", "matplotlib", "sklearn", "lifelines", "galsim")
print("LOADED", [name for name in heavy if name in sys.modules])
"""


def test_it_loads_nothing_heavy(record, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(record.path), str(tmp_path / "x")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("LOADED []\n")
    assert len(list(tmp_path.iterdir())) == 4
