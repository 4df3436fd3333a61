"""The one training loop: AdamW, warm-up and cosine decay, early stopping on source validation, checkpoint and resume.

Target labels get no further than `train`, which drops them before anything else; but for a method that says it is an
upper bound (`Method.target_labels`).
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from perturbations.errors import InputError, unknown_name
from robustastro.adapt import method as find_method
from robustastro.adapt.recipe import Recipe
from robustastro.adapt.transfer import Setting, Step, Transfer
from robustastro.contract import InputContract, Stretch
from robustastro.data.galaxies import Galaxies
from robustastro.data.splits import disjoint, has_split, id_hashes, select
from robustastro.models.bundles import Model, arch_identity, build, load_model, read_weights, save_bundle
from robustastro.models.subject import Subject, run_network
from robustastro.record import Flag, jsonable, write_whole

SAMPLE = 512  # training images that the stretch is fitted on
PERCENTILES = (0.1, 99.9)


@dataclass(frozen=True)
class Trained:
    """What a training gives: the network, its contract, and the record that goes into the bundle."""

    network: nn.Module
    contract: InputContract
    record: dict[str, Any]
    flags: list[Flag]
    source_ids: tuple[str, ...]
    target_ids: tuple[str, ...]
    valid_ids: tuple[str, ...]

    @property
    def train_ids(self) -> tuple[str, ...]:
        """Galaxies of either domain whose images trained the network."""
        return self.source_ids + self.target_ids


def fit_contract(galaxies: Galaxies) -> InputContract:
    """The contract of a network to be trained on these galaxies, constants from a keyed sample of them.

    Flux, or values that go below zero: the published asinh stretch between the 0.1 and 99.9 percentiles of each band.
    Display values: linear from 0 to 255, or to 1 where no value is larger.
    """
    order = np.argsort([hashlib.blake2b(i.encode(), digest_size=8).digest() for i in galaxies.ids])
    sample = galaxies.batch(order[:SAMPLE])
    bands = len(galaxies.bands)
    if galaxies.exposure is None and float(sample.min()) >= 0.0 and float(sample.max()) <= 255.0:
        top = 255.0 if float(sample.max()) > 1.0 else 1.0
        stretch = Stretch(kind="linear", low=(0.0,) * bands, high=(top,) * bands)
    else:
        low, high = np.percentile(sample.numpy(), PERCENTILES, axis=(0, 2, 3))
        if not bool((high > np.maximum(low, 0.0)).all()):
            raise InputError(
                f"the training images have 99.9 percentiles {high.tolist()}", "positive, above the 0.1 percentile",
                "check that the images are not blank",
            )  # fmt: skip
        stretch = Stretch(kind="asinh", low=tuple(low.tolist()), high=tuple(high.tolist()))
    x = stretch(sample)
    # the sky is nearly constant in input space: without centring, batch norm's running mean lags behind the weights
    return InputContract.from_dict(
        {
            "bands": galaxies.bands,
            "classes": galaxies.classes,
            "stretch": stretch,
            "crop": min(galaxies.images.shape[2:]),
            "mean": x.mean(dim=(0, 2, 3)).tolist(),
            "std": x.std(dim=(0, 2, 3)).clamp_min(1e-3).tolist(),
        },
        f"a contract for {galaxies.domain}",
    )


def train(
    recipe: Recipe,
    source: Galaxies,
    target: Galaxies | None = None,
    *,
    device: str = "cpu",
    checkpoint: Path | None = None,
    progress: Callable[[int, int, Mapping[str, float]], None] | None = None,
) -> Trained:
    """Train a network on labelled source galaxies and unlabelled target galaxies.

    Parameters
    ----------
    recipe : how.
    source : labelled; its train split trains, its valid split stops early.
    target : its train split is aligned with the source where the method asks for it; labels are dropped first, but
        for a method that is an upper bound. Given to a method that needs no target, it only keeps the galaxies that it
        would train on out of the source.
    checkpoint : file kept up to date after each epoch, and resumed from if it is there and of the same training.
    progress : called after each epoch with (epoch, epochs, numbers of the epoch).

    Raises
    ------
    InputError : no labels, no target for a method that needs one, or too few galaxies.
    """
    recipe = recipe.resolved()
    chosen = find_method(recipe.method)
    if source.labels is None:
        raise InputError(f"{source.domain} has no labels", "a labelled source", "name the column with --label-column")
    if recipe.needs_target and target is None:
        raise InputError(f"method {recipe.label} without a target", "a target domain", "add --target FILE")
    if chosen.target_labels and (target is None or target.labels is None):
        raise InputError(f"method {recipe.method} without labels of the target", "a labelled target", "add its labels")
    train_source, valid = select(source, "train"), select(source, "valid")
    train_target = None
    if target is not None:
        kept = target.with_classes(source.classes) if chosen.target_labels else replace(target, labels=None)
        train_target = select(kept, "train")
    if train_target is not None and not recipe.paired:
        train_source, train_target = disjoint(train_source, train_target)
    if not recipe.needs_target:  # trained on the same source galaxies as the methods it is compared with
        train_target = None
    init = load_model(recipe.init) if recipe.init else None
    contract = fit_contract(train_source)
    state = _Loop(recipe, contract, train_source, valid, train_target, torch.device(device), init)
    return state.run(checkpoint, progress)


def write_bundle(path: str | Path, trained: Trained, source: Galaxies, target: Galaxies | None, device: str) -> None:
    """Write the bundle of a training, with class centroids and the names of its data."""
    trained_on = set(trained.source_ids)
    train_source = source.take([k for k, i in enumerate(source.ids) if i in trained_on])
    labels = train_source.labels
    assert labels is not None  # train() refused unlabelled sources
    subject = Subject(trained.network, trained.contract, device=device)
    latent = subject.outputs(stretched(train_source, trained.contract)).latent
    classes = len(trained.contract.classes)
    centroids = torch.stack([latent[torch.from_numpy(labels == k)].mean(dim=0) for k in range(classes)])
    save_bundle(
        path,
        trained.network,
        trained.record["recipe"]["arch"],
        trained.record["arch_options"],
        trained.contract,
        training=trained.record,
        data={
            "source": dict(source.source),
            "target": dict(target.source) if target is not None else None,
            "domain": source.domain,
            "test_sha256": select(source, "test").digest() if has_split(source, "test") else None,
        },
        centroids=centroids,
        trained_on=id_hashes(trained.train_ids + trained.valid_ids),
    )


def stretched(galaxies: Galaxies, contract: InputContract) -> torch.Tensor:
    """All images in input space, float32 (N, C, H, W)."""
    parts = [
        contract.to_input(galaxies.batch(slice(start, start + 64)), galaxies.bands)
        for start in range(0, len(galaxies), 64)
    ]
    return torch.cat(parts)


def head_of(network: nn.Module, arch: str) -> tuple[str, nn.Linear]:
    """The last Linear layer of a network and its name; its input is the latent vector.

    Raises
    ------
    InputError : there is none.
    """
    linear = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise InputError(f"{arch} has no Linear layer", "a linear head", "end the network with nn.Linear")
    return linear[-1]


def start_from(network: nn.Module, init: Model, recipe: Recipe, contract: InputContract) -> None:
    """Give a network the weights of a trained one, but for the last layer where the classes are others.

    Raises
    ------
    InputError : another architecture, or weights that do not fit.
    """
    if init.arch != recipe.arch:
        raise InputError(
            f"--init {init.path} is a {init.arch}", f"the same --arch, {recipe.arch}", "change one of them"
        )
    own, given = network.state_dict(), init.network.state_dict()
    if init.contract.classes != contract.classes:
        head, _ = head_of(network, recipe.arch)
        given = {name: own[name] if name.rpartition(".")[0] == head else tensor for name, tensor in given.items()}
    odd = [name for name in own if name not in given or given[name].shape != own[name].shape]
    if odd:
        raise InputError(
            f"--init {init.path}: {odd[0]} is {tuple(given[odd[0]].shape) if odd[0] in given else 'missing'}",
            f"{tuple(own[odd[0]].shape)}, of the same bands and image size", "use images of that size and bands",
        )  # fmt: skip
    network.load_state_dict({name: given[name] for name in own})


def _freeze(network: nn.Module, recipe: Recipe) -> list[nn.Module]:
    """Stop the gradient of the modules named in the recipe, and return them."""
    modules = dict(network.named_modules())
    head, _ = head_of(network, recipe.arch)
    frozen = []
    for name in recipe.freeze:
        if name == "features":
            within = [m for n, m in modules.items() if n and n != head and not head.startswith(f"{n}.")]
        elif name in modules and name:
            within = [modules[name]]
        else:
            raise unknown_name("layer to freeze", name, ["features", *filter(None, modules)])
        for module in within:
            module.requires_grad_(False)
        frozen += within
    return frozen


def _terms(recipe: Recipe, setting: Setting) -> dict[str, nn.Module]:
    """The method's own term as "transfer", and those that are added to any method."""
    place = find_method(recipe.method).transfer
    options = {name: value for name, value in recipe.options.items() if name != "settings"}
    terms: dict[str, nn.Module] = {"transfer": _class(place)(setting, **options) if place else Transfer()}
    if recipe.fisher:
        terms["fisher"] = _class("robustastro.adapt.fisher:Fisher")(setting, form=recipe.fisher)
    if recipe.entropy:
        terms["entropy"] = _class("robustastro.adapt.entropy:Entropy")(setting, weight=recipe.entropy)
    return terms


def _class(place: str) -> type[Transfer]:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


class _Loop:
    """One training: its tensors and its state."""

    def __init__(
        self,
        recipe: Recipe,
        contract: InputContract,
        source: Galaxies,
        valid: Galaxies,
        target: Galaxies | None,
        device: torch.device,
        init: Model | None,
    ) -> None:
        self.recipe, self.contract, self.device, self.init = recipe, contract, device, init
        self.method = find_method(recipe.method)
        if len(source) < recipe.batch or (target is not None and len(target) < recipe.batch):
            raise InputError(
                f"{len(source)} source and {0 if target is None else len(target)} target training galaxies",
                f"at least one batch of {recipe.batch} each",
                "use more galaxies or a smaller --batch",
            )
        self.source, self.target, self.valid = source, target, valid
        self.x, self.valid_x = stretched(source, contract), stretched(valid, contract)
        self.target_x = None if target is None else stretched(target, contract)
        self.y, self.valid_y = (torch.from_numpy(np.asarray(g.labels)) for g in (source, valid))
        self.target_y = None
        if target is not None and target.labels is not None:  # only of an upper bound: train() drops them otherwise
            self.target_y = torch.from_numpy(np.asarray(target.labels))
        classes = len(contract.classes)
        counts = torch.bincount(self.y, minlength=classes).float()
        self.weights = (counts.sum() / (classes * counts.clamp_min(1.0))).to(device)
        self.arch_options: dict[str, Any] = {"bands": len(contract.bands), "classes": classes, "size": self.x.shape[-1]}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.network = build(recipe.arch, self.arch_options).to(device)
            if init is not None:
                start_from(self.network, init, recipe, contract)
            if device.type == "cpu":
                self.network = self.network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
            setting = Setting(
                self.network, contract, head_of(self.network, recipe.arch)[1].in_features, source, target,
                recipe.seed, recipe.batch, self.weights,
            )  # fmt: skip
            self.terms = nn.ModuleDict(_terms(recipe, setting)).to(device)
        self.transfer: Transfer = self.terms["transfer"]  # type: ignore[assignment]
        self.arch_options |= self.transfer.attach(self.network)
        self.network.to(device)
        self.frozen = _freeze(self.network, recipe)
        self.latent: list[torch.Tensor] = []
        self.hook = head_of(self.network, recipe.arch)[1].register_forward_pre_hook(
            lambda _module, inputs, named: self.latent.append((*inputs, *named.values())[0]), with_kwargs=True
        )
        self.averaged = None
        if recipe.average:
            self.averaged = AveragedModel(
                self.network, multi_avg_fn=get_ema_multi_avg_fn(recipe.average), use_buffers=True
            )
        self.steps = len(self.x) // recipe.batch
        parameters = [p for p in (*self.network.parameters(), *self.terms.parameters()) if p.requires_grad]
        self.optimiser = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, self._rate)
        self.history: list[dict[str, float]] = []
        self.best: dict[str, torch.Tensor] = {}
        self.seconds = 0.0

    @property
    def judged(self) -> nn.Module:
        """The network that is validated and kept: the running mean of the weights where there is one."""
        return self.network if self.averaged is None else self.averaged.module

    def _rate(self, step: int) -> float:
        total = self.steps * self.recipe.epochs
        warm = max(1, int(self.recipe.warm_up * total))
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, total - warm)))

    def run(self, checkpoint: Path | None, progress) -> Trained:
        self._resume(checkpoint)
        while len(self.history) < self.recipe.epochs and not self._stalled():
            started = time.monotonic()
            with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
                torch.manual_seed(self.recipe.seed * 1_000_003 + len(self.history))  # dropout
                numbers = self._epoch(len(self.history))
            numbers |= self._validate()
            if not self.history or numbers["valid_loss"] < min(h["valid_loss"] for h in self.history):
                self.best = {name: tensor.detach().cpu().clone() for name, tensor in self.judged.state_dict().items()}
            self.history.append(numbers)
            self.seconds += time.monotonic() - started
            self._keep(checkpoint)
            if progress:
                progress(len(self.history), self.recipe.epochs, numbers)
        self.hook.remove()
        self.latent.clear()
        if self.best:
            self.network.load_state_dict(self.best)
        self.averaged = None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.seed)
            self.transfer.finish(self.network, self.target_x)
        final = self._validate(detail=True)
        flags = self._flags(final)
        network = self.network.to("cpu", memory_format=torch.contiguous_format).eval()  # pyright: ignore[reportCallIssue]
        for parameter in network.parameters():
            parameter.requires_grad_(True)  # frozen ones, too
        record = {
            "recipe": asdict(self.recipe),
            "arch_options": self.arch_options,
            "method": self.recipe.label,
            "seed": self.recipe.seed,
            "tuned": self.method.tuned,
            "target_labels": self.method.target_labels,
            "init": None if self.init is None else {"path": self.init.path, "sha256": self.init.sha256},
            "source": {"domain": self.source.domain, "train": len(self.source), "valid": len(self.valid)},
            "target": None if self.target is None else {"domain": self.target.domain, "train": len(self.target)},
            "history": self.history,
            "best_epoch": 1 + int(np.argmin([_or_inf(h["valid_loss"]) for h in self.history])),
            "validation": final,
            "seconds": round(self.seconds, 2),
            "device": str(self.device),
            "torch": str(torch.__version__),
            "flags": [flag.to_dict() for flag in flags],
        }
        target_ids = () if self.target is None else self.target.ids
        return Trained(network, self.contract, jsonable(record), flags, self.source.ids, target_ids, self.valid.ids)

    def _epoch(self, epoch: int) -> dict[str, float]:
        order = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + epoch)
        source = torch.randperm(len(self.x), generator=order)
        target = self._target_order(order)
        self.network.train()
        for module in self.frozen:
            module.eval()
        sums: dict[str, float] = {"task_loss": 0.0, "transfer_loss": 0.0}
        size = self.recipe.batch
        for step in range(self.steps):
            rows = slice(step * size, (step + 1) * size)
            which, others = source[rows], None if target is None else target[rows]
            given = self.transfer.images(which, epoch)
            images = [self.x[which] if given is None else given]
            if self.target_x is not None and others is not None:
                images.append(self.target_x[others])
            x = self._augmented(torch.cat(images), order).to(self.device)
            if self.device.type == "cpu":
                x = x.contiguous(memory_format=torch.channels_last)
            y = self.y[which].to(self.device)
            x = torch.cat([self.transfer.harden(self.network, x[:size], y), x[size:]])
            logits, latent = self._pass(x, size)
            task = nn.functional.cross_entropy(logits[:size], y, weight=self.weights)
            seen = Step(
                source=latent[:size],
                source_logits=logits[:size],
                labels=y,
                progress=(epoch * self.steps + step) / (self.recipe.epochs * self.steps),
                target=None if others is None else latent[size:],
                target_logits=None if others is None else logits[size:],
                target_rows=others,
                target_labels=None
                if self.target_y is None or others is None
                else self.target_y[others].to(self.device),
            )
            losses = {name: term(seen) for name, term in self.terms.items()}
            total = self.transfer.total(task, losses["transfer"])
            total = total + sum(loss for name, loss in losses.items() if name != "transfer")
            self.optimiser.zero_grad(set_to_none=True)
            total.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
            self.optimiser.step()
            self.schedule.step()
            if self.averaged is not None:
                self.averaged.update_parameters(self.network)
            found = {"task_loss": task.item()} | {f"{n}_loss": v.item() for n, v in losses.items()} | seen.notes
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + value
        return {"epoch": epoch + 1} | {name: value / self.steps for name, value in sums.items()}

    def _pass(self, x: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and latent of the source's images, the first `size`, and the target's."""
        logits, latent = [], []
        for domain, part in zip(("source", "target"), x.split(size) if self.transfer.separate else (x,), strict=False):
            if self.transfer.separate:
                self.transfer.enter(self.network, domain)
            self.latent.clear()
            with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
                logits.append(run_network(self.network, self.contract, part).float())
            latent.append(self.latent[-1].float().flatten(1))
        return torch.cat(logits), torch.cat(latent)

    def _target_order(self, order: torch.Generator) -> torch.Tensor | None:
        if self.target_x is None:
            return None
        rounds = math.ceil(self.steps * self.recipe.batch / len(self.target_x))
        return torch.cat([torch.randperm(len(self.target_x), generator=order) for _ in range(rounds)])

    def _augmented(self, x: torch.Tensor, order: torch.Generator) -> torch.Tensor:
        """Each image turned by one of the eight symmetries of the square: a galaxy has no preferred orientation."""
        if not self.recipe.augment:
            return x
        symmetry = torch.randint(8, (len(x),), generator=order)
        out = torch.empty_like(x)
        for k in range(8):
            which = symmetry == k
            part = torch.rot90(x[which], k % 4, (2, 3))
            out[which] = part.flip(3) if k >= 4 else part
        return out

    def _validate(self, detail: bool = False) -> dict[str, Any]:
        self.judged.eval()
        with torch.inference_mode():
            logits = torch.cat(
                [
                    run_network(self.judged, self.contract, x.to(self.device)).float().cpu()
                    for x in self.valid_x.split(100)
                ]
            )
        self.latent.clear()
        loss = nn.functional.cross_entropy(logits, self.valid_y, weight=self.weights.cpu())
        predicted = logits.argmax(dim=1)
        numbers: dict[str, Any] = {
            "valid_loss": float(loss), "valid_accuracy": float((predicted == self.valid_y).float().mean()),
        }  # fmt: skip
        if detail:
            classes = logits.shape[1]
            numbers["predicted_per_class"] = torch.bincount(predicted, minlength=classes).tolist()
            numbers["per_class"] = torch.bincount(self.valid_y, minlength=classes).tolist()
            right = self.valid_y[predicted == self.valid_y]
            numbers["right_per_class"] = torch.bincount(right, minlength=classes).tolist()
        return numbers

    def _flags(self, final: Mapping[str, Any]) -> list[Flag]:
        """Collapsed: one class for all, a loss that is not finite, or a balanced accuracy that chance explains."""
        recalls = np.array(
            [right / n for right, n in zip(final["right_per_class"], final["per_class"], strict=True) if n]
        )
        counts = np.array([n for n in final["per_class"] if n])
        chance = 1.0 / len(counts)
        error = math.sqrt(sum(chance * (1.0 - chance) / n for n in counts)) / len(counts)
        reason = ""
        if not math.isfinite(final["valid_loss"]):
            reason = "the validation loss is not finite"
        elif len(counts) > 1 and sum(count > 0 for count in final["predicted_per_class"]) == 1:
            reason = "every validation galaxy gets the same class"
        elif len(counts) > 1 and recalls.mean() <= chance + 1.645 * error:
            reason = f"balanced validation accuracy {recalls.mean():.3f} is no better than chance ({chance:.3f})"
        if not reason:
            return []
        return [
            Flag("collapsed", f"the training collapsed: {reason}", "train another seed, or lower the learning rate")
        ]

    def _stalled(self) -> bool:
        """No better validation loss for `patience` epochs, or a loss that is not finite."""
        losses = [_or_inf(h["valid_loss"]) for h in self.history]
        if losses and not math.isfinite(losses[-1]):
            return True
        return (
            bool(self.recipe.patience and losses) and len(losses) - 1 - int(np.argmin(losses)) >= self.recipe.patience
        )

    # ------------------------------------------------------------------ checkpoint

    def _identity(self) -> str:
        h = hashlib.sha256(json.dumps(asdict(self.recipe), sort_keys=True).encode())
        h.update(arch_identity(self.recipe.arch).encode())
        h.update(b"" if self.init is None else self.init.sha256.encode())
        for galaxies in (self.source, self.valid, self.target):
            h.update(b"none" if galaxies is None else galaxies.digest().encode())
        return h.hexdigest()

    def _keep(self, checkpoint: Path | None) -> None:
        if checkpoint is None:
            return
        state = {
            "identity": self.identity,
            "network": self.network.state_dict(),
            "terms": self.terms.state_dict(),
            "averaged": {} if self.averaged is None else self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "history": self.history,
            "best": self.best,
            "seconds": self.seconds,
        }
        write_whole(checkpoint, lambda file: torch.save(state, file))

    def _resume(self, checkpoint: Path | None) -> None:
        if checkpoint is None:
            return
        self.identity = self._identity()
        if not checkpoint.exists():
            return
        state, _ = read_weights(checkpoint)
        if not isinstance(state, dict) or state.get("identity") != self.identity:
            raise InputError(
                f"{checkpoint} belongs to another training",
                "one with the same recipe and data",
                "delete it or name another --out",
            )
        self.network.load_state_dict(state["network"])
        self.terms.load_state_dict(state["terms"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.history, self.best, self.seconds = state["history"], state["best"], state["seconds"]


def _or_inf(value: float) -> float:
    return value if math.isfinite(value) else math.inf
