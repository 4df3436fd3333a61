"""What every attack of another library needs around it before its numbers can be trusted.

A library sees a module that asks our `Victim`, and nothing else: no weights, no stretch, no normalisation. What it
returns is measured again: values, box, budget, and whether the class really changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import math
import random
import sys
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch

from perturbations import goal
from perturbations.core import AttackResult, Perturbation, Victim, add, distance
from perturbations.draws import Draws
from perturbations.errors import BrokenPromise, InputError
from perturbations.gradient import moved

ROUNDING = 1e-5  # of the budget: a library that exceeds it by less rounded in float32, by more left its contract
BOX_ROUNDING = 1e-6  # of the range [0, 1], the same for the box

LADDERS = {
    "Linf": ((0.004, 0.008, 0.016, 0.031, 0.063), "1, 2, 4, 8, 16 of 255 grey levels, as pgd"),
    "L2": ((0.25, 0.5, 1.0, 2.0, 3.0), "as pgd_l2"),
    "L1": ((3.0, 6.0, 12.0, 24.0, 48.0), "12 on CIFAR-10 in Croce & Hein 2021, arXiv:2103.01208, halved and doubled"),
    "L0": ((1.0, 3.0, 10.0, 30.0, 100.0), "of our choice, half a decade apart"),
    "pixels": ((1.0, 3.0, 5.0), "Su et al. 2019, arXiv:1710.08864"),
}


@dataclass(frozen=True)
class Foreign:
    """One attack of a library: a row of its table.

    Parameters
    ----------
    name : as it is listed, after "library:".
    norm : what it bounds or makes small.
    access : "gradient", or "logits" where it only looks at outputs.
    what : what it does, a few words.
    options : its constructor's parameters that a user may set, with the library's defaults. A tuple lists the words
        that are allowed, the default first; a type stands for a number that may be left to the library (None).
    bounded : the library takes the strength as its own limit; else it looks for a small change, which counts where it
        is within the strength.
    targeted : it can aim at one class.
    alone : it goes from image to image by itself, so it is given one image at a time and its numbers are that image's.
    of : the class in the library, where it is not `name`.
    fixed : constructor arguments that make this row what it is.
    passes : what else the constructor is told: the name it gives the strength, "seed", "n_classes".
    bands, values : the only number of bands and the largest number of values that it can take; None for any.
    start : the attack of the same library that finds its starting points.
    """

    name: str
    norm: Literal["L0", "L1", "L2", "Linf"]
    access: Literal["logits", "gradient"]
    what: str
    options: Mapping[str, Any] = field(default_factory=dict)
    bounded: bool = True
    targeted: bool = True
    alone: bool = False
    of: str = ""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    passes: tuple[str, ...] = ()
    bands: int | None = None
    values: int | None = None
    start: str = ""


@dataclass(frozen=True)
class Task:
    """One call of a library: `images` (A, C, H, W), all classified right, `labels` (A,), the budget and the rest."""

    model: Asked
    images: torch.Tensor
    labels: torch.Tensor
    strength: float
    target: int | None
    seed: int
    options: Mapping[str, Any]


Run = Callable[[Foreign, Task], torch.Tensor]


def add_all(library: str, table: tuple[Foreign, ...], run: Run) -> None:
    """Put every row of a table into the catalogue, as `library:NAME`."""
    for row in table:
        add(_entry(library, row, run))


def _entry(library: str, row: Foreign, run: Run) -> Perturbation:
    options = {name: _default(value) for name, value in row.options.items()}
    types = {name: _type(value) for name, value in row.options.items()}
    if row.targeted:
        options, types = options | {"target": None}, types | {"target": int | None}

    def function(
        x: torch.Tensor, labels: torch.Tensor, victim: Victim, strength: float, draws: Draws, **options: Any
    ) -> AttackResult:
        return attack(library, row, run, x, labels, victim, strength, draws, options)

    limit = "takes the strength as its limit" if row.bounded else "result counts where it is within the strength"

    def finite(options: dict[str, Any]) -> dict[str, Any]:
        for key, value in options.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"{library}:{row.name} option {key} = {value}", "a finite number", "give a number")
        return options

    function.__doc__ = f"{row.of or row.name} of {library}: {row.what} ({limit})."
    function.__annotations__ = types
    ladder, source = LADDERS["pixels" if row.norm == "L0" and row.bounded else row.norm]
    return Perturbation(
        name=f"{library}:{row.name}",
        family="attacks",
        kind="attack",
        space="input",
        parameter={"L0": "changed pixels"}.get(row.norm, "epsilon" if row.bounded else f"largest {row.norm} distance"),
        unit="pixel" if row.norm == "L0" else "input",
        ladder=ladder,
        identity=0.0,
        source=f"{library}; strengths {source}",
        version=1,
        norm=row.norm,
        access=row.access,
        options=MappingProxyType(options),
        function=function,
        replay="galaxy" if row.alone else "batch",
        settle=finite,
    )


def _default(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) else None if isinstance(value, type) else value


def _type(value: Any) -> Any:
    if isinstance(value, tuple):
        return Literal[value]
    return value | None if isinstance(value, type) else type(value)


def attack(
    library: str,
    row: Foreign,
    run: Run,
    x: torch.Tensor,
    labels: torch.Tensor,
    victim: Victim,
    strength: float,
    draws: Draws,
    options: Mapping[str, Any],
) -> AttackResult:
    """Run one attack of a library on the images that are worth it, and measure what came of it.

    Its random numbers are the global ones of torch, NumPy and Python: they are seeded from the ids of the batch (of the
    galaxy, where it takes images one at a time) and put back afterwards. So results repeat for the same batch, and may
    differ in another one.

    Parameters
    ----------
    x : images (N, C, H, W) float32 in [0, 1]. Not modified.
    labels : (N,) int64, the true classes.
    strength : >= 0, in the row's norm; whole pixels in L0. 0 returns the clean images after no query.
    options : the row's options with their values, and `target` (a class or None) where it has that.

    Returns
    -------
    AttackResult. Success is by argmax on the images returned. An image for which the library returns values that are
    not numbers is left as it is; so is one whose change is not within the strength, if the library only makes changes
    small. Queries: 1 for the clean image; where it is attacked, every logits and every gradient that the library asked
    for, 1 each, and 1 for the verdict. A library that goes on with fewer images is counted for the nearest of them.
    Details: failed (N,) bool, the library returned values that are not numbers: of robustness that says nothing.

    Raises
    ------
    InputError : the library is not installed or fails; a strength, option, image, box or target out of range.
    BrokenPromise : the library left the box or its limit by more than rounding.
    """
    name = f"{library}:{row.name}"
    if not (0.0 <= strength < math.inf) or (row.norm == "L0" and strength != int(strength)):
        whole = "a whole number of pixels >= 0" if row.norm == "L0" else "a distance >= 0 in input units"
        raise InputError(f"{name}: strength {strength:g}", whole, "0 returns the clean images")
    _check(name, row, x, victim)
    if importlib.util.find_spec(library) is None:
        raise InputError(
            f"{library} is not installed",
            f"{name} runs the attack of that library",
            f"install it with pip install 'robustastro[{library}]'",
        )
    target = options.get("target")
    images, success = x.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
    queries = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    failed = torch.zeros_like(success)
    result = AttackResult(images, success, queries, {"failed": failed})
    if strength == 0:
        return result
    attacked = goal.worth_attacking(x, labels, victim, target)
    queries += 1
    if not len(attacked):
        return result

    clean, true, found = x[attacked], labels[attacked], []
    for part in attacked.split(1 if row.alone else len(attacked)):
        model = Asked(victim, x[part])
        seed = _seed(draws.take(part) if row.alone else draws)
        rest = {key: value for key, value in options.items() if key != "target"}
        task = Task(model, x[part], labels[part], strength, target, seed, rest)
        with _quietly(), _seeded(seed), torch.enable_grad():
            try:
                found.append(run(row, task).detach())
            except (InputError, BrokenPromise):
                raise
            except Exception as problem:
                raise InputError(
                    f"{name} fails: {type(problem).__name__}: {problem}",
                    f"options and images that {library} can take",
                    "change its options, or take another attack",
                ) from problem
        queries[part] += model.passes

    returned = _shaped(name, clean, torch.cat(found))
    usable = torch.isfinite(returned).flatten(1).all(dim=1)
    failed[attacked] = ~usable
    changed = _in_box(name, clean, torch.where(usable[:, None, None, None], returned.to(clean), clean))
    if row.bounded:
        changed = _within(name, clean, changed, row.norm, strength)
    logits = victim.logits(changed)
    queries[attacked] += 1
    done = goal.flipped(logits, true, target)
    if not row.bounded:
        spent = distance(changed, clean, row.norm)
        assert spent is not None
        done &= spent <= strength
        changed = torch.where(done[:, None, None, None], changed, clean)
    images[attacked], success[attacked] = changed, done
    return result


def _check(name: str, row: Foreign, x: torch.Tensor, victim: Victim) -> None:
    low, high = victim.box
    if bool((low != 0).any()) or bool((high != 1).any()):
        raise InputError(
            f"{name}: a box other than [0, 1]", "the whole input range", "take an attack of ours, such as onepixel"
        )
    if len(x) and not (float(x.min()) >= 0.0 and float(x.max()) <= 1.0):
        raise InputError(
            f"{name}: images span [{float(x.min()):g}, {float(x.max()):g}]",
            "input images in [0, 1]",
            "apply the model's stretch first",
        )
    if row.bands is not None and x.shape[1] != row.bands:
        raise InputError(f"{name}: {x.shape[1]} bands", f"the library takes {row.bands}", "take another attack")
    values = math.prod(x.shape[1:])
    if row.values is not None and values > row.values:
        raise InputError(
            f"{name}: {values} values per image",
            f"at most {row.values}: it holds matrices of their square",
            "crop or resize in the contract, or take another attack",
        )


# ---------------------------------------------------------------------- the network as a library sees it


class Asked(torch.nn.Module):
    """A module in eval mode whose outputs are the victim's logits, differentiable once, and which counts.

    Parameters
    ----------
    victim : asked for every number.
    clean : (A, C, H, W), the images under attack.

    `passes` (A,) int64 counts logits and gradients, one each, for the image that a row comes from: rows are equally
    many of each image, except where the library went on with fewer images, whose rows count for the nearest one.
    """

    def __init__(self, victim: Victim, clean: torch.Tensor) -> None:
        super().__init__()
        # libraries ask about the same images in every run of a batch, and often about one at a time
        self.victim = victim.unpadded() if hasattr(victim, "unpadded") else victim  # type: ignore[attr-defined]
        self.clean, self.classes = clean, victim.classes
        self.passes = torch.zeros(len(clean), dtype=torch.int64, device=clean.device)
        self.which = torch.arange(len(clean), device=clean.device)
        self.place = torch.nn.Parameter(torch.zeros(0, device=clean.device), requires_grad=False)  # says the device
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (M, K) of images (M, C, H, W)."""
        return typing.cast(torch.Tensor, _Asking.apply(x, self))

    def only(self, which: torch.Tensor) -> None:
        """From now on, rows are of these images, in order."""
        self.which = self.which[which]

    def count(self, x: torch.Tensor) -> None:
        """Add one pass for every row."""
        if len(x) % len(self.which) == 0:
            self.passes[self.which] += len(x) // len(self.which)
            return
        owner = torch.cdist(x.flatten(1), self.clean[self.which].flatten(1)).argmin(dim=1)
        self.passes[self.which] += torch.bincount(owner, minlength=len(self.which))


class _Asking(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, model: Asked) -> torch.Tensor:
        x = x.detach().float()
        ctx.model = model
        ctx.save_for_backward(x)
        model.count(x)
        return model.victim.logits(x)

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,), (slope,) = ctx.saved_tensors, slopes
        ctx.model.count(x)
        with torch.enable_grad():
            found = ctx.model.victim.gradient(x, lambda logits: (logits * slope).sum(dim=1))
        return found.to(x.dtype).contiguous(), None  # libraries view gradients as rows


# ---------------------------------------------------------------------- seeds and silence


def _seed(draws: Draws) -> int:
    words = draws.words("library", 1).cpu().numpy().tobytes()
    return int.from_bytes(hashlib.blake2b(words, digest_size=4).digest(), "little") >> 1


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The global random numbers that libraries draw from start at `seed`, and are as before once this is over."""
    numpy, python = np.random.get_state(), random.getstate()  # noqa: NPY002
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy)  # noqa: NPY002
            random.setstate(python)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Standard output is for results: what a library prints goes to standard error; its warnings are dropped."""
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# ---------------------------------------------------------------------- what came back


def _shaped(name: str, clean: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    if images.shape != clean.shape:
        raise BrokenPromise(f"{name} returned {tuple(images.shape)} for {tuple(clean.shape)}")
    return images


def _in_box(name: str, clean: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    inside = images.clamp(0.0, 1.0)
    if bool(((images - inside).abs() > BOX_ROUNDING).any()):
        raise BrokenPromise(f"{name} returned values from {float(images.min()):.6g} to {float(images.max()):.6g}")
    return inside


def _within(name: str, clean: torch.Tensor, images: torch.Tensor, norm: str, budget: float) -> torch.Tensor:
    """What float32 rounding put outside the budget, rounded towards the clean image; more than that is refused."""
    spent = distance(images, clean, norm)
    assert spent is not None
    over = spent > budget
    if not bool(over.any()):
        return images
    if norm == "L0" or bool((spent > budget * (1.0 + ROUNDING)).any()):
        raise BrokenPromise(f"{name} spent {float(spent.max()):.7g} of a {norm} budget of {budget:g}")
    change = images.double() - clean.double()
    if norm == "Linf":
        change = change.clamp(-budget, budget)
    else:
        change = change * (budget / spent.clamp_min(budget))[:, None, None, None]
    return torch.where(over[:, None, None, None], moved(clean, change), images)
