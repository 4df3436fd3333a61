"""CORAL: the same covariance of latent vectors in both domains (Sun & Saenko 2016, arXiv:1607.01719)."""

from __future__ import annotations

import torch

from robustastro.adapt.transfer import Setting, Step, Transfer


def covariance(x: torch.Tensor) -> torch.Tensor:
    """Sample covariance (D, D) of vectors (n, D), over n - 1."""
    centred = x - x.mean(dim=0)
    return centred.T @ centred / (len(x) - 1)


def coral(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """|C_s - C_t|^2 / (|C_s|^2 + |C_t|^2) of the covariances, squared Frobenius norms: 0 if equal, at most 1.

    The published loss is |C_s - C_t|^2 / (4 D^2) (eq. 1). It vanishes as the dimension D grows and as the fourth power
    of the size of the latent space, so that no weight suits two networks, and shrinking the latent space lowers it. The
    denominator here has the same units, and takes part in the gradient, which so has no component along the size: held
    constant, it let the loss shrink a latent space to a point.

    Parameters
    ----------
    source, target : (n, D) and (m, D) float, at least two of each.
    """
    a, b = covariance(source), covariance(target)
    return (a - b).square().sum() / (a.square().sum() + b.square().sum()).clamp_min(1e-24)


class CORAL(Transfer):
    """The transfer loss: `weight` x `coral` of the latent vectors.

    The default weight follows from a rule and from no trial: a loss that runs from 0 to 1 counts as much as a
    cross-entropy of one unit. Means are not compared: a shift of the means alone goes unseen.
    """

    def __init__(self, setting: Setting, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, step: Step) -> torch.Tensor:
        """Scalar loss."""
        return self.weight * coral(*step.both())
