"""Models that are broken in one known way each, for `audit_ground_truth`: a small transformer, an LSTM, functions."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from helpers.sabotages import (
    Sabotage,
    at_least_one,
    edit_weight,
)
from helpers.small_transformer import (
    VOCABULARY,
    WIDTH,
    Builder,
    Faults,
    small_tokenizer,
    small_transformer,
    write_embedding_model,
)
from lengthwise.config import EncoderConfig
from lengthwise.encoder.model import seeded_encoder
from lengthwise.export.audit.targets.function import FunctionTarget
from lengthwise.export.graphs.trace import trace_to_onnx

Made = Path | Callable[[list[str]], Any]
CUT = 24


# A small transformer


def transformer(faults: Faults = Faults(), **files: Any) -> Callable[[Path], Path]:
    return lambda folder: write_embedding_model(folder, small_transformer(faults), **files)


def quantized(folder: Path, *, static: bool = False) -> Path:
    """By onnxruntime's own quantiser: the ranges of activations per batch, or fixed."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static

    write_embedding_model(folder, small_transformer())
    graph, target = folder / "onnx/model.onnx", folder / "onnx/quantized.onnx"
    if static:

        class Reader(CalibrationDataReader):  # type: ignore[misc]  # untyped
            def __init__(self) -> None:
                rng = np.random.default_rng(0)
                ids = [rng.integers(4, len(VOCABULARY), size=(4, 12)) for _ in range(4)]
                self._batches = iter(
                    [
                        {"input_ids": i, "attention_mask": np.ones_like(i), "token_type_ids": np.zeros_like(i)}
                        for i in ids
                    ]
                )

            def get_next(self) -> Any:
                return next(self._batches, None)

        quantize_static(str(graph), str(target), Reader(), op_types_to_quantize=["MatMul"])
    else:
        quantize_dynamic(str(graph), str(target), weight_type=QuantType.QInt8)
    graph.unlink()
    target.rename(graph)
    return folder


def range_by_hand(b: Builder, x: str) -> str:
    """Rounded to 8 bits whose range is that of the whole tensor."""
    largest = b.op("ReduceMax", b.op("Abs", x), keepdims=1)
    step = b.op("Div", largest, b.constant(15.0))
    return b.op("Mul", b.op("Round", b.op("Div", x, step)), step)


def batch_statistics(b: Builder, x: str) -> str:
    """Less half of the mean over the rows."""
    return b.op("Sub", x, b.op("Mul", b.op("ReduceMean", x, axes=[0], keepdims=1), b.constant(0.5)))


def batch_norm(b: Builder, x: str) -> str:
    """In training mode, over rows and columns."""
    by_feature = b.op("Transpose", x, perm=[0, 2, 1])
    ones, zeros = b.constant(np.ones(WIDTH)), b.constant(np.zeros(WIDTH))
    found = b.op("BatchNormalization", by_feature, ones, zeros, zeros, ones, outputs=3, training_mode=1)
    return b.op("Transpose", found, perm=[0, 2, 1])


def by_number_of_rows(b: Builder, x: str) -> str:
    rows = b.op("Cast", b.op("Gather", b.op("Shape", "input_ids"), b.constant(0, np.int64)), to=TensorProto.FLOAT)
    return b.op("Add", x, b.op("Mul", rows, b.constant(0.05 * np.arange(WIDTH))))


def by_place(b: Builder, x: str) -> str:
    rows = b.op("Gather", b.op("Shape", "input_ids"), b.constant(0, np.int64))
    places = b.op("Range", b.constant(0, np.int64), rows, b.constant(1, np.int64))
    column = b.op("Unsqueeze", b.op("Cast", places, to=TensorProto.FLOAT), b.constant([1], np.int64))
    return b.op("Add", x, b.op("Mul", column, b.constant(0.05 * np.arange(WIDTH))))


def noise(b: Builder, x: str) -> str:
    return b.op("Add", x, b.op("RandomNormalLike", x, scale=0.01))


def dropout(b: Builder, x: str) -> str:
    """As it is exported in training mode: a tenth of the values are cleared, others in each run."""
    kept = b.op("Greater", b.op("RandomUniformLike", x), b.constant(0.1))
    return b.op("Mul", x, b.op("Cast", kept, to=TensorProto.FLOAT))


def same_for_all(b: Builder, ids: str) -> str:
    return b.op("Mul", ids, b.constant(0, np.int64))


def clipped(b: Builder, ids: str) -> str:
    return b.op("Min", ids, b.constant(len(VOCABULARY) - 10, np.int64))


def unbiased(b: Builder, vectors: str) -> str:
    """Divided by the number of tokens less one, as a variance is."""
    mask = b.op("Cast", "attention_mask", to=TensorProto.FLOAT)
    count = b.op("ReduceSum", mask, b.constant([1], np.int64), keepdims=1)
    return b.op("Div", vectors, b.op("Sub", count, b.constant(1.0)))


def cut_inputs(model: onnx.ModelProto) -> None:
    """Ids, mask and types are cut to so many columns before anything reads them."""
    for name, values in (("start", [0]), ("end", [CUT]), ("axis", [1])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), f"cut_{name}"))
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name in ("input_ids", "attention_mask", "token_type_ids"):
                node.input[place] = f"cut_{name}"
    for name in ("token_type_ids", "attention_mask", "input_ids"):
        inputs = [name, "cut_start", "cut_end", "cut_axis"]
        model.graph.node.insert(0, helper.make_node("Slice", inputs, [f"cut_{name}"], name=f"cut_{name}"))


def without_special_tokens() -> Any:
    from tokenizers.processors import TemplateProcessing

    tokenizer = small_tokenizer()
    tokenizer.post_processor = TemplateProcessing("$A", special_tokens=[])
    return tokenizer


def with_dropout() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = {letter: number for number, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}
    merges = [("t", "h"), ("th", "e"), ("a", "n"), ("an", "d"), ("o", "f"), ("i", "n")]
    vocabulary = {**letters, **{"".join(pair): len(letters) + number for number, pair in enumerate(merges)}}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, dropout=0.3))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def edited(*sabotages: Sabotage, **files: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        model = small_transformer()
        for sabotage in sabotages:
            sabotage(model)
        return write_embedding_model(folder, model, **files)

    return make


def stale_weight(model: onnx.ModelProto) -> None:
    name = max(model.graph.initializer, key=lambda each: len(each.raw_data)).name
    edit_weight(model, name, lambda weight: weight + np.linspace(-1, 1, weight.shape[1]).astype(np.float32))


# An LSTM of ours


@cache
def _lstm(**changes: Any) -> bytes:
    settings = {"embedding_dim": 12, "hidden_size": 8, "vocab_size": len(VOCABULARY), "unk_token_id": 1, "seed": 0}
    config = EncoderConfig(**{**settings, "bidirectional": True, "pooling": "mean", **changes})
    return trace_to_onnx(seeded_encoder(config, 0), {}).SerializeToString()


def lstm_model(**changes: Any) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(_lstm(**changes))


def lstm(
    *sabotages: Sabotage, rewrite: Callable[[onnx.ModelProto], onnx.ModelProto] = lambda model: model, **changes: Any
) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        model = lstm_model(**changes)
        for sabotage in sabotages:
            sabotage(model)
        none = dict.fromkeys(("modules", "pooling", "sentence_bert_config"))
        return write_embedding_model(folder, rewrite(model), without_special_tokens(), **none)

    return make


def cut_lengths(model: onnx.ModelProto) -> None:
    """The lengths are at most so many tokens."""
    place, lengths = at_least_one(model)
    model.graph.initializer.append(numpy_helper.from_array(np.array(CUT, np.int64), "most"))
    model.graph.node.insert(place + 1, helper.make_node("Min", [lengths.output[0], "most"], ["cut"], name="cut"))
    for node in list(model.graph.node)[place + 2 :]:
        for index, name in enumerate(node.input):
            if name == lengths.output[0]:
                node.input[index] = "cut"


def after_vectors(edit: Callable[[Builder, str], str], width: int = 16) -> Sabotage:
    """Nodes of a builder behind the vectors of any graph."""

    def sabotage(model: onnx.ModelProto) -> None:
        b = Builder()
        node = next(node for node in model.graph.node if "sentence_embedding" in node.output)
        node.output[list(node.output).index("sentence_embedding")] = "vectors_before"
        last = edit(b, "vectors_before")
        for index, made in enumerate(b.nodes):
            made.output[0], made.name = f"after_{made.output[0]}", f"after_{index}"
            for place, name in enumerate(made.input):
                if any(name == other.output[0].removeprefix("after_") for other in b.nodes[:index]):
                    made.input[place] = f"after_{name}"
        for weight in b.weights:
            values = numpy_helper.to_array(weight)
            weight.CopyFrom(numpy_helper.from_array(values[:width] if values.ndim else values, weight.name))
        model.graph.initializer.extend(b.weights)
        model.graph.node.extend([*b.nodes, helper.make_node("Identity", [f"after_{last}"], ["sentence_embedding"])])

    return sabotage


# Functions, for what no graph can do


def _bag(text: str) -> np.ndarray:
    rng = np.random.default_rng(abs(hash_of(text)))
    return rng.normal(size=8).astype(np.float32)


def hash_of(text: str) -> int:
    return int.from_bytes(text.encode()[-8:].rjust(8, b"0"), "little") * 31 + len(text)


def plain_function(texts: list[str]) -> np.ndarray:
    return np.stack([np.mean([_bag(word) for word in text.split()] or [np.zeros(8)], axis=0) for text in texts])


def stateful_function(folder: Path) -> Made:
    """The state that a text leaves is the one that the next text begins with."""
    state = np.zeros(8, np.float32)

    def encode(texts: list[str]) -> np.ndarray:
        nonlocal state
        vectors = plain_function(texts) + (0.1 if np.abs(state).max() > 40 else 0)
        state = np.array([len(text.split()) for text in texts], np.float32)
        return vectors

    return encode


class RacyTarget(FunctionTarget):
    """Callers write to one buffer."""

    concurrent = True

    def __init__(self) -> None:
        self._shared: list[str] = []
        super().__init__(self._encode_shared)

    def _encode_shared(self, texts: list[str]) -> np.ndarray:
        import time

        self._shared = texts
        time.sleep(0.01)
        return plain_function((list(self._shared) * len(texts))[: len(texts)])
