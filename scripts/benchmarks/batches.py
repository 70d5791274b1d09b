"""Training on batches of equal lengths, against random ones, transformers' grouping by length and lhotse's buckets.

Decisions:
- Whole epochs of every side would take hours, and their first batches are not like the others (one sampler puts its
  longest rows first). So batches of an epoch are drawn, each with a probability proportional to its tokens n. The mean
  of seconds / n over the draws is then an unbiased estimate of the epoch's seconds per token, because the sum over all
  batches of (n / tokens of the epoch) * (seconds / n) is the seconds of the epoch / its tokens. Long batches are drawn
  like all others, more often than by a uniform draw, and count for no more than their share.
- The draws are spread evenly over the tokens of the epoch in the order of the longest row (systematic sampling), at the
  same places for every side, since seconds per token depend on it most. Each round has its part of these places.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lengthwise.batching.collate import collate
from lengthwise.batching.sampler import LengthBatchSampler
from lengthwise.batching.stream import BUFFER_ROWS, iter_batches
from lengthwise.cli.benchmarks.corpora import load_corpus
from lengthwise.cli.benchmarks.harness import Result, alternate
from lengthwise.cli.benchmarks.learning import compare_learning
from lengthwise.cli.benchmarks.models import SHAPES, Shape
from lengthwise.tokens.ragged import RaggedTokens
from lengthwise.tokens.tokenize import tokenize_texts

MAX_TOKENS = 4_096
PLANNED_ROWS = (1_000_000, 100_000_000)
CLASSES = 45
GROUPED, LHOTSE = "transformers' LengthGroupedSampler", "lhotse's DynamicBucketingSampler"
RANDOM, PLANNED, STREAMED = "random batches", "LengthBatchSampler", "iter_batches"

Batches = list[NDArray[np.int64]]


def measure(shape_name: str, corpora: tuple[str, ...], draws: int, runs: int, seeds: int) -> Result:
    """Rates of training, padding, the time that planning takes, and what is learned.

    Args:
        shape_name: of `SHAPES`.
        corpora: as `load_corpus` knows them.
        draws: batches that each side trains on in each run.
        runs: counted runs of each side.
        seeds: of each way to batch in the comparison of what is learned; 0 leaves it out.
    """
    result = Result("batches")
    for corpus in corpora:
        _measure_training(result, SHAPES[shape_name], corpus, draws, runs)
    _measure_planning(result, PLANNED_ROWS)
    if seeds:
        compare_learning(result, seeds)
    return result


class Trainer:
    """nn.Embedding, nn.LSTM and a linear layer on the last states, trained by SGD on packed ids."""

    def __init__(self, shape: Shape, vocab_size: int, tokens: RaggedTokens) -> None:
        torch.manual_seed(0)
        directions = 2 if shape.bidirectional else 1
        self._embedding = nn.Embedding(vocab_size, shape.embedding_dim)
        self._lstm = nn.LSTM(shape.embedding_dim, shape.hidden_size, bidirectional=shape.bidirectional)
        self._head = nn.Linear(directions * shape.hidden_size, CLASSES)
        self._modules = nn.ModuleList([self._embedding, self._lstm, self._head])
        self._optimizer = torch.optim.SGD(self._modules.parameters(), 0.01)
        self._tokens = tokens

    def step(self, rows: NDArray[np.int64]) -> None:
        """Train on a batch of these rows."""
        batch = collate([(self._tokens.row(row), row % CLASSES) for row in rows.tolist()])
        ids = batch["input_ids"]
        _, (last, _) = self._lstm(ids._replace(data=self._embedding(ids.data)))
        logits = self._head(last.transpose(0, 1).flatten(1))
        nn.functional.cross_entropy(logits, batch["labels"]).backward()
        self._optimizer.step()
        self._optimizer.zero_grad()


class Side:
    """A way to batch, whose epoch is sampled.

    Args:
        batches: of one epoch.
        lengths: of all rows.
        trainer: trains on a batch.
        draws: batches per run.
        runs: counted ones; a run of one batch comes before them.

    Attributes:
        batches: as given.
        tokens: of each batch, int64[batches].
        trained: seconds and tokens of each batch of each counted run.
    """

    def __init__(
        self, batches: Batches, lengths: NDArray[np.int64], trainer: Trainer, draws: int = 1, runs: int = 1
    ) -> None:
        self.batches = batches
        self.tokens = np.array([lengths[batch].sum() for batch in batches])
        self.trained: list[list[tuple[float, int]]] = []
        longest = np.array([lengths[batch].max() for batch in batches])
        self._trainer = trainer
        self._runs = iter([[middle_batch(self.tokens, longest)], *draw_batches(self.tokens, longest, draws, runs)])
        self._is_warm = False

    def run(self) -> None:
        """Train on the batches that were drawn for the next run."""
        trained = []
        for number in next(self._runs):
            began = time.perf_counter()
            self._trainer.step(self.batches[number])
            trained.append((time.perf_counter() - began, int(self.tokens[number])))
        if self._is_warm:
            self.trained.append(trained)
        self._is_warm = True

    def seconds_per_token(self, run: int | None = None) -> float:
        """The estimate for the whole epoch, from one run or from all."""
        trained = list(chain.from_iterable(self.trained)) if run is None else self.trained[run]
        return sum(seconds / tokens for seconds, tokens in trained) / len(trained)

    def sample(self) -> str:
        """What was trained on, in words."""
        seconds, tokens = (sum(values) for values in zip(*chain.from_iterable(self.trained), strict=True))
        return f"{sum(map(len, self.trained))} batches, {tokens / self.tokens.sum():.1%} of the tokens, {seconds:.0f} s"


def draw_batches(
    tokens: NDArray[np.int64], longest: NDArray[np.int64], draws: int, runs: int, seed: int = 0
) -> list[list[int]]:
    """The batches of each run, drawn with probabilities proportional to their tokens.

    Places are spread evenly over the tokens of the epoch, its batches sorted by their longest row, from a random start;
    a run has every `runs`-th of them, in random order. A batch of many tokens may be drawn more than once.

    Args:
        tokens: of each batch of the epoch, int64[batches].
        longest: row of each batch, int64[batches].
        draws: batches per run.
        runs: their number.
        seed: the same start, runs and order for all epochs.

    Returns:
        [runs][draws], numbers of batches.
    """
    generator = np.random.default_rng(seed)
    order = np.lexsort((tokens, longest))
    ends = tokens[order].cumsum()
    places = (np.arange(draws * runs) + generator.random()) / (draws * runs) * ends[-1]
    drawn = order[np.searchsorted(ends, places, side="right")]
    return [generator.permutation(drawn[run::runs]).tolist() for run in generator.permutation(runs)]


def middle_batch(tokens: NDArray[np.int64], longest: NDArray[np.int64]) -> int:
    """The batch in the middle of the tokens of an epoch, sorted as by `draw_batches`."""
    order = np.lexsort((tokens, longest))
    return int(order[np.searchsorted(tokens[order].cumsum(), tokens.sum() / 2)])


def _measure_training(result: Result, shape: Shape, corpus: str, draws: int, runs: int) -> None:
    texts, tokenizer = load_corpus(corpus)
    ragged = tokenize_texts(texts, tokenizer)
    lengths = ragged.lengths
    trainer = Trainer(shape, tokenizer.vocab_size, ragged)
    ways: dict[str, Callable[[], Batches]] = {
        RANDOM: partial(random_batches, lengths),
        GROUPED: partial(grouped_batches, lengths),
        LHOTSE: partial(lhotse_batches, lengths),
        PLANNED: partial(planned_batches, lengths),
        STREAMED: partial(streamed_batches, ragged),
    }
    sides, missing = {}, []
    for name, way in ways.items():
        try:
            sides[name] = Side(way(), lengths, trainer, draws, runs)
        except ModuleNotFoundError as error:
            missing.append([name, f"not run: {error.name} is not installed", "", "", "", "", ""])
    alternate({name: side.run for name, side in sides.items()}, runs, f"training on {corpus}")
    rows = []
    for name, side in sides.items():
        padding, equal = _shape_of(side.batches, lengths)
        rate = f"{1 / side.seconds_per_token():,.0f}"
        faster = _ratio(sides[PLANNED], side, runs)
        rows.append([name, f"{len(side.batches):,}", f"{padding:.2%}", f"{equal:.1%}", side.sample(), rate, faster])
    columns = [
        "batches",
        "number",
        "padding",
        "tokens in equal lengths",
        "trained on",
        "tokens/s",
        "LengthBatchSampler / this",
    ]
    result.table(
        f"{shape} in training, forward and backward, {corpus} ({len(lengths):,} rows, {int(lengths.sum()):,} tokens),"
        f" {MAX_TOKENS:,} tokens per batch; ratios of all rounds (lowest to highest round)",
        columns,
        rows + missing,
    )


def _ratio(planned: Side, other: Side, runs: int) -> str:
    each = [other.seconds_per_token(run) / planned.seconds_per_token(run) for run in range(runs)]
    return f"{other.seconds_per_token() / planned.seconds_per_token():.2f} ({min(each):.2f} to {max(each):.2f})"


def planned_batches(lengths: NDArray[np.int64], max_tokens: int = MAX_TOKENS, **options: Any) -> Batches:
    """An epoch of LengthBatchSampler."""
    return [np.array(batch) for batch in LengthBatchSampler(lengths, max_tokens=max_tokens, **options)]


def random_batches(lengths: NDArray[np.int64], max_tokens: int = MAX_TOKENS, seed: int = 0) -> Batches:
    """Rows in random order, as many per batch as have so many tokens on average."""
    order = np.random.default_rng(seed).permutation(np.flatnonzero(lengths))
    size = _mean_rows(lengths, max_tokens)
    return [order[start : start + size] for start in range(0, len(order), size)]


def grouped_batches(lengths: NDArray[np.int64]) -> Batches:
    """An epoch of the sampler behind the Trainer's `group_by_length`, with as many rows per batch as random ones."""
    from transformers.trainer_pt_utils import LengthGroupedSampler

    size = _mean_rows(lengths, MAX_TOKENS)
    order = np.array(list(LengthGroupedSampler(size, lengths=lengths.tolist(), generator=torch.Generator())))
    order = order[lengths[order] > 0]
    return [order[start : start + size] for start in range(0, len(order), size)]


def lhotse_batches(lengths: NDArray[np.int64]) -> Batches:
    """An epoch of lhotse's sampler, a token taken for a second."""
    from lhotse import CutSet, MonoCut
    from lhotse.dataset import DynamicBucketingSampler

    rows = np.flatnonzero(lengths).tolist()
    cuts = CutSet.from_cuts(MonoCut(str(row), start=0, duration=float(lengths[row]), channel=0) for row in rows)
    sampler = DynamicBucketingSampler(cuts, max_duration=float(MAX_TOKENS), shuffle=True, num_buckets=30)
    return [np.array([int(cut.id) for cut in batch]) for batch in sampler]


def streamed_batches(ragged: RaggedTokens) -> Batches:
    """An epoch of iter_batches, which does not know the lengths."""
    rows = [ragged.row(row) for row in range(len(ragged))]
    stream = iter_batches(rows, max_tokens=MAX_TOKENS, buffer_rows=BUFFER_ROWS, collate_fn=_row_numbers)
    return list(stream)


def _row_numbers(samples: Iterable[Any]) -> NDArray[np.int64]:
    return np.array([sample.number for sample in samples])


def _mean_rows(lengths: NDArray[np.int64], max_tokens: int) -> int:
    return max(1, round(max_tokens / float(lengths[lengths > 0].mean())))


def _shape_of(batches: Batches, lengths: NDArray[np.int64]) -> tuple[float, float]:
    """The share of padding in the cells, and of the tokens that are in batches of one length."""
    found = [lengths[batch] for batch in batches]
    tokens = sum(int(batch.sum()) for batch in found)
    cells = sum(len(batch) * int(batch.max()) for batch in found)
    equal = sum(int(batch.sum()) for batch in found if batch.min() == batch.max())
    return 1 - tokens / cells, equal / tokens


def _measure_planning(result: Result, sizes: tuple[int, ...]) -> None:
    """Seconds and memory of planning an epoch of made-up lengths; of many windows, the first ones, which are alike."""
    rows = []
    for size in sizes:
        lengths = _made_up_lengths(size)
        for ranks in (1, 8):
            sampler = LengthBatchSampler(lengths, max_tokens=MAX_TOKENS, num_replicas=ranks)
            began = time.perf_counter()
            planned = _plan_windows(sampler)
            seconds = (time.perf_counter() - began) / planned
            memory = f"{_peak_memory(lengths, ranks):,.0f}"
            rows.append([f"{size:,}", ranks, sampler.num_windows, planned, f"{seconds:.2f}", memory])
    columns = ["lengths", "ranks", "windows", "planned", "seconds per window", "most memory beside the lengths, MB"]
    result.table("Planning an epoch", columns, rows)


def _plan_windows(sampler: LengthBatchSampler) -> int:
    """Plan at most three windows of the first epoch; their number."""
    planned = min(3, sampler.num_windows)
    for window in range(planned):
        sampler.window_plan(0, window)
    return planned


def _peak_memory(lengths: NDArray[np.integer], ranks: int) -> float:
    tracemalloc.start()
    _plan_windows(LengthBatchSampler(lengths, max_tokens=MAX_TOKENS, num_replicas=ranks))
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return peak


def _made_up_lengths(size: int) -> NDArray[np.uint16]:
    """Lengths as those of glosses, log-normal, made block by block."""
    generator, block = np.random.default_rng(0), 4_000_000
    lengths = np.empty(size, np.uint16)
    for start, stop in pairwise([*range(0, size, block), size]):
        lengths[start:stop] = generator.lognormal(2.75, 0.6, stop - start).clip(1, 500)
    return lengths
