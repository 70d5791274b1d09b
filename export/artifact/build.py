"""Make an artifact folder out of a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import onnxscript
import torch
from safetensors import SafetensorError
from safetensors.numpy import save_file

from lengthwise import __version__
from lengthwise.encoder.checkpoint import weights_fingerprint, write_checkpoint
from lengthwise.encoder.model import PackedEncoder
from lengthwise.errors import ArtifactError
from lengthwise.export.artifact.card import model_card
from lengthwise.export.artifact.folder import (
    CARD_FILE,
    GOLDEN_FILE,
    MANIFEST_FILE,
    PROGRAM_FILE,
    PROGRAM_PORTABLE_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENS_FILE,
    TORCHSCRIPT_FILE,
    TORCHSCRIPT_PORTABLE_FILE,
    Artifact,
    describe_files,
    write_manifest,
)
from lengthwise.export.graphs.portable_lstm import dense, scanned
from lengthwise.export.graphs.rewrite import REWRITES
from lengthwise.export.graphs.trace import (
    OPSET,
    ClientEncoder,
    OnnxClientEncoder,
    PortableClientEncoder,
    program_to_onnx,
    save_onnx,
    save_program,
    save_torchscript,
    trace_to_program,
    trace_to_torchscript,
)
from lengthwise.export.graphs.variants import NATIVE, PORTABLE, VARIANTS
from lengthwise.export.runtimes.registry import RUNTIMES
from lengthwise.export.validation.cases import golden_case, one_row_at_a_time
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.util.files import replace_folder

_NO_LIMIT = 2**31 - 1  # tokens a text: the encoder has none, but fastembed opens no folder that names none


def build_artifact(
    encoder: PackedEncoder,
    tokenizer: TextTokenizer,
    output: str | Path,
    *,
    variants: Iterable[str] = tuple(VARIANTS),
) -> Artifact:
    """Export an encoder and its tokenizer into a folder, whole or not at all.

    An older artifact at the same place is replaced; anything else there is refused.

    Args:
        variants: the graphs to write besides the native one, which always is; see `graphs.variants`. TorchScript and
            `.pt2` come in a native and, with the variant of that name, a portable form.

    Raises:
        ArtifactError: the folder holds something else, or the encoder cannot be exported.
        StoreError: the folder cannot be written.
    """
    output = Path(output)
    if output.exists() and not (output / MANIFEST_FILE).is_file() and (not output.is_dir() or any(output.iterdir())):
        raise ArtifactError(f"{output}: not empty, and not an artifact; choose another export.output")
    weights = weights_fingerprint(encoder)
    versions = {
        "lengthwise": __version__,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxscript": onnxscript.__version__,
        "opset": OPSET,
    }
    with replace_folder(output) as part:
        write_checkpoint(part, encoder, tokenizer)
        _write_tokenizer_settings(part, encoder, tokenizer)
        _write_graphs(part, encoder, _metadata(encoder, weights), set(variants))
        _write_golden(part, encoder)
        (part / CARD_FILE).write_text(model_card(encoder.config, part), encoding="utf-8")
        manifest = {
            "format": 1,
            "weights": weights,
            "versions": versions,
            "variants": {v.name: v.file for v in VARIANTS.values() if (part / v.file).exists()},
            "tolerances": {runtime.name: runtime.tolerance for runtime in RUNTIMES},
            "files": describe_files(part),
        }
        write_manifest(part, manifest)
    return Artifact(output, manifest)


def _write_graphs(folder: Path, encoder: PackedEncoder, metadata: dict[str, str], variants: set[str]) -> None:
    for name in {variant.file for variant in VARIANTS.values()} | {TORCHSCRIPT_FILE, PROGRAM_FILE}:
        (folder / name).parent.mkdir(exist_ok=True)
    program = trace_to_program(OnnxClientEncoder(encoder))
    native = program_to_onnx(program, metadata)
    for variant in variants - {NATIVE}:
        save_onnx(REWRITES[variant](native), folder / VARIANTS[variant].file)
    save_onnx(native, folder / VARIANTS[NATIVE].file)  # the last, for saving a large model takes its weights out
    save_program(program, folder / PROGRAM_FILE)
    save_torchscript(trace_to_torchscript(ClientEncoder(encoder)), folder / TORCHSCRIPT_FILE)
    if PORTABLE in variants:
        save_program(trace_to_program(PortableClientEncoder(encoder, scanned)), folder / PROGRAM_PORTABLE_FILE)
        save_torchscript(
            trace_to_torchscript(PortableClientEncoder(encoder, dense)), folder / TORCHSCRIPT_PORTABLE_FILE
        )


def _metadata(encoder: PackedEncoder, weights: str) -> dict[str, str]:
    """What a graph says of itself, for those who have the graph alone."""
    config = encoder.config
    return {
        "lengthwise.version": __version__,
        "lengthwise.torch_version": torch.__version__,
        "lengthwise.weights_sha256": weights,
        "lengthwise.pooling": config.pooling,
        "lengthwise.normalize": str(config.normalize).lower(),
        "lengthwise.dim": str(config.dim),
        "lengthwise.vocab_size": str(config.vocab_size),
        "lengthwise.pad_token_id": str(config.pad_token_id),
        "lengthwise.trained": str(config.trained).lower(),
        "lengthwise.variant": NATIVE,
        "lengthwise.independent_of_batch": "true",
    }


def _write_tokenizer_settings(folder: Path, encoder: PackedEncoder, tokenizer: TextTokenizer) -> None:
    """What Hugging Face clients read beside tokenizer.json."""
    max_length, truncate = encoder.config.tokenization.max_length, encoder.config.tokenization.truncate
    ids = {"pad_token": encoder.config.pad_token_id, "unk_token": encoder.config.unk_token_id}
    tokens = {name: tokenizer.token(token_id) for name, token_id in ids.items() if token_id is not None}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": max_length if truncate and max_length else _NO_LIMIT,
        "padding_side": "right",
        "truncation_side": "right",
        "clean_up_tokenization_spaces": False,
        **tokens,
    }
    for name, record in ((TOKENIZER_CONFIG_FILE, settings), (TOKENS_FILE, tokens)):
        (folder / name).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_golden(folder: Path, encoder: PackedEncoder) -> None:
    case = golden_case(encoder.config.vocab_size)
    vectors = one_row_at_a_time(encoder, case).vectors
    tensors: dict[str, np.ndarray] = {
        "input_ids": case.input_ids,
        "lengths": case.lengths,
        "vectors": np.ascontiguousarray(vectors),
    }
    try:
        save_file(tensors, folder / GOLDEN_FILE)
    except SafetensorError as error:  # the library's word for a full disk too
        raise ArtifactError(f"{folder / GOLDEN_FILE}: cannot be written ({error})") from error
