"""What a training says of itself: numbers of its validation galaxies, when it stops, and whether it collapsed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from robustastro.record import Flag


def validation_numbers(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, detail: bool
) -> dict[str, Any]:
    """Loss and accuracy of logits (N, K); with `detail` also galaxies per class: all, predicted, and right."""
    loss = nn.functional.cross_entropy(logits, labels, weight=weights)
    predicted = logits.argmax(dim=1)
    numbers: dict[str, Any] = {
        "valid_loss": float(loss), "valid_accuracy": float((predicted == labels).float().mean()),
    }  # fmt: skip
    if detail:
        classes = logits.shape[1]
        numbers["predicted_per_class"] = torch.bincount(predicted, minlength=classes).tolist()
        numbers["per_class"] = torch.bincount(labels, minlength=classes).tolist()
        right = labels[predicted == labels]
        numbers["right_per_class"] = torch.bincount(right, minlength=classes).tolist()
    return numbers


def collapse(final: Mapping[str, Any]) -> list[Flag]:
    """Collapsed: one class for all, a loss that is not finite, or a balanced accuracy that chance explains."""
    recalls = np.array([right / n for right, n in zip(final["right_per_class"], final["per_class"], strict=True) if n])
    counts = np.array([n for n in final["per_class"] if n])
    chance = 1.0 / len(counts)
    error = math.sqrt(sum(chance * (1.0 - chance) / n for n in counts)) / len(counts)
    reason = ""
    if not math.isfinite(final["valid_loss"]):
        reason = "the validation loss is not finite"
    elif len(counts) > 1 and sum(count > 0 for count in final["predicted_per_class"]) == 1:
        reason = "every validation galaxy gets the same class"
    elif len(counts) > 1 and recalls.mean() <= chance + 1.645 * error:
        reason = f"balanced validation accuracy {recalls.mean():.3f} is no better than chance ({chance:.3f})"
    if not reason:
        return []
    return [Flag("collapsed", f"the training collapsed: {reason}", "train another seed, or lower the learning rate")]


def best_epoch(history: Sequence[Mapping[str, float]]) -> int:
    """Position of the epoch with the lowest validation loss; a loss that is not finite is the highest."""
    return int(np.argmin([h["valid_loss"] if math.isfinite(h["valid_loss"]) else math.inf for h in history]))


def stalled(history: Sequence[Mapping[str, float]], patience: int) -> bool:
    """No better validation loss for `patience` epochs (0: that is never so), or a loss that is not finite."""
    if not history:
        return False
    if not math.isfinite(history[-1]["valid_loss"]):
        return True
    return bool(patience) and len(history) - 1 - best_epoch(history) >= patience
