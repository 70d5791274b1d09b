"""Texts to ids: `RaggedTokens`, ragged token ids as two flat arrays.

Notable decisions:
- No Python list of ids outlives the chunk it was made in: a shard of a million texts is three NumPy arrays.
- Truncation is done here, on the flat arrays, not inside the tokenizer: the tokenizer's own truncation cannot
  tell "exactly max_length" from "cut", keeps the parts that it cut off in memory, and would come along with any
  tokenizer.json that was saved with it switched on.
- While one chunk's ids are taken out of the library's objects, which it allows only one by one as Python lists, the
  next chunk is tokenized in another thread. A chunk is bounded in rows and in bytes: the library needs some 120 bytes
  for a byte of text while it tokenizes it (300 with a token a character), and 20 until its ids are taken out. A text
  is never cut, so one of 10 MB takes 1.2 GB for some seconds.
- A text that the library refuses takes none of its chunk with it: the chunk is halved until the text stands alone.
- Special tokens are put in after truncation, so a cut text still ends the way the model was trained to see.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from tokenizers import Encoding

from lengthwise.config import BadRows, TokenizationSettings
from lengthwise.errors import TextError, TokenizerError
from lengthwise.tokens.deduplicate import distinct_rows
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.util.threads import check_cancelled, prefetch

CHUNK_TEXTS, CHUNK_BYTES = 512, 4 * 2**20
_ROWS_NAMED = 5
_NO_TEXT = {type(None): "null", bytes: "not Unicode: bytes that are not UTF-8"}


@dataclass(frozen=True, eq=False)
class RaggedTokens:
    """The ids of a run of texts.

    Attributes:
        values: int32[tokens], the ids of all rows, one row after the other.
        offsets: int64[rows + 1]; row i is `values[offsets[i]:offsets[i + 1]]`.
        truncated: bool[rows], whether tokens of the row were cut off.
        null: bool[rows], whether the row had no text (null, or not Unicode) and so has no ids.
        bad: why a row could not be encoded, by its number; those without a text are among them. They have no ids.
    """

    values: NDArray[np.int32]
    offsets: NDArray[np.int64]
    truncated: NDArray[np.bool_]
    null: NDArray[np.bool_]
    bad: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64[rows], tokens a row."""
        return np.diff(self.offsets)

    @property
    def empty(self) -> NDArray[np.bool_]:
        """bool[rows], whether the row has a text that is not bad, but no token."""
        empty = (self.lengths == 0) & ~self.null
        empty[list(self.bad)] = False
        return empty

    def row(self, index: int) -> NDArray[np.int32]:
        """int32[tokens], a view of one row's ids."""
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def distinct_rows(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The first row of each sequence of ids, int64[distinct], and which of these each row equals, int64[rows]."""
        return distinct_rows(self.values, self.offsets)

    def take(self, rows: NDArray[np.int64]) -> RaggedTokens:
        """These rows alone, in this order."""
        values = [self.row(row) for row in rows.tolist()]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(row) for row in values], dtype=np.int64)])
        ids = np.concatenate(values) if values else np.empty(0, np.int32)
        bad = {new: self.bad[row] for new, row in enumerate(rows.tolist()) if row in self.bad}
        return RaggedTokens(ids, offsets, self.truncated[rows], self.null[rows], bad)

    def gather(self, rows: NDArray[np.int64], pad_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows as a right-padded rectangle.

        Args:
            rows: int64[batch], row numbers.
            pad_id: fills the cells beyond a row's end.

        Returns:
            input_ids int64[batch, longest] and lengths int64[batch].
        """
        starts, lengths = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
        columns = np.arange(lengths.max(initial=0), dtype=np.int64)
        real = columns < lengths[:, None]
        input_ids = np.full(real.shape, pad_id, dtype=np.int64)
        input_ids[real] = self.values[(starts[:, None] + columns)[real]]
        return input_ids, lengths

    def to_arrow(self) -> pa.Table:
        """Columns input_ids (large_list<int32>), truncated and null (bool), bad (string). The ids are not copied."""
        ids = pa.LargeListArray.from_arrays(pa.array(self.offsets), pa.array(self.values))
        flags = {"truncated": pa.array(self.truncated), "null": pa.array(self.null)}
        bad = pa.array([self.bad.get(row) for row in range(len(self))], pa.string())
        return pa.table({"input_ids": ids, **flags, "bad": bad})

    @classmethod
    def from_arrow(cls, table: pa.Table) -> RaggedTokens:
        """The inverse of `to_arrow`. The ids are not copied where the table has one chunk."""
        column = table["input_ids"]
        ids = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        offsets = ids.offsets.to_numpy()
        values = ids.values.to_numpy()[offsets[0] : offsets[-1]]
        truncated, null = (table[name].to_numpy(zero_copy_only=False) for name in ("truncated", "null"))
        bad = {row: reason for row, reason in enumerate(table["bad"].to_pylist()) if reason is not None}
        return cls(values, offsets - offsets[0], truncated, null, bad)


def tokenize_texts(
    texts: pa.Array | pa.ChunkedArray | Sequence[str | None],
    tokenizer: TextTokenizer,
    tokenization: TokenizationSettings = TokenizationSettings(),
    *,
    bad_rows: BadRows = "error",
    first_row: int = 0,
) -> RaggedTokens:
    """Turn texts into ids.

    Args:
        texts: strings, or an Arrow array of them; None where there is no text.
        tokenizer: from `lengthwise.tokens.tokenizer`.
        tokenization: the model's settings (`EncoderConfig.tokenization`). A row longer than `max_length` is cut at its
            end and flagged under `truncate`, else it is bad.
        bad_rows: what to do with a row that is bad, which is one that is null, not Unicode, refused by the tokenizer
            or too long: stop, or let it have no ids and say why.
        first_row: the dataset's row number of `texts[0]`, for messages.

    Raises:
        TextError: a bad row under `"error"`, or a max_length that the special tokens alone fill.
    """
    prefix, suffix = (tokenizer.prefix, tokenizer.suffix) if tokenization.add_special_tokens else ((), ())
    max_length, truncate = tokenization.max_length, tokenization.truncate
    special = len(prefix) + len(suffix)
    if max_length is not None and max_length <= special:
        raise TextError(
            f"max_length is {max_length}, but the tokenizer adds {special} special tokens to every text;"
            f" set tokenizer.max_length above {special}"
        )
    absent: dict[int, str] = {}
    refused: dict[int, str] = {}
    values, lengths = _ids(texts, tokenizer, absent, refused, stop=first_row if bad_rows == "error" else None)
    if absent and bad_rows == "error":
        raise TextError(_bad_rows_message(absent, first_row))
    room = np.iinfo(np.int64).max if max_length is None else max_length - special
    beyond = lengths > room
    if beyond.any():
        if truncate:
            values = values[_positions(lengths) < room]
            lengths = np.minimum(lengths, room)
        elif bad_rows == "error":
            raise TextError(_too_long_message(lengths + special, beyond, max_length, first_row))
        else:
            rows = np.flatnonzero(beyond).tolist()
            refused |= {row: f"{lengths[row] + special} tokens, but max_length is {max_length}" for row in rows}
            values = values[np.repeat(~beyond, lengths)]
            lengths = np.where(beyond, 0, lengths)
    bad = dict(sorted({**absent, **refused}.items()))
    if special:
        wrapped = np.ones(len(texts), np.bool_)
        wrapped[list(bad)] = False
        values, lengths = _wrap(values, lengths, prefix, suffix, wrapped)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    null = np.zeros(len(texts), np.bool_)
    null[list(absent)] = True
    return RaggedTokens(values, offsets, beyond if truncate else np.zeros(len(texts), np.bool_), null, bad)


def cut_texts(
    texts: pa.Array | pa.ChunkedArray | Sequence[str | None], most_rows: int, most_bytes: int
) -> list[tuple[int, int]]:
    """Ranges of rows, one after the other: as many rows as the limits allow, and at least one.

    Bytes are those of UTF-8 in an Arrow array; in a list, characters are counted.
    """
    if isinstance(texts, pa.Array | pa.ChunkedArray):
        try:
            sizes = pc.binary_length(texts)
        except pa.ArrowNotImplementedError:  # of a dictionary, say
            sizes = pc.binary_length(texts.cast(pa.large_string()))
        sizes = pc.fill_null(sizes, 0).to_numpy(zero_copy_only=False).astype(np.int64)
    else:
        sizes = np.fromiter((len(text) if isinstance(text, str | bytes) else 0 for text in texts), np.int64, len(texts))
    ends = np.cumsum(sizes)
    ranges, start = [], 0
    while start < len(sizes):
        fitting = int(np.searchsorted(ends, ends[start] - sizes[start] + most_bytes, side="right"))
        stop = max(start + 1, min(fitting, start + most_rows))
        ranges.append((start, stop))
        start = stop
    return ranges


def _ids(
    texts: pa.Array | pa.ChunkedArray | Sequence[str | None],
    tokenizer: TextTokenizer,
    absent: dict[int, str],
    refused: dict[int, str],
    stop: int | None,
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The ids of all texts in a row, int32[tokens], and how many each has, int64[rows].

    Rows that cannot be read are noted in `absent`, and those that the tokenizer refuses in `refused`, which ends in a
    TextError at the first of them where `stop`, the dataset's row number of the first text, is given.
    """
    chunks, lengths = [np.empty(0, np.int32)], np.zeros(len(texts), np.int64)
    ranges = cut_texts(texts, CHUNK_TEXTS, CHUNK_BYTES)

    def encoded() -> Generator[tuple[int, list[Encoding]]]:
        for start, end in ranges:
            rows = _readable(texts[start:end], start, absent)
            encodings = _encoded(rows, start, tokenizer, refused)
            if refused and stop is not None:
                raise TextError(_bad_rows_message(refused, stop, ", use a tokenizer that has its unknown token"))
            yield start, encodings

    with prefetch(encoded()) if len(ranges) > 1 else closing(encoded()) as batches:
        for start, encodings in batches:
            check_cancelled()
            found = [len(encoding) for encoding in encodings]
            lengths[start : start + len(found)] = found
            # A list at a time: many that are alive at once set off Python's garbage collector.
            ids = chain.from_iterable(encoding.ids for encoding in encodings)
            chunks.append(np.fromiter(ids, np.int32, sum(found)))
    return np.concatenate(chunks), lengths


def _encoded(rows: list[str], start: int, tokenizer: TextTokenizer, refused: dict[int, str]) -> list[Encoding]:
    """The rows' encodings; those of rows that the tokenizer refuses are empty, and are found by halving."""
    try:
        return tokenizer.encode_batch(rows)
    except TokenizerError as error:
        if len(rows) == 1:
            refused[start] = f"refused by the tokenizer: {error.__cause__}"
            return [Encoding()]
    half = len(rows) // 2
    return _encoded(rows[:half], start, tokenizer, refused) + _encoded(rows[half:], start + half, tokenizer, refused)


def _readable(texts: pa.Array | pa.ChunkedArray | Sequence[str | None], start: int, bad: dict[int, str]) -> list[str]:
    """The texts as Python strings, with "" for those that cannot be read, which are noted in `bad`."""
    if isinstance(texts, pa.Array | pa.ChunkedArray):
        try:
            texts = texts.to_pylist()
        except UnicodeDecodeError:
            texts = [_decoded(scalar) for scalar in texts]
    rows = []
    for index, text in enumerate(texts, start):
        if isinstance(text, str):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                bad[index] = f"not Unicode: a lone surrogate {text[error.start]!r} at character {error.start}"
                text = ""
        else:
            bad[index] = _NO_TEXT.get(type(text)) or f"not text, but {type(text).__name__}"
            text = ""
        rows.append(text)
    return rows


def _decoded(scalar: pa.Scalar) -> str | bytes | None:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return scalar.as_buffer().to_pybytes()


def _positions(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64[tokens], each token's position within its row."""
    starts = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum(), dtype=np.int64) - np.repeat(starts, lengths)


def _wrap(
    values: NDArray[np.int32],
    lengths: NDArray[np.int64],
    prefix: Sequence[int],
    suffix: Sequence[int],
    wrapped: NDArray[np.bool_],
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Put `prefix` before and `suffix` after each row in `wrapped`."""
    longer = lengths + np.where(wrapped, len(prefix) + len(suffix), 0)
    starts, positions = np.cumsum(longer) - longer, _positions(lengths)
    shift = np.where(wrapped, len(prefix), 0)
    out = np.empty(longer.sum(), np.int32)
    out[np.repeat(starts + shift, lengths) + positions] = values
    for offset, token in enumerate(prefix):
        out[starts[wrapped] + offset] = token
    for offset, token in enumerate(reversed(suffix), 1):
        out[(starts + longer)[wrapped] - offset] = token
    return out, longer


def _bad_rows_message(bad: dict[int, str], first_row: int, remedy: str = "") -> str:
    shown = "; ".join(f"row {first_row + row}: {reason}" for row, reason in list(bad.items())[:_ROWS_NAMED])
    more = f"; and {len(bad) - _ROWS_NAMED} more" if len(bad) > _ROWS_NAMED else ""
    return (
        f"{len(bad)} of the texts cannot be encoded ({shown}{more});"
        f" mend them{remedy}, or set encode.bad_rows to quarantine, which sets such rows aside, or to zero"
    )


def _too_long_message(
    lengths: NDArray[np.int64], too_long: NDArray[np.bool_], max_length: int | None, first_row: int
) -> str:
    row = int(np.argmax(too_long))
    return (
        f"{int(too_long.sum())} of the texts are longer than tokenizer.max_length = {max_length} tokens (the first,"
        f" row {first_row + row}, has {int(lengths[row])}); raise max_length, set tokenizer.truncate to true,"
        " or set encode.bad_rows to quarantine or zero"
    )
