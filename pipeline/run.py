"""The loop over a dataset's shards: read and tokenize, encode, write, each a shard apart.

The three go on side by side, each in its own thread and one shard ahead, so what is in memory is four shards at the
most: one that is written, one that is encoded, one that waits and one that is read. A failure in any of them ends the
run with its own error; shards that were committed stay.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.batching import BatchCosts, PlanReport, plan_in_order, report_plan
from pipeline.config import BatchingSettings, RunConfig
from pipeline.dataset import Shard, Source
from pipeline.encode import Engine, encode_tokens
from pipeline.errors import TextError
from pipeline.prefetch import Behind, ahead
from pipeline.store import VectorStore, vector_table
from pipeline.tokenizer import TextTokenizer
from pipeline.tokens import TokenShard, tokenize_texts

Deviation = tuple[float, float]
log = logging.getLogger(__name__)

_DEVIATION_ROWS = 64  # of a shard, compared with float32 where a lower precision was asked for


@dataclass(frozen=True)
class StageSeconds:
    """Seconds in which each stage worked; stages overlap, so they add up to more than the run took."""

    tokenize: float = 0.0
    encode: float = 0.0
    write: float = 0.0


@dataclass(frozen=True)
class EncodeReport:
    """What a run did.

    Attributes:
        rows, tokens, empty, null, truncated: of the whole folder.
        engine: the name of what computed.
        encoded_shards: shards that this run encoded; the rest were there already.
        encoded_rows, encoded_tokens: their rows and tokens.
        repeated_rows: rows among them whose ids stood in the shard before, and were not computed again.
        seconds: what this run took, checking the shards that were there included.
        stages: where the time went.
        lengths: int64[longest + 1], how many of the encoded rows have each number of tokens.
        plan: what their batches cost.
        unplanned: what batches of 64 rows in the dataset's order would cost, their padding computed.
        max_deviation, min_cosine: from float32, where a precision below it was asked for.
    """

    rows: int
    tokens: int
    empty: int
    null: int
    truncated: int
    engine: str
    encoded_shards: int
    encoded_rows: int
    encoded_tokens: int
    repeated_rows: int
    seconds: float
    stages: StageSeconds
    lengths: NDArray[np.int64]
    plan: PlanReport
    unplanned: PlanReport
    max_deviation: float | None
    min_cosine: float | None

    @property
    def tokens_per_second(self) -> float:
        """Tokens this run encoded a second, reading and writing included; 0 where it encoded none."""
        return self.encoded_tokens / self.seconds if self.encoded_tokens else 0.0


def encode_dataset(
    run: RunConfig,
    source: Source,
    tokenizer: TextTokenizer,
    engine: Engine,
    weights: str,
    *,
    show_progress: bool = True,
) -> EncodeReport:
    """Encode a dataset into the folder `encode.output`, shard by shard.

    While one shard is encoded, the next one is read and tokenized and the one before is written. Shards that the
    folder already holds, of the same run, are verified and left as they are.

    Args:
        weights: fingerprint of the engine's weights, for the run's identity.

    Raises:
        StoreError: the folder holds another run, or cannot be written.
        TextError, DatasetError: a row cannot be encoded, or read.
    """
    store = VectorStore.open(run.encode.output, run_identity(run, source, tokenizer, engine, weights), run.to_yaml())
    shards = 0
    tally = _Tally(unplanned=engine.costs.padded())
    started = time.perf_counter()
    bar = _Bar(total=source.num_rows, unit=" rows", desc="encode", disable=not show_progress, smoothing=0.05)
    with bar as progress, ahead(_tokenized(run, source, tokenizer, store)) as tokenized, Behind() as behind:
        for shard, tokens, seconds in tokenized:
            shards += 1
            if tokens is None:
                progress.update(shard.table.num_rows)
                continue
            behind.check()
            began = time.perf_counter()
            vectors, plan = encode_tokens(tokens, engine, run.batching, progress.advance, shard.first_row)
            deviation = _deviation(tokens, vectors, engine, run.batching)
            tally.add(tokens, plan, deviation, seconds, time.perf_counter() - began)
            behind.submit(partial(_write, run, shard, source, tokens, vectors, deviation, store, tally))
    manifest = store.finish(shards, dataset_card(run, engine, store))
    seconds = time.perf_counter() - started
    counts = {name: manifest[name] for name in ("rows", "tokens", "empty", "null", "truncated")}
    for name in ("empty", "null", "truncated"):
        if counts[name]:
            log.warning("%d of %d texts are %s", counts[name], counts["rows"], name)
    return tally.report(engine.name, counts, seconds)


def run_identity(
    run: RunConfig, source: Source, tokenizer: TextTokenizer, engine: Engine, weights: str
) -> dict[str, Any]:
    """Everything that the bytes of the vectors depend on.

    `encode.bad_rows` is left out: it decides whether a run stops, and the bytes of a shard that was written are the
    same either way. Versions and the processor are left out too: they move vectors by less than the tolerance.
    """
    return {
        "input": source.fingerprint,
        "text_column": run.dataset.text_column,
        "keep_columns": list(run.dataset.keep_columns),
        "shard_rows": run.dataset.shard_rows,
        "tokenizer": tokenizer.fingerprint,
        "add_special_tokens": run.tokenizer.add_special_tokens,
        "max_length": run.tokenizer.max_length,
        "truncate": run.tokenizer.truncate,
        "encoder": engine.config.model_dump(mode="json"),
        "weights": weights,
        "engine": engine.name,
        "batching": asdict(engine.costs.within(run.batching)),
        "vector_dtype": run.encode.vector_dtype,
    }


def dataset_card(run: RunConfig, engine: Engine, store: VectorStore) -> str:
    """The README.md of a folder of vectors; its front matter lets `load_dataset(folder)` find the shards.

    The configuration is named after the run's identity, because `datasets` keeps its copy of a folder under the
    folder's and the configuration's names alone: were the configurations of all runs called alike, one run's vectors
    would be given for another's in a folder of the same name.
    """
    config = engine.config
    training = "" if config.trained else f"\n\n**The encoder was never trained** (seed {config.seed})."
    records = store.records.values()
    return f"""---
configs:
- config_name: "{store.identity[:16]}"
  data_files: data/*.parquet
---
# Vectors of `{run.dataset.path}`

{sum(record.rows for record in records):,} rows, one a row of the split `{run.dataset.split}`, in its order.
`embedding` is the {config.dim}-dimensional {config.pooling}-pooled vector of the column `{run.dataset.text_column}`;
`num_tokens` is 0 where there was no text to encode, and `embedding` is then zeros; `truncated` says whether tokens
were cut off.{training}

The configuration is in `run.yaml`, what the vectors depend on in `identity.json`, checksums in `manifest.json`.
"""


def _tokenized(
    run: RunConfig, source: Source, tokenizer: TextTokenizer, store: VectorStore
) -> Iterator[tuple[Shard, TokenShard | None, float]]:
    """Each shard, its ids, and the seconds that reading and tokenizing took; no ids where it is committed already."""
    began = time.perf_counter()
    for shard in source.shards():
        tokens = None
        if store.committed(shard.index) is None:
            tokens = tokenize_texts(
                shard.table[run.dataset.text_column],
                tokenizer,
                max_length=run.tokenizer.max_length,
                truncate=run.tokenizer.truncate,
                add_special_tokens=run.tokenizer.add_special_tokens,
                bad_rows=run.encode.bad_rows,
                first_row=shard.first_row,
            )
        yield shard, tokens, time.perf_counter() - began
        began = time.perf_counter()


def _write(
    run: RunConfig,
    shard: Shard,
    source: Source,
    tokens: TokenShard,
    vectors: NDArray[np.float32],
    deviation: Deviation | None,
    store: VectorStore,
    tally: _Tally,
) -> None:
    """Commit one shard."""
    began = time.perf_counter()
    kept = shard.table.select(list(run.dataset.keep_columns))
    table = vector_table(kept, _stored(vectors, run, shard.first_row), tokens.lengths, tokens.truncated)
    counts = {
        "index": shard.index,
        "first_row": shard.first_row,
        "tokens": len(tokens.values),
        "empty": int(tokens.empty.sum()),
        "null": int(tokens.null.sum()),
        "truncated": int(tokens.truncated.sum()),
        "max_deviation": deviation and deviation[0],
        "min_cosine": deviation and deviation[1],
    }
    store.commit(_with_features(table, source), counts)
    tally.write_seconds += time.perf_counter() - began


def _deviation(
    tokens: TokenShard, vectors: NDArray[np.float32], engine: Engine, batching: BatchingSettings
) -> Deviation | None:
    """Largest difference and smallest cosine to float32, on rows all over the shard; None where this is float32."""
    rows = np.flatnonzero(tokens.lengths)
    if engine.reference is None or not len(rows):
        return None
    rows = np.unique(rows[np.linspace(0, len(rows) - 1, _DEVIATION_ROWS).astype(int)])
    exact = encode_tokens(tokens.take(rows), engine.reference, batching)[0].astype(np.float64)
    found = vectors[rows].astype(np.float64)
    norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(found, axis=1)
    cosines = (exact * found).sum(axis=1) / np.maximum(norms, np.finfo(np.float64).tiny)
    return float(np.abs(exact - found).max()), float(cosines.min())


class _Bar(tqdm):
    """A bar of rows that shows tokens a second too."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._tokens, self._began = 0, time.perf_counter()

    def advance(self, rows: int, tokens: int) -> None:
        """So many more are done."""
        self._tokens += tokens
        self.set_postfix_str(f"{self._tokens / (time.perf_counter() - self._began):,.0f} tokens/s", refresh=False)
        self.update(rows)


class _Tally:
    """What a run has done so far."""

    def __init__(self, unplanned: BatchCosts) -> None:
        self.tokens = 0
        self.write_seconds = 0.0
        self._shards = self._rows = self._repeated = 0
        self._tokenize = self._encode = 0.0
        self._lengths = np.zeros(0, np.int64)
        self._plan = self._unplanned = PlanReport()
        self._unplanned_costs = unplanned
        self._deviations: list[Deviation] = []

    def add(
        self, tokens: TokenShard, plan: PlanReport, deviation: Deviation | None, tokenize: float, encode: float
    ) -> None:
        """One more shard, and the seconds that its tokenizing and encoding took."""
        lengths = tokens.lengths
        in_order = report_plan(lengths, plan_in_order(lengths), self._unplanned_costs)
        self.tokens += len(tokens.values)
        self._shards += 1
        self._rows += len(tokens)
        self._repeated += in_order.rows - plan.rows
        self._tokenize += tokenize
        self._encode += encode
        counts = np.bincount(lengths, minlength=len(self._lengths))
        counts[: len(self._lengths)] += self._lengths
        self._lengths = counts
        self._plan += plan
        self._unplanned += in_order
        self._deviations += [deviation] if deviation else []

    def report(self, engine: str, counts: Mapping[str, int], seconds: float) -> EncodeReport:
        """The whole."""
        return EncodeReport(
            **counts,
            engine=engine,
            encoded_shards=self._shards,
            encoded_rows=self._rows,
            encoded_tokens=self.tokens,
            repeated_rows=self._repeated,
            seconds=seconds,
            stages=StageSeconds(self._tokenize, self._encode, self.write_seconds),
            lengths=self._lengths,
            plan=self._plan,
            unplanned=self._unplanned,
            max_deviation=max((largest for largest, _ in self._deviations), default=None),
            min_cosine=min((cosine for _, cosine in self._deviations), default=None),
        )


def _stored(vectors: NDArray[np.float32], run: RunConfig, first_row: int) -> NDArray[np.floating]:
    """The vectors as they are stored; values that the stored type cannot hold are refused."""
    largest = np.finfo(run.encode.vector_dtype).max
    beyond = np.flatnonzero((np.abs(vectors) > largest).any(axis=1))
    if len(beyond):
        raise TextError(
            f"the vector of row {first_row + int(beyond[0])} has values beyond {largest:.0f}, the most that"
            f" {run.encode.vector_dtype} holds; set encode.vector_dtype to float32"
        )
    return vectors.astype(run.encode.vector_dtype, copy=False)


def _with_features(table: pa.Table, source: Source) -> pa.Table:
    """The table with `datasets` metadata of the kept columns, so that class names and the like survive."""
    import datasets

    features = datasets.Features.from_arrow_schema(table.schema)
    features.update({name: source.features[name] for name in source.settings.keep_columns})
    return table.replace_schema_metadata(features.arrow_schema.metadata)
