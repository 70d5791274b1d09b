"""docs/runtimes.md: the extras that it names, its command, its code, and its table of bad inputs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from helpers.pages import code_blocks, read_page, runnable_commands
from helpers.paths import ROOT
from lengthwise import Encoder
from lengthwise.cli.benchmark import main
from lengthwise.config import EncoderConfig
from lengthwise.encoder.model import seeded_encoder
from lengthwise.export.artifact.build import build_artifact
from lengthwise.export.artifact.folder import Artifact
from lengthwise.export.graphs.executorch import PYTHON_VARIABLE
from lengthwise.export.runtimes import Runtime
from lengthwise.export.runtimes.javascript import DRIVER
from lengthwise.export.runtimes.onnxruntime import OnnxRuntimeCpu
from lengthwise.export.validation.bad_inputs import ask_bad_inputs, runtime_files
from lengthwise.tokens.tokenizer import TextTokenizer

PAGE = read_page("docs/runtimes.md")


def test_extras_are_those_of_the_package() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r"^\| [^|]+ \| ([^|]+) \|", PAGE, re.MULTILINE)
    found = {name for cell in named for name in re.findall(r"`([a-z-]+)`", cell)}
    assert found >= {"openvino", "tract", "opencv", "iree", "cpu", "gpu"}
    assert found <= extras.keys()


@pytest.mark.parametrize(
    "engine", ["tract", "opencv-python-headless", "iree-base-compiler", "onnxslim", "ai-edge-litert"]
)
def test_versions_are_those_that_are_tested(engine: str) -> None:
    pinned = re.search(rf"^{engine}==(\d+\.\d+\.\d+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned
    assert pinned.group(1) in PAGE


def test_commands_exist() -> None:
    measured, bad_input = runnable_commands(PAGE)
    assert measured == "lengthwise benchmark runtimes runs/quickstart/artifact"
    assert bad_input == f"{measured} --bad-input"
    assert "--bad-input" in CliRunner().invoke(main, ["runtimes", "--help"]).output


ENGINES = (  # the package of a block, what the block holds alone, and the graph that it opens
    ("onnxruntime", 'session = onnxruntime.InferenceSession("artifact/onnx', "native"),
    ("onnxruntime", "artifact/ort/model.ort", "ort"),
    ("openvino", "import openvino", "portable"),
    ("tract", "import tract", "portable"),
    ("cv2", "import cv2", "portable"),
    ("iree.compiler", "import iree.compiler", "portable"),
    ("ai_edge_litert", "from ai_edge_litert", "litert"),
    ("torch", "torch.jit.load", "native"),
    ("torch", "torch.export.load", "portable"),
)
SLOWEST = [each for each in ENGINES if each[1] in ("import iree.compiler", "torch.export.load")]
FIRST, *BLOCKS = code_blocks(PAGE, "python")
NODE_PACKAGES = DRIVER / "node_modules"


@pytest.fixture(scope="module")
def workdir(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig]
) -> Path:
    """A folder with an `artifact` that has every graph that can be made here."""
    folder = tmp_path_factory.mktemp("runtimes")
    config = encoder_config(num_layers=2, bidirectional=True, tokenizer_fingerprint=tokenizer.fingerprint)
    made = ["native", "portable", "ort"]
    made += ["litert"] * (find_spec("ai_edge_litert") is not None)
    made += ["executorch"] * bool(os.environ.get(PYTHON_VARIABLE) or find_spec("executorch"))
    build_artifact(seeded_encoder(config, 0), tokenizer, folder / "artifact", variants=made)
    return folder


def vector_of(text: str, workdir: Path) -> NDArray[np.float32]:
    return Encoder.load(workdir / "artifact").encode(text)


def run_block(python: str, shown: str, workdir: Path) -> NDArray[np.float32]:
    """The vector of a block of the page, run after the first one in a process of its own."""
    (code,) = (block for block in BLOCKS if shown in block)
    program = f"{FIRST}\n{code}\nPath('vector.json').write_text(json.dumps(np.array(vector).tolist()))\n"
    done = subprocess.run([python, "-c", program], cwd=workdir, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return np.array(json.loads((workdir / "vector.json").read_text()), np.float32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "shown", "graph"),
    [pytest.param(*each, id=f"{each[0]}-{each[2]}", marks=[pytest.mark.heavy] * (each in SLOWEST)) for each in ENGINES],
)
def test_block_gives_the_vector_of_the_text(package: str, shown: str, graph: str, workdir: Path) -> None:
    pytest.importorskip(package, reason=f"the page's code for {package} was not run: it is not installed")
    found = run_block(sys.executable, shown, workdir)
    np.testing.assert_allclose(found, vector_of("a short text", workdir), atol=1e-6)


@pytest.mark.slow
def test_block_of_executorch_gives_the_vector_of_the_text(workdir: Path) -> None:
    if not (workdir / "artifact/executorch").exists():
        pytest.skip("the page's code for executorch was not run: it is not installed")
    found = run_block(os.environ.get(PYTHON_VARIABLE) or sys.executable, "from executorch", workdir)
    np.testing.assert_allclose(found, vector_of("a short text", workdir), atol=1e-6)


@pytest.mark.slow
def test_block_of_node_gives_the_vector_of_its_ids(workdir: Path) -> None:
    node = shutil.which("node")
    if node is None or not (NODE_PACKAGES / "onnxruntime-node").is_dir():
        pytest.skip("Node or onnxruntime-node is not installed: run make runtimes")
    (workdir / "node_modules").symlink_to(NODE_PACKAGES)
    (code,) = code_blocks(PAGE, "javascript")
    (workdir / "main.mjs").write_text(code)
    done = subprocess.run([node, "main.mjs"], cwd=workdir, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    runtime = OnnxRuntimeCpu()
    runtime.load(workdir / "artifact/onnx/model.onnx")
    vectors, _ = runtime.run(np.array([[5, 6, 7]]), np.ones((1, 3), np.int64))
    np.testing.assert_allclose(json.loads(done.stdout), vectors[0], atol=1e-6)


def test_every_block_is_run() -> None:
    run = {shown for _, shown, _ in ENGINES} | {"from executorch"}
    assert len(BLOCKS) == len(run)
    assert all(sum(shown in block for shown in run) == 1 for block in BLOCKS)


MEMORY_BEYOND = {"iree", "openvino"}  # what is read there, or whether anything is, may differ


@pytest.mark.heavy  # tests/export/validation/test_bad_inputs.py asks the adapters the same in every run
@pytest.mark.parametrize(("kind", "variant", "name"), [pytest.param(*each, id=each[2]) for each in runtime_files()])
def test_table_of_bad_inputs_says_what_an_engine_does(
    kind: type[Runtime], variant: str, name: str, workdir: Path
) -> None:
    path = workdir / "artifact" / kind.files[variant]
    if not path.exists():
        pytest.skip(f"{name} was not asked: its file is made only where its converter is installed")
    vocab_size = Artifact.open(workdir / "artifact").load_config().vocab_size
    asked = ask_bad_inputs(kind, path, vocab_size)
    if any(each.behaviour == "not run" for each in asked.values()):
        pytest.skip(f"{name} was not asked: {asked['no rows'].detail}")
    shown = table_row(name)
    assert shown.keys() == asked.keys()
    for batch, each in asked.items():
        beyond = name in MEMORY_BEYOND and batch.startswith("id = ")
        assert each.behaviour in ({"wrong", "crash"} if beyond else {shown[batch]}), (batch, each.detail)


def test_table_of_bad_inputs_has_every_engine_and_no_blank_cell() -> None:
    behaviours = {"error", "crash", "right", "wrong", "not run"}
    for _, _, name in runtime_files():
        assert set(table_row(name).values()) <= behaviours


def table_row(name: str) -> dict[str, str]:
    """What the page says of an engine, by batch."""
    section = PAGE[PAGE.index("## Bad input") :]
    head, row = (re.search(rf"^\| {re.escape(first)} \|(.*)\|$", section, re.MULTILINE) for first in ("engine", name))
    assert head, name
    assert row, name
    cells = ([cell.strip() for cell in match.group(1).split("|")] for match in (head, row))
    return dict(zip(*cells, strict=True))
