"""Universal domain adaptation of DeepAstroUDA (Ciprijanovic et al. 2023, arXiv:2302.02005).

Source and target may have classes that the other lacks: galaxies of the target are drawn together where they look
alike, and pushed to be either sure or unsure, instead of being matched with the source as a whole. The parts: weighted
cross-entropy of the source (the loop's), adaptive clustering, entropy separation, batch norm for each domain, and a
cosine classifier with a temperature, as in DANCE (Saito et al. 2020, arXiv:2002.07953).
"""

from __future__ import annotations

import math

import torch
from torch import nn

from robustastro.adapt.domain_norm import divide, enter, unite
from robustastro.adapt.sinkhorn import sinkhorn
from robustastro.adapt.transfer import Setting, Step, Transfer
from robustastro.models.nets import cosine_head

SMALL, BLUR = 1e-6, 0.05


def alike(first: torch.Tensor, second: torch.Tensor, top: int) -> torch.Tensor:
    """(n, m) bool: the `top` largest features of two galaxies are the same ones, in any order.

    Rank statistics (Han et al. 2020, arXiv:2002.05714, eq. 2): features (n, D) and (m, D) are ranked by absolute value.
    """
    count = min(top, first.shape[1])
    sets = [z.abs().topk(count, dim=1).indices.sort(dim=1).values for z in (first, second)]
    return (sets[0][:, None] == sets[1][None]).all(dim=2)


def adaptive_clustering(
    first: torch.Tensor, second: torch.Tensor, same: torch.Tensor, counted: torch.Tensor
) -> torch.Tensor:
    """Mean over pairs of -s log(p_i . p_j) - (1 - s) log(1 - p_i . p_j).

    Pairs that are alike and pairs that are not have half of the weight each: in a batch of many classes, or early in a
    training, nearly no two galaxies are alike.

    Parameters
    ----------
    first, second : probabilities (n, K) and (m, K).
    same : (n, m) bool, s.
    counted : (n, m) bool, the pairs that take part.
    """
    together = (first @ second.T).clamp(SMALL, 1.0 - SMALL)
    losses = [
        value[which].mean()
        for value, which in ((-together.log(), counted & same), (-(1.0 - together).log(), counted & ~same))
        if bool(which.any())
    ]
    return sum(losses, first.new_zeros(())) / max(len(losses), 1)


def entropy(probabilities: torch.Tensor) -> torch.Tensor:
    """Entropy (n,) of probabilities (n, K), in nats."""
    return -(probabilities * probabilities.clamp_min(SMALL).log()).sum(dim=1)


def entropy_separation(probabilities: torch.Tensor, margin: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean over galaxies of -|H - log(K) / 2| where that is more than `margin`, else 0; and for which it is.

    Parameters
    ----------
    probabilities : (n, K) of target galaxies.
    margin : in nats.
    """
    away = (entropy(probabilities) - 0.5 * math.log(probabilities.shape[1])).abs()
    active = away > margin
    return -(away * active).mean(), active


class UDA(Transfer):
    """Adaptive clustering and entropy separation, domain-specific batch norm, cosine classifier.

    The history tells on which share of an epoch's samples each loss acts: `alike`, of the pairs those that are alike;
    `with_alike`, of the galaxies of both domains those that are alike to one at least; `clustering_active`, of the
    pairs those whose p_i . p_j is not so near to 0 or 1 (1e-6) that the loss is flat; `entropy_active`, of the target
    galaxies those that entropy separation moves, and `entropy_unsure` those that it makes less sure. With the published
    margin of 0.5 and three classes it moves nearly none, as |H - log(3) / 2| is at most 0.549. So the margin
    is scaled with log K, to be 0.5 at the ten classes that it was published with.

    Parameters
    ----------
    weight, entropy_weight : of adaptive clustering and of entropy separation.
    margin : of entropy separation [nats], at ten classes where `scaled`, else at any number.
    top : features that must agree for two galaxies to be alike.
    bank : target galaxies of earlier steps that are compared with those of this one; 0: only those of this step.
    temperature : of the cosine classifier.
    warm_up : part of the training over which both terms grow to their weight; 0: from the first step, as published.
    align, reach : weight of the Sinkhorn divergence of the directions of the latent vectors, from the first step, and
        how far it moves them (see `sinkhorn`); align = 0: none, as published.
    norm : "domain": batch statistics for each domain, as published; "shared": of both together.
    serve : the domain whose batch statistics the finished network has: "source", "target", or "pooled" for both.
    """

    bank_latent: torch.Tensor
    bank_probabilities: torch.Tensor

    def __init__(
        self,
        setting: Setting,
        weight: float,
        entropy_weight: float,
        margin: float,
        scaled: float,
        top: float,
        bank: float,
        temperature: float,
        warm_up: float,
        align: float,
        reach: float,
        norm: str,
        serve: str,
    ) -> None:
        super().__init__()
        classes = len(setting.contract.classes)
        self.weight, self.entropy_weight, self.top, self.serve = weight, entropy_weight, int(top), serve
        self.temperature, self.warm_up, self.separate = temperature, warm_up, norm == "domain"
        self.align, self.reach = align, reach
        self.margin = margin * (math.log(classes) / math.log(10.0) if scaled else 1.0)
        # zeros have no class: until they are replaced they do not take part
        self.register_buffer("bank_latent", torch.zeros(int(bank), setting.latent))
        self.register_buffer("bank_probabilities", torch.zeros(int(bank), classes))

    def attach(self, network: nn.Module) -> dict[str, float]:
        """Domain-specific batch norm, where it is wanted, and a cosine classifier."""
        if self.separate:
            divide(network)
        cosine_head(network, self.temperature)
        return {"temperature": self.temperature}

    def enter(self, network: nn.Module, domain: str) -> None:
        """Batch statistics of that domain."""
        enter(network, domain)

    def forward(self, step: Step) -> torch.Tensor:
        """Scalar loss."""
        source, target = step.both()
        assert step.target_logits is not None
        n, m = len(source), len(target)
        latent = torch.cat([source, target]).detach()
        probabilities = torch.cat([step.source_logits, step.target_logits]).softmax(dim=1)
        others = torch.cat([latent[n:], self.bank_latent])
        theirs = torch.cat([probabilities[n:], self.bank_probabilities])
        counted = (theirs.sum(dim=1) > 0)[None].repeat(n + m, 1)
        counted[n:, :m] &= ~torch.eye(m, dtype=torch.bool, device=counted.device)  # a galaxy is like itself
        middle = latent[n:].mean(dim=0)  # a layer without ReLU: what all galaxies have in common would lead every rank
        same = alike(torch.cat([latent[:n] - latent[:n].mean(dim=0), latent[n:] - middle]), others - middle, self.top)
        clustering = adaptive_clustering(probabilities, theirs, same, counted)
        separation, active = entropy_separation(probabilities[n:], self.margin)
        self._remember(latent[n:], probabilities[n:].detach())
        together = (probabilities @ theirs.T).detach()
        unsure = entropy(probabilities[n:]) > 0.5 * math.log(probabilities.shape[1])
        shares = {
            "alike": same[counted],
            "with_alike": (same & counted).any(dim=1),
            "clustering_active": ((together > SMALL) & (together < 1.0 - SMALL))[counted],
            "entropy_active": active,
            "entropy_unsure": active & unsure,
        }
        step.notes.update({name: float(which.float().mean()) for name, which in shares.items()})
        grown = min(1.0, step.progress / self.warm_up) if self.warm_up else 1.0
        loss = grown * (self.weight * clustering + self.entropy_weight * separation)
        if self.align:
            near, far = nn.functional.normalize(source), nn.functional.normalize(target)
            loss = loss + self.align * sinkhorn(near, far, BLUR, self.reach)
        return loss

    def _remember(self, latent: torch.Tensor, probabilities: torch.Tensor) -> None:
        """The newest first, the oldest leave."""
        size = len(self.bank_latent)
        self.bank_latent = torch.cat([latent, self.bank_latent])[:size]
        self.bank_probabilities = torch.cat([probabilities, self.bank_probabilities])[:size]

    def finish(self, network: nn.Module, target: torch.Tensor | None) -> None:
        """Plain batch norm again."""
        unite(network, self.serve)
