"""Grad-CAM: maps worked by hand and by autograd, a network that is left alone, and the figure of what was stored."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from perturbations.errors import InputError
from robustastro.contract import InputContract, Stretch
from robustastro.data.galaxies import Galaxies
from robustastro.evaluate.gradcam import gradcam, last_convolution, write_gradcam
from robustastro.figures import gradcam as drawing
from robustastro.figures.style import save
from robustastro.models.nets import ConvNet, DeepMerge, ResNet18, TinyNet, cosine_head
from robustastro.models.subject import Subject

BANDS = ("g", "r", "i")


def contract(bands: tuple[str, ...] = BANDS, classes: tuple[str, ...] = ("a", "b", "c"), **changes) -> InputContract:
    stretch = Stretch(kind="linear", low=(0.0,) * len(bands), high=(1.0,) * len(bands))
    return InputContract(bands=bands, classes=classes, stretch=stretch, **changes)


class Pooled(nn.Module):
    """A convolution with stride 2, its mean over the map, a linear head: Grad-CAM is then known in closed form."""

    def __init__(self) -> None:
        super().__init__()
        self.late = nn.Conv2d(2, 2, 2, stride=2, bias=False)
        self.early = nn.Conv2d(1, 2, 1, bias=False)  # defined last, runs first
        self.head = nn.Linear(2, 3, bias=False)

    def forward(self, x):
        return self.head(self.late(self.early(x)).mean((2, 3)))


def pooled() -> Pooled:
    network = Pooled()
    with torch.no_grad():
        network.early.weight.copy_(torch.tensor([1.0, 2.0]).view(2, 1, 1, 1))
        # channel 0: the upper left pixel of each 2 x 2; channel 1: half the lower right one of the second channel
        network.late.weight.zero_()
        network.late.weight[0, 0, 0, 0] = 1.0
        network.late.weight[1, 1, 1, 1] = 0.5
        network.head.weight.copy_(torch.tensor([[1.0, 0.0], [1.0, -1.0], [-1.0, 0.0]]))
    return network


def test_a_map_worked_by_hand():
    """With channel weights w_ck / 4, the mean of the gradient of a mean over 2 x 2, the maps are relu(sum w_ck A_k)."""
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 0, 0], x[0, 0, 0, 2], x[0, 0, 2, 0], x[0, 0, 2, 2] = 0.8, 0.4, 0.2, 0.0  # A_0
    x[0, 0, 1, 1], x[0, 0, 3, 1] = 0.3, 0.9  # A_1: upper left, lower left
    found = gradcam(Subject(pooled(), contract(("r",)), chunk=4), x)
    assert found.shape == (1, 3, 4, 4)

    def enlarged(small):  # from 2 x 2 to 4 x 4: a quarter of the way to the neighbour, held beyond the outer centres
        along = np.array([[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]])
        return along @ np.array(small) @ along.T

    first = enlarged([[0.8, 0.4], [0.2, 0.0]]) / 0.8
    second = enlarged([[0.5, 0.4], [0.0, 0.0]]) / 0.5  # 0.8 - 0.3, 0.4 - 0, 0.2 - 0.9 < 0
    assert found[0, 0].numpy() == pytest.approx(first, abs=1e-6)
    assert found[0, 1].numpy() == pytest.approx(second, abs=1e-6)
    assert not found[0, 2].any()  # nothing speaks for the third class: 0, not NaN


def seeded(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0.0, 0.3, generator=generator)
            module.running_var.uniform_(0.3, 2.0, generator=generator)
    return network


def by_autograd(subject: Subject, layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Equations 1 and 2 of Selvaraju et al., image by image, without captum."""
    kept: list[torch.Tensor] = []

    def keep(_module, _given, result):
        kept.append(result)
        return result.clone()  # a ReLU in place after it would change what is kept

    hook = layer.register_forward_hook(keep)
    maps = []
    for image in x:
        kept.clear()
        given = subject.contract.to_network(image[None].clone().requires_grad_(True))
        logits = subject.contract.to_logits(subject.network(given))[0]
        each = []
        for logit in logits:
            (gradient,) = torch.autograd.grad(logit, kept[0], retain_graph=True)
            small = (gradient.mean((2, 3), keepdim=True) * kept[0]).sum(1, keepdim=True).relu()
            large = nn.functional.interpolate(small, image.shape[1:], mode="bilinear")[0, 0].detach()
            each.append(large / large.max() if large.max() > 0 else large)
        maps.append(torch.stack(each))
    hook.remove()
    return torch.stack(maps)


class InPlace(nn.Module):
    """A ReLU that overwrites the output of the last convolution, and probabilities as the output."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.relu = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3, stride=2), nn.ReLU(inplace=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.relu(self.b(self.relu(self.a(x)))).mean((2, 3))).softmax(dim=1)


CASES = {
    "convnet": (lambda: ConvNet(size=40), {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}, "conv3"),
    "deepmerge": (lambda: DeepMerge(classes=3, size=40), {"range": (-1.0, 1.0)}, "conv3"),
    "resnet18": (ResNet18, {}, "layer4.1.conv2"),
    "tiny": (TinyNet, {}, "conv1"),
    "in place": (InPlace, {"output": "probabilities"}, "b"),
}


def subject_of(case: str) -> Subject:
    make, changes, _ = CASES[case]
    torch.manual_seed(0)
    return Subject(seeded(make()), contract(**changes), chunk=3)


@pytest.mark.parametrize("case", CASES)
def test_maps_are_those_of_autograd(case):
    subject, x = subject_of(case), torch.rand(4, 3, 40, 40, generator=torch.Generator().manual_seed(2))
    layer = subject.network.get_submodule(CASES[case][2])
    assert last_convolution(subject, x) is layer
    found, expected = gradcam(subject, x), by_autograd(subject, layer, x)
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=2e-4)
    assert set(found.amax((2, 3)).unique().tolist()) <= {0.0, 1.0}
    assert found.min() >= 0.0
    assert torch.equal(gradcam(subject, x, [2, 0]), found[:, [2, 0]])
    assert torch.allclose(gradcam(subject, x[2:3]), found[2:3], atol=1e-5)


def test_a_cosine_head_has_maps():
    torch.manual_seed(0)
    network = TinyNet()
    cosine_head(network, 0.05)
    subject, x = Subject(network, contract()), torch.rand(2, 3, 24, 24)
    layer = subject.network.get_submodule("conv1")
    assert torch.allclose(gradcam(subject, x), by_autograd(subject, layer, x), atol=2e-4)


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_network_and_the_images_are_left_alone(around):
    subject, x = subject_of("convnet"), torch.rand(4, 3, 40, 40)
    before, logits, kept = subject.fingerprint(), subject.outputs(x).logits, x.clone()
    with around():
        found = gradcam(subject, x)
        assert torch.is_grad_enabled() == (around is torch.enable_grad)
    assert not found.requires_grad
    assert subject.fingerprint() == before  # weights, buffers, modes, hooks, gradients
    assert not x.requires_grad
    assert torch.equal(x, kept)
    assert torch.equal(subject.outputs(x).logits, logits)


def test_what_has_no_maps_is_refused():
    x = torch.rand(1, 3, 8, 8)
    flat = Subject(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), contract())
    with pytest.raises(InputError, match="without a Conv2d"):
        gradcam(flat, x)
    with pytest.raises(InputError, match=r"class 3.*0 to 2"):
        gradcam(Subject(TinyNet(), contract()), x, [3])


# ---------------------------------------------------------------------- what is stored, and drawn


def galaxies(domain: str, n: int = 20, seed: int = 0) -> Galaxies:
    """Blobs on a sky: galaxies of class k have their light towards one corner."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    rows, columns = np.mgrid[:32, :32]
    at = 12 + 8 * labels
    light = np.exp(-((rows - at[:, None, None]) ** 2 + (columns - 16) ** 2) / 40)
    images = 0.7 * light[:, None] + 0.1 * rng.random((n, 3, 32, 32))
    ids = tuple(f"{domain}-{k}" for k in range(n))
    return Galaxies(images.astype(np.float32), labels, ids, ("non-merger", "merger"), BANDS, domain=domain)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    torch.manual_seed(4)
    made = contract(classes=("non-merger", "merger"))
    subjects = {
        "regular training": Subject(DeepMerge(size=32), made),
        "domain adaptation": Subject(DeepMerge(size=32), made),
    }
    path = tmp_path_factory.mktemp("gradcam") / "maps.npz"
    sets = [galaxies("source"), galaxies("target", seed=1)]
    return path, subjects, sets, write_gradcam(path, subjects, sets, each=2)


def test_the_file_holds_the_same_number_of_every_class_and_domain_and_their_maps(stored):
    path, subjects, sets, arrays = stored
    with np.load(path, allow_pickle=False) as file:
        assert set(file) == set(arrays)
        assert all(np.array_equal(file[name], value) for name, value in arrays.items())
    assert arrays["labels"].tolist() == [0, 0, 1, 1] * 2
    assert arrays["domains"].tolist() == ["source"] * 4 + ["target"] * 4
    truth = {i: (k, image) for g in sets for i, k, image in zip(g.ids, g.labels, g.images, strict=True)}
    for galaxy, label, image in zip(arrays["ids"], arrays["labels"], arrays["images"], strict=True):
        assert truth[galaxy][0] == label
        assert np.array_equal(truth[galaxy][1], image)
    x = torch.from_numpy(arrays["images"])
    for m, subject in enumerate(subjects.values()):
        assert arrays["maps"][m] == pytest.approx(gradcam(subject, x).numpy(), abs=1e-5)
        assert arrays["probabilities"][m] == pytest.approx(subject.outputs(x).logits.softmax(1).numpy(), abs=1e-6)


def test_the_choice_does_not_hang_on_the_order(stored, tmp_path):
    _, subjects, sets, arrays = stored
    turned = [g.take(np.arange(len(g))[::-1]) for g in sets]
    assert write_gradcam(tmp_path / "m.npz", subjects, turned)["ids"].tolist() == arrays["ids"].tolist()


def test_models_that_see_other_images_are_refused(stored, tmp_path):
    _, subjects, sets, _ = stored
    other = contract(classes=("non-merger", "merger"), mean=(0.1, 0.1, 0.1))
    with pytest.raises(InputError, match="different contracts"):
        write_gradcam(tmp_path / "m.npz", {**subjects, "mmd": Subject(DeepMerge(size=32), other)}, sets)
    with pytest.raises(InputError, match="nothing"):
        write_gradcam(tmp_path / "m.npz", {}, sets)
    assert not list(tmp_path.iterdir())


def test_the_figure_shows_what_is_stored(stored, tmp_path):
    path, _, _, arrays = stored
    found = drawing.Maps.read(path)
    fig = drawing.figure(found)
    maps = [ax for ax in fig.axes if any(image.get_gid() == "map" for image in ax.images)]
    assert len(maps) == 8 * 4
    for at, ax in enumerate(maps):
        n, (m, k) = at // 4, divmod(at % 4, 2)
        assert np.array_equal(np.asarray(ax.images[0].get_array()), arrays["maps"][m, n, k])
        p = arrays["probabilities"][m, n]
        assert ax.get_xlabel() == f"p = {p[k]:.2f}"
        framed = ax.spines["left"].get_linewidth() > 1
        assert framed == (p[k] > 0.5)
    titles = [ax.get_title(loc="left") for ax in maps[:4]]
    assert titles == [
        "regular training\nfor non-merger", "\nfor merger", "domain adaptation\nfor non-merger", "\nfor merger",
    ]  # fmt: skip
    labels = [ax.get_ylabel() for ax in fig.axes if ax.get_ylabel()]
    assert labels[:5] == ["non-merger\nsource"] * 2 + ["merger\nsource"] * 2 + ["non-merger\ntarget"]
    words = drawing.caption(found)
    assert "n = 8 galaxies (4 of source, 4 of target)" in words
    save(fig, tmp_path / "g.png")
    one = drawing.figure(found, ["merger"])
    assert len([ax for ax in one.axes if any(image.get_gid() == "map" for image in ax.images)]) == 16
    with pytest.raises(InputError, match="Did you mean 'merger'"):
        drawing.figure(found, ["mergre"])


def test_files_that_are_no_maps_are_refused(stored, tmp_path):
    arrays = stored[-1]
    with pytest.raises(InputError, match=r"none\.npz cannot be read"):
        drawing.Maps.read(tmp_path / "none.npz")
    np.savez(tmp_path / "half.npz", images=arrays["images"])
    with pytest.raises(InputError, match="cannot be read"):
        drawing.Maps.read(tmp_path / "half.npz")
    np.savez(tmp_path / "odd.npz", **(arrays | {"labels": arrays["labels"][:3]}))
    with pytest.raises(InputError, match=r"labels of shape \(3,\)"):
        drawing.Maps.read(tmp_path / "odd.npz")


def test_drawing_needs_neither_torch_nor_captum():
    code = "import sys, robustastro.figures.gradcam; print({'torch', 'captum'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
