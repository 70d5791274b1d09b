"""Encodes a dataset on a Ray cluster: workers receive shard numbers, and return records of what they wrote.

Rows are not sent. A worker loads the model once, reads the rows of its shard, and writes the shard's file with the
code that does it on one machine; the driver adds the record to the folder's log. So resuming, identity and the folder's
bytes are the same as on one machine, and a worker that dies costs its current shard, which another one encodes. For
rows that are added to a folder, the driver finds out which they are.

All nodes need the same package and versions, and access to the run's paths (an output on a shared disk or at a URL). A
worker whose model or input differs from the driver's refuses to work.

Notable decisions:
- Ray Data keeps no order and its own checkpoints hold all ids in memory; neither is needed where the unit of work is a
  shard's number and the folder's log lists what is done.
- A worker runs the steps of a shard one after the other. Several workers that share a GPU (`cluster.gpus_per_worker`
  below 1) overlap them.
- From a stream, a worker reads and skips the rows of the other shards. Data with random access (local files, not
  streamed) divides better.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import pickle
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from lengthwise.config import ClusterSettings, RunConfig
from lengthwise.data.dataset import Source, find_run_dataset
from lengthwise.data.input import Input
from lengthwise.data.source import Section
from lengthwise.encoder.engine import Engine
from lengthwise.errors import LengthwiseError, RunError, StoreError
from lengthwise.run.append import open_growing
from lengthwise.run.changes import check_changes
from lengthwise.run.finalize import finalize, record_input
from lengthwise.run.identity import input_identity, model_identity
from lengthwise.run.labels import check_columns
from lengthwise.run.local import make_report, open_store, pending_filter, wrap_errors
from lengthwise.run.precision import PrecisionChoice
from lengthwise.run.progress import ProgressBar, progress_bar
from lengthwise.run.reuse import Reuse
from lengthwise.run.reuse_folders import open_reuse
from lengthwise.run.shard import ShardEncoder
from lengthwise.run.stats import EncodeReport, ShardStats
from lengthwise.store.fingerprint import describe_changes, identity_hash
from lengthwise.store.folder import open_folder
from lengthwise.store.records import ShardRecord
from lengthwise.store.vectors import VectorStore
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.util.signals import preserve_signal_handlers
from lengthwise.util.system import cpu_count, return_freed_memory
from lengthwise.util.threads import parallel_map

LOCAL = "local"
OpenEngine = Callable[[RunConfig, int | None], tuple[Engine, TextTokenizer]]
Result = tuple[ShardRecord, ShardStats] | LengthwiseError


def encode_on_cluster(
    config: RunConfig,
    source: Source,
    open_engine: OpenEngine,
    address: str = LOCAL,
    *,
    fresh: bool = False,
    show_progress: bool = True,
    choice: PrecisionChoice | None = None,
) -> EncodeReport:
    """Encode a dataset into the folder `encode.output` on a Ray cluster; see `lengthwise.run.local.encode_dataset`.

    Args:
        open_engine: opens the engine and the tokenizer in a worker, for a number of concurrent batches; importable
            there.
        address: the cluster's, or "local" for one on this machine that ends with the run. An existing connection of
            this process is used as it is.
        choice: how the precision was chosen, if it was.

    Raises:
        LengthwiseError: as `encode_dataset`; the cluster cannot be reached, or has no capacity for a worker.
    """
    started = time.perf_counter()
    check_changes(config, source)
    with _open_cluster(config, open_engine, address) as (model, batch_invariant):
        identity = {**input_identity(config, source.fingerprint), **model}
        with (
            open_reuse(config, identity, batch_invariant=batch_invariant) as reuse,
            open_store(config, identity, fresh=fresh, choice=choice, sources=reuse.sources) as store,
            progress_bar(source, None, show_progress) as bar,
        ):
            source.count_rows()
            stats = _encode_shards(config, source, open_engine, store, pending_filter(store, None, bar.update), bar)
            finalize(store, config, record_input(source))
            notes = reuse.describe(stats.reused)
    return make_report(store, stats, time.perf_counter() - started, choice=choice, reuse=notes)


def append_on_cluster(
    config: RunConfig,
    found: Input,
    open_engine: OpenEngine,
    address: str = LOCAL,
    *,
    fresh: bool = False,
    show_progress: bool = True,
    choice: PrecisionChoice | None = None,
) -> EncodeReport:
    """`lengthwise.run.append.encode_append` on a Ray cluster; a stream is read to its end first.

    Args and errors are those of `encode_on_cluster` and `encode_append`.
    """
    started = time.perf_counter()

    def encode(source: Source, is_pending: Callable[[int], bool], store: VectorStore, reuse: Reuse) -> ShardStats:
        source.count_rows()
        with progress_bar(source, None, show_progress) as bar:
            return _encode_shards(config, source, open_engine, store, is_pending, bar)

    with (
        _open_cluster(config, open_engine, address) as (model, batch_invariant),
        open_growing(config, model, batch_invariant, encode, fresh=fresh, choice=choice) as run,
    ):
        run.encode_all(found)
        return run.report(time.perf_counter() - started, choice)


@contextlib.contextmanager
def _open_cluster(config: RunConfig, open_engine: OpenEngine, address: str) -> Iterator[tuple[dict[str, Any], bool]]:
    """A connection with capacity for the run; `model_identity`, and whether the engine is batch-invariant."""
    on_cpu = config.encode.device == "cpu"
    with ThreadPoolExecutor(1) as pool, contextlib.ExitStack() as stack:
        # While Ray starts. With GPUs a worker finds the identity: this process may have none, or another one.
        found = pool.submit(_find_identity, _with_absolute_paths(config), open_engine) if on_cpu else None
        stack.enter_context(connect_to_ray(address))
        stack.enter_context(wrap_errors(config.encode.output))
        _check_capacity(config.cluster)
        yield found.result() if found else _find_identity_on_worker(_with_absolute_paths(config), open_engine)


@dataclass(frozen=True)
class SourceRows:
    """The rows of a source, which a worker opens for itself.

    Attributes:
        fingerprint, versions, data_rows, sections: the source's.
    """

    fingerprint: str
    versions: Mapping[str, str]
    data_rows: int | None
    sections: Sequence[Section]

    @classmethod
    def of(cls, source: Source) -> SourceRows:
        """Those of an open source."""
        return cls(source.fingerprint, dict(source.versions), source.data_rows, source.sections)

    def open(self, config: RunConfig) -> Source:
        """The same source.

        Raises:
            StoreError: this node has other files.
        """
        found = find_run_dataset(config)
        if found.files is None or not self.versions:
            source = found.open_whole(self.fingerprint)
        elif missing := self.versions.keys() - found.files.paths.keys():
            raise StoreError(
                f"{config.dataset.path}: a worker does not find {min(missing)}; give all nodes the same files"
            )
        else:
            source = found.files.open(self.fingerprint, self.versions)
        if source.data_rows != self.data_rows:
            raise StoreError(
                f"{config.dataset.path}: has {source.data_rows} rows on a worker, but {self.data_rows} on the driver;"
                " give all nodes the same files"
            )
        return source.with_sections(self.sections)


class ShardWorker:
    """A Ray actor: the model, the dataset and the folder, opened once."""

    def __init__(
        self, config: RunConfig, open_engine: OpenEngine, rows: SourceRows, identity: Mapping[str, Any]
    ) -> None:
        self._error: LengthwiseError | None = None
        return_freed_memory()
        try:
            self._source, self._encoder = _open_encoder(config, open_engine, rows, identity)
        except LengthwiseError as error:  # returned by the first call: Ray retries a constructor that raises
            self._error = error

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Encode a batch of shard numbers; returns a batch of pickled results."""
        return {"result": np.array([pickle.dumps(self._result(int(number))) for number in batch["number"]], object)}

    def _result(self, number: int) -> Result:
        if self._error is not None:
            return self._error
        try:
            return self._encoder.encode(self._source.read(number))
        except LengthwiseError as error:
            return error


def _open_encoder(
    config: RunConfig, open_engine: OpenEngine, rows: SourceRows, identity: Mapping[str, Any]
) -> tuple[Source, ShardEncoder]:
    """The dataset and the encoder of a worker; refused where they differ from the run's."""
    engine, tokenizer = _open_on_worker(config, open_engine)
    source = rows.open(config)
    if changes := describe_changes(identity, {**identity, **model_identity(config, tokenizer, engine)}):
        raise StoreError(
            f"a worker's run differs from the driver's ({changes}); give all nodes the same model and packages"
        )
    folder = open_folder(config.encode.output)
    reuse = open_reuse(config, identity, batch_invariant=engine.batch_invariant)
    return source, ShardEncoder(config, source, tokenizer, engine, folder, identity_hash(identity), reuse)


def _find_identity(config: RunConfig, open_engine: OpenEngine) -> tuple[dict[str, Any], bool]:
    """`model_identity` of the model that this process opens, and whether the engine is batch-invariant."""
    engine, tokenizer = open_engine(config, config.cluster.cpus_per_worker)
    check_columns(config, engine.classifier)
    return model_identity(config, tokenizer, engine), engine.batch_invariant


def _open_on_worker(config: RunConfig, open_engine: OpenEngine) -> tuple[Engine, TextTokenizer]:
    os.environ["RAYON_NUM_THREADS"] = str(config.cluster.cpus_per_worker)  # read when the first text is tokenized
    engine, tokenizer = open_engine(config, config.cluster.cpus_per_worker)
    check_columns(config, engine.classifier)
    return engine, tokenizer


def _find_identity_on_worker(config: RunConfig, open_engine: OpenEngine) -> tuple[dict[str, Any], bool]:
    """The same, from the model that a worker opens."""
    import ray

    def find() -> tuple[dict[str, Any], bool] | LengthwiseError:
        try:
            engine, tokenizer = _open_on_worker(config, open_engine)
            return model_identity(config, tokenizer, engine), engine.batch_invariant
        except LengthwiseError as error:
            return error

    settings = config.cluster
    task = ray.remote(num_cpus=settings.cpus_per_worker, num_gpus=settings.gpus_per_worker, max_retries=0)(find)
    found = ray.get(task.remote())
    if isinstance(found, LengthwiseError):
        raise found
    return found


def _encode_shards(
    config: RunConfig,
    source: Source,
    open_engine: OpenEngine,
    store: VectorStore,
    is_pending: Callable[[int], bool],
    bar: ProgressBar,
) -> ShardStats:
    """Encode and commit the shards for whose numbers `is_pending` is true."""
    numbers, stats = list(source.indices()), ShardStats()
    pending = list(compress(numbers, parallel_map(is_pending, numbers, cpu_count())))
    rows, worker_config = SourceRows.of(source), _with_absolute_paths(config)
    for record, took in _encode_on_workers(worker_config, rows, open_engine, store.identity, pending):
        store.add(record)
        stats += took
        bar.advance(record.rows, record.tokens)
    return stats


def _encode_on_workers(
    config: RunConfig, rows: SourceRows, open_engine: OpenEngine, identity: Mapping[str, Any], pending: list[int]
) -> Iterator[tuple[ShardRecord, ShardStats]]:
    """The records and stats of the pending shards, in the order in which workers finish them."""
    import ray.data

    if not pending:
        return
    settings = config.cluster
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it prints its plans
    ray.data.DataContext.get_current().enable_progress_bars = False
    # One block per shard: Ray retries a block when a worker dies.
    numbers = ray.data.from_items([{"number": number} for number in pending], override_num_blocks=len(pending))
    with warnings.catch_warnings(action="ignore"):  # of arguments for retries, which have no stable name yet
        results = numbers.map_batches(
            ShardWorker,
            fn_constructor_args=(config, open_engine, rows, identity),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(
                size=min(len(pending), settings.workers or _capacity(settings)), max_tasks_in_flight_per_actor=1
            ),
            num_cpus=settings.cpus_per_worker,
            num_gpus=settings.gpus_per_worker,
            max_restarts=-1,
            max_task_retries=settings.retries,
        )
    for row in results.iter_rows():
        result: Result = pickle.loads(row["result"])
        if isinstance(result, LengthwiseError):
            raise result
        yield result


@contextlib.contextmanager
def connect_to_ray(address: str) -> Iterator[None]:
    """Connect to the cluster for the duration of the block, unless this process is connected already."""
    try:
        import ray
    except ImportError:
        raise RunError("--cluster needs Ray, which is not installed; install lengthwise[ray]") from None
    if ray.is_initialized():
        yield
        return
    try:
        with preserve_signal_handlers():
            if address == LOCAL:
                os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
                os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
                ray.init(
                    LOCAL,
                    num_cpus=cpu_count(),
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
            else:
                ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray has many exceptions for an address that it cannot reach
        raise RunError(f"--cluster {address}: cannot be reached ({error}); check the address") from error
    try:
        yield
    finally:
        ray.shutdown()


def _capacity(settings: ClusterSettings) -> int:
    """How many workers fit the cluster's present resources."""
    import ray

    resources = ray.cluster_resources()
    by_cpus = resources.get("CPU", 0) / settings.cpus_per_worker
    by_gpus = resources.get("GPU", 0) / settings.gpus_per_worker if settings.gpus_per_worker else by_cpus
    return int(min(by_cpus, by_gpus))


def _check_capacity(settings: ClusterSettings) -> None:
    """Refuse what Ray would wait for indefinitely."""
    capacity = _capacity(settings)
    if capacity < (settings.workers or 1):
        raise RunError(
            f"the cluster has capacity for {capacity} workers of {settings.cpus_per_worker} CPUs and"
            f" {settings.gpus_per_worker:g} GPUs, but {settings.workers or 1} are requested; lower cluster.workers,"
            " cluster.cpus_per_worker or cluster.gpus_per_worker"
        )


def _with_absolute_paths(config: RunConfig) -> RunConfig:
    """The run with absolute local paths: a worker's working directory is another one."""

    def absolute(path: str) -> str:
        return path if "://" in path else str(Path(path).expanduser().absolute())

    changes = {
        "dataset": {"path": absolute(config.dataset.path) if _is_local(config.dataset.path) else config.dataset.path},
        "model": {"path": absolute(config.model.path)},
        "tokenizer": {"path": None if config.tokenizer.path is None else absolute(config.tokenizer.path)},
        "encode": {
            "output": absolute(config.encode.output),
            "cache": None if config.encode.cache is None else absolute(config.encode.cache),
            "reuse": tuple(absolute(folder) for folder in config.encode.reuse),
        },
        "export": {"output": absolute(config.export.output)},
    }
    return config.model_copy(
        update={name: getattr(config, name).model_copy(update=update) for name, update in changes.items()}
    )


def _is_local(path: str) -> bool:
    """Whether a file, folder or pattern exists; else it is a name on the hub, or a URL."""
    local = Path(path).expanduser()
    return local.exists() or bool(glob.glob(str(local), recursive=True))
