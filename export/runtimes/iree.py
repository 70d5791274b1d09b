"""IREE: the graph is compiled for this CPU, once for any batch and sequence, and then run."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from lengthwise.export.runtimes.base import NotRunnable
from lengthwise.export.runtimes.worker import Session, WorkerRuntime, operators, refuse_hard_gates

_FUNCTION = "lengthwise"  # the name of our graphs


class IreeSession(Session):
    """A module of IREE's compiler in IREE's runtime."""

    def __init__(self, path: Path) -> None:
        try:
            import iree.compiler
            import iree.runtime
            from iree.compiler import version as iree_version
            from iree.compiler.tools.import_onnx import __main__ as importer
        except ModuleNotFoundError as error:
            raise NotRunnable("IREE is not installed; install lengthwise[iree], or run make runtimes") from error
        version = iree_version.VERSION
        model = onnx.load(path)
        refuse_hard_gates(f"IREE {version}", model.graph)
        if "GRU" in operators(model.graph):
            raise NotRunnable(f"IREE {version} compiles no GRU whose batch and sequence are not known")
        self.outputs = [output.name for output in model.graph.output]
        add_final_states(model)
        with tempfile.TemporaryDirectory() as scratch:
            onnx.save(model, Path(scratch) / "model.onnx")
            arguments = [str(Path(scratch) / "model.onnx"), "-o", str(Path(scratch) / "model.mlir")]
            importer.main(importer.parse_arguments(arguments))
            compiled = iree.compiler.compile_file(
                str(Path(scratch) / "model.mlir"),
                input_type="onnx",
                target_backends=["llvm-cpu"],
                extra_args=["--iree-llvmcpu-target-cpu=host"],
            )
        context = iree.runtime.SystemContext(config=iree.runtime.Config("local-task"))
        context.add_vm_module(iree.runtime.VmModule.copy_buffer(context.instance, compiled))
        self._function = context.modules.module[_FUNCTION]
        self.versions = {"iree": version, "device": "CPU, compiled for this one"}

    def run(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> list[NDArray[np.float32]]:
        results = self._function(input_ids, attention_mask)[: len(self.outputs)]
        return [np.array(result.to_host()) for result in results]


def add_final_states(model: onnx.ModelProto) -> None:
    """Make the last state of each LSTM and GRU an output of the graph too, after the others.

    IREE 3.13 computes wrong states, without a word, where nothing takes an LSTM's last state from the graph.
    """
    for number, node in enumerate(node for node in model.graph.node if node.op_type in ("LSTM", "GRU")):
        names = [*node.output, ""]
        names[1] = names[1] or f"final_state.{number}"
        del node.output[:]
        node.output.extend(names if names[-1] else names[:-1])
        hidden = next(attribute.i for attribute in node.attribute if attribute.name == "hidden_size")
        value = helper.make_tensor_value_info(names[1], TensorProto.FLOAT, [None, None, hidden])
        model.graph.output.append(value)


class Iree(WorkerRuntime):
    """IREE on the CPU."""

    name = "iree"
    session = IreeSession
    reads_lengths = False
    contrib = False
    start_seconds = 600.0
