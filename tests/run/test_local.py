"""Runs on one machine: a vector depends on its text alone, and an interrupted run ends as any other."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from helpers.engines import LookupEngine
from helpers.files import raise_disk_full
from helpers.paths import ROOT
from helpers.runs import data_files, encode, run_config, source_of, vectors_at
from helpers.texts import TEXTS
from lengthwise.config import EncoderConfig
from lengthwise.data.dataset import open_dataset
from lengthwise.encoder.engine import encode_texts, encode_tokens
from lengthwise.encoder.model import seeded_encoder
from lengthwise.encoder.torch_engine import TorchEngine
from lengthwise.errors import DatasetError, RunError, StoreError, TextError
from lengthwise.run import shard
from lengthwise.run.local import writers
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.tokens.tokenizer import TextTokenizer

WORDS = sorted({word for text in TEXTS for word in text.split()})


class FailingEngine(LookupEngine):
    """Fails at its nth batch."""

    def __init__(self, config: EncoderConfig, last: int) -> None:
        super().__init__(config)
        self.last = last

    def encode_batch(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        if self.batches == self.last:
            raise RuntimeError("pulled the plug")
        return super().encode_batch(input_ids, lengths)


@pytest.fixture(scope="module")
def torch_engine(encoder_config: Callable[..., EncoderConfig]) -> TorchEngine:
    return TorchEngine(seeded_encoder(encoder_config(bidirectional=True, num_layers=2), 0), workers=2)


# Vectors

some_text = st.lists(st.sampled_from([*WORDS, "unheardof", "\0", "ß"]), max_size=9).map(" ".join) | st.text(max_size=6)


@settings(max_examples=50, deadline=None)
@given(
    texts=st.lists(some_text, min_size=1, max_size=14),
    shard_rows=st.integers(1, 5),
    max_rows=st.integers(1, 6),
)
def test_vector_depends_on_its_text_alone(
    scratch: Callable[[], Path],
    tokenizer: TextTokenizer,
    torch_engine: TorchEngine,
    texts: list[str],
    shard_rows: int,
    max_rows: int,
) -> None:
    folder = scratch()
    batching = {"max_rows": max_rows, "max_tokens": 12}
    config = run_config(folder, dataset={"shard_rows": shard_rows}, batching=batching)
    report = encode(config, source_of(texts, config), tokenizer, torch_engine)
    found = vectors_at(folder)
    alone = np.concatenate([encode_texts([text], tokenizer, torch_engine) for text in texts])
    np.testing.assert_allclose(found, alone, rtol=0, atol=1e-6)
    lengths = np.array([len(tokenizer.encode_batch([text])[0].ids) for text in texts])
    assert pq.read_table(folder / "data")["num_tokens"].to_pylist() == lengths.tolist()
    assert not found[lengths == 0].any()
    assert np.abs(found[lengths > 0]).max(axis=1, initial=1).min(initial=1) > 1e-3
    totals = report.totals
    assert (totals.rows, totals.tokens, totals.empty) == (len(texts), lengths.sum(), (lengths == 0).sum())
    assert len(list((folder / "data").iterdir())) == report.encoded.shards == -(-len(texts) // shard_rows)


def test_rows_keep_their_order_and_differ(tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine) -> None:
    config = run_config(tmp_path, dataset={"keep_columns": ["text"]})
    encode(config, source_of(TEXTS, config), tokenizer, engine)
    table = pq.read_table(tmp_path / "data")
    assert table["text"].to_pylist() == list(TEXTS)
    assert len(np.unique(vectors_at(tmp_path), axis=0)) == len(TEXTS)
    np.testing.assert_array_equal(vectors_at(tmp_path), encode_texts(TEXTS, tokenizer, engine))


def test_streaming_gives_the_same_files(
    tmp_path: Path, texts_file: Path, tokenizer: TextTokenizer, engine: LookupEngine
) -> None:
    for name in ("stream", "map"):
        dataset = {"streaming": name == "stream", "keep_columns": ["text"]}
        config = run_config(tmp_path / name, texts_file, dataset=dataset)
        encode(config, open_dataset(config.dataset), tokenizer, engine)
    assert data_files(tmp_path / "stream") == data_files(tmp_path / "map")
    assert (tmp_path / "stream/identity.json").read_bytes() == (tmp_path / "map/identity.json").read_bytes()


# Ids and bad rows


def test_id_beyond_the_vocabulary_is_reported_with_its_row(
    tmp_path: Path, tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig]
) -> None:
    [[cat], [rain]] = [tokenizer.encode_batch([word])[0].ids for word in ("cat", "rain")]
    low, high = ("cat", "rain") if cat < rain else ("rain", "cat")
    engine = LookupEngine(encoder_config(vocab_size=max(cat, rain)))
    message = rf"\(row 4: the id {max(cat, rain)}; row 5: .*\); .*its vocabulary ends at {max(cat, rain) - 1}: use the"
    texts = [low, "", low, low, f"{low} {high}", high]
    with pytest.raises(TextError, match=message):
        encode_tokens(tokenize_texts(texts, tokenizer), engine)
    config = run_config(tmp_path)  # row 4 is in the second shard
    with pytest.raises(TextError, match=message):
        encode(config, source_of(texts, config), tokenizer, engine)
    assert list(data_files(tmp_path)) == ["shard-000000.parquet"]


def test_rows_of_no_tokens_get_zeros_without_a_batch(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine
) -> None:
    config = run_config(tmp_path)
    report = encode(config, source_of(["", " ", "\n"], config), tokenizer, engine)
    assert (report.totals.rows, report.totals.empty, report.totals.tokens, engine.batches) == (3, 3, 0, 0)
    assert vectors_at(tmp_path).tolist() == [[0.0] * engine.config.dim] * 3


def test_longer_text_is_an_error_or_truncated_and_flagged(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine
) -> None:
    config = run_config(tmp_path / "a", tokenizer={"max_length": 6})
    with pytest.raises(TextError, match=r"1 of the texts .*\(row 3: 12 tokens\)"):
        encode(config, source_of(TEXTS, config), tokenizer, engine)
    config = run_config(tmp_path / "b", tokenizer={"max_length": 6, "truncate": True})
    report = encode(config, source_of(TEXTS, config), tokenizer, engine)
    table = pq.read_table(tmp_path / "b/data")
    assert table["truncated"].to_pylist() == [len(text.split()) > 6 for text in TEXTS]
    assert table["num_tokens"].to_pylist() == [min(len(text.split()), 6) for text in TEXTS]
    assert report.totals.truncated == 2
    cut = [" ".join(text.split()[:6]) for text in TEXTS]
    np.testing.assert_array_equal(vectors_at(tmp_path / "b"), encode_texts(cut, tokenizer, engine))


# Resumed runs


def test_second_run_encodes_nothing(tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine) -> None:
    config = run_config(tmp_path)
    first = encode(config, source_of(TEXTS, config), tokenizer, engine)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    stamps = [path.stat().st_mtime_ns for path in sorted((tmp_path / "data").iterdir())]
    engine.batches = 0
    second = encode(config, source_of(TEXTS, config), tokenizer, engine)
    assert (engine.batches, second.encoded.shards, second.encoded.tokens) == (0, 0, 0)
    assert (first.encoded.shards, first.totals) == (3, second.totals)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files
    assert [path.stat().st_mtime_ns for path in sorted((tmp_path / "data").iterdir())] == stamps


@pytest.mark.parametrize("streaming", [False, True])
def test_interrupted_run_ends_as_an_uninterrupted_one(
    tmp_path: Path, texts_file: Path, tokenizer: TextTokenizer, engine: LookupEngine, streaming: bool
) -> None:
    batching = {"max_rows": 1}  # one row per batch: the seventh row, the only one of the third shard, breaks
    runs = {
        name: run_config(tmp_path / name, texts_file, dataset={"streaming": streaming}, batching=batching)
        for name in ("broken", "whole")
    }
    encode(runs["whole"], open_dataset(runs["whole"].dataset), tokenizer, engine)
    with pytest.raises(RunError, match=r"failed \(RuntimeError: pulled the plug\); the shards .* are safe, and the"):
        encode(runs["broken"], open_dataset(runs["broken"].dataset), tokenizer, FailingEngine(engine.config, last=6))
    whole = data_files(tmp_path / "whole")
    assert data_files(tmp_path / "broken") == dict(list(whole.items())[:2])
    assert not (tmp_path / "broken/manifest.json").exists()
    engine.name, engine.batches = FailingEngine.name, 0
    report = encode(runs["broken"], open_dataset(runs["broken"].dataset), tokenizer, engine)
    assert (engine.batches, report.encoded.shards, report.totals.rows) == (1, 1, len(TEXTS))
    assert data_files(tmp_path / "broken") == whole
    for name in ("manifest.json", "identity.json", "shards.jsonl"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_changed_shard_is_encoded_again(tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine) -> None:
    config = run_config(tmp_path)
    encode(config, source_of(TEXTS, config), tokenizer, engine)
    before = data_files(tmp_path)
    (tmp_path / "data/shard-000001.parquet").write_bytes(b"rubbish")
    assert encode(config, source_of(TEXTS, config), tokenizer, engine).encoded.shards == 1
    assert data_files(tmp_path) == before


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("tokenizer", {"max_length": 50}, "max_length was null, is 50"),
        ("dataset", {"shard_rows": 4}, "shard_rows was 3, is 4"),
        ("dataset", {"keep_columns": ["text"]}, 'keep_columns was [], is ["text"]'),
        ("encode", {"vector_dtype": "float16"}, 'vector_dtype was "float32", is "float16"'),
        ("batching", {"max_rows": 2}, "batching.max_rows was 512, is 2"),
    ],
)
def test_changed_setting_is_refused(
    tmp_path: Path,
    tokenizer: TextTokenizer,
    engine: LookupEngine,
    section: str,
    changes: dict[str, Any],
    message: str,
) -> None:
    config = run_config(tmp_path)
    encode(config, source_of(TEXTS, config), tokenizer, engine)
    before = data_files(tmp_path)
    other = run_config(tmp_path, **{section: changes})
    with pytest.raises(StoreError) as caught:
        encode(other, source_of(TEXTS, other), tokenizer, engine)
    assert f"holds the vectors of another run ({message});" in str(caught.value)
    assert data_files(tmp_path) == before


def test_other_texts_weights_or_encoders_are_refused(
    tmp_path: Path,
    tokenizer: TextTokenizer,
    engine: LookupEngine,
    encoder_config: Callable[..., EncoderConfig],
) -> None:
    config = run_config(tmp_path)
    source = source_of(TEXTS, config)
    encode(config, source, tokenizer, engine)
    with pytest.raises(StoreError, match=r"another run \(input was"):
        encode(config, source_of(TEXTS[:-1], config), tokenizer, engine)
    with pytest.raises(StoreError, match=r'another run \(weights was "weights of a test", is "other"'):
        encode(config, source, tokenizer, LookupEngine(engine.config, "other"))
    with pytest.raises(StoreError, match=r'another run \(encoder\.pooling was "mean", is "max"\)'):
        encode(config, source, tokenizer, LookupEngine(encoder_config(pooling="max")))


def test_setting_that_changes_no_byte_is_not_refused(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine
) -> None:
    config = run_config(tmp_path)
    encode(config, source_of(TEXTS, config), tokenizer, engine)
    other = run_config(tmp_path, encode={"bad_rows": "zero", "device": "auto"}, export={"output": "elsewhere"})
    assert encode(other, source_of(TEXTS, other), tokenizer, engine).encoded.shards == 0


def test_unreadable_input_ends_the_run_and_keeps_committed_shards(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine
) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS[:3]))
    (tmp_path / "b.jsonl").write_text('{"text": "never en')
    config = run_config(tmp_path / "out", tmp_path / "*.jsonl", dataset={"streaming": True})
    with pytest.raises(DatasetError, match="the rows cannot be read"):
        encode(config, open_dataset(config.dataset), tokenizer, engine)
    assert list(data_files(tmp_path / "out")) == ["shard-000000.parquet"]
    assert not (tmp_path / "out/manifest.json").exists()


# Reports


def test_folder_has_its_card_and_configuration(
    tmp_path: Path, tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig]
) -> None:
    engine = LookupEngine(encoder_config(trained=False, seed=7))
    config = run_config(tmp_path)
    encode(config, source_of(TEXTS, config), tokenizer, engine)
    card = (tmp_path / "README.md").read_text()
    assert "never trained** (seed 7)" in card
    assert f"{len(TEXTS)} rows" in card
    assert "6-dimensional mean-pooled" in card
    assert (tmp_path / "run.yaml").read_text() == config.to_yaml()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md",
        "data",
        "identity.json",
        "input.json",
        "manifest.json",
        "run.yaml",
        "shards.jsonl",
    ]


def test_flagged_rows_are_logged(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine, caplog: pytest.LogCaptureFixture
) -> None:
    config = run_config(tmp_path, encode={"bad_rows": "zero"}, tokenizer={"max_length": 1, "truncate": True})
    encode(config, source_of(["", None, "a dog", "moon"], config), tokenizer, engine)
    messages = [record.getMessage() for record in caplog.records if record.name == "lengthwise.run.local"]
    assert messages == ["1 of 4 texts are empty", "1 of 4 texts are null or not Unicode", "1 of 4 texts are truncated"]


def test_report_sums_the_plans_of_the_shards(tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine) -> None:
    config = run_config(tmp_path)
    texts = [*TEXTS, "", TEXTS[6], TEXTS[6]]  # shards of three: the last two rows, in a shard of their own, are alike
    report = encode(config, source_of(texts, config), tokenizer, engine)
    shards = [tokenize_texts(texts[start : start + 3], tokenizer) for start in range(0, len(texts), 3)]
    plans = [encode_tokens(tokens, LookupEngine(engine.config))[1] for tokens in shards]
    assert report.encoded.plan == sum(plans[1:], plans[0])
    assert (report.encoded.plan.rows, report.encoded.repeated) == (len(TEXTS) + 1, 1)
    assert (report.encoded.rows, report.encoded.unplanned.rows) == (len(texts), len(TEXTS) + 2)
    assert report.encoded.unplanned.cells > report.encoded.unplanned.tokens == report.encoded.tokens
    assert report.encoded.lengths.sum() == len(texts)
    assert (report.encoded.lengths * np.arange(len(report.encoded.lengths))).sum() == report.encoded.tokens
    assert report.tokens_per_second > 0
    stages = report.encoded.stages
    assert 0 < max(stages.tokenize, stages.encode, stages.write) <= report.seconds
    assert (report.encoded.max_deviation, report.encoded.min_cosine) == (None, None)


def test_next_shard_is_tokenized_while_a_shard_is_encoded(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenized: list[list[str]] = []
    encoded: list[int] = []
    original = engine.encode_batch

    def tokenize(texts: Any, *arguments: Any, **options: Any) -> Any:
        tokenized.append(texts.to_pylist())
        return tokenize_texts(texts, *arguments, **options)

    def encode_batch(input_ids: Any, lengths: Any) -> Any:
        encoded.append(len(lengths))
        deadline = time.monotonic() + 30
        while len(tokenized) < min(3, len(encoded) + 1) and time.monotonic() < deadline:
            time.sleep(0.001)
        assert time.monotonic() < deadline, "the next shard was not started"
        return original(input_ids, lengths)

    monkeypatch.setattr("lengthwise.run.shard.tokenize_texts", tokenize)
    monkeypatch.setattr(engine, "encode_batch", encode_batch)
    config = run_config(tmp_path)
    encode(config, source_of(TEXTS, config), tokenizer, engine)
    assert tokenized == [list(TEXTS[start : start + 3]) for start in (0, 3, 6)]
    assert sum(encoded) == len(TEXTS)


def test_engine_thread_neither_plans_nor_casts_nor_writes(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = threading.current_thread().name
    expected = {"tokenize_texts": "prefetch", "plan_tokens": "prefetch", "report_plan": "prefetch"}
    expected |= {"encode_planned": here, "cast_vectors": "background", "write_shard": "background"}
    threads: dict[str, set[str]] = {}

    def record_thread(name: str) -> Callable[..., Any]:
        original = getattr(shard, name)

        def call(*arguments: Any, **options: Any) -> Any:
            threads.setdefault(name, set()).add(threading.current_thread().name.partition("_")[0])
            return original(*arguments, **options)

        return call

    for name in expected:
        monkeypatch.setattr(shard, name, record_thread(name))
    config = run_config(tmp_path)
    encode(config, source_of(TEXTS, config), tokenizer, engine)
    assert threads == {name: {thread} for name, thread in expected.items()}


@pytest.mark.parametrize("bad", [4, 6])
def test_vector_that_cannot_be_stored_ends_the_run_at_its_shard(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine, monkeypatch: pytest.MonkeyPatch, bad: int
) -> None:
    """In the middle of the run, and in its last shard, after which nothing else is encoded."""
    monkeypatch.setattr("lengthwise.run.local.writers", lambda: 1)  # so that no later shard is written
    texts = [word if row != bad else "moon" for row, word in enumerate(["sea", "cat", "dog", "rain", "a", "sat", "at"])]
    engine.table[tokenizer.encode_batch(["moon"])[0].ids] = np.nan
    config = run_config(tmp_path)
    with pytest.raises(TextError, match=rf"^row {bad} cannot be stored: its vector is not finite, .* quarantine or"):
        encode(config, source_of(texts, config), tokenizer, engine)
    assert list(data_files(tmp_path)) == [f"shard-{shard:06d}.parquet" for shard in range(bad // 3)]
    assert not (tmp_path / "manifest.json").exists()
    engine.table[tokenizer.encode_batch(["moon"])[0].ids] = 1
    assert encode(config, source_of(texts, config), tokenizer, engine).encoded.shards == 3 - bad // 3


def test_shards_written_in_parallel_have_the_same_bytes(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [*TEXTS, *TEXTS[::-1], "sea"]
    barrier, write_shard = threading.Barrier(2), shard.write_shard

    def write_in_pairs(*arguments: Any) -> Any:
        if arguments[3]["index"] < 4:
            barrier.wait(timeout=30)
        return write_shard(*arguments)

    for number, write in ((1, write_shard), (2, write_in_pairs)):
        monkeypatch.setattr("lengthwise.run.local.writers", lambda number=number: number)
        monkeypatch.setattr(shard, "write_shard", write)
        config = run_config(tmp_path / str(number))
        report = encode(config, source_of(texts, config), tokenizer, engine)
        assert (report.encoded.shards, report.encoded.rows) == (5, len(texts))
    for name in ("shards.jsonl", "manifest.json"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    assert data_files(tmp_path / "1") == data_files(tmp_path / "2")


@pytest.mark.parametrize(("number", "expected"), [(1, 1), (2, 1), (7, 1), (8, 2), (16, 4), (128, 4)])
def test_writers_depend_on_the_number_of_cores(monkeypatch: pytest.MonkeyPatch, number: int, expected: int) -> None:
    monkeypatch.setattr("lengthwise.run.local.cpu_count", lambda: number)
    assert writers() == expected


def test_shard_that_cannot_be_written_ends_the_run(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    write_table = pq.write_table

    def write(*arguments: Any, **options: Any) -> None:
        written.append(1)
        if len(written) == 2:
            raise_disk_full()
        write_table(*arguments, **options)

    monkeypatch.setattr(pq, "write_table", write)
    monkeypatch.setattr("lengthwise.run.local.writers", lambda: 1)  # so that the second is the second
    config = run_config(tmp_path)
    with pytest.raises(StoreError, match=r"shard-000001.*No space left"):
        encode(config, source_of(TEXTS, config), tokenizer, engine)
    assert list(data_files(tmp_path)) == ["shard-000000.parquet"]
    assert not (tmp_path / "manifest.json").exists()
    assert encode(config, source_of(TEXTS, config), tokenizer, engine).encoded.shards == 2


def test_datasets_cache_distinguishes_runs(tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine) -> None:
    """Its cache is keyed by the names of the folder and of the configuration in the card."""
    for name, texts in (("a", ["moon", "rain"]), ("b", ["rain", "moon"])):
        config = run_config(tmp_path / name / "vectors")
        encode(config, source_of(texts, config), tokenizer, engine)
        found = datasets.load_dataset(str(tmp_path / name / "vectors"), split="train")
        np.testing.assert_array_equal(np.float32(found["embedding"][:]), encode_texts(texts, tokenizer, engine))


def test_run_needs_no_torch(tmp_path: Path, texts_file: Path) -> None:
    """A whole run on an engine of NumPy."""
    code = f"""
        import sys
        import numpy as np
        from lengthwise.batching.costs import STEPWISE
        from lengthwise.config import EncoderConfig, RunConfig, TokenizerTraining
        from lengthwise.data.dataset import open_dataset
        from lengthwise.run.local import encode_dataset, writers
        from lengthwise.tokens.training import train_tokenizer

        class Ones:
            name, config = "ones", EncoderConfig(vocab_size=99, hidden_size=4)
            fingerprint, classifier = "of ones", None
            costs, reference, sharing, run_all, batch_invariant = STEPWISE, None, None, staticmethod(map), True

            def encode_batch(self, input_ids, lengths):
                return np.ones((len(lengths), 4), np.float32)

        run = RunConfig.model_validate({{
            "dataset": {{"path": {str(texts_file)!r}}},
            "model": {{"path": "none"}},
            "encode": {{"output": {str(tmp_path / "out")!r}}},
        }})
        source = open_dataset(run.dataset)
        tokenizer = train_tokenizer(source.texts(), TokenizerTraining(model="wordlevel", min_frequency=1))
        report = encode_dataset(run, source, tokenizer, Ones(), show_progress=False)
        print(report.totals.rows, "torch" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{len(TEXTS)} False\n"), done.stderr
    assert vectors_at(tmp_path / "out").tolist() == [[1.0] * 4] * len(TEXTS)


def test_importing_the_pipeline_imports_neither_torch_nor_datasets() -> None:
    modules = ["config", "data.dataset", "store.vectors", "encoder.engine", "run.local", "tokens.tokenizer"]
    code = f"""
        import importlib, sys
        for module in {modules}:
            importlib.import_module("lengthwise." + module)
        print(sorted({{"torch", "datasets", "onnx", "onnxruntime"}} & set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
