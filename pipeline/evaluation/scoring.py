"""The metrics of one model on one task, as statistics that can be drawn again.

Decisions:
- Each kind of task has one function, which reads its files and asks the model for vectors, or for a ranking.
- Similarity is the cosine of two vectors. Of a text without tokens it is 0.
- Where one of two columns has one value only, as all vectors may be alike, their correlation is 0.
- A triple whose two cosines are equal counts as wrong: a model that cannot tell them apart has found no nearer one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lengthwise.errors import DatasetError, LengthwiseError
from lengthwise.evaluation.columns import read_numbers, read_task_columns
from lengthwise.evaluation.intervals import Statistic
from lengthwise.evaluation.retrieval import load_retrieval, ranking_statistics
from lengthwise.evaluation.tasks import (
    AgreementTask,
    ClusteringTask,
    KnnTask,
    PairsTask,
    RetrievalTask,
    SimilarityTask,
    Task,
    TriplesTask,
)
from lengthwise.evaluation.vectors import Ranking

Statistics = dict[str, Statistic]
Vectors = Callable[[list[str]], NDArray[np.float32]]
_CLUSTERING_BATCH = 1_024
_TIE = 1e-6  # cosines of float32 vectors that differ by less are equal


class Subject(Protocol):
    """What is evaluated.

    Attributes:
        vectors: texts to float32[texts, dim] of length 1; None of a model that only ranks.
    """

    @property
    def vectors(self) -> Vectors | None: ...  # noqa: D102

    def rank(self, queries: list[str], documents: list[str], depth: int) -> Ranking:
        """The best documents of each query, as `vectors.nearest` gives them."""
        ...


Teachers = Callable[[str], Subject]


def score(task: Task, subject: Subject, teachers: Teachers) -> Statistics | None:
    """The metrics of a model on a task, by name; None if it is a task that the model cannot do.

    Args:
        teachers: gives the model of a name, for tasks that have a teacher.

    Raises:
        DatasetError: the task's files cannot be read.
        LengthwiseError: the model fails, or a library of metrics is missing.
    """
    if isinstance(task, RetrievalTask):
        return _score_retrieval(task, subject)
    if subject.vectors is None:
        return None
    if isinstance(task, AgreementTask):
        return _score_agreement(task, subject.vectors, teachers(task.teacher).vectors)
    return _SCORERS[type(task)](task, subject.vectors)


def task_texts(task: Task) -> list[str]:
    """All texts of a task, in the order of its files.

    Raises:
        DatasetError: they cannot be read.
    """
    if isinstance(task, RetrievalTask):
        loaded = load_retrieval(task)
        return [*loaded.queries, *loaded.documents]
    if isinstance(task, KnnTask):
        return [text for path in (task.train, task.test) for text in read_task_columns(task, path, ["text"])[0]]
    names = [name for name in ("text", "same", "other") if hasattr(task, name)]
    columns = read_task_columns(task, task.data, names)  # type: ignore[attr-defined]
    return [text for column in columns for text in column]


def _score_retrieval(task: RetrievalTask, subject: Subject) -> Statistics:
    loaded = load_retrieval(task)
    _, rows = subject.rank(loaded.queries, loaded.documents, task.depth)
    return ranking_statistics(rows, loaded, task.depth, task.cutoff)


def _score_knn(task: KnnTask, vectors: Vectors) -> Statistics:
    train, train_labels = read_task_columns(task, task.train, ["text"], ["label"])
    test, test_labels = read_task_columns(task, task.test, ["text"], ["label"])
    if len(train) < task.neighbours:
        raise DatasetError(
            f"{task.train}: has {len(train)} rows, fewer than the {task.neighbours} neighbours that vote"
        )
    neighbors = _sklearn("neighbors")
    classifier = neighbors.KNeighborsClassifier(task.neighbours, metric="cosine", algorithm="brute")
    classifier.fit(vectors(train), [str(label) for label in train_labels])
    right = classifier.predict(vectors(test)) == np.array([str(label) for label in test_labels])
    return {"accuracy": Statistic.mean(right)}


def _score_clustering(task: ClusteringTask, vectors: Vectors) -> Statistics:
    texts, names = read_task_columns(task, task.data, ["text"], ["label"])
    labels = np.unique([str(name) for name in names], return_inverse=True)[1]
    cluster, metrics, encoded = _sklearn("cluster"), _sklearn("metrics"), vectors(texts)
    found = [
        cluster.MiniBatchKMeans(
            n_clusters=int(labels.max()) + 1, batch_size=_CLUSTERING_BATCH, n_init=1, random_state=seed
        ).fit_predict(encoded)
        for seed in range(task.repetitions)
    ]

    def v_measure(rows: NDArray[np.int64]) -> float:
        return float(np.mean([metrics.v_measure_score(labels[rows], clusters[rows]) for clusters in found]))

    return {"v-measure": Statistic(len(texts), v_measure)}


def _score_similarity(task: SimilarityTask, vectors: Vectors) -> Statistics:
    texts, others, values = read_task_columns(task, task.data, ["text", "other"], ["score"])
    wanted = np.array(read_numbers(task.data, task.score, values))
    found = _cosines(vectors(texts), vectors(others))
    stats = _scipy_stats()
    return {
        "Spearman": _correlation(found, wanted, lambda left, right: stats.spearmanr(left, right).statistic),
        "Pearson": _correlation(found, wanted, lambda left, right: np.corrcoef(left, right)[0, 1]),
    }


def _correlation(
    left: NDArray[np.float64],
    right: NDArray[np.float64],
    correlate: Callable[[NDArray[np.float64], NDArray[np.float64]], float],
) -> Statistic:
    def of(rows: NDArray[np.int64]) -> float:
        one, other = left[rows], right[rows]
        if (one == one[0]).all() or (other == other[0]).all():  # a sample of few rows may be one row, repeated
            return 0.0
        return float(correlate(one, other))

    return Statistic(len(left), of)


def _score_pairs(task: PairsTask, vectors: Vectors) -> Statistics:
    texts, others, values = read_task_columns(task, task.data, ["text", "other"], ["label"])
    labels = np.array(read_numbers(task.data, task.label, values))
    if set(labels.tolist()) != {0.0, 1.0}:
        raise DatasetError(f"{task.data}: the column {task.label!r} has to hold both 0 and 1, and nothing else")
    found, metrics = _cosines(vectors(texts), vectors(others)), _sklearn("metrics")

    def average_precision(rows: NDArray[np.int64]) -> float:
        if not labels[rows].any():  # a sample of few rows may have no pair of the same meaning
            return 0.0
        return float(metrics.average_precision_score(labels[rows], found[rows]))

    thresholds = metrics.roc_curve(labels, found)[2]
    best = max(thresholds, key=lambda threshold: float(((found >= threshold) == labels).mean()))
    return {
        "average precision": Statistic(len(texts), average_precision),
        "accuracy": Statistic.mean((found >= best) == labels),
    }


def _score_triples(task: TriplesTask, vectors: Vectors) -> Statistics:
    groups = ["group"] if task.group else []
    texts, same, other, *names = read_task_columns(task, task.data, ["text", "same", "other"], groups)
    encoded = vectors(texts)
    right = _cosines(encoded, vectors(same)) > _cosines(encoded, vectors(other)) + _TIE
    statistics = {"accuracy": Statistic.mean(right)}
    if names:
        group_of = np.array([str(name) for name in names[0]])
        statistics |= {f"accuracy of {name}": Statistic.mean(right[group_of == name]) for name in np.unique(group_of)}
    return statistics


def _score_agreement(
    task: AgreementTask,
    vectors: Vectors,
    teacher: Vectors | None,
) -> Statistics | None:
    if teacher is None:
        raise LengthwiseError(f"the teacher {task.teacher} gives no vectors; name another model")
    (texts,) = read_task_columns(task, task.data, ["text"])
    found, wanted = vectors(texts), teacher(texts)
    return {"cosine": Statistic.mean(_cosines(found, wanted))} if found.shape == wanted.shape else None


_SCORERS: Mapping[type[Task], Callable[[Any, Vectors], Statistics]]
_SCORERS = MappingProxyType(
    {
        KnnTask: _score_knn,
        ClusteringTask: _score_clustering,
        SimilarityTask: _score_similarity,
        PairsTask: _score_pairs,
        TriplesTask: _score_triples,
    }
)


def _cosines(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float64]:
    """float64[rows], of unit vectors."""
    return np.einsum("rd,rd->r", left, right, dtype=np.float64)


def _sklearn(module: str) -> Any:
    from importlib import import_module

    try:
        return import_module(f"sklearn.{module}")
    except ImportError as error:
        raise LengthwiseError(f"evaluation needs scikit-learn ({error}); install lengthwise[evaluate]") from error


def _scipy_stats() -> Any:
    try:
        from scipy import stats
    except ImportError as error:
        raise LengthwiseError(f"evaluation needs scipy ({error}); install lengthwise[evaluate]") from error
    return stats
