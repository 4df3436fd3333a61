"""The one training loop: AdamW, warm-up and cosine decay, early stopping on source validation, checkpoint and resume.

The epoch that is kept is the one of the lowest loss on the validation galaxies of the source: no target label takes
part in that, and it need not be the best one for the target.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from perturbations.errors import InputError
from robustastro.adapt import method as find_method
from robustastro.adapt.checkpoint import identity_of, keep, kept
from robustastro.adapt.contracts import stretched
from robustastro.adapt.judging import best_epoch, collapse, stalled, validation_numbers
from robustastro.adapt.recipe import Recipe
from robustastro.adapt.starting import class_weights, freeze, head_of, start_from, terms_of
from robustastro.adapt.transfer import Setting, Step, Transfer
from robustastro.contract import InputContract
from robustastro.data.galaxies import Galaxies
from robustastro.models.bundles import Model, build
from robustastro.models.subject import run_network
from robustastro.record import Flag, jsonable


class Loop:
    """One training: its tensors and its state. After `run`, `network` is the trained one, on the CPU in eval mode."""

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
        self.weights = class_weights(self.y, classes).to(device)
        self.arch_options: dict[str, Any] = {"bands": len(contract.bands), "classes": classes, "size": self.x.shape[-1]}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.network = build(recipe.arch, self.arch_options).to(device)
            self.new_head = init is not None and start_from(self.network, init, recipe, contract)
            if device.type == "cpu":
                self.network = self.network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
            setting = Setting(
                self.network, contract, head_of(self.network, recipe.arch)[1].in_features, source, target,
                recipe.seed, recipe.batch, self.weights,
            )  # fmt: skip
            self.terms = nn.ModuleDict(terms_of(recipe, setting)).to(device)
        self.transfer: Transfer = self.terms["transfer"]  # type: ignore[assignment]
        self.arch_options |= self.transfer.attach(self.network)
        self.network.to(device)
        self.frozen = freeze(self.network, recipe, self.new_head)
        self.dealt_x = self.target_x if self.transfer.target_in_steps or recipe.entropy else None
        self.latent: list[torch.Tensor] = []
        self.hook = head_of(self.network, recipe.arch)[1].register_forward_pre_hook(
            lambda _module, inputs, named: self.latent.append((*inputs, *named.values())[0]), with_kwargs=True
        )
        self.averaged = None
        if recipe.average:
            self.averaged = AveragedModel(self.network, multi_avg_fn=_running_mean(recipe.average), use_buffers=True)
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

    def run(self, checkpoint: Path | None, progress) -> tuple[dict[str, Any], list[Flag]]:
        """Train to the end, from the checkpoint where there is one; the training record, and its flags."""
        identity = ""
        if checkpoint is not None:
            identity = identity_of(self.recipe, self.init, (self.source, self.valid, self.target))
            self._resume(kept(checkpoint, identity))
        while len(self.history) < self.recipe.epochs and not stalled(self.history, self.recipe.patience):
            started = time.monotonic()
            with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
                torch.manual_seed(self.recipe.seed * 1_000_003 + len(self.history))  # dropout
                numbers = self._epoch(len(self.history))
            numbers |= self._validate()
            if not self.history or numbers["valid_loss"] < min(h["valid_loss"] for h in self.history):
                self.best = {name: tensor.detach().cpu().clone() for name, tensor in self.judged.state_dict().items()}
            self.history.append(numbers)
            self.seconds += time.monotonic() - started
            if checkpoint is not None:
                keep(checkpoint, identity, self._state())
            if progress:
                progress(len(self.history), self.recipe.epochs, numbers)
        self.hook.remove()
        self.latent.clear()
        self.network.load_state_dict(self.best)
        self.averaged = None
        flags = collapse(self._validate(detail=True))  # on the source, as it was trained
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.seed)
            self.transfer.finish(self.network, self.target_x)
        final = self._validate(detail=True)
        self.network = self.network.to("cpu", memory_format=torch.contiguous_format).eval()  # pyright: ignore[reportCallIssue]
        for parameter in self.network.parameters():
            parameter.requires_grad_(True)  # frozen ones, too
        return jsonable(self._record(final, flags)), flags

    def _record(self, final: dict[str, Any], flags: list[Flag]) -> dict[str, Any]:
        init = None
        if self.init is not None:
            init = {"path": self.init.path, "sha256": self.init.sha256, "new_head": self.new_head}
        return {
            "recipe": asdict(self.recipe),
            "arch_options": self.arch_options,
            "method": self.recipe.label,
            "seed": self.recipe.seed,
            "tuned": self.method.tuned,
            "target_labels": self.method.target_labels,
            "init": init,
            "source": {"domain": self.source.domain, "train": len(self.source), "valid": len(self.valid)},
            "target": None if self.target is None else {"domain": self.target.domain, "train": len(self.target)},
            "history": self.history,
            "best_epoch": 1 + best_epoch(self.history),
            "chosen_by": "lowest loss on the validation galaxies of the source",
            "validation": final,
            "seconds": round(self.seconds, 2),
            "device": str(self.device),
            "torch": str(torch.__version__),
            "flags": [flag.to_dict() for flag in flags],
        }

    def _rate(self, step: int) -> float:
        total = self.steps * self.recipe.epochs
        warm = max(1, int(self.recipe.warm_up * total))
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, total - warm)))

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
            if self.dealt_x is not None and others is not None:
                images.append(self.dealt_x[others])
            x = self._turned(torch.cat(images), order).to(self.device)
            if self.device.type == "cpu":
                x = x.contiguous(memory_format=torch.channels_last)
            y = self.y[which].to(self.device)
            hardened = self.transfer.harden(self.network, x[:size], y)
            logits, latent = self._pass(torch.cat([hardened, x[size:]]), size)
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
        if self.dealt_x is None:
            return None
        rounds = math.ceil(self.steps * self.recipe.batch / len(self.dealt_x))
        return torch.cat([torch.randperm(len(self.dealt_x), generator=order) for _ in range(rounds)])

    def _turned(self, x: torch.Tensor, order: torch.Generator) -> torch.Tensor:
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
        return validation_numbers(logits, self.valid_y, self.weights.cpu(), detail)

    def _state(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "terms": self.terms.state_dict(),
            "averaged": {} if self.averaged is None else self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "history": self.history,
            "best": self.best,
            "seconds": self.seconds,
        }

    def _resume(self, state: dict[str, Any] | None) -> None:
        if state is None:
            return
        self.network.load_state_dict(state["network"])
        self.terms.load_state_dict(state["terms"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.history, self.best, self.seconds = state["history"], state["best"], state["seconds"]


def _running_mean(decay: float) -> Callable[..., None]:
    """The mean of weights and buffers for `AveragedModel`; the counters of batch norm are not averaged but copied."""
    mean = get_ema_multi_avg_fn(decay)

    def update(averaged: list[torch.Tensor], now: list[torch.Tensor], count: Any) -> None:
        if averaged[0].is_floating_point():
            mean(averaged, now, count)
            return
        for mine, current in zip(averaged, now, strict=True):
            mine.copy_(current)

    return update
