"""A run that reuses vectors is killed at any point, and ends with the files of one that was not."""

from __future__ import annotations

import contextlib
import random
import re
import shutil
import signal
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from faults.form import cases
from faults.killed_runs import KillPoint, Runs
from faults.processes import SHARD_ROWS, Job, check_rows
from helpers.files import contents
from helpers.runs import data_files
from lengthwise.cli.encode_dataset import main as encode_command
from lengthwise.cli.finalize_vectors import main as finalize_command
from lengthwise.cli.vector_cache import main as cache_command
from lengthwise.tokens.tokenizer import TextTokenizer

KILLS, MOST_SHARDS = cases(short=2, whole=30), 3


@pytest.mark.heavy
def test_killed_run_that_reuses_vectors_resumes(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    """Half of its rows are in another folder, one shard of which has a flipped bit."""
    rows = (KILLS * MOST_SHARDS + 10) * SHARD_ROWS
    old = Job(tmp_path / "job", tokenizer, rows // 2, encode={"precision": "int8", "row_hashes": True})
    old.finish()
    old.output.rename(old.folder / "old")
    [damaged] = (old.folder / "old/data").glob("shard-000001.parquet")
    contents = bytearray(damaged.read_bytes())
    contents[len(contents) // 2] ^= 1
    damaged.write_bytes(contents)

    settings = {"precision": "int8", "reuse": ["old"]}
    job = Job(old.folder, tokenizer, rows, encode=settings)
    output = job.finish()
    assert f"{rows // 2 - SHARD_ROWS:,} rows have their vector from old" in output
    assert "1 of its shards cannot be read: their rows are encoded again" in output
    check_rows(job)
    undisturbed, shards = job.files(), data_files(job.output)
    shutil.rmtree(job.output)

    chance, codes = random.Random(1), []
    with Runs(job.folder) as runs:
        for _ in range(KILLS):
            codes.append(runs.run(KillPoint(chance.randrange(MOST_SHARDS), chance.randint(1, 14))))
            sys.stdout.write(f"{job.count_shards()} shards\n")
    assert codes == [-signal.SIGKILL] * KILLS
    job.finish()
    assert job.files() == undisturbed

    shutil.rmtree(job.output)
    full = Job(old.folder, tokenizer, rows, encode={"precision": "int8", "row_hashes": True})
    full.finish()
    assert data_files(full.output) == shards


@pytest.mark.heavy
def test_killed_run_with_a_cache_resumes(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    """The cache is half filled by another run, and what killed runs put into it is used by the next ones."""
    rows = (KILLS * MOST_SHARDS + 10) * SHARD_ROWS
    full = Job(tmp_path / "job", tokenizer, rows, encode={"precision": "int8"})
    full.finish()
    expected = {name: data for name, data in full.files().items() if name != "run.yaml"}
    settings = {"precision": "int8", "cache": "cache"}
    Job(full.folder, tokenizer, rows // 2, encode={**settings, "output": "half"}).finish()
    shutil.rmtree(full.output)

    job, chance, codes = Job(full.folder, tokenizer, rows, encode=settings), random.Random(2), []
    with Runs(job.folder) as runs:
        for _ in range(KILLS):
            codes.append(runs.run(KillPoint(chance.randrange(MOST_SHARDS), chance.randint(1, 14))))
    assert codes == [-signal.SIGKILL] * KILLS
    assert "rows have their vector from cache/" in job.finish()
    assert {name: data for name, data in job.files().items() if name != "run.yaml"} == expected
    (printed,) = invoke_cache("verify", job.folder / "cache")
    assert "damaged" not in printed


@pytest.mark.slow
def test_killed_run_with_a_key_writes_its_changes(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    """Killed once all shards are there: while the folder is completed and compared, and its changes are written."""
    rows, settings = 4 * SHARD_ROWS, {"precision": "int8", "row_hashes": True}
    old = Job(tmp_path / "job", tokenizer, rows - SHARD_ROWS // 2, encode={**settings, "output": "old"})
    old.finish()
    job = Job(old.folder, tokenizer, rows, dataset={"key": "id"}, encode={**settings, "reuse": ["old"]})
    assert f"vectors/changes: {SHARD_ROWS // 2} rows added, 0 changed, 0 removed since old" in job.finish()
    undisturbed = job.files()
    assert "changes/summary.json" in undisturbed
    shutil.rmtree(job.output)

    chance, codes = random.Random(3), []
    with Runs(job.folder) as runs:
        codes.append(runs.run(KillPoint(4, chance.randint(1, 20))))
        for _ in range(cases(short=2, whole=60)):
            shutil.rmtree(job.output / "changes", ignore_errors=True)
            early, late = KillPoint(0, chance.randint(1, 110)), KillPoint(chance.randint(1, 3), chance.randint(1, 9))
            codes.append(runs.run(chance.choice([early, late])))  # late: after so many files of the changes
    assert -signal.SIGKILL in codes
    job.finish()
    assert job.files() == undisturbed


@pytest.mark.heavy
def test_job_array_with_reuse_and_a_cache_writes_the_bytes_of_a_full_run(
    tmp_path: Path, tokenizer: TextTokenizer
) -> None:
    """Its processes run side by side, on one cache that they fill; the second array finds it full."""
    rows, settings = 9 * SHARD_ROWS, {"precision": "int8", "row_hashes": True}
    job = Job(tmp_path / "job", tokenizer, rows // 2, encode={**settings, "output": "old"})
    run_here(job, encode_command)
    Job(job.folder, tokenizer, rows, encode=settings)  # the same input and model, with more rows
    run_here(job, encode_command, "--set", "encode.output=full")
    reusing = {**settings, "reuse": ["old"], "cache": "cache"}
    job = Job(job.folder, tokenizer, rows, encode=reusing)
    printed = run_here(job, encode_command)
    assert f"{rows // 2} rows have their vector from old" in printed
    alone, full = job.files(), contents(job.folder / "full")
    assert {name: data for name, data in alone.items() if name.startswith(("data/", "hashes/"))} == {
        name: data for name, data in full.items() if name.startswith(("data/", "hashes/"))
    }
    shutil.rmtree(job.folder / "cache")

    for from_cache in (0, rows - rows // 2):
        shutil.rmtree(job.output)
        parts = [job.start("--shard-index", str(index), "--num-shards", "2") for index in range(2)]
        said = [part.communicate(timeout=300)[0] for part in parts]
        assert [part.returncode for part in parts] == [0, 0], said
        found = re.findall(r"(\d+) rows have their vector from cache", "".join(said))
        assert sum(map(int, found)) == from_cache
        printed = run_here(job, finalize_command)
        assert f"{rows // 2} rows have their vector from old" in printed
        assert job.files() == alone
    assert "damaged" not in invoke_cache("verify", job.folder / "cache")


def run_here(job: Job, command: click.Command, *options: str) -> str:
    """Run a command on a job in this process, which has imported its packages already."""
    with contextlib.chdir(job.folder):
        result = CliRunner().invoke(command, ["run.yaml", *options])
    assert result.exit_code == 0, result.output
    return result.output


def invoke_cache(command: str, cache: Path) -> list[str]:
    result = CliRunner().invoke(cache_command, [command, str(cache)])
    assert result.exit_code == 0, result.output
    return result.output.splitlines()
