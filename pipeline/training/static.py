"""The first part of a run: the static path alone, which learns what words mean in a fraction of the time.

An encoder with a static residual contains a static model: the mean of a text's embeddings, projected. A token costs it
about a thirtieth of what it costs the LSTM, so it can see every text several times and learn the embeddings of rare
tokens, which would otherwise take most of a distillation. The LSTM then learns what a mean of embeddings cannot tell.

It learns from the sources of vectors, and from pairs that are compared with each other, of which it can afford more at
a time than the LSTM. Pairs with negatives of their own alone are left to the LSTM, since those mostly differ in order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from lengthwise.encoder.model import PackedEncoder
from lengthwise.errors import RunError
from lengthwise.tokens.ragged import RaggedTokens, concatenate_tokens
from lengthwise.train_config import TrainSettings
from lengthwise.training.examples import Examples
from lengthwise.training.learners import PairLearner
from lengthwise.training.loop import learning_rate_factor
from lengthwise.training.losses import VECTOR_LOSSES
from lengthwise.training.progress import Bars

_SHOWN_EVERY = 20  # steps


def train_static_path(
    encoder: PackedEncoder, examples: Sequence[Examples], settings: TrainSettings, bars: Bars = Bars()
) -> float | None:
    """Train the embedding, the static residual and the projection's bias.

    The same seed and number of threads give the same weights.

    Returns:
        The mean loss of the vectors in the last steps; None where nothing was trained: without a static residual, a
        source of vectors, or epochs, or with an embedding that is kept.

    Raises:
        RunError: the loss is no number.
    """
    sources = [source for source in examples if source.settings.kind in ("teacher", "vectors")]
    stage, static = settings.static, encoder.static_projection
    if static is None or not sources or not stage.epochs or not settings.embedding_learning_rate:
        return None
    path, rows = _StaticPath(encoder, static), _Rows(sources)
    pairs = _Pairs(examples, settings, max(source.settings.share for source in sources))
    optimizer = _make_optimizer(path, settings)
    size = min(stage.batch_size, len(rows.train))
    per_epoch = len(rows.train) // size
    total = max(1, round(stage.epochs * per_epoch))
    losses: list[float] = []
    with bars.open("static", total, "steps") as bar:
        for step in range(total):
            epoch, place = divmod(step, per_epoch)
            if not place:
                order = np.random.default_rng((settings.seed, epoch)).permutation(rows.train)
            chosen = np.sort(order[place * size : (place + 1) * size])
            loss = rows.loss(path.vectors(rows.tokens, chosen), chosen)
            losses = [*losses[1 - _SHOWN_EVERY :], float(loss.detach())]
            if not math.isfinite(losses[-1]):
                raise RunError(
                    f"the loss is {losses[-1]} at step {step + 1:,} of the static path: training diverged; lower"
                    f" train.static.learning_rate ({stage.learning_rate:g})"
                )
            for group in optimizer.param_groups:
                group["lr"] = group["highest"] * learning_rate_factor(step, total, settings)
            (loss + pairs.loss(path)).backward()
            optimizer.step()
            optimizer.zero_grad()
            if step % _SHOWN_EVERY == 0:
                bar.set_postfix_str(f"loss {np.mean(losses):.3f}", refresh=False)
            bar.update(1)
    return float(np.mean(losses))


class _StaticPath:
    """Vectors without the LSTM's part; runs rows in place of a `BatchRunner`.

    Attributes:
        parameters: of the embedding, and of the others.
        device: where they are.
    """

    def __init__(self, encoder: PackedEncoder, static: nn.Linear) -> None:
        self._encoder, self._static = encoder, static
        self._bias = None if encoder.projection is None else encoder.projection.bias
        others = [static.weight] if self._bias is None else [static.weight, self._bias]
        self.parameters, self.device = (encoder.embedding.weight, others), static.weight.device

    def vectors(self, tokens: RaggedTokens, rows: NDArray[np.int64]) -> Tensor:
        """float32[rows, dim]."""
        taken = tokens.take(rows)
        ids, begins = (
            torch.from_numpy(each).to(self.device) for each in (taken.values.astype(np.int64), taken.offsets)
        )
        means = functional.embedding_bag(ids, self._encoder.embedding.weight, begins[:-1], mode="mean")
        projected = self._static(means)
        return self._encoder.normalize(projected if self._bias is None else projected + self._bias)

    group = vectors


class _Rows:
    """The rows of all sources of vectors, one source after the other.

    Attributes:
        tokens: of all rows.
        train: int64, those to learn from.
    """

    def __init__(self, sources: Sequence[Examples]) -> None:
        tokens = [source.sides[0] for source in sources]
        self._sources, self._firsts = sources, np.cumsum([0, *map(len, tokens)])
        self.tokens = concatenate_tokens(tokens)
        firsts = zip(self._firsts, sources, strict=False)
        self.train: NDArray[np.int64] = np.concatenate([first + source.train for first, source in firsts])

    def loss(self, vectors: Tensor, rows: NDArray[np.int64]) -> Tensor:
        """The weighted sum of the losses of sorted rows, divided by their number; vectors: float32[rows, dim]."""
        cuts = np.searchsorted(rows, self._firsts)
        parts = zip(self._sources, self._firsts, cuts, cuts[1:], strict=False)
        losses = [
            source.settings.weight
            * (stop - start)
            * _source_loss(source, vectors[start:stop], rows[start:stop] - first)
            for source, first, start, stop in parts
            if start < stop
        ]
        return torch.stack(losses).sum() / len(rows)


class _Pairs:
    """The sources of pairs that are compared with each other.

    Each has a group in every step, which costs little here, and counts by its weight times its share.
    """

    def __init__(self, examples: Sequence[Examples], settings: TrainSettings, of_vectors: float) -> None:
        learners = [
            PairLearner(source, number, settings, group=settings.static.batch_size)
            for number, source in enumerate(examples)
            if source.settings.kind == "pairs" and source.settings.in_batch_negatives
        ]
        largest = max([of_vectors, *(learner.share for learner in learners)])
        self._weighted = [(learner, learner.weight * learner.share / largest) for learner in learners]

    def loss(self, path: _StaticPath) -> Tensor | float:
        """The weighted sum of the losses of a step's groups; 0 without a source of pairs."""
        losses = [weight * each.loss(path, each.next_parts(1)[0]) for each, weight in self._weighted]
        return sum(losses, 0.0)


def _source_loss(source: Examples, vectors: Tensor, rows: NDArray[np.int64]) -> Tensor:
    if source.targets is None:
        raise ValueError(f"source {source.name} has no targets")
    targets = torch.from_numpy(np.ascontiguousarray(source.targets(rows), np.float32))
    return VECTOR_LOSSES[source.settings.objective](vectors, targets.to(vectors.device))


def _make_optimizer(path: _StaticPath, settings: TrainSettings) -> torch.optim.AdamW:
    stage, (embedding, others) = settings.static, path.parameters
    groups: list[dict[str, Any]] = [
        {"params": [embedding], "highest": stage.embedding_learning_rate},
        {"params": others, "highest": stage.learning_rate},
    ]
    return torch.optim.AdamW(groups, betas=settings.betas, weight_decay=0.0, fused=True)
