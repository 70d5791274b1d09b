"""Runs as subprocesses, which tests can terminate, kill or starve of disk space."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from helpers.files import contents
from helpers.paths import ROOT
from helpers.texts import TEXTS
from lengthwise.config import EncoderConfig
from lengthwise.encoder.checkpoint import save_checkpoint
from lengthwise.encoder.model import seeded_encoder
from lengthwise.tokens.tokenizer import TextTokenizer

SHARD_ROWS = 50
REPORTS = {"report.md", "report.png"}  # hold timings


class Job:
    """A run with its own input, model and output.

    Attributes:
        output: its folder of vectors.
        rows: the number of input rows.
    """

    def __init__(self, folder: Path, tokenizer: TextTokenizer, rows: int, **sections: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.rows, self.output = folder, rows, folder / "vectors"
        texts = [f"{TEXTS[row % len(TEXTS)]} {TEXTS[row // 7 % len(TEXTS)]} {row}" for row in range(rows)]
        pq.write_table(pa.table({"id": range(rows), "text": texts}), folder / "rows.parquet")
        config = EncoderConfig(vocab_size=tokenizer.vocab_size, embedding_dim=16, hidden_size=24, bidirectional=True)
        save_checkpoint(folder / "model", seeded_encoder(config, 0), tokenizer)
        run = {
            "dataset": {"path": "rows.parquet", "keep_columns": ["id", "text"], "shard_rows": SHARD_ROWS},
            "model": {"path": "model"},
            "encode": {"output": "vectors"},
        }
        for name, settings in sections.items():
            run[name] = {**run.get(name, {}), **settings}
        (folder / "run.yaml").write_text(yaml.safe_dump(run))

    def start(self, *options: str, script: str = "encode_dataset", before: Sequence[str] = ()) -> subprocess.Popen[str]:
        """Start a script on this run; standard error goes to standard output.

        Args:
            before: a command prefix.
        """
        return subprocess.Popen(
            [*before, sys.executable, str(ROOT / "scripts" / f"{script}.py"), "run.yaml", *options],
            env={**os.environ, "HF_HOME": str(self.folder / "cache"), "HF_DATASETS_CACHE": str(self.folder / "cache")},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self, *options: str, script: str = "encode_dataset") -> str:
        """Run a script to its end, which must succeed; returns its output."""
        code, output = self.end(*options, script=script)
        assert code == 0, output
        return output

    def end(self, *options: str, script: str = "encode_dataset") -> tuple[int, str]:
        """Run a script to its end; returns its exit code and output."""
        process = self.start(*options, script=script)
        output, _ = process.communicate(timeout=300)
        return process.returncode, output

    def files(self) -> dict[str, bytes]:
        """The contents of the folder of vectors, without the reports."""
        return {name: data for name, data in contents(self.output).items() if name not in REPORTS}

    def count_shards(self) -> int:
        """The number of committed shards."""
        return len(list(self.output.glob("data/shard-*.parquet")))


def check_rows(job: Job) -> None:
    """Assert that no row is missing, duplicated or out of order."""
    table = pq.read_table(job.output / "data")
    assert table["id"].to_pylist() == list(range(job.rows))
