"""Runs that are killed or terminated at any point resume, and end with the files of an undisturbed run."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from faults.form import cases
from faults.killed_runs import KillPoint, Runs
from faults.processes import SHARD_ROWS, Job, check_rows
from lengthwise.tokens.tokenizer import TextTokenizer

KILLS, MOST_SHARDS = cases(short=3, whole=50), 4
TERMINATIONS = cases(short=1, whole=20)
ROWS = cases(short=2_000, whole=4_000)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tokenizer: TextTokenizer) -> Job:
    """A finished run of many shards."""
    return finished_job(tmp_path_factory.mktemp("undisturbed"), tokenizer, ROWS)


def finished_job(folder: Path, tokenizer: TextTokenizer, rows: int) -> Job:
    job = Job(folder, tokenizer, rows)
    job.finish()
    check_rows(job)
    return job


def wait_for_shards(job: Job, process: subprocess.Popen[str], count: int, seconds: float = 300) -> None:
    """Return once that many shards are committed, the process has ended, or the time is over."""
    deadline = time.monotonic() + seconds
    while job.count_shards() < count and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)


def kill_points(number: int) -> list[KillPoint]:
    """Points in starting and resuming, before every operation of a shard, and between two of them.

    No run commits more than `MOST_SHARDS`.
    """
    chance, points = random.Random(0), []
    for index in range(number):
        if index % 5 == 4:
            points.append(KillPoint(0, chance.randint(1, 60)))
        else:
            seconds = chance.uniform(0, 0.02) if index % 5 == 3 else 0.0
            points.append(KillPoint(chance.randrange(MOST_SHARDS), chance.randint(1, 12), seconds))
    return points


@pytest.mark.slow
def test_run_that_is_killed_repeatedly_ends_with_the_same_files(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, tokenizer: TextTokenizer
) -> None:
    """SIGKILL in starting, in every step of a shard and in resuming.

    A run is killed by its own progress, and the input has more shards than all of them together can commit.
    """
    rows = (KILLS * MOST_SHARDS + 10) * SHARD_ROWS
    expected, job = finished_job(tmp_path_factory.mktemp("many"), tokenizer, rows), Job(tmp_path, tokenizer, rows)
    codes, committed = [], [0]
    with Runs(job.folder) as runs:
        for point in kill_points(KILLS):
            codes.append(runs.run(point))
            committed.append(job.count_shards())
    sys.stdout.write(f"shards after each kill: {committed}\n")
    assert codes == [-signal.SIGKILL] * KILLS  # each hit a live process
    assert all(0 <= after - before <= MOST_SHARDS for before, after in pairwise(committed))
    assert KILLS <= committed[-1] < expected.count_shards()
    job.finish()
    check_rows(job)
    assert job.files() == expected.files()


@pytest.mark.heavy
@pytest.mark.parametrize("number", range(TERMINATIONS))
def test_terminated_run_ends_in_time_and_resumes(
    undisturbed: Job, tmp_path: Path, tokenizer: TextTokenizer, number: int
) -> None:
    """SIGTERM and SIGINT in the middle of a shard: it ends within 5 s, with one message and an exit code of failure."""
    job, chance = Job(tmp_path, tokenizer, ROWS), random.Random(number)
    signum = (signal.SIGTERM, signal.SIGINT)[number % 2]
    process = job.start()
    wait_for_shards(job, process, chance.randrange(1, undisturbed.count_shards() * 2 // 3))
    time.sleep(chance.uniform(0, 0.05))
    process.send_signal(signum)
    began = time.monotonic()
    output, _ = process.communicate(timeout=60)
    took = time.monotonic() - began
    sys.stdout.write(f"{signum.name}: ended after {took:.2f} s\n")
    assert process.returncode == 128 + signum
    assert took <= 5
    assert output.count("error:") == 1
    assert f"error: ended by {signum.name}; no file is left incomplete" in output
    assert "Traceback" not in output
    assert not [name for name in job.files() if name.endswith(".part") or name.startswith(".lock")]
    job.finish()
    assert job.files() == undisturbed.files()


@pytest.mark.heavy
def test_killed_part_can_be_started_again(undisturbed: Job, tmp_path: Path, tokenizer: TextTokenizer) -> None:
    """Three processes share a run; one is killed and started again, then the folder is finalized."""
    job = Job(tmp_path, tokenizer, ROWS)
    parts = [job.start("--shard-index", str(part), "--num-shards", "3") for part in range(3)]
    wait_for_shards(job, parts[1], 8)
    parts[1].kill()
    for part in (0, 2):
        output, _ = parts[part].communicate(timeout=300)
        assert parts[part].returncode == 0, output
        assert "once all parts are done, run lengthwise finalize" in output
    parts[1].communicate()
    code, output = job.end(script="finalize_vectors")
    assert code == 2
    assert "shards are missing (numbers " in output
    job.finish("--shard-index", "1", "--num-shards", "3")
    output = job.finish(script="finalize_vectors")
    assert f"all {job.rows // SHARD_ROWS} shards are there, and their sha256 matches" in output
    check_rows(job)
    assert job.files() == undisturbed.files()
