"""How a training starts: the weights of a trained model, the layers that stay as they are, the terms of the loss."""

from __future__ import annotations

import importlib

import torch
from torch import nn

from perturbations.errors import InputError, unknown_name
from robustastro.adapt import method as find_method
from robustastro.adapt.recipe import Recipe
from robustastro.adapt.transfer import Setting, Transfer
from robustastro.contract import InputContract
from robustastro.models.bundles import Model


def head_of(network: nn.Module, arch: str) -> tuple[str, nn.Linear]:
    """The last Linear layer of a network and its name; its input is the latent vector.

    Raises
    ------
    InputError : there is none.
    """
    linear = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise InputError(f"{arch} has no Linear layer", "a linear head", "end the network with nn.Linear")
    return linear[-1]


def start_from(network: nn.Module, init: Model, recipe: Recipe, contract: InputContract) -> bool:
    """Give a network the weights of a trained one. Its last layer stays new where the classes, or its kind, are others.

    Only weights are taken over: the contract, with the constants of the stretch, is that of the new source.

    Returns
    -------
    Whether the last layer is new.

    Raises
    ------
    InputError : another architecture, weights that do not fit or are not finite, or the same bands in another order.
    """
    if init.arch != recipe.arch:
        raise InputError(
            f"--init {init.path} is a {init.arch}", f"the same --arch, {recipe.arch}", "change one of them"
        )
    if init.contract.bands != contract.bands and set(init.contract.bands) == set(contract.bands):
        raise InputError(
            f"--init {init.path} has the bands {', '.join(init.contract.bands)}", f"{', '.join(contract.bands)}",
            "read the images with --bands in the order of the model",
        )  # fmt: skip
    own, given = network.state_dict(), init.network.state_dict()
    head, _ = head_of(network, recipe.arch)
    of_head = [name for name in own if name.rpartition(".")[0] == head]
    new_head = init.contract.classes != contract.classes or any(name not in given for name in of_head)
    if new_head:
        given |= {name: own[name] for name in of_head}
    odd = [name for name in own if name not in given or given[name].shape != own[name].shape]
    if odd:
        raise InputError(
            f"--init {init.path}: {odd[0]} is {tuple(given[odd[0]].shape) if odd[0] in given else 'missing'}",
            f"{tuple(own[odd[0]].shape)}, of the same bands and image size", "use images of that size and bands",
        )  # fmt: skip
    broken = [name for name in own if not torch.isfinite(given[name]).all()]
    if broken:
        raise InputError(
            f"--init {init.path}: {broken[0]} has values that are not finite", "a model whose training went well",
            "start from another one",
        )  # fmt: skip
    network.load_state_dict({name: given[name] for name in own})
    return new_head


def freeze(network: nn.Module, recipe: Recipe, new_head: bool) -> list[nn.Module]:
    """Stop the gradient of the modules named in the recipe, and return them: they are to stay in eval mode.

    Raises
    ------
    InputError : no such module, a last layer that is new, or nothing left to train.
    """
    modules = dict(network.named_modules())
    head, last = head_of(network, recipe.arch)
    frozen: list[nn.Module] = []
    for name in recipe.freeze:
        if name == "features":
            frozen += [m for n, m in modules.items() if n and n != head and not head.startswith(f"{n}.")]
        elif name in modules and name:
            frozen.append(modules[name])
        else:
            raise unknown_name("layer to freeze", name, ["features", *filter(None, modules)])
    frozen = list(dict.fromkeys(inner for module in frozen for inner in module.modules()))
    if new_head and last in frozen:
        raise InputError(
            f"--freeze {','.join(recipe.freeze)}: {head} is new, because --init has other classes or another head",
            "layers whose weights are those of --init", f"leave {head} out",
        )  # fmt: skip
    for module in frozen:
        module.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise InputError(f"--freeze {','.join(recipe.freeze)}: the whole network", "some layers", "name fewer")
    return frozen


def terms_of(recipe: Recipe, setting: Setting) -> dict[str, nn.Module]:
    """The method's own term as "transfer", and those that are added to any method."""
    place = find_method(recipe.method).transfer
    options = {name: value for name, value in recipe.options.items() if name != "settings"}
    terms: dict[str, nn.Module] = {"transfer": _class(place)(setting, **options) if place else Transfer()}
    if recipe.fisher:
        terms["fisher"] = _class("robustastro.adapt.fisher:Fisher")(setting, form=recipe.fisher)
    if recipe.entropy:
        terms["entropy"] = _class("robustastro.adapt.entropy:Entropy")(setting, weight=recipe.entropy)
    return terms


def class_weights(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """(K,) weights of the cross-entropy with which every class counts as much, of labels (N,)."""
    counts = torch.bincount(labels, minlength=classes).float()
    return counts.sum() / (classes * counts.clamp_min(1.0))


def _class(place: str) -> type[Transfer]:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
