"""Texts to vectors through an engine.

An engine is whatever turns a right-padded batch of ids into vectors (`Engine`); nothing here knows which one it
is, so the same plan, order and files come out of PyTorch and of an exported model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from lengthwise.batching.plan import BatchCosts, BatchPlan, PlanReport, plan_batches, report_plan
from lengthwise.config import BatchingSettings, EncoderConfig, TokenizationSettings
from lengthwise.errors import TextError
from lengthwise.tokens.ragged import RaggedTokens, tokenize_texts
from lengthwise.tokens.tokenizer import TextTokenizer

T = TypeVar("T")
R = TypeVar("R")
Progress = Callable[[int, int], object]  # is called with rows and their tokens


class Engine(Protocol):
    """What turns batches of ids into vectors.

    Attributes:
        name: part of a run's identity.
        config: the encoder's.
        costs: what batches cost it; plans are made by them.
        reference: the same encoder in float32 where this one computes in less, else None.
        fingerprint: sha256 (hex) of the encoder's weights; part of a run's identity.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def config(self) -> EncoderConfig: ...  # noqa: D102
    @property
    def costs(self) -> BatchCosts: ...  # noqa: D102
    @property
    def reference(self) -> Engine | None: ...  # noqa: D102
    @property
    def fingerprint(self) -> str: ...  # noqa: D102

    def encode_batch(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        """int64[batch, sequence], right-padded, and int64[batch], from 1 to sequence, to float32[batch, dim]."""

    def run_all(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """`function` of each item, in the items' order, as many at a time as the engine works best with."""


@dataclass(frozen=True, eq=False)
class PlannedTokens:
    """A shard's rows, and what can be known of them before an engine sees them.

    Attributes:
        tokens: the rows.
        first: int64[distinct], the first row of each sequence of ids.
        same_as: int64[rows], which of these each row equals.
        plan: batches of them, by their place in `first`.
        report: what the batches cost.
    """

    tokens: RaggedTokens
    first: NDArray[np.int64]
    same_as: NDArray[np.int64]
    plan: BatchPlan
    report: PlanReport


def encode_tokens(
    tokens: RaggedTokens,
    engine: Engine,
    batching: BatchingSettings = BatchingSettings(),
    progress: Progress | None = None,
    first_row: int = 0,
) -> tuple[NDArray[np.float32], PlanReport]:
    """Vectors of a shard's rows, in the shard's order. Rows of the same ids are computed once.

    Args:
        progress: is told of every row that is done, and how many tokens it had.
        first_row: the dataset's row number of the shard's first row, for messages.

    Returns:
        float32[rows, dim], zeros for rows of no tokens, and what the batches cost.

    Raises:
        TextError: an id has no row in the embedding table.
    """
    planned = plan_tokens(tokens, engine, batching, first_row)
    return encode_planned(planned, engine, progress), planned.report


def plan_tokens(
    tokens: RaggedTokens, engine: Engine, batching: BatchingSettings = BatchingSettings(), first_row: int = 0
) -> PlannedTokens:
    """The part of `encode_tokens` that the engine is not needed for, which can be done ahead in another thread.

    Raises:
        TextError: an id has no row in the embedding table.
    """
    _check_ids(tokens, engine.config.vocab_size, first_row)
    first, same_as = tokens.distinct_rows()
    lengths, costs = tokens.lengths[first], engine.costs.within(batching)
    plan = plan_batches(lengths, costs)
    return PlannedTokens(tokens, first, same_as, plan, report_plan(lengths, plan, costs))


def encode_planned(planned: PlannedTokens, engine: Engine, progress: Progress | None = None) -> NDArray[np.float32]:
    """The rest of `encode_tokens`: float32[rows, dim]."""
    tokens, first, same_as = planned.tokens, planned.first, planned.same_as
    vectors = np.zeros((len(tokens), engine.config.dim), np.float32)

    def encode_rows(batch: NDArray[np.int64]) -> NDArray[np.int64]:
        rows = first[batch]
        vectors[rows] = engine.encode_batch(*tokens.gather(rows, engine.config.pad_token_id))
        return batch

    lengths, times = tokens.lengths[first], np.bincount(same_as, minlength=len(first))
    their_tokens = times * lengths
    for batch in chain([np.flatnonzero(lengths == 0)], engine.run_all(encode_rows, planned.plan)):
        if progress is not None:
            progress(int(times[batch].sum()), int(their_tokens[batch].sum()))
    repeated = np.flatnonzero(first[same_as] != np.arange(len(tokens)))
    vectors[repeated] = vectors[first[same_as[repeated]]]
    return vectors


def encode_texts(
    texts: Sequence[str],
    tokenizer: TextTokenizer,
    engine: Engine,
    batching: BatchingSettings = BatchingSettings(),
    tokenization: TokenizationSettings | None = None,
) -> NDArray[np.float32]:
    """Vectors of texts in memory: float32[texts, dim], in their order; zeros for a text of no tokens.

    Args:
        tokenization: other settings than the model's own, `engine.config.tokenization`.

    Raises:
        TextError: a text is not Unicode, too long, or refused by the tokenizer.
    """
    tokens = tokenize_texts(texts, tokenizer, tokenization or engine.config.tokenization)
    return encode_tokens(tokens, engine, batching)[0]


def _check_ids(tokens: RaggedTokens, vocab_size: int, first_row: int) -> None:
    if len(tokens.values) and int(tokens.values.max()) >= vocab_size:
        position = int(np.argmax(tokens.values >= vocab_size))
        row = int(np.searchsorted(tokens.offsets, position, side="right")) - 1
        raise TextError(
            f"row {first_row + row} has the id {int(tokens.values[position])}, but the encoder's vocabulary ends at"
            f" {vocab_size - 1}; use the tokenizer that the encoder was trained with"
        )
