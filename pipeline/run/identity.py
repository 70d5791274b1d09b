"""Gathers a run's identity: everything that a byte of its vectors depends on.

`encode.bad_rows` is left out: rows that can be encoded are the same either way, and the store rewrites a shard whose
bad rows were written under another policy. So are the cluster's settings, versions and the processor, which move
vectors by less than the tolerance.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from lengthwise.config import RunConfig
from lengthwise.data.dataset import Source
from lengthwise.encoder.engine import Engine
from lengthwise.tokens.tokenizer import TextTokenizer


def run_identity(config: RunConfig, source: Source, tokenizer: TextTokenizer, engine: Engine) -> dict[str, Any]:
    """The identity of a run, as JSON-ready values."""
    return {**input_identity(config, source.fingerprint), **model_identity(config, tokenizer, engine)}


def model_identity(config: RunConfig, tokenizer: TextTokenizer, engine: Engine) -> dict[str, Any]:
    """The part of a run's identity that the model decides."""
    return {
        **config.resolve_tokenization(engine.config.tokenization).model_dump(mode="json"),
        "tokenizer": tokenizer.fingerprint,
        "encoder": engine.config.model_dump(mode="json", exclude={"tokenization"}),  # as resolved, above
        "weights": engine.fingerprint,
        "engine": engine.name,
        "batching": asdict(engine.costs.with_limits(**config.batching.model_dump())),
    }


def input_identity(config: RunConfig, fingerprint: str) -> dict[str, Any]:
    """The part of a run's identity that is known without the model.

    Args:
        fingerprint: the input's.
    """
    return {
        "input": fingerprint,
        "text_column": config.dataset.text_column,
        "keep_columns": list(config.dataset.keep_columns),
        "shard_rows": config.dataset.shard_rows,
        **config.tokenizer.overrides,
        "vector_dtype": config.encode.vector_dtype,
        **config.encode.model_dump(mode="json", include={"columns"}),  # nothing where it is the embedding alone
    }
