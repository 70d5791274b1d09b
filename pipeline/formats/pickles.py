"""Pickles as data: dictionaries, lists, texts and numbers are read, and nothing that a pickle names is imported.

A pickle is a program that may call any function. Here every class and function that it names is replaced by one that
does nothing but keep what it is given, so a tokenizer that was pickled as an object still shows its dictionaries.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

from lengthwise.errors import CheckpointError

_MAX_BYTES = 2**28
_BUILT_IN = {
    ("collections", "OrderedDict"): dict,
    ("collections", "defaultdict"): lambda *_: {},
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("__builtin__", "set"): set,
}


class Record:
    """An object of a class that was not imported; its attributes and items are kept as a dictionary."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Record:
        """Keep nothing of the arguments."""
        record = super().__new__(cls)
        record.__dict__["items"] = {}
        return record

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__["items"].update(state)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.__dict__["items"][key] = value

    def append(self, value: Any) -> None:
        """Keep an item of a class that is like a list."""
        self[len(self.__dict__["items"])] = value

    def extend(self, values: Any) -> None:
        """Keep several."""
        for value in values:
            self.append(value)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return _BUILT_IN.get((module, name), Record)

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("refers to other files")


def read_pickle(path: Path) -> Any:
    """The data in a pickle; objects are dictionaries of their attributes.

    Raises:
        CheckpointError: it is too large, or not a pickle.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise CheckpointError(
            f"{path}: a pickle of more than {_MAX_BYTES >> 20} MB; write its vocabulary to a JSON file"
        )
    try:
        content = _Unpickler(io.BytesIO(path.read_bytes())).load()
        return _plain(content)
    except Exception as error:  # a damaged pickle raises whatever its instructions lead to
        raise CheckpointError(f"{path}: not a pickle that can be read as data ({error}); write it as JSON") from error


def _plain(content: Any) -> Any:
    """Records as dictionaries. Each object is visited once: a pickle can name one a thousand times, or in itself."""
    seen: set[int] = set()
    whole = {"content": content}
    waiting: list[dict[Any, Any]] = [whole]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        for key, value in node.items():
            if isinstance(value, Record):
                node[key] = value.__dict__["items"]
            if isinstance(node[key], dict):
                waiting.append(node[key])
    return whole["content"]
