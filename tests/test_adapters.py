"""Attacks of torchattacks and foolbox: they do what the library does, and keep our contract around it."""

import inspect
import json
import random
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import foolbox.attacks
import numpy as np
import pytest
import torch
import torchattacks
from torch import nn

from perturbations import goal
from perturbations.adapters import foreign, of_foolbox, of_torchattacks
from perturbations.core import catalogue, distance, get
from perturbations.draws import Draws
from perturbations.errors import BrokenPromise, InputError
from robustastro import listing
from robustastro.adapt.recipe import Recipe
from robustastro.adapt.training import select, train
from robustastro.contract import InputContract, Stretch
from robustastro.evaluate.engine import evaluate
from robustastro.evaluate.plan import Plan, step
from robustastro.models.bundles import Model
from robustastro.models.nets import ConvNet
from robustastro.models.subject import Subject

SIZE, CLASSES = 15, 3
ROWS = {f"torchattacks:{row.name}": row for row in of_torchattacks.TABLE} | {
    f"foolbox:{row.name}": row for row in of_foolbox.TABLE
}
NAMES = list(ROWS)
QUICK = {
    "steps": 3, "n_queries": 20, "restarts": 2, "max_iterations": 10, "binary_search_steps": 2, "repeats": 3,
    "directions": 20, "nb_sample": 16, "population": 4, "initial_gradient_eval_steps": 4, "num_iter_set": 3,
}  # fmt: skip


class Net:
    """A small convolutional network as attacks see it, which notes every pass."""

    def __init__(self, classes=CLASSES, scale=8.0):
        torch_state = torch.get_rng_state()
        torch.manual_seed(3)
        head = nn.Linear(6 * (SIZE // 2) ** 2, classes)
        self.net = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), head).eval()
        torch.set_rng_state(torch_state)
        self.net.requires_grad_(False)
        self.classes, self.scale, self.rows = classes, scale, []
        self.box = (torch.zeros(()), torch.ones(()))
        self.usual = self.net(images(200, seed=9)).mean(dim=0)

    def pure(self, x):
        return self.scale * (self.net(x) - self.usual)

    def logits(self, x):
        self.rows.append(x.detach().clone())
        with torch.no_grad():
            return self.pure(x)

    def gradient(self, x, loss):
        self.rows.append(x.detach().clone())
        leaf = x.detach().clone().requires_grad_(True)
        return torch.autograd.grad(loss(self.pure(leaf)).sum(), leaf)[0]

    @property
    def passes(self):
        return sum(len(x) for x in self.rows)


class Linear(Net):
    """Logits that are linear in the image."""

    def __init__(self, classes=2, spread=0.01):
        super().__init__(classes)
        self.weight = spread * torch.randn(3 * SIZE * SIZE, classes, generator=torch.Generator().manual_seed(4))

    def pure(self, x):
        return (x - 0.5).flatten(1) @ self.weight


def images(n, seed=1):
    return torch.rand(n, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def labelled(victim, n=5, wrong=0):
    """Images and the classes that the network sees in them, but for the one at `wrong`."""
    x = images(n)
    labels = victim.pure(x).argmax(dim=1)
    labels[wrong] = (labels[wrong] + 1) % victim.classes
    return x, labels


def run(name, victim, x, labels, strength=None, seed=0, names=None, **options):
    entry = get(name)
    options = {key: value for key, value in QUICK.items() if key in entry.options} | options
    draws = Draws(names or [f"galaxy-{k}" for k in range(len(x))], seed, "attack")
    return entry.run_attack(x, labels, victim, entry.ladder[-1] if strength is None else strength, draws, **options)


def global_randomness():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002


@pytest.fixture(autouse=True)
def not_compiled(monkeypatch):
    """Brendel & Bethge's attacks of foolbox compile a solver for over a minute; here, a step to the linear boundary."""

    class Solver:
        def solve(self, x0, x, b, low, high, c, r):
            return np.clip(x + c * b / (b @ b), low, high) - x

    for name in NAMES:
        if "BrendelBethge" in name:
            monkeypatch.setattr(getattr(foolbox.attacks, ROWS[name].name), "instantiate_optimizer", lambda _: Solver())


@pytest.mark.parametrize("name", NAMES)
def test_every_attack_keeps_the_contract(name, capsys):
    row, victim = ROWS[name], Net()
    x, labels = labelled(victim)
    kept, before = labels.clone(), global_randomness()
    result = run(name, victim, x, labels)  # measures shape, box, budget, and that x is as it was
    assert global_randomness() == before
    assert torch.equal(labels, kept)
    assert capsys.readouterr().out == ""
    assert int(result.queries.sum()) == victim.passes
    assert result.queries[0] == 1
    assert torch.equal(result.images[0], x[0])
    assert torch.equal(result.success[1:], victim.pure(result.images).argmax(dim=1)[1:] != labels[1:])
    assert not bool(result.success[0])
    if row.bounded and row.access == "gradient" and row.name != "TPGD":  # that one may go either way
        harm = [goal.harm(victim.pure(of), labels, None)[1:].mean() for of in (x, result.images)]
        assert harm[1] > harm[0] + 0.1
    if not row.bounded:
        assert torch.equal(result.images[~result.success], x[~result.success])
    again = run(name, Net(), x, labels)
    assert torch.equal(again.images, result.images)
    assert torch.equal(again.queries, result.queries)
    victim = Net()
    nothing = run(name, victim, x, labels, strength=0)
    assert torch.equal(nothing.images, x)
    assert victim.passes == int(nothing.queries.sum()) == 0


TARGETED = [name for name in NAMES if ROWS[name].targeted]


@pytest.mark.parametrize("name", TARGETED)
def test_a_target_is_approached(name):
    victim, target = Net(), 2
    pool = images(60)
    logits = victim.pure(pool)
    # not the class that any other attack would reach
    x = torch.cat([pool[logits.argmin(dim=1) == target][:6], pool[logits.argmax(dim=1) == target][:2]])
    labels = victim.pure(x).argmax(dim=1)
    theirs, others = labels == target, labels != target
    assert (int(theirs.sum()), int(others.sum())) == (2, 6)
    result = run(name, victim, x, labels, target=target)
    assert torch.equal(result.images[theirs], x[theirs])
    assert bool((result.queries[theirs] == 1).all())
    assert torch.equal(result.success[others], victim.pure(result.images[others]).argmax(dim=1) == target)
    aim = torch.full_like(labels, target)

    def odds(of):
        return float(goal.log_odds(victim.pure(of), aim)[others].mean())

    if ROWS[name].bounded and ROWS[name].access == "gradient":
        assert odds(result.images) > odds(run(name, victim, x, labels).images)
    else:  # few tries need not find one
        assert odds(result.images) >= odds(x)


@pytest.mark.parametrize("name", ["torchattacks:CW", "foolbox:L2CarliniWagnerAttack", "foolbox:EADAttack"])
def test_slow_searches_for_a_small_change_find_one_given_time(name):
    victim = Net()
    x, labels = labelled(victim)
    options = {"steps": 60, "initial_const": 1.0, "c": 10.0, "binary_search_steps": 3, "lr": 0.05}
    options = {key: value for key, value in options.items() if key in get(name).options}
    for target in (None, 2):
        result = run(name, victim, x, labels, target=target, **options)
        assert int(result.success.sum()) >= 2
        assert bool((distance(result.images, x, get(name).norm) <= get(name).ladder[-1]).all())


def test_a_search_towards_one_class_takes_the_likeliest_wrong_one():
    victim = Net()
    x, labels = labelled(victim, 12)
    result = run("foolbox:GenAttack", victim, x, labels, steps=30)
    assert int(result.success.sum()) >= 6
    second = victim.pure(x).scatter(1, labels[:, None], -torch.inf).argmax(dim=1)
    assert torch.equal(victim.pure(result.images).argmax(dim=1)[result.success], second[result.success])


# ---------------------------------------------------------------------- oracles


@pytest.mark.parametrize("name", ["torchattacks:FGSM", "foolbox:LinfFastGradientAttack"])
def test_fgsm_is_ours(name):
    victim = Net(scale=1.0)
    x, labels = labelled(victim, 20)
    ours = get("fgsm").run_attack(x, labels, victim, 0.05, Draws([str(k) for k in range(20)], 0, "attack"))
    theirs = run(name, victim, x, labels, strength=0.05)
    assert torch.allclose(theirs.images, ours.images, rtol=0, atol=1e-7)
    assert torch.equal(theirs.success, ours.success)


@pytest.mark.parametrize(("name", "ours"), [("torchattacks:PGD", "pgd"), ("foolbox:LinfPGD", "pgd"),
                                            ("torchattacks:PGDL2", "pgd_l2"), ("foolbox:L2PGD", "pgd_l2")])  # fmt: skip
def test_pgd_reaches_what_ours_reaches_on_a_linear_network(name, ours):
    victim, budget = Linear(), {"pgd": 0.02, "pgd_l2": 0.3}[ours]
    x = 0.3 + 0.4 * images(20)  # the box is out of reach, so the optimum has a closed form
    labels = victim.pure(x).argmax(dim=1)
    draws = Draws([str(k) for k in range(20)], 0, "attack")
    reached = get(ours).run_attack(x, labels, victim, budget, draws, steps=40).images
    options = {"alpha": budget / 10} if name.startswith("torchattacks") else {"rel_stepsize": 0.1}
    theirs = run(name, victim, x, labels, strength=budget, steps=40, **options).images
    slope = victim.weight[:, 1] - victim.weight[:, 0]
    dual = slope.abs().sum() if ours == "pgd" else slope.norm()

    def gain(of):
        change = (of - x).flatten(1) @ slope
        return torch.where(labels == 0, change, -change)

    assert torch.allclose(gain(reached), gain(theirs), rtol=0.02)
    assert torch.allclose(gain(theirs), budget * dual.expand(20), rtol=0.02)
    assert bool((gain(theirs) <= budget * dual * (1 + 1e-5)).all())


@pytest.mark.parametrize("name", ["torchattacks:DeepFool", "foolbox:L2DeepFoolAttack", "foolbox:DDNAttack"])
def test_small_changes_are_the_distance_to_the_boundary_of_a_linear_network(name):
    victim = Linear()
    x = 0.3 + 0.4 * images(20)
    logits = victim.pure(x)
    labels = logits.argmax(dim=1)
    exact = (logits[:, 0] - logits[:, 1]).abs() / (victim.weight[:, 1] - victim.weight[:, 0]).norm()
    result = run(name, victim, x, labels, strength=3.0, steps=100)
    assert bool(result.success.all())
    spent = distance(result.images, x, "L2")
    assert spent is not None
    assert bool((spent >= exact * (1 - 1e-4)).all())
    assert bool((spent <= exact * 1.05 + 2e-3).all())
    half = float(exact.median()) * 1.2
    within = run(name, victim, x, labels, strength=half, steps=100)
    assert torch.equal(within.success, spent <= half)
    assert torch.equal(within.images[~within.success], x[~within.success])


@pytest.mark.parametrize(
    ("name", "weaker", "classes", "version"),
    [
        ("AutoAttack", "PGD", 3, "standard"),
        ("AutoAttack", "PGD", 2, "rand"),
        ("AutoAttack_L2", "PGDL2", 5, "rand"),
    ],
)
def test_autoattack_is_at_least_as_strong_as_pgd(name, weaker, classes, version):
    victim = Net(classes)
    x, labels = labelled(victim, 16)
    strength = 0.012 if weaker == "PGD" else 0.2
    pgd = run(f"torchattacks:{weaker}", victim, x, labels, strength=strength, steps=10)
    found = run(f"torchattacks:{name}", victim, x, labels, strength=strength, version=version)
    assert 0 < int(pgd.success.sum()) <= int(found.success.sum()) < 15
    assert bool((found.success | ~pgd.success).all())


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("torchattacks:A")])
def test_losses_that_need_more_classes_have_an_understudy(name, classes):
    victim = Net(classes)
    x, labels = labelled(victim, 16)
    options = {"loss": "dlr"} if "loss" in get(name).options else {}
    result = run(name, victim, x, labels, **options)
    assert int(result.success.sum()) >= 12


def test_a_targeted_understudy_is_the_difference_of_the_logits():
    attack = torchattacks.APGDT(foreign.Asked(Net(), images(2)), n_classes=3)
    of_torchattacks._few_classes(attack, 3)
    logits = torch.tensor([[3.0, 1.0, -2.0], [0.5, 0.0, 4.0]])
    assert attack.dlr_loss_targeted(logits, torch.tensor([0, 2]), torch.tensor([2, 1])).tolist() == [-5.0, -4.0]
    theirs = torchattacks.APGD(foreign.Asked(Net(), images(2)))
    of_torchattacks._few_classes(theirs, 3)
    assert theirs.dlr_loss(logits, torch.tensor([0, 2])).tolist() == pytest.approx([-2.0 / 5.0, -3.5 / 4.0])


# ---------------------------------------------------------------------- what a library sees, and who pays


def test_the_module_is_the_network_and_differentiable():
    victim = Net()
    x = images(4)
    module = foreign.Asked(victim, x)
    assert not module.training
    given, straight = x.clone().requires_grad_(True), x.clone().requires_grad_(True)
    aim = torch.tensor([0, 1, 2, 1])
    assert torch.equal(module(given), victim.pure(x))
    nn.functional.cross_entropy(module(given), aim).backward()
    nn.functional.cross_entropy(victim.pure(straight), aim).backward()
    assert torch.allclose(given.grad, straight.grad, rtol=1e-5, atol=1e-8)
    assert module.passes.tolist() == [3] * 4
    module(torch.cat([x, x]))
    assert module.passes.tolist() == [5] * 4
    module(x[[2, 3, 2]] + 0.01)
    assert module.passes.tolist() == [5, 5, 7, 6]
    module.only(torch.tensor([1, 3]))
    module(x[:2])
    assert module.passes.tolist() == [5, 6, 7, 7]


@pytest.mark.parametrize("name", ["torchattacks:Square", "torchattacks:APGDT"])
def test_queries_are_those_of_each_image_when_some_are_done_early(name):
    victim = Net()
    x, labels = labelled(victim, 16)
    budget = 0.012 if name.endswith("APGDT") else 0.03
    result = run(name, victim, x, labels, strength=budget)
    assert len(set(result.queries.tolist())) > 2
    shown = torch.cat(victim.rows)
    assert len(shown) == int(result.queries.sum())
    near = ((shown[:, None] - x).abs().flatten(2).amax(dim=2) <= budget * 1.01).long()
    assert bool((near.sum(dim=1) == 1).all())
    assert torch.equal(near.sum(dim=0), result.queries)


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.alone])
def test_attacks_that_go_from_image_to_image_do_not_depend_on_the_batch(name):
    assert get(name).replay == "galaxy"
    victim = Net()
    x, labels = labelled(victim, 4)
    ids = ["a", "b", "c", "d"]
    whole = run(name, victim, x, labels, names=ids)
    some = run(name, victim, x[[3, 1]], labels[[3, 1]], names=["d", "b"])
    assert torch.equal(some.images, whole.images[[3, 1]])
    assert torch.equal(some.queries, whole.queries[[3, 1]])


def test_the_others_repeat_in_the_same_batch_and_vary_with_the_seed():
    assert all(get(name).replay == "batch" for name, row in ROWS.items() if not row.alone)
    victim = Net()
    x, labels = labelled(victim)
    for name in ("torchattacks:PGD", "foolbox:LinfPGD", "torchattacks:APGD", "foolbox:GenAttack"):
        first = run(name, victim, x, labels, strength=0.01)
        random.seed(7), np.random.seed(7), torch.manual_seed(7)  # noqa: NPY002
        assert torch.equal(run(name, victim, x, labels, strength=0.01).images, first.images)
        assert not torch.equal(run(name, victim, x, labels, strength=0.01, seed=1).images, first.images)
        assert not torch.equal(run(name, victim, x, labels, strength=0.01, names=list("abcde")).images, first.images)


def test_a_start_that_is_not_found_leaves_the_image_clean():
    class Stubborn(Net):
        """Sees what is bright, as noise is, as class 0, so that images of class 0 have no start."""

        def pure(self, x):
            bright = (x.mean(dim=(1, 2, 3)) - 0.3) * 50
            return torch.stack((bright, -bright), dim=1)

    victim = Stubborn(2)
    x = torch.cat([0.5 + 0.01 * images(2), 0.01 * images(2)])  # what is shown for the last two is nearer to the first
    labels = torch.tensor([0, 0, 1, 1])
    for name in ("foolbox:BoundaryAttack", "foolbox:HopSkipJumpAttack"):
        victim.rows.clear()
        result = run(name, victim, x, labels, strength=30.0)
        assert result.success.tolist() == [False, False, True, True]
        assert torch.equal(result.images[:2], x[:2])
        assert int(result.queries.sum()) == victim.passes
        first, second, third, fourth = result.queries.tolist()
        assert first == second > 1
        assert third == fourth > first


def test_a_run_repeats_whatever_the_batch_size_and_goes_on_where_it_stopped(blobs, tmp_path):
    trained = train(Recipe(arch="tiny", epochs=6, batch=16, learning_rate=0.02), blobs)
    model = Model(trained.network, trained.contract, "tiny", "tiny.pt", "0" * 64)
    galaxies = select(blobs, "test")
    names = ("torchattacks:PGD", "foolbox:LinfPGD", "torchattacks:OnePixel")
    steps = [step(name, severity=3, options={"steps": 2}) for name in names]
    plan = Plan.of(model, galaxies, steps).model_copy(update={"chunk": 16, "shard": 20})
    assert len(galaxies) > 20  # more than one shard

    def stop(what, done, total):
        if what == names[1]:
            raise InterruptedError

    whole = evaluate(plan, model, galaxies, tmp_path / "whole", batch=64)
    with pytest.raises(InterruptedError):
        evaluate(plan, model, galaxies, tmp_path / "parts", batch=7, progress=stop)
    parts = evaluate(plan, model, galaxies, tmp_path / "parts", batch=3)
    for unit in whole.units():
        one, two = (record.unit(unit.perturbation, unit.strength) for record in (whole, parts))
        for column in ("linf", "l2", "queries", "success"):
            assert one[column].tolist() == two[column].tolist()
        images_of = [record.images(unit.perturbation, unit.strength)["perturbed"] for record in (whole, parts)]
        assert np.array_equal(*images_of)
        assert float(one["linf"].max()) > 0


# ---------------------------------------------------------------------- what comes back is measured


def planted(change, norm="Linf", bounded=True, strength=0.1, start=0.5):
    """The result of a library whose attack changes images by `change`."""
    row = foreign.Foreign("Planted", norm, "logits", "a bug", bounded=bounded, targeted=False)
    victim = Linear()
    x = torch.full((3, 3, SIZE, SIZE), start)
    x[0, 0, 0, 0] += 0.01
    labels = victim.pure(x).argmax(dim=1)
    draws = Draws(["a", "b", "c"], 0, "attack")
    result = foreign.attack(
        "torchattacks", row, lambda _, task: change(task.images), x, labels, victim, strength, draws, {}
    )
    return x, result


@pytest.mark.parametrize(
    ("change", "norm", "words"),
    [
        (lambda x: x + 0.11, "Linf", r"torchattacks:Planted spent 0\.11"),
        (lambda x: x - 0.10001, "Linf", "spent"),
        (lambda x: x + 0.01, "L2", "spent"),
        (lambda x: x + 0.01, "L1", "spent"),
        (lambda x: x + 0.01, "L0", "spent"),
        (lambda x: x + 0.6, "Linf", "returned values from"),
        (lambda x: x - 0.6, "Linf", "returned values from"),
        (lambda x: x[:2], "Linf", "returned"),
    ],
)
def test_a_library_that_leaves_its_limit_is_a_broken_promise(change, norm, words):
    with pytest.raises(BrokenPromise, match=words):
        planted(change, norm, strength=1.0 if norm == "L0" else 0.1)


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_rounding_is_put_back_inside_the_budget(norm):
    budget = {"Linf": 0.1, "L2": 2.0, "L1": 50.0}[norm]
    reach = {"Linf": 1.0, "L2": (3 * SIZE * SIZE) ** -0.5, "L1": 1.0 / (3 * SIZE * SIZE)}[norm] * budget
    x, result = planted(lambda x: (x.double() + reach * (1 + 4e-6)).float(), norm, strength=budget)
    spent = distance(result.images, x, norm)
    assert spent is not None
    assert bool((spent <= budget * (1 + 1e-12)).all())
    assert bool((spent > budget * (1 - 1e-4)).all())
    inside = planted(lambda x: x + 0.5 * reach, norm, strength=budget)
    assert torch.equal(inside[1].images, inside[0] + 0.5 * reach)
    _, result = planted(lambda x: x + 1e-7, "Linf", start=1.0 - 0.01)
    assert float(result.images.max()) <= 1.0


def test_what_a_library_prints_is_not_a_result(capsys):
    planted(lambda x: print("done") or x + 0.05)
    assert capsys.readouterr() == ("", "done\n")


def test_values_that_are_no_numbers_leave_the_image_clean():
    def change(x):
        x = x + 0.05
        x[1, 0, 3, 3] = torch.nan
        return x

    x, result = planted(change)
    assert torch.equal(result.images[1], x[1])
    assert torch.equal(result.images[[0, 2]], x[[0, 2]] + 0.05)
    assert not bool(result.success[1])
    assert result.details["failed"].tolist() == [False, True, False]


def test_what_is_not_attacked_has_not_failed():
    victim = Net()
    x, labels = labelled(victim)
    for strength in (0.0, 0.1):
        assert run("torchattacks:FGSM", victim, x, labels, strength=strength).details["failed"].tolist() == [False] * 5
    kept = planted(lambda x: x)[1]
    assert kept.details["failed"].tolist() == [False] * 3
    row = foreign.Foreign("Planted", "Linf", "logits", "a bug", targeted=False)
    draws = Draws([str(k) for k in range(5)], 0, "attack")
    result = foreign.attack(
        "torchattacks", row, lambda _, task: task.images * torch.nan, x, labels, victim, 0.1, draws, {}
    )
    assert result.details["failed"].tolist() == [False] + [True] * 4  # the first is classified wrong


@pytest.mark.parametrize("name", ["torchattacks:SparseFool", "torchattacks:DeepFool", "foolbox:L0FMNAttack"])
def test_a_real_network_with_its_channels_last_in_memory(name):
    """Its gradients are laid out otherwise than the images, which some libraries view as rows."""
    x = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    stretch = Stretch(kind="linear", low=(0.0,) * 3, high=(1.0,) * 3)
    contract = InputContract(bands=("g", "r", "i"), classes=("a", "b", "c"), stretch=stretch)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        victim = Subject(ConvNet(size=16), contract).victim(x)
    labels = victim.logits(x).argmax(dim=1)
    result = get(name).run_attack(x, labels, victim, 1e4, Draws(["a", "b", "c"], 0, "attack"), steps=5)
    assert torch.equal(victim.logits(result.images).argmax(dim=1) != labels, result.success)
    few = victim.unpadded()
    assert torch.allclose(few.logits(x), victim.logits(x), atol=1e-6)
    slopes = (v.gradient(x, lambda logits: logits[:, 0]) for v in (few, victim))
    assert torch.allclose(*slopes, atol=1e-6)


def test_a_library_that_fails_says_so():
    def fails(x):
        raise AssertionError("no start")

    with pytest.raises(InputError, match="torchattacks:Planted fails: AssertionError: no start"):
        planted(fails)
    before = global_randomness()
    with pytest.raises(InputError, match="ValueError: directions must be larger than 0"):
        run("foolbox:LinearSearchBlendedUniformNoiseAttack", Net(), *labelled(Net()), directions=0)
    assert global_randomness() == before


# ---------------------------------------------------------------------- tables, names and options


ELSEWHERE = {  # constructor parameters that are not for a user, and why
    "self", "model",
    "verbose", "tensorboard",  # talk
    "eps", "max_epsilon", "pixels",  # the strength
    "seed", "n_classes",  # from the draws, and from the network
    "norm", "constraint", "l2_binary_search",  # what tells two rows apart
    "init_attack",  # the row's start; without one, FMN has no binary search
    "distance",  # measured by us
    "x_dimensions", "y_dimensions", "reduced_dims", "channel_axis",  # not simple
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_options_are_the_parameters_of_the_library_with_its_defaults(name):
    row, library = ROWS[name], {"t": torchattacks, "f": foolbox.attacks}[name[0]]
    known = inspect.signature(getattr(library, row.of or row.name).__init__).parameters
    ours = {key: value for key, value in get(name).options.items() if key != "target"}
    assert set(ours) == set(known) - ELSEWHERE - ({"binary_search_steps"} if "FMN" in name else set())
    for key, value in ours.items():
        theirs = known[key].default
        assert value == theirs or (name, key) == ("foolbox:VirtualAdversarialAttack", "steps")
        assert isinstance(value, bool) == isinstance(theirs, bool)
    assert set(row.fixed) | set(row.passes) <= set(known)
    where = "supported_mode" if name[0] == "t" else None
    if where and row.targeted:
        attack = getattr(library, row.of or row.name)(foreign.Asked(Net(), images(1)))
        assert "targeted" in attack.supported_mode


def test_every_attack_of_the_libraries_is_listed_or_left_out_with_a_reason():
    page = (Path(__file__).parents[1] / "docs" / "attacks-from-libraries.md").read_text()
    excused = set(re.findall(r"`(\w+)`", page.partition("## Left out")[2]))
    listed = {row.of or row.name for row in ROWS.values()}
    theirs = {n for n in torchattacks.__all__ if n not in ("MultiAttack", "LGV")} | {"MultiAttack", "LGV"}
    aliased = {getattr(foolbox.attacks, name) for name in listed if hasattr(foolbox.attacks, name)}
    for name, thing in vars(foolbox.attacks).items():
        if inspect.isclass(thing) and thing not in aliased and name != "Attack":
            theirs.add(name)
    assert theirs - listed == excused
    assert not listed & excused


def test_names_that_are_nearly_right_get_the_nearest_of_that_library():
    with pytest.raises(InputError, match="Did you mean 'torchattacks:PGD'"):
        get("torchattacks:PDG")
    with pytest.raises(InputError, match="Did you mean 'foolbox:LinfPGD'"):
        get("foolbox:linfpgd")
    with pytest.raises(InputError, match="Did you mean 'torchattacks:PGD'"):
        get("torchattack:PGD")
    with pytest.raises(InputError) as found:
        get("onepixle")
    assert "foolbox" not in found.value.allowed


def test_options_are_read_as_the_library_takes_them():
    read = get("foolbox:LinfPGD").resolve({"steps": "5", "abs_stepsize": "0.1", "random_start": "false", "target": "1"})
    assert read == {"rel_stepsize": 0.01 / 0.3, "abs_stepsize": 0.1, "steps": 5, "random_start": False, "target": 1}
    for name, options, words in (
        ("torchattacks:PGD", {"step": 5}, "Did you mean 'steps'"),
        ("torchattacks:PGD", {"steps": "many"}, "steps = 'many'"),
        ("torchattacks:Square", {"loss": "mse"}, "loss = 'mse'"),
        ("torchattacks:PGD", {"alpha": "nan"}, "alpha = nan; a finite number"),
        ("foolbox:LinfPGD", {"abs_stepsize": "inf"}, "abs_stepsize = inf; a finite number"),
        ("torchattacks:TPGD", {"target": 1}, "unknown option"),
    ):
        with pytest.raises(InputError, match=words):
            get(name).resolve(options)


def test_an_option_reaches_the_library():
    victim = Net()
    x, labels = labelled(victim)
    for name in ("torchattacks:BIM", "foolbox:LinfBasicIterativeAttack"):
        for steps in (1, 4):
            assert run(name, victim, x, labels, steps=steps).queries[1] == 2 * steps + 2


def test_what_cannot_be_run_is_refused_before_it_is():
    victim = Net()
    x, labels = labelled(victim)
    narrow = Net()
    narrow.box = (torch.zeros(()), torch.tensor(0.9))
    for name, given, strength, options, words in (
        ("torchattacks:PGD", (victim, x * 2, labels), 0.1, {}, r"images span \[.*apply the model's stretch|Apply"),
        ("torchattacks:PGD", (victim, x - 0.5, labels), 0.1, {}, "images span"),
        ("torchattacks:PGD", (victim, x * torch.nan, labels), 0.1, {}, "images span"),
        ("torchattacks:PGD", (narrow, x * 0.9, labels), 0.1, {}, "a box other than"),
        ("torchattacks:PGD", (victim, x, labels), -0.1, {}, "strength -0.1"),
        ("torchattacks:PGD", (victim, x, labels), 0.1, {"target": 3}, "target = 3"),
        ("torchattacks:OnePixel", (victim, x, labels), 1.5, {}, "whole number of pixels"),
        ("torchattacks:PIFGSM", (victim, x[:, :2], labels), 0.1, {}, "2 bands"),
        ("torchattacks:JSMA", (victim, torch.rand(5, 3, 40, 40), labels), 1, {}, "4800 values"),
        ("torchattacks:UPGD", (Net(2), *labelled(Net(2))), 0.1, {"loss": "dlr"}, "loss 'dlr' with 2 classes"),
    ):
        shown, x_given, labels_given = given
        shown.rows.clear()
        with pytest.raises(InputError, match=words):
            run(name, shown, x_given, labels_given, strength=strength, **options)
        assert shown.passes <= 5


def test_without_the_libraries_they_are_listed_and_say_what_to_install():
    program = f"""
        import sys, json; sys.path.insert(0, {str(Path(__file__).parent)!r})
        sys.modules["torchattacks"] = sys.modules["foolbox"] = None
        import torch
        from perturbations.core import catalogue, get
        from perturbations.draws import Draws
        from perturbations.errors import InputError
        from catalogue_contract import LinearVictim
        x = torch.rand(2, 3, 4, 4)
        said = {{}}
        for name in ("torchattacks:PGD", "foolbox:LinfPGD"):
            try:
                get(name).run_attack(x, torch.zeros(2).long(), LinearVictim(x), 0.1, Draws(["a", "b"], 0, "attack"))
            except InputError as problem:
                said[name] = str(problem)
        print(json.dumps([said, [name for name in catalogue() if ":" in name]]))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    said, listed = json.loads(done.stdout)
    assert sorted(listed) == sorted(ROWS)
    assert "torchattacks is not installed" in said["torchattacks:PGD"]
    assert "pip install 'robustastro[torchattacks]'" in said["torchattacks:PGD"]
    assert "pip install 'robustastro[foolbox]'" in said["foolbox:LinfPGD"]


def test_the_list_for_people_has_them_by_norm_and_the_page_a_link():
    rows = listing.rows("perturbations")
    text = listing.text("perturbations", rows)
    assert len([line for line in text.splitlines() if "torchattacks:" in line]) == 1
    assert "\n  L0    JSMA, OnePixel, Pixle, SparseFool\n" in text
    for name in ROWS:
        assert re.search(rf"[ ,]{name.partition(':')[2]}(,|\n|$)", text)
    page = listing.page(rows)
    assert "(attacks-from-libraries.md)" in page
    assert "OnePixel" not in page


def test_all_entries_are_attacks_of_ours_to_the_rest_of_the_program():
    assert set(ROWS) == {name for name in catalogue() if ":" in name}
    for name in ROWS:
        entry = get(name)
        assert (entry.family, entry.kind, entry.space, entry.identity) == ("attacks", "attack", "input", 0.0)
