"""A run that is killed, stopped or told to end at any moment goes on from there, and ends as one that was not."""

from __future__ import annotations

import random
import signal
import sys
import time
from pathlib import Path

import pytest

from faults.form import WHOLE, cases
from faults.processes import Job, check_rows
from lengthwise.tokens.tokenizer import TextTokenizer

KILLS = cases(short=2, whole=50)
TERMINATIONS = cases(short=1, whole=20)


ROWS, MANY_ROWS = 4_000, 60_000 if WHOLE else 4_000


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tokenizer: TextTokenizer) -> Job:
    """A run of many shards."""
    return whole_run(tmp_path_factory.mktemp("undisturbed"), tokenizer, ROWS)


def whole_run(folder: Path, tokenizer: TextTokenizer, rows: int) -> Job:
    job = Job(folder, tokenizer, rows)
    job.finish()
    check_rows(job)
    return job


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again(
    undisturbed: Job, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, tokenizer: TextTokenizer
) -> None:
    """SIGKILL at random moments, of starting up, of every step of a shard, and of resuming; never after the end."""
    expected = undisturbed
    if MANY_ROWS > ROWS:
        expected = whole_run(tmp_path_factory.mktemp("many"), tokenizer, MANY_ROWS)
    job, chance = Job(tmp_path, tokenizer, MANY_ROWS), random.Random(0)
    moments, committed = [], 0
    for number in range(KILLS):
        process = job.start()
        began = time.monotonic()
        if number % 5 == 4:  # at any moment of starting up
            delay = chance.uniform(0, 5)
        else:
            while job.shards() <= committed and process.poll() is None:
                time.sleep(0.005)
            delay = chance.uniform(0, 0.3)
        time.sleep(delay)
        process.kill()
        process.communicate()
        committed = job.shards()
        moments.append(f"{time.monotonic() - began:.2f} s, {committed} shards")
    sys.stdout.write(f"killed after {'; '.join(moments)}\n")
    assert committed < expected.shards()
    job.finish()
    check_rows(job)
    assert job.files() == expected.files()


@pytest.mark.slow
@pytest.mark.parametrize("number", range(TERMINATIONS))
def test_a_run_that_is_told_to_end(undisturbed: Job, tmp_path: Path, tokenizer: TextTokenizer, number: int) -> None:
    """SIGTERM and SIGINT in the middle of shards: out within 5 s, with one message and no success."""
    job, chance = Job(tmp_path, tokenizer, ROWS), random.Random(number)
    asked = (signal.SIGTERM, signal.SIGINT)[number % 2]
    process = job.start()
    wanted = chance.randrange(1, undisturbed.shards() * 2 // 3)  # after so many: a machine may be fast
    while job.shards() < wanted and process.poll() is None:
        time.sleep(0.002)
    time.sleep(chance.uniform(0, 0.05))
    process.send_signal(asked)
    began = time.monotonic()
    said, _ = process.communicate(timeout=60)
    took = time.monotonic() - began
    sys.stdout.write(f"{asked.name}: ended after {took:.2f} s\n")
    assert process.returncode == 128 + asked
    assert took <= 5
    assert said.count("error:") == 1
    assert f"error: ended by {asked.name}; what is there is whole" in said
    assert "Traceback" not in said
    assert not [name for name in job.files() if name.endswith(".part") or name.startswith(".lock")]
    job.finish()
    assert job.files() == undisturbed.files()


@pytest.mark.slow
def test_parts_that_are_killed(undisturbed: Job, tmp_path: Path, tokenizer: TextTokenizer) -> None:
    """Three processes divide the run; one is killed, and started again; then the folder is finished."""
    job = Job(tmp_path, tokenizer, ROWS)
    parts = [job.start("--shard-index", str(part), "--num-shards", "3") for part in range(3)]
    while job.shards() < 8:
        time.sleep(0.005)
    parts[1].kill()
    for part in (0, 2):
        said, _ = parts[part].communicate(timeout=300)
        assert parts[part].returncode == 0, said
        assert "once all parts are done, run scripts/finalize_vectors.py" in said
    parts[1].communicate()
    code, said = job.end(script="finalize_vectors")
    assert code == 2
    assert "shards are missing (numbers " in said
    job.finish("--shard-index", "1", "--num-shards", "3")
    said = job.finish(script="finalize_vectors")
    assert f"all {job.rows // 50} shards are there, and their sha256 is right" in said
    check_rows(job)
    assert job.files() == undisturbed.files()
