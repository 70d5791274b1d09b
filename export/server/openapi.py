"""The description of the HTTP interface: an OpenAPI 3.1 document for programs, and a page for people."""

from __future__ import annotations

import html
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response

from lengthwise import __version__
from lengthwise.export.server import schemas
from lengthwise.export.server.bodies import Body

_ERRORS = {
    "400": "the body is not JSON, or a parameter is not supported by the model",
    "401": "the API key is missing or wrong",
    "404": "no such model",
    "408": "the body did not arrive in time",
    "413": "too many bytes, items or tokens",
    "415": "the body is encoded, or not application/json",
    "422": "an item cannot be encoded; param holds its index",
    "429": "the queue is full; Retry-After says when to try again",
    "431": "the header has too many bytes or fields",
    "500": "the runtime failed",
    "503": "starting, failed, or shutting down",
    "504": "not computed in time",
}


@dataclass(frozen=True)
class Operation:
    """An operation: how it is routed, and how it is described.

    Attributes:
        handler: takes the API's state and the request.
        body: the model of the request's body; None where it has none.
        answer: the JSON schema of the answer with status 200; None where it is not JSON.
        errors: the other statuses, except 431, which any request may get.
        public: whether it is served without the API key.
        aliases: further paths, which are not described.
        described: whether the OpenAPI document lists it.
    """

    method: str
    path: str
    handler: Callable[[Any, Request], Awaitable[Response]]
    summary: str
    body: type[Body] | None = None
    answer: Mapping[str, Any] | None = None
    errors: tuple[str, ...] = ("401",)
    public: bool = False
    media: str = "application/json"
    aliases: tuple[str, ...] = ()
    described: bool = True


def describe(operations: Sequence[Operation], title: str, *, with_key: bool) -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    described = [operation for operation in operations if operation.described]
    bodies = [operation.body for operation in described if operation.body is not None]
    _, models = models_json_schema(
        [(body, "validation") for body in bodies], ref_template="#/components/schemas/{model}"
    )
    paths: dict[str, Any] = {}
    for operation in described:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _describe_operation(operation, with_key)
    components = {"schemas": {**models["$defs"], "Error": schemas.ERROR}}
    if with_key:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": f"Lengthwise: {title}", "version": __version__},
        "paths": paths,
        "components": components,
    }


def _describe_operation(operation: Operation, with_key: bool) -> dict[str, Any]:
    schema = {} if operation.answer is None else {"schema": operation.answer}
    responses: dict[str, Any] = {"200": {"description": "success", "content": {operation.media: schema}}}
    for status in sorted({*operation.errors, "431"}):
        if status != "401" or with_key:
            content = {
                "application/json": {
                    "schema": schemas.OBJECT if operation.public else {"$ref": "#/components/schemas/Error"}
                }
            }
            responses[status] = {"description": _ERRORS[status], "content": content}
    description: dict[str, Any] = {"summary": operation.summary, "responses": responses}
    if operation.body is not None:
        reference = {"$ref": f"#/components/schemas/{operation.body.__name__}"}
        description["requestBody"] = {"required": True, "content": {"application/json": {"schema": reference}}}
    if "{name}" in operation.path:
        description["parameters"] = [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}]
    if with_key and not operation.public:
        description["security"] = [{"key": []}]
    return description


def docs_page(document: Mapping[str, Any]) -> str:
    """The document as one HTML page, which loads nothing else."""
    title = html.escape(document["info"]["title"])
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        '<meta name="viewport" content="width=device-width"><style>body{font:16px/1.5 system-ui,sans-serif;'
        "max-width:50rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
        "code{font-family:ui-monospace,monospace}"
        "td{padding:.1rem .8rem .1rem 0;vertical-align:top}summary{cursor:pointer;margin:.4rem 0}</style></head>",
        f'<body><h1>{title}</h1><p>For programs: <a href="openapi.json">openapi.json</a>. <a href="./">Try it</a>.</p>',
    ]
    models = document["components"]["schemas"]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts.append(
                f"<details><summary><code>{method.upper()} {html.escape(path)}</code>"
                f" {html.escape(operation['summary'])}</summary>"
            )
            if "requestBody" in operation:
                reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
                parts.append(_fields(models[reference.rpartition("/")[2]]))
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
