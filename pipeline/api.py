"""The public face of the package: `Encoder`, from texts to vectors; `functions` has the rest.

Notable decisions:
- A model is a folder: with a `MANIFEST.json` it is an artifact and runs on onnxruntime, else it is a checkpoint and
  runs in PyTorch. PyTorch is imported for a checkpoint only.
- Input is read in the calling thread, since a generator may hold a database cursor or the like; the next chunk is
  tokenized in a second thread while one is encoded.
- An Encoder is pickled as its folder and is loaded again from there: sessions of onnxruntime and compiled kernels
  cannot be moved to another process.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lengthwise.config import (
    BatchingSettings,
    DeviceVariant,
    EncoderConfig,
    Precision,
    TokenizationSettings,
    Variant,
)
from lengthwise.encoder.engine import Engine, PlannedTokens, encode_planned, plan_tokens
from lengthwise.errors import ConfigError, LengthwiseError, RowError
from lengthwise.tokens.texts import chunk_texts
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.tokens.tokenizer import TextTokenizer, check_tokenizer_fits, load_tokenizer
from lengthwise.util.model_paths import is_artifact

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from lengthwise.encoder.classify import LabelClassifier
    from lengthwise.encoder.model import PackedEncoder
    from lengthwise.export.artifact.folder import Artifact

Device = Literal["cpu", "cuda", "auto"]
_NORM_FLOOR = 1e-12  # as in `PackedEncoder.finish`


class Encoder:
    """Texts to vectors, with a checkpoint in PyTorch or an artifact on onnxruntime.

    Batches are planned by length, so texts of any lengths are given in any number and order, and a text's vector does
    not depend on the others.

    >>> from lengthwise import Encoder
    >>> encoder = Encoder.load("model")
    >>> encoder.encode("a short text").shape
    (6,)
    >>> vectors = encoder.encode(["a short text", "another text, which is longer"])
    >>> vectors.shape, vectors.dtype
    ((2, 6), dtype('float32'))

    Attributes:
        tokenizer: turns texts into ids.
    """

    def __init__(
        self,
        model: PackedEncoder,
        tokenizer: TextTokenizer | Tokenizer,
        *,
        device: Device = "auto",
        precision: Precision = "fp32",
        batching: BatchingSettings | None = None,
    ) -> None:
        """Encode with a model in memory. Its weights are copied: change the model, and make another Encoder.

        Args:
            tokenizer: the one that the model was made for; one of the tokenizers library is wrapped.
            device, precision, batching: as for `load`.

        Raises:
            TokenizerError: the tokenizer does not fit the model.
            LengthwiseError: there is no GPU, or the device cannot compute in this precision.
        """
        from lengthwise.encoder.torch_engine import TorchEngine

        wrapped = tokenizer if isinstance(tokenizer, TextTokenizer) else TextTokenizer(tokenizer)
        check_tokenizer_fits(wrapped, model.config, "the tokenizer")
        engine = TorchEngine(model, _checked_device(device), precision)
        self._open(engine, wrapped, model, batching, {"engine": "torch", "precision": precision})

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: Device = "auto",
        precision: Precision = "fp32",
        variant: Variant | None = None,
        batching: BatchingSettings | None = None,
    ) -> Encoder:
        """Open a checkpoint, in PyTorch, or an artifact, on onnxruntime and without PyTorch.

        Args:
            path: the folder.
            device: `cuda` fails where there is no GPU; `auto` takes the CPU then.
            precision: of a checkpoint: fp32, bf16, on a CPU int8, or on a GPU fp16.
            variant: of an artifact: the graph, by default the one that validation recommends.
            batching: limits of a batch, by default the engine's own.

        Raises:
            CheckpointError, ArtifactError, TokenizerError: there is no whole model, or its parts do not fit.
            ConfigError: an option that this kind of model does not have.
            LengthwiseError: there is no GPU, or the device cannot compute in this precision.
        """
        folder = Path(path)
        if is_artifact(folder):
            if precision != "fp32":
                raise ConfigError(f"precision is {precision!r}, but {folder} is an artifact; choose a variant instead")
            return cls._load_artifact(folder, _checked_device(device), variant, batching)
        if variant is not None:
            raise ConfigError(f"variant is {variant!r}, but {folder} is no artifact; choose a precision instead")
        from lengthwise.encoder.checkpoint import load_checkpoint

        encoder = cls(*load_checkpoint(folder), device=device, precision=precision, batching=batching)
        encoder._set_folder(folder, device)
        return encoder

    @classmethod
    def _load_artifact(
        cls, folder: Path, device: Device, variant: Variant | None, batching: BatchingSettings | None
    ) -> Encoder:
        from lengthwise.export.artifact.engine import OnnxEngine
        from lengthwise.export.artifact.folder import Artifact

        engine = OnnxEngine(Artifact.open(folder), device, variant=variant)
        tokenizer = load_tokenizer(folder)
        check_tokenizer_fits(tokenizer, engine.config, str(folder))
        encoder = cls.__new__(cls)
        encoder._open(engine, tokenizer, folder, batching, {"engine": "onnx", "variant": engine.variant})
        encoder._set_folder(folder, device)
        return encoder

    def _open(
        self,
        engine: Engine,
        tokenizer: TextTokenizer,
        model: PackedEncoder | Path,
        batching: BatchingSettings | None,
        settings: dict[str, str],
    ) -> None:
        """Set the attributes.

        Args:
            model: what `save` and `export` write, or the artifact that holds it.
            settings: of `encode` in a run's configuration, which describe the engine.
        """
        self.tokenizer = tokenizer
        self._engine, self._model, self._settings = engine, model, settings
        self._batching = batching or BatchingSettings()
        self._folder: Path | None = None
        self._device: Device = "auto"

    def _set_folder(self, folder: Path, device: Device) -> None:
        self._folder, self._device = folder, device

    def __reduce__(self) -> tuple[Callable[..., Encoder], tuple[Any, ...]]:
        """Pickle the folder and how it was opened.

        Raises:
            LengthwiseError: the model is in memory only.
        """
        if self._folder is None:
            raise LengthwiseError(
                f"{self!r} cannot be pickled, since its model is in memory only; save it, and use Encoder.load(FOLDER)"
            )
        options = {"device": self._device, "batching": self._batching, **self._settings}
        del options["engine"]
        return _load_again, (str(self._folder.absolute()), options, self._fingerprints, self.config.model_dump())

    @property
    def _fingerprints(self) -> dict[str, str]:
        return {"weights": self._engine.fingerprint, "tokenizer": self.tokenizer.fingerprint}

    def __repr__(self) -> str:
        source = "" if self._folder is None else f"{str(self._folder)!r}, "
        return f"Encoder({source}dim={self.dim}, engine={self._engine.name!r})"

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return self.config.dim

    @property
    def variant(self) -> str | None:
        """The graph of an artifact that runs; None if it is a checkpoint."""
        return self._settings.get("variant")

    @property
    def config(self) -> EncoderConfig:
        """The model's `config.json`: its shape, and how its texts are tokenized."""
        return self._engine.config

    def encode(
        self,
        texts: str | Iterable[str],
        *,
        normalize: bool | None = None,
        show_progress: bool = False,
        max_length: int | None = None,
        truncate: bool | None = None,
    ) -> NDArray[np.float32]:
        """Encode one text, or all texts of an iterable in their order.

        A large iterable is read, tokenized and encoded in chunks. A text of no tokens gets zeros.

        Args:
            texts: one text; or a list, a generator, an array of NumPy or Arrow, a pandas Series, a column of a
                `datasets` dataset.
            normalize: scale every vector to length 1; as the model does where it is left out.
            show_progress: show a bar.
            max_length: the most tokens of a text, special ones included; as the model says where it is left out.
            truncate: cut longer texts instead of refusing them; as the model says where it is left out.

        Returns:
            float32[dim] for one text, float32[texts, dim] for several.

        Raises:
            TextError: something is no text, not Unicode, too long, or refused by the tokenizer; its row is named.
            ConfigError: truncation without a length, or `normalize=False` of a model that always normalizes.
        """
        if normalize is False and self.config.normalize:
            raise ConfigError("normalize is False, but this model always scales its vectors to length 1; leave it out")
        tokenization = self.config.tokenization.override(max_length=max_length, truncate=truncate)
        if isinstance(texts, str):
            vectors = encode_planned(self._plan([texts], 0, tokenization), self._engine)
        else:
            vectors = self._encode_all(texts, tokenization, show_progress)
        if normalize and not self.config.normalize:
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _NORM_FLOOR)
        return vectors[0] if isinstance(texts, str) else vectors

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the labels, in the order of the logits; none of a model without a classifier."""
        return self.config.labels

    def logits(
        self,
        texts: str | Iterable[str],
        *,
        show_progress: bool = False,
        max_length: int | None = None,
        truncate: bool | None = None,
    ) -> NDArray[np.float32]:
        """The logits of one text, float32[labels], or of several, float32[texts, labels].

        They are computed from the vectors that the model gives, so a text without tokens gets those of zeros.

        Args:
            texts, show_progress, max_length, truncate: as for `encode`.

        Raises:
            ConfigError: the model has no labels.
            TextError: as `encode`.
        """
        classifier = self._classifier()
        vectors = self.encode(texts, show_progress=show_progress, max_length=max_length, truncate=truncate)
        found = classifier.logits(np.atleast_2d(vectors))
        return found[0] if isinstance(texts, str) else found

    def probabilities(self, texts: str | Iterable[str], **options: Any) -> NDArray[np.float32]:
        """With the arguments of `logits`: what the model makes of them, by softmax, by sigmoid or as they are."""
        found = self._classifier().probabilities(np.atleast_2d(self.logits(texts, **options)))
        return found[0] if isinstance(texts, str) else found

    def predict(self, texts: str | Iterable[str], **options: Any) -> str | list[str]:
        """With the arguments of `logits`: the name of the label with the largest one."""
        found = self._classifier().best(np.atleast_2d(self.logits(texts, **options)))
        return found[0] if isinstance(texts, str) else found

    def _classifier(self) -> LabelClassifier:
        if self._engine.classifier is None:
            raise ConfigError("the model has no labels; encode gives its vectors")
        return self._engine.classifier

    def save(self, path: str | Path) -> None:
        """Write the model as a checkpoint folder, whole or not at all. An older checkpoint there is replaced.

        Raises:
            CheckpointError: the folder holds something else.
            StoreError: it cannot be written.
        """
        from lengthwise.encoder.checkpoint import save_checkpoint

        save_checkpoint(path, self._packed_encoder(), self.tokenizer)

    def export(self, path: str | Path, *, variants: Iterable[Variant | DeviceVariant] | None = None) -> Artifact:
        """Write an artifact folder: ONNX graphs, TorchScript, tokenizer and golden vectors, whole or not at all.

        Args:
            variants: the graphs to write besides the native one; where they are left out, all but those for phones and
                browsers (ort, executorch, litert, coreml, text).

        Raises:
            ArtifactError: the folder holds something else, or the model cannot be exported.
            StoreError: it cannot be written.
        """
        from lengthwise.export.artifact.build import build_artifact

        return build_artifact(self._packed_encoder(), self.tokenizer, path, variants=variants)

    def _packed_encoder(self) -> PackedEncoder:
        if isinstance(self._model, Path):
            from lengthwise.encoder.checkpoint import load_encoder

            self._model = load_encoder(self._model)
        return self._model

    def _encode_all(
        self, texts: Iterable[str], tokenization: TokenizationSettings, show_progress: bool
    ) -> NDArray[np.float32]:
        """float32[texts, dim] of any iterable."""
        total = operator.length_hint(texts)
        vectors, rows = np.empty((total, self.dim), np.float32), 0
        with (
            closing(self._planned_chunks(texts, tokenization)) as chunks,
            tqdm(total=total or None, unit=" texts", desc="encode", disable=not show_progress) as bar,
        ):
            for planned in chunks:
                end = rows + len(planned.tokens)
                if end > len(vectors):
                    vectors.resize((max(end, len(vectors) * 3 // 2), self.dim), refcheck=False)
                vectors[rows:end] = encode_planned(planned, self._engine, lambda count, _: bar.update(count))
                rows = end
        vectors.resize((rows, self.dim), refcheck=False)
        return vectors

    def _planned_chunks(self, texts: Iterable[str], tokenization: TokenizationSettings) -> Generator[PlannedTokens]:
        """The texts chunk by chunk, tokenized and planned in a second thread, one chunk ahead."""
        pending: Future[PlannedTokens] | None = None
        with ThreadPoolExecutor(1, thread_name_prefix="tokenize") as background:
            for first_row, chunk in chunk_texts(texts):
                future = background.submit(self._plan, chunk, first_row, tokenization)
                if pending is not None:
                    yield pending.result()
                pending = future
            if pending is not None:
                yield pending.result()

    def _plan(self, texts: list[str], first_row: int, tokenization: TokenizationSettings) -> PlannedTokens:
        tokens = tokenize_texts(texts, self.tokenizer, tokenization, bad_rows="zero")
        for row, reason in tokens.bad.items():
            raise RowError(first_row + row, f"cannot be encoded: {reason}", _remedy(reason))
        return plan_tokens(tokens, self._engine, self._batching)


def _load_again(
    folder: str, options: Mapping[str, Any], fingerprints: Mapping[str, str], config: Mapping[str, Any]
) -> Encoder:
    """A pickled Encoder.

    Raises:
        LengthwiseError: the folder holds another model by now, or none.
    """
    encoder = Encoder.load(folder, **options)
    changed = [name for name, found in encoder._fingerprints.items() if found != fingerprints[name]]
    changed += [name for name, found in encoder.config.model_dump().items() if found != config[name]]
    if changed:
        raise LengthwiseError(
            f"{folder}: was replaced since its Encoder was pickled, by a model with other {', '.join(changed)}; pickle"
            " the Encoder of the new one"
        )
    return encoder


def _checked_device(device: str) -> Device:
    if device not in get_args(Device):
        raise ConfigError(f"device is {device!r}; choose {', '.join(get_args(Device))}")
    return cast(Device, device)


def _remedy(reason: str) -> str:
    """What a caller can do about a text that cannot be encoded."""
    return "pass truncate=True, or a larger max_length" if "max_length" in reason else "replace it, or leave it out"
