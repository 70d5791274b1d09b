"""Peak memory of a run, and of a run on several times the rows."""

from __future__ import annotations

import tempfile
from pathlib import Path

from lengthwise.cli.benchmarks.corpora import load_corpus, write_rows
from lengthwise.cli.benchmarks.harness import Result
from lengthwise.cli.benchmarks.models import SHAPES
from lengthwise.cli.benchmarks.processes import encode
from lengthwise.encoder.checkpoint import save_checkpoint


def measure(shape_name: str, corpus: str, rows: int, times: int, shard_rows: int) -> Result:
    """Measure peak memory on `rows` and on `times * rows` rows, memory-mapped and streamed, one process per run."""
    texts, tokenizer = load_corpus(corpus)
    result = Result("memory")
    table = []
    with tempfile.TemporaryDirectory() as scratch:
        encoder = SHAPES[shape_name].encoder(tokenizer.vocab_size)
        save_checkpoint(Path(scratch) / "model", encoder, tokenizer)
        for streaming in (False, True):
            peaks = []
            for count in (rows, times * rows):
                path = Path(scratch) / f"{count}.parquet"
                write_rows(path, texts, count)
                settings = {"path": str(path), "shard_rows": shard_rows, "streaming": streaming}
                _, peak = encode(Path(scratch), f"vectors-{count}-{streaming}", dataset=settings)
                peaks.append(peak)
            source = "streamed" if streaming else "memory-mapped"
            table.append(_row(source, [peak.resident for peak in peaks]))
            table.append(_row(f"{source}, without pages of files", [peak.anonymous for peak in peaks]))
    result.table(
        f"Peak memory of a run, {SHAPES[shape_name]}, shards of {shard_rows:,} rows",
        ["dataset", f"{rows:,} rows", f"{times * rows:,} rows", "ratio"],
        table,
    )
    return result


def _row(label: str, peaks: list[int]) -> list[str]:
    few, many = peaks
    return [label, *(f"{peak / 2**20:,.0f} MiB" for peak in peaks), f"{many / few:.2f}" if few else "not measured"]
