"""`PackedEncoder`: Embedding, packed LSTM or GRU, pooling, and optionally Dense layers, normalisation and labels.

- Ids are packed before they are embedded, so neither the embedding nor the LSTM computes padding. In a batch of mixed
  lengths, pooling reads the zeros that unpacking puts beyond a row's end.
- The head takes token states, the last state, embeddings and lengths. The exported graphs run the same head behind
  their own LSTM (`graphs.trace`), so there is one definition of a vector.
- The static residual adds a Linear map of the mean of the token embeddings: what a bag of words says of a text need
  not pass through the LSTM, which lifts the quality of a small LSTM that is distilled from a transformer.
- `lengths` is an input of its own, not a mask: the contents of the padding are never read.
- Pooling, projections and normalisation compute in float32 also where embedding and LSTM have a shorter type.
- An encoder that was trained to read padding reads the same padding in any batch (`encoder.padding`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from lengthwise.config import EncoderConfig
from lengthwise.encoder.classify import LabelClassifier
from lengthwise.encoder.heads import Attention, Classifier, dense_layers
from lengthwise.encoder.padding import read_ids
from lengthwise.encoder.recurrent import make_recurrent

NORM_FLOOR = 1e-12


class TokenStates(NamedTuple):
    """What the head reads of a batch.

    Attributes:
        states: float[batch, sequence, state_dim], of the last layer at each token, zero beyond a row's length.
        last: float[batch, state_dim], the state of the forward direction at a row's last token, then that of the
            reverse direction at its first.
        embeddings: float[batch, sequence, embedding_dim], zero beyond a row's length; None without a static residual.
    """

    states: Tensor
    last: Tensor
    embeddings: Tensor | None

    def clear_padding(self, mask: Tensor) -> TokenStates:
        """The same with zeros where `mask`, bool[batch, sequence], is false."""
        states, last, embeddings = self
        if embeddings is not None:
            embeddings = torch.where(mask[:, :, None], embeddings, 0.0)
        return TokenStates(torch.where(mask[:, :, None], states, 0.0), last, embeddings)


class PackedEncoder(nn.Module):
    """Maps ids of texts to one vector per text, through a packed LSTM or GRU.

    Weights are named as PyTorch names them: `embedding.weight`, `lstm.weight_ih_l0` or `gru.weight_ih_l0`, ...,
    `attention.score.weight`, `dense.0.weight`, `projection.weight`, `static_projection.weight`,
    `classifier.output.weight`.

    Attributes:
        lstm, gru: the recurrent layers of this cell; the other is not there.
        classifier: from vectors to logits, or None. `forward` gives vectors alone.
    """

    lstm: nn.LSTM
    gru: nn.GRU

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        weight = torch.empty(config.vocab_size, config.embedding_dim)
        self.embedding = nn.Embedding.from_pretrained(weight, freeze=False)
        if not weight.is_meta:  # there, PyTorch imports its tracer to draw nothing, which takes seconds
            self.embedding.reset_parameters()
        self.add_module(config.cell, make_recurrent(config))
        has_attention = "attention" in config.pooling_parts
        self.attention = Attention(config.state_dim, config.attention_dim) if has_attention else None
        self.dense = dense_layers(config.pooled_dim, config.dense)
        self.projection = nn.Linear(config.dense_dim, config.projection_dim) if config.projection_dim else None
        self.static_projection = (
            nn.Linear(config.embedding_dim, config.dim, bias=False) if config.static_residual else None
        )
        self.classifier = Classifier(config.dim, config.classifier) if config.classifier else None

    @property
    def rnn(self) -> nn.RNNBase:
        """The recurrent layers, `lstm` or `gru`."""
        return self.gru if self.config.cell == "gru" else self.lstm

    def forward(self, input_ids: Tensor, lengths: Tensor, is_sorted: bool = False) -> Tensor:
        """Vectors of a batch.

        Args:
            input_ids: int64[batch, sequence], right-padded; the contents of the padding have no effect.
            lengths: int64[batch], each from 1 to sequence, in any order, on any device.
            is_sorted: whether rows are sorted from the longest to the shortest. With lengths on the CPU, nothing then
                synchronises with the GPU.

        Returns:
            float[batch, dim], in the order of the input.
        """
        if self.config.padding is not None:
            read = read_ids(input_ids, lengths.to(input_ids.device), self.config)
            input_ids, lengths = read.input_ids, read.lengths
        if self.config.pooling == "last" and self.static_projection is None:  # states need not be unpacked
            _, _, last = self.run_lstm(self.pack(input_ids, lengths, is_sorted))
            return self.finish(_at_least_float32(last))
        tokens = self.token_states(input_ids, lengths, is_sorted)
        lengths = lengths.to(input_ids.device, non_blocking=True)
        return self.head(tokens, lengths, torch.arange(input_ids.shape[1], device=input_ids.device) < lengths[:, None])

    def forward_equal_lengths(self, input_ids: Tensor) -> Tensor:
        """Vectors of rows of equal length, int64[batch, sequence]: float[batch, dim], without packing.

        Dense kernels run, and neither a mask nor a float32 copy of the states is made: beside a fast LSTM, both take
        noticeable time.
        """
        if self.config.padding is not None:
            input_ids = read_ids(
                input_ids, input_ids.new_full(input_ids.shape[:1], input_ids.shape[1]), self.config
            ).input_ids
        embeddings = self.embedding(input_ids)
        states, hidden = self._run(embeddings)
        batch, sequence = input_ids.shape
        return self.head(TokenStates(states, self._last(hidden), embeddings), input_ids.new_full((batch,), sequence))

    def pack(self, input_ids: Tensor, lengths: Tensor, is_sorted: bool = False) -> PackedSequence:
        """Pack the real ids: `data` is int64[tokens]."""
        return pack_padded_sequence(input_ids, lengths.cpu(), batch_first=True, enforce_sorted=is_sorted)

    def run_lstm(self, ids: PackedSequence) -> tuple[PackedSequence, PackedSequence, Tensor]:
        """Embed packed ids and run the LSTM.

        Returns:
            Packed embeddings, packed states of the last layer, and its final states, as in `TokenStates`.
        """
        embedded = PackedSequence(self.embedding(ids.data), ids.batch_sizes, ids.sorted_indices, ids.unsorted_indices)
        states, hidden = self._run(embedded)
        return embedded, states, self._last(hidden)

    def _run(self, embedded: Any) -> tuple[Any, Tensor]:
        """States, and the final ones of every layer and direction."""
        states, final = self.rnn(embedded)
        return states, final[0] if isinstance(final, tuple) else final  # an LSTM's come with its cells

    def _last(self, hidden: Tensor) -> Tensor:
        """From float[layers * directions, batch, hidden] the last layer's part, float[batch, directions * hidden]."""
        return hidden[-self.config.directions :].transpose(0, 1).flatten(1)

    def token_states(self, input_ids: Tensor, lengths: Tensor, is_sorted: bool = False) -> TokenStates:
        """What the head reads, in the order of the input, of the ids that are given; no padding is added."""

        def unpacked(values: PackedSequence) -> Tensor:
            return pad_packed_sequence(values, batch_first=True, total_length=input_ids.shape[1])[0]

        embedded, states, last = self.run_lstm(self.pack(input_ids, lengths, is_sorted))
        return TokenStates(unpacked(states), last, None if self.static_projection is None else unpacked(embedded))

    def head(self, tokens: TokenStates, lengths: Tensor, mask: Tensor | None = None) -> Tensor:
        """From tokens to vectors: `pool` the states, average the embeddings, and `finish` both.

        Args:
            tokens: of any float type; their padding is zero.
            lengths: int64[batch], at least 1.
            mask: bool[batch, sequence], true at real tokens; None if all are real.

        Returns:
            float[batch, dim], at least float32.
        """
        pooled = self.pool(tokens, lengths, mask)
        if self.static_projection is None or tokens.embeddings is None:
            return self.finish(pooled)
        return self.finish(pooled, _mean(tokens.embeddings, lengths))

    def pool(self, tokens: TokenStates, lengths: Tensor, mask: Tensor | None = None) -> Tensor:
        """Reduce the states of each row to one, float[batch, pooled_dim]; arguments as for `head`."""
        parts = [self._pool_part(part, tokens, lengths, mask) for part in self.config.pooling_parts]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _pool_part(self, part: str, tokens: TokenStates, lengths: Tensor, mask: Tensor | None) -> Tensor:
        states = tokens.states
        if part == "last":
            return _at_least_float32(tokens.last)
        if part == "first":
            return _at_least_float32(states[:, 0])
        if part == "end":
            ends = (lengths - 1)[:, None, None].expand(-1, 1, states.shape[2])
            return _at_least_float32(states.gather(1, ends)[:, 0])
        if part == "max":
            states = states if mask is None else states.masked_fill(~mask[:, :, None], -torch.inf)
            return _at_least_float32(states.amax(dim=1))
        if self.attention is not None and part == "attention":
            pooled: Tensor = self.attention(_at_least_float32(states), mask)
            return pooled
        return _sum(states) if part == "sum" else _mean(states, lengths)

    def finish(self, pooled: Tensor, static: Tensor | None = None) -> Tensor:
        """`combine` and normalise: float[batch, pooled_dim] to float[batch, dim]; arguments as for `combine`."""
        return self.normalize(self.combine(pooled, static))

    def normalize(self, vectors: Tensor) -> Tensor:
        """Rows of length 1 if `config.normalize`, else as they are: float[batch, dim]."""
        return vectors / vectors.norm(dim=1, keepdim=True).clamp(min=NORM_FLOOR) if self.config.normalize else vectors

    def combine(self, pooled: Tensor, static: Tensor | None = None) -> Tensor:
        """Dense layers, projection and static residual: float[batch, pooled_dim] to float[batch, dim].

        Args:
            pooled: from `pool`.
            static: float[batch, embedding_dim], the means of a row's token embeddings; None without a static residual.
        """
        for layer in self.dense:
            pooled = layer(pooled)
        if self.projection is not None:
            pooled = self.projection(pooled)
        return pooled if static is None or self.static_projection is None else pooled + self.static_projection(static)


def encoder_classifier(encoder: PackedEncoder) -> LabelClassifier | None:
    """A copy of an encoder's classifier in NumPy; None if it has none."""
    if encoder.classifier is None:
        return None
    weights = {f"classifier.{name}": weight.detach().cpu() for name, weight in encoder.classifier.state_dict().items()}
    return LabelClassifier(encoder.config, {name: weight.float().numpy() for name, weight in weights.items()})


def seeded_encoder(config: EncoderConfig, seed: int) -> PackedEncoder:
    """An untrained encoder whose weights depend only on the seed.

    Embeddings are drawn from N(0, 1); recurrent and Linear layers uniformly from +-1/sqrt(hidden size or inputs), as
    PyTorch initialises them.
    """
    encoder = PackedEncoder(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in encoder.named_parameters():
            if name == "embedding.weight":
                weight.normal_(generator=generator)
            else:
                layer = encoder.get_submodule(name.rpartition(".")[0])
                bound = (layer.in_features if isinstance(layer, nn.Linear) else config.hidden_size) ** -0.5
                weight.uniform_(-bound, bound, generator=generator)
    return encoder.eval()


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _sum(values: Tensor) -> Tensor:
    """Over the tokens: [batch, sequence, width] to [batch, width], in at least float32."""
    return values.sum(dim=1, dtype=torch.promote_types(values.dtype, torch.float32))


def _mean(values: Tensor, lengths: Tensor) -> Tensor:
    """Over the tokens of rows of these lengths, whose padding is zero, as `_sum`."""
    total = _sum(values)
    return total / lengths[:, None].to(total.dtype)
