"""ONNX embedding models as they are published: a graph, a tokenizer.json, and the pooling in files beside it.

The layout is that of sentence-transformers and of optimum: `onnx/model.onnx` (or `model.onnx`) with the inputs
input_ids, attention_mask and perhaps token_type_ids; outputs are a `sentence_embedding`, or token states that are
pooled as `1_Pooling/config.json` says (mean where there is no such file) and scaled to length 1 where `modules.json`
has a Normalize.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lengthwise.config import TokenizationSettings
from lengthwise.errors import CheckpointError, LengthwiseError
from lengthwise.formats.embedding_folder import (
    check_pooling,
    pool_states,
    read_embedding_settings,
    scale_to_length_1,
)
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.tokens.tokenizer import load_tokenizer
from lengthwise.training.equal_lengths import encode_equal_lengths
from lengthwise.training.teacher_model import TeacherModel
from lengthwise.util.model_paths import find_embedding_graph
from lengthwise.util.system import cpu_count

_VECTORS, _STATES = ("sentence_embedding", "pooler_output"), ("token_embeddings", "last_hidden_state")
_MAX_LENGTH = 512


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
    settings = read_embedding_settings(folder)
    pooling = check_pooling(settings.pooling or ("mean",), str(folder)) if name in _STATES else None
    normalize = pooling is not None and settings.normalize
    tokenization = TokenizationSettings(max_length=settings.max_length or _MAX_LENGTH, truncate=True)

    def run(input_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        feeds = {name: np.zeros_like(input_ids) for name in inputs}
        feeds |= {"input_ids": input_ids, "attention_mask": np.ones_like(input_ids)}
        (found,) = session.run([name], feeds)
        values = np.asarray(found, np.float32)
        return values if pooling is None else pool_states(values, np.ones_like(input_ids), pooling)

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = encode_equal_lengths(tokenize_texts(list(texts), tokenizer, tokenization), run, cpu_count())
        return scale_to_length_1(vectors) if normalize else vectors

    return TeacherModel(encode, run)
