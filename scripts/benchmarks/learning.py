"""What is learned from batches of equal lengths, against random ones: WordNet's lexicographer files from glosses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from lengthwise.batching.collate import collate
from lengthwise.batching.sampler import LengthBatchSampler
from lengthwise.cli.benchmarks.corpora import load_labelled_glosses
from lengthwise.cli.benchmarks.harness import Result
from lengthwise.config import TokenizerTraining
from lengthwise.tokens.ragged import RaggedTokens
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.tokens.training import train_tokenizer

TRAINING_ROWS, TEST_ROWS, EPOCHS, MAX_TOKENS, CLASSES = 10_000, 4_000, 3, 2_048, 45


@dataclass(frozen=True)
class BatchingStrategy:
    """How to batch the training rows.

    Attributes:
        noise: of LengthBatchSampler; None for random batches, as many per epoch.
        equal_rows: whether batches have a number of rows instead of tokens, that of random batches.
        weight_rows: whether a batch's loss is weighted by its number of rows, so that every row counts the same.
    """

    noise: float | None = 0.0
    equal_rows: bool = False
    weight_rows: bool = False


STRATEGIES = {
    "random": BatchingStrategy(None),
    "LengthBatchSampler, max_tokens": BatchingStrategy(),
    "the same, noise 0.1": BatchingStrategy(0.1),
    "the same, noise 0.3": BatchingStrategy(0.3),
    "the same, loss weighted by rows": BatchingStrategy(weight_rows=True),
    "LengthBatchSampler, batch_size": BatchingStrategy(equal_rows=True),
}


@dataclass(frozen=True)
class Task:
    """Glosses and the lexicographer file of each; the first rows are trained on, the others tested on."""

    tokens: RaggedTokens
    labels: NDArray[np.int64]
    vocab_size: int


def compare_learning(result: Result, seeds: int) -> None:
    """A table of test losses by epoch, mean and standard deviation over seeds."""
    task = load_task()
    runs = [(name, seed) for seed in range(seeds) for name in STRATEGIES]
    curves: dict[str, list[list[float]]] = {name: [] for name in STRATEGIES}
    accuracies: dict[str, list[float]] = {name: [] for name in STRATEGIES}
    for name, seed in tqdm(runs, desc="learning", unit=" runs", leave=False):
        losses, accuracy = train(task, STRATEGIES[name], seed)
        curves[name].append(losses)
        accuracies[name].append(accuracy)
    rows = [
        [name, *map(_mean_and_deviation, zip(*curves[name], strict=True)), _mean_and_deviation(accuracies[name])]
        for name in STRATEGIES
    ]
    result.table(
        f"Test loss after each epoch, and accuracy in the end: {CLASSES} lexicographer files from {TRAINING_ROWS:,}"
        f" glosses, E64 H64 bidirectional, {MAX_TOKENS:,} tokens per batch; mean and deviation of {seeds} seeds",
        ["batches", *(f"epoch {epoch}" for epoch in range(1, EPOCHS + 1)), "accuracy"],
        rows,
    )


def load_task() -> Task:
    """The task, always the same."""
    texts, labels = load_labelled_glosses()
    order = np.random.default_rng(0).permutation(len(texts))[: TRAINING_ROWS + TEST_ROWS]
    chosen = [texts[row] for row in order]
    tokenizer = train_tokenizer(chosen[:TRAINING_ROWS], TokenizerTraining(vocab_size=4_000))
    return Task(tokenize_texts(chosen, tokenizer), np.array(labels)[order], tokenizer.vocab_size)


def train(task: Task, strategy: BatchingStrategy, seed: int) -> tuple[list[float], float]:
    """Train one model; the test loss after each epoch, and the accuracy in the end.

    Args:
        task: what is learned.
        strategy: how its rows are batched.
        seed: of weights and batches.
    """
    lengths = task.tokens.lengths[:TRAINING_ROWS]
    mean_rows = round(MAX_TOKENS / float(lengths.mean()))
    max_tokens, batch_size = (None, mean_rows) if strategy.equal_rows else (MAX_TOKENS, None)
    torch.manual_seed(seed)
    model = Classifier(task.vocab_size)
    optimizer = torch.optim.Adam(model.parameters(), 4e-3)
    sampler = LengthBatchSampler(
        lengths, max_tokens=max_tokens, batch_size=batch_size, noise=strategy.noise or 0.0, seed=seed
    )
    generator = np.random.default_rng(seed)
    losses, accuracy = [], 0.0
    for _ in range(EPOCHS):
        if strategy.noise is None:
            batches = [part.tolist() for part in np.array_split(generator.permutation(TRAINING_ROWS), len(sampler))]
        else:
            batches = list(sampler)
        model.train()
        for rows in batches:
            loss = model.loss(task, rows)[0]
            if strategy.weight_rows:
                loss = loss * (len(rows) / sampler.mean_rows)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        test_loss, accuracy = test(model, task)
        losses.append(test_loss)
    return losses, accuracy


class Classifier(nn.Module):
    """Embedding, bidirectional LSTM, linear layer on the last states."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(vocab_size, 64), nn.LSTM(64, 64, bidirectional=True)
        self.head = nn.Linear(128, CLASSES)

    def loss(self, task: Task, rows: list[int]) -> tuple[Tensor, Tensor]:
        """The mean loss of these rows, and their logits."""
        batch = collate([(task.tokens.row(row), task.labels[row]) for row in rows])
        ids = batch["input_ids"]
        _, (last, _) = self.lstm(ids._replace(data=self.embedding(ids.data)))
        logits = self.head(last.transpose(0, 1).flatten(1))
        return nn.functional.cross_entropy(logits, batch["labels"]), logits


def test(model: Classifier, task: Task) -> tuple[float, float]:
    """Loss and accuracy on the test rows."""
    model.eval()
    lengths = task.tokens.lengths[TRAINING_ROWS:]
    total = correct = 0.0
    with torch.inference_mode():
        for batch in LengthBatchSampler(lengths, max_tokens=8_192, shuffle=False):
            rows = [TRAINING_ROWS + row for row in batch]
            loss, logits = model.loss(task, rows)
            total += float(loss) * len(rows)
            correct += float((logits.argmax(1).numpy() == task.labels[rows]).sum())
    return total / TEST_ROWS, correct / TEST_ROWS


def _mean_and_deviation(values: list[float] | tuple[float, ...]) -> str:
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.3f}"
