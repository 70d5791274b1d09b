"""A server's settings: where they come from, in which order, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from lengthwise.cli.serve_model import FLAGS
from lengthwise.errors import ConfigError
from lengthwise.export.server.settings import PREFIX, ServeSettings, resolve_settings


def test_flags_come_before_variables_before_the_file_before_defaults(tmp_path: Path) -> None:
    (tmp_path / "serve.yaml").write_text("max_items: 3\nport: 3\nhost: file\ndeadline: 3\n")
    variables = {f"{PREFIX}MAX_ITEMS": "2", f"{PREFIX}PORT": "2", f"{PREFIX}HOST": "0x10"}
    found = resolve_settings({"max_items": 1, "workers": None}, tmp_path / "serve.yaml", variables)
    assert (found.max_items, found.port, found.host, found.deadline) == (1, 2, "0x10", 3.0)
    assert found.drain == ServeSettings().drain
    assert found.host != ServeSettings().host == "127.0.0.1"


def test_a_key_of_digits_is_a_text() -> None:
    assert resolve_settings({}, None, {f"{PREFIX}API_KEY": "0123"}).api_key == "0123"


def test_the_key_is_not_shown() -> None:
    assert "secret" not in str(resolve_settings({"api_key": "secret"}).shown())
    assert resolve_settings({}, None, {}).shown()["api_key"] is None


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("PORT", "high", r"LENGTHWISE_PORT: 1 mistake\n  port = 'high'"),
        ("PORT", "70000", "port = 70000: .*65535"),
        ("DEADLINE", ".inf", "deadline = inf: .*finite"),
        ("DRAIN", "0", "drain = 0: .*greater than 0"),
        ("MAX_ITEMS", "{", "LENGTHWISE_MAX_ITEMS='{': cannot be read"),
        ("API_KEY", "", "api_key = ''"),
        ("VARIANT", "int4", "variant = 'int4'"),
    ],
)
def test_a_wrong_variable_is_named(variable: str, value: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        resolve_settings({}, None, {PREFIX + variable: value})


def test_a_text_longer_than_a_batch_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"max_text_tokens is 5000, but max_batch_tokens is 4096: .*raise that, or lower"
    ):
        resolve_settings({"max_text_tokens": 5_000}, None, {})
    with pytest.raises(ConfigError, match="max_queue_tokens is 4000, but a text may have 4096 tokens"):
        resolve_settings({"max_queue_tokens": 4_000}, None, {})
    assert resolve_settings({"max_text_tokens": 5_000, "max_batch_tokens": 5_000}, None, {}).max_text_tokens == 5_000


@pytest.mark.parametrize(
    ("text", "told"),
    [("max_itmes: 3", "did you mean 'max_items'"), ("- 3", "holds no settings"), ("a: [", "cannot be read")],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "serve.yaml").write_text(text)
    with pytest.raises(ConfigError, match=f"serve.yaml.*{told}|{told}"):
        resolve_settings({}, tmp_path / "serve.yaml", {})
    with pytest.raises(ConfigError, match=r"none\.yaml: the settings cannot be read"):
        resolve_settings({}, tmp_path / "none.yaml", {})


def test_every_setting_is_a_flag() -> None:
    assert list(FLAGS) == list(ServeSettings.model_fields)
