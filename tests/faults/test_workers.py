"""Ray on one machine: the same bytes as without, and a killed worker costs its current shard only."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from faults.form import WHOLE, cases
from faults.processes import Job, check_rows
from lengthwise.tokens.tokenizer import TextTokenizer

if importlib.util.find_spec("ray") is None:  # which takes seconds to import, in every test process
    pytest.skip("Ray is not installed: pip install lengthwise[ray]", allow_module_level=True)
KILLS = cases(short=1, whole=10)
ROWS = 20_000 if WHOLE else 2_000


@pytest.fixture(scope="module")
def single_process(tmp_path_factory: pytest.TempPathFactory, tokenizer: TextTokenizer) -> Job:
    """The same run in one process."""
    job = Job(tmp_path_factory.mktemp("single"), tokenizer, ROWS, cluster={"workers": 2, "retries": 20})
    job.finish()
    return job


def worker_pids(process: subprocess.Popen[str]) -> list[int]:
    """The Ray workers that encode for a process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "cmdline").read_text()
        except OSError:
            continue
        if name.startswith("ray::") and "ShardWorker" in name and process.pid in ancestors(int(folder.name)):
            found.append(int(folder.name))
    return found


def ancestors(pid: int) -> list[int]:
    """The process id, its parent's, and so on."""
    found = []
    while pid > 1:
        found.append(pid)
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            break
    return found


@pytest.mark.heavy
def test_killed_workers_change_no_byte(single_process: Job, tmp_path: Path, tokenizer: TextTokenizer) -> None:
    job = Job(tmp_path, tokenizer, ROWS, cluster={"workers": 2, "retries": 20})
    process, chance, killed, seen = job.start("--cluster", "local"), random.Random(0), 0, 0
    while process.poll() is None and killed < KILLS:
        if job.count_shards() > seen and (workers := worker_pids(process)):
            time.sleep(chance.uniform(0, 0.2))
            try:
                os.kill(chance.choice(workers), signal.SIGKILL)
            except ProcessLookupError:
                continue
            killed, seen = killed + 1, job.count_shards()
        time.sleep(0.01)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert killed == KILLS
    check_rows(job)
    assert job.files() == single_process.files()


@pytest.mark.slow
@pytest.mark.skipif(not WHOLE, reason="part of the whole form: make faults")
def test_terminated_driver_ends_in_time(single_process: Job, tmp_path: Path, tokenizer: TextTokenizer) -> None:
    job = Job(tmp_path, tokenizer, ROWS, cluster={"workers": 2, "retries": 20})
    process = job.start("--cluster", "local")
    while not job.count_shards() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    output, _ = process.communicate(timeout=60)
    assert time.monotonic() - began <= 5
    assert process.returncode == 128 + signal.SIGTERM
    assert "error: ended by SIGTERM" in output
    job.finish()  # in one process
    assert job.files() == single_process.files()
