"""Training on batches of equal lengths, against random ones, transformers' grouping by length and lhotse's buckets."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lengthwise.batching.collate import collate
from lengthwise.batching.sampler import LengthBatchSampler
from lengthwise.batching.stream import BUFFER_ROWS, iter_batches
from lengthwise.cli.benchmarks.corpora import load_corpus
from lengthwise.cli.benchmarks.harness import Result, alternate, median, ratios
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


def measure(shape_name: str, corpora: tuple[str, ...], tokens: int, runs: int, seeds: int) -> Result:
    """Rates of training, padding, the time that planning takes, and what is learned.

    Args:
        shape_name: of `SHAPES`.
        corpora: as `load_corpus` knows them.
        tokens: that each side trains on in each run.
        runs: counted runs of each side.
        seeds: of each way to batch in the comparison of what is learned; 0 leaves it out.
    """
    result = Result("batches")
    for corpus in corpora:
        _measure_training(result, SHAPES[shape_name], corpus, tokens, runs)
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


@dataclass
class Side:
    """A way to batch, run some batches at a time.

    Attributes:
        batches: of one epoch, in their order.
        lengths: of all rows.
        trainer: trains on a batch.
        trained: tokens of each run.
        place: of the next batch.
    """

    batches: Batches
    lengths: NDArray[np.int64]
    trainer: Trainer
    trained: list[int]
    place: int = 0

    def run(self, tokens: int) -> None:
        """Train on the next batches of the epoch, until there were so many tokens."""
        done = 0
        while done < tokens:
            batch = self.batches[self.place % len(self.batches)]
            self.trainer.step(batch)
            done += int(self.lengths[batch].sum())
            self.place += 1
        self.trained.append(done)


def _measure_training(result: Result, shape: Shape, corpus: str, tokens: int, runs: int) -> None:
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
            sides[name] = Side(way(), lengths, trainer, [])
        except ModuleNotFoundError as error:
            missing.append([name, f"not run: {error.name} is not installed", "", "", "", ""])
    calls = {name: partial(side.run, tokens) for name, side in sides.items()}
    seconds = alternate(calls, runs, f"training on {corpus}")
    per_token = {name: [s / n for s, n in zip(seconds[name], sides[name].trained[1:], strict=True)] for name in sides}
    rows = []
    for name, side in sides.items():
        padding, equal = _shape_of(side.batches, lengths)
        rate = f"{1 / median(per_token[name]):,.0f}"
        faster = ratios(per_token[PLANNED], per_token[name])
        rows.append([name, f"{len(side.batches):,}", f"{padding:.2%}", f"{equal:.1%}", rate, faster])
    columns = [
        "batches",
        "number",
        "padding",
        "tokens in equal lengths",
        "tokens/s",
        "LengthBatchSampler / this",
    ]
    result.table(
        f"{shape} in training, forward and backward, {corpus} ({len(lengths):,} rows, {int(lengths.sum()):,} tokens),"
        f" {MAX_TOKENS:,} tokens per batch",
        columns,
        rows + missing,
    )


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
    """Seconds and memory of planning an epoch of made-up lengths, window by window."""
    rows = []
    for size in sizes:
        lengths = _made_up_lengths(size)
        for ranks in (1, 8):
            sampler = LengthBatchSampler(lengths, max_tokens=MAX_TOKENS, num_replicas=ranks)
            began = time.perf_counter()
            batches = len(sampler)
            seconds = time.perf_counter() - began
            rows.append([f"{size:,}", ranks, f"{batches:,}", f"{seconds:.2f}", f"{_peak_memory(lengths, ranks):,.0f}"])
    columns = ["lengths", "ranks", "batches", "seconds", "most memory beside the lengths, MB"]
    result.table("Planning an epoch", columns, rows)


def _peak_memory(lengths: NDArray[np.integer], ranks: int) -> float:
    """Of the first windows, which are as large as any."""
    tracemalloc.start()
    sampler = LengthBatchSampler(lengths, max_tokens=MAX_TOKENS, num_replicas=ranks)
    for window in range(min(3, sampler.num_windows)):
        sampler.window_plan(0, window)
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
