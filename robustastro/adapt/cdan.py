"""Conditional domain-adversarial training (CDAN, CDAN+E: Long et al. 2018, arXiv:1705.10667)."""

from __future__ import annotations

import torch

from robustastro.adapt.dann import DomainClassifier, domain_loss
from robustastro.adapt.transfer import Setting, Step, Transfer


def multilinear(latent: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
    """Outer product of latent vectors (n, D) and probabilities (n, K), as (n, D K) (eq. 6)."""
    return (latent[:, :, None] * probabilities[:, None, :]).flatten(1)


def certainty_weights(probabilities: torch.Tensor) -> torch.Tensor:
    """1 + exp(-H) of probabilities (n, K) with entropy H: 2 for a certain prediction, 1 + 1/K for a blind one."""
    return 1.0 + torch.exp(-torch.special.entr(probabilities).sum(dim=1))


class CDAN(Transfer):
    """The transfer loss: `weight` x cross-entropy of a classifier of domains that sees latent vector and prediction.

    The domains are so mixed class by class, and not only as a whole. Predictions are held constant in the gradient (as
    the authors do in the product, and here in the weights, too): they are what is conditioned on, not what is adapted.

    Parameters
    ----------
    entropy_weighted : 1: galaxies count by how certain their prediction is (CDAN+E); 0: equally (CDAN).
    reversal, hidden, scale : of the `DomainClassifier`, spectrally normalised and without dropout.
    """

    def __init__(
        self, setting: Setting, weight: float, reversal: float, hidden: float, scale: float, entropy_weighted: float
    ) -> None:
        super().__init__()
        self.weight, self.entropy_weighted = weight, bool(entropy_weighted)
        inputs = setting.latent * len(setting.contract.classes)
        self.domain = DomainClassifier(inputs, reversal, hidden, scale, spectral=True, dropout=0.0)

    def forward(self, step: Step) -> torch.Tensor:
        """Scalar loss."""
        source, target = step.both()
        assert step.target_logits is not None  # there where step.target is
        probabilities = torch.cat([step.source_logits, step.target_logits]).detach().softmax(dim=1)
        logits = self.domain(multilinear(torch.cat([source, target]), probabilities), step.progress)
        n = len(source)
        if not self.entropy_weighted:
            return self.weight * domain_loss(logits[:n], logits[n:])
        weights = certainty_weights(probabilities)
        return self.weight * domain_loss(logits[:n], logits[n:], weights[:n], weights[n:])
