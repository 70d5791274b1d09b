"""Runs an artifact on onnxruntime, without PyTorch.

`OnnxEncoder` encodes texts or ids; `OnnxEngine` runs batches, for it and for `encode_dataset`.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeVar, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lengthwise.batching.costs import engine_costs
from lengthwise.config import WEIGHTS_FILE, BatchingSettings, RunConfig
from lengthwise.encoder.classify import LabelClassifier
from lengthwise.encoder.engine import encode_texts, encode_tokens
from lengthwise.encoder.oom import split_on_oom
from lengthwise.encoder.padding import read_lengths
from lengthwise.errors import ArtifactError, LengthwiseError, TextError
from lengthwise.export.artifact.folder import VALIDATION_JSON, Artifact
from lengthwise.export.graphs.variants import NATIVE, VARIANTS
from lengthwise.export.runtimes.base import NotRunnable
from lengthwise.export.runtimes.onnxruntime import OnnxRuntimeCpu, OnnxRuntimeCuda, is_oom
from lengthwise.tokens.ragged import RaggedTokens
from lengthwise.tokens.tokenizer import TextTokenizer, load_model_tokenizer, load_tokenizer
from lengthwise.util.system import cpu_count, free_memory
from lengthwise.util.text_files import read_text
from lengthwise.util.threads import parallel_map

log = logging.getLogger(__name__)
Device = Literal["cpu", "cuda", "auto"]
T = TypeVar("T")
R = TypeVar("R")
_GPU_WORKERS = 2
_UNIT_BYTES = 20  # onnxruntime's memory on a CPU per token and unit, for gates and state; 19 to 32 were measured
_CHECKED_BYTES = 2**30  # batches that need less are not checked against free memory


class OnnxEncoder:
    """Encodes texts or ids with an artifact.

    Batches are planned by length, so a call takes any number of rows of any lengths, and a row's vector does not depend
    on the others (except with the graph int8_dynamic, which is only used when named).

        encoder = OnnxEncoder.load("artifact")
        vectors = encoder.encode(["a short text", "another text, which is longer"])

    Attributes:
        engine: runs the batches.
        tokenizer: the artifact's.
    """

    def __init__(self, engine: OnnxEngine, tokenizer: TextTokenizer, batching: BatchingSettings) -> None:
        self.engine, self.tokenizer, self._batching = engine, tokenizer, batching

    @classmethod
    def load(
        cls,
        folder: str | Path,
        device: Device = "cpu",
        *,
        variant: str | None = None,
        workers: int | None = None,
        batching: BatchingSettings = BatchingSettings(),
    ) -> OnnxEncoder:
        """Load an artifact; every file of it is checked.

        Args:
            folder: the artifact's.
            device: cuda fails unless a GPU runs the graph; auto falls back to the CPU.
            variant: the graph, see `graphs.variants`; by default the one that validation recommends.
            workers: concurrent batches; by default one per core (two on a GPU).
            batching: limits of a batch.

        Raises:
            ArtifactError: there is no intact artifact, or it cannot run on this device or with this graph.
        """
        artifact = Artifact.open(folder)
        engine = OnnxEngine(artifact, device, workers, variant)
        return cls(engine, load_tokenizer(artifact.folder), batching)

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return self.engine.config.dim

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Texts to float32[texts, dim]; a text of no tokens gets zeros.

        Raises:
            TextError: an item is no text, not Unicode, or longer than the model allows; or `texts` is a single text.
        """
        if isinstance(texts, str):
            raise TextError(f"texts is one text ({texts[:40]!r}), and would be read letter by letter; give a list")
        return encode_texts(texts, self.tokenizer, self.engine, self._batching)

    def encode_ids(self, input_ids: ArrayLike, lengths: ArrayLike) -> NDArray[np.float32]:
        """Ids to float32[batch, dim].

        Args:
            input_ids: int[batch, sequence], right-padded; ids in the padding have no effect.
            lengths: int[batch], each from 0 to sequence; a row of length 0 gets zeros.

        Raises:
            TextError: shapes do not match, a length is out of range, or an id is not in the vocabulary.
        """
        ids, counts = _to_int64(input_ids, "input_ids", 2), _to_int64(lengths, "lengths", 1)
        if len(counts) != len(ids):
            raise TextError(f"there are {len(ids)} rows of ids and {len(counts)} lengths; give one per row")
        wrong = np.flatnonzero((counts < 0) | (counts > ids.shape[1]))
        if len(wrong):
            row = int(wrong[0])
            raise TextError(f"row {row} has the length {counts[row]}, but a length is from 0 to {ids.shape[1]} here")
        return self._encode_masked_ids(ids, np.arange(ids.shape[1]) < counts[:, None])

    def encode_masked(self, input_ids: ArrayLike, attention_mask: ArrayLike) -> NDArray[np.float32]:
        """As `encode_ids`, with a mask, int[batch, sequence] of ones, then zeros.

        Raises:
            TextError: as `encode_ids`; or the mask is not ones, then zeros.
        """
        ids, mask = _to_int64(input_ids, "input_ids", 2), _to_int64(attention_mask, "attention_mask", 2)
        if mask.shape != ids.shape:
            raise TextError(f"input_ids are {list(ids.shape)} and attention_mask {list(mask.shape)}; they must match")
        right_padded = np.arange(mask.shape[1]) < mask.astype(bool).sum(axis=1)[:, None]
        wrong = np.flatnonzero((mask != right_padded).any(axis=1))
        if len(wrong):
            raise TextError(
                f"row {wrong[0]} of attention_mask is not ones, then zeros ({mask[wrong[0]].tolist()[:20]}); pad on the"
                " right (padding_side='right'), without holes"
            )
        return self._encode_masked_ids(ids, right_padded)

    def _encode_masked_ids(self, ids: NDArray[np.int64], real: NDArray[np.bool_]) -> NDArray[np.float32]:
        values = ids[real]
        vocab_size = self.engine.config.vocab_size
        wrong = np.argwhere(real & ((ids < 0) | (ids >= vocab_size)))
        if len(wrong):
            row, column = wrong[0].tolist()
            raise TextError(
                f"row {row} has the id {ids[row, column]}, but ids run from 0 to {vocab_size - 1} here; use the"
                " artifact's own tokenizer"
            )
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(real.sum(axis=1))])
        no = np.zeros(len(ids), np.bool_)
        return encode_tokens(RaggedTokens(values.astype(np.int32), offsets, no, no), self.engine, self._batching)[0]


class OnnxEngine:
    """An engine (see `lengthwise.encoder.engine`) that runs a graph of an artifact, each batch on one thread.

    Attributes:
        name: the provider and the graph; part of a run's identity.
        config: the encoder's.
        costs: the costs of batches; onnxruntime computes every row up to the longest.
        reference: the native graph if this one computes below float32, else None.
        fingerprint: sha256 (hex) of the encoder's weights.
        classifier: from vectors to labels, if the encoder has them.
        batch_invariant: false.
        variant: the graph, see `lengthwise.export.graphs.variants`.
        tolerance: the largest difference of a value from PyTorch's that passes validation.
        workers: concurrent batches.
    """

    def __init__(
        self, artifact: Artifact, device: Device = "cpu", workers: int | None = None, variant: str | None = None
    ) -> None:
        """Load the graph.

        Args:
            artifact: the artifact.
            device: as for `OnnxEncoder.load`.
            workers: concurrent batches; by default one per core (two on a GPU).
            variant: the graph; by default the one that validation recommends.

        Raises:
            ArtifactError: onnxruntime is not installed, `device` is cuda and no GPU runs the graph, or the artifact has
                no such graph.
        """
        self.config = artifact.load_config()
        self.fingerprint = str(artifact.manifest["weights"])
        self.classifier = LabelClassifier.load(artifact.folder / WEIGHTS_FILE, self.config)
        self._runtime, self.variant = _load_runtime(artifact, device, variant)
        on_gpu = isinstance(self._runtime, OnnxRuntimeCuda)
        self.costs = engine_costs("onnx", "fp32", on_gpu=on_gpu)
        self.name = f"{self._runtime.name} {VARIANTS[self.variant].file}"
        self.workers = workers or (_GPU_WORKERS if on_gpu else cpu_count())
        self.tolerance = self._runtime.tolerances(VARIANTS[self.variant]).difference
        exact = VARIANTS[self.variant].exact
        self.reference = None if exact else OnnxEngine(artifact, device, workers, NATIVE)
        self.sharing = None
        self.batch_invariant = False  # it is not promised for each of its products

    def encode_batch(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        """int64[batch, sequence], right-padded, and int64[batch], from 1 to sequence, to float32[batch, dim].

        Raises:
            LengthwiseError: the batch needs more memory than is free, for which the system would kill the process. On
                a GPU, a batch that does not fit is split first, down to one row.
        """
        cells = len(lengths) * int(read_lengths(lengths, self.config).max(initial=input_ids.shape[1]))
        needed = _UNIT_BYTES * self.config.state_dim * cells
        if needed > _CHECKED_BYTES and not isinstance(self._runtime, OnnxRuntimeCuda):
            free = free_memory()
            if free is not None and needed > free:
                raise LengthwiseError(
                    f"a text of {input_ids.shape[1]:,} tokens takes onnxruntime {needed / 1e9:.1f} GB or more, and"
                    f" {free / 1e9:.1f} GB are free; encode with PyTorch, which needs little memory for a long text, or"
                    " cut texts (max_length and truncate)"
                )
        return split_on_oom(self._encode, input_ids, lengths, is_oom=is_oom, device=self._runtime.device)

    def run_all(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Apply `function` to each item, in order, on the engine's workers."""
        return parallel_map(function, items, self.workers)

    def _encode(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._runtime.vectors(input_ids, _attention_mask(lengths, input_ids.shape[1]))


def _attention_mask(lengths: NDArray[np.int64], columns: int) -> NDArray[np.int64]:
    """int64[batch, columns], ones, then zeros; from bytes, so that the GIL is not released (see `server.queue`)."""
    one = np.int64(1).tobytes()
    width = columns * len(one)
    longest = one * columns + bytes(width)
    starts = [width - length * len(one) for length in lengths.tolist()]
    cells = bytearray().join([longest[start : start + width] for start in starts])
    return np.frombuffer(cells, np.int64).reshape(len(starts), columns)


def open_onnx(config: RunConfig, workers: int | None = None) -> tuple[OnnxEngine, TextTokenizer]:
    """The engine of a run, with the artifact at export.output, and its tokenizer; does not import PyTorch.

    Args:
        config: the run.
        workers: concurrent batches, as for OnnxEngine.

    Raises:
        LengthwiseError: one of them cannot be loaded, or they do not match.
    """
    artifact = Artifact.open(config.export.output)
    engine = OnnxEngine(artifact, config.encode.device, workers, config.encode.variant)
    return engine, load_model_tokenizer(artifact.folder, engine.config, config.tokenizer.path)


def recommended_variant(artifact: Artifact, runtime: str) -> str:
    """The graph that validation recommends for a runtime; the native one if the runtime was not judged.

    Raises:
        ArtifactError: no graph in float32 passed on the runtime; or validation.json cannot be read, or is of other
            graphs or weights than the artifact's.
    """
    path = artifact.folder / VALIDATION_JSON
    if VALIDATION_JSON not in artifact.manifest["files"]:
        return NATIVE
    try:
        record = json.loads(read_text(path))
        judged_files = dict(record.get("files", {}))  # an older version did not record them
        if "recommended" not in record and "verdicts" in record:  # of an older version, with the native graph only
            return NATIVE
        recommended = record["recommended"].get(runtime)
        judged = {verdict["runtime"] for verdict in record["verdicts"] if verdict["status"] != "not run"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path}: cannot be read ({error!r}); validate the artifact again") from error
    here = {name: file["sha256"] for name, file in artifact.manifest["files"].items()}
    changed = sorted(name for name, sha256 in judged_files.items() if here.get(name) != sha256)
    if changed:
        raise ArtifactError(
            f"{path}: is of other files than the artifact's ({', '.join(changed)} changed since); validate the artifact"
            " again"
        )
    if recommended is None and runtime in judged:
        raise ArtifactError(f"{path}: no graph in float32 passed on {runtime}; export the model again, or name a graph")
    return str(recommended or NATIVE)


def select_variant(artifact: Artifact, runtime: str, variant: str | None = None) -> str:
    """The requested graph, or the recommended one for a runtime.

    Raises:
        ArtifactError: the artifact has no such graph; or as `recommended_variant`.
    """
    name = variant or recommended_variant(artifact, runtime)
    if variant is not None:
        _warn_of_failure(artifact, runtime, variant)
    if name not in VARIANTS or VARIANTS[name].file not in artifact.manifest["files"]:
        present = [known.name for known in VARIANTS.values() if known.file in artifact.manifest["files"]]
        raise ArtifactError(f"{artifact.folder}: has no graph {name!r}, but {', '.join(present)}; see export.variants")
    return name


def _warn_of_failure(artifact: Artifact, runtime: str, variant: str) -> None:
    """Log why a graph did not pass validation, if it was validated and did not."""
    if VALIDATION_JSON not in artifact.manifest["files"]:
        return
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # which reading the recommendation reports
        for verdict in json.loads(read_text(artifact.folder / VALIDATION_JSON))["verdicts"]:
            if (verdict["runtime"], verdict["variant"], verdict["status"]) == (runtime, variant, "failed"):
                log.warning("%s: the graph %s did not pass validation: %s", artifact.folder, variant, verdict["reason"])


def _load_runtime(artifact: Artifact, device: Device, variant: str | None) -> tuple[OnnxRuntimeCpu, str]:
    """A runtime with a graph loaded, and the name of the graph."""
    if device not in get_args(Device):
        raise ArtifactError(f"the device is {device!r}; choose {', '.join(get_args(Device))}")
    if device != "cpu":
        cuda = OnnxRuntimeCuda()
        try:
            return cuda, _load(cuda, artifact, variant)
        except NotRunnable as error:
            if device == "cuda":
                raise ArtifactError(f"the device is cuda, but {error}; choose cpu or auto") from error
        except ArtifactError:  # no graph passed there; a fault that the CPU has too is reported below
            if device == "cuda":
                raise
    cpu = OnnxRuntimeCpu(threads=1)
    try:
        return cpu, _load(cpu, artifact, variant)
    except NotRunnable as error:
        raise ArtifactError(f"{artifact.folder}: cannot be run: {error}") from error


def _load(runtime: OnnxRuntimeCpu, artifact: Artifact, variant: str | None) -> str:
    name = select_variant(artifact, runtime.name, variant)
    runtime.load(artifact.folder / VARIANTS[name].file)
    return name


def _to_int64(values: ArrayLike, name: str, axes: int) -> NDArray[np.int64]:
    try:
        array = np.asarray(values)
    except ValueError:
        raise TextError(f"{name} has rows of several lengths; pad them on the right to one length") from None
    if array.shape == (0,):
        array = array.reshape((0,) * axes)
    if array.ndim != axes:
        raise TextError(f"{name} has the shape {list(array.shape)}; give it {axes} {'axes' if axes > 1 else 'axis'}")
    if array.size and array.dtype.kind not in "iub":
        raise TextError(f"{name} holds {array.dtype}; give whole numbers")
    return array.astype(np.int64)
