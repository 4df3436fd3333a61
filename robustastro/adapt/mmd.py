"""Maximum mean discrepancy between source and target latent vectors."""

from __future__ import annotations

import torch

from robustastro.adapt.transfer import Setting, Step, Transfer

WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the median squared distance
PUBLISHED = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0, 100.0, 1e3, 1e4, 1e5, 1e6)


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
    squared = _squared_distances(source, target)
    apart = ~torch.eye(len(squared), dtype=torch.bool, device=squared.device)
    median = squared.detach()[apart].median().clamp_min(1e-12)
    kernel = torch.stack([torch.exp(-squared / (w * median)) for w in widths]).mean(dim=0)
    return _discrepancy(kernel, len(source))


def published_mmd(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The loss of DeepMerge II and DeepAdversaries: a sum of 19 kernels of fixed width, at least 1e-4.

    k(a, b) = sum over w of exp(-|a - b|^2 / (2 w)) with w from 1e-6 to 1e6, a variance in units of the latent space
    (read in the authors' training.py; the smallest value, below which there is no gradient, is theirs, too). It grows
    and shrinks with the latent space: compare scale-free distances.

    Parameters
    ----------
    source, target : (n, D) and (m, D) float.
    """
    squared = _squared_distances(source, target)
    kernel = torch.stack([torch.exp(-squared / (2.0 * w)) for w in PUBLISHED]).sum(dim=0)
    return _discrepancy(kernel, len(source)).clamp_min(1e-4)


def _squared_distances(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    both = torch.cat([source, target])
    # not through a matrix product: its rounding is larger than the narrowest published kernels
    return torch.cdist(both, both, compute_mode="donot_use_mm_for_euclid_dist").square()


def _discrepancy(kernel: torch.Tensor, n: int) -> torch.Tensor:
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2.0 * kernel[:n, n:].mean()


class MMD(Transfer):
    """The transfer loss: `weight` x MMD^2 of the latent vectors.

    Parameters
    ----------
    kernels : "median" for `mmd`, "published" for `published_mmd`.
    """

    def __init__(self, setting: Setting, weight: float, kernels: str) -> None:
        super().__init__()
        self.weight = weight
        self.discrepancy = published_mmd if kernels == "published" else mmd

    def forward(self, step: Step) -> torch.Tensor:
        """Scalar loss."""
        return self.weight * self.discrepancy(*step.both())
