"""Following a folder: each file is encoded once it is whole, in a commit of its own."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest

from helpers.engines import LookupEngine
from helpers.files import contents
from helpers.runs import append, run_config
from helpers.texts import TEXTS
from lengthwise.config import RunConfig
from lengthwise.errors import ConfigError, DatasetError, StoreError
from lengthwise.run.follow import FileWatch, follow
from lengthwise.run.growing import Added
from lengthwise.tokens.tokenizer import TextTokenizer

INTERVAL = 0.05


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    (tmp_path / "in").mkdir()
    return run_config(tmp_path / "out", tmp_path / "in", dataset={"keep_columns": ["text"]}, encode={"append": True})


class Follower:
    """Runs `follow`, and what is to happen after each commit."""

    def __init__(self, config: RunConfig, tokenizer: TextTokenizer, engine: LookupEngine) -> None:
        self._arguments = config, tokenizer, engine
        self.added: list[Added] = []

    def run(self, *events: Callable[[], object], idle_exit: float = 0.2) -> Any:
        remaining = list(events)

        def on_added(added: Added) -> None:
            self.added.append(added)
            if remaining:
                remaining.pop(0)()

        return follow(*self._arguments, interval=INTERVAL, idle_exit=idle_exit, on_added=on_added)

    @property
    def names(self) -> list[str]:
        return [name for added in self.added for name in added.names]


@pytest.fixture
def follower(config: RunConfig, tokenizer: TextTokenizer, engine: LookupEngine) -> Follower:
    return Follower(config, tokenizer, engine)


def texts_at(folder: Path) -> list[str]:
    shards = json.loads((folder / "manifest.json").read_text())["shards"]
    return [text for shard in shards for text in pq.read_table(folder / shard["file"])["text"].to_pylist()]


def write(folder: Path, name: str, *texts: str) -> None:
    (folder / "in" / name).write_text("".join(f"{text}\n" for text in texts))


def test_each_file_is_committed_by_itself_and_readable_at_once(tmp_path: Path, follower: Follower) -> None:
    write(tmp_path, "b.txt", *TEXTS[:4])
    write(tmp_path, "c.txt", *TEXTS[4:5])
    seen = []

    def second() -> None:
        seen.append(texts_at(tmp_path / "out"))
        write(tmp_path, "a.txt", *TEXTS[5:6])

    report = follower.run(second, lambda: seen.append(texts_at(tmp_path / "out")))
    assert follower.names == ["b.txt", "c.txt", "a.txt"]
    assert [added.total for added in follower.added] == [4, 5, 6]
    assert seen == [list(TEXTS[:4]), list(TEXTS[:5])]
    assert texts_at(tmp_path / "out") == list(TEXTS[:6])
    assert (report.totals.rows, report.encoded.rows, report.is_complete) == (6, 6, True)
    again = follower.run()
    assert len(follower.added) == 3
    assert again.encoded.rows == 0


def test_rows_are_those_of_runs_that_append(
    tmp_path: Path, config: RunConfig, follower: Follower, tokenizer: TextTokenizer, engine: LookupEngine
) -> None:
    write(tmp_path, "b.txt", *TEXTS[:4])
    append(config, tokenizer, engine)
    write(tmp_path, "a.txt", *TEXTS[4:])
    follower.run()
    followed = contents(tmp_path / "out")
    for name in ("b.txt", "a.txt"):
        (tmp_path / "in" / name).unlink()
    write(tmp_path, "b.txt", *TEXTS[:4])
    append(config, tokenizer, engine, fresh=True)
    write(tmp_path, "a.txt", *TEXTS[4:])
    append(config, tokenizer, engine)
    assert contents(tmp_path / "out") == followed


def test_file_that_became_longer_is_gone_on_with(tmp_path: Path, follower: Follower) -> None:
    write(tmp_path, "a.txt", *TEXTS[:2])
    write(tmp_path, "b.txt", *TEXTS[2:3])
    follower.run(lambda: None, lambda: write(tmp_path, "a.txt", *TEXTS[:2], "moon", "rain fell"))
    assert follower.names == ["a.txt", "b.txt", "a.txt"]
    assert [added.rows for added in follower.added] == [2, 1, 2]
    assert texts_at(tmp_path / "out") == [*TEXTS[:3], "moon", "rain fell"]


def test_temporary_empty_and_other_files_are_left_alone(tmp_path: Path, follower: Follower) -> None:
    for name in (".a.txt", "_a.txt", "a.txt.tmp", "a.txt.part", "a.txt~", "README.md", "a.log"):
        write(tmp_path, name, "moon")
    (tmp_path / "in/empty.txt").touch()
    write(tmp_path, "good.txt", "rain fell")
    follower.run(lambda: (tmp_path / "in/a.txt.tmp").rename(tmp_path / "in/a.txt"))
    assert follower.names == ["good.txt", "a.txt"]
    assert follower.run().totals.rows == 2


def test_folder_may_be_empty(tmp_path: Path, follower: Follower) -> None:
    assert follower.run().totals.rows == 0
    assert not (tmp_path / "out/manifest.json").exists()
    write(tmp_path, "a.txt", "moon")
    follower.run()
    assert texts_at(tmp_path / "out") == ["moon"]


def test_files_are_whole_once_they_have_not_changed_for_the_interval(tmp_path: Path, config: RunConfig) -> None:
    """Or longer ago than that, by their time stamps; one that is still being written is waited for."""
    watch = FileWatch(config, seconds=30)
    write(tmp_path, "a.txt", "moon")
    write(tmp_path, "old.txt", "rain")
    past = time.time() - 60
    os.utime(tmp_path / "in/old.txt", (past, past))

    def names() -> list[str]:
        files = watch.find().files
        assert files is not None
        return list(files.versions())

    assert names() == ["old.txt"]
    assert watch.is_waiting
    watch.remember()
    assert names() == []  # nothing that is not known
    os.utime(tmp_path / "in/a.txt", (past, past))
    assert names() == ["a.txt", "old.txt"]
    assert not watch.is_waiting
    write(tmp_path, "a.txt", "moon", "more")
    assert names() == ["old.txt"] if not watch._known else names() == []
    assert watch.is_waiting


def test_a_file_is_hashed_once_while_it_is_as_it_is(
    tmp_path: Path, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = []

    def sha256(path: Path) -> str:
        hashed.append(path.name)
        return "0"

    monkeypatch.setattr("lengthwise.data.dataset.file_sha256", sha256)
    watch = FileWatch(config, seconds=0)
    write(tmp_path, "a.txt", "moon")
    for name in ("b.txt", "c.txt"):
        write(tmp_path, name, "rain")
        files = watch.find().files
        assert files is not None
        assert "a.txt" in files.versions()
        watch.remember()
    assert hashed == ["a.txt", "b.txt", "c.txt"]


def test_changed_and_vanished_files_end_it_by_name(tmp_path: Path, follower: Follower) -> None:
    write(tmp_path, "a.txt", *TEXTS[:3])
    with pytest.raises(DatasetError, match=r"row 0 of .* is not that row of the input any more \(a\.txt has changed\)"):
        follower.run(lambda: write(tmp_path, "a.txt", "another text", *TEXTS[1:3], "and more"))
    write(tmp_path, "a.txt", *TEXTS[:3])
    write(tmp_path, "b.txt", "moon")
    with pytest.raises(DatasetError, match=r"a\.txt was encoded into .*, and is not there any more"):
        follower.run((tmp_path / "in/a.txt").unlink)
    write(tmp_path, "a.txt", *TEXTS[:3])
    follower.run()
    assert texts_at(tmp_path / "out") == [*TEXTS[:3], "moon"]


def test_file_that_lost_its_rows_ends_it_by_name(tmp_path: Path, follower: Follower) -> None:
    """All or some of them, while it runs or before it is started; what was encoded stays."""
    for name, texts in (("a.txt", TEXTS[:2]), ("b.txt", TEXTS[2:4])):
        write(tmp_path, name, *texts)
    empty = r"a\.txt was encoded into .*/out, and is empty now; put its rows back, or encode .* with encode\.reuse="
    with pytest.raises(DatasetError, match=empty):
        follower.run(lambda: None, lambda: write(tmp_path, "a.txt"))
    with pytest.raises(DatasetError, match=empty):
        follower.run()
    write(tmp_path, "a.txt", TEXTS[0])
    with pytest.raises(
        DatasetError, match=r"row 1 of .*/out is not that row .* \(a\.txt has changed\); .*: put the old"
    ):
        follower.run()
    assert texts_at(tmp_path / "out") == list(TEXTS[:4])
    write(tmp_path, "a.txt", *TEXTS[:2])
    follower.run()
    assert follower.names == ["a.txt", "b.txt"]


def test_file_that_is_empty_for_a_moment_is_waited_for(tmp_path: Path, config: RunConfig) -> None:
    """As one is that is written anew."""
    watch = FileWatch(config, seconds=30)
    write(tmp_path, "a.txt")

    def empty() -> set[str]:
        files = watch.find().files
        assert files is not None
        return {files.name(path) for path in files.empty}

    assert not empty()
    assert watch.is_waiting
    past = time.time() - 60
    os.utime(tmp_path / "in/a.txt", (past, past))
    assert empty() == {"a.txt"}
    assert not watch.is_waiting


def test_second_follower_is_refused(tmp_path: Path, follower: Follower) -> None:
    write(tmp_path, "a.txt", "moon")
    refused = []

    def start_another() -> None:
        with pytest.raises(StoreError, match=rf"process {os.getpid()} on .* is writing to this folder"):
            Follower(*follower._arguments).run()
        refused.append(True)

    follower.run(start_another)
    assert refused


def test_other_inputs_cannot_be_followed(
    tmp_path: Path, config: RunConfig, tokenizer: TextTokenizer, engine: LookupEngine
) -> None:
    datasets.Dataset.from_dict({"text": ["moon"]}).save_to_disk(tmp_path / "saved")
    saved = config.model_copy(update={"dataset": config.dataset.model_copy(update={"path": str(tmp_path / "saved")})})
    with pytest.raises(ConfigError, match=r"it is a saved dataset, .*; --follow needs a folder of files, or a pattern"):
        Follower(saved, tokenizer, engine).run()
    nowhere = config.model_copy(update={"dataset": config.dataset.model_copy(update={"path": "nowhere"})})
    with pytest.raises(ConfigError, match=r"'nowhere': there is no such folder .*; --follow needs a folder of files"):
        Follower(nowhere, tokenizer, engine).run()


@pytest.mark.parametrize("streaming", [False, True])
def test_file_without_rows_waits_for_them(
    tmp_path: Path, config: RunConfig, tokenizer: TextTokenizer, engine: LookupEngine, streaming: bool
) -> None:
    settings = config.dataset.model_copy(update={"streaming": streaming})
    follower = Follower(config.model_copy(update={"dataset": settings}), tokenizer, engine)
    write(tmp_path, "a.csv", "text")
    follower.run()
    assert follower.names == []
    write(tmp_path, "a.csv", "text", "moon")
    follower.run()
    assert follower.names == ["a.csv"]


def test_pattern_can_be_followed(tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine) -> None:
    (tmp_path / "in").mkdir()
    config = run_config(
        tmp_path / "out", tmp_path / "in/*.txt", dataset={"keep_columns": ["text"]}, encode={"append": True}
    )
    follower = Follower(config, tokenizer, engine)
    follower.run()
    for name in ("b", "a"):
        write(tmp_path, f"{name}.txt", name)
        follower.run()
    assert texts_at(tmp_path / "out") == ["b", "a"]


@pytest.mark.parametrize("streaming", [False, True])
def test_follower_that_was_interrupted_completes_the_file(
    tmp_path: Path,
    tokenizer: TextTokenizer,
    engine: LookupEngine,
    encoder_config: Callable[..., Any],
    streaming: bool,
) -> None:
    config = run_config(
        tmp_path / "out",
        tmp_path / "in",
        dataset={"keep_columns": ["text"], "streaming": streaming},
        encode={"append": True},
        batching={"max_rows": 1},
    )
    (tmp_path / "in").mkdir()
    write(tmp_path, "b.txt", *TEXTS)

    class Interrupted(LookupEngine):
        def encode_batch(self, *arguments: Any) -> Any:
            if self.batches == 4:
                raise KeyboardInterrupt
            return super().encode_batch(*arguments)

    with pytest.raises(KeyboardInterrupt):
        Follower(config, tokenizer, Interrupted(encoder_config())).run()
    write(tmp_path, "a.txt", "moon")
    follower = Follower(config, tokenizer, engine)
    follower.run()
    assert [(added.names, added.rows) for added in follower.added] == [((), 4), (("a.txt",), 1)]
    assert texts_at(tmp_path / "out") == [*TEXTS, "moon"]
