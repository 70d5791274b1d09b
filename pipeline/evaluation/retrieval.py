"""Retrieval: MRR, nDCG and recall per query, by ir-measures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lengthwise.errors import ColumnError, DatasetError, LengthwiseError
from lengthwise.evaluation.columns import read_columns, read_numbers, read_task_columns
from lengthwise.evaluation.intervals import Statistic
from lengthwise.evaluation.tasks import RetrievalTask


@dataclass(frozen=True)
class Retrieval:
    """Queries, documents, and which of them belong together.

    Attributes:
        queries: texts that have a relevant document.
        documents: texts to be ranked.
        relevance: per query, the relevance of documents by their row.
    """

    queries: list[str]
    documents: list[str]
    relevance: list[dict[int, int]]


def load_retrieval(task: RetrievalTask) -> Retrieval:
    """Read a task's files.

    Raises:
        DatasetError: they cannot be read, or do not fit each other.
    """
    if task.pairs is not None:
        return pair_up(*read_task_columns(task, task.pairs, ["query", "document"]))
    return _load_judged(str(task.queries), str(task.documents), str(task.relevance))


def pair_up(queries: Sequence[str], documents: Sequence[str]) -> Retrieval:
    """Pairs of a query and its document. A text that occurs twice is one query, or one document."""
    row_of = {text: row for row, text in enumerate(dict.fromkeys(documents))}
    relevant: dict[str, dict[int, int]] = {}
    for query, document in zip(queries, documents, strict=True):
        relevant.setdefault(query, {})[row_of[document]] = 1
    return Retrieval(list(relevant), list(row_of), list(relevant.values()))


def ranking_statistics(found: NDArray[np.int64], task: Retrieval, depth: int, cutoff: int) -> dict[str, Statistic]:
    """The metrics of a ranking.

    Args:
        found: int64[queries, depth], rows of documents, the best first.

    Raises:
        LengthwiseError: ir-measures is not installed.
    """
    try:
        import ir_measures
    except ImportError as error:
        raise LengthwiseError(f"retrieval needs ir-measures ({error}); install lengthwise[evaluate]") from error
    names = {
        ir_measures.RR @ depth: "MRR",
        ir_measures.nDCG @ cutoff: f"nDCG@{cutoff}",
        ir_measures.R @ cutoff: f"recall@{cutoff}",
    }
    values = {name: np.zeros(len(task.queries)) for name in names.values()}
    judged = {str(row): {str(key): value for key, value in wanted.items()} for row, wanted in enumerate(task.relevance)}
    for metric in ir_measures.iter_calc(list(names), judged, dict(_as_run(found))):
        values[names[metric.measure]][int(metric.query_id)] = metric.value
    return {name: Statistic.mean(array) for name, array in values.items()}


def _as_run(found: NDArray[np.int64]) -> Iterator[tuple[str, Mapping[str, float]]]:
    """Documents by query, with scores that keep their order: ir-measures would order equal ones by their names."""
    for row, documents in enumerate(found.tolist()):
        yield str(row), {str(document): -float(rank) for rank, document in enumerate(documents) if document >= 0}


def _load_judged(queries: str, documents: str, relevance: str) -> Retrieval:
    judged: dict[str, dict[str, int]] = defaultdict(dict)
    query_ids, document_ids, scores = _read_fixed(relevance, [], ["query-id", "corpus-id", "score"])
    for query, document, score in zip(query_ids, document_ids, read_numbers(relevance, "score", scores), strict=True):
        if score > 0:
            judged[str(query)][str(document)] = int(score)
    query_texts, document_texts = _texts_by_id(queries), _texts_by_id(documents)
    _check_known(judged, query_texts, relevance, queries)
    _check_known([name for wanted in judged.values() for name in wanted], document_texts, relevance, documents)
    row_of = {name: row for row, name in enumerate(document_texts)}
    wanted = [{row_of[name]: score for name, score in judged[query].items()} for query in judged]
    return Retrieval([query_texts[query] for query in judged], list(document_texts.values()), wanted)


def _texts_by_id(path: str) -> dict[str, str]:
    texts, names = _read_fixed(path, ["text"], ["_id"])
    return {str(name): text for name, text in zip(names, texts, strict=True)}


def _read_fixed(path: str, texts: Sequence[str], others: Sequence[str]) -> list[list[Any]]:
    """`read_columns` of columns that no setting names."""
    try:
        return read_columns(path, texts, others)
    except ColumnError as error:
        names = ", ".join([*others, *texts])
        raise DatasetError(f"{error.problem}; give a file with the columns {names}, as BEIR has them") from None


def _check_known(names: Mapping[str, object] | Sequence[str], known: Mapping[str, str], origin: str, path: str) -> None:
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        raise DatasetError(f"{origin}: names {unknown!r}, which {path} does not have; give files of the same set")
