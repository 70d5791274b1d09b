"""Exports encoders to ONNX and TorchScript, validates every runtime against PyTorch, and serves the artifacts.

The package can be called: `lengthwise.export(model, output)` is `export_checkpoint`, although `lengthwise.export` is
also the name under which its modules are imported.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lengthwise.export.artifact.folder import Artifact


def export_checkpoint(model: str | Path, output: str | Path, *, variants: Iterable[str] | None = None) -> Artifact:
    """Export a checkpoint folder to an artifact folder, whole or not at all.

    >>> import lengthwise
    >>> artifact = lengthwise.export("model", "artifact", variants=["portable"])
    >>> sorted(artifact.manifest["variants"])
    ['native', 'portable']

    Args:
        model: the checkpoint.
        output: the artifact; an older one there is replaced.
        variants: the graphs to write besides the native one; where they are left out, all but those for phones and
            browsers (ort, executorch, litert, coreml, text).

    Raises:
        CheckpointError, TokenizerError: there is no whole checkpoint.
        ArtifactError: the folder holds something else, or the model cannot be exported.
        StoreError: it cannot be written.
    """
    from lengthwise.encoder.checkpoint import load_checkpoint
    from lengthwise.export.artifact.build import build_artifact

    return build_artifact(*load_checkpoint(model), output, variants=variants)


class _CallablePackage(ModuleType):
    __call__ = staticmethod(export_checkpoint)


sys.modules[__name__].__class__ = _CallablePackage
