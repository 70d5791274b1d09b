"""Checkpoints of a training run: everything that the next step depends on, in two files without a pickle.

A checkpoint is a folder `step-NNNNNNNN` with `state.safetensors` and `state.json`, which holds the first one's sha256.
It is written under another name and renamed, so it is there in full or not at all; one that does not match its sha256
is left out, and the one before is used. The newest two are kept.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lengthwise.errors import StoreError
from lengthwise.util.files import file_sha256, replace_folder
from lengthwise.util.text_files import read_text

KEPT = 2
_STATE, _TENSORS = "state.json", "state.safetensors"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """The state of a run after a step.

    Attributes:
        step: how many steps were made.
        record: JSON-ready values.
        tensors: weights, the optimizer's moments and the random generator, by name.
    """

    step: int
    record: dict[str, Any]
    tensors: dict[str, Tensor]


class Checkpoints:
    """The checkpoints in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, snapshot: Snapshot) -> None:
        """Write a checkpoint and remove old ones.

        Raises:
            StoreError: it cannot be written; older ones are kept.
        """
        target = self.folder / f"step-{snapshot.step:08d}"
        with replace_folder(target) as part:
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in snapshot.tensors.items()}
            try:
                save_file(tensors, part / _TENSORS)
            except SafetensorError as error:  # such as a full disk
                raise StoreError(f"{target}: cannot be written ({error}); fix that; the run then continues") from error
            record = {"step": snapshot.step, "sha256": file_sha256(part / _TENSORS), "state": snapshot.record}
            (part / _STATE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        for old in self._folders()[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def latest(self) -> Snapshot | None:
        """The newest checkpoint that is intact; None where there is none."""
        for folder in reversed(self._folders()):
            try:
                record = json.loads(read_text(folder / _STATE))
                if file_sha256(folder / _TENSORS) != record["sha256"]:
                    raise ValueError(f"{_TENSORS} does not match its sha256")
                # Cloned: tensors of a file start where its header ends, and products of another alignment may differ.
                tensors = {name: tensor.clone() for name, tensor in load_file(folder / _TENSORS).items()}
                return Snapshot(int(record["step"]), dict(record["state"]), tensors)
            except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
                log.warning("%s: left out, since it is damaged (%s)", folder, error)
        return None

    def clear(self) -> None:
        """Remove all checkpoints, and what an interrupted `save` left."""
        for folder in [*self._folders(), *self.folder.glob(".step-*")]:
            shutil.rmtree(folder, ignore_errors=True)

    def _folders(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("step-*") if path.is_dir())
