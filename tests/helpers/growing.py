"""Inputs that grow, runs that append, and what is in their folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from helpers.runs import data_files, run_config
from helpers.texts import TEXTS
from lengthwise.config import RunConfig

WORDS = sorted({word for text in TEXTS for word in text.split()})
texts = st.lists(st.none() | st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join), max_size=7)
steps = st.lists(
    st.tuples(
        st.lists(st.tuples(st.sampled_from(["a", "m", "z", "sub/a"]), texts), max_size=2),
        st.lists(st.tuples(st.integers(0, 5), texts), max_size=2),
    ),
    min_size=1,
    max_size=4,
)
KEEP = {"keep_columns": ["id"]}


def appending(output: Path, path: Path | str = "memory", **sections: dict[str, Any]) -> RunConfig:
    sections["encode"] = {"append": True, "bad_rows": "quarantine", "output": str(output), **sections.get("encode", {})}
    return run_config(output, path, **sections)


def write_rows(path: Path, rows: list[tuple[int, str | None]]) -> None:
    """A file of these rows, in the format of its extension; it replaces one that is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        table = pa.table({"id": [number for number, _ in rows], "text": pa.array([text for _, text in rows], "string")})
        pq.write_table(table, path)
    else:
        path.write_text("".join(json.dumps({"id": number, "text": text}) + "\n" for number, text in rows))


def rows_of(folder: Path) -> list[tuple[int, bytes | None, int, bool]]:
    """The rows of a folder of vectors, in its order."""
    names = [
        folder / name
        for name in json.loads((folder / "manifest.json").read_text())["shards"]
        for name in [name["file"]]
    ]
    found = []
    for name in names:
        table = pq.read_table(name)
        for row in table.to_pylist():
            vector = None if row["embedding"] is None else np.array(row["embedding"], np.float32).tobytes()
            found.append((row["id"], vector, row["num_tokens"], row["truncated"]))
    return found


def old_shards_stay(before: dict[str, bytes], folder: Path) -> bool:
    return before.items() <= data_files(folder).items()


class GrowingFolder:
    """A folder of files that grows, and the order in which its rows come."""

    def __init__(self, folder: Path, extension: str) -> None:
        self.folder, self._extension = folder, extension
        self._files: dict[str, list[tuple[int, str | None]]] = {}
        self._groups: list[list[str]] = []  # files that were encoded together
        self._number = 0
        self.order: list[int] = []

    def _rows(self, found: list[str | None]) -> list[tuple[int, str | None]]:
        rows = [(self._number + place, text) for place, text in enumerate(found)]
        self._number += len(rows)
        return rows

    def grow(self, new: list[tuple[str, list[str | None]]], longer: list[tuple[int, list[str | None]]]) -> None:
        """Add files, and rows to the last files of some that were encoded together."""
        grown: dict[int, list[int]] = {}
        for place, found in longer:
            if self._groups and found:
                group = place % len(self._groups)
                name = self._groups[group][-1]
                rows = self._rows(found)
                self._files[name] += rows
                grown.setdefault(group, []).extend(number for number, _ in rows)
                write_rows(self.folder / name, self._files[name])
        for group in sorted(grown):
            self.order += grown[group]
        names = []
        for stem, found in new:
            name = f"{stem}{len(self._files)}.{self._extension}"
            self._files[name] = self._rows(found)
            names.append(name)
            write_rows(self.folder / name, self._files[name])
        if any(self._files[name] for name in names):
            self._groups.append(sorted(names))
            self.order += [number for name in sorted(names) for number, _ in self._files[name]]
        else:
            for name in names:  # nothing is known of files without rows
                (self.folder / name).unlink()
                del self._files[name]
