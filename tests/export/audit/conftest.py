"""Fixtures of the tests of audits."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let quick audits ask all they ask, however busy the machine is."""
    monkeypatch.setattr("lengthwise.export.audit.run.QUICK_SECONDS", 600.0)
