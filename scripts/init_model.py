"""Write an encoder checkpoint with seeded random weights for a run's tokenizer; it is recorded as never trained."""

from __future__ import annotations

from pathlib import Path

import click

from lengthwise.cli.common import Command, load_run, run_options


@click.command(cls=Command)
@run_options
@click.option("--overwrite", is_flag=True, help="Replace a checkpoint that is already there.")
def main(path: Path, overrides: tuple[str, ...], overwrite: bool) -> None:
    """Write a checkpoint with seeded random weights, of the shape model.init, for the run CONFIG (a YAML file)."""
    from lengthwise.steps import create_run_checkpoint

    config = load_run(path, overrides)
    created = create_run_checkpoint(config, overwrite=overwrite)
    click.echo(
        f"checkpoint  {config.model.path}: {created.dim} dimensions; never trained, weights from seed {created.seed}"
    )


if __name__ == "__main__":
    main()
