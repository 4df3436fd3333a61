"""Maximum mean discrepancy between source and target latent vectors."""

from __future__ import annotations

import torch

from robustastro.adapt.transfer import Setting, Step, Transfer

WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the median squared distance


def mmd(source: torch.Tensor, target: torch.Tensor, widths: tuple[float, ...] = WIDTHS) -> torch.Tensor:
    """Biased estimate of MMD^2 with a mean of Gaussian kernels, always >= 0 up to rounding.

    MMD^2 = mean k(s, s') + mean k(t, t') - 2 mean k(s, t) (Gretton et al. 2012, JMLR 13, 723, eq. 5), with
    k(a, b) = mean over w of exp(-|a - b|^2 / (w m)), m the median squared distance between different vectors of the
    joint batch (held constant in the gradient), so that the loss does not reward shrinking the latent space.

    Parameters
    ----------
    source, target : (n, D) and (m, D) float.
    widths : kernel widths in units of the median.
    """
    both = torch.cat([source, target])
    squared = torch.cdist(both, both).square()
    apart = ~torch.eye(len(both), dtype=torch.bool, device=both.device)
    median = squared.detach()[apart].median().clamp_min(1e-12)
    kernel = torch.stack([torch.exp(-squared / (w * median)) for w in widths]).mean(dim=0)
    n = len(source)
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2.0 * kernel[:n, n:].mean()


class MMD(Transfer):
    """The transfer loss: `weight` x MMD^2 of the latent vectors."""

    def __init__(self, setting: Setting, weight: float, kernels: str) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, step: Step) -> torch.Tensor:
        """Scalar loss."""
        return self.weight * mmd(*step.both())
