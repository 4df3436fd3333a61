"""Domain-adversarial training: a domain classifier behind a gradient reversal (Ganin et al. 2016, arXiv:1505.07818)."""

from __future__ import annotations

import itertools
import math

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from robustastro.adapt.transfer import Setting, Step, Transfer


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


class DANN(Transfer):
    """The transfer loss: cross-entropy of a domain classifier whose gradient reaches the latent vectors reversed.

    Its layers are spectrally normalised (Miyato et al. 2018, arXiv:1802.05957) and its input has a mean length of
    `scale`, so its logits stay within a few units: a free classifier soon separates the domains perfectly, its loss
    goes to zero, and so does the gradient that should mix them. The length is held constant in the gradient: the latent
    space gains nothing by growing.

    Parameters
    ----------
    weight : of the domain loss.
    reversal : strength of the reversal at the end of its schedule.
    hidden : width of the classifier's two hidden layers.
    scale : mean length of the latent vectors that the classifier sees.
    """

    def __init__(self, setting: Setting, weight: float, reversal: float, hidden: float, scale: float) -> None:
        super().__init__()
        self.weight, self.reversal, self.scale = weight, reversal, scale
        sizes = (setting.latent, int(hidden), int(hidden), 1)
        first, second, last = (spectral_norm(nn.Linear(a, b)) for a, b in itertools.pairwise(sizes))
        self.classifier = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)

    def forward(self, step: Step) -> torch.Tensor:
        """Scalar loss."""
        source, target = step.both()
        both = torch.cat([source, target])
        both = self.scale * both / both.detach().norm(dim=1).mean().clamp_min(1e-12)
        both = reverse_gradient(both, self.reversal * reversal_schedule(step.progress))
        domain = torch.cat([both.new_zeros(len(source)), both.new_ones(len(target))])
        loss = nn.functional.binary_cross_entropy_with_logits(self.classifier(both).squeeze(1), domain)
        return self.weight * loss
