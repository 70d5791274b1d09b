"""Requests made of the server's own description, valid and not: what it answers is what the description says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from faults.form import cases
from serving import Served

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
]


@pytest.fixture(scope="module")
def described(_built_artifact: Path) -> Iterator[Any]:
    served = Served(_built_artifact, "--model-name", "m").ready()
    yield schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    assert served.process.poll() is None
    served.close()


schema = schemathesis.pytest.from_fixture("described")


@pytest.mark.slow
@schema.parametrize()
@settings(max_examples=cases(20, 500), deadline=None, suppress_health_check=list(HealthCheck), print_blob=False)
def test_answers_are_as_described(case: Any) -> None:
    case.call_and_validate(checks=CHECKS)
