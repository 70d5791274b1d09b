"""`PackedEncoder`: Embedding, packed LSTM, pooling, and optionally a projection and normalisation.

- Ids are packed before they are embedded, so neither the embedding nor the LSTM computes padding. In a batch of mixed
  lengths, pooling reads the zeros that unpacking puts beyond a row's end.
- The pooling head takes token states, the last state and the lengths. The exported graphs run the same head behind
  their own LSTM (`graphs.trace`), so there is one definition of a vector.
- `lengths` is an input of its own, not a mask: the contents of the padding are never read.
- Pooling, projection and normalisation compute in float32 also where embedding and LSTM have a shorter type.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from lengthwise.config import EncoderConfig

NORM_FLOOR = 1e-12


class PackedEncoder(nn.Module):
    """Maps ids of texts to one vector per text, through a packed LSTM.

    Weights are named as PyTorch names them: `embedding.weight`, `lstm.weight_ih_l0`, ..., `projection.weight`.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_dim)
        self.lstm = nn.LSTM(
            config.embedding_dim,
            config.hidden_size,
            config.num_layers,
            batch_first=True,
            bidirectional=config.bidirectional,
        )
        self.projection = nn.Linear(config.state_dim, config.projection_dim) if config.projection_dim else None

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
        if self.config.pooling == "last":
            _, last = self.run_lstm(self.pack(input_ids, lengths, is_sorted))
            return self.finish(_at_least_float32(last))
        states, last = self.token_states(input_ids, lengths, is_sorted)
        lengths = lengths.to(input_ids.device, non_blocking=True)
        mask = torch.arange(input_ids.shape[1], device=input_ids.device) < lengths[:, None]
        return self.finish(self.pool(_at_least_float32(states), last, lengths, mask))

    def forward_equal_lengths(self, input_ids: Tensor) -> Tensor:
        """Vectors of rows of equal length, int64[batch, sequence]: float[batch, dim], without packing.

        Dense kernels run, and neither a mask nor a float32 copy of the states is made: beside a fast LSTM, both take
        noticeable time.
        """
        states, (hidden, _) = self.lstm(self.embedding(input_ids))
        if self.config.pooling == "last":
            pooled = self._last(hidden)
        elif self.config.pooling == "max":
            pooled = states.amax(dim=1)
        else:
            pooled = states.sum(dim=1, dtype=torch.promote_types(states.dtype, torch.float32))
            if self.config.pooling == "mean":
                pooled = pooled / input_ids.shape[1]
        return self.finish(_at_least_float32(pooled))

    def pack(self, input_ids: Tensor, lengths: Tensor, is_sorted: bool = False) -> PackedSequence:
        """Pack the real ids: `data` is int64[tokens]."""
        return pack_padded_sequence(input_ids, lengths.cpu(), batch_first=True, enforce_sorted=is_sorted)

    def run_lstm(self, ids: PackedSequence) -> tuple[PackedSequence, Tensor]:
        """Embed packed ids and run the LSTM.

        Returns:
            Packed states of the last layer, and its final states float[batch, directions * hidden]: that of the forward
            direction at a row's last token, then that of the reverse direction at its first.
        """
        embedded = PackedSequence(self.embedding(ids.data), ids.batch_sizes, ids.sorted_indices, ids.unsorted_indices)
        states, (hidden, _) = self.lstm(embedded)
        return states, self._last(hidden)

    def _last(self, hidden: Tensor) -> Tensor:
        """From float[layers * directions, batch, hidden] the last layer's part, float[batch, directions * hidden]."""
        return hidden[-self.config.directions :].transpose(0, 1).flatten(1)

    def token_states(self, input_ids: Tensor, lengths: Tensor, is_sorted: bool = False) -> tuple[Tensor, Tensor]:
        """States of every token, and the final states.

        Returns:
            float[batch, sequence, directions * hidden], exactly zero beyond a row's length, and
            float[batch, directions * hidden], both in the order of the input.
        """
        packed, last = self.run_lstm(self.pack(input_ids, lengths, is_sorted))
        states, _ = pad_packed_sequence(packed, batch_first=True, total_length=input_ids.shape[1])
        return states, last

    def pool(self, states: Tensor, last: Tensor, lengths: Tensor, mask: Tensor) -> Tensor:
        """Reduce the states of each row to one.

        Args:
            states: float[batch, sequence, state_dim], zero where `mask` is false.
            last: float[batch, state_dim], from `run_lstm`.
            lengths: int64[batch], at least 1.
            mask: bool[batch, sequence], true at real tokens.

        Returns:
            float[batch, state_dim].
        """
        if self.config.pooling == "last":
            return last
        if self.config.pooling == "max":
            return states.masked_fill(~mask[:, :, None], -torch.inf).amax(dim=1)
        total = states.sum(dim=1)
        if self.config.pooling == "sum":
            return total
        return total / lengths[:, None].to(total.dtype)

    def finish(self, pooled: Tensor) -> Tensor:
        """Project and normalise: float[batch, state_dim] to float[batch, dim]."""
        if self.projection is not None:
            pooled = self.projection(pooled)
        if self.config.normalize:
            pooled = pooled / pooled.norm(dim=1, keepdim=True).clamp(min=NORM_FLOOR)
        return pooled


def seeded_encoder(config: EncoderConfig, seed: int) -> PackedEncoder:
    """An untrained encoder whose weights depend only on the seed.

    Embeddings are drawn from N(0, 1); LSTM and projection uniformly from +-1/sqrt(fan-in), as PyTorch initialises them.
    """
    encoder = PackedEncoder(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in encoder.named_parameters():
            if name == "embedding.weight":
                weight.normal_(generator=generator)
            else:
                fan_in = config.hidden_size if name.startswith("lstm.") else config.state_dim
                weight.uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=generator)
    return encoder.eval()


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
