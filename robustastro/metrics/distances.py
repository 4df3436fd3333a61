"""How far an image moved in a latent space, and how close it came to the wrong class.

z is the latent vector before the head, y the true class. Everything here is in units of the latent space, which a
training may stretch at will; divide by `latent_scale` before comparing two models.
"""

from __future__ import annotations

import math

import numpy as np

from robustastro.record import Head


def latent_shift(latent: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """|z(x') - z(x)|, float64 (N,), of latents (N, D)."""
    return np.linalg.norm(np.asarray(latent, dtype=np.float64) - np.asarray(clean, dtype=np.float64), axis=1)


def boundary_distance(head: Head, latent: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Signed distance from z to the nearest boundary of the true class, float64 (N,).

    The smallest over j != y of (logit_y - logit_j) / |w_y - w_j|, with logits computed in double precision from z and
    the head. Positive: the exact Euclidean distance to leave y, because the region of a class under a linear head is an
    intersection of half-spaces. Negative: already left, and its size is a lower bound for the way back. A cosine head
    compares angles, so its boundaries are hyperplanes through the origin between the unit weights.

    Parameters
    ----------
    head : see `boundary_reason` for the heads that have this distance; NaN for others.
    latent : (N, D).
    labels : (N,) int; NaN for a negative (unknown) one.
    """
    labels = np.asarray(labels)
    if boundary_reason(head) or head.weight is None:
        return np.full(len(labels), math.nan)
    weight = head.weight.astype(np.float64)
    bias = np.zeros(len(weight)) if head.bias is None else head.bias.astype(np.float64)
    if head.kind == "cosine":
        weight = weight / np.linalg.norm(weight, axis=1, keepdims=True)
    rows, known = np.arange(len(labels)), np.maximum(labels, 0)
    logits = np.asarray(latent, dtype=np.float64) @ weight.T + bias
    lead = logits[rows, known][:, None] - logits
    apart = np.linalg.norm(weight[:, None] - weight[None], axis=2)[known]
    # equal weights (the class itself, too) have no boundary between them: one of the two wins everywhere
    distance = np.where(lead < 0, -math.inf, math.inf)
    np.divide(lead, apart, out=distance, where=apart > 0)
    return np.where(labels < 0, math.nan, distance.min(axis=1, initial=math.inf))


def boundary_reason(head: Head) -> str | None:
    """Why a head has no boundary distance, or None where it has one."""
    if head.kind not in ("linear", "cosine") or head.weight is None:
        return "the last layer is not linear, so its class boundaries are not flat"
    if head.kind == "cosine" and head.bias is not None and np.any(head.bias != 0):
        return "a cosine head with a bias has curved class boundaries"
    return None


def centroid_margin(centroids: np.ndarray | None, latent: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Distance from z to the nearest wrong centroid minus the distance to its own, float64 (N,).

    Parameters
    ----------
    centroids : (K, D), of clean training galaxies; a class whose centroid is NaN is left out.
    latent : (N, D).
    labels : (N,) int; NaN for a negative (unknown) one, or a class without a centroid.
    """
    labels = np.asarray(labels)
    if centroids is None:
        return np.full(len(labels), math.nan)
    apart = np.stack([latent_shift(latent, centroid[None]) for centroid in centroids], axis=1)
    rows, known = np.arange(len(labels)), np.maximum(labels, 0)
    own = np.where(labels < 0, math.nan, apart[rows, known])
    apart[rows, known] = math.inf
    nearest = np.where(np.isnan(apart), math.inf, apart).min(axis=1, initial=math.inf)
    return np.where(np.isfinite(nearest), nearest, math.nan) - own


def latent_scale(centroids: np.ndarray | None) -> tuple[float, int]:
    """Mean distance between the centroids (K, D) of two different classes, and the number of pairs; NaN without one."""
    if centroids is None:
        return math.nan, 0
    there = centroids[np.isfinite(centroids).all(axis=1)].astype(np.float64)
    first, second = np.triu_indices(len(there), k=1)
    apart = latent_shift(there[first], there[second])
    scale = float(apart.mean()) if len(apart) else math.nan
    return (scale if scale > 0 else math.nan), len(apart)
