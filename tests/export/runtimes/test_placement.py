"""A profile read: of a real session on the CPU, and as one on CUDA would write it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from lengthwise.export.graphs.variants import NATIVE, VARIANTS
from lengthwise.export.runtimes.placement import PlacedNode, Placement, read_profile

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


def test_profile_has_every_node_of_a_graph(artifact_folder: Path, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
    path = artifact_folder / VARIANTS[NATIVE].file
    session = onnxruntime.InferenceSession(path, options, providers=[CPU])
    for _ in range(2):
        session.run(None, {"input_ids": np.ones((2, 3), np.int64), "attention_mask": np.ones((2, 3), np.int64)})
    placement = read_profile(Path(session.end_profiling()))
    operators = sorted(node.op_type for node in onnx.load(path).graph.node)
    assert sorted(node.op for node in placement.nodes) == operators  # this graph has nothing to fuse
    assert placement.outside(CPU) == placement.copies == ()
    assert placement.describe(CPU) == {
        "nodes": f"{len(operators)} on {CPU}",
        "nodes elsewhere": "none",
        "copies": "none",
    }
    assert placement.outside(CUDA) == placement.nodes


def event(name: str, op: str, provider: str, **others: Any) -> dict[str, Any]:
    return {"cat": "Node", "name": f"{name}_kernel_time", "args": {"op_name": op, "provider": provider}, **others}


def test_profile_of_cuda(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    events = [
        {"cat": "Session", "name": "model_run", "args": {}},
        event("a", "Gather", CUDA),
        event("b", "Shape", CPU),
        event("Memcpy", "MemcpyToHost", CUDA, ts=7),
        event("c", "LSTM", CUDA),
        event("c", "LSTM", CUDA, ts=9),  # in another run
        {"cat": "Kernel", "name": "sgemm", "args": {"op_name": "LSTM"}},
        event("Memcpy_token_1", "MemcpyToHost", CUDA),
        event("Memcpy_token_2", "MemcpyFromHost", CUDA),
    ]
    path.write_text(json.dumps(events))
    placement = read_profile(path)
    assert placement.nodes[:2] == (PlacedNode("a", "Gather", CUDA), PlacedNode("b", "Shape", CPU))
    assert [node.name for node in placement.copies] == ["Memcpy", "Memcpy_token_1", "Memcpy_token_2"]
    assert placement.outside(CUDA) == (PlacedNode("b", "Shape", CPU),)
    assert placement.describe(CUDA) == {
        "nodes": f"2 on {CUDA}",
        "nodes elsewhere": f"Shape on {CPU}",
        "copies": "2 MemcpyToHost, 1 MemcpyFromHost",
    }


@pytest.mark.parametrize("content", ["", "{}", "[]", "[1, null]", '[{"cat": "Node", "name": "x_kernel_time"}]'])
def test_file_that_is_no_profile_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"Expecting value|not a list|no node that ran"):
        read_profile(path)


def test_empty_placement_is_described() -> None:
    assert Placement(()).describe(CUDA)["nodes"] == f"0 on {CUDA}"
