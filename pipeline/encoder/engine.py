"""Encodes texts through an engine: tokenize, plan batches, run them, return the vectors in the rows' order.

`Engine` is the protocol of an object that maps a right-padded batch of ids to vectors. PyTorch and an exported model
get the same batches through it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from lengthwise.batching.costs import BatchCosts
from lengthwise.batching.plan import BatchPlan, PlanReport, plan_batches, report_plan
from lengthwise.config import BatchingSettings, EncoderConfig, TokenizationSettings
from lengthwise.errors import BadRowsError
from lengthwise.tokens.ragged import RaggedTokens
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.tokens.tokenizer import TextTokenizer

T = TypeVar("T")
R = TypeVar("R")
Progress = Callable[[int, int], object]  # called with the numbers of rows and tokens that were encoded


class Engine(Protocol):
    """Maps batches of ids to vectors.

    Attributes:
        name: device, precision or graph; part of a run's identity.
        config: of the encoder.
        costs: of its batches; plans minimise them.
        reference: the same encoder in float32 where this engine has a lower precision, else None.
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
        """Map `function` over items, in their order, as many at a time as the engine works best with."""


@dataclass(frozen=True, eq=False)
class PlannedTokens:
    """Rows and their batches, ready for an engine.

    Attributes:
        tokens: the rows.
        first: int64[distinct], the first row of each sequence of ids.
        same_as: int64[rows], index into `first` of the row that each row equals.
        plan: batches of indices into `first`.
        report: size and cost of the plan.
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
) -> tuple[NDArray[np.float32], PlanReport]:
    """Vectors of rows of ids, in input order; rows of the same ids are computed once.

    Args:
        progress: called after each batch.

    Returns:
        float32[rows, dim], zeros for rows without tokens, and the report of the plan.

    Raises:
        BadRowsError: an id has no row in the embedding table.
    """
    planned = plan_tokens(tokens, engine, batching)
    return encode_planned(planned, engine, progress), planned.report


def plan_tokens(tokens: RaggedTokens, engine: Engine, batching: BatchingSettings = BatchingSettings()) -> PlannedTokens:
    """The first half of `encode_tokens`, which can run in another thread while the engine works.

    Raises:
        BadRowsError: an id has no row in the embedding table.
    """
    _check_ids(tokens, engine.config.vocab_size)
    first, same_as = tokens.distinct_rows()
    lengths, costs = tokens.lengths[first], engine.costs.with_limits(batching.max_tokens, batching.max_rows)
    plan = plan_batches(lengths, costs)
    return PlannedTokens(tokens, first, same_as, plan, report_plan(lengths, plan, costs))


def encode_planned(planned: PlannedTokens, engine: Engine, progress: Progress | None = None) -> NDArray[np.float32]:
    """The second half of `encode_tokens`: float32[rows, dim]."""
    tokens, first, same_as = planned.tokens, planned.first, planned.same_as
    vectors = np.zeros((len(tokens), engine.config.dim), np.float32)

    def encode_rows(batch: NDArray[np.int64]) -> NDArray[np.int64]:
        rows = first[batch]
        vectors[rows] = engine.encode_batch(*tokens.pad_rows(rows, engine.config.pad_token_id))
        return batch

    lengths, counts = tokens.lengths[first], np.bincount(same_as, minlength=len(first))
    token_counts = counts * lengths
    for batch in chain([np.flatnonzero(lengths == 0)], engine.run_all(encode_rows, planned.plan)):
        if progress is not None:
            progress(int(counts[batch].sum()), int(token_counts[batch].sum()))
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
    """Vectors of texts in memory: float32[texts, dim], in input order; zeros for a text without tokens.

    Args:
        tokenization: settings to use in place of the model's, `engine.config.tokenization`.

    Raises:
        BadRowsError: a text is not Unicode, too long, or refused by the tokenizer.
    """
    tokens = tokenize_texts(texts, tokenizer, tokenization or engine.config.tokenization)
    return encode_tokens(tokens, engine, batching)[0]


def _check_ids(tokens: RaggedTokens, vocab_size: int) -> None:
    if not len(tokens.values) or int(tokens.values.max()) < vocab_size:
        return
    positions = np.flatnonzero(tokens.values >= vocab_size)
    rows, first = np.unique(np.searchsorted(tokens.offsets, positions, side="right") - 1, return_index=True)
    raise BadRowsError(
        "have ids that the encoder does not",
        {int(row): f"the id {tokens.values[positions[at]]}" for row, at in zip(rows, first, strict=True)},
        f"its vocabulary ends at {vocab_size - 1}: use the tokenizer that it was trained with",
    )
