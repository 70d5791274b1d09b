"""What a figure was measured on, and what there is to work with: processor, cores, memory, versions."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("lengthwise", "torch", "onnxruntime", "onnxruntime-gpu", "datasets", "tokenizers", "numpy")
_MEMORY = Path("/proc/meminfo")
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def processor() -> str:
    """The processor's model and what matters here of what it can do; its architecture where the system is silent."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = fields.get("model name") or platform.processor() or platform.machine()
    features = [feature for feature in _FEATURES if feature in fields.get("flags", "").split()]
    return f"{name} ({', '.join(features)})" if features else name


def cpu_count() -> int:
    """Those that this process may use, where the system tells, else all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> int | None:
    """Bytes that this process can have at the most, unless others give some back; None where the system is silent."""
    try:
        fields = dict(line.split(":") for line in _MEMORY.read_text(encoding="utf-8").splitlines())
        free = 1024 * sum(int(fields[name].split()[0]) for name in ("MemAvailable", "SwapFree"))
    except (OSError, ValueError, KeyError):
        return None
    for path in _LIMITS:
        try:
            free = min(free, int(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):  # there is no such file, or no limit
            continue
    return free


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """The packages among these that are installed, and Python."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
