"""The embedding moves by the rows of a step alone, everything else as by AdamW, and one norm clips both."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lengthwise.train_config import TrainSettings
from lengthwise.training.optimizer import WeightOptimizer

ROWS, WIDTH = 7, 4


def make(**settings: Any) -> tuple[dict[str, nn.Parameter], WeightOptimizer]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"embedding.weight": (ROWS, WIDTH), "lstm.weight": (WIDTH, WIDTH), "lstm.bias": (WIDTH,)}
    weights = {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}
    values = {"learning_rate": 0.01, "embedding_learning_rate": 0.02, "clip_norm": None, **settings}
    return weights, WeightOptimizer(weights, TrainSettings.model_validate(values))


def set_gradients(weights: dict[str, nn.Parameter], seed: int, rows: Tensor) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, weight in weights.items():
        gradient = torch.randn(weight.shape, generator=generator)
        if name == "embedding.weight":
            values = torch.randn(len(rows), WIDTH, generator=generator)
            gradient = torch.sparse_coo_tensor(rows[None], values, weight.shape, check_invariants=True)
        weight.grad = gradient


def test_every_row_touched_moves_as_by_adam_over_the_whole_table() -> None:
    weights, optimizer = make()
    dense, _ = make()
    adam = torch.optim.AdamW(
        [{"params": [dense["embedding.weight"]], "lr": 0.02}, {"params": [dense["lstm.weight"], dense["lstm.bias"]]}],
        lr=0.01,
        betas=(0.9, 0.98),
        weight_decay=0.0,
    )
    rows = torch.cat([torch.arange(ROWS), torch.tensor([2, 2, 5])])  # some twice
    for step in range(20):
        set_gradients(weights, step, rows)
        set_gradients(dense, step, rows)
        dense["embedding.weight"].grad = dense["embedding.weight"].grad.to_dense()  # type: ignore[union-attr]
        optimizer.step(1.0)
        adam.step()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, dense[name], rtol=1e-4, atol=1e-5)


def test_a_row_without_a_gradient_stays() -> None:
    weights, optimizer = make()
    set_gradients(weights, 0, torch.arange(ROWS))
    optimizer.step(1.0)  # every row has moments now
    before = weights["embedding.weight"].detach().clone()
    set_gradients(weights, 1, torch.tensor([4, 1, 4]))
    optimizer.step(1.0)
    moved = (weights["embedding.weight"] != before).any(dim=1)
    assert moved.nonzero().ravel().tolist() == [1, 4]


def test_gradients_are_clipped_by_the_norm_of_all_of_them() -> None:
    weights, optimizer = make(clip_norm=0.5)
    free, unclipped = make()
    rows = torch.tensor([3, 3, 0])
    set_gradients(weights, 0, rows)
    set_gradients(free, 0, rows)
    gradients = {name: weight.grad for name, weight in free.items() if weight.grad is not None}
    norm = math.sqrt(sum(float(each.to_dense().square().sum()) for each in gradients.values()))
    for name, gradient in gradients.items():  # what clipping has to give
        free[name].grad = gradient * (0.5 / (norm + 1e-6))
    assert optimizer.step(1.0) == pytest.approx(norm)
    assert unclipped.step(1.0) == pytest.approx(0.5)
    for name, weight in weights.items():
        torch.testing.assert_close(weight, free[name])
        assert weight.grad is None


def test_the_learning_rates_follow_the_factor() -> None:
    weights, optimizer = make()
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    set_gradients(weights, 0, torch.arange(ROWS))
    optimizer.step(0.5)
    assert optimizer.learning_rate == pytest.approx(0.005)
    for name, weight in weights.items():  # Adam's first step has the length of the learning rate
        expected = 0.01 if name == "embedding.weight" else 0.005
        torch.testing.assert_close((weight - before[name]).abs(), torch.full_like(weight, expected), rtol=1e-3, atol=0)


def test_a_gradient_that_is_no_number_moves_nothing() -> None:
    weights, optimizer = make(clip_norm=1.0)
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    set_gradients(weights, 0, torch.arange(ROWS))
    weights["lstm.bias"].grad = torch.full_like(weights["lstm.bias"], math.nan)
    assert math.isnan(optimizer.step(1.0))
    for name, weight in weights.items():
        assert torch.equal(weight, before[name])


def test_weights_that_are_not_decayed_are_embedding_and_biases() -> None:
    weights, optimizer = make(weight_decay=0.1)
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    for weight in weights.values():
        weight.grad = torch.zeros_like(weight)
    weights["embedding.weight"].grad = torch.zeros(ROWS, WIDTH).to_sparse(1)
    optimizer.step(1.0)
    assert torch.equal(weights["embedding.weight"], before["embedding.weight"])
    assert torch.equal(weights["lstm.bias"], before["lstm.bias"])
    torch.testing.assert_close(weights["lstm.weight"], before["lstm.weight"] * (1 - 0.01 * 0.1))


def test_it_goes_on_from_its_state_to_the_same_bytes() -> None:
    weights, optimizer = make(clip_norm=1.0)
    for step in range(3):
        set_gradients(weights, step, torch.tensor([step, 5]))
        optimizer.step(1.0)
    again, resumed = make(clip_norm=1.0)
    for name, weight in weights.items():
        again[name].data.copy_(weight.data)
    resumed.load_state_dict({name: value.clone() for name, value in optimizer.state_dict().items()})
    for each, way in ((weights, optimizer), (again, resumed)):
        set_gradients(each, 3, torch.tensor([6, 1]))
        way.step(0.7)
    for name, weight in weights.items():
        assert torch.equal(weight, again[name])


def test_without_an_embedding_the_others_are_moved() -> None:
    weights, _ = make()
    del weights["embedding.weight"]
    optimizer = WeightOptimizer(weights, TrainSettings())
    before = weights["lstm.bias"].detach().clone()
    for weight in weights.values():
        weight.grad = torch.ones_like(weight)
    optimizer.step(1.0)
    assert not torch.equal(weights["lstm.bias"], before)
