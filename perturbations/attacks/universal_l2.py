"""One perturbation for a whole set of images, in an L2 ball."""

from collections.abc import Mapping

import torch

from perturbations.core import AttackResult, Victim, attack
from perturbations.draws import Draws
from perturbations.universal_fit import added, fit_ball


def fit(
    x: torch.Tensor,
    labels: torch.Tensor,
    victim: Victim,
    epsilon: float,
    draws: Draws,
    *,
    steps: int = 100,
    batch: int = 100,
) -> dict[str, torch.Tensor]:
    """Fit the perturbation (C, H, W) to images; see `perturbations.universal_fit.fit_ball`."""
    return fit_ball(x, labels, victim, epsilon, draws, "L2", steps=steps, batch=batch)


@attack(
    parameter="epsilon",
    unit="input",
    ladder=(0.25, 0.5, 1.0, 2.0, 3.0),
    norm="L2",
    access="gradient",
    source="as pgd_l2: robustness library, Engstrom et al. 2019; the idea: Moosavi-Dezfooli et al. 2017, "
    "arXiv:1610.08401",
    version=1,
    scope="set",
    fit=fit,
    most_queries=lambda options: 1,
)
def universal_l2(
    x: torch.Tensor,
    labels: torch.Tensor,
    victim: Victim,
    epsilon: float,
    draws: Draws,
    *,
    fitted: Mapping[str, torch.Tensor] | None,
) -> AttackResult:
    """Add the same perturbation, of bounded Euclidean length, to every image.

    As `universal` (Moosavi-Dezfooli et al. 2017, arXiv:1610.08401; Shafahi et al. 2020, arXiv:1811.11304), with steps
    along the gradient.

    Parameters
    ----------
    x : images (N, C, H, W) float32 in input space. Not modified.
    labels : (N,) int64, the true classes.
    epsilon : largest Euclidean distance over all pixels and bands, >= 0, input units; 0 returns the clean images.
    draws : not used; those of the fit choose its minibatches.
    fitted : perturbation (C, H, W); None only where epsilon is 0. The options are those of the fit: `steps`, and
        `batch`, the images in each.

    Returns
    -------
    AttackResult; success is a wrong class, whether or not it was right before. Queries: 1.

    Raises
    ------
    InputError : a negative epsilon, or images of another shape than those it was fitted to.
    """
    return added(x, labels, victim, epsilon, fitted)
