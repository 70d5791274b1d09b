"""Train an encoder from a teacher's vectors, pairs, labels or a mixture, and write it to model.path."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lengthwise.cli.common import Command, load_run, run_options

if TYPE_CHECKING:
    from lengthwise.training.report import TrainReport


@click.command(cls=Command)
@run_options
@click.option("--overwrite", is_flag=True, help="Replace a checkpoint at model.path that another run wrote.")
@click.option("--fresh", is_flag=True, help="Begin anew; the teacher's vectors are kept.")
def main(path: Path, overrides: tuple[str, ...], overwrite: bool, fresh: bool) -> None:
    """Train an encoder as the section `train` of the run CONFIG (a YAML file) says.

    An interrupted run continues where it was when the command is repeated.
    """
    from lengthwise.training.run import train_encoder

    config = load_run(path, overrides)
    report = train_encoder(config, overwrite=overwrite, fresh=fresh)
    click.echo(summary(report))
    click.echo(f"report      {config.train.output}/report.md")


def summary(report: TrainReport) -> str:
    """The checkpoint, what it cost, and the held-out accuracy where there are classes."""
    held_out = ""
    if report.best_loss is not None:
        held_out = f"; held-out loss {report.best_loss:.4f} after step {report.best_step:,}"
    accuracies = [
        f"\naccuracy    {name}: {share:.1%} of the held-out rows; the classification layer is not in the checkpoint"
        for name, share in report.accuracies.items()
    ]
    return (
        f"checkpoint  {report.model}: {report.dim} dimensions{held_out}\n"
        f"training    {report.steps:,} steps, {report.tokens:,} tokens in {report.seconds:,.1f} s"
        f" ({report.tokens_per_second:,.0f} tokens/s), until {report.stopped}{''.join(accuracies)}"
    )


if __name__ == "__main__":
    main()
