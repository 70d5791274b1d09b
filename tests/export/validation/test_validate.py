"""Validation passes a correct export and fails each sabotaged one."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from helpers.engines import FunctionRuntime
from helpers.sabotages import (
    PORTABLE_SABOTAGES,
    SABOTAGES,
    Sabotage,
    edit_weight,
    gates_swapped,
    lengths_ignored,
    lengths_off_by_one,
    one_weight_is_stale,
    unknown_token_moved,
)
from helpers.texts import TEXTS
from lengthwise.config import EncoderConfig
from lengthwise.encoder.model import PackedEncoder, seeded_encoder
from lengthwise.export.artifact.build import build_artifact
from lengthwise.export.artifact.folder import Artifact
from lengthwise.export.artifact.oracle import Oracle, compute_oracle
from lengthwise.export.graphs.portable import to_portable
from lengthwise.export.graphs.trace import save_onnx, trace_to_onnx
from lengthwise.export.graphs.variants import FP16, INT8, INT8_DYNAMIC, NATIVE, PORTABLE, VARIANTS
from lengthwise.export.runtimes import NotRunnable, Outputs, Runtime
from lengthwise.export.runtimes.control import LengthsIgnored
from lengthwise.export.runtimes.devices import ExecuTorch, LiteRt
from lengthwise.export.runtimes.exported_program import ExportedProgram
from lengthwise.export.runtimes.onnxruntime import OnnxRuntimeCpu
from lengthwise.export.runtimes.pytorch import PyTorchEager
from lengthwise.export.runtimes.registry import RUNTIMES
from lengthwise.export.runtimes.torchscript import TorchScript
from lengthwise.export.validation.cases import Case, grid_cases
from lengthwise.export.validation.compare import Comparison
from lengthwise.export.validation.report import summary
from lengthwise.export.validation.validate import judge, validate_artifact
from lengthwise.export.validation.verdict import Validation, Verdict
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.tokens.tokenizer import TextTokenizer

DEFAULT = [runtime for runtime in RUNTIMES if not runtime.optional]
ONNX_FILE = VARIANTS[NATIVE].file


def test_intact_artifact_passes_on_every_runtime(artifact_folder: Path, tokenizer: TextTokenizer) -> None:
    texts = tokenize_texts(TEXTS, tokenizer)
    validation = validate_artifact(Artifact.open(artifact_folder), DEFAULT, texts)
    pairs = [(verdict.runtime, verdict.variant) for verdict in validation.verdicts]
    assert pairs == [(runtime.name, variant) for runtime in DEFAULT for variant in runtime.files if variant in VARIANTS]
    assert validation.passed
    assert validation.control.status == "failed"
    ran = [verdict for verdict in validation.verdicts if verdict.status != "not run"]
    assert len(ran) >= 11
    for verdict in ran:
        found, variant = verdict.comparison, VARIANTS[verdict.variant]
        assert (verdict.status, verdict.known) == (("passed", False) if variant.independent else ("failed", True))
        assert found.difference is not None
        assert found.batch_difference is not None
        assert found.p99_difference is not None
        assert found.cosine is not None
        assert 0 <= found.p99_difference <= max(found.difference, found.batch_difference)
        if variant.exact:
            assert max(found.difference, found.batch_difference) <= 1e-6
            assert found.cosine > 1 - 1e-6
        elif variant.independent:
            assert 1e-6 < found.difference < variant.difference
            assert found.batch_difference <= 1e-6
        else:
            assert found.batch_difference > 1e-4
        names = [result.case for result in found.cases]
        assert {
            "golden",
            "texts 0 to 6",
            f"ids 0 to {tokenizer.vocab_size - 1}",
            "17 x unsorted",
            "17 x unsorted: another order",
        } <= set(names)
        assert any(name.endswith("alone") for name in names)
        assert any(name.endswith("more padding") for name in names)
    assert set(validation.recommended.values()) == {NATIVE}


@pytest.fixture(scope="module")
def checks(
    encoder_config: Callable[..., EncoderConfig],
) -> tuple[PackedEncoder, list[tuple[Case, Oracle]], onnx.ModelProto]:
    """A two-layer bidirectional encoder of as many units as its embedding is wide, with a static residual; what is
    right; its native graph.
    """
    shape = {"num_layers": 2, "bidirectional": True, "pooling": "mean", "embedding_dim": 12}
    config = encoder_config(**shape, static_residual=True)
    encoder = seeded_encoder(config, 0)
    cases = [
        (case, compute_oracle(encoder, case.input_ids, case.lengths)) for case in grid_cases(encoder.config.vocab_size)
    ]
    return encoder, cases, trace_to_onnx(encoder, {})


def judge_onnx(
    model: onnx.ModelProto, folder: Path, encoder: PackedEncoder, cases: list[tuple[Case, Oracle]]
) -> Verdict:
    (folder / "onnx").mkdir(exist_ok=True)
    (folder / ONNX_FILE).write_bytes(model.SerializeToString())
    return judge(OnnxRuntimeCpu(), VARIANTS[NATIVE], folder, cases)


@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda sabotage: sabotage.__name__)
def test_sabotaged_native_graph_fails(
    sabotage: Sabotage, tmp_path: Path, checks: tuple[PackedEncoder, list[tuple[Case, Oracle]], onnx.ModelProto]
) -> None:
    encoder, cases, native = checks
    model = copy.deepcopy(native)
    sabotage(model)
    verdict = judge_onnx(model, tmp_path, encoder, cases)
    assert verdict.status == "failed"
    assert verdict.reason
    assert not verdict.known


@pytest.mark.parametrize("sabotage", PORTABLE_SABOTAGES, ids=lambda sabotage: sabotage.__name__)
def test_sabotaged_portable_graph_fails(
    sabotage: Sabotage, tmp_path: Path, checks: tuple[PackedEncoder, list[tuple[Case, Oracle]], onnx.ModelProto]
) -> None:
    encoder, cases, native = checks
    model = to_portable(native)
    sabotage(model)
    verdict = judge_onnx(model, tmp_path, encoder, cases)
    assert verdict.status == "failed"
    assert not verdict.known


def test_unmodified_graphs_pass(
    tmp_path: Path, checks: tuple[PackedEncoder, list[tuple[Case, Oracle]], onnx.ModelProto]
) -> None:
    encoder, cases, native = checks
    for model in (native, to_portable(native)):
        assert judge_onnx(model, tmp_path, encoder, cases).status == "passed"


@pytest.mark.parametrize("pooling", ["last", "max", "sum", "mean_last"])
def test_ignored_lengths_fail_with_every_pooling(
    pooling: str, tmp_path: Path, encoder_config: Callable[..., EncoderConfig]
) -> None:
    encoder = seeded_encoder(encoder_config(bidirectional=True, pooling=pooling), 0)
    cases = [
        (case, compute_oracle(encoder, case.input_ids, case.lengths)) for case in grid_cases(encoder.config.vocab_size)
    ]
    model = trace_to_onnx(encoder, {})
    lengths_ignored(model)
    assert judge_onnx(model, tmp_path, encoder, cases).status == "failed"


def test_control_passes_only_if_padding_cannot_reach_the_vectors(
    tmp_path: Path, tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig]
) -> None:
    for pooling, caught in (("mean", False), ("last", True), ("mean_last", True)):
        config = encoder_config(pooling=pooling, static_residual=True)
        artifact = build_artifact(seeded_encoder(config, 0), tokenizer, tmp_path / pooling, variants=())
        validation = validate_artifact(artifact, ())
        assert (validation.control.status == "failed") == caught == validation.lengths_matter


def test_runtime_whose_graph_was_not_made_is_not_run(
    tmp_path: Path, tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig]
) -> None:
    artifact = build_artifact(seeded_encoder(encoder_config(), 0), tokenizer, tmp_path / "artifact", variants=())
    validation = validate_artifact(artifact, [OnnxRuntimeCpu, ExecuTorch, LiteRt])
    assert [(v.runtime, v.status) for v in validation.verdicts] == [
        (OnnxRuntimeCpu.name, "passed"),
        (ExecuTorch.name, "not run"),
        (LiteRt.name, "not run"),
    ]
    remedy = "the artifact has no litert/model.tflite; export it with litert in export.variants"
    assert validation.verdicts[2].reason == remedy
    assert validation.passed
    assert f"not run     litert: {remedy}" in summary(validation)
    assert "litert/model.tflite" not in validation.files


def test_golden_vectors_detect_weights_of_another_checkpoint(
    artifact_folder: Path, encoder_config: Callable[..., EncoderConfig]
) -> None:
    """Everything but the golden vectors comes from the new weights, so it agrees with itself."""
    from lengthwise.encoder.checkpoint import load_encoder, write_checkpoint
    from lengthwise.tokens.tokenizer import load_tokenizer

    artifact = Artifact.open(artifact_folder)
    other = seeded_encoder(load_encoder(artifact_folder).config, seed=9)
    write_checkpoint(artifact_folder, other, load_tokenizer(artifact_folder))
    save_onnx(trace_to_onnx(other, {}), artifact_folder / ONNX_FILE)
    verdicts = validate_artifact(artifact, (PyTorchEager, OnnxRuntimeCpu)).verdicts
    for verdict in [verdict for verdict in verdicts if verdict.variant == NATIVE]:
        assert verdict.status == "failed"
        assert verdict.reason.startswith("golden")


def test_one_stale_embedding_row_fails(
    tmp_path: Path, tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig]
) -> None:
    artifact = build_artifact(
        seeded_encoder(encoder_config(vocab_size=5_000), 0), tokenizer, tmp_path / "artifact", variants=()
    )
    read = {int(token) for case in grid_cases(5_000) for token in case.input_ids[case.attention_mask == 1]}
    unread = max(set(range(5_000)) - read - set(artifact.load_golden().input_ids.ravel().tolist()))
    path = artifact.folder / ONNX_FILE
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


@pytest.fixture
def eager(artifact_folder: Path) -> PyTorchEager:
    runtime = PyTorchEager()
    runtime.load(artifact_folder / "model.safetensors")
    return runtime


def judge_answer(eager: PyTorchEager, change: Callable[[Outputs, NDArray[np.int64]], Outputs], folder: Path) -> Verdict:
    from lengthwise.encoder.checkpoint import load_encoder

    encoder = load_encoder(folder)
    cases = [
        (case, compute_oracle(encoder, case.input_ids, case.lengths)) for case in grid_cases(encoder.config.vocab_size)
    ]
    runtime = FunctionRuntime(lambda ids, mask: change(eager.run(ids, mask), mask))
    return judge(runtime, VARIANTS[NATIVE], folder, cases)


def test_row_that_depends_on_its_batch_fails(eager: PyTorchEager, artifact_folder: Path) -> None:
    def leak(outputs: Outputs, mask: NDArray[np.int64]) -> Outputs:
        return outputs[0] + np.float32(1e-5) * (len(mask) > 5) * (outputs[0] != 0), outputs[1]

    verdict = judge_answer(eager, leak, artifact_folder)
    assert verdict.status == "failed"
    assert [result for result in verdict.comparison.cases if "alone" in result.case and result.difference > 5e-6]


def test_one_nan_fails(eager: PyTorchEager, artifact_folder: Path) -> None:
    def spoil(outputs: Outputs, mask: NDArray[np.int64]) -> Outputs:
        vectors = outputs[0].copy()
        vectors[-1, -1] = np.nan
        return vectors, outputs[1]

    verdict = judge_answer(eager, spoil, artifact_folder)
    assert (verdict.status, verdict.comparison.difference) == ("failed", float("inf"))
    assert verdict.comparison.cosine is not None
    assert np.isnan(verdict.comparison.cosine)


def test_states_in_the_padding_fail(eager: PyTorchEager, artifact_folder: Path) -> None:
    def dirty(outputs: Outputs, mask: NDArray[np.int64]) -> Outputs:
        return outputs[0], np.where(mask[:, :, None] == 0, np.float32(0.5), outputs[1])

    assert judge_answer(eager, dirty, artifact_folder).status == "failed"


def test_missing_row_fails(eager: PyTorchEager, artifact_folder: Path) -> None:
    verdict = judge_answer(eager, lambda outputs, mask: (outputs[0][:1], outputs[1]), artifact_folder)
    assert verdict.status == "failed"


def test_runtime_that_raises_fails_with_the_last_case(eager: PyTorchEager, artifact_folder: Path) -> None:
    def crash(outputs: Outputs, mask: NDArray[np.int64]) -> Outputs:
        if len(mask) == 17:
            raise RuntimeError("out of memory\nand more")
        return outputs

    verdict = judge_answer(eager, crash, artifact_folder)
    assert verdict.status == "failed"
    assert verdict.reason.startswith("RuntimeError after 5 x")
    assert "out of memory and more" in verdict.reason


def test_unavailable_runtime_is_not_run(eager: PyTorchEager, artifact_folder: Path) -> None:
    def absent(outputs: Outputs, mask: NDArray[np.int64]) -> Outputs:
        raise NotRunnable("no such chip; buy one")

    verdict = judge_answer(eager, absent, artifact_folder)
    assert (verdict.status, verdict.reason) == ("not run", "no such chip; buy one")
    assert verdict.comparison == Comparison()
    assert not Validation((verdict,), verdict, False).failed


def test_missing_file_fails_at_loading(tmp_path: Path) -> None:
    verdict = judge(TorchScript(), VARIANTS[NATIVE], tmp_path, [])
    assert verdict.status == "failed"
    assert "after loading" in verdict.reason


class KnownToIgnoreLengths(LengthsIgnored):
    """A runtime that ignores lengths, a known limitation, as of OpenVINO."""

    name, reads_lengths = "ignores lengths", False


class UnknownToIgnoreLengths(LengthsIgnored):
    """A runtime that ignores lengths, which is no known limitation of it."""

    name = "ignores lengths, unknown"


class IgnoresLengthsAndWrong(KnownToIgnoreLengths):
    """A runtime that ignores lengths and has another error too."""

    name = "ignores lengths and is wrong"

    def run(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Outputs:
        vectors, states = super().run(input_ids, attention_mask)
        return vectors + np.float32(1e-3), states


def test_runtime_known_to_ignore_lengths_gets_the_portable_graph(artifact_folder: Path) -> None:
    validation = validate_artifact(Artifact.open(artifact_folder), [KnownToIgnoreLengths])
    verdicts = {verdict.variant: verdict for verdict in validation.verdicts}
    for variant in set(verdicts) - {PORTABLE, INT8_DYNAMIC}:
        assert (verdicts[variant].status, verdicts[variant].known) == ("failed", True), variant
        assert verdicts[variant].reason.startswith("ignores the lengths")
    assert verdicts[PORTABLE].status == "passed"
    assert validation.recommended == {"ignores lengths": PORTABLE}
    assert validation.passed


@pytest.mark.parametrize("kind", [UnknownToIgnoreLengths, IgnoresLengthsAndWrong])
def test_unknown_failure_fails_the_artifact(kind: type[Runtime], artifact_folder: Path) -> None:
    validation = validate_artifact(Artifact.open(artifact_folder), [kind])
    assert not validation.passed
    native = next(verdict for verdict in validation.failed if verdict.variant == NATIVE)
    assert native.reason.startswith("ignores the lengths") == (kind is UnknownToIgnoreLengths)


@pytest.mark.parametrize("sabotage", [gates_swapped, one_weight_is_stale, lengths_off_by_one, unknown_token_moved])
def test_broken_graph_fails_on_a_runtime_that_ignores_lengths(
    sabotage: Sabotage, tmp_path: Path, checks: tuple[PackedEncoder, list[tuple[Case, Oracle]], onnx.ModelProto]
) -> None:
    _, cases, native = checks
    for model, known in ((native, True), (copy.deepcopy(native), False)):
        if not known:
            sabotage(model)
        (tmp_path / "onnx").mkdir(exist_ok=True)
        (tmp_path / ONNX_FILE).write_bytes(model.SerializeToString())
        verdict = judge(KnownToIgnoreLengths(), VARIANTS[NATIVE], tmp_path, cases)
        assert (verdict.status, verdict.known) == ("failed", known)


def test_validation_without_a_run_does_not_pass(artifact_folder: Path) -> None:
    class Absent(PyTorchEager):
        name = "absent"

        def load(self, path: Path) -> None:
            raise NotRunnable("no such chip")

    artifact = Artifact.open(artifact_folder)
    assert not validate_artifact(artifact, [Absent]).passed
    assert not validate_artifact(artifact, []).passed


def test_runtime_without_a_passing_graph_fails_the_validation(
    tmp_path: Path, tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig]
) -> None:
    encoder = seeded_encoder(encoder_config(bidirectional=True), 0)
    artifact = build_artifact(encoder, tokenizer, tmp_path / "native alone", variants=())
    validation = validate_artifact(artifact, [KnownToIgnoreLengths, OnnxRuntimeCpu])
    assert not validation.failed
    assert validation.without_graph == ("ignores lengths",)
    assert not validation.passed


def test_control_that_cannot_run_fails_the_validation(artifact_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: LengthsIgnored, path: Path) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(LengthsIgnored, "load", fail)
    validation = validate_artifact(Artifact.open(artifact_folder), [OnnxRuntimeCpu])
    assert not validation.failed
    assert not validation.detects_ignored_lengths
    assert not validation.passed


def test_batch_dependent_graph_never_passes(artifact_folder: Path) -> None:
    """Nor where the batches do not show it, as a single row does not."""
    from lengthwise.encoder.checkpoint import load_encoder

    encoder, dynamic = load_encoder(artifact_folder), VARIANTS[INT8_DYNAMIC]
    one_row = [Case("one row", "one", np.array([[2, 3]]), np.array([2]), encoder.config.vocab_size)]
    rows = [(case, compute_oracle(encoder, case.input_ids, case.lengths)) for case in one_row]
    shown = [
        (case, compute_oracle(encoder, case.input_ids, case.lengths)) for case in grid_cases(encoder.config.vocab_size)
    ]
    for cases in (rows, shown):
        verdict = judge(OnnxRuntimeCpu(), dynamic, artifact_folder, cases)
        assert (verdict.status, verdict.known) == ("failed", True)
        assert verdict.reason.startswith("a vector depends on its batch")


def test_file_with_a_contrib_operator_is_refused_not_failed(artifact_folder: Path) -> None:
    class Standard(Runtime):
        name, contrib = "standard operators alone", False

        def load(self, path: Path) -> None:
            raise NotImplementedError(f"what is in {path.name}?")

        run_unchecked = describe = None  # type: ignore[assignment]  # never reached

    artifact = Artifact.open(artifact_folder)
    verdicts = validate_artifact(artifact, [Standard]).verdicts
    assert {verdict.variant: verdict.status for verdict in verdicts} == {
        variant.name: "refused" if variant.contrib else "failed" for variant in VARIANTS.values()
    }
    (artifact_folder / VARIANTS[INT8].file).write_bytes(b"not a model")
    damaged = next(v for v in validate_artifact(artifact, [Standard]).verdicts if v.variant == INT8)
    assert (damaged.status, damaged.known) == ("failed", False)


def test_known_batch_dependence_of_a_runtime(artifact_folder: Path) -> None:
    class InTiles(OnnxRuntimeCpu):
        name, dependent = "in tiles", frozenset({FP16})

        def run(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Outputs:
            vectors, states = super().run(input_ids, attention_mask)
            return vectors + np.float32(1e-4) * (len(input_ids) == 1), states

    verdicts = {v.variant: v for v in validate_artifact(Artifact.open(artifact_folder), [InTiles]).verdicts}
    assert (verdicts[FP16].status, verdicts[FP16].known) == ("failed", True)
    assert (verdicts[NATIVE].status, verdicts[NATIVE].known) == ("failed", False)


def test_portable_program_loads_without_this_package(artifact_folder: Path) -> None:
    """In a process that has PyTorch alone."""
    code = """if True:
        import sys, torch
        model = torch.export.load(sys.argv[1]).module()
        ids = torch.tensor([[2, 3, 4, 5], [2, 3, 0, 0]])
        print(model(ids, (ids > 0).long())[0].tolist())
        assert not any(name.startswith("lengthwise") for name in sys.modules)
    """
    path = artifact_folder / ExportedProgram.files[PORTABLE]
    done = subprocess.run([sys.executable, "-I", "-c", code, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ids = np.array([[2, 3, 4, 5], [2, 3, 0, 0]])
    runtime = OnnxRuntimeCpu()
    runtime.load(artifact_folder / ONNX_FILE)
    right, _ = runtime.run(ids, (ids > 0).astype(np.int64))
    np.testing.assert_allclose(json.loads(done.stdout), right, atol=1e-6)
