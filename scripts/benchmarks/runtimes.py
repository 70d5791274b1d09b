"""Every runtime that reads an artifact, each in processes of its own: size, start-up, exactness and rate."""

from __future__ import annotations

import importlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from tqdm import tqdm

from lengthwise.cli.benchmarks.harness import Result, median
from lengthwise.export.artifact.folder import Artifact
from lengthwise.export.graphs.variants import PORTABLE
from lengthwise.export.runtimes import NotRunnable, Runtime

SECONDS = 1.0  # of batches, per process
_ROUNDS = (3, 200)
# What is installed for a runtime, besides Python and NumPy.
PACKAGES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "pytorch (packed batches)": ("torch",),
        "pytorch (step-wise)": ("torch",),
        "onnxruntime cpu": ("onnxruntime",),
        "openvino": ("openvino",),
        "tract": ("tract",),
        "opencv": ("opencv-python-headless",),
        "iree": ("iree-base-runtime", "iree-base-compiler"),
        "onnx reference": ("onnx",),
        "torchscript": ("torch",),
        "torch.export": ("torch",),
        "executorch": ("executorch", "torch"),
        "litert": ("ai-edge-litert",),
    }
)


def measure(folder: Path, runs: int) -> Result:
    """Measure each runtime on the first graph that it computes rightly; one process after the other.

    Args:
        folder: of an artifact.
        runs: processes of each runtime, in turn.
    """
    from lengthwise.export.runtimes.registry import RUNTIMES

    artifact = Artifact.open(folder)
    kinds = [kind for kind in RUNTIMES if choose_graph(kind, artifact)]
    records: dict[str, list[dict[str, Any]]] = {kind.name: [] for kind in kinds}
    for _, kind in tqdm([(run, kind) for run in range(runs) for kind in kinds], "runtimes", leave=False):
        if not any("reason" in record for record in records[kind.name]):
            records[kind.name].append(_measure_in_a_process(kind, folder, choose_graph(kind, artifact)))
    result = Result("runtimes")
    result.table(
        f"{folder}: {runs} processes of each runtime in turn, with as many threads as each takes",
        [
            "runtime",
            "version",
            "graph",
            "largest difference of a golden vector",
            "MB installed",
            "seconds to the first vector",
            "tokens/s, 32 texts of 32 tokens",
            "tokens/s, one text",
        ],
        [_row(kind, choose_graph(kind, artifact), records[kind.name]) for kind in kinds],
    )
    return result


def ask_bad_input(folder: Path) -> Result:
    """What each runtime's engine does with batches that no text gives.

    Args:
        folder: of an artifact.
    """
    from lengthwise.export.validation.bad_inputs import ask_runtimes

    found = ask_runtimes(Artifact.open(folder), show_progress=True)
    result = Result("runtimes-bad-input")
    result.table(
        f"{folder}: what each engine does with bad batches, asked without its adapter's check",
        ["engine", *next(iter(found.values()))],
        [[name, *(answer.behaviour for answer in asked.values())] for name, asked in found.items()],
    )
    reasons = {name: next(iter(asked.values())) for name, asked in found.items()}
    not_run = [[name, asked.detail] for name, asked in reasons.items() if asked.behaviour == "not run"]
    if not_run:
        result.table("Not run", ["engine", "reason"], not_run)
    return result


def choose_graph(kind: type[Runtime], artifact: Artifact) -> str:
    """The file of an artifact that a runtime is measured on; empty if there is none."""
    files = [file for name, file in kind.files.items() if kind.reads_lengths or name == PORTABLE]
    return next((file for file in files if file in artifact.manifest["files"]), "")


def _row(kind: type[Runtime], file: str, records: list[dict[str, Any]]) -> list[str]:
    failed = next((record["reason"] for record in records if "reason" in record), None)
    if failed is not None:
        return [kind.name, f"not run: {failed}", *[""] * 6]
    first = records[0]
    rates = [f"{tokens / median([record[batch] for record in records]):,.0f}" for batch, tokens in _BATCHES.items()]
    seconds = f"{median([record['start'] for record in records]):.2f}"
    size = installed_bytes(PACKAGES.get(kind.name, ()))
    return [
        kind.name,
        first["version"],
        f"`{file}`",
        f"{first['difference']:.1e}",
        f"{size / 1e6:,.0f}" if size else "",
        seconds,
        *rates,
    ]


def installed_bytes(packages: tuple[str, ...]) -> int:
    """What the files of installed packages take on disk; 0 of packages that are not there."""
    size = 0
    for package in packages:
        try:
            files = metadata.distribution(package).files or ()
        except metadata.PackageNotFoundError:
            continue
        size += sum(path.stat().st_size for path in (Path(str(file.locate())) for file in files) if path.is_file())
    return size


def _measure_in_a_process(kind: type[Runtime], folder: Path, file: str) -> dict[str, Any]:
    """Seconds from the start of a process to a first vector, then what `_main` measures in it."""
    command = [sys.executable, "-m", "lengthwise.cli.benchmarks.runtimes", kind.__module__, kind.__qualname__]
    began = time.perf_counter()
    process = subprocess.Popen([*command, str(folder), file], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    first = process.stdout.readline()  # type: ignore[union-attr]  # a pipe
    start = time.perf_counter() - began
    rest, errors = process.communicate()
    if process.returncode or not first:
        return {"reason": " ".join(errors.split())[-200:] or f"its process ended with {process.returncode}"}
    record = json.loads(first)
    return record if "reason" in record else {"start": start, **json.loads(rest)}


_BATCHES: Mapping[str, int] = MappingProxyType({"32 x 32": 1_024, "1 x 32": 32})


def _main(module: str, name: str, folder: str, file: str) -> None:
    """The process: two lines of JSON, the first after one vector."""
    runtime: Runtime = getattr(importlib.import_module(module), name)()
    try:
        runtime.load(Path(folder) / file)
        runtime.run(np.zeros((1, 4), np.int64), np.ones((1, 4), np.int64))
    except NotRunnable as reason:
        _print({"reason": str(reason)})
        return
    _print({"ready": True})
    from lengthwise.export.validation.cases import speed_cases

    artifact = Artifact.open(Path(folder))
    golden = artifact.load_golden()
    mask = (np.arange(golden.input_ids.shape[1]) < golden.lengths[:, None]).astype(np.int64)
    vectors = runtime.run(golden.input_ids, mask)[0]
    record: dict[str, Any] = {"version": next(iter(runtime.describe().values()))}
    record["difference"] = float(np.abs(vectors.astype(np.float64) - golden.vectors).max())
    for case in speed_cases(artifact.load_config().vocab_size):
        times: list[float] = []
        while len(times) < _ROUNDS[0] or (sum(times) < SECONDS and len(times) < _ROUNDS[1]):
            began = time.perf_counter()
            runtime.run(case.input_ids, case.attention_mask)
            times.append(time.perf_counter() - began)
        record[case.name] = statistics.median(times[1:])
    runtime.close()
    _print(record)


def _print(record: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(record) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _main(*sys.argv[1:])
