"""A fixture for the tests of other projects, which pytest loads by itself where lengthwise is installed.

    def test_vectors_do_not_depend_on_the_batch(lengthwise_audit):
        lengthwise_audit("onnx/model.onnx")

The test fails with the report where a question fails. Nothing heavy is imported before the fixture is called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from lengthwise.export.audit.answers import Audit


@pytest.fixture(scope="session")
def lengthwise_audit() -> Callable[..., Audit]:
    """`lengthwise.audit`, which fails the test where a verdict or a question of `fail_on` does."""

    def run(model: Any, *, fail_on: Sequence[str] = ("fail",), **options: Any) -> Audit:
        from lengthwise.export.audit.report import audit_to_text
        from lengthwise.export.audit.run import run_audit

        __tracebackhide__ = True
        found = run_audit(model, **options)
        try:
            return found.check(fail_on)
        except AssertionError:
            pytest.fail(audit_to_text(found), pytrace=False)

    return run
