"""The description of the machine and of the installed packages."""

from __future__ import annotations

import os
import platform
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
