"""Clients open an artifact as it is: the code on its card, run unchanged, gives PyTorch's vectors."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from helpers.paths import ROOT
from helpers.texts import TEXTS
from lengthwise.config import EncoderConfig, TokenizationSettings, TokenizerTraining
from lengthwise.encoder.checkpoint import load_checkpoint
from lengthwise.encoder.engine import encode_texts
from lengthwise.encoder.model import seeded_encoder
from lengthwise.encoder.torch_engine import TorchEngine
from lengthwise.export.artifact.build import build_artifact
from lengthwise.export.artifact.card import model_card
from lengthwise.export.artifact.engine import OnnxEncoder
from lengthwise.export.graphs.variants import INT8, NATIVE, VARIANTS
from lengthwise.export.runtimes.javascript import DRIVER
from lengthwise.tokens.training import train_tokenizer

LONG = " ".join(TEXTS * 20)  # 940 tokens: longer than what clients cut at by themselves
MIXED = [TEXTS[0], "", LONG, *TEXTS, "Moon zebra"]
SHOWN = ["a short text", "another text, which is longer"]  # on the card
PACKAGES = DRIVER / "node_modules"
CASES = [("mean", NATIVE), ("mean", INT8), ("last", NATIVE)]


@pytest.fixture(scope="module")
def _with_special_tokens(
    tmp_path_factory: pytest.TempPathFactory, encoder_config: Callable[..., EncoderConfig]
) -> Path:
    """The artifact of an encoder with the last state, a projection, and special tokens around each text."""
    special = {"bos_token": "[BOS]", "eos_token": "[EOS]"}
    tokenizer = train_tokenizer(TEXTS, TokenizerTraining(model="byte_bpe", min_frequency=1, vocab_size=400, **special))
    config = encoder_config(
        vocab_size=tokenizer.vocab_size, bidirectional=True, pooling="last", projection_dim=5, trained=False
    )
    folder = tmp_path_factory.mktemp("special") / "artifact"
    build_artifact(seeded_encoder(config, 0), tokenizer, folder, variants=(NATIVE,))
    return folder


@pytest.fixture
def folder(pooling: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An artifact, and the folder in which code runs."""
    folder: Path = request.getfixturevalue("artifact_folder" if pooling == "mean" else "_with_special_tokens")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def _fastembed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fastembed, to which no model was added yet."""
    pytest.importorskip("fastembed", reason="fastembed is not installed here: install lengthwise[clients]")
    from fastembed.text.custom_text_embedding import CustomTextEmbedding

    monkeypatch.setattr(CustomTextEmbedding, "SUPPORTED_MODELS", [])
    monkeypatch.setenv("FASTEMBED_CACHE_PATH", str(tmp_path / "cache"))


@pytest.fixture
def node() -> str:
    """Node, where transformers.js is installed beside the drivers."""
    if not (PACKAGES / "@huggingface" / "transformers").is_dir():
        pytest.skip(f"@huggingface/transformers is not installed in {DRIVER.relative_to(ROOT)}")
    program = shutil.which("node")
    if program is None:
        pytest.skip("Node is not installed here")
    return program


def code_on_the_card(folder: Path, title: str, graph: str) -> str:
    """The card's code for a client, with the texts of MIXED, and another graph."""
    section = (folder / "README.md").read_text().split(f"### {title}\n")[1].split("\n### ")[0]
    code = section.split("```")[1].split("\n", 1)[1]
    assert json.dumps(SHOWN) in code
    return code.replace(json.dumps(SHOWN), json.dumps(MIXED)).replace(VARIANTS[NATIVE].file, VARIANTS[graph].file)


def right_vectors(folder: Path, graph: str) -> NDArray[np.float32]:
    """PyTorch's; of a graph in 8 bits, those that it has here."""
    if graph != NATIVE:
        return OnnxEncoder.load(folder, variant=graph).encode(MIXED)
    encoder, tokenizer = load_checkpoint(folder)
    return encode_texts(MIXED, tokenizer, TorchEngine(encoder))


@pytest.mark.parametrize(("pooling", "graph"), CASES)
@pytest.mark.usefixtures("_fastembed")
def test_fastembed(folder: Path, graph: str) -> None:
    names: dict[str, list[NDArray[np.float32]]] = {}
    exec(code_on_the_card(folder, "fastembed", graph), names)
    found = np.stack(names["vectors"])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, right_vectors(folder, graph), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("pooling", "graph"), CASES)
def test_transformers_js(node: str, folder: Path, graph: str, tmp_path: Path) -> None:
    code = code_on_the_card(folder, "transformers.js", graph)
    code = code.replace('"fp32"', json.dumps({NATIVE: "fp32"}.get(graph, graph)))
    (tmp_path / "node_modules").symlink_to(PACKAGES)
    (tmp_path / "client.mjs").write_text(code)
    done = subprocess.run([node, tmp_path / "client.mjs"], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    found = np.array(answer["data"], np.float32).reshape(answer["dims"])
    np.testing.assert_allclose(found, right_vectors(folder, graph), atol=1e-6, rtol=0)


def test_clients_get_no_length_limit(artifact_folder: Path) -> None:
    settings = json.loads((artifact_folder / "tokenizer_config.json").read_text())
    assert settings["model_max_length"] == 2**31 - 1


def test_card_omits_clients_that_cannot_skip_special_tokens(
    artifact_folder: Path, encoder_config: Callable[..., EncoderConfig]
) -> None:
    without = TokenizationSettings(add_special_tokens=False)
    card = model_card(encoder_config(tokenization=without), artifact_folder)
    assert "fastembed" not in card
    assert "{ padding: true, add_special_tokens: false }" in card
