"""Runs of the encode command in a separate process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from lengthwise.errors import LengthwiseError


def encode(scratch: Path, output: str, *options: str, **sections: dict[str, Any]) -> tuple[float, int]:
    """Run `encode_dataset.py` with the checkpoint at `scratch/model`; returns seconds and peak resident bytes.

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
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise LengthwiseError(f"{script.name} failed with status {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - began, usage.ru_maxrss * 1024
