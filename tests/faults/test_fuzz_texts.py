"""Arbitrary texts through a whole run: the same rows in the same order, and equal vectors for equal texts."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faults.form import cases
from helpers.engines import LookupEngine
from helpers.runs import encode, run_config
from helpers.texts import TEXTS
from lengthwise.config import EncoderConfig
from lengthwise.data.dataset import open_dataset
from lengthwise.errors import TextError
from lengthwise.tokens.tokenizer import TextTokenizer

WORDS = sorted({word for text in TEXTS for word in text.split()})
# All of Unicode: control characters, right-to-left marks, combining characters, supplementary planes.
UNICODE = st.text(st.characters(codec="utf-8"), max_size=20)
LONG = st.builds(
    lambda unit, times: unit * times, st.sampled_from([" ", "a", "\0", "é", "😀", "cat "]), st.integers(0, 90_000)
)
KNOWN = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)
SPECIAL = st.sampled_from(
    ["", " ", "\0", "\ufeff", "\u2028", "\r", "\n", "NaN", "null", "a\u0301", "\u202e", "\U0010ffff"]
)
TEXT = KNOWN | UNICODE | SPECIAL | LONG
ZEROS = 8 * "\0"  # so many in a line show that a file was written or copied in part


def write_parquet(path: Path, texts: list[bytes | None], kind: Any) -> None:
    """Bytes that need not be UTF-8, in a column of strings."""
    array = pa.array(texts, pa.large_binary() if kind == pa.large_string() else pa.binary())
    strings = pa.Array.from_buffers(kind, len(texts), array.buffers())
    pq.write_table(pa.table({"n": range(len(texts)), "text": strings}), path)


def write_json_lines(path: Path, texts: list[str | None]) -> None:
    lines = (json.dumps({"n": row, "text": text}) for row, text in enumerate(texts))
    path.write_text("".join(line + "\n" for line in lines))


def write_csv(path: Path, texts: list[str | None]) -> None:
    """CSV, where an empty cell is null."""
    cells = io.StringIO()
    writer = csv.writer(cells, quoting=csv.QUOTE_ALL)
    writer.writerows([["n", "text"], *([str(row), text or ""] for row, text in enumerate(texts))])
    path.write_bytes(cells.getvalue().encode())


def check_run(
    folder: Path, name: str, expected: list[bytes | None], tokenizer: TextTokenizer, engine: LookupEngine, choice: Any
) -> None:
    """Encode the file under the drawn policy, and compare the output with the input."""
    policy, shard_rows, streaming = choice
    shutil.rmtree(folder / "out", ignore_errors=True)
    dataset = {"shard_rows": shard_rows, "streaming": streaming, "keep_columns": ["n", "text"]}
    config = run_config(folder / "out", folder / name, dataset=dataset, encode={"bad_rows": policy})
    good = [text is not None and is_unicode(text) for text in expected]
    try:
        source = open_dataset(config.dataset)
        if policy == "error" and not all(good):
            with pytest.raises(TextError, match=rf"\(row {good.index(False)}( \([^)]*\))?: "):
                encode(config, source, tokenizer, engine)
            return
        report = encode(config, source, tokenizer, engine)
    finally:
        shutil.rmtree(Path(datasets.config.HF_DATASETS_CACHE) / "lengthwise", ignore_errors=True)
    found = pq.read_table(folder / "out/data")
    assert report.totals.rows == found.num_rows == len(expected)
    assert report.totals.bad == report.totals.null == good.count(False)
    assert found["n"].cast(pa.int64()).to_pylist() == list(range(len(expected)))  # a string in CSV
    kept = [text if is_good else None for text, is_good in zip(expected, good, strict=True)]  # what is no Unicode: null
    assert found["text"].cast(pa.large_binary()).to_pylist() == kept
    vectors: dict[bytes, Any] = {}
    for text, is_good, vector in zip(expected, good, found["embedding"].to_pylist(), strict=True):
        if not is_good:
            assert vector is None if policy == "quarantine" else not np.any(vector)
        else:
            assert vector == vectors.setdefault(text or b"", vector)


def is_unicode(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


CHOICE = st.tuples(st.sampled_from(["error", "quarantine", "zero"]), st.integers(1, 9), st.booleans())


def limits(short: int, whole: int) -> Any:
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=cases(short, whole), deadline=None, suppress_health_check=checks)


@pytest.fixture
def engine(encoder_config: Callable[..., EncoderConfig]) -> LookupEngine:
    return LookupEngine(encoder_config())


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()], ids=str)
@limits(short=15, whole=400)
@given(texts=st.lists(TEXT.map(str.encode) | st.binary(max_size=9) | st.none(), min_size=1, max_size=14), choice=CHOICE)
def test_parquet_texts(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine, kind: Any, texts: list[bytes | None], choice: Any
) -> None:
    write_parquet(tmp_path / "rows.parquet", texts, kind)
    check_run(tmp_path, "rows.parquet", texts, tokenizer, engine, choice)


@pytest.mark.slow
@limits(short=15, whole=400)
@given(texts=st.lists(TEXT | st.none(), max_size=12), choice=CHOICE)
def test_json_texts(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine, texts: list[str | None], choice: Any
) -> None:
    texts = ["a text", *texts]  # a column of nulls only is not a text column
    write_json_lines(tmp_path / "rows.jsonl", texts)
    check_run(
        tmp_path, "rows.jsonl", [None if text is None else text.encode() for text in texts], tokenizer, engine, choice
    )


@pytest.mark.slow
@limits(short=15, whole=400)
@given(texts=st.lists(TEXT.filter(lambda text: ZEROS not in text) | st.none(), max_size=12), choice=CHOICE)
def test_csv_texts(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine, texts: list[str | None], choice: Any
) -> None:
    texts = ["a text", *texts]
    write_csv(tmp_path / "rows.csv", texts)
    check_run(tmp_path, "rows.csv", [text.encode() if text else None for text in texts], tokenizer, engine, choice)


@pytest.mark.slow
@limits(short=15, whole=400)
@given(texts=st.lists(TEXT.filter(lambda text: ZEROS not in text), min_size=1, max_size=12), choice=CHOICE)
def test_text_lines(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine, texts: list[str], choice: Any
) -> None:
    lines = ["a text", *(text.translate({10: " ", 13: " "}) for text in texts)]
    (tmp_path / "rows.txt").write_bytes("".join(line + "\n" for line in lines).encode())
    policy, shard_rows, streaming = choice
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    dataset = {"shard_rows": shard_rows, "streaming": streaming, "keep_columns": ["text"]}
    config = run_config(tmp_path / "out", tmp_path / "rows.txt", dataset=dataset, encode={"bad_rows": policy})
    report = encode(config, open_dataset(config.dataset), tokenizer, engine)
    shutil.rmtree(Path(datasets.config.HF_DATASETS_CACHE) / "lengthwise", ignore_errors=True)
    assert report.totals.rows == len(lines)
    assert pq.read_table(tmp_path / "out/data")["text"].to_pylist() == lines
