"""Records as JSON, with the numbers that it lacks."""

from __future__ import annotations

import json
import math
from typing import Any


def to_json(record: Any) -> str:
    """A record in UTF-8, one line for each value; infinity and NaN, which JSON lacks, are written as strings."""
    return json.dumps(_replace_non_finite(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _replace_non_finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _replace_non_finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_non_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
