"""A shard from its texts to its file: what is written, how bad rows are handled, and chunks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.engines import LookupEngine
from helpers.runs import data_files, encode, run_config, source_of, vectors_at
from helpers.texts import TEXTS
from lengthwise.config import EncoderConfig
from lengthwise.data.dataset import Source, open_dataset, open_run_dataset
from lengthwise.encoder.engine import encode_texts
from lengthwise.encoder.model import seeded_encoder
from lengthwise.encoder.torch_engine import TorchEngine
from lengthwise.errors import DatasetError, TextError
from lengthwise.run.stats import ShardStats
from lengthwise.tokens.tokenizer import TextTokenizer

# Rows that cannot be encoded


def test_null_ends_a_run_or_becomes_zeros(tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine) -> None:
    texts = ["moon", "", "rain fell", "moon", None, " \t"]
    config = run_config(tmp_path / "out")
    with pytest.raises(
        TextError,
        match=r"1 of the texts cannot be encoded \(row 4: null\).*encode\.bad_rows to quarantine, .* or to zero",
    ):
        encode(config, source_of(texts, config), tokenizer, engine)
    assert list(data_files(tmp_path / "out")) == ["shard-000000.parquet"]
    config = run_config(tmp_path / "out", encode={"bad_rows": "zero"})
    report = encode(config, source_of(texts, config), tokenizer, engine)
    assert (report.totals.rows, report.totals.null, report.totals.empty, report.encoded.shards) == (6, 1, 2, 1)
    assert vectors_at(tmp_path / "out").any(axis=1).tolist() == [True, False, True, True, False, False]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("name", "contents", "place"),
    [
        ("rows.csv", 'text\nmoon\n"a\nb"\n\nmoon\n""\n', "row 3 (rows.csv, line 7, column 'text'): null"),
        ("rows.jsonl", '{"text": "moon"}\n\n{"text": null}\n', "row 1 (rows.jsonl, line 3, column 'text'): null"),
        ("rows.txt", "moon\n" + "moon " * 9 + "\n", "row 1 (rows.txt, line 2): 9 tokens"),
    ],
)
def test_row_of_a_file_is_named_by_its_line(
    tmp_path: Path,
    tokenizer: TextTokenizer,
    engine: LookupEngine,
    name: str,
    contents: str,
    place: str,
    streaming: bool,
) -> None:
    (tmp_path / name).write_text(contents)
    dataset = {"path": str(tmp_path / name), "shard_rows": 2, "streaming": streaming}
    config = run_config(tmp_path / "out", dataset=dataset, tokenizer={"max_length": 5})
    with pytest.raises(TextError) as caught:
        encode(config, open_run_dataset(config), tokenizer, engine)
    assert f"({place}); rows count from 0; " in str(caught.value)


def quarantined(folder: Path) -> list[dict[str, Any]]:
    """The lines of the quarantine, in order."""
    files = sorted((folder / "quarantine").glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def texts_of_bytes(*texts: bytes | None) -> pa.Table:
    """A table of texts that need not be Unicode."""
    return pa.table({"text": pa.Array.from_buffers(pa.string(), len(texts), pa.array(texts, pa.binary()).buffers())})


def test_quarantine_has_the_reason_and_the_text_of_each_row(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine
) -> None:
    long = "the cat sat on the mat"
    rows = (b"moon", None, b"rain fell", b"x\xffy", long.encode(), b"", b"sea")
    pq.write_table(texts_of_bytes(*rows), tmp_path / "rows.parquet")
    changes = {"encode": {"bad_rows": "quarantine"}, "tokenizer": {"max_length": 5}}
    config = run_config(tmp_path / "out", tmp_path / "rows.parquet", **changes)
    report = encode(config, open_dataset(config.dataset), tokenizer, engine)
    assert (report.totals.rows, report.totals.bad, report.totals.null, report.totals.empty) == (7, 3, 2, 1)
    assert quarantined(tmp_path / "out") == [
        {"row": 1, "reason": "null", "text": None},
        {"row": 3, "reason": "not Unicode: bytes that are not UTF-8", "text": "x\\xffy"},
        {"row": 4, "reason": "6 tokens, but max_length is 5", "text": long},
    ]
    table = pq.read_table(tmp_path / "out/data")
    assert [vector is None for vector in table["embedding"].to_pylist()] == [row in (1, 3, 4) for row in range(7)]
    assert table["num_tokens"].to_pylist() == [1, 0, 2, 0, 0, 0, 1]
    np.testing.assert_array_equal(table["embedding"][2].as_py(), encode_texts(["rain fell"], tokenizer, engine)[0])
    found = datasets.load_dataset(str(tmp_path / "out"), split="train")
    assert [vector is None for vector in found["embedding"]] == [row in (1, 3, 4) for row in range(7)]
    assert "3 rows could not be encoded (2 of them null or not Unicode)" in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize("policy", ["zero", "quarantine"])
def test_kept_text_that_is_not_unicode_is_null(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine, policy: str
) -> None:
    """Its bytes would make the file unreadable for others, as `pandas` and `to_pylist` are."""
    pq.write_table(texts_of_bytes(b"moon", b"x\xffy", None, "sé".encode()), tmp_path / "rows.parquet")
    changes = {"encode": {"bad_rows": policy}, "dataset": {"keep_columns": ["text"]}}
    config = run_config(tmp_path / "out", tmp_path / "rows.parquet", **changes)
    encode(config, open_dataset(config.dataset), tokenizer, engine)
    table = pq.read_table(tmp_path / "out/data")
    assert table["text"].to_pylist() == ["moon", None, None, "sé"]
    table.validate(full=True)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("chunk_bytes", [2**20, 1])
def test_malformed_rows_of_a_file_are_bad_rows(
    tmp_path: Path,
    tokenizer: TextTokenizer,
    engine: LookupEngine,
    monkeypatch: pytest.MonkeyPatch,
    chunk_bytes: int,
    streaming: bool,
) -> None:
    monkeypatch.setattr("lengthwise.run.shard.CHUNK_BYTES", chunk_bytes)
    path = tmp_path / "rows.csv"
    path.write_text("id,text\n01,moon\n02,rain,fell\n03,\n04,sea\n05\n")
    changes = {"dataset": {"keep_columns": ["id", "text"], "streaming": streaming, "shard_rows": 4}}
    config = run_config(tmp_path / "out", path, **changes)
    with pytest.raises(DatasetError, match=r"rows\.csv, line 3: 3 cells, but the header has 2.*encode\.bad_rows"):
        list(open_run_dataset(config).shards())
    for policy in ("quarantine", "zero"):
        config = run_config(tmp_path / policy, path, **changes, encode={"bad_rows": policy})
        report = encode(config, open_run_dataset(config), tokenizer, engine)
        assert (report.totals.rows, report.totals.bad, report.totals.null, report.totals.empty) == (5, 3, 1, 0)
    assert quarantined(tmp_path / "quarantine") == [
        {"row": 1, "reason": "rows.csv, line 3: 3 cells, but the header has 2", "text": "02,rain,fell"},
        {"row": 2, "reason": "null", "text": None},
        {"row": 4, "reason": "rows.csv, line 6: 1 cell, but the header has 2", "text": "05"},
    ]
    table = pq.read_table(tmp_path / "quarantine/data")
    assert table["id"].to_pylist() == ["01", None, "03", "04", None]
    assert table["text"].to_pylist() == ["moon", None, None, "sea", None]
    assert [vector is None for vector in table["embedding"].to_pylist()] == [False, True, True, False, True]
    np.testing.assert_array_equal(table["embedding"][3].as_py(), encode_texts(["sea"], tokenizer, engine)[0])
    assert vectors_at(tmp_path / "zero").any(axis=1).tolist() == [True, False, False, True, False]


def test_another_policy_rewrites_the_shards_with_bad_rows(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine
) -> None:
    """The result is the same as with that policy from the start."""
    texts = ["moon", "rain", None, "sea", "cat", "dog"]
    for policies in (["zero"], ["quarantine"], ["quarantine", "zero"], ["zero", "quarantine"]):
        for policy in policies:
            config = run_config(tmp_path / "-".join(policies), encode={"bad_rows": policy})
            report = encode(config, source_of(texts, config), tokenizer, engine)
        assert report.encoded.shards == (2 if len(policies) == 1 else 1)
    for policy in ("zero", "quarantine"):
        [one, other] = [path for path in tmp_path.iterdir() if path.name.endswith(policy)]
        for name in ("shards.jsonl", "manifest.json", "README.md"):
            assert (one / name).read_bytes() == (other / name).read_bytes()
        assert data_files(one) == data_files(other)
        assert (
            quarantined(one) == quarantined(other) == [{"row": 2, "reason": "null", "text": None}][: policy != "zero"]
        )


class RefusingTokenizer(TextTokenizer):
    """Refuses a whole call if a text of it has the word moon, as the library does for some texts."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self.__dict__.update({**tokenizer.__dict__, "words": None})

    def encode_batch(self, texts: Any) -> Any:
        from lengthwise.errors import TokenizerError

        if any("moon" in text for text in texts):
            raise TokenizerError("no") from ValueError("moonstruck")
        return super().encode_batch(texts)


@settings(max_examples=25, deadline=None)
@given(
    texts=st.lists(st.sampled_from([*TEXTS, None, "", "cat"]), min_size=1, max_size=12), shard_rows=st.integers(1, 5)
)
def test_bad_row_affects_no_other_row(
    tmp_path_factory: pytest.TempPathFactory,
    tokenizer: TextTokenizer,
    encoder_config: Callable[..., EncoderConfig],
    texts: list[str | None],
    shard_rows: int,
) -> None:
    engine = LookupEngine(encoder_config())
    changes = {"dataset": {"shard_rows": shard_rows}, "tokenizer": {"max_length": 7}}
    config = run_config(tmp_path_factory.mktemp("bad"), encode={"bad_rows": "quarantine"}, **changes)
    report = encode(config, source_of(texts, config), RefusingTokenizer(tokenizer), engine)
    good = [text is not None and "moon" not in text and len(text.split()) <= 7 for text in texts]
    found = pq.read_table(Path(config.encode.output) / "data")["embedding"].to_pylist()
    assert [vector is not None for vector in found] == good
    for text, vector in zip(texts, found, strict=True):
        if vector is not None and text:
            np.testing.assert_array_equal(np.float32(vector), encode_texts([text], tokenizer, engine)[0])
    lines = quarantined(Path(config.encode.output))
    assert [line["row"] for line in lines] == [row for row, is_good in enumerate(good) if not is_good]
    assert [line["text"] for line in lines] == [text for text, is_good in zip(texts, good, strict=True) if not is_good]
    assert report.totals.bad == len(lines)


def test_row_that_the_tokenizer_refuses_is_reported(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine
) -> None:
    config = run_config(tmp_path)
    with pytest.raises(TextError, match=r"1 of the texts .* \(row 4: refused by the tokenizer: moonstruck\)"):
        encode(config, source_of(["a", "b", "c", "d", "moon"], config), RefusingTokenizer(tokenizer), engine)


@pytest.mark.parametrize("policy", ["quarantine", "zero"])
def test_vector_that_cannot_be_stored_is_a_bad_row(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine, policy: str
) -> None:
    [cat], [dog] = (tokenizer.encode_batch([word])[0].ids for word in ("cat", "dog"))
    engine.table[cat], engine.table[dog] = 70_000, np.nan
    config = run_config(tmp_path, encode={"vector_dtype": "float16", "bad_rows": policy})
    report = encode(config, source_of(["sea", "cat", "dog"], config), tokenizer, engine)
    assert (report.totals.bad, report.totals.null) == (2, 0)
    found = pq.read_table(tmp_path / "data")["embedding"].to_pylist()
    assert found[0] is not None
    assert found[1:] == [None, None] if policy == "quarantine" else not np.any(found[1:])
    if policy == "quarantine":
        reasons = [line["reason"] for line in quarantined(tmp_path)]
        assert reasons[0].startswith("its vector has values beyond 65504")
        assert reasons[1].startswith("its vector is not finite")


# Chunks


@pytest.mark.parametrize("chunk_bytes", [1, 30, 10_000])
def test_chunks_of_a_shard_are_one_shard(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int
) -> None:
    monkeypatch.setattr("lengthwise.run.shard.CHUNK_BYTES", chunk_bytes)
    texts = [*TEXTS, None, *TEXTS]
    changes = {"dataset": {"shard_rows": 9, "keep_columns": ["text"]}, "encode": {"bad_rows": "quarantine"}}
    config = run_config(tmp_path, **changes)
    report = encode(config, source_of(texts, config), tokenizer, engine)
    table = pq.read_table(tmp_path / "data")
    assert table["text"].to_pylist() == texts
    expected = encode_texts(TEXTS, tokenizer, engine).tolist()
    assert table["embedding"].to_pylist() == [*expected, None, *expected]
    assert [line["row"] for line in quarantined(tmp_path)] == [7]
    assert (report.encoded.shards, report.encoded.rows, report.totals.bad) == (2, 15, 1)
    assert report.encoded.repeated == (1 if chunk_bytes == 10_000 else 0)


def test_shard_stats_are_added() -> None:
    one = ShardStats(shards=1, rows=3, lengths=np.array([1, 2]), max_deviation=0.1, min_cosine=0.9)
    other = ShardStats(shards=1, rows=1, lengths=np.array([0, 0, 1]), max_deviation=0.3, min_cosine=0.95)
    both = one + other + ShardStats()
    assert (both.shards, both.rows, both.max_deviation, both.min_cosine) == (2, 4, 0.3, 0.9)
    assert both.lengths.tolist() == [1, 2, 1]


# What is written


def test_value_that_float16_cannot_hold_is_refused(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine
) -> None:
    engine.table[:] = 70_000
    config = run_config(tmp_path / "vectors", encode={"vector_dtype": "float16"})
    with pytest.raises(TextError, match=r"row 1 cannot be stored: .* beyond 65504.*float32"):
        encode(config, source_of(["", "rain fell"], config), tokenizer, engine)
    assert not list((tmp_path / "vectors").rglob("*.parquet"))
    encode(run_config(tmp_path / "wide"), source_of(["", "rain fell"], config), tokenizer, engine)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_readers_get_the_same_rows(tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine, dtype: str) -> None:
    dataset = {"keep_columns": ["id", "text", "tags"]}
    config = run_config(tmp_path / "out", dataset=dataset, encode={"vector_dtype": dtype})
    ids, tags = list(range(100, 100 + len(TEXTS))), [["a"] * (row % 3) for row in range(len(TEXTS))]
    encode(config, source_of(TEXTS, config, id=ids, tags=tags), tokenizer, engine)
    expected = encode_texts(TEXTS, tokenizer, engine).astype(dtype)
    frame = pd.read_parquet(tmp_path / "out/data")
    assert frame.columns.tolist() == ["id", "text", "tags", "embedding", "num_tokens", "truncated"]
    np.testing.assert_array_equal(np.stack(frame["embedding"].tolist()), expected)
    assert (frame["id"].tolist(), frame["text"].tolist()) == (ids, list(TEXTS))
    for data in (
        datasets.load_dataset(str(tmp_path / "out"), split="train"),
        datasets.load_dataset("parquet", data_dir=str(tmp_path / "out/data"), split="train"),
    ):
        columns = data[:]
        assert (columns["id"], columns["text"], columns["tags"]) == (ids, list(TEXTS), tags)
        assert columns["num_tokens"] == [len(text.split()) for text in TEXTS]
        assert data.features["embedding"].length == engine.config.dim
        np.testing.assert_array_equal(np.array(columns["embedding"], dtype), expected)


@pytest.mark.parametrize("streaming", [False, True])
def test_class_names_are_preserved(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine, streaming: bool
) -> None:
    config = run_config(tmp_path / "out", dataset={"keep_columns": ["label"]})
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    kind = datasets.IterableDataset if streaming else datasets.Dataset  # a stream's tables do not carry the names
    rows = [{"text": text, "label": row % 2} for row, text in enumerate(TEXTS)]
    data = kind.from_generator(lambda: iter(rows), features=features)
    encode(config, Source(data, f"streaming {streaming}", config.dataset), tokenizer, engine)
    found = datasets.load_dataset(str(tmp_path / "out"), split="train")
    assert found.features["label"].names == ["no", "yes"]
    assert found["label"][:3] == [0, 1, 0]


def test_lower_precision_records_its_deviation(
    tmp_path: Path, tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig]
) -> None:
    encoder = seeded_encoder(encoder_config(bidirectional=True), 0)
    exact = encode_texts(TEXTS, tokenizer, TorchEngine(encoder))
    config = run_config(tmp_path)
    engine = TorchEngine(encoder, precision="bf16")
    report = encode(config, source_of(TEXTS, config), tokenizer, engine)
    found = vectors_at(tmp_path)
    deviations = np.abs(found - exact).max(axis=1)
    cosines = (found * exact).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(exact, axis=1)
    assert report.encoded.max_deviation == pytest.approx(deviations.max(), rel=1e-3)
    assert report.encoded.min_cosine == pytest.approx(cosines.min(), abs=1e-6)
    assert 0.999 < report.encoded.min_cosine < 1
    shards = json.loads((tmp_path / "manifest.json").read_bytes())["shards"]
    assert [shard["max_deviation"] for shard in shards] == pytest.approx(
        [deviations[start : start + 3].max() for start in (0, 3, 6)], rel=1e-3
    )
    assert json.loads((tmp_path / "identity.json").read_bytes())["depends_on"]["engine"] == engine.name


def test_deviation_excludes_rows_that_are_not_stored(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine
) -> None:
    exact = LookupEngine(engine.config)
    [cat], [dog] = (tokenizer.encode_batch([word])[0].ids for word in ("cat", "dog"))
    engine.reference = exact  # type: ignore[assignment]
    engine.table[dog] += 0.25
    engine.table[cat] = np.inf
    config = run_config(tmp_path, encode={"bad_rows": "zero"})
    report = encode(config, source_of(["sea", "cat", "dog", "cat"], config), tokenizer, engine)
    assert (report.totals.bad, report.encoded.max_deviation) == (2, pytest.approx(0.25, rel=1e-5))
    shards = json.loads((tmp_path / "manifest.json").read_bytes())["shards"]
    assert shards[1]["max_deviation"] is None  # of its only row
