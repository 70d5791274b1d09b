"""A disk that fills up in the middle of a run: one message, nothing half-written, and it goes on once there is room."""

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

# Parts of the whole folder's size that the disk has: from no room for the first file to none for the last.
FILLS = (0.55, 0.01, 0.25, 0.85, 0.97)[: cases(short=1, whole=5)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tokenizer: TextTokenizer) -> Job:
    """The same run with room enough."""
    job = Job(tmp_path_factory.mktemp("whole"), tokenizer, rows=2_000)
    job.finish()
    return job


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one's own, for which one has to be root on Linux."""
    place = tmp_path / "job"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def resize(place: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", place], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("fill", FILLS)
def test_a_full_disk(whole: Job, small_disk: Path, tmp_path: Path, tokenizer: TextTokenizer, fill: float) -> None:
    job = Job(tmp_path / "rest", tokenizer, rows=2_000)
    (job.folder / "vectors").symlink_to(small_disk / "vectors")
    size = sum(-(-len(data) // 4096) * 4096 for data in whole.files().values())
    resize(small_disk, max(4096, int(size * fill)))
    (small_disk / "vectors").mkdir()
    code, said = job.end()
    assert code == 2, said
    assert said.count("error:") == 1
    assert "No space left on device" in said
    assert "Traceback" not in said
    for line in (job.output / "shards.jsonl").read_text().splitlines() if fill > 0.1 else ():
        record = json.loads(line)
        assert pq.read_table(job.output / record["file"]).num_rows == record["rows"]
    assert not [name for name in job.files() if name.endswith(".part") or name == "manifest.json"]
    committed = job.shards()
    assert committed < 40 or fill > 0.9
    resize(small_disk, 10 * size)
    job.finish()
    check_rows(job)
    assert job.files() == whole.files()
