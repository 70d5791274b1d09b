"""onnxruntime's own format of a graph, and the operators that a build of onnxruntime needs to run it.

- Builds for phones and small pages leave the ONNX parser out and read `.ort` only; reduced builds have the kernels of a
  list of operators and types only, which is written beside the graph.
- The graph is optimized as a session for it would be, except for the layout of convolutions, which is of one kind of
  processor. So a session computes the same bits with either file.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lengthwise.errors import ArtifactError


def save_ort(source: Path, target: Path, operators: Path) -> None:
    """Write an ONNX graph as `.ort`, and the list of what it needs (`--include_ops_by_config` of onnxruntime's build).

    Args:
        source: the `.onnx` file.
        target: the `.ort` file.
        operators: the list; one line per domain and opset, with types.

    Raises:
        ArtifactError: onnxruntime is not installed.
    """
    library = _import_onnxruntime()
    options = library.SessionOptions()
    options.optimized_model_filepath = str(target)
    options.add_session_config_entry("session.save_model_format", "ORT")
    library.InferenceSession(
        str(source), options, providers=["CPUExecutionProvider"], disabled_optimizers=["NchwcTransformer"]
    )
    with tempfile.TemporaryDirectory() as scratch:
        listed = Path(scratch) / "operators"
        with _root_logger_kept():
            from onnxruntime.tools.ort_format_model import create_config_from_models

            logging.getLogger("ort_format_model.utils").setLevel(logging.WARNING)
            create_config_from_models([target], listed, enable_type_reduction=True)
        lines = [line for line in listed.read_text().splitlines() if not line.startswith("#")]  # the path from here
    operators.write_text("\n".join([f"# what {target.name} needs, of onnxruntime {library.__version__}", *lines, ""]))


@contextlib.contextmanager
def _root_logger_kept() -> Iterator[None]:
    """Remove the handlers that onnxruntime's tools give to the root logger on import."""
    root = logging.getLogger()
    handlers = list(root.handlers)
    try:
        yield
    finally:
        root.handlers[:] = handlers


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ArtifactError(
            "the graph ort is written by onnxruntime, which is not installed; install lengthwise[cpu], or leave it out"
            " of export.variants"
        ) from error
    return onnxruntime
