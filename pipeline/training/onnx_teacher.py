"""ONNX embedding models as they are published: a graph, a tokenizer.json, and the pooling in files beside it.

The layout is that of sentence-transformers and of optimum: `onnx/model.onnx` (or `model.onnx`) with the inputs
input_ids, attention_mask and perhaps token_type_ids; outputs are a `sentence_embedding`, or token states that are
pooled as `1_Pooling/config.json` says (mean where there is no such file) and scaled to length 1 where `modules.json`
has a Normalize.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lengthwise.config import TokenizationSettings
from lengthwise.errors import CheckpointError, LengthwiseError
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.tokens.tokenizer import load_tokenizer
from lengthwise.training.equal_lengths import encode_equal_lengths
from lengthwise.training.teacher_model import TeacherModel
from lengthwise.util.model_paths import find_embedding_graph
from lengthwise.util.system import cpu_count
from lengthwise.util.text_files import read_text

_VECTORS, _STATES = ("sentence_embedding", "pooler_output"), ("token_embeddings", "last_hidden_state")
_MAX_LENGTH = 512
_NORM_FLOOR = 1e-12


def load_graph(folder: Path) -> TeacherModel:
    """Load the graph and the tokenizer of a folder; batches run in parallel, on one thread each.

    Args:
        folder: one that `find_embedding_graph` finds a graph in.

    Raises:
        LengthwiseError: onnxruntime is not installed.
        CheckpointError: the graph cannot be loaded, or has neither vectors nor token states.
    """
    graph = find_embedding_graph(folder)
    if graph is None:
        raise CheckpointError(
            f"{folder}: has no ONNX graph with a tokenizer.json; give the folder of an embedding model"
        )
    try:
        import onnxruntime
    except ImportError as error:
        raise LengthwiseError(f"the model {folder} needs onnxruntime ({error}); install lengthwise[cpu]") from error
    try:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises its own types, one per status code
        raise CheckpointError(f"{graph}: onnxruntime cannot load the graph ({error})") from error
    inputs = {each.name for each in session.get_inputs()}
    outputs = [each.name for each in session.get_outputs()]
    output = next((name for name in (_VECTORS[0], *_STATES, *_VECTORS[1:]) if name in outputs), None)
    if output is None or not {"input_ids", "attention_mask"} <= inputs:
        raise CheckpointError(
            f"{graph}: has the inputs {', '.join(sorted(inputs))} and the outputs {', '.join(outputs)}; an embedding"
            f" model has input_ids and attention_mask, and one of {', '.join((*_VECTORS, *_STATES))}"
        )
    name: str = output
    tokenizer = load_tokenizer(folder)
    pool = _pooling(folder) if name in _STATES else None
    normalize = pool is not None and _is_normalized(folder)
    tokenization = TokenizationSettings(max_length=_max_length(folder), truncate=True)

    def run(input_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        feeds = {name: np.zeros_like(input_ids) for name in inputs}
        feeds |= {"input_ids": input_ids, "attention_mask": np.ones_like(input_ids)}
        (found,) = session.run([name], feeds)
        values = np.asarray(found, np.float32)
        return values if pool is None else pool(values)

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = encode_equal_lengths(tokenize_texts(list(texts), tokenizer, tokenization), run, cpu_count())
        return (
            vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _NORM_FLOOR) if normalize else vectors
        )

    return TeacherModel(encode, run)


def _pooling(folder: Path) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """The pooling that the files beside the graph describe, of float32[rows, tokens, width]; no token is padding."""
    settings = _read_json(folder / "1_Pooling/config.json") or {"pooling_mode_mean_tokens": True}
    mode = settings.get("pooling_mode") or next(
        (name.removeprefix("pooling_mode_") for name, on in settings.items() if on is True and "pooling_mode" in name),
        "mean_tokens",
    )
    if mode in ("cls", "cls_token"):
        return lambda states: states[:, 0]
    if mode in ("mean", "mean_tokens"):
        return lambda states: states.mean(axis=1)
    raise CheckpointError(f"{folder}: pools by {mode}, which is not known here; use its PyTorch weights")


def _is_normalized(folder: Path) -> bool:
    modules = _read_json(folder / "modules.json") or []
    return any(str(module.get("type", "")).endswith("Normalize") for module in modules)


def _max_length(folder: Path) -> int:
    settings = _read_json(folder / "sentence_bert_config.json") or {}
    found = settings.get("max_seq_length")
    return found if isinstance(found, int) and found > 2 else _MAX_LENGTH


def _read_json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
