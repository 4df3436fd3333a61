"""The program run on windows: tensors (M, k, h, w, C) of what has changed, over the clean activations of each image.

How far a change of row r reaches at each operation is a table made once, so that the window of every operation has one
size, and only its place depends on the pixel. Of several changed pixels each has its window; where windows overlap they
hold the same numbers. Works on any device; the arithmetic is torch's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from robustastro.models.sparse.program import Op, Program


@dataclass(frozen=True, eq=False)
class Reach:
    """Where a change of one row (or column) of the image can be felt in a map.

    Parameters
    ----------
    low, high : (R,) int64, first and last row that depends on row r of the image; high < low where none does.
    side : rows of the map.
    size : rows of the window, the largest high - low + 1.
    """

    low: torch.Tensor
    high: torch.Tensor
    side: int

    @property
    def size(self) -> int:
        return int((self.high - self.low + 1).max().clamp(1, self.side))

    @property
    def start(self) -> torch.Tensor:
        """(R,) first row of the window, which lies inside the map."""
        return self.low.clamp(0, self.side - self.size)


def reach_of_input(side: int) -> Reach:
    rows = torch.arange(side)
    return Reach(rows, rows, side)


def slid(reach: Reach, side: int, kernel: int, stride: int, before: int, dilation: int) -> Reach:
    """What a convolution or pooling makes of it: output o takes rows o stride - before + d dilation."""
    span = dilation * (kernel - 1)
    low = -((span - before - reach.low) // stride)  # ceil((low + before - span) / stride)
    high = (reach.high + before).div(stride, rounding_mode="floor")
    low, high = low.clamp(min=0), high.clamp(max=side - 1)
    return Reach(low, torch.where(reach.high < reach.low, low - 1, high), side)


def joined(a: Reach, b: Reach) -> Reach:
    """Rows felt in either of two maps of the same size."""
    none_a, none_b = a.high < a.low, b.high < b.low
    low = torch.where(none_a, b.low, torch.where(none_b, a.low, torch.minimum(a.low, b.low)))
    high = torch.where(none_a, b.high, torch.where(none_b, a.high, torch.maximum(a.high, b.high)))
    return Reach(low, high, a.side)


def reaches(program: Program) -> dict[str, tuple[Reach, Reach]]:
    """Rows and columns reached at every operation whose result is a map and is computed on windows."""
    found: dict[str, tuple[Reach, Reach]] = {}
    for op in program.ops:
        if op.kind == "input":
            found[op.name] = (reach_of_input(op.shape[1]), reach_of_input(op.shape[2]))
            continue
        if not all(name in found for name in op.inputs):
            continue
        first = found[op.inputs[0]] if op.inputs else None
        if first is None:
            continue
        if op.kind in ("conv", "maxpool", "avgpool"):
            f = op.facts
            rows, columns = (
                slid(first[k], op.shape[1 + k], f["kernel"][k], f["stride"][k], f["before"][k], f["dilation"][k])
                for k in (0, 1)
            )
            found[op.name] = (rows, columns)
        elif op.kind in ("affine", "pointwise"):
            found[op.name] = first
        elif op.kind in ("add", "cat"):
            for name in op.inputs[1:]:
                first = (joined(first[0], found[name][0]), joined(first[1], found[name][1]))
            found[op.name] = first
    return found


@dataclass(frozen=True, eq=False)
class _Window:
    """Changed values (M, k, h, w, C) at rows top (M, k) and columns left (M, k) of a map."""

    values: torch.Tensor
    top: torch.Tensor
    left: torch.Tensor

    def with_values(self, values: torch.Tensor) -> _Window:
        """Other values (M k, h, w, C) at the same places."""
        return _Window(values.unflatten(0, self.top.shape), self.top, self.left)

    def is_at(self, top: torch.Tensor, left: torch.Tensor) -> bool:
        return torch.equal(self.top, top) and torch.equal(self.left, left)


class Windows:
    """Runs a program on a few changed pixels per image.

    Parameters
    ----------
    program : read from the network.
    pixels : k, changed in every candidate. An operation whose k windows hold more than its map runs on the map.
    """

    def __init__(self, program: Program, pixels: int = 1) -> None:
        self.program, self.pixels = program, pixels
        self.shapes = {op.name: op.shape for op in program.ops}
        self.reach: dict[str, tuple[Reach, Reach]] = {}
        for name, (rows, columns) in reaches(program).items():
            of = next(op for op in program.ops if op.name == name)
            sparse = pixels * rows.size * columns.size < rows.side * columns.side
            if sparse and all(before in self.reach for before in of.inputs):
                self.reach[name] = (rows, columns)
        self._direct = self._heads()
        self._tables: dict[tuple[str, torch.device], tuple[torch.Tensor, torch.Tensor]] = {}
        self._kept = self._needed_clean()

    def clean(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Clean results that windows are cut from, for images (N, C, H, W): maps as (N, H, W, C).

        One image at a time, so that they do not depend on the batch.
        """
        parts = [self._clean_of_one(image[None]) for image in x]
        return {name: torch.cat([part[name] for part in parts]) for name in self._kept}

    def logits(
        self, clean: Mapping[str, torch.Tensor], which: torch.Tensor, positions: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """The network's output (M, K) for images `which` (M,), pixels `positions` (M, k, 2) set to `values` (M, k, C).

        Parameters
        ----------
        values : as the network takes them. Of two values for one pixel the later one is written.
        """
        found: dict[str, Any] = {}
        last = {name: k for k, op in enumerate(self.program.ops) for name in op.inputs}
        for k, op in enumerate(self.program.ops):
            found[op.name] = self._run(op, found, clean, which, positions, values)
            for name in op.inputs:
                if last[name] == k:
                    found.pop(name, None)
        return found[self.program.output]

    # ------------------------------------------------------------------ one operation

    def _run(
        self,
        op: Op,
        found: Mapping[str, Any],
        clean: Mapping[str, torch.Tensor],
        which: torch.Tensor,
        positions: torch.Tensor,
        values: torch.Tensor,
    ) -> Any:
        if op.kind == "input":
            return _Window(values[:, :, None, None, :], positions[..., 0], positions[..., 1])
        if op.kind == "size":
            count = len(which)
            (name,) = op.inputs
            return op.call(values.new_empty(()).expand(count, *self.shapes[name]))
        if op.name not in self.reach:
            return self._dense(op, found, clean, which)
        if op.kind in ("affine", "pointwise"):
            before = found[op.inputs[0]]
            return before.with_values(_last(op.call(_first(before.values.flatten(0, 1)))))
        top, left = self._place(op.name, positions)
        rows, columns = (r.size for r in self.reach[op.name])
        if op.kind in ("add", "cat"):
            parts = [self._cut(name, found, clean, which, top, left, rows, columns, 0.0) for name in op.inputs]
            return _Window(parts[0] + parts[1] if op.kind == "add" else torch.cat(parts, dim=-1), top, left)
        f = op.facts
        (kr, kc), (sr, sc), (dr, dc), (br, bc) = f["kernel"], f["stride"], f["dilation"], f["before"]
        fill = -torch.inf if op.kind == "maxpool" else 0.0
        patch = self._cut(
            op.inputs[0], found, clean, which, top * sr - br, left * sc - bc,
            (rows - 1) * sr + dr * (kr - 1) + 1, (columns - 1) * sc + dc * (kc - 1) + 1, fill,
        )  # fmt: skip
        after = _last(self._slide(op, _first(patch.flatten(0, 1)), top.flatten(), left.flatten()))
        return _Window(after.unflatten(0, top.shape), top, left)

    def _slide(self, op: Op, patch: torch.Tensor, top: torch.Tensor, left: torch.Tensor) -> torch.Tensor:
        f = op.facts
        if op.kind == "conv":
            return functional.conv2d(patch, f["weight"], f["bias"], f["stride"], 0, f["dilation"], f["groups"])
        if op.kind == "maxpool":
            return functional.max_pool2d(patch, f["kernel"], f["stride"], 0, f["dilation"])
        summed = functional.avg_pool2d(patch, f["kernel"], f["stride"], divisor_override=1)
        rows, columns = (
            inside_map(first, size, f, k, self.shapes[op.inputs[0]][1 + k])
            for k, (first, size) in enumerate(((top, summed.shape[2]), (left, summed.shape[3])))
        )
        return summed / mean_divisor(f, rows, columns).to(summed)

    def _dense(self, op: Op, found: Mapping[str, Any], clean: Mapping[str, torch.Tensor], which: torch.Tensor) -> Any:
        before = found[op.inputs[0]] if op.inputs else None
        if op.kind == "adaptive" and self.pixels == 1 and isinstance(before, _Window):
            return self._averaged(op, before, clean, which)
        if op.name in self._direct and isinstance(before, _Window):
            return before if op.kind == "flatten" else self._added(op, before, clean, which)
        given = [self._whole(name, found, clean, which) for name in op.inputs]
        return given[0].flatten(1) if op.kind == "flatten" else op.call(*given)

    def _averaged(
        self, op: Op, window: _Window, clean: Mapping[str, torch.Tensor], which: torch.Tensor
    ) -> torch.Tensor:
        """An average over parts of a map is linear: the clean one plus that of the change in the one window."""
        name = op.inputs[0]
        rows, columns = window.values.shape[2:4]
        cut = self._cut(name, {}, clean, which, window.top, window.left, rows, columns, 0.0)
        bins = op.shape[1:] if len(op.shape) == 3 else (1, 1)
        shares = []
        for first, size, side, parts in zip(
            (window.top, window.left), (rows, columns), self.shapes[name][1:], bins, strict=True
        ):
            at = first[:, :1] + torch.arange(size, device=cut.device)
            shares.append(bin_shares(side, parts).to(cut).T[at])
        change = torch.einsum("mhwc,mho,mwp->mcop", (window.values - cut)[:, 0], *shares)
        return clean[op.name][which] + change.reshape(len(which), *op.shape)

    def _added(self, op: Op, window: _Window, clean: Mapping[str, torch.Tensor], which: torch.Tensor) -> torch.Tensor:
        """A linear layer of a flattened map: the clean result plus that of the change in the one window."""
        name = self._direct[op.name]
        channels, _, width = self.shapes[name]
        rows, columns = window.values.shape[2:4]
        cut = self._cut(name, {}, clean, which, window.top, window.left, rows, columns, 0.0)
        r, c = (
            first + torch.arange(size, device=cut.device)
            for first, size in ((window.top, rows), (window.left, columns))
        )
        cells = (r[:, :, None] * width + c[:, None, :]).flatten()
        weight = op.facts["weight"].view(-1, channels, self.shapes[name][1] * width).permute(2, 1, 0)
        weight = weight.contiguous().flatten(1).index_select(0, cells).view(len(which), rows * columns * channels, -1)
        change = (window.values - cut).flatten(1)[:, None]
        return clean[op.name][which] + torch.bmm(change, weight)[:, 0]

    # ------------------------------------------------------------------ windows and maps

    def _cut(
        self,
        name: str,
        found: Mapping[str, Any],
        clean: Mapping[str, torch.Tensor],
        which: torch.Tensor,
        top: torch.Tensor,
        left: torch.Tensor,
        rows: int,
        columns: int,
        fill: float,
    ) -> torch.Tensor:
        """Parts (M, d, rows, columns, C) of a result that begin at (top, left) (M, d): changed, clean, or `fill`."""
        now = found.get(name)
        if isinstance(now, _Window) and now.values.shape[2:4] == (rows, columns) and now.is_at(top, left):
            return now.values
        channels, height, width = self.shapes[name]
        device = which.device
        r = top[..., None] + torch.arange(rows, device=device)
        c = left[..., None] + torch.arange(columns, device=device)
        index = (which[:, None, None] * height + r)[..., :, None] * width + c[..., None, :]
        source = [clean[name].reshape(-1, channels)]
        count = len(source[0])
        outside = ((r < 0) | (r >= height))[..., :, None] | ((c < 0) | (c >= width))[..., None, :]
        index = index.masked_fill_(outside, count)
        source.append(source[0].new_full((1, channels), fill))
        if now is not None:
            k, h, w = now.values.shape[1:4]
            first = count + 1 + torch.arange(len(which), device=device)[:, None, None, None] * (k * h * w)
            for pixel in range(k):
                y, x = r - now.top[:, pixel, None, None], c - now.left[:, pixel, None, None]
                changed = ((y >= 0) & (y < h))[..., :, None] & ((x >= 0) & (x < w))[..., None, :]
                index = torch.where(changed, first + (y[..., :, None] + pixel * h) * w + x[..., None, :], index)
            source.append(now.values.reshape(-1, channels))
        return torch.cat(source).index_select(0, index.flatten()).view(*index.shape, channels)

    def _whole(
        self, name: str, found: Mapping[str, Any], clean: Mapping[str, torch.Tensor], which: torch.Tensor
    ) -> Any:
        """A result with its batch, as the network has it: windows laid over the clean map."""
        now = found[name]
        if not isinstance(now, _Window):
            return now
        corner = torch.zeros_like(which)[:, None]
        _, height, width = self.shapes[name]
        return _first(self._cut(name, found, clean, which, corner, corner, height, width, 0.0)[:, 0])

    def _place(self, name: str, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        key = (name, positions.device)
        if key not in self._tables:
            rows, columns = self.reach[name]
            self._tables[key] = (rows.start.to(positions.device), columns.start.to(positions.device))
        rows, columns = self._tables[key]
        return rows[positions[..., 0]], columns[positions[..., 1]]

    def _heads(self) -> dict[str, str]:
        """Flatten and linear layers that take a change on their own, and the map they flatten.

        Of one pixel, where the weights that meet its window are fewer than the map that need not be filled in.
        """
        found = {}
        for flat in self.program.ops:
            if flat.kind != "flatten" or self.pixels > 1 or flat.inputs[0] not in self.reach:
                continue
            users = [op for op in self.program.ops if flat.name in op.inputs]
            rows, columns = self.reach[flat.inputs[0]]
            alone = len(users) == 1 and users[0].kind == "linear"
            if alone and users[0].shape[0] * rows.size * columns.size < rows.side * columns.side:
                found |= {flat.name: flat.inputs[0], users[0].name: flat.inputs[0]}
        return found

    def _needed_clean(self) -> list[str]:
        """Maps under a window that something cuts from, and results that what a change gives is added to."""
        kept = [op.name for op in self.program.ops if op.kind == "linear" and op.name in self._direct]
        for op in self.program.ops:
            users = [user for user in self.program.ops if op.name in user.inputs]
            cut_from = op.name in self.reach and any(u.kind not in ("affine", "pointwise", "size") for u in users)
            if cut_from or (op.kind == "adaptive" and self.pixels == 1 and op.inputs[0] in self.reach):
                kept.append(op.name)
        return kept

    def _clean_of_one(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        found: dict[str, Any] = {}
        for op in self.program.ops:
            if op.kind == "input":
                found[op.name] = image
            elif op.kind == "flatten":
                found[op.name] = found[op.inputs[0]].flatten(1)
            else:
                found[op.name] = op.call(*(found[name] for name in op.inputs))
        return {n: _last(found[n]).contiguous() if n in self.reach else found[n] for n in self._kept}


def inside_map(first: torch.Tensor, size: int, facts: Mapping[str, Any], axis: int, side: int) -> torch.Tensor:
    """How many of a window's rows lie in the map, for `size` outputs from `first` (M,)."""
    kernel, stride, before = (facts[n][axis] for n in ("kernel", "stride", "before"))
    start = (first[:, None] + torch.arange(size, device=first.device)) * stride - before
    return (start + kernel).clamp(max=side) - start.clamp(min=0)


def mean_divisor(facts: Mapping[str, Any], rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """What a sum is divided by, (M, 1, h, w)."""
    kernel, inside = facts["kernel"], (rows[:, :, None] * columns[:, None, :])[:, None]
    if facts["divisor"] is not None:
        return torch.full_like(inside, int(facts["divisor"]))
    return torch.full_like(inside, kernel[0] * kernel[1]) if facts["count_pad"] else inside


def bin_shares(side: int, bins: int) -> torch.Tensor:
    """Weight of each row in each adaptive average, (bins, side): bin b holds rows floor(b side/bins) to ceil(...)."""
    shares = torch.zeros(bins, side)
    for b in range(bins):
        low, high = b * side // bins, -(-(b + 1) * side // bins)
        shares[b, low:high] = 1.0 / (high - low)
    return shares


def _first(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 3, 1, 2)


def _last(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 2, 3, 1)
