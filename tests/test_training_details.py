"""Each part of the training does what it says: what the transfer loss gets, its options, the order, the rates."""

import dataclasses
import math
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from conftest import make_blobs
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from robustastro import adapt
from robustastro.adapt.mmd import WIDTHS, mmd
from robustastro.adapt.recipe import Recipe
from robustastro.adapt.starting import terms_of
from robustastro.adapt.training import fit_contract, id_hashes, select, stretched, train, write_bundle
from robustastro.adapt.transfer import Setting, Step, Transfer
from robustastro.models import nets
from robustastro.models.bundles import load_model

QUICK: dict[str, Any] = {"arch": "tiny", "epochs": 2, "batch": 16, "learning_rate": 0.01}


@pytest.fixture
def other(lsst):
    """The target: other galaxies, brighter and noisier."""
    galaxies = make_blobs(180, lsst, seed=1, prefix="other")
    noise = np.random.default_rng(1).normal(0.0, 1200.0, galaxies.images.shape)
    return dataclasses.replace(galaxies, images=(1.3 * np.asarray(galaxies.images) + noise).astype(np.float32))


def weights(trained) -> torch.Tensor:
    return torch.cat([t.flatten().double() for t in trained.network.state_dict().values()])


# ---------------------------------------------------------------------- the transfer loss


@pytest.mark.parametrize(
    ("method", "option", "values"),
    [
        ("mmd", "weight", (0.0, 1.0)),
        ("mmd", "weight", (1.0, 2.0)),
        ("dann", "weight", (0.0, 1.0)),
        ("dann", "weight", (1.0, 2.0)),
        ("dann", "reversal", (0.5, 1.0)),
        ("dann", "scale", (1.0, 4.0)),
        ("dann", "hidden", (8, 16)),
    ],
)
def test_the_transfer_loss_and_its_options_change_the_weights(blobs, other, method, option, values):
    one, two = (train(Recipe(method=method, options={option: v}, **QUICK), blobs, other) for v in values)
    assert not torch.equal(weights(one), weights(two))
    assert one.record["recipe"]["options"][option] == values[0]


def test_without_reversal_the_domain_classifier_does_not_touch_the_network(blobs, other):
    """It learns then, but for itself: the same network as with no weight on its loss."""
    alone, weightless = (
        train(Recipe(method="dann", options=o, **QUICK), blobs, other) for o in ({"reversal": 0.0}, {"weight": 0.0})
    )
    assert torch.equal(weights(alone), weights(weightless))
    assert alone.record["history"][0]["transfer_loss"] > 0.1


def test_the_domain_classifier_sees_latent_vectors_of_length_scale():
    """Whatever the length of the latent vectors, its logits move with `scale`."""
    z, far = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)).split(20)
    unused: Any = None
    setting = Setting(unused, unused, 6, unused, unused, 0, 20, torch.ones(2))

    def of_scale(scale: float) -> nn.Module:
        return terms_of(Recipe(method="dann", options={"scale": scale, "hidden": 16}).resolved(), setting)["transfer"]

    def loss(term: nn.Module, length: float) -> float:
        a, b = length * z, length * far
        return float(term.eval()(Step(a, a, torch.zeros(20).long(), 0.5, b, b, torch.arange(20))))

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        small, large = of_scale(1.0), of_scale(4.0)
        large.load_state_dict(small.state_dict())
        assert loss(small, 1.0) == pytest.approx(loss(small, 10.0), rel=1e-5)
        assert abs(loss(small, 1.0) - loss(large, 1.0)) > 1e-4


def test_the_gradient_of_mmd_holds_the_kernel_width_constant():
    """Against the derivative of the formula with the median as a number."""
    s, t = torch.randn(24, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).split((10, 14))
    t = t + 0.7
    both = torch.cat([s, t])
    differences = both[:, None] - both[None]
    squares = differences.square().sum(dim=2)
    median = squares[~torch.eye(24, dtype=torch.bool)].sort().values[(24 * 23 - 1) // 2]
    slope = sum(torch.exp(-squares / (w * median)) / (w * median) for w in WIDTHS) / len(WIDTHS)
    sign = torch.cat([torch.full((10,), 0.1), torch.full((14,), -1 / 14)]).double()  # MMD^2 = sign' K sign
    expected = -4.0 * ((sign[:, None] * sign[None] * slope)[..., None] * differences).sum(dim=1)
    leaf = both.clone().requires_grad_(True)
    mmd(leaf[:10], leaf[10:]).backward()
    assert leaf.grad is not None
    assert torch.allclose(leaf.grad, expected, rtol=1e-6, atol=1e-9)


# ---------------------------------------------------------------------- what reaches it


class Projections(nn.Module):
    """Its latent vector is a few fixed projections of the image, so that a latent vector names its image."""

    def __init__(self, bands: int = 3, classes: int = 3, size: int = 100) -> None:
        super().__init__()
        directions = torch.randn(bands * size * size, 4, generator=torch.Generator().manual_seed(0))
        self.register_buffer("directions", directions / (size * bands**0.5))
        self.fc = nn.Linear(4, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.flatten(1) @ self.get_buffer("directions"))


class Witness(Transfer):
    """A transfer loss that only notes what it is given."""

    seen: ClassVar[list[tuple[torch.Tensor, torch.Tensor, float]]] = []
    steps: ClassVar[list[Step]] = []
    settings: ClassVar[list[Setting]] = []

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.settings.append(setting)

    def forward(self, step: Step) -> torch.Tensor:
        source, target = step.both()
        self.seen.append((source.detach().clone(), target.detach().clone(), step.progress))
        self.steps.append(step)
        step.notes["galaxies"] = float(len(self.steps))
        return 0.0 * (source.sum() + target.sum())


@pytest.fixture
def witnessed(monkeypatch, blobs, other):
    """Train with the witness; what it saw, and the latent vectors of each training galaxy in its eight orientations."""
    method = adapt.Method("witness", "this test", True, f"{__name__}:Witness", {})
    monkeypatch.setattr(adapt, "METHODS", MappingProxyType({**adapt.METHODS, "witness": method}))
    monkeypatch.setitem(nets.ARCHITECTURES, "projections", Projections)
    for name in ("seen", "steps", "settings"):
        monkeypatch.setattr(Witness, name, [])

    def run(**changes):
        trained = train(Recipe(**({**QUICK, "method": "witness", "arch": "projections"} | changes)), blobs, other)
        orientations = []
        for galaxies in (blobs, other):
            x = trained.contract.to_network(stretched(select(galaxies, "train"), trained.contract))
            turned = [torch.rot90(x, k, (2, 3)) for k in range(4)]
            turned += [image.flip(3) for image in turned]
            orientations.append(torch.stack([v.flatten(1) @ trained.network.get_buffer("directions") for v in turned]))
        return Witness.seen, orientations

    return run


def which_galaxies(latent: torch.Tensor, orientations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each latent vector the orientation and the galaxy it belongs to; all of them must belong to one."""
    gap = (latent[:, None, None] - orientations[None]).abs().amax(dim=3).flatten(1)
    assert float(gap.min(dim=1).values.max()) < 1e-4
    return gap.argmin(dim=1) // orientations.shape[1], gap.argmin(dim=1) % orientations.shape[1]


def test_the_transfer_loss_gets_source_target_and_the_progress(witnessed):
    seen, (source, target) = witnessed()
    for a, b, _ in seen:
        assert a.shape == b.shape == (16, 4)
        which_galaxies(a, source)
        which_galaxies(b, target)
    assert [progress for *_, progress in seen] == pytest.approx([k / len(seen) for k in range(len(seen))])


def test_a_step_and_the_setting_say_what_they_promise(witnessed, blobs, other):
    seen, (source, target) = witnessed()
    head = Projections().fc  # only for its shape
    (setting,) = Witness.settings
    assert setting.latent == head.in_features
    assert setting.source.ids == select(blobs, "train").ids
    assert setting.target is not None
    assert setting.target.ids == select(other, "train").ids
    assert setting.target.labels is None
    labels = np.asarray(select(blobs, "train").labels)
    for step, (a, b, _) in zip(Witness.steps, seen, strict=True):
        assert step.target_rows is not None
        assert step.target_rows.tolist() == which_galaxies(b, target)[1].tolist()
        assert step.target_logits is not None
        assert step.labels.tolist() == labels[which_galaxies(a, source)[1].numpy()].tolist()
        assert step.target_labels is None
        assert step.source_logits.shape == step.target_logits.shape == (16, 3)


def test_the_history_keeps_the_mean_of_the_notes(blobs, other, witnessed):
    witnessed()
    steps = len(Witness.steps) // 2
    trained = train(Recipe(**{**QUICK, "method": "witness", "arch": "projections"}), blobs, other)
    noted = [h["galaxies"] for h in trained.record["history"]]
    first = 2 * steps + (steps + 1) / 2
    assert noted == pytest.approx([first, first + steps])


def test_both_domains_are_dealt_in_a_new_order_each_epoch(witnessed):
    seen, orientations = witnessed()
    steps = len(seen) // 2
    for domain in (0, 1):
        dealt = [which_galaxies(batch[domain], orientations[domain])[1] for batch in seen]
        first, second = torch.cat(dealt[:steps]), torch.cat(dealt[steps:])
        galaxies = orientations[domain].shape[1]
        once = min(len(first), galaxies)
        for order in (first, second):
            assert len(order[:once].unique()) == once  # nobody twice before everybody once
            assert not torch.equal(order[:once], order[:once].sort().values)
        assert not torch.equal(first, second)


def test_augmentation_turns_images_by_all_eight_symmetries_and_can_be_left_off(witnessed):
    for augment, expected in ((True, set(range(8))), (False, {0})):
        Witness.seen.clear()
        seen, orientations = witnessed(augment=augment)
        for domain in (0, 1):
            turned = torch.cat([which_galaxies(batch[domain], orientations[domain])[0] for batch in seen])
            assert set(turned.tolist()) == expected


# ---------------------------------------------------------------------- the optimiser


@pytest.mark.parametrize("warm_up", [0.0, 0.4])
def test_the_learning_rate_warms_up_linearly_and_decays_as_a_cosine(blobs, warm_up):
    groups = []

    def note(optimiser, *_):
        groups.append((optimiser.param_groups[0]["lr"], optimiser.param_groups[0]["weight_decay"]))

    handle = register_optimizer_step_pre_hook(note)
    try:
        train(Recipe(**{**QUICK, "epochs": 4, "warm_up": warm_up, "weight_decay": 0.007, "patience": 0}), blobs)
    finally:
        handle.remove()
    total = 4 * (len(select(blobs, "train")) // 16)
    warm = max(1, int(warm_up * total))
    rising = [0.01 * (k + 1) / warm for k in range(warm)]
    falling = [0.005 * (1.0 + math.cos(math.pi * k / (total - warm))) for k in range(total - warm)]
    assert [rate for rate, _ in groups] == pytest.approx(rising + falling)
    assert {decay for _, decay in groups} == {0.007}


@pytest.mark.parametrize(
    "change", [{"augment": False}, {"warm_up": 0.5}, {"weight_decay": 0.5}, {"learning_rate": 0.02}]
)
def test_each_option_of_the_recipe_changes_the_weights(blobs, change):
    one, two = (train(Recipe(**(QUICK | c)), blobs) for c in ({}, change))
    assert not torch.equal(weights(one), weights(two))


# ---------------------------------------------------------------------- data


def test_the_contract_is_fitted_on_training_galaxies_only(blobs, other):
    def brighter(split):
        images = np.array(blobs.images)
        rows = [blobs.ids.index(i) for i in select(blobs, split).ids]
        images[rows] *= 3.0
        return dataclasses.replace(blobs, images=images)

    recipe = Recipe(**{**QUICK, "method": "mmd", "epochs": 1})
    contract = train(recipe, blobs, other).contract
    assert contract == fit_contract(select(blobs, "train"))
    for split, same in (("test", True), ("valid", True), ("train", False)):
        assert (train(recipe, brighter(split), other).contract == contract) == same
    twice = dataclasses.replace(other, images=np.asarray(other.images) * 2.0)
    assert train(recipe, blobs, twice).contract == contract


@pytest.mark.parametrize("method", ["none", "mmd", "dann"])
def test_the_bundle_names_every_galaxy_it_was_trained_on(blobs, other, tmp_path, method):
    target = None if method == "none" else other
    write_bundle(tmp_path / "m.pt", train(Recipe(method=method, **QUICK), blobs, target), blobs, target, "cpu")
    trained_on = load_model(tmp_path / "m.pt").trained_on
    assert trained_on is not None
    train_ids = select(blobs, "train").ids + (() if target is None else select(target, "train").ids)
    valid, test = (set(id_hashes(select(blobs, split).ids).tolist()) for split in ("valid", "test"))
    assert set(id_hashes(train_ids).tolist()) == set(trained_on.tolist()) - valid
    assert not test & set(trained_on.tolist())
