"""Fisher loss: source galaxies close to the centre of their class, and the centres apart.

Used by DeepMerge II (Ciprijanovic et al. 2021, arXiv:2103.01373) after Zhang et al. 2020, with centres that are learned
with the network as in the centre loss (Wen et al. 2016). Labels of the source only.
"""

from __future__ import annotations

import torch
from torch import nn

from perturbations.errors import unknown_name
from robustastro.adapt.transfer import Setting, Step, Transfer

WEIGHT = 0.1
FORMS = ("ratio", "difference")


def scatters(z: torch.Tensor, labels: torch.Tensor, centres: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """tr(S_w) and tr(S_b): mean squared distance to the own centre, and of the centres to their mean.

    Parameters
    ----------
    z : vectors (n, D).
    labels : (n,).
    centres : (K, D).
    """
    within = (z - centres[labels]).square().sum(dim=1).mean()
    between = (centres - centres.mean(dim=0)).square().sum(dim=1).mean()
    return within, between


class Fisher(Transfer):
    """The Fisher loss of the source's latent vectors, added to any method.

    "ratio": 0.1 tr(S_w) / tr(S_b); the same at every size of the latent space. "difference": 0.1 (tr(S_w) - tr(S_b)) of
    vectors and centres of length one: of vectors as they are it has no lower bound, as a larger latent space with the
    centres ever further apart always gains; with length one it is at least -0.1. The published weights lambda_w and
    lambda_b (1e-4 and 1 in the example of the authors' train_ADA.py) are for a sum over the batch and vectors of any
    size; with means instead one weight does, and 0.1 keeps the term below the cross-entropy of a blind prediction.

    Parameters
    ----------
    form : "ratio" or "difference".
    """

    def __init__(self, setting: Setting, form: str) -> None:
        super().__init__()
        if form not in FORMS:
            raise unknown_name("form of the Fisher loss", form, FORMS)
        self.form = form
        self.centres = nn.Parameter(torch.randn(len(setting.contract.classes), setting.latent))

    def forward(self, step: Step) -> torch.Tensor:
        """Scalar loss."""
        z, centres = step.source, self.centres
        if self.form == "difference":
            z, centres = nn.functional.normalize(z), nn.functional.normalize(centres)
        within, between = scatters(z, step.labels, centres)
        step.notes.update(within_scatter=within.item(), between_scatter=between.item())
        if self.form == "difference":
            return WEIGHT * (within - between)
        return WEIGHT * within / between.clamp_min(1e-12)
