"""A network as a list of operations, read from its torch.fx graph, with what a change of one pixel can reach in each.

What is not recognised becomes an operation of kind "other", which runs on whole maps, and so does all that follows it.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

Pair = tuple[int, int]

# functions of each value alone: modules, functions, methods
POINTWISE_MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.LogSigmoid,
    nn.Tanh, nn.Tanhshrink, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Softplus, nn.Softsign, nn.Threshold,
    nn.Hardshrink, nn.Softshrink, nn.PReLU,
)  # fmt: skip
POINTWISE_FUNCTIONS = {
    torch.relu, torch.sigmoid, torch.tanh, functional.relu, functional.relu6, functional.leaky_relu, functional.elu,
    functional.selu, functional.celu, functional.gelu, functional.silu, functional.mish, functional.sigmoid,
    functional.tanh, functional.hardtanh, functional.hardswish, functional.hardsigmoid, functional.softplus,
    functional.softsign, functional.logsigmoid,
}  # fmt: skip
POINTWISE_METHODS = {"relu", "relu_", "sigmoid", "sigmoid_", "tanh", "tanh_"}
SAME_MODULES = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
SAME_METHODS = {"contiguous", "clone", "detach"}
ADDITIONS = {operator.add, operator.iadd, torch.add}
ARITHMETIC = ADDITIONS | {operator.mul, operator.sub, operator.truediv, operator.neg, torch.mul, torch.sub, torch.div}
WRITING = {operator.setitem, operator.iadd, operator.isub, operator.imul, operator.itruediv}


@dataclass(frozen=True, eq=False)
class Op:
    """One operation.

    Parameters
    ----------
    name : of its result.
    kind : "input", "conv", "affine" (per channel), "pointwise", "maxpool", "avgpool", "adaptive" (average), "add",
        "cat" (of channels), "flatten", "linear", "size" or "other".
    inputs : names of the results it takes.
    shape : of its result for one image, without the batch; () where that is no tensor.
    call : the operation itself on whole tensors with a batch, in the order of `inputs`.
    facts : what its kind needs: weight, bias, kernel, stride, padding, dilation, groups, ...
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    call: Callable[..., Any]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Program:
    """A network as operations in the order in which they run; the last is the output, one row of logits per image."""

    ops: tuple[Op, ...]
    unsupported: tuple[str, ...]

    @property
    def output(self) -> str:
        return self.ops[-1].name


def read(network: nn.Module, example: torch.Tensor, folded: bool = True) -> Program | None:
    """The program of a network in eval mode, or None where torch.fx cannot follow its forward pass.

    Batch norm is folded into the convolution before it, and a linear layer into the linear layer that alone follows it:
    the same function, rounded differently.

    Parameters
    ----------
    network : its output is (N, K), or a tuple that ends with that. Not modified: a copy is followed.
    example : (1, C, H, W), an image as the network takes it.
    folded : otherwise every layer stays an operation of its own.
    """
    own = unhooked(network)
    if own is None:
        return None
    try:
        traced = fx.symbolic_trace(own)
        shapes = _Shapes(traced)
        with torch.no_grad():
            shapes.run(example.clone())
    except Exception:  # torch.fx raises whatever the user's forward() does when it is given no tensor
        return None
    if any(map(_misleads, traced.graph.nodes)):
        return None
    ops, names = [], {}
    for node in traced.graph.nodes:
        if node.op == "output":
            result = node.args[0]
            while isinstance(result, (tuple, list)):
                result = result[-1]
            if not isinstance(result, fx.Node) or result not in names:
                return None
            ops = _needed(ops, names[result])
            break
        op = _operation(node, dict(traced.named_modules()), shapes.found, names)
        if isinstance(op, Op) and _in_place(node):
            op = replace(op, call=_on_a_copy(op.call))
        if isinstance(op, str):
            names[node] = op
        else:
            names[node] = op.name
            ops.append(op)
    if sum(op.kind == "input" for op in ops) != 1 or len(ops) < 2:
        return None
    ops = _folded(ops) if folded else ops
    return Program(tuple(ops), tuple(op.name for op in ops if op.kind == "other" and not op.facts.get("plain")))


def unhooked(network: nn.Module) -> nn.Module | None:
    """A copy without hooks, or None where a hook may change what the network does.

    A hook whose function has the attribute `only_looks` does not.
    """
    nobody = object()
    owners: dict[int, Any] = {}
    for module in network.modules():
        hooks = list(module._forward_pre_hooks.values())
        if module._forward_hooks or not all(getattr(hook, "only_looks", False) for hook in hooks):
            return None
        owners |= {id(getattr(hook, "__self__", None)): nobody for hook in hooks}  # do not copy what a hook belongs to
    own = copy.deepcopy(network, owners)
    for module in own.modules():
        module._forward_pre_hooks.clear()
    return own


def _in_place(node: fx.Node) -> bool:
    """Whether a node writes its result into its first input."""
    owner = node.graph.owning_module
    if node.op == "call_module":
        assert owner is not None
        return bool(getattr(owner.get_submodule(str(node.target)), "inplace", False))
    if node.op == "call_method":
        return str(node.target).endswith("_") and not str(node.target).endswith("__")
    if node.op == "call_function":
        name = getattr(node.target, "__name__", "")
        given = dict(node.kwargs)
        with contextlib.suppress(TypeError, ValueError):  # built-in functions may have no signature
            given |= inspect.signature(node.target).bind(*node.args, **node.kwargs).arguments  # type: ignore[arg-type]
        return (
            bool(given.get("inplace")) or given.get("out") is not None or node.target in WRITING or name.endswith("_")
        )
    return False


def _misleads(node: fx.Node) -> bool:
    """Whether a node works in place on what something else may use: a program is read as if nothing did."""
    if not _in_place(node):
        return False
    if not node.users or not node.args or not isinstance(node.args[0], fx.Node):
        return True
    before = node.args[0]
    while True:  # back to where the memory was made
        if len(before.users) > 1 or before.op == "get_attr":
            return True
        passes_on = before.op in ("call_method", "call_function") or _is_identity(before)
        if not passes_on or not before.all_input_nodes or _makes_new(before):
            return False
        before = before.all_input_nodes[0]


def _is_identity(node: fx.Node) -> bool:
    owner = node.graph.owning_module
    return node.op == "call_module" and isinstance(owner.get_submodule(str(node.target)), SAME_MODULES)  # type: ignore[union-attr]


def _makes_new(node: fx.Node) -> bool:
    """Whether a function or method surely returns memory of its own, not that of its input."""
    return node.target in (POINTWISE_FUNCTIONS | ARITHMETIC | {torch.cat}) and not _in_place(node)


def _on_a_copy(call: Callable[..., Any]) -> Callable[..., Any]:
    return lambda value, *rest: call(value.clone(), *rest)


class _Shapes(fx.Interpreter):
    """Runs a graph and keeps the shape of every tensor, without the batch."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.found: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, torch.Tensor) and result.ndim >= 1 and n.op != "get_attr":
            self.found[n] = tuple(result.shape[1:])
        return result


def _operation(
    node: fx.Node,
    modules: Mapping[str, nn.Module],
    shapes: Mapping[fx.Node, tuple[int, ...]],
    names: dict[fx.Node, str],
) -> Op | str:
    """The operation of a node; or the name of the result that it passes on unchanged."""
    taken = node.all_input_nodes
    inputs, shape = tuple(names[n] for n in taken), shapes.get(node, ())
    if node.op == "placeholder":
        return Op(node.name, "input", (), shape, _same)
    module = modules[str(node.target)] if node.op == "call_module" else None
    first = shapes.get(taken[0], ()) if taken else ()
    if module is not None:
        if isinstance(module, SAME_MODULES) and not module.training:
            return inputs[0]
        alone = node.args == (*taken,) and len(taken) == 1 and not node.kwargs
        kind, facts = _of_module(module, first) if alone else ("other", {"plain": len(first) != 3})
        return Op(node.name, kind, inputs, shape, module if alone else _caller(node, taken, modules), facts)
    call = _caller(node, taken, modules)
    if node.op == "call_function" and node.target in (functional.dropout, functional.dropout2d):
        if not _argument(node, 2, "training", True):
            return inputs[0]
    elif node.op == "call_method" and node.target in SAME_METHODS:
        return inputs[0]
    elif (node.op == "call_function" and node.target in POINTWISE_FUNCTIONS) or (
        node.op == "call_method" and node.target in POINTWISE_METHODS
    ):
        if len(taken) == 1:
            return Op(node.name, "pointwise", inputs, shape, call, {"function": _pointwise_name(node.target)})
    elif node.op == "call_function" and node.target in ADDITIONS:
        same = len(taken) == 2 and all(shapes.get(n) == shape for n in taken) and not node.kwargs
        if same and len(shape) == 3:
            return Op(node.name, "add", inputs, shape, operator.add)
    if node.op == "call_function" and node.target in ARITHMETIC:
        constants = {n: value for n in taken if (value := _constant(n, modules)) is not None}
        data = [n for n in taken if n not in constants]
        if len(data) == 1 and shapes.get(data[0]) == shape and all(map(_per_channel, constants.values())):
            whole = call

            def with_constants(value: Any) -> Any:
                return whole(*(constants.get(n, value) for n in taken))

            return Op(node.name, "pointwise", (names[data[0]],), shape, with_constants, {"function": "arithmetic"})
    if node.op == "call_function" and node.target is torch.cat and _argument(node, 1, "dim", 0) in (1, -3):
        channels = [shapes[n][0] for n in taken if len(shapes.get(n, ())) == 3]
        if len(channels) == len(taken) and len(shape) == 3 and sum(channels) == shape[0]:
            return Op(node.name, "cat", inputs, shape, call)
    if _asks_size(node):
        return Op(node.name, "size", inputs, (), call)
    if len(first) == 3 and not any(shapes.get(n) for n in taken[1:]):
        found = _of_function(node, first, shape)
        if found is not None:
            return Op(node.name, found[0], inputs[:1], shape, call, found[1])
    # on vectors, whatever it is costs little and is no loss
    plain = not any(len(shapes.get(n, ())) == 3 for n in taken)
    return Op(node.name, "other", inputs, shape, call, {"plain": plain})


def _of_module(module: nn.Module, shape: tuple[int, ...]) -> tuple[str, dict[str, Any]]:
    """Kind and facts of a module on maps (C, H, W), or on vectors; "other" if it is not known."""
    if isinstance(module, POINTWISE_MODULES):
        return "pointwise", {"function": type(module).__name__.lower()}
    if isinstance(module, nn.Linear) and len(shape) == 1:
        return "linear", {"weight": module.weight, "bias": module.bias}
    if isinstance(module, nn.Flatten) and module.start_dim == 1 and module.end_dim == -1:
        return "flatten", {}
    if len(shape) != 3:
        return "other", {"plain": True}
    if type(module) is nn.Conv2d and module.padding_mode == "zeros":
        return "conv", _conv_facts(module)
    if type(module) is nn.BatchNorm2d and module.running_mean is not None and not module.training:
        return "affine", {"norm": module}
    if isinstance(module, nn.MaxPool2d) and not module.ceil_mode and not module.return_indices:
        return "maxpool", _pool_facts(vars(module))
    if isinstance(module, nn.AvgPool2d) and not module.ceil_mode:
        return "avgpool", _pool_facts(vars(module)) | _average_facts(vars(module))
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return "adaptive", {}
    return "other", {}


def _of_function(node: fx.Node, shape: tuple[int, ...], after: tuple[int, ...]) -> tuple[str, dict[str, Any]] | None:
    """Kind and facts of a function or method of one map (C, H, W)."""
    size = shape[0] * shape[1] * shape[2]
    if node.target in (torch.flatten, "flatten") and after == (size,):
        return "flatten", {}
    if node.target in ("view", "reshape", torch.reshape) and after == (size,):
        return "flatten", {}
    if node.target is functional.adaptive_avg_pool2d:
        return "adaptive", {}
    if node.target in (torch.mean, "mean") and len(node.all_input_nodes) == 1:
        over = _argument(node, 1, "dim", None)
        if isinstance(over, (tuple, list)) and sorted(d % 4 for d in over) == [2, 3]:
            return "adaptive", {}
    if node.target in (functional.max_pool2d, torch.max_pool2d):
        given = _named(node, ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"))
        if not given.get("ceil_mode") and not given.get("return_indices"):
            return "maxpool", _pool_facts(given)
    if node.target is functional.avg_pool2d:
        given = _named(node, ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"))
        if not given.get("ceil_mode"):
            return "avgpool", _pool_facts(given) | _average_facts(given)
    return None


def _conv_facts(module: nn.Conv2d) -> dict[str, Any]:
    kernel, dilation, stride = _pair(module.kernel_size), _pair(module.dilation), _pair(module.stride)
    if isinstance(module.padding, str):  # "same" has stride 1 and may pad one side more
        whole = [d * (k - 1) if module.padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
        before = [w // 2 for w in whole]
        after = [w - b for w, b in zip(whole, before, strict=True)]
    else:
        before = after = list(_pair(module.padding))
    return {
        "module": module, "weight": module.weight, "bias": module.bias, "kernel": kernel, "stride": stride,
        "dilation": dilation, "groups": module.groups, "before": (before[0], before[1]), "after": (after[0], after[1]),
    }  # fmt: skip


def _pool_facts(given: Mapping[str, Any]) -> dict[str, Any]:
    """Facts from the arguments, or attributes, of a pooling."""
    kernel, stride, pad = given["kernel_size"], given.get("stride"), _pair(given.get("padding", 0))
    return {
        "kernel": _pair(kernel), "stride": _pair(kernel if stride in (None, [], ()) else stride),
        "dilation": _pair(given.get("dilation", 1)), "before": pad, "after": pad,
    }  # fmt: skip


def _average_facts(given: Mapping[str, Any]) -> dict[str, Any]:
    return {"count_pad": given.get("count_include_pad", True), "divisor": given.get("divisor_override")}


def _caller(node: fx.Node, taken: Sequence[fx.Node], modules: Mapping[str, nn.Module]) -> Callable[..., Any]:
    """The node as a function of the nodes it takes."""

    def call(*values: Any) -> Any:
        given = dict(zip(taken, values, strict=True))
        args = fx.map_arg(node.args, lambda n: given[n])
        kwargs = fx.map_arg(node.kwargs, lambda n: given[n])
        if node.op == "call_module":
            return modules[str(node.target)](*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        if node.op == "get_attr":
            found: Any = modules[""]
            for part in str(node.target).split("."):
                found = getattr(found, part)
            return found
        return node.target(*args, **kwargs)  # type: ignore[operator]

    return call


def _folded(ops: list[Op]) -> list[Op]:
    """Batch norm into what stands before it, and linear layers into linear layers."""
    found: dict[str, Op] = {}
    users: dict[str, int] = {}
    renamed: dict[str, str] = {}
    for op in ops:
        for name in op.inputs:
            users[name] = users.get(name, 0) + 1
    for op in ops:
        op = replace(op, inputs=tuple(renamed.get(name, name) for name in op.inputs))
        before = found.get(op.inputs[0]) if len(op.inputs) == 1 else None
        into = None
        if before is not None and users[op.inputs[0]] == 1:
            into = _joined(before, op)
        if before is None or into is None:
            found[op.name] = op
            continue
        found[before.name] = into
        renamed[op.name] = before.name
        users[before.name] = users.get(op.name, 0)
    return list(found.values())


def _joined(first: Op, second: Op) -> Op | None:
    """One operation that does both, or None."""
    norm = second.facts.get("norm")
    if first.kind == "conv" and second.kind == "affine" and norm is not None:
        fused = fuse_conv_bn_eval(first.facts["module"], norm)
        return replace(
            first,
            call=fused,
            shape=second.shape,
            facts=dict(first.facts) | {"module": fused, "weight": fused.weight, "bias": fused.bias},
        )
    if first.kind == "linear" and second.kind == "linear":
        return _linear(
            first, second.facts["weight"].double() @ first.facts["weight"].double(),
            _bias(second) + second.facts["weight"].double() @ _bias(first), second.shape,
        )  # fmt: skip
    return None


def _bias(op: Op) -> torch.Tensor:
    weight, bias = op.facts["weight"], op.facts["bias"]
    return torch.zeros(len(weight), dtype=torch.float64, device=weight.device) if bias is None else bias.double()


def _linear(op: Op, weight: torch.Tensor, bias: torch.Tensor, shape: tuple[int, ...]) -> Op:
    dtype = op.facts["weight"].dtype
    weight, bias = weight.detach().to(dtype), bias.detach().to(dtype)
    facts = {"weight": weight, "bias": bias}
    return replace(op, shape=shape, call=lambda x: functional.linear(x, weight, bias), facts=facts)


def _needed(ops: Sequence[Op], output: str) -> list[Op]:
    """The operations that the output depends on, which comes last."""
    wanted, kept = {output}, []
    for op in reversed(ops):
        if op.name in wanted:
            wanted |= set(op.inputs)
            kept.append(op)
    return kept[::-1]


def _constant(node: fx.Node, modules: Mapping[str, nn.Module]) -> torch.Tensor | None:
    """The buffer or parameter that a node is, if it is one."""
    found = _caller(node, (), modules)() if node.op == "get_attr" else None
    return found if isinstance(found, torch.Tensor) else None


def _per_channel(value: torch.Tensor) -> bool:
    """Whether a constant is one number for each channel of maps (N, C, H, W), or one in all."""
    return value.ndim <= 4 and all(size == 1 for size in [*value.shape[-2:], *value.shape[:-3]])


def _asks_size(node: fx.Node) -> bool:
    return (node.op == "call_method" and node.target in ("size", "dim")) or (
        node.op == "call_function" and node.target is getattr and node.args[1] in ("shape", "ndim")
    )


def _named(node: fx.Node, names: Sequence[str]) -> dict[str, Any]:
    """The arguments after the first, by name."""
    return dict(zip(names, node.args[1:], strict=False)) | dict(node.kwargs)


def _argument(node: fx.Node, place: int, name: str, default: Any) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def _pointwise_name(target: Any) -> str:
    return (target if isinstance(target, str) else target.__name__).strip("_")


def _pair(value: Any) -> Pair:
    found = (value, value) if isinstance(value, int) else tuple(value)
    return (int(found[0]), int(found[-1]))


def _same(x: Any) -> Any:
    return x
