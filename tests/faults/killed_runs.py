"""Runs of encode_dataset that kill themselves: `python killed_runs.py` makes one per line of standard input.

- A run is a fork of this process, which has imported what a run imports: starting one takes a moment, not seconds.
- It is killed by what it has done, not by the time, so a fast machine kills at the same places as a slow one. Python
  announces each file operation (PEP 578), before it happens; operations below the run's folder are counted.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from helpers.paths import ROOT

TESTS = ROOT / "tests"
_IMPORTED = ("cli.encode_dataset", "steps", "run.local", "encoder.torch_engine", "data.builder", "run.report")
_OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.listdir"}


@dataclass(frozen=True)
class KillPoint:
    """Where a run is killed.

    Attributes:
        shards: after so many new shards are in their place,
        operations: before the file operation of this number, counted from 1 from there on,
        seconds: or so much later; but before two more shards are in their place.
    """

    shards: int
    operations: int
    seconds: float = 0.0


class Runs:
    """A process that forks runs, of these options of the command; a context manager."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(folder), *options],
            env={
                **os.environ,
                "HF_HOME": str(folder / "cache"),
                "HF_DATASETS_CACHE": str(folder / "cache"),
                "PYTHONPATH": str(TESTS),
            },
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Runs:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=60)

    def run(self, point: KillPoint) -> int:
        """Run `run.yaml` of the folder until it is killed or ends; its exit status, negative for a signal."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(asdict(point)), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())


class _Killer:
    """Kills the process it is in at a point."""

    def __init__(self, folder: str, point: KillPoint) -> None:
        self._folder, self._point = folder, point
        self._shards = self._operations = 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _OPERATIONS or not isinstance(arguments[0], str | os.PathLike):
            return
        if not os.path.join(self._folder, arguments[0]).startswith(self._folder):  # paths are relative
            return
        commits = event == "os.rename" and str(arguments[1]).endswith(".parquet")
        if commits and self._shards > self._point.shards:
            _kill()
        if self._shards >= self._point.shards:
            self._operations += 1
            if self._operations == self._point.operations:
                if not self._point.seconds:
                    _kill()
                threading.Timer(self._point.seconds, _kill).start()
        self._shards += commits


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _run(folder: str, options: list[str], point: KillPoint) -> None:
    from lengthwise.cli.encode_dataset import main

    sys.addaudithook(_Killer(folder, point))
    main(["run.yaml", *options], standalone_mode=True)


def _serve(folder: str, *options: str) -> None:
    import importlib

    for name in _IMPORTED:
        importlib.import_module(f"lengthwise.{name}")
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
            try:
                _run(folder, list(options), KillPoint(**json.loads(line)))
            except SystemExit as ended:
                os._exit(int(ended.code or 0))
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)  # noqa: T201


if __name__ == "__main__":
    _serve(*sys.argv[1:])
