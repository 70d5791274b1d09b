"""`changes/`: a run with a key says what a database has to do that holds the folder before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from helpers.engines import LookupEngine
from helpers.files import contents, raise_disk_full
from helpers.runs import encode, run_config, source_of
from helpers.texts import TEXTS
from lengthwise.config import RunConfig
from lengthwise.data.source import Source
from lengthwise.errors import ConfigError, StoreError
from lengthwise.run import changes as changes_module
from lengthwise.run.changes import summarize_changes
from lengthwise.run.diff import diff_folders
from lengthwise.run.finalize import finalize_folder
from lengthwise.store.parts import Part
from lengthwise.tokens.tokenizer import TextTokenizer

Rows = dict[Any, str]  # texts by key
MONDAY: Rows = {key: f"{TEXTS[key % len(TEXTS)]} {TEXTS[key // 3 % len(TEXTS)]}" for key in range(1, 13)}
TUESDAY: Rows = {**{key: text for key, text in MONDAY.items() if key != 5}, 2: "the moon", 77: "a new text"}


class Days:
    """Runs on a dataset that changes; each day's folder has the name of the day."""

    def __init__(self, folder: Path, tokenizer: TextTokenizer, engine: LookupEngine) -> None:
        self.folder, self._tokenizer, self.engine = folder, tokenizer, engine

    def config(self, day: str, since: str | None = None, key: str | None = "id", **encode_settings: Any) -> RunConfig:
        reuse = {} if since is None else {"reuse": [str(self.folder / since)]}
        dataset = {"keep_columns": ["id", "text"], "shard_rows": 4, "key": key}
        return run_config(self.folder / day, dataset=dataset, encode={**reuse, "row_hashes": True, **encode_settings})

    def source(self, config: RunConfig, rows: Rows, ids: list[Any] | None = None) -> Source:
        return source_of(list(rows.values()), config, id=list(rows) if ids is None else ids)

    def run(
        self, day: str, rows: Rows, since: str | None = None, *, ids: list[Any] | None = None, **settings: Any
    ) -> Any:
        part, fresh = settings.pop("part", None), settings.pop("fresh", False)
        config = self.config(day, since, **settings)
        source = self.source(config, rows, ids)
        return encode(config, source, self._tokenizer, self.engine, part=part, fresh=fresh)

    def changes(self, day: str) -> dict[str, list[Any]]:
        """The keys of each file."""
        folder = self.folder / day / "changes"
        return {path.stem: pq.read_table(path)["id"].to_pylist() for path in sorted(folder.glob("*.parquet"))}


@pytest.fixture
def days(tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine) -> Days:
    days = Days(tmp_path, tokenizer, engine)
    days.run("monday", MONDAY)
    return days


def test_changes_are_those_of_a_comparison(days: Days) -> None:
    days.run("tuesday", TUESDAY, "monday")
    assert days.changes("tuesday") == {"added": [77], "changed": [2], "removed": [5]}
    diff_folders(days.folder / "monday", days.folder / "tuesday", "id", days.folder / "diff")
    assert contents(days.folder / "tuesday/changes") == contents(days.folder / "diff")
    summary = json.loads((days.folder / "diff/summary.json").read_text())
    assert (summary["key"], summary["added"], summary["changed"], summary["removed"]) == ("id", 1, 1, 1)
    assert summarize_changes(days.config("tuesday", "monday")) == (
        f"{days.folder}/tuesday/changes: 1 rows added, 1 changed, 1 removed since {days.folder}/monday"
    )


def test_fingerprints_chain_the_days(days: Days) -> None:
    days.run("tuesday", TUESDAY, "monday")
    days.run("wednesday", MONDAY, "tuesday")
    assert days.changes("wednesday") == {"added": [5], "changed": [2], "removed": [77]}
    tuesday, wednesday = (
        json.loads((days.folder / day / "changes/summary.json").read_text()) for day in ("tuesday", "wednesday")
    )
    assert tuesday["new"] == wednesday["old"]
    assert tuesday["old"] == wednesday["new"]  # the same vectors again


def test_nothing_is_written_without_a_key_or_a_folder_before(days: Days) -> None:
    assert not (days.folder / "monday/changes").exists()
    days.run("tuesday", TUESDAY, "monday", key=None)
    assert not (days.folder / "tuesday/changes").exists()
    assert summarize_changes(days.config("tuesday", "monday")) == ""
    days.run("tuesday", TUESDAY, "monday")  # a key makes no other run of it
    assert days.changes("tuesday") == {"added": [77], "changed": [2], "removed": [5]}


@pytest.mark.parametrize("missing", ["added.parquet", "summary.json"])
def test_missing_changes_are_written_again(days: Days, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    days.run("tuesday", TUESDAY, "monday")
    expected = contents(days.folder / "tuesday")
    (days.folder / "tuesday/changes" / missing).unlink()
    draft = days.folder / "tuesday/changes/.removed.parquet.0a1b2c3d.part"  # as a kill leaves it
    draft.write_bytes(b"half")
    days.run("tuesday", TUESDAY, "monday")
    assert contents(days.folder / "tuesday") == expected
    monkeypatch.setattr(changes_module, "diff_folders", raise_disk_full)
    days.run("tuesday", TUESDAY, "monday")  # which finds them written


def test_changes_of_other_folders_are_replaced(days: Days) -> None:
    days.run("tuesday", TUESDAY, "monday")
    days.run("sunday", {1: MONDAY[1]})
    days.run("tuesday", TUESDAY, "sunday")
    assert days.changes("tuesday") == {"added": [key for key in TUESDAY if key != 1], "changed": [], "removed": []}
    days.run("tuesday", TUESDAY, "monday", key="text")
    assert len(days.changes("tuesday")["added"]) == 2
    days.run("tuesday", MONDAY, "monday", fresh=True)
    assert days.changes("tuesday") == {"added": [], "changed": [], "removed": []}


def test_shard_that_is_encoded_again_takes_the_changes_with_it(days: Days, monkeypatch: pytest.MonkeyPatch) -> None:
    days.run("tuesday", TUESDAY, "monday")
    expected = contents(days.folder / "tuesday")
    (days.folder / "tuesday/data/shard-000001.parquet").write_bytes(b"damaged")
    with monkeypatch.context() as patch:
        patch.setattr(changes_module, "diff_folders", raise_disk_full)
        with pytest.raises(OSError, match="No space left"):
            days.run("tuesday", TUESDAY, "monday")
    assert not (days.folder / "tuesday/changes/summary.json").exists()
    days.run("tuesday", TUESDAY, "monday")
    assert contents(days.folder / "tuesday") == expected


def test_parts_and_finalize_write_the_same(days: Days) -> None:
    days.run("whole", TUESDAY, "monday")
    for index in (1, 0):
        days.run("parts", TUESDAY, "monday", part=Part(index, 2))
        assert not (days.folder / "parts/changes").exists()
    config = days.config("parts", "monday")
    finalize_folder(config, days.source(config, TUESDAY))
    assert contents(days.folder / "parts/changes") == contents(days.folder / "whole/changes")


def test_folders_at_urls(days: Days) -> None:
    import fsspec

    url = f"memory://{days.folder.name}"
    days.run("monday", MONDAY, output=f"{url}/monday")
    for _ in range(2):
        days.run("tuesday", TUESDAY, output=f"{url}/tuesday", reuse=[f"{url}/monday"])
    files = fsspec.filesystem("memory")
    written = {Path(path).name: files.cat(path) for path in files.find(f"{url}/tuesday/changes")}
    files.rm(url, recursive=True)
    days.run("tuesday", TUESDAY, "monday")
    assert written == contents(days.folder / "tuesday/changes")


# What is refused


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 2, 1], r"the key 'id' of row 2 is 1, as in an earlier row"),
        ([1, None, 2], r"the key 'id' of row 1 is null"),
    ],
)
def test_keys_that_name_no_row_are_refused(days: Days, ids: list[Any], message: str) -> None:
    rows = dict(list(MONDAY.items())[:3])
    with pytest.raises(ConfigError, match=message):
        days.run("tuesday", rows, "monday", ids=ids)
    assert (days.folder / "tuesday/manifest.json").exists()  # the vectors are complete
    assert not (days.folder / "tuesday/changes/summary.json").exists()
    days.engine.rows = 0
    days.run("tuesday", rows, "monday", ids=ids, key="text")
    assert days.engine.rows == 0
    assert len(days.changes("tuesday")["removed"]) == len(MONDAY) - 3


def test_what_cannot_be_compared_is_refused_before_anything_is_encoded(days: Days) -> None:
    days.run("half", MONDAY, part=Part(0, 2))
    texts = run_config(days.folder / "texts", encode={"row_hashes": True})
    encode(texts, source_of(list(MONDAY.values()), texts), days._tokenizer, days.engine)
    days.engine.rows = 0
    for since, error, message in (
        ("half", StoreError, "half: incomplete, for its run has not ended"),
        ("nowhere", StoreError, "nowhere: not a folder of vectors"),
        ("texts", ConfigError, "texts: has no kept column 'id', but none at all; name it in dataset.keep_columns"),
    ):
        with pytest.raises(error, match=message):
            days.run("tuesday", TUESDAY, since)
    with pytest.raises(ConfigError, match=r"the key 'id' is int64 in .*monday and string in memory; encode both with"):
        days.run("tuesday", {str(key): text for key, text in TUESDAY.items()}, "monday")
    assert days.engine.rows == 0
    assert not (days.folder / "tuesday").exists()
