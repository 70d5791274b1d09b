"""The encoders that are measured, ours and the baselines, with the same weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lengthwise.config import EncoderConfig
from lengthwise.encoder.model import PackedEncoder, seeded_encoder
from lengthwise.errors import LengthwiseError
from lengthwise.tokens.tokenizer import TextTokenizer


@dataclass(frozen=True)
class Shape:
    """The sizes of an encoder."""

    embedding_dim: int
    hidden_size: int
    bidirectional: bool

    def __str__(self) -> str:
        return f"E{self.embedding_dim} H{self.hidden_size}{' bidirectional' if self.bidirectional else ''}"

    def encoder(self, vocab_size: int) -> PackedEncoder:
        """A seeded encoder of this size, mean-pooled."""
        return seeded_encoder(EncoderConfig(vocab_size=vocab_size, pooling="mean", **self.__dict__), seed=0)


SHAPES = {"large": Shape(300, 512, True), "small": Shape(128, 256, False)}


def sentence_transformer(encoder: PackedEncoder, tokenizer: TextTokenizer) -> Any:
    """The same model as a SentenceTransformer of WordEmbeddings, LSTM and Pooling."""
    try:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import LSTM, Pooling, WordEmbeddings
        from tokenizers import Tokenizer
        from transformers import PreTrainedTokenizerFast
    except ModuleNotFoundError as error:
        raise LengthwiseError(f"{error.name} is not installed; install lengthwise[bench]") from error
    config = encoder.config
    fast = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer.to_json()), pad_token="[PAD]", unk_token="[UNK]"
    )
    words = WordEmbeddings(fast, encoder.embedding.weight.detach())
    lstm = LSTM(config.embedding_dim, config.hidden_size, 1, bidirectional=config.bidirectional)
    lstm.encoder.load_state_dict(encoder.lstm.state_dict())
    return SentenceTransformer(modules=[words, lstm, Pooling(config.state_dim, "mean")], device="cpu")


def plain_loop(encoder: PackedEncoder, tokenizer: TextTokenizer, texts: Sequence[str]) -> NDArray[np.float32]:
    """The usual loop: `datasets.map` in batches of 64 in dataset order, padded, packed, pooled."""
    import datasets

    def encode(batch: dict[str, list[str]]) -> dict[str, Any]:
        ids = [torch.tensor(encoding.ids) for encoding in tokenizer.encode_batch(batch["text"])]
        lengths = torch.tensor([len(row) for row in ids])
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
        with torch.inference_mode():
            return {"embedding": encoder(padded, lengths).numpy()}

    data = datasets.Dataset.from_dict({"text": list(texts)})
    mapped = data.map(encode, batched=True, batch_size=64, load_from_cache_file=False)
    return np.asarray(mapped.with_format("numpy")["embedding"][:], np.float32)
