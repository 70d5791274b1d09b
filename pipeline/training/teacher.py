"""Teachers: models whose vectors an encoder learns. Each is a folder, and is loaded when it first encodes.

A folder's files show which of four kinds it is: an artifact or a checkpoint of Lengthwise, a model of
sentence-transformers (of any architecture that it loads), and an ONNX embedding model as they are published, whose
pooling is read from the files beside it. A folder with both is run by sentence-transformers, if that is installed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from lengthwise.config import TokenizationSettings
from lengthwise.encoder.engine import Engine, encode_texts
from lengthwise.errors import CheckpointError
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.tokens.tokenizer import TOKENIZER_FILE, TextTokenizer, load_tokenizer
from lengthwise.training.equal_lengths import encode_equal_lengths
from lengthwise.training.onnx_teacher import load_graph
from lengthwise.training.progress import Bars
from lengthwise.training.sentence_teacher import load_sentence_transformer
from lengthwise.training.teacher_model import TeacherModel
from lengthwise.util.files import file_sha256
from lengthwise.util.model_paths import hub_hint, model_kind

_MODEL_FILES = (".json", ".safetensors", ".bin", ".onnx", ".onnx_data", ".data", ".txt", ".model")
_NOT_OF_THE_MODEL = ("validation.json", "data_config.json", "train_script.py")
_TOKENS_AT_ONCE = 512
_TABLES = ("word_embeddings", "embed_tokens", "tok_embeddings", "wte", "shared", "embedding")  # by preference


class Teacher(Protocol):
    """Maps texts to vectors.

    Attributes:
        name: for messages and reports.
        fingerprint: sha256 (hex) of everything that a vector depends on.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def fingerprint(self) -> str: ...  # noqa: D102

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32[texts, dim], in the order of the texts."""

    def load_tokenizer(self) -> TextTokenizer:
        """The teacher's own tokenizer."""

    def word_embeddings(self) -> NDArray[np.float32] | None:
        """The embedding table, float32[vocabulary, width]; None where there is none to be found."""

    def token_vectors(self, bars: Bars = Bars()) -> NDArray[np.float32] | None:
        """The vector of each token alone, float32[vocabulary, dim]; None where the model cannot be run on ids."""


class FolderTeacher:
    """A teacher that is a folder of files.

    Attributes:
        folder: its path.
        name: the folder's name.
    """

    def __init__(self, folder: Path, load: Callable[[], TeacherModel], precision: str = "fp32") -> None:
        """Make a teacher that `load` loads when it first encodes."""
        self.folder, self.name = folder, folder.resolve().name
        self._load, self._precision = load, precision

    @cached_property
    def _model(self) -> TeacherModel:
        return self._load()

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) of names and contents of the model's files, and of the precision."""
        digest = hashlib.sha256(self._precision.encode())
        for path in sorted(self.folder.rglob("*")):
            if path.suffix in _MODEL_FILES and path.name not in _NOT_OF_THE_MODEL and path.is_file():
                digest.update(f"{path.relative_to(self.folder).as_posix()} {file_sha256(path)}\n".encode())
        return digest.hexdigest()

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32[texts, dim], in the order of the texts."""
        return np.asarray(self._model.encode(texts), np.float32)

    def load_tokenizer(self) -> TextTokenizer:
        """The tokenizer.json of the folder, or of the first folder below it that has one.

        Raises:
            TokenizerError: there is none, or it cannot be read.
        """
        found = sorted(self.folder.rglob(TOKENIZER_FILE), key=lambda path: (len(path.parts), path))
        return load_tokenizer(found[0] if found else self.folder)

    def word_embeddings(self) -> NDArray[np.float32] | None:
        """The table in the folder's safetensors files that is named as embeddings of tokens are."""
        rows = self.load_tokenizer().vocab_size
        for path in sorted(self.folder.rglob("*.safetensors")):
            table = _find_table(path, rows)
            if table is not None:
                return table
        return None

    def token_vectors(self, bars: Bars = Bars()) -> NDArray[np.float32] | None:
        """The vector of each token with the special tokens around it, not scaled to length 1."""
        run, tokenizer = self._model.encode_ids, self.load_tokenizer()
        if run is None:
            return None
        parts = []
        with bars.open("teacher's tokens", tokenizer.vocab_size, "tokens") as bar:
            for start in range(0, tokenizer.vocab_size, _TOKENS_AT_ONCE):
                tokens = np.arange(start, min(start + _TOKENS_AT_ONCE, tokenizer.vocab_size))
                columns = [np.full(len(tokens), number) for number in tokenizer.prefix]
                columns += [tokens, *(np.full(len(tokens), number) for number in tokenizer.suffix)]
                parts.append(run(np.stack(columns, axis=1).astype(np.int64)))
                bar.update(len(tokens))
        return np.concatenate(parts)

    def word_vectors(self, words: Sequence[str]) -> NDArray[np.float32] | None:
        """The vector of each word as `token_vectors` gives it, float32[words, dim]; None where that gives none."""
        if self._model.encode_ids is None:
            return None
        tokens = tokenize_texts(list(words), self.load_tokenizer(), TokenizationSettings())
        return encode_equal_lengths(tokens, self._model.encode_ids, 1)


def open_teacher(
    path: str, *, precision: Literal["fp32", "bf16"] = "fp32", device: Literal["cpu", "cuda"] = "cpu"
) -> FolderTeacher:
    """The teacher in a folder; it is not loaded yet.

    Args:
        precision: in which PyTorch computes.
        device: where PyTorch runs it.

    Raises:
        CheckpointError: there is no such folder, or no model in it that can be a teacher.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise CheckpointError(
            f"{path}: there is no such folder; set train.teacher to the folder of a model{hub_hint(folder)}"
        )
    kind = model_kind(folder)
    if kind == "artifact":
        return FolderTeacher(folder, lambda: _load_artifact(folder))
    if kind == "checkpoint":
        return FolderTeacher(folder, lambda: _load_checkpoint(folder, device, precision), precision)
    if kind == "sentence-transformers":
        return FolderTeacher(folder, lambda: load_sentence_transformer(folder, device, precision), precision)
    if kind == "onnx":
        return FolderTeacher(folder, lambda: load_graph(folder))
    raise CheckpointError(
        f"{folder}: no model that can be a teacher; set train.teacher to a folder with modules.json (of"
        " sentence-transformers), with onnx/model.onnx and tokenizer.json, or to a checkpoint or artifact of Lengthwise"
    )


def _load_artifact(folder: Path) -> TeacherModel:
    from lengthwise.export.artifact.engine import OnnxEncoder

    encoder = OnnxEncoder.load(folder)
    return TeacherModel(encoder.encode, partial(_encode_batch, encoder.engine))


def _load_checkpoint(folder: Path, device: Literal["cpu", "cuda"], precision: Literal["fp32", "bf16"]) -> TeacherModel:
    from lengthwise.encoder.checkpoint import load_checkpoint
    from lengthwise.encoder.torch_engine import TorchEngine

    encoder, tokenizer = load_checkpoint(folder)
    engine = TorchEngine(encoder, device, precision)
    return TeacherModel(lambda texts: encode_texts(texts, tokenizer, engine), partial(_encode_batch, engine))


def _encode_batch(engine: Engine, input_ids: NDArray[np.int64]) -> NDArray[np.float32]:
    return engine.encode_batch(input_ids, np.full(len(input_ids), input_ids.shape[1]))


def _find_table(path: Path, rows: int) -> NDArray[np.float32] | None:
    """The embedding table of at least so many rows in a file of weights."""
    try:
        with safe_open(path, "pt") as file:
            for known in _TABLES:
                for name in file.keys():  # noqa: SIM118
                    if name.endswith(f"{known}.weight"):
                        shape = file.get_slice(name).get_shape()
                        if len(shape) == 2 and shape[0] >= rows:
                            return np.array(file.get_tensor(name).float().numpy())
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: the weights cannot be read ({error})") from error
    return None
