"""A checkpoint folder and the encoder in it: `config.json`, `model.safetensors`, `tokenizer.json`.

Weights are read from safetensors only; no pickle is loaded here.
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
    EncoderConfig,
    EncoderSettings,
    RunConfig,
    TokenizationSettings,
    load_encoder_config,
)
from lengthwise.encoder.model import PackedEncoder, seeded_encoder
from lengthwise.errors import CheckpointError
from lengthwise.tokens.tokenizer import TextTokenizer, check_tokenizer_fits, load_run_tokenizer, load_tokenizer
from lengthwise.util.files import replace_folder

WEIGHTS_FILE, TOKENIZER_FILE = "model.safetensors", "tokenizer.json"


def save_checkpoint(folder: str | Path, encoder: PackedEncoder, tokenizer: TextTokenizer) -> None:
    """Write a checkpoint folder whole or not at all; an older one at the same place is replaced."""
    check_tokenizer_fits(tokenizer, encoder.config, "the tokenizer")
    with replace_folder(folder) as part:
        write_checkpoint(part, encoder, tokenizer)


def write_checkpoint(folder: Path, encoder: PackedEncoder, tokenizer: TextTokenizer) -> None:
    """Write the three files of a checkpoint into a folder that exists."""
    record = {"model_type": "lengthwise", "architectures": ["PackedEncoder"], **encoder.config.model_dump(mode="json")}
    (folder / CONFIG_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    weights = {name: weight.detach().cpu().contiguous() for name, weight in encoder.state_dict().items()}
    try:
        save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    except SafetensorError as error:  # the library's word for a full disk too
        raise CheckpointError(f"{folder / WEIGHTS_FILE}: cannot be written ({error})") from error
    (folder / TOKENIZER_FILE).write_text(tokenizer.to_json(), encoding="utf-8")


def load_checkpoint(folder: str | Path) -> tuple[PackedEncoder, TextTokenizer]:
    """Read a checkpoint folder.

    Raises:
        CheckpointError: a file is missing or unreadable, or sizes do not fit each other (both are in the message).
        TokenizerError: the tokenizer is missing, unreadable, or not the encoder's.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: there is no such checkpoint; make one with scripts/init_model.py")
    encoder = load_encoder(folder)
    tokenizer = load_tokenizer(folder / TOKENIZER_FILE)
    check_tokenizer_fits(tokenizer, encoder.config, str(folder / TOKENIZER_FILE))
    return encoder, tokenizer


def load_encoder(folder: Path) -> PackedEncoder:
    """The encoder of a checkpoint folder, in evaluation mode, on the CPU."""
    config = load_encoder_config(folder / CONFIG_FILE)
    path = folder / WEIGHTS_FILE
    try:
        weights = load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: the weights are missing; the checkpoint is incomplete") from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a safetensors file that can be read ({error})") from error
    _check_sizes(weights, config, path)
    with torch.device("meta"):
        encoder = PackedEncoder(config)
    _check_weights(weights, encoder.state_dict(), path)
    # Copies, since the file's own bytes lie where its header ends, and products of other alignment differ in a bit.
    encoder.load_state_dict({name: weight.clone() for name, weight in weights.items()}, assign=True)
    return encoder.eval()


def load_run_model(run: RunConfig) -> tuple[PackedEncoder, TextTokenizer]:
    """The encoder that a run names, and its tokenizer: the one at `tokenizer.path`, or else the checkpoint's own."""
    encoder, tokenizer = load_checkpoint(run.model.path)
    if run.tokenizer.path is not None:
        tokenizer = load_run_tokenizer(run, run.model.path, encoder.config)
    return encoder, tokenizer


def create_checkpoint(run: RunConfig, tokenizer: TextTokenizer) -> EncoderConfig:
    """Make and save a seeded checkpoint for a tokenizer; it says of itself that it was never trained.

    Raises:
        CheckpointError: the tokenizer lacks the configured pad token.
    """
    settings, names = run.model, run.tokenizer.training
    pad_token_id = tokenizer.token_id(names.pad_token)
    if pad_token_id is None:
        raise CheckpointError(
            f"the tokenizer has no token {names.pad_token!r}; set tokenizer.training.pad_token to the one it pads with"
        )
    config = EncoderConfig(
        **{name: getattr(settings.init, name) for name in EncoderSettings.model_fields},
        vocab_size=tokenizer.vocab_size,
        pad_token_id=pad_token_id,
        unk_token_id=tokenizer.token_id(names.unk_token),
        tokenizer_fingerprint=tokenizer.fingerprint,
        trained=False,
        seed=settings.seed,
        tokenization=run.resolve_tokenization(TokenizationSettings()),
    )
    save_checkpoint(settings.path, seeded_encoder(config, settings.seed), tokenizer)
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
    """Refuse an encoder that is larger than all weights: even without memory for them, it takes hours to make one."""
    largest = sum(weight.numel() for weight in weights.values())
    for name in ("num_layers", "vocab_size", "embedding_dim", "hidden_size", "projection_dim"):
        if (getattr(config, name) or 0) > largest:
            raise CheckpointError(
                f"{path} does not fit {CONFIG_FILE}: {name} is {getattr(config, name)}, but there are {largest} weights"
                " in all; use the config.json of these weights"
            )


def _check_weights(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], path: Path) -> None:
    problems = [f"{name} is missing" for name in wanted if name not in found]
    problems += [f"{name} is not part of this encoder" for name in found if name not in wanted]
    for name in wanted.keys() & found.keys():
        if found[name].shape != wanted[name].shape:
            sizes = f"{list(found[name].shape)} in the file, {list(wanted[name].shape)} by config.json"
            problems.append(f"{name} is {sizes}")
        elif found[name].dtype != torch.float32:
            problems.append(f"{name} is {found[name].dtype}, not float32: save the weights as float32")
    if problems:
        raise CheckpointError(
            f"{path} does not fit {CONFIG_FILE}: {'; '.join(sorted(problems))}; use the config.json of these weights"
        )
