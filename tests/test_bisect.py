"""Bisection: the strength that flips each galaxy, to a stated tolerance, whatever the batch or interruption."""

import dataclasses
import hashlib
import json
import math

import numpy as np
import pytest
import torch

from perturbations.core import AttackResult, get
from perturbations.draws import Draws
from perturbations.errors import BrokenPromise, InputError
from robustastro.data.galaxies import Galaxies
from robustastro.evaluate import bisect
from robustastro.evaluate.engine import attack, evaluate
from robustastro.evaluate.plan import Plan, Step, step
from robustastro.metrics.critical import critical_strength
from robustastro.models.bundles import Model
from robustastro.record import Record

TOLERANCE = 0.03


class Bright(torch.nn.Module):
    """Three classes by the mean of the image: below 0.3, up to 0.5, above; linear in that mean."""

    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(1, 3)
        self.fc.weight.data = torch.tensor([[0.0], [1.0], [2.0]])
        self.fc.bias.data = torch.tensor([0.0, -0.3, -0.8])

    def forward(self, x):
        return self.fc(x.mean(dim=(1, 2, 3))[:, None])


@pytest.fixture
def model(contract) -> Model:
    torch.manual_seed(0)
    return Model(Bright(), contract, "tiny", "somewhere/bright.pt", "1" * 64)


@pytest.fixture
def galaxies(contract, lsst) -> Galaxies:
    """Even images of 60 brightnesses; a tenth has a label that is not what the network says."""
    value = np.random.default_rng(3).uniform(0.05, 0.95, 60)
    flux = (value * 2.2e4 - 2e3)[:, None, None, None] * np.ones((60, 3, 6, 6))
    labels = np.digitize(value, (0.3, 0.5))
    labels[::10] = (labels[::10] + 1) % 3
    return Galaxies(
        images=flux.astype(np.float32),
        labels=labels,
        ids=tuple(f"even-{k:03d}" for k in range(60)),
        classes=contract.classes,
        bands=contract.bands,
        exposure=lsst,
        domain="even",
    )


@pytest.fixture
def planted(monkeypatch):
    """Replace an entry's function, or other fields, for one test."""
    import perturbations.core as core

    def plant(name, **changes):
        monkeypatch.setitem(core._catalogue, name, dataclasses.replace(get(name), **changes))

    return plant


def dimmer(x, sigma, draws):
    """Each image less its strength, by a factor of its own between 1 and 2, so that the critical one is known."""
    return (x - sigma * factor(draws)).clamp(0, 1)


def factor(draws: Draws) -> torch.Tensor:
    return 1.0 + draws.uniform("factor", (1,))[:, :, None, None].float()


@pytest.fixture
def dimming(planted):
    """`pixel_noise` with a strength that takes light away, on a ladder whose rungs are far apart."""
    planted("pixel_noise", function=dimmer, ladder=(0.08, 0.2, 0.4))


def plan_for(model, galaxies, wanted: Step, tolerance: float | None = TOLERANCE, **changes) -> Plan:
    settings = {"chunk": 16, "shard": 25, "kept_images": 2} | changes
    return Plan.of(model, galaxies, [wanted], bisect=tolerance).model_copy(update=settings)


def run(model, galaxies, out, wanted: Step, tolerance: float | None = TOLERANCE, shard: int = 25, **how) -> Record:
    return evaluate(plan_for(model, galaxies, wanted, tolerance, shard=shard), model, galaxies, out, **how)


def exact(galaxies: Galaxies) -> np.ndarray:
    """The strength at which `dimmer` takes each image below its class; infinite for the darkest class."""
    value = (galaxies.batch(slice(None)).double().mean(dim=(1, 2, 3)).numpy() + 2e3) / 2.2e4
    draws = Draws(galaxies.ids, 0, "perturb").scoped("pixel_noise", get("pixel_noise").version)
    edge = np.array([-math.inf, 0.3, 0.5])[np.digitize(value, (0.3, 0.5))]
    return (value - edge) / factor(draws).double().numpy().ravel()


def test_the_narrowed_interval_holds_the_exact_critical_strength(model, galaxies, dimming, tmp_path):
    record = run(model, galaxies, tmp_path / "run", step("pixel_noise"))
    truth = dict(zip(galaxies.ids, exact(galaxies), strict=True))
    found = critical_strength(record, "pixel_noise")
    assert found is not None
    assert (found.excluded, len(found.ids)) == (6, 54)
    expected = np.array([truth[i] for i in found.ids])
    flips = expected <= 0.4
    assert 25 < flips.sum() < 50
    assert np.array_equal(found.status == "never", ~flips)
    assert np.array_equal(found.narrowed, flips)
    assert (found.low[flips] - 1e-6 <= expected[flips]).all()
    assert (expected[flips] <= found.high[flips] + 1e-6).all()
    width = found.high[flips] - found.low[flips]
    assert (width <= TOLERANCE + 1e-12).all()
    assert (width > TOLERANCE / 2).all()  # no halving more than it takes
    assert found.tolerance == TOLERANCE
    rows = record.bisected("pixel_noise")
    assert set(rows.index) == set(found.ids[flips])
    assert set(rows["evaluations"]) == {2, 3}  # 0.08 in 4 parts of 0.02, 0.12 in 4 of 0.03, 0.2 in 8 of 0.025
    assert json.loads((tmp_path / "run" / "run.json").read_text())["plan"]["bisect"] == TOLERANCE


def test_a_real_corruption_agrees_with_a_fine_ladder(model, galaxies, tmp_path):
    """Brute force: the interval is a pair of neighbours on a ladder as fine as the tolerance, right and then wrong."""
    blurred = dataclasses.replace(
        galaxies, images=galaxies.images * np.linspace(0.2, 1.8, 36, dtype="f4").reshape(6, 6)
    )
    record = run(model, blurred, tmp_path / "run", step("dimming"), 0.0625)
    rows = record.bisected("dimming")
    assert len(rows) > 20
    fine = step("dimming").model_copy(update={"strengths": tuple(np.arange(1, 41) * 0.0625)})
    brute = run(model, blurred, tmp_path / "brute", fine, None)
    labels = brute.galaxies["label"]
    wrong = {0.0: dict.fromkeys(labels.index, False)}
    for strength in fine.strengths:
        logits = brute.unit("dimming", strength)["logits"]
        wrong[strength] = {i: int(np.argmax(logits[i])) != labels[i] for i in logits.index}
    for galaxy, row in rows.iterrows():
        assert row["high"] - row["low"] == 0.0625
        assert wrong[row["high"]][galaxy]
        assert not wrong[row["low"]][galaxy]


def test_on_a_ladder_that_falls_low_is_the_safe_end(model, galaxies, planted, tmp_path):
    """Strength is what is left: 1 changes nothing, less is darker."""
    planted(
        "pixel_noise", function=lambda x, left, draws: x * left, ladder=(0.8, 0.5, 0.2), identity=1.0,
    )  # fmt: skip
    record = run(model, galaxies, tmp_path / "run", step("pixel_noise"))
    found = critical_strength(record, "pixel_noise")
    assert found is not None
    assert found.falling
    value = (galaxies.images.astype(np.float64).mean(axis=(1, 2, 3)) + 2e3) / 2.2e4
    truth = dict(zip(galaxies.ids, np.array([-1.0, 0.3, 0.5])[np.digitize(value, (0.3, 0.5))] / value, strict=True))
    flipped = found.narrowed
    assert flipped.sum() > 20
    expected = np.array([truth[i] for i in found.ids[flipped]])
    assert (found.low[flipped] > found.high[flipped]).all()
    assert (found.low[flipped] - found.high[flipped] <= TOLERANCE + 1e-12).all()
    assert (expected <= found.low[flipped] + 1e-6).all()
    assert (expected >= found.high[flipped] - 1e-6).all()
    assert found.low.max() > 0.8  # of the first rung, towards the identity


def same(first: Record, second: Record, name: str = "pixel_noise") -> None:
    one, two = (record.bisected(name).sort_index() for record in (first, second))
    assert len(one) > 20
    assert one.equals(two)


@pytest.mark.parametrize(("batch", "shard"), [(1, 25), (7, 60), (64, 9)])
def test_batches_and_shards_change_no_interval(model, galaxies, dimming, tmp_path, batch, shard):
    reference = run(model, galaxies, tmp_path / "reference", step("pixel_noise"))
    same(reference, run(model, galaxies, tmp_path / "run", step("pixel_noise"), batch=batch, shard=shard))


class Interrupted(Exception):
    pass


def test_an_interrupted_bisection_goes_on_and_repeats_nothing(model, galaxies, dimming, tmp_path):
    reference = run(model, galaxies, tmp_path / "reference", step("pixel_noise"))
    told = []

    def stop(what, done, total):
        told.append((what, done, total))
        if what == "bisect pixel_noise" and done > total / 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        run(model, galaxies, tmp_path / "run", step("pixel_noise"), progress=stop)
    there = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.parquet") if path.stem.isdigit()}
    assert 0 < sum("bisect" in path.parts for path in there) < 3
    half = critical_strength(Record.open(tmp_path / "run"), "pixel_noise")
    assert half is not None
    assert 0 < half.narrowed.sum() < (half.status != "never").sum()
    told.clear()
    record = run(
        model, galaxies, tmp_path / "run", step("pixel_noise"), progress=lambda *args: told.append(args), batch=3
    )
    assert all(path.stat().st_mtime_ns == before for path, before in there.items())
    same(reference, record)
    told = [(done, total) for what, done, total in told if what == "bisect pixel_noise"]
    assert told[-1][0] == told[-1][1] == int(record.bisected("pixel_noise")["evaluations"].sum())
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[0][0] > 10  # what was there counts from the start


def test_an_attack_is_bisected_by_what_is_measured_and_not_claimed(model, galaxies, planted, tmp_path):
    """PGD on a network that is linear in the mean: the critical epsilon is the distance to the boundary."""
    record = run(model, galaxies, tmp_path / "run", step("pgd", options={"steps": 5}), 0.001)
    found = critical_strength(record, "pgd")
    assert found is not None
    value = dict(zip(galaxies.ids, (galaxies.images.mean(axis=(1, 2, 3)) + 2e3) / 2.2e4, strict=True))
    near = np.array([min(abs(value[i] - 0.3), abs(value[i] - 0.5)) for i in found.ids])
    assert found.narrowed.sum() > 5
    for low, high, distance in zip(
        found.low[found.narrowed], found.high[found.narrowed], near[found.narrowed], strict=True
    ):
        assert low - 1e-5 <= distance <= high + 1e-5
        assert high - low <= 0.001 + 1e-12

    def liar(x, labels, victim, strength, draws, **options):
        return AttackResult(x.clone(), torch.ones(len(x), dtype=torch.bool), torch.ones(len(x), dtype=torch.int64))

    planted("pgd", function=liar)
    record = run(model, galaxies, tmp_path / "liar", step("pgd", options={"steps": 5}), 0.001)
    assert record.bisected("pgd").empty
    assert sorted(path.stem for path in (tmp_path / "liar" / "bisect" / "pgd").iterdir()) == ["00000", "00001", "00002"]


def test_without_an_identity_the_first_rung_stays(model, galaxies, planted, tmp_path):
    planted("pixel_noise", function=dimmer, ladder=(0.08, 0.2, 0.4), identity=None, no_identity="for this test")
    record = run(model, galaxies, tmp_path / "run", step("pixel_noise"))
    found = critical_strength(record, "pixel_noise")
    assert found is not None
    first = found.status == "first rung"
    assert first.sum() > 3
    assert np.isnan(found.low[first]).all()
    assert not found.narrowed[first].any()
    assert found.narrowed[found.status == "flipped"].all()
    assert set(record.bisected("pixel_noise").index) == set(found.ids[found.status == "flipped"])


def test_a_perturbation_that_meddles_with_the_network_between_rungs_is_caught(model, galaxies, planted, tmp_path):
    def meddle(x, labels, victim, strength, draws, **options):
        if strength not in get("fgsm").ladder:
            victim._subject.network.fc.weight.data.mul_(1.01)
        return AttackResult((x - strength).clamp(0, 1), labels < 0, labels * 0)

    planted("fgsm", function=meddle, identity=None, no_identity="for this test")
    with pytest.raises(BrokenPromise, match="changed the network"):
        run(model, galaxies, tmp_path / "run", step("fgsm"), 0.001)
    assert not (tmp_path / "run" / "bisect").exists()


# ---------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("name", "tolerance", "how", "text"),
    [
        ("seeing", 0.0, {}, "a width above 0"),
        ("seeing", -0.1, {}, "a width above 0"),
        ("seeing", math.nan, {}, "a width above 0"),
        ("seeing", math.inf, {}, "a width above 0"),
        ("seeing", 1e-12, {}, "takes 38 halvings; at most 30"),
        ("seeing", 0.2, {}, "less than the widest interval between rungs, 0.2"),
        ("onepixel", 0.1, {}, "whole number of pixels"),
        ("fewpixel", 0.1, {}, "whole number of pixels"),
        ("universal", 0.001, {}, "fitted to a whole set"),
        ("torchattacks:PGD", 0.001, {}, "same batch"),
        ("satellite_trail", 0.1, {"severity": 2}, "two rungs or more"),
    ],
)
def test_what_cannot_be_bisected_is_refused(model, galaxies, name, tolerance, how, text):
    with pytest.raises(InputError, match=text):
        Plan.of(model, galaxies, [step(name, **how)], bisect=tolerance)


def test_one_perturbation_at_a_time(model, galaxies):
    with pytest.raises(InputError, match="for 2 perturbations"):
        Plan.of(model, galaxies, [step("seeing"), step("jpeg")], bisect=0.1)


@pytest.mark.parametrize(("name", "tolerance"), [("jpeg", 0.5), ("quantize", 0.5), ("band_dropout", 0.1)])
def test_strengths_that_must_be_whole_are_refused_before_anything_is_written(
    model, galaxies, tmp_path, name, tolerance
):
    with pytest.raises(InputError, match=f"--bisect {tolerance:g}: {name}.*whole number"):
        run(model, galaxies, tmp_path / "run", step(name), tolerance)
    assert not (tmp_path / "run").exists()


def test_galaxies_without_labels_are_refused(model, galaxies, tmp_path):
    blind = dataclasses.replace(galaxies, labels=None)
    with pytest.raises(InputError, match="without labels"):
        run(model, blind, tmp_path / "run", step("seeing"), 0.05)
    assert not (tmp_path / "run").exists()


def test_a_plan_without_a_bisection_has_the_digest_it_had(model, galaxies):
    plain = plan_for(model, galaxies, step("seeing"), None)
    document = plain.model_dump(mode="json")
    assert [document.pop(later) for later in ("bisect", "fitted_on", "pixels")] == [None] * 3
    assert plain.digest() == hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    for first, second in ((None, 0.1), (0.1, 0.05)):
        one, two = (plan_for(model, galaxies, step("seeing"), value).digest() for value in (first, second))
        assert one != two


# ---------------------------------------------------------------------- halving


def test_halvings_are_the_fewest_that_reach_the_tolerance():
    ends = np.array([0.0, 0.2, 0.4, 0.6000000000000001, 1.0, 1.01])
    assert list(bisect.halvings(ends, 0.05)) == [2, 2, 2, 3, 0]
    assert list(bisect.halvings(ends[::-1], 0.05)) == [0, 3, 2, 2, 2]
    assert list(bisect.halvings(ends, 0.049)) == [3, 3, 3, 4, 0]
    assert list(bisect.halvings(np.array([math.nan, 1.0, 2.0]), 0.25)) == [0, 2]


def test_the_finest_strengths_are_those_that_are_tried():
    jpeg = bisect.edges(get("jpeg"), (80.0, 50.0, 45.0))
    assert bisect.finest(jpeg, 5.0) == [76.25]
    assert bisect.finest(bisect.edges(get("seeing"), (0.25, 1.25)), 0.125) == [0.125, 0.375]


def test_the_interval_starts_where_nothing_is_changed():
    assert list(bisect.edges(get("depth"), (0.1, 0.8))) == [1.0, 0.8, 0.1]
    assert list(bisect.edges(get("seeing"), (0.4, 0.2))) == [0.0, 0.2, 0.4]
    assert math.isnan(bisect.edges(get("jpeg"), (80.0, 50.0))[0])
    assert math.isnan(bisect.edges(get("pixel_scale"), (0.9, 1.2))[0])  # 0.9 is on the other side of the identity, 1


def test_the_command_line_passes_the_tolerance_on(model, galaxies, dimming, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from robustastro import commands
    from robustastro.cli import app

    monkeypatch.setattr(commands, "load_model", lambda *args: model)
    monkeypatch.setattr(commands, "test_data", lambda *args: (galaxies, None))
    monkeypatch.setattr(commands, "draw", lambda record: [])  # slow, and tested elsewhere
    asked = ["attack", "--model", "m.pt", "--attack", "pixel_noise", "--bisect", "0.05", "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(app, [*asked, "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    (entry,) = document["critical_strength"]
    assert entry["tolerance"] == 0.05
    assert entry["narrowed"] == entry["n"] - entry["never"] > 20
    text = CliRunner().invoke(app, asked).stdout
    assert f"n = {entry['n']}; {entry['never']} never wrong" in text
    assert "narrowed to 0.05" in text
    again = attack(model, galaxies, "pixel_noise", tmp_path / "python", bisect=0.05)
    same(Record.open(tmp_path / "run"), again)
