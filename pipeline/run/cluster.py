"""The same shards on a Ray cluster: numbers of shards go out, records of what was written come back.

Rows never travel. A worker loads the model once, reads the rows of the shard that it is given, and writes the shard's
file itself, with the code that does it on one machine; the process that asked for it adds the record to the folder's
log. So resuming, identity and the folder's bytes are the same as on one machine, and a worker that dies costs the shard
that it was at, which another one encodes.

What has to be the same on all nodes: this package and its versions, and what the run's paths name (an output on a
shared disk or at a URL). A worker whose model or input is another one than that of the first refuses to work.

Notable decisions:
- Ray Data keeps no order and its own checkpoints hold all ids in memory; neither is needed where the unit of work is a
  shard's number and the folder's log says what is done.
- A worker takes the steps of a shard one after the other. Several workers on a share of a GPU each
  (`cluster.gpus_per_worker` below 1) overlap them.
- Of a stream, a worker reads past the rows of shards that are not its own. Data that gives any row at once (local
  files, not streamed) is better divided.
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
from pathlib import Path
from typing import Any

import numpy as np

from lengthwise.config import ClusterSettings, RunConfig
from lengthwise.data.dataset import Source, open_dataset
from lengthwise.encoder.engine import Engine
from lengthwise.errors import LengthwiseError, RunError, StoreError
from lengthwise.run.finalize import finalize
from lengthwise.run.identity import run_identity
from lengthwise.run.local import EncodeReport, make_report, open_store, pending_shards, progress_bar, wrap_errors
from lengthwise.run.shard import ShardEncoder, ShardStats
from lengthwise.store.fingerprint import describe_changes, identity_hash
from lengthwise.store.folder import open_folder
from lengthwise.store.records import ShardRecord
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.util.signals import preserve_signal_handlers
from lengthwise.util.system import cpu_count
from lengthwise.util.threads import parallel_map

LOCAL = "local"
OpenEngine = Callable[[RunConfig, int | None], tuple[Engine, TextTokenizer]]
Result = tuple[ShardRecord, ShardStats] | LengthwiseError


def encode_on_cluster(
    run: RunConfig,
    source: Source,
    open_engine: OpenEngine,
    address: str = LOCAL,
    *,
    fresh: bool = False,
    show_progress: bool = True,
) -> EncodeReport:
    """Encode a dataset into the folder `encode.output` on a Ray cluster; see `lengthwise.run.local.encode_dataset`.

    Args:
        open_engine: opens what the run encodes with, in a worker, with so many batches at a time; importable there.
        address: of the cluster, or "local" for one on this machine that ends with the run. A cluster that this
            process is connected to already is used as it is.

    Raises:
        LengthwiseError: as of `encode_dataset`; there is no such cluster, or no room for a worker in it.
    """
    started = time.perf_counter()
    worker_run = _with_absolute_paths(run)
    with ThreadPoolExecutor(1) as beside, contextlib.ExitStack() as stack:
        # While Ray starts. Where there are GPUs it is for a worker to say: this process may have none, or another one.
        here = beside.submit(_identity, worker_run, source, open_engine) if run.encode.device == "cpu" else None
        stack.enter_context(_connected(address))
        stack.enter_context(wrap_errors(run.encode.output))
        _check_room(run.cluster)
        identity = here.result() if here else _identity_on_a_worker(worker_run, source.fingerprint, open_engine)
        with open_store(run, identity, fresh=fresh) as store, progress_bar(source, None, show_progress) as bar:
            rows = source.count_rows()
            numbers = range(-(-rows // run.dataset.shard_rows))
            is_pending = parallel_map(pending_shards(store, None, bar.update), numbers, cpu_count())
            pending = [number for number, wanted in zip(numbers, is_pending, strict=True) if wanted]
            stats = ShardStats()
            for record, took in _results(worker_run, source, open_engine, identity, pending):
                store.add(record)
                stats += took
                bar.advance(record.rows, record.tokens)
            finalize(store, run, rows)
    return make_report(store, stats, identity["engine"], time.perf_counter() - started)


class ShardWorker:
    """What Ray keeps alive on a node: a model, the dataset, and the way to the folder."""

    def __init__(
        self, run: RunConfig, open_engine: OpenEngine, fingerprint: str, rows: int, identity: dict[str, Any]
    ) -> None:
        self._error: LengthwiseError | None = None
        try:
            self._source, self._shards = _open(run, open_engine, fingerprint, rows, identity)
        except LengthwiseError as error:  # told by the first call: a constructor that raises is only called again
            self._error = error

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch of shard numbers to a batch of pickled results."""
        return {"result": np.array([pickle.dumps(self._result(int(number))) for number in batch["number"]], object)}

    def _result(self, number: int) -> Result:
        if self._error is not None:
            return self._error
        try:
            return self._shards.encode(self._source.read(number))
        except LengthwiseError as error:
            return error


def _open(
    run: RunConfig, open_engine: OpenEngine, fingerprint: str, rows: int, identity: dict[str, Any]
) -> tuple[Source, ShardEncoder]:
    """The dataset and the encoder of a worker; refused where they are not those of the run."""
    source, engine, tokenizer, found = _opened(run, open_engine, fingerprint)
    if source.num_rows not in (None, rows):
        raise StoreError(
            f"{run.dataset.path}: has {source.num_rows} rows on a worker, but {rows} where the run began; give all"
            " nodes the same files"
        )
    if changes := describe_changes(identity, found):
        raise StoreError(f"a worker's run is another one ({changes}); give all nodes the same model and packages")
    return source, ShardEncoder(run, source, tokenizer, engine, open_folder(run.encode.output), identity_hash(identity))


def _identity(run: RunConfig, source: Source, open_engine: OpenEngine) -> dict[str, Any]:
    """The run's identity as this process finds it."""
    engine, tokenizer = open_engine(run, run.cluster.cpus_per_worker)
    return run_identity(run, source, tokenizer, engine)


def _opened(
    run: RunConfig, open_engine: OpenEngine, fingerprint: str
) -> tuple[Source, Engine, TextTokenizer, dict[str, Any]]:
    os.environ["RAYON_NUM_THREADS"] = str(run.cluster.cpus_per_worker)  # read when the first text is tokenized
    engine, tokenizer = open_engine(run, run.cluster.cpus_per_worker)
    source = open_dataset(run.dataset, fingerprint)
    return source, engine, tokenizer, run_identity(run, source, tokenizer, engine)


def _identity_on_a_worker(run: RunConfig, fingerprint: str, open_engine: OpenEngine) -> dict[str, Any]:
    """The run's identity as a worker finds it."""
    import ray

    def find() -> dict[str, Any] | LengthwiseError:
        try:
            return _opened(run, open_engine, fingerprint)[3]
        except LengthwiseError as error:
            return error

    settings = run.cluster
    task = ray.remote(num_cpus=settings.cpus_per_worker, num_gpus=settings.gpus_per_worker, max_retries=0)(find)
    found = ray.get(task.remote())
    if isinstance(found, LengthwiseError):
        raise found
    return found


def _results(
    run: RunConfig, source: Source, open_engine: OpenEngine, identity: dict[str, Any], pending: list[int]
) -> Iterator[tuple[ShardRecord, ShardStats]]:
    """What workers have written, in the order in which they are done."""
    import ray.data

    if not pending:
        return
    settings = run.cluster
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it tells its plans on the screen
    ray.data.DataContext.get_current().enable_progress_bars = False
    # A block a shard: what Ray tries again when a worker dies is a block.
    numbers = ray.data.from_items([{"number": number} for number in pending], override_num_blocks=len(pending))
    with warnings.catch_warnings(action="ignore"):  # of named arguments to come for what has none yet: retries
        written = numbers.map_batches(
            ShardWorker,
            fn_constructor_args=(run, open_engine, source.fingerprint, source.num_rows, identity),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(
                size=min(len(pending), settings.workers or _room(settings)), max_tasks_in_flight_per_actor=1
            ),
            num_cpus=settings.cpus_per_worker,
            num_gpus=settings.gpus_per_worker,
            max_restarts=-1,
            max_task_retries=settings.retries,
        )
    for row in written.iter_rows():
        result: Result = pickle.loads(row["result"])
        if isinstance(result, LengthwiseError):
            raise result
        yield result


@contextlib.contextmanager
def _connected(address: str) -> Iterator[None]:
    """A connection to the cluster, for as long as the block, unless there is one already."""
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
    except Exception as error:  # Ray has many ways to say that there is nothing at an address
        raise RunError(f"--cluster {address}: cannot be reached ({error}); check the address") from error
    try:
        yield
    finally:
        ray.shutdown()


def _room(settings: ClusterSettings) -> int:
    """How many workers the cluster has room for at the moment of asking."""
    import ray

    there = ray.cluster_resources()
    by_cpus = there.get("CPU", 0) / settings.cpus_per_worker
    by_gpus = there.get("GPU", 0) / settings.gpus_per_worker if settings.gpus_per_worker else by_cpus
    return int(min(by_cpus, by_gpus))


def _check_room(settings: ClusterSettings) -> None:
    """Refuse what Ray would wait for without an end."""
    room = _room(settings)
    if room < (settings.workers or 1):
        raise RunError(
            f"the cluster has room for {room} workers of {settings.cpus_per_worker} CPUs and"
            f" {settings.gpus_per_worker:g} GPUs, but {settings.workers or 1} are asked for; lower cluster.workers,"
            " cluster.cpus_per_worker or cluster.gpus_per_worker"
        )


def _with_absolute_paths(run: RunConfig) -> RunConfig:
    """The run with its local paths as they are from any directory: a worker's is another one."""

    def absolute(path: str) -> str:
        return path if "://" in path else str(Path(path).expanduser().absolute())

    changes = {
        "dataset": {"path": absolute(run.dataset.path) if _is_local(run.dataset.path) else run.dataset.path},
        "model": {"path": absolute(run.model.path)},
        "tokenizer": {"path": None if run.tokenizer.path is None else absolute(run.tokenizer.path)},
        "encode": {"output": absolute(run.encode.output)},
        "export": {"output": absolute(run.export.output)},
    }
    return run.model_copy(
        update={name: getattr(run, name).model_copy(update=update) for name, update in changes.items()}
    )


def _is_local(path: str) -> bool:
    """Whether there is such a file, folder or pattern; else it is a hub name, or a URL."""
    local = Path(path).expanduser()
    return local.exists() or bool(glob.glob(str(local), recursive=True))
