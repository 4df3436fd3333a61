"""Model files: bundles and other people's weights load, and nothing in a file runs."""

import pickle
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from perturbations.errors import InputError
from robustastro.contract import InputContract, Stretch
from robustastro.models.bundles import load_model, save_bundle
from robustastro.models.doubts import doubts
from robustastro.models.nets import ConvNet, DeepMerge, ResNet18, TinyNet
from robustastro.models.subject import Subject


def unit_contract(bands: int = 3, **changes) -> InputContract:
    names = tuple("grizy"[:bands])
    stretch = Stretch(kind="linear", low=(0.0,) * bands, high=(1.0,) * bands)
    return InputContract(bands=names, classes=("a", "b", "c"), stretch=stretch, **changes)


def contract_file(tmp_path, **changes):
    path = tmp_path / "contract.toml"
    path.write_text(unit_contract(**changes).to_toml())
    return path


def test_the_published_networks_have_their_published_shapes():
    convnet, resnet = ConvNet(), ResNet18()
    assert {n: tuple(p.shape) for n, p in convnet.named_parameters() if "weight" in n and p.ndim > 1} == {
        "conv1.weight": (8, 3, 5, 5),
        "conv2.weight": (16, 8, 3, 3),
        "conv3.weight": (32, 16, 3, 3),
        "bottleneck.weight": (256, 32 * 12 * 12),
        "fc.weight": (3, 256),
    }
    # torchvision's resnet18 has 11,689,512 parameters with its own head of 512 x 1000 + 1000
    body = sum(p.numel() for n, p in resnet.named_parameters() if not n.startswith(("bottleneck", "fc")))
    assert body == 11_689_512 - 513_000
    names = set(resnet.state_dict())
    assert {"layer1.0.conv1.weight", "layer2.0.downsample.0.weight", "layer4.1.bn2.running_var"} <= names


def published_deepmerge(state, x):
    """The logits of DeepMerge from its parameters alone, as the published code applies them."""
    f = nn.functional
    for k in "123":
        norm = [state[f"batchn{k}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
        x = f.conv2d(x, state[f"conv{k}.weight"], state[f"conv{k}.bias"], padding="same")
        x = f.max_pool2d(f.batch_norm(x, *norm).relu(), 2)
    x = x.flatten(1)
    for k in "12":
        x = f.linear(x, state[f"fc{k}.weight"], state[f"fc{k}.bias"]).relu()
    return x, f.linear(x, state["fc3.weight"], state["fc3.bias"])


def test_weights_of_deepmerge_load_and_mean_what_they_did(tmp_path):
    shapes = {
        "conv1": (8, 3, 5, 5), "conv2": (16, 8, 3, 3), "conv3": (32, 16, 3, 3), "batchn1": (8,), "batchn2": (16,),
        "batchn3": (32,), "fc1": (64, 32 * 9 * 9), "fc2": (32, 64), "fc3": (2, 32),
    }  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in shapes.items():
        state[f"{name}.weight"] = 0.2 * torch.randn(shape, generator=generator)
        state[f"{name}.bias"] = torch.randn(shape[0], generator=generator)
        if "batchn" in name:
            state[f"{name}.running_mean"] = torch.randn(shape, generator=generator)
            state[f"{name}.running_var"] = 0.5 + torch.rand(shape, generator=generator)
            state[f"{name}.num_batches_tracked"] = torch.tensor(9)
    torch.save(state, tmp_path / "w.pt")
    contract = InputContract(
        bands=("g", "r", "i"), classes=("non-merger", "merger"), crop=75,
        stretch=Stretch(kind="linear", low=(0.0,) * 3, high=(1.0,) * 3),
    )  # fmt: skip
    (tmp_path / "contract.toml").write_text(contract.to_toml())
    model = load_model(tmp_path / "w.pt", "deepmerge", tmp_path / "contract.toml")
    x = torch.rand(3, 3, 75, 75, generator=generator)
    latent, logits = published_deepmerge(state, x)
    found = Subject(model.network, model.contract).outputs(x)
    assert found.latent.shape == (3, 32)
    assert torch.allclose(found.latent, latent, atol=1e-4)
    assert torch.allclose(found.logits, logits, atol=1e-4)


@pytest.mark.parametrize(("bands", "classes", "size"), [(1, 2, 64), (5, 10, 100)])
@pytest.mark.parametrize("network", [ConvNet, DeepMerge, ResNet18, TinyNet])
def test_networks_take_any_number_of_bands_and_classes(network, bands, classes, size):
    assert network(bands, classes, size)(torch.rand(2, bands, size, size)).shape == (2, classes)


def bundle(tmp_path, **changes):
    torch.manual_seed(0)
    network = TinyNet(3, 3)
    facts = {
        "training": {"method": "none", "seed": 4, "flags": []},
        "data": {"source": {}},
        "centroids": torch.zeros(3, 8),
        "trained_on": torch.tensor([1, 2]),
    } | changes
    path = tmp_path / "tiny.pt"
    save_bundle(path, network, "tiny", {"bands": 3, "classes": 3, "size": 32}, unit_contract(), **facts)
    return path, network


def test_a_bundle_comes_back_whole(tmp_path):
    path, network = bundle(tmp_path)
    model = load_model(path)
    assert model.contract == unit_contract()
    assert model.arch == "tiny"
    assert model.training["seed"] == 4
    assert len(model.sha256) == 64
    for name, tensor in network.state_dict().items():
        assert torch.equal(model.network.state_dict()[name], tensor)


def nested(state):
    return {"epoch": 3, "base_network": state, "optimizer": {"lr": 1e-5}}


def as_published(state):
    """DeepAdversaries registers its layers a second time, and trained in parallel."""
    return {f"module.{k}": v for k, v in state.items()} | {f"module.feature_layers.0.{k}": v for k, v in state.items()}


@pytest.mark.parametrize("wrapped", [dict, nested, as_published])
def test_bare_and_nested_state_dicts_load_with_arch_and_contract(tmp_path, wrapped):
    network = TinyNet(3, 3)
    torch.save(wrapped(network.state_dict()), tmp_path / "w.pth.tar")
    model = load_model(tmp_path / "w.pth.tar", "tiny", contract_file(tmp_path))
    assert torch.equal(model.network.state_dict()["fc.weight"], network.fc.weight)


def test_safetensors_load(tmp_path):
    from safetensors.torch import save_file

    network = TinyNet(3, 3)
    save_file({k: v.clone() for k, v in network.state_dict().items()}, tmp_path / "w.safetensors")
    model = load_model(tmp_path / "w.safetensors", "tiny", contract_file(tmp_path))
    assert torch.equal(model.network.state_dict()["conv1.weight"], network.conv1.weight)


OWN = """
from torch import nn

class Mine(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.pool, self.head = nn.AdaptiveAvgPool2d(2), nn.Linear(12, classes)

    def forward(self, x):
        z = self.pool(x).flatten(1)
        return z, self.head(z)
"""


def test_the_users_own_network_by_file_and_class(tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    torch.save({"head.weight": torch.eye(3, 12), "head.bias": torch.zeros(3)}, tmp_path / "w.pt")
    arch = f"{tmp_path / 'mine.py'}:Mine"
    model = load_model(tmp_path / "w.pt", arch, contract_file(tmp_path))
    x = torch.rand(5, 3, 8, 8)
    outputs = Subject(model.network, model.contract).outputs(x)
    assert torch.allclose(outputs.logits, outputs.latent[:, :3])
    with pytest.raises(InputError, match="Did you mean 'Mine'"):
        load_model(tmp_path / "w.pt", arch[:-1], contract_file(tmp_path))
    with pytest.raises(InputError, match=r"no file .*none.py"):
        load_model(tmp_path / "w.pt", "none.py:Mine", contract_file(tmp_path))


def test_a_bundle_does_not_run_a_network_of_its_own_unasked(tmp_path):
    marker = tmp_path / "marker"
    (tmp_path / "net.py").write_text(f"open({str(marker)!r}, 'w')\n" + OWN)
    path, _ = bundle(tmp_path)
    stored = torch.load(path, weights_only=True)
    torch.save(stored | {"arch": f"{tmp_path / 'net.py'}:Mine"}, path)
    with pytest.raises(InputError, match="not run unasked"):
        load_model(path)
    assert not marker.exists()


def test_the_name_of_a_file_does_not_make_it_a_program(tmp_path):
    torch.save(TinyNet(3, 3).state_dict(), tmp_path / "models.pt")  # torch names the archive's root after the file
    assert load_model(tmp_path / "models.pt", "tiny", contract_file(tmp_path)).arch == "tiny"


@pytest.mark.parametrize("part", ["contract", "state_dict", "training", "arch"])
def test_a_bundle_that_lacks_a_part_is_one_line(tmp_path, part):
    path, _ = bundle(tmp_path)
    stored = torch.load(path, weights_only=True)
    for broken in ({k: v for k, v in stored.items() if k != part}, stored | {part: 7}):
        torch.save(broken, path)
        with pytest.raises(InputError, match=part):
            load_model(path)


def test_integer_weights_are_refused(tmp_path):
    torch.save({k: v.to(torch.int8) for k, v in TinyNet(3, 3).state_dict().items()}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"dtype torch.int8"):
        load_model(tmp_path / "w.pt", "tiny", contract_file(tmp_path))


class Evil:
    """Would create a marker file when unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return (open, (self.marker, "w"))


def evil_state(tmp_path, marker):
    torch.save({"state_dict": {"a": torch.zeros(2)}, "x": Evil(marker)}, tmp_path / "m.pt")


def evil_model(tmp_path, marker):
    (tmp_path / "m.pt").write_bytes(pickle.dumps(Evil(marker)))


def evil_bundle(tmp_path, marker):
    torch.save({"format": "robustastro-bundle", "schema": 1, "training": Evil(marker)}, tmp_path / "m.pt")


def evil_legacy(tmp_path, marker):
    torch.save({"a": Evil(marker)}, tmp_path / "m.pt", _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("write", [evil_state, evil_model, evil_bundle, evil_legacy])
def test_a_malicious_pickle_is_refused_with_the_remedy_and_nothing_runs(tmp_path, write):
    marker = tmp_path / "marker"
    write(tmp_path, marker)
    with pytest.raises(InputError, match=r"state_dict\(\)|copy or download"):
        load_model(tmp_path / "m.pt", "tiny", contract_file(tmp_path))
    assert not marker.exists()
    pickle.loads(pickle.dumps(Evil(marker)))  # the trap itself works
    assert marker.exists()


def test_a_pickled_module_is_refused_with_the_remedy(tmp_path):
    torch.save(TinyNet(), tmp_path / "m.pt")
    with pytest.raises(InputError, match=r"state_dict\(\)"):
        load_model(tmp_path / "m.pt", "tiny", contract_file(tmp_path))


def test_programs_are_refused(tmp_path):
    torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(str(tmp_path / "script.pt"))
    with zipfile.ZipFile(tmp_path / "exported.pt", "w") as archive:
        archive.writestr("x/archive_format", "pt2")
    for name in ("script.pt", "exported.pt"):
        with pytest.raises(InputError, match="runs code when loaded"):
            load_model(tmp_path / name, "tiny", contract_file(tmp_path))


def test_damaged_missing_and_wrong_files_are_one_line(tmp_path):
    path, _ = bundle(tmp_path)
    whole = path.read_bytes()
    for name, content in (("cut.pt", whole[: len(whole) // 2]), ("empty.pt", b""), ("text.pt", b"hello")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError) as caught:
            load_model(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="No such file"):
        load_model(tmp_path / "none.pt")
    torch.save(TinyNet().state_dict(), tmp_path / "bare.pt")
    with pytest.raises(InputError, match="Add --arch and --contract"):
        load_model(tmp_path / "bare.pt")
    with pytest.raises(InputError, match=r"of convnet are missing|shape"):
        load_model(tmp_path / "bare.pt", "convnet", contract_file(tmp_path))
    two = unit_contract().model_copy(update={"classes": ("a", "b")})
    (tmp_path / "two.toml").write_text(two.to_toml())
    with pytest.raises(InputError, match=r"fc.weight has shape \(3, 8\), tiny has \(2, 8\)"):
        load_model(tmp_path / "bare.pt", "tiny", tmp_path / "two.toml")
    with pytest.raises(InputError, match="Did you mean 'convnet'"):
        load_model(tmp_path / "bare.pt", "convnt", contract_file(tmp_path))


# ---------------------------------------------------------------------- Subject


def subject(network=None, contract=None, **more) -> Subject:
    torch.manual_seed(1)
    return Subject(network or TinyNet(3, 3), contract or unit_contract(), **more)


def test_latent_is_the_input_of_the_last_linear():
    s = subject()
    x = torch.rand(7, 3, 16, 16)
    outputs = s.outputs(x)
    head = s.head
    assert head is not None
    assert torch.allclose(outputs.logits, outputs.latent @ head.weight.T + head.bias, atol=1e-6)
    other = subject(latent="bottleneck").outputs(x).latent
    assert other.shape == (7, 64)


def test_logits_do_not_depend_on_the_batch_to_the_bit():
    s = subject(ConvNet(3, 3, 32), chunk=8)
    x = torch.rand(21, 3, 32, 32)
    whole = s.outputs(x).logits
    order = np.random.default_rng(0).permutation(21)
    assert torch.equal(s.outputs(x[order]).logits, whole[order])
    assert torch.equal(s.outputs(x[4:5]).logits, whole[4:5])


def test_a_victim_writes_pixels_where_it_is_told():
    s = subject(chunk=5)
    x = torch.rand(3, 3, 10, 10)
    which = torch.tensor([0] * 7 + [2] * 4)
    positions = torch.randint(10, (11, 2, 2), generator=torch.Generator().manual_seed(0))
    values = torch.rand(11, 2, 3)
    by_hand = x[which].clone()
    for k in range(11):
        for p in range(2):
            by_hand[k, :, positions[k, p, 0], positions[k, p, 1]] = values[k, p]
    victim = s.victim(x)
    assert torch.allclose(victim.logits_at(which, positions, values), victim.logits(by_hand), atol=1e-6)


def test_a_victims_gradient_is_that_of_finite_differences():
    contract = unit_contract(range=(-1.0, 3.0), mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0))
    s = subject(contract=contract, chunk=4)
    s.network.double()
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    s._forward = lambda batch: (s.network(s.contract.to_network(batch)), torch.zeros(1))  # keep double precision
    victim = s.victim(x)
    gradient = victim.gradient(x, lambda logits: logits[:, 0] ** 2)
    for index in ((0, 0, 3, 4), (1, 2, 7, 0)):
        step = torch.zeros_like(x)
        step[index] = 1e-6
        up, down = (victim.logits(x + sign * step)[:, 0].square().sum() for sign in (1, -1))
        assert float(gradient[index]) == pytest.approx(float((up - down) / 2e-6), rel=1e-4, abs=1e-9)


def test_vote_fractions_are_attacked_as_logits():
    class Votes(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(12, 3)

        def forward(self, x):
            return self.fc(x.flatten(1)).softmax(dim=1)

    outputs = subject(Votes(), unit_contract(output="probabilities")).outputs(torch.rand(4, 3, 2, 2))
    assert torch.allclose(outputs.logits.exp().sum(dim=1), torch.ones(4))


class InPlace(TinyNet):
    def forward(self, x):
        x -= x.mean(dim=(1, 2, 3), keepdim=True)
        return super().forward(x)


@pytest.mark.parametrize("bands", [1, 3])
def test_a_network_that_works_in_place_changes_nothing_of_ours(bands):
    s = subject(InPlace(bands, 3), unit_contract(bands), chunk=4)
    x = torch.rand(8, bands, 8, 8)
    kept = x.clone()
    s.outputs(x)
    s.victim(x).gradient(x, lambda logits: logits[:, 0])
    assert torch.equal(x, kept)


def test_the_callers_network_is_not_touched():
    network = TinyNet(3, 3).train()
    subject(network).outputs(torch.rand(2, 3, 8, 8))
    assert network.training
    assert network.fc.weight.requires_grad
    assert not network.fc._forward_pre_hooks


class Keyword(TinyNet):
    def forward(self, x):
        return self.fc(input=self.bottleneck(self.pool(self.relu(self.bn1(self.conv1(x)))).flatten(1)))


def test_a_head_called_by_keyword_gives_its_latent():
    assert subject(Keyword(3, 3)).outputs(torch.rand(2, 3, 8, 8)).latent.shape == (2, 8)


class NoGradient(TinyNet):
    def forward(self, x):
        with torch.no_grad():
            return super().forward(x)


class Fails(TinyNet):
    def forward(self, x):
        return super().forward(x[:, :2])


def test_what_a_network_does_wrong_is_said_of_the_network():
    x = torch.rand(2, 3, 8, 8)
    with pytest.raises(InputError, match="no gradient of the logits"):
        subject(NoGradient(3, 3)).victim(x).gradient(x, lambda logits: logits[:, 0])
    with pytest.raises(InputError, match=r"the network fails on images .* crop, resize and channels"):
        subject(Fails(3, 3)).outputs(x)


# ---------------------------------------------------------------------- doubts


class Softmax(TinyNet):
    def forward(self, x):
        return super().forward(x).softmax(dim=1)


class BatchDependent(TinyNet):
    def forward(self, x):
        return super().forward(x - x.mean())


class Random(TinyNet):
    def forward(self, x):
        return super().forward(x) + torch.randn(3)


class NotFinite(TinyNet):
    def __init__(self, *args):
        super().__init__(*args)
        self.unused = nn.Parameter(torch.tensor([float("nan")]))


class NanOut(TinyNet):
    def forward(self, x):
        return super().forward(x) * float("nan")


@pytest.mark.parametrize(
    ("network", "scale", "codes"),
    [
        (TinyNet, 1.0, set()),
        (Softmax, 1.0, {"output_probabilities"}),
        (BatchDependent, 1.0, {"batch_dependent"}),
        (Random, 1.0, {"zero_budget", "batch_dependent"}),
        (NotFinite, 1.0, {"weights_not_finite"}),
        (NanOut, 1.0, {"output_not_finite"}),
        (TinyNet, 255.0, {"input_range"}),
        (TinyNet, 1 / 255.0, {"input_range"}),
    ],
)
def test_doubts_are_raised_for_their_reason_and_no_other(network, scale, codes):
    s = subject(network(3, 3), chunk=8)
    raw = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(0)) ** 3 * scale
    x = s.contract.to_input(raw, s.contract.bands)
    assert {flag.code for flag in doubts(s, raw, x, s.outputs(x))} == codes


def test_logits_that_the_contract_calls_probabilities_are_flagged():
    s = subject(contract=unit_contract(output="probabilities"), chunk=8)
    x = torch.rand(6, 3, 16, 16)
    assert {flag.code for flag in doubts(s, x, x, s.outputs(x))} == {"output_not_probabilities"}


def test_one_galaxy_is_enough_to_see_that_the_batch_matters():
    s = subject(BatchDependent(3, 3), chunk=8)
    x = torch.rand(1, 3, 16, 16)
    assert {flag.code for flag in doubts(s, x, x, s.outputs(x))} == {"batch_dependent"}


def test_a_wrong_head_or_module_is_refused():
    with pytest.raises(InputError, match=r"returns \(100, 3\)"):
        subject(contract=unit_contract().model_copy(update={"classes": ("a", "b")})).outputs(torch.rand(1, 3, 8, 8))
    with pytest.raises(InputError, match="Did you mean 'bottleneck'"):
        subject(latent="botleneck")
    with pytest.raises(InputError, match="--latent"):
        subject(nn.Sequential(nn.Conv2d(3, 3, 8), nn.Flatten()))
