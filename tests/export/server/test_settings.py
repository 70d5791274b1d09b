"""A server's settings: their sources, the precedence of the sources, and the mistakes that are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from helpers.cli import run_as_user
from lengthwise.cli.serve_model import main
from lengthwise.config import Variant
from lengthwise.errors import ConfigError
from lengthwise.export.server.options import RENAMED_OPTIONS, Graph
from lengthwise.export.server.settings import PREFIX, ServeSettings, resolve_settings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)


def test_precedence_is_flags_variables_file_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "serve.yaml").write_text("max_items: 3\nport: 3\nhost: file\nrequest_timeout: 3\n")
    for name, value in {"MAX_ITEMS": "2", "PORT": "2", "HOST": "0x10"}.items():
        monkeypatch.setenv(PREFIX + name, value)
    found = resolve_settings({"max_items": 1, "workers": None}, tmp_path / "serve.yaml")
    assert (found.max_items, found.port, found.host, found.request_timeout) == (1, 2, "0x10", 3.0)
    assert found.shutdown_timeout == ServeSettings().shutdown_timeout
    assert found.host != ServeSettings().host == "127.0.0.1"


def test_api_key_of_digits_stays_a_string(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}API_KEY", "0123")
    assert resolve_settings({}).api_key == "0123"


@pytest.mark.parametrize("value", ["null", "none", "~", "false"])
def test_api_key_that_looks_like_null_is_a_key(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}API_KEY", value)
    assert resolve_settings({}).api_key == value


def test_api_key_is_redacted() -> None:
    assert "secret" not in str(resolve_settings({"api_key": "secret"}).redacted())
    assert resolve_settings({}).redacted()["api_key"] is None


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("PORT", "high", r"LENGTHWISE_PORT: 1 mistake\n  port = 'high': .*valid integer.*\(port to listen on"),
        ("PORT", "70000", "port = 70000: .*65535"),
        ("REQUEST_TIMEOUT", "inf", "request_timeout = .*inf.*: .*less than or equal to"),
        ("REQUEST_TIMEOUT", "nan", "request_timeout = .*nan"),
        ("SHUTDOWN_TIMEOUT", "0", "shutdown_timeout = .*: .*greater than 0"),
        ("MAX_ITEMS", "{", "LENGTHWISE_MAX_ITEMS: 1 mistake\n  max_items = '{'"),
        ("API_KEY", "", "api_key = ''"),
        ("VARIANT", "int4", "variant = 'int4'"),
    ],
)
def test_mistake_in_a_variable_is_reported(
    variable: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PREFIX + variable, value)
    with pytest.raises(ConfigError, match=message):
        resolve_settings({})


def test_text_longer_than_a_batch_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"max_text_tokens is 5000, but max_batch_tokens is 4096: .*raise that, or lower"
    ):
        resolve_settings({"max_text_tokens": 5_000})
    with pytest.raises(ConfigError, match="max_queue_tokens is 4000, but a text may have 4096 tokens"):
        resolve_settings({"max_queue_tokens": 4_000})
    assert resolve_settings({"max_text_tokens": 5_000, "max_batch_tokens": 5_000}).max_text_tokens == 5_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_itmes: 3", "did you mean 'max_items'"),
        ("- 3", "holds a list, not settings"),
        ("a: [", "not valid YAML"),
        ("port: 1\nport: 2", "'port' is written twice"),
        ("max_items: '64'", "max_items = '64'"),
        ("max_items: true", "max_items = True"),
    ],
)
def test_mistake_in_a_file_is_reported(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "serve.yaml").write_text(text)
    with pytest.raises(ConfigError, match=f"(?s)serve.yaml.*{message}"):
        resolve_settings({}, tmp_path / "serve.yaml")


def test_missing_file_is_reported_and_empty_file_gives_defaults(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: the configuration cannot be read"):
        resolve_settings({}, tmp_path / "none.yaml")
    (tmp_path / "serve.yaml").write_text("# nothing set\n")
    assert resolve_settings({}, tmp_path / "serve.yaml") == ServeSettings()


def test_every_mistake_of_every_source_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "serve.yaml").write_text("max_itmes: 3\ndrain: 4\n")
    monkeypatch.setenv(f"{PREFIX}PORT", "high")
    monkeypatch.setenv(f"{PREFIX}CANARY", "5")
    with pytest.raises(ConfigError, match="5 mistakes") as caught:
        resolve_settings({"max_items": 0}, tmp_path / "serve.yaml")
    for words in ("serve.yaml", "LENGTHWISE_PORT", "--max-items", "max_itmes", "'shutdown_timeout'", "'self_check_i"):
        assert words in str(caught.value)


@pytest.mark.parametrize(("old", "new"), RENAMED_OPTIONS.items())
@pytest.mark.parametrize("source", ["flag", "variable", "file"])
def test_old_name_is_refused_with_the_new_one(
    tmp_path: Path, old: str, new: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["artifact"]
    if source == "flag":
        arguments += [f"--{old}", "3"]
    elif source == "variable":
        monkeypatch.setenv(PREFIX + old.upper(), "3")
    else:
        (tmp_path / "serve.yaml").write_text(f"{old}: 3\n")
        arguments += ["--config", str(tmp_path / "serve.yaml")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert f"{old} = " in result.stderr
    assert f"was renamed; write {new!r} instead" in result.stderr


def test_every_setting_has_a_flag_of_its_type() -> None:
    flags = {parameter.name: parameter.type.name for parameter in main.params}
    expected = {int: "integer", float: "float"}
    for name, field in ServeSettings.model_fields.items():
        assert flags[name] == expected.get(field.annotation, flags[name])
        assert field.description
    assert flags["workers"] == "integer"
    assert flags["host"] == flags["variant"] == "text"


def test_graphs_equal_the_variants_of_a_run() -> None:
    assert Graph == Variant


def test_help_lists_every_setting_and_its_default() -> None:
    text = " ".join(run_as_user("serve_model", "--help").stdout.split())
    for name in ServeSettings.model_fields:
        assert f"--{name.replace('_', '-')} " in text
    assert "[default: 65536]" in text
    assert "--deadline" not in text
