"""Records of shards as lines, whatever a crash made of them; and whose shards are whose."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from lengthwise.store.parts import Part
from lengthwise.store.records import ShardRecord, log_lines, parse_log

RECORD = ShardRecord(0, 0, 3, 10, 1, 0, 0, 0, None, None, "data/shard-000000.parquet", "abc", None)


@given(shards=st.integers(1, 40), count=st.integers(1, 9))
def test_each_shard_is_one_parts(shards: int, count: int) -> None:
    owners = [[part for part in range(count) if Part(part, count).owns(shard)] for shard in range(shards)]
    assert all(len(parts) == 1 for parts in owners)


def test_the_last_record_of_a_shard_counts() -> None:
    first, other, again = RECORD, replace(RECORD, index=1), replace(RECORD, sha256="new")
    assert parse_log(log_lines([first, other, again])) == {0: again, 1: other}


@given(cut=st.integers(0, 400), rubbish=st.binary(max_size=20).filter(lambda data: b"\n" not in data))
def test_what_a_crash_cut_off_costs_its_own_line_only(cut: int, rubbish: bytes) -> None:
    lines = [log_lines([replace(RECORD, index=index)]) for index in range(3)]
    found = parse_log(lines[0] + lines[1][:cut] + rubbish + b"\n" + lines[2])
    assert found.keys() >= {0, 2}
    assert found[0] == RECORD
    assert found.get(1) in (None, replace(RECORD, index=1))


def test_the_files_of_a_shard() -> None:
    assert RECORD.checksums == {"data/shard-000000.parquet": "abc"}
    aside = replace(RECORD, quarantine="def")
    assert aside.checksums == {"data/shard-000000.parquet": "abc", "quarantine/shard-000000.jsonl": "def"}
