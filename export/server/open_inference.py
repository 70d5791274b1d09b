"""The Open Inference Protocol's tensors: texts or padded ids in, sentence embeddings out.

Source: the protocol's REST API, version 2 (github.com/kserve/open-inference-protocol).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lengthwise.export.server.bodies import Given, InferBody, Refused, Tensor

TEXT, IDS, MASK, OUTPUT = "text", "input_ids", "attention_mask", "sentence_embedding"
VERSION = "1"
_WHOLE = ("INT64", "INT32")


def model_metadata(name: str, dim: int) -> dict[str, Any]:
    """What a model takes and gives: `text` alone, or the other two together."""
    return {
        "name": name,
        "versions": [VERSION],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": TEXT, "datatype": "BYTES", "shape": [-1]},
            {"name": IDS, "datatype": "INT64", "shape": [-1, -1]},
            {"name": MASK, "datatype": "INT64", "shape": [-1, -1]},
        ],
        "outputs": [{"name": OUTPUT, "datatype": "FP32", "shape": [-1, dim]}],
    }


def read_infer(body: InferBody, most_items: int) -> Given:
    """The texts of `text`, or the rows of `input_ids` as far as `attention_mask` goes.

    Raises:
        Refused: 422 where tensors are not these, or do not fit each other; 413 where there are too many rows.
    """
    for output in body.outputs or ():
        if output.name != OUTPUT:
            raise Refused(422, f"there is no output {output.name!r}, but {OUTPUT}", "outputs")
    tensors = {tensor.name: tensor for tensor in body.inputs}
    if len(tensors) == len(body.inputs) and tensors.keys() == {TEXT}:
        return Given(texts=_texts(tensors[TEXT], most_items))
    if len(tensors) == len(body.inputs) and tensors.keys() == {IDS, MASK}:
        return Given(ids=_rows(_whole(tensors[IDS], most_items), _whole(tensors[MASK], most_items)))
    names = ", ".join(repr(tensor.name[:40]) for tensor in body.inputs[:5])
    raise Refused(422, f"the inputs are {names}; give {TEXT}, or {IDS} and {MASK}", "inputs")


def infer_answer(name: str, identifier: str | None, vectors: NDArray[np.float32]) -> dict[str, Any]:
    """An answer with one output."""
    output = {"name": OUTPUT, "datatype": "FP32", "shape": list(vectors.shape), "data": vectors.ravel()}
    answer = {"model_name": name, "model_version": VERSION, "outputs": [output]}
    return answer if identifier is None else {**answer, "id": identifier}


def _texts(tensor: Tensor, most_items: int) -> list[str]:
    if tensor.datatype != "BYTES" or not (len(tensor.shape) == 1 or tensor.shape[1:] == [1]):
        raise Refused(422, f"{TEXT} is {tensor.datatype} {tensor.shape}; give BYTES [rows]", TEXT)
    values = _flat(tensor, most_items)
    for index, value in enumerate(values):
        if not isinstance(value, str):
            raise Refused(422, f"item {index} of {TEXT} is no text", f"{TEXT}.{index}")
    return values


def _whole(tensor: Tensor, most_items: int) -> NDArray[np.int64]:
    if tensor.datatype not in _WHOLE or len(tensor.shape) != 2:
        wanted = "INT64 [rows, sequence]"
        raise Refused(422, f"{tensor.name} is {tensor.datatype} {tensor.shape}; give {wanted}", tensor.name)
    values = _flat(tensor, most_items)
    for place, value in enumerate(values):
        if type(value) is not int or not -(2**31) <= value < 2**31:
            row = place // max(tensor.shape[1], 1)
            raise Refused(422, f"row {row} of {tensor.name} holds what is no id", f"{tensor.name}.{row}")
    return np.array(values, np.int64).reshape(tensor.shape)


def _rows(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> list[list[int]]:
    if ids.shape != mask.shape:
        raise Refused(422, f"{IDS} is {list(ids.shape)}, but {MASK} {list(mask.shape)}", MASK)
    lengths = (mask != 0).sum(axis=1)
    wrong = np.flatnonzero((mask != (np.arange(mask.shape[1]) < lengths[:, None])).any(axis=1))
    if len(wrong):
        row = int(wrong[0])
        raise Refused(422, f"row {row} of {MASK} is not ones, then zeros: pad on the right", f"{MASK}.{row}")
    return [row[:length].tolist() for row, length in zip(ids, lengths, strict=True)]


def _flat(tensor: Tensor, most_items: int) -> list[Any]:
    """The data in one list, as long as the shape says."""
    if not tensor.shape or not tensor.shape[0]:
        raise Refused(422, f"{tensor.name} has no rows", tensor.name)
    if tensor.shape[0] > most_items:
        raise Refused(413, f"{tensor.name} has {tensor.shape[0]} rows, but at most {most_items} are taken", tensor.name)
    values: Sequence[Any] = tensor.data
    for _ in tensor.shape[1:]:
        if not any(isinstance(value, list) for value in values):
            break
        if not all(isinstance(value, list) for value in values):
            raise Refused(422, f"{tensor.name}: data is nested unevenly", tensor.name)
        values = [inner for value in values for inner in value]
    if len(values) != math.prod(tensor.shape):
        raise Refused(422, f"{tensor.name}: the shape is {tensor.shape}, but data has {len(values)}", tensor.name)
    return list(values)
