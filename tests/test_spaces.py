"""Two spaces of values, what they let an attack do, and the numbers of a search over every pixel in the record."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from conftest import make_blobs
from synthetic_records import ENTRIES, make_record
from torch import nn

from perturbations import goal
from perturbations.core import get
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.exposure import Exposure
from robustastro import commands
from robustastro.adapt.recipe import Recipe
from robustastro.adapt.training import train
from robustastro.cli import main
from robustastro.contract import InputContract, Stretch
from robustastro.data.readers import write_hdf5
from robustastro.evaluate.engine import evaluate
from robustastro.evaluate.plan import Plan, step
from robustastro.metrics import space_difference, summarise, table
from robustastro.metrics.intervals import mean, median, paired_drop, proportion
from robustastro.models.bundles import Model
from robustastro.models.subject import Subject
from robustastro.record import Record

SKY = {"g": 24_790.0, "r": 130_617.0, "i": 188_799.0}  # surveycodex 1.3, LSST full depth [electrons per pixel]
VISITS = {"g": 80, "r": 184, "i": 184}  # of 30 s
CLASSES = ("round", "small", "long")


def subject(bands=("g", "r", "i"), low=-1e4, high=3e7, **more) -> Subject:
    stretch = Stretch(kind="linear", low=(low,) * len(bands), high=(high,) * len(bands))
    contract = InputContract(bands=bands, classes=CLASSES, stretch=stretch, **more)
    return Subject(nn.Sequential(nn.Flatten(), nn.Linear(len(bands) * 64, 3)), contract)


def electrons(box, low=-1e4, high=3e7):
    return [(edge.double() * (high - low) + low).flatten().tolist() for edge in box]


# ---------------------------------------------------------------------- what a detector can give


@pytest.mark.parametrize("fraction", [1.0, 0.1])
def test_lsst_reaches_from_five_sigma_below_the_sky_to_a_full_well_in_every_visit(fraction):
    exposure = Exposure.from_survey("LSST", bands="gri", fraction=fraction)
    low, high = electrons(subject().victim(torch.zeros(2, 3, 8, 8), exposure).reachable(5.0))
    for k, band in enumerate("gri"):
        sigma = math.sqrt((SKY[band] + VISITS[band] * 8.8**2) / fraction)  # 380 electrons in r at full depth
        assert low[k] == pytest.approx(-5 * sigma, abs=5)
        assert high[k] == pytest.approx(100_000 * VISITS[band] - SKY[band], rel=1e-4)
    assert electrons(subject().victim(torch.zeros(2, 3, 8, 8), exposure).reachable(0.0))[0] == pytest.approx(
        [0] * 3, abs=5
    )


def test_the_box_is_in_the_order_of_the_network_and_of_each_galaxy():
    exposure = Exposure.from_survey("LSST", bands="gri")
    fraction = torch.tensor([[1.0, 1.0, 1.0], [0.1, 0.2, 0.3]])
    victim = subject(bands=("i", "g")).victim(torch.zeros(2, 2, 8, 8), exposure.replace(fraction=fraction))
    low, _ = victim.reachable(3.0)
    assert low.shape == (2, 2, 1, 1)
    sigma = [math.sqrt((SKY[b] + VISITS[b] * 8.8**2) / f) for b, f in (("i", 1), ("g", 1), ("i", 0.3), ("g", 0.1))]
    assert electrons((low,))[0] == pytest.approx([-3 * s for s in sigma], abs=5)


def test_the_stretch_clips_what_the_detector_gives():
    contract = InputContract(
        bands=("r",), classes=CLASSES, stretch=Stretch(kind="asinh", low=(-500.0,), high=(4e4,), softening=0.85)
    )
    victim = Subject(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), contract).victim(
        torch.zeros(1, 1, 8, 8), Exposure.from_survey("LSST", bands="r")
    )
    low, high = (float(edge) for edge in victim.reachable(5.0))
    assert high == pytest.approx((math.asinh(0.85) + 1) / 2, abs=1e-6)  # 0.886, not 1
    assert low == pytest.approx((math.asinh(-0.85 * 500 / 4e4) + 1) / 2, abs=1e-6)


def test_resampling_keeps_images_of_reachable_flux_within_the_box():
    exposure = Exposure.from_survey("LSST", bands="gri")
    network = subject(low=-1e3, high=5e6, resize=8)
    low, high = (edge[0] for edge in network.victim(torch.zeros(1, 3, 8, 8), exposure).reachable(5.0))
    sigma = exposure.variance(torch.zeros(1, 3, 1, 1)).sqrt()
    brightest = (exposure.full_well * exposure.visits - exposure.sky)[None, :, None, None].float()
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(20, 3, 13, 13, generator=generator) < 0.5
    x = network.contract.to_input(torch.where(corners, brightest, -5 * sigma), ("g", "r", "i"))
    assert bool(((x >= low - 1e-6) & (x <= high + 1e-6)).all())
    assert bool(((x > low + 0.01) & (x < high - 0.01)).any())


def test_what_is_not_declared_is_said():
    x, lsst = torch.zeros(1, 3, 8, 8), Exposure.from_survey("LSST", bands="gri")
    for exposure, says in (
        (None, "--exposure"),
        (lsst.replace(full_well=torch.tensor(math.inf)), "full_well"),
        (lsst.replace(full_well=torch.tensor(100.0)), "sky fills the well"),
    ):
        with pytest.raises(InputError, match=says):
            goal.allowed(subject().victim(x, exposure), x, "flux", 5.0)
    for sigmas in (-1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="sigmas"):
            goal.allowed(subject().victim(x, lsst), x, "flux", sigmas)
    low, high = goal.allowed(subject().victim(x), x, "input", 5.0)
    assert low.shape == high.shape == x.shape
    assert (float(low.min()), float(low.max()), float(high.min()), float(high.max())) == (0.0, 0.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("onepixel", {"pop": 10, "generations": 2}),
        ("onepixel", {"settings": "published", "pop": 10, "generations": 2}),
        ("onepixel_exhaustive", {}),
        ("onepixel_exhaustive", {"early_exit": True, "grid": 3}),
        ("fewpixel", {"queries": 31}),
        ("fewpixel", {"queries": 31, "pop": 10, "search": "de"}),
    ],
)
def test_attacks_in_flux_space_write_what_a_detector_gives(name, options):
    torch.manual_seed(1)
    network, exposure = subject(low=-3e3, high=4e4), Exposure.from_survey("LSST", bands="gri", fraction=0.1)
    x = 0.2 * torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    victim = network.victim(x, exposure)
    labels = victim.logits(x).argmax(dim=1)
    pixels = 3 if name == "fewpixel" else 1
    low, high = victim.reachable(2.0)
    assert 0 < float(low.min()) <= float(low.max()) < 0.05
    result = get(name).run_attack(
        x, labels, victim, pixels, Draws(list("abcde"), 0, "attack"), space="flux", sigmas=2.0, **options
    )
    values = result.details["values"]
    assert bool(((values >= low[..., 0].mT) & (values <= high[..., 0].mT)).all())
    if "settings" not in options:
        assert bool(((values == low[..., 0].mT) | (values == high[..., 0].mT)).any())
    assert bool(values.isfinite().all())


def test_a_detector_does_no_more_than_the_whole_input_range_to_a_linear_network():
    torch.manual_seed(2)
    network, exposure = subject(low=-3e3, high=4e4), Exposure.from_survey("LSST", bands="gri")
    x = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)).clamp(0.1, 0.9)
    victim = network.victim(x, exposure)
    labels = victim.logits(x).argmax(dim=1)
    maps = [
        get("onepixel_exhaustive")
        .run_attack(x, labels, victim, 1, Draws(list("abcdef"), 0, "attack"), space=space, sigmas=1.0)
        .details["map"]
        for space in ("input", "flux")
    ]
    assert bool((maps[1] >= maps[0] - 1e-5).all())
    assert bool((maps[1] > maps[0] + 1e-3).any())


# ---------------------------------------------------------------------- the run


@pytest.fixture(scope="module")
def blobs():
    return make_blobs(24, Exposure.from_survey("LSST", bands="gri"), seed=3, size=12)


@pytest.fixture(scope="module")
def model() -> Model:
    source = make_blobs(180, Exposure.from_survey("LSST", bands="gri"), size=12)
    trained = train(Recipe(arch="tiny", epochs=6, batch=16, learning_rate=0.02), source)
    return Model(trained.network, trained.contract, "tiny", "tiny.pt", "0" * 64)


def evaluated(model, galaxies, out, batch=64, shard=10, **options) -> Record:
    plan = Plan.of(model, galaxies, [step("onepixel_exhaustive", options=options)])
    return evaluate(plan.model_copy(update={"shard": shard, "chunk": 32}), model, galaxies, out, batch=batch)


def test_maps_come_back_in_the_order_of_the_galaxies(model, blobs, tmp_path):
    record = evaluated(model, blobs, tmp_path / "run", batch=7)
    maps, rows = record.maps("onepixel_exhaustive", 1.0), record.unit("onepixel_exhaustive", 1.0)
    assert maps["ids"].tolist() == list(record.galaxies.index) == list(rows.index) == list(blobs.ids)
    assert maps["map"].shape == maps["certified"].shape == (24, 12, 12)
    assert (maps["map"].dtype, maps["certified"].dtype) == (np.float32, bool)
    assert "map" not in rows and "certified" not in rows  # noqa: PT018
    attacked = rows["fatal_pixels"].to_numpy() >= 0
    assert (attacked == (np.stack(list(record.galaxies.logits)).argmax(axis=1) == blobs.labels)).all()
    assert (attacked == np.isfinite(maps["map"]).all(axis=(1, 2))).all()
    assert ((maps["map"][attacked] <= 0).sum(axis=(1, 2)) == rows["fatal_pixels"].to_numpy()[attacked]).all()
    assert np.allclose(maps["map"][attacked].min(axis=(1, 2)), rows["smallest_margin"][attacked])
    assert (rows["success"].to_numpy() == (rows["fatal_pixels"] > 0).to_numpy()).all()
    assert sorted(p.name for p in (tmp_path / "run" / "maps" / "onepixel_exhaustive" / "1").iterdir()) == [
        "00000.npz",
        "00001.npz",
        "00002.npz",
    ]
    other = evaluated(model, blobs, tmp_path / "other", batch=24, shard=24).maps("onepixel_exhaustive", 1.0)
    assert np.array_equal(maps["map"], other["map"], equal_nan=True)
    assert record.maps("onepixel", 1.0) == {}


def test_an_interrupted_run_keeps_the_maps_of_its_shards(model, blobs, tmp_path):
    whole = evaluated(model, blobs, tmp_path / "run").maps("onepixel_exhaustive", 1.0)
    (tmp_path / "run" / "units" / "onepixel_exhaustive" / "1" / "00001.parquet").unlink()
    path = tmp_path / "run" / "maps" / "onepixel_exhaustive" / "1" / "00001.npz"
    path.unlink()
    again = evaluated(model, blobs, tmp_path / "run").maps("onepixel_exhaustive", 1.0)
    assert np.array_equal(whole["map"], again["map"], equal_nan=True)


def test_flux_space_uses_the_exposure_of_each_galaxy(model, blobs, tmp_path):
    fraction = torch.linspace(0.02, 1.0, 24)[:, None].expand(24, 3)
    uneven = dataclasses.replace(blobs, exposure=blobs.exposure.replace(fraction=fraction))
    record = evaluated(model, uneven, tmp_path / "run", batch=5, space="flux", sigmas=0.3)
    rows = record.unit("onepixel_exhaustive", 1.0)
    subject_ = Subject(model.network, model.contract)
    low, high = subject_.victim(torch.zeros(24, 3, 12, 12), uneven.exposure).reachable(0.3)
    for k, values in enumerate(rows["values"]):
        ends = torch.stack((low[k].flatten(), high.expand(24, -1, -1, -1)[k].flatten()))
        if rows["queries"].iloc[k] > 1:
            assert all(v in ends[:, c].tolist() for c, v in enumerate(values))
    assert len(low.unique()) > 24


def test_flux_space_without_a_full_well_is_refused_before_anything_is_written(model, blobs, tmp_path):
    for exposure in (None, blobs.exposure.replace(full_well=torch.tensor(math.inf))):
        with pytest.raises(InputError, match="full_well"):
            evaluated(model, dataclasses.replace(blobs, exposure=exposure), tmp_path / "run", space="flux")
        assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------- the numbers


def exhaustive_record(path, fatal, options=None, shards=1, smallest=None, certified=None, success=None) -> Record:
    """A synthetic run of which galaxy k has fatal[k] fatal pixels of 16; -1 where it was not counted."""
    entry = {**ENTRIES["onepixel"], "family": "attacks", "options": {"certificate": 64} | (options or {})}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENTRIES, "onepixel_exhaustive", entry)
        record = make_record(path, {"onepixel_exhaustive": [1.0]}, n=len(fatal))
    ids, fatal = np.array(record.galaxies.index), np.asarray(fatal)
    correct = np.stack(list(record.galaxies.logits)).argmax(axis=1) == record.galaxies.label.to_numpy()
    smallest = np.where(fatal > 0, -1.0, 1.0) if smallest is None else np.asarray(smallest)
    maps = np.where(np.arange(16) < fatal[:, None], -1.0, 1.0).reshape(-1, 4, 4).astype(np.float32)
    certified = np.arange(16) >= 16 - (np.zeros(len(fatal)) if certified is None else np.asarray(certified))[:, None]
    table = record.unit("onepixel_exhaustive", 1.0).reset_index()
    table["fatal_pixels"] = np.where(correct, fatal, -1)
    table["smallest_margin"] = np.where(correct, smallest, np.nan)
    order = np.arange(len(ids))[::-1]  # shards come as they come
    record.write_shard("onepixel_exhaustive", 1.0, 0, table)
    parts = np.array_split(order, shards)
    for shard, part in enumerate(parts):
        arrays = {"ids": ids[part].astype(str), "map": maps[part], "certified": certified.reshape(-1, 4, 4)[part]}
        record.write_maps("onepixel_exhaustive", 1.0, arrays, shard)
    return record


def correct_of(record) -> np.ndarray:
    return np.stack(list(record.galaxies.logits)).argmax(axis=1) == record.galaxies.label.to_numpy()


def test_fatal_pixels_and_certificates_by_hand(tmp_path):
    fatal = np.arange(60) % 4
    certified = np.where(fatal == 0, np.where(np.arange(60) % 8 == 0, 16, 10), 5)
    record = exhaustive_record(tmp_path / "run", fatal, certified=certified, shards=3)
    (result,) = summarise(record)
    right = correct_of(record)
    assert 10 < right.sum() < 60
    f, c = fatal[right], certified[right]
    assert result["fatal_pixels"] == {
        "median": median(f).to_dict(),
        "none": proportion(f == 0).to_dict(),
        "pixels": mean(f / 16).to_dict(),
    }
    assert result["certificate"] == {
        "pixels": {
            "certified": mean(c / 16).to_dict(),
            "attackable": mean(f / 16).to_dict(),
            "unknown": pytest.approx(mean((16 - c - f) / 16).to_dict()),
        },
        "galaxies": {
            "certified": proportion(c == 16).to_dict(),
            "attackable": proportion(f > 0).to_dict(),
            "unknown": proportion((f == 0) & (c < 16)).to_dict(),
        },
    }
    for part in result["certificate"].values():
        assert sum(estimate["value"] for estimate in part.values()) == pytest.approx(1.0)
    text = table([result])
    assert "median fatal pixels" in text
    assert f"{100 * np.mean(f == 0):.1f} [" in text
    assert "Fatal pixel:" in text


def test_of_an_early_exit_only_the_fraction_with_none_is_known(tmp_path):
    fatal = np.where(np.arange(60) % 3 == 0, 0, -1)
    smallest = np.where(fatal == 0, 0.5, -0.5)
    record = exhaustive_record(tmp_path / "run", fatal, {"early_exit": True}, smallest=smallest)
    (result,) = summarise(record)
    assert result["certificate"] is None
    assert result["fatal_pixels"]["median"]["value"] is None
    assert result["fatal_pixels"]["pixels"]["value"] is None
    assert result["fatal_pixels"]["none"] == proportion((fatal == 0)[correct_of(record)]).to_dict()


def test_other_perturbations_have_none(tmp_path):
    results = summarise(make_record(tmp_path / "run", {"onepixel": [1.0], "depth": [0.5]}))
    assert [(r["fatal_pixels"], r["certificate"]) for r in results] == [(None, None)] * 2
    assert "fatal" not in table(results)


def test_the_difference_of_two_spaces_is_paired(tmp_path):
    first = exhaustive_record(tmp_path / "input", np.arange(60) % 5)
    second = exhaustive_record(tmp_path / "flux", np.arange(60) % 2)
    changed = second.unit("onepixel_exhaustive", 1.0).reset_index()
    changed["logits"] = list(np.roll(np.stack(list(changed["logits"])), 1, axis=0))  # others flip
    second.write_shard("onepixel_exhaustive", 1.0, 0, changed)
    (difference,) = space_difference(first, second)
    right = correct_of(first)
    flips = [
        np.stack(list(r.unit("onepixel_exhaustive", 1.0).logits)).argmax(axis=1) != r.galaxies.label.to_numpy()
        for r in (first, second)
    ]
    assert difference["n"] == right.sum()
    assert difference["attack_success_rate"] == paired_drop(flips[0][right], flips[1][right]).to_dict()
    expected = mean((np.arange(60) % 5 - np.arange(60) % 2)[right])
    assert difference["fatal_pixels"] == expected.to_dict()
    (reverse,) = space_difference(second, first)
    assert reverse["fatal_pixels"]["value"] == pytest.approx(-expected.value)
    run = dict(second.run)
    run["model"] = {**run["model"], "sha256": "f" * 64}
    second.write_run(run)
    with pytest.raises(InputError, match="not of the same model"):
        space_difference(first, second)


# ---------------------------------------------------------------------- the command line


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    place = tmp_path_factory.mktemp("spaces")
    write_hdf5(make_blobs(90, Exposure.from_survey("LSST", bands="gri"), size=12), place / "deep.h5")
    command = ["train", "--arch", "tiny", "--epochs", "6", "--batch", "16", "--learning-rate", "0.02"]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--source", str(place / "deep.h5"), "--out", str(place / "tiny.pt")])
    assert ended.value.code == 0
    return place


def attacked(workplace, capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["attack", "--model", str(workplace / "tiny.pt"), *map(str, arguments)])
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


def test_both_spaces_at_once(workplace, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(commands, "draw", lambda record: [])
    arguments = ("--attack", "onepixel_exhaustive", "--space", "both", "--limit", 9, "--out", tmp_path / "run")
    status, out, _ = attacked(workplace, capsys, *arguments, "--json")
    assert status == 0
    document = json.loads(out)
    flux, (difference,) = document["spaces"]["flux"], document["spaces"]["difference"]
    assert document["run"] == str(tmp_path / "run" / "input")
    assert flux["run"] == str(tmp_path / "run" / "flux")
    spaces = [d["perturbation"]["options"]["space"] for d in (document, flux)]
    assert spaces == ["input", "flux"]
    results = [d["results"][0] for d in (document, flux)]
    assert difference["attack_success_rate"]["value"] == pytest.approx(
        results[0]["attack_success_rate"]["value"] - results[1]["attack_success_rate"]["value"]
    )
    assert set(difference["fatal_pixels"]) == {"value", "low", "high", "n"}
    assert difference["fatal_pixels"]["n"] == difference["n"] == results[0]["fatal_pixels"]["none"]["n"]
    records = {name: Record.open(tmp_path / "run" / name) for name in ("input", "flux")}
    text = commands.spaces_text(records, document)
    assert text.count("median fatal pixels") == 2
    assert "Input minus flux space" in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--attack", "pgd", "--space", "flux"), "onepixel_exhaustive"),
        (("--attack", "depth", "--space", "both"), "leave --space out"),
        (("--attack", "onepixel", "--space", "fluxx"), "did you mean 'flux'"),
        (("--attack", "onepixel", "--space", "flux", "-p", "space=input"), "drop one"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused(workplace, tmp_path, capsys, arguments, says):
    status, _, err = attacked(workplace, capsys, *arguments, "--out", tmp_path / "run")
    assert status == 2
    assert says.lower() in err.lower()
    assert not (tmp_path / "run").exists()
