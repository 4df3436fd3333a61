"""Projected gradient ascent in an L-infinity ball: every value may move by epsilon."""

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
    most_queries=lambda options: 1 + options["restarts"] * (options["steps"] + 1),
)
def pgd(
    x: torch.Tensor,
    labels: torch.Tensor,
    victim: Victim,
    epsilon: float,
    draws: Draws,
    *,
    steps: int = 20,
    restarts: int = 1,
    random_start: bool = True,
    target: int | None = None,
) -> AttackResult:
    """Madry et al. 2018 (arXiv:1706.06083): many small steps uphill, projected onto the ball and the box after each.

    A step moves every value by 2.5 epsilon / steps in the direction of the gradient's sign.

    Parameters
    ----------
    x : images (N, C, H, W) float32 in input space. Not modified.
    labels : (N,) int64, the true classes.
    epsilon : largest change of a value, >= 0, input units; 0 returns the clean images.
    draws : random starts, keyed by galaxy and restart.
    steps, restarts : at least 1. Images that flip at the end of a restart are not attacked again.
    random_start : begin at a point drawn uniformly in the ball, or at the clean image.
    target : the class to reach; None for any wrong one.

    Returns
    -------
    AttackResult; success is by argmax, and an image that never flips keeps its most harmful end point. Queries: 1 for
    the clean image; where it is classified right and is not of the target class, steps + 1 more for each restart.

    Raises
    ------
    InputError : a negative epsilon, steps or restarts below 1, or a target that is no class.
    """
    return ascend(
        x,
        labels,
        victim,
        epsilon,
        draws,
        "Linf",
        steps=steps,
        restarts=restarts,
        random_start=random_start,
        target=target,
    )
