"""Universal adaptation: losses by hand, batch norm by domain, the cosine classifier, sets with other classes."""

import copy
import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_blobs
from scipy.stats import entropy as scipy_entropy
from sklearn.metrics import roc_auc_score
from torch import nn

from robustastro import commands
from robustastro.adapt import METHODS
from robustastro.adapt.domain_norm import SERVED, DomainNorm, divide, enter, unite
from robustastro.adapt.recipe import Recipe
from robustastro.adapt.sinkhorn import sinkhorn
from robustastro.adapt.training import select, stretched, train, write_bundle
from robustastro.adapt.transfer import Setting, Step
from robustastro.adapt.uda import UDA, adaptive_clustering, alike, entropy, entropy_separation
from robustastro.cli import main
from robustastro.contract import InputContract
from robustastro.data.readers import write_hdf5
from robustastro.evaluate.describe import head_of
from robustastro.metrics.distances import boundary_distance
from robustastro.models.bundles import build, load_model
from robustastro.models.nets import ConvNet, CosineLinear, TinyNet, cosine_head
from robustastro.models.sparse.inference import PixelInference
from robustastro.models.subject import Subject
from robustastro.progress import Progress

QUICK: dict[str, Any] = {"arch": "tiny", "epochs": 3, "batch": 16, "learning_rate": 0.01}


def recipe(method: str = "uda", **changes: Any) -> Recipe:
    return Recipe(**{**QUICK, "method": method, **changes})


def term_of(contract, galaxies, latent: int = 2, **changes: Any) -> UDA:
    setting = Setting(nn.Identity(), contract, latent, galaxies, galaxies, 0, 8, torch.ones(3))
    options = dict(Recipe("uda", options={"settings": "published"}).resolved().options) | changes
    options.pop("settings")
    return UDA(setting, **options)  # type: ignore[arg-type]


def step(source, target, source_logits, target_logits, progress: float = 0.5) -> Step:
    s, t, sl, tl = (torch.tensor(v) for v in (source, target, source_logits, target_logits))
    return Step(s, sl, torch.zeros(len(s), dtype=torch.int64), progress, t, tl, torch.arange(len(t)))


def state(trained) -> dict[str, torch.Tensor]:
    return trained.network.state_dict()


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---------------------------------------------------------------------- the losses by hand


def test_two_galaxies_are_alike_where_their_largest_features_are_the_same_ones():
    first = torch.tensor([[3.0, -9.0, 1.0, 2.0], [1.0, 2.0, 3.0, 4.0]])
    second = torch.tensor([[-8.0, 5.0, 0.0, 0.1], [0.0, -1.0, -7.0, 6.0], [9.0, 1.0, 8.0, 1.5]])
    # pairs of features: {0, 1} and {2, 3} against {0, 1}, {2, 3} and {0, 2}
    assert alike(first, second, 2).tolist() == [[True, False, False], [False, True, False]]
    # the largest alone: 1 and 3 against 0, 2 and 0
    assert not alike(first, second, 1).any()
    assert alike(first, second, 9).all()  # no more than there are


def test_adaptive_clustering_by_hand():
    first = torch.tensor([[0.8, 0.2], [0.5, 0.5]])
    second = torch.tensor([[0.9, 0.1], [0.3, 0.7], [0.0, 1.0]])
    same_ones = torch.tensor([[True, False, False], [True, False, True]])
    counted = torch.tensor([[True, True, False], [True, True, False]])
    # products: 0.74 0.38 - / 0.5 0.5 -
    together = -(math.log(0.74) + math.log(0.5)) / 2
    apart = -(math.log(1 - 0.38) + math.log(1 - 0.5)) / 2
    assert float(adaptive_clustering(first, second, same_ones, counted)) == pytest.approx((together + apart) / 2)
    assert float(adaptive_clustering(first, second, ~counted & counted, counted)) == pytest.approx(
        -(math.log(0.26) + math.log(0.62) + 2 * math.log(0.5)) / 4
    )
    assert float(adaptive_clustering(first, second, same_ones, counted & ~counted)) == 0.0
    sure = torch.eye(2)
    assert math.isfinite(float(adaptive_clustering(sure, sure, ~sure.bool(), sure.bool() | True)))


def test_entropy_separation_by_hand():
    p = torch.tensor([[1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3], [0.7, 0.2, 0.1], [0.88, 0.1, 0.02]])
    by_hand = scipy_entropy(p.numpy(), axis=1)
    assert entropy(p).tolist() == pytest.approx(by_hand.tolist(), abs=1e-6)
    away = np.abs(by_hand - math.log(3) / 2)
    assert (away > 0.2).tolist() == [True, True, True, False]
    loss, active = entropy_separation(p, 0.2)
    assert float(loss) == pytest.approx(-away[:3].sum() / 4, abs=1e-6)
    assert active.tolist() == [True, True, True, False]
    assert float(entropy_separation(p, 0.6)[0]) == 0.0  # more than is possible for three classes
    # sure galaxies become surer, unsure ones less so
    q = torch.tensor([[0.97, 0.02, 0.01], [0.4, 0.3, 0.3]], dtype=torch.float64).log().requires_grad_(True)
    entropy_separation(q.softmax(dim=1), 0.1)[0].backward()
    assert q.grad is not None
    moved = entropy((q - 0.1 * q.grad).softmax(dim=1)) - entropy(q.softmax(dim=1))
    assert (moved > 0).tolist() == [False, True]


LOGITS = ([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [[1.5, 0.0, 0.5], [0.0, 0.0, 3.0]])
VECTORS = ([[4.0, 1.0], [0.0, 3.0]], [[5.0, 0.0], [1.0, 2.0]])


def test_the_loss_of_a_step_by_hand(blobs, contract):
    """Two source and two target galaxies in two dimensions, the largest feature counts, each domain about its mean."""
    term = term_of(contract, blobs, top=1, bank=0, weight=2.0, entropy_weight=0.3, margin=0.1)
    p, q = (np.exp(v) / np.exp(v).sum(axis=1, keepdims=True) for v in map(np.array, LOGITS))
    # source about (2, 2): (2, -1) (-2, 1), target about (3, 1): (2, -1) (-2, 1): the first feature leads everywhere
    pairs = [p[0] @ q[0], p[0] @ q[1], p[1] @ q[0], p[1] @ q[1], q[0] @ q[1], q[1] @ q[0]]
    away = np.abs(scipy_entropy(q, axis=1) - math.log(3) / 2)
    expected = 2.0 * np.mean(-np.log(pairs)) - 0.3 * np.where(away > 0.1, away, 0.0).mean()
    seen = step(*VECTORS, *LOGITS)
    assert float(term(seen)) == pytest.approx(expected, rel=1e-5)
    unsure = scipy_entropy(q, axis=1) > math.log(3) / 2
    assert seen.notes == {
        "alike": 1.0, "with_alike": 1.0, "clustering_active": 1.0,
        "entropy_active": pytest.approx((away > 0.1).mean()),
        "entropy_unsure": pytest.approx(((away > 0.1) & unsure).mean()),
    }  # fmt: skip
    # only the domains' own means make these alike: (0, 3) is led by its second feature
    assert alike(torch.tensor([[4.0, 1.0]]), torch.tensor([[0.0, 3.0]]), 1).tolist() == [[False]]
    shifted = ([[14.0, 1.0], [10.0, 3.0]], VECTORS[1])
    assert float(term(step(*shifted, *LOGITS))) == pytest.approx(expected, rel=1e-5)


def test_a_galaxy_is_not_compared_with_itself(blobs, contract):
    """One target galaxy and an empty bank: only the source is left to compare it with."""
    term = term_of(contract, blobs, top=1, bank=0, entropy_weight=0.0)
    p, q = (np.exp(v) / np.exp(v).sum() for v in (np.array([2.0, 0.0, 0.0]), np.array([0.5, 0.0, 0.0])))
    seen = step([[4.0, 1.0]], [[5.0, 0.0]], [[2.0, 0.0, 0.0]], [[0.5, 0.0, 0.0]])
    assert float(term(seen)) == pytest.approx(-math.log(p @ q), rel=1e-5)


def test_the_terms_grow_over_the_warm_up(blobs, contract):
    term = term_of(contract, blobs, warm_up=0.5, bank=0)
    at = [float(term(step(*VECTORS, *LOGITS, progress=p))) for p in (0.0, 0.25, 0.5, 0.9)]
    assert at[0] == 0.0
    assert at[1] == pytest.approx(at[2] / 2)
    assert at[3] == at[2] != 0.0


@pytest.mark.parametrize("reach", [0.5, 1.0])
def test_alignment_is_the_unbalanced_sinkhorn_divergence_of_directions(blobs, contract, reach):
    """From the first step on, whatever the length of the vectors."""
    plain = {"weight": 0.0, "entropy_weight": 0.0, "warm_up": 0.5, "align": 2.0, "reach": reach}
    s, t = (torch.tensor(v) for v in VECTORS)
    u, v = s / s.norm(dim=1, keepdim=True), t / t.norm(dim=1, keepdim=True)
    expected = 2.0 * float(sinkhorn(u, v, 0.05, reach=reach))
    term = term_of(contract, blobs, **plain)
    assert expected > 1e-3
    assert float(term(step(*VECTORS, *LOGITS, progress=0.0))) == pytest.approx(expected, rel=1e-5)
    longer = ((10.0 * s).tolist(), (3.0 * t).tolist())
    assert float(term(step(longer[0], longer[1], *LOGITS, progress=1.0))) == pytest.approx(expected, rel=1e-4)
    assert expected != pytest.approx(2.0 * float(sinkhorn(u, v, 0.05)), rel=1e-3)


def test_the_margin_is_the_published_one_at_ten_classes(blobs, contract):
    assert term_of(contract, blobs).margin == 0.5
    assert term_of(contract, blobs, scaled=1).margin == pytest.approx(0.5 * math.log10(3))
    ten = InputContract(bands=contract.bands, classes=tuple("abcdefghij"), stretch=contract.stretch)
    assert term_of(ten, blobs, scaled=1).margin == pytest.approx(0.5)


def test_the_published_settings_are_those_of_the_paper():
    chosen = Recipe("uda", options={"settings": "published"}).resolved().options
    assert (chosen["entropy_weight"], chosen["margin"], chosen["temperature"]) == (0.05, 0.5, 0.05)
    assert (chosen["scaled"], chosen["warm_up"], chosen["align"], chosen["norm"]) == (0, 0.0, 0.0, "domain")
    assert METHODS["uda"].choices["serve"] == SERVED


# ---------------------------------------------------------------------- the memory bank


def test_the_bank_holds_the_newest_target_galaxies(blobs, contract):
    term = term_of(contract, blobs, bank=3)
    vectors, logits = torch.arange(8.0).reshape(4, 2), torch.eye(4)[:, :3]
    source = (torch.tensor(VECTORS[0]), torch.tensor(LOGITS[0]))

    def feed(rows):
        now = Step(source[0], source[1], torch.zeros(2).long(), 0.5, vectors[rows], logits[rows], torch.arange(2))
        return float(term(now))

    feed([0, 1])
    assert term.bank_latent.tolist() == [[0.0, 1.0], [2.0, 3.0], [0.0, 0.0]]
    assert term.bank_probabilities[2].tolist() == [0.0] * 3
    feed([2, 3])
    assert term.bank_latent.tolist() == [[4.0, 5.0], [6.0, 7.0], [0.0, 1.0]]
    assert torch.allclose(term.bank_probabilities, logits[[2, 3, 0]].softmax(dim=1))
    assert not term.bank_probabilities.requires_grad


def test_the_shares_on_which_the_losses_act_by_hand(blobs, contract):
    """Sure of other classes: no slope. A galaxy whose features nobody shares has nobody that it is alike to."""
    term = term_of(contract, blobs, latent=3, top=1, bank=0, margin=0.2)
    nothing = [0.0, 0.0, 0.0]
    # about their means, which are 0, the source is led by the features 0, 0, 1, 1 and the target by 1, 1, 2
    source = [[3.0, 0.0, 0.0], [-3.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, -3.0, 0.0]]
    target = [[0.0, 4.0, 1.0], [0.0, -4.0, 1.0], [0.0, 0.0, -2.0]]
    first, second = [60.0, 0.0, 0.0], [0.0, 60.0, 0.0]
    seen = step(source, target, [first, second, nothing, nothing], [first, nothing, nothing])
    term(seen)
    # of 4 x 3 pairs of the domains 2 x 2 are alike; of the target's own 6 the first with the second, both ways
    assert seen.notes["alike"] == pytest.approx(6 / 18)
    assert seen.notes["with_alike"] == pytest.approx(4 / 7)
    # the sure galaxy of the target with the two of the source: 1, and 0
    assert seen.notes["clustering_active"] == pytest.approx(16 / 18)
    assert seen.notes["entropy_active"] == 1.0
    assert seen.notes["entropy_unsure"] == pytest.approx(2 / 3)


def test_slots_that_are_not_filled_yet_do_not_count_and_filled_ones_do(blobs, contract):
    one, two = term_of(contract, blobs, top=1, bank=0), term_of(contract, blobs, top=1, bank=50)
    first = step(*VECTORS, *LOGITS)
    assert float(one(first)) == pytest.approx(float(two(first)))
    assert first.notes["alike"] == 1.0
    again = step(VECTORS[0], [[0.0, 7.0], [0.0, -7.0]], *LOGITS)
    by_hand = np.array([[*VECTORS[1]]])[0] - np.array([0.0, 0.0])  # the mean of this step's galaxies is (0, 0)
    assert [int(np.abs(v).argmax()) for v in by_hand] == [0, 1]
    p, q = (np.exp(v) / np.exp(v).sum(axis=1, keepdims=True) for v in map(np.array, LOGITS))
    rows = [(p[0], 0), (p[1], 0), (q[0], 1), (q[1], 1)]  # leading features: source 0, target 1
    columns = [(q[0], 1, 0), (q[1], 1, 1), (q[0], 0, -1), (q[1], 1, -1)]
    alike_ones, others = [], []
    for k, (a, lead) in enumerate(rows):
        for b, leads, own in columns:
            if k - 2 != own or own < 0:
                (alike_ones if lead == leads else others).append(a @ b)
    expected = (np.mean(-np.log(alike_ones)) + np.mean(-np.log1p(-np.array(others)))) / 2
    away = np.abs(scipy_entropy(q, axis=1) - math.log(3) / 2)
    expected -= 0.05 * np.where(away > 0.5, away, 0.0).mean()
    assert float(two(again)) == pytest.approx(expected, rel=1e-4)


class Stop(Exception):
    pass


@pytest.mark.parametrize("changes", [{"options": {"settings": "published"}}, {"average": 0.9}], ids=str)
def test_a_resumed_training_has_the_same_bank_and_weights(blobs, other, tmp_path, changes):
    def interrupt(epoch, epochs, numbers):
        if epoch == 2:
            raise Stop

    whole = train(recipe(**changes), blobs, other)
    with pytest.raises(Stop):
        train(recipe(**changes), blobs, other, checkpoint=tmp_path / "c", progress=interrupt)
    resumed = train(recipe(**changes), blobs, other, checkpoint=tmp_path / "c")
    assert same(state(whole), state(resumed))
    assert whole.record["history"] == resumed.record["history"]
    shares = {"alike", "with_alike", "clustering_active", "entropy_active", "entropy_unsure"}
    assert all(0.0 <= epoch[name] <= 1.0 for epoch in whole.record["history"] for name in shares)


# ---------------------------------------------------------------------- batch norm by domain


def maps(seed: int, mean: float, scale: float) -> torch.Tensor:
    return mean + scale * torch.randn(16, 3, 20, 20, generator=torch.Generator().manual_seed(seed))


def divided() -> tuple[nn.Sequential, nn.Sequential, nn.Sequential]:
    """A network with two batch norms after three steps of each domain, and two plain ones that saw one domain each."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.BatchNorm2d(3), nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3, momentum=0.3)))
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.uniform_(0.5, 1.5)
    network, source, target = (copy.deepcopy(plain).train() for _ in range(3))
    divide(network)
    for k in range(3):
        for domain, alone, x in (("source", source, maps(k, 1.0, 2.0)), ("target", target, maps(9 + k, -3.0, 0.5))):
            enter(network, domain)
            assert torch.allclose(network(x), alone(x), atol=1e-6)
    return network, source, target


def test_each_domain_has_the_statistics_of_a_batch_norm_of_its_own():
    network, source, target = divided()
    for serve, alone in (("source", source), ("target", target)):
        served = copy.deepcopy(network)
        unite(served, serve)
        found = served.state_dict()
        assert found.keys() == alone.state_dict().keys()
        for name, tensor in alone.state_dict().items():
            assert torch.allclose(found[name], tensor, atol=1e-6), (serve, name)
        assert torch.allclose(served.eval()(maps(5, 0.0, 1.0)), alone.eval()(maps(5, 0.0, 1.0)), atol=1e-6)


@pytest.mark.parametrize("entered", ["source", "target"])
def test_evaluated_it_is_the_sources_and_nothing_changes(entered):
    network, source, _ = divided()
    before = copy.deepcopy(network.state_dict())
    enter(network.eval(), entered)
    x = maps(5, 0.0, 1.0)
    assert torch.allclose(network(x), source.eval()(x), atol=1e-6)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_pooled_statistics_are_those_of_both_domains_together():
    a, b = maps(0, 1.0, 2.0), maps(1, -3.0, 0.5)
    network = nn.Sequential(nn.BatchNorm2d(3))
    divide(network)
    layer = network[0]
    assert isinstance(layer, DomainNorm)
    for x, mean, var in (
        (a, layer.norm.running_mean, layer.norm.running_var),
        (b, layer.target_mean, layer.target_var),
    ):
        assert mean is not None
        assert var is not None
        mean.copy_(x.mean(dim=(0, 2, 3)))
        var.copy_(x.var(dim=(0, 2, 3), unbiased=False))
    unite(network, "pooled")
    both, found = torch.cat([a, b]), network.state_dict()
    assert torch.allclose(found["0.running_mean"], both.mean(dim=(0, 2, 3)), atol=1e-5)
    assert torch.allclose(found["0.running_var"], both.var(dim=(0, 2, 3), unbiased=False), rtol=1e-5)


def test_layers_without_running_statistics_are_left_alone():
    network = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False))
    divide(network)
    assert type(network[0]) is nn.BatchNorm2d


@pytest.mark.parametrize("serve", SERVED)
def test_a_finished_network_is_a_plain_one_with_a_cosine_head(blobs, other, serve):
    trained = train(recipe(options={"norm": "domain", "serve": serve}), blobs, other)
    own = TinyNet(size=24)
    cosine_head(own, 0.05)
    assert {n: t.shape for n, t in state(trained).items()} == {n: t.shape for n, t in own.state_dict().items()}
    assert "fc.bias" not in state(trained)
    assert not any(isinstance(m, DomainNorm) for m in trained.network.modules())


def test_the_domain_that_is_served_is_all_that_tells_finished_networks_apart(blobs, other):
    source, target, pooled = (
        state(train(recipe(options={"norm": "domain", "serve": serve}), blobs, other)) for serve in SERVED
    )
    odd = {name for name in source if not torch.equal(source[name], target[name])}
    assert odd == {"bn1.running_mean", "bn1.running_var"}
    assert torch.allclose(pooled["bn1.running_mean"], (source["bn1.running_mean"] + target["bn1.running_mean"]) / 2)


# ---------------------------------------------------------------------- the cosine classifier


def test_cosine_logits_by_hand():
    layer = CosineLinear(2, 3, 0.5)
    layer.load_state_dict({"weight": torch.tensor([[3.0, 0.0], [0.0, 0.1], [-1.0, -1.0]])})
    z = torch.tensor([[2.0, 0.0], [3.0, 4.0]])
    root = math.sqrt(2)
    by_hand = [[2.0, 0.0, -root], [1.2, 1.6, -1.4 * root]]
    assert torch.allclose(layer(z), torch.tensor(by_hand))
    assert torch.allclose(layer(100.0 * z), layer(z))


def test_a_cosine_head_has_the_weights_of_the_head_before():
    network = TinyNet()
    weight = network.fc.weight.detach().clone()
    cosine_head(network, 0.05)
    assert type(network.fc) is CosineLinear
    assert torch.equal(network.fc.weight, weight)
    assert network.fc.bias is None
    cosine_head(network, 0.2)
    assert network.fc.temperature == 0.2
    assert torch.equal(network.fc.weight, weight)
    made = build("tiny", {"bands": 3, "classes": 3, "size": 24, "temperature": 0.1})
    assert isinstance(made.fc, CosineLinear)
    assert made.fc.temperature == 0.1


def test_a_bundle_gives_the_same_logits_and_a_record_the_boundaries_of_a_cosine_head(blobs, other, tmp_path):
    trained = train(recipe(options={"temperature": 0.1}), blobs, other)
    write_bundle(tmp_path / "m.pt", trained, blobs, other, "cpu")
    model = load_model(tmp_path / "m.pt")
    x = stretched(select(blobs, "test"), trained.contract)
    subject = Subject(model.network, model.contract)
    clean = subject.outputs(x)
    assert torch.equal(clean.logits, Subject(trained.network, trained.contract).outputs(x).logits)
    assert float(clean.logits.abs().max()) <= 10.0 + 1e-4
    test = select(blobs, "test")
    head = head_of(subject, model, test, clean)
    assert head.kind == "cosine"
    z, labels = clean.latent.double().numpy(), np.asarray(test.labels)
    found = boundary_distance(head, clean.latent.numpy(), labels)
    unit = trained.network.fc.weight.detach().double().numpy()  # type: ignore[union-attr]
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    for k in range(len(z)):
        y = labels[k]
        by_hand = min((unit[y] - unit[j]) @ z[k] / np.linalg.norm(unit[y] - unit[j]) for j in range(3) if j != y)
        assert found[k] == pytest.approx(by_hand, abs=1e-5)
    nearest = int(np.argmax(found))  # a step of that length along the normal reaches the boundary: two logits are equal
    y = labels[nearest]
    j = min((j for j in range(3) if j != y), key=lambda j: (unit[y] - unit[j]) @ z[nearest] / np.linalg.norm(
        unit[y] - unit[j]))  # fmt: skip
    there = z[nearest] - found[nearest] * (unit[y] - unit[j]) / np.linalg.norm(unit[y] - unit[j])
    with torch.no_grad():
        logits = trained.network.fc(torch.from_numpy(there[None]).float())[0]  # type: ignore[operator]
    assert float(logits[y]) == pytest.approx(float(logits[j]), abs=1e-3)


@pytest.fixture
def cosine_network(contract) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    network = ConvNet(size=24)
    cosine_head(network, 0.05)
    return network.eval(), torch.rand(2, 3, 24, 24)


def changed(x, which, positions, values):
    out = x[which].clone()
    for k, (row, column) in enumerate(positions[:, 0].tolist()):
        out[k, :, row, column] = values[k, 0]
    return out


def test_logits_of_changed_pixels_of_a_cosine_network_are_those_of_whole_images(cosine_network, contract):
    network, x = cosine_network
    generator = torch.Generator().manual_seed(1)
    which = torch.arange(40) // 20
    positions = torch.randint(24, (40, 1, 2), generator=generator)
    values = torch.rand(40, 1, 3, generator=generator)
    with torch.no_grad():
        dense = network(contract.to_network(changed(x, which, positions, values)))
        clean = network(contract.to_network(x))[which]
    sparse = PixelInference(Subject(network, contract).network, contract, torch.float32).bound(x)
    assert torch.allclose(sparse.logits_at(which, positions, values), dense, atol=1e-4)
    assert float((dense - clean).abs().max()) > 1e-2


def test_nothing_is_proved_of_a_cosine_network_that_is_not_so(cosine_network, contract):
    network, x = cosine_network
    subject = Subject(network, contract)
    grid = torch.cartesian_prod(torch.arange(24), torch.arange(24))
    which = torch.arange(2).repeat_interleave(len(grid))
    positions = grid.repeat(2, 1)
    proved = subject.victim(x).certify(which, positions, torch.zeros_like(x), torch.ones_like(x), 8)
    predicted = subject.outputs(x).logits.argmax(dim=1)[which]
    for value in (0.0, 0.5, 1.0):
        values = torch.full((len(which), 1, 3), value)
        after = subject.victim(x).logits_at(which, positions[:, None], values).argmax(dim=1)
        assert not bool((proved & (after != predicted)).any())
    assert (subject.bounds(x).refuses is None) or not bool(proved.any())


# ---------------------------------------------------------------------- what it does


@pytest.mark.parametrize("options", [{}, {"norm": "domain"}], ids=str)
def test_adaptation_closes_a_toy_shift_without_target_labels(lsst, options):
    """In the source colour and shape tell the class, in the target only the shape."""

    def toy(n, seed, factors):
        galaxies = make_blobs(n, lsst, seed, prefix=str(seed))
        images = np.array(galaxies.images)
        images[:, 2] *= np.asarray(factors)[galaxies.labels][:, None, None]
        return dataclasses.replace(galaxies, images=images)

    source, target, test = toy(400, 1, [0.4, 1.0, 2.5]), toy(400, 2, [1.0] * 3), toy(300, 3, [1.0] * 3)
    settings: dict[str, Any] = {"arch": "tiny", "epochs": 60, "batch": 32, "learning_rate": 0.01, "patience": 0}

    def accuracy(trained):
        logits = Subject(trained.network, trained.contract).outputs(stretched(test, trained.contract)).logits
        return float((logits.argmax(dim=1).numpy() == test.labels).mean())

    target = dataclasses.replace(target, labels=None)
    if not options:
        assert accuracy(train(Recipe("none", **settings), source)) < 0.75
    assert accuracy(train(Recipe("uda", options=options, **settings), source, target)) > 0.9


def test_the_published_settings_run(blobs, other):
    trained = train(recipe(options={"settings": "published"}), blobs, other)
    assert trained.record["method"] == "uda+published"
    assert all(math.isfinite(h["transfer_loss"]) for h in trained.record["history"])
    assert not same(state(trained), state(train(recipe(), blobs, other)))


def test_a_training_may_start_from_a_linear_head_and_a_cosine_one(blobs, other, tmp_path):
    first, second = str(tmp_path / "none.pt"), str(tmp_path / "uda.pt")
    write_bundle(first, train(recipe("none"), blobs), blobs, None, "cpu")
    still: dict[str, Any] = {"epochs": 1, "learning_rate": 1e-12, "weight_decay": 0.0}
    trained = train(recipe(init=first, **still), blobs, other)
    stored = load_model(first).network.state_dict()
    assert not trained.record["init"]["new_head"]
    assert torch.allclose(state(trained)["fc.weight"], stored["fc.weight"], atol=1e-6)
    assert torch.allclose(state(trained)["conv1.weight"], stored["conv1.weight"], atol=1e-6)
    write_bundle(second, trained, blobs, other, "cpu")
    for method in ("uda", "none"):  # a network is built with a linear head, which has a bias that this one lacks
        again = train(recipe(method, init=second, **still), blobs, other)
        assert again.record["init"]["new_head"]
        assert torch.allclose(state(again)["conv1.weight"], stored["conv1.weight"], atol=1e-6)
    frozen = train(recipe(init=first, freeze=("features",), options={"norm": "domain"}), blobs, other)
    kept = {name for name in stored if name in state(frozen) and torch.equal(state(frozen)[name], stored[name])}
    assert kept == {name for name in stored if not name.startswith("fc.")}


# ---------------------------------------------------------------------- sets with other classes


def without(galaxies, name: str):
    """The same without a class."""
    left = tuple(c for c in galaxies.classes if c != name)
    kept = galaxies.take(np.flatnonzero(galaxies.labels != galaxies.classes.index(name)))
    return kept.with_classes(left)


SETS = {
    "closed": ("", ""), "partial": ("", "small"), "open": ("small", ""), "open-partial": ("small", "round"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("method", ["uda", "mmd"])
def test_training_takes_every_kind_of_set(blobs, other, tmp_path, capsys, kind, method):
    source, target = (g if not name else without(g, name) for g, name in zip((blobs, other), SETS[kind], strict=True))
    write_hdf5(source, tmp_path / "source.h5")
    write_hdf5(target, tmp_path / "target.h5")
    with pytest.raises(SystemExit) as ended:
        main([
            "train", "--source", str(tmp_path / "source.h5"), "--target", str(tmp_path / "target.h5"),
            "--out", str(tmp_path / "m.pt"), "--arch", "tiny", "--epochs", "8", "--batch", "16", "--method", method,
            "--learning-rate", "0.01", "--json",
        ])  # fmt: skip
    assert ended.value.code in (0, 1)  # 1: too short a training may have collapsed
    result = json.loads(capsys.readouterr().out)
    model = load_model(tmp_path / "m.pt")
    assert model.contract.classes == source.classes
    assert "unknown" not in result["test"]["source"]

    test = select(target, "test")
    names = np.array(test.classes)[test.labels]
    logits = Subject(model.network, model.contract).outputs(stretched(test, model.contract)).logits.double()
    p, known = logits.softmax(dim=1).numpy(), np.isin(names, source.classes)
    right = np.array(source.classes)[p.argmax(axis=1)] == names
    found = result["test"]["target"]
    assert found["accuracy"]["n"] == known.sum()
    assert found["accuracy"]["value"] == pytest.approx(right[known].mean())
    text = commands.training_text(result)
    assert ("does not know" in text) == ("unknown" in found) == (kind in ("open", "open-partial"))
    if "unknown" not in found:
        return
    unknown, h = found["unknown"], scipy_entropy(p, axis=1)
    called = np.asarray(h > math.log(2) / 2)
    assert unknown["n"] == (~known).sum() == (names == "small").sum() > 5
    assert unknown["threshold"] == pytest.approx(math.log(2) / 2)
    assert unknown["auroc"]["value"] == pytest.approx(roc_auc_score(~known, h))
    ours, theirs = (right & ~called)[known].mean(), called[~known].mean()
    assert unknown["unknown_accuracy"]["value"] == pytest.approx(theirs)
    assert unknown["h_score"]["value"] == pytest.approx(2 * ours * theirs / (ours + theirs) if ours + theirs else 0.0)


def test_a_target_of_nothing_known_has_no_accuracy(blobs, other, tmp_path):
    strange = dataclasses.replace(other, classes=("a", "b", "c"))
    result = commands.fit(recipe("none"), blobs, strange, tmp_path / "m.pt", "cpu", Progress())
    found = result["test"]["target"]
    assert found["accuracy"]["n"] == 0
    assert found["accuracy"]["value"] is None
    assert (found["unknown"]["auroc"]["value"], found["unknown"]["h_score"]["value"]) == (None, None)
    assert "accuracy -%" in commands.training_text(result)


# ---------------------------------------------------------------------- a target that all gets one class


def test_a_model_that_fails_on_the_target_alone_is_remarked_upon_and_not_flagged(blobs, lsst, tmp_path):
    settings: dict[str, Any] = {**QUICK, "epochs": 20}
    bright = make_blobs(180, lsst, seed=4, prefix="bright")
    bright = dataclasses.replace(bright, labels=None, images=np.asarray(bright.images) * 0.0 + np.float32(1e6))
    result = commands.fit(Recipe(**settings), blobs, bright, tmp_path / "m.pt", "cpu", Progress())
    gap = result["domain_gap"]
    model = load_model(tmp_path / "m.pt")
    subject = Subject(model.network, model.contract)
    for side, galaxies in (("source", blobs), ("target", bright)):
        predicted = subject.outputs(stretched(select(galaxies, "valid"), model.contract)).logits.argmax(dim=1)
        counts = torch.bincount(predicted, minlength=3)
        assert gap[f"largest_class_on_{side}"] == pytest.approx(float(counts.max() / counts.sum()))
        if side == "target":
            assert gap["class_on_target"] == blobs.classes[int(counts.argmax())]
    assert gap["largest_class_on_target"] == 1.0
    assert gap["largest_class_on_source"] < 0.9
    text = commands.training_text(result)
    assert f"100% of the target's validation galaxies get the class {gap['class_on_target']}" in text
    assert "unless nearly all of them are of that class" in text
    assert result["flags"] == model.training["flags"] == []
    assert model.training["domain_gap"] == gap


@pytest.mark.parametrize(("here", "there", "said"), [(0.5, 0.96, True), (0.5, 0.95, False), (0.96, 1.0, False)])
def test_one_class_is_remarked_upon_above_a_share_where_the_source_has_more(blobs, other, tmp_path, here, there, said):
    result = commands.fit(recipe("none", epochs=1), blobs, other, tmp_path / "m.pt", "cpu", Progress())
    result["domain_gap"] |= {"largest_class_on_source": here, "largest_class_on_target": there}
    assert ("target's validation galaxies get" in commands.training_text(result)) == said
