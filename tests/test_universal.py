"""One perturbation for a whole set: is it the best one, fitted once, and the same whatever order or batch?"""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from conftest import make_blobs

from perturbations import goal
from perturbations.core import get
from perturbations.draws import Draws
from perturbations.errors import BrokenPromise, InputError
from perturbations.exposure import Exposure
from robustastro.adapt.recipe import Recipe
from robustastro.adapt.training import select, train
from robustastro.evaluate.engine import attack, evaluate, fitting_set
from robustastro.evaluate.plan import Plan, step
from robustastro.models.bundles import Model
from robustastro.record import Record

SHAPE = (2, 8, 6)
BALLS = ("universal", "universal_l2")


class Linear:
    """A linear network; it counts the images it is shown, and keeps a pixel of each."""

    def __init__(self, weight, bias=0.0, box=(0.0, 1.0)):
        self.weight, self.bias, self.shown, self.met = weight, bias, 0, []
        self.classes = len(weight)
        self.box = tuple(torch.tensor(edge) for edge in box)

    def logits(self, x):
        self.shown += len(x)
        self.met += x[:, 0, 0, 0].tolist()
        return x.flatten(1) @ self.weight.flatten(1).T + self.bias

    def gradient(self, x, loss):
        leaf = x.clone().requires_grad_(True)
        return torch.autograd.grad(loss(self.logits(leaf)).sum(), leaf)[0]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def draws(n, seed=0, first=0):
    return Draws([f"galaxy {k}" for k in range(first, first + n)], seed, "attack")


def inside(n, seed=1):
    """Images far from the ends of [0, 1]."""
    return 0.3 + 0.4 * torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(seed))


def two_classes(n):
    """Images of a linear network of two classes, each right with room, three in four of the first class."""
    weight = torch.stack((torch.zeros(SHAPE), random(*SHAPE)))
    labels = (torch.arange(n) % 4 == 0).long()
    victim = Linear(weight)
    x = inside(n)
    slope = weight[1] / weight[1].square().sum()
    wanted = torch.where(labels == 1, 3.0, -3.0)
    return x + (wanted - victim.logits(x)[:, 1])[:, None, None, None] * slope, labels, victim


def mean_harm(victim, images, labels):
    return float(goal.harm(victim.logits(images), labels, None).mean())


@pytest.mark.parametrize(("name", "epsilon"), [("universal", 0.01), ("universal_l2", 0.1)])
def test_on_a_linear_network_it_is_the_best_of_its_ball(name, epsilon):
    """The harm is linear in the perturbation: epsilon x sign, or epsilon x direction, of the mean weight difference."""
    x, labels, victim = two_classes(60)
    fitted = get(name).fit_to(x, labels, victim, epsilon, draws(60), batch=16)
    result = get(name).run_attack(x, labels, victim, epsilon, draws(60), fitted=fitted)
    mean = torch.where(labels[:, None, None, None] == 0, victim.weight[1], -victim.weight[1]).mean(dim=0)
    gain = epsilon * float(mean.abs().sum() if name == "universal" else mean.norm())
    reached = mean_harm(victim, result.images, labels) - mean_harm(victim, x, labels)
    assert reached == pytest.approx(gain, rel=1e-3)
    best = epsilon * (mean.sign() if name == "universal" else mean / mean.norm())
    assert float((fitted["perturbation"] - best).abs().max()) < 1e-2 * float(best.abs().max())


def test_an_image_that_is_flipped_does_not_drag_the_rest():
    """Two kinds of images, one ten times as sensitive: an uncapped loss would spend the whole budget on it."""
    marker, strong, weak = (torch.zeros(SHAPE) for _ in range(3))
    marker[0, 0, 0], strong[0, 1, 1], weak[0, 2, 2] = 500.0, 200.0, 20.0
    victim = Linear(
        torch.stack((-marker, strong - marker, marker, weak + marker)),
        torch.tensor([0.0, -2.0, 0.0, -10.0]),
        (-9.0, 9.0),
    )
    x = torch.zeros(40, *SHAPE)
    labels = torch.tensor([0, 2]).repeat(20)
    x[:, 0, 0, 0] = torch.tensor([-1.0, 1.0]).repeat(20)
    fitted = get("universal_l2").fit_to(x, labels, victim, 1.0, draws(40))
    assert bool(get("universal_l2").run_attack(x, labels, victim, 1.0, draws(40), fitted=fitted).success.all())


@pytest.mark.parametrize("name", BALLS)
def test_what_leaves_the_box_is_clipped_and_does_not_pull_farther_out(name):
    victim = Linear(torch.stack((torch.zeros(SHAPE), torch.ones(SHAPE))), torch.tensor([0.0, -80.0]))
    x, labels = inside(10), torch.zeros(10, dtype=torch.int64)
    x[:, :, :4] = 1.0  # nothing can be added there
    fitted = get(name).fit_to(x, labels, victim, 0.05, draws(10))
    change = fitted["perturbation"]
    assert float(change[:, 4:].min()) > 0.0
    if name == "universal_l2":  # nothing of the length is spent where it is of no use, but for the first step
        assert float(change[:, :4].norm()) < 0.1 * float(change[:, 4:].norm())
    result = get(name).run_attack(x, labels, victim, 0.05, draws(10), fitted=fitted)
    assert bool((result.images[:, :, :4] == 1.0).all())
    assert float(result.images.max()) <= 1.0


def test_the_pixel_is_the_one_that_brute_force_finds():
    weight, x = random(3, *SHAPE), inside(30)
    victim = Linear(weight, -x.mean(dim=0).flatten() @ weight.flatten(1).T)
    labels = victim.logits(x).argmax(dim=1)
    fitted = get("universal_pixel").fit_to(x, labels, victim, 1.0, draws(30), pop=150, generations=30)
    corners = torch.tensor(list(itertools.product((0.0, 1.0), repeat=2)))
    best = []
    for row, column in itertools.product(range(8), range(6)):
        for corner in corners:
            images = x.clone()
            images[:, :, row, column] = corner
            logits = victim.logits(images)
            best.append((float(goal.flipped(logits, labels, None).double().mean()), mean_harm(victim, images, labels)))
    first = get("universal_pixel").fit_to(x, labels, victim, 1.0, draws(30), pop=8, generations=0)
    assert set(first["value"].tolist()) <= {0.0, 1.0}  # the search starts at the ends of the box
    result = get("universal_pixel").run_attack(x, labels, victim, 1.0, draws(30), fitted=fitted)
    assert float(result.success.double().mean()) == max(best)[0]
    assert mean_harm(victim, result.images, labels) == pytest.approx(max(best)[1], rel=1e-4)
    assert result.details["rows"].tolist() == [[int(fitted["position"][0])]] * 30
    changed = (result.images != x).any(dim=1)
    assert changed.nonzero()[:, 1:].unique(dim=0).tolist() == [fitted["position"].tolist()]


def test_the_search_goes_on_until_all_are_flipped():
    victim, x = Linear(torch.stack((torch.zeros(SHAPE), torch.ones(SHAPE)))), torch.full((10, *SHAPE), 0.5)
    x[5:] = 0.4  # any brighter pixel flips the first five, none the others
    victim.bias = torch.tensor([0.0, -48.1])
    labels = torch.zeros(10, dtype=torch.int64)
    options = {"pop": 8, "generations": 3}
    assert (
        int(get("universal_pixel").fit_to(x, labels, victim, 1.0, draws(10), **options)["queries"]) == 10 + 8 * 4 * 10
    )
    some = get("universal_pixel").fit_to(x[:5], labels[:5], victim, 1.0, draws(5), **options)
    assert int(some["queries"]) == 5 + 8 * 5


def test_among_pixels_that_flip_as_many_it_is_the_most_harmful():
    weight = torch.zeros(2, *SHAPE)
    weight[1] = 0.01 * random(*SHAPE)
    weight[1, :, 3, 4] = 1.0
    victim, x = Linear(weight, torch.tensor([0.0, -9.0])), inside(10)  # nothing flips
    fitted = get("universal_pixel").fit_to(x, torch.zeros(10, dtype=torch.int64), victim, 1.0, draws(10), pop=100)
    assert fitted["position"].tolist() == [3, 4]
    assert fitted["value"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("name", [*BALLS, "universal_pixel"])
def test_neither_order_nor_wrong_images_change_the_fit(name):
    weight, x = random(3, *SHAPE), inside(30)
    victim = Linear(weight)
    labels = victim.logits(x).argmax(dim=1)
    wrong = torch.arange(30) % 5 == 0
    labels[wrong] = (labels[wrong] + 1) % 3
    options = {"steps": 7, "batch": 8} if name in BALLS else {"pop": 8, "generations": 3}

    def fit(which):
        keyed = draws(30).take(which)
        victim.met = []
        return get(name).fit_to(x[which], labels[which], victim, get(name).ladder[0], keyed, **options)

    reference = fit(torch.arange(30))
    met = victim.met
    fit(torch.arange(30).flip(0))
    assert victim.met == met  # the same images in the same places of the same batches: logits depend on that at 1e-8
    for which in (torch.arange(30).flip(0), (~wrong).nonzero()[:, 0]):
        again = fit(which)
        for key in set(reference) - {"queries"}:
            assert torch.equal(reference[key], again[key])
    seeds = [get(name).fit_to(x, labels, victim, get(name).ladder[0], draws(30, seed), **options) for seed in (0, 1)]
    assert any(not torch.equal(seeds[0][key], seeds[1][key]) for key in seeds[0])


@pytest.mark.parametrize("name", [*BALLS, "universal_pixel"])
def test_it_counts_what_it_spends(name):
    x, labels, victim = two_classes(20)
    options = {"steps": 7, "batch": 8} if name in BALLS else {"pop": 8, "generations": 3}
    victim.shown = 0
    fitted = get(name).fit_to(x, labels, victim, get(name).ladder[0], draws(20), **options)
    assert int(fitted["queries"]) == victim.shown
    victim.shown = 0
    result = get(name).run_attack(x, labels, victim, get(name).ladder[0], draws(20), fitted=fitted)
    assert victim.shown == int(result.queries.sum()) == 20
    nothing = get(name).run_attack(x, labels, victim, 0.0, draws(20))
    assert torch.equal(nothing.images, x)
    assert int(nothing.queries.sum()) == 0


@pytest.mark.parametrize("name", [*BALLS, "universal_pixel"])
def test_images_that_it_was_not_made_for_are_refused(name):
    x, labels, victim = two_classes(8)
    strength = get(name).ladder[0]
    with pytest.raises(InputError, match="not fitted"):
        get(name).run_attack(x, labels, victim, strength, draws(8))
    with pytest.raises(InputError):
        get(name).fit_to(x, labels, victim, -1.0, draws(8))
    fitted = get(name).fit_to(x, labels, victim, strength, draws(8))
    if name == "universal_pixel":
        fitted["position"] = torch.tensor([7, 5])
    with pytest.raises(InputError, match="Fit it anew"):
        get(name).run_attack(x[..., :5], labels, Linear(victim.weight[..., :5]), strength, draws(8), fitted=fitted)
    with pytest.raises(InputError, match="not fitted"):
        get("pgd").fit_to(x, labels, victim, strength, draws(8))


def test_a_fitted_perturbation_beyond_its_budget_is_not_believed():
    x, labels, victim = two_classes(8)
    with pytest.raises(BrokenPromise, match="spent"):
        get("universal").run_attack(
            x, labels, victim, 0.01, draws(8), fitted={"perturbation": torch.full(SHAPE, 0.02).double()}
        )


def test_an_entry_says_how_it_is_fitted_and_what_its_norm_is_of():
    for name, change in (
        ("universal", {"scope": "galaxy"}),
        ("pgd", {"scope": "set"}),
        ("worst_night", {"norm": "L2"}),
    ):
        with pytest.raises(InputError, match=name):
            dataclasses.replace(get(name), **change)


def test_what_is_fitted_is_finite_and_leaves_its_images_alone():
    x, labels, victim = two_classes(8)

    def fitted(x, value, by):
        x[0] += by
        return {"perturbation": torch.full(SHAPE, value)}

    for fit, words in (
        (lambda x, *_: fitted(x, value=0.0, by=1.0), "modified its input"),
        (lambda x, *_: fitted(x, value=math.nan, by=0.0), "not finite"),
    ):
        with pytest.raises(BrokenPromise, match=words):
            dataclasses.replace(get("universal"), fit=fit, options={}).fit_to(x.clone(), labels, victim, 0.01, draws(8))


# ---------------------------------------------------------------------- in a run


@pytest.fixture(scope="module")
def blobs():
    return make_blobs(180, Exposure.from_survey("LSST", bands="gri"))


@pytest.fixture(scope="module")
def model(blobs):
    trained = train(Recipe(arch="tiny", epochs=12, batch=16, learning_rate=0.02), blobs)
    return Model(trained.network, trained.contract, "tiny", "tiny.pt", "0" * 64)


STEPS = (
    step("universal", strength=0.05, options={"steps": 10}),
    step("universal_pixel", options={"pop": 8, "generations": 2}),
)


def run(model, galaxies, fitting, out, **changes) -> Record:
    plan = Plan.of(model, galaxies, STEPS, fitting=fitting)
    return evaluate(
        plan.model_copy(update={"chunk": 16, "shard": 20, "kept_images": 4} | changes),
        model, galaxies, out, batch=7, fitting=fitting,
    )  # fmt: skip


def test_it_is_fitted_once_and_a_resume_reads_it(model, blobs, tmp_path, monkeypatch):
    test, valid = select(blobs, "test"), select(blobs, "valid")
    record = run(model, test, valid, tmp_path / "run")
    assert len(list((tmp_path / "run" / "units" / "universal" / "0.05").glob("*.parquet"))) == 2
    fitted = record.fitted("universal", 0.05)
    assert set(fitted["ids"]) == set(valid.ids)
    assert int(fitted["queries"]) > len(valid)
    assert record.run["fitted_on"] == {"domain": "blobs", "n": len(valid), "sha256": valid.digest()}
    images = record.images("universal", 0.05)
    change = np.clip(images["clean"] + fitted["perturbation"], 0.0, 1.0)
    assert np.allclose(images["perturbed"], change, atol=1e-6)
    assert record.unit("universal", 0.05)["queries"].tolist() == [1] * len(test)

    def never(*_, **__):
        raise AssertionError("fitted twice")

    monkeypatch.setattr("perturbations.core.Perturbation.fit_to", never)
    before = record.unit("universal", 0.05)["linf"]
    path = tmp_path / "run" / "fitted" / "universal" / "0.05.npz"
    np.savez(path, **fitted | {"perturbation": np.zeros_like(fitted["perturbation"])})
    (tmp_path / "run" / "units" / "universal" / "0.05" / "00001.parquet").unlink()
    after = run(model, test, valid, tmp_path / "run").unit("universal", 0.05)["linf"]
    assert after[:20].tolist() == before[:20].tolist()
    assert before[:20].min() > 0.0
    assert after[20:].tolist() == [0.0] * (len(test) - 20)


def test_order_batch_and_shards_change_no_number(model, blobs, tmp_path):
    test, valid = select(blobs, "test"), select(blobs, "valid")
    first = run(model, test, valid, tmp_path / "first")
    shuffled = valid.take(np.random.default_rng(0).permutation(len(valid)))
    classes = shuffled.classes[::-1]
    shuffled = dataclasses.replace(shuffled, classes=classes, labels=2 - shuffled.labels)
    other = run(model, test.take(np.arange(len(test))[::-1]), shuffled, tmp_path / "other", shard=11)
    for unit in first.units():
        one, two = (r.fitted(unit.perturbation, unit.strength) for r in (first, other))
        assert all(np.array_equal(one[name], two[name]) for name in set(one) - {"ids"})
        a, b = (r.unit(unit.perturbation, unit.strength) for r in (first, other))
        assert np.allclose(np.stack(list(a["logits"])), np.stack(list(b.loc[a.index]["logits"])), atol=1e-5)
    reseeded = run(model, test, valid, tmp_path / "reseeded", seed=1).fitted("universal_pixel", 1.0)
    assert not np.array_equal(reseeded["position"], first.fitted("universal_pixel", 1.0)["position"])


def test_the_galaxies_that_are_fitted_to_are_others_and_part_of_the_plan(model, blobs, tmp_path):
    test, valid = select(blobs, "test"), select(blobs, "valid")
    chosen = fitting_set(STEPS, model, test, blobs)
    assert chosen is not None
    assert set(chosen.ids) == set(blobs.ids) - set(test.ids)
    assert fitting_set([step("jpeg")], model, test, blobs) is None
    many = make_blobs(260, blobs.exposure, prefix="more", size=12)
    assert len(fitting_set(STEPS, model, test, many) or ()) == 200
    assert Plan.of(model, test, STEPS, fitting=valid).digest() != Plan.of(model, test, STEPS, fitting=chosen).digest()
    out = tmp_path / "run"
    with pytest.raises(InputError, match="attacked as well"):
        run(model, test, blobs, out)
    with pytest.raises(InputError, match="--fit-data"):
        run(model, test, None, out)
    with pytest.raises(InputError, match="--fit-data"):
        attack(model, test, "universal", out)
    with pytest.raises(InputError, match="attacked as well"):
        fitting_set(STEPS, model, blobs, test)
    unlabelled = make_blobs(30, blobs.exposure, prefix="more")
    object.__setattr__(unlabelled, "labels", None)
    with pytest.raises(InputError, match="without labels"):
        fitting_set(STEPS, model, test, unlabelled)
    with pytest.raises(InputError, match="not those of the plan"):
        evaluate(Plan.of(model, test, STEPS, fitting=valid), model, test, out, fitting=chosen)
    assert not out.exists()
    record = attack(model, test, "universal", out, strength=0.05, options={"steps": 3}, fit_on=blobs)
    assert record.run["fitted_on"]["n"] == len(chosen)
