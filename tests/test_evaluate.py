"""The engine: the same numbers whatever the batch, order or interruption; and it trusts nobody."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch

from perturbations.core import AttackResult, get
from perturbations.errors import BrokenPromise, InputError
from robustastro.adapt.recipe import Recipe
from robustastro.adapt.training import id_hashes, select, train
from robustastro.evaluate.engine import choose, evaluate
from robustastro.evaluate.plan import Plan, step
from robustastro.models.bundles import Model
from robustastro.models.subject import Subject
from robustastro.record import Record


@pytest.fixture
def model(blobs) -> Model:
    trained = train(Recipe(arch="tiny", epochs=12, batch=16, learning_rate=0.02), blobs)
    return Model(
        trained.network,
        trained.contract,
        "tiny",
        "somewhere/tiny.pt",
        "0" * 64,
        trained_on=id_hashes(trained.train_ids),
    )


@pytest.fixture
def test_galaxies(blobs):
    return select(blobs, "test")


STEPS = (
    step("depth", strength=0.1),
    step("jpeg", severity=3),
    step("onepixel", options={"pop": 10, "generations": 3}),
    step("pgd", strength=0.02, options={"steps": 3}),
)


def plan_for(model, galaxies, steps=STEPS, seed=0, **changes) -> Plan:
    settings = {"chunk": 16, "shard": 20, "kept_images": 4} | changes
    return Plan.of(model, galaxies, steps, seed=seed).model_copy(update=settings)


def tables(record: Record) -> dict[str, pd.DataFrame]:
    return {f"{u.perturbation} {u.strength:g}": record.unit(u.perturbation, u.strength) for u in record.units()}


def assert_same(first: Record, second: Record) -> None:
    """Decisions, pixels and queries equal; distances to 1e-5."""
    for (name, a), b in zip(tables(first).items(), tables(second).values(), strict=True):
        assert set(a.index) == set(b.index), name
        b = b.loc[a.index]
        for column in ("logits", "latent"):
            one, two = (np.stack(list(t[column])) for t in (a, b))
            assert np.allclose(one, two, atol=1e-5)
            if column == "logits":
                assert (one.argmax(axis=1) == two.argmax(axis=1)).all()
        for column in ("queries", "success", "rows", "columns", "values"):
            if column in a:
                assert all(np.array_equal(x, y, equal_nan=True) for x, y in zip(a[column], b[column], strict=True)), (
                    column
                )


@pytest.fixture
def reference(model, test_galaxies, tmp_path) -> Record:
    return evaluate(plan_for(model, test_galaxies), model, test_galaxies, tmp_path / "reference")


@pytest.mark.parametrize("batch", [1, 7])
def test_batch_size_changes_no_number(model, test_galaxies, reference, tmp_path, batch):
    assert_same(
        reference, evaluate(plan_for(model, test_galaxies), model, test_galaxies, tmp_path / "run", batch=batch)
    )


def test_order_and_shards_change_no_number(model, test_galaxies, reference, tmp_path):
    order = np.random.default_rng(0).permutation(len(test_galaxies))
    shuffled = test_galaxies.take(order)
    assert_same(reference, evaluate(plan_for(model, shuffled, shard=7), model, shuffled, tmp_path / "run"))


def test_a_subset_has_the_numbers_of_the_whole(model, test_galaxies, reference, tmp_path):
    few = choose(test_galaxies, 5)
    assert set(few.ids) == set(choose(test_galaxies.take(np.arange(len(test_galaxies))[::-1]), 5).ids)
    record = evaluate(plan_for(model, few), model, few, tmp_path / "few")
    for name, table in tables(record).items():
        whole = tables(reference)[name].loc[table.index]
        assert np.allclose(np.stack(list(table.logits)), np.stack(list(whole.logits)), atol=1e-5)
        if "rows" in table:
            assert [list(v) for v in table.rows] == [list(v) for v in whole.rows]


class Interrupted(Exception):
    pass


def test_an_interrupted_run_goes_on_and_repeats_nothing(model, test_galaxies, reference, tmp_path):
    calls = []

    def stop_after(limit):
        def progress(what, done, total):
            calls.append(what)
            if len(calls) == limit:
                raise Interrupted

        return progress

    plan, out = plan_for(model, test_galaxies), tmp_path / "run"
    for limit in (4, 7, 9):
        calls.clear()
        with pytest.raises(Interrupted):
            evaluate(plan, model, test_galaxies, out, progress=stop_after(limit))
    written = {path: path.stat().st_mtime_ns for path in (out / "units").rglob("*.parquet")}
    assert written
    record = evaluate(plan, model, test_galaxies, out)
    assert all(path.stat().st_mtime_ns == before for path, before in written.items())
    assert_same(reference, record)
    assert not list(out.rglob(".*"))  # no drafts left


def test_another_plan_does_not_touch_a_run(model, test_galaxies, reference):
    before = (reference.path / "run.json").read_text()
    with pytest.raises(InputError, match="holds another run"):
        evaluate(plan_for(model, test_galaxies, seed=1), model, test_galaxies, reference.path)
    assert (reference.path / "run.json").read_text() == before


def test_the_record_says_everything(model, test_galaxies, reference):
    run = json.loads((reference.path / "run.json").read_text())
    assert run["schema"] == 1
    assert run["model"]["sha256"] == model.sha256
    assert run["data"]["sha256"] == test_galaxies.digest()
    assert run["exposure"]["sky"] == pytest.approx([24_790, 130_617, 188_799], rel=1e-4)
    assert run["perturbations"][2]["options"]["generations"] == 3
    assert run["perturbations"][2]["options"]["stop"] == "argmax"
    assert run["versions"]["torch"] == torch.__version__
    assert run["timing"]["seconds"] > 0
    assert run["flags"] == []
    table = reference.galaxies
    x = model.contract.to_input(test_galaxies.batch(slice(None)), test_galaxies.bands)
    clean = Subject(model.network, model.contract, chunk=16).outputs(x)
    assert np.allclose(np.stack(list(table.logits)), clean.logits)
    assert list(table.label) == list(test_galaxies.labels)
    images = reference.images("onepixel", 1.0)
    assert set(images["ids"]) == set(choose(test_galaxies, 4).ids)
    changed = (images["clean"] != images["perturbed"]).any(axis=1).sum(axis=(1, 2))
    assert set(changed) <= {0, 1}
    assert reference.head.weight is not None


def test_depth_is_applied_to_flux_before_the_frozen_stretch(model, test_galaxies, reference):
    from perturbations.draws import Draws

    sky = test_galaxies.observation(slice(None))
    shallow = get("depth")(sky, 0.1, Draws(test_galaxies.ids, 0, "perturb"))
    x = model.contract.to_input(shallow.flux, test_galaxies.bands)
    expected = Subject(model.network, model.contract, chunk=16).outputs(x).logits
    assert np.allclose(np.stack(list(reference.unit("depth", 0.1).logits)), expected, atol=1e-5)


def test_a_flux_perturbation_on_pictures_is_refused_before_anything_is_written(model, test_galaxies, tmp_path):
    pictures = dataclasses.replace(test_galaxies, exposure=None)
    with pytest.raises(InputError, match="no Exposure"):
        evaluate(plan_for(model, pictures), model, pictures, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_labels_that_are_not_the_models_are_refused(model, test_galaxies, tmp_path):
    strange = dataclasses.replace(test_galaxies, classes=("round", "small", "irregular"))
    with pytest.raises(InputError, match="label 'irregular'"):
        evaluate(plan_for(model, strange), model, strange, tmp_path / "run")


def test_unlabelled_galaxies_are_attacked_from_the_models_own_class(model, test_galaxies, tmp_path):
    unlabelled = dataclasses.replace(test_galaxies, labels=None)
    record = evaluate(plan_for(model, unlabelled), model, unlabelled, tmp_path / "run")
    clean = np.stack(list(record.galaxies.logits)).argmax(axis=1)
    rows = record.unit("onepixel", 1.0)
    after = np.stack(list(rows.logits)).argmax(axis=1)
    assert (rows.success.to_numpy() == (after != clean)).all()


# ---------------------------------------------------------------------- it trusts nobody


@pytest.fixture
def planted(monkeypatch):
    """Replace an entry's function for one test."""
    import perturbations.core as core

    def plant(name, function):
        entry = get(name)
        monkeypatch.setitem(core._catalogue, name, dataclasses.replace(entry, function=function))

    return plant


def test_success_is_measured_and_not_believed(model, test_galaxies, tmp_path, planted):
    def liar(x, labels, victim, strength, draws, *, target=None):
        everything = torch.ones(len(x), dtype=torch.bool)
        return AttackResult(x.clone(), everything, everything.long())

    planted("fgsm", liar)
    steps = (step("fgsm", severity=1),)
    record = evaluate(plan_for(model, test_galaxies, steps), model, test_galaxies, tmp_path / "run")
    assert not record.unit("fgsm", steps[0].strengths[0]).success.any()


def meddle(change):
    def attack(x, labels, victim, strength, draws, *, target=None):
        if strength:
            change(victim._subject.network)
        return AttackResult(x.clone(), labels < 0, labels * 0)

    return attack


@pytest.mark.parametrize(
    "change",
    [
        lambda net: net.fc.weight.data.mul_(1.01),
        lambda net: net.train(),
        lambda net: net.fc.register_forward_hook(lambda *a: None),
        lambda net: net.fc.weight.requires_grad_(True),
        lambda net: net.bn1.running_mean.add_(0.1),
    ],
    ids=["weights", "mode", "hook", "gradient", "buffer"],
)
def test_an_attack_that_changes_the_network_is_caught(model, test_galaxies, tmp_path, planted, change):
    planted("fgsm", meddle(change))
    steps = (step("fgsm", severity=1),)
    with pytest.raises(BrokenPromise, match="changed the network"):
        evaluate(plan_for(model, test_galaxies, steps), model, test_galaxies, tmp_path / "run")


def test_galaxies_used_in_training_are_flagged(model, blobs, tmp_path):
    some = select(blobs, "train").take(range(6))
    steps = (step("jpeg", severity=1),)
    record = evaluate(plan_for(model, some, steps), model, some, tmp_path / "run")
    assert [flag["code"] for flag in record.run["flags"]] == ["training_overlap"]
    assert "6 of 6" in record.run["flags"][0]["message"]


def test_an_identity_that_is_none_is_flagged(model, test_galaxies, tmp_path, planted):
    planted("pixel_noise", lambda x, sigma, draws: (x * 0.999).clamp(0, 1))
    steps = (step("pixel_noise", severity=1),)
    record = evaluate(plan_for(model, test_galaxies, steps), model, test_galaxies, tmp_path / "run")
    assert [flag["code"] for flag in record.run["flags"]] == ["zero_budget"]


def test_a_plan_made_for_another_version_is_refused(model, test_galaxies, tmp_path):
    old = step("jpeg", severity=1).model_copy(update={"version": 99})
    with pytest.raises(InputError, match="version 99"):
        evaluate(plan_for(model, test_galaxies, (old,)), model, test_galaxies, tmp_path / "run")


def test_steps_are_checked():
    with pytest.raises(InputError, match="severities 1 to 5"):
        step("depth", severity=6)
    with pytest.raises(InputError, match="one of them"):
        step("depth", severity=1, strength=0.5)
    with pytest.raises(InputError, match="name=value"):
        step("onepixel", options=["pop:3"])
    assert step("onepixel", options=["pop=30"]).options["pop"] == 30
    assert step("depth").strengths == (0.8, 0.6, 0.4, 0.2, 0.1)


def test_nothing_half_written_is_visible(model, test_galaxies, tmp_path, monkeypatch):
    monkeypatch.setattr("pyarrow.parquet.write_table", lambda table, path: (path.write_bytes(b"half"), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        evaluate(plan_for(model, test_galaxies), model, test_galaxies, tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.parquet"))


def test_a_run_that_is_interrupted_at_its_end_does_not_look_finished(model, test_galaxies, tmp_path, monkeypatch):
    plan = plan_for(model, test_galaxies, STEPS[:2])
    before = evaluate(plan, model, test_galaxies, tmp_path / "run").run["timing"]["seconds"]

    def interrupted(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("robustastro.evaluate.engine._Run._failures", interrupted)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                evaluate(plan, model, test_galaxies, tmp_path / "run")
            assert Record.open(tmp_path / "run").run["timing"] is None
    after = evaluate(plan, model, test_galaxies, tmp_path / "run").run
    assert after["timing"]["seconds"] >= before
    assert "seconds_before" not in after


def test_attack_from_python_is_the_run_of_the_command_line(model, test_galaxies, tmp_path):
    import robustastro

    record = robustastro.attack(model, test_galaxies, "jpeg", tmp_path / "run", severity=2, limit=6)
    (result,) = robustastro.summarise(record)
    assert (result["strength"], result["n"]) == (50.0, 6)


# ---------------------------------------------------------------------- odd networks, odd data, killed runs


def test_the_draft_of_a_killed_run_is_not_a_result(model, test_galaxies, reference):
    folder = reference.path / "units" / "jpeg" / "25"
    (shard, *_) = sorted(folder.glob("*.parquet"))
    (folder / f".{shard.name}.abcd.parquet").write_bytes(shard.read_bytes())
    images = reference.path / "images" / "jpeg" / "25"
    (images / ".00000.npz.abcd.npz").write_bytes(b"half")
    again = Record.open(reference.path)
    assert len(again.unit("jpeg", 25.0)) == len(test_galaxies)
    assert len(again.images("jpeg", 25.0)["ids"]) == 4


def test_results_without_their_description_are_not_adopted(model, test_galaxies, reference):
    (reference.path / "run.json").unlink()
    with pytest.raises(InputError, match=r"without their run\.json"):
        evaluate(plan_for(model, test_galaxies), model, test_galaxies, reference.path)


def test_a_perturbation_stands_once_in_a_plan(model, test_galaxies):
    twice = (step("pgd", severity=1), step("pgd", severity=1, options={"steps": 3}))
    near = (step("depth", severity=1).model_copy(update={"strengths": (0.1, 0.1 + 1e-14)}),)
    for steps in (twice, near):
        with pytest.raises(InputError, match="twice in one plan"):
            plan_for(model, test_galaxies, steps)


class Bent(torch.nn.Module):
    """A network whose last Linear is not its head."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return -((self.inner(x) - 1.0) ** 2)


def test_distances_to_a_boundary_need_a_head_that_gives_the_logits(model, test_galaxies, tmp_path):
    bent = dataclasses.replace(model, network=Bent(model.network))
    steps = (step("jpeg", severity=1),)
    record = evaluate(plan_for(bent, test_galaxies, steps), bent, test_galaxies, tmp_path / "run")
    assert record.head.kind == "other"
    assert record.head.weight is None
    from robustastro.metrics.summary import summarise

    (result,) = summarise(record)
    assert result["boundary_distance"]["n"] == 0
    assert result["boundary_reason"]


class Counting(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.inner(x)


def test_a_network_that_changes_itself_is_said_to(model, test_galaxies, tmp_path):
    counting = dataclasses.replace(model, network=Counting(model.network))
    with pytest.raises(InputError, match=r"the network changes itself"):
        evaluate(plan_for(counting, test_galaxies), counting, test_galaxies, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_any_catalogue_column_travels(model, test_galaxies, tmp_path):
    n = len(test_galaxies)
    odd = pd.DataFrame(
        {
            "magnitude": np.linspace(18, 22, n),
            "label": ["given by hand"] * n,
            "mixed": [1, "two"] * (n // 2) + [3.0] * (n % 2),
            "complex": np.ones(n) * 1j,
            "large": [10**30] * n,
        }
    )
    galaxies = dataclasses.replace(test_galaxies, catalogue=odd)
    steps = (step("jpeg", severity=1),)
    table = evaluate(plan_for(model, galaxies, steps), model, galaxies, tmp_path / "run").galaxies
    assert np.allclose(table.magnitude, odd.magnitude)
    assert set(table.catalogue_label) == {"given by hand"}
    assert table.mixed.iloc[1] == "two"
    assert len(table.complex) == len(table.large) == n


def test_results_of_other_code_under_the_same_weights_are_not_mixed(model, test_galaxies, tmp_path):
    (tmp_path / "net.py").write_text("x = 1\n")
    own = dataclasses.replace(model, arch=f"{tmp_path / 'net.py'}:Net")
    first = plan_for(own, test_galaxies).digest()
    (tmp_path / "net.py").write_text("x = 2\n")
    assert plan_for(own, test_galaxies).digest() != first


def test_python_attacks_the_unseen_galaxies(model, blobs, tmp_path):
    import robustastro

    record = robustastro.attack(model, blobs, "jpeg", tmp_path / "run", severity=1)
    assert set(record.galaxies.index) == set(select(blobs, "test").ids)
    assert record.run["flags"] == []


def test_validation_logits_are_kept_for_calibration(model, blobs, test_galaxies, tmp_path):
    steps, valid = (step("jpeg", severity=1),), select(blobs, "valid")
    record = evaluate(plan_for(model, test_galaxies, steps), model, test_galaxies, tmp_path / "run", validation=valid)
    x = model.contract.to_input(valid.batch(slice(None)), valid.bands)
    expected = Subject(model.network, model.contract, chunk=16).outputs(x).logits
    assert np.allclose(np.stack(list(record.validation.logits)), expected)
    assert list(record.validation.label) == list(valid.labels)
    assert not set(record.validation.index) & set(record.galaxies.index)
