"""Request bodies: which are read, and the errors of those that are refused."""

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
    read_single_texts,
    read_texts,
)
from lengthwise.export.server.errors import RequestError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


def error_of(function: Any, *arguments: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        function(*arguments)
    return caught.value


@pytest.mark.parametrize(
    ("body", "message"),
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
def test_invalid_json_is_refused(body: bytes, message: str) -> None:
    error = error_of(read_body, EmbedBody, body)
    assert (error.status, error.code) == (400, "invalid_json")
    assert message in str(error)


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
def test_json_that_does_not_match_the_model_is_refused(body: bytes, param: str | None) -> None:
    error = error_of(read_body, EmbedBody, body)
    assert (error.status, error.param) == (422, param)


def test_unknown_fields_are_ignored() -> None:
    body = read_body(EmbeddingsBody, b'{"input": "a", "model": "m", "user": "u", "something": {"new": 1}}')
    assert (body.input, body.encoding_format, body.dimensions) == ("a", "float", None)


def test_single_text_is_read_as_a_list() -> None:
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
def test_value_that_is_not_texts_is_refused(value: Any, status: int, param: str) -> None:
    error = error_of(read_texts, value, "inputs", 3)
    assert (error.status, error.param) == (status, param)


def test_texts_and_ids_are_distinguished() -> None:
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
def test_value_that_is_neither_texts_nor_ids_is_refused(value: Any, status: int, param: str) -> None:
    error = error_of(read_items, value, "input", 3)
    assert (error.status, error.param) == (status, param)


@settings(max_examples=300, deadline=None)
@given(JSON)
def test_arbitrary_values_are_read_or_refused(value: Any) -> None:
    for read in (read_texts, read_items):
        try:
            result, status = read(value, "input", 3), 200
        except RequestError as error:
            result, status = str(error), error.status
        assert status in (200, 413, 422)
        assert result


def tensor(name: str, datatype: str, shape: list[int], data: list[Any]) -> Tensor:
    return Tensor(name=name, datatype=datatype, shape=shape, data=data)


IDS = tensor("input_ids", "INT64", [2, 3], [5, 6, 0, 7, 8, 9])
MASK = tensor("attention_mask", "INT64", [2, 3], [[1, 1, 0], [1, 1, 1]])


def infer(*tensors: Tensor, **more: Any) -> Items:
    return protocol.read_infer(InferBody(inputs=list(tensors), **more), 3)


def test_flat_and_nested_tensors_are_read() -> None:
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
def test_inconsistent_tensors_are_refused(tensors: list[Tensor]) -> None:
    assert error_of(infer, *tensors).status in (413, 422)


def test_unknown_output_is_refused() -> None:
    with pytest.raises(RequestError, match="no output 'token_embeddings'; the only one is sentence_embedding"):
        infer(IDS, MASK, outputs=[{"name": "token_embeddings"}])


def infer_body(**more: Any) -> InferBody:
    return InferBody(inputs=[Tensor(name="text", shape=[1], datatype="BYTES", data=["a"])], **more)


def test_infer_answer_gives_the_outputs_that_are_requested() -> None:
    vectors, logits = np.ones((2, 3), np.float32), np.zeros((2, 2), np.float32)
    both = protocol.infer_answer("m", infer_body(), vectors, logits)["outputs"]
    assert [(each["name"], each["shape"]) for each in both] == [("sentence_embedding", [2, 3]), ("logits", [2, 2])]
    one = protocol.infer_answer("m", infer_body(outputs=[{"name": "logits"}]), vectors, logits)["outputs"]
    assert [each["name"] for each in one] == ["logits"]


@pytest.mark.parametrize(
    ("inputs", "texts"), [("a", ["a"]), (["a"], ["a"]), ([["a"]], ["a"]), ([["a"], ["b"], ["c"]], ["a", "b", "c"])]
)
def test_texts_to_predict_are_as_in_text_embeddings_inference(inputs: Any, texts: list[str]) -> None:
    assert read_single_texts(inputs, "inputs", 3) == texts


@pytest.mark.parametrize(
    ("inputs", "status", "message"),
    [
        (["a", "b"], 422, "inputs is a list of 2 texts, which would be a pair"),
        ([["a", "b"]], 422, "item 0 of inputs is not a list of one text"),
        ([["a"], "b"], 422, "item 1 of inputs is not a list of one text"),
        ([["a"], [1]], 422, "item 1 of inputs is not a list of one text"),
        ([["a"]] * 4, 413, "inputs has 4 items"),
        ([], 422, "inputs is an empty list"),
        (7, 422, "inputs is a number"),
    ],
)
def test_other_things_to_predict_are_refused(inputs: Any, status: int, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_single_texts(inputs, "inputs", 3)
    assert caught.value.status == status
    assert message in str(caught.value)


def test_infer_answer_follows_the_protocol() -> None:
    answer = protocol.infer_answer("m", infer_body(id="7"), np.ones((2, 3), np.float32))
    assert (answer["id"], answer["model_name"], answer["outputs"][0]["shape"]) == ("7", "m", [2, 3])
    assert "id" not in protocol.infer_answer("m", infer_body(), np.ones((1, 1), np.float32))
