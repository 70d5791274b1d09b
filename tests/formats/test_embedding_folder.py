"""Settings of published embedding models, and pooling by them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lengthwise.errors import CheckpointError
from lengthwise.formats.embedding_folder import (
    POOLINGS,
    EmbeddingSettings,
    check_pooling,
    pool_states,
    read_embedding_settings,
    scale_to_length_1,
)

LIBRARY = "sentence_transformers.models."


def write(folder: Path, files: dict[str, Any]) -> Path:
    for name, record in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(record))
    return folder


def test_settings_of_a_whole_folder(tmp_path: Path) -> None:
    modules = [{"type": LIBRARY + "Transformer", "path": ""}, {"type": LIBRARY + "Pooling", "path": "1_Other"}]
    files: dict[str, Any] = {
        "modules.json": [*modules, {"type": LIBRARY + "Normalize", "path": "2_Normalize"}],
        "1_Other/config.json": {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True, "dim": 3},
        "sentence_bert_config.json": {"max_seq_length": 256},
    }
    found = read_embedding_settings(write(tmp_path, files))
    assert found == EmbeddingSettings(("cls", "mean"), True, 256, ("Transformer", "Pooling", "Normalize"))


def test_a_folder_without_settings_says_nothing(tmp_path: Path) -> None:
    assert read_embedding_settings(tmp_path) == EmbeddingSettings(None, False, None, ())


@pytest.mark.parametrize(
    ("record", "modes"),
    [
        ({"pooling_mode": "lasttoken"}, ("lasttoken",)),
        ({"pooling_mode": ["mean", "max"]}, ("mean", "max")),
        ({"pooling_mode_cls_token": False}, ("mean",)),
        ({"pooling_mode_attention": True}, ("pooling_mode_attention",)),
    ],
)
def test_names_of_poolings(tmp_path: Path, record: dict[str, Any], modes: tuple[str, ...]) -> None:
    assert read_embedding_settings(write(tmp_path, {"1_Pooling/config.json": record})).pooling == modes


def test_an_unknown_pooling_is_refused_where_it_is_used() -> None:
    assert check_pooling(("cls", "mean"), "model") == ("cls", "mean")
    with pytest.raises(CheckpointError, match="model: pools by attention, which is not known here; known are cls, max"):
        check_pooling(("attention",), "model")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"modules\.json: cannot be read"):
        read_embedding_settings(tmp_path)


@pytest.mark.parametrize("mode", POOLINGS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_is_not_pooled(mode: str, side: str) -> None:
    """Each row alone, by hand; the padding holds NaN or large values."""
    rng = np.random.default_rng(0)
    lengths, width = [1, 4, 2], 6
    rows = [rng.normal(size=(length, 3)).astype(np.float32) for length in lengths]
    states = np.full((3, width, 3), 99, np.float32)
    mask = np.zeros((3, width), np.int64)
    for number, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        states[number, place], mask[number, place] = row, 1
    expected = {
        "cls": [row[0] for row in rows],
        "max": [row.max(0) for row in rows],
        "mean": [row.mean(0) for row in rows],
        "mean_sqrt_len_tokens": [row.sum(0) / np.sqrt(len(row)) for row in rows],
        "weightedmean": [np.average(row, axis=0, weights=np.arange(1, len(row) + 1)) for row in rows],
        "lasttoken": [row[-1] for row in rows],
    }[mode]
    np.testing.assert_allclose(pool_states(states, mask, (mode,)), expected, rtol=1e-6)


def test_modes_are_put_side_by_side() -> None:
    states, mask = np.arange(12, dtype=np.float32).reshape(1, 4, 3), np.array([[1, 1, 0, 0]])
    np.testing.assert_array_equal(pool_states(states, mask, ("cls", "max")), [[0, 1, 2, 3, 4, 5]])


def test_a_row_of_zeros_is_not_scaled() -> None:
    found = scale_to_length_1(np.array([[3, 4], [0, 0]], np.float32))
    np.testing.assert_allclose(found, [[0.6, 0.8], [0, 0]])
