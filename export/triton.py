"""A model repository for Triton Inference Server, from an artifact. Nothing here needs PyTorch.

`config.pbtxt` says what the graph itself says: names, types and shapes are read from it. Two promises are put in, too:
a graph whose vectors depend on their batch gets batches of one text, for Triton puts texts of several clients together;
and on a GPU, onnxruntime gets the options that it was validated with.
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
from lengthwise.export.artifact.engine import chosen_variant
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
    """Write a model of a Triton model repository, `config.pbtxt` and `1/model.onnx`, whole or not at all.

    A model that was written here before is replaced; anything else at its place is refused.

    Args:
        repository: the folder of models; made where it is missing.
        name: the model's, and its folder's; made of the artifact's folder where it is left out.
        device: where Triton is to run it.
        variant: the graph, see `graphs.variants`; the one that validation recommends for onnxruntime on the device
            where it is left out.
        max_batch_size: the most texts that Triton computes at a time.

    Returns:
        The model's folder.

    Raises:
        ArtifactError: the name or the graph will not do, or the folder holds something else.
        StoreError: it cannot be written.
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
    chosen = VARIANTS[chosen_variant(artifact, _RUNTIMES[device].name, variant)]
    graph = artifact.folder / chosen.file
    config = triton_config(artifact, chosen.name, name, device, max_batch_size)
    with replace_folder(folder) as part:
        (part / VERSION).mkdir()
        link_or_copy(graph, part / VERSION / MODEL_FILE)
        weights = graph.with_name(graph.name + ".data")  # of a graph above 2 GB, which names this file
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
        ArtifactError: the graph cannot be read, or is none that Triton can batch; or `max_batch_size` is not positive.
    """
    if max_batch_size < 1:
        raise ArtifactError(f"the largest batch for Triton is {max_batch_size}; give at least 1")
    chosen = VARIANTS[variant]
    path = artifact.folder / chosen.file
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:  # protobuf raises its own types, which differ between its implementations
        raise ArtifactError(f"{path}: cannot be read ({error}); export the model again") from error
    independent = chosen.independent and variant not in _RUNTIMES[device].dependent
    lines = [
        f"# {chosen.what}",
        "# Right padding: attention_mask is ones, then zeros. A request has at least one row and one column.",
        f"name: {json.dumps(name)}",
        'backend: "onnxruntime"',
        'platform: "onnxruntime_onnx"',
        *(() if independent else ("# A vector of this graph depends on its batch here, so each text is its own.",)),
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
    """A folder's name as a model's: what a model's name cannot hold becomes `_`."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", folder.resolve().name).lstrip(".-")
    return name or "model"


def _refuse_other_contents(folder: Path) -> None:
    if not folder.exists():
        return
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
    others = sorted(found - {CONFIG_PBTXT, VERSION})
    if others or (found and CONFIG_PBTXT not in found):
        raise ArtifactError(
            f"{folder}: holds {', '.join(others or sorted(found))}, which no export made; choose another name"
            " (--triton-name) or repository"
        )


def _tensors(field: str, values: Iterable[onnx.ValueInfoProto], path: Path) -> list[str]:
    """Lines for the inputs or outputs: without the first axis, the batch, which Triton adds itself."""
    lines = []
    for value in values:
        tensor = value.type.tensor_type
        sizes = [axis.dim_value if axis.HasField("dim_value") else -1 for axis in tensor.shape.dim]
        if len(sizes) < 2 or sizes[0] != -1:
            raise ArtifactError(
                f"{path}: {value.name} has the shape {sizes}, and no batch axis; export the model again"
            )
        if tensor.elem_type not in _TYPES:
            kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
            raise ArtifactError(f"{path}: {value.name} is of the type {kind}; export the model again")
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
    """Lines that give onnxruntime's CUDA provider what it was validated with."""
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
