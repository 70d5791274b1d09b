"""The code of docs/serve.md, as it stands there, gives PyTorch's vectors; its commands do what it says."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from helpers.paths import ROOT
from helpers.serving import Served
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
from lengthwise.tokens.tokenizer import train_tokenizer

PAGE = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
SECTIONS = {part.split("\n", 1)[0]: part for part in re.split(r"^##+ ", PAGE, flags=re.MULTILINE)[1:]}
PACKAGES = javascript.DRIVER / "node_modules"
SHOWN_ROWS = "[[5, 6, 7], [5, 6], []]"
LONG = " ".join(TEXTS * 20)


def code(section: str, language: str, first: str = "") -> str:
    """The one block of a section in a language, and that begins with a line, where one is given."""
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
def here(artifact_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the code runs in: the artifact is beside it."""
    monkeypatch.chdir(artifact_folder.parent)
    return artifact_folder.parent


@pytest.fixture
def golden(here: Path) -> tuple[list[list[int]], NDArray[np.float32]]:
    """Rows of ids, one of them empty, and their vectors."""
    known = Artifact.open(here / "artifact").load_golden()
    rows = [ids[:length].tolist() for ids, length in zip(known.input_ids, known.lengths, strict=True)]
    return [*rows, []], np.vstack([known.vectors, np.zeros_like(known.vectors[:1])])


def check(found: Any, golden: tuple[list[list[int]], NDArray[np.float32]]) -> None:
    np.testing.assert_allclose(np.array(found, np.float32), golden[1], atol=1e-6, rtol=0)


# Python


@pytest.fixture
def python(here: Path) -> dict[str, Any]:
    """What the Python code defines."""
    names: dict[str, Any] = {}
    exec(code("Python", "python"), names)
    return names


def test_python(python: dict[str, Any], golden: tuple[list[list[int]], NDArray[np.float32]]) -> None:
    assert python["vectors"].shape == (3, 12)
    assert not python["vectors"][2].any()
    rows, vectors = golden
    check(python["embed_ids"](rows), golden)
    check([python["embed_ids"]([ids])[0] for ids in rows], golden)
    assert python["embed_ids"](rows).dtype == vectors.dtype
    assert python["embed_ids"]([]).shape == python["embed"]([]).shape == (0, 12)
    assert python["embed"](["", " "]).tolist() == [[0.0] * 12] * 2


@pytest.mark.parametrize("special", [False, True])
def test_python_on_texts(
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


def test_python_needs_three_packages(here: Path) -> None:
    program = code("Python", "python") + (
        "\nimport sys\nprint(*sorted({'torch', 'transformers', 'datasets', 'export', 'pipeline'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


def test_the_options_for_a_gpu_are_those_that_were_validated() -> None:
    assert f'providers=[("CUDAExecutionProvider", {json.dumps(dict(CUDA_OPTIONS))})]' in SECTIONS["Python"]


def test_what_the_page_warns_of_is_so(here: Path) -> None:
    """No columns: an error in Python. No rows: the end of the process."""
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


def written(here: Path, rows: list[list[int]], name: str, text: str) -> Path:
    """A file with code, which embeds other rows, beside embed.mjs."""
    assert SHOWN_ROWS in text
    (here / "embed.mjs").write_text(code("Node and the browser", "javascript", "// embed.mjs"))
    path = here / name
    path.write_text(text.replace(SHOWN_ROWS, json.dumps(rows)))
    return path


def test_node(here: Path, golden: tuple[list[list[int]], NDArray[np.float32]]) -> None:
    node = shutil.which("node")
    if node is None or not (PACKAGES / "onnxruntime-node").is_dir():
        pytest.skip("Node or onnxruntime-node is not installed: run make runtimes")
    (here / "node_modules").symlink_to(PACKAGES)
    main = code("Node and the browser", "javascript", "// main.mjs")

    def run(rows: list[list[int]]) -> Any:
        path = written(here, rows, "main.mjs", main)
        done = subprocess.run([node, path], cwd=here, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    check(run(golden[0]), golden)
    assert run([]) == []
    assert run([[], []]) == [[0.0] * 12] * 2
    shown = run(json.loads(SHOWN_ROWS))
    assert [len(vector) for vector in shown] == [12] * 3
    assert shown[0] != shown[1]


class _Folder(SimpleHTTPRequestHandler):
    """Serves a folder, and takes the page's answer."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript", ".wasm": "application/wasm"}

    def __init__(self, answers: queue.Queue[str], *arguments: Any, **options: Any) -> None:
        self.answers = answers
        super().__init__(*arguments, **options)

    def do_POST(self) -> None:  # the name that the base class calls
        self.answers.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


TELL = """<body></body>
<script>
  const tell = (text) => fetch("answer", { method: "POST", body: text });
  addEventListener("error", (event) => tell(`error: ${event.message}`));
  addEventListener("unhandledrejection", (event) => tell(`error: ${event.reason}`));
  const tellOnceWritten = () => document.body.querySelector("script") || tell(document.body.textContent);
  new MutationObserver(tellOnceWritten).observe(document.body, { childList: true });
</script>
"""


@contextlib.contextmanager
def opened(program: str, address: str) -> Iterator[None]:
    """A browser, without a window, at an address."""
    with tempfile.TemporaryDirectory(prefix="lw", ignore_cleanup_errors=True) as profile:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        options = ["--headless", "--disable-gpu", "--no-first-run", *sandbox, f"--user-data-dir={profile}"]
        with open(os.devnull, "wb") as nowhere:
            browser = subprocess.Popen(
                [program, *options, address],
                stdout=nowhere,
                stderr=nowhere,
                process_group=0,
                env={**os.environ, "TMPDIR": profile},
            )
            try:
                yield
            finally:
                os.killpg(browser.pid, signal.SIGKILL)
                browser.wait()


def test_browser(here: Path, golden: tuple[list[list[int]], NDArray[np.float32]]) -> None:
    named = os.environ.get(javascript._BROWSER_VARIABLE)
    program = named or next(filter(None, map(shutil.which, javascript._BROWSERS)), None)
    if program is None or not (PACKAGES / "onnxruntime-web").is_dir():
        pytest.skip("Chromium or onnxruntime-web is not installed: run make runtimes")
    (here / "ort").symlink_to(PACKAGES / "onnxruntime-web" / "dist")
    page = code("Node and the browser", "html")
    doctype, rest = page.split("\n", 1)
    written(here, golden[0], "index.html", f"{doctype}\n{TELL}{rest}")
    answers: queue.Queue[str] = queue.Queue()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Folder, answers, directory=str(here)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with opened(program, f"http://127.0.0.1:{server.server_port}/index.html"):
            answer = answers.get(timeout=120)
    finally:
        server.shutdown()
        server.server_close()
    assert not answer.startswith("error"), answer
    check(json.loads(answer), golden)


# Triton


def test_the_commands_for_triton(here: Path) -> None:
    (here / "scripts").symlink_to(ROOT / "scripts")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for command in code("Triton Inference Server", "bash").splitlines():
        done = subprocess.run(command, shell=True, cwd=here, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    files = {path.relative_to(here).as_posix() for path in (here / "models").rglob("*") if path.is_file()}
    shown = set(code("Triton Inference Server", "text").split())
    assert files == shown | {path.replace("artifact", "vectors_gpu") for path in shown}
    assert "max_batch_size: 256\n" in (here / "models/vectors_gpu/config.pbtxt").read_text()


def test_the_request_for_triton_is_one_that_the_graph_takes(here: Path) -> None:
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


def test_the_server_answers_as_is_said(artifact_folder: Path, tmp_path: Path) -> None:
    served = Served(artifact_folder).ready()
    try:
        snippet = code("Routes", "python").replace("http://127.0.0.1:8000", served.url)
        found: dict[str, Any] = {}
        exec(snippet, found)
        right = OnnxEncoder.load(artifact_folder).encode(["a short text", "another one"])
        np.testing.assert_allclose(found["vectors"], right, atol=1e-6)
        if shutil.which("curl"):
            asked = re.search(r"^curl .*", PAGE, re.MULTILINE)
            assert asked is not None
            command = asked[0].replace("http://127.0.0.1:8000", served.url)
            answer = subprocess.run(command, shell=True, capture_output=True, check=True).stdout
            np.testing.assert_allclose(json.loads(answer), right, atol=1e-6)
    finally:
        served.close()


def test_every_setting_of_the_server_and_its_default_is_named() -> None:
    table = SECTIONS["Settings"]
    for name, field in ServeSettings.model_fields.items():
        assert f"`{name}`" in table
        if isinstance(field.default, int) and field.default < 100_000:
            assert f"{field.default:,}" in table.replace("8000", "8,000")
