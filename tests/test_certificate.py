"""The certificate: nothing breaks what is proved, no value and no order of summation, and it proves what it can."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from robustastro.models.nets import ConvNet
from robustastro.models.sparse import forms
from robustastro.models.sparse.bounds import Bounds
from robustastro.models.sparse.program import read
from robustastro.models.subject import Subject

BANDS = 2


class Residual(nn.Module):
    """A shortcut with a convolution, average pooling and global averaging."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(BANDS, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm, self.shortcut = nn.BatchNorm2d(4), nn.Conv2d(BANDS, 4, 1)
        self.pool, self.average, self.head = nn.AvgPool2d(3, 2, padding=1), nn.AdaptiveAvgPool2d(2), nn.Linear(16, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.second(self.first(x).relu())) + self.shortcut(x))
        return self.head(self.average(self.pool(x)).flatten(1))


def pooled(side):
    half = (side - 1) // 2 + 1
    return nn.Sequential(
        nn.Conv2d(BANDS, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2), nn.LeakyReLU(0.2),
        nn.Flatten(), nn.Linear(4 * half**2, 6), nn.Linear(6, 3),
    )  # fmt: skip


def strided(side):
    rows = (side + 2 - 5) // 2 + 1
    return nn.Sequential(
        nn.Conv2d(BANDS, 5, 5, stride=2, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.AvgPool2d(2, 1),
        nn.Flatten(), nn.Linear(5 * (rows - 1) ** 2, 6), nn.ReLU(), nn.Linear(6, 3),
    )  # fmt: skip


NETWORKS = {"pooled": pooled, "strided": strided, "residual": lambda side: Residual()}


def made(kind, side, seed):
    """A random network in eval mode whose batch norm does something, and an image."""
    torch.manual_seed(seed)
    network = NETWORKS[kind](side)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.get_buffer("running_mean"), 0.0, 0.3)
            nn.init.uniform_(module.get_buffer("running_var"), 0.3, 2.0)
            nn.init.uniform_(module.weight, -1.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.3)
    network.requires_grad_(False).eval()
    image = torch.randn(BANDS, side, side)
    # a margin that some pixels can cross and others cannot
    head = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    clean = network(image[None])[0]
    label = int(clean.argmax())
    corners = torch.tensor(list(itertools.product((-2.0, 2.5), repeat=BANDS)))
    lost = [float((clean[label] - network(changed(image, p, corners))[:, label]).max()) for p in everywhere(image)]
    head.bias.data[label] += torch.tensor(lost).quantile(0.7) - clean.topk(2).values.diff().abs()[0]
    return network, image


def bounds_of(network, image):
    bounds = Bounds(read(network, image[None], folded=False))
    assert bounds.refuses is None
    return bounds


def everywhere(image):
    return torch.cartesian_prod(*(torch.arange(side) for side in image.shape[1:]))


def boxes(count, low, high):
    return torch.full((count, BANDS), low), torch.full((count, BANDS), high)


def certified(network, image, positions, low, high, tried=64):
    which = torch.zeros(len(positions), dtype=torch.int64)
    return bounds_of(network, image).certified(image[None], which, positions, low, high, tried)


def changed(image, position, values):
    """The image (C, H, W) with one pixel set to each of the values (V, C)."""
    copies = image.expand(len(values), -1, -1, -1).clone()
    copies[:, :, position[0], position[1]] = values
    return copies


def attacked(network, image, position, low, high, label):
    """The smallest margin (float32) over corners, a grid, random values and projected gradient descent from them."""
    sides = [torch.linspace(float(a), float(b), 9) for a, b in zip(low, high, strict=True)]
    values = torch.cat((torch.cartesian_prod(*sides), low + (high - low) * torch.rand(200, BANDS)))
    smallest = torch.inf
    for step in range(4):
        leaf = values.clone().requires_grad_(step < 3)
        logits = network(changed(image, position, leaf))
        others = logits.masked_fill(nn.functional.one_hot(torch.tensor(label), 3).bool(), -torch.inf)
        margin = logits[:, label] - others.amax(dim=1)
        smallest = min(smallest, float(margin.detach().min()))
        if step < 3:
            slope = torch.autograd.grad(margin.sum(), leaf)[0]
            values = torch.minimum(torch.maximum(values - (0.3 - 0.1 * step) * (high - low) * slope.sign(), low), high)
    return smallest


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("seed", [0, 1, 3])
def test_no_attack_breaks_what_is_proved(kind, seed):
    network, image = made(kind, 8 + seed, seed)
    positions = everywhere(image)
    low, high = boxes(len(positions), -2.0, 2.5)
    proved = certified(network, image, positions, low, high)
    label = int(network(image[None]).argmax())
    smallest = torch.tensor(
        [attacked(network, image, p, a, b, label) for p, a, b in zip(positions, low, high, strict=True)]
    )
    assert bool((smallest[proved] > 0.0).all())
    unknown = ~proved & (smallest > 0.0)
    assert int((smallest <= 0.0).sum()) > 0
    assert int(proved.sum()) > int(unknown.sum())
    # and a bound is one: of the margin itself, at every pixel
    bounded, lowest = bounds_of(network, image).margins(image, positions, low, high)
    assert bounded == label
    assert bool((lowest <= smallest + 1e-6).all())


def random_form(m, size, channels, rest=0.5):
    form = torch.randn(m, BANDS + 2, size, size, channels, dtype=torch.float64)
    form[:, -1] = rest * form[:, -1].abs()
    return form


def member(form, symbols):
    """Values in the set for the shared symbols (M, B), with a rest at its ends and between."""
    own = (2.0 * torch.rand_like(form[:, -1]) - 1.0).mul(2.0).clamp(-1.0, 1.0)
    return form[:, 0] + torch.einsum("mb,mbhwc->mhwc", symbols, form[:, 1:-1]) + own * form[:, -1]


def holds(form, symbols, values):
    gap = (values - form[:, 0] - torch.einsum("mb,mbhwc->mhwc", symbols, form[:, 1:-1])).abs()
    return bool((gap <= form[:, -1] + 1e-12).all())


def operations():
    torch.manual_seed(0)
    convolution, norm, linear = nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(4), nn.Linear(36, 3)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    nn.init.normal_(norm.get_buffer("running_mean"))
    norm.eval()
    facts = {"stride": (1, 1), "dilation": (1, 1), "groups": 2, "weight": convolution.weight, "bias": convolution.bias}
    layer = forms.Convolution.of(facts)
    dense = forms.Linear.of({"weight": linear.weight, "bias": linear.bias})

    def mapped(function):
        return lambda x: function.double()(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    def flat(x):
        return linear.double()(x.permute(0, 3, 1, 2).flatten(1))[:, None, None]

    return {
        "relu": (4, lambda form: forms.rectified(form, 0.0), torch.relu),
        "leaky": (4, lambda form: forms.rectified(form, 0.3), lambda x: nn.functional.leaky_relu(x, 0.3)),
        "convolution": (4, lambda form: layer(form, single=False), mapped(convolution)),
        "convolution in float32": (4, lambda form: layer(form, single=True), mapped(convolution)),
        "batch norm": (4, forms.Scaling.of(norm, 0), mapped(norm)),
        "linear": (4, dense, flat),
        "margins": (4, dense.margins(1), lambda x: flat(x)[..., 1:2] - flat(x)[..., [0, 2]]),
        "maximum": (
            8,
            lambda form: forms.larger(form[..., :4], form[..., 4:]),
            lambda x: x.unflatten(-1, (2, 4)).amax(-2),
        ),
        "sum": (8, lambda form: forms.added(form[..., :4], form[..., 4:]), lambda x: x[..., :4] + x[..., 4:]),
    }


@pytest.mark.parametrize("name", operations())
@pytest.mark.parametrize("rest", [0.0, 0.05, 1.0])
def test_a_set_holds_what_an_operation_makes_of_its_members(name, rest):
    channels, on_set, on_value = operations()[name]
    form = random_form(300, 3, channels, rest)
    after = on_set(form.clone())
    for corner in itertools.product((-1.0, 0.3, 1.0), repeat=BANDS):
        symbols = torch.tensor(corner, dtype=torch.float64).expand(300, BANDS)
        assert holds(after, symbols, on_value(member(form, symbols)).detach())


def in_a_row(values):
    """The float32 sum of values, one after the other: rounding adds up where all have one sign."""
    return float(np.cumsum(np.asarray(values, dtype=np.float32), dtype=np.float32)[-1])


def contains(form, value):
    low, high = forms.ends(form)
    return bool((low <= value).all() and (value <= high).all())


def test_sets_hold_sums_in_the_worst_order():
    n = 20_000
    tenth = torch.full((1, n, 1, 1), 0.1)
    form = forms.exactly(tenth.double())
    total = in_a_row(tenth.flatten())
    assert abs(total - float(tenth.double().sum())) > 0.05 * forms.gamma(n) * total  # it does add up
    weight = torch.stack((torch.ones(n), -torch.ones(n)))
    layer = forms.Linear.of({"weight": weight, "bias": None})
    assert contains(layer(form)[..., 0], total)
    assert contains(layer.margins(0)(form), 2.0 * total)
    twice = layer.then(forms.Linear.of({"weight": torch.tensor([[1.0, -1.0]]), "bias": None}))
    assert contains(twice(form), 2.0 * total)
    nothing = torch.zeros(1, 2, 1, 1, 2, dtype=torch.float64)
    cells = torch.zeros(1, 1, dtype=torch.int64)
    window = layer.of_change(form, torch.zeros(1, 1, 1, n, dtype=torch.float64), cells, nothing)
    assert contains(window[..., 0], total)
    no_change = layer.of_change(0.0 * form, 0.0 * form[:, 0], cells, layer(form))
    assert contains(no_change[..., 0], total)
    # windows add a change to a clean result: here of a pixel that becomes zero, in a result that is exact
    exact = torch.stack((layer(form)[:, 0], torch.zeros(1, 1, 1, 2)), dim=1)
    window = layer.of_change(0.0 * form, form[:, 0], cells, exact)
    assert contains(window[..., 0], float(exact[0, 0, 0, 0, 0]) - total)
    facts = {"weight": weight.view(2, n, 1, 1), "bias": None, "stride": (1, 1), "dilation": (1, 1), "groups": 1}
    for single in (False, True):
        assert contains(forms.Convolution.of(facts)(form, single)[..., 0], total)


@pytest.mark.parametrize("average", [nn.AvgPool2d(140), nn.AdaptiveAvgPool2d(1)])
def test_sets_hold_averages_in_the_worst_order(average):
    network = nn.Sequential(average, nn.Flatten(), nn.Linear(1, 2)).requires_grad_(False).eval()
    image = torch.full((1, 140, 140), 0.1)
    clean = bounds_of(network, image)._clean(image)
    assert contains(clean.found["_0"].form, in_a_row(image.flatten()) / 140**2)


def test_a_change_of_an_average_counts_the_clean_average_and_the_old_values():
    # a one loses the small values that are added to it; times the share, which is near 1.5 2^-15, it rounds them up
    height, width = 171, 128
    image = torch.full((1, height, width), 0.99 * 2.0**-24)
    image[0, 0, 0] = 1.0
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2)).requires_grad_(False).eval()
    bounds = bounds_of(network, image)
    clean = bounds._clean(image)
    average = clean.found["_0"].form
    lost = in_a_row(image.flatten()) / (height * width)
    share = np.float32(1.0 / height) * np.float32(1.0 / width)
    change = in_a_row(-share * image.flatten().numpy())
    assert contains(average, lost)
    assert lost < float(average[0, 0]) < -change
    first = bounds._ops[0].name
    black = replace(clean.found[first], form=0.0 * clean.found[first].form)
    assert contains(bounds._averaged(bounds._ops[1], black, clean), lost + change)


@pytest.mark.parametrize("norms", [1, 2])
def test_sets_hold_a_shift_folded_into_the_convolution_in_the_worst_order(norms):
    # the last shift is 1, and each product that is added to it is lost
    side = 140
    layers = [nn.BatchNorm2d(1, eps=0.0) for _ in range(norms)]
    convolution = nn.Conv2d(1, 1, side, bias=False)
    network = nn.Sequential(convolution, *layers, nn.Flatten(), nn.Linear(1, 2)).requires_grad_(False).eval()
    convolution.weight.data.fill_(2.0**-25)
    layers[-1].bias.data.fill_(1.0)
    image = torch.ones(1, side, side)
    form = bounds_of(network, image)._clean(image).found[f"_{norms}"].form
    total = in_a_row([1.0, *convolution.weight.flatten().tolist()])
    assert total == 1.0 < float(form[0, 0])
    assert contains(form, total)


def test_a_convolution_in_float32_holds_what_it_holds_in_float64():
    torch.manual_seed(0)
    form = random_form(50, 3, 40, rest=1e-6)
    facts = {"stride": (1, 1), "dilation": (1, 1), "groups": 1, "weight": torch.randn(6, 40, 3, 3), "bias": None}
    layer = forms.Convolution.of(facts)
    single, double = layer(form, single=True), layer(form, single=False)
    gap = (single - double)[:, :-1].abs().sum(dim=1)
    assert bool((gap > 0.0).any())
    assert bool((gap + double[:, -1] <= single[:, -1]).all())


def test_sets_hold_batch_norm_in_float32():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4).eval()
    nn.init.normal_(norm.get_buffer("running_mean"))
    nn.init.normal_(norm.weight)
    x = torch.randn(50, 4, 3, 3)
    after = forms.Scaling.of(norm, 0)(forms.exactly(x.double()))
    assert contains(after, norm(x).detach().permute(0, 2, 3, 1))


@pytest.mark.parametrize("kind", NETWORKS)
def test_bounds_of_a_point_are_the_network_within_rounding(kind):
    network, image = made(kind, 9, 4)
    positions = everywhere(image)
    values = torch.randn(len(positions), BANDS)
    label, lowest = bounds_of(network, image).margins(image, positions, values, values)
    exact = network.double()(
        torch.cat([changed(image, p, v[None]) for p, v in zip(positions, values, strict=True)]).double()
    )
    margin = exact[:, label] - exact.masked_fill(nn.functional.one_hot(torch.tensor(label), 3).bool(), -torch.inf).amax(
        1
    )
    assert bool((lowest < margin).all())
    assert bool((lowest > margin - 1e-3).all())


def test_every_pixel_of_a_sure_galaxy_is_proved_for_the_value_it_has():
    network, image = made("pooled", 9, 3)
    logits = network(image[None])[0].topk(2).values
    assert float(logits[0] - logits[1]) > 1e-2
    positions = everywhere(image)
    values = image[:, positions[:, 0], positions[:, 1]].T
    assert bool(certified(network, image, positions, values, values, tried=1).all())


def test_exact_for_a_linear_network():
    torch.manual_seed(0)
    side = 8
    network = nn.Sequential(
        nn.Conv2d(BANDS, 3, 3, padding=1), nn.BatchNorm2d(3), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(48, 2)
    )
    network.requires_grad_(False).eval()
    nn.init.constant_(network[1].get_buffer("running_var"), 0.3)
    image, positions = torch.randn(BANDS, side, side), everywhere(torch.empty(BANDS, side, side))
    label = int(network(image[None]).argmax())
    low, high = boxes(len(positions), -3.0, 2.0)
    exact = network.double()
    leaf = image.double()[None].requires_grad_()
    logits = exact(leaf)[0]
    margin = logits[label] - logits[1 - label]
    slope = torch.autograd.grad(margin, leaf)[0][0]
    slope, was = (t[:, positions[:, 0], positions[:, 1]].T for t in (slope, image.double()))
    worst = margin.detach() + torch.minimum(slope * (low - was), slope * (high - was)).sum(dim=1)
    network.float()
    _, lowest = bounds_of(network, image).margins(image, positions, low, high)
    torch.testing.assert_close(lowest, worst, rtol=0.0, atol=1e-4)
    assert bool((lowest < worst).all())
    proved = certified(network, image, positions, low, high, tried=1)
    clear = worst.abs() > 1e-4
    assert torch.equal(proved[clear], (worst > 0.0)[clear])


def test_affine_bounds_are_closer_than_interval_bounds():
    for kind in NETWORKS:
        network, image = made(kind, 9, 5)
        bounds, positions = bounds_of(network, image), everywhere(image)
        low, high = boxes(len(positions), -0.5, 0.5)
        affine = bounds.margins(image, positions, low, high)[1]
        original = forms.of_box

        def interval(a, b, affine=original):
            form = affine(a, b)
            form[:, -1] += form[:, 1:-1].abs().sum(dim=1)
            form[:, 1:-1] = 0.0
            return form

        forms.of_box = interval
        try:
            loose = bounds.margins(image, positions, low, high)[1]
        finally:
            forms.of_box = original
        # not everywhere: the slope of an affine form costs something where ReLU changes sign
        assert float((affine >= loose - 1e-9).double().mean()) > 0.9
        assert bool((affine > loose + 1e-3).any())


def test_more_boxes_prove_more_and_lose_nothing():
    network, image = made("strided", 10, 1)
    positions = everywhere(image)
    low, high = boxes(len(positions), -4.0, 4.0)
    proved = [certified(network, image, positions, low, high, tried) for tried in (1, 8, 64, 512)]
    for fewer, more in itertools.pairwise(proved):
        assert bool((more | ~fewer).all())
    assert int(proved[0].sum()) < int(proved[1].sum()) < int(proved[3].sum())


def test_no_more_boxes_are_tried_than_allowed(monkeypatch):
    network, image = made("strided", 10, 1)
    bounds, positions = bounds_of(network, image), everywhere(image)
    tried = torch.zeros(10, 10, dtype=torch.int64)
    whole = bounds._lowest_of_few

    def counted(clean, at, low, high):
        tried.index_put_((at[:, 0], at[:, 1]), torch.ones(len(at), dtype=torch.int64), accumulate=True)
        return whole(clean, at, low, high)

    monkeypatch.setattr(bounds, "_lowest_of_few", counted)
    which = torch.zeros(len(positions), dtype=torch.int64)
    bounds.certified(image[None], which, positions, *boxes(len(positions), -4.0, 4.0), 20)
    assert 10 < int(tried.max()) <= 20


@pytest.mark.parametrize("bands", [1, 2, 3])
def test_a_box_with_larger_margins_than_the_clean_one_is_proved(bands):
    convolution, head = nn.Conv2d(bands, 1, 1, bias=False), nn.Linear(4, 2, bias=False)
    network = nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), head).requires_grad_(False).eval()
    convolution.weight.data.fill_(1.0)
    head.weight.data[:] = torch.tensor([[1.0], [0.0]])
    images, zero = torch.full((1, bands, 2, 2), 0.5), torch.zeros(1, 2, dtype=torch.int64)
    low, high = torch.full((1, bands), 1.5), torch.full((1, bands), 1.51)
    assert bool(bounds_of(network, images[0]).certified(images, zero[:, 0], zero, low, high))


@pytest.mark.parametrize(("margin", "proved"), [(0.004, True), (-0.004, False)])
@pytest.mark.parametrize("worst", [0.505, 0.495, 0.251, 0.75])
def test_the_parts_of_a_box_leave_no_gap(worst, margin, proved):
    # the logits differ by |x - worst| + margin
    convolution, head = nn.Conv2d(1, 2, 1), nn.Linear(8, 2)
    network = nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), head).requires_grad_(False).eval()
    convolution.weight.data[:] = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
    convolution.bias = nn.Parameter(torch.tensor([-worst, worst]), requires_grad=False)
    head.weight.data.zero_()
    head.weight.data[0, [0, 4]] = 1.0
    head.bias.data[:] = torch.tensor([margin, 0.0])
    images, zero = torch.full((1, 1, 2, 2), 0.9), torch.zeros(1, 2, dtype=torch.int64)
    low, high = torch.zeros(1, 1), torch.ones(1, 1)
    assert bool(bounds_of(network, images[0]).certified(images, zero[:, 0], zero, low, high, 4096)) is proved


def test_nothing_is_proved_where_the_program_does_not_give_the_logits_of_the_network():
    network, image = made("pooled", 9, 3)
    positions = everywhere(image)
    images, which = torch.stack((image, image)), torch.arange(2).repeat_interleave(len(positions))
    values = image[:, positions[:, 0], positions[:, 1]].T.repeat(2, 1)
    bounds = bounds_of(network, image)
    logits = network(images)
    label = int(logits[0].argmax())
    above, below = logits.clone(), logits.clone()  # the same class, but not this network
    above[1, label] += 1e-3
    below[1, (label + 1) % 3] -= 1e-3
    cases = (logits, True), (above, False), (below, False), (logits.roll(1, 1), False), (torch.nan * logits, False)
    for given, second in cases:
        proved = bounds.certified(images, which, positions.repeat(2, 1), values, values, logits=given)
        assert bool((proved.view(2, -1)[1] == second).all())
        assert bool(proved.view(2, -1)[0].all()) == bool(torch.equal(given[0], logits[0]))


def test_nothing_is_proved_on_a_device_that_may_round_otherwise():
    network, image = made("pooled", 9, 3)
    value, zero = image[:, 0, 0][None], torch.zeros(1, 2, dtype=torch.int64)
    bounds = bounds_of(network, image)
    assert bool(bounds.certified(image[None], zero[:, 0], zero, value, value))
    assert not bool(bounds.certified(image[None].to("meta"), zero[:, 0], zero, value, value))


def test_nothing_is_proved_where_the_network_gives_another_class_than_the_program():
    # logits h and h + 0.5: which is larger is sure, but not h, the rounded difference of large numbers
    convolution, head = nn.Conv2d(1, 1, 1), nn.Linear(4, 2)
    network = nn.Sequential(convolution, nn.Flatten(), head).requires_grad_(False).eval()
    convolution.weight.data.fill_(1e6)
    convolution.bias = nn.Parameter(torch.tensor([-1e6]), requires_grad=False)
    head.weight.data.zero_()
    head.weight.data[:, 0] = 1.0
    head.bias.data[:] = torch.tensor([0.0, 0.5])
    images, zero = torch.ones(1, 1, 2, 2), torch.zeros(1, 2, dtype=torch.int64)
    logits, bounds = network(images), bounds_of(network, images[0])
    for given, proved in ((logits, True), (logits + 0.5, True), (logits.flip(1), False)):
        value = images[:, :, 0, 0]
        assert bool(bounds.certified(images, zero[:, 0], zero, value, value, logits=given)) is proved


def test_margins_near_rounding_are_not_proved():
    # logits 1e8 + 1 + x - 1e8 and 0: what comes out in float32 depends on the order of the sum
    convolution, head = nn.Conv2d(1, 3, 1, bias=False), nn.Linear(3 * 4, 2)
    network = nn.Sequential(convolution, nn.Flatten(), head).requires_grad_(False).eval()
    convolution.weight.data[:] = torch.tensor([1e8, 1.0, -1e8]).view(3, 1, 1, 1)
    head.weight.data.zero_()
    head.bias.data.zero_()
    head.weight.data[0, [0, 4, 8]] = 1.0
    image = torch.ones(1, 2, 2)
    terms = [1e8, 1.0, -1e8]
    sums = {float(sum((torch.tensor(t) for t in order), torch.tensor(0.0))) for order in itertools.permutations(terms)}
    assert {0.0, 1.0} <= sums  # a tie, or the right class
    bounds = bounds_of(network, image)
    one = torch.ones(1, 1)
    assert not bool(bounds.certified(image[None], torch.zeros(1, dtype=torch.int64), torch.tensor([[1, 1]]), one, one))


@pytest.mark.parametrize("gap", [0.0, 1.0, 4.0])
def test_a_tie_or_a_margin_of_a_few_ulp_is_not_proved(gap):
    network, image = made("pooled", 8, 0)
    logits = network(image[None])[0]
    order = logits.argsort(descending=True)
    head = network[-1]
    head.bias.data[order[0]] -= logits[order[0]] - logits[order[1]] * (1.0 + gap * 2.0**-23)
    values = image[:, 3, 3][None]
    assert not bool(certified(network, image, torch.tensor([[3, 3]]), values, values))


@pytest.mark.parametrize("kind", NETWORKS)
def test_holds_for_folded_batch_norm_and_layers_and_for_other_orders_of_summation(kind):
    for seed in range(3):
        network, image = made(kind, 8, seed)
        folded = read(network, image[None])
        assert folded is not None
        values: dict[str, torch.Tensor] = {}
        for op in folded.ops:
            if op.kind == "input":
                values[op.name] = image[None]
            elif op.kind == "flatten":
                values[op.name] = values[op.inputs[0]].flatten(1)
            else:
                values[op.name] = op.call(*(values[name] for name in op.inputs))
        clean = bounds_of(network, image)._clean(image)
        for logits in (
            values[folded.output][0],
            network(image[None])[0],
            network(image[None].flip(0).expand(20, -1, -1, -1))[7],
        ):
            margin = (logits[clean.label] - logits)[[k for k in range(3) if k != clean.label]].double()
            low, high = forms.ends(clean.result)
            assert bool((low.flatten() <= margin).all())
            assert bool((margin <= high.flatten()).all())


def test_a_galaxy_is_proved_alike_alone_and_in_any_order():
    network, image = made("pooled", 8, 1)
    images = torch.stack((image, 0.5 * image, image.flip(1)))
    bounds = bounds_of(network, image)
    positions = everywhere(image).repeat(3, 1)
    which = torch.arange(3).repeat_interleave(64)
    low, high = boxes(len(which), -2.0, 2.5)
    proved = bounds.certified(images, which, positions, low, high)
    assert 0 < int(proved.sum()) < len(proved)
    order = torch.randperm(len(which))
    assert torch.equal(bounds.certified(images, which[order], positions[order], low[order], high[order]), proved[order])
    alone = [
        bounds.certified(images, which[k : k + 1], positions[k : k + 1], low[k : k + 1], high[k : k + 1])
        for k in range(0, len(which), 7)
    ]
    assert torch.equal(torch.cat(alone), proved[::7])


@pytest.mark.parametrize(
    ("layer", "says"), [(nn.Sigmoid(), "sigmoid"), (nn.Softmax(dim=1), "other"), (nn.LeakyReLU(1.5), "leakyrelu")]
)
def test_what_has_no_bounds_is_refused(layer, says):
    network = nn.Sequential(nn.Conv2d(BANDS, 2, 3), layer, nn.Flatten(), nn.Linear(2 * 36, 2)).eval()
    image = torch.zeros(BANDS, 8, 8)
    bounds = Bounds(read(network, image[None], folded=False))
    assert bounds.refuses is not None
    assert says in bounds.refuses
    low, high = boxes(1, 0.0, 0.0)
    assert not bool(bounds.certified(image[None], torch.zeros(1, dtype=torch.int64), torch.tensor([[1, 1]]), low, high))


def test_refuses_a_network_that_cannot_be_followed_or_is_not_in_float32():
    assert Bounds(None).refuses is not None
    network = nn.Sequential(nn.Conv2d(BANDS, 2, 3), nn.Flatten(), nn.Linear(2 * 36, 2)).double().eval()
    refused = Bounds(read(network, torch.zeros(1, BANDS, 8, 8).double(), folded=False)).refuses
    assert refused is not None
    assert "float32" in refused
    open_ended = nn.Sequential(nn.Conv2d(BANDS, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    assert "last" in str(Bounds(read(open_ended, torch.zeros(1, BANDS, 8, 8), folded=False)).refuses)


def test_works_on_the_published_network():
    torch.manual_seed(0)
    network = ConvNet(bands=BANDS, size=24).requires_grad_(False).eval()
    image = torch.rand(BANDS, 24, 24)
    positions = torch.tensor([[0, 0], [11, 12], [23, 23], [5, 0]])
    near = image[:, positions[:, 0], positions[:, 1]].T
    network.fc.bias.data[0] += 1.0
    assert bool(certified(network, image, positions, near - 0.1, near + 0.1).all())


def test_a_victim_certifies_in_input_space(contract):
    network, _ = made("residual", 8, 0)
    network.first, network.shortcut = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1)
    contract = contract.model_copy(update={"mean": (0.4,) * 3, "std": (0.2,) * 3})
    subject = Subject(network, contract)
    x = torch.rand(2, 3, 8, 8)
    victim = subject.victim(x)
    which, positions = torch.arange(2).repeat_interleave(64), everywhere(x[0]).repeat(2, 1)
    low, high = torch.zeros_like(x), torch.ones_like(x)
    proved = victim.certify(which, positions, low, high, 64)
    ends = (contract.to_network(edge)[which, :, positions[:, 0], positions[:, 1]] for edge in (low, high))
    assert torch.equal(proved, subject.bounds(x).certified(contract.to_network(x), which, positions, *ends))
    assert int(victim.certify(which, positions, x, x, 64).sum()) >= int(proved.sum()) > 0
    label = subject.outputs(x).logits.argmax(dim=1)
    for corner in itertools.product((0.0, 1.0), repeat=3):
        logits = victim.logits_at(which, positions[:, None], torch.tensor(corner).expand(128, 1, 3))
        assert bool((logits.argmax(dim=1) == label[which])[proved].all())
    other = Subject(network, contract.model_copy(update={"output": "probabilities"})).victim(x)
    assert not bool(other.certify(which, positions, x, x, 64).any())


def test_nothing_is_proved_where_the_clean_class_is_in_doubt():
    network, image = made("residual", 8, 0)
    logits = network(image[None])[0]
    best, second = logits.topk(2).indices.tolist()
    network.head.bias.data[best] -= logits[best] - logits[second]  # a tie, that another value of a pixel can break
    positions = everywhere(image)
    label, lowest = bounds_of(network, image).margins(image, positions, *boxes(64, 2.0, 2.0))
    assert label in (best, second)
    assert bool((lowest > 1e-2).any())
    assert not bool(certified(network, image, positions, *boxes(64, 2.0, 2.0)).any())


def test_a_relu_that_two_operations_use_stays_before_the_maximum():
    class Forked(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(BANDS, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
            self.pool, self.head = nn.MaxPool2d(3, 1, padding=1), nn.Linear(3 * 64, 2)

        def forward(self, x):
            x = nn.functional.leaky_relu(self.first(x), 0.5)
            return self.head((self.pool(x) + self.second(x)).flatten(1))

    torch.manual_seed(0)
    network, image = Forked().requires_grad_(False).eval(), torch.randn(BANDS, 8, 8)
    positions, values = everywhere(image), torch.randn(64, BANDS)
    label, lowest = bounds_of(network, image).margins(image, positions, values, values)
    logits = network(torch.cat([changed(image, p, v[None]) for p, v in zip(positions, values, strict=True)]))
    torch.testing.assert_close(lowest.float(), logits[:, label] - logits[:, 1 - label], rtol=0.0, atol=1e-3)
