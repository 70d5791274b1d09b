"""What files beside a model claim."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lengthwise.export.audit.claims import Claims, read_claims


def write(folder: Path, **files: Any) -> Path:
    for name, record in files.items():
        (folder / f"{name}.json").write_text(json.dumps(record))
    return folder


def test_no_files_claim_nothing(tmp_path: Path) -> None:
    assert read_claims(tmp_path) == Claims()


@pytest.mark.parametrize(
    ("files", "limit", "source"),
    [
        ({"sentence_bert_config": {"max_seq_length": 128}, "tokenizer_config": {"model_max_length": 512}}, 128, "sen"),
        ({"tokenizer_config": {"model_max_length": 512}, "config": {"max_position_embeddings": 300}}, 512, "tok"),
        ({"tokenizer_config": {"model_max_length": 10**30}, "config": {"max_position_embeddings": 300}}, 300, "config"),
        (
            {"config": {"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1}},
            512,
            "config.json's max_position_embeddings",
        ),
        ({"config": {"model_type": "lengthwise", "tokenization": {"max_length": 9}}}, 9, "config.json's tokenization"),
    ],
)
def test_maximum_length(tmp_path: Path, files: dict[str, Any], limit: int, source: str) -> None:
    claims = read_claims(write(tmp_path, **files))
    assert claims.max_length == limit
    assert claims.max_length_from.startswith(source)


def test_settings_of_the_tokenizer(tmp_path: Path) -> None:
    tokenizer = {
        "padding": {"strategy": {"Fixed": 128}, "direction": "Left", "pad_id": 7},
        "truncation": {"max_length": 64},
        "model": {"dropout": 0.1},
    }
    claims = read_claims(write(tmp_path, tokenizer=tokenizer))
    assert (claims.fixed_padding, claims.truncation, claims.side, claims.pad_id) == (128, 64, "left", 7)
    assert claims.sampling == ("dropout",)


def test_side_and_pad_token_of_the_settings_beside_it(tmp_path: Path) -> None:
    settings = {"padding_side": "left", "pad_token": {"content": "<pad>"}}
    tokenizer = {"added_tokens": [{"id": 3, "content": "<s>"}, {"id": 5, "content": "<pad>"}]}
    claims = read_claims(write(tmp_path, tokenizer_config=settings, tokenizer=tokenizer))
    assert (claims.side, claims.pad_id) == ("left", 5)
