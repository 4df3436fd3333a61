"""Losses of adaptation: each against an oracle or worked by hand, and each closes a toy shift without target labels."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from conftest import make_blobs
from scipy.special import softmax
from scipy.stats import entropy as scipy_entropy
from sklearn.metrics.pairwise import rbf_kernel
from torch import nn

from perturbations.errors import InputError
from robustastro.adapt.cdan import CDAN, certainty_weights, multilinear
from robustastro.adapt.coral import coral, covariance
from robustastro.adapt.dann import DANN, DomainClassifier, domain_loss
from robustastro.adapt.entropy import Entropy, mean_entropy
from robustastro.adapt.fisher import Fisher, scatters
from robustastro.adapt.mmd import MMD, PUBLISHED, WIDTHS, mmd, published_mmd
from robustastro.adapt.recipe import Recipe
from robustastro.adapt.sinkhorn import Sinkhorn, sinkhorn
from robustastro.adapt.training import stretched, train
from robustastro.adapt.transfer import Setting, Step
from robustastro.contract import InputContract, Stretch
from robustastro.models.subject import Outputs, Subject


def clouds(n=12, m=9, d=4, seed=0, shift=1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two clouds of vectors in double precision, far from the origin, with different covariances."""
    generator = torch.Generator().manual_seed(seed)
    s, t = (torch.randn(k, d, generator=generator, dtype=torch.float64) for k in (n, m))
    return s + 3.0, 1.5 * t + 3.0 + shift


@pytest.fixture
def setting(blobs, contract) -> Setting:
    return Setting(nn.Identity(), contract, 4, blobs, blobs, 0, 8, torch.ones(3))


def step(s, t, progress=0.5, seed=5) -> Step:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(s) + len(t), 3, generator=generator, dtype=s.dtype)
    return Step(
        source=s, source_logits=logits[: len(s)], labels=torch.arange(len(s)) % 3, progress=progress, target=t,
        target_logits=logits[len(s) :], target_rows=torch.arange(len(t)),
    )  # fmt: skip


def discrepancy(s, t, gammas, reduce) -> float:
    def k(a, b):
        return reduce([rbf_kernel(a, b, gamma=g) for g in gammas], axis=0).mean()

    return float(k(s, s) + k(t, t) - 2 * k(s, t))


# ---------------------------------------------------------------------- MMD


def test_mmd_is_that_of_scikit_learns_kernels():
    s, t = clouds()
    both = torch.cat([s, t])
    squares = sorted(float((a - b) @ (a - b)) for i, a in enumerate(both) for j, b in enumerate(both) if i != j)
    median = squares[(len(squares) - 1) // 2]
    assert WIDTHS == (0.25, 0.5, 1.0, 2.0, 4.0)
    expected = discrepancy(s, t, [1 / (w * median) for w in WIDTHS], np.mean)
    assert float(mmd(s, t)) == pytest.approx(expected, rel=1e-9)


def test_published_mmd_is_the_sum_of_nineteen_kernels_of_fixed_width():
    s, t = clouds()
    expected = discrepancy(s, t, [1 / (2 * w) for w in PUBLISHED], np.sum)
    assert len(PUBLISHED) == 19
    assert (PUBLISHED[0], PUBLISHED[6], PUBLISHED[13], PUBLISHED[18]) == (1e-6, 1.0, 35.0, 1e6)
    assert list(PUBLISHED) == sorted(PUBLISHED)
    assert float(published_mmd(s, t)) == pytest.approx(expected, rel=1e-9)
    assert float(published_mmd(s, s)) == 1e-4
    assert float(published_mmd(0.1 * s, 0.1 * t)) != pytest.approx(expected, rel=0.1)  # its scale is part of it


def test_published_mmd_keeps_its_narrow_kernels_in_single_precision():
    """A matrix product would put twins 1e-3 apart, a thousand times the narrowest kernel."""
    s = 30.0 * clouds(n=40, d=64)[0].float()
    assert float(published_mmd(s, s + 40.0)) == pytest.approx(float(published_mmd(s.double(), s.double() + 40.0)), 1e-4)


def test_published_settings_are_those_of_the_papers(setting):
    assert Recipe("mmd", options={"settings": "published"}).resolved().options["weight"] == 0.01
    assert Recipe("mmd", options={"settings": "published", "weight": 0.5}).resolved().options["weight"] == 0.5
    s, t = clouds()
    assert torch.equal(MMD(setting, 0.01, "published")(step(s, t)), 0.01 * published_mmd(s, t))
    assert torch.equal(MMD(setting, 2.0, "median")(step(s, t)), 2.0 * mmd(s, t))
    options = dict(Recipe("dann", options={"settings": "published"}).resolved().options)
    assert options.pop("settings") == "published"
    layers = list(DANN(setting, **options).domain.classifier)  # type: ignore[arg-type]
    widths = [(layer.in_features, layer.out_features) for layer in layers if isinstance(layer, nn.Linear)]
    assert widths == [(4, 1024), (1024, 1024), (1024, 1)]
    assert [type(layer).__name__ for layer in layers] == [
        "Linear",
        "ReLU",
        "Dropout",
        "Linear",
        "ReLU",
        "Dropout",
        "Linear",
    ]
    assert {layer.p for layer in layers if isinstance(layer, nn.Dropout)} == {0.5}


# ---------------------------------------------------------------------- CORAL


def test_coral_compares_numpys_covariances():
    s, t = clouds()
    a, b = np.cov(s.T), np.cov(t.T)
    assert np.allclose(covariance(s), a)
    assert float(coral(s, t)) == pytest.approx(((a - b) ** 2).sum() / ((a**2).sum() + (b**2).sum()), rel=1e-12)
    assert float(coral(s, s + 5.0)) == pytest.approx(0.0, abs=1e-20)
    first, second = s * torch.tensor([1.0, 0, 0, 0]), t * torch.tensor([0, 1.0, 0, 0])
    assert float(coral(first, second)) == pytest.approx(1.0)


def test_the_gradient_of_coral_does_not_shrink_the_latent_space():
    both = torch.cat(clouds()).requires_grad_(True)
    coral(both[:12], both[12:]).backward()
    assert both.grad is not None
    assert float(both.grad.norm()) > 1e-3
    assert float((both.grad * both.detach()).sum()) == pytest.approx(0.0, abs=1e-12)


# ---------------------------------------------------------------------- Sinkhorn


def test_sinkhorn_without_blur_is_half_the_squared_earth_movers_distance():
    import ot

    s, t = clouds(n=30, m=20)
    unit = float(torch.cdist(s, t).mean())
    a, b = np.full(30, 1 / 30), np.full(20, 1 / 20)
    exact = float(ot.emd2(a, b, ot.dist(s.numpy(), t.numpy()) / 2)) / unit**2  # pyright: ignore[reportArgumentType]
    assert float(sinkhorn(s, t, blur=0.01)) == pytest.approx(exact, rel=0.05)  # the annealing is fast


@pytest.mark.parametrize("blur", [0.3, 1.0])
def test_sinkhorn_with_blur_is_the_debiased_entropic_cost(blur):
    """OT = <P, C> + blur^2 KL(P | a x b) with POT's plan P."""
    import ot

    s, t = clouds(n=30, m=20)
    unit = float(torch.cdist(s, t).mean())

    def cost(x, y):
        a, b = np.full(len(x), 1 / len(x)), np.full(len(y), 1 / len(y))
        c = ot.dist((x / unit).numpy(), (y / unit).numpy()) / 2
        plan = np.asarray(ot.sinkhorn(a, b, c, reg=blur**2, stopThr=1e-12, numItermax=10_000))
        return (plan * c).sum() + blur**2 * (plan * np.log(plan / np.outer(a, b))).sum()

    expected = cost(s, t) - (cost(s, s) + cost(t, t)) / 2
    assert float(sinkhorn(s, t, blur)) == pytest.approx(expected, rel=0.02)
    assert float(sinkhorn(s, s, blur)) == pytest.approx(0.0, abs=1e-9)


def test_siddas_weights_are_least_where_eta_squared_is_the_loss(setting):
    term = Sinkhorn(setting, 3.0, 0.05, 1.0)
    assert term.eta is not None
    s, t = clouds()
    assert float(term(step(s, t)).detach()) == pytest.approx(3.0 * float(sinkhorn(s, t, 0.05)))
    task, transfer = torch.tensor(0.5), torch.tensor(0.2)
    assert term.total(task, transfer).item() == pytest.approx(0.25 + 0.1)  # both start at 1
    with torch.no_grad():
        term.eta.copy_(torch.tensor([0.5, 2.0]))
    expected = 0.5 / (2 * 0.25) + 0.2 / (2 * 4.0) + math.log(0.5 * 2.0)
    assert term.total(task, transfer).item() == pytest.approx(expected)
    with torch.no_grad():
        term.eta.copy_(torch.stack([task, transfer]).sqrt())
    term.total(task, transfer).backward()
    assert term.eta.grad is not None
    assert term.eta.grad.abs().max() < 1e-6
    plain = Sinkhorn(setting, 1.0, 0.05, 0.0)
    assert float(plain.total(task, transfer)) == pytest.approx(0.7)
    assert not list(plain.parameters())


def test_siddas_weights_stay_away_from_zero(setting):
    term = Sinkhorn(setting, 1.0, 0.05, 1.0)
    assert term.eta is not None
    for given, kept in (((-0.3, 0.2), (1e-3, 0.2)), ((2.0, 0.1), (2.0, 0.5))):
        with torch.no_grad():
            term.eta.copy_(torch.tensor(given))
        seen = step(*clouds())
        assert math.isfinite(term.total(torch.tensor(0.5), term(seen)).item())
        assert (seen.notes["eta1"], seen.notes["eta2"]) == pytest.approx(kept)


# ---------------------------------------------------------------------- adversaries


def test_the_domain_loss_is_a_balanced_cross_entropy():
    s, t = (x[:, 0] for x in clouds(n=8, m=8))
    y = torch.cat([torch.zeros(8), torch.ones(8)]).double()
    expected = nn.functional.binary_cross_entropy_with_logits(torch.cat([s, t]), y)
    assert float(domain_loss(s, t)) == pytest.approx(float(expected))
    assert float(domain_loss(0 * s, 0 * t)) == pytest.approx(math.log(2))
    first = torch.tensor([1.0] + [0.0] * 7).double()
    by_hand = (math.log1p(math.exp(float(s[0]))) + math.log1p(math.exp(-float(t[0])))) / 2
    assert float(domain_loss(s, t, 5.0 * first, 0.1 * first)) == pytest.approx(by_hand)


@pytest.mark.parametrize("progress", [0.0, 0.02, 0.3, 1.0])
def test_the_adversary_learns_and_the_latent_vectors_unlearn(setting, progress):
    """The same classifier by hand: its own gradient as it is, theirs turned round and scaled by the schedule.

    2 / (1 + exp(-10 p)) - 1 is tanh(5 p): nothing at the start.
    """
    s, t = (x.float() for x in clouds())
    term = DANN(setting, 2.0, 0.7, 16, 0.0, 0.0, 0.0)
    both = torch.cat([s, t]).requires_grad_(True)
    loss = term(step(both[:12], both[12:], progress=progress))
    ours = torch.autograd.grad(loss, [both, *term.parameters()])
    plain = both.detach().clone().requires_grad_(True)
    logits = term.domain.classifier(plain).squeeze(1)
    by_hand = 2.0 * domain_loss(logits[:12], logits[12:])
    theirs = torch.autograd.grad(by_hand, [plain, *term.parameters()])
    assert loss.item() == pytest.approx(by_hand.item())
    assert theirs[0].abs().max() > 1e-3
    assert torch.allclose(ours[0], -0.7 * math.tanh(5 * progress) * theirs[0], rtol=1e-5, atol=1e-9)
    assert all(torch.allclose(a, b, rtol=1e-5) for a, b in zip(ours[1:], theirs[1:], strict=True))


def test_the_adversary_holds_the_length_of_the_latent_vectors_constant():
    """The gradient is that of vectors divided by a number: their mean length takes no part in it."""
    s, t = (x.float() for x in clouds())
    domain = DomainClassifier(4, 0.7, 16, 4.0, 0.0, 0.0)
    both = torch.cat([s, t]).requires_grad_(True)
    logits = domain(both, 0.3)
    (ours,) = torch.autograd.grad(domain_loss(logits[:12], logits[12:]), both)
    factor = 4.0 / float(np.linalg.norm(both.detach().numpy(), axis=1).mean())
    scaled = (factor * both.detach()).requires_grad_(True)
    logits = domain.classifier(scaled).squeeze(1)
    (theirs,) = torch.autograd.grad(domain_loss(logits[:12], logits[12:]), scaled)
    along = float((ours * both.detach()).sum())
    assert abs(along) > 1e-3 * float(ours.norm() * both.detach().norm())  # with the length it would be zero
    assert torch.allclose(ours, -0.7 * math.tanh(1.5) * factor * theirs, rtol=1e-4, atol=1e-8)


def test_the_tuned_adversary_sees_vectors_of_length_scale_through_layers_of_gain_one(setting):
    s, t = (x.float() for x in clouds())
    term = DANN(setting, 1.0, 1.0, 16, 4.0)
    seen = []
    term.domain.classifier.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    for _ in range(50):  # spectral norm by power iteration
        term(step(s, t))
    assert float(seen[0].norm(dim=1).mean()) == pytest.approx(4.0, rel=1e-5)
    layers = [layer for layer in term.domain.classifier if isinstance(layer, nn.Linear)]
    assert [float(torch.linalg.matrix_norm(layer.weight, 2)) for layer in layers] == pytest.approx([1.0] * 3, abs=0.02)


def test_the_conditional_adversary_sees_the_outer_product():
    z, p = torch.randn(5, 4, dtype=torch.float64), torch.rand(5, 3, dtype=torch.float64)
    assert np.allclose(multilinear(z, p), np.einsum("nd,nk->ndk", z, p).reshape(5, 12))
    p = p / p.sum(dim=1, keepdim=True)
    assert np.allclose(certainty_weights(p), 1 + np.exp(-scipy_entropy(p.numpy(), axis=1)))
    extremes = certainty_weights(torch.tensor([[1.0, 0.0, 0.0], [1 / 3] * 3]))
    assert extremes.tolist() == pytest.approx([2.0, 1 + 1 / 3])


@pytest.mark.parametrize("weighted", [0.0, 1.0])
def test_cdan_by_hand(setting, weighted):
    s, t = (x.float() for x in clouds())
    term = CDAN(setting, 2.0, 1.0, 16, 4.0, weighted).eval()  # eval: no step of the power iteration in between
    seen = step(s, t)
    assert seen.target_logits is not None
    seen.source_logits.requires_grad_(True)
    seen.target_logits.requires_grad_(True)
    both = torch.cat([s, t])
    p = softmax(torch.cat([seen.source_logits, seen.target_logits]).detach().numpy(), axis=1)
    product = np.einsum("nd,nk->ndk", both, p).reshape(21, 12)
    product = torch.from_numpy(4.0 * product / np.linalg.norm(product, axis=1).mean()).float()
    with torch.no_grad():
        logits = term.domain.classifier(product)[:, 0].double().numpy()
    right = np.r_[np.log1p(np.exp(logits[:12])), np.log1p(np.exp(-logits[12:]))]
    w = 1 + np.exp(-scipy_entropy(p, axis=1)) if weighted else np.ones(21)
    expected = np.average(right[:12], weights=w[:12]) + np.average(right[12:], weights=w[12:])
    loss = term(seen)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert seen.source_logits.grad is None  # predictions are a condition
    assert seen.target_logits.grad is None


@pytest.mark.parametrize("method", ["mmd", "coral", "sinkhorn", "dann", "cdan"])
def test_the_size_of_the_latent_space_changes_no_loss(setting, method):
    s, t = (x.float() for x in clouds(n=40, m=40))
    term = {
        "mmd": lambda a: mmd(a.source, a.target),
        "coral": lambda a: coral(a.source, a.target),
        "sinkhorn": lambda a: sinkhorn(a.source, a.target, 0.05),
        "dann": DANN(setting, 1.0, 1.0, 16, 4.0).eval(),
        "cdan": CDAN(setting, 1.0, 1.0, 16, 4.0, 1.0).eval(),
    }[method]
    plain = float(term(step(s, t)))
    assert plain > 1e-3
    assert float(term(step(0.01 * s, 0.01 * t))) == pytest.approx(plain, rel=1e-3)
    assert float(term(step(10.0 * s, 10.0 * t))) == pytest.approx(plain, rel=1e-3)


# ---------------------------------------------------------------------- Fisher and entropy


def test_fisher_by_hand(setting):
    z = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    centres = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    within, between = scatters(z, torch.tensor([0, 0, 1]), centres)
    assert (float(within), float(between)) == pytest.approx(((1 + 1 + 4) / 3, 2.0))  # mean centre (1, 1)
    contract = InputContract(bands=("g",), classes=("a", "b"), stretch=Stretch(kind="linear", low=(0.0,), high=(1.0,)))
    two = dataclasses.replace(setting, latent=2, contract=contract)
    for form, expected in (
        ("ratio", 0.1 * 2.0 / 2.0),
        ("difference", 0.1 * (0.0 - 0.5)),  # on the circle the vectors are their centres, whose mean is (1/2, 1/2)
    ):
        term = Fisher(two, form)
        with torch.no_grad():
            term.centres.copy_(centres)
        seen = dataclasses.replace(step(z, z), labels=torch.tensor([0, 0, 1]))
        assert float(term(seen).detach()) == pytest.approx(expected, abs=1e-7)
        assert float(term(dataclasses.replace(seen, target=None)).detach()) == pytest.approx(expected, abs=1e-7)
        assert [name for name, p in term.named_parameters() if p.requires_grad] == ["centres"]
    with pytest.raises(InputError, match="difference"):
        Fisher(two, "diference")


def test_no_size_of_the_latent_space_makes_fisher_smaller(setting):
    z = torch.randn(30, 4)
    for form in ("ratio", "difference"):
        term = Fisher(setting, form)
        before = float(term(step(z, z)).detach())
        with torch.no_grad():
            term.centres.mul_(1e3)
        assert float(term(step(1e3 * z, z)).detach()) == pytest.approx(before, rel=1e-4)
        assert before > -0.1


def test_entropy_is_scipys(setting):
    logits = torch.randn(7, 3, dtype=torch.float64)
    expected = scipy_entropy(softmax(logits.numpy(), axis=1), axis=1).mean()
    assert float(mean_entropy(logits)) == pytest.approx(expected)
    assert float(mean_entropy(torch.tensor([[500.0, 0.0], [0.0, 0.0]]))) == pytest.approx(math.log(2) / 2)
    seen = dataclasses.replace(step(*clouds()), target_logits=logits)
    assert float(Entropy(setting, 0.05)(seen)) == pytest.approx(0.05 * expected)


# ---------------------------------------------------------------------- what they do to a network

TOY = {"arch": "tiny", "epochs": 60, "batch": 32, "learning_rate": 0.01, "patience": 0}


def redder(galaxies, factors):
    images = np.array(galaxies.images)
    images[:, 2] *= np.asarray(factors)[:, None, None]
    return dataclasses.replace(galaxies, images=images)


@pytest.fixture(scope="module")
def shifted():
    """Source, target and test galaxies. In the source colour and shape tell the class, in the others only the shape."""
    from perturbations.exposure import Exposure

    exposure = Exposure.from_survey("LSST", bands="gri")
    source, target, test = (
        make_blobs(n, exposure, seed, prefix=str(seed)) for n, seed in ((400, 1), (400, 2), (300, 3))
    )
    assert source.labels is not None
    source = redder(source, np.array([0.4, 1.0, 2.5])[source.labels])
    return dataclasses.replace(source, domain="source"), dataclasses.replace(target, labels=None, domain="target"), test


def outputs(trained, galaxies) -> Outputs:
    return Subject(trained.network, trained.contract).outputs(stretched(galaxies, trained.contract))


def accuracy(trained, galaxies) -> float:
    return float((outputs(trained, galaxies).logits.argmax(dim=1).numpy() == galaxies.labels).mean())


@pytest.fixture(scope="module")
def unadapted(shifted):
    return train(Recipe("none", **TOY), *shifted[:2])


def test_without_adaptation_the_toy_shift_is_open(shifted, unadapted):
    source, _, test = shifted
    assert accuracy(unadapted, source) > 0.95
    assert accuracy(unadapted, test) < 0.75


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("mmd", {}),
        ("mmd", {"settings": "published", "weight": 1.0}),  # 0.01 is too little for latent vectors of this size
        ("coral", {}),
        ("dann", {}),
        ("cdan", {"reversal": 3.0}),  # 1 is too little for so short a training
        ("cdan", {"reversal": 3.0, "entropy_weighted": 0}),
        ("sinkhorn", {}),
        ("sinkhorn", {"dynamic": 0}),
    ],
)
def test_adaptation_closes_a_toy_shift_without_target_labels(shifted, method, options):
    source, target, test = shifted
    trained = train(Recipe(method, options=options, **TOY), source, target)
    assert accuracy(trained, source) > 0.9
    assert accuracy(trained, test) > 0.9


@pytest.mark.parametrize("method", ["coral", "cdan", "sinkhorn"])
def test_target_labels_change_nothing(blobs, method):
    recipe = Recipe(method, entropy=0.05, fisher="ratio", arch="tiny", epochs=2, batch=16)
    states = [
        train(recipe, blobs, dataclasses.replace(blobs, labels=labels)).network.state_dict()
        for labels in (blobs.labels, np.random.default_rng(0).permutation(blobs.labels))
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("form", ["ratio", "difference"])
def test_fisher_draws_the_classes_together(setting, form):
    """A linear encoder learns to drop four dimensions of noise beside the two that tell the classes apart."""
    torch.manual_seed(0)
    labels = torch.arange(300) % 3
    middle = torch.tensor([[2.0, 0.0], [-1.0, 2.0], [-1.0, -2.0]])[labels]
    x = torch.cat([middle + 0.5 * torch.randn(300, 2), 2.0 * torch.randn(300, 4)], dim=1)
    encoder, term = nn.Linear(6, 4), Fisher(setting, form)
    optimiser = torch.optim.Adam([*encoder.parameters(), *term.parameters()], lr=0.02)

    def spread() -> float:
        z = encoder(x).detach()
        within, between = scatters(z, labels, torch.stack([z[labels == k].mean(dim=0) for k in range(3)]))
        return float(within / between)

    before = spread()
    for _ in range(300):
        z = encoder(x)
        optimiser.zero_grad()
        term(dataclasses.replace(step(z, z), labels=labels)).backward()
        optimiser.step()
    assert spread() < 0.3 * before
    assert spread() < 0.3


def test_entropy_makes_the_target_certain(shifted, unadapted):
    source, target, _ = shifted
    trained = train(Recipe("none", entropy=0.5, **TOY), source, target)
    before, after = (float(mean_entropy(outputs(x, target).logits)) for x in (unadapted, trained))
    assert after < 0.5 * before
