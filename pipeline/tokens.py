"""Texts to ids: `TokenShard`, ragged token ids as two flat arrays.

Notable decisions:
- No Python list of ids outlives the chunk it was made in: a shard of a million texts is three NumPy arrays.
- Truncation is done here, on the flat arrays, not inside the tokenizer: the tokenizer's own truncation cannot
  tell "exactly max_length" from "cut", keeps the parts that it cut off in memory, and would come along with any
  tokenizer.json that was saved with it switched on.
- While one chunk's ids are taken out of the library's objects, which it allows only one by one as Python lists, the
  next chunk is tokenized in another thread.
- Special tokens are put in after truncation, so a cut text still ends the way the model was trained to see.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tokenizers import Encoding

from pipeline.errors import TextError
from pipeline.prefetch import ahead
from pipeline.tokenizer import TextTokenizer

CHUNK_TEXTS = 512
_ROWS_NAMED = 5
_NO_TEXT = {type(None): "null", bytes: "not Unicode: bytes that are not UTF-8"}


@dataclass(frozen=True, eq=False)
class TokenShard:
    """The ids of a run of texts.

    Attributes:
        values: int32[tokens], the ids of all rows, one row after the other.
        offsets: int64[rows + 1]; row i is `values[offsets[i]:offsets[i + 1]]`.
        truncated: bool[rows], whether tokens of the row were cut off.
        null: bool[rows], whether the row had no text (null, or not Unicode) and so has no ids.
    """

    values: NDArray[np.int32]
    offsets: NDArray[np.int64]
    truncated: NDArray[np.bool_]
    null: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64[rows], tokens a row."""
        return np.diff(self.offsets)

    @property
    def empty(self) -> NDArray[np.bool_]:
        """bool[rows], whether the row has a text, but no token."""
        return (self.lengths == 0) & ~self.null

    def row(self, index: int) -> NDArray[np.int32]:
        """int32[tokens], a view of one row's ids."""
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def distinct_rows(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The first row of each sequence of ids, int64[distinct], and which of these each row equals, int64[rows]."""
        numbers: dict[bytes, int] = {}
        data, ends = self.values.tobytes(), (self.offsets * self.values.itemsize).tolist()
        rows = (data[start:stop] for start, stop in pairwise(ends))
        same_as = np.fromiter((numbers.setdefault(row, len(numbers)) for row in rows), np.int64, len(self))
        return np.unique(same_as, return_index=True)[1], same_as

    def take(self, rows: NDArray[np.int64]) -> TokenShard:
        """These rows alone, in this order."""
        values = [self.row(row) for row in rows.tolist()]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(row) for row in values], dtype=np.int64)])
        ids = np.concatenate(values) if values else np.empty(0, np.int32)
        return TokenShard(ids, offsets, self.truncated[rows], self.null[rows])

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
        """Columns input_ids (large_list<int32>), truncated and null (bool). The ids are not copied."""
        ids = pa.LargeListArray.from_arrays(pa.array(self.offsets), pa.array(self.values))
        return pa.table({"input_ids": ids, "truncated": pa.array(self.truncated), "null": pa.array(self.null)})

    @classmethod
    def from_arrow(cls, table: pa.Table) -> TokenShard:
        """The inverse of `to_arrow`. The ids are not copied where the table has one chunk."""
        column = table["input_ids"]
        ids = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        offsets = ids.offsets.to_numpy()
        values = ids.values.to_numpy()[offsets[0] : offsets[-1]]
        flags = (table[name].to_numpy(zero_copy_only=False) for name in ("truncated", "null"))
        return cls(values, offsets - offsets[0], *flags)


def tokenize_texts(
    texts: pa.Array | pa.ChunkedArray | Sequence[str | None],
    tokenizer: TextTokenizer,
    *,
    max_length: int | None = None,
    truncate: bool = False,
    add_special_tokens: bool = True,
    bad_rows: Literal["error", "zero"] = "error",
    first_row: int = 0,
) -> TokenShard:
    """Turn texts into ids.

    Args:
        texts: strings, or an Arrow array of them; None where there is no text.
        tokenizer: from `pipeline.tokenizer`.
        max_length: the most tokens a row may have, special tokens included; None for no limit.
        truncate: cut a longer row at its end and flag it; without it a longer row is an error.
        add_special_tokens: put in what the tokenizer's post-processor adds.
        bad_rows: what to do with a row that is null or not Unicode: stop, or let it have no ids.
        first_row: the dataset's row number of `texts[0]`, for messages.

    Raises:
        TextError: a bad row under `"error"`, a row longer than max_length without `truncate`, or a max_length that
            the special tokens alone fill.
    """
    prefix, suffix = (tokenizer.prefix, tokenizer.suffix) if add_special_tokens else ((), ())
    special = len(prefix) + len(suffix)
    if max_length is not None and max_length <= special:
        raise TextError(
            f"max_length is {max_length}, but the tokenizer adds {special} special tokens to every text;"
            f" set tokenizer.max_length above {special}"
        )
    bad: dict[int, str] = {}
    values, lengths = _ids(texts, tokenizer, bad)
    if bad and bad_rows == "error":
        raise TextError(_bad_rows_message(bad, first_row))
    null = np.zeros(len(texts), np.bool_)
    null[list(bad)] = True
    room = np.iinfo(np.int64).max if max_length is None else max_length - special
    truncated = lengths > room
    if truncated.any():
        if not truncate:
            raise TextError(_too_long_message(lengths + special, truncated, max_length, first_row))
        values = values[_positions(lengths) < room]
        lengths = np.minimum(lengths, room)
    if special:
        values, lengths = _wrap(values, lengths, prefix, suffix, wrapped=~null)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return TokenShard(values, offsets, truncated, null)


def _ids(
    texts: pa.Array | pa.ChunkedArray | Sequence[str | None], tokenizer: TextTokenizer, bad: dict[int, str]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The ids of all texts in a row, int32[tokens], and how many each has, int64[rows]; see `_readable` for `bad`."""
    chunks, lengths = [np.empty(0, np.int32)], np.zeros(len(texts), np.int64)

    def encoded() -> Generator[tuple[int, list[Encoding]]]:
        for start in range(0, len(texts), CHUNK_TEXTS):
            yield start, tokenizer.encode_batch(_readable(texts[start : start + CHUNK_TEXTS], start, bad))

    with ahead(encoded()) if len(texts) > CHUNK_TEXTS else closing(encoded()) as batches:
        for start, encodings in batches:
            found = [len(encoding) for encoding in encodings]
            lengths[start : start + len(found)] = found
            # A list at a time: many that are alive at once set off Python's garbage collector.
            ids = chain.from_iterable(encoding.ids for encoding in encodings)
            chunks.append(np.fromiter(ids, np.int32, sum(found)))
    return np.concatenate(chunks), lengths


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


def _bad_rows_message(bad: dict[int, str], first_row: int) -> str:
    shown = "; ".join(f"row {first_row + row}: {reason}" for row, reason in list(bad.items())[:_ROWS_NAMED])
    more = f"; and {len(bad) - _ROWS_NAMED} more" if len(bad) > _ROWS_NAMED else ""
    return (
        f"{len(bad)} of the texts cannot be encoded ({shown}{more});"
        " mend them, or set encode.bad_rows to zero to give such rows a vector of zeros"
    )


def _too_long_message(
    lengths: NDArray[np.int64], too_long: NDArray[np.bool_], max_length: int | None, first_row: int
) -> str:
    row = int(np.argmax(too_long))
    return (
        f"{int(too_long.sum())} of the texts are longer than tokenizer.max_length = {max_length} tokens (the first,"
        f" row {first_row + row}, has {int(lengths[row])}); raise max_length, or set tokenizer.truncate to true"
    )
