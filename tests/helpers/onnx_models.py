"""A small ONNX embedding model, as they are published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lengthwise.tokens.tokenizer import TextTokenizer

TABLE = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)


def write_model(folder: Path, tokenizer: TextTokenizer, output: str = "last_hidden_state", **files: Any) -> str:
    """A graph that looks up each token's row of TABLE; pooled over all places if the output is a vector."""
    names = ["batch", "sequence"]
    ids, mask, types = (
        helper.make_tensor_value_info(name, TensorProto.INT64, names)
        for name in ("input_ids", "attention_mask", "token_type_ids")
    )
    table = numpy_helper.from_array(TABLE, "table")
    zeros = [helper.make_node("Cast", ["token_type_ids"], ["zeros"], to=TensorProto.FLOAT)]
    nodes = [*zeros, helper.make_node("Gather", ["table", "input_ids"], ["found"])]
    shape = [*names, 5]
    if output in ("sentence_embedding", "pooler_output"):
        nodes.append(helper.make_node("ReduceMax", ["found"], [output], keepdims=0, axes=[1]))
        shape = ["batch", 5]
    else:
        nodes.append(helper.make_node("Identity", ["found"], [output]))
    vectors = helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "graph", [ids, mask, types], [vectors], [table])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (folder / "onnx").mkdir()
    onnx.save(model, folder / "onnx/model.onnx")
    (folder / "tokenizer.json").write_text(tokenizer.to_json())
    for name, record in files.items():
        path = folder / {"pooling": "1_Pooling/config.json"}.get(name, f"{name}.json")
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(record))
    return str(folder)
