"""The settings of training: what is refused, with which message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lengthwise.config import RunConfig, load_config
from lengthwise.errors import ConfigError
from lengthwise.train_config import LOSSES, SourceSettings, TrainSettings
from lengthwise.util.settings import parse_settings


def refused(train: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_settings(RunConfig, {"dataset": {"path": "a"}, "model": {"path": "b"}, "train": train}, "run.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({}, "train.sources.0.kind: missing; it must be given (teacher: texts and"),
        ({"kind": "pair"}, "train.sources.0.kind = 'pair':"),
        (
            {"kind": "pairs", "colums": ["a", "b"]},
            "train.sources.0.colums = ['a', 'b']: there is no such setting; did you",
        ),
        ({"kind": "pairs", "columns": ["a"]}, "train.sources.0.columns is ['a']; name two, e.g. [anchor, positive]"),
        (
            {"kind": "pairs", "group_column": "positive"},
            "train.sources.0.group_column is 'positive', a column of texts; name one that says what pairs have in"
            " common",
        ),
        (
            {"kind": "pairs", "negative_columns": ["positive"]},
            "train.sources.0.negative_columns is ['positive'], but positive is named twice; name each column once",
        ),
        ({"kind": "pairs", "group": 1}, "train.sources.0.group is 1, but a pair is compared with the other pairs"),
        ({"kind": "pairs", "temperature": 0.0}, "train.sources.0.temperature = 0.0: input should be greater than 0"),
        (
            {"kind": "labels", "loss": "cosine"},
            "loss is 'cosine', but a source of labels has cross_entropy or contrastive",
        ),
        (
            {"kind": "labels", "temperature": 0.1},
            "train.sources.0 sets temperature = 0.1, which the loss cross_entropy does not have; remove it",
        ),
        (
            {"kind": "pairs", "loss": "triplet", "symmetric": True},
            "train.sources.0 sets symmetric = True, which the loss triplet does not have; remove it",
        ),
        (
            {"kind": "pairs", "margin": 0.2},
            "train.sources.0 sets margin = 0.2, which the loss contrastive does not have; remove it",
        ),
        (
            {"kind": "pairs", "in_batch_negatives": False},
            "train.sources.0 sets in_batch_negatives = false, which needs negative_columns, and symmetric = false",
        ),
        (
            {"kind": "pairs", "negatives": "all"},
            "train.sources.0 sets negatives = 'all', but no negative_columns; name them, or remove it",
        ),
        (
            {"kind": "pairs", "max_tokens": 64},
            "train.sources.0 sets max_tokens, which a source of the kind pairs does not have; remove it",
        ),
        ({"kind": "labels", "group": 5}, "train.sources.0 sets group, which a source of the kind labels does not have"),
        (
            {"kind": "vectors", "dataset": {"pth": "a"}},
            "train.sources.0.dataset.pth = 'a': there is no such setting; did you",
        ),
        (
            {"kind": "vectors", "weight": -1.0},
            "train.sources.0.weight = -1.0: input should be greater than 0 (factor of",
        ),
        (
            {"kind": "teacher"},
            "train has a source of the kind teacher, but no teacher; set train.teacher to its folder",
        ),
    ],
)
def test_mistake_in_a_source_is_named(source: dict[str, Any], message: str) -> None:
    assert message in refused({"sources": [source]})


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"lr": 0.1}, "train.lr = 0.1: was renamed; write 'learning_rate' instead"),
        ({"learning_rate": 0}, "train.learning_rate = 0: input should be greater than 0"),
        ({"final_rate": 1.5}, "train.final_rate = 1.5: input should be less than or equal to 1"),
        ({"average": 1.0}, "train.average = 1.0: input should be less than 1"),
        ({"betas": [0.9]}, "train.betas.1: missing"),
        ({"sources": {"kind": "teacher"}}, "train.sources = {'kind': 'teacher'}: should be a list"),
        ({"init": {"embedding": "teacher"}}, "train has init.embedding = 'teacher', but no teacher; set train.teacher"),
    ],
)
def test_mistake_is_named(train: dict[str, Any], message: str) -> None:
    assert message in refused(train)


@pytest.mark.parametrize("kind", LOSSES)
def test_kind_has_a_loss(kind: str) -> None:
    assert SourceSettings.model_validate({"kind": kind}).objective == LOSSES[kind][0]


def test_setting_of_one_source_is_changed_by_its_number(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(
        "dataset: {path: a}\nmodel: {path: b}\ntrain: {sources: [{kind: labels}, {kind: pairs}]}\n"
    )
    config = load_config(tmp_path / "run.yaml", ["train.sources.1.weight=0.3", "train.sources.0={kind: vectors}"])
    assert [(source.kind, source.weight) for source in config.train.sources] == [("vectors", 1.0), ("pairs", 0.3)]
    for item in ("2", "x", "-1"):
        with pytest.raises(ConfigError, match=f"'{item}' is no item of a list of 2; they are numbered from 0"):
            load_config(tmp_path / "run.yaml", [f"train.sources.{item}.weight=1.0"])


def test_section_survives_the_round_trip_through_yaml() -> None:
    from lengthwise.util.yaml_files import parse_yaml

    train = {"teacher": "t", "sources": [{"kind": "pairs", "group": 7}, {"kind": "teacher", "dataset": {"path": "x"}}]}
    config = parse_settings(RunConfig, {"dataset": {"path": "a"}, "model": {"path": "b"}, "train": train}, "run")
    again = parse_settings(RunConfig, parse_yaml(config.to_yaml(), "run"), "run")
    assert again == config
    assert TrainSettings() == parse_settings(TrainSettings, TrainSettings().model_dump(mode="json"), "defaults")
