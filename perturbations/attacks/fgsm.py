"""One step along the sign of the gradient."""

import torch

from perturbations.core import AttackResult, Victim, attack
from perturbations.draws import Draws
from perturbations.gradient import ascend


@attack(
    parameter="epsilon",
    unit="input",
    ladder=(0.004, 0.008, 0.016, 0.031, 0.063),
    norm="Linf",
    access="gradient",
    source="1, 2, 4, 8, 16 of 255 grey levels; 4 (ImageNet) and 8 (CIFAR-10) in RobustBench, arXiv:2010.09670",
    version=1,
    most_queries=lambda options: 3,
)
def fgsm(
    x: torch.Tensor,
    labels: torch.Tensor,
    victim: Victim,
    epsilon: float,
    draws: Draws,
    *,
    target: int | None = None,
) -> AttackResult:
    """Move every value by `epsilon` in the direction that increases the loss.

    x + epsilon sign(d loss/dx), clipped to the victim's box (Goodfellow et al. 2015, arXiv:1412.6572). The loss is
    minus the log-odds of the true class, or the log-odds of `target`: its gradient is that of the cross-entropy up to a
    positive factor, and it is exact where the network is sure.

    Parameters
    ----------
    x : images (N, C, H, W) float32 in input space. Not modified.
    labels : (N,) int64, the true classes.
    epsilon : largest change of a value >= 0, input units; 0 returns the clean images.
    target : the class to reach; None for any wrong one.

    Returns
    -------
    AttackResult; success is by argmax. Queries: 1 for the clean image; where it is classified right and is not of the
    target class, 1 more for the gradient and 1 for the verdict.

    Raises
    ------
    InputError : a negative epsilon, or a target that is no class.
    """
    return ascend(x, labels, victim, epsilon, draws, "Linf", steps=1, step_size=epsilon, target=target)
