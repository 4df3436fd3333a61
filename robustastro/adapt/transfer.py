"""What a method of adaptation is to the training loop."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from robustastro.contract import InputContract
from robustastro.data.galaxies import Galaxies


@dataclass(frozen=True, eq=False)
class Setting:
    """What is known when a training begins.

    Parameters
    ----------
    network : freshly built or loaded, on its device.
    contract : how images become its input.
    latent : dimension D of the latent vectors, the input of the last layer.
    source : the labelled training galaxies, in the order that `Transfer.images` counts in.
    target : the training galaxies of the target, or None; without labels unless the method may use them.
    seed : of the training.
    batch : galaxies per domain and step.
    class_weights : (K,) of the cross-entropy.
    """

    network: nn.Module
    contract: InputContract
    latent: int
    source: Galaxies
    target: Galaxies | None
    seed: int
    batch: int
    class_weights: torch.Tensor


@dataclass(frozen=True, eq=False)
class Step:
    """One step of training, after the forward pass; float32 on the device of the network.

    Parameters
    ----------
    source, target : latent vectors (n, D) and (m, D); target is None where there is no target domain.
    source_logits, target_logits : (n, K) and (m, K).
    labels : (n,) of the source.
    target_rows : (m,) positions in the target training galaxies.
    target_labels : (m,), only for a method with `target_labels`.
    progress : of the training, from 0 to 1.
    notes : numbers of this step for the history; their mean over an epoch is kept under their name.
    """

    source: torch.Tensor
    source_logits: torch.Tensor
    labels: torch.Tensor
    progress: float
    target: torch.Tensor | None = None
    target_logits: torch.Tensor | None = None
    target_rows: torch.Tensor | None = None
    target_labels: torch.Tensor | None = None
    notes: dict[str, float] = field(default_factory=dict)

    def both(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Latent vectors of source and target."""
        assert self.target is not None  # the loop refuses a method without the target it needs
        return self.source, self.target


class Transfer(nn.Module):
    """A term of the loss, and whatever else a method changes. Everything but `forward` may stay as it is here.

    Subclasses are built as Class(setting, **options), with the options of the method's entry in `METHODS` but
    `settings`. Their parameters are trained with the network's, and their state is in the checkpoint.
    """

    separate = False  # a pass for each domain, so that batch norm sees one domain at a time
    target_in_steps = True  # target images, where there are any, go through the network in each step

    def attach(self, network: nn.Module) -> dict[str, float]:
        """Change the network before training, in place: other layers, which `finish` turns into plain ones again.

        Returns options of the architecture that the finished network has and that `bundles.build` must be given.
        """
        return {}

    def enter(self, network: nn.Module, domain: str) -> None:
        """Called before a pass of images of one domain, "source" or "target"; only where `separate`."""

    def images(self, rows: torch.Tensor, epoch: int) -> torch.Tensor | None:
        """Input images (n, C, H, W) to use for the source galaxies `rows` in this epoch; None: as they are."""
        return None

    def harden(self, network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Source images (n, C, H, W) in input space [0, 1], on the device, changed before the pass of a step."""
        return x

    def forward(self, step: Step) -> torch.Tensor:
        """The term of the loss, a scalar."""
        return step.source.new_zeros(())

    def total(self, task: torch.Tensor, transfer: torch.Tensor) -> torch.Tensor:
        """The loss that is minimised, from the source's cross-entropy and `forward`."""
        return task + transfer

    def finish(self, network: nn.Module, target: torch.Tensor | None) -> None:
        """Change the trained network, in place, given the target's training images (M, C, H, W) in input space."""
