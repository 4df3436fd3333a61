"""What every attack on a classifier wants, and how it asks the network: one meaning for all of them.

The objective is the log-odds of a class, log p / (1 - p). It orders candidates exactly as the probability and the
cross-entropy do, and its gradient points the same way, but it does not saturate: in float32, and a network sure to 17
nats, the cross-entropy has lost the true class from its gradient, and an attack mistakes confidence for robustness.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from perturbations.core import Victim
from perturbations.errors import InputError

CHUNK = 128  # perturbed copies of one image held at a time
CANDIDATES = 4096  # candidates given to `logits_at` at a time, however many there are


def log_odds(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Log-odds (...) of the classes (...) int64 under logits (..., K); log-probabilities give the same number."""
    index = classes.expand(logits.shape[:-1]).unsqueeze(-1)
    others = logits.scatter(-1, index, -torch.inf)
    return logits.gather(-1, index).squeeze(-1) - others.logsumexp(dim=-1)


def harm(logits: torch.Tensor, labels: torch.Tensor, target: int | None) -> torch.Tensor:
    """What an attack makes large, (...): minus the log-odds of the true class, or the log-odds of the target."""
    if target is None:
        return -log_odds(logits, labels)
    return log_odds(logits, torch.full_like(labels, target))


def flipped(logits: torch.Tensor, labels: torch.Tensor, target: int | None) -> torch.Tensor:
    """(...) bool: the predicted class is no longer the true one, or is the target.

    Logits that are not all finite predict no class: no longer the true one, and not the target.
    """
    predicted = torch.where(torch.isfinite(logits).all(dim=-1), logits.argmax(dim=-1), -1)
    return predicted != labels if target is None else predicted == target


def margin(logits: torch.Tensor, labels: torch.Tensor, target: int | None) -> torch.Tensor:
    """How far the network is from what an attack wants, (...): <= 0 exactly where `flipped`.

    The logit of the true class less the largest other one; with a target, the largest other logit less the target's.
    Of equal logits the first class is predicted: a tie that it decides against the attack counts as the smallest
    positive number. With more than two classes the log-odds do not have this property. Of logits that are not all
    finite it is the lowest number; with a target, the largest.
    """
    index = (labels if target is None else torch.full_like(labels, target)).expand(logits.shape[:-1]).unsqueeze(-1)
    lead = (logits.gather(-1, index) - logits.scatter(-1, index, -torch.inf).amax(dim=-1, keepdim=True)).squeeze(-1)
    lead = lead if target is None else -lead
    done = flipped(logits, labels, target)
    lead = torch.where(done, lead.clamp(max=0.0), lead.clamp(min=torch.finfo(lead.dtype).tiny))
    most = torch.finfo(lead.dtype).max
    return lead.where(torch.isfinite(logits).all(dim=-1), -most if target is None else most)


def allowed(victim: Victim, x: torch.Tensor, space: str, sigmas: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The values that an attack may write, (low, high), both (N, C, H, W) like x, in input space.

    Parameters
    ----------
    space : "input", all that the network accepts; "flux", what a detector can give (see `Victim.reachable`).
    sigmas : for "flux", how far below the sky a pixel can fall, in standard deviations of blank sky.

    Raises
    ------
    InputError : `sigmas` is negative or not finite, or the victim does not know what a detector can give.
    """
    if space == "input":
        low, high = victim.box
    else:
        reachable = getattr(victim, "reachable", None)
        if reachable is None:
            raise InputError("space = flux for a model without an exposure", "space = input", "leave the option out")
        if not 0.0 <= sigmas < math.inf:
            raise InputError(f"sigmas = {sigmas:g}", "a finite number >= 0", "5 is what blank sky does not reach")
        low, high = reachable(sigmas)
    return low.expand_as(x), high.expand_as(x)


def worth_attacking(x: torch.Tensor, labels: torch.Tensor, victim: Victim, target: int | None) -> torch.Tensor:
    """Positions (A,) int64 of the images that an attack works on: classified right now, and not of the target class.

    The others are left as they are: the attack success rate is over clean-correct galaxies, and robust accuracy counts
    an image already wrong as wrong. Costs one query for every image.

    Raises
    ------
    InputError : `target` is not a class of the network.
    """
    if target is not None and not 0 <= target < victim.classes:
        raise InputError(
            f"target = {target}", f"a class from 0 to {victim.classes - 1}", "give the position of a class of the model"
        )
    wanted = victim.logits(x).argmax(dim=1) == labels
    if target is not None:
        wanted &= labels != target
    return wanted.nonzero()[:, 0]


def pixel_logits(
    victim: Victim, x: torch.Tensor, which: torch.Tensor, positions: torch.Tensor, values: torch.Tensor
) -> torch.Tensor:
    """Logits (A, P, K) of P candidates for each of the images `which` (A,): a few pixels replaced, the rest clean.

    Goes through the victim's `logits_at` where there is one, rows grouped by image, at most `CANDIDATES` at a time.
    Otherwise perturbed copies are made a chunk of one image at a time: memory does not grow with images x candidates,
    and a candidate always meets the same batch shape at the same place, whatever other images are attacked beside it
    (logits depend on that at 1e-8).

    Parameters
    ----------
    x : images (N, C, H, W) that the victim is bound to.
    positions : (A, P, k, 2) int64, row and column; the k pixels of a candidate are different ones.
    values : (A, P, k, C), what is written there.
    """
    sparse = getattr(victim, "logits_at", None)
    if sparse is not None:
        return _asked(sparse, which, positions, values)
    return torch.stack(
        [
            torch.cat(
                [
                    victim.logits(with_pixels(x[image].expand(len(p), -1, -1, -1), p, v))
                    for p, v in zip(positions[a].split(CHUNK), values[a].split(CHUNK), strict=True)
                ]
            )
            for a, image in enumerate(which.tolist())
        ]
    )


def screened_logits(
    victim: Victim, which: torch.Tensor, positions: torch.Tensor, values: torch.Tensor
) -> torch.Tensor | None:
    """The same in low precision, to rank candidates by; None where the victim does not screen."""
    return _asked(victim.screened_at, which, positions, values) if screens(victim) else None  # type: ignore[attr-defined]


def screens(victim: Victim) -> bool:
    """Whether a victim answers faster in low precision."""
    return getattr(victim, "screens", False)


def _asked(
    ask: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    which: torch.Tensor,
    positions: torch.Tensor,
    values: torch.Tensor,
) -> torch.Tensor:
    """Logits (A, P, K) from a victim's function of rows, given at most `CANDIDATES` rows at a time."""
    parts = []
    together = max(1, CANDIDATES // positions.shape[1])  # images
    for image, at, to in zip(*(t.split(together) for t in (which, positions, values)), strict=True):
        across = []
        for p, v in zip(at.split(CANDIDATES, dim=1), to.split(CANDIDATES, dim=1), strict=True):
            logits = ask(image.repeat_interleave(p.shape[1]), p.flatten(0, 1), v.flatten(0, 1))
            across.append(logits.unflatten(0, p.shape[:2]))
        parts.append(torch.cat(across, dim=1))
    return torch.cat(parts)


def with_pixels(x: torch.Tensor, positions: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """A copy of images (M, C, H, W) with the pixels `positions` (M, k, 2) set to `values` (M, k, C)."""
    copy = x.clone(memory_format=torch.contiguous_format)
    image = torch.arange(len(copy), device=copy.device)[:, None]
    copy[image, :, positions[..., 0], positions[..., 1]] = values
    return copy
