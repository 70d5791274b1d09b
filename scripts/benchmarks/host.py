"""The cost of everything except the engine, which limits the rate of any device."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lengthwise.batching.costs import engine_costs
from lengthwise.batching.plan import plan_in_order, report_plan
from lengthwise.cli.benchmarks.corpora import load_corpus
from lengthwise.cli.benchmarks.harness import Result, alternate, median
from lengthwise.cli.benchmarks.models import SHAPES
from lengthwise.config import EncoderConfig, RunConfig
from lengthwise.data.dataset import open_dataset
from lengthwise.encoder.engine import encode_planned, encode_tokens, plan_tokens
from lengthwise.run.local import encode_dataset
from lengthwise.store.cast import cast_vectors
from lengthwise.store.parquet import vector_table, write_shard
from lengthwise.store.vectors import VectorStore
from lengthwise.tokens.ragged import RaggedTokens
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.util.threads import parallel_map

WORKERS = 3  # concurrent batches, as on a GPU
SHARDS = 4  # of a whole run
T = TypeVar("T")
R = TypeVar("R")
Sides = Mapping[str, Callable[[], object]]


class IdleEngine:
    """An engine that returns random vectors without computing; like real vectors, they hardly compress."""

    name, reference, classifier, fingerprint, sharing, batch_invariant = "idle", None, None, "benchmark", None, True
    costs = engine_costs("torch", "fp32", on_gpu=True)

    def __init__(self, config: EncoderConfig) -> None:
        self.config = config
        draw = np.random.default_rng(0).standard_normal
        self._ready = 0.1 * draw((self.costs.max_rows, config.dim), np.float32)

    def encode_batch(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32[batch, dim], without any work."""
        return self._ready[: len(lengths)]

    def run_all(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Apply the function in threads, as on a GPU."""
        return parallel_map(function, items, WORKERS)


def measure(shape_name: str, corpus: str, rows: int, runs: int) -> Result:
    """Measure `encode_tokens` and whole runs on precomputed ids, and each step by itself."""
    shape = SHAPES[shape_name]
    texts, tokenizer = load_corpus(corpus, rows)
    tokens = tokenize_texts(pa.array(texts), tokenizer)
    engine = IdleEngine(EncoderConfig(vocab_size=tokenizer.vocab_size, **shape.__dict__))
    with tempfile.TemporaryDirectory() as scratch:
        whole: Sides = {
            "`encode_tokens`": partial(encode_tokens, tokens, engine),
            "`encode_planned` alone": partial(encode_planned, plan_tokens(tokens, engine), engine),
            f"`encode_dataset`, {SHARDS} shards": partial(_run(Path(scratch), texts, tokenizer, engine), tokens),
        }
        steps = _steps(Path(scratch), tokens, engine)
        seconds = alternate({**whole, **steps}, runs, f"host {shape}")
    result = Result("host")
    ids = len(tokens.values)
    result.table(
        f"{shape}, an engine that does not compute, shards of {len(texts):,} texts of `{corpus}`, {ids:,} tokens,"
        f" {runs} alternating runs",
        ["function", "tokens/s"],
        [
            [name, f"{count * ids / median(seconds[name]):,.0f}"]
            for name, count in zip(whole, (1, 1, SHARDS), strict=True)
        ],
    )
    result.table(
        "Each step of one shard by itself, on one thread (workers of an engine share gathering and scattering)",
        ["step", "ms", "tokens/s"],
        [[name, f"{1000 * median(seconds[name]):.1f}", f"{ids / median(seconds[name]):,.0f}"] for name in steps],
    )
    return result


def _run(
    scratch: Path, texts: Sequence[str], tokenizer: TextTokenizer, engine: IdleEngine
) -> Callable[[RaggedTokens], object]:
    """A run from parquet to parquet on precomputed ids."""
    with pq.ParquetWriter(scratch / "texts.parquet", pa.schema([("text", pa.string())])) as writer:
        for _ in range(SHARDS):
            writer.write_table(pa.table({"text": texts}))
    settings = {
        "dataset": {"path": str(scratch / "texts.parquet"), "shard_rows": len(texts)},
        "model": {"path": "none"},
        "encode": {"output": str(scratch / "vectors")},
    }
    config = RunConfig.model_validate(settings)
    source = open_dataset(config.dataset)

    def encode(tokens: RaggedTokens) -> None:
        ready: dict[str, Any] = {"tokenize_texts": lambda *_, **__: tokens, "CHUNK_BYTES": 2**62}
        with mock.patch.multiple("lengthwise.run.shard", **ready):
            encode_dataset(config, source, tokenizer, engine, fresh=True, show_progress=False)

    return encode


def _steps(scratch: Path, tokens: RaggedTokens, engine: IdleEngine) -> Sides:
    """The steps of encoding a shard, in order."""
    planned = plan_tokens(tokens, engine)
    batches = [planned.first[batch] for batch in planned.plan]
    vectors, lengths = encode_tokens(tokens, engine)[0], tokens.lengths
    store = VectorStore.open(scratch / "steps", {"of": "a benchmark"}, "")
    counted = ("index", "first_row", "tokens", "empty", "null", "bad", "truncated")
    counts = {**dict.fromkeys(counted, 0), "max_deviation": None, "min_cosine": None}

    def scatter() -> None:
        found = np.zeros_like(vectors)
        for rows in batches:
            found[rows] = engine.encode_batch(rows, rows)

    def write() -> None:
        table = vector_table(pa.table({"text": lengths}).select([]), vectors, lengths, tokens.truncated)
        write_shard(store.folder, store.identity_hash, table, counts)

    return {
        "find the distinct rows": tokens.distinct_rows,
        "plan, distinct rows included": partial(plan_tokens, tokens, engine),
        "report on dataset order": lambda: report_plan(lengths, plan_in_order(lengths), engine.costs.padded()),
        "gather batches": lambda: [tokens.pad_rows(rows, 0) for rows in batches],
        "scatter vectors": scatter,
        "check vectors": lambda: cast_vectors(vectors, "float32"),
        "write": write,
    }
