"""Division of shards between processes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthwise.errors import StoreError
from lengthwise.store.parts import Part


@given(shards=st.integers(1, 40), count=st.integers(1, 9))
def test_each_shard_belongs_to_one_part(shards: int, count: int) -> None:
    owners = [[part for part in range(count) if Part(part, count).owns(shard)] for shard in range(shards)]
    assert all(len(parts) == 1 for parts in owners)


@pytest.mark.parametrize(("index", "count"), [(-1, 2), (2, 2), (0, 0)])
def test_part_number_out_of_range_is_refused(index: int, count: int) -> None:
    with pytest.raises(StoreError, match=f"part {index} of {count}: parts are numbered from 0 to {count - 1}"):
        Part(index, count)
