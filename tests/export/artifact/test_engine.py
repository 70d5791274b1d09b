"""OnnxEncoder and OnnxEngine: the same vectors as PyTorch, without PyTorch."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from helpers.paths import ROOT, link_package
from helpers.texts import TEXTS
from lengthwise.config import CONFIG_FILE, BatchingSettings, EncoderConfig, TokenizationSettings, TokenizerTraining
from lengthwise.encoder.checkpoint import load_checkpoint, weights_fingerprint
from lengthwise.encoder.engine import encode_texts, encode_tokens
from lengthwise.encoder.model import seeded_encoder
from lengthwise.encoder.torch_engine import TorchEngine
from lengthwise.errors import ArtifactError, LengthwiseError, TextError
from lengthwise.export.artifact import engine
from lengthwise.export.artifact.build import build_artifact
from lengthwise.export.artifact.engine import OnnxEncoder, OnnxEngine, recommended_variant
from lengthwise.export.artifact.folder import VALIDATION_JSON, Artifact
from lengthwise.export.graphs.variants import INT8, INT8_DYNAMIC, NATIVE, PORTABLE, VARIANTS
from lengthwise.export.runtimes import NotRunnable
from lengthwise.export.runtimes.onnxruntime import OnnxRuntimeCpu, OnnxRuntimeCuda
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.tokens.training import train_tokenizer

CPU = "onnxruntime cpu"
MIXED = [*TEXTS, "", "moon", *reversed(TEXTS), "zebra " * 40, TEXTS[0]]
INDEPENDENT = [name for name, variant in VARIANTS.items() if variant.independent]
Vectors = NDArray[np.float32]


@pytest.fixture(scope="module")
def encoders(_built_artifact: Path) -> Mapping[str, OnnxEncoder]:
    """The artifact on each of its graphs; only read."""
    return {name: OnnxEncoder.load(_built_artifact, variant=name) for name in VARIANTS}


@pytest.fixture(scope="module")
def encoder(encoders: Mapping[str, OnnxEncoder]) -> OnnxEncoder:
    return encoders[NATIVE]


@pytest.fixture(scope="module")
def pytorch(_built_artifact: Path) -> Callable[[list[str]], Vectors]:
    """PyTorch's vectors of texts."""
    encoder, tokenizer = load_checkpoint(_built_artifact)
    engine = TorchEngine(encoder)
    return lambda texts: encode_texts(texts, tokenizer, engine)


@pytest.fixture(scope="module")
def _native_alone(tmp_path_factory: pytest.TempPathFactory, encoder_config: Callable[..., EncoderConfig]) -> Path:
    words = TokenizerTraining(model="wordlevel", min_frequency=1, bos_token="[BOS]", eos_token="[EOS]")
    tokenizer = train_tokenizer(TEXTS, words)
    encoder = seeded_encoder(encoder_config(vocab_size=tokenizer.vocab_size, projection_dim=4), 0)
    folder = tmp_path_factory.mktemp("native") / "artifact"
    return build_artifact(encoder, tokenizer, folder, variants=(NATIVE,)).folder


@pytest.fixture
def native_alone(_native_alone: Path, tmp_path: Path) -> Path:
    """A copy of an artifact with the native graph alone, a projection, and special tokens around each text."""
    return Path(shutil.copytree(_native_alone, tmp_path / "native"))


def padded(encoder: OnnxEncoder, texts: list[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids of texts, and their lengths."""
    tokens = tokenize_texts(texts, encoder.tokenizer)
    return tokens.pad_rows(np.arange(len(tokens)), 0)


# Texts


def test_vectors_equal_those_of_pytorch(artifact_folder: Path) -> None:
    encoder, tokenizer = load_checkpoint(artifact_folder)
    engine = OnnxEngine(Artifact.open(artifact_folder), workers=2)
    texts = MIXED * 3
    right = encode_texts(texts, tokenizer, TorchEngine(encoder))
    found = encode_texts(texts, tokenizer, engine)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, right, atol=1e-6, rtol=0)
    assert engine.fingerprint == weights_fingerprint(encoder)
    assert engine.config == encoder.config
    assert engine.name == "onnxruntime cpu onnx/model.onnx"
    assert (engine.variant, engine.reference) == (NATIVE, None)
    assert engine.costs.pads


@settings(max_examples=30, deadline=None)
@given(texts=st.lists(st.sampled_from(MIXED), max_size=12))
def test_any_number_and_order_of_texts(
    encoder: OnnxEncoder, pytorch: Callable[[list[str]], Vectors], texts: list[str]
) -> None:
    found = encoder.encode(texts)
    assert (found.dtype, found.shape) == (np.float32, (len(texts), encoder.dim))
    np.testing.assert_allclose(found, pytorch(texts), atol=1e-6, rtol=0)


def test_batch_limits_and_workers_do_not_change_vectors(artifact_folder: Path, encoder: OnnxEncoder) -> None:
    small = OnnxEncoder.load(artifact_folder, workers=1, batching=BatchingSettings(max_rows=1))
    np.testing.assert_allclose(small.encode(MIXED), encoder.encode(MIXED), atol=1e-6, rtol=0)


@pytest.mark.parametrize("special", [True, False])
def test_older_manifest_sets_special_tokens(special: bool, native_alone: Path) -> None:
    artifact = Artifact.open(native_alone)
    config = json.loads((artifact.folder / CONFIG_FILE).read_text())
    del config["tokenization"]
    manifest = {**artifact.manifest, "add_special_tokens": special}
    Artifact(artifact.folder, manifest).with_files({CONFIG_FILE: json.dumps(config)})
    encoder, tokenizer = load_checkpoint(artifact.folder)
    tokens = tokenize_texts(MIXED, tokenizer, TokenizationSettings(add_special_tokens=special))
    right, _ = encode_tokens(tokens, TorchEngine(encoder))
    loaded = OnnxEncoder.load(artifact.folder)
    assert loaded.dim == 4
    np.testing.assert_allclose(loaded.encode(MIXED), right, atol=1e-6, rtol=0)


def test_items_that_are_no_texts_are_refused(encoder: OnnxEncoder) -> None:
    with pytest.raises(TextError, match=r"row 1: null"):
        encoder.encode(["moon", None])  # type: ignore[list-item]
    with pytest.raises(TextError, match=r"row 0: not Unicode"):
        encoder.encode(["\ud800"])
    with pytest.raises(TextError, match=r"texts is one text \('moon'\).*give a list"):
        encoder.encode("moon")


# Ids


def test_ids_give_the_same_vectors_as_their_texts(encoder: OnnxEncoder) -> None:
    ids, lengths = padded(encoder, MIXED)
    right = encoder.encode(MIXED)
    mask = np.arange(ids.shape[1]) < lengths[:, None]
    assert (lengths == 0).any()
    noise = np.where(mask, ids, np.random.default_rng(0).integers(-9, 9_999, ids.shape))  # in the padding, anything
    for given_ids in (ids, noise, noise.astype(np.int32), noise.tolist()):
        np.testing.assert_array_equal(encoder.encode_ids(given_ids, lengths), right)
        for given_mask in (mask, mask.astype(np.int64), mask.astype(np.uint8), mask.astype(int).tolist()):
            np.testing.assert_array_equal(encoder.encode_masked(given_ids, given_mask), right)


def test_empty_inputs_give_zeros_or_no_rows(encoder: OnnxEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("onnxruntime was called, which does not survive an empty batch")

    monkeypatch.setattr(OnnxRuntimeCpu, "vectors", refuse)
    no_rows = np.zeros((0, 5), np.int64)
    empty = [
        encoder.encode([]),
        encoder.encode_ids([], []),
        encoder.encode_ids(no_rows, []),
        encoder.encode_masked([], []),
        encoder.encode_masked(no_rows, no_rows),
    ]
    for found in empty:
        assert (found.dtype, found.shape) == (np.float32, (0, encoder.dim))
    three_rows = [[7, -7, 10**6]] * 3
    zeros = [
        encoder.encode(["", "", ""]),
        encoder.encode_ids(three_rows, [0, 0, 0]),
        encoder.encode_ids([[], [], []], [0, 0, 0]),
        encoder.encode_masked(three_rows, np.zeros((3, 3), np.int64)),
        encoder.encode_masked([[], [], []], [[], [], []]),
    ]
    for found in zeros:
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, np.zeros((3, encoder.dim)))


@pytest.mark.parametrize("wrong", [26, 10**9, -1])
def test_id_outside_the_vocabulary_is_refused(encoder: OnnxEncoder, wrong: int) -> None:
    assert encoder.engine.config.vocab_size == 26
    ids = [[25, 0, 3], [4, wrong, 6]]
    message = rf"row 1 has the id {wrong}, but ids run from 0 to 25 here; use the artifact's own tokenizer"
    with pytest.raises(TextError, match=message):
        encoder.encode_ids(ids, [3, 3])
    with pytest.raises(TextError, match=message):
        encoder.encode_masked(ids, [[1, 1, 1], [1, 1, 0]])
    assert encoder.encode_ids(ids, [3, 1]).any()
    assert encoder.encode_masked(ids, [[1, 1, 1], [1, 0, 0]]).any()


@pytest.mark.parametrize(
    "mask", [[0, 1, 1], [0, 0, 1], [1, 0, 1], [2, 1, 0], [1, 1, -1]], ids=["left", "one", "hole", "two", "negative"]
)
def test_mask_with_holes_is_refused(encoder: OnnxEncoder, mask: list[int]) -> None:
    with pytest.raises(TextError, match=r"row 1 of attention_mask is not ones, then zeros \(\[.*padding_side='right'"):
        encoder.encode_masked([[5, 6, 7]] * 2, [[1, 1, 1], mask])


@pytest.mark.parametrize(
    ("ids", "lengths", "message"),
    [
        ([[5, 6]], [2, 2], "there are 1 rows of ids and 2 lengths; give one per row"),
        ([[5, 6], [5, 6]], [2], "there are 2 rows of ids and 1 lengths"),
        ([], [1], "there are 0 rows of ids and 1 lengths"),
        ([[5, 6], [5, 6]], [2, 3], "row 1 has the length 3, but a length is from 0 to 2 here"),
        ([[5, 6]], [-1], "row 0 has the length -1"),
        ([5, 6], [2], r"input_ids has the shape \[2\]; give it 2 axes"),
        ([[[5, 6]]], [2], r"input_ids has the shape \[1, 1, 2\]; give it 2 axes"),
        (np.zeros((0, 2, 3)), [], r"input_ids has the shape \[0, 2, 3\]; give it 2 axes"),
        ([[5, 6]], [[2]], r"lengths has the shape \[1, 1\]; give it 1 axis"),
        (5, 1, r"input_ids has the shape \[\]"),
        ([[5.0, 6.0]], [2], "input_ids holds float64; give whole numbers"),
        ([[5, 6]], [2.0], "lengths holds float64; give whole numbers"),
        ([["5", "6"]], [2], "input_ids holds <U1; give whole numbers"),
        ([[5, None]], [2], "input_ids holds object; give whole numbers"),
        ([[5, 6], [5]], [2, 1], "input_ids has rows of several lengths; pad them on the right"),
    ],
)
def test_ids_and_lengths_of_different_shapes_are_refused(
    encoder: OnnxEncoder, ids: Any, lengths: Any, message: str
) -> None:
    with pytest.raises(TextError, match=message):
        encoder.encode_ids(ids, lengths)


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        ([[5, 6]], [[1]], r"input_ids are \[1, 2\] and attention_mask \[1, 1\]; they must match"),
        ([[5, 6]], [[1, 1], [1, 1]], r"\[1, 2\] and attention_mask \[2, 2\]"),
        ([[5, 6]], [1, 1], r"attention_mask has the shape \[2\]; give it 2 axes"),
        ([[5, 6]], [[1.0, 0.5]], "attention_mask holds float64; give whole numbers"),
        ([[5, 6], [5, 0]], [[1, 1], [1]], "attention_mask has rows of several lengths"),
    ],
)
def test_ids_and_masks_of_different_shapes_are_refused(encoder: OnnxEncoder, ids: Any, mask: Any, message: str) -> None:
    with pytest.raises(TextError, match=message):
        encoder.encode_masked(ids, mask)


# Graphs


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_graph_is_close_to_pytorch(
    variant: str, encoders: Mapping[str, OnnxEncoder], pytorch: Callable[[list[str]], Vectors]
) -> None:
    engine = encoders[variant].engine
    assert engine.variant == variant
    assert engine.name == f"onnxruntime cpu {VARIANTS[variant].file}"
    found, right = encoders[variant].encode(MIXED), pytorch(MIXED)
    assert found.dtype == np.float32
    if variant in (NATIVE, PORTABLE):
        assert engine.reference is None
        np.testing.assert_allclose(found, right, atol=1e-6, rtol=0)
        return
    assert engine.reference is not None
    assert engine.reference.variant == NATIVE
    real = right.any(axis=1)
    cosines = (found * right).sum(axis=1)[real] / np.linalg.norm(found, axis=1)[real]  # of PyTorch's, it is 1
    assert cosines.min() > VARIANTS[variant].cosine
    assert 1e-6 < np.abs(found - right).max() < VARIANTS[variant].difference  # or it would be another graph
    assert not found[~real].any()


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=6),
    columns=st.integers(20, 24),
    seed=st.integers(0, 2**31),
)
@pytest.mark.parametrize("variant", INDEPENDENT)
def test_row_does_not_depend_on_its_batch(
    variant: str, encoders: Mapping[str, OnnxEncoder], lengths: list[int], columns: int, seed: int
) -> None:
    engine = encoders[variant].engine
    ids = np.random.default_rng(seed).integers(0, engine.config.vocab_size, (len(lengths), columns))
    together = engine.encode_batch(ids, np.array(lengths))
    for row, length in enumerate(lengths):
        alone = engine.encode_batch(ids[row : row + 1, :length], np.array([length]))
        np.testing.assert_allclose(together[row], alone[0], atol=1e-6, rtol=0)
    np.testing.assert_allclose(encoders[variant].encode_ids(ids, lengths), together, atol=1e-6, rtol=0)


def test_row_depends_on_its_batch_with_the_dynamic_graph(encoders: Mapping[str, OnnxEncoder]) -> None:
    engine = encoders[INT8_DYNAMIC].engine
    ids, lengths = padded(encoders[INT8_DYNAMIC], [*TEXTS])
    together = engine.encode_batch(ids, lengths)
    alone = [engine.encode_batch(ids[row : row + 1, :n], np.array([n]))[0] for row, n in enumerate(lengths)]
    assert np.abs(together - np.stack(alone)).max() > 1e-5


def test_text_without_enough_memory_is_refused(encoder: OnnxEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused before the system would end the process; shorter ones, and unknown memory, are no matter."""
    ids, lengths = np.ones((1, 60), np.int64), np.array([60])
    right = encoder.engine.encode_batch(ids, lengths)
    needed = 20 * 60 * encoder.engine.config.state_dim
    monkeypatch.setattr(engine, "_CHECKED_BYTES", 0)
    for free in (None, needed):
        monkeypatch.setattr(engine, "free_memory", lambda free=free: free)
        np.testing.assert_array_equal(encoder.engine.encode_batch(ids, lengths), right)
    monkeypatch.setattr(engine, "free_memory", lambda: needed - 1)
    with pytest.raises(LengthwiseError, match=r"a text of 60 tokens takes .* or more, and .* encode with PyTorch"):
        encoder.engine.encode_batch(ids, lengths)
    np.testing.assert_allclose(encoder.engine.encode_batch(ids[:, :59], lengths - 1), right, atol=0.1)


def test_missing_graph_is_refused(artifact_folder: Path, native_alone: Path) -> None:
    everything = r"has no graph 'int4', but native, portable, fp16, int8, int8_dynamic; see export\.variants"
    with pytest.raises(ArtifactError, match=everything):
        OnnxEncoder.load(artifact_folder, variant="int4")
    artifact = Artifact.open(native_alone)
    for device in ("cpu", "auto"):
        with pytest.raises(ArtifactError, match=r"native: has no graph 'int8', but native; see export\.variants"):
            OnnxEngine(artifact, device, variant=INT8)
    assert OnnxEngine(artifact).variant == NATIVE


# What validation recommends


def validated(folder: Path, recommended: dict[str, str], **statuses: str) -> Artifact:
    """The artifact with such a validation.json."""
    verdicts = [{"runtime": CPU, "variant": name, "status": status} for name, status in statuses.items()]
    record = {"recommended": recommended, "verdicts": verdicts}
    return Artifact.open(folder).with_files({VALIDATION_JSON: json.dumps(record)})


def test_recommended_graph_is_the_default(artifact_folder: Path) -> None:
    assert recommended_variant(Artifact.open(artifact_folder), CPU) == NATIVE  # never validated
    artifact = validated(artifact_folder, {CPU: PORTABLE}, native="failed", portable="passed")
    assert recommended_variant(artifact, CPU) == PORTABLE
    assert OnnxEncoder.load(artifact_folder).engine.variant == PORTABLE
    assert OnnxEncoder.load(artifact_folder, variant=NATIVE).engine.variant == NATIVE
    assert recommended_variant(artifact, "onnxruntime cuda") == NATIVE  # it was not judged there


def test_runtime_without_a_passing_graph_is_refused(artifact_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = validated(artifact_folder, {}, native="failed", portable="refused", int8="passed")
    with pytest.raises(ArtifactError, match=r"validation\.json: no graph in float32 passed on onnxruntime cpu; export"):
        OnnxEncoder.load(artifact_folder)
    assert OnnxEngine(artifact, variant=INT8).variant == INT8  # a named graph is used
    monkeypatch.setattr(OnnxRuntimeCuda, "name", CPU)
    monkeypatch.setattr(OnnxRuntimeCpu, "name", "another")  # so that it is CUDA on which nothing passed
    with pytest.raises(ArtifactError, match="no graph in float32 passed"):
        OnnxEngine(artifact, "cuda")
    assert OnnxEngine(artifact, "auto").name == "another onnx/model.onnx"


def test_runtime_that_was_not_run_gets_the_native_graph(artifact_folder: Path) -> None:
    artifact = validated(artifact_folder, {}, native="not run", portable="not run")
    assert recommended_variant(artifact, CPU) == NATIVE


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"recommended": {}, "verdicts": [{"runtime": "x"}]}'])
def test_unreadable_validation_is_refused(artifact_folder: Path, content: str) -> None:
    artifact = Artifact.open(artifact_folder).with_files({VALIDATION_JSON: content})
    with pytest.raises(ArtifactError, match=r"validation\.json: cannot be read .*; validate the artifact again"):
        OnnxEngine(artifact)


# Devices


def test_cuda_without_a_gpu_is_refused(artifact_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise NotRunnable("the session fell back to the CPU")

    monkeypatch.setattr(OnnxRuntimeCuda, "load", refuse)
    artifact = Artifact.open(artifact_folder)
    with pytest.raises(ArtifactError, match=r"the device is cuda, but the session fell back.*; choose cpu or auto"):
        OnnxEncoder.load(artifact_folder, "cuda")
    assert OnnxEngine(artifact, "auto").name.startswith("onnxruntime cpu")
    monkeypatch.setattr(OnnxRuntimeCpu, "load", refuse)
    with pytest.raises(ArtifactError, match="cannot be run: the session fell back"):
        OnnxEngine(artifact)


# Runs


def test_int8_run_reports_its_difference_from_float32(
    artifact_folder: Path, texts_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, output = tmp_path / "run.yaml", tmp_path / "vectors"
    config.write_text(
        textwrap.dedent(f"""
        dataset: {{path: {texts_file}, shard_rows: 4}}
        model: {{path: none}}
        encode: {{output: {output}, engine: onnx, variant: int8}}
        export: {{output: {artifact_folder}}}
        """)
    )
    script = importlib.import_module("lengthwise.cli.encode_dataset").main
    done = CliRunner().invoke(script, [str(config)])
    assert done.exit_code == 0, done.output
    found = OnnxEncoder.load(artifact_folder, variant=INT8).encode(TEXTS)
    deviation = np.abs(found - OnnxEncoder.load(artifact_folder, variant=NATIVE).encode(TEXTS)).max(axis=1)
    shards = json.loads((output / "manifest.json").read_text())["shards"]
    assert [shard["max_deviation"] for shard in shards] == pytest.approx([deviation[:4].max(), deviation[4:].max()])
    assert all(0.99 < shard["min_cosine"] < 1 for shard in shards)
    sentence = f"int8: at most {deviation.max():.1e} from float32 on sampled rows, cosine at least 0.99"
    assert sentence in done.stdout
    assert sentence in (output / "report.md").read_text()
    other = CliRunner().invoke(script, [str(config), "--set", "encode.variant=native"])
    assert other.exit_code == 2
    assert "onnx/model_int8.onnx" in other.stderr  # the folder's vectors are of another graph


def test_whole_run_without_pytorch(artifact_folder: Path, texts_file: Path, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(
        textwrap.dedent(f"""
        dataset: {{path: {texts_file}}}
        model: {{path: none}}
        encode: {{output: {tmp_path}/vectors, engine: onnx}}
        export: {{output: {artifact_folder}}}
        """)
    )
    (tmp_path / "encode.py").write_text(
        textwrap.dedent(f"""
        import importlib.util
        import numpy as np
        from lengthwise.export.artifact.engine import OnnxEncoder
        encoder = OnnxEncoder.load({str(artifact_folder)!r})
        np.save({str(tmp_path / "found.npy")!r}, encoder.encode({TEXTS!r}))
        assert importlib.util.find_spec("torch") is None
        """)
    )
    packages = tmp_path / "packages"  # everything that is installed, but PyTorch
    packages.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(("torch", "functorch")):
            (packages / entry.name).symlink_to(entry)
    link_package(packages)
    environment = {**os.environ, "PYTHONPATH": f"{packages}"}

    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-S", *arguments]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    encoded = python(str(tmp_path / "encode.py"))
    assert encoded.returncode == 0, encoded.stderr
    done = python("scripts/encode_dataset.py", str(tmp_path / "run.yaml"))
    assert done.returncode == 0, done.stderr
    assert f"{len(TEXTS)} rows" in done.stdout
    import datasets

    found = datasets.Dataset.from_parquet(f"{tmp_path}/vectors/data/*.parquet", cache_dir=str(tmp_path / "cache"))
    encoder, tokenizer = load_checkpoint(artifact_folder)
    right = encode_texts(TEXTS, tokenizer, TorchEngine(encoder))
    np.testing.assert_allclose(np.array(found["embedding"], np.float32), right, atol=1e-6, rtol=0)
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), right, atol=1e-6, rtol=0)


@pytest.mark.parametrize("device", ["gpu", "cuda:0", "CUDA", "mps", ""])
def test_unknown_device_is_refused(device: Any, artifact_folder: Path) -> None:
    with pytest.raises(ArtifactError, match=f"the device is '{device}'; choose cpu, cuda, auto"):
        OnnxEncoder.load(artifact_folder, device)


def test_validation_of_an_older_version_recommends_the_native_graph(artifact_folder: Path) -> None:
    older = {"passed": True, "verdicts": [{"runtime": "onnxruntime cpu", "status": "passed"}]}
    artifact = Artifact.open(artifact_folder).with_files({"validation.json": json.dumps(older)})
    assert recommended_variant(artifact, "onnxruntime cpu") == "native"
