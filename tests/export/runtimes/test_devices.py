"""The runtimes of phones: packages that are missing, processes that end, and inputs that are refused first."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from lengthwise.export.graphs.executorch import LONGEST, PYTHON_VARIABLE
from lengthwise.export.runtimes import NotRunnable
from lengthwise.export.runtimes.devices import ExecuTorch, LiteRt, LiteRtSession

KINDS = [ExecuTorch, LiteRt]
Kind = type[ExecuTorch] | type[LiteRt]
IDS = np.array([[2, 3, 4], [5, 6, 0]], np.int64)


def test_missing_package_is_not_runnable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other Python has numpy alone."""
    site, only, python = Path(np.__file__).parents[1], tmp_path / "only", tmp_path / "python"
    only.mkdir()
    for package in ("numpy", "numpy.libs"):
        if (site / package).exists():
            (only / package).symlink_to(site / package)
    code = f"import runpy, sys; sys.path.append({str(only)!r}); del sys.argv[0]"
    run = "runpy.run_path(sys.argv[0], run_name='__main__')"
    python.write_text(f'#!/bin/sh\nshift\nexec {sys.executable} -I -S -c "{code}; {run}" "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv(PYTHON_VARIABLE, str(python))
    runtime = ExecuTorch()
    with pytest.raises(NotRunnable, match=r"torch is not installed for .*; install lengthwise\[executorch\], or name"):
        runtime.load(tmp_path / "model")
    runtime.close()


def test_missing_python_is_not_runnable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PYTHON_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(NotRunnable, match=r"none cannot be started .*; install lengthwise\[executorch\], or name"):
        ExecuTorch().load(tmp_path / "model")


def test_missing_litert_is_not_runnable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(NotRunnable, match=r"install lengthwise\[litert\], or run make runtimes"):
        LiteRtSession(tmp_path / "model")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_empty_batch_is_refused_before_the_engine_sees_it(kind: Kind, shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="a batch has rows and columns, at least one each"):
        kind().run(np.ones(shape, np.int64), np.ones(shape, np.int64))


def test_row_beyond_the_program_s_length_is_refused_before_the_engine_sees_it() -> None:
    row = np.ones((1, LONGEST + 1), np.int64)
    with pytest.raises(ValueError, match=f"rows have {LONGEST + 1} columns; the program takes {LONGEST}"):
        ExecuTorch().run(row, row)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_file_is_reported(kind: Kind, tmp_path: Path) -> None:
    path, runtime = tmp_path / "model", kind()
    path.write_bytes(b"not a model" * 100)
    try:
        with pytest.raises(RuntimeError, match=r"(?i)model|program|flatbuffer|ended|magic"):
            runtime.load(path)
    except NotRunnable as reason:
        pytest.skip(f"{kind.name} was not run: {reason}")
    finally:
        runtime.close()


def test_process_that_is_killed_is_reported(litert_file: Path) -> None:
    runtime = LiteRt()
    runtime.load(litert_file)
    assert runtime._process is not None
    os.kill(runtime._process.popen.pid, 9)
    runtime._process.popen.wait()
    with pytest.raises(RuntimeError, match=r"ended: "):
        runtime.run(IDS, np.ones_like(IDS))
    runtime.close()


def test_session_survives_a_failed_batch(litert_file: Path) -> None:
    runtime = LiteRt()
    runtime.load(litert_file)
    try:
        for out_of_range in (10**6, -1):
            with pytest.raises(RuntimeError, match=r"(?i)index|gather|invoke"):
                runtime.run(np.full((1, 2), out_of_range), np.ones((1, 2), np.int64))
        vectors, states = runtime.run(IDS, (IDS > 0).astype(np.int64))
        assert (vectors.shape, states.shape, vectors.dtype) == ((2, 6), (2, 3, 6), np.float32)
        assert runtime.describe()["ai-edge-litert"]
    finally:
        runtime.close()
