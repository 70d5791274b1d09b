"""The table of operations, from which the routes and the OpenAPI description are made."""

from __future__ import annotations

from functools import lru_cache

import orjson
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from lengthwise.export.server import schemas
from lengthwise.export.server.api import PAGE_HEADERS, Api
from lengthwise.export.server.bodies import EmbedBody, EmbeddingsBody, InferBody, PredictBody, TokenizeBody
from lengthwise.export.server.openapi import Operation, describe, docs_page


async def _docs(api: Api, _: Request) -> Response:
    return HTMLResponse(_render(*_title(api))[1], headers=PAGE_HEADERS)


async def _openapi(api: Api, _: Request) -> Response:
    return Response(_render(*_title(api))[0], media_type="application/json")


def _title(api: Api) -> tuple[str, bool]:
    return "loading" if api.service is None else api.service.name, api.settings.api_key is not None


@lru_cache(maxsize=4)
def _render(title: str, with_key: bool) -> tuple[bytes, str]:
    """The document as JSON and as a page; cached, because anybody may request them and they take milliseconds."""
    document = describe(OPERATIONS, title, with_key=with_key)
    return orjson.dumps(document), docs_page(document)


_ENCODE_ERRORS = ("400", "401", "408", "413", "415", "422", "429", "500", "503", "504")
_MODEL = "/v2/models/{name}"
_VERSION = "/v2/models/{name}/versions/{version}"

OPERATIONS = (
    Operation(
        "POST", "/embed", Api.embed, "Vectors of texts", EmbedBody, schemas.VECTORS, _ENCODE_ERRORS, aliases=("/",)
    ),
    Operation(
        "POST",
        "/v1/embeddings",
        Api.embeddings,
        "Embeddings in OpenAI's format",
        EmbeddingsBody,
        schemas.EMBEDDINGS,
        (*_ENCODE_ERRORS, "404"),
    ),
    Operation("POST", "/predict", Api.predict, "Labels of texts", PredictBody, schemas.PREDICTIONS, _ENCODE_ERRORS),
    Operation("POST", "/tokenize", Api.tokenize, "Tokens of texts", TokenizeBody, schemas.TOKENS, _ENCODE_ERRORS),
    Operation("GET", "/v1/models", Api.models, "The served model", answer=schemas.OBJECT),
    Operation(
        "GET",
        "/v1/models/{name}",
        Api.model,
        "The served model, by its name",
        answer=schemas.OBJECT,
        errors=("401", "404"),
    ),
    Operation("GET", "/info", Api.info, "Model, limits and versions", answer=schemas.OBJECT),
    Operation(
        "GET", "/health/live", Api.live, "Whether the process runs", answer=schemas.OBJECT, errors=(), public=True
    ),
    Operation(
        "GET",
        "/health/ready",
        Api.ready,
        "Whether the model is loaded and reproduces its golden vectors",
        answer=schemas.OBJECT,
        errors=("503",),
        public=True,
        aliases=("/health",),
    ),
    Operation("GET", "/metrics", Api.prometheus, "Metrics for Prometheus", media="text/plain"),
    Operation("GET", "/v2", Api.server_metadata, "Open Inference Protocol: server metadata", answer=schemas.OBJECT),
    Operation(
        "GET",
        "/v2/health/live",
        Api.live,
        "Open Inference Protocol: server live",
        answer=schemas.OBJECT,
        errors=(),
        public=True,
    ),
    Operation(
        "GET",
        "/v2/health/ready",
        Api.ready,
        "Open Inference Protocol: server ready",
        answer=schemas.OBJECT,
        errors=("503",),
        public=True,
    ),
    Operation(
        "GET",
        _MODEL,
        Api.model_metadata,
        "Open Inference Protocol: model metadata",
        answer=schemas.OBJECT,
        errors=("401", "404"),
        aliases=(_VERSION,),
    ),
    Operation(
        "GET",
        f"{_MODEL}/ready",
        Api.model_ready,
        "Open Inference Protocol: model ready",
        answer=schemas.OBJECT,
        errors=("401", "404", "503"),
        aliases=(f"{_VERSION}/ready",),
    ),
    Operation(
        "POST",
        f"{_MODEL}/infer",
        Api.infer,
        "Open Inference Protocol: inference",
        InferBody,
        schemas.OBJECT,
        (*_ENCODE_ERRORS, "404"),
        aliases=(f"{_VERSION}/infer",),
    ),
    Operation("GET", "/", Api.page, "The page", public=True, described=False),
    Operation("GET", "/docs", _docs, "This description for people", public=True, described=False),
    Operation("GET", "/openapi.json", _openapi, "This description for programs", public=True, described=False),
)
