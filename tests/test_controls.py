"""Controls and transfer learning: each changes what it says, and nothing else."""

import copy
import dataclasses
import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_blobs
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

import robustastro
from perturbations.core import Unstretched, get
from perturbations.draws import Draws
from perturbations.errors import InputError
from robustastro import commands
from robustastro.adapt import METHODS, adabn, at
from robustastro.adapt.adabn import AdaBN
from robustastro.adapt.at import AdversarialTraining
from robustastro.adapt.augment import Augment
from robustastro.adapt.recipe import Recipe
from robustastro.adapt.starting import head_of
from robustastro.adapt.training import fit_contract, select, stretched, train, write_bundle
from robustastro.adapt.transfer import Setting
from robustastro.cli import main
from robustastro.data.readers import write_hdf5
from robustastro.metrics.domain import proxy_a_distance
from robustastro.models import nets
from robustastro.models.bundles import build, load_model
from robustastro.models.subject import Subject, run_network
from robustastro.progress import Progress

QUICK: dict[str, Any] = {"arch": "tiny", "epochs": 3, "batch": 16, "learning_rate": 0.01}


def recipe(method: str = "none", **changes: Any) -> Recipe:
    return Recipe(**{**QUICK, "method": method, **changes})


def permuted(galaxies):
    return dataclasses.replace(galaxies, labels=np.random.default_rng(0).permutation(galaxies.labels))


def state(trained) -> dict[str, torch.Tensor]:
    return trained.network.state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def setting_of(galaxies, network: nn.Module | None = None, target=None, seed: int = 0) -> Setting:
    contract = fit_contract(galaxies)
    return Setting(network or nn.Identity(), contract, 8, galaxies, target, seed, 16, torch.ones(3))


def accuracy(trained, galaxies) -> float:
    test = select(galaxies, "test")
    logits = Subject(trained.network, trained.contract).outputs(stretched(test, trained.contract)).logits
    return float((logits.argmax(dim=1).numpy() == test.labels).mean())


# ---------------------------------------------------------------------- every method


@pytest.mark.parametrize("method", METHODS)
def test_target_labels_matter_to_an_upper_bound_and_to_nothing_else(blobs, other, method):
    first, second = (train(recipe(method), blobs, target) for target in (other, permuted(other)))
    assert same(state(first), state(second)) != METHODS[method].target_labels
    assert first.record["target_labels"] == METHODS[method].target_labels
    assert first.record["chosen_by"] == "lowest loss on the validation galaxies of the source"


class Stop(Exception):
    pass


@pytest.mark.parametrize(
    "changes", [*({"method": name} for name in METHODS), {"average": 0.9}, {"method": "init"}], ids=str
)
def test_every_training_goes_on_to_the_same_weights(blobs, other, tmp_path, changes):
    if changes.get("method") == "init":
        write_bundle(tmp_path / "m.pt", train(recipe(seed=1), blobs), blobs, None, "cpu")
        changes = {"init": str(tmp_path / "m.pt"), "freeze": ("conv1", "bn1")}
    wanted = recipe(**changes)

    def interrupt(epoch, epochs, numbers):
        if epoch == 2:
            raise Stop

    whole = train(wanted, blobs, other)
    with pytest.raises(Stop):
        train(wanted, blobs, other, checkpoint=tmp_path / "c", progress=interrupt)
    resumed = train(wanted, blobs, other, checkpoint=tmp_path / "c")
    assert same(state(whole), state(resumed))
    assert whole.record["history"] == resumed.record["history"]


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({"method": "mmd"}, "mmd"),
        ({"method": "mmd", "options": {"settings": "published"}}, "mmd+published"),
        ({"method": "mmd", "options": {"kernels": "published"}}, "mmd+kernels-published"),
        ({"method": "at", "options": {"attack": "pixel", "epsilon": 0.1}}, "at+attack-pixel+epsilon-0.1"),
        ({"method": "none", "average": 0.99}, "none+average-0.99"),
        ({"method": "dann", "average": 0.99}, "dann"),
        ({"method": "augment", "options": {"with": "depth"}}, "augment+with-depth"),
        ({"method": "coral", "fisher": "ratio", "entropy": 0.05, "init": "m.pt"}, "coral+fisher-ratio+entropy+init"),
    ],
)
def test_trainings_that_are_to_be_kept_apart_have_different_labels(changes, label):
    assert recipe(**changes).label == recipe(**changes).resolved().label == label


@pytest.mark.parametrize("change", [{"weight_decay": -1.0}, {"warm_up": 1.5}, {"average": 1.0}, {"entropy": -1.0}])
def test_numbers_out_of_range_are_refused(change):
    with pytest.raises(InputError, match=next(iter(change))):
        recipe(**change).resolved()


# ---------------------------------------------------------------------- augment


NAMED = "depth,jpeg,zeropoint_confusion"  # of flux, input and stretch space


def by_hand(galaxies, contract, name, strength, epoch, seed):
    """A perturbation of each galaxy alone, with the draws that it should have."""
    entry, images = get(name), []
    for k in range(len(galaxies)):
        draws = Draws(galaxies.ids[k : k + 1], seed, "train", f"augment/{epoch}")
        raw = galaxies.batch([k])
        if entry.space == "flux":
            images.append(contract.to_input(entry(galaxies.observation([k]), strength, draws).flux, galaxies.bands))
        elif entry.space == "stretch":
            images.append(
                contract.to_input(
                    raw, galaxies.bands, lambda v, d=draws: entry(Unstretched(v, contract.stretch), strength, d)
                )
            )
        else:
            images.append(entry(contract.to_input(raw, galaxies.bands), strength, draws))
    return torch.cat(images)


def test_augmented_images_are_those_of_the_perturbations_at_their_rungs(blobs):
    setting = setting_of(blobs, seed=5)
    term = Augment(setting, 0.6, **{"with": NAMED})
    found, clean = term.images(torch.arange(180), 2), stretched(blobs, setting.contract)
    matches = {"clean": (found == clean).flatten(1).all(dim=1)}
    for name in NAMED.split(","):
        for strength in get(name).ladder:
            expected = by_hand(blobs, setting.contract, name, strength, 2, 5)
            matches[f"{name} {strength}"] = (found - expected).abs().flatten(1).amax(dim=1) < 1e-5
    hits = torch.stack(list(matches.values()))
    assert bool(hits.any(dim=0).all())
    n, share = 180, 0.6
    changed = n - int(matches["clean"].sum())
    assert abs(changed - share * n) < 4 * (share * (1 - share) * n) ** 0.5
    rungs = {name: int(hit.sum()) for name, hit in matches.items() if name != "clean"}
    assert min(rungs.values()) >= 1
    for name in NAMED.split(","):
        of_name = sum(count for rung, count in rungs.items() if rung.startswith(f"{name} "))
        assert abs(of_name - changed / 3) < 4 * (changed * 2 / 9) ** 0.5


def test_augmented_images_do_not_depend_on_batch_or_order_but_on_epoch_and_seed(blobs):
    whole = Augment(setting_of(blobs), 0.7, **{"with": NAMED})
    parts = Augment(setting_of(blobs), 0.7, **{"with": NAMED})
    rows = torch.randperm(180, generator=torch.Generator().manual_seed(0))
    first = whole.images(torch.arange(180), 1).clone()
    assert torch.equal(torch.cat([parts.images(r, 1) for r in rows.split(16)]), first[rows])
    assert not torch.equal(whole.images(torch.arange(180), 2), first)
    assert torch.equal(whole.images(torch.arange(180), 1), first)
    few = Augment(setting_of(blobs.take(range(0, 180, 3))), 0.7, **{"with": "depth,jpeg"})
    few.setting = dataclasses.replace(few.setting, contract=whole.setting.contract)
    few.clean = stretched(few.setting.source, whole.setting.contract)
    more = Augment(setting_of(blobs), 0.7, **{"with": "depth,jpeg"})
    assert torch.allclose(few.images(torch.arange(60), 0), more.images(torch.arange(180), 0)[::3], atol=1e-5)
    assert not torch.equal(Augment(setting_of(blobs, seed=1), 0.7, **{"with": NAMED}).images(rows, 1), first[rows])


def test_augment_without_a_share_is_none_and_with_one_is_not(blobs, other):
    plain = train(recipe(), blobs, other)
    without, half = (train(recipe("augment", options={"share": s}), blobs, other) for s in (0.0, 0.5))
    assert same(state(plain), state(without))
    assert not same(state(plain), state(half))
    assert half.record["target"] is None
    assert half.contract == plain.contract


def test_augment_by_default_takes_the_corruptions_of_the_quick_suite():
    suite = tomllib.loads((Path(robustastro.__file__).parent / "suites" / "quick.toml").read_text())
    names = [entry["name"] for entry in suite["perturbation"] if get(entry["name"]).kind == "corruption"]
    assert str(METHODS["augment"].options["with"]).split(",") == names


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, r"depth.*Exposure.*-p with="),
        ({"with": "jpeg,dept"}, "Did you mean 'depth'"),
        ({"with": "pgd"}, "an attack"),
        ({"with": " , "}, "names nothing"),
        ({"with": "jpeg", "share": 1.5}, "share = 1.5"),
    ],
)
def test_augment_refuses(blobs, options, words):
    plain = dataclasses.replace(blobs, exposure=None)
    with pytest.raises(InputError, match=words):
        train(recipe("augment", options=options), plain)


def test_augment_takes_images_without_units(blobs):
    plain = dataclasses.replace(blobs, exposure=None)
    assert train(recipe("augment", options={"with": "jpeg, miscentring"}), plain).record["history"]


# ---------------------------------------------------------------------- adabn


def test_adabn_is_none_with_the_statistics_of_the_target(blobs, other):
    plain, adapted = (train(recipe(m, arch="convnet"), blobs, other) for m in ("none", "adabn"))
    for name, tensor in plain.network.named_parameters():
        assert torch.equal(tensor, adapted.network.get_parameter(name)), name
    assert plain.record["history"] == adapted.record["history"]
    expected = copy.deepcopy(plain.network)
    for norm in expected.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.reset_running_stats()
            norm.momentum = 1.0
    expected.train()  # fewer galaxies than a batch: the statistics are those of one pass of all of them
    with torch.no_grad():
        run_network(expected, adapted.contract, stretched(select(other, "train"), adapted.contract))
    changed = 0
    for name, tensor in expected.named_buffers():
        assert torch.allclose(tensor.float(), adapted.network.get_buffer(name).float(), rtol=1e-4, atol=1e-6), name
        changed += not torch.allclose(tensor.float(), plain.network.get_buffer(name).float(), rtol=0.05)
    assert changed >= 6  # mean and variance of three layers
    assert all(m.momentum == 0.1 for m in adapted.network.modules() if isinstance(m, nn.BatchNorm2d))
    assert not any(m.training for m in adapted.network.modules())


def test_adabn_weighs_batches_equally_and_leaves_dropout_off(blobs, monkeypatch):
    monkeypatch.setattr(adabn, "BATCH", 30)
    network = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 24 * 24, 3)).train()
    before = copy.deepcopy(network.state_dict())
    setting = setting_of(blobs, network)
    x = stretched(blobs, setting.contract)[:100]  # four batches of 25
    AdaBN(setting).finish(network, x)
    given = setting.contract.to_network(x)
    norm: Any = network[1]
    assert torch.allclose(norm.running_mean, given.mean(dim=(0, 2, 3)), atol=1e-5)
    within = torch.stack([part.transpose(0, 1).flatten(1).var(dim=1) for part in given.split(25)]).mean(dim=0)
    assert torch.allclose(norm.running_var, within, rtol=1e-4)
    assert torch.equal(network.state_dict()["3.weight"], before["3.weight"])


def test_adabn_brings_back_what_a_change_of_brightness_took(blobs, lsst):
    fainter = make_blobs(180, lsst, seed=1, prefix="other")
    fainter = dataclasses.replace(fainter, images=np.asarray(fainter.images) * np.float32(0.3) + np.float32(2000.0))
    long = {"epochs": 40, "learning_rate": 0.02, "patience": 0}
    plain, adapted = (train(recipe(m, **long), blobs, fainter) for m in ("none", "adabn"))
    assert accuracy(plain, blobs) > 0.8
    assert accuracy(adapted, fainter) > accuracy(plain, fainter) + 0.15


class Bare(nn.Module):
    """No batch norm."""

    def __init__(self, bands: int = 3, classes: int = 3, size: int = 100) -> None:
        super().__init__()
        self.pool, self.fc = nn.AdaptiveAvgPool2d(4), nn.Linear(16 * bands, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.pool(x).flatten(1))


def test_adabn_refuses_a_network_without_batch_norm(blobs, other, monkeypatch):
    monkeypatch.setitem(nets.ARCHITECTURES, "bare", Bare)
    with pytest.raises(InputError, match="without batch norm"):
        train(recipe("adabn", arch="bare"), blobs, other)


# ---------------------------------------------------------------------- at


class Linear(nn.Module):
    """Logits are linear in the pixels, so the worst image is known."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x.flatten(1)) @ self.weight.T


@pytest.fixture
def linear(blobs):
    """Two classes, one band, six pixels of 1 x 3, batch norm of identity statistics; the contract changes nothing."""
    network = Linear(torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]]))
    network.norm.eval()
    contract = fit_contract(blobs).model_copy(
        update={"bands": ("g",), "classes": ("a", "b"), "mean": None, "std": None, "crop": None}
    )
    setting = dataclasses.replace(setting_of(blobs, network), contract=contract)
    x = torch.tensor([[0.5, 0.5, 0.99], [0.2, 0.0, 0.6]]).reshape(2, 1, 1, 3)
    return network, setting, x, torch.tensor([0, 1])


def search(setting: Setting, attack: str, epsilon: float = 0.05, steps: int = 5) -> AdversarialTraining:
    return AdversarialTraining(setting, attack, epsilon, steps)


def test_pgd_finds_the_worst_image_of_a_linear_network(linear):
    network, setting, x, y = linear
    found = search(setting, "pgd").harden(network, x, y)
    # class 0 loses by less of pixel 0 and 2 and more of pixel 1; class 1 the other way round; within [0, 1]
    expected = torch.tensor([[0.45, 0.55, 0.94], [0.25, 0.0, 0.65]]).reshape(2, 1, 1, 3)
    assert torch.allclose(found, expected, atol=1e-6)
    x = torch.tensor([[0.02, 0.98, 1.0], [0.99, 0.01, 0.5]]).reshape(2, 1, 1, 3)
    expected = torch.tensor([[0.0, 1.0, 0.95], [1.0, 0.0, 0.55]]).reshape(2, 1, 1, 3)
    assert torch.allclose(search(setting, "pgd").harden(network, x, y), expected, atol=1e-6)


def test_the_pixel_search_finds_the_worst_pixel_of_a_linear_network(linear):
    network, setting, x, y = linear
    found = search(setting, "pixel", steps=1).harden(network, x, y)
    # class 0: pixel 1 to 1 loses 2 x 0.5; class 1: pixel 0 to 1 gains 0.8 for the other
    expected = torch.tensor([[0.5, 1.0, 0.99], [1.0, 0.0, 0.6]]).reshape(2, 1, 1, 3)
    assert torch.equal(found, expected)


def test_the_pixel_search_takes_the_worst_of_what_it_tries(blobs):
    torch.manual_seed(0)
    setting = setting_of(blobs)
    network = build("tiny", {"bands": 3, "classes": 3, "size": 24})
    x, y = stretched(blobs, setting.contract)[:40], torch.from_numpy(blobs.labels[:40])

    def loss(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return nn.functional.cross_entropy(
                run_network(network.eval(), setting.contract, images), y, reduction="none"
            )

    few, many = (search(setting, "pixel", steps=s).harden(network, x, y) for s in (1, 64))
    for found in (few, many):
        changed = (found != x).any(dim=1).flatten(1).sum(dim=1)
        assert int(changed.max()) == 1
        pixels = (found != x).any(dim=1, keepdim=True).expand_as(x)
        assert set(found[pixels].unique().tolist()) <= {0.0, 1.0}
    assert bool((loss(many) >= loss(few) - 1e-6).all())
    assert float((loss(many) - loss(few)).mean()) > 0
    assert float(loss(few).mean()) > float(loss(x).mean())


@pytest.mark.parametrize("attack", ["pgd", "pixel"])
def test_a_search_leaves_the_network_as_it_was(blobs, attack):
    network = build("tiny", {"bands": 3, "classes": 3, "size": 24}).train()
    network.get_submodule("bn1").eval()
    network.get_submodule("conv1").requires_grad_(False)
    setting = setting_of(blobs, network)
    x, y = stretched(blobs, setting.contract)[:16], torch.from_numpy(blobs.labels[:16])
    before, kept = copy.deepcopy(network.state_dict()), x.clone()
    found = search(setting, attack, 0.02).harden(network, x, y)
    assert same(before, network.state_dict())
    assert torch.equal(x, kept)
    assert [name for name, module in network.named_modules() if not module.training] == ["bn1"]
    assert all(p.grad is None for p in network.parameters())
    assert not found.requires_grad
    assert float(found.min()) >= 0.0
    assert float(found.max()) <= 1.0
    if attack == "pgd":
        assert float((found - x).abs().max()) <= 0.02 + 1e-6


def test_the_search_for_an_image_does_not_depend_on_the_others(blobs):
    torch.manual_seed(0)
    network = build("tiny", {"bands": 3, "classes": 3, "size": 24}).train()
    setting = setting_of(blobs, network)
    x, y = stretched(blobs, setting.contract)[:16], torch.from_numpy(blobs.labels[:16])
    whole, alone = (search(setting, "pixel", steps=1).harden(network, x[:n], y[:n]) for n in (16, 1))
    assert torch.equal(whole[:1], alone)


def test_adversarial_training_makes_a_network_that_bears_the_attack(blobs):
    long = {"epochs": 40, "learning_rate": 0.02, "patience": 0}
    options = {"epsilon": 0.1, "steps": 3}
    plain, hardened = train(recipe(**long), blobs), train(recipe("at", options=options, **long), blobs)
    test = select(blobs, "test")
    assert test.labels is not None
    x, y = stretched(test, plain.contract), torch.from_numpy(test.labels)

    def robust(trained) -> float:
        torch.manual_seed(0)
        worst = search(setting_of(blobs), "pgd", 0.1, 10).harden(trained.network, x, y)
        logits = Subject(trained.network, trained.contract).outputs(worst).logits
        return float((logits.argmax(dim=1) == y).float().mean())

    assert robust(hardened) > robust(plain) + 0.2


def test_adversarial_training_of_no_size_is_none(blobs):
    plain, same_images = train(recipe(), blobs), train(recipe("at", options={"epsilon": 0.0}), blobs)
    assert same(state(plain), state(same_images))
    assert at.STRIDE > 1


@pytest.mark.parametrize("options", [{"epsilon": 1.5}, {"epsilon": -0.1}, {"steps": 0}, {"steps": 2.5}])
def test_wrong_budgets_are_refused(blobs, options):
    with pytest.raises(InputError, match=r"(epsilon|steps) = "):
        train(recipe("at", options=options), blobs)


# ---------------------------------------------------------------------- supervised_target


def test_the_upper_bound_learns_the_target_by_class_weights_of_its_own(blobs, lsst):
    """A target in which colours and brightness say the wrong thing: only its labels help."""
    swapped = make_blobs(180, lsst, seed=1, prefix="other")
    swapped = dataclasses.replace(swapped, labels=(np.asarray(swapped.labels) + 1) % 3)
    turned = dataclasses.replace(swapped, images=np.asarray(swapped.images) * np.float32(-1.0) + np.float32(9000.0))
    long = {"epochs": 40, "learning_rate": 0.02, "patience": 0}
    plain, bound = (train(recipe(m, **long), blobs, turned) for m in ("none", "supervised_target"))
    assert accuracy(bound, turned) > max(0.8, accuracy(plain, turned) + 0.2)
    assert accuracy(bound, blobs) > 0.8


def test_the_upper_bounds_loss_by_hand(blobs, other):
    from robustastro.adapt.supervised_target import SupervisedTarget
    from robustastro.adapt.transfer import Step

    rare = other.take([k for k in range(180) if k % 3 != 1 or k % 2 == 0])  # 60, 30, 60
    term = SupervisedTarget(setting_of(blobs, target=rare), 2.0)
    weight = 150 / (3 * np.array([60, 30, 60]))
    logits = torch.tensor([[1.0, 0.0, -1.0], [0.5, 2.0, 0.0]])
    labels = torch.tensor([0, 1])
    losses = -logits.log_softmax(dim=1)[[0, 1], [0, 1]].numpy()
    expected = 2.0 * (weight[:2] * losses).sum() / weight[:2].sum()
    z = torch.zeros(2, 8)
    assert float(term(Step(z, logits, labels, 0.0, z, logits, torch.arange(2), labels))) == pytest.approx(expected)


def test_the_upper_bound_wants_labels_and_matches_classes_by_name(blobs, other):
    with pytest.raises(InputError, match="without labels of the target"):
        train(recipe("supervised_target"), blobs, dataclasses.replace(other, labels=None))
    order = [2, 0, 1]
    renamed = dataclasses.replace(
        other, classes=tuple(other.classes[k] for k in order), labels=np.argsort(order)[other.labels]
    )
    first, second = (train(recipe("supervised_target"), blobs, target) for target in (other, renamed))
    assert same(state(first), state(second))


# ---------------------------------------------------------------------- init and freeze


@pytest.fixture
def model(blobs, tmp_path) -> str:
    write_bundle(tmp_path / "first.pt", train(recipe(seed=7), blobs), blobs, None, "cpu")
    return str(tmp_path / "first.pt")


def test_a_training_starts_from_the_weights_of_init(blobs, model):
    stored = load_model(model).network.state_dict()
    still = train(recipe(init=model, epochs=1, learning_rate=1e-12, weight_decay=0.0), blobs)
    for name, tensor in still.network.named_parameters():
        assert torch.allclose(tensor, stored[name], atol=1e-6), name
    assert still.record["init"] == {"path": model, "sha256": load_model(model).sha256, "new_head": False}
    assert still.record["method"] == "none+init"
    assert not same(state(train(recipe(), blobs)), state(train(recipe(init=model), blobs)))


@pytest.mark.parametrize(
    ("freeze", "frozen"),
    [
        (("conv1",), {"conv1"}),
        (("bn1",), {"bn1"}),
        (("features",), {"conv1", "bn1", "bottleneck"}),
        (("bn1", "fc"), {"bn1", "fc"}),
    ],
)
@pytest.mark.parametrize("changes", [{}, {"average": 0.9}, {"method": "mmd"}, {"method": "at"}], ids=str)
def test_frozen_layers_and_their_statistics_stay_and_the_others_do_not(blobs, other, model, freeze, frozen, changes):
    stored = load_model(model).network.state_dict()
    trained = train(recipe(**{"init": model, "freeze": freeze, **changes}), other, blobs)
    for name, tensor in state(trained).items():
        kept = name.partition(".")[0] in frozen
        assert torch.equal(tensor, stored[name]) == kept, name
    assert all(p.requires_grad for p in trained.network.parameters())


def test_the_head_is_made_anew_for_other_classes(blobs, other, model):
    two = other.take(np.flatnonzero(other.labels != 2))
    two = dataclasses.replace(two, classes=("round", "small"))
    stored = load_model(model).network.state_dict()
    trained = train(recipe(init=model, freeze=("features",)), two)
    assert state(trained)["fc.weight"].shape == (2, 8)
    assert torch.equal(state(trained)["conv1.weight"], stored["conv1.weight"])
    assert trained.record["init"]["new_head"]
    with pytest.raises(InputError, match="fc is new"):
        train(recipe(init=model, freeze=("fc",)), two)
    swapped = dataclasses.replace(other, classes=("small", "round", "long"))
    assert train(recipe(init=model), swapped).record["init"]["new_head"]  # its rows would be those of other classes


def test_the_contract_is_that_of_the_new_source(blobs, other, model):
    trained = train(recipe(init=model), other)
    assert trained.contract == fit_contract(select(other, "train")) != load_model(model).contract


def test_a_network_of_the_users_own_may_be_started_from(blobs, tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\nclass Own(nn.Sequential):\n    def __init__(self, classes=3):\n"
        "        super().__init__(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 5), nn.Linear(5, classes))\n"
    )
    own = f"{tmp_path / 'net.py'}:Own"
    write_bundle(tmp_path / "own.pt", train(recipe(arch=own), blobs), blobs, None, "cpu")
    trained = train(recipe(arch=own, init=str(tmp_path / "own.pt"), freeze=("features",)), blobs)
    stored = torch.load(tmp_path / "own.pt", weights_only=True)["state_dict"]
    assert torch.equal(state(trained)["2.weight"], stored["2.weight"])
    assert not torch.equal(state(trained)["3.weight"], stored["3.weight"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arch": "convnet"}, "is a tiny"),
        ({"freeze": ("conv2",)}, "Did you mean 'conv1'"),
        ({"freeze": ("features", "fc")}, "the whole network"),
        ({"freeze": ("conv1",), "init": ""}, "without --init"),
        ({"init": "nowhere.pt"}, "nowhere.pt"),
    ],
)
def test_wrong_starts_are_refused(blobs, model, changes, words):
    with pytest.raises(InputError, match=words):
        train(recipe(**{"init": model, **changes}), blobs)


def test_weights_of_other_bands_or_sizes_are_refused(blobs, model, lsst, tmp_path):
    two = dataclasses.replace(
        blobs, images=np.asarray(blobs.images)[:, :2], bands=("g", "r"), exposure=blobs.exposure.pick(("g", "r"))
    )
    with pytest.raises(InputError, match=r"conv1.weight is \(4, 3, 3, 3\)"):
        train(recipe(init=model), two)
    turned = dataclasses.replace(
        blobs, images=np.asarray(blobs.images)[:, ::-1], bands=("i", "r", "g"), exposure=blobs.exposure.pick("irg")
    )
    with pytest.raises(InputError, match="bands g, r, i"):
        train(recipe(init=model), turned)
    small = dataclasses.replace(blobs, images=np.asarray(blobs.images)[:, :, 4:-4, 4:-4])
    write_bundle(tmp_path / "c.pt", train(recipe(arch="convnet", epochs=1), blobs), blobs, None, "cpu")
    with pytest.raises(InputError, match=r"bottleneck\.weight"):
        train(recipe(arch="convnet", init=str(tmp_path / "c.pt")), small)


# ---------------------------------------------------------------------- the running mean of the weights


def test_the_running_mean_is_validated_and_kept(blobs):
    """One epoch, so that its end is what is kept; the mean by hand, of the weights after each step."""
    seen: list[list[torch.Tensor]] = []

    def note(optimiser, *_):
        seen.append([p.detach().clone() for p in optimiser.param_groups[0]["params"]])

    handle = register_optimizer_step_post_hook(note)
    try:
        averaged = train(recipe(epochs=1, average=0.8), blobs)
    finally:
        handle.remove()
    mean = seen[0]
    for step in seen[1:]:
        mean = [0.8 * a + 0.2 * b for a, b in zip(mean, step, strict=True)]
    for (name, found), expected in zip(averaged.network.named_parameters(), mean, strict=True):
        assert torch.allclose(found, expected, atol=1e-6), name
    history, final = averaged.record["history"][0], averaged.record["validation"]
    assert history["valid_loss"] == pytest.approx(final["valid_loss"], rel=1e-6)
    last = train(recipe(epochs=1), blobs)
    assert history["task_loss"] == last.record["history"][0]["task_loss"]  # it takes no part in the training
    assert history["valid_loss"] != last.record["history"][0]["valid_loss"]
    assert int(state(averaged)["bn1.num_batches_tracked"]) == len(seen)


def test_no_running_mean_leaves_the_training_alone(blobs):
    assert same(state(train(recipe(), blobs)), state(train(recipe(average=0.0), blobs)))
    assert not same(state(train(recipe(), blobs)), state(train(recipe(average=0.9), blobs)))


# ---------------------------------------------------------------------- the domain gap, and the command line


def latents(result, galaxies) -> np.ndarray:
    model = load_model(result["out"])
    return Subject(model.network, model.contract).outputs(stretched(galaxies, model.contract)).latent.double().numpy()


def test_a_training_says_whether_its_latents_tell_the_domains_apart(blobs, other, tmp_path):
    def fitted(target):
        return commands.fit(recipe(), blobs, target, tmp_path / "m.pt", "cpu", Progress())

    result = fitted(other)
    expected = proxy_a_distance(latents(result, select(blobs, "valid")), latents(result, select(other, "valid")))
    assert result["domain_gap"].items() >= {"proxy_a_distance": expected.to_dict(), "paired": False}.items()
    assert "proxy A-distance" in commands.training_text(result)
    assert load_model(tmp_path / "m.pt").training["domain_gap"] == result["domain_gap"]
    assert fitted(permuted(other))["domain_gap"] == result["domain_gap"]

    backwards = blobs.take(np.arange(180)[::-1])
    result = fitted(dataclasses.replace(backwards, images=backwards.batch(slice(None)).numpy() * 1.2))
    pairs = [select(g, "valid") for g in (blobs, backwards)]
    pairs[1] = dataclasses.replace(pairs[1], images=pairs[1].batch(slice(None)).numpy() * 1.2)
    order = [pairs[0].ids.index(i) for i in pairs[1].ids]
    expected = proxy_a_distance(latents(result, pairs[0].take(order)), latents(result, pairs[1]), paired=True)
    assert result["domain_gap"].items() >= {"proxy_a_distance": expected.to_dict(), "paired": True}.items()
    assert "domain_gap" not in fitted(None)
    assert "proxy" not in commands.training_text(fitted(None))


def test_the_command_line_gives_each_option_to_the_training(blobs, other, model, tmp_path, capsys):
    write_hdf5(blobs, tmp_path / "deep.h5")
    write_hdf5(other, tmp_path / "other.h5")
    arguments = [
        "train", "--source", "deep.h5", "--target", "other.h5", "--arch", "tiny", "--epochs", "2", "--batch", "16",
        "--method", "mmd", "-p", "settings=published", "--fisher", "ratio", "--entropy", "0.05", "--average", "0.9",
        "--init", model, "--freeze", "conv1,bn1", "--out", "m.pt", "--json",
    ]  # fmt: skip
    places = {"deep.h5", "other.h5", "m.pt"}
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path / a) if a in places else a for a in arguments])
    assert ended.value.code in (0, 1)  # 1: too short a training may have collapsed
    result = json.loads(capsys.readouterr().out)
    found = result["recipe"]
    assert (found["fisher"], found["entropy"], found["average"]) == ("ratio", 0.05, 0.9)
    assert (found["init"], found["freeze"]) == (model, ["conv1", "bn1"])
    assert found["options"]["weight"] == METHODS["mmd"].published["weight"]
    assert result["method"] == "mmd+published+average-0.9+fisher-ratio+entropy+init"
    assert all({"fisher_loss", "entropy_loss", "transfer_loss"} <= set(epoch) for epoch in result["history"])
    trained, stored = load_model(tmp_path / "m.pt").network, load_model(model).network
    assert torch.equal(trained.get_parameter("conv1.weight"), stored.get_parameter("conv1.weight"))
    assert head_of(trained, "tiny")[0] == "fc"
