"""A run's identity: what moves a byte is in it, and what does not is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.engines import LookupEngine
from helpers.runs import run_config, source_of
from helpers.texts import TEXTS
from lengthwise.config import EncoderConfig, RunConfig, TokenizationSettings
from lengthwise.run.identity import input_identity, run_identity
from lengthwise.store.fingerprint import describe_changes, identity_hash
from lengthwise.tokens.tokenizer import TextTokenizer


def identity(config: RunConfig, tokenizer: TextTokenizer, engine: LookupEngine) -> dict[str, Any]:
    return run_identity(config, source_of(TEXTS, config), tokenizer, engine)


@pytest.mark.parametrize(
    ("section", "changes", "moves"),
    [
        ("dataset", {"shard_rows": 4}, True),
        ("dataset", {"keep_columns": ["text"]}, True),
        ("tokenizer", {"add_special_tokens": False}, True),
        ("tokenizer", {"max_length": 9}, True),
        ("tokenizer", {"max_length": 9, "truncate": True}, True),
        ("batching", {"max_rows": 3}, True),
        ("encode", {"vector_dtype": "float16"}, True),
        ("encode", {"bad_rows": "quarantine"}, False),
        ("encode", {"output": "elsewhere"}, False),
        ("dataset", {"streaming": True}, False),
        ("cluster", {"workers": 3}, False),
        ("export", {"output": "elsewhere"}, False),
    ],
)
def test_run_identity_depends_on_settings_that_move_bytes(
    tokenizer: TextTokenizer, engine: LookupEngine, section: str, changes: dict[str, Any], moves: bool
) -> None:
    first = identity(run_config("out"), tokenizer, engine)  # type: ignore[arg-type]
    other = identity(run_config("out", **{section: changes}), tokenizer, engine)  # type: ignore[arg-type]
    assert (identity_hash(first) != identity_hash(other)) == moves == bool(describe_changes(first, other))


def test_run_identity_depends_on_the_model(tokenizer: TextTokenizer, engine: LookupEngine) -> None:
    config = run_config("out")  # type: ignore[arg-type]
    first = identity(config, tokenizer, engine)
    assert describe_changes(first, identity(config, tokenizer, LookupEngine(engine.config, "v"))) == (
        'weights was "weights of a test", is "v"'
    )
    other = LookupEngine(EncoderConfig(**{**engine.config.model_dump(), "pooling": "sum"}))
    assert describe_changes(first, identity(config, tokenizer, other)) == 'encoder.pooling was "mean", is "sum"'


def test_run_identity_has_the_resolved_tokenization(tokenizer: TextTokenizer, engine: LookupEngine) -> None:
    tokenization = TokenizationSettings(max_length=9, truncate=True)
    model = LookupEngine(engine.config.model_copy(update={"tokenization": tokenization}))
    config = run_config(Path("out"), tokenizer={"max_length": 9, "truncate": True, "add_special_tokens": True})
    of_run, of_model = identity(config, tokenizer, engine), identity(run_config(Path("out")), tokenizer, model)
    assert of_run == of_model == identity(config, tokenizer, model)
    assert (of_run["max_length"], of_run["truncate"], of_run["add_special_tokens"]) == (9, True, True)


def test_input_identity_is_part_of_the_run_identity(tokenizer: TextTokenizer, engine: LookupEngine) -> None:
    config = run_config("out")  # type: ignore[arg-type]
    whole = identity(config, tokenizer, engine)
    assert input_identity(config, whole["input"]).items() <= whole.items()


def test_identity_hash_depends_on_every_leaf(tokenizer: TextTokenizer, engine: LookupEngine) -> None:
    first = identity(run_config("out"), tokenizer, engine)  # type: ignore[arg-type]
    leaves = [(name,) for name, value in first.items() if not isinstance(value, dict)]
    leaves += [(name, key) for name, value in first.items() if isinstance(value, dict) for key in value]
    assert len(leaves) > 20
    for *above, leaf in leaves:
        for gone in (False, True):
            changed = json.loads(json.dumps(first))
            node = changed[above[0]] if above else changed
            if gone:
                del node[leaf]
            else:
                node[leaf] = "another"
            assert identity_hash(changed) != identity_hash(first)
            [change] = describe_changes(first, changed).split("; ")
            assert change.startswith(f"{'.'.join([*above, leaf])} was ")


def test_identity_is_the_same_after_a_round_trip_through_json(tokenizer: TextTokenizer, engine: LookupEngine) -> None:
    first = identity(run_config("out"), tokenizer, engine)  # type: ignore[arg-type]
    again = json.loads(json.dumps(dict(reversed(first.items()))))
    assert identity_hash(again) == identity_hash(first)
    assert describe_changes(first, again) == ""
