"""Domain-adversarial training: a domain classifier behind a gradient reversal (Ganin et al. 2016, arXiv:1505.07818)."""

from __future__ import annotations

import math

import torch
from torch import nn


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: torch.Tensor, strength: float) -> torch.Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return -ctx.strength * gradients[0], None


def reverse_gradient(x: torch.Tensor, strength: float) -> torch.Tensor:
    """x forward; minus `strength` times the gradient backward (eq. 11 and 12)."""
    return _Reversal.apply(x, strength)  # type: ignore[return-value]


def reversal_schedule(progress: float) -> float:
    """2 / (1 + exp(-10 p)) - 1 for training progress p in [0, 1] (section 5.2.2): 0 at the start, 1 at the end."""
    return 2.0 / (1.0 + math.exp(-10.0 * progress)) - 1.0


class DANN(nn.Module):
    """The transfer loss: cross-entropy of a domain classifier whose gradient reaches the latent vectors reversed.

    Latent vectors are divided by the root mean square of the batch (held constant in the gradient), so that a growing
    or shrinking latent space neither outruns nor silences the classifier.

    Parameters
    ----------
    latent : dimension D of the latent vectors.
    weight : of the domain loss.
    reversal : strength of the reversal at the end of its schedule.
    hidden : width of the classifier's two hidden layers.
    """

    def __init__(self, latent: int, weight: float, reversal: float, hidden: float) -> None:
        super().__init__()
        self.weight, self.reversal, width = weight, reversal, int(hidden)
        self.classifier = nn.Sequential(
            nn.Linear(latent, width), nn.ReLU(),
            nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, 1),
        )  # fmt: skip

    def forward(self, source: torch.Tensor, target: torch.Tensor, progress: float) -> torch.Tensor:
        """Scalar loss of latent vectors (n, D) and (m, D) at training progress in [0, 1]."""
        both = torch.cat([source, target])
        both = both / both.detach().square().mean().sqrt().clamp_min(1e-12)
        both = reverse_gradient(both, self.reversal * reversal_schedule(progress))
        domain = torch.cat([both.new_zeros(len(source)), both.new_ones(len(target))])
        loss = nn.functional.binary_cross_entropy_with_logits(self.classifier(both).squeeze(1), domain)
        return self.weight * loss
