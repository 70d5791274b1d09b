"""Bad batches: what counts as which behaviour, and that no adapter lets one through to its engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lengthwise.export.artifact.folder import Artifact
from lengthwise.export.graphs.variants import DEVICE_VARIANTS, ORT
from lengthwise.export.runtimes import NotRunnable, Outputs, Runtime
from lengthwise.export.runtimes.devices import CoreMl
from lengthwise.export.runtimes.onnxruntime import OnnxRuntimeCpu
from lengthwise.export.runtimes.process import ProcessEnded, ProcessRuntime
from lengthwise.export.validation.bad_inputs import ask_bad_inputs, ask_runtimes, bad_inputs, runtime_files

Ids = NDArray[np.int64]
VOCAB_SIZE = 9
NAMES = [bad.name for bad in bad_inputs(VOCAB_SIZE)]
ENGINES = [pytest.param(kind, variant, id=name) for kind, variant, name in runtime_files() if variant != ORT]


def mean_of_ids(input_ids: Ids, attention_mask: Ids) -> Outputs:
    """float32[batch, 1]: of the ids where the mask is not zero, wherever they stand."""
    read = attention_mask != 0
    sums = np.where(read, input_ids, 0).sum(axis=1, keepdims=True)
    vectors = (sums / np.maximum(1, read.sum(axis=1, keepdims=True))).astype(np.float32)
    return vectors, np.zeros((*input_ids.shape, 1), np.float32)


def engine_of(answer: Callable[[Ids, Ids], Outputs], missing: str = "") -> tuple[type[ProcessRuntime], list[str]]:
    """A runtime that calls a function, and what is done with its instances."""
    events: list[str] = []

    class Scripted(ProcessRuntime):
        name = "scripted"

        def load(self, path: Path) -> None:
            events.append("load")
            if missing:
                raise NotRunnable(missing)

        def run_unchecked(self, input_ids: Ids, attention_mask: Ids) -> Outputs:
            return answer(input_ids, attention_mask)

        def close(self) -> None:
            events.append("close")

        def _command(self, path: Path) -> tuple[list[str], None]:
            raise NotImplementedError

    return Scripted, events


def is_bad(input_ids: Ids) -> bool:
    return bool((input_ids == -1).any())


def test_engine_that_reads_the_mask_is_right_where_there_is_a_right_answer() -> None:
    kind, events = engine_of(mean_of_ids)
    asked = ask_bad_inputs(kind, Path("model.onnx"), VOCAB_SIZE)
    assert list(asked) == NAMES
    assert {name for name, each in asked.items() if each.behaviour == "wrong"} == {
        name for name in NAMES if name.startswith("id = ")
    }
    assert {asked[name].behaviour for name in NAMES if not name.startswith("id = ")} == {"right"}
    assert events == ["load", "close"]


def test_engine_that_takes_lengths_for_masks_is_wrong_where_the_mask_has_gaps() -> None:
    def first_ones(input_ids: Ids, attention_mask: Ids) -> Outputs:
        lengths = attention_mask.sum(axis=1, keepdims=True)
        return mean_of_ids(input_ids, (np.arange(input_ids.shape[1]) < lengths).astype(np.int64))

    asked = ask_bad_inputs(engine_of(first_ones)[0], Path("model.onnx"), VOCAB_SIZE)
    assert asked["mask 1 0 1"].behaviour == asked["mask 0 1 1"].behaviour == "wrong"
    assert asked["mask 1 0 1"].detail.startswith("off by ")


def test_vectors_of_another_shape_are_wrong() -> None:
    def three_rows(input_ids: Ids, attention_mask: Ids) -> Outputs:
        vectors, states = mean_of_ids(input_ids, attention_mask)
        return (np.zeros((3, 1), np.float32), states) if 0 in input_ids.shape else (vectors, states)

    asked = ask_bad_inputs(engine_of(three_rows)[0], Path("model.onnx"), VOCAB_SIZE)
    assert asked["no rows"] == ("wrong", "the shape is (3, 1), not (0, 1)")
    assert asked["no columns"].behaviour == "wrong"


def test_error_of_an_engine_that_goes_on() -> None:
    def refuses(input_ids: Ids, attention_mask: Ids) -> Outputs:
        if is_bad(input_ids):
            raise RuntimeError("out of range")
        return mean_of_ids(input_ids, attention_mask)

    kind, events = engine_of(refuses)
    assert ask_bad_inputs(kind, Path("model.onnx"), VOCAB_SIZE)["id = -1"] == ("error", "out of range")
    assert events == ["load", "close"]


@pytest.mark.parametrize(
    ("error", "after", "detail"),
    [(ProcessEnded("it ended"), None, "it ended"), (RuntimeError("bad"), RuntimeError("lost"), "it answers no more")],
)
def test_engine_that_is_lost_has_crashed_and_is_started_again(
    error: RuntimeError, after: RuntimeError | None, detail: str
) -> None:
    lost = False

    def crashes(input_ids: Ids, attention_mask: Ids) -> Outputs:
        nonlocal lost
        if lost and after is not None:
            lost = False
            raise after
        if is_bad(input_ids):
            lost = True
            raise error
        return mean_of_ids(input_ids, attention_mask)

    kind, events = engine_of(crashes)
    asked = ask_bad_inputs(kind, Path("model.onnx"), VOCAB_SIZE)
    assert asked["id = -1"].behaviour == "crash"
    assert asked["id = -1"].detail.startswith(detail)
    assert asked["id = -2^40"].behaviour == "wrong"
    assert events == ["load", "close"] * 2


def test_engine_that_a_bad_batch_spoils_is_wrong() -> None:
    spoiled = 0.0

    def remembers(input_ids: Ids, attention_mask: Ids) -> Outputs:
        nonlocal spoiled
        vectors, states = mean_of_ids(input_ids, attention_mask)
        if is_bad(input_ids):
            spoiled += 1
            raise RuntimeError("no such id")
        return vectors + np.float32(spoiled), states

    asked = ask_bad_inputs(engine_of(remembers)[0], Path("model.onnx"), VOCAB_SIZE)
    assert asked["id = -1"] == ("wrong", "the next batch has other vectors than before")


def test_missing_engine_is_not_run() -> None:
    asked = ask_bad_inputs(engine_of(mean_of_ids, "it is not installed")[0], Path("model.onnx"), VOCAB_SIZE)
    assert set(asked.values()) == {("not run", "it is not installed")}


def test_runtime_whose_file_is_not_in_the_artifact_is_not_run(
    artifact_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lengthwise.export.validation.bad_inputs.RUNTIMES", (CoreMl,))
    found = ask_runtimes(Artifact.open(artifact_folder))
    assert list(found) == ["core ml"]
    assert list(found["core ml"]) == NAMES
    assert set(found["core ml"].values()) == {
        ("not run", "the artifact has no coreml/model.mlpackage/Manifest.json; name coreml in export.variants")
    }


@pytest.mark.heavy
def test_onnxruntime_crashes_on_no_rows_in_a_child_process(artifact_folder: Path) -> None:
    """So its adapter must not be asked that; this process goes on."""
    artifact = Artifact.open(artifact_folder)
    vocab_size = artifact.load_config().vocab_size
    asked = ask_bad_inputs(OnnxRuntimeCpu, artifact_folder / OnnxRuntimeCpu.files["native"], vocab_size)
    assert asked["no rows"].behaviour == "crash"
    assert asked["id = vocabulary"].behaviour == asked["no columns"].behaviour == "error"
    assert asked["id = -1"].behaviour == "wrong"


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "variant"), ENGINES)
def test_adapter_refuses_every_bad_batch_before_its_engine(
    kind: type[Runtime], variant: str, artifact_folder: Path
) -> None:
    path = artifact_folder / kind.files[variant]
    if variant in DEVICE_VARIANTS and not path.exists():
        pytest.skip(f"{kind.name} was not run: its file is made only when asked for")
    runtime = kind()
    try:
        runtime.load(path)
    except NotRunnable as reason:
        pytest.skip(f"{kind.name} was not run: {reason}")
    try:
        for bad in bad_inputs(Artifact.open(artifact_folder).load_config().vocab_size):
            with pytest.raises(ValueError, match=r"a batch has rows|is out of range; the voc|not ones, then zeros"):
                runtime.run(*bad.batch)
    finally:
        runtime.close()
