"""Random numbers that belong to a galaxy: same galaxy, same draw, whatever the batch, order or subset.

A draw is a function of (purpose, seed, stream, stream version, galaxy id, index) and of nothing else. The generator is
Philox4x32-10, in integer arithmetic, so that integers and uniforms are the same to the bit on CPU and GPU.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import torch

from perturbations.errors import InputError
from perturbations.philox import MASK, box_muller, philox, uniform

PURPOSES = ("simulate", "train", "perturb", "attack")
SMALL_RATE = 64.0  # Poisson: summed term by term below, expanded around the normal above


class Draws:
    """The random numbers of one batch of galaxies.

    Parameters
    ----------
    ids : galaxy ids, one per image of the batch.
    seed : any integer.
    purpose : one of `PURPOSES`; streams of different purpose are independent at equal seeds.
    scope : name of whoever draws (a perturbation); part of every stream name.
    version : version of that drawer; raising it gives fresh numbers.
    device : where the numbers are wanted.

    Notes
    -----
    Each method takes the name of a stream and the shape per galaxy and returns a tensor (N, *shape). The first k
    numbers of a stream do not depend on how many are asked for.
    """

    def __init__(
        self,
        ids: Sequence[str],
        seed: int,
        purpose: str = "perturb",
        scope: str = "",
        version: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        if purpose not in PURPOSES:
            raise InputError(f"purpose '{purpose}'", f"one of {', '.join(PURPOSES)}", "choose what the numbers are for")
        self.ids = tuple(str(i) for i in ids)
        self.seed, self.purpose, self.scope, self.version = int(seed), purpose, scope, int(version)
        self.device = torch.device(device)
        self._words = _id_words(self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, which: Sequence[int] | np.ndarray | torch.Tensor) -> Draws:
        """The draws of a subset of the batch, given by position."""
        ids = [self.ids[int(i)] for i in which]
        return type(self)(ids, self.seed, self.purpose, self.scope, self.version, self.device)

    def scoped(self, scope: str, version: int) -> Draws:
        """The same galaxies and seed for another drawer."""
        return type(self)(self.ids, self.seed, self.purpose, scope, version, self.device)

    def within(self, part: str) -> Draws:
        """The same for a part of this drawer: streams of the same name there are others."""
        return self.scoped(f"{self.scope}/{part}".lstrip("/"), self.version)

    def words(self, stream: str, count: int) -> torch.Tensor:
        """Raw 32-bit words, int64 (N, count), each in [0, 2^32)."""
        return self._bits(stream, count).to(torch.int64) & MASK

    def _bits(self, stream: str, count: int) -> torch.Tensor:
        """Raw 32-bit words as the bits of int32, (N, count)."""
        key = hashlib.blake2b(
            repr((self.purpose, self.seed, self.scope, self.version, stream)).encode(), digest_size=8
        ).digest()
        return philox(self._words.to(self.device), key, count)

    def uniform(self, stream: str, shape: Sequence[int] = ()) -> torch.Tensor:
        """Uniform in [0, 1) on a grid of 2^-24, float32 (N, *shape)."""
        return uniform(self._bits(stream, math.prod(shape))).reshape(len(self), *shape)

    def integers(self, stream: str, high: int, shape: Sequence[int] = ()) -> torch.Tensor:
        """Integers in [0, high), int64 (N, *shape); 1 <= high < 2^31. Bias below high / 2^32."""
        if not 1 <= high < 2**31:
            raise InputError(f"high = {high}", "1 <= high < 2^31", "draw several numbers instead")
        return ((self.words(stream, math.prod(shape)) * high) >> 32).reshape(len(self), *shape)

    def normal(self, stream: str, shape: Sequence[int] = ()) -> torch.Tensor:
        """Standard normal, float32 (N, *shape), by Box & Muller (1958) in double precision; largest value 6.66."""
        count = math.prod(shape)
        normal = box_muller(self._bits(stream, count + count % 2))
        return normal[:, :count].reshape(len(self), *shape)

    def poisson(self, stream: str, rate: torch.Tensor) -> torch.Tensor:
        """Poisson counts, float64, for rates (N, ...) >= 0.

        Below a rate of 64 exact, by inversion of the distribution function; above it by the Cornish-Fisher
        expansion to third order (Abramowitz & Stegun 1964, 26.2.49) of one standard normal, rounded; the distribution
        function is then off by less than 2e-4 (1.6e-4 at a rate of 64, 1e-5 at 1000).
        """
        rate = rate.to(self.device, torch.float64)
        if not bool(torch.isfinite(rate).all()) or bool((rate < 0).any()):
            raise InputError("a Poisson rate is negative or not finite", "rates >= 0", "clip the rate at zero")
        shape = tuple(rate.shape[1:])
        pair = self.words(stream, 2 * math.prod(shape)).reshape(len(self), *shape, 2)
        uniform = ((pair[..., 0] << 21) | (pair[..., 1] >> 11)).double().add_(0.5).mul_(2.0**-53)
        counts = _expanded_poisson(uniform, rate)
        small = rate < SMALL_RATE
        if bool(small.any()):
            counts[small] = _summed_poisson(uniform[small], rate[small])
        return counts


def _id_words(ids: Sequence[str]) -> torch.Tensor:
    """A 64-bit hash of each id as two 32-bit words, int64 (N, 2)."""
    digests = b"".join(hashlib.blake2b(i.encode(), digest_size=8).digest() for i in ids)
    return torch.from_numpy(np.frombuffer(digests, dtype="<u4").astype(np.int64).reshape(-1, 2))


def _summed_poisson(uniform: torch.Tensor, rate: torch.Tensor) -> torch.Tensor:
    """Smallest k whose distribution function exceeds `uniform`, term by term; 1-D double tensors."""
    term = torch.exp(-rate)
    below, counts = term.clone(), torch.zeros_like(rate)
    for k in range(1, 200):  # a rate of 64 passes 200 with probability 1e-41
        pending = uniform >= below
        if not bool(pending.any()):
            break
        counts += pending
        term = term * rate / k
        below = below + term
    return counts


def _expanded_poisson(uniform: torch.Tensor, rate: torch.Tensor) -> torch.Tensor:
    """Quantile of a Poisson distribution by the Cornish-Fisher expansion, rounded half up."""
    z = torch.special.ndtri(uniform)
    root = rate.clamp_min(1.0).sqrt()
    value = rate + root * z + (z * z - 1.0) / 6.0 + (z - z**3) / (72.0 * root)
    # continuity: P(K <= k) is the expansion at k + 1/2
    return torch.ceil(value - 0.5).clamp_min(0.0)
