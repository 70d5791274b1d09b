"""A run as data: one YAML file, read into frozen, typed models.

Notable decisions:
- Every mistake in the file is reported at once, each with its path, the value and the remedy, because a
  person who has to run a job three times to find three typos stops reading the messages.
- Types are strict (`true` is not 1, `"64"` is not 64): YAML already has types, and a silent conversion hides
  the mistake that it converts.
- Relative paths are relative to the directory in which the command is run, as in a shell.
"""

from __future__ import annotations

import difflib
import json
import reprlib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from lengthwise.errors import CheckpointError, ConfigError

Precision = Literal["fp32", "bf16", "fp16"]
Variant = Literal["native", "portable", "fp16", "int8", "int8_dynamic"]  # see export.variants
Pooling = Literal["last", "mean", "max", "sum"]
TokenizerModel = Literal["wordpiece", "bpe", "byte_bpe", "unigram", "wordlevel", "char"]
Normalizer = Literal["nfc", "nfd", "nfkc", "nfkd", "lowercase", "strip", "strip_accents", "bert"]
PreTokenizer = Literal["whitespace", "whitespace_split", "bert", "punctuation", "digits", "byte_level", "metaspace"]
BadRows = Literal["error", "quarantine", "zero"]
NonEmpty = Annotated[str, Field(min_length=1)]
Names = Annotated[tuple[NonEmpty, ...], Field(strict=False)]
PositiveInt = Annotated[int, Field(ge=1, lt=2**63)]
CONFIG_FILE = "config.json"
_MOST_KEYS = 10_000
OUTPUT_COLUMNS = ("embedding", "num_tokens", "truncated")


class Settings(BaseModel):
    """Base of every section: frozen, strict, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", protected_namespaces=())
    renamed: ClassVar[Mapping[str, str]] = {}  # old name: new name

    @field_validator("*")
    @classmethod
    def _texts_can_be_written(cls, value: Any) -> Any:
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str) and ("\0" in text or text.encode(errors="ignore").decode() != text):
                raise ValueError(f"is {text!r}, which no file can hold; leave out the NUL or the half of a character")
        return value


class DatasetSettings(Settings):
    """Where the rows come from."""

    path: str = Field(description="a hub name, a file, a glob, or a folder (of files, or made by save_to_disk)")
    name: str | None = Field(None, description="the hub dataset's configuration")
    revision: str | None = Field(None, description="the hub dataset's branch, tag or commit")
    split: str = Field("train", description="the split to read")
    format: Literal["parquet", "json", "csv", "text", "arrow"] | None = Field(
        None, description="how local files are read; by their endings where it is left out"
    )
    text_column: str = Field("text", description="the column of texts")
    keep_columns: Names = Field((), description="columns copied beside the vectors")
    streaming: bool = Field(False, description="read without a local copy; the number of rows is then unknown")
    shard_rows: PositiveInt = Field(65_536, description="rows a shard, the unit of work and commit")

    @field_validator("keep_columns")
    @classmethod
    def _kept_columns_are_distinct(cls, columns: tuple[str, ...]) -> tuple[str, ...]:
        taken = sorted(set(columns) & set(OUTPUT_COLUMNS))
        if taken:
            raise ValueError(f"holds {taken}, which the output itself writes; rename them in the input")
        if len(set(columns)) != len(columns):
            raise ValueError(f"is {list(columns)}, which names a column twice; name each once")
        return columns


class TokenizerTraining(Settings):
    """How `train_tokenizer` trains."""

    model: TokenizerModel = Field("byte_bpe", description="the algorithm")
    vocab_size: PositiveInt = Field(8_000, description="the largest vocabulary, special tokens included")
    min_frequency: PositiveInt = Field(2, description="a token (or merge) seen less often is left out; not for unigram")
    normalizers: Annotated[tuple[Normalizer, ...], Field(strict=False)] = Field(
        ("nfkc", "lowercase"), description="applied in this order"
    )
    pre_tokenizer: PreTokenizer | None = Field(
        None, description="how text is cut before the algorithm; the algorithm's usual one where it is left out"
    )
    pad_token: NonEmpty = Field("[PAD]", description="its id fills the padding of a batch; id 0")
    unk_token: NonEmpty = Field("[UNK]", description="stands for what the vocabulary lacks; id 1")
    bos_token: NonEmpty | None = Field(None, description="put before every text")
    eos_token: NonEmpty | None = Field(None, description="put after every text")
    special_tokens: Names = Field((), description="further tokens that are never split")

    @field_validator("pre_tokenizer")
    @classmethod
    def _characters_are_cut_one_way(cls, value: PreTokenizer | None, info: ValidationInfo) -> PreTokenizer | None:
        if value is not None and info.data.get("model") == "char":
            raise ValueError(f"is {value!r}, but the char model cuts a text into characters itself; leave it out")
        return value


class TokenizationSettings(Settings):
    """How a model's texts become ids: every setting can change a vector, so they are part of the model."""

    add_special_tokens: bool = Field(True, description="add the special tokens that tokenizer.json describes")
    max_length: PositiveInt | None = Field(None, description="the most tokens a text may have, special ones included")
    truncate: bool = Field(False, description="cut longer texts (and flag them) instead of refusing them")

    @field_validator("truncate")
    @classmethod
    def _truncation_has_a_length(cls, truncate: bool, info: ValidationInfo) -> bool:
        if truncate and info.data.get("max_length", 1) is None:
            raise ValueError("is true, but there is no length to cut at; set max_length too")
        return truncate

    def override(
        self,
        *,
        add_special_tokens: bool | None = None,
        max_length: int | None = None,
        truncate: bool | None = None,
    ) -> TokenizationSettings:
        """These settings with the given ones in their place; None keeps the model's own.

        Raises:
            ConfigError: a value is refused, such as truncation without a length.
        """
        given = {"add_special_tokens": add_special_tokens, "max_length": max_length, "truncate": truncate}
        changes = {name: value for name, value in given.items() if value is not None}
        return parse_settings(TokenizationSettings, {**self.model_dump(), **changes}, "tokenizer")


class TokenizerSettings(Settings):
    """Which tokenizer, and where this run tokenizes otherwise than its model says."""

    path: str | None = Field(None, description="a tokenizer.json; the checkpoint's own where it is left out")
    add_special_tokens: bool | None = Field(
        None, description="add the special tokens that tokenizer.json describes; as the model says if null"
    )
    max_length: PositiveInt | None = Field(
        None, description="the most tokens a text may have, special ones included; as the model says if null"
    )
    truncate: bool | None = Field(
        None, description="cut longer texts (and flag them) instead of stopping; as the model says if null"
    )
    training: TokenizerTraining = TokenizerTraining()

    @property
    def overrides(self) -> dict[str, Any]:
        """The settings of `TokenizationSettings` that this run sets itself."""
        return self.model_dump(include=set(TokenizationSettings.model_fields), exclude_none=True)


class EncoderSettings(Settings):
    """The shape of an Embedding+LSTM encoder."""

    embedding_dim: PositiveInt = Field(128, description="width of a token's embedding")
    hidden_size: PositiveInt = Field(256, description="width of one direction of one LSTM layer")
    num_layers: PositiveInt = Field(1, description="stacked LSTM layers")
    bidirectional: bool = Field(False, description="also read each text from its end")
    pooling: Pooling = Field("mean", description="how token states become one vector: last, mean, max or sum")
    projection_dim: PositiveInt | None = Field(None, description="width of a Linear layer after pooling; none if null")
    normalize: bool = Field(False, description="scale every vector to length 1")


class EncoderConfig(EncoderSettings):
    """A whole encoder: its shape and the vocabulary it was made for. This is a checkpoint's `config.json`."""

    vocab_size: PositiveInt = Field(description="rows of the embedding table")
    pad_token_id: Annotated[int, Field(ge=0)] = Field(0, description="fills the padding of a batch")
    unk_token_id: Annotated[int, Field(ge=0)] | None = Field(None, description="the unknown token's id")
    tokenizer_fingerprint: str | None = Field(None, description="sha256 of the tokenizer it was made for")
    trained: bool = Field(True, description="false for a seeded checkpoint that was never trained")
    seed: int | None = Field(None, description="the seed of a checkpoint that was never trained")
    tokenization: TokenizationSettings = Field(TokenizationSettings(), description="how its texts become ids")

    @property
    def directions(self) -> int:
        """1 or 2."""
        return 2 if self.bidirectional else 1

    @property
    def state_dim(self) -> int:
        """Width of a token state: directions x hidden_size."""
        return self.directions * self.hidden_size

    @property
    def dim(self) -> int:
        """Width of a text's vector."""
        return self.projection_dim or self.state_dim

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
    """Limits of a batch; those that are left out are the engine's own, see `lengthwise.batching.plan`."""

    max_tokens: PositiveInt | None = Field(None, description="the most cells (rows x longest row) a batch may have")
    max_rows: PositiveInt | None = Field(None, description="the most rows a batch may have")


class EncodeSettings(Settings):
    """What `encode_dataset` writes, and on what it runs."""

    output: str = Field("vectors", description="the folder of vectors")
    vector_dtype: Literal["float32", "float16"] = Field("float32", description="how vectors are stored")
    bad_rows: BadRows = Field(
        "error",
        description="a row that cannot be encoded: stop; or write null and set it aside (quarantine); or write zeros",
    )
    device: Literal["cpu", "cuda", "auto"] = Field("cpu", description="where the encoder runs")
    engine: Literal["torch", "onnx"] = Field(
        "torch", description="what runs it: PyTorch, or onnxruntime on the artifact at export.output"
    )
    precision: Precision = Field("fp32", description="what PyTorch computes in: fp32, bf16, or on a GPU fp16")
    variant: Variant | None = Field(
        None, description="the artifact's graph under engine onnx; the one that validation recommends if null"
    )

    @field_validator("variant")
    @classmethod
    def _only_artifacts_have_graphs(cls, variant: str | None, info: ValidationInfo) -> str | None:
        if variant is not None and info.data.get("engine", "onnx") != "onnx":
            raise ValueError(f"is {variant!r}, but only the engine onnx runs a graph; set encode.engine to onnx")
        return variant

    @field_validator("precision")
    @classmethod
    def _graphs_have_their_own_precision(cls, precision: str, info: ValidationInfo) -> str:
        if precision != "fp32" and info.data.get("engine") == "onnx":
            raise ValueError(f"is {precision!r}, but a graph has a precision of its own; set encode.variant instead")
        return precision


class ExportSettings(Settings):
    """What `export_model` writes."""

    output: str = Field("artifact", description="the artifact folder")
    variants: Annotated[tuple[Variant, ...], Field(strict=False)] = Field(
        ("native", "portable", "fp16", "int8", "int8_dynamic"),
        description="the graphs to write; the native one always is",
    )


class ClusterSettings(Settings):
    """How a run is spread over a Ray cluster; no byte of the output depends on it."""

    workers: PositiveInt | None = Field(None, description="processes; as many as the cluster has room for if null")
    cpus_per_worker: PositiveInt = Field(1, description="cores of a worker, for its tokenizer and encoder")
    gpus_per_worker: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0.0, description="GPUs of a worker; below 1, so many share one and keep it busy while others tokenize"
    )
    retries: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        3, description="how often a shard is tried again whose worker died under it"
    )


class RunConfig(Settings):
    """One run, from a dataset to vectors and an artifact."""

    dataset: DatasetSettings = Field(description="where the rows come from, at least dataset.path")
    tokenizer: TokenizerSettings = TokenizerSettings()
    model: ModelSettings = Field(description="which checkpoint, at least model.path")
    batching: BatchingSettings = BatchingSettings()
    encode: EncodeSettings = EncodeSettings()
    export: ExportSettings = ExportSettings()
    cluster: ClusterSettings = ClusterSettings()

    def resolve_tokenization(self, model: TokenizationSettings) -> TokenizationSettings:
        """How this run's texts become ids: as its model says, but for what the run sets itself.

        Raises:
            ConfigError: the two together make no sense, such as truncation without a length.
        """
        return model.override(**self.tokenizer.overrides)

    def to_yaml(self) -> str:
        """The resolved configuration, defaults included, as YAML that `load_config` reads back to an equal run."""
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        if "\x85" in text:  # the one character that PyYAML writes as itself and reads as a line's end
            text = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
        return text


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice, which YAML would otherwise settle in silence."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # a list or a mapping: refused when the mapping is built
            if (key.tag, key.value) in seen:
                problem = f"the key {key.value!r} is written twice in one section; keep one of the two"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add((key.tag, key.value))
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > _MOST_KEYS:  # merges of merges: a few lines that would fill the memory
            problem = f"more than {_MOST_KEYS:,} keys are merged into one section; write out the few that are needed"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run from a YAML file.

    Args:
        path: the file.
        overrides: `"key.path=value"` each, the value in YAML; later ones win.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or holds mistakes (all of them are in the message).
    """
    path = Path(path)
    data = load_yaml(path)
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: holds {_shown(data)}, not sections; see configs/quickstart.yaml for an example")
    for override in overrides:
        _apply_override(data, override)
    return parse_settings(RunConfig, data, str(path))


def load_yaml(path: Path) -> Any:
    """Read a YAML file in which no key is written twice.

    Raises:
        ConfigError: the file cannot be read, or is not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: the configuration cannot be read ({error}); give the path of a YAML file"
        ) from error
    return _parse_yaml(text, str(path))


def load_encoder_config(path: Path) -> EncoderConfig:
    """Read a checkpoint's config.json."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: the file is missing; the checkpoint is incomplete") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON that can be read ({error})") from error
    if not isinstance(record, dict) or record.get("model_type") != "lengthwise":
        found = record.get("model_type") if isinstance(record, dict) else type(record).__name__
        raise CheckpointError(f"{path}: model_type is {found!r}, not 'lengthwise'; this is another kind of model")
    known = {name: value for name, value in record.items() if name not in ("model_type", "architectures")}
    return parse_settings(EncoderConfig, known, str(path))


SettingsT = TypeVar("SettingsT", bound=Settings)


def parse_settings(model: type[SettingsT], data: Any, origin: str) -> SettingsT:
    """`data` as a `model`, or a ConfigError that lists every mistake in it."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = [_explain(model, item) for item in error.errors()]
    count = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
    raise ConfigError("\n  ".join([f"{origin}: {count}", *lines]))


def _parse_yaml(text: str, origin: str) -> Any:
    try:
        return yaml.load(text, _UniqueKeyLoader)
    except RecursionError:
        raise ConfigError(f"{origin}: nested too deep to be read") from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError) as error:
        # All but the first: a value that only looks like a date or a number, or is tagged as one, such as 2024-13-01.
        raise ConfigError(f"{origin}: not YAML that can be read: {error}") from error


def _apply_override(data: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise ConfigError(f"--set {override!r}: not of the form key.path=value, e.g. --set batching.max_rows=64")
    parsed = _parse_yaml(value, f"--set {override!r}")
    node = data
    for part in parts[:-1]:
        child = node.get(part)
        if child is None:
            child = node[part] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override!r}: {part!r} holds {_shown(child)}, not a section")
        node = child
    node[parts[-1]] = parsed


_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother = 3, 61, 61

_PLAINER = {
    "model_type": "should be a section of settings; fill it in or leave it out",
    "tuple_type": "should be a list",
}


def _explain(model: type[BaseModel], item: Any) -> str:
    """One line for one mistake: path, value, what is wrong, remedy."""
    path = ".".join(str(part) for part in item["loc"]) or "(the whole file)"
    value = _shown(item.get("input"))
    field, section = _find_field(model, item["loc"])
    if item["type"] == "extra_forbidden":
        name, siblings = str(item["loc"][-1]), list(section.model_fields)
        if issubclass(section, Settings) and name in section.renamed:
            return f"{path} = {value}: was renamed; write {section.renamed[name]!r} instead"
        close = difflib.get_close_matches(name, siblings, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"the settings here are {', '.join(siblings)}"
        return f"{path} = {value}: there is no such setting; {hint}"
    remedy = f" ({field.description})" if field is not None and field.description else ""
    if item["type"] == "missing":
        return f"{path}: missing; it must be given{remedy}"
    message = _PLAINER.get(item["type"], item["msg"].removeprefix("Value error, "))
    if item["type"] == "value_error":
        return f"{path} {message}"
    return f"{path} = {value}: {message[0].lower()}{message[1:]}{remedy}"


def _find_field(model: type[BaseModel], loc: Sequence[str | int]) -> tuple[Any, type[BaseModel]]:
    """The last field that `loc` names on its way down, and the section in which it ends."""
    field, current = None, model
    for part in loc:
        if not isinstance(part, str) or part not in current.model_fields:
            break
        field = current.model_fields[part]
        nested = next((kind for kind in _kinds(field.annotation) if issubclass(kind, BaseModel)), None)
        if nested is None:
            break
        current = nested
    return field, current


def _kinds(annotation: Any) -> Iterator[type]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        for argument in typing.get_args(annotation):
            yield from _kinds(argument)
    elif isinstance(annotation, type):
        yield annotation


def _shown(value: Any) -> str:
    """A value for a message: its repr, or its kind where that would fill the screen."""
    if isinstance(value, str):
        text = repr(value)
        return text if len(text) <= 60 else f"a str of {len(text)} characters"
    try:
        text = _REPR.repr(
            value
        )  # of some of it, since references within a YAML file can make a small one stand for all
    except ValueError:  # Python writes no number of so many digits
        return f"a {type(value).__name__} that is too long to be shown"
    return text if len(text) <= 60 else f"a {type(value).__name__} that is too long to be shown"
