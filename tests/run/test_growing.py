"""Rows that are added to a folder by the parts of a run, and by a run on a cluster in `test_cluster`."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.engines import FailingOnce, LookupEngine
from helpers.files import contents
from helpers.growing import KEEP, GrowingFolder, appending, old_shards_stay, rows_of, steps, write_rows
from helpers.runs import append, data_files
from helpers.texts import TEXTS
from lengthwise.config import RunConfig
from lengthwise.data.dataset import find_run_dataset
from lengthwise.errors import DatasetError, LengthwiseError, StoreError
from lengthwise.run.append import finalize_appended, open_append, plan_append
from lengthwise.run.growing import Planned
from lengthwise.store.parts import Part
from lengthwise.tokens.tokenizer import TextTokenizer

NOT_RECORDED = r"out: the rows that its parts are to share are not recorded; run lengthwise encode with --plan"


class Parts:
    """A run that appends in two parts."""

    def __init__(self, config: RunConfig, tokenizer: TextTokenizer, engine: LookupEngine) -> None:
        self.config, self._model = config, (tokenizer, engine)

    def plan(self, **options: Any) -> Planned:
        return plan_append(self.config, find_run_dataset(self.config), *self._model, **options)

    def encode(self, index: int, engine: LookupEngine | None = None) -> Any:
        tokenizer, usual = self._model
        return append(self.config, tokenizer, engine or usual, part=Part(index, 2))

    def finish(self) -> dict[str, Any]:
        return finalize_appended(self.config, find_run_dataset(self.config))


@pytest.fixture
def parts(folder: Path, tokenizer: TextTokenizer, engine: LookupEngine) -> Parts:
    return Parts(appending(folder / "out", folder / "in", dataset=KEEP), tokenizer, engine)


def test_parts_share_what_is_new(folder: Path, parts: Parts, tokenizer: TextTokenizer, engine: LookupEngine) -> None:
    """From the first rows on; each encodes its own shards, and the files are those of one process."""
    one = appending(folder / "one", folder / "in", dataset=KEEP)
    assert parts.plan() == Planned(rows=7, shards=3, pending=3)
    assert not (folder / "out/data").exists()
    assert [parts.encode(index).encoded.shards for index in (1, 0)] == [1, 2]
    assert parts.finish()["rows"] == 7
    append(one, tokenizer, engine)
    write_rows(folder / "in/b.jsonl", [*enumerate(TEXTS[4:]), (3, "moon")])
    write_rows(folder / "in/0.jsonl", [(number, TEXTS[number]) for number in range(5)])
    before = data_files(folder / "out")
    assert parts.plan() == parts.plan() == Planned(rows=13, shards=6, pending=3)
    for index in (0, 1):
        report = parts.encode(index)
        assert not report.is_complete
        assert parts.encode(index).encoded.shards == 0
    assert parts.finish()["rows"] == 13
    assert old_shards_stay(before, folder / "out")
    append(one, tokenizer, engine)
    found, expected = contents(folder / "out"), contents(folder / "one")
    assert {name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)} == {"run.yaml"}


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    steps=steps,
    at=st.lists(st.integers(1, 9), min_size=8, max_size=8),
    alone=st.integers(0, 3),
    shard_rows=st.integers(1, 4),
    streaming=st.booleans(),
)
def test_parts_that_fail_are_started_again_and_lose_no_row(
    scratch: Callable[[], Path],
    tokenizer: TextTokenizer,
    lookup: LookupEngine,
    steps: list[Any],
    at: list[int],
    alone: int,
    shard_rows: int,
    streaming: bool,
) -> None:
    """Both fail at some batch of each step, or not; at one step a single process goes on with what they left."""
    folder = scratch()
    growing = GrowingFolder(folder / "in", "jsonl")
    dataset = {"keep_columns": ["id"], "shard_rows": shard_rows, "streaming": streaming, "types": {"id": "int64"}}
    parts = Parts(
        appending(folder / "out", folder / "in", dataset=dataset, batching={"max_rows": 1}), tokenizer, lookup
    )
    for number, (new, longer) in enumerate(steps):
        growing.grow(new, longer)
        if not growing.order:
            continue
        before = data_files(folder / "out") if (folder / "out/data").exists() else {}
        parts.plan()
        for index in (0, 1):
            with suppress(LengthwiseError):
                parts.encode(index, FailingOnce(lookup.config, at=at[2 * number + index]))
        if number == alone:
            append(parts.config, tokenizer, lookup)
        for index in (1, 0):
            parts.encode(index)
        assert parts.finish()["rows"] == len(growing.order)
        assert old_shards_stay(before, folder / "out")
        assert [row[0] for row in rows_of(folder / "out")] == growing.order


def test_parts_encode_no_row_that_is_not_recorded(folder: Path, parts: Parts) -> None:
    with pytest.raises(StoreError, match=NOT_RECORDED):
        parts.encode(0)
    parts.plan()
    parts.encode(0)
    write_rows(folder / "in/c.jsonl", [(9, "moon")])
    with pytest.raises(
        StoreError, match=r"more rows \(c\.jsonl\); once no other part runs, run lengthwise encode with"
    ):
        parts.encode(1)
    with pytest.raises(StoreError, match="the input has more rows"):
        parts.finish()
    assert parts.plan() == Planned(rows=8, shards=4, pending=2)
    parts.encode(1)
    assert parts.finish()["rows"] == 8


def test_parts_refuse_rows_that_have_changed(folder: Path, parts: Parts) -> None:
    parts.plan()
    parts.encode(0)
    write_rows(folder / "in/a.jsonl", [(0, "moon"), *list(enumerate(TEXTS[:4]))[1:]])
    for again in (lambda: parts.encode(1), parts.plan):
        with pytest.raises(DatasetError, match=r"row 0 of .*/out is not that row of the input any more"):
            again()


def test_rows_that_were_recorded_and_not_begun_are_recorded_anew(folder: Path, parts: Parts) -> None:
    """All of them, also those of several inputs."""
    parts.plan()
    for index in (0, 1):
        parts.encode(index)
    parts.finish()
    write_rows(folder / "in/b.jsonl", [*enumerate(TEXTS[4:]), (3, "moon")])
    write_rows(folder / "in/c.jsonl", [(9, "moon")])
    assert parts.plan() == Planned(rows=9, shards=5, pending=2)
    write_rows(
        folder / "in/b.jsonl", [*enumerate(TEXTS[4:]), (4, "rain"), (5, "rain fell"), (6, "the cat"), (7, "sat")]
    )
    (folder / "in/c.jsonl").unlink()
    assert parts.plan() == Planned(rows=11, shards=5, pending=2)
    for index in (0, 1):
        parts.encode(index)
    parts.finish()
    assert [row[0] for row in rows_of(folder / "out")] == [0, 1, 2, 3, 0, 1, 2, 4, 5, 6, 7]


def test_damaged_shard_is_encoded_again_by_its_part(folder: Path, parts: Parts) -> None:
    parts.plan()
    for index in (0, 1):
        parts.encode(index)
    parts.finish()
    before = data_files(folder / "out")
    (folder / "out/data/shard-000001.parquet").write_bytes(b"damaged")
    assert parts.plan() == Planned(rows=7, shards=3, pending=1)
    assert [parts.encode(index).encoded.shards for index in (0, 1)] == [0, 1]
    parts.finish()
    assert data_files(folder / "out") == before


def test_rows_are_recorded_by_one_process_alone(
    folder: Path, parts: Parts, tokenizer: TextTokenizer, engine: LookupEngine
) -> None:
    parts.plan()
    with (
        open_append(parts.config, tokenizer, engine, part=Part(0, 2)),
        pytest.raises(StoreError, match="is writing to this folder"),
    ):
        parts.plan()
    record = json.loads((folder / "out/input.json").read_text())
    assert [segment["rows"] for segment in record["segments"]] == [7]
