"""Philox4x32-10 (Salmon et al. 2011, SC'11, "Parallel random numbers: as easy as 1, 2, 3"), the same bits everywhere.

Compiled by Numba for the CPU; in torch integer arithmetic for any other device, and as the reference of the tests.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import torch

MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
TURN = 2.0 * math.pi


def philox(words: torch.Tensor, key: bytes, count: int) -> torch.Tensor:
    """The first `count` 32-bit words of each row, as the bits of int32 (N, count).

    Parameters
    ----------
    words : (N, 2) int64 in [0, 2^32), on the device where the result is wanted; counter (index, 0, word 0, word 1).
    key : 8 bytes.
    """
    blocks = -(-count // 4)
    if words.device.type == "cpu":
        out = np.empty((len(words), 4 * blocks), dtype=np.uint32)
        key0, key1 = _keys(key)
        _compiled(words.numpy().astype(np.uint32), np.uint32(key0), np.uint32(key1), out)
        return torch.from_numpy(out.view(np.int32))[:, :count]
    return philox_torch(words, key, blocks)[:, :count]


def philox_torch(words: torch.Tensor, key: bytes, blocks: int) -> torch.Tensor:
    """The same in torch, on any device; int32 (N, 4 blocks)."""
    position = torch.arange(blocks, device=words.device).expand(len(words), -1)
    zero = torch.zeros_like(position)
    first, second = (words[:, k, None].expand(-1, blocks) for k in (0, 1))
    return torch.stack(philox_rounds((position, zero, first, second), *_keys(key)), dim=2).flatten(1).to(torch.int32)


def philox_rounds(
    counter: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], key0: int, key1: int
) -> tuple[torch.Tensor, ...]:
    """Ten rounds on four 32-bit counter words (int64 tensors) with two 32-bit key words."""
    c0, c1, c2, c3 = counter
    for _ in range(10):
        low, high = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]  # wraps modulo 2^64; the masked halves are exact
        c0 = ((high >> 32) & MASK).bitwise_xor_(c1).bitwise_xor_(key0)
        c2 = ((low >> 32) & MASK).bitwise_xor_(c3).bitwise_xor_(key1)
        c1, c3 = high.bitwise_and_(MASK), low.bitwise_and_(MASK)
        key0, key1 = (key0 + WEYL[0]) & MASK, (key1 + WEYL[1]) & MASK
    return c0, c1, c2, c3


def uniform(words: torch.Tensor) -> torch.Tensor:
    """The upper 24 bits of words as a fraction: float32 in [0, 1) of the shape of int32 words."""
    if words.device.type != "cpu":
        return ((words >> 8) & 0xFFFFFF).to(torch.float32).mul_(2.0**-24)
    fraction = np.empty(words.numel(), dtype=np.float32)
    _fractions(words.contiguous().reshape(-1).numpy().view(np.uint32), fraction)
    return torch.from_numpy(fraction).reshape(words.shape)


def box_muller(words: torch.Tensor) -> torch.Tensor:
    """Standard normals of words, float32 (N, count) for int32 (N, count), count even; Box & Muller (1958).

    In double precision: radius from the first word of a pair, angle from the second; largest value 6.66.
    """
    if words.device.type != "cpu":
        return box_muller_torch(words)
    flat = words.contiguous().reshape(-1).numpy().view(np.uint32)
    normal = np.empty(len(flat), dtype=np.float32)
    _normals(flat, normal)
    return torch.from_numpy(normal).reshape(words.shape)


def box_muller_torch(words: torch.Tensor) -> torch.Tensor:
    """The same in torch, on any device."""
    pair = (words.to(torch.int64) & MASK).double().reshape(-1, 2)
    radius, angle = (-2.0 * ((pair[:, 0] + 0.5) * 2.0**-32).log()).sqrt(), pair[:, 1] * (TURN * 2.0**-32)
    return torch.stack((radius * angle.cos(), radius * angle.sin()), dim=1).float().reshape(words.shape)


def _keys(key: bytes) -> tuple[int, int]:
    return int.from_bytes(key[:4], "little"), int.from_bytes(key[4:], "little")


@numba.njit("void(uint32[:,::1], uint32, uint32, uint32[:,::1])", cache=True, nogil=True)
def _compiled(words, key0, key1, out):
    for row in range(out.shape[0]):
        for index in range(out.shape[1] // 4):
            c0, c1, c2, c3 = np.uint32(index), np.uint32(0), words[row, 0], words[row, 1]
            k0, k1 = key0, key1
            for _ in range(10):
                low, high = np.uint64(c0) * np.uint64(0xD2511F53), np.uint64(c2) * np.uint64(0xCD9E8D57)
                c0 = np.uint32(high >> np.uint64(32)) ^ c1 ^ k0
                c2 = np.uint32(low >> np.uint64(32)) ^ c3 ^ k1
                c1, c3 = np.uint32(high), np.uint32(low)
                k0, k1 = np.uint32(k0 + np.uint32(0x9E3779B9)), np.uint32(k1 + np.uint32(0xBB67AE85))
            out[row, 4 * index] = c0
            out[row, 4 * index + 1] = c1
            out[row, 4 * index + 2] = c2
            out[row, 4 * index + 3] = c3


@numba.njit("void(uint32[::1], float32[::1])", cache=True, nogil=True)
def _fractions(words, fraction):
    for k in range(len(words)):
        fraction[k] = np.float32(words[k] >> np.uint32(8)) * np.float32(2.0**-24)


@numba.njit("void(uint32[::1], float32[::1])", cache=True, nogil=True, error_model="numpy")
def _normals(words, normal):
    """Logarithm, sine and cosine by their series, to double precision, without a branch: the compiler makes vectors."""
    for k in range(len(normal) // 2):
        value = np.float64(words[2 * k]) + 0.5
        bits = np.float64(value).view(np.int64)
        mantissa = np.int64((bits & np.int64(0xFFFFFFFFFFFFF)) | np.int64(0x3FF0000000000000)).view(np.float64)
        large = mantissa > 1.4142135623730951
        mantissa = mantissa * 0.5 if large else mantissa
        exponent = np.float64((bits >> np.int64(52)) - np.int64(1023 + 32)) + (1.0 if large else 0.0)
        s = (mantissa - 1.0) / (mantissa + 1.0)
        t = s * s
        series = ((1 / 21 * t + 1 / 19) * t + 1 / 17) * t + 1 / 15
        series = (((series * t + 1 / 13) * t + 1 / 11) * t + 1 / 9) * t + 1 / 7
        series = (series * t + 1 / 5) * t + 1 / 3
        radius = math.sqrt(-2.0 * (exponent * 0.6931471805599453 + (2.0 * s + 2.0 * s * t * series)))

        word = words[2 * k + 1]
        quarter = np.uint32(word + np.uint32(0x20000000)) >> np.uint32(30)
        angle = np.float64(np.int32(word - np.uint32(quarter << np.uint32(30)))) * (TURN * 2.0**-32)
        t = angle * angle
        sine = ((1 / 355687428096000 * t - 1 / 1307674368000) * t + 1 / 6227020800) * t - 1 / 39916800
        sine = (((sine * t + 1 / 362880) * t - 1 / 5040) * t + 1 / 120) * t - 1 / 6
        cosine = ((1 / 20922789888000 * t - 1 / 87178291200) * t + 1 / 479001600) * t - 1 / 3628800
        cosine = ((cosine * t + 1 / 40320) * t - 1 / 720) * t + 1 / 24
        sine, cosine = angle + angle * t * sine, 1.0 - 0.5 * t + t * t * cosine
        odd = (quarter & np.uint32(1)) != 0
        first, second = (sine if odd else cosine), (cosine if odd else sine)
        first = -first if ((quarter + np.uint32(1)) & np.uint32(2)) != 0 else first
        second = -second if (quarter & np.uint32(2)) != 0 else second
        normal[2 * k] = np.float32(radius * first)
        normal[2 * k + 1] = np.float32(radius * second)
