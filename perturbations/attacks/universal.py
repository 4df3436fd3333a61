"""One perturbation for a whole set of images, in an L-infinity ball."""

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
    return fit_ball(x, labels, victim, epsilon, draws, "Linf", steps=steps, batch=batch)


@attack(
    parameter="epsilon",
    unit="input",
    ladder=(0.004, 0.008, 0.016, 0.031, 0.063),
    norm="Linf",
    access="gradient",
    source="1, 2, 4, 8, 16 of 255 grey levels as for pgd; 10 of 255 in Moosavi-Dezfooli et al. 2017, arXiv:1610.08401",
    version=1,
    scope="set",
    fit=fit,
    most_queries=lambda options: 1,
)
def universal(
    x: torch.Tensor,
    labels: torch.Tensor,
    victim: Victim,
    epsilon: float,
    draws: Draws,
    *,
    fitted: Mapping[str, torch.Tensor] | None,
) -> AttackResult:
    """Add the same perturbation to every image: an error of the whole survey, not of one galaxy.

    The idea is that of Moosavi-Dezfooli et al. 2017 (arXiv:1610.08401); it is fitted by stochastic gradient ascent with
    a capped loss, as by Shafahi et al. 2020 (arXiv:1811.11304), on other galaxies than those it is applied to. Steps go
    along the gradient's sign. Added to an image it is clipped to the box.

    Parameters
    ----------
    x : images (N, C, H, W) float32 in input space. Not modified.
    labels : (N,) int64, the true classes.
    epsilon : largest change of a value, >= 0, input units; 0 returns the clean images.
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
