"""Ray on one machine against one process with the same number of threads; and the bytes written per shard."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from lengthwise.cli.benchmarks.corpora import load_corpus, write_rows
from lengthwise.cli.benchmarks.harness import Result, alternate, median, ratios
from lengthwise.cli.benchmarks.models import SHAPES
from lengthwise.cli.benchmarks.processes import encode
from lengthwise.encoder.checkpoint import save_checkpoint
from lengthwise.errors import LengthwiseError
from lengthwise.store.layout import MANIFEST, RECORDS
from lengthwise.util.system import cpu_count


def measure(shape_name: str, corpus: str, rows: int, shard_rows: int, runs: int) -> Result:
    """Measure whole runs, start-up included, each into its own folder; their shards must be equal."""
    texts, tokenizer = load_corpus(corpus)
    result = Result("cluster")
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        save_checkpoint(scratch / "model", SHAPES[shape_name].encoder(tokenizer.vocab_size), tokenizer)
        write_rows(scratch / "rows.parquet", texts, rows)
        dataset = {"path": str(scratch / "rows.parquet"), "shard_rows": shard_rows}
        sides = {
            "one process": lambda: encode(scratch, "one", "--fresh", dataset=dataset),
            f"Ray, {cpu_count()} workers of one thread": lambda: encode(
                scratch, "ray", "--fresh", "--cluster", "local", dataset=dataset, cluster={"workers": cpu_count()}
            ),
        }
        seconds = alternate(sides, runs, "cluster")
        folders = [scratch / "one", scratch / "ray"]
        if len({(folder / RECORDS).read_bytes() for folder in folders}) != 1:
            raise LengthwiseError("the shards that Ray wrote are not those of one process")
        alone = seconds["one process"]
        result.table(
            f"{rows:,} rows in shards of {shard_rows:,}, {SHAPES[shape_name]}, start-up included",
            ["side", "rows/s", "times as fast as one process"],
            [[side, f"{rows / median(took):,.0f}", ratios(took, alone)] for side, took in seconds.items()],
        )
        shards = json.loads((scratch / "one" / MANIFEST).read_text())["shards"]
        written = sum((scratch / "one" / shard["file"]).stat().st_size for shard in shards)
        result.table(
            "Bytes written",
            ["part", "bytes"],
            [
                ["per row", f"{written / rows:,.0f}"],
                ["per shard", f"{written / len(shards):,.0f}"],
                [
                    "per shard in shards.jsonl",
                    f"{(scratch / 'one' / RECORDS).stat().st_size / len(shards):,.0f}",
                ],
                ["per shard in manifest.json", f"{(scratch / 'one' / MANIFEST).stat().st_size / len(shards):,.0f}"],
            ],
        )
    return result
