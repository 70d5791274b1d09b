"""Fixtures of stores: closed after each test, and folders at URLs in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from helpers.stores import close_stores


@pytest.fixture(autouse=True)
def _close_stores() -> Iterator[None]:
    yield
    close_stores()


@pytest.fixture(autouse=True)
def _settle_immediately(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease is acquired without waiting for a simultaneous writer."""
    monkeypatch.setattr("lengthwise.store.lease.SETTLE_SECONDS", 0.0)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A URL in memory that no other test uses."""
    return f"memory://{tmp_path.parent.name}-{tmp_path.name}"


@pytest.fixture
def memory() -> Any:
    return fsspec.filesystem("memory")
