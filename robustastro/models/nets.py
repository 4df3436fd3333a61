"""The networks of DeepAdversaries and DeepMerge II, for any number of bands and classes.

Ciprijanovic et al. 2022 (arXiv:2112.14299) and 2021 (arXiv:2103.01373).

Parameter names are theirs, and torchvision's where theirs are, so that released state dicts load.
"""

from __future__ import annotations

import torch
from torch import nn

LATENT = 256


class ConvNet(nn.Module):
    """Three convolutions (8 @ 5x5, 16 @ 3x3, 32 @ 3x3) with batch norm, ReLU, max pooling; 256-d latent, linear head.

    Parameters
    ----------
    bands, classes : numbers of channels and of classes.
    size : side of the square image [pixels].
    """

    def __init__(self, bands: int = 3, classes: int = 3, size: int = 100) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(bands, 8, 5, padding=2)
        self.batchn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1)
        self.batchn2 = nn.BatchNorm2d(16)
        self.conv3 = nn.Conv2d(16, 32, 3, padding=1)
        self.batchn3 = nn.BatchNorm2d(32)
        self.relu, self.maxpool = nn.ReLU(), nn.MaxPool2d(2)
        self.bottleneck = nn.Linear(32 * (size // 8) ** 2, LATENT)
        self.fc = nn.Linear(LATENT, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes) of images (N, bands, size, size)."""
        x = self.maxpool(self.relu(self.batchn1(self.conv1(x))))
        x = self.maxpool(self.relu(self.batchn2(self.conv2(x))))
        x = self.maxpool(self.relu(self.batchn3(self.conv3(x))))
        return self.fc(self.bottleneck(x.flatten(1)))


class DeepMerge(nn.Module):
    """The CNN of DeepMerge II: the convolutions of ConvNet, dense layers of 64 and 32 with ReLU, linear head.

    Ciprijanovic et al. 2021 (arXiv:2103.01373), after DeepMerge (2020, Astronomy and Computing 32, 100390). Layers and
    parameter names are those of its published code (`python_files/network.py`), which has no dropout. The latent vector
    is the input of the head (32); in their losses it is the flattened output of the last pooling.

    Parameters
    ----------
    bands, classes : numbers of channels and of classes.
    size : side of the square image [pixels]; theirs is 75.
    """

    def __init__(self, bands: int = 3, classes: int = 2, size: int = 75) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(bands, 8, 5, padding=2)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1)
        self.conv3 = nn.Conv2d(16, 32, 3, padding=1)
        self.batchn1, self.batchn2, self.batchn3 = nn.BatchNorm2d(8), nn.BatchNorm2d(16), nn.BatchNorm2d(32)
        self.fc1 = nn.Linear(32 * (size // 8) ** 2, 64)
        self.fc2 = nn.Linear(64, 32)
        self.fc3 = nn.Linear(32, classes)
        self.relu, self.maxpool = nn.ReLU(), nn.MaxPool2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes) of images (N, bands, size, size)."""
        x = self.maxpool(self.relu(self.batchn1(self.conv1(x))))
        x = self.maxpool(self.relu(self.batchn2(self.conv2(x))))
        x = self.maxpool(self.relu(self.batchn3(self.conv3(x))))
        return self.fc3(self.relu(self.fc2(self.relu(self.fc1(x.flatten(1))))))


class ResNet18(nn.Module):
    """ResNet18 (He et al. 2016, arXiv:1512.03385) with dropout before the pooling, a 256-d latent and a linear head."""

    def __init__(self, bands: int = 3, classes: int = 3, size: int = 100) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(bands, 64, 7, stride=2, padding=3, bias=False)
        self.bn1, self.relu, self.maxpool = nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = nn.Sequential(_Block(64, 64, 1), _Block(64, 64, 1))
        self.layer2 = nn.Sequential(_Block(64, 128, 2), _Block(128, 128, 1))
        self.layer3 = nn.Sequential(_Block(128, 256, 2), _Block(256, 256, 1))
        self.layer4 = nn.Sequential(_Block(256, 512, 2), _Block(512, 512, 1))
        self.dropout4, self.avgpool = nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1)
        self.bottleneck = nn.Linear(512, LATENT)
        self.fc = nn.Linear(LATENT, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes) of images (N, bands, H, W) of any size."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.bottleneck(self.avgpool(self.dropout4(x)).flatten(1)))


class TinyNet(nn.Module):
    """A few hundred parameters, for tests and trials."""

    def __init__(self, bands: int = 3, classes: int = 3, size: int = 100) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(bands, 4, 3, stride=2, padding=1)
        self.bn1, self.relu, self.pool = nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(4)
        self.bottleneck = nn.Linear(64, 8)
        self.fc = nn.Linear(8, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes) of images (N, bands, H, W) of any size."""
        return self.fc(self.bottleneck(self.pool(self.relu(self.bn1(self.conv1(x)))).flatten(1)))


class _Block(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.downsample = None
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(
                nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + shortcut)


class CosineLinear(nn.Linear):
    """Logits cos(w_k, z) / temperature of latent vectors z (N, D): only directions count (arXiv:2002.07953, eq. 2)."""

    def __init__(self, latent: int, classes: int, temperature: float) -> None:
        super().__init__(latent, classes, bias=False)
        self.temperature = temperature

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes), between -1 / temperature and 1 / temperature."""
        return nn.functional.linear(_unit(input), _unit(self.weight)) / self.temperature


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    """What nn.functional.normalize(vectors, dim=1) does, which has an `out` and could not be followed for attacks."""
    return vectors / vectors.norm(dim=1, keepdim=True).clamp_min(1e-12)


def cosine_head(network: nn.Module, temperature: float) -> None:
    """Replace the last Linear layer by a CosineLinear, in place; one that is there already gets the temperature.

    The new layer has the weights of the old one.
    """
    name, head = [(n, m) for n, m in network.named_modules() if isinstance(m, nn.Linear)][-1]
    made = CosineLinear(head.in_features, head.out_features, temperature).to(head.weight.device)
    made.load_state_dict({"weight": head.weight.detach()})
    parent, _, last = name.rpartition(".")
    setattr(network.get_submodule(parent), last, made)


ARCHITECTURES: dict[str, type[nn.Module]] = {
    "convnet": ConvNet,
    "deepmerge": DeepMerge,
    "resnet18": ResNet18,
    "tiny": TinyNet,
}
