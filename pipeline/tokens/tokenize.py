"""Tokenizes texts: `tokenize_texts` turns them into `RaggedTokens`.

- No Python list of ids outlives the chunk it was made in: a shard of a million texts is a few NumPy arrays.
- Truncation happens here, on the flat arrays. The tokenizer's own truncation cannot tell "exactly max_length" from
  "truncated", keeps the tokens that it removed in memory, and is saved along in tokenizer.json.
- Special tokens are added after truncation, so a truncated text still ends the way the model was trained to see.
- Texts whose words were all met before are looked up (`tokens.words`); the library tokenizes the others.
- The library gives ids away as Python lists only, one encoding at a time. While one chunk's ids are copied out, the
  next chunk is tokenized in another thread. Chunks are bounded in rows and bytes, and with them the memory.
- A text that the library refuses does not take its chunk with it: the chunk is halved until that text is alone.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from tokenizers import Encoding

from lengthwise.config import BadRows, TokenizationSettings
from lengthwise.errors import BadRowsError, TextError, TokenizerError
from lengthwise.tokens.ragged import RaggedTokens
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.tokens.words import ids_as_bytes
from lengthwise.util.threads import check_cancelled, prefetch

CHUNK_TEXTS, CHUNK_BYTES = 512, 4 * 2**20
_NO_TEXT = {type(None): "null", bytes: "not Unicode: bytes that are not UTF-8"}
_OR_SET_ASIDE = "or set encode.bad_rows to quarantine, which sets such rows aside, or to zero"

Texts: TypeAlias = pa.Array | pa.ChunkedArray | Sequence[str | None]
Reasons = dict[int, str]  # why a row cannot be encoded, by its number


def tokenize_texts(
    texts: Texts,
    tokenizer: TextTokenizer,
    tokenization: TokenizationSettings = TokenizationSettings(),
    *,
    bad_rows: BadRows = "error",
) -> RaggedTokens:
    """Turn texts into ids.

    Args:
        texts: strings, or an Arrow array of them; None where there is no text.
        tokenization: the model's settings, `EncoderConfig.tokenization`. A row of more than `max_length` tokens is
            truncated at its end and flagged under `truncate`, else it is bad.
        bad_rows: what happens to a bad row, one that is null, not Unicode, refused by the tokenizer or too long. Under
            "error" it raises; under the others it gets no ids, and its reason is in `RaggedTokens.bad`.

    Raises:
        BadRowsError: there is a bad row, under "error"; rows are counted from the first of `texts`.
        TextError: special tokens alone fill `max_length`.
    """
    prefix, suffix = (tokenizer.prefix, tokenizer.suffix) if tokenization.add_special_tokens else ((), ())
    num_special = len(prefix) + len(suffix)
    limit = _content_limit(tokenization.max_length, num_special)
    values, lengths, null, refused = _tokenize_chunks(texts, tokenizer, raise_refused=bad_rows == "error")
    if null and bad_rows == "error":
        raise BadRowsError("cannot be encoded", null, f"fix them, {_OR_SET_ASIDE}")
    truncated = no_rows = np.zeros(len(texts), np.bool_)
    bad = null | refused
    any_too_long = bool(lengths.max(initial=0) > limit)
    if any_too_long and tokenization.truncate:
        truncated = lengths > limit
        values, lengths = _truncate(values, lengths, limit)
    elif any_too_long:
        too_long = lengths > limit
        counts = {row: int(lengths[row]) + num_special for row in np.flatnonzero(too_long).tolist()}
        if bad_rows == "error":
            raise _too_long_error(counts, tokenization.max_length)
        bad |= {row: f"{count} tokens, but max_length is {tokenization.max_length}" for row, count in counts.items()}
        values, lengths = values[np.repeat(~too_long, lengths)], np.where(too_long, 0, lengths)
    if num_special:
        values, lengths = _add_special_tokens(values, lengths, prefix, suffix, ~_mask(bad, len(texts)))
    offsets = np.zeros(len(texts) + 1, np.int64)
    lengths.cumsum(out=offsets[1:])
    without_text = _mask(null, len(texts)) if null else no_rows
    return RaggedTokens(values, offsets, truncated, without_text, dict(sorted(bad.items())))


def split_texts(texts: Texts, max_rows: int, max_bytes: int) -> list[tuple[int, int]]:
    """Consecutive row ranges (start, stop), each as long as the limits allow, and at least one row.

    Bytes are counted in an Arrow array, characters in a list.
    """
    if isinstance(texts, pa.Array | pa.ChunkedArray):
        try:
            sizes = pc.binary_length(texts)
        except pa.ArrowNotImplementedError:  # such as a dictionary column
            sizes = pc.binary_length(texts.cast(pa.large_string()))
        sizes = pc.fill_null(sizes, 0).to_numpy(zero_copy_only=False).astype(np.int64)
    else:
        counts = [len(text) if isinstance(text, str | bytes) else 0 for text in texts]
        if 0 < len(counts) <= max_rows and sum(counts) <= max_bytes:  # as in most requests to a server
            return [(0, len(counts))]
        sizes = np.array(counts, np.int64)
    ends = np.cumsum(sizes)
    ranges, start = [], 0
    while start < len(sizes):
        fitting = int(np.searchsorted(ends, ends[start] - sizes[start] + max_bytes, side="right"))
        stop = max(start + 1, min(fitting, start + max_rows))
        ranges.append((start, stop))
        start = stop
    return ranges


def _content_limit(max_length: int | None, num_special: int) -> int:
    """The most tokens of a text itself, without its special ones."""
    if max_length is None:
        return int(np.iinfo(np.int64).max)
    if max_length <= num_special:
        raise TextError(
            f"max_length is {max_length}, but the tokenizer adds {num_special} special tokens to every text;"
            f" set tokenizer.max_length above {num_special}"
        )
    return max_length - num_special


def _tokenize_chunks(
    texts: Texts, tokenizer: TextTokenizer, *, raise_refused: bool
) -> tuple[NDArray[np.int32], NDArray[np.int64], Reasons, Reasons]:
    """The ids of all texts int32[tokens], each text's count int64[rows], and the rows that are no text or refused.

    Raises:
        BadRowsError: the tokenizer refuses rows, and `raise_refused`; of the first chunk with such rows.
    """
    chunks, lengths = [np.empty(0, np.int32)], np.zeros(len(texts), np.int64)
    null: Reasons = {}
    refused: Reasons = {}
    ranges = split_texts(texts, CHUNK_TEXTS, CHUNK_BYTES)

    def encode_chunks() -> Generator[tuple[int, list[bytes | None], list[Encoding]]]:
        for start, stop in ranges:
            rows, no_text = _read_texts(texts[start:stop])
            known = tokenizer.known_ids(rows)
            left = [row for row, ids in enumerate(known) if ids is None]
            encodings, refusals = _encode_rows([rows[row] for row in left], tokenizer)
            null.update((start + row, reason) for row, reason in no_text.items())
            refused.update((start + left[row], reason) for row, reason in refusals.items())
            if refused and raise_refused:
                remedy = f"fix them, use a tokenizer that has its unknown token, {_OR_SET_ASIDE}"
                raise BadRowsError("cannot be encoded", refused, remedy)
            yield start, known, encodings

    with prefetch(encode_chunks()) if len(ranges) > 1 else closing(encode_chunks()) as batches:
        for start, known, encodings in batches:
            check_cancelled()
            others = (ids_as_bytes(encoding.ids) for encoding in encodings)
            ids = [next(others) if found is None else found for found in known]
            lengths[start : start + len(ids)] = [len(found) // 4 for found in ids]
            chunks.append(np.frombuffer(b"".join(ids), np.int32))
    return np.concatenate(chunks), lengths, null, refused


def _encode_rows(rows: list[str], tokenizer: TextTokenizer) -> tuple[list[Encoding], Reasons]:
    """Encodings, empty for rows that the tokenizer refuses, which are found by halving; and why it refuses them."""
    if not rows:
        return [], {}
    try:
        return tokenizer.encode_batch(rows), {}
    except TokenizerError as error:
        if len(rows) == 1:
            return [Encoding()], {0: f"refused by the tokenizer: {error.__cause__}"}
    half = len(rows) // 2
    (first, refused), (second, others) = _encode_rows(rows[:half], tokenizer), _encode_rows(rows[half:], tokenizer)
    return first + second, refused | {half + row: reason for row, reason in others.items()}


def _read_texts(texts: Texts) -> tuple[list[str], Reasons]:
    """Python strings, "" where there is no text; and why there is none."""
    values: Sequence[Any] = texts
    if isinstance(texts, pa.Array | pa.ChunkedArray):
        try:
            values = texts.to_pylist()
        except UnicodeDecodeError:
            values = [_decode_scalar(scalar) for scalar in texts]
    reasons = {row: reason for row, value in enumerate(values) if (reason := _why_no_text(value)) is not None}
    if not reasons:
        return list(values), reasons
    return ["" if row in reasons else value for row, value in enumerate(values)], reasons


def _why_no_text(value: object) -> str | None:
    """Why a value is no text that can be encoded; None where it is one."""
    if not isinstance(value, str):
        return _NO_TEXT.get(type(value)) or f"not text, but {type(value).__name__}"
    if value.isascii():
        return None
    try:
        value.encode()
    except UnicodeEncodeError as error:
        return f"not Unicode: a lone surrogate {value[error.start]!r} at character {error.start}"
    return None


def _decode_scalar(scalar: pa.Scalar) -> str | bytes | None:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return scalar.as_buffer().to_pybytes()


def _mask(rows: Iterable[int], count: int) -> NDArray[np.bool_]:
    """bool[count], true at `rows`."""
    mask = np.zeros(count, np.bool_)
    mask[list(rows)] = True
    return mask


def _truncate(
    values: NDArray[np.int32], lengths: NDArray[np.int64], limit: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """At most the first `limit` ids of each row."""
    return values[_positions(lengths) < limit], np.minimum(lengths, limit)


def _positions(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64[tokens], each token's position within its row."""
    starts = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum(), dtype=np.int64) - np.repeat(starts, lengths)


def _add_special_tokens(
    values: NDArray[np.int32],
    lengths: NDArray[np.int64],
    prefix: Sequence[int],
    suffix: Sequence[int],
    chosen: NDArray[np.bool_],
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Rows with `prefix` before and `suffix` after them, where `chosen`, bool[rows]."""
    longer = lengths + np.where(chosen, len(prefix) + len(suffix), 0)
    starts, positions = np.cumsum(longer) - longer, _positions(lengths)
    shift = np.where(chosen, len(prefix), 0)
    out = np.empty(longer.sum(), np.int32)
    out[np.repeat(starts + shift, lengths) + positions] = values
    for offset, token in enumerate(prefix):
        out[starts[chosen] + offset] = token
    for offset, token in enumerate(reversed(suffix), 1):
        out[(starts + longer)[chosen] - offset] = token
    return out, longer


def _too_long_error(counts: Mapping[int, int], max_length: int | None) -> BadRowsError:
    return BadRowsError(
        f"are longer than tokenizer.max_length = {max_length}",
        {row: f"{count} tokens" for row, count in counts.items()},
        "raise max_length, set tokenizer.truncate to true, or set encode.bad_rows to quarantine or zero",
    )
