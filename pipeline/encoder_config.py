"""The parts of an encoder's configuration: poolings, Dense layers, labels, padding.

`lengthwise.config` composes them. A part that is not used is left out of files and identities, which are then those of
versions without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, field_validator

from lengthwise.dataset_config import Names
from lengthwise.util.settings import PositiveInt, Settings

Cell = Literal["lstm", "gru"]
GateActivation = Literal["sigmoid", "hard_sigmoid_keras2", "hard_sigmoid_keras3"]
# A hard gate is clip(slope x + 1/2, 0, 1); the sigmoid has no slope.
GATE_SLOPES: Mapping[GateActivation, float | None] = MappingProxyType(
    {"sigmoid": None, "hard_sigmoid_keras2": 0.2, "hard_sigmoid_keras3": 1 / 6}
)
Activation = Literal["identity", "relu", "tanh", "sigmoid", "gelu", "silu", "elu", "leaky_relu"]
PoolingPart = Literal["last", "first", "end", "mean", "max", "sum", "attention"]
POOLING_PARTS: tuple[str, ...] = get_args(PoolingPart)
_MOST_PADDING = 2**20  # tokens


def _check_pooling(value: str) -> str:
    parts = value.split("_")
    unknown = [part for part in parts if part not in POOLING_PARTS]
    if unknown or len(set(parts)) != len(parts):
        problem = f"{unknown[0]!r} is none of them" if unknown else "a part is there twice"
        parts_here = ", ".join(POOLING_PARTS)
        raise ValueError(
            f"is {value!r}, but {problem}; write one of {parts_here}, or several joined by _ as in mean_last"
        )
    return value


Pooling = Annotated[str, AfterValidator(_check_pooling)]


class DenseLayer(Settings):
    """A Linear layer and a function of each of its values."""

    dim: PositiveInt = Field(description="width of its output")
    activation: Activation = Field("tanh", description=f"one of {', '.join(get_args(Activation))}")
    bias: bool = Field(True, description="whether a bias is added")


DenseLayers = Annotated[tuple[DenseLayer, ...], Field(strict=False)]


class ClassifierSettings(Settings):
    """Labels that are computed from a text's vector, as it is given out."""

    labels: Names = Field(description="the names of the labels, in the order of the logits")
    dense: DenseLayers = Field((), description="Dense layers between the vector and the logits")
    activation: Literal["softmax", "sigmoid", "identity"] = Field(
        "softmax",
        description="from logits to probabilities: softmax (one label per text), sigmoid (each label on its own), or"
        " identity (they are scores already)",
    )

    @field_validator("labels")
    @classmethod
    def _labels_differ(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if not labels:
            raise ValueError("is empty; name the labels in the order of the logits, or leave the classifier out")
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"has {twice[0]!r} twice; give every logit a name of its own")
        return labels


class PaddingSettings(Settings):
    """Padding that is part of the function: a text is read with it, as the model was trained to.

    The padding is a fixed one, so a vector still depends on the text and the model alone.
    """

    to: Annotated[PositiveInt, Field(le=_MOST_PADDING)] = Field(
        description="tokens up to which a shorter text is filled with the padding token"
    )
    side: Literal["post", "pre"] = Field("post", description="whether padding is put after the text or before it")
    truncate: Literal["post", "pre"] | None = Field(
        "post",
        description="which end of a longer text is cut off: post (its end) or pre (its beginning); none if null",
    )
    read: Literal[True] = Field(
        True, description="only true: leave padding out for a model that does not read it, which is the usual case"
    )
