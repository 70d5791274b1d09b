"""A trie's levels and what is left of its rows read every row once, and equal beginnings once."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.ragged import ragged
from lengthwise.encoder.trie import SortedRows, Trie

ROWS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=14), min_size=1, max_size=40, unique_by=tuple)


def read_back(sorted_rows: SortedRows, count: int) -> tuple[dict[int, list[int]], int]:
    """What each row has read at its end, by row, and how many ids were read."""
    found: dict[int, list[int]] = {}
    read = 0
    for block in sorted_rows.blocks(count):
        trie = Trie(block)
        states: dict[int, list[int]] = {}
        for level in trie.levels():
            new = {}
            places = np.searchsorted(level.bounds, np.arange(len(level.children)), side="right") - 1
            for number, (child, source, place) in enumerate(zip(level.children, level.sources, places, strict=True)):
                if level.time:
                    assert level.parents[place] == source
                if child == source and level.time:  # it overwrites its parent's state, so it reads that last
                    assert level.bounds[place + 1] == number + 1
                before = states[source] if level.time else []
                assert len(before) == level.time
                new[child] = [*before, int(block.values[block.starts[child] + level.time])]
            states.update(new)
            read += len(new)
        for row, begun, start, length in zip(
            range(len(block.rows)), trie.begun, block.starts, block.lengths, strict=True
        ):
            assert len(states[row]) == begun
            found[int(block.rows[row])] = [*states[row], *block.values[start + begun : start + length].tolist()]
        read += int(trie.remaining.sum())
    return found, read


@settings(max_examples=200, deadline=None)
@given(rows=ROWS, reverse=st.booleans(), blocks=st.integers(1, 4), step=st.floats(0, 5))
def test_every_row_is_read_and_shared_tokens_are_read_once(
    rows: list[list[int]], reverse: bool, blocks: int, step: float
) -> None:
    tokens = ragged(rows)
    numbers = np.arange(len(rows))[::-1].copy()
    sorted_rows = SortedRows.sort(tokens, numbers, reverse=reverse)
    found, read = read_back(sorted_rows, 1)
    expected = {number: row[::-1] if reverse else row for number, row in enumerate(rows)}
    assert found == expected
    prefixes = {tuple(row[:end]) for row in expected.values() for end in range(1, len(row) + 1)}
    assert read == len(prefixes) == sum(map(len, rows)) - sorted_rows.saved
    limited = sorted_rows.limit_depth(blocks, step)
    assert read_back(limited, blocks)[0] == expected
    assert limited.saved <= sorted_rows.saved


def test_depth_is_where_sharing_stops_to_pay() -> None:
    """Five rows share a token, two of them four more: at a price of 2 tokens a step, only the first is worth it."""
    rows = [[7, 1, 1, 1, 1, 2], [7, 1, 1, 1, 1, 3], [7, 4], [7, 5], [7, 6]]
    sorted_rows = SortedRows.sort(ragged(rows), np.arange(5), reverse=False)
    assert sorted_rows.shared.tolist() == [0, 5, 1, 1, 1]
    assert sorted_rows.limit_depth(1, 2).shared.tolist() == [0, 1, 1, 1, 1]
    assert sorted_rows.limit_depth(1, 0.5).shared.tolist() == [0, 5, 1, 1, 1]
    assert sorted_rows.limit_depth(1, 5).saved == 0


def test_ids_are_sorted_as_numbers() -> None:
    """Not as the bytes of a little-endian machine."""
    rows = [[256, 1], [1, 256], [65_536], [255]]
    assert SortedRows.sort(ragged(rows), np.arange(4), reverse=False).rows.tolist() == [1, 3, 0, 2]
