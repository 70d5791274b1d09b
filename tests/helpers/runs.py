"""Configuration, input and output of runs on texts in memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lengthwise.config import RunConfig
from lengthwise.data.dataset import Source, find_run_dataset
from lengthwise.data.input import Input
from lengthwise.run.append import encode_append
from lengthwise.run.local import encode_dataset
from lengthwise.run.stats import EncodeReport
from lengthwise.tokens.tokenizer import TextTokenizer


def run_config(output: Path, path: str | Path = "memory", **sections: dict[str, Any]) -> RunConfig:
    """The configuration of a run, with shards of three rows unless `sections` changes that."""
    defaults = {
        "dataset": {"path": str(path), "shard_rows": 3},
        "model": {"path": "model"},
        "encode": {"output": str(output)},
    }
    names = defaults.keys() | sections.keys()
    return RunConfig.model_validate({name: {**defaults.get(name, {}), **sections.get(name, {})} for name in names})


def source_of(texts: Sequence[str | None], config: RunConfig, **columns: Any) -> Source:
    """The input of a run: a column of texts, and more columns."""
    features = datasets.Features.from_arrow_schema(pa.schema({"text": pa.string()}))
    data = datasets.Dataset.from_dict({"text": list(texts)}, features=features)
    for name, column in columns.items():
        data = data.add_column(name, column)
    return Source(data, json.dumps(texts), config.dataset)


def encode(config: RunConfig, source: Source, tokenizer: TextTokenizer, engine: Any, **options: Any) -> EncodeReport:
    """Run `encode_dataset` without a progress bar."""
    return encode_dataset(config, source, tokenizer, engine, show_progress=False, **options)


def append(config: RunConfig, tokenizer: TextTokenizer, engine: Any, found: Input | None = None, **options: Any) -> Any:
    """Run `encode_append` without a progress bar; by default on what `dataset.path` names."""
    found = found or find_run_dataset(config)
    return encode_append(config, found, tokenizer, engine, show_progress=False, **options)


def vectors_at(folder: Path) -> NDArray[np.float32]:
    """The vectors in a folder: float32[rows, dim]."""
    table = pq.read_table(folder / "data")
    return np.array(table["embedding"].to_pylist(), np.float32).reshape(table.num_rows, -1)


def data_files(folder: Path) -> dict[str, bytes]:
    """The contents of a folder's shard files, by name."""
    return {path.name: path.read_bytes() for path in sorted((folder / "data").iterdir())}
