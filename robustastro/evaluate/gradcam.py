"""Where a network looks: Grad-CAM maps of the network that is served, for each class.

Grad-CAM is that of Selvaraju et al. 2017 (ICCV, arXiv:1610.02391), by `captum`, as DeepMerge II shows it for mergers
and non-mergers (Ciprijanovic et al. 2021, arXiv:2103.01373). `figures.gradcam` draws what `write_gradcam` stores.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import interpolate

from perturbations.errors import InputError
from robustastro.data.galaxies import Galaxies
from robustastro.models.precision import exact
from robustastro.models.subject import Subject, run_network
from robustastro.record import write_whole


def gradcam(subject: Subject, x: torch.Tensor, classes: Sequence[int] | None = None) -> torch.Tensor:
    """Regions of images that speak for each class, 0 to 1, float32 (N, K, H, W) on the CPU.

    The channels of the last convolution, each weighted by the mean over the map of the gradient of the logit of the
    class; what is below zero is cut (Selvaraju et al. 2017, eq. 1 and 2). Enlarged to the image (bilinear), and divided
    by its own largest value: maps of two classes or models compare where, not how strongly. A map that is zero
    everywhere, where nothing speaks for the class, stays zero.

    Parameters
    ----------
    subject : the network; its last convolution is the last Conv2d that runs in a forward pass. It is left as it was.
    x : (N, C, H, W) in input space [0, 1].
    classes : which classes, by their places, in this order; default all of them.

    Raises
    ------
    InputError : a class that is not there, a network without a Conv2d, or whose logits have no gradient there.
    """
    from captum.attr import LayerGradCam

    contract, device = subject.contract, subject.device
    wanted = list(range(len(contract.classes))) if classes is None else list(classes)
    odd = [k for k in wanted if not 0 <= k < len(contract.classes)]
    if odd:
        raise InputError(
            f"class {odd[0]}", f"0 to {len(contract.classes) - 1}", "name classes by their place in the contract"
        )
    of_layer = LayerGradCam(lambda images: logits_of(subject, images), last_convolution(subject, x[:1]))
    found = []
    for part in x.split(subject.chunk):
        with torch.inference_mode(False), torch.enable_grad(), exact(device):
            # the weights of a subject have no gradients: without one of the images the layer would have none either
            leaf = part.to(device).clone().requires_grad_(True)
            try:
                maps = [of_layer.attribute(leaf, target=k, relu_attributions=True) for k in wanted]
            except RuntimeError as problem:
                raise InputError(
                    f"no gradient of the logits reaches the last convolution ({str(problem)[:120]})",
                    "a network that is differentiable after its last convolution",
                    "use another network",
                ) from problem
        each = torch.cat([m.detach() for m in maps if isinstance(m, torch.Tensor)], dim=1).float()
        each = interpolate(each, size=tuple(x.shape[-2:]), mode="bilinear", align_corners=False).cpu()
        top = each.amax(dim=(2, 3), keepdim=True)
        found.append(each / torch.where(top > 0, top, torch.ones_like(top)))
    return torch.cat(found)


def logits_of(subject: Subject, x: torch.Tensor) -> torch.Tensor:
    """Logits (N, K) of images in input space, with their gradient."""
    return subject.contract.to_logits(run_network(subject.network, subject.contract, x).float())


def last_convolution(subject: Subject, x: torch.Tensor) -> nn.Module:
    """The Conv2d that runs last in a forward pass of images (N, C, H, W) in input space.

    Raises
    ------
    InputError : none runs.
    """
    ran: list[nn.Module] = []

    def note(module: nn.Module, _given: object, _result: object) -> None:
        ran.append(module)

    hooks = [m.register_forward_hook(note) for m in subject.network.modules() if isinstance(m, nn.Conv2d)]
    try:
        with torch.no_grad():
            logits_of(subject, x.to(subject.device))
    finally:
        for hook in hooks:
            hook.remove()
    if not ran:
        raise InputError("a network without a Conv2d", "one with convolutions", "Grad-CAM is not for this network")
    return ran[-1]


def write_gradcam(
    path: str | Path, subjects: Mapping[str, Subject], sets: Sequence[Galaxies], each: int = 2
) -> dict[str, np.ndarray]:
    """Store Grad-CAM maps of a few galaxies for every model, and return what was stored.

    Of each set (source, target) the same number of galaxies of every class, chosen by key: nobody picks those that look
    good. The file (.npz, compressed, no pickles), for M models, N galaxies and K classes, has

    - `images` float32 (N, C, H, W), input space [0, 1];
    - `maps` float32 (M, N, K, H, W), as `gradcam` makes them;
    - `probabilities` float32 (M, N, K), softmax of the logits;
    - `labels` int64 (N,), the true classes, by their places in `classes`;
    - `domains` str (N,), and `ids` str (N,) of the galaxies;
    - `models` str (M,), `classes` str (K,) and `bands` str (C,), their names.

    Parameters
    ----------
    subjects : models by the name that is shown, in the order in which they are shown.
    sets : labelled galaxies of each domain, in the order in which they are shown.
    each : galaxies of each class and domain; fewer where there are not so many.

    Raises
    ------
    InputError : no model, galaxies without labels, models of other classes, bands or stretches, or a place that cannot
        be written.
    """
    contracts = [subject.contract for subject in subjects.values()]
    if not contracts or any(contract != contracts[0] for contract in contracts):
        raise InputError(
            f"{len(contracts)} models of {'different contracts' if contracts else 'nothing'}",
            "one or more models that see the same images: of the same bands, stretch and classes",
            "train them on the same source",
        )
    contract, some = contracts[0], []
    for galaxies in sets:
        if galaxies.labels is None:
            raise InputError(f"{galaxies.domain}: no labels", "labelled galaxies", "name the labels")
        some.append(_few(galaxies.with_classes(contract.classes), each))
    x = torch.cat([contract.to_input(few.batch(slice(None)), few.bands) for few in some])
    looked = [(gradcam(subject, x), subject.outputs(x).logits.softmax(dim=1)) for subject in subjects.values()]
    arrays = {
        "images": x.numpy(),
        "maps": torch.stack([maps for maps, _ in looked]).numpy(),
        "probabilities": torch.stack([p for _, p in looked]).numpy(),
        "labels": np.concatenate([few.labels for few in some if few.labels is not None]),
        "domains": np.array([few.domain for few in some for _ in few.ids]),
        "ids": np.array([galaxy for few in some for galaxy in few.ids]),
        "models": np.array(list(subjects)),
        "classes": np.array(contract.classes),
        "bands": np.array(contract.bands),
    }
    write_whole(Path(path), lambda draft: _save(draft, arrays))
    return arrays


def _few(galaxies: Galaxies, each: int) -> Galaxies:
    """So many of every class, class by class, the first by the hash of their ids."""
    assert galaxies.labels is not None
    order = np.array(sorted(range(len(galaxies)), key=lambda k: hashlib.sha256(galaxies.ids[k].encode()).digest()))
    of_class = [order[galaxies.labels[order] == k][:each] for k in range(len(galaxies.classes))]
    return galaxies.take(np.concatenate(of_class))


def _save(draft: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with open(draft, "wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
