"""The probes, on onnxruntime's CPU provider and, if there is a GPU, on CUDA."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lengthwise.export.validation import lstm_probe as lstm_probe
from lengthwise.export.validation.lstm_probe import (
    CPU,
    CUDA,
    DIRECTIONS,
    MIXED,
    OPSETS,
    PROBES,
    WITH_ZEROS,
    Direction,
    LstmProbe,
    ProbeResult,
    probe_batch,
    probe_model,
    probe_reference,
    run_probe,
    run_probe_isolated,
)


def name(value: object) -> str:
    return value.name.replace(", ", "-").replace(" ", "-") if isinstance(value, LstmProbe) else str(value)


def test_probes_cover_every_limit() -> None:
    assert len(set(PROBES)) == len(PROBES) == 36
    assert {probe.opset for probe in PROBES} == {17, 18, 22} == set(OPSETS)
    assert {probe.direction for probe in PROBES} == set(DIRECTIONS)
    assert {probe.lengths for probe in PROBES} == {MIXED, WITH_ZEROS}
    assert len(set(MIXED)) > 2
    assert 0 in WITH_ZEROS
    assert LstmProbe(lengths=WITH_ZEROS).name == "opset 18, float32, bidirectional, rows of no tokens"


@pytest.mark.parametrize("probe", PROBES, ids=name)
def test_cpu_provider_is_correct_on_every_probe(probe: LstmProbe) -> None:
    assert {item.version for item in probe_model(probe).opset_import} == {probe.opset}
    result = run_probe(probe)
    assert (result.status, result.reason, result.placement) == ("correct", "", CPU)
    assert result.difference is not None
    assert result.difference <= (2e-6 if probe.dtype == "float32" else 1e-3)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_reference_agrees_with_pytorch(direction: Direction) -> None:
    probe = LstmProbe(direction=direction)
    lstm = torch.nn.LSTM(64, 64, bidirectional=direction == "bidirectional").double()
    weights = {item: torch.from_numpy(values.astype(np.float64)) for item, values in lstm_probe._weights(probe).items()}
    order = torch.tensor([0, 2, 3, 1])  # i, f, g, o out of i, o, f, c
    with torch.no_grad():
        for number, suffix in enumerate(("", "_reverse")[: probe.directions]):
            parts = (weights["W"][number], weights["R"][number], *weights["B"][number].chunk(2))
            for part, values in zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), parts, strict=True):
                blocks = values.reshape(4, 64, -1)[order].reshape(values.shape)
                getattr(lstm, f"{part}_l0{suffix}").copy_(blocks)
        states, last = probe_reference(probe)
        for row, length in enumerate(probe.lengths):
            ids = torch.from_numpy(probe_batch(probe)["input_ids"][:length, row])
            alone = weights["table"][ids if direction != "reverse" else ids.flip(0)]
            found, (hidden, _) = lstm(alone)
            found = found if direction != "reverse" else found.flip(0)
            right = states[:length, :, row].reshape(length, -1)
            np.testing.assert_allclose(found.numpy(), right, atol=1e-12, rtol=0)
            np.testing.assert_allclose(hidden.numpy(), last[:, row], atol=1e-12, rtol=0)
            assert not states[length:, :, row].any()


@pytest.mark.parametrize("direction", ["reverse", "bidirectional"])
@pytest.mark.parametrize("lengths", [MIXED, WITH_ZEROS])
def test_ignored_lengths_are_detected(
    direction: Direction, lengths: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = lstm_probe.probe_reference(LstmProbe(direction=direction, lengths=lengths))
    full = {**probe_batch(LstmProbe(lengths=lengths)), "sequence_lens": np.full(len(lengths), 14, np.int32)}
    monkeypatch.setattr(lstm_probe, "probe_reference", lambda _: right)
    monkeypatch.setattr(lstm_probe, "probe_batch", lambda _: full)
    result = run_probe(LstmProbe(direction=direction, lengths=lengths))
    assert (result.ran, result.status) == (True, "wrong")


def test_status_follows_from_difference_and_placement() -> None:
    ran = ProbeResult(LstmProbe(), CUDA, {"use_tf32": "0"}, ran=True, placement=CUDA, difference=9e-6)
    assert ran.status == "correct"
    assert replace(ran, difference=2e-5).status == "wrong"
    assert replace(ran, difference=float("inf")).status == "wrong"
    assert replace(ran, difference=float("nan")).status == "wrong"
    assert replace(ran, placement=CPU).status == "correct elsewhere"
    assert replace(ran, placement=CPU, difference=1.0).status == "wrong"
    assert replace(ran, options={"use_tf32": "1"}, difference=2e-5).status == "correct"
    assert replace(ran, options={}, difference=2e-5).status == "correct"  # TF32 is on by default
    assert replace(ran, probe=LstmProbe(dtype="float16"), difference=2e-5).status == "correct"
    assert replace(ran, provider=CPU, placement=CPU, options={}, difference=2e-5).status == "wrong"
    assert ProbeResult(LstmProbe(), reason="no").status == "not run"
    assert replace(ran, crashed=True).status == "crashed"


def test_nan_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    right = probe_reference(LstmProbe())
    nothing = [np.full_like(values, np.nan) for values in right]
    monkeypatch.setattr(lstm_probe, "_run", lambda *_: (nothing, CPU))
    assert run_probe(LstmProbe()).status == "wrong"


def test_missing_provider_is_not_run() -> None:
    result = run_probe(LstmProbe(), "QNNExecutionProvider")
    assert (result.status, result.difference) == ("not run", None)
    assert "has no QNNExecutionProvider here" in result.reason


def test_probe_runs_in_a_process_of_its_own() -> None:
    probe = LstmProbe(22, "float32", "reverse", WITH_ZEROS)
    here = run_probe(probe)  # where PyTorch may have loaded cuDNN
    assert replace(run_probe_isolated(probe), cudnn=here.cudnn) == here
    assert (
        run_probe_isolated(LstmProbe(), "QNNExecutionProvider").reason
        == run_probe(LstmProbe(), "QNNExecutionProvider").reason
    )


def test_crashed_process_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object, **__: object) -> Any:
        return subprocess.CompletedProcess([], -11, "", "something\nfatal")

    def hang(*_: object, **__: object) -> Any:
        raise subprocess.TimeoutExpired("python", 1)

    monkeypatch.setattr(subprocess, "run", crash)
    result = run_probe_isolated(LstmProbe(), CUDA)
    assert (result.status, result.reason) == ("crashed", "the process ended with -11: something fatal")
    monkeypatch.setattr(subprocess, "run", hang)
    assert run_probe_isolated(LstmProbe(), CUDA).status == "crashed"


# On a GPU


@pytest.fixture(scope="module")
def _on_gpu() -> None:
    result = run_probe_isolated(LstmProbe(), CUDA)
    if result.status in ("not run", "crashed"):
        pytest.skip(f"no probe was run on CUDA: {result.reason}")


@pytest.mark.gpu
@pytest.mark.usefixtures("_on_gpu")
@pytest.mark.parametrize("probe", PROBES, ids=name)
def test_cuda_is_correct_or_reports_another_provider(probe: LstmProbe) -> None:
    result = run_probe(probe, CUDA)
    assert result.status in ("correct", "correct elsewhere"), result
    if probe.opset < 22:
        assert result.status == "correct", result


@pytest.mark.gpu
@pytest.mark.usefixtures("_on_gpu")
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_tf32_stays_off_when_disabled(direction: Direction) -> None:
    off, on = (run_probe(LstmProbe(direction=direction), CUDA, {"use_tf32": value}) for value in "01")
    assert (off.status, on.status) == ("correct", "correct"), (off, on)


@pytest.mark.gpu
@pytest.mark.usefixtures("_on_gpu")
@pytest.mark.parametrize("opset", OPSETS)
def test_cuda_without_cudnn_is_correct_or_refuses(opset: int) -> None:
    result = run_probe_isolated(LstmProbe(opset), CUDA, cudnn=False)
    assert result.status in ("correct", "correct elsewhere", "not run"), result
    if result.cudnn:
        pytest.skip(f"cuDNN was found although it was not preloaded: not tried without it ({result})")
    if result.status == "not run":
        assert result.reason
