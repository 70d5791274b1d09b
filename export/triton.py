"""Writes a model for Triton Inference Server from an artifact; needs no PyTorch.

- Names, types and shapes in `config.pbtxt` are read from the graph.
- A graph whose vectors depend on their batch gets batches of one text, because Triton batches texts of several clients.
- On a GPU, onnxruntime gets the options that it was validated with.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import onnx

from lengthwise.errors import ArtifactError
from lengthwise.export.artifact.engine import select_variant
from lengthwise.export.artifact.folder import Artifact
from lengthwise.export.graphs.variants import VARIANTS
from lengthwise.export.runtimes.onnxruntime import CUDA_OPTIONS, OnnxRuntimeCpu, OnnxRuntimeCuda
from lengthwise.util.files import link_or_copy, replace_folder, write_atomically

CONFIG_PBTXT, VERSION, MODEL_FILE = "config.pbtxt", "1", "model.onnx"
MAX_BATCH_SIZE = 64
TritonDevice = Literal["cpu", "cuda"]
_RUNTIMES: Mapping[str, type[OnnxRuntimeCpu]] = MappingProxyType({"cpu": OnnxRuntimeCpu, "cuda": OnnxRuntimeCuda})
_KINDS: Mapping[str, str] = MappingProxyType({"cpu": "KIND_CPU", "cuda": "KIND_GPU"})
_TYPES: Mapping[int, str] = MappingProxyType(
    {
        onnx.TensorProto.INT64: "TYPE_INT64",
        onnx.TensorProto.INT32: "TYPE_INT32",
        onnx.TensorProto.FLOAT: "TYPE_FP32",
        onnx.TensorProto.FLOAT16: "TYPE_FP16",
    }
)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def write_triton_model(
    artifact: Artifact,
    repository: str | Path,
    *,
    name: str | None = None,
    device: TritonDevice = "cpu",
    variant: str | None = None,
    max_batch_size: int = MAX_BATCH_SIZE,
) -> Path:
    """Write a model of a Triton model repository, `config.pbtxt` and `1/model.onnx`, atomically.

    A model that was written before is replaced; a folder with other contents is refused.

    Args:
        artifact: the artifact.
        repository: the folder of models; created if it is missing.
        name: the model's and its folder's; by default that of the artifact's folder.
        device: where Triton runs the model.
        variant: the graph, see `graphs.variants`; by default the one that validation recommends for onnxruntime on the
            device.
        max_batch_size: the largest batch of texts in Triton.

    Returns:
        The model's folder.

    Raises:
        ArtifactError: the name or the graph is not valid, or the folder has other contents.
        StoreError: the model cannot be written.
    """
    if device not in _RUNTIMES:
        raise ArtifactError(f"the device is {device!r}; choose {' or '.join(_RUNTIMES)}")
    name = safe_name(artifact.folder) if name is None else name
    if not _NAME.fullmatch(name):
        raise ArtifactError(
            f"the name of the Triton model is {name!r}; use letters, digits, '_', '-' and '.', and no '-' or '.' first"
        )
    folder = Path(repository) / name
    _refuse_other_contents(folder)
    chosen = VARIANTS[select_variant(artifact, _RUNTIMES[device].name, variant)]
    graph = artifact.folder / chosen.file
    config = triton_config(artifact, chosen.name, name, device, max_batch_size)
    with replace_folder(folder) as part:
        (part / VERSION).mkdir()
        link_or_copy(graph, part / VERSION / MODEL_FILE)
        weights = graph.with_name(graph.name + ".data")  # of a graph above 2 GB, which refers to this file
        if weights.exists():
            link_or_copy(weights, part / VERSION / weights.name)
        write_atomically(part / CONFIG_PBTXT, config.encode())
    return folder


def triton_config(
    artifact: Artifact,
    variant: str,
    name: str,
    device: TritonDevice = "cpu",
    max_batch_size: int = MAX_BATCH_SIZE,
) -> str:
    """The text of `config.pbtxt` for a graph of an artifact (a `ModelConfig` message in protobuf's text format).

    Raises:
        ArtifactError: the graph cannot be read, or has no batch axis; or `max_batch_size` is not positive.
    """
    if max_batch_size < 1:
        raise ArtifactError(f"the largest batch for Triton is {max_batch_size}; give at least 1")
    chosen = VARIANTS[variant]
    path = artifact.folder / chosen.file
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:  # protobuf's exceptions differ between its implementations
        raise ArtifactError(f"{path}: cannot be read ({error}); export the model again") from error
    independent = chosen.independent and variant not in _RUNTIMES[device].dependent
    lines = [
        f"# {chosen.what}",
        "# Right padding: attention_mask is ones, then zeros. A request has at least one row and one column.",
        f"name: {json.dumps(name)}",
        'backend: "onnxruntime"',
        'platform: "onnxruntime_onnx"',
        *(() if independent else ("# A vector of this graph depends on its batch here, so a batch is one text.",)),
        f"max_batch_size: {max_batch_size if independent else 1}",
        *_tensors("input", graph.input, path),
        *_tensors("output", graph.output, path),
        "dynamic_batching { }",
        f"instance_group [ {{ kind: {_KINDS[device]} count: 1 }} ]",
        *(_cuda_options() if device == "cuda" else ()),
        *_parameter("lengthwise.graph", chosen.file),
        *_parameter("lengthwise.weights", str(artifact.manifest["weights"])),
    ]
    return "\n".join(lines) + "\n"


def safe_name(folder: Path) -> str:
    """The name of a folder as the name of a model: invalid characters become `_`."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", folder.resolve().name).lstrip(".-")
    return name or "model"


def _refuse_other_contents(folder: Path) -> None:
    if not folder.exists():
        return
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
    others = sorted(found - {CONFIG_PBTXT, VERSION})
    if others or (found and CONFIG_PBTXT not in found):
        raise ArtifactError(
            f"{folder}: holds {', '.join(others or sorted(found))}, which no export wrote; choose another name"
            " (--triton-name) or repository"
        )


def _tensors(field: str, values: Iterable[onnx.ValueInfoProto], path: Path) -> list[str]:
    """Lines for the inputs or outputs, without the batch axis, which Triton adds itself."""
    lines = []
    for value in values:
        tensor = value.type.tensor_type
        sizes = [axis.dim_value if axis.HasField("dim_value") else -1 for axis in tensor.shape.dim]
        if len(sizes) < 2 or sizes[0] != -1:
            raise ArtifactError(
                f"{path}: {value.name} has the shape {sizes}, without a batch axis; export the model again"
            )
        if tensor.elem_type not in _TYPES:
            kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
            raise ArtifactError(f"{path}: {value.name} has the type {kind}; export the model again")
        dims = ", ".join(map(str, sizes[1:]))
        lines += [
            f"{field} {{",
            f"  name: {json.dumps(value.name)}",
            f"  data_type: {_TYPES[tensor.elem_type]}",
            f"  dims: [ {dims} ]",
            "}",
        ]
    return lines


def _cuda_options() -> list[str]:
    """Lines that set the options with which onnxruntime's CUDA provider was validated."""
    options = [
        f"      parameters {{ key: {json.dumps(key)} value: {json.dumps(value)} }}"
        for key, value in CUDA_OPTIONS.items()
    ]
    return [
        "optimization {",
        "  execution_accelerators {",
        "    gpu_execution_accelerator {",
        '      name: "cuda"',
        *options,
        "    }",
        "  }",
        "}",
    ]


def _parameter(key: str, value: str) -> list[str]:
    return [f"parameters {{ key: {json.dumps(key)} value {{ string_value: {json.dumps(value)} }} }}"]
