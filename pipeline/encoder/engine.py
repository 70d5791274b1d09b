"""Encodes texts through an engine: tokenize, plan batches, run them, return the vectors in the rows' order.

`Engine` is the protocol of an object that maps a right-padded batch of ids to vectors. PyTorch and an exported model
get the same batches through it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from lengthwise.batching.costs import BatchCosts
from lengthwise.batching.plan import BatchPlan, PlanReport, plan_batches, report_plan
from lengthwise.config import BatchingSettings, EncoderConfig, TokenizationSettings
from lengthwise.encoder.classify import LabelClassifier
from lengthwise.encoder.padding import is_cut, read_lengths
from lengthwise.errors import BadRowsError
from lengthwise.tokens.ragged import RaggedTokens
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.tokens.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from lengthwise.encoder.sharing import PrefixSharing, SharingPlan

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
        sharing: how the rows of a shard share steps, if they can; the vectors are the same.
        classifier: from vectors to labels; None if the encoder has none.
        batch_invariant: whether a row's vector has the same bits in any batch, so that it can stand for the row
            elsewhere.
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
    @property
    def sharing(self) -> PrefixSharing | None: ...  # noqa: D102
    @property
    def classifier(self) -> LabelClassifier | None: ...  # noqa: D102
    @property
    def batch_invariant(self) -> bool: ...  # noqa: D102

    def encode_batch(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        """int64[batch, sequence], right-padded, and int64[batch], from 1 to sequence, to float32[batch, dim]."""

    def run_all(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Map `function` over items, in their order, as many at a time as the engine works best with."""


@dataclass(frozen=True, eq=False)
class PlannedTokens:
    """Rows and their batches, ready for an engine.

    Attributes:
        tokens: the rows; those that the encoder cuts are marked as truncated.
        first: int64[distinct], the first row of each sequence of ids.
        same_as: int64[rows], index into `first` of the row that each row equals.
        plan: batches of indices into `first`.
        report: size and cost of the plan.
        shared: which rows share steps, if that saves enough of them.
    """

    tokens: RaggedTokens
    first: NDArray[np.int64]
    same_as: NDArray[np.int64]
    plan: BatchPlan
    report: PlanReport
    shared: SharingPlan | None = None


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
    if engine.config.padding is not None:
        tokens = replace(tokens, truncated=tokens.truncated | is_cut(tokens.lengths, engine.config))
    first, same_as = tokens.distinct_rows()
    lengths = read_lengths(tokens.lengths[first], engine.config)
    costs = engine.costs.with_limits(batching.max_tokens, batching.max_rows)
    plan = plan_batches(lengths, costs)
    shared = None if engine.sharing is None else engine.sharing.plan(tokens, first, costs)
    return PlannedTokens(tokens, first, same_as, plan, report_plan(lengths, plan, costs), shared)


def encode_planned(planned: PlannedTokens, engine: Engine, progress: Progress | None = None) -> NDArray[np.float32]:
    """The second half of `encode_tokens`: float32[rows, dim]."""
    tokens, first, same_as = planned.tokens, planned.first, planned.same_as
    vectors = np.zeros((len(tokens), engine.config.dim), np.float32)
    counts = np.bincount(same_as, minlength=len(first))
    if planned.shared is None:
        parts = _encode_by_batch(planned, engine, vectors)
    else:
        parts = _encode_shared(planned, planned.shared, engine, vectors)
    done = _Counter(progress, first, counts, tokens.lengths)
    done.add(first[tokens.lengths[first] == 0])
    for rows, share in parts:
        done.add(rows, share)
    repeated = np.flatnonzero(first[same_as] != np.arange(len(tokens)))
    vectors[repeated] = vectors[first[same_as[repeated]]]
    return vectors


def _encode_by_batch(
    planned: PlannedTokens, engine: Engine, vectors: NDArray[np.float32]
) -> Iterator[tuple[NDArray[np.int64], float]]:
    """Write the vectors of distinct rows; rows that are done, batch by batch."""

    def encode_rows(batch: NDArray[np.int64]) -> NDArray[np.int64]:
        rows = planned.first[batch]
        vectors[rows] = engine.encode_batch(*planned.tokens.pad_rows(rows, engine.config.pad_token_id))
        return rows

    return ((rows, 1.0) for rows in engine.run_all(encode_rows, planned.plan))


def _encode_shared(
    planned: PlannedTokens, shared: SharingPlan, engine: Engine, vectors: NDArray[np.float32]
) -> Iterator[tuple[NDArray[np.int64], float]]:
    """The same, where rows share steps; rows, and the share of their work that is done."""
    config = engine.config
    in_place = config.dim == config.pooled_dim
    pooled = vectors if in_place else np.empty((len(vectors), config.pooled_dim), np.float32)

    def finish_rows(batch: NDArray[np.int64]) -> None:
        rows = planned.first[batch]
        vectors[rows] = shared.finish(pooled[rows], *planned.tokens.pad_rows(rows, config.pad_token_id))

    for rows in engine.run_all(lambda task: task(), shared.pooling_tasks(pooled)):
        yield rows, 1 / config.directions
    for _ in engine.run_all(finish_rows, planned.plan):
        pass


class _Counter:
    """Counts rows and tokens that are done, equal rows included, and reports them."""

    def __init__(
        self,
        progress: Progress | None,
        first: NDArray[np.int64],
        counts: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> None:
        self._progress = progress
        self._counts = np.zeros(len(lengths), np.int64)
        self._counts[first] = counts
        self._tokens = self._counts * lengths
        self._done, self._reported = np.zeros(2), np.zeros(2, np.int64)

    def add(self, rows: NDArray[np.int64], share: float = 1.0) -> None:
        """Report what this share of the rows' work adds, in whole rows and tokens."""
        if self._progress is None:
            return
        self._done += share * self._counts[rows].sum(), share * self._tokens[rows].sum()
        new = self._done.astype(np.int64) - self._reported
        self._reported += new
        self._progress(*new.tolist())


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
