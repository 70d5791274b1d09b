"""Building an artifact: every file of the contract, and nothing half-written."""

from __future__ import annotations

import json
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tokenizers import Tokenizer

from helpers.files import UMASKS, other_modes, umask
from helpers.texts import TEXTS
from lengthwise.config import EncoderConfig, TokenizationSettings, TokenizerTraining
from lengthwise.encoder.checkpoint import load_checkpoint, save_checkpoint, weights_fingerprint
from lengthwise.encoder.engine import encode_tokens
from lengthwise.encoder.model import seeded_encoder
from lengthwise.encoder.torch_engine import TorchEngine
from lengthwise.errors import ArtifactError
from lengthwise.export.artifact import build
from lengthwise.export.artifact.build import build_artifact
from lengthwise.export.artifact.folder import Artifact
from lengthwise.export.graphs import trace
from lengthwise.export.graphs.trace import OPSET
from lengthwise.export.graphs.variants import VARIANTS
from lengthwise.export.runtimes.javascript import DRIVER
from lengthwise.export.runtimes.onnxruntime import OnnxRuntimeCpu
from lengthwise.export.triton import write_triton_model
from lengthwise.export.validation.run import run_validation
from lengthwise.export.validation.validate import validate_artifact
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.tokens.training import train_tokenizer

FILES = {
    "config.json",
    "model.safetensors",
    "README.md",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "onnx/model.onnx",
    "onnx/model_portable.onnx",
    "onnx/model_fp16.onnx",
    "onnx/model_int8.onnx",
    "onnx/model_int8_dynamic.onnx",
    "torchscript/model.pt",
    "torchscript/model_portable.pt",
    "pt2/model.pt2",
    "pt2/model_portable.pt2",
    "golden.safetensors",
}


def test_artifact_has_the_files_of_the_contract(artifact_folder: Path) -> None:
    assert set(Artifact.open(artifact_folder).manifest["files"]) == FILES


def test_artifact_has_the_requested_graphs_and_the_native_one(
    tmp_path: Path, tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig]
) -> None:
    artifact = build_artifact(seeded_encoder(encoder_config(), 0), tokenizer, tmp_path / "a", variants=("int8",))
    models = {name for name in artifact.manifest["files"] if "/" in name}
    assert models == {"onnx/model.onnx", "onnx/model_int8.onnx", "torchscript/model.pt", "pt2/model.pt2"}
    assert artifact.manifest["variants"] == {"native": "onnx/model.onnx", "int8": "onnx/model_int8.onnx"}
    card = (artifact.folder / "README.md").read_text()
    assert "model_int8.onnx" in card
    assert "OpenVINO" not in card


@pytest.mark.heavy
def test_large_model_has_weights_beside_its_graphs(
    tmp_path: Path,
    tokenizer: TextTokenizer,
    encoder_config: Callable[..., EncoderConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trace, "PROTOBUF_LIMIT", 1_000)
    encoder = seeded_encoder(encoder_config(bidirectional=True, vocab_size=300), 0)
    variants = {"native", "portable", "fp16", "int8"}
    artifact = build_artifact(encoder, tokenizer, tmp_path / "a", variants=variants)
    assert f"{VARIANTS['int8'].file}.data" in artifact.manifest["files"]
    verdicts = validate_artifact(artifact, [OnnxRuntimeCpu]).verdicts
    assert {verdict.variant: verdict.status for verdict in verdicts} == dict.fromkeys(variants, "passed")


def test_files_hold_no_path_of_the_building_machine(artifact_folder: Path) -> None:
    here = str(Path(build.__file__).parents[1]).encode()
    for name in FILES:
        path = artifact_folder / name
        parts = [path.read_bytes()]
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                parts = [archive.read(part) for part in archive.namelist()]
        assert not any(here in part for part in parts), name


def test_artifact_is_a_checkpoint_too(artifact_folder: Path, tokenizer: TextTokenizer) -> None:
    encoder, loaded = load_checkpoint(artifact_folder)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert Artifact.open(artifact_folder).manifest["weights"] == weights_fingerprint(encoder)


def test_graph_metadata_has_weights_and_pooling(artifact_folder: Path) -> None:
    model = onnx.load(artifact_folder / "onnx/model.onnx")
    found = {item.key: item.value for item in model.metadata_props}
    assert (found["lengthwise.pooling"], found["lengthwise.static_residual"]) == ("mean", "false")
    assert found["lengthwise.pad_token_id"] == "0"
    assert found["lengthwise.trained"] == "false"
    assert found["lengthwise.weights_sha256"] == Artifact.open(artifact_folder).manifest["weights"]
    assert Artifact.open(artifact_folder).manifest["versions"]["opset"] == OPSET


def test_tokenizer_settings_are_what_hugging_face_clients_read(artifact_folder: Path) -> None:
    settings = json.loads((artifact_folder / "tokenizer_config.json").read_text())
    assert settings["model_input_names"] == ["input_ids", "attention_mask"]
    assert settings["padding_side"] == "right"
    tokens = json.loads((artifact_folder / "special_tokens_map.json").read_text())
    assert tokens == {"pad_token": "[PAD]", "unk_token": "[UNK]"}


def test_card_says_not_trained_and_not_validated(artifact_folder: Path) -> None:
    card = (artifact_folder / "README.md").read_text()
    assert "Never trained" in card
    assert "Not validated yet" in card


@pytest.mark.parametrize(("special", "cut_at"), [(True, None), (False, None), (True, 4)])
def test_python_code_of_the_card_gives_the_right_vectors(
    special: bool,
    cut_at: int | None,
    tmp_path: Path,
    encoder_config: Callable[..., EncoderConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = TokenizerTraining(model="wordlevel", min_frequency=1, bos_token="[BOS]", eos_token="[EOS]")
    tokenizer = train_tokenizer(TEXTS, words)
    tokenization = TokenizationSettings(add_special_tokens=special, max_length=cut_at, truncate=cut_at is not None)
    encoder = seeded_encoder(encoder_config(vocab_size=tokenizer.vocab_size, tokenization=tokenization), 0)
    artifact_folder = tmp_path / "artifact"
    build_artifact(encoder, tokenizer, artifact_folder, variants=())
    blocks = (artifact_folder / "README.md").read_text().split("```python\n")[1:]
    with_us, alone = (block.split("```")[0] for block in blocks[:2])
    monkeypatch.chdir(artifact_folder)
    tokens = tokenize_texts([TEXTS[0], TEXTS[3]], tokenizer, tokenization)
    right, _ = encode_tokens(tokens, TorchEngine(encoder))
    for code in (with_us, alone):
        names: dict[str, np.ndarray] = {}
        exec(code.replace("a short text", TEXTS[0]).replace("another text, which is longer", TEXTS[3]), names)
        np.testing.assert_allclose(names["vectors"], right, atol=1e-6, rtol=0)


def vectors_of_ids(artifact_folder: Path) -> np.ndarray:
    """What PyTorch says of the ids in the card's code."""
    encoder, _ = load_checkpoint(artifact_folder)
    with torch.inference_mode():
        return encoder(torch.tensor([[5, 6, 7], [5, 6, 0]]), torch.tensor([3, 2])).numpy()


@pytest.mark.parametrize("library", ["openvino", "torch"])
def test_code_of_the_card_for_other_runtimes_gives_the_right_vectors(
    library: str, artifact_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(library, reason=f"the card's code for {library} was not run: it is not installed")
    blocks = [block.split("```")[0] for block in (artifact_folder / "README.md").read_text().split("```python\n")]
    code = next(block for block in blocks if f"import {library}\n" in block)
    monkeypatch.chdir(artifact_folder)
    names: dict[str, np.ndarray] = {}
    exec(code, names)
    np.testing.assert_allclose(names["vectors"], vectors_of_ids(artifact_folder), atol=1e-6, rtol=0)


def test_node_code_of_the_card_gives_the_right_vectors(artifact_folder: Path) -> None:
    node, packages = shutil.which("node"), DRIVER / "node_modules"
    if node is None or not packages.is_dir():
        pytest.skip("the card's code for Node was not run: run make runtimes")
    code = (artifact_folder / "README.md").read_text().split("```javascript\n")[1].split("```")[0]
    (artifact_folder / "example.mjs").write_text(code)
    (artifact_folder / "node_modules").symlink_to(packages)
    done = subprocess.run([node, "example.mjs"], cwd=artifact_folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    right = vectors_of_ids(artifact_folder)
    np.testing.assert_allclose(np.reshape(found["data"], found["dims"]), right, atol=1e-6, rtol=0)


def test_tokenizer_file_opens_in_tokenizers(artifact_folder: Path, tokenizer: TextTokenizer) -> None:
    opened = Tokenizer.from_file(str(artifact_folder / "tokenizer.json"))
    assert opened.encode(TEXTS[0]).ids == tokenizer.encode_batch([TEXTS[0]])[0].ids


def test_building_twice_gives_the_same_vectors_and_graph(
    tmp_path: Path, tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig]
) -> None:
    encoder = seeded_encoder(encoder_config(), 0)
    first = build_artifact(encoder, tokenizer, tmp_path / "a").manifest["files"]
    again = build_artifact(encoder, tokenizer, tmp_path / "a").manifest["files"]
    same = {name for name in FILES if not name.startswith(("torchscript/", "pt2/"))}
    assert {name: first[name] for name in same} == {name: again[name] for name in same}


@pytest.mark.slow
def test_export_leaves_only_what_it_made(
    artifact_folder: Path, tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig]
) -> None:
    """No graph, report or other file of an earlier export remains, nor what a card says of them."""
    run_validation(artifact_folder, runtimes=["onnxruntime cpu"], speed=False)
    assert "Not validated yet" not in (artifact_folder / "README.md").read_text()
    (artifact_folder / "onnx/model_q4.onnx").write_bytes(b"from elsewhere")
    artifact = build_artifact(seeded_encoder(encoder_config(), 0), tokenizer, artifact_folder, variants=())
    left = {path.relative_to(artifact_folder).as_posix() for path in artifact_folder.rglob("*") if path.is_file()}
    graphs = {"onnx/model.onnx", "torchscript/model.pt", "pt2/model.pt2"}
    assert left == {name for name in FILES if "/" not in name} | graphs | {"MANIFEST.json"}
    assert set(artifact.manifest["files"]) == left - {"MANIFEST.json"}
    card = (artifact_folder / "README.md").read_text()
    assert "Not validated yet" in card
    assert "fp16.onnx" not in card


@pytest.mark.parametrize(
    "mask", [pytest.param(mask, marks=pytest.mark.heavy if mask != 0o027 else pytest.mark.slow) for mask in UMASKS]
)
def test_every_file_has_the_permissions_of_a_new_file(
    tmp_path: Path, tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig], mask: int
) -> None:
    """So that a server under another user can read what the umask lets it read."""
    encoder = seeded_encoder(encoder_config(), 0)
    with umask(mask):
        (root := tmp_path / "all").mkdir()
        save_checkpoint(root / "model", encoder, tokenizer)
        artifact = build_artifact(encoder, tokenizer, root / "artifact", variants=())
        write_triton_model(artifact, root / "models")
        (artifact.folder / "golden.safetensors").chmod(0o600)  # as of an older version
        run_validation(artifact.folder, runtimes=["onnxruntime cpu"], speed=False)
    assert other_modes(root, mask) == {}


def test_folder_with_other_contents_is_refused_and_unchanged(
    tmp_path: Path, tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig]
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ArtifactError, match=r"not empty, and not an artifact.*export\.output"):
        build_artifact(seeded_encoder(encoder_config(), 0), tokenizer, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.heavy
def test_artifact_of_another_model_is_replaced_with_a_warning(
    tmp_path: Path,
    tokenizer: TextTokenizer,
    encoder_config: Callable[..., EncoderConfig],
    caplog: pytest.LogCaptureFixture,
) -> None:
    for seed, expected in ((0, 0), (0, 0), (1, 1)):
        caplog.clear()
        build_artifact(seeded_encoder(encoder_config(), seed), tokenizer, tmp_path / "artifact", variants=())
        assert sum("holds the artifact of another model" in message for message in caplog.messages) == expected


def test_failed_export_keeps_the_older_artifact(
    artifact_folder: Path, tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Artifact.open(artifact_folder).manifest

    def refuse(*_: object) -> None:
        raise ArtifactError("the exporter refuses")

    monkeypatch.setattr(build, "trace_to_torchscript", refuse)
    encoder, _ = load_checkpoint(artifact_folder)
    with pytest.raises(ArtifactError, match="the exporter refuses"):
        build_artifact(encoder, tokenizer, artifact_folder)
    assert Artifact.open(artifact_folder).manifest == before
    assert [path.name for path in artifact_folder.parent.iterdir()] == [artifact_folder.name]
