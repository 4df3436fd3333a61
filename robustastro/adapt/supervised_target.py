"""Control, an upper bound: the labels of the target train as well, so this is no adaptation."""

from __future__ import annotations

import torch
from torch import nn

from robustastro.adapt.starting import class_weights
from robustastro.adapt.transfer import Setting, Step, Transfer


class SupervisedTarget(Transfer):
    """`weight` x cross-entropy of the target's labels, with class weights of the target's own.

    It sees as many labelled galaxies of the target as of the source, and so more labels than any other method: what
    it reaches on the target is what a network of this size can learn there.
    """

    def __init__(self, setting: Setting, weight: float) -> None:
        super().__init__()
        labels = None if setting.target is None else setting.target.labels
        assert labels is not None  # refused by train() otherwise
        self.weight = weight
        self.class_weights: torch.Tensor
        self.register_buffer("class_weights", class_weights(torch.from_numpy(labels), len(setting.contract.classes)))

    def forward(self, step: Step) -> torch.Tensor:
        """Scalar loss."""
        logits, labels = step.target_logits, step.target_labels
        assert logits is not None  # the loop refuses a method without the target it needs
        assert labels is not None
        return self.weight * nn.functional.cross_entropy(logits, labels, weight=self.class_weights)
