"""Records as JSON."""

from __future__ import annotations

import json

from lengthwise.util.json_text import to_json


def test_numbers_that_json_lacks_are_strings() -> None:
    text = to_json({"a": [1.5, float("inf")], "b": (float("nan"), "ü")})
    assert json.loads(text) == {"a": [1.5, "inf"], "b": ["nan", "ü"]}
    assert "ü" in text
    assert text.endswith("}\n")
