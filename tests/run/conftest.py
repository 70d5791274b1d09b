"""Fixtures of the tests of whole runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.engines import LookupEngine
from helpers.growing import write_rows
from helpers.texts import TEXTS
from lengthwise.tokens.tokenizer import TextTokenizer


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Makes a new folder for each of a property's examples."""
    return lambda: tmp_path_factory.mktemp("example")


@pytest.fixture(scope="module")
def lookup(tokenizer: TextTokenizer, encoder_config: Callable[..., Any]) -> LookupEngine:
    return LookupEngine(encoder_config())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An input of two files."""
    for name, rows in (("a", TEXTS[:4]), ("b", TEXTS[4:])):
        write_rows(tmp_path / f"in/{name}.jsonl", list(enumerate(rows)))
    return tmp_path
