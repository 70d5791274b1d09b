"""Output folders after arbitrary histories of crashes, truncated logs and damaged files end with the same bytes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faults.form import cases
from helpers.files import contents
from helpers.stores import ROWS, close_stores, commit, open_store
from lengthwise.store.layout import IDENTITY
from lengthwise.store.parts import Part


class Crash(BaseException):
    """Simulates the end of the process."""


@settings(max_examples=cases(short=40, whole=1_000), deadline=None)
@given(history=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 4), st.integers(0, 3), st.booleans()), max_size=8))
def test_every_history_ends_with_the_same_folder(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[int, int, int, bool]]
) -> None:
    """Crashes at any write, of whole runs and of parts; truncated logs; damaged or missing files."""
    shards, folder, whole = 4, tmp_path_factory.mktemp("history"), tmp_path_factory.mktemp("whole")

    def run(output: Path, part: Part | None, writes: float = math.inf) -> None:
        done = 0

        def count(original: Callable[..., Any]) -> Callable[..., Any]:
            def wrapper(*arguments: Any, **options: Any) -> Any:
                nonlocal done
                done += 1
                if done > writes:
                    raise Crash
                return original(*arguments, **options)

            return wrapper

        with pytest.MonkeyPatch.context() as patch:
            for name in ("replace", "fsync", "open"):
                patch.setattr(f"lengthwise.util.files.os.{name}", count(getattr(os, name)))
            store = open_store(output, part=part)
            for index in range(shards):
                if (part is None or part.owns(index)) and store.committed(index) is None:
                    commit(store, index)
            if part is None:
                store.finish(shards * ROWS, ROWS, "card")
        close_stores()

    run(whole, None)
    for writes, cut, damaged, in_parts in history:
        with suppress(Crash):
            run(folder, Part(writes % 2, 2) if in_parts else None, writes)
        close_stores()
        for log in folder.glob("shards*.jsonl"):
            log.write_bytes(log.read_bytes()[: max(0, len(log.read_bytes()) - cut * 40)])
        shard_file = folder / f"data/shard-{damaged:06d}.parquet"
        if shard_file.exists() and cut % 2:
            shard_file.write_bytes(shard_file.read_bytes()[:-7]) if in_parts else shard_file.unlink()
        (folder / "data").mkdir(exist_ok=True, parents=True) if (folder / IDENTITY).exists() else None
    run(folder, None)
    assert contents(folder) == contents(whole)
