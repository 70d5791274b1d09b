"""Validation passes what is right and, above all, fails what is not: each way in which an export goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from conftest import TEXTS
from export.artifact import Artifact
from export.build import build_artifact
from export.cases import Case, Oracle, grid_cases, one_row_at_a_time
from export.runtimes import NotRunnable, Outputs, Runtime
from export.runtimes.onnxruntime import OnnxRuntimeCpu
from export.runtimes.pytorch import PyTorchEager
from export.runtimes.registry import RUNTIMES
from export.runtimes.torchscript import TorchScript
from export.trace import save_onnx, trace_to_onnx
from export.validate import Validation, Verdict, judge, scaled_difference, validate_artifact
from pipeline.config import EncoderConfig
from pipeline.encoder import PackedEncoder, seeded_encoder
from pipeline.tokenizer import TextTokenizer
from pipeline.tokens import tokenize_texts


def test_a_right_artifact_passes_everywhere(artifact_folder: Path, tokenizer: TextTokenizer) -> None:
    texts = tokenize_texts(TEXTS, tokenizer)
    validation = validate_artifact(Artifact.open(artifact_folder), RUNTIMES, texts)
    assert [verdict.runtime for verdict in validation.verdicts] == [runtime.name for runtime in RUNTIMES]
    assert not validation.failed
    assert validation.control.status == "failed"
    by_name = {verdict.runtime: verdict for verdict in validation.verdicts}
    for name in ("pytorch (packed batches)", "onnxruntime cpu", "torchscript"):
        verdict = by_name[name]
        assert verdict.status == "passed"
        assert verdict.max_difference is not None
        assert verdict.p99_difference is not None
        assert verdict.min_cosine is not None
        assert 0 <= verdict.p99_difference <= verdict.max_difference <= 1e-6
        assert verdict.min_cosine > 1 - 1e-6
        names = [result.case for result in verdict.cases]
        assert {
            "golden",
            "texts 0 to 6",
            f"ids 0 to {tokenizer.vocab_size - 1}",
            "17 x unsorted",
            "17 x unsorted: another order",
        } <= set(names)
        assert any(name.endswith("alone") for name in names)
        assert any(name.endswith("more padding") for name in names)


Sabotage = Callable[[onnx.ModelProto], None]


def lstms(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "LSTM"]


def edit_weight(model: onnx.ModelProto, name: str, edit: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> None:
    initializer = next(item for item in model.graph.initializer if item.name == name)
    initializer.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(edit(numpy_helper.to_array(initializer))), name))


def lengths_ignored(model: onnx.ModelProto) -> None:
    for node in lstms(model):
        node.input[4] = ""


def lengths_ignored_in_the_last_layer(model: onnx.ModelProto) -> None:
    lstms(model)[-1].input[4] = ""


def gates_swapped(model: onnx.ModelProto) -> None:
    def swap(weight: NDArray[np.float32]) -> NDArray[np.float32]:
        i, o, f, c = np.split(weight, 4, axis=1)
        return np.concatenate([i, f, o, c], axis=1)

    edit_weight(model, lstms(model)[0].input[1], swap)


def directions_swapped(model: onnx.ModelProto) -> None:
    for position in (1, 2, 3):
        edit_weight(model, lstms(model)[0].input[position], lambda weight: weight[::-1])


def bias_dropped(model: onnx.ModelProto) -> None:
    lstms(model)[0].input[3] = ""


def one_weight_is_stale(model: onnx.ModelProto) -> None:
    def nudge(weight: NDArray[np.float32]) -> NDArray[np.float32]:
        weight = weight.copy()
        weight[0, 0, 0] += 1e-2
        return weight

    edit_weight(model, lstms(model)[-1].input[2], nudge)


def unknown_token_moved(model: onnx.ModelProto) -> None:
    gather = next(node for node in model.graph.node if node.op_type == "Gather")
    edit_weight(model, gather.input[0], lambda table: np.concatenate([table[1:], table[:1]]))


def lengths_off_by_one(model: onnx.ModelProto) -> None:
    """Each row of more than one token is read one token short."""
    position, clip = next((i, node) for i, node in enumerate(model.graph.node) if node.op_type == "Clip")
    model.graph.initializer.append(numpy_helper.from_array(np.array(1, np.int64), "one"))
    model.graph.node.insert(position, helper.make_node("Sub", [clip.input[0], "one"], ["shorter"]))
    clip.input[0] = "shorter"


def reverse_run_as_forward(model: onnx.ModelProto) -> None:
    """Both directions read from the first token: the reverse weights on a forward pass."""
    node = lstms(model)[0]
    halves: list[list[str]] = [[], []]
    for position in (1, 2, 3):
        weight = numpy_helper.to_array(
            next(item for item in model.graph.initializer if item.name == node.input[position])
        )
        for half in (0, 1):
            name = f"{node.input[position]}.{half}"
            model.graph.initializer.append(numpy_helper.from_array(weight[half : half + 1], name))
            halves[half].append(name)
    index = list(model.graph.node).index(node)
    x, lengths, outputs, hidden = node.input[0], node.input[4], list(node.output), node.attribute
    size = next(item.i for item in hidden if item.name == "hidden_size")
    model.graph.node.remove(node)
    new = [
        helper.make_node("LSTM", [x, *halves[half], lengths], [f"Y.{half}", f"H.{half}"], hidden_size=size)
        for half in (0, 1)
    ]
    new.append(helper.make_node("Concat", ["Y.0", "Y.1"], [outputs[0]], axis=1))
    for offset, made in enumerate(new):
        model.graph.node.insert(index + offset, made)


def pooled_over_padding(model: onnx.ModelProto) -> None:
    """The mean divides by the sequence axis, as a plain mean over the padded batch does."""
    division = next(node for node in model.graph.node if node.op_type == "Div")
    position = list(model.graph.node).index(division)
    model.graph.initializer.append(numpy_helper.from_array(np.array(1, np.int64), "axis"))
    model.graph.node.insert(position, helper.make_node("Shape", ["input_ids"], ["shape"]))
    model.graph.node.insert(position + 1, helper.make_node("Gather", ["shape", "axis"], ["width"]))
    model.graph.node.insert(position + 2, helper.make_node("Cast", ["width"], ["width_float"], to=1))
    division.input[1] = "width_float"


def batch_baked_in(model: onnx.ModelProto) -> None:
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 2


def length_baked_in(model: onnx.ModelProto) -> None:
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[1].dim_value = 7


def outputs_in_another_order(model: onnx.ModelProto) -> None:
    first, second = (onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in model.graph.output)
    del model.graph.output[:]
    model.graph.output.extend([second, first])


def half_precision_out(model: onnx.ModelProto) -> None:
    output = model.graph.output[0]
    node = next(node for node in model.graph.node if output.name in node.output)
    node.output[0] = "float32_vectors"
    model.graph.node.append(helper.make_node("Cast", ["float32_vectors"], [output.name], to=onnx.TensorProto.FLOAT16))
    output.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16


def outputs_swapped(model: onnx.ModelProto) -> None:
    first, second = model.graph.output
    for node in model.graph.node:
        for names in (node.input, node.output):
            swapped = {first.name: second.name, second.name: first.name}
            for index, name in enumerate(names):
                names[index] = swapped.get(name, name)
    shapes = [value.type.SerializeToString() for value in (first, second)]
    first.type.ParseFromString(shapes[1])
    second.type.ParseFromString(shapes[0])


SABOTAGES: list[Sabotage] = [
    lengths_ignored,
    lengths_ignored_in_the_last_layer,
    gates_swapped,
    directions_swapped,
    bias_dropped,
    one_weight_is_stale,
    unknown_token_moved,
    lengths_off_by_one,
    reverse_run_as_forward,
    pooled_over_padding,
    batch_baked_in,
    length_baked_in,
    outputs_swapped,
    outputs_in_another_order,
    half_precision_out,
]


@pytest.fixture(scope="module")
def checks(encoder_config: Callable[..., EncoderConfig]) -> tuple[PackedEncoder, list[tuple[Case, Oracle]]]:
    encoder = seeded_encoder(encoder_config(num_layers=2, bidirectional=True, pooling="mean"), 0)
    return encoder, [(case, one_row_at_a_time(encoder, case)) for case in grid_cases(encoder.config.vocab_size)]


def judge_onnx(
    model: onnx.ModelProto, folder: Path, encoder: PackedEncoder, cases: list[tuple[Case, Oracle]]
) -> Verdict:
    (folder / "onnx").mkdir(exist_ok=True)
    (folder / OnnxRuntimeCpu.file).write_bytes(model.SerializeToString())
    return judge(OnnxRuntimeCpu(), folder, cases, encoder.config.vocab_size)


@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda sabotage: sabotage.__name__)
def test_a_broken_export_is_caught(
    sabotage: Sabotage, tmp_path: Path, checks: tuple[PackedEncoder, list[tuple[Case, Oracle]]]
) -> None:
    encoder, cases = checks
    model = trace_to_onnx(encoder, {})
    assert judge_onnx(model, tmp_path, encoder, cases).status == "passed"
    sabotage(model)
    verdict = judge_onnx(model, tmp_path, encoder, cases)
    assert verdict.status == "failed"
    assert verdict.reason


@pytest.mark.parametrize("pooling", ["last", "max", "sum"])
def test_ignored_lengths_are_caught_under_every_pooling(
    pooling: str, tmp_path: Path, encoder_config: Callable[..., EncoderConfig]
) -> None:
    encoder = seeded_encoder(encoder_config(bidirectional=True, pooling=pooling), 0)
    cases = [(case, one_row_at_a_time(encoder, case)) for case in grid_cases(encoder.config.vocab_size)]
    model = trace_to_onnx(encoder, {})
    lengths_ignored(model)
    assert judge_onnx(model, tmp_path, encoder, cases).status == "failed"


def test_the_control_passes_only_where_padding_cannot_reach_the_vectors(
    tmp_path: Path, tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig]
) -> None:
    for pooling, caught in (("mean", False), ("last", True)):
        artifact = build_artifact(seeded_encoder(encoder_config(pooling=pooling), 0), tokenizer, tmp_path / pooling)
        validation = validate_artifact(artifact, ())
        assert (validation.control.status == "failed") == caught == validation.lengths_matter


def test_weights_of_another_checkpoint_are_caught_by_the_golden_vectors(
    artifact_folder: Path, encoder_config: Callable[..., EncoderConfig]
) -> None:
    """Everything but the golden vectors comes from the new weights, and so agrees with itself."""
    from pipeline.checkpoint import load_encoder, write_checkpoint
    from pipeline.tokenizer import load_tokenizer

    artifact = Artifact.open(artifact_folder)
    other = seeded_encoder(load_encoder(artifact_folder).config, seed=9)
    write_checkpoint(artifact_folder, other, load_tokenizer(artifact_folder))
    save_onnx(trace_to_onnx(other, {}), artifact_folder / OnnxRuntimeCpu.file)
    for verdict in validate_artifact(artifact, (PyTorchEager, OnnxRuntimeCpu)).verdicts:
        assert verdict.status == "failed"
        assert verdict.reason.startswith("golden")


def test_one_stale_row_of_a_large_embedding_table_is_caught(
    tmp_path: Path, tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig]
) -> None:
    artifact = build_artifact(seeded_encoder(encoder_config(vocab_size=5_000), 0), tokenizer, tmp_path / "artifact")
    read = {int(token) for case in grid_cases(5_000) for token in case.input_ids[case.attention_mask == 1]}
    unread = max(set(range(5_000)) - read - set(artifact.load_golden().input_ids.ravel().tolist()))
    path = artifact.folder / OnnxRuntimeCpu.file
    model = onnx.load(path)

    def zero_one_row(table: NDArray[np.float32]) -> NDArray[np.float32]:
        table = table.copy()
        table[unread] = 0
        return table

    edit_weight(model, "encoder.embedding.weight", zero_one_row)
    onnx.save(model, path)
    (verdict,) = validate_artifact(artifact, [OnnxRuntimeCpu]).verdicts
    assert verdict.status == "failed"
    assert verdict.reason.startswith("ids ")


class Scripted(Runtime):
    """A runtime made of a function."""

    name, file, tolerance = "scripted", "nothing", 1e-6

    def __init__(self, answer: Callable[[NDArray[np.int64], NDArray[np.int64]], Outputs]) -> None:
        self._answer = answer

    def load(self, artifact: Path) -> None:
        return

    def run(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Outputs:
        return self._answer(input_ids, attention_mask)

    def describe(self) -> dict[str, str]:
        return {}


@pytest.fixture
def eager(artifact_folder: Path) -> PyTorchEager:
    runtime = PyTorchEager()
    runtime.load(artifact_folder)
    return runtime


def judge_answer(eager: PyTorchEager, change: Callable[[Outputs, NDArray[np.int64]], Outputs], folder: Path) -> Verdict:
    from pipeline.checkpoint import load_encoder

    encoder = load_encoder(folder)
    cases = [(case, one_row_at_a_time(encoder, case)) for case in grid_cases(encoder.config.vocab_size)]
    runtime = Scripted(lambda ids, mask: change(eager.run(ids, mask), mask))
    return judge(runtime, folder, cases, encoder.config.vocab_size)


def test_a_row_that_depends_on_its_batch_is_caught(eager: PyTorchEager, artifact_folder: Path) -> None:
    def leak(outputs: Outputs, mask: NDArray[np.int64]) -> Outputs:
        return outputs[0] + np.float32(1e-5) * (len(mask) > 5) * (outputs[0] != 0), outputs[1]

    verdict = judge_answer(eager, leak, artifact_folder)
    assert verdict.status == "failed"
    assert [result for result in verdict.cases if "alone" in result.case and result.difference > 5e-6]


def test_one_value_that_is_not_a_number_is_caught(eager: PyTorchEager, artifact_folder: Path) -> None:
    def spoil(outputs: Outputs, mask: NDArray[np.int64]) -> Outputs:
        vectors = outputs[0].copy()
        vectors[-1, -1] = np.nan
        return vectors, outputs[1]

    verdict = judge_answer(eager, spoil, artifact_folder)
    assert (verdict.status, verdict.max_difference) == ("failed", float("inf"))
    assert verdict.min_cosine is not None
    assert np.isnan(verdict.min_cosine)


def test_states_in_the_padding_are_caught(eager: PyTorchEager, artifact_folder: Path) -> None:
    def dirty(outputs: Outputs, mask: NDArray[np.int64]) -> Outputs:
        return outputs[0], np.where(mask[:, :, None] == 0, np.float32(0.5), outputs[1])

    assert judge_answer(eager, dirty, artifact_folder).status == "failed"


def test_a_missing_row_is_caught(eager: PyTorchEager, artifact_folder: Path) -> None:
    verdict = judge_answer(eager, lambda outputs, mask: (outputs[0][:1], outputs[1]), artifact_folder)
    assert verdict.status == "failed"


def test_a_runtime_that_raises_has_failed_and_says_where(eager: PyTorchEager, artifact_folder: Path) -> None:
    def crash(outputs: Outputs, mask: NDArray[np.int64]) -> Outputs:
        if len(mask) == 17:
            raise RuntimeError("out of memory\nand more")
        return outputs

    verdict = judge_answer(eager, crash, artifact_folder)
    assert verdict.status == "failed"
    assert verdict.reason.startswith("RuntimeError after 5 x")
    assert "out of memory and more" in verdict.reason


def test_a_runtime_that_is_not_there_was_not_run(eager: PyTorchEager, artifact_folder: Path) -> None:
    def absent(outputs: Outputs, mask: NDArray[np.int64]) -> Outputs:
        raise NotRunnable("no such chip; buy one")

    verdict = judge_answer(eager, absent, artifact_folder)
    assert (verdict.status, verdict.reason) == ("not run", "no such chip; buy one")
    assert (verdict.max_difference, verdict.cases) == (None, ())
    assert not Validation((verdict,), verdict, False).failed


def test_a_missing_file_fails_at_loading(tmp_path: Path) -> None:
    verdict = judge(TorchScript(), tmp_path, [], 10)
    assert verdict.status == "failed"
    assert "after loading" in verdict.reason


def test_differences_are_absolute_up_to_one_and_relative_above() -> None:
    right = np.array([[0.5, 0.1], [100.0, 0.0]], np.float32)
    found = right + np.float32(0.25)
    np.testing.assert_allclose(scaled_difference(found, right), [[0.25, 0.25], [0.0025, 0.0025]])
    assert scaled_difference(found[:1], right).tolist() == [np.inf]
