"""The losses: their values by hand, what they prefer, and that texts that are the same are no negatives."""

from __future__ import annotations

import math

import pytest
import torch

from lengthwise.training.losses import (
    contrastive_loss,
    cosine_loss,
    mse_loss,
    supervised_contrastive_loss,
    take_rows,
    triplet_loss,
)

AXES = torch.eye(4)


def no_pairs(rows: int, candidates: int) -> torch.Tensor:
    return torch.zeros(rows, candidates, dtype=torch.bool)


def test_cosine_and_squared_distance() -> None:
    vectors, targets = torch.tensor([[3.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    assert cosine_loss(vectors, targets) == pytest.approx(1.0)  # 0 and 2
    assert mse_loss(vectors, targets) == pytest.approx((4 + 9) / 2)


def test_contrastive_loss_is_the_cross_entropy_of_the_cosines() -> None:
    loss = contrastive_loss(AXES[:2], AXES[:3] * 7, no_pairs(2, 3), temperature=0.5)
    assert loss == pytest.approx(math.log(1 + 2 * math.exp(-2)))


def test_symmetric_loss_is_the_mean_of_both_directions() -> None:
    torch.manual_seed(0)
    one, other = torch.randn(5, 4), torch.randn(5, 4)
    there = contrastive_loss(one, other, no_pairs(5, 5), 0.1)
    back = contrastive_loss(other, one, no_pairs(5, 5), 0.1)
    both = contrastive_loss(one, other, no_pairs(5, 5), 0.1, symmetric=True)
    assert both == pytest.approx(float(there + back) / 2)


def test_hard_negative_raises_the_loss_and_its_gradient_pushes_away() -> None:
    anchors = AXES[:2].clone().requires_grad_()
    negative = (AXES[:1] + 0.1 * AXES[3:]).requires_grad_()
    plain = contrastive_loss(anchors, AXES[:2], no_pairs(2, 2), 0.1)
    loss = contrastive_loss(anchors, torch.cat([AXES[:2], negative]), no_pairs(2, 3), 0.1)
    assert loss > plain + 0.1
    loss.backward()
    moved = negative.detach() - 0.01 * negative.grad
    assert torch.cosine_similarity(moved, AXES[:1]) < torch.cosine_similarity(negative.detach(), AXES[:1])


def test_candidate_that_is_left_out_does_not_count() -> None:
    candidates = torch.cat([AXES[:2], AXES[:1]])
    left_out = no_pairs(2, 3)
    left_out[0, 2] = left_out[0, 0] = True  # an anchor's own candidate is never left out
    alone = contrastive_loss(AXES[:1], AXES[:2], no_pairs(1, 2), 0.1)
    with_row = contrastive_loss(AXES[:2], candidates, left_out, 0.1)
    other = contrastive_loss(AXES[1:2], torch.cat([AXES[1:2], AXES[:1], AXES[:1]]), no_pairs(1, 3), 0.1)
    assert with_row == pytest.approx(float(alone + other) / 2)


def test_triplet_loss_is_the_shortfall_from_the_margin() -> None:
    anchors, near = AXES[:2], AXES[:2] + 0.75 * AXES[2:3]  # a cosine of 0.8
    negatives = torch.stack([AXES[0] + 0.75 * AXES[3], AXES[3]])  # 0.8 and 0
    left_out = no_pairs(2, 4)
    left_out[:, :2] = True
    left_out[0, 3] = left_out[1, 2] = True  # each has one of its own
    loss = triplet_loss(anchors, torch.cat([near, negatives]), left_out, margin=0.1)
    assert loss == pytest.approx(0.1 / 2)


def test_triplet_that_is_right_by_the_margin_has_no_gradient() -> None:
    anchors = AXES[:2].clone().requires_grad_()
    triplet_loss(anchors, AXES[:2], no_pairs(2, 2), margin=0.5).backward()
    assert not anchors.grad.any()


def test_triplet_loss_without_negatives_is_0() -> None:
    assert triplet_loss(AXES[:2], AXES[1:3], ~no_pairs(2, 2), margin=0.5) == 0


def test_supervised_loss_prefers_classes_together() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2])  # nothing has the last one's class
    together = AXES[[0, 0, 1, 1, 2]]
    apart = AXES[[0, 1, 0, 1, 2]]
    assert supervised_contrastive_loss(together, labels, 0.1) < 0.01
    assert supervised_contrastive_loss(apart, labels, 0.1) > 5


def test_supervised_loss_without_mates_is_zero() -> None:
    vectors = AXES[:3].clone().requires_grad_()
    loss = supervised_contrastive_loss(vectors, torch.tensor([0, 1, 2]), 0.1)
    loss.backward()
    assert float(loss.detach()) == 0
    assert vectors.grad is not None
    assert torch.isfinite(vectors.grad).all()


def test_taken_rows_have_the_same_gradient_each_time_in_several_threads() -> None:
    """Indexing gave another one nearly each time."""
    vectors = torch.randn(900, 384, generator=torch.Generator().manual_seed(0), requires_grad=True)
    rows = torch.randint(0, 900, (1_024,), generator=torch.Generator().manual_seed(1))
    weights = torch.randn(1_024, 384, generator=torch.Generator().manual_seed(2))
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        first, *others = (torch.autograd.grad(take_rows(vectors, rows), vectors, weights)[0] for _ in range(20))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(take_rows(vectors, rows), vectors[rows])
    torch.testing.assert_close(first, torch.autograd.grad(vectors[rows], vectors, weights)[0])
    assert all(torch.equal(first, other) for other in others)
