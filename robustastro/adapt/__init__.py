"""Training with and without domain adaptation: one file per method, one loop (`training.py`).

A method is an entry of `METHODS` and a `Transfer` in a file of its own (`transfer.py` says what the loop asks of one).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from perturbations.errors import unknown_name

Options = Mapping[str, float | str]


@dataclass(frozen=True)
class Method:
    """A way to train.

    Parameters
    ----------
    name, source : what it is called, and where it was published.
    needs_target : whether it uses images of the target domain.
    transfer : "module:Class" of a `Transfer`; "" for none.
    options : its settings with their defaults.
    choices : the values that a setting in words may take.
    published : what `settings=published` changes of the defaults.
    target_labels : whether target labels train it, which makes it an upper bound and not an adaptation.
    control : whether it is there to compare adaptation with.
    tuned : how the defaults were found.
    average : decay per step of the running mean of the weights that is kept (0: the weights themselves).
    """

    name: str
    source: str
    needs_target: bool
    transfer: str
    options: Options
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    published: Options = field(default_factory=dict)
    target_labels: bool = False
    control: bool = False
    tuned: str = "without target labels"
    average: float = 0.0


@dataclass(frozen=True)
class Range:
    """Finite numbers from low to high, the ends included but for those that are open; `whole`: only whole ones."""

    low: float
    high: float = math.inf
    whole: bool = False
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return math.isfinite(value) and above and below and (not self.whole or value == int(value))

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a finite number"
        high = f" and {'below' if self.open_high else 'at most'} {self.high:g}" if self.high < math.inf else ""
        return f"{kind} {'above' if self.open_low else 'of at least'} {self.low:g}{high}"


SWITCH, POSITIVE, SHARE = Range(0, 1, whole=True), Range(0, open_low=True), Range(0, 1)

# Of the numbers among the options of any method: an option of one name means the same in all of them.
RANGES: Mapping[str, Range] = MappingProxyType(
    {
        **dict.fromkeys(("weight", "entropy_weight", "align", "margin", "reversal", "scale"), Range(0)),
        **dict.fromkeys(("spectral", "entropy_weighted", "dynamic", "scaled"), SWITCH),
        **dict.fromkeys(("blur", "temperature", "reach"), POSITIVE),
        **dict.fromkeys(("share", "warm_up", "epsilon"), SHARE),
        "dropout": Range(0, 1, open_high=True),
        "hidden": Range(1, 65536, whole=True),
        "top": Range(1, 65536, whole=True),
        "bank": Range(0, 1_000_000, whole=True),
        "steps": Range(1, 10_000, whole=True),
    }
)

SETTINGS = {"settings": ("tuned", "published")}

METHODS: Mapping[str, Method] = MappingProxyType(
    {
        m.name: m
        for m in (
            Method("none", "source labels only", False, "", {}, control=True),
            Method(
                "mmd",
                "Gretton et al. 2012, JMLR 13, 723; Long et al. 2015, arXiv:1502.02791",
                True,
                "robustastro.adapt.mmd:MMD",
                {"weight": 1.0, "settings": "tuned", "kernels": "median"},
                choices=SETTINGS | {"kernels": ("median", "published")},
                published={"weight": 0.01, "kernels": "published"},
            ),
            Method(
                "coral",
                "Sun & Saenko 2016, arXiv:1607.01719",
                True,
                "robustastro.adapt.coral:CORAL",
                {"weight": 1.0},
            ),
            Method(
                "dann",
                "Ganin et al. 2016, JMLR 17, 59, arXiv:1505.07818",
                True,
                "robustastro.adapt.dann:DANN",
                {
                    "weight": 1.0, "settings": "tuned", "reversal": 1.0, "hidden": 256, "scale": 4.0, "spectral": 1,
                    "dropout": 0.0,
                },
                choices=SETTINGS,
                published={"hidden": 1024, "scale": 0.0, "spectral": 0, "dropout": 0.5},
                tuned="with target labels in sight",
                average=0.99,
            ),
            Method(
                "cdan",
                "Long et al. 2018, arXiv:1705.10667",
                True,
                "robustastro.adapt.cdan:CDAN",
                {"weight": 1.0, "reversal": 1.0, "hidden": 256, "scale": 4.0, "entropy_weighted": 1},
                tuned="with target labels in sight",
                average=0.99,
            ),
            Method(
                "sinkhorn",
                "Feydy et al. 2019, arXiv:1810.08278; weighted as in SIDDA, Pandya et al. 2025, arXiv:2501.14048",
                True,
                "robustastro.adapt.sinkhorn:Sinkhorn",
                {"weight": 1.0, "blur": 0.05, "dynamic": 1},
            ),
            Method(
                "uda",
                "DeepAstroUDA: Ciprijanovic et al. 2023, arXiv:2302.02005; DANCE: Saito et al. 2020, arXiv:2002.07953",
                True,
                "robustastro.adapt.uda:UDA",
                {
                    "weight": 0.3, "entropy_weight": 0.05, "margin": 0.5, "scaled": 1, "top": 5, "bank": 256,
                    "temperature": 0.05, "warm_up": 0.2, "align": 1.0, "reach": 1.0, "norm": "shared",
                    "serve": "target", "settings": "tuned",
                },
                choices=SETTINGS | {"norm": ("shared", "domain"), "serve": ("source", "target", "pooled")},
                published={"weight": 1.0, "scaled": 0, "warm_up": 0.0, "align": 0.0, "norm": "domain"},
                tuned="with target labels in sight",
            ),
            Method(
                "augment",
                "source labels only, on images perturbed as they will be tested (Hendrycks & Dietterich 2019)",
                False,
                "robustastro.adapt.augment:Augment",
                {"share": 0.5, "with": "depth,seeing,zeropoint,cosmic_rays,blend,fits_rice,miscentring"},
                control=True,
            ),
            Method(
                "adabn",
                "Li et al. 2016, arXiv:1603.04779",
                True,
                "robustastro.adapt.adabn:AdaBN",
                {},
                control=True,
            ),
            Method(
                "at",
                "Madry et al. 2018, arXiv:1706.06083",
                False,
                "robustastro.adapt.at:AdversarialTraining",
                {"attack": "pgd", "epsilon": 0.008, "steps": 5},
                choices={"attack": ("pgd", "pixel")},
                control=True,
            ),
            Method(
                "supervised_target",
                "upper bound: the labels of the target train as well",
                True,
                "robustastro.adapt.supervised_target:SupervisedTarget",
                {"weight": 1.0},
                target_labels=True,
                control=True,
                tuned="with target labels",
            ),
        )
    }
)  # fmt: skip


def method(name: str) -> Method:
    """The method of that name."""
    if name not in METHODS:
        raise unknown_name("adaptation method", name, METHODS, "See robustastro list methods")
    return METHODS[name]
