"""Batches that do not fit into memory are split; rows stay in order, and other errors pass through."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lengthwise.encoder.oom import split_on_oom
from lengthwise.errors import LengthwiseError

LENGTHS = np.array([3, 2, 5, 1, 5])
IDS = np.arange(25).reshape(5, 5)


class Limited:
    """Returns each row's first id and length; raises `error` for more than `rows` rows."""

    def __init__(self, rows: int, error: Exception) -> None:
        self.rows, self.error, self.seen = rows, error, list[int]()

    def __call__(self, input_ids: Any, lengths: Any) -> Any:
        self.seen.append(len(lengths))
        if len(lengths) > self.rows:
            raise self.error
        return np.stack([input_ids[:, 0], lengths], axis=1).astype(np.float32)


def encode_split(encode: Limited, rows: int = 5, **options: Any) -> Any:
    return split_on_oom(
        encode,
        IDS[:rows],
        LENGTHS[:rows],
        is_oom=lambda error: "full" in str(error),
        device="a small machine",
        **options,
    )


def test_split_batch_keeps_row_order(caplog: pytest.LogCaptureFixture) -> None:
    released: list[int] = []
    encode = Limited(2, ValueError("full"))
    found = encode_split(encode, release=lambda: released.append(len(encode.seen)))
    np.testing.assert_array_equal(found, np.stack([IDS[:, 0], LENGTHS], axis=1))
    assert encode.seen == [5, 2, 3, 1, 2]
    assert released == [1, 3]  # before the halves are tried
    assert caplog.messages == [
        f"a batch of {rows} rows of up to 5 tokens does not fit into memory; halved" for rows in (5, 3)
    ]


def test_batch_that_fits_is_not_split() -> None:
    encode = Limited(5, ValueError("full"))
    assert len(encode_split(encode)) == 5
    assert encode.seen == [5]


def test_single_row_that_does_not_fit_raises() -> None:
    message = r"one text of 3 tokens does not fit into the memory of a small machine; set tokenizer\.max_length"
    with pytest.raises(LengthwiseError, match=message):
        encode_split(Limited(0, ValueError("full")))


def test_other_error_is_raised_unchanged() -> None:
    encode = Limited(0, ValueError("wrong"))
    with pytest.raises(ValueError, match="wrong"):
        encode_split(encode)
    assert encode.seen == [5]
