"""Model files: our bundles, bare state dicts, and the user's own network class. Nothing in a file is ever run.

A bundle (`dann.pt`) holds the architecture, weights, contract, class names, how it was trained and what it is
tested on. Files are read with `torch.load(weights_only=True)` or safetensors: a pickle that would run code is refused.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import pickle
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from perturbations.errors import InputError, unknown_name
from robustastro.contract import InputContract
from robustastro.models import zoo
from robustastro.models.nets import ARCHITECTURES, cosine_head
from robustastro.record import write_whole

FORMAT, SCHEMA = "robustastro-bundle", 1
PARTS: dict[str, Any] = {
    "schema": int,
    "arch": str,
    "arch_options": Mapping,
    "state_dict": Mapping,
    "contract": Mapping,
    "training": Mapping,
    "data": Mapping,
    "centroids": (torch.Tensor, type(None)),
    "trained_on": (torch.Tensor, type(None)),
}
NESTED = ("state_dict", "base_network", "model_state_dict", "model", "network", "net")


@dataclass(frozen=True)
class Model:
    """A network with everything its file says about it.

    Parameters
    ----------
    network : the module, weights loaded.
    contract : its InputContract.
    arch : architecture name, or FILE.py:Class.
    path, sha256 : the file; the path of a model of the zoo is zoo:NAME.
    latent : module whose input is the latent vector, or None for the last Linear.
    training : the training record (method, seed, recipe, flags, ...), empty for other people's files.
    data : where its data came from: {"source": ..., "target": ..., "test_sha256": ...}; of the zoo's models also
        "test" and "valid", recipes of mock galaxies that they never saw.
    centroids : (K, D) class centroids of clean source training data, or None.
    trained_on : 64-bit hashes of the training galaxies' ids, or None.
    """

    network: nn.Module
    contract: InputContract
    arch: str
    path: str = ""
    sha256: str = ""
    latent: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    centroids: torch.Tensor | None = None
    trained_on: torch.Tensor | None = None

    @property
    def name(self) -> str:
        """The file's name without its ending; of a model of the zoo its name there."""
        return Path(self.path.removeprefix(zoo.PREFIX)).stem


def save_bundle(
    path: str | Path,
    network: nn.Module,
    arch: str,
    arch_options: Mapping[str, Any],
    contract: InputContract,
    *,
    training: Mapping[str, Any],
    data: Mapping[str, Any],
    centroids: torch.Tensor,
    trained_on: torch.Tensor,
    half: bool = False,
) -> None:
    """Write a bundle: whole, or not at all. With `half` its weight matrices are stored in half precision.

    Vectors (biases, batch norm) stay as they are: they are small, and a running variance may be too.

    Raises
    ------
    InputError : a weight beyond the largest number of half precision.
    """
    state = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
    if half:
        state = {name: _halved(name, tensor) for name, tensor in state.items()}
    bundle = {
        "format": FORMAT,
        "schema": SCHEMA,
        "arch": arch,
        "arch_options": dict(arch_options),
        "state_dict": state,
        "contract": contract.to_dict(),
        "training": dict(training),
        "data": dict(data),
        "centroids": centroids,
        "trained_on": trained_on,
    }
    write_whole(Path(path), lambda file: torch.save(bundle, file))


def _halved(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_floating_point() or tensor.ndim < 2:
        return tensor
    largest = float(tensor.abs().max())
    if not largest <= torch.finfo(torch.float16).max:
        raise InputError(f"{name} reaches {largest:g}", "65504 at most in half precision", "store it in full precision")
    return tensor.half()


def load_model(
    path: str | Path, arch: str | None = None, contract: str | Path | None = None, latent: str | None = None
) -> Model:
    """A model from a bundle, or from a bare or nested state dict with `arch` and `contract`.

    Parameters
    ----------
    path : .pt, .pth, .pth.tar or .safetensors file, or zoo:NAME (see `robustastro.models.zoo`).
    arch : a name of `ARCHITECTURES`, or FILE.py:Class. The latter runs that file: it is code, name only your own.
    contract : TOML file; required unless the file is a bundle.
    latent : module whose input is the latent vector.

    Raises
    ------
    InputError : a missing, damaged or unsafe file; weights that do not fit the architecture; a missing option.
    """
    called, path = zoo.resolve(path)
    stored, sha256 = read_weights(path)
    if is_bundle(stored):
        if arch is None and stored["arch"] not in ARCHITECTURES:
            raise InputError(
                f"{path} was trained with a network of its own ({stored['arch']}), whose code is not run unasked",
                f"one of {', '.join(ARCHITECTURES)}, or --arch",
                "look at that file and repeat --arch FILE.py:Class if you trust it",
            )
        given = (
            InputContract.from_toml(contract) if contract else InputContract.from_dict(stored["contract"], str(path))
        )
        network = build(arch or stored["arch"], stored["arch_options"])
        _fill(network, stored["state_dict"], path, arch or stored["arch"])
        return Model(
            network, given, arch or stored["arch"], called, sha256, latent,
            stored["training"], stored["data"], stored["centroids"], stored["trained_on"],
        )  # fmt: skip
    if arch is None or contract is None:
        absent = " and ".join(name for name, value in (("--arch", arch), ("--contract", contract)) if value is None)
        raise InputError(
            f"{path} holds weights only",
            "a robustastro bundle, or weights with --arch and --contract",
            f"add {absent}; robustastro inspect {path} --init-contract writes a contract to start from",
        )
    given = InputContract.from_toml(contract)
    state = state_dict_of(stored, path)
    size = given.resize or given.crop
    network = build(
        arch, {"bands": len(given.bands), "classes": len(given.classes), **({"size": size} if size else {})}
    )
    _fill(network, state, path, arch)
    return Model(network, given, arch, called, sha256, latent)


def is_bundle(stored: Any) -> bool:
    """Whether a loaded file is one of our bundles; a newer schema is refused."""
    if not (isinstance(stored, Mapping) and stored.get("format") == FORMAT):
        return False
    schema = stored.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise InputError(f"bundle of schema {schema}", f"schema {SCHEMA} or older", "upgrade robustastro")
    for name, kind in PARTS.items():
        if not isinstance(stored.get(name), kind):
            raise InputError(f"a bundle whose entry {name} is missing or wrong", "a whole bundle", "train it again")
    return True


def read_weights(path: Path) -> tuple[Any, str]:
    """The tensors and plain values of a model file, and its SHA-256. Never runs anything that is in it."""
    try:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as problem:
        raise InputError(
            f"model {path}: {problem.strerror or problem}", "a readable model file", "check the path given as --model"
        ) from None
    try:
        if path.suffix == ".safetensors":
            import safetensors.torch

            return safetensors.torch.load_file(path), sha256
        if _is_program(path):
            raise InputError(
                f"{path} is a TorchScript or torch.export archive, which runs code when loaded",
                "weights only",
                "save model.state_dict() and name the network with --arch FILE.py:Class",
            )
        return torch.load(path, map_location="cpu", weights_only=True), sha256
    except InputError:
        raise
    except pickle.UnpicklingError:
        raise InputError(
            f"{path} holds more than weights, and loading it could run code; nothing was run",
            "tensors, numbers, strings, lists and dicts",
            "in a place where you trust it, save model.state_dict() or a .safetensors file, and use that",
        ) from None
    except Exception as problem:  # damaged files fail in many ways inside torch, zipfile and safetensors
        raise InputError(
            f"model {path} cannot be read ({type(problem).__name__})",
            "a whole .pt, .pth, .pth.tar or .safetensors file",
            "copy or download it again",
        ) from None


def state_dict_of(stored: Any, path: Path) -> dict[str, torch.Tensor]:
    """The state dict of a loaded file, bare or nested (`base_network`, ...), with plain parameter names."""
    if isinstance(stored, Mapping):
        for name in NESTED:
            if isinstance(stored.get(name), Mapping):
                stored = stored[name]
                break
    state = {str(k): v for k, v in stored.items() if isinstance(v, torch.Tensor)} if isinstance(stored, Mapping) else {}
    if not state:
        raise InputError(f"{path} holds no state dict", "a dict of tensors", "save model.state_dict()")
    if all(name.startswith("module.") for name in state):  # nn.DataParallel
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    # DeepAdversaries registers its residual layers a second time under feature_layers
    return {name: tensor for name, tensor in state.items() if not name.startswith("feature_layers.")}


def build(arch: str, options: Mapping[str, Any]) -> nn.Module:
    """A network by architecture name, or by FILE.py:Class; with the option `temperature` its head is a cosine one."""
    given = {name: value for name, value in options.items() if name != "temperature"}
    if arch in ARCHITECTURES:
        network = ARCHITECTURES[arch](**given)
    elif ".py:" in arch:
        network = _own_network(arch, given)
    else:
        raise unknown_name("architecture", arch, ARCHITECTURES, "Your own is --arch FILE.py:Class")
    if "temperature" in options:
        cosine_head(network, options["temperature"])
    return network


def arch_identity(arch: str) -> str:
    """What tells one architecture from another: its name, and for FILE.py:Class the SHA-256 of the file."""
    file = Path(arch.rpartition(":")[0])
    return f"{arch} {hashlib.sha256(file.read_bytes()).hexdigest()}" if file.is_file() else arch


def _own_network(arch: str, options: Mapping[str, int]) -> nn.Module:
    file, _, name = arch.rpartition(":")
    spec = importlib.util.spec_from_file_location(f"_arch_{hashlib.sha256(file.encode()).hexdigest()[:12]}", file)
    if not Path(file).is_file() or spec is None or spec.loader is None:
        raise InputError(f"--arch {arch}: no file {file}", "FILE.py:Class", "check the path")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        found = getattr(module, name, None)
        if not callable(found):
            known = [n for n, v in vars(module).items() if isinstance(v, type) and issubclass(v, nn.Module)]
            raise unknown_name(f"class in {file}", name, known)
        accepted = inspect.signature(found).parameters
        network = found(**{k: v for k, v in options.items() if k in accepted})
    except InputError:
        raise
    except (Exception, SystemExit) as problem:
        raise InputError(
            f"--arch {arch} failed: {type(problem).__name__}: {problem}",
            "a class that is built without arguments, or with bands=, classes= and size=",
            "correct the file, or give its arguments defaults",
        ) from None
    if not isinstance(network, nn.Module):
        raise InputError(
            f"--arch {arch} is a {type(network).__name__}", "a torch.nn.Module", "name the network's class"
        )
    return network


def _fill(network: nn.Module, state: Mapping[str, torch.Tensor], path: Path, arch: str) -> None:
    own = network.state_dict()
    missing, extra = [n for n in own if n not in state], [n for n in state if n not in own]
    odd = [n for n in own if n in state and own[n].shape != state[n].shape]
    if missing or extra or odd:
        if odd:
            wrong = f"{odd[0]} has shape {tuple(state[odd[0]].shape)}, {arch} has {tuple(own[odd[0]].shape)}"
        elif missing:
            wrong = f"{len(missing)} tensor(s) of {arch} are missing, first {missing[0]}"
        else:
            wrong = f"{len(extra)} tensor(s) are not in {arch}, first {extra[0]}"
        raise InputError(
            f"{path}: {wrong}",
            "weights of exactly this architecture, bands, classes and image size",
            "check --arch, and bands, classes, crop and resize of the contract",
        )
    kinds = [n for n in own if state[n].is_floating_point() != own[n].is_floating_point() or state[n].is_quantized]
    if kinds:
        raise InputError(
            f"{path}: {kinds[0]} has dtype {state[kinds[0]].dtype}",
            f"{own[kinds[0]].dtype}",
            "save the weights as floats",
        )
    network.load_state_dict(dict(state))


def _is_program(path: Path) -> bool:
    """TorchScript and torch.export archives: zip files with code in them."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    # torch names the outermost folder after the file, so it says nothing
    parts = {part for name in names for part in name.split("/")[1:]}
    return bool(parts & {"code", "constants.pkl", "archive_format", "models", "model.json"})
