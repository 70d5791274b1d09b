"""Texts to vectors: one shard through an engine, and the loop over a dataset's shards.

An engine is whatever turns a right-padded batch of ids into vectors (`Engine`); nothing here knows which one it
is, so the same plan, order and files come out of PyTorch and of an exported model.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.batching import PlanReport, plan_batches, report_plan
from pipeline.config import BatchingSettings, EncoderConfig, RunConfig
from pipeline.dataset import Shard, Source
from pipeline.errors import TextError
from pipeline.store import ShardRecord, VectorStore, vector_table
from pipeline.tokenizer import TextTokenizer
from pipeline.tokens import TokenShard, tokenize_texts

log = logging.getLogger(__name__)


class Engine(Protocol):
    """What turns a batch of ids into vectors."""

    name: str
    config: EncoderConfig

    def encode_batch(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        """int64[batch, sequence], right-padded, and int64[batch], from 1 to sequence, to float32[batch, dim]."""


@dataclass(frozen=True)
class EncodeReport:
    """What a run did.

    Attributes:
        rows, tokens, empty, null, truncated: of the whole folder.
        encoded_shards: shards that this run encoded; the rest were there already.
        encoded_tokens: their tokens.
        seconds: what this run took, checking the shards that were there included.
        plan: what their batches cost.
    """

    rows: int
    tokens: int
    empty: int
    null: int
    truncated: int
    encoded_shards: int
    encoded_tokens: int
    seconds: float
    plan: PlanReport

    @property
    def tokens_per_second(self) -> float:
        """Tokens this run encoded a second, reading and writing included; 0 where it encoded none."""
        return self.encoded_tokens / self.seconds if self.encoded_tokens else 0.0


def encode_tokens(
    tokens: TokenShard,
    engine: Engine,
    batching: BatchingSettings = BatchingSettings(),
    progress: tqdm[Any] | None = None,
    first_row: int = 0,
) -> tuple[NDArray[np.float32], PlanReport]:
    """Vectors of a shard's rows, in the shard's order.

    Args:
        progress: is told of every row that is done.
        first_row: the dataset's row number of the shard's first row, for messages.

    Returns:
        float32[rows, dim], zeros for rows of no tokens, and what the batches cost.

    Raises:
        TextError: an id has no row in the embedding table.
    """
    _check_ids(tokens, engine.config.vocab_size, first_row)
    lengths = tokens.lengths
    plan = plan_batches(lengths, batching)
    vectors = np.zeros((len(tokens), engine.config.dim), np.float32)
    if progress is not None:
        progress.update(int((lengths == 0).sum()))
    for rows in plan:
        vectors[rows] = engine.encode_batch(*tokens.gather(rows, engine.config.pad_token_id))
        if progress is not None:
            progress.update(len(rows))
    return vectors, report_plan(lengths, plan)


def encode_texts(
    texts: Sequence[str], tokenizer: TextTokenizer, engine: Engine, batching: BatchingSettings = BatchingSettings()
) -> NDArray[np.float32]:
    """Vectors of texts in memory: float32[texts, dim], in their order."""
    return encode_tokens(tokenize_texts(texts, tokenizer), engine, batching)[0]


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

    Shards that the folder already holds, of the same run, are verified and left as they are.

    Args:
        weights: fingerprint of the engine's weights, for the run's identity.

    Raises:
        StoreError: the folder holds another run, or cannot be written.
        TextError, DatasetError: a row cannot be encoded, or read.
    """
    store = VectorStore.open(run.encode.output, run_identity(run, source, tokenizer, engine, weights), run.to_yaml())
    plan = PlanReport(0, 0, 0, 0, 0, 0, 0)
    shards = encoded_shards = encoded_tokens = 0
    started = time.perf_counter()
    with tqdm(total=source.num_rows, unit=" rows", desc="encode", disable=not show_progress) as progress:
        for shard in source.shards():
            shards += 1
            record = store.committed(shard.index)
            if record is not None:
                progress.update(record.rows)
                continue
            record, shard_plan = _encode_shard(run, shard, source, tokenizer, engine, store, progress)
            encoded_shards += 1
            encoded_tokens += record.tokens
            plan += shard_plan
    seconds = time.perf_counter() - started
    manifest = store.finish(shards, dataset_card(run, engine, store))
    counts = {name: manifest[name] for name in ("rows", "tokens", "empty", "null", "truncated")}
    for name in ("empty", "null", "truncated"):
        if counts[name]:
            log.warning("%d of %d texts are %s", counts[name], counts["rows"], name)
    return EncodeReport(
        **counts, encoded_shards=encoded_shards, encoded_tokens=encoded_tokens, seconds=seconds, plan=plan
    )


def run_identity(
    run: RunConfig, source: Source, tokenizer: TextTokenizer, engine: Engine, weights: str
) -> dict[str, Any]:
    """Everything that the bytes of the vectors depend on.

    `encode.bad_rows` is left out: it decides whether a run stops, and the bytes of a shard that was written are the
    same either way. Versions are left out too: an upgrade moves vectors by less than the tolerance.
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
        "batching": run.batching.model_dump(mode="json"),
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


def _encode_shard(
    run: RunConfig,
    shard: Shard,
    source: Source,
    tokenizer: TextTokenizer,
    engine: Engine,
    store: VectorStore,
    progress: tqdm[Any],
) -> tuple[ShardRecord, PlanReport]:
    """Encode and commit one shard."""
    tokens = tokenize_texts(
        shard.table[run.dataset.text_column],
        tokenizer,
        max_length=run.tokenizer.max_length,
        truncate=run.tokenizer.truncate,
        add_special_tokens=run.tokenizer.add_special_tokens,
        bad_rows=run.encode.bad_rows,
        first_row=shard.first_row,
    )
    vectors, plan = encode_tokens(tokens, engine, run.batching, progress, shard.first_row)
    kept = shard.table.select(list(run.dataset.keep_columns))
    table = vector_table(kept, _stored(vectors, run, shard.first_row), tokens.lengths, tokens.truncated)
    counts = {
        "index": shard.index,
        "first_row": shard.first_row,
        "tokens": len(tokens.values),
        "empty": int(tokens.empty.sum()),
        "null": int(tokens.null.sum()),
        "truncated": int(tokens.truncated.sum()),
    }
    return store.commit(_with_features(table, source), counts), plan


def _stored(vectors: NDArray[np.float32], run: RunConfig, first_row: int) -> NDArray[np.floating]:
    """The vectors as they are stored; values that the stored type cannot hold are refused."""
    largest = np.finfo(run.encode.vector_dtype).max
    beyond = np.flatnonzero((np.abs(vectors) > largest).any(axis=1))
    if len(beyond):
        raise TextError(
            f"the vector of row {first_row + int(beyond[0])} has values beyond {largest:.0f}, the most that"
            f" {run.encode.vector_dtype} holds; set encode.vector_dtype to float32"
        )
    return vectors.astype(run.encode.vector_dtype)


def _with_features(table: pa.Table, source: Source) -> pa.Table:
    """The table with `datasets` metadata of the kept columns, so that class names and the like survive."""
    import datasets

    features = datasets.Features.from_arrow_schema(table.schema)
    features.update({name: source.features[name] for name in source.settings.keep_columns})
    return table.replace_schema_metadata(features.arrow_schema.metadata)


def _check_ids(tokens: TokenShard, vocab_size: int, first_row: int) -> None:
    if len(tokens.values) and int(tokens.values.max()) >= vocab_size:
        position = int(np.argmax(tokens.values >= vocab_size))
        row = int(np.searchsorted(tokens.offsets, position, side="right")) - 1
        raise TextError(
            f"row {first_row + row} has the id {int(tokens.values[position])}, but the encoder's vocabulary ends at"
            f" {vocab_size - 1}; use the tokenizer that the encoder was trained with"
        )
