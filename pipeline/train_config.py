"""The settings of training: what an encoder learns from, and how.

- Sources are a list, since their order means nothing and a kind may occur several times. Which settings a kind has is
  checked here, so that one that would have no effect is refused.
- A source's `weight` is the factor of its loss and `share` how often it has a batch. A step's loss is the sum over the
  sources that have a batch in it.
- docs/quality.md has the short runs by which settings were compared so far.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from lengthwise.dataset_config import DatasetSettings, Names, NonEmpty
from lengthwise.util.settings import PositiveInt, Settings

SourceKind = Literal["teacher", "vectors", "pairs", "labels"]
Loss = Literal["cosine", "mse", "cross_entropy", "contrastive", "triplet"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
AutoPrecision = Literal["auto", "fp32", "bf16"]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, lt=2**63)]

LOSSES: Mapping[str, tuple[Loss, ...]] = MappingProxyType(  # of each kind; the first is the default
    {
        "teacher": ("cosine", "mse"),
        "vectors": ("cosine", "mse"),
        "pairs": ("contrastive", "triplet"),
        "labels": ("cross_entropy", "contrastive"),
    }
)
_SETTINGS_OF: Mapping[str, tuple[str, ...]] = MappingProxyType(  # which of the optional settings a kind has
    {
        "teacher": ("max_tokens",),
        "vectors": ("vector_column", "max_tokens"),
        "pairs": (
            *("columns", "negative_columns", "temperature", "group", "symmetric", "negatives", "in_batch_negatives"),
            *("window", "margin", "group_column"),
        ),
        "labels": ("label_column", "temperature", "max_tokens"),
    }
)

_SETTINGS_OF_LOSS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"contrastive": ("temperature", "symmetric"), "triplet": ("margin",)}
)


class SourceSettings(Settings):
    """One dataset to learn from, and what is learned from it."""

    kind: SourceKind = Field(
        description="teacher: texts and the teacher's vectors; vectors: texts and a column of vectors; pairs: texts of"
        " the same meaning; labels: texts and their classes"
    )
    dataset: DatasetSettings | None = Field(None, description="where its rows come from; the run's dataset if null")
    weight: Positive = Field(1.0, description="factor of its loss")
    share: Positive = Field(
        1.0, description="how often it has a batch, relative to the other sources; the largest has one in every step"
    )
    max_tokens: PositiveInt | None = Field(
        None,
        description="limit of its batches' cells, for texts that are longer than those of other sources; the run's"
        " max_tokens if null",
    )
    loss: Loss | None = Field(
        None,
        description="cosine or mse for vectors, contrastive or triplet for pairs, cross_entropy or contrastive for"
        " labels; the first of these if null",
    )
    vector_column: NonEmpty = Field("embedding", description="the column of vectors, for the kind vectors")
    columns: Names = Field(("anchor", "positive"), description="the two columns of texts, for the kind pairs")
    negative_columns: Names = Field(
        (), description="columns of texts that are no match, for the kind pairs; null where a row has none"
    )
    label_column: NonEmpty = Field("label", description="the column of classes, for the kind labels")
    temperature: Positive = Field(0.05, description="divides the cosines of a contrastive loss")
    margin: Positive = Field(
        0.1, description="by how much more the positive's cosine is to be than a negative's, for the loss triplet"
    )
    symmetric: bool = Field(False, description="also find the anchor by its positive, for the kind pairs")
    negatives: Literal["own", "all"] = Field(
        "own", description="whether a text of negative_columns is a negative of its own pair or of the whole group"
    )
    in_batch_negatives: bool = Field(
        True,
        description="whether the other pairs of the group are negatives too; if not, a pair is compared with its"
        " negative_columns alone, which changes the distances between other texts least",
    )
    window: PositiveInt | None = Field(
        4,
        description="a group is drawn from so many groups of pairs of like lengths, which makes it fast; from all pairs"
        " if null",
    )
    group: PositiveInt = Field(192, description="pairs whose texts are compared with each other, for the kind pairs")
    group_column: NonEmpty | None = Field(
        None,
        description="the pairs of a group have the same value of this column, such as their source or subject, which"
        " makes the others harder to tell from the match; any pairs if null",
    )

    @field_validator("loss")
    @classmethod
    def _loss_fits_the_kind(cls, loss: Loss | None, info: ValidationInfo) -> Loss | None:
        losses = LOSSES.get(info.data.get("kind", ""))
        if loss is not None and losses is not None and loss not in losses:
            raise ValueError(f"is {loss!r}, but a source of {info.data['kind']} has {' or '.join(losses)}")
        return loss

    @field_validator("columns")
    @classmethod
    def _pairs_have_two_columns(cls, columns: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(columns)) != 2 or len(columns) != 2:
            raise ValueError(f"is {list(columns)}; name two, e.g. [anchor, positive]")
        return columns

    @field_validator("negative_columns")
    @classmethod
    def _negatives_are_other_columns(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        every = [*names, *info.data.get("columns", ())]
        twice = sorted({name for name in every if every.count(name) > 1})
        if twice:
            raise ValueError(f"is {list(names)}, but {', '.join(twice)} is named twice; name each column once")
        return names

    @field_validator("group_column")
    @classmethod
    def _group_column_is_another(cls, name: str | None, info: ValidationInfo) -> str | None:
        if name in (*info.data.get("columns", ()), *info.data.get("negative_columns", ())):
            raise ValueError(f"is {name!r}, a column of texts; name one that says what pairs have in common")
        return name

    @field_validator("group")
    @classmethod
    def _group_has_negatives(cls, group: int) -> int:
        if group < 2:
            raise ValueError(
                f"is {group}, but a pair is compared with the other pairs of its group; set it to 2 or more"
            )
        return group

    @model_validator(mode="after")
    def _settings_fit_the_kind(self) -> SourceSettings:
        optional = {name for names in _SETTINGS_OF.values() for name in names} - set(_SETTINGS_OF[self.kind])
        fields = type(self).model_fields
        wrong = sorted(name for name in optional if getattr(self, name) != fields[name].default)
        if wrong:
            raise ValueError(
                f"sets {', '.join(wrong)}, which a source of the kind {self.kind} does not have; remove it"
            )
        for name in sorted({name for names in _SETTINGS_OF_LOSS.values() for name in names}):
            value = getattr(self, name)
            if value != fields[name].default and name not in _SETTINGS_OF_LOSS.get(self.objective, ()):
                raise ValueError(f"sets {name} = {value}, which the loss {self.objective} does not have; remove it")
        if not self.negative_columns and self.negatives != fields["negatives"].default:
            raise ValueError(f"sets negatives = {self.negatives!r}, but no negative_columns; name them, or remove it")
        if not self.in_batch_negatives and (self.symmetric or not self.negative_columns):
            raise ValueError("sets in_batch_negatives = false, which needs negative_columns, and symmetric = false")
        return self

    @property
    def objective(self) -> Loss:
        """The loss, also where it is not set."""
        return self.loss or LOSSES[self.kind][0]


class InitSettings(Settings):
    """The weights that training begins with."""

    checkpoint: str | None = Field(
        None, description="a checkpoint to go on from, whose shape and tokenizer are kept; new weights if null"
    )
    embedding: Literal["teacher", "teacher_words", "random"] | None = Field(
        None,
        description="the principal components of the teacher's vectors of single tokens, or of its word embeddings; or"
        " random. If null, the first of them that the teacher has",
    )
    frequency_weight: Positive | None = Field(
        1e-3,
        description="a token of the share p of the texts' tokens has its embedding times a / (a + p), which is a;"
        " not weighted if null",
    )
    embedding_scale: Positive = Field(0.3, description="root mean square of the initial embedding's values")
    projection_scale: Positive = Field(
        0.3, description="factor of the initial projection's weights where there is a static residual"
    )
    words: Count = Field(
        0,
        description="add so many whole words to the teacher's WordPiece tokenizer, those whose tokens save the training"
        " texts most of theirs",
    )
    vocabulary: PositiveInt | None = Field(
        None, description="keep only so many tokens, those that occur most often; all if null"
    )


class StaticSettings(Settings):
    """The first part of a run, in which embedding and static residual learn vectors and pairs without the LSTM.

    Sources of pairs have a group in every step, and count by their weight times their share.
    """

    epochs: NotNegative = Field(
        3.0, description="passes over the sources of vectors, which take little time; 0 for none"
    )
    batch_size: PositiveInt = Field(1_024, description="texts of a step, and pairs of a group")
    learning_rate: Positive = Field(3e-3, description="the highest learning rate")
    embedding_learning_rate: Positive = Field(1e-2, description="that of the embedding table")


class ValidationSettings(Settings):
    """Rows that are held out of every source, and what is done with their loss."""

    rows: Count = Field(1_000, description="rows per source, at most a tenth of them; 0 for no validation")
    every: PositiveInt = Field(500, description="steps between two validations")
    patience: PositiveInt | None = Field(
        None, description="stop after so many validations without a lower loss; never if null"
    )


class TrainSettings(Settings):
    """What an encoder learns from, and how. The new encoder is written to model.path."""

    renamed = MappingProxyType({"batch_size": "max_tokens", "lr": "learning_rate", "steps": "max_steps"})

    sources: Annotated[tuple[SourceSettings, ...], Field(strict=False)] = Field(
        (), description="the datasets to learn from"
    )
    teacher: str | None = Field(
        None, description="the folder of a sentence-transformers model, an ONNX embedding model, or one of Lengthwise"
    )
    teacher_precision: AutoPrecision = Field(
        "auto", description="in which PyTorch runs the teacher; auto: bf16 where the processor has it, else fp32"
    )
    teacher_dtype: Literal["float16", "float32"] = Field("float16", description="how the teacher's vectors are cached")
    cache: str | None = Field(None, description="the folder of the teacher's vectors; in train.output if null")
    output: str = Field("training", description="the folder of checkpoints, log, curves and report")
    init: InitSettings = InitSettings()
    static: StaticSettings = StaticSettings()
    validation: ValidationSettings = ValidationSettings()
    epochs: Positive | None = Field(
        None, description="passes over the first source; if null, 1, or as many as max_steps allows"
    )
    max_steps: PositiveInt | None = Field(None, description="end after so many steps; after the epochs if null")
    max_minutes: Positive | None = Field(
        None, description="stop after this time; the learning rate follows the steps, and may not have fallen by then"
    )
    max_tokens: PositiveInt = Field(4_096, description="limit of a batch's cells (rows x longest row)")
    max_length: PositiveInt | None = Field(128, description="training texts are cut after so many tokens")
    noise: BelowOne = Field(
        0.0, description="how far lengths are disturbed before texts are grouped by them, as a share of the length"
    )
    learning_rate: Positive = Field(2e-3, description="the highest learning rate")
    embedding_learning_rate: NotNegative = Field(1e-3, description="that of the embedding table; 0 keeps it as it is")
    warmup: Count = Field(
        200, description="steps in which the learning rate rises to its highest, at most a tenth of all"
    )
    decay: Literal["linear", "cosine", "none"] = Field("cosine", description="how the learning rate falls")
    final_rate: Share = Field(0.01, description="where it falls to, as a share of the highest")
    weight_decay: NotNegative = Field(0.0, description="of AdamW; embeddings and biases are left out")
    betas: Annotated[tuple[BelowOne, BelowOne], Field(strict=False)] = Field((0.9, 0.98), description="of AdamW")
    clip_norm: Positive | None = Field(1.0, description="limit of the gradient's norm; none if null")
    accumulate: PositiveInt = Field(1, description="batches per step of the optimizer")
    average: BelowOne = Field(
        0.0, description="decay of a moving average of the weights, which is what is validated and saved; none if 0"
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(0, description="of the order of rows and the held-out rows")
    device: Literal["cpu", "cuda", "auto"] = Field("auto", description="where the encoder is trained")
    precision: AutoPrecision = Field(
        "auto",
        description="in which the LSTM is computed in training; auto: bf16 where the processor has it, else fp32",
    )
    threads: PositiveInt | None = Field(
        None,
        description="threads on a CPU, as many as PyTorch has if null; with the same number, a repeated run is equal to"
        " the byte",
    )
    checkpoint_every: PositiveInt = Field(500, description="steps between two checkpoints")
    log_every: PositiveInt = Field(20, description="steps between two lines of the log")

    @model_validator(mode="after")
    def _there_is_a_teacher(self) -> TrainSettings:
        if self.teacher is None and any(source.kind == "teacher" for source in self.sources):
            raise ValueError("has a source of the kind teacher, but no teacher; set train.teacher to its folder")
        if self.teacher is None and self.init.embedding == "teacher":
            raise ValueError("has init.embedding = 'teacher', but no teacher; set train.teacher to its folder")
        return self
