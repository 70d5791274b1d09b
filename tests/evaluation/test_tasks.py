"""Tasks as YAML: what is read, and that every mistake is reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from lengthwise.errors import ConfigError
from lengthwise.evaluation.tasks import KINDS, RetrievalTask, TriplesTask, load_tasks, parse_tasks


def test_tasks_are_read_by_their_kinds(tmp_path: Path) -> None:
    path = tmp_path / "tasks.yaml"
    path.write_text("tasks:\n  find: {kind: retrieval, pairs: p.tsv}\n  order: {kind: triples, data: t.tsv}\n")
    tasks = load_tasks(path)
    assert list(tasks) == ["find", "order"]
    assert isinstance(tasks["find"], RetrievalTask)
    assert isinstance(tasks["order"], TriplesTask)
    assert (tasks["find"].query, tasks["order"].same) == ("query", "same")


def test_every_mistake_is_reported() -> None:
    tasks = {
        "a": {"kind": "retrieval"},
        "b": {"kind": "knn", "train": "x", "nieghbours": 2},
        "c": {"kind": "ranking"},
        "d": {"kind": "triples", "data": 1},
        "e": {"kind": "retrieval", "pairs": "x", "depth": 5},
    }
    with pytest.raises(ConfigError) as caught:
        parse_tasks({"tasks": tasks}, "tasks.yaml")
    message = str(caught.value)
    assert "tasks.a: 1 mistake" in message
    assert "needs either pairs, or queries, documents and relevance" in message
    assert "nieghbours = 2: there is no such setting; did you mean 'neighbours'?" in message
    assert f"tasks.c: kind is 'ranking'; choose {', '.join(KINDS)}" in message
    assert "data = 1: input should be a valid string" in message
    assert "has the cutoff 10, and ranks 5 documents; raise depth" in message


@pytest.mark.parametrize("data", [None, [], {}, {"tasks": {}}, {"tasks": None}, {"tasks": {"a": {}}, "more": 1}])
def test_what_holds_no_tasks_is_refused(data: object) -> None:
    with pytest.raises(ConfigError, match="has to hold one section `tasks`"):
        parse_tasks(data, "tasks.yaml")


@pytest.mark.parametrize(
    "files", [{"queries": "q"}, {"pairs": "p", "queries": "q"}, {"documents": "d", "queries": "q"}]
)
def test_retrieval_has_pairs_or_all_files(files: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="needs either pairs"):
        parse_tasks({"tasks": {"a": {"kind": "retrieval", **files}}}, "tasks.yaml")
