"""A checkpoint folder: `config.json`, `model.safetensors`, `tokenizer.json`.

- Weights are read from safetensors only; no pickle is loaded here.
- `config.json` holds all that a vector depends on beside weights and vocabulary, the tokenization settings included.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lengthwise.config import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    EncoderConfig,
    EncoderSettings,
    TokenizationSettings,
    load_encoder_config,
)
from lengthwise.encoder.model import PackedEncoder, seeded_encoder
from lengthwise.errors import CheckpointError
from lengthwise.tokens.tokenizer import TOKENIZER_FILE, TextTokenizer, check_tokenizer_fits, load_model_tokenizer
from lengthwise.util.files import replace_folder
from lengthwise.util.model_paths import (
    LFS_REMEDY,
    MODEL_TYPE,
    explain_model_path,
    hub_hint,
    is_artifact,
    is_lfs_pointer,
    model_type,
)


def save_checkpoint(folder: str | Path, encoder: PackedEncoder, tokenizer: TextTokenizer) -> None:
    """Write a checkpoint folder whole or not at all; an older checkpoint there is replaced.

    Raises:
        CheckpointError: the folder holds something else.
        TokenizerError: the tokenizer does not fit the encoder.
        StoreError: the folder cannot be written.
    """
    folder = Path(folder)
    if is_artifact(folder):
        raise CheckpointError(f"{folder}: an artifact, whose graphs would be lost; choose another folder")
    if folder.exists() and model_type(folder) != MODEL_TYPE and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder}: not empty, and not a checkpoint; choose another folder")
    check_tokenizer_fits(tokenizer, encoder.config, "the tokenizer")
    with replace_folder(folder) as part:
        write_checkpoint(part, encoder, tokenizer)


def write_checkpoint(folder: Path, encoder: PackedEncoder, tokenizer: TextTokenizer) -> None:
    """Write the three files of a checkpoint into a folder that exists."""
    config = encoder.config
    if config.tokenizer_fingerprint is not None:  # that of an older version may be of a tokenizer that samples
        config = config.model_copy(update={"tokenizer_fingerprint": tokenizer.fingerprint})
    record = {"model_type": "lengthwise", "architectures": ["PackedEncoder"], **config.model_dump(mode="json")}
    (folder / CONFIG_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    weights = {name: weight.detach().cpu().contiguous() for name, weight in encoder.state_dict().items()}
    try:
        save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    except SafetensorError as error:  # also when the disk is full
        raise CheckpointError(f"{folder / WEIGHTS_FILE}: cannot be written ({error})") from error
    (folder / TOKENIZER_FILE).write_text(tokenizer.to_json(), encoding="utf-8")


def load_checkpoint(
    folder: str | Path, tokenizer_path: str | Path | None = None
) -> tuple[PackedEncoder, TextTokenizer]:
    """Read a checkpoint folder; the encoder is in evaluation mode, on the CPU.

    Args:
        tokenizer_path: of another copy of its tokenizer, which has to be the one that the encoder was made for.

    Raises:
        CheckpointError: a file is missing or unreadable, or sizes do not fit each other (both are in the message).
        TokenizerError: the tokenizer is missing, unreadable, or not the encoder's.
    """
    folder = Path(folder)
    if model_type(folder) != MODEL_TYPE and (explanation := explain_model_path(folder)) is not None:
        raise CheckpointError(f"{folder}: {explanation}")
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder}: there is no such checkpoint; make one with lengthwise train or import, or with random weights"
            f" with init-model{hub_hint(folder)}"
        )
    encoder = load_encoder(folder)
    return encoder, load_model_tokenizer(folder, encoder.config, tokenizer_path)


def load_encoder(folder: Path) -> PackedEncoder:
    """The encoder of a checkpoint folder, in evaluation mode, on the CPU."""
    config = load_encoder_config(folder / CONFIG_FILE)
    path = folder / WEIGHTS_FILE
    try:
        weights = load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: the weights are missing; the checkpoint is incomplete") from None
    except (OSError, SafetensorError) as error:
        if is_lfs_pointer(path):
            raise CheckpointError(f"{path}: {LFS_REMEDY}") from None
        raise CheckpointError(f"{path}: not a safetensors file that can be read ({error})") from error
    _check_sizes(weights, config, path)
    with torch.device("meta"):
        encoder = PackedEncoder(config)
    _check_weights(weights, encoder.state_dict(), path)
    # Copied: the file's tensors start wherever its header ends, and products of another alignment differ in a bit.
    encoder.load_state_dict({name: weight.clone() for name, weight in weights.items()}, assign=True)
    return encoder.eval()


def create_checkpoint(
    folder: str | Path,
    tokenizer: TextTokenizer,
    shape: EncoderSettings = EncoderSettings(),
    tokenization: TokenizationSettings = TokenizationSettings(),
    *,
    pad_token: str = "[PAD]",
    unk_token: str | None = "[UNK]",
    seed: int = 0,
) -> EncoderConfig:
    """Save a new encoder with seeded random weights for a tokenizer, recorded as never trained.

    Raises:
        CheckpointError: the tokenizer lacks the pad token, or the folder holds something else.
    """
    pad_token_id = tokenizer.token_id(pad_token)
    if pad_token_id is None:
        raise CheckpointError(
            f"the tokenizer has no token {pad_token!r}; set tokenizer.training.pad_token to the one it pads with"
        )
    config = EncoderConfig(
        **shape.model_dump(),
        vocab_size=tokenizer.vocab_size,
        pad_token_id=pad_token_id,
        unk_token_id=None if unk_token is None else tokenizer.token_id(unk_token),
        tokenizer_fingerprint=tokenizer.fingerprint,
        trained=False,
        seed=seed,
        tokenization=tokenization,
    )
    save_checkpoint(folder, seeded_encoder(config, seed), tokenizer)
    return config


def weights_fingerprint(encoder: PackedEncoder) -> str:
    """sha256 (hex) over names, shapes, types and values of all weights, in order of name."""
    digest = hashlib.sha256()
    for name, weight in sorted(encoder.state_dict().items()):
        values = weight.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {list(values.shape)}\n".encode())
        digest.update(np.ascontiguousarray(values.view(torch.uint8).numpy()).data)
    return digest.hexdigest()


def _check_sizes(weights: Mapping[str, torch.Tensor], config: EncoderConfig, path: Path) -> None:
    """Refuse a config larger than its weights: even on the meta device, building such an encoder takes hours."""
    largest = sum(weight.numel() for weight in weights.values())
    names = ("num_layers", "vocab_size", "embedding_dim", "hidden_size", "attention_dim", "projection_dim")
    sizes = [(name, getattr(config, name) or 0) for name in names]
    sizes += [("dense", layer.dim) for layer in config.dense]
    sizes += [("classifier.dense", layer.dim) for layer in (config.classifier.dense if config.classifier else ())]
    for name, size in sizes:
        if size > largest:
            raise CheckpointError(
                f"{path} does not fit {CONFIG_FILE}: {name} is {size}, but there are {largest} weights"
                " in all; use the config.json of these weights"
            )


def _check_weights(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], path: Path) -> None:
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is not part of this encoder" for name in found if name not in expected]
    for name in expected.keys() & found.keys():
        if found[name].shape != expected[name].shape:
            sizes = f"{list(found[name].shape)} in the file, {list(expected[name].shape)} by config.json"
            problems.append(f"{name} is {sizes}")
        elif found[name].dtype != torch.float32:
            problems.append(f"{name} is {found[name].dtype}, not float32: save the weights as float32")
    if problems:
        raise CheckpointError(
            f"{path} does not fit {CONFIG_FILE}: {'; '.join(sorted(problems))}; use the config.json of these weights"
        )
