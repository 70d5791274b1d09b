"""What the files of an embedding model say of its vectors: how token states are pooled, scaled and cut.

The layout is that of sentence-transformers (`modules.json`, `1_Pooling/config.json`, `sentence_bert_config.json`),
which ONNX models of optimum and fastembed are published in too. Nothing that a file names is imported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lengthwise.errors import CheckpointError
from lengthwise.util.text_files import read_text

MODULES_FILE, POOLING_FILE = "modules.json", "1_Pooling/config.json"
POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
# Older settings, in the order in which sentence-transformers puts their results side by side.
OLD_POOLINGS: Mapping[str, str] = MappingProxyType(
    {
        "pooling_mode_cls_token": "cls",
        "pooling_mode_max_tokens": "max",
        "pooling_mode_mean_tokens": "mean",
        "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
        "pooling_mode_weightedmean_tokens": "weightedmean",
        "pooling_mode_lasttoken": "lasttoken",
    }
)
_NO_LIMIT = 1_000_000  # lengths from here on stand for none
_NORM_FLOOR = 1e-12


@dataclass(frozen=True)
class EmbeddingSettings:
    """What the files beside a model say.

    Attributes:
        pooling: modes, side by side, which `check_pooling` checks; None where no file says.
        normalize: whether vectors are scaled to length 1.
        max_length: tokens at which texts are cut, special tokens included; None where no file says.
        modules: the names of the modules' classes, in order; empty without `modules.json`.
    """

    pooling: tuple[str, ...] | None = None
    normalize: bool = False
    max_length: int | None = None
    modules: tuple[str, ...] = ()


def read_embedding_settings(folder: Path) -> EmbeddingSettings:
    """Read the settings of a model's folder.

    Raises:
        CheckpointError: a file cannot be read.
    """
    modules = read_json(folder / MODULES_FILE) or []
    entries = [each for each in modules if isinstance(each, dict)] if isinstance(modules, list) else []
    kinds = tuple(str(each.get("type", "")).rpartition(".")[2] for each in entries)
    place = next(
        (str(each.get("path", "")) for each, kind in zip(entries, kinds, strict=True) if kind == "Pooling"), ""
    )
    pooling = read_json(folder / place / "config.json" if place else folder / POOLING_FILE)
    limit = (read_json(folder / "sentence_bert_config.json") or {}).get("max_seq_length")
    return EmbeddingSettings(
        pooling=None if pooling is None else _modes(pooling, folder),
        normalize="Normalize" in kinds,
        max_length=limit if isinstance(limit, int) and 2 < limit < _NO_LIMIT else None,
        modules=kinds,
    )


def check_pooling(modes: tuple[str, ...], origin: str) -> tuple[str, ...]:
    """The modes, if all are of `POOLINGS`.

    Raises:
        CheckpointError: one is not.
    """
    for mode in modes:
        if mode not in POOLINGS:
            raise CheckpointError(
                f"{origin}: pools by {mode}, which is not known here; known are {', '.join(POOLINGS)}"
            )
    return modes


def pool_states(
    states: NDArray[np.float32], attention_mask: NDArray[np.int64], modes: tuple[str, ...]
) -> NDArray[np.float32]:
    """Vectors of token states, as sentence-transformers pools them; padding may be on either side.

    Args:
        states: float32[batch, sequence, width].
        attention_mask: int64[batch, sequence], 0 at padding.
        modes: of `POOLINGS`; their results are put side by side.

    Returns:
        float32[batch, modes * width]; of a row of padding alone, zeros by a mean, and undefined by the other modes.
    """
    return np.concatenate([_POOL[mode](states, attention_mask) for mode in modes], axis=1)


def scale_to_length_1(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors, [batch, dim], divided by their lengths; zeros stay zeros."""
    with np.errstate(invalid="ignore", over="ignore"):  # values that are no numbers stay so
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _NORM_FLOOR)


def _mean(states: NDArray[np.float32], mask: NDArray[np.int64]) -> NDArray[np.float32]:
    return _sum(states, mask) / np.maximum(mask.sum(axis=1, keepdims=True), 1).astype(np.float32)


def _mean_by_root(states: NDArray[np.float32], mask: NDArray[np.int64]) -> NDArray[np.float32]:
    return _sum(states, mask) / np.sqrt(np.maximum(mask.sum(axis=1, keepdims=True), 1)).astype(np.float32)


def _weighted_mean(states: NDArray[np.float32], mask: NDArray[np.int64]) -> NDArray[np.float32]:
    weights = np.cumsum(mask, axis=1) * mask  # 1, 2, ... from the first token on
    return _sum(states, weights) / np.maximum(weights.sum(axis=1, keepdims=True), 1).astype(np.float32)


def _sum(states: NDArray[np.float32], weights: NDArray[np.int64]) -> NDArray[np.float32]:
    real: NDArray[np.float32] = np.where(weights[:, :, None] != 0, states, np.float32(0))  # padding may hold NaN
    total: NDArray[np.float32] = (real * weights[:, :, None].astype(np.float32)).sum(axis=1)
    return total


def _max(states: NDArray[np.float32], mask: NDArray[np.int64]) -> NDArray[np.float32]:
    largest: NDArray[np.float32] = np.where(mask[:, :, None] != 0, states, np.float32(-np.inf)).max(axis=1)
    return largest


def _first(states: NDArray[np.float32], mask: NDArray[np.int64]) -> NDArray[np.float32]:
    return states[np.arange(len(states)), mask.argmax(axis=1)]


def _last(states: NDArray[np.float32], mask: NDArray[np.int64]) -> NDArray[np.float32]:
    return states[np.arange(len(states)), mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)]


_POOL = MappingProxyType(
    {
        "cls": _first,
        "max": _max,
        "mean": _mean,
        "mean_sqrt_len_tokens": _mean_by_root,
        "weightedmean": _weighted_mean,
        "lasttoken": _last,
    }
)


def _modes(settings: Any, folder: Path) -> tuple[str, ...]:
    if not isinstance(settings, dict):
        raise CheckpointError(f"{folder}: the settings of its pooling are no settings, but {settings!r}")
    modes = settings.get("pooling_mode")
    if modes is None:
        unknown = [key for key, on in settings.items() if on is True and _is_mode(key) and key not in OLD_POOLINGS]
        modes = unknown or [mode for key, mode in OLD_POOLINGS.items() if settings.get(key)] or ["mean"]
    return (modes,) if isinstance(modes, str) else tuple(map(str, modes))


def _is_mode(key: str) -> bool:
    return key.startswith("pooling_mode_")


def read_json(path: Path) -> Any:
    """What a JSON file holds; None where there is no such file.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        return json.loads(read_text(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
