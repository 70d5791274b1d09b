"""JSON schemas of what the server answers."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

OBJECT: Schema = {"type": "object"}
VECTORS: Schema = {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}


def _array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


_STRING: Schema = {"type": "string"}
_INTEGER: Schema = {"type": "integer"}
_STRING_OR_NULL: Schema = {"type": ["string", "null"]}

ERROR = _object(
    error={"anyOf": [_STRING, _object(message=_STRING, type=_STRING, param=_STRING_OR_NULL, code=_STRING_OR_NULL)]}
)
_SCORES = _array(_object(score={"type": "number"}, label=_STRING))
PREDICTIONS: Schema = {"anyOf": [_SCORES, _array(_SCORES)]}
TOKENS = _array(_array(_object(id=_INTEGER, text=_STRING, special={"type": "boolean"})))
EMBEDDINGS = _object(
    object={"const": "list"},
    model=_STRING,
    data=_array(
        _object(
            object={"const": "embedding"},
            index=_INTEGER,
            embedding={"anyOf": [_array({"type": "number"}), _STRING]},
        )
    ),
    usage=_object(prompt_tokens=_INTEGER, total_tokens=_INTEGER),
)
