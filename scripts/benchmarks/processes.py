"""Runs of the encode command in a separate process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lengthwise.errors import LengthwiseError

_POLL_SECONDS = 0.02


class Peak(NamedTuple):
    """The most memory that a process had: resident bytes, and those of them that are not pages of a file.

    The second is 0 where the system has no /proc.
    """

    resident: int
    anonymous: int


def encode(scratch: Path, output: str, *options: str, **sections: dict[str, Any]) -> tuple[float, Peak]:
    """Run `encode_dataset.py` with the checkpoint at `scratch/model`; returns seconds and peak memory.

    Args:
        output: the folder of vectors below `scratch`.
        options: of the script.
        sections: settings of the run.
    """
    run = {**sections, "model": {"path": str(scratch / "model")}, "encode": {"output": str(scratch / output)}}
    (scratch / "run.yaml").write_text(yaml.safe_dump(run))
    script = Path(__file__).parents[1] / "encode_dataset.py"
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, str(script), str(scratch / "run.yaml"), *options],
        env={**os.environ, "HF_HOME": str(scratch / "cache")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    anonymous, ended = 0, 0
    while not ended:
        anonymous = max(anonymous, _anonymous_bytes(process.pid))
        time.sleep(_POLL_SECONDS)
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
    if status:
        raise LengthwiseError(f"{script.name} failed with status {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - began, Peak(usage.ru_maxrss * 1024, anonymous)


def _anonymous_bytes(process: int) -> int:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    _, found, rest = status.partition("RssAnon:")
    return 1024 * int(rest.split()[0]) if found else 0
