"""Runs that append and fail, are killed, or find their input changed meanwhile: no row is lost or doubled."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.engines import FailingOnce, LookupEngine
from helpers.growing import KEEP, appending, rows_of, texts, write_rows
from helpers.runs import append, encode, run_config
from helpers.texts import TEXTS
from lengthwise.data.dataset import find_run_dataset, open_run_dataset
from lengthwise.errors import LengthwiseError, StoreError
from lengthwise.run.append import finalize_appended
from lengthwise.run.diff import diff_folders
from lengthwise.run.search import VectorFolder
from lengthwise.store.input_record import read_input
from lengthwise.store.local import LocalFolder
from lengthwise.store.records import parse_log
from lengthwise.tokens.tokenizer import TextTokenizer


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("then", ["nothing", "more rows", "fewer rows", "file is gone"])
def test_interrupted_append_goes_on_even_if_its_file_has_changed(
    folder: Path,
    tokenizer: TextTokenizer,
    engine: LookupEngine,
    encoder_config: Callable[..., Any],
    streaming: bool,
    then: str,
) -> None:
    """What was committed of it stays; the rest is read from the file as it is now."""
    config = appending(
        folder / "out", folder / "in", dataset={**KEEP, "streaming": streaming}, batching={"max_rows": 1}
    )
    append(config, tokenizer, engine)
    rows: list[tuple[int, str | None]] = [(number, TEXTS[number % 7]) for number in range(10, 18)]
    write_rows(folder / "in/c.jsonl", rows)
    with pytest.raises(StoreError, match=r"the input has more rows \(c\.jsonl\); run the command that encodes again"):
        finalize_appended(config, find_run_dataset(config))
    failing = FailingOnce(encoder_config(), at=4)
    if then == "file is gone":
        failing = FailingOnce(encoder_config(), at=1)
    with pytest.raises(LengthwiseError, match="out of luck"):
        append(config, tokenizer, failing)
    committed = len(list((folder / "out/data").iterdir())) - 3
    assert committed == (0 if then == "file is gone" else 1)
    with pytest.raises(StoreError, match=r"shards are missing|its run has not ended"):
        finalize_appended(config, find_run_dataset(config))
    assert VectorFolder.open(folder / "out").num_rows == 7  # the manifest is of the rows that were there
    with pytest.raises(StoreError, match="incomplete"):
        diff_folders(folder / "out", folder / "out", "id")
    if then == "more rows":
        rows += [(20, "moon"), (21, "rain fell")]
    if then == "fewer rows":
        rows = [*rows[:3], (30, "moon")]
    write_rows(folder / "in/c.jsonl", rows)
    if then == "file is gone":
        (folder / "in/c.jsonl").unlink()
        rows = []
    append(config, tokenizer, engine)
    assert [row[0] for row in rows_of(folder / "out")] == [0, 1, 2, 3, 0, 1, 2, *(number for number, _ in rows)]
    assert sum(segment.rows or 0 for segment in record_segments(folder)) == 7 + len(rows)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(
    steps=st.lists(st.tuples(texts, st.integers(1, 9)), min_size=1, max_size=5),
    one_file=st.booleans(),
    streaming=st.booleans(),
    shard_rows=st.integers(1, 4),
)
def test_runs_that_fail_while_the_input_grows_lose_no_row(
    scratch: Callable[[], Path],
    tokenizer: TextTokenizer,
    lookup: LookupEngine,
    steps: list[tuple[list[str | None], int]],
    one_file: bool,
    streaming: bool,
    shard_rows: int,
) -> None:
    """Each run fails at some batch, or not, and the next one finds more rows: in the same file, or in new ones."""
    folder = scratch()
    dataset = {"keep_columns": ["id"], "shard_rows": shard_rows, "streaming": streaming, "types": {"id": "int64"}}
    config = appending(folder / "out", folder / "in", dataset=dataset, batching={"max_rows": 1})
    rows: list[tuple[int, str | None]] = []
    for number, (found, at) in enumerate(steps):
        new = [(len(rows) + place, text) for place, text in enumerate(found)]
        rows += new
        name = "0" if one_file else str(9 - number)
        write_rows(folder / f"in/{name}.jsonl", rows if one_file else new)
        before = committed_files(folder / "out")
        with suppress(LengthwiseError):
            append(config, tokenizer, FailingOnce(lookup.config, at=at))
        assert before.items() <= committed_files(folder / "out").items()
    if not rows:
        return
    append(config, tokenizer, lookup)
    assert finalize_appended(config, find_run_dataset(config))["rows"] == len(rows)
    whole = run_config(folder / "whole", folder / "in", dataset=dataset, encode={"bad_rows": "quarantine"})
    encode(whole, open_run_dataset(whole), tokenizer, lookup)
    assert sorted(rows_of(folder / "out")) == sorted(rows_of(folder / "whole"))
    if one_file:
        assert rows_of(folder / "out") == rows_of(folder / "whole")


def test_shards_after_a_gap_are_forgotten_for_good_if_their_rows_have_changed(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine
) -> None:
    """As a machine that writes several shards at a time leaves them; also if the next run fails at once."""
    path = tmp_path / "in/a.jsonl"
    write_rows(path, [(number, TEXTS[number % 7]) for number in range(12)])
    config = appending(tmp_path / "out", path, dataset=KEEP)
    append(config, tokenizer, engine)
    log = tmp_path / "out/shards.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:1] + lines[2:]))
    write_rows(path, [(number, TEXTS[number % 7]) for number in [0, 1, 2, *range(20, 29)]])
    with pytest.raises(LengthwiseError, match="out of luck"):
        append(config, tokenizer, FailingOnce(engine.config, at=1))
    append(config, tokenizer, engine)
    assert [row[0] for row in rows_of(tmp_path / "out")] == [0, 1, 2, *range(20, 29)]


def committed_files(folder: Path) -> dict[str, bytes]:
    """The files of the shards that were recorded."""
    log = folder / "shards.jsonl"
    records = parse_log(log.read_bytes()).values() if log.exists() else ()
    return {record.file: (folder / record.file).read_bytes() for record in records}


def record_segments(folder: Path) -> Any:
    record = read_input(LocalFolder(folder / "out"))
    assert record is not None
    return record.segments


def test_record_and_identity_agree_after_a_crash_between_them(
    folder: Path, tokenizer: TextTokenizer, engine: LookupEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """input.json is written first; the identity is then that of its beginning."""
    config = appending(folder / "out", folder / "in", dataset=KEEP)
    append(config, tokenizer, engine)
    write_rows(folder / "in/c.jsonl", [(9, "moon")])

    def crash(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lengthwise.store.vectors.write_identity", crash)
        with pytest.raises(KeyboardInterrupt):
            append(config, tokenizer, engine)
    (folder / "in/c.jsonl").unlink()
    write_rows(folder / "in/d.jsonl", [(8, "rain fell")])
    append(config, tokenizer, engine)
    assert [row[0] for row in rows_of(folder / "out")] == [0, 1, 2, 3, 0, 1, 2, 8]
