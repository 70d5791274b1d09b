"""What a server is told: by flag, environment or YAML file, in this order, and by default."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationInfo, field_validator

from lengthwise.config import PositiveInt, Settings, Variant, parse_settings
from lengthwise.errors import ConfigError

PREFIX = "LENGTHWISE_"
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=False)]


class ServeSettings(Settings):
    """A server's settings; each is a flag (`--max-items`) and a variable (`LENGTHWISE_MAX_ITEMS`) too."""

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 lets other machines in")
    port: Annotated[int, Field(ge=0, le=65_535)] = Field(8_000, description="port; 0 takes a free one")
    api_key: str | None = Field(None, min_length=1, description="asked for as a bearer token; better as a variable")
    model_name: str | None = Field(None, min_length=1, description="what clients call it; the folder's name if null")
    device: Literal["cpu", "cuda", "auto"] = Field("cpu", description="where the graph runs")
    variant: Variant | None = Field(None, description="the graph; the one that validation recommends if null")
    workers: PositiveInt | None = Field(None, description="batches at a time; one a core, on a GPU two, if null")
    max_batch_tokens: PositiveInt = Field(4_096, description="most cells (rows x longest) of a batch")
    max_text_tokens: PositiveInt = Field(4_096, description="most tokens of a text")
    max_items: PositiveInt = Field(1_024, description="most texts of a request")
    max_request_bytes: PositiveInt = Field(2 * 2**20, description="largest body of a request")
    max_queue_tokens: PositiveInt = Field(65_536, description="tokens that may wait; beyond, requests get 429")
    deadline: Seconds = Field(30.0, description="seconds that a request may take; beyond, it gets 504")
    canary: Seconds = Field(60.0, description="seconds between two checks of the golden vectors")
    notice: Annotated[float, Field(ge=0, allow_inf_nan=False, strict=False)] = Field(
        1.0, description="seconds that a server which is told to end still says so to those who ask"
    )
    drain: Seconds = Field(30.0, description="seconds that accepted requests have to be answered on ending")

    @field_validator("max_text_tokens")
    @classmethod
    def _texts_fit_into_a_batch(cls, value: int, info: ValidationInfo) -> int:
        most = info.data.get("max_batch_tokens", value)
        if value > most:
            raise ValueError(
                f"is {value}, but max_batch_tokens is {most}: such a text would fit into no batch; raise that, or"
                " lower this"
            )
        return value

    @field_validator("max_queue_tokens")
    @classmethod
    def _texts_fit_into_the_queue(cls, value: int, info: ValidationInfo) -> int:
        longest = info.data.get("max_text_tokens", value)
        if value < longest:
            raise ValueError(f"is {value}, but a text may have {longest} tokens (max_text_tokens); raise this")
        return value

    def shown(self) -> dict[str, Any]:
        """The settings, without the key."""
        return {**self.model_dump(), "api_key": None if self.api_key is None else "(set)"}


def resolve_settings(
    flags: Mapping[str, Any], config: Path | None = None, environment: Mapping[str, str] = os.environ
) -> ServeSettings:
    """Settings from where they are given; flags before variables before the file.

    Args:
        flags: those that were given, by the names of the settings.
        config: a YAML file of settings.

    Raises:
        ConfigError: one is wrong, or unknown; the message names it and where it comes from.
    """
    values: dict[str, Any] = {}
    origins = {}
    if config is not None:
        for name, value in _read(config).items():
            values[name], origins[name] = value, str(config)
    for name in ServeSettings.model_fields:
        variable = PREFIX + name.upper()
        if variable in environment:
            values[name], origins[name] = _typed(name, environment[variable]), variable
        if flags.get(name) is not None:
            values[name], origins[name] = flags[name], f"--{name.replace('_', '-')}"
    return parse_settings(ServeSettings, values, ", ".join(dict.fromkeys(origins.values())) or "settings")


def _typed(name: str, text: str) -> Any:
    """A variable's value: YAML, except where a text is wanted, which "1234" may be."""
    if name in ("api_key", "host", "model_name"):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{PREFIX}{name.upper()}={text!r}: cannot be read ({error})") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: the settings cannot be read ({error}); give a YAML file of them") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds no settings (name: value), but {type(values).__name__}")
    return {str(name): value for name, value in values.items()}
