"""Random numbers that belong to a galaxy: same galaxy, same draw, whatever the batch, order or subset.

A draw is a function of (purpose, seed, stream, stream version, galaxy id, index) and of nothing else. The generator is
Philox4x32-10 (Salmon et al. 2011, SC'11, "Parallel random numbers: as easy as 1, 2, 3"), written in torch integer
arithmetic so that integers and uniforms are the same to the bit on CPU and GPU.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import torch

from perturbations.errors import InputError

PURPOSES = ("simulate", "train", "perturb", "attack")
MASK = 0xFFFFFFFF
BLOCK = 1 << 16  # counters worked on together: the few buffers of that size stay in the cache
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
        return Draws([self.ids[int(i)] for i in which], self.seed, self.purpose, self.scope, self.version, self.device)

    def scoped(self, scope: str, version: int) -> Draws:
        """The same galaxies and seed for another drawer."""
        return Draws(self.ids, self.seed, self.purpose, scope, version, self.device)

    def words(self, stream: str, count: int) -> torch.Tensor:
        """Raw 32-bit words, int64 (N, count), each in [0, 2^32)."""
        key = hashlib.blake2b(
            repr((self.purpose, self.seed, self.scope, self.version, stream)).encode(), digest_size=8
        ).digest()
        return _philox(self._words.to(self.device), key, count)

    def uniform(self, stream: str, shape: Sequence[int] = ()) -> torch.Tensor:
        """Uniform in [0, 1) on a grid of 2^-24, float32 (N, *shape)."""
        bits = self.words(stream, math.prod(shape)) >> 8
        return (bits.to(torch.float32) * 2.0**-24).reshape(len(self), *shape)

    def integers(self, stream: str, high: int, shape: Sequence[int] = ()) -> torch.Tensor:
        """Integers in [0, high), int64 (N, *shape); 1 <= high < 2^31. Bias below high / 2^32."""
        if not 1 <= high < 2**31:
            raise InputError(f"high = {high}", "1 <= high < 2^31", "draw several numbers instead")
        return ((self.words(stream, math.prod(shape)) * high) >> 32).reshape(len(self), *shape)

    def normal(self, stream: str, shape: Sequence[int] = ()) -> torch.Tensor:
        """Standard normal, float32 (N, *shape), by Box & Muller (1958) in double precision; largest value 6.66."""
        count = math.prod(shape)
        flat = self.words(stream, count + count % 2).reshape(-1)
        normal = torch.empty(flat.shape, dtype=torch.float32, device=flat.device)
        for start in range(0, flat.numel(), BLOCK):  # in blocks that stay in the cache
            pair = flat[start : start + BLOCK].reshape(-1, 2).double()
            radius = ((pair[:, 0] + 0.5) * 2.0**-32).log_().mul_(-2.0).sqrt_()
            angle = pair[:, 1] * (2.0 * math.pi * 2.0**-32)
            normal[start : start + BLOCK].view(-1, 2).copy_(
                torch.stack((radius * angle.cos(), radius * angle.sin()), dim=1)
            )
        return normal.reshape(len(self), count + count % 2)[:, :count].reshape(len(self), *shape)

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


def _philox(words: torch.Tensor, key: bytes, count: int) -> torch.Tensor:
    """`count` 32-bit words for each row of `words` (N, 2): counter (index, 0, word 0, word 1), a key for the stream."""
    key0, key1 = int.from_bytes(key[:4], "little"), int.from_bytes(key[4:], "little")
    rows, blocks = words.shape[0], -(-count // 4)
    out = torch.empty((rows, blocks, 4), dtype=torch.int64, device=words.device)
    flat = out.view(-1, 4)
    for start in range(0, rows * blocks, BLOCK):
        position = torch.arange(start, min(start + BLOCK, rows * blocks), device=words.device)
        row = position // max(blocks, 1)
        counter = (position - row * blocks, torch.zeros_like(position), words[row, 0], words[row, 1])
        flat[start : start + BLOCK] = torch.stack(philox_rounds(counter, key0, key1), dim=1)
    return out.reshape(rows, blocks * 4)[:, :count]


def philox_rounds(
    counter: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], key0: int, key1: int
) -> tuple[torch.Tensor, ...]:
    """Philox4x32-10 of four 32-bit counter words (int64 tensors) and two 32-bit key words."""
    c0, c1, c2, c3 = counter
    for _ in range(10):
        low, high = c0 * 0xD2511F53, c2 * 0xCD9E8D57  # wraps modulo 2^64; the masked halves are exact
        c0 = ((high >> 32) & MASK).bitwise_xor_(c1).bitwise_xor_(key0)
        c2 = ((low >> 32) & MASK).bitwise_xor_(c3).bitwise_xor_(key1)
        c1, c3 = high.bitwise_and_(MASK), low.bitwise_and_(MASK)
        key0, key1 = (key0 + 0x9E3779B9) & MASK, (key1 + 0xBB67AE85) & MASK
    return c0, c1, c2, c3


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
