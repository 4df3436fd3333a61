"""Subject: a network under test, with its contract and its latent layer, and what attacks may see of it."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from perturbations.defects import every_visit, wells
from perturbations.errors import InputError, unknown_name
from perturbations.exposure import Exposure
from robustastro.contract import InputContract
from robustastro.models.nets import CosineLinear
from robustastro.models.precision import exact
from robustastro.models.sparse.bounds import Bounds
from robustastro.models.sparse.inference import BoundInference, Decision, PixelInference, decide
from robustastro.models.sparse.program import read

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
    decision : how it is asked about changed pixels; default: decided from the architecture when it is first asked.

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
        decision: Decision | None = None,
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
        self._decision = decision
        self._bounds: dict[tuple[int, ...], Bounds] = {}
        self._inference: dict[torch.dtype, PixelInference] = {}
        self._captured: torch.Tensor | None = None
        modules[self.latent_name].register_forward_pre_hook(self._capture, with_kwargs=True)

    @property
    def head(self) -> nn.Linear | None:
        """The last layer, if it is the module the latent enters and is linear, or our cosine classifier."""
        module = self.network.get_submodule(self.latent_name)
        return module if type(module) in (nn.Linear, CosineLinear) else None  # type: ignore[return-value]

    def outputs(self, x: torch.Tensor) -> Outputs:
        """Logits and latent of input images (N, C, H, W) in [0, 1]."""
        logits, latent = [], []
        with torch.inference_mode():
            for part in x.split(self.chunk):
                y, z = self._forward(_padded(part.to(self.device), self.chunk))
                logits.append(y[: len(part)].cpu())
                latent.append(z[: len(part)].cpu())
        return Outputs(torch.cat(logits).clone(), torch.cat(latent).clone())

    def victim(self, x: torch.Tensor, exposure: Exposure | None = None) -> SubjectVictim:
        """What an attack may see, bound to the images (N, C, H, W) of one batch, and the exposure they come from."""
        return SubjectVictim(self, x, exposure)

    def decision(self, x: torch.Tensor) -> Decision:
        """How this network is asked about changed pixels of images like x (N, C, H, W)."""
        if self._decision is None:
            self._decision = decide(self.network, self.contract, x.to(self.device))
        return self._decision

    def pixel_inference(self, dtype: torch.dtype = torch.float32) -> PixelInference:
        """The network on windows; see `robustastro.models.sparse`."""
        if dtype not in self._inference:
            self._inference[dtype] = PixelInference(self.network, self.contract, dtype)
        return self._inference[dtype]

    def bounds(self, x: torch.Tensor) -> Bounds:
        """Bounds of this network's margins for images like x (N, C, H, W), in input space."""
        shape = tuple(x.shape[1:])
        if shape not in self._bounds:
            if self.contract.channels == "last" or self.contract.output == "probabilities":
                self._bounds[shape] = Bounds(None, "the contract has channels last, or probabilities as its output")
            else:
                given = self.contract.to_network(x[:1].to(self.device))
                self._bounds[shape] = Bounds(read(self.network, given, folded=False))
        return self._bounds[shape]

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

    _capture.only_looks = True  # type: ignore[attr-defined]

    def _forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self._captured = None
        with exact(self.device):
            y = run_network(self.network, self.contract, x)
        if self._captured is None:
            raise InputError(f"module '{self.latent_name}' was not run", "a module of the forward pass", "use --latent")
        return self.contract.to_logits(y.float()), self._captured.float().flatten(1)


class SubjectVictim:
    """A Subject as attacks see it; implements `perturbations.core.Victim` with `logits_at`."""

    def __init__(
        self, subject: Subject, x: torch.Tensor, exposure: Exposure | None = None, padded: bool = True
    ) -> None:
        self._subject, self._x, self._exposure, self._is_padded = subject, x, exposure, padded
        self._bound: dict[torch.dtype, BoundInference] = {}
        self.classes = len(subject.contract.classes)
        self.box = (torch.zeros((), device=x.device), torch.ones((), device=x.device))

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, K) of images in input space, on their device."""
        with torch.inference_mode():
            parts = [self._logits(part) for part in x.split(self._subject.chunk)]
        return torch.cat(parts).clone()

    def gradient(self, x: torch.Tensor, loss: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Gradient of the summed loss of logits (N, K) -> (N,), like x."""
        with torch.enable_grad(), exact(x.device):
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

        On windows where the architecture allows it, equal to whole images within rounding. Neither way mixes images
        that follow one another in `which`, so an image's logits do not depend on which others are searched beside it.
        """
        if self._subject.decision(self._x).mode == "windows":
            return self._on_windows(torch.float32).logits_at(which, positions, values)
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

    @property
    def screens(self) -> bool:
        """Whether a search should rank its candidates by `screened_at`."""
        return self._subject.decision(self._x).screening

    def screened_at(self, which: torch.Tensor, positions: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """What `logits_at` gives, in bfloat16: for a network too heavy to ask about every candidate in float32."""
        return self._on_windows(torch.bfloat16).logits_at(which, positions, values)

    def certify(
        self,
        which: torch.Tensor,
        positions: torch.Tensor,
        low: torch.Tensor,
        high: torch.Tensor,
        boxes: int,
    ) -> torch.Tensor:
        """(M,) bool: True where it is proved that no value of a pixel within a box changes the class of an image.

        False where it is not known; everywhere for a network or a contract without bounds (see `Subject.bounds`).

        Parameters
        ----------
        which, positions : (M,) and (M, 2) int64, an image of the batch and the row and column of its pixel.
        low, high : (N, C, H, W), the ends of the box of every pixel, in input space.
        boxes : parts of the box that may be tried for a pixel.
        """
        bounds, contract = self._subject.bounds(self._x), self._subject.contract
        if bounds.refuses is not None:
            return torch.zeros_like(which, dtype=torch.bool)
        # the contract's operations on a value never fall, also rounded: the ends of the box stay its ends
        low, high = (contract.to_network(edge)[which, :, positions[:, 0], positions[:, 1]] for edge in (low, high))
        with torch.inference_mode(), exact(self._x.device):
            logits = torch.cat([run_network(self._subject.network, contract, x) for x in self._x.split(1)])
            given = contract.to_network(self._x)
            return bounds.certified(given, which, positions, low, high, boxes, logits)

    def _on_windows(self, dtype: torch.dtype) -> BoundInference:
        if dtype not in self._bound:
            self._bound[dtype] = self._subject.pixel_inference(dtype).bound(self._x)
        return self._bound[dtype]

    def reachable(self, sigmas: float) -> tuple[torch.Tensor, torch.Tensor]:
        """The box of input values (N or 1, C, 1, 1) that the detector can give a pixel.

        From `sigmas` standard deviations of blank sky below zero to a full well in every visit, through the contract's
        stretch with its clip. A contract that resamples keeps within it: a pixel is then a weighted mean of such
        values.

        Raises
        ------
        InputError : no exposure, no full well, or a well that the sky fills.
        """
        if self._exposure is None:
            raise InputError(
                "space = flux for images without an Exposure",
                "images in flux units with bands, pixel scale, sky level and full_well",
                "declare them with --exposure FILE.toml, or take space = input",
            )
        contract = self._subject.contract
        exposure = self._exposure.pick(contract.bands)
        full = wells(exposure, self._x, "space = flux") * every_visit(exposure, self._x)
        full = full - exposure.pixels("sky", self._x)
        if not bool((full > 0.0).all()):
            raise InputError(
                "space = flux: the sky fills the well",
                "full_well above the sky of a visit",
                "correct visits or full_well of the exposure",
            )
        faintest = -sigmas * exposure.variance(torch.zeros_like(full)).sqrt()
        return contract.stretch(faintest), contract.stretch(full)

    def seen(self, flux: torch.Tensor) -> torch.Tensor:
        """Input images that the contract makes of flux (M, C, H, W), in the bands of the exposure.

        Made on the CPU as all input images are, so that an image is judged as it will be measured.
        """
        contract, exposure = self._subject.contract, self._exposure
        bands = contract.bands if exposure is None else exposure.bands
        return contract.to_input(flux.cpu(), bands).to(self._x.device)

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        given = _padded(x, self._subject.chunk) if self._is_padded else x
        return self._subject._forward(given)[0][: len(x)]

    def unpadded(self) -> SubjectVictim:
        """The same in passes of just the images asked about: faster for few, if the batches never change."""
        return SubjectVictim(self._subject, self._x, self._exposure, padded=False)


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
