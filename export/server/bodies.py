"""What clients send: JSON of a few known shapes, read strictly, and refused in words that name the item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic_core import from_json

from lengthwise.errors import LengthwiseError

_TEXTS_SCHEMA = [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]
_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_IDS_SCHEMA = [_IDS, {"type": "array", "items": _IDS, "minItems": 1}]
Texts = Annotated[Any, WithJsonSchema({"oneOf": _TEXTS_SCHEMA, "description": "a text, or a list of texts"})]
Items = Annotated[
    Any,
    WithJsonSchema(
        {
            "anyOf": [*_TEXTS_SCHEMA, *_IDS_SCHEMA],
            "description": "a text, a list of texts, the ids of one text, or a list of ids; ids are read as they are",
        }
    ),
]


class Refused(LengthwiseError):
    """A request that is answered with an error of its own.

    Attributes:
        status: of HTTP.
        param: which part of the body, such as "input.3".
        code: for programs.
    """

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code


class Body(BaseModel):
    """Base of all bodies; what is not known is left alone, as other servers do."""

    model_config = ConfigDict(strict=True, protected_namespaces=())


class EmbedBody(Body):
    """Texts to vectors."""

    inputs: Texts = Field()
    truncate: bool = Field(False, description="cut a text that is too long at its end, instead of refusing it")
    normalize: bool = Field(False, description="scale every vector to length 1; one of zeros stays")


class TokenizeBody(Body):
    """Texts to tokens."""

    inputs: Texts = Field()
    add_special_tokens: bool = Field(True, description="put in what the model reads around a text")


class EmbeddingsBody(Body):
    """OpenAI's request for embeddings."""

    input: Items = Field()
    model: str = Field(description="the name that /v1/models tells")
    encoding_format: Literal["float", "base64"] = Field("float", description="base64 is of float32, little-endian")
    dimensions: Annotated[int, Field(ge=1)] | None = Field(None, description="only the width of the model's vectors")
    user: str | None = Field(None, description="not used")


class Tensor(Body):
    """A tensor of the Open Inference Protocol."""

    name: str
    shape: list[Annotated[int, Field(ge=0, lt=2**31)]]
    datatype: str
    data: Annotated[list[Any], WithJsonSchema({"type": "array", "items": {}})] = Field(
        description="flat, or nested as the shape says"
    )


class WantedOutput(Body):
    """An output that is asked for."""

    name: str


class InferBody(Body):
    """A request of the Open Inference Protocol: `text`, or `input_ids` and `attention_mask`."""

    id: str | None = None
    inputs: Annotated[list[Tensor], Field(min_length=1)]
    outputs: list[WantedOutput] | None = None


BodyT = TypeVar("BodyT", bound=Body)


def read_body(kind: type[BodyT], body: bytes) -> BodyT:
    """A body as what it should be.

    Raises:
        Refused: 400 where it is not JSON, 422 where it is another thing than was asked for.
    """
    try:
        values = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise Refused(400, f"the body is not JSON that can be read: {error}", code="invalid_json") from None
    if not isinstance(values, dict):
        raise Refused(422, f"the body is {_kind_of(values)}, not an object", code="invalid_body")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise Refused(422, f"{where}: {first['msg'][:200]}", param=where, code=first["type"]) from None


@dataclass(frozen=True)
class Given:
    """The items of a request: texts, or ids."""

    texts: Sequence[str] | None = None
    ids: Sequence[Sequence[int]] | None = None


def read_texts(value: Any, name: str, most: int) -> list[str]:
    """A text or a list of texts.

    Raises:
        Refused: 422 where it is not, 413 where there are more than `most`.
    """
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        raise Refused(422, f"{name} is {_kind_of(value)}, not a text or a list of texts", name, "invalid_type")
    _check_count(value, name, most)
    for index, text in enumerate(value):
        if not isinstance(text, str):
            raise _bad_item(name, index, f"is {_kind_of(text)}, not a text")
    return value


def read_items(value: Any, name: str, most: int) -> Given:
    """A text, a list of texts, ids, or a list of ids.

    Raises:
        Refused: as above.
    """
    if isinstance(value, list) and value and type(value[0]) is int:
        value = [value]
    if isinstance(value, list) and value and isinstance(value[0], list):
        _check_count(value, name, most)
        for index, row in enumerate(value):
            if not isinstance(row, list) or not row:
                problem = "is an empty list of ids" if row == [] else f"is {_kind_of(row)}, not a list of ids"
                raise _bad_item(name, index, problem)
            for number in row:
                if type(number) is not int:
                    raise _bad_item(name, index, f"holds {_kind_of(number)}, not only ids")
        return Given(ids=value)
    return Given(texts=read_texts(value, name, most))


def _check_count(items: list[Any], name: str, most: int) -> None:
    if not items:
        raise Refused(422, f"{name} is an empty list; give at least one", name, "empty")
    if len(items) > most:
        raise Refused(
            413, f"{name} has {len(items):,} items, but at most {most:,} are taken at a time", name, "too_many"
        )


def _bad_item(name: str, index: int, problem: str) -> Refused:
    return Refused(422, f"item {index} of {name} {problem}", f"{name}.{index}", "invalid_item")


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
