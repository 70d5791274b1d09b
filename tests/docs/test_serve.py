"""The code of docs/serve.md computes PyTorch's vectors, and its commands do what it says."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Route

from helpers.browser import open_browser, open_page, wait_until
from helpers.paths import ROOT
from helpers.serving import ServerProcess
from helpers.texts import TEXTS
from lengthwise.config import EncoderConfig, TokenizationSettings, TokenizerTraining
from lengthwise.encoder.checkpoint import load_checkpoint
from lengthwise.encoder.engine import encode_texts
from lengthwise.encoder.model import seeded_encoder
from lengthwise.encoder.torch_engine import TorchEngine
from lengthwise.export.artifact.build import build_artifact
from lengthwise.export.artifact.engine import OnnxEncoder
from lengthwise.export.artifact.folder import Artifact
from lengthwise.export.runtimes import javascript
from lengthwise.export.runtimes.onnxruntime import CUDA_OPTIONS
from lengthwise.export.server.settings import ServeSettings
from lengthwise.tokens.training import train_tokenizer

PAGE = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
SECTIONS = {part.split("\n", 1)[0]: part for part in re.split(r"^##+ ", PAGE, flags=re.MULTILINE)[1:]}
PACKAGES = javascript.DRIVER / "node_modules"
SHOWN_ROWS = "[[5, 6, 7], [5, 6], []]"
LONG = " ".join(TEXTS * 20)


def code(section: str, language: str, first: str = "") -> str:
    """The only code block of a section in this language that starts with `first`."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", SECTIONS[section], re.MULTILINE | re.DOTALL)
    (block,) = [block for block in blocks if block.startswith(first)]
    return str(block)


@pytest.fixture(scope="module")
def _without_special_tokens(
    tmp_path_factory: pytest.TempPathFactory, encoder_config: Callable[..., EncoderConfig]
) -> Path:
    """The artifact of an encoder whose tokenizer has special tokens that it was not trained with."""
    special = {"bos_token": "[BOS]", "eos_token": "[EOS]"}
    tokenizer = train_tokenizer(TEXTS, TokenizerTraining(model="byte_bpe", min_frequency=1, vocab_size=400, **special))
    config = encoder_config(
        vocab_size=tokenizer.vocab_size,
        pooling="last",
        projection_dim=5,
        trained=False,
        tokenization=TokenizationSettings(add_special_tokens=False, max_length=9, truncate=True),
    )
    folder = tmp_path_factory.mktemp("special") / "artifact"
    build_artifact(seeded_encoder(config, 0), tokenizer, folder, variants=())
    return folder


@pytest.fixture
def workdir(artifact_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the code runs in; it contains the artifact."""
    monkeypatch.chdir(artifact_folder.parent)
    return artifact_folder.parent


@pytest.fixture
def golden(workdir: Path) -> tuple[list[list[int]], NDArray[np.float32]]:
    """Rows of ids, one of them empty, and their vectors."""
    known = Artifact.open(workdir / "artifact").load_golden()
    rows = [ids[:length].tolist() for ids, length in zip(known.input_ids, known.lengths, strict=True)]
    return [*rows, []], np.vstack([known.vectors, np.zeros_like(known.vectors[:1])])


def assert_golden(found: Any, golden: tuple[list[list[int]], NDArray[np.float32]]) -> None:
    np.testing.assert_allclose(np.array(found, np.float32), golden[1], atol=1e-6, rtol=0)


# Python


@pytest.fixture
def python(workdir: Path) -> dict[str, Any]:
    """The names that the Python code defines."""
    names: dict[str, Any] = {}
    exec(code("Python", "python"), names)
    return names


def test_python_code_computes_golden_vectors(
    python: dict[str, Any], golden: tuple[list[list[int]], NDArray[np.float32]]
) -> None:
    assert python["vectors"].shape == (3, 12)
    assert not python["vectors"][2].any()
    rows, vectors = golden
    assert_golden(python["embed_ids"](rows), golden)
    assert_golden([python["embed_ids"]([ids])[0] for ids in rows], golden)
    assert python["embed_ids"](rows).dtype == vectors.dtype
    assert python["embed_ids"]([]).shape == python["embed"]([]).shape == (0, 12)
    assert python["embed"](["", " "]).tolist() == [[0.0] * 12] * 2


@pytest.mark.parametrize("special", [False, True])
def test_python_code_tokenizes_as_the_model_does(
    special: bool, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder: Path = request.getfixturevalue("_without_special_tokens" if special else "artifact_folder")
    monkeypatch.chdir(folder.parent)
    names: dict[str, Any] = {}
    exec(code("Python", "python"), names)
    texts = [TEXTS[0], "", LONG, *TEXTS, "Moon zebra"]
    encoder, tokenizer = load_checkpoint(folder)
    expected = encode_texts(texts, tokenizer, TorchEngine(encoder))
    np.testing.assert_allclose(names["embed"](texts), expected, atol=1e-6, rtol=0)


def test_python_code_needs_three_packages(workdir: Path) -> None:
    program = code("Python", "python") + (
        "\nimport sys\nprint(*sorted({'torch', 'transformers', 'datasets', 'lengthwise'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


def test_gpu_options_are_those_of_validation() -> None:
    assert f'providers=[("CUDAExecutionProvider", {json.dumps(dict(CUDA_OPTIONS))})]' in SECTIONS["Python"]


def test_empty_batches_fail_as_the_page_warns(workdir: Path) -> None:
    """No columns raise an error in Python, no rows crash the process."""
    program = (
        "import sys, numpy as np, onnxruntime\n"
        "session = onnxruntime.InferenceSession('artifact/onnx/model.onnx', providers=['CPUExecutionProvider'])\n"
        "nothing = np.zeros((int(sys.argv[1]), int(sys.argv[2])), np.int64)\n"
        "try: session.run(None, {'input_ids': nothing, 'attention_mask': nothing})\n"
        "except Exception as error: print(type(error).__name__)\n"
    )
    ends = [
        subprocess.run([sys.executable, "-c", program, *shape], capture_output=True, text=True)
        for shape in (("2", "0"), ("0", "2"))
    ]
    assert (ends[0].returncode, ends[0].stdout.strip()) == (0, "InvalidArgument")
    assert -ends[1].returncode in {signal.SIGSEGV, signal.SIGABRT}


# JavaScript


def write_program(workdir: Path, rows: list[list[int]], name: str, text: str) -> Path:
    """Write code that embeds `rows` instead of the rows shown, and embed.mjs next to it."""
    assert SHOWN_ROWS in text
    (workdir / "embed.mjs").write_text(code("Node and the browser", "javascript", "// embed.mjs"))
    path = workdir / name
    path.write_text(text.replace(SHOWN_ROWS, json.dumps(rows)))
    return path


def test_node_code_computes_golden_vectors(workdir: Path, golden: tuple[list[list[int]], NDArray[np.float32]]) -> None:
    node = shutil.which("node")
    if node is None or not (PACKAGES / "onnxruntime-node").is_dir():
        pytest.skip("Node or onnxruntime-node is not installed: run make runtimes")
    (workdir / "node_modules").symlink_to(PACKAGES)
    main = code("Node and the browser", "javascript", "// main.mjs")

    def run(rows: list[list[int]]) -> Any:
        path = write_program(workdir, rows, "main.mjs", main)
        done = subprocess.run([node, path], cwd=workdir, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert_golden(run(golden[0]), golden)
    assert run([]) == []
    assert run([[], []]) == [[0.0] * 12] * 2
    shown = run(json.loads(SHOWN_ROWS))
    assert [len(vector) for vector in shown] == [12] * 3
    assert shown[0] != shown[1]


SHOW_ERRORS = """for (const kind of ["error", "unhandledrejection"]) {
  addEventListener(kind, (event) => { document.body.textContent = `error: ${event.message ?? event.reason}`; });
}"""


def test_browser_code_computes_golden_vectors(
    workdir: Path, golden: tuple[list[list[int]], NDArray[np.float32]]
) -> None:
    if not (PACKAGES / "onnxruntime-web").is_dir():
        pytest.skip("onnxruntime-web is not installed: run make runtimes")
    (workdir / "ort").symlink_to(PACKAGES / "onnxruntime-web" / "dist")
    write_program(workdir, golden[0], "index.html", code("Node and the browser", "html"))

    def serve_file(route: Route) -> None:
        path = workdir / urllib.parse.urlsplit(route.request.url).path.lstrip("/")
        if path.is_file():
            route.fulfill(path=path)
        else:
            route.fulfill(status=404)

    with open_browser() as browser, open_page(browser) as (page, record):
        page.add_init_script(SHOW_ERRORS)
        page.route("**/*", serve_file)
        page.goto("http://127.0.0.1/index.html")
        wait_until(page, "document.body.textContent !== ''", 120)
        answer = page.evaluate("document.body.textContent")
    assert not answer.startswith("error"), answer
    assert record.failed == record.console == []
    assert_golden(json.loads(answer), golden)


# Triton


def test_triton_commands_write_the_files_shown(workdir: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for command in code("Triton Inference Server", "bash").splitlines():
        done = subprocess.run(command, shell=True, cwd=workdir, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    files = {path.relative_to(workdir).as_posix() for path in (workdir / "models").rglob("*") if path.is_file()}
    shown = set(code("Triton Inference Server", "text").split())
    assert files == shown | {path.replace("artifact", "vectors_gpu") for path in shown}
    assert "max_batch_size: 256\n" in (workdir / "models/vectors_gpu/config.pbtxt").read_text()


def test_triton_request_fits_the_graph(workdir: Path) -> None:
    request = json.loads(code("Triton Inference Server", "json"))
    kinds = {"INT64": np.int64}
    feeds = {
        tensor["name"]: np.array(tensor["data"], kinds[tensor["datatype"]]).reshape(tensor["shape"])
        for tensor in request["inputs"]
    }
    names = [output["name"] for output in request["outputs"]]
    session = onnxruntime.InferenceSession("artifact/onnx/model.onnx", providers=["CPUExecutionProvider"])
    (vectors,) = session.run(names, feeds)
    (alone,) = session.run(names, {name: rows[1:, :2] for name, rows in feeds.items()})
    assert vectors.shape == (2, 12)
    np.testing.assert_allclose(vectors[1:], alone, atol=1e-6, rtol=0)
    assert len(onnx.load("artifact/onnx/model.onnx").graph.input) == len(feeds)


def test_client_code_receives_vectors(artifact_folder: Path) -> None:
    server = ServerProcess(artifact_folder).wait_until_ready()
    try:
        snippet = code("Routes", "python").replace("http://127.0.0.1:8000", server.url)
        found: dict[str, Any] = {}
        exec(snippet, found)
        expected = OnnxEncoder.load(artifact_folder).encode(["a short text", "another one"])
        np.testing.assert_allclose(found["vectors"], expected, atol=1e-6)
        if shutil.which("curl"):
            match = re.search(r"^curl .*", PAGE, re.MULTILINE)
            assert match is not None
            command = match[0].replace("http://127.0.0.1:8000", server.url)
            answer = subprocess.run(command, shell=True, capture_output=True, check=True).stdout
            np.testing.assert_allclose(json.loads(answer), expected, atol=1e-6)
    finally:
        server.close()


def test_every_setting_and_its_default_is_documented() -> None:
    table = SECTIONS["Settings"]
    for name, field in ServeSettings.model_fields.items():
        assert f"`{name}`" in table
        if isinstance(field.default, int) and field.default < 100_000:
            assert f"{field.default:,}" in table.replace("8000", "8,000")
