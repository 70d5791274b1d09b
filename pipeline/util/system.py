"""The machine and the software that a figure was measured with: processor, cores, memory, package versions."""

from __future__ import annotations

import ctypes
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("lengthwise", "torch", "onnxruntime", "onnxruntime-gpu", "datasets", "tokenizers", "numpy")
_CPUINFO = Path("/proc/cpuinfo")
_MEMINFO = Path("/proc/meminfo")
_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_M_MMAP_THRESHOLD, _LARGE_BYTES = -3, 2**20  # of glibc's malloc.h
_CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def cpu_model() -> str:
    """The processor's model and its relevant instruction sets; its architecture if the system reports no model."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = fields.get("model name") or platform.processor() or platform.machine()
    flags = [flag for flag in _CPU_FLAGS if flag in fields.get("flags", "").split()]
    return f"{name} ({', '.join(flags)})" if flags else name


def cpu_count() -> int:
    """The number of cores this process may use, if the system reports it, else of all cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> int | None:
    """Bytes that this process can still allocate (RAM, swap, cgroup limit); None if the system does not report it."""
    try:
        fields = dict(line.split(":") for line in _MEMINFO.read_text(encoding="utf-8").splitlines())
        free = 1024 * sum(int(fields[name].split()[0]) for name in ("MemAvailable", "SwapFree"))
    except (OSError, ValueError, KeyError):
        return None
    for path in _CGROUP_LIMITS:
        try:
            free = min(free, int(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return free


def return_freed_memory() -> None:
    """Make large arrays return their memory to the system when they are freed, for a process that makes many in a row.

    glibc would keep up to 32 MiB per array that was freed once, in a heap per thread, and Arrow's allocator has a cache
    of its own. Other C libraries are left alone.
    """
    import pyarrow

    pyarrow.set_memory_pool(pyarrow.system_memory_pool())
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def package_versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """The versions of Python and of those of the packages that are installed, by name."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
