"""The tasks of an evaluation as data: a YAML file, read into frozen, typed settings.

    tasks:
      definitions: {kind: retrieval, pairs: terms.tsv, query: name, document: definition}
      newsgroups: {kind: knn, train: train.parquet, test: test.parquet}

Relative paths are relative to the working directory, as in a run's configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from pydantic import Field, model_validator

from lengthwise.dataset_config import NonEmpty
from lengthwise.errors import ConfigError
from lengthwise.util.settings import PositiveInt, Settings, format_value, parse_settings
from lengthwise.util.yaml_files import load_yaml


class Task(Settings):
    """What every task has.

    Attributes:
        main: the name of the metric that tables show; the others are in the JSON file.
        compares_texts: whether the task is a part of a model's mean over the tasks.
    """

    main: ClassVar[str]
    compares_texts: ClassVar[bool] = True

    kind: NonEmpty = Field(description="what is measured")


class RetrievalTask(Task):
    """Find the documents of a query: from pairs (a query and its document per row), or from files as BEIR has them."""

    main: ClassVar[str] = "MRR"

    pairs: NonEmpty | None = Field(None, description="a file with a query and its document in each row")
    query: NonEmpty = Field("query", description="the column of queries in pairs")
    document: NonEmpty = Field("document", description="the column of documents in pairs")
    queries: NonEmpty | None = Field(None, description="a file with the columns _id and text")
    documents: NonEmpty | None = Field(None, description="a file with the columns _id and text")
    relevance: NonEmpty | None = Field(None, description="a file with the columns query-id, corpus-id and score")
    depth: PositiveInt = Field(100, description="how many documents per query are ranked; MRR is of these")
    cutoff: PositiveInt = Field(10, description="the k of nDCG@k and recall@k")

    @model_validator(mode="after")
    def _has_one_form(self) -> RetrievalTask:
        files = [self.queries, self.documents, self.relevance]
        if (self.pairs is None) == (None in files) or (self.pairs is not None and any(files)):
            raise ValueError("needs either pairs, or queries, documents and relevance")
        if self.cutoff > self.depth:
            raise ValueError(f"has the cutoff {self.cutoff}, and ranks {self.depth} documents; raise depth")
        return self


class KnnTask(Task):
    """Classify texts by the labels of their nearest neighbours."""

    main: ClassVar[str] = "accuracy"

    train: NonEmpty = Field(description="a file of texts and labels, among which neighbours are found")
    test: NonEmpty = Field(description="a file of texts and labels to be classified")
    text: NonEmpty = Field("text", description="the column of texts")
    label: NonEmpty = Field("label", description="the column of labels")
    neighbours: PositiveInt = Field(10, description="how many neighbours vote")


class ClusteringTask(Task):
    """Cluster texts into as many clusters as there are labels."""

    main: ClassVar[str] = "v-measure"

    data: NonEmpty = Field(description="a file of texts and labels")
    text: NonEmpty = Field("text", description="the column of texts")
    label: NonEmpty = Field("label", description="the column of labels")
    repetitions: PositiveInt = Field(3, description="clusterings from different seeds, whose mean is taken")


class SimilarityTask(Task):
    """Order pairs of texts by their similarity, as people do."""

    main: ClassVar[str] = "Spearman"

    data: NonEmpty = Field(description="a file of two texts and a score in each row")
    text: NonEmpty = Field("text", description="the column of the first text")
    other: NonEmpty = Field("other", description="the column of the second text")
    score: NonEmpty = Field("score", description="the column of scores; larger is more similar")


class PairsTask(Task):
    """Separate pairs of the same meaning from other pairs."""

    main: ClassVar[str] = "average precision"

    data: NonEmpty = Field(description="a file of two texts and a label, 0 or 1, in each row")
    text: NonEmpty = Field("text", description="the column of the first text")
    other: NonEmpty = Field("other", description="the column of the second text")
    label: NonEmpty = Field("label", description="the column of labels; 1 is the same meaning")


class TriplesTask(Task):
    """Find a text nearer to one of the same meaning in other words than to one of another meaning."""

    main: ClassVar[str] = "accuracy"

    data: NonEmpty = Field(description="a file of three texts in each row")
    text: NonEmpty = Field("text", description="the column of texts")
    same: NonEmpty = Field("same", description="the column of texts with the same meaning")
    other: NonEmpty = Field("other", description="the column of texts with another meaning")
    group: NonEmpty | None = Field(None, description="a column of names; accuracy is given for each of them too")


class AgreementTask(Task):
    """Compare vectors with those of a teacher, which have to be of the same width."""

    main: ClassVar[str] = "cosine"
    compares_texts: ClassVar[bool] = False

    data: NonEmpty = Field(description="a file of texts")
    text: NonEmpty = Field("text", description="the column of texts")
    teacher: NonEmpty = Field(description="a model, written as on the command line")


KINDS: Mapping[str, type[Task]] = MappingProxyType(
    {
        "retrieval": RetrievalTask,
        "knn": KnnTask,
        "clustering": ClusteringTask,
        "similarity": SimilarityTask,
        "pairs": PairsTask,
        "triples": TriplesTask,
        "agreement": AgreementTask,
    }
)


def load_tasks(path: str | Path) -> dict[str, Task]:
    """The tasks of a YAML file, by name.

    Raises:
        ConfigError: it is no file of tasks; every mistake is listed.
    """
    return parse_tasks(load_yaml(Path(path)), str(path))


def parse_tasks(data: Any, origin: str) -> dict[str, Task]:
    """The tasks of what a YAML file holds, by name.

    Args:
        origin: where it comes from, for messages.

    Raises:
        ConfigError: lists every mistake.
    """
    sections = data.get("tasks") if isinstance(data, Mapping) else None
    if not isinstance(sections, Mapping) or not sections or list(data) != ["tasks"]:
        raise ConfigError(f"{origin}: has to hold one section `tasks`, with a name and settings for each task")
    tasks, mistakes = {}, []
    for name, section in sections.items():
        try:
            tasks[str(name)] = _parse_task(section, f"{origin}: tasks.{name}")
        except ConfigError as error:
            mistakes.append(str(error))
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return tasks


def _parse_task(section: Any, origin: str) -> Task:
    kind = section.get("kind") if isinstance(section, Mapping) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(f"{origin}: kind is {format_value(kind)}; choose {', '.join(KINDS)}")
    return parse_settings(KINDS[kind], section, origin)
