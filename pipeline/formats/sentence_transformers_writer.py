"""Writes an encoder as a folder that `SentenceTransformer(folder)` opens, in the layout of versions 2 to 5.

That layout's names are known to every version up to 6, while older ones do not know what version 6 writes. What the
library has no module for is refused: a folder that gave other vectors would be worse than none.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from lengthwise.config import EncoderConfig
from lengthwise.encoder.model import PackedEncoder
from lengthwise.errors import CheckpointError
from lengthwise.formats.embedding_folder import MODULES_FILE, OLD_POOLINGS
from lengthwise.formats.sentence_transformers_layout import (
    ACTIVATIONS,
    LINEAR,
    LSTM_FILE,
    LSTM_PREFIX,
    MODULE_FILE,
    NO_LIMIT,
    POOLINGS,
    SETTINGS_FILE,
    TABLE,
    TOKENIZER_CLASS,
    WEIGHTS_FILE,
    WORDS_FILE,
)
from lengthwise.tokens.tokenizer import TOKENIZER_FILE, TextTokenizer, check_tokenizer_fits
from lengthwise.util.files import replace_folder

_FORMAT = {"format": "pt"}
_POOLINGS = {key: POOLINGS[mode] for key, mode in OLD_POOLINGS.items() if mode in POOLINGS}  # in the library's order
_ONLY = {  # settings that the library has no counterpart of, with the one value that can be written
    "cell": "lstm",
    "gate_activation": "sigmoid",
    "static_residual": False,
    "padding": None,
}


def write_sentence_transformers(folder: Path, encoder: PackedEncoder, tokenizer: TextTokenizer) -> list[str]:
    """Write the folder whole or not at all.

    Returns:
        What a user should know of it.

    Raises:
        CheckpointError: the folder exists, or the encoder has a part that the library does not.
        StoreError: it cannot be written.
    """
    config = encoder.config
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder}: not empty; choose another folder")
    check_tokenizer_fits(tokenizer, config, "the tokenizer")
    _refuse_other_parts(config, tokenizer)
    weights = {name: weight.detach().cpu().float().contiguous() for name, weight in encoder.state_dict().items()}
    with replace_folder(folder) as part:
        modules = ["WordEmbeddings", "LSTM", "Pooling"]
        _write_tokenizer(part, config, tokenizer)
        save_file({TABLE: weights["embedding.weight"]}, part / WEIGHTS_FILE, metadata=_FORMAT)
        lstm = {
            f"{LSTM_PREFIX}{name.partition('.')[2]}": weight
            for name, weight in weights.items()
            if name.startswith("lstm.")
        }
        _write_module(part / "1_LSTM", LSTM_FILE, _lstm_settings(config), lstm)
        _write_module(part / "2_Pooling", MODULE_FILE, _pooling_settings(config), {})
        for settings, layer in _dense_layers(config, weights):
            _write_module(part / f"{len(modules)}_Dense", MODULE_FILE, settings, layer)
            modules.append("Dense")
        if config.normalize:
            (part / f"{len(modules)}_Normalize").mkdir()
            modules.append("Normalize")
        entries = [
            {
                "idx": number,
                "name": str(number),
                "path": "" if number == 0 else f"{number}_{kind}",
                "type": f"sentence_transformers.models.{kind}",
            }
            for number, kind in enumerate(modules)
        ]
        _write_json(part / MODULES_FILE, entries)
        _write_json(part / SETTINGS_FILE, {"prompts": {}, "default_prompt_name": None})
    notes = []
    if config.classifier is not None:
        notes.append("the labels are left out: the library has no place for them")
    if "max" in config.pooling.split("_") or config.dense or config.projection_dim is not None:
        notes.append("a text without tokens has a vector of zeros here; the library gives it another one")
    return notes


def _refuse_other_parts(config: EncoderConfig, tokenizer: TextTokenizer) -> None:
    for name, value in _ONLY.items():
        if (found := getattr(config, name)) != value:
            raise CheckpointError(f"{name} is {found!r}, for which sentence-transformers has no module")
    parts = _pooling_parts(config)
    if parts != [part for part in _POOLINGS.values() if part in parts]:
        raise CheckpointError(
            f"pooling is {config.pooling!r}, for which sentence-transformers has no module; it has mean, max and the"
            " state at the last token, which of a bidirectional LSTM is end and not last"
        )
    if config.tokenization.truncate and config.tokenization.add_special_tokens and tokenizer.suffix:
        raise CheckpointError(
            "the model cuts long texts and ends them with special tokens, and sentence-transformers would cut those;"
            " leave truncation out of the checkpoint first"
        )


def _pooling_parts(config: EncoderConfig) -> list[str]:
    parts = config.pooling.split("_")
    return parts if config.bidirectional else ["end" if part == "last" else part for part in parts]


def _lstm_settings(config: EncoderConfig) -> dict[str, Any]:
    return {
        "word_embedding_dimension": config.embedding_dim,
        "hidden_dim": config.hidden_size,
        "num_layers": config.num_layers,
        "dropout": 0,
        "bidirectional": config.bidirectional,
    }


def _pooling_settings(config: EncoderConfig) -> dict[str, Any]:
    parts = _pooling_parts(config)
    modes = {key: part in parts for key, part in _POOLINGS.items()}
    return {"word_embedding_dimension": config.state_dim, "pooling_mode_cls_token": False, **modes}


def _dense_layers(config: EncoderConfig, weights: dict[str, Tensor]) -> list[tuple[dict[str, Any], dict[str, Tensor]]]:
    """The settings and weights of the Dense modules."""
    layers = [(f"dense.{number}", layer.activation) for number, layer in enumerate(config.dense)]
    if config.projection_dim is not None:
        layers.append(("projection", "identity"))
    found = []
    for name, activation in layers:
        if activation not in ACTIVATIONS:
            raise CheckpointError(f"the activation of {name} is {activation!r}, which cannot be written")
        weight, bias = weights[f"{name}.weight"], weights.get(f"{name}.bias")
        settings = {
            "in_features": weight.shape[1],
            "out_features": weight.shape[0],
            "bias": bias is not None,
            "activation_function": ACTIVATIONS[activation],
        }
        found.append((settings, {f"{LINEAR}.weight": weight} | ({} if bias is None else {f"{LINEAR}.bias": bias})))
    return found


def _write_tokenizer(folder: Path, config: EncoderConfig, tokenizer: TextTokenizer) -> None:
    copied = Tokenizer.from_str(tokenizer.to_json())
    if not config.tokenization.add_special_tokens:
        copied.post_processor = None
    (folder / TOKENIZER_FILE).write_text(copied.to_str(pretty=True), encoding="utf-8")
    _write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    limit = config.tokenization.max_length if config.tokenization.truncate else None
    settings = {
        "tokenizer_class": f"sentence_transformers.models.tokenizer.{TOKENIZER_CLASS}",
        "update_embeddings": False,
        "max_seq_length": NO_LIMIT if limit is None else limit,
    }
    _write_json(folder / WORDS_FILE, settings)


def _write_module(folder: Path, name: str, settings: dict[str, Any], weights: dict[str, Tensor]) -> None:
    folder.mkdir()
    _write_json(folder / name, settings)
    if weights:
        save_file(weights, folder / WEIGHTS_FILE, metadata=_FORMAT)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
