"""`RaggedTokens`: the ids of some texts as two flat arrays, without padding and without a Python list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lengthwise.tokens.deduplicate import find_distinct_rows


@dataclass(frozen=True, eq=False)
class RaggedTokens:
    """The ids of some texts.

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
        """int64[rows], tokens per row."""
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
        return find_distinct_rows(self.values, self.offsets)

    def take(self, rows: NDArray[np.int64]) -> RaggedTokens:
        """These rows alone, in this order."""
        values = [self.row(row) for row in rows.tolist()]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(row) for row in values], dtype=np.int64)])
        ids = np.concatenate(values) if values else np.empty(0, np.int32)
        bad = {new: self.bad[row] for new, row in enumerate(rows.tolist()) if row in self.bad}
        return RaggedTokens(ids, offsets, self.truncated[rows], self.null[rows], bad)

    def pad_rows(self, rows: NDArray[np.int64], pad_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
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


def concatenate_tokens(parts: Sequence[RaggedTokens]) -> RaggedTokens:
    """The rows of all parts, one part after the other."""
    starts = np.cumsum([0, *(len(part.values) for part in parts)])
    first_rows = np.cumsum([0, *map(len, parts)]).tolist()
    offsets = [part.offsets[:-1] + start for part, start in zip(parts, starts, strict=False)]
    return RaggedTokens(
        np.concatenate([np.empty(0, np.int32), *(part.values for part in parts)]),
        np.concatenate([*offsets, starts[-1:]]).astype(np.int64),
        np.concatenate([np.empty(0, np.bool_), *(part.truncated for part in parts)]),
        np.concatenate([np.empty(0, np.bool_), *(part.null for part in parts)]),
        {
            first + row: reason
            for part, first in zip(parts, first_rows, strict=False)
            for row, reason in part.bad.items()
        },
    )
