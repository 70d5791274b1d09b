"""A whole audit: open a model, ask every question of it, and rewrite its graph if that is wanted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lengthwise.errors import AuditError, ConfigError
from lengthwise.export.audit.answers import Audit
from lengthwise.export.audit.ask import audit_target
from lengthwise.export.audit.questions.registry import QUESTIONS
from lengthwise.export.audit.targets.open import make_options, open_target

QUICK_SECONDS = 6.5  # for questions, after the model is open


def run_audit(
    model: str | Path | Callable[[list[str]], Any],
    *,
    reference: str | Path | None = None,
    quick: bool = False,
    questions: Iterable[str] | None = None,
    fix: str | Path | None = None,
    show_progress: bool = False,
    **options: Any,
) -> Audit:
    """Audit a model.

    Args:
        model: an ONNX file, a folder, the URL of a server, or a function from a list of texts to vectors.
        reference: another model, in float32, that it should agree with.
        quick: ask fewer batches, and no more once a few seconds have passed.
        questions: names of `QUESTIONS`; all by default.
        fix: where a rewritten graph is written, if something fails and can be fixed.
        show_progress: whether to show a progress bar.
        options: how it is opened, see `OpenOptions`.

    Raises:
        AuditError: it cannot be opened, or is no embedding model.
        ConfigError: there is no question or option of a name.
        LengthwiseError: a library that it needs is not installed, or a file of it is damaged.
        StoreError: the rewritten graph cannot be written.
    """
    names = list(QUESTIONS) if questions is None else list(questions)
    for name in names:
        if name not in QUESTIONS:
            raise ConfigError(f"{name!r}: there is no such question; choose from {', '.join(QUESTIONS)}")
    start = time.monotonic()
    target = open_target(model, make_options(**options), quick=quick)
    compared = None if reference is None else open_target(reference, quick=quick)
    seconds = QUICK_SECONDS if quick else None
    audit = audit_target(
        target, reference=compared, quick=quick, seconds=seconds, names=names, show_progress=show_progress
    )
    if fix is not None:
        from lengthwise.export.audit.fix import fix_graph

        try:
            audit = replace(audit, fix=fix_graph(target, audit, fix))
        except AuditError as error:
            audit = replace(audit, not_fixed=str(error))
    return replace(audit, seconds=time.monotonic() - start)
