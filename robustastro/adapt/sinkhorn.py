"""Sinkhorn divergence between source and target latent vectors, weighted as in SIDDA."""

from __future__ import annotations

import torch
from torch import nn

from robustastro.adapt.transfer import Setting, Step, Transfer

LOWEST, RATIO = 1e-3, 0.25  # eta1 stays above the first, eta2 above the second times eta1: as SIDDA's code has it


def sinkhorn(source: torch.Tensor, target: torch.Tensor, blur: float, reach: float | None = None) -> torch.Tensor:
    """Sinkhorn divergence OT(s, t) - OT(s, s)/2 - OT(t, t)/2 >= 0 (Feydy et al. 2019, arXiv:1810.08278, eq. 3).

    Cost |a - b|^2 / 2 and entropic regularisation blur^2, in units of the mean distance between source and target
    vectors (held constant in the gradient): the loss is the same at every size of the latent space.

    Parameters
    ----------
    source, target : (n, D) and (m, D) float.
    blur : length below which differences are ignored, in units of the mean distance. SIDDA takes 0.05 of the largest.
    reach : length in the same units beyond which a vector is rather left out than moved (unbalanced transport, Sejourne
        et al. 2019, arXiv:1910.12958), as where one domain has a class of its own; None: all are moved.
    """
    from geomloss import SamplesLoss

    unit = torch.cdist(source.detach(), target.detach()).mean().clamp_min(1e-12)
    return SamplesLoss("sinkhorn", p=2, blur=blur, reach=reach, scaling=0.5, backend="tensorized")(
        source / unit, target / unit
    )


class Sinkhorn(Transfer):
    """The transfer loss: `weight` x Sinkhorn divergence of the latent vectors.

    With `dynamic` the total is L_task / (2 eta1^2) + L_transfer / (2 eta2^2) + log(eta1 eta2) with learned eta1 and
    eta2, both 1 at first (SIDDA, Pandya et al. 2025, arXiv:2501.14048, after Kendall et al. 2018, arXiv:1705.07115).
    Its minimum is at eta^2 = L for each: a loss counts the more the smaller it has become. The weight decay of the
    optimiser acts on them, too, and pulls them towards zero by 1e-3 of the learning rate a step: next to nothing
    beside their gradient.

    Parameters
    ----------
    blur : see `sinkhorn`.
    dynamic : 1: the two losses are weighted as above; 0: they are added.
    """

    def __init__(self, setting: Setting, weight: float, blur: float, dynamic: float) -> None:
        super().__init__()
        self.weight, self.blur = weight, blur
        self.eta = nn.Parameter(torch.ones(2)) if dynamic else None

    def forward(self, step: Step) -> torch.Tensor:
        """Scalar loss."""
        if self.eta is not None:
            with torch.no_grad():  # before the pass that uses them, so that a step too far is taken back
                self.eta[0].clamp_(min=LOWEST)
                self.eta[1].clamp_(min=RATIO * float(self.eta[0]))
                step.notes.update(eta1=float(self.eta[0]), eta2=float(self.eta[1]))
        return self.weight * sinkhorn(*step.both(), blur=self.blur)

    def total(self, task: torch.Tensor, transfer: torch.Tensor) -> torch.Tensor:
        """The loss that is minimised."""
        if self.eta is None:
            return task + transfer
        first, second = self.eta
        return task / (2 * first.square()) + transfer / (2 * second.square()) + (first * second).log()
