"""Training with and without domain adaptation: one file per method, one loop (`training.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from perturbations.errors import unknown_name


@dataclass(frozen=True)
class Method:
    """An adaptation method.

    Parameters
    ----------
    name, source : what it is called, and where it was published.
    needs_target : whether it uses images of the target domain (never their labels).
    loss : "module:Class" of an nn.Module whose forward(source_latent, target_latent, progress) is the transfer loss.
    options : its settings with their defaults, `weight` among them.
    """

    name: str
    source: str
    needs_target: bool
    loss: str
    options: Mapping[str, float]


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        m.name: m
        for m in (
            Method("none", "source labels only", False, "", {}),
            Method(
                "mmd",
                "Gretton et al. 2012, JMLR 13, 723; Long et al. 2015, arXiv:1502.02791",
                True,
                "robustastro.adapt.mmd:MMD",
                {"weight": 1.0},
            ),
            Method(
                "dann",
                "Ganin et al. 2016, JMLR 17, 59, arXiv:1505.07818",
                True,
                "robustastro.adapt.dann:DANN",
                {"weight": 1.0, "reversal": 1.0, "hidden": 256, "scale": 4.0},
            ),
        )
    }
)


def method(name: str) -> Method:
    """The method of that name."""
    if name not in METHODS:
        raise unknown_name("adaptation method", name, METHODS, "See robustastro list methods")
    return METHODS[name]
