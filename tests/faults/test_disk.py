"""A disk that fills up during a run: one message, no partial file, and the run resumes once there is space."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from faults.form import cases
from faults.processes import Job, check_rows
from lengthwise.tokens.tokenizer import TextTokenizer

# Size of the disk, as fractions of the output's: from too small for the first file to too small for the last.
FRACTIONS = (0.55, 0.01, 0.25, 0.85, 0.97)[: cases(short=1, whole=5)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tokenizer: TextTokenizer) -> Job:
    """The same run with enough space."""
    job = Job(tmp_path_factory.mktemp("undisturbed"), tokenizer, rows=2_000)
    job.finish()
    return job


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB, which takes root on Linux to mount."""
    folder = tmp_path / "job"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def resize(folder: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", folder], check=True)


@pytest.mark.heavy
@pytest.mark.parametrize("fraction", FRACTIONS)
def test_full_disk_stops_the_run_and_it_resumes(
    undisturbed: Job, small_disk: Path, tmp_path: Path, tokenizer: TextTokenizer, fraction: float
) -> None:
    job = Job(tmp_path / "rest", tokenizer, rows=2_000)
    (job.folder / "vectors").symlink_to(small_disk / "vectors")
    size = sum(-(-len(data) // 4096) * 4096 for data in undisturbed.files().values())
    resize(small_disk, max(4096, int(size * fraction)))
    (small_disk / "vectors").mkdir()
    code, output = job.end()
    assert code == 2, output
    assert output.count("error:") == 1
    assert "No space left on device" in output
    assert "Traceback" not in output
    for line in (job.output / "shards.jsonl").read_text().splitlines() if fraction > 0.1 else ():
        record = json.loads(line)
        assert pq.read_table(job.output / record["file"]).num_rows == record["rows"]
    assert not [name for name in job.files() if name.endswith(".part") or name == "manifest.json"]
    committed = job.count_shards()
    assert committed < 40 or fraction > 0.9
    resize(small_disk, 10 * size)
    job.finish()
    check_rows(job)
    assert job.files() == undisturbed.files()
