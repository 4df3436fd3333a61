"""Inference on changed pixels equals the dense pass on whole images, for any network that torch.fx can follow."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional

from robustastro.contract import InputContract, Stretch
from robustastro.models.nets import ConvNet, DeepMerge, ResNet18, TinyNet
from robustastro.models.sparse import inference
from robustastro.models.sparse.inference import PixelInference, decide, work_of
from robustastro.models.sparse.program import read
from robustastro.models.sparse.windows import Reach, Windows, reaches
from robustastro.models.subject import Subject

HEIGHT, WIDTH = 11, 14
ACTIVATIONS = (
    nn.ReLU(), nn.ReLU(inplace=True), nn.LeakyReLU(0.2), nn.GELU(), nn.SiLU(), nn.Tanh(), nn.Sigmoid(), nn.ELU(),
    nn.Hardswish(), nn.PReLU(), nn.Softplus(), nn.ReLU6(), nn.Mish(),
)  # fmt: skip


@pytest.fixture(autouse=True)
def same_numbers():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def seeded(network: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights and batch-norm statistics, all different, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in itertools.chain(network.parameters(), network.buffers()):
        if tensor.is_floating_point():
            tensor.data.normal_(0.0, 0.4, generator=generator)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d) and module.running_var is not None:
            module.running_var.uniform_(0.5, 2.0, generator=generator)
    return network.eval().requires_grad_(False)


def random_network(seed: int) -> nn.Module:
    """Convolutions of every kind, norms, activations and pooling in a random order, then a head."""
    g = torch.Generator().manual_seed(seed)

    def choose(*values):
        return values[int(torch.randint(len(values), (), generator=g))]

    layers: list[nn.Module] = []
    channels, height, width = 3, HEIGHT, WIDTH
    for _ in range(choose(2, 3, 4)):
        kernel, dilation = (choose(1, 2, 3, 5), choose(1, 2, 3)), choose(1, 1, 2)
        stride, padding = (choose(1, 1, 2, 3), choose(1, 1, 2)), (choose(0, 1, 2), choose(0, 1))
        groups, after = choose(1, 1, channels), channels * choose(1, 2)
        conv = nn.Conv2d(channels, after, kernel, stride, padding, dilation, groups, bias=choose(True, False))
        probe = (torch.zeros(1, channels, height, width),)
        try:
            shape = conv(*probe).shape
        except RuntimeError:  # the kernel is larger than the map
            continue
        layers.append(conv)
        if choose(True, False):
            layers.append(nn.BatchNorm2d(after))
        layers.append(copy.deepcopy(choose(*ACTIVATIONS)))
        channels, height, width = after, shape[2], shape[3]
        if min(height, width) >= 4:
            pool = choose(
                None, nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, 1, dilation=2), nn.AvgPool2d(3, 2, 1),
                nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.AvgPool2d(2, divisor_override=3),
            )  # fmt: skip
            if pool is not None:
                layers.append(pool)
                shape = pool(torch.zeros(1, channels, height, width)).shape
                height, width = shape[2], shape[3]
    bins = choose(None, 1, 2, (2, 3))
    if bins is not None:
        layers.append(nn.AdaptiveAvgPool2d(bins))
        height, width = (bins, bins) if isinstance(bins, int) else bins
    layers += [nn.Dropout(0.3), nn.Flatten(), nn.Linear(channels * height * width, 7)]
    layers += [*choose([], [nn.ReLU()], [nn.BatchNorm1d(7)]), nn.Linear(7, 4)]
    return seeded(nn.Sequential(*layers), seed)


class Residual(nn.Module):
    """Blocks with shortcuts, parts joined by channel, functions in place of modules, constants."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3, padding="same"), nn.BatchNorm2d(4)
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 5, padding=2)
        self.down, self.side = nn.Conv2d(4, 6, 3, 2, 1), nn.Conv2d(4, 6, 1, 2)
        self.fc = nn.Linear(12, 3)
        self.register_buffer("mean", torch.rand(3, 1, 1))

    def forward(self, x):
        x = (x - self.mean) * 2.0 / 0.7
        stem = self.stem(x)
        x = functional.relu(self.norm(stem)) + stem
        out = self.b(functional.leaky_relu(self.a(x), 0.1))
        out += x
        x = functional.max_pool2d(out.relu(), 2, stride=1)
        side = self.side(x)
        x = torch.cat([side + torch.tanh(self.down(x)), side], 1)
        x = functional.avg_pool2d(x, 2)
        return x.mean((2, 3)), self.fc(functional.adaptive_avg_pool2d(x, 1).view(x.size(0), -1))


class Unknown(nn.Module):
    """An operation on maps that windows do not know."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 5, 3, padding=1)
        self.norm, self.fc = nn.GroupNorm(1, 5), nn.Linear(5 * HEIGHT * WIDTH, 3)

    def forward(self, x):
        return self.fc(self.b(self.norm(self.a(x))).flatten(1))


class Doubled(nn.Module):
    """The same channels twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(8, 4, 3), nn.Linear(4, 3)

    def forward(self, x):
        x = self.a(x)
        return self.fc(self.b(torch.cat([x, x], 1)).mean((2, 3)))


class TwoHeads(nn.Module):
    """Two layers on the same flattened map, one of them linear to the end."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 2, 3)
        self.b, self.c = (nn.Linear(2 * (HEIGHT - 2) * (WIDTH - 2), 3) for _ in range(2))

    def forward(self, x):
        x = self.a(x).relu().flatten(1)
        return self.b(x) + self.c(x.square()).tanh()


class Masked(nn.Module):
    """A constant that differs from pixel to pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.fc = nn.Conv2d(3, 5, 3, padding=1), nn.Linear(5 * HEIGHT * WIDTH, 3)
        self.register_buffer("mask", torch.rand(1, 1, HEIGHT, WIDTH))

    def forward(self, x):
        return self.fc((self.a(x) * self.mask).flatten(1))


class Inside(nn.Module):
    """In place, in ways that torch.fx shows as if they were not, or does not show at all."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.a, self.b = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.relu, self.fc = nn.ReLU(inplace=True), nn.Linear(3 * HEIGHT * WIDTH, 3)
        if how == "hook":
            self.a.register_forward_hook(lambda module, given, result: result.clamp(max=0.1))
        if how == "cache":
            self.grid = None

    def forward(self, x):
        h = self.a(x)
        if self.how == "statement":
            h.clamp_(max=0.1)
        elif self.how == "module":
            self.relu(h)
        elif self.how == "before":  # a pre-activation block: the shortcut, too, is rectified
            h = h + self.b(self.relu(h))
        elif self.how == "alias":
            kept = h.view(h.shape)
            h = self.b(self.relu(h)) + kept
        elif self.how == "name":
            kept = h
            h += self.b(h)
            h = self.b(h) + kept
        elif self.how == "item":
            h[:, 0] = 0.0
        elif self.how == "cache":
            self.grid = h * 0.5 if self.grid is None else self.grid
            h = h + 1.0
        return self.fc(h.flatten(1))


class Branching(nn.Module):
    """A forward pass that looks at its numbers: torch.fx cannot follow it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * HEIGHT * WIDTH, 3)

    def forward(self, x):
        return self.fc(x.flatten(1)) * (2.0 if float(x.max()) > 0.99 else 1.0)


def contract(**more) -> InputContract:
    stretch = Stretch(kind="linear", low=(0.0,) * 3, high=(1.0,) * 3)
    return InputContract(bands=("g", "r", "i"), classes=("a", "b", "c"), stretch=stretch, **more)


def changed(x: torch.Tensor, which: torch.Tensor, positions: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    images = x[which].clone()
    for k in range(positions.shape[1]):  # one after the other: of two values for one pixel the later one stays
        images[torch.arange(len(which)), :, positions[:, k, 0], positions[:, k, 1]] = values[:, k]
    return images


def everywhere(x: torch.Tensor, pixels: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Every position of every image, each with other pixels beside it, and values in and far outside [0, 1]."""
    g = torch.Generator().manual_seed(seed)
    n, _, height, width = x.shape
    first = torch.cartesian_prod(torch.arange(n), torch.arange(height), torch.arange(width))
    size = (len(first), pixels - 1)
    others = torch.stack([torch.randint(side, size, generator=g) for side in (height, width)], dim=-1)
    positions = torch.cat([first[:, None, 1:], others], dim=1)
    return first[:, 0], positions, torch.randn(len(first), pixels, 3, generator=g) * 3.0


def assert_close(found: torch.Tensor, dense: torch.Tensor) -> None:
    assert float((found - dense).abs().max()) <= 1e-5 * float(dense.abs().max())


def assert_same(network: nn.Module, pixels: int, seed: int = 0, device: str = "cpu") -> Windows:
    x = torch.rand(2, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed))
    network, x = network.to(device), x.to(device)
    which, positions, values = (t.to(device) for t in everywhere(x, pixels, seed))
    with torch.inference_mode():
        program = read(network, x[:1])
        assert program is not None
        windows = Windows(program, pixels)
        found = windows.logits(windows.clean(x), which, positions, values)
        dense = network(changed(x, which, positions, values))
    dense = dense[-1] if isinstance(dense, tuple) else dense
    assert found.shape == dense.shape
    scale = dense.abs().max()
    assert_close(found, dense)
    assert float((dense - dense[0]).abs().max()) > 1e-4 * float(scale)  # the pixels do change the logits
    return windows


@pytest.mark.parametrize("seed", range(40))
def test_random_networks_equal_the_dense_pass_at_every_position(seed):
    assert_same(random_network(seed), 1, seed)


def test_the_random_networks_cover_every_operation():
    kinds = set()
    for seed in range(40):
        program = read(random_network(seed), torch.rand(1, 3, HEIGHT, WIDTH))
        reach = Windows(program).reach
        kinds |= {op.kind for op in program.ops if op.inputs and op.inputs[0] in reach and op.kind != "flatten"}
    assert kinds == {"conv", "pointwise", "maxpool", "avgpool", "adaptive"}


@pytest.mark.parametrize("seed", range(0, 40, 5))
@pytest.mark.parametrize("pixels", [2, 4])
def test_of_several_pixels(seed, pixels):
    assert_same(random_network(seed), pixels, seed)


@pytest.mark.parametrize("pixels", [1, 3])
def test_shortcuts_functions_constants_and_joined_channels(pixels):
    windows = assert_same(seeded(Residual()), pixels)
    assert windows.program.unsupported == ()
    if pixels == 1:
        assert {"add", "cat", "maxpool"} <= {op.kind for op in windows.program.ops if op.name in windows.reach}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("seed", range(5))
def test_on_a_gpu(seed):
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        assert_same(random_network(seed), 1, seed, "cuda")


@pytest.mark.parametrize("pixels", [1, 2, 3])
@pytest.mark.parametrize(
    "network", [TwoHeads, lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(432, 3))]
)
def test_linear_layers_on_a_flattened_map(network, pixels):
    assert_same(seeded(network()), pixels)


def test_the_later_of_two_values_for_one_pixel_stays():
    network = seeded(Residual())
    x = torch.rand(1, 3, HEIGHT, WIDTH)
    positions, which = torch.tensor([[[4, 5], [4, 5]]]), torch.zeros(1, dtype=torch.int64)
    values = torch.stack([torch.full((1, 3), 9.0), torch.full((1, 3), -1.0)], dim=1)
    with torch.inference_mode():
        windows = Windows(read(network, x), 2)
        found = windows.logits(windows.clean(x), which, positions, values)
        assert_close(found, network(changed(x, which, positions, values))[-1])


def test_a_window_is_no_larger_than_what_a_pixel_reaches():
    """ConvNet: 5x5, pooled 3x3, 5x5, 3x3, 5x5, 3x3; found by changing pixels of dense passes."""
    network = seeded(ConvNet(size=40))
    x = torch.rand(1, 3, 40, 40)
    with torch.inference_mode():
        program = read(network, x)
        found = reaches(program)
    sizes = [(rows.size, columns.size) for rows, columns in found.values()]
    assert [size for size, _ in sizes] == [1, 5, 5, 3, 5, 5, 3, 5, 5, 3]
    assert all(rows == columns for rows, columns in sizes)
    seen = []
    pooled = nn.Sequential(network.conv1, network.batchn1, network.relu, network.maxpool, network.conv2)
    with torch.inference_mode():
        clean = pooled(x)
        for row in range(40):
            spoiled = x.clone()
            spoiled[0, :, row, 20] += 5.0
            rows = (pooled(spoiled) != clean).any(dim=1).any(dim=2)[0].nonzero()[:, 0]
            reach = found["conv2"][0]
            assert int(reach.low[row]) <= int(rows.min())
            assert int(rows.max()) <= int(reach.high[row])
            seen.append(int(rows.max() - rows.min()) + 1)
    assert max(seen) == 5


def test_reach_by_enumeration():
    """Rows of a convolution that depend on a row, against which inputs each output takes."""
    side, after, kernel, stride, before, dilation = 23, 8, 3, 3, 2, 2
    from robustastro.models.sparse.windows import reach_of_input, slid

    reach = slid(reach_of_input(side), after, kernel, stride, before, dilation)
    for row in range(side):
        takes = [o for o in range(after) if row in [o * stride - before + d * dilation for d in range(kernel)]]
        low, high = int(reach.low[row]), int(reach.high[row])
        assert all(low <= o <= high for o in takes)
        assert high - low + 1 <= (dilation * (kernel - 1)) // stride + 1
    assert isinstance(reach, Reach)


def test_what_is_not_known_runs_on_whole_maps_and_is_named():
    windows = assert_same(seeded(Unknown()), 1)
    assert windows.program.unsupported == ("norm",)
    assert "a" in windows.reach
    assert "b" not in windows.reach
    x = torch.rand(1, 3, HEIGHT, WIDTH)
    decision = decide(seeded(Unknown()), contract(), x)
    assert decision.reason.startswith("whole maps from norm on") or decision.mode == "dense"


@pytest.mark.parametrize(("network", "name"), [(Masked, "mul"), (Doubled, "cat")])
def test_masks_and_doubled_channels_run_on_whole_maps(network, name):
    assert assert_same(seeded(network()), 1).program.unsupported == (name,)


def test_a_forward_pass_that_looks_at_its_numbers_is_dense():
    decision = decide(seeded(Branching()), contract(), torch.rand(1, 3, HEIGHT, WIDTH))
    assert (decision.mode, decision.screening) == ("dense", False)
    assert "torch.fx" in decision.reason


@pytest.mark.parametrize("how", ["statement", "module", "before", "alias", "name", "item", "hook"])
def test_what_works_in_place_behind_the_back_of_the_graph_is_dense(how):
    x = torch.rand(2, 3, HEIGHT, WIDTH)
    network = seeded(Inside(how))
    assert decide(network, contract(), x).mode == "dense"
    which, positions, values = everywhere(x, 1, 0)
    victim = victim_of(network, x)
    assert_close(victim.logits_at(which, positions, values), network(changed(x, which, positions, values)))


def test_a_first_layer_that_works_in_place_writes_into_nothing_of_ours():
    x = torch.rand(2, 3, HEIGHT, WIDTH)
    network = seeded(nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(432, 3)))
    kept, (which, positions, values) = x.clone(), everywhere(x, 1, 0)
    written = values.clone()
    victim = victim_of(network, x)
    found = victim.logits_at(which, positions, values)
    assert torch.equal(x, kept)
    assert torch.equal(values, written)
    assert_close(found, network(changed(x, which, positions, values)))


def test_a_network_that_keeps_what_it_sees_is_followed_in_a_copy():
    subject = Subject(seeded(Inside("cache")), contract())
    subject.decision(torch.rand(1, 3, HEIGHT, WIDTH))
    assert not isinstance(subject.network.grid, torch.fx.Proxy)


def test_attention_is_an_operation_of_several_inputs():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.attention, self.fc = nn.Conv2d(3, 4, 3), nn.MultiheadAttention(4, 2), nn.Linear(4, 3)

        def forward(self, x):
            tokens = self.a(x).flatten(2).permute(2, 0, 1)
            return self.fc(self.attention(tokens, tokens, tokens)[0].mean(0))

    x = torch.rand(1, 3, HEIGHT, WIDTH)
    network = seeded(Attention())
    which, positions, values = everywhere(x, 1, 0)
    found = victim_of(network, x).logits_at(which[:20], positions[:20], values[:20])
    assert_close(found, network(changed(x, which[:20], positions[:20], values[:20])))


def test_channels_last_and_networks_without_maps_are_dense():
    assert decide(seeded(ConvNet()), contract(channels="last"), torch.rand(1, 3, 100, 100)).mode == "dense"
    flat = seeded(nn.Sequential(nn.Flatten(), nn.Linear(3 * HEIGHT * WIDTH, 3)))
    assert "reaches nearly all" in decide(flat, contract(), torch.rand(1, 3, HEIGHT, WIDTH)).reason


def test_a_network_that_is_read_wrongly_is_dense(monkeypatch):
    """The windows are tried against the dense pass before they are trusted."""
    from robustastro.models.sparse import program

    monkeypatch.setattr(program, "SAME_MODULES", (*program.SAME_MODULES, nn.ReLU))
    decision = decide(seeded(ConvNet()), contract(), torch.rand(1, 3, 100, 100))
    assert decision.mode == "dense"
    assert "differ" in decision.reason


@pytest.mark.parametrize(
    ("network", "screening"),
    [(ConvNet(), False), (DeepMerge(classes=3, size=100), False), (TinyNet(), False), (ResNet18(), True)],
)
def test_our_networks_run_on_windows_and_only_the_heavy_one_is_screened(network, screening):
    decision = decide(seeded(network), contract(), torch.rand(1, 3, 100, 100))
    assert (decision.mode, decision.screening, decision.reason) == ("windows", screening, "")


def test_the_work_of_convnet_by_hand():
    network = seeded(ConvNet())
    with torch.inference_mode():
        program = read(network, torch.rand(1, 3, 100, 100))
    heads = 3 * 32 * 12 * 12  # the two linear layers are one
    assert work_of(program, None) == 100**2 * 8 * 75 + 50**2 * 16 * 72 + 25**2 * 32 * 144 + heads
    assert work_of(program, Windows(program)) == 25 * (8 * 75 + 16 * 72 + 32 * 144) + heads


def victim_of(network, x, **more):
    return Subject(network, contract(**more)).victim(x)


@pytest.mark.parametrize(
    "more",
    [{}, {"range": (-1.0, 1.0), "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}, {"output": "probabilities"}],
)
def test_a_victim_answers_on_windows_as_on_whole_images(more):
    x = torch.rand(3, 3, 40, 40)
    victim = victim_of(seeded(ConvNet(size=40)), x, **more)
    g = torch.Generator().manual_seed(1)
    which = torch.tensor([2, 0, 1]).repeat_interleave(70)
    positions, values = torch.randint(40, (210, 1, 2), generator=g), torch.rand(210, 1, 3, generator=g)
    found, dense = victim.logits_at(which, positions, values), victim.logits(changed(x, which, positions, values))
    # the logarithm of something near zero is far from its rounding
    assert_close(*((found.exp(), dense.exp()) if more.get("output") == "probabilities" else (found, dense)))


def test_deepmerge_on_windows_answers_as_on_whole_images():
    x = torch.rand(2, 3, 75, 75)
    torch.manual_seed(3)
    network = DeepMerge(classes=3)  # weights as they are before training: logits of order 1
    for norm in (network.batchn1, network.batchn2, network.batchn3):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.uniform_(-0.2, 0.2)
        norm.running_var.uniform_(0.05, 0.5)
    victim = victim_of(network, x)
    assert victim._subject.decision(x).mode == "windows"
    edges = torch.tensor([[0, 0], [0, 74], [74, 0], [74, 74], [72, 72], [71, 40]])  # 75 is not a multiple of 8
    positions = torch.cat([edges, torch.randint(75, (200, 2))])[:, None]
    which, values = torch.randint(2, (206,)), torch.rand(206, 1, 3)
    found, dense = victim.logits_at(which, positions, values), victim.logits(changed(x, which, positions, values))
    assert float((dense - victim.logits(x)[which]).abs().max()) > 1e-3
    assert torch.allclose(found, dense, rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("each", [1, 7, 230])
def test_an_image_has_the_same_logits_to_the_bit_alone_and_among_others(each):
    x = torch.rand(4, 3, 40, 40)
    network = seeded(ConvNet(size=40))
    g = torch.Generator().manual_seed(1)
    positions, values = torch.randint(40, (4, each, 1, 2), generator=g), torch.rand(4, each, 1, 3, generator=g)
    together = victim_of(network, x).logits_at(
        torch.arange(4).repeat_interleave(each), positions.flatten(0, 1), values.flatten(0, 1)
    )
    for image in (3, 1):
        alone = victim_of(network, x[[image]]).logits_at(
            torch.zeros(each, dtype=torch.int64), positions[image], values[image]
        )
        assert torch.equal(alone, together.unflatten(0, (4, each))[image])


def test_forgotten_activations_are_computed_again(monkeypatch):
    x = torch.rand(5, 3, 40, 40)
    network = seeded(ConvNet(size=40))
    which = torch.tensor([0, 1, 2, 3, 4, 0, 4, 2])
    positions, values = torch.randint(40, (8, 1, 2)), torch.rand(8, 1, 3)
    expected = victim_of(network, x).logits_at(which, positions, values)
    monkeypatch.setattr(inference, "REMEMBERED", 1)
    bound = PixelInference(Subject(network, contract()).network, contract()).bound(x)
    assert torch.equal(bound.logits_at(which, positions, values), expected)
    assert len(bound._clean) == 1


def test_the_network_and_the_images_are_left_alone():
    x = torch.rand(2, 3, 100, 100)
    network = seeded(ResNet18())
    subject = Subject(network, contract())
    before, kept = subject.fingerprint(), x.clone()
    victim = subject.victim(x)
    which, positions, values = torch.tensor([0, 1]), torch.tensor([[[3, 4]], [[99, 0]]]), torch.ones(2, 1, 3)
    exact, coarse = victim.logits_at(which, positions, values), victim.screened_at(which, positions, values)
    assert subject.fingerprint() == before
    assert torch.equal(x, kept)
    assert coarse.dtype == exact.dtype == torch.float32
    assert 0.0 < float((exact - coarse).abs().max()) < 0.05 * float(exact.abs().max())
    assert victim.screens
    assert not victim_of(seeded(ConvNet()), x).screens
