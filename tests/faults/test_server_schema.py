"""Valid and invalid requests generated from the server's OpenAPI schema: responses conform to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from faults.form import cases
from helpers.serving import ServerProcess
from lengthwise.export.server.operations import OPERATIONS


@pytest.fixture(scope="module")
def schema(_built_artifact: Path) -> Iterator[Any]:
    import schemathesis  # here and below, since every test process reads this file

    server = ServerProcess(_built_artifact, "--model-name", "m").wait_until_ready()
    yield schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    assert server.process.poll() is None
    server.close()


VALID, INVALID = "positive", "negative"
DESCRIBED = [operation for operation in OPERATIONS if operation.described]
WITH_BODY = [operation for operation in DESCRIBED if operation.body is not None]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [
        *((each.method, each.path, VALID) for each in DESCRIBED),
        *((each.method, each.path, INVALID) for each in WITH_BODY),
    ],
)
def test_responses_conform_to_the_schema(schema: Any, method: str, path: str, mode: str) -> None:
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    every = [
        not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
        checks.negative_data_rejection,
        checks.unsupported_method,
    ]
    operation = schema[path][method.upper()]
    calls = 0

    @settings(max_examples=cases(12, 400), deadline=None, suppress_health_check=list(HealthCheck), print_blob=False)
    @given(case=operation.as_strategy(generation_mode=GenerationMode(mode)))
    def call(case: Any) -> None:
        nonlocal calls
        calls += 1
        case.call_and_validate(checks=every)

    call()
    assert calls
