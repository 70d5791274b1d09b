"""Runs that are killed or terminated at any point resume, and end with the files of an undisturbed run."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from faults.form import WHOLE, cases
from faults.processes import Job, check_rows
from lengthwise.tokens.tokenizer import TextTokenizer

KILLS = cases(short=1, whole=50)
TERMINATIONS = cases(short=1, whole=20)
ROWS, MANY_ROWS = (4_000, 60_000) if WHOLE else (2_000, 2_000)


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


def wait_for_draft(job: Job, process: subprocess.Popen[str]) -> None:
    """Return while a shard's file is being written, or once the process has ended."""
    while not any(job.output.glob("data/.*.part")) and process.poll() is None:
        pass


@pytest.mark.slow
def test_run_that_is_killed_repeatedly_ends_with_the_same_files(
    undisturbed: Job, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, tokenizer: TextTokenizer
) -> None:
    """SIGKILL at random points of starting, of every step of a shard and of resuming.

    A point is a number of new shards, not a time, so that on a fast machine too every kill hits an unfinished run.
    """
    expected = undisturbed
    if MANY_ROWS > ROWS:
        expected = finished_job(tmp_path_factory.mktemp("many"), tokenizer, MANY_ROWS)
    job, chance = Job(tmp_path, tokenizer, MANY_ROWS), random.Random(0)
    shards_per_kill = expected.count_shards() // (KILLS + 1)
    codes, points, committed, startup_seconds = [], [], 0, 300.0
    for number in range(KILLS):
        process = job.start()
        began = time.monotonic()
        if number % 5 == 4:  # before the first new shard
            wait_for_shards(job, process, committed + 1, seconds=chance.uniform(0, startup_seconds))
        else:
            wait_for_shards(job, process, committed + 1)
            startup_seconds = min(startup_seconds, time.monotonic() - began)
            wait_for_shards(job, process, committed + chance.randint(1, max(1, shards_per_kill // 2)))
            wait_for_draft(job, process) if number % 5 == 3 else time.sleep(chance.uniform(0, 0.02))
        process.kill()
        process.communicate()
        codes.append(process.returncode)
        committed = job.count_shards()
        points.append(f"{time.monotonic() - began:.2f} s, {committed} shards")
    sys.stdout.write(f"killed after {'; '.join(points)}\n")
    assert codes == [-signal.SIGKILL] * KILLS  # each hit a live process
    assert committed < expected.count_shards()
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
    assert f"all {job.rows // 50} shards are there, and their sha256 matches" in output
    check_rows(job)
    assert job.files() == undisturbed.files()
