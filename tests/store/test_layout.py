"""Names of the files of a folder of vectors."""

from __future__ import annotations

from pathlib import Path

from lengthwise.store.layout import is_draft
from lengthwise.store.local import LocalFolder


def test_is_draft_knows_the_names_of_drafts(tmp_path: Path) -> None:
    assert is_draft("data/.shard-000001.parquet.0a1b2c3d.part")
    for name in ("x.part", ".hidden", ".mine.part", "data/.mine.part", "mine.0a1b2c3d.part"):
        assert not is_draft(name)
    with LocalFolder(tmp_path).draft("data/a.bin") as path:
        assert is_draft(f"data/{path.name}")
        path.write_bytes(b"")
