"""Bodies: what is read, and what is refused in which words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lengthwise.export.server import open_inference as protocol
from lengthwise.export.server.bodies import (
    EmbedBody,
    EmbeddingsBody,
    InferBody,
    Items,
    Tensor,
    read_body,
    read_items,
    read_texts,
)
from lengthwise.export.server.errors import RequestError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


def refusal(function: Any, *arguments: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        function(*arguments)
    return caught.value


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"inputs": NaN}', "not valid JSON"),
        (b'{"inputs": Infinity}', "not valid JSON"),
        (b'{"inputs": "\xff"}', "not valid JSON"),
        (b'{"inputs": "\\ud800"}', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"inputs": "a"} x', "not valid JSON"),
    ],
)
def test_what_is_not_json(body: bytes, told: str) -> None:
    error = refusal(read_body, EmbedBody, body)
    assert (error.status, error.code) == (400, "invalid_json")
    assert told in str(error)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"[]", None),
        (b"null", None),
        (b"{}", "inputs"),
        (b'{"inputs": "a", "truncate": "yes"}', "truncate"),
        (b'{"inputs": "a", "normalize": 1}', "normalize"),
    ],
)
def test_json_of_another_shape(body: bytes, param: str | None) -> None:
    error = refusal(read_body, EmbedBody, body)
    assert (error.status, error.param) == (422, param)


def test_what_is_not_known_is_left_alone() -> None:
    body = read_body(EmbeddingsBody, b'{"input": "a", "model": "m", "user": "u", "something": {"new": 1}}')
    assert (body.input, body.encoding_format, body.dimensions) == ("a", "float", None)


def test_a_text_is_a_list_of_one() -> None:
    assert read_texts("a", "inputs", 1) == ["a"]
    assert read_texts(["a", ""], "inputs", 2) == ["a", ""]


@pytest.mark.parametrize(
    ("value", "status", "param"),
    [
        (None, 422, "inputs"),
        ({}, 422, "inputs"),
        (7, 422, "inputs"),
        ([], 422, "inputs"),
        (["a", None], 422, "inputs.1"),
        (["a", "b", ["c"]], 422, "inputs.2"),
        (["a"] * 4, 413, "inputs"),
    ],
)
def test_what_is_no_list_of_texts(value: Any, status: int, param: str) -> None:
    error = refusal(read_texts, value, "inputs", 3)
    assert (error.status, error.param) == (status, param)


def test_texts_and_ids() -> None:
    assert read_items("a", "input", 9) == Items(texts=["a"])
    assert read_items(["a", "b"], "input", 9) == Items(texts=["a", "b"])
    assert read_items([1, 2], "input", 1) == Items(ids=[[1, 2]])
    assert read_items([[1, 2], [3]], "input", 9) == Items(ids=[[1, 2], [3]])


@pytest.mark.parametrize(
    ("value", "status", "param"),
    [
        ([1, "a"], 422, "input.0"),
        ([1, 2.0], 422, "input.0"),
        ([1, True], 422, "input.0"),
        ([True, 1], 422, "input.0"),
        ([[1], []], 422, "input.1"),
        ([[]], 422, "input.0"),
        ([[1], "a"], 422, "input.1"),
        ([[1], [None]], 422, "input.1"),
        ([[1]] * 4, 413, "input"),
    ],
)
def test_what_is_neither(value: Any, status: int, param: str) -> None:
    error = refusal(read_items, value, "input", 3)
    assert (error.status, error.param) == (status, param)


@settings(max_examples=300, deadline=None)
@given(JSON)
def test_anything_is_read_or_refused(value: Any) -> None:
    for read in (read_texts, read_items):
        try:
            found, status = read(value, "input", 3), 200
        except RequestError as error:
            found, status = str(error), error.status
        assert status in (200, 413, 422)
        assert found


def tensor(name: str, datatype: str, shape: list[int], data: list[Any]) -> Tensor:
    return Tensor(name=name, datatype=datatype, shape=shape, data=data)


IDS = tensor("input_ids", "INT64", [2, 3], [5, 6, 0, 7, 8, 9])
MASK = tensor("attention_mask", "INT64", [2, 3], [[1, 1, 0], [1, 1, 1]])


def infer(*tensors: Tensor, **more: Any) -> Items:
    return protocol.read_infer(InferBody(inputs=list(tensors), **more), 3)


def test_tensors_flat_and_nested() -> None:
    assert infer(IDS, MASK) == infer(MASK, IDS) == Items(ids=[[5, 6], [7, 8, 9]])
    assert infer(tensor("text", "BYTES", [2], ["a", "b"])) == Items(texts=["a", "b"])
    assert infer(tensor("text", "BYTES", [2, 1], [["a"], ["b"]])) == Items(texts=["a", "b"])


@pytest.mark.parametrize(
    "tensors",
    [
        [IDS],
        [IDS, IDS],
        [tensor("text", "BYTES", [1], ["a"]), IDS, MASK],
        [tensor("text", "BYTES", [2], ["a"])],
        [tensor("text", "BYTES", [1], [7])],
        [tensor("text", "INT64", [1], ["a"])],
        [tensor("text", "BYTES", [], [])],
        [tensor("text", "BYTES", [0], [])],
        [tensor("text", "BYTES", [1, 2], ["a", "b"])],
        [tensor("input_ids", "FP32", [2, 3], [0] * 6), MASK],
        [tensor("input_ids", "INT64", [2, 3], [0] * 5), MASK],
        [tensor("input_ids", "INT64", [2, 3], [[0, 1, 2], 4]), MASK],
        [tensor("input_ids", "INT64", [2, 3], [0, 0, 0, 0, 0, 2**31]), MASK],
        [tensor("input_ids", "INT64", [2, 3], [0, 0, 0, 0, 0, 1.5]), MASK],
        [tensor("input_ids", "INT64", [3, 2], [0] * 6), MASK],
        [IDS, tensor("attention_mask", "INT64", [2, 3], [1, 0, 1, 1, 1, 1])],
        [IDS, tensor("attention_mask", "INT64", [2, 3], [2, 1, 1, 1, 1, 1])],
        [tensor("text", "BYTES", [4], ["a"] * 4)],
    ],
)
def test_tensors_that_do_not_fit(tensors: list[Tensor]) -> None:
    assert refusal(infer, *tensors).status in (413, 422)


def test_an_output_that_there_is_not() -> None:
    with pytest.raises(RequestError, match="no output 'token_embeddings'; the only one is sentence_embedding"):
        infer(IDS, MASK, outputs=[{"name": "token_embeddings"}])


def test_an_answer_of_the_protocol() -> None:
    answer = protocol.infer_answer("m", "7", np.ones((2, 3), np.float32))
    assert (answer["id"], answer["model_name"], answer["outputs"][0]["shape"]) == ("7", "m", [2, 3])
    assert "id" not in protocol.infer_answer("m", None, np.ones((1, 1), np.float32))
