"""The artifact folder: its files, and checks that it is intact. Needs no PyTorch.

`MANIFEST.json` holds the size and sha256 of every other file and is written last: a folder without it is incomplete,
and one with a file that does not match is refused with the name of that file. So is one with a graph or a report that
the manifest does not have: it is of another export, and clients that look for files by name would take it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from lengthwise.config import CONFIG_FILE, EncoderConfig, TokenizationSettings, load_encoder_config
from lengthwise.errors import ArtifactError
from lengthwise.export.artifact.difference import Allowance, largest, needed_tolerance
from lengthwise.export.graphs.variants import EVERY_VARIANT, PROGRAM_FILES, TORCHSCRIPT_FILES
from lengthwise.util.files import file_sha256, link_or_copy, replace_folder, write_atomically
from lengthwise.util.model_paths import LFS_REMEDY, explain_model_path, hub_hint, is_lfs_pointer
from lengthwise.util.text_files import read_text

MANIFEST_FILE, GOLDEN_FILE, CARD_FILE = "MANIFEST.json", "golden.safetensors", "README.md"
VALIDATION_JSON, VALIDATION_MD, VALIDATION_PNG = "validation.json", "validation.md", "validation.png"
TOKENIZER_CONFIG_FILE, TOKENS_FILE = "tokenizer_config.json", "special_tokens_map.json"
_OWN_FOLDERS = frozenset(
    Path(file).parts[0]
    for file in (
        *(variant.file for variant in EVERY_VARIANT.values()),
        *TORCHSCRIPT_FILES.values(),
        *PROGRAM_FILES.values(),
    )
)
_REPORTS = (VALIDATION_JSON, VALIDATION_MD, VALIDATION_PNG)


@dataclass(frozen=True)
class Golden:
    """Inputs, and the vectors that PyTorch computed for them during the export.

    Attributes:
        input_ids: int64[rows, sequence], with random ids in the padding.
        lengths: int64[rows].
        vectors: float32[rows, dim].
        allowance: what each value may differ by, of the shape of `vectors`; None unless states are summed over time,
            see `artifact.oracle`.
        logits: float32[rows, labels]; None for an encoder without labels.
        rounding: float64[rows], what values in float32 may differ by for their rounding, see `artifact.rounding`; None
            in artifacts of earlier versions.
    """

    input_ids: NDArray[np.int64]
    lengths: NDArray[np.int64]
    vectors: NDArray[np.float32]
    allowance: Allowance | None = None
    logits: NDArray[np.float32] | None = None
    rounding: NDArray[np.float64] | None = None

    def needed_tolerance(self, vectors: NDArray[np.float32], *, in_float32: bool = True) -> float:
        """The smallest tolerance under which vectors pass for the golden ones, as validation judges it.

        Args:
            vectors: float32[rows, dim].
            in_float32: whether they were computed in float32, so that its rounding is allowed for; below it,
                differences are relative to the length of a vector.

        Returns:
            Infinity if a value is not a number.
        """
        rounding = self.rounding if in_float32 else None
        return largest(needed_tolerance(vectors, self.vectors, self.allowance, rounding, by_length=not in_float32))


@dataclass(frozen=True)
class Artifact:
    """An artifact folder that was checked against its manifest.

    Attributes:
        folder: its path.
        manifest: the content of MANIFEST.json.
    """

    folder: Path
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, folder: str | Path) -> Artifact:
        """Open an artifact and check every file of it.

        Raises:
            ArtifactError: the folder is no artifact, a file of its manifest is missing or changed, or it has a graph
                or a report of another export.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        hashes = _hashes(manifest)
        for name, sha256 in hashes.items():
            path = folder / name
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ArtifactError(
                    f"{folder / MANIFEST_FILE}: names {name}, which is outside the artifact; do not use it"
                )
            if not path.is_file():
                raise ArtifactError(f"{path}: the file is missing; export the model again")
            if file_sha256(path) != sha256:
                if is_lfs_pointer(path):
                    raise ArtifactError(f"{path}: {LFS_REMEDY}")
                raise ArtifactError(
                    f"{path}: the file is not the one that was exported (its sha256 differs from {MANIFEST_FILE});"
                    " export the model again"
                )
        _refuse_leftovers(folder, hashes)
        return cls(folder, manifest)

    def load_config(self) -> EncoderConfig:
        """The encoder's configuration; of an older artifact, special tokens are as its manifest says."""
        config = load_encoder_config(self.folder / CONFIG_FILE)
        if "tokenization" in config.model_fields_set:
            return config
        special = bool(self.manifest.get("add_special_tokens", True))
        return config.model_copy(update={"tokenization": TokenizationSettings(add_special_tokens=special)})

    def load_golden(self) -> Golden:
        """The golden vectors."""
        path = self.folder / GOLDEN_FILE
        try:
            tensors = load_file(path)
            required = (tensors["input_ids"], tensors["lengths"], tensors["vectors"])
            accumulated, logits, rounding = (tensors.get(name) for name in ("accumulated", "logits", "float32"))
            if accumulated is None:
                return Golden(*required, None, logits, rounding)
            # Earlier versions wrote one tensor, with the rounding of sums in it.
            allowance = Allowance(accumulated, tensors.get("rounding", np.zeros_like(accumulated)))
            return Golden(*required, allowance, logits, rounding)
        except (OSError, SafetensorError, KeyError) as error:
            raise ArtifactError(f"{path}: cannot be read ({error}); export the model again") from error

    def _refuse_if_replaced(self) -> None:
        """Raise ArtifactError if the folder holds another export than the one that was opened."""
        try:
            found = json.loads(read_text(self.folder / MANIFEST_FILE))["files"]
        except (OSError, ValueError, KeyError, TypeError):
            found = {}
        exported = {name: file for name, file in self.manifest["files"].items() if name not in (*_REPORTS, CARD_FILE)}
        if any(found.get(name) != file for name, file in exported.items()):
            raise ArtifactError(
                f"{self.folder}: was exported again or changed since it was opened, and is left as it is; do this again"
            )

    def with_files(self, contents: Mapping[str, str | bytes | None]) -> Artifact:
        """The artifact with files written or (None) removed, and its manifest updated, atomically.

        Args:
            contents: by name, the content of each file.

        Raises:
            ArtifactError: the folder holds another export by now.
            StoreError: it cannot be written.
        """
        self._refuse_if_replaced()
        with replace_folder(self.folder) as part:
            shutil.copytree(self.folder, part, copy_function=link_or_copy, dirs_exist_ok=True)
            for name, content in contents.items():
                if content is None:
                    (part / name).unlink(missing_ok=True)
                    continue
                write_atomically(part / name, content.encode() if isinstance(content, str) else content)
            changed = {name: _describe(part / name) for name, content in contents.items() if content is not None}
            kept = {name: file for name, file in self.manifest["files"].items() if name not in contents}
            manifest = {**self.manifest, "files": dict(sorted({**kept, **changed}.items()))}
            write_manifest(part, manifest)
        return Artifact(self.folder, manifest)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an artifact, whose files are not looked at.

    Raises:
        ArtifactError: the folder is no artifact, or its manifest cannot be read.
    """
    try:
        manifest: dict[str, Any] = json.loads(read_text(folder / MANIFEST_FILE))
        _hashes(manifest)
    except (FileNotFoundError, NotADirectoryError):
        remedy = f"; make one with lengthwise export{hub_hint(folder)}"
        if not folder.exists():
            raise ArtifactError(f"{folder}: there is no such artifact{remedy}") from None
        explanation = explain_model_path(folder)
        more = remedy if explanation is None else f": {explanation}"
        raise ArtifactError(f"{folder}: not an artifact ({MANIFEST_FILE} is missing){more}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{folder / MANIFEST_FILE}: cannot be read ({error}); export the model again") from error
    return manifest


def _hashes(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The sha256 of every file, by its name."""
    return {name: file["sha256"] for name, file in manifest["files"].items()}


def _refuse_leftovers(folder: Path, known: Mapping[str, object]) -> None:
    """Raise ArtifactError if a folder has a graph or a report that its manifest does not."""
    paths = [folder / name for name in _REPORTS]
    paths += [path for name in sorted(_OWN_FOLDERS) for path in sorted((folder / name).rglob("*"))]
    for path in paths:
        name = path.relative_to(folder)
        is_hidden = any(part.startswith(".") for part in name.parts)  # of an operating system or an editor
        if path.is_file() and not is_hidden and name.as_posix() not in known:
            raise ArtifactError(
                f"{path}: is not of this export ({MANIFEST_FILE} does not have it), but clients would take it for a"
                " part of it; delete or move it"
            )


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and sha256 of every file below a folder, except the manifest."""
    return {
        path.relative_to(folder).as_posix(): _describe(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST_FILE
    }


def _describe(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest; it is the last file of an artifact to be written."""
    write_atomically(folder / MANIFEST_FILE, json.dumps(manifest, indent=1).encode() + b"\n")
