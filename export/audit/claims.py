"""What a model's files claim: pooling, length 1, the maximum length, the side of the padding, saved settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lengthwise.formats.embedding_folder import EmbeddingSettings, read_embedding_settings, read_json
from lengthwise.tokens.tokenizer import TOKENIZER_FILE
from lengthwise.util.model_paths import MODEL_TYPE

Side = Literal["right", "left"]
_NO_LIMIT = 1_000_000
_FIRST_POSITION = ("roberta", "camembert", "mpnet", "longformer")  # model types whose positions begin after the pad id
_SAMPLING = ("dropout", "alpha", "nbest_size")


@dataclass(frozen=True)
class Claims:
    """What the files say; the defaults are of a model without any.

    Attributes:
        settings: pooling, length 1 and modules.
        max_length: tokens of the longest text, special ones included; None where no file says.
        max_length_from: the file and setting of it.
        side: the side on which the tokenizer pads.
        pad_id: the id that fills the padding.
        fixed_padding: the length to which tokenizer.json pads each text; None if it does not.
        truncation: the length at which tokenizer.json cuts; None if it does not.
        sampling: settings of tokenizer.json that make ids random.
    """

    settings: EmbeddingSettings = field(default_factory=EmbeddingSettings)
    max_length: int | None = None
    max_length_from: str = ""
    side: Side = "right"
    pad_id: int = 0
    fixed_padding: int | None = None
    truncation: int | None = None
    sampling: tuple[str, ...] = ()


def read_claims(folder: Path) -> Claims:
    """Read a model's folder; missing files are no error.

    Raises:
        CheckpointError: a file cannot be read.
    """
    settings = read_embedding_settings(folder)
    config, tokenizer_config = _record(folder / "config.json"), _record(folder / "tokenizer_config.json")
    tokenizer = _record(folder / TOKENIZER_FILE)
    limit, source = _max_length(settings, config, tokenizer_config)
    padding, truncation = _part(tokenizer, "padding"), _part(tokenizer, "truncation")
    strategy = padding.get("strategy")
    side = tokenizer_config.get("padding_side") or str(padding.get("direction", "right")).lower()
    model = _part(tokenizer, "model")
    return Claims(
        settings=settings,
        max_length=limit,
        max_length_from=source,
        side="left" if side == "left" else "right",
        pad_id=_pad_id(config, tokenizer_config, tokenizer),
        fixed_padding=strategy.get("Fixed") if isinstance(strategy, dict) else None,
        truncation=truncation.get("max_length"),
        sampling=tuple(name for name in _SAMPLING if isinstance(model.get(name), int | float) and model[name]),
    )


def _max_length(settings: EmbeddingSettings, config: dict[str, Any], tokenizer: dict[str, Any]) -> tuple[Any, str]:
    if settings.max_length is not None:
        return settings.max_length, "sentence_bert_config.json's max_seq_length"
    if config.get("model_type") == MODEL_TYPE:
        return _part(config, "tokenization").get("max_length"), "config.json's tokenization.max_length"
    found = tokenizer.get("model_max_length")
    if isinstance(found, int) and 2 < found < _NO_LIMIT:
        return found, "tokenizer_config.json's model_max_length"
    found = config.get("max_position_embeddings")
    if isinstance(found, int) and found > 2:
        starts_late = any(name in str(config.get("model_type", "")) for name in _FIRST_POSITION)
        first = int(config.get("pad_token_id") or 0) + 1 if starts_late else 0
        return found - first, "config.json's max_position_embeddings"
    return None, ""


def _pad_id(config: dict[str, Any], tokenizer_config: dict[str, Any], tokenizer: dict[str, Any]) -> int:
    saved = _part(tokenizer, "padding").get("pad_id")
    if isinstance(saved, int):
        return saved
    named = tokenizer_config.get("pad_token")
    content = named.get("content") if isinstance(named, dict) else named
    added = tokenizer.get("added_tokens")
    for token in added if isinstance(added, list) else []:
        if isinstance(token, dict) and content is not None and token.get("content") == content:
            return int(token["id"])
    found = config.get("pad_token_id")
    return found if isinstance(found, int) and found >= 0 else 0


def _record(path: Path) -> dict[str, Any]:
    found = read_json(path)
    return found if isinstance(found, dict) else {}


def _part(record: dict[str, Any], name: str) -> dict[str, Any]:
    found = record.get(name)
    return found if isinstance(found, dict) else {}
