"""Small teachers, datasets and configurations of training runs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from helpers.texts import TEXTS
from lengthwise.config import EncoderConfig, RunConfig
from lengthwise.encoder.checkpoint import save_checkpoint
from lengthwise.encoder.model import seeded_encoder
from lengthwise.tokens.tokenizer import TextTokenizer

WORDS = sorted({word for text in TEXTS for word in text.split()})
DIM = 8


def make_texts(rows: int, seed: int = 0, longest: int = 6) -> list[str]:
    """Distinct texts of known words, of 1 to `longest` words."""
    draw, texts = random.Random(seed), dict[str, None]()
    while len(texts) < rows:
        texts[" ".join(draw.choices(WORDS, k=draw.randint(1, longest)))] = None
    return list(texts)


def write_rows(path: Path, **columns: Sequence[Any]) -> Path:
    """A parquet file of these columns."""
    pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), path)
    return path


def save_teacher(folder: Path, tokenizer: TextTokenizer, seed: int = 5, **changes: Any) -> Path:
    """A checkpoint with random weights, whose vectors of DIM values an encoder can learn."""
    shape = {"embedding_dim": 8, "hidden_size": 6, "projection_dim": DIM, "pooling": "mean", **changes}
    config = EncoderConfig(vocab_size=tokenizer.vocab_size, tokenizer_fingerprint=tokenizer.fingerprint, **shape)
    save_checkpoint(folder, seeded_encoder(config, seed), tokenizer)
    return folder


def student_config(folder: Path, sources: Sequence[dict[str, Any]], **changes: Any) -> RunConfig:
    """A run in `folder` that trains an encoder of DIM dimensions in some 60 small steps, on one thread.

    Args:
        changes: of the section `train`.
    """
    train = {
        "output": str(folder / "training"),
        "sources": list(sources),
        "max_steps": 60,
        "max_tokens": 64,
        "learning_rate": 0.02,
        "embedding_learning_rate": 0.02,
        "precision": "fp32",
        "teacher_precision": "fp32",
        "threads": 1,
        "device": "cpu",
        "checkpoint_every": 20,
        "log_every": 5,
        "validation": {"rows": 20, "every": 20},
    }
    return RunConfig.model_validate(
        {
            "dataset": {"path": str(folder / "rows.parquet")},
            "tokenizer": {"path": str(folder / "tokenizer.json")},
            "model": {
                "path": str(folder / "student"),
                "init": {"embedding_dim": 8, "hidden_size": 8, "bidirectional": True, "projection_dim": DIM},
            },
            "train": {**train, **changes},
        }
    )
