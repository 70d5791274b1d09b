"""Models side by side: tables, JSON, picture, differences, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import lengthwise
from lengthwise import Encoder
from lengthwise.errors import ConfigError
from lengthwise.evaluation.costs import measure_costs, measure_startup
from lengthwise.evaluation.evaluate import Evaluation, evaluate
from lengthwise.evaluation.intervals import Measured
from lengthwise.evaluation.models import ModelSpec, VectorModel
from lengthwise.evaluation.picture import frontier
from lengthwise.evaluation.report import to_dict, to_markdown, write_report

Write = Callable[..., str]


def all_alike(texts: Sequence[str]) -> NDArray[np.float32]:
    return np.ones((len(texts), 2), np.float32)


@pytest.fixture
def tasks(write: Write) -> dict[str, Any]:
    queries = ["cat dog", "moon", "sea rain", "hill hill", "rain", "dog dog moon"] * 4
    documents = [" ".join(reversed(query.split())) for query in queries]
    return {
        "tasks": {
            "find": {"kind": "retrieval", "pairs": write("pairs", query=queries, document=documents)},
            "topic": {
                "kind": "knn",
                "train": write("train", text=["cat", "dog", "sea", "rain"], label=["a", "a", "w", "w"]),
                "test": write("test", text=["cat dog", "sea rain", "dog", "rain"], label=["a", "w", "a", "w"]),
                "neighbours": 1,
            },
            "teacher": {"kind": "agreement", "data": write("texts", text=["cat", "sea"]), "teacher": "bm25"},
        }
    }


@pytest.fixture
def evaluation(tasks: dict[str, Any], bag: VectorModel) -> Evaluation:
    del tasks["tasks"]["teacher"]
    return evaluate([VectorModel("alike", all_alike), bag, "bm25"], tasks, resamples=200, costs=False)


def test_a_folder_that_is_not_there_is_refused_before_any_model_is_measured(tasks: dict[str, Any]) -> None:
    asked: list[Sequence[str]] = []
    first = VectorModel("first", lambda texts: (asked.append(texts), all_alike(texts))[1])
    with pytest.raises(ConfigError, match="nowhere: there is no such folder"):
        evaluate([first, "nowhere"], tasks, costs=False)
    assert not asked


def test_the_better_model_is_certainly_better(evaluation: Evaluation) -> None:
    alike, bag, bm25 = evaluation.models
    assert evaluation.baseline == "alike"
    assert bag.main("find", evaluation.tasks["find"]).value == 1
    found = evaluation.differences(bag)["find"]
    assert found is not None
    assert found.is_certain
    assert found.value > 0
    assert evaluation.differences(alike)["find"].interval == (0, 0)
    assert evaluation.differences(bm25)["topic"] is None
    assert evaluation.quality(bag).value == 1
    assert evaluation.quality(bm25) is None
    assert [model.dim for model in evaluation.models] == [2, 6, None]


def test_the_tables(evaluation: Evaluation) -> None:
    lines = to_markdown(evaluation).splitlines()
    assert lines[0] == "| model | dim | find (MRR) | topic (accuracy) | mean |"
    assert lines[3].startswith("| bag | 6 | 1.000 (1.000 to 1.000) | 1.000 (1.000 to 1.000) | 1.000")
    assert lines[4].startswith("| bm25 | – | 1.000")
    assert lines[4].endswith("| – | – |")
    assert "95% intervals by bootstrap" in lines[6]
    assert lines[8].startswith("Differences from alike on the same rows; bold where")
    assert lines[12].startswith("| bag | **+0.")
    assert lines[13].endswith("| – |")


def test_the_report_holds_everything_and_is_the_same_again(
    evaluation: Evaluation, tasks: dict[str, Any], bag: VectorModel, tmp_path: Path
) -> None:
    written = write_report(evaluation, tmp_path)
    assert [path.name for path in written] == ["evaluation.md", "evaluation.json"]  # no speed, no picture
    record = json.loads(written[1].read_text())
    assert [model["name"] for model in record["models"]] == ["alike", "bag", "bm25"]
    assert set(record["models"][1]["tasks"]["find"]["metrics"]) == {"MRR", "nDCG@10", "recall@10"}
    assert record["models"][2]["tasks"]["topic"] is None
    assert record["tasks"]["topic"]["neighbours"] == 1
    again = evaluate([VectorModel("alike", all_alike), bag, "bm25"], tasks, resamples=200, costs=False)
    assert to_dict(again) == to_dict(evaluation)


def test_costs_and_the_picture(tasks: dict[str, Any], bag: VectorModel, tmp_path: Path) -> None:
    del tasks["tasks"]["teacher"]
    found = lengthwise.evaluate([bag, VectorModel("alike", all_alike)], tasks, resamples=100)
    costs = found.models[0].costs
    assert costs is not None
    assert costs.texts_per_s > 0
    assert costs.startup_s is None  # it exists in memory only
    assert (tmp_path / "evaluation.png") in write_report(found, tmp_path)
    assert (tmp_path / "evaluation.png").read_bytes().startswith(b"\x89PNG")
    assert "| texts/s | MB | start-up (s) |" in to_markdown(found)


def test_encoders_and_functions_by_name(tasks: dict[str, Any], artifact_folder: Path) -> None:
    models = {"ours": Encoder.load(artifact_folder), "alike": all_alike}
    found = lengthwise.evaluate(models, tasks, tasks=["find"], costs=False, resamples=100, baseline="alike")
    assert [model.name for model in found.models] == ["ours", "alike"]
    assert list(found.tasks) == ["find"]
    assert found.baseline == "alike"


def test_the_fastest_batch_is_taken() -> None:
    used: list[int | None] = []

    def encode(texts: Sequence[str], batch_size: int | None = None) -> NDArray[np.float32]:
        import time

        used.append(batch_size)
        time.sleep(0.02 if batch_size == 1 else 0)
        return np.ones((len(texts), 2), np.float32)

    costs = measure_costs(VectorModel("x", encode, batch_sizes=(1, 4)), ["a", "b"])
    assert costs.batch_size == 4
    assert used[-3:] == [4, 4, 4]


def test_startup_is_that_of_a_new_process(artifact_folder: Path) -> None:
    assert 0 < measure_startup(ModelSpec.parse(str(artifact_folder))) < 300
    with pytest.raises(lengthwise.LengthwiseError, match="cannot be loaded in a new process"):
        measure_startup(ModelSpec("x", str(artifact_folder / "no")))


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        ([], {}, "there is no model to evaluate"),
        (["bm25", "bm25"], {}, "two models are named 'bm25'"),
        (["bm25"], {"baseline": "other"}, "the baseline 'other' is none of the models: bm25"),
        (["bm25"], {"tasks": ["lost"]}, "has no task 'lost'; its tasks are find, topic, teacher"),
    ],
)
def test_mistakes(tasks: dict[str, Any], models: list[str], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(models, tasks, **options)


def test_the_frontier_has_what_nothing_beats() -> None:
    def point(name: str, speed: float, value: float) -> tuple[str, float, Measured]:
        return name, speed, Measured(value, (value, value), np.zeros(1), 1)

    points = [point("slow", 1, 0.9), point("beaten", 1, 0.4), point("fast", 9, 0.5), point("middle", 3, 0.7)]
    assert [name for name, _, _ in frontier(points)] == ["slow", "middle", "fast"]
