"""Recipe: everything that a training depends on, besides its data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from perturbations.errors import InputError, unknown_name
from robustastro.adapt import RANGES, Method, Options
from robustastro.adapt import method as find_method

FISHER = ("", "ratio", "difference")


@dataclass(frozen=True)
class Recipe:
    """Everything that a training depends on, besides its data.

    Parameters
    ----------
    method, options : an entry of `robustastro.adapt.METHODS` and its settings.
    fisher : "ratio" or "difference": add the Fisher loss in that form (see `robustastro.adapt.fisher`).
    entropy : weight of the entropy of the target's predictions (see `robustastro.adapt.entropy`); 0: none.
    patience : epochs without a better source validation loss; 0 trains to the end and keeps the best epoch.
    augment : turn each image by one of the eight symmetries of the square.
    paired : let a galaxy that is in both domains train in both.
    average : decay per step of a running mean of the weights, which is validated and kept; None: the method's own.
    init : model file that the weights start from; "" for random ones. Only the weights: the contract, with its stretch,
        is that of the new source, and the last layer is a new one where the classes are others.
    freeze : names of the modules that stay as they are in `init`, weights and statistics of batch norm; "features" is
        all but the last layer.
    """

    method: str = "none"
    arch: str = "convnet"
    seed: int = 0
    epochs: int = 20
    batch: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 1e-3
    warm_up: float = 0.1
    patience: int = 10
    augment: bool = True
    paired: bool = False
    fisher: str = ""
    entropy: float = 0.0
    average: float | None = None
    init: str = ""
    freeze: tuple[str, ...] = ()
    options: Options = field(default_factory=dict)

    @property
    def needs_target(self) -> bool:
        """Whether it uses images of the target domain."""
        return find_method(self.method).needs_target or self.entropy > 0

    @property
    def label(self) -> str:
        """The method, its settings that are not the default, and what is added: "mmd+published+entropy"."""
        chosen, published = find_method(self.method), self.options.get("settings") == "published"
        usual = {**chosen.options, **(chosen.published if published else {}), "settings": self.options.get("settings")}
        changed = [(n, v) for n, v in self.options.items() if v != usual.get(n)]
        words = [f"{n}-{v if isinstance(v, str) else format(v, 'g')}" for n, v in changed]
        parts = [
            self.method,
            "published" if published else "",
            *words,
            f"average-{self.average:g}" if self.average not in (None, self._usual_average) else "",
            f"fisher-{self.fisher}" if self.fisher else "",
            "entropy" if self.entropy else "",
            "init" if self.init else "",
        ]
        return "+".join(part for part in parts if part)

    @property
    def _usual_average(self) -> float:
        """The method's own, which is none with published settings: no source averaged its weights."""
        return 0.0 if self.options.get("settings") == "published" else find_method(self.method).average

    def resolved(self) -> Recipe:
        """The same with every option of the method filled in.

        Raises
        ------
        InputError : an unknown method or option, or a number out of range.
        """
        chosen = find_method(self.method)
        options = _options(chosen, self.options)
        if not 0 <= self.seed < 2**31 or self.patience < 0:
            raise InputError(
                f"seed {self.seed}, patience {self.patience}", "0 <= seed < 2^31, patience >= 0", "correct them"
            )
        if not 0 <= self.weight_decay < math.inf or not 0 <= self.warm_up <= 1:
            raise InputError(
                f"weight_decay {self.weight_decay}, warm_up {self.warm_up}", "0 or more, and a share from 0 to 1",
                "correct them",
            )  # fmt: skip
        for name in ("epochs", "batch", "learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} = {getattr(self, name)}", f"{name} > 0", "correct the training options")
        if self.fisher not in FISHER:
            raise unknown_name("form of the Fisher loss", self.fisher, FISHER[1:])
        if not 0 <= self.entropy < math.inf:
            raise InputError(f"entropy = {self.entropy}", "a weight of 0 or more", "0.05 was published")
        average = self._usual_average if self.average is None else self.average
        if not 0 <= average < 1:
            raise InputError(f"average = {average}", "0 <= average < 1", "0.99 keeps the mean of some 100 steps")
        if self.freeze and not self.init:
            raise InputError(
                f"--freeze {','.join(self.freeze)} without --init", "layers of a trained model", "add --init MODEL"
            )
        return replace(self, options=options, average=average, freeze=tuple(self.freeze))


def _options(chosen: Method, given: Mapping[str, float | str]) -> dict[str, float | str]:
    for name, value in given.items():
        if name not in chosen.options:
            raise unknown_name(f"option of {chosen.name}", name, chosen.options)
        default = chosen.options[name]
        if isinstance(default, str) != isinstance(value, str):
            kind = "a word" if isinstance(default, str) else "a number"
            raise InputError(f"{name} = {value} of {chosen.name}", kind, f"for instance -p {name}={default}")
        if name in chosen.choices and value not in chosen.choices[name]:
            raise unknown_name(f"{name} of {chosen.name}", str(value), chosen.choices[name])
        if not isinstance(value, str) and value not in RANGES[name]:
            raise InputError(f"{name} = {value} of {chosen.name}", str(RANGES[name]), f"the default is {default}")
    changed = chosen.published if given.get("settings") == "published" else {}
    return {**chosen.options, **changed, **given}
