"""A few pixels: do both searches find what is there, within their pixels, their box and their budget?"""

import itertools
import math

import pytest
import scipy.stats
import torch
from test_onepixel import BANDS, CLASSES, HEIGHT, WIDTH, Counting, Sparse, ids, images, linear_net, tiny_net

import perturbations
from perturbations import changed_pixels, goal
from perturbations.attacks import fewpixel as module
from perturbations.draws import Draws
from perturbations.errors import InputError

SEARCHES = ("random", "de")


def run(victim, x, labels, pixels=3, names=None, seed=0, **options):
    draws = Draws(names or ids(len(x)), seed, "attack")
    return perturbations.get("fewpixel").run_attack(x, labels, victim, pixels, draws, **options)


def gain_of_each_pixel(x, weight):
    """What the best corner of each pixel adds to weight . x, (N, H W): the gains of several pixels add up."""
    corners = torch.tensor(list(itertools.product((0.0, 1.0), repeat=BANDS)))[:, None, :, None, None]
    return ((corners - x) * weight).sum(dim=2).amax(dim=0).flatten(1)


@pytest.mark.parametrize(("pixels", "search", "share"), [(1, "de", 1.0), (1, "random", 0.97), (3, "random", 0.97)])
def test_finds_the_worst_pixels_of_a_linear_network(pixels, search, share):
    weight = torch.randn(BANDS, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(2))
    net = linear_net(weight, bias=-100.0)  # nothing can flip it: every search runs to its end
    x = images(30)
    result = run(Counting(net, classes=2), x, torch.zeros(30, dtype=torch.int64), pixels, search=search, queries=4001)
    assert not bool(result.success.any())
    reached = ((result.images - x) * weight).sum(dim=(1, 2, 3))
    best = gain_of_each_pixel(x, weight).topk(pixels, dim=1).values.sum(dim=1)
    assert bool((reached <= best + 1e-4).all())
    assert int((reached > best * (share - 1e-4)).sum()) >= 28


def test_random_search_is_the_published_algorithm_step_by_step(monkeypatch):
    monkeypatch.setattr(module, "TOGETHER", 4)
    net, x = tiny_net(), images(3)
    labels = net(x).argmax(dim=1)
    high = x + 0.25 * (1 - x)  # a small box, so that the searches take a while
    low = 0.75 * x
    count, size, budget = 7, HEIGHT * WIDTH, 50
    result = run(Counting(net, (low, high)), x, labels, count, queries=1 + budget)
    assert 50 in (result.queries - 1).tolist()
    for image in range(3):
        own = Draws(ids(3), 0, "attack", "fewpixel").take([image])
        chosen, best, spent, done = {}, -torch.inf, 0, False  # slot: (pixel, at its high end per band)
        while spent < budget and not done:
            together = min(4, budget - spent)
            leaving = module._replaced(spent, budget, count)
            order = own.uniform(f"leave {spent}", (together, count))[0].argsort(dim=1, stable=True)
            entering = own.integers(f"enter {spent}", size, (together, leaving))[0]
            ends = own.uniform(f"ends {spent}", (together, leaving, BANDS))[0] < 0.5
            proposals = []
            for k in range(together):
                trial, taken = dict(chosen), {pixel for pixel, _ in chosen.values()}
                for slot, new, end in zip(order[k, :leaving].tolist(), entering[k].tolist(), ends[k], strict=True):
                    while new in taken:
                        new = (new + 1) % size
                    taken.add(new)
                    trial[slot] = (new, end)
                copy = x[image].clone()
                for pixel, end in trial.values():
                    row, column = divmod(pixel, WIDTH)
                    copy[:, row, column] = torch.where(end, high[image, :, row, column], low[image, :, row, column])
                logits = net(copy[None])
                flips = bool(goal.flipped(logits, labels[[image]], None))
                proposals.append((flips, float(goal.harm(logits, labels[[image]], None)), trial, copy))
            flips, harm, trial, copy = max(proposals, key=lambda p: p[:2])
            if flips or harm > best:
                chosen, best, kept = trial, harm, copy
            spent, done = spent + together, flips
        assert torch.equal(result.images[image], kept)
        assert int(result.queries[image]) == 1 + spent
        assert bool(result.success[image]) == done


def test_a_proposal_that_flips_goes_before_a_more_harmful_one(monkeypatch):
    """Of three classes: one pixel makes the true class second at p = 0.4, another first at p = 0.35."""
    monkeypatch.setattr(module, "TOGETHER", HEIGHT * WIDTH * 4)
    flip, harm = (torch.tensor(p).log() for p in ([0.40, 0.45, 0.15], [0.35, 0.33, 0.32]))

    def net(x):
        changed = (x != 0.5).flatten(2).any(dim=1).nonzero()[:, 1] if len(x) > 1 else torch.tensor([-1])
        clean = torch.tensor([0.9, 0.05, 0.05]).log()
        return torch.stack([flip if p == 0 else harm if p == 1 else clean for p in changed.tolist()])

    x = torch.full((1, BANDS, HEIGHT, WIDTH), 0.5)
    assert float(goal.harm(harm, torch.tensor(0), None)) > float(goal.harm(flip, torch.tensor(0), None))
    result = run(Counting(net), x, torch.tensor([0]), 1, queries=1 + HEIGHT * WIDTH * 4, pop=4)
    assert bool(result.success)
    assert (int(result.details["rows"]), int(result.details["columns"])) == (0, 0)


def test_the_share_that_is_replaced_is_the_published_one():
    """Croce et al. 2022: 0.3 of 150 pixels, divided by 2, 4, 5, 6, 8, 10, 12, 15, 20 over 10,000 queries."""
    when = (1, 49, 50, 199, 200, 500, 1000, 2000, 4000, 6000, 8000, 9999)
    divisors = (2, 2, 4, 4, 5, 6, 8, 10, 12, 15, 20, 20)
    assert [module._replaced(spent, 10_000, 150) for spent in when] == [int(45 / d) for d in divisors]
    assert module._replaced(0, 10_000, 150) == 150  # the start is drawn whole
    assert {module._replaced(spent, 1500, 1) for spent in range(0, 1500, 10)} == {1}


def test_different_pixels_move_on_to_the_next_free_one():
    pixel = torch.randint(0, 6, (3000, 4), generator=torch.Generator().manual_seed(0))
    moved = changed_pixels.different(pixel, 6)
    for before, after in zip(pixel.tolist(), moved.tolist(), strict=True):
        taken = []
        for p in before:
            while p in taken:
                p = (p + 1) % 6
            taken.append(p)
        assert after == taken
    settled = torch.tensor([[4, 5, 4, 0]])
    assert changed_pixels.different(settled, 6, 2).tolist() == [[4, 5, 0, 1]]
    assert settled.tolist() == [[4, 5, 4, 0]]


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("target", [None, 1])
def test_a_search_is_the_same_alone_shuffled_and_in_a_subset(search, target):
    net, x = tiny_net(scale=0.1), images(12)
    labels = net(x).argmax(dim=1)
    labels[3] = (labels[3] + 1) % CLASSES  # one that is wrong already
    box = (0.4 * x, 0.4 * x + 0.6)
    options = {"search": search, "pop": 10, "queries": 61, "target": target, "pixels": 2}
    whole = run(Counting(net, box), x, labels, **options)
    assert 0 < int(whole.success.sum()) < 12
    for which in (torch.randperm(12, generator=torch.Generator().manual_seed(3)), torch.tensor([5])):
        part_box = tuple(edge[which] for edge in box)
        for victim in (Counting(net, part_box), Sparse(net, x[which], box=part_box)):
            part = run(victim, x[which], labels[which], names=[ids(12)[int(i)] for i in which], **options)
            assert torch.equal(part.images, whole.images[which])
            assert torch.equal(part.queries, whole.queries[which])
            assert torch.equal(part.success, whole.success[which])
            for name, value in part.details.items():
                assert torch.equal(value.nan_to_num(-9), whole.details[name][which].nan_to_num(-9))
    assert not torch.equal(run(Counting(net, box), x, labels, seed=1, **options).images, whole.images)
    alone = (net(x).argmax(dim=1) != labels) | (labels == (-1 if target is None else target))
    assert torch.equal(whole.images[alone], x[alone])
    assert bool((whole.queries[alone] == 1).all())
    assert bool((whole.details["rows"][alone] == -1).all())
    assert bool(whole.details["values"][alone].isnan().all())
    assert torch.equal(goal.flipped(net(whole.images), labels, target) & ~alone, whole.success)


@pytest.mark.parametrize(("search", "queries", "spent"), [("random", 38, 38), ("de", 38, 31), ("de", 31, 31)])
def test_the_budget_is_kept_and_counted(search, queries, spent):
    net, x = tiny_net(scale=0.1), images(25)
    labels = net(x).argmax(dim=1)
    victim = Counting(net, (0.4 * x, 0.4 * x + 0.6))
    result = run(victim, x, labels, 2, search=search, queries=queries, pop=10)
    assert victim.passes == int(result.queries.sum())
    assert 0 < int(result.success.sum()) < 25
    assert bool((result.queries[~result.success] == spent).all())
    assert bool((result.queries <= spent).all())
    entry = perturbations.get("fewpixel")
    assert spent <= entry.most_queries(entry.resolve({"queries": queries, "pop": 10})) == queries


@pytest.mark.parametrize(
    ("queries", "pop", "spent"),
    [(105, 100, 105), (5, 4, 5), (6, 4, 5), (13, 12, 13), (9, 4, 9), (17, 4, 17), (61, 10, 55)],
)
def test_the_budget_is_kept_where_candidates_are_screened(queries, pop, spent):
    x = images(3)
    net = linear_net(torch.zeros(BANDS, HEIGHT, WIDTH), bias=-1.0)
    victim = Sparse(net, x, classes=2)
    victim.screens, victim.screened_at = True, victim.logits_at
    result = run(victim, x, torch.zeros(3, dtype=torch.int64), search="de", queries=queries, pop=pop)
    assert result.queries.tolist() == [spent] * 3


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("pixels", [1, 4, HEIGHT * WIDTH // 2])
def test_writes_so_many_different_pixels_and_says_which(search, pixels):
    net, x = tiny_net(), images(6)
    labels = net(x).argmax(dim=1)
    low, high = 0.9 * x, 0.9 * x + 0.1  # no pixel of a random image is at an end of it
    result = run(Counting(net, (low, high)), x, labels, pixels, search=search, queries=41, pop=10)
    changed = (result.images != x).any(dim=1)
    assert changed.sum(dim=(1, 2)).tolist() == [pixels] * 6
    row, column = result.details["rows"], result.details["columns"]
    image = torch.arange(6)[:, None]
    assert bool(changed[image, row, column].all())
    assert torch.equal(result.images[image, :, row, column], result.details["values"])
    if search == "random":
        assert bool(((result.images == low) | (result.images == high))[changed[:, None].expand_as(x)].all())


def test_every_pixel_is_as_likely_to_be_drawn():
    x = images(600)
    net = linear_net(torch.zeros(BANDS, HEIGHT, WIDTH), bias=-1.0)
    result = run(Counting(net, classes=2), x, torch.zeros(600, dtype=torch.int64), 2, queries=5, pop=4)
    pixel = result.details["rows"] * WIDTH + result.details["columns"]
    assert bool((pixel[:, 0] != pixel[:, 1]).all())
    for slot in range(2):
        counts = torch.bincount(pixel[:, slot], minlength=HEIGHT * WIDTH)
        assert scipy.stats.chisquare(counts.numpy()).pvalue > 1e-3
    ends = result.details["values"].flatten()
    assert set(ends.tolist()) == {0.0, 1.0}
    assert scipy.stats.binomtest(int(ends.sum()), len(ends)).pvalue > 1e-3


@pytest.mark.parametrize(
    ("pixels", "options", "says"),
    [
        (1.5, {}, "1.5 pixels; a whole number from 0 to 24"),
        (25, {}, "0 to 24"),
        (-1, {}, "0 to 24"),
        (math.nan, {}, "nan pixels; a whole number"),
        (math.inf, {}, "inf pixels; a whole number"),
        (1, {"search": "de", "pop": 3}, "pop >= 4"),
        (1, {"search": "de", "queries": 100}, "queries > pop"),
        (1, {"queries": 1}, "queries >= 2"),
        (1, {"search": "greedy"}, "option search"),
        (1, {"target": CLASSES}, "0 to 2"),
        (1, {"space": "flux"}, "without an exposure"),
    ],
)
def test_refuses_what_it_cannot_do(pixels, options, says):
    with pytest.raises(InputError, match=says):
        run(Counting(tiny_net()), images(2), torch.zeros(2, dtype=torch.int64), pixels, **options)
