"""Compare every runtime of an artifact with PyTorch, and write the verdicts into it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lengthwise.cli.common import Command, load_run

if TYPE_CHECKING:
    from lengthwise.config import RunConfig

TEXT_ROWS = 256


def first_texts(config: RunConfig, rows: int = TEXT_ROWS) -> list[str]:
    """The first texts of a run's dataset."""
    from lengthwise.data.dataset import open_dataset

    return list(islice(open_dataset(config.dataset).texts(), rows))


@click.command(cls=Command)
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option(
    "--runtimes",
    default="default",
    show_default=True,
    help="default (PyTorch, TorchScript, torch.export and onnxruntime), all, or names separated by commas.",
)
@click.option("--texts", "config", type=click.Path(path_type=Path), help="Also compare on texts of this run's dataset.")
@click.option("--rows", type=click.IntRange(1), default=TEXT_ROWS, show_default=True, help="Number of real texts.")
@click.option("--set", "overrides", multiple=True, metavar="KEY.PATH=VALUE", help="Change one setting of --texts.")
def main(artifact: Path, runtimes: str, config: Path | None, rows: int, overrides: tuple[str, ...]) -> None:
    """Compare runtimes with PyTorch on every graph of ARTIFACT.

    Exits with 1 if a runtime fails in a way that is no known limitation of it, or has no graph that passes, or if none
    ran. A cross in parentheses is a known limitation that was measured again.
    """
    if overrides and config is None:
        raise click.UsageError("--set changes a setting of the run that --texts names; give --texts too")
    from lengthwise.export.validation.report import summary
    from lengthwise.export.validation.run import run_validation

    texts = None if config is None else first_texts(load_run(config, overrides), rows)
    validation = run_validation(artifact, runtimes=runtimes, texts=texts, show_progress=True)
    click.echo(summary(validation))
    click.echo(f"report      {artifact}/validation.md")
    if not validation.passed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
