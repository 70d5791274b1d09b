"""Encoding texts to vectors, against sentence-transformers and a plain loop; and the share of each stage."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lengthwise.cli.benchmarks.corpora import load_corpus
from lengthwise.cli.benchmarks.cpus import AVX2_CPU, compiled_for_avx2
from lengthwise.cli.benchmarks.harness import Result, alternate, median, ratios
from lengthwise.cli.benchmarks.models import SHAPES, plain_loop, sentence_transformer
from lengthwise.config import Precision, RunConfig
from lengthwise.data.dataset import open_dataset
from lengthwise.encoder.engine import Engine, encode_texts, plan_tokens
from lengthwise.encoder.kernel import has_kernel
from lengthwise.encoder.model import PackedEncoder
from lengthwise.encoder.torch_engine import TorchEngine
from lengthwise.export.artifact.build import build_artifact
from lengthwise.export.artifact.difference import cosines
from lengthwise.export.artifact.engine import OnnxEngine
from lengthwise.export.graphs.variants import INT8
from lengthwise.run.local import encode_dataset
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.util.compat import cpu_has_bf16

T = TypeVar("T")
R = TypeVar("R")
BATCH_SIZES = (32, 64, 128, 256)  # of sentence-transformers; the fastest one is the baseline
NO_BF16 = "not run: this CPU has no bfloat16 arithmetic"


def measure(shape_name: str, corpus: str, rows: int, runs: int) -> Result:
    """Measure rates, ratios and differences of the vectors, and the share of each stage."""
    shape = SHAPES[shape_name]
    texts, tokenizer = load_corpus(corpus, rows)
    encoder = shape.encoder(tokenizer.vocab_size)
    tokens = sum(len(encoding.ids) for encoding in tokenizer.encode_batch(texts))
    model = sentence_transformer(encoder, tokenizer)
    vectors: dict[str, NDArray[np.float32]] = {}

    def keep(name: str, function: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            vectors[name] = np.asarray(function())

        return run

    with tempfile.TemporaryDirectory() as scratch:
        engine, unshared = TorchEngine(encoder), TorchEngine(encoder)
        unshared.sharing = None
        artifact = build_artifact(encoder, tokenizer, Path(scratch) / "artifact", variants=(INT8,))
        best = _best_batch_size(model, texts)
        sides: dict[str, Callable[[], Any]] = {
            "ours fp32": partial(encode_first, texts, tokenizer, engine),
            "ours fp32, no shared steps": partial(encode_first, texts, tokenizer, unshared),
            "ours int8": partial(encode_first, texts, tokenizer, TorchEngine(encoder, precision="int8")),
            f"sentence-transformers, batch {best}": partial(
                model.encode, texts, batch_size=best, show_progress_bar=False
            ),
            "datasets.map, packed, batch 64": partial(plain_loop, encoder, tokenizer, texts),
            "ours, onnxruntime fp32": partial(encode_first, texts, tokenizer, OnnxEngine(artifact)),
            "ours, onnxruntime int8": partial(encode_first, texts, tokenizer, OnnxEngine(artifact, variant=INT8)),
        }
        if cpu_has_bf16():
            sides["ours bf16"] = partial(encode_first, texts, tokenizer, TorchEngine(encoder, precision="bf16"))
        seconds = alternate({name: keep(name, side) for name, side in sides.items()}, runs, f"encode {shape}")
        result = Result("encode")
        baseline = f"sentence-transformers, batch {best}"
        result.table(
            f"{shape}, {len(texts):,} texts of `{corpus}`, {tokens:,} tokens, {runs} alternating runs;"
            f" {_shared_steps(texts, tokenizer, engine):.1%} of the LSTM's steps are shared",
            ["side", "tokens/s", "times as fast as sentence-transformers", "largest difference", "smallest cosine"],
            [
                [
                    name,
                    f"{tokens / median(seconds[name]):,.0f}",
                    ratios(seconds[name], seconds[baseline]),
                    f"{np.abs(vectors[name] - vectors[baseline]).max():.1e}",
                    f"{_smallest_cosine(vectors[name], vectors[baseline]):.6f}",
                ]
                for name in sides
            ]
            + ([] if "ours bf16" in sides else [["ours bf16", NO_BF16, "", "", ""]]),
        )
        precisions: tuple[Precision, ...] = ("fp32", "int8")
        for precision in precisions:
            _stage_shares(result, texts, tokenizer, encoder, precision, Path(scratch), runs)
    if has_kernel():
        _compare_on_avx2(result, texts, tokenizer, encoder, tokens, runs)
    return result


def encode_first(texts: Sequence[str], tokenizer: TextTokenizer, engine: Engine) -> NDArray[np.float32]:
    """Encode texts none of whose words the tokenizer remembers."""
    tokenizer.forget_words()
    return encode_texts(texts, tokenizer, engine)


def _shared_steps(texts: Sequence[str], tokenizer: TextTokenizer, engine: TorchEngine) -> float:
    """The share of LSTM steps that are not computed, because rows have them in common."""
    shared = plan_tokens(tokenize_texts(texts, tokenizer), engine).shared
    return 0.0 if shared is None else shared.saved / shared.steps


def _compare_on_avx2(
    result: Result, texts: Sequence[str], tokenizer: TextTokenizer, encoder: PackedEncoder, tokens: int, runs: int
) -> None:
    """Compare int8 with float32 in kernels compiled for a CPU without VNNI; both run on this one."""
    precisions: tuple[Precision, ...] = ("fp32", "int8")
    with compiled_for_avx2():
        engines: dict[str, TorchEngine] = {name: TorchEngine(encoder, precision=name) for name in precisions}
    sides = {name: partial(encode_first, texts, tokenizer, engine) for name, engine in engines.items()}
    seconds = alternate(sides, runs, "AVX2")
    result.table(
        f"The fused kernel compiled for AVX2 without VNNI ({AVX2_CPU}), run on this CPU",
        ["precision", "tokens/s", "times as fast as fp32"],
        [[name, f"{tokens / median(of):,.0f}", ratios(of, seconds["fp32"])] for name, of in seconds.items()],
    )


def _best_batch_size(model: Any, texts: Sequence[str]) -> int:
    some = list(texts[: max(1, len(texts) // 4)])
    sides = {str(size): partial(model.encode, some, batch_size=size, show_progress_bar=False) for size in BATCH_SIZES}
    seconds = alternate(sides, 3, "batch size")
    return int(min(seconds, key=lambda size: median(seconds[size])))


def _smallest_cosine(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(cosines(found, expected)[expected.any(axis=1)].min())


class _TimedEngine(TorchEngine):
    """Sums the CPU time of its workers; `idle` returns zeros without running the LSTM."""

    def __init__(self, encoder: PackedEncoder, precision: Precision, *, idle: bool = False) -> None:
        super().__init__(encoder, precision=precision)
        self.reference = None  # no rows are encoded again
        self.seconds = 0.0
        self._lock = threading.Lock()
        if idle:
            self.sharing = None
            self._encode = lambda input_ids, lengths: np.zeros((len(lengths), self.config.dim), np.float32)

    def run_all(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """The engine's, timed."""

        def timed(item: T) -> R:
            began = time.thread_time()
            found = function(item)
            with self._lock:
                self.seconds += time.thread_time() - began
            return found

        return super().run_all(timed, items)


def _stage_shares(
    result: Result,
    texts: Sequence[str],
    tokenizer: TextTokenizer,
    encoder: PackedEncoder,
    precision: Precision,
    scratch: Path,
    runs: int,
) -> None:
    """Measure the CPU time of a run from parquet to parquet, and of one without tokenizer and LSTM."""
    pq.write_table(pa.table({"text": list(texts)}), scratch / "texts.parquet")
    tokens = tokenize_texts(texts, tokenizer)

    def seconds(engine: _TimedEngine) -> float:
        config = RunConfig.model_validate(
            {
                "dataset": {"path": str(scratch / "texts.parquet"), "shard_rows": len(texts)},
                "model": {"path": "none"},
                "encode": {"output": tempfile.mkdtemp(dir=scratch)},
            }
        )
        source = open_dataset(config.dataset)
        tokenizer.forget_words()
        began = time.process_time()
        encode_dataset(config, source, tokenizer, engine, show_progress=False)
        return time.process_time() - began

    measured = []
    for _ in range(runs):
        engine = _TimedEngine(encoder, precision)
        whole = seconds(engine)
        with mock.patch("lengthwise.run.shard.tokenize_texts", return_value=tokens):
            rest = seconds(_TimedEngine(encoder, precision, idle=True))
        measured.append((whole, engine.seconds, rest))
    whole, lstm, rest = (median([row[column] for row in measured]) for column in range(3))
    stages = {"LSTM and pooling": lstm, "tokenizer": whole - lstm - rest, "everything else": rest}
    result.table(
        f"CPU time of `encode_dataset` in {precision}, parquet to parquet",
        ["stage", "seconds", "share"],
        [[name, f"{stage:.2f}", f"{stage / whole:.1%}"] for name, stage in stages.items()],
    )
