"""Hashes a run's identity, and describes how two identities differ.

An identity is everything that a byte of a run's vectors depends on, as JSON-ready values.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_ABSENT = object()


def identity_hash(identity: Mapping[str, Any]) -> str:
    """sha256 (hex) of an identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def describe_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What differs between two identities, in words; empty where nothing does."""
    flat_old, flat_new = _flat(old), _flat(new)
    names = sorted(flat_old.keys() | flat_new.keys())
    pairs = ((name, flat_old.get(name, _ABSENT), flat_new.get(name, _ABSENT)) for name in names)
    return "; ".join(f"{name} was {_short(was)}, is {_short(now)}" for name, was, now in pairs if was != now)


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """The leaves of nested mappings by their dotted paths."""
    if not isinstance(value, Mapping):
        return {path: value}
    return {
        name: leaf
        for key, inner in value.items()
        for name, leaf in _flat(inner, f"{path}.{key}" if path else key).items()
    }


def _short(value: Any) -> str:
    if value is _ABSENT:
        return "not there"
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
