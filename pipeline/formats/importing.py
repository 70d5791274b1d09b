"""`import_model`: a model of another library as an encoder, whichever kind of file or folder it is.

The files that are there show the kind: a folder with modules.json is a model of sentence-transformers, a file's
suffix says the rest. An archive is unpacked, and the mapping says which of its files has the weights.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lengthwise.encoder.model import PackedEncoder
from lengthwise.errors import CheckpointError, ConfigError
from lengthwise.formats.archives import is_archive, unpacked
from lengthwise.formats.comparison import compare_with_library
from lengthwise.formats.embedding_folder import MODULES_FILE
from lengthwise.formats.keras import read_keras
from lengthwise.formats.keras_file import SUFFIXES as KERAS_SUFFIXES
from lengthwise.formats.keras_file import read_keras_file
from lengthwise.formats.mapping import Mapping
from lengthwise.formats.onnx_file import SUFFIX as ONNX_SUFFIX
from lengthwise.formats.onnx_file import OnnxGraph
from lengthwise.formats.onnx_graph import read_onnx
from lengthwise.formats.sentence_transformers import read_sentence_transformers
from lengthwise.formats.state_dict import read_state_dict
from lengthwise.formats.tensors import SUFFIXES as TENSOR_SUFFIXES
from lengthwise.formats.tensors import read_tensors
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.util.model_paths import hub_hint, is_own_model

SUFFIXES = (*TENSOR_SUFFIXES, *KERAS_SUFFIXES, ONNX_SUFFIX)


@dataclass(frozen=True)
class ImportedModel:
    """A model of another library, as an encoder.

    Attributes:
        kind: what it was.
        encoder: in evaluation mode.
        tokenizer: gives the ids that the model was trained with.
        notes: what a user should know: what was found without being named, and where the two differ.
    """

    kind: str
    encoder: PackedEncoder
    tokenizer: TextTokenizer
    notes: tuple[str, ...] = ()


def import_model(
    source: Path, mapping: Mapping | None = None, *, folder: Path | None = None, trust_pickle: bool = False
) -> ImportedModel:
    """Read a model of another library.

    Args:
        source: a folder, an archive of one, or a file.
        mapping: what the file does not say, see `formats.mapping`.
        folder: what the mapping's paths are relative to, if they are not found in the source.
        trust_pickle: read a pickle of any objects, in a process of its own; for one's own files.

    Raises:
        CheckpointError, TokenizerError: the source cannot be read, or is not a model that the encoder can compute.
        ConfigError: a mapping is missing, or does not fit.
    """
    with open_source(source) as place:
        if place.is_dir() and (place / MODULES_FILE).is_file():
            if mapping is not None:
                raise ConfigError(f"{source}: a folder of sentence-transformers needs no mapping; leave it out")
            encoder, tokenizer, notes = read_sentence_transformers(place)
            notes.append(compare_with_library(place, encoder, tokenizer))
            return ImportedModel("sentence-transformers", encoder, tokenizer, tuple(notes))
        path = weights_path(place, mapping, source)
        if mapping is None:
            if is_own_model(place):
                raise ConfigError(f"{source}: a model of Lengthwise already; use it as it is")
            raise ConfigError(
                f"{source}: weights do not say how texts become ids; run lengthwise import {source} --inspect, which"
                " writes a mapping to be edited, and give that with --mapping"
            )
        base = place if place.is_dir() else place.parent
        files = _Places(base, folder)
        if path.suffix.lower() == ONNX_SUFFIX:
            return ImportedModel("ONNX", *_noted(*read_onnx(OnnxGraph(path), mapping, files.of(mapping))))
        if path.suffix.lower() in KERAS_SUFFIXES:
            return ImportedModel("Keras", *_noted(*read_keras(read_keras_file(path), mapping, files.of(mapping))))
        file = read_tensors(path, trust_pickle=trust_pickle)
        return ImportedModel("PyTorch", *_noted(*read_state_dict(file, mapping, files.of(mapping))))


def _noted(
    encoder: PackedEncoder, tokenizer: TextTokenizer, notes: list[str]
) -> tuple[PackedEncoder, TextTokenizer, tuple[str, ...]]:
    return encoder, tokenizer, tuple(notes)


@contextmanager
def open_source(source: Path) -> Iterator[Path]:
    """A source's folder or file; that of an archive is temporary.

    Raises:
        CheckpointError: there is no such source.
    """
    if not source.exists():
        raise CheckpointError(f"{source}: there is no such file or folder{hub_hint(source)}")
    if not is_archive(source):
        yield source
        return
    with unpacked(source) as folder:
        entries = list(folder.iterdir())
        inner = entries[0] if len(entries) == 1 and entries[0].is_dir() else folder
        yield inner if (inner / MODULES_FILE).is_file() else folder


def weights_path(place: Path, mapping: Mapping | None, source: Path) -> Path:
    """The file of weights in a source.

    Raises:
        CheckpointError: it is not there, or of a kind that is not imported.
        ConfigError: there are several, and the mapping names none.
    """
    if place.is_dir():
        named = mapping.weights if mapping is not None else None
        found = [place / named] if named is not None else weights_files(place)
        if len(found) != 1:
            listed = ", ".join(str(path.relative_to(place)) for path in found[:10]) or "none"
            raise ConfigError(
                f"{source}: of its files of weights ({listed}) the mapping names none; set weights to one, or give one"
                " of them as the source"
            )
        path = Path(os.path.abspath(found[0]))  # not resolved: files of the Hub's cache are links
        if not path.is_relative_to(os.path.abspath(place)) or not path.is_file():
            raise CheckpointError(f"{source}: weights = {named!r} is not there")
        return path
    if place.suffix.lower() not in SUFFIXES:
        raise CheckpointError(
            f"{source}: not a kind of file that is imported; there are {', '.join(SUFFIXES)}, and folders of"
            " sentence-transformers"
        )
    return place


def weights_files(folder: Path) -> list[Path]:
    """The files in a folder, and those below it, that may be weights by their names."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


class _Places:
    """Where a mapping's paths are looked for: in the source, then beside the mapping."""

    def __init__(self, base: Path, folder: Path | None) -> None:
        self._base, self._folder = base, folder

    def of(self, mapping: Mapping) -> Path:
        tokens = mapping.tokens
        names = [name for name in (tokens.tokenizer, tokens.vocabulary) if name is not None]
        inside = all((self._base / name).exists() for name in names)
        return self._base if inside or self._folder is None else self._folder
