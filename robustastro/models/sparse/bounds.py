"""Proof, pixel by pixel, that no value in a box changes the class of an image (see design/certificate.md).

The geometry is that of `windows`: outside what the pixel reaches, activations are the clean ones. Inside, sets of
activations (`forms`) take the place of numbers. A box that is too large for a proof is halved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from robustastro.models.sparse import forms
from robustastro.models.sparse.forms import Convolution, Linear, Scaling
from robustastro.models.sparse.program import Op, Program
from robustastro.models.sparse.windows import (
    Reach,
    bin_shares,
    inside_map,
    joined,
    mean_divisor,
    reach_of_input,
    slid,
)

TOGETHER, VALUES = 256, 2**21  # boxes in a pass, and float64 numbers in its largest form, at most
BOXES = 64  # tried for a pixel unless told otherwise


@dataclass(frozen=True, eq=False)
class _Window:
    """A form (M, F, h, w, C) at rows top (M,) and columns left (M,) of a map."""

    form: torch.Tensor
    top: torch.Tensor
    left: torch.Tensor


@dataclass(frozen=True, eq=False)
class _Clean:
    """Forms of an image's clean maps; its class, the margins of that class, their form; whether that class is sure."""

    found: Mapping[str, _Window]
    label: int
    margins: Linear
    result: torch.Tensor
    sure: bool


class Bounds:
    """Bounds of a network's margins for images with one pixel changed.

    Parameters
    ----------
    program : the network, not folded (`program.read(network, example, folded=False)`), in float32; or None.
    why_none : what is then said.

    Attributes
    ----------
    refuses : why nothing can be proved for this network; None if it can.
    """

    def __init__(
        self, program: Program | None, why_none: str = "torch.fx cannot follow the network's forward pass"
    ) -> None:
        self.refuses: str | None = why_none
        if program is None:
            return
        self._layers: dict[str, Any] = {}
        ops = _pooled_first(program.ops)
        for op in ops:
            self.refuses = self._prepare(op)
            if self.refuses is not None:
                return
        self._ops = self._in_a_row(ops)
        if self._ops[-1].kind != "linear":
            self.refuses = "its last layer is not linear"
            return
        self._shapes = {op.name: op.shape if len(op.shape) == 3 else (*op.shape, 1, 1) for op in self._ops}
        self._reach: dict[str, tuple[Reach, Reach]] = {}
        for op in self._ops:
            self._reach[op.name] = self._reach_of(op)
        bands = self._ops[0].shape[0]
        most = max(self._shapes[n][0] * rows.size * columns.size for n, (rows, columns) in self._reach.items())
        self._together = max(1, min(TOGETHER, VALUES // ((2 + bands) * most)))

    def certified(
        self,
        x: torch.Tensor,
        which: torch.Tensor,
        positions: torch.Tensor,
        low: torch.Tensor,
        high: torch.Tensor,
        boxes: int = BOXES,
        logits: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(M,) bool: True where every float32 evaluation gives the clean class for every value of the box.

        False on any device but a CPU: convolutions there may round otherwise (Winograd).

        Parameters
        ----------
        x : (N, C, H, W) float32, images as the network takes them.
        which, positions : (M,) and (M, 2) int64, an image and the row and column of a pixel.
        low, high : (M, C), the values allowed there, as the network takes them.
        boxes : how many parts of the box may be tried for a pixel. A pixel is given up at once where, by the square of
            their width, the bounds would need more.
        logits : (N, K) float32, what the network itself gives for x. Nothing is proved of an image for which the
            program, with its rounding, cannot give them: it is not a program of this network.
        """
        proved = torch.zeros_like(which, dtype=torch.bool)
        if self.refuses is not None or x.device.type != "cpu":
            return proved
        with torch.inference_mode():
            for image in which.unique().tolist():
                rows = (which == image).nonzero()[:, 0]
                clean = self._clean(x[image])
                if clean.sure and (logits is None or self._gives(clean, logits[image].double())):
                    proved[rows] = self._proved(clean, positions[rows], low[rows].double(), high[rows].double(), boxes)
        return proved

    def margins(
        self, image: torch.Tensor, positions: torch.Tensor, low: torch.Tensor, high: torch.Tensor
    ) -> tuple[int, torch.Tensor]:
        """The clean class of an image (C, H, W), and lower bounds (M,) of its logit less the largest other one."""
        with torch.inference_mode():
            clean = self._clean(image)
            return clean.label, self._lowest(clean, positions, low.double(), high.double())[0]

    # ------------------------------------------------------------------ boxes

    def _proved(
        self, clean: _Clean, positions: torch.Tensor, low: torch.Tensor, high: torch.Tensor, boxes: int
    ) -> torch.Tensor:
        hopeful = torch.ones(len(positions), dtype=torch.bool, device=positions.device)
        left = torch.full_like(hopeful, boxes, dtype=torch.int64)
        owner = torch.arange(len(positions), device=positions.device)
        margin = forms.ends(clean.result)[0].min()
        exponent, first = low.shape[1] / 2, True
        while len(owner):
            lowest, felt = self._lowest(clean, positions[owner], low, high)
            left -= torch.bincount(owner, minlength=len(left))
            failed = ~(lowest > 0.0)
            if first:
                hopeful &= ((margin - lowest) / margin).clamp(min=0.0) ** exponent <= boxes
                first = False
            hopeful &= 2 * torch.bincount(owner[failed], minlength=len(left)) <= left
            again = failed & hopeful[owner]
            hopeful[owner[failed & (felt == 0.0).all(dim=1)]] = False  # the box is a point
            again &= hopeful[owner]
            owner, low, high = owner[again], low[again], high[again]
            band = felt[again].argmax(dim=1, keepdim=True)
            half = torch.zeros_like(low).scatter(1, band, 1.0) > 0.0
            middle = (low + high) / 2
            low, high = torch.cat((low, low.where(~half, middle))), torch.cat((high.where(~half, middle), high))
            owner = owner.repeat(2)
        return hopeful

    def _lowest(
        self, clean: _Clean, positions: torch.Tensor, low: torch.Tensor, high: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Lower bounds (M,) of the smallest margin, and how much each band is felt in the last layer (M, C)."""
        size = self._together
        parts = [
            self._lowest_of_few(clean, *few)
            for few in zip(positions.split(size), low.split(size), high.split(size), strict=True)
        ]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    def _lowest_of_few(
        self, clean: _Clean, positions: torch.Tensor, low: torch.Tensor, high: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        found = {self._ops[0].name: _Window(forms.of_box(low, high), positions[:, 0], positions[:, 1])}
        for op in self._ops[1:-1]:
            found[op.name] = self._run(op, found, clean, positions)
        last = found[self._ops[-1].inputs[0]]
        result = self._linear(self._ops[-1], clean.margins, last, clean, clean.result)
        lowest = forms.ends(forms.widened(result, 2.0**-40))[0]
        return lowest.flatten(1).amin(dim=1), last.form[:, 1:-1].abs().sum(dim=(2, 3, 4))

    def _clean(self, image: torch.Tensor) -> _Clean:
        zero = torch.zeros(1, dtype=torch.int64, device=image.device)
        found = {self._ops[0].name: _Window(forms.exactly(image[None].double()), zero, zero)}
        for op in self._ops[1:]:
            found[op.name] = self._run(op, found, None, None)
        last = self._ops[-1]
        label = int(found[last.name].form[0, 0].argmax())
        margins = self._layers[last.name].margins(label)
        result = margins(found[last.inputs[0]].form)
        return _Clean(found, label, margins, result, bool((forms.ends(result)[0] > 0.0).all()))

    def _gives(self, clean: _Clean, logits: torch.Tensor) -> bool:
        """Whether a float32 evaluation can give these logits (K,) for the clean image."""
        low, high = (end.flatten() for end in forms.ends(clean.found[self._ops[-1].name].form))
        return int(logits.argmax()) == clean.label and bool(((low <= logits) & (logits <= high)).all())

    # ------------------------------------------------------------------ operations

    def _run(
        self, op: Op, found: Mapping[str, _Window], clean: _Clean | None, positions: torch.Tensor | None
    ) -> _Window:
        """The form of a result: of the whole map where `positions` is None, else of what the pixels reach."""
        layer: Any = self._layers.get(op.name)
        first = found[op.inputs[0]]
        if op.kind == "affine":
            return replace(first, form=layer(first.form))
        if op.kind == "pointwise":
            return replace(first, form=forms.rectified(first.form, layer))
        top, left, rows, columns = self._place(op, positions, first)
        if op.kind == "add":
            a, b = (self._cut(name, found, clean, top, left, rows, columns) for name in op.inputs)
            return _Window(forms.added(a, b), top, left)
        if op.kind == "linear":
            return _Window(self._linear(op, layer, first, clean), top, left)
        if op.kind == "adaptive":
            return _Window(self._averaged(op, first, clean), top, left)
        f = op.facts
        (kr, kc), (sr, sc), (dr, dc), (br, bc) = f["kernel"], f["stride"], f["dilation"], f["before"]
        patch = self._cut(
            op.inputs[0], found, clean, top * sr - br, left * sc - bc,
            (rows - 1) * sr + dr * (kr - 1) + 1, (columns - 1) * sc + dc * (kc - 1) + 1,
            forms.NOTHING if op.kind == "maxpool" else 0.0,
        )  # fmt: skip
        if op.kind == "conv":
            return _Window(layer(patch, single=clean is not None), top, left)
        taken = [
            patch[:, :, i * dr : i * dr + (rows - 1) * sr + 1 : sr, j * dc : j * dc + (columns - 1) * sc + 1 : sc]
            for i in range(kr)
            for j in range(kc)
        ]
        if op.kind == "maxpool":
            while len(taken) > 1:
                taken = [forms.larger(*pair) for pair in zip(taken[::2], taken[1::2], strict=False)] + taken[
                    len(taken) // 2 * 2 :
                ]
            return _Window(taken[0], top, left)
        places = (
            inside_map(at, size, f, k, self._shapes[op.inputs[0]][1 + k])
            for k, (at, size) in enumerate(((top, rows), (left, columns)))
        )
        divisor = mean_divisor(f, *places)[:, :, :, :, None].to(patch)
        form = sum(taken[1:], taken[0]) / divisor
        form[:, -1] += forms.gamma(kr * kc + forms.SPARE) * sum(map(forms.largest, taken)) / divisor[:, 0].abs()
        form[:, -1] += (kr * kc + forms.SPARE) * forms.TINY
        return _Window(form, top, left)

    def _linear(
        self, op: Op, layer: Linear, window: _Window, clean: _Clean | None, was: torch.Tensor | None = None
    ) -> torch.Tensor:
        name = op.inputs[0]
        if clean is None or window.form.shape[2:4] == self._shapes[name][1:]:
            return layer(window.form)
        cells, before = self._under(name, window, clean)
        return layer.of_change(window.form, before, cells, clean.found[op.name].form if was is None else was)

    def _averaged(self, op: Op, window: _Window, clean: _Clean | None) -> torch.Tensor:
        """An average over parts of the map; of a window, the clean one and that of the change, as windows do it too."""
        name, form = op.inputs[0], window.form
        _, height, width = self._shapes[name]
        bins = self._shapes[op.name][1:]
        change = form.clone()
        if clean is not None:
            change[:, 0] -= self._under(name, window, clean)[1]
        terms = (-(-height // bins[0]) + 1) * (-(-width // bins[1]) + 1) + forms.SPARE
        # three times: the clean average, and a difference of two
        change[:, -1] += 3.0 * (forms.gamma(terms) * forms.largest(form) + terms * forms.TINY)
        shares = []
        for first, size, side, parts in (
            (window.top, form.shape[2], height, bins[0]), (window.left, form.shape[3], width, bins[1])
        ):  # fmt: skip
            share = (bin_shares(side, parts) > 0.0).to(form)
            share /= share.sum(dim=1, keepdim=True)
            shares.append(share.T[first[:, None] + torch.arange(size, device=first.device)])
        after = torch.einsum("mfhwc,mho,mwp->mfopc", change, *shares)
        if clean is not None:
            after[:, [0, -1]] += clean.found[op.name].form
        return after

    # ------------------------------------------------------------------ places

    def _reach_of(self, op: Op) -> tuple[Reach, Reach]:
        """Rows and columns of a result that a row and a column of the image reach."""
        shape, f = self._shapes[op.name], op.facts
        if op.kind == "input":
            return reach_of_input(shape[1]), reach_of_input(shape[2])
        rows, columns = self._reach[op.inputs[0]]
        if op.kind in ("conv", "maxpool", "avgpool"):
            rows, columns = (
                slid(reach, shape[1 + k], f["kernel"][k], f["stride"][k], f["before"][k], f["dilation"][k])
                for k, reach in enumerate((rows, columns))
            )
        elif op.kind == "add":
            other = self._reach[op.inputs[1]]
            rows, columns = joined(rows, other[0]), joined(columns, other[1])
        elif op.kind in ("adaptive", "linear"):
            rows, columns = (
                Reach(torch.zeros_like(reach.low), torch.full_like(reach.low, side - 1), side)
                for reach, side in ((rows, shape[1]), (columns, shape[2]))
            )
        return rows, columns

    def _place(
        self, op: Op, positions: torch.Tensor | None, first: _Window
    ) -> tuple[torch.Tensor, torch.Tensor, int, int]:
        """Where the window of a result begins, (M,) and (M,), and its rows and columns."""
        if positions is None:
            return first.top, first.left, self._shapes[op.name][1], self._shapes[op.name][2]
        rows, columns = self._reach[op.name]
        top, left = (r.start.to(positions.device)[positions[:, k]] for k, r in enumerate((rows, columns)))
        return top, left, rows.size, columns.size

    def _under(self, name: str, window: _Window, clean: _Clean) -> tuple[torch.Tensor, torch.Tensor]:
        """The places (M, h w) of a window in its map, counted along rows, and the clean centre there (M, h, w, C)."""
        _, _, rows, columns, channels = window.form.shape
        r, c = (
            first[:, None] + torch.arange(size, device=first.device)
            for first, size in ((window.top, rows), (window.left, columns))
        )
        cells = (r[:, :, None] * self._shapes[name][2] + c[:, None, :]).flatten(1)
        return cells, clean.found[name].form[0, 0].reshape(-1, channels)[cells].unflatten(1, (rows, columns))

    def _cut(
        self,
        name: str,
        found: Mapping[str, _Window],
        clean: _Clean | None,
        top: torch.Tensor,
        left: torch.Tensor,
        rows: int,
        columns: int,
        fill: float = 0.0,
    ) -> torch.Tensor:
        """Parts (M, F, rows, columns, C) of a result that begin at (top, left) (M,): changed, clean, or `fill`."""
        now = found[name]
        m, parts, h, w, channels = now.form.shape
        _, height, width = self._shapes[name]
        device = now.form.device
        r = top[:, None] + torch.arange(rows, device=device)
        c = left[:, None] + torch.arange(columns, device=device)
        # numbers of the cells of `source`: zero, fill, the clean centres, the clean rests, the window
        source = [now.form.new_tensor([0.0, fill])[:, None].expand(2, channels)]
        index = torch.zeros((m, parts, rows, columns), dtype=torch.int64, device=device)
        outside = ((r < 0) | (r >= height))[:, :, None] | ((c < 0) | (c >= width))[:, None, :]
        count = 2
        if clean is not None:
            source.append(clean.found[name].form.reshape(-1, channels))
            index[:, 0] = count + r[:, :, None] * width + c[:, None, :]
            index[:, -1] = index[:, 0] + height * width
            count += 2 * height * width
        index[:, 0].masked_fill_(outside, 1)
        index[:, -1].masked_fill_(outside, 0)
        source.append(now.form.reshape(-1, channels))
        y, x = r - now.top[:, None], c - now.left[:, None]
        changed = ((y >= 0) & (y < h))[:, :, None] & ((x >= 0) & (x < w))[:, None, :]
        begin = count + torch.arange(m * parts, device=device).view(m, parts, 1, 1) * (h * w)
        index = torch.where(changed[:, None], begin + (y[:, :, None] * w + x[:, None, :])[:, None], index)
        return torch.cat(source).index_select(0, index.flatten()).view(*index.shape, channels)

    # ------------------------------------------------------------------ the network

    def _prepare(self, op: Op) -> str | None:
        """Fill `_layers` for an operation; why it cannot be bounded, if it cannot."""
        known = True
        if op.kind == "conv":
            self._layers[op.name] = Convolution.of(op.facts)
        elif op.kind == "affine":
            before = self._layers.get(op.inputs[0])
            count = before.count if isinstance(before, (Convolution, Scaling)) else 0
            self._layers[op.name] = Scaling.of(op.facts["norm"], count)
        elif op.kind == "linear":
            self._layers[op.name] = Linear.of(op.facts)
        elif op.kind == "pointwise":
            self._layers[op.name] = _slope(op)
            known = self._layers[op.name] is not None
        else:
            known = op.kind in ("input", "maxpool", "avgpool", "adaptive", "add", "flatten")
        weight = op.facts.get("weight")
        if known and weight is not None and weight.dtype != torch.float32:
            return f"{op.name} is not in float32"
        return None if known else f"{op.name} ({op.facts.get('function', op.kind)}) has no bounds"

    def _in_a_row(self, ops: Sequence[Op]) -> list[Op]:
        """The operations with linear layers that follow one another as one, and without flatten."""
        users, renamed, kept = _users(ops), {}, []
        for op in ops:
            op = replace(op, inputs=tuple(renamed.get(name, name) for name in op.inputs))
            before = kept[-1] if kept else op
            if op.kind == "flatten":
                renamed[op.name] = op.inputs[0]
            elif op.kind == before.kind == "linear" and op.inputs == (before.name,) and users[before.name] == 1:
                self._layers[op.name] = self._layers[before.name].then(self._layers[op.name])
                kept[-1] = replace(op, inputs=before.inputs)
            else:
                kept.append(op)
        return kept


def _pooled_first(ops: Sequence[Op]) -> list[Op]:
    """A maximum before the ReLU that it follows: the same to the bit, as both rise, with bounds that are less loose."""
    users, kept = _users(ops), []
    for op in ops:
        before = next((other for other in kept if other.name in op.inputs), None)
        if op.kind == "maxpool" and before is not None and _slope(before) is not None and users[before.name] == 1:
            kept.remove(before)
            kept.append(replace(op, name=before.name, inputs=before.inputs))
            op = replace(before, name=op.name, inputs=(before.name,), shape=op.shape)
        kept.append(op)
    return kept


def _users(ops: Sequence[Op]) -> dict[str, int]:
    users = {op.name: 0 for op in ops}
    for op in ops:
        for name in op.inputs:
            users[name] += 1
    return users


def _slope(op: Op) -> float | None:
    """Slope below zero of ReLU (0) and leaky ReLU; None for other operations."""
    if op.facts.get("function") == "relu":
        return 0.0
    if op.facts.get("function") in ("leakyrelu", "leaky_relu"):
        slope = -float(op.call(torch.tensor([-1.0])))
        return slope if 0.0 <= slope <= 1.0 else None
    return None
