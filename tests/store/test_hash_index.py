"""Texts are found by their hashes, sorted in memory or on the disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lengthwise.errors import StoreError
from lengthwise.store import hash_index
from lengthwise.store.hash_index import HashIndex

# Of few values in either half, so that halves and whole hashes coincide; a hash of zeros is of no text.
words = st.sampled_from([0, 1, 2, 2**63, 2**64 - 1])
some_hashes = st.lists(st.lists(st.tuples(words, words), max_size=9), max_size=4)


def to_array(pairs: list[tuple[int, int]]) -> NDArray[np.uint8]:
    return np.array(pairs, ">u8").reshape(-1, 2).view(np.uint8).reshape(-1, 16)


@pytest.mark.parametrize("memory_rows", [10**6, 3])
@settings(max_examples=60, deadline=None)
@given(parts=some_hashes, wanted=st.lists(st.tuples(words, words), max_size=12))
def test_first_place_of_a_hash_is_found(
    memory_rows: int, parts: list[list[tuple[int, int]]], wanted: list[tuple[int, int]]
) -> None:
    flat = [pair for part in parts for pair in part]
    starts = np.cumsum([0, *map(len, parts)])
    entries = [
        (to_array(part), np.arange(start, start + len(part))) for part, start in zip(parts, starts, strict=False)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hash_index, "MEMORY_ROWS", memory_rows)
        with HashIndex(entries, len(flat)) as index:
            found = index.find(to_array(wanted))
    expected = [flat.index(pair) if pair in flat and pair != (0, 0) else -1 for pair in wanted]
    assert found.tolist() == expected


def test_file_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hash_index, "MEMORY_ROWS", 3)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    hashes = np.random.default_rng(0).integers(0, 256, (1_000, 16), np.uint8)
    with HashIndex([(hashes, np.arange(1_000))], 1_000) as index:
        assert list(tmp_path.iterdir())
        assert (index.find(hashes) == np.arange(1_000)).all()
    assert not list(tmp_path.iterdir())


def test_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hash_index, "MEMORY_ROWS", 3)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hash_index, "_sort_on_disk", fail)
    with pytest.raises(StoreError, match="set TMPDIR"):
        HashIndex([], 1_000)
    assert not list(tmp_path.iterdir())
