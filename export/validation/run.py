"""A whole validation: open an artifact, judge runtimes chosen by name, write the report into the artifact."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from lengthwise.errors import ArtifactError, LengthwiseError
from lengthwise.export.artifact.card import model_card
from lengthwise.export.artifact.folder import CARD_FILE, VALIDATION_JSON, VALIDATION_MD, VALIDATION_PNG, Artifact
from lengthwise.export.runtimes import Runtime
from lengthwise.export.runtimes.registry import RUNTIMES
from lengthwise.export.validation.plots import draw_heat_map
from lengthwise.export.validation.records import validation_to_json
from lengthwise.export.validation.report import card_section, validation_to_markdown
from lengthwise.export.validation.validate import validate_artifact
from lengthwise.export.validation.verdict import Validation
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.tokens.tokenizer import load_tokenizer

DEFAULT, ALL = "default", "all"
MAX_LENGTH = 512  # tokens per text


def run_validation(
    folder: str | Path,
    *,
    runtimes: str | Iterable[str] = DEFAULT,
    texts: Iterable[str] | None = None,
    speed: bool = True,
    show_progress: bool = False,
) -> Validation:
    """Compare runtimes with PyTorch on every graph of an artifact, and write the report into the artifact.

    validation.json, validation.md, validation.png (if matplotlib is installed), the card and the manifest are
    written together, or none of them.

    Args:
        folder: the artifact's.
        runtimes: `default` (those that need no installation of their own), `all`, or names; see `RUNTIMES`.
        texts: real texts, compared in addition to the synthetic batches; tokenized as the artifact's texts are, and
            cut at 512 tokens.
        speed: whether to measure milliseconds per batch too.
        show_progress: whether to show progress bars.

    Raises:
        ArtifactError: there is no intact artifact, or no runtime of a name.
        StoreError: the report cannot be written.
    """
    kinds = select_runtimes(runtimes)
    artifact = Artifact.open(folder)
    tokens = None
    if texts is not None:
        tokenization = artifact.load_config().tokenization
        cut = tokenization.override(max_length=min(MAX_LENGTH, tokenization.max_length or MAX_LENGTH), truncate=True)
        tokens = tokenize_texts(list(texts), load_tokenizer(artifact.folder), cut)
    validation = validate_artifact(artifact, kinds, tokens, speed=speed, show_progress=show_progress)
    write_report(artifact, validation)
    return validation


def select_runtimes(names: str | Iterable[str] = DEFAULT) -> list[type[Runtime]]:
    """The runtimes of these names: `default`, `all`, or names in an iterable or separated by commas.

    Raises:
        ArtifactError: there is no runtime of a name.
    """
    if names == ALL:
        return list(RUNTIMES)
    if names == DEFAULT:
        return [runtime for runtime in RUNTIMES if not runtime.optional]
    by_name = {runtime.name: runtime for runtime in RUNTIMES}
    selected = [name.strip() for name in (names.split(",") if isinstance(names, str) else names)]
    unknown = [name for name in selected if name not in by_name]
    if unknown:
        raise ArtifactError(
            f"{', '.join(map(repr, unknown))}: no such runtime; choose from {', '.join(by_name)}, or default or all"
        )
    return [by_name[name] for name in selected]


def write_report(artifact: Artifact, validation: Validation) -> Artifact:
    """Write a validation's reports, its heat map and the card into its artifact.

    An older heat map is removed if matplotlib is not installed.
    """
    heat_map: bytes | None = None
    with contextlib.suppress(LengthwiseError):
        heat_map = draw_heat_map(validation)
    card = model_card(artifact.load_config(), artifact.folder, card_section(validation))
    return artifact.with_files(
        {
            VALIDATION_JSON: validation_to_json(validation),
            VALIDATION_MD: validation_to_markdown(validation, VALIDATION_PNG if heat_map else None),
            CARD_FILE: card,
            VALIDATION_PNG: heat_map,
        }
    )
