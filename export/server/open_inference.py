"""Tensors of the Open Inference Protocol: texts or padded ids in, sentence embeddings out.

Source: the protocol's REST API, version 2 (github.com/kserve/open-inference-protocol).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lengthwise.export.server.bodies import InferBody, Items, Tensor
from lengthwise.export.server.errors import RequestError

TEXT, IDS, MASK, OUTPUT, LOGITS = "text", "input_ids", "attention_mask", "sentence_embedding", "logits"
VERSION = "1"
_INTEGER_TYPES = ("INT64", "INT32")


def model_metadata(name: str, dim: int, labels: Sequence[str] = ()) -> dict[str, Any]:
    """Inputs and outputs of a model; a request gives `text` alone, or both other inputs."""
    widths = {OUTPUT: dim, **({LOGITS: len(labels)} if labels else {})}
    return {
        "name": name,
        "versions": [VERSION],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": TEXT, "datatype": "BYTES", "shape": [-1]},
            {"name": IDS, "datatype": "INT64", "shape": [-1, -1]},
            {"name": MASK, "datatype": "INT64", "shape": [-1, -1]},
        ],
        "outputs": [{"name": each, "datatype": "FP32", "shape": [-1, width]} for each, width in widths.items()],
    }


def read_infer(body: InferBody, max_items: int, labels: Sequence[str] = ()) -> Items:
    """The items of a request: the texts of `text`, or the rows of `input_ids` without their padding.

    Raises:
        RequestError: 422 if the tensors are others or do not match, 413 if there are more than `max_items` rows.
    """
    known = (OUTPUT, LOGITS) if labels else (OUTPUT,)
    for output in body.outputs or ():
        if output.name not in known:
            others = f"the only one is {OUTPUT}" if len(known) == 1 else f"there are {' and '.join(known)}"
            raise RequestError(422, f"there is no output {output.name!r}; {others}", "outputs")
    tensors = {tensor.name: tensor for tensor in body.inputs}
    if len(tensors) == len(body.inputs) and tensors.keys() == {TEXT}:
        return Items(texts=_texts(tensors[TEXT], max_items))
    if len(tensors) == len(body.inputs) and tensors.keys() == {IDS, MASK}:
        return Items(ids=_rows(_integers(tensors[IDS], max_items), _integers(tensors[MASK], max_items)))
    names = ", ".join(repr(tensor.name[:40]) for tensor in body.inputs[:5])
    raise RequestError(422, f"the inputs are {names}; give {TEXT}, or {IDS} and {MASK}", "inputs")


def infer_answer(
    name: str, body: InferBody, vectors: NDArray[np.float32], logits: NDArray[np.float32] | None = None
) -> dict[str, Any]:
    """The answer with the vectors, float32[rows, dim], and the logits, float32[rows, labels], that are requested."""
    found = {OUTPUT: vectors, **({} if logits is None else {LOGITS: logits})}
    requested = [output.name for output in body.outputs or ()] or list(found)
    outputs = [
        {"name": each, "datatype": "FP32", "shape": list(found[each].shape), "data": found[each].ravel()}
        for each in requested
    ]
    answer = {"model_name": name, "model_version": VERSION, "outputs": outputs}
    return answer if body.id is None else {**answer, "id": body.id}


def _texts(tensor: Tensor, max_items: int) -> list[str]:
    if tensor.datatype != "BYTES" or not (len(tensor.shape) == 1 or tensor.shape[1:] == [1]):
        raise RequestError(422, f"{TEXT} is {tensor.datatype} {tensor.shape}; give BYTES [rows]", TEXT)
    values = _flat(tensor, max_items)
    for index, value in enumerate(values):
        if not isinstance(value, str):
            raise RequestError(422, f"item {index} of {TEXT} is not a text", f"{TEXT}.{index}")
    return values


def _integers(tensor: Tensor, max_items: int) -> NDArray[np.int64]:
    if tensor.datatype not in _INTEGER_TYPES or len(tensor.shape) != 2:
        expected = "INT64 [rows, sequence]"
        raise RequestError(422, f"{tensor.name} is {tensor.datatype} {tensor.shape}; give {expected}", tensor.name)
    values = _flat(tensor, max_items)
    for index, value in enumerate(values):
        if type(value) is not int or not -(2**31) <= value < 2**31:
            row = index // max(tensor.shape[1], 1)
            raise RequestError(
                422, f"row {row} of {tensor.name} holds a value that is not an id", f"{tensor.name}.{row}"
            )
    return np.array(values, np.int64).reshape(tensor.shape)


def _rows(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> list[list[int]]:
    if ids.shape != mask.shape:
        raise RequestError(422, f"{IDS} is {list(ids.shape)}, but {MASK} {list(mask.shape)}", MASK)
    lengths = (mask != 0).sum(axis=1)
    unordered = np.flatnonzero((mask != (np.arange(mask.shape[1]) < lengths[:, None])).any(axis=1))
    if len(unordered):
        row = int(unordered[0])
        raise RequestError(422, f"row {row} of {MASK} is not ones followed by zeros; pad on the right", f"{MASK}.{row}")
    return [row[:length].tolist() for row, length in zip(ids, lengths, strict=True)]


def _flat(tensor: Tensor, max_items: int) -> list[Any]:
    """The data as one list of as many values as the shape has."""
    if not tensor.shape or not tensor.shape[0]:
        raise RequestError(422, f"{tensor.name} has no rows", tensor.name)
    if tensor.shape[0] > max_items:
        raise RequestError(
            413, f"{tensor.name} has {tensor.shape[0]} rows, but at most {max_items} are accepted", tensor.name
        )
    values: Sequence[Any] = tensor.data
    for _ in tensor.shape[1:]:
        if not any(isinstance(value, list) for value in values):
            break
        if not all(isinstance(value, list) for value in values):
            raise RequestError(422, f"{tensor.name}: the data is nested unevenly", tensor.name)
        values = [inner for value in values for inner in value]
    if len(values) != math.prod(tensor.shape):
        raise RequestError(
            422, f"{tensor.name}: the shape is {tensor.shape}, but the data has {len(values)} values", tensor.name
        )
    return list(values)
