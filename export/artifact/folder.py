"""The artifact folder: what is in it, and that it is whole. Nothing here needs PyTorch.

`MANIFEST.json` holds the size and sha256 of every other file and is written last, so a folder that has one was
finished, and one whose files no longer fit it is refused by the name of the file.
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
from lengthwise.util.files import file_sha256, link_or_copy, replace_folder, write_atomically

MANIFEST_FILE, GOLDEN_FILE, CARD_FILE = "MANIFEST.json", "golden.safetensors", "README.md"
VALIDATION_JSON, VALIDATION_MD, VALIDATION_PNG = "validation.json", "validation.md", "validation.png"
TORCHSCRIPT_FILE, TORCHSCRIPT_PORTABLE_FILE = "torchscript/model.pt", "torchscript/model_portable.pt"
PROGRAM_FILE, PROGRAM_PORTABLE_FILE = "pt2/model.pt2", "pt2/model_portable.pt2"
TOKENIZER_CONFIG_FILE, TOKENS_FILE = "tokenizer_config.json", "special_tokens_map.json"


@dataclass(frozen=True)
class Golden:
    """Inputs, and the vectors that PyTorch gave for them when the artifact was made.

    Attributes:
        input_ids: int64[rows, sequence], with random ids in the padding.
        lengths: int64[rows].
        vectors: float32[rows, dim].
    """

    input_ids: NDArray[np.int64]
    lengths: NDArray[np.int64]
    vectors: NDArray[np.float32]


@dataclass(frozen=True)
class Artifact:
    """An artifact folder that was checked against its manifest."""

    folder: Path
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, folder: str | Path) -> Artifact:
        """Open an artifact and check every file of it.

        Raises:
            ArtifactError: there is none, or a file that the manifest names is missing or changed.
        """
        folder = Path(folder)
        try:
            manifest = json.loads((folder / MANIFEST_FILE).read_bytes())
            hashes = {name: file["sha256"] for name, file in manifest["files"].items()}
        except FileNotFoundError:
            raise ArtifactError(
                f"{folder}: not an artifact ({MANIFEST_FILE} is missing); make one with scripts/export_model.py"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(
                f"{folder / MANIFEST_FILE}: cannot be read ({error}); export the model again"
            ) from error
        for name, sha256 in hashes.items():
            path = folder / name
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ArtifactError(
                    f"{folder / MANIFEST_FILE}: names {name}, which is outside the artifact; do not use it"
                )
            if not path.is_file():
                raise ArtifactError(f"{path}: the file is missing; export the model again")
            if file_sha256(path) != sha256:
                raise ArtifactError(
                    f"{path}: the file is not the one that was exported (its sha256 differs from {MANIFEST_FILE});"
                    " export the model again"
                )
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
            return Golden(tensors["input_ids"], tensors["lengths"], tensors["vectors"])
        except (OSError, SafetensorError, KeyError) as error:
            raise ArtifactError(f"{path}: cannot be read ({error}); export the model again") from error

    def with_files(self, contents: Mapping[str, str | bytes | None]) -> Artifact:
        """The artifact with some files written or (where None) removed, and its manifest to match; all or nothing."""
        with replace_folder(self.folder) as part:
            shutil.copytree(self.folder, part, copy_function=link_or_copy, dirs_exist_ok=True)
            for name, content in contents.items():
                if content is None:
                    (part / name).unlink(missing_ok=True)
                    continue
                write_atomically(part / name, content.encode() if isinstance(content, str) else content)
            manifest = {**self.manifest, "files": describe_files(part)}
            write_manifest(part, manifest)
        return Artifact(self.folder, manifest)


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and sha256 of every file below a folder, the manifest left out."""
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST_FILE
    }


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest, the last file of an artifact."""
    write_atomically(folder / MANIFEST_FILE, json.dumps(manifest, indent=1).encode() + b"\n")
