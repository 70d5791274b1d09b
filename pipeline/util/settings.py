"""Strict settings models, and error messages that list every mistake at once.

- Each mistake is reported with its path, the value found and the remedy, all in one error: otherwise a user runs a job
  three times to find three typos.
- Types are strict (`true` is not 1, `"64"` is not 64): YAML has types, and a silent conversion would hide a mistake.
- An unknown setting is refused, with the closest name or, if it was renamed, the new one.
"""

from __future__ import annotations

import difflib
import reprlib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from lengthwise.errors import ConfigError

PositiveInt = Annotated[int, Field(ge=1, lt=2**63)]
_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother = 3, 61, 61
_SHORTER_MESSAGES = {
    "model_type": "should be a section of settings; fill it in or leave it out",
    "tuple_type": "should be a list",
}


class Settings(BaseModel):
    """Base of every section: frozen, strict, and closed to unknown keys.

    Attributes:
        renamed: new name by old name, for settings of this section that were renamed. A setting that moved to another
            section has its whole path as the new name.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", protected_namespaces=())
    renamed: ClassVar[Mapping[str, str]] = {}

    @field_validator("*")
    @classmethod
    def _strings_are_encodable(cls, value: Any) -> Any:
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str) and ("\0" in text or text.encode(errors="ignore").decode() != text):
                raise ValueError(f"is {text!r}, which no file can hold; leave out the NUL or the lone surrogate")
        return value


SettingsT = TypeVar("SettingsT", bound=Settings)


def parse_settings(model: type[SettingsT], data: Any, origin: str) -> SettingsT:
    """Validate `data` as a `model`.

    Args:
        origin: where the data comes from, for messages.

    Raises:
        ConfigError: lists every mistake.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = [_explain(model, item) for item in error.errors()]
    count = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
    raise ConfigError("\n  ".join([f"{origin}: {count}", *lines]))


def _explain(model: type[BaseModel], item: Any) -> str:
    """One line per mistake: path, value, message, remedy."""
    path = ".".join(str(part) for part in item["loc"]) or "(the whole file)"
    value = format_value(item.get("input"))
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
    message = _SHORTER_MESSAGES.get(item["type"], item["msg"].removeprefix("Value error, "))
    if item["type"] == "value_error":
        return f"{path} {message}"
    return f"{path} = {value}: {message[0].lower()}{message[1:]}{remedy}"


def _find_field(model: type[BaseModel], loc: Sequence[str | int]) -> tuple[Any, type[BaseModel]]:
    """The last field that `loc` names on its way down, and the section in which it ends."""
    field, current = None, model
    for part in loc:
        if isinstance(part, int):  # in a list of sections
            continue
        if part not in current.model_fields:
            break
        field = current.model_fields[part]
        nested = next((kind for kind in _kinds(field.annotation) if issubclass(kind, BaseModel)), None)
        if nested is None:
            break
        current = nested
    return field, current


def _kinds(annotation: Any) -> Iterator[type]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, tuple):
        for argument in typing.get_args(annotation):
            yield from _kinds(argument)
    elif isinstance(annotation, type):
        yield annotation


def format_value(value: Any) -> str:
    """A value for a message: its repr, or its type if the repr is long."""
    if isinstance(value, str):
        text = repr(value)
        return text if len(text) <= 60 else f"a str of {len(text)} characters"
    try:
        text = _REPR.repr(value)  # abbreviated: a small YAML file with references can have a repr that fills memory
    except ValueError:  # an integer of too many digits
        return f"a {type(value).__name__} that is too long to be shown"
    return text if len(text) <= 60 else f"a {type(value).__name__} that is too long to be shown"
