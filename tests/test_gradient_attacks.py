"""FGSM and PGD: the closed form on a linear network, foolbox beside them, and a budget that holds to the last bit."""

import pytest
import scipy.optimize
import scipy.stats
import torch
from foolbox.attacks import L2PGD, LinfPGD
from foolbox.attacks.fast_gradient_method import LinfFastGradientAttack
from foolbox.criteria import TargetedMisclassification
from foolbox.models.pytorch import PyTorchModel

import perturbations
from perturbations import gradient
from perturbations.core import distance
from perturbations.draws import Draws
from perturbations.errors import InputError

SIZE, BANDS, CLASSES, N = 8, 2, 3, 24


class Counting:
    """A victim that counts its passes and meets every image alone, so that its numbers do not depend on the batch."""

    def __init__(self, net, box=(0.0, 1.0), classes=CLASSES):
        self.net, self.classes, self.passes, self.gradients_at = net, classes, 0, []
        low, high = (torch.as_tensor(edge, dtype=torch.float32) for edge in box)
        self.box = (low, high)

    def logits(self, x):
        self.passes += len(x)
        return torch.cat([self.net(image[None]) for image in x])

    def gradient(self, x, loss):
        self.gradients_at.append(x)
        free = x.clone().requires_grad_()
        return torch.autograd.grad(loss(self.logits(free)).sum(), free)[0]


def tiny_net():
    """A convolution and a linear layer with random weights, no class preferred on average."""
    generator = torch.Generator().manual_seed(0)
    convolution = 0.5 * torch.randn(6, BANDS, 3, 3, generator=generator)
    head = torch.randn(CLASSES, 6 * (SIZE // 2) ** 2, generator=generator)

    def logits(x):
        features = torch.nn.functional.max_pool2d(torch.conv2d(x - 0.5, convolution, padding=1).relu(), 2)
        return features.flatten(1) @ head.T

    usual = logits(images(200, seed=9)).mean(dim=0)
    return lambda x: logits(x) - usual


WEIGHT = torch.randn(CLASSES, BANDS, SIZE, SIZE, generator=torch.Generator().manual_seed(4))


def linear_net(bias=(0.0, 0.0, 0.0), classes=2):
    return lambda x: torch.einsum("nchw,kchw->nk", x, WEIGHT[:classes]) + torch.tensor(bias[:classes])


def images(n, seed=1):
    return torch.rand(n, BANDS, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def run(name, victim, x, labels, epsilon, names=None, **options):
    draws = Draws(names or [f"galaxy-{i}" for i in range(len(x))], 0, "attack")
    return perturbations.get(name).run_attack(x, labels, victim, epsilon, draws, **options)


def change_of(result, x):
    return result.images.double() - x.double()


def zeros(n):
    return torch.zeros(n, dtype=torch.int64)


@pytest.mark.parametrize(("name", "options"), [("fgsm", {}), ("pgd", {}), ("pgd", {"steps": 5, "random_start": False})])
@pytest.mark.parametrize("confidence", [5.0, 40.0])
def test_linf_optimum_of_a_linear_network(name, options, confidence):
    x = 0.3 + 0.4 * images(N)
    net = linear_net(bias=(confidence + 20, 0.0))  # sure to 40 nats, the cross-entropy of float32 has no gradient left
    result = run(name, Counting(net, classes=2), x, zeros(N), 0.05, **options)
    expected = 0.05 * (WEIGHT[1] - WEIGHT[0]).sign()
    assert torch.allclose(change_of(result, x), expected.double().expand_as(x), atol=1e-7)


def test_l2_optimum_of_a_linear_network():
    x, slope = 0.3 + 0.4 * images(N), (WEIGHT[1] - WEIGHT[0]).double()
    victim = Counting(linear_net(bias=(50.0, 0.0)), classes=2)
    direct = run("pgd_l2", victim, x, zeros(N), 0.5, random_start=False)
    assert torch.allclose(change_of(direct, x), (0.5 * slope / slope.norm()).expand_as(x), atol=1e-6)
    started = run("pgd_l2", victim, x, zeros(N), 0.5)
    # tan(angle / 2) to the slope starts near 1 and shrinks as exp(-2.5): the cosine ends near 0.987
    cosine = (change_of(started, x) * slope).sum(dim=(1, 2, 3)) / (0.5 * slope.norm())
    assert bool(((cosine > 0.97) & (cosine < 0.995)).all())


def test_l2_optimum_where_the_box_binds():
    x, slope = images(6), (WEIGHT[1] - WEIGHT[0]).double()
    victim = Counting(linear_net(bias=(90.0, 0.0)), classes=2)
    draws = Draws([str(i) for i in range(6)], 0, "attack")
    result = gradient.ascend(x, zeros(6), victim, 3.0, draws, "L2", steps=60, step_size=3.0)
    gained = (change_of(result, x) * slope).sum(dim=(1, 2, 3))
    for image in range(6):
        low, high = -x[image].double(), 1 - x[image].double()

        def best(scale, low=low, high=high):  # Karush-Kuhn-Tucker: the maximum is a clipped multiple of the slope
            return (scale * slope).clamp(low, high)

        scale = scipy.optimize.brentq(lambda s, best=best: float(best(s).norm()) - 3.0, 0.0, 10.0)
        assert bool(((best(scale) == low) | (best(scale) == high)).any())
        assert float(gained[image]) == pytest.approx(float((best(scale) * slope).sum()), rel=1e-3)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_projection_is_the_nearest_point_of_ball_and_box(norm):
    generator = torch.Generator().manual_seed(0)
    point = torch.randn(12, 1, 2, 3, generator=generator, dtype=torch.float64)
    point[0] *= 0.1  # inside already
    low, high = (-0.4 * torch.rand_like(point), 0.4 * torch.rand_like(point))
    ours = gradient.project(point, low, high, 0.5 if norm == "L2" else 0.2, norm)
    for i in range(12):
        flat = point[i].flatten().numpy()
        ball = [{"type": "ineq", "fun": lambda d: 0.25 - d @ d, "jac": lambda d: -2 * d}] if norm == "L2" else []
        edge = 0.2 if norm == "Linf" else 9.0
        bounds = torch.stack((low[i].clamp_min(-edge).flatten(), high[i].clamp_max(edge).flatten()), dim=1).tolist()
        oracle = scipy.optimize.minimize(
            lambda d, flat=flat: ((d - flat) ** 2).sum(), 0 * flat, jac=lambda d, flat=flat: 2 * (d - flat),
            bounds=bounds, constraints=ball, method="SLSQP", options={"ftol": 1e-14, "maxiter": 500},
        )  # fmt: skip
        assert torch.allclose(ours[i].flatten(), torch.as_tensor(oracle.x), atol=1e-5)


def test_fgsm_is_foolbox():
    net, x = tiny_net(), images(N)
    labels = net(x).argmax(dim=1)
    model = PyTorchModel(Module(net), bounds=(0, 1), device="cpu")
    for epsilon in perturbations.get("fgsm").ladder:
        ours = run("fgsm", Counting(net), x, labels, epsilon)
        _, theirs, flipped = LinfFastGradientAttack()(model, x, labels, epsilons=epsilon)
        assert torch.allclose(ours.images, theirs, atol=1e-6)
        assert torch.equal(ours.success, flipped)
        target = (labels + 1) % CLASSES
        one = target == 1
        ours = run("fgsm", Counting(net), x[one], labels[one], epsilon, target=1)
        wish = TargetedMisclassification(target[one])
        with pytest.raises(
            ValueError, match="unsupported criterion"
        ):  # foolbox has no targeted FGSM: step down its loss
            LinfFastGradientAttack()(model, x[one], wish, epsilons=epsilon)
        down = -torch.autograd.functional.jacobian(
            lambda z, t=target[one]: torch.nn.functional.cross_entropy(net(z), t), x[one]
        )
        assert torch.allclose(ours.images, (x[one] + epsilon * down.sign()).clamp(0, 1), atol=1e-6)


@pytest.mark.parametrize(("name", "epsilon"), [("pgd", 0.03), ("pgd_l2", 0.2)])
def test_pgd_flips_at_least_as_many_as_foolbox(name, epsilon):
    net, x = tiny_net(), images(60)
    labels = net(x).argmax(dim=1)
    rival = LinfPGD if name == "pgd" else L2PGD
    model = PyTorchModel(Module(net), bounds=(0, 1), device="cpu")
    _, images_theirs, theirs = rival(steps=20, rel_stepsize=2.5 / 20, random_start=False)(
        model, x, labels, epsilons=epsilon
    )
    ours = run(name, Counting(net), x, labels, epsilon, random_start=False)
    assert 5 < int(theirs.sum()) < 55
    assert int(ours.success.sum()) >= int(theirs.sum())

    def loss(z):
        return torch.nn.functional.cross_entropy(net(z), labels, reduction="none")

    assert float(loss(ours.images).mean()) >= 0.99 * float(loss(images_theirs).mean())
    started = run(name, Counting(net), x, labels, epsilon, restarts=3)
    assert int(started.success.sum()) >= int(theirs.sum()) - 1


class Module(torch.nn.Module):
    """foolbox takes modules in eval mode."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.eval()

    def forward(self, x):
        return self.net(x)


@pytest.mark.parametrize("name", ["fgsm", "pgd", "pgd_l2"])
@pytest.mark.parametrize("epsilon", [1e-7, 3e-6, 1 / 255, 0.1, 1.0])
def test_the_budget_and_the_box_of_each_image_hold_exactly(name, epsilon):
    x = images(8)
    low = torch.linspace(0, 0.4, 8).view(-1, 1, 1, 1) * torch.ones(1, BANDS, 1, 1)
    low, high = torch.minimum(low, x), torch.maximum(1 - low, x)
    net = tiny_net()
    labels = net(x).argmax(dim=1)
    labels[0] = (labels[0] + 1) % CLASSES  # left alone: the others must still meet their own boxes
    result = run(name, Counting(net, (low, high)), x, labels, epsilon)
    spent = distance(result.images, x, perturbations.get(name).norm)
    assert spent is not None
    assert bool((spent <= epsilon).all())  # to the bit, not to a tolerance
    if 1e-5 < epsilon < 0.3:
        assert bool((spent[1:] > 0.95 * epsilon).all())
    assert bool(((result.images >= low) & (result.images <= high)).all())


@pytest.mark.parametrize("name", ["pgd", "pgd_l2"])
def test_random_starts_fill_the_ball_evenly(name):
    x = torch.full((400, BANDS, 2, 2), 0.5)
    victim = Counting(lambda z: torch.stack((z.sum(dim=(1, 2, 3)) + 100, 0 * z.sum(dim=(1, 2, 3))), dim=1), classes=2)
    run(name, victim, x, zeros(400), 0.4, steps=1, restarts=2)
    first, second = ((at.double() - x.double()).flatten(1) for at in victim.gradients_at)
    assert not torch.equal(first, second)
    if name == "pgd":
        assert scipy.stats.kstest((first.flatten() / 0.8 + 0.5).numpy(), "uniform").pvalue > 1e-3
    else:
        assert scipy.stats.kstest(((first.norm(dim=1) / 0.4) ** 8).numpy(), "uniform").pvalue > 1e-3
        assert float(first.mean(dim=0).abs().max()) < 0.03
    assert abs(float(torch.corrcoef(torch.stack((first.flatten(), second.flatten())))[0, 1])) < 0.06


@pytest.mark.parametrize(("name", "epsilon"), [("fgsm", 0.03), ("pgd", 0.02), ("pgd_l2", 0.3)])
@pytest.mark.parametrize("target", [None, 1])
def test_an_attack_is_the_same_alone_shuffled_and_in_a_subset(name, epsilon, target):
    net, x = tiny_net(), images(N)
    labels = net(x).argmax(dim=1)
    labels[3] = (labels[3] + 1) % CLASSES
    options = {"target": target} | ({} if name == "fgsm" else {"steps": 5, "restarts": 2})
    whole = run(name, Counting(net), x, labels, epsilon, **options)
    assert 0 < int(whole.success.sum()) < N
    for which in (torch.randperm(N, generator=torch.Generator().manual_seed(3)), torch.tensor([5]), torch.arange(9)):
        names = [f"galaxy-{int(i)}" for i in which]
        part = run(name, Counting(net), x[which], labels[which], epsilon, names, **options)
        assert torch.equal(part.images, whole.images[which])
        assert torch.equal(part.success, whole.success[which])
        assert torch.equal(part.queries, whole.queries[which])


@pytest.mark.parametrize("target", [None, 1])
@pytest.mark.parametrize(("name", "epsilon"), [("fgsm", 0.03), ("pgd", 0.02), ("pgd_l2", 0.3)])
def test_queries_are_exact_and_the_verdict_is_the_argmax(name, epsilon, target):
    net, x = tiny_net(), images(N)
    predicted = net(x).argmax(dim=1)
    labels = predicted.clone()
    labels[:6] = (predicted[:6] + 1) % CLASSES
    victim = Counting(net)
    options = {} if name == "fgsm" else {"steps": 4, "restarts": 3}
    result = run(name, victim, x, labels, epsilon, target=target, **options)
    assert victim.passes == int(result.queries.sum())
    attacked = (predicted == labels) & (labels != (-1 if target is None else target))
    after = net(result.images).argmax(dim=1)
    assert torch.equal(result.success, attacked & ((after != labels) if target is None else (after == target)))
    assert torch.equal(result.images[~attacked], x[~attacked])
    assert bool((result.queries[~attacked] == 1).all())
    spent = result.queries[attacked]
    if name == "fgsm":
        assert bool((spent == 3).all())
    else:
        assert set(((spent - 1) % 5).tolist()) == {0}
        assert bool((result.queries[attacked & ~result.success] == 1 + 3 * 5).all())
        assert bool((result.queries[result.success] == 1 + 5).any())


def test_a_later_restart_never_undoes_an_earlier_one():
    net, x = tiny_net(), images(60)
    labels = net(x).argmax(dim=1)
    one, many = (run("pgd_l2", Counting(net), x, labels, 0.25, steps=3, restarts=r) for r in (1, 4))
    assert bool((many.success | ~one.success).all())

    def loss(z):
        return torch.nn.functional.cross_entropy(net(z), labels, reduction="none")

    failed = ~many.success
    assert bool((loss(many.images)[failed] >= loss(one.images)[failed] - 1e-6).all())
    assert bool((loss(many.images)[failed] > loss(one.images)[failed] + 1e-6).any())


@pytest.mark.parametrize("name", ["fgsm", "pgd", "pgd_l2"])
def test_zero_budget_costs_nothing(name):
    x, victim = images(4), Counting(tiny_net())
    result = run(name, victim, x, zeros(4), 0.0)
    assert torch.equal(result.images, x)
    assert victim.passes == int(result.queries.sum()) == int(result.success.sum()) == 0


@pytest.mark.parametrize(
    ("name", "epsilon", "options", "says"),
    [
        ("fgsm", -0.1, {}, "epsilon >= 0"),
        ("pgd", float("inf"), {}, "epsilon >= 0"),
        ("pgd", 0.1, {"steps": 0}, "at least 1"),
        ("pgd_l2", 0.1, {"restarts": 0}, "at least 1"),
        ("pgd_l2", 0.1, {"target": -1}, "0 to 2"),
        ("pgd", 0.1, {"norm": "L2"}, "unknown option of pgd"),
    ],
)
def test_refuses_what_it_cannot_do(name, epsilon, options, says):
    with pytest.raises(InputError, match=says):
        run(name, Counting(tiny_net()), images(2), zeros(2), epsilon, **options)
