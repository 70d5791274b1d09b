"""The JavaScript runtimes: errors that arrive in words, and processes that end."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from lengthwise.export.graphs.variants import NATIVE, VARIANTS
from lengthwise.export.runtimes import NotRunnable, javascript
from lengthwise.export.runtimes.javascript import DRIVER, OnnxRuntimeNode, OnnxRuntimeWeb

KINDS = [OnnxRuntimeNode, OnnxRuntimeWeb]
IDS = np.array([[2, 3, 4], [5, 6, 0]], np.int64)
Kind = type[OnnxRuntimeNode] | type[OnnxRuntimeWeb]


def load(kind: Kind, path: Path) -> OnnxRuntimeNode | OnnxRuntimeWeb:
    runtime = kind()
    try:
        runtime.load(path)
    except NotRunnable as reason:
        pytest.skip(f"{kind.name} was not run: {reason}")
    except BaseException:
        runtime.close()
        raise
    return runtime


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_no_model_is_an_error_in_words(kind: Kind, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(RuntimeError, match=r"(?i)protobuf|model"):
        load(kind, path)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_of_one_batch_does_not_end_the_session(kind: Kind, artifact_folder: Path) -> None:
    runtime = load(kind, artifact_folder / VARIANTS[NATIVE].file)
    try:
        with pytest.raises(RuntimeError, match=r"bounds|range|index"):
            runtime.run(np.full((1, 2), 10**6), np.ones((1, 2), np.int64))
        vectors, _ = runtime.run(IDS, (IDS > 0).astype(np.int64))
        assert vectors.shape == (2, 12)
    finally:
        runtime.close()


@pytest.mark.parametrize(("kind", "process"), [(OnnxRuntimeNode, "_process"), (OnnxRuntimeWeb, "_browser")])
def test_a_process_that_dies_says_so(kind: Kind, process: str, artifact_folder: Path) -> None:
    runtime = load(kind, artifact_folder / VARIANTS[NATIVE].file)
    getattr(runtime, process).kill()
    getattr(runtime, process).wait()
    with pytest.raises(RuntimeError, match=r"(node|browser) ended"):
        runtime.run(IDS, np.ones_like(IDS))
    runtime.close()


def test_only_the_page_that_knows_the_secret_is_answered(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"weights")
    server = javascript._Server(tmp_path / "model.onnx")

    def status(method: str, path: str, body: bytes | None = None) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
        connection.request(method, path, body)
        return connection.getresponse().status

    try:
        assert status("GET", f"{server.secret}model") == 200
        assert status("POST", f"{server.secret}answer", b"right") == 200
        ort = f"{server.secret}ort/"
        for path in ("/", "/model", "/wrong/model", f"{ort}..", f"{ort}../../../package.json"):
            assert status("GET", path) == 404, path
        assert status("POST", "/answer", b"forged") == 404
        assert (server.responses.get(timeout=5), server.responses.empty()) == (b"right", True)
    finally:
        server.close()


def test_a_browser_leaves_nothing_behind_and_ends_with_the_process_that_started_it(
    artifact_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(OnnxRuntimeWeb, artifact_folder / VARIANTS[NATIVE].file).close()
    folder = Path(tempfile.mkdtemp(prefix="lw"))  # a short path: a browser's sockets have to have one
    code = """if True:
        import sys, time, pathlib
        from lengthwise.export.runtimes.javascript import OnnxRuntimeWeb
        runtime = OnnxRuntimeWeb()
        runtime.load(pathlib.Path(sys.argv[1]))
        print(runtime._browser.pid, runtime._profile, flush=True)
        time.sleep(600)
    """
    monkeypatch.setenv("TMPDIR", str(folder))
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(artifact_folder / VARIANTS[NATIVE].file)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    browser, profile = parent.stdout.readline().split()
    assert [str(path) for path in folder.iterdir()] == [profile]
    parent.kill()
    parent.communicate()
    for _ in range(100):
        try:
            os.kill(int(browser), 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        pytest.fail("the browser is still there")
    shutil.rmtree(folder, ignore_errors=True)


def test_a_page_that_lacks_onnxruntime_says_so_at_once(
    artifact_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(OnnxRuntimeWeb, artifact_folder / VARIANTS[NATIVE].file).close()
    (tmp_path / "onnxruntime-web").mkdir()
    monkeypatch.setattr(javascript, "_PACKAGES", tmp_path)
    runtime = OnnxRuntimeWeb()
    try:
        with pytest.raises(RuntimeError, match="module"):
            runtime.load(artifact_folder / VARIANTS[NATIVE].file)
    finally:
        runtime.close()


def test_weights_beside_a_graph_are_not_sent_to_a_browser(artifact_folder: Path) -> None:
    path = artifact_folder / VARIANTS[NATIVE].file
    load(OnnxRuntimeWeb, path).close()
    path.with_name(path.name + ".data").write_bytes(b"")
    with pytest.raises(NotRunnable, match="more than 2 GB"):
        OnnxRuntimeWeb().load(path)


def test_what_is_not_installed_was_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(javascript, "_PACKAGES", tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    for kind in KINDS:
        with pytest.raises(NotRunnable, match="is not installed; run make runtimes"):
            kind().load(tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("LENGTHWISE_BROWSER", raising=False)
    with pytest.raises(NotRunnable, match="node is not installed"):
        OnnxRuntimeNode().load(tmp_path)
    with pytest.raises(NotRunnable, match="a Chromium or Chrome is not installed"):
        OnnxRuntimeWeb().load(tmp_path)


def test_a_browser_that_is_none_was_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "onnxruntime-web").mkdir()
    monkeypatch.setattr(javascript, "_PACKAGES", tmp_path)
    monkeypatch.setenv("LENGTHWISE_BROWSER", str(tmp_path / "none"))
    with pytest.raises(NotRunnable, match=r"none cannot be started; see LENGTHWISE_BROWSER"):
        OnnxRuntimeWeb().load(tmp_path)


def test_answers_come_apart_as_they_were_put_together() -> None:
    record = json.dumps({"arrays": [{"type": "float32", "dims": [2, 1]}, {"type": "int64", "dims": [1]}]}).encode()
    padding = b"\0" * (-len(record) % 4)
    arrays = np.array([[1.5], [2.5]], "<f4").tobytes() + np.array([7], "<i8").tobytes()
    found, (first, second) = javascript._decode(struct.pack("<I", len(record)) + record + padding + arrays)
    assert len(found["arrays"]) == 2
    assert (first.tolist(), second.tolist(), first.dtype, second.dtype) == ([[1.5], [2.5]], [7], np.float32, np.int64)
    error = json.dumps({"error": "no"}).encode()
    with pytest.raises(RuntimeError, match=r"^no$"):
        javascript._decode(struct.pack("<I", len(error)) + error)


def test_the_lock_file_fits_the_packages_and_names_no_host() -> None:
    package, lock = (json.loads((DRIVER / name).read_text()) for name in ("package.json", "package-lock.json"))
    assert lock["packages"][""]["dependencies"] == package["dependencies"]
    assert "://" not in json.dumps([entry for entry in lock["packages"].values() if "resolved" in entry])
    node = shutil.which("node")
    if node is None:
        pytest.skip("the driver's syntax was not checked: node is not installed")
    for script in sorted(DRIVER.glob("*.mjs")):
        done = subprocess.run([node, "--check", str(script)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
