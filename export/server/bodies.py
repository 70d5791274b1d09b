"""Request bodies: models of the JSON that is accepted, and readers whose errors name the item that is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic_core import from_json

from lengthwise.export.server.errors import RequestError

_TEXTS_SCHEMA = [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]
_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_IDS_SCHEMA = [_IDS, {"type": "array", "items": _IDS, "minItems": 1}]
_ONE_TEXT = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 1}
Texts = Annotated[Any, WithJsonSchema({"oneOf": _TEXTS_SCHEMA, "description": "a text, or a list of texts"})]
TextsOrIds = Annotated[
    Any,
    WithJsonSchema(
        {
            "anyOf": [*_TEXTS_SCHEMA, *_IDS_SCHEMA],
            "description": "a text, a list of texts, the ids of a text, or a list of these; ids get no special tokens",
        }
    ),
]


Dimensions = Annotated[int, Field(ge=1)] | None
Flag = Annotated[bool, WithJsonSchema({"type": ["boolean", "null"]})]


class Body(BaseModel):
    """Base of all bodies; unknown fields are ignored, as in other servers, and null means an optional one's default."""

    model_config = ConfigDict(strict=True, protected_namespaces=())


class EmbedBody(Body):
    """POST /embed."""

    inputs: Texts = Field()
    truncate: Flag = Field(False, description="truncate a text that is too long instead of refusing it")
    normalize: Flag = Field(False, description="scale every vector to length 1, except vectors of zeros")
    truncation_direction: Literal["Left", "Right", "left", "right", None] = Field(
        None, description="texts are truncated on the right"
    )
    prompt_name: str | None = Field(None, description="must be null: the model has no prompts")
    dimensions: Dimensions = Field(None, description="must be the width of the model's vectors")


class PredictBody(Body):
    """POST /predict."""

    inputs: Annotated[
        Any,
        WithJsonSchema(
            {
                "oneOf": [
                    {"type": "string"},
                    {"type": "array", "items": _ONE_TEXT, "minItems": 1},
                    _ONE_TEXT,
                ],
                "description": "a text, or a list of lists of one text each; a list of two texts would be a pair",
            }
        ),
    ] = Field()
    truncate: Flag = Field(False, description="truncate a text that is too long instead of refusing it")
    truncation_direction: Literal["Left", "Right", "left", "right", None] = Field(
        None, description="texts are truncated on the right"
    )
    raw_scores: Flag = Field(False, description="give logits instead of probabilities")


class TokenizeBody(Body):
    """POST /tokenize."""

    inputs: Texts = Field()
    add_special_tokens: Flag = Field(True, description="add the special tokens of the model")


class EmbeddingsBody(Body):
    """POST /v1/embeddings, in OpenAI's format."""

    input: TextsOrIds = Field()
    model: str | None = Field(None, description="the name given by /v1/models")
    encoding_format: Literal["float", "base64", None] = Field(
        "float", description="base64 encodes little-endian float32"
    )
    dimensions: Dimensions = Field(None, description="must be the width of the model's vectors")
    user: str | None = Field(None, description="ignored")


class Tensor(Body):
    """A tensor of the Open Inference Protocol."""

    name: str
    shape: list[Annotated[int, Field(ge=0, lt=2**31)]]
    datatype: str
    data: Annotated[list[Any], WithJsonSchema({"type": "array", "items": {}})] = Field(
        description="flat, or nested according to the shape"
    )


class RequestedOutput(Body):
    """An output tensor of the Open Inference Protocol that the client requests."""

    name: str


class InferBody(Body):
    """An inference request of the Open Inference Protocol: `text`, or `input_ids` and `attention_mask`."""

    id: str | None = None
    inputs: Annotated[list[Tensor], Field(min_length=1)]
    outputs: list[RequestedOutput] | None = None


BodyT = TypeVar("BodyT", bound=Body)


def read_body(kind: type[BodyT], body: bytes) -> BodyT:
    """Parse and validate a body.

    Raises:
        RequestError: 400 if it is not JSON, 422 if it does not match the model.
    """
    try:
        values = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise RequestError(400, f"the body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(values, dict):
        raise RequestError(422, f"the body is {_kind_of(values)}, not an object", code="invalid_body")
    if None in values.values():
        fields = kind.model_fields
        values = {
            name: value
            for name, value in values.items()
            if value is not None or name not in fields or fields[name].is_required()
        }
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise RequestError(422, f"{where}: {first['msg'][:200]}", param=where, code=first["type"]) from None


@dataclass(frozen=True)
class Items:
    """The items of a request: texts or ids, the other is None."""

    texts: Sequence[str] | None = None
    ids: Sequence[Sequence[int]] | None = None


def read_texts(value: Any, name: str, limit: int) -> list[str]:
    """The texts of a field that holds a text or a list of texts.

    Raises:
        RequestError: 422 if it holds something else, 413 if there are more than `limit`.
    """
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        raise RequestError(422, f"{name} is {_kind_of(value)}, not a text or a list of texts", name, "invalid_type")
    _check_count(value, name, limit)
    for index, text in enumerate(value):
        if not isinstance(text, str):
            raise _invalid_item(name, index, f"is {_kind_of(text)}, not a text")
    return value


def read_single_texts(value: Any, name: str, limit: int) -> list[str]:
    """The texts of a field as Text Embeddings Inference has it: a text, or a list of lists of one text each.

    Raises:
        RequestError: 422 if it holds something else, a pair of texts among them, 413 if there are more than `limit`.
    """
    if isinstance(value, list) and value and isinstance(value[0], list):
        _check_count(value, name, limit)
        for index, item in enumerate(value):
            if not isinstance(item, list) or len(item) != 1 or not isinstance(item[0], str):
                raise _invalid_item(name, index, "is not a list of one text")
        return [item[0] for item in value]
    if isinstance(value, list) and len(value) > 1:
        message = f"{name} is a list of {len(value)} texts, which would be a pair; write each in a list of its own"
        raise RequestError(422, message, name, "invalid_type")
    return read_texts(value, name, limit)


def read_items(value: Any, name: str, limit: int) -> Items:
    """The items of a field that holds a text, a list of texts, a list of ids, or a list of lists of ids.

    Raises:
        RequestError: 422 if it holds something else, 413 if there are more than `limit`.
    """
    if isinstance(value, list) and value and type(value[0]) is int:
        value = [value]
    if isinstance(value, list) and value and isinstance(value[0], list):
        _check_count(value, name, limit)
        for index, row in enumerate(value):
            if not isinstance(row, list) or not row:
                problem = "is an empty list of ids" if row == [] else f"is {_kind_of(row)}, not a list of ids"
                raise _invalid_item(name, index, problem)
            for number in row:
                if type(number) is not int:
                    raise _invalid_item(name, index, f"holds {_kind_of(number)}, not only ids")
        return Items(ids=value)
    return Items(texts=read_texts(value, name, limit))


def _check_count(items: list[Any], name: str, limit: int) -> None:
    if not items:
        raise RequestError(422, f"{name} is an empty list; give at least one", name, "empty")
    if len(items) > limit:
        raise RequestError(
            413, f"{name} has {len(items):,} items, but at most {limit:,} are accepted", name, "too_many"
        )


def _invalid_item(name: str, index: int, problem: str) -> RequestError:
    return RequestError(422, f"item {index} of {name} {problem}", f"{name}.{index}", "invalid_item")


def _kind_of(value: Any) -> str:
    kinds = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }
    return "null" if value is None else kinds.get(type(value), type(value).__name__)
