"""A batch that does not fit is halved; the rows stay in order, and other errors are no matter of memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lengthwise.encoder.oom import split_on_oom
from lengthwise.errors import LengthwiseError

LENGTHS = np.array([3, 2, 5, 1, 5])
IDS = np.arange(25).reshape(5, 5)


class Limited:
    """Gives each row's first id and length; takes so many rows at a time."""

    def __init__(self, rows: int, error: Exception) -> None:
        self.rows, self.error, self.seen = rows, error, list[int]()

    def __call__(self, input_ids: Any, lengths: Any) -> Any:
        self.seen.append(len(lengths))
        if len(lengths) > self.rows:
            raise self.error
        return np.stack([input_ids[:, 0], lengths], axis=1).astype(np.float32)


def halved(encode: Limited, rows: int = 5, **options: Any) -> Any:
    return split_on_oom(
        encode,
        IDS[:rows],
        LENGTHS[:rows],
        out_of_memory=lambda error: "full" in str(error),
        device="a small machine",
        **options,
    )


def test_rows_stay_in_order(caplog: pytest.LogCaptureFixture) -> None:
    released: list[int] = []
    encode = Limited(2, ValueError("full"))
    found = halved(encode, release=lambda: released.append(len(encode.seen)))
    np.testing.assert_array_equal(found, np.stack([IDS[:, 0], LENGTHS], axis=1))
    assert encode.seen == [5, 2, 3, 1, 2]
    assert released == [1, 3]  # before the halves are tried
    assert caplog.messages == [
        f"a batch of {rows} rows of up to 5 tokens does not fit into memory; halved" for rows in (5, 3)
    ]


def test_what_fits_is_encoded_at_once() -> None:
    encode = Limited(5, ValueError("full"))
    assert len(halved(encode)) == 5
    assert encode.seen == [5]


def test_one_row_that_does_not_fit_is_told() -> None:
    message = r"one text of 3 tokens does not fit into the memory of a small machine; set tokenizer\.max_length"
    with pytest.raises(LengthwiseError, match=message):
        halved(Limited(0, ValueError("full")))


def test_another_error_is_raised_as_it_is() -> None:
    encode = Limited(0, ValueError("wrong"))
    with pytest.raises(ValueError, match="wrong"):
        halved(encode)
    assert encode.seen == [5]
