"""Damaged files, and a subprocess that reads them: it may die or hang, which is reported as an outcome."""

from __future__ import annotations

import gzip
import io
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

TIMEOUT_SECONDS = float(os.environ.get("LENGTHWISE_CASE_SECONDS", 60))  # per case
# timeout per case, longer than any takes on a busy machine
READ, REFUSED = "read", "refused"

Damage = list[tuple[str, float, int, int]]
DAMAGE = st.lists(
    st.tuples(
        st.sampled_from(["flip", "set", "cut", "delete", "repeat", "ones", "zeros", "insert"]),
        st.floats(0, 1, exclude_max=True),
        st.integers(1, 64),
        st.integers(0, 255),
    ),
    max_size=4,
)
ROWS = st.lists(st.text(max_size=12) | st.none() | st.sampled_from(["NA", "1", "true", "2024-01-01"]), max_size=20)
FORMATS = ("parquet", "arrow", "json", "jsonl", "csv", "tsv", "txt", "jsonl.gz", "csv.gz", "txt.gz")


class Child:
    """Runs functions of importable modules in a subprocess that is restarted when it dies."""

    def __init__(self) -> None:
        self._process: Any = None

    def run(self, function: Callable[..., str], *arguments: Any) -> str:
        """The function's result; or that its process died or did not end."""
        if self._process is None or not self._process.is_alive():
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=serve, args=(theirs,), daemon=True)
            self._process.start()
            theirs.close()
        self._pipe.send((function, arguments))
        if not self._pipe.poll(TIMEOUT_SECONDS):
            self.close()
            return "it hangs"
        try:
            return str(self._pipe.recv())
        except EOFError:
            self._process.join()
            return f"it dies with exit code {self._process.exitcode}"

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()


def serve(pipe: Any) -> None:
    """The child's loop."""
    os.environ["RUST_BACKTRACE"] = "0"
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)  # readers and panics print a lot
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        pipe.send(call(function, arguments))


def call(function: Callable[..., str], arguments: tuple[Any, ...]) -> str:
    """The function's result; `REFUSED` if it raises a LengthwiseError with a message; else the exception's type."""
    from lengthwise.errors import LengthwiseError

    try:
        return function(*arguments)
    except LengthwiseError as error:
        return REFUSED if str(error).strip() else "an error without a message"
    except BaseException as error:
        return f"it raises {type(error).__name__}: {str(error)[:200]}"


def apply_damage(data: bytes, damage: Damage) -> bytes:
    """The data with the changes applied."""
    for kind, position, length, value in damage:
        start = int(position * (len(data) + 1))
        end = min(len(data), start + length)
        before, changed, after = data[:start], data[start:end], data[end:]
        middle = {
            "flip": bytes(byte ^ (1 << value % 8) for byte in changed[:1]) + changed[1:],
            "set": bytes([value]) + changed[1:],
            "cut": b"",
            "delete": b"",
            "repeat": changed * (2 + value % 3),
            "ones": b"\xff" * len(changed),
            "zeros": bytes(len(changed)),
            "insert": bytes([value]) * length + changed,
        }[kind]
        data = before + middle + (b"" if kind == "cut" else after)
    return data


def make_file(format_name: str, rows: list[str | None]) -> bytes:
    """The bytes of a file of this format, with the columns `text` and `n` (`txt`: one row per line)."""
    if format_name.endswith(".gz"):
        return gzip.compress(make_file(format_name.removesuffix(".gz"), rows))
    table = pa.table({"text": pa.array(rows, pa.string()), "n": pa.array(range(len(rows)), pa.int64())})
    buffer = io.BytesIO()
    if format_name == "parquet":
        pq.write_table(table, buffer, row_group_size=7)
    elif format_name == "arrow":
        with pa.ipc.new_stream(buffer, table.schema) as writer:
            writer.write_table(table)
    elif format_name == "json":
        return json.dumps(table.to_pylist()).encode()
    elif format_name == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode()
    elif format_name == "txt":
        return "".join((row or "").replace("\r", " ").replace("\n", " ") + "\n" for row in rows).encode()
    else:
        separator = {"csv": ",", "tsv": "\t"}[format_name]
        cells = ['"' + (row or "").replace('"', '""') + '"' for row in rows]
        return "".join([f"text{separator}n\n", *(f"{c}{separator}{n}\n" for n, c in enumerate(cells))]).encode()
    return buffer.getvalue()


def read_file(path: str, data: bytes, streaming: bool, shard_rows: int, keep: bool) -> str:
    """Open a file and read all its rows; an error must name the file, and the number of rows must be consistent."""
    import datasets

    from lengthwise.config import DatasetSettings
    from lengthwise.data.dataset import open_dataset
    from lengthwise.errors import LengthwiseError

    datasets.disable_progress_bars()
    Path(path).write_bytes(data)
    columns = ("n",) if keep and ".txt" not in path else ()
    settings = DatasetSettings(path=path, streaming=streaming, shard_rows=shard_rows, keep_columns=columns)
    try:
        source = open_dataset(settings)
        known, shards = source.num_rows, list(source.shards())
    except LengthwiseError as error:
        return REFUSED if str(error).startswith(path) and "\n" not in str(error) else f"the message is {error}"
    finally:
        shutil.rmtree(Path(datasets.config.HF_DATASETS_CACHE) / "lengthwise", ignore_errors=True)
    rows = sum(shard.table.num_rows for shard in shards)
    if known not in (None, rows) or source.num_rows != rows:
        return f"{known} and {source.num_rows} rows are reported, {rows} are read"
    if any(shard.table.schema != source.features.arrow_schema for shard in shards):
        return "shards have different columns"
    return READ


def load_settings(path: str, text: bytes, overrides: list[str]) -> str:
    """Read a run's YAML file."""
    from lengthwise.config import RunConfig, load_config

    Path(path).write_bytes(text)
    assert isinstance(load_config(path, overrides), RunConfig)
    return READ


def use_tokenizer(path: str, data: bytes, texts: list[str]) -> str:
    """Load a tokenizer.json, and tokenize texts with it under the policy `zero`."""
    from lengthwise.tokens.tokenize import tokenize_texts
    from lengthwise.tokens.tokenizer import load_tokenizer

    Path(path).write_bytes(data)
    tokenizer = load_tokenizer(path)
    tokens = tokenize_texts(texts, tokenizer, bad_rows="zero")
    if len(tokens) != len(texts) or tokens.offsets[-1] != len(tokens.values):
        return "the rows do not add up"
    if len(tokens.values) and not 0 <= tokens.values.min() <= tokens.values.max() < max(tokenizer.vocab_size, 1):
        return "an id is out of range"
    return READ


def load_model(folder: str, file: str, data: bytes) -> str:
    """Load a checkpoint after one of its files is replaced."""
    from lengthwise.encoder.checkpoint import load_checkpoint

    (Path(folder) / file).write_bytes(data)
    load_checkpoint(folder)
    return READ
