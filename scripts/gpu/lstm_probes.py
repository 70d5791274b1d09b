"""Probes for known silent failures of LSTMs on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from lengthwise.cli.gpu.context import Check, Context, NotRun, Outcome, Section
from lengthwise.encoder.cuda import arithmetic, convert_encoder, make_cuda_encoder, tf32_backends
from lengthwise.encoder.stepwise import StepwiseEncoder
from lengthwise.export.runtimes import NotRunnable
from lengthwise.export.validation.compare import scaled_difference
from lengthwise.export.validation.lstm_probe import (
    CPU,
    CUDA,
    DTYPES,
    OPSETS,
    WITH_ZEROS,
    Dtype,
    LstmProbe,
    ProbeResult,
    run_probe,
    run_probe_isolated,
)

TOLERANCE = 1e-5
_TF32 = {"use_tf32": "1"}
_ABSENT = NotRunnable.__name__  # in the reason of a probe whose provider is not available
_ROWS, _TOKENS = 256, 32
CORRECT_OR_REFUSED = "correct, or refused"


def _probe(probe: LstmProbe, context: Context, *, elsewhere: bool = False) -> Outcome:
    """A probe on the device. `elsewhere`: whether correct values pass that were placed, and reported, on the CPU."""
    result = _require_ran(run_probe(probe, _provider(context)))
    ok = result.status == "correct" or (elsewhere and result.status == "correct elsewhere")
    return Outcome(_describe(result), ok=ok)


def _require_ran(result: ProbeResult) -> ProbeResult:
    """The result of a probe that ran.

    Raises:
        NotRun: the provider is not available.
        RuntimeError: the probe failed on the device.
    """
    if result.ran:
        return result
    if _ABSENT in result.reason:
        raise NotRun(result.reason)
    raise RuntimeError(result.reason)


def _tf32_of_onnxruntime(context: Context) -> Outcome:
    off, on = (
        _require_ran(run_probe(LstmProbe(), _provider(context), options)) for options in ({"use_tf32": "0"}, _TF32)
    )
    return Outcome(
        f"off by {off.difference:.1e} without TF32, by {on.difference:.1e} with it", ok=off.status == "correct"
    )


def _without_cudnn_in_onnxruntime(context: Context) -> Outcome:
    """Run the probe with cuDNN, then in a process that has loaded CUDA without cuDNN."""
    _require_ran(run_probe_isolated(LstmProbe(), _provider(context)))
    result = run_probe_isolated(LstmProbe(), _provider(context), cudnn=False)
    found = {
        True: "cuDNN was found nevertheless",
        False: "cuDNN was not loaded",
        None: "whether cuDNN was loaded is unknown",
    }
    text = f"{found[result.cudnn]}: {_describe(result) if result.ran else f'refused ({result.reason})'}"
    return Outcome(text, ok=result.status in ("correct", "correct elsewhere", "not run"))


def _describe(result: ProbeResult) -> str:
    if result.difference is None:
        return result.reason
    return f"LSTM on {result.placement}: off by {result.difference:.1e}"


def _provider(context: Context) -> str:
    return CPU if context.rehearsal else CUDA


def _batch(context: Context) -> tuple[np.ndarray, np.ndarray]:
    ids = np.random.default_rng(0).integers(context.encoder.config.vocab_size, size=(_ROWS, _TOKENS))
    return ids, np.full(_ROWS, _TOKENS)


@contextmanager
def tf32_allowed() -> Iterator[None]:
    """Enable TF32, as a program may that also uses PyTorch for other work."""
    backends = tf32_backends()
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "tf32"
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


def _tf32_of_pytorch(context: Context) -> Outcome:
    """The dense path with TF32 enabled by the program, and as the engine runs it regardless."""
    batch = _batch(context)
    right = StepwiseEncoder(context.encoder)(*batch)
    encoder = convert_encoder(context.encoder, torch.device(context.device), torch.float32)
    ids = torch.from_numpy(batch[0]).to(context.device)
    with tf32_allowed(), torch.inference_mode():
        on = encoder.forward_equal_lengths(ids).cpu().numpy()
        with arithmetic(torch.float32):
            off = encoder.forward_equal_lengths(ids).cpu().numpy()
    without, with_it = (float(scaled_difference(found, right).max()) for found in (off, on))
    return Outcome(f"off by {without:.1e} without TF32, by {with_it:.1e} with it", ok=without <= TOLERANCE)


def _without_cudnn_in_pytorch(context: Context) -> Outcome:
    if context.rehearsal:
        raise NotRun("there is no cuDNN on a CPU")
    batch = _batch(context)
    with torch.backends.cudnn.flags(enabled=False):
        found = make_cuda_encoder(context.encoder, torch.device("cuda"), "fp32", 1, _ROWS * _TOKENS)(*batch)
    difference = float(scaled_difference(found, StepwiseEncoder(context.encoder)(*batch)).max())
    return Outcome(f"off by {difference:.1e}", ok=difference <= TOLERANCE)


def _placements() -> list[Check]:
    """LSTM at each opset; onnxruntime has CUDA kernels up to opset 21."""
    checks = []
    for opset in OPSETS:
        for dtype in DTYPES:
            known = opset < 22
            measure: Callable[[Context], Outcome] = partial(_probe, LstmProbe(opset, dtype), elsewhere=not known)
            target = "correct, on CUDA" if known else "correct, on any device"
            checks.append(Check(f"onnxruntime, LSTM at opset {opset}, {dtype}", target, measure))
    return checks


def _limits(dtype: Dtype) -> list[Check]:
    """Mixed lengths, the reverse direction, and rows without tokens."""
    reverse, both = LstmProbe(dtype=dtype, direction="reverse"), LstmProbe(dtype=dtype)
    probes = {
        "mixed lengths, reverse direction": reverse,
        "mixed lengths, both directions": both,
        "rows without tokens, reverse direction": replace(reverse, lengths=WITH_ZEROS),
        "rows without tokens, both directions": replace(both, lengths=WITH_ZEROS),
    }
    return [
        Check(f"onnxruntime, {name}, {dtype}", "correct, on CUDA", partial(_probe, probe))
        for name, probe in probes.items()
    ]


SECTION = Section(
    "probes",
    "LSTM probes",
    (
        *_placements(),
        *_limits("float32"),
        *_limits("float16"),
        Check("onnxruntime, TF32 off and on", "at most 1e-5 when off", _tf32_of_onnxruntime),
        Check("onnxruntime without cuDNN", CORRECT_OR_REFUSED, _without_cudnn_in_onnxruntime),
        Check("PyTorch, TF32 off and on", "at most 1e-5 when off", _tf32_of_pytorch),
        Check("PyTorch without cuDNN", "at most 1e-5", _without_cudnn_in_pytorch),
    ),
)
