"""Runs that append and followers that are killed at any point lose no row, and change none that was there."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from faults.form import cases
from faults.killed_runs import KillPoint, Runs
from faults.processes import Job
from helpers.runs import data_files
from helpers.texts import TEXTS
from lengthwise.store.records import parse_log
from lengthwise.tokens.tokenizer import TextTokenizer

KILLS = cases(short=2, whole=60)
FILE_ROWS = 120  # of shards of 50
FOLLOW = ("--follow", "--interval", "0.05", "--idle-exit", "0.5")


def add_file(job: Job, number: int, name: str | None = None) -> None:
    """A file whose rows have the numbers that follow; it appears as a whole."""
    first = number * FILE_ROWS
    rows = range(first, first + FILE_ROWS)
    texts = [f"{TEXTS[row % len(TEXTS)]} {TEXTS[row // 7 % len(TEXTS)]} {row}" for row in rows]
    folder = job.folder / "in"
    folder.mkdir(exist_ok=True)
    draft = folder / f".{number}"
    pq.write_table(pa.table({"id": rows, "text": texts}), draft)
    draft.rename(folder / (name or f"rows-{number:04}.parquet"))


def appending_job(folder: Path, tokenizer: TextTokenizer) -> Job:
    return Job(folder, tokenizer, 1, dataset={"path": "in"}, encode={"append": True})


def ids(job: Job) -> list[int]:
    shards = json.loads((job.output / "manifest.json").read_text())["shards"]
    return [number for shard in shards for number in pq.read_table(job.output / shard["file"])["id"].to_pylist()]


def vectors(job: Job) -> dict[int, tuple[float, ...]]:
    table = pq.read_table(job.output / "data")
    return dict(zip(table["id"].to_pylist(), map(tuple, table["embedding"].to_pylist()), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [pytest.param((), id="append"), pytest.param(FOLLOW, id="follow", marks=pytest.mark.heavy)]
)
def test_killed_runs_lose_no_row_and_change_none(
    tmp_path: Path, tokenizer: TextTokenizer, options: tuple[str, ...]
) -> None:
    """SIGKILL in finding what is new, in recording it, in every step of a shard, and in finishing; files keep coming.

    Where each file was encoded by itself, the folder ends byte for byte as that of an undisturbed follower.
    """
    job, chance = appending_job(tmp_path / "killed", tokenizer), random.Random(1)
    add_file(job, 0)
    job.finish(*options)
    codes, files, before = [], 1, job.files()
    with Runs(job.folder, *options) as runs:
        for kill in range(KILLS):
            for _ in range(chance.randint(1, 2)):
                add_file(job, files)
                files += 1
            seconds = chance.uniform(0, 0.02) if kill % 5 == 3 else 0.0
            point = KillPoint((2, 0, 4, 1, 3)[kill % 5], chance.randint(1, 12), seconds)
            codes.append(runs.run(point))
            after = job.files()
            committed = [record.file for record in parse_log(before["shards.jsonl"]).values()]
            assert all(after[name] == before[name] for name in committed)
            assert set(ids(job)) <= set(range(files * FILE_ROWS))  # the manifest is there all the time, and true
            before = after
    sys.stdout.write(f"exit codes {codes}, {files} files, {job.count_shards()} shards\n")
    assert codes.count(-signal.SIGKILL) >= KILLS * 2 // 3  # others ended before their point
    job.finish(*options)
    assert ids(job) == list(range(files * FILE_ROWS))
    whole = appending_job(tmp_path / "whole", tokenizer)
    for number in range(files):
        add_file(whole, number)
    whole.finish(*options)
    assert vectors(job) == vectors(whole)
    if options:
        assert job.files() == whole.files()


@pytest.mark.heavy
def test_killed_parts_lose_no_row_and_change_none(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    """SIGKILL in recording what is new and in every step of the parts; each is started again before more files come."""
    job, chance, never = appending_job(tmp_path, tokenizer), random.Random(2), KillPoint(10**6, 1)
    options = [("--plan",), *(("--shard-index", str(index), "--num-shards", "2") for index in range(2))]
    codes, before = [], dict[str, bytes]()
    with ExitStack() as stack:
        steps = [stack.enter_context(Runs(job.folder, *each)) for each in options]
        for kill in range(KILLS):
            for number in (2 * kill, 2 * kill + 1):
                add_file(job, number)
            for runs in steps:
                codes.append(runs.run(KillPoint(chance.randrange(2), chance.randint(1, 12))))
                assert runs.run(never) == 0
            job.finish(script="finalize_vectors")
            assert before.items() <= data_files(job.output).items()
            before = data_files(job.output)
            assert ids(job) == list(range((2 * kill + 2) * FILE_ROWS))
    sys.stdout.write(f"exit codes {codes}, {job.count_shards()} shards\n")
    assert codes.count(-signal.SIGKILL) >= KILLS  # others ended before their point
    assert set(vectors(job)) == set(range(2 * KILLS * FILE_ROWS))


@pytest.mark.heavy
def test_follower_is_stopped_by_a_signal_and_its_lock_refuses_another(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    """SIGTERM and SIGINT while it waits and while it encodes: it ends within 5 s, and goes on when started again."""
    job = appending_job(tmp_path, tokenizer)
    files = 0
    for number, signum in enumerate((signal.SIGTERM, signal.SIGINT)):
        process = job.start("--follow", "--interval", "0.05")
        for _ in range(2):
            add_file(job, files)
            files += 1
            wait_for_rows(job, files * FILE_ROWS, process)
        if not number:
            code, output = job.end(*FOLLOW)
            assert code == 2
            assert f"process {process.pid} on" in output
            assert "is writing to this folder" in output
        else:
            add_file(job, files)
            files += 1
        process.send_signal(signum)
        began = time.monotonic()
        output, _ = process.communicate(timeout=60)
        assert time.monotonic() - began <= 5
        assert process.returncode == 128 + signum
        assert output.count("error:") == 1
        assert f"error: ended by {signum.name}; no file is left incomplete" in output
        assert "added       rows-0000.parquet: 120 rows in " in output or number
        assert not [name for name in job.files() if name.endswith(".part") or name.startswith(".lock")]
    output = job.finish(*FOLLOW)
    assert f"{files * FILE_ROWS:,} rows" in output
    assert ids(job) == list(range(files * FILE_ROWS))


def wait_for_rows(job: Job, count: int, process: subprocess.Popen[str], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not ((job.output / "manifest.json").exists() and len(ids(job)) == count):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
