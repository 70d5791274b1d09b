"""What is learned from each kind of source: the loss of its next batch, and its loss on the held-out rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from lengthwise.batching.sampler import LengthBatchSampler
from lengthwise.encoder.model import PackedEncoder
from lengthwise.errors import ConfigError
from lengthwise.tokens.ragged import RaggedTokens, concatenate_tokens
from lengthwise.train_config import TrainSettings
from lengthwise.training.batches import BatchRunner
from lengthwise.training.examples import Examples
from lengthwise.training.losses import (
    VECTOR_LOSSES,
    contrastive_loss,
    supervised_contrastive_loss,
    take_rows,
    triplet_loss,
)
from lengthwise.training.sampling import GroupSampler, LengthSampler, RowSampler, source_seed


class GroupRunner(Protocol):
    """What gives the vectors of a group of rows: a `BatchRunner`, or a part of an encoder.

    Attributes:
        device: where the vectors are.
    """

    @property
    def device(self) -> torch.device: ...  # noqa: D102

    def group(self, tokens: RaggedTokens, rows: NDArray[np.int64]) -> Tensor:
        """Vectors of rows: float32[rows, dim], with gradients."""


class Learner(Protocol):
    """A source in training.

    Attributes:
        name: of the source.
        weight: factor of its loss.
        share: its part of the steps.
        sampler: gives its batches.
        head: weights of its own beside the encoder's, which are dropped at the end; None where it has none.
        accuracy: of the head on the held-out rows in the last validation; None without classes.
    """

    name: str
    weight: float
    share: float

    @property
    def accuracy(self) -> float | None: ...  # noqa: D102
    @property
    def sampler(self) -> RowSampler: ...  # noqa: D102
    @property
    def head(self) -> nn.Module | None: ...  # noqa: D102

    def next_parts(self, count: int) -> list[NDArray[np.int64]]:
        """The rows of the next batch, in up to `count` parts whose losses sum to that of the batch."""

    def loss(self, runner: BatchRunner, rows: NDArray[np.int64]) -> Tensor:
        """The loss of a part, a scalar with gradients, without the source's weight."""

    def validation_loss(self, runner: BatchRunner) -> float | None:
        """The mean loss of the held-out rows; None where there are none."""


class TextLearner:
    """Texts, each with a vector or a class as its target."""

    def __init__(self, examples: Examples, number: int, dim: int, settings: TrainSettings, runner: BatchRunner) -> None:
        """Plan the batches.

        Args:
            dim: the width of the encoder's vectors.
        """
        source = examples.settings
        self.name, self.weight, self.share = examples.name, source.weight, source.share
        self._tokens, self._train, self._held_out = examples.sides[0], examples.train, examples.held_out
        if examples.targets is None:
            raise ValueError(f"source {examples.name} has no targets")
        self._targets, self._objective, self._temperature = examples.targets, source.objective, source.temperature
        self._costs, self._lengths = runner.costs.with_limits(source.max_tokens), examples.sides[0].lengths
        self.sampler = LengthSampler(
            LengthBatchSampler(
                self._lengths[self._train],
                max_tokens=self._costs.max_tokens,
                batch_size=self._costs.max_rows,
                seed=source_seed(settings.seed, number),
                noise=settings.noise,
                costs=self._costs,
            )
        )
        self.head: nn.Module | None = None
        self.accuracy: float | None = None
        if self._objective == "cross_entropy":
            self.head = nn.Linear(dim, len(examples.classes)).to(runner.device)
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def next_parts(self, count: int) -> list[NDArray[np.int64]]:
        """The rows of the next batch; a loss that compares rows with each other needs all of them at once."""
        rows = self._train[self.sampler.next()]
        is_whole = self._objective == "contrastive"
        return [rows] if is_whole else np.array_split(rows, min(count, len(rows)))

    def loss(self, runner: BatchRunner, rows: NDArray[np.int64]) -> Tensor:
        """Every row has the same weight, however many rows its batch has."""
        return self._batch_loss(runner, rows) * (len(rows) / self.sampler.mean_rows)

    def validation_loss(self, runner: BatchRunner) -> float | None:
        """The mean over the held-out rows."""
        if not len(self._held_out):
            return None
        sampler = LengthBatchSampler(
            self._lengths[self._held_out],
            max_tokens=self._costs.max_tokens,
            batch_size=self._costs.max_rows,
            shuffle=False,
            costs=self._costs,
        )
        total, hits = 0.0, 0
        for batch in sampler:
            vectors, targets = self._vectors_and_targets(runner, self._held_out[np.array(batch, np.int64)])
            total += float(self._loss(vectors, targets)) * len(batch)
            if self.head is not None:
                hits += int((self.head(vectors).argmax(dim=1) == targets).sum())
        self.accuracy = None if self.head is None else hits / len(self._held_out)
        return total / len(self._held_out)

    def _batch_loss(self, runner: BatchRunner, rows: NDArray[np.int64]) -> Tensor:
        return self._loss(*self._vectors_and_targets(runner, rows))

    def _vectors_and_targets(self, runner: BatchRunner, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        targets = torch.from_numpy(np.ascontiguousarray(self._targets(rows))).to(runner.device)
        return runner.rows(self._tokens, rows), targets

    def _loss(self, vectors: Tensor, targets: Tensor) -> Tensor:
        if self._objective in VECTOR_LOSSES:
            return VECTOR_LOSSES[self._objective](vectors, targets)
        if self.head is not None:
            return functional.cross_entropy(self.head(vectors), targets)
        return supervised_contrastive_loss(vectors, targets, self._temperature)


class PairLearner:
    """Pairs of texts, compared with the other pairs of their group and with texts that are no match."""

    head: None = None
    accuracy: None = None

    def __init__(self, examples: Examples, number: int, settings: TrainSettings, group: int | None = None) -> None:
        """Number the distinct texts of all sides.

        Args:
            group: pairs of a group; the source's setting if None.

        Raises:
            ConfigError: there are too few pairs to compare.
        """
        source = examples.settings
        self.name, self.weight, self.share = examples.name, source.weight, source.share
        self._train, self._held_out, self._source = examples.train, examples.held_out, source
        if len(self._train) < 2:
            raise ConfigError(
                f"train.sources.{self.name} has {len(self._train)} pairs; a contrastive loss compares two"
            )
        self._tokens = concatenate_tokens(examples.sides)
        self._first, same_as = self._tokens.distinct_rows()
        self._texts = same_as.reshape(len(examples.sides), -1)  # the distinct text of each side and row
        self._is_there = np.stack([side.lengths > 0 for side in examples.sides])
        lengths = np.stack([side.lengths[self._train] for side in examples.sides])
        kinds = None if examples.kinds is None else examples.kinds[self._train]
        seed = source_seed(settings.seed, number)
        self.sampler = GroupSampler(lengths, group or source.group, seed, source.window, kinds)

    def next_parts(self, count: int) -> list[NDArray[np.int64]]:
        """The next group, whole."""
        return [self._train[self.sampler.next()]]

    def loss(self, runner: GroupRunner, rows: NDArray[np.int64]) -> Tensor:
        """The loss of a group."""
        return self._group_loss(runner, rows)

    def validation_loss(self, runner: BatchRunner) -> float | None:
        """The mean over the held-out pairs, in groups that are the same each time; None for a single pair."""
        total, count = 0.0, 0
        for rows in self._held_out_groups():
            total, count = total + float(self._group_loss(runner, rows)) * len(rows), count + len(rows)
        return total / count if count else None

    def _held_out_groups(self) -> Iterator[NDArray[np.int64]]:
        for start in range(0, len(self._held_out), self._source.group):
            rows = self._held_out[start : start + self._source.group]
            if len(rows) > 1:
                yield rows

    def _group_loss(self, runner: GroupRunner, rows: NDArray[np.int64]) -> Tensor:
        anchors, positives = self._texts[0][rows], self._texts[1][rows]
        there = [np.flatnonzero(side[rows]) for side in self._is_there[2:]]  # places in the group
        negatives = [texts[rows[places]] for texts, places in zip(self._texts[2:], there, strict=True)]
        candidates = np.concatenate([positives, *negatives])
        distinct, places = np.unique(np.concatenate([anchors, candidates]), return_inverse=True)
        vectors = runner.group(self._tokens, self._first[distinct])
        where = torch.from_numpy(places).to(runner.device)
        left_out = (candidates == anchors[:, None]) | (candidates == positives[:, None])
        if not self._source.in_batch_negatives:
            left_out[:, : len(rows)] = True
        if self._source.negatives == "own":
            owners = np.concatenate([np.empty(0, np.int64), *there])
            left_out[:, len(rows) :] |= owners != np.arange(len(rows))[:, None]
        ignored = torch.from_numpy(left_out).to(runner.device)
        first, second = take_rows(vectors, where[: len(rows)]), take_rows(vectors, where[len(rows) :])
        if self._source.objective == "triplet":
            return triplet_loss(first, second, ignored, self._source.margin)
        return contrastive_loss(first, second, ignored, self._source.temperature, self._source.symmetric)


def make_learner(
    examples: Examples, number: int, encoder: PackedEncoder, settings: TrainSettings, runner: BatchRunner
) -> TextLearner | PairLearner:
    """The learner of a source."""
    if examples.settings.kind == "pairs":
        return PairLearner(examples, number, settings)
    return TextLearner(examples, number, encoder.config.dim, settings, runner)
