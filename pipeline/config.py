"""The configuration of a run: one YAML file, read into frozen, typed models.

- The models hold the settings and their checks; strict parsing and its messages are in `util.settings`.
- Relative paths are relative to the working directory, as in a shell.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationInfo, field_validator

from lengthwise.dataset_config import DatasetSettings, Names, NonEmpty
from lengthwise.encoder_config import (
    Cell,
    ClassifierSettings,
    DenseLayers,
    GateActivation,
    PaddingSettings,
    Pooling,
)
from lengthwise.errors import CheckpointError, ConfigError
from lengthwise.train_config import TrainSettings
from lengthwise.util.model_paths import MODEL_TYPE, explain_run_path
from lengthwise.util.settings import PositiveInt, Settings, format_value, parse_settings
from lengthwise.util.text_files import read_text
from lengthwise.util.yaml_files import load_yaml, parse_yaml

Precision = Literal["fp32", "bf16", "fp16", "int8"]
RunPrecision = Literal["fp32", "bf16", "fp16", "int8", "auto"]
Variant = Literal["native", "portable", "fp16", "int8", "int8_dynamic"]  # see lengthwise.export.graphs.variants
DeviceVariant = Literal["ort", "executorch", "litert", "coreml", "text"]
TokenizerModel = Literal["wordpiece", "bpe", "byte_bpe", "unigram", "wordlevel", "char"]
Normalizer = Literal["nfc", "nfd", "nfkc", "nfkd", "lowercase", "strip", "strip_accents", "bert"]
PreTokenizer = Literal["whitespace", "whitespace_split", "bert", "punctuation", "digits", "byte_level", "metaspace"]
OutputColumn = Literal["embedding", "predicted_label", "logits", "probabilities"]
BadRows = Literal["error", "quarantine", "zero"]
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"  # of a checkpoint or an artifact


class TokenizerTraining(Settings):
    """How `train_tokenizer` trains."""

    model: TokenizerModel = Field("byte_bpe", description="the algorithm")
    vocab_size: PositiveInt = Field(8_000, description="the largest vocabulary, special tokens included")
    min_frequency: PositiveInt = Field(2, description="a token (or merge) seen less often is left out; not for unigram")
    normalizers: Annotated[tuple[Normalizer, ...], Field(strict=False)] = Field(
        ("nfkc", "lowercase"), description="applied in this order"
    )
    pre_tokenizer: PreTokenizer | None = Field(
        None, description="how text is split before the algorithm; the algorithm's usual one if null"
    )
    pad_token: NonEmpty = Field("[PAD]", description="its id fills the padding of a batch; id 0")
    unk_token: NonEmpty = Field("[UNK]", description="replaces what is not in the vocabulary; id 1")
    bos_token: NonEmpty | None = Field(None, description="put before every text")
    eos_token: NonEmpty | None = Field(None, description="put after every text")
    special_tokens: Names = Field((), description="more tokens that are never split")

    @field_validator("pre_tokenizer")
    @classmethod
    def _char_model_has_no_pre_tokenizer(cls, value: PreTokenizer | None, info: ValidationInfo) -> PreTokenizer | None:
        if value is not None and info.data.get("model") == "char":
            raise ValueError(f"is {value!r}, but the char model splits a text into characters itself; leave it out")
        return value


class TokenizationSettings(Settings):
    """How a model tokenizes texts. Each setting can change a vector, so they belong to the model."""

    add_special_tokens: bool = Field(True, description="add the special tokens that tokenizer.json describes")
    max_length: PositiveInt | None = Field(None, description="limit of a text's tokens, special ones included")
    truncate: bool = Field(False, description="truncate longer texts (and flag them) instead of refusing them")

    @field_validator("truncate")
    @classmethod
    def _truncation_has_a_length(cls, truncate: bool, info: ValidationInfo) -> bool:
        if truncate and info.data.get("max_length", 1) is None:
            raise ValueError("is true, but there is no length to truncate at; set max_length too")
        return truncate

    def override(
        self,
        *,
        add_special_tokens: bool | None = None,
        max_length: int | None = None,
        truncate: bool | None = None,
    ) -> TokenizationSettings:
        """A copy with the settings that are not None replaced.

        Raises:
            ConfigError: a value is refused, e.g. truncation without a length.
        """
        given = {"add_special_tokens": add_special_tokens, "max_length": max_length, "truncate": truncate}
        changes = {name: value for name, value in given.items() if value is not None}
        return parse_settings(TokenizationSettings, {**self.model_dump(), **changes}, "tokenizer")


class TokenizerSettings(Settings):
    """The tokenizer, and this run's overrides of the model's `TokenizationSettings`."""

    path: str | None = Field(None, description="a tokenizer.json; the checkpoint's own if null")
    add_special_tokens: bool | None = Field(
        None, description="add the special tokens that tokenizer.json describes; the model's own if null"
    )
    max_length: PositiveInt | None = Field(
        None, description="limit of a text's tokens, special ones included; the model's own if null"
    )
    truncate: bool | None = Field(
        None, description="truncate longer texts (and flag them) instead of stopping; the model's own if null"
    )
    training: TokenizerTraining = TokenizerTraining()

    @property
    def overrides(self) -> dict[str, Any]:
        """The tokenization settings that are not null."""
        return self.model_dump(include=set(TokenizationSettings.model_fields), exclude_none=True)


class EncoderSettings(Settings):
    """The shape of an encoder: an embedding, an LSTM or GRU, and what makes one vector of its states.

    A setting at its default that older versions do not have is left out of files, so their identities stay.
    """

    cell: Cell = Field(
        "lstm", description="the recurrent layers: lstm or gru", exclude_if=lambda value: value == "lstm"
    )
    embedding_dim: PositiveInt = Field(128, description="width of a token's embedding")
    hidden_size: PositiveInt = Field(256, description="width of one direction of one recurrent layer")
    num_layers: PositiveInt = Field(1, description="stacked recurrent layers")
    bidirectional: bool = Field(False, description="also read each text from its end")
    gate_activation: GateActivation = Field(
        "sigmoid",
        description="of the gates: sigmoid; hard_sigmoid_keras2, clip(0.2 x + 0.5, 0, 1); or hard_sigmoid_keras3,"
        " clip(x / 6 + 0.5, 0, 1)",
        exclude_if=lambda value: value == "sigmoid",
    )
    pooling: Pooling = Field(
        "mean",
        description="how token states become one vector: last (of each direction, where it ends reading), first and end"
        " (at the first and the last token), mean, max, sum or attention; or several joined by _, as in mean_last",
    )
    attention_dim: PositiveInt | None = Field(
        None,
        description="width of a tanh layer that attention pooling scores a state with; if null, a Linear map does",
        exclude_if=lambda value: value is None,
    )
    dense: DenseLayers = Field(
        (), description="Dense layers after the pooling, each with an activation", exclude_if=lambda value: not value
    )
    projection_dim: PositiveInt | None = Field(
        None, description="width of a Linear layer after pooling and Dense layers; none if null"
    )
    static_residual: bool = Field(
        False,
        description="add a Linear map of the mean of the token embeddings, past the LSTM",
        exclude_if=lambda value: not value,
    )
    normalize: bool = Field(False, description="scale every vector to length 1")
    classifier: ClassifierSettings | None = Field(
        None, description="labels that are computed from a text's vector", exclude_if=lambda value: value is None
    )
    padding: PaddingSettings | None = Field(
        None, description="padding that the encoder reads; usually none", exclude_if=lambda value: value is None
    )

    @field_validator("attention_dim")
    @classmethod
    def _only_attention_has_a_width(cls, value: int | None, info: ValidationInfo) -> int | None:
        pooling = info.data.get("pooling", "attention")
        if value is not None and "attention" not in pooling.split("_"):
            raise ValueError(f"is {value}, but the pooling is {pooling}, without attention; leave it out")
        return value


class EncoderConfig(EncoderSettings):
    """An encoder's shape, vocabulary and tokenization: a checkpoint's `config.json`."""

    vocab_size: PositiveInt = Field(description="rows of the embedding table")
    pad_token_id: Annotated[int, Field(ge=0)] = Field(0, description="fills the padding of a batch")
    unk_token_id: Annotated[int, Field(ge=0)] | None = Field(None, description="the unknown token's id")
    tokenizer_fingerprint: str | None = Field(None, description="sha256 of the tokenizer it was made for")
    trained: bool = Field(True, description="false for a seeded checkpoint that was never trained")
    seed: int | None = Field(None, description="the seed of a checkpoint that was never trained")
    tokenization: TokenizationSettings = Field(TokenizationSettings(), description="how texts are tokenized")

    @property
    def directions(self) -> int:
        """1 or 2."""
        return 2 if self.bidirectional else 1

    @property
    def state_dim(self) -> int:
        """Width of a token state: directions x hidden_size."""
        return self.directions * self.hidden_size

    @property
    def pooling_parts(self) -> tuple[str, ...]:
        """What the token states are pooled to, in the order in which it is concatenated."""
        return tuple(self.pooling.split("_"))

    @property
    def pooled_dim(self) -> int:
        """Width of what the token states of a text are pooled to: state_dim per part."""
        return len(self.pooling_parts) * self.state_dim

    @property
    def dense_dim(self) -> int:
        """Width after the Dense layers."""
        return self.dense[-1].dim if self.dense else self.pooled_dim

    @property
    def dim(self) -> int:
        """Width of a text's vector."""
        return self.projection_dim or self.dense_dim

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the labels; none without a classifier."""
        return self.classifier.labels if self.classifier else ()

    @property
    def lengths_matter(self) -> bool:
        """Whether an LSTM that reads the padding too would give other vectors.

        It would with a reverse direction, which would start in the padding, and where the last state is pooled. The
        states of a forward direction at real tokens are the same.
        """
        if self.padding is not None and self.padding.truncate is not None:
            return False  # rows have one length
        return self.bidirectional or not {"last", "end"}.isdisjoint(self.pooling_parts)

    @field_validator("pad_token_id", "unk_token_id")
    @classmethod
    def _ids_are_in_the_vocabulary(cls, value: int | None, info: ValidationInfo) -> int | None:
        vocab_size = info.data.get("vocab_size", float("inf"))
        if value is not None and value >= vocab_size:
            raise ValueError(f"is {value}, but vocab_size is {vocab_size}; ids run from 0 to {vocab_size - 1}")
        return value


class ModelSettings(Settings):
    """Which checkpoint, and the encoder that `init_model` makes."""

    path: str = Field(description="the checkpoint folder")
    init: EncoderSettings = EncoderSettings()
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(0, description="the seed of init_model's weights")


class BatchingSettings(Settings):
    """Limits of a batch; a limit that is null is the engine's own, see `lengthwise.batching.costs`."""

    max_tokens: PositiveInt | None = Field(None, description="limit of a batch's cells (rows x longest row)")
    max_rows: PositiveInt | None = Field(None, description="limit of a batch's rows")


class EncodeSettings(Settings):
    """What `encode_dataset` writes, and what it runs on."""

    output: str = Field("vectors", description="the folder of vectors")
    vector_dtype: Literal["float32", "float16"] = Field("float32", description="how vectors are stored")
    columns: Annotated[tuple[OutputColumn, ...], Field(strict=False, min_length=1)] = Field(
        ("embedding",),
        description="what is written of a text: embedding, and of a model with labels predicted_label, logits and"
        " probabilities",
        exclude_if=lambda value: value == ("embedding",),
    )
    bad_rows: BadRows = Field(
        "error",
        description="a row that cannot be encoded: stop, write null and quarantine it, or write zeros",
    )
    reuse: Names = Field(
        (),
        description="folders of vectors, local or URLs; the vector of a text that the same model encoded there is taken"
        " from there",
        exclude_if=lambda value: not value,
    )
    cache: NonEmpty | None = Field(
        None,
        description="a folder, local or a URL, where vectors are kept by their texts, for this run and others",
        exclude_if=lambda value: value is None,
    )
    row_hashes: bool = Field(
        False,
        description="write a hash of each text beside the shards, by which later runs reuse the folder's vectors; runs"
        " that reuse vectors or append write them too",
        exclude_if=lambda value: not value,
    )
    append: bool = Field(
        False,
        description="go on where the folder ends if the input has gained rows, which become new shards; rows that were"
        " encoded have to be as they were",
        exclude_if=lambda value: not value,
    )
    device: Literal["cpu", "cuda", "auto"] = Field("cpu", description="where the encoder runs")
    engine: Literal["torch", "onnx"] = Field(
        "torch", description="PyTorch, or onnxruntime with the artifact at export.output"
    )
    precision: RunPrecision = Field(
        "fp32",
        description="of the engine torch: fp32, bf16, on a CPU int8, on a GPU fp16, or auto: the fastest of them within"
        " max_cosine_loss",
    )
    max_cosine_loss: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = Field(
        None,
        description="under precision auto, how far a sampled vector's cosine to fp32 may be from 1; 1e-4 if null",
        exclude_if=lambda value: value is None,  # files are those of versions without the setting
    )
    variant: Variant | None = Field(
        None, description="the artifact's graph under engine onnx; the one that validation recommends if null"
    )

    @property
    def writes_hashes(self) -> bool:
        """Whether hashes of the texts are written beside the shards."""
        return self.row_hashes or self.append or bool(self.reuse)

    @field_validator("reuse", mode="before")
    @classmethod
    def _one_folder_is_a_list(cls, folders: Any) -> Any:
        return [folders] if isinstance(folders, str) else folders

    @field_validator("columns")
    @classmethod
    def _columns_are_distinct(cls, columns: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(columns)) != len(columns):
            raise ValueError(f"is {list(columns)}, which names a column twice; name each once")
        return columns

    @field_validator("variant")
    @classmethod
    def _only_onnx_has_variants(cls, variant: str | None, info: ValidationInfo) -> str | None:
        if variant is not None and info.data.get("engine", "onnx") != "onnx":
            raise ValueError(f"is {variant!r}, but only the engine onnx runs a graph; set encode.engine to onnx")
        return variant

    @field_validator("max_cosine_loss")
    @classmethod
    def _only_auto_has_a_bound(cls, bound: float | None, info: ValidationInfo) -> float | None:
        if bound is not None and info.data.get("precision", "auto") != "auto":
            raise ValueError(
                f"is {bound}, but it is for precision auto only; set encode.precision to auto, or leave it out"
            )
        return bound

    @field_validator("precision")
    @classmethod
    def _onnx_has_no_precision(cls, precision: str, info: ValidationInfo) -> str:
        if precision != "fp32" and info.data.get("engine") == "onnx":
            raise ValueError(f"is {precision!r}, but a graph has a precision of its own; set encode.variant instead")
        return precision


class ExportSettings(Settings):
    """What `export_model` writes."""

    output: str = Field("artifact", description="the artifact folder")
    variants: Annotated[tuple[Variant | DeviceVariant, ...], Field(strict=False)] = Field(
        ("native", "portable", "fp16", "int8", "int8_dynamic"),
        description="the graphs to write; the native one always is. Beside the default, for phones and browsers: ort,"
        " executorch, litert, coreml, text",
    )


class ClusterSettings(Settings):
    """How a run is spread over a Ray cluster; no byte of the output depends on it."""

    workers: PositiveInt | None = Field(None, description="processes; as many as fit on the cluster if null")
    cpus_per_worker: PositiveInt = Field(1, description="cores per worker, for its tokenizer and encoder")
    gpus_per_worker: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0.0, description="GPUs per worker; below 1, several workers share one and overlap tokenizing and encoding"
    )
    retries: Annotated[int, Field(ge=0, lt=2**63)] = Field(3, description="retries of a shard whose worker died")


class RunConfig(Settings):
    """A run, from a dataset to vectors and an artifact."""

    dataset: DatasetSettings = Field(description="where the rows come from, at least dataset.path")
    tokenizer: TokenizerSettings = TokenizerSettings()
    model: ModelSettings = Field(description="which checkpoint, at least model.path")
    batching: BatchingSettings = BatchingSettings()
    encode: EncodeSettings = EncodeSettings()
    export: ExportSettings = ExportSettings()
    cluster: ClusterSettings = ClusterSettings()
    train: TrainSettings = TrainSettings()

    def resolve_tokenization(self, model: TokenizationSettings) -> TokenizationSettings:
        """The model's tokenization with this run's overrides.

        Raises:
            ConfigError: they do not fit together, e.g. truncation without a length.
        """
        return model.override(**self.tokenizer.overrides)

    def to_yaml(self) -> str:
        """The resolved configuration, defaults included, as YAML; `load_config` reads it back as an equal config."""
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        if "\x85" in text:  # PyYAML writes this character unescaped and reads it as a line break
            text = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
        return text


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run from a YAML file.

    Args:
        path: the file.
        overrides: `"key.path=value"` each, the value in YAML; later ones win.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or has mistakes; the message lists all of them.
    """
    path = Path(path)
    if (problem := explain_run_path(path)) is not None:
        raise ConfigError(f"{path} is {problem}")
    data = load_yaml(path)
    if not isinstance(data, dict):
        raise ConfigError(
            f"{path}: holds {format_value(data)}, not sections; see configs/quickstart.yaml for an example"
        )
    for override in overrides:
        _apply_override(data, override)
    return parse_settings(RunConfig, data, str(path))


def load_encoder_config(path: Path) -> EncoderConfig:
    """Read a checkpoint's config.json.

    Raises:
        CheckpointError: it is missing, not JSON, or of another kind of model.
        ConfigError: a setting is wrong.
    """
    try:
        record = json.loads(read_text(path))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: the file is missing; the checkpoint is incomplete") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(record, dict) or record.get("model_type") != MODEL_TYPE:
        found = record.get("model_type") if isinstance(record, dict) else type(record).__name__
        raise CheckpointError(f"{path}: model_type is {found!r}, not {MODEL_TYPE!r}; this is another kind of model")
    known = {name: value for name, value in record.items() if name not in ("model_type", "architectures")}
    return parse_settings(EncoderConfig, known, str(path))


def _apply_override(data: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise ConfigError(f"--set {override!r}: not of the form key.path=value, e.g. --set batching.max_rows=64")
    parsed = parse_yaml(value, f"--set {override!r}")
    node: Any = data
    for part in parts[:-1]:
        child = node[_item(node, part, override)] if isinstance(node, list) else node.get(part)
        if child is None:
            child = node[part] = {}
        if not isinstance(child, dict | list):
            raise ConfigError(f"--set {override!r}: {part!r} holds {format_value(child)}, not a section")
        node = child
    node[_item(node, parts[-1], override) if isinstance(node, list) else parts[-1]] = parsed


def _item(items: list[Any], part: str, override: str) -> int:
    """The number of an item of a list that a part of a path names."""
    if not part.isdecimal() or int(part) >= len(items):
        raise ConfigError(
            f"--set {override!r}: {part!r} is no item of a list of {len(items)}; they are numbered from 0"
        )
    return int(part)
