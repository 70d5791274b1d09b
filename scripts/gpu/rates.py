"""Rates on a GPU: against sentence-transformers, against a dense LSTM, and from texts to files."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lengthwise.batching.plan import plan_batches
from lengthwise.cli.benchmarks.corpora import write_rows
from lengthwise.cli.benchmarks.harness import alternate, median, ratios
from lengthwise.cli.benchmarks.models import sentence_transformer
from lengthwise.cli.gpu.context import Check, Context, NotRun, Outcome, Section
from lengthwise.config import Precision, RunConfig
from lengthwise.data.dataset import open_dataset
from lengthwise.encoder.cuda import DTYPES, arithmetic, convert_encoder, pad_to_multiple_of_8
from lengthwise.encoder.engine import encode_tokens
from lengthwise.export.artifact.build import build_artifact
from lengthwise.export.artifact.engine import OnnxEngine
from lengthwise.run.local import encode_dataset
from lengthwise.tokens.tokenize import tokenize_texts

BATCH_SIZES = (128, 256, 512, 1_024, 2_048, 4_096, 8_192)  # tried for the other sides; the fastest is compared
REHEARSAL_SIZES = (32, 64)
LIMIT_TOKENS = 1_000_000  # per run of the dense LSTM
MIN_SPEEDUP, MIN_OF_LIMIT, MIN_OF_SLOWER, MIN_OF_PYTORCH, MIN_UTILIZATION = 10, 0.85, 0.85, 0.8, 0.9


@dataclass(frozen=True)
class _Measurement:
    """Seconds of each side in each round, the tokens that it encodes, and notes on it."""

    seconds: Mapping[str, list[float]]
    tokens: Mapping[str, int]
    notes: Mapping[str, str]

    def rate(self, side: str) -> float:
        return self.tokens[side] / median(self.seconds[side])

    def per_token(self, side: str) -> list[float]:
        """Seconds per token in each round."""
        return [seconds / self.tokens[side] for seconds in self.seconds[side]]


def _ids_to_vectors(context: Context) -> _Measurement:
    """Measure our engine, sentence-transformers and the dense LSTM in alternation."""
    sides: dict[str, Callable[[], object]] = {}
    tokens, notes = {}, {}
    total = len(context.tokens.values)
    for precision in context.precisions:
        engine = context.engine(precision)
        sides[f"ours {precision}"] = partial(encode_tokens, context.tokens, engine)
        tokens[f"ours {precision}"] = total
    for name, half in (("sentence-transformers", False), ("sentence-transformers, half precision", True)):
        try:
            theirs = _SentenceTransformer(context, half)
            best = _best_batch_size(context, {size: partial(theirs.encode, size, 4) for size in _batch_sizes(context)})
        except Exception as error:  # of the other library; our engine is measured anyway
            notes[name] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            continue
        sides[name] = partial(theirs.encode, best)
        tokens[name], notes[name] = total, f"batch {best}"
    for precision in context.precisions:
        dense = _DenseLstm(context, precision)
        best = _best_batch_size(
            context, {size: partial(dense.run, size) for size in _batch_sizes(context)}, dense.tokens
        )
        sides[f"limit {precision}"] = partial(dense.run, best)
        tokens[f"limit {precision}"], notes[f"limit {precision}"] = dense.tokens(best), f"batch {best}"
    return _Measurement(alternate(sides, context.runs, "ids to vectors"), tokens, notes)


class _SentenceTransformer:
    """sentence-transformers on ids: what its `encode` does with each batch, without tokenization."""

    def __init__(self, context: Context, half: bool) -> None:
        self._model = sentence_transformer(context.encoder, context.tokenizer).to(context.device).eval()
        if half:
            self._model.bfloat16() if context.rehearsal else self._model.half()
        self._device, self._tokens, self._dim = context.device, context.tokens, context.encoder.config.dim
        lengths = context.tokens.lengths
        self._order = np.argsort(-lengths, kind="stable")[: np.count_nonzero(lengths)]

    def encode(self, batch_size: int, every: int = 1) -> NDArray[np.float32]:
        """Encode every `every`-th row, in batches of descending length, as its `encode` sorts them."""
        order = self._order[::every]
        vectors = np.zeros((len(self._tokens), self._dim), np.float32)
        with torch.inference_mode():
            for start in range(0, len(order), batch_size):
                rows = order[start : start + batch_size]
                input_ids, lengths = self._tokens.pad_rows(rows, 0)
                mask = np.arange(input_ids.shape[1]) < lengths[:, None]
                features = {
                    "input_ids": input_ids,
                    "attention_mask": mask.astype(np.int64),
                    "sentence_lengths": lengths,
                }
                on_device = {name: torch.from_numpy(value).to(self._device) for name, value in features.items()}
                vectors[rows] = self._model(on_device)["sentence_embedding"].float().cpu().numpy()
        return vectors


class _DenseLstm:
    """Our engine's nn.LSTM on equally long rows that are on the device already: an upper limit of its rate."""

    def __init__(self, context: Context, precision: Precision) -> None:
        self._dtype, self._context = DTYPES[precision], context
        encoder = context.encoder if precision == "fp32" else pad_to_multiple_of_8(context.encoder)
        self._lstm = convert_encoder(encoder, torch.device(context.device), self._dtype).lstm
        self._length = max(1, round(float(context.tokens.lengths.mean())))

    def tokens(self, batch: int) -> int:
        """Number of tokens that `run` computes."""
        return batch * self._length * self._times(batch)

    def run(self, batch: int) -> None:
        """Run the LSTM repeatedly, on about `LIMIT_TOKENS` tokens."""
        shape = (batch, self._length, self._lstm.input_size)
        x = torch.zeros(shape, dtype=self._dtype, device=self._context.device).normal_()
        with torch.inference_mode(), arithmetic(self._dtype):
            for _ in range(self._times(batch)):
                self._lstm(x)
            self._context.synchronize()

    def _times(self, batch: int) -> int:
        read = min(LIMIT_TOKENS, len(self._context.tokens.values))
        return max(1, round(read / (batch * self._length)))


def _batch_sizes(context: Context) -> tuple[int, ...]:
    return REHEARSAL_SIZES if context.rehearsal else BATCH_SIZES


def _best_batch_size(
    context: Context, sides: Mapping[int, Callable[[], object]], tokens: Callable[[int], int] = lambda size: 1
) -> int:
    """The batch size with the most tokens per second; sizes that are too large are skipped."""
    seconds: dict[int, float] = {}
    for size, side in sides.items():
        try:
            side()
            context.synchronize()
            began = time.perf_counter()
            side()
            context.synchronize()
        except RuntimeError:  # out of memory, or too large for cuDNN
            if not seconds:
                raise
            break
        seconds[size] = (time.perf_counter() - began) / tokens(size)
    return min(seconds, key=lambda size: seconds[size])


def _against_sentence_transformers(precision: Precision, context: Context) -> Outcome:
    context.require(precision)
    sides = context.cached(_ids_to_vectors)
    name, ours = "sentence-transformers", f"ours {precision}"
    if name not in sides.seconds:
        raise NotRun(sides.notes[name])
    text = f"{ratios(sides.per_token(ours), sides.per_token(name))} times; {sides.rate(ours):,.0f} tokens/s, and"
    text += f" {sides.rate(name):,.0f} in float32, its default ({sides.notes[name]})"
    half = f"{name}, half precision"
    if half in sides.seconds:
        speedup = ratios(sides.per_token(ours), sides.per_token(half))
        text += f"; {speedup} times its rate in half precision ({sides.notes[half]})"
    return Outcome(text, ok=sides.rate(ours) >= MIN_SPEEDUP * sides.rate(name))


def _against_limit(precision: Precision, context: Context) -> Outcome:
    context.require(precision)
    sides = context.cached(_ids_to_vectors)
    ours, limit = f"ours {precision}", f"limit {precision}"
    share = ratios(sides.per_token(ours), sides.per_token(limit))
    text = f"{share} of {sides.rate(limit):,.0f} tokens/s ({sides.notes[limit]})"
    return Outcome(text, ok=sides.rate(ours) >= MIN_OF_LIMIT * sides.rate(limit))


def _onnxruntime_against_pytorch(context: Context) -> Outcome:
    artifact = build_artifact(context.encoder, context.tokenizer, context.scratch / "rates", variants=())
    onnx, torch_engine = OnnxEngine(artifact, context.device), context.engine("fp32")
    plan = plan_batches(context.tokens.lengths, torch_engine.costs)
    batches = [context.tokens.pad_rows(rows, 0) for rows in plan]

    def run(engine: Any) -> None:
        list(engine.run_all(lambda batch: engine.encode_batch(*batch), batches))

    seconds = alternate({"onnx": partial(run, onnx), "torch": partial(run, torch_engine)}, context.runs, "onnxruntime")
    total = sum(int(lengths.sum()) for _, lengths in batches)
    rates = {name: total / median(each) for name, each in seconds.items()}
    text = f"{ratios(seconds['onnx'], seconds['torch'])} times; {rates['onnx']:,.0f} and {rates['torch']:,.0f} tokens/s"
    return Outcome(text, ok=rates["onnx"] >= MIN_OF_PYTORCH * rates["torch"])


def _gpu_utilization(context: Context) -> Outcome:
    """The share of the time in which a kernel or a copy runs, by PyTorch's profiler."""
    if context.rehearsal:
        raise NotRun("there is no GPU")
    engine = context.engine(context.precisions[-1])
    encode_tokens(context.tokens, engine)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        began = time.perf_counter()
        encode_tokens(context.tokens, engine)
        wall = time.perf_counter() - began
    spans = [
        (event.time_range.start, event.time_range.end)
        for event in profile.events() or ()
        if event.device_type == torch.autograd.DeviceType.CUDA
    ]
    if not spans:
        raise NotRun("PyTorch's profiler recorded no kernel here")
    share = covered_time(spans) / 1e6 / wall
    return Outcome(f"{share:.0%} of {wall:.2f} s, the profiler's overhead included", ok=share >= MIN_UTILIZATION)


def covered_time(spans: list[tuple[float, float]]) -> float:
    """Total length of the union of these time spans."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


@dataclass(frozen=True)
class _EndToEnd:
    """Seconds and tokens of a whole run; tokens per second of tokenizer and model alone."""

    seconds: float
    tokens: int
    tokenizer: float
    model: float


def _encode_files(context: Context) -> _EndToEnd:
    """Measure a run from parquet to parquet, then tokenizer and model alone on a part of the same texts."""
    precision = context.precisions[-1]
    engine = context.engine(precision)
    path = context.scratch / "many.parquet"
    write_rows(path, context.texts, context.many)
    config = RunConfig.model_validate(
        {
            "dataset": {"path": str(path)},
            "model": {"path": "none"},
            "encode": {"output": str(context.scratch / "vectors"), "device": context.device, "precision": precision},
        }
    )
    source = open_dataset(config.dataset)
    shards = [shard.table["text"] for shard, _ in zip(source.shards(lambda index: True), range(4), strict=False)]
    encode_tokens(context.tokens, engine)  # warmup
    report = encode_dataset(config, source, context.tokenizer, engine, show_progress=False)
    began = time.perf_counter()
    tokens = [tokenize_texts(texts, context.tokenizer) for texts in shards]
    tokenizer = time.perf_counter() - began
    began = time.perf_counter()
    for shard in tokens:
        encode_tokens(shard, engine)
    model = time.perf_counter() - began
    part = sum(len(shard.values) for shard in tokens)
    return _EndToEnd(report.seconds, report.totals.tokens, part / tokenizer, part / model)


def _end_to_end(context: Context) -> Outcome:
    found = context.cached(_encode_files)
    whole, slower = found.tokens / found.seconds, min(found.tokenizer, found.model)
    text = f"{whole / slower:.2f}; {whole:,.0f} tokens/s, tokenizer alone {found.tokenizer:,.0f}, model alone"
    return Outcome(f"{text} {found.model:,.0f}, files written too", ok=whole >= MIN_OF_SLOWER * slower)


def _end_to_end_time(context: Context) -> Outcome:
    found = context.cached(_encode_files)
    return Outcome(f"{found.seconds:.1f} s for {context.many:,} texts, {found.tokens:,} tokens")


SECTION = Section(
    "rates",
    "Rates",
    (
        *(
            Check(
                f"ids to vectors, {precision}, against sentence-transformers, same weights, best batch size",
                f"at least {MIN_SPEEDUP} times",
                partial(_against_sentence_transformers, precision),
            )
            for precision in ("bf16", "fp16")
        ),
        Check(
            "the same in fp32 (TF32 off)",
            "",
            lambda context: Outcome(_against_sentence_transformers("fp32", context).text),
        ),
        *(
            Check(
                f"ids to vectors, {precision}, relative to a dense nn.LSTM on equal lengths, best batch size",
                f"at least {MIN_OF_LIMIT}",
                partial(_against_limit, precision),
            )
            for precision in ("bf16", "fp16", "fp32")
        ),
        Check(
            "texts to files, relative to the slower of tokenizer and model", f"at least {MIN_OF_SLOWER}", _end_to_end
        ),
        Check("texts to files, total time", "", _end_to_end_time),
        Check(
            "onnxruntime on CUDA against PyTorch on CUDA, float32, the same batches",
            f"at least {MIN_OF_PYTORCH} times",
            _onnxruntime_against_pytorch,
        ),
        Check("GPU utilization while encoding ids", f"at least {MIN_UTILIZATION:.0%}", _gpu_utilization),
    ),
)
