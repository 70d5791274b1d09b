"""`HashIndex`: where each of many texts is, found by its hash.

Notable decisions:
- Hashes are uniform, so they are sorted by parts of their range, one part in memory at a time. What is sorted lies in a
  temporary file that is mapped, 24 bytes per text: the memory does not grow with their number.
- A few million texts are sorted in memory, without a file.
- Of texts that are there twice, the first one is found.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lengthwise.store.protocol import wrap_os_errors

MEMORY_ROWS = 2**22  # sorted at a time: about 300 MB
_MOST_PARTS = 256
_ENTRY = np.dtype([("high", np.uint64), ("low", np.uint64), ("place", np.int64)])
_COLUMNS = ("high", "low", "place")
Entries = Iterable[tuple[NDArray[np.uint8], NDArray[np.int64]]]


class HashIndex:
    """The places of texts, by their hashes; a context manager, since it may have a temporary file."""

    def __init__(self, entries: Entries, rows: int) -> None:
        """Sort the entries.

        Args:
            entries: hashes uint8[n, 16] and places int64[n], not negative. Zero hashes are left out.
            rows: about how many there are.

        Raises:
            StoreError: a temporary file cannot be written.
        """
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        if rows <= MEMORY_ROWS:
            parts = [_entries(*entry) for entry in entries]
            entries = _sort(np.concatenate(parts) if parts else np.empty(0, _ENTRY))
            # Apart, since a search would copy an array whose values are not side by side.
            self._columns = {name: np.ascontiguousarray(entries[name]) for name in _COLUMNS}
            return
        self._scratch = tempfile.TemporaryDirectory(prefix="lengthwise-hashes-")
        try:
            with wrap_os_errors(f"{self._scratch.name}: cannot be written", "free space there, or set TMPDIR"):
                self._columns = _sort_on_disk(Path(self._scratch.name), entries, rows)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> HashIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._columns["high"])

    def close(self) -> None:
        """Remove the temporary file, if there is one."""
        self._columns = {name: np.empty(0, _ENTRY[name]) for name in _COLUMNS}
        if self._scratch is not None:
            self._scratch.cleanup()

    def find(self, hashes: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The places of texts of these hashes, uint8[n, 16]: int64[n], -1 where there is none."""
        high, low = _words(hashes)
        places = np.full(len(hashes), -1, np.int64)
        waiting = np.argsort(high, kind="stable")  # neighbours are then near each other in the file
        waiting = waiting[(high[waiting] != 0) | (low[waiting] != 0)]
        at = np.searchsorted(self._columns["high"], high[waiting])
        while len(waiting):
            inside = at < len(self)
            waiting, at = waiting[inside], at[inside]
            same_high = self._columns["high"][at] == high[waiting]
            same = same_high & (self._columns["low"][at] == low[waiting])
            places[waiting[same]] = self._columns["place"][at[same]]
            going_on = same_high & ~same  # another text with the same first half, which hardly ever happens
            waiting, at = waiting[going_on], at[going_on] + 1
        return places


def _words(hashes: NDArray[np.uint8]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    words = np.ascontiguousarray(hashes).view(">u8").astype(np.uint64).reshape(-1, 2)
    return words[:, 0], words[:, 1]


def _entries(hashes: NDArray[np.uint8], places: NDArray[np.int64]) -> NDArray[np.void]:
    entries = np.empty(len(hashes), _ENTRY)
    entries["high"], entries["low"] = _words(hashes)
    entries["place"] = places
    return entries[(entries["high"] != 0) | (entries["low"] != 0)]


def _sort(entries: NDArray[np.void]) -> NDArray[np.void]:
    """Sorted by hash, each hash once, with the place that came first."""
    entries = entries[np.argsort(entries["high"], kind="stable")]
    high, low = entries["high"], entries["low"]
    is_tied = high[1:] == high[:-1]
    if (is_tied & (low[1:] != low[:-1])).any():
        entries = entries[np.lexsort((low, high))]
        high, low = entries["high"], entries["low"]
        is_tied = high[1:] == high[:-1]
    is_first = np.ones(len(entries), np.bool_)
    is_first[1:] = ~(is_tied & (low[1:] == low[:-1]))
    return entries[is_first]


def _sort_on_disk(folder: Path, entries: Entries, rows: int) -> dict[str, NDArray[Any]]:
    """The same, in files: by parts of the range of hashes."""
    count = min(_MOST_PARTS, -(-rows // MEMORY_ROWS) + 1)
    files = [folder / f"part-{number}" for number in range(count)]
    for entry in entries:
        found = _entries(*entry)
        numbers = (found["high"] >> np.uint64(32)) * np.uint64(count) >> np.uint64(32)
        found = found[np.argsort(numbers, kind="stable")]
        ends = np.cumsum(np.bincount(numbers.astype(np.int64), minlength=count))
        for file, part in zip(files, np.split(found, ends[:-1]), strict=True):
            with open(file, "ab") as out:
                part.tofile(out)
    total = 0
    with ExitStack() as stack:
        outs = {name: stack.enter_context(open(folder / name, "wb")) for name in _COLUMNS}
        for part in map(_sort, _read_parts(files)):
            total += len(part)
            for name, out in outs.items():
                part[name].tofile(out)
    if not total:
        return {name: np.empty(0, _ENTRY[name]) for name in _COLUMNS}
    return {name: np.memmap(folder / name, _ENTRY[name], "r") for name in _COLUMNS}


def _read_parts(files: list[Path]) -> Iterator[NDArray[np.void]]:
    for file in files:
        if file.exists():
            yield np.fromfile(file, _ENTRY)
            file.unlink()
