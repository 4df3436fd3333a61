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


class DomainClassifier(nn.Module):
    """Says source or target of vectors (n, D), and sends the gradient back to them reversed.

    Two hidden layers. With `spectral` its layers are spectrally normalised (Miyato et al. 2018, arXiv:1802.05957), and
    with a `scale` its input has a mean length of `scale`, so its logits stay within a few units: a free classifier soon
    separates the domains perfectly, its loss goes to zero, and so does the gradient that should mix them. The length is
    held constant in the gradient: the loss is the same at every size of the latent space.

    A loss near ln 2 does not show that the domains are mixed: the classifier may only lag behind a network that moves.
    The running mean of the weights (`Method.average`) is what steadies the game.

    Parameters
    ----------
    inputs : D.
    reversal : strength of the reversal at the end of its schedule. Adam makes light of the size of a gradient, so this,
        and not the weight of the loss, is what the network feels against its task.
    hidden : width of the hidden layers.
    scale : mean length of the vectors that the first layer sees; 0: vectors as they are.
    spectral : whether the layers are spectrally normalised.
    dropout : share of the hidden units that are dropped in training.
    """

    def __init__(
        self, inputs: int, reversal: float, hidden: float, scale: float, spectral: float, dropout: float
    ) -> None:
        super().__init__()
        self.reversal, self.scale = reversal, scale
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise((inputs, int(hidden), int(hidden), 1)):
            layer = nn.Linear(a, b)
            layers += [spectral_norm(layer) if spectral else layer, nn.ReLU(), nn.Dropout(dropout)]
        self.classifier = nn.Sequential(*layers[:-2])

    def forward(self, both: torch.Tensor, progress: float) -> torch.Tensor:
        """Logits (n,) of being from the target, at `progress` of the training."""
        if self.scale:
            both = self.scale * both / both.detach().norm(dim=1).mean().clamp_min(1e-12)
        return self.classifier(reverse_gradient(both, self.reversal * reversal_schedule(progress))).squeeze(1)


class DANN(Transfer):
    """The transfer loss: `weight` x cross-entropy of a domain classifier whose gradient arrives reversed.

    Published settings: as in DeepMerge II (arXiv:2103.01373), 1024-1024-1 with dropout 0.5 and nothing that keeps its
    logits small.
    """

    def __init__(
        self, setting: Setting, weight: float, reversal: float, hidden: float, scale: float, spectral: float = 1.0,
        dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.weight = weight
        self.domain = DomainClassifier(setting.latent, reversal, hidden, scale, spectral, dropout)

    def forward(self, step: Step) -> torch.Tensor:
        """Scalar loss."""
        source, target = step.both()
        logits = self.domain(torch.cat([source, target]), step.progress)
        return self.weight * domain_loss(logits[: len(source)], logits[len(source) :])


def domain_loss(
    source: torch.Tensor, target: torch.Tensor, source_weights: torch.Tensor | None = None,
    target_weights: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """Cross-entropy of logits (n,), (m,) of being from the target: mean of the domains' weighted means; ln 2 is blind.

    Weights, (n,) and (m,), default to equal ones.
    """
    # -log(1 - p) of a source galaxy is softplus(logit), -log(p) of a target galaxy is softplus(-logit)
    wrong = (nn.functional.softplus(source), nn.functional.softplus(-target))
    weights = (source_weights, target_weights)
    means = [w.mean() if v is None else (v * w).sum() / v.sum() for w, v in zip(wrong, weights, strict=True)]
    return 0.5 * (means[0] + means[1])
