"""Batch normalisation with statistics of its own for each domain (Chang et al. 2019, arXiv:1906.03950).

Weight and bias are shared, as in DANCE (Saito et al. 2020, arXiv:2002.07953): only means and variances tell the domains
apart, so that a network ends as a plain one, with the statistics of the domain that it will serve.
"""

from __future__ import annotations

import torch
from torch import nn

SERVED = ("source", "target", "pooled")


class DomainNorm(nn.Module):
    """A batch norm for two domains: in training, of the one that was entered last; in eval mode, of the source."""

    target_mean: torch.Tensor
    target_var: torch.Tensor

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm, self.domain = norm, "source"
        assert norm.running_mean is not None  # `divide` leaves others alone
        assert norm.running_var is not None
        self.register_buffer("target_mean", norm.running_mean.clone())
        self.register_buffer("target_var", norm.running_var.clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (N, C, H, W) of the domain that was entered."""
        if self.domain == "source" or not self.training:
            return self.norm(x)
        momentum = 0.1 if self.norm.momentum is None else self.norm.momentum
        return nn.functional.batch_norm(
            x, self.target_mean, self.target_var, self.norm.weight, self.norm.bias,
            self.training, momentum, self.norm.eps,
        )  # fmt: skip

    def plain(self, serve: str) -> nn.BatchNorm2d:
        """The same layer with the statistics of one domain, or "pooled": of a population that is half of each."""
        mean, var = self.norm.running_mean, self.norm.running_var
        assert mean is not None
        assert var is not None
        if serve == "target":
            mean.copy_(self.target_mean)
            var.copy_(self.target_var)
        elif serve == "pooled":
            between = (mean - self.target_mean).square() / 4.0
            mean.copy_((mean + self.target_mean) / 2.0)
            var.copy_((var + self.target_var) / 2.0 + between)
        return self.norm


def divide(network: nn.Module) -> None:
    """Give every BatchNorm2d with running statistics statistics for two domains, in place."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and child.running_mean is not None:
                setattr(parent, name, DomainNorm(child))


def enter(network: nn.Module, domain: str) -> None:
    """Say which domain the next images are of, "source" or "target"."""
    for module in network.modules():
        if isinstance(module, DomainNorm):
            module.domain = domain


def unite(network: nn.Module, serve: str) -> None:
    """Undo `divide`: plain layers with the statistics of `serve`, one of `SERVED`."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, DomainNorm):
                setattr(parent, name, child.plain(serve))
