"""A run that takes vectors from other folders ends with the bytes of one that computes all of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from helpers.engines import LookupEngine
from helpers.files import contents
from helpers.runs import data_files, encode, run_config, source_of, vectors_at
from helpers.texts import TEXTS
from lengthwise.config import EncoderConfig, TokenizerTraining
from lengthwise.encoder.kernel import has_kernel
from lengthwise.encoder.model import seeded_encoder
from lengthwise.encoder.torch_engine import TorchEngine
from lengthwise.errors import ConfigError, StoreError, TextError
from lengthwise.run.report import report_to_markdown
from lengthwise.run.stats import EncodeReport
from lengthwise.store import parquet
from lengthwise.store.records import ShardRecord, parse_log
from lengthwise.store.text_hashes import hash_texts
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.tokens.training import train_tokenizer

WORDS = sorted({word for text in TEXTS for word in text.split()})
some_text = st.none() | st.lists(st.sampled_from([*WORDS, "unheardof"]), max_size=6).map(" ".join)
edits = st.lists(
    st.tuples(
        st.sampled_from(["insert", "delete", "move", "change"]), st.integers(0, 99), st.integers(0, 99), some_text
    ),
    max_size=8,
)
MANY = [
    f"{WORDS[row % len(WORDS)]} {WORDS[row // len(WORDS)]} {TEXTS[row % len(TEXTS)]}" for row in range(60)
]  # distinct


class CountingEngine(LookupEngine):
    """Notes the ids of the rows that it encodes."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.encoded: list[tuple[int, ...]] = []

    def encode_batch(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        self.encoded += [tuple(ids[:length]) for ids, length in zip(input_ids.tolist(), lengths, strict=True)]
        return super().encode_batch(input_ids, lengths)


def edit(texts: list[str | None], script: list[tuple[str, int, int, str | None]]) -> list[str | None]:
    texts = list(texts)
    for kind, first, second, text in script:
        at = first % max(1, len(texts))
        if kind == "insert" or not texts:
            texts.insert(at, text)
        elif kind == "change":
            texts[at] = text
        elif kind == "move":
            texts.insert(second % len(texts), texts.pop(at))
        elif len(texts) > 1:
            del texts[at]
    return texts


def run(
    folder: Path,
    texts: list[str | None],
    tokenizer: TextTokenizer,
    engine: Any,
    shard_rows: int = 20,
    /,
    **sections: Any,
) -> EncodeReport:
    defaults: dict[str, dict[str, Any]] = {"dataset": {"shard_rows": shard_rows}, "encode": {}}
    for name, values in sections.items():
        defaults[name] = {**defaults.get(name, {}), **values}
    defaults["encode"] = {"bad_rows": "quarantine", **defaults["encode"], "output": str(folder)}
    config = run_config(folder, **defaults)
    return encode(config, source_of(texts, config), tokenizer, engine)


def previous(
    folder: Path,
    texts: list[str | None],
    tokenizer: TextTokenizer,
    engine: Any,
    shard_rows: int = 20,
    /,
    **sections: Any,
) -> Path:
    sections["encode"] = {"row_hashes": True, **sections.get("encode", {})}
    run(folder, texts, tokenizer, engine, shard_rows, **sections)
    return folder


def records(folder: Path) -> list[ShardRecord]:
    return list(parse_log((folder / "shards.jsonl").read_bytes()).values())


def assert_equal_folders(found: Path, expected: Path) -> None:
    """But for what says that vectors were reused, and the time."""
    differing = {"run.yaml", "reuse.json", "manifest.json", "shards.jsonl", "report.md", "report.png"}
    kept = [
        {name: data for name, data in contents(folder).items() if name not in differing} for folder in (found, expected)
    ]
    assert kept[0] == kept[1]
    assert [replace(record, reused=()) for record in records(found)] == records(expected)


@settings(max_examples=30, deadline=None)
@given(
    texts=st.lists(some_text, min_size=1, max_size=12),
    script=edits,
    shard_rows=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    dtypes=st.sampled_from([("float32", "float32"), ("float16", "float16"), ("float32", "float16")]),
)
def test_any_edit_gives_the_bytes_of_a_full_run(
    scratch: Callable[[], Path],
    tokenizer: TextTokenizer,
    encoder_config: Callable[..., EncoderConfig],
    texts: list[str | None],
    script: list[tuple[str, int, int, str | None]],
    shard_rows: tuple[int, int],
    dtypes: tuple[str, str],
) -> None:
    folder, engine, edited = scratch(), CountingEngine(encoder_config()), edit(texts, script)
    old = previous(folder / "old", texts, tokenizer, engine, shard_rows[0], encode={"vector_dtype": dtypes[0]})
    before = set(engine.encoded)
    encode_settings = {"vector_dtype": dtypes[1], "row_hashes": True}
    run(folder / "full", edited, tokenizer, engine, shard_rows[1], encode=encode_settings)
    engine.encoded.clear()
    report = run(
        folder / "new", edited, tokenizer, engine, shard_rows[1], encode={**encode_settings, "reuse": [str(old)]}
    )
    assert_equal_folders(folder / "new", folder / "full")
    again = [ids for ids in engine.encoded if ids in before]
    assert len(again) <= sum(record.rows > 0 for record in records(folder / "new")) * len(records(old))  # as a check
    known = {text for text in texts if text}
    assert sum(report.encoded.reused.values()) == sum(text in known for text in edited)


@pytest.mark.parametrize("vector_dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    "precision",
    ["int8", pytest.param("fp32", marks=pytest.mark.skipif(not has_kernel(), reason="no fused kernel here"))],
)
def test_real_encoder_gives_the_bytes_of_a_full_run(
    tmp_path: Path,
    tokenizer: TextTokenizer,
    encoder_config: Callable[..., EncoderConfig],
    precision: Any,
    vector_dtype: str,
) -> None:
    """Rows are encoded in other batches then, by an encoder with a projection, a static residual and sums."""
    changes = {
        "bidirectional": True,
        "projection_dim": 5,
        "static_residual": True,
        "normalize": True,
        "hidden_size": 33,
    }
    engine = TorchEngine(seeded_encoder(encoder_config(**changes), 0), precision=precision)
    edited, dtype = [*MANY[40:], "a new text", *MANY[:35], "", *MANY[:3]], {"vector_dtype": vector_dtype}
    old = previous(tmp_path / "old", list(MANY), tokenizer, engine, encode=dtype)
    run(tmp_path / "full", edited, tokenizer, engine, 7, encode={"row_hashes": True, **dtype})
    report = run(tmp_path / "new", edited, tokenizer, engine, 7, encode={"reuse": [str(old)], **dtype})
    assert_equal_folders(tmp_path / "new", tmp_path / "full")  # and the deviations from float32 in the records
    assert sum(report.encoded.reused.values()) == len(edited) - 2
    assert report.computed_tokens < report.encoded.tokens / 2
    run(tmp_path / "copied", list(MANY), tokenizer, engine, encode={"reuse": [str(old)], **dtype})
    assert_equal_folders(tmp_path / "copied", old)


def test_only_what_changed_is_encoded(tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine) -> None:
    old = previous(tmp_path / "old", list(MANY), tokenizer, engine)
    engine.rows = 0
    report = run(tmp_path / "new", [*MANY, "mat cat dog"], tokenizer, engine, encode={"reuse": [str(old)]})
    assert engine.rows == 1 + 3  # one of each shard is compared
    assert vectors_at(tmp_path / "new").shape[0] == len(MANY) + 1
    identity = json.loads((old / "identity.json").read_text())["sha256"][:16]
    assert report.encoded.reused == {identity: len(MANY)}
    manifest = json.loads((tmp_path / "new/manifest.json").read_text())
    assert manifest["reused"] == {
        "rows": len(MANY),
        "from": {identity: len(MANY)},
        "folders": {str(old): identity},
        "not_reused": {},
    }
    assert report.reuse == (f"{len(MANY)} rows have their vector from {old}",)
    markdown = report_to_markdown(run_config(tmp_path / "new"), report)
    assert f"- {len(MANY)} rows have their vector from {old}" in markdown
    assert f"- saved: an estimated {report.saved_seconds:,.1f} s of the engine, for " in markdown


def test_saved_seconds_are_what_the_copied_tokens_would_have_taken(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine
) -> None:
    old = previous(tmp_path / "old", list(MANY), tokenizer, engine)
    report = run(tmp_path / "new", [*MANY, "mat cat dog"], tokenizer, engine, encode={"reuse": [str(old)]})
    stages = report.encoded.stages
    assert 0 < stages.engine <= stages.encode
    copied = report.encoded.copied_tokens
    assert report.computed_tokens + copied == report.totals.tokens
    assert report.saved_seconds == copied * stages.engine / report.computed_tokens
    assert f"for {copied:,} tokens at the " in report.describe_saved()
    again = run(tmp_path / "new", [*MANY, "mat cat dog"], tokenizer, engine, encode={"reuse": [str(old)]})
    assert (again.saved_seconds, again.describe_saved()) == (None, "")  # nothing was encoded
    assert run(tmp_path / "full", list(MANY), tokenizer, engine).saved_seconds is None


def test_run_that_reuses_no_more_says_no_more(tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine) -> None:
    """What an earlier run of the same folder was to reuse is no part of the manifest."""
    old = previous(tmp_path / "old", list(MANY), tokenizer, engine, tokenizer={"add_special_tokens": False})
    run(tmp_path / "new", list(MANY), tokenizer, engine, encode={"reuse": [str(old)]})
    assert "reused" in json.loads((tmp_path / "new/manifest.json").read_text())
    run(tmp_path / "new", list(MANY), tokenizer, engine, encode={"row_hashes": True})
    assert "reused" not in json.loads((tmp_path / "new/manifest.json").read_text())
    assert not (tmp_path / "new/reuse.json").exists()


def test_other_columns_order_and_shards_are_no_reason_to_encode(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine
) -> None:
    """From a folder without hashes that kept the texts, as an older version wrote it."""
    old = previous(
        tmp_path / "old",
        list(MANY),
        tokenizer,
        engine,
        dataset={"keep_columns": ["text"]},
        encode={"row_hashes": False},
    )
    assert not (old / "hashes").exists()
    for line in records(old):
        assert line.hashes is None
    engine.rows = 0
    report = run(tmp_path / "new", list(reversed(MANY)), tokenizer, engine, 7, encode={"reuse": [str(old)]})
    assert sum(report.encoded.reused.values()) == len(MANY)
    assert engine.rows <= 9 * 3
    np.testing.assert_array_equal(vectors_at(tmp_path / "new"), vectors_at(old)[::-1])


@pytest.mark.parametrize(
    ("changed", "copied"),
    [("nothing", 3), ("a text", 2), ("a kept value", 2), ("kept columns", 0), ("vector_dtype", 0)],
)
def test_shards_that_did_not_change_are_copied(
    tmp_path: Path,
    tokenizer: TextTokenizer,
    engine: LookupEngine,
    monkeypatch: pytest.MonkeyPatch,
    changed: str,
    copied: int,
) -> None:
    texts, ids = [*MANY[:-1], ""], list(range(len(MANY)))  # also a row without tokens

    def run_on(name: str, **encode_settings: Any) -> EncodeReport:
        kept = ["id", "text"] if changed == "kept columns" and name != "old" else ["id"]
        settings = {"output": str(tmp_path / name), "row_hashes": True, **encode_settings}
        config = run_config(tmp_path / name, dataset={"shard_rows": 20, "keep_columns": kept}, encode=settings)
        return encode(config, source_of(texts, config, id=ids), tokenizer, engine)

    run_on("old")
    if changed == "a text":
        texts[30] = "mat cat"
    if changed == "a kept value":
        ids[30] = 99
    dtype = {"vector_dtype": "float16"} if changed == "vector_dtype" else {}
    run_on("full", **dtype)
    written: list[int] = []
    write_table = parquet._write_table
    monkeypatch.setattr(parquet, "_write_table", lambda *given: (written.append(1), write_table(*given)))
    report = run_on("new", reuse=[str(tmp_path / "old")], **dtype)
    assert len(written) == 3 - copied
    assert_equal_folders(tmp_path / "new", tmp_path / "full")
    assert sum(report.encoded.reused.values()) == len(MANY) - 1 - (changed == "a text")
    assert (report.encoded.rows, report.encoded.tokens) == (len(MANY), report.totals.tokens)


def test_texts_of_a_shard_that_did_not_change_are_not_hashed_one_by_one(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: list[str | None] = [*MANY[:-1], None]
    old = previous(tmp_path / "old", texts, tokenizer, engine)
    hashed: list[int] = []

    def count(texts: pa.ChunkedArray) -> NDArray[np.uint8]:
        hashed.append(len(texts))
        return hash_texts(texts)

    monkeypatch.setattr("lengthwise.run.shard.hash_texts", count)
    run(tmp_path / "new", texts, tokenizer, engine, encode={"reuse": [str(old)]})
    assert hashed == []
    assert_equal_folders(tmp_path / "new", old)
    texts[25] = "mat cat"
    run(tmp_path / "changed", texts, tokenizer, engine, encode={"reuse": [str(tmp_path / "new")]})
    assert hashed == [20]
    assert_equal_folders(tmp_path / "changed", previous(tmp_path / "full", texts, tokenizer, engine))


def test_folder_of_a_version_without_digests_is_reused(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine
) -> None:
    old = previous(tmp_path / "old", list(MANY), tokenizer, engine)
    log = old / "shards.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    log.write_text("".join(json.dumps({k: v for k, v in line.items() if k != "texts"}) + "\n" for line in lines))
    report = run(tmp_path / "new", list(MANY), tokenizer, engine, encode={"reuse": [str(old)]})
    assert sum(report.encoded.reused.values()) == len(MANY)


def test_runs_can_be_chained_and_joined(tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine) -> None:
    first = previous(tmp_path / "a", MANY[:20], tokenizer, engine)
    second = previous(tmp_path / "b", MANY[20:40], tokenizer, engine)
    run(tmp_path / "c", list(MANY), tokenizer, engine, encode={"reuse": [str(first), str(second)]})
    engine.rows = 0
    report = run(tmp_path / "d", list(MANY), tokenizer, engine, 9, encode={"reuse": [str(tmp_path / "c")]})
    assert sum(report.encoded.reused.values()) == len(MANY)
    assert {rows for record in records(tmp_path / "c") for _, rows in record.reused} == {20}
    assert data_files(tmp_path / "c") == data_files(previous(tmp_path / "full", list(MANY), tokenizer, engine))


def test_folder_in_an_object_store_is_reused(tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine) -> None:
    import fsspec

    url = f"memory://{tmp_path.name}/old"
    config = run_config(Path("unused"), encode={"output": url, "row_hashes": True})
    encode(config, source_of(MANY, config), tokenizer, engine)
    report = run(tmp_path / "new", list(MANY), tokenizer, engine, encode={"reuse": [url]})
    fsspec.filesystem("memory").rm(url, recursive=True)
    assert sum(report.encoded.reused.values()) == len(MANY)


# Why nothing is reused


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"tokenizer": {"max_length": 3, "truncate": True}}, "max_length was null, is 3; truncate was false, is true"),
        ({"tokenizer": {"add_special_tokens": False}}, "add_special_tokens was true, is false"),
    ],
)
def test_other_tokenization_is_a_reason(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine, sections: dict[str, Any], reason: str
) -> None:
    old = previous(tmp_path / "old", list(MANY), tokenizer, engine)
    run(tmp_path / "full", list(MANY), tokenizer, engine, encode={"row_hashes": True}, **sections)
    report = run(tmp_path / "new", list(MANY), tokenizer, engine, encode={"reuse": [str(old)]}, **sections)
    assert report.reuse == (f"nothing of {old}: {reason}",)
    assert json.loads((tmp_path / "new/manifest.json").read_text())["reused"] == {
        "rows": 0,
        "from": {},
        "folders": {},
        "not_reused": {str(old): reason},
    }
    assert_equal_folders(tmp_path / "new", tmp_path / "full")


def test_other_model_is_a_reason(
    tmp_path: Path, tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig]
) -> None:
    engine = LookupEngine(encoder_config())
    old = previous(tmp_path / "old", list(MANY), tokenizer, engine)
    others: dict[str, tuple[Any, Any]] = {
        "weights was": (tokenizer, LookupEngine(encoder_config(), "a bit flipped")),
        "tokenizer was": (train_tokenizer(TEXTS[:-1], TokenizerTraining(model="wordlevel", min_frequency=1)), engine),
        "encoder.pooling was": (tokenizer, LookupEngine(encoder_config(pooling="max"))),
    }
    renamed = LookupEngine(encoder_config())
    renamed.name = "lookup int8"  # type: ignore[misc]
    others["engine was"] = (tokenizer, renamed)
    for number, (reason, (other_tokenizer, other_engine)) in enumerate(others.items()):
        report = run(tmp_path / str(number), list(MANY), other_tokenizer, other_engine, encode={"reuse": [str(old)]})
        assert report.encoded.reused == {}
        assert reason in report.reuse[0]


def test_float16_is_reused_for_itself_only(tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine) -> None:
    old = previous(tmp_path / "old", list(MANY), tokenizer, engine, encode={"vector_dtype": "float16"})
    report = run(tmp_path / "new", list(MANY), tokenizer, engine, encode={"reuse": [str(old)]})
    assert report.reuse == (f"nothing of {old}: vector_dtype was float16, is float32",)


def test_engine_whose_bits_depend_on_the_batch_reuses_nothing(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = previous(tmp_path / "old", list(MANY), tokenizer, engine)
    monkeypatch.setattr(engine, "batch_invariant", False, raising=False)
    report = run(tmp_path / "new", list(MANY), tokenizer, engine, encode={"reuse": [str(old)]})
    assert "depends on its batch in the last bits; install lengthwise[fast]" in report.reuse[0]
    assert report.encoded.reused == {}


def test_folder_without_texts_or_hashes_is_said(tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine) -> None:
    old = previous(tmp_path / "old", list(MANY), tokenizer, engine, encode={"row_hashes": False})
    report = run(tmp_path / "new", list(MANY), tokenizer, engine, encode={"reuse": [str(old)]})
    assert "neither hashes of its texts (encode.row_hashes) nor" in report.reuse[0]


def test_mistaken_folders_are_refused(tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine) -> None:
    with pytest.raises(StoreError, match=r"nowhere: not a folder of vectors; check encode\.reuse"):
        run(tmp_path / "new", list(MANY), tokenizer, engine, encode={"reuse": [str(tmp_path / "nowhere")]})
    previous(tmp_path / "new", list(MANY), tokenizer, engine)
    with pytest.raises(ConfigError, match=r"encode\.reuse holds .*, which is encode\.output"):
        run(tmp_path / "new", list(MANY), tokenizer, engine, encode={"reuse": [str(tmp_path / "x/../new")]})


# What cannot be trusted


@pytest.mark.parametrize("shard_rows", [7, 20])  # 20 as in the old folder: whole shards are copied
@pytest.mark.parametrize("kind", ["data", "hashes"])
@pytest.mark.parametrize("damage", ["bit", "missing"])
def test_damaged_shard_is_encoded_again(
    tmp_path: Path,
    tokenizer: TextTokenizer,
    engine: LookupEngine,
    kind: str,
    damage: str,
    shard_rows: int,
    caplog: Any,
) -> None:
    old = previous(tmp_path / "old", list(MANY), tokenizer, engine)
    run(tmp_path / "full", list(MANY), tokenizer, engine, shard_rows, encode={"row_hashes": True})
    [path] = (old / kind).glob("shard-000001.*")
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 2] ^= 1
    path.unlink() if damage == "missing" else path.write_bytes(contents)
    report = run(tmp_path / "new", list(MANY), tokenizer, engine, shard_rows, encode={"reuse": [str(old)]})
    assert_equal_folders(tmp_path / "new", tmp_path / "full")
    assert 0 < sum(report.encoded.reused.values()) <= 40
    assert f"{old}: 1 of its shards cannot be read: their rows are encoded again" in report.reuse
    assert str(path) in caplog.text


def test_damaged_identity_is_said(tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine) -> None:
    old = previous(tmp_path / "old", list(MANY), tokenizer, engine)
    (old / "identity.json").write_text((old / "identity.json").read_text().replace("lookup", "lookuq"))
    report = run(tmp_path / "new", list(MANY), tokenizer, engine, encode={"reuse": [str(old)]})
    assert "its sha256 does not match its contents" in report.reuse[0]
    assert report.encoded.reused == {}


@pytest.mark.parametrize("shard_rows", [7, 20])
def test_vectors_with_other_bits_are_not_taken(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine, shard_rows: int
) -> None:
    """As of another version: nothing in the identity says so."""
    old = previous(tmp_path / "old", list(MANY), tokenizer, engine)
    engine.table = np.nextafter(engine.table.astype(np.float32), 9).astype(np.float64)
    run(tmp_path / "full", list(MANY), tokenizer, engine, shard_rows, encode={"row_hashes": True})
    report = run(tmp_path / "new", list(MANY), tokenizer, engine, shard_rows, encode={"reuse": [str(old)]})
    assert_equal_folders(tmp_path / "new", tmp_path / "full")
    assert report.encoded.reused == {}
    assert "its vectors differ from those that are computed here" in report.reuse[1]


def test_bad_rows_are_found_anew(tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine) -> None:
    """Rows that were set aside have no vector to reuse, and errors name the row of the dataset."""
    texts = [*MANY[:10], None, "one two three four five six seven eight nine", *MANY[10:20]]
    limited = {"tokenizer": {"max_length": 8}}
    old = previous(tmp_path / "old", texts, tokenizer, engine, **limited)
    run(tmp_path / "full", texts, tokenizer, engine, 7, encode={"row_hashes": True}, **limited)
    run(tmp_path / "new", texts, tokenizer, engine, 7, encode={"reuse": [str(old)]}, **limited)
    assert_equal_folders(tmp_path / "new", tmp_path / "full")
    assert sum(record.bad for record in records(tmp_path / "new")) >= 2
    with pytest.raises(TextError, match=r"\(row 10: null"):
        run(tmp_path / "error", texts, tokenizer, engine, encode={"reuse": [str(old)], "bad_rows": "error"}, **limited)


def test_hashes_are_of_every_row(tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine) -> None:
    old = previous(tmp_path / "old", ["a", None, "a", ""], tokenizer, engine)
    hashes = np.load(old / "hashes/shard-000000.npy")
    assert (hashes.shape, hashes.dtype) == ((4, 16), np.uint8)
    assert (hashes[0] == hashes[2]).all()
    assert not hashes[1].any()
    assert hashes[3].any()
    assert pq.read_table(old / "data").column_names == ["embedding", "num_tokens", "truncated"]
