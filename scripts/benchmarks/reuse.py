"""Runs that reuse vectors, against a full run on the same rows; and how fast texts are found by their hashes."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lengthwise.cli.benchmarks.corpora import load_corpus, write_rows
from lengthwise.cli.benchmarks.harness import Result, alternate, median, ratios
from lengthwise.cli.benchmarks.models import SHAPES
from lengthwise.config import RunConfig
from lengthwise.data.dataset import open_dataset
from lengthwise.encoder.torch_engine import TorchEngine
from lengthwise.errors import LengthwiseError
from lengthwise.run.local import encode_dataset
from lengthwise.run.stats import EncodeReport
from lengthwise.store.hash_index import HashIndex
from lengthwise.tokens.tokenizer import TextTokenizer

SHARES = (0.0, 0.01, 0.1, 0.5)
SHARD = 65_536


def measure(shape_name: str, corpus: str, rows: int, runs: int, hashes: int) -> Result:
    """Measure runs of which some rows changed, spread over all shards, and a run with rows at its end.

    Args:
        hashes: texts in an index, of random hashes.

    Raises:
        LengthwiseError: a run's shards differ from those of a full run.
    """
    texts, tokenizer = load_corpus(corpus)
    engine = TorchEngine(SHAPES[shape_name].encoder(tokenizer.vocab_size))
    result = Result("reuse")
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        write_rows(scratch / "before.parquet", texts, rows)
        inputs = _write_changes(scratch, rows)
        encode = partial(_encode, scratch, tokenizer, engine)
        encode("before", "before", row_hashes=True)
        sides = {"full run": partial(encode, "before", "full", row_hashes=True)}
        for label, file in inputs.items():
            sides[label] = partial(encode, file, file, reuse=[str(scratch / "before-vectors")])
        seconds = alternate(sides, runs, "reuse")
        reports = {label: sides[label]() for label in inputs}
        _check(scratch, encode, inputs)
        full = seconds["full run"]
        result.table(
            f"{rows:,} rows, {SHAPES[shape_name]}, median of {runs} runs",
            ["run", "rows reused", "seconds", "times as fast as the full run"],
            [
                [label, f"{_reused(reports.get(label)):,}", f"{median(took):.2f}", ratios(took, full)]
                for label, took in seconds.items()
            ],
        )
    result.table(
        f"An index of {hashes:,} hashes, in a process of its own",
        ["step", "found"],
        _measure_index(hashes),
    )
    return result


def _reused(report: EncodeReport | None) -> int:
    return 0 if report is None else sum(report.encoded.reused.values())


def _write_changes(folder: Path, rows: int) -> dict[str, str]:
    """Inputs of which a share of the rows changed, by label: the names of their files."""
    texts = pq.read_table(folder / "before.parquet")["text"].to_pylist()
    inputs = {}
    for share in SHARES:
        changed = set(np.random.default_rng(0).permutation(rows)[: round(share * rows)].tolist())
        file = f"changed-{share:g}"
        found = [f"changed {text}" if row in changed else text for row, text in enumerate(texts)]
        pq.write_table(pa.table({"text": found}), folder / f"{file}.parquet")
        inputs["nothing changed" if not share else f"{share:.0%} of the rows changed"] = file
    appended = [f"appended {text}" for text in texts[: -(-rows // 100)]]
    pq.write_table(pa.table({"text": texts + appended}), folder / "appended.parquet")
    return {**inputs, "1% of the rows appended": "appended"}


def _encode(
    folder: Path, tokenizer: TextTokenizer, engine: TorchEngine, file: str, output: str, **encode: Any
) -> EncodeReport:
    config = RunConfig.model_validate(
        {
            "dataset": {"path": str(folder / f"{file}.parquet"), "shard_rows": SHARD},
            "model": {"path": "model"},
            "encode": {"output": str(folder / f"{output}-vectors"), **encode},
        }
    )
    return encode_dataset(config, open_dataset(config.dataset), tokenizer, engine, fresh=True, show_progress=False)


def _check(folder: Path, encode: partial[EncodeReport], inputs: dict[str, str]) -> None:
    """Compare the shards of each run with those of a full one."""
    for label, file in inputs.items():
        encode(file, "expected", row_hashes=True)
        expected, found = (
            {path.name: path.read_bytes() for path in (folder / f"{name}-vectors/data").iterdir()}
            for name in ("expected", file)
        )
        if expected != found:
            raise LengthwiseError(f"{label}: the shards are not those of a full run")


def _measure_index(hashes: int) -> list[list[str]]:
    """Rows of a table: the rate of finding, and the memory, of a process that does nothing else."""
    code = f"from lengthwise.cli.benchmarks.reuse import print_index; print_index({hashes})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise LengthwiseError(f"the index of hashes failed: {done.stderr.strip()[-300:]}")
    return [line.split("\t") for line in done.stdout.splitlines()]


def print_index(hashes: int) -> None:
    """Sort and find random hashes; print what it took, for `_measure_index`."""

    def shard(number: int) -> Any:
        return np.random.default_rng(number).integers(0, 256, (min(SHARD, hashes - number * SHARD), 16), np.uint8)

    shards = range(-(-hashes // SHARD))
    before = _peak_memory()
    began = time.perf_counter()
    entries = ((shard(number), np.arange(number * SHARD, number * SHARD + len(shard(number)))) for number in shards)
    with HashIndex(entries, hashes) as index:
        built = time.perf_counter() - began
        began = time.perf_counter()
        found = sum(int((index.find(shard(number)) >= 0).sum()) for number in shards)
        took = time.perf_counter() - began
    for step, value in (
        ("sorted, rows per minute", f"{60 * hashes / built:,.0f}"),
        ("found, rows per minute", f"{60 * found / took:,.0f}"),
        ("peak memory, and before", f"{_peak_memory()}, {before}"),
    ):
        sys.stdout.write(f"{step}\t{value}\n")


def _peak_memory() -> str:
    """Of this process since it was started; what `getrusage` reports includes its parent's at that moment."""
    try:
        status = Path("/proc/self/status").read_text()
        return f"{int(status.partition('VmHWM:')[2].split()[0]) / 1024:,.0f} MiB"
    except (OSError, ValueError, IndexError):
        return "not measured"
