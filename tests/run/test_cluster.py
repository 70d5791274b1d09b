"""Runs on Ray: failures of workers are reported, and nothing waits indefinitely. Whole runs are in `tests/faults`."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from faults.processes import Job
from helpers.files import contents
from helpers.growing import write_rows
from helpers.runs import append
from helpers.texts import TEXTS
from lengthwise.config import ClusterSettings, RunConfig, load_config
from lengthwise.data.dataset import find_run_dataset, open_dataset
from lengthwise.encoder.torch_engine import open_torch
from lengthwise.errors import RunError, StoreError, TextError
from lengthwise.run.cluster import (
    ShardWorker,
    SourceRows,
    _check_capacity,
    _with_absolute_paths,
    append_on_cluster,
    encode_on_cluster,
)
from lengthwise.run.local import encode_dataset
from lengthwise.tokens.tokenizer import TextTokenizer

if importlib.util.find_spec("ray") is None:  # which takes seconds to import, in every test process
    pytest.skip("Ray is not installed: pip install lengthwise[ray]", allow_module_level=True)


@pytest.fixture(scope="module")
def _connected() -> Iterator[None]:
    """One cluster of two cores for all tests; this module is pickled by value for its workers."""
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


@pytest.fixture
def config(tmp_path: Path, tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """A run of four shards, with its folder as the working directory."""
    job = Job(tmp_path, tokenizer, rows=200, cluster={"workers": 1, "retries": 1})
    monkeypatch.chdir(job.folder)
    return load_config(job.folder / "run.yaml")


def encode(config: RunConfig, open_engine: Any = open_torch) -> Any:
    return encode_on_cluster(config, open_dataset(config.dataset), open_engine, show_progress=False)


def with_settings(config: RunConfig, section: str, **settings: Any) -> RunConfig:
    return config.model_copy(update={section: getattr(config, section).model_copy(update=settings)})


@pytest.mark.slow
@pytest.mark.usefixtures("_connected")
def test_stream_is_encoded_and_an_error_in_a_worker_is_reported(config: RunConfig) -> None:
    config = with_settings(config, "tokenizer", max_length=5)
    with pytest.raises(TextError, match=r"longer than tokenizer\.max_length = 5"):
        encode(config)
    config = with_settings(with_settings(config, "tokenizer", max_length=None), "dataset", streaming=True)
    report = encode(config)  # into the same folder: nothing was committed
    assert (report.totals.rows, report.encoded.shards, report.is_complete, report.engine) == (200, 4, True, "torch cpu")
    alone = with_settings(config, "encode", output="alone")
    encode_dataset(alone, open_dataset(alone.dataset), *reversed(open_torch(alone)), show_progress=False)
    written = Path(config.encode.output)
    assert contents(written / "data") == contents(Path("alone/data"))
    before = contents(written)
    assert encode(config).encoded.shards == 0
    with pytest.raises(StoreError, match=r"another run \(max_length was null, is 5\)"):
        encode(with_settings(config, "tokenizer", max_length=5))
    assert contents(written) == before


@pytest.mark.heavy
@pytest.mark.usefixtures("_connected")
def test_workers_reuse_vectors_and_share_a_cache(config: RunConfig) -> None:
    """With the records that one process writes."""
    settings = {"precision": "int8", "reuse": ("old",), "cache": "cache"}
    old = with_settings(config, "encode", output="old", precision="int8")  # keeps its texts
    encode_dataset(old, open_dataset(old.dataset), *reversed(open_torch(old)), show_progress=False)
    config = with_settings(config, "dataset", shard_rows=70, key="id")
    report = encode(with_settings(config, "encode", output="by_ray", **settings))
    assert report.reuse[0] == "200 rows have their vector from old"
    alone = with_settings(config, "encode", output="alone", **settings)
    encode_dataset(alone, open_dataset(alone.dataset), *reversed(open_torch(alone)), show_progress=False)
    found, expected = contents(Path("by_ray")), contents(Path("alone"))
    assert found.pop("run.yaml") != expected.pop("run.yaml")  # the names of the outputs
    assert found == expected
    assert "changes/summary.json" in found


@pytest.mark.slow
@pytest.mark.usefixtures("_connected")
@pytest.mark.parametrize("streaming", [False, pytest.param(True, marks=pytest.mark.heavy)])
def test_rows_are_added_by_workers(config: RunConfig, streaming: bool) -> None:
    """New files, and rows after those of a file, to what one process began; with the files of one process."""
    config = with_settings(config, "dataset", path="in", streaming=streaming)
    by_ray, alone = (with_settings(config, "encode", output=name, append=True) for name in ("by_ray", "alone"))
    rows = [(number, TEXTS[number % len(TEXTS)]) for number in range(180)]
    write_rows(Path("in/b.jsonl"), rows[:120])
    for one in (by_ray, alone):
        append(one, *reversed(open_torch(one)))
    write_rows(Path("in/a.jsonl"), rows[:60])
    write_rows(Path("in/b.jsonl"), rows)
    report = append_on_cluster(by_ray, find_run_dataset(by_ray), open_torch, show_progress=False)
    assert (report.totals.rows, report.encoded.rows, report.encoded.shards, report.is_complete) == (240, 120, 4, True)
    append(alone, *reversed(open_torch(alone)))
    found, expected = contents(Path("by_ray")), contents(Path("alone"))
    assert found.pop("run.yaml") != expected.pop("run.yaml")  # the names of the outputs
    assert found == expected


@pytest.mark.heavy
@pytest.mark.usefixtures("_connected")
def test_shard_that_kills_every_worker_ends_the_run(config: RunConfig, tmp_path: Path) -> None:
    opened = tmp_path / "opened"

    def open_and_die(config: RunConfig, workers: int | None) -> Any:
        engine, tokenizer = open_torch(config, workers)
        if opened.exists():  # the first time finds the identity
            engine.encode_batch = lambda *_: os._exit(1)  # type: ignore[method-assign]
        opened.touch()
        return engine, tokenizer

    with pytest.raises(RunError, match=r"vectors: the run failed \(.*; the shards that were committed are safe"):
        encode(config, open_and_die)
    assert encode(config).encoded.shards == 4


@pytest.mark.usefixtures("_connected")
def test_check_capacity_refuses_what_ray_would_wait_for() -> None:
    _check_capacity(ClusterSettings(workers=2))
    for settings in (
        ClusterSettings(workers=3),
        ClusterSettings(cpus_per_worker=3),
        ClusterSettings(gpus_per_worker=1.0),
    ):
        with pytest.raises(RunError, match=r"capacity for . workers of . CPUs and . GPUs, but . are requested"):
            _check_capacity(settings)


def test_worker_with_another_model_or_input_refuses(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")  # which a worker sets for itself
    source = open_dataset(config.dataset)
    rows = SourceRows.of(source)
    worker = ShardWorker(config, open_torch, rows, {"weights": "other"})
    assert "a worker's run differs from the driver's (" in str(worker._error)
    worker = ShardWorker(config, open_torch, replace(rows, data_rows=199), {})
    assert "has 200 rows on a worker, but 199 on the driver" in str(worker._error)
    [result] = worker({"number": [0]})["result"]
    assert b"199 on the driver" in result
    worker = ShardWorker(config, open_torch, replace(rows, versions={"later.parquet": "1"}), {})
    assert "a worker does not find later.parquet; give all nodes the same files" in str(worker._error)


def test_with_absolute_paths_leaves_urls_and_hub_names(config: RunConfig, tmp_path: Path) -> None:
    found = _with_absolute_paths(config)
    assert found.dataset.path == str(tmp_path / "rows.parquet")
    assert (found.model.path, found.encode.output) == (str(tmp_path / "model"), str(tmp_path / "vectors"))
    hub = with_settings(config, "dataset", path="user/name")
    assert _with_absolute_paths(hub).dataset.path == "user/name"
    url = with_settings(with_settings(config, "dataset", path="s3://a/b"), "encode", output="s3://a/c")
    assert (_with_absolute_paths(url).dataset.path, _with_absolute_paths(url).encode.output) == ("s3://a/b", "s3://a/c")


def test_encode_on_cluster_without_ray_names_the_extra(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RunError, match=r"install lengthwise\[ray\]"):
        encode(config)
