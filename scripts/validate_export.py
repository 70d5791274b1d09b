"""Compare every runtime of an artifact with PyTorch, and write the verdicts into it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from _common import Verb, load_run

if TYPE_CHECKING:
    from export.validate import Validation
    from pipeline.config import RunConfig
    from pipeline.tokens import TokenShard

TEXT_ROWS = 256


def validate(folder: Path, run: RunConfig | None, rows: int = TEXT_ROWS) -> Validation:
    """Validate, and write validation.json, validation.md and the card into the artifact."""
    from export.artifact import CARD_FILE, VALIDATION_JSON, VALIDATION_MD, Artifact
    from export.card import model_card
    from export.report import validation_to_json, validation_to_markdown
    from export.runtimes.registry import RUNTIMES
    from export.validate import validate_artifact
    from pipeline.config import CONFIG_FILE, load_encoder_config

    artifact = Artifact.open(folder)
    texts = None if run is None else first_texts(folder, run, rows)
    validation = validate_artifact(artifact, RUNTIMES, texts, show_progress=True)
    config = load_encoder_config(folder / CONFIG_FILE)
    artifact.with_files(
        {
            VALIDATION_JSON: validation_to_json(validation),
            VALIDATION_MD: validation_to_markdown(validation),
            CARD_FILE: model_card(config, folder, artifact.manifest["add_special_tokens"], validation),
        }
    )
    return validation


def first_texts(folder: Path, run: RunConfig, rows: int) -> TokenShard:
    """Ids of a dataset's first texts, cut at 512 tokens, by the artifact's tokenizer."""
    from itertools import islice

    from pipeline.dataset import open_dataset
    from pipeline.tokenizer import load_tokenizer
    from pipeline.tokens import tokenize_texts

    texts = list(islice(open_dataset(run.dataset).texts(), rows))
    return tokenize_texts(
        texts,
        load_tokenizer(folder),
        max_length=512,
        truncate=True,
        add_special_tokens=run.tokenizer.add_special_tokens,
    )


def summary(validation: Validation) -> str:
    """A line a runtime, then what the control showed."""
    from export.report import control_line

    lines = []
    for verdict in validation.verdicts:
        worst = "" if verdict.max_difference is None else f"largest difference {verdict.max_difference:.2e}"
        lines.append(
            f"{verdict.status:11} {verdict.runtime}: {worst}{'; ' if worst and verdict.reason else ''}{verdict.reason}"
        )
    return "\n".join([*lines, f"control     {control_line(validation).removeprefix('Control: ')}"])


@click.command(cls=Verb)
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--texts", "config", type=click.Path(path_type=Path), help="Also use real texts: those of this run.")
@click.option("--rows", type=click.IntRange(1), default=TEXT_ROWS, show_default=True, help="How many of them.")
@click.option("--set", "overrides", multiple=True, metavar="KEY.PATH=VALUE", help="Change one setting of --texts.")
def main(artifact: Path, config: Path | None, rows: int, overrides: tuple[str, ...]) -> None:
    """Compare the runtimes of ARTIFACT with PyTorch. Exits with 1 if any of them fails."""
    if overrides and config is None:
        raise click.UsageError("--set changes a setting of the run that --texts names; give --texts too")
    validation = validate(artifact, None if config is None else load_run(config, overrides), rows)
    click.echo(summary(validation))
    click.echo(f"report      {artifact}/validation.md")
    if not validation.passed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
