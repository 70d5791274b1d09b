"""Losses of a batch of vectors, each a mean over its rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional


def cosine_loss(vectors: Tensor, targets: Tensor) -> Tensor:
    """1 - cosine, of float[rows, dim] each."""
    return (1 - functional.cosine_similarity(vectors, targets, dim=1)).mean()


def mse_loss(vectors: Tensor, targets: Tensor) -> Tensor:
    """The squared distance, of float[rows, dim] each, summed over the values of a row."""
    return (vectors - targets).square().sum(dim=1).mean()


VECTOR_LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {"cosine": cosine_loss, "mse": mse_loss}
)


def take_rows(vectors: Tensor, rows: Tensor) -> Tensor:
    """`vectors[rows]` of float[rows, dim], whose gradient is summed in the same order each time.

    Indexing adds up the gradient of a row that is taken twice in any order where PyTorch has several threads.
    """
    return functional.embedding(rows, vectors)


def contrastive_loss(
    anchors: Tensor,
    candidates: Tensor,
    left_out: Tensor,
    temperature: float,
    symmetric: bool = False,
) -> Tensor:
    """Cross-entropy of finding an anchor's own candidate among all of them, by cosine (InfoNCE, van den Oord 2018).

    Args:
        anchors: float[rows, dim].
        candidates: float[at least rows, dim]; number i belongs to anchor i, and those past the last anchor to none.
        left_out: bool[rows, candidates], which candidates are no negatives of an anchor, such as the same text as its
            own candidate. The values for an anchor's own candidate do not matter.
        temperature: divides the cosines.
        symmetric: also find each candidate's anchor, and take the mean of both.
    """
    rows = len(anchors)
    scores = _cosines(anchors, candidates) / temperature
    own = torch.arange(rows, device=scores.device)
    left_out = left_out.clone()
    left_out[own, own] = False
    scores = scores.masked_fill(left_out, -torch.inf)
    loss = functional.cross_entropy(scores, own)
    if symmetric:
        loss = (loss + functional.cross_entropy(scores[:, :rows].T, own)) / 2
    return loss


def triplet_loss(anchors: Tensor, candidates: Tensor, left_out: Tensor, margin: float) -> Tensor:
    """By how much an anchor's own candidate is not nearer than its negatives by a margin (Schroff et al. 2015), in
    cosines; the mean over an anchor's negatives, of which 0 is the loss of none. A triplet that is right by the margin
    moves nothing.

    Args:
        anchors, candidates, left_out: as for `contrastive_loss`.
        margin: in cosines.
    """
    rows = len(anchors)
    scores = _cosines(anchors, candidates)
    own = torch.arange(rows, device=scores.device)
    counts = ~left_out
    counts[own, own] = False
    shortfall = functional.relu(margin + scores - scores[own, own][:, None]).masked_fill(~counts, 0.0)
    return (shortfall.sum(dim=1) / counts.sum(dim=1).clamp(min=1)).mean()


def _cosines(anchors: Tensor, candidates: Tensor) -> Tensor:
    return functional.normalize(anchors, dim=1) @ functional.normalize(candidates, dim=1).T


def supervised_contrastive_loss(vectors: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Rows of one class are drawn to each other, away from the others (Khosla et al. 2020, the outer sum).

    Args:
        vectors: float[rows, dim].
        labels: int64[rows]. A row whose class no other row has does not count; without any other row the loss is 0.
        temperature: divides the cosines.
    """
    normalized = functional.normalize(vectors, dim=1)
    scores = normalized @ normalized.T / temperature
    itself = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    log_shares = functional.log_softmax(scores.masked_fill(itself, -torch.inf), dim=1)
    mates = (labels[:, None] == labels) & ~itself
    counts = mates.sum(dim=1)
    sums = log_shares.masked_fill(~mates, 0.0).sum(dim=1)
    return -(sums[counts > 0] / counts[counts > 0]).sum() / max(1, len(vectors))
