"""A text's hash is that of its bytes, wherever the text stands in an Arrow array."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthwise.store.text_hashes import HASH_BYTES, digest_texts, hash_texts, hashes_from_bytes, hashes_to_bytes


@given(
    texts=st.lists(st.none() | st.text(max_size=5), max_size=12),
    kind=st.sampled_from([pa.string(), pa.large_string()]),
    cut=st.tuples(st.integers(0, 12), st.integers(0, 12)),
)
def test_hashes_are_of_the_bytes(texts: list[str | None], kind: pa.DataType, cut: tuple[int, int]) -> None:
    start, middle = sorted(cut)
    array = pa.array(texts, kind)
    chunks = pa.chunked_array([array.slice(start, middle - start), array.slice(middle)], kind)
    expected = [
        bytes(HASH_BYTES) if text is None else blake2b(text.encode(), digest_size=HASH_BYTES).digest()
        for text in texts[start:]
    ]
    assert [row.tobytes() for row in hash_texts(chunks)] == expected


@given(
    texts=st.lists(st.none() | st.text(max_size=5), max_size=12),
    others=st.lists(st.none() | st.text(max_size=2), max_size=12),
    cut=st.tuples(st.integers(0, 12), st.integers(0, 12)),
)
def test_digest_is_of_the_texts_alone(texts: list[str | None], others: list[str | None], cut: tuple[int, int]) -> None:
    start, middle = sorted(cut)
    array = pa.array(["before", *texts], pa.string()).slice(1)
    divided = pa.chunked_array([array.slice(0, start), array.slice(start, middle - start), array.slice(middle)])
    digest = digest_texts(divided)
    assert digest == digest_texts(pa.chunked_array([texts], pa.large_string()))
    assert (digest == digest_texts(pa.chunked_array([others], pa.string()))) == (texts == others)


@pytest.mark.parametrize("other", [["ab", "c"], ["abc", ""], ["a", "bc", ""], ["a", None, "bc"], ["a", "bd"]])
def test_digest_tells_texts_of_the_same_bytes_apart(other: list[str | None]) -> None:
    assert digest_texts(pa.chunked_array([other], pa.string())) != digest_texts(pa.chunked_array([["a", "bc"]]))


def test_hashes_survive_a_file() -> None:
    hashes = hash_texts(pa.chunked_array([["a", "b", None]]))
    contents = hashes_to_bytes(hashes)
    np.testing.assert_array_equal(hashes_from_bytes(contents, 3), hashes)
    for damaged, rows in ((contents, 2), (contents[:-1], 3), (b"", 3), (b"PK\x03\x04", 3)):
        with pytest.raises(ValueError, match=r".+"):
            hashes_from_bytes(damaged, rows)
