"""The first part of a run: the static path alone, which learns what words mean in a fraction of the time.

An encoder with a static residual contains a static model: the mean of a text's embeddings, projected. A token costs it
about a thirtieth of what it costs the LSTM, so it can see every text several times and learn the embeddings of rare
tokens, which would otherwise take most of a distillation. The LSTM then learns what a mean of embeddings cannot tell.
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
from lengthwise.tokens.ragged import concatenate_tokens
from lengthwise.train_config import TrainSettings
from lengthwise.training.examples import Examples
from lengthwise.training.losses import VECTOR_LOSSES
from lengthwise.training.progress import Bars

_WARMUP, _FINAL_RATE, _SHOWN_EVERY = 20, 0.01, 20  # steps; a share of the highest rate; steps


def train_static_path(
    encoder: PackedEncoder, examples: Sequence[Examples], settings: TrainSettings, bars: Bars = Bars()
) -> float | None:
    """Train the embedding, the static residual and the projection's bias on the sources that have vectors.

    The same seed and number of threads give the same weights.

    Returns:
        The mean loss of the last steps; None where nothing was trained: without a static residual, a source of vectors,
        or epochs, or with an embedding that is kept.

    Raises:
        RunError: the loss is no number.
    """
    sources = [source for source in examples if source.settings.kind in ("teacher", "vectors")]
    stage, static = settings.static, encoder.static_projection
    if static is None or not sources or not stage.epochs or not settings.embedding_learning_rate:
        return None
    bias = encoder.projection.bias if encoder.projection is not None else None
    rows, optimizer = _Rows(sources), _make_optimizer(encoder.embedding.weight, static, bias, settings)
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
            ids, begins = (torch.from_numpy(each).to(static.weight.device) for each in rows.ids(chosen))
            projected = static(functional.embedding_bag(ids, encoder.embedding.weight, begins, mode="mean"))
            loss = rows.loss(encoder.normalize(projected if bias is None else projected + bias), chosen)
            losses = [*losses[1 - _SHOWN_EVERY :], float(loss.detach())]
            if not math.isfinite(losses[-1]):
                raise RunError(
                    f"the loss is {losses[-1]} at step {step + 1:,} of the static path: training diverged; lower"
                    f" train.static.learning_rate ({stage.learning_rate:g})"
                )
            for group in optimizer.param_groups:
                group["lr"] = group["highest"] * _rate(step, total)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if step % _SHOWN_EVERY == 0:
                bar.set_postfix_str(f"loss {np.mean(losses):.3f}", refresh=False)
            bar.update(1)
    return float(np.mean(losses))


class _Rows:
    """The rows of all sources, one source after the other.

    Attributes:
        train: int64, those to learn from.
    """

    def __init__(self, sources: Sequence[Examples]) -> None:
        tokens = [source.sides[0] for source in sources]
        self._sources, self._firsts = sources, np.cumsum([0, *map(len, tokens)])
        self._tokens = concatenate_tokens(tokens)
        firsts = zip(self._firsts, sources, strict=False)
        self.train: NDArray[np.int64] = np.concatenate([first + source.train for first, source in firsts])

    def ids(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The ids of rows, int64[tokens], and where each row begins, int64[rows]."""
        taken = self._tokens.take(rows)
        return taken.values.astype(np.int64), taken.offsets[:-1]

    def loss(self, vectors: Tensor, rows: NDArray[np.int64]) -> Tensor:
        """The mean loss of sorted rows, whose vectors are float32[rows, dim]."""
        cuts = np.searchsorted(rows, self._firsts)
        parts = zip(self._sources, self._firsts, cuts, cuts[1:], strict=False)
        losses = [
            (stop - start) * _source_loss(source, vectors[start:stop], rows[start:stop] - first)
            for source, first, start, stop in parts
            if start < stop
        ]
        return torch.stack(losses).sum() / len(rows)


def _source_loss(source: Examples, vectors: Tensor, rows: NDArray[np.int64]) -> Tensor:
    if source.targets is None:
        raise ValueError(f"source {source.name} has no targets")
    targets = torch.from_numpy(np.ascontiguousarray(source.targets(rows), np.float32))
    return VECTOR_LOSSES[source.settings.objective](vectors, targets.to(vectors.device))


def _make_optimizer(
    embedding: nn.Parameter, static: nn.Linear, bias: nn.Parameter | None, settings: TrainSettings
) -> torch.optim.AdamW:
    stage = settings.static
    others = [static.weight] if bias is None else [static.weight, bias]
    groups: list[dict[str, Any]] = [
        {"params": [embedding], "highest": stage.embedding_learning_rate},
        {"params": others, "highest": stage.learning_rate},
    ]
    return torch.optim.AdamW(groups, betas=settings.betas, weight_decay=0.0, fused=True)


def _rate(step: int, total: int) -> float:
    """The learning rate of a step (from 0) as a share of its highest: a short rise, then half a cosine."""
    rise = min(1.0, (step + 1) / max(1, min(_WARMUP, total // 10)))
    return max(_FINAL_RATE, rise * (1 + math.cos(math.pi * step / total)) / 2)
