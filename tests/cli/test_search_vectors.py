"""`lengthwise search`: its table, its JSON lines and its refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.cli import Invoke, refusal
from helpers.texts import TEXTS
from lengthwise import Encoder, search
from lengthwise.cli.search_vectors import read_queries
from lengthwise.errors import TextError


@pytest.fixture
def encoded(trained: Path, tmp_path: Path, invoke: Invoke) -> Path:
    assert invoke("encode_dataset", trained, "--set", "dataset.keep_columns=[text]").exit_code == 0
    return tmp_path / "vectors"


def test_a_text_of_the_dataset_is_found_first(encoded: Path, invoke: Invoke) -> None:
    result = invoke("search_vectors", encoded, TEXTS[2], TEXTS[0], "--top", "2", "--json")
    assert result.exit_code == 0, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["query"] for line in lines] == [TEXTS[2], TEXTS[2], TEXTS[0], TEXTS[0]]
    for line in (lines[0], lines[2]):
        assert line["columns"] == {"text": line["query"]}
        assert line["score"] == pytest.approx(1, abs=1e-5)


def test_the_table_shows_score_row_and_columns(encoded: Path, invoke: Invoke) -> None:
    result = invoke("search_vectors", encoded, TEXTS[2], "--top", "1", "--columns", "text", "--metric", "cosine")
    assert result.exit_code == 0, result.stderr
    query, hit, _ = result.stdout.split("\n", 2)
    assert query == TEXTS[2]
    assert hit.split(maxsplit=3) == ["1.0000", "row", "2", TEXTS[2]]
    nothing = invoke("search_vectors", encoded, "moon", "--where", "text=no such text")
    assert nothing.stdout == "moon\n  no row was found\n\n"


def test_vectors_of_another_model_are_refused(encoded: Path, trained: Path, tmp_path: Path, invoke: Invoke) -> None:
    other = tmp_path / "other"
    assert invoke("init_model", trained, "--set", f"model.path={other}", "--set", "model.seed=1").exit_code == 0
    message = refusal(invoke("search_vectors", encoded, "moon", "--model", other))
    assert f"{encoded} was encoded by another model: its weights have the fingerprint" in message
    assert f"and those of {other} " in message
    assert message.endswith("pass the model that made the vectors")


def test_queries_come_from_a_file_too(encoded: Path, tmp_path: Path, invoke: Invoke) -> None:
    file = tmp_path / "queries.txt"
    file.write_text(f"{TEXTS[2]}\n\n{TEXTS[0]}\n", encoding="utf-16")
    result = invoke("search_vectors", encoded, "moon", "--queries", file, "--top", "1", "--json")
    assert result.exit_code == 0, result.stderr
    assert [json.loads(line)["query"] for line in result.stdout.splitlines()] == ["moon", TEXTS[2], TEXTS[0]]
    file.write_bytes(b"caf\xe9\n")
    message = refusal(invoke("search_vectors", encoded, "--queries", file))
    assert message.startswith(f"{file}: cannot be read (byte 0xe9")
    assert message.endswith("give a text file with one query per line")
    nothing = invoke("search_vectors", encoded)
    assert nothing.exit_code == 2
    assert "no query; give one or more, or a file of them with --queries" in nothing.stderr


def test_an_index_is_built_used_and_described(encoded: Path, invoke: Invoke) -> None:
    pytest.importorskip("faiss", reason="faiss is not installed: pip install lengthwise[index]")
    exact = invoke("search_vectors", encoded, TEXTS[2], "--json").stdout.splitlines()
    for _ in range(2):
        result = invoke("search_vectors", encoded, TEXTS[2], "--json", "--index")
        assert result.exit_code == 0, result.stderr
        assert "index of 7 rows in 1 lists" in result.stderr
        found = [json.loads(line) for line in result.stdout.splitlines()]
        assert [line["row"] for line in found] == [json.loads(line)["row"] for line in exact]
    assert (encoded / "index/record.json").is_file()


def test_a_query_ends_where_its_line_does(tmp_path: Path) -> None:
    """And not at separators within the line, which a dataset of text files keeps too."""
    (tmp_path / "queries.txt").write_bytes("moon\u2028cat\r\n \n\x0bdog\x85\rrain".encode())
    assert read_queries(tmp_path / "queries.txt") == {1: "moon\u2028cat", 3: "\x0bdog\x85", 4: "rain"}


def test_a_query_that_cannot_be_compared_is_named(encoded: Path, tmp_path: Path, invoke: Invoke) -> None:
    """Its vector would be zeros, which are as similar to one row as to any other."""
    message = refusal(invoke("search_vectors", encoded, "moon", ""))
    remedy = "give another query, which is tokenized as the rows were"
    assert message == f"QUERY 2 is '', which has no tokens; {remedy}"
    with pytest.raises(TextError) as caught:
        search(encoded, ["moon", ""], model=Encoder.load(tmp_path / "model"))
    assert str(caught.value).startswith("queries[1] is '', which has no tokens")
    assert search(encoded, [], model=Encoder.load(tmp_path / "model")) == []


def test_a_query_of_a_file_is_named_by_its_line(trained: Path, tmp_path: Path, invoke: Invoke) -> None:
    assert invoke("encode_dataset", trained, "--set", "tokenizer.max_length=20").exit_code == 0
    file = tmp_path / "queries.txt"
    file.write_text(f"moon\n\n{'cat ' * 30}\n")
    message = refusal(invoke("search_vectors", tmp_path / "vectors", "--queries", file))
    assert message.startswith(f"{file}, line 3 cannot be encoded: ")
    assert message.endswith("; give another query, which is tokenized as the rows were")
