"""How a network is asked about changed pixels: on windows or on whole images, decided from its architecture alone."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from robustastro.contract import InputContract
from robustastro.models.precision import exact
from robustastro.models.sparse.program import Program, read, unhooked
from robustastro.models.sparse.windows import Windows

TOGETHER = {"cpu": 200, "cuda": 8192}  # candidates per pass: on a CPU what fits its cache, all of one image
REMEMBERED = 2**30  # bytes of clean activations kept, of the images used last
HEAVY = 2e7  # multiplications per candidate above which a search screens in bfloat16
TOLERANCE = 1e-5  # of the largest logit: the rounding of hundreds of random networks is below 3e-6

Mode = Literal["windows", "dense"]


@dataclass(frozen=True)
class Decision:
    """How a network is asked about changed pixels.

    Parameters
    ----------
    mode : "windows", only what a change reaches is computed again; or "dense".
    screening : whether a search may rank candidates in bfloat16 before it confirms the best in float32.
    reason : why it is dense, or dense from some operation on; empty if it is not.
    """

    mode: Mode
    screening: bool = False
    reason: str = ""


def decide(network: nn.Module, contract: InputContract, x: torch.Tensor) -> Decision:
    """The decision for a network in eval mode and images like x (N, C, H, W), in input space and on its device.

    From the architecture: no clock is read. The windows are tried on pixels of the first, the brightest and the
    faintest of these images, because a forward() that works in place, or tests its numbers, can mislead torch.fx: if
    they differ from the dense pass by more than rounding, it is dense.
    """
    if contract.channels == "last":
        return Decision("dense", reason="the network takes its channels last")
    with torch.inference_mode(), exact(x.device):
        program = read(network, contract.to_network(x[:1]))
        if program is None:
            return Decision("dense", reason="torch.fx cannot follow the network's forward pass")
        windows = Windows(program)
        work, whole = work_of(program, windows), work_of(program, None)
        if not len(windows.reach) > 1 or work > 0.9 * whole:
            where = f"; {program.unsupported[0]} is not known" if program.unsupported else ""
            return Decision("dense", reason=f"one pixel reaches nearly all of the network{where}")
        level = x.flatten(1).mean(dim=1)
        tried = x[torch.stack([torch.zeros_like(level.argmax()), level.argmax(), level.argmin()]).unique()]
        try:
            same = _agrees(network, contract, windows, tried)
        except Exception as problem:  # an operation that fails on windows
            return Decision("dense", reason=f"windows fail on it ({type(problem).__name__})")
    if not same:
        return Decision("dense", reason="windows and whole images give different logits")
    reason = f"whole maps from {program.unsupported[0]} on, which is not known" if program.unsupported else ""
    return Decision("windows", work > HEAVY, reason)


def work_of(program: Program, windows: Windows | None) -> float:
    """Multiplications in convolutions and linear layers for one image, or for a candidate on windows."""
    total = 0.0
    for op in program.ops:
        if op.kind == "conv":
            per_place = op.facts["weight"].numel()
            places = op.shape[1] * op.shape[2]
            if windows is not None and op.name in windows.reach:
                rows, columns = windows.reach[op.name]
                places = windows.pixels * rows.size * columns.size
            total += per_place * places
        elif op.kind == "linear":
            total += op.facts["weight"].numel()
    return total


class PixelInference:
    """Logits of images with a few pixels changed, on windows.

    Parameters
    ----------
    network : in eval mode, on its device; not modified.
    contract : its input contract.
    dtype : float32, or bfloat16 to screen candidates.
    """

    def __init__(self, network: nn.Module, contract: InputContract, dtype: torch.dtype = torch.float32) -> None:
        self._network = network
        if dtype != torch.float32:
            own = unhooked(network)
            assert own is not None  # `decide` has read it
            self._network = own.to(dtype)
        self.contract, self._dtype = contract, dtype
        self._programs: dict[tuple[int, ...], Program] = {}
        self._windows: dict[tuple[int, ...], Windows] = {}

    def windows(self, x: torch.Tensor, pixels: int) -> Windows:
        """The program of the network for images like x, for so many changed pixels."""
        shape = (*x.shape[1:], pixels)
        if shape not in self._windows:
            if shape[:3] not in self._programs:
                program = read(self._network, self._given(x[:1]))
                assert program is not None  # `decide` has read it
                self._programs[shape[:3]] = program
            self._windows[shape] = Windows(self._programs[shape[:3]], pixels)
        return self._windows[shape]

    def bound(self, x: torch.Tensor) -> BoundInference:
        """The same for the images x (N, C, H, W), whose clean activations it remembers."""
        return BoundInference(self, x)

    def _given(self, x: torch.Tensor) -> torch.Tensor:
        return self.contract.to_network(x).to(self._dtype)


class BoundInference:
    """Pixel inference for the images of one batch."""

    def __init__(self, inference: PixelInference, x: torch.Tensor) -> None:
        self._inference, self._x = inference, x
        self._clean: OrderedDict[tuple[int, int], dict[str, torch.Tensor]] = OrderedDict()

    def logits_at(self, which: torch.Tensor, positions: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Logits (M, K) for images `which` (M,) with pixels `positions` (M, k, 2) set to `values` (M, k, C).

        On a CPU a pass holds candidates of one image only, and how many depends on nothing else: logits depend on that
        at the 1e-8 level, and must not depend on which other images are searched at the same time.
        """
        windows = self._inference.windows(self._x, positions.shape[1])
        together = TOGETHER[which.device.type]
        logits = []
        with torch.inference_mode(), exact(which.device):
            values = self._inference._given(values.flatten(0, 1).to(self._x)[:, :, None, None])
            values = values[:, :, 0, 0].unflatten(0, positions.shape[:2])
            for rows in _passes(which, together):
                images, local = which[rows].unique(return_inverse=True)
                clean = self._of(windows, images.tolist())
                output = windows.logits(clean, local, positions[rows], values[rows])
                logits.append(self._inference.contract.to_logits(output.float()))
        return torch.cat(logits).clone()

    def _of(self, windows: Windows, images: list[int]) -> dict[str, torch.Tensor]:
        parts = []
        for image in images:
            key = (image, windows.pixels)
            if key not in self._clean:
                self._clean[key] = windows.clean(self._inference._given(self._x[image : image + 1]))
                while len(self._clean) > 1 and sum(map(_bytes, self._clean.values())) > REMEMBERED:
                    self._clean.popitem(last=False)
            self._clean.move_to_end(key)
            parts.append(self._clean[key])
        return parts[0] if len(parts) == 1 else {n: torch.cat([part[n] for part in parts]) for n in parts[0]}


def _passes(which: torch.Tensor, together: int) -> list[slice]:
    """Rows of one pass after another: on a CPU of one image each."""
    runs = [len(which)] if which.is_cuda else torch.unique_consecutive(which, return_counts=True)[1].tolist()
    passes, start = [], 0
    for run in runs:
        passes += [slice(first, min(first + together, start + run)) for first in range(start, start + run, together)]
        start += run
    return passes


def _bytes(clean: dict[str, torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in clean.values())


def _agrees(network: nn.Module, contract: InputContract, windows: Windows, x: torch.Tensor) -> bool:
    """Whether windows give the logits of the dense pass for some pixels of the images: corners, middle, others.

    Half of the values are at the ends of [0, 1] in each band, so that nothing is left out that only colours reach.
    """
    _, bands, height, width = x.shape
    g = torch.Generator().manual_seed(0)
    fixed = torch.cartesian_prod(*(torch.tensor([0, side // 2, side - 1]) for side in (height, width)))
    others = torch.stack([torch.randint(side, (23,), generator=g) for side in (height, width)], dim=1)
    positions = torch.cat([fixed, others]).to(x.device)
    values = torch.rand(len(positions), bands, generator=g)
    values[::2] = values[::2].round()
    values = values.to(x.device)
    for image in x.split(1):
        changed = image.expand(len(positions), -1, -1, -1).clone()
        changed[torch.arange(len(positions), device=x.device), :, positions[:, 0], positions[:, 1]] = values
        dense = network(contract.to_network(changed).clone(memory_format=torch.channels_last))
        dense = dense[-1] if isinstance(dense, (tuple, list)) else dense
        given = contract.to_network(values[:, :, None, None])[:, None, :, 0, 0]
        which = torch.zeros(len(positions), dtype=torch.int64, device=x.device)
        sparse = windows.logits(windows.clean(contract.to_network(image)), which, positions[:, None], given)
        if sparse.shape != dense.shape or not float((sparse - dense).abs().max()) <= TOLERANCE * float(
            dense.abs().max()
        ):
            return False
    return True
