"""The identity of a run's vectors: its hash, its file in the folder, and how two identities differ.

An identity is everything that a byte of the vectors depends on, as JSON-ready values.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from lengthwise.store.layout import IDENTITY
from lengthwise.store.protocol import Folder, read_record

_ABSENT = object()
_MAX_VALUE_CHARS = 40  # of a value in a message


def identity_hash(identity: Mapping[str, Any]) -> str:
    """sha256 (hex) of an identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def describe_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """How two identities differ, for messages; empty where they are equal."""
    flat_old, flat_new = _flatten(old), _flatten(new)
    names = sorted(flat_old.keys() | flat_new.keys())
    pairs = ((name, flat_old.get(name, _ABSENT), flat_new.get(name, _ABSENT)) for name in names)
    return "; ".join(f"{name} was {_shorten(was)}, is {_shorten(now)}" for name, was, now in pairs if was != now)


def write_identity(folder: Folder, identity: Mapping[str, Any]) -> None:
    """Write a folder's identity file, unless it is there already.

    Raises:
        OSError: it cannot be written.
    """
    record = {"sha256": identity_hash(identity), "depends_on": dict(identity)}
    contents = json.dumps(record, indent=2).encode() + b"\n"
    if folder.read(IDENTITY) != contents:
        folder.write(IDENTITY, contents)


def read_identity(folder: Folder) -> dict[str, Any] | None:
    """The identity of the vectors in a folder; None where it is not a folder of vectors.

    Raises:
        StoreError: the file is damaged, or cannot be read.
    """
    remedy = "the folder is damaged: start over with --fresh, or choose another encode.output"
    return read_record(folder, IDENTITY, _parse_identity, remedy)


def _parse_identity(contents: bytes) -> dict[str, Any]:
    value = json.loads(contents)
    identity = value["depends_on"]
    if value["sha256"] != identity_hash(identity) or not isinstance(identity, dict):
        raise ValueError("its sha256 does not match its contents")
    return identity


def _flatten(value: Any, path: str = "") -> dict[str, Any]:
    """The leaves of nested mappings by their dotted paths."""
    if not isinstance(value, Mapping):
        return {path: value}
    return {
        name: leaf
        for key, inner in value.items()
        for name, leaf in _flatten(inner, f"{path}.{key}" if path else key).items()
    }


def _shorten(value: Any) -> str:
    if value is _ABSENT:
        return "not there"
    text = json.dumps(value)
    return text if len(text) <= _MAX_VALUE_CHARS else text[: _MAX_VALUE_CHARS - 3] + "..."
