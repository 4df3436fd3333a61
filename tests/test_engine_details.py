"""What a record says, recomputed from outside the engine: classes, success, distances, head, seeds, exposures."""

import dataclasses
import json
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_blobs
from torch import nn

import robustastro
from perturbations.core import AttackResult, Observation, get
from perturbations.draws import Draws
from perturbations.exposure import Exposure
from robustastro.adapt.recipe import Recipe
from robustastro.adapt.training import select, train
from robustastro.contract import InputContract
from robustastro.data.galaxies import Galaxies
from robustastro.evaluate.engine import evaluate
from robustastro.evaluate.plan import Plan, Step, step
from robustastro.models.bundles import Model
from robustastro.models.sparse.inference import Decision
from robustastro.models.subject import Subject
from robustastro.record import Record

ONEPIXEL = step("onepixel", options={"pop": 10, "generations": 3})


@pytest.fixture(scope="module")
def galaxies() -> Galaxies:
    """Some 36 galaxies of a test split."""
    return select(make_blobs(180, Exposure.from_survey("LSST", bands="gri")), "test")


@pytest.fixture(scope="module")
def model() -> Model:
    trained = train(
        Recipe(arch="tiny", epochs=12, batch=16, learning_rate=0.02),
        make_blobs(180, Exposure.from_survey("LSST", bands="gri")),
    )
    centroids = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    return Model(trained.network, trained.contract, "tiny", "tiny.pt", "0" * 64, centroids=centroids)


@pytest.fixture
def run(model, tmp_path):
    """Evaluate steps on galaxies in small shards and batches."""

    def run(galaxies: Galaxies, *steps: Step, seed: int = 0, out: str = "run", **changes) -> Record:
        plan = Plan.of(model, galaxies, steps, seed=seed)
        plan = plan.model_copy(update={"chunk": 16, "shard": 20, "kept_images": 4} | changes)
        return evaluate(plan, model, galaxies, tmp_path / out, batch=7)

    return run


@pytest.fixture
def shifting(monkeypatch):
    """fgsm replaced by an attack that gives each galaxy the image of the one before it in the batch."""
    import perturbations.core as core

    def shift(x, labels, victim, strength, draws, *, target: int | None = None):
        images = x.roll(1, dims=0) if strength else x.clone()
        return AttackResult(images, torch.ones(len(x), dtype=torch.bool), torch.ones(len(x), dtype=torch.int64))

    monkeypatch.setitem(core._catalogue, "fgsm", dataclasses.replace(get("fgsm"), function=shift, norm=None))


def predicted(table: pd.DataFrame) -> np.ndarray:
    return np.stack(list(table.logits)).argmax(axis=1)


# ---------------------------------------------------------------------- classes and success


def test_the_order_of_the_class_names_in_the_data_changes_no_number(run, galaxies):
    classes = ("long", "edge-on", "round", "small")
    names = [galaxies.classes[k] for k in galaxies.labels]
    renamed = dataclasses.replace(galaxies, classes=classes, labels=np.array([classes.index(name) for name in names]))
    pgd = step("pgd", strength=0.02, options={"steps": 3})
    records = [run(g, pgd, ONEPIXEL, out=out) for g, out in ((galaxies, "own"), (renamed, "renamed"))]
    first, second = records
    assert list(second.galaxies.label) == list(galaxies.labels)
    assert [second.classes[k] for k in second.galaxies.label] == names
    for unit in first.units():
        a, b = (record.unit(unit.perturbation, unit.strength) for record in records)
        assert np.array_equal(np.stack(list(a.logits)), np.stack(list(b.logits)))
        assert (a.success == b.success).all()
    assert first.unit("pgd", 0.02).success.any()
    one, two = (json.dumps(robustastro.summarise(record)) for record in records)
    assert one == two
    accuracy = robustastro.summarise(second)[0]["clean_accuracy"]["value"]
    assert accuracy == pytest.approx(
        np.mean([second.classes[k] == n for k, n in zip(predicted(second.galaxies), names, strict=True)])
    )


def test_success_is_right_before_and_wrong_after(run, galaxies, shifting):
    """Half of the labels are wrong, so many galaxies are misclassified from the start, and some become right."""
    labels = np.where(np.arange(len(galaxies)) % 2, galaxies.labels, (galaxies.labels + 1) % 3)
    fgsm = step("fgsm", severity=1)
    record = run(dataclasses.replace(galaxies, labels=labels), fgsm)
    table = record.unit("fgsm", fgsm.strengths[0])
    before, after = predicted(record.galaxies), predicted(table)
    expected = (before == labels) & (after != labels)
    assert expected.any()
    assert ((before != labels) & (after != labels)).any()
    assert ((before != labels) & (after != before)).any()
    assert (table.success.to_numpy() == expected).all()


@pytest.mark.parametrize("target", [0, 1, 2])
def test_a_targeted_success_reaches_the_target_class(run, galaxies, shifting, target):
    fgsm = step("fgsm", severity=1, options={"target": target})
    record = run(galaxies, fgsm)
    table = record.unit("fgsm", fgsm.strengths[0])
    before, after = predicted(record.galaxies), predicted(table)
    expected = (before == galaxies.labels) & (after == target) & (galaxies.labels != target)
    assert expected.any()
    assert ((before == galaxies.labels) & (after != galaxies.labels) & (after != target)).any()
    assert (table.success.to_numpy() == expected).all()


# ---------------------------------------------------------------------- what the record holds


def test_the_evaluation_seed_reaches_every_draw(run, galaxies):
    steps = (step("depth", strength=0.1), ONEPIXEL)
    records = [run(galaxies, *steps, seed=seed, out=out) for seed, out in ((3, "a"), (3, "b"), (4, "c"))]
    for unit in records[0].units():
        first, again, other = (r.unit(unit.perturbation, unit.strength) for r in records)
        columns = ("logits",) if unit.perturbation == "depth" else ("logits", "rows", "columns", "values")
        for column in columns:
            a, b, c = (np.stack(list(t[column])) for t in (first, again, other))
            assert np.array_equal(a, b)
            assert not np.array_equal(a, c)


def test_catalogue_columns_arrive_beside_their_galaxies(run, galaxies):
    n = len(galaxies)
    columns = {"magnitude_r": np.linspace(18.0, 24.0, n), "field": [f"field {k % 5}" for k in range(n)]}
    known = pd.DataFrame({**columns, "split": ["test"] * n}, index=np.arange(n)[::-1])
    record = run(dataclasses.replace(galaxies, catalogue=known), step("jpeg", severity=1))
    stored = record.galaxies
    assert tuple(stored.index) == galaxies.ids
    for name, values in columns.items():
        assert list(stored[name]) == list(values)
    assert set(stored["split"]) == {"test"}


def test_the_head_is_the_models_last_layer_with_the_bundles_centroids(run, model, galaxies):
    record = run(galaxies, step("jpeg", severity=1))
    head = record.head
    assert head.kind == "linear"
    assert head.weight is not None
    assert head.bias is not None
    assert model.centroids is not None
    assert np.array_equal(head.weight, model.network.get_parameter("fc.weight").detach().numpy())
    assert np.array_equal(head.bias, model.network.get_parameter("fc.bias").detach().numpy())
    assert np.array_equal(np.asarray(head.centroids), model.centroids.numpy())
    for table in (record.galaxies, record.unit("jpeg", step("jpeg", severity=1).strengths[0])):
        logits = np.stack(list(table.latent)) @ head.weight.T + head.bias
        assert np.allclose(logits, np.stack(list(table.logits)), atol=1e-4)


def test_distances_are_those_of_the_images_kept(run, galaxies):
    steps = (step("depth", strength=0.1), step("jpeg", severity=3), ONEPIXEL, step("pgd_l2", severity=2))
    record = run(galaxies, *steps, kept_images=len(galaxies))
    for unit in record.units():
        images = record.images(unit.perturbation, unit.strength)
        assert tuple(images["ids"]) == galaxies.ids
        table = record.unit(unit.perturbation, unit.strength).loc[list(images["ids"])]
        change = images["perturbed"].astype(float) - images["clean"].astype(float)
        l0, l2 = (change != 0).any(axis=1).sum(axis=(1, 2)), np.sqrt((change**2).sum(axis=(1, 2, 3)))
        assert l2.max() > 0
        assert np.allclose(table.l0, l0)
        assert np.allclose(table.l2, l2, rtol=1e-6)
        assert np.allclose(table.linf, np.abs(change).max(axis=(1, 2, 3)), rtol=1e-6)


# ---------------------------------------------------------------------- chunks


class Watched(nn.Module):
    """A network that keeps what it is given; the list is the class's, so that a copy of the network fills it too."""

    seen: ClassVar[list[torch.Tensor]] = []

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x.detach().clone())
        return self.fc(x.square().mean(dim=(2, 3)))


def test_candidates_of_two_images_never_share_a_forward_pass(contract: InputContract, monkeypatch):
    monkeypatch.setattr(Watched, "seen", [])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        victim = Subject(Watched(), contract, chunk=4, decision=Decision("dense")).victim(
            torch.arange(1.0, 5.0)[:, None, None, None].expand(4, 3, 6, 6) / 8
        )
    which = torch.tensor([0] * 5 + [1] * 2 + [3] * 4 + [2])
    generator = torch.Generator().manual_seed(1)
    positions = torch.randint(6, (len(which), 1, 2), generator=generator)
    values = torch.rand(len(which), 1, 3, generator=generator)
    Watched.seen.clear()
    together = victim.logits_at(which, positions, values)
    assert [len(batch) for batch in Watched.seen] == [4] * 5  # padded to the chunk; 5 candidates need two passes
    for batch in Watched.seen:
        assert len(batch.flatten(1).median(dim=1).values.unique()) == 1  # the untouched pixels name the image
    for image in (0, 1, 2, 3):
        rows = which == image
        assert torch.equal(together[rows], victim.logits_at(which[rows], positions[rows], values[rows]))


# ---------------------------------------------------------------------- an exposure for each galaxy


def own_exposures(galaxies: Galaxies) -> Galaxies:
    """Each galaxy observed with a depth and sky of its own."""
    rng = np.random.default_rng(0)
    fraction, sky = rng.uniform(0.05, 1.0, (len(galaxies), 3)), rng.uniform(1e4, 2e5, (len(galaxies), 3))
    assert galaxies.exposure is not None
    e = galaxies.exposure.replace(fraction=torch.from_numpy(fraction), sky=torch.from_numpy(sky))
    return dataclasses.replace(galaxies, exposure=e)


@pytest.mark.parametrize("which", [[3, 1], np.array([8]), slice(4, 9, 2)], ids=["list", "array", "slice"])
def test_an_observation_has_the_exposures_of_its_galaxies(galaxies, which):
    own = own_exposures(galaxies)
    assert own.exposure is not None
    sky = own.observation(which)
    positions = np.arange(len(own))[which]
    assert torch.equal(sky.exposure.fraction, own.exposure.fraction[positions])
    assert torch.equal(sky.exposure.sky, own.exposure.sky[positions])
    later = own.take(np.arange(len(own))[::-1]).observation(len(own) - 1 - positions)
    assert torch.equal(later.flux, sky.flux)
    assert torch.equal(later.exposure.fraction, sky.exposure.fraction)


def test_each_galaxy_is_degraded_under_its_own_exposure(run, model, galaxies):
    own = own_exposures(galaxies)
    assert own.exposure is not None
    record = run(own, step("depth", strength=0.2))
    images = []
    for k, name in enumerate(own.ids):
        single = Observation(own.batch([k]), own.exposure.take([k]))
        images.append(model.contract.to_input(get("depth")(single, 0.2, Draws([name], 0)).flux, own.bands))
    expected = Subject(model.network, model.contract).outputs(torch.cat(images)).logits
    assert np.allclose(np.stack(list(record.unit("depth", 0.2).logits)), expected, atol=1e-5)


# ---------------------------------------------------------------------- long searches, and what an attack cannot do


def test_a_long_search_is_kept_galaxy_by_galaxy(model, galaxies):
    def shard(name, **options):
        return Plan.of(model, galaxies, [step(name, options=options)]).shard

    candidates = 24 * 24 * 8  # the tiny images at the corners
    assert shard("onepixel") == shard("depth") == 250
    assert shard("onepixel_exhaustive", grid=9) == 2_000_000 // (1 + candidates // 8 * 9**3)
    assert shard("onepixel_exhaustive", certificate=4096) == 1


def test_images_that_an_attack_could_do_nothing_with_are_flagged(run, galaxies, monkeypatch):
    import perturbations.core as core

    def half(x, labels, victim, strength, draws, *, target: int | None = None):
        none = torch.zeros(len(x), dtype=torch.bool)
        failed = torch.arange(len(x)) % 2 == 0
        return AttackResult(x.clone(), none, torch.ones(len(x), dtype=torch.int64), {"failed": failed})

    monkeypatch.setitem(core._catalogue, "fgsm", dataclasses.replace(get("fgsm"), function=half))
    flags = {flag["code"]: flag["message"] for flag in run(galaxies, step("fgsm", strength=0.1)).run["flags"]}
    failed = sum(k % 7 % 2 == 0 for k in range(min(20, len(galaxies)))) + sum(
        k % 7 % 2 == 0 for k in range(max(len(galaxies) - 20, 0))
    )
    assert f"returned no numbers for {failed} of {len(galaxies)} galaxies" in flags["attack_failed"]


def test_a_network_without_bounds_is_flagged_where_a_certificate_is_asked_for(model, galaxies, tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.GELU(), nn.Flatten(), nn.Linear(2 * 22 * 22, 3)).eval()
    other = dataclasses.replace(model, network=network, centroids=None)
    for boxes, codes in ((0, set()), (4, {"no_certificate"})):
        chosen = galaxies.take([0, 1])
        plan = Plan.of(other, chosen, [step("onepixel_exhaustive", options={"certificate": boxes, "grid": 2})])
        flags = evaluate(plan, other, chosen, tmp_path / str(boxes)).run["flags"]
        assert {flag["code"] for flag in flags} & {"no_certificate"} == codes
        assert all("gelu" in flag["message"] for flag in flags if flag["code"] == "no_certificate")
