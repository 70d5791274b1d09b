"""Peak memory of whole runs, of one input and of one ten times as long."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from benchmarks.corpora import load_corpus
from benchmarks.harness import Result
from benchmarks.models import SHAPES
from pipeline.checkpoint import save_checkpoint
from pipeline.errors import LengthwiseError

TIMES = 10


def measure(shape_name: str, corpus: str, rows: int, shard_rows: int) -> Result:
    """`encode_dataset.py` as a process of its own, on `rows` texts and on ten times as many, read and streamed."""
    texts, tokenizer = load_corpus(corpus, rows)
    result = Result("memory")
    table = []
    with tempfile.TemporaryDirectory() as scratch:
        encoder = SHAPES[shape_name].encoder(tokenizer.vocab_size)
        save_checkpoint(Path(scratch) / "model", encoder, tokenizer)
        for streaming in (False, True):
            peaks = []
            for times in (1, TIMES):
                path = Path(scratch) / f"{times}.parquet"
                with pq.ParquetWriter(path, pa.schema([("text", pa.string())])) as writer:
                    for number in range(times):  # other texts each time, so that nothing is encoded once for many
                        writer.write_table(pa.table({"text": [f"{number} {text}" for text in texts]}))
                peaks.append(_peak(Path(scratch), path, shard_rows, streaming))
            table.append(
                [
                    "streamed" if streaming else "memory-mapped",
                    *(f"{peak / 2**20:,.0f} MiB" for peak in peaks),
                    f"{peaks[1] / peaks[0]:.2f}",
                ]
            )
    result.table(
        f"Peak memory of a run, {SHAPES[shape_name]}, shards of {shard_rows:,} rows",
        ["dataset", f"{len(texts):,} rows", f"{TIMES * len(texts):,} rows", "ratio"],
        table,
    )
    return result


def _peak(scratch: Path, data: Path, shard_rows: int, streaming: bool) -> int:
    """Peak resident bytes of one run."""
    run = {
        "dataset": {"path": str(data), "shard_rows": shard_rows, "streaming": streaming},
        "model": {"path": str(scratch / "model")},
        "encode": {"output": str(scratch / f"vectors-{data.stem}-{streaming}")},
    }
    (scratch / "run.yaml").write_text(yaml.safe_dump(run))
    script = Path(__file__).parents[1] / "encode_dataset.py"
    process = subprocess.Popen(
        [sys.executable, str(script), str(scratch / "run.yaml")],
        env={**os.environ, "HF_HOME": str(scratch / "cache")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise LengthwiseError(f"{script.name} failed with status {os.waitstatus_to_exitcode(status)}")
    return usage.ru_maxrss * 1024
