"""Validated settings of a server, from flags, environment variables, a YAML file and defaults, in this order."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

from pydantic import ValidationInfo, field_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from typing_extensions import Doc

from lengthwise.errors import ConfigError
from lengthwise.export.server.options import RENAMED_OPTIONS, ServeOptions
from lengthwise.util.settings import Settings, parse_settings
from lengthwise.util.yaml_files import load_yaml

PREFIX = "LENGTHWISE_"


class ServeSettings(Settings, BaseSettings, ServeOptions):
    """The validated options; see `ServeOptions` for the fields."""

    model_config = SettingsConfigDict(env_prefix=PREFIX)
    renamed: ClassVar[Mapping[str, str]] = RENAMED_OPTIONS

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only the arguments: `resolve_settings` alone reads the environment."""
        return (init_settings,)

    @field_validator("precision")
    @classmethod
    def _only_torch_has_precisions(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("engine", "torch") != "torch":
            raise ValueError(f"is {value!r}, but a graph has a precision of its own; set engine to torch, or a variant")
        return value

    @field_validator("variant")
    @classmethod
    def _only_onnx_has_variants(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("engine", "onnx") != "onnx":
            raise ValueError(f"is {value!r}, but only the engine onnx runs a graph; set a precision instead")
        return value

    @field_validator("max_text_tokens")
    @classmethod
    def _text_fits_into_a_batch(cls, value: int, info: ValidationInfo) -> int:
        limit = info.data.get("max_batch_tokens", value)
        if value > limit:
            raise ValueError(
                f"is {value}, but max_batch_tokens is {limit}: no batch holds such a text; raise that, or lower this"
            )
        return value

    @field_validator("max_queue_tokens")
    @classmethod
    def _text_fits_into_the_queue(cls, value: int, info: ValidationInfo) -> int:
        return _at_least(value, info, "max_text_tokens", "a text may have {} tokens")

    @field_validator("max_buffer_bytes")
    @classmethod
    def _body_fits_into_the_buffers(cls, value: int, info: ValidationInfo) -> int:
        return _at_least(value, info, "max_request_bytes", "a body may have {} bytes")

    @field_validator("model_name")
    @classmethod
    def _name_is_a_path(cls, value: str | None) -> str | None:
        if value is None:
            return value
        if {"", ".", ".."} & set(value.split("/")):
            raise ValueError(
                "clients cannot request it, because its parts between slashes are empty or dots; choose another"
            )
        if value.endswith(("/ready", "/infer")) or "/versions/" in value:
            raise ValueError("ends like a route of the Open Inference Protocol; choose another")
        return value

    @field_validator("cors_origin")
    @classmethod
    def _origins_are_origins(cls, value: str | None) -> str | None:
        for origin in split_origins(value or ""):
            if origin not in ("*", "null") and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#\s]+", origin):
                raise ValueError(
                    f"{origin!r} is not an origin; write it as in https://example.org:8080, without a path"
                )
        return value

    def redacted(self) -> dict[str, Any]:
        """The settings without the API key."""
        return {**self.model_dump(), "api_key": None if self.api_key is None else "(set)"}


def _at_least(value: int, info: ValidationInfo, name: str, limit: str) -> int:
    """A value that must not be less than the setting of this name, which is validated before it."""
    least = info.data.get(name, value)
    if value < least:
        raise ValueError(f"is {value}, but {limit.format(least)} ({name}); raise this")
    return value


def split_origins(value: str) -> list[str]:
    """The origins of `cors_origin`."""
    return value.replace(",", " ").split()


# The descriptions of the options appear in error messages, as those of every other setting do.
for _name, _hint in get_type_hints(ServeOptions, include_extras=True).items():
    ServeSettings.model_fields[_name].description = next(
        item.documentation for item in _hint.__metadata__ if isinstance(item, Doc)
    )


def resolve_settings(flags: Mapping[str, Any], config: Path | None = None) -> ServeSettings:
    """Combine the sources of settings: flags override variables, and these override the file.

    Args:
        flags: values by the name of the setting; None where a flag was not given.
        config: a YAML file of settings.

    Raises:
        ConfigError: lists every setting that is wrong, unknown or renamed.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    if config is not None:
        for name, value in _read_file(config).items():
            values[name], origins[name] = value, str(config)
    for name, value in _read_environment().items():
        values[name], origins[name] = value, PREFIX + name.upper()
    for name, value in flags.items():
        if value is not None:
            values[name], origins[name] = value, f"--{name.replace('_', '-')}"
    return parse_settings(ServeSettings, values, ", ".join(dict.fromkeys(origins.values())) or "settings")


def _read_file(path: Path) -> dict[str, Any]:
    data = load_yaml(path)
    if not isinstance(data, dict | None):
        raise ConfigError(f"{path}: holds a {type(data).__name__}, not settings; write one `name: value` per line")
    return {str(name): value for name, value in (data or {}).items()}


def _read_environment() -> dict[str, Any]:
    old = {name: os.environ.get(PREFIX + name.upper()) for name in RENAMED_OPTIONS}
    found = {name: value for name, value in old.items() if value is not None}
    return {**found, **EnvSettingsSource(ServeSettings)()}
