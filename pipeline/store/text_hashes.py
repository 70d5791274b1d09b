"""Hashes of a shard's texts, by which a later run finds the vectors of texts that it has too.

A text's hash is BLAKE2b of its UTF-8 bytes, of 128 bits. Two of n different texts share one with a probability below
n² / 2^129, 1.5e-19 for 10^10 texts. Two such texts take 2^64 attempts to construct, and hardly any with the faster
hashes that tables use. A null text has zeros.
"""

from __future__ import annotations

import io
from hashlib import blake2b
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

HASH_BYTES = 16


def hash_texts(texts: pa.ChunkedArray) -> NDArray[np.uint8]:
    """The hashes of texts, uint8[rows, 16]; zeros where there is no text."""
    hashes = np.zeros((len(texts), HASH_BYTES), np.uint8)
    start = 0
    for chunk in texts.chunks:
        column = chunk.cast(pa.large_binary())
        _, offset_buffer, data = column.buffers()
        if len(column) and data is not None:
            offsets = np.frombuffer(offset_buffer, np.int64, len(column) + 1, 8 * column.offset).tolist()
            view = memoryview(data)
            digests = b"".join(
                blake2b(view[begin:end], digest_size=HASH_BYTES).digest() for begin, end in pairwise(offsets)
            )
            hashes[start : start + len(column)] = np.frombuffer(digests, np.uint8).reshape(-1, HASH_BYTES)
        elif len(column):  # no text has a byte
            hashes[start : start + len(column)] = np.frombuffer(blake2b(digest_size=HASH_BYTES).digest(), np.uint8)
        hashes[start : start + len(column)][column.is_null().to_numpy(zero_copy_only=False)] = 0
        start += len(column)
    return hashes


def digest_texts(texts: pa.ChunkedArray) -> str:
    """The hash of a whole shard's texts (hex), by which it is known without hashing them one by one.

    It is of the texts' lengths in bytes (-1 where there is none) and of their bytes, however they are divided into
    chunks.
    """
    lengths, contents = blake2b(digest_size=HASH_BYTES), blake2b(digest_size=HASH_BYTES)
    for chunk in texts.chunks:
        column = chunk.cast(pa.large_binary())
        sizes = pc.fill_null(pc.binary_length(column), -1).cast(pa.int64())
        lengths.update(sizes.to_numpy().astype("<i8").tobytes())
        _, offset_buffer, data = column.buffers()
        if len(column) and data is not None:
            offsets = np.frombuffer(offset_buffer, np.int64, len(column) + 1, 8 * column.offset)
            contents.update(memoryview(data)[int(offsets[0]) : int(offsets[-1])])
    return lengths.hexdigest() + contents.hexdigest()


def hashes_to_bytes(hashes: NDArray[np.uint8]) -> bytes:
    """The contents of a shard's file of hashes, in NumPy's format."""
    contents = io.BytesIO()
    np.save(contents, hashes)
    return contents.getvalue()


def hashes_from_bytes(contents: bytes, rows: int) -> NDArray[np.uint8]:
    """Read `hashes_to_bytes`.

    Raises:
        ValueError: it is something else, or of another number of rows.
    """
    hashes: NDArray[np.uint8] = np.lib.format.read_array(io.BytesIO(contents), allow_pickle=False)
    if hashes.dtype != np.uint8 or hashes.shape != (rows, HASH_BYTES):
        raise ValueError(f"not the hashes of {rows} texts")
    return hashes
