"""Encodes a dataset on a Ray cluster: workers receive shard numbers, and return records of what they wrote.

Rows are not sent. A worker loads the model once, reads the rows of its shard, and writes the shard's file with the
code that does it on one machine; the driver adds the record to the folder's log. So resuming, identity and the folder's
bytes are the same as on one machine, and a worker that dies costs its current shard, which another one encodes.

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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from lengthwise.config import ClusterSettings, RunConfig
from lengthwise.data.dataset import Source, open_run_dataset
from lengthwise.encoder.engine import Engine
from lengthwise.errors import LengthwiseError, RunError, StoreError
from lengthwise.run.changes import check_changes
from lengthwise.run.finalize import finalize, record_input
from lengthwise.run.identity import run_identity
from lengthwise.run.labels import check_columns
from lengthwise.run.local import make_report, open_store, pending_filter, wrap_errors
from lengthwise.run.precision import PrecisionChoice
from lengthwise.run.progress import progress_bar
from lengthwise.run.reuse_folders import open_reuse
from lengthwise.run.shard import ShardEncoder
from lengthwise.run.stats import EncodeReport, ShardStats
from lengthwise.store.fingerprint import describe_changes, identity_hash
from lengthwise.store.folder import open_folder
from lengthwise.store.records import ShardRecord
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
    worker_config = _with_absolute_paths(config)
    check_changes(config, source)
    with ThreadPoolExecutor(1) as pool, contextlib.ExitStack() as stack:
        # While Ray starts. With GPUs a worker finds the identity: this process may have none, or another one.
        on_cpu = config.encode.device == "cpu"
        found = pool.submit(_find_identity, worker_config, source, open_engine) if on_cpu else None
        stack.enter_context(connect_to_ray(address))
        stack.enter_context(wrap_errors(config.encode.output))
        _check_capacity(config.cluster)
        identity, batch_invariant = (
            found.result() if found else _find_identity_on_worker(worker_config, source.fingerprint, open_engine)
        )
        with (
            open_reuse(config, identity, batch_invariant=batch_invariant) as reuse,
            open_store(config, identity, fresh=fresh, choice=choice, sources=reuse.sources) as store,
            progress_bar(source, None, show_progress) as bar,
        ):
            rows = source.count_rows()
            numbers = range(-(-rows // config.dataset.shard_rows))
            is_pending = parallel_map(pending_filter(store, None, bar.update), numbers, cpu_count())
            pending = list(compress(numbers, is_pending))
            stats = ShardStats()
            for record, took in _encode_on_workers(worker_config, source, open_engine, identity, pending):
                store.add(record)
                stats += took
                bar.advance(record.rows, record.tokens)
            finalize(store, config, record_input(source))
            notes = reuse.describe(stats.reused)
    return make_report(store, stats, time.perf_counter() - started, choice=choice, reuse=notes)


class ShardWorker:
    """A Ray actor: the model, the dataset and the folder, opened once."""

    def __init__(
        self, config: RunConfig, open_engine: OpenEngine, fingerprint: str, rows: int, identity: dict[str, Any]
    ) -> None:
        self._error: LengthwiseError | None = None
        return_freed_memory()
        try:
            self._source, self._encoder = _open_encoder(config, open_engine, fingerprint, rows, identity)
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
    config: RunConfig, open_engine: OpenEngine, fingerprint: str, rows: int, identity: dict[str, Any]
) -> tuple[Source, ShardEncoder]:
    """The dataset and the encoder of a worker; refused where they differ from the run's."""
    source, engine, tokenizer, found = _open_engine(config, open_engine, fingerprint)
    if source.num_rows not in (None, rows):
        raise StoreError(
            f"{config.dataset.path}: has {source.num_rows} rows on a worker, but {rows} on the driver; give all nodes"
            " the same files"
        )
    if changes := describe_changes(identity, found):
        raise StoreError(
            f"a worker's run differs from the driver's ({changes}); give all nodes the same model and packages"
        )
    folder = open_folder(config.encode.output)
    reuse = open_reuse(config, identity, batch_invariant=engine.batch_invariant)
    return source, ShardEncoder(config, source, tokenizer, engine, folder, identity_hash(identity), reuse)


def _find_identity(config: RunConfig, source: Source, open_engine: OpenEngine) -> tuple[dict[str, Any], bool]:
    """The run's identity, from the model that this process opens, and whether the engine is batch-invariant."""
    engine, tokenizer = open_engine(config, config.cluster.cpus_per_worker)
    check_columns(config, engine.classifier)
    return run_identity(config, source, tokenizer, engine), engine.batch_invariant


def _open_engine(
    config: RunConfig, open_engine: OpenEngine, fingerprint: str
) -> tuple[Source, Engine, TextTokenizer, dict[str, Any]]:
    os.environ["RAYON_NUM_THREADS"] = str(config.cluster.cpus_per_worker)  # read when the first text is tokenized
    engine, tokenizer = open_engine(config, config.cluster.cpus_per_worker)
    check_columns(config, engine.classifier)
    source = open_run_dataset(config, fingerprint)
    return source, engine, tokenizer, run_identity(config, source, tokenizer, engine)


def _find_identity_on_worker(
    config: RunConfig, fingerprint: str, open_engine: OpenEngine
) -> tuple[dict[str, Any], bool]:
    """The same, from the model that a worker opens."""
    import ray

    def find() -> tuple[dict[str, Any], bool] | LengthwiseError:
        try:
            _, engine, _, identity = _open_engine(config, open_engine, fingerprint)
            return identity, engine.batch_invariant
        except LengthwiseError as error:
            return error

    settings = config.cluster
    task = ray.remote(num_cpus=settings.cpus_per_worker, num_gpus=settings.gpus_per_worker, max_retries=0)(find)
    found = ray.get(task.remote())
    if isinstance(found, LengthwiseError):
        raise found
    return found


def _encode_on_workers(
    config: RunConfig, source: Source, open_engine: OpenEngine, identity: dict[str, Any], pending: list[int]
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
            fn_constructor_args=(config, open_engine, source.fingerprint, source.num_rows, identity),
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
