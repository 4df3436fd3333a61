"""Reasons to doubt a model's numbers before any attack: measured when a Subject is built on its data."""

from __future__ import annotations

import numpy as np
import torch

from robustastro.contract import InputContract
from robustastro.models.subject import Outputs, Subject
from robustastro.record import Flag

TOLERANCE = 1e-4  # logits; float32 rounding across batch sizes is near 1e-7
SCALE = 20.0  # factor between the scales of images and contract that only a mistake of units explains


def doubts(subject: Subject, raw: torch.Tensor, x: torch.Tensor, clean: Outputs) -> list[Flag]:
    """Flags for a subject on its data.

    Parameters
    ----------
    raw : a few images (N, C, H, W) as they are in the data, channels in the contract's order.
    x : the same in input space.
    clean : the subject's outputs for `x`.
    """
    found = [_weights(subject), _range(subject.contract, raw)]
    finite = _finite(clean.logits)
    found += (
        [finite]
        if finite
        else [
            _probabilities(subject.contract, clean.logits),
            _batch(subject, x, clean),
            _repeat(subject, x, clean),
        ]
    )
    return [flag for flag in found if flag]


def _weights(subject: Subject) -> Flag | None:
    bad = [n for n, t in subject.network.state_dict().items() if not bool(torch.isfinite(t.float()).all())]
    if bad:
        return Flag(
            "weights_not_finite", f"{len(bad)} tensor(s) hold NaN or infinity, first {bad[0]}", "train it again"
        )
    return None


def _range(contract: InputContract, raw: torch.Tensor) -> Flag | None:
    """Brightest pixels of the images against what the stretch was made for; noise alone moves that little."""
    stretch = contract.stretch
    made_for = torch.tensor([max(abs(a), abs(b)) for a, b in zip(stretch.low, stretch.high, strict=True)])
    bright = torch.from_numpy(np.percentile(raw.abs().numpy(), 99.9, axis=(0, 2, 3)))
    ratio = bright / made_for
    if bool(((ratio < SCALE) & (ratio > 1.0 / SCALE)).all()):
        return None
    return Flag(
        "input_range",
        f"images span [{float(raw.min()):.4g}, {float(raw.max()):.4g}]; the contract's stretch takes "
        f"[{min(stretch.low):.4g}, {max(stretch.high):.4g}]",
        "check the units of the data and the stretch of the contract",
    )


def _finite(logits: torch.Tensor) -> Flag | None:
    bad = int((~torch.isfinite(logits)).any(dim=1).sum())
    if not bad:
        return None
    return Flag(
        "output_not_finite",
        f"{bad} of {len(logits)} clean galaxies get logits that are NaN or infinite; they count as wrong",
        "check the weights, and mean, std and range of the contract",
    )


def _probabilities(contract: InputContract, logits: torch.Tensor) -> Flag | None:
    if contract.output == "logits":
        sums = logits.sum(dim=1)
        if bool((logits >= 0).all()) and bool((sums - 1.0).abs().max() < 1e-3):
            return Flag(
                "output_probabilities",
                "the outputs are positive and sum to one: probabilities, not logits",
                'set output = "probabilities" in the contract',
            )
        return None
    sums = logits.exp().sum(dim=1)  # negative outputs were clamped to zero
    if bool(((sums > 0.5) & (sums < 1.5)).all()) and float(logits.max()) < 1e-3:
        return None
    return Flag(
        "output_not_probabilities",
        f"the contract says {contract.output}; the probabilities of a galaxy sum to {float(sums.min()):.3g} "
        f"to {float(sums.max()):.3g}",
        'set output = "logits" in the contract',
    )


def _batch(subject: Subject, x: torch.Tensor, clean: Outputs) -> Flag | None:
    few = min(4, len(x))
    alone = torch.cat([subject.outputs(x[i : i + 1]).logits for i in range(few)])
    mirrored = torch.cat([x, x.flip(3) * 0.5])  # other company
    accompanied = subject.outputs(mirrored.flip(0)).logits.flip(0)[: len(x)]
    worst = max(_far(alone, clean.logits[:few]), _far(accompanied, clean.logits[: len(x)]))
    if worst > TOLERANCE:
        return Flag(
            "batch_dependent",
            f"a galaxy's logits change by up to {worst:.2g} with the rest of the batch",
            "use batch statistics only in training; call eval() semantics in the network",
        )
    return None


def _repeat(subject: Subject, x: torch.Tensor, clean: Outputs) -> Flag | None:
    worst = _far(subject.outputs(x.clone()).logits, clean.logits[: len(x)])
    if worst > TOLERANCE:
        return Flag(
            "zero_budget",
            f"unchanged images change their logits by up to {worst:.2g}: the network draws random numbers",
            "switch off dropout and sampling in eval mode",
        )
    return None


def _far(a: torch.Tensor, b: torch.Tensor) -> float:
    gap = (a - b).abs()
    return float("inf") if bool(torch.isnan(gap).any()) else float(gap.max())
