"""Train a tokenizer on a run's dataset and write it to `tokenizer.path`."""

from __future__ import annotations

from pathlib import Path

import click

from lengthwise.cli.common import Command, load_run, run_options


@click.command(cls=Command)
@run_options
@click.option("--overwrite", is_flag=True, help="Replace a tokenizer that is already there.")
def main(path: Path, overrides: tuple[str, ...], overwrite: bool) -> None:
    """Train a tokenizer on the dataset of the run CONFIG (a YAML file) and write it to tokenizer.path."""
    from lengthwise.steps import train_run_tokenizer

    config = load_run(path, overrides)
    tokenizer = train_run_tokenizer(config, overwrite=overwrite)
    click.echo(f"tokenizer   {config.tokenizer.path}: {tokenizer.vocab_size:,} ids, {config.tokenizer.training.model}")


if __name__ == "__main__":
    main()
