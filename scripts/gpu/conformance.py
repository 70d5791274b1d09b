"""Does the GPU compute what PyTorch computes on the CPU, a row at a time? The whole grid, and what is longest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from lengthwise.batching.plan import plan_batches
from lengthwise.cli.benchmarks.models import SHAPES
from lengthwise.cli.gpu.context import Check, Context, Found, NotRun, Section
from lengthwise.config import EncoderConfig, Precision
from lengthwise.encoder.engine import encode_tokens
from lengthwise.encoder.model import seeded_encoder
from lengthwise.encoder.stepwise import StepwiseEncoder
from lengthwise.encoder.torch_engine import TorchEngine
from lengthwise.errors import LengthwiseError
from lengthwise.export.artifact.build import build_artifact
from lengthwise.export.artifact.engine import OnnxEngine
from lengthwise.export.graphs.variants import FP16, NATIVE, PORTABLE, VARIANTS
from lengthwise.export.runtimes import Runtime
from lengthwise.export.runtimes.onnxruntime import OnnxRuntimeCpu, OnnxRuntimeCuda
from lengthwise.export.runtimes.pytorch import PyTorchCuda, PyTorchStepwise
from lengthwise.export.validation.cases import grid_cases, vocabulary_cases
from lengthwise.export.validation.compare import cosines, scaled_difference
from lengthwise.export.validation.validate import validate_artifact
from lengthwise.export.validation.verdict import Verdict
from lengthwise.tokens.tokenize import tokenize_texts

TOLERANCE, COSINE = 1e-5, 0.999
EXACT, NEAR = "at most 1e-5", "cosine at least 0.999"
TEXTS = 256
LONGEST = 2**18  # tokens, at which looking for the longest text ends; the processor reads them in some 20 seconds
ENCODERS: Mapping[str, Mapping[str, Any]] = {
    "1 layer, bidirectional, mean": {"bidirectional": True, "pooling": "mean"},
    "2 layers, bidirectional, last": {"num_layers": 2, "bidirectional": True, "pooling": "last"},
    "1 layer, forward, max": {"pooling": "max"},
    "2 layers, bidirectional, sum, projected, normalised": {
        "num_layers": 2,
        "bidirectional": True,
        "pooling": "sum",
        "projection_dim": 64,
        "normalize": True,
    },
}


def _encoders(context: Context) -> list[EncoderConfig]:
    size = {"embedding_dim": 20, "hidden_size": 32} if context.rehearsal else {"embedding_dim": 300, "hidden_size": 512}
    kinds = list(ENCODERS.values())[-1:] if context.rehearsal else ENCODERS.values()
    return [
        EncoderConfig.model_validate({"vocab_size": context.tokenizer.vocab_size, **size, **kind}) for kind in kinds
    ]


def _verdicts(context: Context) -> list[Verdict]:
    """Validation of each encoder's artifact on the GPU."""
    kinds: Sequence[type[Runtime]] = (
        (PyTorchStepwise, OnnxRuntimeCpu) if context.rehearsal else (PyTorchCuda, OnnxRuntimeCuda)
    )
    texts = tokenize_texts(context.texts[:TEXTS], context.tokenizer)
    found: list[Verdict] = []
    for number, config in enumerate(_encoders(context)):
        folder = context.scratch / f"artifact-{number}"
        artifact = build_artifact(seeded_encoder(config, number), context.tokenizer, folder, variants=(PORTABLE, FP16))
        found += validate_artifact(artifact, kinds, texts).verdicts
    return found


def _validated(runtime: str, variant: str, context: Context) -> Found:
    """The worst of what validation found of a runtime and a graph, over all encoders."""
    verdicts = [
        verdict
        for verdict in context.once(_verdicts)
        if verdict.variant == variant and verdict.runtime.startswith(runtime)
    ]
    absent = [verdict.reason for verdict in verdicts if verdict.status == "not run"]
    if absent or not verdicts:
        raise NotRun(absent[0] if absent else f"there is no {runtime}")
    reasons = sorted({verdict.reason for verdict in verdicts if verdict.reason})
    compared = [verdict.comparison for verdict in verdicts]
    difference = max(each.difference or 0.0 for each in compared)
    of_batch = max(each.batch_difference or 0.0 for each in compared)
    cosine = float(np.min([each.cosine if each.cosine is not None else -1.0 for each in compared]))
    exact = VARIANTS[variant].exact
    text = f"off by {difference:.1e}; cosine at least {cosine:.6f}; a row in another batch off by {of_batch:.1e}"
    ok = difference <= TOLERANCE if exact else cosine >= COSINE
    failed = any(verdict.status in ("failed", "refused") and not verdict.known for verdict in verdicts)
    return Found("; ".join([text, *reasons]), ok=ok and not failed)


def _below_float32(precision: Precision, context: Context) -> Found:
    """PyTorch's half precision on every case of the grid."""
    context.require(precision)
    differences, of_rows = [], []
    for number, config in enumerate(_encoders(context)):
        encoder = seeded_encoder(config, number)
        engine, exact = TorchEngine(encoder, context.device, precision), StepwiseEncoder(encoder)
        for case in (*grid_cases(config.vocab_size), *vocabulary_cases(config.vocab_size)):
            rows = np.flatnonzero(case.lengths)
            batch = case.input_ids[rows], case.lengths[rows]
            if len(rows):
                found, right = engine.encode_batch(*batch), exact(*batch)
                differences.append(scaled_difference(found, right).max())
                of_rows.append(cosines(found, right).min())
    largest, smallest = np.max(differences), np.min(of_rows)  # of what is not a number, nothing else
    return Found(f"off by {largest:.1e}; cosine at least {smallest:.6f}", ok=bool(smallest >= COSINE))


def _longest(context: Context, encode: Callable[[np.ndarray, np.ndarray], np.ndarray], exact: StepwiseEncoder) -> Found:
    """One text of twice as many tokens as before until one is refused or `LONGEST` is reached; the last is compared."""
    most = 2**12 if context.rehearsal else LONGEST
    rng = np.random.default_rng(0)
    tokens, fitting, refused = 2**10, None, ""
    while tokens <= most:
        ids = rng.integers(exact.config.vocab_size, size=(1, tokens))
        try:
            vectors = encode(ids, np.array([tokens]))
        except LengthwiseError as error:  # any other error is none that a user is told
            refused = (
                f"; {2 * len(fitting[0][0]) if fitting else tokens:,} are refused: {' '.join(str(error).split())[:120]}"
            )
            break
        fitting, tokens = (ids, vectors), 2 * tokens
    if fitting is None:
        raise RuntimeError(f"not even {tokens:,} tokens{refused}")
    ids, vectors = fitting
    difference = float(scaled_difference(vectors, exact(ids, np.array([ids.shape[1]]))).max())
    return Found(f"{ids.shape[1]:,} tokens: off by {difference:.1e}{refused}", ok=difference <= TOLERANCE)


def _longest_in_pytorch(context: Context) -> Found:
    encoder = SHAPES["small"].encoder(context.tokenizer.vocab_size)
    return _longest(context, TorchEngine(encoder, context.device).encode_batch, StepwiseEncoder(encoder))


def _longest_in_onnxruntime(context: Context) -> Found:
    encoder = SHAPES["small"].encoder(context.tokenizer.vocab_size)
    artifact = build_artifact(encoder, context.tokenizer, context.scratch / "longest", variants=())
    return _longest(context, OnnxEngine(artifact, context.device).encode_batch, StepwiseEncoder(encoder))


def _largest_batch(context: Context) -> Found:
    """The largest batch of the plan for real texts, on the encoder that rates are measured with."""
    engine, exact = context.engine("fp32"), StepwiseEncoder(context.encoder)
    plan = list(plan_batches(context.tokens.lengths, engine.costs))
    batch = context.tokens.pad_rows(max(plan, key=len), 0)
    difference = float(scaled_difference(engine.encode_batch(*batch), exact(*batch)).max())
    return Found(
        f"{len(batch[1]):,} rows of {batch[0].shape[1]} tokens: off by {difference:.1e}", ok=difference <= TOLERANCE
    )


def _twice(context: Context) -> Found:
    """Whether a second run gives the same bits: cuDNN does not promise it where several streams are at work."""
    engine = context.engine(context.precisions[-1])
    first, second = (encode_tokens(context.tokens, engine)[0] for _ in range(2))
    difference = float(np.abs(first - second).max())
    return Found(f"off by {difference:.1e}" if difference else "the same to the last bit")


SECTION = Section(
    "conformance",
    "Against PyTorch on the CPU, a row at a time",
    (
        Check(
            f"PyTorch, fp32, the whole grid on {len(ENCODERS)} encoders",
            EXACT,
            partial(_validated, "pytorch", NATIVE),
        ),
        Check("PyTorch, bf16, the same", NEAR, partial(_below_float32, "bf16")),
        Check("PyTorch, fp16, the same", NEAR, partial(_below_float32, "fp16")),
        Check("PyTorch, fp32, the largest batch of a plan", EXACT, _largest_batch),
        Check("PyTorch, fp32, the longest text that fits", EXACT, _longest_in_pytorch),
        Check("PyTorch, the same ids twice, batches side by side", "", _twice),
        Check("onnxruntime, native graph, the whole grid", EXACT, partial(_validated, "onnxruntime", NATIVE)),
        Check("onnxruntime, portable graph, the same", EXACT, partial(_validated, "onnxruntime", PORTABLE)),
        Check("onnxruntime, fp16 graph, the same", NEAR, partial(_validated, "onnxruntime", FP16)),
        Check("onnxruntime, native graph, the longest text that fits", EXACT, _longest_in_onnxruntime),
    ),
)
