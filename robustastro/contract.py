"""InputContract: how flux becomes what a network sees, frozen when the network is trained and never fitted again.

The published pipelines took their percentiles per file, so every split was scaled differently; here the constants are
part of the model.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydantic
import torch
from pydantic import BaseModel, ConfigDict, Field

from perturbations.errors import InputError, unknown_name


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Stretch(_Part):
    """From image values to [0, 1], with constants per band.

    `asinh`: (asinh(softening x clip(value, low, high) / high) + 1) / 2 (Ciprijanovic et al. 2022, arXiv:2112.14299),
    where low and high are the 0.1 and 99.9 percentiles of the training images. `linear`: (value - low) / (high - low),
    clipped.
    """

    kind: Literal["asinh", "linear"]
    low: tuple[float, ...]
    high: tuple[float, ...]
    softening: float = Field(default=0.85, gt=0)

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> Stretch:
        if len(self.low) != len(self.high) or any(not a < b for a, b in zip(self.low, self.high, strict=True)):
            raise ValueError("low and high have one value per band, low < high")
        if self.kind == "asinh" and any(b <= 0 for b in self.high):
            raise ValueError("an asinh stretch needs high > 0")
        return self

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        low, high = (
            torch.tensor(v, dtype=images.dtype, device=images.device)[:, None, None] for v in (self.low, self.high)
        )
        return self.between(images, low, high)

    def between(self, images: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        """The same curve with other constants, broadcastable to the images."""
        clipped = torch.clamp(images, low, high)
        if self.kind == "linear":
            return clipped.sub_(low).div_(high - low).clamp_(0.0, 1.0)
        bent = clipped.mul_(self.softening).div_(high)
        if bent.device.type == "cpu" and not bent.requires_grad:
            np.arcsinh(bent.numpy(), out=bent.numpy())  # four times as fast as torch's
        else:
            bent = bent.asinh()
        return bent.add_(1.0).div_(2.0).clamp_(0.0, 1.0)


class InputContract(_Part):
    """How images become the input of a network, and what its output means.

    Parameters
    ----------
    bands : names of the bands in the order of the network's channels.
    classes : names of the classes in the order of the network's outputs.
    stretch : from image values to input space, [0, 1].
    crop : side of the central square kept [pixels], before `resize`; None keeps all.
    resize : side of the image the network sees [pixels], by antialiased bilinear resampling; None does not resample.
    range : what 0 and 1 of input space become for the network.
    mean, std : then subtracted and divided, per band.
    channels : "first" (N, C, H, W) or "last" (N, H, W, C).
    output : "logits", "log_probabilities" or "probabilities" (also vote fractions).
    """

    bands: tuple[str, ...]
    classes: tuple[str, ...]
    stretch: Stretch
    crop: int | None = Field(default=None, gt=0)
    resize: int | None = Field(default=None, gt=0)
    range: tuple[float, float] = (0.0, 1.0)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channels: Literal["first", "last"] = "first"
    output: Literal["logits", "log_probabilities", "probabilities"] = "logits"

    @pydantic.model_validator(mode="after")
    def _per_band(self) -> InputContract:
        if len(set(self.bands)) != len(self.bands) or not self.bands:
            raise ValueError("bands are one or more different names")
        if len(set(self.classes)) != len(self.classes) or len(self.classes) < 2:
            raise ValueError("classes are two or more different names")
        for name, values in (("stretch", self.stretch.low), ("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != len(self.bands):
                raise ValueError(f"{name} has {len(values)} value(s) for {len(self.bands)} band(s)")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError("std is positive")
        if not self.range[0] < self.range[1]:
            raise ValueError("range is (low, high) with low < high")
        return self

    @classmethod
    def from_dict(cls, table: Mapping[str, Any], where: str = "contract") -> InputContract:
        """A contract from plain values.

        Raises
        ------
        InputError : an unknown, missing or wrong entry, by name.
        """
        try:
            return cls.model_validate(dict(table))
        except pydantic.ValidationError as problem:
            first = problem.errors()[0]
            entry = ".".join(str(part) for part in first["loc"])
            if first["type"] == "extra_forbidden":
                fields = Stretch.model_fields if entry.startswith("stretch.") else cls.model_fields
                raise unknown_name(f"entry of {where}", entry.rpartition(".")[2], fields) from None
            given = "" if first["type"] == "missing" else f" = {first['input']!r:.80}" if entry else ""
            raise InputError(
                f"{where}: {entry}{given}" if entry else where,
                first["msg"].removeprefix("Value error, "),
                "correct the contract; robustastro inspect --init-contract writes one to start from",
            ) from None

    @classmethod
    def from_toml(cls, path: str | Path) -> InputContract:
        """A contract from a TOML file."""
        try:
            table = tomllib.loads(Path(path).read_text())
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
            raise InputError(f"contract {path}: {problem}", "a readable TOML file", "correct the file") from None
        return cls.from_dict(table, str(path))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, and for bundles."""
        return self.model_dump(mode="json")

    def to_toml(self) -> str:
        """The contract as a TOML file with the meaning of each entry."""
        table = self.to_dict()
        stretch = table.pop("stretch")
        lines = ["# How images become this network's input. See docs/your-own-model.md."]
        lines += [f"{name} = {_toml(value)}" for name, value in table.items() if value is not None]
        lines += ["", "[stretch]  # image values to [0, 1], constants per band; never fitted again"]
        lines += [f"{name} = {_toml(value)}" for name, value in stretch.items()]
        return "\n".join(lines) + "\n"

    def to_input(
        self,
        images: torch.Tensor,
        bands: Sequence[str],
        stretch: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Images (N, C, H, W) float32 with the named bands, as input (N, C', H', W') float32 in [0, 1].

        Parameters
        ----------
        stretch : used in place of the model's own.

        Raises
        ------
        InputError : a band that the network wants is not there, or the images are smaller than the crop.
        """
        if tuple(bands) != self.bands:
            images = images[:, self.channel_order(bands)]
        height, width = images.shape[-2:]
        if self.crop is not None:
            if min(height, width) < self.crop:
                raise InputError(
                    f"images of {height} x {width} px", f"at least {self.crop} x {self.crop} px", "use larger cutouts"
                )
            top, left = (height - self.crop) // 2, (width - self.crop) // 2
            images = images[..., top : top + self.crop, left : left + self.crop]
        x = (stretch or self.stretch)(images)
        if self.resize is not None and x.shape[-2:] != (self.resize, self.resize):
            side = (self.resize, self.resize)
            x = torch.nn.functional.interpolate(x, side, mode="bilinear", antialias=True).clamp_(0.0, 1.0)
        return x

    def channel_order(self, bands: Sequence[str]) -> list[int]:
        """Where each of the network's bands is among `bands`."""
        missing = [band for band in self.bands if band not in bands]
        if missing:
            raise InputError(
                f"the images have bands {', '.join(bands)}",
                f"the model needs {', '.join(self.bands)}",
                "name the bands of the data with --bands, in the order of its channels",
            )
        return [list(bands).index(band) for band in self.bands]

    def to_network(self, x: torch.Tensor) -> torch.Tensor:
        """Input space to the numbers and axes that the network takes; differentiable."""
        low, high = self.range
        if (low, high) != (0.0, 1.0):
            x = x * (high - low) + low
        if self.mean is not None:
            x = x - torch.tensor(self.mean, dtype=x.dtype, device=x.device)[:, None, None]
        if self.std is not None:
            x = x / torch.tensor(self.std, dtype=x.dtype, device=x.device)[:, None, None]
        return x if self.channels == "first" else x.permute(0, 2, 3, 1)

    def to_logits(self, output: torch.Tensor) -> torch.Tensor:
        """The network's output (N, K) as logits, up to a constant per image; differentiable."""
        if self.output == "probabilities":
            return output.clamp_min(1e-12).log()
        return output


def _toml(value: Any) -> str:
    return json.dumps(value)  # JSON strings, numbers, booleans and arrays are TOML
