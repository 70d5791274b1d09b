"""Text in, vector out: the native graph behind its tokenizer, which is an operator of onnxruntime-extensions.

    text  string[1]  ->  sentence_embedding  float32[1, dim], and logits of an encoder with labels

- Its HfJsonTokenizer is exact for byte-level BPE without a normalizer, and for nothing else that this project trains:
  0.15.2 has no NFKC, knows no WordPiece, and gives other ids for Unigram and for BPE over characters. Those tokenizers
  are refused by the part that it lacks.
- Each export proves it: ids of a grid of texts have to equal those of the tokenizer itself.
- A text ends at its first U+0000 there, and is one text per call, because ids come back without their lengths.
- One column of padding is added, so that a text without tokens gives zeros as everywhere else.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lengthwise.config import TokenizationSettings
from lengthwise.errors import ArtifactError
from lengthwise.export.graphs.variants import LOGITS
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.tokens.tokenizer import TextTokenizer

DOMAIN = "ai.onnx.contrib"  # onnxruntime-extensions' operators
TEXT_GRID = (
    "", "a", " a", "a ", "  a  b ", "\t", "\n\n", " ", "   ", "the cat\r\nsat", "it's", "IT'S", "'s", "don't we'll I'M",
    "don’t", "12 34.5", "...!!!?", "hello-world foo_bar C++ x=y*z", "tabs\tand\nnewlines  double", "x" * 300, "ä" * 5,
    "naïve", "nai\u0308ve", "a\u0300", "A\u0300", "ＦＵＬＬ", "ﬁne", "½ ² ①", "İstanbul ß", "Überraschung straße",
    "東京タワー", "数字 12345", "한국어", "\u1112\u1161\u11ab", "हिन्दी", "العربية", "😀", "👨\u200d👩\u200d👧", "🇩🇪",
    "\u200b", "\ufeffx", "a\u00a0b", "a\u2028b", "\ue000", "\ud7ff", "\x7f\x80\x9f",
    "<s> </s> [CLS] [PAD] [UNK] [BOS] [EOS]",
    "\x01\x1b[0m", "\U0010ffff", "a" + "\u0301" * 40,
)  # fmt: skip


def save_text_graph(
    native: onnx.ModelProto, tokenizer: TextTokenizer, tokenization: TokenizationSettings, target: Path
) -> None:
    """Write the native graph with its tokenizer before it.

    Raises:
        ArtifactError: onnxruntime-extensions is not installed, or it cannot tokenize as the tokenizer does.
    """
    library = _import_extensions()
    record = json.loads(tokenizer.to_json())
    lacking = _unsupported(record)
    if lacking:
        raise ArtifactError(
            "the graph text cannot tokenize as this tokenizer does: onnxruntime-extensions"
            f" {library.__version__} has no exact {lacking}; leave it out of export.variants"
        )
    nodes, constants = _tokenizer_nodes(record, tokenizer, tokenization)
    _prove(nodes, constants, tokenizer, tokenization, library)
    graph = onnx.GraphProto()
    graph.CopyFrom(native.graph)
    inputs, first = [_text_input()], [*nodes, *graph.node]
    outputs = [value for value in graph.output if value.name in ("sentence_embedding", LOGITS)]
    whole = helper.make_graph(first, graph.name, inputs, outputs, [*constants, *graph.initializer])
    onnx.save(_model(whole, native), target)


def _import_extensions() -> Any:
    try:
        import onnxruntime_extensions
    except ModuleNotFoundError as error:
        raise ArtifactError(
            "the graph text is made with onnxruntime-extensions, which is not installed; install lengthwise[text], or"
            " leave it out of export.variants"
        ) from error
    return onnxruntime_extensions


def _unsupported(record: dict[str, Any]) -> str:
    """The part of a tokenizer.json that the operator does not have as it is there; empty if it has all."""
    model, normalizer, splitter = record["model"], record["normalizer"] or {}, record["pre_tokenizer"] or {}
    if model["type"] != "BPE":
        return f"{model['type']} model"
    normalizers = [part["type"] for part in normalizer.get("normalizers", [normalizer] if normalizer else [])]
    if normalizers:
        return f"normalizer {', '.join(normalizers)}"
    if splitter.get("type") != "ByteLevel":
        return f"pre-tokenizer {splitter.get('type', 'none')} before BPE"
    if splitter["add_prefix_space"] or not splitter.get("use_regex", True):
        return "pre-tokenizer ByteLevel with a prefixed space, or without its pattern"
    unusual = [name for name in ("byte_fallback", "ignore_merges", "dropout") if model.get(name)]
    return f"BPE with {unusual[0]}" if unusual else ""


def _tokenizer_nodes(
    record: dict[str, Any], tokenizer: TextTokenizer, tokenization: TokenizationSettings
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Nodes from `text` to `input_ids` and `attention_mask`, int64[1, tokens + 1], and their constants."""
    settings = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": False, "add_eos_token": False}
    # Special tokens are added below, after the cut; what is left of normalizers does nothing.
    record = {**record, "post_processor": None, "normalizer": None}
    special = tokenization.add_special_tokens
    before, after = (tokenizer.prefix, tokenizer.suffix) if special else ((), ())
    most = np.iinfo(np.int64).max
    if tokenization.truncate and tokenization.max_length is not None:
        most = tokenization.max_length - len(before) - len(after)
    constants = {
        "text.start": np.array([0]),
        "text.end": np.array([most]),
        "text.axis": np.array([1]),
        "text.before": np.array([before], np.int64).reshape(1, -1),
        "text.after": np.array([after], np.int64).reshape(1, -1),
        "text.padding": np.zeros((1, 1), np.int64),
    }
    node = helper.make_node(
        "HfJsonTokenizer",
        ["text"],
        ["text.own_ids"],
        domain=DOMAIN,
        tokenizer_config=json.dumps(settings),
        tokenizer_vocab=json.dumps(record),
    )
    nodes = [
        node,
        helper.make_node("Slice", ["text.own_ids", "text.start", "text.end", "text.axis"], ["text.cut_ids"]),
        helper.make_node("Concat", ["text.before", "text.cut_ids", "text.after"], ["text.ids"], axis=1),
        helper.make_node("Concat", ["text.ids", "text.padding"], ["input_ids"], axis=1),
        helper.make_node("Shape", ["text.ids"], ["text.shape"]),
        helper.make_node(
            "ConstantOfShape", ["text.shape"], ["text.ones"], value=numpy_helper.from_array(np.ones(1, np.int64))
        ),
        helper.make_node("Concat", ["text.ones", "text.padding"], ["attention_mask"], axis=1),
    ]
    return nodes, [numpy_helper.from_array(value.astype(np.int64), name) for name, value in constants.items()]


def _prove(
    nodes: list[onnx.NodeProto],
    constants: list[onnx.TensorProto],
    tokenizer: TextTokenizer,
    tokenization: TokenizationSettings,
    library: Any,
) -> None:
    """Raise ArtifactError unless the ids of every text of the grid are those of the tokenizer."""
    import onnxruntime

    outputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, [1, None]) for name in ("input_ids", "attention_mask")
    ]
    graph = helper.make_graph(nodes, "tokenizer", [_text_input()], outputs, constants)
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(library.get_library_path())
    session = onnxruntime.InferenceSession(
        _model(graph).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    cut = tokenization.override(truncate=tokenization.max_length is not None)
    right = tokenize_texts(list(TEXT_GRID), tokenizer, cut)
    for text, start, end in zip(TEXT_GRID, right.offsets[:-1], right.offsets[1:], strict=True):
        ids, mask = session.run(None, {"text": np.array([text], object)})
        found, expected = ids[0][mask[0] == 1].tolist(), right.values[start:end].tolist()
        if found[: len(expected)] != expected or (cut.truncate == tokenization.truncate and found != expected):
            raise ArtifactError(
                f"the graph text cannot tokenize as this tokenizer does: onnxruntime-extensions {library.__version__}"
                f" gives {text[:20]!r} the ids {found[:12]}, not {expected[:12]}; leave it out of export.variants"
            )


def _text_input() -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info("text", TensorProto.STRING, [1])


def _model(graph: onnx.GraphProto, like: onnx.ModelProto | None = None) -> onnx.ModelProto:
    """A model with the extensions' domain, and the versions and properties of another."""
    version = 18 if like is None else like.opset_import[0].version
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version), helper.make_opsetid(DOMAIN, 1)])
    made.ir_version = 8 if like is None else like.ir_version
    if like is not None:
        made.metadata_props.extend(like.metadata_props)
    return made
