"""Triton's model repository: its published schema reads it, and it says what the graph says, which is the right one."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf import text_format

from helpers.files import contents, raise_disk_full
from lengthwise.errors import ArtifactError, StoreError
from lengthwise.export.artifact.folder import VALIDATION_JSON, Artifact, describe_files, write_manifest
from lengthwise.export.graphs.variants import FP16, INT8, INT8_DYNAMIC, NATIVE, PORTABLE, VARIANTS
from lengthwise.export.runtimes.onnxruntime import OnnxRuntimeCpu, OnnxRuntimeCuda
from lengthwise.export.triton import safe_name, triton_config, write_triton_model


@pytest.fixture(scope="session")
def schema() -> Any:
    """The generated module of Triton's model_config.proto, without its package, which would import gRPC."""
    package = importlib.util.find_spec("tritonclient")
    assert package is not None, "tritonclient is not installed: install lengthwise[dev]"
    assert package.submodule_search_locations
    path = Path(package.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def artifact(artifact_folder: Path) -> Artifact:
    return Artifact.open(artifact_folder)


@pytest.fixture
def read(schema: Any) -> Callable[[Path], Any]:
    """A model's config.pbtxt, as Triton reads it: an unknown field or a wrong type is an error."""

    def parse(folder: Path) -> Any:
        return text_format.Parse((folder / "config.pbtxt").read_text(), schema.ModelConfig())

    return parse


def recommending(artifact: Artifact, **graphs: str | None) -> Artifact:
    """The artifact once it was validated: the graph that is recommended on the runtimes cpu and cuda."""
    recommended = {f"onnxruntime {device}": graph for device, graph in graphs.items()}
    verdicts = [{"runtime": runtime, "status": "passed"} for runtime in recommended]
    return artifact.with_files({VALIDATION_JSON: json.dumps({"recommended": recommended, "verdicts": verdicts})})


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_config_has_the_fields_of_the_graph(
    artifact: Artifact, tmp_path: Path, schema: Any, read: Callable[[Path], Any], variant: str
) -> None:
    folder = write_triton_model(artifact, tmp_path / "models", variant=variant)
    config = read(folder)
    graph = onnx.load(folder / "1" / "model.onnx").graph
    for described, values in ((config.input, graph.input), (config.output, graph.output)):
        assert [tensor.name for tensor in described] == [value.name for value in values]
        for tensor, value in zip(described, values, strict=True):
            kind = value.type.tensor_type
            scalar = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            assert (
                schema.DataType.Name(tensor.data_type) == {"int64": "TYPE_INT64", "float32": "TYPE_FP32"}[str(scalar)]
            )
            batch, *rest = kind.shape.dim
            assert batch.dim_param
            assert list(tensor.dims) == [axis.dim_value or -1 for axis in rest]
    assert [tensor.name for tensor in config.input] == ["input_ids", "attention_mask"]
    assert [list(tensor.dims) for tensor in config.input] == [[-1], [-1]]
    assert {tensor.name: list(tensor.dims) for tensor in config.output} == {
        "sentence_embedding": [12],
        "token_embeddings": [-1, 12],
    }
    assert (config.name, config.backend, config.platform) == (folder.name, "onnxruntime", "onnxruntime_onnx")
    assert config.HasField("dynamic_batching")
    assert [(group.kind, group.count) for group in config.instance_group] == [(schema.ModelInstanceGroup.KIND_CPU, 1)]
    assert not config.HasField("optimization")
    assert {key: value.string_value for key, value in config.parameters.items()} == {
        "lengthwise.graph": VARIANTS[variant].file,
        "lengthwise.weights": artifact.manifest["weights"],
    }


@pytest.mark.parametrize("variant", [NATIVE, PORTABLE])
def test_graph_gives_the_golden_vectors_in_batches_of_equal_length(
    artifact: Artifact, tmp_path: Path, read: Callable[[Path], Any], variant: str
) -> None:
    folder = write_triton_model(artifact, tmp_path / "models", variant=variant)
    config = read(folder)
    (vectors,) = [tensor.name for tensor in config.output if len(tensor.dims) == 1]
    session = onnxruntime.InferenceSession(folder / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    golden = artifact.load_golden()
    found = np.full_like(golden.vectors, np.nan)
    for length in np.unique(golden.lengths):
        rows = np.flatnonzero(golden.lengths == length)
        ids = golden.input_ids[rows, : max(length, 1)]  # a text of no tokens is a column of padding
        feeds = {"input_ids": ids, "attention_mask": np.full_like(ids, length > 0)}
        assert set(feeds) == {tensor.name for tensor in config.input}
        (found[rows],) = session.run([vectors], feeds)
    np.testing.assert_allclose(found, golden.vectors, atol=OnnxRuntimeCpu.tolerance, rtol=0)


def test_graph_is_the_recommended_one_for_the_device(artifact: Artifact, tmp_path: Path) -> None:
    def graph(artifact: Artifact, device: Any) -> bytes:
        return (write_triton_model(artifact, tmp_path / device, device=device) / "1" / "model.onnx").read_bytes()

    files = {name: (artifact.folder / variant.file).read_bytes() for name, variant in VARIANTS.items()}
    assert graph(artifact, "cpu") == files[NATIVE]  # which was never judged
    judged = recommending(artifact, cpu=PORTABLE, cuda=NATIVE)
    assert (graph(judged, "cpu"), graph(judged, "cuda")) == (files[PORTABLE], files[NATIVE])
    with pytest.raises(ArtifactError, match=r"no graph in float32 passed on onnxruntime cpu"):
        graph(recommending(artifact, cpu=None), "cpu")


def test_gpu_has_the_validated_options(
    artifact: Artifact, tmp_path: Path, schema: Any, read: Callable[[Path], Any]
) -> None:
    config = read(write_triton_model(artifact, tmp_path, device="cuda", name="onegpu"))
    assert [group.kind for group in config.instance_group] == [schema.ModelInstanceGroup.KIND_GPU]
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "cuda"
    assert dict(accelerator.parameters) == dict(OnnxRuntimeCuda._providers[0][1])


@pytest.mark.parametrize(
    ("variant", "device", "most"),
    [(NATIVE, "cpu", 7), (INT8, "cpu", 7), (FP16, "cpu", 7), (INT8_DYNAMIC, "cpu", 1), (FP16, "cuda", 1)],
)
def test_batch_dependent_graph_gets_batches_of_one_text(
    artifact: Artifact, tmp_path: Path, read: Callable[[Path], Any], variant: str, device: Any, most: int
) -> None:
    folder = write_triton_model(artifact, tmp_path, name="m", device=device, variant=variant, max_batch_size=7)
    assert read(folder).max_batch_size == most


def test_weights_beside_a_graph_are_copied(artifact: Artifact, tmp_path: Path) -> None:
    path = artifact.folder / VARIANTS[PORTABLE].file
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location=path.name + ".data", size_threshold=256)
    write_manifest(artifact.folder, {**artifact.manifest, "files": describe_files(artifact.folder)})
    folder = write_triton_model(Artifact.open(artifact.folder), tmp_path / "models", variant=PORTABLE)
    assert sorted(contents(folder)) == ["1/model.onnx", "1/model_portable.onnx.data", "config.pbtxt"]
    golden = artifact.load_golden()
    mask = (np.arange(golden.input_ids.shape[1]) < golden.lengths[:, None]).astype(np.int64)
    session = onnxruntime.InferenceSession(folder / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    found, _ = session.run(None, {"input_ids": golden.input_ids, "attention_mask": mask})
    np.testing.assert_allclose(found, golden.vectors, atol=OnnxRuntimeCpu.tolerance, rtol=0)


@pytest.mark.parametrize(
    ("folder", "name"),
    [("artifact", "artifact"), ("an artifact, v1.2", "an_artifact__v1.2"), (".hidden", "hidden"), ("モデル", "___")],
)
def test_name_of_a_folder_becomes_a_safe_name(tmp_path: Path, folder: str, name: str) -> None:
    assert safe_name(tmp_path / folder) == name


def test_current_folder_has_a_name(artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(artifact.folder)
    assert write_triton_model(Artifact.open("."), tmp_path / "models").name == "artifact"


@pytest.mark.parametrize("name", ["", "..", "a/b", "a b", ".hidden", "-v", "a\n"])
def test_unsafe_name_is_refused(artifact: Artifact, tmp_path: Path, name: str) -> None:
    with pytest.raises(ArtifactError, match=r"the name of the Triton model is .*; use letters"):
        write_triton_model(artifact, tmp_path / "models", name=name)
    assert not (tmp_path / "models").exists()


def test_model_is_replaced_and_other_contents_refused(artifact: Artifact, tmp_path: Path) -> None:
    folder = write_triton_model(artifact, tmp_path, name="m", max_batch_size=3)
    assert "max_batch_size: 3" in (folder / "config.pbtxt").read_text()
    write_triton_model(artifact, tmp_path, name="m", max_batch_size=4)
    assert "max_batch_size: 4" in (folder / "config.pbtxt").read_text()
    (folder / "2").mkdir()
    before = contents(folder)
    with pytest.raises(ArtifactError, match=r"m: holds 2, which no export wrote; choose another name"):
        write_triton_model(artifact, tmp_path, name="m")
    assert contents(folder) == before
    (tmp_path / "other" / "1").mkdir(parents=True)
    with pytest.raises(ArtifactError, match=r"other: holds 1, which"):
        write_triton_model(artifact, tmp_path, name="other")
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ArtifactError, match=r"file: holds file, which"):
        write_triton_model(artifact, tmp_path, name="file")
    assert (tmp_path / "file").read_text() == "precious"


def test_full_disk_keeps_the_previous_model(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_triton_model(artifact, tmp_path / "models", name="m")
    before = contents(folder)
    monkeypatch.setattr("lengthwise.export.triton.link_or_copy", raise_disk_full)
    with pytest.raises(StoreError, match="No space left"):
        write_triton_model(artifact, tmp_path / "models", name="m", variant=PORTABLE)
    assert contents(tmp_path / "models") == {f"m/{name}": data for name, data in before.items()}


def test_graph_without_a_batch_axis_is_refused(artifact: Artifact) -> None:
    path = artifact.folder / VARIANTS[NATIVE].file
    model = onnx.load(path)
    axis = model.graph.input[0].type.tensor_type.shape.dim[0]
    axis.dim_value = 3
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match=r"model\.onnx: input_ids has the shape \[3, -1\], without a batch axis"):
        triton_config(artifact, NATIVE, "m")
    axis.dim_param = "batch"
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.BOOL
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match=r"model\.onnx: sentence_embedding has the type BOOL"):
        triton_config(artifact, NATIVE, "m")
    path.write_bytes(b"no model")
    with pytest.raises(ArtifactError, match=r"model\.onnx: cannot be read"):
        triton_config(artifact, NATIVE, "m")


def test_wrong_settings_are_refused(artifact: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"the device is 'gpu'; choose cpu or cuda"):
        write_triton_model(artifact, tmp_path / "models", device="gpu")  # type: ignore[arg-type]
    with pytest.raises(ArtifactError, match=r"largest batch for Triton is 0; give at least 1"):
        write_triton_model(artifact, tmp_path / "models", max_batch_size=0)
    with pytest.raises(ArtifactError, match=r"has no graph 'int4', but native, portable, fp16, int8, int8_dynamic"):
        write_triton_model(artifact, tmp_path / "models", variant="int4")
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]


def test_triton_export_needs_no_torch(artifact: Artifact, tmp_path: Path) -> None:
    code = (
        "import sys; from lengthwise.export.artifact.folder import Artifact;"
        "from lengthwise.export.triton import write_triton_model;"
        f"write_triton_model(Artifact.open({str(artifact.folder)!r}), {str(tmp_path / 'models')!r});"
        "print(*sorted({'torch', 'datasets', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr
