"""Control: adaptive batch normalisation (Li et al. 2016, arXiv:1603.04779): only the statistics are the target's."""

from __future__ import annotations

import math

import torch
from torch import nn

from perturbations.errors import InputError
from robustastro.adapt.transfer import Setting, Transfer
from robustastro.models.subject import run_network

BATCH = 250  # images, about: their statistics are then those of the target within a few percent


class AdaBN(Transfer):
    """Trained as `none`; then every batch norm's running statistics are estimated anew on the target's images.

    The target's training galaxies, without labels, go through the trained network once, in batches of about 250 in
    which every layer is normalised by the statistics of the batch, and the running statistics become the means over
    batches. That is also done to layers that were frozen. Afterwards the network is one for the target: it is less
    good on the source.

    Raises
    ------
    InputError : a network without batch norm.
    """

    target_in_steps = False

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.contract = setting.contract

    def attach(self, network: nn.Module) -> dict[str, float]:
        """Changes nothing; refuses a network that has no statistics."""
        if not _norms(network):
            raise InputError(
                "method adabn for a network without batch norm", "one with BatchNorm layers", "choose another --arch"
            )
        return {}

    def finish(self, network: nn.Module, target: torch.Tensor | None) -> None:
        """Estimate the statistics on the target's training images (M, C, H, W) in input space."""
        assert target is not None  # the loop refuses a method without the target it needs
        norms, device = _norms(network), next(network.parameters()).device
        network.eval()
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean of all batches
            norm.train()
        with torch.no_grad():
            for x in target.tensor_split(math.ceil(len(target) / BATCH)):  # as even as can be: each counts as much
                run_network(network, self.contract, x.to(device))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        network.eval()


def _norms(network: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    kind = nn.modules.batchnorm._BatchNorm
    return [m for m in network.modules() if isinstance(m, kind) and m.track_running_stats]
