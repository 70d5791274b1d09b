"""What a figure was measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from lengthwise.util import system as machine


def test_packages_that_are_not_installed_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_torch(package: str) -> str:
        if package != "torch":
            raise PackageNotFoundError(package)
        return "9.9"

    monkeypatch.setattr(machine, "version", only_torch)
    assert machine.versions() == {"python": platform.python_version(), "torch": "9.9"}


def test_the_processor_and_what_it_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "processor\t: 0\nmodel name\t: Some CPU 9\nflags\t\t: fpu avx avx2 avx512_bf16 sse\n\n"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: said)
    assert machine.processor() == "Some CPU 9 (avx2, avx512_bf16)"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "")
    assert machine.processor() == (platform.processor() or platform.machine())


def test_the_memory_that_can_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    free = machine.free_memory()
    assert free is None or free > 2**20
    memory, limits = tmp_path / "meminfo", [tmp_path / "max", tmp_path / "limit"]
    monkeypatch.setattr(machine, "_MEMORY", memory)
    monkeypatch.setattr(machine, "_LIMITS", limits)
    assert machine.free_memory() is None
    memory.write_text("MemTotal:  9 kB\nMemAvailable:    5 kB\nSwapFree:   2 kB\nHugePages_Total:       0\n")
    assert machine.free_memory() == 7 * 1024
    limits[0].write_text("max\n")
    assert machine.free_memory() == 7 * 1024
    limits[1].write_text("4096\n")
    assert machine.free_memory() == 4096


def test_a_system_without_these_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert machine.processor()
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert machine.cpu_count() == os.cpu_count()
