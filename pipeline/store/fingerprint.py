"""A run's identity: everything that a byte of its vectors depends on.

`encode.bad_rows` is left out: rows that can be encoded are the same either way, and the store writes a shard again
whose bad rows were written under another policy. So are the settings of the cluster, and versions and processor, which
move vectors by less than the tolerance.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lengthwise.config import RunConfig
    from lengthwise.data.dataset import Source
    from lengthwise.encoder.engine import Engine
    from lengthwise.tokens.tokenizer import TextTokenizer

_ABSENT = object()


def run_identity(
    run: RunConfig, source: Source, tokenizer: TextTokenizer, engine: Engine, weights: str
) -> dict[str, Any]:
    """The identity of a run, as JSON-ready values.

    Args:
        weights: fingerprint of the engine's weights.
    """
    return {
        **input_identity(run, source.fingerprint),
        "tokenizer": tokenizer.fingerprint,
        "encoder": engine.config.model_dump(mode="json"),
        "weights": weights,
        "engine": engine.name,
        "batching": asdict(engine.costs.within(run.batching)),
    }


def input_identity(run: RunConfig, fingerprint: str) -> dict[str, Any]:
    """The part of it that is known without the model.

    Args:
        fingerprint: the input's.
    """
    return {
        "input": fingerprint,
        "text_column": run.dataset.text_column,
        "keep_columns": list(run.dataset.keep_columns),
        "shard_rows": run.dataset.shard_rows,
        "add_special_tokens": run.tokenizer.add_special_tokens,
        "max_length": run.tokenizer.max_length,
        "truncate": run.tokenizer.truncate,
        "vector_dtype": run.encode.vector_dtype,
    }


def identity_hash(identity: Mapping[str, Any]) -> str:
    """sha256 (hex) of an identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def describe_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What differs between two identities, in words; empty where nothing does."""
    flat_old, flat_new = _flat(old), _flat(new)
    names = sorted(flat_old.keys() | flat_new.keys())
    pairs = ((name, flat_old.get(name, _ABSENT), flat_new.get(name, _ABSENT)) for name in names)
    return "; ".join(f"{name} was {_short(was)}, is {_short(now)}" for name, was, now in pairs if was != now)


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """The leaves of nested mappings by their dotted paths."""
    if not isinstance(value, Mapping):
        return {path: value}
    return {
        name: leaf
        for key, inner in value.items()
        for name, leaf in _flat(inner, f"{path}.{key}" if path else key).items()
    }


def _short(value: Any) -> str:
    if value is _ABSENT:
        return "not there"
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
