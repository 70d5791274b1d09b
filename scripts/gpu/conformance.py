"""Compares the GPU with PyTorch on the CPU, one row at a time: all grid cases, the largest batch, the longest text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from lengthwise.batching.plan import plan_batches
from lengthwise.cli.benchmarks.models import SHAPES
from lengthwise.cli.gpu.context import Check, Context, NotRun, Outcome, Section
from lengthwise.config import EncoderConfig, Precision
from lengthwise.encoder.engine import encode_tokens
from lengthwise.encoder.model import seeded_encoder
from lengthwise.encoder.stepwise import StepwiseEncoder
from lengthwise.encoder.torch_engine import TorchEngine
from lengthwise.errors import LengthwiseError
from lengthwise.export.artifact.build import build_artifact
from lengthwise.export.artifact.difference import cosines, scaled_difference
from lengthwise.export.artifact.engine import OnnxEngine
from lengthwise.export.graphs.variants import FP16, NATIVE, PORTABLE, VARIANTS
from lengthwise.export.runtimes import Runtime
from lengthwise.export.runtimes.onnxruntime import OnnxRuntimeCpu, OnnxRuntimeCuda
from lengthwise.export.runtimes.pytorch import PyTorchCuda, PyTorchStepwise
from lengthwise.export.validation.cases import grid_cases, vocabulary_cases
from lengthwise.export.validation.validate import validate_artifact
from lengthwise.export.validation.verdict import Verdict
from lengthwise.tokens.tokenize import tokenize_texts

TOLERANCE, MIN_COSINE = 1e-5, 0.999
WITHIN_TOLERANCE, WITHIN_COSINE = "at most 1e-5", "cosine at least 0.999"
TEXT_ROWS = 256
MAX_TOKENS = 2**18  # of the longest text that is tried; the CPU takes about 20 seconds for it
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
    "1 layer, bidirectional, mean and last, projected, static residual": {
        "bidirectional": True,
        "pooling": "mean_last",
        "projection_dim": 64,
        "static_residual": True,
    },
}


def _encoders(context: Context) -> list[EncoderConfig]:
    size = {"embedding_dim": 20, "hidden_size": 32} if context.rehearsal else {"embedding_dim": 300, "hidden_size": 512}
    kinds = list(ENCODERS.values())[-1:] if context.rehearsal else ENCODERS.values()
    return [
        EncoderConfig.model_validate({"vocab_size": context.tokenizer.vocab_size, **size, **kind}) for kind in kinds
    ]


def _verdicts(context: Context) -> list[Verdict]:
    """Validate each encoder's artifact on the GPU."""
    kinds: Sequence[type[Runtime]] = (
        (PyTorchStepwise, OnnxRuntimeCpu) if context.rehearsal else (PyTorchCuda, OnnxRuntimeCuda)
    )
    texts = tokenize_texts(context.texts[:TEXT_ROWS], context.tokenizer)
    found: list[Verdict] = []
    for number, config in enumerate(_encoders(context)):
        folder = context.scratch / f"artifact-{number}"
        artifact = build_artifact(seeded_encoder(config, number), context.tokenizer, folder, variants=(PORTABLE, FP16))
        found += validate_artifact(artifact, kinds, texts).verdicts
    return found


def _validated(runtime: str, variant: str, context: Context) -> Outcome:
    """The largest deviations of a runtime and a graph, over all encoders."""
    verdicts = [
        verdict
        for verdict in context.cached(_verdicts)
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
    needed = max(each.needed(of_batch=False) or 0.0 for each in compared)
    ok = needed <= TOLERANCE if exact else cosine >= MIN_COSINE
    failed = any(verdict.status in ("failed", "refused") and not verdict.known for verdict in verdicts)
    return Outcome("; ".join([text, *reasons]), ok=ok and not failed)


def _reduced_precision(precision: Precision, context: Context) -> Outcome:
    """PyTorch in bf16 or fp16 on every case of the grid."""
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
    largest, smallest = np.max(differences), np.min(of_rows)  # NaN propagates
    return Outcome(f"off by {largest:.1e}; cosine at least {smallest:.6f}", ok=bool(smallest >= MIN_COSINE))


def _longest(
    context: Context, encode: Callable[[np.ndarray, np.ndarray], np.ndarray], exact: StepwiseEncoder
) -> Outcome:
    """Double a text until it is refused or has `MAX_TOKENS`; the last that was encoded is compared."""
    most = 2**12 if context.rehearsal else MAX_TOKENS
    rng = np.random.default_rng(0)
    tokens, fitting, refused = 2**10, None, ""
    while tokens <= most:
        ids = rng.integers(exact.config.vocab_size, size=(1, tokens))
        try:
            vectors = encode(ids, np.array([tokens]))
        except LengthwiseError as error:  # any other error is a failure of the check
            refused = (
                f"; {2 * len(fitting[0][0]) if fitting else tokens:,} are refused: {' '.join(str(error).split())[:120]}"
            )
            break
        fitting, tokens = (ids, vectors), 2 * tokens
    if fitting is None:
        raise RuntimeError(f"not even {tokens:,} tokens{refused}")
    ids, vectors = fitting
    difference = float(scaled_difference(vectors, exact(ids, np.array([ids.shape[1]]))).max())
    return Outcome(f"{ids.shape[1]:,} tokens: off by {difference:.1e}{refused}", ok=difference <= TOLERANCE)


def _longest_in_pytorch(context: Context) -> Outcome:
    encoder = SHAPES["small"].encoder(context.tokenizer.vocab_size)
    return _longest(context, TorchEngine(encoder, context.device).encode_batch, StepwiseEncoder(encoder))


def _longest_in_onnxruntime(context: Context) -> Outcome:
    encoder = SHAPES["small"].encoder(context.tokenizer.vocab_size)
    artifact = build_artifact(encoder, context.tokenizer, context.scratch / "longest", variants=())
    return _longest(context, OnnxEngine(artifact, context.device).encode_batch, StepwiseEncoder(encoder))


def _largest_batch(context: Context) -> Outcome:
    """The largest batch of the plan for the corpus, on the encoder whose rates are measured."""
    engine, exact = context.engine("fp32"), StepwiseEncoder(context.encoder)
    plan = list(plan_batches(context.tokens.lengths, engine.costs))
    batch = context.tokens.pad_rows(max(plan, key=len), 0)
    difference = float(scaled_difference(engine.encode_batch(*batch), exact(*batch)).max())
    return Outcome(
        f"{len(batch[1]):,} rows of {batch[0].shape[1]} tokens: off by {difference:.1e}", ok=difference <= TOLERANCE
    )


def _repeatability(context: Context) -> Outcome:
    """Whether a second run gives the same bits, which cuDNN does not promise on several streams."""
    engine = context.engine(context.precisions[-1])
    first, second = (encode_tokens(context.tokens, engine)[0] for _ in range(2))
    difference = float(np.abs(first - second).max())
    return Outcome(f"off by {difference:.1e}" if difference else "identical bits")


SECTION = Section(
    "conformance",
    "Against PyTorch on the CPU, one row at a time",
    (
        Check(
            f"PyTorch, fp32, all grid cases on {len(ENCODERS)} encoders",
            WITHIN_TOLERANCE,
            partial(_validated, "pytorch", NATIVE),
        ),
        Check("PyTorch, bf16, the same", WITHIN_COSINE, partial(_reduced_precision, "bf16")),
        Check("PyTorch, fp16, the same", WITHIN_COSINE, partial(_reduced_precision, "fp16")),
        Check("PyTorch, fp32, largest batch of a plan", WITHIN_TOLERANCE, _largest_batch),
        Check("PyTorch, fp32, longest text that fits", WITHIN_TOLERANCE, _longest_in_pytorch),
        Check("PyTorch, the same ids twice, concurrent batches", "", _repeatability),
        Check(
            "onnxruntime, native graph, all grid cases", WITHIN_TOLERANCE, partial(_validated, "onnxruntime", NATIVE)
        ),
        Check("onnxruntime, portable graph, the same", WITHIN_TOLERANCE, partial(_validated, "onnxruntime", PORTABLE)),
        Check("onnxruntime, fp16 graph, the same", WITHIN_COSINE, partial(_validated, "onnxruntime", FP16)),
        Check("onnxruntime, native graph, longest text that fits", WITHIN_TOLERANCE, _longest_in_onnxruntime),
    ),
)
