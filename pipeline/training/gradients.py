"""Gradients of the parts of a step, in several threads.

On a CPU every thread runs batches by itself, which keeps the processor busier than threads that share each product. A
batch of texts is cut into a part per thread. A loss that compares rows with each other needs the vectors of all of
them: the batches of such a group go forward in the threads, the loss gives the gradient by their vectors, and then they
go backward in the threads.

Gradients are summed in the order of the parts, whichever thread is done first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from functools import partial
from itertools import chain, repeat

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lengthwise.tokens.ragged import RaggedTokens
from lengthwise.training.batches import BatchRunner
from lengthwise.training.learners import Learner, PairLearner

_Gradients = tuple[Tensor | None, ...]  # by every weight; None for a weight that has no part in a loss
_Found = tuple[float, _Gradients]


def prepare_thread() -> None:
    """Settings of PyTorch that each thread has for itself."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


class StepGradients:
    """Computes the losses of batches with their gradients."""

    def __init__(self, runner: BatchRunner, weights: Iterable[nn.Parameter], pool: Executor, threads: int) -> None:
        """Compute by weights, in a pool of so many threads."""
        self._runner, self._weights, self._pool, self._threads = runner, list(weights), pool, threads

    def add(self, learners: Sequence[Learner], scale: float) -> list[float]:
        """Add the gradients of every learner's next batch to those of the weights.

        Args:
            scale: factor of all losses, beside their sources' weights.

        Returns:
            The learners' losses, without factors. Where one is no number, gradients are none either.
        """
        # Texts are begun first. They keep the threads busy while the loss of a group is computed.
        texts_first = sorted(range(len(learners)), key=lambda number: isinstance(learners[number], PairLearner))
        found = {number: self._begin(learners[number], scale) for number in texts_first}
        return [self._sum(found[number]) for number in range(len(learners))]

    def _begin(self, learner: Learner, scale: float) -> Iterable[_Found]:
        """The losses and gradients of the parts of a learner's next batch."""
        parts = learner.next_parts(self._threads)
        if isinstance(learner, PairLearner):
            return self._of_group(learner, parts[0], scale)
        return self._pool.map(lambda rows: self._of_part(learner, rows, scale), parts)

    def _sum(self, found: Iterable[_Found]) -> float:
        """Add gradients to those of the weights, and give the sum of the losses."""
        total = 0.0
        for loss, gradients in found:
            total += loss
            for weight, gradient in zip(self._weights, gradients, strict=True):
                if gradient is not None:
                    weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)
        return total

    def _of_part(self, learner: Learner, rows: NDArray[np.int64], scale: float) -> _Found:
        loss = learner.loss(self._runner, rows)
        weighted = loss * (learner.weight * scale)
        return float(loss.detach()), torch.autograd.grad(weighted, self._weights, allow_unused=True)

    def _of_group(self, learner: PairLearner, rows: NDArray[np.int64], scale: float) -> Iterator[_Found]:
        group = _ThreadedGroup(self._runner, self._pool)
        loss = learner.loss(group, rows)
        weighted = loss * (learner.weight * scale)
        by_vectors = torch.autograd.grad(weighted, group.vectors)
        gradients = self._pool.map(self._backward, group.batches, by_vectors)
        return zip(chain([float(loss.detach())], repeat(0.0)), gradients, strict=False)

    def _backward(self, vectors: Tensor, by_vectors: Tensor) -> _Gradients:
        return torch.autograd.grad(vectors, self._weights, by_vectors, allow_unused=True)


class _ThreadedGroup:
    """Runs the batches of one group in threads, in place of a `BatchRunner`.

    Attributes:
        device: where the vectors are.
        batches: the vectors of each batch, float32[rows, dim], with their graphs.
        vectors: the same without, which the loss is computed from.
    """

    def __init__(self, runner: BatchRunner, pool: Executor) -> None:
        self._runner, self._pool, self.device = runner, pool, runner.device
        self.batches: list[Tensor] = []
        self.vectors: list[Tensor] = []

    def group(self, tokens: RaggedTokens, rows: NDArray[np.int64]) -> Tensor:
        """Vectors of rows: float32[rows, dim]."""
        cut = self._runner.cut(tokens, rows)
        self.batches = list(self._pool.map(partial(self._runner.rows, tokens), cut.batches))
        self.vectors = [vectors.detach().requires_grad_() for vectors in self.batches]
        return cut.join(self.vectors)
