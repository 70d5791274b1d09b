"""The commands and code of docs/search.md, run on a user's own files."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.pages import ROWS, UserFolder, code_blocks, read_page, runnable_commands
from lengthwise import search

PAGE = read_page("docs/search.md")
QUERY = "the cat and the moon"
BLOCKS = code_blocks(PAGE, "python")


@pytest.fixture
def encoded(user: UserFolder, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """The folder of a user who has vectors, as the current one. The last vector is null or, with `zero`, zeros."""
    texts = [*(f'"{text}"' for text in ROWS), ""]
    lines = [f"{number},{text}" for number, text in enumerate(texts)]
    (user.folder / "reviews.csv").write_text("\n".join(["id,body", *lines]) + "\n")
    user.run(f"lengthwise encode run.yaml --set encode.bad_rows={getattr(request, 'param', 'quarantine')}")
    monkeypatch.chdir(user.folder)
    return user.folder


@pytest.mark.slow
def test_commands_and_code_find_rows(encoded: Path, user: UserFolder, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("faiss", reason="faiss is not installed: pip install lengthwise[index]")
    (encoded / "questions.txt").write_text("rain\n\nthe dog\n")
    commands = runnable_commands(PAGE)
    assert len(commands) == 3
    first, many, indexed = (user.run(command) for command in commands)
    assert first.count(" row ") == 3
    assert [json.loads(line)["query"] for line in many.splitlines()] == ["rain", "the dog"]
    assert indexed.count(" row ") == 10
    assert (encoded / "vectors/index/record.json").is_file()

    names: dict[str, Any] = {}
    exec("\n".join(BLOCKS[:2]), names)
    assert len(names["hits"]) == 2
    assert len(capsys.readouterr().out.splitlines()) == 3 + 1


def scores_of(package: str, encoded: Path) -> list[float]:
    """The scores that the page's code for a package prints, after those of its rows were checked."""
    (block,) = (block for block in BLOCKS if re.search(rf"^(import|from) {package}\b", block, re.MULTILINE))
    (query,) = (block for block in BLOCKS if block.startswith("from lengthwise import Encoder"))
    printed: list[tuple[Any, ...]] = []
    exec(f"{query}\n{block}", {"print": lambda *cells: printed.append(cells)})
    assert all(int(number) < len(ROWS) for _, number in printed)
    return [score for score, _ in printed]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "encoded"),
    [("duckdb", "quarantine"), ("duckdb", "zero"), ("lance", "zero"), ("qdrant_client", "quarantine")],
    indirect=["encoded"],
)
def test_other_stores_find_what_search_finds(package: str, encoded: Path) -> None:
    pytest.importorskip(package, reason=f"the page's code for {package} was not run: it is not installed")
    expected = [hit.score for hit in search("vectors", QUERY, top=3)]
    assert not any(math.isnan(score) for score in expected)
    np.testing.assert_allclose(scores_of(package, encoded), expected, atol=1e-5)
