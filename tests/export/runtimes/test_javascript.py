"""The JavaScript runtimes: errors are reported with their message, and processes end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lengthwise.export.graphs.variants import NATIVE, VARIANTS
from lengthwise.export.runtimes import NotRunnable, javascript
from lengthwise.export.runtimes.javascript import DRIVER, OnnxRuntimeNode, OnnxRuntimeWeb

RUNTIMES = [OnnxRuntimeNode, OnnxRuntimeWeb]
IDS = np.array([[2, 3, 4], [5, 6, 0]], np.int64)
RuntimeType = type[OnnxRuntimeNode] | type[OnnxRuntimeWeb]


def load(runtime_type: RuntimeType, path: Path) -> OnnxRuntimeNode | OnnxRuntimeWeb:
    runtime = runtime_type()
    try:
        runtime.load(path)
    except NotRunnable as error:
        pytest.skip(f"{runtime_type.name} was not run: {error}")
    except BaseException:
        runtime.close()
        raise
    return runtime


@pytest.mark.parametrize("runtime_type", RUNTIMES)
def test_file_that_is_not_a_model_is_reported(runtime_type: RuntimeType, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(RuntimeError, match=r"(?i)protobuf|model"):
        load(runtime_type, path)


@pytest.mark.parametrize("runtime_type", RUNTIMES)
def test_session_survives_a_failed_batch(runtime_type: RuntimeType, artifact_folder: Path) -> None:
    runtime = load(runtime_type, artifact_folder / VARIANTS[NATIVE].file)
    try:
        with pytest.raises(RuntimeError, match=r"bounds|range|index"):
            runtime.run_unchecked(np.full((1, 2), 10**6), np.ones((1, 2), np.int64))
        vectors, _ = runtime.run(IDS, (IDS > 0).astype(np.int64))
        assert vectors.shape == (2, 12)
    finally:
        runtime.close()


def test_killed_node_process_is_reported(artifact_folder: Path) -> None:
    runtime = load(OnnxRuntimeNode, artifact_folder / VARIANTS[NATIVE].file)
    assert isinstance(runtime, OnnxRuntimeNode)
    assert runtime._process is not None
    runtime._process.popen.kill()
    runtime._process.popen.wait()
    with pytest.raises(RuntimeError, match="node ended"):
        runtime.run(IDS, np.ones_like(IDS))
    runtime.close()


def find_processes(folder: Path) -> list[int]:
    """Processes whose command line names a folder."""
    processes = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in (entry / "cmdline").read_bytes():
                processes.append(int(entry.name))
    return processes


@pytest.fixture
def short_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files whose path is short enough for a browser's sockets."""
    folder = Path(tempfile.mkdtemp(prefix="lw"))
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_killed_browser_is_reported_and_cleaned_up(artifact_folder: Path, short_folder: Path) -> None:
    runtime = load(OnnxRuntimeWeb, artifact_folder / VARIANTS[NATIVE].file)
    for process in find_processes(short_folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="browser ended"):
        runtime.run(IDS, np.ones_like(IDS))
    runtime.close()
    assert find_processes(short_folder) == []
    assert list(short_folder.iterdir()) == []


def test_browser_ends_with_the_process_that_started_it(artifact_folder: Path, short_folder: Path) -> None:
    load(OnnxRuntimeWeb, artifact_folder / VARIANTS[NATIVE].file).close()
    code = """if True:
        import sys, time, pathlib
        from lengthwise.export.runtimes.javascript import OnnxRuntimeWeb
        OnnxRuntimeWeb().load(pathlib.Path(sys.argv[1]))
        print("loaded", flush=True)
        time.sleep(600)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(artifact_folder / VARIANTS[NATIVE].file)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "loaded\n"
    assert find_processes(short_folder)
    parent.kill()
    parent.communicate()
    for _ in range(100):
        if not find_processes(short_folder):
            break
        time.sleep(0.1)
    assert find_processes(short_folder) == []


def test_browser_that_does_not_answer_is_closed(artifact_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = load(OnnxRuntimeWeb, artifact_folder / VARIANTS[NATIVE].file)
    assert isinstance(runtime, OnnxRuntimeWeb)
    session = runtime._session
    assert session is not None
    with pytest.raises(RuntimeError, match="no answer within 0 s"):
        session.call(session.evaluate("() => { while (true); }"), 0.3)
    runtime.close()
    assert not session._thread.is_alive()


def test_page_loads_only_its_own_files(artifact_folder: Path) -> None:
    runtime = load(OnnxRuntimeWeb, artifact_folder / VARIANTS[NATIVE].file)
    assert isinstance(runtime, OnnxRuntimeWeb)
    session = runtime._session
    assert session is not None
    fetch = "fetch(url).then((it) => it.status, () => 0).then((it) => btoa(it))"
    statuses = {}
    for url in (
        "/",
        "/web.mjs",
        "/ort/ort.wasm.min.mjs",
        "/package.json",
        "/ort/../../package.json",
        "http://a.example/",
    ):
        answer = session.call(session.evaluate(f"() => {{ const url = {json.dumps(url)}; return {fetch}; }}"), 60)
        statuses[url] = int(answer)
    runtime.close()
    assert list(statuses.values()) == [200, 200, 200, 0, 0, 0]


def test_runtime_works_beside_a_running_event_loop(artifact_folder: Path) -> None:
    async def run() -> tuple[int, ...]:
        runtime = load(OnnxRuntimeWeb, artifact_folder / VARIANTS[NATIVE].file)
        vectors, _ = runtime.run(IDS, (IDS > 0).astype(np.int64))
        runtime.close()
        return vectors.shape

    assert asyncio.run(run()) == (2, 12)


def test_missing_module_of_the_page_is_reported(
    artifact_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(OnnxRuntimeWeb, artifact_folder / VARIANTS[NATIVE].file).close()
    dist = tmp_path / "onnxruntime-web/dist"
    dist.mkdir(parents=True)
    (dist / javascript._WASM).write_bytes(b"")
    monkeypatch.setattr(javascript, "_PACKAGES", tmp_path)
    runtime = OnnxRuntimeWeb()
    try:
        with pytest.raises(RuntimeError, match="module"):
            runtime.load(artifact_folder / VARIANTS[NATIVE].file)
    finally:
        runtime.close()


def test_external_weights_are_not_sent_to_a_browser(artifact_folder: Path) -> None:
    path = artifact_folder / VARIANTS[NATIVE].file
    load(OnnxRuntimeWeb, path).close()
    path.with_name(path.name + ".data").write_bytes(b"")
    with pytest.raises(NotRunnable, match="more than 2 GB"):
        OnnxRuntimeWeb().load(path)


def test_missing_installation_is_not_runnable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(javascript, "_PACKAGES", tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    for runtime_type in RUNTIMES:
        with pytest.raises(NotRunnable, match="is not installed; run make runtimes"):
            runtime_type().load(tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("LENGTHWISE_BROWSER", raising=False)
    with pytest.raises(NotRunnable, match="node is not installed"):
        OnnxRuntimeNode().load(tmp_path)
    with pytest.raises(NotRunnable, match="a Chromium or Chrome is not installed"):
        OnnxRuntimeWeb().load(tmp_path)


def test_missing_browser_program_is_not_runnable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "onnxruntime-web").mkdir()
    monkeypatch.setattr(javascript, "_PACKAGES", tmp_path)
    monkeypatch.setenv("LENGTHWISE_BROWSER", str(tmp_path / "none"))
    with pytest.raises(NotRunnable, match=r"none cannot be started; see LENGTHWISE_BROWSER"):
        OnnxRuntimeWeb().load(tmp_path)


def test_lock_file_matches_the_packages_and_names_no_host() -> None:
    package, lock = (json.loads((DRIVER / name).read_text()) for name in ("package.json", "package-lock.json"))
    assert lock["packages"][""]["dependencies"] == package["dependencies"]
    assert "://" not in json.dumps([entry for entry in lock["packages"].values() if "resolved" in entry])
    node = shutil.which("node")
    if node is None:
        pytest.skip("the driver's syntax was not checked: node is not installed")
    for script in sorted(DRIVER.glob("*.mjs")):
        done = subprocess.run([node, "--check", str(script)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
