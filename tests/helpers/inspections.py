"""Inspections of small runs."""

from __future__ import annotations

from typing import Any

from lengthwise.config import RunConfig


def run_with(**sections: dict[str, Any]) -> RunConfig:
    return RunConfig.model_validate({"dataset": {"path": "in.txt"}, "model": {"path": "model"}, **sections})
