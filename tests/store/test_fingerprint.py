"""How two identities differ."""

from __future__ import annotations

from lengthwise.store.fingerprint import describe_changes


def test_describe_changes_names_each_leaf_and_its_values() -> None:
    old, new = {"a": {"b": 1, "c": None}, "long": "x" * 100}, {"a": {"b": 2, "c": None}, "long": "y", "d": []}
    expected = 'a.b was 1, is 2; d was not there, is []; long was "' + "x" * 36 + '..., is "y"'
    assert describe_changes(old, new) == expected
    assert describe_changes(old, old) == ""
    assert describe_changes({}, {"a": None}) == "a was not there, is null"
    assert describe_changes({"a": {"b": None}}, {}) == "a.b was null, is not there"
