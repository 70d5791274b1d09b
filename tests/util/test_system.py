"""The description of the machine and of the installed packages."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from lengthwise.util import system


def test_package_versions_leaves_out_packages_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_torch(package: str) -> str:
        if package != "torch":
            raise PackageNotFoundError(package)
        return "9.9"

    monkeypatch.setattr(system, "version", only_torch)
    assert system.package_versions() == {"python": platform.python_version(), "torch": "9.9"}


def test_cpu_model_reads_the_name_and_the_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo = "processor\t: 0\nmodel name\t: Some CPU 9\nflags\t\t: fpu avx avx2 avx512_bf16 sse\n\n"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: cpuinfo)
    assert system.cpu_model() == "Some CPU 9 (avx2, avx512_bf16)"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "")
    assert system.cpu_model() == (platform.processor() or platform.machine())


def test_free_memory_is_the_least_of_the_system_and_its_limits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    free = system.free_memory()
    assert free is None or free > 2**20
    memory, limits = tmp_path / "meminfo", [tmp_path / "max", tmp_path / "limit"]
    monkeypatch.setattr(system, "_MEMINFO", memory)
    monkeypatch.setattr(system, "_CGROUP_LIMITS", limits)
    assert system.free_memory() is None
    memory.write_text("MemTotal:  9 kB\nMemAvailable:    5 kB\nSwapFree:   2 kB\nHugePages_Total:       0\n")
    assert system.free_memory() == 7 * 1024
    limits[0].write_text("max\n")
    assert system.free_memory() == 7 * 1024
    limits[1].write_text("4096\n")
    assert system.free_memory() == 4096


def test_system_without_proc_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert system.cpu_model()
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert system.cpu_count() == os.cpu_count()


_FREED_ARRAYS = """
import sys
import threading

import numpy as np

from lengthwise.util.system import return_freed_memory


def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def use_arrays():
    for _ in range(3):
        arrays = [np.ones(2**20) for _ in range(30)]  # of 8 MiB
        small = np.ones(10)
        del arrays
        kept.append(small)


if sys.argv[1] == "yes":
    return_freed_memory()
kept = []
before = anonymous()
thread = threading.Thread(target=use_arrays)
thread.start()
thread.join()
use_arrays()
print(anonymous() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this C library is not glibc")
def test_freed_arrays_return_their_memory() -> None:
    """Once glibc does so by itself, the function can go."""
    mebibytes = {
        answer: float(
            subprocess.run([sys.executable, "-c", _FREED_ARRAYS, answer], capture_output=True, check=True).stdout
        )
        for answer in ("yes", "no")
    }
    assert mebibytes["yes"] < 20
    assert mebibytes["no"] > 100
