"""`--fix`: a graph that passes the same audit, or the reason why there is none.

The causes that an audit names are taken away by rewrites, the new graph is audited as the old one was, and it is
written only if no question fails any more. How far it moves the vector of a text alone is measured too.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from lengthwise.errors import AuditError, StoreError
from lengthwise.export.artifact.difference import cosines
from lengthwise.export.audit.answers import Audit, Fix
from lengthwise.export.audit.ask import audit_target
from lengthwise.export.audit.inquiry import Inquiry, row_differences
from lengthwise.export.audit.questions.names import PRECISION
from lengthwise.export.audit.rewrites import REWRITES, RewrittenGraph, finish
from lengthwise.export.audit.targets.base import Target
from lengthwise.export.audit.targets.onnx_graph import OnnxTarget
from lengthwise.util.files import replace_file

_ROWS = 12


def fix_graph(target: Target, audit: Audit, output: str | Path) -> Fix:
    """Rewrite a graph so that what failed passes.

    Args:
        target: the graph that was audited.
        audit: what was found.
        output: the file to write; it replaces one that is there.

    Raises:
        AuditError: nothing fails, no rewrite is known for what fails, or the rewritten graph still fails.
        StoreError: it cannot be written.
    """
    output = Path(output)
    if not isinstance(target, OnnxTarget):
        raise AuditError(f"{target.name}: only ONNX graphs can be rewritten; this is a {target.kind}")
    if output.suffix.lower() != ".onnx":
        raise AuditError(f"{output}: a graph is written; give a name that ends in .onnx")
    if output.exists() and output.samefile(target.path):
        raise AuditError(f"{output}: is the graph that is audited; give another name")
    names = _rewrites(audit)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "fixed.onnx"
        onnx.save(_rewrite(target, names), path)
        fixed = target.reopened(path)
        names_of_questions = [answer.question for answer in audit.answers if answer.question != PRECISION]
        again = audit_target(fixed, quick=audit.quick, names=names_of_questions)
        if again.failed:
            failing = ", ".join(answer.question for answer in again.failed)
            raise AuditError(
                f"{target.name}: cannot be fixed: with {' and '.join(names)}, it still fails {failing}; nothing was"
                " written"
            )
        moved, cosine = _compare(target, fixed)
        try:
            with replace_file(output) as part:
                part.write_bytes(path.read_bytes())
        except OSError as error:
            raise StoreError(f"{output}: cannot be written ({error}); choose another path") from error
    return Fix(str(output), names, again, moved, cosine)


def _rewrites(audit: Audit) -> tuple[str, ...]:
    """The rewrites that what fails needs."""
    if not audit.failed:
        raise AuditError(f"{audit.model}: fails no question, so there is nothing to fix")
    helpless = [answer.question for answer in audit.failed if not any(cause.rewrite for cause in answer.causes)]
    if helpless:
        raise AuditError(
            f"{audit.model}: cannot be fixed: no rewrite is known for {', '.join(helpless)}; nothing was written"
        )
    found = [cause.rewrite for answer in audit.failed for cause in answer.causes if cause.rewrite]
    return tuple(dict.fromkeys(found))


def _rewrite(target: OnnxTarget, names: tuple[str, ...]) -> onnx.ModelProto:
    model = ir.from_proto(onnx.load(target.path))
    mask = next((value for value in model.graph.inputs if value.name == target.input_name("attention_mask")), None)
    graph = RewrittenGraph(model, mask)
    try:
        for name in names:
            REWRITES[name](graph)
    except AuditError as error:
        raise AuditError(f"{target.name}: cannot be fixed: {error}; nothing was written") from error
    finish(model)
    proto: onnx.ModelProto = ir.to_proto(model)
    if proto.ByteSize() >= onnx.checker.MAXIMUM_PROTOBUF:
        raise AuditError(f"{target.name}: cannot be fixed: graphs of more than 2 GB are not rewritten")
    return proto


def _compare(before: OnnxTarget, after: OnnxTarget) -> tuple[float, float]:
    inquiry = Inquiry(before)
    rows = [inquiry.row(min(1 + 2 * seed, inquiry.longest), seed=seed) for seed in range(_ROWS)]
    old, new = (np.concatenate([target.encode(row) for row in rows]) for target in (before, after))
    return float(row_differences(new, old).max()), float(cosines(new, old).min())
