"""Sets of activations as affine forms, and what each operation of a network makes of them (see design/certificate.md).

A form is a tensor (M, F, h, w, C) in float64. It stands for all activations centre + sum_b g_b e_b + d with one e_b in
[-1, 1] per band of the changed pixel, shared by all activations, and |d| <= rest, of each activation alone. Part 0 is
the centre, parts 1 to F - 2 are the g_b, the last is the rest (DeepZ, Singh et al. 2018, NeurIPS 31, with the noise
symbols of the activation functions taken together). The rest also holds how far a float32 evaluation can be from exact
arithmetic, so that the set contains what any such evaluation gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

UNIT = 2.0**-24 * (1.0 + 2.0**-20)  # rounding of float32, and room for that of sums in our own float64
TINY = 2.0**-126  # what a term of a sum may lose where float32 underflows
OWN = 2.0**-48  # rounding of a few float64 operations
SPARE = 16  # more roundings of a term: its weight in folding batch norm or linear layers, bias, division
NOTHING = -1e30  # padding of a maximum: minus infinity, but for the differences that are taken


def gamma(count: int) -> float:
    """Relative error of `count` roundings, count u / (1 - count u) (Higham 2002, equation 3.4)."""
    return count * UNIT / (1.0 - count * UNIT) if count * UNIT < 0.5 else float("inf")


def of_box(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """The form (M, B + 2, 1, 1, B) of pixel values in boxes (M, B)."""
    centre, half = (low + high) / 2, (high - low) / 2
    parts = (centre[:, None], torch.diag_embed(half), OWN * (low.abs() + high.abs())[:, None])
    return torch.cat(parts, dim=1)[:, :, None, None]


def exactly(values: torch.Tensor) -> torch.Tensor:
    """The form (M, 2, h, w, C) of known values (M, C, h, w)."""
    values = values.permute(0, 2, 3, 1)
    return torch.stack((values, torch.zeros_like(values)), dim=1)


def largest(form: torch.Tensor) -> torch.Tensor:
    """(M, h, w, C), a bound of the absolute values in the set."""
    return form.abs().sum(dim=1)


def ends(form: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(M, h, w, C), the smallest and the largest value in the set, but for our own rounding."""
    spread = form[:, 1:].abs().sum(dim=1)
    return form[:, 0] - spread, form[:, 0] + spread


def widened(form: torch.Tensor, relative: float, absolute: float = 0.0) -> torch.Tensor:
    """The set after rounding of its values. In place."""
    form[:, -1] += relative * largest(form) + absolute
    return form


def rectified(form: torch.Tensor, slope: float) -> torch.Tensor:
    """max(a, 0) + slope min(a, 0), 0 <= slope <= 1: ReLU, or with a slope leaky ReLU."""
    share, below, above = _band(form[:, :-1], form[:, -1], OWN * largest(form))
    after = form * (slope + (1.0 - slope) * share)[:, None]
    after[:, 0] += (1.0 - slope) * (above - below) / 2
    after[:, -1] += (1.0 - slope) * (above + below) / 2
    return widened(after, OWN) if slope == 0.0 else widened(after, OWN + gamma(1), TINY)


def larger(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """max(a, b) = a + max(b - a, 0): a mean of both, moved and widened where neither is always the larger."""
    difference = b - a
    share, below, above = _band(difference[:, :-1], difference[:, -1], OWN * (largest(a) + largest(b)))
    after = (1.0 - share)[:, None] * a + share[:, None] * b
    after[:, 0] += (above - below) / 2
    after[:, -1] += (above + below) / 2
    return widened(after, OWN)


def added(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a + b, of the same pixel values."""
    return widened(a + b, OWN + gamma(1))


def _band(
    known: torch.Tensor, shift: torch.Tensor, own: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """s, p, t: s x - p <= max(x, 0) for all x in the set `known` (it has no rest) less `shift`, and
    max(y, 0) <= s y + t for all y in it plus `shift`; `own` widens every range."""
    spread = known[:, 1:].abs().sum(dim=1) + own
    low, high = known[:, 0] - spread, known[:, 0] + spread
    least, most = low - shift.abs(), high + shift.abs()
    share = torch.where((least < 0.0) & (most > 0.0), most / (most - least), (least >= 0.0).to(least))
    above = torch.maximum(*((x + shift).clamp(min=0.0) - share * (x + shift) for x in (low, high)))
    # concave in x, with its peak at 0
    peak = torch.zeros_like(low).clamp(low - shift, high - shift)
    return share, share * peak - peak.clamp(min=0.0), above


@dataclass(frozen=True, eq=False)
class Convolution:
    """Weight (C', C / groups, kh, kw) in float32, bias (C',) in float64; `count`: how often a term is rounded."""

    weight: torch.Tensor
    bias: torch.Tensor
    stride: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    count: int

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Convolution:
        weight, bias = facts["weight"].detach(), _exact(facts)[1]
        return cls(weight, bias, facts["stride"], facts["dilation"], facts["groups"], weight[0].numel() + SPARE)

    def __call__(self, form: torch.Tensor, single: bool) -> torch.Tensor:
        """Of parts of a map that are padded already. With `single` our own sums are in float32, and widen the set."""
        form = form.permute(0, 1, 4, 2, 3)
        dtype, once = (torch.float32, gamma(self.count)) if single else (torch.float64, 0.0)
        rest = form[:, -1] + (gamma(self.count) + once) * largest(form)
        rest = self._slid(rest, self.weight.abs(), dtype) * (1.0 + 2.0 * once)
        known = self._slid(form[:, :-1].flatten(0, 1), self.weight, dtype).unflatten(0, (len(form), -1))
        after = torch.cat((known, rest[:, None]), dim=1).permute(0, 1, 3, 4, 2).contiguous()
        after[:, 0] += self.bias
        after[:, -1] += gamma(self.count) * self.bias.abs() + 8 * self.count * TINY
        return after

    def _slid(self, x: torch.Tensor, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        x, weight = x.to(dtype), weight.to(dtype)
        return functional.conv2d(x, weight, None, self.stride, 0, self.dilation, self.groups).double()


@dataclass(frozen=True, eq=False)
class Scaling:
    """Batch norm in eval mode: scale and shift (C,), and the sum of the absolute terms of the shift."""

    scale: torch.Tensor
    shift: torch.Tensor
    terms: torch.Tensor
    count: int

    @classmethod
    def of(cls, norm: nn.BatchNorm2d, before: int) -> Scaling:
        """`before`: how often a term is rounded in the convolution or batch norm that it may be folded into."""
        assert norm.running_mean is not None
        assert norm.running_var is not None
        mean = norm.running_mean.double()
        scale = (norm.running_var.double() + norm.eps).rsqrt()
        scale = scale if norm.weight is None else scale * norm.weight.detach().double()
        bias = torch.zeros_like(mean) if norm.bias is None else norm.bias.detach().double()
        return cls(scale, bias - mean * scale, bias.abs() + (mean * scale).abs(), before + SPARE)

    def __call__(self, form: torch.Tensor) -> torch.Tensor:
        rest = gamma(self.count) * (largest(form) * self.scale.abs() + self.terms) + self.count * TINY
        after = form * self.scale
        after[:, 0] += self.shift
        after[:, -1] = form[:, -1] * self.scale.abs() + rest
        return after


@dataclass(frozen=True, eq=False)
class Linear:
    """Linear layers in a row, as one.

    Parameters
    ----------
    weight, bias : (K, n), (K,) float64.
    weight_terms, bias_terms : the same made of absolute values: |W2| |W1|, |W2| |b1| + |b2|.
    count : how often a term is rounded on its way.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    weight_terms: torch.Tensor
    bias_terms: torch.Tensor
    count: int

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Linear:
        weight, bias = _exact(facts)
        return cls(weight, bias, weight.abs(), bias.abs(), weight.shape[1] + SPARE)

    def then(self, second: Linear) -> Linear:
        """This, and then the second."""
        return Linear(
            second.weight @ self.weight,
            second.weight @ self.bias + second.bias,
            second.weight_terms @ self.weight_terms,
            second.weight_terms @ self.bias_terms + second.bias_terms,
            self.count + second.count,
        )

    def margins(self, label: int) -> Linear:
        """The output `label` less each of the others."""
        others = [k for k in range(len(self.weight)) if k != label]
        return Linear(
            self.weight[label] - self.weight[others],
            self.bias[label] - self.bias[others],
            self.weight_terms[label] + self.weight_terms[others],
            self.bias_terms[label] + self.bias_terms[others],
            self.count,
        )

    def __call__(self, form: torch.Tensor) -> torch.Tensor:
        """(M, F, 1, 1, K), of a whole map (M, F, h, w, C), or of vectors where h = w = 1."""
        flat = form.permute(0, 1, 4, 2, 3).flatten(2)
        rest = flat[:, -1] @ self.weight.abs().T + self.count * TINY
        rest += gamma(self.count) * (largest(flat) @ self.weight_terms.T + self.bias_terms)
        known = flat[:, :-1] @ self.weight.T
        known[:, 0] += self.bias
        return torch.cat((known, rest[:, None]), dim=1)[:, :, None, None]

    def of_change(
        self, form: torch.Tensor, was: torch.Tensor, cells: torch.Tensor, clean: torch.Tensor
    ) -> torch.Tensor:
        """(M, F, 1, 1, K), of a map that is clean outside a window.

        Parameters
        ----------
        form : (M, F, h, w, C), the window.
        was : (M, h, w, C), the clean centre there.
        cells : (M, h w) int64, its places in the map, counted along rows.
        clean : (1, 2, 1, 1, K), the result of the clean map; its rest is an upper bound of what stays clean.
        """
        weight, terms = (
            w.unflatten(1, (form.shape[-1], -1)).permute(2, 1, 0)[cells].flatten(1, 2)
            for w in (self.weight, self.weight_terms)
        )
        flat = form.flatten(2)
        known = flat[:, :-1].clone()
        known[:, 0] -= was.flatten(1)
        known = known @ weight
        known[:, 0] += clean[:, 0, 0, 0]
        # windows add the change to the clean result: the old value is met once more
        met = (largest(flat) + was.abs().flatten(1))[:, None] @ terms
        rest = flat[:, -1:] @ weight.abs() + gamma(self.count) * met + clean[:, 1:, 0, 0]
        return torch.cat((known, rest), dim=1)[:, :, None, None]


def _exact(facts: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    weight = facts["weight"].detach().double()
    return weight, weight.new_zeros(len(weight)) if facts["bias"] is None else facts["bias"].detach().double()
