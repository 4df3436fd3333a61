"""Every pixel and every value of a grid: is the answer complete, and is it exactly what was asked?"""

import itertools
import math

import numpy as np
import pytest
import scipy.signal
import torch
from test_onepixel import BANDS, CLASSES, HEIGHT, WIDTH, Counting, Sparse, ids, images, tiny_net

import perturbations
from perturbations import goal
from perturbations.attacks import onepixel_exhaustive as module
from perturbations.draws import Draws
from perturbations.errors import InputError


class Linear(Counting):
    """Logits bias + weight . x, with its gradient and, as it is linear, an exact certificate."""

    def __init__(self, seed=0, box=(0.0, 1.0), bias=(0.0, 0.0, 0.0)):
        generator = torch.Generator().manual_seed(seed)
        self.weight = 0.3 * torch.randn(len(bias), BANDS, HEIGHT, WIDTH, generator=generator)
        self.bias = torch.tensor(bias) - 0.5 * self.weight.sum(dim=(1, 2, 3))
        super().__init__(lambda x: torch.einsum("nchw,kchw->nk", x, self.weight) + self.bias, box, len(bias))
        self.gradients = 0

    def gradient(self, x, loss):
        self.gradients += len(x)
        leaf = x.clone().requires_grad_(True)
        return torch.autograd.grad(loss(self.net(leaf)).sum(), leaf)[0]

    def worst(self, x, labels, low, high):
        """Smallest margin to any other class at each pixel (N, H, W), over all values in the box, in closed form."""
        logits = self.net(x)
        margins = []
        for other in range(self.classes):
            lead = logits.gather(1, labels[:, None])[:, 0] - logits[:, other]
            slope = self.weight[labels] - self.weight[other]
            change = torch.minimum(slope * (low - x), slope * (high - x)).sum(dim=1)
            margins.append((lead[:, None, None] + change).where(labels[:, None, None] != other, math.inf))
        return torch.stack(margins).amin(dim=0)


def run(victim, x, labels, names=None, strength=1, **options):
    draws = Draws(names or ids(len(x)), 0, "attack")
    return perturbations.get("onepixel_exhaustive").run_attack(x, labels, victim, strength, draws, **options)


def same(part, whole, which=slice(None)):
    assert torch.equal(part.images, whole.images[which])
    assert torch.equal(part.queries, whole.queries[which])
    assert torch.equal(part.success, whole.success[which])
    for name, value in part.details.items():
        assert torch.equal(value.nan_to_num(-9), whole.details[name][which].nan_to_num(-9)), name


@pytest.mark.parametrize(("grid", "target"), [("corners", None), (3, None), (3, 1)])
def test_is_brute_force_over_all_pixels_and_values(grid, target):
    generator = np.random.default_rng(4)
    kernel, head = 0.6 * generator.standard_normal((4, 2, 3, 3)), generator.standard_normal((CLASSES, 4 * 36))

    def logits_of(image):  # SciPy and NumPy, double precision
        features = [
            sum(scipy.signal.correlate2d(image[c] - 0.5, k[c], mode="same") for c in range(2)).clip(min=0)
            for k in kernel
        ]
        return head @ np.concatenate([f.ravel() for f in features])

    def net(x):
        features = torch.conv2d(x - 0.5, torch.from_numpy(kernel).float(), padding=1).relu()
        return features.flatten(1) @ torch.from_numpy(head).float().T

    x = torch.rand(5, 2, 6, 6, generator=torch.Generator().manual_seed(8))
    labels = net(x).argmax(dim=1)
    victim = Counting(net)
    result = run(victim, x, labels, grid=grid, target=target)
    values = list(itertools.product(np.linspace(0, 1, 2 if grid == "corners" else grid), repeat=2))
    attacked = [i for i in range(5) if labels[i] != target]
    assert len(attacked) >= 2
    for i in attacked:
        expected, best = np.full((6, 6), np.inf), (np.inf, None)
        for row, column, value in itertools.product(range(6), range(6), values):
            image = x[i].double().numpy().copy()
            image[:, row, column] = value
            z, y = logits_of(image), int(labels[i])
            margin = z[y] - np.delete(z, y).max() if target is None else np.delete(z, target).max() - z[target]
            expected[row, column] = min(expected[row, column], margin)
            if margin < best[0]:
                best = (margin, image)
        assert np.abs(result.details["map"][i].numpy() - expected).max() < 1e-4
        assert abs(expected).min() > 1e-4  # so that the counts cannot depend on rounding
        assert int(result.details["fatal_pixels"][i]) == (expected <= 0).sum()
        assert float(result.details["smallest_margin"][i]) == pytest.approx(expected.min(), abs=1e-4)
        assert np.abs(result.images[i].numpy() - best[1]).max() < 1e-6
        assert bool(result.success[i]) == (expected.min() <= 0)
        assert int(result.queries[i]) == 1 + 36 * len(values)
    assert victim.passes == int(result.queries.sum())


def test_corners_hold_the_worst_value_of_a_linear_network():
    x = images(6)
    low, high = 0.7 * x, x + 0.6 * (1 - x)  # a box of its own for each image, band and pixel
    victim = Linear(box=(low, high))
    labels = victim.net(x).argmax(dim=1)
    result = run(victim, x, labels)
    expected = victim.worst(x, labels, low, high)
    assert torch.allclose(result.details["map"], expected, atol=1e-4)
    assert torch.equal(result.details["fatal_pixels"], (expected <= 0).sum(dim=(1, 2)))
    assert torch.equal(result.success, (expected <= 0).any(dim=2).any(dim=1))
    assert 0 < int(result.success.sum()) < 6
    for grid in (3, 4):
        finer = run(victim, x, labels, grid=grid)
        assert torch.allclose(finer.details["map"], expected, atol=1e-4)
    same(run(victim, x, labels, grid="2"), result)


@pytest.mark.parametrize("first", [True, False])
def test_fatal_pixels_of_a_weighted_sum_by_hand(first):
    """The other class wins above 5.5; the sum is 3.5, and a pixel at one adds 0.5, 1, 2 (a tie) or 8."""
    weight = torch.tensor([[1.0, 2.0], [4.0, 8.0]])

    def net(x):
        other, true = (x[:, 0] * weight).sum(dim=(1, 2)), torch.full((len(x),), 5.5)
        return torch.stack((true, other) if first else (other, true), dim=1)

    x = torch.tensor([[0.5, 0.5], [0.5, 0.0]])[None, None]
    result = run(Counting(net, classes=2), x, torch.tensor([0 if first else 1]))
    tie = torch.finfo(torch.float32).tiny if first else 0.0  # of equal logits the first class is predicted
    assert result.details["map"][0].tolist() == [[1.5, 1.0], [tie, -6.0]]
    assert int(result.details["fatal_pixels"]) == (1 if first else 2)
    assert (int(result.details["rows"]), int(result.details["columns"])) == (1, 1)


def test_a_margin_is_zero_or_less_exactly_where_the_class_is_another():
    logits = torch.randint(0, 3, (4000, CLASSES), generator=torch.Generator().manual_seed(0)).float()
    labels = torch.arange(4000) % CLASSES
    for target in (None, 0, 1, 2):
        margin, flipped = goal.margin(logits, labels, target), goal.flipped(logits, labels, target)
        assert torch.equal(margin <= 0, flipped)
        clear = margin.abs() >= 1
        own = labels if target is None else torch.full_like(labels, target)
        lead = [float(z[k] - z[[j for j in range(CLASSES) if j != k]].max()) for z, k in zip(logits, own, strict=True)]
        lead = torch.tensor(lead) * (1 if target is None else -1)
        assert torch.equal(margin[clear], lead[clear])
        assert bool((lead[~clear] == 0).all())
        assert {bool(f) for f in flipped[~clear]} == ({True, False} if target in (None, 1) else {target == 0})


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_of_no_class(broken):
    logits, labels = torch.zeros(CLASSES, CLASSES).fill_diagonal_(broken), torch.zeros(CLASSES, dtype=torch.int64)
    for target in (None, 0, 1, 2):
        flipped = goal.flipped(logits, labels, target)
        assert flipped.tolist() == [target is None] * CLASSES
        assert torch.equal(goal.margin(logits, labels, target) <= 0, flipped)


def test_a_pixel_is_not_fatal_as_long_as_the_true_class_is_predicted():
    """Classes at 0.4, 0.35 and 0.25: the log-odds of the first are below zero, and it is predicted all the same."""
    victim = Counting(lambda x: torch.tensor([0.40, 0.35, 0.25]).log().expand(len(x), 3))
    result = run(victim, images(1), torch.tensor([0]))
    assert int(result.details["fatal_pixels"]) == 0
    assert float(goal.log_odds(victim.net(images(1)), torch.tensor([0]))) < 0


@pytest.mark.parametrize("options", [{}, {"settings": "published", "stop": "argmax", "pop": 30, "generations": 6}])
def test_where_onepixel_succeeds_on_a_linear_network_there_is_a_fatal_pixel(options):
    x = images(60)
    victim = Linear(bias=(0.6, 0.0, 0.0))
    labels = victim.net(x).argmax(dim=1)
    draws = Draws(ids(60), 0, "attack")
    found = perturbations.get("onepixel").run_attack(x, labels, victim, 1, draws, **options)
    result = run(victim, x, labels)
    assert 0 < int(found.success.sum()) < 60
    assert bool((result.details["fatal_pixels"][found.success] >= 1).all())
    image = torch.arange(60)[found.success]
    at = (image, found.details["rows"][image, 0], found.details["columns"][image, 0])
    assert bool((result.details["map"][at] <= 0).all())


@pytest.mark.parametrize("target", [None, 1])
def test_an_early_exit_gives_the_same_answer(target, monkeypatch):
    monkeypatch.setattr(module, "EARLY", 10)
    x, victim = images(40), Linear(bias=(0.6, 0.0, 0.0))
    labels = victim.net(x).argmax(dim=1)
    whole, early = (run(victim, x, labels, target=target, early_exit=e) for e in (False, True))
    assert torch.equal(whole.success, early.success)
    attacked, hit = whole.queries > 1, whole.success
    assert 0 < int(hit.sum()) < int(attacked.sum())
    none = attacked & ~hit
    assert bool((early.details["fatal_pixels"][none] == 0).all())
    assert bool((early.details["fatal_pixels"][~none] == -1).all())
    assert torch.equal(early.details["map"][none], whole.details["map"][none])
    assert bool((early.queries[none] == 1 + whole.queries[none]).all())
    assert bool((early.details["smallest_margin"][hit] <= 0).all())
    assert torch.equal(goal.flipped(victim.net(early.images), labels, target)[attacked], hit[attacked])


def test_an_early_exit_tries_the_worst_pixels_first(monkeypatch):
    monkeypatch.setattr(module, "EARLY", 10)  # two whole pixels of four values
    x, victim = images(40), Linear(bias=(0.6, 0.0))
    labels = victim.net(x).argmax(dim=1)
    whole, early = (run(victim, x, labels, early_exit=e) for e in (False, True))
    hit, tried = whole.success, early.details["map"].isfinite()
    assert 0 < int(hit.sum()) < 40
    assert bool((tried.sum(dim=(1, 2))[hit] == 2).all())
    assert bool((early.queries[hit] == 1 + 1 + 8).all())
    second = whole.details["map"].flatten(1).sort(dim=1).values[:, 1, None, None]
    assert torch.equal(tried[hit], (whole.details["map"] <= second)[hit])
    assert torch.equal(early.details["smallest_margin"], whole.details["smallest_margin"])


def test_a_galaxy_is_searched_the_same_alone_shuffled_and_in_a_subset(monkeypatch):
    net, x = tiny_net(), images(8)
    labels = net(x).argmax(dim=1)
    labels[3] = (labels[3] + 1) % CLASSES  # one that is wrong already
    whole = run(Counting(net), x, labels, grid=3)
    assert int(whole.queries[3]) == 1
    assert torch.equal(whole.images[3], x[3])
    for name, value in whole.details.items():
        missing = value[3].isnan() if value.is_floating_point() else value[3] == (False if name == "certified" else -1)
        assert bool(missing.all()), name
    monkeypatch.setattr(goal, "CANDIDATES", 100)  # not a multiple of the nine values of a pixel
    for which in (torch.tensor([6, 1, 0, 7, 5, 4, 2, 3]), torch.tensor([5]), torch.tensor([7, 2, 3])):
        for victim in (Counting(net), Sparse(net, x[which])):
            same(run(victim, x[which], labels[which], grid=3), whole, which)
    assert victim.largest <= 100  # memory does not grow with the candidates
    assert max(len(shown.unique()) for shown in victim.shown) == 1


def test_a_certificate_is_asked_only_for_what_no_level_breaks():
    class Certifying(Linear):
        def certify(self, which, positions, low, high, boxes):
            assert boxes == 7
            asked.append((which, positions))
            assert low.shape == high.shape == x.shape
            return self.worst(x, labels, low, high)[which, positions[:, 0], positions[:, 1]] > 0

    x = images(12)
    asked, victim = [], Certifying(bias=(0.6, 0.0, 0.0))
    labels = victim.net(x).argmax(dim=1)
    labels[5] = (labels[5] + 1) % CLASSES
    result = run(victim, x, labels, certificate=7)
    maps = result.details["map"]
    # the corners are complete for a linear network: what is not fatal is safe
    assert torch.equal(result.details["certified"], maps > 0)
    assert 0 < int((maps <= 0).sum()) < maps.numel() - HEIGHT * WIDTH
    shown = torch.zeros_like(maps, dtype=torch.int64)
    for which, positions in asked:
        shown[which, positions[:, 0], positions[:, 1]] += 1
    assert torch.equal(shown, (maps > 0).long())
    low, high = x * 0.9, x + 0.1 * (1 - x)
    narrow = Certifying(box=(low, high))
    right = (narrow.net(x).argmax(dim=1) == labels)[:, None, None]
    assert torch.equal(
        run(narrow, x, labels, certificate=7).details["certified"], (narrow.worst(x, labels, low, high) > 0) & right
    )
    asked.clear()
    assert not bool(run(victim, x, labels).details["certified"].any())
    assert asked == []


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("early_exit", [False, True])
def test_logits_that_are_no_numbers_are_no_class(broken, early_exit):
    """One pixel at one in the first band breaks the network: fatal, for the engine counts it as wrong."""

    class Breaking(Linear):
        def logits(self, x):
            logits = super().logits(x)
            logits[x[:, 0, 2, 3] == 1.0, 1] = broken
            return logits

    x, victim = images(3), Breaking(bias=(1e3, 0.0, 0.0))
    labels = torch.zeros(3, dtype=torch.int64)
    result = run(victim, x, labels, early_exit=early_exit)
    least = torch.finfo(torch.float32).min
    assert result.success.tolist() == [True] * 3
    assert result.details["smallest_margin"].tolist() == result.details["map"][:, 2, 3].tolist() == [least] * 3
    assert result.images[:, 0, 2, 3].tolist() == [1.0] * 3
    if not early_exit:
        assert result.details["fatal_pixels"].tolist() == [1] * 3
    assert run(victim, x, labels, target=1, early_exit=early_exit).success.tolist() == [False] * 3
    if not early_exit:
        everything = Counting(
            lambda x: torch.where((x == 0.25).all(), 1.0, broken) * torch.tensor([[1.0, 0, 0]]).expand(len(x), 3)
        )
        aimed = run(everything, torch.full((1, BANDS, HEIGHT, WIDTH), 0.25), labels[:1], target=1)
        assert (int(aimed.details["fatal_pixels"]), bool(aimed.success)) == (0, False)
        assert bool((aimed.details["map"] == -least).all())


def test_the_estimate_of_queries_refuses_too_many_values():
    entry = perturbations.get("onepixel_exhaustive")
    options = entry.resolve({"grid": "100"}) | {"shape": (3, 4, 4)}
    assert options["grid"] == 100
    assert entry.most_queries(options) == 1 + 16 * 10**6
    with pytest.raises(InputError, match="grid = 101 in 3 bands"):
        entry.most_queries({**options, "grid": 101})


@pytest.mark.parametrize("name", ["onepixel", "onepixel_exhaustive", "fewpixel"])
def test_galaxies_that_are_all_wrong_are_left_alone(name):
    net, x = tiny_net(), images(3)
    victim = Sparse(net, x)
    labels = (net(x).argmax(dim=1) + 1) % CLASSES
    result = perturbations.get(name).run_attack(x, labels, victim, 1, Draws(ids(3), 0, "attack"))
    assert torch.equal(result.images, x)
    assert (result.queries.tolist(), result.success.tolist(), victim.shown) == ([1] * 3, [False] * 3, [])


def test_says_which_pixel_it_wrote():
    net, x = tiny_net(), images(10)
    result = run(Counting(net), x, net(x).argmax(dim=1))
    changed = (result.images != x).any(dim=1)
    assert changed.sum(dim=(1, 2)).tolist() == [1] * 10
    for i in range(10):
        row, column = int(result.details["rows"][i, 0]), int(result.details["columns"][i, 0])
        assert bool(changed[i, row, column])
        assert torch.equal(result.images[i, :, row, column], result.details["values"][i, 0])
        assert result.details["map"][i, row, column] == result.details["smallest_margin"][i]


def test_the_most_queries_are_those_of_a_complete_search():
    entry = perturbations.get("onepixel_exhaustive")
    shape = {"shape": (BANDS, HEIGHT, WIDTH)}
    for options in ({}, {"grid": 3}, {"grid": 2, "early_exit": True}):
        victim = Linear(bias=(1e3, 0.0, 0.0))
        result = run(victim, images(1), torch.zeros(1, dtype=torch.int64), **options)
        assert int(result.queries) == entry.most_queries(entry.resolve(options) | shape)
        assert int(result.queries) == victim.passes + victim.gradients
    with_proof = entry.most_queries(entry.resolve({"certificate": 64}) | shape)
    assert with_proof == 1 + HEIGHT * WIDTH * (2**BANDS + 640)


def test_zero_pixels_cost_nothing():
    victim = Counting(tiny_net())
    result = run(victim, images(4), torch.zeros(4, dtype=torch.int64), strength=0)
    assert torch.equal(result.images, images(4))
    assert victim.passes == int(result.queries.sum()) == int(result.success.sum()) == 0
    assert bool(result.details["map"].isnan().all())


@pytest.mark.parametrize(
    ("strength", "options", "says"),
    [
        (2, {}, "2 pixels; 0 or 1"),
        (1, {"grid": 1}, "integer >= 2"),
        (1, {"grid": "1"}, "integer >= 2"),
        (1, {"grid": "corner"}, "grid = corner; corners or an integer >= 2"),
        (1, {"grid": 3_000_000}, "grid = 3000000 in 2 bands; at most 1000000 values"),
        (1, {"grid": 1001}, "Take fewer levels"),
        (1, {"certificate": -1}, "0 or more boxes"),
        (1, {"certificate": 7, "target": 1}, "certificate = 7 with target = 1"),
        (1, {"certificate": 7, "target": 0}, "certificate = 7 with target = 0"),
        (1, {"certificate": 7, "early_exit": True}, "certificate = 7 with early_exit"),
        (1, {"target": CLASSES}, "0 to 2"),
        (1, {"space": "flux"}, "without an exposure"),
    ],
)
def test_refuses_what_it_cannot_do(strength, options, says):
    with pytest.raises(InputError, match=says):
        run(Counting(tiny_net()), images(2), torch.zeros(2, dtype=torch.int64), strength=strength, **options)
