"""What an input that grows has in common with what a folder has of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.dataset_files import ROWS, write
from helpers.runs import run_config
from lengthwise.config import RunConfig
from lengthwise.data.dataset import find_run_dataset
from lengthwise.data.source import Section
from lengthwise.errors import DatasetError
from lengthwise.run.lineage import Lineage, find_lineages, name_some, place_segments
from lengthwise.store.input_record import InputRecord, Segment


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    for name in ("a", "b", "c", "d"):
        write(tmp_path / f"in/{name}.jsonl", ROWS[:2])
    return run_config(tmp_path / "out", tmp_path / "in")


def find(config: RunConfig, record: InputRecord, **options: bool) -> list[Lineage]:
    return find_lineages(find_run_dataset(config), record, config, **options)


def versions(config: RunConfig) -> dict[str, str]:
    files = find_run_dataset(config).files
    assert files is not None
    return files.versions()


def record(config: RunConfig, *groups: tuple[str, ...]) -> InputRecord:
    """A record of files that were encoded together, two rows of each."""
    found = versions(config)
    segments = [
        Segment("".join(names), 0, 2 * len(names), {f"{name}.jsonl": found[f"{name}.jsonl"] for name in names})
        for name_group in groups
        for names in [name_group]
    ]
    return InputRecord({}, tuple(segments))


def test_segments_are_placed_one_after_the_other() -> None:
    """Each begins a shard of its own."""
    segments = [Segment("", start, rows, {}) for start, rows in ((0, 7), (0, 3), (7, 1), (3, None))]
    assert place_segments(InputRecord({}, tuple(segments)), 3) == [
        Section(0, 7, 0, 0),
        Section(0, 3, 7, 3),
        Section(7, 1, 10, 4),
        Section(3, None, 11, 5),
    ]


def test_files_that_were_encoded_together_are_an_input(config: RunConfig, tmp_path: Path) -> None:
    known = record(config, ("b",), ("a", "c"))
    write(tmp_path / "in/c.jsonl", ROWS[:3])
    grown = Segment("more", 4, 1, dict(zip(("a.jsonl", "c.jsonl"), ("?", "?"), strict=True)))
    first, second, new = find(config, known.with_segment(grown))
    assert [lineage.names for lineage in (first, second, new)] == [("b.jsonl",), ("a.jsonl", "c.jsonl"), ("d.jsonl",)]
    assert [lineage.is_changed for lineage in (first, second, new)] == [False, True, True]
    assert [lineage.rows for lineage in (first, second, new)] == [2, 5, 0]
    assert second.sections == (Section(0, 4, 2, 1), Section(4, 1, 6, 3))
    assert second.source.num_rows == 5
    assert new.source.num_rows == 2


def test_new_files_are_one_input_or_one_each(config: RunConfig) -> None:
    known = record(config, ("b",))
    assert [lineage.names for lineage in find(config, known)[1:]] == [("a.jsonl", "c.jsonl", "d.jsonl")]
    found = find(config, known, one_by_one=True)
    assert [lineage.names for lineage in found[1:]] == [("a.jsonl",), ("c.jsonl",), ("d.jsonl",)]


def test_file_that_is_gone_is_an_error(config: RunConfig, tmp_path: Path) -> None:
    known = record(config, ("b",), ("a", "c"))
    (tmp_path / "in/c.jsonl").unlink()
    for is_partial in (False, True):
        with pytest.raises(DatasetError, match=rf"in: c\.jsonl was encoded into {tmp_path}/out, and is not there any"):
            find(config, known, is_partial=is_partial)


def test_files_that_are_left_out_are_unchanged(config: RunConfig, tmp_path: Path) -> None:
    known = record(config, ("b",), ("a", "c"))
    for name in "abcd":
        write(tmp_path / f"in/{name}.jsonl", ROWS[:4])
    found = find_run_dataset(config, lambda signatures: [path for path in signatures if path[-7] in "bcd"])
    lineages = find_lineages(found, known, config, is_partial=True)
    assert [(lineage.names[0], lineage.is_available, lineage.is_changed) for lineage in lineages] == [
        ("b.jsonl", True, True),
        ("a.jsonl", False, False),
        ("d.jsonl", True, True),
    ]


def test_few_names_are_given_in_messages() -> None:
    assert name_some(["a", "b"]) == "a, b"
    assert name_some([str(number) for number in range(8)]) == "0, 1, 2, 3, 4 and 3 more"
