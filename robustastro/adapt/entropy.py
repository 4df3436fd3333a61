"""Entropy minimisation on the target (Grandvalet & Bengio 2005), as DeepMerge II adds it (arXiv:2103.01373)."""

from __future__ import annotations

import torch

from robustastro.adapt.transfer import Setting, Step, Transfer


def mean_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Mean over galaxies of the entropy [nat] of softmax(logits), logits (n, K); 0 to log K."""
    logs = logits.log_softmax(dim=1)
    return -(logs.exp() * logs).sum(dim=1).mean()


class Entropy(Transfer):
    """`weight` x mean entropy of the target's predictions, added to any method; 0.05 was published."""

    def __init__(self, setting: Setting, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, step: Step) -> torch.Tensor:
        """Scalar loss."""
        assert step.target_logits is not None  # the loop refuses entropy without a target
        return self.weight * mean_entropy(step.target_logits)
