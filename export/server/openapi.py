"""The description of the server's face for programs (OpenAPI 3.1) and for people."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic.json_schema import models_json_schema

from lengthwise import __version__
from lengthwise.export.server.bodies import Body, EmbedBody, EmbeddingsBody, InferBody, TokenizeBody

_ERRORS = {
    "400": "not JSON, or a parameter that the model cannot serve",
    "401": "the API key is missing or wrong",
    "404": "no such model",
    "408": "the body did not come in time",
    "413": "too many bytes, items or tokens",
    "415": "another media type than JSON, or an encoded body",
    "422": "an item that cannot be encoded; its index is in param",
    "429": "too much is waiting; Retry-After says when to come again",
    "500": "the runtime failed",
    "503": "starting, ill, or ending",
    "504": "not done in time",
}
_NUMBER = {"type": "number"}
_VECTOR = {"type": "array", "items": _NUMBER}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "object",
                    "required": ["message", "type", "param", "code"],
                    "properties": {
                        "message": {"type": "string"},
                        "type": {"type": "string"},
                        "param": {"type": ["string", "null"]},
                        "code": {"type": ["string", "null"]},
                    },
                },
            ]
        }
    },
}
_TOKEN = {
    "type": "object",
    "required": ["id", "text", "special"],
    "properties": {"id": {"type": "integer"}, "text": {"type": "string"}, "special": {"type": "boolean"}},
}
_EMBEDDINGS = {
    "type": "object",
    "required": ["object", "data", "model", "usage"],
    "properties": {
        "object": {"const": "list"},
        "model": {"type": "string"},
        "data": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["object", "index", "embedding"],
                "properties": {
                    "object": {"const": "embedding"},
                    "index": {"type": "integer"},
                    "embedding": {"anyOf": [_VECTOR, {"type": "string"}]},
                },
            },
        },
        "usage": {
            "type": "object",
            "required": ["prompt_tokens", "total_tokens"],
            "properties": {"prompt_tokens": {"type": "integer"}, "total_tokens": {"type": "integer"}},
        },
    },
}
_OBJECT = {"type": "object"}


@dataclass(frozen=True)
class Operation:
    """A route, as it is described.

    Attributes:
        body: what it takes; None for none.
        answer: the JSON schema of what it gives; None for what is not JSON.
        errors: its statuses beside 200.
        open: whether it asks for no key.
    """

    method: str
    path: str
    summary: str
    body: type[Body] | None = None
    answer: Mapping[str, Any] | None = None
    errors: tuple[str, ...] = ("401",)
    open: bool = False
    media: str = "application/json"


_WORK = ("400", "401", "408", "413", "415", "422", "429", "500", "503", "504")
OPERATIONS = (
    Operation("post", "/embed", "Texts to vectors", EmbedBody, {"type": "array", "items": _VECTOR}, _WORK),
    Operation("post", "/v1/embeddings", "OpenAI's embeddings", EmbeddingsBody, _EMBEDDINGS, (*_WORK, "404")),
    Operation(
        "post",
        "/tokenize",
        "Texts to tokens",
        TokenizeBody,
        {"type": "array", "items": {"type": "array", "items": _TOKEN}},
        _WORK,
    ),
    Operation("get", "/v1/models", "The model that is served", None, _OBJECT),
    Operation("get", "/info", "Model, limits and versions", None, _OBJECT),
    Operation("get", "/health/live", "Whether the process runs", None, _OBJECT, (), True),
    Operation("get", "/health/ready", "Whether it answers, and rightly", None, _OBJECT, ("503",), True),
    Operation("get", "/metrics", "For Prometheus", None, None, media="text/plain"),
    Operation("get", "/v2", "Open Inference Protocol: the server", None, _OBJECT),
    Operation("get", "/v2/health/live", "The same for the protocol", None, _OBJECT, (), True),
    Operation("get", "/v2/health/ready", "The same for the protocol", None, _OBJECT, ("503",), True),
    Operation("get", "/v2/models/{name}", "Its inputs and outputs", None, _OBJECT, ("401", "404")),
    Operation("get", "/v2/models/{name}/ready", "Whether the model is ready", None, _OBJECT, ("401", "404", "503")),
    Operation("post", "/v2/models/{name}/infer", "Open Inference Protocol", InferBody, _OBJECT, (*_WORK, "404")),
)


def describe(title: str, *, with_key: bool) -> dict[str, Any]:
    """The OpenAPI document."""
    bodies = [operation.body for operation in OPERATIONS if operation.body is not None]
    _, schemas = models_json_schema(
        [(body, "validation") for body in bodies], ref_template="#/components/schemas/{model}"
    )
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _described(operation, with_key)
    components = {"schemas": {**schemas["$defs"], "Error": _ERROR}}
    if with_key:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": f"Lengthwise: {title}", "version": __version__},
        "paths": paths,
        "components": components,
    }


def _described(operation: Operation, with_key: bool) -> dict[str, Any]:
    schema = {} if operation.answer is None else {"schema": operation.answer}
    responses: dict[str, Any] = {"200": {"description": "done", "content": {operation.media: schema}}}
    for status in operation.errors:
        if status != "401" or with_key:
            content = {
                "application/json": {"schema": _OBJECT if operation.open else {"$ref": "#/components/schemas/Error"}}
            }
            responses[status] = {"description": _ERRORS[status], "content": content}
    found: dict[str, Any] = {"summary": operation.summary, "responses": responses}
    if operation.body is not None:
        reference = {"$ref": f"#/components/schemas/{operation.body.__name__}"}
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": reference}}}
    if "{name}" in operation.path:
        found["parameters"] = [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}]
    if with_key and not operation.open:
        found["security"] = [{"key": []}]
    return found


def docs_page(document: Mapping[str, Any]) -> str:
    """The same for people, in one page that asks for nothing from elsewhere."""
    title = html.escape(document["info"]["title"])
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        '<meta name="viewport" content="width=device-width"><style>body{font:16px/1.5 system-ui,sans-serif;'
        "max-width:50rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
        "code{font-family:ui-monospace,monospace}"
        "td{padding:.1rem .8rem .1rem 0;vertical-align:top}summary{cursor:pointer;margin:.4rem 0}</style></head>",
        f'<body><h1>{title}</h1><p>For programs: <a href="openapi.json">openapi.json</a>. <a href="./">Try it</a>.</p>',
    ]
    schemas = document["components"]["schemas"]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts.append(
                f"<details><summary><code>{method.upper()} {html.escape(path)}</code>"
                f" {html.escape(operation['summary'])}</summary>"
            )
            if "requestBody" in operation:
                reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
                parts.append(_fields(schemas[reference.rpartition("/")[2]]))
            answers = "; ".join(
                f"{status} {answer['description']}" for status, answer in operation["responses"].items()
            )
            parts.append(f"<p>{html.escape(answers)}</p></details>")
    return "".join([*parts, "</body></html>"])


def _fields(schema: Mapping[str, Any]) -> str:
    rows = []
    for name, field in schema.get("properties", {}).items():
        note = field.get("description", "")
        if name in schema.get("required", []):
            note = f"{note} (required)" if note else "required"
        elif "default" in field:
            note = f"{note} (default {field['default']})"
        rows.append(f"<tr><td><code>{html.escape(name)}</code></td><td>{html.escape(note)}</td></tr>")
    return f"<table>{''.join(rows)}</table>"
