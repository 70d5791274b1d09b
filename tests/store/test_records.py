"""Records of shards as lines of a log, also after a crash."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthwise.store.records import (
    ReuseSources,
    ShardRecord,
    describe_reuse,
    log_lines,
    parse_log,
    parse_retired,
    retired_lines,
    reuse_summary,
)

RECORD = ShardRecord(0, 0, 3, 10, 1, 0, 0, 0, None, None, "data/shard-000000.parquet", "abc", None)


def test_parse_log_keeps_the_last_record_of_a_shard() -> None:
    first, other, again = RECORD, replace(RECORD, index=1), replace(RECORD, sha256="new")
    assert parse_log(log_lines([first, other, again])) == {0: again, 1: other}


@given(cut=st.integers(0, 400), rubbish=st.binary(max_size=20).filter(lambda data: b"\n" not in data))
def test_parse_log_skips_only_the_line_that_was_cut_off(cut: int, rubbish: bytes) -> None:
    lines = [log_lines([replace(RECORD, index=index)]) for index in range(3)]
    found = parse_log(lines[0] + lines[1][:cut] + rubbish + b"\n" + lines[2])
    assert found.keys() >= {0, 2}
    assert found[0] == RECORD
    assert found.get(1) in (None, replace(RECORD, index=1))


def test_checksums_cover_the_quarantine_file() -> None:
    assert RECORD.checksums == {"data/shard-000000.parquet": "abc"}
    quarantined = replace(RECORD, quarantine="def")
    assert quarantined.checksums == {"data/shard-000000.parquet": "abc", "quarantine/shard-000000.jsonl": "def"}


def test_records_of_older_versions_are_read_and_written_as_they_were() -> None:
    line = log_lines([RECORD])
    assert b"hashes" not in line
    assert b"reused" not in line
    assert parse_log(line) == {0: RECORD}


def test_hashes_and_reused_rows_survive_a_log() -> None:
    record = replace(RECORD, hashes="def", reused=(("abc", 3), ("def", 1)))
    assert parse_log(log_lines([record])) == {0: record}
    assert record.checksums["hashes/shard-000000.npy"] == "def"
    other = replace(record, index=1, reused=(("abc", 4),))
    sources = ReuseSources({"monday": "abc", "sunday": "ghi"}, {"old": "why"})
    manifest = reuse_summary([record, other], sources)
    assert manifest == {
        "reused": {
            "rows": 8,
            "from": {"abc": 7, "def": 1},
            "folders": {"monday": "abc", "sunday": "ghi"},
            "not_reused": {"old": "why"},
        }
    }
    assert describe_reuse(manifest) == [
        "7 rows have their vector from monday",
        "1 rows have their vector from def",
        "nothing of old: why",
    ]
    assert reuse_summary([RECORD], ReuseSources()) == {}
    assert describe_reuse({}) == []


def test_retired_records_are_gone_until_they_are_written_again() -> None:
    other = replace(RECORD, index=1)
    lines = log_lines([RECORD, other]) + retired_lines({0: 12.5})
    assert parse_log(lines) == {1: other}
    assert parse_log(lines[:-1]) == {1: other}
    assert parse_log(lines[:-2]) == {0: RECORD, 1: other}  # as a crash cuts it off
    assert parse_retired(lines) == {0: 12.5}
    assert parse_log(lines + log_lines([RECORD])) == {0: RECORD, 1: other}


@pytest.mark.parametrize("contents", [b"", b"{", b"[]", b"1", b'{"folders": 1}', None])
def test_sources_of_anything_else_are_none(contents: bytes | None) -> None:
    assert ReuseSources.from_json(contents) == ReuseSources()
    sources = ReuseSources({"monday": "abc"}, {})
    assert ReuseSources.from_json(sources.to_json()) == sources
    assert ReuseSources().to_json() == b""
