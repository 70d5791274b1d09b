"""Explains a path that is not the model or the configuration that it should be: what it is instead, and what to give.

A path to a checkpoint, an artifact, a tokenizer or a run is refused where it is used. Here is only what the message
says of a single graph, an archive, a file of weights, a model of another library, or a name on the Hugging Face Hub.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from lengthwise.util.text_files import read_text

# The files that other modules define by these names, which import this one.
_MANIFEST_FILE, _CONFIG_FILE, _TOKENIZER_FILE = "MANIFEST.json", "config.json", "tokenizer.json"
MODEL_TYPE = "lengthwise"
ModelKind = Literal["artifact", "checkpoint", "sentence-transformers", "onnx"]
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
LFS_REMEDY = "a pointer of Git LFS, not the file itself; run git lfs pull where the repository was cloned"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".zst")
_GRAPHS: Mapping[str, str] = MappingProxyType(
    {
        ".onnx": "one ONNX graph",
        ".data": "the weights of an ONNX graph",
        ".ort": "one graph of onnxruntime",
        ".xml": "one graph of OpenVINO",
        ".pt2": "one program of torch.export",
        ".torchscript": "one TorchScript program",
    }
)
_EMBEDDING_GRAPHS = ("onnx/model.onnx", "model.onnx")
_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")
_DATA_FILES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".arrow", *_ARCHIVES)
_CONFIGURATIONS = (".yaml", ".yml")
_OLD_TOKENIZERS = ("vocab.txt", "vocab.json", "merges.txt", "*.model", "*.tiktoken")
_OTHER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "config.json", "added_tokens.json")
_FILES = (".json", ".txt", ".model", *_GRAPHS, *_PICKLES, *_ARCHIVES, *_CONFIGURATIONS)  # not names on the Hub
_CONVERT = "convert it: transformers.AutoTokenizer.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER) writes one"


def explain_model_path(path: Path) -> str | None:
    """What a path is that is not a model's folder, and what to give instead; None where that is not known."""
    try:
        if path.is_file():
            return _explain_file(path)
        return _explain_folder(path) if path.is_dir() else None
    except OSError:  # such as a folder that may not be listed
        return None


def hub_hint(path: Path, file: str = "") -> str:
    """What to add to a message about a path that does not exist, if it looks like a name on the Hugging Face Hub.

    Args:
        file: the one file that is needed; the whole repository where it is left out.
    """
    name = path.as_posix()
    if path.exists() or path.parent.exists() or not _HUB_NAME.fullmatch(name) or path.suffix in _FILES:
        return ""
    download = " ".join(filter(None, ("hf download", name, file, "--local-dir FOLDER")))
    return f"; if this is a name on the Hub, from which nothing is loaded, run {download}, and give that folder"


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file is what Git leaves in place of a large file that it did not download."""
    try:
        with open(path, "rb") as file:
            return file.read(len(LFS_POINTER)) == LFS_POINTER
    except OSError:
        return False


def model_type(folder: Path) -> str | None:
    """The model_type in a folder's config.json; None where there is none."""
    try:
        record = json.loads(read_text(folder / _CONFIG_FILE))
    except (OSError, ValueError, RecursionError):
        return None
    found = record.get("model_type") if isinstance(record, dict) else None
    return found if isinstance(found, str) else None


def model_kind(folder: Path) -> ModelKind | None:
    """What kind of model a folder's files show it to be; None if it is none of these.

    A model of sentence-transformers that is published with an ONNX graph too is `onnx` only where sentence-transformers
    is not installed.
    """
    if is_artifact(folder):
        return "artifact"
    if model_type(folder) == MODEL_TYPE:
        return "checkpoint"
    has_modules, has_graph = (folder / "modules.json").is_file(), find_embedding_graph(folder) is not None
    if has_modules and not (has_graph and find_spec("sentence_transformers") is None):
        return "sentence-transformers"
    return "onnx" if has_graph else None


def find_embedding_graph(folder: Path) -> Path | None:
    """The graph of an ONNX embedding model, as they are published with a tokenizer.json; None if there is none."""
    if not (folder / _TOKENIZER_FILE).is_file():
        return None
    return next((folder / name for name in _EMBEDDING_GRAPHS if (folder / name).is_file()), None)


def _explain_file(path: Path) -> str:
    owner = next((folder for folder in path.parents[:2] if is_own_model(folder)), None)
    if owner is not None:
        return f"a file of the model in {owner}; give that folder"
    suffix = path.suffix.lower()
    if suffix in _ARCHIVES:
        return "an archive; unpack it, and give the folder"
    if suffix in _GRAPHS:
        return (
            f"{_GRAPHS[suffix]}, without the tokenizer and the settings that its model needs; give the whole folder"
            " that lengthwise export wrote"
        )
    if suffix in _PICKLES:
        return (
            "a file of weights or of a program, and pickles are not loaded; give the folder of a checkpoint, which"
            " lengthwise import makes"
        )
    if suffix == ".safetensors":
        return (
            f"weights without {_CONFIG_FILE} and tokenizer.json beside them; give the folder of a checkpoint, which"
            " lengthwise import makes"
        )
    if suffix in _CONFIGURATIONS:
        return "a configuration, not a model; give the folder that its export.output or model.path names"
    return "a file; give the model's folder"


def _explain_folder(path: Path) -> str | None:
    if (path / "modules.json").is_file():
        return "a sentence-transformers model; only models that Lengthwise made can be loaded, see lengthwise import"
    kind = model_type(path)
    if kind not in (None, MODEL_TYPE):
        return f"a transformers model (its model_type is {kind!r}); only models that Lengthwise made can be loaded"
    if (path / "config.pbtxt").is_file():
        return "a model of Triton Inference Server; give the folder of the artifact that it was written from"
    if (path / _CONFIG_FILE).exists() or (path / _MANIFEST_FILE).exists():
        return None
    if is_own_model(path.parent):
        return f"a folder of the model in {path.parent}; give that folder"
    found = sorted(child for child in path.iterdir() if is_own_model(child))
    return f"not a model itself, but holds one in {found[0].name}; give {found[0]}" if found else None


def is_artifact(folder: Path) -> bool:
    """Whether a folder is of an exported model, by its manifest."""
    return (folder / _MANIFEST_FILE).is_file()


def is_own_model(folder: Path) -> bool:
    """Whether a folder is a checkpoint or an artifact of Lengthwise."""
    return is_artifact(folder) or model_type(folder) == MODEL_TYPE


def explain_run_path(path: Path) -> str | None:
    """What a path is that should be the YAML file of a run, and the remedy; None if it may be one."""
    give = "give the YAML file of a run"
    if path.is_dir():
        found = sorted(path.glob("*.yaml"))
        return f"a folder; {give}" + (f", such as {found[0]}" if found else "")
    suffix = path.suffix.lower()
    if suffix in _GRAPHS:
        return f"{_GRAPHS[suffix]}, not a configuration; {give}, whose model.path names a checkpoint"
    if suffix in (*_PICKLES, ".safetensors"):
        return f"a file of weights, not a configuration; {give}, whose model.path names a checkpoint"
    if path.name == _TOKENIZER_FILE:
        return f"a tokenizer, not a configuration; {give}, whose tokenizer.path names it"
    if suffix in _DATA_FILES:
        return f"a file of data by its extension; {give}, whose dataset.path names it"
    return None


def explain_tokenizer_path(path: Path) -> str | None:
    """What a path is that should be a tokenizer.json or a folder with one, and the remedy; None if it may be one."""
    if is_lfs_pointer(path / _TOKENIZER_FILE if path.is_dir() else path):
        return LFS_REMEDY
    if path.is_dir():
        if (path / _TOKENIZER_FILE).is_file():
            return None
        old = next((name for name in _OLD_TOKENIZERS if any(path.glob(name))), None)
        return None if old is None else f"has {old}, but no {_TOKENIZER_FILE}; {_CONVERT}"
    if path.suffix in (*_GRAPHS, *_PICKLES, ".safetensors"):
        return f"a file of weights or of a graph; give the folder of the model, or its {_TOKENIZER_FILE}"
    if path.suffix in _ARCHIVES:
        return f"an archive; unpack it, and give its {_TOKENIZER_FILE}"
    if any(path.match(name) for name in _OLD_TOKENIZERS):
        return f"not a {_TOKENIZER_FILE}, but a vocabulary of another format; {_CONVERT}"
    if path.name in _OTHER_SETTINGS:
        return f"{path.name} holds settings, but no vocabulary; give the {_TOKENIZER_FILE} beside it"
    return None
