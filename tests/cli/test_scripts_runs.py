"""encode_dataset.py and finalize_vectors.py: runs that are divided, started over, or have bad rows."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from helpers.cli import Invoke, refusal
from helpers.files import contents


def test_parts_and_their_end(trained: Path, tmp_path: Path, invoke: Invoke) -> None:
    whole = invoke("encode_dataset", trained)
    expected = contents(tmp_path / "vectors")
    changed = ("--set", f"encode.output={tmp_path / 'parts'}")
    for part in ("0", "1"):
        result = invoke("encode_dataset", trained, *changed, "--shard-index", part, "--num-shards", "2")
        assert result.exit_code == 0, result.stderr
        assert "once all parts are done, run lengthwise finalize" in result.stdout
        assert "report " not in result.stdout
    result = invoke("finalize_vectors", trained, *changed)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines() == [
        f"vectors     {tmp_path / 'parts'}/data: 7 rows, 47 tokens (0 empty, 0 null, 0 bad, 0 truncated)",
        "complete    all 3 shards are there, and their sha256 matches",
    ]
    assert whole.stdout.splitlines()[0].split(": ")[1] == "7 rows, 47 tokens (0 empty, 0 null, 0 truncated)"
    for name, data in contents(tmp_path / "parts").items():
        assert name == "run.yaml" or data == expected[name]
    result = invoke("finalize_vectors", trained, *changed, "--no-checksums")
    assert "complete    all 3 shards are there\n" in result.stdout


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--shard-index", "0"), "--shard-index and --num-shards go together"),
        (("--num-shards", "2"), "--shard-index and --num-shards go together"),
        (("--shard-index", "0", "--num-shards", "2", "--cluster", "local"), "--cluster divides the run itself"),
    ],
)
def test_options_that_do_not_go_together(trained: Path, invoke: Invoke, options: tuple[str, ...], told: str) -> None:
    result = invoke("encode_dataset", trained, *options)
    assert result.exit_code == 2
    assert told in result.stderr


def test_a_part_that_there_is_not(trained: Path, invoke: Invoke) -> None:
    message = refusal(invoke("encode_dataset", trained, "--shard-index", "2", "--num-shards", "2"))
    assert "part 2 of 2: parts are numbered from 0 to 1" in message


def test_starting_over(trained: Path, tmp_path: Path, invoke: Invoke) -> None:
    invoke("encode_dataset", trained)
    changed = ("--set", "encode.vector_dtype=float16")
    assert "or start over with --fresh" in refusal(invoke("encode_dataset", trained, *changed))
    (tmp_path / "vectors/mine.txt").write_text("mine")
    result = invoke("encode_dataset", trained, *changed, "--fresh")
    assert result.exit_code == 0, result.stderr
    assert str(pq.read_schema(tmp_path / "vectors/data/shard-000000.parquet").field("embedding").type).count(
        "halffloat"
    )
    assert (tmp_path / "vectors/mine.txt").read_text() == "mine"


def test_bad_rows_are_told_and_set_aside(trained: Path, tmp_path: Path, invoke: Invoke) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "moon"}\n{"text": null}\n{"text": "rain"}\n')
    path = ("--set", f"dataset.path={tmp_path / 'in.jsonl'}", "--set", "encode.bad_rows=quarantine")
    result = invoke("encode_dataset", trained, *path)
    assert result.exit_code == 0, result.stderr
    assert f"bad rows    1 could not be encoded: set aside in {tmp_path / 'vectors'}/quarantine" in result.stdout
    assert json.loads((tmp_path / "vectors/quarantine/shard-000000.jsonl").read_text())["row"] == 1


def test_finalizing_what_is_not_there(trained: Path, invoke: Invoke) -> None:
    assert "not a folder of vectors; encode first" in refusal(invoke("finalize_vectors", trained))


def test_where_an_error_comes_from_is_shown_on_request(
    trained: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LENGTHWISE_TRACEBACK", "1")
    result = invoke("finalize_vectors", trained)
    assert type(result.exception).__name__ == "StoreError"
