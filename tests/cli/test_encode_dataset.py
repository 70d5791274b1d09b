"""encode_dataset.py and finalize_vectors.py: repeated runs, empty and bad rows, parts, and starting over."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from helpers.cli import Invoke, refusal
from helpers.files import contents


def test_a_second_run_reports_nothing_to_encode(trained: Path, tmp_path: Path, invoke: Invoke) -> None:
    first = invoke("encode_dataset", trained)
    before = contents(tmp_path / "vectors")
    second = invoke("encode_dataset", trained)
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert second.stdout.splitlines()[0] == first.stdout.splitlines()[0]
    assert "nothing to encode: all shards were there" in second.stdout
    assert "nothing to encode" not in first.stdout
    assert second.stdout.splitlines()[-1] == first.stdout.splitlines()[-1]  # the report
    assert contents(tmp_path / "vectors") == before


def test_whitespace_texts_count_as_empty(trained: Path, tmp_path: Path, invoke: Invoke) -> None:
    (tmp_path / "blank.txt").write_text(" \n\t\n\n")
    result = invoke("encode_dataset", trained, "--set", f"dataset.path={tmp_path / 'blank.txt'}")
    assert result.exit_code == 0, result.stderr
    assert "3 rows, 0 tokens (3 empty, 0 null, 0 truncated)" in result.stdout
    assert "all shards were there" not in result.stdout
    result = invoke("inspect_dataset", trained, "--set", f"dataset.path={tmp_path / 'blank.txt'}")
    assert result.exit_code == 0, result.stderr
    assert "3 empty" in result.stdout


NOT_TEXTS: dict[str, tuple[bytes, str, int]] = {
    "null": (
        b'{"text": "moon"}\n{"text": null}\n{"text": "rain"}\n',
        "(row 1 (in.jsonl, line 2, column 'text'): null)",
        1,
    ),
    "bytes": (b'{"text": "moon"}\n{"text": "\xff"}\n{"text": "rain"}\n', "line 2: the column 'text': byte 1, 0xff", 0),
    "not JSON": (b'{"text": "moon"}\n{"text": "sea\n{"text": "rain"}\n', "line 2: not valid JSON", 0),
}


@pytest.mark.parametrize("case", NOT_TEXTS)
def test_null_rows_stop_a_run_or_become_zeros(trained: Path, tmp_path: Path, invoke: Invoke, case: str) -> None:
    data, expected, null = NOT_TEXTS[case]
    (tmp_path / "in.jsonl").write_bytes(data)
    path = ("--set", f"dataset.path={tmp_path / 'in.jsonl'}")
    message = refusal(invoke("encode_dataset", trained, *path))
    assert expected in message
    assert "set encode.bad_rows to quarantine" in message
    assert not [name for name in contents(tmp_path / "vectors") if name.startswith("data") or name.endswith(".part")]
    path = (*path, "--set", "encode.bad_rows=zero")
    result = invoke("encode_dataset", trained, *path)
    assert result.exit_code == 0, result.stderr
    assert f"3 rows, 2 tokens (0 empty, {null} null, 0 truncated)" in result.stdout
    found = pq.read_table(tmp_path / "vectors/data")["embedding"].to_pylist()
    assert [any(vector) for vector in found] == [True, False, True]
    assert "1 null or not Unicode" in invoke("inspect_dataset", trained, *path).stdout
    again = invoke("train_tokenizer", trained, *path, "--overwrite")
    assert again.exit_code == 0, again.stderr


def test_texts_with_nul_bytes_are_encoded(trained: Path, tmp_path: Path, invoke: Invoke) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps({"text": "moon\0rain"}) + "\n" + json.dumps({"text": "\0"}) + "\n")
    result = invoke("encode_dataset", trained, "--set", f"dataset.path={tmp_path / 'in.jsonl'}")
    assert result.exit_code == 0, result.stderr
    assert "2 rows, " in result.stdout


def test_parts_are_finalized_to_the_folder_of_one_process(trained: Path, tmp_path: Path, invoke: Invoke) -> None:
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
    ("options", "message"),
    [
        (("--shard-index", "0"), "--shard-index and --num-shards go together"),
        (("--num-shards", "2"), "--shard-index and --num-shards go together"),
        (("--shard-index", "0", "--num-shards", "2", "--cluster", "local"), "--cluster divides the run itself"),
        (("--follow", "--cluster", "local"), "--follow is for one process"),
        (("--follow", "--shard-index", "0", "--num-shards", "2"), "--follow is for one process"),
        (("--plan", "--cluster", "local"), "--plan comes before the parts"),
        (("--plan", "--shard-index", "0", "--num-shards", "2"), "--plan comes before the parts"),
        (("--plan", "--follow"), "--plan comes before the parts"),
        (("--idle-exit", "3"), "--idle-exit goes with --follow"),
        (("--interval", "3"), "--interval goes with --follow"),
        (("--follow", "--interval", "0"), "0.0 is not in the range x>0"),
    ],
)
def test_conflicting_options_are_refused(trained: Path, invoke: Invoke, options: tuple[str, ...], message: str) -> None:
    result = invoke("encode_dataset", trained, *options)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_part_out_of_range_is_refused(trained: Path, invoke: Invoke) -> None:
    message = refusal(invoke("encode_dataset", trained, "--shard-index", "2", "--num-shards", "2"))
    assert "part 2 of 2: parts are numbered from 0 to 1" in message


def test_fresh_replaces_the_vectors_and_keeps_other_files(trained: Path, tmp_path: Path, invoke: Invoke) -> None:
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


def test_bad_rows_are_reported_and_quarantined(trained: Path, tmp_path: Path, invoke: Invoke) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "moon"}\n{"text": null}\n{"text": "rain"}\n')
    path = ("--set", f"dataset.path={tmp_path / 'in.jsonl'}", "--set", "encode.bad_rows=quarantine")
    result = invoke("encode_dataset", trained, *path)
    assert result.exit_code == 0, result.stderr
    assert f"bad rows    1 could not be encoded: set aside in {tmp_path / 'vectors'}/quarantine" in result.stdout
    assert json.loads((tmp_path / "vectors/quarantine/shard-000000.jsonl").read_text())["row"] == 1


def test_finalize_refuses_a_missing_folder(trained: Path, invoke: Invoke) -> None:
    assert "not a folder of vectors; encode first" in refusal(invoke("finalize_vectors", trained))


def test_an_error_is_raised_with_its_traceback_on_request(
    trained: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LENGTHWISE_TRACEBACK", "1")
    result = invoke("finalize_vectors", trained)
    assert type(result.exception).__name__ == "StoreError"


APPEND = ("--set", "encode.append=true")


def test_appended_rows_are_counted_and_finalized(trained: Path, tmp_path: Path, invoke: Invoke) -> None:
    (tmp_path / "in").mkdir()
    path = (*APPEND, "--set", f"dataset.path={tmp_path / 'in'}")
    for name, rows, printed in (("b", 4, "4 rows, 4 tokens"), ("a", 2, "6 rows, 6 tokens"), ("c", 0, "6 rows")):
        (tmp_path / f"in/{name}.txt").write_text("moon\n" * rows)
        result = invoke("encode_dataset", trained, *path)
        assert result.exit_code == 0, result.stderr
        assert printed in result.stdout
    assert "nothing to encode: all shards were there" in result.stdout
    result = invoke("finalize_vectors", trained, *path)
    assert result.exit_code == 0, result.stderr
    assert "complete    all 3 shards are there, and their sha256 matches" in result.stdout
    (tmp_path / "in/d.txt").write_text("rain\n")
    assert "the input has more rows (c.txt, d.txt); run the command" in refusal(
        invoke("finalize_vectors", trained, *path)
    )


def test_appended_rows_are_planned_and_encoded_in_parts(trained: Path, tmp_path: Path, invoke: Invoke) -> None:
    (tmp_path / "in").mkdir()
    path = (*APPEND, "--set", f"dataset.path={tmp_path / 'in'}", "--set", "encode.precision=auto")
    for name, rows, planned in (("b", 4, "4 rows in 2 shards, 2 of which"), ("a", 2, "6 rows in 3 shards, 1 of which")):
        (tmp_path / f"in/{name}.txt").write_text("moon\n" * rows)
        result = invoke("encode_dataset", trained, *path, "--plan")
        assert result.exit_code == 0, result.stderr
        assert f"planned     {tmp_path / 'vectors'}: {planned} the parts have to encode" in result.stdout
        for part in ("0", "1"):
            result = invoke("encode_dataset", trained, *path, "--shard-index", part, "--num-shards", "2")
            assert result.exit_code == 0, result.stderr
            assert "once all parts are done, run lengthwise finalize" in result.stdout
        result = invoke("finalize_vectors", trained, *path)
        assert result.exit_code == 0, result.stderr
    assert "complete    all 3 shards are there, and their sha256 matches" in result.stdout
    assert "encode.append is false; leave it out" in refusal(invoke("encode_dataset", trained, "--plan"))


def test_followed_folder_is_reported_file_by_file(trained: Path, tmp_path: Path, invoke: Invoke) -> None:
    (tmp_path / "in").mkdir()
    options = ("--follow", "--interval", "0.05", "--idle-exit", "0.1", "--set", f"dataset.path={tmp_path / 'in'}")
    assert "nothing to encode: no file with rows has come" in invoke("encode_dataset", trained, *options).stdout
    for name in ("a", "b"):
        (tmp_path / f"in/{name}.txt").write_text("moon\nrain\n")
    result = invoke("encode_dataset", trained, *options)
    assert result.exit_code == 0, result.stderr
    first, second, vectors, *_ = result.stdout.splitlines()
    assert first.startswith("added       a.txt: 2 rows in ")
    assert second.startswith("added       b.txt: 2 rows in ")
    assert second.endswith("4 rows in all")
    assert "4 rows, 4 tokens" in vectors
    assert "append: true" in (tmp_path / "vectors/run.yaml").read_text()
    assert "'auto', but the first texts are not there yet" in refusal(
        invoke("encode_dataset", trained, *options, "--fresh", "--set", "encode.precision=auto")
    )
