"""A training run from its configuration to a checkpoint: every kind of source, repeated, interrupted and refused."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lengthwise.training.loop as loop
import lengthwise.training.run as run
from helpers.files import contents
from helpers.students import make_texts, save_teacher, student_config, write_rows
from helpers.training import token_ids
from lengthwise import Encoder
from lengthwise.config import RunConfig, TokenizerSettings, TokenizerTraining
from lengthwise.encoder.checkpoint import load_checkpoint
from lengthwise.errors import CheckpointError, ConfigError, DatasetError, LengthwiseError, RunError, StoreError
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.tokens.training import train_tokenizer
from lengthwise.training.gradients import StepGradients
from lengthwise.training.report import TrainReport
from lengthwise.training.run import train_encoder
from lengthwise.training.teacher import open_teacher

KINDS: dict[str, dict[str, Any]] = {
    "teacher": {"kind": "teacher"},
    "mse": {"kind": "teacher", "loss": "mse"},
    "vectors": {"kind": "vectors"},
    "pairs": {"kind": "pairs", "negative_columns": ["negative"], "group": 16},
    "symmetric": {"kind": "pairs", "group": 16, "symmetric": True},
    "labels": {"kind": "labels"},
    "classes": {"kind": "labels", "loss": "contrastive", "temperature": 0.5},
}


def train(config: RunConfig, **options: bool) -> TrainReport:
    return train_encoder(config, show_progress=False, **options)


def log_lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "training/log.jsonl").read_text().splitlines())
    return [line for line in lines if kind in line]


def teacher_run(place: Path, *sources: dict[str, Any], **changes: Any) -> RunConfig:
    return student_config(place, sources or [KINDS["teacher"]], teacher=str(place / "teacher"), **changes)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_source_lowers_its_held_out_loss(place: Path, name: str) -> None:
    report = train(teacher_run(place, KINDS[name]))
    losses = [line["validation"] for line in log_lines(place, "validation")]
    assert len(losses) == 3
    source = f"0: {KINDS[name]['kind']}"
    first = log_lines(place, "losses")[0]["losses"][source]
    assert report.best_loss is not None
    assert report.best_loss < 0.9 * first
    assert report.rows[source][0] >= 200
    assert report.rows[source][1] == 20
    assert set(report.accuracies) == ({source} if name == "labels" else set())
    assert all(share > 0.8 for share in report.accuracies.values())


def test_student_learns_the_teacher_and_is_a_checkpoint(place: Path) -> None:
    report = train(teacher_run(place, max_steps=150))
    assert report.stopped == "steps"
    teacher, student = Encoder.load(place / "teacher"), Encoder.load(place / "student")
    assert student.config.trained
    texts = make_texts(50, seed=9)
    one, other = teacher.encode(texts), student.encode(texts)
    cosines = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    assert cosines.mean() > 0.9
    assert (place / "student/run.yaml").is_file()
    assert {"report.md", "report.json", "curves.png", "log.jsonl", "run.json"} <= set(contents(place / "training"))


@pytest.mark.parametrize(("names", "threads"), [(["teacher"], 1), (["pairs"], 1), (["pairs", "teacher", "labels"], 3)])
def test_repeated_run_is_equal_to_the_byte(place: Path, names: list[str], threads: int) -> None:
    sources = [KINDS[name] for name in names]
    train(teacher_run(place, *sources, max_steps=30, threads=threads))
    first = contents(place / "student")
    shutil.rmtree(place / "student")
    train(teacher_run(place, *sources, max_steps=30, threads=threads), fresh=True)
    assert contents(place / "student") == first
    config = teacher_run(place, *sources, max_steps=30, threads=threads, seed=1)
    train(config, fresh=True, overwrite=True)
    assert contents(place / "student")["model.safetensors"] != first["model.safetensors"]


def test_what_the_static_path_learned_is_kept(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = teacher_run(place, static={"epochs": 4, "batch_size": 32}, max_steps=10)
    init = config.model.init.model_copy(update={"static_residual": True})
    config = config.model_copy(update={"model": config.model.model_copy(update={"init": init})})
    expected = train(config).best_loss
    files = contents(place / "student")
    shutil.rmtree(place / "student")
    shutil.rmtree(place / "training")

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop.Trainer, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    monkeypatch.undo()
    monkeypatch.setattr(run, "train_static_path", interrupted)  # is not asked again
    assert train(config).best_loss == expected
    assert contents(place / "student") == files


@pytest.mark.parametrize(
    "stop", [pytest.param(5, marks=pytest.mark.heavy), 23, pytest.param(41, marks=pytest.mark.heavy)]
)
def test_interrupted_run_ends_with_the_same_bytes(place: Path, stop: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [
        {"kind": "teacher", "share": 2.0},
        {"kind": "pairs", "weight": 0.3, "group": 16, "negative_columns": ["negative"]},
        {"kind": "labels", "weight": 0.1},
    ]
    config = teacher_run(place, *sources, average=0.9, weight_decay=0.01, max_steps=50)
    expected = train(config)
    files, log = contents(place / "student"), [line["losses"] for line in log_lines(place, "losses")]
    shutil.rmtree(place / "student")
    shutil.rmtree(place / "training")
    original = loop.Trainer._make_step

    def fail(self: loop.Trainer, gradients: StepGradients) -> None:
        if self.step == stop:
            raise KeyboardInterrupt
        original(self, gradients)

    monkeypatch.setattr(loop.Trainer, "_make_step", fail)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    assert not (place / "student").exists()
    monkeypatch.setattr(loop.Trainer, "_make_step", original)
    report = train(config)
    assert contents(place / "student") == files
    assert [line["losses"] for line in log_lines(place, "losses")] == log
    assert (report.steps, report.tokens, report.best_loss) == (expected.steps, expected.tokens, expected.best_loss)


def test_damaged_checkpoint_is_left_out(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = teacher_run(place)
    train(config)
    expected = contents(place / "student")
    shutil.rmtree(place / "student")
    newest = place / "training/checkpoints/step-00000060/state.safetensors"
    newest.write_bytes(newest.read_bytes()[:-5])
    (place / "training/report.json").unlink()
    with caplog.at_level(logging.WARNING):
        train(config)
    assert "step-00000060: left out, since it is damaged" in caplog.text
    assert contents(place / "student") == expected
    assert sorted(path.name for path in (place / "training/checkpoints").iterdir()) == [
        "step-00000040",
        "step-00000060",
    ]


def test_finished_run_is_not_made_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = train(teacher_run(place, max_steps=5))
    monkeypatch.setattr(loop.Trainer, "run", lambda *_, **__: pytest.fail("was trained again"))
    assert train(teacher_run(place, max_steps=5)).steps == first.steps


def test_another_run_is_refused_with_what_differs(place: Path) -> None:
    train(teacher_run(place, max_steps=5))
    with pytest.raises(StoreError, match=r"belongs to another run \(train\.learning_rate was 0\.02, is 0\.01\); start"):
        train(teacher_run(place, max_steps=5, learning_rate=0.01))
    train(teacher_run(place, max_steps=5, learning_rate=0.01), fresh=True, overwrite=True)


def test_existing_model_is_kept(place: Path) -> None:
    save_teacher(place / "student", load_checkpoint(place / "teacher")[1], seed=1)
    before = contents(place / "student")
    with pytest.raises(CheckpointError, match="already exists, and may be trained; give --overwrite"):
        train(teacher_run(place, max_steps=5))
    assert contents(place / "student") == before
    train(teacher_run(place, max_steps=5), overwrite=True)
    assert contents(place / "student") != before


@pytest.mark.parametrize("is_finished", [True, False])
def test_existing_model_at_another_path_is_kept(place: Path, is_finished: bool) -> None:
    """A run does not depend on model.path, so one that is changed afterwards may name a model of somebody else."""
    config = teacher_run(place, max_steps=5)
    train(config)
    if not is_finished:
        (place / "training/report.json").unlink()
    save_teacher(place / "other", load_checkpoint(place / "teacher")[1], seed=1)
    before = contents(place / "other")
    moved = config.model_copy(update={"model": config.model.model_copy(update={"path": str(place / "other")})})
    with pytest.raises(CheckpointError, match="already exists, and may be trained; give --overwrite"):
        train(moved)
    assert contents(place / "other") == before
    assert train(moved, overwrite=True).model == str(place / "other")
    assert contents(place / "other")["model.safetensors"] == contents(place / "student")["model.safetensors"]


def test_training_stops_early_with_the_best_weights(place: Path) -> None:
    validation = {"rows": 20, "every": 2, "patience": 3}
    report = train(
        teacher_run(
            place, learning_rate=0.3, max_steps=500, embedding_learning_rate=0.3, decay="none", validation=validation
        )
    )
    assert report.stopped == "patience"
    assert report.steps == report.best_step + 6
    losses = {line["step"]: line["validation"]["0: teacher"] for line in log_lines(place, "validation")}
    assert min(losses.values()) == losses[report.best_step] == report.best_loss


def test_time_limit_ends_training(place: Path) -> None:
    report = train(teacher_run(place, max_steps=None, epochs=10_000, max_minutes=0.3 / 60))
    assert report.stopped == "time"
    assert report.steps >= 1


def test_epochs_are_passes_over_the_first_source(place: Path) -> None:
    report = train(teacher_run(place, max_steps=None, epochs=2, validation={"rows": 0}))
    rows, held_out, _ = report.rows["0: teacher"]
    assert held_out == 0
    tokens = sum(len(text.split()) for text in make_texts(rows))
    assert abs(report.tokens - 2 * tokens) <= 64
    assert report.best_loss is None


def test_steps_are_divided_by_shares(place: Path) -> None:
    sources = [{"kind": "teacher", "share": 3.0}, {"kind": "pairs", "group": 8}]
    train(teacher_run(place, *sources, max_steps=8, log_every=1))
    names = [name for line in log_lines(place, "losses") for name in line["losses"]]
    assert names.count("0: teacher") == 8
    assert names.count("1: pairs") == 2


def test_teacher_is_asked_once_per_text(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lengthwise.training.teacher import FolderTeacher

    asked: list[str] = []
    original = FolderTeacher.encode

    def encode(self: FolderTeacher, texts: Any) -> Any:
        asked.extend(texts)
        return original(self, texts)

    monkeypatch.setattr(FolderTeacher, "encode", encode)
    config = teacher_run(place, {"kind": "teacher"}, {"kind": "teacher"}, max_steps=5)
    train(config)
    assert len(asked) == 1 + len(make_texts(240))  # and one to learn the width
    train(teacher_run(place, {"kind": "teacher"}, {"kind": "teacher"}, max_steps=5, seed=3), fresh=True)
    assert len(asked) == 1 + len(make_texts(240))


def test_run_goes_on_from_a_checkpoint(place: Path) -> None:
    first = train(teacher_run(place))
    shutil.move(place / "student", place / "base")
    shutil.rmtree(place / "training")
    config = teacher_run(place, init={"checkpoint": str(place / "base")}, max_steps=20, warmup=0)
    second = train(config)
    assert first.best_loss is not None
    assert second.best_loss is not None
    assert second.best_loss < first.best_loss


def test_tokenizer_of_the_teacher_is_taken_without_special_tokens(place: Path) -> None:
    config = teacher_run(place, max_steps=5)
    train(config.model_copy(update={"tokenizer": config.tokenizer.model_copy(update={"path": None})}))
    encoder, tokenizer = load_checkpoint(place / "student")
    assert not encoder.config.tokenization.add_special_tokens
    assert tokenizer.fingerprint == load_checkpoint(place / "teacher")[1].fingerprint


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"sources": []}, ConfigError, "train.sources is empty; name what to learn from"),
        ({"teacher": "nowhere"}, CheckpointError, "nowhere: there is no such folder; set train.teacher"),
        (
            {"sources": [{"kind": "pairs", "columns": ["anchor", "answer"]}]},
            DatasetError,
            "there is no column 'answer'; the columns are 'text', 'anchor'",
        ),
        (
            {"sources": [{"kind": "labels", "label_column": "lable"}]},
            DatasetError,
            "; set label_column of this source of train.sources to other columns",
        ),
        ({"sources": [{"kind": "vectors", "vector_column": "label"}]}, DatasetError, "not lists of numbers"),
        ({"init": {"checkpoint": "none"}}, CheckpointError, "none: there is no such checkpoint"),
        (
            {"sources": [KINDS["mse"]], "learning_rate": 1e30, "clip_norm": None},
            RunError,
            "training diverged; lower train.learning_rate (1e+30)",
        ),
    ],
)
def test_mistakes_are_named_with_a_remedy(
    place: Path, changes: dict[str, Any], error: type[LengthwiseError], message: str
) -> None:
    sources = changes.pop("sources", [{"kind": "teacher"}])
    config = student_config(place, sources, **{"teacher": str(place / "teacher"), **changes})
    with pytest.raises(error) as caught:
        train(config)
    assert message in str(caught.value)
    assert not (place / "student").exists()


def test_other_width_is_refused_before_the_teacher_is_run(
    place: Path, tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_teacher(place / "wide", tokenizer, projection_dim=5)
    config = student_config(place, [KINDS["teacher"]], teacher=str(place / "wide"))
    monkeypatch.setattr("lengthwise.training.cache.TeacherCache.fill", lambda *_: pytest.fail("was filled"))
    with pytest.raises(ConfigError, match=r"gives vectors of 5 values, and the new encoder 8; set model\.init\.proj"):
        train(config)


def test_other_width_of_a_column_is_refused_before_the_teacher_is_run(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = make_texts(20)
    write_rows(place / "rows.parquet", text=texts, embedding=[[1.0] * 5] * len(texts))
    config = teacher_run(place, KINDS["teacher"], KINDS["vectors"])
    monkeypatch.setattr("lengthwise.training.cache.TeacherCache.fill", lambda *_: pytest.fail("was filled"))
    with pytest.raises(
        ConfigError, match=r"train\.sources\.1: vectors gives vectors of 5 values, and the new encoder 8"
    ):
        train(config)


def test_rows_that_cannot_be_used_are_counted(place: Path) -> None:
    texts: list[str | None] = [*make_texts(100), None, "", "  "]
    write_rows(place / "rows.parquet", text=texts)
    assert train(teacher_run(place, max_steps=3)).rows["0: teacher"] == (90, 10, 3)


def test_words_that_the_teacher_splits_begin_with_its_vectors_of_them(place: Path) -> None:
    letters = " ".join("abcdefghijklmnopqrstuvwxyz")
    pieces = train_tokenizer([letters, letters.replace(" ", "")], TokenizerTraining(model="wordpiece", min_frequency=1))
    save_teacher(place / "teacher", pieces)
    init = {"words": 2, "frequency_weight": None}
    config = teacher_run(place, init=init, max_steps=1, learning_rate=1e-9, embedding_learning_rate=0.0)
    shape = config.model.init.model_copy(update={"static_residual": True})
    changes = {"tokenizer": TokenizerSettings(), "model": config.model.model_copy(update={"init": shape})}
    encoder, tokenizer = load_checkpoint(train(config.model_copy(update=changes)).model)
    assert tokenizer.vocab_size == pieces.vocab_size + 2
    added = [str(tokenizer.token(number)) for number in range(pieces.vocab_size, tokenizer.vocab_size)]
    assert all(len(token_ids(pieces, word)) > 1 for word in added)
    with torch.no_grad():
        first, second = encoder.static_projection(encoder.embedding.weight[-2:]).numpy()  # type: ignore[misc]
    expected = open_teacher(str(place / "teacher")).word_vectors(added)
    assert expected is not None
    np.testing.assert_allclose(first - second, expected[0] - expected[1], atol=1e-5)
