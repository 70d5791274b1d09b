"""Compare every runtime of an artifact with PyTorch, and write the verdicts into it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lengthwise.cli.common import Command, load_run

if TYPE_CHECKING:
    from lengthwise.config import RunConfig
    from lengthwise.export.artifact.folder import Artifact
    from lengthwise.export.runtimes import Runtime
    from lengthwise.export.validation.validate import Validation
    from lengthwise.tokens.ragged import RaggedTokens

TEXT_ROWS = 256


def validate(folder: Path, run: RunConfig | None, rows: int = TEXT_ROWS, runtimes: str = "default") -> Validation:
    """Validate, and write validation.json, validation.md, the picture and the card into the artifact."""
    from lengthwise.export.artifact.card import validation_files
    from lengthwise.export.artifact.folder import Artifact
    from lengthwise.export.validation.validate import validate_artifact

    artifact = Artifact.open(folder)
    texts = None if run is None else first_texts(artifact, run, rows)
    validation = validate_artifact(artifact, chosen_runtimes(runtimes), texts, speed=True, show_progress=True)
    artifact.with_files(validation_files(artifact, validation))
    return validation


def chosen_runtimes(names: str) -> list[type[Runtime]]:
    """The runtimes that --runtimes names."""
    from lengthwise.export.runtimes.registry import RUNTIMES

    if names == "all":
        return list(RUNTIMES)
    if names == "default":
        return [runtime for runtime in RUNTIMES if not runtime.optional]
    by_name = {runtime.name: runtime for runtime in RUNTIMES}
    wanted = [name.strip() for name in names.split(",")]
    unknown = [name for name in wanted if name not in by_name]
    if unknown:
        raise click.BadParameter(
            f"{', '.join(map(repr, unknown))}: no such runtime; there are {', '.join(by_name)}, and default and all",
            param_hint="--runtimes",
        )
    return [by_name[name] for name in wanted]


def first_texts(artifact: Artifact, run: RunConfig, rows: int) -> RaggedTokens:
    """Ids of a dataset's first texts, cut at 512 tokens, tokenized as the artifact says."""
    from itertools import islice

    from lengthwise.data.dataset import open_dataset
    from lengthwise.tokens.tokenize import tokenize_texts
    from lengthwise.tokens.tokenizer import load_tokenizer

    texts = list(islice(open_dataset(run.dataset).texts(), rows))
    tokenization = artifact.load_config().tokenization
    shortened = tokenization.override(max_length=min(512, tokenization.max_length or 512), truncate=True)
    return tokenize_texts(texts, load_tokenizer(artifact.folder), shortened)


def summary(validation: Validation) -> str:
    """A line a runtime, what speaks against the artifact, what the control showed, and what to deploy where."""
    from lengthwise.export.validation.report import control_line, overview

    lines = overview(validation)
    lines += [f"failed      {v.runtime}, {v.variant}: {v.reason}" for v in validation.failed]
    lines.append(f"control     {control_line(validation).removeprefix('Control: ')}")
    return "\n".join(lines)


@click.command(cls=Command)
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option(
    "--runtimes",
    default="default",
    show_default=True,
    help="Which: default (PyTorch, TorchScript, torch.export and onnxruntime), all, or names with commas between.",
)
@click.option("--texts", "config", type=click.Path(path_type=Path), help="Also use real texts: those of this run.")
@click.option("--rows", type=click.IntRange(1), default=TEXT_ROWS, show_default=True, help="How many of them.")
@click.option("--set", "overrides", multiple=True, metavar="KEY.PATH=VALUE", help="Change one setting of --texts.")
def main(artifact: Path, runtimes: str, config: Path | None, rows: int, overrides: tuple[str, ...]) -> None:
    """Compare runtimes with PyTorch on every graph of ARTIFACT.

    Exits with 1 if one fails in a way that was not known of it, or has no graph that passes, or if none ran. A cross
    in brackets was known, and measured again.
    """
    if overrides and config is None:
        raise click.UsageError("--set changes a setting of the run that --texts names; give --texts too")
    validation = validate(artifact, None if config is None else load_run(config, overrides), rows, runtimes)
    click.echo(summary(validation))
    click.echo(f"report      {artifact}/validation.md")
    if not validation.passed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
