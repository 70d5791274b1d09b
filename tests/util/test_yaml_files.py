"""YAML files in other encodings than UTF-8."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from lengthwise.errors import ConfigError
from lengthwise.util.yaml_files import load_yaml


def test_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(codecs.BOM_UTF8 + "name: café\n".encode())
    assert load_yaml(tmp_path / "run.yaml") == {"name": "café"}


@pytest.mark.parametrize(
    ("encoding", "line", "shown"),
    [("cp1252", 2, "0xe9"), ("utf-16", 1, "0xff")],
)
def test_error_names_the_byte_the_line_and_the_likely_encoding(
    tmp_path: Path, encoding: str, line: int, shown: str
) -> None:
    (tmp_path / "run.yaml").write_bytes("first: 1\nname: café\n".encode(encoding))
    pattern = rf"run\.yaml: .*line {line}: byte {shown} is not UTF-8; .* likely {encoding}\); save the file as UTF-8"
    with pytest.raises(ConfigError, match=pattern):
        load_yaml(tmp_path / "run.yaml")
