"""The one-pixel attack: does it find the worst pixel, count what it spends, and search each image on its own?"""

import itertools
import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch

import perturbations
from perturbations import goal, search
from perturbations.draws import Draws
from perturbations.errors import InputError

HEIGHT, WIDTH, BANDS, CLASSES = 8, 6, 2, 3


class Counting:
    """A victim that counts its forward passes."""

    def __init__(self, net, box=(0.0, 1.0), classes=CLASSES):
        self.net, self.classes, self.passes, self.largest = net, classes, 0, 0
        low, high = (torch.as_tensor(edge, dtype=torch.float32) for edge in box)
        self.box = (low, high)

    def logits(self, x):
        self.passes += len(x)
        self.largest = max(self.largest, len(x))
        with torch.no_grad():
            return self.net(x)

    def gradient(self, x, loss):
        raise AssertionError("a one-pixel attack needs no gradient")


class Sparse(Counting):
    """A victim with `logits_at`, which also notes whose candidates it was shown."""

    def __init__(self, net, x, **kwargs):
        super().__init__(net, **kwargs)
        self.x, self.shown = x, []

    def logits_at(self, which, positions, values):
        assert bool((which.diff() >= 0).all()), "rows must come grouped by image"
        self.shown.append(which)
        return self.logits(goal.with_pixels(self.x[which], positions, values))


def tiny_net(scale=1.0):
    """A convolution and a linear layer with random weights, no class preferred on average."""
    generator = torch.Generator().manual_seed(0)
    convolution = 0.5 * torch.randn(6, BANDS, 3, 3, generator=generator)
    head = scale * torch.randn(CLASSES, 6 * (HEIGHT // 2) * (WIDTH // 2), generator=generator)

    def logits(x):
        features = torch.nn.functional.max_pool2d(torch.conv2d(x - 0.5, convolution, padding=1).relu(), 2)
        return features.flatten(1) @ head.T

    usual = logits(images(200, seed=9)).mean(dim=0)
    return lambda x: logits(x) - usual


def linear_net(weight, bias=0.0):
    """Two classes; the second wins by weight . x + bias."""
    return lambda x: torch.stack((torch.zeros(len(x)), (x * weight).sum(dim=(1, 2, 3)) + bias), dim=1)


def images(n, seed=1):
    return torch.rand(n, BANDS, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed))


def ids(n):
    return [f"galaxy-{i}" for i in range(n)]


def run(victim, x, labels, names=None, seed=0, strength=1, **options):
    draws = Draws(names or ids(len(x)), seed, "attack")
    return perturbations.get("onepixel").run_attack(x, labels, victim, strength, draws, **options)


@pytest.mark.parametrize("options", [{"pop": 150, "generations": 50}, {"settings": "published", "pop": 200}])
def test_finds_the_worst_pixel_that_brute_force_finds(options):
    weight = torch.randn(BANDS, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(2))
    net = linear_net(weight, bias=-100.0)  # no pixel can flip it: every search runs to its end
    x = images(30)
    result = run(Counting(net, classes=2), x, torch.zeros(30, dtype=torch.int64), **options)
    assert not bool(result.success.any())
    reached = ((result.images - x) * weight).sum(dim=(1, 2, 3))
    corners = torch.tensor(list(itertools.product((0.0, 1.0), repeat=BANDS)))[:, None, :, None, None]
    best = ((corners - x) * weight).sum(dim=2).amax(dim=(0, 2, 3))
    assert bool((reached <= best + 1e-4).all())
    tolerance = 1e-4 if "settings" not in options else 0.02  # uniform values only approach the corner
    assert int((reached > best * (1 - tolerance)).sum()) >= 28


def test_is_as_good_as_scipy_on_the_same_budget():
    n, size, generations = 60, 40, 20
    net, x = tiny_net(), images(n)
    labels = net(x).argmax(dim=1)
    high = x + 0.2 * (1 - x)  # a small box per image and pixel, so that nothing flips early
    low = x - 0.2 * x
    options = {"settings": "published", "pop": size, "generations": generations, "stop": "published"}
    result = run(Counting(net, (low, high)), x, labels, **options)
    ours = goal.harm(net(result.images), labels, None)
    assert not bool(result.success.any())

    def search_of(image):
        def objective(genes):  # (G, S)
            row, column = (
                torch.as_tensor((g * k).clip(max=k - 1)).long() for g, k in zip(genes[:2], (HEIGHT, WIDTH), strict=True)
            )
            bottom, top = low[image, :, row, column].T, high[image, :, row, column].T
            value = bottom + torch.as_tensor(genes[2:].T, dtype=torch.float32) * (top - bottom)
            copies = goal.with_pixels(
                x[image].expand(genes.shape[1], -1, -1, -1), torch.stack((row, column), -1)[:, None], value[:, None]
            )
            return -goal.harm(net(copies), labels[image].expand(len(copies)), None).numpy()

        return -scipy.optimize.differential_evolution(
            objective, [(0, 1)] * (2 + BANDS), strategy="rand1bin", recombination=1.0, mutation=0.5, polish=False,
            updating="deferred", vectorized=True, popsize=size // (2 + BANDS), maxiter=generations, tol=0, atol=0,
            init="random", rng=np.random.default_rng(image),
        ).fun  # fmt: skip

    theirs = torch.tensor([search_of(image) for image in range(n)])
    gain = theirs - goal.harm(net(x), labels, None)
    difference = (ours - theirs) / gain.mean()
    assert abs(float(difference.mean())) < 3 * float(difference.std()) / math.sqrt(n)
    assert float(difference.std()) / math.sqrt(n) < 0.05  # the comparison can tell


def test_evolution_is_the_textbook_algorithm_step_by_step():
    n, size, genes, generations = 3, 6, 4, 8
    draws = Draws(ids(n), 5, "attack")
    start = draws.uniform("population", (size, genes))

    def score(candidates):
        return -((candidates - torch.tensor([0.02, 0.5, 0.97, 0.3])) ** 2).sum(dim=-1)

    found = search.evolve(lambda _, trial: (score(trial), trial[..., 0] > 2), draws, start, generations)
    for image in range(n):
        own = draws.take([image])
        population = start[image].clone()
        for generation in range(1, generations + 1):
            names = enumerate(("first", "second", "third"), 1)
            picks = [own.integers(f"{name} {generation}", size - k, (size,))[0] for k, name in names]
            redrawn = own.uniform(f"redraw {generation}", (size, genes))[0]
            following = population.clone()
            for parent in range(size):
                free = [k for k in range(size) if k != parent]
                a, b, c = (population[free.pop(int(pick[parent]))] for pick in picks)
                child = a + 0.5 * (b - c)
                child = torch.tensor(
                    [float(g) if 0 <= g <= 1 else float(r) for g, r in zip(child, redrawn[parent], strict=True)]
                )
                if score(child) >= score(population[parent]):
                    following[parent] = child
            population = following
        assert torch.equal(found.genes[image], population[score(population).argmax()])
    assert found.queries.tolist() == [size * (generations + 1)] * n


def test_the_three_others_are_different_and_equally_likely():
    size, draws = 5, Draws(ids(4000), 0, "attack")
    a, b, c = search._three_others(draws, 1, size)
    members = torch.stack((torch.arange(size).expand_as(a), a, b, c), dim=-1)
    assert bool((members.sort(dim=-1).values.diff(dim=-1) > 0).all())
    counts = torch.bincount((members * torch.tensor([125, 25, 5, 1])).sum(dim=-1).flatten(), minlength=625)
    counts = counts[counts > 0]
    assert len(counts) == 5 * 4 * 3 * 2
    assert scipy.stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_genes_outside_are_drawn_again_over_the_whole_range():
    seen = []

    def evaluate(active, trial):
        seen.append(trial)
        return torch.zeros(trial.shape[:2]), torch.zeros(trial.shape[:2], dtype=torch.bool)  # every child is accepted

    draws = Draws(ids(200), 0, "attack")
    corners = draws.uniform("population", (20, 3)).round()  # far apart: many children leave
    search.evolve(evaluate, draws, corners, 1)
    child = seen[1].flatten()
    assert float(child.min()) >= 0
    assert float(child.max()) <= 1
    redrawn = child[(child * 2) % 1 != 0]  # a + (b - c)/2 of corners is a multiple of a half
    assert 0.15 < len(redrawn) / len(child) < 0.35
    assert scipy.stats.kstest(redrawn.numpy(), "uniform").pvalue > 1e-3
    search.evolve(evaluate, draws, corners, 1, clipped=torch.tensor([False, False, True]))
    assert bool(((seen[-1][..., 2] * 2) % 1 == 0).all())
    assert bool(((seen[-1][..., 0] * 2) % 1 != 0).any())


def test_a_candidate_that_reaches_the_goal_counts_even_if_its_parent_scores_higher():
    def evaluate(active, trial):
        first = len(trials) == 0
        trials.append(trial)
        score = torch.full(trial.shape[:2], 1.0 if first else 0.0)
        return score, torch.zeros_like(score, dtype=torch.bool) if first else (torch.arange(trial.shape[1]) == 2)[None]

    trials, draws = [], Draws(["one"], 0, "attack")
    found = search.evolve(evaluate, draws, draws.uniform("population", (6, 3)), 5)
    assert bool(found.success)
    assert len(trials) == 2
    assert torch.equal(found.genes, trials[1][:, 2])
    assert int(found.generations) == 1


@pytest.mark.parametrize("options", [{}, {"settings": "published", "pop": 30, "generations": 6}, {"target": 1}])
def test_a_search_is_the_same_alone_shuffled_and_in_a_subset(options):
    net, x = tiny_net(), images(12)
    labels = net(x).argmax(dim=1)
    labels[3] = (labels[3] + 1) % CLASSES  # one that is wrong already
    options = {"pop": 20, "generations": 5} | options
    whole = run(Counting(net), x, labels, **options)
    assert 0 < int(whole.success.sum()) < 12
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    for which in (order, torch.tensor([5]), torch.tensor([7, 2, 3])):
        names = [ids(12)[int(i)] for i in which]
        for victim in (Counting(net), Sparse(net, x[which])):
            part = run(victim, x[which], labels[which], names, **options)
            assert torch.equal(part.images, whole.images[which])
            assert torch.equal(part.queries, whole.queries[which])
            assert torch.equal(part.success, whole.success[which])
            for name, value in part.details.items():
                assert torch.equal(value.nan_to_num(-9), whole.details[name][which].nan_to_num(-9))
    other = run(Counting(net), x, labels, seed=1, **options)
    assert not torch.equal(other.images, whole.images)


def test_queries_are_exact_and_finished_images_leave():
    net, x = tiny_net(), images(25)
    labels = net(x).argmax(dim=1)
    dense, sparse = Counting(net), Sparse(net, x)
    result = run(dense, x, labels, pop=12, generations=6)
    assert dense.passes == int(result.queries.sum())
    assert torch.equal(result.queries, 1 + 12 * (1 + result.details["generations"]))
    assert len(set(result.queries[result.success].tolist())) > 1
    assert bool((result.details["generations"][~result.success] == 6).all())
    assert torch.equal(run(sparse, x, labels, pop=12, generations=6).queries, result.queries)
    shown = torch.bincount(torch.cat(sparse.shown), minlength=25)
    assert torch.equal(shown + 1, result.queries)


def test_copies_of_one_image_are_made_a_chunk_at_a_time():
    net, x = tiny_net(), images(3)
    victim = Counting(net)
    run(victim, x, net(x).argmax(dim=1), pop=300, generations=0)
    assert victim.largest == goal.CHUNK


def test_writes_one_pixel_inside_the_box_of_its_image_and_says_which():
    net, x = tiny_net(), images(20)
    labels = net(x).argmax(dim=1)
    low = torch.linspace(0.0, 0.3, 20).view(-1, 1, 1, 1) * torch.tensor([1.0, 0.5]).view(1, -1, 1, 1)
    low, high = torch.minimum(low, x), torch.maximum(1 - low, x)  # per image, band and, where x asks for it, pixel
    result = run(Counting(net, (low, high)), x, labels, pop=30, generations=4)
    changed = (result.images != x).any(dim=1)
    assert changed.sum(dim=(1, 2)).tolist() == [1] * 20
    for i in range(20):
        row, column = int(result.details["rows"][i, 0]), int(result.details["columns"][i, 0])
        assert bool(changed[i, row, column])
        assert torch.equal(result.images[i, :, row, column], result.details["values"][i, 0])
    ends = (result.images == low) | (result.images == high)
    assert bool((ends & changed[:, None]).any())  # the default does go to the ends of the box


def test_every_pixel_and_value_can_be_reached():
    x = images(400)
    net = linear_net(torch.zeros(BANDS, HEIGHT, WIDTH), bias=-1.0)
    labels = torch.zeros(400, dtype=torch.int64)
    result = run(Counting(net, classes=2), x, labels, settings="published", pop=4, generations=0)
    position = result.details["rows"] * WIDTH + result.details["columns"]
    assert len(position.unique()) == HEIGHT * WIDTH
    assert scipy.stats.chisquare(torch.bincount(position.flatten(), minlength=HEIGHT * WIDTH)).pvalue > 1e-3
    assert scipy.stats.kstest(result.details["values"].flatten().numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("target", [None, 2])
def test_published_thresholds(target):
    net, x = tiny_net(scale=0.7), images(30)
    labels = net(x).argmax(dim=1)
    result = run(Counting(net), x, labels, stop="published", pop=30, generations=8, target=target)
    p = net(result.images).softmax(dim=1)
    attacked = result.queries > 1
    met = p.gather(1, labels[:, None])[:, 0] < 0.05 if target is None else (p[:, target] > 0.5) & attacked
    assert torch.equal(result.success, met)
    assert 0 < int(result.success.sum()) < int(attacked.sum())
    early = run(Counting(net), x, labels, stop="argmax", pop=30, generations=8, target=target)
    assert int(early.queries.sum()) < int(result.queries.sum())
    predicted = net(early.images).argmax(dim=1)
    reached = predicted != labels if target is None else (predicted == target) & attacked
    assert torch.equal(early.success, reached)


def test_the_published_settings_and_what_overrides_them():
    weight = torch.zeros(BANDS, HEIGHT, WIDTH)
    victim = Counting(linear_net(weight, bias=-1.0), classes=2)
    x, labels = images(1), torch.zeros(1, dtype=torch.int64)
    assert int(run(victim, x, labels, settings="published").queries) == 1 + 400 * 81
    assert int(run(victim, x, labels, settings="published", pop="50", generations="2").queries) == 1 + 50 * 3
    assert int(run(victim, x, labels).queries) == 1 + 100 * 15


@pytest.mark.parametrize("targeted", [False, True])
def test_leaves_alone_what_is_wrong_already_or_of_the_target_class(targeted):
    net, x = tiny_net(), images(20)
    predicted = net(x).argmax(dim=1)
    target = int(predicted[-1]) if targeted else None
    labels = predicted.clone()
    labels[:10] = (predicted[:10] + 1) % CLASSES
    alone = (predicted != labels) | (labels == (-1 if target is None else target))
    result = run(Counting(net), x, labels, target=target, pop=10, generations=2)
    assert bool(alone[10:].any()) == targeted
    assert torch.equal(result.images[alone], x[alone])
    assert bool((result.queries[alone] == 1).all())
    assert not bool(result.success[alone].any())
    assert bool((result.details["rows"][alone] == -1).all())
    assert bool(result.details["values"][alone].isnan().all())
    assert bool((result.queries[~alone] > 1).all())


def test_many_candidates_are_asked_a_bounded_number_at_a_time(monkeypatch):
    net, x = tiny_net(), images(7)
    labels = net(x).argmax(dim=1)
    whole = run(Sparse(net, x), x, labels, pop=20, generations=3)
    for bound in (50, 7):  # two images together, or part of one
        monkeypatch.setattr(goal, "CANDIDATES", bound)
        victim = Sparse(net, x)
        part = run(victim, x, labels, pop=20, generations=3)
        assert torch.equal(part.images, whole.images)
        assert torch.equal(part.queries, whole.queries)
        assert max(len(shown) for shown in victim.shown) == {50: 40, 7: 7}[bound]


@pytest.mark.parametrize(
    ("options", "rows", "columns", "queries"),
    [
        ({}, [5, 7, 6, 2, 2, 1, 4, 0], [1, 1, 0, 4, 5, 2, 4, 4], [101, 1501] + [101] * 6),
        (
            {"settings": "published", "pop": 40, "generations": 6},
            [1, 1, 7, 7, 5, 1, 4, 1],
            [4, 4, 5, 0, 0, 2, 4, 5],
            [281, 281, 121] + [281] * 5,
        ),
        ({"target": 1, "pop": 20, "generations": 5}, [-1, 6, -1, 5, -1, 2, 1, -1], [-1, 1, -1, 1, -1, 2, 1, -1], None),
    ],
)
def test_the_numbers_of_version_1(options, rows, columns, queries):
    """As they were before there was a choice of space; a change of them takes a new version."""
    assert perturbations.get("onepixel").version == 1
    net, x = tiny_net(), images(8)
    result = run(Counting(net), x, net(x).argmax(dim=1), **options)
    assert result.details["rows"].flatten().tolist() == rows
    assert result.details["columns"].flatten().tolist() == columns
    assert result.queries.tolist() == (queries or [1, 121, 1, 21, 1, 121, 21, 1])


def test_zero_pixels_cost_nothing():
    x = images(4)
    victim = Counting(tiny_net())
    result = run(victim, x, torch.zeros(4, dtype=torch.int64), strength=0)
    assert torch.equal(result.images, x)
    assert victim.passes == int(result.queries.sum()) == int(result.success.sum()) == 0


@pytest.mark.parametrize(
    ("strength", "options", "says"),
    [
        (2, {}, "2 pixels; 0 or 1"),
        (0.5, {}, "0 or 1"),
        (1, {"pop": 3}, "pop >= 4"),
        (1, {"generations": -1}, "generations >= 0"),
        (1, {"target": CLASSES}, "0 to 2"),
        (1, {"settings": "publisht"}, "'default' or 'published'"),
        (1, {"pop": "many"}, "onepixel option pop"),
        (1, {"population": 4}, "unknown option of onepixel"),
        (1, {"space": "flux"}, "without an exposure"),
    ],
)
def test_refuses_what_it_cannot_do(strength, options, says):
    with pytest.raises(InputError, match=says):
        run(Counting(tiny_net()), images(2), torch.zeros(2, dtype=torch.int64), strength=strength, **options)


class Screening(Sparse):
    """A victim whose low precision has an error; with `lying`, it takes every candidate for the worst there is."""

    screens = True

    def __init__(self, net, x, lying=False, **kwargs):
        super().__init__(net, x, **kwargs)
        self.lying, self.coarse, self.exact = lying, 0, 0
        self.worst = torch.full((len(x),), -torch.inf)  # of what was asked in full

    def logits_at(self, which, positions, values):
        self.exact += len(which)
        logits = super().logits_at(which, positions, values)
        harm = goal.harm(logits, self.net(self.x).argmax(dim=1)[which], None)
        self.worst.scatter_reduce_(0, which, harm, "amax")
        return logits

    def screened_at(self, which, positions, values):
        self.coarse += len(which)
        logits = self.net(goal.with_pixels(self.x[which], positions, values)).bfloat16().float()
        if self.lying:
            true = self.net(self.x[which]).argmax(dim=1, keepdim=True)
            logits.scatter_add_(1, true, torch.full_like(logits, -1e3))
        return logits


def test_a_screened_search_flips_as_many_asks_in_full_about_eight_and_counts_both():
    net, x = tiny_net(0.3), images(40)
    labels = net(x).argmax(dim=1)
    options = {"pop": 40, "generations": 10}
    full = run(Counting(net), x, labels, **options)
    victim = Screening(net, x)
    screened = run(victim, x, labels, **options)
    assert 5 < int(full.success.sum()) < 40
    assert int(screened.success.sum()) >= int(full.success.sum()) - 1
    generations = int((screened.details["generations"] + 1).sum())
    assert (victim.coarse, victim.exact) == (40 * generations, 8 * generations)
    assert int(screened.queries.sum()) == 40 + victim.coarse + victim.exact
    assert torch.equal(net(screened.images).argmax(dim=1) != labels, screened.success)


def test_no_flip_in_low_precision_is_believed():
    net, x = tiny_net(0.01), images(10)
    labels = net(x).argmax(dim=1)
    victim = Screening(net, x, lying=True)
    result = run(victim, x, labels, pop=20, generations=3)
    missed = ~result.success
    assert torch.equal(goal.harm(net(result.images), labels, None)[missed], victim.worst[missed])
    assert torch.equal(net(result.images).argmax(dim=1) != labels, result.success)
    assert int(missed.sum()) > 0
    assert result.details["generations"][missed].unique().tolist() == [3]
