"""Subject: a network under test, with its contract and its latent layer, and what attacks may see of it."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from perturbations.errors import InputError, unknown_name
from robustastro.contract import InputContract

CHUNK = 100  # images per forward pass, padded, whatever the batch size: logits depend on it at the 1e-8 level


@dataclass(frozen=True)
class Outputs:
    """Logits (N, K) and latent (N, D), float32, on the CPU."""

    logits: torch.Tensor
    latent: torch.Tensor


class Subject:
    """A network in eval mode that takes input space [0, 1] and is only looked at, never changed.

    Parameters
    ----------
    network : its output is (N, K), or a tuple that ends with that. It is copied; the caller's is not touched.
    contract : how images become its input.
    latent : name of the module whose input is the latent vector; default: the last Linear.
    device : where it runs.
    chunk : images per forward pass; the last one is padded.

    Raises
    ------
    InputError : no such module, or no Linear to take the latent from.
    """

    def __init__(
        self,
        network: nn.Module,
        contract: InputContract,
        latent: str | None = None,
        device: torch.device | str = "cpu",
        chunk: int = CHUNK,
    ) -> None:
        self.contract, self.device, self.chunk = contract, torch.device(device), int(chunk)
        self.network = copy.deepcopy(network).to(self.device).eval()
        # convolutions of few channels run nearly twice as fast on a CPU with the channels last in memory
        self.network = self.network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)
        modules = dict(self.network.named_modules())
        linear = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
        if latent is None and not linear:
            raise InputError("the network has no Linear layer", "a latent layer", "name it with --latent MODULE")
        self.latent_name = latent or linear[-1]
        if self.latent_name not in modules:
            raise unknown_name("module of the network", self.latent_name, [name for name in modules if name])
        self._captured: torch.Tensor | None = None
        modules[self.latent_name].register_forward_pre_hook(self._capture, with_kwargs=True)

    @property
    def head(self) -> nn.Linear | None:
        """The last layer, if it is the module the latent enters and is linear."""
        module = self.network.get_submodule(self.latent_name)
        return module if type(module) is nn.Linear else None

    def outputs(self, x: torch.Tensor) -> Outputs:
        """Logits and latent of input images (N, C, H, W) in [0, 1]."""
        logits, latent = [], []
        with torch.inference_mode():
            for part in x.split(self.chunk):
                y, z = self._forward(_padded(part.to(self.device), self.chunk))
                logits.append(y[: len(part)].cpu())
                latent.append(z[: len(part)].cpu())
        return Outputs(torch.cat(logits).clone(), torch.cat(latent).clone())

    def victim(self, x: torch.Tensor) -> SubjectVictim:
        """What an attack may see, bound to the images (N, C, H, W) of one batch on this subject's device."""
        return SubjectVictim(self, x)

    def fingerprint(self) -> str:
        """SHA-256 of weights, buffers, modes and hooks: equal as long as nobody touched the network."""
        h = hashlib.sha256()
        for name, tensor in sorted(self.network.state_dict().items()):
            h.update(name.encode())
            h.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        for name, module in self.network.named_modules():
            hooks = len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
            h.update(f"{name} {module.training} {hooks}".encode())
        for name, parameter in self.network.named_parameters():
            h.update(f"{name} {parameter.requires_grad} {parameter.grad is None}".encode())
        return h.hexdigest()

    def _capture(self, _module: nn.Module, inputs: tuple[torch.Tensor, ...], named: dict[str, torch.Tensor]) -> None:
        self._captured = (*inputs, *named.values())[0]

    def _forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self._captured = None
        y = run_network(self.network, self.contract, x)
        if self._captured is None:
            raise InputError(f"module '{self.latent_name}' was not run", "a module of the forward pass", "use --latent")
        return self.contract.to_logits(y.float()), self._captured.float().flatten(1)


class SubjectVictim:
    """A Subject as attacks see it; implements `perturbations.core.Victim` with `logits_at`."""

    def __init__(self, subject: Subject, x: torch.Tensor) -> None:
        self._subject, self._x = subject, x
        self.classes = len(subject.contract.classes)
        self.box = (torch.zeros((), device=x.device), torch.ones((), device=x.device))

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, K) of images in input space, on their device."""
        with torch.inference_mode():
            parts = [self._logits(part) for part in x.split(self._subject.chunk)]
        return torch.cat(parts).clone()

    def gradient(self, x: torch.Tensor, loss: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Gradient of the summed loss of logits (N, K) -> (N,), like x."""
        with torch.enable_grad():
            leaf = x.detach().clone().requires_grad_(True)
            logits = torch.cat([self._logits(part) for part in leaf.split(self._subject.chunk)])
            try:
                return torch.autograd.grad(loss(logits).sum(), leaf)[0]
            except RuntimeError as problem:
                raise InputError(
                    f"no gradient of the logits reaches the images ({_first_line(problem)})",
                    "a network that is differentiable from end to end",
                    "use an attack that needs only logits, such as onepixel",
                ) from problem

    def logits_at(self, which: torch.Tensor, positions: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Logits (M, K) of the batch's images `which` (M,) with pixels `positions` (M, k, 2) set to `values` (M, k, C).

        Chunks never mix images that follow one another in `which`, so an image's logits do not depend on which
        other images are searched at the same time.
        """
        runs = torch.unique_consecutive(which, return_counts=True)[1].tolist()
        logits, start = [], 0
        with torch.inference_mode():
            for run in runs:
                for first in range(start, start + run, self._subject.chunk):
                    rows = slice(first, min(first + self._subject.chunk, start + run))
                    changed = self._x[which[rows]]
                    image = torch.arange(len(changed), device=changed.device)[:, None]
                    changed[image, :, positions[rows, :, 0], positions[rows, :, 1]] = values[rows].to(changed)
                    logits.append(self._logits(changed))
                start += run
        return torch.cat(logits).clone()

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        return self._subject._forward(_padded(x, self._subject.chunk))[0][: len(x)]


def run_network(network: nn.Module, contract: InputContract, x: torch.Tensor) -> torch.Tensor:
    """The network's output (N, K) for input images (N, C, H, W) in [0, 1]; of a tuple, its last member.

    The network gets a copy of the images, so that one that works in place changes nothing of ours.

    Raises
    ------
    InputError : the network fails on these images, or does not return one logit per class.
    """
    given = contract.to_network(x)
    layout = torch.channels_last if contract.channels == "first" else torch.contiguous_format
    try:
        y = network(given.clone(memory_format=layout))
    except InputError:
        raise
    except Exception as problem:
        raise InputError(
            f"the network fails on images {tuple(given.shape)}: {type(problem).__name__}: {_first_line(problem)}",
            "images of the size, bands and channel order that it was made for",
            "check bands, crop, resize and channels of the contract",
        ) from problem
    y = y[-1] if isinstance(y, (tuple, list)) and y else y
    wanted = (len(x), len(contract.classes))
    if not isinstance(y, torch.Tensor) or y.shape != wanted:
        shape = tuple(y.shape) if isinstance(y, torch.Tensor) else type(y).__name__
        raise InputError(
            f"the network returns {shape} for {len(x)} images", f"{wanted}", "correct the contract's classes"
        )
    return y


def _first_line(problem: Exception) -> str:
    return (str(problem).strip().splitlines() or [""])[0][:120]


def _padded(x: torch.Tensor, size: int) -> torch.Tensor:
    return x if len(x) == size else torch.cat([x, x[-1:].expand(size - len(x), *x.shape[1:])])
