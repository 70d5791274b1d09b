"""Builds an artifact folder from an encoder and its tokenizer."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import onnxscript
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file

from lengthwise import __version__
from lengthwise.config import EncoderConfig, RunConfig
from lengthwise.encoder.checkpoint import load_checkpoint, weights_fingerprint, write_checkpoint
from lengthwise.encoder.model import PackedEncoder
from lengthwise.errors import ArtifactError
from lengthwise.export.artifact.card import model_card
from lengthwise.export.artifact.folder import (
    CARD_FILE,
    GOLDEN_FILE,
    MANIFEST_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENS_FILE,
    Artifact,
    describe_files,
    write_manifest,
)
from lengthwise.export.artifact.oracle import OracleEncoder, compute_oracle
from lengthwise.export.artifact.rounding import Rounding
from lengthwise.export.graphs.coreml import save_coreml
from lengthwise.export.graphs.executorch import save_executorch
from lengthwise.export.graphs.litert import save_litert
from lengthwise.export.graphs.ort_format import save_ort
from lengthwise.export.graphs.portable_lstm import dense, scanned
from lengthwise.export.graphs.rewrite import REWRITES, missing_variants
from lengthwise.export.graphs.text_input import save_text_graph
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
from lengthwise.export.graphs.variants import (
    COREML,
    DEVICE_VARIANTS,
    EVERY_VARIANT,
    EXECUTORCH,
    LITERT,
    NATIVE,
    ORT,
    ORT_OPERATORS_FILE,
    PORTABLE,
    PROGRAM_FILES,
    TEXT,
    TORCHSCRIPT_FILES,
    VARIANTS,
)
from lengthwise.export.runtimes.tolerances import TOLERANCES
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.util.files import replace_folder, write_atomically

log = logging.getLogger(__name__)
RUN_FILE = "run.yaml"
_NO_LIMIT = 2**31 - 1  # tokens per text: the encoder has no limit, but fastembed requires one
_GOLDEN_LENGTHS = (1, 1, 2, 3, 4, 5, 7, 8, 11, 13, 16, 17, 24, 32, 48, 64)
_SAMPLES = 8  # of rounding, at each of these lengths


def export_run(config: RunConfig) -> Artifact:
    """Export the encoder of a run to `export.output`; the resolved configuration is saved in it as run.yaml.

    Raises:
        LengthwiseError: the model cannot be loaded, or as `build_artifact`.
    """
    encoder, tokenizer = load_checkpoint(config.model.path, config.tokenizer.path)
    tokenization = config.resolve_tokenization(encoder.config.tokenization)
    encoder.config = encoder.config.model_copy(update={"tokenization": tokenization})
    return build_artifact(
        encoder,
        tokenizer,
        config.export.output,
        variants=config.export.variants,
        extra_files={RUN_FILE: config.to_yaml()},
    )


def build_artifact(
    encoder: PackedEncoder,
    tokenizer: TextTokenizer,
    output: str | Path,
    *,
    variants: Iterable[str] | None = None,
    extra_files: Mapping[str, str] = MappingProxyType({}),
) -> Artifact:
    """Export an encoder and its tokenizer to a folder, atomically.

    An older artifact at the same path is replaced, which is logged if it is of other weights. A folder with other
    contents is refused.

    Args:
        encoder: the encoder, in evaluation mode.
        tokenizer: its tokenizer.
        output: the artifact's folder.
        variants: the graphs to write besides the native one, which is always written; all of `VARIANTS` where they are
            left out, and those of `DEVICE_VARIANTS` only if they are named. TorchScript and `.pt2` are written in a
            native and, with the variant of that name, a portable form. Graphs that an encoder cannot have
            (`missing_variants`) are left out, with a warning.
        extra_files: by name, the contents of further text files of the artifact.

    Raises:
        ArtifactError: the folder has other contents, a graph's name is none of `EVERY_VARIANT`, or the encoder cannot
            be exported.
        StoreError: the folder cannot be written.
    """
    output = Path(output)
    if output.exists() and not (output / MANIFEST_FILE).is_file() and (not output.is_dir() or any(output.iterdir())):
        raise ArtifactError(f"{output}: not empty, and not an artifact; choose another export.output")
    possible = _possible_variants(variants, encoder.config)
    weights = weights_fingerprint(encoder)
    _report_replaced(output, weights)
    with replace_folder(output) as part:
        write_checkpoint(part, encoder, tokenizer)
        _write_tokenizer_settings(part, encoder, tokenizer)
        _write_graphs(part, encoder, tokenizer, _metadata(encoder, weights), possible)
        rounding = _write_golden(part, encoder)
        card = model_card(encoder.config, part)
        for name, content in {CARD_FILE: card, **extra_files}.items():
            write_atomically(part / name, content.encode())
        manifest = _manifest(part, weights, rounding)
        write_manifest(part, manifest)
    return Artifact(output, manifest)


def _report_replaced(folder: Path, weights: str) -> None:
    """Log that a folder holds the artifact of another model, which is about to be replaced."""
    try:
        before = json.loads((folder / MANIFEST_FILE).read_text())["weights"]
    except (OSError, ValueError, KeyError, TypeError):  # none, or a damaged one, which is no loss
        return
    if before != weights:
        log.warning("%s holds the artifact of another model (weights %.12s), which is replaced", folder, before)


def _possible_variants(variants: Iterable[str] | None, config: EncoderConfig) -> set[str]:
    """The graphs of these names that an encoder can have; the others are logged."""
    requested, missing = set(VARIANTS if variants is None else variants), missing_variants(config)
    unknown = sorted(requested - EVERY_VARIANT.keys())
    if unknown:
        raise ArtifactError(
            f"there is no graph {unknown[0]!r}; choose from {', '.join(EVERY_VARIANT)} (export.variants)"
        )
    for name in sorted(requested & missing.keys()):
        log.warning("the graph %s is left out: %s", name, missing[name])
    return requested - missing.keys()


def _manifest(folder: Path, weights: str, rounding: Rounding) -> dict[str, Any]:
    """The manifest of the files in a folder."""
    return {
        "format": 1,
        "weights": weights,
        "versions": {
            "lengthwise": __version__,
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "onnxscript": onnxscript.__version__,
            "opset": OPSET,
        },
        "variants": {v.name: v.file for v in EVERY_VARIANT.values() if (folder / v.file).exists()},
        "tolerances": dict(TOLERANCES),
        "rounding": rounding.record(),
        "files": describe_files(folder),
    }


def _write_graphs(
    folder: Path, encoder: PackedEncoder, tokenizer: TextTokenizer, metadata: dict[str, str], variants: set[str]
) -> None:
    for name in {variant.file for variant in VARIANTS.values()} | {TORCHSCRIPT_FILES[NATIVE], PROGRAM_FILES[NATIVE]}:
        (folder / name).parent.mkdir(exist_ok=True)
    program = trace_to_program(OnnxClientEncoder(encoder))
    native = program_to_onnx(program, metadata)
    for variant in variants & REWRITES.keys():
        save_onnx(REWRITES[variant](native), folder / VARIANTS[variant].file)
    save_onnx(native, folder / VARIANTS[NATIVE].file)  # last, because saving a large model removes its weights
    save_program(program, folder / PROGRAM_FILES[NATIVE])
    save_torchscript(trace_to_torchscript(ClientEncoder(encoder)), folder / TORCHSCRIPT_FILES[NATIVE])
    if PORTABLE in variants:
        save_program(trace_to_program(PortableClientEncoder(encoder, scanned)), folder / PROGRAM_FILES[PORTABLE])
        script = trace_to_torchscript(PortableClientEncoder(encoder, dense))
        save_torchscript(script, folder / TORCHSCRIPT_FILES[PORTABLE])
    for variant in variants & DEVICE_VARIANTS.keys():
        (folder / DEVICE_VARIANTS[variant].file).parent.mkdir(parents=True)
        _write_for_devices(variant, folder, encoder, tokenizer, native)


def _write_for_devices(
    variant: str, folder: Path, encoder: PackedEncoder, tokenizer: TextTokenizer, native: onnx.ModelProto
) -> None:
    """Write a graph for phones and browsers; the native graph is there already.

    Raises:
        ArtifactError: the encoder is too large for the format, or as the function that writes it.
    """
    if (folder / f"{VARIANTS[NATIVE].file}.data").exists():
        raise ArtifactError(
            f"the graph {variant} holds 2 GB at most, and this encoder's is larger; leave it out of export.variants"
        )
    file = folder / DEVICE_VARIANTS[variant].file
    if variant == ORT:
        save_ort(folder / VARIANTS[NATIVE].file, file, folder / ORT_OPERATORS_FILE)
    elif variant == EXECUTORCH:
        save_executorch(encoder, file)
    elif variant == COREML:
        save_coreml(encoder, file.parent)
    elif variant == LITERT:
        save_litert(native, file)
    elif variant == TEXT:
        save_text_graph(native, tokenizer, encoder.config.tokenization, file)


def _metadata(encoder: PackedEncoder, weights: str) -> dict[str, str]:
    """Metadata of the graphs, for users of a graph without the folder."""
    config = encoder.config
    return {
        "lengthwise.version": __version__,
        "lengthwise.torch_version": torch.__version__,
        "lengthwise.weights_sha256": weights,
        "lengthwise.pooling": config.pooling,
        **_later_metadata(config),
        "lengthwise.static_residual": str(config.static_residual).lower(),
        "lengthwise.normalize": str(config.normalize).lower(),
        "lengthwise.dim": str(config.dim),
        "lengthwise.vocab_size": str(config.vocab_size),
        "lengthwise.pad_token_id": str(config.pad_token_id),
        "lengthwise.trained": str(config.trained).lower(),
        "lengthwise.variant": NATIVE,
        "lengthwise.independent_of_batch": "true",
    }


def _later_metadata(config: EncoderConfig) -> dict[str, str]:
    """What encoders of earlier versions did not have, where it is there."""
    found = config.model_dump(mode="json", include={"cell", "gate_activation", "padding", "classifier"})
    return {
        f"lengthwise.{name}": value if isinstance(value, str) else json.dumps(value) for name, value in found.items()
    }


def _write_tokenizer_settings(folder: Path, encoder: PackedEncoder, tokenizer: TextTokenizer) -> None:
    """Write the files that Hugging Face clients read in addition to tokenizer.json."""
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


def _write_golden(folder: Path, encoder: PackedEncoder) -> Rounding:
    """Write sixteen rows of 1 to 64 random tokens and the vectors that PyTorch computes for them.

    Returns:
        What rounding does to these rows, and to more of the same lengths.
    """
    rng, lengths = np.random.default_rng(1), np.array(_GOLDEN_LENGTHS, np.int64)
    sample = rng.integers(encoder.config.vocab_size, size=(_SAMPLES * len(lengths), int(lengths.max())))
    input_ids, of_sample = sample[: len(lengths)], np.tile(lengths, _SAMPLES)
    oracle = compute_oracle(encoder, input_ids, lengths)
    rounding = Rounding.collect([(of_sample, OracleEncoder(encoder).sample_rounding(sample, of_sample))])
    tensors: dict[str, NDArray[Any]] = {
        "input_ids": input_ids,
        "lengths": lengths,
        "vectors": oracle.vectors,
        "float32": rounding.allowed(lengths).vectors,
    }
    if oracle.labels is not None:
        tensors["logits"] = oracle.labels.logits
    if oracle.allowance is not None:
        tensors |= {"accumulated": oracle.allowance.scale, "rounding": oracle.allowance.fixed}
    try:
        save_file(tensors, folder / GOLDEN_FILE)
    except SafetensorError as error:  # also raised for a full disk
        raise ArtifactError(f"{folder / GOLDEN_FILE}: cannot be written ({error})") from error
    return rounding
