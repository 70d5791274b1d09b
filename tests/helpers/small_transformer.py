"""A small transformer with random weights as an ONNX graph, written node by node, so that any part can be left out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from lengthwise.export.audit.units import word_units

LAYERS, WIDTH, HEADS, POSITIONS = 2, 64, 4, 64
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
VOCABULARY = (*SPECIAL, *word_units().words)
OPSET, IR_VERSION = 17, 8


class Builder:
    """Nodes and weights in the order in which they are made."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(seed)

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        names = [f"{kind}_{len(self.nodes)}" + (f"_{number}" if number else "") for number in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=names[0], **attributes))
        return names[0]

    def constant(self, values: Any, dtype: type = np.float32) -> str:
        name = f"constant_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array(values, dtype), name))
        return name

    def random(self, *shape: int, scale: float = 0.1) -> str:
        return self.constant(self.rng.normal(scale=scale, size=shape))

    def linear(self, x: str, inputs: int, outputs: int) -> str:
        return self.op(
            "Add", self.op("MatMul", x, self.random(inputs, outputs, scale=inputs**-0.5)), self.random(outputs)
        )

    def norm(self, x: str) -> str:
        scale = self.constant(1 + self.rng.normal(scale=0.1, size=WIDTH))
        return self.op("LayerNormalization", x, scale, self.random(WIDTH), axis=-1)


@dataclass(frozen=True)
class Faults:
    """What is done wrong, or otherwise than usual.

    Attributes:
        embeddings: changes the embeddings, [batch, sequence, width], through the builder.
        vectors: changes the vectors, [batch, width].
        ids: changes the ids before they are looked up.
        masked: whether attention knows the mask.
        pooling: `mean` of the mask, `plain` mean of all columns, `columns`: the masked sum by their number; `cls`.
        floor: the least number of tokens that a sum is divided by.
        normalize: whether vectors get the length 1.
        states: whether the token states are an output too.
        positions: whether position_ids are an input.
        integers: the type of the inputs.
        rows: of the embedding table.
    """

    embeddings: Callable[[Builder, str], str] | None = None
    vectors: Callable[[Builder, str], str] | None = None
    ids: Callable[[Builder, str], str] | None = None
    masked: bool = True
    pooling: str = "mean"
    floor: float = 1.0
    normalize: bool = True
    states: bool = True
    positions: bool = False
    integers: int = TensorProto.INT64
    rows: int = len(VOCABULARY)


def small_transformer(faults: Faults = Faults()) -> onnx.ModelProto:
    """The graph: input_ids, attention_mask and token_type_ids to sentence_embedding and perhaps token_embeddings."""
    b = Builder()
    ids = faults.ids(b, "input_ids") if faults.ids else "input_ids"
    columns = b.op("Gather", b.op("Shape", "input_ids"), b.constant(1, np.int64))
    places = b.op("Range", b.constant(0, np.int64), columns, b.constant(1, np.int64))
    x = b.op("Gather", b.random(faults.rows, WIDTH, scale=1), ids)
    x = b.op("Add", x, b.op("Gather", b.random(2, WIDTH), "token_type_ids"))
    x = b.op(
        "Add", x, b.op("Gather", b.random(POSITIONS, WIDTH, scale=0.5), "position_ids" if faults.positions else places)
    )
    if faults.embeddings:
        x = faults.embeddings(b, x)
    x = b.norm(x)
    mask = b.op("Cast", "attention_mask", to=TensorProto.FLOAT)
    bias = b.op("Mul", b.op("Sub", b.constant(1), mask), b.constant(-1e9))
    bias = b.op("Unsqueeze", bias, b.constant([1, 2], np.int64))
    for _ in range(LAYERS):
        x = b.norm(b.op("Add", x, _attention(b, x, bias if faults.masked else None)))
        inner = b.op("Relu", b.linear(x, WIDTH, 2 * WIDTH))
        x = b.norm(b.op("Add", x, b.linear(inner, 2 * WIDTH, WIDTH)))
    vectors = _pool(b, x, b.op("Unsqueeze", mask, b.constant([2], np.int64)), columns, faults)
    if faults.vectors:
        vectors = faults.vectors(b, vectors)
    if faults.normalize:
        length = b.op("ReduceL2", vectors, axes=[1], keepdims=1)
        vectors = b.op("Div", vectors, b.op("Clip", length, b.constant(1e-12)))
    b.nodes.append(helper.make_node("Identity", [vectors], ["sentence_embedding"], name="output"))
    if faults.states:
        b.nodes.append(helper.make_node("Identity", [x], ["token_embeddings"], name="output_states"))
    return _model(b, faults)


def _attention(b: Builder, x: str, bias: str | None) -> str:
    heads = b.constant([0, 0, HEADS, WIDTH // HEADS], np.int64)
    q, k, v = (
        b.op("Transpose", b.op("Reshape", b.linear(x, WIDTH, WIDTH), heads), perm=order)
        for order in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
    )
    scores = b.op("Div", b.op("MatMul", q, k), b.constant((WIDTH // HEADS) ** 0.5))
    if bias is not None:
        scores = b.op("Add", scores, bias)
    context = b.op("Transpose", b.op("MatMul", b.op("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
    return b.linear(b.op("Reshape", context, b.constant([0, 0, WIDTH], np.int64)), WIDTH, WIDTH)


def _pool(b: Builder, x: str, mask: str, columns: str, faults: Faults) -> str:
    axis = b.constant([1], np.int64)
    if faults.pooling == "cls":
        return b.op("Gather", x, b.constant(0, np.int64), axis=1)
    if faults.pooling == "plain":
        return b.op("ReduceMean", x, axes=[1], keepdims=0)
    total = b.op("ReduceSum", b.op("Mul", x, mask), axis, keepdims=0)
    if faults.pooling == "columns":
        return b.op("Div", total, b.op("Cast", columns, to=TensorProto.FLOAT))
    count = b.op("ReduceSum", mask, axis, keepdims=0)
    return b.op("Div", total, b.op("Max", count, b.constant(faults.floor)) if faults.floor else count)


def _model(b: Builder, faults: Faults) -> onnx.ModelProto:
    shape = ["batch", "sequence"]
    names = ["input_ids", "attention_mask", "token_type_ids", *["position_ids"] * faults.positions]
    inputs = [helper.make_tensor_value_info(name, faults.integers, shape) for name in names]
    outputs = [helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", WIDTH])]
    if faults.states:
        outputs.append(helper.make_tensor_value_info("token_embeddings", TensorProto.FLOAT, [*shape, WIDTH]))
    graph = helper.make_graph(b.nodes, "small", inputs, outputs, b.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def small_tokenizer(words: Sequence[str] = VOCABULARY) -> Tokenizer:
    """Words between [CLS] and [SEP]."""
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def write_embedding_model(
    folder: Path, model: onnx.ModelProto, tokenizer: Tokenizer | None = None, **files: Any
) -> Path:
    """A folder with the graph, its tokenizer and settings: mean pooling, length 1, as many tokens as positions.

    Args:
        files: changes of settings by the name of a file, without its suffix; None leaves the file out.
    """
    (folder / "onnx").mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "onnx/model.onnx")
    (folder / "tokenizer.json").write_text((tokenizer or small_tokenizer()).to_str())
    kinds = ["Transformer", "Pooling", "Normalize"]
    records: dict[str, Any] = {
        "modules": [{"type": f"sentence_transformers.models.{kind}", "path": ""} for kind in kinds],
        "pooling": {"pooling_mode_mean_tokens": True},
        "sentence_bert_config": {"max_seq_length": POSITIONS},
        "tokenizer_config": {"pad_token": "[PAD]"},
        **files,
    }
    for name, record in records.items():
        if record is not None:
            path = folder / {"pooling": "1_Pooling/config.json"}.get(name, f"{name}.json")
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(record))
    return folder


def numbers(model: onnx.ModelProto, name: str) -> NDArray[Any]:
    """A weight of a graph."""
    return numpy_helper.to_array(next(each for each in model.graph.initializer if each.name == name))
