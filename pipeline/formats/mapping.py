"""The mapping: what a file of weights does not say of its model, as YAML of a dozen lines.

Names are those of the tensors in the file. What can be read off the shapes (cell, layers, directions, sizes, biases) is
not asked for; what cannot, such as the pooling and how texts become ids, has to be said.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from lengthwise.config import Pooling
from lengthwise.dataset_config import Names, NonEmpty
from lengthwise.errors import ConfigError
from lengthwise.util.settings import PositiveInt, Settings, parse_settings
from lengthwise.util.yaml_files import load_yaml

ONE_HOT = "one-hot"
Cleaning = Literal["lowercase", "nfc", "nfd", "nfkc", "nfkd", "strip_accents"]
TokenOrId = NonEmpty | Annotated[int, Field(ge=0)]


_WITHOUT_EFFECT = {
    "tokenizer": ("vocabulary", "key", "tokens", "first_id", "unit", "clean", "pattern", "start", "end"),
    "tokens": ("vocabulary", "key"),
}


class Replacement(Settings):
    """A regular expression, and what its matches are replaced by."""

    pattern: NonEmpty = Field(description="a regular expression of Python's re")
    by: str = Field("", description="what is put in place of each match, as it is; nothing by default")

    @field_validator("by")
    @classmethod
    def _by_is_taken_as_it_is(cls, value: str) -> str:
        if "\\" in value:
            raise ValueError(
                "groups and escapes such as \\1 and \\n are not put in, for it is taken as it is; match only what is"
                " replaced, with (?=...) and (?<=...) for what stands beside it, and write characters themselves"
            )
        return value


class TokensMapping(Settings):
    """How texts become ids."""

    tokenizer: NonEmpty | None = Field(None, description="a tokenizer.json; nothing else is then needed here")
    vocabulary: NonEmpty | None = Field(
        None, description="a file: JSON, a token per line, or a pickle of plain values; the weights' own file if null"
    )
    key: NonEmpty | None = Field(None, description="where in that file the vocabulary is: keys joined by dots")
    tokens: Names = Field((), description="the tokens themselves, in the order of their ids, instead of a file")
    first_id: Annotated[int, Field(ge=0)] = Field(0, description="the id of the first token of a list or text file")
    unit: Literal["words", "characters"] = Field("words", description="what has an id: words or characters")
    clean: Annotated[tuple[Cleaning | Replacement, ...], Field(strict=False)] = Field(
        (), description="what is done to a text first, in order: lowercase, nfkc, ..., or {pattern: ..., by: ...}"
    )
    pattern: NonEmpty | None = Field(
        None, description="a regular expression of Python's re, each match a word; words are split at spaces if null"
    )
    unknown: TokenOrId | None = Field(
        None, description="token or id of what is not in the vocabulary; left out if null"
    )
    padding: TokenOrId | None = Field(None, description="token or id of the padding; 0 if null")
    start: TokenOrId | None = Field(None, description="token or id put before every text")
    end: TokenOrId | None = Field(None, description="token or id put after every text")
    max_length: PositiveInt | None = Field(None, description="tokens after which a text is cut, start and end included")
    unused_ids: bool = Field(False, description="whether the embedding may have rows that the vocabulary does not name")

    @model_validator(mode="after")
    def _nothing_is_without_effect(self) -> TokensMapping:
        given = {name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default}
        for owner, others in _WITHOUT_EFFECT.items():
            without = [name for name in others if name in given]
            if owner in given and without:
                raise ValueError(f"{without[0]} has no effect beside {owner}; leave one of them out")
        if self.pattern is not None and self.unit == "characters":
            raise ValueError("pattern is of words, but unit is characters; leave one of them out")
        return self


class DirectionMapping(Settings):
    """The tensors of one direction of a layer."""

    weight_ih: NonEmpty = Field(description="[gates x hidden, inputs]")
    weight_hh: NonEmpty = Field(description="[gates x hidden, hidden]")
    bias_ih: NonEmpty | None = Field(None, description="[gates x hidden]; zeros if null")
    bias_hh: NonEmpty | None = Field(None, description="[gates x hidden]; zeros if null")
    weight_hr: NonEmpty | None = Field(
        None,
        description="[projected, hidden], of an LSTM with proj_size: weight_hh is [gates x hidden, projected]",
    )

    def names(self) -> tuple[str | None, ...]:
        """Of weight_ih, weight_hh, bias_ih and bias_hh."""
        return self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh


class LayerMapping(Settings):
    """One recurrent layer."""

    forward: DirectionMapping = Field(description="the direction from a text's start to its end")
    reverse: DirectionMapping | None = Field(None, description="the other direction, if there is one")


class DenseMapping(Settings):
    """A Linear layer with an activation."""

    layer: NonEmpty = Field(description="its name: tensors NAME.weight and NAME.bias")
    activation: NonEmpty = Field("identity", description="identity, relu, tanh, sigmoid, gelu, ...")


class AttentionMapping(Settings):
    """The layers that score a token for attention pooling."""

    hidden: NonEmpty | None = Field(None, description="a Linear layer under tanh, before the score; none if null")
    score: NonEmpty = Field(description="a Linear layer with one output")
    masked: bool = Field(False, description="with padding that is read: whether the softmax leaves it out")


class ClassifierMapping(Settings):
    """A classifier."""

    layer: NonEmpty | None = Field(None, description="the Linear layer that gives the logits")
    dense: Annotated[tuple[DenseMapping, ...], Field(strict=False)] = Field((), description="layers before it")
    labels: Names = Field((), description="names of the labels, in the order of the logits")
    labels_key: NonEmpty | None = Field(None, description="where in the weights' file they are: keys joined by dots")
    activation: Literal["softmax", "sigmoid", "identity"] = Field("softmax", description="from logits to probabilities")
    per_token: bool = Field(
        False, description="whether the layer is applied to each token's state, and pooled after it"
    )

    @field_validator("labels", mode="before")
    @classmethod
    def _labels_may_be_other_scalars(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        for number, each in enumerate(value):
            if each is None or isinstance(each, bool | float):
                raise ValueError(
                    f"label {number} is {each!r} in YAML, not a text (so are no, yes, null, 1.0): quote it"
                )
        return tuple(str(each) if isinstance(each, int) else each for each in value)


class Mapping(Settings):
    """How a model's parts are found in its file."""

    weights: NonEmpty | None = Field(
        None, description="the file of weights, where the source is a folder or an archive"
    )
    embedding: NonEmpty | None = Field(
        None, description="the tensor of embeddings, or one-hot for a model without; found by its shape if null"
    )
    rnn: str | None = Field(
        None, description="what precedes .weight_ih_l0 in the names of the LSTM or GRU; found if null"
    )
    layers: Annotated[tuple[LayerMapping, ...], Field(strict=False)] = Field(
        (), description="the recurrent layers, where they are not named as PyTorch names them"
    )
    gates: NonEmpty | None = Field(None, description="the order of the gates, such as ifgo or iofg; PyTorch's if null")
    gate_activation: Literal["sigmoid", "hard_sigmoid_keras2", "hard_sigmoid_keras3"] | None = Field(
        None, description="what is applied to the gates; sigmoid if null, or what the file says"
    )
    merge: Literal["sum", "mean"] | None = Field(
        None, description="how the states of both directions become one; side by side if null"
    )
    pooling: Pooling | None = Field(None, description="how token states become one vector; weights do not say it")
    attention: AttentionMapping | None = Field(None, description="the score of attention pooling")
    dense: Annotated[tuple[DenseMapping, ...], Field(strict=False)] = Field((), description="layers after the pooling")
    normalize: bool = Field(False, description="whether every vector is scaled to length 1")
    classifier: ClassifierMapping | None = Field(None, description="a classifier, which reads the vector")
    padding: dict[str, Any] | None = Field(None, description="padding that is read, as in a checkpoint's config.json")
    tokens: TokensMapping = Field(TokensMapping(), description="how texts become ids")
    ignore: Names = Field((), description="tensors that are not needed; * stands for anything")


def load_mapping(path: Path) -> Mapping:
    """Read a mapping.

    Raises:
        ConfigError: the file cannot be read, or has mistakes; all of them are in the message.
    """
    data = load_yaml(path)
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: holds {type(data).__name__}, not a mapping; lengthwise import --inspect writes one")
    return parse_settings(Mapping, data, str(path))
