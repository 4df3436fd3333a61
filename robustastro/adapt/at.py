"""Control: adversarial training (Madry et al. 2018, arXiv:1706.06083) on source images; no target is seen."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from robustastro.adapt.transfer import Setting, Transfer
from robustastro.models.subject import run_network

STRIDE = 2.5  # step length times the number of steps, in units of epsilon: every point of the ball can be reached


class AdversarialTraining(Transfer):
    """Each source image of a step is replaced by the worst that a search finds near it, in input space [0, 1].

    `pgd`: projected gradient ascent of the cross-entropy from a random point of the ball |x' - x| <= epsilon (largest
    change of any value), with `steps` steps of 2.5 epsilon / steps.
    `pixel`: of `steps` images with one changed pixel the one with the largest cross-entropy. Each band of that pixel is
    set to 0 or 1. Half of the pixels, rounded up, are those that gain most to first order (one gradient of the image),
    the others and their values are random, because the gradient says little of so large a change.

    The search runs in eval mode, on the network as it will be attacked: dropout is off, what is found for an image does
    not depend on the rest of the batch, and running statistics do not see images that the search tried. The pass that
    trains is in train mode, on the images found.

    Parameters
    ----------
    attack : "pgd" or "pixel".
    epsilon : of `pgd`, in input units, 0 to 1.
    steps : of `pgd`, or images tried by `pixel`; 1 or more.
    """

    def __init__(self, setting: Setting, attack: str, epsilon: float, steps: float) -> None:
        super().__init__()
        self.contract, self.search = setting.contract, {"pgd": self._pgd, "pixel": self._pixel}[attack]
        self.epsilon, self.steps = epsilon, int(steps)

    def harden(self, network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The worst images (n, C, H, W) found near x, of labels y (n,)."""
        with _in_eval_mode(network):
            return self.search(network, x, y)

    def _pgd(self, network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        low, high = (x - self.epsilon).clamp_min_(0.0), (x + self.epsilon).clamp_max_(1.0)
        worst = low + (high - low) * torch.rand_like(x)
        for _ in range(self.steps):
            slope = self._slope(network, worst, y).sign_()
            worst = (worst + STRIDE * self.epsilon / self.steps * slope).clamp(low, high)
        return worst

    def _pixel(self, network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        n, bands, _, width = x.shape
        slope = self._slope(network, x, y)
        values = (slope > 0).to(x)  # of each band the end that gains
        gain = (slope * (values - x)).sum(dim=1).flatten(1)
        guided = min((self.steps + 1) // 2, gain.shape[1])
        best = gain.topk(guided, dim=1).indices
        rest = self.steps - guided
        position = torch.cat([best, torch.randint(gain.shape[1], (n, rest), device=x.device)], dim=1)
        written = values.flatten(2).gather(2, best[:, None].expand(-1, bands, -1))
        written = torch.cat([written, torch.randint(2, (n, bands, rest), device=x.device).to(x)], dim=2)
        image, worst = torch.arange(n, device=x.device), x
        most = torch.full((n,), -torch.inf, device=x.device)
        for k in range(self.steps):
            tried = x.clone()
            tried[image, :, position[:, k] // width, position[:, k] % width] = written[:, :, k]
            with torch.no_grad():
                loss = self._loss(network, tried, y)
            better = loss > most
            worst, most = torch.where(better[:, None, None, None], tried, worst), torch.where(better, loss, most)
        return worst

    def _loss(self, network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(run_network(network, self.contract, x).float(), y, reduction="none")

    def _slope(self, network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Gradient of the cross-entropy of each image; that of the weights is not touched."""
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            return torch.autograd.grad(self._loss(network, leaf, y).sum(), leaf)[0]


@contextlib.contextmanager
def _in_eval_mode(network: nn.Module) -> Iterator[None]:
    """Eval mode, and afterwards each module in the mode that it had: frozen ones stay in eval mode."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
