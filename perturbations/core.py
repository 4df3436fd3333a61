"""The words every perturbation is written in: Observation, Victim, Perturbation, and the catalogue that finds them.

One perturbation is one file in a family folder here, or in another package that names it under the entry-point group
`robustastro.perturbations`. The decorators `@corruption` and `@attack` register the function; nothing else is edited.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import math
import pkgutil
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, Protocol, runtime_checkable

import torch

import perturbations
from perturbations.draws import Draws
from perturbations.errors import BrokenPromise, InputError, unknown_name
from perturbations.exposure import Exposure

ENTRY_POINTS = "robustastro.perturbations"
ADAPTERS = "perturbations.adapters"  # attacks of other libraries, called "library:NAME"
KINDS, SPACES, NORMS = ("corruption", "attack"), ("flux", "stretch", "input"), ("L0", "L1", "L2", "Linf")
ACCESS = ("none", "logits", "gradient")
TOGETHER = 32  # images given to a corruption at a time: their buffers stay in the cache, and memory is bounded


@dataclass(frozen=True, eq=False)
class Observation:
    """Images with the exposure that made them.

    Parameters
    ----------
    flux : (N, C, H, W) float32, sky-subtracted electrons per pixel of the reference exposure.
    exposure : its Exposure; one band per channel.
    mask : (N, C, H, W) or (N, 1, H, W) bool, True where the pixel holds no measurement; or None.
    """

    flux: torch.Tensor
    exposure: Exposure
    mask: torch.Tensor | None = None

    def __post_init__(self) -> None:
        if self.flux.ndim != 4 or self.flux.dtype != torch.float32:
            raise InputError(
                f"flux of shape {tuple(self.flux.shape)} and dtype {self.flux.dtype}",
                "(N, C, H, W) float32",
                "convert the images before making an Observation",
            )
        if self.flux.shape[1] != len(self.exposure.bands):
            raise InputError(
                f"{self.flux.shape[1]} channels with an exposure of bands {', '.join(self.exposure.bands)}",
                "one band per channel",
                "name as many bands as the image has",
            )
        self.exposure.check(len(self.flux))
        fitting = (self.flux.shape, (len(self.flux), 1, *self.flux.shape[2:]))
        if self.mask is not None and (self.mask.dtype != torch.bool or self.mask.shape not in fitting):
            raise InputError(
                f"mask of shape {tuple(self.mask.shape)} and dtype {self.mask.dtype}",
                "(N, C, H, W) or (N, 1, H, W) bool",
                "make the mask fit the images",
            )

    def take(self, which: slice) -> Observation:
        """Some of the galaxies."""
        mask = None if self.mask is None else self.mask[which]
        positions = range(*which.indices(len(self.flux)))
        return Observation(self.flux[which], self.exposure.take(positions), mask)

    @classmethod
    def joined(cls, parts: Sequence[Observation]) -> Observation:
        """The galaxies of several observations of the same bands, one after the other."""
        masks = None
        if any(part.mask is not None for part in parts):
            masks = torch.cat(
                [
                    (torch.zeros_like(part.flux, dtype=torch.bool) if part.mask is None else part.mask).expand_as(
                        part.flux
                    )
                    for part in parts
                ]
            )
        exposure = Exposure.joined([part.exposure for part in parts], [len(part.flux) for part in parts])
        return cls(torch.cat([part.flux for part in parts]), exposure, masks)

    def replace(
        self, flux: torch.Tensor, exposure: Exposure | None = None, mask: torch.Tensor | None = None
    ) -> Observation:
        """The same sky with another flux and, if given, another exposure, and more pixels masked."""
        if mask is not None and self.mask is not None:
            mask = mask | self.mask
        return Observation(flux, exposure or self.exposure, self.mask if mask is None else mask)


class Stretch(Protocol):
    """How a model turns image values into input space, with constants per band that are never fitted again."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, C, H, W) in [0, 1]."""
        ...

    def between(self, images: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        """The same curve with other constants, broadcastable to the images."""
        ...


@dataclass(frozen=True, eq=False)
class Unstretched:
    """Images as they come to the model's stretch: flux, or display values where there are no units.

    Parameters
    ----------
    images : (N, C, H, W) float32, the bands and the part of the image that the network sees.
    stretch : the model's own.
    """

    images: torch.Tensor
    stretch: Stretch


@runtime_checkable
class Victim(Protocol):
    """What an attack may see of a model, for one batch of images.

    `box` is (low, high), each broadcastable to the images: the values an attack may write. A victim may also offer
    `logits_at(which, positions, values)`: logits (M, K) of the batch's images `which` (M,) with the pixels
    `positions` (M, k, 2) (row, column) set to `values` (M, k, C); `screened_at`, the same in low precision, where
    `screens` is true; `unpadded()`, the victim without passes padded to one size; for attacks in flux space
    `seen(flux)`, the images in input space that the model makes of flux (M, C, H, W); `reachable(sigmas)`, a box like
    `box` of what a detector can give, from so many standard deviations of blank sky below zero to full well; and
    `certify(which, positions, low, high, boxes)`, (M,) bool, True where it is proved that no value within `low` and
    `high` (N, C, H, W) of the pixel `positions` (M, 2) of image `which` (M,) changes its class.
    """

    classes: int
    box: tuple[torch.Tensor, torch.Tensor]

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, K) of images (N, C, H, W) in input space."""
        ...

    def gradient(self, x: torch.Tensor, loss: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """d(sum of loss(logits(x)))/dx, like x; `loss` maps logits (N, K) to (N,)."""
        ...


@dataclass(frozen=True)
class AttackResult:
    """What an attack returns.

    Parameters
    ----------
    images : (N, C, H, W), the perturbed images in the attack's space (input or flux); the most harmful one found where
        the attack did not succeed.
    success : (N,) bool, the attack's own claim; the engine measures its own.
    queries : (N,) int64, forward passes spent on each image.
    details : further tensors or lists of length N (pixel positions, values).
    """

    images: torch.Tensor
    success: torch.Tensor
    queries: torch.Tensor
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Perturbation:
    """One entry of the catalogue. Frozen; made by `@corruption` and `@attack`.

    Parameters
    ----------
    name, family : the function's name, and the folder it lies in.
    kind : "corruption" (nature or a pipeline) or "attack" (chosen to make the network err).
    space : "flux" (an Observation), "stretch" (how values become input, for images with and without units) or "input"
        (what the network sees, in [0, 1]).
    parameter, unit : what the strength is, and its unit ("1" where it has none).
    ladder : one to five strengths from mild to severe; the severity is the rung, 1 to 5.
    identity : the strength that returns the input bit for bit, or None with `no_identity` saying why.
    source : where the ladder comes from.
    version : raised when the same strength gives other numbers.
    norm : the norm that an attack's strength bounds: "L0" (pixels), "L1", "L2" or "Linf" (input units), or None.
    access : what it needs of the model: "none", "logits" or "gradient".
    options : names and defaults of the function's keyword-only arguments.
    function : the function itself.
    scope, replay : "galaxy", unless it is fitted on a set, or repeats only for the same batches.
    settle : fills options that follow from others into the resolved ones; None where there are none.
    harm : what grows from rung to rung, (clean, perturbed) -> (N,), both (N, C, H, W); None: the RMS change.
    whole : it is given the whole batch, which it divides itself or handles in few buffers; else a few images at a time.
    most_queries : for an attack, the most forward passes per image, from its resolved options and the "shape" (C, H, W)
        of an image; None if not known.
    fit : for an attack of scope "set", what fits it; its keyword-only arguments are the options then.
    """

    name: str
    family: str
    kind: Literal["corruption", "attack"]
    space: Literal["flux", "stretch", "input"]
    parameter: str
    unit: str
    ladder: tuple[float, ...]
    identity: float | None
    source: str
    version: int
    norm: str | None
    access: str
    options: Mapping[str, Any]
    function: Callable[..., Any]
    no_identity: str = ""
    scope: Literal["galaxy", "set"] = "galaxy"
    replay: Literal["galaxy", "batch"] = "galaxy"
    settle: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    most_queries: Callable[[Mapping[str, Any]], int] | None = None
    harm: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    whole: bool = False
    fit: Callable[..., Mapping[str, torch.Tensor]] | None = None

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem:
            raise InputError(f"perturbation '{self.name}': {problem}", "see CONTRIBUTING.md", "correct its decorator")

    def facts(self) -> dict[str, Any]:
        """What `robustastro list perturbations --json` prints."""
        names = [
            "name",
            "family",
            "kind",
            "space",
            "parameter",
            "unit",
            "ladder",
            "identity",
            "norm",
            "access",
            "source",
            "version",
        ]
        return {n: list(v) if isinstance(v := getattr(self, n), tuple) else v for n in names} | {
            "options": dict(self.options),
            "description": (inspect.getdoc(self.function) or "").partition("\n")[0],
        }

    def severity(self, strength: float) -> int | None:
        """The rung (1 to 5) of a strength, or None where it is between rungs."""
        return self.ladder.index(strength) + 1 if strength in self.ladder else None

    def resolve(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Every option with its value: the given ones, converted and checked, over the defaults."""
        import pydantic

        hints = typing.get_type_hints(self.fit or self.function)
        resolved = dict(self.options)
        for name, value in options.items():
            if name not in self.options:
                raise unknown_name(f"option of {self.name}", name, self.options)
            try:
                resolved[name] = pydantic.TypeAdapter(hints.get(name, Any)).validate_python(value)
            except pydantic.ValidationError as problem:
                raise InputError(
                    f"{self.name} option {name} = {value!r}",
                    problem.errors()[0]["msg"],
                    f"the default is {self.options[name]!r}",
                ) from None
        return self.settle(resolved) if self.settle else resolved

    def __call__(self, sky: Any, strength: float, draws: Draws, **options: Any) -> Any:
        """Apply a corruption and measure that it kept its promises.

        Parameters
        ----------
        sky : Observation (flux space), Unstretched (stretch space) or images (N, C, H, W) float32 in [0, 1] (input
            space). Not modified.
        strength : in the perturbation's unit.
        draws : one galaxy id per image. To apply the same perturbation again, pass draws of another scope: the same
            draws would repeat the same noise.

        Returns
        -------
        An Observation in flux space, else images in input space.

        Raises
        ------
        InputError : an image without an exposure for a flux perturbation; a strength or option out of range.
        BrokenPromise : the function changed its input, or its output has another shape, dtype or is not finite.
        """
        if self.kind != "corruption":
            raise InputError(f"'{self.name}' is an attack", "a corruption", f"call run_attack with '{self.name}'")
        if self.space == "flux" and not isinstance(sky, Observation):
            raise refusal(self)
        given = {"flux": Observation, "stretch": Unstretched, "input": torch.Tensor}[self.space]
        if not isinstance(sky, given):
            raise InputError(
                f"'{self.name}' given a {type(sky).__name__}",
                "Unstretched images" if self.space == "stretch" else "images in [0, 1]",
                "wrap them with the model's stretch" if self.space == "stretch" else "apply the model's stretch first",
            )
        options, scoped = self.resolve(options), self._draws(draws, len(_pixels(sky)))
        if len(scoped) == 0:
            return sky.replace(sky.flux.clone()) if isinstance(sky, Observation) else _pixels(sky).clone()
        size = len(scoped) if self.whole else TOGETHER
        if len(scoped) <= size:
            return self._apply(sky, float(strength), scoped, options)
        parts = []
        for start in range(0, len(scoped), size):
            which = slice(start, min(start + size, len(scoped)))
            part = sky.take(which) if isinstance(sky, Observation) else _images_of(sky, which)
            parts.append(self._apply(part, float(strength), scoped.take(range(which.start, which.stop)), options))
        return Observation.joined(parts) if self.space == "flux" else torch.cat(parts)

    def _apply(self, sky: Any, strength: float, draws: Draws, options: Mapping[str, Any]) -> Any:
        before = _pixels(sky)
        kept, known = before.clone(), _beside(sky)
        result = self.function(sky, strength, draws, **options)
        self._untouched(sky, kept, known)
        wanted = Observation if self.space == "flux" else torch.Tensor
        if not isinstance(result, wanted):
            raise BrokenPromise(f"{self.name} returned a {type(result).__name__}, not a {wanted.__name__}")
        if isinstance(result, Observation) and result.exposure.bands != sky.exposure.bands:
            raise BrokenPromise(f"{self.name} returned other bands: {', '.join(result.exposure.bands)}")
        after = _pixels(result)
        low, high = _well_formed(self, before, after)
        if self.space != "flux" and not (low >= 0.0 and high <= 1.0):
            raise BrokenPromise(f"{self.name} returned values outside [0, 1]")
        return result

    def run_attack(
        self,
        x: torch.Tensor | Observation,
        labels: torch.Tensor,
        victim: Victim,
        strength: float,
        draws: Draws,
        *,
        fitted: Mapping[str, torch.Tensor] | None = None,
        **options: Any,
    ) -> AttackResult:
        """Run an attack and measure that it kept its promises: shape, finiteness, box, and the norm budget.

        Parameters
        ----------
        x : images (N, C, H, W) float32 in input space, or an Observation for an attack in flux space. Not modified.
        labels : (N,) int64, the true classes.
        victim : the model, bound to these images; for an attack in flux space it has `seen`.
        strength : the budget, in `norm`.
        draws : one galaxy id per image, purpose "attack".
        fitted : what `fit_to` returned at this strength, for an attack of scope "set"; none at its identity strength.

        Raises
        ------
        InputError : an image without an exposure for an attack in flux space, or an attack that was not fitted.
        BrokenPromise : the function changed its input, or its output left shape, dtype, box or budget.
        """
        if self.kind != "attack":
            raise InputError(f"'{self.name}' is a corruption", "an attack", "call it directly")
        if self.space == "flux" and not isinstance(x, Observation):
            raise refusal(self)
        resolved = self.resolve(options)
        if self.fit:
            if fitted is None and strength != self.identity:
                raise InputError(
                    f"'{self.name}' was not fitted", "what fit_to returned at this strength", "pass it as fitted"
                )
            resolved = {"fitted": fitted}
        before = _pixels(x)
        kept, known = before.clone(), _beside(x)
        result = self.function(x, labels, victim, float(strength), self._draws(draws, len(before)), **resolved)
        self._untouched(x, kept, known)
        _well_formed(self, before, result.images)
        if self.space == "flux":  # neither the box nor the norms are of fluxes
            return result
        low, high = victim.box
        if bool(((result.images < low) | (result.images > high)).any()):
            raise BrokenPromise(f"{self.name} left the allowed box")
        spent = distance(result.images, before, self.norm)
        if spent is not None and bool((spent > strength * (1 + 1e-5)).any()):
            raise BrokenPromise(f"{self.name} spent {float(spent.max()):.6g} of a {self.norm} budget of {strength:g}")
        return result

    def fit_to(
        self,
        x: torch.Tensor,
        labels: torch.Tensor,
        victim: Victim,
        strength: float,
        draws: Draws,
        **options: Any,
    ) -> dict[str, torch.Tensor]:
        """Fit an attack of scope "set" to images, once for the whole set.

        Parameters
        ----------
        x, labels, victim, strength, draws : as for `run_attack`, of the images to fit to.

        Returns
        -------
        Named tensors on the CPU, for `run_attack` on any images of the same size.

        Raises
        ------
        InputError : a perturbation that is fitted to nothing.
        BrokenPromise : the function changed its input, or its result is not finite.
        """
        if self.fit is None:
            raise InputError(f"'{self.name}' is not fitted", "an attack of scope 'set'", "call run_attack directly")
        kept = x.clone()
        fitted = self.fit(x, labels, victim, float(strength), self._draws(draws, len(x)), **self.resolve(options))
        self._untouched(x, kept, [])
        if not all(bool(torch.isfinite(tensor).all()) for tensor in fitted.values()):
            raise BrokenPromise(f"{self.name} was fitted to values that are not finite")
        return {name: tensor.cpu() for name, tensor in fitted.items()}

    def _untouched(self, sky: Any, pixels: torch.Tensor, known: list[torch.Tensor]) -> None:
        """Compare what was given with copies of its pixels and of what is beside them."""
        _same_bits(self, _pixels(sky), pixels, "its input")
        if any(not torch.equal(a, b) for a, b in zip(known, _beside(sky, copy=False), strict=True)):
            raise BrokenPromise(f"{self.name} modified the exposure or the mask of its input")

    def _draws(self, draws: Draws, images: int) -> Draws:
        if len(draws) != images:
            raise InputError(f"{len(draws)} galaxy ids for {images} images", "one id per image", "pass matching draws")
        return draws.scoped(f"{draws.scope}/{self.name}".lstrip("/"), self.version)


def distance(x: torch.Tensor, clean: torch.Tensor, norm: str | None) -> torch.Tensor | None:
    """How far images (N, C, H, W) moved, per image, in a norm; L0 counts pixels, not values. None without a norm."""
    change = (x.double() - clean.double()).flatten(2)
    if norm == "L0":
        return (change != 0).any(dim=1).sum(dim=1)
    if norm == "L1":
        return change.flatten(1).norm(p=1, dim=1)
    if norm == "L2":
        return change.flatten(1).norm(dim=1)
    if norm == "Linf":
        return change.flatten(1).abs().amax(dim=1)
    return None


def refusal(perturbation: Perturbation) -> InputError:
    """Why a flux perturbation cannot act on an image without units, and what to declare."""
    return InputError(
        f"'{perturbation.name}' acts on electrons, and these images have no Exposure",
        "images in flux units with bands, pixel scale and sky level",
        "declare them with --exposure FILE.toml, or choose an input-space perturbation such as jpeg or pixel_noise",
    )


def corruption(
    *,
    space: Literal["flux", "stretch", "input"],
    parameter: str,
    unit: str,
    ladder: tuple[float, ...],
    identity: float | None,
    source: str,
    version: int,
    no_identity: str = "",
    harm: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    whole: bool = False,
):
    """Register `fn(sky, strength, draws, **options)` in the catalogue; see `Perturbation` for the words."""
    return _register(
        kind="corruption", space=space, parameter=parameter, unit=unit, ladder=ladder, identity=identity, source=source,
        version=version, norm=None, access="none", no_identity=no_identity, harm=harm,
        whole=whole,
    )  # fmt: skip


def attack(
    *,
    parameter: str,
    unit: str,
    ladder: tuple[float, ...],
    norm: str | None,
    access: Literal["logits", "gradient"],
    source: str,
    version: int,
    identity: float | None = 0.0,
    no_identity: str = "",
    space: Literal["flux", "input"] = "input",
    settle: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    most_queries: Callable[[Mapping[str, Any]], int] | None = None,
    harm: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    scope: Literal["galaxy", "set"] = "galaxy",
    fit: Callable[..., Mapping[str, torch.Tensor]] | None = None,
):
    """Register `fn(x, labels, victim, strength, draws, **options) -> AttackResult` in the catalogue.

    With scope "set" it is `fn(x, labels, victim, strength, draws, *, fitted)`, where `fitted` is what
    `fit(x, labels, victim, strength, draws, **options)` returned, named tensors; None at the identity strength.
    """
    return _register(
        kind="attack", space=space, parameter=parameter, unit=unit, ladder=ladder, identity=identity, source=source,
        version=version, norm=norm, access=access, no_identity=no_identity, settle=settle, most_queries=most_queries,
        harm=harm, scope=scope, fit=fit,
    )  # fmt: skip


_catalogue: dict[str, Perturbation] = {}


def catalogue() -> Mapping[str, Perturbation]:
    """Every perturbation by name: those in this package's family folders, of other libraries, and of entry points."""
    for name in (*_built_in().values(), ADAPTERS):
        importlib.import_module(name)
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        _load(point)
    return MappingProxyType(dict(sorted(_catalogue.items())))


def _load(point: importlib.metadata.EntryPoint) -> None:
    try:
        point.load()
    except InputError:
        raise
    except (Exception, SystemExit) as problem:
        package = point.dist.name if point.dist else point.value
        raise InputError(
            f"plug-in '{point.name}' of {package}: {type(problem).__name__}: {problem}",
            "a module that can be imported",
            "update or uninstall that package",
        ) from problem


def get(name: str) -> Perturbation:
    """The perturbation of that name.

    Raises
    ------
    InputError : no such perturbation, with the nearest name.
    """
    library = name.partition(":")[0] if ":" in name else ""
    module = ADAPTERS if library else _built_in().get(name)
    if module:
        importlib.import_module(module)
    if name not in _catalogue and name not in catalogue():
        of_library = [known for known in catalogue() if library and known.startswith(f"{library}:")]
        known = of_library or [known for known in catalogue() if library or ":" not in known]
        raise unknown_name("perturbation", name, known, "See robustastro list perturbations")
    return _catalogue[name]


def _built_in() -> dict[str, str]:
    """Names of the perturbations in this package and the modules that hold them, found without importing them."""
    found = {}
    for family in pkgutil.iter_modules(perturbations.__path__, "perturbations."):
        if family.ispkg and family.name != ADAPTERS:
            folder = str(family.module_finder.path) + "/" + family.name.rpartition(".")[2]  # type: ignore[union-attr]
            for module in pkgutil.iter_modules([folder]):
                if module.name in found:
                    raise InputError(
                        f"two perturbations are called '{module.name}' ({found[module.name]} and {family.name})",
                        "one name, one perturbation",
                        "rename one of them",
                    )
                found[module.name] = f"{family.name}.{module.name}"
    return found


def _register(**facts: Any):
    facts["ladder"] = tuple(float(rung) for rung in facts["ladder"])

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        arguments = inspect.signature(facts.get("fit") or function).parameters.values()
        add(
            Perturbation(
                name=function.__name__,
                family=_family(function.__module__),
                options=MappingProxyType({a.name: a.default for a in arguments if a.kind is a.KEYWORD_ONLY}),
                function=function,
                **facts,
            )
        )
        return function

    return register


def add(entry: Perturbation) -> None:
    """Put an entry into the catalogue.

    Raises
    ------
    InputError : another module has one of that name.
    """
    other = _catalogue.get(entry.name)
    if other and other.function.__module__ != entry.function.__module__:
        places = f"{other.function.__module__} and {entry.function.__module__}"
        raise InputError(
            f"two perturbations are called '{entry.name}' ({places})",
            "one name, one perturbation",
            "rename one of them",
        )
    _catalogue[entry.name] = entry


def _family(module: str) -> str:
    parts = module.split(".")
    return parts[1] if parts[0] == "perturbations" and len(parts) > 2 else parts[0]


def _problem(p: Perturbation) -> str | None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*(:\w+)?", p.name):
        return "its name is not lower case letters, digits and underscores"
    if p.kind not in KINDS or p.space not in SPACES or p.access not in ACCESS or p.norm not in (*NORMS, None):
        return f"kind {p.kind}, space {p.space}, access {p.access} or norm {p.norm} is not known"
    if not 1 <= len(p.ladder) <= 5 or not all(math.isfinite(rung) for rung in p.ladder):
        return f"ladder {p.ladder} is not one to five finite numbers"
    if len(set(p.ladder)) != len(p.ladder) or list(p.ladder) not in (sorted(p.ladder), sorted(p.ladder, reverse=True)):
        return f"ladder {p.ladder} is not in order"
    if p.identity in p.ladder:
        return "its identity is a rung of its ladder"
    if (p.identity is None) != bool(p.no_identity):
        return "give either an identity strength or the reason (no_identity) why there is none"
    if not (p.parameter and p.unit and p.source) or p.version < 1:
        return "parameter, unit, source and a version of at least 1 are required"
    if (p.fit is None) != (p.scope == "galaxy"):
        return "what is fitted has scope 'set', and only that"
    if p.kind == "attack" and p.space == "flux" and p.norm is not None:
        return "a norm bounds images in input space, not flux"
    if any(default is inspect.Parameter.empty for default in p.options.values()):
        return "an option has no default"
    return None


def _same_bits(p: Perturbation, now: torch.Tensor, copy: torch.Tensor, what: str) -> None:
    """Compare with a copy, which is used up: three times as fast as torch.equal, and -0 is not 0."""
    different = copy.view(torch.int32).bitwise_xor_(now.view(torch.int32))
    if different.numel() and any(bool(end) for end in torch.aminmax(different)):
        raise BrokenPromise(f"{p.name} modified {what}")


def _pixels(sky: Any) -> torch.Tensor:
    return sky.flux if isinstance(sky, Observation) else sky.images if isinstance(sky, Unstretched) else sky


def _beside(sky: Any, copy: bool = True) -> list[torch.Tensor]:
    """The numbers of the exposure, as bits, and the mask: what must not change beside the flux."""
    if not isinstance(sky, Observation):
        return []
    beside = [number.view(torch.int64) for number in sky.exposure.numbers()]
    beside += [] if sky.mask is None else [sky.mask]
    return [tensor.clone() for tensor in beside] if copy else beside


def _images_of(sky: Any, which: slice) -> Any:
    return Unstretched(sky.images[which], sky.stretch) if isinstance(sky, Unstretched) else sky[which]


def _well_formed(p: Perturbation, before: torch.Tensor, after: torch.Tensor) -> tuple[float, float]:
    """The smallest and the largest value returned; of no image, 0 and 0."""
    if after.shape != before.shape or after.dtype != before.dtype or after.device != before.device:
        raise BrokenPromise(
            f"{p.name} returned {tuple(after.shape)} {after.dtype} for {tuple(before.shape)} {before.dtype}"
        )
    if after.numel() == 0:
        return 0.0, 0.0
    low, high = (float(value) for value in torch.aminmax(after))  # a value that is not a number passes through both
    if not (math.isfinite(low) and math.isfinite(high)):
        raise BrokenPromise(f"{p.name} returned values that are not finite")
    return low, high
