"""Exact search: the rows it finds, conditions, and the folders it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from helpers.engines import LookupEngine
from helpers.runs import encode, run_config, source_of, vectors_at
from helpers.texts import TEXTS
from lengthwise.errors import ConfigError, StoreError
from lengthwise.run.search import Condition, VectorFolder
from lengthwise.store import parquet
from lengthwise.tokens.tokenizer import TextTokenizer


@pytest.fixture
def folder(tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Vectors of TEXTS and of an empty text, in several shards and row groups, with a number and a letter."""
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 2)
    texts = [*TEXTS, ""]
    config = run_config(tmp_path / "vectors", dataset={"keep_columns": ["text", "number", "letter"]})
    letters = [None if row == 1 else "ab"[row % 2] for row in range(len(texts))]
    source = source_of(texts, config, number=list(range(len(texts))), letter=letters)
    encode(config, source, tokenizer, engine)
    return tmp_path / "vectors"


def expected_rows(vectors: NDArray[np.float32], query: NDArray[np.float32], metric: str) -> list[int]:
    """All rows with tokens, the most similar first, by the definition in float64."""
    rows = np.flatnonzero(vectors.any(axis=1))
    scores = vectors[rows].astype(np.float64) @ query.astype(np.float64)
    if metric == "cosine":
        scores /= np.linalg.norm(vectors[rows], axis=1) * np.linalg.norm(query)
    return [int(rows[i]) for i in np.argsort(-scores, kind="stable")]


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("top", [1, 3, 100])
def test_search_finds_what_comparing_every_row_finds(folder: Path, metric: str, top: int) -> None:
    vectors = vectors_at(folder)
    opened = VectorFolder.open(folder)
    assert (opened.num_rows, opened.dim) == vectors.shape
    queries = np.random.default_rng(0).normal(size=(4, opened.dim)).astype(np.float32)
    for query, hits in zip(queries, opened.search(queries, top=top, metric=metric), strict=True):  # type: ignore[arg-type]
        assert [hit.row for hit in hits] == expected_rows(vectors, query, metric)[:top]
        assert [hit.columns["number"] for hit in hits] == [hit.row for hit in hits]
        assert sorted((hit.score for hit in hits), reverse=True) == [hit.score for hit in hits]


def test_equal_scores_keep_the_order_of_the_rows(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine
) -> None:
    config = run_config(tmp_path / "vectors")
    encode(config, source_of(["moon"] * 8, config), tokenizer, engine)
    (hits,) = VectorFolder.open(tmp_path / "vectors").search(vectors_at(tmp_path / "vectors")[:1], top=5)
    assert [hit.row for hit in hits] == [0, 1, 2, 3, 4]
    assert hits[0].score == pytest.approx(1, abs=1e-6)


def test_a_query_of_zeros_is_similar_to_nothing(folder: Path) -> None:
    opened = VectorFolder.open(folder)
    (hits,) = opened.search(np.zeros((1, opened.dim)), top=2)
    assert [hit.score for hit in hits] == [0, 0]


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        (["number>=5"], {5, 6}),
        (["number < 2"], {0, 1}),
        (["number=3"], {3}),
        (["letter==a"], {0, 2, 4, 6}),
        (["letter != a"], {3, 5}),  # a null satisfies no condition
        (["letter=a", "number>2"], {4, 6}),
        (["number>99"], set()),
        (["text = " + TEXTS[2]], {2}),
    ],
)
def test_conditions_choose_rows(folder: Path, where: list[str], rows: set[int]) -> None:
    opened = VectorFolder.open(folder)
    queries = np.ones((1, opened.dim), np.float32)
    (hits,) = opened.search(queries, top=100, where=where, columns=["number"])
    assert {hit.row for hit in hits} == rows & set(range(len(TEXTS)))
    assert all(set(hit.columns) == {"number"} for hit in hits)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(["=", "==", "!=", "<", "<=", ">", ">="]), st.text(st.characters(categories=["L", "N"])))
def test_conditions_are_read_whole(operator: str, value: str) -> None:
    for text in (f"name{operator}{value}", f" name {operator} {value} "):
        assert Condition.parse(text) == Condition("name", operator, value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"where": ["number"]}, "the condition 'number' has no operator"),
        ({"where": ["year>3"]}, "has no column 'year'; it has text, number, letter"),
        ({"where": ["number>many"]}, "the column 'number' holds int64, which cannot be compared with 'many'"),
        ({"columns": ["year"]}, "has no column 'year'"),
        ({"where": ["letter>=10"]}, "'letter' holds string, which >= would order as text.* dataset.types.letter"),
        ({"metric": "angle"}, "metric is 'angle'; choose cosine or dot"),
        ({"top": 0}, "top is 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(folder: Path, options: dict[str, object], message: str) -> None:
    opened = VectorFolder.open(folder)
    with pytest.raises(ConfigError, match=message):
        opened.search(np.ones((1, opened.dim)), **options)  # type: ignore[arg-type]


def test_queries_of_another_width_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"the queries have shape \(1, 3\), and the vectors are \d+ wide"):
        VectorFolder.open(folder).search(np.ones((1, 3)))


def test_folders_that_cannot_be_searched_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not a folder of vectors; give one that lengthwise encode wrote"):
        VectorFolder.open(tmp_path / "nothing")
    shard = folder / "data/shard-000001.parquet"
    contents = shard.read_bytes()
    shard.write_bytes(contents[:-9])
    opened = VectorFolder.open(folder)
    with pytest.raises(StoreError, match=r"shard-000001\.parquet: cannot be read .*; remove it, and run"):
        opened.search(np.ones((1, opened.dim)))
    shard.unlink()
    with pytest.raises(StoreError, match=r"shard-000001\.parquet: cannot be read"):
        opened.search(np.ones((1, opened.dim)))
    (folder / "manifest.json").unlink()
    with pytest.raises(StoreError, match="not complete; run the command that encodes again"):
        VectorFolder.open(folder)


def test_rows_without_a_vector_are_never_found(tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine) -> None:
    config = run_config(tmp_path / "vectors", encode={"bad_rows": "quarantine"})
    encode(config, source_of([None, ""], config), tokenizer, engine)
    opened = VectorFolder.open(tmp_path / "vectors")
    assert opened.search(np.ones((1, engine.config.dim))) == [[]]


def test_the_model_is_the_one_that_the_run_names(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match="was encoded by model, which is not there; name the model with --model"):
        _ = VectorFolder.open(folder).model_path
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    assert VectorFolder.open(folder).model_path == "model"
    identity = json.loads((folder / "identity.json").read_text())["depends_on"]
    assert VectorFolder.open(folder).tokenization.max_length == identity["max_length"]
