"""The metrics of each kind of task, against numbers that can be worked out by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from lengthwise.errors import DatasetError, LengthwiseError
from lengthwise.evaluation.intervals import measure
from lengthwise.evaluation.models import LexicalModel, VectorModel
from lengthwise.evaluation.scoring import score, task_texts
from lengthwise.evaluation.tasks import Task, parse_tasks

Write = Callable[..., str]


def make_task(**settings: Any) -> Task:
    return parse_tasks({"tasks": {"one": settings}}, "test")["one"]


def values(task: Task, model: VectorModel | LexicalModel, teacher: VectorModel | None = None) -> dict[str, float]:
    statistics = score(task, model, lambda name: teacher or model)
    assert statistics is not None
    return {name: one.of(np.arange(one.rows)) for name, one in statistics.items()}


def by_table(vectors: dict[str, Sequence[float]]) -> VectorModel:
    return VectorModel("table", lambda texts: np.array([vectors[text] for text in texts], np.float32))


def test_retrieval_of_pairs(write: Write) -> None:
    """The document of `north` is found first and that of `east` second, so MRR is (1 + 1/2) / 2."""
    task = make_task(
        kind="retrieval", pairs=write("pairs", query=["north", "east"], document=["up", "right"]), cutoff=1
    )
    model = by_table({"north": [0, 1], "east": [0.9, 1], "up": [0, 1], "right": [1, 0]})
    assert values(task, model) == {"MRR": 0.75, "nDCG@1": 0.5, "recall@1": 0.5}


def test_a_document_of_two_queries_is_one_document(write: Write) -> None:
    task = make_task(kind="retrieval", pairs=write("pairs", query=["a", "b", "a"], document=["x", "x", "y"]))
    model = by_table({"a": [1, 0], "b": [1, 0], "x": [1, 0], "y": [0, 1]})
    found = values(task, model)
    assert found["MRR"] == found["recall@10"] == 1
    assert sorted(task_texts(task)) == ["a", "b", "x", "y"]


def test_retrieval_of_judged_documents(write: Write) -> None:
    """nDCG of relevances 1, 2 where 2, 1 is best: (1 + 2/log2(3)) / (2 + 1/log2(3))."""
    task = make_task(
        kind="retrieval",
        queries=write("queries", _id=[7, 8], text=["cat", "never judged"]),
        documents=write("documents", _id=["a", "b", "c"], text=["cat", "cat dog", "sea"]),
        relevance=write("relevance", query__id=["7", "7"], corpus__id=["a", "b"], score=[1, 2]),
    )
    model = by_table({"cat": [1, 0], "cat dog": [1, 1], "sea": [0, 1]})
    found = values(task, model)
    log = np.log2(3)
    assert found["nDCG@10"] == pytest.approx((1 + 2 / log) / (2 + 1 / log))
    assert found["MRR"] == found["recall@10"] == 1


def test_files_that_do_not_fit_are_refused(write: Write, bag: VectorModel) -> None:
    task = make_task(
        kind="retrieval",
        queries=write("queries", _id=["1"], text=["cat"]),
        documents=write("documents", _id=["a"], text=["cat"]),
        relevance=write("relevance", query__id=["1"], corpus__id=["z"], score=[1]),
    )
    with pytest.raises(DatasetError, match=r"names 'z', which .*documents\.parquet does not have"):
        score(task, bag, lambda name: bag)


def test_bm25_ranks_by_shared_words_and_finds_nothing_without_them(write: Write, bag: VectorModel) -> None:
    pytest.importorskip("bm25s")
    documents = ["a rainy day", "the moon", "a day at the sea", "hills and hills"]
    task = make_task(
        kind="retrieval",
        pairs=write("pairs", query=["moon", "sea day", "hills", "sun"], document=[*documents[1:], "a sunny day"]),
    )
    assert values(task, LexicalModel())["MRR"] == 0.75
    assert score(make_task(kind="triples", data="none"), LexicalModel(), lambda name: bag) is None


def test_knn(write: Write, bag: VectorModel) -> None:
    train = write(
        "train", text=["cat", "cat dog", "dog", "sea", "sea rain", "rain"], label=["animal"] * 3 + ["water"] * 3
    )
    test = write("test", text=["dog dog", "rain sea", "cat"], label=["animal", "water", "water"])
    assert values(make_task(kind="knn", train=train, test=test, neighbours=3), bag) == {
        "accuracy": pytest.approx(2 / 3)
    }
    with pytest.raises(DatasetError, match="has 6 rows, fewer than the 10 neighbours"):
        score(make_task(kind="knn", train=train, test=test), bag, lambda name: bag)


def test_clustering_finds_separate_labels_and_no_mixed_ones(write: Write, bag: VectorModel) -> None:
    texts = ["cat", "sea", "hill"] * 20
    apart = make_task(kind="clustering", data=write("apart", text=texts, label=[1, 2, 3] * 20))
    assert values(apart, bag)["v-measure"] > 0.7
    mixed = make_task(kind="clustering", data=write("mixed", text=texts, label=[1] * 30 + [2] * 30))
    assert values(mixed, bag)["v-measure"] < 0.1


def test_similarity_is_a_correlation_of_ranks(write: Write) -> None:
    """Cosines 1, 0.7, 0 against scores in the same and in the opposite order."""
    model = by_table({"a": [1, 0], "b": [1, 1], "c": [0, 1]})
    columns = {"text": ["a", "a", "a"], "other": ["a", "b", "c"]}
    rising = make_task(kind="similarity", data=write("rising", **columns, score=[5, 4.9, 0]))
    falling = make_task(kind="similarity", data=write("falling", **columns, score=["0", "1", "2"]))
    assert values(rising, model)["Spearman"] == pytest.approx(1)
    assert values(falling, model)["Spearman"] == pytest.approx(-1)


@pytest.mark.parametrize("other", [["a", "b", "c"], ["a", "a", "a"]])
@pytest.mark.filterwarnings("error")
def test_rows_that_are_all_alike_have_no_correlation(write: Write, other: list[str]) -> None:
    """A sample of three rows may hold one of them three times, and a model may give one vector to all texts."""
    model = by_table({"a": [1, 0], "b": [1, 1], "c": [0, 1]})
    task = make_task(kind="similarity", data=write("pairs", text=["a", "a", "a"], other=other, score=[3, 2, 1]))
    statistics = score(task, model, lambda name: model)
    assert statistics is not None
    for statistic in statistics.values():
        assert statistic.of(np.array([1, 1, 1])) == 0
        measured = measure(statistic, resamples=200)
        assert np.isfinite([measured.value, *measured.interval]).all()


def test_pairs_are_separated_at_the_best_threshold(write: Write) -> None:
    model = by_table({"a": [1, 0], "b": [1, 1], "c": [0, 1]})
    data = write("pairs", text=["a", "a", "a", "a"], other=["a", "b", "c", "b"], label=[1, 1, 0, 0])
    found = values(make_task(kind="pairs", data=data), model)
    assert found["accuracy"] == 0.75
    assert found["average precision"] == pytest.approx(0.5 + 0.5 * 2 / 3)
    with pytest.raises(DatasetError, match="has to hold both 0 and 1"):
        score(
            make_task(kind="pairs", data=write("ones", text=["a"], other=["b"], label=[1])), model, lambda name: model
        )


def test_triples_by_group_and_equal_cosines_are_wrong(write: Write) -> None:
    model = by_table({"t": [1, 0], "near": [1, 0.1], "far": [0, 1], "equal": [1, 0.1]})
    data = write(
        "triples",
        text=["t", "t", "t"],
        same=["near", "far", "near"],
        other=["far", "near", "equal"],
        kind=["x", "x", "y"],
    )
    found = values(make_task(kind="triples", data=data, group="kind"), model)
    assert found == {"accuracy": pytest.approx(1 / 3), "accuracy of x": 0.5, "accuracy of y": 0}


def test_agreement_needs_vectors_of_one_width(write: Write) -> None:
    task = make_task(kind="agreement", data=write("texts", text=["a", "b"]), teacher="teacher")
    model, teacher = by_table({"a": [1, 0], "b": [0, 1]}), by_table({"a": [1, 0], "b": [1, 0]})
    assert values(task, model, teacher) == {"cosine": 0.5}
    wide = by_table({"a": [1, 0, 0], "b": [0, 1, 0]})
    assert score(task, wide, lambda name: teacher) is None
    with pytest.raises(LengthwiseError, match="the teacher teacher gives no vectors"):
        score(task, model, lambda name: LexicalModel())


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["a", None]}, "the column 'text' has no value in row 1"),
        ({"text": [1, 2]}, r"the column 'text' is .*int64.*, not text"),
        ({"body": ["a"]}, "there is no column 'text'; the columns are 'body'; set text of the task to other columns$"),
    ],
)
def test_a_column_that_cannot_be_used_is_refused(
    write: Write, bag: VectorModel, columns: dict[str, list[object]], message: str
) -> None:
    task = make_task(kind="agreement", data=write("texts", **columns), teacher="bag")
    with pytest.raises(DatasetError, match=message):
        score(task, bag, lambda name: bag)


def test_columns_are_named_by_the_settings_of_the_task(write: Write, bag: VectorModel) -> None:
    """And not as `dataset.text_column`, which a task does not have."""
    data = write("pairs", text=["cat"], othr=["dog"], score=[1.0])
    task = make_task(kind="similarity", data=data, score="value")
    with pytest.raises(DatasetError) as caught:
        score(task, bag, lambda name: bag)
    expected = (
        "there are no columns 'other', 'value'; the columns are 'text', 'othr', 'score'; set other and score of the"
    )
    assert str(caught.value) == f"{data}: {expected} task to other columns"
    judged = make_task(kind="retrieval", queries=data, documents=data, relevance=data)
    with pytest.raises(DatasetError, match="give a file with the columns query-id, corpus-id, score, as BEIR has them"):
        score(judged, bag, lambda name: bag)


def test_scores_that_are_no_numbers_are_refused(write: Write, bag: VectorModel) -> None:
    task = make_task(kind="similarity", data=write("pairs", text=["cat"], other=["dog"], score=["much"]))
    with pytest.raises(DatasetError, match="the column 'score' has 'much' in row 0, which is no number"):
        score(task, bag, lambda name: bag)
