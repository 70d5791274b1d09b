"""Marks of parametrised tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def heavy_but(kept: Iterable[Any], every: Iterable[Any]) -> list[Any]:
    """All parameters; those that are not kept run in `make test-all` alone."""
    kept, every = list(kept), list(every)
    assert all(each in every for each in kept), "a parameter that is kept is none"
    return [each if each in kept else pytest.param(each, marks=pytest.mark.heavy) for each in every]
